//! What the commit of several shards and the recovery of its branches share: transaction identifiers,
//! the decision table, and the set of transactions that this process is still working on.
//!
//! The decider, the branch that commits last, writes its decision row in its own transaction: the row
//! is there exactly when the transaction has committed. Whoever finds a branch without knowing what
//! became of it writes the opposite row; the primary key lets only one of the two in.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::ShardId;

/// What every shard's database needs; run it as a role that may create schemas, before the first commit.
///
/// `at` is the time of the insert, not of the transaction's start: cleaning counts from the decision.
pub const DECISION_SCHEMA_SQL: &str = "\
    CREATE SCHEMA IF NOT EXISTS ostrakon; \
    CREATE TABLE IF NOT EXISTS ostrakon.decision (\
        gid text PRIMARY KEY, \
        outcome char(1) NOT NULL CHECK (outcome IN ('c', 'a')), \
        at timestamptz NOT NULL DEFAULT clock_timestamp()); \
    GRANT USAGE ON SCHEMA ostrakon TO PUBLIC; \
    GRANT SELECT, INSERT ON ostrakon.decision TO PUBLIC";

/// How long a decision row stays at least.
///
/// # Units
/// Milliseconds. Longer than any coordinator asks for the outcome of a commit that it lost sight of: it
/// would take a row that has gone for a decision that was never made.
pub const DECISION_KEPT_MS: u64 = 120_000;

/// First word of every identifier.
const PREFIX: &str = "ostrakon";

/// Longest identifier that PostgreSQL takes (`GIDSIZE` in `xact.h`, with its terminator).
pub const GID_BYTES_MAX: usize = 199;

/// Names one transaction of several shards, in all processes and for all time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionKey {
    /// The cluster.
    pub cluster: u64,
    /// The process: random at each start.
    pub coordinator: u64,
    /// Counts within the process.
    pub number: u64,
    /// The shard whose database holds the decision.
    pub decider: ShardId,
}

impl TransactionKey {
    /// Key of the decision row.
    pub fn decision_gid(&self) -> String {
        format!("{PREFIX}_{:016x}_{:016x}_{}_{}", self.cluster, self.coordinator, self.number, self.decider.0)
    }

    /// Identifier of a prepared branch. It names the branch too, so that two shards may be databases
    /// of one server, where identifiers are shared.
    pub fn branch_gid(&self, branch: ShardId) -> String {
        format!("{}_{}", self.decision_gid(), branch.0)
    }

    /// Reads an identifier of a branch; `None` when it is none of ours.
    pub fn read_branch_gid(gid: &str) -> Option<(Self, ShardId)> {
        let (decision, branch) = gid.rsplit_once('_')?;
        let key = Self::read_decision_gid(decision)?;
        let branch = ShardId(branch.parse().ok()?);
        // Only what we would write ourselves.
        (key.branch_gid(branch) == gid).then_some((key, branch))
    }

    /// Reads the key of a decision row; `None` when it is none of ours.
    pub fn read_decision_gid(gid: &str) -> Option<Self> {
        let mut words = gid.split('_');
        if words.next()? != PREFIX {
            return None;
        }
        let cluster = u64::from_str_radix(words.next()?, 16).ok()?;
        let coordinator = u64::from_str_radix(words.next()?, 16).ok()?;
        let number = words.next()?.parse().ok()?;
        let decider = ShardId(words.next()?.parse().ok()?);
        let key = Self { cluster, coordinator, number, decider };
        (key.decision_gid() == gid).then_some(key)
    }

    /// What all identifiers of a cluster begin with.
    pub fn cluster_prefix(cluster: u64) -> String {
        format!("{PREFIX}_{cluster:016x}_")
    }
}

/// Transactions that this process is committing now: recovery leaves them alone.
#[derive(Clone, Debug, Default)]
pub struct ActiveTransactions {
    keys: Arc<Mutex<HashSet<TransactionKey>>>,
}

