//! Answers of a pipeline: owed by several connections, given to the client in the order of its messages.
//!
//! Messages for different shards travel without waiting for each other. Each connection keeps what it owes
//! in its own queue; where the client's messages went on to another shard the queue has a mark
//! ([`Expect::Handover`]), and the session remembers which connection comes next.

use bytes::Bytes;

use super::link::{Link, failure_of, read_quiet};
use super::relay::{Expect, forward};
use super::session::CLIENT_FLUSH_BYTES;
use super::{Failure, Session, shard_name};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::{Framed, NetError};
use crate::wire::client_message;
use crate::wire::frame::Frame;
use crate::wire::server_message::tag;

/// Messages of a pipeline are sent on, and their answers read, once so much is under way.
///
/// # Units
/// Bytes.
pub(super) const PIPELINE_BYTES_MAX: usize = 256 << 10;

/// What a shard is sent before its pipeline ends, so that it works while others get theirs: a write costs as much as
/// several small statements.
///
/// # Units
/// Bytes.
const HANDOVER_BYTES_MIN: usize = 1 << 10;

/// Changes of shard under way at a time.
const HANDOVERS_MAX: usize = 1_000;

impl Session {
    /// Says something of the proxy's own in its place among the answers.
    pub(super) fn say(&mut self, client: &mut Framed, answer: Bytes) {
        let is_owed = !self.order.is_empty();
        match self.current.and_then(|shard| self.links.get_mut(&shard)) {
            Some(link) if is_owed || !link.expects.is_empty() => link.expects.push_back(Expect::Local(answer)),
            _ => client.output().extend_from_slice(&answer),
        }
    }

    /// Makes a shard the one that messages are written to.
    pub(super) async fn attach(&mut self, client: &mut Framed, shard: ShardId) -> Result<(), Failure> {
        if self.current != Some(shard) {
            let is_new = self.links.get(&shard).is_none_or(|link| !link.touched);
            if is_new && self.is_at_work() {
                self.open_block().await?;
            }
            self.hand_over(client).await?;
        }
        if let Err(failure) = self.link(shard).await {
            // Earlier answers come first.
            self.settle(client).await?;
            return Err(failure);
        }
        self.current = Some(shard);
        Ok(())
    }

    /// Leaves the present shard with its messages; its answers are read later. Many small ones are sent together: nobody
    /// hears of any before the client's Sync or Flush, when all that is left is sent.
    async fn hand_over(&mut self, client: &mut Framed) -> Result<(), Failure> {
        let Some(shard) = self.current.take() else { return Ok(()) };
        let name = shard_name(&self.topology, shard);
        let Some(link) = self.links.get_mut(&shard).filter(|link| !link.expects.is_empty()) else { return Ok(()) };
        link.expects.push_back(Expect::Handover);
        self.order.push_back(shard);
        let waiting_bytes = link.lease.output().len();
        if waiting_bytes >= HANDOVER_BYTES_MIN {
            self.pipelined_bytes += waiting_bytes;
            let sent = link.lease.flush().await.map_err(|error| failure_of(error, &name));
            self.after_exchange(shard, sent)?;
        }
        if self.pipelined_bytes > PIPELINE_BYTES_MAX || self.order.len() > HANDOVERS_MAX {
            self.settle(client).await?;
        }
        Ok(())
    }

    /// Sends what is written and relays every answer that is owed.
    ///
    /// # Errors
    /// The first error among the answers; the connection then skips to Sync.
    pub(super) async fn settle(&mut self, client: &mut Framed) -> Result<(), Failure> {
        let owing: Vec<ShardId> =
            self.links.iter().filter(|(_, link)| !link.expects.is_empty()).map(|(shard, _)| *shard).collect();
        for shard in owing {
            let name = shard_name(&self.topology, shard);
            let link = self.held(shard)?;
            if link.unsynced {
                client_message::encode_flush(link.lease.output());
            }
            let sent = link.lease.flush().await.map_err(|error| failure_of(error, &name));
            self.after_exchange(shard, sent)?;
        }
        self.relay_in_order(client).await
    }

    /// Relays everything that is owed, in the order of the client's messages.
    async fn relay_in_order(&mut self, client: &mut Framed) -> Result<(), Failure> {
        self.pipelined_bytes = 0;
        while let Some(shard) = self.order.pop_front() {
            self.relay_from(client, shard).await?;
        }
        // What the present shard owes comes last; the others owe quiet answers only.
        let mut shards: Vec<ShardId> = self.links.keys().copied().collect();
        shards.sort_by_key(|shard| Some(*shard) != self.current);
        for shard in shards {
            while self.links.get(&shard).is_some_and(|link| !link.expects.is_empty()) {
                self.relay_from(client, shard).await?;
            }
        }
        Ok(())
    }

