//! A client that says exactly what it is told to, with or without TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio_rustls::rustls::{
    self, ClientConfig, ClientConnection, DEFAULT_VERSIONS, RootCertStore, StreamOwned, crypto::ring,
};

use crate::ground::PATIENCE;

pub const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
pub const GSS_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";
pub const QUERY: &[u8] = b"Q\0\0\0\x0dSELECT 1\0";

/// A connection.
pub enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// What was answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// A message.
    Message(u8, Vec<u8>),
    /// The connection was closed.
    Closed,
}

/// BackendKeyData.
#[derive(Clone, Debug)]
pub struct Key {
    pub pid: u32,
    pub secret: Vec<u8>,
}

/// Everything up to the first ReadyForQuery.
#[derive(Debug, Default)]
pub struct Login {
    /// Body of NegotiateProtocolVersion.
    pub negotiated: Option<Vec<u8>>,
    pub key: Option<Key>,
}

impl Wire {
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self::Plain(stream)
    }

    /// Connects, asks for TLS and shakes hands.
    pub fn connect_tls(port: u16, config: &Arc<ClientConfig>) -> Self {
        let mut wire = Self::connect(port);
        wire.send(SSL_REQUEST);
        assert_eq!(wire.byte(), Some(b'S'));
        wire.into_tls(config).unwrap()
    }

    /// Shakes hands as the client.
    pub fn into_tls(self, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let Self::Plain(stream) = self else { panic!("TLS already") };
        let session = ClientConnection::new(Arc::clone(config), "localhost".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self::Tls(Box::new(stream)))
    }

    pub fn send(&mut self, bytes: &[u8]) {
        // The other side may close in the middle; the answer tells.
        let _ = match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        };
    }

    /// Sends a message.
    pub fn message(&mut self, tag: u8, body: &[u8]) {
        let mut message = vec![tag];
        message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        message.extend_from_slice(body);
        self.send(&message);
    }

    pub fn query(&mut self, sql: &str) {
        self.message(b'Q', format!("{sql}\0").as_bytes());
    }

    /// Says that nothing more will come.
    pub fn finish(&mut self) {
        let Self::Plain(stream) = self else { panic!("not without TLS's good-bye") };
        let _ = stream.shutdown(Shutdown::Write);
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.read_exact(into),
            Self::Tls(stream) => stream.read_exact(into),
        }
    }

    /// One byte; nothing when the connection was closed.
    pub fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.read(&mut byte) {
            Ok(()) => Some(byte[0]),
            Err(error) => {
                assert!(is_closed(&error), "{error:?}");
                None
            }
        }
    }

    /// The next message.
    pub fn receive(&mut self) -> Said {
        self.try_receive().unwrap()
    }

    /// The next message, or how the connection broke.
    pub fn try_receive(&mut self) -> io::Result<Said> {
        let mut header = [0; 5];
        match self.read(&mut header) {
            Ok(()) => {}
            Err(error) if is_closed(&error) => return Ok(Said::Closed),
            Err(error) => return Err(error),
        }
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        assert!((4..1 << 20).contains(&length), "{header:?}");
        let mut body = vec![0; length - 4];
        self.read(&mut body)?;
        Ok(Said::Message(header[0], body))
    }

    /// SQLSTATE and text of the error that must come next, and that the connection is closed behind it
    /// without anything else.
    pub fn refusal(&mut self) -> (String, String) {
        let fault = match self.receive() {
            Said::Message(b'E', body) => fault(&body),
            other => panic!("no error but {other:?}"),
        };
        assert_eq!(self.receive(), Said::Closed, "behind {fault:?}");
        fault
    }

    /// Sends a startup packet for `app`.
    pub fn startup(&mut self, major: u16, minor: u16, more: &[(&str, &str)]) {
        self.send(&startup_packet(major, minor, more));
    }

    /// Logs in and reads up to ReadyForQuery.
    pub fn log_in(&mut self, minor: u16) -> Login {
        self.startup(3, minor, &[]);
        self.greeting()
    }

    /// What comes up to ReadyForQuery.
    pub fn greeting(&mut self) -> Login {
        let mut login = Login::default();
        loop {
            match self.receive() {
                Said::Message(b'v', body) => login.negotiated = Some(body),
                Said::Message(b'K', body) => {
                    let (pid, secret) = body.split_first_chunk::<4>().unwrap();
                    login.key = Some(Key { pid: u32::from_be_bytes(*pid), secret: secret.to_vec() });
                }
                Said::Message(b'Z', _) => return login,
                Said::Message(b'R' | b'S' | b'N', _) => {}
                Said::Message(b'E', body) => panic!("{:?}", fault(&body)),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Reads up to ReadyForQuery and gives the first error and the last value of a row.
    pub fn outcome(&mut self) -> (Option<(String, String)>, Option<String>) {
        let (mut error, mut value) = (None, None);
        loop {
            match self.receive() {
                Said::Message(b'E', body) => error = error.or(Some(fault(&body))),
                Said::Message(b'D', body) => value = Some(String::from_utf8_lossy(&body[6..]).into_owned()),
                Said::Message(b'Z', _) | Said::Closed => return (error, value),
                Said::Message(..) => {}
            }
        }
    }

    /// What the server's certificate was.
    pub fn server_certificate(&self) -> Vec<u8> {
        let Self::Tls(stream) = self else { panic!("no TLS") };
        stream.conn.peer_certificates().unwrap()[0].to_vec()
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// SQLSTATE and text of an ErrorResponse.
pub fn fault(body: &[u8]) -> (String, String) {
    let fields: Vec<String> =
        body.split(|byte| *byte == 0).map(|field| String::from_utf8_lossy(field).into()).collect();
    let field = |code: char| fields.iter().find_map(|field| field.strip_prefix(code)).unwrap_or_default().to_owned();
    (field('C'), field('M'))
}

pub fn startup_packet(major: u16, minor: u16, more: &[(&str, &str)]) -> Vec<u8> {
    let mut body = [major.to_be_bytes(), minor.to_be_bytes()].concat();
    for (name, value) in [("user", "app"), ("database", "app")].iter().chain(more) {
        body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    body.push(0);
    [u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec(), body].concat()
}

pub fn cancel_packet(key: &Key) -> Vec<u8> {
    let mut body = b"\x04\xd2\x16\x2e".to_vec();
    body.extend_from_slice(&key.pid.to_be_bytes());
    body.extend_from_slice(&key.secret);
    [u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec(), body].concat()
}

/// A client's TLS that believes in a root and offers these protocols.
pub fn client_config(root: &Path, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(root).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(DEFAULT_VERSIONS)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}
