//! Sessions of a cluster that has one shard: every message goes to its primary, in the order and form in
//! which it came. The rules are [`crate::session::direct`]'s; this is its driver.
//!
//! Must not know: what statements mean, how clients are accepted.

mod host;
mod reading;
mod recover;
mod relay;

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedRwLockReadGuard, watch};

use super::reads::{self, Reading, Seen};
use super::routes::Routes;
use super::{CancelSlot, Cluster, Failure, Joined, Peer, shard_name};
use crate::backend::{BackendError, ConnectTarget, Lease};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::failover::Serving;
use crate::net::{Framed, NetError};
use crate::session::direct::{Host as _, Machine, Pumped};
use crate::session::{PoolMode, ReadFrom, Settings};
use crate::wire::client_message;
use crate::wire::frame::Frame;
use crate::wire::server_message;
use host::DirectHost;

/// How long a statement whose client has left may take to end by itself.
const LEFT_ALONE_MS_MAX: u64 = 1_000;

/// How long a rollback at the end of a session may take.
const ROLLBACK_MS_MAX: u64 = 5_000;

/// Why a session is not served any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client has left or was sent away.
    Gone,
    /// The cluster has more than one shard now; nothing of the session is under way.
    MoreShards,
}

/// What a session at rest leaves to whoever serves it next.
pub struct Left {
    /// Its settings.
    pub settings: Settings,
    /// What it has seen.
    pub seen: Seen,
    /// Name and Parse body of its prepared statements.
    pub prepared: Vec<(Bytes, Bytes)>,
    /// The BEGIN of a transaction that no server knows of yet, and whether the transaction has failed.
    pub opening: Option<(String, bool)>,
}

/// A session.
pub struct Direct {
    cluster: Arc<Cluster>,
    host: DirectHost,
    slot: Arc<CancelSlot>,
    mode: PoolMode,
    /// What the client said when it connected, if a connection of its own is opened with it.
    startup: Box<[(String, String)]>,
    /// Another database than the cluster's.
    database: Option<Box<str>>,
    machine: Machine,
    routes: Routes,
    held: Option<Held>,
    /// What it has seen.
    seen: Seen,
    /// What is sent from now on need not be noted as seen: it is already, or there are no replicas.
    is_noted: bool,
    /// The connection leads to a replica.
    is_on_replica: bool,
    /// Everything that was meant for the replica has been sent: what follows may belong elsewhere.
    is_batch_over: bool,
    /// The transaction reads from the replica that is held.
    read_only: Option<Box<reading::ReadOnly>>,
    /// A transaction had to leave its replica: the next one does not go to any.
    has_left_replica: bool,
    /// Messages that wait for the server.
    waiting: VecDeque<Frame>,
    /// A session that does nothing inside a transaction for so long is ended.
    idle_transaction: Option<Duration>,
    /// What was lost and given again, of late.
    repeats: recover::Repeats,
    _joined: Joined,
}

/// A connection and the right to use it.
struct Held {
    shard: ShardId,
    lease: Lease,
    /// Cancel requests reach it.
    is_cancellable: bool,
    /// In which life of the primary the connection was taken; `None`: the shard is not led, or it is not known.
    since: Option<Serving>,
    _epoch: OwnedRwLockReadGuard<()>,
}

impl Direct {
    /// A session of an authenticated user.
    pub fn new(
        cluster: Arc<Cluster>,
        user: &Arc<str>,
        startup: Vec<(String, String)>,
        settings: Settings,
        slot: Arc<CancelSlot>,
    ) -> Self {
        let mode = cluster.pool_mode(user);
        let joined = cluster.peers.join(user, &slot);
        let host = DirectHost::new(Arc::clone(&cluster), Arc::clone(user), slot.pid());
        let is_its_own =
            |name: &str| !matches!(name, "user" | "database" | "replication") && !name.starts_with("_pq_.");
        // None is kept where none is used: what is filtered keeps the room for all.
        let startup = if mode == PoolMode::Session {
            startup.into_iter().filter(|(name, _)| is_its_own(name)).collect()
        } else {
            Box::default()
        };
        Self {
            cluster,
            host,
            slot,
            mode,
            startup,
            database: None,
            machine: Machine::new(mode, settings),
            routes: Routes::default(),
            held: None,
            seen: Seen::default(),
            is_noted: false,
            is_on_replica: false,
            is_batch_over: false,
            read_only: None,
            has_left_replica: false,
            waiting: VecDeque::new(),
            idle_transaction: None,
            repeats: recover::Repeats::default(),
            _joined: joined,
        }
    }

