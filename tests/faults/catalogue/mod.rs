//! Every kind of exchange between a client and PostgreSQL, as data: what the client sends, and for what
//! it waits before it goes on. Conformance, kills and cancels all run this one list.

mod copy;
mod extended;
mod session;
mod shards;
mod simple;

use crate::frames::{Frame, query, sync};

/// What the client does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends messages in one write.
    Send(Vec<Frame>),
    /// Reads up to a frame of this tag; an error ends the wait for anything but ReadyForQuery.
    Until(u8),
    /// Sends a CancelRequest for itself, once its statement runs.
    Cancel,
}

/// Rows that an exchange leaves in `ledger` under its run's number: all or none.
#[derive(Clone, Copy, Debug)]
pub struct Writes {
    pub rows: usize,
    /// The ReadyForQuery that acknowledges them, counted from 1.
    pub ready: usize,
}

/// One exchange.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub name: &'static str,
    pub steps: Vec<Step>,
    /// Startup parameters beside user and database.
    pub startup: Vec<(&'static str, &'static str)>,
    pub writes: Option<Writes>,
    /// Lives on more than one statement being on the same connection (not for `pool_mode = "statement"`).
    pub spans: bool,
    /// Takes so long that few faults are tried.
    pub is_slow: bool,
}

impl Exchange {
    fn new(name: &'static str) -> Self {
        Self { name, steps: Vec::new(), startup: Vec::new(), writes: None, spans: false, is_slow: false }
    }

    /// Messages in one write.
    fn send(mut self, frames: impl Into<Vec<Frame>>) -> Self {
        self.steps.push(Step::Send(frames.into()));
        self
    }

    fn until(mut self, tag: u8) -> Self {
        self.steps.push(Step::Until(tag));
        self
    }

    fn ready(self) -> Self {
        self.until(b'Z')
    }

    /// A Query and its answer.
    fn query(self, sql: &str) -> Self {
        self.send([query(sql)]).ready()
    }

    /// Messages, Sync, and the answer.
    fn synced(self, frames: impl Into<Vec<Frame>>) -> Self {
        let mut frames = frames.into();
        frames.push(sync());
        self.send(frames).ready()
    }

    fn cancel(mut self) -> Self {
        self.steps.push(Step::Cancel);
        self
    }

    fn startup(mut self, name: &'static str, value: &'static str) -> Self {
        self.startup.push((name, value));
        self
    }

    /// It leaves so many rows, acknowledged by the so-many-eth ReadyForQuery.
    fn writes(mut self, rows: usize, ready: usize) -> Self {
        self.writes = Some(Writes { rows, ready });
        self
    }

    fn spans(mut self) -> Self {
        self.spans = true;
        self
    }

    fn slow(mut self) -> Self {
        self.is_slow = true;
        self
    }

    /// The greeting is compared, too.
    pub fn shows_greeting(&self) -> bool {
        !self.startup.is_empty() || self.name == "simple: one row"
    }

    /// Messages that the client sends.
    pub fn messages(&self) -> usize {
        self.steps.iter().map(|step| if let Step::Send(frames) = step { frames.len() } else { 0 }).sum()
    }
}

/// All exchanges, writing under this run's number.
pub fn catalogue(run: i64) -> Vec<Exchange> {
    [
        simple::exchanges(run),
        extended::exchanges(run),
        copy::exchanges(run),
        session::exchanges(run),
        shards::exchanges(run),
    ]
    .concat()
}

/// All exchanges, each with a run's number of its own from `first` on.
pub fn numbered(first: i64) -> Vec<Exchange> {
    let count = catalogue(first).len();
    (0..count).map(|place| catalogue(first + i64::try_from(place).unwrap()).swap_remove(place)).collect()
}

/// Those whose names contain one of `OSTRAKON_CASES`; all without it.
pub fn selected(exchanges: Vec<Exchange>) -> Vec<Exchange> {
    let Ok(wanted) = std::env::var("OSTRAKON_CASES") else { return exchanges };
    let wanted: Vec<&str> = wanted.split(',').map(str::trim).collect();
    exchanges.into_iter().filter(|exchange| wanted.iter().any(|part| exchange.name.contains(part))).collect()
}

/// The tables that the exchanges use.
pub const SCHEMA: &[&str] = &[
    "CREATE TABLE items (id bigint PRIMARY KEY, name text NOT NULL, n int)",
    "CREATE TABLE ledger (run bigint NOT NULL, part int NOT NULL, note text, PRIMARY KEY (run, part))",
    "INSERT INTO items (id, name, n) VALUES (1,'a1',1),(2,'a2',2),(3,'a3',0),(4,'a4',1),(5,'a5',2),(6,'a6',0),\
     (7,'a7',1),(8,'a8',2),(9,'a9',0),(10,'a10',1),(11,'a11',2),(12,'a12',NULL)",
];

/// A row of the ledger as VALUES.
fn entry(run: i64, part: usize) -> String {
    format!("({run},{part},'x')")
}

/// An INSERT of these parts.
fn insert(run: i64, parts: impl IntoIterator<Item = usize>) -> String {
    let rows: Vec<String> = parts.into_iter().map(|part| entry(run, part)).collect();
    format!("INSERT INTO ledger (run, part, note) VALUES {}", rows.join(","))
}
