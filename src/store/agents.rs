//! What agents beside servers are told, and what they said last: two records for each node.
//!
//! An order is known by its revision, which is never used again. Whether it still is to be carried out is decided by
//! the record of the shard's leadership, not here.

use serde::{Deserialize, Serialize};

use super::{Revision, Store, StoreError};
use crate::base::{NodeId, Term};
use crate::failover::Stamp;

/// Below it an order for each node.
const ORDERS: &str = "agents/orders/";
/// Below it what the agent of each node said last.
const REPORTS: &str = "agents/reports/";

/// What is wanted of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderKind {
    /// It is to be a standby of the primary, by whatever is enough.
    Follow,
    /// It is to be copied from the primary if nothing is there.
    Fill,
    /// It is to be copied from the primary, whatever is there.
    Copy,
    /// Its server is to be stopped in order and started.
    Restart,
}

/// An order to the agent of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// What is wanted.
    pub kind: OrderKind,
    /// Under which term,
    pub term: u64,
    /// and version of its set. A node that has promised more does nothing.
    pub config: u64,
    /// The primary.
    pub primary: u32,
}

impl Order {
    /// An order that goes with a stamp.
    pub fn new(kind: OrderKind, primary: NodeId, stamp: Stamp) -> Self {
        Self { kind, term: stamp.term.0, config: stamp.config, primary: primary.0 }
    }

    /// What goes with it.
    pub fn stamp(&self) -> Stamp {
        Stamp { term: Term(self.term), config: self.config }
    }
}

/// How an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It is done.
    Done,
    /// It cannot be done now.
    Failed,
    /// The node has promised more.
    Refused,
}

/// What an agent says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// `running`, `stopped`, `empty`, or what it is at.
    pub state: String,
    /// Nothing is there that could be lost.
    pub is_empty: bool,
    /// The last order that it brought to an end, by its number, and how.
    pub ended: Option<(u64, Ending)>,
    /// More about how that went.
    pub detail: String,
}

/// The order that a node has, with its number.
///
/// # Errors
/// The store cannot be read.
pub async fn read_order(store: &dyn Store, node: NodeId) -> Result<Option<(Order, u64)>, StoreError> {
    read(store, &format!("{ORDERS}{}", node.0)).await
}

/// Gives a node an order in place of the one that it had; gives its number.
///
/// # Errors
/// The store cannot be used, or somebody else gave it one at the same time.
pub async fn write_order(store: &dyn Store, node: NodeId, order: &Order) -> Result<u64, StoreError> {
    write(store, &format!("{ORDERS}{}", node.0), order).await
}

/// What the agent of a node said last; `None`: it has none.
///
/// # Errors
/// The store cannot be read.
pub async fn read_report(store: &dyn Store, node: NodeId) -> Result<Option<Report>, StoreError> {
    Ok(read(store, &format!("{REPORTS}{}", node.0)).await?.map(|(report, _)| report))
}

/// Keeps what the agent of a node says, if it is something new.
///
/// # Errors
/// The store cannot be used.
pub async fn keep_report(store: &dyn Store, node: NodeId, report: &Report) -> Result<(), StoreError> {
    if read_report(store, node).await?.as_ref() == Some(report) {
        return Ok(());
    }
    write(store, &format!("{REPORTS}{}", node.0), report).await.map(drop)
}

/// A node is gone, and with it what was said of it.
///
/// # Errors
/// The store cannot be used.
pub async fn forget_agent(store: &dyn Store, node: NodeId) -> Result<(), StoreError> {
    for key in [format!("{ORDERS}{}", node.0), format!("{REPORTS}{}", node.0)] {
        if let Some(found) = store.get(&key).await? {
            store.delete(&key, found.revision).await?;
        }
    }
    Ok(())
}

async fn read<T: serde::de::DeserializeOwned>(store: &dyn Store, key: &str) -> Result<Option<(T, u64)>, StoreError> {
    let Some(entry) = store.get(key).await? else { return Ok(None) };
    let value = serde_json::from_slice(&entry.value)
        .map_err(|error| StoreError::Unreadable { key: key.to_owned(), reason: error.to_string() })?;
    Ok(Some((value, entry.revision.0)))
}

async fn write<T: Serialize>(store: &dyn Store, key: &str, value: &T) -> Result<u64, StoreError> {
    let found: Option<Revision> = store.get(key).await?.map(|entry| entry.revision);
    let value = serde_json::to_vec(value)
        .map_err(|error| StoreError::Unreadable { key: key.to_owned(), reason: error.to_string() })?;
    Ok(store.put(key, value, found).await?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn an_order_is_known_by_a_number_of_its_own() {
        let (store, node) = (MemoryStore::new(), NodeId(2));
        assert_eq!(read_order(&store, node).await, Ok(None));
        let order = Order::new(OrderKind::Follow, NodeId(1), Stamp { term: Term(3), config: 4 });
        let first = write_order(&store, node, &order).await.unwrap();
        assert_eq!(read_order(&store, node).await, Ok(Some((order.clone(), first))));
        let second = write_order(&store, node, &order).await.unwrap();
        assert!(second > first);
        let report = Report { ended: Some((first, Ending::Done)), ..Report::default() };
        keep_report(&store, node, &report).await.unwrap();
        assert_eq!(read_report(&store, node).await, Ok(Some(report)));
        forget_agent(&store, node).await.unwrap();
        assert_eq!((read_order(&store, node).await, read_report(&store, node).await), (Ok(None), Ok(None)));
    }
}
