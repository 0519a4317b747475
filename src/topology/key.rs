//! Values of sharding keys, typed as PostgreSQL types them.
//!
//! Readers are exact or silent: a value comes out only when PostgreSQL (15) would store the same one.
//!
//! Must not know: which column a value belongs to, how a statement is parsed.

use super::hash::without_trailing_blanks;
use crate::base::datetime::{is_date, is_timestamp, parse_date, parse_timestamp, parse_timestamp_tz};
use crate::base::numeric::Numeric;

/// Types that a sharding key may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// smallint
    Int2,
    /// integer
    Int4,
    /// bigint
    Int8,
    /// text
    Text,
    /// character varying
    Varchar,
    /// character(n)
    Bpchar,
    /// uuid
    Uuid,
    /// bytea
    Bytea,
    /// date
    Date,
    /// timestamp without time zone
    Timestamp,
    /// timestamp with time zone
    TimestampTz,
    /// numeric
    Numeric,
}

/// One value of a key column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyValue {
    /// smallint, integer, bigint: they hash alike.
    Int(i64),
    /// text, varchar: the bytes in the server's encoding (UTF-8).
    Text(Vec<u8>),
    /// character(n): trailing spaces do not count.
    Bpchar(Vec<u8>),
    /// uuid
    Uuid([u8; 16]),
    /// bytea
    Bytea(Vec<u8>),
    /// date: days since 2000-01-01
    Date(i32),
    /// timestamp and timestamptz: microseconds since 2000-01-01 (UTC)
    Timestamp(i64),
    /// numeric
    Numeric(Numeric),
}

impl KeyType {
    /// Every key type.
    pub const ALL: [Self; 12] = [
        Self::Int2,
        Self::Int4,
        Self::Int8,
        Self::Text,
        Self::Varchar,
        Self::Bpchar,
        Self::Uuid,
        Self::Bytea,
        Self::Date,
        Self::Timestamp,
        Self::TimestampTz,
        Self::Numeric,
    ];