    /// The database that the client wants; the cluster's own unless it is said.
    #[must_use]
    pub fn in_database(mut self, database: &str) -> Self {
        self.database = (database != self.cluster.topology.load().database).then(|| database.into());
        self.host.set_elsewhere(self.database.is_some());
        self
    }

    /// Ends the session when it does nothing inside a transaction for so long.
    ///
    /// # Units
    /// Milliseconds; `None`: never.
    #[must_use]
    pub fn with_idle_limit(mut self, limit_ms: Option<u64>) -> Self {
        self.idle_transaction = limit_ms.map(Duration::from_millis);
        self
    }

    /// Opens the first connection, so that a user whom PostgreSQL does not know or a setting that it
    /// refuses ends the login as it would there. Returns what the server reports of itself.
    ///
    /// # Errors
    /// PostgreSQL's own error, or the server cannot be reached.
    pub async fn open(&mut self) -> Result<BTreeMap<String, String>, Failure> {
        let mut unseen = BytesMut::new();
        self.attach(&mut unseen, None).await?;
        while !self.machine.is_quiet() {
            let Some(held) = &mut self.held else { break };
            relay::exchange(&mut held.lease).await.map_err(|error| self.lost(&error))?;
            let pumped = self.pump(&mut unseen)?;
            if let Some(error) = pumped.refused {
                return Err(Failure::Postgres(Frame { tag: server_message::tag::ERROR_RESPONSE, bytes: error }));
            }
        }
        let parameters = self.held.as_ref().map(|held| held.lease.parameters().clone()).unwrap_or_default();
        self.release_if_possible();
        self.seen.forget();
        Ok(parameters)
    }

    /// Its role.
    pub fn user(&self) -> &Arc<str> {
        self.host.user()
    }

    /// The process id of the server's process that is the session's own for as long as it lasts.
    pub fn own_server_pid(&self) -> Option<u32> {
        let held = self.held.as_ref().filter(|_| self.mode == PoolMode::Session)?;
        Some(held.lease.pid())
    }

    /// Serves the client.
    ///
    /// # Errors
    /// The client's connection broke.
    ///
    /// # Cancel safety
    /// Dropping it closes what is not clean.
    pub async fn serve(&mut self, client: &mut Framed, stop: &mut watch::Receiver<Stop>) -> Result<Ended, NetError> {
        let slot = Arc::clone(&self.slot);
        let level = Level::default();
        let mut ends =
            relay::Ends { terminated: pin!(slot.terminated()), told: pin!(level.follow(stop)), level: &level };
        loop {
            match self.turn(client, &mut ends).await {
                Ok(relay::Turn::Again) => {}
                Ok(relay::Turn::MoreShards) => return Ok(Ended::MoreShards),
                Ok(relay::Turn::Gone | relay::Turn::Stopping(_)) => return Ok(Ended::Gone),
                Err(Failure::Client(error)) => return Err(error),
                Err(Failure::Postgres(frame)) => {
                    client.output().extend_from_slice(&frame.bytes);
                    client.flush().await?;
                    return Ok(Ended::Gone);
                }
                Err(Failure::Ours(error)) => {
                    send_away(client, &error).await;
                    return Ok(Ended::Gone);
                }
            }
        }
    }

    /// What whoever serves the session next has to know.
    pub fn into_parts(self) -> Left {
        let opening = self.machine.opening().map(|(text, has_failed)| (text.to_owned(), has_failed));
        Left {
            settings: self.machine.settings.clone(),
            prepared: self.machine.prepared_texts(),
            opening,
            seen: self.seen,
        }
    }

