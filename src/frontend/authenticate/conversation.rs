//! The messages of a login: what is asked for, what is answered.

use bytes::Bytes;

use super::{Denied, wrong_password};
use crate::auth::scram::{ServerExchange, Step};
use crate::auth::{Md5Salt, ScramKeys};
use crate::base::Secret;
use crate::error::{ClientError, ErrorId};
use crate::net::{Framed, NetError};
use crate::wire::server_message::write_authentication_request;

/// AuthenticationCleartextPassword, MD5Password, SASL, SASLContinue, SASLFinal.
const CLEARTEXT: u32 = 3;
const MD5: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// Asks for the password itself.
pub(super) async fn ask_cleartext(client: &mut Framed, user: &str) -> Result<Secret, Denied> {
    write_authentication_request(client.output(), CLEARTEXT, &[]);
    read_password(client, user).await
}

/// Asks for the md5 answer to a salt.
pub(super) async fn ask_md5(client: &mut Framed, user: &str, salt: Md5Salt) -> Result<Secret, Denied> {
    write_authentication_request(client.output(), MD5, &salt);
    read_password(client, user).await
}

/// A whole SCRAM conversation. The keys that the client has proved to have, or none when it has not.
pub(super) async fn ask_scram(client: &mut Framed, mut exchange: ServerExchange) -> Result<Option<ScramKeys>, Denied> {
    let mut offer = Vec::new();
    for mechanism in exchange.mechanisms() {
        offer.extend_from_slice(mechanism.as_bytes());
        offer.push(0);
    }
    offer.push(0);
    write_authentication_request(client.output(), SASL, &offer);
    loop {
        let answer = read_answer(client).await?;
        let step = exchange.step(&answer);
        match step.map_err(|error| Denied::Refused { error, reason: "the SCRAM exchange broke off" })? {
            Step::Continue(message) => write_authentication_request(client.output(), SASL_CONTINUE, &message),
            Step::Done { message, keys } => {
                write_authentication_request(client.output(), SASL_FINAL, &message);
                return Ok(Some(keys));
            }
            Step::Wrong => return Ok(None),
        }
    }
}

async fn read_password(client: &mut Framed, user: &str) -> Result<Secret, Denied> {
    let answer = read_answer(client).await?;
    let Some((0, password)) = answer.split_last().filter(|(_, password)| !password.contains(&0)) else {
        let error = ClientError::new(ErrorId::ProtocolViolation, "invalid password packet size");
        return Err(Denied::Refused { error, reason: "a malformed password message" });
    };
    if password.is_empty() {
        let error = ClientError::new(ErrorId::InvalidPassword, "empty password returned by client");
        return Err(Denied::Refused { error, reason: "an empty password" });
    }
    match std::str::from_utf8(password) {
        Ok(password) => Ok(Secret::new(password)),
        Err(_) => Err(wrong_password(user, "the password is not UTF-8")),
    }
}

/// The client's next message, which has to be an answer.
async fn read_answer(client: &mut Framed) -> Result<Bytes, Denied> {
    client.flush().await?;
    let broken = |text: String| Denied::Refused {
        error: ClientError::new(ErrorId::ProtocolViolation, text),
        reason: "the client broke the protocol",
    };
    match client.read_frame().await {
        Ok(Some(frame)) if frame.tag == b'p' => Ok(frame.body()),
        Ok(Some(frame)) => Err(broken(format!("expected password response, got message type {}", frame.tag))),
        Ok(None) => Err(Denied::Gone),
        Err(NetError::Wire(_)) => Err(broken("invalid message format".to_owned())),
        Err(error) => Err(error.into()),
    }
}
