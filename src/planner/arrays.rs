//! Elements of an array value, read as keys: `column = ANY (array)`.
//!
//! Exact or silent, like every reader of keys. Must not know: which column is meant.
//!
//! # Source
//! `array_in` and `array_recv` in PostgreSQL's `src/backend/utils/adt/arrayfuncs.c`.

use super::bind::read_param;
use crate::topology::{KeyType, KeyValue};
use crate::wire::Format;

/// Array types of the key types, and what they are arrays of (`src/include/catalog/pg_type.dat`).
const ARRAY_TYPES: &[(u32, u32)] = &[
    (1001, 17),
    (1005, 21),
    (1007, 23),
    (1009, 25),
    (1014, 1042),
    (1015, 1043),
    (1016, 20),
    (1115, 1114),
    (1182, 1082),
    (1185, 1184),
    (1231, 1700),
    (2951, 2950),
];

/// The array type of a type whose text is exact, for [`read_elements`] and for servers.
pub fn array_type_of(type_oid: u32) -> Option<u32> {
    /// `bool`
    const BOOL: (u32, u32) = (1000, 16);
    ARRAY_TYPES.iter().chain([&BOOL]).find(|(_, element)| *element == type_oid).map(|(array, _)| *array)
}

/// More elements than this are not followed.
const ELEMENTS_MAX: usize = 65_536;

/// The elements that are not NULL; `None` when one of them cannot be read with certainty.
///
/// # Units
/// `type_oid`: the array's type, or text where a cast reads it, or 0 when it is not known.
pub fn read_elements(type_oid: u32, format: Format, bytes: &[u8], key_type: KeyType) -> Option<Vec<KeyValue>> {
    let element_type = match type_oid {
        // Read as the column's own array type, or as the cast says.
        0 | 25 | 705 | 1043 => None,
        array => Some(ARRAY_TYPES.iter().find(|(known, _)| *known == array)?.1),
    };
    match format {
        Format::Text => {
            let elements = split_text(std::str::from_utf8(bytes).ok()?)?;
            let read = |text: String| read_param(element_type.unwrap_or(0), Format::Text, text.as_bytes(), key_type);
            elements.into_iter().flatten().map(read).collect()
        }
        Format::Binary => {
            let (stated, elements) = split_binary(bytes)?;
            if element_type.is_some_and(|element_type| element_type != stated) {
                return None;
            }
            elements.into_iter().flatten().map(|bytes| read_param(stated, Format::Binary, bytes, key_type)).collect()
        }
    }
}

/// Elements of `{1,NULL,"a b",{2,3}}`, `None` for NULL. Bounds (`[2:3]={…}`) are not read.
fn split_text(text: &str) -> Option<Vec<Option<String>>> {
    let text = text.trim_matches(is_array_space);
    let mut chars = text.chars().peekable();
    let (mut elements, mut depth) = (Vec::new(), 0_usize);
    // True where an element or a brace may stand, not a comma.
    let mut is_open = true;
    while let Some(char) = chars.next() {
        match char {
            '{' if is_open => depth += 1,
            '}' if depth > 0 => {
                depth -= 1;
                is_open = false;
                if depth == 0 {
                    return chars.next().is_none().then_some(elements);
                }
            }
            ',' if depth > 0 && !is_open => is_open = true,
            _ if is_array_space(char) => {}
            ',' => return None,
            _ if depth == 0 || !is_open => return None,
            '"' => {
                elements.push(Some(quoted_element(&mut chars)?));
                is_open = false;
            }
            first => {
                elements.push(plain_element(first, &mut chars)?);
                is_open = false;
            }
        }
        if elements.len() > ELEMENTS_MAX {
            return None;
        }
    }
    None
}

/// `array_isspace`.
fn is_array_space(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn quoted_element(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    let mut element = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(element),
            '\\' => element.push(chars.next()?),
            other => element.push(other),
        }
    }
}

