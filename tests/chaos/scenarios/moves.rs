//! Buckets move while primaries are lost. It has a set of its own: moves need a proxy that is the only one.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{PLAIN, Run, Scenario};
use crate::set::{Layout, app};

/// Rows besides those of the load, so that a job takes its time. Their keys are nobody's.
const ROWS: i64 = 12_000;
const PATIENCE: Duration = Duration::from_secs(120);

pub fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        number: 26,
        name: "both shards' primaries are killed while buckets move",
        fault: moving,
        layout: Layout::Alone,
        ..PLAIN
    }]
}

/// What the job is at: phase, steps, buckets left, trouble.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Job {
    phase: String,
    steps: u64,
    left: u64,
}

fn job(run: &Run) -> Job {
    let rows = run.set.admin("p1", "SHOW RESHARD").unwrap_or_default();
    let Some(row) = rows.first() else { return Job::default() };
    let number = |at: usize| row.get(at).and_then(|text| text.parse().ok()).unwrap_or(0);
    Job { phase: row[0].clone(), steps: number(7), left: number(4) }
}

fn wait_for(run: &mut Run, what: &str, holds: impl Fn(&Job) -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    let mut now = job(run);
    while Instant::now() < end {
        now = job(run);
        if holds(&now) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    run.claim(false, &format!("{what}: {now:?}"));
    false
}

fn say(run: &mut Run, command: &str) {
    let said = run.set.admin("p1", command);
    run.claim(said.is_ok(), &format!("{command}: {said:?}"));
}

/// Kills a shard's primary in the middle of the job, and waits for the next one.
fn kill_while_it_moves(run: &mut Run, shard: &str) {
    let steps = job(run).steps;
    wait_for(run, "steps count", |job| job.steps > steps || job.left == 0);
    let before = job(run);
    run.claim(before.phase == "moving" && before.left > 0, &format!("buckets move when {shard} is hit: {before:?}"));
    let (primary, term) = run.set.leader(shard);
    run.set.ground.signal(&primary, "postgres", Signal::SIGKILL);
    let end = Instant::now() + Duration::from_secs(20);
    let mut now = run.set.leader(shard);
    while Instant::now() < end && (now.1 <= term || now.0 == primary) {
        std::thread::sleep(Duration::from_millis(50));
        now = run.set.leader(shard);
    }
    run.claim(now.1 > term && now.0 != primary, &format!("another one leads {shard}, not {now:?}"));
    println!("  {primary} was killed with {} buckets left; {} leads {shard}", before.left, now.0);
    run.set.repair();
}

fn moving(run: &mut Run) {
    let mut raw = app(run.set.door("p1")).unwrap();
    for first in (0..ROWS).step_by(400) {
        let rows: Vec<String> = (first..first + 400).map(|row| format!("({})", -1 - row)).collect();
        raw.must(&format!("INSERT INTO inserts (k) VALUES {}", rows.join(", ")));
    }
    drop(raw);
    say(run, "RESHARD START EMPTY s2");
    kill_while_it_moves(run, "s1");
    wait_for(run, "all have moved", |job| job.phase == "moved");
    say(run, "RESHARD REVERSE");
    kill_while_it_moves(run, "s2");
    wait_for(run, "all have moved back", |job| job.phase == "moved");
    let verified = run.set.admin("p1", "RESHARD VERIFY");
    let text = verified.as_ref().map(|rows| rows[0][0].clone()).unwrap_or_default();
    println!("  {text}");
    run.claim(text.contains("\"misplaced\":[]"), &format!("every row is where it belongs: {verified:?}"));
    say(run, "RESHARD FINISH");
    wait_for(run, "the job is over", |job| job.phase == "none" || job.phase.is_empty());
    let mut raw = app(run.set.door("p1")).unwrap();
    let count = raw.simple("SELECT count(*) FROM inserts WHERE k < 0").map(|reply| reply.value()).unwrap_or_default();
    run.claim(count == ROWS.to_string(), &format!("{ROWS} rows that moved are there, not {count}"));
}
