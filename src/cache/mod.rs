//! The plan cache: fingerprint -> plan, bounded by bytes. Later the result cache's policy.
//!
//! Must not know: how a plan is made or used. Entries are looked up under a short lock of one of several parts, so
//! that no lock is shared by all sessions.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::plan::Plan;
use crate::sql::Fingerprint;

/// What a plan depends on.
///
/// # Invariants
/// Statements of one key have equal token kinds at equal indexes: a plan holds for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlanKey {
    /// The statement without its lifted literals.
    pub fingerprint: Fingerprint,
    /// Schemas in the order in which names are looked up.
    pub search_path: Arc<[String]>,
    /// [`crate::topology::Topology::epoch`].
    pub epoch: u64,
    /// [`crate::topology::schema::Schema::version`].
    pub schema_version: u64,
}

impl PlanKey {
    fn bytes(&self) -> usize {
        self.fingerprint.bytes() + std::mem::size_of::<Self>()
    }
}

/// How often the cache had a plan, and how full it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Look-ups that found a plan.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
    /// Plans dropped to make room.
    pub evictions: u64,
    /// Plans held.
    pub entries: usize,
    /// Their size, estimated.
    pub bytes: usize,
}

/// Number of parts, each with its own lock.
const PARTS: usize = 16;

/// Plans by key, bounded by bytes.
pub struct PlanCache {
    parts: Vec<Mutex<Part>>,
    hasher: RandomState,
    part_bytes_max: usize,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
}

#[derive(Default)]
struct Part {
    entries: HashMap<PlanKey, Entry>,
    bytes: usize,
    /// Grows with every look-up; an entry remembers its last one.
    tick: u64,
}

struct Entry {
    plan: Arc<Plan>,
    bytes: usize,
    last_used: u64,
}

impl PlanCache {
    /// An empty cache.
    ///
    /// # Units
    /// `bytes_max`: estimated bytes of keys and plans; 0 keeps nothing.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            part_bytes_max: bytes_max / PARTS,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        }
    }

    fn part(&self, key: &PlanKey) -> Option<&Mutex<Part>> {
        self.parts.get(self.hasher.hash_one(key) as usize % PARTS)
    }

    /// The plan of a key.
    pub fn get(&self, key: &PlanKey) -> Option<Arc<Plan>> {
        let mut part = self.part(key)?.lock();
        part.tick += 1;
        let tick = part.tick;
        let found = part.entries.get_mut(key).map(|entry| {
            entry.last_used = tick;
            Arc::clone(&entry.plan)
        });
        drop(part);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps a plan; those not used for longest make room. A plan larger than a part of the cache is not kept.
    pub fn insert(&self, key: PlanKey, plan: Arc<Plan>) {
        let bytes = key.bytes() + plan_bytes(&plan);
        let Some(part) = self.part(&key).filter(|_| bytes <= self.part_bytes_max) else { return };
        let mut part = part.lock();
        part.tick += 1;
        let entry = Entry { plan, bytes, last_used: part.tick };
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

impl Part {
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

/// An estimate: what grows with the statement counts, the rest is a constant.
fn plan_bytes(plan: &Plan) -> usize {
    use crate::plan::{Route, Several};
    let keys = match &plan.route {
        Route::Keys(keys) => keys.len() * 96,
        _ => 0,
    };
    let splices = match &plan.several {
        Several::Merge { splices, .. } => splices.iter().map(|splice| 64 + splice.with.len() * 48).sum(),
        _ => 0,
    };
    let rows = plan
        .insert
        .as_ref()
        .map_or(0, |insert| insert.rows.iter().map(|row| 96 + row.key.len() * 40 + row.fills.len() * 32).sum());
    std::mem::size_of::<Plan>() + plan.reason.len() + 256 + keys + splices + rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ShardId;
    use crate::plan::{Class, Route, Several};
    use crate::sql;

    fn key(text: &str, epoch: u64) -> PlanKey {
        let lexed = sql::lex(text).unwrap();
        PlanKey {
            fingerprint: sql::fingerprint(text, &lexed),
            search_path: Arc::from(["public".to_owned()]),
            epoch,
            schema_version: 1,
        }
    }

    fn plan() -> Arc<Plan> {
        Arc::new(Plan {
            class: Class::Read,
            route: Route::Shard(ShardId(1)),
            several: Several::Sum,
            insert: None,
            copy: None,
            outside_transaction: false,
            inside_transaction: None,
            changes_schema: false,
            reason: String::new(),
        })
    }

    #[test]
    fn literals_share_a_plan_and_epochs_do_not() {
        let cache = PlanCache::new(1 << 20);
        cache.insert(key("select * from t where a = 1", 1), plan());
        assert!(cache.get(&key("select * from t where a = 2", 1)).is_some());
        assert!(cache.get(&key("select * from t where a = 2", 2)).is_none());
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.entries), (1, 1, 1));
    }

    #[test]
    fn the_bound_holds_and_the_used_stay() {
        let cache = PlanCache::new(256 * 1024);
        let hot = key("select hot", 1);
        cache.insert(hot.clone(), plan());
        for number in 0..5_000 {
            cache.insert(key(&format!("select column_{number} from t"), 1), plan());
            assert!(cache.get(&hot).is_some());
        }
        let stats = cache.stats();
        assert!(stats.bytes <= 256 * 1024, "{stats:?}");
        assert!(stats.evictions > 0 && stats.entries > 50, "{stats:?}");
        cache.clear();
        assert_eq!(cache.stats().bytes, 0);
    }
}
