//! Finishes transactions of several shards whose coordinator died: facts of two-phase commit, last agent.
//!
//! A prepared branch that nobody is working on is brought to the side of its decider. The decider's
//! decision row says which; when there is none, an opposite row is written first, so that a decider
//! that is still on its way can no longer commit (presumed abort).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::ConnectTarget;
use crate::backend::connection::Rows;
use crate::backend::decision::{
    ActiveTransactions, DECISION_KEPT_MS, DECISION_SCHEMA_SQL, Outcome, TransactionKey, read_outcome, resolve_sql,
};
use crate::base::ShardId;

use super::client::{ControlClient, ControlError, quote_identifier, quote_literal};

/// Limit of one statement.
const STATEMENT_MS: u64 = 8_000;
/// Pause between two cleanings of the decision tables.
const CLEANING_PAUSE_MS: u64 = 30_000;
/// Rows removed at a time.
const CLEANED_ROWS_MAX: usize = 5_000;

/// The primaries of all shards now, for control connections: a role that may finish the branches of
/// others, that is a superuser or a member of the roles that clients use.
pub type FindPrimaries = Arc<dyn Fn() -> Vec<(ShardId, ConnectTarget)> + Send + Sync>;

/// What a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Branches committed.
    pub committed: usize,
    /// Branches rolled back.
    pub aborted: usize,
    /// Branches that stay in doubt for now.
    pub waiting: usize,
    /// Shards that could not be asked.
    pub unreachable: Vec<ShardId>,
    /// Decision rows removed.
    pub cleaned: usize,
}

impl RecoveryReport {
    /// Says in the log what there was to do.
    pub fn log(&self) {
        let Self { committed, aborted, waiting, .. } = *self;
        if committed + aborted + waiting > 0 {
            tracing::info!(committed, aborted, waiting, "transactions in doubt");
        }
    }
}

/// A prepared branch.
#[derive(Clone, Debug)]
struct InDoubt {
    key: TransactionKey,
    found_on: ShardId,
    gid: String,
    owner: String,
    is_old_enough: bool,
}

/// Finds and finishes what is in doubt.
pub struct Recovery {
    cluster: u64,
    active: ActiveTransactions,
    find_primaries: FindPrimaries,
    prepared_for_ms_min: u64,
    clients: HashMap<ShardId, ControlClient>,
    cleaned_at: Option<Instant>,
}

impl Recovery {
    /// Branches prepared for less than `prepared_for_ms_min` are left alone: another proxy may be
    /// working on them. Ending one too early is safe, but rolls back what could have committed.
    pub fn new(
        cluster: u64,
        active: ActiveTransactions,
        find_primaries: FindPrimaries,
        prepared_for_ms_min: u64,
    ) -> Self {
        Self { cluster, active, find_primaries, prepared_for_ms_min, clients: HashMap::new(), cleaned_at: None }
    }

    /// Passes for ever, one every `pause_ms`; what goes wrong is logged and tried again.
    ///
    /// # Cancel safety
    /// Safe: whatever a pass left undone is found by the next.
    pub async fn run(mut self, pause_ms: u64) {
        loop {
            self.run_once().await.log();
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    /// One pass over all shards.
    ///
    /// # Cancel safety
    /// Safe: every step can be done again.
    pub async fn run_once(&mut self) -> RecoveryReport {
        let mut report = RecoveryReport::default();
        let primaries = (self.find_primaries)();
        self.clients.retain(|shard, client| {
            let now = primaries.iter().find(|(other, _)| other == shard).map(|(_, target)| target);
            now == Some(client.target()) && !client.is_closed()
        });
        let mut in_doubt = Vec::new();
        for (shard, target) in &primaries {
            match self.list(*shard, target).await {
                Ok(found) => in_doubt.extend(found),
                Err(error) => {
                    tracing::debug!(%shard, %error, "prepared transactions cannot be listed");
                    self.clients.remove(shard);
                    report.unreachable.push(*shard);
                }
            }
        }
        for branch in &in_doubt {
            if self.active.contains(&branch.key) || !branch.is_old_enough {
                continue;
            }
            match self.finish(branch, &primaries).await {
                Ok(Outcome::Committed) => report.committed += 1,
                Ok(Outcome::Aborted) => report.aborted += 1,
                Err(error) => {
                    tracing::warn!(gid = branch.gid, shard = %branch.found_on, %error, "branch stays in doubt");
                    report.waiting += 1;
                }
            }
        }
        let is_time = self.cleaned_at.is_none_or(|at| at.elapsed() > Duration::from_millis(CLEANING_PAUSE_MS));
        if is_time && report.unreachable.is_empty() && report.waiting == 0 {
            self.cleaned_at = Some(Instant::now());
            report.cleaned = self.clean(&primaries, DECISION_KEPT_MS).await;
        }
        report
    }

    async fn client(&mut self, shard: ShardId, target: &ConnectTarget) -> Result<&ControlClient, ControlError> {
        match self.clients.entry(shard) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let client = ControlClient::connect(target).await?;
                client.rows("SET lock_timeout = '3s'; SET statement_timeout = '6s'", STATEMENT_MS).await?;
                Ok(entry.insert(client))
            }
        }
    }

