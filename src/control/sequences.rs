//! Ids for sharded tables: values of a sequence, unique in the whole cluster, from durable blocks.
//!
//! A block is taken from the store before any of its values is given out, so a value is never given
//! twice; a restart skips what was left of a block, as PostgreSQL's own CACHE does.

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::join_all;
use parking_lot::Mutex;

use crate::backend::connection::Rows;
use crate::backend::{BackendError, ConnectTarget, Connection};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::store::{Store, take_sequence_block};
use crate::topology::TableName;
use crate::wire::server_message::read_error;

use super::client::{ControlClient, ControlError, quote_identifier, quote_literal};
use super::recovery::FindPrimaries;

/// Values taken from the store at a time, if no more are asked for.
const BLOCK_VALUES: u64 = 1_000;
/// Limit of reading a sequence on one shard.
const READ_MS: u64 = 5_000;

/// A block's future.
pub type TakingBlock<'a> = Pin<Box<dyn Future<Output = Result<Range<i64>, String>> + Send + 'a>>;

/// Where blocks come from: durable, and the same for all processes of the cluster.
pub trait BlockSource: Send + Sync {
    /// Takes `width` numbers that nobody else gets, none under `floor`.
    fn take<'a>(&'a self, sequence: &'a TableName, width: u64, floor: i64) -> TakingBlock<'a>;
}

/// Blocks from the cluster's store.
pub struct StoreBlocks(pub Arc<dyn Store>);

impl BlockSource for StoreBlocks {
    fn take<'a>(&'a self, sequence: &'a TableName, width: u64, floor: i64) -> TakingBlock<'a> {
        Box::pin(async move {
            take_sequence_block(&*self.0, sequence, width, floor).await.map_err(|error| error.to_string())
        })
    }
}

/// Why there is no value.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SequenceError {
    /// No shard has it (or it is not committed yet).
    #[error("sequence \"{}\" does not exist", .0.name)]
    Missing(TableName),
    /// It counts down.
    #[error("sequence \"{}\" counts down", .0.name)]
    Descending(TableName),
    /// The shards do not agree on its increment.
    #[error("sequence \"{}\" has different increments on different shards", .0.name)]
    Differs(TableName),
    /// MAXVALUE is reached.
    #[error("reached maximum value of sequence \"{}\" ({maximum})", sequence.name)]
    Exhausted {
        /// The sequence.
        sequence: TableName,
        /// MAXVALUE.
        maximum: i64,
    },
    /// A shard could not be asked.
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
    /// The store could not be written.
    #[error("no block of ids: {0}")]
    Store(String),
}

impl SequenceError {
    /// The error in the client's words.
    pub fn to_client_error(&self) -> ClientError {
        match self {
            Self::Missing(sequence) => {
                ClientError::new(ErrorId::UndefinedObject, format!("sequence \"{}\" does not exist", sequence.name))
            }
            Self::Descending(sequence) => ClientError::new(
                ErrorId::FeatureNotSupported,
                format!("descending sequence \"{}\" cannot give ids to a sharded table", sequence.name),
            )
            .with_hint("Give the ids in the statement, or use an ascending sequence."),
            Self::Differs(sequence) => ClientError::new(
                ErrorId::PrerequisiteMissing,
                format!("sequence \"{}\" has different increments on different shards", sequence.name),
            )
            .with_hint("ALTER SEQUENCE … INCREMENT through the proxy sets it on all shards."),
            Self::Exhausted { sequence, maximum } => ClientError::new(
                ErrorId::LimitExceeded,
                format!("nextval: reached maximum value of sequence \"{}\" ({maximum})", sequence.name),
            ),
            Self::Control(_) | Self::Unreadable { .. } => {
                ClientError::new(ErrorId::ShardUnreachable, "the ids of a sharded table cannot be given")
                    .with_detail(format!("{self}."))
            }
            Self::Store(_) => ClientError::new(ErrorId::PrerequisiteMissing, "no block of ids can be taken")
                .with_detail(format!("{self}.")),
        }
    }
}

/// What PostgreSQL says of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    increment: i64,
    maximum: i64,
    /// What its next value would be.
    floor: i64,
}

/// Values that are ours to give.
#[derive(Debug, Default)]
struct Block {
    facts: Option<Facts>,
    values: Range<i64>,
}

/// Gives out values of sequences.
pub struct Sequences {
    source: Arc<dyn BlockSource>,
    find_primaries: FindPrimaries,
    blocks: Mutex<HashMap<TableName, Arc<tokio::sync::Mutex<Block>>>>,
}

impl Sequences {
    /// Nothing is read or taken before the first value is asked for.
    pub fn new(source: Arc<dyn BlockSource>, find_primaries: FindPrimaries) -> Self {
        Self { source, find_primaries, blocks: Mutex::default() }
    }

