//! Requests to the members of an etcd cluster over its JSON gateway: HTTP/1.1, JSON, deadlines.
//!
//! The only file of the store that names the HTTP library. Must not know: what is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::tls::Tls;

/// No answer of etcd is longer: its own limit for a request is 1.5 MiB, in base64 and a few of them in a list.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Connections kept for the next request.
const IDLE_MAX: usize = 4;
/// Pause after every member has failed once.
const ROUND_PAUSE: Duration = Duration::from_millis(50);

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_tls: bool,
}

impl Endpoint {
    /// Reads `http://host:port` or `https://host:port`.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_whole = !host.is_empty() && !host.contains(['/', '@', ' ']);
        is_whole.then_some(Self { host: host.to_owned(), port: port.parse().ok()?, is_tls })
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// etcd has not carried it out.
    NotDone(String),
    /// It may have been carried out.
    Unknown(String),
    /// etcd refuses it, and will again. The code is gRPC's.
    Refused { code: i64, message: String },
    /// The token of this session is not known any more; nothing was done.
    TokenExpired,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotDone(reason) | Self::Unknown(reason) => formatter.write_str(reason),
            Self::Refused { message, .. } => formatter.write_str(message),
            Self::TokenExpired => formatter.write_str("etcd does not know this session any more"),
        }
    }
}

/// gRPC's codes.
const RESOURCE_EXHAUSTED: i64 = 8;
const UNAVAILABLE: i64 = 14;
const UNAUTHENTICATED: i64 = 16;

