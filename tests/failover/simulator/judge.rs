//! Judges what happened; shares nothing with the machine but the words.

use std::collections::BTreeSet;

/// What clients were told and have seen.
#[derive(Debug, Default)]
pub struct Judge {
    acknowledged: BTreeSet<u64>,
    seen: BTreeSet<u64>,
    /// The highest term that was opened, and what its primary had then.
    opened_term: u64,
    opened_with: BTreeSet<u64>,
    pub broken: Vec<String>,
}

impl Judge {
    /// What standbys confirmed before they were frozen may be acknowledged late, by a primary that was asleep: it is
    /// on the next one. Anything else comes from a second primary.
    pub fn acknowledged(&mut self, node: u32, term: u64, values: &[u64]) {
        let is_known = |value: &&u64| **value == 0 || self.opened_with.contains(*value);
        if term < self.opened_term && !values.iter().all(|value| is_known(&value)) {
            let highest = self.opened_term;
            self.broken.push(format!("n{node} acknowledges in term {term} after term {highest} was opened"));
        }
        self.acknowledged.extend(values.iter().filter(|value| **value != 0));
    }

    pub fn seen(&mut self, values: impl Iterator<Item = u64>) {
        self.seen.extend(values.filter(|value| *value != 0));
    }

    /// A term is open from now on, on a node with this log.
    pub fn opened(&mut self, term: u64, node: u32, log: &[(u64, u64)]) {
        if term <= self.opened_term {
            return;
        }
        self.opened_term = term;
        self.opened_with = log.iter().map(|entry| entry.1).collect();
        self.holds(&format!("term {term} opens on n{node}"), log);
    }

    /// Everything acknowledged and everything seen is there, once.
    pub fn holds(&mut self, when: &str, log: &[(u64, u64)]) {
        let there: BTreeSet<u64> = log.iter().map(|entry| entry.1).collect();
        let written = log.iter().filter(|entry| entry.1 != 0).count();
        if there.iter().filter(|value| **value != 0).count() != written {
            self.broken.push(format!("{when}: something is there twice"));
        }
        for (what, values) in [("acknowledged", &self.acknowledged), ("seen", &self.seen)] {
            let missing: Vec<u64> = values.difference(&there).copied().collect();
            if let Some(first) = missing.first() {
                self.broken.push(format!("{when}: {} {what} are missing, the first is {first}", missing.len()));
            }
        }
    }

    pub fn count(&self) -> usize {
        self.acknowledged.len()
    }
}

#[test]
fn a_lost_write_is_seen() {
    let mut judge = Judge::default();
    judge.acknowledged(1, 1, &[7]);
    judge.opened(2, 2, &[(1, 6)]);
    assert_eq!(judge.broken.len(), 1, "{:?}", judge.broken);
}

#[test]
fn a_second_primary_is_seen() {
    let mut judge = Judge::default();
    judge.opened(2, 2, &[]);
    judge.acknowledged(1, 1, &[7]);
    assert_eq!(judge.broken.len(), 1, "{:?}", judge.broken);
}

#[test]
fn a_late_word_about_what_is_there_is_none() {
    let mut judge = Judge::default();
    judge.opened(2, 2, &[(1, 7)]);
    judge.acknowledged(1, 1, &[7]);
    assert!(judge.broken.is_empty(), "{:?}", judge.broken);
}

#[test]
fn what_was_read_and_vanished_is_seen() {
    let mut judge = Judge::default();
    judge.seen([7].into_iter());
    judge.opened(2, 2, &[(1, 7), (1, 7)]);
    judge.opened(3, 2, &[(1, 6)]);
    assert_eq!(judge.broken.len(), 2, "{:?}", judge.broken);
}
