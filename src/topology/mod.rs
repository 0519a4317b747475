//! The cluster as an immutable value: nodes, shards, bucket owners, tables, at one epoch; and the
//! schema that the servers' catalogs describe.
//!
//! Must not know: how it is stored, who is reachable, SQL text.

pub mod balance;
pub mod bucket;
pub mod diff;
pub mod hash;
pub mod key;
pub mod pin;
pub mod ring;
pub mod schema;
pub mod table;
pub mod validate;

use crate::base::{BucketId, Epoch, NodeId, ShardId, Term};

pub use bucket::BucketMap;
pub use key::{KeyType, KeyValue};
pub use pin::{Pin, Pins};
pub use table::{Placement, TableName, TableRules};

/// Number of buckets of the keyspace.
pub const BUCKETS: usize = 16_384;

/// Which part a node plays in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Follows the primary.
    Replica,
}

/// One PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Id.
    pub id: NodeId,
    /// Name, unique: `s1a`.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Data centre or availability zone; empty when not given.
    pub zone: String,
    /// The shard it belongs to.
    pub shard: ShardId,
    /// Its part.
    pub role: Role,
}

/// A primary and its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Id.
    pub id: ShardId,
    /// Name, unique: `s1`.
    pub name: String,
    /// Version of its leadership.
    pub term: Term,
    /// Share of the ring relative to the others; 100 is normal.
    pub weight: u32,
}

/// The cluster at one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Version.
    pub epoch: Epoch,
    /// The database that is served.
    pub database: String,
    /// Shards by ascending id.
    pub shards: Vec<Shard>,
    /// Nodes by ascending id.
    pub nodes: Vec<Node>,
    /// Owner of every bucket.
    pub buckets: BucketMap,
    /// Keys with buckets of their own.
    pub pins: Pins,
    /// How tables are placed.
    pub tables: TableRules,
}

impl Topology {
    /// The shard that holds single tables without a home of their own, catalog reads and statements
    /// without tables: the lowest id.
    pub fn home(&self) -> ShardId {
        self.shards.first().map_or(ShardId(1), |shard| shard.id)
    }

    /// The primary of a shard.
    pub fn primary(&self, shard: ShardId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.shard == shard && node.role == Role::Primary)
    }

    /// Some shard has a replica.
    pub fn has_replicas(&self) -> bool {
        // A shard has one primary.
        self.nodes.len() > self.shards.len()
    }

    /// The replicas of a shard.
    pub fn replicas(&self, shard: ShardId) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.shard == shard && node.role == Role::Replica)
    }

    /// Ids of all shards, ascending.
    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.shards.iter().map(|shard| shard.id)
    }

    /// The owner of the bucket of a key.
    pub fn shard_of_key(&self, key: &[KeyValue]) -> ShardId {
        self.buckets.owner(self.pins.bucket_of(key))
    }

    /// The topology with a key pinned that is not, which stays where it is.
    #[must_use]
    pub fn with_pin(&self, pin: Pin) -> Self {
        let mut owners = self.buckets.owners().to_vec();
        owners.push(self.buckets.owner(pin.slot()));
        let buckets = BucketMap::from_owners(owners).unwrap_or_else(|| self.buckets.clone());
        let pins = self.pins.iter().map(|(_, pin)| pin.clone()).chain([pin]).collect();
        Self { buckets, pins: Pins::new(pins), ..self.clone() }
    }

    /// The topology without the pins that do not hold; those that do may change.
    #[must_use]
    pub fn with_pins(&self, mut holds: impl FnMut(BucketId, &mut Pin) -> bool) -> Self {
        let mut owners: Vec<ShardId> = self.buckets.owners().iter().take(BUCKETS).copied().collect();
        let mut pins = Vec::new();
        for (bucket, pin) in self.pins.iter() {
            let mut pin = pin.clone();
            if holds(bucket, &mut pin) {
                owners.push(self.buckets.owner(bucket));
                pins.push(pin);
            }
        }
        let buckets = BucketMap::from_owners(owners).unwrap_or_else(|| self.buckets.clone());
        Self { buckets, pins: Pins::new(pins), ..self.clone() }
    }

    /// Pinned keys of a shard.
    pub fn pin_count(&self, shard: ShardId) -> usize {
        self.pins.iter().filter(|(bucket, _)| self.buckets.owner(*bucket) == shard).count()
    }

    /// Hash slots owned by a shard.
    pub fn bucket_count(&self, shard: ShardId) -> usize {
        (0..BUCKETS).filter(|bucket| self.buckets.owner(BucketId(*bucket as u16)) == shard).count()
    }
}
