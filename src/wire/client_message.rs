//! What a client sends after start-up.
//!
//! Must not know: in which state of a session a message may come.

use bytes::{BufMut, Bytes, BytesMut};

use super::cursor::{self, Reader};
use super::frame::Frame;
use super::{Format, WireError};

/// A decoded message of a client. Texts are valid UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// Simple query.
    Query(String),
    /// Parse.
    Parse(Parse),
    /// Bind.
    Bind(Bind),
    /// Describe a statement (`S`) or portal (`P`).
    Describe(Target),
    /// Execute a portal; `rows_max` 0 means all.
    Execute {
        /// Portal.
        portal: String,
        /// Row limit.
        rows_max: u32,
    },
    /// Close a statement or portal.
    Close(Target),
    /// Flush.
    Flush,
    /// Sync.
    Sync,
    /// CopyData.
    CopyData(Bytes),
    /// CopyDone.
    CopyDone,
    /// CopyFail with the client's reason.
    CopyFail(String),
    /// FunctionCall, whole body.
    FunctionCall(Bytes),
    /// Password, SASL and GSS answers share a tag; whole body.
    Password(Bytes),
    /// Terminate.
    Terminate,
}

/// A statement or a portal by name; the empty name is the unnamed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Prepared statement.
    Statement(String),
    /// Portal.
    Portal(String),
}

/// Parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parse {
    /// Statement name.
    pub statement: String,
    /// Text.
    pub sql: String,
    /// Parameter types; 0 is unspecified; may be fewer than there are parameters.
    pub parameter_types: Vec<u32>,
}

/// Bind; without anything else, of the unnamed statement to the unnamed portal, all in text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bind {
    /// Portal name.
    pub portal: String,
    /// Statement name.
    pub statement: String,
    /// None: all text; one: for all; else one a parameter.
    pub parameter_formats: Vec<Format>,
    /// Values; `None` is NULL.
    pub parameters: Vec<Option<Bytes>>,
    /// None: all text; one: for all; else one a column.
    pub result_formats: Vec<Format>,
}

impl Bind {
    /// Format of a parameter, from 0.
    pub fn parameter_format(&self, index: usize) -> Format {
        format_of(&self.parameter_formats, index)
    }
}

/// Format at an index by the protocol's rule for format lists.
pub fn format_of(formats: &[Format], index: usize) -> Format {
    match formats {
        [] => Format::Text,
        [one] => *one,
        many => many.get(index).copied().unwrap_or(Format::Text),
    }
}

/// Decodes a frame from a client.
///
/// # Errors
/// Malformed, unknown tag, not UTF-8. Nothing is guessed: left-over bytes are malformed too.
pub fn decode(frame: &Frame) -> Result<ClientMessage, WireError> {
    let body = frame.body();
    let mut reader = Reader::new(&body);
    let message = match frame.tag {
        b'Q' => ClientMessage::Query(reader.string()?),
        b'P' => ClientMessage::Parse(decode_parse(&mut reader)?),
        b'B' => ClientMessage::Bind(decode_bind(&mut reader, &body)?),
        b'D' => ClientMessage::Describe(decode_target(&mut reader)?),
        b'E' => ClientMessage::Execute {
            portal: reader.string()?,
            // PostgreSQL takes zero and less for "all rows" (exec_execute_message).
            rows_max: u32::try_from(reader.i32()?).unwrap_or(0),
        },
        b'C' => ClientMessage::Close(decode_target(&mut reader)?),
        b'H' => ClientMessage::Flush,
        b'S' => ClientMessage::Sync,
        b'c' => ClientMessage::CopyDone,
        b'f' => ClientMessage::CopyFail(reader.string()?),
        b'X' => ClientMessage::Terminate,
        b'd' => return Ok(ClientMessage::CopyData(body)),
        b'F' => return Ok(ClientMessage::FunctionCall(body)),
        b'p' => return Ok(ClientMessage::Password(body)),
        tag => return Err(WireError::UnknownTag(tag)),
    };
    reader.end()?;
    Ok(message)
}

/// A Parse from its statement's name and the rest of its body; `None` when they are not text.
pub fn read_parse(statement: &[u8], rest: &[u8]) -> Option<Parse> {
    let body = [statement, &[0], rest].concat();
    decode_parse(&mut Reader::new(&body)).ok()
}

fn decode_parse(reader: &mut Reader<'_>) -> Result<Parse, WireError> {
    let statement = reader.string()?;
    let sql = reader.string()?;
    let count = reader.count(4)?;
    let parameter_types = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
    Ok(Parse { statement, sql, parameter_types })
}

