//! Waits that end: a timeout whose error names what was waited for.

use std::future::Future;
use std::time::Duration;

/// A wait that took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timed out after {after_ms} ms waiting for {what}")]
pub struct DeadlineError {
    /// What was waited for.
    pub what: &'static str,
    /// The limit.
    pub after_ms: u64,
}

/// Waits for a future for a limited time.
///
/// # Units
/// `limit_ms` in milliseconds; 0 polls the future once.
///
/// # Errors
/// The time is over; the future was dropped.
///
/// # Cancel safety
/// That of the future.
pub async fn deadline<T>(
    what: &'static str,
    limit_ms: u64,
    future: impl Future<Output = T>,
) -> Result<T, DeadlineError> {
    tokio::time::timeout(Duration::from_millis(limit_ms), future)
        .await
        .map_err(|_| DeadlineError { what, after_ms: limit_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_that_is_over_names_what_it_waited_for() {
        let error = deadline("the oracle", 1, std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(error.to_string(), "timed out after 1 ms waiting for the oracle");
    }

    #[tokio::test]
    async fn a_ready_future_needs_no_time() {
        assert_eq!(deadline("nothing", 0, std::future::ready(7)).await, Ok(7));
    }
}
