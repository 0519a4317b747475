//! The key of the plan cache: a statement's tokens with literals lifted out.
//!
//! # Invariants
//! Statements of one fingerprint have equal token kinds at equal token indexes and equal trees, so a plan
//! made for one holds for all of them, as long as making it reads no value of a lifted literal. Lifted are
//! the literals of SELECT, VALUES, TABLE, INSERT, UPDATE, DELETE and MERGE, except integers inside ORDER BY,
//! GROUP BY and DISTINCT ON (they may be ordinals of the target list) and inside types (`numeric(10,2)`).
//! Every other statement keeps its literals.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::LazyLock;

use crate::sql::lexer::{Lexed, LiteralKind, TokenKind};
use crate::sql::parse::is_reserved;

/// The statement without its lifted literals, white space, comments and keyword case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint {
    /// Of the bytes, under a secret of this process; several caches ask for it with every statement.
    hash: u64,
    bytes: Box<[u8]>,
}

static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Fingerprint {
    /// Number of bytes it occupies.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// The key of one statement.
pub fn fingerprint(text: &str, lexed: &Lexed) -> Fingerprint {
    let mut writer = Writer {
        text,
        lexed,
        bytes: Vec::with_capacity(text.len() + 8),
        clauses: vec![Clause::Other],
        is_lifting: lifts_literals(text, lexed),
        needs_equalities: false,
    };
    for index in 0..lexed.tokens.len() {
        writer.token(index);
    }
    if writer.needs_equalities {
        writer.equalities();
    }
    Fingerprint { hash: SECRET.hash_one(&writer.bytes), bytes: writer.bytes.into_boxed_slice() }
}

fn lifts_literals(text: &str, lexed: &Lexed) -> bool {
    let first = (0..lexed.tokens.len()).find(|index| !lexed.is_symbol(text, *index, "(")).unwrap_or(0);
    ["select", "insert", "update", "delete", "with", "values", "table", "merge"]
        .iter()
        .any(|word| lexed.is_keyword(text, first, word))
}

/// What kind of clause a token stands in, one for each open parenthesis.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clause {
    /// ORDER BY, GROUP BY or DISTINCT ON, at its own depth.
    Ordinals,
    /// In parentheses inside such a clause.
    InsideOrdinals,
    /// HAVING, or in parentheses inside it.
    Having,
    /// In the parentheses of CAST, before its AS.
    Cast,
    /// In a type, or in the parentheses behind one.
    Type,
    Other,
}

struct Writer<'a> {
    text: &'a str,
    lexed: &'a Lexed,
    bytes: Vec<u8>,
    clauses: Vec<Clause>,
    is_lifting: bool,
    needs_equalities: bool,
}

