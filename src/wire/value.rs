//! Values in text and binary format, as far as results of several shards must be compared and combined.
//!
//! Only types whose order and equality are known exactly have a variant of their own; every other
//! type is opaque and can be passed on, nothing else. Must not know: collations (text compares by
//! bytes; whether that is right for a column is the planner's to prove), rows, merges.
//!
//! # Source
//! The send, receive and comparison functions in `src/backend/utils/adt/` of PostgreSQL 15.

mod equality;
mod float;
mod read;

use std::cmp::Ordering;

use bytes::Bytes;

use super::Format;
use crate::base::datetime::{is_date, is_timestamp, parse_date, parse_timestamp, parse_timestamp_tz};
use crate::base::datetime::{print_date, print_timestamp};
use crate::base::numeric::Numeric;

pub use equality::{append_equality_key, equality_key, has_equality};

/// OIDs of built-in types (`pg_type.dat`); they are the same on every server.
#[allow(missing_docs)]
pub mod type_oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const CHAR: u32 = 18;
    pub const NAME: u32 = 19;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const OID: u32 = 26;
    pub const XID: u32 = 28;
    pub const JSON: u32 = 114;
    pub const CIDR: u32 = 650;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const UNKNOWN: u32 = 705;
    pub const MACADDR8: u32 = 774;
    pub const MONEY: u32 = 790;
    pub const MACADDR: u32 = 829;
    pub const INET: u32 = 869;
    pub const BOOL_ARRAY: u32 = 1000;
    pub const INT2_ARRAY: u32 = 1005;
    pub const INT4_ARRAY: u32 = 1007;
    pub const TEXT_ARRAY: u32 = 1009;
    pub const VARCHAR_ARRAY: u32 = 1015;
    pub const INT8_ARRAY: u32 = 1016;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMP_TZ: u32 = 1184;
    pub const INTERVAL: u32 = 1186;
    pub const BIT: u32 = 1560;
    pub const VARBIT: u32 = 1562;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
    pub const UUID_ARRAY: u32 = 2951;
    pub const PG_LSN: u32 = 3220;
}

/// Microseconds of a day, the end of the type time.
const TIME_US_MAX: i64 = 86_400_000_000;

/// Why a cell cannot be read or written as its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The bytes are not a value of the type, or not in the one form that is read: a date that is
    /// not ISO text, for instance.
    #[error("value of type {type_oid} cannot be read")]
    Unreadable {
        /// The type.
        type_oid: u32,
    },
    /// The value does not fit the type, or its text depends on settings of the session.
    #[error("value cannot be written as type {type_oid}")]
    Unwritable {
        /// The type.
        type_oid: u32,
    },
}

/// What is known about the order of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparability {
    /// [`Value::compare`] is the type's btree order.
    Exact,
    /// It is, if the collation compares bytes.
    Collated,
    /// Nothing is known: opaque.
    Unknown,
}

/// One value that is not NULL.
#[derive(Clone, Debug)]
pub enum Value {
    /// boolean
    Bool(bool),
    /// smallint, integer, bigint, oid
    Int(i64),
    /// real
    Float4(f32),
    /// double precision
    Float8(f64),
    /// numeric
    Numeric(Numeric),
    /// text, character varying, name
    Text(Bytes),
    /// character(n), with its trailing spaces
    Bpchar(Bytes),
    /// "char"
    Char(u8),
    /// bytea
    Bytea(Bytes),
    /// uuid
    Uuid([u8; 16]),
    /// date: days since 2000-01-01
    Date(i32),
    /// timestamp: microseconds since 2000-01-01
    Timestamp(i64),
    /// timestamptz: microseconds since 2000-01-01 UTC
    TimestampTz(i64),
    /// time: microseconds since midnight
    Time(i64),
    /// interval, as it compares: microseconds with days of 24 hours and months of 30 days
    Interval(i128),
    /// Any other type: its bytes as they came.
    Opaque(Bytes),
}

