//! One conformance suite over every store, and what the embedded one owes after a crash.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod conformance;
mod crash;
mod topology;

use std::sync::Arc;

use ostrakon::store::{EmbeddedStore, ManualClock, MemoryStore, Store};

/// A fresh store of each kind, with the clock that its leases run by.
struct Fresh {
    store: Arc<dyn Store>,
    clock: ManualClock,
    _directory: Option<tempfile::TempDir>,
}

fn memory() -> Fresh {
    let clock = ManualClock::default();
    Fresh { store: Arc::new(MemoryStore::with_clock(Arc::new(clock.clone()))), clock, _directory: None }
}

fn embedded() -> Fresh {
    let clock = ManualClock::default();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/store.redb");
    let store = EmbeddedStore::open_with_clock(&path, Arc::new(clock.clone())).unwrap();
    Fresh { store: Arc::new(store), clock, _directory: Some(directory) }
}

fn every_kind() -> Vec<(&'static str, Fresh)> {
    vec![("memory", memory()), ("embedded", embedded())]
}
