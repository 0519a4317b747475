//! Frames: a tag, a length, a body. Both directions look alike after start-up.
//!
//! Must not know: what a body means.

use bytes::{Bytes, BytesMut};

use super::WireError;

/// Tag and length.
const HEADER_BYTES: usize = 5;

/// One message with its tag; the body is without tag and length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// First byte.
    pub tag: u8,
    /// Tag, length and body, as received: ready to be forwarded.
    pub bytes: Bytes,
}

impl Frame {
    /// Body without tag and length.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(HEADER_BYTES.min(self.bytes.len())..)
    }

    /// The same to look at: nothing is shared, which costs more than most looks.
    pub fn as_body(&self) -> &[u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }
}

/// Takes the next whole frame off the front of the buffer, without copying it.
///
/// # Errors
/// A length under 4 is malformed, one over `bytes_max` too long; nothing is reserved for it.
pub fn take_frame(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Frame>, WireError> {
    let Some((tag, bytes)) = header(buffer)? else { return Ok(None) };
    // The limit is on the length as sent, which counts itself and the body but not the tag.
    if bytes - 1 > bytes_max {
        return Err(WireError::TooLong(bytes - 1));
    }
    if buffer.len() < bytes {
        return Ok(None);
    }
    // Most come alone: nothing has to be shared then.
    let whole = if buffer.len() == bytes { std::mem::take(buffer) } else { buffer.split_to(bytes) };
    Ok(Some(Frame { tag, bytes: whole.freeze() }))
}

/// Takes the whole frames of this tag off the front of the buffer, as one run and without copying; empty when another
/// frame comes first or none is whole.
pub fn take_run(buffer: &mut BytesMut, tag: u8) -> Bytes {
    let mut bytes = 0;
    while let Ok(Some((found, length))) = header(buffer.get(bytes..).unwrap_or_default()) {
        if found != tag || length > buffer.len() - bytes {
            break;
        }
        bytes += length;
    }
    if bytes == 0 { Bytes::new() } else { buffer.split_to(bytes).freeze() }
}

/// Tag and bytes of the frame that starts here, both with the header; `None` until five bytes are there.
fn header(buffer: &[u8]) -> Result<Option<(u8, usize)>, WireError> {
    let Some((&[tag, length @ ..], _)) = buffer.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = usize::try_from(i32::from_be_bytes(length)).map_err(|_| WireError::Malformed)?;
    if length < 4 {
        return Err(WireError::Malformed);
    }
    Ok(Some((tag, length + 1)))
}

/// Place of a frame in the buffer that was scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// First byte.
    pub tag: u8,
    /// Offset of the tag in the buffer.
    pub start: usize,
    /// Offset after the body's last byte.
    pub end: usize,
}

impl Header {
    /// The frame's body within the buffer that was scanned.
    pub fn body<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        buffer.get(self.start + HEADER_BYTES..self.end).unwrap_or_default()
    }
}

/// Walks over the whole frames of a buffer by their headers: nothing is decoded, copied or reserved.
pub fn scan(buffer: &[u8]) -> Scan<'_> {
    Scan { buffer, whole: 0, failed: false }
}

/// Iterator over the whole frames of a buffer; see [`scan`].
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    buffer: &'a [u8],
    whole: usize,
    failed: bool,
}

impl Scan<'_> {
    /// Bytes of the whole frames returned so far: all of them once the iterator has ended.
    pub fn bytes_whole(&self) -> usize {
        self.whole
    }

    /// How many bytes the frame after those returned lacks to be whole: 0 when it is here already or the
    /// buffer ends with a frame, `None` while its length is not here or is malformed.
    pub fn bytes_missing(&self) -> Option<usize> {
        let rest = self.buffer.get(self.whole..).unwrap_or_default();
        if rest.is_empty() {
            return Some(0);
        }
        header(rest).ok().flatten().map(|(_, bytes)| bytes.saturating_sub(rest.len()))
    }
}

