//! Ostrakon: one binary between applications and PostgreSQL.
//!
//! # Floor plan
//!
//! A room imports only from strictly lower floors: never sideways, never up. `tests/tidy/floors.rs`
//! holds the same table and fails the build when an import breaks it.
//!
//! | floor | rooms |
//! |---|---|
//! | 0 | `base` `error` |
//! | 1 | `wire` `sql` `topology` `auth` |
//! | 2 | `plan` `session` `failover` |
//! | 3 | `planner` `merge` `cache` |
//! | 4 | `telemetry` |
//! | 5 | `net` `store` `host` |
//! | 6 | `backend` |
//! | 7 | `executor` `control` |
//! | 8 | `admin` |
//! | 9 | `frontend` `http` |
//! | 10 | `config` |
//! | 11 | `server` |
//! | 12 | `cli` |
//!
//! Floors 0 to 3 are below the waterline: no tokio, no sockets, no files, no wall clock, no randomness.

#[cfg(all(feature = "unproved-routing", not(debug_assertions)))]
compile_error!("unproved-routing gives wrong answers: it is for one test of a debug build only");

pub mod base;

pub mod error;

pub mod auth;
pub mod sql;
pub mod topology;
pub mod wire;

pub mod failover;
pub mod plan;
pub mod session;

pub mod cache;
pub mod merge;
pub mod planner;

pub mod telemetry;

pub mod host;
pub mod net;
pub mod store;

pub mod backend;

pub mod control;
pub mod executor;

pub mod admin;

pub mod frontend;
pub mod http;

pub mod config;

pub mod server;

pub mod cli;
