//! Where the topology is kept: records with revisions, compare-and-set, watch and leases.
//!
//! [`MemoryStore`] is for tests and simulation, [`EmbeddedStore`] for one proxy, [`EtcdStore`] for several.
//! Every implementation passes one conformance suite (`tests/store`). Persisted records are not core types:
//! `records` translates.
//!
//! Must not know: backends, sessions, who asks.

pub mod agents;
mod clock;
mod embedded;
mod etcd;
mod leadership;
mod lease;
pub mod members;
mod memory;
mod records;
mod reshard;
mod watch;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use crate::topology::validate::Problem;

pub use clock::{Clock, ManualClock, MonotonicClock};
pub use embedded::EmbeddedStore;
pub use etcd::{EtcdSettings, EtcdStore, EtcdTls, endpoint_is_tls};
pub use leadership::{decode_leadership, encode_leadership, leadership_key};
pub use lease::Lease;
pub use memory::MemoryStore;
pub use records::{TOPOLOGY_KEY, decode_topology, encode_topology, load_topology, save_topology};
pub use reshard::{RESHARD_KEY, decode_reshard, encode_reshard};
pub use watch::{Change, Watch, WatchEvent};

/// A future in a box, so that [`Store`] can be used as `dyn Store`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Version of one record.
///
/// # Invariants
/// Taken from one counter of the whole store that only grows, also over restarts; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Key; `/` separates parts by convention.
    pub key: String,
    /// Value.
    pub value: Vec<u8>,
    /// When it was written.
    pub revision: Revision,
}

/// Keeps records.
///
/// # Cancel safety
/// A write whose future is dropped may still be carried out: read again before concluding anything.
pub trait Store: Send + Sync {
    /// Several proxies may use it at the same time.
    fn is_shared(&self) -> bool {
        true
    }

    /// The record of a key.
    ///
    /// # Errors
    /// The store cannot be read.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>>;

    /// All records whose keys begin with `prefix`, by key, as of one moment.
    ///
    /// # Errors
    /// The store cannot be read.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Entry>, StoreError>>;

    /// Writes a record if its revision is `expected`; `None`: it must not exist. Durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: nothing was written. [`StoreError::Unavailable`]: it may have been.
    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Vec<u8>,
        expected: Option<Revision>,
    ) -> BoxFuture<'a, Result<Revision, StoreError>>;

    /// Deletes a record if its revision is `expected`. Durable when it returns.
    ///
    /// # Errors
    /// As for [`Store::put`].
    fn delete<'a>(&'a self, key: &'a str, expected: Revision) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Changes under a prefix from now on. To see everything, watch first and list afterwards.
    ///
    /// # Errors
    /// The store cannot be watched.
    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Watch, StoreError>>;

    /// Takes a lease that nobody holds, for `ttl` from now.
    ///
    /// # Errors
    /// [`StoreError::LeaseHeld`], also when the same holder has it: a holder renews.
    fn acquire<'a>(&'a self, name: &'a str, holder: &'a str, ttl: Duration)
    -> BoxFuture<'a, Result<Lease, StoreError>>;

    /// Holds on to a lease for `ttl` from now.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`]: it ran out or someone else has it; stop what it protects.
    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Duration) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Gives a lease back; one that is lost already stays so.
    ///
    /// # Errors
    /// The store cannot be written.
    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// What can go wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote first; nothing was written.
    #[error("the record {key} was changed by someone else")]
    Conflict {
        /// The key.
        key: String,
        /// The revision it has; `None`: it does not exist.
        current: Option<Revision>,
    },
    /// The file belongs to another process.
    #[error("the store {} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The store cannot be reached, read or written.
    #[error("the store cannot be used: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// A record cannot be understood; nothing was changed.
    #[error("the record {key} cannot be read: {reason}")]
    Unreadable {
        /// The key.
        key: String,
        /// Why.
        reason: String,
    },
    /// A topology that must not be stored; nothing was written.
    #[error("the topology is refused: {}", join(problems))]
    Refused {
        /// What is wrong with it.
        problems: Vec<Problem>,
    },
    /// Somebody holds the lease.
    #[error("the lease {name} is held by {holder}")]
    LeaseHeld {
        /// The lease.
        name: String,
        /// Who.
        holder: String,
    },
    /// The lease ran out or somebody else holds it.
    #[error("the lease {name} is lost")]
    LeaseLost {
        /// The lease.
        name: String,
    },
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl StoreError {
    // By value, so that it can be named in map_err.
    #[allow(clippy::needless_pass_by_value)]
    fn unavailable(reason: impl ToString) -> Self {
        Self::Unavailable { reason: reason.to_string() }
    }
}

/// Whether a write may go ahead.
fn compare(key: &str, current: Option<Revision>, expected: Option<Revision>) -> Result<(), StoreError> {
    if current == expected { Ok(()) } else { Err(StoreError::Conflict { key: key.to_owned(), current }) }
}
