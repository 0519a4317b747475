//! Who wrote finds it; who has read does not go back in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::ground::{Dice, Ground};
use crate::raw::Raw;

/// How late replicas replay.
const DELAY_MS: u32 = 15;

#[derive(Default)]
struct Counts {
    pairs: AtomicU64,
    stale: AtomicU64,
    went_back: AtomicU64,
    from_replicas: AtomicU64,
    from_primaries: AtomicU64,
}

/// Value and the port of the server that told it.
fn read(app: &mut Raw, key: u64) -> (i64, String) {
    let answer = app.must(&format!("SELECT v, current_setting('port') FROM r WHERE id = {key}"));
    let row = answer.texts().remove(0);
    (row[0].parse().unwrap(), row[1].clone())
}

/// One session: writes its own row and reads it after a while, and between whiles a row that others write.
fn session(ground: &Ground, number: u64, pairs: u64, is_strict: bool, counts: &Counts) {
    let mut app = ground.reader();
    if !is_strict {
        app.must("SET ostrakon.read_consistency = 'eventual'");
    }
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ (number + 1));
    let (key, shared) = (number + 1, 0);
    let (mut written, mut last_shared) = (0, 0);
    for _ in 0..pairs {
        written += 1;
        app.must(&format!("UPDATE r SET v = {written} WHERE id = {key}"));
        // At once, or about when the replicas come by.
        std::thread::sleep(Duration::from_micros(dice.next(4) * dice.next(u64::from(DELAY_MS) * 1_000)));
        for _ in 0..=dice.next(3) {
            let (value, port) = read(&mut app, key);
            counts.stale.fetch_add(u64::from(value != written), Ordering::Relaxed);
            let place = if ground.is_replica(&port) { &counts.from_replicas } else { &counts.from_primaries };
            place.fetch_add(1, Ordering::Relaxed);
            let (value, _) = read(&mut app, shared);
            counts.went_back.fetch_add(u64::from(value < last_shared), Ordering::Relaxed);
            last_shared = value.max(last_shared);
        }
        counts.pairs.fetch_add(1, Ordering::Relaxed);
    }
}

/// `sessions` at a time, and one that counts up the row that all of them look at.
fn run(ground: &Arc<Ground>, sessions: u64, pairs: u64, is_strict: bool) -> Arc<Counts> {
    let counts = Arc::new(Counts::default());
    let (stop, value) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let counting = std::thread::spawn({
        let (ground, stop) = (Arc::clone(ground), Arc::clone(&stop));
        move || {
            let mut app = ground.app();
            while !stop.load(Ordering::Relaxed) {
                let next = value.fetch_add(1, Ordering::Relaxed) + 1;
                app.must(&format!("UPDATE r SET v = {next} WHERE id = 0"));
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let threads: Vec<_> = (0..sessions)
        .map(|number| {
            let (ground, counts) = (Arc::clone(ground), Arc::clone(&counts));
            std::thread::spawn(move || session(&ground, number, pairs.div_ceil(sessions), is_strict, &counts))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    stop.store(true, Ordering::Relaxed);
    counting.join().unwrap();
    counts
}

fn pairs() -> u64 {
    std::env::var("OSTRAKON_PAIRS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

/// A session mostly waits for replicas: many pairs take many sessions.
fn sessions() -> u64 {
    if pairs() > 100_000 { 448 } else { 16 }
}

fn show(what: &str, counts: &Counts) -> [u64; 5] {
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let all = [&counts.pairs, &counts.stale, &counts.went_back, &counts.from_replicas, &counts.from_primaries].map(of);
    let [pairs, stale, back, replicas, primaries] = all;
    println!(
        "{what}: {pairs} pairs, {stale} stale, {back} back in time; {replicas} reads from replicas, {primaries} from primaries"
    );
    all
}

fn nothing_is_stale(shards: usize) {
    // Reads wait for replicas: most come there at the very moment when the replica has what they need.
    let ground = Arc::new(Ground::start(shards, DELAY_MS, "[replicas]\nwait_max_ms = 200"));
    let [pairs, stale, back, replicas, _] = show(&format!("{shards} shards"), &run(&ground, sessions(), pairs(), true));
    assert_eq!((stale, back), (0, 0));
    assert!(replicas > pairs / 4, "replicas were hardly asked");
    // The same without the guarantee: if this found nothing, the test above would show nothing.
    let [_, stale, back, ..] = show("without the guarantee", &run(&ground, 16, 400, false));
    assert!(stale > 0 && back > 0);
}

#[test]
fn one_shard_shows_a_session_what_it_wrote_and_never_less_than_it_saw() {
    nothing_is_stale(1);
}

#[test]
fn two_shards_show_a_session_what_it_wrote_and_never_less_than_it_saw() {
    nothing_is_stale(2);
}

#[test]
fn most_reads_of_a_load_that_mostly_reads_go_to_replicas() {
    // A machine that is busy with other things is no reason for another answer.
    let ground = Arc::new(Ground::start(1, 0, "[replicas]\nwait_max_ms = 500"));
    let counts = Arc::new(Counts::default());
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let (ground, counts) = (Arc::clone(&ground), Arc::clone(&counts));
            std::thread::spawn(move || {
                let mut app = ground.reader();
                let mut dice = Dice(77 + number);
                for _ in 0..600 {
                    let key = dice.next(1_000);
                    if dice.next(20) == 0 {
                        app.must(&format!("UPDATE r SET v = v + 1 WHERE id = {key}"));
                        continue;
                    }
                    let (_, port) = read(&mut app, key);
                    let place = if ground.is_replica(&port) { &counts.from_replicas } else { &counts.from_primaries };
                    place.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let [.., replicas, primaries] = show("95 reads for 5 writes, without a pause", &counts);
    let share = 100 * replicas / (replicas + primaries);
    println!("{share} % from replicas");
    assert!(share >= 80);
}

#[test]
fn a_token_takes_what_one_session_saw_to_another() {
    for shards in [1, 2] {
        let ground = Ground::start(shards, 200, "");
        let (mut stale_with, mut stale_without) = (0, 0);
        for round in 1..=20_i64 {
            let mut writer = ground.reader();
            writer.must(&format!("UPDATE r SET v = {round} WHERE id = 7"));
            let token = writer.must("SHOW ostrakon.token").value();
            assert!(token.contains(':'), "{token:?}");
            let mut told = ground.reader();
            told.must(&format!("SET ostrakon.token = '{token}'"));
            stale_with += u32::from(read(&mut told, 7).0 != round);
            stale_without += u32::from(read(&mut ground.reader(), 7).0 != round);
        }
        println!("{shards} shards: stale with the token {stale_with}, without {stale_without} of 20");
        assert_eq!(stale_with, 0);
        assert!(stale_without > 0, "the test would show nothing");
    }
}
