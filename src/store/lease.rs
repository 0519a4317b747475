//! Leases of the stores that live in one process.
//!
//! They are kept in memory: a store that only one process can hold loses its leases exactly when the
//! process that granted them ends, and with it everyone who could hold one. Tokens come from the
//! store's durable counter, so a fence that remembers one still holds after a restart.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::StoreError;

/// A lease that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Name.
    pub name: String,
    /// Who holds it.
    pub holder: String,
    /// Fencing token: greater than that of every earlier lease of the store.
    pub token: u64,
}

struct Granted {
    holder: String,
    token: u64,
    ends: Duration,
}

#[derive(Default)]
pub(super) struct Leases {
    granted: Mutex<HashMap<String, Granted>>,
}

impl Leases {
    /// Grants a lease if nobody holds it at `now`.
    pub(super) fn acquire(
        &self,
        name: &str,
        holder: &str,
        token: u64,
        now: Duration,
        ttl: Duration,
    ) -> Result<Lease, StoreError> {
        let mut granted = self.granted.lock();
        if let Some(other) = granted.get(name).filter(|other| other.ends > now) {
            return Err(StoreError::LeaseHeld { name: name.to_owned(), holder: other.holder.clone() });
        }
        let ends = now.saturating_add(ttl);
        granted.insert(name.to_owned(), Granted { holder: holder.to_owned(), token, ends });
        Ok(Lease { name: name.to_owned(), holder: holder.to_owned(), token })
    }

    /// Who holds a lease at `now`.
    pub(super) fn check_free(&self, name: &str, now: Duration) -> Result<(), StoreError> {
        match self.granted.lock().get(name).filter(|other| other.ends > now) {
            Some(other) => Err(StoreError::LeaseHeld { name: name.to_owned(), holder: other.holder.clone() }),
            None => Ok(()),
        }
    }

    /// Extends a lease that has not run out. One that has is lost even if nobody took it since: its
    /// holder may have been judged gone.
    pub(super) fn renew(&self, lease: &Lease, now: Duration, ttl: Duration) -> Result<(), StoreError> {
        let mut granted = self.granted.lock();
        match granted.get_mut(&lease.name).filter(|held| held.token == lease.token && held.ends > now) {
            Some(held) => {
                held.ends = now.saturating_add(ttl);
                Ok(())
            }
            None => Err(StoreError::LeaseLost { name: lease.name.clone() }),
        }
    }

    pub(super) fn release(&self, lease: &Lease) {
        let mut granted = self.granted.lock();
        if granted.get(&lease.name).is_some_and(|held| held.token == lease.token) {
            granted.remove(&lease.name);
        }
    }
}
