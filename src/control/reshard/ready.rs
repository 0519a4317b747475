//! What a job needs on the shards before buckets move, and what is taken away after it.

use std::time::Duration;

use super::links::{FindPrimary, SHORT_MS, connect, value};
use super::rows::{GID_PREFIX, end_steps};
use super::tables::{INDEX_PREFIX, MovedTable, Tables, quoted};
use crate::backend::ConnectTarget;
use crate::base::ShardId;
use crate::control::client::{ControlClient, quote_identifier, quote_literal};

/// Limit of making one index, or of counting one table.
const LONG_MS: u64 = 6 * 3_600_000;

/// Finds what would stop a job halfway.
///
/// # Errors
/// All of it, in words.
pub(super) async fn check(find: &FindPrimary, shards: &[ShardId], tables: &Tables) -> Result<(), String> {
    let mut problems = Vec::new();
    for shard in shards {
        let client = connect(find, *shard).await.map_err(|error| {
            format!("shard {shard} cannot be used (the control role has to be a superuser): {error}")
        })?;
        check_shard(&client, *shard, tables, &mut problems).await?;
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

async fn check_shard(
    client: &ControlClient,
    shard: ShardId,
    tables: &Tables,
    problems: &mut Vec<String>,
) -> Result<(), String> {
    let prepared = value(client, "SELECT current_setting('max_prepared_transactions')", SHORT_MS).await?;
    if prepared.as_deref() == Some("0") {
        problems.push(format!("max_prepared_transactions is 0 on shard {shard}"));
    }
    for table in &tables.moved {
        for leaf in table.leaves.iter().chain([&table.name]) {
            let oid = format!("{}::regclass", quote_literal(&quoted(leaf)));
            let sql = format!(
                "SELECT tgname FROM pg_trigger WHERE tgrelid = {oid} AND tgenabled IN ('A', 'R') AND NOT tgisinternal \
                 UNION ALL SELECT rulename FROM pg_rewrite WHERE ev_class = {oid} AND ev_enabled IN ('A', 'R') LIMIT 1"
            );
            if let Some(name) = value(client, &sql, SHORT_MS).await? {
                problems.push(format!(
                    "{name} of table {} on shard {shard} is enabled ALWAYS or REPLICA and would see rows that move",
                    leaf.name
                ));
            }
        }
    }
    Ok(())
}

/// Makes the indexes by bucket.
///
/// # Errors
/// In words; it can be done again.
///
/// # Cancel safety
/// An index that is left invalid is made anew the next time.
pub(super) async fn make_indexes(find: &FindPrimary, shards: &[ShardId], tables: &Tables) -> Result<(), String> {
    let of_shards = shards.iter().map(|shard| make_indexes_on(find, *shard, tables));
    futures_util::future::try_join_all(of_shards).await.map(drop)
}

async fn make_indexes_on(find: &FindPrimary, shard: ShardId, tables: &Tables) -> Result<(), String> {
    let client = connect(find, shard).await?;
    let words = |error: crate::control::client::ControlError| error.to_string();
    client.rows("SET lock_timeout = 0", SHORT_MS).await.map_err(words)?;
    for invalid in list_indexes(&client, "AND NOT i.indisvalid").await? {
        client.rows(&format!("DROP INDEX CONCURRENTLY IF EXISTS {invalid}"), LONG_MS).await.map_err(words)?;
    }
    for table in &tables.moved {
        for leaf in &table.leaves {
            let name = quote_identifier(&MovedTable::index_name(leaf));
            let sql =
                format!("CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {} (({}))", quoted(leaf), table.bucket);
            client.rows(&sql, LONG_MS).await.map_err(words)?;
        }
    }
    Ok(())
}

async fn list_indexes(client: &ControlClient, which: &str) -> Result<Vec<String>, String> {
    let sql = format!(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_index i ON i.indexrelid = c.oid WHERE starts_with(c.relname::text, '{INDEX_PREFIX}') {which}"
    );
    let rows = client.rows(&sql, SHORT_MS).await.map_err(|error| error.to_string())?;
    Ok(rows.into_iter().flatten().flatten().collect())
}

/// Counts rows by bucket over all tables of these shards.
///
/// # Errors
/// In words; also when rows have no key.
pub(super) async fn count(
    find: &FindPrimary,
    shards: &[ShardId],
    tables: &Tables,
    buckets: usize,
) -> Result<Vec<u64>, String> {
    let mut counts = vec![0u64; buckets];
    for shard in shards {
        let client = connect(find, *shard).await?;
        for table in &tables.moved {
            let sql = format!("SELECT {}, count(*) FROM {} GROUP BY 1", table.placed(), table.from);
            for row in client.rows(&sql, LONG_MS).await.map_err(|error| error.to_string())? {
                let [bucket, rows] = [row.first(), row.get(1)].map(|cell| cell.cloned().flatten());
                let Some(bucket) = bucket else {
                    let name = &table.name.name;
                    return Err(format!(
                        "table {name} has rows on shard {shard} whose key is NULL: they have no bucket"
                    ));
                };
                let slot = bucket.parse::<usize>().ok().and_then(|bucket| counts.get_mut(bucket));
                if let (Some(slot), Some(rows)) = (slot, rows.and_then(|rows| rows.parse::<u64>().ok())) {
                    *slot += rows;
                }
            }
        }
    }
    Ok(counts)
}

/// Takes away everything that jobs make on shards.
///
/// # Errors
/// In words; it can be done again.
pub(super) async fn clean(find: &FindPrimary, shards: &[ShardId]) -> Result<(), String> {
    for shard in shards {
        let client = connect(find, *shard).await?;
        let words = |error: crate::control::client::ControlError| error.to_string();
        end_steps(&client).await?;
        let sql = format!(
            "SELECT gid FROM pg_prepared_xacts WHERE starts_with(gid, '{GID_PREFIX}') AND database = current_database()"
        );
        if let Some(gid) = value(&client, &sql, SHORT_MS).await? {
            return Err(format!("{gid} is still prepared on shard {shard}"));
        }
        client.rows("SET lock_timeout = 0", SHORT_MS).await.map_err(words)?;
        for index in list_indexes(&client, "").await? {
            client.rows(&format!("DROP INDEX CONCURRENTLY IF EXISTS {index}"), LONG_MS).await.map_err(words)?;
        }
    }
    Ok(())
}

/// How long a replica may take to show what its primary has.
const REPLAY_MS: u64 = 5_000;

/// Waits until every replica shows what its primary shows now: statements read from them again afterwards.
///
/// # Errors
/// In words; it can be done again.
pub(super) async fn await_replicas(find: &FindPrimary, replicas: &[(ShardId, ConnectTarget)]) -> Result<(), String> {
    for (shard, target) in replicas {
        let behind = |reason: String| format!("a replica of shard {shard} does not show yet what has moved: {reason}");
        let lsn = value(&connect(find, *shard).await?, "SELECT pg_current_wal_lsn()", SHORT_MS).await?;
        let lsn = quote_literal(&lsn.unwrap_or_default());
        let client = ControlClient::connect(target).await.map_err(|error| behind(error.to_string()))?;
        let sql = format!("SELECT NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= {lsn}::pg_lsn");
        let begun = tokio::time::Instant::now();
        while value(&client, &sql, SHORT_MS).await.map_err(behind)?.as_deref() != Some("t") {
            if begun.elapsed() > Duration::from_millis(REPLAY_MS) {
                return Err(behind(format!("{REPLAY_MS} ms were not enough")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}
