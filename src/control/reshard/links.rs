//! Connections to the shards' primaries that steps use, and what is set on them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::{ConnectTarget, Connection};
use crate::base::ShardId;
use crate::control::client::ControlClient;

/// Where a shard's primary is now, for the role that looks after the servers.
pub type FindPrimary = Arc<dyn Fn(ShardId) -> Option<ConnectTarget> + Send + Sync>;

/// What steps call themselves in `pg_stat_activity`; whoever settles one ends these first.
pub(super) const STEP_NAME: &str = "ostrakon reshard step";
/// What everything else of a job calls itself.
const OTHER_NAME: &str = "ostrakon reshard";

/// Values mean the same as text on every server, nothing else happens when rows are written, and the index by bucket
/// is used although the statistics do not know it.
const SETTINGS: &str = "SET session_replication_role = replica; SET row_security = off; SET datestyle = 'ISO, YMD'; \
    SET intervalstyle = postgres; SET timezone = 'UTC'; SET extra_float_digits = 1; SET bytea_output = hex; \
    SET xmlbinary = base64; SET client_min_messages = warning; SET search_path = pg_catalog; SET jit = off; \
    SET synchronous_commit = on; SET default_transaction_read_only = off; \
    SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0; SET lock_timeout = '200ms'";

/// Limit of a short statement.
pub(super) const SHORT_MS: u64 = 5_000;

/// Opens a connection to a shard.
///
/// # Errors
/// Why, in words.
pub(super) async fn connect(find: &FindPrimary, shard: ShardId) -> Result<ControlClient, String> {
    open(find, shard, OTHER_NAME).await
}

async fn open(find: &FindPrimary, shard: ShardId, name: &str) -> Result<ControlClient, String> {
    let target = find(shard).ok_or_else(|| format!("shard {shard} has no primary"))?;
    let client = ControlClient::connect(&target).await.map_err(|error| error.to_string())?;
    let sql = format!("SET application_name = '{name}'; {SETTINGS}");
    client.rows(&sql, SHORT_MS).await.map_err(|error| error.to_string())?;
    Ok(client)
}

async fn open_stream(find: &FindPrimary, shard: ShardId) -> Result<Connection, String> {
    let target = find(shard).ok_or_else(|| format!("shard {shard} has no primary"))?;
    let mut stream = Connection::connect(&target).await.map_err(|error| error.to_string())?;
    let sql = format!("SET application_name = '{STEP_NAME}'; {SETTINGS}");
    let result = stream.simple(&sql).await.map_err(|error| error.to_string())?;
    if result.error.is_some() {
        return Err(format!("shard {shard} refuses the settings of a step"));
    }
    Ok(stream)
}

/// The first value of a query.
///
/// # Errors
/// Why there is none, in words.
pub(super) async fn value(client: &ControlClient, sql: &str, limit_ms: u64) -> Result<Option<String>, String> {
    let rows = client.rows(sql, limit_ms).await.map_err(|error| error.to_string())?;
    Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten())
}

/// Connections that stay open from step to step: opening them would be part of every pause.
#[derive(Default)]
pub(super) struct Links {
    kept: HashMap<ShardId, ControlClient>,
    /// For rows; who takes one and does not put it back has closed it.
    streams: HashMap<ShardId, Connection>,
}

impl Links {
    /// Makes sure that there is a connection to a shard's primary as it is now.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(super) async fn ensure(&mut self, find: &FindPrimary, shard: ShardId) -> Result<(), String> {
        let target = find(shard);
        let is_good = |client: &ControlClient| !client.is_closed() && Some(client.target()) == target.as_ref();
        if !self.kept.get(&shard).is_some_and(is_good) {
            self.streams.remove(&shard);
            self.kept.insert(shard, open(find, shard, STEP_NAME).await?);
        }
        let is_good = |stream: &mut Connection| stream.is_usable();
        if !self.streams.get_mut(&shard).is_some_and(is_good) {
            self.streams.insert(shard, open_stream(find, shard).await?);
        }
        Ok(())
    }

    /// Takes a shard's connection for rows.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn take_stream(&mut self, shard: ShardId) -> Result<Connection, String> {
        self.streams.remove(&shard).ok_or_else(|| format!("shard {shard} is not connected"))
    }

    /// Puts it back, when nothing is under way on it.
    pub(super) fn put_stream(&mut self, shard: ShardId, stream: Connection) {
        self.streams.insert(shard, stream);
    }

    /// The connection, if there is one.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn get(&self, shard: ShardId) -> Result<&ControlClient, String> {
        self.kept.get(&shard).ok_or_else(|| format!("shard {shard} is not connected"))
    }

    /// Closes them: whatever is open on them is rolled back.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.streams.clear();
    }
}
