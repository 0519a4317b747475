//! Moves buckets from shard to shard while the cluster serves: the machine of one job.
//!
//! Rows move in small steps. A step takes some buckets, copies their rows to the target in a transaction that nobody sees,
//! stops what would run beside it for a moment, makes the copy the same as what is there then, deletes that, commits both,
//! and makes the new owner known before anything runs again. So at every moment each row is on exactly one shard, and
//! nothing but a step has ever to be undone. `docs/decisions` says why.
//!
//! A machine of the usual shape: events in, effects out, time handed in. It remembers nothing that a new one could not
//! find in the record and the topology, so another process goes on after any crash.
//!
//! Must not know: SQL, how shards are reached, where the record is kept, the wall clock.

mod gate;
mod machine;
mod pace;
mod record;
mod waits;

use std::time::Duration;

use crate::base::{BucketId, Epoch, ShardId};
use crate::topology::BucketMap;

pub use gate::{Buckets, Gate, Level, Touch};
pub use machine::Machine;
pub use pace::{Pace, Pauses};
pub use record::{Phase, Record, Step};
pub use waits::Waits;

/// Limits of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long writes to a step's buckets should wait for it; the number of rows is chosen for it.
    pub hold_aim: Duration,
    /// A step that is not ready to commit by then is undone and tried again with fewer rows.
    pub hold_max: Duration,
    /// How long the rows of a step may be copied ahead, while nothing waits but DDL.
    pub ahead_max: Duration,
    /// How much of `hold_max` may go by until writes to the buckets that are under way have ended, and how long what
    /// reads them may take to end before the owner changes.
    pub quiet_max: Duration,
    /// Between two steps nothing waits for this many times as long as reads had to.
    pub rest_times: u32,
    /// Rows of the first step.
    pub rows_first: u64,
    /// Most rows of a step.
    pub rows_max: u64,
    /// Most buckets of a step.
    pub buckets_max: usize,
    /// Pause before what failed is tried again; doubles.
    pub retry_min: Duration,
    /// It doubles up to this.
    pub retry_max: Duration,
    /// All on, but in the negative controls of the simulator.
    pub rules: Rules,
}

/// Rules that the simulator's negative controls switch off; nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Nothing writes to buckets while a step moves their rows.
    pub hold_writes: bool,
    /// What was copied ahead is compared with what is there when nothing writes any more.
    pub compare: bool,
    /// Nothing reads buckets while their owner changes.
    pub hold_reads: bool,
    /// Both halves are prepared before the new owner is decided.
    pub prepare_first: bool,
    /// What a crash left is settled before anything is served.
    pub settle_first: bool,
    /// An ended job takes away what it made.
    pub clean: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            hold_aim: ms(150),
            hold_max: ms(300),
            ahead_max: ms(2_000),
            quiet_max: ms(100),
            rest_times: 1,
            rows_first: 500,
            rows_max: 100_000,
            buckets_max: 512,
            retry_min: ms(200),
            retry_max: ms(10_000),
            rules: Rules {
                hold_writes: true,
                compare: true,
                hold_reads: true,
                prepare_first: true,
                settle_first: true,
                clean: true,
            },
        }
    }
}

/// How a job is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// It does not wait for `finish` when all has moved.
    pub ends_itself: bool,
    /// Writes to its buckets may wait longer for a step than usual, so that big buckets can be moved.
    pub hold_max: Option<Duration>,
}

