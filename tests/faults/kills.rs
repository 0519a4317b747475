//! The server connection, or the client, is killed at every message of every exchange. What must follow
//! is a clean error, a usable session or a closed one: never a stuck or a shared connection.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::aftermath::{Baseline, Told, complaints, judge, use_again};
use crate::catalogue::{Exchange, Step, catalogue};
use crate::conversation::{End, Transcript, connect, converse, take_step};
use crate::frames::{Leave, Wire};
use crate::wire_proxy::{Cut, From, Plan};
use crate::world::World;

/// Places of one exchange at which it is cut, unless all are wanted.
const PLACES_MAX: usize = 16;

/// Complaints about one exchange after which the next one is tried.
const COMPLAINTS_MAX: usize = 3;

/// All cases, not a sample.
fn is_full() -> bool {
    std::env::var_os("OSTRAKON_FULL").is_some()
}

/// Whether a case is part of the sample: one of `in_all`, chosen by its name.
fn is_drawn(in_all: u64, case: &str) -> bool {
    let seed = std::env::var("OSTRAKON_SEED").unwrap_or_default();
    let hash = seed
        .bytes()
        .chain(case.bytes())
        .fold(14_695_981_039_346_656_037_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211));
    is_full() || (hash >> 20).is_multiple_of(in_all)
}

/// The places `0..count`, or the first, the last and some between.
fn places(count: usize) -> Vec<usize> {
    if is_full() || count <= PLACES_MAX {
        return (0..count).collect();
    }
    let step = count as f64 / (PLACES_MAX - 4) as f64;
    let mut places: Vec<usize> = (0..PLACES_MAX - 4).map(|n| (n as f64 * step) as usize).collect();
    places.extend([1, 2, count - 2, count - 1]);
    places.sort_unstable();
    places.dedup();
    places
}

/// The exchanges of one test, taken by workers that have a world each.
struct Work {
    exchanges: Vec<usize>,
    next: AtomicUsize,
    run: AtomicUsize,
    cases: AtomicUsize,
    complaints: Mutex<Vec<String>>,
}

impl Work {
    fn new() -> Self {
        Self::part(0, 1)
    }

    /// Every so many-th exchange: tests that stand beside each other share them out.
    fn part(number: usize, of: usize) -> Self {
        let all = catalogue(0);
        let wanted: Vec<&str> = crate::catalogue::selected(all.clone()).iter().map(|exchange| exchange.name).collect();
        let exchanges =
            (0..all.len()).filter(|place| wanted.contains(&all[*place].name)).skip(number).step_by(of).collect();
        let (next, run) = (AtomicUsize::new(0), AtomicUsize::new(100_000));
        Self { exchanges, next, run, cases: AtomicUsize::new(0), complaints: Mutex::default() }
    }

    /// Every exchange is tried by one of the workers.
    fn share(&self, workers: usize, shards: usize, pool: &str, attempt: impl Fn(&mut Worker<'_>, usize) + Sync) {
        let begun = std::time::Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..workers.min(self.exchanges.len()) {
                scope.spawn(|| {
                    let mut worker = Worker {
                        world: World::start(shards, pool),
                        work: self,
                        found: 0,
                        since: std::time::Instant::now(),
                    };
                    while let Some(place) = self.exchanges.get(self.next.fetch_add(1, Ordering::Relaxed)) {
                        worker.found = 0;
                        attempt(&mut worker, *place);
                    }
                });
            }
        });
        let complaints = self.complaints.lock().unwrap();
        println!("{} cases in {:.1?}", self.cases.load(Ordering::Relaxed), begun.elapsed());
        assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
    }
}

struct Worker<'work> {
    world: World,
    work: &'work Work,
    found: usize,
    since: std::time::Instant,
}

