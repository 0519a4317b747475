//! A server connection is lost under a session of a shard that is led, and the session goes on.
//!
//! What was under way is judged by [`Machine::loss`](crate::session::direct::Machine::loss); whether a commit came over to
//! the next primary is asked there by its transaction id. Nothing that may have run is run again.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::relay::{Ends, Turn, client_gone, ended};
use super::{Direct, Held, adjust};
use crate::backend::ConnectTarget;
use crate::error::ClientError;
use crate::executor::outcome::{Lost, Outcome, completion_unknown, outcome_unknown};
use crate::executor::{Failure, reads, shard_name};
use crate::net::Framed;
use crate::session::direct::{Loss, Replayed, Settling, Xid, answered_otherwise, lost_transaction};

/// So often one statement is given again; what loses its server more often may be the reason.
const REPEATS_MAX: u32 = 2;

/// How long replicas are left alone by a session that lost a connection.
const REPLICAS_REST: Duration = Duration::from_secs(10);

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
        if self.machine.is_replaying() {
            self.give_up_replay(client, lost_transaction());
            return Ok(true);
        }
        self.machine.answer_closes(client.output());
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
        if !has_all && self.machine.may_have_done_more(&loss) {
            // What was answered last is not known: it may be the commit behind, or a write that would be done twice.
            return Ok(false);
        }
        if matches!(loss, Loss::Transaction | Loss::Nothing) && self.run_again(client, ends, lost).await? {
            return Ok(true);
        }
        let outcome = match &loss {
            // A standby writes nothing.
            Loss::Commit { .. } if self.is_on_replica => Outcome::Committed,
            Loss::Commit { xid, .. } => self.find_outcome(client, ends, lost, *xid).await?,
            _ => Outcome::Unknown,
        };
        let name = shard_name(&self.cluster.topology.load(), lost.shard);
        let inside = self.machine.status() != b'I';
        let error = error_of(&loss, outcome, &name);
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

    /// The session wants its transactions to be run again.
    pub(super) fn wants_replay(&self) -> bool {
        match reads::value(&self.machine.settings, "ostrakon.replay") {
            Some(word) => ["on", "true", "yes", "1"].iter().any(|known| known.eq_ignore_ascii_case(&word)),
            None => self.cluster.settings.replays,
        }
    }

    /// Has the open transaction run again, if it can be, once the primary that it ran on is known to be replaced: one that
    /// is there still might hold its locks.
    async fn run_again(&mut self, client: &mut Framed, ends: &mut Ends<'_>, lost: Lost) -> Result<bool, Failure> {
        let Some(since) = lost.since.filter(|_| self.machine.may_replay()) else { return Ok(false) };
        let is_replaced = tokio::select! {
            biased;
            is_replaced = self.cluster.settings.primaries.moved(lost.shard, since) => is_replaced,
            () = ends.terminated.as_mut() => return Err(ended().into()),
            gone = client_gone(client) => return Err(Failure::Client(gone)),
        };
        if !is_replaced || !self.repeats.take(self.machine.answered()) {
            return Ok(false);
        }
        self.drop_lost();
        let frames = self.machine.replay();
        tracing::info!(shard = %lost.shard, messages = frames.len(), "a transaction is run again on another primary");
        frames.into_iter().rev().for_each(|frame| self.waiting.push_front(frame));
        Ok(true)
    }

    /// A transaction was run again. True: it had to be given up.
    pub(super) fn has_replayed(&mut self, client: &mut Framed, replayed: Replayed) -> bool {
        let differs = replayed == Replayed::Otherwise;
        tracing::info!(differs, "a transaction was run again");
        if differs {
            self.give_up_replay(client, answered_otherwise());
        }
        differs
    }

    /// The transaction that is being run again has come to nothing.
    pub(super) fn give_up_replay(&mut self, client: &mut Framed, error: ClientError) {
        self.drop_lost();
        self.machine.give_up_replay(error, &self.host, client.output(), &mut self.waiting);
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
        let to_user = |target: &mut ConnectTarget| adjust(target, self.database.as_deref(), self.mode, &self.startup);
        tokio::select! {
            biased;
            outcome = self.cluster.outcome(self.host.user(), &to_user, lost, xid) => Ok(outcome),
            () = ends.terminated.as_mut() => Err(ended().into()),
            gone = client_gone(client) => Err(Failure::Client(gone)),
        }
    }
}

/// What the client is told where it has to be.
fn error_of(loss: &Loss, outcome: Outcome, shard: &str) -> ClientError {
    match (loss, outcome) {
        (Loss::Commit { .. }, Outcome::Unknown | Outcome::Open) => outcome_unknown(shard),
        (Loss::Unknown, _) => completion_unknown(shard),
        _ => lost_transaction(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_that_loses_its_server_again_and_again_is_given_up() {
        let mut repeats = Repeats::default();
        assert!(!repeats.is_recent());
        assert!(repeats.take(0) && repeats.take(0) && !repeats.take(0));
        assert!(repeats.is_recent() && repeats.take(1), "the next one has its own chances");
    }
}
