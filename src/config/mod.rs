//! `ostrakon.toml`: the file as written -> settings and a topology.
//!
//! Reading is by hand over the parsed document instead of through serde's derive, so that one run
//! reports *every* mistake with its line and column, and an unknown key with the nearest known one.
//!
//! Must not know: files (the caller reads them), the store, what runs. Only `server` and `cli` import
//! this room; settings flow up to the rooms as their own types.

mod auth;
mod check;
mod error;
mod failover;
mod read;
mod reader;
mod store;
#[cfg(test)]
mod tests;
mod tls;
mod topology;

use std::path::PathBuf;
use std::time::Duration;

use crate::net::tls::TlsMode;
use crate::session::{PoolMode, ReadFrom};
use crate::topology::{Role, TableName};

pub use crate::base::Secret;
pub use auth::{AuthConfig, AuthQuery, PasswordSource};
pub use error::{ConfigError, Position};
pub use failover::FailoverConfig;
pub use store::{EtcdConfig, StoreConfig};
pub use tls::{ServersTlsConfig, TlsConfig};

/// A whole `ostrakon.toml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the file, for messages.
    pub file_name: String,
    /// `[proxy]`
    pub proxy: ProxyConfig,
    /// `[store]`
    pub store: StoreConfig,
    /// `[failover]`; without it nobody leads the shards.
    pub failover: Option<FailoverConfig>,
    /// `[http]`
    pub http: HttpConfig,
    /// `[pool]`
    pub pool: PoolConfig,
    /// `[replicas]`
    pub replicas: ReplicasConfig,
    /// `[merge]`
    pub merge: MergeConfig,
    /// `[control]`
    pub control: ControlConfig,
    /// `[auth]`, `[[hba]]`, `[[ident]]`
    pub auth: AuthConfig,
    /// `[tls]`
    pub tls: TlsConfig,
    /// `[servers_tls]`
    pub servers_tls: ServersTlsConfig,
    /// `[[users]]`
    pub users: Vec<UserConfig>,
    /// `[keyspace] key_columns`: a table that has all columns of an entry is sharded by it.
    pub key_columns: Vec<Vec<String>>,
    /// `[[shards]]` in the order of the file.
    pub shards: Vec<ShardConfig>,
    /// `[[tables]]`
    pub tables: Vec<TableConfig>,
}

/// `[proxy]`: the proxy itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyConfig {
    /// Address and port that clients connect to; default `127.0.0.1:6432`.
    pub listen: String,
    /// Directory of a Unix-domain socket that clients may connect to, too; default none.
    pub unix_socket_dir: Option<PathBuf>,
    /// Directory of the embedded store.
    pub data: PathBuf,
    /// The database that is served, of the same name on every node.
    pub database: String,
    /// Other databases of the server are served, too, for as long as the cluster has one shard; default no.
    pub other_databases: bool,
    /// Most clients at a time; default 1,000.
    pub clients_max: usize,
    /// Most clients of one user at a time; default: no limit beside `clients_max`.
    pub clients_max_per_user: usize,
    /// Clients beyond `clients_max` that may connect to the admin database; default 3.
    pub clients_reserved: usize,
    /// Most clients at a time that have connected and not logged in; default 1,000.
    pub logins_max: usize,
    /// How long a login may take; default 60 s.
    pub login_timeout: Duration,
    /// Longest message of a client in bytes; default 1 GiB.
    pub message_bytes_max: usize,
    /// A session that does nothing inside a transaction for so long is ended; default: never.
    pub idle_transaction_timeout: Option<Duration>,
    /// Threads that serve clients; default: as many as half of the processors.
    pub workers: Option<usize>,
}

/// `[http]`: what load balancers and monitors ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpConfig {
    /// Address and port; default: none, nothing is served.
    pub listen: Option<String>,
}

/// `[pool]`: connections to the nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// When a session gives its connection back; default `transaction`.
    pub mode: PoolMode,
    /// Most connections to one node for one user; default 20.
    pub size: usize,
    /// Idle connections kept ready in a pool that is in use; default 0.
    pub size_min: usize,
    /// How long a client waits for a connection; default 5 s.
    pub checkout_timeout: Duration,
    /// How long connecting to a node may take; default 5 s.
    pub connect_timeout: Duration,
    /// An unused connection is closed after this; default 10 min.
    pub idle_timeout: Duration,
    /// A connection is replaced at this age, give or take a tenth; default 1 h.
    pub lifetime: Duration,
    /// Connections to one node that may be in the act of opening at a time; default 8.
    pub connects_max: usize,
    /// Connections to one node that may be begun in a second; default 100.
    pub connects_per_s: usize,
}

