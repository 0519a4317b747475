//! Runs the machine of a job: one effect after the other, but for what may take hours.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::decision::{Decision, decide, ready_decision};
use super::links::{Links, SHORT_MS};
use super::parts::{Part, Parts};
use super::rows::{self, Ahead, Moved, NotMoved, Stamps, gid, read_stamps};
use super::tables::{Tables, read_tables};
use super::verify::{Verified, verify};
use super::{Context, Measured, NewShard, PinWish, PlannedMove, join, leave, measure, pin, plan, ready};
use crate::base::{BucketId, ShardId};
use crate::control::client::quote_literal;
use crate::reshard::{Command, Effect, Event, Level, Machine, Record, Settings, Step};
use crate::store::{
    RESHARD_KEY, Revision, Store, StoreError, TOPOLOGY_KEY, decode_reshard, encode_reshard, load_topology,
};
use crate::topology::{BucketMap, Pins, TableRules, Topology};

/// Requests that wait; who has one more waits.
const REQUESTS_MAX: usize = 16;
/// Why shards do not come and go, and keys are not pinned.
const AT_WORK: &str = "a resharding job is at work: end it first";
/// Pause before the store, or a shard, is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// How a job is.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Status {
    /// There is one.
    pub exists: bool,
    /// `preparing`, `moving`, `moved`, `cleaning`, or `none`.
    pub phase: String,
    /// No step begins.
    pub paused: bool,
    /// Buckets go back.
    pub reversed: bool,
    /// Buckets that the job moves.
    pub buckets_total: usize,
    /// Those that have still to move.
    pub buckets_left: usize,
    /// Rows that were moved.
    pub rows_moved: u64,
    /// Bytes of them as they went over the wire, since this process leads the job.
    pub bytes_moved: u64,
    /// Rows that were in the buckets left when they were counted.
    pub rows_left: Option<u64>,
    /// Steps that counted.
    pub steps: u64,
    /// The longest time that what reads moving buckets, or all, was held up.
    pub pause_longest_ms: f64,
    /// The same on average.
    pub pause_mean_ms: f64,
    /// The longest time that writes to moving buckets waited.
    pub hold_longest_ms: f64,
    /// The same on average.
    pub hold_mean_ms: f64,
    /// Statements that waited for a step.
    pub waited: u64,
    /// The longest of their waits.
    pub wait_longest_ms: f64,
    /// Half of them waited no longer.
    pub wait_median_ms: f64,
    /// What steps spend their time on, each on average.
    pub step_parts_ms: String,
    /// Rows that the next step takes.
    pub rows_next: u64,
    /// Why it does not get on.
    pub trouble: Option<String>,
}

/// What is asked of the driver.
enum Request {
    Command(Command, bool, oneshot::Sender<Result<(), String>>),
    Measure(oneshot::Sender<Result<Measured, String>>),
    Verify(oneshot::Sender<Result<Verified, String>>),
    Plan(Option<PinWish>, BucketMap, oneshot::Sender<Result<Vec<PlannedMove>, String>>),
    Pin(PinWish, oneshot::Sender<Result<Option<BucketMap>, String>>),
    Join(NewShard, bool, oneshot::Sender<Result<Topology, String>>),
    Leave(String, bool, oneshot::Sender<Result<(), String>>),
}

