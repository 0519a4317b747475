//! A second opinion on COPY text and CSV: PostgreSQL's loops, byte by byte over whole data, as plainly as can be.
//!
//! Shares nothing with the splitter but the shape and the words of its errors.

use ostrakon::wire::copy::{CopyError, CopyFormat, CopyShape};

/// A line: what is before it ends, and its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// With the line end.
    pub bytes: Vec<u8>,
    /// Fields; `Err` where PostgreSQL would find the quotes unterminated.
    pub fields: Result<Vec<Option<Vec<u8>>>, ()>,
}

/// All lines (header too), the marker if it came, and the error that ended them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Lines before the end or the error.
    pub lines: Vec<Line>,
    /// `\.` and its line end.
    pub marker: Option<Vec<u8>>,
    /// The first error of the line reader.
    pub error: Option<CopyError>,
}

/// `CopyReadLine` until the end of data.
pub fn read(shape: &CopyShape, data: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut at = 0;
    let mut line_end: Option<&'static [u8]> = None;
    loop {
        let start = at;
        match read_line(shape, data, &mut at, &mut line_end) {
            Err(error) => {
                outcome.error = Some(error);
                return outcome;
            }
            Ok(Some((content, is_marker))) => {
                if !is_marker || content > start {
                    let end = if is_marker { content } else { at };
                    outcome.lines.push(Line {
                        bytes: data[start..end].to_vec(),
                        fields: read_fields(shape, &data[start..content]),
                    });
                }
                if is_marker {
                    outcome.marker = Some(data[content..at].to_vec());
                    return outcome;
                }
            }
            Ok(None) => {
                if data.len() > start {
                    let bytes = data[start..].to_vec();
                    let fields = read_fields(shape, &bytes);
                    outcome.lines.push(Line { bytes, fields });
                }
                return outcome;
            }
        }
    }
}

/// End of the line's content and whether the marker ended it; `None` at the end of data.
fn read_line(
    shape: &CopyShape,
    data: &[u8],
    at: &mut usize,
    line_end: &mut Option<&'static [u8]>,
) -> Result<Option<(usize, bool)>, CopyError> {
    let csv = shape.format == CopyFormat::Csv;
    // PostgreSQL reads a NUL behind the data.
    let peek = |at: usize| data.get(at).copied().unwrap_or(0);
    let escape = if csv && shape.escape != shape.quote { Some(shape.escape) } else { None };
    let (mut first, mut in_quote, mut last_was_escape) = (true, false, false);
    loop {
        if *at >= data.len() {
            return Ok(None);
        }
        let here = *at;
        let byte = data[here];
        *at += 1;
        if csv {
            if in_quote && Some(byte) == escape {
                last_was_escape = !last_was_escape;
            }
            if byte == shape.quote && !last_was_escape {
                in_quote = !in_quote;
            }
            if Some(byte) != escape {
                last_was_escape = false;
            }
        }
        if byte == b'\r' && !in_quote {
            let error = if csv { CopyError::UnquotedCarriageReturn } else { CopyError::LiteralCarriageReturn };
            if line_end.is_none() || *line_end == Some(b"\r\n") {
                if peek(*at) == b'\n' {
                    *at += 1;
                    *line_end = Some(b"\r\n");
                } else if line_end.is_some() {
                    return Err(error);
                } else {
                    *line_end = Some(b"\r");
                }
            } else if *line_end == Some(b"\n") {
                return Err(error);
            }
            return Ok(Some((here, false)));
        }
        if byte == b'\n' && !in_quote {
            if *line_end == Some(b"\r") || *line_end == Some(b"\r\n") {
                return Err(if csv { CopyError::UnquotedNewline } else { CopyError::LiteralNewline });
            }
            *line_end = Some(b"\n");
            return Ok(Some((here, false)));
        }
        if byte == b'\\' && (!csv || first) {
            if *at >= data.len() {
                return Ok(None);
            }
            if data[*at] == b'.' {
                if marker_ends(csv, &peek, here, at, *line_end)? {
                    *at = (*at).min(data.len());
                    return Ok(Some((here, true)));
                }
                *at = here + 1;
            } else if !csv {
                *at += 1;
            }
        }
        first = false;
    }
}

