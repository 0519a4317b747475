//! A hand-off pool: idle connections last in, first out; waiters first come, first served.
//!
//! Who finds no idle connection joins the queue, and connections are opened in the background for as
//! many as wait. Whatever is there first, a connection that comes back or one that was opened, goes
//! straight to the one who waits longest; it never passes through the idle list, where a newcomer
//! could take it. So a checkout that is given up loses no half-opened connection either.
//!
//! The pool is generic over a [`Connector`] so that its rules are tested without servers. The rules
//! themselves are in `places`; here are the lock, the tasks and the guards.
//!
//! Must not know: what a connection is.

mod places;

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::gate::Gate;
use crate::invariant;
use places::{Begin, Effects, Grant, Places, Turn};

/// Makes the connections of a pool and judges them.
pub trait Connector: Send + Sync + 'static {
    /// A connection.
    type Connection: Send + 'static;
    /// What makes connections of one pool unlike each other: who asks for one kind gets no other.
    type Kind: Clone + PartialEq + Send + Sync + 'static;
    /// Why one cannot be made.
    type Error: Clone + Send + 'static;

    /// Makes one; called without any lock held. It ends in a bounded time.
    fn connect(&self, kind: &Self::Kind) -> impl Future<Output = Result<Self::Connection, Self::Error>> + Send;
    /// What a failed connect tells of the server.
    fn failure(&self, error: &Self::Error) -> ConnectFailure;
    /// It comes back: may the next one have it?
    fn end_turn(&self, connection: &mut Self::Connection) -> Ended;
    /// Wipes away what a session left. `false`: it cannot be done in a bounded time.
    fn reset(&self, connection: &mut Self::Connection) -> impl Future<Output = bool> + Send;
    /// It was idle: is it still there?
    fn is_usable(&self, connection: &mut Self::Connection) -> bool;
    /// The calling thread can use it as it is; one that is near is given before others.
    fn is_near(&self, _connection: &Self::Connection) -> bool {
        true
    }
    /// Makes it near.
    fn bring_near(&self, _connection: &mut Self::Connection) {}
    /// What it is known by outside, the process id of its server for one.
    fn label(&self, connection: &Self::Connection) -> u32;
    /// It is idle and clean, for the pool's invariant.
    fn is_clean(&self, connection: &Self::Connection) -> bool;
}

/// What a failed connect tells of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// It cannot be reached, or takes nobody for now.
    Unavailable,
    /// It is there and does not want this user or these parameters.
    Refused,
    /// It has too many connections.
    Full,
}

/// How a connection comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As good as new.
    Clean,
    /// Whole, but a session has left things on it.
    NeedsReset,
    /// Not to be used again.
    Broken,
}

/// How many connections, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time, those being opened included.
    pub size: usize,
    /// Idle connections that a pool in use keeps ready.
    pub size_min: usize,
    /// How long a checkout waits for its turn.
    pub checkout_timeout_ms: u64,
    /// How long a connect takes at most: a checkout for which one is under way waits so much longer.
    pub connect_timeout_ms: u64,
    /// How long a connection stays idle.
    pub idle_timeout_ms: u64,
    /// How old a connection gets, give or take a tenth.
    pub lifetime_ms: u64,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum PoolError<E> {
    /// No turn within the limit.
    Timeout {
        /// How long it waited.
        waited_ms: u64,
    },
    /// The connection could not be made.
    Connect(E),
}

/// A look at a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that wait for work.
    pub idle: usize,
    /// Connections leased.
    pub used: usize,
    /// Connections being opened, or waiting to be.
    pub opening: usize,
    /// Connections from which a session is being wiped.
    pub resetting: usize,
    /// Checkouts that wait.
    pub waiting: usize,
    /// How long the first of them has waited.
    pub longest_wait_ms: u64,
    /// Connections opened since the pool was made.
    pub opened_total: u64,
    /// Connections reset since the pool was made.
    pub resets_total: u64,
    /// Turns of sessions that ended since the pool was made: transactions, and statements outside of them.
    pub turns_total: u64,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// Waits for work.
    Idle,
    /// Is leased.
    Used,
    /// A session is being wiped from it.
    Resetting,
}

/// A look at a connection of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it is known by.
    pub label: u32,
    /// What it is doing.
    pub state: MemberState,
    /// How long ago it was opened.
    pub age_ms: u64,
    /// How long it has been idle.
    pub idle_ms: Option<u64>,
}

