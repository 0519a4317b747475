//! Words that every room shares: ids, exact numbers, calendar arithmetic, invariants.
//!
//! Must not know: the wire, SQL, the topology, or anything that does I/O.

pub mod datetime;
pub mod ids;
pub mod numeric;
pub mod secret;

pub use ids::{BucketId, Epoch, NodeId, ShardId, Term};
pub use secret::Secret;

/// Checks a numbered invariant of `docs/INVARIANTS.md`.
///
/// In tests and debug builds a violation panics. In release it is logged and the expression yields
/// `false`, so that the caller ends the smallest unit that could be wrong.
#[macro_export]
macro_rules! invariant {
    ($holds:expr, $name:literal) => {{
        let holds: bool = $holds;
        if !holds {
            if cfg!(debug_assertions) {
                #[allow(clippy::panic)]
                {
                    panic!("invariant broken: {}", $name);
                }
            }
            tracing::error!(invariant = $name, "invariant broken");
        }
        holds
    }};
}
