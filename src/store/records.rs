//! Records as they are written: versioned JSON, apart from the core types.
//!
//! Fields that are not known are refused: a record of a newer version must not lose a field by being
//! read and written back.

use serde::{Deserialize, Serialize};

use super::{Revision, Store, StoreError};
use crate::base::{Epoch, NodeId, ShardId, Term};
use crate::topology::pin::PINS_MAX;
use crate::topology::validate::{validate, validate_succession};
use crate::topology::{BucketMap, Node, Pin, Pins, Placement, Role, Shard, TableName, TableRules, Topology};

/// Key of the topology.
pub const TOPOLOGY_KEY: &str = "topology";
/// Version of the record that this build writes and reads.
const TOPOLOGY_VERSION: u32 = 1;

/// The topology as stored now, with the revision to hand to [`save_topology`].
///
/// # Errors
/// The store cannot be read, or what it holds is not a topology.
pub async fn load_topology(store: &dyn Store) -> Result<Option<(Topology, Revision)>, StoreError> {
    match store.get(TOPOLOGY_KEY).await? {
        Some(entry) => Ok(Some((decode_topology(&entry.value)?, entry.revision))),
        None => Ok(None),
    }
}

/// Stores a topology in place of the one with revision `expected` (`None`: there is none yet).
///
/// # Errors
/// [`StoreError::Refused`] when it is not valid by itself, or its epoch does not grow or a term goes
/// back; [`StoreError::Conflict`] when someone else stored one meanwhile. In both cases nothing was
/// written.
pub async fn save_topology(
    store: &dyn Store,
    topology: &Topology,
    expected: Option<Revision>,
) -> Result<Revision, StoreError> {
    let refused = |problems| StoreError::Refused { problems };
    validate(topology).map_err(refused)?;
    let current = load_topology(store).await?;
    let revision = current.as_ref().map(|(_, revision)| *revision);
    super::compare(TOPOLOGY_KEY, revision, expected)?;
    if let Some((before, _)) = &current {
        validate_succession(before, topology).map_err(refused)?;
    }
    store.put(TOPOLOGY_KEY, encode_topology(topology)?, expected).await
}

/// A topology as bytes.
///
/// # Errors
/// Never in practice: the record has no map keys that JSON could not hold.
pub fn encode_topology(topology: &Topology) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(&TopologyRecord::from(topology)).map_err(|error| unreadable(&error))
}

/// A topology from bytes, as a watch delivers them.
///
/// # Errors
/// The bytes are no record of a version that this build knows, or the topology in it is not valid.
pub fn decode_topology(bytes: &[u8]) -> Result<Topology, StoreError> {
    let version: VersionOnly = serde_json::from_slice(bytes).map_err(|error| unreadable(&error))?;
    if version.version != TOPOLOGY_VERSION {
        return Err(unreadable(&format!(
            "it has version {}, this build reads version {TOPOLOGY_VERSION}",
            version.version
        )));
    }
    let record: TopologyRecord = serde_json::from_slice(bytes).map_err(|error| unreadable(&error))?;
    let topology = record.into_topology()?;
    validate(&topology).map_err(|problems| StoreError::Refused { problems })?;
    Ok(topology)
}

