//! Random sequences of messages, legal and not, on plain PostgreSQL and through the product: the same
//! replies. A seed makes the same sequences again; one that differs is cut down before it is shown.

use std::time::Duration;

use crate::conversation::PATIENCE;
use crate::frames::{
    Frame, Heard, Leave, Wire, bind, bind_as, close_portal, close_statement, copy_data, copy_done, copy_fail,
    describe_portal, describe_statement, execute, flush, function_call, parse, query, sync,
};
use crate::normal::difference;
use crate::world::World;

/// Cases without `OSTRAKON_RANDOM`.
const CASES: u64 = 250;

/// Differences after which it stops.
const DIFFERENCES_MAX: usize = 5;

/// A small generator of its own: the same numbers on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn of<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[self.below(texts.len())]
    }
}

const STATEMENTS: &[&str] = &["", "", "a", "b"];
const PORTALS: &[&str] = &["", "", "p", "q"];

/// Of SQL that may be prepared and executed, in any order.
const TEXTS: &[&str] = &[
    "SELECT 1 AS x",
    "SELECT 1 AS x",
    "SELECT 'y' AS y, NULL",
    "SELECT $1::int + 1",
    "SELECT $1::text, $2::text",
    "SELECT g FROM generate_series(1, 5) g",
    "SELECT g FROM generate_series(1, 5) g",
    "SELECT name FROM items WHERE id = $1",
    "SELECT 1/0",
    "SELECT 6 / (3 - g) FROM generate_series(1, 5) g",
    "SELECT nothing",
    "SELEC",
    "",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "RELEASE s",
    "SHOW work_mem",
    "SET work_mem = '2MB'",
    "SET LOCAL work_mem = '3MB'",
    "RESET work_mem",
    "SELECT set_config('work_mem', '5MB', false)",
    "RESET ALL",
    "DISCARD ALL",
    "PREPARE a AS SELECT 7 AS seven",
    "PREPARE b (int) AS SELECT $1 * 2 AS double",
    "EXECUTE a",
    "EXECUTE b (4)",
    "DEALLOCATE a",
    "DEALLOCATE ALL",
    "DECLARE c CURSOR FOR SELECT g FROM generate_series(1, 5) g",
    "DECLARE h CURSOR WITH HOLD FOR SELECT g FROM generate_series(1, 5) g",
    "FETCH 2 FROM c",
    "FETCH 2 FROM h",
    "CLOSE c",
    "CLOSE ALL",
    "CREATE TEMP TABLE IF NOT EXISTS scratch (a int)",
    "INSERT INTO scratch VALUES (1)",
    "SELECT count(*) FROM scratch",
    "LISTEN bell",
    "NOTIFY bell, 'x'",
    "UNLISTEN bell",
    "COPY (SELECT 1, 2) TO STDOUT",
    "INSERT INTO ledger (run, part) VALUES (1, 1) ON CONFLICT DO NOTHING",
    "DELETE FROM ledger WHERE run = 1",
    "DO 'BEGIN RAISE NOTICE ''n''; END'",
    "SELECT pg_advisory_lock(77), pg_advisory_unlock(77)",
];

/// Only as simple queries.
const MESSAGES: &[&str] = &[
    "SELECT 1 AS a; SELECT 2 AS b",
    "BEGIN; SELECT 1",
    "SELECT 1; COMMIT; SELECT 2",
    "SELECT 1; SELECT 1/0; SELECT 2",
    "SET work_mem = '4MB'; SELECT 1/0",
    "SET work_mem = '6MB'; SHOW work_mem",
    "PREPARE a AS SELECT 8; EXECUTE a",
];

const COPY: &str = "COPY ledger (run, part) FROM STDIN";

fn message(dice: &mut Dice) -> Vec<Frame> {
    let values: &[&[Option<&str>]] = &[&[], &[], &[Some("1")], &[Some("x")], &[None], &[Some("1"), Some("2")]];
    match dice.below(24) {
        0..=3 => vec![parse(dice.of(STATEMENTS), dice.of(TEXTS), if dice.below(6) == 0 { &[23] } else { &[] })],
        4..=6 => vec![bind(dice.of(PORTALS), dice.of(STATEMENTS), values[dice.below(values.len())])],
        7 => vec![bind_as(dice.of(PORTALS), dice.of(STATEMENTS), values[dice.below(values.len())], 1)],
        8..=10 => vec![execute(dice.of(PORTALS), i32::try_from(dice.below(3)).unwrap())],
        11 => vec![describe_statement(dice.of(STATEMENTS))],
        12 => vec![describe_portal(dice.of(PORTALS))],
        13 => vec![close_statement(dice.of(STATEMENTS))],
        14 => vec![close_portal(dice.of(PORTALS))],
        15..=16 => vec![sync()],
        17 => vec![flush()],
        18..=19 => vec![query(if dice.below(3) == 0 { dice.of(MESSAGES) } else { dice.of(TEXTS) })],
        20 => vec![match dice.below(4) {
            0 => copy_data(b"1\t9\n"),
            1 => copy_done(),
            2 => copy_fail("stray"),
            _ => function_call(177, &["20", "22"]),
        }],
        21 => copy_in(dice),
        _ => {
            // What drivers send.
            let text = dice.of(TEXTS);
            let count = i32::try_from(dice.below(3)).unwrap();
            let mut frames = vec![parse("", text, &[]), bind("", "", values[dice.below(3)]), describe_portal("")];
            frames.push(execute("", count));
            if dice.below(3) > 0 {
                frames.push(sync());
            }
            frames
        }
    }
}

