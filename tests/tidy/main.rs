//! Tidiness as a test: floors, file sizes, words that must not appear.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod floors;
mod sizes;
