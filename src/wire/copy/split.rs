//! The splitter: pushed bytes in, header, rows and end marker out.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

use super::binary::{self, Tuple, TupleScanner};
use super::field::{self, CopyKeys, FieldError, KeyFields, Place};
use super::line::{Line, LineScanner};
use super::plain::PlainLines;
use super::{CopyError, CopyEvent, CopyField, CopyFormat, CopyPiece, CopyRow, CopyShape};
use crate::wire::limits::COPY_ROW_BYTES_MAX;

/// Longest `\.` with its line end: what may follow a row's content before its end is seen.
const MARKER_BYTES_MAX: usize = 4;

/// Cuts COPY FROM data into rows, whatever the pieces it comes in.
///
/// ```text
/// loop: push(data); while let Some(piece) = next_piece()? { … }
/// end:  finish();   while let Some(piece) = next_piece()? { … }
/// ```
/// Pieces are parts of what was pushed; [`CopySplitter::next_event`] gives the same as values of their own.
///
/// # Invariants
/// Without an error, the bytes of all pieces are the bytes pushed, in order; only what follows `\.` is dropped,
/// and a single byte left after the last binary tuple. Buffers what was pushed and not yet returned, no more.
#[derive(Debug)]
pub struct CopySplitter {
    shape: CopyShape,
    keys: KeyFields,
    row_bytes_max: usize,
    buffer: BytesMut,
    /// So much of the buffer has been returned.
    taken: usize,
    /// Where the key fields of the row just returned are.
    places: Vec<Place>,
    lines: LineScanner,
    plain: Option<PlainLines>,
    tuples: TupleScanner,
    header_due: bool,
    /// The marker or trailer has been seen.
    over: bool,
    /// No more will be pushed.
    ended: bool,
    /// Bytes of the marker that stands behind the row just returned.
    marker: Option<usize>,
    failed: Option<CopyError>,
}

/// What stands next in the buffer.
enum Found {
    Header(Range<usize>),
    Row { place: Range<usize>, fields: Option<usize> },
    End(Range<usize>),
}

impl CopySplitter {
    /// A splitter that decodes the fields of these indexes (from 0) of every row.
    #[allow(clippy::needless_pass_by_value)] // The caller's list is made for this call.
    pub fn new(shape: CopyShape, key_fields: Vec<usize>) -> Self {
        CopySplitter {
            keys: KeyFields::new(&key_fields),
            row_bytes_max: COPY_ROW_BYTES_MAX,
            buffer: BytesMut::new(),
            taken: 0,
            places: Vec::new(),
            lines: LineScanner::new(&shape, true),
            plain: PlainLines::new(&shape, &key_fields),
            tuples: TupleScanner::default(),
            header_due: shape.header || shape.format == CopyFormat::Binary,
            over: false,
            ended: false,
            marker: None,
            failed: shape.check().err(),
            shape,
        }
    }

    /// Sets the longest row allowed.
    ///
    /// # Units
    /// Bytes with the line end; default [`COPY_ROW_BYTES_MAX`].
    #[must_use]
    pub fn with_row_bytes_max(mut self, row_bytes_max: usize) -> Self {
        self.row_bytes_max = row_bytes_max;
        self
    }

    /// Takes `\.` in CSV for a value, as servers from PostgreSQL 18 on do.
    #[must_use]
    pub fn without_csv_marker(mut self) -> Self {
        self.lines = LineScanner::new(&self.shape, false);
        self
    }

    /// Takes more data. To keep the buffer small, read all pieces before.
    pub fn push(&mut self, data: &[u8]) {
        if self.failed.is_some() || data.is_empty() {
            return;
        }
        self.buffer.advance(std::mem::take(&mut self.taken));
        if !self.over {
            self.buffer.extend_from_slice(data);
        } else if self.shape.format == CopyFormat::Binary {
            self.fail(CopyError::DataAfterEnd);
        }
    }

