//! How many rows a step takes, and how long statements run between two.

use std::time::Duration;

use super::Settings;

/// How long steps held statements up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    /// Steps that counted.
    pub count: u64,
    /// The longest time that reads of moving buckets, and of all, waited; steps that were undone included.
    pub longest: Duration,
    /// All of them together.
    pub total: Duration,
    /// The longest time that writes to moving buckets waited, steps that were undone included.
    pub hold_longest: Duration,
    /// All of them together.
    pub hold_total: Duration,
}

/// Chooses the size of steps by how long the last ones took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Rows that the next step should have.
    pub rows: u64,
    /// What was measured.
    pub pauses: Pauses,
    failures: u32,
}

impl Pace {
    /// Begins small.
    pub fn new(settings: &Settings) -> Self {
        Self { rows: settings.rows_first.max(1), pauses: Pauses::default(), failures: 0 }
    }

    /// A step with so many rows counted, writes were held so long and reads so long; tells how long nothing waits before
    /// the next.
    pub fn note_done(&mut self, settings: &Settings, rows: u64, hold: Duration, pause: Duration) -> Duration {
        self.failures = 0;
        self.pauses.count += 1;
        self.note_hold(hold);
        self.note_pause(pause);
        let (took, aim) = (hold.as_micros().max(1), settings.hold_aim.as_micros().max(1));
        let full = rows.saturating_mul(2) >= self.rows;
        let is_small = self.rows < settings.rows_first && took * 5 < settings.hold_max.as_micros() * 4;
        if took > aim && !is_small {
            // What every step costs does not shrink with its rows.
            let fewer = u64::try_from(u128::from(self.rows) * aim / took).unwrap_or(self.rows);
            self.rows = fewer.max(settings.rows_first.min(self.rows));
        } else if full && (is_small || took * 2 < aim) {
            self.rows = self.rows.saturating_mul(2);
        } else if full && took * 5 < aim * 4 {
            self.rows = self.rows.saturating_add(self.rows / 4);
        }
        self.rows = self.rows.clamp(1, settings.rows_max.max(1));
        pause * settings.rest_times
    }

    /// A step did not count, `hold`: because it took that long; tells how long it is waited before the next.
    pub fn note_failed(&mut self, settings: &Settings, hold: Option<Duration>) -> Duration {
        if let Some(hold) = hold {
            self.note_hold(hold);
            self.rows = (self.rows / 3).max(1);
        }
        let wait = settings.retry_min * 2u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        wait.min(settings.retry_max)
    }

    /// Reads waited.
    pub fn note_pause(&mut self, pause: Duration) {
        self.pauses.longest = self.pauses.longest.max(pause);
        self.pauses.total += pause;
    }

    fn note_hold(&mut self, hold: Duration) {
        self.pauses.hold_longest = self.pauses.hold_longest.max(hold);
        self.pauses.hold_total += hold;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_grow_until_they_take_the_time_that_is_aimed_at() {
        let settings = Settings::default();
        let mut pace = Pace::new(&settings);
        for _ in 0..50 {
            // A hundred rows a millisecond.
            let hold = Duration::from_micros(pace.rows * 10);
            let rest = pace.note_done(&settings, pace.rows, hold, Duration::from_millis(5));
            assert_eq!(rest, Duration::from_millis(5));
        }
        assert!((11_000..=15_800).contains(&pace.rows), "{}", pace.rows);
        assert!(pace.pauses.hold_longest <= Duration::from_millis(190), "{:?}", pace.pauses);
    }

    #[test]
    fn steps_that_are_slow_by_themselves_do_not_shrink_to_nothing() {
        let settings = Settings::default();
        let mut pace = Pace::new(&settings);
        for _ in 0..50 {
            pace.note_done(&settings, pace.rows, Duration::from_millis(230), Duration::ZERO);
        }
        assert_eq!(pace.rows, settings.rows_first);
    }

    #[test]
    fn what_became_small_by_failures_grows_again() {
        let settings = Settings::default();
        let mut pace = Pace::new(&settings);
        for _ in 0..5 {
            pace.note_failed(&settings, Some(settings.hold_max));
        }
        assert!(pace.rows < 5);
        for _ in 0..10 {
            pace.note_done(&settings, pace.rows, Duration::from_millis(230), Duration::ZERO);
        }
        assert_eq!(pace.rows, settings.rows_first);
    }

    #[test]
    fn what_failed_is_tried_again_smaller_and_later() {
        let settings = Settings::default();
        let mut pace = Pace::new(&settings);
        let waits: Vec<u128> =
            (0..8).map(|_| pace.note_failed(&settings, Some(settings.hold_max)).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        assert_eq!(pace.rows, 1);
    }
}
