//! Who is connected: kept by whoever serves clients, shown by SHOW CLIENTS.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::executor::CancelSlot;

/// A client that is logged in.
#[derive(Clone)]
pub struct Client {
    /// Role.
    pub user: Arc<str>,
    /// Database.
    pub database: Arc<str>,
    /// Where it connects from.
    pub address: Option<std::net::SocketAddr>,
    /// What it has running.
    pub slot: Arc<CancelSlot>,
}

/// All clients by the order in which they came.
#[derive(Default)]
pub struct Clients {
    present: Mutex<Present>,
}

#[derive(Default)]
struct Present {
    next: u64,
    /// With when it came, in seconds after the first: there may be tens of thousands.
    clients: BTreeMap<u64, (Client, u32)>,
    first: Option<Instant>,
}

impl Present {
    fn now(&mut self) -> u32 {
        let first = *self.first.get_or_insert_with(Instant::now);
        u32::try_from(first.elapsed().as_secs()).unwrap_or(u32::MAX)
    }
}

/// A client's entry; gone when dropped.
pub struct Listed<'a> {
    clients: &'a Clients,
    number: u64,
}

impl Clients {
    /// Lists a client for as long as what is returned is kept.
    pub fn enter(&self, client: Client) -> Listed<'_> {
        let mut present = self.present.lock();
        let number = present.next;
        present.next += 1;
        let now = present.now();
        present.clients.insert(number, (client, now));
        Listed { clients: self, number }
    }

    /// All of them, and how long each has been here in seconds.
    pub(super) fn list(&self) -> Vec<(Client, u64)> {
        let mut present = self.present.lock();
        let now = present.now();
        present
            .clients
            .values()
            .map(|(client, since)| (client.clone(), u64::from(now.saturating_sub(*since))))
            .collect()
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.clients.present.lock().clients.remove(&self.number);
    }
}
