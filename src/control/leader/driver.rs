//! Runs one shard's machine: asks the nodes, keeps the record, does what the machine wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::node::{self, Places};
use crate::backend::ConnectTarget;
use crate::base::{Epoch, NodeId, ShardId, Term};
use crate::control::client::ControlClient;
use crate::failover::{
    Action, ActionKind, Aside, Cause, Effect, Event, Failure, Machine, Member, Outcome, Phase, Record, Serving,
    Settings,
};
use crate::store::agents::{Order, OrderKind};
use crate::store::{
    BoxFuture, Change, Revision, Store, StoreError, WatchEvent, decode_leadership, encode_leadership, leadership_key,
    load_topology, save_topology,
};
use crate::topology::Role;

/// Events that wait to be taken in; who has one more waits.
const EVENTS_MAX: usize = 256;
/// No action but a rejoin takes longer, or it is begun again.
const ACTION_MAX: Duration = Duration::from_secs(6);
const LEASE_LENGTH: Duration = Duration::from_secs(2);
const LEASE_PAUSE: Duration = Duration::from_millis(500);
/// How often a connection is looked at while nothing is asked of it.
const LOOK: Duration = Duration::from_millis(10);

/// How often whoever looks after a server that does not answer is asked whether anything is there.
const EMPTY_PAUSE: Duration = Duration::from_millis(500);

/// Those who look after the servers.
pub trait Hands: Send + Sync {
    /// Carries an order out; true when it is done.
    fn obey(&self, node: NodeId, order: Order) -> BoxFuture<'_, bool>;

    /// Whether nothing is there that could be lost.
    fn is_empty(&self, node: NodeId) -> BoxFuture<'_, bool>;

    /// Whether there is somebody who looks after it.
    fn are_there(&self, node: NodeId) -> BoxFuture<'_, bool>;
}

/// How a shard is led.
#[derive(Clone)]
pub struct DriverSettings {
    /// The shard.
    pub shard: ShardId,
    /// The machine's.
    pub machine: Settings,
    /// Pause between two questions to a node.
    pub probe_pause: Duration,
    /// How long an answer is waited for.
    pub probe_limit: Duration,
    /// What tells this proxy from others.
    pub holder: String,
}

/// One shard's driver.
pub struct Driver {
    /// How.
    pub settings: DriverSettings,
    /// Where the record is.
    pub store: Arc<dyn Store>,
    /// Where the nodes are.
    pub places: Arc<Places>,
    /// The nodes.
    pub members: Vec<Member>,
    /// The primary, where there is no record yet.
    pub first: (Term, NodeId),
    /// Who makes nodes anew.
    pub hands: Arc<dyn Hands>,
}

/// A driver at work; it ends when this is dropped.
pub struct Handle {
    /// Whether statements may be sent, and where.
    pub serving: watch::Receiver<Serving>,
    /// The record as it was last read.
    pub record: watch::Receiver<Option<Record>>,
    /// Who looks after the servers.
    pub hands: Arc<dyn Hands>,
    shared: Arc<Shared>,
    asking: Mutex<BTreeMap<NodeId, Asking>>,
    tasks: Mutex<JoinSet<()>>,
}

