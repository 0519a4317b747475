//! Commits a transaction that wrote on several shards: two phases, last agent first.
//!
//! All branches but the last prepare; the last one, the decider, commits together with its decision
//! row; then the others commit what they prepared. A branch whose coordinator died is brought to the
//! decider's side by `control::recovery`. Must not know: how branches were chosen, what they wrote.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use super::Primaries;
use crate::backend::decision::{
    ActiveTransactions, DECISION_KEPT_MS, Outcome, TransactionKey, decide_sql, read_outcome, resolve_sql,
};
use crate::backend::{BackendError, ConnectTarget, Connection, Lease, SimpleResult};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::deadline;
use crate::wire::frame::Frame;
use crate::wire::server_message::read_error;

pub use crate::backend::decision::DECISION_SCHEMA_SQL;

/// How long a lost decider's outcome is asked for. Decision rows are kept longer than this.
const RESOLVE_MS_MAX: u64 = 30_000;
const _: () = assert!(RESOLVE_MS_MAX < DECISION_KEPT_MS);
/// Pause between two tries.
const RESOLVE_PAUSE_MS: u64 = 100;
/// The same while a decided branch is brought to its commit: its old connection may be busy with it.
const FINISH_PAUSE_MS: u64 = 50;
/// Limit of one try. The insert waits as long as the decider's own commit is not over.
const RESOLVE_TRY_MS: u64 = 5_000;

/// A shard's part of the transaction.
#[derive(Debug)]
pub struct Branch {
    /// The shard.
    pub shard: ShardId,
    /// Its connection, in a transaction block that has not failed.
    pub lease: Lease,
}

/// The transaction has committed.
#[derive(Debug)]
pub struct CommitOutcome {
    /// Notices that came on the way, for the client.
    pub notices: Vec<Frame>,
    /// Branches that are decided and prepared, but not yet committed: recovery finishes them.
    pub unfinished: Vec<ShardId>,
}

/// The transaction has not committed, or nobody knows.
#[derive(Debug)]
pub enum CommitError {
    /// PostgreSQL refused on one shard, here byte for byte; rolled back everywhere.
    Postgres {
        /// The shard that refused.
        shard: ShardId,
        /// ErrorResponse.
        error: Frame,
    },
    /// A connection broke before the decision; rolled back everywhere.
    Lost {
        /// The shard.
        shard: ShardId,
        /// What happened.
        error: BackendError,
    },
    /// A branch was not in an open transaction that can commit; rolled back everywhere.
    NotOpen {
        /// The shard.
        shard: ShardId,
    },
    /// The connection broke during the deciding commit and its outcome could not be learnt.
    Unknown {
        /// The deciding shard.
        shard: ShardId,
    },
}

impl CommitError {
    /// PostgreSQL's own error, to be passed on byte for byte, when there is one.
    pub fn error_frame(&self) -> Option<&Frame> {
        match self {
            Self::Postgres { error, .. } => Some(error),
            _ => None,
        }
    }

    /// The error in the client's words.
    pub fn to_client_error(&self) -> ClientError {
        let failed = |detail: String| {
            ClientError::new(ErrorId::DistributedCommitFailed, "the shards could not commit together")
                .with_detail(detail)
                .with_hint("The transaction was rolled back on all shards; it can be tried again.")
        };
        match self {
            Self::Postgres { shard, error } => {
                let reason = read_error(&error.body())
                    .map_or_else(|_| "an unreadable error".to_owned(), |fields| fields.message);
                failed(format!("Shard {shard} refused: {reason}."))
            }
            Self::Lost { shard, error } => failed(format!("The connection to shard {shard} was lost: {error}.")),
            Self::NotOpen { shard } => failed(format!("The transaction on shard {shard} was no longer open.")),
            Self::Unknown { shard } => {
                ClientError::new(ErrorId::CommitOutcomeUnknown, "connection lost while the transaction was committing")
                    .with_detail(format!("Shard {shard} could not be asked whether it committed."))
                    .with_hint("The shards will agree on one outcome; check the data before trying again.")
            }
        }
    }
}

