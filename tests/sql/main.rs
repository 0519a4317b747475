//! SQL text to tokens, fingerprints and trees, on the statements that clients really send.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod corpus;
mod differential;
mod oracle;
mod properties;
mod server;
mod trees;
