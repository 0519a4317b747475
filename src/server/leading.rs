//! Who leads the shards: a driver for each that has replicas, where it is asked for.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Settings, StartError, identity};
use crate::auth::ServerSecret;
use crate::backend::{ConnectTarget, ServersTls};
use crate::base::ShardId;
use crate::control::leader::names::Names;
use crate::control::leader::node::Places;
use crate::control::leader::orders::ByAgents;
use crate::control::leader::{Driver, DriverSettings, Handle, Hands};
use crate::executor::{Cluster, Primaries};
use crate::failover::{self, Acknowledgers, Durability, Member, Serving};
use crate::store::{Store, load_topology};
use crate::topology::{Node, Topology};

/// How shards are led.
#[derive(Clone)]
pub struct LeadingSettings {
    /// What commits wait for; `None`: for one standby, and with a single one only while it is there.
    pub durability: Option<Durability>,
    /// Open transactions are run again on the next primary, unless a session says otherwise.
    pub replays: bool,
    /// The role that standbys stream as.
    pub replication_user: String,
    /// Who looks after the servers; `None`: the agents beside them.
    pub hands: Option<Arc<dyn Hands>>,
}

impl fmt::Debug for LeadingSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_hands = self.hands.is_some();
        formatter
            .debug_struct("LeadingSettings")
            .field("durability", &self.durability)
            .field("replays", &self.replays)
            .field("has_hands", &has_hands)
            .finish()
    }
}

/// How long starting waits for replicas that are not needed to serve.
const WHOLE_MAX: Duration = Duration::from_secs(5);

/// Pause between two looks at whether nodes have come or gone.
const NODES_PAUSE: Duration = Duration::from_millis(200);

/// The drivers.
pub(super) type Leaders = HashMap<ShardId, Handle>;

/// Who leads, for the executor.
pub(super) fn primaries(leaders: &Leaders, settings: &Settings) -> Primaries {
    let durability = settings.leading.as_ref().and_then(|leading| leading.durability);
    Primaries::new(leaders.iter().map(|(shard, handle)| (*shard, handle.serving.clone())).collect())
        .with_records(leaders.iter().map(|(shard, handle)| (*shard, handle.record.clone())).collect())
        .keeping_commits(durability.is_none_or(|durability| durability.quorum > 0))
}

/// How the nodes of led shards are reached.
#[derive(Clone)]
pub(super) struct Reaching {
    user: String,
    secret: ServerSecret,
    replication_user: String,
    tls: ServersTls,
}

impl Reaching {
    pub(super) fn new(settings: &Settings, tls: &ServersTls) -> Option<Self> {
        let replication_user = settings.leading.as_ref()?.replication_user.clone();
        let (user, secret) = (settings.control_user.clone(), settings.control_secret());
        Some(Self { user, secret, replication_user, tls: tls.clone() })
    }

    fn places(&self, topology: &Topology, nodes: &[&Node]) -> Places {
        let target = |node: &Node| ConnectTarget {
            node: node.id,
            host: node.host.clone(),
            port: node.port,
            database: topology.database.clone(),
            user: self.user.clone(),
            secret: self.secret.clone(),
            parameters: Vec::new(),
            connect_timeout_ms: 1_000,
            tls: self.tls.of(&node.name),
        };
        Places {
            targets: nodes.iter().map(|node| (node.id, target(node))).collect(),
            names: Names::new(nodes.iter().map(|node| (node.id, node.name.clone()))),
            replication_user: self.replication_user.clone(),
        }
    }
}

fn nodes_of(topology: &Topology, shard: ShardId) -> Vec<&Node> {
    topology.nodes.iter().filter(|node| node.shard == shard).collect()
}

fn members(nodes: &[&Node]) -> Vec<Member> {
    nodes.iter().map(|node| Member { node: node.id, zone: node.zone.clone(), priority: 0 }).collect()
}

