//! A connection is lost under a session: what that means for what was under way, and how the session goes on.
//!
//! Must not know: why it was lost, who leads now.

use bytes::{Bytes, BytesMut};

use super::guard::{Batch, Kind, Xid, kind_of};
use super::opening::Opening;
use super::owed::{Owed, Quiet, Undo};
use super::statements::Origin;
use super::{Host, Machine, Taken, split_text, write_error};
use crate::error::{ClientError, ErrorId};
use crate::wire::frame::{Frame, take_frame};
use crate::wire::limits::MESSAGE_BYTES_MAX;
use crate::wire::server_message::{self, tag};

/// What was under way on a connection that is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The session cannot go on: it kept something on the connection, or its client has half of a message.
    Ends,
    /// Nothing of the client's.
    Nothing,
    /// A part of a transaction that cannot have been committed.
    Transaction,
    /// It has come to nothing, and the client may be told so.
    RolledBack,
    /// It has failed, and but for its end that was answered.
    Failed,
    /// It leaves nothing behind if these texts do nothing but read.
    Reads {
        /// Every statement of it; none where nothing was executed.
        texts: Vec<String>,
        /// It may be given again: the client has heard nothing of an answer.
        may_repeat: bool,
    },
    /// A commit, by itself or behind a statement.
    Commit {
        /// What is known of its transaction id.
        xid: Xid,
        /// It may be given again if it was never committed.
        may_repeat: bool,
    },
    /// It may have run, and nobody can tell.
    Unknown,
}