/// A COPY with its data, now and then disturbed.
fn copy_in(dice: &mut Dice) -> Vec<Frame> {
    let mut frames = match dice.below(2) {
        0 => vec![query(COPY)],
        _ => vec![parse("", COPY, &[]), bind("", "", &[]), execute("", 0)],
    };
    if dice.below(4) == 0 {
        frames.push(sync());
    }
    for _ in 0..dice.below(3) {
        frames.push(match dice.below(8) {
            0 => flush(),
            1 => sync(),
            2 => copy_data(b"nonsense\n"),
            _ => copy_data(b"2\t1\n"),
        });
    }
    frames.push(if dice.below(4) == 0 { copy_fail("enough") } else { copy_done() });
    frames
}

/// Some batches of messages; a case's session lives through all of them.
fn case(seed: u64) -> Vec<Vec<Frame>> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    dice.below(1);
    (0..1 + dice.below(4)).map(|_| (0..1 + dice.below(8)).flat_map(|_| message(&mut dice)).collect()).collect()
}

/// What comes back; whatever a batch leaves open is ended behind it, so that there is an end to wait for.
fn replies(port: u16, batches: &[Vec<Frame>]) -> (Vec<Frame>, Heard) {
    let mut wire = Wire::app(port, "app").unwrap();
    // What an earlier difference has left would be one of this case, too.
    wire.simple("DELETE FROM ledger").unwrap();
    let mut all = Vec::new();
    for (number, batch) in batches.iter().enumerate() {
        let mark = format!("end {number}");
        let end = [copy_fail("end"), sync(), query("ROLLBACK"), query(&format!("SELECT '{mark}'"))];
        let _ = wire.send_frames(&[batch.as_slice(), &end].concat());
        let mut seen = false;
        let (frames, last) = wire.hear_until(PATIENCE, |frame| {
            seen |= frame.tag == b'D' && frame.texts() == [mark.as_str()];
            seen && frame.tag == b'Z'
        });
        all.extend(frames);
        if !matches!(last, Heard::Frame(_)) {
            return (all, last);
        }
    }
    wire.leave(Leave::Terminate);
    (all, Heard::Closed)
}

fn compare(world: &World, batches: &[Vec<Frame>]) -> Option<String> {
    let (expected, end) = replies(world.cluster.oracle.port, batches);
    assert_ne!(end, Heard::Late, "PostgreSQL itself is stuck: {batches:?}");
    let (got, got_end) = replies(world.port(), batches);
    let different = difference(&expected, &got);
    match got_end {
        Heard::Late => Some(format!("stuck; {}", different.unwrap_or_default())),
        _ => different,
    }
}

/// Leaves messages out as long as the difference stays.
fn cut_down(world: &mut World, mut batches: Vec<Vec<Frame>>, mut shown: String) -> (Vec<Vec<Frame>>, String) {
    let until = std::time::Instant::now() + Duration::from_secs(20);
    let mut place = 0;
    while place < batches.iter().map(Vec::len).sum() && std::time::Instant::now() < until {
        let mut shorter = batches.clone();
        let mut left = place;
        for batch in &mut shorter {
            if left < batch.len() {
                batch.remove(left);
                break;
            }
            left -= batch.len();
        }
        // On server connections of its own: what an attempt before has left there is not this one's.
        world.fresh();
        match compare(world, &shorter) {
            Some(text) => {
                if text.starts_with("stuck") {
                    world.restart();
                }
                (batches, shown) = (shorter, text);
            }
            None => place += 1,
        }
    }
    (batches, shown)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn conform(mut world: World) {
    let first = number("OSTRAKON_SEED", 1);
    let count = number("OSTRAKON_RANDOM", CASES);
    let mut differences = Vec::new();
    let mut messages = 0;
    for seed in first..first + count {
        let batches = case(seed);
        messages += batches.iter().map(Vec::len).sum::<usize>();
        if let Some(text) = compare(&world, &batches) {
            if text.starts_with("stuck") {
                world.restart();
            }
            let (shortest, text) = cut_down(&mut world, batches, text);
            differences.push(format!("OSTRAKON_SEED={seed} OSTRAKON_RANDOM=1\n    {shortest:?}\n    {text}"));
            world.restart();
        }
        if differences.len() >= DIFFERENCES_MAX {
            break;
        }
    }
    println!("{count} cases, {messages} messages");
    assert!(differences.is_empty(), "{} cases differ:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn random_messages_are_answered_by_one_shard_like_by_postgresql() {
    conform(World::start(1, "size = 2"));
}

#[test]
fn random_messages_are_answered_in_session_mode_like_by_postgresql() {
    conform(World::start(1, "size = 2\nmode = \"session\""));
}
