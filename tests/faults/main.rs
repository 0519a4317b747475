//! What goes wrong between clients, proxy and servers: crowds, kills, cut connections.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod saturation;
