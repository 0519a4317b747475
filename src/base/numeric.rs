//! PostgreSQL's numeric, exact: text and binary forms, comparison, addition, division.
//!
//! Division chooses its scale and rounds as PostgreSQL does, because averages that the merge computes
//! must be the same text as one server would print.
//!
//! # Source
//! `src/backend/utils/adt/numeric.c` of PostgreSQL 15.

use std::cmp::Ordering;

use num_bigint::{BigInt, Sign};
use num_traits::{Signed, ToPrimitive, Zero};

/// Most digits after the decimal point that PostgreSQL stores.
const DSCALE_MAX: i64 = 0x3fff;

/// Most digits before the decimal point that PostgreSQL stores: weight fits 16 bits, base 10,000.
const INTEGER_DIGITS_MAX: i64 = 4 * (i16::MAX as i64 + 1);

/// Significant digits that a division gives at least (`NUMERIC_MIN_SIG_DIGITS`).
const DIVISION_SIGNIFICANT_DIGITS_MIN: i64 = 16;

/// Digits after the point that a division gives at most (`NUMERIC_MAX_DISPLAY_SCALE`).
const DIVISION_DSCALE_MAX: i64 = 1000;

const SIGN_NEGATIVE: u16 = 0x4000;
const SIGN_NAN: u16 = 0xc000;
const SIGN_INFINITY: u16 = 0xd000;
const SIGN_NEGATIVE_INFINITY: u16 = 0xf000;

/// What `numeric_send` sends as an infinity's scale: bits of its header, without meaning.
const INFINITY_DSCALE: u16 = 32;

/// An exact decimal number, NaN or an infinity.
///
/// Equality and order are PostgreSQL's: `1.0 = 1.00`, NaN equals itself and is the greatest.
#[derive(Clone, Debug)]
pub enum Numeric {
    /// Not a number: above everything, equal to itself.
    NaN,
    /// Below NaN, above everything else.
    Infinity,
    /// Below everything else.
    NegativeInfinity,
    /// `unscaled / 10^dscale`.
    Finite {
        /// All digits as one integer.
        unscaled: BigInt,
        /// Digits after the decimal point.
        ///
        /// # Units
        /// 0 to 16,383.
        dscale: u16,
    },
}

impl Numeric {
    /// Reads PostgreSQL's text input, exponent included; `None` when PostgreSQL 15 would not accept it.
    ///
    /// Hexadecimal digits and underscores (PostgreSQL 16) and blanks inside an exponent are not accepted.
    pub fn from_text(text: &str) -> Option<Self> {
        let text = text.trim_matches(is_space);
        let (negative, body) = match text.as_bytes().first()? {
            b'-' => (true, text.get(1..)?),
            b'+' => (false, text.get(1..)?),
            _ => (false, text),
        };
        if body.eq_ignore_ascii_case("infinity") || body.eq_ignore_ascii_case("inf") {
            return Some(if negative { Self::NegativeInfinity } else { Self::Infinity });
        }
        if text.eq_ignore_ascii_case("nan") {
            return Some(Self::NaN);
        }
        let (mantissa, exponent) = match body.find(['e', 'E']) {
            Some(at) => (body.get(..at)?, read_exponent(body.get(at + 1..)?)?),
            None => (body, 0),
        };
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if integer.is_empty() && fraction.is_empty() {
            return None;
        }
        if !integer.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Self::from_decimal(negative, integer, fraction, exponent)
    }