/// Asks one node until it is dropped.
struct Asking {
    target: ConnectTarget,
    task: JoinHandle<()>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Handle {
    /// Asks for another primary. Whether it comes to that shows in the record.
    ///
    /// # Cancel safety
    /// Dropped, nothing was asked.
    pub async fn command(&self, cause: Cause) {
        self.shared.tell(Event::Command(cause)).await;
    }

    /// Asks for a node to count no more, or again. Whether it comes to that shows in the record.
    ///
    /// # Cancel safety
    /// Dropped, nothing was asked.
    pub async fn set_aside(&self, node: NodeId, aside: Option<Aside>) {
        self.shared.tell(Event::SetAside { node, aside }).await;
    }

    /// Nodes have come, gone or moved.
    ///
    /// # Cancel safety
    /// Called again it does the rest.
    pub async fn set_nodes(&self, members: Vec<Member>, places: Places) {
        {
            let mut asking = self.asking.lock();
            asking.retain(|node, asking| places.targets.get(node) == Some(&asking.target));
            self.shared.places.store(Arc::new(places));
            ask_all(&self.shared, &mut asking);
        }
        self.shared.tell(Event::Members(members)).await;
    }

    /// The shard has left the cluster: nobody is asked or told anything any more. Its record stays, so that no later shard
    /// takes it for its own.
    pub fn end(&self) {
        self.asking.lock().clear();
        self.tasks.lock().abort_all();
    }

    /// Where the nodes are now.
    pub fn places(&self) -> Arc<Places> {
        self.shared.places.load_full()
    }

    /// A node that has left receives nothing more, and nobody keeps anything for it. Where it cannot be reached it has
    /// to be stopped by hand. `places` are those from before it left: by now nothing may know its name any more.
    ///
    /// # Cancel safety
    /// Called again it does the rest.
    pub async fn let_go(&self, node: NodeId, places: &Places) {
        let Some(record) = self.record.borrow().clone() else { return };
        let frozen = timeout(ACTION_MAX, node::act(places, node, record.stamp(), &Action::Freeze)).await;
        tracing::info!(%node, ?frozen, "a node has left");
        if let Err(error) = node::drop_slot(places, record.primary, node).await {
            tracing::warn!(%node, %error, "its slot is kept: drop it by hand");
        }
    }
}

/// What tasks share.
struct Shared {
    settings: DriverSettings,
    store: Arc<dyn Store>,
    places: ArcSwap<Places>,
    hands: Arc<dyn Hands>,
    rejoining: Mutex<BTreeSet<NodeId>>,
    first: (Term, NodeId),
    events: mpsc::Sender<Event>,
    start: Instant,
}

impl Driver {
    /// Begins to lead.
    pub fn start(self) -> Handle {
        let (events, taken) = mpsc::channel(EVENTS_MAX);
        let (serving, shows_serving) = watch::channel(Serving::Closed);
        let (record, shows_record) = watch::channel(None);
        let shared = Arc::new(Shared {
            settings: self.settings.clone(),
            store: self.store,
            places: ArcSwap::new(self.places),
            hands: Arc::clone(&self.hands),
            rejoining: Mutex::default(),
            first: self.first,
            events,
            start: Instant::now(),
        });
        let mut tasks = JoinSet::new();
        let mut asking = BTreeMap::new();
        ask_all(&shared, &mut asking);
        tasks.spawn(watch_record(Arc::clone(&shared)));
        tasks.spawn(hold_lease(Arc::clone(&shared)));
        let machine = Machine::new(self.settings.machine, self.members);
        tasks.spawn(lead(Arc::clone(&shared), machine, taken, serving, record));
        let (serving, record, hands, asking) = (shows_serving, shows_record, self.hands, Mutex::new(asking));
        Handle { serving, record, hands, shared, asking, tasks: Mutex::new(tasks) }
    }
}

/// A task for each node that has none.
fn ask_all(shared: &Arc<Shared>, asking: &mut BTreeMap<NodeId, Asking>) {
    for (node, target) in &shared.places.load().targets {
        asking.entry(*node).or_insert_with(|| {
            let task = tokio::spawn(ask_for_ever(Arc::clone(shared), *node, target.clone()));
            Asking { target: target.clone(), task }
        });
    }
}

impl Shared {
    async fn tell(&self, event: Event) {
        // Without a taker everything ends together.
        let _ended = self.events.send(event).await;
    }

