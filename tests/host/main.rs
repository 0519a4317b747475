//! Servers as processes of this machine, with a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ground;
mod serve;
mod servers;
mod support;
mod up;
