//! A map bounded by bytes, in parts with a lock each.
//!
//! Keys are looked up with every statement, so their hash is a cheap one; what clients choose of a key is in it as a hash under a
//! secret of the process ([`crate::sql::Fingerprint`]), so nobody can make keys meet.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;

use super::CacheStats;

/// Number of parts, each with its own lock.
const PARTS: usize = 16;

/// Values by key, bounded by bytes.
pub struct Bounded<K, V> {
    parts: Vec<Mutex<Part<K, V>>>,
    part_bytes_max: usize,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
}

struct Part<K, V> {
    entries: HashMap<K, Entry<V>, FxBuildHasher>,
    bytes: usize,
    /// Grows with every look-up; an entry remembers its last one.
    tick: u64,
}

impl<K, V> Default for Part<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::default(), bytes: 0, tick: 0 }
    }
}

struct Entry<V> {
    value: Arc<V>,
    bytes: usize,
    last_used: u64,
}

impl<K: Hash + Eq, V> Bounded<K, V> {
    /// An empty cache.
    ///
    /// # Units
    /// `bytes_max`: estimated bytes of keys and values; 0 keeps nothing.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            part_bytes_max: bytes_max / PARTS,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        }
    }

    fn part(&self, key: &K) -> Option<&Mutex<Part<K, V>>> {
        // Bits that the part's own table does not use.
        self.parts.get((FxBuildHasher.hash_one(key) >> 40) as usize % PARTS)
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        let mut part = self.part(key)?.lock();
        part.tick += 1;
        let tick = part.tick;
        let found = part.entries.get_mut(key).map(|entry| {
            entry.last_used = tick;
            Arc::clone(&entry.value)
        });
        drop(part);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps a value of so many bytes, key included; those not used for longest make room. A value larger than a part
    /// of the cache is not kept.
    pub fn insert(&self, key: K, value: Arc<V>, bytes: usize) {
        let Some(part) = self.part(&key).filter(|_| bytes <= self.part_bytes_max) else { return };
        let mut part = part.lock();
        part.tick += 1;
        let entry = Entry { value, bytes, last_used: part.tick };
        part.bytes += bytes;
        if let Some(old) = part.entries.insert(key, entry) {
            part.bytes -= old.bytes;
        }
        if part.bytes > self.part_bytes_max {
            let evicted = part.evict(self.part_bytes_max);
            self.evictions.fetch_add(evicted, Ordering::Relaxed);
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for part in &self.parts {
            *part.lock() = Part::default();
        }
    }

    /// Counters since the start.
    pub fn stats(&self) -> CacheStats {
        let mut stats = CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            ..CacheStats::default()
        };
        for part in &self.parts {
            let part = part.lock();
            stats.entries += part.entries.len();
            stats.bytes += part.bytes;
        }
        stats
    }
}

impl<K: Hash + Eq, V> Part<K, V> {
    /// Drops the entries that were not used for longest until an eighth is free; the sort is then rare.
    fn evict(&mut self, bytes_max: usize) -> u64 {
        let mut ages: Vec<u64> = self.entries.values().map(|entry| entry.last_used).collect();
        ages.sort_unstable();
        let target = bytes_max - bytes_max / 8;
        let mut evicted = 0;
        let mut from = 0;
        while self.bytes > target && from < ages.len() {
            let step = (ages.len() / 8).max(1);
            let Some(limit) = ages.get((from + step - 1).min(ages.len() - 1)).copied() else { break };
            let before = self.entries.len();
            let mut freed = 0;
            self.entries.retain(|_, entry| {
                let stays = entry.last_used > limit;
                if !stays {
                    freed += entry.bytes;
                }
                stays
            });
            self.bytes -= freed;
            evicted += (before - self.entries.len()) as u64;
            from += step;
        }
        evicted
    }
}
