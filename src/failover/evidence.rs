//! When is a node lost?

use std::time::Duration;

use super::machine::Machine;
use super::{Answer, Failure, Record};
use crate::base::NodeId;

/// What was heard from a node.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// What it said last, and when it came.
    last: Option<(Duration, Answer)>,
    /// Questions in a row without an answer.
    pub(super) failures: u32,
    failed_since: Duration,
    failed_last: Duration,
    last_failure: Option<Failure>,
    refused: u32,
    /// Since when it is no standby that streams, as far as the primary knows.
    pub(super) astray_since: Option<Duration>,
}

impl View {
    /// What it said last, unless it has failed since.
    pub(super) fn answer(&self) -> Option<&Answer> {
        self.last.as_ref().filter(|_| self.failures == 0).map(|(_, answer)| answer)
    }

    /// What it said no longer ago than this.
    pub(super) fn recent(&self, now: Duration, age: Duration) -> Option<&Answer> {
        let (at, answer) = self.last.as_ref()?;
        (self.failures == 0 && now.saturating_sub(*at) <= age).then_some(answer)
    }

    pub(super) fn answered(&mut self, now: Duration, answer: Answer) {
        self.failures = 0;
        self.refused = 0;
        self.last_failure = None;
        self.last = Some((now, answer));
    }

    pub(super) fn failed(&mut self, now: Duration, failure: Failure) {
        if self.failures == 0 {
            self.failed_since = now;
        }
        self.failed_last = now;
        self.failures = self.failures.saturating_add(1);
        self.refused =
            if matches!(failure, Failure::Refused | Failure::Empty) { self.refused.saturating_add(1) } else { 0 };
        self.last_failure = Some(failure);
    }

    /// For how long it has failed, as far as its last failure shows.
    pub(super) fn failing_for(&self) -> Duration {
        if self.failures == 0 { Duration::ZERO } else { self.failed_last.saturating_sub(self.failed_since) }
    }

    /// Nothing is there.
    pub(super) fn is_empty(&self) -> bool {
        self.is_refused() && self.last_failure == Some(Failure::Empty)
    }

    /// Nobody listens: asked twice, so that a connection that was just about to be accepted is none.
    pub(super) fn is_refused(&self) -> bool {
        self.refused >= 2
    }
}

/// What speaks against a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// It is certain that it serves nobody.
    Hard,
    /// It does not answer, and a second witness does not hear from it either.
    Soft,
}

impl Evidence {
    pub(super) fn is_soft(self) -> bool {
        self == Self::Soft
    }
}

impl Machine {
    /// Whether the primary is to be replaced.
    pub(super) fn primary_is_lost(&self, record: &Record) -> Option<Evidence> {
        let view = self.views.get(&record.primary)?;
        if view.answer().is_some_and(|answer| answer.in_recovery) {
            // Somebody made a standby of it.
            return Some(Evidence::Hard);
        }
        if view.is_refused() {
            return Some(Evidence::Hard);
        }
        if view.last_failure == Some(Failure::Starting) {
            // Its own recovery is mostly faster than a failover.
            return (view.failing_for() >= self.settings.starting_max).then_some(Evidence::Hard);
        }
        let has_cooled = self.last_soft.is_none_or(|at| self.now().saturating_sub(at) >= self.settings.cool_down);
        let is_suspect = view.failures >= self.settings.misses && has_cooled;
        let is_lost = is_suspect && (self.has_witness(record) || view.failing_for() >= self.settings.unheard_max);
        is_lost.then_some(Evidence::Soft)
    }

    /// A standby that answers us and has not heard from the primary.
    fn has_witness(&self, record: &Record) -> bool {
        let age = self.settings.witness_age;
        self.views.iter().filter(|(node, _)| **node != record.primary).any(|(_, view)| {
            view.recent(self.now(), age).is_some_and(|answer| {
                answer.in_recovery
                    && answer.following.is_some_and(|(node, _)| node == record.primary)
                    && answer.heard.is_none_or(|heard| heard > age)
            })
        })
    }

    /// A node that a change of leadership waits for is not to be had.
    pub(super) fn is_gone(&self, node: NodeId) -> bool {
        let Some(view) = self.views.get(&node) else { return true };
        let patience = self.settings.candidate_max;
        view.failing_for() >= if view.is_refused() { patience / 4 } else { patience }
    }
}
