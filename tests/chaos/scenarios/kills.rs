//! Processes that end, or stop for a while.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Moves, PLAIN, Run, Scenario};
use crate::ground::Net;
use crate::set::nodes_of;

/// A failover that begins with hard evidence.
const LOST_MS: Option<u64> = Some(3_000);
/// One that begins with silence.
const SILENT_MS: Option<u64> = Some(8_000);

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            number: 1,
            name: "the primary is killed",
            fault: kill_primary,
            is_core: true,
            outage_max_ms: LOST_MS,
            keeps_connections: true,
            ..PLAIN
        },
        Scenario {
            number: 2,
            name: "the postmaster is killed",
            fault: kill_postmaster,
            outage_max_ms: LOST_MS,
            keeps_connections: true,
            ..PLAIN
        },
        Scenario {
            number: 3,
            name: "a backend is killed while commits wait",
            fault: kill_backend,
            is_core: true,
            outage_max_ms: SILENT_MS,
            keeps_connections: true,
            term: Moves::MayGrow,
            ..PLAIN
        },
        Scenario { number: 4, name: "the primary's host ends", fault: kill_host, outage_max_ms: SILENT_MS, ..PLAIN },
        Scenario {
            number: 5,
            name: "the primary hangs, and goes on after another was promoted",
            fault: hang_primary,
            is_core: true,
            outage_max_ms: SILENT_MS,
            ..PLAIN
        },
        Scenario {
            number: 6,
            name: "the primary's host stands still for half a second",
            fault: |run| {
                run.set.ground.pause(&run.primary, true);
                run.wait_ms(500);
                run.set.ground.pause(&run.primary, false);
            },
            outage_max_ms: Some(2_500),
            keeps_connections: true,
            term: Moves::Stays,
            ..PLAIN
        },
        Scenario { number: 11, name: "a standby is dead when the primary is killed", fault: two_in_turn, ..PLAIN },
        Scenario {
            number: 12,
            name: "the primary and a standby are killed together",
            fault: two_together,
            is_core: true,
            term: Moves::MayGrow,
            ..PLAIN
        },
        Scenario {
            number: 19,
            name: "the former primary is started again by its supervisor",
            fault: supervisor,
            is_core: true,
            outage_max_ms: LOST_MS,
            ..PLAIN
        },
        Scenario { number: 21, name: "ten failovers in a row", fault: ten_in_a_row, outage_max_ms: SILENT_MS, ..PLAIN },
        Scenario {
            number: 27,
            name: "all servers of a shard end, and start in another order",
            fault: cold_start,
            term: Moves::MayGrow,
            ..PLAIN
        },
    ]
}

fn kill_primary(run: &mut Run) {
    run.set.ground.signal(&run.primary, "postgres", Signal::SIGKILL);
    run.wait_for_another_term();
}

/// The process whose parent is none of the server's own.
fn postmaster(run: &Run, node: &str) -> Option<Pid> {
    let file = run.set.ground.host(node).directory.join("data/postmaster.pid");
    let inside = std::fs::read_to_string(file).ok()?.lines().next()?.trim().to_owned();
    let processes = run.set.ground.processes(node);
    // The number inside of a container is the last one of NSpid.
    let is_it = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("NSpid:")).unwrap_or_default();
        line.split_whitespace().last() == Some(inside.as_str())
    };
    let found = processes.iter().map(|(pid, _)| *pid).find(is_it)?;
    Some(Pid::from_raw(found.cast_signed()))
}

fn kill_postmaster(run: &mut Run) {
    let found = postmaster(run, &run.primary);
    run.claim(found.is_some(), "there is a postmaster");
    found.into_iter().for_each(|pid| _ = kill(pid, Signal::SIGKILL));
    run.wait_for_another_term();
}

