//! INSERT of VALUES: rows go by their keys, ids are filled in.

use std::rc::Rc;

use super::Subject;
use super::bind::missing_key;
use super::calls::Calls;
use super::env::Env;
use super::insert_rows;
use super::insert_select;
use super::place::{self, Place};
use super::predicate;
use super::rewrite::quoted;
use super::scope::Scope;
use super::visit;
use super::walk::{Ctes, Mode, Walk};
use super::write::{self, write_plan};
use crate::base::ShardId;
use crate::error::ClientError;
use crate::plan::steps::RowsTo;
use crate::plan::{
    Fill, FillSource, InsertPlan, InsertRow, KeyPart, Piece, Plan, Route, RowFill, Several, Slot, Splice,
};
use crate::sql::ast::{Expr, Insert, InsertSource, OnConflict, Statement, ValuesRow};
use crate::topology::KeyType;
use crate::topology::schema::{Column, ColumnDefault, Relation, RelationKind, TEMPORARY_SCHEMA};

/// Plans INSERT.
///
/// # Errors
/// A refusal, or a sharding key that is missing.
pub fn plan(subject: &Subject<'_>, statement: &Statement, insert: &Insert) -> Result<Plan, ClientError> {
    let calls = Calls::of(subject, statement);
    let mut walk = Walk::new(subject);
    calls.apply(subject, &mut walk)?;
    let place = place::resolve(subject, &insert.table)?;
    let env = Env::default();
    let ctes = walk.with(&insert.with, write::is_recursive(subject), None, &env, &Ctes::default());
    match (&place, &insert.source) {
        (Place::Single(relation, home), _) => {
            walk.single(&relation.name.name, *home, true);
            inner_queries(&mut walk, insert, &env, &ctes);
            match home_plan(&walk) {
                Ok(plan) => Ok(with_ids(subject, insert, relation, *home).unwrap_or(plan)),
                Err(refusal) => from_elsewhere(subject, &calls, insert, relation, RowsTo::Shard(*home), refusal),
            }
        }
        (Place::Catalog, _) => {
            walk.at_home(&insert.table.name);
            inner_queries(&mut walk, insert, &env, &ctes);
            home_plan(&walk)
        }
        (Place::Sharded(relation, key), InsertSource::Query(query)) => {
            conflict_queries(&mut walk, insert, &env, &ctes);
            insert_select::plan(walk, &calls, insert, query, relation, key, &ctes)
        }
        (Place::Sharded(relation, key), _) => {
            inner_queries(&mut walk, insert, &env, &ctes);
            values(subject, &walk, insert, relation, To::Owners(key))
        }
        (Place::Reference(relation), source) => {
            write::check_reference_write(relation, &calls, statement)?;
            inner_queries(&mut walk, insert, &env, &ctes);
            let plan = write::reference_plan(&walk, relation)
                .and_then(|plan| check_defaults(relation, insert).map(|()| plan))
                .or_else(|refusal| from_elsewhere(subject, &calls, insert, relation, RowsTo::All, refusal))?;
            if matches!(source, InsertSource::Query(_)) {
                return Ok(plan);
            }
            let filled = values(subject, &walk, insert, relation, To::Copies)?;
            Ok(if filled.insert.as_ref().is_some_and(|insert| !insert.fills.is_empty()) { filled } else { plan })
        }
    }
}

/// Rows of a query that cannot be inserted where they are made go through the proxy.
fn from_elsewhere(
    subject: &Subject<'_>,
    calls: &Calls,
    insert: &Insert,
    relation: &Relation,
    to: RowsTo,
    refusal: ClientError,
) -> Result<Plan, ClientError> {
    match &insert.source {
        InsertSource::Query(query) => {
            insert_rows::plan_elsewhere(subject, calls, insert, query, relation, to).map_err(|_| refusal)
        }
        InsertSource::Values(_) | InsertSource::DefaultValues => Err(refusal),
    }
}

