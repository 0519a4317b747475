//! Takes a shard out of the cluster that owns nothing any more.

use std::time::Duration;

use super::Context;
use super::links::{SHORT_MS, connect, value};
use super::tables::read_tables;
use crate::base::{Epoch, ShardId};
use crate::store::{load_topology, save_topology};
use crate::topology::{Placement, Topology};

/// How long what runs has to end, and how often that is tried.
const QUIET: Duration = Duration::from_millis(300);
const TRIES: u32 = 20;

/// Takes the shard out; `dry_run`: only looks whether that is possible.
///
/// # Errors
/// In words; it is still part of the cluster then.
pub(super) async fn leave(context: &Context, name: &str, dry_run: bool) -> Result<(), String> {
    let words = |error: crate::store::StoreError| error.to_string();
    for _ in 0..TRIES {
        let quiet = if dry_run { None } else { context.close_gate(QUIET).await };
        if quiet.is_none() && !dry_run {
            tokio::time::sleep(QUIET).await;
            continue;
        }
        let (now, revision) =
            load_topology(context.store.as_ref()).await.map_err(words)?.ok_or("there is no topology")?;
        let (next, shard) = without_shard(&now, name)?;
        let tries = if dry_run { TRIES } else { 2 };
        check_rest(context, &now, shard, tries).await?;
        if !dry_run {
            save_topology(context.store.as_ref(), &next, Some(revision)).await.map_err(words)?;
            context.publish(&next);
        }
        return Ok(());
    }
    Err("statements or transactions stay open, so the shard cannot be taken out now: end long ones and try again"
        .to_owned())
}

fn without_shard(topology: &Topology, name: &str) -> Result<(Topology, ShardId), String> {
    let shard = topology.shards.iter().find(|shard| shard.name == name).map(|shard| shard.id);
    let shard = shard.ok_or_else(|| format!("shard \"{name}\" does not exist"))?;
    if shard == topology.home() {
        return Err(format!("shard {name} is the cluster's first: tables without a key and sequences live there"));
    }
    match topology.bucket_count(shard) {
        0 => {}
        buckets => return Err(format!("shard {name} owns {buckets} buckets: empty it first (RESHARD START EMPTY)")),
    }
    if let Some((_, pin)) = topology.pins.iter().find(|(bucket, _)| topology.buckets.owner(*bucket) == shard) {
        return Err(format!("key {} is pinned to shard {name}: unpin it, or pin it to another one", pin.name()));
    }
    let single = topology.tables.declared.iter().find(|(_, known)| **known == Placement::Single { home: Some(shard) });
    if let Some((table, _)) = single {
        return Err(format!("table {} lives on shard {name}", table.name));
    }
    let mut next = topology.clone();
    next.epoch = Epoch(topology.epoch.0 + 1);
    next.shards.retain(|known| known.id != shard);
    next.nodes.retain(|node| node.shard != shard);
    let problems = crate::topology::validate::validate(&next).err().unwrap_or_default();
    if problems.is_empty() {
        return Ok((next, shard));
    }
    Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

/// No row of it, and no transaction that could still ask it for its decision. Where others commit meanwhile, what is
/// prepared now is given `tries` to be settled; what is prepared later is no hindrance.
async fn check_rest(context: &Context, topology: &Topology, shard: ShardId, tries: u32) -> Result<(), String> {
    let find = context.find_primary();
    for known in topology.shard_ids() {
        let client = connect(&find, known).await?;
        let prepared = "FROM pg_prepared_xacts WHERE database = current_database()";
        let sql = format!("SELECT string_agg(quote_literal(gid), ', ') {prepared}");
        let Some(gids) = value(&client, &sql, SHORT_MS).await? else { continue };
        let sql = format!("SELECT gid {prepared} AND gid IN ({gids}) LIMIT 1");
        let mut left = tries;
        while let Some(gid) = value(&client, &sql, SHORT_MS).await? {
            left = left.saturating_sub(1);
            if left == 0 {
                return Err(format!("transaction {gid} is prepared on shard {known}: it has to be settled first"));
            }
            tokio::time::sleep(QUIET).await;
        }
    }
    let target = find(shard).ok_or("the shard has no primary")?;
    let client = connect(&find, shard).await?;
    for table in read_tables(&target, topology).await?.moved {
        if value(&client, &format!("SELECT 1 FROM {} LIMIT 1", table.from), SHORT_MS).await?.is_some() {
            return Err(format!("table {} holds rows there although it owns no bucket", table.name.name));
        }
    }
    Ok(())
}
