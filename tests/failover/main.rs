//! The failover machine: a simulator with its own judge, and real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/raw.rs"]
mod raw;

mod agent;
mod hosts;
mod machine;
mod nodes;
mod replay;
mod serve;
mod servers;
mod sessions;
mod several;
mod shards;
mod simulator;
mod up;
