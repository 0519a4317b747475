//! Runs statements: takes connections, sends, relays, merges, commits.
//!
//! One file for each way a statement can run. Must not know: how clients are accepted, how the
//! topology is stored, who leads a shard.

mod answers;
mod batch;
mod copy;
mod copy_merged;
mod create_as;
mod ddl;
pub mod direct;
mod encoding;
mod everywhere;
mod exchange;
mod explain;
mod function_call;
mod gather;
mod insert;
mod insert_rows;
mod last_ids;
mod link;
mod move_rows;
mod one_time;
mod one_verifier;
mod outcome;
mod peers;
mod pins;
mod pipeline;
mod places;
mod prepare;
mod primaries;
mod queries_first;
pub mod reads;
mod relay;
mod routes;
mod scatter;
pub mod secrets;
mod sequences;
mod session;
mod set;
mod shard_by_shard;
mod signal;
mod simple;
mod snapshots;
mod statement;
mod steps;
mod survive;
mod told;
mod touch;
mod transaction;
pub mod two_phase;
mod values;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::auth::ServerSecret;
use crate::backend::replicas::{ReplicaSettings, Replicas};
use crate::backend::{ConnectTarget, Connection, Pools, ServersTls, StepGate};
use crate::base::{NodeId, ShardId};
use crate::cache::{PlanCache, TreeCache};
use crate::error::{ClientError, ErrorId};
use crate::net::NetError;
use crate::session::PoolMode;
use crate::session::direct::SharedStatements;
use crate::topology::schema::Schema;
use crate::topology::{Node, Role, TableName, Topology};
use crate::wire::frame::Frame;

pub use peers::{Joined, Peer, Peers};
pub use primaries::Primaries;
pub use secrets::Secrets;
pub use session::{CancelSlot, Session};

/// A future that is boxed, so that rooms above can be called through a trait.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Gives out ids that are unique over all shards.
pub trait Ids: Send + Sync {
    /// The next `count` values of a sequence, in order.
    ///
    /// # Errors
    /// When none can be had; nothing was given out.
    fn next<'a>(&'a self, sequence: &'a TableName, count: usize) -> BoxFuture<'a, Result<Vec<i64>, ClientError>>;

    /// As [`Ids::next`], over the connection to the home shard whose open transaction made or altered the sequence.
    ///
    /// # Errors
    /// The connection broke, or there is no such sequence.
    fn next_within<'a>(
        &'a self,
        sequence: &'a TableName,
        count: usize,
        connection: &'a mut Connection,
    ) -> BoxFuture<'a, Result<Vec<i64>, ClientError>>;

    /// Forgets the numbers that are not given yet: the schema has changed, or a sequence was set.
    fn forget_all(&self);
}

/// What one statement over several shards may hold in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeLimits {
    /// Rows that a merge may hold: groups, distinct rows, rows of a portal with a row limit.
    pub rows_max: usize,
    /// Bytes that a merge may hold.
    pub bytes_max: usize,
    /// Bytes of rows that are gathered for one PostgreSQL to finish.
    pub gather_bytes_max: usize,
}

impl Default for MergeLimits {
    fn default() -> Self {
        Self { rows_max: 1_000_000, bytes_max: 256 << 20, gather_bytes_max: 64 << 20 }
    }
}

/// Limits of the executor.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What one statement over several shards may hold.
    pub merge: MergeLimits,
    /// Time to open a connection.
    pub connect_timeout_ms: u64,
    /// Bytes for cached plans.
    pub plan_cache_bytes_max: usize,
    /// TLS towards the servers.
    pub servers_tls: ServersTls,
    /// Where reads go.
    pub reads: reads::ReadSettings,
    /// Which replicas they may go to.
    pub replicas: ReplicaSettings,
    /// When sessions give their connections back.
    pub pool_mode: PoolMode,
    /// The same for users that have a mode of their own.
    pub user_pool_modes: HashMap<String, PoolMode>,
    /// Who leads the shards.
    pub primaries: Primaries,
    /// Open transactions are run again where their primary is lost, unless a session says otherwise.
    pub replays: bool,
    /// While set, nothing is read from replicas: rows move between shards.
    pub replicas_rest: Arc<AtomicBool>,
    /// Becomes [`Cluster::epoch_gate`].
    pub epoch_gate: Arc<tokio::sync::RwLock<()>>,
    /// Where statements wait that touch what moves.
    pub steps: Arc<StepGate>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            merge: MergeLimits::default(),
            connect_timeout_ms: 5_000,
            plan_cache_bytes_max: 64 << 20,
            servers_tls: ServersTls::default(),
            reads: reads::ReadSettings::default(),
            replicas: ReplicaSettings::default(),
            pool_mode: PoolMode::default(),
            user_pool_modes: HashMap::new(),
            primaries: Primaries::default(),
            replays: false,
            replicas_rest: Arc::default(),
            epoch_gate: Arc::default(),
            steps: Arc::default(),
        }
    }
}

