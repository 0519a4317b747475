//! Expressions: their boolean structure is read here, the rest goes to the parser crate.
//!
//! OR binds loosest, then AND, then NOT. Taking them apart here keeps long chains flat: the parser
//! crate would build a tree as deep as the chain is long.

use std::ops::Range;

use crate::sql::ast::Expr;
use crate::sql::lexer::TokenKind;
use crate::sql::parse::cursor::Source;
use crate::sql::parse::{Parsed, keywords, query, scalar, unsupported};

/// The expression that these tokens write.
pub(super) fn parse(source: &Source<'_>, tokens: Range<usize>) -> Parsed<Expr> {
    if tokens.is_empty() {
        return Err(unsupported("an expression is expected", tokens.start));
    }
    if tokens.len() == 1
        && let Some(expr) = single(source, tokens.start)
    {
        return Ok(expr);
    }
    if let Some(terms) = split(source, tokens.clone(), "or") {
        return Ok(Expr::Or(flatten(source, terms, |expr| match expr {
            Expr::Or(inner) => Ok(inner),
            other => Err(other),
        })?));
    }
    if let Some(terms) = split(source, tokens.clone(), "and") {
        return Ok(Expr::And(flatten(source, terms, |expr| match expr {
            Expr::And(inner) => Ok(inner),
            other => Err(other),
        })?));
    }
    if source.is_keyword(tokens.start, "not") {
        return negation(source, tokens);
    }
    term(source, tokens)
}

/// The expressions between the commas of these tokens.
pub(super) fn list(source: &Source<'_>, tokens: Range<usize>) -> Parsed<Vec<Expr>> {
    source.split_commas(tokens).into_iter().map(|tokens| parse(source, tokens)).collect()
}

fn flatten(
    source: &Source<'_>,
    terms: Vec<Range<usize>>,
    same: impl Fn(Expr) -> Result<Vec<Expr>, Expr>,
) -> Parsed<Vec<Expr>> {
    let mut flat = Vec::with_capacity(terms.len());
    for tokens in terms {
        match same(parse(source, tokens)?) {
            Ok(inner) => flat.extend(inner),
            Err(other) => flat.push(other),
        }
    }
    Ok(flat)
}

/// `NOT x`: NOT NOT is undone in a loop, so that a long run of them is no deep tree.
fn negation(source: &Source<'_>, tokens: Range<usize>) -> Parsed<Expr> {
    let mut start = tokens.start;
    while start < tokens.end && source.is_keyword(start, "not") {
        start += 1;
    }
    let is_odd = (start - tokens.start) % 2 == 1;
    let expr = parse(source, start..tokens.end)?;
    Ok(match expr {
        Expr::Exists { query, negated } if is_odd => Expr::Exists { query, negated: !negated },
        expr if is_odd => Expr::Not(Box::new(expr)),
        expr => expr,
    })
}

/// One token that is an expression by itself.
fn single(source: &Source<'_>, token: usize) -> Option<Expr> {
    match source.kind(token)? {
        TokenKind::Literal(index) => Some(Expr::Literal(index)),
        TokenKind::Param(number) => Some(Expr::Param(number)),
        TokenKind::QuotedIdent => Some(Expr::Column { qualifier: Vec::new(), name: source.name(token)? }),
        TokenKind::Word => {
            let word = source.written(token);
            if !keywords::is_reserved(word) {
                return Some(Expr::Column { qualifier: Vec::new(), name: source.name(token)? });
            }
            if word.eq_ignore_ascii_case("null") {
                return Some(Expr::Null);
            }
            if word.eq_ignore_ascii_case("true") || word.eq_ignore_ascii_case("false") {
                return Some(Expr::Bool(word.eq_ignore_ascii_case("true")));
            }
            word.eq_ignore_ascii_case("default").then_some(Expr::Default)
        }
        TokenKind::Operator | TokenKind::Punctuation => None,
    }
}

/// The ranges round each depth-0 `keyword`; `None` if it does not occur. The AND of BETWEEN and what is
/// inside CASE … END is no conjunction.
fn split(source: &Source<'_>, tokens: Range<usize>, keyword: &str) -> Option<Vec<Range<usize>>> {
    let mut parts = Vec::new();
    let mut start = tokens.start;
    let mut betweens = 0usize;
    let mut at = tokens.start;
    while at < tokens.end {
        if let Some(close) = source.close_of(at) {
            at = close;
        } else if source.kind(at) == Some(TokenKind::Word) && !source.is_field(at) {
            let word = source.written(at);
            if word.eq_ignore_ascii_case("case") {
                at = source.end_of_case(at, tokens.end)?;
            } else if word.eq_ignore_ascii_case("between") {
                betweens += 1;
            } else if word.eq_ignore_ascii_case("and") && betweens > 0 {
                betweens -= 1;
            } else if word.eq_ignore_ascii_case(keyword) {
                parts.push(start..at);
                start = at + 1;
            }
        }
        at += 1;
    }
    if parts.is_empty() {
        return None;
    }
    parts.push(start..tokens.end);
    Some(parts)
}

