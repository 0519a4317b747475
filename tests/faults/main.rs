//! What clients see when nothing goes wrong, message by message; and when everything does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/frames.rs"]
mod frames;
#[path = "../common/raw.rs"]
mod raw;
#[path = "../common/wire_proxy.rs"]
mod wire_proxy;

mod catalogue;
mod conformance;
mod conversation;
mod normal;
mod world;
