//! One shard: every statement goes there as it is. Only what it does has to be known.

use super::Subject;
use super::calls::Calls;
use super::visit;
use crate::error::ErrorId;
use crate::plan::{Class, Plan, Route, SequenceUse, Several};
use crate::sql::ast::{Cte, Query, SetExpr, Statement};

/// The plan of a statement with a tree.
pub fn plan(subject: &Subject<'_>, statement: &Statement) -> Plan {
    let mut plan = to_home(subject, class(subject, statement));
    match statement {
        Statement::Ddl(ddl) => {
            plan.outside_transaction = ddl.outside_transaction;
            plan.changes_schema = !ddl.temporary && super::ddl::changes_schema(ddl);
        }
        Statement::Lock(_) => plan.inside_transaction = Some(super::LOCK),
        Statement::Declare { hold: false, .. } => plan.inside_transaction = Some(super::DECLARE),
        Statement::Do | Statement::Call(_) => plan.changes_schema = true,
        Statement::Query(query) => plan.changes_schema = creates_table(query),
        Statement::Explain { analyze: true, statement, .. } => {
            plan.changes_schema = matches!(statement.as_ref(), Statement::Ddl(_));
        }
        _ => {}
    }
    plan
}

/// The plan of a statement without a tree: it may do anything.
pub fn unparsed(subject: &Subject<'_>) -> Plan {
    let mut plan = to_home(subject, Class::Write);
    plan.changes_schema = true;
    plan
}

fn to_home(subject: &Subject<'_>, class: Class) -> Plan {
    Plan {
        class,
        route: Route::Shard(subject.topology.home()),
        several: Several::Refuse(crate::error::ClientError::new(ErrorId::Internal, "there is only one shard")),
        insert: None,
        copy: None,
        outside_transaction: false,
        inside_transaction: None,
        changes_schema: false,
        sequences: SequenceUse::default(),
        reason: "the only shard".to_owned(),
    }
}

fn class(subject: &Subject<'_>, statement: &Statement) -> Class {
    match statement {
        Statement::Query(query) | Statement::Declare { query, .. } if creates_table(query) => Class::Ddl,
        Statement::Query(query) | Statement::Declare { query, .. } => {
            if writes(&query.with) {
                Class::Write
            } else if visit::locks_rows(query) || Calls::of(subject, statement).may_act {
                Class::ReadLock
            } else {
                Class::Read
            }
        }
        Statement::Copy(copy) if !copy.from => Class::ReadLock,
        Statement::Explain { analyze: false, .. } => Class::Read,
        Statement::Explain { statement, .. } => class(subject, statement),
        Statement::Lock(_) => Class::ReadLock,
        Statement::Ddl(_) => Class::Ddl,
        _ => Class::Write,
    }
}

fn writes(with: &[Cte]) -> bool {
    with.iter().any(|cte| match &cte.statement {
        Statement::Query(query) => writes(&query.with),
        _ => true,
    })
}

fn creates_table(query: &Query) -> bool {
    matches!(&query.body, SetExpr::Select(select) if select.into)
}
