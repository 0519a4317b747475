//! Ids for sharded and reference tables: values of a sequence, unique in the whole cluster.
//!
//! The sequence itself lives in PostgreSQL, on the home shard; those of the other shards are never used. The proxy
//! takes values from it in blocks, as a session of PostgreSQL does for a sequence with CACHE, and with the same
//! consequences: a restart skips what was left of a block, and numbers are unique but not in the order of time.
//! `setval`, ALTER SEQUENCE, TRUNCATE … RESTART IDENTITY, DROP and a dump work on the one that counts.
//!
//! # Source
//! <https://www.postgresql.org/docs/current/sql-createsequence.html>, CACHE. That a value is durable before it is
//! seen: `nextval_internal` in PostgreSQL's sequence.c takes a transaction id, so that its commit waits for the WAL.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::backend::connection::Rows;
use crate::backend::{BackendError, Connection};
use crate::error::{ClientError, ErrorId};
use crate::topology::TableName;
use crate::wire::server_message::read_error;

use super::client::{ControlClient, ControlError, quote_identifier, quote_literal};
use super::roles::FindHome;

/// Values in the first block of a sequence; each block after it is twice as wide.
const BLOCK_VALUES_FIRST: u64 = 32;
/// Values in the widest block, if no more are asked for at once.
const BLOCK_VALUES_MAX: u64 = 4_096;
/// Limit of taking a block. TRUNCATE … RESTART IDENTITY and ALTER SEQUENCE let it wait.
const TAKE_MS: u64 = 10_000;

/// SQLSTATE of a sequence that has no more values.
const EXHAUSTED: &str = "2200H";

/// Why there is no value.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SequenceError {
    /// The home shard does not have it (or it is not committed yet).
    #[error("sequence \"{}\" does not exist", .0.name)]
    Missing(TableName),
    /// Its last value has been given.
    #[error("{message}")]
    Exhausted {
        /// PostgreSQL's words.
        message: String,
    },
    /// The home shard could not be asked.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The connection that was asked is of no more use, or PostgreSQL refused.
    #[error("sequence \"{}\" cannot be read: {reason}", sequence.name)]
    Unreadable {
        /// The sequence.
        sequence: TableName,
        /// Why.
        reason: String,
    },
}

impl SequenceError {
    /// The error in the client's words.
    pub fn to_client_error(&self) -> ClientError {
        match self {
            Self::Missing(sequence) => {
                ClientError::new(ErrorId::UndefinedObject, format!("sequence \"{}\" does not exist", sequence.name))
            }
            Self::Exhausted { message } => ClientError::new(ErrorId::SequenceExhausted, message.clone()),
            Self::Control(_) | Self::Unreadable { .. } => {
                ClientError::new(ErrorId::ShardUnreachable, "the ids of a sharded table cannot be given")
                    .with_detail(format!("{self}."))
            }
        }
    }
}

/// Values that are ours to give.
#[derive(Debug)]
struct Block {
    values: VecDeque<i64>,
    /// How many are taken next.
    width: u64,
}

impl Default for Block {
    fn default() -> Self {
        Self { values: VecDeque::new(), width: BLOCK_VALUES_FIRST }
    }
}

impl Block {
    /// How many values to take when `count` are wanted and there are fewer.
    fn widen(&mut self, count: usize) -> u64 {
        let missing = count.saturating_sub(self.values.len()) as u64;
        let width = self.width.max(missing);
        self.width = self.width.saturating_mul(2).min(BLOCK_VALUES_MAX);
        width
    }
}

/// Gives out values of sequences.
pub struct Sequences {
    find_home: FindHome,
    client: tokio::sync::Mutex<Option<ControlClient>>,
    blocks: Mutex<HashMap<TableName, Arc<tokio::sync::Mutex<Block>>>>,
}

impl Sequences {
    /// Nothing is taken before the first value is asked for.
    pub fn new(find_home: FindHome) -> Self {
        Self { find_home, client: tokio::sync::Mutex::default(), blocks: Mutex::default() }
    }

    /// The next values of a sequence, in its order, unique in the cluster.
    ///
    /// # Errors
    /// See [`SequenceError`]; nothing was given out.
    ///
    /// # Cancel safety
    /// Safe: values may be skipped, never given twice.
    pub async fn next(&self, sequence: &TableName, count: usize) -> Result<Vec<i64>, SequenceError> {
        let block = self.block(sequence);
        // One task fills the block up; the others wait for it here.
        let mut block = block.lock().await;
        while block.values.len() < count {
            let width = block.widen(count);
            let taken = self.take(sequence, width).await?;
            block.values.extend(taken);
        }
        Ok(block.values.drain(..count).collect())
    }

    /// As [`Self::next`], over the connection to the home shard whose open transaction made or altered the sequence:
    /// nobody else can see it yet, so nothing is kept of it.
    ///
    /// # Errors
    /// See [`SequenceError`]; the transaction is then a failed one.
    ///
    /// # Cancel safety
    /// That of [`Connection::simple`].
    pub async fn next_within(
        &self,
        sequence: &TableName,
        count: usize,
        connection: &mut Connection,
    ) -> Result<Vec<i64>, SequenceError> {
        let mut values = Vec::with_capacity(count);
        while values.len() < count {
            let sql = take_sql(sequence, (count - values.len()) as u64);
            let result = connection.simple(&sql).await.map_err(|error: BackendError| SequenceError::Unreadable {
                sequence: sequence.clone(),
                reason: error.to_string(),
            })?;
            if let Some(error) = result.error {
                let (code, message) = read_error(&error.body())
                    .map_or_else(|error| (String::new(), error.to_string()), |fields| (fields.code, fields.message));
                return Err(refused(sequence, &code, message));
            }
            values.extend(read_values(sequence, &result.rows)?);
        }
        Ok(values)
    }

