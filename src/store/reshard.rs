//! The record of a resharding job, as it is written.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::records::{expand, run_lengths};
use crate::base::{BucketId, Epoch, ShardId};
use crate::reshard::{Manner, Phase, Record, Step};

/// Version of the record that this build writes and reads.
const VERSION: u32 = 1;

/// Where the record is kept; without a job there is none.
pub const RESHARD_KEY: &str = "reshard";

/// A record as bytes.
///
/// # Errors
/// Never in practice: it has no map keys that JSON could not hold.
pub fn encode_reshard(record: &Record) -> Result<Vec<u8>, StoreError> {
    let kept = JobRecord {
        version: VERSION,
        id: record.id,
        phase: match record.phase {
            Phase::Preparing => PhaseRecord::Preparing,
            Phase::Moving => PhaseRecord::Moving,
            Phase::Moved => PhaseRecord::Moved,
            Phase::Cleaning => PhaseRecord::Cleaning,
        },
        paused: record.is_paused,
        reversed: record.is_reversed,
        before: run_lengths(&record.before),
        wanted: run_lengths(&record.wanted),
        step: record.step.as_ref().map(|step| StepRecord {
            number: step.number,
            from: step.from.0,
            to: step.to.0,
            buckets: step.buckets.iter().map(|bucket| bucket.0).collect(),
            epoch: step.epoch.0,
        }),
        begun: record.begun,
        steps: record.steps,
        rows: record.rows,
        ends_itself: record.manner.ends_itself,
        hold_max_ms: record.manner.hold_max.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
    };
    serde_json::to_vec(&kept).map_err(|error| unreadable(&error))
}

/// A record from bytes.
///
/// # Errors
/// The bytes are no record of a version that this build knows.
pub fn decode_reshard(bytes: &[u8]) -> Result<Record, StoreError> {
    let kept: JobRecord = serde_json::from_slice(bytes).map_err(|error| unreadable(&error))?;
    if kept.version != VERSION {
        let version = kept.version;
        return Err(unreadable(&format!("it has version {version}, this build reads version {VERSION}")));
    }
    Ok(Record {
        id: kept.id,
        phase: match kept.phase {
            PhaseRecord::Preparing => Phase::Preparing,
            PhaseRecord::Moving => Phase::Moving,
            PhaseRecord::Moved => Phase::Moved,
            PhaseRecord::Cleaning => Phase::Cleaning,
        },
        is_paused: kept.paused,
        is_reversed: kept.reversed,
        before: expand(&kept.before)?,
        wanted: expand(&kept.wanted)?,
        step: kept.step.map(|step| Step {
            number: step.number,
            from: ShardId(step.from),
            to: ShardId(step.to),
            buckets: step.buckets.into_iter().map(BucketId).collect(),
            epoch: Epoch(step.epoch),
        }),
        begun: kept.begun,
        steps: kept.steps,
        rows: kept.rows,
        manner: Manner { ends_itself: kept.ends_itself, hold_max: kept.hold_max_ms.map(Duration::from_millis) },
    })
}

fn unreadable(reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable { key: RESHARD_KEY.to_owned(), reason: reason.to_string() }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JobRecord {
    version: u32,
    id: u64,
    phase: PhaseRecord,
    paused: bool,
    reversed: bool,
    /// Run lengths, as in the topology.
    before: Vec<(u32, u32)>,
    wanted: Vec<(u32, u32)>,
    step: Option<StepRecord>,
    begun: u64,
    steps: u64,
    rows: u64,
    #[serde(default)]
    ends_itself: bool,
    #[serde(default)]
    hold_max_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PhaseRecord {
    Preparing,
    Moving,
    Moved,
    Cleaning,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepRecord {
    number: u64,
    from: u32,
    to: u32,
    buckets: Vec<u16>,
    epoch: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::BucketMap;

    #[test]
    fn every_phase_is_read_as_it_was_written() {
        let before = BucketMap::all_to(ShardId(1));
        let mut owners = before.owners().to_vec();
        owners.iter_mut().skip(7).step_by(3).for_each(|owner| *owner = ShardId(2));
        let wanted = BucketMap::from_owners(owners).unwrap();
        let step = Step {
            number: 9,
            from: ShardId(1),
            to: ShardId(2),
            buckets: vec![BucketId(7), BucketId(16_383)],
            epoch: Epoch(4),
        };
        for phase in [Phase::Preparing, Phase::Moving, Phase::Moved, Phase::Cleaning] {
            let first = Record::new(3, before.clone(), wanted.clone());
            let manner = Manner { ends_itself: true, hold_max: Some(Duration::from_secs(5)) };
            let record =
                Record { phase, step: Some(step.clone()), begun: 9, rows: 5, is_paused: true, manner, ..first };
            assert_eq!(decode_reshard(&encode_reshard(&record).unwrap()), Ok(record));
        }
    }

    #[test]
    fn a_record_of_another_version_is_refused() {
        assert!(decode_reshard(b"{\"version\":2}").is_err());
    }
}