/// A driver at work; it ends when the last of these is dropped.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<Status>,
    _task: Arc<AbortOnDrop>,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Handle {
    /// How the job is now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Has a command obeyed; what it begins goes on after this returns. `dry_run`: only looks whether it makes sense now.
    ///
    /// # Errors
    /// Why it makes no sense now.
    ///
    /// # Cancel safety
    /// Dropped, it may be obeyed all the same.
    pub async fn command(&self, command: Command, dry_run: bool) -> Result<(), String> {
        self.ask(|reply| Request::Command(command, dry_run, reply)).await
    }

    /// How much is in each bucket.
    ///
    /// # Errors
    /// In words; also while a job is at work.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn measure(&self) -> Result<Measured, String> {
        self.ask(Request::Measure).await
    }

    /// Looks at every row of every shard; no step counts meanwhile.
    ///
    /// # Errors
    /// In words.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn verify(&self) -> Result<Verified, String> {
        self.ask(Request::Verify).await
    }

    /// What a job would move, after a look for what would stop it halfway.
    ///
    /// # Errors
    /// All that would stop it.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn plan(&self, wanted: BucketMap) -> Result<Vec<PlannedMove>, String> {
        self.ask(|reply| Request::Plan(None, wanted, reply)).await
    }

    /// What it takes to have a key where it is wanted, as [`Self::plan`].
    ///
    /// # Errors
    /// All that would stop it.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn plan_pin(&self, wish: PinWish) -> Result<Vec<PlannedMove>, String> {
        // Owners follow from the wish.
        let wanted = BucketMap::all_to(ShardId::default());
        self.ask(|reply| Request::Plan(Some(wish), wanted, reply)).await
    }

    /// Makes ready for a key to be where it is wanted; the owners that a job has to bring about, if one is needed.
    ///
    /// # Errors
    /// In words; nothing has changed then.
    ///
    /// # Cancel safety
    /// Dropped, it may be done all the same; it changes nothing but what is listed.
    pub async fn pin(&self, wish: PinWish) -> Result<Option<BucketMap>, String> {
        self.ask(|reply| Request::Pin(wish, reply)).await
    }

    /// Takes a shard into the cluster, without buckets. Gives the topology that has it. `dry_run`: only looks whether that is
    /// possible.
    ///
    /// # Errors
    /// In words; it is not part of the cluster then.
    ///
    /// # Cancel safety
    /// Dropped, it may be done all the same.
    pub async fn join(&self, shard: NewShard, dry_run: bool) -> Result<Topology, String> {
        self.ask(|reply| Request::Join(shard, dry_run, reply)).await
    }

    /// Takes a shard out of the cluster that owns nothing; `dry_run`: only looks whether that is possible.
    ///
    /// # Errors
    /// In words; it is still part of the cluster then.
    ///
    /// # Cancel safety
    /// Dropped, it may be done all the same.
    pub async fn leave(&self, name: String, dry_run: bool) -> Result<(), String> {
        self.ask(|reply| Request::Leave(name, dry_run, reply)).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Request + Send,
    ) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        let gone = || "resharding is not at work here any more".to_owned();
        self.requests.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// As [`start`], with the usual limits.
pub fn start_usual(context: Context) -> Handle {
    start(context, Settings::default())
}

/// Starts the driver; it goes on with the job that the store holds.
pub fn start(context: Context, settings: Settings) -> Handle {
    let (requests, received) = mpsc::channel(REQUESTS_MAX);
    let (shows, status) = watch::channel(Status { phase: "reading".to_owned(), ..Status::default() });
    let driver = Driver {
        context,
        machine: Machine::new(settings),
        links: Links::default(),
        tables: None,
        ahead: None,
        decision: None,
        bytes_moved: 0,
        parts: Parts::default(),
        begun: Instant::now(),
        tasks: JoinSet::new(),
        replies: Vec::new(),
        shows,
    };
    let task = tokio::spawn(driver.run(received));
    Handle { requests, status, _task: Arc::new(AbortOnDrop(task)) }
}

/// What the tables were read under.
#[derive(Clone)]
struct Known {
    tables: Arc<Tables>,
    stamps: Arc<Stamps>,
    rules: TableRules,
    pins: Pins,
    /// On every shard, when nothing is said of it.
    is_read_committed: bool,
}

struct Driver {
    context: Context,
    machine: Machine,
    links: Links,
    tables: Option<Box<Known>>,
    ahead: Option<Ahead>,
    decision: Option<Decision>,
    bytes_moved: u64,
    parts: Parts,
    begun: Instant,
    tasks: JoinSet<(Event, Option<Box<Known>>)>,
    /// Of commands that were taken in; told when the record says so, too.
    replies: Vec<oneshot::Sender<Result<(), String>>>,
    shows: watch::Sender<Status>,
}

