//! One client's session as the executor sees it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedRwLockReadGuard};

use super::batch::ReadOnly;
use super::last_ids::LastIds;
use super::link::Link;
use super::pins::Pins;
use super::reads::{Reading, Seen};
use super::relay::{Done, is_good_bye};
use super::routes::Routes;
use super::survive::{Kept, Loss, Mark};
use super::{Cluster, Failure, Joined};
use crate::backend::{CancelHandle, Stay};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::{Framed, NetError};
use crate::reshard::Touch;
use crate::session::{
    ClientEncoding, Columns, Parsed, PoolMode, PreparedStatement, Settings, Statements, Told, Transaction, commit_wait,
    identity,
};
use crate::sql::{Lexed, Spliced, fingerprint, lexer, parse};
use crate::topology::Topology;
use crate::topology::schema::Schema;
use crate::wire::frame::Frame;
use crate::wire::server_message;

/// Output is sent to the client once it holds this much.
///
/// # Units
/// Bytes.
pub(super) const CLIENT_FLUSH_BYTES: usize = 32 << 10;

/// What a session has running where, so that a cancel request reaches it and nothing else.
///
/// # Invariants
/// A cancel key reaches only its own session's work: entries are removed before the connection goes
/// back to its pool.
#[derive(Default)]
pub struct CancelSlot {
    /// The process id that the client was told.
    pid: u32,
    /// Few at a time: a session of one shard takes and gives one with every statement.
    running: Mutex<Vec<(ShardId, CancelHandle)>>,
    /// The same on replicas, where nothing waits for locks of other sessions.
    on_replicas: Mutex<Vec<(ShardId, CancelHandle)>>,
    /// The cancel on its way ends a deadlock.
    is_deadlock_victim: AtomicBool,
    /// The session has to end.
    is_terminated: AtomicBool,
    told_to_end: Notify,
    /// A cancel request came for a session that waits for a connection.
    told_to_stop_waiting: Notify,
}

impl CancelSlot {
    /// The slot of a session with this process id.
    pub fn new(pid: u32) -> Self {
        Self { pid, ..Self::default() }
    }

    /// The process id that the client was told.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Cancels everything that runs now.
    ///
    /// # Cancel safety
    /// Safe: a request on its way keeps its connection from being pooled.
    pub async fn cancel_running(&self) {
        self.told_to_stop_waiting.notify_waiters();
        for handle in self.running() {
            if let Err(error) = handle.cancel().await {
                tracing::debug!(%error, "cancel request failed");
            }
        }
    }

    /// Waits for a cancel request; those that came before do not count.
    ///
    /// # Cancel safety
    /// Safe.
    async fn cancelled(&self) {
        self.told_to_stop_waiting.notified().await;
    }

    /// Waits for what a statement needs before anything of it runs, unless the session is told to cancel.
    ///
    /// # Errors
    /// 57014; nothing ran.
    ///
    /// # Cancel safety
    /// That of `waiting`.
    pub(super) async fn waits<T>(&self, waiting: impl Future<Output = T>) -> Result<T, ClientError> {
        tokio::select! {
            biased;
            waited = waiting => Ok(waited),
            () = self.cancelled() => {
                Err(ClientError::new(ErrorId::QueryCanceled, "canceling statement due to user request"))
            }
        }
    }

    /// Ends the session, as `pg_terminate_backend` does: its work is cancelled, its driver is woken.
    ///
    /// # Cancel safety
    /// Safe: the session ends in any case once this was polled.
    pub async fn terminate(&self) {
        let running = self.running();
        self.is_terminated.store(true, Ordering::Release);
        self.told_to_end.notify_one();
        for handle in running {
            if let Err(error) = handle.cancel().await {
                tracing::debug!(%error, "cancel request failed");
            }
        }
    }

