//! How clients come in: TLS, the first packets, who they are and how they prove it, and those who mean harm.
//!
//! Real servers, the real binary, and libpq's own programs; what libpq would not send is written by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod admin;
mod auth;
mod auth_ground;
mod auth_servers;
mod auth_tls;
#[path = "../common/cluster.rs"]
mod cluster;
mod ground;
mod malice;
mod papers;
#[path = "../common/postgres.rs"]
mod postgres;
#[path = "../common/raw.rs"]
mod raw;
mod startup;
mod tls;
mod wire;