/// Where the primary of a shard is now, for a fresh connection; `None`: the shard has none.
pub type FindPrimary = Arc<dyn Fn(ShardId) -> Option<ConnectTarget> + Send + Sync>;

/// A place in a commit where a test may let the coordinator die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All branches but the decider are prepared.
    Prepared,
    /// The decider has committed.
    Decided,
}

/// Called between the phases.
pub type Interlude = Arc<dyn Fn(Step) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Commits transactions of several shards for one process.
pub struct Coordinator {
    cluster: u64,
    id: u64,
    next_number: AtomicU64,
    active: ActiveTransactions,
    find_primary: FindPrimary,
    interlude: Option<Interlude>,
    primaries: Primaries,
}

impl Coordinator {
    /// `id` must be random at each start of the process: identifiers are never used twice.
    pub fn new(cluster: u64, id: u64, active: ActiveTransactions, find_primary: FindPrimary) -> Self {
        Self {
            cluster,
            id,
            next_number: AtomicU64::new(1),
            active,
            find_primary,
            interlude: None,
            primaries: Primaries::default(),
        }
    }

    /// Who leads the shards: what is in doubt is asked of a primary that is open, and of no other.
    #[must_use]
    pub fn with_primaries(mut self, primaries: Primaries) -> Self {
        self.primaries = primaries;
        self
    }

    /// Where a shard's primary is, if it is open.
    fn open_primary(&self, shard: ShardId) -> Option<ConnectTarget> {
        match self.primaries.open_now(shard)? {
            None => (self.find_primary)(shard),
            // The topology may be from before.
            Some(leader) => (self.find_primary)(shard).filter(|target| target.node == leader),
        }
    }

    /// Lets tests in between the phases.
    #[must_use]
    pub fn with_interlude(mut self, interlude: Interlude) -> Self {
        self.interlude = Some(interlude);
        self
    }

    /// Commits the branches that wrote, given by ascending shard; one branch commits in one phase. The branches stay
    /// the caller's, whatever happens; those that are clean go back to their pools when dropped.
    ///
    /// # Errors
    /// See [`CommitError`]: all but `Unknown` mean that nothing of the transaction will ever be seen.
    /// Branches of a failed commit whose connection is still in a transaction are closed.
    ///
    /// # Invariants
    /// The commit decision is durable before the first COMMIT PREPARED.
    ///
    /// # Cancel safety
    /// Dropped half-way the transaction is in doubt; recovery brings all shards to the same side. Let it
    /// run to its end if a client waits for the answer.
    pub async fn commit(&self, branches: &mut [Branch]) -> Result<CommitOutcome, CommitError> {
        let not_open = branches.iter().find(|branch| branch.lease.status() != b'T').map(|branch| branch.shard);
        if let Some(shard) = not_open {
            roll_back(branches, &[], None).await;
            return Err(CommitError::NotOpen { shard });
        }
        match branches {
            [] => Ok(CommitOutcome { notices: Vec::new(), unfinished: Vec::new() }),
            [only] => commit_one(only).await,
            [.., decider] => {
                let number = self.next_number.fetch_add(1, Ordering::Relaxed);
                let key =
                    TransactionKey { cluster: self.cluster, coordinator: self.id, number, decider: decider.shard };
                let _active = self.active.enter(key);
                self.commit_several(key, branches).await
            }
        }
    }

