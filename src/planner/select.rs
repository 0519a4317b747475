//! Queries: where they go, and how the answers of several shards become one.

use std::sync::Arc;

use super::Subject;
use super::calls::Calls;
use super::env::Env;
use super::gather;
use super::gather_partial;
use super::merge_rows;
use super::route::Routed;
use super::visit;
use super::walk::{Mode, Walk};
use crate::base::ShardId;
use crate::error::ClientError;
use crate::plan::{Class, GatherPlan, MergeSpec, Plan, Route, SequenceUse, Several, Splice};
use crate::sql::ast::{Query, SetExpr, Statement};
use crate::topology::TableName;

/// How the rows of several shards become one result.
pub type Merge = (Vec<Splice>, MergeSpec);

/// Plans SELECT, VALUES, TABLE, with or without WITH.
///
/// # Errors
/// A refusal.
pub fn plan(subject: &Subject<'_>, statement: &Statement, query: &Query) -> Result<Plan, ClientError> {
    let calls = Calls::of(subject, statement);
    let mut walk = Walk::new(subject);
    calls.apply(subject, &mut walk)?;
    let merge = top(&mut walk, query);
    let locks = visit::locks_rows(query);
    let class = match () {
        () if walk.writes => Class::Write,
        () if locks || calls.may_act => Class::ReadLock,
        () => Class::Read,
    };
    let is_gatherable = class == Class::Read && walk.failure.is_none();
    let gathered = || is_gatherable.then(|| gather::plan(subject, query, asked_home(&walk))).flatten();
    let mut routed = match walk.route() {
        Ok(routed) => routed,
        Err(refusal) => match gathered() {
            Some(gather) => return Ok(read_plan(class, all_shards(&refusal), Several::Gather(gather))),
            None => return Err(refusal),
        },
    };
    if locks && routed.route == Route::Any && !walk.references.is_empty() {
        // Every shard has its own copy and its own row locks: all lockers must meet on one.
        routed.route = Route::Shard(subject.topology.home());
        routed.reason.push_str(", locked on the home shard");
    }
    let is_local = matches!(routed.route, Route::Any | Route::Shard(_));
    let several = match merge {
        Ok((splices, merge)) => {
            // The types decide whether rows can be compared here, and they are known with the first answer only.
            let is_cursor = matches!(statement, Statement::Declare { .. });
            let compares = is_cursor || !merge.order.is_empty() || merge.distinct || merge.aggregate.is_some();
            let otherwise = if compares && !is_local { gathered() } else { None };
            Several::Merge { splices, merge, otherwise }
        }
        Err(refusal) => match (if is_local { None } else { with_partial(gathered(), &walk) }, &routed.route) {
            (Some(gather), _) => Several::Gather(gather),
            (None, Route::All) => return Err(refusal),
            (None, _) => Several::Refuse(refusal),
        },
    };
    Ok(read_plan(class, routed, several))
}

fn with_partial(gather: Option<Arc<GatherPlan>>, walk: &Walk<'_>) -> Option<Arc<GatherPlan>> {
    let partial = walk.partial.clone();
    gather.map(|gather| if partial.is_some() { Arc::new(GatherPlan { partial, ..(*gather).clone() }) } else { gather })
}

fn read_plan(class: Class, routed: Routed, several: Several) -> Plan {
    Plan {
        class,
        several,
        route: routed.route,
        insert: None,
        copy: None,
        outside_transaction: false,
        inside_transaction: None,
        changes_schema: false,
        sequences: SequenceUse::default(),
        reason: routed.reason,
    }
}

fn all_shards(refusal: &ClientError) -> Routed {
    Routed { route: Route::All, reason: refusal.message.clone() }
}

/// The shard that has to answer because of what is asked beside tables.
fn asked_home(walk: &Walk<'_>) -> Option<ShardId> {
    walk.singles.iter().find(|single| !single.is_table).map(|single| single.shard)
}

/// Walks the outermost level and says how its parts are merged.
pub fn top(walk: &mut Walk<'_>, query: &Query) -> Result<Merge, ClientError> {
    let mut query = query;
    // Parentheses round the whole mean nothing.
    while let SetExpr::Nested(inner) = &query.body {
        let is_bare = query.with.is_empty()
            && query.order_by.is_empty()
            && query.limit.is_none()
            && query.offset.is_none()
            && !query.locks;
        if !is_bare {
            break;
        }
        query = inner;
    }
    let subject = *walk.subject;
    let env = Env::default();
    let ctes = walk.with(&query.with, query.recursive, None, &env, &Default::default());
    walk.limits(query, None, &env, &ctes);
    match &query.body {
        SetExpr::Select(select) => {
            let (scope, block) = walk.block(select, &query.order_by, None, &env, Mode::Plain, &ctes, &[]);
            if let Some(trouble) = &walk.trouble {
                return Err(trouble.clone());
            }
            if walk.sources.is_empty() {
                return Ok(Merge::default());
            }
            let merge = merge_rows::of_select(&subject, query, select, &scope, &block);
            if merge.is_err() {
                let tables: Vec<&TableName> =
                    walk.sources.iter().map(|source| &source.table).chain(&walk.references).collect();
                walk.partial = gather_partial::plan(&subject, query, &scope, &tables);
            }
            merge
        }
        body => {
            let output = walk.body(body, None, &env, Mode::Plain, &ctes);
            walk.set_order(&query.order_by, &env, &ctes);
            if let Some(trouble) = &walk.trouble {
                return Err(trouble.clone());
            }
            if walk.sources.is_empty() {
                return Ok(Merge::default());
            }
            merge_rows::of_set_operation(&subject, query, &output)
        }
    }
}
