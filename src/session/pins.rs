//! What a session leaves on a connection beyond its transaction: temporary tables, cursors WITH HOLD,
//! session advisory locks, LISTEN. While anything of it is there the session keeps the connection.
//!
//! Which statements may make or end such a thing is told here; whether there is one is asked of the
//! server, whose word counts. Must not know: connections.

use crate::session::Parsed;
use crate::sql::ast::{SetExpr, Statement};
use crate::sql::walk;

/// The question what is left of the session on a connection.
pub const LEFT_SQL: &str = "SELECT 't', c.relname::pg_catalog.text FROM pg_catalog.pg_class c \
      WHERE c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relkind IN ('r', 'p', 'v', 'S') \
    UNION ALL SELECT 'c', name FROM pg_catalog.pg_cursors WHERE is_holdable \
    UNION ALL SELECT 'l', '' FROM pg_catalog.pg_locks WHERE locktype = 'advisory' \
      AND pid = pg_catalog.pg_backend_pid() \
    UNION ALL SELECT 'n', c FROM pg_catalog.pg_listening_channels() c";

/// The answer to [`LEFT_SQL`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Temporary tables.
    pub temporary: bool,
    /// Cursors that outlive the transaction.
    pub cursors: Vec<String>,
    /// Advisory locks.
    pub locks: bool,
    /// Channels that are listened to.
    pub listens: bool,
}

impl Left {
    /// Reads the rows of the answer.
    pub fn read(rows: &[Vec<Option<String>>]) -> Self {
        let mut left = Self::default();
        for row in rows {
            let cell = |index: usize| row.get(index).and_then(Option::as_deref);
            match cell(0) {
                Some("t") => left.temporary = true,
                Some("c") => left.cursors.push(cell(1).unwrap_or_default().to_owned()),
                Some("l") => left.locks = true,
                Some("n") => left.listens = true,
                _ => {}
            }
        }
        left
    }

    /// Something is.
    pub fn is_any(&self) -> bool {
        self.temporary || !self.cursors.is_empty() || self.locks || self.listens
    }
}

/// Functions that leave a lock on the connection beyond the transaction, or take one away.
const SESSION_LOCKS: &[&str] = &[
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
];

/// Whether a statement may leave something behind.
pub fn may_pin(parsed: &Parsed) -> bool {
    let Ok(statement) = &*parsed.statement else { return true };
    match statement {
        Statement::Notification => parsed.lexed.is_keyword(&parsed.text, 0, "listen"),
        Statement::Declare { hold, .. } => *hold,
        Statement::Do | Statement::Call(_) => true,
        _ => makes_temporary(statement) || calls_session_locks(parsed, statement),
    }
}

/// Whether a statement may end what a session left.
pub fn may_unpin(parsed: &Parsed) -> bool {
    match &*parsed.statement {
        Ok(Statement::Ddl(ddl)) => ddl.verb == "DROP",
        Ok(Statement::Close(_) | Statement::Discard(_) | Statement::Notification) => true,
        Ok(statement) => calls_session_locks(parsed, statement),
        Err(_) => true,
    }
}

/// Whether the temporary tables of the session may be others afterwards.
pub fn changes_tables(parsed: &Parsed) -> bool {
    match &*parsed.statement {
        Ok(Statement::Ddl(ddl)) => matches!(ddl.verb.as_str(), "CREATE" | "ALTER" | "DROP"),
        Ok(statement) => makes_temporary(statement),
        Err(_) => true,
    }
}

fn makes_temporary(statement: &Statement) -> bool {
    match statement {
        Statement::Ddl(ddl) => ddl.temporary,
        Statement::Query(query) => matches!(&query.body, SetExpr::Select(select) if select.into),
        Statement::Explain { analyze, statement, .. } => *analyze && makes_temporary(statement),
        _ => false,
    }
}

fn calls_session_locks(parsed: &Parsed, statement: &Statement) -> bool {
    if !parsed.has_parenthesis() {
        return false;
    }
    let mut found = false;
    walk::for_each_call(statement, |call| found |= SESSION_LOCKS.contains(&call.name.name.as_str()));
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn parsed(text: &str) -> Parsed {
        let lexed = crate::sql::lex(text).unwrap();
        let statement = Arc::new(crate::sql::parse(text, &lexed).map_err(|error| error.to_string()));
        Parsed { text: text.into(), lexed, statement, fingerprint: None, signals: Vec::new(), made: None }
    }

    #[test]
    fn what_may_stay_is_told_from_what_ends_with_the_statement() {
        for text in [
            "CREATE TEMP TABLE t (id int)",
            "CREATE TABLE pg_temp.t (id int)",
            "SELECT 1 INTO TEMP t",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            "SELECT pg_try_advisory_lock(5) WHERE true",
            "LISTEN c",
        ] {
            assert!(may_pin(&parsed(text)), "{text}");
        }
        for text in ["SELECT 1", "CREATE TABLE t (id int)", "SELECT pg_advisory_xact_lock(5)", "NOTIFY c", "UNLISTEN c"]
        {
            assert!(!may_pin(&parsed(text)), "{text}");
        }
        for text in ["DROP TABLE t", "CLOSE c", "DISCARD TEMP", "UNLISTEN *", "SELECT pg_advisory_unlock(5)"] {
            assert!(may_unpin(&parsed(text)), "{text}");
        }
        assert!(!may_unpin(&parsed("SELECT 1")));
    }

    #[test]
    fn the_servers_answer_is_read() {
        let row = |kind: &str, name: &str| vec![Some(kind.to_owned()), Some(name.to_owned())];
        assert!(!Left::read(&[]).is_any());
        let left = Left::read(&[row("t", "a"), row("c", "b"), row("n", "d")]);
        assert_eq!(left, Left { temporary: true, cursors: vec!["b".into()], locks: false, listens: true });
        assert!(left.is_any());
    }
}
