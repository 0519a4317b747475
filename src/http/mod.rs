//! What load balancers ask: `/healthz` and `/readyz`.
//!
//! The only file that names the HTTP library on the serving side. Must not know: what makes a proxy ready.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::net::NetError;
use crate::net::listener::{Listener, ListenerSettings};

/// Who asks at a time; more are closed.
const CLIENTS_MAX: usize = 64;
/// A connection ends after this, whatever is asked over it.
const CONNECTION_MAX: Duration = Duration::from_secs(60);
const HEADER_READ_MAX: Duration = Duration::from_secs(5);

/// Why a proxy is not ready; `None`: it is.
pub type NotReady = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// The listener of health questions.
pub struct Health {
    listener: Listener,
    not_ready: NotReady,
}

impl Health {
    /// Binds.
    ///
    /// # Errors
    /// The address is in use or not of this machine.
    pub fn bind(address: SocketAddr, not_ready: NotReady) -> Result<Self, NetError> {
        let settings = ListenerSettings { clients_max: CLIENTS_MAX, ..ListenerSettings::default() };
        Ok(Self { listener: Listener::bind(address, settings)?, not_ready })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub fn address(&self) -> Result<SocketAddr, NetError> {
        self.listener.local_address()
    }

    /// Answers, for ever.
    ///
    /// # Cancel safety
    /// Safe: connections end with their tasks.
    pub async fn run(self) {
        loop {
            let (stream, _, Some(permit)) = self.listener.accept().await else { continue };
            let not_ready = Arc::clone(&self.not_ready);
            // Ends by its own limit, or with the process.
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let response = answer(&request, &not_ready);
                    async move { Ok::<_, Infallible>(response) }
                });
                let mut server = http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(HEADER_READ_MAX);
                let serving = server.serve_connection(TokioIo::new(stream), service);
                if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_MAX, serving).await {
                    tracing::debug!(%error, "a connection that asks for health ended");
                }
                drop(permit);
            });
        }
    }
}

fn answer(request: &Request<Incoming>, not_ready: &NotReady) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => match not_ready() {
            None => (StatusCode::OK, "ready\n".to_owned()),
            Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, "known are /healthz and /readyz\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "GET it\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}
