//! Transfers over two shards while the proxy is killed: all or nothing, and nothing acknowledged is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use crate::cluster::{Cluster, Placement, Server, eventually};
use crate::raw::Raw;

const ACCOUNTS: i64 = 40;
const OPENING: i64 = 1_000;
const WRITERS: u64 = 4;

/// What the writer was told about a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Committed,
    RolledBack,
    /// The connection broke, or the proxy said that it does not know.
    Nothing,
}

/// Everything the checker looks at.
#[derive(Clone, Debug, Default)]
pub struct Record {
    told: BTreeMap<i64, Told>,
    /// Balance of each account.
    balances: BTreeMap<i64, i64>,
    /// Transfer, account, amount.
    pub ledger: Vec<(i64, i64, i64)>,
    prepared_left: usize,
}

/// What is wrong with a record.
pub fn complaints(record: &Record) -> Vec<String> {
    let mut found = Vec::new();
    if record.prepared_left > 0 {
        found.push(format!("{} prepared transactions are left", record.prepared_left));
    }
    let total: i64 = record.balances.values().sum();
    if total != ACCOUNTS * OPENING {
        found.push(format!("the total is {total}, not {}", ACCOUNTS * OPENING));
    }
    let mut expected: BTreeMap<i64, i64> = (1..=ACCOUNTS).map(|account| (account, OPENING)).collect();
    let mut halves: BTreeMap<i64, usize> = BTreeMap::new();
    for (transfer, account, amount) in &record.ledger {
        *expected.entry(*account).or_default() += amount;
        *halves.entry(*transfer).or_default() += 1;
    }
    for (account, balance) in &expected {
        if record.balances.get(account) != Some(balance) {
            found.push(format!("account {account}: {:?}, by the ledger {balance}", record.balances.get(account)));
        }
    }
    for (transfer, count) in &halves {
        if *count != 2 {
            found.push(format!("transfer {transfer} has {count} ledger rows"));
        }
    }
    for (transfer, told) in &record.told {
        match (told, halves.contains_key(transfer)) {
            (Told::Committed, false) => found.push(format!("acknowledged transfer {transfer} is lost")),
            (Told::RolledBack, true) => {
                found.push(format!("transfer {transfer} was reported as rolled back and is there"))
            }
            _ => {}
        }
    }
    let known: BTreeSet<i64> = record.told.keys().copied().collect();
    for transfer in halves.keys().filter(|transfer| !known.contains(transfer)) {
        found.push(format!("transfer {transfer} was never made"));
    }
    found
}

/// One transfer; what the writer was told, and whether the session can go on.
fn transfer(session: &mut Raw, number: i64, from: i64, to: i64, amount: i64) -> (Told, bool) {
    let statements = [
        "BEGIN".to_owned(),
        format!("UPDATE accounts SET balance = balance - {amount} WHERE id = {from}"),
        format!("UPDATE accounts SET balance = balance + {amount} WHERE id = {to}"),
        format!("INSERT INTO ledger (account, transfer, amount) VALUES ({from}, {number}, -{amount})"),
        format!("INSERT INTO ledger (account, transfer, amount) VALUES ({to}, {number}, {amount})"),
    ];
    for statement in &statements {
        match session.simple(statement) {
            Ok(reply) if reply.fault().is_none() => {}
            // Nothing was asked to commit: whatever went wrong, it is rolled back.
            Ok(_) => {
                let alive = session.simple("ROLLBACK").is_ok();
                return (Told::RolledBack, alive);
            }
            Err(_) => return (Told::RolledBack, false),
        }
    }
    match session.simple("COMMIT") {
        Ok(reply) => match (reply.sqlstate(), reply.answers.first().and_then(|answer| answer.tag.as_deref())) {
            ("00000", Some("COMMIT")) => (Told::Committed, true),
            ("08007" | "40003" | "XX000" | "57P01", _) => (Told::Nothing, false),
            _ => (Told::RolledBack, session.simple("ROLLBACK").is_ok()),
        },
        Err(_) => (Told::Nothing, false),
    }
}

/// Makes transfers until told to stop.
pub struct Writers {
    stop: AtomicBool,
    next: AtomicI64,
    told: Mutex<BTreeMap<i64, Told>>,
}

impl Writers {
    /// Transfers that were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.told.lock().unwrap().values().filter(|told| **told == Told::Committed).count()
    }

    /// Transfers between two accounts until told to stop; a broken session is opened anew.
    fn work(&self, port: u16, seed: u64) {
        let mut state = seed;
        let mut below = |bound: i64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            i64::try_from(state >> 33).unwrap() % bound
        };
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(mut session) = Raw::connect(port, "app", "app") else {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            let mut alive = true;
            while alive && !self.stop.load(Ordering::Relaxed) {
                // Always from the smaller account number: writers never wait for each other in a circle.
                let first = 1 + below(ACCOUNTS - 1);
                let second = first + 1 + below(ACCOUNTS - first);
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                let (told, goes_on) = transfer(&mut session, number, first, second, 1 + below(20) - 10);
                self.told.lock().unwrap().insert(number, told);
                alive = goes_on;
            }
        }
    }
}

pub fn create(session: &mut Raw) {
    session.must("CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL)");
    session.must(
        "CREATE TABLE ledger (account bigint, transfer bigint, amount bigint NOT NULL, PRIMARY KEY (account, transfer))",
    );
    let rows: Vec<String> = (1..=ACCOUNTS).map(|account| format!("({account}, {OPENING})")).collect();
    session.must(&format!("INSERT INTO accounts (id, balance) VALUES {}", rows.join(", ")));
}

