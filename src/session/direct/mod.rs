//! The session of a client whose cluster has one shard: the server decides everything, the proxy keeps
//! count of what is owed to whom, and of what the session must find on whatever connection it gets next.
//!
//! Pure: frames in, frames out. Its driver, in the executor, reads and writes sockets, takes connections and
//! gives them back. Must not know: sockets, pools, time.
//!
//! # Invariants
//! Every message that is sent to the server is matched by one entry of `owed`; the session lets go of its
//! connection only when nothing is owed, no transaction is open and nothing of it is left there.

mod client;
mod copy;
pub mod facts;
mod guard;
mod inspect;
mod lost;
mod names;
mod opening;
mod owed;
mod plain;
mod replay;
mod server;
mod shared;
mod statements;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::identity::{Identified, SignalKind};
use super::{Parameters, PoolMode, PreparedSet, Settings};
use crate::error::ClientError;
use crate::wire::frame::Frame;
use crate::wire::{WireError, client_message, server_message};
use copy::{CopyIn, CopyNames};
use facts::Facts;
use guard::Guarded;
use inspect::Inspection;
use names::{Name, Statements};
use opening::{Begun, Opening};
use owed::{Owed, Quiet};
use statements::Origin;

pub use guard::Xid;
pub use lost::{Loss, Settling, lost_transaction};
pub use opening::sets_modes;
pub use replay::{Replayed, answered_otherwise};
pub use shared::SharedStatements;
pub use statements::Statement;

/// Room for what most statements owe, and the most that is kept of it.
const OWED_USUAL: usize = 8;
const OWED_MAX: usize = 64;
/// Rooms that a thread keeps: as many as connections are in use at once.
const ROOMS_MAX: usize = 64;

thread_local! {
    /// Rooms of sessions that are at rest, for those that are not.
    static ROOMS: RefCell<Vec<VecDeque<Owed>>> = const { RefCell::new(Vec::new()) };
}

/// What is known of the server connection that a session holds; it belongs to the connection and stays
/// with it.
pub struct ServerSide<'a> {
    /// Where messages to the server are written.
    pub output: &'a mut BytesMut,
    /// ReadyForQuery messages still to come.
    pub pending_ready: &'a mut usize,
    /// Transaction status of the last ReadyForQuery.
    pub status: &'a mut u8,
    /// Statements that the server holds for it.
    pub prepared: &'a mut PreparedSet,
    /// Process id of the session that used it last.
    pub last_session: &'a mut u32,
    /// Id of its unnamed statement.
    pub unnamed: &'a mut u64,
    /// Key of the settings in force.
    pub settings_key: &'a mut u64,
    /// Version of the schema that its statements were planned with.
    pub schema_version: &'a mut u64,
    /// ParameterStatus values as last reported.
    pub parameters: &'a mut Parameters,
    /// It must not be used again.
    pub is_poisoned: &'a mut bool,
}

impl ServerSide<'_> {
    fn query(&mut self, sql: &str) {
        client_message::encode_query(self.output, sql);
        *self.pending_ready += 1;
        // A simple query throws the unnamed statement away.
        *self.unnamed = 0;
    }
}

/// What a session asks of the process it lives in.
pub trait Host {
    /// The process id of the session.
    fn own_pid(&self) -> u32;
    /// An id that nothing else has.
    fn unique_id(&self) -> u64;
    /// The statement of a text with its parameter types, prepared under these settings: equal ids always mean
    /// equal statements. `facts` is what the text says.
    fn statement(&self, parse_body: Bytes, settings_key: u64, facts: Facts) -> Arc<Statement>;
    /// Grows with every change of the schema.
    fn schema_version(&self) -> u64;
    /// The schema has been changed by this session.
    fn schema_changed(&self);
    /// A function of that schema, if it is said, and name may leave something in the session that calls it.
    fn may_leave(&self, schema: Option<&str>, function: &str) -> bool;
    /// Settings of applications that functions set.
    fn function_settings(&self) -> Vec<String>;
    /// The text with the session's own identity in place of the connection's, when it asks for one.
    fn identify(&self, text: &str) -> Option<Identified>;
    /// The role of another session of the proxy, by the process id that its client knows.
    fn role_of_session(&self, pid: u32) -> Option<String>;
    /// The session's own role has that name.
    fn is_own_role(&self, role: &str) -> bool;
    /// The process id that clients know for the session which last used a server process.
    fn session_of(&self, server_pid: u32) -> u32;
    /// What is acknowledged has to be on standbys.
    fn keeps_commits(&self) -> bool;
}