/// Ids of a single table on the home shard are given by the proxy too where rows are listed: it can then say what
/// `lastval` is, which the server tells on one connection only. `None`: the server's own defaults serve.
fn with_ids(subject: &Subject<'_>, insert: &Insert, relation: &Relation, home: ShardId) -> Option<Plan> {
    let is_listed = insert.with.is_empty() && !matches!(insert.source, InsertSource::Query(_));
    let is_own = relation.kind == RelationKind::Table && relation.name.schema != TEMPORARY_SCHEMA;
    if !is_listed || !is_own || home != subject.topology.home() {
        return None;
    }
    let plan = values(subject, &Walk::new(subject), insert, relation, To::Home(home)).ok()?;
    plan.insert.as_ref().is_some_and(|insert| !insert.fills.is_empty()).then_some(plan)
}

fn home_plan(walk: &Walk<'_>) -> Result<Plan, ClientError> {
    let routed = walk.route()?;
    let refusal = ClientError::refused("a single table is on one shard", "Check the table's home.");
    Ok(write_plan(routed.route, Several::Refuse(refusal), routed.reason))
}

/// Walks everything inside an INSERT that may read rows.
pub fn inner_queries<'a>(walk: &mut Walk<'_>, insert: &'a Insert, env: &Env, ctes: &Ctes<'a>) {
    let scope = Rc::new(Scope::default());
    match &insert.source {
        InsertSource::Values(rows) => {
            for expr in rows.iter().flat_map(|row| &row.values) {
                walk.expr(expr, &scope, env, Mode::Anchored(None), ctes);
            }
        }
        InsertSource::DefaultValues => {}
        InsertSource::Query(query) => {
            walk.query(query, None, env, Mode::Plain, ctes);
        }
    }
    conflict_queries(walk, insert, env, ctes);
}

fn conflict_queries<'a>(walk: &mut Walk<'_>, insert: &'a Insert, env: &Env, ctes: &Ctes<'a>) {
    let scope = Rc::new(Scope::default());
    if let Some(conflict) = &insert.on_conflict {
        let exprs = conflict.assignments.iter().map(|assignment| &assignment.value).chain(&conflict.selection);
        exprs.for_each(|expr| walk.expr(expr, &scope, env, Mode::Anchored(None), ctes));
    }
    visit::item_exprs(&insert.returning).for_each(|expr| walk.expr(expr, &scope, env, Mode::Anchored(None), ctes));
}

/// Names of the columns that the values are for.
pub fn column_names(relation: &Relation, insert: &Insert, values: usize) -> Vec<String> {
    if insert.columns.is_empty() {
        relation.columns.iter().take(values).map(|column| column.name.clone()).collect()
    } else {
        insert.columns.clone()
    }
}

/// Columns whose ids the proxy fills in, in at least one row.
pub fn filled<'r>(
    relation: &'r Relation,
    names: &'r [String],
    rows: &'r [ValuesRow],
) -> impl Iterator<Item = (&'r Column, bool)> {
    relation.columns.iter().filter_map(move |column| {
        let ColumnDefault::Sequence { always, .. } = &column.default else { return None };
        let is_filled = match names.iter().position(|name| *name == column.name) {
            None => true,
            Some(position) => rows.iter().any(|row| matches!(row.values.get(position), Some(Expr::Default))),
        };
        is_filled.then_some((column, *always))
    })
}

/// Copies of a reference table must get equal values for what is not given.
pub fn check_defaults(relation: &Relation, insert: &Insert) -> Result<(), ClientError> {
    if relation.kind == RelationKind::View {
        return Err(ClientError::refused(
            format!("inserting through view \"{}\" is not supported across shards", relation.name.name),
            "Insert into the table itself.",
        ));
    }
    let rows: &[ValuesRow] = match &insert.source {
        InsertSource::Values(rows) => rows,
        _ => &[],
    };
    let width = match &insert.source {
        InsertSource::Values(rows) => rows.first().map_or(0, |row| row.values.len()),
        InsertSource::DefaultValues => 0,
        InsertSource::Query(_) => relation.columns.len(),
    };
    let names = column_names(relation, insert, width);
    for column in &relation.columns {
        let position = names.iter().position(|name| *name == column.name);
        let is_given = position
            .is_some_and(|position| !rows.iter().any(|row| matches!(row.values.get(position), Some(Expr::Default))));
        let is_query = matches!(insert.source, InsertSource::Query(_));
        let is_open = match column.default {
            ColumnDefault::Numbered => true,
            ColumnDefault::Expression | ColumnDefault::Sequence { .. } => is_query,
            ColumnDefault::None | ColumnDefault::Constant | ColumnDefault::Generated => false,
        };
        if is_open && !is_given {
            return Err(ClientError::refused(
                format!(
                    "leaving column \"{}\" of reference table \"{}\" to its default is not supported across shards",
                    column.name, relation.name.name
                ),
                "The default might differ between the copies: give the value itself.",
            ));
        }
    }
    Ok(())
}