impl Iterator for Scan<'_> {
    /// A malformed length is reported once and ends the walk.
    type Item = Result<Header, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let rest = self.buffer.get(self.whole..)?;
        match header(rest) {
            Ok(Some((tag, bytes))) if bytes <= rest.len() => {
                let start = self.whole;
                self.whole += bytes;
                Some(Ok(Header { tag, start, end: self.whole }))
            }
            Ok(_) => None,
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_only_when_whole() {
        let whole = b"Z\0\0\0\x05I";
        for cut in 0..whole.len() {
            let mut buffer = BytesMut::from(&whole[..cut]);
            assert_eq!(take_frame(&mut buffer, 100), Ok(None));
            assert_eq!(buffer.len(), cut);
        }
        let mut buffer = BytesMut::from(&whole[..]);
        buffer.extend_from_slice(b"S\0\0\0\x04rest");
        let frame = take_frame(&mut buffer, 100).unwrap().unwrap();
        assert_eq!((frame.tag, &frame.bytes[..], &frame.body()[..]), (b'Z', &whole[..], &b"I"[..]));
        assert_eq!(take_frame(&mut buffer, 100).unwrap().unwrap().tag, b'S');
        assert_eq!(&buffer[..], b"rest");
    }

    #[test]
    fn a_run_ends_before_another_tag_and_before_what_is_not_whole() {
        let rows = b"D\0\0\0\x05aD\0\0\0\x05b";
        let mut buffer = BytesMut::from(&[rows, &b"C\0\0\0\x04"[..], b"D\0\0\0\x05c"].concat()[..]);
        assert_eq!(&take_run(&mut buffer, b'D')[..], rows);
        assert!(take_run(&mut buffer, b'D').is_empty());
        assert_eq!(take_frame(&mut buffer, 100).unwrap().unwrap().tag, b'C');
        for cut in 0..6 {
            assert!(take_run(&mut BytesMut::from(&buffer[..cut]), b'D').is_empty());
        }
        assert_eq!(take_run(&mut buffer, b'D').len(), 6);
        assert!(take_run(&mut BytesMut::from(&b"D\0\0\0\x03"[..]), b'D').is_empty(), "a malformed length");
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_before_the_body_comes() {
        let take = |bytes: &[u8]| take_frame(&mut BytesMut::from(bytes), 100);
        assert_eq!(take(b"Q\0\0\0\x03"), Err(WireError::Malformed));
        assert_eq!(take(b"Q\xff\xff\xff\xff"), Err(WireError::Malformed));
        assert_eq!(take(b"Q\0\0\0\x65"), Err(WireError::TooLong(101)));
        assert_eq!(take(b"Q\x7f\xff\xff\xff"), Err(WireError::TooLong(0x7fff_ffff)));
        assert_eq!(take(b"Q\0\0\0\x64"), Ok(None));
    }

    #[test]
    fn scan_stops_at_the_first_frame_that_is_not_whole() {
        let buffer = b"D\0\0\0\x06\0\0Z\0\0\0\x05IT\0\0\0\x08ab";
        let mut scan = scan(buffer);
        let headers: Vec<_> = scan.by_ref().map(Result::unwrap).collect();
        assert_eq!(headers, [Header { tag: b'D', start: 0, end: 7 }, Header { tag: b'Z', start: 7, end: 13 }]);
        assert_eq!(headers[1].body(buffer), b"I");
        assert_eq!((scan.bytes_whole(), scan.bytes_missing()), (13, Some(2)));
    }

    #[test]
    fn scan_reports_a_malformed_length_once() {
        let mut scan = scan(b"Z\0\0\0\x05ID\0\0\0\0");
        assert!(scan.next().unwrap().is_ok());
        assert_eq!(scan.next(), Some(Err(WireError::Malformed)));
        assert_eq!(scan.next(), None);
        assert_eq!((scan.bytes_whole(), scan.bytes_missing()), (6, None));
    }
}