/// Replication is cut first, so that commits wait when the server crashes and starts again by itself.
fn kill_backend(run: &mut Run) {
    let standbys = run.standbys();
    standbys.iter().for_each(|standby| run.set.ground.drop_packets(&run.primary, standby, true));
    run.wait_ms(500);
    let sql = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' LIMIT 1";
    let waiting = run.set.ask(&run.primary, sql).ok().and_then(|rows| rows.first().map(|row| row[0].clone()));
    run.claim(waiting.is_some(), "a commit waits for its standbys");
    let inside = waiting.unwrap_or_default();
    for (pid, _) in run.set.ground.processes(&run.primary) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("NSpid:")).unwrap_or_default();
        if line.split_whitespace().last() == Some(inside.as_str()) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
    run.wait_ms(1_000);
    standbys.iter().for_each(|standby| run.set.ground.drop_packets(&run.primary, standby, false));
    run.wait_ms(3_000);
}

fn kill_host(run: &mut Run) {
    let host = run.set.ground.host(&run.primary).clone();
    run.set.ground.machines.kill(&host);
    run.wait_for_another_term();
    run.set.ground.machines.revive(&host);
}

fn hang_primary(run: &mut Run) {
    run.set.ground.signal(&run.primary, "postgres", Signal::SIGSTOP);
    run.wait_for_another_term();
    run.wait_ms(500);
    run.set.ground.signal(&run.primary, "postgres", Signal::SIGCONT);
}

fn two_in_turn(run: &mut Run) {
    let standby = run.standbys().remove(0);
    run.set.ground.signal(&standby, "postgres", Signal::SIGKILL);
    run.wait_ms(3_000);
    run.set.ground.signal(&run.primary, "postgres", Signal::SIGKILL);
    run.wait_ms(4_000);
    // Whether the set was made smaller in time or the shard waits: with the standby it goes on.
    run.set.start_server(&standby);
    run.wait_for_another_term();
}

/// Fewer are left than prove anything: the shard waits, whoever comes back.
fn two_together(run: &mut Run) {
    let standbys = run.standbys();
    run.set.ground.signal(&standbys[0], "postgres", Signal::SIGKILL);
    run.set.ground.signal(&run.primary, "postgres", Signal::SIGKILL);
    run.wait_ms(4_000);
    let alone = run.set.ask(&standbys[1], "SELECT pg_is_in_recovery()");
    run.claim(alone.is_ok_and(|rows| rows[0][0] == "t"), "the last one is not promoted alone");
    run.set.start_server(&run.primary);
    run.wait_ms(500);
    run.set.start_server(&standbys[0]);
    run.wait_ms(6_000);
}

/// The former primary knows nothing of its successor; the replication network is cut besides, so nobody follows it.
fn supervisor(run: &mut Run) {
    run.set.ground.attach(&run.primary, Net::Replication, false);
    run.set.ground.signal(&run.primary, "postgres", Signal::SIGKILL);
    run.wait_for_another_term();
    run.set.start_server(&run.primary);
    run.wait_ms(1_500);
    run.set.ground.attach(&run.primary, Net::Replication, true);
    run.wait_ms(2_500);
    let names = run.set.ask(&run.primary, "SHOW synchronous_standby_names");
    run.claim(names.is_ok_and(|rows| rows[0][0].contains("fenced")), "it is fenced");
}

fn ten_in_a_row(run: &mut Run) {
    for _ in 0..10 {
        let (primary, term) = run.set.leader("s1");
        (run.primary, run.term) = (primary, term);
        run.set.ground.signal(&run.primary, "postgres", Signal::SIGKILL);
        run.wait_for_another_term();
        run.set.repair();
    }
    run.term = 0;
}

fn cold_start(run: &mut Run) {
    for node in nodes_of("s1") {
        run.set.ground.signal(&node, "postgres", Signal::SIGKILL);
    }
    run.wait_ms(1_000);
    for standby in run.standbys() {
        run.set.start_server(&standby);
        run.wait_ms(1_500);
    }
    run.set.start_server(&run.primary);
    run.wait_ms(5_000);
}
