//! The current time in a write over several shards: one value for all of them. Each server's own transaction begins at
//! another moment, and PostgreSQL has one `now()` for all rows of a statement.

use super::steps::plain_question;
use super::{Failure, Session};
use crate::net::Framed;
use crate::plan::{Fill, FillSource, Filled, InsertPlan, Piece, RowFill, Splice};
use crate::planner::rewrite::{self, Replaced};
use crate::session::Parsed;
use crate::sql::ast::{
    Distinct, Expr, Insert, InsertSource, SelectItem, SelectItemKind, SetExpr, Statement, TokenRange,
};

/// Calls without arguments, and what they give.
const CALLS: &[(&str, &str)] =
    &[("now", "timestamptz"), ("statement_timestamp", "timestamptz"), ("transaction_timestamp", "timestamptz")];

/// Words that are calls by themselves, with or without a precision.
const WORDS: &[(&str, &str)] = &[
    ("current_date", "date"),
    ("current_time", "timetz"),
    ("current_timestamp", "timestamptz"),
    ("localtime", "time"),
    ("localtimestamp", "timestamp"),
];

/// A call, what its value is written as, and the name of the column that it is.
struct TimeCall {
    tokens: TokenRange,
    type_name: &'static str,
    column: Option<String>,
}

impl Session {
    /// What stands for the current time in a statement that writes on several shards. In RETURNING only whole columns
    /// are replaced: a call within an expression may give it its name.
    ///
    /// # Errors
    /// A server cannot be asked.
    pub(super) async fn one_time(&mut self, client: &mut Framed, parsed: &Parsed) -> Result<Replaced, Failure> {
        let calls = self.time_calls(parsed);
        let asked: Vec<String> = calls.iter().map(|call| tokens_text(parsed, &call.tokens).to_owned()).collect();
        let values = self.times_of(client, &asked).await?;
        let one = |(call, value): (TimeCall, String)| {
            let name = call.column.map_or_else(String::new, |name| format!(" AS {}", rewrite::quoted(&name)));
            (call.tokens, format!("{value}::pg_catalog.{}{name}", call.type_name))
        };
        Ok(calls.into_iter().zip(values).map(one).collect())
    }

    /// What INSERT … SELECT leaves to defaults that tell the time, as columns more.
    ///
    /// # Errors
    /// A server cannot be asked; the statement has no place for them.
    pub(super) async fn one_time_defaults(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
    ) -> Result<Replaced, Failure> {
        let Ok(Statement::Insert(insert)) = &*parsed.statement else { return Ok(Vec::new()) };
        let InsertSource::Query(query) = &insert.source else { return Ok(Vec::new()) };
        let defaults = self.time_defaults(insert);
        let (SetExpr::Select(select), Some(columns)) = (&query.body, &insert.columns_tokens) else {
            return Ok(Vec::new());
        };
        if defaults.is_empty() || select.distinct != Distinct::No {
            return Ok(Vec::new());
        }
        let (names, asked): (Vec<String>, Vec<String>) = defaults.into_iter().unzip();
        let values = self.times_of(client, &asked).await?;
        let names: String = names.iter().map(|name| format!(", {}", rewrite::quoted(name))).collect();
        let values: String = values.iter().map(|value| format!(", {value}")).collect();
        let (close, end) = (columns.end.saturating_sub(1), select.items_tokens.end);
        Ok(vec![(close..close, names), (end..end, values)])
    }

    /// The plan of listed rows that part ways, with defaults that tell the time filled in; `None`: there are none.
    ///
    /// # Errors
    /// A server cannot be asked.
    pub(super) async fn timed_rows(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        plan: &InsertPlan,
    ) -> Result<Option<(InsertPlan, Vec<Filled>)>, Failure> {
        let Ok(Statement::Insert(insert)) = &*parsed.statement else { return Ok(None) };
        let InsertSource::Values(rows) = &insert.source else { return Ok(None) };
        let Some(columns) = &insert.columns_tokens else { return Ok(None) };
        let mut defaults = self.time_defaults(insert);
        defaults.retain(|(name, _)| plan.fills.iter().all(|fill| fill.column != *name));
        if defaults.is_empty() {
            return Ok(None);
        }
        let (names, asked): (Vec<String>, Vec<String>) = defaults.into_iter().unzip();
        let sql = format!("SELECT {}", asked.join(", "));
        let values = self.texts_of(client, &plain_question(sql)).await?.into_iter().next().unwrap_or_default();
        let mut timed = plan.clone();
        let mut added = String::new();
        for name in names {
            let index = timed.fills.len();
            let position = insert.columns.iter().position(|column| *column == name);
            for (planned, row) in timed.rows.iter_mut().zip(rows) {
                let close = planned.tokens.end.saturating_sub(1);
                let tokens = match position {
                    None => close..close,
                    Some(at) => match (row.values.get(at), row.value_tokens.get(at)) {
                        (Some(Expr::Default), Some(tokens)) => tokens.clone(),
                        _ => continue,
                    },
                };
                planned.fills.push(RowFill { fill: index, tokens });
            }
            if position.is_none() {
                added.push_str(&format!(", {}", rewrite::quoted(&name)));
            }
            timed.fills.push(Fill { source: FillSource::Default, column: name, type_oid: 0 });
        }
        let close = columns.end.saturating_sub(1);
        match timed.splices.iter_mut().find(|splice| splice.tokens == (close..close)) {
            Some(splice) => splice.with.push(Piece::Text(added)),
            None => {
                let at = timed.splices.iter().position(|splice| splice.tokens.start > close);
                let splice = Splice { tokens: close..close, with: vec![Piece::Text(added)] };
                timed.splices.insert(at.unwrap_or(timed.splices.len()), splice);
            }
        }
        Ok(Some((timed, values.into_iter().map(Filled::Text).collect())))
    }

