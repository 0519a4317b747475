//! Clients: inserts, registers, transfers over shards, lists, and sessions that read what they wrote.
//!
//! Each is a thread with a connection of its own through the load balancer; when the connection ends it opens another, and
//! that is counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::checker::{History, Micros, Operation, Outcome, Source, What};
use crate::raw::{Raw, Reply};
use crate::set::{app, shard_of};

/// Keys of each scenario: its number times this, and more.
pub const KEYS: i64 = 1_000_000;
pub const REGISTERS: i64 = 4;
pub const ACCOUNTS: i64 = 12;
pub const LISTS: i64 = 4;
pub const SESSIONS: i64 = 2;
pub const BALANCE: i64 = 1_000;
/// A client that hears nothing for so long gives up.
const PATIENCE: Duration = Duration::from_secs(40);
const AGAIN: Duration = Duration::from_millis(20);

/// What all clients of a scenario share.
#[derive(Clone)]
struct Shared {
    entrance: SocketAddr,
    base: i64,
    began: Instant,
    is_over: Arc<AtomicBool>,
    next: Arc<AtomicI64>,
    dropped: Arc<AtomicU64>,
}

pub struct Load {
    shared: Shared,
    clients: Vec<JoinHandle<Vec<Operation>>>,
}

/// A step of a client.
type Work = fn(&mut Client);

struct Client {
    shared: Shared,
    number: u32,
    raw: Option<Raw>,
    operations: Vec<Operation>,
    turn: i64,
}

/// What an answer, or none, says of a write.
fn outcome(said: &std::io::Result<Reply>) -> Outcome {
    match said {
        Ok(reply) => match reply.sqlstate() {
            "00000" => Outcome::Acknowledged,
            // PostgreSQL's "statement completion unknown" and "transaction resolution unknown".
            "40003" | "08007" => Outcome::Unknown,
            _ => Outcome::RolledBack,
        },
        Err(_) => Outcome::Unknown,
    }
}

impl Load {
    /// The rows that it works on, then the clients.
    pub fn start(entrance: SocketAddr, scenario: i64) -> Self {
        let base = scenario * KEYS;
        let mut raw = app(entrance).unwrap();
        for (table, count, value) in
            [("registers", 2 * REGISTERS, 0), ("accounts", ACCOUNTS, BALANCE), ("cells", 2 * SESSIONS, 0)]
        {
            (0..count).for_each(|key| _ = raw.must(&format!("INSERT INTO {table} VALUES ({}, {value})", base + key)));
        }
        (0..LISTS).for_each(|key| _ = raw.must(&format!("INSERT INTO lists VALUES ({}, '')", base + key)));
        let shared = Shared {
            entrance,
            base,
            began: Instant::now(),
            is_over: Arc::default(),
            next: Arc::new(AtomicI64::new(1)),
            dropped: Arc::default(),
        };
        let kinds: [(u32, Work); 6] = [
            (8, Client::insert),
            (2, Client::increment),
            (1, Client::swap),
            (2, Client::transfer),
            (1, Client::append),
            (2, Client::session),
        ];
        let mut clients = Vec::new();
        for (count, work) in kinds {
            for _ in 0..count {
                let number = u32::try_from(clients.len()).unwrap();
                let client = Client { shared: shared.clone(), number, raw: None, operations: Vec::new(), turn: 0 };
                clients.push(std::thread::spawn(move || client.work(work)));
            }
        }
        Self { shared, clients }
    }

    /// Ends it and collects what happened.
    pub fn stop(self) -> History {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let end = micros(self.shared.began);
        let operations = self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        History { operations, end, dropped: self.shared.dropped.load(Ordering::Relaxed) }
    }
}

fn micros(since: Instant) -> Micros {
    u64::try_from(since.elapsed().as_micros()).unwrap()
}

impl Client {
    fn work(mut self, work: Work) -> Vec<Operation> {
        while !self.shared.is_over.load(Ordering::Relaxed) {
            if self.raw.is_none() && !self.connect() {
                std::thread::sleep(AGAIN);
                continue;
            }
            self.turn += 1;
            work(&mut self);
        }
        self.operations
    }

    fn connect(&mut self) -> bool {
        self.raw = app(self.shared.entrance).ok().map(|mut raw| {
            raw.set_patience(PATIENCE);
            raw
        });
        let read_from = "SET ostrakon.read_from = 'any'";
        if self.raw.is_some() && self.say(read_from).is_err() {
            self.raw = None;
        }
        self.raw.is_some()
    }

