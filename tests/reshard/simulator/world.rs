//! Shards, a store, a proxy that crashes, clients that write; in virtual time.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use ostrakon::base::{BucketId, Epoch, ShardId};
use ostrakon::reshard::{Buckets, Command, Effect, Event, Gate, Level, Machine, Phase, Record, Settings, Step, Touch};
use ostrakon::topology::BucketMap;

use super::judge::Judge;
use super::random::Random;

/// A transaction that is prepared on a shard.
#[derive(Clone, Debug)]
struct Prepared {
    comes: BTreeMap<u64, u64>,
    goes: BTreeSet<u64>,
}

/// One shard: rows that are committed, and what is prepared, by step.
#[derive(Clone, Debug, Default)]
struct Shard {
    rows: BTreeMap<u64, u64>,
    prepared: BTreeMap<u64, Prepared>,
    has_indexes: bool,
}

/// What the store holds.
struct Store {
    record: Option<Record>,
    revision: Option<u64>,
    next_revision: u64,
    owners: BucketMap,
    epoch: Epoch,
}

/// The process: gone after a crash.
struct Proxy {
    life: u64,
    machine: Machine,
    owners: Arc<BucketMap>,
    epoch: Epoch,
    serves: bool,
    gate: Gate,
    /// What was copied ahead, of which step: it ends with the connection.
    copied: Option<(u64, BTreeMap<u64, u64>)>,
    waits_for_quiet: Option<(u64, Level)>,
}

/// What clients do.
#[derive(Clone, Debug)]
pub enum Statement {
    Write {
        key: u64,
        value: u64,
    },
    /// The row was there before.
    ReadOne {
        key: u64,
        is_awaited: bool,
    },
    /// One shard after the other; these were there before.
    ReadAll {
        awaited: BTreeSet<u64>,
        seen: Vec<u64>,
        left: Vec<ShardId>,
    },
}

impl Statement {
    fn touch(&self) -> Touch {
        let of = |key: u64| Buckets::of(vec![bucket(key)]);
        match self {
            Self::Write { key, .. } => Touch::writes(of(*key)),
            Self::ReadOne { key, .. } => Touch::reads(of(*key)),
            Self::ReadAll { .. } => Touch::reads(Buckets::All),
        }
    }
}

/// Something that happens at a time.
#[derive(Clone, Debug)]
pub enum Happening {
    /// An effect is carried out, in the life of a proxy.
    Effect(u64, Box<Effect>, bool),
    /// What came of it is told.
    Told(u64, Box<Event>),
    /// A statement is carried out, with the owners that it was planned under.
    Run { life: u64, who: u64, statement: Statement, owners: Arc<BucketMap>, epoch: Epoch },
    /// A client begins a statement.
    Begin,
    /// It waits, and tries again.
    Try { life: u64, statement: Statement },
    /// The gate was waited for too long.
    QuietOver(u64, u64, Level),
    /// The proxy is killed.
    Crash,
    /// It starts again.
    Start,
    /// It is woken.
    Wake(u64),
    /// An operator says something.
    Say(Command),
}

struct At(u64, u64, Happening);

impl PartialEq for At {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for At {}
impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for At {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.0, other.1).cmp(&(self.0, self.1))
    }
}

/// All of it.
pub struct World {
    pub now: u64,
    pub random: Random,
    pub judge: Judge,
    settings: Settings,
    shards: BTreeMap<ShardId, Shard>,
    store: Store,
    /// Owners when the job began that is there now: one before it may have been cancelled halfway.
    before: BucketMap,
    proxy: Option<Proxy>,
    lives: u64,
    queue: BinaryHeap<At>,
    count: u64,
    /// Crashes and failures happen.
    pub is_troubled: bool,
    pub is_traced: bool,
    pub crashes: u64,
    pub steps: u64,
}

/// Keys that clients use; few buckets, so that they meet steps.
const KEYS: u64 = 60;

fn bucket(key: u64) -> BucketId {
    BucketId((key * 97 % 48) as u16)
}

fn is_done(step: &Step, owners: &BucketMap) -> bool {
    step.buckets.iter().all(|bucket| owners.owner(*bucket) == step.to)
}

