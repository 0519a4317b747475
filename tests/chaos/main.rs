//! A production-like set in containers or network namespaces, faults of every kind, and a checker that judges what
//! clients were told against what is there in the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(missing_docs)]

#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/raw.rs"]
mod raw;

mod checker;
mod clock;
mod ground;
mod load;
mod scenarios;
mod set;
mod state;
