//! Prepared statements of a session: the client's names, and the names they have on server connections.
//!
//! A statement that the client named is called `os_<id>` on servers; equal texts prepared under equal
//! settings have equal ids, so that sessions share what a connection holds. The unnamed statement stays
//! unnamed. Must not know: which connection holds what.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};

use super::facts::Facts;
use super::owed::Names;
use crate::session::identity::Signal;
use crate::wire::client_message::{self, Target};

/// Named statements that a session may hold.
pub const STATEMENTS_MAX: usize = 10_000;

/// How a statement was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// By Parse: text, its NUL and the parameter types, as the message has them.
    Protocol(Bytes),
    /// By SQL's PREPARE: the text with the server's name in it.
    Sql(String),
}

/// A prepared statement.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) id: u64,
    /// It has no name, on the server neither.
    pub(super) is_unnamed: bool,
    pub(super) origin: Origin,
    pub(super) facts: Arc<Facts>,
    /// Statements that its text executes by name.
    pub(super) executes: Vec<Arc<Statement>>,
    /// What running it does to names of prepared statements.
    pub(super) names: Names,
    /// What its text means for other sessions.
    pub(super) signals: Vec<Signal>,
    /// Signature of the columns that the client was told, and the schema's version then; 0: not told.
    columns: AtomicU64,
    columns_version: AtomicU64,
    /// Signature of the types of its parameters that the client was told; 0: not told.
    parameters: AtomicU64,
    has_changed: AtomicBool,
}

impl Statement {
    pub(super) fn new(id: u64, is_unnamed: bool, origin: Origin, facts: Arc<Facts>) -> Self {
        Self {
            id,
            is_unnamed,
            origin,
            facts,
            executes: Vec::new(),
            names: Names::default(),
            signals: Vec::new(),
            columns: AtomicU64::new(0),
            columns_version: AtomicU64::new(0),
            parameters: AtomicU64::new(0),
            has_changed: AtomicBool::new(false),
        }
    }

    /// The client was told of its columns when the schema had another version.
    pub(super) fn is_described_before(&self, version: u64) -> bool {
        self.columns.load(Ordering::Relaxed) != 0 && self.columns_version.load(Ordering::Relaxed) != version
    }

    /// Its columns, or the types of its parameters, are not those that the client was told.
    pub(super) fn has_changed(&self) -> bool {
        self.has_changed.load(Ordering::Relaxed)
    }

    /// The client is told of its columns.
    pub(super) fn note_columns(&self, signature: u64, version: u64) {
        self.columns.store(signature, Ordering::Relaxed);
        self.columns_version.store(version, Ordering::Relaxed);
    }

    /// The client is told of its parameters.
    pub(super) fn note_parameters(&self, signature: u64) {
        self.parameters.store(signature, Ordering::Relaxed);
    }

    /// Its parameters have been looked at again: values in binary are of the types that the client was told.
    pub(super) fn compare_parameters(&self, signature: u64) {
        let told = self.parameters.load(Ordering::Relaxed);
        if told != 0 && told != signature {
            self.has_changed.store(true, Ordering::Relaxed);
        }
    }

    /// Its columns have been looked at again.
    pub(super) fn compare_columns(&self, signature: u64, version: u64) {
        if self.columns.load(Ordering::Relaxed) == signature {
            self.columns_version.store(version, Ordering::Relaxed);
        } else {
            self.has_changed.store(true, Ordering::Relaxed);
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

pub(super) fn put_message(output: &mut BytesMut, tag: u8, parts: &[&[u8]]) {
    let bytes = 4 + parts.iter().map(|part| part.len()).sum::<usize>();
    output.reserve(bytes + 1);
    output.put_u8(tag);
    // A frame that was received within the limit grows by a name of a few bytes.
    output.put_u32(u32::try_from(bytes).unwrap_or(u32::MAX));
    for part in parts {
        output.put_slice(part);
    }
}

/// Statements by the client's names; the unnamed one has the empty name.
#[derive(Debug, Default)]
pub(super) struct Statements {
    by_name: HashMap<Bytes, Arc<Statement>>,
}

impl Statements {
    pub(super) fn get(&self, name: &[u8]) -> Option<Arc<Statement>> {
        self.by_name.get(name).cloned()
    }

    /// The client's name of a statement.
    pub(super) fn name_of(&self, id: u64) -> Option<Bytes> {
        self.by_name.iter().find(|(_, statement)| statement.id == id).map(|(name, _)| name.clone())
    }

    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.by_name.contains_key(name)
    }

    pub(super) fn is_full(&self) -> bool {
        self.by_name.len() >= STATEMENTS_MAX
    }

    /// Gives the statement that had the name before.
    pub(super) fn insert(&mut self, name: Bytes, statement: Arc<Statement>) -> Option<Arc<Statement>> {
        self.by_name.insert(name, statement)
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Arc<Statement>> {
        self.by_name.remove(name)
    }

    /// Forgets those that have a name: DEALLOCATE ALL leaves the unnamed one.
    pub(super) fn clear_named(&mut self) {
        self.by_name.retain(|name, _| name.is_empty());
    }

    /// Name, text and parameter types of those made by Parse.
    pub(super) fn texts(&self) -> Vec<(Bytes, Bytes)> {
        self.by_name
            .iter()
            .filter_map(|(name, statement)| match &statement.origin {
                Origin::Protocol(parse) => Some((name.clone(), parse.clone())),
                Origin::Sql(_) => None,
            })
            .collect()
    }
}