/// True when storing a value into the column never alters it, or is refused by the server.
pub fn is_exact(relation: &Relation, name: &str) -> bool {
    relation
        .column(name)
        .is_some_and(|column| KeyType::from_oid(column.type_oid) != Some(KeyType::Varchar) || !column.has_type_modifier)
}

/// The type as which values for a key column are read: varchar without a length is text.
pub fn stored_as(relation: &Relation, name: &str, key_type: KeyType) -> KeyType {
    if is_exact(relation, name) { predicate::compared_as(key_type) } else { key_type }
}

/// The key of one row. `fills` are the columns that are filled in, by index.
pub fn key_of_row(
    relation: &Relation,
    key: &[(String, KeyType)],
    names: &[String],
    values: &[Expr],
    fills: &[Fill],
) -> Result<Vec<KeyPart>, ClientError> {
    let mut parts = Vec::with_capacity(key.len());
    for (name, key_type) in key {
        let value = names.iter().position(|column| column == name).and_then(|position| values.get(position));
        let slot = match value {
            None | Some(Expr::Default) => match known_fill(fills, name) {
                Some(fill) => (Slot::Fill(fill), *key_type),
                None if has_no_default(relation, name) && key_is_not_null(relation, key) => (Slot::Null, *key_type),
                None => return Err(missing_key(&relation.name.name, Some(name))),
            },
            Some(Expr::Null) if key_is_not_null(relation, key) => (Slot::Null, *key_type),
            Some(Expr::Null) => return Err(missing_key(&relation.name.name, Some(name))),
            Some(value) => constant_or_filled(value, name, *key_type, fills).ok_or_else(|| {
                ClientError::refused(
                    format!(
                        "an expression for sharding key column \"{name}\" of table \"{}\" is not supported",
                        relation.name.name
                    ),
                    "Give the key as a constant or a parameter: it decides which shard holds the row.",
                )
            })?,
        };
        let (slot, read_as) = slot;
        // The column's own type decides what is stored.
        let key_type = match stored_as(relation, name, *key_type) {
            KeyType::Varchar => KeyType::Varchar,
            _ => predicate::compared_as(read_as),
        };
        parts.push(KeyPart { slot, key_type, is_array: false });
    }
    Ok(parts)
}

/// The fill that stands for a value that is not given.
fn known_fill(fills: &[Fill], name: &str) -> Option<usize> {
    fills.iter().position(|fill| fill.column == name && fill.source != FillSource::Expression)
}

fn constant_or_filled(value: &Expr, name: &str, key_type: KeyType, fills: &[Fill]) -> Option<(Slot, KeyType)> {
    predicate::constant(value, key_type).or_else(|| {
        let fill = fills.iter().position(|fill| fill.column == name && fill.source == FillSource::Expression)?;
        Some((Slot::Fill(fill), key_type))
    })
}

/// Every shard refuses a row without a key by itself.
pub fn key_is_not_null(relation: &Relation, key: &[(String, KeyType)]) -> bool {
    !relation.has_triggers && key.iter().all(|(name, _)| relation.column(name).is_some_and(|column| column.not_null))
}

fn has_no_default(relation: &Relation, name: &str) -> bool {
    relation.column(name).is_some_and(|column| column.default == ColumnDefault::None)
}

