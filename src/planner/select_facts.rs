//! What the clauses of one SELECT mean for computing it shard by shard.

use super::Subject;
use super::env::{Env, Node};
use super::functions;
use super::names;
use super::predicate;
use super::scope::{Scope, ScopeColumn};
use super::visit;
use super::walk::Block;
use crate::error::ClientError;
use crate::sql::LiteralKind;
use crate::sql::ast::{Distinct, Expr, OrderItem, Query, Select, SelectItem, SelectItemKind, SetExpr};

/// The SELECT of a query that has no clause but FROM and WHERE: it may become part of the level round it.
pub fn flat<'a>(subject: &Subject<'_>, query: &'a Query) -> Option<&'a Select> {
    match &query.body {
        SetExpr::Select(select)
            if is_unlimited(query)
                && query.order_by.is_empty()
                && !query.locks
                && matches!(select.distinct, Distinct::No)
                && !select.into
                && is_ungrouped(subject, select)
                && select.window_exprs.is_empty()
                && !visit::item_exprs(&select.items).any(functions::has_window) =>
        {
            Some(select)
        }
        SetExpr::Nested(inner) if is_unlimited(query) && query.order_by.is_empty() && query.with.is_empty() => {
            flat(subject, inner)
        }
        _ => None,
    }
}

/// The SELECT of a query of which only the set of rows matters, as within IN.
pub fn membership<'a>(subject: &Subject<'_>, query: &'a Query) -> Option<&'a Select> {
    match &query.body {
        SetExpr::Select(select)
            if is_unlimited(query) && !matches!(select.distinct, Distinct::On(_)) && is_ungrouped(subject, select) =>
        {
            Some(select)
        }
        SetExpr::Nested(inner) if is_unlimited(query) && query.with.is_empty() => membership(subject, inner),
        _ => None,
    }
}

fn is_unlimited(query: &Query) -> bool {
    query.limit.is_none() && query.offset.is_none() && !query.with_ties
}

fn is_ungrouped(subject: &Subject<'_>, select: &Select) -> bool {
    select.group_by.is_empty()
        && !select.grouping_sets
        && select.having.is_none()
        && !visit::item_exprs(&select.items).any(|expr| functions::has_aggregate(subject.schema, expr))
}

/// True when the SELECT makes groups, or one group of all.
pub fn is_grouped(subject: &Subject<'_>, select: &Select, order: &[OrderItem]) -> bool {
    !is_ungrouped(subject, select) || order.iter().any(|item| functions::has_aggregate(subject.schema, &item.expr))
}

/// Every expression of the SELECT itself.
pub fn own_exprs<'a>(select: &'a Select, order: &'a [OrderItem]) -> impl Iterator<Item = &'a Expr> {
    let on: &[Expr] = match &select.distinct {
        Distinct::On(exprs) => exprs,
        _ => &[],
    };
    select
        .selection
        .iter()
        .chain(visit::item_exprs(&select.items))
        .chain(select.group_by.iter().map(|item| &item.expr))
        .chain(&select.having)
        .chain(&select.window_exprs)
        .chain(on)
        .chain(order.iter().map(|item| &item.expr))
}

/// True for an entry of a target list that is one column: not `*`, nor `(composite).*`.
pub fn is_one_column(item: &SelectItem) -> bool {
    match &item.kind {
        SelectItemKind::Expr { expr, .. } => !matches!(expr, Expr::Other { what: "row expansion", .. }),
        SelectItemKind::Wildcard | SelectItemKind::QualifiedWildcard(_) => false,
    }
}

/// The output columns of a SELECT; false when `*` hides some.
pub fn output_columns(subject: &Subject<'_>, select: &Select, scope: &Scope) -> (Vec<ScopeColumn>, bool) {
    columns_of(subject, &select.items, scope)
}

