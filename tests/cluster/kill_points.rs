//! The proxy dies by `kill -9` at every step of two-phase commit and of recovery, while writers move money.
//!
//! Nothing in the product knows of these kill points. A relay stands before each shard, recognises the
//! statement that makes a step, and kills the proxy before the server gets it, while the server works on it, when
//! the answer is there but not passed on, or just after it was passed on. So every state that shards and proxy can
//! be in between two messages is met. With `OSTRAKON_FULL=1` it goes on for ten minutes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::atomicity::{TABLES, complaints, create, read, summary, write_while};
use crate::cluster::{Cluster, Server, eventually, signal};

const WRITERS: u64 = 16;
/// Transfers that are acknowledged between two deaths.
const AT_PEACE: usize = 20;
/// What was in doubt when the proxy died has to be settled so long after the next one serves.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
/// How long the writers may take to come to a step.
const STEP_PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Write,
    Prepare,
    Decide,
    CommitPrepared,
    RollbackPrepared,
    /// Recovery forces a decision.
    Resolve,
}

impl Step {
    const MARKS: [(Self, &'static str); 6] = [
        (Self::Write, "UPDATE accounts"),
        (Self::Prepare, "PREPARE TRANSACTION"),
        (Self::CommitPrepared, "COMMIT PREPARED"),
        (Self::RollbackPrepared, "ROLLBACK PREPARED"),
        (Self::Decide, "', 'c')"),
        (Self::Resolve, "', 'a') ON CONFLICT"),
    ];

    fn of(sql: &[u8]) -> Option<Self> {
        let has = |mark: &str| sql.windows(mark.len()).any(|window| window == mark.as_bytes());
        Self::MARKS.into_iter().find(|(_, mark)| has(mark)).map(|(step, _)| step)
    }
}

/// When, seen from the server, the proxy dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    NotSent,
    Sent,
    Answered,
    Delivered,
}

const EDGES: [Edge; 4] = [Edge::NotSent, Edge::Sent, Edge::Answered, Edge::Delivered];

type Point = (Step, Edge);

/// Shared by the relays of all shards.
#[derive(Default)]
struct Trigger {
    proxy: AtomicU32,
    armed: Mutex<Option<Point>>,
    fired: Condvar,
}

impl Trigger {
    fn arm(&self, point: Point) {
        *self.armed.lock().unwrap() = Some(point);
    }

    /// Kills the proxy if this is the point; exactly one caller does.
    fn strike(&self, point: Point) -> bool {
        let mut armed = self.armed.lock().unwrap();
        if *armed != Some(point) {
            return false;
        }
        signal(self.proxy.load(Ordering::SeqCst), Signal::SIGKILL);
        *armed = None;
        self.fired.notify_all();
        true
    }

    /// Waits for the strike; says whether it came, and disarms.
    fn wait(&self) -> bool {
        let armed = self.armed.lock().unwrap();
        let (mut armed, late) = self.fired.wait_timeout_while(armed, STEP_PATIENCE, |armed| armed.is_some()).unwrap();
        *armed = None;
        !late.timed_out()
    }
}

/// Listens before a server's port; ends with the test's process.
fn relay_before(server: u16, trigger: &Arc<Trigger>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let trigger = Arc::clone(trigger);
    std::thread::spawn(move || {
        for proxy in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
            let _ = (proxy.set_nodelay(true), server.set_nodelay(true));
            let link = Arc::new(Link { proxy, server, doing: Mutex::new(None), trigger: Arc::clone(&trigger) });
            let back = Arc::clone(&link);
            std::thread::spawn(move || link.run(|link| link.forth()));
            std::thread::spawn(move || back.run(|link| link.back()));
        }
    });
    port
}

struct Link {
    proxy: TcpStream,
    server: TcpStream,
    /// The step the server works on.
    doing: Mutex<Option<Step>>,
    trigger: Arc<Trigger>,
}

impl Link {
    fn run(&self, direction: impl FnOnce(&Self) -> io::Result<()>) {
        let _ = direction(self);
        let _ = (self.proxy.shutdown(Shutdown::Both), self.server.shutdown(Shutdown::Both));
    }

    /// From the proxy to the server, frame by frame after the startup packet.
    fn forth(&self) -> io::Result<()> {
        let (mut from, mut to) = (&self.proxy, &self.server);
        // No encryption here: the relay says so itself, as the server behind it would.
        let startup = loop {
            let mut head = [0_u8; 4];
            from.read_exact(&mut head)?;
            let mut rest = vec![0; (u32::from_be_bytes(head) as usize).saturating_sub(4)];
            from.read_exact(&mut rest)?;
            if !rest.starts_with(&80_877_103_u32.to_be_bytes()) {
                break [&head, rest.as_slice()].concat();
            }
            from.write_all(b"N")?;
        };
        to.write_all(&startup)?;
        loop {
            let mut head = [0_u8; 5];
            from.read_exact(&mut head)?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let mut body = vec![0; length.saturating_sub(4)];
            from.read_exact(&mut body)?;
            let step = if matches!(head[0], b'Q' | b'P') { Step::of(&body) } else { None };
            if let Some(step) = step {
                if self.trigger.strike((step, Edge::NotSent)) {
                    return Ok(());
                }
                *self.doing.lock().unwrap() = Some(step);
            }
            to.write_all(&[&head, body.as_slice()].concat())?;
            if let Some(step) = step {
                self.trigger.strike((step, Edge::Sent));
            }
        }
    }

