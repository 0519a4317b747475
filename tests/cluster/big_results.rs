//! A merge of many rows holds few of them: memory of the proxy, and the first row before the shards are done.
//!
//! 3 shards of 20,000 rows of 400 bytes; with `OSTRAKON_FULL=1` of 1,000,000 rows of 40 bytes.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use crate::cluster::{Cluster, Placement};

/// What the proxy may hold for one result, above what it holds without.
const MEMORY_KIB_MAX: u64 = 64 * 1_024;

/// A client that reads a row at a time.
struct Slow {
    stream: BufReader<TcpStream>,
}

impl Slow {
    fn connect(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut body = 196_608_i32.to_be_bytes().to_vec();
        body.extend_from_slice(b"user\0app\0database\0app\0\0");
        let mut message = i32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
        message.extend_from_slice(&body);
        stream.write_all(&message).unwrap();
        let mut slow = Self { stream: BufReader::with_capacity(1 << 16, stream) };
        while slow.frame().0 != b'Z' {}
        slow
    }

    fn query(&mut self, sql: &str) {
        let mut message = vec![b'Q'];
        message.extend_from_slice(&i32::try_from(sql.len() + 5).unwrap().to_be_bytes());
        message.extend_from_slice(sql.as_bytes());
        message.push(0);
        self.stream.get_mut().write_all(&message).unwrap();
    }

    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).unwrap();
        let length = i32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        self.stream.read_exact(&mut body).unwrap();
        assert_ne!(head[0], b'E', "{}", String::from_utf8_lossy(&body));
        (head[0], body)
    }

    /// The first column of the next row, a number; `None` at the end.
    fn row(&mut self) -> Option<i64> {
        loop {
            match self.frame() {
                (b'D', body) => {
                    let length = usize::try_from(i32::from_be_bytes(body[2..6].try_into().unwrap())).unwrap();
                    return Some(std::str::from_utf8(&body[6..6 + length]).unwrap().parse().unwrap());
                }
                (b'Z', _) => return None,
                _ => {}
            }
        }
    }

    /// Reads the rest of a sorted answer: the number of its rows.
    fn count_sorted(&mut self, mut before: i64) -> usize {
        let mut count = 0;
        while let Some(value) = self.row() {
            assert!(value >= before, "{value} comes after {before}");
            (before, count) = (value, count + 1);
        }
        count
    }
}

fn status_kib(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The most that the proxy held while `run` ran, above what it held before.
fn peak_kib(pid: u32, run: impl FnOnce()) -> u64 {
    // Sets the peak back to what is held now (proc(5), clear_refs).
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    let before = status_kib(pid, "VmRSS:");
    run();
    status_kib(pid, "VmHWM:").saturating_sub(before)
}

#[test]
fn a_sorted_result_streams_through_little_memory() {
    let is_full = std::env::var_os("OSTRAKON_FULL").is_some();
    let (rows, width) = if is_full { (3_000_000, 40) } else { (60_000, 400) };
    let cluster = Cluster::start(3, &[("big", Placement::Key(&["id"]))]);
    let mut app = cluster.app();
    app.set_patience(std::time::Duration::from_secs(300));
    app.must("CREATE TABLE big (id bigint PRIMARY KEY, value bigint NOT NULL, pad text NOT NULL)");
    let pad = "x".repeat(width);
    for chunk in (0..rows).step_by(100_000) {
        let lines: String = (chunk..rows.min(chunk + 100_000))
            .map(|id| format!("{id}\t{}\t{pad}\n", (id * 2_654_435_761) % 4_294_967_296_u64))
            .collect();
        app.must_copy("COPY big FROM STDIN", lines.as_bytes());
    }
    let pid = cluster.proxy.as_ref().unwrap().pid();
    let mut slow = Slow::connect(cluster.port);

    let limited = peak_kib(pid, || {
        slow.query("SELECT value, pad FROM big ORDER BY value, id LIMIT 10");
        assert_eq!(slow.count_sorted(0), 10);
    });
    let mut working = 0;
    let whole = peak_kib(pid, || {
        slow.query("SELECT value, pad FROM big ORDER BY value, id");
        let first = slow.row().unwrap();
        working = cluster
            .shards
            .iter()
            .filter(|shard| {
                let active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%ORDER BY value, id%' \
                    AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
                shard.superuser().must(active).value() == "1"
            })
            .count();
        assert_eq!(slow.count_sorted(first), rows as usize - 1);
    });
    println!(
        "{rows} rows: {limited} KiB with LIMIT 10, {whole} KiB without, {working} shards at work at the first row, {} KiB in all",
        status_kib(pid, "VmHWM:")
    );
    assert!(limited < MEMORY_KIB_MAX && whole < MEMORY_KIB_MAX, "{limited} {whole}");
    if is_full {
        assert_eq!(working, 3, "the first row came only after the shards were done");
        let refused = app.simple("SELECT count(*) FROM big a JOIN big b ON b.pad = a.value::text").unwrap();
        assert_eq!(refused.sqlstate(), "54000");
        assert_eq!(app.must("SELECT count(*) + 1 FROM big").value(), (rows + 1).to_string());
    }
}
