//! INSERT … SELECT into a sharded table: the rows must already be where they belong.

use super::bind::missing_key;
use super::env::Env;
use super::insert;
use super::predicate;
use super::walk::{Ctes, Mode, Output, Source, Walk};
use super::write::{self, write_plan};
use crate::error::ClientError;
use crate::plan::{KeyPart, KeyTuple, Plan, Route, Several};
use crate::sql::ast::{Expr, Insert, Query, SelectItemKind, SetExpr};
use crate::topology::KeyType;
use crate::topology::schema::{ColumnDefault, Relation};

/// Plans it.
///
/// # Errors
/// A refusal, or a sharding key that is missing.
pub fn plan<'a>(
    mut walk: Walk<'_>,
    insert: &'a Insert,
    query: &'a Query,
    relation: &Relation,
    key: &[(String, KeyType)],
    ctes: &Ctes<'a>,
) -> Result<Plan, ClientError> {
    insert::check_conflict(relation, key, insert, &[])?;
    let output = walk.query(query, None, &Env::default(), Mode::Plain, ctes);
    let width = if output.is_complete { output.columns.len() } else { relation.columns.len() };
    let names = insert::column_names(relation, insert, width);
    let needs_ids = relation.columns.iter().find(|column| {
        matches!(column.default, ColumnDefault::Sequence { .. } | ColumnDefault::Numbered)
            && !names.contains(&column.name)
    });
    if let Some(column) = needs_ids {
        return Err(ClientError::refused(
            format!(
                "INSERT ... SELECT that leaves column \"{}\" of table \"{}\" to be filled in is not supported across shards",
                column.name, relation.name.name
            ),
            "Select the ids too, or read the rows and insert them with VALUES.",
        ));
    }
    if insert.overriding {
        return Err(ClientError::refused(
            "OVERRIDING in INSERT ... SELECT is not supported across shards",
            "Use INSERT with VALUES.",
        ));
    }
    match constant_key(query, relation, key, &names)? {
        Some(parts) => {
            write::check_not_null(relation, key, &parts)?;
            walk.sources.push(Source {
                table: relation.name.clone(),
                key: key.iter().map(|(name, _)| name.clone()).collect(),
                keys: Some(vec![KeyTuple { parts }]),
            });
            walk.trouble(
                "INSERT ... SELECT of rows from another shard is not supported across shards",
                "Restrict the query to the sharding key that is inserted.",
            );
        }
        None if is_in_place(&output, relation, key, &names) => {}
        None => {
            if let Some(failure) = &walk.failure {
                return Err(failure.clone());
            }
            return Err(ClientError::refused(
                "INSERT ... SELECT that moves rows between shards is not supported across shards",
                "Select the sharding key of the source as the sharding key of the target, or read the rows and insert them with VALUES.",
            ));
        }
    }
    let routed = walk.route()?;
    let several = match (&walk.trouble, &routed.route) {
        (Some(trouble), Route::All) => return Err(trouble.clone()),
        (Some(trouble), _) => Several::Refuse(trouble.clone()),
        (None, _) => Several::Sum,
    };
    Ok(write_plan(routed.route, several, routed.reason))
}

/// The key, when the query gives one constant key to all of its rows.
fn constant_key(
    query: &Query,
    relation: &Relation,
    key: &[(String, KeyType)],
    names: &[String],
) -> Result<Option<Vec<KeyPart>>, ClientError> {
    let mut body = &query.body;
    while let SetExpr::Nested(inner) = body {
        body = &inner.body;
    }
    let mut parts = Vec::new();
    for (name, key_type) in key {
        let Some(position) = names.iter().position(|column| column == name) else {
            return Err(missing_key(&relation.name.name, Some(name)));
        };
        let expr: Option<&Expr> = match body {
            SetExpr::Select(select)
                if select
                    .items
                    .iter()
                    .take(position + 1)
                    .all(|item| matches!(item.kind, SelectItemKind::Expr { .. })) =>
            {
                select.items.get(position).and_then(|item| match &item.kind {
                    SelectItemKind::Expr { expr, .. } => Some(expr),
                    _ => None,
                })
            }
            _ => None,
        };
        match expr.and_then(|expr| predicate::constant(expr, *key_type)) {
            Some((slot, key_type)) => parts.push(KeyPart { slot, key_type }),
            None => return Ok(None),
        }
    }
    Ok(Some(parts))
}

/// True when each row is computed on the shard that it belongs to.
fn is_in_place(output: &Output, relation: &Relation, key: &[(String, KeyType)], names: &[String]) -> bool {
    let Some(vector) = output.vector.as_ref().filter(|vector| output.is_complete && vector.len() == key.len()) else {
        return false;
    };
    let mut env = Env::default();
    env.learn(&output.learned);
    key.iter().zip(vector).all(|((name, key_type), wanted)| {
        let column = names.iter().position(|column| column == name).and_then(|position| output.columns.get(position));
        column.and_then(|column| column.node).is_some_and(|(node, source_type)| {
            insert::is_exact(relation, name)
                && predicate::is_same_family(*key_type, source_type)
                && env.strong(node) == env.strong(*wanted)
        })
    })
}
