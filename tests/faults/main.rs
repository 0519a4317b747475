//! What clients see when nothing goes wrong, message by message; and what goes wrong between clients,
//! proxy and servers: crowds, kills, cut connections.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/frames.rs"]
mod frames;
#[path = "../common/raw.rs"]
mod raw;
#[path = "../common/wire_proxy.rs"]
mod wire_proxy;

mod aftermath;
mod catalogue;
mod conformance;
mod controls;
mod conversation;
mod functions;
mod kills;
mod normal;
mod random;
mod saturation;
mod storms;
mod world;
