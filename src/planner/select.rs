//! Queries: where they go, and how the answers of several shards become one.

use super::Subject;
use super::calls::Calls;
use super::env::Env;
use super::merge_rows;
use super::visit;
use super::walk::{Mode, Walk};
use crate::error::ClientError;
use crate::plan::{Class, MergeSpec, Plan, Route, Several, Splice};
use crate::sql::ast::{Query, SetExpr, Statement};

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
    let routed = walk.route()?;
    let locks = visit::locks_rows(query);
    let class = match () {
        () if walk.writes => Class::Write,
        () if locks || calls.may_act => Class::ReadLock,
        () => Class::Read,
    };
    let mut routed = routed;
    if locks && routed.route == Route::Any && !walk.references.is_empty() {
        // Every shard has its own copy and its own row locks: all lockers must meet on one.
        routed.route = Route::Shard(subject.topology.home());
        routed.reason.push_str(", locked on the home shard");
    }
    let several = match (merge, &routed.route) {
        (Ok((splices, merge)), _) => Several::Merge { splices, merge },
        (Err(refusal), Route::All) => return Err(refusal),
        (Err(refusal), _) => Several::Refuse(refusal),
    };
    Ok(Plan {
        class,
        several,
        route: routed.route,
        insert: None,
        copy: None,
        outside_transaction: false,
        inside_transaction: None,
        changes_schema: false,
        reason: routed.reason,
    })
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
            if walk.writes && !block.is_spread {
                // Each shard would answer for itself.
                walk.modifying_trouble();
            }
            if let Some(trouble) = &walk.trouble {
                return Err(trouble.clone());
            }
            if walk.sources.is_empty() {
                return Ok(Merge::default());
            }
            merge_rows::of_select(&subject, query, select, &scope, &block)
        }
        body => {
            let output = walk.body(body, None, &env, Mode::Plain, &ctes);
            if walk.writes && !output.is_spread {
                walk.modifying_trouble();
            }
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
