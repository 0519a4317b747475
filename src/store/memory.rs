//! A store in memory, for tests and simulation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::lease::Leases;
use super::watch::Watchers;
use super::{BoxFuture, Change, Clock, Entry, Lease, MonotonicClock, Revision, Store, StoreError, Watch, compare};

/// Keeps everything in memory; nothing outlives it.
pub struct MemoryStore {
    state: Mutex<State>,
    watchers: Watchers,
    leases: Leases,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct State {
    revision: u64,
    records: BTreeMap<String, (Revision, Vec<u8>)>,
}

impl State {
    fn next_revision(&mut self) -> Revision {
        self.revision += 1;
        Revision(self.revision)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_clock(Arc::new(MonotonicClock::default()))
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store whose leases run by this clock.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { state: Mutex::default(), watchers: Watchers::default(), leases: Leases::default(), clock }
    }

    fn put_now(&self, key: &str, value: Vec<u8>, expected: Option<Revision>) -> Result<Revision, StoreError> {
        let mut state = self.state.lock();
        compare(key, state.records.get(key).map(|(revision, _)| *revision), expected)?;
        let revision = state.next_revision();
        state.records.insert(key.to_owned(), (revision, value.clone()));
        // Under the lock, so that watchers see revisions in order.
        self.watchers.publish(Change::Put(Entry { key: key.to_owned(), value, revision }));
        Ok(revision)
    }

    fn delete_now(&self, key: &str, expected: Revision) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        compare(key, state.records.get(key).map(|(revision, _)| *revision), Some(expected))?;
        state.records.remove(key);
        let revision = state.next_revision();
        self.watchers.publish(Change::Deleted { key: key.to_owned(), revision });
        Ok(())
    }

    fn acquire_now(&self, name: &str, holder: &str, ttl: Duration) -> Result<Lease, StoreError> {
        let token = self.state.lock().next_revision().0;
        self.leases.acquire(name, holder, token, self.clock.now(), ttl)
    }
}

/// A future that is done already: nothing here waits.
fn ready<'a, T: Send + 'a>(result: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(result))
}

impl Store for MemoryStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        let found = self.state.lock().records.get(key).cloned();
        ready(Ok(found.map(|(revision, value)| Entry { key: key.to_owned(), value, revision })))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Entry>, StoreError>> {
        let state = self.state.lock();
        let entries = state
            .records
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, (revision, value))| Entry { key: key.clone(), value: value.clone(), revision: *revision })
            .collect();
        ready(Ok(entries))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Vec<u8>,
        expected: Option<Revision>,
    ) -> BoxFuture<'a, Result<Revision, StoreError>> {
        Box::pin(async move { self.put_now(key, value, expected) })
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Revision) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.delete_now(key, expected) })
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Watch, StoreError>> {
        ready(Ok(self.watchers.watch(prefix)))
    }

    fn acquire<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(async move { self.acquire_now(name, holder, ttl) })
    }

    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Duration) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.leases.renew(lease, self.clock.now(), ttl) })
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.leases.release(lease);
            Ok(())
        })
    }
}