/// The columns of a target list or of RETURNING, and whether all of them are known.
pub fn columns_of(subject: &Subject<'_>, items: &[SelectItem], scope: &Scope) -> (Vec<ScopeColumn>, bool) {
    let mut columns = Vec::new();
    let mut is_complete = true;
    for item in items {
        if !is_one_column(item) && matches!(item.kind, SelectItemKind::Expr { .. }) {
            is_complete = false;
            continue;
        }
        let expanded = match &item.kind {
            SelectItemKind::Wildcard => scope.wildcard(),
            SelectItemKind::QualifiedWildcard(alias) => scope.qualified_wildcard(alias),
            SelectItemKind::Expr { expr, alias } => {
                let name = alias.clone().or_else(|| names::of(expr));
                is_complete &= name.is_some();
                let name = name.unwrap_or_default();
                columns.push(ScopeColumn {
                    name,
                    node: predicate::node(expr, scope),
                    is_bytewise: is_bytewise(subject, expr, scope),
                    is_deterministic: is_deterministic(subject, expr, scope),
                });
                continue;
            }
        };
        match expanded {
            Some(expanded) => columns.extend(expanded.into_iter().cloned()),
            None => is_complete = false,
        }
    }
    (columns, is_complete)
}

/// Names of a query's columns without looking at any table.
pub fn static_columns(query: &Query) -> Vec<ScopeColumn> {
    let mut body = &query.body;
    loop {
        match body {
            SetExpr::Select(select) => {
                return visit::item_names(&select.items)
                    .map(|name| ScopeColumn { name, ..ScopeColumn::default() })
                    .collect();
            }
            SetExpr::Nested(inner) => body = &inner.body,
            SetExpr::SetOperation { left, .. } => body = left,
            SetExpr::Values(_) => return Vec::new(),
        }
    }
}

/// True when text that the expression gives compares by bytes.
pub fn is_bytewise(subject: &Subject<'_>, expr: &Expr, scope: &Scope) -> bool {
    match expr {
        Expr::Collate { collation, .. } => matches!(collation.name.as_str(), "C" | "POSIX" | "ucs_basic"),
        Expr::Column { .. } => predicate::column(expr, scope).is_some_and(|column| column.is_bytewise),
        Expr::Function(call) if call.name.name == "count" && call.over.is_none() => true,
        _ => {
            subject.schema.collation_is_bytewise
                && !visit::any(expr, &|part| match part {
                    Expr::Collate { .. } | Expr::Exists { .. } | Expr::Subquery(_) | Expr::InSubquery { .. } => true,
                    Expr::Column { .. } => !predicate::column(part, scope).is_some_and(|column| column.is_bytewise),
                    _ => false,
                })
        }
    }
}

/// True when equal text is the same text.
pub fn is_deterministic(subject: &Subject<'_>, expr: &Expr, scope: &Scope) -> bool {
    !visit::any(expr, &|part| match part {
        Expr::Collate { collation, .. } => !matches!(collation.name.as_str(), "C" | "POSIX" | "ucs_basic" | "default"),
        Expr::Column { .. } => match predicate::column(part, scope) {
            Some(column) => !column.is_deterministic,
            None => subject.has_nondeterministic_collation(),
        },
        Expr::Exists { .. } | Expr::Subquery(_) | Expr::InSubquery { .. } => subject.has_nondeterministic_collation(),
        _ => false,
    })
}

/// The integer that an ordinal of ORDER BY or GROUP BY is. The fingerprint keeps these apart.
pub fn ordinal(subject: &Subject<'_>, expr: &Expr) -> Option<usize> {
    let Expr::Literal(index) = expr else { return None };
    let literal = subject.lexed.literals.get(*index)?;
    if literal.kind != LiteralKind::Integer {
        return None;
    }
    literal.value.parse().ok().filter(|ordinal| *ordinal > 0)
}

/// The expression of the target list that stands at an ordinal; `None` when `*` comes before it.
pub fn item_at(select: &Select, ordinal: usize) -> Option<&Expr> {
    let before = select.items.get(..ordinal)?;
    if !before.iter().all(is_one_column) {
        return None;
    }
    match &before.last()?.kind {
        SelectItemKind::Expr { expr, .. } => Some(expr),
        _ => None,
    }
}

/// What a GROUP BY expression means: an ordinal, a column of FROM, else an output name.
pub fn grouped_by<'a>(subject: &Subject<'_>, select: &'a Select, expr: &'a Expr, scope: &Scope) -> Option<&'a Expr> {
    if matches!(expr, Expr::Literal(_)) {
        return item_at(select, ordinal(subject, expr)?);
    }
    if let Expr::Column { qualifier, name } = expr
        && qualifier.is_empty()
        && !is_from_column(expr, scope)
    {
        let mut named = select.items.iter().filter_map(|item| match &item.kind {
            SelectItemKind::Expr { expr, alias } => (alias.as_deref() == Some(name.as_str())).then_some(expr),
            _ => None,
        });
        return match (named.next(), named.next()) {
            (Some(expr), None) => Some(expr),
            (None, _) => Some(expr),
            _ => None,
        };
    }
    Some(expr)
}

