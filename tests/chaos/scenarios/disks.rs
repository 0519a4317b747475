//! Copies that are interrupted, and disks that are full.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Moves, PLAIN, Run, Scenario};
use crate::cluster::{eventually, pg_bin};
use crate::ground::{Filler, Net, User};
use crate::set::{Set, nodes_of, words};

/// A node that an agent looks after counts again within this.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            number: 20,
            name: "a rewind is killed half-way, and one begins right behind a promotion",
            fault: rewinds,
            ..PLAIN
        },
        Scenario {
            number: 22,
            name: "the disk of a standby is full, then the primary's",
            fault: full_disks,
            outage_max_ms: Some(20_000),
            term: Moves::MayGrow,
            ..PLAIN
        },
    ]
}

fn agent_log(set: &Set, node: &str) -> String {
    fs::read_to_string(set.ground.host(node).directory.join("agent")).unwrap_or_default()
}

/// `ostrakon agent` beside a server: former primaries of any size are rewound.
fn start_agent(set: &Set, node: &str) {
    let host = set.ground.host(node);
    let mut command = words(&[
        env!("CARGO_BIN_EXE_ostrakon"),
        "agent",
        "--node",
        node,
        "--data",
        &set.data(node).to_string_lossy(),
        "--port",
        "5432",
        "--rewind-from-mb",
        "0",
        "--pg-bin",
        &pg_bin().to_string_lossy(),
        "--set",
        &format!("cluster_name={node}"),
    ]);
    for proxy in set.proxies() {
        let address = set.ground.host(proxy).address(Net::Client);
        command.extend(["--proxy".to_owned(), format!("postgres://postgres@{address}:6432/")]);
    }
    set.ground.machines.start(host, User::Root, &command, &host.directory.join("agent"));
}

/// Commits wait for it, and it streams.
fn counts(set: &Set, node: &str) -> bool {
    let rows = set.nodes("p1").unwrap_or_default();
    rows.iter().any(|row| row.name == node && !row.is_primary && row.state == "streaming" && row.is_sync)
}

/// Waits until the node counts; gives how its agent made a standby of it since.
fn made_again(run: &mut Run, node: &str, said_before: usize) -> String {
    let at = Instant::now();
    let is_back = eventually(PATIENCE, || counts(run.set, node));
    run.claim(is_back, &format!("{node} counts again, though nobody did anything"));
    let log = agent_log(run.set, node);
    let news = log.get(said_before..).unwrap_or_default();
    let made = news.lines().rev().find(|line| line.contains("made a standby")).unwrap_or_default();
    let how = made.split("how=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or("nothing").to_owned();
    println!("  {node} counts again after {} ms, {how}", at.elapsed().as_millis());
    how
}

/// Finds `pg_rewind` at work, and ends it and the agent that waits for it.
fn kill_rewind(run: &mut Run, node: &str) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let at_work = run.set.ground.processes(node).into_iter().find(|(_, name)| name.starts_with("pg_rewind"));
        let Some((pid, _)) = at_work else { continue };
        let pid = Pid::from_raw(pid.cast_signed());
        let _ = kill(pid, Signal::SIGSTOP);
        run.set.ground.signal(node, "ostrakon", Signal::SIGKILL);
        let _ = kill(pid, Signal::SIGKILL);
        let data = run.set.data(node);
        return data.with_extension("making").exists() && !data.exists();
    }
    false
}

fn rewinds(run: &mut Run) {
    let nodes = nodes_of("s1");
    nodes.iter().for_each(|node| start_agent(run.set, node));
    run.wait_ms(2_000);
    let first = run.primary.clone();
    let (term, said_before) = (run.term, agent_log(run.set, &first).len());
    run.set.ground.signal(&first, "postgres", Signal::SIGKILL);
    let is_half_made = kill_rewind(run, &first);
    run.claim(is_half_made, "the rewind was killed half-way");
    run.wait_for_another_term();
    start_agent(run.set, &first);
    let how = made_again(run, &first, said_before);
    run.claim(how == "Copied", &format!("what is half rewound is copied, not {how}"));
    // Its successor is killed: what it is rewound to has been promoted a moment ago.
    (run.primary, run.term) = run.set.leader("s1");
    let second = run.primary.clone();
    let said_before = agent_log(run.set, &second).len();
    run.set.ground.signal(&second, "postgres", Signal::SIGKILL);
    run.wait_for_another_term();
    let how = made_again(run, &second, said_before);
    run.claim(how == "Rewound" || how == "Copied", &format!("its agent made a standby of {second}, not {how}"));
    run.term = term;
    nodes.iter().for_each(|node| _ = run.set.ground.signal(node, "ostrakon", Signal::SIGKILL));
}

/// New segments of the log are needed.
fn write_log(run: &Run, primary: &str) -> bool {
    let sql = "SELECT pg_switch_wal(), txid_current()";
    run.set.ask(primary, sql).is_ok()
}

fn said_full(set: &Set, node: &str) -> usize {
    set.log(node).matches("No space left on device").count()
}

fn full_disks(run: &mut Run) {
    let standby = run.standbys().remove(0);
    for node in [standby, run.primary.clone()] {
        let before = said_full(run.set, &node);
        let filler = Filler::fill(&run.set.ground.host(&node).directory);
        let end = Instant::now() + Duration::from_secs(8);
        let mut is_full = false;
        while Instant::now() < end && !is_full {
            let primary = run.set.leader("s1").0;
            let is_written = write_log(run, &primary);
            is_full = said_full(run.set, &node) > before && (!is_written || node != run.primary);
            run.wait_ms(100);
        }
        run.claim(said_full(run.set, &node) > before, &format!("{node} had no room"));
        run.wait_ms(4_000);
        drop(filler);
        let (primary, term) = run.set.leader("s1");
        println!("  {node} was full; {primary} leads in term {term}");
        run.set.repair();
    }
}
