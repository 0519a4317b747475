//! What is kept of a session whose primary may be replaced: the messages that are not answered yet and the answers that
//! nobody may see yet, so that a lost connection is no end.
//!
//! A write outside a transaction, and a COMMIT, is asked for its transaction id in the same write, before it is committed:
//! when the answer is lost, the next primary is asked what became of that id. Its answer is kept back until it is whole.
//!
//! Must not know: who leads, what the next primary says.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};

use super::facts::{Facts, NameUse, NamedUse};
use super::names::{Known, Name};
use super::opening::end_tag;
use super::owed::{Owed, Quiet, Undo};
use super::replay::{Record, Replayed, Replaying};
use super::statements::{self, Origin, Statement};
use super::{Host, Machine, Pumped, ServerSide, Taken, split_text};
use crate::error::ClientError;
use crate::session::Ensured;
use crate::wire::WireError;
use crate::wire::client_message::{self, Target};
use crate::wire::frame::Frame;
use crate::wire::server_message;

/// How much is kept of messages, or of answers, for one session; what is longer is not done over.
pub(super) const KEPT_BYTES_MAX: usize = 256 << 10;

/// What is kept for the next time.
const KEPT_BYTES_USUAL: usize = 4 << 10;

/// The statement that asks for the id, on servers.
const XID_STATEMENT: u64 = u64::MAX;
const XID_SQL: &str = "SELECT pg_catalog.pg_current_xact_id_if_assigned()";
const XID_PORTAL: &str = "os_x";

/// A transaction that is acknowledged behind everything that was committed before.
const BARRIER_SQL: &str = "BEGIN READ WRITE; SELECT pg_catalog.pg_logical_emit_message(true, 'ostrakon', ''); COMMIT";

/// What a statement is, as far as it matters when it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It leaves nothing but in its session, which has it from its own settings.
    Setting,
    /// It may only read: that is still to be proved.
    Query,
    /// It writes, in a transaction of its own if there is none.
    Write,
    /// COMMIT and nothing else.
    Commit,
    /// ROLLBACK and nothing else.
    Rollback,
    /// BEGIN.
    Begin,
    /// It cannot end a transaction block.
    Other,
    /// It may end a transaction block and more.
    Unknown,
}

impl Kind {
    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// What is known of the id of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Xid {
    /// Nobody asked.
    #[default]
    NotAsked,
    /// The server has not said.
    Asked,
    /// Said; `None`: it has not written anything.
    Known(Option<u64>),
}

/// A client's messages up to the one that ends with ReadyForQuery.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// How many bytes its messages have.
    pub(super) bytes: usize,
    /// Its last message has come.
    pub(super) is_whole: bool,
    /// What it does at most: a bit for each [`Kind`].
    kinds: u16,
    /// It does more than close names.
    pub(super) asks: bool,
    pub(super) xid: Xid,
    /// It may commit a block so many times: one id tells of one.
    pub(super) commits: u32,
    /// Some of its answer has gone to the client.
    pub(super) is_told: bool,
    /// The server has said that it failed.
    pub(super) has_failed: bool,
    /// What takes back the changes of names by messages that are answered.
    pub(super) done: Vec<Undo>,
}

impl Batch {
    fn is_held(&self) -> bool {
        self.xid != Xid::NotAsked && !self.is_told
    }

    /// What came before it belongs to it.
    fn join(&mut self, before: Self) {
        self.bytes += before.bytes;
        self.kinds |= before.kinds;
        self.asks |= before.asks;
        self.commits += before.commits;
        self.is_told |= before.is_told;
        self.has_failed |= before.has_failed;
        let own = std::mem::replace(&mut self.done, before.done);
        self.done.extend(own);
    }

    /// It does nothing but these.
    pub(super) fn is_only(&self, kinds: &[Kind]) -> bool {
        let allowed = kinds.iter().fold(0, |bits, kind| bits | kind.bit());
        self.kinds & !allowed == 0
    }