    async fn relay_from(&mut self, client: &mut Framed, shard: ShardId) -> Result<(), Failure> {
        let name = shard_name(&self.topology, shard);
        let outcome = match self.links.get_mut(&shard) {
            Some(link) => {
                let slot = std::sync::Arc::clone(&self.cancel);
                relay_expected(link, Some(client), &name, &|| slot.remove(shard)).await
            }
            None => Err(lost_with_answers(&name)),
        };
        self.is_answer_lost = outcome.is_err();
        if outcome.is_err()
            && let Some(link) = self.links.get_mut(&shard).filter(|link| link.lease.is_poisoned())
        {
            link.drain().await;
        }
        self.after_exchange(shard, outcome)
    }

    /// Ends the pipeline of every connection; answers go to the client.
    pub(super) async fn sync_links(&mut self, client: &mut Framed) -> Result<(), Failure> {
        self.write_syncs().await?;
        self.relay_in_order(client).await?;
        self.current = None;
        Ok(())
    }

    async fn write_syncs(&mut self) -> Result<(), Failure> {
        let shards: Vec<ShardId> = self.links.keys().copied().collect();
        for shard in shards {
            let name = shard_name(&self.topology, shard);
            let link = self.held(shard)?;
            if link.unsynced {
                if link.wrote && !link.begun && link.since.is_some() {
                    link.ask_xid();
                }
                client_message::encode_sync(link.lease.output());
                link.lease.expect_ready();
                link.expects.push_back(Expect::Ready);
                link.unsynced = false;
            }
            if link.expects.is_empty() {
                continue;
            }
            let sent = link.lease.flush().await.map_err(|error| failure_of(error, &name));
            self.after_exchange(shard, sent)?;
        }
        Ok(())
    }

    /// After an error in a pipeline: answers of earlier messages first, then the error, then nothing
    /// up to Sync.
    pub(super) async fn pipeline_failed(&mut self, client: &mut Framed, failure: Failure) -> Result<(), NetError> {
        let first = match failure {
            // It came from the answers themselves: those behind it are nobody's any more.
            failure @ Failure::Postgres(_) => failure,
            failure if self.is_answer_lost => failure,
            failure => match self.settle(client).await {
                Ok(()) => failure,
                Err(earlier) => earlier,
            },
        };
        let is_servers = matches!(first, Failure::Postgres(_));
        let first = self.name_deadlock(first);
        Self::write_failure(client, first)?;
        if let Some((name, _)) = self.parse_waiting.take() {
            self.statements.remove(&name);
        }
        self.describe_waiting = None;
        self.skip_to_sync = true;
        self.order.clear();
        self.current = None;
        self.is_answer_lost = false;
        // At once, as PostgreSQL does (`send_message_to_frontend`): a client may wait for it before its Sync.
        client.flush().await?;
        if !is_servers {
            self.undo_unsynced();
        }
        self.finish_unseen().await;
        self.fail_transaction().await;
        // Behind FATAL there is no Sync to wait for.
        if self.was_closed { Err(NetError::Closed) } else { Ok(()) }
    }

    /// Servers that know nothing of the error would commit at the Sync what ran in this pipeline so far: it becomes the
    /// beginning of a block, which is rolled back.
    fn undo_unsynced(&mut self) {
        if !self.transaction.is_open() && self.links.values().any(|link| link.unsynced && !link.begun) {
            self.transaction.begin_implicit();
            self.join_block();
        }
    }

    /// Ends every connection's pipeline; nobody sees the answers.
    async fn finish_unseen(&mut self) {
        let shards: Vec<ShardId> = self.links.keys().copied().collect();
        for shard in &shards {
            if let Some(link) = self.links.get_mut(shard)
                && link.unsynced
            {
                client_message::encode_sync(link.lease.output());
                link.lease.expect_ready();
                link.expects.push_back(Expect::Ready);
                link.unsynced = false;
            }
        }
        for shard in shards {
            let name = shard_name(&self.topology, shard);
            let Some(link) = self.links.get_mut(&shard) else { continue };
            if read_unseen(link, &name).await.is_err() {
                self.drop_link(shard);
            }
        }
    }
}

/// A connection was lost that still owed answers to messages of the client's.
fn lost_with_answers(name: &str) -> Failure {
    ClientError::new(ErrorId::StatementCompletionUnknown, format!("the connection to shard {name} was lost"))
        .with_hint("Whether the statement has run is not known.")
        .into()
}