    /// From digits before and after the point and an exponent of ten.
    fn from_decimal(negative: bool, integer: &str, fraction: &str, exponent: i64) -> Option<Self> {
        let fraction_digits = i64::try_from(fraction.len()).ok()?;
        let dscale = (fraction_digits - exponent).max(0);
        if dscale > DSCALE_MAX {
            return None;
        }
        let leading_zeros = integer.bytes().chain(fraction.bytes()).take_while(|byte| *byte == b'0').count();
        let digits = i64::try_from(integer.len()).ok()? + fraction_digits - i64::try_from(leading_zeros).ok()?;
        if digits == 0 {
            return Some(Self::Finite { unscaled: BigInt::zero(), dscale: u16::try_from(dscale).ok()? });
        }
        if digits - fraction_digits + exponent > INTEGER_DIGITS_MAX {
            return None;
        }
        let mut unscaled = if integer.len() + fraction.len() <= 18 {
            let value =
                integer.bytes().chain(fraction.bytes()).fold(0i64, |sum, byte| sum * 10 + i64::from(byte - b'0'));
            BigInt::from(value)
        } else {
            BigInt::parse_bytes(format!("{integer}{fraction}").as_bytes(), 10)?
        };
        let trailing = exponent - fraction_digits;
        if trailing > 0 {
            unscaled *= power_of_ten(u32::try_from(trailing).ok()?);
        }
        if negative {
            unscaled = -unscaled;
        }
        Some(Self::Finite { unscaled, dscale: u16::try_from(dscale).ok()? })
    }

    /// Reads the wire's binary form; `None` when `numeric_recv` would not accept it.
    ///
    /// Digits beyond the display scale are cut off, as the server does.
    pub fn from_binary(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.chunks_exact(2).map(|pair| match pair {
            [high, low] => u16::from_be_bytes([*high, *low]),
            _ => 0,
        });
        if !bytes.len().is_multiple_of(2) {
            return None;
        }
        let count = usize::from(words.next()?);
        let weight = i64::from(words.next()?.cast_signed());
        let sign = words.next()?;
        let dscale = words.next()?;
        if words.len() != count || i64::from(dscale) > DSCALE_MAX {
            return None;
        }
        match sign {
            SIGN_NAN => return Some(Self::NaN),
            SIGN_INFINITY => return Some(Self::Infinity),
            SIGN_NEGATIVE_INFINITY => return Some(Self::NegativeInfinity),
            0 | SIGN_NEGATIVE => {}
            _ => return None,
        }
        let mut radix_100 = Vec::with_capacity(count * 2);
        for digit in words {
            if digit > 9999 {
                return None;
            }
            radix_100.push(u8::try_from(digit / 100).ok()?);
            radix_100.push(u8::try_from(digit % 100).ok()?);
        }
        let magnitude = match radix_100.as_slice() {
            [] => BigInt::zero(),
            digits => BigInt::from_radix_be(Sign::Plus, digits, 100)?,
        };
        // The last digit stands at 10000^(weight - count + 1).
        let exponent = 4 * (weight - i64::try_from(count).ok()? + 1);
        let mut unscaled = shift_truncating(magnitude, exponent + i64::from(dscale))?;
        if sign == SIGN_NEGATIVE {
            unscaled = -unscaled;
        }
        Some(Self::Finite { unscaled, dscale })
    }

    /// PostgreSQL's text output.
    pub fn to_text(&self) -> String {
        let (unscaled, dscale) = match self {
            Self::NaN => return "NaN".to_owned(),
            Self::Infinity => return "Infinity".to_owned(),
            Self::NegativeInfinity => return "-Infinity".to_owned(),
            Self::Finite { unscaled, dscale } => (unscaled, usize::from(*dscale)),
        };
        let digits = unscaled.magnitude().to_string();
        let sign = if unscaled.is_negative() { "-" } else { "" };
        if dscale == 0 {
            return format!("{sign}{digits}");
        }
        let padded = format!("{digits:0>width$}", width = dscale + 1);
        let (integer, fraction) = padded.split_at(padded.len() - dscale);
        format!("{sign}{integer}.{fraction}")
    }

