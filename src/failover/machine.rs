//! The machine: takes in what is known, and wants done what the record's phase asks for.
//!
//! After every event it looks at the record and at the nodes as a whole; nothing waits for a particular event to
//! come, so none that is lost or comes twice does harm.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::evidence::View;
use super::{
    Action, ActionKind, Answer, Aside, Cause, Effect, Event, Failure, Member, Outcome, Phase, Position, Record,
    Settings, Stamp, SyncSet,
};
use crate::base::{NodeId, Term};

/// Whether statements may be sent, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// To this node.
    Open {
        /// The primary.
        node: NodeId,
        /// Its term.
        term: Term,
        /// The answers that it is about: a connection from before is none to this primary as it is now.
        session: u64,
    },
    /// Not now.
    Closed,
}

/// A node that is frozen or fenced under the term at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frozen {
    pub(super) position: Position,
    pub(super) in_recovery: bool,
}

/// An action that was begun, or that waits before it is begun again.
#[derive(Clone, Copy, Debug)]
struct Begun {
    stamp: Stamp,
    is_running: bool,
    /// Until when nothing is begun.
    until: Duration,
}

/// Leads one shard.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(super) settings: Settings,
    pub(super) members: BTreeMap<NodeId, Member>,
    pub(super) record: Option<Record>,
    pub(super) revision: u64,
    read_at: Duration,
    /// Since when the record's phase is what it is.
    pub(super) phase_since: Duration,
    is_leading: bool,
    is_writing: bool,
    /// A write ended nobody knows how: nothing is begun before the record is read.
    is_stale: bool,
    asked_at: Option<Duration>,
    pub(super) views: BTreeMap<NodeId, View>,
    begun: BTreeMap<(NodeId, ActionKind), Begun>,
    /// Of the record's term only.
    pub(super) frozen: BTreeMap<NodeId, Frozen>,
    pub(super) caught_up: Option<Stamp>,
    pub(super) promoted: Option<Stamp>,
    /// Ids of transactions when the candidate of the record's term was promoted.
    xids: Option<(u64, u64)>,
    /// The last barrier that was passed: its stamp, node, and session.
    pub(super) barrier: Option<(Stamp, NodeId, u64)>,
    confirmed_at: Duration,
    /// With the moment when it was asked for.
    command: Option<(Cause, Duration)>,
    /// What is wanted of nodes, with the moment when it was asked for.
    wishes: BTreeMap<NodeId, (Option<Aside>, Duration)>,
    /// Nodes that were made anew because somebody wanted it.
    renewed: BTreeSet<NodeId>,
    pub(super) last_soft: Option<Duration>,
    now: Duration,
}

/// How long an action may take before it is begun again.
fn limit(kind: ActionKind) -> Duration {
    Duration::from_millis(match kind {
        ActionKind::Freeze | ActionKind::Fence => 1_000,
        ActionKind::Follow | ActionKind::Apply | ActionKind::Barrier => 2_000,
        ActionKind::CatchUp | ActionKind::Promote => 5_000,
        // It may take hours; asked again, whoever does it goes on with what was begun.
        ActionKind::Rejoin | ActionKind::Fill | ActionKind::Copy => 10_000,
    })
}

/// Pause before an action that failed is begun again.
fn pause(kind: ActionKind) -> Duration {
    Duration::from_millis(match kind {
        ActionKind::Freeze | ActionKind::Promote | ActionKind::Barrier | ActionKind::CatchUp => 10,
        ActionKind::Fence | ActionKind::Follow | ActionKind::Apply => 50,
        ActionKind::Rejoin | ActionKind::Fill | ActionKind::Copy => 2_000,
    })
}

/// How often it looks by itself, while something is to be done.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// And otherwise.
const IDLE_PAUSE: Duration = Duration::from_millis(250);
/// What was asked for longer ago than this is not begun any more: whoever asked has been told that nothing happened.
const COMMAND_MAX: Duration = Duration::from_secs(5);
/// How long an answer to a question for the record is waited for.
const READ_MAX: Duration = Duration::from_millis(1_000);

impl Machine {
    /// A machine that knows nothing yet but the nodes.
    pub fn new(settings: Settings, members: Vec<Member>) -> Self {
        let members: BTreeMap<NodeId, Member> = members.into_iter().map(|member| (member.node, member)).collect();
        Self {
            settings,
            views: members.keys().map(|node| (*node, View::default())).collect(),
            members,
            record: None,
            revision: 0,
            read_at: Duration::ZERO,
            phase_since: Duration::ZERO,
            is_leading: false,
            is_writing: false,
            is_stale: false,
            asked_at: None,
            begun: BTreeMap::new(),
            frozen: BTreeMap::new(),
            caught_up: None,
            promoted: None,
            xids: None,
            barrier: None,
            confirmed_at: Duration::ZERO,
            command: None,
            wishes: BTreeMap::new(),
            renewed: BTreeSet::new(),
            last_soft: None,
            now: Duration::ZERO,
        }
    }

