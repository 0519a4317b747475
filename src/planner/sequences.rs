//! Sequences: where the one that counts is, and which statements take numbers from it unseen by the proxy.
//!
//! Every shard has every sequence, as it has every table; numbers come from one of them alone.

use super::Subject;
use super::functions::{self, Kind};
use super::place::{self, Place};
use super::visit;
use crate::base::ShardId;
use crate::plan::{Plan, SequenceUse};
use crate::sql::ast::{Cte, Expr, ObjectName, Statement};
use crate::topology::schema::{ColumnDefault, Relation, RelationKind, Schema};
use crate::topology::{Placement, TableName, Topology};

/// The shard whose sequence counts: that of the single table that takes its ids from it, else the home shard.
pub fn home(topology: &Topology, schema: &Schema, sequence: &TableName) -> ShardId {
    let own = schema.relations.values().find_map(|relation| match home_apart(topology, schema, relation) {
        Some(home) if sequences_of(relation).any(|name| name == sequence) => Some(home),
        _ => None,
    });
    own.unwrap_or_else(|| topology.home())
}

/// True when some sequence counts on another shard than the home shard.
pub(super) fn are_apart(subject: &Subject<'_>) -> bool {
    subject.schema.relations.values().any(|relation| {
        sequences_of(relation).next().is_some() && home_apart(subject.topology, subject.schema, relation).is_some()
    })
}

/// The home of a single table, when it is not the home shard.
fn home_apart(topology: &Topology, schema: &Schema, relation: &Relation) -> Option<ShardId> {
    if !matches!(relation.kind, RelationKind::Table | RelationKind::Partitioned) {
        return None;
    }
    match schema.placement(topology, relation) {
        Placement::Single { home: Some(home) } if home != topology.home() => Some(home),
        _ => None,
    }
}

/// Sequences that a relation's columns take their defaults from.
pub fn sequences_of(relation: &Relation) -> impl Iterator<Item = &TableName> {
    relation.columns.iter().filter_map(|column| match &column.default {
        ColumnDefault::Sequence { sequence, .. } => Some(sequence),
        _ => None,
    })
}

/// Functions that tell what a session was given last.
pub fn is_remembered(function: &str) -> bool {
    matches!(function, "currval" | "lastval")
}

/// What a planned statement does to sequences.
pub(super) fn used_by(subject: &Subject<'_>, statement: &Statement, plan: &Plan) -> SequenceUse {
    let mut is_called = false;
    visit::every_expr(statement, &mut |expr| {
        if let Expr::Function(call) = expr {
            is_called |= functions::kind(subject.schema, &call.name) == Kind::Sequence;
        }
    });
    match statement {
        _ if is_called => SequenceUse::Called,
        Statement::Insert(insert) => {
            let is_filled = plan.insert.as_ref().is_some_and(|insert| !insert.fills.is_empty());
            implied(takes_unseen(subject, &insert.table, !is_filled) || writes_inside(&insert.with))
        }
        Statement::Update(update) => {
            implied(takes_unseen(subject, &update.table, false) || writes_inside(&update.with))
        }
        Statement::Delete(delete) => {
            implied(takes_unseen(subject, &delete.table, false) || writes_inside(&delete.with))
        }
        Statement::Merge(merge) => implied(takes_unseen(subject, &merge.table, true) || writes_inside(&merge.with)),
        Statement::Query(query) => implied(writes_inside(&query.with)),
        Statement::Copy(copy) => match &copy.source {
            crate::sql::ast::CopySource::Table { name, .. } => {
                let is_filled = plan.copy.as_ref().is_some_and(|copy| !copy.fills.is_empty());
                implied(takes_unseen(subject, name, !is_filled))
            }
            crate::sql::ast::CopySource::Query(_) => SequenceUse::Nothing,
        },
        Statement::Explain { analyze: true, statement, .. } => used_by(subject, statement, plan),
        _ => SequenceUse::Nothing,
    }
}

fn implied(is_used: bool) -> SequenceUse {
    if is_used { SequenceUse::Implied } else { SequenceUse::Nothing }
}

/// The server may take numbers when rows of the table are written: by triggers, and by defaults when rows are added.
fn takes_unseen(subject: &Subject<'_>, table: &ObjectName, adds_rows: bool) -> bool {
    let Ok(place) = place::resolve(subject, table) else { return true };
    let Some(relation) = place.relation() else { return true };
    let has_defaults = adds_rows && matches!(place, Place::Single(..)) && sequences_of(relation).next().is_some();
    relation.has_triggers || has_defaults || relation.kind == RelationKind::View
}

/// WITH writes rows.
fn writes_inside(with: &[Cte]) -> bool {
    with.iter().any(|cte| !matches!(cte.statement, Statement::Query(_)))
}