    /// Waits until the session has to end. The session's driver selects on it while it reads and while
    /// it works; then it says FATAL 57P01 and leaves.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn terminated(&self) {
        while !self.is_terminated.load(Ordering::Acquire) {
            self.told_to_end.notified().await;
        }
    }

    /// Everything that runs now.
    pub fn running(&self) -> Vec<CancelHandle> {
        let running = self.running.lock();
        running.iter().chain(self.on_replicas.lock().iter()).map(|(_, handle)| handle.clone()).collect()
    }

    /// Backends that the session's connections to primaries have, by shard.
    pub fn backends(&self) -> Vec<(ShardId, u32)> {
        self.running.lock().iter().map(|(shard, handle)| (*shard, handle.pid())).collect()
    }

    /// Cancels what runs, to end a deadlock: the client is told so by 40P01.
    ///
    /// # Cancel safety
    /// Safe: the session may then be told of a cancel instead.
    pub async fn cancel_for_deadlock(&self) {
        self.is_deadlock_victim.store(true, Ordering::Release);
        self.cancel_running().await;
    }

    /// Whether the error that came is the end of a deadlock; asked once.
    fn take_deadlock(&self) -> bool {
        self.is_deadlock_victim.swap(false, Ordering::AcqRel)
    }

    pub(super) fn add(&self, shard: ShardId, handle: CancelHandle) {
        let mut running = self.running.lock();
        running.retain(|(known, _)| *known != shard);
        if running.is_empty() {
            // Most have one, and keep the room for it while they are idle.
            running.reserve_exact(1);
        }
        running.push((shard, handle));
    }

    /// As [`Self::add`], for a connection to a replica.
    pub(super) fn add_on_replica(&self, shard: ShardId, handle: CancelHandle) {
        self.on_replicas.lock().push((shard, handle));
    }

    pub(super) fn remove(&self, shard: ShardId) {
        self.running.lock().retain(|(known, _)| *known != shard);
        self.on_replicas.lock().retain(|(known, _)| *known != shard);
    }

    pub(super) fn clear(&self) {
        self.running.lock().clear();
        self.on_replicas.lock().clear();
    }
}

/// What is left of a portal that the proxy ran for a client that fetches by and by.
pub(super) struct Suspended {
    /// DataRow messages.
    pub(super) rows: VecDeque<Frame>,
    /// CommandComplete.
    pub(super) done: Done,
}

/// A session.
pub struct Session {
    pub(super) cluster: Arc<Cluster>,
    pub(super) user: String,
    pub(super) settings: Settings,
    pub(super) routes: Routes,
    pub(super) search_path: Arc<[String]>,
    /// In which the client writes.
    pub(super) encoding: ClientEncoding,
    /// What the running message's text was made of, when it came in another encoding.
    pub(super) text_made: Option<(Spliced, String)>,
    pub(super) transaction: Transaction,
    pub(super) statements: Statements,
    pub(super) links: BTreeMap<ShardId, Link>,
    /// The schema as this transaction's own DDL left it.
    pub(super) own_schema: Option<Arc<Schema>>,
    /// How often this session saw another schema than everybody: before its DDL was committed, after it was undone.
    pub(super) schema_seen: u64,
    /// This transaction changed the schema: it is read again once committed.
    pub(super) schema_changed: bool,
    pub(super) cancel: Arc<CancelSlot>,
    /// While it is held, the placement of tables does not change.
    pub(super) epoch_guard: Option<OwnedRwLockReadGuard<()>>,
    /// What it may touch, while a job moves buckets.
    pub(super) stay: Option<Stay>,
    /// The topology that the running statement or transaction was planned under.
    pub(super) topology: Arc<Topology>,
    /// After an error in a pipeline: everything up to Sync is skipped.
    pub(super) skip_to_sync: bool,
    /// A portal was bound since the last Sync.
    pub(super) bound: bool,
    /// A Parse whose answer waits for the shard that the next Bind names.
    pub(super) parse_waiting: Option<(String, Arc<PreparedStatement>)>,
    /// A Describe of a portal that the proxy runs itself; it is answered by its Execute.
    pub(super) describe_waiting: Option<String>,
    /// Columns of which the client was last told by a statement that the proxy ran, and the shard that named them.
    pub(super) columns_shown: Option<(Columns, ShardId)>,
    /// Shards of open cursors by name.
    pub(super) cursors: BTreeMap<String, ShardId>,
    /// Rows of portals with a row limit that are still to be fetched.
    pub(super) suspended: BTreeMap<String, Suspended>,
    /// The shard that owes answers to extended messages.
    pub(super) current: Option<ShardId>,
    /// Shards that owe answers before the present one does, in the order of the client's messages.
    pub(super) order: VecDeque<ShardId>,
    /// An answer in the middle of a pipeline was an error, or never came: those behind it are not for the client.
    pub(super) is_answer_lost: bool,
    /// Bytes of messages that were sent and not answered yet.
    pub(super) pipelined_bytes: usize,
    /// A server took every setting that the session has: others will, too.
    pub(super) settings_are_taken: bool,
    /// What the client was told of reported settings before the open transaction changed one.
    pub(super) parameters_before: Option<BTreeMap<String, String>>,
    /// What it was told since; empty while nothing was set.
    pub(super) parameters_told: BTreeMap<String, String>,
    /// ParameterStatus messages that go before the next ReadyForQuery.
    pub(super) status_owed: BytesMut,
    /// How long connections stay with the session.
    pub(super) mode: PoolMode,
    /// What the session keeps beyond its transactions.
    pub(super) pins: Pins,
    /// Ids that the proxy gave out last.
    pub(super) ids: LastIds,
    /// Why the session cannot go on.
    pub(super) ended: Option<ClientError>,
    /// The server has said good-bye in its own words, which the client was told.
    pub(super) was_closed: bool,
    /// A server did not let a new connection in: that ends no session.
    pub(super) was_refused: bool,
    /// What it has seen.
    pub(super) seen: Seen,
    /// The present batch sets or shows settings, and nothing else.
    pub(super) is_setting: bool,
    /// The present batch reads from replicas.
    pub(super) reading: Option<Reading>,
    /// The transaction reads from replicas.
    pub(super) read_only: Option<ReadOnly>,
    /// A transaction had to leave its replicas: the next one does not go to any.
    pub(super) has_left_replicas: bool,
    /// What is kept of the present batch, to be run again.
    pub(super) kept: Kept,
    /// Where it began, if it may be run again.
    pub(super) mark: Option<Mark>,
    /// Connections that were lost under it.
    pub(super) losses: Vec<Loss>,
    /// How often it was run again.
    pub(super) repeats: u32,
    /// Statements of it that ran outside of a block, each for itself.
    pub(super) ran_alone: u32,
    /// The block that the proxy opened for it was not committed, for want of a connection.
    pub(super) is_undone: bool,
    /// How the statement would have ended that lost its connection.
    pub(super) done_before: Option<Done>,
    /// A batch has begun and its Sync has not come.
    pub(super) is_in_batch: bool,
    /// Where other sessions find this one.
    _joined: Joined,
}

