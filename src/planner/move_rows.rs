//! UPDATE of the sharding key: rows whose new key belongs to another shard leave theirs and are inserted there.
//!
//! What an UPDATE does and DELETE with INSERT do not (triggers, cascades, policies) decides whether a table's rows may
//! move; what only the catalog knows of that is asked when it runs.

use super::insert;
use super::insert_rows;
use super::predicate;
use super::rewrite::quoted;
use super::visit;
use super::walk::Walk;
use super::write::{self, write_plan};
use crate::error::ClientError;
use crate::plan::steps::{MoveRows, RowsTarget, Steps};
use crate::plan::{KeyTuple, Piece, Plan, Route, Several};
use crate::sql::ast::{Assignment, Expr, Update};
use crate::topology::KeyType;
use crate::topology::schema::{ColumnDefault, Relation, RelationKind};

/// What of an UPDATE's assignments concerns the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// Nothing: the key is not assigned, or only itself.
    None,
    /// It is assigned.
    Assigned,
}

/// Whether the key may change.
pub fn key_change(update: &Update, key: &[(String, KeyType)]) -> KeyChange {
    let is_key = |name: &String| key.iter().any(|(key, _)| key == name);
    let assigns = |assignment: &Assignment| assignment.columns.iter().any(is_key) && !is_itself(update, assignment);
    if update.assignments.iter().any(assigns) { KeyChange::Assigned } else { KeyChange::None }
}

/// `SET id = id`, where the name can only mean the target's column.
fn is_itself(update: &Update, assignment: &Assignment) -> bool {
    let [column] = assignment.columns.as_slice() else { return false };
    let target = update.alias.as_deref().unwrap_or(&update.table.name);
    match &assignment.value {
        Expr::Column { qualifier, name } if name == column => match qualifier.as_slice() {
            [] => update.from.is_empty(),
            [table] => table == target,
            _ => false,
        },
        _ => false,
    }
}

/// Plans an UPDATE that assigns the key. The statement has been walked.
///
/// # Errors
/// A refusal.
pub fn plan(
    walk: &Walk<'_>,
    update: &Update,
    relation: &Relation,
    key: &[(String, KeyType)],
) -> Result<Plan, ClientError> {
    let routed = walk.route()?;
    if walk.writes || walk.trouble.is_some() {
        return Err(refuse(relation, "Leave WITH and queries out of the statement, or delete the row and insert it."));
    }
    if becomes_null(update, relation, key) {
        // Every shard refuses it in PostgreSQL's own words, for as many rows as it has.
        return Ok(write_plan(routed.route, Several::Sum, routed.reason));
    }
    let new_key = new_key(update, relation, key)?;
    let steps = steps(walk, update, relation, key, new_key.clone());
    let reason = format!("{}, and where the new key of {} belongs", routed.reason, relation.name.name);
    let route = match (routed.route, new_key) {
        (Route::Keys(mut keys), Some(new_key)) => {
            if !keys.contains(&new_key) {
                keys.push(new_key);
            }
            Route::Keys(keys)
        }
        // Whatever the shard of the old key is, that of the new one is not known before the rows are.
        _ => Route::All,
    };
    match (steps, &route) {
        (Ok(steps), _) => Ok(write_plan(route, Several::Steps(Box::new(steps)), reason)),
        (Err(refusal), Route::Keys(_)) => Ok(write_plan(route, Several::Refuse(refusal), reason)),
        (Err(refusal), _) => Err(refusal),
    }
}

/// A part of the key is to be NULL, which its column does not take.
fn becomes_null(update: &Update, relation: &Relation, key: &[(String, KeyType)]) -> bool {
    insert::key_is_not_null(relation, key)
        && update.assignments.iter().any(|assignment| {
            let is_key = |name: &String| key.iter().any(|(key, _)| key == name);
            assignment.value == Expr::Null && assignment.columns.iter().any(is_key)
        })
}

fn refuse(relation: &Relation, hint: &str) -> ClientError {
    ClientError::refused(
        format!("this update of the sharding key of table \"{}\" is not supported across shards", relation.name.name),
        hint,
    )
}

