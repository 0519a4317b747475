//! Proxies that end or hang, commands, and what clients do that they should not.

use std::thread::JoinHandle;

use nix::sys::signal::Signal;

use super::{Moves, PLAIN, Run, Scenario};
use crate::set::{PROXIES, app};

pub fn scenarios() -> Vec<Scenario> {
    let plain = |number, name, fault| Scenario { number, name, fault, outage_max_ms: Some(8_000), ..PLAIN };
    vec![
        Scenario {
            outage_max_ms: Some(15_000),
            ..plain(14, "the proxies are killed in turn while the primary is replaced", kill_controller)
        },
        plain(15, "the proxy that leads hangs, and goes on after another took over", hang_controller),
        Scenario {
            is_core: true,
            keeps_connections: true,
            outage_max_ms: Some(3_000),
            ..plain(17, "a switchover under load", switchover)
        },
        plain(18, "cancels and timeouts while standbys are away", cancels),
        plain(23, "a proxy is killed between PREPARE and COMMIT, and a primary with it", kill_coordinator),
        Scenario {
            outage_max_ms: Some(2_500),
            term: Moves::Stays,
            ..plain(24, "sessions try to weaken what commits wait for", weaken)
        },
    ]
}

/// Both in turn: one of them has the lease, at some phase of its work.
fn kill_controller(run: &mut Run) {
    run.set.ground.signal(&run.primary, "postgres", Signal::SIGKILL);
    run.wait_ms(120);
    for proxy in PROXIES {
        run.set.ground.signal(proxy, "ostrakon", Signal::SIGKILL);
        run.wait_ms(250);
        run.set.start_proxy(proxy);
        run.wait_ms(1_500);
    }
    run.wait_for_another_term();
}

fn hang_controller(run: &mut Run) {
    for proxy in PROXIES {
        let (primary, term) = run.set.leader("s1");
        (run.primary, run.term) = (primary, term);
        run.set.ground.signal(proxy, "ostrakon", Signal::SIGSTOP);
        run.wait_ms(200);
        run.set.ground.signal(&run.primary, "postgres", Signal::SIGKILL);
        run.wait_ms(5_000);
        run.set.ground.signal(proxy, "ostrakon", Signal::SIGCONT);
        run.wait_for_another_term();
        run.set.repair();
    }
}

fn switchover(run: &mut Run) {
    let said = run.set.admin("p1", "SWITCHOVER s1");
    println!("  switchover: {said:?}");
    run.claim(said.is_ok(), "the switchover is done");
    run.wait_for_another_term();
}

/// Every statement of these sessions is cancelled by the server's own limit while commits cannot be acknowledged.
fn cancels(run: &mut Run) {
    let entrance = run.set.entrance();
    let base = 900_000_000;
    let session = |number: i64| {
        std::thread::spawn(move || {
            let mut acknowledged = Vec::new();
            let Ok(mut raw) = app(entrance) else { return acknowledged };
            let _ = raw.simple("SET statement_timeout = '200ms'");
            for turn in 0..40 {
                let key = base + number * 1_000 + turn;
                match raw.simple(&format!("INSERT INTO inserts (k) VALUES ({key})")) {
                    Ok(reply) if reply.fault().is_none() => acknowledged.push(key),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            acknowledged
        })
    };
    let sessions: Vec<JoinHandle<Vec<i64>>> = (0..4).map(session).collect();
    let standbys = run.standbys();
    standbys.iter().for_each(|standby| _ = run.set.ground.signal(standby, "postgres", Signal::SIGSTOP));
    run.wait_ms(1_500);
    // Who has the right cancels backends on the server itself.
    let sql = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let _ = run.set.ask(&run.primary, sql);
    run.wait_ms(500);
    standbys.iter().for_each(|standby| _ = run.set.ground.signal(standby, "postgres", Signal::SIGCONT));
    run.set.ground.signal(&run.primary, "postgres", Signal::SIGKILL);
    run.wait_for_another_term();
    let acknowledged: Vec<i64> = sessions.into_iter().flat_map(|session| session.join().unwrap()).collect();
    let mut raw = app(entrance).unwrap();
    raw.simple("SET ostrakon.read_from = 'primary'").unwrap();
    let there = raw.simple(&format!("SELECT k FROM inserts WHERE k >= {base}")).unwrap().texts();
    let is_there = |key: &i64| there.iter().any(|row| row[0] == key.to_string());
    let lost = acknowledged.iter().filter(|key| !is_there(key)).count();
    run.claim(lost == 0, &format!("{lost} of {} rows with timeouts are lost", acknowledged.len()));
}

fn kill_coordinator(run: &mut Run) {
    for proxy in PROXIES {
        run.set.ground.signal(proxy, "ostrakon", Signal::SIGKILL);
    }
    run.set.ground.signal(&run.primary, "postgres", Signal::SIGKILL);
    run.wait_ms(500);
    PROXIES.iter().for_each(|proxy| run.set.start_proxy(proxy));
    run.wait_for_another_term();
}

fn weaken(run: &mut Run) {
    let mut raw = app(run.set.entrance()).unwrap();
    for text in [
        "SET synchronous_commit = off",
        "SET SESSION synchronous_commit TO local",
        "SELECT set_config('synchronous_commit', 'off', false)",
        "ALTER ROLE app SET synchronous_commit = off",
        "ALTER DATABASE app SET synchronous_commit = off",
    ] {
        let said = raw.simple(text).map(|reply| reply.sqlstate().to_owned());
        run.claim(said.as_deref().ok() == Some("42501"), &format!("{text} is refused, not answered {said:?}"));
    }
    let is = raw.simple("SHOW synchronous_commit").unwrap().value();
    run.claim(is == "on", &format!("commits wait, synchronous_commit is {is}"));
}
