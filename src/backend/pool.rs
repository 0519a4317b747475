//! A hand-off pool: idle connections last in, first out; waiters first come, first served.
//!
//! A connection that comes back while someone waits goes straight to the one who waits longest; it
//! never passes through the idle list, where a newcomer could take it. The pool is generic over a
//! [`Connector`] so that its rules are tested without servers.
//!
//! Must not know: what a connection is.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::invariant;

/// Makes the connections of a pool and judges them.
pub trait Connector: Send + Sync + 'static {
    /// A connection.
    type Connection: Send + 'static;
    /// Why one cannot be made.
    type Error: Send + 'static;

    /// Makes one; called without any lock held.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Self::Error>> + Send;
    /// It comes back: may the next one have it?
    fn may_return(&self, connection: &mut Self::Connection) -> bool;
    /// It was idle: is it still there?
    fn is_usable(&self, connection: &mut Self::Connection) -> bool;
    /// It is idle and clean, for the pool's invariant.
    fn is_clean(&self, connection: &Self::Connection) -> bool;
}

/// How many connections, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time, those being opened included.
    pub size: usize,
    /// How long a checkout waits for its turn.
    pub checkout_timeout_ms: u64,
    /// How long a connection stays idle.
    pub idle_timeout_ms: u64,
    /// How old a connection gets.
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
    /// The turn came and the connection could not be made.
    Connect(E),
}

/// A look at a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that wait for work.
    pub idle: usize,
    /// Connections leased or being opened.
    pub used: usize,
    /// Checkouts that wait.
    pub waiting: usize,
}

/// What a waiter gets.
enum Grant<C> {
    /// A connection.
    Connection(Pooled<C>),
    /// The right to open one.
    Place,
}

/// A connection with its age.
struct Pooled<C> {
    connection: C,
    born: Instant,
    idle_since: Instant,
    generation: u64,
}

struct State<C> {
    /// The most recently used one is last.
    idle: Vec<Pooled<C>>,
    /// By ticket: the lowest waits longest.
    waiters: BTreeMap<u64, oneshot::Sender<Grant<C>>>,
    next_ticket: u64,
    /// Idle, leased and being opened.
    places_taken: usize,
    /// Connections of an earlier generation are closed when they come back.
    generation: u64,
}

/// A pool.
pub struct Pool<K: Connector> {
    connector: K,
    limits: Limits,
    state: Mutex<State<K::Connection>>,
}

impl<K: Connector> Pool<K> {
    /// An empty pool.
    pub fn new(connector: K, limits: Limits) -> Arc<Self> {
        let state =
            State { idle: Vec::new(), waiters: BTreeMap::new(), next_ticket: 0, places_taken: 0, generation: 0 };
        Arc::new(Self { connector, limits: Limits { size: limits.size.max(1), ..limits }, state: Mutex::new(state) })
    }

    /// A connection: an idle one, a new one, or the next one that comes back.
    ///
    /// # Errors
    /// No turn within the limit; the connection could not be made.
    ///
    /// # Cancel safety
    /// Safe: dropped at any point, the turn, the place or the connection goes to the next one in line.
    pub async fn checkout(self: &Arc<Self>) -> Result<PoolLease<K>, PoolError<K::Error>> {
        match self.take_or_queue() {
            Turn::Now(pooled) => Ok(self.lease(pooled)),
            Turn::Open => self.open().await,
            Turn::Wait(wait) => match wait.granted(self.limits.checkout_timeout_ms).await {
                Some(Grant::Connection(pooled)) => Ok(self.lease(pooled)),
                Some(Grant::Place) => self.open().await,
                None => Err(PoolError::Timeout { waited_ms: self.limits.checkout_timeout_ms }),
            },
        }
    }

    fn take_or_queue(self: &Arc<Self>) -> Turn<K> {
        // Closed behind the lock.
        let mut dead = Vec::new();
        let now = Instant::now();
        let mut state = self.state.lock();
        while let Some(mut pooled) = state.idle.pop() {
            if !self.is_expired(&pooled, now, state.generation) && self.connector.is_usable(&mut pooled.connection) {
                return Turn::Now(pooled);
            }
            state.places_taken -= 1;
            dead.push(pooled);
        }
        if state.places_taken < self.limits.size {
            state.places_taken += 1;
            return Turn::Open;
        }
        let (sender, receiver) = oneshot::channel();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiters.insert(ticket, sender);
        Turn::Wait(Wait { pool: Arc::clone(self), ticket, receiver, is_done: false })
    }

    fn is_expired(&self, pooled: &Pooled<K::Connection>, now: Instant, generation: u64) -> bool {
        pooled.generation != generation
            || now.duration_since(pooled.idle_since) > Duration::from_millis(self.limits.idle_timeout_ms)
            || now.duration_since(pooled.born) > Duration::from_millis(self.limits.lifetime_ms)
    }

    /// Opens a connection on a place that this checkout holds.
    async fn open(self: &Arc<Self>) -> Result<PoolLease<K>, PoolError<K::Error>> {
        let place = Place { pool: self, is_filled: false };
        let generation = self.state.lock().generation;
        let connection = self.connector.connect().await.map_err(PoolError::Connect)?;
        place.fill();
        let now = Instant::now();
        Ok(self.lease(Pooled { connection, born: now, idle_since: now, generation }))
    }

