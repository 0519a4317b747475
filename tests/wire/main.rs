//! The wire room from outside: round trips, independence of chunks, a second opinion on COPY, mutated bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod check;
mod copy;
mod mutation;
mod reference;
mod round_trip;
