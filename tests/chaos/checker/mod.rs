//! Judges what the clients of a cluster were told against what is there in the end.
//!
//! Written apart from what it judges: it imports nothing of the product, and knows neither SQL nor networks. It is given
//! operations (who, from when to when, what was asked, what was told) and the contents of every node after repair.

mod bank;
mod copies;
mod leaders;
mod presence;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

pub use leaders::worst_outage;

/// Microseconds since the history began.
pub type Micros = u64;

/// As many findings of one kind are told; more say nothing more.
const TOLD_MAX: usize = 8;

/// What a client was told of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Acknowledged,
    /// It did not happen and never will.
    RolledBack,
    /// Nothing was told, or that nobody knows.
    Unknown,
}

/// Where an acknowledged write was done, as the server itself said in its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub shard: String,
    pub node: String,
    pub term: u64,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A row of a key that nobody else uses.
    Insert { key: i64, by: Option<Source> },
    /// One more; `value` is what it became.
    Increment { register: i64, value: Option<i64> },
    /// `to`, which nobody else writes, where there is `from`; `is_swapped` is whether there was.
    Swap { register: i64, from: i64, to: i64, is_swapped: Option<bool> },
    /// From one account to another; a row `id` is written with it.
    Transfer { id: i64, from: i64, to: i64, amount: i64 },
    /// An element that nobody else appends.
    Append { list: i64, element: i64 },
    /// A greater value than before, by the only session that writes the cell.
    Write { cell: i64, value: i64 },
    /// What that session then sees.
    Read { cell: i64, value: Option<i64> },
}

/// One operation of one client; a client does one at a time.
#[derive(Clone, Debug)]
pub struct Operation {
    pub client: u32,
    pub begin: Micros,
    pub end: Micros,
    pub outcome: Outcome,
    pub what: What,
}

/// What the clients did.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub operations: Vec<Operation>,
    /// When clients stopped beginning operations.
    pub end: Micros,
    /// Connections that ended under a client.
    pub dropped: u64,
}

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub inserts: Vec<i64>,
    pub registers: BTreeMap<i64, i64>,
    pub accounts: BTreeMap<i64, i64>,
    /// `id`, from, to, amount.
    pub transfers: Vec<(i64, i64, i64, i64)>,
    pub lists: BTreeMap<i64, Vec<i64>>,
    pub cells: BTreeMap<i64, i64>,
}

/// A node after repair.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub is_in_recovery: bool,
    pub timeline: u64,
    /// Prepared transactions.
    pub prepared: usize,
    pub contents: Contents,
}

/// A shard after repair, and what the store says of it.
#[derive(Clone, Debug, Default)]
pub struct Shard {
    pub recorded_primary: String,
    pub is_recorded_open: bool,
    pub nodes: BTreeMap<String, Node>,
}

/// The cluster after repair, and with what it began.
#[derive(Clone, Debug, Default)]
pub struct Final {
    pub shards: BTreeMap<String, Shard>,
    /// Balances of all accounts before anybody transferred anything.
    pub balances: BTreeMap<i64, i64>,
}

/// What is promised beyond what holds always.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// The longest time without an acknowledged write of a shard.
    pub outage_max: Option<Micros>,
    /// No connection may end under a client.
    pub keeps_connections: bool,
}

/// The invariants of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// What was acknowledged is there, once, on every node.
    I1,
    /// No two nodes acknowledge writes of a shard at a time.
    I2,
    /// What was rolled back is nowhere.
    I3,
    /// The service is not away for longer than is promised.
    I4,
    /// All nodes of a shard have the same.
    I5,
    /// The store names the node that is primary.
    I6,
    /// A session sees what it wrote, and never less than it saw.
    I7,
    /// Money is neither made nor lost, and nothing stays prepared.
    I8,
    /// No connection of a client ends.
    I9,
}

/// What is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    pub invariant: Invariant,
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}: {}", self.invariant, self.text)
    }
}

/// Findings of one invariant, counted beyond what is told.
pub struct Findings {
    invariant: Invariant,
    texts: Vec<String>,
    more: usize,
}

impl Findings {
    fn of(invariant: Invariant) -> Self {
        Self { invariant, texts: Vec::new(), more: 0 }
    }

    fn add(&mut self, text: String) {
        if self.texts.len() < TOLD_MAX {
            self.texts.push(text);
        } else {
            self.more += 1;
        }
    }

    fn told(mut self) -> Vec<Finding> {
        if self.more > 0 {
            self.texts.push(format!("and {} more", self.more));
        }
        let invariant = self.invariant;
        self.texts.into_iter().map(|text| Finding { invariant, text }).collect()
    }
}

/// Everything that is wrong with a history and what it left.
pub fn check(history: &History, state: &Final, limits: Limits) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(presence::acknowledged_is_there(history, state).told());
    found.extend(leaders::one_at_a_time(history).told());
    found.extend(presence::rolled_back_is_nowhere(history, state).told());
    found.extend(leaders::outages_are_short(history, limits).told());
    found.extend(copies::are_equal(state).told());
    found.extend(leaders::record_is_true(state).told());
    found.extend(sessions::see_what_they_wrote(history).told());
    found.extend(bank::is_sound(history, state).told());
    found.extend(sessions::keep_connections(history, limits).told());
    found
}

impl Final {
    /// The contents of every shard, as the node that is primary has them.
    fn primaries(&self) -> impl Iterator<Item = &Contents> {
        self.shards.values().filter_map(|shard| {
            let primary = shard.nodes.values().find(|node| !node.is_in_recovery);
            primary.or_else(|| shard.nodes.values().next()).map(|node| &node.contents)
        })
    }
}
