//! `ostrakon serve` over servers that agents look after: disks that are wiped, primaries that come back, agents and
//! programs that are killed half-way. Nobody does anything by hand.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ostrakon::host::process;

use crate::cluster::{eventually, is_alive, signal};
use crate::hosts::{Hosts, Writers};

const LIMIT: Duration = Duration::from_secs(120);

/// Writers went on, and what they were told of is there.
fn finish(hosts: &Hosts, writers: Writers, at: Instant) {
    let acknowledged = writers.finish();
    let rows = hosts.client().must("SELECT k FROM written").texts();
    let there: BTreeSet<String> = rows.into_iter().map(|mut row| row.remove(0)).collect();
    let lost = acknowledged.iter().filter(|(_, key)| !there.contains(&key.to_string())).count();
    println!("  {} acknowledged, {lost} lost", acknowledged.len());
    assert_eq!(lost, 0);
    assert!(acknowledged.iter().any(|(time, _)| *time > at), "nothing was written again: {}", hosts.log());
}

#[test]
fn a_replica_whose_disk_is_wiped_counts_again_by_itself() {
    let hosts = Hosts::start(512);
    let writers = Writers::start(hosts.port, 4);
    let at = Instant::now();
    let data = hosts.data("s1c");
    hosts.end("s1c");
    std::fs::remove_dir_all(&data).unwrap();
    assert!(eventually(LIMIT, || !hosts.counts("s1c")), "{}", hosts.told());
    assert!(eventually(LIMIT, || hosts.counts("s1c")), "{}", hosts.told());
    println!("wiped with its server dead: counts again after {} ms", at.elapsed().as_millis());
    // Under the server: it goes on for a while without its files.
    let at = Instant::now();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    assert!(eventually(LIMIT, || data.join("PG_VERSION").exists() && hosts.counts("s1c")), "{}", hosts.told());
    println!("wiped under its server: counts again after {} ms", at.elapsed().as_millis());
    // There, and not to be started.
    let at = Instant::now();
    hosts.end("s1c");
    std::fs::remove_file(data.join("global/pg_control")).unwrap();
    assert!(eventually(LIMIT, || data.join("global/pg_control").exists() && hosts.counts("s1c")), "{}", hosts.told());
    println!("broken so that it does not start: counts again after {} ms", at.elapsed().as_millis());
    finish(&hosts, writers, at);
}

#[test]
fn a_killed_primary_comes_back_rewound_or_copied() {
    let hosts = Hosts::start(0);
    for (how, is_broken) in [("Rewound", false), ("Copied", true), ("Rewound", false)] {
        let old = hosts.primary();
        let writers = Writers::start(hosts.port, 4);
        std::thread::sleep(Duration::from_secs(1));
        let at = Instant::now();
        hosts.end(&old);
        if is_broken {
            std::fs::remove_file(hosts.data(&old).join("global/pg_control")).unwrap();
        }
        assert!(eventually(LIMIT, || hosts.primary() != old), "{}", hosts.told());
        assert!(eventually(LIMIT, || hosts.counts(&old)), "{}", hosts.told());
        let log = hosts.agent_log(&old);
        let made = log.lines().rev().find(|line| line.contains("made a standby")).unwrap_or_default();
        println!("{old} killed, counts again after {} ms: {made}", at.elapsed().as_millis());
        assert!(made.contains(how), "{log}");
        finish(&hosts, writers, at);
    }
}

#[test]
fn what_was_interrupted_half_way_is_finished() {
    let mut hosts = Hosts::start(0);
    hosts.client().must("CREATE TABLE big AS SELECT n, repeat('x', 1000) AS t FROM generate_series(1, 100000) n");
    for program in ["pg_rewind", "pg_basebackup"] {
        let node = if program == "pg_rewind" { hosts.primary() } else { "s1c".to_owned() };
        let at = Instant::now();
        let making = hosts.data(&node).with_extension("making");
        hosts.end(&node);
        if program == "pg_basebackup" {
            std::fs::remove_dir_all(hosts.data(&node)).unwrap();
        }
        let mut found = Vec::new();
        let is_running = eventually(LIMIT, || {
            found = process::started_for(&making, &[program]);
            !found.is_empty()
        });
        assert!(is_running, "{program}: {}", hosts.told());
        // It stands still, and everything that knows of it is gone.
        for pid in &found {
            signal(*pid, nix::sys::signal::Signal::SIGSTOP);
        }
        hosts.kill_agent(&node);
        if program == "pg_rewind" {
            found.iter().for_each(|pid| signal(*pid, nix::sys::signal::Signal::SIGKILL));
        }
        assert!(making.exists() && !hosts.data(&node).exists(), "half-made");
        hosts.start_agent(&node);
        assert!(eventually(LIMIT, || hosts.counts(&node)), "{program}: {}", hosts.told());
        let log = hosts.agent_log(&node);
        let made = log.lines().rev().find(|line| line.contains("made a standby")).unwrap_or_default();
        println!("{program} killed half-way, counts again after {} ms: {made}", at.elapsed().as_millis());
        assert!(made.contains("Copied"), "{log}");
        assert!(found.iter().all(|pid| !is_alive(*pid)), "nothing is left over");
    }
}
