//! UPDATE, DELETE and MERGE; also as WITH queries.

use std::rc::Rc;
use std::sync::Arc;

use super::Subject;
use super::bind::missing_key;
use super::calls::Calls;
use super::env::{Env, Node};
use super::insert;
use super::merge_into;
use super::move_rows::{self, KeyChange};
use super::place::{self, Place};
use super::predicate;
use super::scope::{Item, Scope};
use super::select_facts;
use super::visit;
use super::walk::{Block, Build, Ctes, Level, Mode, Returned, Source, Walk};
use crate::error::ClientError;
use crate::plan::{Class, KeyPart, KeyTuple, Plan, Route, SequenceUse, Several, Slot};
use crate::sql::ast::{
    Assignment, Cte, Delete, Expr, Insert, InsertSource, Merge, ObjectName, SelectItem, SetExpr, Statement, TableRef,
    Update,
};
use crate::topology::schema::{ColumnDefault, Relation};

/// What UPDATE and DELETE have in common.
struct Write<'a> {
    with: &'a [Cte],
    table: &'a ObjectName,
    alias: Option<&'a str>,
    from: &'a [TableRef],
    selection: Option<&'a Expr>,
    assignments: &'a [Assignment],
    returning: Vec<&'a Expr>,
    current_of: bool,
    /// Whoever plans it looks after assignments to the key.
    may_assign_key: bool,
}

impl<'a> Write<'a> {
    fn of_update(update: &'a Update) -> Self {
        Self {
            with: &update.with,
            table: &update.table,
            alias: update.alias.as_deref(),
            from: &update.from,
            selection: update.selection.as_ref(),
            assignments: &update.assignments,
            returning: visit::item_exprs(&update.returning).collect(),
            current_of: update.current_of,
            may_assign_key: false,
        }
    }

    fn of_delete(delete: &'a Delete) -> Self {
        Self {
            with: &delete.with,
            table: &delete.table,
            alias: delete.alias.as_deref(),
            from: &delete.using,
            selection: delete.selection.as_ref(),
            assignments: &[],
            returning: visit::item_exprs(&delete.returning).collect(),
            current_of: delete.current_of,
            may_assign_key: false,
        }
    }
}

/// Plans UPDATE.
///
/// # Errors
/// A refusal.
pub fn plan_update(subject: &Subject<'_>, statement: &Statement, update: &Update) -> Result<Plan, ClientError> {
    let write = Write { may_assign_key: true, ..Write::of_update(update) };
    let Place::Sharded(relation, key) = place::resolve(subject, &update.table)? else {
        return plan(subject, statement, &write);
    };
    if move_rows::key_change(update, &key) == KeyChange::None {
        return plan(subject, statement, &write);
    }
    let mut walk = Walk::new(subject);
    Calls::of(subject, statement).apply(subject, &mut walk)?;
    let ctes = walk.with(&update.with, is_recursive(subject), None, &Env::default(), &Ctes::default());
    target(&mut walk, &write, &Place::Sharded(Arc::clone(&relation), key.clone()), &Env::default(), &ctes)?;
    move_rows::plan(&walk, update, &relation, &key)
}

/// Plans DELETE.
///
/// # Errors
/// A refusal.
pub fn plan_delete(subject: &Subject<'_>, statement: &Statement, delete: &Delete) -> Result<Plan, ClientError> {
    plan(subject, statement, &Write::of_delete(delete))
}

fn plan(subject: &Subject<'_>, statement: &Statement, write: &Write<'_>) -> Result<Plan, ClientError> {
    let calls = Calls::of(subject, statement);
    let mut walk = Walk::new(subject);
    calls.apply(subject, &mut walk)?;
    let place = place::resolve(subject, write.table)?;
    let env = Env::default();
    let ctes = walk.with(write.with, is_recursive(subject), None, &env, &Ctes::default());
    if let Place::Reference(relation) = &place {
        check_reference_write(relation, &calls, statement)?;
        target(&mut walk, write, &place, &env, &ctes)?;
        return reference_plan(&walk, relation);
    }
    target(&mut walk, write, &place, &env, &ctes)?;
    let routed = walk.route()?;
    let several = match (&walk.trouble, &routed.route) {
        (Some(trouble), Route::All) => return Err(trouble.clone()),
        (Some(trouble), _) => Several::Refuse(trouble.clone()),
        (None, _) => Several::Sum,
    };
    Ok(write_plan(routed.route, several, routed.reason))
}

/// A plan of a statement that writes rows.
pub fn write_plan(route: Route, several: Several, reason: String) -> Plan {
    Plan {
        class: Class::Write,
        route,
        several,
        insert: None,
        copy: None,
        outside_transaction: false,
        inside_transaction: None,
        changes_schema: false,
        sequences: SequenceUse::default(),
        reason,
    }
}

