//! The arguments of a call, also of the functions that have a grammar of their own.
//!
//! # Source
//! `func_application` and `func_expr_common_subexpr` of gram.y, PostgreSQL 15.

use std::ops::Range;

use crate::sql::lexer::TokenKind;
use crate::sql::parse::cursor::Source;
use crate::sql::parse::{Parsed, unsupported};

/// An expression that is read by itself, or what stands for one in an argument list.
#[derive(Clone, Debug)]
pub(super) enum Argument {
    /// Any expression.
    Expr(Range<usize>),
    /// An expression under a word: the row `t.*`, VARIADIC, a named argument, an item of ORDER BY … USING.
    Under(&'static str, Range<usize>),
    /// A word that is an argument: the field of EXTRACT, the form of NORMALIZE.
    Word(&'static str, usize),
}

impl Argument {
    /// Its first token.
    pub(super) fn start(&self) -> usize {
        match self {
            Self::Expr(tokens) | Self::Under(_, tokens) => tokens.start,
            Self::Word(_, token) => *token,
        }
    }
}

/// What stands between a call's parentheses.
pub(super) struct Arguments {
    /// DISTINCT.
    pub distinct: bool,
    /// `(*)`.
    pub star: bool,
    /// The arguments.
    pub list: Vec<Argument>,
    /// `ORDER BY …`.
    pub order_by: Option<Range<usize>>,
}

/// Whether a function's arguments are written in a way that is not read here.
pub(super) fn has_unknown_grammar(word: &str) -> bool {
    const WORDS: &[&str] = &[
        "json_array",
        "json_arrayagg",
        "json_exists",
        "json_object",
        "json_objectagg",
        "json_query",
        "json_scalar",
        "json_serialize",
        "json_table",
        "json_value",
        "merge_action",
        "treat",
        "xmlelement",
        "xmlexists",
        "xmlforest",
        "xmlparse",
        "xmlpi",
        "xmlroot",
        "xmlserialize",
        "xmltable",
    ];
    // `json_object('{a,1}')` is a plain function in versions before 16; only its new grammar is not.
    WORDS.contains(&word) && word != "json_object"
}

/// Reads the arguments between `open` and `close` of the function whose name ends at `name`.
pub(super) fn read(source: &Source<'_>, name: usize, open: usize, close: usize) -> Parsed<Arguments> {
    let mut arguments = Arguments { distinct: false, star: false, list: Vec::new(), order_by: None };
    let mut start = open + 1;
    let mut end = close;
    if close == open + 2 && source.is_symbol(start, "*") {
        arguments.star = true;
        return Ok(arguments);
    }
    if source.is_any_keyword(start, &["distinct", "all"]) {
        arguments.distinct = source.is_keyword(start, "distinct");
        start += 1;
    }
    if let Some(order) = source
        .depth_zero(start..close)
        .find(|token| source.lexed.are_keywords(source.text, *token, &["order", "by"]) && !source.is_field(*token))
    {
        arguments.order_by = Some(order..close);
        end = order;
    }
    let is_qualified = name > 0 && source.is_symbol(name - 1, ".");
    let word = if source.kind(name) == Some(TokenKind::Word) && !is_qualified {
        source.written(name).to_ascii_lowercase()
    } else {
        String::new()
    };
    if special(source, &word, start..end, &mut arguments.list)? {
        return Ok(arguments);
    }
    for tokens in source.split_commas(start..end) {
        arguments.list.push(argument(source, tokens)?);
    }
    Ok(arguments)
}

/// The fields that EXTRACT takes as words, and the forms of NORMALIZE.
const WORDS: &[&str] = &[
    "century",
    "day",
    "decade",
    "dow",
    "doy",
    "epoch",
    "hour",
    "isodow",
    "isoyear",
    "julian",
    "microseconds",
    "millennium",
    "milliseconds",
    "minute",
    "month",
    "nfc",
    "nfd",
    "nfkc",
    "nfkd",
    "quarter",
    "second",
    "timezone",
    "timezone_hour",
    "timezone_minute",
    "week",
    "year",
];

/// Reads the arguments of a function with a grammar of its own into the order of the function that PostgreSQL
/// calls; false if they are a plain list.
fn special(source: &Source<'_>, word: &str, tokens: Range<usize>, list: &mut Vec<Argument>) -> Parsed<bool> {
    let expr = |tokens: Range<usize>| match tokens.is_empty() {
        true => Err(unsupported("an argument is expected", tokens.start)),
        false => Ok(Argument::Expr(tokens)),
    };
    let word_at = |token: usize| {
        let found = WORDS.iter().find(|word| source.is_keyword(token, word));
        found.map(|word| Argument::Word(word, token)).ok_or_else(|| unsupported("a field is not known", token))
    };
    let find = |words: &[&str]| {
        source.depth_zero(tokens.clone()).find(|token| source.is_any_keyword(*token, words) && !source.is_field(*token))
    };
    match word {
        "extract" => {
            let Some(from) = find(&["from"]) else { return Ok(false) };
            list.push(if source.is_string(tokens.start) && from == tokens.start + 1 {
                expr(tokens.start..from)?
            } else if from == tokens.start + 1 {
                word_at(tokens.start)?
            } else {
                return Err(unsupported("a field is expected", tokens.start));
            });
            list.push(expr(from + 1..tokens.end)?);
        }
        "normalize" => {
            let Some(comma) = source.depth_zero(tokens.clone()).find(|token| source.is_symbol(*token, ",")) else {
                return Ok(false);
            };
            list.push(expr(tokens.start..comma)?);
            if comma + 2 != tokens.end {
                return Err(unsupported("a form is expected", comma));
            }
            list.push(word_at(comma + 1)?);
        }
        "position" => {
            let Some(keyword) = find(&["in"]) else { return Ok(false) };
            // The function takes the text first.
            list.push(expr(keyword + 1..tokens.end)?);
            list.push(expr(tokens.start..keyword)?);
        }
        "overlay" if find(&["placing"]).is_some() => {
            let mut start = tokens.start;
            for keyword in ["placing", "from", "for"] {
                if let Some(token) = find(&[keyword]) {
                    list.push(expr(start..token)?);
                    start = token + 1;
                }
            }
            list.push(expr(start..tokens.end)?);
        }
        "substring" => return substring(source, tokens, list),
        _ => return Ok(false),
    }
    Ok(true)
}

/// `substring(x FROM a FOR b)`, in either order and with one of them left out; `substring(x SIMILAR p ESCAPE e)`.
fn substring(source: &Source<'_>, tokens: Range<usize>, list: &mut Vec<Argument>) -> Parsed<bool> {
    let keywords: Vec<usize> = source
        .depth_zero(tokens.clone())
        .filter(|token| {
            source.is_any_keyword(*token, &["from", "for", "similar", "escape"]) && !source.is_field(*token)
        })
        .collect();
    let part = |keyword: usize| {
        let end = keywords.iter().copied().find(|token| *token > keyword).unwrap_or(tokens.end);
        match keyword + 1 < end {
            true => Ok(Argument::Expr(keyword + 1..end)),
            false => Err(unsupported("an argument is expected", keyword)),
        }
    };
    let find = |word: &str| keywords.iter().copied().find(|token| source.is_keyword(*token, word));
    let Some(first) = keywords.first().copied() else { return Ok(false) };
    if first == tokens.start || keywords.len() > 2 {
        return Err(unsupported("the arguments of SUBSTRING are not understood", first));
    }
    list.push(Argument::Expr(tokens.start..first));
    match (find("from"), find("for"), find("similar"), find("escape")) {
        (Some(from), None, None, None) => list.push(part(from)?),
        (Some(from), Some(length), None, None) => list.extend([part(from)?, part(length)?]),
        (None, Some(length), None, None) => {
            // PostgreSQL puts a 1 here.
            list.push(Argument::Word("first position", length));
            list.push(part(length)?);
        }
        (None, None, Some(similar), Some(escape)) => list.extend([part(similar)?, part(escape)?]),
        _ => return Err(unsupported("the arguments of SUBSTRING are not understood", first)),
    }
    Ok(true)
}

/// The function that TRIM means, and its arguments in its order.
pub(super) fn trim(source: &Source<'_>, open: usize, close: usize) -> Parsed<(&'static str, Vec<Argument>)> {
    let mut start = open + 1;
    let mut name = "btrim";
    for (word, function) in [("both", "btrim"), ("leading", "ltrim"), ("trailing", "rtrim")] {
        if source.is_keyword(start, word) {
            name = function;
            start += 1;
            break;
        }
    }
    let from =
        source.depth_zero(start..close).find(|token| source.is_keyword(*token, "from") && !source.is_field(*token));
    let mut list = Vec::new();
    for tokens in source.split_commas(from.map_or(start, |from| from + 1)..close) {
        list.push(argument(source, tokens)?);
    }
    if let Some(from) = from.filter(|from| *from > start) {
        list.push(Argument::Expr(start..from));
    }
    if list.is_empty() {
        return Err(unsupported("an argument is expected", open));
    }
    Ok((name, list))
}

/// One argument: under VARIADIC, a name, or `.*` behind a table's name.
fn argument(source: &Source<'_>, tokens: Range<usize>) -> Parsed<Argument> {
    let (start, end) = (tokens.start, tokens.end);
    let (under, skipped) =
        if source.is_name(start) && (source.is_symbol(start + 1, "=>") || source.is_symbol(start + 1, ":=")) {
            (Some("named argument"), 2)
        } else if source.is_keyword(start, "variadic") {
            (Some("variadic"), 1)
        } else {
            (None, 0)
        };
    let inner = start + skipped;
    if inner >= end || skipped == 2 && source.is_keyword(inner, "variadic") {
        return Err(unsupported("an argument is expected", tokens.start));
    }
    if let Some(under) = under {
        return Ok(Argument::Under(under, inner..end));
    }
    if end > start + 2 && source.is_symbol(end - 1, "*") && source.is_symbol(end - 2, ".") {
        return Ok(Argument::Under("whole row", start..end - 2));
    }
    Ok(Argument::Expr(tokens))
}
