//! What the store keeps of a shard's leadership, and the arithmetic of quorums.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{NodeId, Term};

/// Orders everything that is done to a node: it refuses what is older than what it promised (rule 5).
///
/// # Invariants
/// A node's own stamp only grows, also over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// The shard's term.
    pub term: Term,
    /// Version of the synchronous set within the term.
    pub config: u64,
}

/// How much of the log a node has.
///
/// Ordered: of two nodes that are frozen under one term the greater has everything that was acknowledged
/// and is on the lesser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Timeline of the last record. It grows with every promotion.
    pub timeline: u64,
    /// Where the log ends, in bytes.
    pub lsn: u64,
}

/// A commit is acknowledged when `quorum` of the members have it on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncSet {
    /// The nodes that count; never the primary.
    pub members: BTreeSet<NodeId>,
    /// How many of them are needed; 0: none is waited for.
    pub quorum: usize,
}

impl SyncSet {
    /// How many members have to be frozen before a promotion (rule 2): then fewer than a quorum are left to
    /// acknowledge anything, and every quorum there ever was has a member among the frozen ones.
    ///
    /// More than there are when the quorum is 0: nothing is proved then, ever.
    pub fn frozen_needed(&self) -> usize {
        (self.members.len() + 1).saturating_sub(self.quorum)
    }

    /// Whether those that are frozen prove it.
    pub fn is_held_by(&self, is_frozen: impl Fn(NodeId) -> bool) -> bool {
        let frozen = self.members.iter().filter(|member| is_frozen(**member)).count();
        frozen >= self.frozen_needed()
    }

    /// There are enough members for a quorum.
    pub fn can_acknowledge(&self) -> bool {
        self.members.len() >= self.quorum
    }
}

/// Why a shard gets a new term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The primary is lost.
    Lost,
    /// Somebody asked for it; the primary may be well.
    Planned {
        /// The node that is to be primary; `None`: the best one.
        to: Option<NodeId>,
    },
    /// Somebody asked for it, at the price of acknowledged writes (the only way around rule 2).
    LossAllowed {
        /// The node that is to be primary; `None`: the best one that answers.
        to: Option<NodeId>,
    },
}

impl Cause {
    /// The node that is asked for.
    pub fn wanted(self) -> Option<NodeId> {
        match self {
            Self::Lost => None,
            Self::Planned { to } | Self::LossAllowed { to } => to,
        }
    }
}

/// Why a node is not to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    /// It leaves the shard. Kept for good: no other node gets its number.
    Leaving,
    /// It is to be made anew, whatever it has.
    Renewed,
}

/// Where a change of leadership is. Whoever reads it can go on from there: every step may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The primary serves.
    Open,
    /// No node may acknowledge anything under an older term; recorded before any node is touched (rule 1).
    Freezing {
        /// Why.
        cause: Cause,
    },
    /// The choice is made and stays, unless another term begins.
    Promoting {
        /// Why.
        cause: Cause,
        /// The next primary.
        candidate: NodeId,
        /// Who has the most; the candidate itself, or whom it catches up from (rule 3).
        source: NodeId,
        /// What the candidate has to have before it is promoted.
        target: Position,
        /// The set that it begins with.
        opening: SyncSet,
    },
}

/// How many beginnings are remembered: a commit whose outcome is asked for is seconds old.
const BEGINNINGS_MAX: usize = 8;

/// The transaction ids at the beginning of a term: what tells what became of a commit that the term before was asked for.
///
/// A new primary gives ids of transactions that it never saw to others, so its own word on an id is not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// The term.
    pub term: Term,
    /// Ids below are of transactions of the term before.
    pub known: u64,
    /// Ids from here on were of no transaction that has come over.
    pub fresh: u64,
}

/// The record of one shard's leadership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Only grows (rule 1).
    pub term: Term,
    /// Version of the synchronous set within the term; only grows.
    pub config: u64,
    /// Where it is.
    pub phase: Phase,
    /// The primary of the last term that was open.
    pub primary: NodeId,
    /// Timeline of that term, when it was read.
    pub timeline: u64,
    /// The set that was in force when the last term was open.
    pub current: SyncSet,
    /// The set that replaces it: from when it is recorded until the primary is known to go by it, commits may be
    /// acknowledged by either, and a promotion has to prove both (rule 4).
    pub next: Option<SyncSet>,
    /// A node that was to join by `next` is gone again: the primary is to go by `current` as before. Until it is known to,
    /// both still have to be proved.
    pub is_withdrawn: bool,
    /// A node that was proved to have everything, and where it ended then; while no later term was open it proves
    /// that again by itself.
    pub holder: Option<(NodeId, Position)>,
    /// Members whose logs may have been thrown away since the last term that was open: they prove nothing.
    pub void: BTreeSet<NodeId>,
    /// How the last terms began, in order.
    pub beginnings: Vec<Beginning>,
    /// Nodes that are to count no more.
    pub aside: BTreeMap<NodeId, Aside>,
}

impl Record {
    /// A shard that was never led by anybody else.
    pub fn first(term: Term, primary: NodeId, members: BTreeSet<NodeId>, quorum: usize) -> Self {
        // As replaced from nothing: the primary has not been told yet, so nothing is proved yet.
        Self {
            term,
            config: 1,
            phase: Phase::Open,
            primary,
            timeline: 0,
            current: SyncSet::default(),
            next: Some(SyncSet { members, quorum }),
            is_withdrawn: false,
            holder: None,
            void: BTreeSet::new(),
            beginnings: Vec::new(),
            aside: BTreeMap::new(),
        }
    }