    /// The next values of a sequence, ascending, unique in the cluster.
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
        let facts = match block.facts {
            Some(facts) => facts,
            None => {
                let facts = self.read_from_shards(sequence).await?;
                *block.facts.insert(facts)
            }
        };
        let mut values = Vec::with_capacity(count);
        while values.len() < count {
            match block.take(facts) {
                Some(value) if value > facts.maximum => {
                    return Err(SequenceError::Exhausted { sequence: sequence.clone(), maximum: facts.maximum });
                }
                Some(value) => values.push(value),
                None => {
                    let missing = (count - values.len()) as u64;
                    let width = missing.max(BLOCK_VALUES).saturating_mul(facts.increment.unsigned_abs());
                    block.values =
                        self.source.take(sequence, width, facts.floor).await.map_err(SequenceError::Store)?;
                    if block.values.is_empty() {
                        return Err(SequenceError::Exhausted { sequence: sequence.clone(), maximum: facts.maximum });
                    }
                }
            }
        }
        Ok(values)
    }

    /// Reads a sequence that other connections cannot see yet, over the connection whose transaction
    /// made it; afterwards [`Self::next`] gives its values.
    ///
    /// # Errors
    /// See [`SequenceError`]; the transaction is then a failed one.
    ///
    /// # Cancel safety
    /// That of [`Connection::simple`].
    pub async fn learn(&self, sequence: &TableName, connection: &mut Connection) -> Result<(), SequenceError> {
        let unreadable = |reason: String| SequenceError::Unreadable { sequence: sequence.clone(), reason };
        let result = connection
            .simple(&facts_sql(sequence))
            .await
            .map_err(|error: BackendError| unreadable(error.to_string()))?;
        if let Some(error) = result.error {
            let message = read_error(&error.body()).map_or_else(|error| error.to_string(), |fields| fields.message);
            return Err(unreadable(message));
        }
        let facts = read_facts(sequence, &result.rows)?.ok_or_else(|| SequenceError::Missing(sequence.clone()))?;
        self.block(sequence).lock().await.facts = Some(facts);
        Ok(())
    }

    /// Drops what is known of a sequence: it was altered, set, dropped or made again. The next value is
    /// not under the one that the shards then have.
    pub fn forget(&self, sequence: &TableName) {
        self.blocks.lock().remove(sequence);
    }

    /// Drops what is known of all sequences, after DDL.
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

    async fn read_from_shards(&self, sequence: &TableName) -> Result<Facts, SequenceError> {
        let primaries = (self.find_primaries)();
        let answers = join_all(primaries.iter().map(|(shard, target)| read_from(*shard, target, sequence))).await;
        let mut all: Option<Facts> = None;
        for answer in answers {
            let Some(facts) = answer? else { continue };
            all = Some(match all {
                None => facts,
                Some(before) if before.increment != facts.increment => {
                    return Err(SequenceError::Differs(sequence.clone()));
                }
                Some(before) => Facts {
                    increment: facts.increment,
                    maximum: before.maximum.min(facts.maximum),
                    floor: before.floor.max(facts.floor),
                },
            });
        }
        all.ok_or_else(|| SequenceError::Missing(sequence.clone()))
    }
}

impl Block {
    fn take(&mut self, facts: Facts) -> Option<i64> {
        if self.values.is_empty() {
            return None;
        }
        let value = self.values.start;
        self.values.start = value.saturating_add(facts.increment);
        Some(value)
    }
}

/// `None`: this shard does not have it.
async fn read_from(
    shard: ShardId,
    target: &ConnectTarget,
    sequence: &TableName,
) -> Result<Option<Facts>, SequenceError> {
    let client = ControlClient::connect(target).await?;
    match client.rows(&facts_sql(sequence), READ_MS).await {
        Ok(rows) => read_facts(sequence, &rows),
        Err(error) if matches!(error.sqlstate(), Some("42P01" | "3F000")) => {
            tracing::debug!(%shard, sequence = sequence.name, "sequence is not on this shard");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn facts_sql(sequence: &TableName) -> String {
    let name = format!("{}.{}", quote_identifier(&sequence.schema), quote_identifier(&sequence.name));
    format!(
        "SELECT s.seqincrement, s.seqmax, q.last_value, q.is_called FROM pg_catalog.pg_sequence s, {name} q \
         WHERE s.seqrelid = {}::pg_catalog.regclass",
        quote_literal(&name)
    )
}

fn read_facts(sequence: &TableName, rows: &Rows) -> Result<Option<Facts>, SequenceError> {
    let Some(row) = rows.first() else { return Ok(None) };
    let unreadable =
        || SequenceError::Unreadable { sequence: sequence.clone(), reason: "the answer is not understood".to_owned() };
    let [Some(increment), Some(maximum), Some(last), Some(is_called)] = row.as_slice() else {
        return Err(unreadable());
    };
    let number = |text: &str| text.parse::<i64>().map_err(|_| unreadable());
    let (increment, maximum, last) = (number(increment)?, number(maximum)?, number(last)?);
    if increment < 1 {
        return Err(SequenceError::Descending(sequence.clone()));
    }
    let floor = if is_called == "t" { last.saturating_add(increment) } else { last };
    Ok(Some(Facts { increment, maximum, floor }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> TableName {
        TableName { schema: "public".into(), name: "it's".into() }
    }

    fn row(increment: &str, last: &str, is_called: &str) -> Rows {
        vec![[increment, "100", last, is_called].map(|text| Some(text.to_owned())).to_vec()]
    }

    #[test]
    fn the_floor_is_the_value_that_postgresql_would_give_next() {
        let fresh = read_facts(&name(), &row("5", "1", "f")).unwrap().unwrap();
        assert_eq!(fresh.floor, 1);
        let used = read_facts(&name(), &row("5", "1", "t")).unwrap().unwrap();
        assert_eq!(used, Facts { increment: 5, maximum: 100, floor: 6 });
    }

    #[test]
    fn a_descending_sequence_is_refused() {
        assert!(matches!(read_facts(&name(), &row("-1", "1", "f")), Err(SequenceError::Descending(_))));
    }

    #[test]
    fn names_are_quoted_as_identifier_and_as_literal() {
        assert!(facts_sql(&name()).contains("\"public\".\"it's\" q"));
        assert!(facts_sql(&name()).contains("'\"public\".\"it''s\"'::pg_catalog.regclass"));
    }

    #[test]
    fn values_step_by_the_increment() {
        let facts = Facts { increment: 5, maximum: 100, floor: 1 };
        let mut block = Block { facts: Some(facts), values: 1..11 };
        assert_eq!((block.take(facts), block.take(facts), block.take(facts)), (Some(1), Some(6), None));
    }
}
