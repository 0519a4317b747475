//! Handshakes between the two sides of this room, with certificates made on the spot.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::net::framed::Idle;
use crate::net::{Framed, NetError};
use crate::wire::client_message::encode_query;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes certificate and key of a name and gives their files.
    fn issue(&self, directory: &Path, file: &str, name: &str) -> (PathBuf, PathBuf) {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        let files = (directory.join(format!("{file}.crt")), directory.join(format!("{file}.key")));
        std::fs::write(&files.0, certificate.pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    fn file(&self, directory: &Path, file: &str) -> PathBuf {
        let path = directory.join(file);
        std::fs::write(&path, self.0.pem()).unwrap();
        path
    }
}

/// A CA, an acceptor for `localhost` and a connector that verifies it.
struct Scene {
    directory: tempfile::TempDir,
    authority: Authority,
    accept: AcceptSettings,
    connect: ConnectSettings,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new("root");
        let ca = authority.file(directory.path(), "ca.crt");
        let (certificate, key) = authority.issue(directory.path(), "server", "localhost");
        let accept = AcceptSettings { certificate, key, client_ca: Some(ca.clone()), oldest: TlsVersion::V1_2 };
        let connect =
            ConnectSettings { mode: TlsMode::VerifyFull, ca: Some(ca), certificate: None, oldest: TlsVersion::V1_2 };
        Self { directory, authority, accept, connect }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn shake(&self, host: &str) -> (Result<Framed, NetError>, Result<Framed, NetError>) {
        let acceptor = Acceptor::load(self.accept.clone()).unwrap();
        let connector = Connector::load(self.connect.clone()).unwrap();
        shake(&acceptor, &connector, host).await
    }
}

async fn pair() -> (Framed, Framed) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (Framed::new(client), Framed::new(server))
}

/// Client and server after their handshake; what the client is told late (TLS 1.3) counts as well.
async fn shake(
    acceptor: &Acceptor,
    connector: &Connector,
    host: &str,
) -> (Result<Framed, NetError>, Result<Framed, NetError>) {
    let (mut client, mut server) = pair().await;
    let connecting = async { client.connect_tls(connector, host).await.map(|()| client) };
    let accepting = async { server.accept_tls(acceptor, false).await.map(|()| server) };
    tokio::join!(connecting, accepting)
}

#[tokio::test]
async fn frames_travel_under_tls_and_both_sides_know_the_same_end_point() {
    let (client, server) = Scene::new().shake("localhost").await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    let facts = (client.tls().unwrap().clone(), server.tls().unwrap().clone());
    assert_eq!(facts.0.server_end_point, facts.1.server_end_point);
    assert_eq!(facts.0.server_end_point.map(|hash| hash.len()), Some(32));
    assert_eq!(facts.0.peer.unwrap().common_name.as_deref(), Some("localhost"));
    assert_eq!(facts.1.peer, None);
    // Larger than every buffer on the way, in both directions at once.
    let big = "x".repeat(3 * 1024 * 1024);
    encode_query(client.output(), &big);
    encode_query(server.output(), &big);
    let (one, two) = tokio::join!(client.flush_and_read(), server.flush_and_read());
    one.unwrap();
    two.unwrap();
    assert!(client.is_flushed() && server.is_flushed());
    assert!(client.read_frame().await.unwrap().unwrap().bytes.len() > big.len());
    assert!(server.read_frame().await.unwrap().unwrap().bytes.len() > big.len());
    assert_eq!(server.look(), Idle::Quiet);
    client.shut_down().await.unwrap();
    assert!(server.read_frame().await.unwrap().is_none());
    assert_eq!(server.look(), Idle::Gone);
}

#[tokio::test]
async fn a_flush_that_was_dropped_is_finished_by_the_next() {
    let (client, server) = Scene::new().shake("localhost").await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    let big = "x".repeat(16 * 1024 * 1024);
    encode_query(client.output(), &big);
    let limit = std::time::Duration::from_millis(100);
    assert!(tokio::time::timeout(limit, client.flush()).await.is_err(), "nobody reads yet");
    let (flushed, read) = tokio::join!(client.flush(), server.read_frame());
    flushed.unwrap();
    let frame = read.unwrap().unwrap();
    assert_eq!(frame.bytes.len(), big.len() + 6);
    assert!(frame.body().iter().filter(|byte| **byte == b'x').count() == big.len());
}