/// True when a plain name is surely a column of this level's FROM.
fn is_from_column(expr: &Expr, scope: &Scope) -> bool {
    match expr {
        Expr::Column { qualifier, name } => {
            matches!(scope.find(qualifier, name), super::scope::Found::Here(..))
        }
        _ => false,
    }
}

/// True when every column of the vector is among these expressions.
pub fn covers(exprs: &[&Expr], vector: Option<&[Node]>, scope: &Scope, env: &Env) -> bool {
    let is_among = |wanted: &Node| {
        exprs
            .iter()
            .filter_map(|expr| predicate::node(expr, scope))
            .any(|(node, _)| env.strong(node) == env.strong(*wanted))
    };
    vector.is_some_and(|vector| !vector.is_empty() && vector.iter().all(is_among))
}

/// True when the groups of a SELECT never reach over two shards.
pub fn is_grouped_by_key(subject: &Subject<'_>, select: &Select, scope: &Scope, block: &Block) -> bool {
    let groups: Vec<&Expr> =
        select.group_by.iter().filter_map(|item| grouped_by(subject, select, &item.expr, scope)).collect();
    !select.grouping_sets && covers(&groups, block.vector.as_deref(), scope, &block.env)
}

/// True when DISTINCT never compares rows of two shards.
pub fn is_distinct_by_key(subject: &Subject<'_>, select: &Select, scope: &Scope, block: &Block) -> bool {
    match &select.distinct {
        Distinct::No => true,
        Distinct::On(exprs) => {
            let exprs: Vec<&Expr> = exprs.iter().filter_map(|expr| grouped_by(subject, select, expr, scope)).collect();
            covers(&exprs, block.vector.as_deref(), scope, &block.env)
        }
        Distinct::Rows => {
            let (columns, _) = output_columns(subject, select, scope);
            block.vector.as_ref().is_some_and(|vector| {
                vector.iter().all(|wanted| {
                    columns
                        .iter()
                        .filter_map(|column| column.node)
                        .any(|(node, _)| block.env.strong(node) == block.env.strong(*wanted))
                })
            })
        }
    }
}

/// Checks that no window reaches over two shards.
///
/// # Errors
/// A refusal that says what to do.
pub fn check_windows(select: &Select, order: &[OrderItem], scope: &Scope, block: &Block) -> Result<(), ClientError> {
    let mut is_fine = true;
    let exprs = visit::item_exprs(&select.items).chain(order.iter().map(|item| &item.expr));
    for expr in exprs {
        let bad = visit::any(expr, &|part| match part {
            Expr::Function(call) => call.over.as_ref().is_some_and(|window| {
                let partition: Vec<&Expr> = window.partition_by.iter().collect();
                window.name.is_some() || !covers(&partition, block.vector.as_deref(), scope, &block.env)
            }),
            _ => false,
        });
        is_fine = is_fine && !bad;
    }
    if is_fine {
        Ok(())
    } else {
        Err(ClientError::refused(
            "a window that is not partitioned by the sharding key is not supported across shards",
            "Add the sharding key to PARTITION BY, written within OVER, or restrict the query to one key.",
        ))
    }
}

/// Checks that a SELECT inside a statement gives the same rows when every shard computes its part.
///
/// # Errors
/// A refusal that says what to do.
pub fn is_computed_by_shard(
    subject: &Subject<'_>,
    select: &Select,
    order: &[OrderItem],
    scope: &Scope,
    block: &Block,
) -> Result<(), ClientError> {
    check_windows(select, order, scope, block)?;
    if is_grouped(subject, select, order) && !is_grouped_by_key(subject, select, scope, block) {
        return Err(ClientError::refused(
            "aggregates in a subquery that is not grouped by the sharding key are not supported across shards",
            "Add the sharding key to GROUP BY, or restrict the subquery to one key.",
        ));
    }
    if !is_distinct_by_key(subject, select, scope, block) {
        return Err(ClientError::refused(
            "DISTINCT in a subquery that does not select the sharding key is not supported across shards",
            "Select the sharding key too, or restrict the subquery to one key.",
        ));
    }
    Ok(())
}