    /// One of these is in it.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.kinds & kind.bit() != 0
    }
}

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// The connection is one that may be lost without an end of the session.
    pub(super) is_on: bool,
    /// Messages of batches under way, one behind the other.
    pub(super) kept: BytesMut,
    /// They are not all there.
    pub(super) is_cut: bool,
    pub(super) whole: VecDeque<Batch>,
    /// The batch whose last message has not come.
    pub(super) open: Option<Batch>,
    /// Answers that the client has not been given; those of earlier batches come first.
    pub(super) back: BytesMut,
    /// So many bytes of them are whole answers.
    pub(super) settled: usize,
    /// Something may have been written in the open transaction.
    pub(super) wrote: bool,
    /// A commit was acknowledged before standbys had it.
    is_barrier_due: bool,
    /// So many barriers are under way; nothing is told before they are passed.
    pub(super) barriers: usize,
    /// A transaction was lost of which the client has not been told, and what it is to be told.
    pub(super) lost: Option<Box<ClientError>>,
    /// How many batches were answered.
    pub(super) answered: u64,
    /// The transaction under way, where it is to be run again.
    pub(super) record: Option<Box<Record>>,
    /// A transaction that is being run again.
    pub(super) replaying: Option<Box<Replaying>>,
}

/// A guard in a box, which is made when something of it changes: sessions at rest without one have no use for it.
#[derive(Default)]
pub(super) struct Guarded(Option<Box<Guard>>);

static NOTHING: LazyLock<Guard> = LazyLock::new(Guard::default);

impl Guarded {
    /// All that was kept; nothing is left.
    pub(super) fn take(&mut self) -> Guard {
        self.0.take().map(|guard| *guard).unwrap_or_default()
    }
}

impl Deref for Guarded {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut Guard {
        self.0.get_or_insert_default()
    }
}

impl Guard {
    /// The batch whose answer comes next.
    pub(super) fn front(&self) -> Option<&Batch> {
        self.whole.front().or(self.open.as_ref())
    }

    fn front_mut(&mut self) -> Option<&mut Batch> {
        self.whole.front_mut().or(self.open.as_mut())
    }

    /// A message was sent to the server.
    pub(super) fn keep(&mut self, message: u8, bytes: &[u8]) {
        if matches!(message, b'd' | b'c' | b'f') {
            // They belong to the batch that copies; what comes behind its end, to none.
            if self.front().is_some() {
                self.is_cut = true;
                self.kept.clear();
            }
            return;
        }
        self.is_cut |= self.kept.len() + bytes.len() > KEPT_BYTES_MAX;
        if self.is_cut {
            self.kept.clear();
        } else {
            self.kept.extend_from_slice(bytes);
        }
        let mut batch = self.open.take().unwrap_or_default();
        let is_mixed = message == b'Q' && batch.bytes > 0;
        batch.bytes += bytes.len();
        batch.asks |= !matches!(message, b'C' | b'S' | b'H');
        batch.is_whole = matches!(message, b'Q' | b'F' | b'S');
        if message == b'F' {
            batch.kinds |= Kind::Unknown.bit();
        }
        // Of a pipeline with a query in it, an error would move the end.
        if (is_mixed || message == b'F')
            && let Some(record) = &mut self.record
        {
            record.close();
        }
        if batch.is_whole { self.whole.push_back(batch) } else { self.open = Some(batch) }
    }

    /// A statement of this kind begins a transaction, before anything else is done or said.
    pub(super) fn begins_with(&self, kind: Kind) -> bool {
        let is_first = self.open.as_ref().is_none_or(|batch| batch.kinds == 0 && !batch.is_told);
        kind == Kind::Begin && is_first && self.whole.is_empty()
    }

