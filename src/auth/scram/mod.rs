//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS: the server's side for clients, the client's side for servers.
//!
//! # Source
//! RFC 5802, RFC 7677, and `src/backend/libpq/auth-scram.c`, whose order of checks and words are kept.

mod client;
mod message;
mod server;

pub use client::{Challenge, ClientBinding, ClientExchange, ITERATIONS_MAX};
pub use server::{ServerExchange, Step};

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

/// The mechanism that binds the login to the TLS connection it runs in.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The only kind of channel binding, as in PostgreSQL.
const BINDING_HEADER: &str = "p=tls-server-end-point,,";

/// Random bytes in a nonce.
pub const NONCE_BYTES: usize = 18;

/// Random bytes for a nonce, from whoever may have them.
pub type Nonce = [u8; NONCE_BYTES];

#[cfg(test)]
mod tests;
