//! What stays on one shard costs one connection and one phase, whatever the number of shards: read in the servers' logs.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cluster::{Cluster, Placement, eventually};

const SHARDS: usize = 5;

/// Statements of the role `app` in a server's log: process id and text.
fn statements(log: &str) -> Vec<(String, String)> {
    let of_app = |line: &str| {
        let (pid, rest) = line.strip_prefix("told app ")?.split_once(' ')?;
        let (_, sql) = rest.split_once("statement: ").or_else(|| rest.split_once("execute "))?;
        Some((pid.to_owned(), sql.to_owned()))
    };
    log.lines().filter_map(of_app).collect()
}

#[test]
fn a_transaction_of_one_shard_is_one_connection_and_one_phase() {
    let cluster =
        Cluster::start(SHARDS, &[("accounts", Placement::Key(&["id"])), ("lines", Placement::Key(&["account"]))]);
    let mut app = cluster.app();
    app.must("CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint)");
    app.must("CREATE TABLE lines (account bigint, n bigint, PRIMARY KEY (account, n))");
    for shard in &cluster.shards {
        let mut session = shard.superuser();
        session.must("ALTER SYSTEM SET log_line_prefix = 'told %u %p '");
        session.must("ALTER SYSTEM SET log_statement = 'all'");
        session.must("SELECT pg_reload_conf()");
        drop(session);
        assert!(eventually(Duration::from_secs(10), || {
            shard.superuser().must("SELECT 'marked'");
            shard.log().contains("told postgres") && shard.log().contains("SELECT 'marked'")
        }));
    }
    one_shard_sees(&cluster, "INSERT INTO accounts (id, balance) VALUES (42, 7)", 42);
    // Who gets the row is asked which columns are meant, and nobody else. The home shard is one of five.
    for id in 50..54 {
        one_shard_sees(&cluster, &format!("INSERT INTO accounts VALUES ({id}, 7)"), id);
    }

    // The control: with a second shard's row the same look finds two phases.
    let before: Vec<usize> = cluster.shards.iter().map(|shard| shard.log().len()).collect();
    app.must("INSERT INTO accounts (id, balance) SELECT n, 1 FROM generate_series(100, 140) n");
    let seen: String = cluster.shards.iter().zip(before).map(|(shard, at)| shard.log()[at..].to_owned()).collect();
    assert!(seen.contains("PREPARE TRANSACTION") && seen.contains("COMMIT PREPARED"), "{seen}");
}

/// A transaction that begins with this statement, and goes on with its row.
fn one_shard_sees(cluster: &Cluster, first: &str, id: i64) {
    let mut app = cluster.app();
    // Whatever the sessions before left in the pools is asked to forget it first.
    app.must("SELECT 1");
    let before: Vec<usize> = cluster.shards.iter().map(|shard| shard.log().len()).collect();
    app.must("BEGIN");
    app.must(first);
    app.must(&format!("INSERT INTO lines (account, n) VALUES ({id}, 1), ({id}, 2)"));
    app.must(&format!("UPDATE accounts SET balance = balance - 1 WHERE id = {id}"));
    let sql = "SELECT a.balance FROM accounts a JOIN lines l ON l.account = a.id";
    assert_eq!(app.must(&format!("{sql} WHERE a.id = {id} AND l.n = 2")).value(), "6");
    app.must("COMMIT");

    let said: Vec<Vec<(String, String)>> =
        cluster.shards.iter().zip(before).map(|(shard, at)| statements(&shard.log()[at..])).collect();
    let touched: Vec<&Vec<(String, String)>> = said.iter().filter(|said| !said.is_empty()).collect();
    assert_eq!(touched.len(), 1, "shards that saw the transaction");
    let connections: BTreeSet<&String> = touched[0].iter().map(|(pid, _)| pid).collect();
    assert_eq!(connections.len(), 1, "connections that served it");
    let texts: Vec<&str> = touched[0].iter().map(|(_, sql)| sql.as_str()).collect();
    assert!(texts.iter().any(|sql| sql.starts_with("COMMIT")), "{texts:?}");
    assert!(!texts.iter().any(|sql| sql.contains("PREPARED") || sql.contains("PREPARE TRANSACTION")), "{texts:?}");
    assert!(!texts.iter().any(|sql| sql.contains("ostrakon.decision")), "{texts:?}");
}
