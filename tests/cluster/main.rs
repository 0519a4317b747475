//! What issue 2 calls done, on real servers: pgbench, TPC-H, crashes, atomicity across shards.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/raw.rs"]
mod raw;

#[path = "../../benches/tpch/loader.rs"]
mod loader;

mod atomicity;
mod big_results;
mod columns;
mod crash;
mod ddl;
mod kill_points;
mod locks;
mod one_shard;
mod pgbench;
mod pools;
mod sessions;
mod settings;
mod tpch;
mod up;
mod wire;
