//! The shape of `SHOW STATUS FORMAT JSON` and of `ostrakon status --output json`.
//!
//! The shape is a promise to scripts: `schema/status.schema.json` is generated from it, and a test
//! keeps the two the same.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The cluster as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusDocument {
    /// Version of the topology; only grows.
    pub epoch: u64,
    /// Shards by ascending id.
    pub shards: Vec<ShardStatus>,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShardStatus {
    /// Number of the shard, from 1.
    pub id: u32,
    /// Name, unique in the cluster.
    pub name: String,
    /// Buckets that it owns, of 16,384.
    pub buckets: u32,
    /// Version of its leadership; only grows.
    pub term: u64,
    /// The primary first, then the replicas.
    pub nodes: Vec<NodeStatus>,
}

/// One PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// Name, unique in the cluster.
    pub name: String,
    /// Its part in the shard.
    pub role: NodeRole,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What is known of it.
    pub state: NodeState,
    /// Bytes of WAL that a replica has yet to replay; `null` on a primary and where it is not known.
    pub lag_bytes: Option<u64>,
}

/// Which part a node plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// Takes writes.
    Primary,
    /// Follows the primary.
    Replica,
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// A primary that answers and takes writes.
    Up,
    /// A replica that answers and streams from its primary.
    Streaming,
    /// A replica that answers but does not stream.
    Detached,
    /// Does not answer.
    Down,
    /// Not asked yet.
    Unknown,
}

impl NodeRole {
    /// The word as it is written in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

impl NodeState {
    /// The word as it is written in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Streaming => "streaming",
            Self::Detached => "detached",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_schema_file_is_fresh() {
        let schema = schemars::schema_for!(StatusDocument);
        let fresh = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/status.schema.json");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &fresh).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == fresh, "schema/status.schema.json is stale: run this test with UPDATE=1");
    }

    #[test]
    fn words_in_tables_are_the_words_in_json() {
        for state in [NodeState::Up, NodeState::Streaming, NodeState::Detached, NodeState::Down, NodeState::Unknown] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for role in [NodeRole::Primary, NodeRole::Replica] {
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
    }
}
