//! Rows of several shards become one result: ORDER BY, DISTINCT, LIMIT and OFFSET.

use super::Subject;
use super::functions;
use super::merge_aggregate;
use super::merge_expr;
use super::names;
use super::scope::Scope;
use super::select::Merge;
use super::select_facts;
use super::visit;
use super::walk::{Block, Output};
use crate::error::ClientError;
use crate::plan::{ColumnRef, MergeSpec, OrderKey, Piece, Slot, Splice};
use crate::sql::ast::{Distinct, Expr, OrderItem, Query, Select, SelectItemKind, TokenRange};
use crate::sql::{LiteralKind, TokenKind};

/// Columns that the shards add for the merge.
#[derive(Default)]
pub struct Hidden {
    columns: Vec<Vec<Piece>>,
}

impl Hidden {
    /// Adds an expression.
    pub fn add(&mut self, expr: Vec<Piece>) -> ColumnRef {
        self.columns.push(expr);
        ColumnRef::Hidden(self.columns.len() - 1)
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// The splice after the target list.
    pub fn splice(self, select: &Select) -> Option<Splice> {
        if self.columns.is_empty() {
            return None;
        }
        let mut with = Vec::new();
        for (index, column) in self.columns.into_iter().enumerate() {
            with.push(Piece::Text(", ".to_owned()));
            with.extend(column);
            with.push(Piece::Text(format!(" AS ostrakon_h{index}")));
        }
        let end = select.items_tokens.end;
        Some(Splice { tokens: end..end, with })
    }
}

/// How the rows of a SELECT over several shards are merged.
///
/// # Errors
/// A refusal.
pub fn of_select(
    subject: &Subject<'_>,
    query: &Query,
    select: &Select,
    scope: &Scope,
    block: &Block,
) -> Result<Merge, ClientError> {
    if query.with_ties {
        return Err(refuse_ties());
    }
    select_facts::check_windows(select, &query.order_by, scope, block)?;
    let is_grouped = select_facts::is_grouped(subject, select, &query.order_by);
    let is_by_key = is_grouped && select_facts::is_grouped_by_key(subject, select, scope, block);
    let is_distinct = !select_facts::is_distinct_by_key(subject, select, scope, block);
    if query.locks && (is_grouped || is_distinct || !query.order_by.is_empty() && has_limit(query)) {
        // Each shard would lock as many rows as all together may.
        return Err(ClientError::refused(
            "locking the first rows of several shards by ORDER BY with LIMIT is not supported",
            "Leave out ORDER BY: any rows that are free are then taken, and no others locked. Or restrict the query to one sharding key.",
        ));
    }
    if is_grouped && !is_by_key {
        return merge_aggregate::of_select(subject, query, select, scope);
    }
    if is_distinct && matches!(select.distinct, Distinct::On(_)) {
        return Err(ClientError::refused(
            "DISTINCT ON without the sharding key is not supported across shards",
            "Add the sharding key to DISTINCT ON, or restrict the query to one key.",
        ));
    }
    if is_distinct {
        check_distinct(subject, select, scope)?;
    }
    let mut hidden = Hidden::default();
    let mut order = Vec::new();
    for item in &query.order_by {
        let may_hide = !matches!(select.distinct, Distinct::Rows);
        order.push(order_key(subject, select, item, scope, may_hide.then_some(&mut hidden))?);
    }
    let limit = Limits::of(subject, query)?;
    let merge = MergeSpec {
        hidden: hidden.len(),
        order,
        distinct: is_distinct,
        aggregate: None,
        limit: limit.limit.clone(),
        offset: limit.offset.clone(),
    };
    let pushed = if query.locks { limit.locked(query) } else { limit.pushed_down(query) };
    let splices = hidden.splice(select).into_iter().chain(pushed).collect();
    Ok((splices, merge))
}

/// How the rows of a set operation over several shards are merged.
///
/// # Errors
/// A refusal.
pub fn of_set_operation(subject: &Subject<'_>, query: &Query, output: &Output) -> Result<Merge, ClientError> {
    if query.with_ties {
        return Err(refuse_ties());
    }
    let mut order = Vec::new();
    for item in &query.order_by {
        let refusal = || {
            ClientError::refused(
                "ORDER BY of a set operation by something else than an output column is not supported across shards",
                "Sort by the position of an output column.",
            )
        };
        let position = match &item.expr {
            Expr::Column { qualifier, name } if qualifier.is_empty() && output.is_complete => {
                let mut named = output.columns.iter().enumerate().filter(|(_, column)| column.name == *name);
                match (named.next(), named.next()) {
                    (Some((position, _)), None) => position,
                    _ => return Err(refusal()),
                }
            }
            expr => select_facts::ordinal(subject, expr).ok_or_else(refusal)? - 1,
        };
        let is_bytewise = output.is_complete && output.columns.get(position).is_some_and(|column| column.is_bytewise);
        order.push(key(item, ColumnRef::Visible(position), is_bytewise)?);
    }
    if query.locks {
        return Err(ClientError::refused(
            "locking rows of a set operation is not supported across shards",
            "Lock the rows of each table in a statement of its own.",
        ));
    }
    let limit = Limits::of(subject, query)?;
    let merge = MergeSpec { order, limit: limit.limit.clone(), offset: limit.offset.clone(), ..MergeSpec::default() };
    Ok((limit.pushed_down(query).into_iter().collect(), merge))
}

fn refuse_ties() -> ClientError {
    ClientError::refused("FETCH FIRST WITH TIES is not supported across shards", "Use LIMIT.")
}

fn has_limit(query: &Query) -> bool {
    query.limit.is_some() || query.offset.is_some()
}

/// Rows of several shards are compared by the proxy.
fn check_distinct(subject: &Subject<'_>, select: &Select, scope: &Scope) -> Result<(), ClientError> {
    if visit::item_exprs(&select.items).any(|expr| functions::differs_by_shard(subject.schema, expr)) {
        return Err(ClientError::refused(
            "DISTINCT with a volatile function or the current time is not supported across shards",
            "Pass the value as a parameter.",
        ));
    }
    let (columns, is_complete) = select_facts::output_columns(subject, select, scope);
    if is_complete && columns.iter().all(|column| column.is_deterministic) {
        return Ok(());
    }
    if !is_complete && !subject.has_nondeterministic_collation() {
        return Ok(());
    }
    Err(ClientError::refused(
        "DISTINCT over text with a nondeterministic collation is not supported across shards",
        "Select the sharding key too, or use a deterministic collation.",
    ))
}

/// One sort key of the merge; without `hidden` the column must be one of the target list.
fn order_key(
    subject: &Subject<'_>,
    select: &Select,
    item: &OrderItem,
    scope: &Scope,
    hidden: Option<&mut Hidden>,
) -> Result<OrderKey, ClientError> {
    let (columns, is_complete) = select_facts::output_columns(subject, select, scope);
    if let Expr::Literal(_) = item.expr {
        let Some(ordinal) = select_facts::ordinal(subject, &item.expr) else {
            return Err(refuse_order());
        };
        let is_bytewise = match select_facts::item_at(select, ordinal) {
            Some(expr) => select_facts::is_bytewise(subject, expr, scope),
            None => is_complete && columns.get(ordinal - 1).is_some_and(|column| column.is_bytewise),
        };
        return key(item, ColumnRef::Visible(ordinal - 1), is_bytewise);
    }
    let (expr, position) = match find_item(subject, select, item, scope)? {
        Some(index) => {
            let found = select.items.get(index);
            let is_certain = select.items.iter().take(index).all(select_facts::is_one_column);
            match found.map(|found| (&found.kind, found.expr_tokens.clone())) {
                Some((SelectItemKind::Expr { expr, .. }, _)) if is_certain => (expr, Some(index)),
                Some((SelectItemKind::Expr { expr, .. }, tokens)) => {
                    let Some(hidden) = hidden.filter(|_| !functions::is_volatile(subject.schema, expr)) else {
                        return Err(refuse_order());
                    };
                    let is_bytewise = select_facts::is_bytewise(subject, expr, scope);
                    return key(item, hidden.add(vec![Piece::Tokens(tokens)]), is_bytewise);
                }
                _ => return Err(refuse_order()),
            }
        }
        None => (&item.expr, None),
    };
    let is_bytewise = select_facts::is_bytewise(subject, expr, scope);
    let column = match (position, hidden) {
        (Some(index), _) => ColumnRef::Visible(index),
        (None, Some(hidden)) => hidden.add(vec![Piece::Tokens(item.tokens.clone())]),
        (None, None) => expanded(&columns, is_complete, expr, scope).ok_or_else(refuse_order)?,
    };
    key(item, column, is_bytewise)
}

fn refuse_order() -> ClientError {
    ClientError::refused(
        "this ORDER BY is not supported across shards",
        "Sort by a column of the target list that stands before any *, or by its position.",
    )
}

/// The entry of the target list that an ORDER BY expression means: an output name first, then the same expression.
///
/// # Errors
/// An entry without AS may or may not have the name that is sorted by.
pub fn find_item(
    subject: &Subject<'_>,
    select: &Select,
    item: &OrderItem,
    scope: &Scope,
) -> Result<Option<usize>, ClientError> {
    if let Expr::Column { qualifier, name } = &item.expr
        && qualifier.is_empty()
    {
        if select.items.iter().any(|shown| names::is_unsure(shown, name)) {
            return Err(ClientError::refused(
                "ORDER BY by a name that an expression without AS may have is not supported across shards",
                "Name the expressions of the target list with AS.",
            ));
        }
        let named = select.items.iter().position(|shown| names::of_item(shown).as_deref() == Some(name.as_str()));
        if named.is_some() {
            return Ok(named);
        }
    }
    Ok(select.items.iter().position(|shown| match &shown.kind {
        SelectItemKind::Expr { expr, .. } => {
            !visit::has_query(expr)
                && (merge_expr::is_same(subject, expr, &item.expr, scope)
                    || merge_expr::are_same_tokens(subject, &shown.expr_tokens, &item.tokens))
        }
        _ => false,
    }))
}

/// The position of a column that `*` brings.
fn expanded(columns: &[super::scope::ScopeColumn], is_complete: bool, expr: &Expr, scope: &Scope) -> Option<ColumnRef> {
    let column = super::predicate::column(expr, scope).filter(|_| is_complete)?;
    let mut same = columns.iter().enumerate().filter(|(_, shown)| shown.name == column.name);
    match (same.next(), same.next()) {
        (Some((position, shown)), None) if shown == column => Some(ColumnRef::Visible(position)),
        _ => None,
    }
}

/// A sort key.
///
/// # Errors
/// ORDER BY … USING.
pub fn key(item: &OrderItem, column: ColumnRef, text_is_bytewise: bool) -> Result<OrderKey, ClientError> {
    if item.using {
        return Err(ClientError::refused("ORDER BY USING is not supported across shards", "Use ASC or DESC."));
    }
    Ok(OrderKey {
        column,
        descending: item.descending,
        nulls_first: item.nulls_first.unwrap_or(item.descending),
        text_is_bytewise,
    })
}

/// LIMIT and OFFSET.
pub struct Limits {
    /// LIMIT.
    pub limit: Option<Slot>,
    /// OFFSET.
    pub offset: Option<Slot>,
    limit_sql: Option<Vec<Piece>>,
    offset_sql: Option<Vec<Piece>>,
}

impl Limits {
    /// Reads the clauses.
    ///
    /// # Errors
    /// They are neither a number nor a parameter.
    pub fn of(subject: &Subject<'_>, query: &Query) -> Result<Self, ClientError> {
        let slot = |expr: &Option<Expr>| match expr {
            None => Ok(None),
            Some(expr) => number(subject, expr).map(Some).ok_or_else(|| {
                ClientError::refused(
                    "LIMIT or OFFSET by an expression is not supported across shards",
                    "Use a number or a parameter.",
                )
            }),
        };
        let (limit, offset) = (slot(&query.limit)?, slot(&query.offset)?);
        let range = query.limit_tokens.clone().unwrap_or(0..0);
        Ok(Self {
            limit_sql: query.limit.as_ref().map(|expr| number_sql(subject, expr, &range)),
            offset_sql: query.offset.as_ref().map(|expr| number_sql(subject, expr, &range)),
            limit,
            offset,
        })
    }

