//! What a changed schema may not promise: uniqueness that no shard can keep alone, keys that do not exist.

use super::views;
use crate::error::ClientError;
use crate::sql::ast::{CopySource, InsertSource, ObjectName, Statement, TableRef};
use crate::sql::walk;
use crate::topology::schema::{Column, ColumnDefault, ForeignKey, Relation, RelationKind, Schema, UniqueKey};
use crate::topology::{Placement, TableName, Topology};

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
    let mut changed: Vec<&Relation> = after
        .relations
        .iter()
        .filter(|(name, relation)| before.relations.get(*name) != Some(*relation))
        .map(|(_, relation)| &**relation)
        .collect();
    changed.sort_by(|a, b| a.name.cmp(&b.name));
    changed.iter().try_for_each(|relation| check_placement_stays(topology, before, after, relation))?;
    changed.iter().try_for_each(|relation| check_relation(topology, after, relation))?;
    changed.iter().try_for_each(|relation| check_foreign_keys(topology, after, relation, true))
}

/// Checks a table that is about to be placed otherwise, also while there is one shard: more are to come.
///
/// # Errors
/// 0A000 with the constraint and what to do.
pub fn check_placed(topology: &Topology, schema: &Schema, name: &TableName) -> Result<(), ClientError> {
    let Some(relation) = schema.relations.get(name) else { return Ok(()) };
    check_relation(topology, schema, relation)?;
    // Tables are declared one after the other: what is not declared yet may still be.
    check_foreign_keys(topology, schema, relation, false)?;
    let referring = schema.relations.values().filter(|other| other.foreign_keys.iter().any(|key| key.target == *name));
    for other in referring {
        check_foreign_keys(topology, schema, other, false)?;
    }
    Ok(())
}

/// A foreign key is checked by each server among its own rows: the row referred to has to be there.
fn check_foreign_keys(
    topology: &Topology,
    schema: &Schema,
    relation: &Relation,
    default_counts: bool,
) -> Result<(), ClientError> {
    for foreign_key in &relation.foreign_keys {
        let Some(target) = schema.relations.get(&foreign_key.target) else { continue };
        let is_open = |relation: &Relation| {
            let placement = schema.placement(topology, relation);
            matches!(placement, Placement::Single { .. }) && !topology.tables.declared.contains_key(&relation.name)
        };
        if !default_counts && (is_open(relation) || is_open(target)) {
            continue;
        }
        if !is_kept_by_each(topology, schema, relation, foreign_key, target) {
            return Err(refuse_foreign_key(topology, schema, relation, foreign_key, target));
        }
    }
    Ok(())
}

fn is_kept_by_each(
    topology: &Topology,
    schema: &Schema,
    relation: &Relation,
    foreign_key: &ForeignKey,
    target: &Relation,
) -> bool {
    match (schema.placement(topology, relation), schema.placement(topology, target)) {
        (_, Placement::Reference) => true,
        (Placement::Single { home }, Placement::Single { home: other }) => {
            home.unwrap_or_else(|| topology.home()) == other.unwrap_or_else(|| topology.home())
        }
        (Placement::Sharded { key }, Placement::Sharded { key: other }) => {
            let types = |relation: &Relation, key: &[String]| schema.key_types(relation, key);
            let hash_alike = key.len() == other.len() && types(relation, &key) == types(target, &other);
            let has_key = key.iter().zip(&other).all(|(own, other)| {
                foreign_key.columns.iter().any(|(column, referred)| column == own && referred == other)
            });
            // Both belong to the same key by their columns' names, and what is referred to is unique by its making.
            let is_by_id = key == other
                && foreign_key
                    .columns
                    .iter()
                    .any(|(_, referred)| target.column(referred).is_some_and(is_unique_by_making));
            hash_alike && (has_key || is_by_id)
        }
        _ => false,
    }
}

fn refuse_foreign_key(
    topology: &Topology,
    schema: &Schema,
    relation: &Relation,
    foreign_key: &ForeignKey,
    target: &Relation,
) -> ClientError {
    let (table, other, name) = (&relation.name.name, &target.name.name, &foreign_key.name);
    let message = format!("foreign key \"{name}\" of table \"{table}\" refers to rows of other shards");
    let hint = match (schema.placement(topology, relation), schema.placement(topology, target)) {
        (Placement::Sharded { key }, Placement::Sharded { key: target_key }) => format!(
            "Let it contain the sharding keys: ({}) of \"{table}\" referring to ({}) of \"{other}\".",
            key.join(", "),
            target_key.join(", ")
        ),
        (Placement::Sharded { .. }, _) => {
            format!(
                "Declare \"{other}\" a reference table, or shard it by the same key, before the foreign key is made."
            )
        }
        (_, Placement::Sharded { .. }) => {
            format!("Shard \"{table}\" by the same key as \"{other}\", or leave out the foreign key.")
        }
        _ => format!("Declare \"{other}\" a reference table, or keep both tables on one shard."),
    };
    ClientError::refused(message, hint)
}

