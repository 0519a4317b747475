//! Clients: accepted, let in, served, cancelled, sent away.
//!
//! Must not know: how statements run, where the topology is kept.

mod alike;
mod authenticate;
mod deadlock;
mod door;
mod gone;
mod limits;
mod login;
mod serve;

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::Admin;
use crate::error::{ClientError, ErrorId};
use crate::executor::direct::{Stop, drained, send_away as refuse, stopped};
use crate::executor::{CancelSlot, Cluster};
use crate::net::stream::Stream;
use crate::net::{Framed, listener::Listener};
use crate::session::identity::PID_MIN;
use crate::wire::limits::{CANCEL_SECRET_BYTES_MIN, MESSAGE_BYTES_MAX};

pub use limits::ClientLimits;
pub use login::LoginSettings;

pub use crate::admin::DATABASE as ADMIN_DATABASE;
pub use authenticate::{Access, AccessSettings, MockKey};

/// Everything that serving a client needs.
pub struct Frontend {
    cluster: Arc<Cluster>,
    admin: Arc<Admin>,
    sessions: Sessions,
    access: ArcSwap<Access>,
    seats: limits::Seats,
    login: ArcSwap<LoginSettings>,
    door: door::Door,
    limits: ArcSwap<SessionLimits>,
    alike: alike::Alike,
}

/// What a client that is logged in may do at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Longest message.
    ///
    /// # Units
    /// Bytes; PostgreSQL's own limit is 1 GiB.
    pub message_bytes_max: usize,
    /// A session that does nothing inside a transaction for so long is ended.
    ///
    /// # Units
    /// Milliseconds; `None`: never.
    pub idle_transaction_ms: Option<u64>,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { message_bytes_max: MESSAGE_BYTES_MAX, idle_transaction_ms: None }
    }
}

/// Sessions by the process id that their clients were told.
#[derive(Default)]
struct Sessions {
    next_pid: AtomicU32,
    by_pid: Mutex<HashMap<u32, Entry>>,
}

/// What is known of a session from outside.
struct Entry {
    secret: Secret,
    slot: Arc<CancelSlot>,
    /// The client's socket; open for as long as the entry is in the map.
    socket: RawFd,
    /// What stands in the socket is TLS.
    is_tls: bool,
}

/// Length of a secret in protocol 3.2, as PostgreSQL 18 makes it.
const SECRET_BYTES: usize = 32;

/// The secret of a cancel key.
#[derive(Clone, Copy)]
struct Secret {
    bytes: [u8; SECRET_BYTES],
    length: u8,
}

impl Secret {
    fn random(minor: u16) -> Result<Self, ClientError> {
        let length = if minor >= 2 { SECRET_BYTES } else { CANCEL_SECRET_BYTES_MIN };
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes)
            .map_err(|_| ClientError::new(ErrorId::Internal, "no random numbers for the cancel key"))?;
        Ok(Self { bytes, length: u8::try_from(length).unwrap_or(u8::MAX) })
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// Compares in a time that does not tell where the first difference is: whoever guesses a key byte by byte
/// learns nothing.
fn is_same_secret(own: &[u8], told: &[u8]) -> bool {
    let difference = own.iter().zip(told).fold(0u8, |all, (one, other)| std::hint::black_box(all | (one ^ other)));
    own.len() == told.len() && difference == 0
}

/// A session's place among the others; given up when dropped.
struct Registered<'a> {
    sessions: &'a Sessions,
    pid: u32,
    slot: Arc<CancelSlot>,
}

impl Sessions {
    /// Gives a session a process id and a secret of its own, as long as its protocol version lets it be.
    fn register(&self, client: &Framed, minor: u16) -> Result<Registered<'_>, ClientError> {
        let secret = Secret::random(minor)?;
        let mut by_pid = self.by_pid.lock();
        let pid = loop {
            // Positive, as drivers read it as a signed number, and no server's.
            let pid = (self.next_pid.fetch_add(1, Ordering::Relaxed) & (PID_MIN - 1)) | PID_MIN;
            if !by_pid.contains_key(&pid) {
                break pid;
            }
        };
        let slot = Arc::new(CancelSlot::new(pid));
        let (socket, is_tls) = (client.raw_socket(), client.tls().is_some());
        let entry = Entry { secret, slot: Arc::clone(&slot), socket, is_tls };
        by_pid.insert(pid, entry);
        Ok(Registered { sessions: self, pid, slot })
    }

    /// What a cancel key belongs to.
    fn find(&self, pid: u32, secret: &[u8]) -> Option<Arc<CancelSlot>> {
        let by_pid = self.by_pid.lock();
        by_pid
            .get(&pid)
            .filter(|entry| is_same_secret(entry.secret.as_bytes(), secret))
            .map(|entry| Arc::clone(&entry.slot))
    }
}