type Pooled<K> = places::Pooled<<K as Connector>::Connection, <K as Connector>::Kind>;
type State<K> = Places<<K as Connector>::Connection, <K as Connector>::Kind, <K as Connector>::Error>;
type Follow<K> = Effects<<K as Connector>::Connection, <K as Connector>::Kind>;
type Granted<K> = Grant<<K as Connector>::Connection, <K as Connector>::Kind, <K as Connector>::Error>;

/// A pool.
pub struct Pool<K: Connector> {
    connector: K,
    limits: Mutex<Limits>,
    gate: Arc<Gate>,
    /// Spreads the ends of connections that were opened together.
    dice: Mutex<u64>,
    state: Mutex<State<K>>,
    /// Another pool has taken its place.
    is_replaced: AtomicBool,
}

impl<K: Connector> Pool<K> {
    /// An empty pool whose connections are opened through a gate; `seed` spreads their ages.
    pub fn new(connector: K, limits: Limits, gate: Arc<Gate>, seed: u64) -> Arc<Self> {
        let limits = sound(limits);
        let state = Mutex::new(Places::new(limits));
        Arc::new(Self {
            connector,
            limits: Mutex::new(limits),
            gate,
            dice: Mutex::new(seed | 1),
            state,
            is_replaced: AtomicBool::new(false),
        })
    }

    /// A connection of this kind: an idle one, or the first that comes back or is opened.
    ///
    /// # Errors
    /// No turn within the limit; the connection could not be made.
    ///
    /// # Cancel safety
    /// Safe: dropped at any point, the turn or the connection goes to the next one in line.
    pub async fn checkout(self: &Arc<Self>, kind: &K::Kind) -> Result<PoolLease<K>, PoolError<K::Error>> {
        loop {
            let now = Instant::now();
            let turn = self.change(|state| state.take(kind, now));
            match turn {
                Turn::Now(pooled) => {
                    let mut lease = self.lease(pooled);
                    if lease.is_usable(now) {
                        return Ok(lease);
                    }
                    lease.close();
                }
                Turn::Wait(ticket, receiver) => {
                    let wait = Wait { pool: Arc::clone(self), ticket, receiver, is_done: false };
                    return wait.granted().await.map(|pooled| self.lease(pooled));
                }
                Turn::Fail(error) => return Err(PoolError::Connect(error)),
            }
        }
    }

    /// An idle connection of this kind, if there is one.
    pub fn checkout_now(self: &Arc<Self>, kind: &K::Kind) -> Option<PoolLease<K>> {
        loop {
            let now = Instant::now();
            let pooled = self.state.lock().take_idle(kind, now, |connection| self.connector.is_near(connection))?;
            let mut lease = self.lease(pooled);
            if lease.is_usable(now) {
                return Some(lease);
            }
            lease.close();
        }
    }

    fn lease(self: &Arc<Self>, mut pooled: Pooled<K>) -> PoolLease<K> {
        self.connector.bring_near(&mut pooled.connection);
        PoolLease { pooled: Some(pooled), pool: Arc::clone(self) }
    }

