//! Key -> bucket: PostgreSQL's own extended hash, combined as its HASH partitioning combines columns.
//!
//! Stock PostgreSQL computes the same number in SQL, so row filters, COPY predicates and fences need
//! nothing installed, and `satisfies_hash_partition` checks us (`tests/keyspace`). The numbers are a
//! persisted format: a change here would move every row.
//!
//! Must not know: how values arrive, which shard owns a bucket.

use std::hash::{BuildHasher, Hasher};

use super::BUCKETS;
use super::key::KeyValue;
use crate::base::BucketId;
use crate::base::numeric::Numeric;

/// The seed of PostgreSQL's HASH partitioning.
///
/// # Source
/// `HASH_PARTITION_SEED` in `src/backend/partitioning/partbounds.c`.
pub const PARTITION_SEED: u64 = 0x7A5B_2236_7996_DCFD;

/// The bucket of a key (one value per key column).
///
/// # Units
/// 0 to 16,383: the low 14 bits of the row hash, which is the remainder of a HASH partition with
/// modulus 16,384.
pub fn bucket(key: &[KeyValue]) -> BucketId {
    bucket_with_seed(key, PARTITION_SEED)
}

/// The bucket under another seed; only for negative controls of tests.
pub fn bucket_with_seed(key: &[KeyValue], seed: u64) -> BucketId {
    combine(key.iter().map(|value| hash_value(value, seed)))
}

/// The bucket of a key whose columns have these hashes.
pub fn bucket_of_hashes(hashes: &[u64]) -> BucketId {
    combine(hashes.iter().copied())
}

fn combine(hashes: impl Iterator<Item = u64>) -> BucketId {
    let row = hashes.fold(0, hash_combine64);
    BucketId((row & (BUCKETS as u64 - 1)) as u16)
}

/// The extended hash of one value, as the hash operator class of its type computes it.
///
/// # Source
/// `hashint8extended` and its like in `hashfunc.c`, `hash_numeric_extended` in `numeric.c`,
/// `timestamp_hash_extended`, `uuid_hash_extended`, `hashbpcharextended`.
pub fn hash_value(value: &KeyValue, seed: u64) -> u64 {
    match value {
        KeyValue::Int(value) | KeyValue::Timestamp(value) => hash_int8_extended(*value, seed),
        KeyValue::Date(days) => hash_uint32_extended(*days as u32, seed),
        KeyValue::Text(bytes) | KeyValue::Bytea(bytes) => hash_bytes_extended(bytes, seed),
        KeyValue::Bpchar(bytes) => hash_bytes_extended(without_trailing_blanks(bytes), seed),
        KeyValue::Uuid(bytes) => hash_bytes_extended(bytes, seed),
        KeyValue::Numeric(value) => hash_numeric_extended(value, seed),
    }
}

/// Trailing blanks of character(n) do not count.
pub(super) fn without_trailing_blanks(mut bytes: &[u8]) -> &[u8] {
    while let Some(shorter) = bytes.strip_suffix(b" ") {
        bytes = shorter;
    }
    bytes
}

/// Combines the hashes of two columns.
///
/// # Source
/// `hash_combine64` in `src/include/common/hashfn.h`; used by `compute_partition_hash_value`.
fn hash_combine64(a: u64, b: u64) -> u64 {
    a ^ b.wrapping_add(0x49a0_f4dd_15e5_a8e3).wrapping_add(a << 54).wrapping_add(a >> 7)
}

/// Folds a bigint into 32 bits so that values that fit an integer hash like one.
fn hash_int8_extended(value: i64, seed: u64) -> u64 {
    let low = value as u32;
    let high = (value >> 32) as u32;
    hash_uint32_extended(low ^ if value >= 0 { high } else { !high }, seed)
}

/// The sign is not hashed: PostgreSQL leaves it out too.
fn hash_numeric_extended(value: &Numeric, seed: u64) -> u64 {
    match value.base_10000() {
        // NaN and the infinities.
        None => seed,
        Some((_, digits)) if digits.is_empty() => seed.wrapping_sub(1),
        Some((weight, digits)) => {
            let bytes: Vec<u8> = digits.iter().flat_map(|digit| digit.to_le_bytes()).collect();
            hash_bytes_extended(&bytes, seed) ^ (i64::from(weight) as u64)
        }
    }
}

/// Bob Jenkins's lookup3 over bytes, 64 bits wide.
///
/// # Source
/// `hash_bytes_extended` in `src/common/hashfn.c`, in its little-endian form.
pub fn hash_bytes_extended(bytes: &[u8], seed: u64) -> u64 {
    let mut state = Lookup3::new(bytes.len() as u32, seed);
    let (blocks, rest) = bytes.as_chunks::<12>();
    for [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] in blocks.iter().copied() {
        state.add(
            u32::from_le_bytes([a0, a1, a2, a3]),
            u32::from_le_bytes([b0, b1, b2, b3]),
            u32::from_le_bytes([c0, c1, c2, c3]),
        );
        state.mix();
    }
    // The lowest byte of c is reserved for the length, so the last word shifts by one byte.
    let mut tail = [0_u8; 12];
    for (slot, byte) in tail.iter_mut().zip(rest) {
        *slot = *byte;
    }
    let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, _] = tail;
    state.add(
        u32::from_le_bytes([a0, a1, a2, a3]),
        u32::from_le_bytes([b0, b1, b2, b3]),
        u32::from_le_bytes([0, c0, c1, c2]),
    );
    state.finish()
}

