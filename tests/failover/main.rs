//! The failover machine: a simulator with its own judge, and real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod servers;
mod simulator;
mod up;
