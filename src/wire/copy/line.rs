//! Where lines of text and CSV data end: `CopyReadLineText` over a buffer that grows.

use super::{CopyError, CopyFormat, CopyShape};

/// How lines end; the first line decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineEnd {
    Unknown,
    Newline,
    CarriageReturn,
    Both,
}

/// What the buffer starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Not a whole line yet.
    More,
    /// A line: its bytes without and with the line end.
    Whole { content: usize, end: usize },
    /// `\.`: bytes of the row before it (0: none) and bytes with the marker and its line end.
    Marker { content: usize, end: usize },
    /// The data has ended: the whole buffer is the last line, or nothing if it is empty.
    Rest,
}

/// Outcome of a look at `\.`.
enum Marker {
    More,
    No,
    End(usize),
}

/// Finds line ends. Keeps its place between calls, so that a line that comes in many pieces is read once.
#[derive(Debug)]
pub(super) struct LineScanner {
    csv: bool,
    quote: u8,
    /// `None` where it is the quote itself, which then simply toggles.
    escape: Option<u8>,
    marker_in_csv: bool,
    line_end: LineEnd,
    /// How far the current line has been looked at.
    at: usize,
    in_quote: bool,
    last_was_escape: bool,
}

impl LineScanner {
    pub(super) fn new(shape: &CopyShape, marker_in_csv: bool) -> Self {
        LineScanner {
            csv: shape.format == CopyFormat::Csv,
            quote: shape.quote,
            escape: (shape.escape != shape.quote).then_some(shape.escape),
            marker_in_csv,
            line_end: LineEnd::Unknown,
            at: 0,
            in_quote: false,
            last_was_escape: false,
        }
    }

    /// Stands between two lines, of which the ones before ended with a newline.
    pub(super) fn is_between_newlines(&self) -> bool {
        self.at == 0 && self.line_end == LineEnd::Newline
    }

    /// Looks at the buffer, which starts with a line and must still hold what was there in the last call,
    /// unless that returned something else than [`Line::More`]: then the line is to be taken off first.
    pub(super) fn next_line(&mut self, data: &[u8], ended: bool) -> Result<Line, CopyError> {
        let line = if self.csv { self.next_csv(data, ended)? } else { self.next_text(data, ended)? };
        if line != Line::More {
            self.at = 0;
            self.in_quote = false;
            self.last_was_escape = false;
        }
        Ok(line)
    }

    fn next_text(&mut self, data: &[u8], ended: bool) -> Result<Line, CopyError> {
        loop {
            let Some((at, byte)) = find3(data, self.at, b'\\', b'\n', b'\r') else {
                return Ok(self.all_read(data, ended));
            };
            self.at = at;
            if byte != b'\\' {
                return self.end_line(data, at, byte, ended);
            }
            match data.get(at + 1) {
                None if ended => return Ok(Line::Rest),
                None => return Ok(Line::More),
                Some(b'.') => match self.marker(data, at, ended)? {
                    Marker::End(end) => return Ok(Line::Marker { content: at, end }),
                    _ => return Ok(Line::More),
                },
                // Whatever follows a backslash belongs to it, line ends too.
                Some(_) => self.at = at + 2,
            }
        }
    }

    fn next_csv(&mut self, data: &[u8], ended: bool) -> Result<Line, CopyError> {
        if self.at == 0 && self.marker_in_csv && data.first() == Some(&b'\\') {
            match data.get(1) {
                None if !ended => return Ok(Line::More),
                Some(b'.') => match self.marker(data, 0, ended)? {
                    Marker::More => return Ok(Line::More),
                    Marker::End(end) => return Ok(Line::Marker { content: 0, end }),
                    Marker::No => {}
                },
                _ => {}
            }
        }
        loop {
            if self.in_quote && !self.skip_quoted(data) {
                return Ok(self.all_read(data, ended));
            }
            let Some((at, byte)) = find3(data, self.at, self.quote, b'\n', b'\r') else {
                return Ok(self.all_read(data, ended));
            };
            self.at = at;
            if byte != self.quote {
                return self.end_line(data, at, byte, ended);
            }
            self.in_quote = true;
            self.at = at + 1;
        }
    }

