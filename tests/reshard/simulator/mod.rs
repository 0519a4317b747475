//! The reshard machine in virtual time: shards with prepared transactions, a store, clients that write through a proxy
//! that is killed at any moment, effects that fail or are done by half, messages that come late and twice.

mod judge;
#[path = "../../common/random.rs"]
mod random;
mod world;

use std::time::Duration;

use ostrakon::base::ShardId;
use ostrakon::reshard::{Command, Manner, Phase, Rules, Settings};
use ostrakon::topology::BucketMap;
use random::Random;
use world::{Happening, World};

const ALL_RULES: Rules =
    Rules { hold_writes: true, compare: true, hold_reads: true, prepare_first: true, settle_first: true, clean: true };
/// How long things go wrong, and how long they have to be well again.
const TROUBLE: u64 = 5_000_000;
const REST: u64 = 25_000_000;

#[derive(Debug, Default)]
struct Report {
    broken: Vec<String>,
    rows: usize,
    crashes: u64,
    steps: u64,
}

/// Thirds of the buckets that clients use.
fn wanted() -> BucketMap {
    BucketMap::from_owners((0..16_384).map(|bucket| ShardId(if bucket < 48 { bucket % 3 + 1 } else { 1 })).collect())
        .unwrap()
}

/// Some jobs end by themselves, some may hold writes up for longer.
fn manner(seed: u64) -> Manner {
    let hold_max = seed.is_multiple_of(7).then_some(Duration::from_secs(1));
    Manner { ends_itself: seed.is_multiple_of(5), hold_max }
}

fn run(seed: u64, rules: Rules) -> Report {
    let settings =
        Settings { rules, rows_first: 4, buckets_max: 4, retry_max: Duration::from_millis(500), ..Settings::default() };
    let mut world = World::new(seed, settings);
    let mut chance = Random(seed ^ 0xA5A5);
    world.at(100_000, Happening::Say(Command::Start { id: seed, wanted: wanted(), manner: manner(seed) }));
    for _ in 0..chance.between(0, 5) {
        world.at(chance.between(200_000, TROUBLE), Happening::Crash);
    }
    for _ in 0..chance.between(0, 4) {
        let command = match chance.between(0, 5) {
            0 => Command::Cancel,
            1 => Command::Reverse,
            2 => Command::Pause,
            3 => Command::Finish,
            _ => Command::Start { id: seed + 1, wanted: wanted(), manner: Manner::default() },
        };
        let at = chance.between(200_000, TROUBLE);
        world.at(at, Happening::Say(command));
        world.at(at + chance.between(1_000, 1_000_000), Happening::Say(Command::Resume));
    }
    world.run_until(TROUBLE);
    if rules == (Rules { clean: rules.clean, ..ALL_RULES }) {
        finish(&mut world);
    }
    Report {
        broken: std::mem::take(&mut world.judge.broken),
        rows: world.judge.count(),
        crashes: world.crashes,
        steps: world.steps,
    }
}

/// Once nothing goes wrong any more the job comes to its end, and can be ended; then nothing is left.
fn finish(world: &mut World) {
    world.is_troubled = false;
    world.at(0, Happening::Say(Command::Resume));
    world.at(1_000_000, Happening::Say(Command::Resume));
    world.run_until(TROUBLE + REST);
    match world.phase() {
        None => {}
        Some(Phase::Moved) => {
            let (owners, before) = world.owners();
            if *owners != wanted() && owners != before {
                let now = owners.owners().get(..48).unwrap_or_default().to_vec();
                world.judge.broken.push(format!("moved, but buckets are with {now:?}"));
            }
            world.at(0, Happening::Say(Command::Finish));
        }
        Some(phase) => world.judge.broken.push(format!("the job is still {phase:?}")),
    }
    world.run_until(TROUBLE + 2 * REST);
    let left = world.leftovers();
    world.judge.broken.extend(left.into_iter().map(|what| format!("left over: {what}")));
}

fn seeds(usual: u64) -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    (number("OSTRAKON_SEED").unwrap_or(1), number("OSTRAKON_SEEDS").unwrap_or(usual))
}

#[test]
fn every_row_is_there_once_whatever_happens() {
    let (first, count) = seeds(40);
    let (mut rows, mut crashes, mut steps) = (0, 0, 0);
    for seed in first..first + count {
        let report = run(seed, ALL_RULES);
        assert!(report.broken.is_empty(), "OSTRAKON_SEED={seed} OSTRAKON_SEEDS=1: {:#?}", report.broken);
        rows += report.rows;
        crashes += report.crashes;
        steps += report.steps;
    }
    println!("{count} seeds: {steps} steps, {crashes} crashes, {rows} rows, nothing lost, doubled or left over");
    assert!(steps > count * 5 && crashes > count, "the world is too quiet to show anything");
}

/// How many of these seeds break a rule of the judge.
fn broken(rules: Rules, seeds: u64) -> usize {
    (1..=seeds).filter(|seed| !run(*seed, rules).broken.is_empty()).count()
}

#[test]
fn writes_beside_a_step_are_lost() {
    let found = broken(Rules { hold_writes: false, ..ALL_RULES }, 40);
    assert!(found > 2, "{found} of 40");
}

#[test]
fn writes_since_the_copy_are_lost_where_it_is_not_compared() {
    let found = broken(Rules { compare: false, ..ALL_RULES }, 20);
    assert!(found > 2, "{found} of 20");
}

#[test]
fn reads_beside_a_change_of_owners_see_rows_twice_or_not_at_all() {
    let found = broken(Rules { hold_reads: false, ..ALL_RULES }, 20);
    assert!(found > 5, "{found} of 20");
}

#[test]
fn a_decision_before_both_are_prepared_loses_rows() {
    let found = broken(Rules { prepare_first: false, ..ALL_RULES }, 40);
    assert!(found > 1, "{found} of 40");
}

#[test]
fn serving_before_the_last_step_is_settled_shows_halves() {
    let found = broken(Rules { settle_first: false, ..ALL_RULES }, 60);
    assert!(found > 0, "{found} of 60");
}

#[test]
fn a_job_that_does_not_clean_up_is_noticed() {
    let found = broken(Rules { clean: false, ..ALL_RULES }, 20);
    assert!(found > 5, "{found} of 20");
}
