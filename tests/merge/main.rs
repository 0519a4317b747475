//! The merge judged by PostgreSQL itself: values, order, equality, sums and whole results.
//!
//! One server plays all shards: a column says which shard a row is on, each shard's part is a query
//! of its own, and the merged parts must be what the server says of the whole.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/postgres.rs"]
mod postgres;

mod numerics;
mod results;
mod support;
mod values;
