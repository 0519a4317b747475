//! What a changed schema may not promise: uniqueness that no shard can keep alone, keys that do not exist.

use crate::error::ClientError;
use crate::sql::ast::{ObjectName, Statement, TableRef};
use crate::sql::walk;
use crate::topology::schema::{Column, ColumnDefault, Relation, RelationKind, Schema, UniqueKey};
use crate::topology::{Placement, Topology};

/// OID of uuid.
const UUID_OID: u32 = 2950;

/// Checks every relation that differs between two schemas.
///
/// # Errors
/// 0A000 with the constraint and what to do.
pub fn check_schema(topology: &Topology, before: &Schema, after: &Schema) -> Result<(), ClientError> {
    if topology.shards.len() <= 1 {
        return Ok(());
    }
    for (name, relation) in &after.relations {
        if before.relations.get(name) != Some(relation) {
            check_relation(topology, after, relation)?;
        }
    }
    Ok(())
}

fn check_relation(topology: &Topology, schema: &Schema, relation: &Relation) -> Result<(), ClientError> {
    if !matches!(relation.kind, RelationKind::Table | RelationKind::Partitioned) {
        return Ok(());
    }
    let Placement::Sharded { key } = schema.placement(topology, relation) else { return Ok(()) };
    let table = &relation.name.name;
    if let Some(missing) = key.iter().find(|column| relation.column(column).is_none()) {
        return Err(ClientError::refused(
            format!("sharded table \"{table}\" has no key column \"{missing}\""),
            "Create the table with all columns of its sharding key, or declare another key.",
        ));
    }
    if schema.key_types(relation, &key).is_none() {
        return Err(ClientError::refused(
            format!("a key column of sharded table \"{table}\" has a type that cannot be a sharding key"),
            "Use an integer, numeric, text, uuid, bytea, date or timestamp type with a deterministic collation.",
        ));
    }
    for unique in &relation.unique {
        if !is_kept(relation, unique, &key) {
            return Err(ClientError::refused(
                format!(
                    "unique index \"{}\" of sharded table \"{table}\" does not contain the sharding key",
                    unique.name
                ),
                format!("Add {} to the constraint: no shard alone can keep other values unique.", key.join(", ")),
            ));
        }
    }
    Ok(())
}

/// Rows that are equal in these columns would be on one shard; or the values are unique by their making.
fn is_kept(relation: &Relation, unique: &UniqueKey, key: &[String]) -> bool {
    key.iter().all(|column| unique.columns.contains(column))
        || unique.columns.iter().filter_map(|column| relation.column(column)).any(is_unique_by_making)
}

/// Ids that the proxy gives out, and uuids that a default makes.
fn is_unique_by_making(column: &Column) -> bool {
    match column.default {
        ColumnDefault::Sequence { .. } => true,
        ColumnDefault::Expression => column.type_oid == UUID_OID,
        ColumnDefault::None | ColumnDefault::Constant | ColumnDefault::Generated => false,
    }
}

/// True when a statement names a relation that is neither in the schema nor PostgreSQL's own: the
/// schema may be older than the statement.
pub fn names_unknown_relation(schema: &Schema, search_path: &[String], statement: &Statement) -> bool {
    let mut unknown = false;
    let mut names: Vec<ObjectName> = Vec::new();
    let mut look = |name: &ObjectName| names.push(name.clone());
    match statement {
        Statement::Insert(insert) => look(&insert.table),
        Statement::Update(update) => look(&update.table),
        Statement::Delete(delete) => look(&delete.table),
        Statement::Merge(merge) => look(&merge.table),
        Statement::Truncate(tables) | Statement::Lock(tables) => tables.iter().for_each(&mut look),
        Statement::Copy(copy) => {
            if let crate::sql::ast::CopySource::Table { name, .. } = &copy.source {
                look(name);
            }
        }
        _ => {}
    }
    walk::for_each_table(statement, |table| {
        if let TableRef::Table { name, .. } = table {
            names.push(name.clone());
        }
    });
    for name in names {
        let known = schema.resolve(name.schema.as_deref(), &name.name, search_path).is_some();
        unknown |= !known && !super::place::is_catalog_name(&name);
    }
    unknown
}
