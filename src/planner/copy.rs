//! COPY: rows go by their keys into a sharded table; tables and plain queries come out shard after shard.

use super::Subject;
use super::bind::missing_key;
use super::calls::Calls;
use super::insert::{copy_fills, stored_as};
use super::place::{self, Place};
use super::rewrite::quoted;
use super::select;
use super::walk::Walk;
use super::write::write_plan;
use crate::error::ClientError;
use crate::plan::{Class, CopyPlan, MergeSpec, Piece, Plan, Route, Several, Splice};
use crate::sql::ast::{Copy, CopySource, ObjectName, Query, Statement, TokenRange};
use crate::topology::KeyType;
use crate::topology::schema::{ColumnDefault, Relation};

/// Plans COPY.
///
/// # Errors
/// A refusal, or a sharding key that is missing.
pub fn plan(subject: &Subject<'_>, statement: &Statement, copy: &Copy) -> Result<Plan, ClientError> {
    if !copy.is_client {
        return Err(ClientError::refused(
            "COPY with a server's file or program is not supported across shards",
            "Use COPY with STDIN or STDOUT.",
        ));
    }
    match &copy.source {
        CopySource::Table { name, columns, columns_tokens, name_tokens } if copy.from => {
            from_client(subject, copy, name, columns, columns_tokens.as_ref(), name_tokens)
        }
        CopySource::Table { name, .. } => to_client(subject, copy, name),
        CopySource::Query(inner) => query_to_client(subject, statement, copy, inner),
    }
}

fn copy_plan(copy: &Copy, table: Option<&Relation>) -> CopyPlan {
    CopyPlan {
        table: table.map(|relation| relation.name.clone()),
        from: copy.from,
        options: copy.options.clone(),
        columns: 0,
        key: Vec::new(),
        key_is_not_null: false,
        fills: Vec::new(),
        splices: Vec::new(),
    }
}

fn one_place() -> Several {
    Several::Refuse(ClientError::refused("a single table is on one shard", "Check the table's home."))
}

fn from_client(
    subject: &Subject<'_>,
    copy: &Copy,
    name: &ObjectName,
    columns: &[String],
    columns_tokens: Option<&TokenRange>,
    name_tokens: &TokenRange,
) -> Result<Plan, ClientError> {
    let place = place::resolve(subject, name)?;
    let (relation, key) = match &place {
        Place::Single(relation, home) => {
            let mut plan = write_plan(Route::Shard(*home), one_place(), format!("{} is on shard {home}", name.name));
            plan.copy = Some(copy_plan(copy, Some(relation)));
            return Ok(plan);
        }
        Place::Catalog => {
            let home = subject.topology.home();
            let mut plan = write_plan(Route::Shard(home), one_place(), format!("{} is on shard {home}", name.name));
            plan.copy = Some(copy_plan(copy, None));
            return Ok(plan);
        }
        Place::Sharded(relation, key) => (relation, Some(key)),
        Place::Reference(relation) => (relation, None),
    };
    let names: Vec<String> = if columns.is_empty() {
        // Generated columns are not copied.
        relation
            .columns
            .iter()
            .filter(|column| column.default != ColumnDefault::Generated)
            .map(|column| column.name.clone())
            .collect()
    } else {
        columns.to_vec()
    };
    if key.is_none() {
        check_reference(relation, copy, &names)?;
    }
    let fills = copy_fills(relation, &names);
    let mut planned = copy_plan(copy, Some(relation));
    planned.columns = names.len();
    if let Some(key) = key {
        if copy.options.encoding || copy.options.force_null {
            return Err(ClientError::refused(
                format!(
                    "ENCODING and FORCE_NULL in COPY to sharded table \"{}\" are not supported",
                    relation.name.name
                ),
                "Send UTF-8 with client_encoding, and NULLs as the NULL option says.",
            ));
        }
        planned.key_is_not_null = super::insert::key_is_not_null(relation, key);
        planned.key = key_fields(relation, key, &names, &fills)?;
    }
    planned.splices = column_splices(&names, &fills, columns_tokens, name_tokens);
    planned.fills = fills;
    let mut plan = match key {
        Some(_) => write_plan(Route::ByRow, Several::Sum, format!("each row by the key of {}", relation.name.name)),
        None => write_plan(Route::All, Several::Same, format!("every copy of reference table {}", relation.name.name)),
    };
    plan.copy = Some(planned);
    Ok(plan)
}

fn check_reference(relation: &Relation, copy: &Copy, names: &[String]) -> Result<(), ClientError> {
    if relation.has_triggers {
        return Err(ClientError::refused(
            format!("COPY to reference table \"{}\" with triggers is not supported across shards", relation.name.name),
            "Triggers would run once for every copy: drop them, or make the table a single table.",
        ));
    }
    if copy.has_where {
        return Err(ClientError::refused(
            format!("COPY ... WHERE to reference table \"{}\" is not supported across shards", relation.name.name),
            "Send only the rows that are meant.",
        ));
    }
    let open = relation.columns.iter().find(|column| {
        matches!(column.default, ColumnDefault::Expression | ColumnDefault::Numbered) && !names.contains(&column.name)
    });
    match open {
        Some(column) => Err(ClientError::refused(
            format!(
                "leaving column \"{}\" of reference table \"{}\" to its default is not supported across shards",
                column.name, relation.name.name
            ),
            "The default might differ between the copies: copy the column too.",
        )),
        None => Ok(()),
    }
}

