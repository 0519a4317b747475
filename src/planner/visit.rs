//! Walks over the statement tree that miss nothing. Must not know: tables, shards.

use super::names;
use crate::sql::ast::{
    Call, Expr, Insert, InsertSource, JoinCondition, OrderItem, Query, Select, SelectItem, SelectItemKind, SetExpr,
    Statement, TableRef,
};

/// A direct part of an expression.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// A smaller expression.
    Expr(&'a Expr),
    /// A query inside the expression.
    Query(&'a Query),
}

/// Calls `visit` for every direct part of an expression.
pub fn parts<'a>(expr: &'a Expr, visit: &mut dyn FnMut(Part<'a>)) {
    match expr {
        Expr::Column { .. } | Expr::Param(_) | Expr::Literal(_) | Expr::Bool(_) | Expr::Null | Expr::Default => {}
        Expr::And(terms) | Expr::Or(terms) | Expr::Row(terms) | Expr::Other { children: terms, .. } => {
            terms.iter().for_each(|term| visit(Part::Expr(term)));
        }
        Expr::Not(expr)
        | Expr::Unary { expr, .. }
        | Expr::IsNull { expr, .. }
        | Expr::Cast { expr, .. }
        | Expr::Collate { expr, .. } => visit(Part::Expr(expr)),
        Expr::Binary { left, right, .. } | Expr::AnyAll { left, right, .. } => {
            visit(Part::Expr(left));
            visit(Part::Expr(right));
        }
        Expr::InList { expr, list, .. } => {
            visit(Part::Expr(expr));
            list.iter().for_each(|member| visit(Part::Expr(member)));
        }
        Expr::InSubquery { expr, query, .. } => {
            visit(Part::Expr(expr));
            visit(Part::Query(query));
        }
        Expr::Exists { query, .. } | Expr::Subquery(query) => visit(Part::Query(query)),
        Expr::Function(call) => call_parts(call, visit),
    }
}

fn call_parts<'a>(call: &'a Call, visit: &mut dyn FnMut(Part<'a>)) {
    call.args.iter().for_each(|arg| visit(Part::Expr(arg)));
    call.order_by.iter().for_each(|item| visit(Part::Expr(&item.expr)));
    call.filter.iter().for_each(|filter| visit(Part::Expr(filter)));
    if let Some(window) = &call.over {
        window.partition_by.iter().chain(&window.others).for_each(|expr| visit(Part::Expr(expr)));
    }
}

/// True when `test` holds for the expression or a part of it, queries inside not entered.
pub fn any(expr: &Expr, test: &dyn Fn(&Expr) -> bool) -> bool {
    if test(expr) {
        return true;
    }
    let mut found = false;
    parts(expr, &mut |part| {
        if let Part::Expr(part) = part {
            found = found || any(part, test);
        }
    });
    found
}

/// True when a query stands inside the expression.
pub fn has_query(expr: &Expr) -> bool {
    any(expr, &|part| matches!(part, Expr::Exists { .. } | Expr::Subquery(_) | Expr::InSubquery { .. }))
}

/// Expressions of a target list.
pub fn item_exprs(items: &[SelectItem]) -> impl Iterator<Item = &Expr> {
    items.iter().filter_map(|item| match &item.kind {
        SelectItemKind::Expr { expr, .. } => Some(expr),
        SelectItemKind::Wildcard | SelectItemKind::QualifiedWildcard(_) => None,
    })
}

/// Names of a target list's columns, up to the first `*`.
pub fn item_names(items: &[SelectItem]) -> impl Iterator<Item = String> {
    items.iter().map_while(|item| match &item.kind {
        SelectItemKind::Expr { .. } => Some(names::of_item(item).unwrap_or_default()),
        SelectItemKind::Wildcard | SelectItemKind::QualifiedWildcard(_) => None,
    })
}

/// Calls `visit` for every expression of a statement, queries and WITH included.
pub fn every_expr<'a>(statement: &'a Statement, visit: &mut dyn FnMut(&'a Expr)) {
    match statement {
        Statement::Query(query) | Statement::Declare { query, .. } => in_query(query, visit),
        Statement::Insert(insert) => in_insert(insert, visit),
        Statement::Update(update) => {
            update.with.iter().for_each(|cte| every_expr(&cte.statement, visit));
            update.assignments.iter().for_each(|assignment| in_expr(&assignment.value, visit));
            update.from.iter().for_each(|table| in_table(table, visit));
            update.selection.iter().for_each(|expr| in_expr(expr, visit));
            item_exprs(&update.returning).for_each(|expr| in_expr(expr, visit));
        }
        Statement::Delete(delete) => {
            delete.with.iter().for_each(|cte| every_expr(&cte.statement, visit));
            delete.using.iter().for_each(|table| in_table(table, visit));
            delete.selection.iter().for_each(|expr| in_expr(expr, visit));
            item_exprs(&delete.returning).for_each(|expr| in_expr(expr, visit));
        }
        Statement::Merge(merge) => {
            merge.with.iter().for_each(|cte| every_expr(&cte.statement, visit));
            in_table(&merge.source, visit);
            in_expr(&merge.on, visit);
            merge.others.iter().for_each(|expr| in_expr(expr, visit));
        }
        Statement::Copy(copy) => {
            if let crate::sql::ast::CopySource::Query(statement) = &copy.source {
                every_expr(statement, visit);
            }
        }
        Statement::Explain { statement, .. } => every_expr(statement, visit),
        Statement::Ddl(ddl) => ddl.query.iter().for_each(|query| in_query(query, visit)),
        _ => {}
    }
}

fn in_insert<'a>(insert: &'a Insert, visit: &mut dyn FnMut(&'a Expr)) {
    insert.with.iter().for_each(|cte| every_expr(&cte.statement, visit));
    match &insert.source {
        InsertSource::Values(rows) => {
            rows.iter().flat_map(|row| &row.values).for_each(|expr| in_expr(expr, visit));
        }
        InsertSource::DefaultValues => {}
        InsertSource::Query(query) => in_query(query, visit),
    }
    if let Some(conflict) = &insert.on_conflict {
        conflict.assignments.iter().for_each(|assignment| in_expr(&assignment.value, visit));
        conflict.selection.iter().for_each(|expr| in_expr(expr, visit));
    }
    item_exprs(&insert.returning).for_each(|expr| in_expr(expr, visit));
}

/// Calls `visit` for an expression and everything in it.
pub fn in_expr<'a>(expr: &'a Expr, visit: &mut dyn FnMut(&'a Expr)) {
    visit(expr);
    parts(expr, &mut |part| match part {
        Part::Expr(part) => in_expr(part, visit),
        Part::Query(query) => in_query(query, visit),
    });
}

/// Calls `visit` for every expression of a query.
pub fn in_query<'a>(query: &'a Query, visit: &mut dyn FnMut(&'a Expr)) {
    query.with.iter().for_each(|cte| every_expr(&cte.statement, visit));
    in_body(&query.body, visit);
    in_order(&query.order_by, visit);
    query.limit.iter().chain(&query.offset).for_each(|expr| in_expr(expr, visit));
}

fn in_order<'a>(order: &'a [OrderItem], visit: &mut dyn FnMut(&'a Expr)) {
    order.iter().for_each(|item| in_expr(&item.expr, visit));
}

fn in_body<'a>(body: &'a SetExpr, visit: &mut dyn FnMut(&'a Expr)) {
    match body {
        SetExpr::Select(select) => in_select(select, visit),
        SetExpr::Values(rows) => rows.iter().flatten().for_each(|expr| in_expr(expr, visit)),
        SetExpr::Nested(query) => in_query(query, visit),
        SetExpr::SetOperation { left, right, .. } => {
            in_body(left, visit);
            in_body(right, visit);
        }
    }
}

fn in_select<'a>(select: &'a Select, visit: &mut dyn FnMut(&'a Expr)) {
    if let crate::sql::ast::Distinct::On(exprs) = &select.distinct {
        exprs.iter().for_each(|expr| in_expr(expr, visit));
    }
    item_exprs(&select.items).for_each(|expr| in_expr(expr, visit));
    select.from.iter().for_each(|table| in_table(table, visit));
    select.selection.iter().for_each(|expr| in_expr(expr, visit));
    select.group_by.iter().for_each(|item| in_expr(&item.expr, visit));
    select.having.iter().for_each(|expr| in_expr(expr, visit));
    select.window_exprs.iter().for_each(|expr| in_expr(expr, visit));
}

fn in_table<'a>(table: &'a TableRef, visit: &mut dyn FnMut(&'a Expr)) {
    match table {
        TableRef::Table { .. } | TableRef::Other(_) => {}
        TableRef::Subquery { query, .. } => in_query(query, visit),
        TableRef::Function { calls, .. } => calls.iter().for_each(|call| in_expr(call, visit)),
        TableRef::Join { left, right, condition, .. } => {
            in_table(left, visit);
            in_table(right, visit);
            if let JoinCondition::On(expr) = condition {
                in_expr(expr, visit);
            }
        }
    }
}

/// True when a query or one inside its FROM or WITH locks rows.
pub fn locks_rows(query: &Query) -> bool {
    let in_with = query.with.iter().any(|cte| match &cte.statement {
        Statement::Query(query) => locks_rows(query),
        _ => false,
    });
    query.locks || in_with || body_locks_rows(&query.body)
}

fn body_locks_rows(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => {
            let mut found = select.from.iter().any(table_locks_rows);
            item_exprs(&select.items).chain(&select.selection).for_each(|expr| {
                found |= expr_locks_rows(expr);
            });
            found
        }
        SetExpr::Values(_) => false,
        SetExpr::Nested(query) => locks_rows(query),
        SetExpr::SetOperation { left, right, .. } => body_locks_rows(left) || body_locks_rows(right),
    }
}