/// What became of a client's message.
#[derive(Debug)]
pub enum Taken {
    /// It is dealt with.
    Done,
    /// It needs a server connection: to be given again once there is one.
    NeedsServer(Frame),
    /// It has to wait until [`Machine::takes_client`]: to be given again then.
    Later(Frame),
    /// The client says good-bye.
    Goodbye,
}

/// What came of reading from the server.
#[derive(Debug, Default)]
pub struct Pumped {
    /// The server refused the session's settings: its error, as FATAL.
    pub refused: Option<Bytes>,
    /// The server has sent a FATAL error, which the client was given.
    pub is_fatal: bool,
    /// The server has said good-bye because it stops; the client was not told.
    pub good_bye: Option<Bytes>,
    /// A transaction was run again.
    pub replayed: Option<Replayed>,
}

/// Effects of the transaction under way that must be looked into before the connection is let go.
#[derive(Debug, Default)]
struct Effects {
    sets: Vec<String>,
    sets_any: bool,
    may_pin: bool,
    may_unpin: bool,
    changes_schema: bool,
    /// A function was called that may have left anything.
    calls_unknown: bool,
}

impl Effects {
    fn note(&mut self, facts: &facts::Facts, host: &dyn Host) {
        if facts.calls_unknown && !self.calls_unknown {
            self.calls_unknown = true;
            self.sets.extend(host.function_settings());
        }
        self.sets.extend(facts.sets.iter().cloned());
        self.sets_any |= facts.sets_any;
        self.may_pin |= facts.may_pin;
        self.may_unpin |= facts.may_unpin;
        self.changes_schema |= facts.changes_schema && !facts.may_pin;
    }
}

/// A statement as it was bound to a portal, by the name that it had.
#[derive(Debug)]
struct Bound {
    name: Name,
    statement: Arc<Statement>,
}

/// Portals that are open, by name. The unnamed one has a place of its own: most have no other.
#[derive(Debug, Default)]
struct Portals {
    unnamed: Option<Bound>,
    named: BTreeMap<Bytes, Bound>,
}

impl Portals {
    fn get(&self, portal: &[u8]) -> Option<&Bound> {
        if portal.is_empty() { self.unnamed.as_ref() } else { self.named.get(portal) }
    }

    fn insert(&mut self, portal: &[u8], bound: Bound) {
        if portal.is_empty() {
            self.unnamed = Some(bound);
        } else {
            self.named.insert(Bytes::copy_from_slice(portal), bound);
        }
    }

    fn clear(&mut self) {
        self.unnamed = None;
        self.named.clear();
    }
}

/// The state of a session. There may be tens of thousands at rest: what few sessions need, and none at rest, is in
/// boxes.
pub struct Machine {
    mode: PoolMode,
    /// Settings of the session: what every connection gets before it is used.
    pub settings: Settings,
    statements: Statements,
    portals: Portals,
    owed: VecDeque<Owed>,
    is_attached: bool,
    /// Transaction status as the client was last told.
    status: u8,
    /// Extended messages were taken since the last Sync.
    is_unsynced: bool,
    /// After an error in a pipeline: everything up to Sync is skipped.
    is_skipping: bool,
    copy: CopyIn,
    copy_names: Option<Box<CopyNames>>,
    /// Bytes of a long message of the server that are still to be forwarded.
    passing_bytes: usize,
    /// Something of the session lives on the connection beyond transactions.
    is_pinned: bool,
    /// More than what is known of may be set on the connection.
    is_unsure: bool,
    /// The client's next message must wait for an answer.
    is_waiting: bool,
    /// Names of statements that messages under way change, each with the pipeline that did it last.
    open_names: BTreeMap<Name, u64>,
    /// The same of the unnamed statement.
    is_unnamed_open: Option<u64>,
    /// Number of the client's pipeline: each Sync begins another one.
    pipeline: u64,
    /// The client's next message must wait until everything under way is answered.
    is_held: bool,
    /// ReadyForQuery waits until settings that were reset have the session's own values again.
    is_ready_held: bool,
    /// The settings are others than when the connection was taken.
    has_new_settings: bool,
    /// `lastval()` on this connection would tell of another session's work.
    has_foreign_sequences: bool,
    effects: Effects,
    inspection: Option<Box<Inspection>>,
    /// The server's answer to whether the role may signal a session.
    permission: Option<Box<str>>,
    /// Why a statement that SQL's EXECUTE needs could not be prepared again: the answer to the EXECUTE.
    failed_prepare: Option<Box<Bytes>>,
    /// Signals to other sessions that are to be sent now.
    signals: Vec<(SignalKind, u32)>,
    /// What is kept for the case that the connection is lost.
    guard: Guarded,
    /// A transaction that no server knows of yet.
    opening: Option<Box<Opening>>,
    /// A pipeline that may be answered without one.
    begun: Option<Box<Begun>>,
    /// Values of the parameters that the server reports, as the client was told.
    reported: Parameters,
}

