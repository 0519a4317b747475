//! Sockets: listener, TLS, framed stream, deadlines.
//!
//! Must not know: who speaks on the other side, SQL, the topology.

pub mod deadline;
pub mod descriptors;
pub mod framed;
pub mod listener;
pub mod stream;
pub mod tls;

pub use deadline::{DeadlineError, deadline};
pub use framed::Framed;
pub use listener::{ClientPermit, Listener, ListenerSettings};
pub use stream::{PeerCertificate, TlsFacts};

use std::io;

use crate::wire::WireError;

/// Why a socket is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The other side closed the stream in the middle of a message.
    #[error("connection closed in the middle of a message")]
    Closed,
    /// Bytes came in the clear that nobody may have sent who is trusted after the TLS handshake.
    #[error("received unencrypted data before the TLS handshake")]
    PlaintextBeforeTls,
    /// The operating system, or TLS, reports an error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The bytes are not a message.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// More output was kept back than allowed.
    #[error("more output is kept back than allowed")]
    HeldTooMuch,
    /// A wait took too long.
    #[error("{0}")]
    Deadline(#[from] DeadlineError),
}