/// Starts a driver for each shard that has a replica.
pub(super) fn start(
    settings: &Settings,
    topology: &Topology,
    store: &Arc<dyn Store>,
    tls: &ServersTls,
) -> Result<Leaders, StartError> {
    let Some(leading) = &settings.leading else { return Ok(Leaders::new()) };
    let Some(reaching) = Reaching::new(settings, tls) else { return Ok(Leaders::new()) };
    let holder = format!("{:016x}", identity::random()?);
    let mut leaders = Leaders::new();
    for shard in &topology.shards {
        let nodes = nodes_of(topology, shard.id);
        let Some(primary) = topology.primary(shard.id).filter(|_| nodes.len() > 1) else { continue };
        let usual = Durability { quorum: 1, acknowledgers: Acknowledgers::Any, is_available: nodes.len() < 3 };
        let durability = leading.durability.unwrap_or(usual);
        let agents = || Arc::new(ByAgents::new(store, shard.id)) as Arc<dyn Hands>;
        let driver = Driver {
            settings: DriverSettings {
                shard: shard.id,
                machine: failover::Settings { durability, ..failover::Settings::default() },
                probe_pause: Duration::from_millis(100),
                probe_limit: Duration::from_millis(300),
                holder: holder.clone(),
            },
            store: Arc::clone(store),
            places: Arc::new(reaching.places(topology, &nodes)),
            members: members(&nodes),
            first: (shard.term, primary.id),
            hands: leading.hands.clone().unwrap_or_else(agents),
        };
        leaders.insert(shard.id, driver.start());
    }
    Ok(leaders)
}

/// A task for each shard that is led; see [`cut_replaced`].
pub(super) fn cut_all_replaced<'a>(
    leaders: &'a Leaders,
    cluster: &'a Arc<Cluster>,
) -> impl Iterator<Item = JoinHandle<()>> + 'a {
    leaders.values().map(|leader| tokio::spawn(cut_replaced(leader.serving.clone(), Arc::clone(cluster))))
}

/// Ends what still waits for a primary once another one serves in its place: it may be stopped or cut off, and say nothing.
async fn cut_replaced(mut serving: watch::Receiver<Serving>, cluster: Arc<Cluster>) {
    let mut last = None;
    loop {
        if let Serving::Open { node, .. } = *serving.borrow_and_update()
            && let Some(replaced) = last.replace(node)
            && replaced != node
        {
            cluster.pools.cut(replaced);
        }
        if serving.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the drivers of nodes that come and go, for ever.
pub(super) async fn follow_nodes(leaders: Arc<Leaders>, cluster: Arc<Cluster>, reaching: Option<Reaching>) {
    let Some(reaching) = reaching else { return };
    let mut known = cluster.topology.load_full();
    loop {
        tokio::time::sleep(NODES_PAUSE).await;
        let topology = cluster.topology.load_full();
        if topology.epoch == known.epoch {
            continue;
        }
        for (shard, handle) in leaders.iter() {
            let nodes = nodes_of(&topology, *shard);
            if nodes.is_empty() {
                handle.end();
                continue;
            }
            let place = |node: &&Node| (node.id, node.host.clone(), node.port, node.zone.clone());
            let before: Vec<_> = nodes_of(&known, *shard).iter().map(place).collect();
            if nodes.iter().map(place).collect::<Vec<_>>() != before {
                handle.set_nodes(members(&nodes), reaching.places(&topology, &nodes)).await;
            }
        }
        known = topology;
    }
}

/// Waits until every shard is open, and for the topology that says so.
///
/// # Cancel safety
/// Safe.
pub(super) async fn wait_open(
    leaders: &Leaders,
    store: &Arc<dyn Store>,
    topology: Topology,
) -> Result<Topology, StartError> {
    let mut topology = topology;
    for (shard, handle) in leaders {
        let mut serving = handle.serving.clone();
        let node = loop {
            if let Serving::Open { node, .. } = *serving.borrow_and_update() {
                break node;
            }
            if serving.changed().await.is_err() {
                let reason = "nobody leads it".to_owned();
                return Err(StartError::Shard { shard: shard.to_string(), reason });
            }
        };
        // Best with every replica in the set: then what is written first is as safe as what comes later.
        let replicas = topology.nodes.iter().filter(|known| known.shard == *shard && known.id != node).count();
        let mut record = handle.record.clone();
        let is_whole = record.wait_for(|record| {
            record.as_ref().is_some_and(|record| record.next.is_none() && record.current.members.len() == replicas)
        });
        if tokio::time::timeout(WHOLE_MAX, is_whole).await.is_err() {
            tracing::warn!(%shard, "serving, though not every replica streams");
        }
        while topology.primary(*shard).is_none_or(|primary| primary.id != node) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            topology = load_topology(store.as_ref()).await?.ok_or(StartError::NoTopology)?.0;
        }
    }
    Ok(topology)
}
