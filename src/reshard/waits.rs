//! How long statements waited for buckets that move.

use std::time::Duration;

/// Waits of this many ms and more are told apart only by the longest.
const BINS: usize = 1_000;

/// Counted by the millisecond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Statements that waited.
    pub count: u64,
    /// The longest of all.
    pub longest: Duration,
    bins: Vec<u64>,
}

impl Default for Waits {
    fn default() -> Self {
        Self { count: 0, longest: Duration::ZERO, bins: vec![0; BINS] }
    }
}

impl Waits {
    /// A statement waited so long.
    pub fn note(&mut self, wait: Duration) {
        self.count += 1;
        self.longest = self.longest.max(wait);
        let at = usize::try_from(wait.as_millis()).unwrap_or(BINS).min(BINS - 1);
        if let Some(bin) = self.bins.get_mut(at) {
            *bin += 1;
        }
    }

    /// Half of those that waited waited no longer; to a millisecond.
    pub fn median(&self) -> Duration {
        let mut left = self.count.div_ceil(2);
        for (at, count) in self.bins.iter().enumerate() {
            if *count >= left {
                return Duration::from_millis(at as u64 + u64::from(self.count > 0)).min(self.longest);
            }
            left -= count;
        }
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_that_of_those_that_waited() {
        let mut waits = Waits::default();
        assert_eq!((waits.median(), waits.longest), (Duration::ZERO, Duration::ZERO));
        for ms in [3, 700, 12, 12, 5_000] {
            waits.note(Duration::from_millis(ms));
        }
        assert_eq!((waits.count, waits.median()), (5, Duration::from_millis(13)));
        assert_eq!(waits.longest, Duration::from_secs(5));
        waits = Waits::default();
        waits.note(Duration::from_millis(5_000));
        assert_eq!(waits.median(), Duration::from_secs(1), "longer ones are told apart by the longest alone");
    }
}
