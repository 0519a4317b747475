//! Target lists of SELECT and RETURNING.

use std::ops::Range;

use crate::sql::ast::{Expr, SelectItem, SelectItemKind};
use crate::sql::lexer::TokenKind;
use crate::sql::parse::cursor::{Cursor, Source};
use crate::sql::parse::{Parsed, expression, keywords, types, unsupported};

/// The items at the cursor; none if a clause follows at once (`SELECT FROM t`).
pub(super) fn list(cursor: &mut Cursor<'_, '_>) -> Parsed<Vec<SelectItem>> {
    let mut items = Vec::new();
    if cursor.is_done() || cursor.source.expression_end(cursor.at, cursor.end) == cursor.at {
        return Ok(items);
    }
    loop {
        let tokens = cursor.expression()?;
        items.push(item(cursor.source, tokens)?);
        if !cursor.eat_symbol(",") {
            return Ok(items);
        }
    }
}

fn item(source: &Source<'_>, tokens: Range<usize>) -> Parsed<SelectItem> {
    let (start, end) = (tokens.start, tokens.end);
    if tokens.len() == 1 && source.is_symbol(start, "*") {
        return Ok(SelectItem { kind: SelectItemKind::Wildcard, expr_tokens: tokens.clone(), tokens });
    }
    if tokens.len() > 2 && source.is_symbol(end - 1, "*") && source.is_symbol(end - 2, ".") {
        return Ok(SelectItem { kind: expansion(source, start..end - 2)?, expr_tokens: tokens.clone(), tokens });
    }
    let (expr_end, alias) = if tokens.len() > 2 && source.is_keyword(end - 2, "as") && source.is_name(end - 1) {
        (end - 2, source.name(end - 1))
    } else if tokens.len() > 1 && is_bare_alias(source, start, end - 1) {
        (end - 1, source.name(end - 1))
    } else {
        (end, None)
    };
    let expr_tokens = start..expr_end;
    let expr = expression::parse(source, expr_tokens.clone())?;
    Ok(SelectItem { kind: SelectItemKind::Expr { expr, alias }, tokens, expr_tokens })
}

/// `t.*`, `s.t.*`, or the columns of a composite value, `(…).*`.
fn expansion(source: &Source<'_>, tokens: Range<usize>) -> Parsed<SelectItemKind> {
    let is_names = tokens.len() % 2 == 1
        && tokens
            .clone()
            .enumerate()
            .all(|(index, token)| if index % 2 == 0 { source.is_name(token) } else { source.is_symbol(token, ".") });
    if is_names {
        let name = source.name(tokens.end - 1).ok_or_else(|| unsupported("a name is expected", tokens.start))?;
        return Ok(SelectItemKind::QualifiedWildcard(name));
    }
    let inner = expression::parse(source, tokens)?;
    let expr = Expr::Other { what: "row expansion", children: vec![inner] };
    Ok(SelectItemKind::Expr { expr, alias: None })
}

/// Whether the last token of an item is an alias written without AS.
fn is_bare_alias(source: &Source<'_>, start: usize, last: usize) -> bool {
    let before = last - 1;
    let is_quoted = source.kind(last) == Some(TokenKind::QuotedIdent);
    let is_free_word = source.kind(last) == Some(TokenKind::Word) && !keywords::is_reserved(source.written(last));
    if !is_quoted && !is_free_word {
        return false;
    }
    match source.kind(before) {
        Some(TokenKind::Punctuation) => {
            matches!(source.written(before), ")" | "]")
                && !ends_type(source, start, last)
                && !ends_operator(source, start, before)
        }
        Some(TokenKind::Operator) | None => false,
        // `interval '1' year` has its field behind.
        Some(TokenKind::Literal(_)) => {
            !(types::is_interval_field(source, last) && before > start && types::ends_interval(source, before - 1))
        }
        Some(TokenKind::Param(_) | TokenKind::QuotedIdent) => true,
        Some(TokenKind::Word) => {
            let word = source.written(before);
            let is_operand = source.is_field(before) || !keywords::is_reserved(word) || keywords::is_value(word);
            let takes_operand = !source.is_field(before)
                && (source.is_any_keyword(before, &["between", "escape"])
                    || source.is_keyword(before, "over") && before > start && source.is_symbol(before - 1, ")")
                    || before >= start + 2
                        && source.lexed.are_keywords(source.text, before - 2, &["at", "time", "zone"]));
            is_operand && !takes_operand && !ends_type(source, start, last)
        }
    }
}

/// Whether the token `last` still belongs to a type after `::`, as in `x::double precision`.
fn ends_type(source: &Source<'_>, start: usize, last: usize) -> bool {
    (start..last).rev().take(12).any(|at| {
        source.is_symbol(at, "::") && types::end_of_type(source, at + 1, last + 1).is_some_and(|end| end > last)
    })
}

/// Whether this parenthesis closes `OPERATOR(…)`, so that an operand follows.
fn ends_operator(source: &Source<'_>, start: usize, close: usize) -> bool {
    let mut at = start;
    while at < close {
        match source.close_of(at) {
            Some(end) if end == close => return at > start && source.is_keyword(at - 1, "operator"),
            Some(end) => at = end + 1,
            None => at += 1,
        }
    }
    false
}
