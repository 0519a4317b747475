//! The first packets of a client: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage. (in work)

use bytes::{Bytes, BytesMut};

use super::WireError;

/// The first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartupPacket {
    /// SSLRequest.
    Tls,
    /// GSSENCRequest.
    Gss,
    /// CancelRequest.
    Cancel {
        /// Process id.
        pid: u32,
        /// Secret: 4 bytes in 3.0, up to 256 in 3.2.
        secret: Bytes,
    },
    /// StartupMessage of protocol 3.x.
    Startup {
        /// Minor version asked for.
        minor: u16,
        /// Parameters in order, `user` and `database` among them.
        parameters: Vec<(String, String)>,
    },
    /// Another major version.
    UnsupportedVersion {
        /// Major.
        major: u16,
        /// Minor.
        minor: u16,
    },
}

/// Takes the first packet off the buffer; `None` until it is whole.
///
/// # Errors
/// Malformed, or longer than PostgreSQL's own limit of 10,000 bytes.
pub fn take_startup(_buffer: &mut BytesMut) -> Result<Option<StartupPacket>, WireError> {
    Ok(None)
}

/// Appends a StartupMessage of protocol 3.0.
pub fn encode_startup(_buffer: &mut BytesMut, _parameters: &[(&str, &str)]) {}
/// Appends a CancelRequest.
pub fn encode_cancel(_buffer: &mut BytesMut, _pid: u32, _secret: &[u8]) {}
/// Appends an SSLRequest.
pub fn encode_tls_request(_buffer: &mut BytesMut) {}
