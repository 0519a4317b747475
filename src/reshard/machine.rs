//! The machine: one step at a time, each settled before the next.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Command, Effect, Event, Level, Pace, Phase, Record, Settings, Step, is_done, remaining};
use crate::base::{BucketId, Epoch, ShardId};
use crate::topology::BucketMap;

/// What is being waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Doing {
    /// The record and the topology.
    Reading,
    /// Nothing.
    Idle,
    /// A write of the record; then the step, if there is one, begins.
    Writing(Box<Option<Record>>),
    Preparing,
    /// Rows are copied ahead; nothing waits.
    Copying(Step),
    /// They are there, and it is not yet time to let anything wait.
    Resting(Step),
    /// Writes to the buckets are to wait.
    Closing(Step),
    Moving(Step),
    /// Rows are prepared; reads of the buckets are to wait, too.
    Turning(Step, u64),
    Deciding(Step, u64),
    Committing(Step, u64),
    /// The gate may be open again.
    RollingBack(Step),
    Cleaning,
}

/// Leads one job at a time.
#[derive(Clone, Debug)]
pub struct Machine {
    settings: Settings,
    record: Option<Record>,
    revision: Option<u64>,
    owners: BucketMap,
    epoch: Epoch,
    doing: Doing,
    /// Rows by bucket; empty: not counted yet.
    rows: Vec<u64>,
    pace: Pace,
    commands: VecDeque<Command>,
    /// Since when writes wait, or are about to.
    closed_at: Option<Duration>,
    /// The same of reads.
    turned_at: Option<Duration>,
    /// The topology may have changed without this machine.
    is_stale: bool,
    /// The last question that was asked; the answer to an earlier one comes too late.
    asked: u64,
    /// Nothing is begun before.
    not_before: Duration,
    /// Nothing has to wait before.
    rest_until: Duration,
    /// When an effect that failed is wanted again.
    again_at: Option<Duration>,
    trouble: Option<String>,
    now: Duration,
}

/// Pause before what has to succeed is tried again.
const AGAIN: Duration = Duration::from_millis(50);

impl Machine {
    /// A machine that knows nothing yet; its first [`Event::Tick`] makes it read.
    pub fn new(settings: Settings) -> Self {
        Self {
            pace: Pace::new(&settings),
            settings,
            record: None,
            revision: None,
            owners: BucketMap::all_to(ShardId::default()),
            epoch: Epoch(0),
            doing: Doing::Reading,
            rows: Vec::new(),
            commands: VecDeque::new(),
            closed_at: None,
            turned_at: None,
            is_stale: false,
            asked: 0,
            not_before: Duration::ZERO,
            rest_until: Duration::ZERO,
            again_at: Some(Duration::ZERO),
            trouble: None,
            now: Duration::ZERO,
        }
    }

    /// Its limits.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The job, as it was last written or read.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// Owners of buckets as this machine knows them.
    pub fn owners(&self) -> &BucketMap {
        &self.owners
    }

    /// What was measured.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Why it does not get on, in words.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Rows in buckets that have still to move; `None` until they were counted.
    pub fn rows_left(&self) -> Option<u64> {
        let record = self.record.as_ref()?;
        if self.rows.is_empty() {
            return None;
        }
        Some(remaining(&self.owners, &record.wanted).map(|(bucket, ..)| self.rows_of(bucket)).sum())
    }

    /// Buckets that have still to move.
    pub fn buckets_left(&self) -> usize {
        self.record.as_ref().map_or(0, |record| remaining(&self.owners, &record.wanted).count())
    }

    /// Whether there is a job is not known yet.
    pub fn is_reading(&self) -> bool {
        self.doing == Doing::Reading
    }

    /// No row is on its way.
    pub fn is_at_rest(&self) -> bool {
        matches!(self.doing, Doing::Idle | Doing::Preparing | Doing::Resting(_) | Doing::Cleaning)
    }