impl Worker<'_> {
    /// The exchange under a run's number of its own.
    fn exchange(&self, place: usize) -> (i64, Exchange) {
        let run = i64::try_from(self.work.run.fetch_add(1, Ordering::Relaxed)).unwrap();
        (run, catalogue(run).swap_remove(place))
    }

    fn is_enough(&self) -> bool {
        self.found >= COMPLAINTS_MAX
    }

    /// Notes what is wrong; the next case begins with a new process.
    fn note(&mut self, case: &str, found: &[String]) {
        self.work.cases.fetch_add(1, Ordering::Relaxed);
        if std::env::var_os("OSTRAKON_TRACE").is_some() {
            println!("{:?} {case}: {}", self.since.elapsed(), found.len());
        }
        self.since = std::time::Instant::now();
        if found.is_empty() {
            return;
        }
        self.found += 1;
        self.work.complaints.lock().unwrap().push(format!("{case}:\n    {}", found.join("\n    ")));
        self.world.restart();
    }

    /// What an undisturbed run looks like.
    fn baseline(&self, place: usize) -> Result<Baseline, String> {
        let (run, exchange) = self.exchange(place);
        let mut wire = connect(self.world.port(), &exchange).map_err(|error| error.to_string())?;
        let transcript = converse(&mut wire, &exchange);
        wire.leave(Leave::Terminate);
        match transcript.end {
            End::Stuck => Err(format!("undisturbed, it is stuck: {:?}", transcript.frames.last())),
            _ => Ok(Baseline::new(&transcript.frames, run)),
        }
    }
}

/// The conversation up to the first reply that is not as it should be: there an application stops.
fn converse_like_an_application(
    wire: &mut Wire,
    exchange: &Exchange,
    baseline: &Baseline,
    run: i64,
    mut before: impl FnMut(usize),
) -> Transcript {
    let mut transcript = Transcript { frames: Vec::new(), end: End::Done };
    for (number, step) in exchange.steps.iter().enumerate() {
        before(number);
        if let Some(end) = take_step(wire, step, &mut transcript.frames) {
            transcript.end = end;
            break;
        }
        if baseline.agreed(&transcript.frames, run) < transcript.frames.len() {
            break;
        }
    }
    let is_fatal = transcript.frames.iter().any(|frame| frame.tag == b'E' && frame.field(b'S') == "FATAL");
    if is_fatal && transcript.end == End::Done {
        let (rest, last) = wire.hear_until(crate::conversation::PATIENCE, |_| false);
        transcript.frames.extend(rest);
        transcript.end = if last == crate::frames::Heard::Closed { End::Closed } else { End::Stuck };
    }
    transcript
}

/// What follows once the fault has happened.
fn finish(
    worker: &mut Worker<'_>,
    wire: Option<Wire>,
    exchange: &Exchange,
    baseline: &Baseline,
    seen: (&Transcript, i64),
) -> Vec<String> {
    let (transcript, run) = seen;
    let (told, mut found) = judge(baseline, exchange, transcript, run);
    if let Some(mut wire) = wire {
        if transcript.end == End::Done && found.is_empty() {
            found.extend(use_again(&mut wire, baseline, run).err());
        }
        wire.leave(Leave::Close);
    }
    found.extend(complaints(&mut worker.world, exchange.writes, run, told));
    found
}

/// One case: the server connection is cut as planned while the exchange runs.
fn cut_server(worker: &mut Worker<'_>, place: usize, tap: usize, plan: Plan, baseline: &Baseline) {
    let (run, exchange) = worker.exchange(place);
    worker.world.taps[tap].arm(plan);
    let case = format!("{} | shard {tap}, {plan:?}", exchange.name);
    let found = match connect(worker.world.port(), &exchange) {
        Ok(mut wire) => {
            let transcript = converse_like_an_application(&mut wire, &exchange, baseline, run, |_| {});
            worker.world.taps[tap].disarm();
            finish(worker, Some(wire), &exchange, baseline, (&transcript, run))
        }
        // The server connection broke while the session was opened.
        Err(error) if error.to_string().starts_with("08006") || error.to_string().starts_with("57P0") => {
            worker.world.taps[tap].disarm();
            complaints(&mut worker.world, exchange.writes, run, Told::Failed)
        }
        Err(error) => vec![format!("no session: {error}")],
    };
    worker.world.taps[tap].disarm();
    worker.note(&case, &found);
}

/// Over several shards a message's statements run up to the one that is wrong when the shard that was asked
/// about it is lost; all of them are rolled back. The replies then differ from an undisturbed run.
const ASKED_FIRST: &str = "simple: syntax error among several";

