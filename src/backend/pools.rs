//! The pools of this process: one for each node, database and user.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::base::NodeId;
use crate::error::{ClientError, ErrorId};
use crate::net::deadline;
use crate::wire::frame::Frame;

use super::gate::Gate;
use super::pause::Pause;
use super::pool::{ConnectFailure, Connector, Counts, Ended, Limits, Member, Pool, PoolError, PoolLease};
use super::{BackendError, ConnectTarget, Connection};

/// How pools are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Connections a node, database and user.
    pub size: usize,
    /// The same for users that have a size of their own.
    pub user_sizes: HashMap<String, usize>,
    /// Idle connections that are kept ready in a pool that is in use.
    pub size_min: usize,
    /// How long a checkout waits for its turn.
    pub checkout_timeout_ms: u64,
    /// How long a connection stays idle.
    pub idle_timeout_ms: u64,
    /// How old a connection gets.
    pub lifetime_ms: u64,
    /// Connections to one node that may be in the act of opening at a time.
    pub connects_max: usize,
    /// Connections to one node that may be begun in a second.
    pub connects_per_s: usize,
    /// How long connecting may take; the shorter of this and the target's own limit holds.
    pub connect_timeout_ms: u64,
    /// Spreads the ages at which connections are replaced; random, so that proxies differ.
    pub seed: u64,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            size: 20,
            user_sizes: HashMap::new(),
            size_min: 0,
            checkout_timeout_ms: 10_000,
            idle_timeout_ms: 600_000,
            lifetime_ms: 3_600_000,
            connects_max: 8,
            connects_per_s: 100,
            connect_timeout_ms: 5_000,
            seed: 0,
        }
    }
}

/// A pooled connection in use.
pub type Lease = PoolLease<ServerConnector>;

/// Opens connections to one server as one user.
#[derive(Debug)]
pub struct ServerConnector {
    /// Without parameters of its own.
    target: ConnectTarget,
    /// Connections that are there when it is notified wait for the server no longer.
    cut: Arc<Notify>,
}

impl Connector for ServerConnector {
    /// In a box: it is large, and changes hands with every transaction.
    type Connection = Box<Connection>;
    /// Startup parameters: what RESET returns to differs with them.
    type Kind = Vec<(String, String)>;
    type Error = BackendError;

    async fn connect(&self, kind: &Self::Kind) -> Result<Box<Connection>, BackendError> {
        // From before it is there: what is cut meanwhile is cut, too.
        let cut = Arc::clone(&self.cut).notified_owned();
        let connected = if kind.is_empty() {
            Connection::connect(&self.target).await
        } else {
            let target = ConnectTarget { parameters: kind.clone(), ..self.target.clone() };
            Connection::connect(&target).await
        };
        let mut connection = Box::new(connected?);
        connection.end_with(cut);
        Ok(connection)
    }

    fn failure(&self, error: &BackendError) -> ConnectFailure {
        error.connect_failure()
    }

    fn end_turn(&self, connection: &mut Box<Connection>) -> Ended {
        match connection.end_turn() {
            false => Ended::Broken,
            true if connection.needs_reset => Ended::NeedsReset,
            true => Ended::Clean,
        }
    }

    async fn reset(&self, connection: &mut Box<Connection>) -> bool {
        let limit_ms = self.target.connect_timeout_ms;
        match deadline("a reset", limit_ms, connection.reset()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a connection cannot be reset and is closed");
                false
            }
            Err(error) => {
                tracing::warn!(node = %self.target.node, %error, "a connection is closed");
                false
            }
        }
    }

    fn is_usable(&self, connection: &mut Box<Connection>) -> bool {
        connection.is_usable()
    }

    fn is_near(&self, connection: &Box<Connection>) -> bool {
        connection.is_here()
    }

    fn bring_near(&self, connection: &mut Box<Connection>) {
        connection.move_here();
    }

    fn label(&self, connection: &Box<Connection>) -> u32 {
        connection.pid()
    }

    fn is_clean(&self, connection: &Box<Connection>) -> bool {
        connection.is_clean() && !connection.needs_reset
    }
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// All connections were in use for too long.
    #[error("no connection to node {node} became free within {waited_ms} ms; all {size} are in use")]
    Timeout {
        /// The server.
        node: NodeId,
        /// The pool's size.
        size: usize,
        /// How long it waited.
        waited_ms: u64,
    },
    /// The server cannot be had.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl CheckoutError {
    /// PostgreSQL's own error, to be passed on byte for byte, when there is one.
    pub fn error_frame(&self) -> Option<&Frame> {
        match self {
            Self::Timeout { .. } => None,
            Self::Backend(error) => error.error_frame(),
        }
    }

    /// The error in the client's words.
    pub fn to_client_error(&self, shard: &str) -> ClientError {
        match self {
            Self::Timeout { node, size, waited_ms } => {
                ClientError::new(ErrorId::PoolTimeout, format!("no connection to shard \"{shard}\" became free"))
                    .with_detail(format!("All {size} connections to node {node} were in use for {waited_ms} ms."))
                    .with_hint("Shorten transactions, or raise the pool's size.")
            }
            Self::Backend(error) => error.to_client_error(shard),
        }
    }
}

