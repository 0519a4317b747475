//! Standbys that are made by the agents beside their servers: the order is written to the store, and its end awaited.

use std::sync::Arc;
use std::time::Duration;

use super::Hands;
use crate::base::{NodeId, ShardId};
use crate::failover::{Record, Stamp};
use crate::store::agents::{Ending, Order, read_order, read_report, write_order};
use crate::store::{BoxFuture, Store, StoreError, decode_leadership, leadership_key};

/// Pause between two looks at whether an order has ended.
const LOOK: Duration = Duration::from_millis(300);

/// The agents of a shard's nodes.
pub struct ByAgents {
    store: Arc<dyn Store>,
    shard: ShardId,
}

impl ByAgents {
    /// Tells them by the store.
    pub fn new(store: &Arc<dyn Store>, shard: ShardId) -> Self {
        Self { store: Arc::clone(store), shard }
    }
}

impl Hands for ByAgents {
    fn obey(&self, node: NodeId, order: Order) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let ended = give(self.store.as_ref(), self.shard, node, &order).await;
            let ended = ended.inspect_err(|error| tracing::debug!(%node, %error, "no order to its agent"));
            ended.ok().flatten() == Some(Ending::Done)
        })
    }

    fn is_empty(&self, node: NodeId) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let report = read_report(self.store.as_ref(), node).await;
            report.ok().flatten().is_some_and(|report| report.is_empty)
        })
    }

    fn are_there(&self, node: NodeId) -> BoxFuture<'_, bool> {
        Box::pin(async move { read_report(self.store.as_ref(), node).await.ok().flatten().is_some() })
    }
}

/// Gives an order and waits for its end, however long that takes; `None`: the node has no agent, or the order came to
/// nothing because of another term.
///
/// # Errors
/// The store cannot be used; the order may be in force.
///
/// # Cancel safety
/// The order stays in force; given again it is taken up.
pub async fn give(
    store: &dyn Store,
    shard: ShardId,
    node: NodeId,
    order: &Order,
) -> Result<Option<Ending>, StoreError> {
    let mut awaited = None;
    loop {
        let Some(report) = read_report(store, node).await? else { return Ok(None) };
        if !is_in_force(&read_record(store, shard).await?, order) {
            return Ok(None);
        }
        let ended = |number: u64| report.ended.filter(|(of, _)| *of == number).map(|(_, ending)| ending);
        match read_order(store, node).await? {
            Some((_, number)) if awaited == Some(number) => {
                if let Some(ending) = ended(number) {
                    return Ok(Some(ending));
                }
            }
            // Given before, perhaps by another proxy, and under way.
            Some((known, number)) if is_alike(&known, order) && ended(number).is_none() => awaited = Some(number),
            _ if awaited.is_none() => awaited = Some(write_order(store, node, order).await?),
            // Somebody wants something else of it.
            _ => return Ok(None),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether an order is to be carried out: its primary still leads under its term.
pub fn is_in_force(record: &Option<Record>, order: &Order) -> bool {
    record.as_ref().is_some_and(|record| record.term.0 == order.term && record.is_led_by(NodeId(order.primary)))
}

fn is_alike(one: &Order, other: &Order) -> bool {
    (one.kind, one.term, one.primary) == (other.kind, other.term, other.primary)
}

/// The record of a shard's leadership, from the store.
///
/// # Errors
/// The store cannot be read.
pub async fn read_record(store: &dyn Store, shard: ShardId) -> Result<Option<Record>, StoreError> {
    match store.get(&leadership_key(shard)).await? {
        Some(entry) => decode_leadership(&entry.value).map(Some),
        None => Ok(None),
    }
}

/// Whether a node leads a shard in the term of a stamp, as the store has it now.
pub async fn is_led_by(store: &dyn Store, shard: ShardId, node: NodeId, stamp: Stamp) -> bool {
    let record = read_record(store, shard).await.ok().flatten();
    record.is_some_and(|record| record.term == stamp.term && record.is_led_by(node))
}