/// How a session goes on.
#[derive(Debug)]
pub enum Settling<'a> {
    /// Nothing is said.
    Quietly,
    /// What was under way is given again.
    Again,
    /// What was under way is done; its answer is completed.
    Done,
    /// It has come to nothing; its answer is completed.
    RolledBack,
    /// It has failed; its answer is ended.
    Ended,
    /// It gets this error.
    Failed(&'a ClientError),
    /// It gets this error, and no transaction is open behind it.
    NotCommitted(&'a ClientError),
}

/// What a client is told of a transaction whose connection is lost.
pub fn lost_transaction() -> ClientError {
    ClientError::new(ErrorId::PrimaryReplaced, "the transaction was rolled back: a server that it ran on was lost")
        .with_detail(
            "The server has failed, or another one has taken its place. Nothing of the transaction was committed.",
        )
        .with_hint("Run the transaction again.")
}

impl Machine {
    /// What it means that the connection is lost now.
    pub fn loss(&self) -> Loss {
        let is_looking = |owed: &Owed| matches!(owed, Owed::Quiet(Quiet::Inspection | Quiet::Restore));
        let keeps_something = self.is_pinned || self.is_transparent() || self.is_ready_held;
        if !self.guard.is_on || keeps_something || self.passing_bytes > 0 || self.owed.iter().any(is_looking) {
            return Loss::Ends;
        }
        let Some(front) = self.guard.front() else {
            return if self.guard.barriers > 0 { Loss::Ends } else { Loss::Nothing };
        };
        if self.guard.is_cut && self.guard.whole.len() + usize::from(self.guard.open.is_some()) > 1 {
            return Loss::Ends;
        }
        if front.has_failed {
            return if front.commits > 0 { Loss::Unknown } else { Loss::Failed };
        }
        let may_repeat = !front.is_told && !self.guard.is_cut;
        let loss = if self.status == b'I' { self.loss_outside(front, may_repeat) } else { self.loss_inside(front) };
        // What a commit set for the session is on the lost connection only.
        let leaves = !self.effects.sets.is_empty() || self.effects.sets_any || self.effects.may_pin;
        if matches!(loss, Loss::Commit { .. }) && leaves { Loss::Ends } else { loss }
    }

    /// Answers what does nothing but close names in the open transaction, as far as it is the first that is under way: the
    /// server is not needed for that, and nobody looks for an error there.
    pub fn answer_closes(&mut self, to_client: &mut BytesMut) {
        let closes = |batch: &Batch| !batch.asks && !batch.has_failed && batch.xid == Xid::NotAsked;
        let may_speak = self.guard.is_on && self.status != b'I' && self.guard.barriers == 0 && self.passing_bytes == 0;
        while may_speak && self.guard.front().is_some_and(closes) {
            let is_whole = self.guard.front().is_some_and(|front| front.is_whole);
            if !is_whole && self.may_replay() {
                // It is given again with the transaction, so that the name is closed there, too.
                return;
            }
            while let Some(owed) = self.owed.pop_front() {
                match owed {
                    Owed::Local { message, undo } => {
                        server_message::write_empty(&mut self.guard.back, message);
                        self.note_done(undo);
                    }
                    Owed::Close { forward: true } => {
                        server_message::write_empty(&mut self.guard.back, tag::CLOSE_COMPLETE);
                    }
                    Owed::Sync { forward: true } => {
                        server_message::write_ready_for_query(&mut self.guard.back, self.status);
                        break;
                    }
                    _ => {}
                }
            }
            if is_whole {
                self.guard.pop(self.status);
            } else {
                self.guard.open = None;
                self.guard.kept.clear();
            }
            self.guard.settled = self.guard.back.len();
            self.guard.release(to_client);
        }
    }

    /// Where not all of the answers have come: what was sent behind the messages in front may have been done, so that it
    /// cannot be given again. Inside a transaction that is what may have ended it.
    pub fn may_have_done_more(&self, loss: &Loss) -> bool {
        let mut behind = self.guard.whole.iter().chain(&self.guard.open).skip(1);
        match loss {
            Loss::Transaction => behind.any(|batch| batch.commits > 0 || batch.has(Kind::Rollback)),
            _ => behind.any(|batch| !batch.is_only(&[Kind::Setting, Kind::Begin])),
        }
    }

    fn loss_outside(&self, front: &Batch, may_repeat: bool) -> Loss {
        let is_committed_by_sync = front.is_whole || front.commits > 0;
        let begins = front.has(Kind::Begin) && front.commits == 0 && !front.has(Kind::Rollback);
        if !is_committed_by_sync || begins || front.is_only(&[Kind::Setting, Kind::Begin, Kind::Commit, Kind::Rollback])
        {
            return Loss::Reads { texts: Vec::new(), may_repeat };
        }
        if front.is_only(&[Kind::Setting, Kind::Query]) {
            return self.texts().map_or(Loss::Unknown, |texts| Loss::Reads { texts, may_repeat });
        }
        let is_one_commit = front.is_only(&[Kind::Setting, Kind::Query, Kind::Write]);
        if is_one_commit && front.xid != Xid::NotAsked && !front.is_told {
            Loss::Commit { xid: front.xid, may_repeat }
        } else {
            Loss::Unknown
        }
    }

    fn loss_inside(&self, front: &Batch) -> Loss {
        if front.is_only(&[Kind::Rollback]) && front.has(Kind::Rollback) {
            return Loss::RolledBack;
        }
        let goes_on_behind = front.has(Kind::Rollback) || front.has(Kind::Begin);
        if front.commits == 0 && !goes_on_behind {
            return Loss::Transaction;
        }
        if front.commits != 1 || goes_on_behind || front.has(Kind::Unknown) {
            return Loss::Unknown;
        }
        match front.xid {
            _ if self.status == b'E' => Loss::RolledBack,
            Xid::NotAsked if !self.guard.wrote => Loss::Commit { xid: Xid::Known(None), may_repeat: false },
            Xid::NotAsked => Loss::Unknown,
            xid => Loss::Commit { xid, may_repeat: false },
        }
    }

    /// The texts of the statements in front.
    fn texts(&self) -> Option<Vec<String>> {
        let mut kept = BytesMut::from(self.guard.kept.get(..self.guard.front()?.bytes)?);
        let mut texts = Vec::new();
        let mut parsed: Vec<(Bytes, String)> = Vec::new();
        let read = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        while let Ok(Some(frame)) = take_frame(&mut kept, MESSAGE_BYTES_MAX) {
            let body = frame.body();
            match frame.tag {
                b'Q' => texts.push(read(body.strip_suffix(&[0])?)?),
                b'P' => {
                    let (name, rest) = split_text(&body).ok()?;
                    parsed.push((Bytes::copy_from_slice(name), read(split_text(rest).ok()?.0)?));
                }
                b'B' => {
                    let (name, _) = split_text(split_text(&body).ok()?.1).ok()?;
                    let own = parsed.iter().rev().find(|(known, _)| known == name).map(|(_, text)| text.clone());
                    texts.push(own.or_else(|| self.prepared_text(name))?);
                }
                // What a portal of an earlier message runs is not known here.
                b'E' if texts.is_empty() => return None,
                _ => {}
            }
        }
        Some(texts)
    }

    /// The transaction is given up on purpose. True: the answer in front was ended with the error, else the client is told
    /// at its next message.
    pub fn give_up(&mut self, error: ClientError, host: &dyn Host, to_client: &mut BytesMut) -> bool {
        let is_under_way = self.guard.front().is_some();
        if is_under_way {
            let _behind = self.settle(&Settling::Failed(&error), host, to_client);
        } else {
            let _none = self.settle(&Settling::Quietly, host, to_client);
            self.guard.lost = Some(Box::new(error));
        }
        is_under_way
    }

    /// Lets go of the lost connection and goes on; what is given back is to be given again, in order.
    pub fn settle(&mut self, settling: &Settling<'_>, host: &dyn Host, to_client: &mut BytesMut) -> Vec<Frame> {
        let mut guard = self.guard.take();
        let was_inside = self.status != b'I';
        let front_bytes = guard.front().map_or(0, |front| front.bytes);
        let is_whole = guard.front().is_some_and(|front| front.is_whole);
        let is_again = matches!(settling, Settling::Again);
        let is_failed = matches!(settling, Settling::Failed(_) | Settling::NotCommitted(_));
        if is_again || is_failed && guard.front().is_some_and(|front| !front.is_told) {
            guard.back.clear();
        }
        to_client.extend_from_slice(&guard.back);
        let is_done = matches!(settling, Settling::Done | Settling::RolledBack | Settling::Ended);
        let mut is_first = true;
        let mut undone = Vec::new();
        for batch in guard.whole.drain(..).chain(guard.open.take()) {
            let stays = std::mem::take(&mut is_first) && !is_again && (is_done || batch.is_told);
            if !stays {
                undone.extend(batch.done);
            }
        }
        let owed: Vec<Owed> = self.owed.drain(..).collect();
        let rest = if is_done { self.complete(owed, settling, was_inside, to_client) } else { owed };
        undone.extend(rest.into_iter().filter_map(undo_of));
        for undo in undone.into_iter().rev() {
            self.undo(undo);
        }
        let changes_schema = std::mem::take(&mut self.effects.changes_schema);
        self.guard.answered = guard.answered + u64::from(!is_again);
        self.detach();
        self.is_unsynced = false;
        if changes_schema && matches!(settling, Settling::Done) {
            host.schema_changed();
        }
        let has_ended = self.go_on(settling, was_inside, is_whole, to_client);
        let is_unsaid = !has_ended && matches!(settling, Settling::Quietly) && self.status == b'T';
        self.guard.lost = is_unsaid.then(|| Box::new(lost_transaction()));
        if !is_again && !guard.is_cut {
            let _front = guard.kept.split_to(front_bytes.min(guard.kept.len()));
        }
        if guard.is_cut {
            guard.kept.clear();
        }
        std::iter::from_fn(|| take_frame(&mut guard.kept, MESSAGE_BYTES_MAX).ok().flatten()).collect()
    }

    /// The state behind it, and what is said last. True: no transaction is open any more.
    fn go_on(&mut self, settling: &Settling<'_>, was_inside: bool, is_whole: bool, to_client: &mut BytesMut) -> bool {
        match settling {
            Settling::Done | Settling::RolledBack => return true,
            Settling::Failed(error) | Settling::NotCommitted(error) => {
                write_error(error, "ERROR", to_client);
                let goes_on = was_inside && matches!(settling, Settling::Failed(_));
                self.status = if goes_on { b'E' } else { b'I' };
                if is_whole {
                    server_message::write_ready_for_query(to_client, self.status);
                } else {
                    self.is_skipping = true;
                }
            }
            Settling::Quietly | Settling::Again | Settling::Ended => {}
        }
        if was_inside && !matches!(settling, Settling::NotCommitted(_)) {
            self.opening = Some(Box::new(Opening::failed()));
        }
        !was_inside
    }

    /// Says what is missing of the answer in front; gives what the client is owed behind it.
    fn complete(
        &mut self,
        owed: Vec<Owed>,
        settling: &Settling<'_>,
        was_inside: bool,
        to_client: &mut BytesMut,
    ) -> Vec<Owed> {
        let (command_tag, status) = match settling {
            Settling::Done => ("COMMIT", b'I'),
            Settling::Ended if was_inside => ("", b'E'),
            _ => ("ROLLBACK", b'I'),
        };
        let has_failed = matches!(settling, Settling::Ended);
        let mut owed = owed.into_iter();
        for one in owed.by_ref() {
            match one {
                Owed::Query { .. } | Owed::FunctionCall => {
                    if !has_failed {
                        server_message::write_command_complete(to_client, command_tag);
                    }
                    server_message::write_ready_for_query(to_client, status);
                    break;
                }
                Owed::Sync { forward: true } => {
                    server_message::write_ready_for_query(to_client, status);
                    break;
                }
                _ if has_failed => {}
                Owed::Parse { forward: true, .. } => server_message::write_empty(to_client, tag::PARSE_COMPLETE),
                Owed::Bind => server_message::write_empty(to_client, tag::BIND_COMPLETE),
                Owed::DescribePortal { .. } => server_message::write_empty(to_client, tag::NO_DATA),
                Owed::Execute { .. } => server_message::write_command_complete(to_client, command_tag),
                Owed::Close { forward: true } => server_message::write_empty(to_client, tag::CLOSE_COMPLETE),
                Owed::Local { message, .. } => server_message::write_empty(to_client, message),
                _ => {}
            }
        }
        self.status = status;
        owed.collect()
    }

    /// The first message behind a transaction that was lost while the client said nothing; `None`: it goes its
    /// ordinary way.
    pub(super) fn tell_lost(&mut self, frame: &Frame, to_client: &mut BytesMut) -> Option<Taken> {
        let body = frame.body();
        if frame.tag == b'C' && body.first() == Some(&b'P') {
            // Its portals have gone with the connection.
            server_message::write_empty(to_client, tag::CLOSE_COMPLETE);
            return Some(Taken::Done);
        }
        let error = self.guard.lost.take()?;
        let kind = match frame.tag {
            b'Q' => kind_of(body.strip_suffix(&[0])?, 1),
            b'P' => kind_of(split_text(split_text(&body).ok()?.1).ok()?.0, 1),
            b'B' => {
                let (name, _) = split_text(split_text(&body).ok()?.1).ok()?;
                match self.statements.get(name).map(|known| &known.statement.origin) {
                    Some(Origin::Protocol(parse_body)) => kind_of(split_text(parse_body).ok()?.0, 1),
                    _ => Kind::Other,
                }
            }
            _ => Kind::Other,
        };
        if kind == Kind::Rollback {
            return None;
        }
        write_error(&error, "ERROR", to_client);
        self.status = b'E';
        if kind == Kind::Commit {
            self.opening = None;
            self.status = b'I';
        }
        match frame.tag {
            b'Q' | b'F' => server_message::write_ready_for_query(to_client, self.status),
            _ => self.is_skipping = true,
        }
        Some(Taken::Done)
    }
}

/// What takes back the change of a name by a message that was not answered.
pub(super) fn undo_of(owed: Owed) -> Option<Undo> {
    match owed {
        Owed::Parse { undo, .. } | Owed::Local { undo, .. } | Owed::Query { undo, .. } | Owed::Converted { undo } => {
            Some(undo)
        }
        _ => None,
    }
}