fn plain_element(first: char, chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Option<String>> {
    let mut element = String::from(first);
    if first == '\\' {
        // Escapes outside quotes are not worth a guess.
        return None;
    }
    while let Some(next) = chars.peek() {
        match next {
            ',' | '}' => break,
            '{' | '"' | '\\' => return None,
            _ => element.extend(chars.next()),
        }
    }
    let element = element.trim_end_matches(is_array_space);
    Some((!element.eq_ignore_ascii_case("null")).then(|| element.to_owned()))
}

/// The element type and the elements of an array in binary.
fn split_binary(bytes: &[u8]) -> Option<(u32, Vec<Option<&[u8]>>)> {
    let (dimensions, rest) = take_i32(bytes)?;
    let (_flags, rest) = take_i32(rest)?;
    let (element_type, mut rest) = take_i32(rest)?;
    let mut count = usize::from(dimensions > 0);
    for _ in 0..usize::try_from(dimensions).ok().filter(|dimensions| *dimensions <= 6)? {
        let (length, after) = take_i32(rest)?;
        let (_bound, after) = take_i32(after)?;
        count = count.checked_mul(usize::try_from(length).ok()?).filter(|count| *count <= ELEMENTS_MAX)?;
        rest = after;
    }
    let mut elements = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, after) = take_i32(rest)?;
        rest = after;
        elements.push(match usize::try_from(length) {
            Ok(length) => {
                let element = rest.get(..length)?;
                rest = rest.get(length..)?;
                Some(element)
            }
            Err(_) if length == -1 => None,
            Err(_) => return None,
        });
    }
    rest.is_empty().then_some((u32::try_from(element_type).ok()?, elements))
}

fn take_i32(bytes: &[u8]) -> Option<(i32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((i32::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(text: &str) -> Option<Vec<KeyValue>> {
        read_elements(1016, Format::Text, text.as_bytes(), KeyType::Int8)
    }

    fn numbers(numbers: &[i64]) -> Option<Vec<KeyValue>> {
        Some(numbers.iter().copied().map(KeyValue::Int).collect())
    }

    #[test]
    fn arrays_in_text_give_their_elements_without_nulls() {
        assert_eq!(ints("{1,2,NULL, 3 }"), numbers(&[1, 2, 3]));
        assert_eq!(ints("{{1,2},{3,4}}"), numbers(&[1, 2, 3, 4]));
        assert_eq!(ints(" {} "), numbers(&[]));
        assert_eq!(ints("{\"7\"}"), numbers(&[7]));
    }

    #[test]
    fn what_is_no_array_is_not_read() {
        for text in ["", "1", "{1", "{1}}", "{1,2", "[2:3]={1,2}", "{1} x", "{1 2}", "{a}", "{1,\\2}", "{1{2}}"] {
            assert_eq!(ints(text), None, "{text}");
        }
    }

    #[test]
    fn quotes_and_nulls_in_texts_are_as_postgresql_reads_them() {
        let read = |text: &str| read_elements(1009, Format::Text, text.as_bytes(), KeyType::Text);
        let texts = |texts: &[&str]| Some(texts.iter().map(|text| KeyValue::Text(text.as_bytes().to_vec())).collect());
        assert_eq!(read(r#"{a b , "null", Null, "x\"y\\", ""}"#), texts(&["a b", "null", "x\"y\\", ""]));
    }

    #[test]
    fn binary_arrays_say_their_element_type() {
        let mut bytes = Vec::new();
        for number in [1_i32, 1, 23, 3, 1, 4, 7] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&(-1_i32).to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 9]);
        let read = |oid| read_elements(oid, Format::Binary, &bytes, KeyType::Int8);
        assert_eq!(read(1007), numbers(&[7, 9]));
        assert_eq!(read(0), numbers(&[7, 9]));
        assert_eq!(read(1016), None);
        assert_eq!(read_elements(1007, Format::Binary, &bytes[..20], KeyType::Int8), None);
        let empty: Vec<u8> = [0_i32, 0, 23].iter().flat_map(|number| number.to_be_bytes()).collect();
        assert_eq!(read_elements(1007, Format::Binary, &empty, KeyType::Int8), numbers(&[]));
    }
}