    /// The shards' own LIMIT, so that each sends all rows that may be in the result. Parameters stay in the text, so
    /// that it is the same for every execution.
    pub fn pushed_down(&self, query: &Query) -> Option<Splice> {
        let offset_sql = self.offset_sql.clone()?;
        let tokens = query.limit_tokens.clone()?;
        let mut with = Vec::new();
        match (&self.limit, &self.offset, &self.limit_sql) {
            (Some(Slot::Literal { .. }), Some(Slot::Literal { .. }), _) => {
                with.push(Piece::Text("LIMIT ".to_owned()));
                with.push(Piece::LimitPlusOffset);
            }
            (Some(_), _, Some(limit_sql)) => {
                with.push(Piece::Text("LIMIT (".to_owned()));
                with.extend(limit_sql.clone());
                with.push(Piece::Text(" + coalesce(".to_owned()));
                with.extend(offset_sql);
                with.push(Piece::Text(", 0))".to_owned()));
            }
            (_, Some(Slot::Param(_)), _) => with.extend(no_offset(offset_sql)),
            _ => {}
        }
        Some(Splice { tokens, with })
    }

    /// The shards' LIMIT when each locks what those before it have left over.
    fn locked(&self, query: &Query) -> Option<Splice> {
        let tokens = query.limit_tokens.clone()?;
        let mut with = vec![Piece::Text("LIMIT least(".to_owned())];
        for (slot, sql) in [(&self.limit, &self.limit_sql), (&self.offset, &self.offset_sql)] {
            // A parameter stays in the text, and has no say there.
            if let (Some(Slot::Param(_)), Some(sql)) = (slot, sql) {
                with.push(Piece::Text("9223372036854775807 + 0 * coalesce(".to_owned()));
                with.extend(sql.clone());
                with.push(Piece::Text(", 0), ".to_owned()));
            }
        }
        with.extend([Piece::LimitPlusOffset, Piece::Text(")".to_owned())]);
        Some(Splice { tokens, with })
    }

