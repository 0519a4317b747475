//! One step on the shards: rows copied ahead, deleted, compared, prepared; then committed or rolled back on both.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::links::{FindPrimary, Links, SHORT_MS, STEP_NAME, connect, value};
use super::tables::{MovedTable, STAMP_SQL, Tables};
use super::transfer::{refused, transfer};
use crate::backend::{Abandoned, Connection};
use crate::base::{BucketId, ShardId};
use crate::control::client::{ControlClient, ControlError, quote_literal};
use crate::reshard::Step;

/// Why a step moved nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotMoved {
    /// In words.
    pub reason: String,
    /// Trying again would not help.
    pub is_final: bool,
}

impl From<String> for NotMoved {
    fn from(reason: String) -> Self {
        Self { reason, is_final: false }
    }
}

impl From<ControlError> for NotMoved {
    fn from(error: ControlError) -> Self {
        // A row that is there already, or that the target does not take: class 23.
        let is_final = error.sqlstate().is_some_and(|code| code.starts_with("23"));
        Self { reason: error.to_string(), is_final }
    }
}

/// What a step moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Rows of all tables.
    pub rows: u64,
    /// Bytes as they went over the wire.
    pub bytes: u64,
    /// How long both transactions took to be prepared.
    pub prepare: Duration,
}

/// The name of a step's prepared transactions.
pub(super) fn gid(job: u64, step: &Step) -> String {
    format!("{GID_PREFIX}{job}-{}", step.number)
}

/// How the names of all prepared transactions of steps begin.
pub(super) const GID_PREFIX: &str = "ostrakon-reshard-";

/// Limit of a statement inside a step; the step as a whole has a shorter one.
const STATEMENT_MS: u64 = 60_000;

/// How many rows and a checksum of them, by table and bucket.
type Sums = BTreeMap<(usize, BucketId), (u64, String)>;

/// What [`STAMP_SQL`] said on each shard when the tables were read. The tables were read on the home shard: as long as its
/// stamp is the same, and nothing runs, no change of the schema is halfway.
pub(super) type Stamps = BTreeMap<ShardId, String>;

/// Reads the stamps of all shards.
///
/// # Errors
/// In words.
pub(super) async fn read_stamps(find: &FindPrimary, shards: impl Iterator<Item = ShardId>) -> Result<Stamps, String> {
    let mut stamps = Stamps::new();
    for shard in shards {
        let stamp = value(&connect(find, shard).await?, STAMP_SQL, SHORT_MS).await?;
        stamps.insert(shard, stamp.ok_or("the schema's stamp cannot be read")?);
    }
    Ok(stamps)
}

