//! A server as far as its log goes: what it has, what it acknowledges, what it promised.

use std::collections::BTreeMap;

use ostrakon::base::{NodeId, Term};
use ostrakon::failover::{Action, Answer, Outcome, Position, Stamp, SyncSet};
use std::time::Duration;

/// Entry of a log: the timeline it was written on, and what.
pub type Entry = (u64, u64);

/// What a server goes by when a commit waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    /// For these standbys, with this tag.
    For(Term, SyncSet),
    /// For ever.
    Fenced,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub id: NodeId,
    pub is_up: bool,
    /// Nothing is there: its data is being thrown away, or its disk was.
    pub is_wiped: bool,
    /// It answers nobody yet.
    pub starting_until: u64,
    pub paused_until: u64,
    /// Counts its lives.
    pub life: u64,
    pub in_recovery: bool,
    pub timeline: u64,
    pub log: Vec<Entry>,
    /// Up to here sessions see it.
    pub visible: usize,
    /// Up to here somebody has read it in this life.
    pub read: usize,
    pub promised: Stamp,
    pub following: Option<(NodeId, Term)>,
    pub heard: Option<u64>,
    pub waits: Waits,
    /// Standbys: their tags, what they have, and when they said so.
    pub attached: BTreeMap<NodeId, (Term, usize, u64)>,
    barrier: Option<(Stamp, u64, usize)>,
}

impl Node {
    pub fn new(id: NodeId, primary: NodeId) -> Self {
        Self {
            id,
            is_up: true,
            is_wiped: false,
            starting_until: 0,
            paused_until: 0,
            life: 1,
            in_recovery: id != primary,
            timeline: 1,
            log: vec![(1, 0)],
            visible: 1,
            read: 0,
            promised: Stamp::default(),
            following: (id != primary).then_some((primary, Term(0))),
            heard: None,
            waits: Waits::For(Term(0), SyncSet::default()),
            attached: BTreeMap::new(),
            barrier: None,
        }
    }

    pub fn position(&self) -> Position {
        Position { timeline: self.log.last().map_or(0, |entry| entry.0), lsn: self.log.len() as u64 }
    }

    pub fn crash(&mut self) {
        self.is_up = false;
        self.life += 1;
        self.attached.clear();
        self.barrier = None;
        self.heard = None;
    }

    /// Everything that is in the log is seen from now on, whether it was acknowledged or not.
    pub fn start(&mut self, now: u64, recovery: u64) {
        self.is_up = true;
        self.starting_until = now + recovery;
        self.visible = self.log.len();
        self.read = 0;
    }

    pub fn is_primary(&self) -> bool {
        self.is_up && !self.in_recovery && !self.is_wiped
    }

    /// What the standbys have confirmed now.
    pub fn confirmed(&self, term: Term, set: &SyncSet) -> usize {
        if set.quorum == 0 {
            return self.log.len();
        }
        let mut lengths: Vec<usize> = self
            .attached
            .iter()
            .filter(|(node, (tag, ..))| set.members.contains(node) && *tag == term)
            .map(|(_, (_, length, _))| *length)
            .collect();
        lengths.sort_unstable_by(|left, right| right.cmp(left));
        lengths.get(set.quorum - 1).copied().unwrap_or(0)
    }

    /// Entries that are acknowledged now.
    pub fn acknowledge(&mut self) -> Option<(Term, Vec<u64>)> {
        if !self.is_primary() {
            return None;
        }
        let Waits::For(term, set) = &self.waits else { return None };
        let confirmed = self.confirmed(*term, set).min(self.log.len());
        if confirmed <= self.visible {
            return None;
        }
        let values = self.log[self.visible..confirmed].iter().map(|entry| entry.1).collect();
        self.visible = confirmed;
        Some((*term, values))
    }

    pub fn answer(&self, now: u64, session: u64) -> Answer {
        let attached = self.attached.iter().filter(|(_, (.., at))| now - at < 300_000);
        Answer {
            promised: self.promised,
            in_recovery: self.in_recovery,
            session,
            position: self.position(),
            goes_by: match &self.waits {
                Waits::For(term, set) if !self.in_recovery => Some((*term, set.clone())),
                _ => None,
            },
            attached: attached.map(|(node, (term, length, _))| (*node, (*term, *length as u64))).collect(),
            following: self.following,
            heard: self.heard.map(|at| Duration::from_micros(now - at)),
        }
    }

    /// Its disk is gone, and with it what it promised.
    pub fn wipe(&mut self) {
        self.crash();
        self.is_wiped = true;
        self.log.clear();
        self.promised = Stamp::default();
        self.following = None;
    }

    /// Everything but making a standby of it.
    pub fn act(&mut self, stamp: Stamp, action: &Action, session: u64) -> Outcome {
        if stamp < self.promised {
            return Outcome::Refused { promised: self.promised };
        }
        self.promised = stamp;
        match action {
            Action::Freeze | Action::Fence => {
                if self.in_recovery {
                    self.following = None;
                    self.heard = None;
                } else {
                    self.waits = Waits::Fenced;
                }
                Outcome::Frozen { position: self.position(), in_recovery: self.in_recovery }
            }
            Action::CatchUp { source, target } => {
                if !self.in_recovery || self.position() >= *target {
                    self.following = None;
                    return Outcome::Done;
                }
                self.following = Some((*source, Term(0)));
                Outcome::Failed
            }
            Action::Promote { set } => {
                if self.in_recovery {
                    self.timeline = stamp.term.0;
                    self.log.push((self.timeline, 0));
                    self.in_recovery = false;
                    self.following = None;
                    self.visible = self.log.len();
                    self.read = 0;
                    self.life += 1;
                }
                self.waits = Waits::For(stamp.term, set.clone());
                Outcome::Done
            }
            Action::Follow { primary } => {
                if !self.in_recovery {
                    return Outcome::Failed;
                }
                self.following = Some((*primary, stamp.term));
                Outcome::Done
            }
            Action::Apply { set } => {
                if self.in_recovery {
                    return Outcome::Failed;
                }
                self.waits = Waits::For(stamp.term, set.clone());
                Outcome::Done
            }
            Action::Barrier { set, session: about } => self.pass(stamp, set, *about, session),
            Action::Rejoin { .. } | Action::Fill { .. } | Action::Copy { .. } => Outcome::Failed,
        }
    }

    fn pass(&mut self, stamp: Stamp, set: &SyncSet, about: u64, session: u64) -> Outcome {
        if self.in_recovery || about != session || self.waits != Waits::For(stamp.term, set.clone()) {
            return Outcome::Failed;
        }
        let length = match self.barrier {
            Some((known, of, length)) if known == stamp && of == session => length,
            _ => self.log.len(),
        };
        self.barrier = Some((stamp, session, length));
        if self.confirmed(stamp.term, set) >= length { Outcome::Passed { session } } else { Outcome::Failed }
    }
}
