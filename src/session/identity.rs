//! The process id that a client was told, in the statements it sends.
//!
//! A session has no server process of its own, so its client is told a number that no server uses
//! ([`PID_MIN`] and above). `pg_backend_pid()` is answered with it, and `pg_terminate_backend()` and
//! `pg_cancel_backend()` of such a number mean a session of the proxy; of any other number they are the
//! server's. The text is changed at token positions only: literals, comments and quoted names that
//! merely look alike stay as they are. Must not know: which sessions there are, who may end whom.

use std::ops::Range;

use memchr::memchr2_iter;

use crate::error::{ClientError, ErrorId};
use crate::sql::{Lexed, Spliced, TokenKind, split_tokens};

/// The least process id that the proxy gives out. PostgreSQL's are far below on every system
/// (`PID_MAX_LIMIT` is 2^22 on Linux), and it is positive as a signed number.
pub const PID_MIN: u32 = 0x4000_0000;

/// What a statement does to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalKind {
    /// `pg_cancel_backend`.
    Cancel,
    /// `pg_terminate_backend`.
    Terminate,
}

/// Where the process id stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidSource {
    /// In the text; it is a session's.
    Literal(u32),
    /// In the value of `$n`, which may be anybody's.
    Param(u32),
}

/// A call that may mean a session of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// What it does.
    pub kind: SignalKind,
    /// To whom.
    pub pid: PidSource,
}

/// A statement whose calls were answered or taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identified {
    /// The text to go on with.
    pub text: Spliced,
    /// To be done when the statement executes, before it does.
    pub signals: Vec<Signal>,
}

/// Whether the text may call one of the functions: a scan for a rare letter, to be asked of every
/// statement before it is taken apart.
pub fn mentions(text: impl AsRef<[u8]>) -> bool {
    let bytes = text.as_ref();
    memchr2_iter(b'k', b'K', bytes).any(|at| {
        let word = at.checked_sub(3).and_then(|start| bytes.get(start..start + 7));
        word.is_some_and(|word| word.eq_ignore_ascii_case(b"backend"))
    })
}

/// Changes the calls of a text; `None` when there is nothing to change.
///
/// `knows` says whether a session of that process id is there. A number that nobody has is left for
/// the server, which warns of it as PostgreSQL does.
pub fn identify(text: &str, lexed: &Lexed, own_pid: u32, knows: &dyn Fn(u32) -> bool) -> Option<Identified> {
    let mut found = Found { text, lexed, own_pid, knows, splices: Vec::new(), signals: Vec::new() };
    for tokens in split_tokens(text, lexed) {
        found.statement(&tokens);
    }
    if found.splices.is_empty() {
        return None;
    }
    let mut changed = Spliced::with_capacity(text.len() + 64);
    let mut at = 0;
    for (bytes, replacement) in &found.splices {
        changed.keep(text, at..bytes.start);
        changed.replace(bytes, replacement);
        at = bytes.end;
    }
    changed.keep(text, at..text.len());
    Some(Identified { text: changed, signals: found.signals })
}

/// Reads a process id from a parameter's value; `None` for NULL and for what is no process id.
pub fn read_pid(value: Option<&[u8]>, is_binary: bool) -> Option<u32> {
    let value = value?;
    let number = if is_binary {
        match value.len() {
            2 => i64::from(i16::from_be_bytes(value.try_into().ok()?)),
            4 => i64::from(i32::from_be_bytes(value.try_into().ok()?)),
            8 => i64::from_be_bytes(value.try_into().ok()?),
            _ => return None,
        }
    } else {
        std::str::from_utf8(value).ok()?.trim().parse().ok()?
    };
    u32::try_from(number).ok()
}

/// The question whether the session's current role may signal a session of `role`; the answer goes to
/// [`judge`]. The rules are those of `pg_signal_backend` in PostgreSQL's `signalfuncs.c`.
pub fn permission_sql(role: &str) -> String {
    format!(
        "SELECT CASE WHEN t.rolsuper AND NOT m.rolsuper THEN 'superuser' \
         WHEN pg_catalog.pg_has_role(m.oid, t.oid, 'USAGE') \
         OR pg_catalog.pg_has_role(m.oid, 'pg_signal_backend', 'USAGE') THEN 'yes' ELSE 'no' END \
         FROM pg_catalog.pg_roles m, pg_catalog.pg_roles t WHERE m.rolname = current_user AND t.rolname = '{}'",
        role.replace('\'', "''")
    )
}