/// An expression without AND, OR and NOT at its own depth.
fn term(source: &Source<'_>, tokens: Range<usize>) -> Parsed<Expr> {
    let (start, end) = (tokens.start, tokens.end);
    if source.is_symbol(start, "(") && source.close_of(start) == Some(end - 1) {
        return group(source, start, end - 1);
    }
    if source.is_keyword(start, "exists")
        && source.is_query_group(start + 1)
        && source.close_of(start + 1) == Some(end - 1)
    {
        let query = Box::new(query::whole(source.cursor(start + 2..end - 1))?);
        return Ok(Expr::Exists { query, negated: false });
    }
    if source.is_symbol(start, "[") && source.close_of(start) == Some(end - 1) {
        // The inner brackets of ARRAY[[1, 2], [3, 4]].
        return Ok(Expr::Other { what: "array", children: list(source, start + 1..end - 1)? });
    }
    source.nest(start, || {
        if source.is_keyword(start, "case") && source.end_of_case(start, end) == Some(end - 1) {
            return case(source, start + 1, end - 1);
        }
        match membership(source, tokens.clone())? {
            Some(expr) => Ok(expr),
            None => scalar::parse(source, tokens),
        }
    })
}

/// `[operand] WHEN … THEN … [ELSE …]`, between CASE and END.
fn case(source: &Source<'_>, start: usize, end: usize) -> Parsed<Expr> {
    let mut children = Vec::new();
    let mut what = "case";
    let mut part = start;
    let mut at = start;
    while at < end {
        if let Some(close) = source.close_of(at) {
            at = close;
        } else if source.is_keyword(at, "case") && !source.is_field(at) {
            at = source.end_of_case(at, end).unwrap_or(at);
        } else if source.is_any_keyword(at, &["when", "then", "else"]) && !source.is_field(at) {
            if part < at {
                children.push(parse(source, part..at)?);
            } else if at > start {
                return Err(unsupported("an expression is expected", at));
            }
            part = at + 1;
            if source.is_keyword(at, "else") {
                what = "case with else";
            }
        }
        at += 1;
    }
    children.push(parse(source, part..end)?);
    Ok(Expr::Other { what, children })
}

/// What stands in these parentheses: a query, a row, or one expression.
fn group(source: &Source<'_>, open: usize, close: usize) -> Parsed<Expr> {
    if source.is_query_group(open) {
        return Ok(Expr::Subquery(Box::new(query::whole(source.cursor(open + 1..close))?)));
    }
    let parts = source.split_commas(open + 1..close);
    if parts.len() > 1 {
        return Ok(Expr::Row(list(source, open + 1..close)?));
    }
    parse(source, open + 1..close)
}

/// `x IN (…)` and `x NOT IN (…)`, if x is an operand that IN takes as a whole. Lists of many members
/// are read here, member by member.
fn membership(source: &Source<'_>, tokens: Range<usize>) -> Parsed<Option<Expr>> {
    let mut at = tokens.start;
    let mut found = None;
    while at < tokens.end {
        if let Some(close) = source.close_of(at) {
            at = close + 1;
            continue;
        }
        if source.kind(at) == Some(TokenKind::Operator)
            && matches!(source.written(at), "=" | "<" | ">" | "<=" | ">=" | "<>" | "!=")
        {
            return Ok(None);
        }
        if !source.is_field(at) {
            if source.is_keyword(at, "in") && source.close_of(at + 1) == Some(tokens.end - 1) {
                found = Some(at);
                break;
            }
            // A NOT inside the operand would take the IN for itself.
            let negates = source.is_keyword(at, "not") && !source.is_keyword(at + 1, "in");
            if negates
                || source.is_any_keyword(
                    at,
                    &["is", "isnull", "notnull", "between", "like", "ilike", "similar", "in", "case", "overlaps"],
                )
            {
                return Ok(None);
            }
        }
        at += 1;
    }
    let Some(keyword) = found.filter(|keyword| *keyword > tokens.start) else { return Ok(None) };
    let negated = source.is_keyword(keyword - 1, "not");
    let operand_end = keyword - usize::from(negated);
    if operand_end == tokens.start {
        return Ok(None);
    }
    let expr = Box::new(parse(source, tokens.start..operand_end)?);
    let inside = keyword + 2..tokens.end - 1;
    Ok(Some(if source.is_query_group(keyword + 1) {
        let query = Box::new(query::whole(source.cursor(inside))?);
        Expr::InSubquery { expr, query, negated }
    } else {
        Expr::InList { expr, list: list(source, inside)?, negated }
    }))
}
