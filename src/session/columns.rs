//! What the client was told of a statement's columns and parameters, so that it never misreads those of a later
//! schema.
//!
//! A server fixes both at Parse, and refuses a statement whose columns became others
//! (`RevalidateCachedQuery` in PostgreSQL's plancache.c). Prepared anew on another connection the statement
//! would go on unseen. Must not know: which connection holds what.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use crate::base::ShardId;
use crate::wire::server_message::{self, Field, tag};

/// Types with lower numbers are the same on every server.
pub const FIRST_USER_TYPE: u32 = 16_384;

/// Columns, as far as a client reads rows by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    signature: u64,
    /// Some have types whose numbers differ from server to server.
    has_user_types: bool,
}

impl Columns {
    /// Those of a RowDescription.
    pub fn of(fields: &[Field]) -> Self {
        let has_user_types = fields.iter().any(|field| field.type_oid >= FIRST_USER_TYPE);
        Self { signature: signature_of(tag::ROW_DESCRIPTION, fields), has_user_types }
    }

    /// Those that a message tells of: a RowDescription, else none.
    pub fn read(message: u8, body: &[u8]) -> Self {
        Self::of_fields(message, &fields_of(message, body))
    }

    fn of_fields(message: u8, fields: &[Field]) -> Self {
        Self { signature: signature_of(message, fields), ..Self::of(fields) }
    }
}

/// Names and types of the columns that a message tells of; what else a description holds may differ without a
/// difference to the client. Never 0. Other than [`Columns`]'s own; drivers ask with every statement, so it is read
/// where it stands.
pub fn signature(message: u8, body: &[u8]) -> u64 {
    /// Behind a column's name: its table and number there, type, size, modifier, format.
    const FACTS_BYTES: usize = 18;
    let mut hasher = DefaultHasher::new();
    message.hash(&mut hasher);
    let mut rest = if message == tag::ROW_DESCRIPTION { body.get(2..).unwrap_or_default() } else { &[] };
    while let Some(end) = memchr::memchr(0, rest) {
        let (name, behind) = rest.split_at_checked(end + 1).unwrap_or_default();
        let Some((facts, next)) = behind.split_first_chunk::<FACTS_BYTES>() else { break };
        let [_, _, _, _, _, _, type_0, type_1, type_2, type_3, _, _, modifier @ .., _, _] = facts;
        // The name with its NUL: no two lists of columns give the same bytes.
        hasher.write(name);
        hasher.write(&[*type_0, *type_1, *type_2, *type_3]);
        hasher.write(modifier);
        rest = next;
    }
    hasher.finish().max(1)
}

/// The types of parameters in a ParameterDescription. Never 0.
pub fn parameters_signature(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish().max(1)
}

fn fields_of(message: u8, body: &[u8]) -> Vec<Field> {
    if message != tag::ROW_DESCRIPTION {
        return Vec::new();
    }
    server_message::read_row_description(body).unwrap_or_default()
}

fn signature_of(message: u8, fields: &[Field]) -> u64 {
    let mut hasher = DefaultHasher::new();
    message.hash(&mut hasher);
    for field in fields {
        (&field.name, field.type_oid, field.type_modifier).hash(&mut hasher);
    }
    hasher.finish().max(1)
}

/// What a client was told, when, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    columns: Columns,
    /// Types of the parameters; none when only a portal was described.
    parameters: Option<Vec<u32>>,
    version: u64,
    shard: ShardId,
}

/// What the client was told of one statement, if anything.
#[derive(Debug, Default)]
pub struct Told(Mutex<Option<Known>>);

impl Clone for Told {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.0.lock().clone()))
    }
}

impl Told {
    /// The client is told of a statement, by this shard, under that version of the schema. What was told before of
    /// its parameters stays.
    pub fn note(&self, columns: Columns, parameters: Option<Vec<u32>>, version: u64, shard: ShardId) {
        let mut known = self.0.lock();
        let parameters = parameters.or_else(|| known.take().and_then(|known| known.parameters));
        *known = Some(Known { columns, parameters, version, shard });
    }

    /// The client was told under another version of the schema.
    pub fn is_before(&self, version: u64) -> bool {
        self.0.lock().as_ref().is_some_and(|known| known.version != version)
    }

    /// The only shard whose answer can be compared with what was told: the numbers of users' types are its own.
    pub fn shard_to_ask(&self) -> Option<ShardId> {
        self.0.lock().as_ref().filter(|known| known.has_user_types()).map(|known| known.shard)
    }