    /// A statement goes to the server. `writes`: a SELECT may call what writes.
    fn note(&mut self, kind: Kind, may_write: bool) {
        let batch = self.open.get_or_insert_default();
        batch.kinds |= kind.bit();
        batch.commits += u32::from(matches!(kind, Kind::Commit | Kind::Unknown));
        self.wrote |= may_write || !matches!(kind, Kind::Setting | Kind::Query | Kind::Begin | Kind::Commit);
    }

    /// The answer of the batch in front is whole.
    pub(super) fn pop(&mut self, status: u8) {
        let Some(batch) = self.whole.pop_front() else { return };
        self.answered += 1;
        let messages = (!self.is_cut).then(|| self.kept.split_to(batch.bytes.min(self.kept.len())));
        if let Some(record) = &mut self.record {
            record.answered(batch, messages.as_deref(), status);
        }
        if self.front().is_none() {
            self.is_cut = false;
            self.kept.clear();
            if self.kept.capacity() > KEPT_BYTES_USUAL {
                self.kept = BytesMut::new();
            }
            self.wrote &= status != b'I';
        }
    }

    /// The end of the batch in front is skipped behind an error: what follows belongs to it.
    pub(super) fn skip_end(&mut self) {
        let Some(mut front) = self.whole.pop_front() else { return };
        front.has_failed = true;
        if let Some(next) = self.whole.front_mut() {
            next.join(front);
        } else {
            front.is_whole = false;
            match &mut self.open {
                Some(open) => open.join(front),
                None => self.open = Some(front),
            }
        }
    }

    /// The answer in front is not to be told yet.
    fn holds(&self) -> bool {
        self.front().is_some_and(Batch::is_held)
    }

    /// Gives the client what it may be told.
    pub(super) fn release(&mut self, to_client: &mut BytesMut) -> Option<Replayed> {
        let replayed = if self.replaying.is_some() { self.compare(to_client) } else { None };
        let is_unsafe = self.is_barrier_due && self.front().is_some();
        if self.barriers > 0 || is_unsafe {
            return replayed;
        }
        let overflows = self.back.len() - self.settled > KEPT_BYTES_MAX;
        let bytes = if self.holds() && !overflows { self.settled } else { self.back.len() };
        if bytes > self.settled {
            self.note_told();
        }
        self.settled = 0;
        if let Some(record) = &mut self.record {
            record.hear(self.back.get(..bytes).unwrap_or_default());
        }
        if bytes == self.back.len() && to_client.is_empty() {
            std::mem::swap(&mut self.back, to_client);
        } else {
            to_client.extend_from_slice(&self.back.split_to(bytes));
        }
        replayed
    }

    /// The client has heard a part of the answer in front.
    pub(super) fn note_told(&mut self) {
        if let Some(batch) = self.front_mut() {
            batch.is_told = true;
        }
    }
}

/// What a text of one statement is.
pub(super) fn kind_of(text: &[u8], statements: usize) -> Kind {
    if statements > 1 {
        return Kind::Unknown;
    }
    let text = text.trim_ascii_start();
    let end = text.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end).unwrap_or_default();
    let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
    match word.first().map(u8::to_ascii_lowercase) {
        Some(b's') if is("select") => Kind::Query,
        Some(b'v') if is("values") => Kind::Query,
        Some(b's') if is("show") || is("set") => Kind::Setting,
        Some(b'r') if is("reset") => Kind::Setting,
        Some(b'i' | b'u' | b'd' | b'w' | b'm')
            if ["insert", "update", "delete", "with", "merge"].iter().any(|word| is(word)) =>
        {
            Kind::Write
        }
        Some(b'b') if is("begin") => Kind::Begin,
        Some(b's') if is("start") => Kind::Begin,
        Some(b'c' | b'e' | b'r' | b'a') if is("commit") || is("end") || is("rollback") || is("abort") => {
            match end_tag(text, false) {
                Some("COMMIT") => Kind::Commit,
                Some(_) => Kind::Rollback,
                None if is("rollback") && !mentions_chain(rest) => Kind::Other,
                None => Kind::Unknown,
            }
        }
        // PREPARE TRANSACTION; a comment may hide anything.
        Some(b'p') if is("prepare") => Kind::Unknown,
        None => Kind::Unknown,
        Some(_) => Kind::Other,
    }
}

