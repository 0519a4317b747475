//! The reshard machine: a simulator with its own judge, and real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/cluster.rs"]
#[allow(dead_code)]
mod cluster;
#[path = "../common/raw.rs"]
#[allow(dead_code)]
mod raw;
mod servers;
mod simulator;