    /// The client is gone: a transaction that is open is rolled back, within a bound.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection if it is not clean.
    pub async fn close(&mut self) {
        if self.held.is_none() {
            return;
        }
        if !self.machine.is_quiet() {
            let bound = Duration::from_millis(LEFT_ALONE_MS_MAX);
            // What waits for the client would wait for ever.
            let ends = !self.machine.needs_client() && tokio::time::timeout(bound, self.finish_alone()).await.is_ok();
            if !ends {
                self.slot.cancel_running().await;
            }
        }
        let Some(held) = &mut self.held else { return };
        if self.machine.is_quiet() && !self.machine.is_unsynced() && held.lease.status() != b'I' {
            let bound = Duration::from_millis(ROLLBACK_MS_MAX);
            let rolled_back = tokio::time::timeout(bound, held.lease.simple("ROLLBACK")).await;
            // A statement that was prepared for a type which is gone again would be taken for one that is there.
            if !matches!(rolled_back, Ok(Ok(_))) || self.machine.changes_schema() {
                held.lease.poison();
            }
        }
        self.let_go();
    }

    /// Reads what a statement still answers, for nobody.
    async fn finish_alone(&mut self) {
        let mut unseen = BytesMut::new();
        while !self.machine.is_quiet() {
            let Some(held) = &mut self.held else { return };
            if relay::exchange(&mut held.lease).await.is_err() || self.pump(&mut unseen).is_err() {
                return;
            }
            unseen.clear();
        }
    }

    /// Takes a connection, unless one is held.
    async fn attach(&mut self, to_client: &mut BytesMut, reading: Option<Reading>) -> Result<(), Failure> {
        if self.held.is_some() {
            return Ok(());
        }
        self.cluster.pools.pause().over().await;
        let epoch = Arc::clone(&self.cluster.epoch_gate).read_owned().await;
        let topology = self.cluster.topology.load_full();
        let shard = topology.home();
        let lease = match reading {
            Some(reading) => self.replica_lease(&topology, shard, reading).await,
            None => None,
        };
        self.is_on_replica = lease.is_some();
        self.read_only = self.begins_reading();
        let lease = match lease {
            Some(lease) => lease,
            None => {
                let to_user =
                    |target: &mut ConnectTarget| adjust(target, self.database.as_deref(), self.mode, &self.startup);
                self.cluster.checkout_in_its_life(&topology, shard, self.host.user(), to_user).await?
            }
        };
        self.is_noted = self.is_on_replica || !topology.has_replicas();
        self.hold(shard, lease, epoch, to_client);
        Ok(())
    }

    /// Takes an idle connection, if there is one: `false` when it has to be waited for, or cannot be had.
    fn attach_now(&mut self, to_client: &mut BytesMut) -> bool {
        if self.cluster.pools.pause().is_on() {
            return false;
        }
        let Ok(epoch) = Arc::clone(&self.cluster.epoch_gate).try_read_owned() else { return false };
        let topology = self.cluster.topology.load();
        let shard = topology.home();
        let adjust = |target: &mut ConnectTarget| adjust(target, self.database.as_deref(), self.mode, &self.startup);
        let taken = self.routes.checkout_now(&self.cluster, &topology, shard, self.host.user(), adjust);
        self.is_noted = !topology.has_replicas();
        drop(topology);
        let primaries = &self.cluster.settings.primaries;
        let Some(lease) = taken.filter(|lease| primaries.is_in_its_life(shard, lease.node())) else { return false };
        self.hold(shard, lease, epoch, to_client);
        true
    }

    fn hold(&mut self, shard: ShardId, mut lease: Lease, epoch: OwnedRwLockReadGuard<()>, to_client: &mut BytesMut) {
        // In session mode the client knows the server's own process.
        let is_own = self.mode == PoolMode::Session;
        let known_pid = if is_own { lease.pid() } else { self.host.own_pid() };
        self.cluster.peers.note_user(lease.node(), lease.pid(), known_pid);
        self.host.note_node(lease.node());
        let since = self.cluster.settings.primaries.serving(shard);
        let node = lease.node();
        let (mut side, _) = lease.relay();
        self.machine.guard(since.is_some() || self.is_on_replica);
        let is_there = |since: &Serving| matches!(since, Serving::Open { node: leader, .. } if *leader == node);
        let since = since.filter(is_there);
        self.machine.keep_transactions(since.is_some() && !self.is_on_replica && self.wants_replay());
        self.machine.attach(&mut side, &self.host, to_client);
        self.held = Some(Held { shard, lease, is_cancellable: false, since, _epoch: epoch });
        self.open_to_cancel();
    }

