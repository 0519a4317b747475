//! Who is connected: kept by whoever serves clients, shown by SHOW CLIENTS.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::executor::CancelSlot;

/// A client that is logged in.
#[derive(Clone)]
pub struct Client {
    /// Process id that it was told.
    pub pid: u32,
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
    clients: BTreeMap<u64, (Client, Instant)>,
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
        present.clients.insert(number, (client, Instant::now()));
        Listed { clients: self, number }
    }

    /// All of them, and how long each has been here in seconds.
    pub(super) fn list(&self) -> Vec<(Client, u64)> {
        let present = self.present.lock();
        present.clients.values().map(|(client, since)| (client.clone(), since.elapsed().as_secs())).collect()
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.clients.present.lock().clients.remove(&self.number);
    }
}
