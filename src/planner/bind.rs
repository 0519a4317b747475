//! Plan + values -> shards: what an execution costs beside the cache look-up. Must not know: SQL text.

use super::arrays::read_elements;
use super::predicate;
use crate::base::{BucketId, ShardId};
use crate::error::{ClientError, ErrorId};
use crate::plan::{Filled, InsertPlan, KeyPart, KeyTuple, Plan, Route, Several, Slot};
use crate::sql::{Literal, LiteralKind};
use crate::topology::{KeyType, KeyValue, Topology};
use crate::wire::Format;

/// A parameter of one execution.
#[derive(Clone, Copy, Debug)]
pub struct ParamValue<'v> {
    /// Type that the client declared, or a server inferred; 0: not known.
    pub type_oid: u32,
    /// Format of the bytes.
    pub format: Format,
    /// The value; `None` for NULL.
    pub bytes: Option<&'v [u8]>,
}

/// The values of one execution.
pub trait Values {
    /// A literal of the statement.
    fn literal(&self, index: usize) -> Option<&Literal>;
    /// `$n`, from 1.
    fn param(&self, number: u32) -> Option<ParamValue<'_>>;
    /// What is filled in for a row of an INSERT: fill and row from 0.
    fn fill(&self, fill: usize, row: usize) -> Option<Filled>;
    /// What a server made of a value that could not be read here; asked before anything is read.
    /// `Some(None)` is NULL.
    fn cast(&self, _slot: &Slot, _key_type: KeyType) -> Option<Option<KeyValue>> {
        None
    }
}

/// Where one execution goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Which shards.
    pub shards: BoundShards,
    /// For each row of an INSERT of VALUES its shard; else empty.
    pub rows: Vec<ShardId>,
}

/// Which shards one execution needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundShards {
    /// This one.
    One(ShardId),
    /// Any one.
    Any,
    /// These, ascending.
    Many(Vec<ShardId>),
}

/// A value of a key column that only a server can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Where it is.
    pub slot: Slot,
    /// The type that it is to be cast to.
    pub key_type: KeyType,
    /// The row of an INSERT.
    pub row: Option<usize>,
}

/// Why an execution has no shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindError {
    /// It is refused.
    Refused(ClientError),
    /// These values must be read by a server first; then bind again with [`Values::cast`].
    Unreadable(Vec<Unreadable>),
}

impl From<ClientError> for BindError {
    fn from(error: ClientError) -> Self {
        Self::Refused(error)
    }
}

/// One key part read.
enum Read {
    Value(KeyValue),
    Null,
    Unsure,
}

/// The shards of one execution.
///
/// # Errors
/// The statement is not possible with these values, or a server must read one of them. Nothing has run.
pub fn bind(plan: &Plan, topology: &Topology, values: &dyn Values) -> Result<Bound, BindError> {
    let shards = match &plan.route {
        Route::Any => BoundShards::Any,
        Route::Shard(shard) => BoundShards::One(*shard),
        Route::Keys(keys) => bind_keys(plan, keys, topology, values)?,
        Route::All => match topology.shard_ids().collect::<Vec<_>>().as_slice() {
            [one] => BoundShards::One(*one),
            all => BoundShards::Many(all.to_vec()),
        },
        Route::ByRow => return bind_rows(plan, topology, values),
    };
    Ok(Bound { shards, rows: Vec::new() })
}

fn bind_keys(
    plan: &Plan,
    keys: &[KeyTuple],
    topology: &Topology,
    values: &dyn Values,
) -> Result<BoundShards, BindError> {
    let mut shards: Vec<ShardId> = Vec::with_capacity(keys.len().min(8));
    let mut unreadable = Vec::new();
    for key in keys {
        if key.parts.iter().any(|part| part.is_array) {
            match keys_of_arrays(&key.parts, values) {
                Some(keys) => keys.iter().for_each(|key| add(&mut shards, topology.shard_of_key(key))),
                None => match &plan.several {
                    Several::Refuse(refusal) => return Err(BindError::Refused(refusal.clone())),
                    _ => return Ok(all(topology)),
                },
            }
        } else if let Some(Some(key)) = read_key(&key.parts, values, None, &mut unreadable) {
            add(&mut shards, topology.shard_of_key(&key))
        }
    }
    if !unreadable.is_empty() {
        return match &plan.several {
            Several::Refuse(_) => Err(BindError::Unreadable(unreadable)),
            _ => Ok(all(topology)),
        };
    }
    match (shards.as_slice(), &plan.several) {
        ([], _) => Ok(BoundShards::Any),
        ([one], _) => Ok(BoundShards::One(*one)),
        (_, Several::Refuse(refusal)) => Err(BindError::Refused(refusal.clone())),
        _ => {
            shards.sort_unstable();
            Ok(BoundShards::Many(shards))
        }
    }
}