    /// Whether a command makes sense now.
    ///
    /// # Errors
    /// Why it does not.
    pub fn check(&self, command: &Command) -> Result<(), &'static str> {
        if self.doing == Doing::Reading {
            return Err("the job is being read");
        }
        let Some(record) = &self.record else {
            return if matches!(command, Command::Start { .. }) { Ok(()) } else { Err("there is no job") };
        };
        match (command, record.phase) {
            (Command::Start { .. }, _) => Err("a job is there already"),
            (_, Phase::Cleaning) => Err("the job is ending"),
            (Command::Reverse, _) if record.is_reversed => Err("the job goes back already"),
            (Command::Finish, Phase::Preparing | Phase::Moving) => Err("not all buckets have moved"),
            (Command::Cancel, Phase::Moved) => Err("all buckets have moved: finish or reverse it"),
            _ => Ok(()),
        }
    }

    /// When it wants to be woken by [`Event::Tick`]; `None`: not at all.
    pub fn wake_at(&self) -> Option<Duration> {
        if let Some(again) = self.again_at {
            return Some(again);
        }
        if matches!(self.doing, Doing::Resting(_)) {
            return Some(self.rest_until);
        }
        let record = self.record.as_ref()?;
        let waits = self.doing == Doing::Idle && record.phase != Phase::Moved;
        (waits && !(record.is_paused && record.phase == Phase::Moving)).then_some(self.not_before)
    }

    /// Takes in what happened, and tells what is to be done.
    pub fn step(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        match event {
            Event::Command(command) => {
                if self.check(&command).is_ok() {
                    self.commands.push_back(command);
                }
            }
            Event::Tick => self.repeat(effects),
            Event::Read { ask, record, revision, owners, epoch } => {
                if self.doing == Doing::Reading && ask == self.asked {
                    self.take_read(record, revision, owners, epoch, effects);
                }
            }
            Event::Written { ask, revision } => {
                if ask == self.asked && matches!(self.doing, Doing::Writing(_)) {
                    self.take_written(revision, effects);
                }
            }
            Event::NotWritten { ask } => {
                if ask == self.asked && matches!(self.doing, Doing::Writing(_)) {
                    self.read_again(effects);
                }
            }
            Event::Ready { ask, rows } => {
                if ask == self.asked {
                    self.take_ready(rows, effects);
                }
            }
            Event::NotReady { ask, reason } => {
                if ask == self.asked && self.doing == Doing::Preparing {
                    self.doing = Doing::Idle;
                    self.fail(reason, None);
                }
            }
            Event::Cleaned { ask } => {
                if ask == self.asked && self.doing == Doing::Cleaning {
                    self.write(None, effects);
                }
            }
            Event::NotCleaned { ask, reason } => {
                if ask == self.asked && self.doing == Doing::Cleaning {
                    self.doing = Doing::Idle;
                    self.fail(reason, None);
                }
            }
            Event::Copied { number } => {
                // What is asked meanwhile is answered before the gate closes, also where steps follow each other closely.
                if let Doing::Copying(step) = &self.doing
                    && number == step.number
                {
                    self.doing = Doing::Resting(step.clone());
                    return;
                }
            }
            of_step => self.take_step(of_step, effects),
        }
        self.proceed(effects);
    }

    fn repeat(&mut self, effects: &mut Vec<Effect>) {
        if self.again_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.again_at = None;
        match &self.doing {
            Doing::Reading => self.read_again(effects),
            Doing::Committing(step, _) => effects.push(Effect::Commit { step: step.clone() }),
            Doing::RollingBack(step) => effects.push(Effect::RollBack { step: step.clone() }),
            _ => {}
        }
    }

    fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    fn read_again(&mut self, effects: &mut Vec<Effect>) {
        self.doing = Doing::Reading;
        effects.push(Effect::Read { ask: self.ask() });
    }

    /// What a crash may have left is settled first: the topology says to which side.
    fn take_read(
        &mut self,
        record: Option<Record>,
        revision: Option<u64>,
        owners: BucketMap,
        epoch: Epoch,
        effects: &mut Vec<Effect>,
    ) {
        self.doing = Doing::Idle;
        (self.record, self.revision, self.owners, self.epoch) = (record, revision, owners, epoch);
        let Some(step) = self.record.as_ref().and_then(|record| record.step.clone()) else { return };
        if is_done(&step, &self.owners) {
            effects.push(Effect::Commit { step: step.clone() });
            self.doing = Doing::Committing(step, 0);
        } else {
            effects.push(Effect::RollBack { step: step.clone() });
            self.doing = Doing::RollingBack(step);
        }
    }

    fn take_written(&mut self, revision: Option<u64>, effects: &mut Vec<Effect>) {
        let Doing::Writing(record) = std::mem::replace(&mut self.doing, Doing::Idle) else { return };
        (self.record, self.revision) = (*record, revision);
        let Some(record) = &self.record else {
            self.rows.clear();
            self.trouble = None;
            self.pace = Pace::new(&self.settings);
            // What ends a job may change the topology, too.
            self.is_stale = true;
            return;
        };
        let begins = record.step.clone().filter(|step| record.phase == Phase::Moving && !is_done(step, &self.owners));
        let Some(step) = begins.filter(|_| !record.is_paused && self.commands.is_empty()) else { return };
        // Who lets writes wait for longer has bigger buckets.
        let limit = self.settings.ahead_max.max(self.limits().hold_max * 4);
        effects.push(Effect::Copy { step: step.clone(), limit });
        self.doing = Doing::Copying(step);
    }

    /// From here on writes to the buckets wait.
    fn hold_writes(&mut self, step: Step, effects: &mut Vec<Effect>) {
        self.closed_at = Some(self.now);
        if self.settings.rules.hold_writes {
            let wait = self.settings.quiet_max;
            effects.push(Effect::CloseGate { step: step.clone(), level: Level::Writes, wait });
            self.doing = Doing::Closing(step);
        } else {
            self.begin_moving(step, effects);
        }
    }

    fn take_ready(&mut self, rows: Vec<u64>, effects: &mut Vec<Effect>) {
        if self.doing != Doing::Preparing {
            return;
        }
        self.doing = Doing::Idle;
        self.trouble = None;
        self.rows = rows;
        let is_new = |record: &&Record| record.phase == Phase::Preparing;
        if let Some(record) = self.record.as_ref().filter(is_new) {
            let record = Record { phase: Phase::Moving, ..record.clone() };
            self.write(Some(record), effects);
        }
    }

    /// Outcomes of a step; those of another one are late, or come twice.
    fn take_step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        let doing = std::mem::replace(&mut self.doing, Doing::Idle);
        self.doing = match (doing, event) {
            (Doing::Copying(step), Event::NotCopied { number, reason, is_final, is_slow }) if number == step.number => {
                if is_slow {
                    self.pace.shrink();
                }
                self.undo(step, reason, is_final, effects);
                return;
            }
            (Doing::Closing(step), Event::Closed { number, level: Level::Writes }) if number == step.number => {
                return self.begin_moving(step, effects);
            }
            (Doing::Closing(step), Event::NotClosed { number, level: Level::Writes }) if number == step.number => {
                self.closed_at = None;
                let reason = "statements or transactions that write there did not end in time";
                self.undo(step, reason.to_owned(), false, effects);
                return;
            }
            (Doing::Moving(step), Event::Moved { number, rows }) if number == step.number => {
                return self.turn(step, rows, effects);
            }
            (Doing::Turning(step, rows), Event::Closed { number, level: Level::All }) if number == step.number => {
                return self.decide(step, rows, effects);
            }
            (Doing::Turning(step, _), Event::NotClosed { number, level: Level::All }) if number == step.number => {
                let reason = "statements or transactions that read there did not end in time";
                self.undo(step, reason.to_owned(), false, effects);
                return;
            }
            (Doing::Moving(step), Event::NotMoved { number, reason, is_final }) if number == step.number => {
                self.undo(step, reason, is_final, effects);
                return;
            }
            (Doing::Deciding(step, rows), Event::Decided { number, epoch }) if number == step.number => {
                self.take_owners(&step, epoch);
                effects.push(Effect::Commit { step: step.clone() });
                Doing::Committing(step, rows)
            }
            (Doing::Deciding(step, _), Event::NotDecided { number }) if number == step.number => {
                self.undo(step, "the topology changed meanwhile".to_owned(), false, effects);
                return;
            }
            (Doing::Committing(step, rows), Event::Settled { number }) if number == step.number => {
                self.end_step(rows, effects);
                Doing::Idle
            }
            (Doing::RollingBack(step), Event::Settled { number }) if number == step.number => {
                return self.forget_step(effects);
            }
            (doing @ (Doing::Committing(..) | Doing::RollingBack(_)), Event::NotSettled { .. }) => {
                self.again_at = Some(self.now + AGAIN);
                doing
            }
            (doing, _) => doing,
        };
    }

    /// The step is gone: the record says so before anything else is begun.
    fn forget_step(&mut self, effects: &mut Vec<Effect>) {
        let Some(record) = self.record.clone() else { return self.read_again(effects) };
        self.is_stale = true;
        let without = Record { step: None, ..record };
        self.write(Some(without), effects);
    }

    fn begin_moving(&mut self, step: Step, effects: &mut Vec<Effect>) {
        let spent = self.closed_at.map_or(Duration::ZERO, |since| self.now.saturating_sub(since));
        let limit = self.limits().hold_max.saturating_sub(spent);
        effects.push(Effect::Move { step: step.clone(), limit });
        if !self.settings.rules.prepare_first {
            effects.push(Effect::Decide { step: step.clone() });
        }
        self.doing = Doing::Moving(step);
    }

    /// The rows are prepared: readers are let out.
    fn turn(&mut self, step: Step, rows: u64, effects: &mut Vec<Effect>) {
        self.turned_at = Some(self.now);
        if !self.settings.rules.hold_reads {
            return self.decide(step, rows, effects);
        }
        let wait = self.settings.quiet_max;
        effects.push(Effect::CloseGate { step: step.clone(), level: Level::All, wait });
        self.doing = Doing::Turning(step, rows);
    }

    fn decide(&mut self, step: Step, rows: u64, effects: &mut Vec<Effect>) {
        if self.settings.rules.prepare_first {
            effects.push(Effect::Decide { step: step.clone() });
        }
        self.doing = Doing::Deciding(step, rows);
    }

    /// Nothing of the step counts: statements go on at once, and what is prepared is rolled back beside them.
    fn undo(&mut self, step: Step, reason: String, is_final: bool, effects: &mut Vec<Effect>) {
        effects.push(Effect::OpenGate);
        effects.push(Effect::RollBack { step: step.clone() });
        let hold = self.closed_at.take().map(|since| self.now.saturating_sub(since));
        if let Some(since) = self.turned_at.take() {
            // The step itself was not too slow.
            self.pace.note_pause(self.now.saturating_sub(since));
            self.fail(reason, None);
        } else {
            self.fail(reason, hold);
        }
        if is_final {
            self.commands.push_front(Command::Pause);
        }
        self.doing = Doing::RollingBack(step);
    }

    fn end_step(&mut self, rows: u64, effects: &mut Vec<Effect>) {
        effects.push(Effect::OpenGate);
        if let Some(since) = self.closed_at.take() {
            let pause = self.turned_at.take().map_or(Duration::ZERO, |since| self.now.saturating_sub(since));
            let limits = self.limits();
            let rest = self.pace.note_done(&limits, rows, self.now.saturating_sub(since), pause);
            self.rest_until = self.now + rest;
            if let Some(record) = &mut self.record {
                // Written with the next step; a crash makes these figures a little too small.
                record.rows += rows;
                record.steps += 1;
            }
            self.trouble = None;
        }
    }

    fn take_owners(&mut self, step: &Step, epoch: Epoch) {
        let mut owners = self.owners.owners().to_vec();
        for bucket in &step.buckets {
            if let Some(owner) = owners.get_mut(usize::from(bucket.0)) {
                *owner = step.to;
            }
        }
        self.owners = BucketMap::from_owners(owners).unwrap_or_else(|| self.owners.clone());
        self.epoch = epoch;
    }

    /// Those of this job: its operator may have allowed it more.
    fn limits(&self) -> Settings {
        let mut limits = self.settings.clone();
        if let Some(hold_max) = self.record.as_ref().and_then(|record| record.manner.hold_max) {
            (limits.hold_max, limits.hold_aim) = (hold_max, limits.hold_aim.max(hold_max / 2));
        }
        limits
    }

    fn fail(&mut self, reason: String, pause: Option<Duration>) {
        self.trouble = Some(reason);
        self.not_before = self.now + self.pace.note_failed(&self.settings, pause);
    }

    fn write(&mut self, record: Option<Record>, effects: &mut Vec<Effect>) {
        let ask = self.ask();
        effects.push(Effect::Write { ask, record: record.clone(), expected: self.revision });
        self.doing = Doing::Writing(Box::new(record));
    }

    /// Begins what comes next, when nothing is under way.
    fn proceed(&mut self, effects: &mut Vec<Effect>) {
        if let Doing::Resting(step) = &self.doing {
            let step = step.clone();
            if !self.commands.is_empty() {
                effects.push(Effect::RollBack { step: step.clone() });
                self.doing = Doing::RollingBack(step);
            } else if self.now >= self.rest_until {
                self.hold_writes(step, effects);
            }
            return;
        }
        if self.doing != Doing::Idle {
            return;
        }
        if std::mem::take(&mut self.is_stale) {
            return self.read_again(effects);
        }
        if let Some(command) = self.commands.pop_front() {
            return self.obey(command, effects);
        }
        let Some(record) = self.record.clone() else { return };
        if self.now < self.not_before {
            return;
        }
        let counts = self.rows.is_empty() && !record.is_paused;
        match record.phase {
            Phase::Preparing => self.prepare(effects),
            Phase::Moving if counts => self.prepare(effects),
            Phase::Moving if !record.is_paused => match self.next_step(&record) {
                Some(step) => {
                    let record = Record { begun: step.number, step: Some(step), ..record };
                    self.write(Some(record), effects);
                }
                None => {
                    let phase = if record.manner.ends_itself { Phase::Cleaning } else { Phase::Moved };
                    self.write(Some(Record { phase, step: None, ..record }), effects);
                }
            },
            Phase::Moving | Phase::Moved => {}
            Phase::Cleaning if self.settings.rules.clean => {
                effects.push(Effect::Clean { ask: self.ask() });
                self.doing = Doing::Cleaning;
            }
            Phase::Cleaning => self.write(None, effects),
        }
    }

    fn prepare(&mut self, effects: &mut Vec<Effect>) {
        effects.push(Effect::Prepare { ask: self.ask() });
        self.doing = Doing::Preparing;
    }

    fn obey(&mut self, command: Command, effects: &mut Vec<Effect>) {
        if self.check(&command).is_err() {
            return self.proceed(effects);
        }
        let record = match (command, self.record.clone()) {
            (Command::Start { id, wanted, manner }, _) => {
                Record { manner, ..Record::new(id, self.owners.clone(), wanted) }
            }
            (_, None) => return,
            (Command::Pause, Some(record)) => Record { is_paused: true, ..record },
            (Command::Resume, Some(record)) => Record { is_paused: false, ..record },
            (Command::Reverse, Some(record)) => {
                let phase = if record.phase == Phase::Moved { Phase::Moving } else { record.phase };
                let (before, wanted) = (record.wanted.clone(), record.before.clone());
                Record { phase, before, wanted, is_reversed: true, is_paused: false, step: None, ..record }
            }
            (Command::Finish | Command::Cancel, Some(record)) => {
                Record { phase: Phase::Cleaning, step: None, ..record }
            }
        };
        self.not_before = self.now;
        self.write(Some(record), effects);
    }

    fn rows_of(&self, bucket: BucketId) -> u64 {
        self.rows.get(usize::from(bucket.0)).copied().unwrap_or(0)
    }

    /// The next buckets of one source and target, as many as the pace has rows for; one at least.
    fn next_step(&self, record: &Record) -> Option<Step> {
        let mut left = remaining(&self.owners, &record.wanted);
        let (first, from, to) = left.next()?;
        let mut buckets = vec![first];
        let mut rows = self.rows_of(first);
        for (bucket, _, _) in left.filter(|(_, source, target)| (*source, *target) == (from, to)) {
            let more = rows.saturating_add(self.rows_of(bucket));
            if more > self.pace.rows || buckets.len() >= self.settings.buckets_max {
                break;
            }
            rows = more;
            buckets.push(bucket);
        }
        Some(Step { number: record.begun + 1, from, to, buckets, epoch: self.epoch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reshard::Manner;

    fn halves() -> BucketMap {
        let owner = |bucket: usize| if bucket.is_multiple_of(2) { ShardId(1) } else { ShardId(2) };
        BucketMap::from_owners((0..crate::topology::BUCKETS).map(owner).collect()).unwrap()
    }

    fn machine() -> Machine {
        let mut machine = Machine::new(Settings::default());
        let mut effects = Vec::new();
        machine.step(Duration::ZERO, Event::Tick, &mut effects);
        assert_eq!(effects, [Effect::Read { ask: 1 }]);
        let owners = BucketMap::all_to(ShardId(1));
        let read = Event::Read { ask: 1, record: None, revision: None, owners, epoch: Epoch(7) };
        machine.step(Duration::ZERO, read, &mut effects);
        machine
    }

    #[test]
    fn a_step_is_written_before_anything_is_done_to_a_shard() {
        let mut machine = machine();
        let mut effects = Vec::new();
        let mut told = Vec::new();
        machine.step(
            Duration::ZERO,
            Event::Command(Command::Start { id: 1, wanted: halves(), manner: Manner::default() }),
            &mut effects,
        );
        for _ in 0..11 {
            let event = match effects.pop() {
                None => Event::Tick,
                Some(Effect::Write { ask, record, .. }) => {
                    told.push(if record.is_some_and(|record| record.step.is_some()) { "write step" } else { "write" });
                    Event::Written { ask, revision: Some(1) }
                }
                Some(Effect::Prepare { ask }) => {
                    told.push("prepare");
                    Event::Ready { ask, rows: vec![10; crate::topology::BUCKETS] }
                }
                Some(Effect::Copy { step, .. }) => {
                    told.push("copy");
                    Event::Copied { number: step.number }
                }
                Some(Effect::CloseGate { step, level, .. }) => {
                    told.push(if level == Level::Writes { "hold writes" } else { "hold reads" });
                    Event::Closed { number: step.number, level }
                }
                Some(Effect::Move { step, .. }) => {
                    told.push("move");
                    assert_eq!(step.buckets.len(), 50);
                    Event::Moved { number: step.number, rows: 500 }
                }
                Some(Effect::Decide { step }) => {
                    told.push("decide");
                    Event::Decided { number: step.number, epoch: Epoch(8) }
                }
                Some(Effect::Commit { step }) => {
                    told.push("commit");
                    Event::Settled { number: step.number }
                }
                other => panic!("{other:?}"),
            };
            machine.step(Duration::ZERO, event, &mut effects);
        }
        assert_eq!(
            told,
            [
                "write",
                "prepare",
                "write",
                "write step",
                "copy",
                "hold writes",
                "move",
                "hold reads",
                "decide",
                "commit"
            ]
        );
        assert_eq!(effects.first(), Some(&Effect::OpenGate));
        assert_eq!(machine.buckets_left(), 8_192 - 50);
    }

    /// A machine whose first step has counted, and what it wants done next.
    fn second_step(rest: Duration) -> (Machine, Vec<Effect>) {
        let mut machine = machine();
        let mut effects = Vec::new();
        let start = Command::Start { id: 1, wanted: halves(), manner: Manner::default() };
        machine.step(Duration::ZERO, Event::Command(start), &mut effects);
        loop {
            let (now, event) = match effects.pop() {
                None => (Duration::ZERO, Event::Tick),
                Some(Effect::Write { ask, record, .. }) => {
                    let number = record.and_then(|record| record.step).map_or(0, |step| step.number);
                    let written = Event::Written { ask, revision: Some(1) };
                    machine.step(rest, written, &mut effects);
                    if number == 2 {
                        return (machine, effects);
                    }
                    continue;
                }
                Some(Effect::Prepare { ask }) => {
                    (Duration::ZERO, Event::Ready { ask, rows: vec![10; crate::topology::BUCKETS] })
                }
                Some(Effect::Copy { step, .. }) => (Duration::ZERO, Event::Copied { number: step.number }),
                Some(Effect::CloseGate { step, level, .. }) => {
                    (Duration::ZERO, Event::Closed { number: step.number, level })
                }
                Some(Effect::Move { step, .. }) => (Duration::ZERO, Event::Moved { number: step.number, rows: 500 }),
                Some(Effect::Decide { step }) => (rest, Event::Decided { number: step.number, epoch: Epoch(8) }),
                Some(Effect::Commit { step }) => (rest * 2, Event::Settled { number: step.number }),
                other => panic!("{other:?}"),
            };
            machine.step(now, event, &mut effects);
        }
    }

    #[test]
    fn rows_are_copied_while_statements_run_between_two_steps() {
        let rest = Duration::from_millis(40);
        let (mut machine, mut effects) = second_step(rest);
        let Some(Effect::Copy { step, .. }) = effects.pop() else { panic!("{effects:?}") };
        machine.step(rest * 2, Event::Copied { number: step.number }, &mut effects);
        effects.clear();
        machine.step(rest * 2, Event::Tick, &mut effects);
        assert_eq!(effects, []);
        let wake = machine.wake_at().unwrap();
        assert!(wake > rest * 2, "{wake:?}");
        machine.step(wake, Event::Tick, &mut effects);
        assert!(matches!(effects[..], [Effect::CloseGate { level: Level::Writes, .. }]), "{effects:?}");
    }

    #[test]
    fn a_command_comes_before_a_step_that_is_only_copied() {
        let (mut machine, mut effects) = second_step(Duration::ZERO);
        let Some(Effect::Copy { step, .. }) = effects.pop() else { panic!("{effects:?}") };
        effects.clear();
        machine.step(Duration::ZERO, Event::Copied { number: step.number }, &mut effects);
        assert!(machine.wake_at().is_some_and(|wake| wake == Duration::ZERO));
        machine.step(Duration::ZERO, Event::Command(Command::Pause), &mut effects);
        assert_eq!(effects, [Effect::RollBack { step: step.clone() }]);
        effects.clear();
        machine.step(Duration::ZERO, Event::Settled { number: step.number }, &mut effects);
        let [Effect::Write { ask, record: Some(record), .. }] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(record.step, None);
        let written = Event::Written { ask: *ask, revision: Some(2) };
        effects.clear();
        machine.step(Duration::ZERO, written, &mut effects);
        // The topology is looked at before anything else.
        assert!(matches!(effects[..], [Effect::Read { .. }]), "{effects:?}");
    }

    #[test]
    fn a_copy_that_takes_too_long_is_rolled_back_and_made_smaller() {
        let (mut machine, mut effects) = second_step(Duration::ZERO);
        let Some(Effect::Copy { step, .. }) = effects.pop() else { panic!("{effects:?}") };
        let before = machine.pace().rows;
        let slow = Event::NotCopied { number: step.number, reason: "slow".to_owned(), is_final: false, is_slow: true };
        machine.step(Duration::ZERO, slow, &mut effects);
        assert_eq!(effects.last(), Some(&Effect::RollBack { step }));
        assert_eq!(machine.pace().rows, before / 3);
        assert_eq!(machine.pace().pauses.hold_longest, Duration::ZERO);
    }

    #[test]
    fn a_step_that_was_found_is_settled_by_the_topology() {
        let step = Step { number: 3, from: ShardId(1), to: ShardId(2), buckets: vec![BucketId(1)], epoch: Epoch(7) };
        let record = Record {
            phase: Phase::Moving,
            step: Some(step.clone()),
            ..Record::new(1, BucketMap::all_to(ShardId(1)), halves())
        };
        let settle = |owners| {
            let mut machine = Machine::new(Settings::default());
            let mut effects = Vec::new();
            machine.step(Duration::ZERO, Event::Tick, &mut Vec::new());
            let read = Event::Read { ask: 1, record: Some(record.clone()), revision: Some(1), owners, epoch: Epoch(7) };
            machine.step(Duration::ZERO, read, &mut effects);
            effects
        };
        assert_eq!(settle(halves()), [Effect::Commit { step: step.clone() }]);
        assert_eq!(settle(BucketMap::all_to(ShardId(1))), [Effect::RollBack { step }]);
    }

    #[test]
    fn commands_that_make_no_sense_are_refused() {
        let machine = machine();
        assert_eq!(machine.check(&Command::Cancel), Err("there is no job"));
        assert_eq!(machine.check(&Command::Start { id: 1, wanted: halves(), manner: Manner::default() }), Ok(()));
    }
}