/// A table's rows do not move when it is renamed, or gets a column that a rule takes for its key.
fn check_placement_stays(
    topology: &Topology,
    before: &Schema,
    after: &Schema,
    relation: &Relation,
) -> Result<(), ClientError> {
    if !matches!(relation.kind, RelationKind::Table | RelationKind::Partitioned) {
        return Ok(());
    }
    let same = |known: &&std::sync::Arc<Relation>| known.oid == relation.oid && known.kind == relation.kind;
    let old = match before.relations.get(&relation.name).filter(same) {
        Some(old) => old,
        None => match before.relations.values().find(same) {
            Some(old) => old,
            None => return Ok(()),
        },
    };
    let (was, is) = (before.placement(topology, old), after.placement(topology, relation));
    if was == is {
        return Ok(());
    }
    let (name, new) = (&old.name.name, &relation.name.name);
    let hint = match &was {
        Placement::Sharded { key } => {
            format!("In the admin database: TABLE SHARD {new} KEY ({}). Then run this statement again.", key.join(", "))
        }
        Placement::Reference => {
            format!("In the admin database: TABLE REFERENCE {new}. Then run this statement again.")
        }
        Placement::Single { .. } => format!(
            "In the admin database: TABLE SINGLE {new}, and run this statement again; or create a new table and copy the rows."
        ),
    };
    Err(ClientError::refused(format!("table \"{name}\" would be {} where it was {}", word(&is), word(&was)), hint))
}

fn word(placement: &Placement) -> String {
    match placement {
        Placement::Sharded { key } => format!("sharded by ({})", key.join(", ")),
        Placement::Reference => "a reference table".to_owned(),
        Placement::Single { .. } => "on one shard".to_owned(),
    }
}

/// Rows of a materialized view are made on each shard from what that shard has.
fn check_materialized(topology: &Topology, schema: &Schema, relation: &Relation) -> Result<(), ClientError> {
    let placed = |name: &TableName| {
        let read = schema.relations.get(name)?;
        let is_table = matches!(read.kind, RelationKind::Table | RelationKind::Partitioned);
        is_table.then(|| schema.placement(topology, read))
    };
    if relation.view_reads.iter().filter_map(placed).any(|place| matches!(place, Placement::Sharded { .. })) {
        return views::check_materialized(topology, schema, relation);
    }
    for read in relation.view_reads.iter().filter_map(|name| schema.relations.get(name)) {
        let is_whole = match schema.placement(topology, read) {
            Placement::Sharded { .. } => false,
            Placement::Reference => true,
            Placement::Single { home } => home.is_none_or(|home| home == topology.home()),
        };
        if !is_whole && matches!(read.kind, RelationKind::Table | RelationKind::Partitioned) {
            return Err(ClientError::refused(
                format!(
                    "materialized view \"{}\" reads table \"{}\", whose rows are not all on its shard",
                    relation.name.name, read.name.name
                ),
                "Use a table that the application fills.",
            ));
        }
    }
    Ok(())
}

fn check_relation(topology: &Topology, schema: &Schema, relation: &Relation) -> Result<(), ClientError> {
    if relation.kind == RelationKind::MaterializedView {
        return check_materialized(topology, schema, relation);
    }
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
    if let Some(column) = relation.columns.iter().find(|column| column.default == ColumnDefault::Numbered) {
        return Err(ClientError::refused(
            format!(
                "the default of column \"{}\" of sharded table \"{table}\" takes numbers in an expression",
                column.name
            ),
            "Each shard would count by itself: let the default be nextval(...) alone, and compute with it when reading.",
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
        ColumnDefault::None | ColumnDefault::Constant | ColumnDefault::Generated | ColumnDefault::Numbered => false,
    }
}

/// The sharded table whose columns a statement means by their positions: INSERT and COPY FROM without a column list.
pub fn read_by_position<'s>(
    topology: &Topology,
    schema: &'s Schema,
    search_path: &[String],
    statement: &Statement,
) -> Option<&'s Relation> {
    let name = match statement {
        Statement::Insert(insert) if insert.columns.is_empty() && insert.source != InsertSource::DefaultValues => {
            &insert.table
        }
        Statement::Copy(copy) if copy.from => match &copy.source {
            CopySource::Table { name, columns, .. } if columns.is_empty() => name,
            _ => return None,
        },
        _ => return None,
    };
    let relation = schema.resolve(name.schema.as_deref(), &name.name, search_path)?;
    let is_sharded = matches!(schema.placement(topology, relation), Placement::Sharded { .. });
    (is_sharded && topology.shards.len() > 1).then_some(relation)
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