impl Session {
    /// A session of an authenticated user.
    pub fn new(cluster: Arc<Cluster>, user: &str, settings: Settings, cancel: Arc<CancelSlot>) -> Self {
        let topology = cluster.topology.load_full();
        let joined = cluster.peers.join(&user.into(), &cancel);
        let mode = cluster.pool_mode(user);
        let mut session = Self {
            cluster,
            user: user.to_owned(),
            settings,
            routes: Routes::default(),
            search_path: Arc::default(),
            encoding: ClientEncoding::Utf8,
            text_made: None,
            transaction: Transaction::default(),
            statements: Statements::default(),
            links: BTreeMap::new(),
            own_schema: None,
            schema_seen: 0,
            columns_shown: None,
            schema_changed: false,
            cancel,
            epoch_guard: None,
            stay: None,
            topology,
            skip_to_sync: false,
            bound: false,
            parse_waiting: None,
            describe_waiting: None,
            cursors: BTreeMap::new(),
            suspended: BTreeMap::new(),
            current: None,
            order: VecDeque::new(),
            is_answer_lost: false,
            pipelined_bytes: 0,
            settings_are_taken: false,
            parameters_before: None,
            parameters_told: BTreeMap::new(),
            status_owed: BytesMut::new(),
            mode,
            pins: Pins::default(),
            ids: LastIds::default(),
            ended: None,
            was_closed: false,
            was_refused: false,
            seen: Seen::default(),
            is_setting: false,
            reading: None,
            read_only: None,
            has_left_replicas: false,
            kept: Kept::default(),
            mark: None,
            losses: Vec::new(),
            repeats: 0,
            ran_alone: 0,
            is_undone: false,
            done_before: None,
            is_in_batch: false,
            _joined: joined,
        };
        session.update_read_settings();
        session
    }

    /// Takes over statements that were prepared while the cluster had one shard: name and Parse body. What
    /// cannot be read does not exist any more.
    pub fn adopt(&mut self, prepared: Vec<(bytes::Bytes, bytes::Bytes)>, opening: Option<(String, bool)>, seen: Seen) {
        self.seen = seen;
        if let Some((begin, has_failed)) = opening {
            self.transaction.begin(begin.trim_end_matches(|c: char| c == ';' || c.is_whitespace()));
            if has_failed {
                self.transaction.fail();
            }
        }
        for (name, parse_body) in prepared {
            let Some(parse) = crate::wire::client_message::read_parse(&name, &parse_body) else { continue };
            let Ok(parsed) = self.understand(&parse.sql) else { continue };
            let id = self.cluster.statement_ids.unique();
            let statement = PreparedStatement {
                id,
                parsed: Arc::new(parsed),
                parameter_types: parse.parameter_types,
                told: Told::default(),
            };
            // A session has as many of them here as it had there.
            let _taken = self.statements.insert(&parse.statement, Arc::new(statement));
        }
    }

