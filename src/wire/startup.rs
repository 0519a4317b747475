//! The first packets of a client: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage.
//!
//! Must not know: which users or databases exist, whether TLS is on.

use bytes::{BufMut, Bytes, BytesMut};

use super::WireError;
use super::cursor::{self, Reader};
use super::limits::{CANCEL_SECRET_BYTES_MAX, CANCEL_SECRET_BYTES_MIN, STARTUP_BYTES_MAX};

/// `1234` in the place of the major version marks a request; the minor says which.
const REQUEST: u16 = 1234;
const REQUEST_CANCEL: u16 = 5678;
const REQUEST_TLS: u16 = 5679;
const REQUEST_GSS: u16 = 5680;

/// The newest minor version of protocol 3 that is spoken with clients.
pub const MINOR_LATEST: u16 = 2;

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

impl StartupPacket {
    /// Major and minor version as sent; requests have such numbers, too.
    pub fn version(&self) -> (u16, u16) {
        match self {
            Self::Tls => (REQUEST, REQUEST_TLS),
            Self::Gss => (REQUEST, REQUEST_GSS),
            Self::Cancel { .. } => (REQUEST, REQUEST_CANCEL),
            Self::Startup { minor, .. } => (3, *minor),
            Self::UnsupportedVersion { major, minor } => (*major, *minor),
        }
    }
}

/// Takes the first packet off the buffer; `None` until it is whole.
///
/// # Errors
/// Malformed, or longer than PostgreSQL's own limit of 10,000 bytes.
///
/// # Source
/// `ProcessStartupPacket` of `src/backend/postmaster/postmaster.c`.
pub fn take_startup(buffer: &mut BytesMut) -> Result<Option<StartupPacket>, WireError> {
    let Some((length, _)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| WireError::Malformed)?;
    // PostgreSQL's limit does not count the length itself; a version is the least that must follow.
    if length < 8 {
        return Err(WireError::Malformed);
    }
    if length - 4 > STARTUP_BYTES_MAX {
        return Err(WireError::TooLong(length));
    }
    if buffer.len() < length {
        return Ok(None);
    }
    let packet = buffer.split_to(length).freeze();
    decode(&packet.slice(4..)).map(Some)
}

fn decode(body: &[u8]) -> Result<StartupPacket, WireError> {
    let mut reader = Reader::new(body);
    let major = reader.u16()?;
    let minor = reader.u16()?;
    let packet = match (major, minor) {
        (REQUEST, REQUEST_TLS) => StartupPacket::Tls,
        (REQUEST, REQUEST_GSS) => StartupPacket::Gss,
        (REQUEST, REQUEST_CANCEL) => {
            let pid = reader.u32()?;
            let secret = reader.bytes(reader.left())?;
            if !(CANCEL_SECRET_BYTES_MIN..=CANCEL_SECRET_BYTES_MAX).contains(&secret.len()) {
                return Err(WireError::Malformed);
            }
            StartupPacket::Cancel { pid, secret: Bytes::copy_from_slice(secret) }
        }
        (3, minor) => StartupPacket::Startup { minor, parameters: decode_parameters(&mut reader)? },
        (major, minor) => return Ok(StartupPacket::UnsupportedVersion { major, minor }),
    };
    reader.end()?;
    Ok(packet)
}

/// Names and values until an empty name, which is the packet's last byte.
fn decode_parameters(reader: &mut Reader<'_>) -> Result<Vec<(String, String)>, WireError> {
    let mut parameters = Vec::new();
    loop {
        let name = reader.string()?;
        if name.is_empty() {
            return Ok(parameters);
        }
        parameters.push((name, reader.string()?));
    }
}

/// Appends a StartupMessage of protocol 3.0.
pub fn encode_startup(buffer: &mut BytesMut, parameters: &[(&str, &str)]) {
    cursor::untagged(buffer, |body| {
        body.put_u16(3);
        body.put_u16(0);
        for (name, value) in parameters {
            cursor::put_text(body, name);
            cursor::put_text(body, value);
        }
        body.put_u8(0);
    });
}

