//! Fields of one line, decoded: `CopyReadAttributesText` and `CopyReadAttributesCSV`, for the fields asked for.

use std::borrow::Cow;

use super::line::{find1, find2};
use super::{CopyFormat, CopyKey, CopyShape};

/// Why a key field could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldError {
    /// The line has no such field.
    Missing(usize),
    /// The line ended within quotes.
    UnterminatedQuote,
}

/// The key fields asked for, sorted so that one walk over the row finds all.
#[derive(Debug)]
pub(super) struct KeyFields {
    /// Index of the field, place in the answer.
    wanted: Vec<(usize, usize)>,
}

impl KeyFields {
    pub(super) fn new(fields: &[usize]) -> Self {
        let mut wanted: Vec<_> = fields.iter().enumerate().map(|(place, field)| (*field, place)).collect();
        wanted.sort_unstable();
        KeyFields { wanted }
    }

    /// Walks over fields with `next_field`, which returns `None` behind the last one, and notes those asked for.
    pub(super) fn collect(
        &self,
        places: &mut Vec<Place>,
        mut next_field: impl FnMut() -> Result<Option<Place>, FieldError>,
    ) -> Result<(), FieldError> {
        places.clear();
        places.resize(self.wanted.len(), Place::default());
        let mut index = 0;
        let mut current = None;
        for (field, place) in &self.wanted {
            while current.is_none() || index <= *field {
                current = Some(next_field()?.ok_or(FieldError::Missing(*field))?);
                index += 1;
            }
            if let (Some(key), Some(found)) = (places.get_mut(*place), current) {
                *key = found;
            }
        }
        Ok(())
    }
}

/// Where a field stands in its row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub(super) start: usize,
    pub(super) end: usize,
    /// It has escapes (text) or quotes (CSV).
    pub(super) marked: bool,
    /// It is NULL, where that is not said by its bytes: in binary.
    pub(super) is_null: bool,
}

/// The key fields of a row, in the order in which they were asked for.
#[derive(Clone, Copy, Debug)]
pub struct CopyKeys<'a> {
    pub(super) shape: &'a CopyShape,
    pub(super) row: &'a [u8],
    pub(super) places: &'a [Place],
}

impl<'a> CopyKeys<'a> {
    /// Decodes them, one by one.
    pub fn iter(self) -> impl Iterator<Item = CopyKey<'a>> {
        self.places.iter().map(move |place| {
            let bytes = self.row.get(place.start..place.end).unwrap_or_default();
            match self.shape.format {
                CopyFormat::Text => decode_text(self.shape, bytes, place.marked),
                CopyFormat::Csv => decode_csv(self.shape, bytes, place.marked),
                CopyFormat::Binary if place.is_null => CopyKey::Null,
                CopyFormat::Binary => CopyKey::Binary(bytes),
            }
        })
    }
}

/// Finds the key fields of a line without its line end.
pub(super) fn find_keys(
    shape: &CopyShape,
    keys: &KeyFields,
    line: &[u8],
    places: &mut Vec<Place>,
) -> Result<(), FieldError> {
    let mut at = Some(0);
    if shape.format == CopyFormat::Csv {
        keys.collect(places, || next_csv(shape, line, &mut at))
    } else {
        keys.collect(places, || Ok(next_text(shape, line, &mut at)))
    }
}

/// The field at `at`, which moves behind the delimiter, or to `None` behind the last field.
fn next_text(shape: &CopyShape, line: &[u8], at: &mut Option<usize>) -> Option<Place> {
    let start = (*at)?;
    let mut from = start;
    let mut marked = false;
    let end = loop {
        match find2(line, from, shape.delimiter, b'\\') {
            None => {
                *at = None;
                break line.len();
            }
            Some((place, b'\\')) => {
                marked = true;
                from = place + 2;
                if from > line.len() {
                    // A backslash as the last byte of all data is dropped, also for the comparison with NULL.
                    *at = None;
                    break place;
                }
            }
            Some((place, _)) => {
                *at = Some(place + 1);
                break place;
            }
        }
    };
    Some(Place { start, end, marked, is_null: false })
}