    fn set_members(&mut self, members: Vec<Member>) {
        self.members = members.into_iter().map(|member| (member.node, member)).collect();
        self.views.retain(|node, _| self.members.contains_key(node));
        for node in self.members.keys() {
            self.views.entry(*node).or_default();
        }
    }

    /// The record as it was last read or written.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// What a node said last, unless it has failed since.
    pub fn answer(&self, node: NodeId) -> Option<&Answer> {
        self.views.get(&node).and_then(View::answer)
    }

    /// Takes an event in. Effects are added in the order in which they are to be done.
    ///
    /// # Units
    /// `now` is of a clock that never goes back, from any beginning.
    pub fn step(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        self.now = now;
        match event {
            Event::Read { asked, record, revision } => {
                self.asked_at = None;
                self.is_stale = false;
                self.read_at = now;
                self.confirmed_at = self.confirmed_at.max(asked);
                self.take_record(record, revision);
            }
            Event::Record { record, revision } => self.take_record(record, revision),
            Event::Written { record, revision } => {
                self.is_writing = false;
                self.take_record(record, revision);
            }
            Event::NotWritten => {
                self.is_writing = false;
                self.is_stale = true;
                self.asked_at = None;
            }
            Event::Lease(is_leading) => self.is_leading = is_leading,
            Event::Answered { node, asked, answer } => self.take_answer(node, asked, answer),
            Event::Failed { node, failure } => self.take_failure(node, failure),
            Event::Ended { node, kind, stamp, outcome } => self.take_outcome(node, kind, stamp, &outcome, effects),
            Event::Command(cause) => self.command = Some((cause, now)),
            Event::SetAside { node, aside } => _ = self.wishes.insert(node, (aside, now)),
            Event::Members(members) => self.set_members(members),
            Event::Tick => {}
        }
        self.drive(effects);
    }

    /// When it wants to be stepped again at the latest.
    pub fn wake_at(&self) -> Option<Duration> {
        let is_busy = self.begun.values().any(|begun| begun.is_running)
            || self.record.as_ref().is_some_and(|record| record.phase != Phase::Open || record.next.is_some())
            || self.primary_view().is_some_and(|view| view.failures > 0);
        Some(self.now + if is_busy { BUSY_PAUSE } else { IDLE_PAUSE })
    }

    /// Whether statements may be sent, and where (rules 6 and 7).
    pub fn serving(&self, now: Duration) -> Serving {
        let Some(record) = self.record.as_ref().filter(|record| record.phase == Phase::Open) else {
            return Serving::Closed;
        };
        let Some(answer) = self.answer(record.primary).filter(|answer| !answer.in_recovery) else {
            return Serving::Closed;
        };
        let has_passed = !self.settings.rules.barrier
            || self.barrier.is_some_and(|(stamp, node, session)| {
                stamp.term == record.term && node == record.primary && session == answer.session
            });
        let is_confirmed = now.saturating_sub(self.confirmed_at) <= self.settings.confirmed_max;
        if has_passed && is_confirmed && answer.promised.term == record.term {
            Serving::Open { node: record.primary, term: record.term, session: answer.session }
        } else {
            Serving::Closed
        }
    }

    fn take_record(&mut self, record: Record, revision: u64) {
        if revision <= self.revision && self.record.is_some() {
            return;
        }
        let is_new_term = self.record.as_ref().is_none_or(|known| known.term < record.term);
        if is_new_term {
            self.frozen.clear();
            self.caught_up = None;
            self.promoted = None;
            self.xids = None;
            self.begun.retain(|(_, kind), _| kind.makes_standby());
        }
        let phase_of = |record: &Record| std::mem::discriminant(&record.phase);
        if is_new_term || self.record.as_ref().map(phase_of) != Some(phase_of(&record)) {
            self.phase_since = self.now;
        }
        self.record = Some(record);
        self.revision = revision;
    }

