//! The insides of quoted strings: escapes, continuations, delimiters.
//!
//! # Source
//! `scan.l` (states xe, xeu, xqs, xdolq) and `parser.c` (`str_udeescape`) of PostgreSQL 15.

use crate::sql::lexer::{LexError, end_of_line};

/// Length of what comes before `delimiter` (`$tag$`) in `rest`.
pub(super) fn find_delimiter(rest: &[u8], delimiter: &[u8]) -> Option<usize> {
    // A tag has no dollar inside, so comparing at each dollar stays linear.
    memchr::memchr_iter(b'$', rest).find(|at| rest.get(*at..).is_some_and(|tail| tail.starts_with(delimiter)))
}

/// Where a string goes on after its closing quote: white space with a newline (comments allowed), then
/// a quote. Gives the first byte after that quote.
pub(super) fn continuation(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut newline = false;
    loop {
        match bytes.get(at)? {
            b' ' | b'\t' | 0x0c => at += 1,
            b'\n' | b'\r' => {
                newline = true;
                at += 1;
            }
            b'-' if bytes.get(at + 1) == Some(&b'-') => at = end_of_line(bytes, at),
            b'\'' if newline => return Some(at + 1),
            _ => return None,
        }
    }
}

/// Decodes an escape string whose opening quote is at `quote`; gives its value and where it ends.
pub(super) fn escape_string(bytes: &[u8], quote: usize) -> Result<(String, usize), LexError> {
    let mut value = Vec::new();
    let mut at = quote + 1;
    let mut high = None;
    loop {
        let Some(byte) = bytes.get(at).copied() else {
            return Err(LexError { message: "unterminated quoted string", at: quote });
        };
        let is_unicode = byte == b'\\' && matches!(bytes.get(at + 1), Some(b'u' | b'U'));
        if high.is_some() && !is_unicode {
            return Err(LexError { message: "invalid Unicode surrogate pair", at });
        }
        match byte {
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => {
                value.push(b'\'');
                at += 2;
            }
            b'\'' => match continuation(bytes, at + 1) {
                Some(next) => at = next,
                None => {
                    at += 1;
                    break;
                }
            },
            b'\\' if is_unicode => at = unicode_escape(bytes, at, &mut high, &mut value)?,
            b'\\' => at = plain_escape(bytes, at, &mut value, quote)?,
            byte => {
                value.push(byte);
                at += 1;
            }
        }
    }
    let value = String::from_utf8(value)
        .map_err(|_| LexError { message: "invalid byte sequence for encoding \"UTF8\"", at: quote })?;
    Ok((value, at))
}

/// `\uXXXX` and `\UXXXXXXXX` at `at`; `high` is a first surrogate that waits for its second.
fn unicode_escape(bytes: &[u8], at: usize, high: &mut Option<u32>, value: &mut Vec<u8>) -> Result<usize, LexError> {
    let digits = if bytes.get(at + 1) == Some(&b'u') { 4 } else { 8 };
    let code = bytes
        .get(at + 2..at + 2 + digits)
        .and_then(hexadecimal)
        .ok_or(LexError { message: "invalid Unicode escape", at })?;
    match push_code(code, high) {
        Ok(Some(character)) => value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        Ok(None) => {}
        Err(message) => return Err(LexError { message, at }),
    }
    Ok(at + 2 + digits)
}

fn plain_escape(bytes: &[u8], at: usize, value: &mut Vec<u8>, quote: usize) -> Result<usize, LexError> {
    let Some(byte) = bytes.get(at + 1).copied() else {
        return Err(LexError { message: "unterminated quoted string", at: quote });
    };
    let mut next = at + 2;
    match byte {
        b'b' => value.push(8),
        b'f' => value.push(12),
        b'n' => value.push(b'\n'),
        b'r' => value.push(b'\r'),
        b't' => value.push(b'\t'),
        // A letter v up to PostgreSQL 15, a vertical tab from 16 on.
        b'v' => return Err(LexError { message: "escape \\v depends on the server's version", at }),
        b'0'..=b'7' => {
            let mut code = u32::from(byte - b'0');
            while next < at + 4
                && let Some(digit @ b'0'..=b'7') = bytes.get(next)
            {
                code = code * 8 + u32::from(digit - b'0');
                next += 1;
            }
            value.push((code & 0xff) as u8);
        }
        b'x' => {
            let length = bytes.iter().skip(next).take(2).take_while(|b| b.is_ascii_hexdigit()).count();
            match bytes.get(next..next + length).and_then(hexadecimal) {
                Some(code) => value.push((code & 0xff) as u8),
                None => value.push(b'x'),
            }
            next += length;
        }
        byte => value.push(byte),
    }
    Ok(next)
}

/// The number that these digits write; `None` when there are none or one is no digit.
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u32, |code, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        code.checked_mul(16)?.checked_add(digit)
    })
}

/// A code point, or half a surrogate pair.
fn push_code(code: u32, high: &mut Option<u32>) -> Result<Option<char>, &'static str> {
    const PAIR: &str = "invalid Unicode surrogate pair";
    match (high.take(), code) {
        (Some(first), 0xDC00..=0xDFFF) => {
            let code = 0x10000 + ((first - 0xD800) << 10) + (code - 0xDC00);
            char::from_u32(code).map(Some).ok_or(PAIR)
        }
        (Some(_), _) | (None, 0xDC00..=0xDFFF) => Err(PAIR),
        (None, 0xD800..=0xDBFF) => {
            *high = Some(code);
            Ok(None)
        }
        (None, 0) => Err("invalid Unicode escape value"),
        (None, code) => char::from_u32(code).map(Some).ok_or("invalid Unicode escape value"),
    }
}

/// Undoes the escapes of `U&'…'` and `U&"…"`.
pub(super) fn decode_unicode(raw: &str, escape: char) -> Result<String, &'static str> {
    const PAIR: &str = "invalid Unicode surrogate pair";
    let mut value = String::with_capacity(raw.len());
    let mut high = None;
    let mut rest = raw;
    while let Some(character) = rest.chars().next() {
        rest = rest.get(character.len_utf8()..).unwrap_or_default();
        if character != escape {
            if high.is_some() {
                return Err(PAIR);
            }
            value.push(character);
            continue;
        }
        if rest.starts_with(escape) {
            if high.is_some() {
                return Err(PAIR);
            }
            value.push(escape);
            rest = rest.get(escape.len_utf8()..).unwrap_or_default();
            continue;
        }
        let (skip, digits) = if rest.starts_with('+') { (1, 6) } else { (0, 4) };
        let code = rest.as_bytes().get(skip..skip + digits).and_then(hexadecimal).ok_or("invalid Unicode escape")?;
        if let Some(character) = push_code(code, &mut high)? {
            value.push(character);
        }
        rest = rest.get(skip + digits..).unwrap_or_default();
    }
    if high.is_some() { Err(PAIR) } else { Ok(value) }
}