impl ActiveTransactions {
    /// Takes a transaction in until the guard is dropped.
    pub fn enter(&self, key: TransactionKey) -> ActiveGuard {
        self.keys.lock().insert(key);
        ActiveGuard { active: self.clone(), key }
    }

    /// This process is committing it now.
    pub fn contains(&self, key: &TransactionKey) -> bool {
        self.keys.lock().contains(key)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.lock().len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Keeps a transaction among the active ones.
#[derive(Debug)]
pub struct ActiveGuard {
    active: ActiveTransactions,
    key: TransactionKey,
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.active.keys.lock().remove(&self.key);
    }
}

/// A decision row's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The transaction has committed.
    Committed,
    /// The transaction can no longer commit.
    Aborted,
}

/// Commits the decider's open transaction together with its decision row, as one simple query: after an
/// error the server skips the rest, so the COMMIT runs only behind a row that was written.
///
/// A session may have set `synchronous_commit` lower than `on`: it may lose its transaction then, but
/// not half of it, so the decision is made as durable as the prepared branches are.
pub fn decide_sql(key: &TransactionKey) -> String {
    format!(
        "SELECT pg_catalog.set_config('synchronous_commit', 'on', true) \
         WHERE pg_catalog.current_setting('synchronous_commit') IN ('off', 'local', 'remote_write'); \
         INSERT INTO ostrakon.decision (gid, outcome) VALUES ('{}', 'c'); \
         COMMIT",
        key.decision_gid()
    )
}

/// Forces a decision: a transaction that is not decided yet is aborted. The last statement returns the
/// outcome. Its own isolation level: in a stricter one the conflicting row could be invisible. The insert
/// waits for a decider that has written its row and not committed yet, so it has a limit.
pub fn resolve_sql(key: &TransactionKey) -> String {
    let gid = key.decision_gid();
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '3s'; SET LOCAL synchronous_commit = on; \
         INSERT INTO ostrakon.decision (gid, outcome) VALUES ('{gid}', 'a') ON CONFLICT DO NOTHING; \
         COMMIT; \
         SELECT outcome FROM ostrakon.decision WHERE gid = '{gid}'"
    )
}

/// Reads the column `outcome`.
pub fn read_outcome(text: &str) -> Option<Outcome> {
    match text {
        "c" => Some(Outcome::Committed),
        "a" => Some(Outcome::Aborted),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TransactionKey {
        TransactionKey { cluster: u64::MAX, coordinator: 7, number: u64::MAX, decider: ShardId(u32::MAX) }
    }

    #[test]
    fn identifiers_are_read_back() {
        let gid = key().branch_gid(ShardId(2));
        assert_eq!(TransactionKey::read_branch_gid(&gid), Some((key(), ShardId(2))));
        assert_eq!(TransactionKey::read_decision_gid(&key().decision_gid()), Some(key()));
        assert!(gid.starts_with(&TransactionKey::cluster_prefix(u64::MAX)));
    }

    #[test]
    fn the_longest_identifier_fits() {
        assert!(key().branch_gid(ShardId(u32::MAX)).len() <= GID_BYTES_MAX);
    }

    #[test]
    fn identifiers_of_others_are_not_ours() {
        for gid in [
            "",
            "ostrakon",
            "ostrakon_1_2_3_4_5",
            "mine_0000000000000001_0000000000000002_3_4_5",
            "ostrakon_0000000000000001_0000000000000002_03_4_5",
            "ostrakon_0000000000000001_0000000000000002_3_4_5_6",
            "ostrakon_0000000000000001_0000000000000002_3_4_x",
        ] {
            assert_eq!(TransactionKey::read_branch_gid(gid), None, "{gid}");
        }
    }

    #[test]
    fn a_transaction_is_active_until_its_guard_is_dropped() {
        let active = ActiveTransactions::default();
        let guard = active.enter(key());
        assert!(active.contains(&key()));
        drop(guard);
        assert!(active.is_empty());
    }
}
