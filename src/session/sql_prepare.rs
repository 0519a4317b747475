//! PREPARE and EXECUTE as statements, read from their tokens.
//!
//! Must not know: what the statement does, types' numbers.

use std::ops::Range;

use crate::sql::{Lexed, LiteralKind, TokenKind};

/// `PREPARE name [(types)] AS statement`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// The statement's name.
    pub name: String,
    /// Declared types of the first parameters, as written.
    pub types: Vec<String>,
    /// The statement's text.
    pub body: String,
    /// Where in the text it begins.
    ///
    /// # Units
    /// Bytes.
    pub body_start: usize,
}

/// `EXECUTE name [(arguments)]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execute {
    /// The statement's name.
    pub name: String,
    /// Values of its parameters.
    pub arguments: Vec<Argument>,
}

/// A value that EXECUTE gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// NULL.
    Null,
    /// What a parameter's type reads from this text is the value.
    Value(String),
    /// A constant that a server has to compute.
    Constant(String),
    /// Anything else.
    Other,
}

/// Takes PREPARE apart; `None` when it is not of that form.
pub fn read_prepare(text: &str, lexed: &Lexed) -> Option<Prepare> {
    let end = end_of(text, lexed);
    let name = lexed.identifier(text, 1)?;
    let mut at = 2;
    let mut types = Vec::new();
    if lexed.is_symbol(text, at, "(") {
        let close = closing(text, lexed, at, end)?;
        types =
            parts(text, lexed, at + 1..close).into_iter().map(|part| lexed.range_text(text, part).to_owned()).collect();
        at = close + 1;
    }
    if !lexed.is_keyword(text, at, "as") || at + 1 >= end {
        return None;
    }
    let body_start = lexed.byte_range(at + 1..end).start;
    Some(Prepare { name, types, body: lexed.range_text(text, at + 1..end).to_owned(), body_start })
}

/// Takes EXECUTE apart; `None` when it is not of that form.
pub fn read_execute(text: &str, lexed: &Lexed) -> Option<Execute> {
    let end = end_of(text, lexed);
    let name = lexed.identifier(text, 1)?;
    let mut arguments = Vec::new();
    if end > 2 {
        if !lexed.is_symbol(text, 2, "(") || closing(text, lexed, 2, end)? + 1 != end {
            return None;
        }
        arguments = parts(text, lexed, 3..end - 1).into_iter().map(|part| argument(text, lexed, &part)).collect();
    }
    Some(Execute { name, arguments })
}

/// The number of parameters that a text names.
pub fn parameter_count(lexed: &Lexed) -> usize {
    let numbers = lexed.tokens.iter().map(|token| match token.kind {
        TokenKind::Param(number) => number as usize,
        _ => 0,
    });
    numbers.max().unwrap_or(0)
}

/// One past the last token that is no semicolon.
fn end_of(text: &str, lexed: &Lexed) -> usize {
    let mut end = lexed.tokens.len();
    while end > 0 && lexed.is_symbol(text, end - 1, ";") {
        end -= 1;
    }
    end
}

fn closing(text: &str, lexed: &Lexed, open: usize, end: usize) -> Option<usize> {
    let mut depth = 0usize;
    (open..end).find(|at| {
        if lexed.is_symbol(text, *at, "(") {
            depth += 1;
        } else if lexed.is_symbol(text, *at, ")") {
            depth = depth.saturating_sub(1);
        }
        depth == 0
    })
}

/// Splits at commas outside of parentheses and brackets; no parts of nothing.
fn parts(text: &str, lexed: &Lexed, tokens: Range<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    if tokens.is_empty() {
        return found;
    }
    let (mut depth, mut start) = (0i32, tokens.start);
    for at in tokens.clone() {
        if lexed.is_symbol(text, at, "(") || lexed.is_symbol(text, at, "[") {
            depth += 1;
        } else if lexed.is_symbol(text, at, ")") || lexed.is_symbol(text, at, "]") {
            depth -= 1;
        } else if depth == 0 && lexed.is_symbol(text, at, ",") {
            found.push(start..at);
            start = at + 1;
        }
    }
    found.push(start..tokens.end);
    found
}