fn decode_text<'a>(shape: &CopyShape, bytes: &'a [u8], marked: bool) -> CopyKey<'a> {
    if bytes == shape.null {
        return CopyKey::Null;
    }
    if !marked {
        return CopyKey::Text(Cow::Borrowed(bytes));
    }
    let mut value = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (plain, escape) = rest.split_at(at);
        value.extend_from_slice(plain);
        rest = decode_escape(escape, &mut value);
    }
    value.extend_from_slice(rest);
    CopyKey::Text(Cow::Owned(value))
}

/// Decodes the backslash escape at the front and returns what follows it.
fn decode_escape<'a>(escape: &'a [u8], value: &mut Vec<u8>) -> &'a [u8] {
    let [_, byte, rest @ ..] = escape else { return &[] };
    let (byte, rest) = match byte {
        b'0'..=b'7' => {
            let more = rest.iter().take(2).take_while(|digit| matches!(digit, b'0'..=b'7')).count();
            let (digits, rest) = rest.split_at(more);
            // Three digits may exceed a byte; PostgreSQL keeps the low eight bits.
            let number =
                digits.iter().fold(u16::from(byte - b'0'), |number, digit| (number << 3) + u16::from(digit - b'0'));
            (number.to_be_bytes()[1], rest)
        }
        b'x' => {
            let count = rest.iter().take(2).take_while(|digit| digit.is_ascii_hexdigit()).count();
            let (digits, rest) = rest.split_at(count);
            if digits.is_empty() {
                (b'x', rest)
            } else {
                (digits.iter().fold(0, |number, digit| (number << 4) | hex_digit(*digit)), rest)
            }
        }
        b'b' => (8, rest),
        b'f' => (12, rest),
        b'n' => (b'\n', rest),
        b'r' => (b'\r', rest),
        b't' => (b'\t', rest),
        b'v' => (11, rest),
        other => (*other, rest),
    };
    value.push(byte);
    rest
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

/// The field at `at`, which moves behind the delimiter, or to `None` behind the last field.
fn next_csv(shape: &CopyShape, line: &[u8], at: &mut Option<usize>) -> Result<Option<Place>, FieldError> {
    let Some(start) = *at else { return Ok(None) };
    let mut from = start;
    let mut marked = false;
    let end = loop {
        match find2(line, from, shape.delimiter, shape.quote) {
            None => {
                *at = None;
                break line.len();
            }
            Some((place, byte)) if byte == shape.delimiter => {
                *at = Some(place + 1);
                break place;
            }
            Some((place, _)) => {
                marked = true;
                from = quoted_end(shape, line, place + 1).ok_or(FieldError::UnterminatedQuote)?;
            }
        }
    };
    Ok(Some(Place { start, end, marked, is_null: false }))
}

/// Place behind the closing quote of what starts behind the opening one.
fn quoted_end(shape: &CopyShape, line: &[u8], mut from: usize) -> Option<usize> {
    if shape.quote == shape.escape {
        loop {
            let place = find1(line, from, shape.quote)?;
            if line.get(place + 1) != Some(&shape.quote) {
                return Some(place + 1);
            }
            from = place + 2;
        }
    }
    loop {
        let (place, byte) = find2(line, from, shape.quote, shape.escape)?;
        let escapes = line.get(place + 1).is_some_and(|next| *next == shape.quote || *next == shape.escape);
        match byte == shape.escape {
            true if escapes => from = place + 2,
            true => from = place + 1,
            false => return Some(place + 1),
        }
    }
}

fn decode_csv<'a>(shape: &CopyShape, bytes: &'a [u8], marked: bool) -> CopyKey<'a> {
    if !marked {
        return if bytes == shape.null { CopyKey::Null } else { CopyKey::Text(Cow::Borrowed(bytes)) };
    }
    let mut value = Vec::with_capacity(bytes.len());
    let mut in_quote = false;
    let mut bytes = bytes.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let next_is_mark = || bytes.clone().next().is_some_and(|next| next == shape.quote || next == shape.escape);
        if in_quote && byte == shape.escape && next_is_mark() {
            value.extend(bytes.next());
        } else if byte == shape.quote {
            in_quote = !in_quote;
        } else {
            value.push(byte);
        }
    }
    CopyKey::Text(Cow::Owned(value))
}

#[cfg(test)]
mod tests {
    use super::super::CopyField;
    use super::*;

