//! Connections to PostgreSQL servers: connect, authenticate, cancel, pool.
//!
//! Must not know: SQL beyond the statements it sends itself, plans, sessions.

pub mod authenticate;
pub mod cancel;
pub mod connection;
pub mod decision;
mod defaults;
pub mod error;
pub mod gate;
mod open;
pub mod pause;
pub mod pool;
pub mod pools;
pub mod replicas;
pub mod schema;
mod servers_tls;
pub mod step_gate;

pub use cancel::{CancelHandle, CancelKey, cancel};
pub use connection::{ConnectTarget, Connection, SimpleResult};
pub use error::{BackendError, LostWhile};
pub use pools::{CheckoutError, Lease, PoolRef, PoolSettings, PoolStats, Pools};
pub use servers_tls::{ServersTls, ServersTlsSettings};
pub use step_gate::{Abandoned, Stay, StepGate};

pub use crate::session::{Ensured, PreparedSet};