/// The buckets of the keys that one execution names; `None`: not all of them can be told.
pub(super) fn buckets_of(plan: &Plan, topology: &Topology, values: &dyn Values) -> Option<Vec<BucketId>> {
    let bucket = |key: &Vec<KeyValue>| topology.pins.bucket_of(key);
    let mut buckets = Vec::new();
    let mut unreadable = Vec::new();
    match (&plan.route, &plan.insert) {
        (Route::Keys(keys), _) => {
            for key in keys {
                if key.parts.iter().any(|part| part.is_array) {
                    buckets.extend(keys_of_arrays(&key.parts, values)?.iter().map(bucket));
                } else if let Some(key) = read_key(&key.parts, values, None, &mut unreadable)? {
                    buckets.push(bucket(&key));
                }
            }
        }
        (Route::ByRow, Some(insert)) => {
            for (index, row) in insert.rows.iter().enumerate() {
                // A row without a key is refused, or goes to no bucket.
                if let Some(key) = read_key(&row.key, values, Some(index), &mut unreadable)? {
                    buckets.push(bucket(&key));
                }
            }
        }
        _ => return None,
    }
    Some(buckets)
}

/// More keys than this are not followed.
const ARRAY_KEYS_MAX: usize = 65_536;

/// Every key that arrays and constants together allow; `None` when a value cannot be read here.
fn keys_of_arrays(parts: &[KeyPart], values: &dyn Values) -> Option<Vec<Vec<KeyValue>>> {
    let mut keys: Vec<Vec<KeyValue>> = vec![Vec::with_capacity(parts.len())];
    for part in parts {
        let elements = match read_elements_of(part, values)? {
            elements if keys.len().saturating_mul(elements.len()) > ARRAY_KEYS_MAX => return None,
            elements => elements,
        };
        keys = keys
            .iter()
            .flat_map(|key| elements.iter().map(move |element| key.iter().chain([element]).cloned().collect()))
            .collect();
    }
    Some(keys)
}

fn read_elements_of(part: &KeyPart, values: &dyn Values) -> Option<Vec<KeyValue>> {
    if !part.is_array {
        return match read(part, values, None) {
            Read::Value(value) => Some(vec![value]),
            Read::Null => Some(Vec::new()),
            Read::Unsure => None,
        };
    }
    match &part.slot {
        Slot::Param(number) => match values.param(*number)? {
            ParamValue { bytes: None, .. } => Some(Vec::new()),
            ParamValue { type_oid, format, bytes: Some(bytes) } => {
                read_elements(type_oid, format, bytes, part.key_type)
            }
        },
        Slot::Literal { index, negative: false } => match values.literal(*index)? {
            literal if literal.kind == LiteralKind::String => {
                read_elements(0, Format::Text, literal.value.as_bytes(), part.key_type)
            }
            _ => None,
        },
        Slot::Null => Some(Vec::new()),
        Slot::Literal { .. } | Slot::Fill(_) | Slot::Known(_) => None,
    }
}

fn all(topology: &Topology) -> BoundShards {
    match topology.shard_ids().collect::<Vec<_>>().as_slice() {
        [one] => BoundShards::One(*one),
        all => BoundShards::Many(all.to_vec()),
    }
}

fn add(shards: &mut Vec<ShardId>, shard: ShardId) {
    if !shards.contains(&shard) {
        shards.push(shard);
    }
}

