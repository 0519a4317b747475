//! Text to tree.
//!
//! A statement's structure (clauses, lists, tables, token ranges) is read here from our own tokens;
//! scalar expressions go through the parser crate on an analysis copy of those tokens, in
//! `parse/scalar.rs`, `parse/feed.rs` and `parse/convert.rs`, the only files that name it. What is not
//! understood is refused, never guessed. Must not know: what tables and functions exist.

mod arguments;
mod convert;
mod copy;
mod cursor;
mod ddl;
mod dml;
mod expression;
mod feed;
mod from;
mod items;
mod keywords;
mod query;
mod scalar;
mod types;
mod utility;

use std::fmt;

use crate::sql::ast::Statement;
use crate::sql::lexer::Lexed;

use cursor::{Cursor, Source};
pub(super) use keywords::is_reserved;

/// Why a statement has no tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// It is not understood: PostgreSQL may know it, or it may be wrong.
    Unsupported {
        /// What was expected or is unknown; lower case, no text of the statement but keywords.
        reason: String,
        /// The token where reading stopped.
        token: usize,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Unsupported { reason, .. } = self;
        formatter.write_str(reason)
    }
}

impl std::error::Error for ParseError {}

/// What a reading step gives.
type Parsed<T> = Result<T, ParseError>;

fn unsupported(reason: impl Into<String>, token: usize) -> ParseError {
    ParseError::Unsupported { reason: reason.into(), token }
}

/// Reads one statement; a semicolon at its end is allowed.
///
/// # Errors
/// The statement is not understood. Of statements that need no tree only the words that the tree holds are read.
///
/// # Invariants
/// Time and memory grow with the number of tokens, recursion is bounded; no input panics.
pub fn parse(text: &str, lexed: &Lexed) -> Result<Statement, ParseError> {
    let source = Source::new(text, lexed)?;
    let mut end = lexed.tokens.len();
    while end > 0 && source.is_symbol(end - 1, ";") {
        end -= 1;
    }
    statement(source.cursor(0..end))
}

/// One statement of the cursor's tokens.
fn statement(cursor: Cursor<'_, '_>) -> Parsed<Statement> {
    if cursor.is_done() {
        return Ok(Statement::Empty);
    }
    if cursor.is_symbol("(") || cursor.is_any(&["select", "values", "table"]) {
        return query::whole(cursor).map(|query| Statement::Query(Box::new(query)));
    }
    if cursor.is_any(&["with", "insert", "update", "delete", "merge"]) {
        return dml::statement(cursor);
    }
    utility::statement(cursor)
}
