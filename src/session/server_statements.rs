//! Which prepared statements a connection holds: a bounded set, the least recently used one leaves.
//!
//! The set mirrors what the server was told. The two drift apart when a Parse or Close was skipped
//! after an error in the same pipeline: the caller then says [`PreparedSet::forget`] of every id whose
//! Parse was not answered, and writes a Close before every Parse, which PostgreSQL accepts for names
//! that do not exist (<https://www.postgresql.org/docs/current/protocol-flow.html>, Extended Query).

use std::collections::{BTreeSet, HashMap};

/// Statements a connection holds at most.
pub const STATEMENTS_MAX_DEFAULT: usize = 512;

/// What has to be sent before a statement can be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// Nothing.
    Present,
    /// A Parse; and before it, a Close of the statement that had to make room.
    NeedsParse {
        /// Statement to be closed.
        evicted: Option<u64>,
    },
}

/// Ids of the statements that a connection holds.
#[derive(Debug)]
pub struct PreparedSet {
    /// By when they were used last. Not in that order: every statement changes it, and only one that has to make room
    /// asks for it.
    used_at: HashMap<u64, u64>,
    /// Forgotten statements that the server may hold all the same.
    doubtful: BTreeSet<u64>,
    clock: u64,
    statements_max: usize,
}

impl Default for PreparedSet {
    fn default() -> Self {
        Self::new(STATEMENTS_MAX_DEFAULT)
    }
}

impl PreparedSet {
    /// An empty set.
    ///
    /// # Units
    /// `statements_max`: number of statements, at least 1.
    pub fn new(statements_max: usize) -> Self {
        Self { used_at: HashMap::new(), doubtful: BTreeSet::new(), clock: 0, statements_max: statements_max.max(1) }
    }

    /// Marks a statement as used now and says what must be sent first.
    pub fn ensure(&mut self, id: u64) -> Ensured {
        self.clock += 1;
        if self.used_at.insert(id, self.clock).is_some() {
            return Ensured::Present;
        }
        if self.used_at.len() <= self.statements_max {
            return Ensured::NeedsParse { evicted: None };
        }
        let evicted = self.used_at.iter().min_by_key(|(_, used_at)| **used_at).map(|(oldest, _)| *oldest);
        if let Some(oldest) = evicted {
            self.used_at.remove(&oldest);
        }
        Ensured::NeedsParse { evicted }
    }

    /// The connection holds the statement.
    pub fn contains(&self, id: u64) -> bool {
        self.used_at.contains_key(&id)
    }

    /// The connection does not hold the statement: its Parse failed or was skipped, or it was closed.
    pub fn forget(&mut self, id: u64) {
        if self.used_at.remove(&id).is_some() {
            self.doubtful.insert(id);
        }
    }

    /// Whether a Close has to stand before the statement's Parse: it was forgotten, and what became of it on
    /// the server is not known. Asked once.
    pub fn take_doubt(&mut self, id: u64) -> bool {
        self.doubtful.remove(&id)
    }

    /// More statements are in doubt than are worth remembering one by one.
    pub fn is_doubtful(&self) -> bool {
        self.doubtful.len() > self.statements_max
    }

    /// The connection holds no statement: after DISCARD ALL or DEALLOCATE ALL.
    pub fn clear(&mut self) {
        self.used_at.clear();
        self.doubtful.clear();
    }

    /// Number of statements.
    pub fn len(&self) -> usize {
        self.used_at.len()
    }

    /// The connection holds none.
    pub fn is_empty(&self) -> bool {
        self.used_at.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_doubts_are_noticed_and_end_when_all_is_closed() {
        let mut set = PreparedSet::new(2);
        for id in 1..=3 {
            set.ensure(id);
            set.forget(id);
        }
        assert!(set.is_doubtful());
        set.clear();
        assert!(!set.is_doubtful());
    }

    const PARSE: Ensured = Ensured::NeedsParse { evicted: None };

    #[test]
    fn a_statement_is_parsed_once() {
        let mut set = PreparedSet::new(2);
        assert_eq!(set.ensure(1), PARSE);
        assert_eq!(set.ensure(1), Ensured::Present);
    }

    #[test]
    fn the_least_recently_used_statement_leaves() {
        let mut set = PreparedSet::new(2);
        set.ensure(1);
        set.ensure(2);
        set.ensure(1);
        assert_eq!(set.ensure(3), Ensured::NeedsParse { evicted: Some(2) });
        assert!(set.contains(1) && set.contains(3) && !set.contains(2));
        assert_eq!(set.len(), 2);
    }

    #[test]
    fn a_forgotten_statement_is_parsed_again() {
        let mut set = PreparedSet::new(2);
        set.ensure(1);
        set.forget(1);
        set.forget(1);
        assert_eq!(set.ensure(1), PARSE);
        assert!(set.take_doubt(1) && !set.take_doubt(1));
        set.clear();
        assert!(set.is_empty());
        assert_eq!(set.ensure(1), PARSE);
    }
}
