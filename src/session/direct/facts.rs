//! What a text may do to its session, read off its tokens: settings, names of prepared statements, things
//! that outlive a transaction.
//!
//! Everything here errs to the side of "it may": what a text really did is asked of the server afterwards
//! ([`super::inspect`]). Must not know: grammar beyond the first words of a statement.

use std::ops::Range;

use crate::session::commit_wait;
use crate::sql::{LexOptions, Lexed, LiteralKind, TokenKind, lex_with, split_tokens};

/// How a text uses the name of a prepared statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameUse {
    /// `PREPARE name AS …`.
    Prepare,
    /// `EXECUTE name`, also under EXPLAIN and CREATE TABLE AS.
    Execute,
    /// `DEALLOCATE name`.
    Deallocate,
}

/// A name of a prepared statement in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedUse {
    /// What it is used for.
    pub usage: NameUse,
    /// The name, folded.
    pub name: String,
    /// Where it is written, in bytes.
    pub range: Range<usize>,
    /// The statement it stands in, in bytes.
    pub statement: Range<usize>,
}

/// What a text may do to its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Settings that are set for the session, by name in lower case.
    pub sets: Vec<String>,
    /// Settings return to their defaults, or change in ways that cannot be told by name.
    pub sets_any: bool,
    /// Something may be left that outlives the transaction: a temporary object, a lock, a listener, a cursor.
    pub may_pin: bool,
    /// Something of that kind may be gone.
    pub may_unpin: bool,
    /// Prepared statements named in SQL.
    pub names: Vec<NamedUse>,
    /// `DEALLOCATE ALL`, `DISCARD ALL`: no prepared statement is left.
    pub deallocates_all: bool,
    /// Asks for the last value of a sequence in this session.
    pub asks_sequence: bool,
    /// May change definitions of tables.
    pub changes_schema: bool,
    /// Calls a function of which it is not known that it leaves nothing in its session: settings and more.
    pub calls_unknown: bool,
    /// A COPY FROM STDIN stands in it, or may stand in it.
    pub copies_in: bool,
    /// Lets commits be acknowledged before standbys have them.
    pub lowers_commit: bool,
    /// Number of statements.
    pub statements: usize,
}

impl Facts {
    /// Nothing of it outlives the statement.
    pub fn is_plain(&self) -> bool {
        self.sets.is_empty()
            && !self.sets_any
            && !self.may_pin
            && !self.may_unpin
            && !self.calls_unknown
            && self.names.is_empty()
            && !self.deallocates_all
    }
}

/// Whether a function may leave something in the session that calls it, by its schema, if it is said, and its name.
pub type MayLeave<'a> = &'a dyn Fn(Option<&str>, &str) -> bool;

/// Reads a text. One that is not made of PostgreSQL's tokens is for the server to refuse, or is of a later
/// version than is known here: it may do anything.
pub fn read(text: &[u8], standard_conforming_strings: bool, may_leave: MayLeave<'_>) -> Facts {
    super::plain::read(text, may_leave).unwrap_or_else(|| read_apart(text, standard_conforming_strings, may_leave))
}

/// As [`read`], token by token.
pub(super) fn read_apart(text: &[u8], standard_conforming_strings: bool, may_leave: MayLeave<'_>) -> Facts {
    let ascii;
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(_) => {
            // Another encoding of the client's: bytes above ASCII are letters to the lexer, whichever they are.
            ascii = text.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { 'x' }).collect::<String>();
            &ascii
        }
    };
    match lex_with(text, LexOptions { standard_conforming_strings }) {
        Ok(lexed) => Reader { text, lexed: &lexed, may_leave, facts: Facts::default() }.read(),
        Err(_) => Facts {
            calls_unknown: true,
            sets_any: true,
            may_pin: true,
            may_unpin: true,
            changes_schema: true,
            copies_in: true,
            ..Facts::default()
        },
    }
}

/// A COPY FROM STDIN may stand in the text.
pub fn may_copy_in(text: &[u8], standard_conforming_strings: bool) -> bool {
    let names = |name: &[u8]| text.windows(name.len()).any(|part| part.eq_ignore_ascii_case(name));
    (names(b"stdin") || names(b"stdout")) && read(text, standard_conforming_strings, &|_, _| false).copies_in
}

