//! Reads from replicas: fresh for those who wrote, spread over the replicas, and only what surely reads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/raw.rs"]
mod raw;

mod freshness;
mod ground;
mod routing;
mod transactions;
