//! Proxies that share a store: who there is, and how all of them come to rest before a change that none of
//! them may work through.
//!
//! A change of the placement of tables needs that no statement runs under the old epoch, at no proxy. Who
//! makes it writes a *barrier*, which names the revision of the topology that it is about to replace. Every
//! other proxy lets its statements end, lets no new ones begin, and says so. It goes on when the topology has
//! another revision: either the change is there, or it cannot come any more, because it is a compare-and-set on
//! the old revision. So a proxy that has waited too long takes its freedom by *touching* the topology:
//! writing it again as it is.
//!
//! A proxy registers for good: one that cannot be reached may still be at work, so that it counts until it
//! leaves in order, comes back under its name, or an operator says that it is gone.
//!
//! # Invariants
//! A registration is followed by a touch: a change whose list of proxies lacks the new one fails.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Change, Revision, Store, StoreError, TOPOLOGY_KEY, WatchEvent};

/// Below it a record for each proxy.
const PROXIES: &str = "proxies/";
/// Below it, for each proxy, the revision it has come to rest for.
const RESTING: &str = "resting/";
/// The last change that asked everybody to rest.
pub const BARRIER_KEY: &str = "barrier";

/// A proxy that shares the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where its clients connect.
    pub listen: String,
    /// Version of its program.
    pub version: String,
}

/// A change that wants everybody at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Barrier {
    /// The revision of the topology that is about to be replaced.
    pub revision: u64,
    /// Who makes the change.
    pub by: String,
}

/// Why not everybody is at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restless {
    /// Another proxy makes a change at this moment.
    Busy(String),
    /// These did not come to rest in time.
    Silent(Vec<String>),
    /// The store cannot be used.
    Store(StoreError),
}

impl From<StoreError> for Restless {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn record<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Unreadable { key: key.to_owned(), reason: error.to_string() })
}

/// Writes a record that belongs to this proxy alone, whatever it was before.
async fn put_own(store: &dyn Store, key: &str, value: &[u8]) -> Result<(), StoreError> {
    loop {
        let found = store.get(key).await?;
        match store.put(key, value.to_vec(), found.map(|entry| entry.revision)).await {
            Err(StoreError::Conflict { .. }) => {}
            other => return other.map(drop),
        }
    }
}

/// Makes the proxy known. It may serve from now on, by a topology that is read after this.
///
/// # Errors
/// The store cannot be used; the proxy may or may not be known.
pub async fn register(store: &dyn Store, member: &Member) -> Result<(), StoreError> {
    let key = format!("{PROXIES}{}", member.name);
    put_own(store, &key, &record(&key, member)?).await?;
    touch(store).await
}

/// The proxy has ended its sessions, or is known to be gone. `false`: it was not known.
///
/// # Errors
/// The store cannot be used.
pub async fn unregister(store: &dyn Store, name: &str) -> Result<bool, StoreError> {
    let mut was_known = false;
    for key in [format!("{PROXIES}{name}"), format!("{RESTING}{name}")] {
        while let Some(found) = store.get(&key).await? {
            was_known |= key.starts_with(PROXIES);
            match store.delete(&key, found.revision).await {
                Err(StoreError::Conflict { .. }) => {}
                other => {
                    other?;
                    break;
                }
            }
        }
    }
    Ok(was_known)
}

/// The proxies that share the store.
///
/// # Errors
/// The store cannot be read.
pub async fn members(store: &dyn Store) -> Result<Vec<Member>, StoreError> {
    let read = |entry: super::Entry| {
        serde_json::from_slice(&entry.value)
            .map_err(|error| StoreError::Unreadable { key: entry.key, reason: error.to_string() })
    };
    store.list(PROXIES).await?.into_iter().map(read).collect()
}

/// Gives the topology a new revision, so that a change which counts on the one it has must fail.
///
/// # Errors
/// The store cannot be used; the revision may be new or not.
pub async fn touch(store: &dyn Store) -> Result<(), StoreError> {
    let Some(found) = store.get(TOPOLOGY_KEY).await? else { return Ok(()) };
    match store.put(TOPOLOGY_KEY, found.value, Some(found.revision)).await {
        // Somebody else gave it one.
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The barrier in a record.
///
/// # Errors
/// The record is none.
pub fn read_barrier(value: &[u8]) -> Result<Barrier, StoreError> {
    serde_json::from_slice(value)
        .map_err(|error| StoreError::Unreadable { key: BARRIER_KEY.to_owned(), reason: error.to_string() })
}

/// Says that nothing runs at this proxy, nor will until the topology has another revision.
///
/// # Errors
/// The store cannot be used; it may have been said.
pub async fn say_resting(store: &dyn Store, name: &str, revision: Revision) -> Result<(), StoreError> {
    put_own(store, &format!("{RESTING}{name}"), revision.0.to_string().as_bytes()).await
}

/// Waits until every other proxy rests for a change of the topology with this revision. Whoever does not make
/// the change then, for whatever reason, touches the topology.
///
/// # Errors
/// Not everybody rests; what rests goes on by itself after a while.
pub async fn bring_to_rest(store: &dyn Store, own: &str, revision: Revision, limit: Duration) -> Result<(), Restless> {
    let mut watch = store.watch(RESTING).await?;
    raise_barrier(store, own, revision).await?;
    let mut missing: HashSet<String> = members(store).await?.into_iter().map(|member| member.name).collect();
    missing.remove(own);
    let is_rest = |value: &[u8]| value == revision.0.to_string().as_bytes();
    let list = async |missing: &mut HashSet<String>| -> Result<(), StoreError> {
        for entry in store.list(RESTING).await?.into_iter().filter(|entry| is_rest(&entry.value)) {
            missing.remove(entry.key.strip_prefix(RESTING).unwrap_or_default());
        }
        Ok(())
    };
    let waiting = async {
        list(&mut missing).await?;
        while !missing.is_empty() {
            match watch.next().await {
                Some(WatchEvent::Change(Change::Put(entry))) if is_rest(&entry.value) => {
                    missing.remove(entry.key.strip_prefix(RESTING).unwrap_or_default());
                }
                Some(WatchEvent::Change(_)) => {}
                Some(WatchEvent::Missed) => list(&mut missing).await?,
                None => return Err(StoreError::unavailable("the store is closed")),
            }
        }
        Ok(())
    };
    let waited = tokio::time::timeout(limit, waiting).await;
    match waited {
        Ok(done) => Ok(done?),
        Err(_) => {
            let mut silent: Vec<String> = missing.into_iter().collect();
            silent.sort();
            Err(Restless::Silent(silent))
        }
    }
}

async fn raise_barrier(store: &dyn Store, own: &str, revision: Revision) -> Result<(), Restless> {
    let found = store.get(BARRIER_KEY).await?;
    if let Some(found) = &found {
        let other = read_barrier(&found.value)?;
        if other.revision == revision.0 && other.by != own {
            return Err(Restless::Busy(other.by));
        }
    }
    let barrier = record(BARRIER_KEY, &Barrier { revision: revision.0, by: own.to_owned() })?;
    match store.put(BARRIER_KEY, barrier, found.map(|entry| entry.revision)).await {
        Ok(_) => Ok(()),
        Err(StoreError::Conflict { .. }) => Err(Restless::Busy("another proxy".to_owned())),
        Err(error) => Err(Restless::Store(error)),
    }
}