    async fn commit_several(&self, key: TransactionKey, branches: &mut [Branch]) -> Result<CommitOutcome, CommitError> {
        let mut notices = Vec::new();
        let Some((decider, others)) = branches.split_last_mut() else {
            return Ok(CommitOutcome { notices, unfinished: Vec::new() });
        };
        let results = join_all(others.iter_mut().map(|branch| {
            let sql = format!("PREPARE TRANSACTION '{}'", key.branch_gid(branch.shard));
            async move { branch.lease.simple(&sql).await }
        }))
        .await;
        let mut is_prepared = Vec::with_capacity(others.len());
        let mut first_error = None;
        for (branch, result) in others.iter().zip(results) {
            let verdict = completed(branch.shard, result, "PREPARE TRANSACTION", &mut notices);
            is_prepared.push(verdict.is_ok());
            first_error = first_error.or(verdict.err());
        }
        if let Some(error) = first_error {
            is_prepared.push(false);
            roll_back(branches, &is_prepared, Some(key)).await;
            return Err(error);
        }
        self.pause(Step::Prepared).await;

        if let Err(error) = self.decide(key, decider, &mut notices).await {
            // With an unknown outcome the prepared branches must stay as they are.
            if !matches!(error, CommitError::Unknown { .. }) {
                is_prepared.push(false);
                roll_back(branches, &is_prepared, Some(key)).await;
            }
            return Err(error);
        }
        self.pause(Step::Decided).await;

        let mut unfinished = finish(key, others, &mut notices).await;
        self.finish_anew(key, &mut unfinished).await;
        Ok(CommitOutcome { notices, unfinished })
    }

    async fn pause(&self, step: Step) {
        if let Some(interlude) = &self.interlude {
            interlude(step).await;
        }
    }

