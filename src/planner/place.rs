//! Which relation a name means, and where its rows are.

use std::sync::Arc;

use super::Subject;
use super::builtins;
use super::sequences;
use crate::base::ShardId;
use crate::error::ClientError;
use crate::sql::ast::ObjectName;
use crate::topology::schema::{Relation, RelationKind};
use crate::topology::{KeyType, Placement};

/// Where the rows of a relation are.
#[derive(Clone, Debug)]
pub enum Place {
    /// Spread by key.
    Sharded(Arc<Relation>, Vec<(String, KeyType)>),
    /// A copy everywhere.
    Reference(Arc<Relation>),
    /// Whole on one shard.
    Single(Arc<Relation>, ShardId),
    /// PostgreSQL's catalog, or a name that is not known: the home shard answers, or says so.
    Catalog,
}

impl Place {
    /// The relation, when it is a user's.
    pub fn relation(&self) -> Option<&Arc<Relation>> {
        match self {
            Self::Sharded(relation, _) | Self::Reference(relation) | Self::Single(relation, _) => Some(relation),
            Self::Catalog => None,
        }
    }
}

/// PostgreSQL's own, by schema or by name.
pub fn is_catalog_name(name: &ObjectName) -> bool {
    match name.schema.as_deref() {
        Some("pg_catalog" | "information_schema" | "pg_toast") => true,
        Some(_) => false,
        None => builtins::CATALOG_RELATIONS.binary_search(&name.name.as_str()).is_ok(),
    }
}

/// True when a name means one of PostgreSQL's own relations under the session's search path.
pub fn is_catalog(subject: &Subject<'_>, name: &ObjectName) -> bool {
    let is_catalog_first = !subject.search_path.iter().any(|schema| schema == "pg_catalog");
    is_catalog_name(name) && (name.schema.is_some() || is_catalog_first)
}

/// Finds a relation's place.
///
/// # Errors
/// A view over sharded tables, a sharded table whose key cannot be used.
pub fn resolve(subject: &Subject<'_>, name: &ObjectName) -> Result<Place, ClientError> {
    if is_catalog(subject, name) {
        return Ok(Place::Catalog);
    }
    let Some(relation) = subject.schema.resolve(name.schema.as_deref(), &name.name, subject.search_path) else {
        return Ok(Place::Catalog);
    };
    place(subject, relation)
}

/// The place of a known relation.
///
/// # Errors
/// As [`resolve`].
pub fn place(subject: &Subject<'_>, relation: &Arc<Relation>) -> Result<Place, ClientError> {
    let home = subject.topology.home();
    match relation.kind {
        RelationKind::View => view(subject, relation),
        // Where its tables are; what is made of copies is read in one place only.
        RelationKind::MaterializedView => match view(subject, relation)? {
            Place::Reference(relation) => Ok(Place::Single(relation, home)),
            place => Ok(place),
        },
        RelationKind::Foreign => Ok(Place::Single(Arc::clone(relation), declared_home(subject, relation))),
        RelationKind::Sequence => {
            let home = sequences::home(subject.topology, subject.schema, &relation.name);
            Ok(Place::Single(Arc::clone(relation), home))
        }
        RelationKind::Table | RelationKind::Partitioned => match subject.schema.placement(subject.topology, relation) {
            Placement::Sharded { key } => sharded(subject, relation, key),
            Placement::Reference => Ok(Place::Reference(Arc::clone(relation))),
            Placement::Single { home: own } => Ok(Place::Single(Arc::clone(relation), own.unwrap_or(home))),
        },
    }
}

fn declared_home(subject: &Subject<'_>, relation: &Relation) -> ShardId {
    match subject.topology.tables.declared.get(&relation.name) {
        Some(Placement::Single { home: Some(home) }) => *home,
        _ => subject.topology.home(),
    }
}

fn sharded(subject: &Subject<'_>, relation: &Arc<Relation>, key: Vec<String>) -> Result<Place, ClientError> {
    match subject.schema.key_types(relation, &key) {
        Some(types) if !key.is_empty() => {
            Ok(Place::Sharded(Arc::clone(relation), key.into_iter().zip(types).collect()))
        }
        _ => Err(ClientError::refused(
            format!("the sharding key of table \"{}\" cannot be used", relation.name.name),
            "Every key column must exist, with a type that can be hashed and a deterministic collation.",
        )),
    }
}

/// A view is where everything that it reads is.
fn view(subject: &Subject<'_>, relation: &Arc<Relation>) -> Result<Place, ClientError> {
    let mut home = None;
    let mut reads_reference = false;
    for read in &relation.view_reads {
        let Some(read) = subject.schema.relations.get(read) else { continue };
        if matches!(read.kind, RelationKind::View | RelationKind::MaterializedView | RelationKind::Sequence) {
            continue; // What it reads is listed too.
        }
        match place(subject, read)? {
            Place::Sharded(table, _) if subject.topology.shards.len() > 1 => {
                return Err(ClientError::refused(
                    format!("view \"{}\" reads sharded table \"{}\"", relation.name.name, table.name.name),
                    "Write the view's query into the statement.",
                ));
            }
            Place::Sharded(..) | Place::Catalog => {}
            Place::Reference(_) => reads_reference = true,
            Place::Single(table, shard) => {
                if home.is_some_and(|home| home != shard) {
                    return Err(ClientError::refused(
                        format!("view \"{}\" reads tables of different shards", relation.name.name),
                        format!("Give table \"{}\" the same home, or make it a reference table.", table.name.name),
                    ));
                }
                home = Some(shard);
            }
        }
    }
    Ok(match home {
        None if reads_reference => Place::Reference(Arc::clone(relation)),
        home => Place::Single(Arc::clone(relation), home.unwrap_or_else(|| subject.topology.home())),
    })
}
