//! What a server sends: tags, the few messages that are read, and those that the proxy writes.
//!
//! Must not know: what the values mean.

use bytes::{BufMut, Bytes, BytesMut};

use super::cursor::{self, Reader};
use super::frame::Frame;
use super::limits::{CANCEL_SECRET_BYTES_MAX, CANCEL_SECRET_BYTES_MIN};
use super::{Format, WireError};

/// Tags of server messages.
#[allow(missing_docs)]
pub mod tag {
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// One column of a RowDescription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name.
    pub name: Bytes,
    /// Table OID or 0.
    pub table_oid: u32,
    /// Attribute number or 0.
    pub column: i16,
    /// Type.
    pub type_oid: u32,
    /// `typlen`
    pub type_size: i16,
    /// `atttypmod`
    pub type_modifier: i32,
    /// Format of the values.
    pub format: Format,
}

impl Field {
    /// A column of type text that belongs to no table, in text format.
    pub fn text(name: &'static str) -> Self {
        Self {
            name: Bytes::from_static(name.as_bytes()),
            table_oid: 0,
            column: 0,
            type_oid: TEXT_OID,
            type_size: -1,
            type_modifier: -1,
            format: Format::Text,
        }
    }
}

/// OID of text.
const TEXT_OID: u32 = 25;

/// Reads a RowDescription's body.
///
/// # Errors
/// Malformed.
pub fn read_row_description(body: &[u8]) -> Result<Vec<Field>, WireError> {
    let mut reader = Reader::new(body);
    // An empty name and its NUL, then 18 bytes.
    let count = reader.count(19)?;
    let fields = (0..count).map(|_| read_field(&mut reader)).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(fields)
}

fn read_field(reader: &mut Reader<'_>) -> Result<Field, WireError> {
    Ok(Field {
        name: Bytes::copy_from_slice(reader.terminated()?),
        table_oid: reader.u32()?,
        column: reader.i16()?,
        type_oid: reader.u32()?,
        type_size: reader.i16()?,
        type_modifier: reader.i32()?,
        format: reader.format()?,
    })
}

/// Reads a DataRow's body: a slice or NULL a column.
///
/// # Errors
/// Malformed.
pub fn read_data_row(body: &Bytes) -> Result<Vec<Option<Bytes>>, WireError> {
    let mut reader = Reader::new(body);
    let count = reader.count(4)?;
    let values = (0..count).map(|_| reader.value(body)).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(values)
}

/// Fields of an ErrorResponse or NoticeResponse; those that did not come are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorFields {
    /// `V`, never localised; `S` where a server older than 9.6 sends no `V`.
    pub severity: String,
    /// `C`
    pub code: String,
    /// `M`
    pub message: String,
    /// `D`
    pub detail: String,
    /// `H`
    pub hint: String,
    /// `S`, may be localised.
    pub severity_local: String,
    /// `P`, in characters from 1.
    pub position: String,
    /// `p`
    pub internal_position: String,
    /// `q`
    pub internal_query: String,
    /// `W`
    pub context: String,
    /// `s`
    pub schema: String,
    /// `t`
    pub table: String,
    /// `c`
    pub column: String,
    /// `d`
    pub data_type: String,
    /// `n`
    pub constraint: String,
    /// `F`
    pub file: String,
    /// `L`
    pub line: String,
    /// `R`
    pub routine: String,
}

impl ErrorFields {
    /// Place of a field by its type; `None` for one that this protocol version does not define.
    fn field(&mut self, kind: u8) -> Option<&mut String> {
        Some(match kind {
            b'S' => &mut self.severity_local,
            b'V' => &mut self.severity,
            b'C' => &mut self.code,
            b'M' => &mut self.message,
            b'D' => &mut self.detail,
            b'H' => &mut self.hint,
            b'P' => &mut self.position,
            b'p' => &mut self.internal_position,
            b'q' => &mut self.internal_query,
            b'W' => &mut self.context,
            b's' => &mut self.schema,
            b't' => &mut self.table,
            b'c' => &mut self.column,
            b'd' => &mut self.data_type,
            b'n' => &mut self.constraint,
            b'F' => &mut self.file,
            b'L' => &mut self.line,
            b'R' => &mut self.routine,
            _ => return None,
        })
    }
}

