//! Opens a connection as far as the first message: TCP, then TLS by the target's mode.
//!
//! # Source
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>, libpq's `sslmode`.

use tokio::net::TcpStream;

use crate::net::tls::TlsMode;
use crate::net::{Framed, NetError, deadline};
use crate::wire::startup::encode_tls_request;

use super::{BackendError, ConnectTarget, LostWhile};

/// What a server answers to an SSLRequest.
const WILLING: u8 = b'S';
const UNWILLING: u8 = b'N';

/// Opens the socket and makes TLS of it if the target's mode says so.
///
/// # Errors
/// Not reachable within the target's limit; no TLS where it must be; a certificate that is not believed.
///
/// # Cancel safety
/// Safe: the half-open connection is closed.
pub(super) async fn open(target: &ConnectTarget) -> Result<Framed, BackendError> {
    let framed = open_plain(target).await?;
    if target.tls.mode() == TlsMode::Disable {
        return Ok(framed);
    }
    match deadline("a TLS handshake", target.connect_timeout_ms, secure(framed, target)).await {
        Ok(Ok(framed)) => Ok(framed),
        // As libpq: where TLS is only preferred, what goes wrong with it is no reason to do without a server.
        Ok(Err(error)) if target.tls.mode() == TlsMode::Prefer => {
            tracing::debug!(node = %target.node, %error, "no TLS with the server; going on without");
            open_plain(target).await
        }
        Ok(Err(error)) => Err(error),
        Err(late) => Err(late_error(target, late)),
    }
}

async fn open_plain(target: &ConnectTarget) -> Result<Framed, BackendError> {
    let connecting = TcpStream::connect((target.host.as_str(), target.port));
    match deadline("a TCP connection", target.connect_timeout_ms, connecting).await {
        Ok(Ok(stream)) => Ok(Framed::new(stream)),
        Ok(Err(error)) => Err(refusal(target, &error.to_string())),
        Err(late) => Err(late_error(target, late)),
    }
}

async fn secure(mut framed: Framed, target: &ConnectTarget) -> Result<Framed, BackendError> {
    let broken = |error: NetError| refusal(target, &format!("TLS: {error}"));
    encode_tls_request(framed.output());
    framed.flush().await.map_err(broken)?;
    match framed.read_byte().await.map_err(broken)? {
        Some(WILLING) => {
            framed.connect_tls(&target.tls, &target.host).await.map_err(broken)?;
            Ok(framed)
        }
        Some(UNWILLING) if target.tls.mode() == TlsMode::Prefer => Ok(framed),
        Some(UNWILLING) => Err(refusal(target, "server does not support TLS, but TLS was required")),
        // What comes in the clear here may be anybody's word: it is not repeated (CVE-2024-10977).
        Some(_) => Err(refusal(target, "server answered the request for TLS with something else")),
        None => Err(refusal(target, "server closed the connection when asked for TLS")),
    }
}

fn refusal(target: &ConnectTarget, reason: &str) -> BackendError {
    BackendError::Connect { node: target.node, reason: reason.to_owned() }
}

fn late_error(target: &ConnectTarget, late: crate::net::DeadlineError) -> BackendError {
    BackendError::Timeout { node: target.node, what: late.what, after_ms: late.after_ms, during: LostWhile::Idle }
}