/// ROLLBACK AND CHAIN, ROLLBACK PREPARED.
fn mentions_chain(rest: &[u8]) -> bool {
    let rest = rest.to_ascii_lowercase();
    memchr::memmem::find(&rest, b"chain").is_some() || memchr::memmem::find(&rest, b"prepared").is_some()
}

/// The text of a statement.
fn text_of(statement: &Statement) -> Option<&[u8]> {
    match &statement.origin {
        Origin::Protocol(parse_body) => split_text(parse_body).ok().map(|(text, _)| text),
        Origin::Sql(_) => None,
    }
}

impl Machine {
    /// The connection is one that may be lost without an end of the session.
    pub fn guard(&mut self, is_on: bool) {
        let is_on = is_on && !self.is_transparent();
        if is_on != self.guard.is_on {
            self.guard.is_on = is_on;
        }
    }

    /// A commit is under way: a cancel request would have it acknowledged before standbys have it.
    pub fn is_committing(&self) -> bool {
        let is_past = |batch: &Batch| matches!(batch.xid, Xid::Known(Some(_))) || batch.has(Kind::Commit);
        self.guard.is_on && (self.guard.barriers > 0 || self.guard.front().is_some_and(is_past))
    }

    /// How many of the client's batches were answered so far.
    pub fn answered(&self) -> u64 {
        self.guard.answered
    }

    /// No batch before the present one is under way, so the transaction's status is known.
    fn is_alone(&self) -> bool {
        self.guard.whole.is_empty()
    }

    /// A simple query is about to be sent. True: it was sent in another form, which tells its transaction id.
    pub(super) fn guard_query(
        &mut self,
        text: &[u8],
        facts: &Facts,
        is_changed: bool,
        before: &mut Option<Known>,
        server: &mut ServerSide<'_>,
    ) -> bool {
        if !self.guard.is_on {
            return false;
        }
        let kind = kind_of(text, facts.statements);
        let calls = kind == Kind::Query && memchr::memchr(b'(', text).is_some();
        if self.guard.record.is_some() {
            let changes = |used: &NamedUse| used.usage != NameUse::Execute;
            self.record_statement(kind, facts.deallocates_all || facts.names.iter().any(changes));
        }
        self.guard.note(kind, calls);
        let may_be_outside = !self.is_alone() || self.status == b'I';
        let may_be_inside = !self.is_alone() || self.status == b'T';
        match kind {
            // An error before it would skip it, but not a Sync of the proxy's own.
            _ if self.is_unsynced => false,
            Kind::Write if may_be_outside && !is_changed && !facts.copies_in => {
                self.ensure_xid(server);
                self.send_converted(text, before.take(), server);
                self.ask_xid("", server);
                client_message::encode_sync(server.output);
                *server.pending_ready += 1;
                self.owed.push_back(Owed::Sync { forward: true });
                true
            }
            Kind::Commit if may_be_inside && self.guard.wrote => {
                self.ensure_xid(server);
                put_xid_question("", server.output);
                client_message::encode_sync(server.output);
                *server.pending_ready += 1;
                self.owed.push_back(Owed::Quiet(Quiet::Xid));
                self.note_asked();
                false
            }
            _ => false,
        }
    }