/// Reads the shards themselves; waits until nothing is in doubt any more.
pub fn read(shards: &[Server], told: BTreeMap<i64, Told>) -> Record {
    let mut record = Record { told, ..Record::default() };
    let mut sessions: Vec<Raw> = shards.iter().map(Server::superuser).collect();
    let mut prepared = || -> usize {
        let count = |s: &mut Raw| s.must("SELECT count(*) FROM pg_prepared_xacts").value().parse::<usize>().unwrap();
        sessions.iter_mut().map(count).sum()
    };
    eventually(Duration::from_secs(10), || prepared() == 0);
    record.prepared_left = prepared();
    for session in &mut sessions {
        for row in session.must("SELECT id, balance FROM accounts").texts() {
            record.balances.insert(row[0].parse().unwrap(), row[1].parse().unwrap());
        }
        for row in session.must("SELECT transfer, account, amount FROM ledger").texts() {
            record.ledger.push((row[0].parse().unwrap(), row[1].parse().unwrap(), row[2].parse().unwrap()));
        }
    }
    record
}

pub fn summary(record: &Record) -> String {
    let count = |told: Told| record.told.values().filter(|value| **value == told).count();
    format!(
        "{} acknowledged, {} rolled back, {} unknown, {} ledger rows",
        count(Told::Committed),
        count(Told::RolledBack),
        count(Told::Nothing),
        record.ledger.len()
    )
}

/// Runs the writers while `disturb` works.
pub fn write_while(port: u16, count: u64, disturb: impl FnOnce(&Writers)) -> BTreeMap<i64, Told> {
    let writers = Writers { stop: AtomicBool::new(false), next: AtomicI64::new(1), told: Mutex::default() };
    std::thread::scope(|scope| {
        for seed in 1..=count {
            let writers = &writers;
            scope.spawn(move || writers.work(port, seed));
        }
        disturb(&writers);
        writers.stop.store(true, Ordering::Relaxed);
    });
    writers.told.into_inner().unwrap()
}

pub const TABLES: [(&str, Placement); 2] =
    [("accounts", Placement::Key(&["id"])), ("ledger", Placement::Key(&["account"]))];

#[test]
fn transfers_over_two_shards_are_whole_after_the_proxy_is_killed() {
    let mut cluster = Cluster::start(3, &TABLES);
    create(&mut cluster.app());
    let rounds = if std::env::var_os("OSTRAKON_FULL").is_some() { 30 } else { 5 };
    let port = cluster.port;
    let told = write_while(port, WRITERS, |_| {
        for round in 0..rounds {
            std::thread::sleep(Duration::from_millis(400 + 137 * (round % 5)));
            cluster.kill_proxy();
            cluster.start_proxy();
        }
        std::thread::sleep(Duration::from_millis(300));
    });
    let record = read(&cluster.shards, told);
    println!("{}", summary(&record));
    assert_eq!(complaints(&record), Vec::<String>::new(), "{}", summary(&record));
    let committed = record.told.values().filter(|told| **told == Told::Committed).count();
    assert!(committed > 50, "too few transfers to mean anything: {}", summary(&record));
    // Every account that two-phase commit touched can still be used.
    assert_eq!(cluster.app().must("SELECT sum(balance) FROM accounts").value(), (ACCOUNTS * OPENING).to_string());
    cluster.app().must("UPDATE accounts SET balance = balance");
}

fn sound() -> Record {
    let mut balances: BTreeMap<i64, i64> = (1..=ACCOUNTS).map(|account| (account, OPENING)).collect();
    balances.insert(1, OPENING - 5);
    balances.insert(2, OPENING + 5);
    Record {
        told: BTreeMap::from([(1, Told::Committed), (2, Told::RolledBack), (3, Told::Nothing)]),
        balances,
        ledger: vec![(1, 1, -5), (1, 2, 5)],
        prepared_left: 0,
    }
}

#[test]
fn a_half_transfer_a_lost_one_and_a_leftover_are_seen_by_the_checker() {
    assert_eq!(complaints(&sound()), Vec::<String>::new());
    let plant = |change: fn(&mut Record)| {
        let mut record = sound();
        change(&mut record);
        complaints(&record)
    };
    assert_ne!(plant(|r| r.prepared_left = 1), Vec::<String>::new());
    assert_ne!(plant(|r| *r.balances.get_mut(&1).unwrap() += 5), Vec::<String>::new());
    assert_ne!(plant(|r| r.ledger.truncate(1)), Vec::<String>::new());
    assert_ne!(plant(|r| r.ledger.push((9, 3, 0))), Vec::<String>::new());
    let lost = plant(|r| {
        r.ledger.clear();
        r.balances.values_mut().for_each(|balance| *balance = OPENING);
    });
    assert!(lost.iter().any(|text| text.contains("lost")), "{lost:?}");
    let ghost = plant(|r| r.ledger.extend([(2, 1, 0), (2, 2, 0)]));
    assert!(ghost.iter().any(|text| text.contains("rolled back")), "{ghost:?}");
}

#[test]
fn the_writers_are_whole_on_one_server() {
    let servers = Server::start_all(&["bank".into()]);
    create(&mut servers[0].app());
    let told = write_while(servers[0].port, WRITERS, |_| std::thread::sleep(Duration::from_millis(700)));
    let record = read(&servers, told);
    assert_eq!(complaints(&record), Vec::<String>::new(), "{}", summary(&record));
    assert!(record.ledger.len() > 50, "{}", summary(&record));
    servers[0].superuser().must("UPDATE accounts SET balance = balance + 1 WHERE id = 3");
    assert_ne!(complaints(&read(&servers, record.told)), Vec::<String>::new());
}