    /// Columns of an INSERT's table that are left, by a row at least, to defaults that tell the time, and these.
    fn time_defaults(&self, insert: &Insert) -> Vec<(String, String)> {
        let (schema, path) = (self.schema(), self.planning_path());
        let Some(relation) = schema.resolve(insert.table.schema.as_deref(), &insert.table.name, &path) else {
            return Vec::new();
        };
        let is_open = |name: &String| match (insert.columns.iter().position(|column| column == name), &insert.source) {
            (None, _) => !insert.columns.is_empty(),
            (Some(at), InsertSource::Values(rows)) => {
                rows.iter().any(|row| matches!(row.values.get(at), Some(Expr::Default)))
            }
            _ => false,
        };
        let columns = relation.columns.iter().filter(|column| is_open(&column.name));
        columns.filter_map(|column| Some((column.name.clone(), column.time_default.clone()?))).collect()
    }

    /// Values of expressions that tell the time, as literals without a type.
    async fn times_of(&mut self, client: &mut Framed, asked: &[String]) -> Result<Vec<String>, Failure> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        // JSON's form of a time means the same under every DateStyle.
        let asked: Vec<String> = asked.iter().map(|call| format!("pg_catalog.to_json({call}) #>> '{{}}'")).collect();
        let rows = self.texts_of(client, &plain_question(format!("SELECT {}", asked.join(", ")))).await?;
        let values = rows.into_iter().next().unwrap_or_default();
        Ok(values.into_iter().map(|value| rewrite::literal(&value.unwrap_or_default())).collect())
    }

    fn time_calls(&self, parsed: &Parsed) -> Vec<TimeCall> {
        let schema = self.schema();
        let count = parsed.lexed.tokens.len();
        let word = |at: usize| tokens_text(parsed, &(at..at + 1)).to_ascii_lowercase();
        // The call that begins at a token: where it ends, and the type that it gives.
        let call_at = |at: usize| {
            let name = word(at);
            let call = CALLS.iter().find(|(call, _)| *call == name);
            let by_itself = WORDS.iter().find(|(call, _)| *call == name);
            let end = match (call, by_itself) {
                (Some(_), _) if word(at + 1) == "(" && word(at + 2) == ")" => at + 3,
                (_, Some(_)) if word(at + 1) == "(" && word(at + 3) == ")" => at + 4,
                (_, Some(_)) => at + 1,
                _ => at,
            };
            let before = at.checked_sub(1).map(word).unwrap_or_default();
            // A user's function of that name, a name behind AS or a dot: not PostgreSQL's own.
            let is_own = !schema.functions.contains_key(&name) && before != "." && before != "as";
            let type_name = call.or(by_itself).map(|(_, type_name)| *type_name);
            type_name.filter(|_| end > at && is_own).map(|type_name| (end, type_name))
        };
        let returning = (0..count).rev().find(|at| word(*at) == "returning").unwrap_or(count);
        let mut calls = Vec::new();
        calls_within(0..returning, &word, &call_at, &mut calls);
        for item in returned(parsed) {
            let SelectItemKind::Expr { alias, .. } = &item.kind else { continue };
            let tokens = item.expr_tokens.clone();
            match call_at(tokens.start).filter(|(end, _)| alias.is_none() && *end == tokens.end) {
                Some((end, type_name)) => {
                    let column = Some(word(tokens.start));
                    calls.push(TimeCall { tokens: tokens.start..end, type_name, column });
                }
                // Without AS a call may give the column its name.
                None if alias.is_none() => {}
                None => calls_within(tokens, &word, &call_at, &mut calls),
            }
        }
        calls
    }
}

/// Calls among these tokens that are in no query of their own: there, a call may give a column its name.
fn calls_within(
    tokens: TokenRange,
    word: &dyn Fn(usize) -> String,
    call_at: &dyn Fn(usize) -> Option<(usize, &'static str)>,
    calls: &mut Vec<TimeCall>,
) {
    let mut groups: Vec<bool> = Vec::new();
    let mut at = tokens.start;
    while at < tokens.end {
        match word(at).as_str() {
            "(" => groups.push(word(at + 1) == "select"),
            ")" => {
                groups.pop();
            }
            _ => {}
        }
        let mut end = at + 1;
        if let Some((call_end, type_name)) = call_at(at).filter(|_| !groups.contains(&true)) {
            calls.push(TimeCall { tokens: at..call_end, type_name, column: None });
            end = call_end;
        }
        at = end;
    }
}

/// RETURNING of a statement.
fn returned(parsed: &Parsed) -> &[SelectItem] {
    match &*parsed.statement {
        Ok(Statement::Insert(insert)) => &insert.returning,
        Ok(Statement::Update(update)) => &update.returning,
        Ok(Statement::Delete(delete)) => &delete.returning,
        _ => &[],
    }
}

fn tokens_text<'p>(parsed: &'p Parsed, tokens: &TokenRange) -> &'p str {
    let start = parsed.lexed.tokens.get(tokens.start).map(|token| token.start);
    let end = tokens.end.checked_sub(1).and_then(|last| parsed.lexed.tokens.get(last)).map(|token| token.end);
    start.zip(end).and_then(|(start, end)| parsed.text.get(start..end)).unwrap_or_default()
}
