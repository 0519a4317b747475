//! The pool's rules with connections that are only counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use ostrakon::backend::gate::Gate;
use ostrakon::backend::pool::{
    ConnectFailure, Connector, Counts, Ended, Limits, MemberState, Pool, PoolError, PoolLease,
};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::sync::oneshot;

use crate::support::Dice;

/// Counts what is open and how often that was.
#[derive(Default)]
struct Counter {
    open: AtomicI64,
    most: AtomicI64,
    made: AtomicU64,
    connects: AtomicU64,
    connecting: AtomicI64,
    connecting_most: AtomicI64,
    resets: AtomicU64,
    /// What every connect ends in, while it is there.
    fault: Mutex<Option<&'static str>>,
    /// Connects that wait until the test ends them.
    pending: Mutex<VecDeque<oneshot::Sender<Result<(), &'static str>>>>,
    resets_hang: AtomicBool,
}

struct FakeConnection {
    id: u64,
    kind: u8,
    is_clean: bool,
    is_alive: bool,
    needs_reset: bool,
    counter: Arc<Counter>,
}

impl Drop for FakeConnection {
    fn drop(&mut self) {
        self.counter.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How long a connect takes.
#[derive(Clone, Copy)]
enum Pace {
    Turns(u64),
    Manual,
}

struct FakeConnector {
    counter: Arc<Counter>,
    pace: Pace,
    /// Every so manieth attempt is refused.
    fails_every: u64,
}

/// Counts who is inside, whichever way they leave.
struct Inside<'a>(&'a Counter);

impl<'a> Inside<'a> {
    fn new(counter: &'a Counter) -> Self {
        let inside = counter.connecting.fetch_add(1, Ordering::SeqCst) + 1;
        counter.connecting_most.fetch_max(inside, Ordering::SeqCst);
        Self(counter)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.connecting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Connector for FakeConnector {
    type Connection = FakeConnection;
    type Kind = u8;
    type Error = &'static str;

    async fn connect(&self, kind: &u8) -> Result<FakeConnection, &'static str> {
        let _inside = Inside::new(&self.counter);
        let attempt = self.counter.connects.fetch_add(1, Ordering::SeqCst) + 1;
        match self.pace {
            Pace::Turns(turns) => {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
            }
            Pace::Manual => {
                let (sender, receiver) = oneshot::channel();
                self.counter.pending.lock().push_back(sender);
                receiver.await.unwrap_or(Err("down"))?;
            }
        }
        if let Some(fault) = *self.counter.fault.lock() {
            return Err(fault);
        }
        if self.fails_every > 0 && attempt.is_multiple_of(self.fails_every) {
            return Err("refused");
        }
        let open = self.counter.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.counter.most.fetch_max(open, Ordering::SeqCst);
        let id = self.counter.made.fetch_add(1, Ordering::SeqCst);
        let counter = Arc::clone(&self.counter);
        Ok(FakeConnection { id, kind: *kind, is_clean: true, is_alive: true, needs_reset: false, counter })
    }

    fn failure(&self, error: &&'static str) -> ConnectFailure {
        match *error {
            "refused" => ConnectFailure::Refused,
            "full" => ConnectFailure::Full,
            _ => ConnectFailure::Unavailable,
        }
    }

    fn end_turn(&self, connection: &mut FakeConnection) -> Ended {
        match (connection.is_clean, connection.needs_reset) {
            (false, _) => Ended::Broken,
            (true, true) => Ended::NeedsReset,
            (true, false) => Ended::Clean,
        }
    }

    async fn reset(&self, connection: &mut FakeConnection) -> bool {
        while self.counter.resets_hang.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        self.counter.resets.fetch_add(1, Ordering::SeqCst);
        connection.needs_reset = false;
        connection.is_alive
    }

    fn is_usable(&self, connection: &mut FakeConnection) -> bool {
        connection.is_alive
    }

    fn label(&self, connection: &FakeConnection) -> u32 {
        u32::try_from(connection.id).unwrap()
    }

    fn is_clean(&self, connection: &FakeConnection) -> bool {
        connection.is_clean && !connection.needs_reset
    }
}

type FakePool = Arc<Pool<FakeConnector>>;

const LIMITS: Limits = Limits {
    size: 1,
    size_min: 0,
    checkout_timeout_ms: 60_000,
    connect_timeout_ms: 1_000,
    idle_timeout_ms: 60_000,
    lifetime_ms: 600_000,
};

fn pool_with(limits: Limits, pace: Pace, fails_every: u64, connects_max: usize) -> (FakePool, Arc<Counter>) {
    let counter = Arc::<Counter>::default();
    let connector = FakeConnector { counter: Arc::clone(&counter), pace, fails_every };
    (Pool::new(connector, limits, Arc::new(Gate::new(connects_max, 1_000_000)), 7), counter)
}

fn pool(size: usize, turns: u64, fails_every: u64) -> (FakePool, Arc<Counter>) {
    pool_with(Limits { size, ..LIMITS }, Pace::Turns(turns), fails_every, 4)
}

async fn checkout(pool: &FakePool) -> PoolLease<FakeConnector> {
    pool.checkout(&0).await.ok().unwrap()
}

/// Lets everything that can run do so.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// What is left of the counts when totals do not matter.
fn now(pool: &FakePool) -> (usize, usize, usize) {
    let counts = pool.counts();
    (counts.idle, counts.used, counts.waiting)
}

#[tokio::test]
async fn the_connection_used_last_is_used_next() {
    let (pool, _) = pool(3, 0, 0);
    let (a, b) = (checkout(&pool).await, checkout(&pool).await);
    let (first, second) = (a.id, b.id);
    drop(a);
    drop(b);
    let again = checkout(&pool).await;
    assert_eq!(again.id, second);
    assert_eq!(checkout(&pool).await.id, first);
}

#[tokio::test]
async fn waiters_are_served_in_the_order_they_came() {
    let (pool, _) = pool(1, 0, 0);
    let lease = checkout(&pool).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..20 {
        let (own, order) = (Arc::clone(&pool), Arc::clone(&order));
        tasks.push(tokio::spawn(async move {
            let lease = checkout(&own).await;
            order.lock().push(number);
            tokio::task::yield_now().await;
            drop(lease);
        }));
        while pool.counts().waiting <= number {
            tokio::task::yield_now().await;
        }
    }
    drop(lease);
    // A newcomer cannot overtake: the connection never passes through the idle list.
    let late = checkout(&pool).await;
    assert_eq!(order.lock().len(), 20);
    drop(late);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock(), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn dead_and_dirty_connections_are_not_given_out() {
    let (pool, counter) = pool(1, 0, 0);
    let mut lease = checkout(&pool).await;
    lease.is_alive = false;
    drop(lease);
    assert_eq!(pool.counts().idle, 1);
    let mut lease = checkout(&pool).await;
    assert_eq!(lease.id, 1);
    lease.is_clean = false;
    drop(lease);
    assert_eq!((now(&pool), pool.counts().opening), ((0, 0, 0), 0));
    assert_eq!(counter.open.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_checkout_ends_at_its_limit_and_old_connections_are_closed() {
    let with = |idle_timeout_ms, lifetime_ms| {
        let limits = Limits { checkout_timeout_ms: 10, idle_timeout_ms, lifetime_ms, ..LIMITS };
        pool_with(limits, Pace::Turns(0), 0, 4).0
    };
    let pool = with(20, 600_000);
    let lease = checkout(&pool).await;
    assert!(matches!(pool.checkout(&0).await, Err(PoolError::Timeout { waited_ms: 10 })));
    assert_eq!(pool.counts().waiting, 0);
    drop(lease);
    tokio::time::sleep(Duration::from_millis(25)).await;
    pool.tend();
    assert_eq!(now(&pool), (0, 0, 0), "idle for too long");

    let pool = with(600_000, 20);
    let lease = checkout(&pool).await;
    tokio::time::sleep(Duration::from_millis(25)).await;
    drop(lease);
    assert_eq!(now(&pool), (0, 0, 0), "too old to come back");
}

#[tokio::test]
async fn a_refusal_is_told_to_those_whom_it_concerns_and_the_next_attempt_is_made_later() {
    let (pool, counter) = pool(1, 3, 0);
    *counter.fault.lock() = Some("refused");
    let ask = |kind: u8| {
        let pool = Arc::clone(&pool);
        tokio::spawn(
            async move { pool.checkout(&kind).await.map(|lease| lease.id).map_err(|error| format!("{error:?}")) },
        )
    };
    let tasks = [ask(0), ask(0), ask(0)];
    for task in tasks {
        assert_eq!(task.await.unwrap(), Err("Connect(\"refused\")".to_owned()));
    }
    assert_eq!(counter.connects.load(Ordering::SeqCst), 1, "one attempt answers all who wait");
    assert!(ask(0).await.unwrap().is_err());
    assert_eq!(counter.connects.load(Ordering::SeqCst), 1, "and those who come a moment later");
    *counter.fault.lock() = None;
    assert!(ask(1).await.unwrap().is_ok(), "others are not concerned");
    tokio::time::sleep(Duration::from_millis(260)).await;
    assert!(ask(0).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_server_that_is_down_is_not_hammered() {
    let (pool, counter) = pool(10, 1, 0);
    *counter.fault.lock() = Some("down");
    let start = std::time::Instant::now();
    let mut asked = 0u64;
    while start.elapsed() < Duration::from_millis(600) {
        assert!(matches!(pool.checkout(&0).await, Err(PoolError::Connect("down"))));
        asked += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // At 0, 100, 300, (700): not once for everyone who asks.
    let attempts = counter.connects.load(Ordering::SeqCst);
    assert!((2..=4).contains(&attempts) && asked > 50, "{attempts} attempts for {asked}");
    *counter.fault.lock() = None;
    let end = std::time::Instant::now() + Duration::from_secs(5);
    while pool.checkout(&0).await.is_err() {
        assert!(std::time::Instant::now() < end, "it is used again once it is back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(pool.counts().opening, 0);
}

#[tokio::test]
async fn a_full_server_makes_one_wait_for_a_connection_that_is_in_use() {
    let (pool, counter) = pool(5, 1, 0);
    let lease = checkout(&pool).await;
    *counter.fault.lock() = Some("full");
    let waiter = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.checkout(&0).await.map(|lease| lease.id) }
    });
    settle().await;
    assert!(!waiter.is_finished());
    let id = lease.id;
    drop(lease);
    assert!(matches!(waiter.await.unwrap(), Ok(same) if same == id));
    // Without any in use there is nothing to wait for.
    pool.close_idle();
    let end = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        assert!(std::time::Instant::now() < end);
        if matches!(pool.checkout(&0).await, Err(PoolError::Connect("full"))) {
            break;
        }
    }
}

#[tokio::test]
async fn one_hiccup_while_the_server_answers_others_fails_nobody() {
    let (pool, counter) = pool_with(Limits { size: 2, ..LIMITS }, Pace::Manual, 0, 4);
    let ask = || {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { checkout(&pool).await })
    };
    let (first, second) = (ask(), ask());
    settle().await;
    counter.pending.lock().pop_front().unwrap().send(Ok(())).unwrap();
    let lease = first.await.unwrap();
    counter.pending.lock().pop_front().unwrap().send(Err("reset by peer")).unwrap();
    settle().await;
    assert!(!second.is_finished());
    drop(lease);
    second.await.unwrap();
}

#[tokio::test]
async fn a_burst_opens_few_at_a_time_and_is_served_by_what_comes_back() {
    let (pool, counter) = pool_with(Limits { size: 100, ..LIMITS }, Pace::Manual, 0, 3);
    let served = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..500)
        .map(|number| {
            let (pool, served) = (Arc::clone(&pool), Arc::clone(&served));
            tokio::spawn(async move {
                let lease = checkout(&pool).await;
                served.lock().push(number);
                tokio::task::yield_now().await;
                drop(lease);
            })
        })
        .collect();
    for _ in 0..20 {
        settle().await;
    }
    assert_eq!((counter.pending.lock().len(), pool.counts().waiting), (3, 500));
    // One connection serves all of them, in order, while the others are still being opened.
    counter.pending.lock().pop_front().unwrap().send(Ok(())).unwrap();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*served.lock(), (0..500).collect::<Vec<_>>());
    while let Some(connect) = counter.pending.lock().pop_front() {
        let _ = connect.send(Ok(()));
    }
    for _ in 0..20 {
        settle().await;
        while let Some(connect) = counter.pending.lock().pop_front() {
            let _ = connect.send(Ok(()));
        }
    }
    assert_eq!(counter.connecting_most.load(Ordering::SeqCst), 3);
    assert!(counter.made.load(Ordering::SeqCst) < 10, "nobody needed the rest: {:?}", pool.counts());
    assert_eq!((pool.counts().opening, pool.counts().used), (0, 0));
}

#[tokio::test]
async fn what_a_session_left_is_wiped_before_anybody_else_has_the_connection() {
    let (pool, counter) = pool(1, 0, 0);
    let mut lease = checkout(&pool).await;
    let id = lease.id;
    lease.needs_reset = true;
    counter.resets_hang.store(true, Ordering::SeqCst);
    drop(lease);
    let waiter = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { checkout(&pool).await }
    });
    settle().await;
    let counts = pool.counts();
    assert_eq!((counts.resetting, counts.idle, counts.waiting, counts.resets_total), (1, 0, 1, 0));
    assert_eq!(pool.members()[0].state, MemberState::Resetting);
    counter.resets_hang.store(false, Ordering::SeqCst);
    let mut lease = waiter.await.unwrap();
    assert_eq!((lease.id, pool.counts().resets_total), (id, 1));

