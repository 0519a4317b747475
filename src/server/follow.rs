//! What a proxy does because others share its store: follows the topology, rests when somebody asks, tells
//! of schema changes, takes its turn at what only one may do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::Secret;
use crate::control::recovery::{Recovery, prepare_database};
use crate::control::sampling;
use crate::executor::Cluster;
use crate::store::members::{BARRIER_KEY, Barrier, Member, read_barrier, register, say_resting, touch};
use crate::store::{
    Change, Lease, Revision, Store, StoreError, TOPOLOGY_KEY, WatchEvent, decode_topology, load_topology,
};
use tokio::task::JoinHandle;

use crate::topology::Topology;

use super::known::Known;
use super::{RECOVERY_PAUSE_MS, watch_schema};

/// Pause before something that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long statements under way may take to end when another proxy changes the placement of a table.
const QUIET_MAX: Duration = Duration::from_millis(2_000);
/// How long a proxy rests before it takes its freedom. Longer than whoever asked for it waits.
const REST_MAX: Duration = Duration::from_millis(5_000);
/// The lease of what brings transactions in doubt to an end.
const RECOVERY_LEASE: &str = "recovery";
const RECOVERY_LEASE_TTL: Duration = Duration::from_secs(10);

/// Where the last known topology is kept.
#[derive(Clone)]
struct Keeper {
    file: PathBuf,
    cluster_id: u64,
    mock_key: Secret,
}

impl Keeper {
    fn keep(&self, topology: &Topology) {
        let known = Known {
            topology: topology.clone(),
            cluster_id: self.cluster_id,
            mock_key: self.mock_key.clone(),
            is_confirmed: true,
        };
        known.save(&self.file);
    }
}

/// The nodes that are sampled for reads, by the topology in force.
pub(super) fn find_nodes(cluster: &Arc<Cluster>) -> sampling::FindNodes {
    let cluster = Arc::clone(cluster);
    Arc::new(move || {
        let topology = cluster.topology.load();
        let sampled = |node: &crate::topology::Node| sampling::Sampled {
            shard: node.shard,
            zone: node.zone.clone(),
            is_primary: node.role == crate::topology::Role::Primary,
            target: cluster.node_target(&topology, node, cluster.control.clone()),
        };
        topology.nodes.iter().map(sampled).collect()
    })
}

/// How a proxy shares its store with others.
pub(super) struct Sharing {
    member: Member,
    /// The others know of it.
    is_known: bool,
    keeper: Keeper,
}

impl Sharing {
    pub(super) fn new(member: Member, file: PathBuf, known: &Known) -> Self {
        let keeper = Keeper { file, cluster_id: known.cluster_id, mock_key: known.mock_key.clone() };
        Self { member, is_known: known.is_confirmed, keeper }
    }
}

/// The tasks that look at the store.
pub(super) fn follow_store(
    cluster: &Arc<Cluster>,
    recovery: Recovery,
    store: &Arc<dyn Store>,
    sharing: Option<Sharing>,
) -> Vec<JoinHandle<()>> {
    let changed = Arc::new(tokio::sync::Notify::new());
    let (of, at) = (|| Arc::clone(cluster), || Arc::clone(store));
    let mut tasks = vec![tokio::spawn(watch_schema(of(), Arc::clone(&changed)))];
    let Some(sharing) = sharing else {
        tasks.push(tokio::spawn(watch_topology(of(), at(), None)));
        tasks.push(tokio::spawn(recovery.run(RECOVERY_PAUSE_MS)));
        return tasks;
    };
    let name = sharing.member.name.clone();
    let pause = Duration::from_millis(RECOVERY_PAUSE_MS);
    tasks.push(tokio::spawn(watch_topology(of(), at(), Some(sharing.keeper))));
    tasks.push(tokio::spawn(take_part(of(), at(), sharing.member, sharing.is_known)));
    tasks.push(tokio::spawn(share_schema_changes(of(), at(), name.clone(), changed)));
    tasks.push(tokio::spawn(recover_by_turns(recovery, at(), name, pause)));
    tasks
}