/// Words of the grammar that stand before a parenthesis.
#[rustfmt::skip]
pub(super) const NO_CALLS: &[&str] = &[
    "all", "analyze", "and", "any", "array", "as", "between", "bit", "by", "case", "cast", "char", "character", "check",
    "conflict", "cube", "dec", "decimal", "distinct", "else", "except", "exists", "explain", "filter", "float",
    "from", "group", "having", "ilike", "in", "include", "intersect", "interval", "is", "join", "key", "lateral",
    "like", "limit", "materialized", "nchar", "not", "numeric", "offset", "on", "only", "or", "over", "precision",
    "returning", "rollup", "row", "rows", "select", "set", "sets", "similar", "some", "system", "bernoulli", "then",
    "time", "timestamp", "to", "union", "unique", "using", "values", "varbit", "varchar", "varying", "when", "where",
    "with", "within",
];

/// Words behind which a name with a parenthesis is no call.
pub(super) const NOT_CALLED_AFTER: &[&str] = &["into", "as", "copy", "table", "exists", "update", "references"];

struct Reader<'a> {
    text: &'a str,
    lexed: &'a Lexed,
    may_leave: MayLeave<'a>,
    facts: Facts,
}

impl Reader<'_> {
    fn read(mut self) -> Facts {
        let statements = split_tokens(self.text, self.lexed);
        self.facts.statements = statements.len();
        self.facts.lowers_commit = commit_wait::is_lowered(self.text);
        for tokens in statements {
            self.statement(tokens.clone());
            for token in tokens {
                self.word(token);
                self.call(token);
            }
        }
        self.facts
    }

    fn is(&self, token: usize, keyword: &str) -> bool {
        self.lexed.is_keyword(self.text, token, keyword)
    }

    fn name(&self, token: usize) -> Option<String> {
        self.lexed.identifier(self.text, token)
    }

    /// By its first word.
    fn statement(&mut self, tokens: Range<usize>) {
        let first = tokens.start;
        let Some(word) = self.name(first) else { return };
        match word.as_str() {
            "set" => self.set(tokens),
            "reset" => self.facts.sets_any = true,
            "discard" => self.discard(first),
            "prepare" if !self.is(first + 1, "transaction") => self.named(first + 1, NameUse::Prepare, &tokens),
            "execute" => self.named(first + 1, NameUse::Execute, &tokens),
            "deallocate" => self.deallocate(&tokens),
            "explain" | "create" => {
                let execute = tokens.clone().find(|token| {
                    self.is(*token, "execute") && (word == "explain" || self.is(token.saturating_sub(1), "as"))
                });
                if let Some(execute) = execute {
                    self.named(execute + 1, NameUse::Execute, &tokens);
                }
                self.facts.changes_schema |= word == "create";
            }
            // PostgreSQL takes FROM STDOUT for FROM STDIN.
            "copy" => {
                self.facts.copies_in |= { tokens }.any(|token| {
                    self.is(token, "from") && (self.is(token + 1, "stdin") || self.is(token + 1, "stdout"))
                });
            }
            "listen" => self.facts.may_pin = true,
            "unlisten" | "close" => self.facts.may_unpin = true,
            "drop" => {
                self.facts.may_unpin = true;
                self.facts.changes_schema = true;
            }
            "declare" => self.facts.may_pin |= tokens.clone().any(|token| self.is(token, "hold")),
            "do" | "call" | "load" => {
                self.facts.sets_any = true;
                self.facts.may_pin = true;
                self.facts.calls_unknown = true;
                self.body(tokens);
            }
            "alter" | "truncate" | "comment" | "import" | "refresh" | "reindex" | "cluster" => {
                self.facts.changes_schema = true;
            }
            _ => {}
        }
    }

    /// `SET [SESSION] name …`; SET LOCAL ends with its transaction.
    fn set(&mut self, tokens: Range<usize>) {
        let mut at = tokens.start + 1;
        if self.is(at, "local") || self.is(at, "transaction") || self.is(at, "constraints") {
            return;
        }
        if self.is(at, "session") {
            at += 1;
        }
        if { tokens }.any(|token| self.is(token, "default")) {
            self.facts.sets_any = true;
        }
        let Some(mut name) = self.name(at) else { return };
        let names: &[&str] = match name.as_str() {
            "characteristics" => {
                &["default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable"]
            }
            "authorization" => &["session_authorization", "role"],
            "time" => &["timezone"],
            "names" => &["client_encoding"],
            "schema" => &["search_path"],
            "xml" => &["xmloption"],
            "seed" => &[],
            _ => {
                while self.lexed.is_symbol(self.text, at + 1, ".") {
                    let Some(part) = self.name(at + 2) else { break };
                    name = format!("{name}.{part}");
                    at += 2;
                }
                self.facts.sets.push(name.to_ascii_lowercase());
                return;
            }
        };
        self.facts.may_pin |= name == "authorization";
        self.facts.sets.extend(names.iter().map(|name| (*name).to_owned()));
    }

    fn discard(&mut self, first: usize) {
        self.facts.may_unpin = true;
        if self.is(first + 1, "all") {
            self.facts.sets_any = true;
            self.facts.deallocates_all = true;
        }
    }

    fn deallocate(&mut self, tokens: &Range<usize>) {
        let mut at = tokens.start + 1;
        if self.is(at, "prepare") && at + 1 < tokens.end {
            at += 1;
        }
        if self.is(at, "all") {
            self.facts.deallocates_all = true;
        } else {
            self.named(at, NameUse::Deallocate, tokens);
        }
    }

    fn named(&mut self, token: usize, usage: NameUse, tokens: &Range<usize>) {
        if let (Some(name), Some(at)) = (self.name(token), self.lexed.tokens.get(token)) {
            let statement = self.lexed.byte_range(tokens.clone());
            self.facts.names.push(NamedUse { usage, name, range: at.start..at.end, statement });
        }
    }

    /// Settings that the body of a DO names: no view of PostgreSQL's lists those of applications.
    fn body(&mut self, tokens: Range<usize>) {
        for token in tokens {
            if let Some(literal) = self.lexed.literal(token).filter(|literal| literal.kind == LiteralKind::String) {
                let inner = read(literal.value.as_bytes(), true, &|_, _| false);
                self.facts.sets.extend(inner.sets.into_iter().filter(|name| name.contains('.')));
            }
        }
    }

    /// A name before a parenthesis: a call, unless it is a word of the grammar or the name of a relation or alias
    /// with its columns. What is taken for a call without being one costs a look at the session, and no more.
    fn call(&mut self, token: usize) {
        if self.facts.calls_unknown || !self.lexed.is_symbol(self.text, token + 1, "(") {
            return;
        }
        let Some(at) = self.lexed.tokens.get(token) else { return };
        if !matches!(at.kind, TokenKind::Word | TokenKind::QuotedIdent) {
            return;
        }
        let Some(name) = self.name(token) else { return };
        if at.kind == TokenKind::Word && NO_CALLS.contains(&name.as_str()) {
            return;
        }
        let (mut first, mut schema) = (token, None);
        if token >= 2 && self.lexed.is_symbol(self.text, token - 1, ".") {
            first = token - 2;
            schema = self.name(first);
        }
        // Behind a point it is a name.
        let is_member = first >= 2 && self.lexed.is_symbol(self.text, first - 2, ".");
        let is_before = |keyword: &str| first > 0 && !is_member && self.is(first - 1, keyword);
        if NOT_CALLED_AFTER.iter().any(|keyword| is_before(keyword)) {
            return;
        }
        self.facts.calls_unknown = (self.may_leave)(schema.as_deref(), &name);
    }

    /// Words that mean something wherever they stand.
    fn word(&mut self, token: usize) {
        let Some(at) = self.lexed.tokens.get(token) else { return };
        if !matches!(at.kind, TokenKind::Word | TokenKind::QuotedIdent) {
            return;
        }
        let Some(written) = self.text.get(at.start..at.end) else { return };
        // Every word below is at least four letters long.
        if written.len() < 4 {
            return;
        }
        let word = written.trim_matches('"');
        if ["temp", "temporary", "pg_temp"].iter().any(|known| word.eq_ignore_ascii_case(known)) {
            self.facts.may_pin = true;
        } else if contains_ignoring_case(word, "advisory") {
            self.facts.may_pin = true;
            self.facts.may_unpin = true;
        } else if word.eq_ignore_ascii_case("set_config") {
            match self.lexed.literal(token + 2) {
                Some(literal) if literal.kind == LiteralKind::String => {
                    self.facts.sets.push(literal.value.to_ascii_lowercase());
                }
                _ => self.facts.sets_any = true,
            }
        } else if word.eq_ignore_ascii_case("lastval") || word.eq_ignore_ascii_case("currval") {
            self.facts.asks_sequence = true;
        }
    }
}

