//! Header and tuples of binary COPY data.

use super::CopyError;
use super::field::{FieldError, KeyFields, Place};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// The trailer: a field count of -1.
pub(super) const TRAILER: [u8; 2] = [0xff, 0xff];

/// Bytes of the header that the data starts with; `None` while it is not whole.
pub(super) fn header_bytes(data: &[u8], ended: bool) -> Result<Option<usize>, CopyError> {
    let short = |error| if ended { Err(error) } else { Ok(None) };
    let Some((signature, rest)) = data.split_first_chunk::<11>() else {
        return short(CopyError::Signature);
    };
    if signature != SIGNATURE {
        return Err(CopyError::Signature);
    }
    let Some((flags, rest)) = rest.split_first_chunk::<4>() else {
        return short(CopyError::BinaryHeader("invalid COPY file header (missing flags)"));
    };
    let critical = u32::from_be_bytes(*flags) >> 16;
    if critical & 1 != 0 {
        return Err(CopyError::BinaryHeader("invalid COPY file header (WITH OIDS)"));
    }
    if critical != 0 {
        return Err(CopyError::BinaryHeader("unrecognized critical flags in COPY file header"));
    }
    let missing_length = CopyError::BinaryHeader("invalid COPY file header (missing length)");
    let Some((length, rest)) = rest.split_first_chunk::<4>() else { return short(missing_length) };
    let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| missing_length)?;
    if rest.len() < length {
        return short(CopyError::BinaryHeader("invalid COPY file header (wrong length)"));
    }
    Ok(Some(SIGNATURE.len() + 8 + length))
}

/// What the buffer starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tuple {
    /// Not a whole tuple yet.
    More,
    /// A tuple: its number of fields and its bytes.
    Whole { fields: usize, end: usize },
    /// The trailer.
    Trailer,
    /// The data has ended; a single byte may be left, which PostgreSQL ignores.
    Rest,
}

/// Finds the ends of tuples. Keeps its place between calls, so that a tuple that comes in many pieces is read once.
#[derive(Debug, Default)]
pub(super) struct TupleScanner {
    /// Start of the next field's length; 0: the field count has not been read.
    at: usize,
    fields: usize,
    fields_left: usize,
}

impl TupleScanner {
    /// Looks at the buffer, which starts with a tuple and must still hold what was there in the last call,
    /// unless that returned something else than [`Tuple::More`]: then the tuple is to be taken off first.
    pub(super) fn next_tuple(&mut self, data: &[u8], ended: bool, bytes_max: usize) -> Result<Tuple, CopyError> {
        if self.at == 0 {
            let Some((count, _)) = data.split_first_chunk::<2>() else {
                return Ok(if ended { Tuple::Rest } else { Tuple::More });
            };
            if *count == TRAILER {
                return Ok(Tuple::Trailer);
            }
            let count = i16::from_be_bytes(*count);
            self.fields = usize::try_from(count).map_err(|_| CopyError::FieldCount(count))?;
            self.fields_left = self.fields;
            self.at = 2;
        }
        while self.fields_left > 0 {
            let Some(end) = field_end(data, self.at)? else { return more(ended) };
            if end > bytes_max {
                return Err(CopyError::RowTooLong(bytes_max));
            }
            if end > data.len() {
                return more(ended);
            }
            self.at = end;
            self.fields_left -= 1;
        }
        let tuple = Tuple::Whole { fields: self.fields, end: self.at };
        *self = TupleScanner::default();
        Ok(tuple)
    }
}

fn more(ended: bool) -> Result<Tuple, CopyError> {
    if ended { Err(CopyError::UnexpectedEnd) } else { Ok(Tuple::More) }
}

/// End of the field whose length stands at `at`, be it there or not; `None` until the length is there.
fn field_end(data: &[u8], at: usize) -> Result<Option<usize>, CopyError> {
    let Some((length, _)) = data.get(at..).and_then(<[u8]>::split_first_chunk::<4>) else { return Ok(None) };
    match i32::from_be_bytes(*length) {
        -1 => Ok(Some(at + 4)),
        length => {
            let length = usize::try_from(length).map_err(|_| CopyError::FieldSize)?;
            Ok(Some(at + 4 + length))
        }
    }
}

/// Finds the key fields of a whole tuple.
pub(super) fn find_keys(keys: &KeyFields, tuple: &[u8], places: &mut Vec<Place>) -> Result<(), FieldError> {
    let mut at = 2;
    keys.collect(places, || {
        let start = at + 4;
        let Ok(Some(end)) = field_end(tuple, at) else { return Ok(None) };
        let is_null = tuple.get(at..start) == Some(&[0xff; 4]);
        at = end;
        Ok(tuple.get(start..end).map(|_| Place { start, end, marked: false, is_null }))
    })
}
