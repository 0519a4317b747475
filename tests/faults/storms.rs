//! Storms of cancel requests at random moments: a key reaches only its own session's running work,
//! whoever has the connection next; and the proxy lives on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::aftermath::look_around;
use crate::conversation::PATIENCE;
use crate::frames::{CancelKey, Frame, Heard, Leave, Wire, bind, execute, parse, query, sync};
use crate::world::{World, rows};

/// Sessions whose keys nobody knows, and sessions that are cancelled all the time.
const UNTOUCHED: u64 = 5;
const VICTIMS: u64 = 5;
const CANCELLERS: u64 = 3;

/// What a session makes of the answer to its own question.
fn wrong_answer(frames: &[Frame], nonce: &str, may_be_cancelled: bool) -> Option<String> {
    let errors: Vec<String> = frames.iter().filter(|frame| frame.tag == b'E').map(|frame| frame.field(b'C')).collect();
    let answers = rows(frames);
    match (errors.as_slice(), answers.as_slice()) {
        ([], [row]) if row[0] == nonce => None,
        ([code], []) if code == "57014" && may_be_cancelled => None,
        _ => Some(format!("asked for {nonce}: {frames:?}")),
    }
}

struct Storm {
    port: u16,
    stop: AtomicBool,
    keys: Mutex<Vec<CancelKey>>,
    asked: AtomicU64,
    cancelled: AtomicU64,
    sent: AtomicU64,
    found: Mutex<Vec<String>>,
}

impl Storm {
    fn note(&self, text: String) {
        self.found.lock().unwrap().push(text);
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Asks questions that take a moment, by both protocols, in and out of transactions.
    fn ask(&self, number: u64, is_victim: bool) {
        let mut wire = Wire::app(self.port, "app").unwrap();
        if is_victim {
            self.keys.lock().unwrap().push(wire.cancel_key());
        }
        let mut round = 0;
        while !self.stop.load(Ordering::Relaxed) {
            round += 1;
            let nonce = format!("{number}-{round}");
            let sql = format!("SELECT '{nonce}', pg_sleep(0.0{})", (number + round) % 4);
            let frames = match round % 3 {
                0 => vec![parse("", &sql, &[]), bind("", "", &[]), execute("", 0), sync()],
                1 => vec![query(&sql)],
                _ => vec![query("BEGIN"), query(&sql), query("ROLLBACK")],
            };
            let readies = if round % 3 == 2 { 3 } else { 1 };
            let _ = wire.send_frames(&frames);
            let mut left = readies;
            let (heard, last) = wire.hear_until(PATIENCE, |frame| {
                left -= usize::from(frame.tag == b'Z');
                left == 0
            });
            if !matches!(last, Heard::Frame(_)) {
                return self.note(format!("{last:?} after {heard:?}"));
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
            // BEGIN can be what is cancelled, too; then there is no transaction to speak of.
            let was_cancelled = heard.iter().any(|frame| frame.tag == b'E' && frame.field(b'C') == "57014");
            self.cancelled.fetch_add(u64::from(was_cancelled), Ordering::Relaxed);
            let is_fine = is_victim && was_cancelled && rows(&heard).iter().all(|row| row[0] == nonce);
            if let Some(text) = wrong_answer(&heard, &nonce, is_victim).filter(|_| !is_fine) {
                return self.note(text);
            }
            // ROLLBACK can be what is cancelled; it is said again, as on one server.
            let mut status = status_of(&last);
            for _ in 0..10 {
                if !is_victim || status == b'I' {
                    break;
                }
                let _ = wire.send_frames(&[query("ROLLBACK")]);
                status = status_of(&wire.hear_until(PATIENCE, |frame| frame.tag == b'Z').1);
            }
        }
        wire.leave(Leave::Terminate);
    }

    /// Cancels whoever it knows, now and then with a key that is not quite right.
    fn cancel(&self, seed: u64) {
        let mut state = seed;
        while !self.stop.load(Ordering::Relaxed) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let keys = self.keys.lock().unwrap().clone();
            let Some(key) = keys.get((state >> 33) as usize % keys.len().max(1)) else { continue };
            let mut key = key.clone();
            match (state >> 20) % 8 {
                0 => key.secret[0] ^= 1,
                1 => key.process = key.process.wrapping_add(1 + (state >> 40) as u32 % 9),
                2 => key.process = (state >> 32) as u32 % 100_000,
                _ => {}
            }
            match key.cancel() {
                Ok(()) => self.sent.fetch_add(1, Ordering::Relaxed),
                Err(error) => return self.note(format!("a cancel request: {error}")),
            };
            std::thread::sleep(Duration::from_millis((state >> 50) % 16));
        }
    }
}

/// The transaction's status, when a ReadyForQuery was heard.
fn status_of(last: &Heard) -> u8 {
    match last {
        Heard::Frame(frame) => frame.body.first().copied().unwrap_or(b'I'),
        _ => b'I',
    }
}

fn storm(mut world: World) {
    let length = Duration::from_secs(if std::env::var_os("OSTRAKON_FULL").is_some() { 30 } else { 4 });
    let storm = Storm {
        port: world.port(),
        stop: AtomicBool::new(false),
        keys: Mutex::default(),
        asked: AtomicU64::new(0),
        cancelled: AtomicU64::new(0),
        sent: AtomicU64::new(0),
        found: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for number in 0..UNTOUCHED + VICTIMS {
            let storm = &storm;
            scope.spawn(move || storm.ask(number, number >= UNTOUCHED));
        }
        for seed in 1..=CANCELLERS {
            let storm = &storm;
            scope.spawn(move || storm.cancel(seed));
        }
        let end = Instant::now() + length;
        while Instant::now() < end && !storm.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        storm.stop.store(true, Ordering::Relaxed);
    });
    let count = |value: &AtomicU64| value.load(Ordering::Relaxed);
    let summary = format!(
        "{} questions, {} cancel requests, {} cancelled",
        count(&storm.asked),
        count(&storm.sent),
        count(&storm.cancelled)
    );
    println!("{summary}");
    let found = storm.found.into_inner().unwrap();
    assert!(found.is_empty(), "{summary}\n{}", found.join("\n"));
    assert!(count(&storm.cancelled) > 5 && count(&storm.asked) > 100, "too little to mean anything: {summary}");
    assert_eq!(look_around(&world, 1).unwrap(), world.first_look);
    assert_eq!(world.idles(), None);
}

