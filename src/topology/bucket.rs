//! Bucket -> shard: the stored table that answers every query.

use crate::base::{BucketId, ShardId};

/// Owner of every bucket.
///
/// # Invariants
/// [`super::BUCKETS`] entries, and one more for each pinned key ([`super::Pins`]): one owner per bucket per epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketMap {
    owners: Box<[ShardId]>,
}

impl BucketMap {
    /// All buckets to one shard.
    pub fn all_to(shard: ShardId) -> Self {
        Self { owners: vec![shard; super::BUCKETS].into_boxed_slice() }
    }

    /// From a list of owners; `None` unless it has an entry for each hash slot, and no more than there may be pinned keys.
    pub fn from_owners(owners: Vec<ShardId>) -> Option<Self> {
        let lengths = super::BUCKETS..=super::BUCKETS + super::pin::PINS_MAX;
        lengths.contains(&owners.len()).then(|| Self { owners: owners.into_boxed_slice() })
    }

    /// The owner of a bucket. Buckets are taken modulo their number.
    pub fn owner(&self, bucket: BucketId) -> ShardId {
        self.owners.get(usize::from(bucket.0) % self.owners.len().max(1)).copied().unwrap_or_default()
    }

    /// The same owners, but for one bucket.
    #[must_use]
    pub fn with_owner(&self, bucket: BucketId, owner: ShardId) -> Self {
        let mut owners = self.owners.clone();
        if let Some(slot) = owners.get_mut(usize::from(bucket.0)) {
            *slot = owner;
        }
        Self { owners }
    }

    /// Owners in order of buckets, pinned keys' last.
    pub fn owners(&self) -> &[ShardId] {
        &self.owners
    }
}
