//! How tables are placed: declared by name, or by a rule on their columns.

use std::collections::BTreeMap;

use crate::base::ShardId;

/// A schema-qualified table name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// Schema, e.g. `public`.
    pub schema: String,
    /// Name.
    pub name: String,
}

/// Where the rows of a table are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Rows spread by sharding key.
    Sharded {
        /// Key columns in order.
        key: Vec<String>,
    },
    /// A full copy on every shard.
    Reference,
    /// Whole on one home shard; `None`: [`super::Topology::home`].
    Single {
        /// The home shard.
        home: Option<ShardId>,
    },
}

/// Declared tables and rules.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TableRules {
    /// Tables declared by name; they may not exist yet.
    pub declared: BTreeMap<TableName, Placement>,
    /// A table that is not declared and has all columns of an entry is sharded by it; first match wins.
    pub key_columns: Vec<Vec<String>>,
}