/// Whether transactions that say nothing of their isolation level are READ COMMITTED on these shards, whoever's they are.
///
/// # Errors
/// In words.
pub(super) async fn are_read_committed(
    find: &FindPrimary,
    shards: impl Iterator<Item = ShardId>,
) -> Result<bool, String> {
    let sql = "SELECT current_setting('default_transaction_isolation') = 'read committed' AND NOT EXISTS ( \
        SELECT FROM pg_db_role_setting WHERE array_to_string(setconfig, ',') LIKE '%default_transaction_isolation%')";
    for shard in shards {
        if value(&connect(find, shard).await?, sql, SHORT_MS).await?.as_deref() != Some("t") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Transactions that were prepared while writes were let out may have written to the step's buckets: they are to be
/// settled, one way or the other, before rows are looked at.
async fn await_prepared(source: &ControlClient) -> Result<(), NotMoved> {
    let sql = format!(
        "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND NOT starts_with(gid, '{GID_PREFIX}')"
    );
    let mut first: Option<BTreeSet<String>> = None;
    loop {
        let now: BTreeSet<String> =
            source.rows(&sql, SHORT_MS).await?.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
        let awaited = first.get_or_insert_with(|| now.clone());
        awaited.retain(|gid| now.contains(gid));
        let Some(gid) = awaited.first() else { return Ok(()) };
        tracing::debug!(gid, "a step waits for a prepared transaction");
        sleep(LOOK).await;
    }
}

/// Begins a step's transactions. The target's sees what is there at each look, also what came there since it began.
const BEGIN_SOURCE: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE; SET LOCAL enable_seqscan = off";
const BEGIN_TARGET: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL enable_seqscan = off";
const BEGIN_READING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL enable_seqscan = off";

/// Rows of a step on the target, as they were at some moment, in a transaction that nobody sees.
pub(super) struct Ahead {
    /// Of which step.
    pub number: u64,
    there: Connection,
    bytes: u64,
}

/// Copies the rows of a step to the target, beside everything that runs.
///
/// # Errors
/// Nothing is there.
///
/// # Cancel safety
/// As an error.
pub(super) async fn copy_ahead(links: &mut Links, step: &Step, tables: &Tables) -> Result<Ahead, NotMoved> {
    let mut here = links.take_stream(step.from)?;
    let mut there = links.take_stream(step.to)?;
    let into = format!("{BEGIN_TARGET}{}", into_sql(&tables.moved));
    let done = transfer(&mut here, &out_sql(&tables.moved, &step.buckets), &mut there, &into).await?;
    links.put_stream(step.from, here);
    Ok(Ahead { number: step.number, there, bytes: done.bytes })
}

/// Deletes the rows of a step in the source, makes what was copied ahead the same as what they were, and prepares both
/// transactions.
///
/// What was deleted is counted and summed by bucket, and so is what the target has: nothing writes to either meanwhile.
/// Buckets that differ were written to since they were copied: they are copied again, and have to be the same then. Round
/// trips are what a step on a busy machine is made of: there are two, or three.
///
/// # Errors
/// Nothing counts; something may be prepared.
///
/// # Cancel safety
/// As an error.
pub(super) async fn move_rows(
    links: &mut Links,
    ahead: Ahead,
    job: u64,
    step: &Step,
    tables: &Tables,
    stamps: &Stamps,
    home: ShardId,
) -> Result<Moved, NotMoved> {
    let Ahead { mut there, mut bytes, .. } = ahead;
    let mut here = links.take_stream(step.from)?;
    let source = links.get(step.from)?;
    await_prepared(source).await?;
    let elsewhere = async {
        if home == step.from || home == step.to {
            return Ok(());
        }
        let now = value(links.get(home)?, STAMP_SQL, SHORT_MS).await?;
        check_stamp(now.as_deref(), stamps, home)
    };
    let delete = delete_sql(&tables.moved, step);
    let deleting = async { source.rows(&delete, STATEMENT_MS).await.map_err(NotMoved::from) };
    let sum = with_stamp(sums_sql(&tables.moved, &step.buckets));
    let summing = query(&mut there, &sum);
    let ((), deleted, copied) = tokio::try_join!(async { elsewhere.await.map_err(NotMoved::from) }, deleting, summing)?;
    let (before, stamp) = read_sums(deleted)?;
    check_stamp(stamp.as_deref(), stamps, step.from)?;
    let (mut after, stamp) = read_sums(copied)?;
    check_stamp(stamp.as_deref(), stamps, step.to)?;
    let changed = differing_buckets(&before, &after);
    if !changed.is_empty() {
        let into = again_sql(&tables.moved, &changed);
        let done = transfer(&mut here, &out_sql(&tables.moved, &changed), &mut there, &into).await?;
        bytes += done.bytes;
        after.retain(|(_, bucket), _| !changed.contains(bucket));
        after.extend(read_sums(done.rows)?.0);
        tracing::debug!(step = step.number, buckets = changed.len(), bytes = done.bytes, "copied again");
    }
    if after != before {
        let reason = differing_rows(source, &mut there, &tables.moved, step).await?;
        return Err(NotMoved { reason, is_final: true });
    }
    let begun = Instant::now();
    let prepare = format!("PREPARE TRANSACTION {}", quote_literal(&gid(job, step)));
    let preparing = async { source.rows(&prepare, STATEMENT_MS).await.map_err(NotMoved::from) };
    tokio::try_join!(preparing, query(&mut there, &prepare))?;
    links.put_stream(step.from, here);
    links.put_stream(step.to, there);
    let rows = before.values().map(|(count, _)| count).sum();
    Ok(Moved { rows, bytes, prepare: begun.elapsed() })
}

async fn query(connection: &mut Connection, sql: &str) -> Result<Vec<Vec<Option<String>>>, NotMoved> {
    let result = connection.simple(sql).await?;
    result.error.map_or(Ok(result.rows), |error| Err(refused(&error)))
}

fn check_stamp(now: Option<&str>, stamps: &Stamps, shard: ShardId) -> Result<(), String> {
    let is_same = now.is_some() && now == stamps.get(&shard).map(String::as_str);
    if is_same { Ok(()) } else { Err("the schema has changed".to_owned()) }
}

/// All rows of some buckets, table after table.
fn out_sql(tables: &[MovedTable], buckets: &[BucketId]) -> String {
    let copies = tables.iter().map(|table| {
        let (columns, from, within) = (&table.columns, &table.from, table.within(buckets));
        format!("; COPY (SELECT {columns} FROM {from} WHERE {within}) TO STDOUT (FORMAT {})", format_of(table))
    });
    format!("{BEGIN_READING}{}; COMMIT", copies.collect::<String>())
}

/// Takes them in.
fn into_sql(tables: &[MovedTable]) -> String {
    let copies = tables
        .iter()
        .map(|table| format!("; COPY {} ({}) FROM STDIN (FORMAT {})", table.into, table.columns, format_of(table)));
    copies.collect()
}

/// Takes rows of some buckets in again, in place of those that this transaction has, and sums up what is there then.
/// Rows that somebody else wrote stay: they are found by their sums.
fn again_sql(tables: &[MovedTable], buckets: &[BucketId]) -> String {
    let deletes = tables.iter().map(|table| {
        let (from, within) = (&table.from, table.within(buckets));
        format!("DELETE FROM {from} WHERE {within} AND xmin = pg_current_xact_id()::xid; ")
    });
    let copies = into_sql(tables);
    let sums = with_stamp(sums_sql(tables, buckets));
    format!("{}{}; {sums}", deletes.collect::<String>(), copies.trim_start_matches("; "))
}

/// Deletes the rows of a step, and sums up what they were. One statement for all tables.
fn delete_sql(tables: &[MovedTable], step: &Step) -> String {
    let deletes = tables.iter().enumerate().map(|(at, table)| {
        let (from, within) = (&table.from, table.within(&step.buckets));
        let (placed, record) = (table.placed(), &table.record);
        format!(
            "gone{at} AS (DELETE FROM {from} WHERE {within} \
             RETURNING {placed} AS bucket, hash_record_extended({record}, 0) AS hash)"
        )
    });
    let deletes: Vec<String> = deletes.collect();
    let with = if deletes.is_empty() { String::new() } else { format!("WITH {} ", deletes.join(", ")) };
    let sums = (0..tables.len()).map(|at| sum_sql(at, "bucket", "hash", &format!("gone{at}")));
    format!("{BEGIN_SOURCE}; {with}{}", with_stamp(sums))
}

fn sums_sql(tables: &[MovedTable], buckets: &[BucketId]) -> impl Iterator<Item = String> {
    tables.iter().enumerate().map(|(at, table)| {
        let hash = format!("hash_record_extended({}, 0)", table.record);
        sum_sql(at, &table.placed(), &hash, &format!("{} WHERE {}", table.from, table.within(buckets)))
    })
}

/// How many rows of a table, and the sum of their hashes, by bucket.
fn sum_sql(at: usize, bucket: &str, hash: &str, from: &str) -> String {
    format!("SELECT {at}, ({bucket})::text, count(*)::text, sum({hash})::text FROM {from} GROUP BY 2")
}

/// Sums of tables, the stamp of the schema behind them.
fn with_stamp(sums: impl Iterator<Item = String>) -> String {
    let stamp = format!("SELECT NULL, NULL, NULL, ({STAMP_SQL})");
    sums.chain([stamp]).collect::<Vec<_>>().join(" UNION ALL ")
}

/// Sums, and the stamp.
fn read_sums(rows: Vec<Vec<Option<String>>>) -> Result<(Sums, Option<String>), NotMoved> {
    let (mut sums, mut stamp) = (Sums::new(), None);
    for row in rows {
        let mut cells = row.into_iter();
        let (at, bucket, count, sum) = (cells.next(), cells.next(), cells.next(), cells.next().flatten());
        if at == Some(None) {
            stamp = sum;
            continue;
        }
        let read = |cell: Option<Option<String>>| cell.flatten().and_then(|text| text.parse::<u64>().ok());
        let key = read(at).zip(read(bucket).and_then(|bucket| u16::try_from(bucket).ok()));
        let ((at, bucket), count) = key.zip(read(count)).ok_or("sums of rows cannot be read".to_owned())?;
        sums.insert((at as usize, BucketId(bucket)), (count, sum.unwrap_or_default()));
    }
    Ok((sums, stamp))
}

/// Buckets whose rows are not alike, in any table.
fn differing_buckets(before: &Sums, after: &Sums) -> Vec<BucketId> {
    let of = |one: &Sums, other: &Sums| -> BTreeSet<BucketId> {
        one.iter().filter(|(key, sum)| other.get(key) != Some(sum)).map(|((_, bucket), _)| *bucket).collect()
    };
    of(before, after).union(&of(after, before)).copied().collect()
}

fn format_of(table: &MovedTable) -> &'static str {
    if table.is_binary { "binary" } else { "text" }
}

/// Most keys that are named.
const NAMED_MAX: usize = 5;

/// Names rows that are not alike. The source's are deleted in its open transaction, so another one reads them: nothing
/// else writes meanwhile.
async fn differing_rows(
    source: &ControlClient,
    target: &mut Connection,
    tables: &[MovedTable],
    step: &Step,
) -> Result<String, NotMoved> {
    let reader = ControlClient::connect(source.target()).await?;
    let mut found = Vec::new();
    for table in tables {
        let sql = format!(
            "SET datestyle = 'ISO, YMD'; SET timezone = 'UTC'; SET search_path = pg_catalog; \
             SELECT ROW({})::text, hash_record_extended({}, 0)::text FROM {} WHERE {}",
            table.key,
            table.record,
            table.from,
            table.within(&step.buckets)
        );
        let there = reader.rows(&sql, STATEMENT_MS).await?;
        let here = target.simple(&sql).await?.rows;
        found.extend(
            compare(&counted(there), &counted(here)).into_iter().map(|what| format!("{} {what}", table.name.name)),
        );
    }
    let more = found.len().saturating_sub(NAMED_MAX);
    found.truncate(NAMED_MAX);
    let mut text = found.join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    Ok(format!("rows on shard {} are not those of shard {}: {text}", step.to, step.from))
}

/// Keys, the hashes of their rows, and how often each is there.
type Counted = BTreeMap<String, HashMap<String, usize>>;

fn counted(rows: Vec<Vec<Option<String>>>) -> Counted {
    let mut counted = Counted::new();
    for row in rows {
        let mut cells = row.into_iter().map(Option::unwrap_or_default);
        let (key, hash) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        *counted.entry(key).or_default().entry(hash).or_default() += 1;
    }
    counted
}

fn compare(source: &Counted, target: &Counted) -> Vec<String> {
    let rows = |side: &Counted, key: &str| side.get(key).map_or(0, |rows| rows.values().sum::<usize>());
    let keys = source.keys().chain(target.keys().filter(|key| !source.contains_key(*key)));
    keys.filter(|key| source.get(*key) != target.get(*key))
        .map(|key| match (rows(source, key), rows(target, key)) {
            (before, after) if before > after => format!("{key} is missing"),
            (before, after) if before < after => format!("{key} is there beside the rows that moved"),
            _ => format!("{key} is changed"),
        })
        .collect()
}

/// How often it is looked whether connections have ended.
const LOOK: Duration = Duration::from_millis(5);
const LOOKS_MAX: usize = 400;

/// Commits or rolls back what a step left prepared on both of its shards. A transaction that is not there was settled
/// before.
///
/// # Errors
/// In words; it may be so on one shard only.
///
/// # Cancel safety
/// It can be done again.
pub(super) async fn settle(find: &FindPrimary, job: u64, step: &Step, commits: bool) -> Result<(), String> {
    let (source, target) =
        tokio::join!(settle_on(find, step.from, job, step, commits), settle_on(find, step.to, job, step, commits));
    source.and(target)
}

async fn settle_on(find: &FindPrimary, shard: ShardId, job: u64, step: &Step, commits: bool) -> Result<(), String> {
    let client = connect(find, shard).await?;
    if !commits {
        end_steps(&client).await?;
    }
    let gid = quote_literal(&gid(job, step));
    let exists = format!("SELECT count(*) FROM pg_prepared_xacts WHERE gid = {gid} AND database = current_database()");
    if value(&client, &exists, SHORT_MS).await?.as_deref() == Some("0") {
        return Ok(());
    }
    let verb = if commits { "COMMIT" } else { "ROLLBACK" };
    let settled = client.rows(&format!("{verb} PREPARED {gid}"), STATEMENT_MS).await;
    settled.map(drop).map_err(|error| error.to_string())
}

/// Ends backends, and waits until they are gone.
///
/// # Errors
/// In words; they may still be there.
pub(super) async fn end_backends(find: &FindPrimary, shard: ShardId, backends: &[Abandoned]) -> Result<(), String> {
    let client = connect(find, shard).await?;
    // A backend of the same number that is younger serves somebody.
    let list: Vec<String> = backends
        .iter()
        .map(|backend| format!("({}, {})", backend.pid, backend.since.elapsed().as_secs_f64()))
        .collect();
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity JOIN (VALUES {}) AS left_ (left_pid, seconds) \
         ON pid = left_pid AND backend_start < clock_timestamp() - seconds * interval '1 second' \
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
        list.join(", ")
    );
    until_none(&client, &sql, "backends of closed connections do not end").await
}

