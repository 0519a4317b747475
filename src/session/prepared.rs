//! Prepared statements and portals by the names that the client gave them.

use std::collections::HashMap;
use std::sync::Arc;

use super::columns::Told;
use super::identity::Signal;
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::sql::ast::Statement;
use crate::sql::fingerprint::Fingerprint;
use crate::sql::{Lexed, Spliced};
use crate::wire::client_message::Bind;

/// One statement's text, taken apart once.
#[derive(Debug)]
pub struct Parsed {
    /// The statement alone, without its semicolon.
    pub text: String,
    /// Its tokens.
    pub lexed: Lexed,
    /// Its tree, or why there is none. Statements of one fingerprint share it.
    pub statement: Arc<Result<Statement, String>>,
    /// What it is with its literals lifted out; none for statements whose tree depends on literals.
    pub fingerprint: Option<Fingerprint>,
    /// Other sessions that it ends or cancels when it executes.
    pub signals: Vec<Signal>,
    /// How its text was made, and of which, when it is not the client's.
    pub made: Option<Box<(Spliced, String)>>,
}

impl Parsed {
    /// There is no call of a function without one.
    pub fn has_parenthesis(&self) -> bool {
        memchr::memchr(b'(', self.text.as_bytes()).is_some()
    }
}

/// A prepared statement of a session.
#[derive(Debug)]
pub struct PreparedStatement {
    /// Equal for equal text and parameter types, across sessions: the name on server connections.
    pub id: u64,
    /// Text and tree.
    pub parsed: Arc<Parsed>,
    /// Parameter types as the client declared them; 0 and missing ones are inferred by the server.
    pub parameter_types: Vec<u32>,
    /// What the client was told of it.
    pub told: Told,
}

/// A portal of a session.
#[derive(Debug)]
pub struct Portal {
    /// The statement it was bound from.
    pub statement: Arc<PreparedStatement>,
    /// Values and formats.
    pub bind: Bind,
    /// The shard that holds the portal; `None`: the proxy runs it when it is executed.
    pub shard: Option<ShardId>,
    /// Executing it writes.
    pub writes: bool,
    /// Executing it changes the schema.
    pub changes_schema: bool,
}

/// Names of a session. The unnamed statement and portal are those with the empty name.
#[derive(Debug, Default)]
pub struct Statements {
    statements: HashMap<String, Arc<PreparedStatement>>,
    portals: HashMap<String, Arc<Portal>>,
}

/// Named statements a session may hold.
const STATEMENTS_MAX: usize = 10_000;

impl Statements {
    /// Parse.
    ///
    /// # Errors
    /// 42P05 for a named statement that exists; 54000 over the limit.
    pub fn insert(&mut self, name: &str, statement: Arc<PreparedStatement>) -> Result<(), ClientError> {
        if !name.is_empty() && self.statements.contains_key(name) {
            return Err(already_exists(name));
        }
        if self.statements.len() >= STATEMENTS_MAX {
            return Err(ClientError::new(ErrorId::LimitExceeded, "too many prepared statements in one session")
                .with_hint("Deallocate statements that are no longer used."));
        }
        self.statements.insert(name.to_owned(), statement);
        Ok(())
    }

    /// The same statement under its name, prepared with types that the client was told.
    pub fn replace(&mut self, name: &str, statement: Arc<PreparedStatement>) {
        self.statements.insert(name.to_owned(), statement);
    }

    /// The statement of that name.
    ///
    /// # Errors
    /// 26000 when there is none.
    pub fn get(&self, name: &str) -> Result<Arc<PreparedStatement>, ClientError> {
        self.statements.get(name).cloned().ok_or_else(|| does_not_exist(name))
    }

    /// Close, DEALLOCATE. `false` when there was none.
    pub fn remove(&mut self, name: &str) -> bool {
        self.statements.remove(name).is_some()
    }

    /// DEALLOCATE ALL.
    pub fn remove_all(&mut self) {
        self.statements.clear();
    }

    /// Bind.
    pub fn insert_portal(&mut self, name: &str, portal: Arc<Portal>) {
        self.portals.insert(name.to_owned(), portal);
    }

    /// The portal of that name.
    ///
    /// # Errors
    /// 34000 when there is none.
    pub fn portal(&self, name: &str) -> Result<Arc<Portal>, ClientError> {
        self.portals
            .get(name)
            .cloned()
            .ok_or_else(|| ClientError::new(ErrorId::UndefinedPortal, format!("portal \"{name}\" does not exist")))
    }

    /// Portals are open that the client has named.
    pub fn has_named_portals(&self) -> bool {
        self.portals.keys().any(|name| !name.is_empty())
    }

    /// Close of a portal.
    pub fn remove_portal(&mut self, name: &str) {
        self.portals.remove(name);
    }

    /// Portals end with their transaction.
    pub fn end_portals(&mut self) {
        self.portals.clear();
    }
}

/// 42P05, in PostgreSQL's words.
pub fn already_exists(name: &str) -> ClientError {
    ClientError::new(ErrorId::DuplicatePreparedStatement, format!("prepared statement \"{name}\" already exists"))
}

/// 26000, in PostgreSQL's words.
pub fn does_not_exist(name: &str) -> ClientError {
    let text = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        format!("prepared statement \"{name}\" does not exist")
    };
    ClientError::new(ErrorId::UndefinedPreparedStatement, text)
}
