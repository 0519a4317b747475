//! MERGE into a sharded table: as a join of its source with its target.
//!
//! What matches is on one shard when source and target are joined on the key. What does not match is inserted where the
//! source's row is: so the source must be sharded alike, or consist of listed rows, which go by their keys; and what is
//! inserted must bring that same key.

use std::rc::Rc;
use std::sync::Arc;

use super::env::{Env, Node};
use super::insert;
use super::place::Place;
use super::predicate;
use super::scope::{Item, Scope};
use super::select_facts;
use super::visit;
use super::walk::{Block, Build, Ctes, Level, Mode, Walk};
use super::write::{check_not_null, write_plan};
use crate::error::ClientError;
use crate::plan::{InsertPlan, InsertRow, KeyTuple, Plan, Route, Several};
use crate::sql::ast::{Expr, Merge, MergeInsert, Query, SelectItemKind, SetExpr, TableRef, TokenRange};
use crate::sql::{Lexed, LiteralKind};
use crate::topology::KeyType;
use crate::topology::schema::{ColumnDefault, Relation};

/// The target of a MERGE.
struct Target<'t> {
    relation: &'t Arc<Relation>,
    key: &'t [(String, KeyType)],
}

/// A MERGE that cannot be proved.
fn refuse(why: &str) -> ClientError {
    ClientError::refused(
        format!("this MERGE is not supported across shards: {why}"),
        "Join source and target on the sharding key and insert that same key, list the source's rows, or use INSERT ... ON CONFLICT.",
    )
}

/// Plans a MERGE whose target is sharded.
///
/// # Errors
/// A refusal.
pub fn plan<'a>(
    walk: &mut Walk<'_>,
    merge: &'a Merge,
    relation: &Arc<Relation>,
    key: &[(String, KeyType)],
    ctes: &Ctes<'a>,
) -> Result<Plan, ClientError> {
    let target = Target { relation, key };
    target.check(merge)?;
    if let Some(rows) = ListedRows::of(walk, &merge.source) {
        match target.listed(walk, merge, &rows) {
            Err(_) if merge.inserts.is_empty() => {}
            planned => return planned,
        }
    }
    let (block, scope) = target.join(walk, merge, ctes);
    let routed = walk.route()?;
    if walk.writes {
        walk.modifying_trouble();
    }
    let one_key = match &routed.route {
        Route::Keys(keys) => keys.first().filter(|_| keys.len() == 1),
        _ => None,
    };
    for inserted in &merge.inserts {
        target.check_inserted(inserted, &block, &scope, one_key)?;
    }
    let several = match (&walk.trouble, &routed.route) {
        (Some(trouble), Route::All) => return Err(trouble.clone()),
        (Some(trouble), _) => Several::Refuse(trouble.clone()),
        (None, _) if target.tells_time(merge) => Several::Refuse(refuse("a default would differ by shard")),
        (None, _) => Several::Sum,
    };
    match (&several, &routed.route) {
        (Several::Refuse(refusal), Route::All) => Err(refusal.clone()),
        _ => Ok(write_plan(routed.route, several, routed.reason)),
    }
}