    /// The wire's binary form, as `numeric_send` writes it.
    pub fn to_binary(&self) -> Vec<u8> {
        let (sign, dscale) = match self {
            Self::NaN => (SIGN_NAN, 0),
            Self::Infinity => (SIGN_INFINITY, INFINITY_DSCALE),
            Self::NegativeInfinity => (SIGN_NEGATIVE_INFINITY, INFINITY_DSCALE),
            Self::Finite { unscaled, dscale } => (if unscaled.is_negative() { SIGN_NEGATIVE } else { 0 }, *dscale),
        };
        let (weight, digits) = self.base_10000().unwrap_or_default();
        let count = u16::try_from(digits.len()).unwrap_or(u16::MAX);
        let mut bytes = Vec::with_capacity(8 + digits.len() * 2);
        bytes.extend_from_slice(&count.to_be_bytes());
        bytes.extend_from_slice(&weight.to_be_bytes());
        bytes.extend_from_slice(&sign.to_be_bytes());
        bytes.extend_from_slice(&dscale.to_be_bytes());
        for digit in digits {
            bytes.extend_from_slice(&digit.to_be_bytes());
        }
        bytes
    }

    /// An integer, scale 0.
    pub fn from_i64(value: i64) -> Self {
        Self::Finite { unscaled: BigInt::from(value), dscale: 0 }
    }

    /// An integer, scale 0.
    pub fn from_i128(value: i128) -> Self {
        Self::Finite { unscaled: BigInt::from(value), dscale: 0 }
    }

    /// Weight and base-10,000 digits of the magnitude, leading and trailing zero digits stripped;
    /// zero is `(0, [])`, NaN and infinities are `None`.
    ///
    /// # Units
    /// The first digit stands for `digit * 10000^weight`.
    pub fn base_10000(&self) -> Option<(i16, Vec<i16>)> {
        let Self::Finite { unscaled, dscale } = self else { return None };
        if unscaled.is_zero() {
            return Some((0, Vec::new()));
        }
        let padding = (4 - u32::from(*dscale) % 4) % 4;
        let radix_100 = if padding == 0 {
            unscaled.magnitude().to_radix_le(100)
        } else {
            (unscaled * power_of_ten(padding)).magnitude().to_radix_le(100)
        };
        let fraction_digits = (i64::from(*dscale) + i64::from(padding)) / 4;
        let mut digits: Vec<i16> = radix_100
            .chunks(2)
            .map(|pair| match pair {
                [low, high] => i16::from(*high) * 100 + i16::from(*low),
                [low] => i16::from(*low),
                _ => 0,
            })
            .rev()
            .collect();
        // The most significant digit of a number's own radix form is never zero: nothing leads.
        let weight = i64::try_from(digits.len()).ok()? - fraction_digits - 1;
        while digits.last() == Some(&0) {
            digits.pop();
        }
        Some((i16::try_from(weight).ok()?, digits))
    }

    /// Whether PostgreSQL could not store it: more than 131,072 digits before the point.
    pub fn overflows(&self) -> bool {
        match self {
            // A decimal digit takes 3.3 bits: below this nothing needs counting.
            Self::Finite { unscaled, .. } => unscaled.bits() > 400_000 && self.base_10000().is_none(),
            _ => false,
        }
    }