    /// Runs a statement; the connection is given up after an error, whatever state it left.
    async fn rows(&mut self, shard: ShardId, target: &ConnectTarget, sql: &str) -> Result<Rows, ControlError> {
        let result = self.client(shard, target).await?.rows(sql, STATEMENT_MS).await;
        if result.is_err() {
            self.clients.remove(&shard);
        }
        result
    }

    async fn list(&mut self, shard: ShardId, target: &ConnectTarget) -> Result<Vec<InDoubt>, ControlError> {
        let sql = format!(
            "SELECT gid, owner, clock_timestamp() - prepared >= interval '{} milliseconds' \
             FROM pg_catalog.pg_prepared_xacts \
             WHERE database = pg_catalog.current_database() AND pg_catalog.starts_with(gid, {}) ORDER BY prepared",
            self.prepared_for_ms_min,
            quote_literal(&TransactionKey::cluster_prefix(self.cluster)),
        );
        let rows = self.rows(shard, target, &sql).await?;
        let mut found = Vec::new();
        for row in rows {
            let [Some(gid), Some(owner), Some(is_old_enough)] = row.as_slice() else { continue };
            match TransactionKey::read_branch_gid(gid) {
                // Two shards may be databases of one server only if their names differ, and each sees
                // its own database's branches; the gid must agree all the same.
                Some((key, _)) if key.cluster == self.cluster => found.push(InDoubt {
                    key,
                    found_on: shard,
                    gid: gid.clone(),
                    owner: owner.clone(),
                    is_old_enough: is_old_enough == "t",
                }),
                _ => tracing::warn!(gid, %shard, "prepared transaction with an unknown identifier"),
            }
        }
        Ok(found)
    }

    /// Learns or forces the decision and applies it.
    async fn finish(
        &mut self,
        branch: &InDoubt,
        primaries: &[(ShardId, ConnectTarget)],
    ) -> Result<Outcome, ControlError> {
        let find = |shard| primaries.iter().find(|(other, _)| *other == shard).map(|(_, target)| target);
        let here = find(branch.found_on);
        let (Some(here), Some(decider)) = (here, find(branch.key.decider)) else {
            let node = here.map_or_else(Default::default, |target| target.node);
            return Err(ControlError::Unreachable {
                node,
                reason: format!("shard {} has no primary now", branch.key.decider),
            });
        };
        let rows = self.rows(branch.key.decider, decider, &resolve_sql(&branch.key)).await?;
        let outcome = rows.first().and_then(|row| row.first().cloned().flatten());
        let Some(outcome) = outcome.as_deref().and_then(read_outcome) else {
            return Err(ControlError::Unreachable { node: decider.node, reason: "no outcome".to_owned() });
        };
        self.apply(branch, here, outcome).await?;
        tracing::info!(gid = branch.gid, shard = %branch.found_on, ?outcome, "branch in doubt finished");
        Ok(outcome)
    }