    /// From the server to the proxy; what arrives while a step is done is its answer.
    fn back(&self) -> io::Result<()> {
        let (mut from, mut to) = (&self.server, &self.proxy);
        let mut chunk = vec![0; 65_536];
        loop {
            let read = from.read(&mut chunk)?;
            if read == 0 {
                return Ok(());
            }
            let step = self.doing.lock().unwrap().take();
            if step.is_some_and(|step| self.trigger.strike((step, Edge::Answered))) {
                return Ok(());
            }
            to.write_all(&chunk[..read])?;
            if let Some(step) = step {
                self.trigger.strike((step, Edge::Delivered));
            }
        }
    }
}

/// Names of the prepared transactions on all shards.
fn in_doubt(shards: &[Server]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for shard in shards {
        found.extend(
            shard
                .superuser()
                .must("SELECT gid FROM pg_prepared_xacts")
                .texts()
                .into_iter()
                .map(|mut row| row.remove(0)),
        );
    }
    found
}

/// What is killed, in turn; a recovery's own steps need something in doubt first.
fn schedule() -> Vec<(Point, Option<Point>)> {
    let mut points = Vec::new();
    for edge in EDGES {
        for step in [Step::Write, Step::Prepare, Step::Decide, Step::CommitPrepared] {
            points.push(((step, edge), None));
        }
        points.push(((Step::Prepare, Edge::Answered), Some((Step::Resolve, edge))));
        points.push(((Step::Prepare, Edge::Answered), Some((Step::RollbackPrepared, edge))));
        points.push(((Step::Decide, Edge::Answered), Some((Step::CommitPrepared, edge))));
    }
    points
}

struct Siege {
    cluster: Cluster,
    trigger: Arc<Trigger>,
    struck: BTreeMap<Point, usize>,
    /// Prepared transactions that a dead proxy left and the next one settled.
    settled: usize,
    missed: usize,
}

impl Siege {
    /// Lets the proxy die at this point; in the first case writers come to it, else recovery does.
    fn kill_at(&mut self, point: Point) -> bool {
        let came = self.trigger.wait();
        if came {
            *self.struck.entry(point).or_default() += 1;
        } else {
            self.missed += 1;
        }
        self.cluster.kill_proxy();
        came
    }

    /// One proxy's death and its successor, which may die while it recovers.
    fn round(&mut self, first: Point, second: Option<Point>) {
        self.trigger.arm(first);
        self.kill_at(first);
        if let Some(point) = second {
            self.trigger.arm(point);
            self.launch();
            self.kill_at(point);
        }
        let doubtful = in_doubt(&self.cluster.shards);
        self.launch();
        self.cluster.await_proxy().unwrap();
        let is_settled = eventually(SETTLED_WITHIN, || in_doubt(&self.cluster.shards).is_disjoint(&doubtful));
        assert!(is_settled, "after {first:?} and {second:?} still in doubt: {doubtful:?}");
        self.settled += doubtful.len();
    }

    fn launch(&mut self) {
        let pid = self.cluster.launch_proxy();
        self.trigger.proxy.store(pid, Ordering::SeqCst);
    }
}

#[test]
fn transfers_are_whole_wherever_the_proxy_dies() {
    let is_full = std::env::var_os("OSTRAKON_FULL").is_some();
    let end = Instant::now() + Duration::from_secs(600);
    let trigger = Arc::new(Trigger::default());
    let cluster = Cluster::without_proxy(3, &TABLES);
    let mut config = std::fs::read_to_string(cluster.config()).unwrap();
    for shard in &cluster.shards {
        let port = relay_before(shard.port, &trigger);
        config = config.replace(&format!("port = {}\n", shard.port), &format!("port = {port}\n"));
    }
    std::fs::write(cluster.config(), config).unwrap();
    let mut siege = Siege { cluster, trigger, struck: BTreeMap::new(), settled: 0, missed: 0 };
    siege.launch();
    siege.cluster.await_proxy().unwrap();
    create(&mut siege.cluster.app());
    let schedule = schedule();
    let mut rounds = 0;
    let told = write_while(siege.cluster.port, WRITERS, |writers| {
        for (first, second) in schedule.iter().cycle() {
            let wanted = writers.acknowledged() + AT_PEACE;
            eventually(STEP_PATIENCE, || writers.acknowledged() >= wanted);
            siege.round(*first, *second);
            rounds += 1;
            if rounds >= schedule.len() && (!is_full || Instant::now() > end) {
                break;
            }
        }
    });
    let record = read(&siege.cluster.shards, told);
    println!("{rounds} rounds, {} settled, {} missed; {}", siege.settled, siege.missed, summary(&record));
    println!("{:?}", siege.struck);
    assert_eq!(complaints(&record), Vec::<String>::new(), "{}", summary(&record));
    assert!(
        record.ledger.len() > 2 * AT_PEACE * schedule.len(),
        "too few transfers to mean anything: {}",
        summary(&record)
    );
    assert!(siege.settled > 0, "nothing was ever in doubt");
    for (first, second) in &schedule {
        for point in [Some(*first), *second].into_iter().flatten() {
            assert!(siege.struck.contains_key(&point), "never died at {point:?}");
        }
    }
}
