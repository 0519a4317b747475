//! What a job would move.

use std::collections::BTreeMap;

use super::driver::involved;
use super::links::{FindPrimary, SHORT_MS, connect, value};
use super::ready;
use super::tables::{MovedTable, quoted, read_tables};
use crate::base::{BucketId, ShardId};
use crate::control::client::{ControlClient, quote_literal};
use crate::topology::pin::is_pinned;
use crate::topology::{BucketMap, Topology};

/// Limit of counting a pinned key's rows in a table.
const COUNT_MS: u64 = 300_000;

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

/// What goes from one shard to another.
#[derive(Default)]
struct Moved {
    slots: usize,
    pinned: Vec<BucketId>,
}

/// Rows of pinned keys; the indexes by bucket are not there yet, those of the key perhaps are.
async fn count_pinned(client: &ControlClient, tables: &[MovedTable], buckets: &[BucketId]) -> Result<u64, String> {
    let mut rows = 0;
    for table in tables {
        for pinned in table.pinned.iter().filter(|pinned| buckets.contains(&pinned.bucket)) {
            let Some(equals) = &pinned.equals else { continue };
            let sql = format!("SELECT count(*) FROM {} WHERE {equals}", table.from);
            let counted = value(client, &sql, COUNT_MS).await?;
            rows += counted.and_then(|rows| rows.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(rows)
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
    let mut moves: BTreeMap<(ShardId, ShardId), Moved> = BTreeMap::new();
    let pairs = topology.buckets.owners().iter().zip(wanted.owners()).enumerate();
    for (bucket, (now, then)) in pairs.filter(|(_, (now, then))| now != then) {
        let moved = moves.entry((*now, *then)).or_default();
        match BucketId(bucket as u16) {
            pinned if is_pinned(pinned) => moved.pinned.push(pinned),
            _ => moved.slots += 1,
        }
    }
    let name = |shard: ShardId| {
        topology
            .shards
            .iter()
            .find(|known| known.id == shard)
            .map_or_else(|| shard.to_string(), |known| known.name.clone())
    };
    let mut planned = Vec::new();
    for ((from, to), moved) in moves {
        let leaves: Vec<String> =
            tables.moved.iter().flat_map(|table| &table.leaves).map(|leaf| quote_literal(&quoted(leaf))).collect();
        let sql = format!(
            "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint, \
             coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint \
             FROM pg_class c WHERE c.oid = ANY (ARRAY[{}]::regclass[])",
            leaves.join(", ")
        );
        let client = connect(find, from).await?;
        let rows = client.rows(&sql, SHORT_MS).await.map_err(|error| error.to_string())?;
        let mut cells =
            rows.into_iter().flatten().map(|cell| cell.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0));
        let share = |total: u64| total * moved.slots as u64 / topology.bucket_count(from).max(1) as u64;
        let (rows, bytes) = (cells.next().unwrap_or(0), cells.next().unwrap_or(0));
        let pinned = count_pinned(&client, &tables.moved, &moved.pinned).await?;
        planned.push(PlannedMove {
            from: name(from),
            to: name(to),
            buckets: moved.slots + moved.pinned.len(),
            rows: share(rows) + pinned,
            bytes: share(bytes) + pinned * bytes / rows.max(1),
        });
    }
    Ok(planned)
}
