//! Walks over a statement's tree: every expression, row source, query and call, outermost first.
//!
//! The target of INSERT, UPDATE, DELETE, MERGE and COPY is no row source of the tree: [`Visitor::statement`]
//! meets it.

use crate::sql::ast::{
    Assignment, Call, CopySource, Cte, Distinct, Expr, InsertSource, JoinCondition, OrderItem, Query, Select,
    SelectItem, SelectItemKind, SetExpr, Statement, TableRef,
};

/// What a walk meets. Each method is called before the walk goes inside.
#[allow(unused_variables)]
pub trait Visitor {
    /// An expression, subexpressions included.
    fn expr(&mut self, expr: &Expr) {}

    /// A row source, both sides of joins included.
    fn table(&mut self, table: &TableRef) {}

    /// A query at any depth: subqueries, WITH queries, derived tables.
    fn query(&mut self, query: &Query) {}

    /// A statement: the outermost one, data-modifying WITH queries, the one that EXPLAIN explains.
    fn statement(&mut self, statement: &Statement) {}

    /// Whether the walk goes into the queries inside expressions and row sources.
    fn enters_queries(&self) -> bool {
        true
    }
}

/// Walks over a statement.
pub fn walk_statement(visitor: &mut dyn Visitor, statement: &Statement) {
    visitor.statement(statement);
    match statement {
        Statement::Query(query) | Statement::Declare { query, .. } => walk_query(visitor, query),
        Statement::Insert(insert) => {
            walk_ctes(visitor, &insert.with);
            match &insert.source {
                InsertSource::Values(rows) => {
                    rows.iter().flat_map(|row| &row.values).for_each(|value| walk_expr(visitor, value));
                }
                InsertSource::DefaultValues => {}
                InsertSource::Query(query) => walk_query(visitor, query),
            }
            if let Some(conflict) = &insert.on_conflict {
                walk_assignments(visitor, &conflict.assignments);
                conflict.selection.iter().for_each(|expr| walk_expr(visitor, expr));
            }
            walk_items(visitor, &insert.returning);
        }
        Statement::Update(update) => {
            walk_ctes(visitor, &update.with);
            walk_assignments(visitor, &update.assignments);
            update.from.iter().for_each(|table| walk_table(visitor, table));
            update.selection.iter().for_each(|expr| walk_expr(visitor, expr));
            walk_items(visitor, &update.returning);
        }
        Statement::Delete(delete) => {
            walk_ctes(visitor, &delete.with);
            delete.using.iter().for_each(|table| walk_table(visitor, table));
            delete.selection.iter().for_each(|expr| walk_expr(visitor, expr));
            walk_items(visitor, &delete.returning);
        }
        Statement::Merge(merge) => {
            walk_ctes(visitor, &merge.with);
            walk_table(visitor, &merge.source);
            walk_expr(visitor, &merge.on);
            merge.others.iter().for_each(|expr| walk_expr(visitor, expr));
        }
        Statement::Copy(copy) => {
            if let CopySource::Query(inner) = &copy.source {
                walk_statement(visitor, inner);
            }
        }
        Statement::Explain { statement, .. } => walk_statement(visitor, statement),
        Statement::Ddl(ddl) => ddl.query.iter().for_each(|query| walk_query(visitor, query)),
        _ => {}
    }
}

/// Walks over a query.
pub fn walk_query(visitor: &mut dyn Visitor, query: &Query) {
    visitor.query(query);
    walk_ctes(visitor, &query.with);
    walk_set_expr(visitor, &query.body);
    walk_order(visitor, &query.order_by);
    query.limit.iter().chain(&query.offset).for_each(|expr| walk_expr(visitor, expr));
}

/// Walks over a query's body.
pub fn walk_set_expr(visitor: &mut dyn Visitor, body: &SetExpr) {
    match body {
        SetExpr::Select(select) => walk_select(visitor, select),
        SetExpr::Values(rows) => rows.iter().flatten().for_each(|value| walk_expr(visitor, value)),
        SetExpr::Nested(query) => walk_query(visitor, query),
        SetExpr::SetOperation { left, right, .. } => {
            walk_set_expr(visitor, left);
            walk_set_expr(visitor, right);
        }
    }
}

/// The SELECTs that are a body's arms. Those in brackets are queries of their own, which a walk meets by itself.
pub fn for_each_arm(body: &SetExpr, found: &mut dyn FnMut(&Select)) {
    match body {
        SetExpr::Select(select) => found(select),
        SetExpr::SetOperation { left, right, .. } => {
            for_each_arm(left, found);
            for_each_arm(right, found);
        }
        SetExpr::Nested(_) | SetExpr::Values(_) => {}
    }
}