#[test]
fn cancel_storms_reach_only_their_own_sessions_on_one_shard() {
    storm(World::start(1, "size = 2"));
}

#[test]
fn cancel_storms_reach_only_their_own_sessions_on_two_shards() {
    storm(World::start(2, "size = 2"));
}

#[test]
fn cancel_storms_reach_only_their_own_sessions_in_session_mode() {
    storm(World::start(1, "size = 14\nmode = \"session\""));
}

#[test]
fn a_session_that_waits_for_a_connection_is_cancelled_at_once() {
    let world = World::start(1, "size = 1\ncheckout_timeout_ms = 9000");
    let mut holder = Wire::app(world.port(), "app").unwrap();
    let mut waiter = Wire::app(world.port(), "app").unwrap();
    // BEGIN alone holds no connection.
    holder.simple("BEGIN; SELECT 1").unwrap();
    waiter.send_frames(&[query("SELECT 1")]).unwrap();
    let (early, _) = waiter.hear_until(Duration::from_millis(200), |_| true);
    assert!(early.is_empty(), "{early:?}");
    waiter.cancel_key().cancel().unwrap();
    let (told, _) = waiter.hear_until(Duration::from_secs(2), |frame| frame.tag == b'Z');
    assert_eq!(told.first().map(|frame| frame.field(b'C')).as_deref(), Some("57014"), "{told:?}");
    holder.simple("ROLLBACK").unwrap();
    assert_eq!(rows(&waiter.simple("SELECT 'on'").unwrap()), [["on"]]);
}

#[test]
fn another_sessions_row_and_a_stray_cancel_are_seen_by_the_checker() {
    let row = |text: &str| {
        let mut body = vec![0, 1];
        body.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
        body.extend_from_slice(text.as_bytes());
        Frame::new(b'D', body)
    };
    let cancelled = Frame::new(b'E', b"C57014\0\0".to_vec());
    assert_eq!(wrong_answer(&[row("1-1")], "1-1", false), None);
    assert_eq!(wrong_answer(std::slice::from_ref(&cancelled), "1-1", true), None);
    assert!(wrong_answer(&[row("2-1")], "1-1", true).is_some(), "the row of another session");
    assert!(wrong_answer(&[row("1-1"), row("1-1")], "1-1", true).is_some(), "a row too many");
    assert!(wrong_answer(&[cancelled], "1-1", false).is_some(), "an untouched session is cancelled");
    assert!(wrong_answer(&[], "1-1", true).is_some(), "no answer at all");
}
