//! TLS on both sides: certificates from files, handshakes, what a handshake has shown.
//!
//! Certificates can be read again while connections live: a handshake uses what was read last, and files
//! that cannot be used leave everything as it was.
//!
//! Must not know: when TLS is asked for, who may connect.

mod accept;
mod certificate;
mod connect;
mod files;
#[cfg(test)]
mod tests;
mod verify;

pub use accept::{AcceptSettings, Acceptor};
pub use connect::{ConnectSettings, Connector, TlsMode};

use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::{SupportedProtocolVersion, version};

/// ALPN's name of the protocol.
///
/// # Source
/// <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>
pub const ALPN: &[u8] = b"postgresql";

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2
    #[default]
    V1_2,
    /// 1.3
    V1_3,
}

impl TlsVersion {
    /// All, oldest first.
    pub const ALL: [Self; 2] = [Self::V1_2, Self::V1_3];

    /// As it is written: `1.2`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }

    /// The version that a text means.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == word)
    }
}

/// Why certificates cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of what it should.
    #[error("cannot use {}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why, without its contents.
        reason: String,
    },
    /// The parts do not fit together, e.g. the key is another certificate's.
    #[error("{} cannot be used with its key: {reason}", file.display())]
    Mismatch {
        /// The certificate's file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The parts are right and cannot be put together.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// The cryptography that is used everywhere: there is no process-wide default to depend on.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

static SINCE_1_2: &[&SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];
static SINCE_1_3: &[&SupportedProtocolVersion] = &[&version::TLS13];

fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match oldest {
        TlsVersion::V1_2 => SINCE_1_2,
        TlsVersion::V1_3 => SINCE_1_3,
    }
}
