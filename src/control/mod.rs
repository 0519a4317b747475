//! Work beside the queries: schema reading, id blocks, in-doubt recovery, probes, who leads.
//!
//! Must not know: sessions, plans, how statements are run.

pub mod agent;
pub mod client;
pub mod drift;
pub mod leader;
pub mod probe;
pub mod recovery;
pub mod reshard;
pub mod roles;
pub mod sampling;
pub mod sequences;
mod tls;
