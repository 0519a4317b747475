//! The pools of this process: one for each node, database and user.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::base::NodeId;
use crate::error::{ClientError, ErrorId};
use crate::wire::frame::Frame;

use super::pool::{Connector, Limits, Pool, PoolError, PoolLease};
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
        }
    }
}

/// A pooled connection in use.
pub type Lease = PoolLease<ServerConnector>;

/// Opens connections to one server as one user.
#[derive(Debug)]
pub struct ServerConnector {
    target: ConnectTarget,
}

impl Connector for ServerConnector {
    type Connection = Connection;
    type Error = BackendError;

    async fn connect(&self) -> Result<Connection, BackendError> {
        Connection::connect(&self.target).await
    }

    fn may_return(&self, connection: &mut Connection) -> bool {
        connection.end_turn()
    }

    fn is_usable(&self, connection: &mut Connection) -> bool {
        connection.is_usable()
    }

    fn is_clean(&self, connection: &Connection) -> bool {
        connection.is_clean()
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
    /// Connections that wait for work.
    pub idle: usize,
    /// Connections leased or being opened.
    pub used: usize,
    /// Checkouts that wait.
    pub waiting: usize,
}

type ServerPool = Arc<Pool<ServerConnector>>;

/// All pools.
#[derive(Default)]
pub struct Pools {
    settings: PoolSettings,
    /// A node has few users, so they are looked through.
    by_node: RwLock<HashMap<NodeId, Vec<ServerPool>>>,
}

impl Pools {
    /// No pools yet; they come with the first checkout.
    pub fn new(settings: PoolSettings) -> Self {
        Self { settings, by_node: RwLock::default() }
    }

    /// A connection to the target, pooled by node, database and user.
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
        let pool = self.pool(target);
        pool.checkout().await.map_err(|error| match error {
            PoolError::Timeout { waited_ms } => {
                CheckoutError::Timeout { node: target.node, size: pool.size(), waited_ms }
            }
            PoolError::Connect(error) => CheckoutError::Backend(error),
        })
    }

    fn pool(&self, target: &ConnectTarget) -> ServerPool {
        if let Some(pool) = self
            .by_node
            .read()
            .get(&target.node)
            .and_then(|pools| pools.iter().find(|pool| is_same_server(pool, target)))
        {
            return Arc::clone(pool);
        }
        let mut by_node = self.by_node.write();
        let pools = by_node.entry(target.node).or_default();
        if let Some(pool) = pools.iter().find(|pool| is_same_server(pool, target)) {
            return Arc::clone(pool);
        }
        pools.retain(|pool| {
            let is_other = !is_same_user(pool, target);
            if !is_other {
                pool.retire();
            }
            is_other
        });
        let pool = Pool::new(self.connector(target), self.limits(&target.user));
        pools.push(Arc::clone(&pool));
        pool
    }

    fn connector(&self, target: &ConnectTarget) -> ServerConnector {
        let mut target = target.clone();
        target.connect_timeout_ms = target.connect_timeout_ms.min(self.settings.connect_timeout_ms);
        ServerConnector { target }
    }

    fn limits(&self, user: &str) -> Limits {
        let PoolSettings { checkout_timeout_ms, idle_timeout_ms, lifetime_ms, .. } = self.settings;
        let size = self.settings.user_sizes.get(user).copied().unwrap_or(self.settings.size);
        Limits { size, checkout_timeout_ms, idle_timeout_ms, lifetime_ms }
    }

    fn all(&self) -> Vec<ServerPool> {
        self.by_node.read().values().flatten().cloned().collect()
    }

    /// A look at every pool, by node, database and user.
    pub fn stats(&self) -> Vec<PoolStats> {
        let mut stats: Vec<PoolStats> = self
            .all()
            .iter()
            .map(|pool| {
                let target = &pool.connector().target;
                let counts = pool.counts();
                PoolStats {
                    node: target.node,
                    database: target.database.clone(),
                    user: target.user.clone(),
                    idle: counts.idle,
                    used: counts.used,
                    waiting: counts.waiting,
                }
            })
            .collect();
        stats.sort_by(|a, b| (a.node, &a.database, &a.user).cmp(&(b.node, &b.database, &b.user)));
        stats
    }

    /// Closes all idle connections.
    pub fn close_idle(&self) {
        for pool in self.all() {
            pool.close_idle();
        }
    }

    /// Closes connections that are idle too long or too old; to be called every few seconds.
    pub fn close_expired(&self) {
        for pool in self.all() {
            pool.close_expired();
        }
    }

    /// Closes the idle connections to a node, and those in use when they come back.
    pub fn retire(&self, node: NodeId) {
        let pools = self.by_node.read().get(&node).cloned().unwrap_or_default();
        for pool in pools {
            pool.retire();
        }
    }
}

fn is_same_user(pool: &ServerPool, target: &ConnectTarget) -> bool {
    let own = &pool.connector().target;
    own.database == target.database && own.user == target.user && own.parameters == target.parameters
}

fn is_same_server(pool: &ServerPool, target: &ConnectTarget) -> bool {
    let own = &pool.connector().target;
    is_same_user(pool, target)
        && own.port == target.port
        && own.host == target.host
        && own.secret == target.secret
        && own.tls == target.tls
}
