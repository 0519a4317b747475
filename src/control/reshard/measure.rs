//! How much is in each bucket.

use super::links::{FindPrimary, SHORT_MS, connect, value};
use super::tables::{MovedTable, quoted, read_tables};
use crate::control::client::{ControlClient, quote_literal};
use crate::topology::Topology;

/// What is in each bucket, pinned keys' last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Rows of all sharded tables.
    pub rows: Vec<u64>,
    /// Their bytes with their share of the indexes'.
    pub bytes: Vec<u64>,
}

/// Limit of looking at one table.
const LONG_MS: u64 = 6 * 3_600_000;
/// Of bigger tables (in bytes, on one shard) only as much is looked at.
const SAMPLE_BYTES: u64 = 1 << 30;

/// Looks at every shard.
///
/// # Errors
/// In words.
pub(super) async fn measure(find: &FindPrimary, topology: &Topology) -> Result<Measured, String> {
    let target = find(topology.home()).ok_or("the home shard has no primary")?;
    let tables = read_tables(&target, topology).await?;
    let none = vec![0u64; topology.buckets.owners().len()];
    let mut measured = Measured { rows: none.clone(), bytes: none.clone() };
    let mut clients = Vec::new();
    for shard in topology.shard_ids() {
        clients.push(connect(find, shard).await?);
    }
    for table in &tables.moved {
        let (mut rows, mut size) = (none.clone(), 0);
        for client in &clients {
            size += measure_table(client, table, &mut rows).await?;
        }
        // A row weighs the same everywhere: where many were deleted the files are no smaller.
        let all: u64 = rows.iter().sum();
        let sums = measured.rows.iter_mut().zip(&mut measured.bytes);
        for (here, (known, bytes)) in rows.iter().zip(sums) {
            *known += here;
            *bytes += (u128::from(size) * u128::from(*here) / u128::from(all.max(1))) as u64;
        }
    }
    Ok(measured)
}

/// Adds a shard's rows of a table; its bytes there.
async fn measure_table(client: &ControlClient, table: &MovedTable, rows: &mut [u64]) -> Result<u64, String> {
    let leaves: Vec<String> = table.leaves.iter().map(|leaf| quote_literal(&quoted(leaf))).collect();
    let sql = format!(
        "SELECT coalesce(sum(pg_total_relation_size(leaf)), 0)::bigint FROM unnest(ARRAY[{}]::regclass[]) leaf",
        leaves.join(", ")
    );
    let size = value(client, &sql, SHORT_MS).await?.and_then(|size| size.parse::<u64>().ok()).unwrap_or(0);
    let sample = (size > SAMPLE_BYTES).then(|| SAMPLE_BYTES as f64 / size as f64);
    let sampled = sample.map(|part| format!(" TABLESAMPLE SYSTEM ({:.6})", part * 100.0)).unwrap_or_default();
    let sql = format!("SELECT {}, count(*) FROM {}{sampled} GROUP BY 1", table.placed(), table.from);
    for row in client.rows(&sql, LONG_MS).await.map_err(|error| error.to_string())? {
        let mut cells = row.into_iter().flatten();
        let (Some(bucket), Some(count)) = (cells.next(), cells.next()) else { continue };
        let known = bucket.parse::<usize>().ok().and_then(|bucket| rows.get_mut(bucket));
        if let (Some(known), Ok(count)) = (known, count.parse::<u64>()) {
            *known += sample.map_or(count, |part| (count as f64 / part) as u64);
        }
    }
    Ok(size)
}
