//! Resharding on real servers: carries out what [`crate::reshard::Machine`] wants, takes shards into the cluster.
//!
//! Must not know: sessions, plans, who asks.

mod bucket_sql;
mod driver;
mod join;
mod links;
mod plan;
mod ready;
mod rows;
mod tables;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

use crate::backend::ConnectTarget;
use crate::base::ShardId;
use crate::store::{RESHARD_KEY, Store, StoreError, decode_reshard, load_topology};
use crate::topology::Topology;

pub use bucket_sql::bucket_sql;
pub use driver::{Handle, Status, start};
pub use join::{NewNode, NewShard};
pub use links::FindPrimary;
pub use plan::PlannedMove;
pub use verify::{Misplaced, Verified};

/// How the control role reaches the primary of a shard of a topology.
pub type FindTarget = Arc<dyn Fn(&Topology, ShardId) -> Option<ConnectTarget> + Send + Sync>;

/// What resharding works on.
#[derive(Clone)]
pub struct Context {
    /// Where record and topology are kept.
    pub store: Arc<dyn Store>,
    /// The topology in force here.
    pub topology: Arc<ArcSwap<Topology>>,
    /// Statements and transactions hold it for reading.
    pub gate: Arc<RwLock<()>>,
    /// Where primaries are.
    pub find: FindTarget,
}

impl Context {
    /// Primaries of the topology in force.
    fn find_primary(&self) -> FindPrimary {
        let context = self.clone();
        Arc::new(move |shard| (context.find)(&context.topology.load(), shard))
    }

    /// Primaries of this topology.
    fn find_in(&self, topology: Topology) -> FindPrimary {
        let find = Arc::clone(&self.find);
        Arc::new(move |shard| find(&topology, shard))
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

/// Settles the step that an earlier process may have left: to be done before anything is served.
///
/// # Errors
/// It is not settled.
///
/// # Cancel safety
/// It can be done again.
pub async fn settle(context: &Context) -> Result<(), SettleError> {
    let Some(entry) = context.store.get(RESHARD_KEY).await? else { return Ok(()) };
    let record = decode_reshard(&entry.value)?;
    let Some(step) = &record.step else { return Ok(()) };
    let Some((topology, _)) = load_topology(context.store.as_ref()).await? else { return Ok(()) };
    let commits = step.buckets.iter().all(|bucket| topology.buckets.owner(*bucket) == step.to);
    tracing::info!(job = record.id, step = step.number, commits, "a step is settled");
    let settled = rows::settle(&context.find_in(topology), record.id, step, commits).await;
    settled.map_err(SettleError::Shard)
}
