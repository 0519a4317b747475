//! Statements that take several steps, with several writers and with connections cut between the steps: rows that move
//! to another shard with their key, and rows that go through the proxy. No row is lost, none is there twice.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Placement, eventually};
use crate::raw::Raw;

const ROWS: i64 = 30;
const KEYS: i64 = 300;
const WRITERS: u64 = 4;

/// What the writers were told of their moves.
#[derive(Default)]
struct Told {
    /// Rows of moves that were acknowledged.
    moved: AtomicI64,
    /// Moves of which nobody said how they ended.
    open: AtomicI64,
    tried: AtomicI64,
    stop: AtomicBool,
}

/// What the checker looks at: the rows' labels, the sum of their counts, and what was told.
#[derive(Clone, Debug)]
struct Record {
    labels: Vec<i64>,
    sum: i64,
    moved: i64,
    open: i64,
    misplaced: Vec<String>,
    prepared: usize,
}

fn complaints(record: &Record) -> Vec<String> {
    let mut found = record.misplaced.clone();
    let seen: BTreeSet<i64> = record.labels.iter().copied().collect();
    if seen.len() != record.labels.len() {
        found.push("a row is there twice".to_owned());
    }
    if seen != (1..=ROWS).collect() {
        found.push(format!("{} of {ROWS} rows are there", seen.len()));
    }
    if !(record.moved..=record.moved + record.open).contains(&record.sum) {
        found.push(format!("{} moves counted, {} acknowledged, {} open", record.sum, record.moved, record.open));
    }
    if record.prepared > 0 {
        found.push(format!("{} prepared transactions are left", record.prepared));
    }
    found
}

fn cluster() -> Cluster {
    let cluster = Cluster::start(2, &[("items", Placement::Key(&["id"])), ("copies", Placement::Key(&["id"]))]);
    let mut app = cluster.app();
    app.must("CREATE TABLE items (id bigint PRIMARY KEY, label int NOT NULL, n int NOT NULL DEFAULT 0)");
    app.must("CREATE TABLE copies (id bigint PRIMARY KEY, run int NOT NULL)");
    let rows: Vec<String> = (1..=ROWS).map(|id| format!("({id}, {id})")).collect();
    app.must(&format!("INSERT INTO items (id, label) VALUES {}", rows.join(", ")));
    cluster
}

/// Moves rows to other keys until told to stop; a broken session is opened anew.
fn work(port: u16, told: &Told, seed: u64) {
    let state = AtomicU64::new(seed);
    let below = |bound: i64| {
        let next = state.load(Ordering::Relaxed).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        state.store(next, Ordering::Relaxed);
        1 + i64::try_from(next >> 33).unwrap() % bound
    };
    while !told.stop.load(Ordering::Relaxed) {
        let Ok(mut session) = Raw::connect(port, "app", "app") else { continue };
        session.set_patience(Duration::from_secs(20));
        let mut is_alive = true;
        while is_alive && !told.stop.load(Ordering::Relaxed) {
            told.tried.fetch_add(1, Ordering::Relaxed);
            let (label, key) = (below(ROWS), below(KEYS));
            let sql = match below(3) {
                1 => format!("UPDATE items SET id = {key}, n = n + 1 WHERE id = {}", below(KEYS)),
                // Whose shard is not known, and several writers want the same row.
                _ => format!("UPDATE items SET id = {key}, n = n + 1 WHERE label = {label} RETURNING id"),
            };
            is_alive = match session.simple(&sql) {
                Ok(reply) => match reply.sqlstate() {
                    "00000" => {
                        let tag = reply.answers[0].tag.clone().unwrap_or_default();
                        let count: i64 = tag.rsplit(' ').next().unwrap().parse().unwrap();
                        told.moved.fetch_add(count, Ordering::Relaxed);
                        true
                    }
                    "08007" | "40003" => {
                        told.open.fetch_add(1, Ordering::Relaxed);
                        true
                    }
                    // Rolled back: keys that are taken, deadlocks, servers that went away.
                    _ => true,
                },
                Err(_) => {
                    told.open.fetch_add(1, Ordering::Relaxed);
                    false
                }
            };
        }
    }
}

fn record(cluster: &Cluster, told: &Told) -> Record {
    let prepared = || {
        let count = |server: &crate::cluster::Server| {
            server.superuser().must("SELECT gid FROM pg_prepared_xacts").texts().len()
        };
        cluster.shards.iter().map(count).sum::<usize>()
    };
    eventually(Duration::from_secs(20), || prepared() == 0);
    let mut app = cluster.app();
    let rows = app.must("SELECT id, label, n FROM items").texts();
    let number = |text: &String| text.parse::<i64>().unwrap();
    let misplaced = rows
        .iter()
        .filter(|row| app.must(&format!("SELECT label FROM items WHERE id = {}", row[0])).value() != row[1])
        .map(|row| format!("row {row:?} is not where its key belongs"))
        .collect();
    Record {
        labels: rows.iter().map(|row| number(&row[1])).collect(),
        sum: rows.iter().map(|row| number(&row[2])).sum(),
        moved: told.moved.load(Ordering::Relaxed),
        open: told.open.load(Ordering::Relaxed),
        misplaced,
        prepared: prepared(),
    }
}