    /// Opens the first connection, so that a user whom PostgreSQL does not know or a setting that it
    /// refuses ends the login as it would there. Returns what the server reports of itself.
    ///
    /// # Errors
    /// PostgreSQL's own error, or the home shard cannot be reached.
    pub async fn open(&mut self) -> Result<BTreeMap<String, String>, Failure> {
        self.refresh_topology(|_| Touch::NOTHING).await?;
        let home = self.topology.home();
        self.link(home).await?;
        self.settings_are_taken = true;
        let parameters = self.links.get(&home).map(|link| link.lease.parameters().clone()).unwrap_or_default();
        self.release();
        self.seen.forget();
        Ok(parameters)
    }

    /// Takes a statement apart; trees of queries come from the cache when their fingerprint is known.
    pub(super) fn understand(&self, text: &str) -> Result<Parsed, ClientError> {
        self.understand_lexed(text, lex(text)?)
    }

    /// As [`Session::understand`], of a text whose tokens are known.
    pub(super) fn understand_lexed(&self, text: &str, mut lexed: Lexed) -> Result<Parsed, ClientError> {
        if self.cluster.keeps_commits() && commit_wait::is_lowered(text) {
            return Err(commit_wait::refusal());
        }
        let mut signals = Vec::new();
        let identified = if identity::mentions(text) {
            identity::identify(text, &lexed, self.cancel.pid(), &|pid| self.cluster.peers.knows(pid))
        } else {
            None
        };
        if let Some(identified) = &identified {
            lexed = lex(identified.text.text())?;
            signals.clone_from(&identified.signals);
        }
        let made = identified.map(|identified| Box::new((identified.text, text.to_owned())));
        let changed = made.as_ref().map(|made| made.0.text().to_owned());
        let text = changed.as_deref().unwrap_or(text);
        if !has_shared_tree(text, &lexed) {
            let statement = Arc::new(parse::parse(text, &lexed).map_err(|error| error.to_string()));
            return Ok(Parsed { text: text.to_owned(), lexed, statement, fingerprint: None, signals, made });
        }
        let fingerprint = fingerprint::fingerprint(text, &lexed);
        let statement = match self.cluster.trees.get(&fingerprint) {
            Some(statement) => statement,
            None => {
                let statement = Arc::new(parse::parse(text, &lexed).map_err(|error| error.to_string()));
                self.cluster.trees.insert(fingerprint.clone(), Arc::clone(&statement));
                statement
            }
        };
        Ok(Parsed { text: text.to_owned(), lexed, statement, fingerprint: Some(fingerprint), signals, made })
    }

    /// Reads the search path and the client's encoding from the settings in force.
    pub(super) fn update_read_settings(&mut self) {
        let inside = self.transaction.sets_anything().then(|| self.transaction.settings_inside(&self.settings));
        let settings = inside.as_ref().unwrap_or(&self.settings);
        let written = match settings.changed_sql("search_path") {
            Some(sql) => set_value(sql),
            None => settings.startup_value("search_path").map(str::to_owned),
        };
        self.search_path = read_search_path(written.as_deref().unwrap_or("\"$user\", public"), &self.user).into();
        let written = match settings.changed_sql("client_encoding") {
            // SET NAMES has no sign before its value.
            Some(sql) => set_value(sql).or_else(|| sql.split_whitespace().next_back().map(str::to_owned)),
            None => settings.startup_value("client_encoding").map(str::to_owned),
        };
        self.encoding = ClientEncoding::of(written.as_deref());
        let is_foreign = !self.encoding.is_utf8();
        self.links.values_mut().for_each(|link| link.is_foreign = is_foreign);
    }

    /// A cancel that ends a deadlock over several shards is told as what it is.
    pub(super) fn name_deadlock(&mut self, failure: Failure) -> Failure {
        let Failure::Postgres(frame) = &failure else { return failure };
        // PostgreSQL closes a client's connection behind such an error, and so does the proxy.
        let was_refused = std::mem::take(&mut self.was_refused);
        self.was_closed |= !was_refused && is_good_bye(frame);
        let is_cancel = server_message::read_error(&frame.body()).is_ok_and(|fields| fields.code == "57014");
        if !is_cancel || !self.cancel.take_deadlock() {
            return failure;
        }
        ClientError::new(ErrorId::DeadlockDetected, "deadlock detected")
            .with_detail("Sessions waited for each other on several shards.")
            .with_hint("Lock rows in the same order in all transactions, then run this one again.")
            .into()
    }

