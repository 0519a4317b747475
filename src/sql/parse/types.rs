//! Type names in expressions and column definitions.

use std::ops::Range;

use crate::sql::lexer::TokenKind;
use crate::sql::parse::cursor::Source;
use crate::sql::parse::keywords;

/// Where the type that starts at `start` ends; `None` if no type starts there.
pub(super) fn end_of_type(source: &Source<'_>, start: usize, end: usize) -> Option<usize> {
    let mut at = start;
    if source.is_keyword(at, "setof") {
        at += 1;
    }
    if at >= end || !source.is_name(at) {
        return None;
    }
    let is_word = source.kind(at) == Some(TokenKind::Word);
    let word = if is_word { source.written(at).to_ascii_lowercase() } else { String::new() };
    if is_word && keywords::is_reserved(&word) {
        return None;
    }
    at += 1;
    match word.as_str() {
        "double" if source.is_keyword(at, "precision") => at += 1,
        "national" if source.is_any_keyword(at, &["character", "char"]) => {
            at += 1;
            at += usize::from(source.is_keyword(at, "varying"));
        }
        "character" | "char" | "nchar" | "bit" => at += usize::from(source.is_keyword(at, "varying")),
        _ => {
            while source.is_symbol(at, ".") && source.is_name(at + 1) && at + 1 < end {
                at += 2;
            }
        }
    }
    if word == "interval" {
        at = end_of_interval(source, at);
    } else if at < end && source.is_symbol(at, "(") {
        at = source.close_of(at)? + 1;
    }
    if matches!(word.as_str(), "timestamp" | "time")
        && source.is_any_keyword(at, &["with", "without"])
        && source.is_keyword(at + 1, "time")
        && source.is_keyword(at + 2, "zone")
    {
        at += 3;
    }
    at = end_of_array(source, at);
    (at <= end).then_some(at)
}

fn end_of_array(source: &Source<'_>, mut at: usize) -> usize {
    if source.is_keyword(at, "array") {
        at += 1;
    }
    while source.is_symbol(at, "[") {
        match source.close_of(at) {
            // Only bounds: `[]` or `[3]`; anything longer is a subscript of something else.
            Some(close) if close <= at + 2 => at = close + 1,
            _ => break,
        }
    }
    at
}

/// Where the fields and the precision of an interval end, from just after the word.
pub(super) fn end_of_interval(source: &Source<'_>, mut at: usize) -> usize {
    if source.is_symbol(at, "(") {
        return source.close_of(at).map_or(at, |close| close + 1);
    }
    if is_interval_field(source, at) {
        at += 1;
        if source.is_keyword(at, "to") && is_interval_field(source, at + 1) {
            at += 2;
        }
        if source.is_keyword(at - 1, "second") && source.is_symbol(at, "(") {
            at = source.close_of(at).map_or(at, |close| close + 1);
        }
    }
    at
}

/// YEAR, MONTH, DAY, HOUR, MINUTE or SECOND.
pub(super) fn is_interval_field(source: &Source<'_>, token: usize) -> bool {
    source.is_any_keyword(token, &["year", "month", "day", "hour", "minute", "second"])
}

/// Whether `interval` or `interval(p)` ends at this token.
pub(super) fn ends_interval(source: &Source<'_>, token: usize) -> bool {
    source.is_keyword(token, "interval")
        || token >= 3 && source.is_symbol(token, ")") && source.is_keyword(token - 3, "interval")
}

/// The type's name as folded text: words in lower case joined by one space, no space round brackets.
pub(super) fn type_name(source: &Source<'_>, tokens: Range<usize>) -> String {
    let mut name = String::new();
    for token in tokens {
        let is_word = source.is_name(token);
        let follows_word = name.chars().next_back().is_some_and(|last| !matches!(last, '.' | '(' | ','));
        if is_word && follows_word {
            name.push(' ');
        }
        match source.kind(token) {
            Some(TokenKind::QuotedIdent) => {
                let quoted = source.name(token).unwrap_or_default();
                // `"char"` is another type than `char`, which means character(1); so with bit.
                if matches!(quoted.as_str(), "char" | "bit") {
                    name.push_str(&format!("\"{quoted}\""));
                } else {
                    name.push_str(&quoted);
                }
            }
            Some(TokenKind::Word) => name.push_str(&source.name(token).unwrap_or_default()),
            Some(TokenKind::Literal(_)) => {
                name.push_str(source.lexed.literal(token).map_or("", |literal| literal.value.as_str()));
            }
            _ => name.push_str(source.written(token)),
        }
    }
    name
}