fn cut_server_everywhere(worker: &mut Worker<'_>, place: usize) {
    if worker.world.taps.len() > 1 && catalogue(0)[place].name == ASKED_FIRST {
        return;
    }
    let baseline = match worker.baseline(place) {
        Ok(baseline) => baseline,
        // A session that several shards refuse to open has nothing to be cut.
        Err(text) if text.starts_with("0A000") => return,
        Err(text) => {
            let name = worker.exchange(place).1.name;
            return worker.note(name, &[text]);
        }
    };
    // Counted on a second run: by now the statements are prepared, as they will be.
    worker.world.taps.iter().for_each(|tap| tap.watch());
    let (_, exchange) = worker.exchange(place);
    if let Ok(mut wire) = connect(worker.world.port(), &exchange) {
        converse(&mut wire, &exchange);
        wire.leave(Leave::Terminate);
    }
    let counts: Vec<[usize; 2]> =
        worker.world.taps.iter().map(|tap| [tap.seen(From::Server), tap.seen(From::Client)]).collect();
    let _ = complaints(&mut worker.world, None, 0, Told::Nothing);
    for (tap, count) in counts.into_iter().enumerate() {
        let ways = [
            (From::Server, Cut::Close, 1),
            (From::Client, Cut::Close, 2),
            (From::Server, Cut::Reset, 4),
            (From::Server, Cut::HalfFrame, 4),
            (From::Server, Cut::Freeze, 12),
            (From::Client, Cut::Reset, 8),
            (From::Client, Cut::HalfFrame, 8),
        ];
        for (from, cut, in_all) in ways {
            for after in places(count[from as usize]) {
                let plan = Plan { from, after, cut, login: false };
                let slow = if exchange.is_slow { 6 } else { 1 };
                if !worker.is_enough() && is_drawn(in_all * slow, &format!("{} {tap} {plan:?}", exchange.name)) {
                    cut_server(worker, place, tap, plan, &baseline);
                }
            }
        }
    }
}

/// Sends so many messages, waiting as the exchange says, and leaves.
fn leave_after(wire: &mut Wire, exchange: &Exchange, messages: usize, half: bool) -> Transcript {
    let mut left = messages;
    let mut transcript = Transcript { frames: Vec::new(), end: End::Done };
    for step in &exchange.steps {
        if let Step::Send(frames) = step
            && frames.len() > left
        {
            let _ = wire.send_frames(&frames[..left]);
            if half {
                let bytes = frames[left].bytes();
                let _ = wire.send(&bytes[..bytes.len() / 2]);
            }
            return transcript;
        }
        if let Step::Send(frames) = step {
            left -= frames.len();
            if left == 0 && !half {
                let _ = wire.send_frames(frames);
                return transcript;
            }
        }
        if let Some(end) = take_step(wire, step, &mut transcript.frames) {
            transcript.end = end;
            return transcript;
        }
    }
    transcript
}

fn kill_client_everywhere(worker: &mut Worker<'_>, place: usize) {
    let (_, exchange) = worker.exchange(place);
    let name = exchange.name;
    // A session that several shards refuse to open has nothing to leave.
    if worker.world.taps.len() > 1 && connect(worker.world.port(), &exchange).is_err() {
        return;
    }
    let ways =
        [(Leave::Close, false, 1), (Leave::Close, true, 2), (Leave::Reset, false, 3), (Leave::Terminate, false, 4)];
    for (how, half, in_all) in ways {
        for messages in places(exchange.messages() + usize::from(!half)) {
            let case = format!("{name} | leaves after {messages} messages, {how:?}, half of the next: {half}");
            let slow = if exchange.is_slow { 3 } else { 1 };
            if worker.is_enough() || !is_drawn(in_all * slow, &case) {
                continue;
            }
            let (run, exchange) = worker.exchange(place);
            let mut found = Vec::new();
            match connect(worker.world.port(), &exchange) {
                Ok(mut wire) => {
                    let transcript = leave_after(&mut wire, &exchange, messages, half);
                    if transcript.end == End::Stuck {
                        found.push(format!("stuck: {:?}", transcript.frames.last()));
                    }
                    wire.leave(how);
                    let acknowledged = exchange.writes.is_some_and(|writes| transcript.readies() >= writes.ready);
                    let told = if acknowledged { Told::Done } else { Told::Nothing };
                    found.extend(complaints(&mut worker.world, exchange.writes, run, told));
                }
                Err(error) => found.push(format!("no session: {error}")),
            }
            worker.note(&case, &found);
        }
    }
}

/// The application's backends end, as an operator ends them.
const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE usename = 'app'";

