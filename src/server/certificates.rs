//! Certificates are read again when their files change, and when somebody asks for it.
//!
//! Whoever renews certificates need not know of the proxy: it looks for itself. SIGHUP and RELOAD are for those who
//! want to be sure that it has looked. Files that cannot be used are complained of once and change nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::backend::ServersTls;
use crate::net::tls::{Acceptor, TlsError};

/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_secs(3);

/// The certificates of both sides.
#[derive(Clone)]
pub(super) struct Certificates {
    pub(super) clients: Option<Arc<Acceptor>>,
    pub(super) servers: ServersTls,
}

impl Certificates {
    /// Reads them again, if they have changed or if `always`.
    pub(super) async fn reload(&self, always: bool) {
        let Self { clients, servers } = self.clone();
        let looking = tokio::task::spawn_blocking(move || {
            if let Some(acceptor) = clients {
                report("clients", acceptor.reload(always));
            }
            report("servers", servers.reload(always));
        });
        if let Err(error) = looking.await {
            tracing::warn!(%error, "certificates cannot be read again");
        }
    }
}

/// Begins to listen for SIGHUP, which from now on does not end the process.
pub(super) fn listen() -> Option<Signal> {
    signal(SignalKind::hangup()).inspect_err(|error| tracing::warn!(%error, "SIGHUP cannot be listened for")).ok()
}

/// Looks after certificates for ever.
///
/// # Cancel safety
/// Safe.
pub(super) async fn watch(certificates: Certificates) {
    loop {
        tokio::time::sleep(LOOK_PAUSE).await;
        certificates.reload(false).await;
    }
}

fn report(towards: &'static str, outcome: Result<bool, TlsError>) {
    match outcome {
        Ok(true) => tracing::info!(towards, "certificates were read again"),
        Ok(false) => {}
        Err(error) => tracing::warn!(towards, %error, "the certificates cannot be used; those from before are kept"),
    }
}