/// Follows the topology in the store.
async fn watch_topology(cluster: Arc<Cluster>, store: Arc<dyn Store>, keeper: Option<Keeper>) {
    loop {
        match store.watch(TOPOLOGY_KEY).await {
            Ok(mut watch) => {
                let loaded = load_topology(store.as_ref()).await.ok().flatten().map(|(topology, _)| topology);
                take_over(&cluster, loaded, keeper.as_ref()).await;
                while let Some(event) = watch.next().await {
                    let topology = match event {
                        WatchEvent::Change(Change::Put(entry)) if entry.key == TOPOLOGY_KEY => {
                            decode_topology(&entry.value).ok()
                        }
                        _ => load_topology(store.as_ref()).await.ok().flatten().map(|(topology, _)| topology),
                    };
                    take_over(&cluster, topology, keeper.as_ref()).await;
                }
            }
            Err(error) => tracing::warn!(%error, "the topology cannot be watched"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// An epoch only grows. Where there is more than one shard now, two-phase commits find their decision table.
async fn take_over(cluster: &Cluster, topology: Option<Topology>, keeper: Option<&Keeper>) {
    let Some(topology) = topology else { return };
    if topology.epoch > cluster.topology.load().epoch {
        let was_alone = cluster.topology.load().shards.len() == 1;
        for shard in topology.shard_ids().filter(|_| was_alone && topology.shards.len() > 1) {
            let Ok(target) = cluster.control_target(&topology, shard) else { continue };
            if let Err(error) = prepare_database(&target).await {
                // A commit over several shards fails there, and is rolled back, until it can be made.
                tracing::warn!(%shard, %error, "the decision table cannot be made");
            }
        }
        let topology = Arc::new(topology);
        let newest = Arc::clone(&topology);
        // Somebody else of this process may have taken over a later one while the tables were made.
        let before = cluster.topology.rcu(|now| Arc::clone(if now.epoch < newest.epoch { &newest } else { now }));
        if before.epoch < topology.epoch {
            tracing::info!(epoch = topology.epoch.0, "topology changed");
            if let Some(keeper) = keeper {
                keeper.keep(&topology);
            }
        }
    }
}

/// Makes this proxy known to the others, however long the store takes to be there, and then rests whenever one
/// of them asks for it.
async fn take_part(cluster: Arc<Cluster>, store: Arc<dyn Store>, member: Member, is_known: bool) {
    let mut is_known = is_known;
    loop {
        if let Err(error) = follow_barriers(&cluster, store.as_ref(), &member, &mut is_known).await {
            tracing::warn!(%error, "changes of the other proxies cannot be followed");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn follow_barriers(
    cluster: &Cluster,
    store: &dyn Store,
    member: &Member,
    is_known: &mut bool,
) -> Result<(), StoreError> {
    let mut watch = store.watch(BARRIER_KEY).await?;
    if !*is_known {
        register(store, member).await?;
        *is_known = true;
    }
    let mut barrier = store.get(BARRIER_KEY).await?.map(|entry| entry.value);
    loop {
        if let Some(value) = barrier.take() {
            let asked = read_barrier(&value)?;
            if asked.by != member.name {
                rest(cluster, store, &member.name, &asked).await?;
            }
        }
        barrier = match watch.next().await {
            Some(WatchEvent::Change(Change::Put(entry))) if entry.key == BARRIER_KEY => Some(entry.value),
            Some(WatchEvent::Missed) => store.get(BARRIER_KEY).await?.map(|entry| entry.value),
            Some(WatchEvent::Change(_)) => None,
            None => return Ok(()),
        };
    }
}

/// Lets nothing run until the topology has another revision than the one that is about to be replaced.
async fn rest(cluster: &Cluster, store: &dyn Store, name: &str, asked: &Barrier) -> Result<(), StoreError> {
    let asked_for = Revision(asked.revision);
    let mut watch = store.watch(TOPOLOGY_KEY).await?;
    if load_topology(store).await?.is_none_or(|(_, revision)| revision != asked_for) {
        return Ok(());
    }
    let gate = Arc::clone(&cluster.epoch_gate);
    let Ok(_quiet) = tokio::time::timeout(QUIET_MAX, gate.write_owned()).await else {
        // Whoever asked sees who is missing.
        tracing::info!(by = asked.by, "transactions are open, so that a change of the topology has to wait");
        return Ok(());
    };
    // It may have been said even where this fails: from here on only the topology itself ends the rest.
    if let Err(error) = say_resting(store, name, asked_for).await {
        tracing::warn!(%error, "the store cannot be told that nothing runs here");
    }
    let mut is_patient = true;
    loop {
        let now = load_topology(store).await;
        match now {
            Ok(Some((topology, revision))) if revision != asked_for => {
                take_over(cluster, Some(topology), None).await;
                return Ok(());
            }
            Ok(None) => return Ok(()),
            Ok(Some(_)) if !is_patient => {
                if let Err(error) = touch(store).await {
                    tracing::warn!(%error, "the store cannot be used; statements wait for it");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                continue;
            }
            Ok(Some(_)) => {}
            Err(error) => {
                tracing::warn!(%error, "the store cannot be used; statements wait for it");
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
        }
        // The end of the watch is found out by asking, as is a change.
        is_patient = tokio::time::timeout(REST_MAX, watch.next()).await.is_ok_and(|event| event.is_some());
    }
}

/// Key of the mark that the schema was changed through some proxy.
const SCHEMA_KEY: &str = "schema";
/// Pause between two looks at whether the schema was changed through this proxy.
const TELL_PAUSE: Duration = Duration::from_millis(100);

/// Tells the others that the schema has changed, and `changed` when they tell it.
async fn share_schema_changes(
    cluster: Arc<Cluster>,
    store: Arc<dyn Store>,
    name: String,
    changed: Arc<tokio::sync::Notify>,
) {
    let mut told = cluster.schema.load().version;
    loop {
        let Ok(mut watch) = store.watch(SCHEMA_KEY).await else {
            tokio::time::sleep(RETRY_PAUSE).await;
            continue;
        };
        loop {
            match tokio::time::timeout(TELL_PAUSE, watch.next()).await {
                Ok(Some(WatchEvent::Change(Change::Put(entry)))) if entry.value == name.as_bytes() => {}
                Ok(Some(_)) => changed.notify_one(),
                Ok(None) => break,
                Err(_) => {
                    let now = cluster.schema.load().version;
                    if now != told && mark_schema(store.as_ref(), &name).await.is_ok() {
                        told = now;
                    }
                }
            }
        }
    }
}

async fn mark_schema(store: &dyn Store, name: &str) -> Result<(), StoreError> {
    let found = store.get(SCHEMA_KEY).await?.map(|entry| entry.revision);
    match store.put(SCHEMA_KEY, name.as_bytes().to_vec(), found).await {
        // Another proxy marks it, and everybody looks; but not that one, should it be this change it lacks.
        Err(StoreError::Conflict { .. }) => Err(StoreError::Conflict { key: SCHEMA_KEY.to_owned(), current: found }),
        other => other.map(drop),
    }
}

/// Brings transactions in doubt to an end, one proxy at a time. That it is one spares the others work; two at the
/// same time do no harm. So where the store cannot say whose turn it is, everybody goes on.
async fn recover_by_turns(mut recovery: Recovery, store: Arc<dyn Store>, name: String, pause: Duration) {
    let mut lease: Option<Lease> = None;
    loop {
        let is_ours = match &lease {
            Some(held) => match store.renew(held, RECOVERY_LEASE_TTL).await {
                Ok(()) => true,
                Err(StoreError::LeaseLost { .. }) => {
                    lease = None;
                    false
                }
                Err(_) => true,
            },
            None => match store.acquire(RECOVERY_LEASE, &name, RECOVERY_LEASE_TTL).await {
                Ok(taken) => {
                    lease = Some(taken);
                    true
                }
                Err(StoreError::LeaseHeld { .. }) => false,
                Err(_) => true,
            },
        };
        if is_ours {
            recovery.run_once().await.log();
        }
        tokio::time::sleep(pause).await;
    }
}
