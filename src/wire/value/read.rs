//! Text forms that are short enough to be read here; dates and numbers are read in `base`.
//!
//! Each reader takes what PostgreSQL prints and little more; `None` says "not sure".

use super::TIME_US_MAX;

/// Microseconds of a day of 24 hours.
const DAY_US: i128 = 86_400_000_000;

pub(super) fn bool(text: &str) -> Option<bool> {
    match text {
        "t" | "true" => Some(true),
        "f" | "false" => Some(false),
        _ => None,
    }
}

/// `"char"`: nothing is the zero byte; PostgreSQL 16 prints bytes over 127 as `\ooo`.
pub(super) fn char(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [] => Some(0),
        [byte] => Some(*byte),
        [b'\\', a, b, c] => octal(*a, *b, *c),
        _ => None,
    }
}

/// bytea: hex (`\x…`) or escape form.
pub(super) fn bytea(text: &[u8]) -> Option<Vec<u8>> {
    if let Some(digits) = text.strip_prefix(b"\\x") {
        return hex(digits);
    }
    let mut value = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        match rest {
            [] => return Some(value),
            [b'\\', b'\\', after @ ..] => {
                value.push(b'\\');
                rest = after;
            }
            [b'\\', a, b, c, after @ ..] => {
                value.push(octal(*a, *b, *c)?);
                rest = after;
            }
            [b'\\', ..] => return None,
            [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
        }
    }
}

fn octal(a: u8, b: u8, c: u8) -> Option<u8> {
    let digit = |byte: u8| matches!(byte, b'0'..=b'7').then(|| u32::from(byte - b'0'));
    u8::try_from(digit(a)? * 64 + digit(b)? * 8 + digit(c)?).ok()
}

fn hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? * 16 + digit(*low)?),
            _ => None,
        })
        .collect()
}

/// The 36 characters that PostgreSQL prints, in either case.
pub(super) fn uuid(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return None;
    }
    let mut digits = Vec::with_capacity(32);
    for (at, byte) in bytes.iter().enumerate() {
        match (at, byte) {
            (8 | 13 | 18 | 23, b'-') => {}
            (8 | 13 | 18 | 23, _) => return None,
            _ => digits.push(*byte),
        }
    }
    hex(&digits)?.try_into().ok()
}

pub(super) fn print_uuid(bytes: &[u8; 16], cell: &mut Vec<u8>) {
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            cell.push(b'-');
        }
        for digit in [byte >> 4, byte & 15] {
            cell.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        }
    }
}

/// `HH:MM:SS[.ffffff]`, 24:00:00 included.
pub(super) fn time(text: &str) -> Option<i64> {
    if text.as_bytes().get(2) != Some(&b':') {
        return None;
    }
    clock(text).and_then(|us| i64::try_from(us).ok()).filter(|us| *us <= TIME_US_MAX)
}

/// Hours of any number of digits, minutes, seconds, up to six decimals.
fn clock(text: &str) -> Option<i128> {
    let mut parts = text.splitn(3, ':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let number = |text: &str, least: usize, most: usize| {
        let sound = (least..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        sound.then(|| text.parse::<i128>().ok()).flatten()
    };
    let minutes = number(minutes, 2, 2).filter(|minutes| *minutes < 60)?;
    let seconds = number(seconds, 2, 2).filter(|seconds| *seconds < 60)?;
    let us = if fraction.is_empty() { 0 } else { number(&format!("{fraction:0<6}"), 6, 6)? };
    Some(((number(hours, 1, 12)? * 60 + minutes) * 60 + seconds) * 1_000_000 + us)
}

/// What an interval compares by: `interval_cmp_value`.
pub(super) fn interval_binary(bytes: &[u8]) -> Option<i128> {
    let time = i64::from_be_bytes(bytes.get(0..8)?.try_into().ok()?);
    let days = i32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?);
    let months = i32::from_be_bytes(bytes.get(12..16)?.try_into().ok()?);
    if bytes.len() != 16 {
        return None;
    }
    Some(i128::from(time) + (i128::from(days) + i128::from(months) * 30) * DAY_US)
}

/// `IntervalStyle` postgres only: `1 year 2 mons -3 days +04:05:06.789`. In the other styles a
/// number without a unit, `P` or `@` appears, none of which is accepted.
pub(super) fn interval_text(text: &str) -> Option<i128> {
    let mut span = 0i128;
    let mut words = text.split(' ').peekable();
    words.peek().filter(|word| !word.is_empty())?;
    while let Some(word) = words.next() {
        let (negative, digits) = match word.as_bytes().first()? {
            b'-' => (true, word.get(1..)?),
            b'+' => (false, word.get(1..)?),
            _ => (false, word),
        };
        let part = if digits.contains(':') {
            if words.peek().is_some() {
                return None;
            }
            clock(digits)?
        } else {
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let unit_days = match words.next()? {
                "year" | "years" => 360,
                "mon" | "mons" => 30,
                "day" | "days" => 1,
                _ => return None,
            };
            i128::from(digits.parse::<u32>().ok()?) * unit_days * DAY_US
        };
        span += if negative { -part } else { part };
    }
    Some(span)
}

/// character(n) without its trailing spaces, which do not count.
pub(super) fn without_padding(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    bytes.get(..end).unwrap_or(bytes)
}
