//! The start-up conversation with a server: trust, password, md5, SCRAM-SHA-256 with and without channel
//! binding. A certificate is shown in the TLS handshake, before all this.
//!
//! A password goes over the network only as a SCRAM proof or an md5 answer. In clear text it is sent over
//! TLS and within this machine, and nowhere else: a server that asks for it elsewhere may be anybody.
//!
//! # Source
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>,
//! <https://www.postgresql.org/docs/current/sasl-authentication.html>

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::auth::scram::{ClientBinding, ClientExchange, NONCE_BYTES, SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use crate::auth::{ScramKeys, ServerSecret};
use crate::base::Secret;
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
    Started(ClientExchange),
    Answered(ClientExchange),
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
            tag::ERROR_RESPONSE => {
                tracing::warn!(node = %target.node, user = %target.user, "a node does not let a role in");
                return Err(BackendError::Refused { node: target.node, error: frame });
            }
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
                write_password(framed, cleartext(framed, target)?.expose().as_bytes(), true);
                Scram::NotStarted
            }
            (Request::Md5(salt), Scram::NotStarted) => {
                let answer = target.secret.answer_md5(&target.user, salt).ok_or_else(|| nothing_known(target))?;
                write_password(framed, answer.expose().as_bytes(), true);
                Scram::NotStarted
            }
            (Request::Sasl(mechanisms), Scram::NotStarted) => begin_scram(framed, target, &mechanisms)?,
            (Request::SaslContinue(challenge), Scram::Started(mut client)) => {
                let challenge = client.receive(&challenge).map_err(|reason| refused(target, reason))?;
                let keys = find_keys(target, challenge.salt, challenge.iterations).await?;
                write_password(framed, &client.answer(&keys), false);
                Scram::Answered(client)
            }
            (Request::SaslFinal(proof), Scram::Answered(client)) => {
                client.finish(&proof).map_err(|reason| refused(target, reason))?;
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
    let offers = |wanted: &str| mechanisms.iter().any(|mechanism| mechanism == wanted);
    if target.secret.is_none() {
        return Err(nothing_known(target));
    }
    let end_point = framed.tls().map(|facts| facts.server_end_point.clone());
    let binding = match end_point {
        Some(Some(hash)) if offers(SCRAM_SHA_256_PLUS) => ClientBinding::EndPoint(hash),
        _ if !offers(SCRAM_SHA_256) => {
            return Err(refused(target, "the server offers no SASL mechanism that is supported"));
        }
        // Said so that a server that did offer it notices who has hidden the offer.
        Some(Some(_)) => ClientBinding::NotOffered,
        _ => ClientBinding::None,
    };
    let mut nonce = [0u8; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|_| refused(target, "the operating system gives no random numbers"))?;
    let client = ClientExchange::new(binding, nonce);
    let first = client.first();
    let mut body = BytesMut::with_capacity(first.len() + SCRAM_SHA_256_PLUS.len() + 5);
    body.put_slice(client.mechanism().as_bytes());
    body.put_u8(0);
    body.put_u32(first.len() as u32);
    body.put_slice(&first);
    write_password(framed, &body, false);
    Ok(Scram::Started(client))
}

/// Keys for a server's salt: known from the client's own login, or computed from the password.
async fn find_keys(target: &ConnectTarget, salt: Vec<u8>, iterations: u32) -> Result<ScramKeys, BackendError> {
    if let Some(keys) = target.secret.find_keys(&salt, iterations) {
        return Ok(keys);
    }
    if target.secret.known_password().is_none() {
        return Err(BackendError::OtherVerifier { node: target.node, user: target.user.clone() });
    }
    let secret: ServerSecret = target.secret.clone();
    // Milliseconds of arithmetic, more if the server asks for more iterations.
    let computed = tokio::task::spawn_blocking(move || secret.derive_keys(&salt, iterations)).await;
    computed.ok().flatten().ok_or_else(|| nothing_known(target))
}

/// The password, if it may be sent as it is.
fn cleartext(framed: &Framed, target: &ConnectTarget) -> Result<Secret, BackendError> {
    let stays_here = framed.peer().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    if framed.tls().is_none() && !stays_here {
        return Err(refused(target, "the server asks for the password in clear text, which is sent over TLS only"));
    }
    target.secret.known_password().cloned().ok_or_else(|| nothing_known(target))
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
fn write_password(framed: &mut Framed, body: &[u8], terminated: bool) {
    let output = framed.output();
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

fn nothing_known(target: &ConnectTarget) -> BackendError {
    refused(target, "the server asks for a password, and none is known that it accepts")
}

fn refused(target: &ConnectTarget, reason: &str) -> BackendError {
    BackendError::Authentication { node: target.node, reason: reason.to_owned() }
}

fn unexpected(target: &ConnectTarget, tag: u8) -> BackendError {
    protocol_error(target.node, LostWhile::Idle, &format!("message {:?} during start-up", char::from(tag)))
}
