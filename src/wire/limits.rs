//! Size limits of messages.

/// Largest message taken from a client or server.
///
/// # Units
/// Bytes. PostgreSQL's own limit is 1 GiB - 1 for a value.
pub const MESSAGE_BYTES_MAX: usize = 0x3fff_ffff;

/// Largest first packet (PostgreSQL's MAX_STARTUP_PACKET_LENGTH).
pub const STARTUP_BYTES_MAX: usize = 10_000;