fn terminate_everywhere(worker: &mut Worker<'_>, place: usize) {
    let Ok(baseline) = worker.baseline(place) else { return };
    let _ = complaints(&mut worker.world, None, 0, Told::Nothing);
    let (_, exchange) = worker.exchange(place);
    for (at, step) in exchange.steps.iter().enumerate() {
        // While an answer is under way (only where it takes its time), and between two messages.
        let is_meant = matches!(step, Step::Send(_)) || exchange.is_slow;
        if !is_meant || worker.is_enough() {
            continue;
        }
        let (run, exchange) = worker.exchange(place);
        let case = format!("{} | its backends are terminated before step {at}", exchange.name);
        let found = match connect(worker.world.port(), &exchange) {
            Ok(mut wire) => {
                let world = &mut worker.world;
                let transcript = converse_like_an_application(&mut wire, &exchange, &baseline, run, |step| {
                    if step == at {
                        world.each(TERMINATE);
                    }
                });
                finish(worker, Some(wire), &exchange, &baseline, (&transcript, run))
            }
            Err(error) => vec![format!("no session: {error}")],
        };
        worker.note(&case, &found);
    }
}

const POOL: &str = "size = 1\ncheckout_timeout_ms = 6000";

#[test]
fn one_shard_survives_a_server_connection_cut_at_any_message() {
    Work::new().share(2, 1, POOL, cut_server_everywhere);
}

/// Two shards, in parts that are tests of their own: each is over within two minutes (nextest ends it after ten).
mod two_shards_survive_a_server_connection_cut_at_any_message {
    use super::{POOL, Work, cut_server_everywhere};

    const PARTS: usize = 8;

    fn part(number: usize) {
        Work::part(number, PARTS).share(2, 2, POOL, cut_server_everywhere);
    }

    macro_rules! parts {
        ($($name:ident $number:literal)*) => {
            $(
                #[test]
                #[ignore = "run by make faults: all parts together take minutes"]
                fn $name() {
                    part($number);
                }
            )*
            /// No exchange is left out.
            const _: () = assert!([$($number),*].len() == PARTS);
        };
    }

    parts!(part_1 0 part_2 1 part_3 2 part_4 3 part_5 4 part_6 5 part_7 6 part_8 7);
}

#[test]
fn one_shard_survives_a_client_that_leaves_at_any_message() {
    Work::new().share(2, 1, POOL, kill_client_everywhere);
}

#[test]
fn two_shards_survive_a_client_that_leaves_at_any_message() {
    Work::new().share(2, 2, POOL, kill_client_everywhere);
}

#[test]
fn one_shard_survives_terminated_backends_at_any_step() {
    Work::new().share(2, 1, POOL, terminate_everywhere);
}

#[test]
fn two_shards_survive_terminated_backends_at_any_step() {
    Work::new().share(2, 2, POOL, terminate_everywhere);
}

/// A server connection that breaks while it is opened: the next one is tried or the client is told.
#[test]
fn one_shard_survives_a_server_connection_cut_while_it_is_opened() {
    let work = Work::new();
    let mut worker = Worker { world: World::start(1, POOL), work: &work, found: 0, since: std::time::Instant::now() };
    for cut in [Cut::Close, Cut::Reset, Cut::HalfFrame, Cut::Freeze] {
        for after in 0..20 {
            let world = &mut worker.world;
            world.taps[0].cut_all();
            let gone = crate::cluster::eventually(std::time::Duration::from_secs(5), || world.taps[0].open() == 0);
            assert!(gone, "connections stay open");
            world.taps[0].arm(Plan { from: From::Server, after, cut, login: true });
            let case = format!("login | cut behind {after} frames, {cut:?}");
            let mut found = Vec::new();
            match Wire::app(world.port(), "app") {
                Ok(mut wire) => found.extend(use_again(&mut wire, &Baseline::new(&[], 1), 1).err()),
                Err(error) if ["08006", "57P0"].iter().any(|code| error.to_string().starts_with(code)) => {}
                Err(error) => found.push(format!("not a clean error: {error}")),
            }
            world.taps[0].disarm();
            // The pool pauses behind a failure to connect.
            let port = world.port();
            crate::cluster::eventually(std::time::Duration::from_secs(10), || Wire::app(port, "app").is_ok());
            found.extend(complaints(world, None, 1, Told::Nothing));
            worker.note(&case, &found);
        }
    }
    let complaints = work.complaints.lock().unwrap();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}