/// What is known about the order of a type.
pub fn comparability(type_oid: u32) -> Comparability {
    use self::type_oid as t;
    match type_oid {
        t::BOOL | t::BYTEA | t::CHAR | t::INT8 | t::INT2 | t::INT4 | t::OID | t::FLOAT4 | t::FLOAT8 => {
            Comparability::Exact
        }
        t::DATE | t::TIME | t::TIMESTAMP | t::TIMESTAMP_TZ | t::INTERVAL | t::NUMERIC | t::UUID => Comparability::Exact,
        t::TEXT | t::VARCHAR | t::BPCHAR | t::NAME => Comparability::Collated,
        _ => Comparability::Unknown,
    }
}

impl Value {
    /// Reads a cell, copying what has to be kept.
    ///
    /// # Errors
    /// [`ValueError::Unreadable`].
    pub fn decode(type_oid: u32, format: Format, bytes: &[u8]) -> Result<Self, ValueError> {
        Self::decode_with(type_oid, format, bytes, Bytes::copy_from_slice)
    }

    /// Reads a cell of a row; text keeps a reference to the row instead of a copy.
    ///
    /// # Errors
    /// [`ValueError::Unreadable`], also when the range is not inside the row.
    pub fn decode_shared(
        type_oid: u32,
        format: Format,
        row: &Bytes,
        range: std::ops::Range<usize>,
    ) -> Result<Self, ValueError> {
        let cell = row.get(range).ok_or(ValueError::Unreadable { type_oid })?;
        Self::decode_with(type_oid, format, cell, |kept| row.slice_ref(kept))
    }

    fn decode_with(
        type_oid: u32,
        format: Format,
        bytes: &[u8],
        keep: impl FnOnce(&[u8]) -> Bytes,
    ) -> Result<Self, ValueError> {
        use self::type_oid as t;
        let value = match (type_oid, format) {
            (t::TEXT | t::VARCHAR | t::NAME, _) => Some(Self::Text(keep(bytes))),
            (t::BPCHAR, _) => Some(Self::Bpchar(keep(bytes))),
            (t::BYTEA, Format::Binary) => Some(Self::Bytea(keep(bytes))),
            (t::BYTEA, Format::Text) => read::bytea(bytes).map(|value| Self::Bytea(value.into())),
            (_, Format::Binary) if comparability(type_oid) == Comparability::Exact => {
                Self::decode_binary(type_oid, bytes)
            }
            (_, Format::Text) if comparability(type_oid) == Comparability::Exact => Self::decode_text(type_oid, bytes),
            _ => Some(Self::Opaque(keep(bytes))),
        };
        value.ok_or(ValueError::Unreadable { type_oid })
    }

    fn decode_binary(type_oid: u32, bytes: &[u8]) -> Option<Self> {
        use self::type_oid as t;
        Some(match type_oid {
            t::BOOL => Self::Bool(u8::from_be_bytes(bytes.try_into().ok()?) != 0),
            t::INT2 => Self::Int(i16::from_be_bytes(bytes.try_into().ok()?).into()),
            t::INT4 => Self::Int(i32::from_be_bytes(bytes.try_into().ok()?).into()),
            t::INT8 => Self::Int(i64::from_be_bytes(bytes.try_into().ok()?)),
            t::OID => Self::Int(u32::from_be_bytes(bytes.try_into().ok()?).into()),
            t::FLOAT4 => Self::Float4(f32::from_be_bytes(bytes.try_into().ok()?)),
            t::FLOAT8 => Self::Float8(f64::from_be_bytes(bytes.try_into().ok()?)),
            t::NUMERIC => Self::Numeric(Numeric::from_binary(bytes)?),
            t::CHAR => Self::Char(u8::from_be_bytes(bytes.try_into().ok()?)),
            t::UUID => Self::Uuid(bytes.try_into().ok()?),
            t::DATE => Self::Date(Some(i32::from_be_bytes(bytes.try_into().ok()?)).filter(|days| is_date(*days))?),
            t::TIMESTAMP => Self::Timestamp(binary_timestamp(bytes)?),
            t::TIMESTAMP_TZ => Self::TimestampTz(binary_timestamp(bytes)?),
            t::TIME => {
                let us = i64::from_be_bytes(bytes.try_into().ok()?);
                Self::Time(Some(us).filter(|us| (0..=TIME_US_MAX).contains(us))?)
            }
            t::INTERVAL => Self::Interval(read::interval_binary(bytes)?),
            _ => return None,
        })
    }