fn bind_rows(plan: &Plan, topology: &Topology, values: &dyn Values) -> Result<Bound, BindError> {
    let Some(insert) = &plan.insert else {
        // COPY FROM: its rows come later.
        return Ok(Bound { shards: all(topology), rows: Vec::new() });
    };
    let mut rows = Vec::with_capacity(insert.rows.len());
    let mut shards = Vec::new();
    let mut unreadable = Vec::new();
    for (index, row) in insert.rows.iter().enumerate() {
        let before = unreadable.len();
        match read_key(&row.key, values, Some(index), &mut unreadable) {
            Some(Some(key)) => {
                if let Some(refusal) = key.iter().zip(&row.key).find_map(|(value, part)| altered(value, part)) {
                    return Err(refusal.into());
                }
                let shard = topology.shard_of_key(&key);
                add(&mut shards, shard);
                rows.push(shard);
            }
            Some(None) if insert.key_is_not_null => {
                let shard = topology.home();
                add(&mut shards, shard);
                rows.push(shard);
            }
            Some(None) => return Err(missing(insert).into()),
            None if unreadable.len() > before => {}
            None => return Err(ClientError::new(ErrorId::Internal, "a value of the statement is not known").into()),
        }
    }
    if !unreadable.is_empty() {
        return Err(BindError::Unreadable(unreadable));
    }
    shards.sort_unstable();
    let shards = match shards.as_slice() {
        [] => BoundShards::Any,
        [one] => BoundShards::One(*one),
        _ => BoundShards::Many(shards),
    };
    Ok(Bound { shards, rows })
}

fn missing(insert: &InsertPlan) -> ClientError {
    missing_key(&insert.table.name, None)
}

/// The sharding key of a row is missing or NULL.
pub fn missing_key(table: &str, column: Option<&str>) -> ClientError {
    let message = match column {
        Some(column) => format!("sharding key column \"{column}\" of table \"{table}\" is missing or null"),
        None => format!("sharding key of table \"{table}\" is null"),
    };
    ClientError::new(ErrorId::ShardingKeyMissing, message)
        .with_hint("Give every column of the sharding key a value: it decides which shard holds the row.")
}

/// True when a value is stored as it was given: varchar(n) drops blanks beyond its length. (A numeric or timestamp that
/// is rounded cannot be a key; a varchar without a length is read as text.)
pub fn is_stored_as_given(value: &KeyValue, key_type: KeyType) -> bool {
    !matches!((value, key_type), (KeyValue::Text(text), KeyType::Varchar) if text.ends_with(b" "))
}

fn altered(value: &KeyValue, part: &KeyPart) -> Option<ClientError> {
    if is_stored_as_given(value, part.key_type) {
        return None;
    }
    Some(
        ClientError::new(
            ErrorId::NotSupportedAcrossShards,
            "the column's length may change this value of the sharding key",
        )
        .with_hint("Give the sharding key without trailing blanks."),
    )
}

/// `Some(None)` when a part is NULL, `None` when a part cannot be read (it is then noted).
fn read_key(
    parts: &[KeyPart],
    values: &dyn Values,
    row: Option<usize>,
    unreadable: &mut Vec<Unreadable>,
) -> Option<Option<Vec<KeyValue>>> {
    let mut key = Vec::with_capacity(parts.len());
    let mut is_null = false;
    let before = unreadable.len();
    for part in parts {
        match read(part, values, row) {
            Read::Value(value) => key.push(value),
            Read::Null => is_null = true,
            Read::Unsure => {
                unreadable.push(Unreadable { slot: part.slot.clone(), key_type: part.key_type, row });
            }
        }
    }
    if is_null {
        // No row matches, whatever the other parts are.
        unreadable.truncate(before);
        return Some(None);
    }
    (unreadable.len() == before).then_some(Some(key))
}

