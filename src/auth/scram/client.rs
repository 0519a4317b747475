//! The client's side: the proxy proves to a server that it knows a password, or its keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::message::Reader;
use super::{BINDING_HEADER, Nonce, SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use crate::auth::ScramKeys;
use crate::auth::hash::{Key, hmac};

/// Most iterations that a server may ask for: computing them is work that the other side chooses.
pub const ITERATIONS_MAX: u32 = 1_000_000;

/// What the connection to the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientBinding {
    /// Not encrypted.
    None,
    /// TLS, and the server offers no channel binding.
    NotOffered,
    /// TLS with a certificate of this tls-server-end-point hash.
    EndPoint(Vec<u8>),
}

/// What the server asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Salt of its verifier.
    pub salt: Vec<u8>,
    /// Iterations of its verifier.
    pub iterations: u32,
}

/// The proxy's login at one server.
pub struct ClientExchange {
    binding: ClientBinding,
    first_bare: String,
    nonce: String,
    server_first: String,
    server_nonce: String,
    /// What the server has to sign, and the key it has to do it with.
    expected: Option<Key>,
}

impl ClientExchange {
    /// A login with these random bytes.
    pub fn new(binding: ClientBinding, nonce: Nonce) -> Self {
        let nonce = STANDARD.encode(nonce);
        let first_bare = format!("n=,r={nonce}");
        let (server_first, server_nonce) = (String::new(), String::new());
        Self { binding, first_bare, nonce, server_first, server_nonce, expected: None }
    }

    /// The mechanism.
    pub fn mechanism(&self) -> &'static str {
        match self.binding {
            ClientBinding::EndPoint(_) => SCRAM_SHA_256_PLUS,
            _ => SCRAM_SHA_256,
        }
    }

    fn header(&self) -> &'static str {
        match self.binding {
            ClientBinding::None => "n,,",
            ClientBinding::NotOffered => "y,,",
            ClientBinding::EndPoint(_) => BINDING_HEADER,
        }
    }

    /// client-first-message.
    pub fn first(&self) -> Vec<u8> {
        format!("{}{}", self.header(), self.first_bare).into_bytes()
    }

    /// Takes server-first-message.
    ///
    /// # Errors
    /// It is not one, or not an answer to ours.
    pub fn receive(&mut self, message: &[u8]) -> Result<Challenge, &'static str> {
        const BROKEN: &str = "the server's first SCRAM message is malformed";
        let mut reader = Reader::new(message).map_err(|_| BROKEN)?;
        let first = reader.rest().to_owned();
        let nonce = reader.attribute('r').map_err(|_| BROKEN)?;
        let salt = reader.attribute('s').map_err(|_| BROKEN)?;
        let iterations = reader.attribute('i').map_err(|_| BROKEN)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the server's SCRAM nonce is not an answer to ours");
        }
        let salt = STANDARD.decode(salt).map_err(|_| BROKEN)?;
        let iterations: u32 = iterations.parse().ok().filter(|count| *count > 0).ok_or(BROKEN)?;
        if iterations > ITERATIONS_MAX {
            return Err("the server asks for too many SCRAM iterations");
        }
        nonce.clone_into(&mut self.server_nonce);
        self.server_first = first;
        Ok(Challenge { salt, iterations })
    }

    /// client-final-message, with keys that fit the challenge.
    pub fn answer(&mut self, keys: &ScramKeys) -> Vec<u8> {
        let mut binding = self.header().as_bytes().to_vec();
        if let ClientBinding::EndPoint(hash) = &self.binding {
            binding.extend_from_slice(hash);
        }
        let without_proof = format!("c={},r={}", STANDARD.encode(binding), self.server_nonce);
        let signed: [&[u8]; 5] =
            [self.first_bare.as_bytes(), b",", self.server_first.as_bytes(), b",", without_proof.as_bytes()];
        let mut proof = hmac(&keys.verifier().stored_key, &signed);
        for (proof, byte) in proof.iter_mut().zip(keys.client_key) {
            *proof ^= byte;
        }
        self.expected = Some(hmac(&keys.server_key, &signed));
        format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes()
    }

    /// Takes server-final-message: the server proves that it knows the password, too.
    ///
    /// # Errors
    /// It does not.
    pub fn finish(&self, message: &[u8]) -> Result<(), &'static str> {
        const BROKEN: &str = "the server's last SCRAM message is malformed";
        let mut reader = Reader::new(message).map_err(|_| BROKEN)?;
        if reader.peek() == Some('e') {
            return Err("the server ended the SCRAM exchange with an error");
        }
        let signature = STANDARD.decode(reader.attribute('v').map_err(|_| BROKEN)?).map_err(|_| BROKEN)?;
        match &self.expected {
            Some(expected) if bool::from(expected[..].ct_eq(&signature)) => Ok(()),
            _ => Err("the server does not prove that it knows the password: it may not be the right one"),
        }
    }
}

impl std::fmt::Debug for ClientExchange {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ClientExchange")
    }
}