impl Machine {
    /// A session that has not said anything yet.
    pub fn new(mode: PoolMode, settings: Settings) -> Self {
        Self {
            mode,
            settings,
            statements: Statements::default(),
            portals: Portals::default(),
            owed: VecDeque::new(),
            is_attached: false,
            status: b'I',
            is_unsynced: false,
            is_skipping: false,
            copy: CopyIn::default(),
            copy_names: None,
            passing_bytes: 0,
            is_pinned: false,
            is_unsure: false,
            is_waiting: false,
            open_names: BTreeMap::new(),
            is_unnamed_open: None,
            pipeline: 0,
            is_held: false,
            is_ready_held: false,
            has_new_settings: false,
            has_foreign_sequences: false,
            effects: Effects::default(),
            inspection: None,
            permission: None,
            failed_prepare: None,
            signals: Vec::new(),
            opening: None,
            guard: Guarded::default(),
            begun: None,
            reported: Parameters::default(),
        }
    }

    /// Messages pass unchanged: the connection is the client's own for as long as it stays.
    fn is_transparent(&self) -> bool {
        self.mode == PoolMode::Session
    }

    /// The client's next message may be given now.
    pub fn takes_client(&self) -> bool {
        !self.is_waiting && !self.is_held
    }

    /// A connection is held.
    pub fn is_attached(&self) -> bool {
        self.is_attached
    }

    /// Transaction status that the client was last told.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// The server owes answers to messages of the client's.
    pub fn owes_client(&self) -> bool {
        self.passing_bytes > 0 || !self.owed.iter().all(|owed| matches!(owed, Owed::Quiet(_)))
    }

    /// A statement of the proxy's own is under way: a cancel request would hit it instead of the client's.
    pub fn is_speaking(&self) -> bool {
        self.owed.iter().any(|owed| matches!(owed, Owed::Quiet(_)))
    }

    /// The server waits for the client: without it, nothing under way comes to an end.
    pub fn needs_client(&self) -> bool {
        self.is_unsynced || self.copy.is_reading()
    }

    /// Nothing is owed by the server.
    pub fn is_quiet(&self) -> bool {
        self.owed.is_empty() && self.passing_bytes == 0
    }

    /// Extended messages wait for a Sync.
    pub fn is_unsynced(&self) -> bool {
        self.is_unsynced
    }

    /// The open transaction may have changed the schema.
    pub fn changes_schema(&self) -> bool {
        self.effects.changes_schema
    }

    /// In a transaction, and the client has the word.
    pub fn is_idle_in_transaction(&self) -> bool {
        (self.is_attached || self.opening.is_some()) && self.is_quiet() && self.status != b'I'
    }

    /// Portals are open that the client has named.
    pub fn has_portals(&self) -> bool {
        !self.portals.named.is_empty()
    }

    /// Nothing of the session is under way anywhere: it may be served in another way from here on.
    pub fn is_at_rest(&self) -> bool {
        !self.is_attached && self.owed.is_empty() && !self.is_skipping && self.begun.is_none()
    }

    /// The session's settings have changed on the connection that is held; told once.
    pub fn take_new_settings(&mut self) -> bool {
        std::mem::take(&mut self.has_new_settings)
    }

    /// The last message asked for signals to other sessions.
    pub fn has_signals(&self) -> bool {
        !self.signals.is_empty()
    }

    /// Signals to other sessions that the last message asked for.
    pub fn take_signals(&mut self) -> Vec<(SignalKind, u32)> {
        std::mem::take(&mut self.signals)
    }

    /// Name and Parse body of the statements that the client has prepared.
    pub fn prepared_texts(&self) -> Vec<(Bytes, Bytes)> {
        self.statements.texts()
    }

    /// The text of a prepared statement.
    pub fn prepared_text(&self, name: &[u8]) -> Option<String> {
        let known = self.statements.get(name)?;
        let Origin::Protocol(parse) = &known.statement.origin else { return None };
        let (text, _) = split_text(parse).ok()?;
        std::str::from_utf8(text).ok().map(str::to_owned)
    }