/// A conflict with a row of another shard would not be seen.
///
/// # Errors
/// The target does not contain the sharding key, or the key would be changed.
pub fn check_conflict(
    relation: &Relation,
    key: &[(String, KeyType)],
    insert: &Insert,
    fills: &[Fill],
) -> Result<(), ClientError> {
    let Some(conflict) = &insert.on_conflict else { return Ok(()) };
    check_conflict_assignments(relation, key, conflict)?;
    let has_key = |columns: &[String]| key.iter().all(|(name, _)| columns.contains(name));
    let is_local = if conflict.target_columns.is_empty() {
        relation.unique.iter().all(|unique| {
            has_key(&unique.columns)
                || matches!(unique.columns.as_slice(), [column] if fills.iter().any(|fill| is_new_id(fill, column)))
        })
    } else {
        has_key(&conflict.target_columns)
    };
    if is_local {
        return Ok(());
    }
    Err(ClientError::refused(
        format!(
            "ON CONFLICT on table \"{}\" without its sharding key is not supported across shards",
            relation.name.name
        ),
        "A conflicting row may be on another shard: add the sharding key to the unique index and to the conflict target.",
    ))
}

/// Ids from a sequence are no other row's.
fn is_new_id(fill: &Fill, column: &str) -> bool {
    fill.column == column && matches!(fill.source, FillSource::Sequence(_))
}

fn check_conflict_assignments(
    relation: &Relation,
    key: &[(String, KeyType)],
    conflict: &OnConflict,
) -> Result<(), ClientError> {
    for assignment in &conflict.assignments {
        let is_same = |column: &String| {
            assignment.columns.len() == 1
                && conflict.target_columns.contains(column)
                && is_excluded(&assignment.value, column)
        };
        let is_key = |column: &&String| key.iter().any(|(name, _)| name == *column);
        if let Some(column) = assignment.columns.iter().find(|column| is_key(column) && !is_same(column)) {
            return Err(ClientError::refused(
                format!(
                    "updating sharding key column \"{column}\" of table \"{}\" is not supported",
                    relation.name.name
                ),
                "Leave the key out of DO UPDATE SET.",
            ));
        }
        let is_filled = assignment
            .columns
            .iter()
            .filter_map(|name| relation.column(name))
            .any(|column| matches!(column.default, ColumnDefault::Sequence { .. }));
        if is_filled && visit::any(&assignment.value, &|part| matches!(part, Expr::Default)) {
            return Err(ClientError::refused(
                "setting an id to its default in DO UPDATE is not supported across shards",
                "Leave the id out of DO UPDATE SET.",
            ));
        }
    }
    Ok(())
}

/// `EXCLUDED.column` of a conflict target: equal to the row's own value, or there would be no conflict.
fn is_excluded(value: &Expr, column: &str) -> bool {
    matches!(value, Expr::Column { qualifier, name }
        if name == column && matches!(qualifier.as_slice(), [table] if table == "excluded"))
}

/// Where rows go.
#[derive(Clone, Copy)]
enum To<'k> {
    /// Each to the owner of its key.
    Owners(&'k [(String, KeyType)]),
    /// All of them to every copy of a reference table.
    Copies,
    /// All of them to the shard of a single table.
    Home(ShardId),
}

impl<'k> To<'k> {
    fn key(self) -> Option<&'k [(String, KeyType)]> {
        match self {
            Self::Owners(key) => Some(key),
            Self::Copies | Self::Home(_) => None,
        }
    }
}