/// Appends a CancelRequest.
pub fn encode_cancel(buffer: &mut BytesMut, pid: u32, secret: &[u8]) {
    encode_request(buffer, REQUEST_CANCEL, |body| {
        body.put_u32(pid);
        body.put_slice(secret);
    });
}

/// Appends an SSLRequest.
pub fn encode_tls_request(buffer: &mut BytesMut) {
    encode_request(buffer, REQUEST_TLS, |_| {});
}

/// Appends a GSSENCRequest.
pub fn encode_gss_request(buffer: &mut BytesMut) {
    encode_request(buffer, REQUEST_GSS, |_| {});
}

fn encode_request(buffer: &mut BytesMut, code: u16, write_rest: impl FnOnce(&mut BytesMut)) {
    cursor::untagged(buffer, |body| {
        body.put_u16(REQUEST);
        body.put_u16(code);
        write_rest(body);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(bytes: &[u8]) -> Result<Option<StartupPacket>, WireError> {
        take_startup(&mut BytesMut::from(bytes))
    }

    #[test]
    fn parameters_keep_their_order_and_protocol_options() {
        let mut buffer = BytesMut::new();
        cursor::untagged(&mut buffer, |body| {
            body.put_slice(b"\0\x03\0\x02user\0app\0_pq_.x\x001\0database\0\0\0");
        });
        let parameters = [("user", "app"), ("_pq_.x", "1"), ("database", "")];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        assert_eq!(take_startup(&mut buffer), Ok(Some(StartupPacket::Startup { minor: 2, parameters })));
        assert!(buffer.is_empty());
    }

    #[test]
    fn requests_are_told_apart() {
        let mut buffer = BytesMut::new();
        encode_tls_request(&mut buffer);
        encode_gss_request(&mut buffer);
        encode_cancel(&mut buffer, 7, &[1, 2, 3, 4]);
        assert_eq!(take_startup(&mut buffer), Ok(Some(StartupPacket::Tls)));
        assert_eq!(take_startup(&mut buffer), Ok(Some(StartupPacket::Gss)));
        let secret = Bytes::from_static(&[1, 2, 3, 4]);
        assert_eq!(take_startup(&mut buffer), Ok(Some(StartupPacket::Cancel { pid: 7, secret })));
        assert_eq!(take_startup(&mut buffer), Ok(None));
    }

    #[test]
    fn other_major_versions_are_named_not_refused() {
        let version = StartupPacket::UnsupportedVersion { major: 2, minor: 0 };
        assert_eq!(take(b"\0\0\0\x09\0\x02\0\0x"), Ok(Some(version)));
    }

    #[test]
    fn layouts_that_postgresql_refuses_are_malformed() {
        for bytes in [
            &b"\0\0\0\x07\0\x03\0"[..],                 // shorter than a version
            b"\xff\xff\xff\xff\0\x03\0\0",              // negative
            b"\0\0\0\x08\0\x03\0\0",                    // no terminator
            b"\0\0\0\x0d\0\x03\0\0user\0",              // name without value
            b"\0\0\0\x0a\0\x03\0\0\0x",                 // bytes after the terminator
            b"\0\0\0\x09\x04\xd2\x16\x2fx",             // SSLRequest with a rest
            b"\0\0\0\x0f\x04\xd2\x16\x2e\0\0\0\x01abc", // secret of three bytes
        ] {
            assert_eq!(take(bytes), Err(WireError::Malformed), "{bytes:?}");
        }
        assert_eq!(take(b"\0\0\x27\x15"), Err(WireError::TooLong(10_005)));
        assert_eq!(take(b"\0\0\x27\x14"), Ok(None));
        assert_eq!(take(b"GET / HTTP/1.1\r\n"), Err(WireError::TooLong(0x4745_5420)));
    }
}
