//! Who may connect, and how that is proved: rules, verifiers, and both sides of SCRAM and md5.
//!
//! All of it is bytes in, bytes out; random numbers are handed in. The primitives (HMAC, SHA-256, MD5,
//! SASLprep) come from the crates that postgres-protocol already brings along. Its own SCRAM client
//! cannot authenticate with a client key, and pgwire's server does not give the key back that a client
//! proves to have: both are what passing a client through to its servers needs.
//!
//! Must not know: sockets, files, where verifiers and rules come from.

mod hash;
pub mod rules;
pub mod scram;
mod server_secret;
pub mod verifier;

pub use hash::{Md5Salt, answer_md5, hash_md5, mock_salt};
pub use rules::{AddressRule, CertificateCheck, ConnectionKind, IdentMap, Method, Names, Peer, Rule, Rules};
pub use server_secret::ServerSecret;
pub use verifier::{ScramKeys, ScramVerifier, Verifier};