    /// One statement; a connection that ends is counted.
    fn say(&mut self, sql: &str) -> std::io::Result<Reply> {
        let raw = self.raw.as_mut().ok_or(std::io::ErrorKind::NotConnected)?;
        let said = if self.turn % 2 == 0 { raw.simple(sql) } else { raw.extended(sql, &[], None) };
        if let Err(error) = &said {
            if std::env::var_os("OSTRAKON_CHAOS_TRACE").is_some() {
                println!("  client {}: {sql}: {error}", self.number);
            }
            self.raw = None;
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if let (Ok(reply), Some(_)) = (&said, std::env::var_os("OSTRAKON_CHAOS_TRACE"))
            && let Some(fault) = reply.fault()
        {
            println!("  client {}: {sql}: {} {}", self.number, fault.sqlstate, fault.message);
        }
        said
    }

    fn record(&mut self, begin: Micros, outcome: Outcome, what: What) {
        let end = micros(self.shared.began);
        self.operations.push(Operation { client: self.number, begin, end, outcome, what });
        if outcome == Outcome::RolledBack {
            std::thread::sleep(AGAIN);
        }
    }

    fn begin(&self) -> (Micros, i64) {
        (micros(self.shared.began), self.shared.base + self.shared.next.fetch_add(1, Ordering::Relaxed))
    }

    fn insert(&mut self) {
        let (begin, key) = self.begin();
        let said = self.say(&format!("INSERT INTO inserts (k) VALUES ({key}) RETURNING node, stamp"));
        let by = said.as_ref().ok().and_then(|reply| reply.texts().first().cloned()).map(|row| Source {
            shard: shard_of(&row[0]).to_owned(),
            node: row[0].clone(),
            term: row[1].split('.').next().and_then(|term| term.parse().ok()).unwrap_or(0),
        });
        self.record(begin, outcome(&said), What::Insert { key, by });
    }

    fn increment(&mut self) {
        let (begin, _) = self.begin();
        let register = self.shared.base + self.turn % REGISTERS;
        let said = self.say(&format!("UPDATE registers SET v = v + 1 WHERE k = {register} RETURNING v"));
        let value = said.as_ref().ok().and_then(|reply| reply.value().parse().ok());
        self.record(begin, outcome(&said), What::Increment { register, value });
    }

    fn swap(&mut self) {
        let register = self.shared.base + REGISTERS + self.turn % REGISTERS;
        let Ok(reply) = self.say(&format!("SELECT v FROM registers WHERE k = {register} FOR UPDATE")) else { return };
        let Ok(from) = reply.value().parse::<i64>() else { return std::thread::sleep(AGAIN) };
        let (begin, to) = self.begin();
        let said = self.say(&format!("UPDATE registers SET v = {to} WHERE k = {register} AND v = {from} RETURNING v"));
        let is_swapped =
            said.as_ref().ok().filter(|reply| reply.fault().is_none()).map(|reply| !reply.texts().is_empty());
        self.record(begin, outcome(&said), What::Swap { register, from, to, is_swapped });
    }

    fn transfer(&mut self) {
        let (begin, id) = self.begin();
        let account = |turn: i64| self.shared.base + turn.rem_euclid(ACCOUNTS);
        let (from, to, amount) = (account(self.turn), account(self.turn * 7 + 1 + i64::from(self.number)), 1 + id % 5);
        if from == to {
            return;
        }
        let (first, second) = (from.min(to), from.max(to));
        let change = |of: i64| if of == from { -amount } else { amount };
        let steps = [
            "BEGIN".to_owned(),
            format!("UPDATE accounts SET v = v + {} WHERE k = {first}", change(first)),
            format!("UPDATE accounts SET v = v + {} WHERE k = {second}", change(second)),
            format!("INSERT INTO transfers VALUES ({id}, {from}, {to}, {amount})"),
        ];
        let what = What::Transfer { id, from, to, amount };
        for step in steps {
            let said = self.say(&step);
            if outcome(&said) != Outcome::Acknowledged {
                // Nothing is committed that COMMIT was not said to.
                let _ = self.say("ROLLBACK");
                return self.record(begin, Outcome::RolledBack, what);
            }
        }
        let said = self.say("COMMIT");
        let is_rolled_back = said
            .as_ref()
            .is_ok_and(|reply| reply.answers.first().and_then(|answer| answer.tag.as_deref()) == Some("ROLLBACK"));
        let outcome = if is_rolled_back { Outcome::RolledBack } else { outcome(&said) };
        self.record(begin, outcome, what);
    }

    fn append(&mut self) {
        let (begin, element) = self.begin();
        let list = self.shared.base + self.turn % LISTS;
        let said = self.say(&format!("UPDATE lists SET v = v || ' ' || '{element}' WHERE k = {list}"));
        self.record(begin, outcome(&said), What::Append { list, element });
    }

    /// Writes a greater value into its own cell, and reads it some times from wherever the proxy likes.
    fn session(&mut self) {
        let cell = self.shared.base + i64::from(self.number) % (2 * SESSIONS);
        let (begin, value) = self.begin();
        let said = self.say(&format!("UPDATE cells SET v = {value} WHERE k = {cell}"));
        self.record(begin, outcome(&said), What::Write { cell, value });
        for _ in 0..3 {
            let begin = micros(self.shared.began);
            let said = self.say(&format!("SELECT v FROM cells WHERE k = {cell}"));
            let value = said.as_ref().ok().and_then(|reply| reply.value().parse().ok());
            self.record(begin, outcome(&said), What::Read { cell, value });
        }
    }
}
