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

/// What steps cost: so much each, and so much a row. The newest count most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Fit {
    weight: f64,
    rows: f64,
    took: f64,
    rows_rows: f64,
    rows_took: f64,
}

/// How much an observation counts when the next one is there.
const FADE: f64 = 0.85;

impl Fit {
    /// # Units
    /// Milliseconds.
    fn add(&mut self, rows: f64, took: f64) {
        for (sum, next) in [
            (&mut self.weight, 1.0),
            (&mut self.rows, rows),
            (&mut self.took, took),
            (&mut self.rows_rows, rows * rows),
            (&mut self.rows_took, rows * took),
        ] {
            *sum = *sum * FADE + next;
        }
    }

    /// The cost of a step and that of a row; `None`: steps were too much alike to tell.
    fn line(&self) -> Option<(f64, f64)> {
        let spread = self.weight * self.rows_rows - self.rows * self.rows;
        if spread < 0.01 * self.rows * self.rows {
            return None;
        }
        let slope = (self.weight * self.rows_took - self.rows * self.took) / spread;
        let fixed = (self.took - slope * self.rows) / self.weight;
        (slope > 0.0).then_some((fixed.max(0.0), slope))
    }
}

/// Chooses the size of steps by how long the last ones took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Rows that the next step should have.
    pub rows: u64,
    /// What was measured.
    pub pauses: Pauses,
    failures: u32,
    fit: Fit,
}

impl Pace {
    /// Begins small.
    pub fn new(settings: &Settings) -> Self {
        Self { rows: settings.rows_first.max(1), pauses: Pauses::default(), failures: 0, fit: Fit::default() }
    }

    /// A step with so many rows counted, writes were held so long and reads so long; tells how long nothing waits before
    /// the next.
    pub fn note_done(&mut self, settings: &Settings, rows: u64, hold: Duration, pause: Duration) -> Duration {
        self.failures = 0;
        self.pauses.count += 1;
        self.note_hold(hold);
        self.note_pause(pause);
        let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
        let (took, aim, most) = (ms(hold), ms(settings.hold_aim).max(0.001), ms(settings.hold_max) * 0.75);
        self.fit.add(rows as f64, took);
        let full = rows.saturating_mul(2) >= self.rows;
        let least = settings.rows_first.min(self.rows);
        let wanted = match self.fit.line().filter(|(fixed, _)| *fixed < most) {
            // What every step costs does not shrink with its rows: where that is much, steps last longer.
            Some((fixed, a_row)) => ((aim.max((fixed * 2.0).min(most)) - fixed) / a_row) as u64,
            None if took * 2.0 < aim => self.rows.saturating_mul(2),
            None if took < most || self.rows < settings.rows_first => self.rows.saturating_add(self.rows / 4 + 1),
            None => (self.rows as f64 * most / took) as u64,
        };
        // Steps that were short because no more was left tell nothing of longer ones.
        let grown = if full { self.rows.saturating_mul(2) } else { self.rows };
        self.rows = wanted.clamp((self.rows / 2).max(least), grown.max(least)).clamp(1, settings.rows_max.max(1));
        pause * settings.rest_times
    }

    /// A step did not count, `hold`: because it took that long; tells how long it is waited before the next.
    pub fn note_failed(&mut self, settings: &Settings, hold: Option<Duration>) -> Duration {
        if let Some(hold) = hold {
            self.note_hold(hold);
            self.shrink();
        }
        let wait = settings.retry_min * 2u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        wait.min(settings.retry_max)
    }

    /// Its rows were too many.
    pub fn shrink(&mut self) {
        self.rows = (self.rows / 3).max(1);
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
        for _ in 0..40 {
            pace.note_done(&settings, pace.rows, Duration::from_millis(200), Duration::ZERO);
        }
        assert!(pace.rows >= settings.rows_first);
    }

    #[test]
    fn where_a_step_itself_costs_much_steps_last_longer() {
        let settings = Settings::default();
        let mut pace = Pace::new(&settings);
        for _ in 0..50 {
            // 140 ms each, and ten rows a millisecond.
            let hold = Duration::from_micros(140_000 + pace.rows * 100);
            pace.note_done(&settings, pace.rows, hold, Duration::ZERO);
        }
        assert!((800..=900).contains(&pace.rows), "{}", pace.rows);
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