#[tokio::test]
async fn a_client_that_closes_without_good_bye_is_at_its_end() {
    let (client, server) = Scene::new().shake("localhost").await;
    drop(client);
    assert!(server.unwrap().read_frame().await.unwrap().is_none());
}

#[tokio::test]
async fn plaintext_before_the_handshake_is_never_used() {
    let scene = Scene::new();
    let acceptor = Acceptor::load(scene.accept.clone()).unwrap();
    let (mut client, mut server) = pair().await;
    encode_query(client.output(), "select 1");
    encode_query(client.output(), "select 2");
    client.flush().await.unwrap();
    assert!(server.read_frame().await.unwrap().is_some());
    assert!(server.buffered_input() > 0);
    assert!(matches!(server.accept_tls(&acceptor, false).await, Err(NetError::PlaintextBeforeTls)));
    // The same towards a server.
    let connector = Connector::load(scene.connect.clone()).unwrap();
    assert!(matches!(server.connect_tls(&connector, "localhost").await, Err(NetError::PlaintextBeforeTls)));
}

#[tokio::test]
async fn a_handshake_that_failed_leaves_nothing_to_speak_with() {
    let scene = Scene::new();
    let acceptor = Acceptor::load(scene.accept).unwrap();
    let (mut client, mut server) = pair().await;
    encode_query(client.output(), "this is no ClientHello");
    client.flush().await.unwrap();
    assert!(server.accept_tls(&acceptor, false).await.is_err());
    assert!(server.tls().is_none());
    server.output().extend_from_slice(b"secret");
    assert!(server.flush().await.is_err());
    assert!(server.read_frame().await.is_err());
}

#[tokio::test]
async fn modes_verify_what_they_say() {
    let mut scene = Scene::new();
    let stranger = Authority::new("stranger").file(scene.path(), "stranger.crt");
    let own = scene.connect.ca.clone();
    for (mode, ca, host, is_accepted) in [
        (TlsMode::VerifyFull, &own, "localhost", true),
        (TlsMode::VerifyFull, &own, "127.0.0.1", false),
        (TlsMode::VerifyFull, &own, "other_host.example", false),
        (TlsMode::VerifyCa, &own, "127.0.0.1", true),
        (TlsMode::VerifyCa, &Some(stranger.clone()), "localhost", false),
        (TlsMode::VerifyFull, &Some(stranger.clone()), "localhost", false),
        // As libpq: a CA that is there is used.
        (TlsMode::Require, &Some(stranger.clone()), "localhost", false),
        (TlsMode::Require, &None, "anything", true),
        (TlsMode::Prefer, &None, "_no_host_name_", true),
    ] {
        scene.connect = ConnectSettings { mode, ca: ca.clone(), ..scene.connect.clone() };
        let (client, _) = scene.shake(host).await;
        assert_eq!(client.is_ok(), is_accepted, "{mode:?} {host} {:?}", client.err());
    }
    let without = ConnectSettings { mode: TlsMode::VerifyCa, ca: None, ..ConnectSettings::default() };
    assert!(Connector::load(without).is_err());
}

#[tokio::test]
async fn a_self_signed_certificate_is_its_own_root() {
    let mut scene = Scene::new();
    let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    std::fs::write(&scene.accept.certificate, certificate.pem()).unwrap();
    std::fs::write(&scene.accept.key, key.serialize_pem()).unwrap();
    scene.connect.ca = Some(scene.accept.certificate.clone());
    assert!(scene.shake("localhost").await.0.is_ok());
    assert!(scene.shake("other.example").await.0.is_err());
    parameters.not_after = rcgen::date_time_ymd(2020, 1, 1);
    std::fs::write(&scene.accept.certificate, parameters.self_signed(&key).unwrap().pem()).unwrap();
    assert!(scene.shake("localhost").await.0.is_err(), "it is no longer in force");
}

#[tokio::test]
async fn a_client_certificate_is_known_only_when_it_is_verified() {
    let mut scene = Scene::new();
    scene.connect.certificate = Some(scene.authority.issue(scene.path(), "client", "app"));
    let (client, server) = scene.shake("localhost").await;
    client.unwrap();
    let peer = server.unwrap().tls().unwrap().peer.clone().unwrap();
    assert_eq!(peer.common_name.as_deref(), Some("app"));
    let stranger = Authority::new("root").issue(scene.path(), "stranger", "app");
    scene.connect.certificate = Some(stranger);
    assert!(scene.shake("localhost").await.1.is_err());
    // Nobody asks for it.
    scene.accept.client_ca = None;
    let (_, server) = scene.shake("localhost").await;
    assert_eq!(server.unwrap().tls().unwrap().peer, None);
}