fn contains_ignoring_case(text: &str, part: &str) -> bool {
    text.len() >= part.len() && text.to_ascii_lowercase().contains(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(text: &str) -> Facts {
        read(text.as_bytes(), true, &|schema, name| {
            !(matches!(schema, None | Some("pg_catalog"))
                && ["count", "set_config", "pg_try_advisory_lock"].contains(&name))
        })
    }

    #[test]
    fn ordinary_statements_leave_nothing() {
        for text in [
            "SELECT 'SET x = 1', \"reset\" FROM t WHERE a = $1",
            "BEGIN; UPDATE t SET a = 1; COMMIT",
            "SET LOCAL work_mem = '1MB'",
            "set transaction read only",
            "SET CONSTRAINTS ALL DEFERRED",
            "GRANT EXECUTE ON FUNCTION count(int) TO x",
            "CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION count()",
            "PREPARE TRANSACTION 'x'",
        ] {
            assert!(facts(text).is_plain(), "{text}: {:?}", facts(text));
        }
    }

    #[test]
    fn settings_are_named() {
        assert_eq!(facts("set Session Work_Mem = 5").sets, ["work_mem"]);
        assert_eq!(facts("SET a.b.\"C\" TO 'x'").sets, ["a.b.c"]);
        assert_eq!(facts("SET TIME ZONE 'UTC'").sets, ["timezone"]);
        assert_eq!(facts("select set_config('My.Var', $1, false)").sets, ["my.var"]);
        assert!(facts("select set_config($1, $2, false)").sets_any);
        assert!(facts("SET work_mem TO DEFAULT").sets_any);
        assert!(facts("select 1; RESET ALL").sets_any);
        assert_eq!(facts("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY").sets.len(), 3);
    }

    #[test]
    fn what_outlives_a_transaction_is_seen_wherever_it_stands() {
        for text in [
            "create temp table t (a int)",
            "select 1 as a into temporary t",
            "create function pg_temp.f() returns int language sql as 'select 1'",
            "declare c cursor with hold for select 1",
            "listen x",
            "select pg_try_advisory_lock(1)",
            "do $$ begin end $$",
        ] {
            assert!(facts(text).may_pin, "{text}");
        }
        assert!(!facts("declare c cursor for select 1").may_pin);
        assert!(facts("unlisten *").may_unpin);
    }

    #[test]
    fn a_call_of_a_function_that_is_not_known_is_seen() {
        for text in ["select f()", "select count(*), f (1)", "select public.count(1)", "select \"F\"(1)", "call p()"] {
            assert!(facts(text).calls_unknown, "{text}");
        }
        for text in [
            "insert into t (a, b) values (1, (2)) on conflict (a) do nothing returning (a)",
            "select count(*) filter (where a in (1)), cast(a as numeric(3)), pg_catalog.count(1) from s.t as x(a, b)",
            "copy s.t (a, b) from stdin",
            "select 'f()' -- f()",
        ] {
            assert!(!facts(text).calls_unknown, "{text}");
        }
    }

    #[test]
    fn settings_that_a_do_names_are_found() {
        assert_eq!(facts("do $$ begin perform set_config('My.x', '1', false); end $$").sets, ["my.x"]);
    }

    #[test]
    fn copies_from_the_client_are_found() {
        for text in ["copy t from stdin", "select 1; COPY t(a) FROM StdOut csv", "copy /* from */ t from stdin binary"]
        {
            assert!(may_copy_in(text.as_bytes(), true), "{text}");
        }
        for text in ["copy t to stdout", "copy (select 1 from t) to stdout", "copy t from '/stdin'", "select 1 from t"]
        {
            assert!(!may_copy_in(text.as_bytes(), true), "{text}");
        }
    }

    #[test]
    fn names_of_prepared_statements_are_found() {
        let text = "PREPARE \"a b\" (int) AS SELECT $1; EXECUTE x(1); DEALLOCATE PREPARE y; EXPLAIN ANALYZE EXECUTE z";
        let found = facts(text);
        let names: Vec<_> =
            found.names.iter().map(|found| (found.usage, &text[found.range.clone()], found.name.as_str())).collect();
        assert_eq!(
            names,
            [
                (NameUse::Prepare, "\"a b\"", "a b"),
                (NameUse::Execute, "x", "x"),
                (NameUse::Deallocate, "y", "y"),
                (NameUse::Execute, "z", "z"),
            ]
        );
        assert!(facts("DEALLOCATE ALL").deallocates_all);
        assert!(facts("create table t as execute q(1)").names.len() == 1);
    }

    #[test]
    fn texts_in_other_encodings_are_read() {
        let mut text = b"SET x.y = '".to_vec();
        text.extend([0xe4, 0xf6]);
        text.push(b'\'');
        assert_eq!(read(&text, true, &|_, _| false).sets, ["x.y"]);
    }
}
