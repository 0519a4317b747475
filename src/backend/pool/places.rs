//! Who has which place of a pool, and who is next: the rules, without locks, tasks or clocks.
//!
//! Every change returns what has to follow from it ([`Effects`]), which the caller does after it has
//! let go of the lock.
//!
//! # Invariants
//! - `taken` = idle + in use + being reset + being opened, and never grows beyond the size.
//! - Nobody waits for a connection of a kind of which there is an idle one.
//! - Of those who wait for the same kind, who came first is served first, by whatever connection is
//!   there first: one that comes back or one that was opened.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{ConnectFailure, Counts, Limits, Member, MemberState};

/// Pause after the first failed connect; it doubles with each one more.
const PAUSE_MS: u64 = 100;

/// Longest pause after failed connects.
const PAUSE_MS_MAX: u64 = 2_000;

/// How long others of the same kind are told a refusal without asking the server again.
const REFUSAL_MS: u64 = 250;

/// A connection with its age and kind.
pub(super) struct Pooled<C, K> {
    /// Its number among those that the pool opened.
    pub(super) id: u64,
    pub(super) connection: C,
    pub(super) kind: K,
    pub(super) expires: Instant,
    pub(super) idle_since: Instant,
    /// Connections of an earlier generation are closed when they come back.
    pub(super) generation: u64,
}

/// What a waiter gets in the end.
pub(super) type Grant<C, K, E> = Result<Pooled<C, K>, E>;

struct Waiter<C, K, E> {
    kind: K,
    since: Instant,
    sender: oneshot::Sender<Grant<C, K, E>>,
}

/// What follows from a change.
#[must_use]
pub(super) struct Effects<C, K> {
    /// To be closed.
    pub(super) closed: Vec<Pooled<C, K>>,
    /// So many openers have to begin; their places are taken already.
    pub(super) openers: usize,
}

impl<C, K> Effects<C, K> {
    fn none() -> Self {
        Self { closed: Vec::new(), openers: 0 }
    }
}

/// What a checkout may do first.
pub(super) enum Turn<C, K, E> {
    /// An idle connection.
    Now(Pooled<C, K>),
    /// Wait with this ticket.
    Wait(u64, oneshot::Receiver<Grant<C, K, E>>),
    /// The server failed a moment ago.
    Fail(E),
}

/// What an opener may do.
pub(super) enum Begin<K> {
    /// Connect.
    Connect(K, u64),
    /// Ask again then: connecting has failed a moment ago.
    Later(Instant),
    /// Nobody needs a connection any more.
    NotNeeded,
}

/// A pool's places.
pub(super) struct Places<C, K, E> {
    limits: Limits,
    /// The most recently used one is last.
    idle: Vec<Pooled<C, K>>,
    /// By ticket: the lowest waits longest.
    waiters: BTreeMap<u64, Waiter<C, K, E>>,
    next_ticket: u64,
    taken: usize,
    /// Places of openers, those who wait for their turn to connect included.
    opening: usize,
    /// Kinds that are being connected now.
    connecting: Vec<K>,
    resetting: usize,
    generation: u64,
    last_checkout: Option<(Instant, K)>,
    /// When the server last proved to be there.
    alive_at: Option<Instant>,
    failed_at: Option<Instant>,
    failures: u32,
    /// No connect begins before.
    quiet_until: Option<Instant>,
    /// The server cannot be had: everybody is told so until then.
    outage: Option<(E, Instant)>,
    /// The server does not want this kind: its waiters are told so until then.
    refusal: Option<(K, E, Instant)>,
    opened_total: u64,
    resets_total: u64,
    puts_total: u64,
    /// What is known of each connection from outside, by its number.
    known: BTreeMap<u64, Known>,
}

/// What is known of a connection from outside.
struct Known {
    label: u32,
    born: Instant,
    is_resetting: bool,
}

