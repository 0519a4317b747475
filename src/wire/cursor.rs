//! Bounds-checked reading of message bodies and length-patched writing of messages.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Format, WireError};

/// Reads a body from front to back; every step checks what is left.
pub(super) struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Reader { body, at: 0 }
    }

    /// Bytes not read yet.
    pub(super) fn left(&self) -> usize {
        self.body.len().saturating_sub(self.at)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let end = self.at.checked_add(count).ok_or(WireError::Malformed)?;
        let bytes = self.body.get(self.at..end).ok_or(WireError::Malformed)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.bytes(N)?.try_into().map_err(|_| WireError::Malformed)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn i16(&mut self) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// Number of elements that follow, each of `element_bytes_min` or more. PostgreSQL reads such counts
    /// unsigned (`pq_getmsgint`). A count that cannot fit is malformed, so that nothing is reserved for it.
    pub(super) fn count(&mut self, element_bytes_min: usize) -> Result<usize, WireError> {
        let count = usize::from(self.u16()?);
        if count.saturating_mul(element_bytes_min) > self.left() {
            return Err(WireError::Malformed);
        }
        Ok(count)
    }

    /// Bytes up to the next NUL, which is consumed and not returned.
    pub(super) fn terminated(&mut self) -> Result<&'a [u8], WireError> {
        let rest = self.body.get(self.at..).ok_or(WireError::Malformed)?;
        let length = memchr::memchr(0, rest).ok_or(WireError::Malformed)?;
        let bytes = self.bytes(length)?;
        self.at += 1;
        Ok(bytes)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.terminated()?).map_err(|_| WireError::NotUtf8)
    }

    pub(super) fn string(&mut self) -> Result<String, WireError> {
        self.text().map(str::to_owned)
    }

    /// A value by its length, -1 is NULL. `whole` must be what the reader reads.
    pub(super) fn value(&mut self, whole: &Bytes) -> Result<Option<Bytes>, WireError> {
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| WireError::Malformed)?;
                let start = self.at;
                self.bytes(length)?;
                Ok(Some(whole.slice(start..self.at)))
            }
        }
    }

    pub(super) fn format(&mut self) -> Result<Format, WireError> {
        match self.u16()? {
            0 => Ok(Format::Text),
            1 => Ok(Format::Binary),
            _ => Err(WireError::Malformed),
        }
    }

    pub(super) fn formats(&mut self) -> Result<Vec<Format>, WireError> {
        let count = self.count(2)?;
        (0..count).map(|_| self.format()).collect()
    }

    /// Nothing may be left over.
    pub(super) fn end(&self) -> Result<(), WireError> {
        if self.left() == 0 { Ok(()) } else { Err(WireError::Malformed) }
    }
}

/// Appends a tag, the length and what `write_body` appends.
///
/// A body over `i32::MAX` gets that as its length, which every peer refuses; [`super::limits`] keeps bodies far below.
pub(super) fn message(buffer: &mut BytesMut, tag: u8, write_body: impl FnOnce(&mut BytesMut)) {
    buffer.put_u8(tag);
    untagged(buffer, write_body);
}

/// Appends the length and what `write_body` appends: a start-up packet.
pub(super) fn untagged(buffer: &mut BytesMut, write_body: impl FnOnce(&mut BytesMut)) {
    let start = buffer.len();
    buffer.put_i32(0);
    write_body(buffer);
    let length = i32::try_from(buffer.len().saturating_sub(start)).unwrap_or(i32::MAX);
    if let Some(place) = buffer.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends a text and its NUL. A NUL inside makes the message malformed, which the reader refuses: the length frames it.
pub(super) fn put_text(buffer: &mut BytesMut, text: &str) {
    buffer.put_slice(text.as_bytes());
    buffer.put_u8(0);
}

/// Appends a 16-bit count; more than fits makes the message malformed, which the reader refuses.
pub(super) fn put_count(buffer: &mut BytesMut, count: usize) {
    buffer.put_u16(u16::try_from(count).unwrap_or(u16::MAX));
}

/// Appends a value with its length; NULL is -1.
pub(super) fn put_value(buffer: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        None => buffer.put_i32(-1),
        Some(bytes) => {
            buffer.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
            buffer.put_slice(bytes);
        }
    }
}

pub(super) fn put_format(buffer: &mut BytesMut, format: Format) {
    buffer.put_u16(match format {
        Format::Text => 0,
        Format::Binary => 1,
    });
}

pub(super) fn put_formats(buffer: &mut BytesMut, formats: &[Format]) {
    put_count(buffer, formats.len());
    for format in formats {
        put_format(buffer, *format);
    }
}
