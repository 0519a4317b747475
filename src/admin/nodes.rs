//! NODE: nodes come, go, are made anew and are started again, while the cluster serves.
//!
//! Must not know: how standbys are made; that is for those who look after the servers.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::command::Words;
use super::views::table;
use super::{Admin, View, store_error};
use crate::base::{Epoch, NodeId, ShardId};
use crate::control::leader::Handle;
use crate::error::{ClientError, ErrorId};
use crate::failover::{Aside, Phase, Record};
use crate::store::agents::{Order, OrderKind, forget_agent, read_report};
use crate::store::{StoreError, load_topology, save_topology};
use crate::topology::{Node, Role, Topology, validate};

const COLUMNS: [&str; 5] = ["node", "shard", "host", "port", "state"];
/// How long commits may take to go on without a node.
const ASIDE_MAX: Duration = Duration::from_secs(20);
/// Pause between two looks at the record.
const LOOK: Duration = Duration::from_millis(50);
/// How long a topology may take to be in force here.
const TOLD_MAX: Duration = Duration::from_secs(5);
/// How long a server may take to stop and start.
const RESTART_MAX: Duration = Duration::from_secs(180);

/// What is wanted of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeChange {
    pub(super) name: String,
    pub(super) kind: NodeChangeKind,
    pub(super) dry_run: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodeChangeKind {
    Add { shard: String, host: String, port: u16, zone: String },
    Remove,
    Rebuild,
    Restart,
}

/// Reads what stands behind NODE.
pub(super) fn read_node(words: &mut Words<'_>) -> Result<NodeChange, ClientError> {
    let is_add = words.take("ADD");
    let plain = [
        ("REMOVE", NodeChangeKind::Remove),
        ("REBUILD", NodeChangeKind::Rebuild),
        ("RESTART", NodeChangeKind::Restart),
    ];
    let kind = if is_add { None } else { plain.into_iter().find(|(word, _)| words.take(word)).map(|(_, kind)| kind) };
    if !is_add && kind.is_none() {
        return Err(words.unknown());
    }
    let name = words.name()?;
    let kind = match kind {
        Some(kind) => kind,
        None => {
            words.expect("SHARD")?;
            let shard = words.name()?;
            words.expect("HOST")?;
            let host = words.text()?;
            words.expect("PORT")?;
            let port = words.port()?;
            let zone = if words.take("ZONE") { words.text()? } else { String::new() };
            NodeChangeKind::Add { shard, host, port, zone }
        }
    };
    let dry_run = words.take("DRY") && words.expect("RUN")?;
    Ok(NodeChange { name, kind, dry_run })
}

fn missing(text: String) -> ClientError {
    ClientError::new(ErrorId::PrerequisiteMissing, text)
}

impl Admin {
    /// Does what is wanted of a node, and says what was done.
    pub(super) async fn change_node(&self, change: &NodeChange) -> Result<View, ClientError> {
        match &change.kind {
            NodeChangeKind::Add { shard, host, port, zone } => self.add_node(change, shard, (host, *port, zone)).await,
            NodeChangeKind::Remove => self.remove_node(change).await,
            NodeChangeKind::Rebuild => self.rebuild_node(change).await,
            NodeChangeKind::Restart => self.restart_node(change).await,
        }
    }

    fn leader_of(&self, shard: ShardId) -> Result<(&Handle, Record), ClientError> {
        let leader = self.leaders.get().and_then(|leaders| leaders.get(&shard)).ok_or_else(|| {
            missing("nobody leads the shard".to_owned()).with_hint(
                "Its first replica is added to the configuration, with [failover]; then the proxy is restarted.",
            )
        })?;
        let record = leader.record.borrow().clone().filter(|record| record.phase == Phase::Open).ok_or_else(|| {
            missing("the shard's primary is being replaced".to_owned()).with_hint("Try again when that is over.")
        })?;
        Ok((leader, record))
    }

