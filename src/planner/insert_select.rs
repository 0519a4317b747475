//! INSERT … SELECT into a sharded table: rows that are already where they belong stay there.

use super::bind::missing_key;
use super::calls::Calls;
use super::env::Env;
use super::insert;
use super::insert_rows;
use super::predicate;
use super::walk::{Ctes, Mode, Output, Source, Walk};
use super::write::{self, write_plan};
use crate::error::ClientError;
use crate::plan::{Fill, KeyPart, KeyTuple, Plan, Route, Several, Steps};
use crate::sql::ast::{Expr, Insert, Query, SelectItemKind, SetExpr};
use crate::topology::KeyType;
use crate::topology::schema::Relation;

/// Plans it: where the rows are already on their shards nothing travels, else they go through the proxy.
///
/// # Errors
/// A refusal, or a sharding key that is missing.
pub fn plan<'a>(
    mut walk: Walk<'_>,
    calls: &Calls,
    insert: &'a Insert,
    query: &'a Query,
    relation: &Relation,
    key: &[(String, KeyType)],
    ctes: &Ctes<'a>,
) -> Result<Plan, ClientError> {
    let output = walk.query(query, None, &Env::default(), Mode::Plain, ctes);
    let width = if output.is_complete { output.columns.len() } else { relation.columns.len() };
    let names = insert::column_names(relation, insert, width);
    insert::check_numbered(relation, &names, &[])?;
    let left_out: Vec<Fill> = relation
        .columns
        .iter()
        .filter(|column| !names.contains(&column.name))
        .filter_map(|column| insert::fill_of_left_out(column, key.iter().any(|(name, _)| *name == column.name)))
        .collect();
    insert::check_conflict(relation, key, insert, &left_out)?;
    let steps = insert_rows::plan(&walk, calls, insert, query, relation, key, &output);
    let travelling = |steps: Steps| {
        let reason = format!("each row of the query by the key of {}", relation.name.name);
        write_plan(Route::All, Several::Steps(Box::new(steps)), reason)
    };
    if !left_out.is_empty() {
        return steps.map(travelling);
    }
    match in_place(&mut walk, insert, query, relation, key, &names, &output) {
        Ok((route, None, reason)) => Ok(write_plan(route, Several::Sum, reason)),
        Ok((Route::All, Some(trouble), _)) => steps.map(travelling).map_err(|_| trouble),
        Ok((route, Some(trouble), reason)) => {
            // One shard for all is found at bind time, or it is not.
            let several = steps.map_or(Several::Refuse(trouble), |steps| Several::Steps(Box::new(steps)));
            Ok(write_plan(route, several, reason))
        }
        Err(_) => steps.map(travelling),
    }
}

/// The route when every row is made on the shard that it belongs to; with what is in the way when that is so only if
/// all of it happens on one shard.
fn in_place(
    walk: &mut Walk<'_>,
    insert: &Insert,
    query: &Query,
    relation: &Relation,
    key: &[(String, KeyType)],
    names: &[String],
    output: &Output,
) -> Result<(Route, Option<ClientError>, String), ClientError> {
    if insert.overriding {
        return Err(ClientError::refused(
            "OVERRIDING in INSERT ... SELECT is not supported across shards",
            "Use INSERT with VALUES.",
        ));
    }
    match constant_key(query, relation, key, names)? {
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
        None if is_in_place(output, relation, key, names) => {}
        None => {
            return Err(ClientError::refused(
                "INSERT ... SELECT that moves rows between shards is not supported across shards",
                "Select the sharding key of the source as the sharding key of the target.",
            ));
        }
    }
    let routed = walk.route()?;
    Ok((routed.route, walk.trouble.clone(), routed.reason))
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
            Some((slot, key_type)) => parts.push(KeyPart { slot, key_type, is_array: false }),
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