    /// The sum; its scale is the greater of both.
    #[must_use]
    pub fn add(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::NaN, _) | (_, Self::NaN) => Self::NaN,
            (Self::Infinity, Self::NegativeInfinity) | (Self::NegativeInfinity, Self::Infinity) => Self::NaN,
            (Self::Infinity, _) | (_, Self::Infinity) => Self::Infinity,
            (Self::NegativeInfinity, _) | (_, Self::NegativeInfinity) => Self::NegativeInfinity,
            (Self::Finite { unscaled: a, dscale: a_scale }, Self::Finite { unscaled: b, dscale: b_scale }) => {
                let dscale = *a_scale.max(b_scale);
                let unscaled = match a_scale.cmp(b_scale) {
                    Ordering::Equal => a + b,
                    Ordering::Less => a * power_of_ten(u32::from(b_scale - a_scale)) + b,
                    Ordering::Greater => a + b * power_of_ten(u32::from(a_scale - b_scale)),
                };
                Self::Finite { unscaled, dscale }
            }
        }
    }

    /// The quotient with the scale and the rounding of PostgreSQL's `/`; `None` for a division by zero.
    #[must_use]
    pub fn div(&self, divisor: &Self) -> Option<Self> {
        match (self, divisor) {
            (Self::NaN, _) | (_, Self::NaN) => Some(Self::NaN),
            (Self::Finite { unscaled: a, dscale: a_scale }, Self::Finite { unscaled: b, dscale: b_scale }) => {
                if b.is_zero() {
                    return None;
                }
                let dscale = self.division_scale(divisor)?;
                // a / 10^as / (b / 10^bs) * 10^dscale, rounded half away from zero.
                let shift = i64::from(dscale) + i64::from(*b_scale) - i64::from(*a_scale);
                let power = power_of_ten(u32::try_from(shift.unsigned_abs()).ok()?);
                let (numerator, denominator) = if shift >= 0 { (a * power, b.clone()) } else { (a.clone(), b * power) };
                Some(Self::Finite { unscaled: divide_rounding(&numerator, &denominator), dscale })
            }
            (Self::Finite { .. }, _) => Some(Self::from_i64(0)),
            (_, Self::Finite { unscaled, .. }) if unscaled.is_zero() => None,
            (_, Self::Finite { unscaled, .. }) => Some(if (*self == Self::Infinity) == unscaled.is_positive() {
                Self::Infinity
            } else {
                Self::NegativeInfinity
            }),
            _ => Some(Self::NaN),
        }
    }

    /// `select_div_scale`: at least 16 significant digits, and no fewer decimals than either operand.
    fn division_scale(&self, divisor: &Self) -> Option<u16> {
        let (Self::Finite { dscale: a_scale, .. }, Self::Finite { dscale: b_scale, .. }) = (self, divisor) else {
            return None;
        };
        let (a_weight, a_digits) = self.base_10000()?;
        let (b_weight, b_digits) = divisor.base_10000()?;
        let mut weight = i64::from(a_weight) - i64::from(b_weight);
        if a_digits.first().unwrap_or(&0) <= b_digits.first().unwrap_or(&0) {
            weight -= 1;
        }
        let scale = (DIVISION_SIGNIFICANT_DIGITS_MIN - weight * 4)
            .max(i64::from(*a_scale))
            .max(i64::from(*b_scale))
            .clamp(0, DIVISION_DSCALE_MAX);
        u16::try_from(scale).ok()
    }

    /// Rounded half away from zero to a bigint; `None` when it does not fit.
    pub fn to_i64_rounded(&self) -> Option<i64> {
        match self {
            Self::Finite { unscaled, dscale: 0 } => unscaled.to_i64(),
            Self::Finite { unscaled, dscale } => divide_rounding(unscaled, &power_of_ten(u32::from(*dscale))).to_i64(),
            _ => None,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::NegativeInfinity => 0,
            Self::Finite { .. } => 1,
            Self::Infinity => 2,
            Self::NaN => 3,
        }
    }
}

