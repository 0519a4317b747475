//! Lines that need no second look: no escape, no quote, the same line end as before. Nearly all data is like that,
//! and is placed where it stands, without a copy of it.
//!
//! Must not know: where lines go.

use super::line::find1;
use super::{CopyFormat, CopyShape};

/// What plain lines are, of a shape and one key field.
#[derive(Debug)]
pub(super) struct PlainLines {
    delimiter: u8,
    /// A line with it is not plain: it begins an escape or a quoted field.
    mark: u8,
    /// Index of the key field.
    field: usize,
    null: Vec<u8>,
    is_csv: bool,
}

impl PlainLines {
    /// `None` where no line is: in binary, or without a single key field.
    pub(super) fn new(shape: &CopyShape, key_fields: &[usize]) -> Option<Self> {
        let (is_csv, mark) = match shape.format {
            CopyFormat::Text => (false, b'\\'),
            CopyFormat::Csv => (true, shape.quote),
            CopyFormat::Binary => return None,
        };
        let [field] = *key_fields else { return None };
        Some(Self { delimiter: shape.delimiter, mark, field, null: shape.null.clone(), is_csv })
    }

    /// Calls `place` with every plain line that ends with a newline, from the first on, and its key field; up to the
    /// first that is not plain, or that `place` does not take. Returns how many bytes were taken.
    pub(super) fn take(
        &self,
        data: &[u8],
        line_bytes_max: usize,
        mut place: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> usize {
        let mut rest = data;
        while let Some(end) = memchr::memchr3(self.mark, b'\n', b'\r', rest) {
            let Some((line, after)) = rest.split_at_checked(end + 1) else { break };
            // In CSV a backslash begins a marker, and nothing else.
            let may_be_marker = self.is_csv && line.first() == Some(&b'\\');
            let Some((b'\n', content)) = line.split_last().map(|(last, content)| (*last, content)) else { break };
            if may_be_marker || line.len() > line_bytes_max {
                break;
            }
            let Some(key) = self.key(content) else { break };
            if key == self.null || !place(line, key) {
                break;
            }
            rest = after;
        }
        data.len() - rest.len()
    }

    /// The key field of a line.
    fn key<'a>(&self, mut line: &'a [u8]) -> Option<&'a [u8]> {
        for _ in 0..self.field {
            let end = find1(line, 0, self.delimiter)?;
            line = line.get(end + 1..)?;
        }
        // Keys are short: found sooner byte by byte.
        let end = line.iter().position(|byte| *byte == self.delimiter).unwrap_or(line.len());
        line.get(..end)
    }
}