/// Whether WITH is WITH RECURSIVE, for statements whose tree does not say so.
pub fn is_recursive(subject: &Subject<'_>) -> bool {
    (0..subject.lexed.tokens.len()).any(|at| {
        subject.token(at).eq_ignore_ascii_case("recursive")
            && at > 0
            && subject.token(at - 1).eq_ignore_ascii_case("with")
    })
}

/// Walks the statement with its target as the first row source.
fn target<'a>(
    walk: &mut Walk<'_>,
    write: &Write<'a>,
    place: &Place,
    env: &Env,
    ctes: &Ctes<'a>,
) -> Result<(Block, Rc<Scope>), ClientError> {
    if let Some(relation) = place.relation() {
        check_assignments(relation, place, write)?;
    }
    if write.current_of {
        return Err(ClientError::refused(
            "WHERE CURRENT OF is not supported across shards",
            "Restrict the statement by the sharding key and the row's primary key.",
        ));
    }
    let mut build = Build::default();
    let mut level = Level { scope: Scope::default(), ctes: ctes.clone(), env, mode: Mode::Plain };
    let item = walk.placed(place, write.table, &mut build);
    let item = match write.alias {
        Some(alias) => Item { alias: alias.to_owned(), schema: None, ..item },
        None => item,
    };
    level.scope.items.push(item);
    write.from.iter().for_each(|table| walk.table(table, &mut level, &mut build));
    if let Some(selection) = write.selection {
        predicate::learn(selection, &level.scope, &mut build.learned);
    }
    let scope = Rc::new(level.scope);
    let exprs = write.selection.into_iter().chain(write.assignments.iter().map(|assignment| &assignment.value));
    for expr in exprs.chain(write.returning.iter().copied()) {
        build.expr(expr, &scope, ctes);
    }
    let block = walk.finish(build, env, Mode::Plain, &scope, ctes);
    Ok((block, scope))
}

/// What may not be assigned.
fn check_assignments(relation: &Relation, place: &Place, write: &Write<'_>) -> Result<(), ClientError> {
    for assignment in write.assignments {
        if let Place::Sharded(_, key) = place
            && !write.may_assign_key
            && let Some(column) = assignment.columns.iter().find(|column| key.iter().any(|(name, _)| name == *column))
        {
            return Err(ClientError::refused(
                format!(
                    "updating sharding key column \"{column}\" of table \"{}\" is not supported",
                    relation.name.name
                ),
                "Delete the row and insert it with its new key, in one transaction.",
            ));
        }
        if matches!(place, Place::Single(..) | Place::Catalog) || !has_default(&assignment.value) {
            continue;
        }
        for column in assignment.columns.iter().filter_map(|name| relation.column(name)) {
            let is_reference = matches!(place, Place::Reference(_));
            match column.default {
                ColumnDefault::Sequence { .. } | ColumnDefault::Numbered => return Err(refuse_default(&column.name)),
                ColumnDefault::Expression if is_reference => return Err(refuse_default(&column.name)),
                _ => {}
            }
        }
    }
    Ok(())
}

fn has_default(expr: &Expr) -> bool {
    visit::any(expr, &|part| matches!(part, Expr::Default))
}

fn refuse_default(column: &str) -> ClientError {
    ClientError::refused(
        format!("setting column \"{column}\" to its default is not supported across shards"),
        "Give the value itself.",
    )
}

/// Every copy of a reference table must come out alike.
///
/// # Errors
/// A refusal.
pub fn check_reference_write(relation: &Relation, calls: &Calls, statement: &Statement) -> Result<(), ClientError> {
    if let Some(what) = calls.differs_by_shard() {
        return Err(ClientError::refused(
            format!("{what} in a write to reference table \"{}\" is not supported across shards", relation.name.name),
            "Its value would differ between the copies: pass it as a parameter.",
        ));
    }
    if relation.has_triggers {
        return Err(ClientError::refused(
            format!(
                "writing to reference table \"{}\" with triggers is not supported across shards",
                relation.name.name
            ),
            "Triggers would run once for every copy: drop them, or make the table a single table.",
        ));
    }
    let mut is_limited = false;
    visit::every_query(statement, &mut |query| {
        is_limited |= query.limit.is_some()
            || query.offset.is_some()
            || matches!(&query.body, SetExpr::Select(select) if matches!(select.distinct, crate::sql::ast::Distinct::On(_)));
    });
    if is_limited {
        return Err(ClientError::refused(
            format!(
                "LIMIT or DISTINCT ON in a write to reference table \"{}\" is not supported across shards",
                relation.name.name
            ),
            "The copies may keep different rows: read the rows first, then write them by their primary key.",
        ));
    }
    Ok(())
}

