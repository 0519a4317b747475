//! COPY TO of several servers as one: one header, all rows, one trailer.

use bytes::{Bytes, BytesMut};

use super::binary::{self, Tuple, TupleScanner};
use super::line::{Line, LineScanner};
use super::{CopyError, CopyFormat, CopyShape};
use crate::wire::limits::COPY_ROW_BYTES_MAX;

/// Concatenates the outputs of several servers.
///
/// Parts may be pushed one after the other or in turns: PostgreSQL sends one row a CopyData message, so rows are
/// not torn. The binary format is read by tuples and holds back what is not whole.
#[derive(Debug)]
pub struct CopyJoiner {
    shape: CopyShape,
    parts: Vec<Part>,
    header_seen: bool,
    /// The binary format's header until there is a row: PostgreSQL sends it in one message with the first
    /// row, and psycopg reads it so.
    header_held: BytesMut,
    row_bytes_max: usize,
}

/// Output of one server.
#[derive(Debug)]
struct Part {
    buffer: BytesMut,
    lines: LineScanner,
    tuples: TupleScanner,
    header_due: bool,
    over: bool,
}

impl CopyJoiner {
    /// A joiner of this many outputs of the same COPY.
    pub fn new(shape: CopyShape, parts: usize) -> Self {
        let part = |_| Part {
            buffer: BytesMut::new(),
            lines: LineScanner::new(&shape, false),
            tuples: TupleScanner::default(),
            header_due: shape.header || shape.format == CopyFormat::Binary,
            over: false,
        };
        CopyJoiner {
            parts: (0..parts).map(part).collect(),
            shape,
            header_seen: false,
            header_held: BytesMut::new(),
            row_bytes_max: COPY_ROW_BYTES_MAX,
        }
    }

    /// Takes the body of a CopyData message of a part (from 0) and returns what is to be sent now, if anything.
    ///
    /// # Errors
    /// The data is not in the format, or there is no such part.
    pub fn push(&mut self, part: usize, data: &Bytes) -> Result<Bytes, CopyError> {
        let CopyJoiner { shape, parts, header_seen, header_held, row_bytes_max } = self;
        let part = parts.get_mut(part).ok_or(CopyError::UnexpectedEnd)?;
        let is_binary = shape.format == CopyFormat::Binary;
        if !part.header_due && !is_binary {
            return Ok(data.clone());
        }
        if part.over && !data.is_empty() {
            return Err(CopyError::DataAfterEnd);
        }
        part.buffer.extend_from_slice(data);
        if part.header_due {
            let Some(header) = part.take_header(is_binary, *row_bytes_max)? else { return Ok(Bytes::new()) };
            if !std::mem::replace(header_seen, true) {
                *header_held = header;
            }
        }
        let rows = if is_binary { part.take_tuples(*row_bytes_max)? } else { part.buffer.split() };
        if is_binary && rows.is_empty() {
            return Ok(Bytes::new());
        }
        let mut output = std::mem::take(header_held);
        output.unsplit(rows);
        Ok(output.freeze())
    }

    /// All parts have ended: returns what closes the output, if anything.
    ///
    /// # Errors
    /// A part ended without header or trailer, or within a row.
    pub fn finish(&mut self) -> Result<Bytes, CopyError> {
        let is_binary = self.shape.format == CopyFormat::Binary;
        if self.parts.iter().any(|part| part.header_due || (is_binary && !part.over)) {
            return Err(CopyError::UnexpectedEnd);
        }
        let mut rest = std::mem::take(&mut self.header_held);
        if is_binary {
            rest.extend_from_slice(&binary::TRAILER);
        }
        Ok(rest.freeze())
    }
}

impl Part {
    fn take_header(&mut self, is_binary: bool, row_bytes_max: usize) -> Result<Option<BytesMut>, CopyError> {
        let end = if is_binary {
            binary::header_bytes(&self.buffer, false)?
        } else {
            match self.lines.next_line(&self.buffer, false)? {
                Line::Whole { end, .. } => Some(end),
                _ => None,
            }
        };
        if end.unwrap_or(self.buffer.len()) > row_bytes_max {
            return Err(CopyError::RowTooLong(row_bytes_max));
        }
        let Some(end) = end else { return Ok(None) };
        self.header_due = false;
        Ok(Some(self.buffer.split_to(end.min(self.buffer.len()))))
    }