    /// A node that is there, and is not the primary.
    fn replica(&self, topology: &Topology, name: &str) -> Result<(Node, &Handle, Record), ClientError> {
        let node = topology.nodes.iter().find(|node| node.name == name).cloned().ok_or_else(|| {
            ClientError::new(ErrorId::UndefinedObject, format!("there is no node \"{name}\""))
                .with_hint("SHOW NODES lists them.")
        })?;
        let (leader, record) = self.leader_of(node.shard)?;
        if record.primary == node.id {
            return Err(missing(format!("\"{name}\" is the primary")).with_hint("SWITCHOVER moves it to another node."));
        }
        Ok((node, leader, record))
    }

    async fn add_node(
        &self,
        change: &NodeChange,
        shard: &str,
        (host, port, zone): (&str, u16, &str),
    ) -> Result<View, ClientError> {
        let topology = self.cluster.topology.load_full();
        let shard_id = topology.shards.iter().find(|known| known.name == shard).map(|known| known.id);
        let shard_id = shard_id.ok_or_else(|| {
            ClientError::new(ErrorId::UndefinedObject, format!("there is no shard \"{shard}\""))
                .with_hint("SHOW SHARDS lists them.")
        })?;
        self.leader_of(shard_id)?;
        if !validate::is_name(&change.name) {
            return Err(missing(format!("\"{}\" is no name for a node", change.name))
                .with_hint("Names are letters, digits, - and _."));
        }
        let new = |id| Node {
            id,
            name: change.name.clone(),
            host: host.to_owned(),
            port,
            zone: zone.to_owned(),
            shard: shard_id,
            role: Role::Replica,
        };
        let taken = |topology: &Topology| {
            let same =
                topology.nodes.iter().find(|node| node.name == change.name || (node.host == host && node.port == port));
            same.map(|node| {
                missing(format!("node \"{}\" is there already, at {} port {}", node.name, node.host, node.port))
            })
        };
        if let Some(error) = taken(&topology) {
            return Err(error);
        }
        if !change.dry_run {
            // Numbers of nodes that have left are not used again: what was meant for them may still be on its way.
            let gone = self.leadership().into_values().flat_map(|record| record.aside.into_keys()).max();
            let mut refused = None;
            let edit = |topology: &mut Topology| {
                refused = taken(topology);
                let id = topology.nodes.iter().map(|node| node.id).chain(gone).max().map_or(1, |id| id.0 + 1);
                topology.nodes.push(new(NodeId(id)));
                refused.is_none()
            };
            self.edit_topology(edit).await?;
            if let Some(error) = refused {
                return Err(error);
            }
            tracing::info!(node = change.name, shard, host, port, "a node was added");
        }
        Ok(row(&new(NodeId(0)), shard, if change.dry_run { "planned" } else { "added" }))
    }

    async fn remove_node(&self, change: &NodeChange) -> Result<View, ClientError> {
        let topology = self.cluster.topology.load_full();
        let (node, leader, record) = self.replica(&topology, &change.name)?;
        let shard = crate::executor::shard_name(&topology, node.shard);
        if change.dry_run {
            return Ok(row(&node, &shard, "planned"));
        }
        let places = leader.places();
        self.set_aside(leader, &record, node.id, Aside::Leaving).await?;
        let edit = |topology: &mut Topology| {
            topology.nodes.retain(|known| known.id != node.id);
            true
        };
        self.edit_topology(edit).await?;
        leader.let_go(node.id, &places).await;
        forget_agent(self.store.as_ref(), node.id).await.map_err(store_error)?;
        tracing::info!(node = node.name, "a node was removed");
        Ok(row(&node, &shard, "removed"))
    }

