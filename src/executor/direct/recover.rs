//! A server connection is lost under a session of a shard that is led, and the session goes on.
//!
//! What was under way is judged by [`Machine::loss`](crate::session::direct::Machine::loss); whether a commit came over to
//! the next primary is asked there by its transaction id. Nothing that may have run is run again.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::relay::{Ends, Turn, client_gone, ended};
use super::{Direct, Held, adjust};
use crate::backend::ConnectTarget;
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::executor::{Failure, shard_name};
use crate::failover::{Beginning, Serving};
use crate::net::Framed;
use crate::session::direct::{Loss, Settling, Xid, lost_transaction};
use crate::wire::server_message::read_error;

/// So often one statement is given again; what loses its server more often may be the reason.
const REPEATS_MAX: u32 = 2;

/// How long replicas are left alone by a session that lost a connection.
const REPLICAS_REST: Duration = Duration::from_secs(10);

/// How long an outcome is asked for.
const OUTCOME_MAX: Duration = Duration::from_secs(10);
const OUTCOME_PAUSE: Duration = Duration::from_millis(20);

/// Counts how often the present statement was given again.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    last: Option<Instant>,
    /// How many statements were answered then.
    answered: u64,
    count: u32,
}

impl Repeats {
    /// Something was given again lately.
    pub(super) fn is_recent(&self) -> bool {
        self.last.is_some_and(|last| last.elapsed() < REPLICAS_REST)
    }

    /// One more, of the statement behind so many that were answered; false: that is too often.
    fn take(&mut self, answered: u64) -> bool {
        let count = if self.last.is_some() && answered == self.answered { self.count + 1 } else { 1 };
        *self = Self { last: Some(Instant::now()), answered, count };
        count <= REPEATS_MAX
    }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Committed,
    NeverCommitted,
    /// It may be either.
    Unknown,
    /// It is not over.
    Open,
}

/// What is known of a connection that is lost.
#[derive(Clone, Copy, Debug)]
struct Lost {
    shard: ShardId,
    /// In which life of the primary it was taken.
    since: Option<Serving>,
    /// Everything that the server ever sent has come.
    has_all: bool,
}

impl Direct {
    /// The server has said good-bye: either it stops, or somebody has ended this session's backend, who meant it.
    pub(super) async fn stopping(
        &mut self,
        client: &mut Framed,
        good_bye: Bytes,
        ends: &mut Ends<'_>,
    ) -> Result<Turn, Failure> {
        if Box::pin(self.recover(client, ends, Some(()))).await? {
            return Ok(Turn::Again);
        }
        client.output().extend_from_slice(&good_bye);
        client.flush().await?;
        Ok(Turn::Gone)
    }