impl Registered<'_> {
    /// The secret of its cancel key.
    fn secret(&self) -> Option<Secret> {
        self.sessions.by_pid.lock().get(&self.pid).map(|entry| entry.secret)
    }

    /// Tells the client the server's own process id: the server's process is the session's for as long as it
    /// lasts. One that another session has keeps its own number.
    fn take_pid(&mut self, server_pid: u32) {
        let mut by_pid = self.sessions.by_pid.lock();
        if by_pid.contains_key(&server_pid) {
            return;
        }
        if let Some(entry) = by_pid.remove(&self.pid) {
            by_pid.insert(server_pid, entry);
            self.pid = server_pid;
        }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.sessions.by_pid.lock().remove(&self.pid);
    }
}

impl Frontend {
    /// Puts the parts together.
    pub fn new(cluster: Arc<Cluster>, admin: Arc<Admin>, access: Access, clients: ClientLimits) -> Self {
        let login = LoginSettings::default();
        let door = door::Door::new(login.max);
        let seats = limits::Seats::new(clients);
        Self {
            cluster,
            admin,
            sessions: Sessions::default(),
            access: ArcSwap::from_pointee(access),
            seats,
            login: ArcSwap::from_pointee(login),
            door,
            limits: ArcSwap::default(),
            alike: alike::Alike::default(),
        }
    }

    /// Sets how clients log in.
    pub fn with_login(self, login: LoginSettings) -> Self {
        Self { door: door::Door::new(login.max), login: ArcSwap::from_pointee(login), ..self }
    }

    /// Sets what clients may do at most.
    pub fn with_limits(self, limits: SessionLimits) -> Self {
        Self { limits: ArcSwap::from_pointee(limits), ..self }
    }

    /// Other rules and limits, for logins from now on; what idle transactions may do holds for all sessions. TLS and
    /// the number of logins at a time stay.
    pub fn change(&self, access: Access, clients: ClientLimits, login: &LoginSettings, limits: SessionLimits) {
        self.access.store(Arc::new(access));
        self.seats.change(clients);
        let now = self.login.load_full();
        self.login.store(Arc::new(LoginSettings { tls: now.tls.clone(), max: now.max, ..login.clone() }));
        self.limits.store(Arc::new(limits));
    }

    /// Clients that have connected and not logged in yet.
    pub fn login_count(&self) -> usize {
        self.door.count()
    }

    /// Sessions that are open now.
    pub fn session_count(&self) -> usize {
        self.sessions.by_pid.lock().len()
    }

    /// Serves clients until told to stop; then new ones are refused and those at work are ended, or, where it is
    /// drained, waited for. Each client
    /// stays with one of `workers`, which take turns.
    ///
    /// # Cancel safety
    /// Dropping it ends all sessions.
    pub async fn run(self: Arc<Self>, listener: Listener, workers: Vec<Handle>, mut stop: watch::Receiver<Stop>) {
        let mut clients = JoinSet::new();
        let mut turns = workers.iter().cycle();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => Some(accepted),
                Some(_) = clients.join_next(), if !clients.is_empty() => continue,
                () = drained(&mut stop) => None,
            };
            let Some((stream, peer, permit)) = accepted else { break };
            let Some(worker) = turns.next() else { break };
            let Some(permit) = permit else {
                let mut client = Framed::new(stream);
                refuse(&mut client, &ClientError::new(ErrorId::TooManyClients, "sorry, too many clients already"))
                    .await;
                continue;
            };
            let frontend = Arc::clone(&self);
            let mut stop = stop.clone();
            let serving = async move {
                let _permit = permit;
                let served = match move_here(stream) {
                    Ok(mut client) => frontend.serve(&mut client, &mut stop).await,
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = served {
                    tracing::debug!(?peer, %error, "client gone");
                }
            };
            clients.spawn_on(serving, worker);
        }
        drop(listener);
        let leaving = async { while clients.join_next().await.is_some() {} };
        let is_empty = tokio::select! {
            () = leaving => true,
            () = stopped(&mut stop) => false,
        };
        if is_empty {
            return;
        }
        let bound = std::time::Duration::from_secs(5);
        let all = async { while clients.join_next().await.is_some() {} };
        if tokio::time::timeout(bound, all).await.is_err() {
            tracing::info!("sessions that did not end in time are closed");
            clients.shutdown().await;
        }
    }
}

/// A socket that was accepted by another runtime becomes this one's, which is woken by it from now on.
fn move_here(stream: Stream) -> std::io::Result<Box<Framed>> {
    // In a box: whatever serves a client would hold it several times over.
    Ok(Box::new(Framed::new(stream.moved_here()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_the_same_only_in_all_bytes() {
        assert!(is_same_secret(b"abcd", b"abcd"));
        for other in [&b"abce"[..], b"bbcd", b"abc", b"abcde", b""] {
            assert!(!is_same_secret(b"abcd", other));
        }
    }
}
