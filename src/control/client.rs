//! Control connections: the only file, beside their TLS, that names tokio-postgres.
//!
//! They carry a handful of statements now and then, apart from the data connections, so that control
//! works when the pools are full.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Config, Row, SimpleQueryMessage, Socket};

use super::roles::Column;
use crate::backend::ConnectTarget;
use crate::backend::connection::Rows;
use crate::base::{NodeId, Secret};
use crate::net::deadline;

use super::tls::{ControlStream, ControlTls};

/// Why a control statement gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ControlError {
    /// The server cannot be reached, or the connection broke.
    #[error("node {node} cannot be reached: {reason}")]
    Unreachable {
        /// The server.
        node: NodeId,
        /// The library's words.
        reason: String,
    },
    /// PostgreSQL refused.
    #[error("node {node}: {message} ({sqlstate})")]
    Postgres {
        /// The server.
        node: NodeId,
        /// SQLSTATE.
        sqlstate: String,
        /// Primary message.
        message: String,
    },
    /// No answer in time.
    #[error("node {node}: timed out after {after_ms} ms waiting for {what}")]
    Timeout {
        /// The server.
        node: NodeId,
        /// What was waited for.
        what: &'static str,
        /// The limit.
        after_ms: u64,
    },
}

impl ControlError {
    /// PostgreSQL's own code.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Postgres { sqlstate, .. } => Some(sqlstate),
            _ => None,
        }
    }
}

/// A control connection.
#[derive(Debug)]
pub struct ControlClient {
    client: tokio_postgres::Client,
    target: ConnectTarget,
}

impl ControlClient {
    /// Connects and authenticates, within the target's limit.
    ///
    /// # Errors
    /// Unreachable, refused, too slow.
    ///
    /// # Cancel safety
    /// Safe: the half-open connection is closed.
    pub async fn connect(target: &ConnectTarget) -> Result<Self, ControlError> {
        let connecting = deadline("a control connection", target.connect_timeout_ms, Box::pin(open(target)));
        let (client, driver) = connecting
            .await
            .map_err(|late| ControlError::Timeout { node: target.node, what: late.what, after_ms: late.after_ms })?
            .map_err(|error| translate(target.node, &error))?;
        let node = target.node;
        // Owned by the client: it ends when the client is dropped.
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%node, %error, "control connection ended");
            }
        });
        Ok(Self { client, target: target.clone() })
    }

    /// Runs statements as one simple query and gives the rows of the last that returned any.
    ///
    /// # Units
    /// `limit_ms` in milliseconds.
    ///
    /// # Errors
    /// Refused, lost, too slow. After an error inside a block that the statements opened, or a timeout,
    /// the connection is of no more use.
    ///
    /// # Cancel safety
    /// Dropped, the statements may still run.
    pub async fn rows(&self, sql: &str, limit_ms: u64) -> Result<Rows, ControlError> {
        let messages = deadline("a control statement", limit_ms, self.client.simple_query(sql))
            .await
            .map_err(|late| ControlError::Timeout { node: self.node(), what: late.what, after_ms: late.after_ms })?
            .map_err(|error| translate(self.node(), &error))?;
        let mut rows = Rows::new();
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(_) => rows.clear(),
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect());
                }
                _ => {}
            }
        }
        Ok(rows)
    }

    /// The first row of a query with one text parameter, which is never part of the statement's text.
    ///
    /// # Units
    /// `limit_ms` in milliseconds.
    ///
    /// # Errors
    /// As [`Self::rows`].
    ///
    /// # Cancel safety
    /// As [`Self::rows`].
    pub async fn first_row(
        &self,
        sql: &str,
        parameter: &str,
        limit_ms: u64,
    ) -> Result<Option<Vec<Column>>, ControlError> {
        let parameters: [&(dyn ToSql + Sync); 1] = [&parameter];
        let rows = deadline("a control statement", limit_ms, self.client.query(sql, &parameters))
            .await
            .map_err(|late| ControlError::Timeout { node: self.node(), what: late.what, after_ms: late.after_ms })?
            .map_err(|error| translate(self.node(), &error))?;
        let columns = |row: &Row| (0..row.len()).map(|at| row.try_get(at).unwrap_or(Column::Other)).collect();
        Ok(rows.first().map(columns))
    }

    /// Sends what `COPY … TO STDOUT` gives here into `COPY … FROM STDIN` there; tells how many bytes that were.
    ///
    /// # Errors
    /// Refused or lost, on either side: neither connection is of any more use.
    ///
    /// # Cancel safety
    /// Dropped, both connections are of no more use.
    pub async fn copy_to(&self, query: &str, there: &Self, into: &str) -> Result<u64, ControlError> {
        let out = self.client.copy_out(query).await.map_err(|error| translate(self.node(), &error))?;
        let sink = there.client.copy_in::<_, bytes::Bytes>(into).await;
        let sink = sink.map_err(|error| translate(there.node(), &error))?;
        let (mut out, mut sink) = (std::pin::pin!(out), std::pin::pin!(sink));
        let mut bytes = 0;
        while let Some(chunk) = out.next().await {
            let chunk = chunk.map_err(|error| translate(self.node(), &error))?;
            bytes += chunk.len() as u64;
            sink.feed(chunk).await.map_err(|error| translate(there.node(), &error))?;
        }
        sink.finish().await.map_err(|error| translate(there.node(), &error))?;
        Ok(bytes)
    }

    /// Where it is connected to.
    pub fn target(&self) -> &ConnectTarget {
        &self.target
    }

    /// The server.
    pub fn node(&self) -> NodeId {
        self.target.node
    }

    /// It has been lost.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