/// The same for one 32-bit word.
///
/// # Source
/// `hash_bytes_uint32_extended` in `src/common/hashfn.c`.
pub fn hash_uint32_extended(word: u32, seed: u64) -> u64 {
    let mut state = Lookup3::new(4, seed);
    state.add(word, 0, 0);
    state.finish()
}

/// The three words of lookup3.
struct Lookup3 {
    a: u32,
    b: u32,
    c: u32,
}

impl Lookup3 {
    fn new(length: u32, seed: u64) -> Self {
        let start = 0x9e37_79b9_u32.wrapping_add(length).wrapping_add(3_923_095);
        let mut state = Self { a: start, b: start, c: start };
        if seed != 0 {
            state.add((seed >> 32) as u32, seed as u32, 0);
            state.mix();
        }
        state
    }

    fn add(&mut self, a: u32, b: u32, c: u32) {
        self.a = self.a.wrapping_add(a);
        self.b = self.b.wrapping_add(b);
        self.c = self.c.wrapping_add(c);
    }

    fn mix(&mut self) {
        let Self { mut a, mut b, mut c } = *self;
        a = a.wrapping_sub(c) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = a.wrapping_sub(c) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
        *self = Self { a, b, c };
    }

    fn finish(self) -> u64 {
        let Self { mut a, mut b, mut c } = self;
        c = (c ^ b).wrapping_sub(b.rotate_left(14));
        a = (a ^ c).wrapping_sub(c.rotate_left(11));
        b = (b ^ a).wrapping_sub(a.rotate_left(25));
        c = (c ^ b).wrapping_sub(b.rotate_left(16));
        a = (a ^ c).wrapping_sub(c.rotate_left(4));
        b = (b ^ a).wrapping_sub(a.rotate_left(14));
        c = (c ^ b).wrapping_sub(b.rotate_left(24));
        (u64::from(b) << 32) | u64::from(c)
    }
}

/// A hasher whose numbers never change between builds, for what is planned with them (the ring).
#[derive(Clone, Copy, Debug, Default)]
pub struct StableHash;

/// See [`StableHash`].
#[derive(Clone, Debug, Default)]
pub struct StableHasher {
    state: u64,
}

impl BuildHasher for StableHash {
    type Hasher = StableHasher;

    fn build_hasher(&self) -> StableHasher {
        StableHasher::default()
    }
}

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.state = hash_bytes_extended(bytes, self.state);
    }

    // Integers are written in one byte order on every machine.
    fn write_u16(&mut self, value: u16) {
        self.write(&value.to_le_bytes());
    }

    fn write_u32(&mut self, value: u32) {
        self.write(&value.to_le_bytes());
    }

    fn write_u64(&mut self, value: u64) {
        self.write(&value.to_le_bytes());
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::KeyType;

    /// Answers of `hashtextextended(x, 0)`, `hashtextextended(x, 42)`, `hashint8extended` and
    /// `hash_numeric_extended` in PostgreSQL 15.
    #[test]
    fn hashes_are_those_of_postgresql() {
        for (text, plain, seeded) in [
            ("", 0x9fb1_b765_a7ea_466d_u64, 0x5578_9146_06bb_0711_u64),
            ("a", 0x31d9_4c66_4013_70b1_u64, 0x6058_5e7d_6282_59f7_u64),
            ("12345678901", 0x3936_a7bf_6259_ed3a_u64, 0x25cc_9a8c_66d5_6ca6_u64),
            ("123456789012", 0xd0fc_95ef_82b5_257d_u64, 0x253b_f8c2_8b18_0a0b_u64),
            ("1234567890123", 0x20f0_549c_1a13_6a60_u64, 0x87a5_50d1_17a5_ac0e_u64),
            ("PostgreSQL HASH partitioning", 0xc987_2d24_48b3_d7d5_u64, 0x70ea_2144_5e39_868d_u64),
        ] {
            assert_eq!(hash_bytes_extended(text.as_bytes(), 0), plain, "{text}");
            assert_eq!(hash_bytes_extended(text.as_bytes(), 42), seeded, "{text}");
        }
        assert_eq!(hash_value(&KeyValue::Int(-5_000_000_000), 0), 0x57d1_29ab_38e4_c67a);
        let numeric = |text| KeyType::Numeric.read_text(text).unwrap();
        assert_eq!(hash_value(&numeric(b"-12345.678"), 7), 0x1409_3231_4dc3_5c6c);
        assert_eq!(hash_value(&numeric(b"0"), 7), 6);
        assert_eq!(hash_value(&numeric(b"NaN"), 7), 7);
    }

    #[test]
    fn integers_of_every_width_hash_alike() {
        for value in [0_i32, 1, -1, i32::MAX, i32::MIN] {
            let wide = hash_int8_extended(i64::from(value), PARTITION_SEED);
            assert_eq!(wide, hash_uint32_extended(value as u32, PARTITION_SEED));
        }
    }

    #[test]
    fn trailing_blanks_of_character_do_not_count() {
        let bucket_of = |text: &str| bucket(&[KeyValue::Bpchar(text.into())]);
        assert_eq!(bucket_of("abc"), bucket_of("abc   "));
        assert_ne!(bucket_of("abc"), bucket_of("  abc"));
    }

    #[test]
    fn order_of_columns_matters() {
        assert_ne!(bucket(&[KeyValue::Int(1), KeyValue::Int(2)]), bucket(&[KeyValue::Int(2), KeyValue::Int(1)]));
    }
}