    fn lease(self: &Arc<Self>, pooled: Pooled<K::Connection>) -> PoolLease<K> {
        PoolLease { pooled: Some(pooled), pool: Arc::clone(self) }
    }

    /// Takes a connection back that its user is done with.
    fn take_back(&self, mut pooled: Pooled<K::Connection>) {
        let may_return = self.connector.may_return(&mut pooled.connection);
        pooled.idle_since = Instant::now();
        self.put(pooled, may_return);
    }

    /// Hands a connection on, or keeps it, or closes it and hands its place on.
    fn put(&self, pooled: Pooled<K::Connection>, is_good: bool) {
        let mut state = self.state.lock();
        let is_good = is_good
            && !self.is_expired(&pooled, Instant::now(), state.generation)
            && invariant!(
                self.connector.is_clean(&pooled.connection),
                "a connection enters the pool only idle, clean and fully read"
            );
        if !is_good {
            Self::hand_place_on(&mut state);
            drop(state);
            // Closed behind the lock.
            drop(pooled);
            return;
        }
        let mut grant = Grant::Connection(pooled);
        while let Some((_, waiter)) = state.waiters.pop_first() {
            match waiter.send(grant) {
                Ok(()) => return,
                // The waiter has gone; the next one, then.
                Err(back) => grant = back,
            }
        }
        if let Grant::Connection(pooled) = grant {
            state.idle.push(pooled);
        }
    }

    /// Gives a place to the one who waits longest, or frees it.
    fn hand_place_on(state: &mut State<K::Connection>) {
        while let Some((_, waiter)) = state.waiters.pop_first() {
            if waiter.send(Grant::Place).is_ok() {
                return;
            }
        }
        state.places_taken -= 1;
    }

    /// Closes idle connections that are idle too long or too old.
    pub fn close_expired(&self) {
        let now = Instant::now();
        self.close_idle_if(|pooled, generation| self.is_expired(pooled, now, generation));
    }

    /// Closes all idle connections.
    pub fn close_idle(&self) {
        self.close_idle_if(|_, _| true);
    }

    /// Closes all idle connections, and those in use when they come back.
    pub fn retire(&self) {
        self.state.lock().generation += 1;
        self.close_idle();
    }

    fn close_idle_if(&self, is_over: impl Fn(&Pooled<K::Connection>, u64) -> bool) {
        let mut closed = Vec::new();
        let mut state = self.state.lock();
        let generation = state.generation;
        let mut kept = Vec::with_capacity(state.idle.len());
        for pooled in state.idle.drain(..) {
            if is_over(&pooled, generation) { closed.push(pooled) } else { kept.push(pooled) }
        }
        state.idle = kept;
        // Nobody waits while there are idle connections, so the places are simply free.
        state.places_taken -= closed.len();
        drop(state);
        drop(closed);
    }

    /// A look at the pool.
    pub fn counts(&self) -> Counts {
        let state = self.state.lock();
        Counts { idle: state.idle.len(), used: state.places_taken - state.idle.len(), waiting: state.waiters.len() }
    }

    /// What makes the connections.
    pub fn connector(&self) -> &K {
        &self.connector
    }

    /// Largest number of connections.
    pub fn size(&self) -> usize {
        self.limits.size
    }
}

/// What a checkout may do first.
enum Turn<K: Connector> {
    Now(Pooled<K::Connection>),
    Open,
    Wait(Wait<K>),
}

/// A place in the queue; given up when dropped, together with what was granted meanwhile.
struct Wait<K: Connector> {
    pool: Arc<Pool<K>>,
    ticket: u64,
    receiver: oneshot::Receiver<Grant<K::Connection>>,
    is_done: bool,
}

impl<K: Connector> Wait<K> {
    async fn granted(mut self, limit_ms: u64) -> Option<Grant<K::Connection>> {
        match tokio::time::timeout(Duration::from_millis(limit_ms), &mut self.receiver).await {
            Ok(Ok(grant)) => {
                self.is_done = true;
                Some(grant)
            }
            // Dropping the place in the queue gives back what came at the last moment.
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

impl<K: Connector> Drop for Wait<K> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        self.pool.state.lock().waiters.remove(&self.ticket);
        // After `close` nothing more can be sent; what was sent before is here.
        self.receiver.close();
        match self.receiver.try_recv() {
            Ok(Grant::Connection(pooled)) => self.pool.put(pooled, true),
            Ok(Grant::Place) => Pool::<K>::hand_place_on(&mut self.pool.state.lock()),
            Err(_) => {}
        }
    }
}

/// A place on which a connection is being opened; handed on when dropped unfilled.
struct Place<'pool, K: Connector> {
    pool: &'pool Pool<K>,
    is_filled: bool,
}

impl<K: Connector> Place<'_, K> {
    fn fill(mut self) {
        self.is_filled = true;
    }
}

impl<K: Connector> Drop for Place<'_, K> {
    fn drop(&mut self) {
        if !self.is_filled {
            Pool::<K>::hand_place_on(&mut self.pool.state.lock());
        }
    }
}

/// A connection in use; it goes back when dropped, if it is clean, and is closed otherwise.
pub struct PoolLease<K: Connector> {
    /// Always there until `drop`.
    pooled: Option<Pooled<K::Connection>>,
    pool: Arc<Pool<K>>,
}

impl<K: Connector> PoolLease<K> {
    /// What makes the pool's connections.
    pub fn connector(&self) -> &K {
        &self.pool.connector
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
