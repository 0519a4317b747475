//! TLS towards etcd. Its certificates are always verified, by name or address.
//!
//! Not the connector of the servers' connections: that one asks for PostgreSQL's protocol by name (ALPN),
//! which etcd refuses.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::store::StoreError;

/// Certificates towards etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// The members' certificates lead to one of these.
    pub ca: PathBuf,
    /// Certificate and key that members are shown.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// What makes TLS of sockets.
pub(super) struct Tls {
    connector: TlsConnector,
}

impl Tls {
    /// Reads the files.
    pub(super) fn load(settings: &EtcdTls) -> Result<Self, StoreError> {
        let broken = |file: &Path, reason: &dyn std::fmt::Display| {
            StoreError::unavailable(format!("cannot use {}: {reason}", file.display()))
        };
        let certificates = |file: &Path| -> Result<Vec<CertificateDer<'static>>, StoreError> {
            let read = CertificateDer::pem_file_iter(file).map_err(|error| broken(file, &error))?;
            let found: Result<Vec<_>, _> = read.collect();
            let found = found.map_err(|error| broken(file, &error))?;
            if found.is_empty() { Err(broken(file, &"it holds no certificate")) } else { Ok(found) }
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&settings.ca)? {
            roots.add(certificate).map_err(|error| broken(&settings.ca, &error))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(StoreError::unavailable)?
            .with_root_certificates(roots);
        let config = match &settings.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let private = PrivateKeyDer::from_pem_file(key).map_err(|error| broken(key, &error))?;
                let chain = certificates(certificate)?;
                builder.with_client_auth_cert(chain, private).map_err(|error| broken(certificate, &error))?
            }
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)) })
    }

    pub(super) async fn handshake(&self, socket: TcpStream, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        self.connector.connect(name, socket).await
    }
}