impl Driver {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut events = VecDeque::from([Event::Tick]);
        let mut effects = Vec::new();
        loop {
            let event = match events.pop_front() {
                Some(event) => event,
                None => match self.wait(&mut requests).await {
                    Some(event) => event,
                    None => return,
                },
            };
            self.machine.step(self.begun.elapsed(), event, &mut effects);
            for effect in effects.drain(..) {
                tracing::trace!(?effect, "reshard");
                if let Some(event) = self.carry_out(effect).await {
                    events.push_back(event);
                }
            }
            let status = self.status();
            self.shows.send_if_modified(|known| std::mem::replace(known, status.clone()) != status);
        }
    }

    /// The next thing that happens; `None`: nobody can ask any more.
    async fn wait(&mut self, requests: &mut mpsc::Receiver<Request>) -> Option<Event> {
        enum Happened {
            Asked(Option<Request>),
            Ended(Event, Option<Box<Known>>),
            Woken,
        }
        for reply in self.replies.drain(..) {
            let _left = reply.send(Ok(()));
        }
        let wake = self.machine.wake_at();
        let happened = tokio::select! {
            biased;
            request = requests.recv() => Happened::Asked(request),
            Some(ended) = self.tasks.join_next() => match ended {
                Ok((event, known)) => Happened::Ended(event, known),
                // It is not told which; the answer that is missing is waited for, until the job is read anew.
                Err(error) => { tracing::error!(%error, "what a job needs could not be made"); Happened::Woken }
            },
            () = sleep_until(self.begun + wake.unwrap_or_default()), if wake.is_some() => Happened::Woken,
        };
        match happened {
            Happened::Woken => Some(Event::Tick),
            Happened::Ended(event, known) => {
                self.tables = known.or_else(|| self.tables.take());
                Some(event)
            }
            Happened::Asked(request) => self.answer(request?).await,
        }
    }

    async fn answer(&mut self, request: Request) -> Option<Event> {
        // Who asked may have left meanwhile; that is no matter.
        match request {
            Request::Command(command, dry_run, reply) => {
                if let Err(reason) = self.machine.check(&command) {
                    let _left = reply.send(Err(reason.to_owned()));
                    return Some(Event::Tick);
                }
                if dry_run {
                    let _left = reply.send(Ok(()));
                    return Some(Event::Tick);
                }
                self.replies.push(reply);
                return Some(Event::Command(command));
            }
            Request::Verify(reply) => {
                let _left = reply.send(self.verify().await);
            }
            Request::Plan(wish, wanted, reply) => {
                let _left = reply.send(self.plan(wish, wanted).await);
            }
            Request::Pin(wish, reply) => {
                let pinned = match self.machine.record() {
                    Some(_) => Err(AT_WORK.to_owned()),
                    None => pin::make_ready(&self.context, &wish).await,
                };
                let wanted = |(topology, moves): (Topology, Option<(BucketId, ShardId)>)| {
                    moves.map(|(bucket, to)| topology.buckets.with_owner(bucket, to))
                };
                let _left = reply.send(pinned.map(wanted));
                self.forget_shards();
            }
            Request::Measure(reply) => {
                let topology = self.context.topology.load_full();
                let measured = match self.machine.record() {
                    Some(_) => Err(AT_WORK.to_owned()),
                    None => measure::measure(&self.context.find_primary(), &topology).await,
                };
                let _left = reply.send(measured);
            }
            Request::Join(shard, dry_run, reply) => {
                let joined = match self.machine.record() {
                    Some(_) => Err(AT_WORK.to_owned()),
                    None => join::join(&self.context, shard, dry_run).await,
                };
                let _left = reply.send(joined);
                self.forget_shards();
            }
            Request::Leave(name, dry_run, reply) => {
                let left = match self.machine.record() {
                    Some(_) => Err(AT_WORK.to_owned()),
                    None => leave::leave(&self.context, &name, dry_run).await,
                };
                let _left = reply.send(left);
                self.links.clear();
                self.forget_shards();
            }
        }
        Some(Event::Tick)
    }

    /// A job that is started next has to know what shards there are.
    fn forget_shards(&mut self) {
        if self.machine.record().is_none() {
            self.machine = Machine::new(self.machine.settings().clone());
        }
    }

    async fn plan(&self, wish: Option<PinWish>, wanted: BucketMap) -> Result<Vec<PlannedMove>, String> {
        let topology = self.context.topology.load_full();
        let find = self.context.find_primary();
        let Some(wish) = wish else { return plan::plan(&find, &topology, &wanted).await };
        let (topology, moves) = pin::wished(&topology, &wish)?;
        let Some((bucket, to)) = moves else { return Ok(Vec::new()) };
        plan::plan(&find, &topology, &topology.buckets.with_owner(bucket, to)).await
    }

    async fn verify(&self) -> Result<Verified, String> {
        if !self.machine.is_at_rest() {
            return Err("a step is being settled: try again".to_owned());
        }
        let find = self.context.find_primary();
        let topology = self.context.topology.load_full();
        let home = topology.home();
        let target = find(home).ok_or("the home shard has no primary")?;
        let tables = read_tables(&target, &topology).await?;
        verify(&find, &topology, &tables).await
    }

    async fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Read { ask } => Some(self.read(ask).await),
            Effect::Write { ask, record, expected } => Some(self.write(ask, record, expected).await),
            Effect::Prepare { ask } => {
                let (context, record) = (self.context.clone(), self.machine.record()?.clone());
                self.tasks.spawn(async move {
                    match prepare(&context, &record).await {
                        Ok((known, rows)) => (Event::Ready { ask, rows }, Some(Box::new(known))),
                        Err(reason) => (Event::NotReady { ask, reason }, None),
                    }
                });
                None
            }
            Effect::CloseGate { step, level, wait } => {
                let begun = Instant::now();
                let event = self.close_gate(&step, level, wait).await;
                self.parts.note(if level == Level::Writes { Part::Writers } else { Part::Readers }, begun.elapsed());
                Some(event)
            }
            Effect::OpenGate => {
                self.context.steps.open();
                None
            }
            Effect::Copy { step, limit } => Some(self.copy_ahead(step, limit).await),
            Effect::Move { step, limit } => Some(self.move_rows(step, limit).await),
            Effect::Decide { step } => {
                let begun = Instant::now();
                let event = self.decide(&step).await;
                self.parts.note(Part::Decide, begun.elapsed());
                Some(event)
            }
            Effect::Commit { step } => {
                let begun = Instant::now();
                let event = self.commit(&step).await;
                self.parts.note(Part::Commit, begun.elapsed());
                Some(event)
            }
            Effect::RollBack { step } => {
                self.ahead = None;
                self.links.clear();
                Some(self.settle(&step, false).await)
            }
            Effect::Clean { ask } => {
                self.links.clear();
                let shards: Vec<ShardId> = self.context.topology.load().shard_ids().collect();
                let find = self.context.find_primary();
                let replicas = self.context.replicas();
                let cleaned = async {
                    ready::clean(&find, &shards).await?;
                    pin::settle(&self.context).await?;
                    ready::await_replicas(&find, &replicas).await
                };
                let cleaned = cleaned.await;
                Some(match cleaned {
                    Ok(()) => Event::Cleaned { ask },
                    Err(reason) => Event::NotCleaned { ask, reason },
                })
            }
        }
    }

    /// The first time all statements are brought to an end for a moment: those that begin afterwards are asked what they
    /// touch.
    async fn close_gate(&self, step: &Step, level: Level, wait: Duration) -> Event {
        let (number, steps) = (step.number, &self.context.steps);
        if !steps.is_armed() {
            let Some(_quiet) = self.context.close_gate(wait).await else { return Event::NotClosed { number, level } };
            steps.arm(self.tables.as_ref().is_some_and(|known| known.is_read_committed));
        }
        let is_closed = steps.close(&step.buckets, level, wait).await;
        let is_closed = is_closed && (level == Level::All || self.end_abandoned(step.from).await);
        if is_closed { Event::Closed { number, level } } else { Event::NotClosed { number, level } }
    }

    /// Backends of the source that nobody waits for any more may still write to the step's buckets.
    async fn end_abandoned(&self, source: ShardId) -> bool {
        let find = self.context.find_primary();
        let Some(target) = find(source) else { return false };
        let backends = self.context.steps.take_abandoned(target.node);
        if backends.is_empty() {
            return true;
        }
        let ended = rows::end_backends(&find, source, &backends).await;
        if let Err(error) = &ended {
            tracing::warn!(%error, "backends without sessions do not end");
            backends.iter().for_each(|backend| self.context.steps.keep_abandoned(*backend));
        }
        ended.is_ok()
    }

    async fn read(&self, ask: u64) -> Event {
        loop {
            match read(self.context.store.as_ref(), ask).await {
                Ok(Some(event)) => return event,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "the resharding job cannot be read"),
            }
            sleep(AGAIN).await;
        }
    }

    async fn write(&mut self, ask: u64, record: Option<Record>, expected: Option<u64>) -> Event {
        let (begun, expected) = (Instant::now(), expected.map(Revision));
        if record.is_some() {
            self.context.replicas_rest.store(true, Ordering::Release);
        }
        let written = match (&record, expected) {
            (Some(record), _) => match encode_reshard(record) {
                Ok(bytes) => self.context.store.put(RESHARD_KEY, bytes, expected).await.map(Some),
                Err(error) => Err(error),
            },
            (None, Some(expected)) => self.context.store.delete(RESHARD_KEY, expected).await.map(|()| None),
            (None, None) => Ok(None),
        };
        match written {
            Ok(revision) => {
                if record.is_none() {
                    (self.bytes_moved, self.parts) = (0, Parts::default());
                    self.context.replicas_rest.store(false, Ordering::Release);
                    self.context.steps.disarm();
                }
                // Connections and tables are looked after before anything is stopped.
                if let Some(step) = record.and_then(|record| record.step) {
                    self.get_ready(&step).await;
                    self.parts.note(Part::Record, begun.elapsed());
                }
                Event::Written { ask, revision: revision.map(|revision| revision.0) }
            }
            Err(error) => {
                tracing::warn!(%error, "the resharding job is not written");
                sleep(AGAIN).await;
                Event::NotWritten { ask }
            }
        }
    }

    /// What is missing is told by the step itself.
    async fn get_ready(&mut self, step: &Step) {
        let find = self.context.find_primary();
        let topology = self.context.topology.load_full();
        for shard in BTreeSet::from([topology.home(), step.from, step.to]) {
            if let Err(error) = self.links.ensure(&find, shard).await {
                tracing::debug!(%shard, %error, "no connection");
            }
        }
        let is_known = |known: &Known| known.rules == topology.tables && known.pins == topology.pins;
        if !self.tables.as_deref().is_some_and(is_known) {
            self.tables = know_tables(&self.context, &topology).await.ok().map(Box::new);
        }
        if let Some(known) = self.tables.as_ref().filter(|_| self.context.steps.is_armed()) {
            self.context.steps.arm(known.is_read_committed);
        }
    }

    async fn copy_ahead(&mut self, step: Step, limit: Duration) -> Event {
        let (number, begun) = (step.number, Instant::now());
        match timeout(limit, self.try_copy(&step)).await {
            Ok(Ok(ahead)) => {
                self.parts.note(Part::Copy, begun.elapsed());
                self.ahead = Some(ahead);
                Event::Copied { number }
            }
            Ok(Err(NotMoved { reason, is_final })) => {
                self.step_failed(number, &reason, is_final);
                Event::NotCopied { number, reason, is_final, is_slow: false }
            }
            Err(_) => {
                let reason = too_long(&step);
                self.step_failed(number, &reason, false);
                Event::NotCopied { number, reason, is_final: false, is_slow: true }
            }
        }
    }

    async fn try_copy(&mut self, step: &Step) -> Result<Ahead, NotMoved> {
        let (_, tables) = self.known_for(step)?;
        rows::copy_ahead(&mut self.links, step, &tables.tables).await
    }

    async fn move_rows(&mut self, step: Step, limit: Duration) -> Event {
        let (number, begun) = (step.number, Instant::now());
        match timeout(limit, self.try_move(&step)).await {
            Ok(Ok(Moved { rows, bytes, prepare })) => {
                self.bytes_moved += bytes;
                self.parts.note(Part::Rows, begun.elapsed().saturating_sub(prepare));
                self.parts.note(Part::Prepare, prepare);
                self.decision = ready_decision(self.context.store.as_ref(), &step).await.ok().flatten();
                Event::Moved { number, rows }
            }
            Ok(Err(NotMoved { reason, is_final })) => {
                self.step_failed(number, &reason, is_final);
                Event::NotMoved { number, reason, is_final }
            }
            Err(_) => {
                let reason = too_long(&step);
                self.step_failed(number, &reason, false);
                Event::NotMoved { number, reason, is_final: false }
            }
        }
    }

    fn step_failed(&mut self, number: u64, reason: &str, is_final: bool) {
        tracing::info!(number, reason, is_final, "a step is undone");
        // What was known of the tables may be why.
        self.tables = None;
    }

    async fn try_move(&mut self, step: &Step) -> Result<Moved, NotMoved> {
        let (home, known) = self.known_for(step)?;
        let job = self.machine.record().map(|record| record.id).ok_or("there is no job".to_owned())?;
        let ahead = self.ahead.take().filter(|ahead| ahead.number == step.number);
        let ahead = ahead.ok_or("nothing was copied".to_owned())?;
        rows::move_rows(&mut self.links, ahead, job, step, &known.tables, &known.stamps, home).await
    }

    /// The home shard, and the tables as the step has to know them.
    fn known_for(&self, step: &Step) -> Result<(ShardId, Known), String> {
        let known = self.tables.as_deref().ok_or("the tables are not known")?;
        let topology = self.context.topology.load();
        if topology.epoch != step.epoch || topology.tables != known.rules || topology.pins != known.pins {
            return Err("the topology has changed".to_owned());
        }
        Ok((topology.home(), known.clone()))
    }

    /// Comes back only when it is known which way it went.
    async fn decide(&mut self, step: &Step) -> Event {
        let number = step.number;
        if let Some(Decision { next, revision, bytes }) = self.decision.take()
            && next.epoch.0 == step.epoch.0 + 1
            && self.context.store.put(TOPOLOGY_KEY, bytes, Some(revision)).await.is_ok()
        {
            self.context.publish(&next);
            return Event::Decided { number, epoch: next.epoch };
        }
        loop {
            match decide(self.context.store.as_ref(), step).await {
                Ok(Some(next)) => {
                    self.context.publish(&next);
                    return Event::Decided { number, epoch: next.epoch };
                }
                Ok(None) => return Event::NotDecided { number },
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, "whether a step counts is not known yet");
                    sleep(AGAIN).await;
                }
            }
        }
    }

    async fn commit(&self, step: &Step) -> Event {
        let job = self.machine.record().map_or(0, |record| record.id);
        let sql = format!("COMMIT PREPARED {}", quote_literal(&gid(job, step)));
        let both = async {
            let (source, target) = (self.links.get(step.from)?, self.links.get(step.to)?);
            let committed = tokio::try_join!(source.rows(&sql, SHORT_MS), target.rows(&sql, SHORT_MS));
            committed.map(drop).map_err(|error| error.to_string())
        };
        match both.await {
            Ok(()) => Event::Settled { number: step.number },
            // One of them may have done it.
            Err(_) => self.settle(step, true).await,
        }
    }

    async fn settle(&self, step: &Step, commits: bool) -> Event {
        let job = self.machine.record().map_or(0, |record| record.id);
        let number = step.number;
        match rows::settle(&self.context.find_primary(), job, step, commits).await {
            Ok(()) => Event::Settled { number },
            Err(error) => {
                tracing::warn!(number, commits, %error, "a step is not settled yet");
                Event::NotSettled { number }
            }
        }
    }

    fn status(&self) -> Status {
        let pace = self.machine.pace();
        let Some(record) = self.machine.record() else {
            let phase = if self.machine.is_reading() { "reading" } else { "none" };
            return Status { phase: phase.to_owned(), ..Status::default() };
        };
        let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
        let pairs = record.before.owners().iter().zip(record.wanted.owners());
        let moves = pairs.filter(|(before, wanted)| before != wanted).count();
        let left = self.machine.buckets_left();
        let waits = self.context.steps.waits();
        Status {
            exists: true,
            phase: record.phase.as_str().to_owned(),
            paused: record.is_paused,
            reversed: record.is_reversed,
            buckets_total: moves.max(left),
            buckets_left: left,
            rows_moved: record.rows,
            rows_left: self.machine.rows_left(),
            bytes_moved: self.bytes_moved,
            steps: record.steps,
            pause_longest_ms: ms(pace.pauses.longest),
            pause_mean_ms: ms(pace.pauses.total) / pace.pauses.count.max(1) as f64,
            hold_longest_ms: ms(pace.pauses.hold_longest),
            hold_mean_ms: ms(pace.pauses.hold_total) / pace.pauses.count.max(1) as f64,
            waited: waits.count,
            wait_longest_ms: ms(waits.longest),
            wait_median_ms: ms(waits.median()),
            rows_next: pace.rows,
            step_parts_ms: self.parts.text(),
            trouble: self.machine.trouble().map(str::to_owned),
        }
    }
}

