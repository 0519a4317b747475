//! Takes a shard into the cluster: same schema, same reference tables, no buckets.
//!
//! Whoever made the servers has given them roles and schema. What is compared here is compared once more while nothing
//! runs, so that no change of schema and no write to a reference table falls between.

use std::time::Duration;

use super::Context;
use super::links::{FindPrimary, SHORT_MS, connect, value};
use super::tables::{MovedTable, read_tables};
use crate::backend::Connection;
use crate::backend::schema::read_schema;
use crate::base::{Epoch, NodeId, ShardId, Term};
use crate::control::client::ControlClient;
use crate::control::drift::differences;
use crate::control::recovery::prepare_database;
use crate::planner;
use crate::store::{Entry, leadership_key, load_topology, save_topology};
use crate::topology::ring::WEIGHT_NORMAL;
use crate::topology::schema::Schema;
use crate::topology::{Node, Role, Shard, Topology};

/// A server of a new shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Its name.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A shard to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewShard {
    /// Its name.
    pub name: String,
    /// Its servers, the primary first.
    pub nodes: Vec<NewNode>,
}

/// How long what runs has to end, and how often that is tried.
const QUIET: Duration = Duration::from_millis(300);
const TRIES: u32 = 20;
/// Limit of copying or comparing one reference table.
const LONG_MS: u64 = 3_600_000;

/// What has to be the same on every shard.
const SERVER_SQL: &str = "SELECT current_setting('server_version_num')::int / 10000 || ' ' || \
    pg_encoding_to_char(encoding) || ' ' || datcollate || ' ' || datctype FROM pg_database WHERE datname = current_database()";

/// Takes the shard in; `dry_run`: only looks whether its servers and its schema are like the others'.
///
/// # Errors
/// In words; it is not part of the cluster then.
pub(super) async fn join(context: &Context, shard: NewShard, dry_run: bool) -> Result<Topology, String> {
    let words = |error: crate::store::StoreError| error.to_string();
    let (topology, _) = load_topology(context.store.as_ref()).await.map_err(words)?.ok_or("there is no topology")?;
    let free = free_id(context, &topology).await?;
    let (next, id) = with_shard(&topology, &shard, free)?;
    let find = context.find_in(next.clone());
    let (home, new) = (connect(&find, topology.home()).await?, connect(&find, id).await?);
    compare_servers(&home, &new).await?;
    if topology.shards.len() == 1 {
        check_tables(&find, &next).await?;
    }
    if dry_run {
        compare_schemas(&find, topology.home(), id).await?;
        return Ok(next);
    }
    for shard in next.shard_ids().filter(|shard| *shard == id || topology.shards.len() == 1) {
        let target = find(shard).ok_or("a shard has no primary")?;
        prepare_database(&target).await.map_err(|error| error.to_string())?;
    }
    compare_schemas(&find, topology.home(), id).await?;
    // Ahead, so that little is left to do while nothing runs.
    copy_references(&find, &home, &new, &topology, false).await?;
    for _ in 0..TRIES {
        let Some(_quiet) = context.close_gate(QUIET).await else {
            tokio::time::sleep(QUIET).await;
            continue;
        };
        let (now, revision) =
            load_topology(context.store.as_ref()).await.map_err(words)?.ok_or("there is no topology")?;
        let (next, id) = with_shard(&now, &shard, free_id(context, &now).await?)?;
        compare_schemas(&find, now.home(), id).await?;
        copy_references(&find, &home, &new, &now, true).await?;
        save_topology(context.store.as_ref(), &next, Some(revision)).await.map_err(words)?;
        context.publish(&next);
        return Ok(next);
    }
    Err("statements or transactions stay open, so the shard cannot be taken in now: end long ones and try again"
        .to_owned())
}

/// An id that no shard has, nor had while it was led: the record of its leadership would be taken for the new one's.
async fn free_id(context: &Context, topology: &Topology) -> Result<ShardId, String> {
    let mut id = topology.shards.iter().map(|shard| shard.id.0).max().unwrap_or(0) + 1;
    let is_known = |entry: Option<Entry>| entry.is_some();
    while is_known(context.store.get(&leadership_key(ShardId(id))).await.map_err(|error| error.to_string())?) {
        id += 1;
    }
    Ok(ShardId(id))
}

