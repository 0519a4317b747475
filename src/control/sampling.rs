//! Asks every node, over and over, how far it is: the samples by which sessions choose replicas.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::client::{ControlClient, ControlError};
use crate::backend::ConnectTarget;
use crate::backend::replicas::Replicas;
use crate::base::ShardId;

/// A node that is sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Its shard.
    pub shard: ShardId,
    /// Its zone.
    pub zone: String,
    /// The topology says that it is the primary.
    pub is_primary: bool,
    /// How it is reached.
    pub target: ConnectTarget,
}

/// The nodes to sample now.
pub type FindNodes = Arc<dyn Fn() -> Vec<Sampled> + Send + Sync>;

/// Limit of one question.
const ANSWER_MS_MAX: u64 = 1_000;
/// Pause before a node that did not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Pause between two looks at which nodes there are.
const NODES_PAUSE: Duration = Duration::from_millis(500);
/// Sessions in a hurry get no more samples than one each so often.
const HURRY_PAUSE: Duration = Duration::from_millis(2);

/// The place stands for everything that was acknowledged before the question: it is the end of what was inserted,
/// written out or not.
const SAMPLE_SQL: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
    (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
     ELSE pg_catalog.pg_current_wal_insert_lsn() END) - '0/0'::pg_catalog.pg_lsn";

struct Task {
    node: Sampled,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Samples for ever, a task for each node, for as long as sessions read from replicas.
///
/// # Cancel safety
/// Safe: the tasks end with it.
pub async fn run(replicas: Arc<Replicas>, find_nodes: FindNodes) {
    let mut tasks: HashMap<crate::base::NodeId, Task> = HashMap::new();
    loop {
        // Nobody asks: the servers are left in peace.
        let nodes = if replicas.is_wanted() { find_nodes() } else { Vec::new() };
        // A shard without replicas has nothing to choose from.
        let has_replicas = |shard| nodes.iter().any(|node| node.shard == shard && !node.is_primary);
        let wanted: Vec<&Sampled> = nodes.iter().filter(|node| has_replicas(node.shard)).collect();
        tasks.retain(|id, task| {
            let stays = wanted.iter().any(|node| node.target.node == *id && **node == task.node);
            if !stays {
                replicas.forget(task.node.shard, *id);
            }
            stays
        });
        for node in wanted {
            tasks.entry(node.target.node).or_insert_with(|| {
                let handle = tokio::spawn(sample(Arc::clone(&replicas), node.clone()));
                Task { node: node.clone(), handle }
            });
        }
        tokio::time::sleep(NODES_PAUSE).await;
    }
}

/// One node.
async fn sample(replicas: Arc<Replicas>, node: Sampled) {
    let wanted = replicas.wanted(node.shard);
    let pause = replicas.settings().sample_pause;
    loop {
        let failed = match ControlClient::connect(&node.target).await {
            Ok(client) => loop {
                if let Err(error) = ask(&replicas, &node, &client).await {
                    break error;
                }
                tokio::time::sleep(HURRY_PAUSE).await;
                if replicas.is_hurried(node.shard) {
                    continue;
                }
                let rest = tokio::time::sleep(pause.saturating_sub(HURRY_PAUSE));
                // Whoever is in a hurry waits for replicas, too.
                tokio::select! {
                    () = wanted.notified(), if node.is_primary => {}
                    () = replicas.hurried(), if !node.is_primary => {}
                    () = rest => {}
                }
            },
            Err(error) => error,
        };
        replicas.forget(node.shard, node.target.node);
        tracing::debug!(node = %node.target.node, error = %failed, "a node cannot be sampled");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn ask(replicas: &Replicas, node: &Sampled, client: &ControlClient) -> Result<(), ControlError> {
    let asked = Instant::now();
    let rows = client.rows(SAMPLE_SQL, ANSWER_MS_MAX).await?;
    let now = Instant::now();
    let answer = match rows.first().map(Vec::as_slice) {
        Some([Some(in_recovery), Some(lsn)]) => lsn.parse().ok().map(|lsn: u64| (in_recovery == "t", lsn)),
        _ => None,
    };
    match answer {
        Some((false, lsn)) if node.is_primary => replicas.note_primary(node.shard, node.target.node, asked, lsn),
        Some((true, lsn)) if !node.is_primary => {
            replicas.note_replica(node.shard, node.target.node, &node.zone, lsn, now, now - asked);
        }
        // It is not what the topology says, or has replayed nothing: nobody reads there.
        _ => replicas.forget(node.shard, node.target.node),
    }
    Ok(())
}