/// A look at one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// The server.
    pub node: NodeId,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// Largest number of connections.
    pub size: usize,
    /// Its places.
    pub counts: Counts,
    /// Its connections by age; their labels are process ids of the server.
    pub members: Vec<Member>,
}

type ServerPool = Arc<Pool<ServerConnector>>;

/// A pool that was found for a target, and the kind of connection that it asks for.
#[derive(Clone)]
pub struct PoolRef {
    pool: ServerPool,
    kind: Vec<(String, String)>,
}

impl PoolRef {
    /// No other pool has taken its place.
    pub fn is_current(&self) -> bool {
        !self.pool.is_replaced()
    }

    /// An idle connection, if there is one: nobody waits for it then.
    pub fn checkout_now(&self) -> Option<Lease> {
        self.pool.checkout_now(&self.kind)
    }

    /// As [`Pools::checkout`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// As there.
    pub async fn checkout(&self) -> Result<Lease, CheckoutError> {
        self.pool.checkout(&self.kind).await.map_err(|error| match error {
            PoolError::Timeout { waited_ms } => {
                let node = self.pool.connector().target.node;
                CheckoutError::Timeout { node, size: self.pool.size(), waited_ms }
            }
            PoolError::Connect(error) => CheckoutError::Backend(error),
        })
    }
}

/// The pools of one node, and the gate that they share. A node has few users, so they are looked through.
struct NodePools {
    gate: Arc<Gate>,
    cut: Arc<Notify>,
    pools: Vec<ServerPool>,
}

/// All pools.
#[derive(Default)]
pub struct Pools {
    settings: RwLock<PoolSettings>,
    by_node: RwLock<HashMap<NodeId, NodePools>>,
    pause: Pause,
}

impl Pools {
    /// No pools yet; they come with the first checkout.
    pub fn new(settings: PoolSettings) -> Self {
        Self { settings: RwLock::new(settings), by_node: RwLock::default(), pause: Pause::default() }
    }

    /// A connection to the target, pooled by node, database and user; one with other startup parameters
    /// is never given.
    ///
    /// A target whose address or secret has changed gets a new pool; connections of the old one are
    /// closed when they come back.
    ///
    /// # Errors
    /// No turn within the limit, or the server cannot be had. Nothing ran.
    ///
    /// # Cancel safety
    /// Safe: the turn goes to the next one in line.
    pub async fn checkout(&self, target: &ConnectTarget) -> Result<Lease, CheckoutError> {
        self.find(target).checkout().await
    }

    /// The target's pool, for who comes back to it: as long as it [is current](PoolRef::is_current) and the target the
    /// same, it need not be looked for again.
    pub fn find(&self, target: &ConnectTarget) -> PoolRef {
        PoolRef { pool: self.pool(target), kind: target.parameters.clone() }
    }

    fn pool(&self, target: &ConnectTarget) -> ServerPool {
        let find = |pools: &[ServerPool]| pools.iter().find(|pool| is_same_server(pool, target)).cloned();
        if let Some(pool) = self.by_node.read().get(&target.node).and_then(|node| find(&node.pools)) {
            return pool;
        }
        let mut by_node = self.by_node.write();
        let PoolSettings { connects_max, connects_per_s, seed, .. } = *self.settings.read();
        let node = by_node.entry(target.node).or_insert_with(|| NodePools {
            gate: Arc::new(Gate::new(connects_max, connects_per_s)),
            cut: Arc::default(),
            pools: Vec::new(),
        });
        if let Some(pool) = find(&node.pools) {
            return pool;
        }
        let replaced: Vec<ServerPool> = node.pools.extract_if(.., |pool| is_same_user(pool, target)).collect();
        let pool =
            Pool::new(self.connector(target, &node.cut), self.limits(&target.user), Arc::clone(&node.gate), seed);
        node.pools.push(Arc::clone(&pool));
        drop(by_node);
        for old in replaced {
            old.replace();
        }
        pool
    }