/// What the answer to [`permission_sql`] means.
///
/// # Errors
/// 42501, in PostgreSQL's words.
pub fn judge(kind: SignalKind, answer: &str) -> Result<(), ClientError> {
    let message = match (answer, kind) {
        ("yes", _) => return Ok(()),
        ("superuser", SignalKind::Terminate) => "must be a superuser to terminate superuser process",
        ("superuser", SignalKind::Cancel) => "must be a superuser to cancel superuser query",
        (_, SignalKind::Terminate) => {
            "must be a member of the role whose process is being terminated or member of pg_signal_backend"
        }
        (_, SignalKind::Cancel) => {
            "must be a member of the role whose query is being canceled or member of pg_signal_backend"
        }
    };
    Err(ClientError::new(ErrorId::InsufficientPrivilege, message))
}

/// Names that deal in the processes of servers: a statement that has one of them next to `pg_backend_pid()` wants
/// the number that they know.
const OF_SERVERS: &[&str] = &[
    "pg_locks",
    "pg_blocking_pids",
    "pg_safe_snapshot_blocking_pids",
    "pg_log_backend_memory_contexts",
    "pg_stat_activity",
    "pg_stat_ssl",
    "pg_stat_gssapi",
    "pg_stat_get_activity",
    "pg_stat_progress_vacuum",
    "pg_stat_progress_create_index",
];

/// Statements that compute when they are sent. A view or a default that calls the function must go on
/// calling it.
const COMPUTING: &[&str] = &[
    "SELECT", "VALUES", "WITH", "TABLE", "INSERT", "UPDATE", "DELETE", "MERGE", "EXPLAIN", "DECLARE", "PREPARE",
    "EXECUTE", "COPY",
];

/// Words with which a statement may compute a call never, or several times.
const CONDITIONAL: &[&str] = &[
    "from",
    "where",
    "group",
    "having",
    "union",
    "intersect",
    "except",
    "limit",
    "offset",
    "fetch",
    "case",
    "and",
    "or",
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "over",
    "filter",
    "order",
    "into",
    "distinct",
    "exists",
    "in",
    "with",
];

/// Words that may follow an entry of FROM that has no alias.
const AFTER_FROM_ENTRY: &[&str] = &[
    "where",
    "group",
    "order",
    "limit",
    "offset",
    "fetch",
    "having",
    "window",
    "union",
    "intersect",
    "except",
    "for",
    "join",
    "inner",
    "left",
    "right",
    "full",
    "cross",
    "natural",
    "on",
    "using",
    "returning",
];

struct Found<'a> {
    text: &'a str,
    lexed: &'a Lexed,
    own_pid: u32,
    knows: &'a dyn Fn(u32) -> bool,
    splices: Vec<(Range<usize>, String)>,
    signals: Vec<Signal>,
}

/// A call: its tokens, and those between its parentheses.
struct Call {
    tokens: Range<usize>,
    arguments: Range<usize>,
    name: String,
}

