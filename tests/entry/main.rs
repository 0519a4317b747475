//! How clients come in: who they are and how they prove it.
//!
//! Real servers, the real binary, and libpq's own programs; what libpq would not send is written by hand.

mod auth;
mod auth_ground;
mod auth_servers;
#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/raw.rs"]
mod raw;
