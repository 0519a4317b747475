//! What is known of a job by all who might go on with it.

use super::Manner;
use crate::base::{BucketId, Epoch, ShardId};
use crate::topology::BucketMap;

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Indexes by bucket are made on the shards. Written before the first is.
    Preparing,
    /// Buckets move.
    Moving,
    /// All have moved; the job waits for `finish` or `reverse`.
    Moved,
    /// What the job made is taken away; then its record is deleted.
    Cleaning,
}

impl Phase {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Moving => "moving",
            Self::Moved => "moved",
            Self::Cleaning => "cleaning",
        }
    }
}

/// Some buckets that change their owner together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Number within the job; names its transactions.
    pub number: u64,
    /// The owner before.
    pub from: ShardId,
    /// The owner after.
    pub to: ShardId,
    /// The buckets, ascending.
    pub buckets: Vec<BucketId>,
    /// The epoch that it was made under; under another it is made anew.
    pub epoch: Epoch,
}

/// A job.
///
/// # Invariants
/// `step` is written before anything of it is done to a shard, so whoever finds the record knows the only
/// transactions that may be left over. Whether the step counts is said by the topology alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Number of the job.
    pub id: u64,
    /// How far it is.
    pub phase: Phase,
    /// No step begins.
    pub is_paused: bool,
    /// It goes back.
    pub is_reversed: bool,
    /// Owners when it began; once it goes back, those that it was to have.
    pub before: BucketMap,
    /// Owners at the end.
    pub wanted: BucketMap,
    /// The last step that was begun.
    pub step: Option<Step>,
    /// Steps that were begun; each has a number of its own.
    pub begun: u64,
    /// Steps that counted.
    pub steps: u64,
    /// Rows that they moved.
    pub rows: u64,
    /// How it is done.
    pub manner: Manner,
}

impl Record {
    /// A job that begins.
    pub fn new(id: u64, before: BucketMap, wanted: BucketMap) -> Self {
        Self {
            id,
            phase: Phase::Preparing,
            is_paused: false,
            is_reversed: false,
            before,
            wanted,
            step: None,
            begun: 0,
            steps: 0,
            rows: 0,
            manner: Manner::default(),
        }
    }
}