impl Found<'_> {
    fn statement(&mut self, tokens: &Range<usize>) {
        let mut first = tokens.start;
        while first < tokens.end && self.is_symbol(first, "(") {
            first += 1;
        }
        if !COMPUTING.iter().any(|word| self.lexed.is_keyword(self.text, first, word)) {
            return;
        }
        let is_of_servers = tokens.clone().any(|token| {
            self.lexed.identifier(self.text, token).is_some_and(|name| OF_SERVERS.contains(&name.as_str()))
        });
        if is_of_servers {
            return;
        }
        let is_plain = self.lexed.is_keyword(self.text, tokens.start, "select")
            && !tokens.clone().any(|token| self.is_any_keyword(token, CONDITIONAL));
        let mut at = tokens.start;
        while at < tokens.end {
            let Some(call) = self.call(at, tokens.end) else {
                at += 1;
                continue;
            };
            let replacement = match call.name.as_str() {
                "pg_backend_pid" => self.own_pid_call(&call, tokens),
                _ if is_plain => self.signal_call(&call),
                _ => None,
            };
            match replacement {
                Some(replacement) => {
                    self.splices.push((self.lexed.byte_range(call.tokens.clone()), replacement));
                    at = call.tokens.end;
                }
                // An argument may hold a call of its own.
                None => at = call.arguments.start,
            }
        }
    }

    /// The call of one of the functions that starts at a token.
    fn call(&self, at: usize, end: usize) -> Option<Call> {
        let follows_dot = at > 0 && self.is_symbol(at - 1, ".");
        let mut name_at = at;
        if follows_dot {
            return None;
        }
        if self.is_symbol(at + 1, ".") {
            if self.lexed.identifier(self.text, at)? != "pg_catalog" {
                return None;
            }
            name_at = at + 2;
        }
        let name = self.lexed.identifier(self.text, name_at)?;
        if !matches!(name.as_str(), "pg_backend_pid" | "pg_terminate_backend" | "pg_cancel_backend")
            || !self.is_symbol(name_at + 1, "(")
        {
            return None;
        }
        let mut depth = 0usize;
        for token in name_at + 1..end {
            if self.is_symbol(token, "(") {
                depth += 1;
            } else if self.is_symbol(token, ")") {
                depth -= 1;
                if depth == 0 {
                    return Some(Call { tokens: at..token + 1, arguments: name_at + 2..token, name });
                }
            }
        }
        None
    }

    fn own_pid_call(&self, call: &Call, statement: &Range<usize>) -> Option<String> {
        if !call.arguments.is_empty() {
            return None;
        }
        let before = call.tokens.start.checked_sub(1).filter(|before| *before >= statement.start);
        let is_word = |at: Option<usize>, word: &str| at.is_some_and(|at| self.lexed.is_keyword(self.text, at, word));
        let is_comparison = is_word(before.and_then(|at| at.checked_sub(1)), "distinct");
        let is_source =
            (is_word(before, "from") && !is_comparison) || is_word(before, "join") || is_word(before, "lateral");
        if !is_source {
            return Some(format!("(SELECT {} AS pg_backend_pid)", self.own_pid));
        }
        // A row source is called by its function's name, unless it has an alias.
        let after = call.tokens.end;
        let is_last = after >= statement.end;
        let has_alias = !is_last
            && self.lexed.identifier(self.text, after).is_some()
            && !self.is_any_keyword(after, AFTER_FROM_ENTRY);
        let alias = if has_alias { "" } else { " AS pg_backend_pid" };
        Some(format!("pg_catalog.abs({}){alias}", self.own_pid))
    }

    fn signal_call(&mut self, call: &Call) -> Option<String> {
        let kind = if call.name == "pg_cancel_backend" { SignalKind::Cancel } else { SignalKind::Terminate };
        let first = self.first_argument(&call.arguments);
        let pid = self.pid_source(&first)?;
        let replacement = match pid {
            PidSource::Literal(_) => format!("(SELECT true AS {})", call.name),
            PidSource::Param(_) => format!(
                "(SELECT CASE WHEN {} >= {PID_MIN} THEN true ELSE {} END AS {})",
                self.lexed.range_text(self.text, first),
                self.lexed.range_text(self.text, call.tokens.clone()),
                call.name
            ),
        };
        self.signals.push(Signal { kind, pid });
        Some(replacement)
    }

    fn first_argument(&self, arguments: &Range<usize>) -> Range<usize> {
        let mut depth = 0usize;
        for token in arguments.clone() {
            if self.is_symbol(token, "(") {
                depth += 1;
            } else if self.is_symbol(token, ")") {
                depth = depth.saturating_sub(1);
            } else if depth == 0 && self.is_symbol(token, ",") {
                return arguments.start..token;
            }
        }
        arguments.clone()
    }

    /// A literal or a parameter, in parentheses and casts or not; or the session's own process id.
    fn pid_source(&self, argument: &Range<usize>) -> Option<PidSource> {
        const AROUND: &[&str] =
            &["cast", "as", "pg_catalog", "int", "integer", "int4", "int2", "smallint", "int8", "bigint"];
        if let Some(own) = self.call(argument.start, argument.end)
            && own.tokens == *argument
            && own.name == "pg_backend_pid"
            && own.arguments.is_empty()
        {
            return Some(PidSource::Literal(self.own_pid));
        }
        let mut source = None;
        for token in argument.clone() {
            let found = match self.lexed.tokens.get(token)?.kind {
                TokenKind::Param(number) => PidSource::Param(number),
                TokenKind::Literal(_) => {
                    let pid = self.lexed.literal(token)?.value.trim().parse::<u32>().ok()?;
                    if pid < PID_MIN || !(self.knows)(pid) {
                        return None;
                    }
                    PidSource::Literal(pid)
                }
                TokenKind::Word if self.is_any_keyword(token, AROUND) => continue,
                TokenKind::Punctuation if ["(", ")", ".", "::"].iter().any(|part| self.is_symbol(token, part)) => {
                    continue;
                }
                _ => return None,
            };
            if source.replace(found).is_some() {
                return None;
            }
        }
        source
    }

    fn is_symbol(&self, token: usize, symbol: &str) -> bool {
        self.lexed.is_symbol(self.text, token, symbol)
    }

    fn is_any_keyword(&self, token: usize, words: &[&str]) -> bool {
        words.iter().any(|word| self.lexed.is_keyword(self.text, token, word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lex;

    const OWN: u32 = PID_MIN + 7;

    fn changed(text: &str) -> Option<Identified> {
        identify(text, &lex(text).unwrap(), OWN, &|pid| pid == PID_MIN + 9)
    }

    fn text(text: &str) -> String {
        changed(text).map_or_else(|| text.to_owned(), |changed| changed.text.text().to_owned())
    }

    #[test]
    fn the_scan_finds_the_words_in_any_case_and_nothing_else() {
        assert!(mentions("select PG_Backend_PID()"));
        assert!(mentions("backend"));
        for other in ["", "k", "ack", "select back from ends", "SELECT bookkeeping"] {
            assert!(!mentions(other), "{other}");
        }
    }

    #[test]
    fn the_own_pid_is_spliced_in_under_its_name() {
        let own = format!("(SELECT {OWN} AS pg_backend_pid)");
        assert_eq!(text("select pg_backend_pid()"), format!("select {own}"));
        assert_eq!(text("SELECT \"pg_backend_pid\" ( ), 1"), format!("SELECT {own}, 1"));
        assert_eq!(text("SELECT pg_catalog.PG_BACKEND_PID() AS p"), format!("SELECT {own} AS p"));
        assert_eq!(
            text("SELECT 1 FROM a WHERE pid IS DISTINCT FROM pg_backend_pid()"),
            format!("SELECT 1 FROM a WHERE pid IS DISTINCT FROM {own}")
        );
        assert_eq!(
            text("SELECT 1; INSERT INTO t VALUES (pg_backend_pid())"),
            format!("SELECT 1; INSERT INTO t VALUES ({own})")
        );
    }

    #[test]
    fn as_a_row_source_it_is_a_function_of_that_name() {
        assert_eq!(
            text("SELECT * FROM pg_backend_pid()"),
            format!("SELECT * FROM pg_catalog.abs({OWN}) AS pg_backend_pid")
        );
        assert_eq!(text("SELECT * FROM pg_backend_pid() p"), format!("SELECT * FROM pg_catalog.abs({OWN}) p"));
        assert_eq!(
            text("SELECT * FROM pg_backend_pid() WHERE true"),
            format!("SELECT * FROM pg_catalog.abs({OWN}) AS pg_backend_pid WHERE true")
        );
    }

    #[test]
    fn what_only_looks_alike_stays() {
        for same in [
            "SELECT 'pg_backend_pid()'",
            "SELECT E'\\'pg_backend_pid()'",
            "SELECT $$pg_backend_pid()$$ -- pg_backend_pid()",
            "SELECT 1 /* pg_backend_pid() */",
            "SELECT \"PG_BACKEND_PID\"()",
            "SELECT other.pg_backend_pid()",
            "SELECT a.pg_catalog.pg_backend_pid()",
            "SELECT pg_backend_pid FROM t",
            "SELECT pg_backend_pid(1)",
            "SELECT pg_backend_pid(",
            "CREATE TABLE t (pid int DEFAULT pg_backend_pid())",
            "CREATE VIEW v AS SELECT pg_backend_pid()",
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT pg_backend_pid(); END",
        ] {
            assert_eq!(changed(same), None, "{same}");
        }
    }

    #[test]
    fn a_literal_pid_of_a_session_is_a_signal() {
        let other = PID_MIN + 9;
        let signal = |kind| vec![Signal { kind, pid: PidSource::Literal(other) }];
        let found = changed(&format!("SELECT pg_terminate_backend({other}, 1000) AS done")).unwrap();
        assert_eq!(found.text.text(), "SELECT (SELECT true AS pg_terminate_backend) AS done");
        assert_eq!(found.signals, signal(SignalKind::Terminate));
        let found = changed(&format!("SELECT pg_catalog.pg_cancel_backend('{other}'::int)")).unwrap();
        assert_eq!(found.text.text(), "SELECT (SELECT true AS pg_cancel_backend)");
        assert_eq!(found.signals, signal(SignalKind::Cancel));
        let own = changed("SELECT pg_terminate_backend(pg_backend_pid())").unwrap();
        assert_eq!(own.signals, [Signal { kind: SignalKind::Terminate, pid: PidSource::Literal(OWN) }]);
    }

    #[test]
    fn a_parameter_is_decided_by_its_value() {
        let found = changed("SELECT pg_terminate_backend($1::int, 10)").unwrap();
        assert_eq!(
            found.text.text(),
            "SELECT (SELECT CASE WHEN $1::int >= 1073741824 THEN true ELSE pg_terminate_backend($1::int, 10) END \
             AS pg_terminate_backend)"
        );
        assert_eq!(found.signals, [Signal { kind: SignalKind::Terminate, pid: PidSource::Param(1) }]);
        assert_eq!(
            changed("SELECT pg_cancel_backend(CAST($2 AS integer))").unwrap().signals[0].pid,
            PidSource::Param(2)
        );
    }

    #[test]
    fn numbers_of_servers_and_calls_that_may_not_happen_are_the_servers() {
        let other = PID_MIN + 9;
        for same in [
            "SELECT pg_terminate_backend(1234)".to_owned(),
            format!("SELECT pg_terminate_backend({})", PID_MIN + 1000),
            format!("SELECT pg_terminate_backend(-{other})"),
            format!("SELECT pg_terminate_backend({other}) WHERE false"),
            format!("SELECT CASE WHEN false THEN pg_terminate_backend({other}) END"),
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity".to_owned(),
            "SELECT pg_terminate_backend($1 + $2)".to_owned(),
            "SELECT mode FROM pg_catalog.pg_locks WHERE pid = pg_backend_pid()".to_owned(),
            "SELECT pg_log_backend_memory_contexts(pg_backend_pid())".to_owned(),
        ] {
            assert_eq!(changed(&same), None, "{same}");
        }
        assert!(
            text("SELECT pg_terminate_backend(pid) FROM a WHERE pid <> pg_backend_pid()")
                .ends_with("AS pg_backend_pid)")
        );
    }

    #[test]
    fn values_are_read_in_text_and_in_every_integer_type() {
        assert_eq!(read_pid(Some(b" 1073741831 "), false), Some(OWN));
        assert_eq!(read_pid(Some(&OWN.to_be_bytes()), true), Some(OWN));
        assert_eq!(read_pid(Some(&u64::from(OWN).to_be_bytes()), true), Some(OWN));
        assert_eq!(read_pid(Some(&5i16.to_be_bytes()), true), Some(5));
        assert_eq!(read_pid(Some(b"x"), false), None);
        assert_eq!(read_pid(Some(&[1, 2, 3]), true), None);
        assert_eq!(read_pid(None, false), None);
    }

    #[test]
    fn a_refusal_is_worded_as_postgresql_does() {
        assert!(judge(SignalKind::Cancel, "yes").is_ok());
        let refusal = judge(SignalKind::Terminate, "no").unwrap_err();
        assert_eq!(refusal.sqlstate(), "42501");
        assert!(permission_sql("o'hara").ends_with("'o''hara'"));
    }
}
