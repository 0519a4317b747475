//! The first packets: encryption refused or not, cancel requests, who wants what database.

use super::authenticate::Denied;
use super::{ADMIN_DATABASE, Frontend, refuse};
use crate::error::{ClientError, ErrorId};
use crate::net::{Framed, NetError};
use crate::wire::startup::StartupPacket;

/// First packets a client may send before its StartupMessage.
const FIRST_PACKETS_MAX: usize = 4;

/// Time for a client to say who it is.
const LOGIN_MS_MAX: u64 = 60_000;

/// What a client wants.
pub(super) struct Wanted {
    pub(super) user: String,
    pub(super) database: String,
    pub(super) parameters: Vec<(String, String)>,
}

impl Frontend {
    /// Reads first packets until it is known who is there; `None` when there is nothing to serve.
    pub(super) async fn greet(&self, client: &mut Framed) -> Result<Option<Wanted>, NetError> {
        let limit = std::time::Duration::from_millis(LOGIN_MS_MAX);
        match tokio::time::timeout(limit, self.read_first_packets(client)).await {
            Ok(outcome) => outcome,
            Err(_) => Ok(None),
        }
    }

    async fn read_first_packets(&self, client: &mut Framed) -> Result<Option<Wanted>, NetError> {
        for _ in 0..FIRST_PACKETS_MAX {
            let Some(packet) = client.read_startup().await? else { return Ok(None) };
            match packet {
                StartupPacket::Tls | StartupPacket::Gss => {
                    client.output().extend_from_slice(b"N");
                    client.flush().await?;
                }
                StartupPacket::Cancel { pid, secret } => {
                    self.cancel(pid, &secret).await;
                    return Ok(None);
                }
                StartupPacket::UnsupportedVersion { major, minor } => {
                    let text = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0");
                    refuse(client, &ClientError::new(ErrorId::FeatureNotSupported, text)).await;
                    return Ok(None);
                }
                StartupPacket::Startup { minor, parameters } => {
                    negotiate(client, minor, &parameters);
                    return self.admit(client, parameters).await;
                }
            }
        }
        Ok(None)
    }

    async fn admit(&self, client: &mut Framed, parameters: Vec<(String, String)>) -> Result<Option<Wanted>, NetError> {
        let value = |wanted: &str| parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        let Some(user) = value("user").filter(|user| !user.is_empty()) else {
            let text = "no PostgreSQL user name specified in startup packet";
            refuse(client, &ClientError::new(ErrorId::InvalidAuthorization, text)).await;
            return Ok(None);
        };
        let database = value("database").filter(|name| !name.is_empty()).unwrap_or_else(|| user.clone());
        // Who a client is comes first: what exists here is told to nobody else.
        let refusal = match self.access.authenticate(client, &user, &database).await {
            Ok(identity) => match self.unserved(&database, value("client_encoding"), value("replication")) {
                None => {
                    self.cluster.secrets.learn(&user, &identity.secret);
                    return Ok(Some(Wanted { user, database, parameters }));
                }
                Some(error) => error,
            },
            Err(Denied::Refused { error, .. }) => error,
            Err(Denied::Gone) => return Ok(None),
            Err(Denied::Broken(error)) => return Err(error),
        };
        refuse(client, &refusal).await;
        Ok(None)
    }

    /// Why a client with these wishes cannot be served.
    fn unserved(&self, database: &str, encoding: Option<String>, replication: Option<String>) -> Option<ClientError> {
        let served = self.cluster.topology.load().database.clone();
        if database != served && database != ADMIN_DATABASE {
            return Some(
                ClientError::new(ErrorId::UndefinedDatabase, format!("database \"{database}\" does not exist"))
                    .with_hint(format!(
                        "This cluster serves \"{served}\"; its admin database is \"{ADMIN_DATABASE}\"."
                    )),
            );
        }
        let encoding = encoding.unwrap_or_else(|| "UTF8".to_owned()).to_ascii_uppercase();
        let is_one_shard = self.cluster.topology.load().shards.len() == 1;
        if !is_one_shard
            && !matches!(encoding.as_str(), "UTF8" | "UTF-8" | "UNICODE" | "SQL_ASCII" | "'UTF-8'" | "'UTF8'")
        {
            return Some(
                ClientError::new(ErrorId::FeatureNotSupported, format!("client encoding {encoding} is not supported"))
                    .with_hint("Set client_encoding to UTF8."),
            );
        }
        if replication.is_some_and(|value| !matches!(value.as_str(), "false" | "off" | "no" | "0")) {
            return Some(
                ClientError::new(ErrorId::FeatureNotSupported, "replication connections are not served by the proxy")
                    .with_hint("Connect to a PostgreSQL server directly."),
            );
        }
        None
    }

    /// Cancels what the key's session has running. Nobody is told whether there was any.
    async fn cancel(&self, pid: u32, secret: &[u8]) {
        let Some(slot) = self.sessions.find(pid, secret) else { return };
        for handle in slot.running() {
            if let Err(error) = handle.cancel().await {
                tracing::debug!(%error, "cancel request failed");
            }
        }
    }
}

/// NegotiateProtocolVersion: 3.0 is spoken, options of later versions are not known.
fn negotiate(client: &mut Framed, minor: u16, parameters: &[(String, String)]) {
    let unknown: Vec<&str> =
        parameters.iter().map(|(name, _)| name.as_str()).filter(|name| name.starts_with("_pq_.")).collect();
    if minor == 0 && unknown.is_empty() {
        return;
    }
    let mut body = Vec::new();
    body.extend_from_slice(&0u32.to_be_bytes());
    body.extend_from_slice(&u32::try_from(unknown.len()).unwrap_or(0).to_be_bytes());
    for name in unknown {
        body.extend_from_slice(name.as_bytes());
        body.push(0);
    }
    let output = client.output();
    output.extend_from_slice(b"v");
    output.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or(4).to_be_bytes());
    output.extend_from_slice(&body);
}