    /// The shards send all of their rows.
    pub fn removed(&self, query: &Query) -> Option<Splice> {
        let tokens = query.limit_tokens.clone()?;
        let mut with = Vec::new();
        if let (Some(Slot::Param(_)), Some(sql)) = (&self.limit, &self.limit_sql) {
            with.push(Piece::Text("LIMIT nullif(".to_owned()));
            with.extend(sql.clone());
            with.push(Piece::Text(", ".to_owned()));
            with.extend(sql.clone());
            with.push(Piece::Text(") ".to_owned()));
        }
        if let (Some(Slot::Param(_)), Some(sql)) = (&self.offset, &self.offset_sql) {
            with.extend(no_offset(sql.clone()));
        }
        Some(Splice { tokens, with })
    }
}

/// An OFFSET that keeps a parameter in the text and skips nothing.
fn no_offset(sql: Vec<Piece>) -> Vec<Piece> {
    let mut with = vec![Piece::Text("OFFSET 0 * coalesce(".to_owned())];
    with.extend(sql);
    with.push(Piece::Text(", 0)".to_owned()));
    with
}

/// A number of rows.
fn number(subject: &Subject<'_>, expr: &Expr) -> Option<Slot> {
    match expr {
        Expr::Literal(index) => match subject.lexed.literals.get(*index)?.kind {
            LiteralKind::Integer => Some(Slot::Literal { index: *index, negative: false }),
            _ => None,
        },
        // PostgreSQL refuses it, and so does the merge, in the same words.
        Expr::Unary { operator, expr } if operator == "-" => match number(subject, expr)? {
            Slot::Literal { index, negative: false } => Some(Slot::Literal { index, negative: true }),
            _ => None,
        },
        Expr::Param(number) => Some(Slot::Param(*number)),
        Expr::Null => Some(Slot::Null),
        Expr::Cast { expr, type_name } if is_integer_type(type_name) && matches!(**expr, Expr::Param(_)) => {
            number(subject, expr)
        }
        _ => None,
    }
}

fn is_integer_type(name: &str) -> bool {
    matches!(name, "bigint" | "int8" | "integer" | "int" | "int4")
}

/// The number as a bigint in the shards' text; the parameter keeps the type that the client's text gives it.
fn number_sql(subject: &Subject<'_>, expr: &Expr, range: &TokenRange) -> Vec<Piece> {
    let text = |sql: String| vec![Piece::Text(sql)];
    match expr {
        Expr::Param(number) => text(format!("${number}::bigint")),
        Expr::Cast { expr, type_name } => match expr.as_ref() {
            Expr::Param(number) => text(format!("${number}::{type_name}::bigint")),
            _ => Vec::new(),
        },
        Expr::Unary { expr, .. } => {
            let mut sql = text("(-".to_owned());
            sql.extend(number_sql(subject, expr, range));
            sql.push(Piece::Text(")".to_owned()));
            sql
        }
        Expr::Literal(index) => {
            let at = range
                .clone()
                .find(|at| subject.lexed.tokens.get(*at).is_some_and(|token| token.kind == TokenKind::Literal(*index)));
            at.map_or_else(Vec::new, |at| vec![Piece::Tokens(at..at + 1)])
        }
        _ => text("NULL::bigint".to_owned()),
    }
}
