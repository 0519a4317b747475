//! Gather: rows that the shards cannot put together by themselves go to one PostgreSQL, which runs the client's own
//! statement over them.
//!
//! Every sharded table of the statement is replaced by a subquery over arrays that are sent as parameters; the rest of
//! the text stays as it is. So every row of the answer comes from PostgreSQL's own executor.

use super::{Piece, Splice};
use crate::base::ShardId;
use crate::topology::TableName;

/// What is gathered and how the answer is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct GatherPlan {
    /// The tables whose rows are fetched. Their columns, one after the other, are the statement's parameters behind
    /// the client's own.
    pub sources: Vec<GatherSource>,
    /// The shard that has to compute the answer; `None`: any one.
    pub finish: Option<ShardId>,
    /// The client's text for the shard that computes.
    pub splices: Vec<Splice>,
    /// The highest parameter number of the client's own.
    pub params: u32,
}

/// One table.
#[derive(Clone, Debug, PartialEq)]
pub struct GatherSource {
    /// Which.
    pub table: TableName,
    /// The shard that has all of its rows; `None`: every shard has some.
    pub shard: Option<ShardId>,
    /// What of its rows is needed.
    pub columns: Vec<GatherColumn>,
    /// `FROM …`, with the conditions that a row has to meet in any case.
    pub from: Vec<Piece>,
    /// There are such conditions.
    pub is_filtered: bool,
    /// The client's parameters in them.
    pub params: Vec<u32>,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatherColumn {
    /// Its name.
    pub name: String,
    /// What the shards select.
    pub expression: String,
    /// The type of that, for an array of it: `pg_catalog.int8`.
    pub element: String,
    /// The type's OID; from 16384 on it is each server's own.
    pub type_oid: u32,
}

/// For EXPLAIN: `gather users (id, name) filtered, orders (user_id)`.
pub fn render(gather: &GatherPlan) -> String {
    let sources: Vec<String> = gather
        .sources
        .iter()
        .map(|source| {
            let columns: Vec<&str> = source.columns.iter().map(|column| column.name.as_str()).collect();
            let filtered = if source.is_filtered { " filtered" } else { "" };
            let from = source.shard.map_or_else(String::new, |shard| format!(" from shard {shard}"));
            format!("{} ({}){filtered}{from}", source.table.name, columns.join(", "))
        })
        .collect();
    let finish = gather.finish.map_or_else(|| "one shard".to_owned(), |shard| format!("shard {shard}"));
    format!("gather {}; finished on {finish}", sources.join(", "))
}
