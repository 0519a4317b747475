//! The few statements that servers need before anybody is served: slots, role, database, streaming.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::{HostError, ServerSpec};

/// Superuser of the servers that are made here.
pub const SUPERUSER: &str = "postgres";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// A connection to a server of this machine, as superuser.
///
/// # Errors
/// [`HostError::Sql`].
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn connect(spec: &ServerSpec) -> Result<Client, HostError> {
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .port(spec.port)
        .user(SUPERUSER)
        .dbname("postgres")
        .application_name("ostrakon")
        .connect_timeout(CONNECT_TIMEOUT);
    let (client, connection) = config.connect(NoTls).await.map_err(|error| sql_error(spec, &error))?;
    // Ends by itself when the client is dropped; its errors also reach whoever waits on the client.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

/// Connects, trying again while the server still starts.
pub async fn connect_within(spec: &ServerSpec, limit: Duration) -> Result<Client, HostError> {
    let deadline = Instant::now() + limit;
    loop {
        match connect(spec).await {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Makes the replication slots that are missing on a primary; each keeps WAL from now on.
pub async fn ensure_slots(spec: &ServerSpec, client: &Client, slots: &[String]) -> Result<(), HostError> {
    for slot in slots {
        client
            .execute(
                "SELECT pg_create_physical_replication_slot($1, true) \
                 WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1::text)",
                &[slot],
            )
            .await
            .map_err(|error| sql_error(spec, &error))?;
    }
    Ok(())
}

/// Has a primary write a checkpoint on the timeline that it is on; true when it has.
pub async fn checkpoint(client: &Client) -> bool {
    client.batch_execute("CHECKPOINT").await.is_ok()
        && client.query_one(CHECKPOINT_IS_NEW, &[]).await.is_ok_and(|row| row.try_get(0).unwrap_or(false))
}

/// Whether the last checkpoint of a primary is of its own timeline.
pub const CHECKPOINT_IS_NEW: &str = "SELECT timeline_id = \
    ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int FROM pg_control_checkpoint()";

/// Makes a role that may log in and a database that it owns, where they are missing.
pub async fn ensure_database(spec: &ServerSpec, role: &str, database: &str) -> Result<(), HostError> {
    let client = connect(spec).await?;
    let exists = |row: Option<tokio_postgres::Row>| row.is_some();
    let found = client.query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[&role]).await;
    if !exists(found.map_err(|error| sql_error(spec, &error))?) {
        create(spec, &client, &format!("CREATE ROLE {} LOGIN", quote(role))).await?;
    }
    let found = client.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&database]).await;
    if !exists(found.map_err(|error| sql_error(spec, &error))?) {
        create(spec, &client, &format!("CREATE DATABASE {} OWNER {}", quote(database), quote(role))).await?;
    }
    Ok(())
}

/// Makes what was missing a moment ago. The server may have been at it still for a process that was killed: by now it is
/// there, and PostgreSQL says so by either of its errors.
async fn create(spec: &ServerSpec, client: &Client, statement: &str) -> Result<(), HostError> {
    let made = client.batch_execute(statement).await;
    let is_there = |code: &SqlState| {
        [SqlState::DUPLICATE_DATABASE, SqlState::DUPLICATE_OBJECT, SqlState::UNIQUE_VIOLATION].contains(code)
    };
    match made {
        Err(error) if !error.code().is_some_and(is_there) => Err(sql_error(spec, &error)),
        _ => Ok(()),
    }
}

/// Waits until the primary sees a replica stream.
///
/// # Errors
/// [`HostError::Timeout`] names the replica's log.
pub async fn wait_streaming(
    primary: &ServerSpec,
    replica: &str,
    log: PathBuf,
    limit: Duration,
) -> Result<(), HostError> {
    let client = connect(primary).await?;
    let deadline = Instant::now() + limit;
    loop {
        let row = client
            .query_opt(
                "SELECT FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming'",
                &[&replica],
            )
            .await
            .map_err(|error| sql_error(primary, &error))?;
        if row.is_some() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let what = format!("waiting for replica {replica} to stream from {}", primary.name);
            return Err(HostError::Timeout { what, directory: log, seconds: limit.as_secs() });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

fn sql_error(spec: &ServerSpec, error: &tokio_postgres::Error) -> HostError {
    let message = match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(database), _) => format!("{} ({})", database.message(), database.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    };
    HostError::Sql { name: spec.name.clone(), port: spec.port, message }
}
