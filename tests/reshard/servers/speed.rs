//! How fast rows move, beside a parallel COPY by hand of the same rows on the same servers, indexes built after it.

use std::process::{Command, Stdio};
use std::time::Instant;

use super::business;
use super::ground::Ground;
use crate::cluster::pg_bin;

/// Pairs of connections that copy at a time: a job's one step has one pair.
const PAIRS: usize = 1;

const TABLES: [(&str, &str); 4] =
    [("lineitem", "l_orderkey"), ("orders", "o_orderkey"), ("customer", "c_custkey"), ("pgbench_accounts", "aid")];

/// `make reshard-copy`: prints both, and their ratio.
#[test]
fn a_job_is_compared_with_a_copy_by_hand() {
    let percent = std::env::var("OSTRAKON_COPY_PERCENT").ok().and_then(|text| text.parse().ok());
    let Some(percent) = percent.or_else(|| std::env::var_os("OSTRAKON_FULL").map(|_| 40)) else { return };
    let ground = Ground::new(1_000);
    business::make(&ground, percent);
    ground.run(&["shard", "add", "--replicas", "0"]);
    let mut source = ground.server("s1a");
    source.must("VACUUM ANALYZE");
    let by_hand = copy_by_hand(&ground);
    let begun = Instant::now();
    ground.run(&["reshard", "start", "--yes", "--wait"]);
    let job = ground.job();
    let rows = job["rows_moved"].as_u64().unwrap() as f64;
    let by_job = rows / begun.elapsed().as_secs_f64();
    println!(
        "by hand, {PAIRS} pairs of connections: {by_hand:.0} rows/s; the job: {rows:.0} rows, {by_job:.0} rows/s; {:.0} % of it",
        by_job / by_hand * 100.0
    );
    println!("{}", ground.run(&["reshard", "status"]).trim());
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
}

/// Half of the rows of each table into a schema without indexes, which are built when the rows are there. Rows a second.
fn copy_by_hand(ground: &Ground) -> f64 {
    let (from, mut target) = (ground.port("s1a"), ground.server("s2a"));
    let to = ground.port("s2a");
    target.must("CREATE SCHEMA hand");
    let begun = Instant::now();
    for (table, _) in TABLES {
        target.must(&format!("CREATE TABLE hand.{table} (LIKE public.{table})"));
    }
    for tables in TABLES.chunks(PAIRS) {
        let copies: Vec<_> = tables.iter().map(|(table, key)| copy(from, to, table, key)).collect();
        for (mut out, mut into) in copies {
            assert!(out.wait().unwrap().success() && into.wait().unwrap().success());
        }
    }
    for sql in [
        "ALTER TABLE hand.lineitem ADD PRIMARY KEY (l_orderkey, l_linenumber)",
        "ALTER TABLE hand.orders ADD PRIMARY KEY (o_orderkey)",
        "ALTER TABLE hand.customer ADD PRIMARY KEY (c_custkey)",
        "ALTER TABLE hand.pgbench_accounts ADD PRIMARY KEY (aid)",
        "CREATE INDEX ON hand.lineitem (l_partkey)",
        "CREATE INDEX ON hand.orders (o_custkey)",
    ] {
        target.must(sql);
    }
    let took = begun.elapsed().as_secs_f64();
    let count = TABLES.map(|(table, _)| format!("(SELECT count(*) FROM hand.{table})")).join(" + ");
    let rows: f64 = target.must(&format!("SELECT {count}")).value().parse().unwrap();
    target.must("DROP SCHEMA hand CASCADE; CHECKPOINT");
    println!("by hand: {rows:.0} rows in {took:.1} s, indexes included");
    rows / took
}

fn copy(from: u16, to: u16, table: &str, key: &str) -> (std::process::Child, std::process::Child) {
    let psql = |port: u16, sql: &str| {
        let mut command = Command::new(pg_bin().join("psql"));
        command.args([
            "-X",
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-U",
            "postgres",
            "-d",
            "app",
            "-c",
            sql,
        ]);
        command
    };
    let half = format!("((hashint8extended({key}, 8816678312871386365) & 16383) + 43235) & 16383 < 8192");
    let out = format!("COPY (SELECT * FROM {table} WHERE {half}) TO STDOUT (FORMAT binary)");
    let mut out = psql(from, &out).stdout(Stdio::piped()).spawn().unwrap();
    let rows = out.stdout.take().unwrap();
    let into = psql(to, &format!("COPY hand.{table} FROM STDIN (FORMAT binary)")).stdin(rows).spawn().unwrap();
    (out, into)
}
