//! Resharding on real servers: carries out what [`crate::reshard::Machine`] wants, takes shards into the cluster.
//!
//! Must not know: sessions, plans, who asks.

mod bucket_sql;
mod decision;
mod driver;
mod join;
mod leave;
mod links;
mod measure;
mod parts;
mod pin;
mod plan;
mod ready;
mod rows;
mod tables;
mod transfer;
mod verify;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

use crate::backend::{ConnectTarget, StepGate};
use crate::base::ShardId;
use crate::store::{RESHARD_KEY, Store, StoreError, decode_reshard, load_topology};
use crate::topology::{Node, Role, Topology};

pub use bucket_sql::{bucket_sql, pinned_sql};
pub use driver::{Handle, Status, start, start_usual};
pub use join::{NewNode, NewShard};
pub use links::FindPrimary;
pub use measure::Measured;
pub use pin::PinWish;
pub use plan::PlannedMove;
pub use verify::{Misplaced, Verified};

/// How the control role reaches a node of a topology.
pub type FindNode = Arc<dyn Fn(&Topology, &Node) -> ConnectTarget + Send + Sync>;

/// What resharding works on.
#[derive(Clone)]
pub struct Context {
    /// Where record and topology are kept.
    pub store: Arc<dyn Store>,
    /// The topology in force here.
    pub topology: Arc<ArcSwap<Topology>>,
    /// Statements and transactions hold it for reading.
    pub gate: Arc<RwLock<()>>,
    /// Where statements wait that touch what moves.
    pub steps: Arc<StepGate>,
    /// Nothing is read from replicas while this is set: one may still show rows that have moved away.
    pub replicas_rest: Arc<AtomicBool>,
    /// Where nodes are.
    pub find: FindNode,
}

impl Context {
    /// Primaries of the topology in force.
    fn find_primary(&self) -> FindPrimary {
        let context = self.clone();
        Arc::new(move |shard| {
            let topology = context.topology.load();
            topology.primary(shard).map(|node| (context.find)(&topology, node))
        })
    }

    /// Primaries of this topology.
    fn find_in(&self, topology: Topology) -> FindPrimary {
        let find = Arc::clone(&self.find);
        Arc::new(move |shard| topology.primary(shard).map(|node| find(&topology, node)))
    }

    /// The replicas of the topology in force.
    fn replicas(&self) -> Vec<(ShardId, ConnectTarget)> {
        let topology = self.topology.load();
        let replicas = topology.nodes.iter().filter(|node| node.role == Role::Replica);
        replicas.map(|node| (node.shard, (self.find)(&topology, node))).collect()
    }

    /// Waits until nothing runs; nothing begins while the result is held.
    async fn close_gate(&self, wait: Duration) -> Option<OwnedRwLockWriteGuard<()>> {
        tokio::time::timeout(wait, Arc::clone(&self.gate).write_owned()).await.ok()
    }

    /// Puts a topology in force here; an epoch only grows.
    fn publish(&self, next: &Topology) {
        let next = Arc::new(next.clone());
        self.topology.rcu(|known| if next.epoch > known.epoch { Arc::clone(&next) } else { Arc::clone(known) });
    }

    /// Settles the step that an earlier process may have left: to be done before anything is served. `None`: other
    /// proxies may serve the same cluster, so that nothing can be moved here.
    ///
    /// # Errors
    /// It is not settled.
    ///
    /// # Cancel safety
    /// It can be done again.
    pub async fn settled(self, has_others: bool) -> Result<Option<Self>, SettleError> {
        if has_others || self.store.is_shared() {
            return Ok(None);
        }
        let Some(entry) = self.store.get(RESHARD_KEY).await? else { return Ok(Some(self)) };
        self.replicas_rest.store(true, Ordering::Release);
        let record = decode_reshard(&entry.value)?;
        let Some(step) = &record.step else { return Ok(Some(self)) };
        let Some((topology, _)) = load_topology(self.store.as_ref()).await? else { return Ok(Some(self)) };
        let commits = step.buckets.iter().all(|bucket| topology.buckets.owner(*bucket) == step.to);
        tracing::info!(job = record.id, step = step.number, commits, "a step is settled");
        let settled = rows::settle(&self.find_in(topology), record.id, step, commits).await;
        settled.map_err(SettleError::Shard)?;
        Ok(Some(self))
    }
}

/// Why a step that an earlier process began cannot be settled.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The store cannot be read.
    #[error("the store cannot be used: {0}")]
    Store(#[from] StoreError),
    /// A shard cannot be asked.
    #[error("{0}")]
    Shard(String),
}
