//! Drives the failover machine over SQL: one driver a shard, in every proxy.
//!
//! Must not know: sessions, plans, how servers are started.

pub mod driver;
pub mod names;
pub mod node;
pub mod orders;

pub use driver::{Driver, DriverSettings, Handle, Hands};