fn decode_bind(reader: &mut Reader<'_>, body: &Bytes) -> Result<Bind, WireError> {
    let portal = reader.string()?;
    let statement = reader.string()?;
    let parameter_formats = reader.formats()?;
    let count = reader.count(4)?;
    if parameter_formats.len() > 1 && parameter_formats.len() != count {
        return Err(WireError::Malformed);
    }
    let parameters = (0..count).map(|_| reader.value(body)).collect::<Result<_, _>>()?;
    let result_formats = reader.formats()?;
    Ok(Bind { portal, statement, parameter_formats, parameters, result_formats })
}

fn decode_target(reader: &mut Reader<'_>) -> Result<Target, WireError> {
    match reader.u8()? {
        b'S' => Ok(Target::Statement(reader.string()?)),
        b'P' => Ok(Target::Portal(reader.string()?)),
        _ => Err(WireError::Malformed),
    }
}

/// Appends Parse.
pub fn encode_parse(buffer: &mut BytesMut, statement: &str, sql: &str, parameter_types: &[u32]) {
    cursor::message(buffer, b'P', |body| {
        cursor::put_text(body, statement);
        cursor::put_text(body, sql);
        cursor::put_count(body, parameter_types.len());
        for oid in parameter_types {
            body.put_u32(*oid);
        }
    });
}

/// Appends Bind with another portal and statement name.
pub fn encode_bind(buffer: &mut BytesMut, portal: &str, statement: &str, bind: &Bind) {
    cursor::message(buffer, b'B', |body| {
        cursor::put_text(body, portal);
        cursor::put_text(body, statement);
        cursor::put_formats(body, &bind.parameter_formats);
        cursor::put_count(body, bind.parameters.len());
        for value in &bind.parameters {
            cursor::put_value(body, value.as_deref());
        }
        cursor::put_formats(body, &bind.result_formats);
    });
}

/// Appends Describe.
pub fn encode_describe(buffer: &mut BytesMut, target: &Target) {
    encode_target(buffer, b'D', target);
}

/// Appends Execute; `rows_max` 0 means all.
pub fn encode_execute(buffer: &mut BytesMut, portal: &str, rows_max: u32) {
    cursor::message(buffer, b'E', |body| {
        cursor::put_text(body, portal);
        body.put_i32(i32::try_from(rows_max).unwrap_or(i32::MAX));
    });
}

/// Appends Close.
pub fn encode_close(buffer: &mut BytesMut, target: &Target) {
    encode_target(buffer, b'C', target);
}

fn encode_target(buffer: &mut BytesMut, tag: u8, target: &Target) {
    cursor::message(buffer, tag, |body| {
        let (kind, name) = match target {
            Target::Statement(name) => (b'S', name),
            Target::Portal(name) => (b'P', name),
        };
        body.put_u8(kind);
        cursor::put_text(body, name);
    });
}

/// Appends Sync.
pub fn encode_sync(buffer: &mut BytesMut) {
    cursor::message(buffer, b'S', |_| {});
}

/// Appends Flush.
pub fn encode_flush(buffer: &mut BytesMut) {
    cursor::message(buffer, b'H', |_| {});
}

/// Appends Query.
pub fn encode_query(buffer: &mut BytesMut, sql: &str) {
    cursor::message(buffer, b'Q', |body| cursor::put_text(body, sql));
}

/// A message made of the parts of its body.
pub fn frame(tag: u8, parts: &[&[u8]]) -> Frame {
    let mut bytes = BytesMut::with_capacity(5 + parts.iter().map(|part| part.len()).sum::<usize>());
    cursor::message(&mut bytes, tag, |body| parts.iter().for_each(|part| body.put_slice(part)));
    Frame { tag, bytes: bytes.freeze() }
}

/// Appends CopyData.
pub fn encode_copy_data(buffer: &mut BytesMut, data: &[u8]) {
    cursor::message(buffer, b'd', |body| body.put_slice(data));
}

/// Begins a CopyData in an empty buffer, to which its data is then appended; it ends with [`end_copy_data`].
pub fn begin_copy_data(buffer: &mut BytesMut) {
    cursor::message(buffer, b'd', |_| {});
}

