//! Gather: rows that the shards cannot put together by themselves go to one PostgreSQL, which runs the client's own
//! statement over them.
//!
//! Every sharded table of the statement is replaced by a subquery over arrays that are sent as parameters; the rest of
//! the text stays as it is. So every row of the answer comes from PostgreSQL's own executor.

use std::sync::Arc;

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
    /// What is done first: the shards aggregate. Only when the types do not allow it all rows are gathered.
    pub partial: Option<Arc<PartialPlan>>,
}

/// Shards aggregate their rows, one PostgreSQL combines the results and computes what is made of them.
#[derive(Clone, Debug, PartialEq)]
pub struct PartialPlan {
    /// The shards' columns.
    pub columns: Vec<PartialColumn>,
    /// What the shards run; a constant stands before the columns.
    pub fetch: Vec<Piece>,
    /// The client's text for the shard that combines, with [`Piece::Combined`] and [`Piece::Rows`].
    pub splices: Vec<Splice>,
    /// The highest parameter number of the client's own.
    pub params: u32,
    /// The parameters in what the shards run.
    pub used: Vec<u32>,
}

/// A column of the shards' results.
#[derive(Clone, Debug, PartialEq)]
pub struct PartialColumn {
    /// What they select.
    pub select: Vec<Piece>,
    /// How it is combined.
    pub kind: Partial,
}

/// How one column of several shards is combined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partial {
    /// Not: groups are made by it.
    Group,
    /// Counts are added.
    Count,
    /// Sums are added.
    Sum,
    /// The sums over the counts in that column.
    Average {
        /// Index of the column.
        count: usize,
    },
    /// By the aggregate itself: min, bool_and …
    Same(String),
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
    let parts = match &gather.partial {
        Some(partial) => format!("partial aggregates ({}); else ", partial.columns.len()),
        None => String::new(),
    };
    let finish = gather.finish.map_or_else(|| "one shard".to_owned(), |shard| format!("shard {shard}"));
    format!("gather {parts}{}; finished on {finish}", sources.join(", "))
}