/// Reads an ErrorResponse's or NoticeResponse's body.
///
/// Before it knows the client's encoding a server may send texts in its own; bytes that are not UTF-8 are
/// replaced here, since the fields are for decisions and logs: what reaches the client are the original bytes.
///
/// # Errors
/// Malformed. Fields of unknown type are skipped, as the protocol demands.
pub fn read_error(body: &[u8]) -> Result<ErrorFields, WireError> {
    let mut reader = Reader::new(body);
    let mut fields = ErrorFields::default();
    loop {
        let kind = reader.u8()?;
        if kind == 0 {
            break;
        }
        let text = reader.terminated()?;
        if let Some(field) = fields.field(kind) {
            *field = String::from_utf8_lossy(text).into_owned();
        }
    }
    reader.end()?;
    if fields.severity.is_empty() {
        fields.severity.clone_from(&fields.severity_local);
    }
    Ok(fields)
}

/// An ErrorResponse whose position (`P`) is another one, or none; every other field stays byte for byte. Anything
/// that cannot be read stays as it is.
pub fn with_position(frame: Frame, change: impl Fn(usize) -> Option<usize>) -> Frame {
    let body = frame.body();
    let mut reader = Reader::new(&body);
    let mut fields = BytesMut::with_capacity(body.len() + 8);
    let mut is_changed = false;
    while let Ok(kind) = reader.u8() {
        if kind == 0 {
            break;
        }
        let Ok(text) = reader.terminated() else { return frame };
        let mut put = |text: &[u8]| {
            fields.put_u8(kind);
            fields.put_slice(text);
            fields.put_u8(0);
        };
        match std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).filter(|_| kind == b'P') {
            Some(position) => {
                is_changed = true;
                if let Some(position) = change(position) {
                    put(position.to_string().as_bytes());
                }
            }
            None => put(text),
        }
    }
    if !is_changed {
        return frame;
    }
    let mut bytes = BytesMut::with_capacity(fields.len() + 6);
    cursor::message(&mut bytes, frame.tag, |body| {
        body.put_slice(&fields);
        body.put_u8(0);
    });
    Frame { tag: frame.tag, bytes: bytes.freeze() }
}

/// Reads CommandComplete's tag.
///
/// # Errors
/// Malformed, not UTF-8.
pub fn read_command_tag(body: &[u8]) -> Result<&str, WireError> {
    let mut reader = Reader::new(body);
    let tag = reader.text()?;
    reader.end()?;
    Ok(tag)
}

/// Reads the row count at the end of a command tag: 3 of `UPDATE 3`, of `INSERT 0 3`.
pub fn read_row_count(tag: &str) -> Option<u64> {
    let (_, count) = tag.rsplit_once(' ')?;
    // `parse` alone would take "+3" as well.
    if !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    count.parse().ok()
}

/// Reads ParameterDescription's types.
///
/// # Errors
/// Malformed.
pub fn read_parameter_description(body: &[u8]) -> Result<Vec<u32>, WireError> {
    let mut reader = Reader::new(body);
    let count = reader.count(4)?;
    let types = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(types)
}

/// Reads ParameterStatus: name and value.
///
/// # Errors
/// Malformed, not UTF-8.
pub fn read_parameter_status(body: &[u8]) -> Result<(&str, &str), WireError> {
    let mut reader = Reader::new(body);
    let name = reader.text()?;
    let value = reader.text()?;
    reader.end()?;
    Ok((name, value))
}

/// Reads ReadyForQuery's status: `I`, `T` or `E`.
///
/// # Errors
/// Malformed, another status included.
pub fn read_ready_for_query(body: &[u8]) -> Result<u8, WireError> {
    match body {
        [status @ (b'I' | b'T' | b'E')] => Ok(*status),
        _ => Err(WireError::Malformed),
    }
}