/// What etcd says instead of an answer.
///
/// # Source
/// etcd's `api/v3rpc/rpctypes/error.go`: a member that sees no leader turns requests away before it proposes
/// anything; after a proposal it says "request timed out" or that the leader changed.
fn fault(body: &[u8]) -> Fault {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    // A stream wraps its errors once more.
    let document = document.get("error").filter(|error| error.is_object()).unwrap_or(&document);
    let text = |key| document.get(key).and_then(Value::as_str);
    let Some(message) = text("message").or_else(|| text("error")) else {
        return Fault::Unknown("etcd answers in a way that is not understood".to_owned());
    };
    let code = document.get("code").or_else(|| document.get("grpc_code")).and_then(Value::as_i64).unwrap_or_default();
    match code {
        UNAUTHENTICATED => Fault::TokenExpired,
        RESOURCE_EXHAUSTED => Fault::NotDone(message.to_owned()),
        UNAVAILABLE if message == "etcdserver: no leader" => Fault::NotDone(message.to_owned()),
        UNAVAILABLE => Fault::Unknown(message.to_owned()),
        code => Fault::Refused { code, message: message.to_owned() },
    }
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

type Sender = SendRequest<Full<Bytes>>;

/// The members, and the connections to them.
pub(super) struct Members {
    endpoints: Vec<Endpoint>,
    tls: Option<Tls>,
    limit: Duration,
    /// The member that is asked first: one that answered last.
    preferred: AtomicUsize,
    idle: Mutex<Vec<(usize, Sender)>>,
}

impl Members {
    /// At least one endpoint; `limit` is for one request over all members.
    pub(super) fn new(endpoints: Vec<Endpoint>, tls: Option<Tls>, limit: Duration) -> Self {
        Self { endpoints, tls, limit, preferred: AtomicUsize::new(0), idle: Mutex::default() }
    }

    /// One request, at one member after the other. What may have been carried out is asked again only if
    /// that does no harm.
    pub(super) async fn ask(
        &self,
        path: &str,
        body: &Value,
        token: Option<&str>,
        is_repeatable: bool,
    ) -> Result<Value, Fault> {
        let body = Bytes::from(body.to_string());
        let end = Instant::now() + self.limit;
        // A member that hangs must leave time for another.
        let attempt_limit = if self.endpoints.len() > 1 { self.limit / 3 } else { self.limit };
        let mut failed = 0;
        let mut said: Option<String> = None;
        loop {
            let member = self.preferred.load(Ordering::Relaxed) % self.endpoints.len().max(1);
            let left = end.saturating_duration_since(Instant::now()).min(attempt_limit);
            let asked = timeout(left, self.ask_member(member, path, &body, token)).await;
            let asked = asked.unwrap_or_else(|_| {
                Err(Fault::Unknown(format!("no answer within {} ms{}", left.as_millis(), self.name(member))))
            });
            let fault = match asked {
                Ok(answer) => return Ok(answer),
                Err(fault @ (Fault::Refused { .. } | Fault::TokenExpired)) => return Err(fault),
                Err(fault) => fault,
            };
            self.pass_on(member);
            // That the time is over says less than what went wrong before.
            let fault = match (fault, &said) {
                (Fault::Unknown(_), Some(said)) if left < attempt_limit / 2 => Fault::Unknown(said.clone()),
                (fault, _) => fault,
            };
            said = Some(fault.to_string());
            if matches!(fault, Fault::Unknown(_)) && !is_repeatable || Instant::now() >= end {
                return Err(fault);
            }
            failed += 1;
            if failed % self.endpoints.len().max(1) == 0 {
                tokio::time::sleep(ROUND_PAUSE).await;
            }
        }
    }

    /// A request whose answer goes on: a line of JSON for each message.
    pub(super) async fn stream(&self, path: &str, body: &Value, token: Option<&str>) -> Result<Lines, Fault> {
        let member = self.preferred.load(Ordering::Relaxed) % self.endpoints.len().max(1);
        let open = async {
            let mut sender = self.connect(member).await?;
            let request = self.request(member, path, Bytes::from(body.to_string()), token)?;
            sender.send_request(request).await.map_err(|error| Fault::Unknown(error.to_string()))
        };
        let opened = timeout(self.limit, open).await;
        let opened = opened.unwrap_or_else(|_| Err(Fault::Unknown(format!("no answer{}", self.name(member)))));
        match opened {
            Ok(response) if response.status().is_success() => Ok(Lines { response, unread: BytesMut::new() }),
            Ok(response) => Err(fault(&read_all(response).await?)),
            Err(fault) => {
                self.pass_on(member);
                Err(fault)
            }
        }
    }

    /// Prefers another member, if this one is still preferred.
    pub(super) fn pass_on(&self, member: usize) {
        let next = (member + 1) % self.endpoints.len().max(1);
        // Somebody else may have been faster.
        let _raced = self.preferred.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Prefers the next member, whichever is preferred now.
    pub(super) fn rotate(&self) {
        self.pass_on(self.preferred.load(Ordering::Relaxed));
    }

    fn name(&self, member: usize) -> String {
        self.endpoints.get(member).map(|at| format!(" from {}:{}", at.host, at.port)).unwrap_or_default()
    }

    async fn ask_member(&self, member: usize, path: &str, body: &Bytes, token: Option<&str>) -> Result<Value, Fault> {
        let mut request = self.request(member, path, body.clone(), token)?;
        let mut kept = self.take_idle(member);
        let (sender, response) = loop {
            let is_fresh = kept.is_none();
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => self.connect(member).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => break (sender, response),
                // A connection that was kept has been closed meanwhile, and the request has not left.
                Err(mut error) => match error.take_message().filter(|_| !is_fresh) {
                    Some(unsent) => request = unsent,
                    None => return Err(Fault::Unknown(format!("{}{}", error.error(), self.name(member)))),
                },
            }
        };
        let is_success = response.status().is_success();
        let body = read_all(response).await?;
        if !is_success {
            return Err(fault(&body));
        }
        self.keep_idle(member, sender);
        serde_json::from_slice(&body).map_err(|error| Fault::Unknown(format!("an answer is no JSON: {error}")))
    }

    fn request(
        &self,
        member: usize,
        path: &str,
        body: Bytes,
        token: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, Fault> {
        let host = self.endpoints.get(member).map(|at| format!("{}:{}", at.host, at.port)).unwrap_or_default();
        let mut request = Request::post(path).header(HOST, host).header(CONTENT_TYPE, "application/json");
        // A member that has lost its leader ends a watch then, instead of falling silent.
        request = request.header("Grpc-Metadata-hasleader", "true");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        request.body(Full::new(body)).map_err(|error| Fault::NotDone(error.to_string()))
    }

    fn take_idle(&self, member: usize) -> Option<Sender> {
        let mut idle = self.idle.lock();
        idle.retain(|(_, sender)| !sender.is_closed());
        let at = idle.iter().position(|(owner, sender)| *owner == member && sender.is_ready())?;
        Some(idle.swap_remove(at).1)
    }

    fn keep_idle(&self, member: usize, sender: Sender) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push((member, sender));
        }
    }

    async fn connect(&self, member: usize) -> Result<Sender, Fault> {
        let unreached =
            |reason: &dyn std::fmt::Display| Fault::NotDone(format!("cannot connect{}: {reason}", self.name(member)));
        let Some(endpoint) = self.endpoints.get(member) else { return Err(unreached(&"there is no endpoint")) };
        let socket = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await;
        let socket = socket.map_err(|error| unreached(&error))?;
        socket.set_nodelay(true).map_err(|error| unreached(&error))?;
        let stream: Box<dyn Wire> = match (&self.tls, endpoint.is_tls) {
            (Some(tls), true) => {
                Box::new(tls.handshake(socket, &endpoint.host).await.map_err(|error| unreached(&error))?)
            }
            (None, true) => return Err(unreached(&"TLS is not set up")),
            (_, false) => Box::new(socket),
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreached(&error))?;
        // Owned by the sender: it ends when the sender is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to etcd ended");
            }
        });
        Ok(sender)
    }
}

