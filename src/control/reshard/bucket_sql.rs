//! The bucket of a row, as an expression that stock PostgreSQL computes: it stands in indexes and predicates.

use crate::control::client::quote_identifier;
use crate::topology::hash::PARTITION_SEED;
use crate::topology::{BUCKETS, KeyType};

/// The constant of `hash_combine64`.
const COMBINE: u64 = 0x49a0_f4dd_15e5_a8e3;
/// Columns of a key; with more, bits would be needed that a bigint has no room for without overflow.
const COLUMNS_MAX: usize = 5;

/// The expression for a key; `None`: the key has too many columns.
///
/// `hash_combine64(a, b)` is `a ^ (b + C + (a << 54) + (a >> 7))`. SQL's bigint would overflow, so only the low bits
/// that count are carried: each further column needs seven more of what stands before it, and `a << 54` reaches none.
pub fn bucket_sql(key: &[(String, KeyType)]) -> Option<String> {
    if key.is_empty() || key.len() > COLUMNS_MAX {
        return None;
    }
    Some(combined(key, BUCKETS.trailing_zeros()))
}

fn combined(key: &[(String, KeyType)], bits: u32) -> String {
    let mask = (1u64 << bits) - 1;
    let Some(((name, kind), before)) = key.split_last() else { return "0".to_owned() };
    let sum = format!("{} + {}", masked_hash(name, *kind, mask), COMBINE & mask);
    if before.is_empty() {
        return format!("(({sum}) & {mask})");
    }
    let before = combined(before, bits + 7);
    format!("((({before} & {mask}) # ({sum} + ({before} >> 7))) & {mask})")
}

/// The condition that the columns of a key have these hashes: the rows of a pinned key. `None`: the key has other columns
/// than that, so that none of its rows is the pinned key's.
pub fn pinned_sql(key: &[(String, KeyType)], hashes: &[u64]) -> Option<String> {
    if key.len() != hashes.len() || key.is_empty() {
        return None;
    }
    let columns = key.iter().zip(hashes).map(|((name, kind), hash)| {
        let (sql, more) = hash_sql(name, *kind);
        format!("{sql} = '{}'::bigint", hash.wrapping_add(more) as i64)
    });
    Some(columns.collect::<Vec<_>>().join(" AND "))
}

/// The low bits of a column's hash.
fn masked_hash(name: &str, kind: KeyType, mask: u64) -> String {
    match hash_sql(name, kind) {
        (hash, 0) => format!("({hash} & {mask})"),
        (hash, more) => format!("((({hash} & {mask}) + {}) & {mask})", mask + 1 - more),
    }
}

/// A column's hash in SQL, and how much more than the hash that is.
fn hash_sql(name: &str, kind: KeyType) -> (String, u64) {
    let (column, seed) = (quote_identifier(name), PARTITION_SEED);
    let hash = match kind {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => format!("hashint8extended({column}::bigint, {seed})"),
        KeyType::Text | KeyType::Varchar => format!("hashtextextended({column}::text, {seed})"),
        KeyType::Bpchar => format!("hashbpcharextended({column}, {seed})"),
        KeyType::Uuid => format!("uuid_hash_extended({column}, {seed})"),
        KeyType::Date => format!("hashint4extended({column} - '2000-01-01'::date, {seed})"),
        KeyType::Timestamp => format!("timestamp_hash_extended({column}, {seed})"),
        KeyType::TimestampTz => format!("timestamp_hash_extended({column} AT TIME ZONE 'UTC', {seed})"),
        KeyType::Numeric => format!("hash_numeric_extended({column}, {seed})"),
        // The hash of bytes takes an internal argument; that of an array of one is 31 more.
        KeyType::Bytea => return (format!("pg_catalog.hash_array_extended(ARRAY[{column}], {seed})"), 31),
    };
    (format!("pg_catalog.{hash}"), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_column_is_short() {
        assert_eq!(
            bucket_sql(&[("id".to_owned(), KeyType::Int4)]).unwrap(),
            "(((pg_catalog.hashint8extended(\"id\"::bigint, 8816678312871386365) & 16383) + 10467) & 16383)"
        );
    }

    #[test]
    fn a_pinned_key_is_told_by_the_hashes_of_its_columns() {
        let key = [("id".to_owned(), KeyType::Int8), ("b".to_owned(), KeyType::Bytea)];
        assert_eq!(
            pinned_sql(&key, &[7, u64::MAX]).unwrap(),
            "pg_catalog.hashint8extended(\"id\"::bigint, 8816678312871386365) = '7'::bigint AND \
             pg_catalog.hash_array_extended(ARRAY[\"b\"], 8816678312871386365) = '30'::bigint"
        );
        assert_eq!(pinned_sql(&key, &[7]), None);
    }

    #[test]
    fn a_key_of_too_many_columns_is_refused() {
        let key = |columns: usize| vec![("a".to_owned(), KeyType::Int8); columns];
        assert!(bucket_sql(&key(COLUMNS_MAX)).is_some());
        assert_eq!(bucket_sql(&key(COLUMNS_MAX + 1)), None);
    }
}
