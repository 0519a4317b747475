//! Who leads a shard: the machine that replaces primaries without losing what was acknowledged.
//!
//! A machine of the usual shape: events in, effects out, time handed in. Every proxy runs one for each shard on
//! the record that the store keeps; what it remembers beside the record only saves work, so any of them can go on
//! from any phase. The rules by number are those of `docs/operate/failover.md`.
//!
//! Must not know: how nodes are reached, SQL, where the record is kept, the wall clock.

mod choose;
mod evidence;
mod machine;
mod record;
mod upkeep;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::{NodeId, Term};

pub use machine::{Machine, Serving};
pub use record::{Aside, Beginning, Cause, Phase, Position, Record, Stamp, SyncSet};

/// A node as far as leading and acknowledging are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its data centre; empty when not given.
    pub zone: String,
    /// Of several nodes with the same position the one with the greatest leads.
    pub priority: i32,
}

/// Whose acknowledgement counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledgers {
    /// Any standby's.
    #[default]
    Any,
    /// Only standbys' outside of the primary's zone: the loss of the zone loses nothing.
    OtherZones,
    /// Only standbys' in the primary's zone.
    SameZone,
}

/// What a commit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durability {
    /// How many standbys have it on disk; 0: none is waited for, and no failover happens by itself.
    pub quorum: usize,
    /// Whose count.
    pub acknowledgers: Acknowledgers,
    /// When fewer are left than the quorum, those that are left are enough. A second loss then stops the shard
    /// instead of losing anything: what only the primary has waits for the primary.
    pub is_available: bool,
}

impl Durability {
    /// The quorum of a set of so many members.
    pub fn quorum_of(&self, members: usize) -> usize {
        if self.is_available { self.quorum.min(members) } else { self.quorum }
    }
}

/// Limits and policy of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What commits wait for.
    pub durability: Durability,
    /// Questions in a row that the primary leaves without an answer before it is suspected.
    pub misses: u32,
    /// How long a standby hears nothing from the primary before it is a witness against it.
    pub witness_age: Duration,
    /// How long a primary that does not answer is put up with while its standbys still hear from it.
    pub unheard_max: Duration,
    /// How long a server that is starting is waited for.
    pub starting_max: Duration,
    /// Pause between two failovers without hard evidence.
    pub cool_down: Duration,
    /// How long a member may be away before commits do without it.
    pub away_max: Duration,
    /// How long a standby may fail to follow before it is made anew.
    pub follow_max: Duration,
    /// How long a candidate may fail to answer before another is chosen.
    pub candidate_max: Duration,
    /// How long commits in flight have to finish before a planned change begins.
    pub settle: Duration,
    /// How long a planned change waits for the node that is wanted.
    pub wanted_max: Duration,
    /// How long a change that may lose writes waits for more nodes to answer.
    pub loss_wait: Duration,
    /// How old the last sign may be that the term is still the last one (rule 7).
    pub confirmed_max: Duration,
    /// All on, but in the negative controls of the simulator.
    pub rules: Rules,
}

/// Safety rules that the simulator's negative controls switch off; nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Rule 2: enough of the old quorum is frozen before a promotion.
    pub freeze_quorum: bool,
    /// Rule 4: a set is replaced by way of both.
    pub replace_by_both: bool,
    /// Rule 6: a primary that was connected to anew serves behind a barrier.
    pub barrier: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            durability: Durability { quorum: 1, acknowledgers: Acknowledgers::Any, is_available: false },
            misses: 3,
            witness_age: ms(1_000),
            unheard_max: ms(10_000),
            starting_max: ms(1_000),
            cool_down: ms(10_000),
            away_max: ms(3_000),
            follow_max: ms(5_000),
            candidate_max: ms(3_000),
            settle: ms(50),
            wanted_max: ms(3_000),
            loss_wait: ms(2_000),
            confirmed_max: ms(5_000),
            rules: Rules { freeze_quorum: true, replace_by_both: true, barrier: true },
        }
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it promised.
    pub promised: Stamp,
    /// It is a standby.
    pub in_recovery: bool,
    /// Connections with the same number were not interrupted in between: what it said before still holds.
    pub session: u64,
    /// How much of the log it has on disk.
    pub position: Position,
    /// A primary: whose acknowledgements it goes by, and of which term; `None`: of nobody's that is known here.
    pub goes_by: Option<(Term, SyncSet)>,
    /// A primary: the standbys that stream, the term they say they are of, and how far they are.
    pub attached: BTreeMap<NodeId, (Term, u64)>,
    /// A standby: whom it is told to follow, and of which term.
    pub following: Option<(NodeId, Term)>,
    /// A standby: how long ago it heard from whom it follows; `None`: it is not connected.
    pub heard: Option<Duration>,
}

/// Why a node gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens on its port.
    Refused,
    /// The connection ended.
    Lost,
    /// It is starting or stopping.
    Starting,
    /// Nothing came in time.
    Timeout,
    /// Nobody listens, and whoever looks after it says that nothing is there: its disk was wiped, or it is new.
    Empty,
}