    fn take_answer(&mut self, node: NodeId, asked: Duration, answer: Answer) {
        let now = self.now;
        let Some(view) = self.views.get_mut(&node) else { return };
        // A quorum that streams under the term is a sign that nobody has begun another one (rule 7).
        if let Some(record) = &self.record
            && record.phase == Phase::Open
            && record.primary == node
            && answer.promised.term == record.term
        {
            let of_term = |member: &&NodeId| answer.attached.get(member).is_some_and(|(term, _)| *term == record.term);
            let set = record.wanted_set();
            let streaming = set.members.iter().filter(of_term).count();
            if set.quorum > 0 && streaming >= set.quorum {
                self.confirmed_at = self.confirmed_at.max(asked);
            }
        }
        view.answered(now, answer);
    }

    fn take_failure(&mut self, node: NodeId, failure: Failure) {
        let now = self.now;
        if let Some(view) = self.views.get_mut(&node) {
            view.failed(now, failure);
        }
    }

    fn take_outcome(
        &mut self,
        node: NodeId,
        kind: ActionKind,
        stamp: Stamp,
        outcome: &Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.now;
        if let Some(begun) = self.begun.get_mut(&(node, kind)).filter(|begun| begun.stamp == stamp) {
            begun.is_running = false;
            begun.until = now + pause(kind);
        }
        let Some(record) = &self.record else { return };
        if let Outcome::Refused { promised } = outcome {
            if *promised > record.stamp() {
                self.ask(effects);
            }
            return;
        }
        if stamp.term != record.term {
            return;
        }
        match (kind, outcome) {
            (ActionKind::Freeze | ActionKind::Fence, Outcome::Frozen { position, in_recovery }) => {
                self.frozen.insert(node, Frozen { position: *position, in_recovery: *in_recovery });
            }
            (ActionKind::CatchUp, Outcome::Done) => self.caught_up = Some(stamp),
            (ActionKind::Promote | ActionKind::Apply, Outcome::Done) => self.promoted = Some(stamp),
            (ActionKind::Promote, Outcome::Promoted { known, fresh }) => {
                self.promoted = Some(stamp);
                self.xids = Some((*known, *fresh));
            }
            (ActionKind::Barrier, Outcome::Passed { session }) => self.barrier = Some((stamp, node, *session)),
            // What it said before is of another life.
            (kind, Outcome::Done) if kind.makes_standby() => {
                if kind == ActionKind::Copy {
                    self.renewed.insert(node);
                }
                self.frozen.remove(&node);
                self.views.insert(node, View::default());
            }
            _ => {}
        }
    }

    fn drive(&mut self, effects: &mut Vec<Effect>) {
        let Some(record) = self.record.clone() else { return self.ask(effects) };
        if self.now.saturating_sub(self.read_at) > self.settings.confirmed_max / 4 {
            self.ask(effects);
        }
        self.pass_barrier(&record, effects);
        if self.is_stale {
            self.ask(effects);
        }
        if self.is_writing || self.is_stale {
            return;
        }
        // Whoever is asked begins it; the one that leads goes on (rule 1).
        if let Some(cause) = self.take_command(&record) {
            return self.write(record.next_term(cause), effects);
        }
        if let Some(aside) = self.take_wish(&record) {
            return self.write(Record { aside, ..record }, effects);
        }
        if !self.is_leading {
            return;
        }
        match &record.phase {
            Phase::Open => self.drive_open(&record, effects),
            Phase::Freezing { cause } => self.drive_freezing(&record, *cause, effects),
            Phase::Promoting { .. } => self.drive_promoting(&record, effects),
        }
    }

    /// A planned change begins where nothing else is going on; one that may lose writes at any time.
    fn take_command(&mut self, record: &Record) -> Option<Cause> {
        let (cause, asked) = self.command.take()?;
        if self.now.saturating_sub(asked) > COMMAND_MAX {
            return None;
        }
        let is_taken = match cause {
            Cause::LossAllowed { .. } => true,
            Cause::Planned { to } => record.phase == Phase::Open && to != Some(record.primary),
            Cause::Lost => record.phase == Phase::Open,
        };
        is_taken.then_some(cause)
    }

    /// Who counts changes only while nothing else does. The primary is none to do without.
    fn take_wish(&mut self, record: &Record) -> Option<BTreeMap<NodeId, Aside>> {
        let now = self.now;
        self.wishes.retain(|_, (_, asked)| now.saturating_sub(*asked) <= COMMAND_MAX);
        if record.phase != Phase::Open {
            return None;
        }
        let mut next = record.aside.clone();
        for (node, (aside, _)) in std::mem::take(&mut self.wishes) {
            match aside {
                Some(aside) if node != record.primary => _ = next.insert(node, aside),
                Some(_) => {}
                None => _ = next.remove(&node),
            }
        }
        (next != record.aside).then_some(next)
    }

