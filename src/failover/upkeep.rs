//! What a shard needs beside its primary: standbys that follow, a set of those that can be relied on, and no
//! second primary.

use std::collections::{BTreeMap, BTreeSet};

use super::machine::Machine;
use super::{Action, Answer, Aside, Effect, Phase, Record, SyncSet};
use crate::base::NodeId;

impl Machine {
    /// The set that the primary should go by instead of the one that it does; `None`: it is right.
    pub(super) fn better_set(&self, record: &Record, answer: &Answer) -> Option<SyncSet> {
        let durability = self.settings.durability;
        if durability.quorum == 0 {
            let none = SyncSet::default();
            return (record.current != none).then_some(none);
        }
        let mut present = self.present(record, record.primary, answer);
        present.retain(|node| !record.aside.contains_key(node));
        let stays = |node: &NodeId| {
            self.may_acknowledge(record.primary, *node)
                && !record.aside.contains_key(node)
                && (present.contains(node) || !self.is_away(*node, &answer.attached))
        };
        let mut members: BTreeSet<NodeId> = record.current.members.iter().copied().filter(stays).collect();
        members.extend(&present);
        let quorum = durability.quorum_of(members.len());
        if members.len() < quorum {
            // Commits wait until somebody comes: who is away cannot be done without.
            members.extend(record.current.members.iter().filter(|node| self.members.contains_key(node)));
        }
        let set = SyncSet { quorum: durability.quorum_of(members.len()), members };
        let is_possible = set.can_acknowledge() || set.members.len() > record.current.members.len();
        (set != record.current && is_possible).then_some(set)
    }

    /// While nothing is acknowledged yet, the set that a term begins with changes freely.
    pub(super) fn better_opening(
        &self,
        record: &Record,
        candidate: NodeId,
        opening: &SyncSet,
        answer: &Answer,
    ) -> Option<SyncSet> {
        let durability = self.settings.durability;
        if durability.quorum == 0 {
            return None;
        }
        let present = self.present(record, candidate, answer);
        let stays = |node: &NodeId| present.contains(node) || !self.is_away(*node, &answer.attached);
        let mut members: BTreeSet<NodeId> = opening.members.iter().copied().filter(stays).collect();
        if members.len() < durability.quorum {
            members.extend(&present);
        }
        let set = SyncSet { quorum: opening.quorum.max(durability.quorum_of(members.len())), members };
        let set =
            if durability.is_available { SyncSet { quorum: set.quorum.min(set.members.len()), ..set } } else { set };
        (set != *opening && (set.can_acknowledge() || set.members.len() > opening.members.len())).then_some(set)
    }

    /// A former member whose log went another way, while there are not enough that follow: it may be made anew once it
    /// is on record that it proves nothing any more. Who has everything is another one.
    pub(super) fn dispensable(&self, record: &Record, candidate: NodeId, opening: &SyncSet) -> Option<NodeId> {
        let (holder, _) = record.holder?;
        if opening.can_acknowledge() {
            return None;
        }
        let is_stuck = |node: &NodeId| {
            let astray = self.views.get(node).and_then(|view| view.astray_since);
            astray.is_some_and(|since| self.now().saturating_sub(since) >= self.settings.follow_max)
        };
        let mut voters = record.voters().into_iter().filter(|node| {
            *node != holder && *node != candidate && !record.void.contains(node) && !opening.members.contains(node)
        });
        voters.find(is_stuck)
    }

    /// Who was to join has gone before it did: waiting for it might be for ever.
    pub(super) fn is_next_hopeless(&self, record: &Record, answer: &Answer) -> bool {
        let Some(next) = record.next.as_ref().filter(|_| !record.is_withdrawn) else { return false };
        next.members.difference(&record.current.members).any(|node| self.is_away(*node, &answer.attached))
    }

    /// Nodes that stream from the primary under its term and may acknowledge.
    fn present(&self, record: &Record, primary: NodeId, answer: &Answer) -> BTreeSet<NodeId> {
        let of_term = answer.attached.iter().filter(|(_, (term, _))| *term == record.term);
        // It says so itself: what copies data for a node that is made anew may stream in its name.
        let says_so = |node: &NodeId| {
            self.answer(*node).is_some_and(|said| said.in_recovery && said.following == Some((primary, record.term)))
        };
        of_term.map(|(node, _)| *node).filter(|node| self.may_acknowledge(primary, *node) && says_so(node)).collect()
    }

    /// A member has not streamed for too long.
    fn is_away(&self, node: NodeId, attached: &BTreeMap<NodeId, (crate::base::Term, u64)>) -> bool {
        let since = self.views.get(&node).and_then(|view| view.astray_since);
        !attached.contains_key(&node)
            && since.is_some_and(|since| self.now().saturating_sub(since) >= self.settings.away_max)
    }

    /// Makes every node but the primary a standby that follows it.
    pub(super) fn keep_up(&mut self, record: &Record, primary: NodeId, answer: &Answer, effects: &mut Vec<Effect>) {
        let now = self.now();
        let counting = Self::counting(record);
        for node in self.members.keys().copied().filter(|node| *node != primary).collect::<Vec<_>>() {
            let may_be_made_anew = self.may_be_made_anew(record, node, &counting);
            if record.aside.get(&node) == Some(&Aside::Renewed) && may_be_made_anew && record.phase == Phase::Open {
                self.act(node, record.stamp(), Action::Copy { primary }, effects);
                continue;
            }
            let is_attached = answer.attached.get(&node).is_some_and(|(term, _)| *term == record.term);
            let Some(view) = self.views.get_mut(&node) else { continue };
            if is_attached {
                view.astray_since = None;
                continue;
            }
            let astray = now.saturating_sub(*view.astray_since.get_or_insert(now));
            let (said, is_refused) = (view.answer().cloned(), view.is_refused());
            let is_late = astray >= self.settings.follow_max;
            let is_empty = view.is_empty();
            let action = match said {
                Some(said) if !said.in_recovery && said.promised < record.stamp_of_term() => Some(Action::Fence),
                Some(said) if !said.in_recovery => may_be_made_anew.then_some(Action::Rejoin { primary }),
                Some(said) if said.following != Some((primary, record.term)) => Some(Action::Follow { primary }),
                Some(_) => (is_late && may_be_made_anew).then_some(Action::Rejoin { primary }),
                // It has nothing that could count; the primary of an open term has all that ever did.
                None if is_empty && !may_be_made_anew => {
                    (record.phase == Phase::Open).then_some(Action::Fill { primary })
                }
                None => (is_refused && is_late && may_be_made_anew).then_some(Action::Rejoin { primary }),
            };
            if let Some(action) = action {
                self.act(node, record.stamp(), action, effects);
            }
        }
    }

    /// What a node has may be what proves that nothing was lost: it is thrown away only where it does not count.
    fn may_be_made_anew(&self, record: &Record, node: NodeId, counting: &BTreeSet<NodeId>) -> bool {
        match record.phase {
            Phase::Open => !counting.contains(&node),
            // Nobody has acknowledged anything yet; the old primary is not among those that were asked.
            Phase::Promoting { candidate, ref opening, .. } => {
                let is_free = !counting.contains(&node) || record.void.contains(&node);
                is_free && node != candidate && !opening.members.contains(&node)
            }
            Phase::Freezing { .. } => false,
        }
    }
}