impl World {
    pub fn new(seed: u64, settings: Settings) -> Self {
        let owners = BucketMap::all_to(ShardId(1));
        let shards = (1..=3).map(|id| (ShardId(id), Shard::default())).collect();
        let store = Store { record: None, revision: None, next_revision: 1, owners: owners.clone(), epoch: Epoch(1) };
        let mut world = Self {
            now: 0,
            random: Random(seed),
            judge: Judge::new(owners.clone()),
            before: owners,
            settings,
            shards,
            store,
            proxy: None,
            lives: 0,
            queue: BinaryHeap::new(),
            count: 0,
            is_troubled: true,
            is_traced: std::env::var_os("OSTRAKON_TRACE").is_some(),
            crashes: 0,
            steps: 0,
        };
        world.at(0, Happening::Start);
        world.at(1, Happening::Begin);
        world
    }

    pub fn at(&mut self, after: u64, happening: Happening) {
        self.count += 1;
        self.queue.push(At(self.now + after, self.count, happening));
    }

    pub fn run_until(&mut self, end: u64) {
        while let Some(At(time, ..)) = self.queue.peek() {
            if *time > end {
                break;
            }
            let Some(At(time, _, happening)) = self.queue.pop() else { break };
            self.now = time;
            self.happen(happening);
        }
        self.now = end;
    }