/// The plan of a write to every copy of a reference table.
///
/// # Errors
/// It reads rows that are not on every shard.
pub fn reference_plan(walk: &Walk<'_>, relation: &Relation) -> Result<Plan, ClientError> {
    if let Some(failure) = &walk.failure {
        return Err(failure.clone());
    }
    let other = walk.sources.first().map(|source| source.table.name.clone());
    if let Some(other) = other.or_else(|| walk.singles.first().map(|single| single.name.clone())) {
        return Err(ClientError::refused(
            format!(
                "a write to reference table \"{}\" that reads \"{other}\" is not supported across shards",
                relation.name.name
            ),
            "Read the values first, then write them as parameters.",
        ));
    }
    if walk.writes {
        return Err(refuse_modifying_reference());
    }
    Ok(write_plan(Route::All, Several::Same, format!("every copy of reference table {}", relation.name.name)))
}

fn refuse_modifying_reference() -> ClientError {
    ClientError::refused(
        "data-modifying WITH together with a reference table's write is not supported across shards",
        "Run the statements one by one in a transaction.",
    )
}

/// Plans MERGE.
///
/// # Errors
/// A refusal.
pub fn plan_merge(subject: &Subject<'_>, statement: &Statement, merge: &Merge) -> Result<Plan, ClientError> {
    let calls = Calls::of(subject, statement);
    let mut walk = Walk::new(subject);
    calls.apply(subject, &mut walk)?;
    let ctes = walk.with(&merge.with, is_recursive(subject), None, &Env::default(), &Ctes::default());
    match place::resolve(subject, &merge.table)? {
        place @ Place::Reference(_) => return merge_reference(&mut walk, &calls, statement, merge, &place, &ctes),
        Place::Sharded(relation, key) => return merge_into::plan(&mut walk, merge, &relation, &key, &ctes),
        Place::Single(..) | Place::Catalog => {}
    }
    walk.merge(merge, &Env::default(), &ctes);
    let routed = walk.route()?;
    match routed.route {
        Route::Shard(_) => Ok(write_plan(routed.route, Several::Refuse(refuse_merge()), routed.reason)),
        _ => Err(refuse_merge()),
    }
}

/// Every copy merges the same rows.
fn merge_reference<'a>(
    walk: &mut Walk<'_>,
    calls: &Calls,
    statement: &Statement,
    merge: &'a Merge,
    place: &Place,
    ctes: &Ctes<'a>,
) -> Result<Plan, ClientError> {
    let Some(relation) = place.relation() else { return Err(refuse_merge()) };
    check_reference_write(relation, calls, statement)?;
    // What it inserts is not followed: no column may be left to a default that differs by copy.
    let is_open =
        |default: &ColumnDefault| matches!(default, ColumnDefault::Expression | ColumnDefault::Sequence { .. });
    if let Some(column) = relation.columns.iter().find(|column| is_open(&column.default)) {
        return Err(refuse_default(&column.name));
    }
    walk.merge_into(place, merge, &Env::default(), ctes);
    reference_plan(walk, relation)
}

fn refuse_merge() -> ClientError {
    ClientError::refused(
        "MERGE is not supported across shards",
        "Use INSERT ... ON CONFLICT, or UPDATE and INSERT in one transaction.",
    )
}