impl Target<'_> {
    /// What holds for every MERGE.
    fn check(&self, merge: &Merge) -> Result<(), ClientError> {
        if merge.by_source {
            return Err(refuse("WHEN NOT MATCHED BY SOURCE concerns all rows"));
        }
        if merge.assigned.iter().any(|column| self.key.iter().any(|(name, _)| name == column)) {
            return Err(refuse("it assigns the sharding key"));
        }
        let assigns_default = |column: &&crate::topology::schema::Column| {
            let is_open = matches!(column.default, ColumnDefault::Sequence { .. } | ColumnDefault::Numbered);
            is_open && merge.assigned.contains(&column.name)
        };
        if merge.others.contains(&Expr::Default) && self.relation.columns.iter().find(assigns_default).is_some() {
            return Err(refuse("ids have to be filled in"));
        }
        for inserted in &merge.inserts {
            let names = self.names(inserted);
            let is_given = |name: &String| {
                let at = names.iter().position(|column| column == name);
                at.and_then(|at| inserted.values.get(at)).is_some_and(|value| *value != Expr::Default)
            };
            let is_number =
                |default: &ColumnDefault| matches!(default, ColumnDefault::Sequence { .. } | ColumnDefault::Numbered);
            let open =
                self.relation.columns.iter().find(|column| is_number(&column.default) && !is_given(&column.name));
            if let Some(column) = open {
                return Err(refuse(&format!("column \"{}\" has to be filled in", column.name)));
            }
        }
        Ok(())
    }

    fn names(&self, inserted: &MergeInsert) -> Vec<String> {
        if inserted.columns.is_empty() {
            self.relation.columns.iter().take(inserted.values.len()).map(|column| column.name.clone()).collect()
        } else {
            inserted.columns.clone()
        }
    }

    /// A default that each shard would compute for itself is left to it.
    fn tells_time(&self, merge: &Merge) -> bool {
        merge.inserts.iter().any(|inserted| {
            let names = self.names(inserted);
            self.relation.columns.iter().any(|column| {
                let at = names.iter().position(|name| *name == column.name);
                let value = at.and_then(|at| inserted.values.get(at));
                column.default == ColumnDefault::Expression && value.is_none_or(|value| *value == Expr::Default)
            })
        })
    }

    /// With an INSERT the rows of the source are kept, matched or not; without, only what matches counts.
    fn join<'a>(&self, walk: &mut Walk<'_>, merge: &'a Merge, ctes: &Ctes<'a>) -> (Block, Rc<Scope>) {
        let env = Env::default();
        let mut build = Build::default();
        let mut own = Build::default();
        let mut level = Level { scope: Scope::default(), ctes: ctes.clone(), env: &env, mode: Mode::Plain };
        let place = Place::Sharded(Arc::clone(self.relation), self.key.to_vec());
        let item = walk.placed(&place, &merge.table, &mut own);
        let item = match &merge.alias {
            Some(alias) => Item { alias: alias.clone(), schema: None, ..item },
            None => item,
        };
        level.scope.items.push(item);
        walk.table(&merge.source, &mut level, &mut build);
        predicate::learn(&merge.on, &level.scope, &mut own.learned);
        if merge.inserts.is_empty() {
            build.learned.append(&mut own.learned);
            build.spreads.append(&mut own.spreads);
        } else {
            build.nullable.push(own);
        }
        let scope = Rc::new(level.scope);
        std::iter::once(&merge.on).chain(&merge.others).for_each(|expr| build.expr(expr, &scope, ctes));
        let block = walk.finish(build, &env, Mode::Plain, &scope, ctes);
        (block, scope)
    }

    /// A row is inserted on the shard of the source's row: its key must be that row's.
    fn check_inserted(
        &self,
        inserted: &MergeInsert,
        block: &Block,
        scope: &Scope,
        one_key: Option<&KeyTuple>,
    ) -> Result<(), ClientError> {
        let names = self.names(inserted);
        let vector: &[Node] = block.vector.as_deref().unwrap_or_default();
        let is_same = vector.len() == self.key.len()
            && self.key.iter().zip(vector).all(|((name, key_type), wanted)| {
                let at = names.iter().position(|column| column == name);
                let value = at.and_then(|at| inserted.values.get(at));
                let node = value.and_then(|value| predicate::node(value, scope));
                node.is_some_and(|(node, node_type)| {
                    block.env.strong(node) == block.env.strong(*wanted)
                        && predicate::is_same_family(node_type, *key_type)
                        && insert::is_exact(self.relation, name)
                })
            });
        if is_same && !self.relation.has_triggers {
            return Ok(());
        }
        let parts = insert::key_of_row(self.relation, self.key, &names, &inserted.values, &[]);
        match (parts, one_key) {
            (Ok(parts), Some(one)) if *one == (KeyTuple { parts: parts.clone() }) => {
                check_not_null(self.relation, self.key, &parts)
            }
            _ => Err(refuse("the key of an inserted row is not proved to be the source's")),
        }
    }

    /// Each listed row goes to the shard of its key, which is where it matches and where it is inserted.
    fn listed(&self, walk: &Walk<'_>, merge: &Merge, rows: &ListedRows<'_>) -> Result<Plan, ClientError> {
        let has_query = |expr: &Expr| visit::has_query(expr);
        let exprs = || std::iter::once(&merge.on).chain(&merge.others);
        if !merge.with.is_empty()
            || exprs().any(has_query)
            || rows.rows.iter().flat_map(|(row, _)| row).any(|e| has_query(e))
        {
            return Err(refuse("WITH and queries beside listed rows"));
        }
        if let Some(failure) = &walk.failure {
            return Err(failure.clone());
        }
        if let Some(single) = walk.singles.first() {
            return Err(refuse(&format!("{} is answered by one shard", single.name)));
        }
        let mut places = Vec::new();
        for (name, _) in self.key {
            places
                .push(self.joined(merge, rows, name).ok_or_else(|| refuse("its ON is not on the whole sharding key"))?);
        }
        for inserted in &merge.inserts {
            let names = self.names(inserted);
            for ((name, _), place) in self.key.iter().zip(&places) {
                let at = names.iter().position(|column| column == name);
                let value = at.and_then(|at| inserted.values.get(at));
                if !value.is_some_and(|value| rows.column(value, merge) == Some(*place)) {
                    return Err(refuse("the key of an inserted row is not proved to be the source's"));
                }
            }
        }
        let names: Vec<String> = self.key.iter().map(|(name, _)| name.clone()).collect();
        let mut inserts = Vec::new();
        for (row, tokens) in &rows.rows {
            let values: Vec<Expr> = places.iter().filter_map(|at| row.get(*at).map(|value| (*value).clone())).collect();
            let parts = insert::key_of_row(self.relation, self.key, &names, &values, &[])?;
            check_not_null(self.relation, self.key, &parts)?;
            inserts.push(InsertRow { tokens: tokens.clone(), key: parts, fills: Vec::new() });
        }
        self.listed_plan(merge, rows.is_alike(walk.subject.lexed), inserts)
    }

    fn listed_plan(&self, merge: &Merge, is_alike: bool, inserts: Vec<InsertRow>) -> Result<Plan, ClientError> {
        let reason = format!("each row's key of {}", self.relation.name.name);
        let [first, .., last] = inserts.as_slice() else {
            let keys = inserts.into_iter().map(|row| KeyTuple { parts: row.key }).collect();
            let refusal = refuse("its row is of one shard");
            return Ok(write_plan(Route::Keys(keys), Several::Refuse(refusal), reason));
        };
        if !is_alike || self.tells_time(merge) {
            return Err(refuse("its rows or defaults would mean something else apart"));
        }
        let rows_tokens = first.tokens.start..last.tokens.end;
        let mut plan = write_plan(Route::ByRow, Several::Sum, reason);
        plan.insert = Some(InsertPlan {
            table: self.relation.name.clone(),
            fills: Vec::new(),
            splices: Vec::new(),
            rows_tokens,
            rows: inserts,
            returning: false,
            may_skip_rows: true,
            key_is_not_null: insert::key_is_not_null(self.relation, self.key),
            everywhere: false,
        });
        Ok(plan)
    }

    /// The column of the listed rows that a column of the key equals by ON.
    fn joined(&self, merge: &Merge, rows: &ListedRows<'_>, name: &str) -> Option<usize> {
        let terms: &[Expr] = match &merge.on {
            Expr::And(terms) => terms,
            one => std::slice::from_ref(one),
        };
        let target = merge.alias.as_deref().unwrap_or(&merge.table.name);
        let is_own = |expr: &Expr| match expr {
            Expr::Column { qualifier, name: column } => match qualifier.as_slice() {
                [] => column == name && !rows.names.iter().any(|other| other == name),
                [table] => column == name && table == target,
                _ => false,
            },
            _ => false,
        };
        terms.iter().find_map(|term| match term {
            Expr::Binary { operator, left, right } if operator == "=" => match (is_own(left), is_own(right)) {
                (true, false) => rows.column(right, merge),
                (false, true) => rows.column(left, merge),
                _ => None,
            },
            _ => None,
        })
    }
}

