//! Which statements wait while a step moves buckets: the rules, without clocks and tasks.
//!
//! Two levels. While rows are copied only what may write to the moving buckets waits ([`Level::Writes`]). For the moment in
//! which the owner changes, what may read there waits too ([`Level::All`]). A statement says before it begins which
//! buckets it may touch; what cannot be known is all of them.
//!
//! Must not know: SQL, sessions, time.

use std::collections::HashMap;

use crate::base::BucketId;

/// Some buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Buckets {
    /// None.
    #[default]
    None,
    /// These.
    Some(Vec<BucketId>),
    /// Perhaps any.
    All,
}

/// Longer lists are taken for all buckets.
const LIST_MAX: usize = 1_024;

impl Buckets {
    /// Those of keys, in any order.
    pub fn of(mut buckets: Vec<BucketId>) -> Self {
        buckets.sort_unstable();
        buckets.dedup();
        match buckets.len() {
            0 => Self::None,
            count if count > LIST_MAX => Self::All,
            _ => Self::Some(buckets),
        }
    }

    fn add(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::All, _) | (_, Self::None) => {}
            (Self::None, _) | (_, Self::All) => self.clone_from(other),
            (Self::Some(own), Self::Some(more)) => {
                if more.iter().all(|bucket| own.contains(bucket)) {
                    return;
                }
                let both = own.iter().chain(more).copied().collect();
                *self = Self::of(both);
            }
        }
    }

    /// Whether one of them is in an ascending list.
    fn meet(&self, moving: &[BucketId]) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Some(buckets) => buckets.iter().any(|bucket| moving.binary_search(bucket).is_ok()),
        }
    }
}

/// What a statement may touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touch {
    /// Buckets whose rows it may read.
    pub reads: Buckets,
    /// Buckets whose rows it may write or lock.
    pub writes: Buckets,
}

impl Touch {
    /// No row of a sharded table.
    pub const NOTHING: Self = Self { reads: Buckets::None, writes: Buckets::None };
    /// Perhaps every row.
    pub const EVERYTHING: Self = Self { reads: Buckets::All, writes: Buckets::All };

    /// Rows of these buckets, which are only read.
    pub fn reads(buckets: Buckets) -> Self {
        Self { reads: buckets, writes: Buckets::None }
    }

    /// Rows of these buckets, which may be written.
    pub fn writes(buckets: Buckets) -> Self {
        Self { reads: buckets.clone(), writes: buckets }
    }
}

/// What waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Writes to the moving buckets.
    Writes,
    /// Reads of them as well.
    All,
}

/// Buckets that move.
#[derive(Clone, Debug)]
struct Moving {
    /// Ascending.
    buckets: Vec<BucketId>,
    level: Level,
    /// What was under way has ended.
    is_closed: bool,
}

impl Moving {
    fn holds_up(&self, touch: &Touch) -> bool {
        touch.writes.meet(&self.buckets) || (self.level == Level::All && touch.reads.meet(&self.buckets))
    }
}

/// Who is inside, and what waits.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    moving: Option<Moving>,
    inside: HashMap<u64, Touch>,
    last: u64,
}

impl Gate {
    /// A session that is inside with nothing yet.
    pub fn come(&mut self) -> u64 {
        self.last += 1;
        self.inside.insert(self.last, Touch::NOTHING);
        self.last
    }

    /// A statement begins, if it may: `false` when it has to wait.
    ///
    /// Whoever is waited for passes until the gate is closed: else both would wait for each other.
    pub fn enter(&mut self, who: u64, touch: &Touch) -> bool {
        let Some(held) = self.inside.get_mut(&who) else { return false };
        if let Some(moving) = &self.moving
            && moving.holds_up(touch)
            && (moving.is_closed || !moving.holds_up(held))
        {
            return false;
        }
        held.reads.add(&touch.reads);
        held.writes.add(&touch.writes);
        true
    }

    /// The statements of a session that stays inside have ended: what they have read they read no more. What they have
    /// written is not committed yet.
    pub fn end_reads(&mut self, who: u64) {
        if let Some(held) = self.inside.get_mut(&who) {
            held.reads = Buckets::None;
        }
    }

