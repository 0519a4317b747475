//! The views of the admin database.

use serde_json::{Value, json};

use super::reference::{COMMANDS, VIEWS};
use super::status_document::{NodeRole, NodeState, NodeStatus, ShardStatus, StatusDocument};
use super::{Admin, View, leading};
use crate::control::probe::{NodeProbe, ProbeTarget, probe};
use crate::error::{ClientError, ErrorId};
use crate::executor::shard_name;
use crate::topology::{Node, Placement, Role, Topology};

/// How long a node may take to say how it is.
const PROBE_MS: u64 = 1_000;

impl Admin {
    pub(super) async fn show(&self, view: &str, as_json: bool) -> Result<View, ClientError> {
        let topology = self.cluster.topology.load_full();
        let Some(spec) = VIEWS.iter().find(|known| known.name == view) else {
            let known: Vec<String> = VIEWS.iter().map(|view| view.name.to_uppercase()).collect();
            return Err(ClientError::new(ErrorId::UndefinedObject, format!("there is no view \"{view}\""))
                .with_hint(format!("Known are {}.", known.join(", "))));
        };
        let document = match view {
            "status" => serde_json::to_value(self.status().await).map_err(|error| {
                ClientError::new(ErrorId::Internal, "the status cannot be written as JSON")
                    .with_detail(format!("{error}."))
            })?,
            "topology" => self.topology_document(&topology),
            "shards" => Value::Array(shard_rows(&topology)),
            "nodes" => self.node_rows().await?,
            "tables" => self.table_rows(&topology),
            "drift" => self.drift_rows(&topology).await?,
            "pools" => self.pool_rows(),
            "reshard" => self.reshard_rows(),
            "pins" => Self::pin_rows(&topology),
            "help" => help_rows(),
            "proxies" => self.proxy_rows().await?,
            "servers" => self.server_rows(&topology),
            "clients" => self.client_rows(&topology),
            _ => json!([{ "version": env!("CARGO_PKG_VERSION") }]),
        };
        if as_json {
            return Ok(View { columns: vec!["document"], rows: vec![vec![Some(document.to_string())]] });
        }
        let rows = match view {
            "status" => self.node_rows().await?,
            "topology" => Value::Array(shard_rows(&topology)),
            _ => document,
        };
        let columns: Vec<&'static str> = spec.columns.iter().map(|(name, _)| *name).collect();
        Ok(table(&columns, &rows))
    }

    /// The cluster as it is now; every node is asked.
    pub(super) async fn status(&self) -> StatusDocument {
        self.status_and_answers().await.0
    }

    async fn status_and_answers(&self) -> (StatusDocument, Vec<NodeProbe>) {
        let topology = self.cluster.topology.load_full();
        let targets: Vec<ProbeTarget> = topology
            .nodes
            .iter()
            .map(|node| ProbeTarget {
                shard: node.shard,
                target: self.cluster.node_target(&topology, node, self.cluster.control.clone()),
            })
            .collect();
        let answers = probe(&targets, PROBE_MS).await;
        let shards = topology
            .shards
            .iter()
            .map(|shard| {
                let mut nodes: Vec<&Node> = topology.nodes.iter().filter(|node| node.shard == shard.id).collect();
                nodes.sort_by_key(|node| (node.role == Role::Replica, node.id));
                ShardStatus {
                    id: shard.id.0,
                    name: shard.name.clone(),
                    buckets: u32::try_from(topology.bucket_count(shard.id)).unwrap_or(u32::MAX),
                    term: shard.term.0,
                    nodes: nodes
                        .into_iter()
                        .map(|node| node_status(node, answers.iter().find(|answer| answer.node == node.id)))
                        .collect(),
                }
            })
            .collect();
        (StatusDocument { epoch: topology.epoch.0, shards }, answers)
    }

