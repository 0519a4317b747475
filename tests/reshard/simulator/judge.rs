//! What must be true, said without knowing how it is made so.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ostrakon::base::{BucketId, Epoch, ShardId};
use ostrakon::topology::BucketMap;

/// Keeps what was acknowledged, and compares.
pub struct Judge {
    pub broken: Vec<String>,
    acknowledged: BTreeMap<u64, u64>,
    by_epoch: HashMap<Epoch, BucketMap>,
    /// The last write of a bucket: under which epoch, and where.
    written: HashMap<BucketId, (Epoch, ShardId)>,
    values: u64,
}

impl Judge {
    pub fn new(owners: BucketMap) -> Self {
        Self {
            broken: Vec::new(),
            acknowledged: BTreeMap::new(),
            by_epoch: [(Epoch(1), owners)].into(),
            written: HashMap::new(),
            values: 0,
        }
    }

    pub fn next_value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    pub fn count(&self) -> usize {
        self.acknowledged.len()
    }

    pub fn keys(&self) -> BTreeSet<u64> {
        self.acknowledged.keys().copied().collect()
    }

    /// A statement saw a row so many times.
    pub fn read(&mut self, now: u64, key: u64, is_awaited: bool, count: usize) {
        if count > 1 || (is_awaited && count == 0) {
            self.broken.push(format!("at {now}: a statement saw row {key} {count} times"));
        }
        self.broken.truncate(20);
    }

    /// One owner per bucket per epoch.
    pub fn owned(&mut self, epoch: Epoch, owners: &BucketMap) {
        if self.by_epoch.get(&epoch).is_some_and(|known| known != owners) {
            self.broken.push(format!("two sets of owners for epoch {epoch}"));
        }
        self.by_epoch.insert(epoch, owners.clone());
    }

    /// No write to the source after the target's first.
    pub fn wrote(&mut self, key: u64, value: u64, bucket: BucketId, shard: ShardId, epoch: Epoch) {
        self.acknowledged.insert(key, value);
        if let Some((last, at)) = self.written.get(&bucket)
            && *last > epoch
            && *at != shard
        {
            self.broken
                .push(format!("bucket {bucket} was written on {shard} in epoch {epoch} after {at} in epoch {last}"));
        }
        if self.by_epoch.get(&epoch).is_none_or(|owners| owners.owner(bucket) != shard) {
            self.broken.push(format!("bucket {bucket} was written on {shard}, which does not own it in epoch {epoch}"));
        }
        self.written.insert(bucket, (epoch, shard));
    }

    /// Every acknowledged row is there once, on its owner, and none else.
    pub fn sees(&mut self, now: u64, rows: impl Iterator<Item = (ShardId, u64, u64)>, owner: impl Fn(u64) -> ShardId) {
        let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
        for (shard, key, value) in rows {
            if seen.insert(key, value).is_some() {
                self.broken.push(format!("at {now}: row {key} is there twice"));
            }
            if owner(key) != shard {
                self.broken.push(format!("at {now}: row {key} is on {shard}, not on its owner"));
            }
        }
        if seen != self.acknowledged {
            let (seen, known) = (seen.len(), self.acknowledged.len());
            self.broken.push(format!("at {now}: {seen} rows are seen, {known} were acknowledged, or others"));
        }
        self.broken.truncate(20);
    }
}
