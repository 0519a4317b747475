//! Connections, pools, two-phase commit and control against real servers (ports 15840 to 15844 and 15900 to 15949).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/postgres.rs"]
mod postgres;

mod authentication;
mod connection;
mod pool;
mod pools;
mod schema;
mod sequences;
mod support;
mod two_phase;