impl Walk<'_> {
    fn merge<'a>(&mut self, merge: &'a Merge, env: &Env, ctes: &Ctes<'a>) {
        match place::resolve(self.subject, &merge.table) {
            Ok(place @ (Place::Single(..) | Place::Catalog)) => self.merge_into(&place, merge, env, ctes),
            Ok(_) => self.fail(refuse_merge()),
            Err(error) => self.fail(error),
        }
    }

    fn merge_into<'a>(&mut self, place: &Place, merge: &'a Merge, env: &Env, ctes: &Ctes<'a>) {
        let mut build = Build::default();
        let mut level = Level { scope: Scope::default(), ctes: ctes.clone(), env, mode: Mode::Plain };
        let item = self.placed(place, &merge.table, &mut build);
        level.scope.items.push(item);
        self.table(&merge.source, &mut level, &mut build);
        let scope = Rc::new(level.scope);
        std::iter::once(&merge.on).chain(&merge.others).for_each(|expr| build.expr(expr, &scope, ctes));
        self.finish(build, env, Mode::Plain, &scope, ctes);
    }

    /// A data-modifying WITH query: it must run on the one shard of the whole statement, or each shard does its part;
    /// then what it returns is given.
    pub(super) fn modifying<'a>(&mut self, statement: &'a Statement, env: &Env, ctes: &Ctes<'a>) -> Option<Returned> {
        let outcome = match statement {
            Statement::Update(update) => self.modifying_write(&Write::of_update(update), &update.returning, env, ctes),
            Statement::Delete(delete) => self.modifying_write(&Write::of_delete(delete), &delete.returning, env, ctes),
            Statement::Insert(insert) => self.modifying_insert(insert, env, ctes).map(|()| None),
            Statement::Merge(merge) => {
                self.merge(merge, env, ctes);
                Ok(None)
            }
            _ => Err(ClientError::refused(
                "this WITH query is not supported across shards",
                "Run the statements one by one in a transaction.",
            )),
        };
        outcome.unwrap_or_else(|error| {
            self.fail(error);
            None
        })
    }

    fn modifying_write<'a>(
        &mut self,
        write: &Write<'a>,
        returning: &[SelectItem],
        env: &Env,
        ctes: &Ctes<'a>,
    ) -> Result<Option<Returned>, ClientError> {
        let place = place::resolve(self.subject, write.table)?;
        if matches!(place, Place::Reference(_)) {
            return Err(refuse_modifying_reference());
        }
        let ctes = self.with(write.with, false, None, env, ctes);
        let (block, scope) = target(self, write, &place, env, &ctes)?;
        if !matches!(place, Place::Sharded(..)) || !block.is_spread {
            return Ok(None);
        }
        let (mut columns, is_complete) = select_facts::columns_of(self.subject, returning, &scope);
        // What is known of a column's old value says nothing of its new one.
        let assigned: Vec<Node> = scope
            .items
            .first()
            .into_iter()
            .flat_map(|item| &item.columns)
            .filter(|column| write.assignments.iter().any(|assignment| assignment.columns.contains(&column.name)))
            .filter_map(|column| Some(column.node?.0))
            .collect();
        for column in &mut columns {
            column.node = column.node.filter(|(node, _)| !assigned.contains(node));
        }
        Ok(Some(Returned { columns, is_complete, block }))
    }

    fn modifying_insert<'a>(&mut self, insert: &'a Insert, env: &Env, ctes: &Ctes<'a>) -> Result<(), ClientError> {
        let place = place::resolve(self.subject, &insert.table)?;
        let ctes = self.with(&insert.with, false, None, env, ctes);
        match &place {
            Place::Reference(_) => return Err(refuse_modifying_reference()),
            Place::Single(relation, home) => self.single(&relation.name.name, *home, true),
            Place::Catalog => self.at_home(&insert.table.name),
            Place::Sharded(relation, key) => {
                let InsertSource::Values(rows) = &insert.source else {
                    return Err(ClientError::refused(
                        "INSERT ... SELECT in WITH into a sharded table is not supported across shards",
                        "Run the statements one by one in a transaction.",
                    ));
                };
                insert::check_conflict(relation, key, insert, &[])?;
                let names = insert::column_names(relation, insert, rows.first().map_or(0, |row| row.values.len()));
                if insert::filled(relation, &names, rows).next().is_some() {
                    return Err(ClientError::refused(
                        "INSERT in WITH that leaves ids to be filled in is not supported across shards",
                        "Run the INSERT as a statement of its own and read the ids with RETURNING.",
                    ));
                }
                let mut keys = Vec::new();
                for row in rows {
                    let parts = insert::key_of_row(relation, key, &names, &row.values, &[])?;
                    check_not_null(relation, key, &parts)?;
                    keys.push(KeyTuple { parts });
                }
                self.sources.push(Source {
                    table: relation.name.clone(),
                    key: key.iter().map(|(name, _)| name.clone()).collect(),
                    keys: Some(keys),
                });
            }
        }
        insert::inner_queries(self, insert, env, &ctes);
        Ok(())
    }
}

/// A key that is NULL at bind time adds no shard: the server itself has to refuse it.
///
/// # Errors
/// The column may be NULL, or its value may be altered when it is stored.
pub fn check_not_null(
    relation: &Relation,
    key: &[(String, crate::topology::KeyType)],
    parts: &[KeyPart],
) -> Result<(), ClientError> {
    for ((name, _), part) in key.iter().zip(parts) {
        let is_not_null = relation.column(name).is_some_and(|column| column.not_null);
        if part.slot == Slot::Null || !is_not_null {
            return Err(missing_key(&relation.name.name, Some(name)));
        }
        if !insert::is_exact(relation, name) {
            return Err(ClientError::refused(
                format!("storing key column \"{name}\" this way is not supported across shards"),
                "Use INSERT with VALUES.",
            ));
        }
    }
    Ok(())
}
