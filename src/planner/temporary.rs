//! Temporary tables, views and sequences: they live on the home shard's connection, which their session keeps.
//!
//! The session puts them into the schema under [`TEMPORARY_SCHEMA`], first in its search path.

use super::Subject;
use super::select;
use crate::error::ClientError;
use crate::plan::{Class, Plan, Route, SequenceUse, Several};
use crate::sql::ast::{Ddl, ObjectName, Query, SetExpr, Statement};

pub use crate::topology::schema::TEMPORARY_SCHEMA;

/// The home shard does it alone.
fn at_home(subject: &Subject<'_>) -> Plan {
    Plan {
        class: Class::Write,
        route: Route::Shard(subject.topology.home()),
        several: Several::Refuse(ClientError::refused("a temporary table is on the home shard", "Use it alone.")),
        insert: None,
        copy: None,
        outside_transaction: false,
        inside_transaction: None,
        changes_schema: false,
        sequences: SequenceUse::default(),
        reason: "temporary tables are on the home shard".to_owned(),
    }
}

/// Plans DDL that concerns temporary tables; `None` when it does not.
///
/// # Errors
/// Temporary objects of other kinds, temporary tables of rows that other shards have, names of both worlds.
pub fn plan_ddl(subject: &Subject<'_>, statement: &Statement, ddl: &Ddl) -> Option<Result<Plan, ClientError>> {
    if ddl.temporary && ddl.verb == "CREATE" {
        return Some(plan_create(subject, statement, ddl));
    }
    let indexed = super::ddl::table_of_index(subject, ddl);
    let names: Vec<&ObjectName> =
        indexed.iter().chain(if indexed.is_some() { &[][..] } else { &ddl.names[..] }).collect();
    let own = names.iter().filter(|name| is_temporary(subject, name)).count();
    match own {
        0 if ddl.temporary => Some(Ok(at_home(subject))),
        0 => None,
        _ if own == names.len() => Some(Ok(Plan { outside_transaction: ddl.outside_transaction, ..at_home(subject) })),
        _ => Some(Err(both_worlds())),
    }
}

/// Plans TRUNCATE and LOCK of temporary tables; `None` when there are none.
///
/// # Errors
/// Names of both worlds.
pub fn plan_tables(subject: &Subject<'_>, tables: &[ObjectName]) -> Option<Result<Plan, ClientError>> {
    match tables.iter().filter(|table| is_temporary(subject, table)).count() {
        0 => None,
        own if own == tables.len() => Some(Ok(at_home(subject))),
        _ => Some(Err(both_worlds())),
    }
}

/// `SELECT … INTO TEMP`; `None` for every other query.
///
/// # Errors
/// As [`plan_ddl`].
pub fn plan_into(subject: &Subject<'_>, statement: &Statement, query: &Query) -> Option<Result<Plan, ClientError>> {
    let SetExpr::Select(select) = &query.body else { return None };
    if !select.into || !says_temporary(subject) {
        return None;
    }
    let mut plain = query.clone();
    if let SetExpr::Select(select) = &mut plain.body {
        select.into = false;
    }
    Some(plan_rows(subject, statement, &plain))
}

fn says_temporary(subject: &Subject<'_>) -> bool {
    let is = |at: usize, word: &str| subject.lexed.is_keyword(subject.text, at, word);
    (0..subject.lexed.tokens.len()).any(|at| {
        let next = if is(at + 1, "local") || is(at + 1, "global") { at + 2 } else { at + 1 };
        is(at, "into") && (is(next, "temp") || is(next, "temporary"))
    })
}

fn plan_create(subject: &Subject<'_>, statement: &Statement, ddl: &Ddl) -> Result<Plan, ClientError> {
    let is_known = match ddl.object.as_str() {
        "TABLE" | "SEQUENCE" => true,
        // Of a form that is not understood nothing is known.
        "VIEW" => ddl.query.is_some(),
        _ => false,
    };
    if !is_known {
        return Err(ClientError::refused(
            format!("a temporary {} is not supported across shards", ddl.object.to_ascii_lowercase()),
            "Use a temporary table, or an ordinary object.",
        ));
    }
    match &ddl.query {
        Some(query) => plan_rows(subject, statement, query),
        None => Ok(at_home(subject)),
    }
}

/// The rows that a new temporary table is made of must be on the home shard.
fn plan_rows(subject: &Subject<'_>, statement: &Statement, query: &Query) -> Result<Plan, ClientError> {
    let plan = select::plan(subject, statement, query)?;
    let home = subject.topology.home();
    match plan.route {
        Route::Any => Ok(at_home(subject)),
        Route::Shard(shard) if shard == home => Ok(at_home(subject)),
        _ => Err(ClientError::refused(
            "a temporary table of rows of other shards is not supported",
            "Create a temporary table, read the rows, and insert them.",
        )),
    }
}

fn is_temporary(subject: &Subject<'_>, name: &ObjectName) -> bool {
    let found = subject.schema.resolve(name.schema.as_deref(), &name.name, subject.search_path);
    found.is_some_and(|relation| relation.name.schema == TEMPORARY_SCHEMA)
}

fn both_worlds() -> ClientError {
    ClientError::refused(
        "a statement on temporary and other tables is not supported across shards",
        "Name them in statements of their own.",
    )
}