    fn drive_open(&mut self, record: &Record, effects: &mut Vec<Effect>) {
        if let Some(evidence) = self.primary_is_lost(record) {
            if evidence.is_soft() {
                self.last_soft = Some(self.now);
            }
            return self.write(record.next_term(Cause::Lost), effects);
        }
        let Some(answer) = self.answer(record.primary).filter(|answer| !answer.in_recovery).cloned() else { return };
        let mut aside = record.aside.clone();
        aside.retain(|node, why| *why != Aside::Renewed || !self.renewed.contains(node));
        if aside != record.aside {
            return self.write(Record { aside, ..record.clone() }, effects);
        }
        self.renewed.clear();
        if self.is_next_hopeless(record, &answer) {
            let withdrawn = Record { config: record.config + 1, is_withdrawn: true, ..record.clone() };
            return self.write(withdrawn, effects);
        }
        let set = record.wanted_set();
        if answer.goes_by.as_ref() != Some(&(record.term, set.clone())) || answer.promised < record.stamp() {
            if self.have_promised(record, record.primary, &set.members, effects) {
                self.act(record.primary, record.stamp(), Action::Apply { set: set.clone() }, effects);
            }
        } else if record.next.is_some() {
            if self.barrier == Some((record.stamp(), record.primary, answer.session)) {
                let current = set.clone();
                return self.write(Record { current, next: None, is_withdrawn: false, ..record.clone() }, effects);
            }
        } else if let Some(next) = self.better_set(record, &answer) {
            return self.replace_set(record, next, effects);
        }
        self.keep_up(record, record.primary, &answer, effects);
    }

    /// Rule 4. Switched off, the record has the new set at once, as if the primary went by it already.
    fn replace_set(&mut self, record: &Record, next: SyncSet, effects: &mut Vec<Effect>) {
        let config = record.config + 1;
        let replaced = if self.settings.rules.replace_by_both {
            Record { config, next: Some(next), is_withdrawn: false, ..record.clone() }
        } else {
            Record { config, current: next, next: None, ..record.clone() }
        };
        self.write(replaced, effects);
    }

    /// Before a node's acknowledgement counts it has promised the stamp under which it begins to: what was wanted of
    /// it before, when it might still be made anew, comes too late then.
    fn have_promised(
        &mut self,
        record: &Record,
        primary: NodeId,
        members: &BTreeSet<NodeId>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let stamp = record.stamp();
        let mut have_all = true;
        for node in members {
            let counted = record.phase == Phase::Open && record.current.members.contains(node);
            let is_bound = counted
                || self.frozen.contains_key(node)
                || self.answer(*node).is_some_and(|answer| answer.promised >= stamp);
            if !is_bound {
                have_all = false;
                self.act(*node, stamp, Action::Follow { primary }, effects);
            }
        }
        have_all
    }

    fn drive_freezing(&mut self, record: &Record, cause: Cause, effects: &mut Vec<Effect>) {
        let is_planned = matches!(cause, Cause::Planned { .. });
        if is_planned && self.phase_age() < self.settings.settle {
            return;
        }
        if let Some(phase) = self.choose(record, cause) {
            let holder = match (&phase, cause) {
                (_, Cause::LossAllowed { .. }) => None,
                (Phase::Promoting { source, target, .. }, _) => Some((*source, *target)),
                _ => record.holder,
            };
            // With a version of its own: what froze the nodes comes too late to freeze who leads or follows by then.
            return self.write(Record { config: record.config + 1, phase, holder, ..record.clone() }, effects);
        }
        let stamp = record.stamp();
        for node in self.members.keys().copied().collect::<Vec<_>>() {
            if self.frozen.contains_key(&node) {
                continue;
            }
            let action = if node == record.primary { Action::Fence } else { Action::Freeze };
            self.act(node, stamp, action, effects);
        }
    }

