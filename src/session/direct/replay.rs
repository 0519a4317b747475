//! An open transaction is run again where its primary is lost: its messages are kept, with a checksum of what the client
//! was told of each batch. They are given to the next primary in the same order, what it answers is compared and not
//! shown, and then the client goes on. An answer that is another one ends the transaction, as the loss would have.
//!
//! Only for sessions that ask for it, and only while neither COMMIT nor ROLLBACK was sent: what was never asked to commit
//! cannot have. Must not know: why the primary is lost, who leads now.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use sha2::{Digest, Sha256};

use super::guard::{Batch, Guard, KEPT_BYTES_MAX, Kind};
use super::lost::undo_of;
use super::names::Statements;
use super::opening::Opening;
use super::owed::Undo;
use super::server::fields;
use super::{Host, Machine, Settling, lost_transaction, write_error};
use crate::error::ClientError;
use crate::wire::frame::{Frame, scan, take_frame};
use crate::wire::limits::MESSAGE_BYTES_MAX;
use crate::wire::server_message::{self, tag};

/// A hash that nobody finds two inputs of: who writes the rows of a table may want one answer to pass for another.
type Checksum = [u8; 32];

/// What a client was told of a batch so far, without what says nothing of the answer.
#[derive(Clone, Debug, Default)]
struct Told {
    hash: Sha256,
    messages: usize,
    /// Bytes of the last message that are still to come.
    rest: usize,
}

impl Told {
    /// Takes the first message of these bytes, or what is here of it: its tag, and these bytes.
    fn take<'b>(&mut self, bytes: &mut &'b [u8]) -> (u8, &'b [u8]) {
        if self.rest > 0 {
            let part = split(bytes, self.rest);
            self.rest -= part.len();
            self.hash.update(part);
            return (tag::DATA_ROW, part);
        }
        let mut headers = scan(bytes);
        let whole = headers.next().and_then(Result::ok).map(|header| header.end);
        let missing = if whole.is_some() { 0 } else { headers.bytes_missing().unwrap_or_default() };
        let part = split(bytes, whole.unwrap_or(bytes.len()));
        let message = part.first().copied().unwrap_or_default();
        match message {
            // They come when the server likes; the client has the values of its own session in any case.
            tag::NOTICE_RESPONSE | tag::PARAMETER_STATUS | tag::NOTIFICATION_RESPONSE => return (message, part),
            // File, line and routine are those of a server's build.
            tag::ERROR_RESPONSE => {
                for (kind, value) in fields(part.get(5..).unwrap_or_default()) {
                    if !matches!(kind, b'F' | b'L' | b'R') {
                        self.hash.update([kind]);
                        self.hash.update(value);
                        self.hash.update([0]);
                    }
                }
            }
            _ => self.hash.update(part),
        }
        self.messages += 1;
        self.rest = missing;
        (message, part)
    }

    /// The checksum of what was taken; the next one begins anew.
    fn finish(&mut self) -> Checksum {
        std::mem::take(self).hash.finalize().into()
    }
}

/// The transaction under way, as far as it was answered.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// It is open, and all of it is here.
    is_open: bool,
    /// How it was begun, where the proxy answered that.
    opening: Option<Opening>,
    /// Messages of the batches that were answered, one behind the other.
    messages: BytesMut,
    /// How many batches these are.
    batches: usize,
    /// Checksums of their answers.
    answers: VecDeque<Checksum>,
    /// What takes back the changes of names by them.
    done: Vec<Undo>,
    /// Of the batch in front.
    told: Told,
}

impl Record {
    /// A transaction begins.
    pub(super) fn open(&mut self, opening: Option<Opening>) {
        *self = Self { is_open: true, opening, ..Self::default() };
    }

    /// It is over, or cannot be run again.
    pub(super) fn close(&mut self) {
        if self.is_open {
            *self = Self::default();
        }
    }

    /// A batch was answered; `messages`: none where they were not kept.
    pub(super) fn answered(&mut self, batch: Batch, messages: Option<&[u8]>, status: u8) {
        let has_room =
            |bytes: usize| self.messages.len() + bytes + (self.batches + 1) * size_of::<Checksum>() <= KEPT_BYTES_MAX;
        match messages.filter(|messages| self.is_open && status != b'I' && has_room(messages.len())) {
            Some(messages) => {
                self.messages.extend_from_slice(messages);
                self.batches += 1;
                self.done.extend(batch.done);
            }
            None => self.close(),
        }
    }