    /// Goes behind the closing quote; false when it is not there yet.
    fn skip_quoted(&mut self, data: &[u8]) -> bool {
        let Some(escape) = self.escape else {
            return match find1(data, self.at, self.quote) {
                Some(at) => {
                    self.in_quote = false;
                    self.at = at + 1;
                    true
                }
                None => false,
            };
        };
        while let Some((at, byte)) = find2(data, self.at, self.quote, escape) {
            let follows_escape = self.last_was_escape && at == self.at;
            self.at = at + 1;
            self.last_was_escape = byte == escape && !follows_escape;
            if byte == self.quote && !follows_escape {
                self.in_quote = false;
                return true;
            }
        }
        self.last_was_escape &= self.at == data.len();
        false
    }

    fn all_read(&mut self, data: &[u8], ended: bool) -> Line {
        self.at = data.len();
        if ended { Line::Rest } else { Line::More }
    }

    /// A CR or LF outside quotes: ends the line or has no business here.
    fn end_line(&mut self, data: &[u8], at: usize, byte: u8, ended: bool) -> Result<Line, CopyError> {
        let mut end = at + 1;
        match (byte, self.line_end) {
            (b'\n', LineEnd::Unknown | LineEnd::Newline) => self.line_end = LineEnd::Newline,
            (b'\n', _) => return Err(if self.csv { CopyError::UnquotedNewline } else { CopyError::LiteralNewline }),
            (_, LineEnd::CarriageReturn) => {}
            (_, LineEnd::Newline) => return Err(self.carriage_return()),
            (_, LineEnd::Unknown | LineEnd::Both) => match data.get(end) {
                None if !ended => return Ok(Line::More),
                Some(b'\n') => {
                    end += 1;
                    self.line_end = LineEnd::Both;
                }
                _ if self.line_end == LineEnd::Both => return Err(self.carriage_return()),
                _ => self.line_end = LineEnd::CarriageReturn,
            },
        }
        Ok(Line::Whole { content: at, end })
    }

    fn carriage_return(&self) -> CopyError {
        if self.csv { CopyError::UnquotedCarriageReturn } else { CopyError::LiteralCarriageReturn }
    }

    /// `\.` stands at `at`: is it the marker? In text it must be, in CSV it may be a value.
    fn marker(&self, data: &[u8], at: usize, ended: bool) -> Result<Marker, CopyError> {
        let not_marker = |error| if self.csv { Ok(Marker::No) } else { Err(error) };
        let mut next = at + 2;
        if self.line_end == LineEnd::Both {
            match data.get(next) {
                None if !ended => return Ok(Marker::More),
                Some(b'\r') => next += 1,
                Some(b'\n') => return not_marker(CopyError::MarkerMismatch),
                _ => return not_marker(CopyError::MarkerCorrupt),
            }
        }
        match (data.get(next), self.line_end) {
            (None, _) if !ended => Ok(Marker::More),
            (Some(b'\n'), LineEnd::CarriageReturn) | (Some(b'\r'), LineEnd::Newline | LineEnd::Both) => {
                Err(CopyError::MarkerMismatch)
            }
            (Some(b'\n' | b'\r'), _) => Ok(Marker::End(next + 1)),
            _ => not_marker(CopyError::MarkerCorrupt),
        }
    }
}

/// First of the bytes at or after `from`: where, and which.
pub(super) fn find3(data: &[u8], from: usize, a: u8, b: u8, c: u8) -> Option<(usize, u8)> {
    let rest = data.get(from..)?;
    let at = memchr::memchr3(a, b, c, rest)?;
    Some((from + at, *rest.get(at)?))
}

/// First of the bytes at or after `from`: where, and which.
pub(super) fn find2(data: &[u8], from: usize, a: u8, b: u8) -> Option<(usize, u8)> {
    let rest = data.get(from..)?;
    let at = memchr::memchr2(a, b, rest)?;
    Some((from + at, *rest.get(at)?))
}

/// First such byte at or after `from`.
pub(super) fn find1(data: &[u8], from: usize, a: u8) -> Option<usize> {
    memchr::memchr(a, data.get(from..)?).map(|at| from + at)
}
