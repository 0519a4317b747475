//! pgbench through the proxy: every script in every protocol without an error, and the money adds up.
//!
//! Scale 1, 4 clients, 3 s a run; with `OSTRAKON_FULL=1` scale 10, 16 clients, 30 s.

use std::process::Command;

use crate::cluster::{Cluster, Server, pg_bin, run};
use crate::raw::Raw;

struct Size {
    scale: u32,
    clients: u32,
    seconds: u32,
}

fn size() -> Size {
    if std::env::var_os("OSTRAKON_FULL").is_some() {
        Size { scale: 10, clients: 16, seconds: 30 }
    } else {
        Size { scale: 1, clients: 4, seconds: 3 }
    }
}

fn pgbench(port: u16) -> Command {
    let mut command = Command::new(pg_bin().join("pgbench"));
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "app"]);
    command
}

fn initialise(port: u16, scale: u32) {
    run(pgbench(port).args(["-i", "-q", "-s", &scale.to_string(), "app"]));
}

/// The number after a label in pgbench's report.
fn reported(report: &str, label: &str) -> i64 {
    let line = report.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_else(|| panic!("{label}:\n{report}"));
    let digits: String = line.trim().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// One run without an error: transactions processed.
fn bench(port: u16, size: &Size, script: &[&str], protocol: &str) -> i64 {
    let clients = size.clients.to_string();
    let seconds = size.seconds.to_string();
    let report =
        run(pgbench(port).args(script).args(["-n", "-M", protocol, "-c", &clients, "-j", "2", "-T", &seconds, "app"]));
    let processed = reported(&report, "number of transactions actually processed:");
    assert_eq!(reported(&report, "number of failed transactions:"), 0, "{report}");
    assert!(processed > 0, "{report}");
    println!("{script:?} {protocol}: {processed} transactions");
    processed
}

/// What the tables say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sums {
    accounts: i64,
    tellers: i64,
    branches: i64,
    history: i64,
    history_rows: i64,
}

impl Sums {
    fn read(sessions: &mut [Raw]) -> Self {
        let mut sum =
            |query: &str| -> i64 { sessions.iter_mut().map(|s| s.must(query).value().parse::<i64>().unwrap()).sum() };
        Self {
            accounts: sum("SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts"),
            tellers: sum("SELECT coalesce(sum(tbalance), 0) FROM pgbench_tellers"),
            branches: sum("SELECT coalesce(sum(bbalance), 0) FROM pgbench_branches"),
            history: sum("SELECT coalesce(sum(delta), 0) FROM pgbench_history"),
            history_rows: sum("SELECT count(*) FROM pgbench_history"),
        }
    }
}

/// What is wrong after a run of the default script (`whole`) or of the simple update.
fn complaints(before: &Sums, after: &Sums, processed: i64, whole: bool) -> Vec<String> {
    let mut found = Vec::new();
    let moved = after.history - before.history;
    let mut expect = |what: &str, wanted: i64, got: i64| {
        if wanted != got {
            found.push(format!("{what}: expected {wanted}, got {got}"));
        }
    };
    expect("history rows", processed, after.history_rows - before.history_rows);
    expect("accounts", moved, after.accounts - before.accounts);
    expect("tellers", if whole { moved } else { 0 }, after.tellers - before.tellers);
    expect("branches", if whole { moved } else { 0 }, after.branches - before.branches);
    found
}

#[test]
fn pgbench_runs_through_the_proxy_without_an_error_and_the_money_adds_up() {
    let size = size();
    let cluster = Cluster::start(2, &[]);
    for (table, key) in [("accounts", "aid"), ("branches", "bid"), ("tellers", "tid"), ("history", "aid")] {
        cluster.command(&["table", "shard", &format!("pgbench_{table}"), "--key", key]);
    }
    initialise(cluster.port, size.scale);
    let mut shards: Vec<Raw> = cluster.shards.iter().map(Server::superuser).collect();
    for shard in &mut shards {
        let accounts: i64 = shard.must("SELECT count(*) FROM pgbench_accounts").value().parse().unwrap();
        assert!(accounts > 0, "a shard holds no account");
    }
    for protocol in ["simple", "extended", "prepared"] {
        bench(cluster.port, &size, &["-S"], protocol);
        for (script, whole) in [(&["-N"][..], false), (&[], true)] {
            let before = Sums::read(&mut shards);
            let processed = bench(cluster.port, &size, script, protocol);
            let after = Sums::read(&mut shards);
            assert_eq!(complaints(&before, &after, processed, whole), Vec::<String>::new(), "{script:?} {protocol}");
        }
    }
    assert_eq!(Sums::read(&mut [cluster.app()]), Sums::read(&mut shards), "through the proxy and on the shards");
    for shard in &mut shards {
        assert_eq!(shard.must("SELECT count(*) FROM pg_prepared_xacts").value(), "0");
    }
}

#[test]
fn a_lost_update_or_a_lost_row_is_seen_by_the_checker() {
    let servers = Server::start_all(&["bench".into()]);
    let size = Size { scale: 1, clients: 2, seconds: 1 };
    initialise(servers[0].port, 1);
    let mut sessions = [servers[0].superuser()];
    let before = Sums::read(&mut sessions);
    let processed = bench(servers[0].port, &size, &[], "simple");
    let right = Sums::read(&mut sessions);
    assert_eq!(complaints(&before, &right, processed, true), Vec::<String>::new());
    assert_ne!(complaints(&before, &right, processed + 1, true), Vec::<String>::new());
    for change in [
        "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1",
        "UPDATE pgbench_tellers SET tbalance = tbalance - 1 WHERE tid = 1",
        "UPDATE pgbench_branches SET bbalance = bbalance + 7 WHERE bid = 1",
        "DELETE FROM pgbench_history WHERE ctid = (SELECT min(ctid) FROM pgbench_history WHERE delta <> 0)",
    ] {
        sessions[0].must("BEGIN");
        sessions[0].must(change);
        assert_ne!(complaints(&before, &Sums::read(&mut sessions), processed, true), Vec::<String>::new(), "{change}");
        sessions[0].must("ROLLBACK");
    }
}
