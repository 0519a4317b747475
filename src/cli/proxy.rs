//! Starts and stops the proxy inside this process: the only place that calls the server room.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Failure;
use super::directory::{ProxyFile, ProxyFileGuard};
use crate::backend::PoolSettings;
use crate::control::leader::Hands;
use crate::server::{self, LeadingSettings, Running, Settings};
use crate::store::Store;

/// Sessions and background work end within this, or end with the process.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// A running proxy, with the file that tells others of it.
pub struct Proxy {
    running: Running,
    file: ProxyFileGuard,
}

impl Proxy {
    /// Starts it on the topology of the store.
    ///
    /// # Errors
    /// Nothing is left running.
    pub async fn start(settings: Settings, store: Arc<dyn Store>) -> Result<Self, Failure> {
        let directory = settings.data.clone();
        let started = server::start(settings, store).await;
        let running = started
            .map_err(|error| Failure::new(format!("the proxy of {} cannot start: {error}", directory.display())))?;
        match ProxyFile::write(&directory, running.address) {
            Ok(file) => Ok(Self { running, file }),
            Err(failure) => {
                stop(running).await;
                Err(failure)
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// Where health is asked for.
    pub fn http(&self) -> Option<SocketAddr> {
        self.running.http
    }

    /// Waits for it to end by itself: true when it was drained.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn finished(&mut self) -> bool {
        self.running.finished().await
    }

    /// Stops it.
    pub async fn stop(self) {
        drop(self.file);
        stop(self.running).await;
    }
}

async fn stop(running: Running) {
    if tokio::time::timeout(STOP_LIMIT, running.stop()).await.is_err() {
        tracing::warn!("sessions did not end in time; they end with the process");
    }
}

/// The settings of a proxy over servers that trust this machine.
pub fn trusting_settings(listen: SocketAddr, directory: &Path) -> Settings {
    let control_user = crate::host::replication::SUPERUSER;
    let pool = PoolSettings { size: POOL_SIZE, ..PoolSettings::default() };
    Settings { pool, ..Settings::new(listen, directory.to_owned(), control_user) }
}

/// The same, for servers whose primaries are replaced when they are lost.
pub fn led_settings(listen: SocketAddr, directory: &Path, hands: Arc<dyn Hands>) -> Settings {
    let replication_user = crate::host::replication::SUPERUSER.to_owned();
    let leading = LeadingSettings { durability: None, replays: false, replication_user, hands: Some(hands) };
    Settings { leading: Some(leading), ..trusting_settings(listen, directory) }
}

/// Connections a node, database and role; the servers of `up` take 200.
const POOL_SIZE: usize = 40;