    /// A session is through with its transaction.
    pub fn leave(&mut self, who: u64) {
        self.inside.remove(&who);
    }

    /// From now on these wait; a level above replaces the one before.
    pub fn close(&mut self, buckets: &[BucketId], level: Level) {
        let mut buckets = buckets.to_vec();
        buckets.sort_unstable();
        self.moving = Some(Moving { buckets, level, is_closed: false });
    }

    /// Whether nobody is inside who has to have left; then nobody comes in any more.
    pub fn is_quiet(&mut self) -> bool {
        let Some(moving) = &mut self.moving else { return false };
        moving.is_closed |= !self.inside.values().any(|held| moving.holds_up(held));
        moving.is_closed
    }

    /// Whether reads wait now, and none is under way.
    pub fn is_closed_for_reads(&self) -> bool {
        self.moving.as_ref().is_some_and(|moving| moving.level == Level::All && moving.is_closed)
    }

    /// Nothing waits.
    pub fn open(&mut self) {
        self.moving = None;
    }

    /// Something may wait.
    pub fn is_closing(&self) -> bool {
        self.moving.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(buckets: &[u16]) -> Buckets {
        Buckets::of(buckets.iter().map(|bucket| BucketId(*bucket)).collect())
    }

    fn moving() -> Vec<BucketId> {
        vec![BucketId(9), BucketId(3)]
    }

    #[test]
    fn while_rows_are_copied_only_writes_to_them_wait() {
        let mut gate = Gate::default();
        let who = gate.come();
        gate.close(&moving(), Level::Writes);
        assert!(gate.is_quiet());
        for (touch, passes) in [
            (Touch::NOTHING, true),
            (Touch::reads(some(&[3])), true),
            (Touch::reads(Buckets::All), true),
            (Touch::writes(some(&[4, 8])), true),
            (Touch::writes(some(&[4, 9])), false),
            (Touch::EVERYTHING, false),
        ] {
            assert_eq!(gate.enter(who, &touch), passes, "{touch:?}");
        }
        gate.open();
        assert!(gate.enter(who, &Touch::EVERYTHING));
    }

    #[test]
    fn while_the_owner_changes_reads_of_them_wait_too() {
        let mut gate = Gate::default();
        let who = gate.come();
        gate.close(&moving(), Level::All);
        assert!(gate.is_quiet());
        assert!(!gate.enter(who, &Touch::reads(some(&[3]))));
        assert!(!gate.enter(who, &Touch::reads(Buckets::All)));
        assert!(gate.enter(who, &Touch::writes(some(&[4]))));
    }

    #[test]
    fn what_is_under_way_is_waited_for_and_passes_until_then() {
        let mut gate = Gate::default();
        let (writer, reader) = (gate.come(), gate.come());
        assert!(gate.enter(writer, &Touch::writes(some(&[3]))));
        assert!(gate.enter(reader, &Touch::reads(Buckets::All)));
        gate.close(&moving(), Level::Writes);
        assert!(!gate.is_quiet());
        assert!(gate.enter(writer, &Touch::writes(some(&[9]))), "it would wait for itself");
        assert!(!gate.enter(reader, &Touch::writes(some(&[9]))));
        gate.end_reads(writer);
        assert!(!gate.is_quiet(), "what it wrote is not committed");
        gate.leave(writer);
        assert!(gate.is_quiet(), "readers are not waited for");
        gate.close(&moving(), Level::All);
        assert!(!gate.is_quiet());
        gate.end_reads(reader);
        assert!(gate.is_quiet());
        assert!(!gate.enter(reader, &Touch::reads(Buckets::All)));
    }

    #[test]
    fn long_lists_are_all_buckets() {
        let many: Vec<u16> = (0..2_000).collect();
        assert_eq!(some(&many), Buckets::All);
        let mut held = some(&[1, 2]);
        held.add(&some(&[2, 1]));
        held.add(&Buckets::None);
        assert_eq!(held, some(&[1, 2]));
        held.add(&some(&[7]));
        assert_eq!(held, some(&[1, 2, 7]));
        held.add(&Buckets::All);
        assert_eq!(held, Buckets::All);
    }
}