    /// Goes on without the connection that is held. False: the session has to end; the connection is still held.
    ///
    /// `good_bye`: the server said that it ends, which counts only if it does.
    pub(super) async fn recover(
        &mut self,
        client: &mut Framed,
        ends: &mut Ends<'_>,
        good_bye: Option<()>,
    ) -> Result<bool, Failure> {
        let loss = self.machine.loss();
        let Some(held) = self.held.as_ref().filter(|_| loss != Loss::Ends) else { return Ok(false) };
        let has_all = held.lease.has_all() || good_bye.is_some();
        let lost = Lost { shard: held.shard, since: held.since, has_all };
        if good_bye.is_some()
            && let Some(since) = lost.since
            && !self.cluster.settings.primaries.moved(lost.shard, since).await
        {
            return Ok(false);
        }
        tracing::debug!(shard = %lost.shard, ?loss, has_all, "a server connection is lost under a session");
        let commit = match &loss {
            Loss::Commit { xid, .. } => Some(*xid),
            _ => None,
        };
        let outcome = match commit {
            // A standby writes nothing.
            Some(_) if self.is_on_replica => Outcome::Committed,
            Some(xid) => self.find_outcome(client, ends, lost, xid).await?,
            None => Outcome::Unknown,
        };
        let name = shard_name(&self.cluster.topology.load(), lost.shard);
        let inside = self.machine.status() != b'I';
        let error = match (&loss, outcome) {
            (Loss::Commit { .. }, Outcome::Unknown | Outcome::Open) => outcome_unknown(&name),
            (Loss::Unknown, _) => completion_unknown(&name),
            _ => lost_transaction(),
        };
        let settling = match loss {
            Loss::Nothing if inside => Settling::Quietly,
            Loss::Nothing if !self.repeats.take(self.machine.answered()) => return Ok(false),
            Loss::Nothing => Settling::Quietly,
            Loss::RolledBack => Settling::RolledBack,
            Loss::Failed => Settling::Ended,
            Loss::Reads { texts, may_repeat } => {
                let only_reads = texts.iter().all(|text| self.cluster.only_reads(text));
                match only_reads {
                    true if may_repeat && self.repeats.take(self.machine.answered()) => Settling::Again,
                    true => Settling::Failed(&error),
                    false => Settling::Failed(&completion_unknown(&name)),
                }
            }
            Loss::Commit { may_repeat, .. } => match outcome {
                Outcome::Committed => Settling::Done,
                Outcome::NeverCommitted if may_repeat && self.repeats.take(self.machine.answered()) => Settling::Again,
                _ => Settling::NotCommitted(&error),
            },
            Loss::Transaction => Settling::Failed(&error),
            Loss::Unknown => Settling::NotCommitted(&error),
            Loss::Ends => return Ok(false),
        };
        self.drop_lost();
        let again = self.machine.settle(&settling, &self.host, client.output());
        for frame in again.into_iter().rev() {
            self.waiting.push_front(frame);
        }
        Ok(true)
    }

    /// The connection is closed; the session's own state is settled by the caller.
    fn drop_lost(&mut self) {
        if let Some(Held { shard, mut lease, .. }) = self.held.take() {
            self.slot.remove(shard);
            lease.poison();
        }
        self.leave();
    }

    /// What became of a commit that was under way; the client may leave meanwhile.
    async fn find_outcome(
        &self,
        client: &mut Framed,
        ends: &mut Ends<'_>,
        lost: Lost,
        xid: Xid,
    ) -> Result<Outcome, Failure> {
        tokio::select! {
            biased;
            outcome = self.outcome(lost, xid) => Ok(outcome),
            () = ends.terminated.as_mut() => Err(ended().into()),
            gone = client_gone(client) => Err(Failure::Client(gone)),
        }
    }

    async fn outcome(&self, lost: Lost, xid: Xid) -> Outcome {
        let primaries = &self.cluster.settings.primaries;
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
            match self.ask_outcome(lost, xid).await {
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
    async fn ask_outcome(&self, lost: Lost, xid: u64) -> Result<Outcome, Failure> {
        let primaries = &self.cluster.settings.primaries;
        let topology = self.cluster.topology.load_full();
        let to_user = |target: &mut ConnectTarget| adjust(target, self.database.as_deref(), self.mode, &self.startup);
        let mut lease = self.cluster.checkout(&topology, lost.shard, self.host.user(), to_user).await?;
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

fn outcome_unknown(shard: &str) -> ClientError {
    let text = format!("the connection to shard {shard} broke during a commit: it may or may not have been committed");
    ClientError::new(ErrorId::CommitOutcomeUnknown, text)
        .with_detail("What became of its transaction cannot be proved on the primary that serves now.")
        .with_hint("Read the rows back before trying again.")
}

fn completion_unknown(shard: &str) -> ClientError {
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

    #[test]
    fn a_statement_that_loses_its_server_again_and_again_is_given_up() {
        let mut repeats = Repeats::default();
        assert!(!repeats.is_recent());
        assert!(repeats.take(0) && repeats.take(0) && !repeats.take(0));
        assert!(repeats.is_recent() && repeats.take(1), "the next one has its own chances");
    }
}