    // One that cannot be wiped is closed, and its place goes on.
    lease.needs_reset = true;
    lease.is_alive = false;
    drop(lease);
    assert_ne!(checkout(&pool).await.id, id);
    assert_eq!((counter.open.load(Ordering::SeqCst), pool.counts().resets_total), (1, 1));
}

#[tokio::test]
async fn another_kind_takes_the_place_of_an_idle_connection() {
    let (pool, counter) = pool(2, 0, 0);
    let (a, b) = (pool.checkout(&1).await.ok().unwrap(), pool.checkout(&2).await.ok().unwrap());
    assert_eq!((a.kind, b.kind), (1, 2));
    let (oldest, kept) = (a.id, b.id);
    drop(a);
    drop(b);
    let other = pool.checkout(&3).await.ok().unwrap();
    assert_eq!((other.kind, counter.open.load(Ordering::SeqCst)), (3, 2));
    assert_eq!(pool.checkout(&2).await.ok().unwrap().id, kept);
    drop(other);
    assert_ne!(pool.checkout(&1).await.ok().unwrap().id, oldest);
}

#[tokio::test]
async fn a_pool_in_use_keeps_its_minimum_ready_and_an_unused_one_does_not() {
    let limits = Limits { size: 5, size_min: 3, idle_timeout_ms: 60, ..LIMITS };
    let (pool, _) = pool_with(limits, Pace::Turns(1), 0, 4);
    pool.tend();
    settle().await;
    assert_eq!(pool.counts(), Counts::default(), "nobody has asked yet");
    let lease = checkout(&pool).await;
    pool.tend();
    settle().await;
    assert_eq!(now(&pool), (3, 1, 0));
    drop(lease);
    pool.tend();
    settle().await;
    assert_eq!(now(&pool), (4, 0, 0));
    tokio::time::sleep(Duration::from_millis(40)).await;
    drop(checkout(&pool).await);
    tokio::time::sleep(Duration::from_millis(40)).await;
    pool.tend();
    assert_eq!(now(&pool), (3, 0, 0), "the one too many is idle for too long, the others are kept");
    tokio::time::sleep(Duration::from_millis(70)).await;
    pool.tend();
    settle().await;
    assert_eq!(now(&pool), (0, 0, 0), "nobody asks any more");
}

#[tokio::test]
async fn connections_opened_together_do_not_end_together() {
    let limits = Limits { size: 40, size_min: 0, lifetime_ms: 300, ..LIMITS };
    let (pool, _) = pool_with(limits, Pace::Turns(0), 0, 40);
    let mut leases = Vec::new();
    for _ in 0..40 {
        leases.push(checkout(&pool).await);
    }
    let start = std::time::Instant::now();
    drop(leases);
    assert_eq!(pool.counts().idle, 40);
    let mut first_gone = None;
    while pool.counts().idle > 0 {
        pool.tend();
        if pool.counts().idle < 40 {
            first_gone.get_or_insert_with(|| start.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (first, last) = (first_gone.unwrap().as_millis(), start.elapsed().as_millis());
    assert!(first >= 260 && last - first > 20, "from {first} to {last} ms");
}

/// What the pool has to do, written apart from it: one kind, no failures.
#[derive(Default)]
struct Model {
    size: usize,
    connects_max: usize,
    queue: VecDeque<u64>,
    /// Serves the one who came last: for showing that this is noticed.
    is_unfair: bool,
    idle: usize,
    used: usize,
    connecting: usize,
    /// Who was served, in order.
    served: Vec<u64>,
}

impl Model {
    fn comes(&mut self, who: u64) {
        if self.idle > 0 {
            self.idle -= 1;
            self.serve(who);
        } else {
            self.queue.push_back(who);
        }
        self.open();
    }

    fn serve(&mut self, who: u64) {
        self.used += 1;
        self.served.push(who);
    }

    fn one_is_there(&mut self) {
        let next = if self.is_unfair { self.queue.pop_back() } else { self.queue.pop_front() };
        match next {
            Some(who) => self.serve(who),
            None => self.idle += 1,
        }
        self.open();
    }

    fn open(&mut self) {
        while self.connecting < self.connects_max.min(self.queue.len())
            && self.idle + self.used + self.connecting < self.size
        {
            self.connecting += 1;
        }
    }
}

/// Plays the same steps to pool and model, and says where they first differ.
async fn play(mut model: Model, steps: u64, seed: u64) -> Result<(), String> {
    let (pool, counter) = pool_with(Limits { size: model.size, ..LIMITS }, Pace::Manual, 0, model.connects_max);
    let mut dice = Dice::new(seed);
    let served = Arc::new(Mutex::new(Vec::new()));
    let leases = Arc::new(Mutex::new(Vec::new()));
    let mut waiting: Vec<(u64, tokio::task::JoinHandle<()>)> = Vec::new();
    for step in 0..steps {
        match dice.below(7) {
            0..=2 => {
                model.comes(step);
                let (pool, served, leases) = (Arc::clone(&pool), Arc::clone(&served), Arc::clone(&leases));
                waiting.push((
                    step,
                    tokio::spawn(async move {
                        let lease = checkout(&pool).await;
                        served.lock().push(step);
                        leases.lock().push(lease);
                    }),
                ));
            }
            3..=4 if model.used > 0 => {
                let mut lease: PoolLease<FakeConnector> =
                    leases.lock().swap_remove(usize::try_from(dice.below(model.used as u64)).unwrap());
                model.used -= 1;
                lease.is_clean = dice.below(4) != 0;
                if lease.is_clean {
                    model.one_is_there()
                } else {
                    model.open()
                }
                drop(lease);
            }
            5 if model.connecting > 0 => {
                model.connecting -= 1;
                model.one_is_there();
                counter.pending.lock().pop_front().unwrap().send(Ok(())).unwrap();
            }
            6 if !model.queue.is_empty() => {
                let at = usize::try_from(dice.below(model.queue.len() as u64)).unwrap();
                let who = model.queue.remove(at).unwrap();
                let at = waiting.iter().position(|(known, _)| *known == who).unwrap();
                waiting.swap_remove(at).1.abort();
            }
            _ => {}
        }
        settle().await;
        let counts = pool.counts();
        let does = (counts.idle, counts.used, counts.waiting, counter.pending.lock().len());
        let should = (model.idle, model.used, model.queue.len(), model.connecting);
        if *served.lock() != model.served || does != should {
            let order = served.lock().clone();
            return Err(format!(
                "seed {seed}, step {step}: {does:?} is not {should:?}, or {order:?} {:?}",
                model.served
            ));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_pool_that_served_who_came_last_would_be_found_out() {
    let unfair = Model { size: 2, connects_max: 2, is_unfair: true, ..Model::default() };
    assert!(play(unfair, 120, 1).await.is_err());
}

/// Tasks that check out, hold, break, and give up at any point.
async fn storm(size: usize, tasks: u64, rounds: u64, seed: u64) {
    let (pool, counter) = pool(size, seed % 3, 7);
    let kinds = 1 + seed % 2;
    let handles: Vec<_> = (0..tasks)
        .map(|task| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move {
                let mut dice = Dice::new(seed.wrapping_mul(31).wrapping_add(task));
                for _ in 0..rounds {
                    let patience = dice.below(6);
                    let kind = u8::try_from(dice.below(kinds)).unwrap();
                    let checkout = pool.checkout(&kind);
                    // Gives up after a number of turns, at whatever point the checkout then is.
                    let gives_up = async {
                        for _ in 0..patience {
                            tokio::task::yield_now().await;
                        }
                        if patience > 3 {
                            std::future::pending::<()>().await;
                        }
                    };
                    let lease = tokio::select! {
                        biased;
                        () = gives_up => continue,
                        lease = checkout => lease,
                    };
                    let Ok(mut lease) = lease else { continue };
                    assert!(lease.is_clean && !lease.needs_reset && lease.kind == kind);
                    for _ in 0..dice.below(4) {
                        tokio::task::yield_now().await;
                    }
                    lease.is_clean = dice.below(10) != 0;
                    lease.is_alive = dice.below(10) != 0;
                    lease.needs_reset = dice.below(5) == 0;
                    if dice.below(200) == 0 {
                        pool.retire();
                    }
                }
            })
        })
        .collect();
    for handle in handles {
        handle.await.unwrap();
    }
    // Resets, and connects for those who have given up, end by themselves.
    let end = std::time::Instant::now() + Duration::from_secs(20);
    let is_quiet = |counts: &Counts| counts.opening + counts.resetting + counts.used + counts.waiting == 0;
    while !is_quiet(&pool.counts()) && std::time::Instant::now() < end {
        tokio::task::yield_now().await;
    }
    let counts = pool.counts();
    assert_eq!(counts.opening + counts.resetting, 0, "seed {seed}: {counts:?}");
    assert_eq!((counts.used, counts.waiting), (0, 0), "seed {seed}: {counts:?}");
    assert_eq!(counter.open.load(Ordering::SeqCst), counts.idle as i64, "seed {seed}");
    let members = pool.members();
    assert_eq!(members.len(), counts.idle, "seed {seed}: {members:?}");
    assert!(members.iter().all(|member| member.state == MemberState::Idle), "seed {seed}: {members:?}");
    assert!(counter.most.load(Ordering::SeqCst) <= size as i64, "seed {seed}");
    // Every place can still be had at the same time.
    let mut leases = Vec::new();
    while leases.len() < size {
        let checkout = tokio::time::timeout(Duration::from_secs(20), pool.checkout(&0));
        if let Ok(lease) = checkout.await.unwrap_or_else(|_| panic!("seed {seed}: a place has leaked")) {
            leases.push(lease);
        }
    }
    assert_eq!(pool.counts().used, size, "seed {seed}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_place_leaks_in_a_storm_of_cancellations(size in 1usize..6, tasks in 1u64..40, seed in any::<u64>()) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(storm(size, tasks, 40, seed));
    }

    #[test]
    fn the_pool_does_what_the_model_does(size in 1usize..8, connects_max in 1usize..4, seed in any::<u64>()) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(play(Model { size, connects_max, ..Model::default() }, 120, seed))
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_place_leaks_when_threads_race() {
    for seed in 0..10 {
        storm(4, 64, 200, seed).await;
    }
}
