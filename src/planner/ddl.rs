//! Statements about tables as a whole: DDL, maintenance, TRUNCATE, LOCK. They run on every shard.

use super::Subject;
use super::functions::{self, Kind};
use super::place::{self, Place};
use super::views;
use super::write::write_plan;
use crate::error::ClientError;
use crate::plan::{Class, Plan, Route, Several};
use crate::sql::TokenKind;
use crate::sql::ast::{Ddl, ObjectName, Statement};
use crate::topology::schema::{Relation, Schema};
use crate::topology::{KeyType, TableName};

/// Plans a statement that changes the schema or maintains tables.
///
/// # Errors
/// A refusal.
pub fn plan(subject: &Subject<'_>, ddl: &Ddl) -> Result<Plan, ClientError> {
    // CREATE TABLE … AS … WITH NO DATA makes an empty table of the query's columns, wherever it runs.
    let end =
        subject.lexed.tokens.len() - usize::from(subject.token(subject.lexed.tokens.len().saturating_sub(1)) == ";");
    check_kind(ddl, end > 3 && subject.lexed.are_keywords(subject.text, end - 3, &["with", "no", "data"]))?;
    if ddl.verb == "ALTER" && matches!(ddl.object.as_str(), "TABLE" | "") {
        check_alter_table(subject, ddl)?;
    }
    check_index(subject, ddl)?;
    let several = match &ddl.query {
        // Each shard stores its part of the rows, which are counted.
        Some(query) if ddl.object == "MATERIALIZED VIEW" && views::reads_sharded(subject, query) => Several::Sum,
        _ => Several::Same,
    };
    let mut plan = write_plan(Route::All, several, "every shard has the same schema".to_owned());
    plan.class = Class::Ddl;
    plan.outside_transaction = ddl.outside_transaction;
    plan.changes_schema = changes_schema(ddl);
    Ok(plan)
}

/// True when the catalog differs afterwards.
pub fn changes_schema(ddl: &Ddl) -> bool {
    !matches!(ddl.verb.as_str(), "VACUUM" | "ANALYZE" | "ANALYSE" | "REINDEX" | "CLUSTER" | "CHECKPOINT" | "REFRESH")
}

fn check_kind(ddl: &Ddl, is_empty: bool) -> Result<(), ClientError> {
    if ddl.query.is_some() && ddl.object != "MATERIALIZED VIEW" && !is_empty {
        return Err(ClientError::refused(
            format!("CREATE {} AS is not supported across shards", ddl.object),
            "Create the table, then use INSERT ... SELECT.",
        ));
    }
    match (ddl.verb.as_str(), ddl.object.as_str()) {
        ("CREATE" | "DROP" | "ALTER", "DATABASE" | "TABLESPACE" | "SYSTEM" | "SUBSCRIPTION") => {
            Err(ClientError::refused(
                format!("{} {} is not supported across shards", ddl.verb, ddl.object),
                "Do it on each server, as its administrator.",
            ))
        }
        _ => Ok(()),
    }
}

fn words<'s>(subject: &Subject<'s>) -> Vec<String> {
    (0..subject.lexed.tokens.len())
        .map(|at| match subject.lexed.tokens.get(at).map(|token| token.kind) {
            Some(TokenKind::QuotedIdent) => subject.token(at).trim_matches('"').replace("\"\"", "\""),
            _ => subject.token(at).to_ascii_lowercase(),
        })
        .collect()
}

/// A unique index built outside a transaction cannot be taken back on the shards that have it already.
fn check_index(subject: &Subject<'_>, ddl: &Ddl) -> Result<(), ClientError> {
    if ddl.verb != "CREATE" || ddl.object != "INDEX" {
        return Ok(());
    }
    let words = words(subject);
    let has = |word: &str| words.iter().any(|other| other == word);
    let Some(table) = indexed_table(&words) else { return Ok(()) };
    if has("unique") && has("concurrently") && matches!(place::resolve(subject, &table)?, Place::Sharded(..)) {
        return Err(ClientError::refused(
            "CREATE UNIQUE INDEX CONCURRENTLY on a sharded table is not supported",
            "Leave out CONCURRENTLY, so that it happens on all shards or none.",
        ));
    }
    Ok(())
}

/// The table that a statement makes an index of.
pub fn indexed_relation(schema: &Schema, search_path: &[String], statement: Option<&Statement>) -> Option<TableName> {
    let Some(Statement::Ddl(ddl)) = statement else { return None };
    let name = ddl.names.first().filter(|_| ddl.verb == "CREATE" && ddl.object == "INDEX")?;
    Some(schema.resolve(name.schema.as_deref(), &name.name, search_path)?.name.clone())
}

/// The table that CREATE INDEX is for.
pub fn table_of_index(subject: &Subject<'_>, ddl: &Ddl) -> Option<ObjectName> {
    (ddl.verb == "CREATE" && ddl.object == "INDEX").then(|| indexed_table(&words(subject))).flatten()
}

fn indexed_table(words: &[String]) -> Option<ObjectName> {
    let on = words.iter().position(|word| word == "on")?;
    let first = if words.get(on + 1)? == "only" { on + 2 } else { on + 1 };
    let name = words.get(first)?.clone();
    if words.get(first + 1).is_some_and(|word| word == ".") {
        return Some(ObjectName { schema: Some(name), name: words.get(first + 2)?.clone() });
    }
    Some(ObjectName { schema: None, name })
}