/// Ends the CopyData that is all there is in the buffer.
pub fn end_copy_data(buffer: &mut BytesMut) {
    // The tag is not counted.
    let length = i32::try_from(buffer.len().saturating_sub(1)).unwrap_or(i32::MAX);
    if let Some(place) = buffer.get_mut(1..5) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends CopyDone.
pub fn encode_copy_done(buffer: &mut BytesMut) {
    cursor::message(buffer, b'c', |_| {});
}

/// Appends CopyFail.
pub fn encode_copy_fail(buffer: &mut BytesMut, reason: &str) {
    cursor::message(buffer, b'f', |body| cursor::put_text(body, reason));
}

/// Appends a password, SASL or GSS answer; a cleartext or MD5 password must bring its own NUL.
pub fn encode_password(buffer: &mut BytesMut, answer: &[u8]) {
    cursor::message(buffer, b'p', |body| body.put_slice(answer));
}

/// Appends FunctionCall with a whole body.
pub fn encode_function_call(buffer: &mut BytesMut, call: &[u8]) {
    cursor::message(buffer, b'F', |body| body.put_slice(call));
}

/// Appends Terminate.
pub fn encode_terminate(buffer: &mut BytesMut) {
    cursor::message(buffer, b'X', |_| {});
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_parts(tag: u8, body: &[u8]) -> Result<ClientMessage, WireError> {
        let mut buffer = BytesMut::new();
        cursor::message(&mut buffer, tag, |out| out.put_slice(body));
        decode(&Frame { tag, bytes: buffer.freeze() })
    }

    #[test]
    fn a_message_of_copy_data_may_be_filled_by_and_by() {
        let (mut whole, mut parts) = (BytesMut::new(), BytesMut::new());
        encode_copy_data(&mut whole, b"1\n2\n");
        begin_copy_data(&mut parts);
        parts.extend_from_slice(b"1\n");
        parts.extend_from_slice(b"2\n");
        end_copy_data(&mut parts);
        assert_eq!(whole, parts);
    }

    #[test]
    fn a_query_without_its_nul_is_malformed() {
        assert_eq!(decode_parts(b'Q', b"select 1"), Err(WireError::Malformed));
        assert_eq!(decode_parts(b'Q', b""), Err(WireError::Malformed));
        assert_eq!(decode_parts(b'Q', b"select 1\0"), Ok(ClientMessage::Query("select 1".to_owned())));
    }

    #[test]
    fn left_over_bytes_are_malformed() {
        assert_eq!(decode_parts(b'Q', b"a\0b\0"), Err(WireError::Malformed));
        assert_eq!(decode_parts(b'S', b"x"), Err(WireError::Malformed));
        assert_eq!(decode_parts(b'E', b"\0\0\0\0\0\0"), Err(WireError::Malformed));
    }

    #[test]
    fn texts_must_be_utf8_and_values_need_not() {
        assert_eq!(decode_parts(b'Q', b"\xff\0"), Err(WireError::NotUtf8));
        let bind = decode_parts(b'B', b"\0s\0\0\0\0\x02\0\0\0\x01\xff\xff\xff\xff\xff\0\x01\0\x01").unwrap();
        let ClientMessage::Bind(bind) = bind else { panic!("not a Bind: {bind:?}") };
        assert_eq!(bind.parameters, [Some(Bytes::from_static(b"\xff")), None]);
        assert_eq!(bind.result_formats, [Format::Binary]);
    }

    #[test]
    fn lengths_and_counts_beyond_the_body_are_malformed() {
        // A parameter of -2 bytes, one of 2 GiB, 65535 parameters, and formats that fit no parameters.
        assert_eq!(decode_parts(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"), Err(WireError::Malformed));
        assert_eq!(decode_parts(b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0"), Err(WireError::Malformed));
        assert_eq!(decode_parts(b'B', b"\0\0\0\0\xff\xff\0\0"), Err(WireError::Malformed));
        assert_eq!(decode_parts(b'B', b"\0\0\0\x02\0\0\0\0\0\0\0\0"), Err(WireError::Malformed));
        assert_eq!(decode_parts(b'P', b"\0\0\xff\xff"), Err(WireError::Malformed));
    }

    #[test]
    fn unknown_tags_and_targets_are_refused() {
        assert_eq!(decode_parts(b'z', b""), Err(WireError::UnknownTag(b'z')));
        assert_eq!(decode_parts(b'D', b"X\0"), Err(WireError::Malformed));
    }

    #[test]
    fn a_negative_row_limit_means_all_rows() {
        let all = ClientMessage::Execute { portal: String::new(), rows_max: 0 };
        assert_eq!(decode_parts(b'E', b"\0\xff\xff\xff\xff"), Ok(all));
    }
}