    /// Drops the values that were taken and not given, since the schema has changed or a sequence was set: the next
    /// one is the server's.
    pub fn forget_all(&self) {
        self.blocks.lock().clear();
    }

    fn block(&self, sequence: &TableName) -> Arc<tokio::sync::Mutex<Block>> {
        let mut blocks = self.blocks.lock();
        if let Some(block) = blocks.get(sequence) {
            return Arc::clone(block);
        }
        let block = Arc::<tokio::sync::Mutex<Block>>::default();
        blocks.insert(sequence.clone(), Arc::clone(&block));
        block
    }

    async fn take(&self, sequence: &TableName, width: u64) -> Result<Vec<i64>, SequenceError> {
        let target = (self.find_home)().ok_or_else(|| SequenceError::Unreadable {
            sequence: sequence.clone(),
            reason: "the home shard has no primary".to_owned(),
        })?;
        let mut held = self.client.lock().await;
        let usable = held.take().filter(|client| !client.is_closed() && *client.target() == target);
        let client = match usable {
            Some(client) => client,
            None => ControlClient::connect(&target).await?,
        };
        match client.rows(&take_sql(sequence, width), TAKE_MS).await {
            Ok(rows) => {
                *held = Some(client);
                read_values(sequence, &rows)
            }
            // What was asked is over, so the connection serves on.
            Err(ControlError::Postgres { sqlstate, message, .. }) if is_about_sequence(&sqlstate) => {
                *held = Some(client);
                Err(refused(sequence, &sqlstate, message))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn is_about_sequence(sqlstate: &str) -> bool {
    matches!(sqlstate, "42P01" | "3F000" | EXHAUSTED)
}

fn refused(sequence: &TableName, sqlstate: &str, message: String) -> SequenceError {
    match sqlstate {
        "42P01" | "3F000" => SequenceError::Missing(sequence.clone()),
        EXHAUSTED => SequenceError::Exhausted { message },
        _ => SequenceError::Unreadable { sequence: sequence.clone(), reason: message },
    }
}

/// Takes up to `width` values, and at least one: no more than are left, since a `nextval` that fails would lose all
/// that were taken before it.
fn take_sql(sequence: &TableName, width: u64) -> String {
    let name = format!("{}.{}", quote_identifier(&sequence.schema), quote_identifier(&sequence.name));
    format!(
        "SELECT pg_catalog.nextval(s.seqrelid::pg_catalog.regclass) FROM pg_catalog.pg_sequence s, {name} q, \
         LATERAL pg_catalog.generate_series(1::pg_catalog.int8, GREATEST(1::pg_catalog.numeric, \
         CASE WHEN s.seqcycle THEN {width}::pg_catalog.numeric ELSE LEAST({width}::pg_catalog.numeric, \
         CASE WHEN s.seqincrement > 0 THEN pg_catalog.div(s.seqmax::pg_catalog.numeric - q.last_value, s.seqincrement) \
         ELSE pg_catalog.div(s.seqmin::pg_catalog.numeric - q.last_value, s.seqincrement) END \
         + CASE WHEN q.is_called THEN 0 ELSE 1 END) END)::pg_catalog.int8) \
         WHERE s.seqrelid = {}::pg_catalog.regclass",
        quote_literal(&name)
    )
}

fn read_values(sequence: &TableName, rows: &Rows) -> Result<Vec<i64>, SequenceError> {
    let values: Option<Vec<i64>> =
        rows.iter().map(|row| row.first().and_then(Option::as_deref).and_then(|text| text.parse().ok())).collect();
    values.filter(|values| !values.is_empty()).ok_or_else(|| SequenceError::Unreadable {
        sequence: sequence.clone(),
        reason: "the answer is not understood".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> TableName {
        TableName { schema: "public".into(), name: "it's".into() }
    }

    #[test]
    fn names_are_quoted_as_identifier_and_as_literal() {
        assert!(take_sql(&name(), 1).contains("\"public\".\"it's\" q"));
        assert!(take_sql(&name(), 1).contains("'\"public\".\"it''s\"'::pg_catalog.regclass"));
    }

    #[test]
    fn blocks_grow_with_what_is_asked_for() {
        let mut block = Block::default();
        assert_eq!((block.widen(1), block.widen(1), block.widen(1_000)), (32, 64, 1_000));
        assert!((0..20).map(|_| block.widen(1)).all(|width| width <= BLOCK_VALUES_MAX));
        assert_eq!(block.widen(1), BLOCK_VALUES_MAX);
    }

    #[test]
    fn an_answer_without_numbers_is_no_answer() {
        assert!(read_values(&name(), &Rows::new()).is_err());
        assert!(read_values(&name(), &vec![vec![None]]).is_err());
        assert_eq!(read_values(&name(), &vec![vec![Some("-7".into())]]).unwrap(), [-7]);
    }
}