async fn read_all(response: Response<hyper::body::Incoming>) -> Result<Bytes, Fault> {
    let limited = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let collected = limited.collect().await.map_err(|error| Fault::Unknown(format!("an answer broke off: {error}")))?;
    Ok(collected.to_bytes())
}

/// The messages of a stream.
pub(super) struct Lines {
    response: Response<hyper::body::Incoming>,
    unread: BytesMut,
}

impl Lines {
    /// The next message; `None` at the end of the stream.
    ///
    /// # Cancel safety
    /// Safe: what has been read stays.
    pub(super) async fn next(&mut self) -> Result<Option<Value>, Fault> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.unread) {
                let line = self.unread.split_to(end + 1);
                let broken = |error| Fault::Unknown(format!("a message is no JSON: {error}"));
                let message: Value = serde_json::from_slice(&line).map_err(broken)?;
                return if message.get("error").is_some() { Err(fault(&line)) } else { Ok(Some(message)) };
            }
            if self.unread.len() > ANSWER_BYTES_MAX {
                return Err(Fault::Unknown("a message is too long".to_owned()));
            }
            match self.response.body_mut().frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Fault::Unknown(format!("a stream broke off: {error}"))),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.unread.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

/// Members that are shared.
pub(super) type SharedMembers = Arc<Members>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_with_a_port() {
        let endpoint = |host: &str, port, is_tls| Some(Endpoint { host: host.to_owned(), port, is_tls });
        assert_eq!(Endpoint::read("http://10.0.0.1:2379"), endpoint("10.0.0.1", 2379, false));
        assert_eq!(Endpoint::read("https://etcd.example:1/"), endpoint("etcd.example", 1, true));
        assert_eq!(Endpoint::read("https://[::1]:2379"), endpoint("::1", 2379, true));
        for wrong in ["10.0.0.1:2379", "http://10.0.0.1", "ftp://a:1", "http://:1", "http://a:b", "http://u@a:1"] {
            assert_eq!(Endpoint::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_what_was_turned_away_counts_as_not_done() {
        let said = |code: i64, message: &str| fault(format!(r#"{{"message":"{message}","code":{code}}}"#).as_bytes());
        assert!(matches!(said(14, "etcdserver: no leader"), Fault::NotDone(_)));
        assert!(matches!(said(14, "etcdserver: request timed out"), Fault::Unknown(_)));
        assert!(matches!(said(14, "etcdserver: leader changed"), Fault::Unknown(_)));
        assert!(matches!(said(3, "etcdserver: key is not provided"), Fault::Refused { code: 3, .. }));
        assert_eq!(said(16, "etcdserver: invalid auth token"), Fault::TokenExpired);
        assert!(matches!(fault(b"<html>"), Fault::Unknown(_)));
    }
}
