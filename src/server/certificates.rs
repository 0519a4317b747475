//! Certificates are read again when their files change, and on SIGHUP.
//!
//! Whoever renews certificates need not know of the proxy: it looks for itself. A signal is for those who
//! want to be sure that it has looked. Files that cannot be used are complained of once and change nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::backend::ServersTls;
use crate::net::tls::{Acceptor, TlsError};

/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_secs(3);

/// Begins to listen for SIGHUP, which from now on does not end the process.
pub(super) fn listen() -> Option<Signal> {
    signal(SignalKind::hangup()).inspect_err(|error| tracing::warn!(%error, "SIGHUP cannot be listened for")).ok()
}

/// Looks after certificates for ever.
///
/// # Cancel safety
/// Safe.
pub(super) async fn watch(clients: Option<Arc<Acceptor>>, servers: ServersTls, mut hangups: Option<Signal>) {
    loop {
        let is_told = tokio::select! {
            () = tokio::time::sleep(LOOK_PAUSE) => false,
            () = hangup(&mut hangups) => true,
        };
        let (clients, servers) = (clients.clone(), servers.clone());
        let looking = tokio::task::spawn_blocking(move || {
            if let Some(acceptor) = clients {
                report("clients", acceptor.reload(is_told));
            }
            report("servers", servers.reload(is_told));
        });
        if let Err(error) = looking.await {
            tracing::warn!(%error, "certificates cannot be read again");
        }
    }
}

async fn hangup(hangups: &mut Option<Signal>) {
    match hangups {
        Some(hangups) => {
            hangups.recv().await;
        }
        None => std::future::pending().await,
    }
}

fn report(towards: &'static str, outcome: Result<bool, TlsError>) {
    match outcome {
        Ok(true) => tracing::info!(towards, "certificates were read again"),
        Ok(false) => {}
        Err(error) => tracing::warn!(towards, %error, "the certificates cannot be used; those from before are kept"),
    }
}