    fn key(&self) -> String {
        leadership_key(self.settings.shard)
    }
}

async fn lead(
    shared: Arc<Shared>,
    mut machine: Machine,
    mut events: mpsc::Receiver<Event>,
    serving: watch::Sender<Serving>,
    shows: watch::Sender<Option<Record>>,
) {
    let mut tasks = JoinSet::new();
    let mut effects = Vec::new();
    let mut told = None;
    loop {
        let wake = machine.wake_at().unwrap_or(shared.start.elapsed() + LEASE_PAUSE);
        let event = tokio::select! {
            event = events.recv() => event,
            () = sleep_until(shared.start + wake) => Some(Event::Tick),
        };
        let Some(event) = event else { return };
        machine.step(shared.start.elapsed(), event, &mut effects);
        for effect in effects.drain(..) {
            tasks.spawn(carry_out(Arc::clone(&shared), effect));
        }
        while tasks.try_join_next().is_some() {}
        let now = machine.serving(shared.start.elapsed());
        serving.send_if_modified(|known| std::mem::replace(known, now) != now);
        if shows.borrow().as_ref() != machine.record() {
            if let Some(record) = machine.record() {
                let (term, phase) = (record.term, &record.phase);
                tracing::info!(shard = %shared.settings.shard, %term, ?phase, primary = %record.primary, "leadership");
                if record.phase == Phase::Open && told != Some((record.term, record.primary)) {
                    told = Some((record.term, record.primary));
                    tasks.spawn(tell_topology(Arc::clone(&shared), record.clone()));
                }
            }
            shows.send_replace(machine.record().cloned());
        }
    }
}

async fn carry_out(shared: Arc<Shared>, effect: Effect) {
    match effect {
        Effect::Read { asked } => {
            if let Some((record, revision)) = read(&shared).await {
                shared.tell(Event::Read { asked, record, revision }).await;
            }
        }
        Effect::Write { record, expected } => {
            let event = match write(&shared, &record, Some(Revision(expected))).await {
                Ok(revision) => Event::Written { record: *record, revision },
                Err(error) => {
                    tracing::debug!(shard = %shared.settings.shard, %error, "the record was not written");
                    Event::NotWritten
                }
            };
            shared.tell(event).await;
        }
        Effect::Act { node, stamp, action } => {
            let kind = action.kind();
            let outcome = match &action {
                Action::Rejoin { primary } => {
                    rejoin(&shared, node, Order::new(OrderKind::Follow, *primary, stamp)).await
                }
                Action::Fill { primary } => rejoin(&shared, node, Order::new(OrderKind::Fill, *primary, stamp)).await,
                Action::Copy { primary } => rejoin(&shared, node, Order::new(OrderKind::Copy, *primary, stamp)).await,
                action => {
                    let places = shared.places.load_full();
                    timeout(ACTION_MAX, node::act(&places, node, stamp, action)).await.unwrap_or(Outcome::Failed)
                }
            };
            let is_told = matches!(kind, ActionKind::Freeze | ActionKind::Promote | ActionKind::Fence);
            if is_told || (kind.makes_standby() && outcome == Outcome::Done) {
                tracing::info!(%node, ?kind, ?stamp, ?outcome, "done to a node");
            }
            shared.tell(Event::Ended { node, kind, stamp, outcome }).await;
        }
    }
}

/// The record; where there is none, the first one is written.
async fn read(shared: &Shared) -> Option<(Record, u64)> {
    let read = async {
        match shared.store.get(&shared.key()).await? {
            Some(entry) => Ok((decode_leadership(&entry.value)?, entry.revision.0)),
            None => {
                let (term, primary) = shared.first;
                let record = Record::first(term, primary, BTreeSet::new(), 0);
                let revision = write(shared, &record, None).await?;
                Ok((record, revision))
            }
        }
    };
    let read: Result<_, StoreError> = read.await;
    read.inspect_err(|error| tracing::debug!(shard = %shared.settings.shard, %error, "the record cannot be read")).ok()
}

async fn write(shared: &Shared, record: &Record, expected: Option<Revision>) -> Result<u64, StoreError> {
    Ok(shared.store.put(&shared.key(), encode_leadership(record)?, expected).await?.0)
}

/// One at a time for each node, however often it is asked for.
async fn rejoin(shared: &Shared, node: NodeId, order: Order) -> Outcome {
    if !shared.hands.are_there(node).await || !shared.rejoining.lock().insert(node) {
        return Outcome::Failed;
    }
    let places = shared.places.load_full();
    let has_slot = node::make_slot(&places, NodeId(order.primary), node).await;
    let is_done = has_slot.is_ok() && shared.hands.obey(node, order).await;
    shared.rejoining.lock().remove(&node);
    if is_done { Outcome::Done } else { Outcome::Failed }
}

/// The topology names the primary of the term that is open; whoever sees it first writes it.
async fn tell_topology(shared: Arc<Shared>, record: Record) {
    loop {
        let loaded = match load_topology(shared.store.as_ref()).await {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "the topology cannot be read");
                sleep(LEASE_PAUSE).await;
                continue;
            }
        };
        let (mut topology, revision) = loaded;
        let shard_id = shared.settings.shard;
        let is_known = topology.primary(shard_id).is_some_and(|node| node.id == record.primary);
        let Some(shard) = topology.shards.iter_mut().find(|shard| shard.id == shard_id) else { return };
        if shard.term > record.term || (shard.term == record.term && is_known) {
            return;
        }
        shard.term = record.term;
        for node in topology.nodes.iter_mut().filter(|node| node.shard == shard_id) {
            node.role = if node.id == record.primary { Role::Primary } else { Role::Replica };
        }
        topology.epoch = Epoch(topology.epoch.0 + 1);
        match save_topology(shared.store.as_ref(), &topology, Some(revision)).await {
            Ok(_) => return,
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, "the topology cannot be written");
                sleep(LEASE_PAUSE).await;
            }
        }
    }
}