/// A role and what opens servers for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Role.
    pub user: String,
    /// Its password or what stands for it.
    pub secret: ServerSecret,
}

/// What all sessions share.
pub struct Cluster {
    /// The topology in force.
    pub topology: Arc<ArcSwap<Topology>>,
    /// The servers' schema as last read.
    pub schema: ArcSwap<Schema>,
    /// Connections.
    pub pools: Pools,
    /// How far replicas are.
    pub replicas: Arc<Replicas>,
    /// Plans by fingerprint.
    pub plans: PlanCache,
    /// Trees by fingerprint.
    pub trees: TreeCache,
    /// Ids of sharded tables.
    pub ids: Box<dyn Ids>,
    /// Two-phase commit.
    pub coordinator: two_phase::Coordinator,
    /// What opens the servers, by client role.
    pub secrets: Secrets,
    /// The role that looks after the servers; no client borrows its password.
    pub control: Credentials,
    /// Limits.
    pub settings: Settings,
    /// The sessions that are open.
    pub peers: Arc<Peers>,
    /// Statements and transactions hold it for reading; who changes the placement of tables takes it
    /// for writing, and so waits until nothing runs under the old epoch.
    pub epoch_gate: Arc<tokio::sync::RwLock<()>>,
    statement_ids: StatementIds,
    /// Prepared statements of sessions that are served directly.
    statements: SharedStatements,
    schema_version: AtomicU64,
    /// Changes of the schema that were made: its snapshot does not hold all that columns depend on.
    schema_changes: AtomicU64,
    /// Whether writing a row may write others, under a version of the schema.
    writes_by_itself: AtomicU64,
}

impl Cluster {
    /// Puts the parts together; the topology's cell is shared with whoever else follows it.
    #[allow(clippy::too_many_arguments)] // each is a part of its own; a struct would only rename the list
    pub fn with_topology(
        topology: Arc<ArcSwap<Topology>>,
        schema: Schema,
        pools: Pools,
        ids: Box<dyn Ids>,
        coordinator: two_phase::Coordinator,
        secrets: Secrets,
        control: Credentials,
        settings: Settings,
    ) -> Self {
        let version = schema.version;
        Self {
            topology,
            schema: ArcSwap::from_pointee(schema),
            pools,
            replicas: Arc::new(Replicas::new(settings.replicas.clone())),
            plans: PlanCache::new(settings.plan_cache_bytes_max),
            trees: TreeCache::new(settings.plan_cache_bytes_max),
            ids,
            coordinator: coordinator.with_primaries(settings.primaries.clone()),
            secrets,
            control,
            epoch_gate: Arc::clone(&settings.epoch_gate),
            settings,
            peers: Arc::default(),
            statement_ids: StatementIds::default(),
            statements: SharedStatements::default(),
            schema_version: AtomicU64::new(version),
            schema_changes: AtomicU64::new(0),
            writes_by_itself: AtomicU64::new(0),
        }
    }

    /// When sessions of a user give their connections back.
    pub fn pool_mode(&self, user: &str) -> PoolMode {
        self.settings.user_pool_modes.get(user).copied().unwrap_or(self.settings.pool_mode)
    }

    /// Where a shard's primary is, for a user.
    ///
    /// # Errors
    /// The shard has no primary in this topology.
    pub fn target(&self, topology: &Topology, shard: ShardId, user: &str) -> Result<ConnectTarget, ClientError> {
        let node = topology.primary(shard).ok_or_else(|| {
            ClientError::new(ErrorId::ShardUnreachable, format!("shard {} has no primary", shard_name(topology, shard)))
        })?;
        let secret = self.secrets.of(user);
        Ok(self.node_target(topology, node, Credentials { user: user.to_owned(), secret }))
    }

