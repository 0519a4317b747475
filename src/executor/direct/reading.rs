//! Which replica a session reads from: for a batch, or for a transaction that is declared to only read.
//!
//! Such a transaction stays on one connection. What it sends there is looked at message by message; the first that is not
//! proved to be answered as at the primary takes it there, if nothing that it was shown ties it to the replica: it sees
//! anew with each statement, and was told of no moment. Else it has to be run again.

use std::borrow::Cow;
use std::time::Duration;

use super::{Direct, ROLLBACK_MS_MAX, bound_name, parsed_text};
use crate::backend::Lease;
use crate::base::ShardId;
use crate::executor::reads::{self, Reading};
use crate::net::Framed;
use crate::session::{PoolMode, ReadFrom};
use crate::topology::Topology;
use crate::wire::frame::Frame;

/// A transaction that reads from a replica.
#[derive(Debug)]
pub(super) struct ReadOnly {
    /// How it was begun.
    begin: String,
    /// What it was shown, or is to be shown, ties it to this replica.
    is_tied: bool,
}

impl Direct {
    /// A connection to a replica, if one can be had.
    pub(super) async fn replica_lease(
        &mut self,
        topology: &Topology,
        shard: ShardId,
        reading: Reading,
    ) -> Option<Lease> {
        let node = self.seen.choose(&self.cluster, shard, reading).await?;
        let lease = match self.cluster.replica_target(topology, node, self.host.user()) {
            Some(target) => self.cluster.pools.checkout(&target).await.ok(),
            None => None,
        };
        if lease.is_none() {
            self.seen.give_up(shard);
        }
        lease
    }

    /// How what begins with this message reads from replicas.
    pub(super) fn reading_of(&mut self, client: &mut Framed, frame: &Frame) -> Option<Reading> {
        if self.database.is_some() || self.mode == PoolMode::Session || !matches!(frame.tag, b'Q' | b'P' | b'B') {
            return None;
        }
        if !self.cluster.topology.load().has_replicas() || !self.waiting.is_empty() {
            return None;
        }
        let is_inside = self.machine.opening().is_some() || self.machine.begun_text().is_some();
        if is_inside && (!self.is_declared() || std::mem::take(&mut self.has_left_replica)) {
            return None;
        }
        let hinted = self.text_of(frame).as_deref().and_then(ReadFrom::hinted);
        let settings = &self.machine.settings;
        if self.cluster.wants_replica(self.host.user(), settings, hinted) == ReadFrom::Primary {
            return None;
        }
        let (behind, _) = client.buffers();
        let known = |name: &[u8]| self.machine.prepared_text(name);
        let texts = reads::batch_texts((frame.tag, frame.as_body()), behind, known)?;
        self.cluster.reading_of(self.host.user(), settings, &mut self.seen, &texts)
    }

    /// The transaction that no server knows of is declared to only read.
    fn is_declared(&self) -> bool {
        let begin = match self.machine.opening() {
            Some((_, true)) => None,
            Some((text, false)) => Some(text),
            None => self.machine.begun_text(),
        };
        begin.is_some_and(|begin| reads::is_read_only(begin, &self.machine.settings))
    }

    /// A connection to a replica was taken: for a transaction, if one begins.
    pub(super) fn begins_reading(&mut self) -> Option<Box<ReadOnly>> {
        let opening = self.machine.opening().filter(|(_, has_failed)| !has_failed).map(|(text, _)| text);
        let begin = opening.or_else(|| self.machine.begun_text())?;
        self.is_on_replica.then(|| Box::new(ReadOnly { begin: begin.to_owned(), is_tied: false }))
    }