/// Reads CopyInResponse, CopyOutResponse or CopyBothResponse: format and number of columns.
///
/// # Errors
/// Malformed.
pub fn read_copy_response(body: &[u8]) -> Result<(Format, usize), WireError> {
    let mut reader = Reader::new(body);
    let format = match reader.u8()? {
        0 => Format::Text,
        1 => Format::Binary,
        _ => return Err(WireError::Malformed),
    };
    let columns = reader.formats()?.len();
    reader.end()?;
    Ok((format, columns))
}

/// Reads BackendKeyData: process id and secret.
///
/// # Errors
/// Malformed, a secret outside the protocol's lengths included.
pub fn read_backend_key(body: &[u8]) -> Result<(u32, Bytes), WireError> {
    let mut reader = Reader::new(body);
    let pid = reader.u32()?;
    let secret = reader.bytes(reader.left())?;
    if !(CANCEL_SECRET_BYTES_MIN..=CANCEL_SECRET_BYTES_MAX).contains(&secret.len()) {
        return Err(WireError::Malformed);
    }
    Ok((pid, Bytes::copy_from_slice(secret)))
}

/// NotificationResponse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Process id of the notifying server process.
    pub pid: u32,
    /// Channel.
    pub channel: String,
    /// Payload, empty when none.
    pub payload: String,
}

/// Reads NotificationResponse.
///
/// # Errors
/// Malformed, not UTF-8.
pub fn read_notification(body: &[u8]) -> Result<Notification, WireError> {
    let mut reader = Reader::new(body);
    let notification = Notification { pid: reader.u32()?, channel: reader.string()?, payload: reader.string()? };
    reader.end()?;
    Ok(notification)
}

/// Appends RowDescription.
pub fn write_row_description(buffer: &mut BytesMut, fields: &[Field]) {
    cursor::message(buffer, tag::ROW_DESCRIPTION, |body| {
        cursor::put_count(body, fields.len());
        for field in fields {
            body.put_slice(&field.name);
            body.put_u8(0);
            body.put_u32(field.table_oid);
            body.put_i16(field.column);
            body.put_u32(field.type_oid);
            body.put_i16(field.type_size);
            body.put_i32(field.type_modifier);
            cursor::put_format(body, field.format);
        }
    });
}

/// Appends DataRow.
pub fn write_data_row(buffer: &mut BytesMut, values: &[Option<&[u8]>]) {
    cursor::message(buffer, tag::DATA_ROW, |body| {
        cursor::put_count(body, values.len());
        for value in values {
            cursor::put_value(body, *value);
        }
    });
}

/// Appends CommandComplete.
pub fn write_command_complete(buffer: &mut BytesMut, tag: &str) {
    cursor::message(buffer, tag::COMMAND_COMPLETE, |body| cursor::put_text(body, tag));
}

/// Appends ErrorResponse with severity, SQLSTATE, message, detail, hint.
pub fn write_error(
    buffer: &mut BytesMut,
    severity: &str,
    code: &str,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) {
    cursor::message(buffer, tag::ERROR_RESPONSE, |body| put_report(body, severity, code, message, detail, hint));
}

/// Appends NoticeResponse.
pub fn write_notice(buffer: &mut BytesMut, severity: &str, code: &str, message: &str) {
    cursor::message(buffer, tag::NOTICE_RESPONSE, |body| put_report(body, severity, code, message, None, None));
}

fn put_report(
    body: &mut BytesMut,
    severity: &str,
    code: &str,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) {
    let fields = [
        (b'S', Some(severity)),
        (b'V', Some(severity)),
        (b'C', Some(code)),
        (b'M', Some(message)),
        (b'D', detail),
        (b'H', hint),
    ];
    for (kind, text) in fields {
        let Some(text) = text else { continue };
        body.put_u8(kind);
        // A message may quote what a client sent; cut at a NUL, as a C string would be, it cannot add fields.
        cursor::put_text(body, text.split('\0').next().unwrap_or_default());
    }
    body.put_u8(0);
}