/// VALUES or DEFAULT VALUES into a sharded table, or into every copy of a reference table.
fn values(
    subject: &Subject<'_>,
    walk: &Walk<'_>,
    insert: &Insert,
    relation: &Relation,
    to: To<'_>,
) -> Result<Plan, ClientError> {
    let key = to.key();
    check_reads(walk, relation)?;
    let no_rows = Vec::new();
    let (rows, is_default) = match &insert.source {
        InsertSource::Values(rows) => (rows, false),
        _ => (&no_rows, true),
    };
    let width = rows.first().map_or(0, |row| row.values.len());
    let names = column_names(relation, insert, width);
    if !is_default && rows.iter().any(|row| row.values.len() != names.len()) {
        // PostgreSQL says what is wrong with it.
        let refusal = ClientError::refused("VALUES lists do not fit the columns", "Give a value for each column.");
        let route = Route::Shard(subject.topology.home());
        return Ok(write_plan(route, Several::Refuse(refusal), "the number of values is wrong".to_owned()));
    }
    if key.is_some() {
        check_numbered(relation, &names, rows)?;
    }
    let columns: Vec<(&Column, bool)> = filled(relation, &names, rows).collect();
    let mut fills: Vec<Fill> = columns.iter().filter_map(|(column, _)| fill(column)).collect();
    match to {
        To::Owners(key) => fills.extend(key_fills(relation, key, &names, rows)),
        To::Copies => fills.extend(open_defaults(relation, &names, rows)),
        To::Home(_) => {}
    }
    check_overriding(subject, insert, relation, &columns, &names, rows)?;
    if let Some(key) = key {
        check_conflict(relation, key, insert, &fills)?;
    }
    let omitted: Vec<usize> =
        fills.iter().enumerate().filter(|(_, fill)| !names.contains(&fill.column)).map(|(index, _)| index).collect();
    let planned = planned_rows(insert, relation, key, &names, rows, &fills, &omitted)?;
    let rows_tokens = match (planned.first(), planned.last()) {
        (Some(first), Some(last)) => first.tokens.start..last.tokens.end,
        _ => insert.source_token..insert.source_token,
    };
    let must_override = columns.iter().any(|(_, always)| *always) && !insert.overriding;
    let splices = head_splices(insert, &names, &fills, &omitted, must_override, is_default);
    let table = &relation.name.name;
    let (route, several, reason) = match to {
        To::Owners(_) => (Route::ByRow, Several::Sum, format!("each row by the key of {table}")),
        To::Copies => (Route::All, Several::Same, format!("every copy of reference table {table}")),
        To::Home(home) => {
            let refusal = ClientError::refused("a single table is on one shard", "Check the table's home.");
            (Route::Shard(home), Several::Refuse(refusal), format!("{table} is on the home shard"))
        }
    };
    let mut plan = write_plan(route, several, reason);
    plan.insert = Some(InsertPlan {
        table: relation.name.clone(),
        fills,
        splices,
        rows: planned,
        rows_tokens,
        returning: !insert.returning.is_empty(),
        may_skip_rows: insert.on_conflict.is_some(),
        key_is_not_null: key.is_some_and(|key| key_is_not_null(relation, key)),
        everywhere: matches!(to, To::Copies),
    });
    Ok(plan)
}

/// Each shard would count by itself.
pub fn check_numbered(relation: &Relation, names: &[String], rows: &[ValuesRow]) -> Result<(), ClientError> {
    let is_open = |column: &&Column| {
        column.default == ColumnDefault::Numbered
            && names
                .iter()
                .position(|name| *name == column.name)
                .is_none_or(|at| rows.iter().any(|row| matches!(row.values.get(at), Some(Expr::Default))))
    };
    match relation.columns.iter().find(is_open) {
        Some(column) => Err(ClientError::refused(
            format!(
                "leaving column \"{}\" of table \"{}\" to its default is not supported across shards",
                column.name, relation.name.name
            ),
            "The default takes numbers in an expression, and each shard would count by itself: give the value itself.",
        )),
        None => Ok(()),
    }
}

/// Each row with its key and the places of its ids; DEFAULT VALUES is one row of ids.
fn planned_rows(
    insert: &Insert,
    relation: &Relation,
    key: Option<&[(String, KeyType)]>,
    names: &[String],
    rows: &[ValuesRow],
    fills: &[Fill],
    omitted: &[usize],
) -> Result<Vec<InsertRow>, ClientError> {
    let key_of = |names: &[String], values: &[Expr]| match key {
        Some(key) => key_of_row(relation, key, names, values, fills),
        None => Ok(Vec::new()),
    };
    if matches!(insert.source, InsertSource::DefaultValues) {
        let tokens = insert.source_token..insert.source_token + 2;
        let fills = omitted.iter().map(|fill| RowFill { fill: *fill, tokens: tokens.clone() }).collect();
        return Ok(vec![InsertRow { tokens, key: key_of(&[], &[])?, fills }]);
    }
    rows.iter()
        .map(|row| {
            Ok(InsertRow {
                tokens: row.tokens.clone(),
                key: key_of(names, &row.values)?,
                fills: row_fills(row, names, fills, omitted),
            })
        })
        .collect()
}

