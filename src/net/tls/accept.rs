//! The accepting side: our own certificate, and clients' certificates verified against a CA.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::files::{self, Stamp};
use super::{ALPN, TlsError, TlsVersion, certificate, provider, versions};
use crate::net::stream::{PeerCertificate, TlsFacts};

/// Where the certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptSettings {
    /// Our certificate, then those that lead to the root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Clients may show a certificate that leads to one of these; without it they are not asked.
    pub client_ca: Option<PathBuf>,
    /// Older versions are refused.
    pub oldest: TlsVersion,
}

/// Makes TLS of accepted sockets.
pub struct Acceptor {
    settings: AcceptSettings,
    loaded: ArcSwap<Loaded>,
    seen: Mutex<Stamp>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    end_point: Option<Vec<u8>>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Acceptor").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be used, or the key is not the certificate's.
    pub fn load(settings: AcceptSettings) -> Result<Self, TlsError> {
        let seen = Mutex::new(files::stamp(&paths(&settings)));
        let loaded = ArcSwap::from_pointee(load(&settings)?);
        Ok(Self { settings, loaded, seen })
    }

    /// Reads the files again, if they have changed or if `always`. `true`: handshakes that begin from
    /// now on use what was read; connections that are open keep what they have.
    ///
    /// # Errors
    /// As [`Self::load`]: what was read before stays. The same files are complained of once.
    pub fn reload(&self, always: bool) -> Result<bool, TlsError> {
        let mut seen = self.seen.lock();
        let now = files::stamp(&paths(&self.settings));
        if !always && *seen == now {
            return Ok(false);
        }
        *seen = now;
        self.loaded.store(Arc::new(load(&self.settings)?));
        Ok(true)
    }

    /// The handshake; a client that comes with TLS from its first byte (`direct`) has to name the
    /// protocol by ALPN, so that nothing that speaks another one can be made to talk to us.
    pub(in crate::net) async fn accept(
        &self,
        stream: TcpStream,
        direct: bool,
    ) -> std::io::Result<(Box<TlsStream<TcpStream>>, TlsFacts)> {
        let loaded = self.loaded.load_full();
        let stream = TlsAcceptor::from(Arc::clone(&loaded.config)).accept(stream).await?;
        let session = stream.get_ref().1;
        if direct && session.alpn_protocol() != Some(ALPN) {
            return Err(std::io::Error::other(
                "received direct SSL connection request without ALPN protocol negotiation extension",
            ));
        }
        // Only a certificate that was verified gets so far.
        let peer = session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|first| PeerCertificate { common_name: certificate::common_name(first), der: first.to_vec() });
        let facts = TlsFacts { peer, server_end_point: loaded.end_point.clone() };
        Ok((Box::new(stream), facts))
    }
}

fn paths(settings: &AcceptSettings) -> Vec<&Path> {
    let mut paths = vec![settings.certificate.as_path(), settings.key.as_path()];
    paths.extend(settings.client_ca.as_deref());
    paths
}

fn load(settings: &AcceptSettings) -> Result<Loaded, TlsError> {
    let chain = files::certificates(&settings.certificate)?;
    let key = files::private_key(&settings.key)?;
    let end_point = chain.first().and_then(|first| certificate::end_point(first));
    let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(settings.oldest))
        .map_err(setup)?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let (roots, _) = files::roots(file)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|error| TlsError::File { file: file.clone(), reason: error.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::Mismatch { file: settings.certificate.clone(), reason: error.to_string() })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // As PostgreSQL: no resumption. A resumed session would keep a client certificate that a new CA
    // file no longer verifies, and connections are too few to gain by it.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Loaded { config: Arc::new(config), end_point })
}
