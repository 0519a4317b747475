//! Standbys that lag, and zones: who is read from, and who leads.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{PLAIN, Run, Scenario};
use crate::set::{LAG_MAX_MS, app};

/// Reads that are counted.
const READS: usize = 60;
/// Of them, in the proxy's own zone.
const NEAR_MIN: usize = 45;

pub fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        number: 13,
        name: "a standby in the own zone lags, and the primary is killed",
        fault: lagging,
        ..PLAIN
    }]
}

/// How many reads of one row each server answers to a session of a proxy that may see old rows.
fn answered(run: &Run, proxy: &str, key: &str) -> BTreeMap<String, usize> {
    let mut raw = app(run.set.door(proxy)).unwrap();
    raw.must("SET ostrakon.read_from = 'replica'");
    raw.must("SET ostrakon.read_consistency = 'eventual'");
    let sql = format!("SELECT current_setting('cluster_name'), v FROM registers WHERE k = {key}");
    let mut counts = BTreeMap::new();
    for _ in 0..READS {
        let name = raw.simple(&sql).map(|reply| reply.value()).unwrap_or_default();
        *counts.entry(name).or_insert(0) += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("  {proxy} reads from {counts:?}");
    counts
}

/// Another one leads, and all is whole again.
fn switch(run: &mut Run, to: &str) {
    let said = run.set.admin("p1", &format!("SWITCHOVER s1 TO {to}"));
    run.claim(said.is_ok(), &format!("{to} leads by command: {said:?}"));
    run.set.repair();
    let (primary, term) = run.set.leader("s1");
    run.claim(primary == to, &format!("{to} leads, not {primary}"));
    (run.primary, run.term) = (primary, term);
}

fn lagging(run: &mut Run) {
    let (first, near, far) = ("s1a", "s1b", "s1c");
    if run.primary != first {
        switch(run, first);
    }
    let key = run.set.ask(first, "SELECT max(k) FROM registers").unwrap().remove(0).remove(0);
    let reads = |counts: &BTreeMap<String, usize>, node: &str| counts.get(node).copied().unwrap_or(0);
    run.wait_ms(500);
    let (of_near, of_far) = (answered(run, "p1", &key), answered(run, "p2", &key));
    run.claim(reads(&of_near, near) >= NEAR_MIN, &format!("p1 reads in its zone: {of_near:?}"));
    run.claim(reads(&of_far, far) >= NEAR_MIN, &format!("p2 reads in its zone: {of_far:?}"));
    // It shows old rows from now on; sessions that go by what they have seen must not see them (I7).
    let paused = run.set.ask(near, "SELECT pg_wal_replay_pause()");
    run.claim(paused.is_ok(), "replay stands still");
    run.wait_ms(LAG_MAX_MS + 2_000);
    let counts = answered(run, "p1", &key);
    run.claim(reads(&counts, near) == 0, &format!("who lags is not read from: {counts:?}"));
    // And it receives nothing any more, while the other one's acknowledgements go on counting.
    run.set.ground.drop_packets(first, near, true);
    run.wait_ms(1_000);
    let _ = run.set.ask(near, "SELECT pg_wal_replay_resume()");
    run.set.ground.signal(first, "postgres", nix::sys::signal::Signal::SIGKILL);
    run.wait_for_another_term();
    let leader = run.set.leader("s1").0;
    run.claim(leader == far, &format!("the one that has most leads, {far}, though in another zone, not {leader}"));
    run.wait_ms(1_000);
    run.set.ground.drop_packets(first, near, false);
    run.set.repair();
    // Failed back by command.
    let term = run.term;
    switch(run, first);
    run.term = term;
}
