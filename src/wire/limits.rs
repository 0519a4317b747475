//! Size limits of messages.

/// Largest message taken from a client or server.
///
/// # Units
/// Bytes. PostgreSQL's own limit is 1 GiB - 1 for a value.
pub const MESSAGE_BYTES_MAX: usize = 0x3fff_ffff;

/// Largest first packet (PostgreSQL's MAX_STARTUP_PACKET_LENGTH).
pub const STARTUP_BYTES_MAX: usize = 10_000;

/// Shortest and longest secret of a cancel key: 4 bytes in protocol 3.0, 4 to 256 in 3.2.
pub const CANCEL_SECRET_BYTES_MIN: usize = 4;
/// See [`CANCEL_SECRET_BYTES_MIN`].
pub const CANCEL_SECRET_BYTES_MAX: usize = 256;

/// Longest row of COPY data; a splitter may be given less.
///
/// # Units
/// Bytes. PostgreSQL's line buffer ends here too (`MaxAllocSize`).
pub const COPY_ROW_BYTES_MAX: usize = 0x3fff_ffff;
