//! The start-up conversation with a server: trust, password, md5, SCRAM-SHA-256.
//!
//! # Source
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>,
//! <https://www.postgresql.org/docs/current/sasl-authentication.html>

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};

use crate::net::Framed;
use crate::wire::frame::Frame;
use crate::wire::server_message::tag;
use crate::wire::startup::encode_startup;

use super::connection::{ConnectTarget, net_error, protocol_error};
use super::{BackendError, CancelKey, LostWhile};

/// What the server says of itself before it is ready.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) key: CancelKey,
    pub(super) parameters: BTreeMap<String, String>,
}

/// What AuthenticationXxx asks for.
enum Request {
    Ok,
    Cleartext,
    Md5([u8; 4]),
    Sasl(Vec<String>),
    SaslContinue(Bytes),
    SaslFinal(Bytes),
    Other(u32),
}

/// How far a SASL conversation is.
enum Scram {
    NotStarted,
    Started(ScramSha256),
    Answered(ScramSha256),
    Verified,
}

/// Says who the proxy is and waits until the server is ready.
///
/// # Errors
/// Refused, not authenticated, lost.
///
/// # Cancel safety
/// Not safe: a half-done conversation cannot be resumed; drop the stream too.
pub(super) async fn start_up(framed: &mut Framed, target: &ConnectTarget) -> Result<Greeting, BackendError> {
    let mut parameters = vec![("user", target.user.as_str()), ("database", target.database.as_str())];
    let is_given = |name: &str| target.parameters.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    // A session that says nothing of its own must find what PostgreSQL would give it.
    if !is_given("client_encoding") {
        parameters.push(("client_encoding", "UTF8"));
    }
    parameters.extend(target.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    encode_startup(framed.output(), &parameters);
    flush(framed, target).await?;
    authenticate(framed, target).await?;
    await_ready(framed, target).await
}

async fn authenticate(framed: &mut Framed, target: &ConnectTarget) -> Result<(), BackendError> {
    let mut scram = Scram::NotStarted;
    loop {
        let frame = next(framed, target).await?;
        match frame.tag {
            tag::AUTHENTICATION => {}
            tag::ERROR_RESPONSE => return Err(BackendError::Refused { node: target.node, error: frame }),
            tag::NOTICE_RESPONSE | tag::NEGOTIATE_PROTOCOL_VERSION => continue,
            other => return Err(unexpected(target, other)),
        }
        let Some(request) = read_request(&frame) else {
            return Err(protocol_error(target.node, LostWhile::Idle, "malformed authentication request"));
        };
        scram = match (request, scram) {
            // A server that began SCRAM has to prove that it knows the password before it is believed.
            (Request::Ok, Scram::NotStarted | Scram::Verified) => return Ok(()),
            (Request::Cleartext, Scram::NotStarted) => {
                let password = password(target)?;
                write_password(framed.output(), password.as_bytes(), true);
                Scram::NotStarted
            }
            (Request::Md5(salt), Scram::NotStarted) => {
                let hash = md5_hash(target.user.as_bytes(), password(target)?.as_bytes(), salt);
                write_password(framed.output(), hash.as_bytes(), true);
                Scram::NotStarted
            }
            (Request::Sasl(mechanisms), Scram::NotStarted) => begin_scram(framed, target, &mechanisms)?,
            (Request::SaslContinue(challenge), Scram::Started(mut client)) => {
                client.update(&challenge).map_err(|error| refused(target, &error.to_string()))?;
                write_password(framed.output(), client.message(), false);
                Scram::Answered(client)
            }
            (Request::SaslFinal(proof), Scram::Answered(mut client)) => {
                client.finish(&proof).map_err(|error| refused(target, &error.to_string()))?;
                Scram::Verified
            }
            (Request::Other(method), _) => {
                return Err(refused(target, &format!("method {method} is not supported")));
            }
            _ => return Err(protocol_error(target.node, LostWhile::Idle, "authentication request out of order")),
        };
        flush(framed, target).await?;
    }
}

fn begin_scram(framed: &mut Framed, target: &ConnectTarget, mechanisms: &[String]) -> Result<Scram, BackendError> {
    if !mechanisms.iter().any(|mechanism| mechanism == SCRAM_SHA_256) {
        return Err(refused(target, "the server offers no SASL mechanism that is supported"));
    }
    let client = ScramSha256::new(password(target)?.as_bytes(), ChannelBinding::unsupported());
    let first = client.message();
    let mut body = BytesMut::with_capacity(first.len() + SCRAM_SHA_256.len() + 5);
    body.put_slice(SCRAM_SHA_256.as_bytes());
    body.put_u8(0);
    body.put_u32(first.len() as u32);
    body.put_slice(first);
    write_password(framed.output(), &body, false);
    Ok(Scram::Started(client))
}

async fn await_ready(framed: &mut Framed, target: &ConnectTarget) -> Result<Greeting, BackendError> {
    let mut parameters = BTreeMap::new();
    let mut key = CancelKey { pid: 0, secret: Bytes::new() };
    loop {
        let frame = next(framed, target).await?;
        match frame.tag {
            tag::BACKEND_KEY_DATA => {
                let mut body = frame.body();
                let pid = body.try_get_u32().unwrap_or(0);
                key = CancelKey { pid, secret: body };
            }
            tag::PARAMETER_STATUS => {
                if let Some((name, value)) = read_parameter_status(&frame) {
                    parameters.insert(name, value);
                }
            }
            tag::READY_FOR_QUERY => return Ok(Greeting { key, parameters }),
            tag::ERROR_RESPONSE => return Err(BackendError::Refused { node: target.node, error: frame }),
            tag::NOTICE_RESPONSE => {}
            other => return Err(unexpected(target, other)),
        }
    }
}

/// Name and value of a ParameterStatus; `None` when it is malformed.
pub(super) fn read_parameter_status(frame: &Frame) -> Option<(String, String)> {
    let body = frame.body();
    let mut parts = body.split(|byte| *byte == 0);
    let name = std::str::from_utf8(parts.next()?).ok()?;
    let value = std::str::from_utf8(parts.next()?).ok()?;
    Some((name.to_owned(), value.to_owned()))
}

fn read_request(frame: &Frame) -> Option<Request> {
    let body = frame.body();
    let method = u32::from_be_bytes(body.get(..4)?.try_into().ok()?);
    let rest = body.slice(4..);
    Some(match method {
        0 => Request::Ok,
        3 => Request::Cleartext,
        5 => Request::Md5(rest.get(..4)?.try_into().ok()?),
        10 => Request::Sasl(
            rest.split(|byte| *byte == 0)
                .filter(|name| !name.is_empty())
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect(),
        ),
        11 => Request::SaslContinue(rest),
        12 => Request::SaslFinal(rest),
        other => Request::Other(other),
    })
}

/// PasswordMessage, SASLInitialResponse and SASLResponse share a tag.
fn write_password(output: &mut BytesMut, body: &[u8], terminated: bool) {
    output.put_u8(b'p');
    output.put_u32((4 + body.len() + usize::from(terminated)) as u32);
    output.put_slice(body);
    if terminated {
        output.put_u8(0);
    }
}

async fn next(framed: &mut Framed, target: &ConnectTarget) -> Result<Frame, BackendError> {
    match framed.read_frame().await {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(BackendError::Connect {
            node: target.node,
            reason: "server closed the connection during start-up".to_owned(),
        }),
        Err(error) => Err(net_error(target.node, LostWhile::Idle, &error)),
    }
}

async fn flush(framed: &mut Framed, target: &ConnectTarget) -> Result<(), BackendError> {
    framed.flush().await.map_err(|error| net_error(target.node, LostWhile::Idle, &error))
}

fn password(target: &ConnectTarget) -> Result<&str, BackendError> {
    target.password.as_deref().ok_or_else(|| refused(target, "the server asks for a password and none is configured"))
}

fn refused(target: &ConnectTarget, reason: &str) -> BackendError {
    BackendError::Authentication { node: target.node, reason: reason.to_owned() }
}

fn unexpected(target: &ConnectTarget, tag: u8) -> BackendError {
    protocol_error(target.node, LostWhile::Idle, &format!("message {:?} during start-up", char::from(tag)))
}