impl Ord for Numeric {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Finite { unscaled: a, dscale: a_scale }, Self::Finite { unscaled: b, dscale: b_scale }) => {
                if a_scale == b_scale || a.sign() != b.sign() {
                    return a.cmp(b);
                }
                if a_scale < b_scale {
                    (a * power_of_ten(u32::from(b_scale - a_scale))).cmp(b)
                } else {
                    a.cmp(&(b * power_of_ten(u32::from(a_scale - b_scale))))
                }
            }
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Numeric {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Numeric {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Numeric {}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r')
}

/// Digits with an optional sign. Beyond nine digits nothing can be stored, unless the value is zero;
/// such an input is not accepted.
fn read_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn power_of_ten(exponent: u32) -> BigInt {
    match 10i64.checked_pow(exponent) {
        Some(power) => BigInt::from(power),
        None => BigInt::from(10).pow(exponent),
    }
}

/// Times `10^exponent`, digits that fall off are cut; `None` when far too large for PostgreSQL.
fn shift_truncating(value: BigInt, exponent: i64) -> Option<BigInt> {
    if exponent.abs() > 2 * (INTEGER_DIGITS_MAX + DSCALE_MAX) {
        return None;
    }
    let power = power_of_ten(u32::try_from(exponent.unsigned_abs()).ok()?);
    Some(match exponent.cmp(&0) {
        Ordering::Equal => value,
        Ordering::Greater => value * power,
        Ordering::Less => value / power,
    })
}

/// Integer quotient, rounded half away from zero. The denominator is not zero.
fn divide_rounding(numerator: &BigInt, denominator: &BigInt) -> BigInt {
    let doubled: BigInt = numerator.abs() * 2 + denominator.abs();
    let quotient = doubled / (denominator.abs() * 2);
    if numerator.is_negative() == denominator.is_negative() { quotient } else { -quotient }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(text: &str) -> Numeric {
        Numeric::from_text(text).unwrap()
    }

    #[test]
    fn text_input_is_postgresqls() {
        for (input, output) in [
            ("0", "0"),
            ("-0.00", "0.00"),
            ("  +12.50 ", "12.50"),
            (".5", "0.5"),
            ("5.", "5"),
            ("1.e3", "1000"),
            ("1e-3", "0.001"),
            ("1.5e1", "15"),
            ("-1.234e2", "-123.4"),
            ("0e100", "0"),
            ("0.0e1", "0"),
            ("00123.4500", "123.4500"),
            ("nan", "NaN"),
            ("iNf", "Infinity"),
            ("-Infinity", "-Infinity"),
            ("123456789012345678901234567890.123456789", "123456789012345678901234567890.123456789"),
        ] {
            assert_eq!(numeric(input).to_text(), output, "{input}");
        }
        for input in [
            "", " ", ".", "-", "1e", "1e+", "e5", "1 2", "--1", "-NaN", "1.2.3", "0x1f", "1_000", "1e-16384",
            "1e131072", "٣",
        ] {
            assert!(Numeric::from_text(input).is_none(), "{input}");
        }
        assert!(Numeric::from_text("1e131071").is_some());
        assert!(Numeric::from_text("1e-16383").is_some());
        assert!(Numeric::from_text("1e999999999").is_none());
    }

    #[test]
    fn binary_form_is_postgresqls() {
        for (text, bytes) in [
            ("0", &[0u8, 0, 0, 0, 0, 0, 0, 0][..]),
            ("0.00", &[0, 0, 0, 0, 0, 0, 0, 2]),
            ("1", &[0, 1, 0, 0, 0, 0, 0, 0, 0, 1]),
            ("10000", &[0, 1, 0, 1, 0, 0, 0, 0, 0, 1]),
            ("-1.5", &[0, 2, 0, 0, 0x40, 0, 0, 1, 0, 1, 0x13, 0x88]),
            ("0.00001", &[0, 1, 0xff, 0xfe, 0, 0, 0, 5, 0x03, 0xe8]),
            ("NaN", &[0, 0, 0, 0, 0xc0, 0, 0, 0]),
            ("Infinity", &[0, 0, 0, 0, 0xd0, 0, 0, 32]),
            ("-Infinity", &[0, 0, 0, 0, 0xf0, 0, 0, 32]),
        ] {
            assert_eq!(numeric(text).to_binary(), bytes, "{text}");
            assert_eq!(Numeric::from_binary(bytes).unwrap().to_text(), text);
        }
    }

    #[test]
    fn broken_binary_is_no_number() {
        for bytes in [
            &[][..],
            &[0, 1, 0, 0, 0, 0, 0, 0],
            &[0, 1, 0, 0, 0, 0, 0, 0, 0x27, 0x10],
            &[0, 0, 0, 0, 0x80, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0, 0x40, 0],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(Numeric::from_binary(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn digits_beyond_the_scale_are_cut() {
        let bytes = [0, 2, 0, 0, 0, 0, 0, 1, 0, 1, 0x27, 0x0f];
        assert_eq!(Numeric::from_binary(&bytes).unwrap().to_text(), "1.9");
    }

    #[test]
    fn order_is_postgresqls() {
        let ascending = [
            "-Infinity",
            "-2",
            "-1.5",
            "-0.001",
            "0",
            "0.001",
            "1.49",
            "1.5",
            "12345678901234567890",
            "Infinity",
            "NaN",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(numeric(a).cmp(&numeric(b)), i.cmp(&j), "{a} {b}");
            }
        }
        assert_eq!(numeric("1.0"), numeric("1.00"));
        assert_eq!(numeric("-0.0"), numeric("0"));
        assert_eq!(numeric("NaN"), numeric("nan"));
    }

    #[test]
    fn base_10000_digits_are_stripped_at_both_ends() {
        assert_eq!(numeric("0.000").base_10000(), Some((0, vec![])));
        assert_eq!(numeric("42").base_10000(), Some((0, vec![42])));
        assert_eq!(numeric("42.000").base_10000(), Some((0, vec![42])));
        assert_eq!(numeric("-1230000").base_10000(), Some((1, vec![123])));
        assert_eq!(numeric("1.23").base_10000(), Some((0, vec![1, 2300])));
        assert_eq!(numeric("0.00000001").base_10000(), Some((-2, vec![1])));
        assert_eq!(numeric("NaN").base_10000(), None);
    }

    #[test]
    fn a_sum_has_the_greater_scale() {
        assert_eq!(numeric("1.5").add(&numeric("2.250")).to_text(), "3.750");
        assert_eq!(numeric("-1.50").add(&numeric("1.5")).to_text(), "0.00");
        assert_eq!(numeric("inf").add(&numeric("-inf")).to_text(), "NaN");
        assert_eq!(numeric("inf").add(&numeric("1")).to_text(), "Infinity");
    }

    #[test]
    fn division_scales_and_rounds_as_postgresql() {
        for (a, b, quotient) in [
            ("1", "3", "0.33333333333333333333"),
            ("2", "3", "0.66666666666666666667"),
            ("10", "4", "2.5000000000000000"),
            ("4", "2", "2.0000000000000000"),
            ("-1", "3", "-0.33333333333333333333"),
            ("0", "3", "0.00000000000000000000"),
            ("100000", "7", "14285.714285714286"),
            ("1000000000000000000000", "3", "333333333333333333333"),
            ("1", "1000000", "0.000001000000000000000000"),
            ("Infinity", "-2", "-Infinity"),
            ("5", "Infinity", "0"),
            ("inf", "inf", "NaN"),
        ] {
            assert_eq!(numeric(a).div(&numeric(b)).unwrap().to_text(), quotient, "{a} / {b}");
        }
        assert!(numeric("1").div(&numeric("0.0")).is_none());
        assert!(numeric("inf").div(&numeric("0")).is_none());
    }

    #[test]
    fn rounding_to_bigint_is_half_away_from_zero() {
        for (text, value) in [
            ("2.5", Some(3)),
            ("-2.5", Some(-3)),
            ("2.4999", Some(2)),
            ("9223372036854775807.4", Some(i64::MAX)),
            ("9223372036854775807.5", None),
            ("-9223372036854775808", Some(i64::MIN)),
            ("NaN", None),
        ] {
            assert_eq!(numeric(text).to_i64_rounded(), value, "{text}");
        }
    }

    #[test]
    fn only_numbers_over_the_storage_limit_overflow() {
        let largest = Numeric::from_text(&"9".repeat(131_072)).unwrap();
        assert!(!largest.overflows());
        assert!(largest.add(&Numeric::from_i64(1)).overflows());
    }
}
