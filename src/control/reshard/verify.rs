//! Is every row where it belongs, and nowhere else?

use super::links::{FindPrimary, connect};
use super::tables::Tables;
use crate::base::{BucketId, ShardId};
use crate::topology::Topology;

/// A row on a shard that does not own its bucket.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Misplaced {
    /// The table.
    pub table: String,
    /// The key of the row, as PostgreSQL prints a row.
    pub key: String,
    /// Where it lies.
    pub shard: String,
    /// Where it belongs.
    pub owner: String,
}

/// What a verification saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Rows that were looked at.
    pub rows: u64,
    /// The first of those that are not where they belong.
    pub misplaced: Vec<Misplaced>,
}

/// Misplaced rows that are named, of each table and shard.
const NAMED_MAX: usize = 20;
const LONG_MS: u64 = 6 * 3_600_000;

/// A set of buckets as bytes for `get_bit`: far faster than a list of thousands.
fn bitmap(topology: &Topology, shard: ShardId) -> String {
    let owners = topology.buckets.owners();
    let mut bytes = vec![0u8; owners.len().div_ceil(8)];
    for (bucket, owner) in owners.iter().enumerate() {
        let owns = *owner == shard;
        if let Some(byte) = bytes.get_mut(bucket / 8).filter(|_| owns) {
            *byte |= 1 << (bucket % 8);
        }
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Looks at every row of every shard. No step may count meanwhile.
///
/// # Errors
/// In words.
pub(super) async fn verify(find: &FindPrimary, topology: &Topology, tables: &Tables) -> Result<Verified, String> {
    let mut verified = Verified::default();
    let name_of = |shard: ShardId| {
        topology
            .shards
            .iter()
            .find(|known| known.id == shard)
            .map_or_else(|| shard.to_string(), |known| known.name.clone())
    };
    for shard in topology.shard_ids() {
        let client = connect(find, shard).await?;
        let owned = bitmap(topology, shard);
        for table in &tables.moved {
            let sql = format!(
                "SELECT ROW({key})::text, {bucket} FROM {from} \
                 WHERE get_bit('\\x{owned}'::bytea, ({bucket})::bigint) IS DISTINCT FROM 1 LIMIT {NAMED_MAX}",
                from = table.from,
                key = table.key,
                bucket = table.placed(),
            );
            let count = format!("SELECT count(*) FROM {}", table.from);
            let words = |error: crate::control::client::ControlError| error.to_string();
            let counted = client.rows(&count, LONG_MS).await.map_err(words)?;
            let counted = counted.into_iter().flatten().flatten().next();
            verified.rows += counted.and_then(|rows| rows.parse::<u64>().ok()).unwrap_or(0);
            for row in client.rows(&sql, LONG_MS).await.map_err(words)? {
                let mut cells = row.into_iter().map(Option::unwrap_or_default);
                let (Some(key), Some(bucket)) = (cells.next(), cells.next()) else { continue };
                let owner = bucket
                    .parse()
                    .map_or_else(|_| "no shard".to_owned(), |bucket| name_of(topology.buckets.owner(BucketId(bucket))));
                verified.misplaced.push(Misplaced {
                    table: table.name.name.clone(),
                    key,
                    shard: name_of(shard),
                    owner,
                });
            }
        }
    }
    Ok(verified)
}