    /// How the term that is opened now began; `None`: it is not known, so nothing is told of any id.
    pub fn with_beginning(mut self, xids: Option<(u64, u64)>) -> Self {
        let (known, fresh) = xids.unwrap_or((0, u64::MAX));
        self.beginnings.push(Beginning { term: self.term, known, fresh });
        let surplus = self.beginnings.len().saturating_sub(BEGINNINGS_MAX);
        self.beginnings.drain(..surplus);
        self
    }

    /// How the first term behind this one began; `None`: there was none, or it is too long ago.
    pub fn beginning_after(&self, term: Term) -> Option<Beginning> {
        let oldest =
            self.beginnings.first().filter(|oldest| oldest.term <= term || self.beginnings.len() < BEGINNINGS_MAX);
        oldest.and_then(|_| self.beginnings.iter().find(|beginning| beginning.term > term).copied())
    }

    /// What goes with everything that is done under this record.
    pub fn stamp(&self) -> Stamp {
        Stamp { term: self.term, config: self.config }
    }

    /// The least stamp of the term: who promised it takes nothing from an older one.
    pub fn stamp_of_term(&self) -> Stamp {
        Stamp { term: self.term, config: 0 }
    }

    /// The set that the primary is to go by.
    pub fn wanted_set(&self) -> &SyncSet {
        match &self.phase {
            Phase::Promoting { opening, .. } => opening,
            Phase::Open if self.is_withdrawn => &self.current,
            Phase::Open | Phase::Freezing { .. } => self.next.as_ref().unwrap_or(&self.current),
        }
    }

    /// The node that has everything under this term, or is about to be promoted in it; nobody else is anyone's source.
    pub fn is_led_by(&self, node: NodeId) -> bool {
        match self.phase {
            Phase::Open => self.primary == node,
            Phase::Promoting { candidate, .. } => candidate == node,
            Phase::Freezing { .. } => false,
        }
    }

    /// Nodes whose acknowledgements may have counted since the last term that was open.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        let next = self.next.iter().flat_map(|set| &set.members);
        self.current.members.iter().chain(next).copied().collect()
    }

    /// Whether those that are frozen prove that every acknowledged commit is among them and none will follow.
    pub fn is_held_by(&self, is_frozen: impl Fn(NodeId) -> bool) -> bool {
        let is_frozen = |node: NodeId| is_frozen(node) && !self.void.contains(&node);
        self.current.is_held_by(is_frozen) && self.next.as_ref().is_none_or(|next| next.is_held_by(is_frozen))
    }

    /// The record of the next term, before anything is done about it.
    pub fn next_term(&self, cause: Cause) -> Self {
        Self { term: Term(self.term.0 + 1), config: 0, phase: Phase::Freezing { cause }, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(members: &[u32], quorum: usize) -> SyncSet {
        SyncSet { members: members.iter().copied().map(NodeId).collect(), quorum }
    }

    #[test]
    fn frozen_members_meet_every_quorum_and_leave_none() {
        for size in 1..=5u32 {
            let members: Vec<u32> = (1..=size).collect();
            for quorum in 1..=size as usize {
                let needed = set(&members, quorum).frozen_needed();
                assert!(size as usize - needed < quorum, "{size} members, quorum {quorum}: one is left");
                assert!(needed + quorum > size as usize, "{size} members, quorum {quorum}: one may be missed");
                assert_eq!(needed + quorum, size as usize + 1, "and no more than that are needed");
            }
        }
    }

    #[test]
    fn without_a_quorum_nothing_is_proved() {
        assert!(!set(&[1, 2], 0).is_held_by(|_| true));
        assert!(!set(&[], 0).is_held_by(|_| true));
    }

    #[test]
    fn a_log_that_was_thrown_away_proves_nothing() {
        let mut record = Record::first(Term(1), NodeId(1), BTreeSet::new(), 0);
        record.current = set(&[2, 3], 1);
        record.next = None;
        assert!(record.is_held_by(|_| true));
        record.void.insert(NodeId(3));
        assert!(!record.is_held_by(|_| true));
    }

    #[test]
    fn the_first_beginning_behind_a_term_counts() {
        let mut record = Record::first(Term(1), NodeId(1), BTreeSet::new(), 0);
        assert_eq!(record.beginning_after(Term(1)), None);
        for term in [3, 4, 7] {
            record.term = Term(term);
            record = record.with_beginning((term != 4).then_some((term * 100, term * 100 + 2)));
        }
        assert_eq!(record.beginning_after(Term(1)), Some(Beginning { term: Term(3), known: 300, fresh: 302 }));
        assert_eq!(record.beginning_after(Term(3)), Some(Beginning { term: Term(4), known: 0, fresh: u64::MAX }));
        assert_eq!(record.beginning_after(Term(7)), None);
        for term in 8..20 {
            record.term = Term(term);
            record = record.with_beginning(None);
        }
        assert_eq!(record.beginnings.len(), BEGINNINGS_MAX);
        assert_eq!(record.beginning_after(Term(4)), None, "which one followed it is forgotten");
    }

    #[test]
    fn while_a_set_is_replaced_both_are_to_be_proved() {
        let mut record = Record::first(Term(1), NodeId(1), BTreeSet::new(), 0);
        record.current = set(&[2, 3], 1);
        record.next = Some(set(&[2], 1));
        assert!(!record.is_held_by(|node| node == NodeId(2)));
        assert!(record.is_held_by(|_| true));
        record.current = set(&[2], 1);
        record.next = None;
        assert!(record.is_held_by(|node| node == NodeId(2)));
    }
}
