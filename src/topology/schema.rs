//! What the servers' catalogs say: relations, their columns and constraints, functions.
//!
//! Every shard has the same schema; it is read from one of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{KeyType, Placement, TableName, Topology};

/// A snapshot of the user schemas of one database.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schema {
    /// Grows with every snapshot that differs from the one before.
    pub version: u64,
    /// Relations outside pg_catalog and information_schema.
    pub relations: HashMap<TableName, Arc<Relation>>,
    /// User functions by name (any schema outside pg_catalog): the *worst* volatility of the name's overloads.
    pub functions: HashMap<String, Volatility>,
    /// Names of which at least one overload takes or gives many rows: an aggregate, a window function or one that
    /// returns a set. All are in `functions` too.
    pub many_rows: HashSet<String>,
    /// Settings of applications (`name.name`, in lower case) that bodies of user functions name as what they set.
    pub function_settings: Vec<String>,
    /// Text of the database's default collation compares by bytes (C, POSIX, C.UTF-8, ucs_basic).
    pub collation_is_bytewise: bool,
}

/// One relation.
#[derive(Clone, Debug, PartialEq)]
pub struct Relation {
    /// Name.
    pub name: TableName,
    /// `pg_class.oid` on the node that the snapshot was read from.
    pub oid: u32,
    /// Kind.
    pub kind: RelationKind,
    /// Live columns by position.
    pub columns: Vec<Column>,
    /// Column names of the primary key, of every unique constraint and unique index (partial ones too);
    /// an index on expressions gives its plain columns only. The primary key comes first.
    pub unique: Vec<UniqueKey>,
    /// Foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
    /// Relations that a view reads, directly or through other views.
    pub view_reads: Vec<TableName>,
    /// What a view or materialized view selects.
    pub view: Option<ViewDefinition>,
    /// Parent of a partition or inheritance child.
    pub parent: Option<TableName>,
    /// Has user triggers (not those of foreign keys).
    pub has_triggers: bool,
}

/// What a view selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewDefinition {
    /// The query; every name outside pg_catalog stands with its schema.
    pub sql: String,
    /// A table that it reads has row security: who reads the view may see other rows than who reads the table.
    pub has_row_security: bool,
}

/// A unique index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueKey {
    /// Name of the index.
    pub name: String,
    /// Is the primary key.
    pub primary: bool,
    /// Plain columns.
    pub columns: Vec<String>,
}

/// A foreign key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// Name of the constraint.
    pub name: String,
    /// The table referred to.
    pub target: TableName,
    /// The referring column and the column referred to, in order.
    pub columns: Vec<(String, String)>,
}

/// `pg_class.relkind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// Ordinary table.
    Table,
    /// Partitioned table.
    Partitioned,
    /// View.
    View,
    /// Materialized view.
    MaterializedView,
    /// Sequence.
    Sequence,
    /// Foreign table.
    Foreign,
}

/// One column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Name.
    pub name: String,
    /// Type.
    pub type_oid: u32,
    /// The type has a modifier, e.g. numeric(10,2), or is a domain, which may have one: what is stored
    /// may differ from what is written.
    pub has_type_modifier: bool,
    /// The column's collation compares by bytes and is deterministic (true for types without collation).
    pub collation_is_bytewise: bool,
    /// The column's collation is deterministic (true for types without collation).
    pub collation_is_deterministic: bool,
    /// NOT NULL.
    pub not_null: bool,
    /// DEFAULT, identity or generated.
    pub default: ColumnDefault,
    /// The type in SQL.
    pub written: WrittenType,
}

/// A column's type as SQL says it, for a statement that gives the column's values as parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenType {
    /// With its modifier, or the domain: `numeric(10,2)`, `public.mood`.
    pub full: String,
    /// Without, by its name in the catalog: `pg_catalog."numeric"`. Of a domain its base type.
    pub base: String,
    /// The collation, when it is not the type's own: `pg_catalog."C"`.
    pub collation: Option<String>,
    /// How values go to another server.
    pub travel: Travel,
}

/// How a column's values go from one server to another and stay what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Travel {
    /// In the type's binary format.
    Binary,
    /// As text, which means the same under all settings: arrays, which cannot be elements of an array.
    Text,
    /// Not at all: what they stand for is one server's own, or they cannot be read back for certain.
    #[default]
    No,
}

/// Where a column's value comes from when it is not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnDefault {
    /// NULL.
    None,
    /// `nextval('…')`, serial, identity.
    Sequence {
        /// The sequence.
        sequence: TableName,
        /// GENERATED ALWAYS AS IDENTITY.
        always: bool,
    },
    /// A literal of a type whose text means the same at all times and on all servers.
    Constant,
    /// An expression over the numbers of a sequence, such as `'A' || nextval('s')`: each shard would count by itself.
    Numbered,
    /// Any other default expression.
    Expression,
    /// GENERATED ALWAYS AS (…) STORED.
    Generated,
}

/// `pg_proc.provolatile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Volatility {
    /// No side effects, same result for same arguments.
    Immutable,
    /// No side effects, same result within a statement.
    Stable,
    /// Anything.
    Volatile,
}

/// The schema under which a session's temporary tables are known; PostgreSQL's alias for the real one.
pub const TEMPORARY_SCHEMA: &str = "pg_temp";

impl Relation {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

impl Schema {
    /// Finds a relation by the search path, as PostgreSQL would: the first schema that has it.
    pub fn resolve(&self, schema: Option<&str>, name: &str, search_path: &[String]) -> Option<&Arc<Relation>> {
        let look = |schema: &str| self.relations.get(&TableName { schema: schema.to_owned(), name: name.to_owned() });
        match schema {
            Some(schema) => look(schema),
            None => search_path.iter().find_map(|schema| look(schema)),
        }
    }

    /// Where the rows of a relation are: declared, by rule, by its parent, else single.
    pub fn placement(&self, topology: &Topology, relation: &Relation) -> Placement {
        let mut relation = relation;
        if relation.name.schema == TEMPORARY_SCHEMA {
            return Placement::Single { home: None };
        }
        for _ in 0..32 {
            if let Some(placement) = topology.tables.declared.get(&relation.name) {
                return placement.clone();
            }
            if matches!(relation.kind, RelationKind::Table | RelationKind::Partitioned) {
                let by_rule = topology.tables.key_columns.iter().find(|columns| {
                    !columns.is_empty() && columns.iter().all(|column| relation.column(column).is_some())
                });
                if let Some(columns) = by_rule {
                    return Placement::Sharded { key: columns.clone() };
                }
            }
            match relation.parent.as_ref().and_then(|parent| self.relations.get(parent)) {
                Some(parent) => relation = parent,
                None => break,
            }
        }
        Placement::Single { home: None }
    }

    /// Key types of a sharded relation's key columns; `None` when a column is missing or its type
    /// cannot be a key: also a numeric or timestamp that is rounded when it is stored, since the hash
    /// would be that of the value before.
    pub fn key_types(&self, relation: &Relation, key: &[String]) -> Option<Vec<KeyType>> {
        key.iter()
            .map(|name| {
                relation.column(name).filter(|column| column.collation_is_deterministic).and_then(|column| {
                    let key_type = KeyType::from_oid(column.type_oid)?;
                    let is_rounded = column.has_type_modifier
                        && matches!(key_type, KeyType::Numeric | KeyType::Timestamp | KeyType::TimestampTz);
                    (!is_rounded).then_some(key_type)
                })
            })
            .collect()
    }
}