    fn decode_text(type_oid: u32, bytes: &[u8]) -> Option<Self> {
        use self::type_oid as t;
        if type_oid == t::CHAR {
            return read::char(bytes).map(Self::Char);
        }
        let text = std::str::from_utf8(bytes).ok()?;
        Some(match type_oid {
            t::BOOL => Self::Bool(read::bool(text)?),
            t::INT2 => Self::Int(text.trim().parse::<i16>().ok()?.into()),
            t::INT4 => Self::Int(text.trim().parse::<i32>().ok()?.into()),
            t::INT8 => Self::Int(text.trim().parse().ok()?),
            t::OID => Self::Int(text.trim().parse::<u32>().ok()?.into()),
            t::FLOAT4 => Self::Float4(float::read_float4(text)?),
            t::FLOAT8 => Self::Float8(float::read_float8(text)?),
            t::NUMERIC => Self::Numeric(Numeric::from_text(text)?),
            t::UUID => Self::Uuid(read::uuid(text)?),
            t::DATE => Self::Date(parse_date(text)?),
            t::TIMESTAMP => Self::Timestamp(parse_timestamp(text)?),
            t::TIMESTAMP_TZ => Self::TimestampTz(parse_timestamp_tz(text)?),
            t::TIME => Self::Time(read::time(text)?),
            t::INTERVAL => Self::Interval(read::interval_text(text)?),
            _ => return None,
        })
    }

    /// Appends the value as a cell of the given type and format, as PostgreSQL prints or sends it.
    ///
    /// # Errors
    /// [`ValueError::Unwritable`]; nothing is appended then.
    pub fn encode(&self, type_oid: u32, format: Format, cell: &mut Vec<u8>) -> Result<(), ValueError> {
        let written = match format {
            Format::Text => self.encode_text(type_oid, cell),
            Format::Binary => self.encode_binary(type_oid, cell),
        };
        written.ok_or(ValueError::Unwritable { type_oid })
    }

