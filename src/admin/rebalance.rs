//! REBALANCE: buckets move so that every shard has its share of bytes and of work.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::reshard::refused;
use super::views::table;
use super::{Admin, Answer};
use crate::base::ShardId;
use crate::control::reshard::Measured;
use crate::error::{ClientError, ErrorId};
use crate::reshard::Manner;
use crate::topology::balance::balance;
use crate::topology::{BucketMap, Topology};

const COLUMNS: [&str; 7] = ["shard", "rows", "bytes", "turns", "share_now", "share_then", "buckets_moved"];

/// Work is watched for so long at least, beside the look at the rows.
const WATCH_MIN: Duration = Duration::from_secs(2);
/// Fewer turns than this tell nothing.
const TURNS_MIN: u64 = 200;
/// Costs of all buckets together: fine enough for a row in a billion.
const TOTAL: f64 = 1e15;

/// Turns of connections, by shard.
type Turns = HashMap<ShardId, u64>;

impl Admin {
    /// Measures, and begins to move what brings every shard nearer to its share; says what that is.
    ///
    /// # Errors
    /// Nothing is to be gained, or something would stop the job; nothing has changed then.
    pub(super) async fn rebalance(&self, dry_run: bool) -> Result<Answer, ClientError> {
        let handle = self.resharding()?;
        let topology = self.cluster.topology.load_full();
        let (begun, before) = (Instant::now(), self.turns(&topology));
        let measured = handle.measure().await.map_err(refused)?;
        tokio::time::sleep_until(begun + WATCH_MIN).await;
        let after = self.turns(&topology);
        let since = |shard: &ShardId, now: &u64| now.saturating_sub(before.get(shard).copied().unwrap_or(0));
        let turns: Turns = after.iter().map(|(shard, now)| (*shard, since(shard, now))).collect();
        let costs = costs(&topology, &measured, &turns);
        let weights: Vec<(ShardId, u32)> = topology.shards.iter().map(|shard| (shard.id, shard.weight)).collect();
        let wanted = balance(&weights, &costs, &topology.buckets);
        let rows = rows(&topology, &measured, &turns, &costs, &wanted);
        if wanted == topology.buckets {
            let shares: Vec<String> = rows.iter().map(|row| format!("{} {}", row["shard"], row["share_now"])).collect();
            let error = ClientError::new(ErrorId::PrerequisiteMissing, "nothing is gained by moving buckets")
                .with_detail(format!("Shares of size and work are {}.", shares.join(", ").replace('"', "")));
            return Err(error.with_hint("A bucket that is too big by itself has a big key: PIN it to a shard."));
        }
        // What would stop the job is found first.
        handle.plan(wanted.clone()).await.map_err(refused)?;
        if !dry_run {
            self.start_job(wanted, Manner::default()).await?;
        }
        Ok(Answer::View(table(&COLUMNS, &Value::Array(rows))))
    }

    fn turns(&self, topology: &Topology) -> Turns {
        let mut turns = Turns::new();
        for pool in self.cluster.pools.stats() {
            if let Some(node) = topology.nodes.iter().find(|node| node.id == pool.node) {
                *turns.entry(node.shard).or_default() += pool.counts.turns_total;
            }
        }
        turns
    }
}

/// What each bucket costs: half its part of the bytes, half of the work. A shard's work is spread over its buckets as its
/// rows are.
fn costs(topology: &Topology, measured: &Measured, turns: &Turns) -> Vec<u64> {
    let all_bytes = measured.bytes.iter().sum::<u64>().max(1) as f64;
    let all_turns: u64 = turns.values().sum();
    let mut rows_of: HashMap<ShardId, u64> = HashMap::new();
    for (owner, rows) in topology.buckets.owners().iter().zip(&measured.rows) {
        *rows_of.entry(*owner).or_default() += rows;
    }
    let buckets = topology.buckets.owners().iter().zip(measured.rows.iter().zip(&measured.bytes));
    let cost = |(owner, (rows, bytes)): (&ShardId, (&u64, &u64))| {
        let size = *bytes as f64 / all_bytes;
        if all_turns < TURNS_MIN {
            return (size * TOTAL) as u64;
        }
        let of_shard = turns.get(owner).copied().unwrap_or(0) as f64 / all_turns as f64;
        let part = *rows as f64 / rows_of.get(owner).copied().unwrap_or(0).max(1) as f64;
        ((size + of_shard * part) / 2.0 * TOTAL) as u64
    };
    buckets.map(cost).collect()
}

fn rows(topology: &Topology, measured: &Measured, turns: &Turns, costs: &[u64], wanted: &BucketMap) -> Vec<Value> {
    let sum = |map: &BucketMap, shard: ShardId, values: &[u64]| -> u64 {
        map.owners().iter().zip(values).filter(|(owner, _)| **owner == shard).map(|(_, value)| value).sum()
    };
    let total = costs.iter().sum::<u64>().max(1) as f64;
    let percent = |cost: u64| format!("{:.1} %", cost as f64 / total * 100.0);
    let now = &topology.buckets;
    let row = |id: ShardId, name: &str| {
        let pairs = now.owners().iter().zip(wanted.owners()).filter(|(old, new)| old != new);
        let moved = pairs.filter(|(old, new)| **old == id || **new == id).count();
        json!({
            "shard": name, "rows": sum(now, id, &measured.rows), "bytes": sum(now, id, &measured.bytes),
            "turns": turns.get(&id).copied().unwrap_or(0), "share_now": percent(sum(now, id, costs)),
            "share_then": percent(sum(wanted, id, costs)), "buckets_moved": moved,
        })
    };
    topology.shards.iter().map(|shard| row(shard.id, &shard.name)).collect()
}
