//! The arguments of a call, also of the functions that have a grammar of their own.
//!
//! # Source
//! `func_application` and `func_expr_common_subexpr` of gram.y, PostgreSQL 15.

use std::ops::Range;

use crate::sql::lexer::TokenKind;
use crate::sql::parse::cursor::Source;
use crate::sql::parse::{Parsed, unsupported};

/// An expression that is read by itself.
#[derive(Clone, Debug)]
pub(super) enum Argument {
    /// Any expression.
    Expr(Range<usize>),
    /// `t` of `t.*`: the row as a whole.
    WholeRow(Range<usize>),
}

impl Argument {
    /// Its tokens.
    pub(super) fn tokens(&self) -> &Range<usize> {
        match self {
            Self::Expr(tokens) | Self::WholeRow(tokens) => tokens,
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
    for tokens in special(source, &word, start..end) {
        arguments.list.push(argument(source, tokens)?);
    }
    Ok(arguments)
}

/// The ranges of the arguments, at the commas or at the keywords that separate them.
fn special(source: &Source<'_>, word: &str, tokens: Range<usize>) -> Vec<Range<usize>> {
    let mut tokens = tokens;
    let separators: &[&str] = match word {
        "extract" => {
            if source.is_keyword(tokens.start + 1, "from") {
                tokens.start += 2;
            }
            &[]
        }
        "normalize" => {
            let form = tokens.end.saturating_sub(1);
            let is_form = source.is_any_keyword(form, &["nfc", "nfd", "nfkc", "nfkd"])
                && form > tokens.start + 1
                && source.is_symbol(form - 1, ",");
            if is_form {
                tokens.end = form - 1;
            }
            &[]
        }
        "position" => &["in"],
        "overlay" => &["placing", "from", "for"],
        "substring" => &["from", "for", "similar", "escape"],
        "trim" => {
            if source.is_any_keyword(tokens.start, &["both", "leading", "trailing"]) {
                tokens.start += 1;
            }
            &["from"]
        }
        _ => &[],
    };
    let mut parts = Vec::new();
    let mut start = tokens.start;
    for token in source.depth_zero(tokens.clone()) {
        let separates = source.is_symbol(token, ",")
            || !separators.is_empty() && source.is_any_keyword(token, separators) && !source.is_field(token);
        if separates {
            // `trim(FROM x)` has nothing before its keyword.
            if start < token || source.is_symbol(token, ",") {
                parts.push(start..token);
            }
            start = token + 1;
        }
    }
    if !tokens.is_empty() {
        parts.push(start..tokens.end);
    }
    parts
}

/// One argument: VARIADIC and the name of a named one are left out.
fn argument(source: &Source<'_>, tokens: Range<usize>) -> Parsed<Argument> {
    let (mut start, end) = (tokens.start, tokens.end);
    if source.is_name(start) && (source.is_symbol(start + 1, "=>") || source.is_symbol(start + 1, ":=")) {
        start += 2;
    }
    if source.is_keyword(start, "variadic") {
        start += 1;
    }
    if start >= end {
        return Err(unsupported("an argument is expected", tokens.start));
    }
    if end > start + 2 && source.is_symbol(end - 1, "*") && source.is_symbol(end - 2, ".") {
        return Ok(Argument::WholeRow(start..end - 2));
    }
    Ok(Argument::Expr(start..end))
}