fn read(part: &KeyPart, values: &dyn Values, row: Option<usize>) -> Read {
    if let Some(cast) = values.cast(&part.slot, part.key_type) {
        return cast.map_or(Read::Null, Read::Value);
    }
    let value = match &part.slot {
        Slot::Null => return Read::Null,
        Slot::Known(value) => Some((**value).clone()),
        Slot::Fill(fill) => match row.and_then(|row| values.fill(*fill, row)) {
            Some(Filled::Text(None)) => return Read::Null,
            Some(filled) => read_filled(&filled, part.key_type),
            None => None,
        },
        Slot::Literal { index, negative } => {
            values.literal(*index).and_then(|literal| read_literal(literal, *negative, part.key_type))
        }
        Slot::Param(number) => match values.param(*number) {
            Some(ParamValue { bytes: None, .. }) => return Read::Null,
            Some(ParamValue { type_oid, format, bytes: Some(bytes) }) => {
                read_param(type_oid, format, bytes, part.key_type)
            }
            None => None,
        },
    };
    value.map_or(Read::Unsure, Read::Value)
}

/// A value that was filled in, as a key.
pub fn read_filled(filled: &Filled, key_type: KeyType) -> Option<KeyValue> {
    match (filled, key_type) {
        (Filled::Id(id), KeyType::Numeric) => Some(KeyValue::Numeric(crate::base::numeric::Numeric::from_i64(*id))),
        (Filled::Id(id), _) => Some(KeyValue::Int(*id)),
        (Filled::Text(text), _) => key_type.read_text(text.as_ref()?.as_bytes()),
    }
}

/// A literal as a key, when it can be read here.
pub(super) fn read_literal(literal: &Literal, negative: bool, key_type: KeyType) -> Option<KeyValue> {
    match literal.kind {
        LiteralKind::Integer => key_type.read_number(&literal.value, false, negative),
        LiteralKind::Decimal => key_type.read_number(&literal.value, true, negative),
        LiteralKind::String if !negative => key_type.read_text(literal.value.as_bytes()),
        LiteralKind::String | LiteralKind::BitString => None,
    }
}

/// OIDs of types that are no key's: unknown.
const UNKNOWN: u32 = 705;

/// Reads a parameter by its own type when that is known: comparing then takes place between its value and the key.
pub fn read_param(type_oid: u32, format: Format, bytes: &[u8], key_type: KeyType) -> Option<KeyValue> {
    let read = |as_type: KeyType| match format {
        Format::Text => as_type.read_text(bytes),
        Format::Binary => as_type.read_binary(bytes),
    };
    if type_oid == 0 || type_oid == UNKNOWN {
        return read(key_type);
    }
    let own_type = KeyType::from_oid(type_oid)?;
    if predicate::is_same_family(own_type, key_type) {
        return read(own_type);
    }
    match (own_type, key_type) {
        (KeyType::Int2 | KeyType::Int4 | KeyType::Int8, KeyType::Numeric) => match read(own_type)? {
            KeyValue::Int(value) => Some(KeyValue::Numeric(crate::base::numeric::Numeric::from_i64(value))),
            _ => None,
        },
        // Only with a cast can text be compared with these: the cast reads it as the type's input does.
        (
            KeyType::Text | KeyType::Varchar,
            KeyType::Int2 | KeyType::Int4 | KeyType::Int8 | KeyType::Uuid | KeyType::Date | KeyType::Numeric,
        ) => key_type.read_text(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_width_are_one_key() {
        let int = |oid, format, bytes: &[u8]| read_param(oid, format, bytes, KeyType::Int4);
        let five = Some(KeyValue::Int(5));
        assert_eq!(int(20, Format::Binary, &[0, 0, 0, 0, 0, 0, 0, 5]), five);
        assert_eq!(int(21, Format::Binary, &[0, 5]), five);
        assert_eq!(int(0, Format::Binary, &[0, 0, 0, 5]), five);
        assert_eq!(int(20, Format::Text, b"5"), five);
        assert_eq!(int(0, Format::Binary, &[0, 0, 0, 0, 0, 0, 0, 5]), None);
        assert_eq!(int(1700, Format::Text, b"5.0"), None);
    }

    #[test]
    fn blanks_at_the_end_of_a_limited_text_are_unsure() {
        let text = || KeyValue::Text(b"a ".to_vec());
        assert!(!is_stored_as_given(&text(), KeyType::Varchar));
        assert!(is_stored_as_given(&text(), KeyType::Text));
    }
}