/// Ends the connections of steps: a PREPARE that is still on its way would otherwise come after the look for it.
pub(super) async fn end_steps(client: &ControlClient) -> Result<(), String> {
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE application_name = '{STEP_NAME}' AND pid <> pg_backend_pid() AND datname = current_database()"
    );
    until_none(client, &sql, "connections of a step do not end").await
}

/// Asks until the answer is 0.
async fn until_none(client: &ControlClient, sql: &str, otherwise: &str) -> Result<(), String> {
    for _ in 0..LOOKS_MAX {
        if value(client, sql, SHORT_MS).await?.as_deref() == Some("0") {
            return Ok(());
        }
        sleep(LOOK).await;
    }
    Err(otherwise.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_differ_are_named_by_their_keys() {
        let side = |rows: &[(&str, &str)]| {
            counted(rows.iter().map(|(key, hash)| vec![Some((*key).to_owned()), Some((*hash).to_owned())]).collect())
        };
        let source = side(&[("(1)", "a"), ("(2)", "b"), ("(3)", "c")]);
        let target = side(&[("(1)", "a"), ("(2)", "x"), ("(4)", "d"), ("(4)", "d")]);
        assert_eq!(
            compare(&source, &target),
            ["(2) is changed", "(3) is missing", "(4) is there beside the rows that moved"]
        );
        assert_eq!(compare(&source, &source), Vec::<String>::new());
    }
}
