//! What a server sends: tags, the few messages that are read, and those that the proxy writes. (in work)

use bytes::{Bytes, BytesMut};

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

/// Reads a RowDescription's body.
///
/// # Errors
/// Malformed.
pub fn read_row_description(_body: &[u8]) -> Result<Vec<Field>, WireError> {
    Err(WireError::Malformed)
}

/// Reads a DataRow's body: a slice or NULL a column.
///
/// # Errors
/// Malformed.
pub fn read_data_row(_body: &Bytes) -> Result<Vec<Option<Bytes>>, WireError> {
    Err(WireError::Malformed)
}

/// Fields of an ErrorResponse or NoticeResponse that are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorFields {
    /// `V`, never localised.
    pub severity: String,
    /// `C`
    pub code: String,
    /// `M`
    pub message: String,
    /// `D`
    pub detail: String,
    /// `H`
    pub hint: String,
}

/// Reads an ErrorResponse's or NoticeResponse's body.
///
/// # Errors
/// Malformed.
pub fn read_error(_body: &[u8]) -> Result<ErrorFields, WireError> {
    Err(WireError::Malformed)
}

/// Reads the row count at the end of a command tag: 3 of `UPDATE 3`, of `INSERT 0 3`.
pub fn read_row_count(_tag: &str) -> Option<u64> {
    None
}

/// Appends RowDescription.
pub fn write_row_description(_buffer: &mut BytesMut, _fields: &[Field]) {}
/// Appends DataRow.
pub fn write_data_row(_buffer: &mut BytesMut, _values: &[Option<&[u8]>]) {}
/// Appends CommandComplete.
pub fn write_command_complete(_buffer: &mut BytesMut, _tag: &str) {}
/// Appends ErrorResponse with severity, SQLSTATE, message, detail, hint.
pub fn write_error(
    _buffer: &mut BytesMut,
    _severity: &str,
    _code: &str,
    _message: &str,
    _detail: Option<&str>,
    _hint: Option<&str>,
) {
}
/// Appends NoticeResponse.
pub fn write_notice(_buffer: &mut BytesMut, _severity: &str, _code: &str, _message: &str) {}
/// Appends ReadyForQuery; status is `I`, `T` or `E`.
pub fn write_ready_for_query(_buffer: &mut BytesMut, _status: u8) {}
/// Appends ParameterStatus.
pub fn write_parameter_status(_buffer: &mut BytesMut, _name: &str, _value: &str) {}
/// Appends BackendKeyData.
pub fn write_backend_key_data(_buffer: &mut BytesMut, _pid: u32, _secret: &[u8]) {}
/// Appends AuthenticationOk.
pub fn write_authentication_ok(_buffer: &mut BytesMut) {}
/// Appends a message that has a tag and no body: ParseComplete, BindComplete, CloseComplete, NoData,
/// EmptyQueryResponse, CopyDone, PortalSuspended.
pub fn write_empty(_buffer: &mut BytesMut, _tag: u8) {}
/// Appends ParameterDescription.
pub fn write_parameter_description(_buffer: &mut BytesMut, _types: &[u32]) {}
/// Appends CopyInResponse or CopyOutResponse.
pub fn write_copy_response(_buffer: &mut BytesMut, _tag: u8, _format: Format, _columns: usize) {}
/// Appends CopyData.
pub fn write_copy_data(_buffer: &mut BytesMut, _data: &[u8]) {}