    fn encode_text(&self, type_oid: u32, cell: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Bool(value) => cell.push(if *value { b't' } else { b'f' }),
            Self::Int(value) => cell.extend_from_slice(fit_integer(*value, type_oid)?.to_string().as_bytes()),
            Self::Float4(value) => cell.extend_from_slice(float::print_float4(*value).as_bytes()),
            Self::Float8(value) => cell.extend_from_slice(float::print_float8(*value).as_bytes()),
            Self::Numeric(value) => cell.extend_from_slice(value.to_text().as_bytes()),
            Self::Text(bytes) | Self::Bpchar(bytes) | Self::Opaque(bytes) => cell.extend_from_slice(bytes),
            Self::Uuid(bytes) => read::print_uuid(bytes, cell),
            Self::Date(days) => cell.extend_from_slice(print_date(*days).as_bytes()),
            Self::Timestamp(us) => cell.extend_from_slice(print_timestamp(*us).as_bytes()),
            // Their text depends on settings of the session: time zone, bytea_output, IntervalStyle.
            Self::TimestampTz(_) | Self::Bytea(_) | Self::Interval(_) | Self::Char(_) | Self::Time(_) => return None,
        }
        Some(())
    }

    fn encode_binary(&self, type_oid: u32, cell: &mut Vec<u8>) -> Option<()> {
        use self::type_oid as t;
        match self {
            Self::Bool(value) => cell.push(u8::from(*value)),
            Self::Int(value) => match type_oid {
                t::INT2 => cell.extend_from_slice(&i16::try_from(*value).ok()?.to_be_bytes()),
                t::INT4 => cell.extend_from_slice(&i32::try_from(*value).ok()?.to_be_bytes()),
                t::INT8 => cell.extend_from_slice(&value.to_be_bytes()),
                t::OID => cell.extend_from_slice(&u32::try_from(*value).ok()?.to_be_bytes()),
                _ => return None,
            },
            Self::Float4(value) => cell.extend_from_slice(&value.to_be_bytes()),
            Self::Float8(value) => cell.extend_from_slice(&value.to_be_bytes()),
            Self::Numeric(value) => cell.extend_from_slice(&value.to_binary()),
            Self::Text(bytes) | Self::Bpchar(bytes) | Self::Opaque(bytes) | Self::Bytea(bytes) => {
                cell.extend_from_slice(bytes);
            }
            Self::Char(byte) => cell.push(*byte),
            Self::Uuid(bytes) => cell.extend_from_slice(bytes),
            Self::Date(days) => cell.extend_from_slice(&days.to_be_bytes()),
            Self::Timestamp(us) | Self::TimestampTz(us) | Self::Time(us) => cell.extend_from_slice(&us.to_be_bytes()),
            // Only the span is kept, not months, days and time.
            Self::Interval(_) => return None,
        }
        Some(())
    }

    /// The type's btree order; text and name compare by bytes. Integers, numeric and floats compare
    /// among one another too: exactly among integers and numeric, as double precision with a float.
    ///
    /// Total also over values of unrelated types, where it means nothing.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Numeric(a), Self::Numeric(b)) => a.cmp(b),
            (Self::Int(a), Self::Numeric(b)) => Numeric::from_i64(*a).cmp(b),
            (Self::Numeric(a), Self::Int(b)) => a.cmp(&Numeric::from_i64(*b)),
            (Self::Float4(a), Self::Float4(b)) => float::compare(f64::from(*a), f64::from(*b)),
            (Self::Text(a), Self::Text(b)) | (Self::Bytea(a), Self::Bytea(b)) | (Self::Opaque(a), Self::Opaque(b)) => {
                a.cmp(b)
            }
            (Self::Bpchar(a), Self::Bpchar(b)) => read::without_padding(a).cmp(read::without_padding(b)),
            (Self::Char(a), Self::Char(b)) => a.cmp(b),
            (Self::Uuid(a), Self::Uuid(b)) => a.cmp(b),
            (Self::Date(a), Self::Date(b)) => a.cmp(b),
            (Self::Timestamp(a), Self::Timestamp(b))
            | (Self::TimestampTz(a), Self::TimestampTz(b))
            | (Self::Time(a), Self::Time(b)) => a.cmp(b),
            (Self::Interval(a), Self::Interval(b)) => a.cmp(b),
            _ => match (self.as_float8(), other.as_float8()) {
                (Some(a), Some(b)) => float::compare(a, b),
                _ => self.rank().cmp(&other.rank()),
            },
        }
    }

    /// The implicit cast to double precision.
    fn as_float8(&self) -> Option<f64> {
        match self {
            // PostgreSQL's cast is C's, which rounds to nearest even, as `as` does.
            #[allow(clippy::cast_precision_loss)]
            Self::Int(value) => Some(*value as f64),
            Self::Float4(value) => Some(f64::from(*value)),
            Self::Float8(value) => Some(*value),
            // Out of range is an error there; here the order is kept.
            Self::Numeric(value) => value.to_text().parse().ok(),
            _ => None,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Bool(_) => 0,
            Self::Int(_) | Self::Float4(_) | Self::Float8(_) | Self::Numeric(_) => 1,
            Self::Text(_) => 2,
            Self::Bpchar(_) => 3,
            Self::Char(_) => 4,
            Self::Bytea(_) => 5,
            Self::Uuid(_) => 6,
            Self::Date(_) => 7,
            Self::Timestamp(_) => 8,
            Self::TimestampTz(_) => 9,
            Self::Time(_) => 10,
            Self::Interval(_) => 11,
            Self::Opaque(_) => 12,
        }
    }
}

/// The number, if it is in the type's range.
fn fit_integer(value: i64, type_oid: u32) -> Option<i64> {
    use self::type_oid as t;
    let fits = match type_oid {
        t::INT2 => i16::try_from(value).is_ok(),
        t::INT4 => i32::try_from(value).is_ok(),
        t::OID => u32::try_from(value).is_ok(),
        t::INT8 => true,
        _ => false,
    };
    fits.then_some(value)
}

fn binary_timestamp(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(bytes.try_into().ok()?)).filter(|us| is_timestamp(*us))
}

#[cfg(test)]
mod tests;