fn expr_locks_rows(expr: &Expr) -> bool {
    let mut found = false;
    parts(expr, &mut |part| {
        found |= match part {
            Part::Expr(expr) => expr_locks_rows(expr),
            Part::Query(query) => locks_rows(query),
        };
    });
    found
}

fn table_locks_rows(table: &TableRef) -> bool {
    match table {
        TableRef::Subquery { query, .. } => locks_rows(query),
        TableRef::Join { left, right, .. } => table_locks_rows(left) || table_locks_rows(right),
        _ => false,
    }
}

/// Calls `visit` for every query of a statement.
pub fn every_query<'a>(statement: &'a Statement, visit: &mut dyn FnMut(&'a Query)) {
    match statement {
        Statement::Query(query) | Statement::Declare { query, .. } => queries_in(query, visit),
        Statement::Insert(insert) => {
            insert.with.iter().for_each(|cte| every_query(&cte.statement, visit));
            if let InsertSource::Query(query) = &insert.source {
                queries_in(query, visit);
            }
        }
        Statement::Update(update) => {
            update.with.iter().for_each(|cte| every_query(&cte.statement, visit));
            update.from.iter().for_each(|table| queries_in_table(table, visit));
        }
        Statement::Delete(delete) => {
            delete.with.iter().for_each(|cte| every_query(&cte.statement, visit));
            delete.using.iter().for_each(|table| queries_in_table(table, visit));
        }
        _ => {}
    }
    every_expr(statement, &mut |expr| match expr {
        Expr::Exists { query, .. } | Expr::Subquery(query) | Expr::InSubquery { query, .. } => {
            queries_in(query, visit);
        }
        _ => {}
    });
}

fn queries_in<'a>(query: &'a Query, visit: &mut dyn FnMut(&'a Query)) {
    visit(query);
    query.with.iter().for_each(|cte| every_query(&cte.statement, visit));
    queries_in_body(&query.body, visit);
}

fn queries_in_body<'a>(body: &'a SetExpr, visit: &mut dyn FnMut(&'a Query)) {
    match body {
        SetExpr::Select(select) => select.from.iter().for_each(|table| queries_in_table(table, visit)),
        SetExpr::Values(_) => {}
        SetExpr::Nested(query) => queries_in(query, visit),
        SetExpr::SetOperation { left, right, .. } => {
            queries_in_body(left, visit);
            queries_in_body(right, visit);
        }
    }
}

fn queries_in_table<'a>(table: &'a TableRef, visit: &mut dyn FnMut(&'a Query)) {
    match table {
        TableRef::Subquery { query, .. } => queries_in(query, visit),
        TableRef::Join { left, right, .. } => {
            queries_in_table(left, visit);
            queries_in_table(right, visit);
        }
        _ => {}
    }
}