    /// Takes over a connection: gives it the session's settings if it has others.
    pub fn attach(&mut self, server: &mut ServerSide<'_>, host: &dyn Host, to_client: &mut BytesMut) {
        self.is_attached = true;
        take_room(&mut self.owed);
        let last_session = std::mem::replace(server.last_session, host.own_pid());
        self.has_foreign_sequences = last_session != host.own_pid();
        if self.is_transparent() {
            self.status = b'I';
            self.report_parameters(server, to_client);
            return;
        }
        let mut sql = String::new();
        let version = host.schema_version();
        let is_doubtful = server.prepared.is_doubtful();
        if *server.schema_version != version || is_doubtful {
            if !server.prepared.is_empty() || is_doubtful {
                // What was planned before a change of the schema may answer with other columns.
                sql.push_str("DEALLOCATE ALL;");
                server.prepared.clear();
            }
            *server.schema_version = version;
        }
        if *server.settings_key != self.settings.key() {
            sql.push_str(&self.settings.apply_sql());
            // Until the answer is known the connection belongs to no settings.
            *server.settings_key = u64::MAX;
            // A setting that is refused must not let the client's statement run without it.
            self.is_waiting = !self.settings.are_sure();
        }
        if sql.is_empty() {
            self.report_parameters(server, to_client);
        } else {
            server.query(&sql);
            self.owed.push_back(Owed::Quiet(Quiet::Settings));
        }
        self.begin_held_back(server);
    }

    /// Lets go of the connection; to be called when [`Machine::may_release`], or when it is lost.
    pub fn detach(&mut self) {
        self.is_attached = false;
        self.is_pinned = false;
        self.is_unsure = false;
        self.is_waiting = false;
        self.is_ready_held = false;
        self.all_answered();
        self.passing_bytes = 0;
        leave_room(&mut self.owed);
        self.portals.clear();
        self.effects = Effects::default();
    }

    /// Nothing of the session is left on the connection.
    pub fn may_release(&self) -> bool {
        self.is_attached
            && self.owed.is_empty()
            && self.status == b'I'
            && !self.is_unsynced
            && !self.is_pinned
            && !self.is_transparent()
            && self.passing_bytes == 0
    }

    /// The connection was the session's own for more than a transaction: it is reset before others use it.
    pub fn needs_reset(&self) -> bool {
        self.is_pinned || self.is_transparent()
    }

    /// Answers a message that cannot be served now, as the server would after an error.
    pub fn refuse(&mut self, frame: &Frame, error: &ClientError, to_client: &mut BytesMut) {
        write_error(error, "ERROR", to_client);
        let status = self.fail_held_back();
        match frame.tag {
            b'Q' | b'F' => server_message::write_ready_for_query(to_client, status),
            _ => self.is_skipping = true,
        }
    }

    /// Tells the client what the connection's parameters are, where they differ from what it was told.
    fn report_parameters(&mut self, server: &ServerSide<'_>, to_client: &mut BytesMut) {
        for (name, value) in self.reported.follow(server.parameters) {
            server_message::write_parameter_status(to_client, &name, &value);
        }
    }
}

/// Appends an error of the proxy's own.
fn write_error(error: &ClientError, severity: &str, output: &mut BytesMut) {
    let (detail, hint) = (error.detail.as_deref(), error.hint.as_deref());
    server_message::write_error(output, severity, error.sqlstate(), &error.message, detail, hint);
}

/// A message body up to its first NUL, and what follows.
/// Room for what is owed on a connection, if there is none.
fn take_room(owed: &mut VecDeque<Owed>) {
    if owed.capacity() == 0 {
        *owed = ROOMS.with_borrow_mut(Vec::pop).unwrap_or_else(|| VecDeque::with_capacity(OWED_USUAL));
    }
}

/// Nothing is owed any more; the room is for the next session.
fn leave_room(owed: &mut VecDeque<Owed>) {
    let mut room = std::mem::take(owed);
    room.clear();
    if (1..=OWED_MAX).contains(&room.capacity()) {
        ROOMS.with_borrow_mut(|rooms| {
            if rooms.len() < ROOMS_MAX {
                rooms.push(room);
            }
        });
    }
}

fn split_text(body: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let end = memchr::memchr(0, body).ok_or(WireError::Malformed)?;
    let (text, rest) = body.split_at_checked(end).ok_or(WireError::Malformed)?;
    Ok((text, rest.get(1..).unwrap_or_default()))
}
