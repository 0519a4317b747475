//! Many rows at once: read, read slowly, merged in order, copied in and out.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::account::{cpu_us, resident_kib};
use crate::raw::Raw;
use crate::report::{Report, Row};
use crate::targets::{Target, Targets};

/// Pause of a slow client after each piece that it reads.
const SLOW_PAUSE: Duration = Duration::from_millis(2);

/// Everything, on one server and on three.
pub fn run(targets: &Targets, rows: u64, rounds: usize, is_wanted: &dyn Fn(&str) -> bool, report: &mut Report) {
    let data = Arc::new(copy_data(rows));
    let direct = targets.plain("direct");
    let plain: Vec<&Target> = targets.plain.iter().collect();
    for port in [direct.port, targets.sharded.port] {
        let mut session = Raw::connect(port, "app", "app").unwrap();
        session.must("CREATE TABLE IF NOT EXISTS wide (id bigint PRIMARY KEY, name text, note text, n int)");
    }
    let everywhere = targets.named(&["direct", "pgbouncer", "ostrakon", "ostrakon, 3 shards"]);
    let ours = targets.named(&["ostrakon", "ostrakon, 3 shards"]);
    let copied = measure(&everywhere, rounds, &|target| {
        let mut session = Raw::connect(target.port, "app", "app").unwrap();
        session.set_patience(Duration::from_secs(600));
        session.must("TRUNCATE wide");
        let data = Arc::clone(&data);
        Box::new(move || {
            session.must_copy("COPY wide FROM STDIN", &data);
        })
    });
    drop(data);
    if is_wanted("copy") {
        report.table("copy of all rows in", copied);
    }
    for port in [direct.port, targets.sharded.port] {
        Raw::connect(port, "app", "app").unwrap().must("ANALYZE wide");
    }
    let reads = [
        ("stream of all rows", "SELECT * FROM wide", None, plain),
        (
            "stream of all rows, slow client",
            "SELECT * FROM wide",
            Some(SLOW_PAUSE),
            targets.named(&["pgbouncer", "ostrakon", "ostrakon, 3 shards"]),
        ),
        ("stream of all rows over shards", "SELECT * FROM wide", None, ours.clone()),
        ("copy of all rows out", "COPY wide TO STDOUT", None, everywhere),
        ("stream of all rows over shards in order", "SELECT * FROM wide ORDER BY id", None, ours.clone()),
    ];
    for (name, sql, pause, targets) in reads {
        if is_wanted(name) {
            // What a slow client takes is memory, which two rounds show.
            let rounds = if pause.is_some() { rounds.min(2) } else { rounds };
            let table = measure(&targets, rounds, &|target| {
                let port = target.port;
                Box::new(move || drain(port, sql, pause))
            });
            report.table(name, table);
        }
    }
}

/// The text form of so many rows, about 100 bytes each.
fn copy_data(rows: u64) -> Vec<u8> {
    let mut data = Vec::with_capacity(usize::try_from(rows).unwrap() * 100);
    for id in 0..rows {
        let scattered = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        writeln!(
            data,
            "{id}\tname of {scattered:016x}\tsome words that fill the row, number {scattered:020}\t{}",
            scattered >> 40
        )
        .unwrap();
    }
    data
}

type Work = Box<dyn FnOnce()>;

/// Rounds in turn; `prepare` is not measured, what it returns is.
fn measure(targets: &[&Target], rounds: usize, prepare: &dyn Fn(&Target) -> Work) -> Vec<Row> {
    let mut table: Vec<Row> = targets.iter().map(|target| Row::new(&target.name)).collect();
    for _ in 0..rounds {
        for (target, row) in targets.iter().zip(&mut table) {
            let work = prepare(target);
            let (before, at_rest) = (cpu_us(&target.pids), resident_kib(&target.pids));
            let begun = Instant::now();
            let most = watched(&target.pids, work);
            row.note("wall s", begun.elapsed().as_secs_f64());
            if !target.pids.is_empty() {
                row.note("cpu s", (cpu_us(&target.pids) - before) / 1e6);
                #[allow(clippy::cast_precision_loss)]
                {
                    row.note("most MiB", most as f64 / 1024.0);
                    row.note("more MiB", most.saturating_sub(at_rest) as f64 / 1024.0);
                }
            }
        }
    }
    table
}

/// Does the work and returns the most memory, in KiB, that was seen meanwhile.
fn watched(pids: &[u32], work: Work) -> u64 {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(resident_kib(pids));
                std::thread::sleep(Duration::from_millis(20));
            }
            most
        });
        work();
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    })
}

/// Runs a query and reads its answer without looking at it.
fn drain(port: u16, sql: &str, pause: Option<Duration>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut startup = b"\0\x03\0\0user\0app\0database\0app\0\0".to_vec();
    let length = u32::try_from(startup.len() + 4).unwrap();
    startup.splice(0..0, length.to_be_bytes());
    stream.write_all(&startup).unwrap();
    let mut frames = Frames::default();
    frames.read_to_ready(&mut stream, None);
    let mut query = vec![b'Q'];
    query.extend(u32::try_from(sql.len() + 5).unwrap().to_be_bytes());
    query.extend(sql.as_bytes());
    query.push(0);
    stream.write_all(&query).unwrap();
    frames.read_to_ready(&mut stream, pause);
    assert_eq!(frames.errors, 0, "{sql}");
    let _ = stream.write_all(&[b'X', 0, 0, 0, 4]);
}

/// Finds the ends of frames in what is read.
#[derive(Default)]
struct Frames {
    header: Vec<u8>,
    /// Bytes of the current body that are still to come.
    rest: usize,
    errors: u32,
}

impl Frames {
    fn read_to_ready(&mut self, stream: &mut TcpStream, pause: Option<Duration>) {
        let mut buffer = vec![0_u8; 256 * 1024];
        loop {
            let length = stream.read(&mut buffer).unwrap();
            assert!(length > 0, "the connection was closed");
            if self.is_ready_after(&buffer[..length]) {
                return;
            }
            if let Some(pause) = pause {
                std::thread::sleep(pause);
            }
        }
    }

    fn is_ready_after(&mut self, mut bytes: &[u8]) -> bool {
        let mut ready = false;
        while !bytes.is_empty() {
            if self.rest > 0 {
                let skipped = self.rest.min(bytes.len());
                self.rest -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let wanted = (5 - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if let [tag, a, b, c, d] = self.header[..] {
                self.rest = u32::from_be_bytes([a, b, c, d]) as usize - 4;
                self.errors += u32::from(tag == b'E');
                ready = tag == b'Z';
                self.header.clear();
            }
        }
        ready && self.rest == 0
    }
}