/// What the values read must be on every shard.
fn check_reads(walk: &Walk<'_>, relation: &Relation) -> Result<(), ClientError> {
    if let Some(failure) = &walk.failure {
        return Err(failure.clone());
    }
    let read = walk.sources.first().map(|source| source.table.name.clone());
    if let Some(read) = read.or_else(|| walk.singles.first().map(|single| single.name.clone())) {
        return Err(ClientError::refused(
            format!(
                "INSERT into table \"{}\" that reads \"{read}\" is not supported across shards",
                relation.name.name
            ),
            "Read the values first, then insert them as parameters.",
        ));
    }
    if walk.writes {
        return Err(ClientError::refused(
            "data-modifying WITH is not supported across shards",
            "Run the statements one by one in a transaction.",
        ));
    }
    Ok(())
}

fn fill(column: &Column) -> Option<Fill> {
    match &column.default {
        ColumnDefault::Sequence { sequence, .. } => Some(fill_from(column, FillSource::Sequence(sequence.clone()))),
        _ => None,
    }
}

fn fill_from(column: &Column, source: FillSource) -> Fill {
    Fill { source, column: column.name.clone(), type_oid: column.type_oid }
}

/// A row leaves the column to its default.
fn is_left_out(names: &[String], rows: &[ValuesRow], column: &str) -> bool {
    match names.iter().position(|name| name == column) {
        None => true,
        Some(position) => rows.iter().any(|row| matches!(row.values.get(position), Some(Expr::Default))),
    }
}

/// Key columns whose values a server has to compute before the row's shard is known.
fn key_fills(relation: &Relation, key: &[(String, KeyType)], names: &[String], rows: &[ValuesRow]) -> Vec<Fill> {
    let mut fills = Vec::new();
    for (name, key_type) in key {
        let Some(column) = relation.column(name) else { continue };
        let has_default = matches!(column.default, ColumnDefault::Constant | ColumnDefault::Expression);
        if has_default && is_left_out(names, rows, name) {
            fills.push(fill_from(column, FillSource::Default));
        }
        let position = names.iter().position(|column| column == name);
        let values = rows.iter().filter_map(|row| row.values.get(position?));
        let is_computed = |value: &Expr| {
            !matches!(value, Expr::Default | Expr::Null) && predicate::constant(value, *key_type).is_none()
        };
        if values.into_iter().any(is_computed) {
            fills.push(fill_from(column, FillSource::Expression));
        }
    }
    fills
}

/// Columns of a reference table whose defaults might come out differently on each shard.
fn open_defaults(relation: &Relation, names: &[String], rows: &[ValuesRow]) -> Vec<Fill> {
    let is_open =
        |column: &&Column| column.default == ColumnDefault::Expression && is_left_out(names, rows, &column.name);
    relation.columns.iter().filter(is_open).map(|column| fill_from(column, FillSource::Default)).collect()
}

/// The fill of a column that a query's rows do not bring, if it needs one.
pub fn fill_of_left_out(column: &Column, is_key: bool) -> Option<Fill> {
    match &column.default {
        ColumnDefault::Constant | ColumnDefault::Expression if is_key => Some(fill_from(column, FillSource::Default)),
        _ => fill(column),
    }
}

/// Fills for COPY: columns that are left out.
pub fn copy_fills(relation: &Relation, names: &[String]) -> Vec<Fill> {
    relation.columns.iter().filter(|column| !names.contains(&column.name)).filter_map(fill).collect()
}