/// Looks at what follows `\.`, moving behind it when it is the marker.
fn marker_ends(
    csv: bool,
    peek: &dyn Fn(usize) -> u8,
    here: usize,
    at: &mut usize,
    line_end: Option<&'static [u8]>,
) -> Result<bool, CopyError> {
    *at = here + 2;
    if line_end == Some(b"\r\n") {
        let next = peek(*at);
        *at += 1;
        if next == b'\n' {
            return if csv { Ok(false) } else { Err(CopyError::MarkerMismatch) };
        } else if next != b'\r' {
            return if csv { Ok(false) } else { Err(CopyError::MarkerCorrupt) };
        }
    }
    let next = peek(*at);
    *at += 1;
    if next != b'\r' && next != b'\n' {
        return if csv { Ok(false) } else { Err(CopyError::MarkerCorrupt) };
    }
    let wanted = line_end.map(|end| *end.last().unwrap());
    if wanted.is_some_and(|wanted| wanted != next) { Err(CopyError::MarkerMismatch) } else { Ok(true) }
}

fn read_fields(shape: &CopyShape, line: &[u8]) -> Result<Vec<Option<Vec<u8>>>, ()> {
    if shape.format == CopyFormat::Csv { read_fields_csv(shape, line) } else { Ok(read_fields_text(shape, line)) }
}

/// `CopyReadAttributesText`.
fn read_fields_text(shape: &CopyShape, line: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let start = at;
        let mut value = Vec::new();
        let mut found_delimiter = false;
        let mut end;
        loop {
            end = at;
            if at >= line.len() {
                break;
            }
            let mut byte = line[at];
            at += 1;
            if byte == shape.delimiter {
                found_delimiter = true;
                break;
            }
            if byte == b'\\' {
                if at >= line.len() {
                    break;
                }
                byte = line[at];
                at += 1;
                let octal =
                    |at: usize| line.get(at).filter(|byte| (b'0'..=b'7').contains(byte)).map(|b| u32::from(b - b'0'));
                let hex = |at: usize| line.get(at).and_then(|byte| char::from(*byte).to_digit(16));
                match byte {
                    b'0'..=b'7' => {
                        let mut number = u32::from(byte - b'0');
                        if let Some(digit) = octal(at) {
                            at += 1;
                            number = (number << 3) + digit;
                            if let Some(digit) = octal(at) {
                                at += 1;
                                number = (number << 3) + digit;
                            }
                        }
                        byte = (number & 0o377) as u8;
                    }
                    b'x' => {
                        if let Some(digit) = hex(at) {
                            at += 1;
                            let mut number = digit;
                            if let Some(digit) = hex(at) {
                                at += 1;
                                number = (number << 4) + digit;
                            }
                            byte = (number & 0xff) as u8;
                        }
                    }
                    b'b' => byte = 8,
                    b'f' => byte = 12,
                    b'n' => byte = 10,
                    b'r' => byte = 13,
                    b't' => byte = 9,
                    b'v' => byte = 11,
                    _ => {}
                }
            }
            value.push(byte);
        }
        fields.push((line[start..end] != shape.null[..]).then_some(value));
        if !found_delimiter {
            return fields;
        }
    }
}

/// `CopyReadAttributesCSV`.
fn read_fields_csv(shape: &CopyShape, line: &[u8]) -> Result<Vec<Option<Vec<u8>>>, ()> {
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let start = at;
        let mut value = Vec::new();
        let (mut saw_quote, mut in_quote, mut found_delimiter) = (false, false, false);
        let mut end;
        loop {
            end = at;
            if at >= line.len() {
                if in_quote {
                    // The fields before it are known; the caller judges by them.
                    return if fields.is_empty() { Err(()) } else { Ok(fields) };
                }
                break;
            }
            let byte = line[at];
            at += 1;
            if !in_quote {
                if byte == shape.delimiter {
                    found_delimiter = true;
                    break;
                }
                if byte == shape.quote {
                    saw_quote = true;
                    in_quote = true;
                    continue;
                }
            } else {
                if byte == shape.escape
                    && let Some(next) = line.get(at)
                    && (*next == shape.escape || *next == shape.quote)
                {
                    value.push(*next);
                    at += 1;
                    continue;
                }
                if byte == shape.quote {
                    in_quote = false;
                    continue;
                }
            }
            value.push(byte);
        }
        fields.push((saw_quote || line[start..end] != shape.null[..]).then_some(value));
        if !found_delimiter {
            return Ok(fields);
        }
    }
}