/// Walks over a SELECT.
pub fn walk_select(visitor: &mut dyn Visitor, select: &Select) {
    if let Distinct::On(exprs) = &select.distinct {
        exprs.iter().for_each(|expr| walk_expr(visitor, expr));
    }
    walk_items(visitor, &select.items);
    select.from.iter().for_each(|table| walk_table(visitor, table));
    select.selection.iter().for_each(|expr| walk_expr(visitor, expr));
    select.group_by.iter().for_each(|item| walk_expr(visitor, &item.expr));
    select.having.iter().chain(&select.window_exprs).for_each(|expr| walk_expr(visitor, expr));
}

/// Walks over a row source.
pub fn walk_table(visitor: &mut dyn Visitor, table: &TableRef) {
    visitor.table(table);
    match table {
        TableRef::Table { .. } | TableRef::Other(_) => {}
        TableRef::Subquery { query, .. } => enter(visitor, query),
        TableRef::Function { calls, .. } => calls.iter().for_each(|call| walk_expr(visitor, call)),
        TableRef::Join { left, right, condition, .. } => {
            walk_table(visitor, left);
            walk_table(visitor, right);
            if let JoinCondition::On(expr) = condition {
                walk_expr(visitor, expr);
            }
        }
    }
}

/// Walks over an expression.
pub fn walk_expr(visitor: &mut dyn Visitor, expr: &Expr) {
    visitor.expr(expr);
    match expr {
        Expr::Column { .. } | Expr::Param(_) | Expr::Literal(_) | Expr::Bool(_) | Expr::Null | Expr::Default => {}
        Expr::And(terms) | Expr::Or(terms) | Expr::Row(terms) | Expr::Other { children: terms, .. } => {
            terms.iter().for_each(|term| walk_expr(visitor, term));
        }
        Expr::Not(expr)
        | Expr::Unary { expr, .. }
        | Expr::IsNull { expr, .. }
        | Expr::Cast { expr, .. }
        | Expr::Collate { expr, .. } => walk_expr(visitor, expr),
        Expr::Binary { left, right, .. } | Expr::AnyAll { left, right, .. } => {
            walk_expr(visitor, left);
            walk_expr(visitor, right);
        }
        Expr::InList { expr, list, .. } => {
            walk_expr(visitor, expr);
            list.iter().for_each(|member| walk_expr(visitor, member));
        }
        Expr::InSubquery { expr, query, .. } => {
            walk_expr(visitor, expr);
            enter(visitor, query);
        }
        Expr::Exists { query, .. } | Expr::Subquery(query) => enter(visitor, query),
        Expr::Function(call) => walk_call(visitor, call),
    }
}

/// Calls `found` with every expression of a statement, at any depth.
pub fn for_each_expr<'f>(statement: &Statement, found: impl FnMut(&Expr) + 'f) {
    struct Each<F>(F);
    impl<F: FnMut(&Expr)> Visitor for Each<F> {
        fn expr(&mut self, expr: &Expr) {
            (self.0)(expr);
        }
    }
    walk_statement(&mut Each(found), statement);
}

/// Calls `found` with every row source of a statement, at any depth.
pub fn for_each_table<'f>(statement: &Statement, found: impl FnMut(&TableRef) + 'f) {
    struct Each<F>(F);
    impl<F: FnMut(&TableRef)> Visitor for Each<F> {
        fn table(&mut self, table: &TableRef) {
            (self.0)(table);
        }
    }
    walk_statement(&mut Each(found), statement);
}

/// Calls `found` with every function call of a statement, at any depth.
pub fn for_each_call<'f>(statement: &Statement, mut found: impl FnMut(&Call) + 'f) {
    for_each_expr(statement, move |expr| {
        if let Expr::Function(call) = expr {
            found(call);
        }
    });
}

fn enter(visitor: &mut dyn Visitor, query: &Query) {
    if visitor.enters_queries() {
        walk_query(visitor, query);
    }
}

fn walk_ctes(visitor: &mut dyn Visitor, with: &[Cte]) {
    if visitor.enters_queries() {
        with.iter().for_each(|cte| walk_statement(visitor, &cte.statement));
    }
}

fn walk_items(visitor: &mut dyn Visitor, items: &[SelectItem]) {
    for item in items {
        if let SelectItemKind::Expr { expr, .. } = &item.kind {
            walk_expr(visitor, expr);
        }
    }
}

fn walk_order(visitor: &mut dyn Visitor, items: &[OrderItem]) {
    items.iter().for_each(|item| walk_expr(visitor, &item.expr));
}

fn walk_assignments(visitor: &mut dyn Visitor, assignments: &[Assignment]) {
    assignments.iter().for_each(|assignment| walk_expr(visitor, &assignment.value));
}

fn walk_call(visitor: &mut dyn Visitor, call: &Call) {
    call.args.iter().chain(&call.filter).for_each(|expr| walk_expr(visitor, expr));
    walk_order(visitor, &call.order_by);
    if let Some(window) = &call.over {
        window.partition_by.iter().chain(&window.others).for_each(|expr| walk_expr(visitor, expr));
    }
}