    fn keys(shape: &CopyShape, fields: &[usize], line: &[u8]) -> Result<Vec<CopyField>, FieldError> {
        let mut places = Vec::new();
        find_keys(shape, &KeyFields::new(fields), line, &mut places)?;
        Ok(CopyKeys { shape, row: line, places: &places }.iter().map(CopyField::from).collect())
    }

    fn text(value: &[u8]) -> CopyField {
        CopyField::Text(value.to_vec())
    }

    #[test]
    fn text_escapes_are_decoded_as_postgresql_does() {
        let shape = CopyShape::text();
        for (written, value) in [
            (&b"plain"[..], &b"plain"[..]),
            (b"\\b\\f\\n\\r\\t\\v", b"\x08\x0c\n\r\t\x0b"),
            (b"\\\\\\q\\.", b"\\q."),
            (b"\\101\\60\\7z\\1019", b"A0\x07zA9"),
            (b"\\400\\777", b"\x00\xff"),
            (b"\\x41\\x4z\\x\\xg\\x041", b"A\x04zxxg\x041"),
            (b"a\\\tb", b"a\tb"),
            (b"end\\", b"end"),
            (b"\\n\\\n", b"\n\n"),
            (b"\\8", b"8"),
        ] {
            assert_eq!(keys(&shape, &[0], written), Ok(vec![text(value)]), "{written:?}");
        }
    }

    #[test]
    fn null_is_compared_before_decoding() {
        let shape = CopyShape::text();
        let expected = vec![CopyField::Null, text(b""), text(b"\\N"), text(b"NN")];
        assert_eq!(keys(&shape, &[0, 1, 2, 3], b"\\N\t\t\\\\N\t\\NN"), Ok(expected));
        // The last backslash of all data does not count.
        assert_eq!(keys(&shape, &[0], b"\\N\\"), Ok(vec![CopyField::Null]));
    }

    #[test]
    fn keys_come_in_the_order_asked_for() {
        let shape = CopyShape::text();
        assert_eq!(keys(&shape, &[2, 0, 2], b"a\tb\tc"), Ok(vec![text(b"c"), text(b"a"), text(b"c")]));
        assert_eq!(keys(&shape, &[], b"a"), Ok(vec![]));
        assert_eq!(keys(&shape, &[0, 3], b"a\tb\tc"), Err(FieldError::Missing(3)));
    }

    #[test]
    fn csv_fields_are_decoded_as_postgresql_does() {
        let shape = CopyShape::csv();
        for (written, value) in [
            (&b"plain"[..], &b"plain"[..]),
            (b"\"a,b\"", b"a,b"),
            (b"\"a\"\"b\"", b"a\"b"),
            (b"x\"a,b\"y\"c\"", b"xa,byc"),
            (b"\"line\nline\"", b"line\nline"),
            (b"\\n", b"\\n"),
            (b"\"\"", b""),
            (b" a ", b" a "),
        ] {
            assert_eq!(keys(&shape, &[0], written), Ok(vec![text(value)]), "{written:?}");
        }
        assert_eq!(keys(&shape, &[1, 2], b"1,,\"\""), Ok(vec![CopyField::Null, text(b"")]));
        assert_eq!(keys(&shape, &[1], b"1,\"a"), Err(FieldError::UnterminatedQuote));
        assert_eq!(keys(&shape, &[0], b"1,\"a"), Ok(vec![text(b"1")]));
    }

    #[test]
    fn csv_escapes_that_are_not_the_quote_work_only_before_quote_and_escape() {
        let shape = CopyShape { escape: b'\\', null: b"NULL".to_vec(), ..CopyShape::csv() };
        for (written, value) in [
            (&b"\"a\\\"b\",c"[..], &b"a\"b"[..]),
            (b"\"a\\\\\",c", b"a\\"),
            (b"\"a\\n\",c", b"a\\n"),
            (b"a\\,c", b"a\\"),
            (b"\"NULL\",c", b"NULL"),
            (b"NULL\\,c", b"NULL\\"),
        ] {
            assert_eq!(keys(&shape, &[0, 1], written), Ok(vec![text(value), text(b"c")]), "{written:?}");
        }
        assert_eq!(keys(&shape, &[0], b"NULL,c"), Ok(vec![CopyField::Null]));
    }
}
