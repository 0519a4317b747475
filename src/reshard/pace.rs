//! How many rows a step takes, and how long statements run between two.

use std::time::Duration;

use super::Settings;

/// How long steps stopped statements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    /// Steps that counted.
    pub count: u64,
    /// The longest time that statements were stopped, steps that were undone included.
    pub longest: Duration,
    /// All of them together.
    pub total: Duration,
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

    /// A step with so many rows counted; tells how long statements run before the next.
    pub fn note_done(&mut self, settings: &Settings, rows: u64, pause: Duration) -> Duration {
        self.failures = 0;
        self.pauses.count += 1;
        self.note_pause(pause);
        let (took, aim) = (pause.as_micros().max(1), settings.pause_aim.as_micros().max(1));
        let full = rows.saturating_mul(2) >= self.rows;
        if took > aim {
            // What every step costs does not shrink with its rows.
            let fewer = u64::try_from(u128::from(self.rows) * aim / took).unwrap_or(self.rows);
            self.rows = fewer.max(settings.rows_first.min(self.rows));
        } else if full && took * 2 < aim {
            self.rows = self.rows.saturating_mul(2);
        } else if full && took * 5 < aim * 4 {
            self.rows = self.rows.saturating_add(self.rows / 4);
        }
        self.rows = self.rows.clamp(1, settings.rows_max.max(1));
        pause * settings.rest_times
    }

    /// A step did not count; tells how long it is waited before the next.
    pub fn note_failed(&mut self, settings: &Settings, pause: Option<Duration>) -> Duration {
        if let Some(pause) = pause {
            self.note_pause(pause);
            self.rows = (self.rows / 3).max(1);
        }
        let wait = settings.retry_min * 2u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        wait.min(settings.retry_max)
    }

    fn note_pause(&mut self, pause: Duration) {
        self.pauses.longest = self.pauses.longest.max(pause);
        self.pauses.total += pause;
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
            let pause = Duration::from_micros(pace.rows * 10);
            let rest = pace.note_done(&settings, pace.rows, pause);
            assert_eq!(rest, pause * 3);
        }
        assert!((7_500..=10_500).contains(&pace.rows), "{}", pace.rows);
        assert!(pace.pauses.longest <= Duration::from_millis(125), "{:?}", pace.pauses);
    }

    #[test]
    fn steps_that_are_slow_by_themselves_do_not_shrink_to_nothing() {
        let settings = Settings::default();
        let mut pace = Pace::new(&settings);
        for _ in 0..50 {
            pace.note_done(&settings, pace.rows, Duration::from_millis(130));
        }
        assert_eq!(pace.rows, settings.rows_first);
    }

    #[test]
    fn what_failed_is_tried_again_smaller_and_later() {
        let settings = Settings::default();
        let mut pace = Pace::new(&settings);
        let waits: Vec<u128> =
            (0..8).map(|_| pace.note_failed(&settings, Some(settings.pause_max)).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        assert_eq!(pace.rows, 1);
    }
}