    /// Takes whole rows where they stand, instead of [`Self::push`] and [`Self::next_piece`]: `place` is called with each
    /// and its key field, which is neither NULL nor escaped, and says whether it takes it. Returns how many bytes were
    /// taken, which may be none; what follows is to be pushed, at least up to the end of its first row.
    ///
    /// Of shapes with one key field; only while everything that was pushed has been read.
    pub fn take_plain(&self, data: &[u8], place: impl FnMut(&[u8], &[u8]) -> bool) -> usize {
        let is_ready = self.rest().is_empty()
            && self.lines.is_between_newlines()
            && !(self.header_due || self.over || self.ended || self.marker.is_some() || self.failed.is_some());
        match &self.plain {
            Some(plain) if is_ready => plain.take(data, self.row_bytes_max, place),
            _ => 0,
        }
    }

    /// The client has ended its data.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// Bytes pushed and not yet returned.
    pub fn buffered_bytes(&self) -> usize {
        self.rest().len()
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.taken..).unwrap_or_default()
    }

    /// Goes behind the next bytes.
    fn take(&mut self, bytes: usize) -> Range<usize> {
        let start = self.taken;
        self.taken = (start + bytes).min(self.buffer.len());
        start..self.taken
    }

    /// The next header, row or end marker; `None` until more is pushed, or behind the last one.
    ///
    /// # Errors
    /// PostgreSQL's own complaints about the data. See [`CopyError`] for those after which one may go on.
    pub fn next_piece(&mut self) -> Result<Option<CopyPiece<'_>>, CopyError> {
        let found = match self.find() {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error @ (CopyError::MissingField { .. } | CopyError::UnterminatedQuote { .. })) => return Err(error),
            Err(error) => {
                self.fail(error.clone());
                return Err(error);
            }
        };
        let bytes = |place| self.buffer.get::<Range<usize>>(place).unwrap_or_default();
        Ok(Some(match found {
            Found::Header(place) => CopyPiece::Header(bytes(place)),
            Found::End(place) => CopyPiece::End(bytes(place)),
            Found::Row { place, fields } => {
                let row = bytes(place);
                let keys = CopyKeys { shape: &self.shape, row, places: &self.places };
                CopyPiece::Row { bytes: row, fields, keys }
            }
        }))
    }

    /// As [`Self::next_piece`], for who keeps it or changes it.
    ///
    /// # Errors
    /// As [`Self::next_piece`].
    pub fn next_event(&mut self) -> Result<Option<CopyEvent>, CopyError> {
        Ok(self.next_piece()?.map(|piece| match piece {
            CopyPiece::Header(bytes) => CopyEvent::Header(Bytes::copy_from_slice(bytes)),
            CopyPiece::End(bytes) => CopyEvent::End(Bytes::copy_from_slice(bytes)),
            CopyPiece::Row { bytes, fields, keys } => {
                let keys = keys.iter().map(CopyField::from).collect();
                CopyEvent::Row(CopyRow { bytes: Bytes::copy_from_slice(bytes), fields, keys })
            }
        }))
    }

    fn fail(&mut self, error: CopyError) {
        self.failed = Some(error);
        self.marker = None;
        self.buffer = BytesMut::new();
        self.taken = 0;
    }

    fn find(&mut self) -> Result<Option<Found>, CopyError> {
        if let Some(bytes) = self.marker.take() {
            return Ok(Some(Found::End(self.take(bytes))));
        }
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.over {
            return Ok(None);
        }
        if self.shape.format == CopyFormat::Binary { self.find_tuple() } else { self.find_line() }
    }

    fn find_line(&mut self) -> Result<Option<Found>, CopyError> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        match self.lines.next_line(rest, self.ended)? {
            Line::More => {
                self.check_bytes(rest.len().saturating_sub(MARKER_BYTES_MAX))?;
                Ok(None)
            }
            Line::Whole { content, end } => self.line(content, end).map(Some),
            Line::Rest if rest.is_empty() => Ok(None),
            Line::Rest => {
                let bytes = rest.len();
                self.line(bytes, bytes).map(Some)
            }
            Line::Marker { content, end } => {
                self.over = true;
                self.buffer.truncate(self.taken + end);
                if content == 0 {
                    return Ok(Some(Found::End(self.take(end))));
                }
                self.marker = Some(end - content);
                self.line(content, content).map(Some)
            }
        }
    }

    /// Takes a line: the header or a row.
    fn line(&mut self, content: usize, end: usize) -> Result<Found, CopyError> {
        self.check_bytes(end)?;
        let place = self.take(end);
        if std::mem::take(&mut self.header_due) {
            return Ok(Found::Header(place));
        }
        let row = self.buffer.get(place.clone()).unwrap_or_default();
        let line = row.get(..content).unwrap_or_default();
        match field::find_keys(&self.shape, &self.keys, line, &mut self.places) {
            Ok(()) => Ok(Found::Row { place, fields: None }),
            Err(error) => Err(field_error(error, row)),
        }
    }

    fn find_tuple(&mut self) -> Result<Option<Found>, CopyError> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        if self.header_due {
            let Some(end) = binary::header_bytes(rest, self.ended)? else {
                self.check_bytes(rest.len())?;
                return Ok(None);
            };
            self.check_bytes(end)?;
            self.header_due = false;
            return Ok(Some(Found::Header(self.take(end))));
        }
        match self.tuples.next_tuple(rest, self.ended, self.row_bytes_max)? {
            Tuple::More => Ok(None),
            Tuple::Rest => {
                self.taken = self.buffer.len();
                Ok(None)
            }
            Tuple::Whole { fields, end } => {
                let place = self.take(end);
                let row = self.buffer.get(place.clone()).unwrap_or_default();
                match binary::find_keys(&self.keys, row, &mut self.places) {
                    Ok(()) => Ok(Some(Found::Row { place, fields: Some(fields) })),
                    Err(error) => Err(field_error(error, row)),
                }
            }
            Tuple::Trailer => {
                self.over = true;
                let place = self.take(binary::TRAILER.len());
                if self.taken < self.buffer.len() {
                    // The trailer itself is right, and may have been returned before the rest came.
                    self.failed = Some(CopyError::DataAfterEnd);
                }
                Ok(Some(Found::End(place)))
            }
        }
    }

    fn check_bytes(&self, bytes: usize) -> Result<(), CopyError> {
        if bytes > self.row_bytes_max { Err(CopyError::RowTooLong(self.row_bytes_max)) } else { Ok(()) }
    }
}