    /// The key type of a PostgreSQL type OID; `None` when it cannot be a sharding key.
    pub fn from_oid(oid: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|key_type| key_type.oid() == oid)
    }

    /// OID of the type in every PostgreSQL.
    ///
    /// # Source
    /// `src/include/catalog/pg_type.dat`.
    pub fn oid(self) -> u32 {
        match self {
            Self::Int2 => 21,
            Self::Int4 => 23,
            Self::Int8 => 20,
            Self::Text => 25,
            Self::Varchar => 1043,
            Self::Bpchar => 1042,
            Self::Uuid => 2950,
            Self::Bytea => 17,
            Self::Date => 1082,
            Self::Timestamp => 1114,
            Self::TimestampTz => 1184,
            Self::Numeric => 1700,
        }
    }

    /// The type's name as PostgreSQL's `format_type` gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int2 => "smallint",
            Self::Int4 => "integer",
            Self::Int8 => "bigint",
            Self::Text => "text",
            Self::Varchar => "character varying",
            Self::Bpchar => "character",
            Self::Uuid => "uuid",
            Self::Bytea => "bytea",
            Self::Date => "date",
            Self::Timestamp => "timestamp without time zone",
            Self::TimestampTz => "timestamp with time zone",
            Self::Numeric => "numeric",
        }
    }

    /// Reads PostgreSQL's text input for this type; `None` when this reader is not sure that
    /// PostgreSQL would read the same value (the caller then asks a server or refuses).
    ///
    /// The bytes must be in the server's encoding, UTF-8.
    pub fn read_text(self, text: &[u8]) -> Option<KeyValue> {
        if let (Self::Int2 | Self::Int4 | Self::Int8, Some(value)) = (self, plain_integer(text)) {
            return self.int(value.into());
        }
        let string = std::str::from_utf8(text).ok().filter(|string| !string.contains('\0'))?;
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 => self.int(read_integer(string)?),
            Self::Text => Some(KeyValue::Text(text.to_vec())),
            Self::Varchar => varchar(text),
            Self::Bpchar => Some(KeyValue::Bpchar(without_trailing_blanks(text).to_vec())),
            Self::Uuid => read_uuid(text).map(KeyValue::Uuid),
            Self::Bytea => read_bytea(text).map(KeyValue::Bytea),
            Self::Date => parse_date(string).map(KeyValue::Date),
            Self::Timestamp => parse_timestamp(string).map(KeyValue::Timestamp),
            Self::TimestampTz => parse_timestamp_tz(string).map(KeyValue::Timestamp),
            Self::Numeric => Numeric::from_text(string).map(KeyValue::Numeric),
        }
    }

    /// Reads PostgreSQL's binary format for this type; `None` when PostgreSQL would refuse it or this
    /// reader is not sure.
    pub fn read_binary(self, bytes: &[u8]) -> Option<KeyValue> {
        match self {
            Self::Int2 => Some(KeyValue::Int(i64::from(i16::from_be_bytes(bytes.try_into().ok()?)))),
            Self::Int4 => Some(KeyValue::Int(i64::from(i32::from_be_bytes(bytes.try_into().ok()?)))),
            Self::Int8 => Some(KeyValue::Int(i64::from_be_bytes(bytes.try_into().ok()?))),
            // The binary and the text format of these are the same bytes.
            Self::Text | Self::Varchar | Self::Bpchar => self.read_text(bytes),
            Self::Uuid => Some(KeyValue::Uuid(bytes.try_into().ok()?)),
            Self::Bytea => Some(KeyValue::Bytea(bytes.to_vec())),
            Self::Date => {
                let days = i32::from_be_bytes(bytes.try_into().ok()?);
                is_date(days).then_some(KeyValue::Date(days))
            }
            Self::Timestamp | Self::TimestampTz => {
                let us = i64::from_be_bytes(bytes.try_into().ok()?);
                is_timestamp(us).then_some(KeyValue::Timestamp(us))
            }
            Self::Numeric => Numeric::from_binary(bytes).map(KeyValue::Numeric),
        }
    }

    /// Reads a numeric literal that is assigned to or compared with a key of this type.
    ///
    /// `digits` is the literal without sign, `is_decimal` says that it has a point or an exponent, so
    /// that PostgreSQL types it numeric. An integer key takes `42.0`; a fraction or a number out of
    /// range gives `None`, as do types that have no comparison with numbers.
    pub fn read_number(self, digits: &str, is_decimal: bool, negative: bool) -> Option<KeyValue> {
        let sign = if negative { "-" } else { "" };
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 => {
                let magnitude = if is_decimal { whole_part(digits)? } else { read_digits(digits)? };
                self.int(if negative { -magnitude } else { magnitude })
            }
            Self::Numeric => {
                is_number(digits).then_some(())?;
                Numeric::from_text(&format!("{sign}{digits}")).map(KeyValue::Numeric)
            }
            _ => None,
        }
    }

    fn int(self, value: i128) -> Option<KeyValue> {
        let value = i64::try_from(value).ok()?;
        let fits = match self {
            Self::Int2 => i16::try_from(value).is_ok(),
            Self::Int4 => i32::try_from(value).is_ok(),
            _ => true,
        };
        fits.then_some(KeyValue::Int(value))
    }
}

/// varchar(n) drops blanks beyond its length on assignment, and the length is not known here: text
/// with trailing blanks is not sure.
fn varchar(text: &[u8]) -> Option<KeyValue> {
    (!text.ends_with(b" ")).then(|| KeyValue::Text(text.to_vec()))
}

/// As [`read_integer`], for what programs write: digits alone, so few that they fit. COPY reads one with every row.
fn plain_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if !(1..=18).contains(&digits.len()) {
        return None;
    }
    let mut value = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i64::from(digit);
    }
    Some(if digits.len() < text.len() { -value } else { value })
}

/// Sign and decimal digits within white space: what PostgreSQL 14, 15 and newer all accept.
///
/// # Source
/// `pg_strtoint64` in `src/backend/utils/adt/numutils.c`; underscores and 0x are newer than 15.
fn read_integer(text: &str) -> Option<i128> {
    let text = text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    match text.strip_prefix('-') {
        Some(digits) => read_digits(digits).map(|magnitude| -magnitude),
        None => read_digits(text.strip_prefix('+').unwrap_or(text)),
    }
}

