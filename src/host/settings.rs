//! What every server is told in its configuration file.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::{Account, HostError};

/// The file in the data directory that this room owns; `postgresql.conf` includes it last.
pub const FILE: &str = "ostrakon.conf";

/// The text of [`FILE`].
///
/// Limits that a standby requires to be at least its primary's (connections, senders, prepared
/// transactions, workers, locks) are equal everywhere, so that roles can change hands. `logical`
/// contains everything that `replica` does and lets rows move between shards later on. The default
/// retry interval of a replica (5 s) would be added to every change of primary.
///
/// # Source
/// PostgreSQL documentation, "Hot Standby", administrator's overview.
pub fn text(name: &str, port: u16) -> String {
    format!(
        "# Written by ostrakon at every start; this file wins over postgresql.conf.\n\
         # To change a setting for good, use ALTER SYSTEM, which wins over this file.\n\
         cluster_name = '{name}'\n\
         listen_addresses = '127.0.0.1'\n\
         port = {port}\n\
         unix_socket_directories = ''\n\
         wal_level = logical\n\
         hot_standby = on\n\
         max_connections = 200\n\
         max_wal_senders = 20\n\
         max_replication_slots = 20\n\
         max_prepared_transactions = 100\n\
         max_worker_processes = 16\n\
         max_logical_replication_workers = 8\n\
         wal_keep_size = '128MB'\n\
         wal_sender_timeout = '5s'\n\
         wal_receiver_timeout = '5s'\n\
         wal_receiver_status_interval = '1s'\n\
         wal_retrieve_retry_interval = '20ms'\n\
         recovery_target_timeline = 'latest'\n\
         synchronous_commit = on\n\
         lc_messages = 'C'\n\
         log_line_prefix = '%m [%p] '\n"
    )
}

/// Writes [`FILE`] in a data directory and makes `postgresql.conf` include it, if not so yet.
pub fn write(directory: &Path, name: &str, port: u16, account: &Account) -> Result<(), HostError> {
    let path = directory.join(FILE);
    fs::write(&path, text(name, port)).map_err(|error| HostError::io("write", &path, error))?;
    account.own(&path)?;
    let main = directory.join("postgresql.conf");
    let kept = fs::read_to_string(&main).map_err(|error| HostError::io("read", &main, error))?;
    let include = format!("include '{FILE}'");
    if kept.lines().any(|line| line.trim() == include) {
        return Ok(());
    }
    let mut file =
        fs::OpenOptions::new().append(true).open(&main).map_err(|error| HostError::io("open", &main, error))?;
    writeln!(file, "\n{include}").map_err(|error| HostError::io("write", &main, error))
}