fn field_error(error: FieldError, row: &[u8]) -> CopyError {
    let row = Bytes::copy_from_slice(row);
    match error {
        FieldError::Missing(field) => CopyError::MissingField { field, row },
        FieldError::UnterminatedQuote => CopyError::UnterminatedQuote { row },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that comes out of these pieces: `H:`, `R:`, `E:` events, then the final error.
    fn split(shape: &CopyShape, pieces: &[&[u8]]) -> Vec<String> {
        let mut splitter = CopySplitter::new(shape.clone(), vec![0]);
        let mut seen = Vec::new();
        for piece in pieces {
            splitter.push(piece);
            drain(&mut splitter, &mut seen);
        }
        splitter.finish();
        drain(&mut splitter, &mut seen);
        seen
    }

    fn drain(splitter: &mut CopySplitter, seen: &mut Vec<String>) {
        loop {
            match splitter.next_event() {
                Ok(None) => return,
                Ok(Some(CopyEvent::Header(bytes))) => seen.push(format!("H:{}", bytes.escape_ascii())),
                Ok(Some(CopyEvent::Row(row))) => {
                    let key = match row.keys.first() {
                        Some(CopyField::Text(value)) => value.escape_ascii().to_string(),
                        other => format!("{other:?}"),
                    };
                    seen.push(format!("R:{}:{key}", row.bytes.escape_ascii()));
                }
                Ok(Some(CopyEvent::End(bytes))) => seen.push(format!("E:{}", bytes.escape_ascii())),
                Err(error @ (CopyError::MissingField { .. } | CopyError::UnterminatedQuote { .. })) => {
                    seen.push(error.to_string());
                }
                Err(error) => {
                    if seen.last() != Some(&error.to_string()) {
                        seen.push(error.to_string());
                    }
                    return;
                }
            }
        }
    }

    /// The same whether it comes whole or byte by byte.
    #[track_caller]
    fn check(shape: &CopyShape, data: &[u8], expected: &[&str]) {
        assert_eq!(split(shape, &[data]), expected, "whole");
        assert_eq!(split(shape, &data.chunks(1).collect::<Vec<_>>()), expected, "byte by byte");
    }

    /// As [`split`], with whole rows taken where they stand.
    fn split_plain(shape: &CopyShape, pieces: &[&[u8]]) -> Vec<String> {
        let mut splitter = CopySplitter::new(shape.clone(), vec![0]);
        let mut seen = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let taken = splitter.take_plain(rest, |row, key| {
                    seen.push(format!("R:{}:{}", row.escape_ascii(), key.escape_ascii()));
                    true
                });
                let (_, after) = rest.split_at(taken);
                let end = memchr::memchr(b'\n', after).map_or(after.len(), |at| at + 1);
                let (pushed, after) = after.split_at(end);
                splitter.push(pushed);
                drain(&mut splitter, &mut seen);
                rest = after;
            }
        }
        splitter.finish();
        drain(&mut splitter, &mut seen);
        seen
    }

    #[test]
    fn a_row_that_is_not_taken_comes_in_the_ordinary_way() {
        let mut splitter = CopySplitter::new(CopyShape::text(), vec![1]);
        assert_eq!(splitter.take_plain(b"a\tb\n", |_, _| true), 0, "how lines end is not known yet");
        splitter.push(b"a\tb\n");
        assert!(splitter.next_event().unwrap().is_some() && splitter.next_event().unwrap().is_none());
        let mut keys = Vec::new();
        let data = b"a\tb\nc\td\te\nf\tg\nh\n";
        let taken = splitter.take_plain(data, |_, key| {
            keys.push(key.to_vec());
            key != b"g"
        });
        assert_eq!((taken, keys), (10, vec![b"b".to_vec(), b"d".to_vec(), b"g".to_vec()]));
        assert_eq!(splitter.take_plain(b"h\ni\tj\n", |_, _| true), 0, "no such field");
        assert_eq!(splitter.take_plain(b"h\t\\N\n", |_, _| true), 0, "an escape");
        splitter.push(b"h\t");
        assert_eq!(splitter.take_plain(b"i\n", |_, _| true), 0, "in the middle of a row");
    }

    proptest! {
        #[test]
        fn what_is_taken_where_it_stands_is_what_the_ordinary_way_gives(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "a", "12", "\n", "\n", "\t", ",", "\\N", "\\.", "\\", "\r\n", "\r", "\"", "\"x\"", "",
                ]),
                0..40,
            ),
            size in 1_usize..30,
            format in 0..3,
        ) {
            let shape = match format {
                0 => CopyShape::text(),
                1 => CopyShape::csv(),
                _ => CopyShape { null: b"12".to_vec(), header: true, ..CopyShape::text() },
            };
            let data = pieces.concat();
            let data: Vec<&[u8]> = data.as_bytes().chunks(size).collect();
            prop_assert_eq!(split_plain(&shape, &data), split(&shape, &data));
        }
    }

    #[test]
    fn text_lines_are_rows_with_their_line_ends() {
        let text = CopyShape::text();
        check(&text, b"a\tb\n\nc", &["R:a\\tb\\n:a", "R:\\n:", "R:c:c"]);
        check(&text, b"a\r\nb\r\n", &["R:a\\r\\n:a", "R:b\\r\\n:b"]);
        check(&text, b"a\rb\r", &["R:a\\r:a", "R:b\\r:b"]);
        check(&text, b"a\\\nb\n", &["R:a\\\\\\nb\\n:a\\nb"]);
        check(&text, b"a\\", &["R:a\\\\:a"]);
        check(&text, b"", &[]);
    }

    #[test]
    fn text_ends_at_the_marker_even_within_a_line() {
        let text = CopyShape::text();
        check(&text, b"a\n\\.\nrest", &["R:a\\n:a", "E:\\\\.\\n"]);
        check(&text, b"a\nb\\.\nrest", &["R:a\\n:a", "R:b:b", "E:\\\\.\\n"]);
        check(&text, b"a\r\n\\.\r\n", &["R:a\\r\\n:a", "E:\\\\.\\r\\n"]);
        check(&text, b"\\\\.\n", &["R:\\\\\\\\.\\n:\\\\."]);
        check(&text, b"a\n\\.", &["R:a\\n:a", "end-of-copy marker corrupt"]);
        check(&text, b"\\.x", &["end-of-copy marker corrupt"]);
        check(&text, b"a\n\\.\r", &["R:a\\n:a", "end-of-copy marker does not match previous newline style"]);
        check(&text, b"a\r\n\\.\n", &["R:a\\r\\n:a", "end-of-copy marker does not match previous newline style"]);
    }

    #[test]
    fn line_ends_must_not_change() {
        let text = CopyShape::text();
        check(&text, b"a\nb\r\n", &["R:a\\n:a", "literal carriage return found in data"]);
        check(&text, b"a\r\nb\n", &["R:a\\r\\n:a", "literal newline found in data"]);
        check(&text, b"a\r\nb\r", &["R:a\\r\\n:a", "literal carriage return found in data"]);
        check(&text, b"a\rb\n", &["R:a\\r:a", "literal newline found in data"]);
        check(&CopyShape::csv(), b"a\nb\r\n", &["R:a\\n:a", "unquoted carriage return found in data"]);
        check(&CopyShape::csv(), b"a\rb\n", &["R:a\\r:a", "unquoted newline found in data"]);
    }

    #[test]
    fn csv_lines_end_outside_quotes() {
        let csv = CopyShape { header: true, ..CopyShape::csv() };
        check(&csv, b"\"a\nb\",c\n\"1\n\"\"\",2\n", &["H:\\\"a\\nb\\\",c\\n", "R:\\\"1\\n\\\"\\\"\\\",2\\n:1\\n\\\""]);
        check(&csv, b"a\n\"1\n", &["H:a\\n", "unterminated CSV quoted field"]);
        let csv = CopyShape { escape: b'\\', ..CopyShape::csv() };
        check(&csv, b"\"a\\\"\n\\\\\"\nb\n", &["R:\\\"a\\\\\\\"\\n\\\\\\\\\\\"\\n:a\\\"\\n\\\\", "R:b\\n:b"]);
    }

    #[test]
    fn the_marker_of_csv_stands_alone_on_its_line() {
        let csv = CopyShape::csv();
        check(&csv, b"\\.\nrest", &["E:\\\\.\\n"]);
        check(&csv, b"\\.x\na\\.\n", &["R:\\\\.x\\n:\\\\.x", "R:a\\\\.\\n:a\\\\."]);
        check(&csv, b"a\n\\.", &["R:a\\n:a", "R:\\\\.:\\\\."]);
        let mut splitter = CopySplitter::new(csv, vec![]).without_csv_marker();
        splitter.push(b"\\.\n");
        assert!(matches!(splitter.next_event(), Ok(Some(CopyEvent::Row(_)))));
    }

    #[test]
    fn binary_tuples_are_rows() {
        let header = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\x02xy";
        let data = [&header[..], b"\0\x02\0\0\0\x01k\xff\xff\xff\xff", b"\0\x01\xff\xff\xff\xff", b"\xff\xff"].concat();
        for size in 1..=data.len() {
            let mut splitter = CopySplitter::new(CopyShape::binary(), vec![0]);
            let mut events = Vec::new();
            for piece in data.chunks(size) {
                splitter.push(piece);
                while let Some(event) = splitter.next_event().unwrap() {
                    events.push(event);
                }
            }
            let [CopyEvent::Header(first), CopyEvent::Row(one), CopyEvent::Row(two), CopyEvent::End(end)] = &events[..]
            else {
                panic!("{size}: {events:?}")
            };
            assert_eq!((&first[..], &end[..]), (&header[..], &b"\xff\xff"[..]));
            assert_eq!((one.fields, &one.keys[..]), (Some(2), &[CopyField::Binary(Bytes::from_static(b"k"))][..]));
            assert_eq!((two.fields, &two.keys[..]), (Some(1), &[CopyField::Null][..]));
        }
    }

    #[test]
    fn binary_data_that_postgresql_refuses_is_refused() {
        let binary = CopyShape::binary();
        let with_header = |rest: &[u8]| [b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0", rest].concat();
        let last = |data: &[u8]| split(&binary, &[data]).pop().unwrap_or_default();
        assert_eq!(last(b"PGCOPY\n\xff\r\n"), "COPY file signature not recognized");
        assert_eq!(last(b"PGCOPX\n\xff\r\n\0"), "COPY file signature not recognized");
        assert_eq!(last(b"PGCOPY\n\xff\r\n\0\0\x01\0\0"), "invalid COPY file header (WITH OIDS)");
        assert_eq!(last(b"PGCOPY\n\xff\r\n\0\0\x02\0\0"), "unrecognized critical flags in COPY file header");
        assert_eq!(last(b"PGCOPY\n\xff\r\n\0\0\0\0\0\xff\xff\xff\xff"), "invalid COPY file header (missing length)");
        assert_eq!(last(&with_header(b"\xff\xfe")), "row field count is -2");
        assert_eq!(last(&with_header(b"\0\x01\xff\xff\xff\xfe")), "invalid field size");
        assert_eq!(last(&with_header(b"\0\x01\0\0\0\x02x")), "unexpected EOF in COPY data");
        assert_eq!(last(&with_header(b"\xff\xffx")), "received copy data after EOF marker");
        assert_eq!(last(&with_header(b"\0\0")), "missing data for field 0");
        assert_eq!(split(&binary, &[&with_header(b"\0")]).len(), 1);
    }

    #[test]
    fn rows_over_the_limit_are_refused_before_they_are_whole() {
        for (shape, data) in [
            (CopyShape::text(), b"123456\n12345678901234567890".to_vec()),
            (CopyShape::csv(), b"123456\n\"1234567890\n1234567890".to_vec()),
            (CopyShape::binary(), b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01\x7f\xff\xff\xff".to_vec()),
        ] {
            let bytes_max = if shape.format == CopyFormat::Binary { 30 } else { 7 };
            let mut splitter = CopySplitter::new(shape, vec![]).with_row_bytes_max(bytes_max);
            let mut largest = 0;
            let mut result = Ok(None);
            for piece in data.chunks(1) {
                splitter.push(piece);
                result = splitter.next_event();
                largest = largest.max(splitter.buffered_bytes());
            }
            assert_eq!(result, Err(CopyError::RowTooLong(bytes_max)));
            assert!(largest <= bytes_max + MARKER_BYTES_MAX, "{largest}");
        }
    }

    #[test]
    fn a_row_without_the_key_field_does_not_end_the_copy() {
        let mut splitter = CopySplitter::new(CopyShape::text(), vec![1]);
        splitter.push(b"a\nb\tc\n");
        let row = Bytes::from_static(b"a\n");
        assert_eq!(splitter.next_event(), Err(CopyError::MissingField { field: 1, row }));
        assert!(matches!(splitter.next_event(), Ok(Some(CopyEvent::Row(_)))));
        assert_eq!(splitter.next_event(), Ok(None));
    }

    #[test]
    fn a_line_end_as_quote_is_refused() {
        let mut splitter = CopySplitter::new(CopyShape { quote: b'\n', ..CopyShape::csv() }, vec![]);
        assert_eq!(splitter.next_event(), Err(CopyError::Shape));
    }
}
