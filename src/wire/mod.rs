//! PostgreSQL's wire protocol 3 as bytes and messages: bounds-checked, never panics, no I/O.
//!
//! Must not know: SQL, shards, sessions.

pub mod client_message;
pub mod copy;
mod cursor;
pub mod frame;
pub mod limits;
pub mod server_message;
pub mod startup;
pub mod value;

/// Format of a parameter or column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 0
    Text,
    /// 1
    Binary,
}

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The message's own lengths do not add up.
    #[error("invalid message format")]
    Malformed,
    /// The tag is not one that may come here.
    #[error("invalid frontend message type {0}")]
    UnknownTag(u8),
    /// The message is longer than allowed.
    #[error("message of {0} bytes is over the limit")]
    TooLong(usize),
    /// Text is not valid UTF-8.
    #[error("invalid byte sequence for encoding \"UTF8\"")]
    NotUtf8,
}