/// `USING (VALUES …) AS v (…)`, or one row of a SELECT without FROM.
struct ListedRows<'a> {
    alias: &'a str,
    names: Vec<String>,
    rows: Vec<(Vec<&'a Expr>, TokenRange)>,
}

impl<'a> ListedRows<'a> {
    fn of(walk: &Walk<'_>, source: &'a TableRef) -> Option<Self> {
        let TableRef::Subquery { query, alias: Some(alias), lateral: false } = source else { return None };
        let query: &'a Query = query;
        let is_bare = query.with.is_empty()
            && query.order_by.is_empty()
            && query.limit.is_none()
            && query.offset.is_none()
            && !query.locks;
        if !is_bare {
            return None;
        }
        let (mut names, rows) = match &query.body {
            SetExpr::Values(rows) => {
                let tokens = row_tokens(walk, &query.tokens);
                if tokens.len() != rows.len() {
                    return None;
                }
                let names = (1..=rows.first()?.len()).map(|number| format!("column{number}")).collect::<Vec<_>>();
                (names, rows.iter().map(|row| row.iter().collect()).zip(tokens).collect())
            }
            SetExpr::Select(select) if select.from.is_empty() && select_facts::flat(walk.subject, query).is_some() => {
                if select.selection.is_some() || !select.items.iter().all(select_facts::is_one_column) {
                    return None;
                }
                let exprs: Vec<&Expr> = visit::item_exprs(&select.items).collect();
                let named = select.items.iter().map(|item| match &item.kind {
                    SelectItemKind::Expr { alias: Some(alias), .. } => alias.clone(),
                    _ => String::new(),
                });
                (named.collect(), vec![(exprs, query.tokens.clone())])
            }
            _ => return None,
        };
        names.iter_mut().zip(&alias.columns).for_each(|(name, given)| name.clone_from(given));
        Some(Self { alias: &alias.name, names, rows })
    }

