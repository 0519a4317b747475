//! Aggregates within expressions: the shards aggregate what they have, one PostgreSQL combines and computes the rest.
//!
//! The clauses behind FROM stay the client's own text; aggregates in them become combinations of the shards' results, and
//! what the groups are by becomes a column. Nothing here has to be complete: PostgreSQL is asked whether the text gives
//! the same columns as the client's, and if not all rows are gathered instead.

use std::sync::Arc;

use super::Subject;
use super::functions;
use super::merge_expr;
use super::names;
use super::scope::Scope;
use super::select_facts;
use super::visit;
use crate::plan::{Partial, PartialColumn, PartialPlan, Piece, Splice};
use crate::sql::TokenKind;
use crate::sql::ast::{Call, Distinct, Expr, OrderItem, Query, Select, SelectItemKind, SetExpr, TokenRange};
use crate::topology::TableName;

/// Names of aggregates whose results on parts make the result of the whole.
const COMBINED: &[&str] = &["avg", "bit_and", "bit_or", "bool_and", "bool_or", "count", "every", "max", "min", "sum"];

/// The plan of a query whose parts the shards can aggregate; `None`: its rows have to be gathered.
pub fn plan(subject: &Subject<'_>, query: &Query, scope: &Scope, tables: &[&TableName]) -> Option<Arc<PartialPlan>> {
    let SetExpr::Select(select) = &query.body else { return None };
    let from = select.from_tokens.clone()?;
    let is_plain = query.with.is_empty()
        && !query.locks
        && !select.grouping_sets
        && matches!(select.distinct, Distinct::No | Distinct::Rows)
        && select.window_exprs.is_empty()
        && select_facts::is_grouped(subject, select, &query.order_by)
        && select.items.iter().all(select_facts::is_one_column);
    if !is_plain || !are_known(subject, query, select, tables) {
        return None;
    }
    let mut maker = Maker { subject, columns: Vec::new(), groups: Vec::new(), shown: Vec::new() };
    for item in &select.group_by {
        maker.group(select, &item.expr, &item.tokens, scope)?;
    }
    let mut splices = Vec::new();
    for item in &select.items {
        splices.extend(maker.replaced(&item.expr_tokens, true));
        let is_named = matches!(&item.kind, SelectItemKind::Expr { alias: Some(_), .. });
        if !is_named {
            let name = super::rewrite::quoted(&names::of_item(item)?);
            let end = item.expr_tokens.end;
            splices.push(Splice { tokens: end..end, with: vec![Piece::Text(format!(" AS {name}"))] });
        }
    }
    let start = from.start;
    let end = [&select.where_tokens, &select.group_by_tokens].into_iter().flatten().map(|tokens| tokens.end);
    let rows_end = end.fold(from.end, usize::max);
    let at = splices.len();
    if let Some(having) = &select.having_tokens {
        splices.extend(maker.replaced(having, false));
    }
    for item in &query.order_by {
        // A name alone is first of all an output column's.
        if item.tokens.len() > 1 {
            splices.extend(maker.replaced(&item.tokens, true));
        }
    }
    let calls = visited_aggregates(subject, select, &query.order_by);
    if maker.columns.is_empty() || calls != maker.shown.len() {
        return None;
    }
    splices.insert(at, Splice { tokens: start..rows_end, with: maker.finishing_rows() });
    let fetch = maker.shard_text(&from, select.where_tokens.as_ref());
    let every_token: TokenRange = 0..subject.lexed.tokens.len();
    let params = params_in(subject, &[Piece::Tokens(every_token)]).into_iter().max().unwrap_or(0);
    let used = params_in(subject, &fetch);
    Some(Arc::new(PartialPlan { columns: maker.columns, fetch, splices, params, used }))
}

fn params_in(subject: &Subject<'_>, pieces: &[Piece]) -> Vec<u32> {
    let tokens = pieces.iter().filter_map(|piece| match piece {
        Piece::Tokens(tokens) => subject.lexed.tokens.get(tokens.clone()),
        _ => None,
    });
    tokens
        .flatten()
        .filter_map(|token| match token.kind {
            TokenKind::Param(number) => Some(number),
            _ => None,
        })
        .collect()
}