/// ALTER TABLE may not take the sharding key away, nor make copies or ids differ.
fn check_alter_table(subject: &Subject<'_>, ddl: &Ddl) -> Result<(), ClientError> {
    let words = words(subject);
    for name in &ddl.names {
        let Ok(place) = place::resolve(subject, name) else { continue };
        match &place {
            Place::Sharded(relation, key) => {
                check_key_stays(&words, relation, key)?;
                check_new_ids(&words, relation)?;
            }
            Place::Reference(relation) => {
                check_new_ids(&words, relation)?;
                check_same_default(subject, &words, relation)?;
            }
            Place::Single(..) | Place::Catalog => {}
        }
    }
    Ok(())
}

fn follows(words: &[String], start: usize, expected: &[&[&str]]) -> bool {
    expected
        .iter()
        .enumerate()
        .all(|(index, any)| words.get(start + index).is_some_and(|word| any.contains(&word.as_str())))
}

fn check_key_stays(words: &[String], relation: &Relation, key: &[(String, KeyType)]) -> Result<(), ClientError> {
    for (at, word) in words.iter().enumerate() {
        let Some((name, _)) = key.iter().find(|(name, _)| name == word) else { continue };
        let verb = words
            .get(..at)
            .unwrap_or_default()
            .iter()
            .rev()
            .find(|word| !matches!(word.as_str(), "column" | "if" | "exists"))
            .map(String::as_str);
        let is_changed = match verb {
            Some("drop" | "rename") => true,
            Some("alter") => {
                follows(words, at + 1, &[&["type"]]) || follows(words, at + 1, &[&["set"], &["data"], &["type"]])
            }
            _ => false,
        };
        if is_changed {
            return Err(ClientError::refused(
                format!("changing sharding key column \"{name}\" of table \"{}\" is not supported", relation.name.name),
                "Create a new table and copy the rows.",
            ));
        }
    }
    Ok(())
}

/// Each server would number the existing rows by itself.
fn check_new_ids(words: &[String], relation: &Relation) -> Result<(), ClientError> {
    let numbers = ["serial", "bigserial", "smallserial", "serial4", "serial8", "serial2", "identity", "nextval"];
    // ALTER COLUMN … ADD GENERATED numbers no rows that are there.
    let is_new_column = |at: usize| {
        words.get(at).is_some_and(|word| word == "add") && words.get(at + 1).is_none_or(|next| next != "generated")
    };
    let adds = (0..words.len()).any(is_new_column);
    if adds && words.iter().any(|word| numbers.contains(&word.as_str())) {
        return Err(ClientError::refused(
            format!("adding an id to existing table \"{}\" is not supported across shards", relation.name.name),
            "The shards would give the same ids: create the table with the id, or add a plain column and fill it in.",
        ));
    }
    Ok(())
}

/// A new column's default is computed once for every copy.
fn check_same_default(subject: &Subject<'_>, words: &[String], relation: &Relation) -> Result<(), ClientError> {
    if !words.iter().any(|word| word == "add" || word == "type") {
        return Ok(());
    }
    let differs = words.iter().find(|word| {
        let name = ObjectName { schema: None, name: (*word).clone() };
        matches!(functions::kind(subject.schema, &name), Kind::Time | Kind::RowLocal | Kind::NodeLocal)
    });
    match differs {
        Some(word) => Err(ClientError::refused(
            format!(
                "{word} in ALTER TABLE of reference table \"{}\" is not supported across shards",
                relation.name.name
            ),
            "Its value would differ between the copies: use a constant.",
        )),
        None => Ok(()),
    }
}

/// Plans TRUNCATE. Every shard has every table, and CASCADE may reach any of them.
///
/// # Errors
/// A name that cannot be placed.
pub fn plan_truncate(subject: &Subject<'_>, tables: &[ObjectName]) -> Result<Plan, ClientError> {
    for table in tables {
        place::resolve(subject, table)?;
    }
    let mut plan = write_plan(Route::All, Several::Same, "every shard has the table".to_owned());
    // The sequences begin anew; what the proxy has taken from them is of no more use.
    plan.changes_schema = (0..subject.lexed.tokens.len()).any(|at| {
        subject.lexed.is_keyword(subject.text, at, "restart")
            && subject.lexed.is_keyword(subject.text, at + 1, "identity")
    });
    Ok(plan)
}

/// Plans LOCK TABLE. Whoever uses a single table does so on its shard, so that its lock there is enough.
///
/// # Errors
/// A name that cannot be placed.
pub fn plan_lock(subject: &Subject<'_>, tables: &[ObjectName]) -> Result<Plan, ClientError> {
    let mut plan = plan_truncate(subject, tables)?;
    let places = tables.iter().map(|table| place::resolve(subject, table)).collect::<Result<Vec<_>, _>>()?;
    let mut homes = places.iter().map(|place| match place {
        Place::Single(_, shard) => Some(*shard),
        _ => None,
    });
    if let Some(Some(first)) = homes.next()
        && homes.all(|home| home == Some(first))
    {
        plan = write_plan(Route::Shard(first), Several::Same, "single tables are used on their shard only".to_owned());
    }
    plan.class = Class::ReadLock;
    plan.inside_transaction = Some(super::LOCK);
    Ok(plan)
}
