//! Where the time of a step goes.

use std::time::Duration;

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The record is written, and connections are looked after; nothing waits for it.
    Record,
    /// Rows are copied ahead; nothing waits for it.
    Copy,
    /// What writes to the buckets ends.
    Writers,
    /// Rows are deleted and compared, those that have changed are copied again.
    Rows,
    /// Both transactions are prepared.
    Prepare,
    /// What reads the buckets ends.
    Readers,
    /// The new owner is written.
    Decide,
    /// Both transactions are committed.
    Commit,
}

const NAMES: [(Part, &str); 8] = [
    (Part::Record, "record"),
    (Part::Copy, "copy"),
    (Part::Writers, "writers"),
    (Part::Rows, "rows"),
    (Part::Prepare, "prepare"),
    (Part::Readers, "readers"),
    (Part::Decide, "decide"),
    (Part::Commit, "commit"),
];

/// Sums over the steps of this process.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    took: [(u32, Duration); NAMES.len()],
}

impl Parts {
    pub(super) fn note(&mut self, part: Part, took: Duration) {
        if let Some((count, sum)) = self.took.get_mut(part as usize) {
            *count += 1;
            *sum += took;
        }
    }

    /// Means in milliseconds: `record 3.1, writers 0.4, …`.
    pub(super) fn text(&self) -> String {
        let mean = |(count, sum): &(u32, Duration)| sum.as_secs_f64() * 1_000.0 / f64::from((*count).max(1));
        let each = NAMES.iter().zip(&self.took).map(|((_, name), took)| format!("{name} {:.1}", mean(took)));
        each.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_mean() {
        let mut parts = Parts::default();
        for (part, ms) in [(Part::Rows, 10), (Part::Rows, 30), (Part::Commit, 4)] {
            parts.note(part, Duration::from_millis(ms));
        }
        let text = parts.text();
        assert_eq!(
            text,
            "record 0.0, copy 0.0, writers 0.0, rows 20.0, prepare 0.0, readers 0.0, decide 0.0, commit 4.0"
        );
    }
}