    /// Writes an error to the client.
    pub(super) fn write_failure(client: &mut Framed, failure: Failure) -> Result<(), NetError> {
        match failure {
            Failure::Postgres(frame) => client.output().extend_from_slice(&frame.bytes),
            Failure::Ours(error) => {
                tracing::debug!(code = error.sqlstate(), message = %error.message, "statement refused");
                server_message::write_error(
                    client.output(),
                    "ERROR",
                    error.sqlstate(),
                    &error.message,
                    error.detail.as_deref(),
                    error.hint.as_deref(),
                );
            }
            Failure::Client(error) => return Err(error),
        }
        Ok(())
    }

    /// The status byte of ReadyForQuery.
    pub fn status_byte(&self) -> u8 {
        self.transaction.status().byte()
    }

    /// The client is gone: what is open is rolled back, within a bound.
    ///
    /// # Cancel safety
    /// Dropping it closes the connections that are not clean.
    pub async fn close(&mut self) {
        if self.transaction.is_open() && !self.links.is_empty() {
            let bound = std::time::Duration::from_secs(5);
            if tokio::time::timeout(bound, self.rollback_links()).await.is_err() {
                tracing::debug!("rollback at the end of a session took too long; its connections are closed");
            }
        }
        for link in self.links.values_mut() {
            if !link.lease.is_clean() {
                self.cluster.settings.steps.abandon(link.lease.node(), link.lease.pid());
            }
            // What a session kept for itself is wiped before the next one comes.
            link.lease.needs_reset |= self.mode == PoolMode::Session;
        }
        self.links.clear();
        self.cancel.clear();
    }

    /// The end of a message: what is owed to the client, then ReadyForQuery; or the end of the session.
    pub(super) async fn ready(&mut self, client: &mut Framed) -> Result<(), NetError> {
        if let Some(error) = self.ended.take() {
            server_message::write_error(
                client.output(),
                "FATAL",
                error.sqlstate(),
                &error.message,
                error.detail.as_deref(),
                error.hint.as_deref(),
            );
            self.was_closed = true;
        }
        if self.was_closed {
            client.flush().await?;
            return Err(NetError::Closed);
        }
        self.owe_notifications();
        self.write_owed(client);
        let status = self.status_byte();
        server_message::write_ready_for_query(client.output(), status);
        client.flush().await
    }
}

fn lex(text: &str) -> Result<Lexed, ClientError> {
    lexer::lex(text).map_err(|error| ClientError::new(ErrorId::SyntaxError, error.to_string()))
}

/// The value of `SET name TO value`, `SET name = value` and of our own `set_config`.
pub(super) fn set_value(sql: &str) -> Option<String> {
    let lexed = lexer::lex(sql).ok()?;
    if let [_, value, ..] = lexed.literals.as_slice()
        && sql.starts_with("SELECT pg_catalog.set_config(")
    {
        return Some(value.value.clone());
    }
    let mut tokens = lexed.tokens.iter();
    let assign = tokens.find(|token| {
        sql.get(token.start..token.end).is_some_and(|text| text == "=" || text.eq_ignore_ascii_case("to"))
    })?;
    sql.get(assign.end..).map(str::to_owned)
}

/// Splits a search path into schema names; `$user` becomes the user's name.
fn read_search_path(value: &str, user: &str) -> Vec<String> {
    value
        .trim()
        .trim_end_matches(';')
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let quoted = part
                .strip_prefix('"')
                .and_then(|part| part.strip_suffix('"'))
                .or_else(|| part.strip_prefix('\'').and_then(|part| part.strip_suffix('\'')));
            let name = quoted.map_or_else(|| part.to_ascii_lowercase(), str::to_owned);
            if name == "$user" { user.to_owned() } else { name }
        })
        .collect()
}

/// Statements whose tree names literals by their places only, so that it serves every statement of
/// their fingerprint. COPY and SET read the values of their literals.
pub(super) fn has_shared_tree(text: &str, lexed: &Lexed) -> bool {
    ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "VALUES"].iter().any(|word| lexed.is_keyword(text, 0, word))
}