fn unreadable(reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable { key: TOPOLOGY_KEY.to_owned(), reason: reason.to_string() }
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopologyRecord {
    version: u32,
    epoch: u64,
    database: String,
    shards: Vec<ShardRecord>,
    nodes: Vec<NodeRecord>,
    /// Run lengths in order of buckets: (shard, number of buckets).
    buckets: Vec<(u32, u32)>,
    /// Left out when there are none: builds that do not know them read such a record, and refuse any other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pins: Vec<PinRecord>,
    tables: Vec<TableRecord>,
    key_columns: Vec<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinRecord {
    hashes: Vec<u64>,
    values: Vec<String>,
    settled: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShardRecord {
    id: u32,
    name: String,
    term: u64,
    weight: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeRecord {
    id: u32,
    name: String,
    host: String,
    port: u16,
    zone: String,
    shard: u32,
    role: RoleRecord,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RoleRecord {
    Primary,
    Replica,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TableRecord {
    schema: String,
    name: String,
    placement: PlacementRecord,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum PlacementRecord {
    Sharded { key: Vec<String> },
    Reference,
    Single { home: Option<u32> },
}

impl From<&Topology> for TopologyRecord {
    fn from(topology: &Topology) -> Self {
        Self {
            version: TOPOLOGY_VERSION,
            epoch: topology.epoch.0,
            database: topology.database.clone(),
            shards: topology.shards.iter().map(ShardRecord::from).collect(),
            nodes: topology.nodes.iter().map(NodeRecord::from).collect(),
            buckets: run_lengths(&topology.buckets),
            pins: topology.pins.iter().map(|(_, pin)| PinRecord::from(pin)).collect(),
            tables: topology.tables.declared.iter().map(TableRecord::from).collect(),
            key_columns: topology.tables.key_columns.clone(),
        }
    }
}

impl TopologyRecord {
    fn into_topology(self) -> Result<Topology, StoreError> {
        let mut tables = TableRules { key_columns: self.key_columns, ..TableRules::default() };
        for table in self.tables {
            let name = TableName { schema: table.schema, name: table.name };
            if tables.declared.insert(name, table.placement.into()).is_some() {
                return Err(unreadable(&"a table is declared twice"));
            }
        }
        Ok(Topology {
            epoch: Epoch(self.epoch),
            database: self.database,
            shards: self.shards.into_iter().map(Shard::from).collect(),
            nodes: self.nodes.into_iter().map(Node::from).collect(),
            buckets: expand(&self.buckets)?,
            pins: Pins::new(self.pins.into_iter().map(Pin::from).collect()),
            tables,
        })
    }
}

pub(super) fn run_lengths(buckets: &BucketMap) -> Vec<(u32, u32)> {
    buckets.owners().chunk_by(|left, right| left == right).fold(Vec::new(), |mut runs, run| {
        runs.extend(run.first().map(|owner| (owner.0, run.len() as u32)));
        runs
    })
}

pub(super) fn expand(runs: &[(u32, u32)]) -> Result<BucketMap, StoreError> {
    let total: u64 = runs.iter().map(|(_, length)| u64::from(*length)).sum();
    // Asked before anything is allocated.
    let least = crate::topology::BUCKETS as u64;
    if !(least..=least + PINS_MAX as u64).contains(&total) {
        return Err(unreadable(&format!("it has owners for {total} buckets")));
    }
    let owners = runs.iter().flat_map(|(owner, length)| std::iter::repeat_n(ShardId(*owner), *length as usize));
    BucketMap::from_owners(owners.collect()).ok_or_else(|| unreadable(&"the number of buckets is wrong"))
}

impl From<&Shard> for ShardRecord {
    fn from(shard: &Shard) -> Self {
        Self { id: shard.id.0, name: shard.name.clone(), term: shard.term.0, weight: shard.weight }
    }
}

impl From<ShardRecord> for Shard {
    fn from(record: ShardRecord) -> Self {
        Self { id: ShardId(record.id), name: record.name, term: Term(record.term), weight: record.weight }
    }
}

impl From<&Pin> for PinRecord {
    fn from(pin: &Pin) -> Self {
        Self { hashes: pin.hashes.clone(), values: pin.values.clone(), settled: pin.is_settled }
    }
}

impl From<PinRecord> for Pin {
    fn from(record: PinRecord) -> Self {
        Self { hashes: record.hashes, values: record.values, is_settled: record.settled }
    }
}

impl From<&Node> for NodeRecord {
    fn from(node: &Node) -> Self {
        Self {
            id: node.id.0,
            name: node.name.clone(),
            host: node.host.clone(),
            port: node.port,
            zone: node.zone.clone(),
            shard: node.shard.0,
            role: match node.role {
                Role::Primary => RoleRecord::Primary,
                Role::Replica => RoleRecord::Replica,
            },
        }
    }
}

impl From<NodeRecord> for Node {
    fn from(record: NodeRecord) -> Self {
        Self {
            id: NodeId(record.id),
            name: record.name,
            host: record.host,
            port: record.port,
            zone: record.zone,
            shard: ShardId(record.shard),
            role: match record.role {
                RoleRecord::Primary => Role::Primary,
                RoleRecord::Replica => Role::Replica,
            },
        }
    }
}

impl From<(&TableName, &Placement)> for TableRecord {
    fn from((name, placement): (&TableName, &Placement)) -> Self {
        let placement = match placement {
            Placement::Sharded { key } => PlacementRecord::Sharded { key: key.clone() },
            Placement::Reference => PlacementRecord::Reference,
            Placement::Single { home } => PlacementRecord::Single { home: home.map(|home| home.0) },
        };
        Self { schema: name.schema.clone(), name: name.name.clone(), placement }
    }
}

impl From<PlacementRecord> for Placement {
    fn from(record: PlacementRecord) -> Self {
        match record {
            PlacementRecord::Sharded { key } => Self::Sharded { key },
            PlacementRecord::Reference => Self::Reference,
            PlacementRecord::Single { home } => Self::Single { home: home.map(ShardId) },
        }
    }
}
