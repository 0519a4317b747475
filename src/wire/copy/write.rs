//! Rows as COPY TO writes them, from the values of DataRow messages.
//!
//! # Source
//! `CopyAttributeOutText`, `CopyAttributeOutCSV` and `CopyOneRowTo` in `src/backend/commands/copyto.c`.

use super::{CopyError, CopyFormat, CopyShape};

/// What stands before the first binary row: signature, flags, length of the extension.
pub const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What stands behind the last binary row.
pub const BINARY_TRAILER: &[u8] = b"\xff\xff";

/// One row with its line end; `None` is NULL. Values are in the text format, for binary rows in the binary one.
///
/// # Errors
/// Binary only: more fields than a row can count, or a field that is too long.
pub fn write_row(shape: &CopyShape, values: &[Option<&[u8]>]) -> Result<Vec<u8>, CopyError> {
    let mut row = Vec::with_capacity(values.iter().map(|value| value.map_or(0, <[u8]>::len) + 4).sum());
    if shape.format == CopyFormat::Binary {
        let count = i16::try_from(values.len()).map_err(|_| CopyError::TooManyFields)?;
        row.extend_from_slice(&count.to_be_bytes());
        for value in values {
            let length = value.map_or(Ok(-1), |value| i32::try_from(value.len()).map_err(|_| CopyError::FieldSize))?;
            row.extend_from_slice(&length.to_be_bytes());
            row.extend_from_slice(value.unwrap_or_default());
        }
        return Ok(row);
    }
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            row.push(shape.delimiter);
        }
        match value {
            None => row.extend_from_slice(&shape.null),
            Some(value) if shape.format == CopyFormat::Text => put_text(shape, value, &mut row),
            Some(value) => put_csv(shape, value, values.len() == 1, &mut row),
        }
    }
    row.push(b'\n');
    Ok(row)
}

fn put_text(shape: &CopyShape, value: &[u8], row: &mut Vec<u8>) {
    for byte in value {
        let letter = match byte {
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x0b => b'v',
            byte if *byte == b'\\' || *byte == shape.delimiter => *byte,
            byte => {
                row.push(*byte);
                continue;
            }
        };
        row.extend_from_slice(&[b'\\', letter]);
    }
}

/// Appends a value, in quotes where it needs them; `is_only`: it is the row's only one.
pub(super) fn put_csv(shape: &CopyShape, value: &[u8], is_only: bool, row: &mut Vec<u8>) {
    let is_special = |byte: &u8| matches!(byte, b'\n' | b'\r') || *byte == shape.delimiter || *byte == shape.quote;
    if value != shape.null && !(is_only && value == b"\\.") && !value.iter().any(is_special) {
        row.extend_from_slice(value);
        return;
    }
    row.push(shape.quote);
    for byte in value {
        if *byte == shape.quote || *byte == shape.escape {
            row.push(shape.escape);
        }
        row.push(*byte);
    }
    row.push(shape.quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(shape: &CopyShape, values: &[Option<&[u8]>]) -> String {
        String::from_utf8(write_row(shape, values).unwrap()).unwrap()
    }

    #[test]
    fn text_rows_are_escaped_as_postgresql_does() {
        let text = CopyShape::text();
        assert_eq!(written(&text, &[Some(b"a"), None, Some(b"")]), "a\t\\N\t\n");
        assert_eq!(written(&text, &[Some(b"a\tb\\c\nd\re\x08\x0b\x0c")]), "a\\tb\\\\c\\nd\\re\\b\\v\\f\n");
        let pipes = CopyShape { delimiter: b'|', ..CopyShape::text() };
        assert_eq!(written(&pipes, &[Some(b"a|b\tc"), Some(b"d")]), "a\\|b\\tc|d\n");
    }

    #[test]
    fn csv_rows_are_quoted_where_they_must_be() {
        let csv = CopyShape::csv();
        assert_eq!(written(&csv, &[Some(b"a"), None, Some(b""), Some(b"b,c")]), "a,,\"\",\"b,c\"\n");
        assert_eq!(written(&csv, &[Some(b"say \"x\"")]), "\"say \"\"x\"\"\"\n");
        assert_eq!(written(&csv, &[Some(b"\\.")]), "\"\\.\"\n");
        assert_eq!(written(&csv, &[Some(b"\\."), Some(b"a")]), "\\.,a\n");
    }

    #[test]
    fn binary_rows_count_their_fields() {
        let row = write_row(&CopyShape::binary(), &[Some(b"x"), None]).unwrap();
        assert_eq!(row, b"\0\x02\0\0\0\x01x\xff\xff\xff\xff");
        assert_eq!(BINARY_HEADER.len(), 19);
    }
}