/// Decimal digits only, at least one, leading zeros allowed.
fn read_digits(digits: &str) -> Option<i128> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_start_matches('0');
    // Nineteen digits hold every bigint.
    match significant.len() {
        0 => Some(0),
        1..=19 => significant.parse().ok(),
        _ => None,
    }
}

/// A decimal literal: digits with a point and an exponent, as PostgreSQL's lexer has it.
fn is_number(digits: &str) -> bool {
    split_number(digits).is_some()
}

/// Whole part, fraction and exponent of a decimal literal.
fn split_number(digits: &str) -> Option<(&str, &str, i32)> {
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            // More digits than these give a number that no key can hold.
            if unsigned.is_empty() || unsigned.len() > 5 || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            (mantissa, exponent.parse().ok()?)
        }
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    (all_digits && !(whole.is_empty() && fraction.is_empty())).then_some((whole, fraction, exponent))
}

/// The value of a decimal literal that has no fraction.
fn whole_part(digits: &str) -> Option<i128> {
    let (whole, fraction, exponent) = split_number(digits)?;
    let mut mantissa = format!("{whole}{fraction}");
    let mut scale = i64::from(exponent) - fraction.len() as i64;
    let significant = mantissa.trim_end_matches('0').len();
    scale += (mantissa.len() - significant) as i64;
    mantissa.truncate(significant);
    let mantissa = mantissa.trim_start_matches('0');
    if mantissa.is_empty() {
        return Some(0);
    }
    let zeros = usize::try_from(scale).ok().filter(|zeros| *zeros <= 19)?;
    read_digits(&format!("{mantissa}{}", "0".repeat(zeros)))
}

/// Hexadecimal digits with an optional hyphen after every fourth, optionally in braces.
///
/// # Source
/// `string_to_uuid` in `src/backend/utils/adt/uuid.c`.
fn read_uuid(text: &[u8]) -> Option<[u8; 16]> {
    let mut rest = text;
    let braces = match rest.strip_prefix(b"{") {
        Some(inner) => {
            rest = inner;
            true
        }
        None => false,
    };
    let mut uuid = [0_u8; 16];
    for (index, byte) in uuid.iter_mut().enumerate() {
        let (pair, after) = rest.split_at_checked(2)?;
        *byte = read_hex_pair(pair)?;
        rest = match after.strip_prefix(b"-") {
            Some(after) if index % 2 == 1 && index < 15 => after,
            _ => after,
        };
    }
    let end: &[u8] = if braces { b"}" } else { b"" };
    (rest == end).then_some(uuid)
}

