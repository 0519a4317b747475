//! Which buckets one execution of a plan may touch: what decides whether it waits while buckets move. What is not proved
//! touches all of them.
//!
//! Must not know: who owns buckets, what moves.

use super::bind::{Values, buckets_of};
use super::functions::{self, Kind};
use crate::plan::{Class, Plan, Route, Several, Slot};
use crate::reshard::{Buckets, Touch};
use crate::sql::ast::Statement;
use crate::sql::walk;
use crate::topology::Topology;
use crate::topology::schema::{ColumnDefault, RelationKind, Schema, Volatility};

/// What this execution may touch; `writes_by_itself`: of this schema.
pub fn touch(
    plan: &Plan,
    topology: &Topology,
    schema: &Schema,
    writes_by_itself: bool,
    statement: &Statement,
    values: &dyn Values,
) -> Touch {
    let is_read = plan.class == Class::Read;
    if plan.class == Class::Ddl || plan.changes_schema || (plan.copy.is_some() && !is_read) {
        return Touch::EVERYTHING;
    }
    // A user's function may read, and write, whatever it likes.
    if calls_users_function(schema, statement) {
        return if is_read { Touch::reads(Buckets::All) } else { Touch::EVERYTHING };
    }
    let buckets = match &plan.route {
        Route::Any | Route::Shard(_) => Buckets::None,
        // The new place of a row that moves is found out on the way.
        _ if matches!(plan.several, Several::Steps(_)) => Buckets::All,
        Route::All => Buckets::All,
        Route::Keys(_) | Route::ByRow => buckets_of(plan, topology, values).map_or(Buckets::All, Buckets::of),
    };
    match plan.class {
        Class::Read => Touch::reads(buckets),
        // Nothing but triggers and functions writes rows that the statement does not name.
        Class::Write if writes_by_itself => Touch::EVERYTHING,
        _ => Touch::writes(buckets),
    }
}

/// The keys of new rows are filled in on the way: what they touch is known then.
pub fn fills_key(plan: &Plan) -> bool {
    let is_filled = |slot: &Slot| matches!(slot, Slot::Fill(_));
    plan.insert
        .as_ref()
        .is_some_and(|insert| insert.rows.iter().any(|row| row.key.iter().any(|part| is_filled(&part.slot))))
}

fn calls_users_function(schema: &Schema, statement: &Statement) -> bool {
    let mut found = false;
    walk::for_each_call(statement, |call| found |= functions::kind(schema, &call.name) == Kind::User);
    found
}

/// Writing a row may write others: a trigger, a rule, or a default that calls a function.
pub fn writes_by_itself(schema: &Schema) -> bool {
    let has_volatile = schema.functions.values().any(|volatility| *volatility == Volatility::Volatile);
    schema.relations.values().any(|relation| {
        matches!(relation.kind, RelationKind::Table | RelationKind::Partitioned)
            && (relation.has_triggers
                || (has_volatile && relation.columns.iter().any(|column| column.default == ColumnDefault::Expression)))
    })
}
