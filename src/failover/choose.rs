//! Who becomes primary (rules 2 and 3).

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::machine::{Frozen, Machine};
use super::{Acknowledgers, Cause, Phase, Position, Record, SyncSet};
use crate::base::NodeId;

impl Machine {
    /// The choice, once it can be made.
    pub(super) fn choose(&self, record: &Record, cause: Cause) -> Option<Phase> {
        let mut voters: BTreeSet<NodeId> = record.voters().difference(&record.void).copied().collect();
        let holder = record
            .holder
            .filter(|(node, target)| self.frozen.get(node).is_some_and(|frozen| frozen.position >= *target));
        voters.extend(holder.map(|(node, _)| node));
        let is_frozen = |node: NodeId| self.frozen.contains_key(&node);
        let is_proved = if self.settings.rules.freeze_quorum {
            holder.is_some() || record.is_held_by(is_frozen)
        } else {
            voters.iter().any(|voter| is_frozen(*voter))
        };
        // It has everything that it ever acknowledged, and acknowledges nothing more under the old term.
        let old = self.frozen.get(&record.primary).filter(|old| !old.in_recovery).map(|_| record.primary);
        let best = self.best(&voters);
        match cause {
            Cause::Lost if is_proved => best.and_then(|best| self.phase(cause, best, best)),
            Cause::Lost => old.and_then(|old| self.phase(cause, old, old)),
            Cause::Planned { to } => {
                let is_late = self.phase_age() >= self.settings.wanted_max;
                let wanted = to.filter(|to| is_frozen(*to));
                match (best.filter(|_| is_proved), wanted) {
                    (Some(best), Some(wanted)) => self.phase(cause, wanted, best),
                    (Some(best), None) if to.is_none() => self.phase(cause, best, best),
                    // The one that is wanted does not come: as it was, if that can be had.
                    _ if is_late => old.or(best.filter(|_| is_proved)).and_then(|node| self.phase(cause, node, node)),
                    _ => None,
                }
            }
            Cause::LossAllowed { to } => {
                if self.phase_age() < self.settings.loss_wait && !is_proved {
                    return None;
                }
                let all: BTreeSet<NodeId> = self.frozen.keys().copied().collect();
                let best = self.best(&all)?;
                let wanted = to.filter(|to| is_frozen(*to)).unwrap_or(best);
                self.phase(cause, wanted, best)
            }
        }
    }

    /// Of those that are frozen the one with the most; of several the one with the highest priority.
    fn best(&self, among: &BTreeSet<NodeId>) -> Option<NodeId> {
        let frozen = among.iter().filter_map(|node| Some((*node, self.frozen.get(node)?)));
        frozen
            .max_by_key(|(node, frozen)| {
                let priority = self.members.get(node).map_or(0, |member| member.priority);
                (frozen.position, priority, Reverse(*node))
            })
            .map(|(node, _)| node)
    }

    /// The choice as it is recorded. A primary can follow nobody: if one is the source, it is the candidate.
    fn phase(&self, cause: Cause, wanted: NodeId, source: NodeId) -> Option<Phase> {
        let target = self.frozen.get(&source)?.position;
        let can_follow = |node: NodeId| self.frozen.get(&node).is_some_and(|frozen| follows(frozen, target));
        let candidate = if wanted == source || can_follow(wanted) { wanted } else { source };
        let source_is_ahead = self.frozen.get(&candidate)?.position < target;
        let source = if source_is_ahead { source } else { candidate };
        let frozen = self.frozen.keys().copied();
        let members: BTreeSet<NodeId> = frozen
            .filter(|node| *node != candidate && can_follow(*node) && self.may_acknowledge(candidate, *node))
            .collect();
        let quorum = match cause {
            Cause::LossAllowed { .. } => self.settings.durability.quorum.min(members.len()),
            Cause::Lost | Cause::Planned { .. } => self.settings.durability.quorum_of(members.len()),
        };
        let members = if self.settings.durability.quorum == 0 { BTreeSet::new() } else { members };
        Some(Phase::Promoting { cause, candidate, source, target, opening: SyncSet { members, quorum } })
    }

    /// It was promoted before, by somebody who did not come to the end.
    pub(super) fn is_primary_by_itself(&self, node: NodeId) -> bool {
        self.frozen.get(&node).is_some_and(|frozen| !frozen.in_recovery)
            || self.answer(node).is_some_and(|answer| !answer.in_recovery)
    }

    /// Whether a node's acknowledgements count while another one leads.
    pub(super) fn may_acknowledge(&self, primary: NodeId, node: NodeId) -> bool {
        let zone = |node: NodeId| self.members.get(&node).map(|member| member.zone.as_str());
        let is_same = zone(primary) == zone(node);
        self.members.contains_key(&node)
            && match self.settings.durability.acknowledgers {
                Acknowledgers::Any => true,
                Acknowledgers::OtherZones => !is_same,
                Acknowledgers::SameZone => is_same,
            }
    }
}

/// A standby whose log is a beginning of one that ends at the position.
fn follows(frozen: &Frozen, target: Position) -> bool {
    frozen.in_recovery && frozen.position.timeline == target.timeline && frozen.position.lsn <= target.lsn
}