/// What an operator wants of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Buckets are to belong to these shards.
    Start {
        /// Number of the job.
        id: u64,
        /// Owners at the end.
        wanted: BucketMap,
        /// How it is done.
        manner: Manner,
    },
    /// No further step for now.
    Pause,
    /// Steps again.
    Resume,
    /// Buckets go back to where they were when the job began.
    Reverse,
    /// The job ends where all has moved.
    Finish,
    /// The job ends where it is: buckets that moved stay with their new owners.
    Cancel,
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The record and the topology were read; the answer to [`Effect::Read`].
    Read {
        /// Which question it answers.
        ask: u64,
        /// The record; `None`: there is no job.
        record: Option<Record>,
        /// Its revision.
        revision: Option<u64>,
        /// Owners now.
        owners: BucketMap,
        /// Their epoch.
        epoch: Epoch,
    },
    /// The record was written, or deleted (`None`).
    Written {
        /// Which.
        ask: u64,
        /// Its revision.
        revision: Option<u64>,
    },
    /// The record was not written, or it is not known whether it was.
    NotWritten {
        /// Which.
        ask: u64,
    },
    /// The shards are ready: indexes exist, rows are counted.
    Ready {
        /// Which question it answers.
        ask: u64,
        /// Rows by bucket, over all tables and shards.
        rows: Vec<u64>,
    },
    /// They are not.
    NotReady {
        /// Which question it answers.
        ask: u64,
        /// Why.
        reason: String,
    },
    /// The rows are on the target, as they were at some moment, in a transaction that is open.
    Copied {
        /// The step.
        number: u64,
    },
    /// They are not.
    NotCopied {
        /// The step.
        number: u64,
        /// Why.
        reason: String,
        /// Trying again would not help.
        is_final: bool,
        /// It took too long: fewer rows would help.
        is_slow: bool,
    },
    /// What had to end has ended, and nothing of its kind begins.
    Closed {
        /// The step that it is for.
        number: u64,
        /// Which.
        level: Level,
    },
    /// Something ran for too long.
    NotClosed {
        /// The step that it was for.
        number: u64,
        /// Which.
        level: Level,
    },
    /// The rows are in a prepared transaction on both shards, compared.
    Moved {
        /// The step.
        number: u64,
        /// How many.
        rows: u64,
    },
    /// They are not, or only on one of them.
    NotMoved {
        /// The step.
        number: u64,
        /// Why.
        reason: String,
        /// Trying again would not help.
        is_final: bool,
    },
    /// The new owner is in the topology.
    Decided {
        /// The step.
        number: u64,
        /// The epoch that says so.
        epoch: Epoch,
    },
    /// It is not, and will not be.
    NotDecided {
        /// The step.
        number: u64,
    },
    /// The step is committed (or rolled back) on both shards.
    Settled {
        /// The step.
        number: u64,
    },
    /// Not on both.
    NotSettled {
        /// The step.
        number: u64,
    },
    /// What the job had made is gone.
    Cleaned {
        /// Which wish it answers.
        ask: u64,
    },
    /// Not all of it.
    NotCleaned {
        /// Which wish it answers.
        ask: u64,
        /// Why.
        reason: String,
    },
    /// An operator says something.
    Command(Command),
    /// Time went by.
    Tick,
}

/// What the machine wants done. Everything may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The record and the topology are to be read.
    Read {
        /// Goes with the answer, so that one which comes late, or twice, is not taken for another.
        ask: u64,
    },
    /// The record is to be written (`None`: deleted) if its revision is still this one.
    Write {
        /// Goes with the answer.
        ask: u64,
        /// The record.
        record: Option<Record>,
        /// The revision.
        expected: Option<u64>,
    },
    /// Indexes by bucket are to be made, and rows counted.
    Prepare {
        /// Goes with the answer.
        ask: u64,
    },
    /// What touches the step's buckets waits from now on; whatever runs has so long to end.
    CloseGate {
        /// The step that it is for.
        step: Step,
        /// Writes, or reads as well.
        level: Level,
        /// How long.
        wait: Duration,
    },
    /// Things may run again.
    OpenGate,
    /// Rows are to be copied to the target, beside everything that runs.
    Copy {
        /// Of which.
        step: Step,
        /// How long it may take.
        limit: Duration,
    },
    /// Rows are deleted in the source and compared with what was copied; buckets that have changed since are copied again;
    /// both transactions are prepared.
    Move {
        /// Which.
        step: Step,
        /// How long it may take.
        limit: Duration,
    },
    /// The topology is to name the new owner; what comes back is certain.
    Decide {
        /// Of what.
        step: Step,
    },
    /// Both prepared transactions are to be committed.
    Commit {
        /// Which.
        step: Step,
    },
    /// Whatever the step left on the shards is to be rolled back.
    RollBack {
        /// Which.
        step: Step,
    },
    /// What the job made is to be taken away.
    Clean {
        /// Goes with the answer.
        ask: u64,
    },
}

/// The step's buckets all belong to its target.
fn is_done(step: &Step, owners: &BucketMap) -> bool {
    step.buckets.iter().all(|bucket| owners.owner(*bucket) == step.to)
}

/// Buckets whose owner is not the wanted one, in order.
fn remaining(owners: &BucketMap, wanted: &BucketMap) -> impl Iterator<Item = (BucketId, ShardId, ShardId)> {
    let pairs = owners.owners().iter().zip(wanted.owners()).enumerate();
    pairs.filter(|(_, (now, then))| now != then).map(|(at, (now, then))| (BucketId(at as u16), *now, *then))
}