/// GENERATED ALWAYS takes the proxy's ids only with OVERRIDING SYSTEM VALUE, which would also let through values that
/// the client may not give.
fn check_overriding(
    subject: &Subject<'_>,
    insert: &Insert,
    relation: &Relation,
    columns: &[(&Column, bool)],
    names: &[String],
    rows: &[ValuesRow],
) -> Result<(), ClientError> {
    let refusal = || {
        ClientError::refused(
            format!(
                "this use of the identity columns of table \"{}\" is not supported across shards",
                relation.name.name
            ),
            "Leave the identity columns out of the INSERT, or give all of them with OVERRIDING SYSTEM VALUE.",
        )
    };
    let has_identity = relation.columns.iter().any(|column| matches!(column.default, ColumnDefault::Sequence { .. }));
    if insert.overriding && has_identity {
        let is_user = (0..subject.lexed.tokens.len()).any(|at| {
            subject.token(at).eq_ignore_ascii_case("overriding") && subject.token(at + 1).eq_ignore_ascii_case("user")
        });
        if is_user || !columns.is_empty() && insert.columns.is_empty() {
            return Err(refusal());
        }
    }
    let fills_always = columns.iter().any(|(_, always)| *always);
    if !fills_always || insert.overriding {
        return Ok(());
    }
    for column in &relation.columns {
        let ColumnDefault::Sequence { always: true, .. } = column.default else { continue };
        let Some(position) = names.iter().position(|name| *name == column.name) else { continue };
        if rows.iter().any(|row| !matches!(row.values.get(position), Some(Expr::Default))) {
            return Err(refusal());
        }
    }
    Ok(())
}

fn row_fills(row: &ValuesRow, names: &[String], fills: &[Fill], omitted: &[usize]) -> Vec<RowFill> {
    let close = row.tokens.end.saturating_sub(1);
    let mut filled = Vec::new();
    for (index, fill) in fills.iter().enumerate() {
        if omitted.contains(&index) {
            filled.push(RowFill { fill: index, tokens: close..close });
            continue;
        }
        let position = names.iter().position(|name| *name == fill.column);
        let value = position.and_then(|position| Some((row.values.get(position)?, row.value_tokens.get(position)?)));
        let Some((value, tokens)) = value else { continue };
        let is_this = match fill.source {
            FillSource::Sequence(_) | FillSource::Default => matches!(value, Expr::Default),
            FillSource::Expression => KeyType::from_oid(fill.type_oid).is_some_and(|key_type| {
                !matches!(value, Expr::Default | Expr::Null) && predicate::constant(value, key_type).is_none()
            }),
        };
        if is_this {
            filled.push(RowFill { fill: index, tokens: tokens.clone() });
        }
    }
    filled
}

/// Changes before VALUES: columns that are filled in, OVERRIDING.
fn head_splices(
    insert: &Insert,
    names: &[String],
    fills: &[Fill],
    omitted: &[usize],
    must_override: bool,
    is_default: bool,
) -> Vec<Splice> {
    let added: Vec<String> =
        omitted.iter().filter_map(|index| fills.get(*index)).map(|fill| quoted(&fill.column)).collect();
    let mut splices = Vec::new();
    let mut before_source = String::new();
    if !added.is_empty() {
        match &insert.columns_tokens {
            Some(tokens) => {
                let close = tokens.end.saturating_sub(1);
                let with = vec![Piece::Text(format!(", {}", added.join(", ")))];
                splices.push(Splice { tokens: close..close, with });
            }
            None => {
                let all: Vec<String> = names.iter().map(|name| quoted(name)).chain(added).collect();
                before_source.push_str(&format!(" ({})", all.join(", ")));
            }
        }
    }
    if must_override && !fills.is_empty() {
        before_source.push_str(" OVERRIDING SYSTEM VALUE");
    }
    if is_default && !fills.is_empty() {
        before_source.push_str(" VALUES");
    }
    if !before_source.is_empty() {
        let at = insert.source_token;
        splices.push(Splice { tokens: at..at, with: vec![Piece::Text(before_source)] });
    }
    splices
}
