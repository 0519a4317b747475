//! The first packets: encryption, cancel requests, versions of the protocol, who wants what database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::authenticate::Denied;
use super::{ADMIN_DATABASE, Frontend, refuse};
use crate::error::{ClientError, ErrorId};
use crate::net::tls::Acceptor;
use crate::net::{Framed, NetError};
use crate::wire::server_message;
use crate::wire::startup::{MINOR_LATEST, StartupPacket};

/// Who may connect how, and for how long the proxy waits for a client.
#[derive(Clone, Debug)]
pub struct LoginSettings {
    /// TLS for clients; without it their requests for it are answered with no.
    pub tls: Option<Arc<Acceptor>>,
    /// Clients without TLS are refused.
    pub tls_required: bool,
    /// Time from the first byte to the end of authentication.
    ///
    /// # Units
    /// Milliseconds; PostgreSQL's `authentication_timeout` has the same default of a minute.
    pub timeout_ms: u64,
    /// Clients at a time that have not logged in yet.
    pub max: usize,
    /// Databases of the server other than the cluster's are served, too, while the cluster has one shard.
    pub other_databases: bool,
}

impl Default for LoginSettings {
    fn default() -> Self {
        Self { tls: None, tls_required: false, timeout_ms: 60_000, max: 1_000, other_databases: false }
    }
}

/// Longest message of a client that has not logged in (PostgreSQL's `PG_MAX_AUTH_TOKEN_LENGTH`).
const LOGIN_MESSAGE_BYTES_MAX: usize = 65_535;

/// First byte of a TLS record that holds a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a client wants.
pub(super) struct Wanted {
    pub(super) user: String,
    pub(super) database: String,
    pub(super) parameters: Vec<(String, String)>,
}

/// What the first packets may still ask for.
///
/// # Source
/// `ProcessStartupPacket` of `src/backend/tcop/backend_startup.c`: each kind of encryption is asked for at
/// most once, and none under TLS that was asked for.
#[derive(Clone, Copy, Default)]
struct Asked {
    tls: bool,
    gss: bool,
}

impl Frontend {
    /// Lets a client in, as far as its startup packet and authentication; `None` when there is nothing to
    /// serve. Beside what the client wants, the minor version of the protocol that is spoken with it.
    pub(super) async fn greet(&self, client: &mut Framed) -> Result<Option<(Wanted, u16)>, NetError> {
        let limit = Duration::from_millis(self.login.load().timeout_ms);
        let mut place = match self.door.enter(client.peer().map(|peer| peer.ip()), Instant::now()) {
            Ok(place) => place,
            Err(error) => {
                refuse(client, &error).await;
                return Ok(None);
            }
        };
        let message_bytes_max = client.set_message_bytes_max(LOGIN_MESSAGE_BYTES_MAX);
        let ended = tokio::select! {
            outcome = tokio::time::timeout(limit, self.let_in(client)) => outcome.map_err(|_| late()),
            error = place.put_out() => Err(error),
        };
        client.set_message_bytes_max(message_bytes_max);
        match ended {
            Ok(Err(NetError::Wire(error))) => {
                let text = "invalid startup packet";
                refuse(client, &ClientError::new(ErrorId::ProtocolViolation, text)).await;
                Err(NetError::Wire(error))
            }
            Ok(outcome) => outcome,
            Err(error) => {
                refuse(client, &error).await;
                Ok(None)
            }
        }
    }

    async fn let_in(&self, client: &mut Framed) -> Result<Option<(Wanted, u16)>, NetError> {
        if !client.is_local() && client.peek_first().await? == Some(TLS_HANDSHAKE) {
            // Without TLS there is nothing to say that such a client would understand.
            let Some(acceptor) = self.login.load().tls.clone() else { return Ok(None) };
            client.accept_tls(&acceptor, true).await?;
        }
        let mut asked = Asked::default();
        loop {
            let Some(packet) = client.read_startup().await? else { return Ok(None) };
            match packet {
                StartupPacket::Tls if !asked.tls => {
                    if !self.answer_tls_request(client).await? {
                        return Ok(None);
                    }
                    asked = Asked { tls: true, gss: asked.gss || client.tls().is_some() };
                }
                StartupPacket::Gss if !asked.gss => {
                    if is_followed_by_plaintext(client, "GSSAPI encryption").await {
                        return Ok(None);
                    }
                    answer(client, b"N").await?;
                    asked.gss = true;
                }
                StartupPacket::Cancel { pid, secret } => {
                    self.cancel(pid, &secret).await;
                    return Ok(None);
                }
                StartupPacket::Tls | StartupPacket::Gss | StartupPacket::UnsupportedVersion { .. } => {
                    refuse_version(client, &packet).await;
                    return Ok(None);
                }
                StartupPacket::Startup { minor, parameters } => {
                    negotiate(client, minor, &parameters);
                    if self.login.load().tls_required && client.tls().is_none() && !client.is_local() {
                        refuse(client, &tls_is_required()).await;
                        return Ok(None);
                    }
                    return Ok(self.admit(client, parameters).await?.map(|wanted| (wanted, minor)));
                }
            }
        }
    }