#[test]
fn writers_that_move_the_same_rows_lose_none() {
    let cluster = cluster();
    let told = Told::default();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (port, told) = (cluster.port, &told);
            scope.spawn(move || work(port, told, 11 + writer));
        }
        let enough = || told.moved.load(Ordering::Relaxed) >= 150;
        eventually(Duration::from_secs(60), enough);
        told.stop.store(true, Ordering::Relaxed);
    });
    let record = record(&cluster, &told);
    println!("{} tried, {} moved, {} open", told.tried.load(Ordering::Relaxed), record.moved, record.open);
    assert_eq!(complaints(&record), Vec::<String>::new());
    assert!(record.moved >= 50, "{record:?}");
    assert_eq!(record.open, 0, "nothing was cut");
}

#[test]
fn steps_that_are_cut_happen_whole_or_not_at_all() {
    let cluster = cluster();
    let told = Told::default();
    let (whole, none) = (AtomicI64::new(0), AtomicI64::new(0));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS - 1 {
            let (port, told) = (cluster.port, &told);
            scope.spawn(move || work(port, told, 23 + writer));
        }
        let (port, told, whole, none) = (cluster.port, &told, &whole, &none);
        scope.spawn(move || copy(port, told, whole, none));
        let mut killers: Vec<Raw> = cluster.shards.iter().map(|shard| shard.superuser()).collect();
        let begun = Instant::now();
        let (mut killed, mut seen) = (0, 0);
        while begun.elapsed() < Duration::from_secs(20) && killed < 60 {
            // Some statements have to come to their end.
            let tried = told.tried.load(Ordering::Relaxed);
            if tried < seen + 10 {
                std::thread::yield_now();
                continue;
            }
            seen = tried;
            for killer in &mut killers {
                // One that is at work: between the steps, or in one.
                let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' \
                           AND xact_start IS NOT NULL ORDER BY random() LIMIT 1";
                killed += killer.must(sql).texts().len();
            }
        }
        told.stop.store(true, Ordering::Relaxed);
        println!("{killed} backends ended");
    });
    let record = record(&cluster, &told);
    println!("{} tried, {} moved, {} open", told.tried.load(Ordering::Relaxed), record.moved, record.open);
    assert_eq!(complaints(&record), Vec::<String>::new());
    let runs = cluster.app().must("SELECT run, count(*) FROM copies GROUP BY run ORDER BY run").texts();
    let halves: Vec<_> = runs.iter().filter(|row| row[1] != "40").collect();
    assert!(halves.is_empty(), "INSERT … SELECT left parts: {halves:?}");
    let (whole, none) = (whole.load(Ordering::Relaxed), none.load(Ordering::Relaxed));
    println!("{whole} copies acknowledged, {none} not, {} there", runs.len());
    assert!(runs.len() >= usize::try_from(whole).unwrap(), "an acknowledged copy is lost");
}

/// Rows of a query that go through the proxy, to keys of both shards.
fn copy(port: u16, told: &Told, whole: &AtomicI64, none: &AtomicI64) {
    let mut run = 0;
    while !told.stop.load(Ordering::Relaxed) {
        let Ok(mut session) = Raw::connect(port, "app", "app") else { continue };
        session.set_patience(Duration::from_secs(20));
        while !told.stop.load(Ordering::Relaxed) {
            run += 1;
            let sql =
                format!("INSERT INTO copies (id, run) SELECT {run} * 1000 + n, {run} FROM generate_series(1, 40) n");
            match session.simple(&sql) {
                Ok(reply) if reply.fault().is_none() => {
                    whole.fetch_add(1, Ordering::Relaxed);
                }
                Ok(_) => {
                    none.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => {
                    none.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
    }
}

#[test]
fn the_checker_finds_what_is_planted() {
    let good = Record { labels: (1..=ROWS).collect(), sum: 7, moved: 6, open: 1, misplaced: Vec::new(), prepared: 0 };
    assert_eq!(complaints(&good), Vec::<String>::new());
    let plant = |change: fn(&mut Record)| {
        let mut record = good.clone();
        change(&mut record);
        complaints(&record)
    };
    assert!(!plant(|record| record.labels.push(3)).is_empty());
    assert!(!plant(|record| record.labels.truncate(3)).is_empty());
    assert!(!plant(|record| record.sum = 5).is_empty());
    assert!(!plant(|record| record.sum = 8).is_empty());
    assert!(!plant(|record| record.prepared = 1).is_empty());
    assert!(!plant(|record| record.misplaced.push("row".to_owned())).is_empty());
}
