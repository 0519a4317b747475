//! What a job would move.

use std::collections::BTreeMap;

use super::driver::involved;
use super::links::{FindPrimary, SHORT_MS, connect};
use super::ready;
use super::tables::{quoted, read_tables};
use crate::base::ShardId;
use crate::control::client::quote_literal;
use crate::topology::{BucketMap, Topology};

/// Buckets that go from one shard to another.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PlannedMove {
    /// Name of the owner now.
    pub from: String,
    /// Name of the owner then.
    pub to: String,
    /// How many.
    pub buckets: usize,
    /// Rows in them, by the servers' own estimates.
    pub rows: u64,
    /// Bytes of them with their indexes, the same way.
    pub bytes: u64,
}

/// Plans, and finds what would stop the job halfway.
///
/// # Errors
/// All of it, in words.
pub(super) async fn plan(
    find: &FindPrimary,
    topology: &Topology,
    wanted: &BucketMap,
) -> Result<Vec<PlannedMove>, String> {
    let home = topology.home();
    let target = find(home).ok_or("the home shard has no primary")?;
    let tables = read_tables(&target, topology).await?;
    ready::check(find, &involved(&topology.buckets, wanted), &tables).await?;
    let mut moves: BTreeMap<(ShardId, ShardId), usize> = BTreeMap::new();
    for (now, then) in topology.buckets.owners().iter().zip(wanted.owners()).filter(|(now, then)| now != then) {
        *moves.entry((*now, *then)).or_default() += 1;
    }
    let name = |shard: ShardId| {
        topology
            .shards
            .iter()
            .find(|known| known.id == shard)
            .map_or_else(|| shard.to_string(), |known| known.name.clone())
    };
    let mut planned = Vec::new();
    for ((from, to), buckets) in moves {
        let leaves: Vec<String> =
            tables.moved.iter().flat_map(|table| &table.leaves).map(|leaf| quote_literal(&quoted(leaf))).collect();
        let sql = format!(
            "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint, \
             coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint \
             FROM pg_class c WHERE c.oid = ANY (ARRAY[{}]::regclass[])",
            leaves.join(", ")
        );
        let rows = connect(find, from).await?.rows(&sql, SHORT_MS).await.map_err(|error| error.to_string())?;
        let mut cells =
            rows.into_iter().flatten().map(|cell| cell.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0));
        let share = |total: u64| total * buckets as u64 / topology.bucket_count(from).max(1) as u64;
        let (rows, bytes) = (cells.next().unwrap_or(0), cells.next().unwrap_or(0));
        planned.push(PlannedMove { from: name(from), to: name(to), buckets, rows: share(rows), bytes: share(bytes) });
    }
    Ok(planned)
}