/// Every part means the same wherever it is computed, and what is compared is compared the same way.
fn are_known(subject: &Subject<'_>, query: &Query, select: &Select, tables: &[&TableName]) -> bool {
    // Elements of an array have the collation of their type.
    let mut is_fine = tables
        .iter()
        .filter_map(|table| subject.schema.relations.get(*table))
        .all(|relation| relation.columns.iter().all(|column| column.written.collation.is_none()));
    visit::in_query(query, &mut |expr| {
        is_fine &= !functions::differs_by_shard(subject.schema, expr);
        is_fine &= !matches!(expr, Expr::Collate { .. });
    });
    let outside = visit::item_exprs(&select.items)
        .chain(&select.having)
        .chain(select.group_by.iter().map(|item| &item.expr))
        .chain(query.order_by.iter().map(|item| &item.expr));
    let mut has_query = false;
    outside.for_each(|expr| has_query |= visit::has_query(expr));
    is_fine && !has_query
}

/// Number of aggregates that have to be replaced; none of them may be of another kind.
fn visited_aggregates(subject: &Subject<'_>, select: &Select, order: &[OrderItem]) -> usize {
    let mut count = 0;
    let exprs = visit::item_exprs(&select.items).chain(&select.having).chain(order.iter().map(|item| &item.expr));
    for expr in exprs {
        visit::in_expr(expr, &mut |part| {
            if let Expr::Function(call) = part
                && functions::is_aggregate(subject.schema, call)
            {
                count += if is_combined(call) { 1 } else { UNKNOWN };
            }
        });
    }
    count
}

/// More than any statement has.
const UNKNOWN: usize = 1 << 32;

fn is_combined(call: &Call) -> bool {
    call.name.schema.is_none()
        && COMBINED.contains(&call.name.name.as_str())
        && !call.distinct
        && !call.within_group
        && call.order_by.is_empty()
}

struct Maker<'m> {
    subject: &'m Subject<'m>,
    columns: Vec<PartialColumn>,
    /// Tokens of what the groups are by, and the column.
    groups: Vec<(TokenRange, usize)>,
    /// Aggregates that were replaced.
    shown: Vec<usize>,
}