#[tokio::test]
async fn versions_below_the_oldest_are_refused() {
    let mut scene = Scene::new();
    scene.accept.oldest = TlsVersion::V1_3;
    assert!(scene.shake("localhost").await.1.is_ok());
    let acceptor = Acceptor::load(scene.accept.clone()).unwrap();
    let (mut client, mut server) = pair().await;
    // A ClientHello of TLS 1.2 without the extension that names versions.
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 2, 0xc0, 0x2f, 1, 0]);
    client.output().extend_from_slice(&hello);
    client.flush().await.unwrap();
    assert!(server.accept_tls(&acceptor, false).await.is_err());
}

#[tokio::test]
async fn tls_from_the_first_byte_has_to_name_the_protocol() {
    let scene = Scene::new();
    let acceptor = Acceptor::load(scene.accept.clone()).unwrap();
    let connector = Connector::load(scene.connect.clone()).unwrap();
    let (mut client, mut server) = pair().await;
    assert!(tokio::join!(client.connect_tls(&connector, "localhost"), server.accept_tls(&acceptor, true)).1.is_ok());
    for (alpn, is_accepted) in [(vec![], false), (vec![b"http/1.1".to_vec()], false), (vec![ALPN.to_vec()], true)] {
        let (roots, _) = files::roots(scene.connect.ca.as_deref().unwrap()).unwrap();
        let mut config = tokio_rustls::rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(TlsVersion::V1_2))
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut server = Framed::new(listener.accept().await.unwrap().0);
        let connecting = async {
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            if let Ok(mut stream) = connector.connect("localhost".try_into().unwrap(), stream).await {
                let _gone = stream.shutdown().await;
            }
        };
        let (_, accepted) = tokio::join!(connecting, server.accept_tls(&acceptor, true));
        assert_eq!(accepted.is_ok(), is_accepted);
    }
}

#[tokio::test]
async fn new_files_are_used_and_bad_ones_are_not() {
    let scene = Scene::new();
    let acceptor = Acceptor::load(scene.accept.clone()).unwrap();
    let connector = Connector::load(scene.connect.clone()).unwrap();
    let end_point = async || {
        let (client, _) = shake(&acceptor, &connector, "localhost").await;
        client.unwrap().tls().unwrap().server_end_point.clone()
    };
    let first = end_point().await;
    assert_eq!(acceptor.reload(false), Ok(false));
    assert_eq!(end_point().await, first);
    scene.authority.issue(scene.path(), "server", "localhost");
    assert_eq!(acceptor.reload(false), Ok(true));
    let second = end_point().await;
    assert_ne!(second, first);
    // The certificate comes before its key.
    let key = std::fs::read(&scene.accept.key).unwrap();
    scene.authority.issue(scene.path(), "server", "localhost");
    let next_key = std::fs::read(&scene.accept.key).unwrap();
    std::fs::write(&scene.accept.key, key).unwrap();
    assert!(matches!(acceptor.reload(false), Err(TlsError::Mismatch { .. })));
    assert_eq!(acceptor.reload(false), Ok(false), "it is complained of once");
    assert_eq!(end_point().await, second);
    std::fs::write(&scene.accept.key, next_key).unwrap();
    assert_eq!(acceptor.reload(false), Ok(true));
    assert_ne!(end_point().await, second);
}

#[test]
fn files_that_hold_something_else_are_named_and_not_quoted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key.pem");
    let load = |certificate: &Path, key: &Path| {
        let settings = AcceptSettings {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            client_ca: None,
            oldest: TlsVersion::V1_2,
        };
        Acceptor::load(settings).unwrap_err().to_string()
    };
    let (certificate, _) = Authority::new("root").issue(directory.path(), "server", "localhost");
    assert!(load(Path::new("/nowhere/x.crt"), &file).starts_with("cannot use /nowhere/x.crt: "));
    std::fs::write(&file, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n").unwrap();
    let said = load(&certificate, &file);
    assert!(said.contains("server.crt") && !said.contains("c2VjcmV0") && !said.contains("secret"), "{said}");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    std::fs::write(&file, encrypted).unwrap();
    assert_eq!(load(&certificate, &file), format!("cannot use {}: its key is encrypted", file.display()));
    assert_eq!(load(&file, &file), format!("cannot use {}: it holds no certificate in PEM format", file.display()));
}