fn read_hex_pair(pair: &[u8]) -> Option<u8> {
    match pair {
        [high, low] => Some(hex_digit(*high)? << 4 | hex_digit(*low)?),
        _ => None,
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Hex format (`\x` and pairs, white space between pairs) or escape format.
///
/// # Source
/// `byteain` in `src/backend/utils/adt/varlena.c`, `hex_decode` in `encode.c`.
fn read_bytea(text: &[u8]) -> Option<Vec<u8>> {
    match text.strip_prefix(b"\\x") {
        Some(hex) => read_bytea_hex(hex),
        None => read_bytea_escape(text),
    }
}

fn read_bytea_hex(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(rest.len() / 2);
    while let Some((first, after)) = rest.split_first() {
        if matches!(first, b' ' | b'\n' | b'\t' | b'\r') {
            rest = after;
            continue;
        }
        let (pair, after) = rest.split_at_checked(2)?;
        bytes.push(read_hex_pair(pair)?);
        rest = after;
    }
    Some(bytes)
}

fn read_bytea_escape(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(rest.len());
    loop {
        match rest {
            [] => return Some(bytes),
            [b'\\', b'\\', after @ ..] => {
                bytes.push(b'\\');
                rest = after;
            }
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            [b'\\', ..] => return None,
            [byte, after @ ..] => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(key_type: KeyType, text: &str) -> Option<KeyValue> {
        key_type.read_text(text.as_bytes())
    }

    #[test]
    fn integers_keep_to_the_range_of_their_type() {
        assert_eq!(text(KeyType::Int2, "32768"), None);
        assert_eq!(text(KeyType::Int4, "32768"), Some(KeyValue::Int(32_768)));
        assert_eq!(text(KeyType::Int4, "-2147483649"), None);
        assert_eq!(text(KeyType::Int8, "9223372036854775808"), None);
        for wrong in ["", " ", "-", "+-1", "1 2", "1.0", "0x10", "1_000", "٣"] {
            assert_eq!(text(KeyType::Int8, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn plain_integers_are_read_as_all_others() {
        for number in
            [0, 1, 9, 10, -1, 32_767, -32_768, 999_999_999_999_999_999, -999_999_999_999_999_999, i64::MAX, i64::MIN]
        {
            for written in [format!("{number}"), format!(" {number}"), format!("{number:022}")] {
                let expected = read_integer(&written).and_then(|value| KeyType::Int8.int(value));
                assert_eq!(expected, Some(KeyValue::Int(number)), "{written}");
                assert_eq!(text(KeyType::Int8, &written), expected, "{written}");
            }
        }
        assert_eq!(text(KeyType::Int4, "-"), None);
        assert_eq!(text(KeyType::Int4, "1:"), None);
        assert_eq!(text(KeyType::Int4, "1/"), None);
    }

    #[test]
    fn a_number_is_an_integer_key_only_without_a_fraction() {
        let int = |digits, decimal, negative| KeyType::Int4.read_number(digits, decimal, negative);
        assert_eq!(int("42", false, false), Some(KeyValue::Int(42)));
        assert_eq!(int("42", false, true), Some(KeyValue::Int(-42)));
        assert_eq!(int("42.0", true, false), Some(KeyValue::Int(42)));
        assert_eq!(int("42.", true, true), Some(KeyValue::Int(-42)));
        assert_eq!(int("4.2e1", true, false), Some(KeyValue::Int(42)));
        assert_eq!(int("4200e-2", true, false), Some(KeyValue::Int(42)));
        assert_eq!(int(".0", true, false), Some(KeyValue::Int(0)));
        for (digits, decimal) in
            [("42.5", true), ("42e-1", true), ("1e99999", true), ("3000000000", false), (".", true)]
        {
            assert_eq!(int(digits, decimal, false), None, "{digits}");
        }
        assert_eq!(
            KeyType::Int8.read_number("9223372036854775808", false, true),
            Some(KeyValue::Int(i64::MIN)),
            "the least bigint is written with more digits than the greatest"
        );
    }

    #[test]
    fn a_number_is_a_numeric_key_with_its_sign() {
        let read = KeyType::Numeric.read_number("1.50", true, true);
        assert_eq!(read, text(KeyType::Numeric, "-1.50"));
        assert_eq!(KeyType::Numeric.read_number("NaN", true, false), None);
        assert_eq!(KeyType::Text.read_number("42", false, false), None);
    }

    #[test]
    fn varchar_with_trailing_blanks_is_not_sure() {
        assert_eq!(text(KeyType::Varchar, "abc "), None);
        assert_eq!(text(KeyType::Text, "abc "), Some(KeyValue::Text(b"abc ".to_vec())));
    }

    #[test]
    fn binary_of_another_width_is_not_read() {
        assert_eq!(KeyType::Int4.read_binary(&[0, 1]), None);
        assert_eq!(KeyType::Int8.read_binary(&[0; 9]), None);
        assert_eq!(KeyType::Uuid.read_binary(&[0; 15]), None);
        assert_eq!(KeyType::Text.read_binary(&[0xff]), None);
    }

    #[test]
    fn oids_come_back() {
        for key_type in KeyType::ALL {
            assert_eq!(KeyType::from_oid(key_type.oid()), Some(key_type));
        }
        assert_eq!(KeyType::from_oid(701), None);
    }
}
