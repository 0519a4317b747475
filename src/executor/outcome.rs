//! What became of a commit whose connection was lost: the next primary is asked by its transaction id.
//!
//! Must not know: what the session does with the answer.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Cluster, Failure, shard_name};
use crate::backend::ConnectTarget;
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::failover::{Beginning, Serving};
use crate::session::direct::Xid;
use crate::wire::server_message::read_error;

/// How long an outcome is asked for.
const OUTCOME_MAX: Duration = Duration::from_secs(10);
const OUTCOME_PAUSE: Duration = Duration::from_millis(20);

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Committed,
    NeverCommitted,
    /// It may be either.
    Unknown,
    /// It is not over.
    Open,
}

/// What is known of a connection that is lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub(super) shard: ShardId,
    /// In which life of the primary it was taken.
    pub(super) since: Option<Serving>,
    /// Everything that the server ever sent has come, and was looked at.
    pub(super) has_all: bool,
}

impl Cluster {
    /// What became of a transaction whose connection was lost while it was committed; `adjust` as for
    /// [`Cluster::checkout`].
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn outcome(
        &self,
        user: &str,
        adjust: &(dyn Fn(&mut ConnectTarget) + Sync),
        lost: Lost,
        xid: Xid,
    ) -> Outcome {
        let primaries = &self.settings.primaries;
        let xid = match xid {
            Xid::Known(Some(xid)) => xid,
            // It had nothing to commit.
            Xid::Known(None) => return Outcome::Committed,
            // The id is sent before the commit is begun, and everything that was sent has come: it was not begun. A
            // server that is there still may have been cut off from us by something in between.
            Xid::Asked | Xid::NotAsked => {
                let is_gone = match lost.since {
                    Some(since) if lost.has_all => primaries.moved(lost.shard, since).await,
                    _ => false,
                };
                tracing::info!(shard = %lost.shard, is_gone, has_all = lost.has_all, "a commit's id was not told");
                return if is_gone { Outcome::NeverCommitted } else { Outcome::Unknown };
            }
        };
        if let Some(since) = lost.since {
            // The word of a primary that is about to be replaced would not be the last one.
            primaries.moved(lost.shard, since).await;
        }
        let begun = Instant::now();
        while begun.elapsed() < OUTCOME_MAX {
            match self.ask_outcome(user, adjust, lost, xid).await {
                Ok(Outcome::Open) | Err(Failure::Client(_)) => sleep(OUTCOME_PAUSE).await,
                Ok(outcome) => return outcome,
                Err(Failure::Ours(error)) if error.id == ErrorId::FailoverInProgress => return Outcome::Unknown,
                Err(error) => {
                    tracing::debug!(?error, "the outcome of a commit cannot be asked for");
                    sleep(OUTCOME_PAUSE).await;
                }
            }
        }
        Outcome::Unknown
    }

    /// Asks the present primary.
    async fn ask_outcome(
        &self,
        user: &str,
        adjust: &(dyn Fn(&mut ConnectTarget) + Sync),
        lost: Lost,
        xid: u64,
    ) -> Result<Outcome, Failure> {
        let primaries = &self.settings.primaries;
        let topology = self.topology.load_full();
        let mut lease = self.checkout(&topology, lost.shard, user, adjust).await?;
        let now = primaries.serving(lost.shard);
        let line = match (lost.since, now) {
            (Some(since), Some(now)) if since == now => Line::Same,
            (Some(Serving::Open { term, .. }), Some(Serving::Open { term: now, node, .. })) if term < now => {
                if node != lease.node() {
                    return Ok(Outcome::Open);
                }
                primaries.beginning_after(lost.shard, term, now).await.map_or(Line::Unknown, Line::Replaced)
            }
            (_, Some(Serving::Closed)) => return Ok(Outcome::Open),
            _ => Line::Unknown,
        };
        if let Line::Replaced(Beginning { fresh, .. }) = line
            && xid >= fresh
        {
            return Ok(Outcome::NeverCommitted);
        }
        let asked = lease.simple(&format!("SELECT pg_catalog.pg_xact_status('{xid}'::pg_catalog.xid8)")).await;
        let told = asked.map_err(|error| error.to_client_error(&shard_name(&topology, lost.shard)))?;
        if primaries.serving(lost.shard) != now {
            return Ok(Outcome::Open);
        }
        let is_future =
            told.error.is_some_and(|error| read_error(&error.body()).is_ok_and(|said| said.code == "22023"));
        let status = told.rows.into_iter().next().and_then(|row| row.into_iter().next().flatten());
        let outcome = judge(xid, line, is_future, status.as_deref());
        tracing::info!(shard = %lost.shard, xid, ?line, ?status, ?outcome, "the outcome of a commit was asked for");
        Ok(outcome)
    }
}

/// How the primary that is asked stands to the one that was lost.
#[derive(Clone, Copy, Debug)]
enum Line {
    /// It is the same, in the same life.
    Same,
    /// It followed it, and its term began so.
    Replaced(Beginning),
    /// It may have given the id to another transaction.
    Unknown,
}

/// What the primary's word on an id means.
fn judge(xid: u64, line: Line, is_future: bool, status: Option<&str>) -> Outcome {
    let is_its_own = match line {
        Line::Same => true,
        Line::Replaced(beginning) => xid < beginning.known,
        Line::Unknown => false,
    };
    match status {
        // Also when the id was given to another one: then the first was never committed.
        Some("aborted") => Outcome::NeverCommitted,
        Some("committed") if is_its_own => Outcome::Committed,
        Some("in progress") => Outcome::Open,
        None if is_future => Outcome::NeverCommitted,
        _ => Outcome::Unknown,
    }
}

/// 08007.
pub(super) fn outcome_unknown(shard: &str) -> ClientError {
    let text = format!("the connection to shard {shard} broke during a commit: it may or may not have been committed");
    ClientError::new(ErrorId::CommitOutcomeUnknown, text)
        .with_detail("What became of its transaction cannot be proved on the primary that serves now.")
        .with_hint("Read the rows back before trying again.")
}

/// 40003.
pub(super) fn completion_unknown(shard: &str) -> ClientError {
    let text = format!("connection to shard \"{shard}\" was lost while a statement was running");
    ClientError::new(ErrorId::StatementCompletionUnknown, text)
        .with_detail("The primary has failed, or another one has taken its place.")
        .with_hint("Whether the statement completed is not known; outside of a transaction block it may have.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Term;

    #[test]
    fn an_id_that_was_given_anew_is_not_taken_for_the_old_one() {
        let replaced = Line::Replaced(Beginning { term: Term(2), known: 100, fresh: 104 });
        assert_eq!(judge(99, replaced, false, Some("committed")), Outcome::Committed);
        assert_eq!(judge(99, replaced, false, Some("aborted")), Outcome::NeverCommitted);
        assert_eq!(judge(101, replaced, false, Some("committed")), Outcome::Unknown);
        assert_eq!(judge(101, replaced, false, Some("aborted")), Outcome::NeverCommitted);
        assert_eq!(judge(99, Line::Unknown, false, Some("committed")), Outcome::Unknown);
        assert_eq!(judge(99, Line::Unknown, true, None), Outcome::NeverCommitted);
        assert_eq!(judge(99, Line::Same, false, None), Outcome::Unknown, "too old to be known");
        assert_eq!(judge(99, Line::Same, false, Some("in progress")), Outcome::Open);
    }
}