fn key_fields(
    relation: &Relation,
    key: &[(String, KeyType)],
    names: &[String],
    fills: &[crate::plan::Fill],
) -> Result<Vec<(usize, KeyType)>, ClientError> {
    key.iter()
        .map(|(name, key_type)| {
            let given = names.iter().position(|column| column == name);
            let filled = || fills.iter().position(|fill| fill.column == *name).map(|fill| names.len() + fill);
            given
                .or_else(filled)
                .map(|field| (field, stored_as(relation, name, *key_type)))
                .ok_or_else(|| missing_key(&relation.name.name, Some(name)))
        })
        .collect()
}

/// The columns that are filled in are named too.
fn column_splices(
    names: &[String],
    fills: &[crate::plan::Fill],
    columns_tokens: Option<&TokenRange>,
    name_tokens: &TokenRange,
) -> Vec<Splice> {
    if fills.is_empty() {
        return Vec::new();
    }
    let added: Vec<String> = fills.iter().map(|fill| quoted(&fill.column)).collect();
    match columns_tokens {
        Some(tokens) => {
            let close = tokens.end.saturating_sub(1);
            vec![Splice { tokens: close..close, with: vec![Piece::Text(format!(", {}", added.join(", ")))] }]
        }
        None => {
            let all: Vec<String> = names.iter().map(|name| quoted(name)).chain(added).collect();
            let at = name_tokens.end;
            vec![Splice { tokens: at..at, with: vec![Piece::Text(format!(" ({})", all.join(", ")))] }]
        }
    }
}

fn to_client(subject: &Subject<'_>, copy: &Copy, name: &ObjectName) -> Result<Plan, ClientError> {
    let place = place::resolve(subject, name)?;
    let (route, several, reason) = match &place {
        Place::Sharded(relation, _) => (Route::All, Several::Sum, format!("all rows of {}", relation.name.name)),
        Place::Reference(_) => (Route::Any, one_place(), "reference tables only".to_owned()),
        Place::Single(_, home) => (Route::Shard(*home), one_place(), format!("{} is on shard {home}", name.name)),
        Place::Catalog => {
            let home = subject.topology.home();
            (Route::Shard(home), one_place(), format!("{} is on shard {home}", name.name))
        }
    };
    let mut plan = write_plan(route, several, reason);
    plan.class = Class::Read;
    plan.copy = Some(copy_plan(copy, place.relation().map(AsRef::as_ref)));
    Ok(plan)
}

fn query_to_client(
    subject: &Subject<'_>,
    statement: &Statement,
    copy: &Copy,
    inner: &Statement,
) -> Result<Plan, ClientError> {
    let Statement::Query(query) = inner else {
        return Err(ClientError::refused(
            "COPY of a data-modifying statement is not supported across shards",
            "Use the statement's RETURNING itself.",
        ));
    };
    let calls = Calls::of(subject, statement);
    let mut walk = Walk::new(subject);
    calls.apply(subject, &mut walk)?;
    let merge = select::top(&mut walk, query);
    let routed = match walk.route() {
        Ok(routed) => routed,
        Err(_) => {
            let plan = select::plan(subject, statement, query)?;
            return Ok(Plan { copy: Some(copy_plan(copy, None)), ..plan });
        }
    };
    let several = match merge {
        Ok((splices, merge)) if splices.is_empty() && merge == MergeSpec::default() => Several::Sum,
        _ if copy.options.encoding || forces_quotes(subject, query) => {
            let refusal = ClientError::refused(
                "COPY with ENCODING or FORCE_QUOTE of a query whose rows must be merged is not supported across shards",
                "Leave out the option, or ORDER BY, LIMIT, DISTINCT and aggregates.",
            );
            if routed.route == Route::All {
                return Err(refusal);
            }
            Several::Refuse(refusal)
        }
        // The query runs as if it had come alone.
        _ => select::plan(subject, statement, query)?.several,
    };
    let mut plan = write_plan(routed.route, several, routed.reason);
    plan.class = match () {
        () if walk.writes => Class::Write,
        () if calls.may_act => Class::ReadLock,
        () => Class::Read,
    };
    plan.copy = Some(copy_plan(copy, None));
    Ok(plan)
}

/// FORCE_QUOTE stands behind the query.
fn forces_quotes(subject: &Subject<'_>, query: &Query) -> bool {
    (query.tokens.end..subject.lexed.tokens.len())
        .any(|token| ["FORCE_QUOTE", "FORCE"].iter().any(|word| subject.lexed.is_keyword(subject.text, token, word)))
}