/// The new key, when the assignments give all of it as constants.
fn new_key(update: &Update, relation: &Relation, key: &[(String, KeyType)]) -> Result<Option<KeyTuple>, ClientError> {
    let mut names = Vec::new();
    let mut values = Vec::new();
    for (name, key_type) in key {
        let assigned = update.assignments.iter().find(|assignment| assignment.columns.contains(name));
        let Some(assignment) = assigned.filter(|assignment| assignment.columns.len() == 1) else { return Ok(None) };
        if predicate::constant(&assignment.value, *key_type).is_none() {
            return Ok(None);
        }
        names.push(name.clone());
        values.push(assignment.value.clone());
    }
    let parts = insert::key_of_row(relation, key, &names, &values, &[])?;
    write::check_not_null(relation, key, &parts)?;
    Ok(Some(KeyTuple { parts }))
}

fn steps(
    walk: &Walk<'_>,
    update: &Update,
    relation: &Relation,
    key: &[(String, KeyType)],
    new_key: Option<KeyTuple>,
) -> Result<Steps, ClientError> {
    check(walk, update, relation)?;
    let target_name = quoted(update.alias.as_deref().unwrap_or(&update.table.name));
    let with = if update.with.is_empty() { 0..0 } else { 0..update.tokens.update };
    let text = |text: &str| Piece::Text(text.to_owned());
    let from = |keyword: &str| {
        let from = &update.tokens.from;
        let keyword = if from.is_empty() { " " } else { keyword };
        [text(keyword), Piece::Tokens(from.clone()), text(" "), Piece::Tokens(update.tokens.selection.clone())]
    };
    let mut take =
        vec![Piece::Tokens(with.clone()), text(" DELETE FROM "), Piece::Tokens(update.tokens.target.clone())];
    take.extend(from(" USING "));
    take.push(text(" RETURNING "));
    let mut lock = vec![Piece::Tokens(with), text(" SELECT 1 FROM "), Piece::Tokens(update.tokens.target.clone())];
    lock.extend(from(", "));
    lock.push(text(&format!(" FOR UPDATE OF {target_name}")));
    let (mut columns, mut untyped) = (Vec::new(), Vec::new());
    for column in relation.columns.iter().filter(|column| column.default != ColumnDefault::Generated) {
        if !columns.is_empty() {
            take.push(text(", "));
        }
        match update.assignments.iter().find(|assignment| assignment.columns.contains(&column.name)) {
            Some(assignment) => {
                if matches!(assignment.value, Expr::Literal(_) | Expr::Null) {
                    untyped.push(columns.len());
                }
                take.extend([text("("), Piece::Tokens(assignment.value_tokens.clone()), text(")")]);
            }
            None => take.push(text(&format!("{target_name}.{}", quoted(&column.name)))),
        }
        columns.push(column.name.clone());
    }
    let head = insert_rows::own_head(relation, update.alias.as_deref());
    let target = insert_rows::target(relation, key, columns, head)?;
    let is_always = |default: &ColumnDefault| matches!(default, ColumnDefault::Sequence { always: true, .. });
    let target = RowsTarget {
        overrides: relation.columns.iter().any(|column| is_always(&column.default)),
        tail: update.tokens.returning.clone(),
        returning: !update.returning.is_empty(),
        ..target
    };
    let key_columns = key.iter().map(|(name, _)| name.clone()).collect();
    Ok(Steps::MoveRows(MoveRows { take, untyped, lock, new_key, key_columns, target }))
}

/// What can be said of the statement without the catalog.
fn check(walk: &Walk<'_>, update: &Update, relation: &Relation) -> Result<(), ClientError> {
    let values = || update.assignments.iter().map(|assignment| &assignment.value);
    let is_part = |value: &Expr| {
        visit::any(value, &|part| {
            matches!(part, Expr::Default | Expr::Other { what: "assignment to a part of a column", .. })
        })
    };
    let hint = match () {
        () if relation.kind == RelationKind::View => "Update the table itself.",
        () if relation.has_triggers => "The table has triggers: delete the row and insert it, in one transaction.",
        () if update.tokens.only => "Leave ONLY out of the statement.",
        () if update.assignments.iter().any(|assignment| assignment.columns.len() != 1) => {
            "Assign each column by itself."
        }
        () if values().any(is_part) => "Give whole values instead of DEFAULT or parts of a column.",
        () if !update.returning.is_empty() && !update.from.is_empty() => {
            "Leave FROM or RETURNING out of the statement."
        }
        () if values().chain(visit::item_exprs(&update.returning)).any(visit::has_query) => {
            "Read the values first, then write them as parameters."
        }
        () if !walk.singles.is_empty() => "Leave tables that are on one shard out of the statement.",
        () => return Ok(()),
    };
    Err(refuse(relation, hint))
}