impl<C, K: Clone + PartialEq, E: Clone> Places<C, K, E> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            idle: Vec::new(),
            waiters: BTreeMap::new(),
            next_ticket: 0,
            taken: 0,
            opening: 0,
            connecting: Vec::new(),
            resetting: 0,
            generation: 0,
            last_checkout: None,
            alive_at: None,
            failed_at: None,
            failures: 0,
            quiet_until: None,
            outage: None,
            refusal: None,
            opened_total: 0,
            resets_total: 0,
            puts_total: 0,
            known: BTreeMap::new(),
        }
    }

    /// An idle connection of this kind, or a place in the queue.
    pub(super) fn take(&mut self, kind: &K, now: Instant) -> (Turn<C, K, E>, Effects<C, K>) {
        if let Some(pooled) = self.take_idle(kind, now, |_| true) {
            return (Turn::Now(pooled), Effects::none());
        }
        self.note_checkout(kind, now);
        if let Some(error) = self.known_failure(kind, now) {
            return (Turn::Fail(error), Effects::none());
        }
        let (sender, receiver) = oneshot::channel();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiters.insert(ticket, Waiter { kind: kind.clone(), since: now, sender });
        (Turn::Wait(ticket, receiver), self.open_for(0))
    }

    /// An idle connection of this kind: of those that are near, or else of all, the one used last.
    pub(super) fn take_idle(&mut self, kind: &K, now: Instant, is_near: impl Fn(&C) -> bool) -> Option<Pooled<C, K>> {
        let near = self.idle.iter().rposition(|pooled| pooled.kind == *kind && is_near(&pooled.connection));
        let at = near.or_else(|| self.idle.iter().rposition(|pooled| pooled.kind == *kind))?;
        self.note_checkout(kind, now);
        Some(self.idle.remove(at))
    }

    fn note_checkout(&mut self, kind: &K, now: Instant) {
        match &mut self.last_checkout {
            Some((at, last)) if last == kind => *at = now,
            last => *last = Some((now, kind.clone())),
        }
    }

    fn known_failure(&self, kind: &K, now: Instant) -> Option<E> {
        if let Some((error, until)) = &self.outage
            && now < *until
        {
            return Some(error.clone());
        }
        match &self.refusal {
            Some((refused, error, until)) if now < *until && refused == kind => Some(error.clone()),
            _ => None,
        }
    }

    /// A checkout does not wait any more.
    pub(super) fn leave(&mut self, ticket: u64) {
        self.waiters.remove(&ticket);
    }

    /// Starts openers for those who wait and for `spare` connections more, as far as there are places.
    fn open_for(&mut self, spare: usize) -> Effects<C, K> {
        let mut effects = Effects::none();
        // A server that failed is tried by one at a time.
        let most = if self.failures > 0 { 1 } else { usize::MAX };
        while self.opening < (self.waiters.len() + spare).min(most) {
            if self.taken < self.limits.size {
                self.taken += 1;
            } else if self.waiters.len() > self.opening && !self.idle.is_empty() {
                // Idle ones of another kind make room; the one used longest ago first.
                let pooled = self.idle.remove(0);
                self.known.remove(&pooled.id);
                effects.closed.push(pooled);
            } else {
                break;
            }
            self.opening += 1;
            effects.openers += 1;
        }
        effects
    }

    /// The kind that the first one waits for whom no connect under way is for.
    fn needed_kind(&self, now: Instant) -> Option<K> {
        let mut under_way: Vec<&K> = self.connecting.iter().collect();
        for waiter in self.waiters.values() {
            match under_way.iter().position(|kind| **kind == waiter.kind) {
                Some(at) => {
                    under_way.swap_remove(at);
                }
                None => return Some(waiter.kind.clone()),
            }
        }
        let (_, kind) = self.last_checkout.as_ref()?;
        (self.spare_missing(now) > under_way.len()).then(|| kind.clone())
    }

    /// Idle connections that a pool in use lacks.
    fn spare_missing(&self, now: Instant) -> usize {
        let is_in_use = self.last_checkout.as_ref().is_some_and(|(at, _)| {
            now.saturating_duration_since(*at) <= Duration::from_millis(self.limits.idle_timeout_ms)
        });
        if !is_in_use || self.failures > 0 {
            return 0;
        }
        self.limits.size_min.saturating_sub(self.idle.len() + self.resetting)
    }

    /// An opener asks what to do.
    pub(super) fn begin(&mut self, now: Instant) -> Begin<K> {
        let Some(kind) = self.needed_kind(now) else { return Begin::NotNeeded };
        if let Some(until) = self.quiet_until.filter(|until| now < *until) {
            return Begin::Later(until);
        }
        if self.failures > 0 && !self.connecting.is_empty() {
            return Begin::NotNeeded;
        }
        self.connecting.push(kind.clone());
        Begin::Connect(kind, self.generation)
    }

    /// An opener gives up without having connected.
    pub(super) fn opener_left(&mut self) -> Effects<C, K> {
        self.opening -= 1;
        self.taken -= 1;
        self.open_for(0)
    }

    /// An opener was dropped before it connected.
    pub(super) fn opener_dropped(&mut self) {
        self.opening -= 1;
        self.taken -= 1;
    }

    /// A connect was dropped half-way.
    pub(super) fn connect_dropped(&mut self, kind: &K) {
        self.end_connect(kind);
        self.taken -= 1;
    }

    fn end_connect(&mut self, kind: &K) {
        self.opening -= 1;
        if let Some(at) = self.connecting.iter().position(|known| known == kind) {
            self.connecting.swap_remove(at);
        }
    }

    /// A connection was opened.
    pub(super) fn connected(&mut self, mut pooled: Pooled<C, K>, label: u32, now: Instant) -> Effects<C, K> {
        self.end_connect(&pooled.kind);
        self.failures = 0;
        self.quiet_until = None;
        self.outage = None;
        self.refusal = None;
        self.opened_total += 1;
        pooled.id = self.opened_total;
        self.known.insert(pooled.id, Known { label, born: now, is_resetting: false });
        self.put(pooled, now)
    }

    /// A connect failed.
    pub(super) fn connect_failed(
        &mut self,
        kind: &K,
        error: &E,
        failure: ConnectFailure,
        started: Instant,
        now: Instant,
    ) -> Effects<C, K> {
        self.end_connect(kind);
        self.taken -= 1;
        if failure == ConnectFailure::Refused {
            self.refusal = Some((kind.clone(), error.clone(), now + Duration::from_millis(REFUSAL_MS)));
            self.fail_waiters(error, |waiter| waiter == kind);
            return self.open_for(0);
        }
        // Attempts that were under way together fail together: that is one failure.
        if self.failed_at.is_none_or(|at| started >= at) {
            self.failures += 1;
            let pause_ms = (PAUSE_MS << (self.failures - 1).min(16)).min(PAUSE_MS_MAX);
            self.quiet_until = Some(now + Duration::from_millis(pause_ms));
        }
        self.failed_at = Some(now);
        let has_others = self.taken > self.opening;
        let is_there = self.alive_at.is_some_and(|at| at > started);
        let is_survived = match failure {
            // One of the others will come back.
            ConnectFailure::Full => has_others,
            _ => is_there,
        };
        if !is_survived {
            self.outage = Some((error.clone(), self.quiet_until.unwrap_or(now)));
            self.fail_waiters(error, |_| true);
        }
        self.open_for(0)
    }

    fn fail_waiters(&mut self, error: &E, concerns: impl Fn(&K) -> bool) {
        for (_, waiter) in self.waiters.extract_if(.., |_, waiter| concerns(&waiter.kind)) {
            // Whoever left meanwhile needs no error.
            let _left = waiter.sender.send(Err(error.clone()));
        }
    }

    /// Hands a clean connection on, or keeps it, or closes it for one of another kind.
    pub(super) fn put(&mut self, mut pooled: Pooled<C, K>, now: Instant) -> Effects<C, K> {
        self.alive_at = Some(now);
        self.puts_total += 1;
        if self.is_expired(&pooled, now) || self.taken > self.limits.size {
            return self.close(pooled);
        }
        loop {
            let taker = self.waiters.iter().enumerate().find(|(_, (_, waiter))| waiter.kind == pooled.kind);
            match taker {
                // Those before it wait for another kind, which openers are bringing.
                Some((before, (ticket, _))) if before <= self.opening => {
                    let ticket = *ticket;
                    let Some(waiter) = self.waiters.remove(&ticket) else { continue };
                    match waiter.sender.send(Ok(pooled)) {
                        Ok(()) => return self.open_for(0),
                        // The waiter has left; the next one, then.
                        Err(Ok(back)) => pooled = back,
                        Err(Err(_)) => return self.open_for(0),
                    }
                }
                None if self.waiters.len() <= self.opening => {
                    pooled.idle_since = now;
                    self.idle.push(pooled);
                    return Effects::none();
                }
                // The one who waits longest needs its place for another kind.
                _ => return self.close(pooled),
            }
        }
    }

    /// Closes a connection that was in use; its place is free.
    pub(super) fn close(&mut self, pooled: Pooled<C, K>) -> Effects<C, K> {
        self.taken -= 1;
        self.known.remove(&pooled.id);
        let mut effects = self.open_for(0);
        effects.closed.push(pooled);
        effects
    }

    /// Other limits. While more places are taken than there are now, who comes back is closed.
    pub(super) fn set_limits(&mut self, limits: Limits) -> Effects<C, K> {
        self.limits = limits;
        let over = self.taken.saturating_sub(limits.size).min(self.idle.len());
        // Those used longest ago stand first.
        let closed: Vec<_> = self.idle.drain(..over).collect();
        self.taken -= closed.len();
        closed.iter().for_each(|pooled| {
            self.known.remove(&pooled.id);
        });
        let mut effects = self.open_for(0);
        effects.closed.extend(closed);
        effects
    }

    /// A connection that was in use is being reset.
    pub(super) fn reset_begins(&mut self, id: u64) {
        self.resetting += 1;
        self.note_reset(id, true);
    }

    fn note_reset(&mut self, id: u64, is_resetting: bool) {
        if let Some(known) = self.known.get_mut(&id) {
            known.is_resetting = is_resetting;
        }
    }

    /// A reset is over; the connection is then put back or closed.
    pub(super) fn reset_ends(&mut self, id: u64, was_done: bool) {
        self.resetting -= 1;
        self.note_reset(id, false);
        self.resets_total += u64::from(was_done);
    }

    /// A reset was dropped half-way, and the connection with it.
    pub(super) fn reset_dropped(&mut self, id: u64) {
        self.known.remove(&id);
        self.resetting -= 1;
        self.taken -= 1;
    }

    /// Too old, or of an earlier generation.
    pub(super) fn is_expired(&self, pooled: &Pooled<C, K>, now: Instant) -> bool {
        pooled.generation != self.generation || now > pooled.expires
    }

    /// Closes what is too old or idle for too long, and opens what a pool in use lacks.
    pub(super) fn tend(&mut self, now: Instant) -> Effects<C, K> {
        let idle_timeout = Duration::from_millis(self.limits.idle_timeout_ms);
        let is_in_use =
            self.last_checkout.as_ref().is_some_and(|(at, _)| now.saturating_duration_since(*at) <= idle_timeout);
        let kept_anyway = if is_in_use { self.limits.size_min } else { 0 };
        let count = self.idle.len();
        let mut at = 0;
        let closed = self.close_idle_if(|pooled, generation| {
            at += 1;
            let is_spare = count - at < kept_anyway;
            let is_idle_long = now.saturating_duration_since(pooled.idle_since) > idle_timeout;
            pooled.generation != generation || now > pooled.expires || (is_idle_long && !is_spare)
        });
        let spare = self.spare_missing(now);
        let mut effects = self.open_for(spare);
        effects.closed.extend(closed);
        effects
    }

    /// Closes all idle connections.
    pub(super) fn close_idle(&mut self) -> Effects<C, K> {
        let closed = self.close_idle_if(|_, _| true);
        let mut effects = self.open_for(0);
        effects.closed.extend(closed);
        effects
    }

    /// Closes all idle connections, and those in use when they come back.
    pub(super) fn retire(&mut self) -> Effects<C, K> {
        self.generation += 1;
        self.close_idle()
    }

    fn close_idle_if(&mut self, mut is_over: impl FnMut(&Pooled<C, K>, u64) -> bool) -> Vec<Pooled<C, K>> {
        let generation = self.generation;
        let closed: Vec<_> = self.idle.extract_if(.., |pooled| is_over(pooled, generation)).collect();
        self.taken -= closed.len();
        for pooled in &closed {
            self.known.remove(&pooled.id);
        }
        closed
    }

    /// Connections are being opened, and none is in use that could come back.
    pub(super) fn is_only_opening(&self) -> bool {
        self.opening > 0 && self.taken == self.opening
    }

    /// A look at every connection, by age.
    pub(super) fn members(&self, now: Instant) -> Vec<Member> {
        let milliseconds = |since: Instant| u64::try_from(now.saturating_duration_since(since).as_millis()).ok();
        let state = |id: u64, known: &Known| match self.idle.iter().find(|pooled| pooled.id == id) {
            Some(pooled) => (MemberState::Idle, milliseconds(pooled.idle_since)),
            None if known.is_resetting => (MemberState::Resetting, None),
            None => (MemberState::Used, None),
        };
        let member = |(id, known): (&u64, &Known)| {
            let (state, idle_ms) = state(*id, known);
            Member { label: known.label, state, age_ms: milliseconds(known.born).unwrap_or(u64::MAX), idle_ms }
        };
        self.known.iter().map(member).collect()
    }

    pub(super) fn counts(&self, now: Instant) -> Counts {
        let longest = self.waiters.first_key_value().map(|(_, waiter)| now.saturating_duration_since(waiter.since));
        Counts {
            idle: self.idle.len(),
            used: self.taken - self.idle.len() - self.opening - self.resetting,
            opening: self.opening,
            resetting: self.resetting,
            waiting: self.waiters.len(),
            longest_wait_ms: longest.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            opened_total: self.opened_total,
            resets_total: self.resets_total,
            // A connection that was opened is put here too, before its first turn.
            turns_total: self.puts_total.saturating_sub(self.opened_total),
        }
    }
}