    /// The client is told this.
    pub(super) fn hear(&mut self, mut bytes: &[u8]) {
        while self.is_open && !bytes.is_empty() {
            if self.told.take(&mut bytes).0 == tag::READY_FOR_QUERY {
                self.answers.push_back(self.told.finish());
            }
        }
    }
}

/// A transaction that is being run again.
#[derive(Debug)]
pub(super) struct Replaying {
    /// So many messages of it are still to be given.
    messages_left: usize,
    /// Checksums of what the client was told of the batches that are not compared yet.
    answers: VecDeque<Checksum>,
    /// What it was told of the batch behind them, which goes on from there.
    part: Option<(usize, Checksum)>,
    /// The messages of that batch are being given.
    is_part_given: bool,
    /// What the next primary answers.
    told: Told,
    differs: bool,
    /// Prepared statements as the client knows them.
    known: Statements,
    /// Transaction status as the client was last told.
    status: u8,
}

impl Replaying {
    /// Compares what is answered, up to where the client goes on; gives how far that is. What it has to know in any case
    /// is passed on.
    fn compare(&mut self, bytes: &[u8], to_client: &mut BytesMut) -> usize {
        let mut rest = bytes;
        while !self.is_over() && !rest.is_empty() {
            let (message, part) = self.told.take(&mut rest);
            if matches!(message, tag::PARAMETER_STATUS | tag::NOTIFICATION_RESPONSE) {
                to_client.extend_from_slice(part);
            }
            if let Some(answer) = self.answers.front() {
                if message == tag::READY_FOR_QUERY {
                    self.differs |= self.told.finish() != *answer;
                    self.answers.pop_front();
                }
            } else if let Some((messages, answer)) = self.part
                && (message == tag::READY_FOR_QUERY || (self.told.messages == messages && self.told.rest == 0))
            {
                self.differs |= self.told.messages != messages || self.told.finish() != answer;
                self.part = None;
            }
        }
        bytes.len() - rest.len()
    }

    fn is_over(&self) -> bool {
        self.answers.is_empty() && self.part.is_none()
    }
}

/// What came of running a transaction again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// Everything was answered as before: the client goes on.
    Alike,
    /// Something was not: it is to be given up.
    Otherwise,
}

impl Guard {
    /// Compares what a transaction that is being run again is answered.
    pub(super) fn compare(&mut self, to_client: &mut BytesMut) -> Option<Replayed> {
        let replaying = self.replaying.as_mut()?;
        let compared = replaying.compare(&self.back, to_client);
        self.back.advance(compared);
        self.settled = self.settled.saturating_sub(compared);
        if replaying.differs {
            self.back.clear();
            self.settled = 0;
            return Some(Replayed::Otherwise);
        }
        let is_over = replaying.is_over();
        if is_over {
            self.replaying = None;
        }
        is_over.then_some(Replayed::Alike)
    }
}

impl Machine {
    /// Transactions that begin on this connection are kept, to be run again where it is lost.
    pub fn keep_transactions(&mut self, is_wanted: bool) {
        // What was run again once is not kept: it would be run again for ever.
        let is_wanted = is_wanted && self.guard.is_on && self.guard.replaying.is_none();
        if is_wanted != self.guard.record.is_some() {
            self.guard.record = is_wanted.then(Box::default);
        }
    }

    /// A transaction is begun on the server that the proxy has answered.
    pub(super) fn record_opening(&mut self, opening: &Opening) {
        // Asked first: to change nothing would make a guard, too.
        if self.guard.record.is_some()
            && !opening.has_failed()
            && let Some(record) = &mut self.guard.record
        {
            record.open(Some(opening.clone()));
        }
    }

    /// A statement goes to the server. `changes_names`: of prepared statements, by SQL.
    pub(super) fn record_statement(&mut self, kind: Kind, changes_names: bool) {
        let begins = self.status == b'I' && self.guard.begins_with(kind);
        let ends = matches!(kind, Kind::Begin | Kind::Commit | Kind::Rollback | Kind::Unknown);
        let Some(record) = &mut self.guard.record else { return };
        if begins {
            record.open(None);
        } else if ends || changes_names {
            record.close();
        }
    }

    /// A message was given to the server.
    pub(super) fn note_given(&mut self, message: u8) {
        if self.has_signals()
            && let Some(record) = &mut self.guard.record
        {
            // They are not to be sent again.
            record.close();
        }
        let Some(replaying) = &mut self.guard.replaying else { return };
        // The answer is compared before anything more is done.
        self.is_held |= matches!(message, b'Q' | b'S') && !self.owed.is_empty();
        if replaying.messages_left > 0 {
            replaying.messages_left -= 1;
        } else {
            replaying.is_part_given = true;
            self.guard.note_told();
        }
    }

