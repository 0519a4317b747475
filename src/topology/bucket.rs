//! Bucket -> shard: the stored table that answers every query.

use crate::base::{BucketId, ShardId};

/// Owner of every bucket.
///
/// # Invariants
/// Exactly [`super::BUCKETS`] entries: one owner per bucket per epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketMap {
    owners: Box<[ShardId]>,
}

impl BucketMap {
    /// All buckets to one shard.
    pub fn all_to(shard: ShardId) -> Self {
        Self { owners: vec![shard; super::BUCKETS].into_boxed_slice() }
    }

    /// From a list of owners; `None` unless it has exactly one entry a bucket.
    pub fn from_owners(owners: Vec<ShardId>) -> Option<Self> {
        (owners.len() == super::BUCKETS).then(|| Self { owners: owners.into_boxed_slice() })
    }

    /// The owner of a bucket. Buckets are taken modulo their number.
    pub fn owner(&self, bucket: BucketId) -> ShardId {
        self.owners.get(usize::from(bucket.0) % super::BUCKETS).copied().unwrap_or_default()
    }

    /// Owners in order of buckets.
    pub fn owners(&self) -> &[ShardId] {
        &self.owners
    }
}