/// Reads to the end of everything that was asked.
async fn read_unseen(link: &mut Link, name: &str) -> Result<(), Failure> {
    link.lease.flush().await.map_err(|error| failure_of(error, name))?;
    while !link.expects.is_empty() {
        match relay_expected(link, None, name, &|| {}).await {
            Ok(()) | Err(Failure::Postgres(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
    // Behind an error the server skips to the Sync that was sent.
    while link.lease.pending_ready() > 0 {
        link.lease.next_frame().await.map_err(|error| failure_of(error, name))?;
    }
    Ok(())
}

/// Relays answers until none is owed, or another connection comes next. Without a client nobody sees them.
///
/// # Errors
/// The first error: the connection owes nothing any more but its ReadyForQuery.
///
/// `committing`: what is written outside of a block is committed from now on, which nothing may cancel.
async fn relay_expected(
    link: &mut Link,
    mut client: Option<&mut Framed>,
    name: &str,
    committing: &(dyn Fn() + Sync),
) -> Result<(), Failure> {
    loop {
        match link.expects.front() {
            None => return Ok(()),
            Some(Expect::Handover) => {
                link.expects.pop_front();
                return Ok(());
            }
            Some(Expect::Quiet | Expect::Dressing { .. }) => {
                if let Err(failure) = read_quiet(link, name).await {
                    forget_unparsed(link);
                    return Err(failure);
                }
                continue;
            }
            Some(Expect::Local(answer)) => {
                if let Some(client) = &mut client {
                    client.output().extend_from_slice(answer);
                }
                link.expects.pop_front();
                continue;
            }
            Some(_) => {}
        }
        let frame = link.lease.next_frame().await.map_err(|error| failure_of(error, name))?;
        match frame.tag {
            tag::ERROR_RESPONSE => {
                forget_unparsed(link);
                return Err(Failure::Postgres(frame));
            }
            tag::NOTICE_RESPONSE | tag::PARAMETER_STATUS => {
                if let Some(client) = &mut client {
                    forward(client, &frame).await?;
                }
                continue;
            }
            tag::NOTIFICATION_RESPONSE => continue,
            _ => {}
        }
        if frame.tag == tag::DATA_ROW && matches!(link.expects.front(), Some(Expect::Xid)) {
            link.take_xid(&frame);
            committing();
        }
        if let Some(expected) = link.expects.front_mut() {
            note_told(expected, &frame);
        }
        let (shown, finished) = link.expects.front().map_or((false, true), |expected| judge(expected, frame.tag));
        if let Some(client) = client.as_mut().filter(|_| shown) {
            client.output().extend_from_slice(&frame.bytes);
            if client.output().len() >= CLIENT_FLUSH_BYTES {
                client.flush().await?;
            }
        }
        if finished {
            link.expects.pop_front();
        }
    }
}

/// Whether the client sees an answer, and whether it is the last of what is expected.
fn judge(expected: &Expect, frame_tag: u8) -> (bool, bool) {
    match (expected, frame_tag) {
        (Expect::Parse { forward, .. } | Expect::Bind { forward }, _) => (*forward, true),
        (Expect::DescribeStatement { .. }, tag::PARAMETER_DESCRIPTION) => (true, false),
        (Expect::LookAgain { .. }, tag::PARAMETER_DESCRIPTION) => (false, false),
        (Expect::DescribeStatement { .. } | Expect::DescribePortal { .. }, _) => (true, true),
        (Expect::Execute { forward }, tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE | tag::PORTAL_SUSPENDED) => {
            (*forward, true)
        }
        (Expect::Execute { forward }, _) => (*forward, false),
        (Expect::Xid, _) => (false, frame_tag == tag::COMMAND_COMPLETE),
        _ => (false, true),
    }
}

/// Remembers what the client is told of a statement, or compares it.
fn note_told(expected: &mut Expect, frame: &Frame) {
    match (expected, frame.tag) {
        (Expect::DescribeStatement { of } | Expect::LookAgain { of }, tag::PARAMETER_DESCRIPTION) => {
            of.parameters(frame)
        }
        (Expect::DescribeStatement { of } | Expect::DescribePortal { of: Some(of) }, _) => of.note(frame),
        (Expect::LookAgain { of }, _) => of.compare(frame),
        _ => {}
    }
}

/// Statements whose Parse failed, or is skipped after an error, are not known to the server; nothing
/// else is answered but Sync.
fn forget_unparsed(link: &mut Link) {
    let expects = std::mem::take(&mut link.expects);
    for expect in expects {
        if let Expect::Parse { id, .. } = expect {
            link.lease.prepared.forget(id);
        }
    }
}