    /// Changes the state and does what follows. What is to be closed is closed before anybody finds its place free:
    /// otherwise another thread could open one connection more than the pool's size allows.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut State<K>) -> (T, Follow<K>)) -> T {
        let (given, openers) = {
            let mut state = self.state.lock();
            let (given, effects) = change(&mut state);
            drop(effects.closed);
            (given, effects.openers)
        };
        for _ in 0..openers {
            let opener = Opener { pool: Arc::clone(self), connecting: None, is_done: false };
            // Without a runtime, or with one that ends, the opener is dropped and gives its place up.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(opener.run());
            }
        }
        given
    }

    /// Takes a connection back that its user is done with.
    fn take_back(self: &Arc<Self>, mut pooled: Pooled<K>) {
        match self.connector.end_turn(&mut pooled.connection) {
            Ended::Clean => self.put(pooled),
            Ended::NeedsReset => self.reset(pooled),
            Ended::Broken => self.close(pooled),
        }
    }

    /// Hands a connection on, or keeps it, or closes it and hands its place on.
    fn put(self: &Arc<Self>, pooled: Pooled<K>) {
        let is_clean = invariant!(
            self.connector.is_clean(&pooled.connection),
            "a connection enters the pool only idle, clean and fully read"
        );
        if !is_clean {
            return self.close(pooled);
        }
        self.change(|state| ((), state.put(pooled, Instant::now())));
    }

    fn close(self: &Arc<Self>, pooled: Pooled<K>) {
        self.change(|state| ((), state.close(pooled)));
    }

    /// Wipes a connection in the background; nobody gets it before that is done.
    fn reset(self: &Arc<Self>, pooled: Pooled<K>) {
        let is_expired = self.state.lock().is_expired(&pooled, Instant::now());
        let runtime = tokio::runtime::Handle::try_current();
        match runtime {
            Ok(runtime) if !is_expired => {
                self.state.lock().reset_begins(pooled.id);
                let cleaner = Cleaner { pool: Arc::clone(self), pooled: Some(pooled) };
                runtime.spawn(cleaner.run());
            }
            _ => self.close(pooled),
        }
    }

    /// When a connection that was opened now is too old: its lifetime, give or take a tenth.
    fn expiry(&self, now: Instant) -> Instant {
        let lifetime_ms = self.limits.lock().lifetime_ms;
        let tenth = lifetime_ms / 10;
        let mut dice = self.dice.lock();
        *dice ^= *dice << 13;
        *dice ^= *dice >> 7;
        *dice ^= *dice << 17;
        let jitter_ms = *dice % (2 * tenth + 1);
        now + Duration::from_millis(lifetime_ms - tenth + jitter_ms)
    }

    /// Closes connections that are idle too long or too old, and opens those that a pool in use
    /// lacks; to be called every second or so.
    pub fn tend(self: &Arc<Self>) {
        self.change(|state| ((), state.tend(Instant::now())));
    }

    /// Closes all idle connections.
    pub fn close_idle(self: &Arc<Self>) {
        self.change(|state| ((), state.close_idle()));
    }

    /// Closes all idle connections, and those in use when they come back.
    pub fn retire(self: &Arc<Self>) {
        self.change(|state| ((), state.retire()));
    }

    /// As [`Pool::retire`]: another pool has taken its place.
    pub fn replace(self: &Arc<Self>) {
        self.is_replaced.store(true, Ordering::Release);
        self.retire();
    }

    /// Another pool has taken its place.
    pub fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Acquire)
    }

    /// Other limits from now on. Of connections that are too many, idle ones are closed at once and those in use when
    /// they come back; who waits already waits as long as it was told.
    pub fn set_limits(self: &Arc<Self>, limits: Limits) {
        let limits = sound(limits);
        *self.limits.lock() = limits;
        self.change(|state| ((), state.set_limits(limits)));
    }

    /// A look at the pool.
    pub fn counts(&self) -> Counts {
        self.state.lock().counts(Instant::now())
    }

    /// A look at every connection, by age.
    pub fn members(&self) -> Vec<Member> {
        self.state.lock().members(Instant::now())
    }

    /// What makes the connections.
    pub fn connector(&self) -> &K {
        &self.connector
    }

    /// Largest number of connections.
    pub fn size(&self) -> usize {
        self.limits.lock().size
    }
}

/// A pool has a place, and keeps no more ready than it may have.
fn sound(limits: Limits) -> Limits {
    Limits { size: limits.size.max(1), size_min: limits.size_min.min(limits.size), ..limits }
}

/// A place in the queue; given up when dropped, together with what was granted meanwhile.
struct Wait<K: Connector> {
    pool: Arc<Pool<K>>,
    ticket: u64,
    receiver: oneshot::Receiver<Granted<K>>,
    is_done: bool,
}

impl<K: Connector> Wait<K> {
    async fn granted(mut self) -> Result<Pooled<K>, PoolError<K::Error>> {
        let limits = *self.pool.limits.lock();
        let mut waited_ms = limits.checkout_timeout_ms;
        let mut outcome = tokio::time::timeout(Duration::from_millis(waited_ms), &mut self.receiver).await;
        if outcome.is_err() && self.pool.state.lock().is_only_opening() {
            // What it waits for is the server, which has its own limit and its own error.
            let more_ms = limits.connect_timeout_ms;
            waited_ms += more_ms;
            outcome = tokio::time::timeout(Duration::from_millis(more_ms), &mut self.receiver).await;
        }
        match outcome {
            Ok(Ok(grant)) => {
                self.is_done = true;
                grant.map_err(PoolError::Connect)
            }
            // Dropping the place in the queue gives back what came at the last moment.
            Ok(Err(_)) | Err(_) => Err(PoolError::Timeout { waited_ms }),
        }
    }
}

impl<K: Connector> Drop for Wait<K> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        self.pool.state.lock().leave(self.ticket);
        // After `close` nothing more can be sent; what was sent before is here.
        self.receiver.close();
        if let Ok(Ok(pooled)) = self.receiver.try_recv() {
            self.pool.put(pooled);
        }
    }
}

/// Opens a connection on a place of its own, for whoever waits longest when it is there.
struct Opener<K: Connector> {
    pool: Arc<Pool<K>>,
    connecting: Option<K::Kind>,
    is_done: bool,
}