    /// What comes next may belong to a replica, though the connection is still held.
    pub(super) fn may_read_elsewhere(&self) -> bool {
        let settings = &self.machine.settings;
        self.machine.may_release()
            && self.cluster.topology.load().has_replicas()
            && self.cluster.wants_replica(self.host.user(), settings, None) != ReadFrom::Primary
    }

    /// Notes that the primary is used, by messages that may show the session something: those of a setting do not.
    pub(super) fn note_primary(&mut self, frame: &Frame) {
        if self.is_noted {
            return;
        }
        let Some(held) = &self.held else { return };
        let body = frame.as_body();
        let sets = |text: Option<&str>| text.is_some_and(reads::only_sets);
        let shows_nothing = match frame.tag {
            b'Q' => sets(body.strip_suffix(b"\0").and_then(|text| std::str::from_utf8(text).ok())),
            b'P' => sets(parsed_text(body)),
            b'B' => sets(bound_name(body).and_then(|name| self.machine.prepared_text(name)).as_deref()),
            // They go by what was bound before.
            b'D' | b'E' | b'C' | b'H' | b'S' => true,
            _ => false,
        };
        if !shows_nothing {
            self.seen.use_primary(held.shard);
            self.is_noted = true;
        }
    }

    /// A question for the session's token, as a statement that any server answers.
    async fn answer_token(&mut self, frame: &Frame) -> Result<Frame, ClientError> {
        let text = reads::token_answer(&self.seen.token(&self.cluster).await?);
        let mut bytes = BytesMut::new();
        match frame.tag {
            b'Q' => client_message::encode_query(&mut bytes, &text),
            _ => {
                let body = frame.body();
                let name = String::from_utf8_lossy(body.split(|byte| *byte == 0).next().unwrap_or_default());
                client_message::encode_parse(&mut bytes, &name, &text, &[]);
            }
        }
        Ok(Frame { tag: frame.tag, bytes: bytes.freeze() })
    }

    /// Lets cancel requests reach the server, but for the time that the proxy asks something of its own there.
    fn open_to_cancel(&mut self) {
        let Some(held) = &mut self.held else { return };
        match (held.is_cancellable, self.machine.is_speaking() || self.machine.is_committing()) {
            (false, false) if self.is_on_replica => {
                self.slot.add_on_replica(held.shard, held.lease.cancel_handle());
            }
            (false, false) => self.slot.add(held.shard, held.lease.cancel_handle()),
            (true, true) => self.slot.remove(held.shard),
            _ => return,
        }
        held.is_cancellable = !held.is_cancellable;
    }

    fn pump(&mut self, to_client: &mut BytesMut) -> Result<Pumped, Failure> {
        let Some(held) = &mut self.held else { return Ok(Pumped::default()) };
        let (mut side, input) = held.lease.relay();
        let pumped = self.machine.pump(input, &mut side, &self.host, to_client);
        self.machine.look_after(&mut side);
        if self.machine.is_quiet() {
            held.lease.note_settled();
        }
        if self.machine.take_new_settings() {
            let is_led = held.since.is_some();
            self.machine.keep_transactions(is_led && !self.is_on_replica && self.wants_replay());
        }
        self.open_to_cancel();
        pumped.map_err(|error| {
            if let Some(held) = &mut self.held {
                held.lease.poison();
            }
            tracing::warn!(%error, "a server broke the protocol");
            let error = ClientError::new(ErrorId::StatementCompletionUnknown, "the server broke the protocol");
            Failure::Ours(error.with_hint("Whether the statement has run is not known."))
        })
    }