impl Writer<'_> {
    fn token(&mut self, index: usize) {
        let Some(token) = self.lexed.tokens.get(index) else { return };
        let written = self.lexed.text(self.text, index);
        match token.kind {
            TokenKind::Word => {
                let start = self.bytes.len();
                self.bytes.extend(written.bytes().map(|byte| byte.to_ascii_lowercase()));
                // `N'x'` is a string of another type, `n 'x'` one of a type called n.
                let touches = self.lexed.tokens.get(index + 1).is_some_and(|next| next.start == token.end);
                if touches && written.eq_ignore_ascii_case("n") && self.lexed.literal(index + 1).is_some() {
                    self.bytes.push(b'\'');
                }
                if self.is_lifting {
                    self.word(index, start);
                }
            }
            TokenKind::QuotedIdent => {
                self.bytes.push(b'"');
                let name = self.lexed.identifier(self.text, index).unwrap_or_default();
                self.bytes.extend_from_slice(name.as_bytes());
            }
            TokenKind::Literal(literal) => self.literal(index, literal),
            TokenKind::Param(_) | TokenKind::Operator => self.bytes.extend_from_slice(written.as_bytes()),
            TokenKind::Punctuation => {
                self.bytes.extend_from_slice(written.as_bytes());
                if self.is_lifting {
                    self.punctuation(index, written);
                }
            }
        }
        // No token holds a NUL, so what is between two of them is one token.
        self.bytes.push(0);
    }

    fn clause(&self) -> Clause {
        self.clauses.last().copied().unwrap_or(Clause::Other)
    }

    fn set_clause(&mut self, clause: Clause) {
        if let Some(last) = self.clauses.last_mut() {
            *last = clause;
        }
    }

    fn word(&mut self, index: usize, start: usize) {
        if index > 0 && self.lexed.is_symbol(self.text, index - 1, ".") {
            return;
        }
        let clause = match self.bytes.get(start..).unwrap_or_default() {
            b"by" if self.is_after(index, &["order", "group"]) => Clause::Ordinals,
            b"having" => Clause::Having,
            b"limit" | b"offset" | b"fetch" | b"for" | b"window" | b"union" | b"intersect" | b"except"
            | b"returning" | b"select" => Clause::Other,
            b"conflict" if self.is_after(index, &["on"]) => Clause::Other,
            b"as" if self.clause() == Clause::Cast => Clause::Type,
            _ => return,
        };
        self.set_clause(clause);
    }

    fn is_after(&self, index: usize, words: &[&str]) -> bool {
        index > 0 && words.iter().any(|word| self.lexed.is_keyword(self.text, index - 1, word))
    }

    fn punctuation(&mut self, index: usize, written: &str) {
        match written {
            "(" | "[" => {
                let inside = match self.clause() {
                    _ if index > 1
                        && self.is_after(index, &["on"])
                        && self.lexed.is_keyword(self.text, index - 2, "distinct") =>
                    {
                        Clause::Ordinals
                    }
                    _ if self.opens_type(index) => Clause::Type,
                    _ if self.is_after(index, &["cast"]) => Clause::Cast,
                    Clause::Type => Clause::Type,
                    Clause::Ordinals | Clause::InsideOrdinals => Clause::InsideOrdinals,
                    Clause::Having => Clause::Having,
                    Clause::Cast | Clause::Other => Clause::Other,
                };
                self.clauses.push(inside);
            }
            ")" | "]" if self.clauses.len() > 1 => {
                self.clauses.pop();
            }
            _ => {}
        }
    }

    /// Whether the parenthesis at `index` belongs to a type: behind `::`, or before a string as in
    /// `varchar(10) 'x'`.
    fn opens_type(&self, index: usize) -> bool {
        let (text, lexed) = (self.text, self.lexed);
        let is_string = |token: usize| lexed.literal(token).is_some_and(|literal| literal.kind == LiteralKind::String);
        if [2, 4].iter().any(|length| lexed.is_symbol(text, index + length, ")") && is_string(index + length + 1)) {
            return true;
        }
        let mut at = index;
        let mut words = 0;
        while at > 0 && words < 5 {
            at -= 1;
            match lexed.tokens.get(at).map(|token| token.kind) {
                Some(TokenKind::Word) if is_reserved(lexed.text(text, at)) => return false,
                Some(TokenKind::Word | TokenKind::QuotedIdent) => words += 1,
                Some(TokenKind::Punctuation) => match lexed.text(text, at) {
                    // `numeric(10, 2)[]`
                    "." | "]" | "[" => {}
                    "::" => return words > 0,
                    _ => return false,
                },
                _ => return false,
            }
        }
        false
    }

    fn literal(&mut self, index: usize, literal: usize) {
        let Some(value) = self.lexed.literals.get(literal) else { return };
        let tag = match value.kind {
            LiteralKind::Integer => 1,
            LiteralKind::Decimal => 2,
            LiteralKind::String => 3,
            LiteralKind::BitString => 4,
        };
        let is_kept = !self.is_lifting
            || value.kind == LiteralKind::Integer
                && matches!(self.clause(), Clause::Ordinals | Clause::InsideOrdinals | Clause::Type);
        if is_kept {
            self.bytes.push(tag + 4);
            self.bytes.extend_from_slice(value.value.as_bytes());
        } else {
            self.bytes.push(tag);
        }
        self.needs_equalities |= match self.clause() {
            Clause::Ordinals => !self.is_ordinal(index, value.kind),
            Clause::InsideOrdinals | Clause::Having => true,
            Clause::Cast | Clause::Type | Clause::Other => false,
        } && self.is_lifting;
    }

    fn is_ordinal(&self, index: usize, kind: LiteralKind) -> bool {
        let starts = self.is_after(index, &["by"])
            || index > 0 && [",", "("].iter().any(|symbol| self.lexed.is_symbol(self.text, index - 1, symbol));
        const AFTER: &[&str] = &[
            "asc",
            "desc",
            "nulls",
            "limit",
            "offset",
            "fetch",
            "for",
            "having",
            "union",
            "intersect",
            "except",
            "window",
            "order",
            "returning",
            "on",
            "using",
        ];
        let next = index + 1;
        let ends = next >= self.lexed.tokens.len()
            || [",", ")"].iter().any(|symbol| self.lexed.is_symbol(self.text, next, symbol))
            || AFTER.iter().any(|word| self.lexed.is_keyword(self.text, next, word));
        kind == LiteralKind::Integer && starts && ends
    }

    /// Says which literals are equal. A grouped or sorted expression with a literal may equal one of the
    /// target list (`date_trunc('day', t)`); whether it does must not differ within one fingerprint.
    fn equalities(&mut self) {
        let mut seen = HashMap::new();
        for (index, literal) in self.lexed.literals.iter().enumerate() {
            let first = *seen.entry((literal.kind, literal.value.as_str())).or_insert(index);
            self.bytes.extend_from_slice(&(first as u64).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::sql::lexer::lex;

    use super::*;

    fn print(text: &str) -> Fingerprint {
        fingerprint(text, &lex(text).unwrap())
    }

    #[test]
    fn literals_space_comments_and_case_do_not_matter() {
        let one = print("SELECT * FROM t WHERE a = 1 AND b = 'x'");
        assert_eq!(one, print("select *from T /* c */ where A=22 and b = E'\\n' -- end"));
        assert_eq!(one, print("select * from t where a = 3000000000 and b = $$y$$"));
        for other in [
            "SELECT * FROM t WHERE a = -1 AND b = 'x'",
            "SELECT * FROM t WHERE a = 1.0 AND b = 'x'",
            "SELECT * FROM t WHERE a = '1' AND b = 'x'",
            "SELECT * FROM \"T\" WHERE a = 1 AND b = 'x'",
            "SELECT * FROM t WHERE a = 1 AND b = B'1'",
            "SELECT * FROM t WHERE a = $1 AND b = 'x'",
            "SELECT * FROM t WHERE a <> 1 AND b = 'x'",
        ] {
            assert_ne!(one, print(other), "{other}");
        }
        assert_ne!(print("select $1"), print("select $2"));
        assert_ne!(print("select a b"), print("select ab"));
    }

    #[test]
    fn ordinals_are_kept_and_limits_are_not() {
        assert_ne!(print("select a from t order by 1"), print("select a from t order by 2"));
        assert_ne!(print("select a from t group by 1, 2"), print("select a from t group by 1, 3"));
        assert_ne!(print("select (select 1 order by 1)"), print("select (select 1 order by 2)"));
        assert_ne!(print("select distinct on (1) a from t"), print("select distinct on (2) a from t"));
        assert_ne!(print("select a from t order by t.limit, 1"), print("select a from t order by t.limit, 2"));
        assert_eq!(print("select a from t order by 1 limit 5"), print("select a from t order by 1 limit 6"));
        assert_eq!(print("select a from t order by b limit 5"), print("select a from t order by b limit 6"));
        assert_ne!(print("select a::numeric(10,2)"), print("select a::numeric(10,3)"));
        assert_ne!(print("select cast(a as varchar(10))"), print("select cast(a as varchar(11))"));
        assert_ne!(print("select varchar(10) 'x'"), print("select varchar(11) 'x'"));
        assert_ne!(print("select n'x'"), print("select n 'x'"));
        assert_eq!(print("select a as x from f(1)"), print("select a as x from f(2)"));
        assert_eq!(print("select a::int from (select 1) x"), print("select a::int from (select 2) x"));
        assert_eq!(print("select 1 where a::int in (1, 2)"), print("select 1 where a::int in (3, 4)"));
        assert_eq!(print("select cast(f(1) as int), 2"), print("select cast(f(2) as int), 3"));
    }

    #[test]
    fn equal_literals_of_grouped_expressions_stay_equal() {
        let grouped = |a: &str, b: &str| print(&format!("select f({a}, t) from x group by f({b}, t)"));
        assert_eq!(grouped("'day'", "'day'"), grouped("'hour'", "'hour'"));
        assert_ne!(grouped("'day'", "'day'"), grouped("'hour'", "'day'"));
        assert_ne!(grouped("5", "5"), grouped("6", "5"));
    }

    #[test]
    fn statements_other_than_queries_keep_their_literals() {
        assert_ne!(print("copy t from stdin delimiter ','"), print("copy t from stdin delimiter ';'"));
        assert_ne!(print("set a = 1"), print("set a = 2"));
    }
}