    /// No job, and nothing of one, is left.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(record) = &self.store.record {
            found.push(format!("a record in phase {:?}", record.phase));
        }
        for (id, shard) in &self.shards {
            if !shard.prepared.is_empty() {
                found.push(format!("{id} has prepared transactions"));
            }
            if shard.has_indexes {
                found.push(format!("{id} has indexes"));
            }
        }
        found
    }

    pub fn phase(&self) -> Option<Phase> {
        self.store.record.as_ref().map(|record| record.phase)
    }

    /// Owners of buckets, and what they were when the job began.
    pub fn owners(&self) -> (&BucketMap, &BucketMap) {
        (&self.store.owners, &self.before)
    }

    fn happen(&mut self, happening: Happening) {
        if self.is_traced
            && !matches!(
                happening,
                Happening::Begin | Happening::Run { .. } | Happening::Try { .. } | Happening::Wake(_)
            )
        {
            let text = format!("{happening:?}");
            println!(
                "{:>9} {}",
                self.now,
                text.split("owners: [").next().unwrap_or_default().chars().take(400).collect::<String>()
            );
        }
        match happening {
            Happening::Start => self.start(),
            Happening::Crash => self.crash(),
            Happening::Begin => self.begin_statement(),
            Happening::Try { life, statement } => self.try_statement(life, statement),
            Happening::Run { life, who, statement, owners, epoch } => self.run(life, who, statement, owners, epoch),
            Happening::Effect(life, effect, only_half) => self.carry_out(life, &effect, only_half),
            Happening::Told(life, event) => self.tell(life, *event),
            Happening::QuietOver(life, number, level) => self.quiet_over(life, number, level),
            Happening::Say(command) => {
                let life = self.lives;
                self.tell(life, Event::Command(command));
            }
            Happening::Wake(life) => self.tell(life, Event::Tick),
        }
    }

    /// As `server::start` does it: settled first, then serving, then the driver.
    fn start(&mut self) {
        if self.proxy.is_some() {
            return;
        }
        self.lives += 1;
        if self.settings.rules.settle_first
            && let Some(step) = self.store.record.as_ref().and_then(|record| record.step.clone())
        {
            let commits = is_done(&step, &self.store.owners);
            self.settle(&step, commits);
        }
        self.proxy = Some(Proxy {
            life: self.lives,
            machine: Machine::new(self.settings.clone()),
            owners: Arc::new(self.store.owners.clone()),
            epoch: self.store.epoch,
            serves: true,
            gate: Gate::default(),
            copied: None,
            waits_for_quiet: None,
        });
        self.look();
        let life = self.lives;
        self.tell(life, Event::Tick);
    }

    fn crash(&mut self) {
        if !self.is_troubled || self.proxy.take().is_none() {
            return;
        }
        self.crashes += 1;
        // What was under way on the servers may come to its end, or half of it.
        let pending: Vec<At> = std::mem::take(&mut self.queue).into_vec();
        for At(time, number, happening) in pending {
            match happening {
                Happening::Effect(_, effect, _)
                    if matches!(
                        *effect,
                        Effect::Move { .. } | Effect::Commit { .. } | Effect::RollBack { .. } | Effect::Decide { .. }
                    ) =>
                {
                    // Servers' processes end with their connections, before anybody starts again.
                    if self.random.chance(50) {
                        let half = self.random.chance(50);
                        self.apply(&effect, half);
                    }
                }
                Happening::Effect(..)
                | Happening::Told(..)
                | Happening::QuietOver(..)
                | Happening::Wake(_)
                | Happening::Try { .. }
                | Happening::Run { .. } => {}
                other => self.queue.push(At(time, number, other)),
            }
        }
        let pause = self.random.between(1_000, 400_000);
        self.at(pause, Happening::Start);
    }

    fn begin_statement(&mut self) {
        let pause = if self.is_troubled { self.random.between(100, 6_000) } else { 50_000 };
        self.at(pause, Happening::Begin);
        let key = self.random.between(0, KEYS);
        let statement = match self.random.between(0, 10) {
            0 => Statement::ReadAll {
                awaited: self.judge.keys(),
                seen: Vec::new(),
                left: self.shards.keys().copied().collect(),
            },
            1..=2 => Statement::ReadOne { key, is_awaited: self.judge.keys().contains(&key) },
            _ => Statement::Write { key, value: self.judge.next_value() },
        };
        let Some(life) = self.proxy.as_ref().map(|proxy| proxy.life) else { return };
        self.try_statement(life, statement);
    }

    fn try_statement(&mut self, life: u64, statement: Statement) {
        let took =
            if self.random.chance(3) { self.random.between(50_000, 400_000) } else { self.random.between(50, 2_000) };
        let Some(proxy) = self.proxy.as_mut().filter(|proxy| proxy.life == life && proxy.serves) else { return };
        let who = proxy.gate.come();
        if !proxy.gate.enter(who, &statement.touch()) {
            proxy.gate.leave(who);
            self.at(300, Happening::Try { life, statement });
            return;
        }
        let (owners, epoch) = (Arc::clone(&proxy.owners), proxy.epoch);
        self.at(took, Happening::Run { life, who, statement, owners, epoch });
        self.look();
    }

    fn run(&mut self, life: u64, who: u64, statement: Statement, owners: Arc<BucketMap>, epoch: Epoch) {
        if self.proxy.as_ref().is_none_or(|proxy| proxy.life != life) {
            return;
        }
        match statement {
            Statement::Write { key, value } => {
                let owner = owners.owner(bucket(key));
                let shard = self.shards.get_mut(&owner).unwrap();
                // A row that a prepared transaction deletes is locked: the writer waits for it.
                if shard.prepared.values().any(|prepared| prepared.goes.contains(&key)) {
                    self.at(
                        1_000,
                        Happening::Run { life, who, statement: Statement::Write { key, value }, owners, epoch },
                    );
                    return;
                }
                shard.rows.insert(key, value);
                self.judge.wrote(key, value, bucket(key), owner, epoch);
            }
            Statement::ReadOne { key, is_awaited } => {
                let is_seen = self.shards[&owners.owner(bucket(key))].rows.contains_key(&key);
                self.judge.read(self.now, key, is_awaited, usize::from(is_seen));
            }
            Statement::ReadAll { awaited, mut seen, mut left } => {
                if let Some(next) = left.pop() {
                    seen.extend(self.shards[&next].rows.keys());
                    let took = self.random.between(10, 3_000);
                    let statement = Statement::ReadAll { awaited, seen, left };
                    self.at(took, Happening::Run { life, who, statement, owners, epoch });
                    return;
                }
                for key in 0..KEYS {
                    let count = seen.iter().filter(|seen| **seen == key).count();
                    self.judge.read(self.now, key, awaited.contains(&key), count);
                }
            }
        }
        self.leave(who);
        self.look();
    }

    fn leave(&mut self, who: u64) {
        let Some(proxy) = &mut self.proxy else { return };
        proxy.gate.leave(who);
        if let Some((number, level)) = proxy.waits_for_quiet
            && proxy.gate.is_quiet()
        {
            proxy.waits_for_quiet = None;
            let life = proxy.life;
            self.answer(life, Event::Closed { number, level });
        }
    }

    fn quiet_over(&mut self, life: u64, number: u64, level: Level) {
        let Some(proxy) = self.proxy.as_mut().filter(|proxy| proxy.life == life) else { return };
        if proxy.waits_for_quiet == Some((number, level)) {
            proxy.waits_for_quiet = None;
            self.answer(life, Event::NotClosed { number, level });
        }
    }

    /// Tells something a little later, sometimes twice.
    fn answer(&mut self, life: u64, event: Event) {
        let delay = self.random.between(10, 3_000);
        if self.random.chance(15) {
            let late = self.random.between(10, 60_000);
            self.at(late, Happening::Told(life, Box::new(event.clone())));
        }
        self.at(delay, Happening::Told(life, Box::new(event)));
    }

    fn tell(&mut self, life: u64, event: Event) {
        let now = Duration::from_micros(self.now);
        let Some(proxy) = self.proxy.as_mut().filter(|proxy| proxy.life == life) else { return };
        let mut effects = Vec::new();
        proxy.machine.step(now, event, &mut effects);
        let wake = proxy.machine.wake_at();
        for effect in effects {
            // The gate is the process's own: opening it is no message.
            if effect == Effect::OpenGate {
                self.open_gate();
                continue;
            }
            let delay = self.random.between(10, 4_000);
            let half = self.random.chance(50);
            self.at(delay, Happening::Effect(life, Box::new(effect), half));
        }
        if let Some(wake) = wake {
            let after = (u64::try_from(wake.as_micros()).unwrap_or(u64::MAX)).saturating_sub(self.now);
            self.at(after.max(1), Happening::Wake(life));
        }
    }

    fn open_gate(&mut self) {
        if let Some(proxy) = &mut self.proxy {
            proxy.gate.open();
            proxy.waits_for_quiet = None;
        }
        self.look();
    }

    fn carry_out(&mut self, life: u64, effect: &Effect, only_half: bool) {
        if self.proxy.as_ref().is_none_or(|proxy| proxy.life != life) {
            return;
        }
        if self.is_troubled && self.random.chance(1) {
            // The process dies in the middle of it.
            self.apply(effect, only_half);
            self.crash();
            return;
        }
        let fails = self.is_troubled && self.random.chance(6);
        let event = match effect {
            Effect::CloseGate { step, level, wait } => return self.close_gate(life, step, *level, *wait),
            Effect::OpenGate => return self.open_gate(),
            Effect::Read { ask } => Event::Read {
                ask: *ask,
                record: self.store.record.clone(),
                revision: self.store.revision,
                owners: self.store.owners.clone(),
                epoch: self.store.epoch,
            },
            Effect::Write { ask, expected, .. } if fails || *expected != self.store.revision => {
                Event::NotWritten { ask: *ask }
            }
            Effect::Prepare { ask } if fails => Event::NotReady { ask: *ask, reason: "it fails".to_owned() },
            Effect::Prepare { ask } => {
                self.apply(effect, false);
                Event::Ready { ask: *ask, rows: vec![1; 16_384] }
            }
            Effect::Clean { ask } if fails => Event::NotCleaned { ask: *ask, reason: "it fails".to_owned() },
            Effect::Copy { step, .. } if fails => {
                let is_slow = self.random.chance(50);
                Event::NotCopied { number: step.number, reason: "it fails".to_owned(), is_final: false, is_slow }
            }
            Effect::Copy { step, .. } => {
                let comes = self.rows_of(step);
                if let Some(proxy) = &mut self.proxy {
                    proxy.copied = Some((step.number, comes));
                }
                Event::Copied { number: step.number }
            }
            Effect::Move { step, .. } if fails => {
                self.apply(effect, only_half);
                Event::NotMoved { number: step.number, reason: "it fails".to_owned(), is_final: false }
            }
            Effect::Move { step, .. } => Event::Moved { number: step.number, rows: self.apply(effect, false) },
            Effect::Decide { step } if self.store.epoch != step.epoch && !is_done(step, &self.store.owners) => {
                Event::NotDecided { number: step.number }
            }
            Effect::Commit { step } | Effect::RollBack { step } if fails => {
                self.apply(effect, true);
                Event::NotSettled { number: step.number }
            }
            effect => {
                self.apply(effect, false);
                match effect {
                    Effect::Decide { step } => Event::Decided { number: step.number, epoch: self.store.epoch },
                    Effect::Commit { step } | Effect::RollBack { step } => Event::Settled { number: step.number },
                    Effect::Clean { ask } => Event::Cleaned { ask: *ask },
                    Effect::Write { ask, .. } => Event::Written { ask: *ask, revision: self.store.revision },
                    _ => return,
                }
            }
        };
        self.answer(life, event);
        self.look();
    }

    fn close_gate(&mut self, life: u64, step: &Step, level: Level, wait: Duration) {
        let Some(proxy) = &mut self.proxy else { return };
        let number = step.number;
        proxy.gate.close(&step.buckets, level);
        if proxy.gate.is_quiet() {
            return self.answer(life, Event::Closed { number, level });
        }
        proxy.waits_for_quiet = Some((number, level));
        let wait = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        self.at(wait, Happening::QuietOver(life, number, level));
    }

    /// What an effect does to store and shards; with `half` only to one of two.
    fn apply(&mut self, effect: &Effect, half: bool) -> u64 {
        match effect {
            Effect::Write { record, expected, .. } if *expected == self.store.revision => {
                if self.store.record.is_none() {
                    self.before.clone_from(&self.store.owners);
                }
                self.store.record.clone_from(record);
                self.store.revision = record.as_ref().map(|_| self.store.next_revision);
                self.store.next_revision += 1;
            }
            Effect::Prepare { .. } => self.shards.values_mut().for_each(|shard| shard.has_indexes = true),
            Effect::Clean { .. } => self.shards.values_mut().for_each(|shard| shard.has_indexes = false),
            Effect::Move { step, .. } => return self.move_rows(step, half),
            Effect::Decide { step } => self.decide(step),
            Effect::Commit { step } | Effect::RollBack { step } => {
                let commits = matches!(effect, Effect::Commit { .. });
                if half {
                    self.settle_on(step.from, step, commits);
                } else {
                    self.settle(step, commits);
                }
            }
            _ => {}
        }
        0
    }

    /// The rows of a step as its source has them now.
    fn rows_of(&self, step: &Step) -> BTreeMap<u64, u64> {
        let rows = self.shards[&step.from].rows.iter();
        rows.filter(|(key, _)| step.buckets.contains(&bucket(**key))).map(|(key, value)| (*key, *value)).collect()
    }

    /// What was copied ahead is made the same as what is there now, where it is compared.
    fn move_rows(&mut self, step: &Step, half: bool) -> u64 {
        let now = self.rows_of(step);
        let goes: BTreeSet<u64> = now.keys().copied().collect();
        let rows = now.len() as u64;
        let copied = self.proxy.as_mut().and_then(|proxy| proxy.copied.take());
        let copied = copied.filter(|(number, _)| *number == step.number && !self.settings.rules.compare);
        let comes = copied.map_or(now, |(_, rows)| rows);
        let source = self.shards.get_mut(&step.from).unwrap();
        source.prepared.insert(step.number, Prepared { comes: BTreeMap::new(), goes });
        if !half {
            let target = self.shards.get_mut(&step.to).unwrap();
            target.prepared.insert(step.number, Prepared { comes, goes: BTreeSet::new() });
        }
        rows
    }

    fn decide(&mut self, step: &Step) {
        if is_done(step, &self.store.owners) || self.store.epoch != step.epoch {
            return;
        }
        let mut owners = self.store.owners.owners().to_vec();
        step.buckets.iter().for_each(|bucket| owners[usize::from(bucket.0)] = step.to);
        self.store.owners = BucketMap::from_owners(owners).unwrap();
        self.store.epoch = Epoch(self.store.epoch.0 + 1);
        self.steps += 1;
        self.judge.owned(self.store.epoch, &self.store.owners);
        if let Some(proxy) = &mut self.proxy {
            proxy.owners = Arc::new(self.store.owners.clone());
            proxy.epoch = self.store.epoch;
        }
    }

    fn settle(&mut self, step: &Step, commits: bool) {
        self.settle_on(step.from, step, commits);
        self.settle_on(step.to, step, commits);
    }

    fn settle_on(&mut self, shard: ShardId, step: &Step, commits: bool) {
        let Some(shard) = self.shards.get_mut(&shard) else { return };
        let Some(prepared) = shard.prepared.remove(&step.number) else { return };
        if commits {
            for key in &prepared.goes {
                shard.rows.remove(key);
            }
            shard.rows.extend(prepared.comes);
        }
    }

    /// What any client could read now.
    fn look(&mut self) {
        let Some(proxy) = &self.proxy else { return };
        let reads_wait = proxy.gate.is_closed_for_reads();
        if reads_wait || !proxy.serves {
            return;
        }
        let rows = self.shards.iter().flat_map(|(id, shard)| shard.rows.iter().map(|(key, value)| (*id, *key, *value)));
        self.judge.sees(self.now, rows, |key| proxy.owners.owner(bucket(key)));
    }
}