    async fn apply(&mut self, branch: &InDoubt, here: &ConnectTarget, outcome: Outcome) -> Result<(), ControlError> {
        let verb = match outcome {
            Outcome::Committed => "COMMIT",
            Outcome::Aborted => "ROLLBACK",
        };
        let sql = format!("{verb} PREPARED {}", quote_literal(&branch.gid));
        let mut result = self.rows(branch.found_on, here, &sql).await;
        if result.as_ref().is_err_and(|error| error.sqlstate() == Some("42501")) {
            // Only its owner or a superuser may finish it; a member of the owner's role becomes it.
            let role = format!("SET ROLE {}", quote_identifier(&branch.owner));
            self.rows(branch.found_on, here, &role).await?;
            result = self.rows(branch.found_on, here, &sql).await;
            if result.is_ok() {
                self.rows(branch.found_on, here, "RESET ROLE").await?;
            }
        }
        match result {
            Ok(_) => Ok(()),
            // Its coordinator, or another recovery, was faster.
            Err(error) if error.sqlstate() == Some("42704") => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes decision rows that nobody can ask for any more; gives their number.
    ///
    /// A commit's row must outlive its last branch, so the rows are listed before the branches: a branch
    /// that is not prepared then will never be again. An abort's row must outlive its decider's
    /// transaction, which began before the row was written.
    async fn clean(&mut self, primaries: &[(ShardId, ConnectTarget)], kept_ms: u64) -> usize {
        let prefix = quote_literal(&TransactionKey::cluster_prefix(self.cluster));
        let old_rows = format!(
            "SELECT gid FROM ostrakon.decision d WHERE pg_catalog.starts_with(gid, {prefix}) AND (\
               outcome = 'c' AND at < clock_timestamp() - interval '{kept_ms} milliseconds' \
               OR outcome = 'a' AND at < clock_timestamp() - interval '1 day' AND NOT EXISTS (\
                 SELECT FROM pg_catalog.pg_stat_activity a WHERE a.xact_start <= d.at)) \
             LIMIT {CLEANED_ROWS_MAX}"
        );
        let mut old = Vec::new();
        for (shard, target) in primaries {
            match self.rows(*shard, target, &old_rows).await {
                Ok(rows) if rows.is_empty() => {}
                Ok(rows) => old.push((*shard, target, rows)),
                Err(error) => tracing::debug!(%shard, %error, "decision table cannot be read"),
            }
        }
        if old.is_empty() {
            return 0;
        }
        let mut open = HashSet::new();
        for (shard, target) in primaries {
            match self.list(*shard, target).await {
                Ok(found) => open.extend(found.into_iter().map(|branch| branch.key.decision_gid())),
                // A branch that cannot be seen may still need its row.
                Err(_) => return 0,
            }
        }
        let mut cleaned = 0;
        for (shard, target, rows) in old {
            let gids: Vec<String> = rows
                .into_iter()
                .filter_map(|row| row.into_iter().next().flatten())
                .filter(|gid| !open.contains(gid) && TransactionKey::read_decision_gid(gid).is_some())
                .collect();
            let sql = format!("DELETE FROM ostrakon.decision WHERE gid = ANY ('{{{}}}')", gids.join(","));
            match self.rows(shard, target, &sql).await {
                Ok(_) => cleaned += gids.len(),
                Err(error) => tracing::debug!(%shard, %error, "decision table cannot be cleaned"),
            }
        }
        cleaned
    }
}

/// Makes the decision table on a shard's database.
///
/// # Errors
/// Not reachable, or the role may not create schemas.
///
/// # Cancel safety
/// Safe: it can be done again.
pub async fn prepare_database(target: &ConnectTarget) -> Result<(), ControlError> {
    let client = ControlClient::connect(target).await?;
    let installed = "SELECT pg_catalog.to_regclass('ostrakon.decision') IS NOT NULL";
    let rows = client.rows(installed, STATEMENT_MS).await?;
    if rows.first().and_then(|row| row.first().cloned().flatten()).as_deref() == Some("t") {
        return Ok(());
    }
    match client.rows(DECISION_SCHEMA_SQL, STATEMENT_MS).await {
        Ok(_) => Ok(()),
        // Another process makes it at the same moment: IF NOT EXISTS is no lock.
        Err(error) if matches!(error.sqlstate(), Some("23505" | "42P06" | "42P07" | "XX000")) => {
            client.rows(DECISION_SCHEMA_SQL, STATEMENT_MS).await.map(|_| ())
        }
        Err(error) => Err(error),
    }
}