    /// Parameter types to prepare the statement with again: those declared, else those told as far as they are the
    /// same on every server.
    pub fn fixed_types(&self, declared: &[u32]) -> Vec<u32> {
        let known = self.0.lock();
        let told = known.as_ref().and_then(|known| known.parameters.as_deref()).unwrap_or_default();
        let mut types = declared.to_vec();
        types.resize(types.len().max(told.len()), 0);
        for (fixed, told) in types.iter_mut().zip(told) {
            if *fixed == 0 && *told < FIRST_USER_TYPE {
                *fixed = *told;
            }
        }
        types
    }

    /// The statement was looked at again: from now on what was told is of this version, if it is still true.
    pub fn compare(&self, columns: Columns, parameters: &[u32], version: u64) {
        if let Some(known) = self.0.lock().as_mut()
            && known.columns == columns
            && known.parameters.as_ref().is_none_or(|told| told == parameters)
        {
            known.version = version;
        }
    }
}

impl Known {
    fn has_user_types(&self) -> bool {
        self.columns.has_user_types || self.parameters.iter().flatten().any(|number| *number >= FIRST_USER_TYPE)
    }
}

/// PostgreSQL's own words for a statement whose columns became others, with the place in its source: drivers that
/// prepare such a statement anew know it by that.
pub fn stale_plan() -> Bytes {
    let fields =
        b"SERROR\0VERROR\0C0A000\0Mcached plan must not change result type\0Fplancache.c\0RRevalidateCachedQuery\0\0";
    let mut bytes = BytesMut::new();
    bytes.put_u8(tag::ERROR_RESPONSE);
    bytes.put_u32(u32::try_from(fields.len() + 4).unwrap_or(u32::MAX));
    bytes.put_slice(fields);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Format;

    const HERE: ShardId = ShardId(1);

    fn columns(type_oid: u32, type_modifier: i32) -> Columns {
        Columns::of(&[Field {
            name: "x".into(),
            table_oid: 0,
            column: 0,
            type_oid,
            type_size: -1,
            type_modifier,
            format: Format::Text,
        }])
    }

    #[test]
    fn names_types_and_modifiers_make_a_signature_and_nothing_else() {
        let column = |name: &str, type_oid: u32, modifier: i32, number: u16| {
            let mut bytes = BytesMut::from(name);
            bytes.put_u8(0);
            bytes.put_u32(1);
            bytes.put_u16(number);
            bytes.put_u32(type_oid);
            bytes.put_i16(-1);
            bytes.put_i32(modifier);
            bytes.put_u16(number);
            bytes
        };
        let of = |columns: &[BytesMut]| signature(tag::ROW_DESCRIPTION, &[&[0, 9], &*columns.concat()].concat());
        let base = of(&[column("a", 25, -1, 0), column("b", 23, 4, 1)]);
        assert_eq!(base, of(&[column("a", 25, -1, 7), column("b", 23, 4, 9)]));
        for other in [
            of(&[column("a", 25, -1, 0)]),
            of(&[column("ab", 25, -1, 0), column("", 23, 4, 1)]),
            of(&[column("a", 23, -1, 0), column("b", 23, 4, 1)]),
            of(&[column("a", 25, -1, 0), column("b", 23, 5, 1)]),
            signature(tag::NO_DATA, &[]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn equal_columns_are_good_for_the_new_version_and_others_stay_old() {
        let told = Told::default();
        assert!(!told.is_before(1));
        told.note(columns(25, -1), Some(vec![23]), 1, HERE);
        assert!(!told.is_before(1) && told.is_before(2));
        told.compare(columns(1043, 14), &[23], 2);
        assert!(told.is_before(2));
        told.compare(columns(25, -1), &[20], 2);
        assert!(told.is_before(2));
        told.compare(columns(25, -1), &[23], 2);
        assert!(!told.is_before(2) && told.is_before(3));
    }

    #[test]
    fn users_types_are_compared_on_the_shard_that_told_of_them() {
        let told = Told::default();
        told.note(columns(25, -1), Some(vec![23]), 1, HERE);
        assert_eq!(told.shard_to_ask(), None);
        told.note(columns(16_400, -1), None, 1, HERE);
        assert_eq!(told.shard_to_ask(), Some(HERE));
    }

    #[test]
    fn types_of_parameters_stay_as_they_were_told() {
        let told = Told::default();
        assert_eq!(told.fixed_types(&[0, 25]), [0, 25]);
        told.note(columns(25, -1), Some(vec![23, 25, 16_400, 701]), 1, HERE);
        assert_eq!(told.fixed_types(&[0, 25]), [23, 25, 0, 701]);
        // A portal's description says nothing of parameters.
        told.note(columns(25, -1), None, 2, HERE);
        assert_eq!(told.fixed_types(&[]), [23, 25, 0, 701]);
    }
}
