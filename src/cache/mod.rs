//! Trees and plans by fingerprint, bounded by bytes. Later the result cache's policy.
//!
//! Must not know: how a tree or plan is made or used. Entries are looked up under a short lock of one of several parts, so
//! that no lock is shared by all sessions.

mod bounded;

use std::sync::Arc;

use crate::plan::Plan;
use crate::sql::Fingerprint;
use crate::sql::ast::Statement;

use bounded::Bounded;

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

/// Plans by key, bounded by bytes.
pub struct PlanCache(Bounded<PlanKey, Plan>);

impl PlanCache {
    /// An empty cache.
    ///
    /// # Units
    /// `bytes_max`: estimated bytes of keys and plans; 0 keeps nothing.
    pub fn new(bytes_max: usize) -> Self {
        Self(Bounded::new(bytes_max))
    }

    /// The plan of a key.
    pub fn get(&self, key: &PlanKey) -> Option<Arc<Plan>> {
        self.0.get(key)
    }

    /// Keeps a plan; those not used for longest make room.
    pub fn insert(&self, key: PlanKey, plan: Arc<Plan>) {
        let bytes = key.bytes() + plan_bytes(&plan);
        self.0.insert(key, plan, bytes);
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.0.clear();
    }

    /// Counters since the start.
    pub fn stats(&self) -> CacheStats {
        self.0.stats()
    }
}

/// A statement's tree, or why it has none.
pub type Tree = Result<Statement, String>;

/// Trees by fingerprint, bounded by bytes: a tree names literals by their places, so it serves every statement of its
/// fingerprint.
pub struct TreeCache(Bounded<Fingerprint, Tree>);

impl TreeCache {
    /// An empty cache.
    ///
    /// # Units
    /// `bytes_max`: estimated bytes of keys and trees; 0 keeps nothing.
    pub fn new(bytes_max: usize) -> Self {
        Self(Bounded::new(bytes_max))
    }

    /// The tree of a fingerprint.
    pub fn get(&self, fingerprint: &Fingerprint) -> Option<Arc<Tree>> {
        self.0.get(fingerprint)
    }

    /// Keeps a tree; those not used for longest make room.
    pub fn insert(&self, fingerprint: Fingerprint, tree: Arc<Tree>) {
        // A tree has a node of some hundred bytes for about every word of its text.
        let bytes = fingerprint.bytes() * 40 + 512;
        self.0.insert(fingerprint, tree, bytes);
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
        Several::Merge { splices, otherwise, .. } => {
            splices.iter().map(|splice| 64 + splice.with.len() * 48).sum::<usize>()
                + otherwise.as_deref().map_or(0, gather_bytes)
        }
        Several::ExplainMerge { splices, .. } => splices.iter().map(|splice| 64 + splice.with.len() * 48).sum(),
        Several::Gather(gather) => gather_bytes(gather),
        _ => 0,
    };
    let rows = plan
        .insert
        .as_ref()
        .map_or(0, |insert| insert.rows.iter().map(|row| 96 + row.key.len() * 40 + row.fills.len() * 32).sum());
    std::mem::size_of::<Plan>() + plan.reason.len() + 256 + keys + splices + rows
}

fn gather_bytes(gather: &crate::plan::GatherPlan) -> usize {
    let columns: usize = gather.sources.iter().map(|source| 256 + source.columns.len() * 192).sum();
    columns + gather.splices.iter().map(|splice| 256 + splice.with.len() * 48).sum::<usize>()
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
            sequences: crate::plan::SequenceUse::default(),
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