/// What is to be done to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A standby stops receiving, durably; tells where its log ends.
    Freeze,
    /// A primary stops acknowledging, durably; tells where its log ends.
    Fence,
    /// A frozen standby receives from another node until it has the position, and stops again.
    CatchUp {
        /// From whom.
        source: NodeId,
        /// How far.
        target: Position,
    },
    /// Becomes primary, or stays so, and goes by the set.
    Promote {
        /// Whose acknowledgements count.
        set: SyncSet,
    },
    /// A standby receives from the primary.
    Follow {
        /// The primary.
        primary: NodeId,
    },
    /// The primary goes by the set.
    Apply {
        /// Whose acknowledgements count.
        set: SyncSet,
    },
    /// Everything that the primary has now is on disk at a quorum, and it goes by the set.
    Barrier {
        /// Whose acknowledgements count.
        set: SyncSet,
        /// The answers that it is about.
        session: u64,
    },
    /// A node whose log went another way, or that is not there any more, becomes a standby of the primary.
    Rejoin {
        /// The primary.
        primary: NodeId,
    },
    /// The same, for one that has nothing; one that has something is left as it is.
    Fill {
        /// The primary.
        primary: NodeId,
    },
    /// The same, whatever it has: somebody wants it made anew.
    Copy {
        /// The primary.
        primary: NodeId,
    },
}

/// Names an [`Action`] without its particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ActionKind {
    /// [`Action::Freeze`]
    Freeze,
    /// [`Action::Fence`]
    Fence,
    /// [`Action::CatchUp`]
    CatchUp,
    /// [`Action::Promote`]
    Promote,
    /// [`Action::Follow`]
    Follow,
    /// [`Action::Apply`]
    Apply,
    /// [`Action::Barrier`]
    Barrier,
    /// [`Action::Rejoin`]
    Rejoin,
    /// [`Action::Fill`]
    Fill,
    /// [`Action::Copy`]
    Copy,
}

impl ActionKind {
    /// A standby is made: it may take hours, and what the node said before is of another life.
    pub fn makes_standby(self) -> bool {
        matches!(self, Self::Rejoin | Self::Fill | Self::Copy)
    }
}

impl Action {
    /// Its name.
    pub fn kind(&self) -> ActionKind {
        match self {
            Self::Freeze => ActionKind::Freeze,
            Self::Fence => ActionKind::Fence,
            Self::CatchUp { .. } => ActionKind::CatchUp,
            Self::Promote { .. } => ActionKind::Promote,
            Self::Follow { .. } => ActionKind::Follow,
            Self::Apply { .. } => ActionKind::Apply,
            Self::Barrier { .. } => ActionKind::Barrier,
            Self::Rejoin { .. } => ActionKind::Rejoin,
            Self::Fill { .. } => ActionKind::Fill,
            Self::Copy { .. } => ActionKind::Copy,
        }
    }
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It was a standby and is primary.
    Promoted {
        /// Ids of transactions below were known to it as a standby.
        known: u64,
        /// The first id that it had not given to anybody.
        fresh: u64,
    },
    /// It is frozen or fenced.
    Frozen {
        /// Where its log ends.
        position: Position,
        /// It is a standby.
        in_recovery: bool,
    },
    /// The barrier was passed.
    Passed {
        /// The answers that it is about.
        session: u64,
    },
    /// It has promised more than the action's stamp; nothing was done.
    Refused {
        /// What it promised.
        promised: Stamp,
    },
    /// It cannot be done now, or it is not known whether it was.
    Failed,
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The record was read.
    Read {
        /// When it was asked for, as [`Effect::Read`] has it.
        asked: Duration,
        /// The record.
        record: Record,
        /// Its revision.
        revision: u64,
    },
    /// Somebody wrote the record.
    Record {
        /// The record.
        record: Record,
        /// Its revision.
        revision: u64,
    },
    /// The record was written by [`Effect::Write`].
    Written {
        /// The record.
        record: Record,
        /// Its revision.
        revision: u64,
    },
    /// The record was not written, or it is not known whether it was.
    NotWritten,
    /// This machine is the one that acts, or is not any more. It avoids duels; nothing depends on it (rule 1).
    Lease(bool),
    /// A node answered.
    Answered {
        /// The node.
        node: NodeId,
        /// When it was asked.
        asked: Duration,
        /// What it said.
        answer: Answer,
    },
    /// A node did not answer.
    Failed {
        /// The node.
        node: NodeId,
        /// Why.
        failure: Failure,
    },
    /// An action ended.
    Ended {
        /// The node.
        node: NodeId,
        /// What was done.
        kind: ActionKind,
        /// With which stamp.
        stamp: Stamp,
        /// How it ended.
        outcome: Outcome,
    },
    /// Somebody asks for another primary.
    Command(Cause),
    /// Somebody wants a node to count no more; `None`: to be as any other.
    SetAside {
        /// The node.
        node: NodeId,
        /// Why.
        aside: Option<Aside>,
    },
    /// Nodes have come or gone.
    Members(Vec<Member>),
    /// Time went by.
    Tick,
}

/// What the machine wants done. Everything may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The record is to be read.
    Read {
        /// Now.
        asked: Duration,
    },
    /// The record is to be written if its revision is still this one.
    Write {
        /// The record.
        record: Box<Record>,
        /// The revision.
        expected: u64,
    },
    /// Something is to be done to a node, unless it has promised more.
    Act {
        /// The node.
        node: NodeId,
        /// What goes with it.
        stamp: Stamp,
        /// What.
        action: Action,
    },
}
