//! The connecting side: whether TLS is asked for, what is verified, the certificate shown to servers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::{self, ClientConfig};

use super::files::{self, Stamp};
use super::verify::{Chain, Verifier};
use super::{ALPN, TlsError, TlsVersion, certificate, provider, versions};
use crate::net::stream::{PeerCertificate, TlsFacts};

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    #[default]
    Disable,
    /// If the server has it.
    Prefer,
    /// Always; the certificate is verified only if a CA is given.
    Require,
    /// Always, with a certificate of the CA.
    VerifyCa,
    /// Always, with a certificate of the CA for the very host.
    VerifyFull,
}

impl TlsMode {
    /// All, from the least to the most careful.
    pub const ALL: [Self; 5] = [Self::Disable, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// libpq's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// The mode that a word means.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == word)
    }

    /// A CA is needed.
    pub fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

/// How servers are connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectSettings {
    /// Whether TLS is used and what is verified.
    pub mode: TlsMode,
    /// Servers' certificates have to lead to one of these.
    pub ca: Option<PathBuf>,
    /// Certificate and private key that servers are shown when they ask.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Older versions are refused.
    pub oldest: TlsVersion,
}

/// Makes TLS of connected sockets.
pub struct Connector {
    settings: ConnectSettings,
    loaded: ArcSwap<Loaded>,
    seen: Mutex<Stamp>,
}

/// What the files hold.
#[derive(Default)]
struct Loaded {
    roots: Option<(Arc<WebPkiServerVerifier>, Vec<CertificateDer<'static>>)>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connector").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl PartialEq for Connector {
    /// Files that were read again do not make another connector.
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Connector {}

impl Connector {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be used, the key is not the certificate's, or the mode asks for a CA and there is none.
    pub fn load(settings: ConnectSettings) -> Result<Self, TlsError> {
        let seen = Mutex::new(files::stamp(&paths(&settings)));
        let loaded = ArcSwap::from_pointee(load(&settings)?);
        Ok(Self { settings, loaded, seen })
    }

    /// Never uses TLS.
    pub fn disabled() -> Self {
        Self { settings: ConnectSettings::default(), loaded: ArcSwap::default(), seen: Mutex::default() }
    }

    /// Whether TLS is used.
    pub fn mode(&self) -> TlsMode {
        self.settings.mode
    }

    /// Reads the files again, if they have changed or if `always`. `true`: connections that are opened from
    /// now on use what was read.
    ///
    /// # Errors
    /// As [`Self::load`]: what was read before stays. The same files are complained of once.
    pub fn reload(&self, always: bool) -> Result<bool, TlsError> {
        let mut seen = self.seen.lock();
        let now = files::stamp(&paths(&self.settings));
        if paths(&self.settings).is_empty() || (!always && *seen == now) {
            return Ok(false);
        }
        *seen = now;
        self.loaded.store(Arc::new(load(&self.settings)?));
        Ok(true)
    }

    /// The handshake with a server that has agreed to it.
    ///
    /// # Errors
    /// The stream broke, or one side does not believe the other.
    ///
    /// # Cancel safety
    /// Not safe: a half-done handshake cannot be resumed.
    pub async fn handshake<S>(&self, stream: S, host: &str) -> std::io::Result<(TlsStream<S>, TlsFacts)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let refused = |error: TlsError| std::io::Error::other(error.to_string());
        let loaded = self.loaded.load_full();
        let config = client_config(&self.settings, &loaded, host).map_err(refused)?;
        let name = server_name(host);
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let first = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let is_verified = loaded.roots.is_some();
        let facts = TlsFacts {
            server_end_point: first.and_then(|first| certificate::end_point(first)),
            peer: first
                .filter(|_| is_verified)
                .map(|first| PeerCertificate { common_name: certificate::common_name(first), der: first.to_vec() }),
        };
        Ok((stream, facts))
    }
}

/// The name for SNI. One that is no DNS name and no address is not sent; whether the certificate is for
/// the host is decided by the host as written.
fn server_name(host: &str) -> ServerName<'static> {
    ServerName::try_from(host.to_owned())
        .unwrap_or(ServerName::IpAddress(rustls_pki_types::IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED)))
}

fn paths(settings: &ConnectSettings) -> Vec<&Path> {
    let mut paths: Vec<&Path> = settings.ca.as_deref().into_iter().collect();
    if let Some((certificate, key)) = &settings.certificate {
        paths.extend([certificate.as_path(), key.as_path()]);
    }
    paths
}

fn load(settings: &ConnectSettings) -> Result<Loaded, TlsError> {
    let roots = match &settings.ca {
        None if settings.mode.verifies() => {
            return Err(TlsError::Setup("the mode verifies servers and no CA is given".to_owned()));
        }
        None => None,
        Some(file) => {
            let (roots, certificates) = files::roots(file)?;
            let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|error| TlsError::File { file: file.clone(), reason: error.to_string() })?;
            Some((webpki, certificates))
        }
    };
    let own = match &settings.certificate {
        None => None,
        Some((certificate, key)) => Some((files::certificates(certificate)?, files::private_key(key)?)),
    };
    let loaded = Loaded { roots, own };
    // The key and the certificate are held against each other now, not at the first connection.
    client_config(settings, &loaded, "localhost")?;
    Ok(loaded)
}

fn client_config(settings: &ConnectSettings, loaded: &Loaded, host: &str) -> Result<ClientConfig, TlsError> {
    let chain = loaded.roots.as_ref().map(|(webpki, roots)| Chain {
        webpki: Arc::clone(webpki),
        roots: roots.clone(),
        host: (settings.mode == TlsMode::VerifyFull).then(|| host.to_owned()),
    });
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(settings.oldest))
        .map_err(|error: rustls::Error| TlsError::Setup(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(provider(), chain)));
    let mut config = match (&loaded.own, &settings.certificate) {
        (Some((chain, key)), Some((file, _))) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| TlsError::Mismatch { file: file.clone(), reason: error.to_string() })?,
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}
