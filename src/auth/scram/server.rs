//! The server's side: a client proves that it knows a password.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::message::{Reader, is_printable, malformed};
use super::{BINDING_HEADER, Nonce, SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use crate::auth::hash::{Key, hmac};
use crate::auth::{ScramKeys, ScramVerifier};
use crate::error::{ClientError, ErrorId};

/// One client's login.
pub struct ServerExchange {
    verifier: ScramVerifier,
    /// Hash of the certificate of the TLS connection that the client is on.
    end_point: Option<Vec<u8>>,
    /// Nobody can succeed.
    is_mock: bool,
    nonce: String,
    state: State,
}

enum State {
    /// Mechanism and client-first-message are to come.
    Begin,
    /// The client sent no initial response: its first message comes alone.
    First {
        uses_binding: bool,
    },
    /// client-final-message is to come.
    Final(Conversation),
    Over,
}

struct Conversation {
    uses_binding: bool,
    /// `n` or `y`: what the client said of channel binding.
    flag: char,
    /// Nonces of both sides, one after the other.
    nonce: String,
    first_bare: String,
    server_first: String,
}

/// What follows a message of the client.
#[derive(Debug)]
pub enum Step {
    /// AuthenticationSASLContinue with this.
    Continue(Vec<u8>),
    /// The client knows the password: AuthenticationSASLFinal with this, then AuthenticationOk.
    Done {
        /// server-final-message.
        message: Vec<u8>,
        /// What the client has proved to have; good for servers with the same verifier.
        keys: ScramKeys,
    },
    /// The proof is wrong.
    Wrong,
}

impl ServerExchange {
    /// A login that the verifier decides. `end_point`: the tls-server-end-point hash of the certificate that
    /// the client was shown, when it is on TLS. `is_mock`: there is no such password, and the client shall not
    /// learn of it.
    pub fn new(verifier: ScramVerifier, is_mock: bool, end_point: Option<Vec<u8>>, nonce: Nonce) -> Self {
        Self { verifier, end_point, is_mock, nonce: STANDARD.encode(nonce), state: State::Begin }
    }

    /// What AuthenticationSASL offers, the best first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        if self.end_point.is_some() { &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256] } else { &[SCRAM_SHA_256] }
    }

    /// Takes the body of SASLInitialResponse or SASLResponse.
    ///
    /// # Errors
    /// The client broke the protocol; PostgreSQL's words. The login is over.
    pub fn step(&mut self, body: &[u8]) -> Result<Step, ClientError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Begin => self.begin(body),
            State::First { uses_binding } => self.first(body, uses_binding),
            State::Final(conversation) => self.last(body, &conversation),
            State::Over => Err(ClientError::new(ErrorId::ProtocolViolation, "unexpected SASL response")),
        }
    }

    fn begin(&mut self, body: &[u8]) -> Result<Step, ClientError> {
        let broken = || ClientError::new(ErrorId::ProtocolViolation, "invalid SASLInitialResponse message");
        let end = body.iter().position(|byte| *byte == 0).ok_or_else(broken)?;
        let (mechanism, rest) = body.split_at_checked(end).ok_or_else(broken)?;
        let mechanism = std::str::from_utf8(mechanism).unwrap_or_default();
        if !self.mechanisms().contains(&mechanism) {
            let text = "client selected an invalid SASL authentication mechanism";
            return Err(ClientError::new(ErrorId::ProtocolViolation, text));
        }
        let uses_binding = mechanism == SCRAM_SHA_256_PLUS;
        let (length, message) = rest.get(1..).and_then(|rest| rest.split_first_chunk::<4>()).ok_or_else(broken)?;
        let length = i32::from_be_bytes(*length);
        if length == -1 && message.is_empty() {
            self.state = State::First { uses_binding };
            return Ok(Step::Continue(Vec::new()));
        }
        if usize::try_from(length).ok() != Some(message.len()) {
            return Err(broken());
        }
        self.first(message, uses_binding)
    }

    fn first(&mut self, message: &[u8], uses_binding: bool) -> Result<Step, ClientError> {
        let mut reader = Reader::new(message)?;
        let flag = self.read_binding_flag(&mut reader, uses_binding)?;
        reader.expect(',')?;
        if reader.peek() == Some('a') {
            let text = "client uses authorization identity, but it is not supported";
            return Err(ClientError::new(ErrorId::FeatureNotSupported, text));
        }
        reader.expect(',')?;
        let first_bare = reader.rest().to_owned();
        if reader.peek() == Some('m') {
            let text = "client requires an unsupported SCRAM extension";
            return Err(ClientError::new(ErrorId::FeatureNotSupported, text));
        }
        // The name in the startup packet counts, as in PostgreSQL; libpq leaves this one empty.
        reader.attribute('n')?;
        let client_nonce = reader.attribute('r')?;
        if client_nonce.is_empty() || !is_printable(client_nonce) {
            return Err(ClientError::new(ErrorId::ProtocolViolation, "non-printable characters in SCRAM nonce"));
        }
        while !reader.rest().is_empty() {
            reader.any_attribute()?;
        }
        let nonce = format!("{client_nonce}{}", self.nonce);
        let salt = STANDARD.encode(&self.verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        let reply = server_first.clone().into_bytes();
        self.state = State::Final(Conversation { uses_binding, flag, nonce, first_bare, server_first });
        Ok(Step::Continue(reply))
    }

    fn read_binding_flag(&self, reader: &mut Reader<'_>, uses_binding: bool) -> Result<char, ClientError> {
        match reader.peek() {
            Some(flag @ ('n' | 'y')) => {
                if uses_binding {
                    return Err(malformed(
                        "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel \
                         binding data.",
                    ));
                }
                // Somebody between the two has hidden the offer from the client.
                if flag == 'y' && self.end_point.is_some() {
                    return Err(ClientError::new(
                        ErrorId::InvalidAuthorization,
                        "SCRAM channel binding negotiation error",
                    )
                    .with_detail(
                        "The client supports SCRAM channel binding but thinks the server does not.  However, this \
                         server does support channel binding.",
                    ));
                }
                reader.expect(flag)?;
                Ok(flag)
            }
            Some('p') => {
                if !uses_binding {
                    return Err(malformed(
                        "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes \
                         channel binding data.",
                    ));
                }
                let kind = reader.rest().split(',').next().unwrap_or_default();
                if kind != "p=tls-server-end-point" {
                    return Err(ClientError::new(ErrorId::ProtocolViolation, "unsupported SCRAM channel-binding type"));
                }
                reader.skip(kind);
                Ok('p')
            }
            _ => Err(malformed("Unexpected channel-binding flag.")),
        }
    }

    fn last(&mut self, message: &[u8], conversation: &Conversation) -> Result<Step, ClientError> {
        let mut reader = Reader::new(message)?;
        let binding = reader.attribute('c')?;
        self.check_binding(binding, conversation)?;
        let nonce = reader.attribute('r')?;
        let proof_at = loop {
            let at = message.len() - reader.rest().len();
            let (name, value) = reader.any_attribute()?;
            if name == 'p' {
                break (at, value);
            }
        };
        if !reader.rest().is_empty() {
            return Err(malformed("Garbage found at the end of client-final-message."));
        }
        let (at, proof) = proof_at;
        let proof: Key = STANDARD
            .decode(proof)
            .ok()
            .and_then(|proof| proof.try_into().ok())
            .ok_or_else(|| malformed("Malformed proof in client-final-message."))?;
        if nonce != conversation.nonce {
            return Err(ClientError::new(ErrorId::ProtocolViolation, "invalid SCRAM response")
                .with_detail("Nonce does not match."));
        }
        let without_proof = message.get(..at.saturating_sub(1)).unwrap_or_default();
        let signed: [&[u8]; 5] =
            [conversation.first_bare.as_bytes(), b",", conversation.server_first.as_bytes(), b",", without_proof];
        let signature = hmac(&self.verifier.stored_key, &signed);
        let mut client_key = proof;
        for (key, byte) in client_key.iter_mut().zip(signature) {
            *key ^= byte;
        }
        // Computed for mocks as well, so that they take as long.
        let keys = self.verifier.keys(client_key);
        let server_signature = STANDARD.encode(hmac(&self.verifier.server_key, &signed));
        match keys {
            Some(keys) if !self.is_mock => {
                Ok(Step::Done { message: format!("v={server_signature}").into_bytes(), keys })
            }
            _ => Ok(Step::Wrong),
        }
    }

    /// The client has seen the certificate that we showed, and nobody changed what it said first.
    fn check_binding(&self, sent: &str, conversation: &Conversation) -> Result<(), ClientError> {
        if conversation.uses_binding {
            let mut expected = BINDING_HEADER.as_bytes().to_vec();
            expected.extend_from_slice(self.end_point.as_deref().unwrap_or_default());
            if sent != STANDARD.encode(expected) {
                return Err(ClientError::new(ErrorId::InvalidAuthorization, "SCRAM channel binding check failed"));
            }
            return Ok(());
        }
        if sent != STANDARD.encode(format!("{},,", conversation.flag)) {
            let text = "unexpected SCRAM channel-binding attribute in client-final-message";
            return Err(ClientError::new(ErrorId::ProtocolViolation, text));
        }
        Ok(())
    }
}

impl std::fmt::Debug for ServerExchange {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ServerExchange")
    }
}

#[cfg(test)]
impl ServerExchange {
    /// Sets the nonce of a published example.
    pub(super) fn nonce_is(&mut self, nonce: &str) {
        nonce.clone_into(&mut self.nonce);
    }
}
