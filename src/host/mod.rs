//! PostgreSQL servers as processes of this machine: make, start, stop, adopt, find.
//!
//! Servers are started through `pg_ctl`, which puts them into a session of their own, so that they
//! outlive this process; whoever comes next finds them by their data directories. Must not know:
//! the topology, the store, who routes to whom. Synchronous replication is set elsewhere.

pub mod account;
pub mod binaries;
pub mod command;
pub mod error;
pub mod machine;
pub mod make;
pub mod port;
pub mod process;
pub mod replication;
mod rewind;
pub mod settings;
pub mod site;

pub use account::Account;
pub use binaries::Binaries;
pub use error::HostError;
pub use machine::{Machine, ServerSpec, Step, Was};
pub use process::ServerState;
pub use site::{Configured, Made, Site, Source, Witness};