    /// An Execute is about to be sent.
    pub(super) fn guard_execute(&mut self, statement: Option<&Statement>, server: &mut ServerSide<'_>) {
        if !self.guard.is_on {
            return;
        }
        let text = statement.and_then(text_of);
        let kind = text.map_or(Kind::Other, |text| kind_of(text, 1));
        let calls = kind == Kind::Query && text.is_some_and(|text| memchr::memchr(b'(', text).is_some());
        if self.guard.record.is_some() {
            let changes = |statement: &Statement| {
                let names = &statement.names;
                statement.facts.deallocates_all || !(names.prepares.is_empty() && names.deallocates.is_empty())
            };
            self.record_statement(kind, statement.is_some_and(changes));
        }
        self.guard.note(kind, calls);
        let may_be_inside = !self.is_alone() || self.status == b'T' || self.guard.wrote;
        if kind == Kind::Commit && may_be_inside && self.guard.wrote {
            self.ensure_xid(server);
            self.ask_xid(XID_PORTAL, server);
        }
    }

    /// A Sync is about to be sent: it commits what was done outside a transaction.
    pub(super) fn guard_sync(&mut self, was_skipping: bool, server: &mut ServerSide<'_>) {
        let Some(batch) = self.guard.open.as_ref().filter(|_| self.guard.is_on && !was_skipping) else { return };
        let may_be_outside = !self.is_alone() || self.status == b'I';
        if may_be_outside && batch.has(Kind::Write) && batch.xid == Xid::NotAsked && batch.commits == 0 {
            self.ensure_xid(server);
            self.ask_xid("", server);
        }
    }

    /// A write by a simple query, as the messages that tell its id before it is committed.
    fn send_converted(&mut self, text: &[u8], before: Option<Known>, server: &mut ServerSide<'_>) {
        statements::write_parse("", &[text, b"\0\0\0"].concat(), server.output);
        statements::write_bind(b"", "", &[0; 6], server.output);
        client_message::encode_describe(server.output, &Target::Portal(String::new()));
        client_message::encode_execute(server.output, "", 0);
        let undo = Undo::Restore { name: Name::UNNAMED, before };
        self.owed.push_back(Owed::Converted { undo });
    }

    /// The statement that asks is there.
    fn ensure_xid(&mut self, server: &mut ServerSide<'_>) {
        if let Ensured::NeedsParse { evicted } = server.prepared.ensure(XID_STATEMENT) {
            self.make_room(XID_STATEMENT, evicted, server);
            let body = [XID_SQL.as_bytes(), b"\0\0\0"].concat();
            statements::write_parse(&statements::server_name(XID_STATEMENT), &body, server.output);
            self.owed.push_back(Owed::Parse { forward: false, id: XID_STATEMENT, undo: Undo::Nothing });
        }
    }

    /// Asks in the middle of a pipeline; the answer comes before what follows is begun.
    fn ask_xid(&mut self, portal: &str, server: &mut ServerSide<'_>) {
        put_xid_question(portal, server.output);
        client_message::encode_flush(server.output);
        self.owed.push_back(Owed::Xid);
        self.note_asked();
    }

    fn note_asked(&mut self) {
        let batch = self.guard.open.get_or_insert_default();
        batch.xid = Xid::Asked;
    }