/// `[replicas]`: reads from replicas.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicasConfig {
    /// Where reads go that say nothing themselves; default `primary`.
    pub read_from: ReadFrom,
    /// The proxy's own zone; default: none.
    pub zone: String,
    /// A replica that is further behind gets no reads; default 10 s.
    pub lag_max: Duration,
    /// How long a read may wait for a replica that is about to have what its session has seen; default 10 ms.
    pub wait_max: Duration,
    /// Pause between two samples; default 50 ms.
    pub sample_pause: Duration,
}

/// `[merge]`: what one statement over several shards may hold in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeConfig {
    /// Rows; default 1,000,000.
    pub rows_max: usize,
    /// Bytes; default 256 MiB.
    pub bytes_max: usize,
    /// Bytes of rows that one PostgreSQL gets to finish; default 64 MiB.
    pub gather_bytes_max: usize,
}

/// `[control]`: how the proxy itself connects to the nodes, to probe and to read the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlConfig {
    /// Role; default `postgres`.
    pub user: String,
    /// Password; none for trust and peer.
    pub password: Option<PasswordSource>,
}

/// `[[users]]`: a role that clients may connect as.
#[derive(Clone, Debug, PartialEq)]
pub struct UserConfig {
    /// Role.
    pub name: String,
    /// Its password, for clients that come as this role and on the nodes; a verifier is for clients only.
    pub password: Option<PasswordSource>,
    /// When its sessions give their connections back; default: that of `[pool]`.
    pub pool_mode: Option<PoolMode>,
    /// Where its reads go; default: that of `[replicas]`.
    pub read_from: Option<ReadFrom>,
    /// Most connections to one node for this user; default: that of `[pool]`.
    pub pool_size: Option<usize>,
    /// Most clients of this user at a time; default: `clients_max_per_user`.
    pub clients_max: Option<usize>,
    /// Where it is written.
    pub position: Position,
}

/// `[[shards]]`
#[derive(Clone, Debug, PartialEq)]
pub struct ShardConfig {
    /// Name, unique.
    pub name: String,
    /// Share of the ring relative to the others; default 100.
    pub weight: u32,
    /// `[[shards.nodes]]`; the first is the primary unless roles say otherwise.
    pub nodes: Vec<NodeConfig>,
    /// Where it is written.
    pub position: Position,
}

/// `[[shards.nodes]]`
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    /// Name, unique over all shards.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// TCP port; default 5432.
    pub port: u16,
    /// Data centre or availability zone; empty when not given.
    pub zone: String,
    /// Its part when the cluster is first made; afterwards the store knows better.
    pub role: Role,
    /// Whether it is spoken to under TLS; default: as `[servers_tls]` says.
    pub tls: Option<TlsMode>,
    /// Where it is written.
    pub position: Position,
}

/// `[[tables]]`
#[derive(Clone, Debug, PartialEq)]
pub struct TableConfig {
    /// Name; without a schema it is in `public`.
    pub name: TableName,
    /// Where its rows are; the home of a single table by the shard's name.
    pub placement: TablePlacement,
    /// Where it is written.
    pub position: Position,
}

/// [`crate::topology::Placement`] with names in place of ids.
#[derive(Clone, Debug, PartialEq)]
pub enum TablePlacement {
    /// `key = ["tenant_id"]`
    Sharded {
        /// Key columns.
        key: Vec<String>,
    },
    /// `reference = true`
    Reference,
    /// `single = true`
    Single {
        /// `home = "s1"`
        home: Option<String>,
    },
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Every mistake that was found, in the order of the file.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, Vec<ConfigError>> {
        let mut report = error::Report::new(text, file_name);
        let config = read::read(text, &mut report);
        if let Some(config) = &config {
            check::check(config, &mut report);
        }
        match (config, report.into_errors()) {
            (Some(config), errors) if errors.is_empty() => Ok(config),
            (_, errors) => Err(errors),
        }
    }
}