    /// Gives the connection back if nothing of the session is left on it.
    fn release_if_possible(&mut self) {
        if self.machine.may_release() {
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        if let Some(mut held) = self.held.take() {
            self.slot.remove(held.shard);
            // DISCARD ALL leaves a temporary schema and loaded libraries behind: who is promised a connection
            // of his own gets a new one.
            let is_own = self.mode == PoolMode::Session;
            if is_own || self.machine.is_unsynced() {
                held.lease.poison();
            }
            held.lease.needs_reset |= self.machine.needs_reset();
        }
        self.leave();
        self.machine.detach();
    }

    /// The connection is held no longer.
    fn leave(&mut self) {
        (self.is_on_replica, self.is_batch_over, self.is_noted) = (false, false, false);
        self.read_only = None;
        self.seen.settle(&self.cluster);
    }

    /// The server connection is lost.
    fn lost(&self, error: &BackendError) -> Failure {
        let topology = self.cluster.topology.load();
        let name = shard_name(&topology, topology.home());
        if self.machine.owes_client() {
            return Failure::Ours(error.to_client_error(&name));
        }
        let lost = ClientError::new(ErrorId::ShardUnreachable, format!("connection to shard \"{name}\" was lost"));
        Failure::Ours(lost.with_detail(error.to_string()))
    }

    /// Does what the last message means for other sessions.
    async fn send_signals(&mut self) {
        for (kind, pid) in self.machine.take_signals() {
            if let Some(peer) = self.cluster.peers.find(pid) {
                Peer::signal(&peer, kind).await;
            }
        }
    }
}

/// What the session wants of its connection beyond its role.
fn adjust(target: &mut ConnectTarget, database: Option<&str>, mode: PoolMode, startup: &[(String, String)]) {
    if let Some(database) = database {
        database.clone_into(&mut target.database);
    }
    if mode == PoolMode::Session {
        // What the cluster wants stands behind the client's, and wins.
        let wanted = std::mem::take(&mut target.parameters);
        let is_wanted = |name: &str| wanted.iter().any(|(known, _)| known == name);
        target.parameters = startup.iter().filter(|(name, _)| !is_wanted(name)).cloned().collect();
        target.parameters.extend(wanted);
    }
}

/// The text of a Parse.
fn parsed_text(body: &[u8]) -> Option<&str> {
    std::str::from_utf8(body.split(|byte| *byte == 0).nth(1)?).ok()
}

/// The statement that a Bind names.
fn bound_name(body: &[u8]) -> Option<&[u8]> {
    body.split(|byte| *byte == 0).nth(1)
}

/// Tells a client why it is sent away. That it may be gone already is no matter.
///
/// # Cancel safety
/// Safe: the client then hears a part of it.
pub async fn send_away(client: &mut Framed, error: &ClientError) {
    let (detail, hint) = (error.detail.as_deref(), error.hint.as_deref());
    server_message::write_error(client.output(), "FATAL", error.sqlstate(), &error.message, detail, hint);
    let bound = Duration::from_secs(1);
    let _gone = tokio::time::timeout(bound, client.flush()).await;
}

/// Whether sessions are to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Not now.
    #[default]
    No,
    /// Each when it is in no transaction.
    BetweenTransactions,
    /// Each when nothing runs.
    Now,
}

/// How far a session has been told to end. One future follows it, whatever is waited for: there are tens of thousands.
#[derive(Default)]
struct Level(AtomicU8);

impl Level {
    /// Follows what is said; never ends.
    async fn follow(&self, stop: &mut watch::Receiver<Stop>) {
        loop {
            let level = *stop.borrow_and_update();
            self.0.store(level as u8, Ordering::Relaxed);
            if stop.changed().await.is_err() {
                // Nobody can say more.
                std::future::pending::<()>().await;
            }
        }
    }

    fn is_at_least(&self, least: Stop) -> bool {
        self.0.load(Ordering::Relaxed) >= least as u8
    }
}

/// Waits until the proxy stops; for ever if nobody can say so any more.
///
/// # Cancel safety
/// Safe.
pub async fn stopped(stop: &mut watch::Receiver<Stop>) {
    told_to(stop, Stop::Now).await;
}

/// Waits until sessions are to end when they are in no transaction.
///
/// # Cancel safety
/// Safe.
pub async fn drained(stop: &mut watch::Receiver<Stop>) {
    told_to(stop, Stop::BetweenTransactions).await;
}

/// Waits until sessions are told as much as this.
///
/// # Cancel safety
/// Safe.
pub async fn told_to(stop: &mut watch::Receiver<Stop>, least: Stop) {
    if stop.wait_for(|stop| *stop >= least).await.is_err() {
        std::future::pending::<()>().await;
    }
}