    /// The row that tells the id.
    pub(super) fn take_xid(&mut self, body: &[u8]) -> Result<(), WireError> {
        let values = server_message::read_data_row(&Bytes::copy_from_slice(body))?;
        let written = values.into_iter().next().flatten();
        let xid = written.map(|text| std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()));
        if self.guard.is_on
            && let Some(batch) = self.guard.front_mut()
        {
            // What is no number stays a question without an answer.
            batch.xid = match xid {
                None => Xid::Known(None),
                Some(Some(xid)) => Xid::Known(Some(xid)),
                Some(None) => Xid::Asked,
            };
        }
        Ok(())
    }

    /// The batch in front has failed.
    pub(super) fn note_failed(&mut self) {
        if self.guard.is_on
            && let Some(batch) = self.guard.front_mut()
        {
            batch.has_failed = true;
        }
    }

    /// What takes back a change of names that the server has answered.
    pub(super) fn note_done(&mut self, undo: Undo) {
        if self.guard.is_on
            && !matches!(undo, Undo::Nothing)
            && let Some(batch) = self.guard.front_mut()
        {
            batch.done.push(undo);
        }
    }

    /// A notice: that a commit was acknowledged before its standbys have it, whatever the language. True: it is not for
    /// the client, which will be told when they do.
    pub(super) fn is_unsafe_commit(&mut self, body: &[u8]) -> bool {
        let is_cancel = self.guard.is_on && memchr::memmem::find(body, b"\0RSyncRepWaitForLSN\0").is_some();
        if is_cancel {
            self.guard.is_barrier_due = true;
        }
        is_cancel
    }

    /// The answer of the batch in front is whole; a commit that standbys may not have is waited for.
    pub(super) fn guard_ready(&mut self, status: u8, is_clients: bool, server: &mut ServerSide<'_>) {
        if !self.guard.is_on {
            return;
        }
        if is_clients {
            self.guard.pop(status);
        }
        // A block that was begun behind it in the same text must not be committed by the barrier.
        if status == b'I' && std::mem::take(&mut self.guard.is_barrier_due) {
            server.query(BARRIER_SQL);
            self.owed.push_back(Owed::Quiet(Quiet::Barrier));
            self.guard.barriers += 1;
        }
    }

    /// The answer to a barrier has come.
    pub(super) fn barrier_passed(&mut self) {
        self.guard.barriers = self.guard.barriers.saturating_sub(1);
    }

    /// Says something before the server has anything to say.
    pub(super) fn say_guarded(&mut self, message: u8, undo: Undo) {
        server_message::write_empty(&mut self.guard.back, message);
        if !matches!(undo, Undo::Nothing) {
            self.guard.open.get_or_insert_default().done.push(undo);
        }
    }

    /// Everything up to here may be told.
    pub(super) fn settle_up_to(&mut self, length: usize) {
        if self.guard.is_on {
            self.guard.settled = length;
        }
    }

    /// Takes one message of the client.
    ///
    /// # Errors
    /// It is malformed: the client must be sent away.
    pub fn client(
        &mut self,
        frame: Frame,
        server: Option<&mut ServerSide<'_>>,
        host: &dyn Host,
        to_client: &mut BytesMut,
    ) -> Result<Taken, WireError> {
        if frame.tag != b'X' && server.is_none() && self.begun.is_some() {
            return Ok(self.without_server(frame, host, to_client));
        }
        if server.is_none() && frame.tag != b'X' && self.is_replaying() {
            return Ok(Taken::NeedsServer(frame));
        }
        if !self.guard.is_on || server.is_none() {
            return self.take(frame, server, host, to_client);
        }
        let (message, bytes) = (frame.tag, frame.bytes.clone());
        let taken = self.take(frame, server, host, to_client)?;
        if matches!(taken, Taken::Done) {
            self.guard.keep(message, &bytes);
            if self.guard.record.is_some() || self.is_replaying() {
                self.note_given(message);
            }
        }
        Ok(taken)
    }

    /// Takes what was read, keeping back what is not to be told yet.
    pub fn pump(
        &mut self,
        input: &mut BytesMut,
        server: &mut ServerSide<'_>,
        host: &dyn Host,
        to_client: &mut BytesMut,
    ) -> Result<Pumped, WireError> {
        if !self.guard.is_on {
            return self.relay(input, server, host, to_client);
        }
        let mut back = std::mem::take(&mut self.guard.back);
        let pumped = self.relay(input, server, host, &mut back);
        self.guard.back = back;
        let replayed = self.guard.release(to_client);
        pumped.map(|pumped| Pumped { replayed, ..pumped })
    }
}

fn put_xid_question(portal: &str, output: &mut BytesMut) {
    statements::write_bind(portal.as_bytes(), &statements::server_name(XID_STATEMENT), &[0; 6], output);
    client_message::encode_execute(output, portal, 0);
}