    /// What a message parses or runs, if it names it.
    fn text_of<'f>(&self, frame: &'f Frame) -> Option<Cow<'f, str>> {
        let body = frame.as_body();
        match frame.tag {
            b'Q' => body.strip_suffix(b"\0").and_then(|text| std::str::from_utf8(text).ok()).map(Cow::Borrowed),
            b'P' => parsed_text(body).map(Cow::Borrowed),
            b'B' => bound_name(body).and_then(|name| self.machine.prepared_text(name)).map(Cow::Owned),
            _ => None,
        }
    }

    /// Whether a message of a transaction that reads from a replica cannot be sent there, or not as it is.
    pub(super) fn leaves_replica(&mut self, client: &mut Framed, frame: &Frame) -> bool {
        // In one that has failed nothing runs.
        if self.machine.status() != b'T' || !matches!(frame.tag, b'Q' | b'P' | b'B' | b'F') {
            return false;
        }
        let Some(text) = self.text_of(frame).map(Cow::into_owned) else { return true };
        let is_proved = self.is_proved_ahead(client, frame, &text);
        let may_move = self.may_move();
        let Some(read_only) = &mut self.read_only else { return false };
        if is_proved {
            read_only.is_tied |= reads::asks_for_now(&text);
            return false;
        }
        may_move || !reads::is_alike_on_standby(&text)
    }

    /// The message only reads, and so does what is here behind it.
    fn is_proved_ahead(&self, client: &mut Framed, frame: &Frame, text: &str) -> bool {
        let is_proved = self.cluster.goes_on_reading(&[text.to_owned()]);
        if !is_proved || frame.tag == b'Q' || !self.is_between_batches() {
            return is_proved;
        }
        let (behind, _) = client.buffers();
        let known = |name: &[u8]| self.machine.prepared_text(name);
        let ahead = reads::texts_ahead((frame.tag, frame.as_body()), behind, known);
        ahead.is_some_and(|ahead| self.cluster.goes_on_reading(&ahead.texts))
    }

    fn is_between_batches(&self) -> bool {
        self.machine.is_quiet() && !self.machine.is_unsynced()
    }

    /// Nothing that is known of it ties the transaction to its replica.
    fn may_move(&self) -> bool {
        let is_tied = self.read_only.as_ref().is_none_or(|read_only| read_only.is_tied);
        !is_tied && self.is_between_batches() && !self.machine.has_portals()
    }

    /// Takes a transaction from its replica to the primary, for this message; one that cannot go has failed, unless the
    /// replica answers the message as a primary does.
    pub(super) async fn leave_replica(&mut self, client: &mut Framed, frame: Frame) {
        let may_move = self.may_move() && self.sees_anew().await;
        let is_alike = self.text_of(&frame).is_some_and(|text| reads::is_alike_on_standby(&text));
        if !may_move && is_alike {
            if let Some(read_only) = &mut self.read_only {
                read_only.is_tied = true;
            }
            self.open_to_cancel();
            self.waiting.push_front(frame);
            return;
        }
        let begin = self.read_only.take().map(|read_only| read_only.begin);
        let is_quiet = self.is_between_batches();
        if let Some(mut held) = self.held.take() {
            self.slot.remove(held.shard);
            let bound = Duration::from_millis(ROLLBACK_MS_MAX);
            let is_done =
                is_quiet && matches!(tokio::time::timeout(bound, held.lease.simple("ROLLBACK")).await, Ok(Ok(_)));
            // The query has thrown the unnamed statement away.
            held.lease.unnamed = 0;
            if !is_done {
                held.lease.poison();
            }
        }
        self.leave();
        match begin.filter(|_| may_move) {
            Some(begin) => {
                self.machine.begin_elsewhere(begin);
                self.waiting.push_front(frame);
            }
            None => {
                self.has_left_replica = true;
                // What is left of a pipeline is skipped.
                if !self.machine.give_up(reads::wants_primary(), &self.host, client.output()) {
                    self.waiting.push_front(frame);
                }
            }
        }
    }

    /// Each statement of the transaction sees what is committed when it begins: asked of the server, whose settings may
    /// say otherwise.
    async fn sees_anew(&mut self) -> bool {
        let Some(held) = &mut self.held else { return false };
        self.slot.remove(held.shard);
        held.is_cancellable = false;
        held.lease.unnamed = 0;
        let bound = Duration::from_millis(ROLLBACK_MS_MAX);
        match tokio::time::timeout(bound, held.lease.simple("SHOW transaction_isolation")).await {
            Ok(Ok(told)) => reads::is_anew(&told),
            _ => {
                held.lease.poison();
                false
            }
        }
    }
}