    /// The same, once the shard has a primary that takes statements. The topology of a session may be from before.
    ///
    /// # Errors
    /// There is none, for too long; nothing ran.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn open_target(
        &self,
        topology: &Topology,
        shard: ShardId,
        user: &str,
    ) -> Result<ConnectTarget, ClientError> {
        let leader = self.settings.primaries.open(shard).await?;
        self.led_target(topology, shard, user, leader)
    }

    /// Sessions cannot let commits be acknowledged before standbys have them.
    pub fn keeps_commits(&self) -> bool {
        self.settings.primaries.keeps_commits()
    }

    /// The leader of a shard for a user, or its primary when nobody leads it.
    fn led_target(
        &self,
        topology: &Topology,
        shard: ShardId,
        user: &str,
        leader: Option<NodeId>,
    ) -> Result<ConnectTarget, ClientError> {
        match topology.nodes.iter().find(|node| Some(node.id) == leader) {
            Some(node) => {
                let secret = self.secrets.of(user);
                let mut target = self.node_target(topology, node, Credentials { user: user.to_owned(), secret });
                // Whatever the server's own configuration, the role or the database say: what is acknowledged has
                // been waited for.
                target.parameters.push(("synchronous_commit".to_owned(), "on".to_owned()));
                Ok(target)
            }
            None => self.target(topology, shard, user),
        }
    }

    /// Where a replica is, for a user; `None` when this topology has it no more, or not as a replica.
    fn replica_target(&self, topology: &Topology, node: NodeId, user: &str) -> Option<ConnectTarget> {
        let node = topology.nodes.iter().find(|known| known.id == node && known.role == Role::Replica)?;
        let secret = self.secrets.of(user);
        Some(self.node_target(topology, node, Credentials { user: user.to_owned(), secret }))
    }

    /// How the control role reaches a shard's primary.
    ///
    /// # Errors
    /// The shard has no primary in this topology.
    pub fn control_target(&self, topology: &Topology, shard: ShardId) -> Result<ConnectTarget, ClientError> {
        let target = self.target(topology, shard, &self.control.user)?;
        Ok(ConnectTarget { secret: self.control.secret.clone(), ..target })
    }

    /// How a node is reached by a role.
    pub fn node_target(&self, topology: &Topology, node: &Node, role: Credentials) -> ConnectTarget {
        ConnectTarget {
            node: node.id,
            host: node.host.clone(),
            port: node.port,
            database: topology.database.clone(),
            user: role.user,
            secret: role.secret,
            parameters: Vec::new(),
            connect_timeout_ms: self.settings.connect_timeout_ms,
            tls: self.settings.servers_tls.of(&node.name),
        }
    }

    /// The version of the schema: other after every change that was read or made.
    fn schema_stamp(&self) -> u64 {
        let read = self.schema.load().version;
        let seen = self.schema_changes.load(Ordering::Acquire);
        (read << 32) | (seen & 0xffff_ffff)
    }

    /// Takes over a schema that was just read, unless nothing changed.
    pub fn publish_schema(&self, mut schema: Schema) {
        let known = self.schema.load();
        schema.version = known.version;
        if schema != **known {
            schema.version = self.schema_version.fetch_add(1, Ordering::AcqRel) + 1;
            self.schema.store(Arc::new(schema));
            self.ids.forget_all();
        }
    }
}

/// The name of a shard, for messages.
pub fn shard_name(topology: &Topology, shard: ShardId) -> String {
    topology.shards.iter().find(|known| known.id == shard).map_or_else(|| shard.to_string(), |known| known.name.clone())
}

/// Why a statement did not finish.
#[derive(Debug)]
pub enum Failure {
    /// PostgreSQL's own ErrorResponse; goes to the client byte for byte.
    Postgres(Frame),
    /// An error of Ostrakon's own.
    Ours(ClientError),
    /// The client is gone.
    Client(NetError),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Ours(error)
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        Self::Client(error)
    }
}

/// A text with what decides its meaning, and its parameter types.
type StatementKey = (Vec<u8>, Vec<u32>);

/// Texts of prepared statements and the ids that stand for them on server connections.
#[derive(Default)]
struct StatementIds {
    next: AtomicU64,
    known: Mutex<HashMap<StatementKey, u64>>,
}

/// Texts remembered before the map starts afresh (ids go on growing, so none is ever reused).
const STATEMENT_TEXTS_MAX: usize = 100_000;

impl StatementIds {
    /// An id that nothing else has.
    fn unique(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The id of a text with these parameter types, understood under settings of that key: equal ids always
    /// mean equal statements.
    fn of(&self, sql: &str, parameter_types: &[u32], parse_key: u64) -> u64 {
        let text = [sql.as_bytes(), b"\0", &parse_key.to_be_bytes()].concat();
        self.of_key(text, parameter_types.to_vec())
    }

    /// The id of whatever these bytes and numbers stand for.
    fn of_key(&self, text: Vec<u8>, numbers: Vec<u32>) -> u64 {
        let key = (text, numbers);
        let mut known = self.known.lock();
        if known.len() >= STATEMENT_TEXTS_MAX {
            known.clear();
        }
        *known.entry(key).or_insert_with(|| self.unique())
    }
}