/// Appends ReadyForQuery; status is `I`, `T` or `E`.
pub fn write_ready_for_query(buffer: &mut BytesMut, status: u8) {
    cursor::message(buffer, tag::READY_FOR_QUERY, |body| body.put_u8(status));
}

/// Appends ParameterStatus.
pub fn write_parameter_status(buffer: &mut BytesMut, name: &str, value: &str) {
    cursor::message(buffer, tag::PARAMETER_STATUS, |body| {
        cursor::put_text(body, name);
        cursor::put_text(body, value);
    });
}

/// Appends BackendKeyData.
pub fn write_backend_key_data(buffer: &mut BytesMut, pid: u32, secret: &[u8]) {
    cursor::message(buffer, tag::BACKEND_KEY_DATA, |body| {
        body.put_u32(pid);
        body.put_slice(secret);
    });
}

/// Appends AuthenticationOk.
pub fn write_authentication_ok(buffer: &mut BytesMut) {
    cursor::message(buffer, tag::AUTHENTICATION, |body| body.put_u32(0));
}

/// Appends a request of authentication: its number, and what belongs to it.
pub fn write_authentication_request(buffer: &mut BytesMut, method: u32, data: &[u8]) {
    cursor::message(buffer, tag::AUTHENTICATION, |body| {
        body.put_u32(method);
        body.put_slice(data);
    });
}

/// Appends NegotiateProtocolVersion: the newest minor version spoken, and the `_pq_.` options not known.
pub fn write_negotiate_protocol_version(buffer: &mut BytesMut, minor: u16, options: &[&str]) {
    cursor::message(buffer, tag::NEGOTIATE_PROTOCOL_VERSION, |body| {
        // libpq compares it with the whole version that it asked for, major included.
        body.put_u16(3);
        body.put_u16(minor);
        body.put_u32(u32::try_from(options.len()).unwrap_or(u32::MAX));
        for option in options {
            cursor::put_text(body, option);
        }
    });
}

/// Appends NotificationResponse.
pub fn write_notification(buffer: &mut BytesMut, pid: u32, channel: &str, payload: &str) {
    cursor::message(buffer, tag::NOTIFICATION_RESPONSE, |body| {
        body.put_u32(pid);
        cursor::put_text(body, channel);
        cursor::put_text(body, payload);
    });
}

/// Appends a message that has a tag and no body: ParseComplete, BindComplete, CloseComplete, NoData,
/// EmptyQueryResponse, CopyDone, PortalSuspended.
pub fn write_empty(buffer: &mut BytesMut, tag: u8) {
    cursor::message(buffer, tag, |_| {});
}

/// Appends ParameterDescription.
pub fn write_parameter_description(buffer: &mut BytesMut, types: &[u32]) {
    cursor::message(buffer, tag::PARAMETER_DESCRIPTION, |body| {
        cursor::put_count(body, types.len());
        for oid in types {
            body.put_u32(*oid);
        }
    });
}

/// Appends CopyInResponse or CopyOutResponse.
pub fn write_copy_response(buffer: &mut BytesMut, tag: u8, format: Format, columns: usize) {
    cursor::message(buffer, tag, |body| {
        body.put_u8(match format {
            Format::Text => 0,
            Format::Binary => 1,
        });
        cursor::put_count(body, columns);
        for _ in 0..columns.min(usize::from(u16::MAX)) {
            cursor::put_format(body, format);
        }
    });
}

