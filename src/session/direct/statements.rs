//! Prepared statements: what they are, and the names that they have on server connections.
//!
//! A statement that the client named is called `os_<id>` on servers; equal texts prepared under equal
//! settings have equal ids, so that sessions share what a connection holds. The unnamed statement stays
//! unnamed. Must not know: which connection holds what, what
//! clients call them.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use super::facts::Facts;
use super::names::Told;
use super::owed::Names;
use crate::session::identity::Signal;
use crate::wire::client_message::{self, Target};

/// How a statement was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// By Parse: text, its NUL and the parameter types, as the message has them.
    Protocol(Bytes),
    /// By SQL's PREPARE: the text with the server's name in it.
    Sql(String),
}

/// A prepared statement: what does not depend on who holds it.
#[derive(Debug)]
pub struct Statement {
    pub(super) id: u64,
    /// It has no name, on the server neither.
    pub(super) is_unnamed: bool,
    pub(super) origin: Origin,
    pub(super) facts: Facts,
    /// Statements that its text executes by name.
    pub(super) executes: Vec<Arc<Statement>>,
    /// What running it does to names of prepared statements.
    pub(super) names: Names,
    /// What its text means for other sessions.
    pub(super) signals: Vec<Signal>,
    /// What a client was told of it last: most are told the same.
    told: Mutex<Option<Arc<Told>>>,
}

impl Statement {
    pub(super) fn new(id: u64, is_unnamed: bool, origin: Origin, facts: Facts) -> Self {
        Self {
            id,
            is_unnamed,
            origin,
            facts,
            executes: Vec::new(),
            names: Names::default(),
            signals: Vec::new(),
            told: Mutex::new(None),
        }
    }

    /// What a client was told, kept once where many are told the same.
    pub(super) fn share_told(&self, told: Told) -> Arc<Told> {
        let mut last = self.told.lock();
        match &*last {
            Some(known) if **known == told => Arc::clone(known),
            _ => Arc::clone(last.insert(Arc::new(told))),
        }
    }

    pub(super) fn text_bytes(&self) -> usize {
        match &self.origin {
            Origin::Protocol(parse_body) => parse_body.len(),
            Origin::Sql(text) => text.len(),
        }
    }

    /// Its name on servers.
    pub(super) fn server_name(&self) -> String {
        if self.is_unnamed { String::new() } else { server_name(self.id) }
    }

    /// Appends the Parse that makes it.
    pub(super) fn write_parse(&self, parse_body: &[u8], output: &mut BytesMut) {
        write_parse(&self.server_name(), parse_body, output);
    }
}

/// The name on servers of the statement with that id.
pub(super) fn server_name(id: u64) -> String {
    format!("os_{id}")
}

/// Appends a Parse with this name and the rest of another one.
pub(super) fn write_parse(name: &str, rest: &[u8], output: &mut BytesMut) {
    put_message(output, b'P', &[name.as_bytes(), &[0], rest]);
}

/// Appends a Bind to this statement; `rest` is what follows the statement's name.
pub(super) fn write_bind(portal: &[u8], name: &str, rest: &[u8], output: &mut BytesMut) {
    put_message(output, b'B', &[portal, &[0], name.as_bytes(), &[0], rest]);
}

/// Appends the messages that run SQL's PREPARE inside a pipeline; returns how many. They have names of their
/// own, as the unnamed statement and portal may be the client's.
pub(super) fn write_prepare(sql: &str, output: &mut BytesMut) -> usize {
    let name = "os_prepare";
    write_parse(name, &[sql.as_bytes(), &[0, 0, 0]].concat(), output);
    // No parameter formats, no parameters, no result formats.
    write_bind(name.as_bytes(), name, &[0; 6], output);
    // No limit of rows.
    put_message(output, b'E', &[name.as_bytes(), &[0; 5]]);
    client_message::encode_close(output, &Target::Portal(name.to_owned()));
    client_message::encode_close(output, &Target::Statement(name.to_owned()));
    5
}

/// Appends Close of a server's statement.
pub(super) fn write_close(id: u64, output: &mut BytesMut) {
    client_message::encode_close(output, &Target::Statement(server_name(id)));
}

/// Room for the messages of most statements.
const ROOM_BYTES: usize = 512;

pub(super) fn put_message(output: &mut BytesMut, tag: u8, parts: &[&[u8]]) {
    let bytes = 4 + parts.iter().map(|part| part.len()).sum::<usize>();
    // The first of several as a rule: none of them has to make room for itself then.
    output.reserve(if output.capacity() == 0 { (bytes + 1).max(ROOM_BYTES) } else { bytes + 1 });
    output.put_u8(tag);
    // A frame that was received within the limit grows by a name of a few bytes.
    output.put_u32(u32::try_from(bytes).unwrap_or(u32::MAX));
    for part in parts {
        output.put_slice(part);
    }
}
