//! Floating point numbers as PostgreSQL orders, reads and prints them.
//!
//! # Source
//! `float8_cmp_internal` in `float.h`; `src/common/d2s.c` and `f2s.c` (shortest output, bounds of the
//! rounding interval not accepted).

use std::cmp::Ordering;

use num_bigint::BigInt;

/// NaN equals itself and is the greatest; both zeros are equal.
pub(super) fn compare(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        (a_is_nan, b_is_nan) => a_is_nan.cmp(&b_is_nan),
    }
}

macro_rules! float_text {
    ($read:ident, $print:ident, $type:ty, $bits_of_mantissa:literal, $exponent_bias:literal, $fixed_below:literal) => {
        /// Reads PostgreSQL's text; `None` when it is out of range or no number.
        pub(super) fn $read(text: &str) -> Option<$type> {
            let text = text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
            match text {
                "NaN" => return Some(<$type>::NAN),
                "Infinity" => return Some(<$type>::INFINITY),
                "-Infinity" => return Some(<$type>::NEG_INFINITY),
                _ => {}
            }
            if !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) {
                return None;
            }
            let value: $type = text.parse().ok()?;
            let mantissa = text.split(['e', 'E']).next()?;
            let underflowed = value == 0.0 && mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9'));
            (value.is_finite() && !underflowed).then_some(value)
        }

        /// Prints as PostgreSQL does with `extra_float_digits` at its default.
        pub(super) fn $print(value: $type) -> String {
            if value.is_nan() {
                return "NaN".to_owned();
            }
            let sign = if value.is_sign_negative() { "-" } else { "" };
            let magnitude = value.abs();
            if magnitude.is_infinite() {
                return format!("{sign}Infinity");
            }
            if magnitude == 0.0 {
                return format!("{sign}0");
            }
            let bits = magnitude.to_bits();
            let fraction = u64::from(bits & ((1 << $bits_of_mantissa) - 1));
            let exponent = (bits >> $bits_of_mantissa) as i32;
            let interval = Interval::new(
                if exponent == 0 { fraction } else { fraction | (1 << $bits_of_mantissa) },
                exponent.max(1) - $exponent_bias,
                fraction == 0 && exponent > 1,
            );
            let mut decimal = Decimal::read(&format!("{magnitude:e}"));
            let mut precision = decimal.digits.len();
            // Of two decimals of that length that are equally near, PostgreSQL takes the even one.
            let nearest = format!("{magnitude:.*e}", precision.saturating_sub(1));
            if nearest.parse() == Ok(magnitude) {
                decimal = Decimal::read(&nearest);
            }
            // The standard library accepts a decimal that lies on the very bound of the interval that
            // reads back as this number; PostgreSQL takes one more digit then.
            while interval.has_bound(&decimal) && precision < 20 {
                decimal = Decimal::read(&format!("{magnitude:.precision$e}"));
                precision += 1;
            }
            decimal.print(sign, $fixed_below)
        }
    };
}

float_text!(read_float8, print_float8, f64, 52, 1075, 15);
float_text!(read_float4, print_float4, f32, 23, 150, 6);

/// The numbers halfway to the neighbours of a floating point number, in units of `2^exponent`.
struct Interval {
    low: u64,
    high: u64,
    exponent: i32,
}

impl Interval {
    /// Of `mantissa * 2^exponent`; below a power of two the numbers are twice as dense.
    fn new(mantissa: u64, exponent: i32, denser_below: bool) -> Self {
        let low = 4 * mantissa - if denser_below { 1 } else { 2 };
        Self { low, high: 4 * mantissa + 2, exponent: exponent - 2 }
    }

    fn has_bound(&self, decimal: &Decimal) -> bool {
        let Some(digits) = BigInt::parse_bytes(decimal.digits.as_bytes(), 10) else { return false };
        // digits * 10^power == bound * 2^exponent, with negative powers moved to the other side.
        let power = decimal.exponent + 1 - i32::try_from(decimal.digits.len()).unwrap_or(0);
        let (mut left, mut right) = (digits, BigInt::from(1));
        if power >= 0 {
            left *= BigInt::from(10).pow(power.unsigned_abs());
        } else {
            right *= BigInt::from(10).pow(power.unsigned_abs());
        }
        if self.exponent >= 0 {
            right <<= self.exponent.unsigned_abs();
        } else {
            left <<= self.exponent.unsigned_abs();
        }
        left == &right * self.low || left == right * self.high
    }
}

/// `d.ddd * 10^exponent` without trailing zeros.
struct Decimal {
    digits: String,
    exponent: i32,
}

impl Decimal {
    /// Reads the standard library's `{:e}` form.
    fn read(text: &str) -> Self {
        let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        let kept = digits.trim_end_matches('0');
        Self { digits: kept.to_owned(), exponent: exponent.parse().unwrap_or(0) }
    }

    /// Fixed point from 0.0001 up to `fixed_below` digits before the point, else with an exponent of two digits or more.
    fn print(&self, sign: &str, fixed_below: i32) -> String {
        let digits = &self.digits;
        if self.exponent < -4 || self.exponent >= fixed_below {
            let (first, rest) = digits.split_at_checked(1).unwrap_or((digits, ""));
            let point = if rest.is_empty() { "" } else { "." };
            let exponent_sign = if self.exponent < 0 { '-' } else { '+' };
            return format!("{sign}{first}{point}{rest}e{exponent_sign}{:02}", self.exponent.abs());
        }
        let Ok(integer_digits) = usize::try_from(self.exponent + 1) else {
            let zeros = usize::try_from(-self.exponent - 1).unwrap_or(0);
            return format!("{sign}0.{}{digits}", "0".repeat(zeros));
        };
        if integer_digits == 0 {
            return format!("{sign}0.{digits}");
        }
        match digits.split_at_checked(integer_digits) {
            Some((integer, "")) => format!("{sign}{integer}"),
            Some((integer, fraction)) => format!("{sign}{integer}.{fraction}"),
            None => format!("{sign}{digits:0<integer_digits$}"),
        }
    }
}