impl Maker<'_> {
    fn group(&mut self, select: &Select, expr: &Expr, tokens: &TokenRange, scope: &Scope) -> Option<()> {
        let meant = select_facts::grouped_by(self.subject, select, expr, scope)?;
        let item = select.items.iter().find(|item| match &item.kind {
            SelectItemKind::Expr { expr, .. } => std::ptr::eq(expr, meant),
            _ => false,
        });
        let tokens = item.map_or_else(|| tokens.clone(), |item| item.expr_tokens.clone());
        self.columns.push(PartialColumn { select: vec![Piece::Tokens(tokens.clone())], kind: Partial::Group });
        self.groups.push((tokens, self.columns.len() - 1));
        Some(())
    }

    /// Splices for one stretch of the text. `is_whole`: it is one expression.
    fn replaced(&mut self, range: &TokenRange, is_whole: bool) -> Vec<Splice> {
        let mut splices = Vec::new();
        let mut at = range.start;
        while at < range.end {
            if let Some(end) = self.aggregate_end(at, range.end) {
                let column = self.aggregate(at..end);
                splices.push(Splice { tokens: at..end, with: vec![Piece::Combined(column)] });
                at = end;
                continue;
            }
            let group = self.groups.iter().find(|(tokens, _)| self.is_group_at(tokens, at, range, is_whole));
            match group {
                Some((tokens, column)) => {
                    let end = at + tokens.len();
                    splices.push(Splice { tokens: at..end, with: vec![Piece::Combined(*column)] });
                    at = end;
                }
                None => at += 1,
            }
        }
        splices
    }

    /// The end of the aggregate that begins here, FILTER included.
    fn aggregate_end(&self, at: usize, end: usize) -> Option<usize> {
        let name = self.subject.lexed.identifier(self.subject.text, at)?;
        let is_name = COMBINED.contains(&name.as_str()) && !at.checked_sub(1).is_some_and(|at| self.is(at, "."));
        if !is_name || !self.is(at + 1, "(") {
            return None;
        }
        let mut close = self.close_of(at + 1, end)? + 1;
        if self.subject.lexed.is_keyword(self.subject.text, close, "FILTER") && self.is(close + 1, "(") {
            close = self.close_of(close + 1, end)? + 1;
        }
        (!self.subject.lexed.is_keyword(self.subject.text, close, "OVER")).then_some(close)
    }

    fn close_of(&self, open: usize, end: usize) -> Option<usize> {
        let mut depth = 0usize;
        (open..end).find(|at| {
            match self.subject.token(*at) {
                "(" => depth += 1,
                ")" => depth -= 1,
                _ => {}
            }
            depth == 0
        })
    }

    fn is(&self, at: usize, symbol: &str) -> bool {
        self.subject.token(at) == symbol
    }

    /// An average is combined from sum and count.
    fn aggregate(&mut self, tokens: TokenRange) -> usize {
        let name = self.subject.lexed.identifier(self.subject.text, tokens.start).unwrap_or_default();
        let as_function =
            |function: &str| vec![Piece::Text(function.to_owned()), Piece::Tokens(tokens.start + 1..tokens.end)];
        let (select, kind) = match name.as_str() {
            "avg" => {
                self.columns.push(PartialColumn { select: as_function("pg_catalog.count"), kind: Partial::Count });
                let count = self.columns.len() - 1;
                (as_function("pg_catalog.sum"), Partial::Average { count })
            }
            "count" => (vec![Piece::Tokens(tokens.clone())], Partial::Count),
            "sum" => (vec![Piece::Tokens(tokens.clone())], Partial::Sum),
            _ => (vec![Piece::Tokens(tokens.clone())], Partial::Same(name)),
        };
        self.columns.push(PartialColumn { select, kind });
        self.shown.push(self.columns.len() - 1);
        self.columns.len() - 1
    }

    /// The expression of a group stands here, and by itself: not as a part of another expression.
    fn is_group_at(&self, tokens: &TokenRange, at: usize, range: &TokenRange, is_whole: bool) -> bool {
        let here = at..at + tokens.len();
        if here.end > range.end || !merge_expr::are_same_tokens(self.subject, tokens, &here) {
            return false;
        }
        let before = at.checked_sub(1).filter(|_| at > range.start).map_or("", |at| self.subject.token(at));
        let behind = if here.end < range.end { self.subject.token(here.end) } else { "" };
        let is_column = tokens.clone().all(|token| {
            let kind = self.subject.lexed.tokens.get(token).map(|token| token.kind);
            matches!(kind, Some(TokenKind::Word | TokenKind::QuotedIdent)) || self.is(token, ".")
        });
        let is_inside = matches!(behind, "." | "(" | "[") || before == ".";
        if is_column {
            return !is_inside;
        }
        let opens = matches!(before, "(" | ",") || before.is_empty() && is_whole;
        opens && (matches!(behind, ")" | ",") || behind.is_empty() && is_whole)
    }

    /// What the shards select.
    fn shard_text(&self, from: &TokenRange, condition: Option<&TokenRange>) -> Vec<Piece> {
        let mut pieces = vec![Piece::Text("SELECT 0::pg_catalog.int4".to_owned())];
        for column in &self.columns {
            pieces.push(Piece::Text(", ".to_owned()));
            pieces.extend(column.select.iter().cloned());
        }
        pieces.push(Piece::Text(" ".to_owned()));
        pieces.push(Piece::Tokens(from.clone()));
        if let Some(condition) = condition {
            pieces.push(Piece::Text(" ".to_owned()));
            pieces.push(Piece::Tokens(condition.clone()));
        }
        for (index, (tokens, _)) in self.groups.iter().enumerate() {
            pieces.push(Piece::Text(if index == 0 { " GROUP BY (" } else { "), (" }.to_owned()));
            pieces.push(Piece::Tokens(tokens.clone()));
        }
        if !self.groups.is_empty() {
            pieces.push(Piece::Text(")".to_owned()));
        }
        pieces
    }

    /// FROM and GROUP BY of the text that computes the answer.
    fn finishing_rows(&self) -> Vec<Piece> {
        let mut pieces = vec![Piece::Text("FROM ".to_owned()), Piece::Rows];
        for (index, (_, column)) in self.groups.iter().enumerate() {
            pieces.push(Piece::Text(if index == 0 { " GROUP BY " } else { ", " }.to_owned()));
            pieces.push(Piece::Combined(*column));
        }
        pieces
    }
}
