//! Several proxies on one etcd: changes are followed, nothing runs under an old epoch, members may fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/etcd.rs"]
mod etcd;
#[path = "../common/raw.rs"]
mod raw;

mod epochs;
mod failures;
mod ground;

use cluster::free_port;