impl<'a> FromSql<'a> for Column {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(match *kind {
            Type::TIMESTAMPTZ | Type::TIMESTAMP => Self::Time(i64::from_sql(&Type::INT8, raw)?),
            Type::BOOL => Self::Flag(bool::from_sql(kind, raw)?),
            Type::TEXT | Type::VARCHAR | Type::NAME | Type::BPCHAR | Type::UNKNOWN => {
                Self::Text(Secret::new(std::str::from_utf8(raw)?))
            }
            _ => Self::Other,
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

type Opened = (tokio_postgres::Client, tokio_postgres::Connection<Socket, ControlStream<Socket>>);

/// Opens the connection by the mode of the target's TLS: as for other connections, what goes wrong with
/// TLS that is only preferred is no reason to do without the server.
async fn open(target: &ConnectTarget) -> Result<Opened, tokio_postgres::Error> {
    let tls = ControlTls { connector: Arc::clone(&target.tls), host: target.host.clone() };
    let mut config = Config::new();
    config
        .host(&target.host)
        .port(target.port)
        .dbname(&target.database)
        .user(&target.user)
        .application_name("ostrakon control")
        .ssl_mode(tls.mode())
        .connect_timeout(Duration::from_millis(target.connect_timeout_ms));
    if let Some(password) = target.secret.known_password() {
        config.password(password.expose());
    }
    match config.connect(tls.clone()).await {
        Err(error) if tls.mode() == SslMode::Prefer && error.as_db_error().is_none() => {
            config.ssl_mode(SslMode::Disable).connect(tls).await
        }
        opened => opened,
    }
}

fn translate(node: NodeId, error: &tokio_postgres::Error) -> ControlError {
    match error.as_db_error() {
        Some(refusal) => ControlError::Postgres {
            node,
            sqlstate: refusal.code().code().to_owned(),
            message: refusal.message().to_owned(),
        },
        None => {
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
            ControlError::Unreachable { node, reason: format!("{error}{cause}") }
        }
    }
}

/// An identifier between double quotes.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text between single quotes; control connections have `standard_conforming_strings` on.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
