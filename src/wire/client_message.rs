//! What a client sends after start-up. (in work)

use bytes::Bytes;

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

/// Bind.
#[derive(Clone, Debug, PartialEq, Eq)]
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
pub fn decode(_frame: &Frame) -> Result<ClientMessage, WireError> {
    Err(WireError::Malformed)
}

/// Appends Parse.
pub fn encode_parse(_buffer: &mut bytes::BytesMut, _statement: &str, _sql: &str, _parameter_types: &[u32]) {}
/// Appends Bind with another portal and statement name.
pub fn encode_bind(_buffer: &mut bytes::BytesMut, _portal: &str, _statement: &str, _bind: &Bind) {}
/// Appends Describe.
pub fn encode_describe(_buffer: &mut bytes::BytesMut, _target: &Target) {}
/// Appends Execute.
pub fn encode_execute(_buffer: &mut bytes::BytesMut, _portal: &str, _rows_max: u32) {}
/// Appends Close.
pub fn encode_close(_buffer: &mut bytes::BytesMut, _target: &Target) {}
/// Appends Sync.
pub fn encode_sync(_buffer: &mut bytes::BytesMut) {}
/// Appends Flush.
pub fn encode_flush(_buffer: &mut bytes::BytesMut) {}
/// Appends Query.
pub fn encode_query(_buffer: &mut bytes::BytesMut, _sql: &str) {}
/// Appends CopyData.
pub fn encode_copy_data(_buffer: &mut bytes::BytesMut, _data: &[u8]) {}
/// Appends CopyDone.
pub fn encode_copy_done(_buffer: &mut bytes::BytesMut) {}
/// Appends CopyFail.
pub fn encode_copy_fail(_buffer: &mut bytes::BytesMut, _reason: &str) {}
/// Appends Terminate.
pub fn encode_terminate(_buffer: &mut bytes::BytesMut) {}