    /// Answers an SSLRequest and shakes hands if there is a certificate; `false`: the client is sent away.
    async fn answer_tls_request(&self, client: &mut Framed) -> Result<bool, NetError> {
        if is_followed_by_plaintext(client, "SSL").await {
            return Ok(false);
        }
        // As PostgreSQL, which encrypts nothing that does not leave the machine.
        let acceptor = self.login.load().tls.clone().filter(|_| !client.is_local());
        match acceptor {
            Some(acceptor) if client.tls().is_none() => {
                answer(client, b"S").await?;
                client.accept_tls(&acceptor, false).await?;
            }
            _ => answer(client, b"N").await?,
        }
        Ok(true)
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
        let access = self.access.load_full();
        let refusal = match access.authenticate(client, &user, &database).await {
            Ok(identity) => match self.unserved(&database, value("replication")) {
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
    fn unserved(&self, database: &str, replication: Option<String>) -> Option<ClientError> {
        let topology = self.cluster.topology.load();
        let (served, is_one_shard) = (topology.database.clone(), topology.shards.len() == 1);
        let is_other_served = self.login.load().other_databases && is_one_shard;
        if database != served && database != ADMIN_DATABASE && !is_other_served {
            return Some(
                ClientError::new(ErrorId::UndefinedDatabase, format!("database \"{database}\" does not exist"))
                    .with_hint(format!(
                        "This cluster serves \"{served}\"; its admin database is \"{ADMIN_DATABASE}\"."
                    )),
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
        slot.cancel_running().await;
    }
}

/// Refuses what has come behind a request for encryption before it was answered: whoever sent it, it is
/// not under the encryption that was asked for, and would be taken for what is (CVE-2021-23214).
async fn is_followed_by_plaintext(client: &mut Framed, what: &str) -> bool {
    if client.buffered_input() == 0 {
        return false;
    }
    let error = ClientError::new(ErrorId::ProtocolViolation, format!("received unencrypted data after {what} request"))
        .with_detail(
            "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
        );
    refuse(client, &error).await;
    true
}

async fn answer(client: &mut Framed, byte: &[u8; 1]) -> Result<(), NetError> {
    client.output().extend_from_slice(byte);
    client.flush().await
}

fn late() -> ClientError {
    ClientError::new(ErrorId::QueryCanceled, "canceling authentication due to timeout")
}

fn tls_is_required() -> ClientError {
    ClientError::new(ErrorId::InvalidAuthorization, "connections without TLS are not accepted")
        .with_hint("Set sslmode to require, or better to verify-full with the root certificate of this server.")
}

/// Refuses a version that is not spoken. Clients of version 2 know errors as a plain text only.
///
/// # Source
/// `send_message_to_frontend` of `src/backend/utils/error/elog.c`.
async fn refuse_version(client: &mut Framed, packet: &StartupPacket) {
    let (major, minor) = packet.version();
    let text = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{MINOR_LATEST}");
    if major >= 3 {
        refuse(client, &ClientError::new(ErrorId::FeatureNotSupported, text)).await;
        return;
    }
    client.output().extend_from_slice(format!("EFATAL:  {text}\n\0").as_bytes());
    let _gone = tokio::time::timeout(Duration::from_secs(1), client.flush()).await;
}

/// Tells a client that asked for more than there is which version is spoken and which options of later
/// versions are not known. 3.1 was never released; who asks for it is given 3.0's messages without a word.
///
/// # Source
/// `ProcessStartupPacket` and `SendNegotiateProtocolVersion` of PostgreSQL 18.
fn negotiate(client: &mut Framed, minor: u16, parameters: &[(String, String)]) {
    let names = parameters.iter().map(|(name, _)| name.as_str());
    let unknown: Vec<&str> = names.filter(|name| name.starts_with("_pq_.")).collect();
    if minor > MINOR_LATEST || !unknown.is_empty() {
        server_message::write_negotiate_protocol_version(client.output(), minor.min(MINOR_LATEST), &unknown);
    }
}
