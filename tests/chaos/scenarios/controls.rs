//! Negative controls: without waiting for standbys the checker has to find what is lost.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{BEFORE, PLAIN, Run, Scenario, report, run};
use crate::checker::Invariant;
use crate::ground::Net;
use crate::set::Set;

/// Scenarios 1, 7 and 12 with `durability = "async"`, each with standbys that lag for a moment first.
pub fn lose_what_they_must(set: &mut Set, first: i64) -> Vec<String> {
    let mut rows = Vec::new();
    set.change_durability("async");
    let plain = |number, name, fault| Scenario { number, name, fault, ..PLAIN };
    let controls: [Scenario; 3] = [
        plain(1, "control: the primary is killed, nothing waited for standbys", kill),
        plain(7, "control: the primary is off all networks, nothing waited for standbys", isolate),
        plain(12, "control: primary and standby are killed, nothing waited for standbys", two),
    ];
    for (place, control) in (first..).zip(&controls) {
        let verdict = run(set, control, place);
        let lost = verdict.findings.iter().filter(|finding| finding.invariant == Invariant::I1).count();
        println!("{}: {}", verdict.line, if lost > 0 { "LOSES, as it must" } else { "NOTHING IS FOUND" });
        rows.push(report::row(control, &verdict, if lost > 0 { "loses, as it must" } else { "FINDS NOTHING" }));
        verdict.findings.iter().take(2).for_each(|finding| println!("    {finding}"));
        assert!(lost > 0 && verdict.complaints.is_empty(), "the checker finds no loss: {:?}", verdict.complaints);
    }
    set.change_durability("any(1)");
    rows
}

/// Standbys receive nothing for a moment in which writes are acknowledged.
fn lag(run: &mut Run) {
    run.set.ground.attach(&run.primary, Net::Replication, false);
    run.wait(BEFORE / 2);
}

fn allow_loss(run: &mut Run) {
    run.wait(Duration::from_millis(500));
    let said = run.set.admin("p1", "FAILOVER s1 ALLOW DATA LOSS");
    println!("  failover: {said:?}");
    run.wait_for_another_term();
}

fn kill(run: &mut Run) {
    lag(run);
    run.set.ground.signal(&run.primary, "postgres", Signal::SIGKILL);
    allow_loss(run);
    run.set.ground.attach(&run.primary, Net::Replication, true);
}

fn isolate(run: &mut Run) {
    lag(run);
    run.set.ground.attach(&run.primary, Net::Client, false);
    allow_loss(run);
    Net::ALL.iter().for_each(|net| run.set.ground.attach(&run.primary, *net, true));
}

fn two(run: &mut Run) {
    lag(run);
    let standby = run.standbys().remove(0);
    run.set.ground.signal(&standby, "postgres", Signal::SIGKILL);
    run.set.ground.signal(&run.primary, "postgres", Signal::SIGKILL);
    allow_loss(run);
    run.set.ground.attach(&run.primary, Net::Replication, true);
}