async fn watch_record(shared: Arc<Shared>) {
    loop {
        if let Ok(mut watch) = shared.store.watch(&shared.key()).await {
            while let Some(event) = watch.next().await {
                if let WatchEvent::Change(Change::Put(entry)) = event
                    && entry.key == shared.key()
                    && let Ok(record) = decode_leadership(&entry.value)
                {
                    shared.tell(Event::Record { record, revision: entry.revision.0 }).await;
                }
            }
        }
        sleep(LEASE_PAUSE).await;
    }
}

async fn hold_lease(shared: Arc<Shared>) {
    let name = shared.key();
    let mut held = None;
    let mut renewed = Instant::now();
    loop {
        let now = Instant::now();
        held = match held {
            None => shared.store.acquire(&name, &shared.settings.holder, LEASE_LENGTH).await.ok(),
            Some(lease) => match shared.store.renew(&lease, LEASE_LENGTH).await {
                Ok(()) => Some(lease),
                // Held on to until it would have ended anyway.
                Err(StoreError::Unavailable { .. }) if renewed.elapsed() < LEASE_LENGTH => {
                    sleep(LEASE_PAUSE).await;
                    held = Some(lease);
                    continue;
                }
                Err(_) => None,
            },
        };
        if held.is_some() {
            renewed = now;
        }
        shared.tell(Event::Lease(held.is_some())).await;
        sleep(LEASE_PAUSE).await;
    }
}

/// Asks one node for ever, over one connection as long as it lasts.
async fn ask_for_ever(shared: Arc<Shared>, node: NodeId, target: ConnectTarget) {
    let limit = shared.settings.probe_limit;
    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let target = ConnectTarget { connect_timeout_ms: limit_ms, ..target };
    let mut emptiness = (None::<Instant>, false);
    let mut client: Option<ControlClient> = None;
    let mut session = 0;
    loop {
        let asked = shared.start.elapsed();
        let held = match client.take() {
            Some(held) => Ok(held),
            None => {
                session += 1;
                ControlClient::connect(&target).await
            }
        };
        let answered = match &held {
            Ok(held) => node::probe(held, &shared.places.load_full(), 0, session, limit).await,
            Err(error) => Err(node::failure(error)),
        };
        let is_well = answered.is_ok();
        let event = match answered {
            Ok(answer) => Event::Answered { node, asked, answer },
            Err(Failure::Refused) => {
                let (looked, is_empty) = &mut emptiness;
                let failure = if *is_empty { Failure::Empty } else { Failure::Refused };
                shared.tell(Event::Failed { node, asked, failure }).await;
                if looked.is_none_or(|at| at.elapsed() > EMPTY_PAUSE) {
                    *is_empty = shared.hands.is_empty(node).await;
                    *looked = Some(Instant::now());
                }
                sleep(shared.settings.probe_pause / 4).await;
                continue;
            }
            Err(failure) => Event::Failed { node, asked, failure },
        };
        shared.tell(event).await;
        if is_well {
            client = held.ok();
            wait_or_lose(&shared, client.as_ref()).await;
        } else {
            sleep(shared.settings.probe_pause / 4).await;
        }
    }
}

/// Waits for the next question, or until the connection is lost: that is told by the server, at once.
async fn wait_or_lose(shared: &Shared, client: Option<&ControlClient>) {
    let until = Instant::now() + shared.settings.probe_pause;
    while Instant::now() < until && client.is_some_and(|client| !client.is_closed()) {
        sleep(LOOK).await;
    }
}