    async fn rebuild_node(&self, change: &NodeChange) -> Result<View, ClientError> {
        let topology = self.cluster.topology.load_full();
        let (node, leader, record) = self.replica(&topology, &change.name)?;
        let shard = crate::executor::shard_name(&topology, node.shard);
        self.have_hands(leader, &node).await?;
        if !change.dry_run {
            self.set_aside(leader, &record, node.id, Aside::Renewed).await?;
            tracing::info!(node = node.name, "a node is to be made anew");
        }
        Ok(row(&node, &shard, if change.dry_run { "planned" } else { "begun" }))
    }

    async fn restart_node(&self, change: &NodeChange) -> Result<View, ClientError> {
        let topology = self.cluster.topology.load_full();
        let (node, leader, record) = self.replica(&topology, &change.name)?;
        let shard = crate::executor::shard_name(&topology, node.shard);
        self.have_hands(leader, &node).await?;
        if change.dry_run {
            return Ok(row(&node, &shard, "planned"));
        }
        let order = Order::new(OrderKind::Restart, record.primary, record.stamp());
        match timeout(RESTART_MAX, leader.hands.obey(node.id, order)).await {
            Ok(true) => Ok(row(&node, &shard, "restarted")),
            _ => {
                let report = read_report(self.store.as_ref(), node.id).await.ok().flatten();
                let detail = report.map_or_else(String::new, |report| report.detail);
                Err(missing(format!("\"{}\" was not restarted", node.name)).with_detail(detail))
            }
        }
    }

    async fn have_hands(&self, leader: &Handle, node: &Node) -> Result<(), ClientError> {
        if leader.hands.are_there(node.id).await {
            return Ok(());
        }
        Err(missing(format!("nobody looks after \"{}\"", node.name))
            .with_hint("Run `ostrakon agent` beside its server: docs/operate/agent.md."))
    }

    /// Until commits go on without the node. Where they cannot, it is as it was.
    async fn set_aside(&self, leader: &Handle, before: &Record, node: NodeId, aside: Aside) -> Result<(), ClientError> {
        let mut records = leader.record.clone();
        leader.set_aside(node, Some(aside)).await;
        let is_done = |record: &Option<Record>| {
            record.as_ref().is_some_and(|record| {
                let is_made = aside == Aside::Renewed && record.aside.get(&node) != Some(&aside);
                let is_told = record.aside.get(&node) == Some(&aside) || (is_made && record.aside != before.aside);
                record.phase == Phase::Open && is_told && !record.voters().contains(&node)
            })
        };
        let waiting = async {
            while !is_done(&records.borrow_and_update()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if timeout(ASIDE_MAX, waiting).await.is_ok() {
            return Ok(());
        }
        leader.set_aside(node, None).await;
        Err(missing("commits cannot go on without it; nothing has changed".to_owned())
            .with_detail("Too few of the shard's other nodes stream.")
            .with_hint("See SHOW NODES. Add another node first, or start one that is down."))
    }

    /// Changes the topology, and waits until it is in force here; `false`: it is not to be changed after all.
    async fn edit_topology(&self, mut edit: impl FnMut(&mut Topology) -> bool) -> Result<(), ClientError> {
        let epoch = loop {
            let loaded = load_topology(self.store.as_ref()).await.map_err(store_error)?;
            let (mut topology, revision) = loaded.ok_or_else(|| missing("the store holds no topology".to_owned()))?;
            if !edit(&mut topology) {
                return Ok(());
            }
            topology.epoch = Epoch(topology.epoch.0 + 1);
            match save_topology(self.store.as_ref(), &topology, Some(revision)).await {
                Ok(_) => break topology.epoch,
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(store_error(error)),
            }
        };
        let told = async {
            while self.cluster.topology.load().epoch < epoch {
                tokio::time::sleep(LOOK).await;
            }
        };
        if timeout(TOLD_MAX, told).await.is_err() {
            tracing::warn!("the topology that was written is not in force here yet");
        }
        Ok(())
    }
}

fn row(node: &Node, shard: &str, state: &str) -> View {
    let row = json!([{ "node": node.name, "shard": shard, "host": node.host, "port": node.port, "state": state }]);
    table(&COLUMNS, &row)
}