impl<K: Connector> Opener<K> {
    async fn run(mut self) {
        let gate = Arc::clone(&self.pool.gate);
        loop {
            let pass = gate.enter().await;
            let begin = self.pool.state.lock().begin(Instant::now());
            match begin {
                Begin::Connect(kind, generation) => {
                    self.connecting = Some(kind.clone());
                    pass.spend().await;
                    let started = Instant::now();
                    let outcome = self.pool.connector.connect(&kind).await;
                    drop(pass);
                    return self.finish(kind, generation, outcome, started);
                }
                Begin::Later(until) => {
                    drop(pass);
                    tokio::time::sleep_until(until).await;
                }
                Begin::NotNeeded => return self.leave(),
            }
        }
    }

    fn leave(mut self) {
        self.is_done = true;
        self.pool.change(|state| ((), state.opener_left()));
    }

    fn finish(mut self, kind: K::Kind, generation: u64, outcome: Result<K::Connection, K::Error>, started: Instant) {
        self.is_done = true;
        let now = Instant::now();
        match outcome {
            Ok(connection) => {
                let expires = self.pool.expiry(now);
                let label = self.pool.connector.label(&connection);
                let pooled = Pooled::<K> { id: 0, connection, kind, expires, idle_since: now, generation };
                self.pool.change(|state| ((), state.connected(pooled, label, now)));
            }
            Err(error) => {
                let failure = self.pool.connector.failure(&error);
                self.pool.change(|state| ((), state.connect_failed(&kind, &error, failure, started, now)));
            }
        }
    }
}

impl<K: Connector> Drop for Opener<K> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        // Nothing is started from here: the runtime may be ending. `tend` sees to those who wait.
        let mut state = self.pool.state.lock();
        match &self.connecting {
            Some(kind) => state.connect_dropped(kind),
            None => state.opener_dropped(),
        }
    }
}

/// Wipes a connection.
struct Cleaner<K: Connector> {
    pool: Arc<Pool<K>>,
    pooled: Option<Pooled<K>>,
}

impl<K: Connector> Cleaner<K> {
    async fn run(mut self) {
        let Some(pooled) = self.pooled.as_mut() else { return };
        let is_done = self.pool.connector.reset(&mut pooled.connection).await;
        let Some(mut pooled) = self.pooled.take() else { return };
        let is_done = is_done && self.pool.connector.end_turn(&mut pooled.connection) == Ended::Clean;
        self.pool.state.lock().reset_ends(pooled.id, is_done);
        if is_done { self.pool.put(pooled) } else { self.pool.close(pooled) }
    }
}

impl<K: Connector> Drop for Cleaner<K> {
    fn drop(&mut self) {
        if let Some(pooled) = self.pooled.take() {
            self.pool.state.lock().reset_dropped(pooled.id);
            drop(pooled);
        }
    }
}

/// A connection in use; it goes back when dropped, if it is clean, and is closed otherwise.
pub struct PoolLease<K: Connector> {
    /// Always there until `drop`.
    pooled: Option<Pooled<K>>,
    pool: Arc<Pool<K>>,
}

impl<K: Connector> PoolLease<K> {
    /// What makes the pool's connections.
    pub fn connector(&self) -> &K {
        &self.pool.connector
    }

    fn is_usable(&mut self, now: Instant) -> bool {
        let Some(pooled) = self.pooled.as_mut() else { return false };
        now <= pooled.expires && self.pool.connector.is_usable(&mut pooled.connection)
    }

    /// Closes the connection instead of giving it back.
    fn close(mut self) {
        if let Some(pooled) = self.pooled.take() {
            self.pool.close(pooled);
        }
    }
}
impl<K: Connector> Deref for PoolLease<K> {
    type Target = K::Connection;

    fn deref(&self) -> &K::Connection {
        match &self.pooled {
            Some(pooled) => &pooled.connection,
            None => unreachable!("a lease loses its connection only in drop"),
        }
    }
}

impl<K: Connector> DerefMut for PoolLease<K> {
    fn deref_mut(&mut self) -> &mut K::Connection {
        match &mut self.pooled {
            Some(pooled) => &mut pooled.connection,
            None => unreachable!("a lease loses its connection only in drop"),
        }
    }
}

impl<K: Connector> Drop for PoolLease<K> {
    fn drop(&mut self) {
        if let Some(pooled) = self.pooled.take() {
            self.pool.take_back(pooled);
        }
    }
}

impl<K: Connector> std::fmt::Debug for PoolLease<K>
where
    K::Connection: std::fmt::Debug,
{
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("PoolLease").field(&**self).finish()
    }
}
