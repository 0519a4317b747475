//! Cluster-wide sequences: durable blocks of numbers, each handed out once.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::topology::TableName;

/// How often a block is tried for when others take blocks at the same time.
const ATTEMPTS_MAX: u32 = 64;
/// Version of the record that this build writes and reads.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SequenceRecord {
    version: u32,
    /// The first number that no block holds.
    next: i64,
}

/// Key of a sequence's record. Names are quoted, so that no two sequences share a key.
pub fn sequence_key(name: &TableName) -> String {
    let quote = |part: &str| part.replace('"', "\"\"");
    format!("sequence/\"{}\".\"{}\"", quote(&name.schema), quote(&name.name))
}

/// Takes `count` numbers that nobody else gets, beginning with the first free one or `floor`, whichever
/// is greater. Numbers of a block that are not used are lost, as PostgreSQL's cached ones are.
///
/// # Errors
/// [`StoreError::SequenceExhausted`] past the last bigint, [`StoreError::Contended`] when others were
/// always faster. When the store fails in the middle a block may be lost, but never given twice.
///
/// # Cancel safety
/// A dropped call may have taken a block, which is then lost.
pub async fn take_sequence_block(
    store: &dyn Store,
    name: &TableName,
    count: u64,
    floor: i64,
) -> Result<Range<i64>, StoreError> {
    let key = sequence_key(name);
    let exhausted = || StoreError::SequenceExhausted { name: format!("{}.{}", name.schema, name.name), count };
    for _ in 0..ATTEMPTS_MAX {
        let entry = store.get(&key).await?;
        let (next, revision) = match &entry {
            Some(entry) => (read_next(&key, &entry.value)?, Some(entry.revision)),
            None => (floor, None),
        };
        let start = next.max(floor);
        let end = i64::try_from(count).ok().and_then(|count| start.checked_add(count)).ok_or_else(exhausted)?;
        if count == 0 {
            return Ok(start..start);
        }
        let record = SequenceRecord { version: VERSION, next: end };
        let value = serde_json::to_vec(&record).map_err(|error| unreadable(&key, &error))?;
        match store.put(&key, value, revision).await {
            Ok(_) => return Ok(start..end),
            Err(StoreError::Conflict { .. }) => tokio::task::yield_now().await,
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::Contended { key, attempts: ATTEMPTS_MAX })
}

fn read_next(key: &str, value: &[u8]) -> Result<i64, StoreError> {
    let record: SequenceRecord = serde_json::from_slice(value).map_err(|error| unreadable(key, &error))?;
    if record.version == VERSION {
        Ok(record.next)
    } else {
        Err(unreadable(key, &format!("it has version {}, this build reads version {VERSION}", record.version)))
    }
}

fn unreadable(key: &str, reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable { key: key.to_owned(), reason: reason.to_string() }
}
