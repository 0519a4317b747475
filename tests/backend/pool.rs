//! The pool's rules with connections that are only counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use ostrakon::backend::pool::{Connector, Counts, Limits, Pool, PoolError};
use proptest::prelude::*;

use crate::support::Dice;

/// Counts what is open and how often that was.
#[derive(Default)]
struct Counter {
    open: AtomicI64,
    most: AtomicI64,
    made: AtomicU64,
    connects: AtomicU64,
}

struct FakeConnection {
    id: u64,
    is_clean: bool,
    is_alive: bool,
    counter: Arc<Counter>,
}

impl Drop for FakeConnection {
    fn drop(&mut self) {
        self.counter.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Takes a few turns to connect; every `fails_every`th attempt fails.
struct FakeConnector {
    counter: Arc<Counter>,
    turns: u64,
    fails_every: u64,
}

impl Connector for FakeConnector {
    type Connection = FakeConnection;
    type Error = &'static str;

    async fn connect(&self) -> Result<FakeConnection, &'static str> {
        for _ in 0..self.turns {
            tokio::task::yield_now().await;
        }
        let attempt = self.counter.connects.fetch_add(1, Ordering::SeqCst) + 1;
        if self.fails_every > 0 && attempt.is_multiple_of(self.fails_every) {
            return Err("refused");
        }
        let open = self.counter.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.counter.most.fetch_max(open, Ordering::SeqCst);
        let id = self.counter.made.fetch_add(1, Ordering::SeqCst);
        Ok(FakeConnection { id, is_clean: true, is_alive: true, counter: Arc::clone(&self.counter) })
    }

    fn may_return(&self, connection: &mut FakeConnection) -> bool {
        connection.is_clean
    }

    fn is_usable(&self, connection: &mut FakeConnection) -> bool {
        connection.is_alive
    }

    fn is_clean(&self, connection: &FakeConnection) -> bool {
        connection.is_clean
    }
}

fn pool(size: usize, turns: u64, fails_every: u64) -> (Arc<Pool<FakeConnector>>, Arc<Counter>) {
    let counter = Arc::<Counter>::default();
    let limits = Limits { size, checkout_timeout_ms: 60_000, idle_timeout_ms: 60_000, lifetime_ms: 600_000 };
    (Pool::new(FakeConnector { counter: Arc::clone(&counter), turns, fails_every }, limits), counter)
}

#[tokio::test]
async fn the_connection_used_last_is_used_next() {
    let (pool, _) = pool(3, 0, 0);
    let (a, b) = (pool.checkout().await.ok().unwrap(), pool.checkout().await.ok().unwrap());
    let (first, second) = (a.id, b.id);
    drop(a);
    drop(b);
    let again = pool.checkout().await.ok().unwrap();
    assert_eq!(again.id, second);
    assert_eq!(pool.checkout().await.ok().unwrap().id, first);
}

#[tokio::test]
async fn waiters_are_served_in_the_order_they_came() {
    let (pool, _) = pool(1, 0, 0);
    let lease = pool.checkout().await.ok().unwrap();
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..20 {
        let (own, order) = (Arc::clone(&pool), Arc::clone(&order));
        tasks.push(tokio::spawn(async move {
            let lease = own.checkout().await.ok().unwrap();
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
    let late = pool.checkout().await.ok().unwrap();
    assert_eq!(order.lock().len(), 20);
    drop(late);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock(), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_failed_connect_lets_the_next_waiter_try() {
    let (pool, counter) = pool(1, 3, 2);
    let lease = pool.checkout().await.ok().unwrap();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { pool.checkout().await.map(|lease| lease.id) })
        })
        .collect();
    while pool.counts().waiting < 2 {
        tokio::task::yield_now().await;
    }
    // It comes back dirty: its place goes to the first waiter, whose attempt fails, then to the second.
    let mut lease = lease;
    lease.is_clean = false;
    drop(lease);
    let mut results = Vec::new();
    for task in waiting {
        results.push(task.await.unwrap());
    }
    assert!(matches!(results[0], Err(PoolError::Connect("refused"))));
    assert!(matches!(results[1], Ok(1)));
    assert_eq!(pool.counts(), Counts { idle: 1, used: 0, waiting: 0 });
    assert_eq!(counter.open.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_dropped_connect_frees_its_place() {
    let (pool, _) = pool(1, u64::MAX, 0);
    let outcome = tokio::time::timeout(Duration::from_millis(5), pool.checkout()).await;
    assert!(outcome.is_err());
    assert_eq!(pool.counts(), Counts::default());
}

#[tokio::test]
async fn dead_and_dirty_connections_are_not_given_out() {
    let (pool, counter) = pool(1, 0, 0);
    let mut lease = pool.checkout().await.ok().unwrap();
    lease.is_alive = false;
    drop(lease);
    assert_eq!(pool.counts().idle, 1);
    let mut lease = pool.checkout().await.ok().unwrap();
    assert_eq!(lease.id, 1);
    lease.is_clean = false;
    drop(lease);
    assert_eq!(pool.counts(), Counts::default());
    assert_eq!(counter.open.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_checkout_ends_at_its_limit_and_old_connections_are_closed() {
    let with = |idle_timeout_ms, lifetime_ms| {
        let connector = FakeConnector { counter: Arc::default(), turns: 0, fails_every: 0 };
        Pool::new(connector, Limits { size: 1, checkout_timeout_ms: 10, idle_timeout_ms, lifetime_ms })
    };
    let pool = with(20, 600_000);
    let lease = pool.checkout().await.ok().unwrap();
    assert!(matches!(pool.checkout().await, Err(PoolError::Timeout { waited_ms: 10 })));
    assert_eq!(pool.counts().waiting, 0);
    drop(lease);
    tokio::time::sleep(Duration::from_millis(25)).await;
    pool.close_expired();
    assert_eq!(pool.counts(), Counts::default(), "idle for too long");

    let pool = with(600_000, 20);
    let lease = pool.checkout().await.ok().unwrap();
    tokio::time::sleep(Duration::from_millis(25)).await;
    drop(lease);
    assert_eq!(pool.counts(), Counts::default(), "too old to come back");
}

/// Tasks that check out, hold, break, and give up at any point.
async fn storm(size: usize, tasks: u64, rounds: u64, seed: u64) {
    let (pool, counter) = pool(size, seed % 3, 7);
    let handles: Vec<_> = (0..tasks)
        .map(|task| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move {
                let mut dice = Dice::new(seed.wrapping_mul(31).wrapping_add(task));
                for _ in 0..rounds {
                    let patience = dice.below(6);
                    let checkout = pool.checkout();
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
                    assert!(lease.is_clean);
                    for _ in 0..dice.below(4) {
                        tokio::task::yield_now().await;
                    }
                    lease.is_clean = dice.below(10) != 0;
                    lease.is_alive = dice.below(10) != 0;
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
    let counts = pool.counts();
    assert_eq!((counts.used, counts.waiting), (0, 0), "seed {seed}: {counts:?}");
    assert_eq!(counter.open.load(Ordering::SeqCst), counts.idle as i64, "seed {seed}");
    assert!(counter.most.load(Ordering::SeqCst) <= size as i64, "seed {seed}");
    // Every place can still be had at the same time.
    let mut leases = Vec::new();
    while leases.len() < size {
        let checkout = tokio::time::timeout(Duration::from_secs(20), pool.checkout());
        if let Ok(lease) = checkout.await.unwrap_or_else(|_| panic!("seed {seed}: a place has leaked")) {
            leases.push(lease);
        }
    }
    assert_eq!(pool.counts().used, size, "seed {seed}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn no_place_leaks_in_a_storm_of_cancellations(size in 1usize..6, tasks in 1u64..40, seed in any::<u64>()) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(storm(size, tasks, 40, seed));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_place_leaks_when_threads_race() {
    for seed in 0..10 {
        storm(4, 64, 200, seed).await;
    }
}