    /// Commits the decider with its decision row.
    async fn decide(
        &self,
        key: TransactionKey,
        decider: &mut Branch,
        notices: &mut Vec<Frame>,
    ) -> Result<(), CommitError> {
        let sql = decide_sql(&key);
        let since = self.primaries.serving(key.decider);
        let result = decider.lease.simple(&sql).await;
        match completed(decider.shard, result, "COMMIT", notices) {
            Ok(()) => Ok(()),
            // What the server never saw is rolled back with its connection.
            Err(CommitError::Lost { shard, error }) if !error.nothing_ran() => {
                if let Some(since) = since {
                    // The word of a primary that is about to be replaced would not be the last one.
                    self.primaries.moved(key.decider, since).await;
                }
                match deadline("the outcome of a commit", RESOLVE_MS_MAX, self.resolve(key)).await {
                    Ok(Outcome::Committed) => Ok(()),
                    Ok(Outcome::Aborted) => Err(CommitError::Lost { shard, error }),
                    Err(_) => {
                        tracing::warn!(gid = key.decision_gid(), "the outcome of a commit is not known");
                        Err(CommitError::Unknown { shard })
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Commits what is decided over fresh connections, so that the client's next statement sees it. What cannot be
    /// reached within the bound is left to recovery.
    async fn finish_anew(&self, key: TransactionKey, unfinished: &mut Vec<ShardId>) {
        let mut left = Vec::new();
        for shard in unfinished.drain(..) {
            let gid = key.branch_gid(shard);
            if deadline("a prepared transaction", RESOLVE_TRY_MS, self.commit_prepared(shard, &gid)).await.is_err() {
                tracing::warn!(%shard, gid, "left to recovery");
                left.push(shard);
            }
        }
        *unfinished = left;
    }

    /// Commits a prepared branch, however long it takes.
    async fn commit_prepared(&self, shard: ShardId, gid: &str) {
        let sql = format!("COMMIT PREPARED '{gid}'");
        loop {
            if let Some(target) = self.open_primary(shard) {
                let work = async { Connection::connect(&target).await?.simple(&sql).await };
                match work.await {
                    // 42704: there is none any more. It was decided, so it was committed.
                    Ok(SimpleResult { error: Some(error), .. })
                        if read_error(&error.body()).is_ok_and(|fields| fields.code == "42704") =>
                    {
                        return;
                    }
                    Ok(SimpleResult { error: None, .. }) => return,
                    Ok(_) => tracing::debug!(%shard, gid, "not committed: refused"),
                    Err(error) => tracing::debug!(%shard, gid, %error, "not committed"),
                }
            }
            tokio::time::sleep(Duration::from_millis(FINISH_PAUSE_MS)).await;
        }
    }

    /// Learns what became of a decider whose connection was lost, however long it takes.
    async fn resolve(&self, key: TransactionKey) -> Outcome {
        let sql = resolve_sql(&key);
        loop {
            let now = self.primaries.serving(key.decider);
            if let Some(target) = self.open_primary(key.decider) {
                let work = async {
                    let mut connection = Connection::connect(&target).await?;
                    connection.simple(&sql).await
                };
                match deadline("the outcome of a commit", RESOLVE_TRY_MS, work).await {
                    Ok(Ok(SimpleResult { error: None, rows, .. })) => {
                        let outcome = rows.first().and_then(|row| row.first().cloned().flatten());
                        let outcome = outcome.as_deref().and_then(read_outcome);
                        if let Some(outcome) = outcome.filter(|_| self.primaries.serving(key.decider) == now) {
                            return outcome;
                        }
                    }
                    Ok(Ok(_)) => tracing::debug!(gid = key.decision_gid(), "outcome not learnt: refused"),
                    Ok(Err(error)) => tracing::debug!(gid = key.decision_gid(), %error, "outcome not learnt"),
                    Err(late) => tracing::debug!(gid = key.decision_gid(), error = %late, "outcome not learnt"),
                }
            }
            tokio::time::sleep(Duration::from_millis(RESOLVE_PAUSE_MS)).await;
        }
    }
}

/// One shard: one phase.
async fn commit_one(branch: &mut Branch) -> Result<CommitOutcome, CommitError> {
    let mut notices = Vec::new();
    let result = branch.lease.simple("COMMIT").await;
    match completed(branch.shard, result, "COMMIT", &mut notices) {
        Ok(()) => Ok(CommitOutcome { notices, unfinished: Vec::new() }),
        Err(CommitError::Lost { shard, error }) if !error.nothing_ran() => {
            tracing::warn!(%shard, %error, "connection lost during commit");
            Err(CommitError::Unknown { shard })
        }
        Err(error) => Err(error),
    }
}

/// Judges the answer to a statement that ends a branch's transaction.
fn completed(
    shard: ShardId,
    result: Result<SimpleResult, BackendError>,
    tag: &str,
    notices: &mut Vec<Frame>,
) -> Result<(), CommitError> {
    let mut result = result.map_err(|error| CommitError::Lost { shard, error })?;
    notices.append(&mut result.notices);
    match result.error {
        Some(error) => Err(CommitError::Postgres { shard, error }),
        None if result.tag == tag => Ok(()),
        // A failed transaction answers COMMIT and PREPARE TRANSACTION with ROLLBACK.
        None => Err(CommitError::NotOpen { shard }),
    }
}

/// Commits what is prepared; gives the shards where that did not work.
async fn finish(key: TransactionKey, branches: &mut [Branch], notices: &mut Vec<Frame>) -> Vec<ShardId> {
    let results = join_all(branches.iter_mut().map(|branch| {
        let sql = format!("COMMIT PREPARED '{}'", key.branch_gid(branch.shard));
        async move { branch.lease.simple(&sql).await }
    }))
    .await;
    let mut unfinished = Vec::new();
    for (branch, result) in branches.iter().zip(results) {
        if completed(branch.shard, result, "COMMIT PREPARED", notices).is_err() {
            unfinished.push(branch.shard);
        }
    }
    unfinished
}

/// Rolls every branch back as far as its connection allows; the rest is left to the servers, which roll
/// back what loses its connection, and to recovery.
async fn roll_back(branches: &mut [Branch], is_prepared: &[bool], key: Option<TransactionKey>) {
    join_all(branches.iter_mut().enumerate().map(|(index, branch)| {
        let is_prepared = is_prepared.get(index).copied().unwrap_or(false);
        async move {
            if branch.lease.is_poisoned() {
                return;
            }
            let sql = match key {
                Some(key) if is_prepared => format!("ROLLBACK PREPARED '{}'", key.branch_gid(branch.shard)),
                _ if branch.lease.status() == b'I' => return,
                _ => "ROLLBACK".to_owned(),
            };
            match branch.lease.simple(&sql).await {
                Ok(result) if result.error.is_none() => {}
                Ok(_) => {
                    tracing::warn!(shard = %branch.shard, "rollback refused");
                    branch.lease.poison();
                }
                Err(error) => tracing::debug!(shard = %branch.shard, %error, "rollback not confirmed"),
            }
        }
    }))
    .await;
}