fn argument(text: &str, lexed: &Lexed, tokens: &Range<usize>) -> Argument {
    let is_negative = lexed.is_symbol(text, tokens.start, "-");
    let first = if is_negative { tokens.start + 1 } else { tokens.start };
    if tokens.end == first + 1 {
        if let Some(literal) = lexed.literal(first) {
            match (literal.kind, is_negative) {
                (LiteralKind::String, false) => return Argument::Value(literal.value.clone()),
                (LiteralKind::Integer, false) => return Argument::Value(literal.value.clone()),
                (LiteralKind::Integer, true) => return Argument::Value(format!("-{}", literal.value)),
                _ => {}
            }
        }
        if !is_negative && lexed.is_keyword(text, first, "null") {
            return Argument::Null;
        }
        if !is_negative && (lexed.is_keyword(text, first, "true") || lexed.is_keyword(text, first, "false")) {
            return Argument::Value(lexed.text(text, first).to_ascii_lowercase());
        }
    }
    if !tokens.is_empty() && tokens.clone().all(|at| may_be_constant(text, lexed, at)) {
        Argument::Constant(lexed.range_text(text, tokens.clone()).to_owned())
    } else {
        Argument::Other
    }
}

/// Words before a parenthesis that are no functions.
const NO_FUNCTIONS: &[&str] = &[
    "cast",
    "numeric",
    "decimal",
    "varchar",
    "char",
    "character",
    "varying",
    "bit",
    "timestamp",
    "time",
    "interval",
    "row",
];

fn may_be_constant(text: &str, lexed: &Lexed, at: usize) -> bool {
    match lexed.tokens.get(at).map(|token| token.kind) {
        Some(TokenKind::Param(_)) | None => false,
        Some(TokenKind::Word) => {
            let is_call = lexed.is_symbol(text, at + 1, "(");
            !lexed.is_keyword(text, at, "select")
                && !lexed.is_keyword(text, at, "values")
                && (!is_call || NO_FUNCTIONS.iter().any(|word| lexed.is_keyword(text, at, word)))
        }
        Some(TokenKind::QuotedIdent) => !lexed.is_symbol(text, at + 1, "("),
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lex;

    fn arguments(text: &str) -> Vec<Argument> {
        read_execute(text, &lex(text).unwrap()).unwrap().arguments
    }

    #[test]
    fn prepare_is_taken_apart() {
        let text = "PREPARE \"A b\" (int, numeric(10,2)) AS SELECT $1, ')';";
        let prepare = read_prepare(text, &lex(text).unwrap()).unwrap();
        assert_eq!(prepare.name, "A b");
        assert_eq!(prepare.types, ["int", "numeric(10,2)"]);
        assert_eq!(prepare.body, "SELECT $1, ')'");
        for wrong in ["PREPARE a", "PREPARE a AS", "PREPARE a (int AS SELECT 1", "PREPARE a SELECT 1"] {
            assert_eq!(read_prepare(wrong, &lex(wrong).unwrap()), None, "{wrong}");
        }
    }

    #[test]
    fn execute_tells_constants_from_the_rest() {
        let value = |text: &str| Argument::Value(text.into());
        assert_eq!(arguments("EXECUTE a"), []);
        assert_eq!(arguments("EXECUTE a()"), []);
        assert_eq!(
            arguments("EXECUTE a(5, -3, 'it''s', NULL, True);"),
            [value("5"), value("-3"), value("it's"), Argument::Null, value("true")]
        );
        let constant = |text: &str| Argument::Constant(text.into());
        assert_eq!(
            arguments("EXECUTE a(1.5, '2020-01-01'::date, CAST('5' AS int), ARRAY[1, 2], 1 + 2)"),
            [
                constant("1.5"),
                constant("'2020-01-01'::date"),
                constant("CAST('5' AS int)"),
                constant("ARRAY[1, 2]"),
                constant("1 + 2")
            ]
        );
        assert_eq!(arguments("EXECUTE a(now(), $1, (SELECT 1))"), [Argument::Other, Argument::Other, Argument::Other]);
        let wrong = "EXECUTE a(1) b";
        assert_eq!(read_execute(wrong, &lex(wrong).unwrap()), None);
    }

    #[test]
    fn parameters_are_counted_by_the_highest() {
        assert_eq!(parameter_count(&lex("SELECT $3, $1").unwrap()), 3);
        assert_eq!(parameter_count(&lex("SELECT 1").unwrap()), 0);
    }
}
