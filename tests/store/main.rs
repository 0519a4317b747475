//! One conformance suite over every store, and what each owes beyond it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod conformance;
mod crash;
mod etcd;
#[path = "../common/etcd.rs"]
mod etcd_server;
#[path = "../common/port.rs"]
mod port;
mod topology;

use std::sync::Arc;
use std::time::Duration;

use etcd_server::Etcd;
use ostrakon::store::{EmbeddedStore, EtcdSettings, EtcdStore, ManualClock, MemoryStore, Store};
use port::free_port;

/// A fresh store of each kind.
struct Fresh {
    store: Arc<dyn Store>,
    time: Time,
    _ground: Ground,
}

/// What a store stands on, and ends after it.
#[allow(dead_code)]
enum Ground {
    Nothing,
    Directory(tempfile::TempDir),
    Etcd(Box<Etcd>),
}

/// What its leases run by.
enum Time {
    Manual(ManualClock),
    Real,
}

impl Time {
    /// A lease time that is a while on this clock.
    fn ttl(&self) -> Duration {
        Duration::from_secs(if matches!(self, Self::Manual(_)) { 10 } else { 4 })
    }

    async fn pass(&self, time: Duration) {
        match self {
            Self::Manual(clock) => clock.advance(time),
            Self::Real => tokio::time::sleep(time).await,
        }
    }
}

fn memory() -> Fresh {
    let clock = ManualClock::default();
    let store = Arc::new(MemoryStore::with_clock(Arc::new(clock.clone())));
    Fresh { store, time: Time::Manual(clock), _ground: Ground::Nothing }
}

fn embedded() -> Fresh {
    let clock = ManualClock::default();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/store.redb");
    let store = EmbeddedStore::open_with_clock(&path, Arc::new(clock.clone())).unwrap();
    Fresh { store: Arc::new(store), time: Time::Manual(clock), _ground: Ground::Directory(directory) }
}

fn etcd(members: usize) -> Fresh {
    let etcd = Etcd::start(members);
    let store = Arc::new(EtcdStore::new(EtcdSettings::new(etcd.endpoints())).unwrap());
    Fresh { store, time: Time::Real, _ground: Ground::Etcd(Box::new(etcd)) }
}

fn every_kind() -> Vec<(&'static str, Fresh)> {
    vec![("memory", memory()), ("embedded", embedded()), ("etcd", etcd(1))]
}