    async fn node_rows(&self) -> Result<Value, ClientError> {
        let (status, answers) = self.status_and_answers().await;
        let (topology, records) = (self.cluster.topology.load(), self.leadership());
        let mut rows = Vec::new();
        for shard in &status.shards {
            let streams =
                |name: &str| shard.nodes.iter().any(|node| node.name == name && node.state == NodeState::Streaming);
            let waits = self.waiting(&topology, shard.id, &records, streams);
            for node in &shard.nodes {
                let known = topology.nodes.iter().find(|known| known.name == node.name);
                let (term, sync) = known
                    .map_or((Value::Null, Value::Null), |known| leading::standing(records.get(&known.shard), known.id));
                let answer = answers.iter().find(|answer| known.is_some_and(|known| known.id == answer.node));
                let lsn = answer.and_then(|answer| answer.answer.as_ref().ok()?.lsn);
                let agent = match known {
                    Some(known) => self.agent_state(records.get(&known.shard), known.id).await,
                    None => None,
                };
                rows.push(json!({
                    "lsn": lsn.map(|lsn| format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)), "agent": agent, "waits": waits,
                    "term": term, "sync": sync, "shard": shard.name, "name": node.name, "role": node.role, "host": node.host, "port": node.port,
                    "state": node.state, "lag_bytes": node.lag_bytes, "buckets": shard.buckets,
                }));
            }
        }
        Ok(Value::Array(rows))
    }

    fn topology_document(&self, topology: &Topology) -> Value {
        let nodes: Vec<Value> = topology
            .nodes
            .iter()
            .map(|node| {
                json!({
                    "id": node.id.0, "name": node.name, "shard": shard_name(topology, node.shard), "host": node.host,
                    "port": node.port, "zone": node.zone, "role": role(node.role).as_str(),
                })
            })
            .collect();
        json!({
            "epoch": topology.epoch.0, "database": topology.database, "key_columns": topology.tables.key_columns,
            "shards": shard_rows(topology), "nodes": nodes, "tables": self.table_rows(topology),
            "pins": Self::pin_rows(topology),
        })
    }

    /// Declared tables, and those that exist and are placed by a rule or by default.
    fn table_rows(&self, topology: &Topology) -> Value {
        let schema = self.cluster.schema.load_full();
        let mut rows = std::collections::BTreeMap::new();
        for (name, placement) in &topology.tables.declared {
            rows.insert(name.clone(), (placement.clone(), true, schema.relations.contains_key(name)));
        }
        for (name, relation) in &schema.relations {
            use crate::topology::schema::RelationKind;
            if matches!(relation.kind, RelationKind::Table | RelationKind::Partitioned) {
                rows.entry(name.clone()).or_insert_with(|| (schema.placement(topology, relation), false, true));
            }
        }
        let own = |schema: &str| schema == "ostrakon";
        Value::Array(
            rows.into_iter()
                .filter(|(name, _)| !own(&name.schema))
                .map(|(name, (placement, declared, exists))| {
                    let (kind, key, home) = match placement {
                        Placement::Sharded { key } => ("sharded", key, Value::Null),
                        Placement::Reference => ("reference", Vec::new(), Value::Null),
                        Placement::Single { home } => {
                            ("single", Vec::new(), json!(shard_name(topology, home.unwrap_or_else(|| topology.home()))))
                        }
                    };
                    json!({
                        "schema": name.schema, "name": name.name, "placement": kind, "key": key, "home": home,
                        "declared": declared, "exists": exists,
                    })
                })
                .collect(),
        )
    }
}

fn help_rows() -> Value {
    let views = VIEWS.iter().map(|view| (format!("SHOW {}", view.name.to_uppercase()), view.about));
    let others = COMMANDS.iter().map(|(command, about)| ((*command).to_owned(), *about));
    views.chain(others).map(|(command, about)| json!({ "command": command, "about": about })).collect()
}

fn shard_rows(topology: &Topology) -> Vec<Value> {
    topology
        .shards
        .iter()
        .map(|shard| {
            json!({
                "id": shard.id.0, "name": shard.name, "buckets": topology.bucket_count(shard.id),
                "pins": topology.pin_count(shard.id), "term": shard.term.0, "weight": shard.weight,
            })
        })
        .collect()
}

fn role(role: Role) -> NodeRole {
    match role {
        Role::Primary => NodeRole::Primary,
        Role::Replica => NodeRole::Replica,
    }
}

fn node_status(node: &Node, answer: Option<&NodeProbe>) -> NodeStatus {
    let state = match answer.map(|answer| &answer.answer) {
        None => NodeState::Unknown,
        Some(Err(_)) => NodeState::Down,
        Some(Ok(answer)) if !answer.in_recovery => NodeState::Up,
        Some(Ok(answer)) if answer.is_streaming => NodeState::Streaming,
        Some(Ok(_)) => NodeState::Detached,
    };
    NodeStatus {
        name: node.name.clone(),
        role: role(node.role),
        host: node.host.clone(),
        port: node.port,
        state,
        lag_bytes: answer.and_then(|answer| answer.lag_bytes),
    }
}

/// Objects as rows of text.
pub(super) fn table(columns: &[&'static str], objects: &Value) -> View {
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => {
            Some(list.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(", "))
        }
        other => Some(other.to_string()),
    };
    let rows = objects.as_array().into_iter().flatten();
    View {
        columns: columns.to_vec(),
        rows: rows.map(|object| columns.iter().map(|column| object.get(column).and_then(text)).collect()).collect(),
    }
}