/// Appends CopyData.
pub fn write_copy_data(buffer: &mut BytesMut, data: &[u8]) {
    cursor::message(buffer, tag::COPY_DATA, |body| body.put_slice(data));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_an_error_is_read_and_unknown_ones_are_skipped() {
        let body = b"SFEHLER\0VERROR\0C23505\0Mdup\0Dd\0Hh\0P1\0p2\0qq\0Ww\0ss\0tt\0cc\0dd\0nn\0FF\0L3\0RR\0?x\0\0";
        let fields = read_error(body).unwrap();
        assert_eq!((&fields.severity[..], &fields.code[..], &fields.message[..]), ("ERROR", "23505", "dup"));
        assert_eq!((&fields.constraint[..], &fields.routine[..], &fields.severity_local[..]), ("n", "R", "FEHLER"));
    }

    #[test]
    fn an_error_without_terminator_or_with_a_rest_is_malformed() {
        assert_eq!(read_error(b""), Err(WireError::Malformed));
        assert_eq!(read_error(b"C23505\0"), Err(WireError::Malformed));
        assert_eq!(read_error(b"C23505"), Err(WireError::Malformed));
        assert_eq!(read_error(b"\0x"), Err(WireError::Malformed));
        assert_eq!(read_error(b"SFATAL\0\0").unwrap().severity, "FATAL");
    }

    #[test]
    fn a_nul_in_a_message_adds_no_field() {
        let mut buffer = BytesMut::new();
        write_error(&mut buffer, "ERROR", "42601", "bad\0C00000", None, Some("hint"));
        let fields = read_error(&buffer[5..]).unwrap();
        assert_eq!((&fields.code[..], &fields.message[..], &fields.hint[..]), ("42601", "bad", "hint"));
    }

    #[test]
    fn row_counts_are_the_last_number_of_a_tag() {
        assert_eq!(read_row_count("INSERT 0 3"), Some(3));
        assert_eq!(read_row_count("UPDATE 18446744073709551615"), Some(u64::MAX));
        assert_eq!(read_row_count("SELECT 0"), Some(0));
        for none in ["CREATE TABLE", "BEGIN", "", "3", "UPDATE ", "UPDATE +3", "UPDATE -3", "COPY 18446744073709551616"]
        {
            assert_eq!(read_row_count(none), None, "{none}");
        }
    }

    #[test]
    fn values_of_rows_are_slices_of_the_body() {
        let mut buffer = BytesMut::new();
        write_data_row(&mut buffer, &[Some(b"ab"), None, Some(b"")]);
        let body = buffer.freeze().slice(5..);
        let values = read_data_row(&body).unwrap();
        assert_eq!(values, [Some(Bytes::from_static(b"ab")), None, Some(Bytes::new())]);
        assert_eq!(values[0].as_ref().unwrap().as_ptr(), body[6..].as_ptr());
        assert_eq!(read_data_row(&body.slice(..body.len() - 1)), Err(WireError::Malformed));
        assert_eq!(read_data_row(&Bytes::from_static(b"\0\x01\xff\xff\xff\xfe")), Err(WireError::Malformed));
        assert_eq!(read_data_row(&Bytes::from_static(b"\xff\xff\0\0\0\0")), Err(WireError::Malformed));
    }

    #[test]
    fn small_messages_are_read_exactly() {
        assert_eq!(read_ready_for_query(b"T"), Ok(b'T'));
        assert_eq!(read_ready_for_query(b"X"), Err(WireError::Malformed));
        assert_eq!(read_ready_for_query(b"II"), Err(WireError::Malformed));
        assert_eq!(read_command_tag(b"BEGIN\0"), Ok("BEGIN"));
        assert_eq!(read_command_tag(b"BEGIN"), Err(WireError::Malformed));
        assert_eq!(read_parameter_status(b"TimeZone\0UTC\0"), Ok(("TimeZone", "UTC")));
        assert_eq!(read_copy_response(b"\x01\0\x02\0\x01\0\x01"), Ok((Format::Binary, 2)));
        assert_eq!(read_copy_response(b"\x02\0\0"), Err(WireError::Malformed));
        assert_eq!(read_backend_key(b"\0\0\0\x07abcd"), Ok((7, Bytes::from_static(b"abcd"))));
        assert_eq!(read_backend_key(b"\0\0\0\x07abc"), Err(WireError::Malformed));
    }
}