    /// A transaction is being run again.
    pub fn is_replaying(&self) -> bool {
        self.guard.replaying.is_some()
    }

    /// The transaction of the lost connection can be run again.
    pub fn may_replay(&self) -> bool {
        let Some(record) = self.guard.record.as_ref().filter(|record| record.is_open) else { return false };
        record.answers.len() == record.batches
            && self.status != b'I'
            && self.guard.barriers == 0
            && !self.guard.is_cut
            && !self.copy.is_reading()
            && !self.is_skipping
            && !self.effects.may_pin
    }

    /// What was done last is taken back first.
    fn take_back(&mut self, done: Vec<Undo>) {
        done.into_iter().rev().for_each(|undo| self.undo(undo));
    }

    /// Lets go of the lost connection; what is given back is to be given again, in order.
    pub fn replay(&mut self) -> Vec<Frame> {
        let mut guard = self.guard.take();
        let record = guard.record.take().map(|record| *record).unwrap_or_default();
        let mut under_way = guard.whole.drain(..).chain(guard.open.take());
        let (front, front_is_told) = under_way.next().map(|front| (front.done, front.is_told)).unwrap_or_default();
        let mut behind: Vec<Undo> = under_way.flat_map(|batch| batch.done).collect();
        behind.extend(self.owed.drain(..).filter_map(undo_of));
        self.take_back(behind);
        let behind_front = self.statements.clone();
        self.take_back(front);
        let known = if front_is_told { behind_front } else { self.statements.clone() };
        self.take_back(record.done);
        let status = self.status;
        self.detach();
        self.is_unsynced = false;
        self.status = if record.opening.is_some() { b'T' } else { b'I' };
        self.opening = record.opening.map(Box::new);
        let mut messages = record.messages;
        let mut frames = take_frames(&mut messages);
        let mut told = record.told;
        let part = (told.messages > 0).then(|| (told.messages, told.finish()));
        let replaying = Replaying {
            messages_left: frames.len(),
            answers: record.answers,
            part,
            is_part_given: false,
            told: Told::default(),
            differs: false,
            known,
            status,
        };
        self.guard.answered = guard.answered;
        self.guard.replaying = (!replaying.is_over()).then(|| Box::new(replaying));
        frames.extend(take_frames(&mut guard.kept));
        frames
    }

    /// The transaction that is being run again has come to nothing. What waits to be given is as it is to be behind that.
    pub fn give_up_replay(
        &mut self,
        error: ClientError,
        host: &dyn Host,
        to_client: &mut BytesMut,
        waiting: &mut VecDeque<Frame>,
    ) {
        let Some(replaying) = self.guard.replaying.take() else { return };
        if replaying.is_part_given && self.guard.front().is_some() {
            // The client has heard a part of the answer in front: it ends with the error.
            self.guard.back.clear();
            let again = self.settle(&Settling::Failed(&error), host, to_client);
            self.statements = replaying.known;
            again.into_iter().rev().for_each(|frame| waiting.push_front(frame));
            return;
        }
        waiting.drain(..replaying.messages_left.min(waiting.len()));
        let answered = self.guard.take().answered;
        self.guard.answered = answered;
        self.detach();
        (self.is_unsynced, self.is_skipping) = (false, false);
        self.statements = replaying.known;
        self.status = replaying.status;
        self.opening = Some(Box::new(Opening::failed()));
        if replaying.is_part_given {
            // It has ended otherwise than it began.
            write_error(&error, "ERROR", to_client);
            self.status = b'E';
            server_message::write_ready_for_query(to_client, self.status);
            return;
        }
        // To be told at the next message; that the transaction has failed is known where it had before.
        let is_unsaid = self.status == b'T' || !waiting.is_empty();
        self.guard.lost = is_unsaid.then(|| Box::new(error));
    }
}

/// What a client is told of a transaction that was run again and answered otherwise.
pub fn answered_otherwise() -> ClientError {
    lost_transaction().with_detail(
        "It was run again on the server that has taken its place, which gave another answer. Nothing of the \
         transaction was committed.",
    )
}

fn take_frames(kept: &mut BytesMut) -> Vec<Frame> {
    std::iter::from_fn(|| take_frame(kept, MESSAGE_BYTES_MAX).ok().flatten()).collect()
}

fn split<'b>(bytes: &mut &'b [u8], at: usize) -> &'b [u8] {
    let (part, rest) = bytes.split_at_checked(at).unwrap_or((bytes, &[]));
    *bytes = rest;
    part
}
