//! Canonical bytes: equal values have equal keys, others have different ones.
//!
//! Text is equal by bytes under every deterministic collation; a nondeterministic one must be
//! recognised before (it is a property of the column, not of the type).

use super::{Format, Value, comparability, read, type_oid as t};
use crate::base::numeric::Numeric;

/// Types whose values are equal exactly when their cells are, in either format: output depends on
/// nothing but what equality looks at, and input reads it back.
const EQUAL_BY_BYTES: &[u32] =
    &[t::TEXT, t::VARCHAR, t::NAME, t::XID, t::INET, t::CIDR, t::MACADDR, t::MACADDR8, t::BIT, t::VARBIT, t::PG_LSN];

/// Arrays, by their text only: the binary form has a flag for a NULL bitmap, and an array that was
/// cut out of one with NULLs keeps the bitmap.
const EQUAL_BY_TEXT: &[u32] =
    &[t::BOOL_ARRAY, t::INT2_ARRAY, t::INT4_ARRAY, t::INT8_ARRAY, t::TEXT_ARRAY, t::VARCHAR_ARRAY, t::UUID_ARRAY];

/// Whether [`equality_key`] knows the type.
pub fn has_equality(type_oid: u32, format: Format) -> bool {
    is_equal_by_bytes(type_oid, format) || comparability(type_oid) != super::Comparability::Unknown
}

fn is_equal_by_bytes(type_oid: u32, format: Format) -> bool {
    EQUAL_BY_BYTES.contains(&type_oid) || (format == Format::Text && EQUAL_BY_TEXT.contains(&type_oid))
}

/// Canonical bytes of a cell; `None` when the type's equality is not known or the cell cannot be read.
///
/// Keys are comparable only among cells of the same type and format.
pub fn equality_key(type_oid: u32, format: Format, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::new();
    append_equality_key(type_oid, format, bytes, &mut key).then_some(key)
}

/// Appends what [`equality_key`] gives; `false` where it gives `None`, and nothing is appended then.
pub fn append_equality_key(type_oid: u32, format: Format, bytes: &[u8], key: &mut Vec<u8>) -> bool {
    if is_equal_by_bytes(type_oid, format) {
        key.extend_from_slice(bytes);
        return true;
    }
    if type_oid == t::BPCHAR {
        key.extend_from_slice(read::without_padding(bytes));
        return true;
    }
    match Value::decode(type_oid, format, bytes) {
        Ok(value) => append_canonical(&value, key),
        Err(_) => false,
    }
}

fn append_canonical(value: &Value, key: &mut Vec<u8>) -> bool {
    match value {
        Value::Bool(value) => key.push(u8::from(*value)),
        Value::Int(value) => key.extend_from_slice(&value.to_be_bytes()),
        Value::Float4(value) => append_float(f64::from(*value), key),
        Value::Float8(value) => append_float(*value, key),
        Value::Numeric(value) => append_numeric(value, key),
        Value::Char(byte) => key.push(*byte),
        Value::Bytea(bytes) | Value::Text(bytes) => key.extend_from_slice(bytes),
        Value::Bpchar(bytes) => key.extend_from_slice(read::without_padding(bytes)),
        Value::Uuid(bytes) => key.extend_from_slice(bytes),
        Value::Date(days) => key.extend_from_slice(&days.to_be_bytes()),
        Value::Timestamp(us) | Value::TimestampTz(us) | Value::Time(us) => key.extend_from_slice(&us.to_be_bytes()),
        Value::Interval(span) => key.extend_from_slice(&span.to_be_bytes()),
        Value::Opaque(_) => return false,
    }
    true
}

/// One NaN, one zero.
fn append_float(value: f64, key: &mut Vec<u8>) {
    let canonical = if value.is_nan() {
        f64::NAN
    } else if value == 0.0 {
        0.0
    } else {
        value
    };
    key.extend_from_slice(&canonical.to_be_bytes());
}

fn append_numeric(value: &Numeric, key: &mut Vec<u8>) {
    match value {
        Numeric::NaN => key.push(b'n'),
        Numeric::Infinity => key.push(b'i'),
        Numeric::NegativeInfinity => key.push(b'j'),
        Numeric::Finite { unscaled, .. } => {
            let sign = if unscaled.sign() == num_bigint::Sign::Minus { b'-' } else { b'+' };
            key.push(sign);
            // A weight that does not fit cannot have been read; the digits alone would still be unequal
            // to those of another length.
            let (weight, digits) = value.base_10000().unwrap_or_default();
            key.extend_from_slice(&weight.to_be_bytes());
            for digit in digits {
                key.extend_from_slice(&digit.to_be_bytes());
            }
        }
    }
}