    fn connector(&self, target: &ConnectTarget, cut: &Arc<Notify>) -> ServerConnector {
        let connect_timeout_ms = target.connect_timeout_ms.min(self.settings.read().connect_timeout_ms);
        let target = ConnectTarget { parameters: Vec::new(), connect_timeout_ms, ..target.clone() };
        ServerConnector { target, cut: Arc::clone(cut) }
    }

    fn limits(&self, user: &str) -> Limits {
        let settings = self.settings.read();
        Limits {
            size: settings.user_sizes.get(user).copied().unwrap_or(settings.size),
            size_min: settings.size_min,
            checkout_timeout_ms: settings.checkout_timeout_ms,
            connect_timeout_ms: settings.connect_timeout_ms,
            idle_timeout_ms: settings.idle_timeout_ms,
            lifetime_ms: settings.lifetime_ms,
        }
    }

    /// Takes over other settings: the pools that are there have other limits from now on. How fast connections are
    /// opened stays as it was for nodes that have been connected to.
    pub fn change(&self, settings: PoolSettings) {
        let seed = self.settings.read().seed;
        *self.settings.write() = PoolSettings { seed, ..settings };
        for pool in self.all() {
            pool.set_limits(self.limits(&pool.connector().target.user));
        }
    }

    /// Who may use the pools, and when not.
    pub fn pause(&self) -> &Pause {
        &self.pause
    }

    /// Connections that sessions hold, or that are wiped behind them.
    pub fn busy_count(&self) -> usize {
        self.all().iter().map(|pool| pool.counts()).map(|counts| counts.used + counts.resetting).sum()
    }

    /// Those of one node, and sessions that wait for one there.
    pub fn busy_at(&self, node: NodeId) -> usize {
        let pools = self.all();
        let of_node = pools.iter().filter(|pool| pool.connector().target.node == node).map(|pool| pool.counts());
        of_node.map(|counts| counts.used + counts.resetting + counts.waiting).sum()
    }

    fn all(&self) -> Vec<ServerPool> {
        self.by_node.read().values().flat_map(|node| &node.pools).cloned().collect()
    }

    /// A look at every pool, by node, database and user.
    pub fn stats(&self) -> Vec<PoolStats> {
        let stats_of = |pool: &ServerPool| {
            let target = &pool.connector().target;
            let (database, user) = (target.database.clone(), target.user.clone());
            PoolStats {
                node: target.node,
                database,
                user,
                size: pool.size(),
                counts: pool.counts(),
                members: pool.members(),
            }
        };
        let mut stats: Vec<PoolStats> = self.all().iter().map(stats_of).collect();
        stats.sort_by(|a, b| (a.node, &a.database, &a.user).cmp(&(b.node, &b.database, &b.user)));
        stats
    }

    /// Closes all idle connections.
    pub fn close_idle(&self) {
        for pool in self.all() {
            pool.close_idle();
        }
    }

    /// Closes connections that are idle too long or too old and opens those that pools in use lack;
    /// to be called every second or so.
    pub fn tend(&self) {
        for pool in self.all() {
            pool.tend();
        }
    }

    /// Closes the idle connections to a node, and those in use when they come back.
    pub fn retire(&self, node: NodeId) {
        let pools = self.by_node.read().get(&node).map(|node| node.pools.clone()).unwrap_or_default();
        for pool in pools {
            pool.retire();
        }
    }

    /// Ends every connection to a node, those in use at once: whoever waits for the server there is told that it is lost.
    pub fn cut(&self, node: NodeId) {
        if let Some(pools) = self.by_node.read().get(&node) {
            pools.cut.notify_waiters();
        }
        self.retire(node);
    }

    /// Closes all idle connections, and those in use when they come back.
    pub fn retire_all(&self) {
        for pool in self.all() {
            pool.retire();
        }
    }
}

fn is_same_user(pool: &ServerPool, target: &ConnectTarget) -> bool {
    let own = &pool.connector().target;
    own.database == target.database && own.user == target.user
}

fn is_same_server(pool: &ServerPool, target: &ConnectTarget) -> bool {
    let own = &pool.connector().target;
    is_same_user(pool, target)
        && own.port == target.port
        && own.host == target.host
        && own.secret == target.secret
        && own.tls == target.tls
}