async fn read(store: &dyn Store, ask: u64) -> Result<Option<Event>, StoreError> {
    let entry = store.get(RESHARD_KEY).await?;
    let Some((topology, _)) = load_topology(store).await? else { return Ok(None) };
    let record = entry.as_ref().map(|entry| decode_reshard(&entry.value)).transpose()?;
    let revision = entry.map(|entry| entry.revision.0);
    Ok(Some(Event::Read { ask, record, revision, owners: topology.buckets, epoch: topology.epoch }))
}

fn too_long(step: &Step) -> String {
    format!("{} buckets from {} took too long", step.buckets.len(), step.buckets.first().map_or(0, |bucket| bucket.0))
}

async fn know_tables(context: &Context, topology: &Topology) -> Result<Known, String> {
    let find = context.find_primary();
    let home = topology.home();
    let target = find(home).ok_or("the home shard has no primary")?;
    let stamps = read_stamps(&find, topology.shard_ids()).await?;
    let tables = read_tables(&target, topology).await?;
    let is_read_committed = rows::are_read_committed(&find, topology.shard_ids()).await?;
    if read_stamps(&find, topology.shard_ids()).await? != stamps {
        return Err("the schema changed while it was read".to_owned());
    }
    let (rules, pins) = (topology.tables.clone(), topology.pins.clone());
    Ok(Known { tables: Arc::new(tables), stamps: Arc::new(stamps), rules, pins, is_read_committed })
}

/// Shards that give or take.
pub(super) fn involved(before: &BucketMap, wanted: &BucketMap) -> Vec<ShardId> {
    let pairs = before.owners().iter().zip(wanted.owners()).filter(|(now, then)| now != then);
    pairs.flat_map(|(now, then)| [*now, *then]).collect::<BTreeSet<_>>().into_iter().collect()
}

async fn prepare(context: &Context, record: &Record) -> Result<(Known, Vec<u64>), String> {
    let topology = context.topology.load_full();
    let find = context.find_primary();
    let known = know_tables(context, &topology).await?;
    let shards = involved(&topology.buckets, &record.wanted);
    ready::check(&find, &shards, &known.tables).await?;
    ready::make_indexes(&find, &shards, &known.tables).await?;
    let rows = ready::count(&find, &shards, &known.tables, topology.buckets.owners().len()).await?;
    Ok((known, rows))
}
