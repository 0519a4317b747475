//! Pinned keys: keys that have a bucket of their own, so that they live where they are told to.
//!
//! A pinned key is known by the hashes of its columns, not by its values: whatever hashes alike lives together, in every
//! table, whether its column is an int or a bigint. Its bucket has a number beyond those of the hash slots; all that
//! asks for a bucket's owner, moves it or waits for it does so with pinned keys too.
//!
//! Must not know: who owns buckets, how keys are read.

use super::hash::{self, PARTITION_SEED};
use super::{BUCKETS, KeyValue};
use crate::base::BucketId;

/// Most pinned keys: whatever is read with every statement stays small.
pub const PINS_MAX: usize = 1_000;

/// A key with a bucket of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The hash of each key column's value, see [`hash::hash_value`].
    pub hashes: Vec<u64>,
    /// Its values as they were written, for people.
    pub values: Vec<String>,
    /// `false` while a job brings it to where it is to be, or back to its hash slot's shard.
    pub is_settled: bool,
}

impl Pin {
    /// The pin of a key that is not where it is to be yet.
    pub fn new(key: &[KeyValue], values: Vec<String>) -> Self {
        Self { hashes: hashes_of(key), values, is_settled: false }
    }

    /// The bucket that it would be in.
    pub fn slot(&self) -> BucketId {
        hash::bucket_of_hashes(&self.hashes)
    }

    /// Its values, as people read them.
    pub fn name(&self) -> String {
        self.values.join(", ")
    }
}

/// The hashes of a key's columns.
pub fn hashes_of(key: &[KeyValue]) -> Vec<u64> {
    key.iter().map(|value| hash::hash_value(value, PARTITION_SEED)).collect()
}

/// The pinned keys; the first has the bucket after the last hash slot, and so on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    pins: Vec<Pin>,
    /// Hash slots that have pinned keys, ascending, with the places of these.
    by_slot: Vec<(BucketId, usize)>,
}

impl Pins {
    /// From a list.
    pub fn new(pins: Vec<Pin>) -> Self {
        let mut by_slot: Vec<(BucketId, usize)> = pins.iter().enumerate().map(|(at, pin)| (pin.slot(), at)).collect();
        by_slot.sort_unstable();
        Self { pins, by_slot }
    }

    /// All of them, with their buckets.
    pub fn iter(&self) -> impl Iterator<Item = (BucketId, &Pin)> {
        self.pins.iter().enumerate().map(|(at, pin)| (bucket_at(at), pin))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.pins.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    /// The bucket of a key.
    pub fn bucket_of(&self, key: &[KeyValue]) -> BucketId {
        let slot = hash::bucket(key);
        if self.pins.is_empty() {
            return slot;
        }
        self.find_in(slot, || hashes_of(key)).unwrap_or(slot)
    }

    /// The bucket of a pinned key; `None`: it is not pinned.
    pub fn find(&self, hashes: &[u64]) -> Option<BucketId> {
        self.find_in(hash::bucket_of_hashes(hashes), || hashes.to_vec())
    }

    fn find_in(&self, slot: BucketId, hashes: impl FnOnce() -> Vec<u64>) -> Option<BucketId> {
        let from = self.by_slot.partition_point(|(known, _)| *known < slot);
        let mut alike = self.by_slot.iter().skip(from).take_while(|(known, _)| *known == slot).peekable();
        alike.peek()?;
        let hashes = hashes();
        let at = alike.find(|(_, at)| self.pins.get(*at).is_some_and(|pin| pin.hashes == hashes))?.1;
        Some(bucket_at(at))
    }
}

/// A bucket that stands for a pinned key, not for a hash slot.
pub fn is_pinned(bucket: BucketId) -> bool {
    usize::from(bucket.0) >= BUCKETS
}

fn bucket_at(at: usize) -> BucketId {
    BucketId(u16::try_from(BUCKETS + at).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(key: i64) -> Pin {
        Pin::new(&[KeyValue::Int(key)], vec![key.to_string()])
    }

    #[test]
    fn a_pinned_key_has_a_bucket_of_its_own_and_its_neighbours_do_not() {
        let pins = Pins::new(vec![pin(42), pin(7)]);
        assert_eq!(pins.bucket_of(&[KeyValue::Int(42)]), BucketId(16_384));
        assert_eq!(pins.bucket_of(&[KeyValue::Int(7)]), BucketId(16_385));
        // Another key of the same hash slot.
        let slot = hash::bucket(&[KeyValue::Int(42)]);
        let neighbour = (43..).find(|key| hash::bucket(&[KeyValue::Int(*key)]) == slot).unwrap();
        assert_eq!(pins.bucket_of(&[KeyValue::Int(neighbour)]), slot);
        // A key of more columns is another key.
        let longer = [KeyValue::Int(42), KeyValue::Int(42)];
        assert_eq!(pins.bucket_of(&longer), hash::bucket(&longer));
        assert_eq!(Pins::default().bucket_of(&[KeyValue::Int(42)]), slot);
    }

    #[test]
    fn what_was_written_with_other_blanks_is_the_same_key() {
        let pins = Pins::new(vec![Pin::new(&[KeyValue::Bpchar(b"ab".to_vec())], vec!["ab".to_owned()])]);
        assert_eq!(pins.bucket_of(&[KeyValue::Bpchar(b"ab   ".to_vec())]), BucketId(16_384));
        assert_eq!(pins.bucket_of(&[KeyValue::Text(b"ab".to_vec())]), BucketId(16_384));
    }

    #[test]
    fn two_pinned_keys_of_one_slot_are_told_apart() {
        let slot = hash::bucket(&[KeyValue::Int(1)]);
        let other = (2..).find(|key| hash::bucket(&[KeyValue::Int(*key)]) == slot).unwrap();
        let pins = Pins::new(vec![pin(other), pin(1)]);
        assert_eq!(pins.find(&pin(1).hashes), Some(BucketId(16_385)));
        assert_eq!(pins.find(&pin(other).hashes), Some(BucketId(16_384)));
        assert_eq!(pins.find(&pin(-1).hashes), None);
    }
}
