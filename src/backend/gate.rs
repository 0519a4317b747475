//! How fast connections to one node are opened: so many at a time, so many a second.
//!
//! A login costs the server a process and both sides the rounds of SCRAM. A crowd that comes at once
//! must not spend all of the server on logins, whatever number of pools it comes from.
//!
//! Must not know: who opens connections, and why.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// The gate of one node.
#[derive(Debug)]
pub struct Gate {
    at_a_time: Semaphore,
    rate: Mutex<Rate>,
}

/// Counts by time instead of tokens: each entry moves the horizon on by its share of a second.
#[derive(Debug)]
struct Rate {
    share: Duration,
    horizon: Option<Instant>,
}

/// One second's worth may be opened at once.
const BURST: Duration = Duration::from_secs(1);

impl Rate {
    /// How long the next entry waits.
    fn take(&mut self, now: Instant) -> Duration {
        let horizon = self.horizon.map_or(now, |horizon| horizon.max(now)) + self.share;
        self.horizon = Some(horizon);
        horizon.duration_since(now).saturating_sub(BURST)
    }
}

impl Gate {
    /// A gate that lets `at_a_time` through together, and `per_s` in a second. Both at least 1.
    pub fn new(at_a_time: usize, per_s: usize) -> Self {
        let per_s = u32::try_from(per_s.max(1)).unwrap_or(u32::MAX);
        Self {
            at_a_time: Semaphore::new(at_a_time.clamp(1, Semaphore::MAX_PERMITS)),
            rate: Mutex::new(Rate { share: Duration::from_secs(1) / per_s, horizon: None }),
        }
    }

    /// Waits for its turn; first come, first served.
    ///
    /// Who finds that it need not connect after all has used up no share: [`Pass::spend`] takes it.
    ///
    /// # Cancel safety
    /// Safe: the turn goes to the next one.
    pub async fn enter(&self) -> Pass<'_> {
        // A gate is never closed, so there is always a permit.
        Pass { _permit: self.at_a_time.acquire().await.ok(), gate: self }
    }
}

/// A turn at the gate; over when dropped.
pub struct Pass<'gate> {
    _permit: Option<SemaphorePermit<'gate>>,
    gate: &'gate Gate,
}

impl Pass<'_> {
    /// Takes a share of the second, and waits until it has come.
    ///
    /// # Cancel safety
    /// Safe; the share is lost.
    pub async fn spend(&self) {
        let wait = self.gate.rate.lock().take(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_its_number_of_entries_after_the_first_burst() {
        let mut rate = Rate { share: Duration::from_millis(100), horizon: None };
        let mut now = Instant::now();
        let start = now;
        for _ in 0..30 {
            now += rate.take(now);
        }
        assert_eq!((now - start).as_millis(), 2_000, "ten at once, then one every tenth of a second");
        now += Duration::from_secs(60);
        for _ in 0..10 {
            assert!(rate.take(now).is_zero(), "a quiet minute gives one burst");
        }
        assert_eq!(rate.take(now).as_millis(), 100, "and not sixty");
    }

    #[tokio::test]
    async fn so_many_are_inside_at_a_time_and_the_next_waits() {
        let gate = Gate::new(2, 1_000);
        let (first, _second) = (gate.enter().await, gate.enter().await);
        let third = tokio::time::timeout(Duration::from_millis(5), gate.enter()).await;
        assert!(third.is_err());
        drop(first);
        gate.enter().await;
    }
}
