//! One more field at the end of a row.

use super::{CopyError, CopyFormat, CopyShape, write};

/// A row with one more field: the value as text, or in the binary format its binary value.
///
/// Escapes or quotes the value where it must. Of a text or CSV header line it makes one with one more name.
///
/// # Errors
/// Binary only: more fields than a row can count, or no row at all.
pub fn append_field(shape: &CopyShape, row: &[u8], value: &[u8]) -> Result<Vec<u8>, CopyError> {
    if shape.format == CopyFormat::Binary {
        return append_binary(row, value);
    }
    let is_text = shape.format == CopyFormat::Text;
    let content = if is_text { text_content(row) } else { csv_content(row) };
    let (content, line_end) = row.split_at(content.min(row.len()));
    let content = match content.split_last() {
        // PostgreSQL drops a lone backslash at the end of all data; here it would escape the delimiter.
        Some((b'\\', before)) if is_text && backslashes_before(content, content.len()) % 2 == 1 => before,
        _ => content,
    };
    let mut longer = Vec::with_capacity(row.len() + value.len() + 8);
    longer.extend_from_slice(content);
    longer.push(shape.delimiter);
    if is_text {
        put_text(shape, value, &mut longer)
    } else {
        write::put_csv(shape, value, false, &mut longer)
    }
    longer.extend_from_slice(line_end);
    Ok(longer)
}

fn append_binary(row: &[u8], value: &[u8]) -> Result<Vec<u8>, CopyError> {
    let Some((count, fields)) = row.split_first_chunk::<2>() else { return Err(CopyError::UnexpectedEnd) };
    let count = i16::from_be_bytes(*count);
    if count < 0 {
        return Err(CopyError::FieldCount(count));
    }
    let count = count.checked_add(1).ok_or(CopyError::TooManyFields)?;
    let length = i32::try_from(value.len()).map_err(|_| CopyError::FieldSize)?;
    let mut longer = Vec::with_capacity(row.len() + value.len() + 4);
    longer.extend_from_slice(&count.to_be_bytes());
    longer.extend_from_slice(fields);
    longer.extend_from_slice(&length.to_be_bytes());
    longer.extend_from_slice(value);
    Ok(longer)
}

/// Bytes before the line end. An escaped CR or LF at the end of all data is no line end.
fn text_content(row: &[u8]) -> usize {
    let escaped = |at: usize| backslashes_before(row, at) % 2 == 1;
    let last = row.len().saturating_sub(1);
    match row {
        [.., b'\r', b'\n'] if !escaped(last - 1) => last - 1,
        [.., b'\r' | b'\n'] if !escaped(last) => last,
        _ => row.len(),
    }
}

/// Bytes before the line end.
fn csv_content(row: &[u8]) -> usize {
    match row {
        [content @ .., b'\r', b'\n'] | [content @ .., b'\r' | b'\n'] => content.len(),
        _ => row.len(),
    }
}

fn backslashes_before(row: &[u8], at: usize) -> usize {
    row.iter().take(at).rev().take_while(|byte| **byte == b'\\').count()
}

fn put_text(shape: &CopyShape, value: &[u8], row: &mut Vec<u8>) {
    let is_null_marker = value == shape.null;
    for (index, byte) in value.iter().enumerate() {
        let is_special = matches!(byte, b'\\' | b'\n' | b'\r') || *byte == shape.delimiter;
        if is_special || (is_null_marker && index == 0) {
            // Octal is right for every byte; a backslash and a letter might mean another byte.
            row.extend_from_slice(&[b'\\', b'0' + (byte >> 6), b'0' + ((byte >> 3) & 7), b'0' + (byte & 7)]);
        } else {
            row.push(*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(shape: &CopyShape, row: &[u8], value: &[u8]) -> String {
        String::from_utf8(append_field(shape, row, value).unwrap()).unwrap()
    }

    #[test]
    fn the_field_goes_before_the_line_end() {
        let text = CopyShape::text();
        for (row, longer) in
            [("a\n", "a\t7\n"), ("a\r\n", "a\t7\r\n"), ("a\r", "a\t7\r"), ("a", "a\t7"), ("\n", "\t7\n")]
        {
            assert_eq!(appended(&text, row.as_bytes(), b"7"), longer);
            assert_eq!(appended(&CopyShape::csv(), row.as_bytes(), b"7"), longer.replace('\t', ","));
        }
    }

    #[test]
    fn escapes_at_the_end_of_a_text_row_stay_whole() {
        let text = CopyShape::text();
        for (row, longer) in [
            ("a\\\\\n", "a\\\\\t7\n"), // escaped backslash, then the line end
            ("a\\\n", "a\\\n\t7"),     // escaped newline at the end of all data
            ("a\\\r\n", "a\\\r\t7\n"), // escaped CR, then the line end
            ("a\\", "a\t7"),           // lone backslash, which PostgreSQL drops
            ("a\\\\", "a\\\\\t7"),
            ("a\\\n\n", "a\\\n\t7\n"),
        ] {
            assert_eq!(appended(&text, row.as_bytes(), b"7"), longer, "{row:?}");
        }
    }

    #[test]
    fn values_that_look_like_marks_are_escaped_or_quoted() {
        let text = CopyShape { null: b"7".to_vec(), ..CopyShape::text() };
        assert_eq!(appended(&text, b"a\n", b"7"), "a\t\\067\n");
        assert_eq!(appended(&text, b"a\n", b"\t\\"), "a\t\\011\\134\n");
        let csv = CopyShape { delimiter: b'-', null: b"7".to_vec(), ..CopyShape::csv() };
        assert_eq!(appended(&csv, b"a\n", b"-5"), "a-\"-5\"\n");
        assert_eq!(appended(&csv, b"a\n", b"7"), "a-\"7\"\n");
        assert_eq!(appended(&csv, b"a\n", b"\"b"), "a-\"\"\"b\"\n");
    }

    #[test]
    fn binary_rows_count_one_more() {
        let shape = CopyShape::binary();
        let longer = append_field(&shape, b"\0\x01\0\0\0\x01x", &7u64.to_be_bytes()).unwrap();
        assert_eq!(longer, b"\0\x02\0\0\0\x01x\0\0\0\x08\0\0\0\0\0\0\0\x07");
        assert_eq!(append_field(&shape, b"\x7f\xff", b""), Err(CopyError::TooManyFields));
        assert_eq!(append_field(&shape, b"\xff\xff", b""), Err(CopyError::FieldCount(-1)));
        assert_eq!(append_field(&shape, b"\0", b""), Err(CopyError::UnexpectedEnd));
    }
}
