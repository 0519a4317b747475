//! PAUSE and RESUME: while the pools are paused no session begins anything new on a server.
//!
//! A session that holds a connection goes on with its transaction, on further shards, too: otherwise a transaction over
//! two shards and a pause would wait for each other.
//!
//! Must not know: who paused, and why.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// Whether new work waits.
#[derive(Debug)]
pub struct Pause {
    /// Looked at by every transaction; the channel is for those who have to wait.
    is_paused: AtomicBool,
    told: watch::Sender<bool>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts the pauses: one that ends by itself must not end the next one.
    number: u64,
    until: Option<Instant>,
}

impl Default for Pause {
    fn default() -> Self {
        Self { is_paused: AtomicBool::new(false), told: watch::Sender::new(false), state: Mutex::default() }
    }
}

impl Pause {
    /// Pauses for at most so long; a pause under way is prolonged or shortened. Gives its number.
    pub fn begin(&self, limit: Duration) -> u64 {
        let mut state = self.state.lock();
        state.number += 1;
        state.until = Some(Instant::now() + limit);
        self.is_paused.store(true, Ordering::Release);
        self.told.send_replace(true);
        state.number
    }

    /// Ends a pause; `false`: there is none, or, with a number, another one.
    pub fn end(&self, number: Option<u64>) -> bool {
        let mut state = self.state.lock();
        let is_meant = state.until.is_some() && number.is_none_or(|number| number == state.number);
        if is_meant {
            state.until = None;
            self.is_paused.store(false, Ordering::Release);
            self.told.send_replace(false);
        }
        is_meant
    }

    /// How long the pause lasts at most from now on; `None` without one.
    pub fn left(&self) -> Option<Duration> {
        self.state.lock().until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// There is a pause now.
    pub fn is_on(&self) -> bool {
        self.is_paused.load(Ordering::Acquire)
    }

    /// Waits until there is no pause.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn over(&self) {
        if self.is_on() {
            // The sender lives as long as this does.
            let mut told = self.told.subscribe();
            let _sender_is_there = told.wait_for(|is_paused| !is_paused).await;
        }
    }

    /// Waits for the time at which this pause ends by itself, and ends it; `false` when it has ended before.
    ///
    /// # Cancel safety
    /// Safe; the pause then does not end by itself.
    pub async fn end_in_time(&self, number: u64) -> bool {
        loop {
            let until = {
                let state = self.state.lock();
                if state.number != number {
                    return false;
                }
                state.until
            };
            match until {
                None => return false,
                Some(until) if until <= Instant::now() => return self.end(Some(number)),
                Some(until) => tokio::time::sleep_until(until).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn who_comes_during_a_pause_waits_for_its_end() {
        let pause = Arc::new(Pause::default());
        pause.over().await;
        pause.begin(Duration::from_secs(60));
        let waiting = tokio::spawn({
            let pause = Arc::clone(&pause);
            async move { pause.over().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert!(pause.end(None));
        waiting.await.unwrap();
        assert!(!pause.end(None));
    }

    #[tokio::test]
    async fn a_pause_that_is_forgotten_ends_by_itself_and_ends_no_other() {
        let pause = Pause::default();
        let first = pause.begin(Duration::from_secs(5));
        let second = pause.begin(Duration::from_millis(20));
        assert!(!pause.end_in_time(first).await);
        assert!(pause.end_in_time(second).await);
        assert_eq!(pause.left(), None);
        pause.over().await;
    }
}