fn with_shard(topology: &Topology, shard: &NewShard, id: ShardId) -> Result<(Topology, ShardId), String> {
    let first = topology.nodes.iter().map(|node| node.id.0).max().unwrap_or(0) + 1;
    let mut next = topology.clone();
    next.epoch = Epoch(topology.epoch.0 + 1);
    next.shards.push(Shard { id, name: shard.name.clone(), term: Term(1), weight: WEIGHT_NORMAL });
    for (at, node) in (0..).zip(&shard.nodes) {
        next.nodes.push(Node {
            id: NodeId(first + at),
            name: node.name.clone(),
            host: node.host.clone(),
            port: node.port,
            zone: String::new(),
            shard: id,
            role: if at == 0 { Role::Primary } else { Role::Replica },
        });
    }
    let problems = crate::topology::validate::validate(&next).err().unwrap_or_default();
    if problems.is_empty() {
        return Ok((next, id));
    }
    Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

/// What one shard alone keeps has to be kept by each of several, too.
async fn check_tables(find: &FindPrimary, next: &Topology) -> Result<(), String> {
    let target = find(next.home()).ok_or("the home shard has no primary")?;
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let mut connection = Connection::connect(&target).await.map_err(|error| words(&error))?;
    let schema = read_schema(&mut connection).await.map_err(|error| words(&error))?;
    connection.close().await;
    planner::check_schema(next, &Schema::default(), &schema).map_err(|error| {
        let hint = error.hint.map(|hint| format!(". {hint}")).unwrap_or_default();
        format!("{}{hint}", error.message)
    })
}

async fn compare_servers(home: &ControlClient, new: &ControlClient) -> Result<(), String> {
    let (there, here) = (value(home, SERVER_SQL, SHORT_MS).await?, value(new, SERVER_SQL, SHORT_MS).await?);
    if there != here {
        let text = |value: Option<String>| value.unwrap_or_default();
        return Err(format!(
            "the new server has another version, encoding or collation: {} instead of {}",
            text(here),
            text(there)
        ));
    }
    if value(new, "SELECT current_setting('max_prepared_transactions')", SHORT_MS).await?.as_deref() == Some("0") {
        return Err("max_prepared_transactions is 0 on the new server".to_owned());
    }
    Ok(())
}

async fn compare_schemas(find: &FindPrimary, home: ShardId, new: ShardId) -> Result<(), String> {
    let targets: Option<Vec<_>> = [home, new].into_iter().map(|shard| Some((shard, find(shard)?))).collect();
    let found = differences(&targets.ok_or("a shard has no primary")?).await.map_err(|error| error.to_string())?;
    if found.is_empty() {
        return Ok(());
    }
    let named: Vec<String> =
        found.iter().take(5).map(|one| format!("{} {} is {}", one.kind, one.name, one.differs.as_str())).collect();
    Err(format!("the new shard has not the schema of the others: {}", named.join(", ")))
}

/// Makes the new shard's copies of reference tables like those of the home shard; those that are are left alone.
/// Sharded and single tables have to be empty there.
async fn copy_references(
    find: &FindPrimary,
    home: &ControlClient,
    new: &ControlClient,
    topology: &Topology,
    is_quiet: bool,
) -> Result<(), String> {
    let words = |error: crate::control::client::ControlError| error.to_string();
    let target = find(topology.home()).ok_or("the home shard has no primary")?;
    let tables = read_tables(&target, topology).await?;
    for table in &tables.moved {
        if value(new, &format!("SELECT 1 FROM {} LIMIT 1", table.from), SHORT_MS).await?.is_some() {
            return Err(format!("table {} holds rows on the new shard", table.name.name));
        }
    }
    for table in &tables.reference {
        if sum(home, table).await? == sum(new, table).await? {
            continue;
        }
        let format = if table.is_binary { "binary" } else { "text" };
        let (columns, from) = (&table.columns, &table.from);
        new.rows(&format!("BEGIN; DELETE FROM {from}"), LONG_MS).await.map_err(words)?;
        let out = format!("COPY (SELECT {columns} FROM {from}) TO STDOUT (FORMAT {format})");
        let into = format!("COPY {} ({columns}) FROM STDIN (FORMAT {format})", table.into);
        home.copy_to(&out, new, &into).await.map_err(words)?;
        new.rows("COMMIT", LONG_MS).await.map_err(words)?;
        if is_quiet && sum(home, table).await? != sum(new, table).await? {
            return Err(format!("the copy of reference table {} is not like the original", table.name.name));
        }
    }
    Ok(())
}

async fn sum(client: &ControlClient, table: &MovedTable) -> Result<Vec<Vec<Option<String>>>, String> {
    let sql = format!(
        "SELECT count(*), coalesce(sum(hash_record_extended({}, 0)::numeric), 0) FROM {}",
        table.record, table.from
    );
    client.rows(&sql, LONG_MS).await.map_err(|error| error.to_string())
}