    /// The place of the column that an expression is.
    fn column(&self, expr: &Expr, merge: &Merge) -> Option<usize> {
        let Expr::Column { qualifier, name } = expr else { return None };
        let target = merge.alias.as_deref().unwrap_or(&merge.table.name);
        let is_meant = matches!(qualifier.as_slice(), [alias] if alias == self.alias && self.alias != target);
        let mut hits = self.names.iter().enumerate().filter(|(_, known)| *known == name && !name.is_empty());
        match (hits.next(), hits.next()) {
            (Some((at, _)), None) if is_meant => Some(at),
            _ => None,
        }
    }

    /// Some of the rows have the types that all of them have: each column is of one kind.
    fn is_alike(&self, lexed: &Lexed) -> bool {
        let Some(((first, _), others)) = self.rows.split_first() else { return false };
        let kind = |index: usize| lexed.literals.get(index).map(|literal| literal.kind);
        others.iter().all(|(row, _)| {
            row.len() == first.len() && first.iter().zip(row).all(|(one, other)| is_alike(one, other, &kind))
        })
    }
}

fn is_alike(one: &Expr, other: &Expr, kind: &dyn Fn(usize) -> Option<LiteralKind>) -> bool {
    match (one, other) {
        (Expr::Literal(one), Expr::Literal(other)) => kind(*one) == kind(*other),
        (Expr::Unary { expr, .. }, other) => is_alike(expr, other, kind),
        (one, Expr::Unary { expr, .. }) => is_alike(one, expr, kind),
        (Expr::Cast { type_name: one, .. }, Expr::Cast { type_name: other, .. }) => one == other,
        (Expr::Param(_), Expr::Param(_)) | (Expr::Bool(_), Expr::Bool(_)) | (Expr::Null, Expr::Null) => true,
        _ => false,
    }
}

/// Where the rows of VALUES stand: the groups in parentheses of its text.
fn row_tokens(walk: &Walk<'_>, tokens: &TokenRange) -> Vec<TokenRange> {
    let mut rows = Vec::new();
    let mut depth = 0usize;
    let mut start = tokens.start;
    for at in tokens.clone() {
        match walk.subject.token(at) {
            "(" | "[" => {
                if depth == 0 {
                    start = at;
                }
                depth += 1;
            }
            ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    rows.push(start..at + 1);
                }
            }
            _ => {}
        }
    }
    rows
}
