//! Statements that take several steps: rows that travel through the proxy on their way to a shard.
//!
//! All steps of a statement run in one transaction. Must not know: connections, how rows are read.

use super::{Fill, Piece};
use crate::base::ShardId;
use crate::sql::ast::TokenRange;
use crate::topology::{KeyType, TableName};

/// What to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Steps {
    /// INSERT … SELECT: the query runs, each of its rows goes to the shard of its key.
    InsertRows(InsertRows),
    /// UPDATE of the sharding key: rows whose new key belongs elsewhere leave and are inserted there.
    MoveRows(MoveRows),
    /// Queries inside a write that stand for themselves run first, the statement then runs with their values.
    QueriesFirst(Vec<InnerQuery>),
}

/// Rows of a query, inserted by key.
#[derive(Clone, Debug, PartialEq)]
pub struct InsertRows {
    /// The query as a statement of its own.
    pub source: Vec<Piece>,
    /// Its columns that are bare literals or NULL: text without a type takes the type of the column it is stored in.
    pub untyped: Vec<usize>,
    /// Where its rows go.
    pub target: RowsTarget,
}

/// Rows that are inserted one by one.
#[derive(Clone, Debug, PartialEq)]
pub struct RowsTarget {
    /// The table.
    pub table: TableName,
    /// `INSERT INTO table AS alias`.
    pub head: Vec<Piece>,
    /// The columns that every row brings, in order.
    pub columns: Vec<String>,
    /// Ids behind them.
    pub fills: Vec<Fill>,
    /// OVERRIDING SYSTEM VALUE is needed for columns that are always generated.
    pub overrides: bool,
    /// Which shards get a row.
    pub to: RowsTo,
    /// For each key column the place of its value among columns and fills, and how it is read.
    pub key: Vec<(usize, KeyType)>,
    /// Any shard refuses a row without a key by itself.
    pub key_is_not_null: bool,
    /// ON CONFLICT and RETURNING.
    pub tail: TokenRange,
    /// RETURNING is present.
    pub returning: bool,
    /// ON CONFLICT DO UPDATE: no row may come twice, which only one statement notices.
    pub one_statement: bool,
}

/// Which shards get a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsTo {
    /// The owner of its key.
    Owner,
    /// This one: a single table.
    Shard(ShardId),
    /// All: a reference table.
    All,
}

/// An UPDATE that assigns the sharding key.
#[derive(Clone, Debug, PartialEq)]
pub struct MoveRows {
    /// Takes the rows away and returns them as they will be: DELETE … RETURNING.
    pub take: Vec<Piece>,
    /// As [`InsertRows::untyped`], of what is taken.
    pub untyped: Vec<usize>,
    /// Locks the rows that would be taken.
    pub lock: Vec<Piece>,
    /// The new key, when it is the same for all rows: the UPDATE itself runs on its shard.
    pub new_key: Option<super::KeyTuple>,
    /// Names of the key's columns.
    pub key_columns: Vec<String>,
    /// Where the rows go.
    pub target: RowsTarget,
}

/// A query inside a statement that does not depend on the statement's rows.
#[derive(Clone, Debug, PartialEq)]
pub struct InnerQuery {
    /// Its tokens, without parentheses.
    pub query: TokenRange,
    /// What is replaced by its values.
    pub replaced: TokenRange,
    /// How.
    pub kind: InnerKind,
}

/// What a query inside a statement stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InnerKind {
    /// `IN (query)`: a set of values.
    In,
    /// `NOT IN (query)`.
    NotIn,
    /// `op ANY (query)` and `op ALL (query)`.
    Elements,
    /// `(query)`: one value, or NULL.
    Value,
    /// `EXISTS (query)`.
    Exists,
}