    fn drive_promoting(&mut self, record: &Record, effects: &mut Vec<Effect>) {
        let Phase::Promoting { cause, candidate, source, target, opening } = &record.phase else { return };
        let (candidate, stamp) = (*candidate, record.stamp());
        if self.is_gone(candidate) || (*source != candidate && self.caught_up.is_none() && self.is_gone(*source)) {
            let cause = if matches!(cause, Cause::LossAllowed { .. }) { *cause } else { Cause::Lost };
            return self.write(record.next_term(cause), effects);
        }
        if *source != candidate && self.caught_up.is_none() && !self.is_primary_by_itself(candidate) {
            return self.act(candidate, stamp, Action::CatchUp { source: *source, target: *target }, effects);
        }
        if self.promoted != Some(stamp) && self.have_promised(record, candidate, &opening.members, effects) {
            self.act(candidate, stamp, Action::Promote { set: opening.clone() }, effects);
        }
        for follower in &opening.members {
            let is_there =
                self.answer(*follower).is_some_and(|answer| answer.following == Some((candidate, record.term)));
            if !is_there {
                self.act(*follower, stamp, Action::Follow { primary: candidate }, effects);
            }
        }
        let Some(answer) = self.answer(candidate).filter(|answer| !answer.in_recovery).cloned() else { return };
        if self.promoted == Some(stamp) && self.barrier == Some((stamp, candidate, answer.session)) {
            let open = Record {
                phase: Phase::Open,
                primary: candidate,
                timeline: answer.position.timeline,
                current: opening.clone(),
                next: None,
                is_withdrawn: false,
                holder: None,
                void: BTreeSet::new(),
                aside: record.aside.iter().filter(|(node, _)| **node != candidate).map(|(n, why)| (*n, *why)).collect(),
                ..record.clone()
            };
            return self.write(open.with_beginning(self.xids), effects);
        }
        if self.promoted.is_some() {
            if let Some(opening) = self.better_opening(record, candidate, opening, &answer) {
                let phase = Phase::Promoting { cause: *cause, candidate, source: *source, target: *target, opening };
                return self.write(Record { config: record.config + 1, phase, ..record.clone() }, effects);
            }
            if let Some(node) = self.dispensable(record, candidate, opening) {
                let void = record.void.iter().copied().chain([node]).collect();
                return self.write(Record { config: record.config + 1, void, ..record.clone() }, effects);
            }
            self.keep_up(record, candidate, &answer, effects);
        }
    }

    /// Every machine passes it for itself; the one that leads also before the shard is opened.
    fn pass_barrier(&mut self, record: &Record, effects: &mut Vec<Effect>) {
        let node = match &record.phase {
            Phase::Open => record.primary,
            Phase::Promoting { candidate, .. } if self.promoted == Some(record.stamp()) => *candidate,
            _ => return,
        };
        let Some(answer) = self.answer(node).filter(|answer| !answer.in_recovery).cloned() else { return };
        let (stamp, session) = (record.stamp(), answer.session);
        let is_passed = self.barrier.is_some_and(|(passed, passed_node, passed_session)| {
            // While the set is replaced, the one that leads has to know that the primary goes by the new one.
            let is_of_set = passed == stamp || (record.next.is_none() && record.phase == Phase::Open);
            passed.term == stamp.term && passed_node == node && passed_session == session && is_of_set
        });
        let goes_by = answer.goes_by.as_ref().is_some_and(|(term, _)| *term == record.term);
        if is_passed || !(goes_by || self.promoted == Some(stamp)) {
            return;
        }
        let set = record.wanted_set().clone();
        self.act(node, stamp, Action::Barrier { set, session }, effects);
    }

    pub(super) fn phase_age(&self) -> Duration {
        self.now.saturating_sub(self.phase_since)
    }

    pub(super) fn now(&self) -> Duration {
        self.now
    }

    pub(super) fn primary_view(&self) -> Option<&View> {
        self.views.get(&self.record.as_ref()?.primary)
    }

    /// Voters of the term before and of the one that begins.
    pub(super) fn counting(record: &Record) -> BTreeSet<NodeId> {
        let mut counting = record.voters();
        counting.extend(record.wanted_set().members.iter().copied());
        counting
    }

    /// Begins an action unless it runs, or waits after a failure.
    pub(super) fn act(&mut self, node: NodeId, stamp: Stamp, action: Action, effects: &mut Vec<Effect>) {
        let kind = action.kind();
        if let Some(begun) = self.begun.get(&(node, kind)) {
            let is_same = begun.stamp == stamp || kind.makes_standby();
            if is_same && self.now < begun.until {
                return;
            }
        }
        self.begun.insert((node, kind), Begun { stamp, is_running: true, until: self.now + limit(kind) });
        effects.push(Effect::Act { node, stamp, action });
    }

    fn write(&mut self, record: Record, effects: &mut Vec<Effect>) {
        self.is_writing = true;
        effects.push(Effect::Write { record: Box::new(record), expected: self.revision });
    }

    fn ask(&mut self, effects: &mut Vec<Effect>) {
        if self.asked_at.is_none_or(|asked| self.now.saturating_sub(asked) > READ_MAX) {
            self.asked_at = Some(self.now);
            effects.push(Effect::Read { asked: self.now });
        }
    }
}