    /// Takes the whole tuples; the trailer is dropped and must be the last.
    fn take_tuples(&mut self, row_bytes_max: usize) -> Result<BytesMut, CopyError> {
        let mut whole = 0;
        loop {
            let rest = self.buffer.get(whole..).unwrap_or_default();
            match self.tuples.next_tuple(rest, false, row_bytes_max)? {
                Tuple::Whole { end, .. } => whole += end,
                Tuple::More | Tuple::Rest => break,
                Tuple::Trailer if rest.len() > binary::TRAILER.len() => return Err(CopyError::DataAfterEnd),
                Tuple::Trailer => {
                    self.over = true;
                    self.buffer.truncate(whole);
                    break;
                }
            }
        }
        Ok(self.buffer.split_to(whole.min(self.buffer.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

    fn join(shape: CopyShape, parts: usize, pieces: &[(usize, &[u8])]) -> Result<Vec<u8>, CopyError> {
        let mut joiner = CopyJoiner::new(shape, parts);
        let mut output = Vec::new();
        for (part, piece) in pieces {
            output.extend_from_slice(&joiner.push(*part, &Bytes::copy_from_slice(piece))?);
        }
        output.extend_from_slice(&joiner.finish()?);
        Ok(output)
    }

    #[test]
    fn text_passes_as_it_is() {
        assert_eq!(join(CopyShape::text(), 2, &[(0, b"a\n"), (1, b"b\n"), (0, b"c\n")]), Ok(b"a\nb\nc\n".to_vec()));
    }

    #[test]
    fn only_the_first_header_line_stays() {
        let shape = CopyShape { header: true, ..CopyShape::csv() };
        let pieces: &[(usize, &[u8])] =
            &[(1, b"\"i\nd\",x\n"), (0, b"\"i\n"), (0, b"d\",x\n"), (1, b"1,2\n"), (0, b"3,4\n")];
        assert_eq!(join(shape.clone(), 2, pieces), Ok(b"\"i\nd\",x\n1,2\n3,4\n".to_vec()));
        assert_eq!(join(shape, 2, &pieces[..1]), Err(CopyError::UnexpectedEnd));
    }

    #[test]
    fn the_binary_header_comes_with_the_first_row() {
        let row = [0, 1, 0, 0, 0, 1, 7];
        let first = |rows: &[u8]| Bytes::from([HEADER, rows].concat());
        let trailer = Bytes::from_static(&binary::TRAILER);
        let mut joiner = CopyJoiner::new(CopyShape::binary(), 2);
        assert_eq!(joiner.push(0, &first(&binary::TRAILER)), Ok(Bytes::new()));
        assert_eq!(joiner.push(1, &first(&row)), Ok(first(&row)));
        assert_eq!(joiner.push(1, &Bytes::copy_from_slice(&row)), Ok(Bytes::copy_from_slice(&row)));
        assert_eq!(joiner.push(1, &trailer), Ok(Bytes::new()));
        assert_eq!(joiner.finish(), Ok(trailer));
        let mut empty = CopyJoiner::new(CopyShape::binary(), 1);
        assert_eq!(empty.push(0, &first(&binary::TRAILER)), Ok(Bytes::new()));
        assert_eq!(empty.finish(), Ok(first(&binary::TRAILER)));
    }

    #[test]
    fn binary_keeps_one_header_and_one_trailer_whatever_the_pieces() {
        let row = |value: u8| [0, 1, 0, 0, 0, 1, value];
        let part = |values: &[u8]| {
            let mut bytes = HEADER.to_vec();
            values.iter().for_each(|value| bytes.extend(row(*value)));
            bytes.extend(binary::TRAILER);
            bytes
        };
        let (first, second) = (part(&[1, 2]), part(&[]));
        let expected = part(&[1, 2]);
        for size in 1..=first.len() {
            let mut pieces: Vec<(usize, &[u8])> = second.chunks(size).map(|piece| (1, piece)).collect();
            pieces.extend(first.chunks(size).map(|piece| (0, piece)));
            assert_eq!(join(CopyShape::binary(), 2, &pieces).as_ref(), Ok(&expected), "{size}");
        }
        assert_eq!(join(CopyShape::binary(), 1, &[(0, &first[..first.len() - 1])]), Err(CopyError::UnexpectedEnd));
        assert_eq!(join(CopyShape::binary(), 1, &[(0, &first), (0, b"x")]), Err(CopyError::DataAfterEnd));
    }
}
