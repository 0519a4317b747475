//! Queries inside UPDATE, DELETE and INSERT that stand for themselves: they run first, over whatever shards they need,
//! and the statement runs with their values.
//!
//! A query stands for itself when PostgreSQL understands its text alone: names inside it mean what they mean there
//! before they may mean anything of the statement round it. That is asked when it runs.

use super::Subject;
use super::rewrite;
use super::select;
use super::visit::{self, Part};
use super::write::write_plan;
use crate::error::{ClientError, ErrorId};
use crate::plan::steps::{InnerKind, InnerQuery, Steps};
use crate::plan::{Piece, Plan, Route, Several, Splice};
use crate::sql::ast::{Expr, InsertSource, Query, Statement};
use crate::sql::{lexer, parse};

/// The plan as it is, or, when the statement cannot run in one step, one that runs the queries inside it first.
///
/// # Errors
/// The refusal, when that does not help.
pub fn or_plan(
    subject: &Subject<'_>,
    statement: &Statement,
    planned: Result<Plan, ClientError>,
) -> Result<Plan, ClientError> {
    match planned {
        Err(refusal) if refusal.id == ErrorId::NotSupportedAcrossShards => match steps(subject, statement) {
            Some(steps) => {
                let reason = "its queries run first".to_owned();
                Ok(write_plan(Route::All, Several::Steps(Box::new(steps)), reason))
            }
            None => Err(refusal),
        },
        Ok(plan) if matches!(plan.several, Several::Refuse(_)) => match steps(subject, statement) {
            Some(steps) => Ok(Plan { several: Several::Steps(Box::new(steps)), ..plan }),
            None => Ok(plan),
        },
        planned => planned,
    }
}

fn steps(subject: &Subject<'_>, statement: &Statement) -> Option<Steps> {
    let mut queries = Vec::new();
    for expr in exprs(statement)? {
        collect(expr, &mut queries)?;
    }
    let queries: Vec<InnerQuery> =
        queries.into_iter().map(|(expr, query)| inner(subject, expr, query)).collect::<Option<_>>()?;
    let is_apart = |pair: &[InnerQuery]| matches!(pair, [left, right] if left.replaced.end <= right.replaced.start);
    if queries.is_empty() || !queries.windows(2).all(is_apart) {
        return None;
    }
    // What is left must be possible, or the queries would run for nothing.
    let first = rewrite::params_of(subject.lexed).into_iter().max().unwrap_or(0) + 1;
    let text = rewrite::apply(subject.text, subject.lexed, &splices(&queries, first), None);
    let text = text.text();
    let lexed = lexer::lex(text).ok()?;
    let rest = parse::parse(text, &lexed).ok()?;
    let Subject { topology, schema, search_path, .. } = *subject;
    let context = super::Context { topology, schema, search_path, text };
    super::plan(&context, &lexed, &rest).ok()?;
    Some(Steps::QueriesFirst(queries))
}

/// Expressions that are evaluated with the rows that are there before the statement.
fn exprs(statement: &Statement) -> Option<Vec<&Expr>> {
    match statement {
        Statement::Update(update) if update.with.is_empty() => {
            let values = update.assignments.iter().map(|assignment| &assignment.value);
            Some(values.chain(&update.selection).collect())
        }
        Statement::Delete(delete) if delete.with.is_empty() => Some(delete.selection.iter().collect()),
        Statement::Insert(insert) if insert.with.is_empty() => match &insert.source {
            InsertSource::Values(rows) => Some(rows.iter().flat_map(|row| &row.values).collect()),
            InsertSource::DefaultValues | InsertSource::Query(_) => None,
        },
        _ => None,
    }
}

/// Queries of an expression, outermost only; `None` when one is in a place that is not understood.
fn collect<'a>(expr: &'a Expr, queries: &mut Vec<(&'a Expr, &'a Query)>) -> Option<()> {
    if let Expr::InSubquery { expr: left, .. } = expr
        && matches!(**left, Expr::Row(_))
    {
        return None;
    }
    let mut outcome = Some(());
    visit::parts(expr, &mut |part| match part {
        Part::Expr(inner) => outcome = outcome.and_then(|()| collect(inner, queries)),
        Part::Query(query) => queries.push((expr, query)),
    });
    outcome
}

fn inner(subject: &Subject<'_>, expr: &Expr, query: &Query) -> Option<InnerQuery> {
    select::plan(subject, &Statement::Query(Box::new(query.clone())), query).ok()?;
    let tokens = query.tokens.clone();
    let open = tokens.start.checked_sub(1)?;
    let before = open.checked_sub(1)?;
    let is = |at: usize, word: &str| subject.token(at).eq_ignore_ascii_case(word);
    if !is(open, "(") || !is(tokens.end, ")") {
        return None;
    }
    let (kind, replaced) = match expr {
        Expr::InSubquery { negated: false, .. } if is(before, "in") => (InnerKind::In, before..tokens.end + 1),
        Expr::InSubquery { negated: true, .. } if is(before, "in") && is(before.checked_sub(1)?, "not") => {
            (InnerKind::NotIn, before - 1..tokens.end + 1)
        }
        Expr::Exists { .. } if is(before, "exists") => (InnerKind::Exists, before..tokens.end + 1),
        Expr::Subquery(_) if is(before, "any") || is(before, "some") || is(before, "all") => {
            (InnerKind::Elements, tokens.clone())
        }
        Expr::Subquery(_) if !is(before, "array") => (InnerKind::Value, open..tokens.end + 1),
        _ => return None,
    };
    Some(InnerQuery { query: tokens, replaced, kind })
}

/// What takes the queries' places: parameters from that number on.
pub fn splices(queries: &[InnerQuery], first: u32) -> Vec<Splice> {
    let with = |kind: InnerKind, number: u32| match kind {
        InnerKind::In => format!("= ANY (${number})"),
        InnerKind::NotIn => format!("<> ALL (${number})"),
        InnerKind::Elements => format!("${number}"),
        InnerKind::Value | InnerKind::Exists => format!("(${number})"),
    };
    (first..)
        .zip(queries)
        .map(|(number, query)| Splice {
            tokens: query.replaced.clone(),
            with: vec![Piece::Text(with(query.kind, number))],
        })
        .collect()
}
