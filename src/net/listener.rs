//! Accepting clients: bind, accept, and a bound on how many there are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::NetError;

/// Connections that wait in the kernel for `accept`.
const BACKLOG: u32 = 1024;

/// Pause after an `accept` that failed for lack of descriptors or memory.
const ACCEPT_PAUSE_MS: u64 = 50;

/// How a listener is opened.
#[derive(Clone, Copy, Debug)]
pub struct ListenerSettings {
    /// Clients at one time; more are told so and closed.
    pub clients_max: usize,
    /// Let other sockets of this process listen on the same port, one a runtime.
    pub reuse_port: bool,
}

impl Default for ListenerSettings {
    fn default() -> Self {
        Self { clients_max: 10_000, reuse_port: false }
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    places: Arc<Semaphore>,
}

/// A client's place; given back when dropped.
#[derive(Debug)]
pub struct ClientPermit {
    _permit: OwnedSemaphorePermit,
}

impl Listener {
    /// Binds and listens. `SO_REUSEADDR` is set, so a restart need not wait for old sockets.
    ///
    /// # Errors
    /// The address is in use or not of this machine.
    pub fn bind(address: SocketAddr, settings: ListenerSettings) -> Result<Self, NetError> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        if settings.reuse_port {
            socket.set_reuseport(true)?;
        }
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG)?;
        Ok(Self { socket, places: Arc::new(Semaphore::new(settings.clients_max.min(Semaphore::MAX_PERMITS))) })
    }

    /// The address that was bound, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub fn local_address(&self) -> Result<SocketAddr, NetError> {
        Ok(self.socket.local_addr()?)
    }

    /// The next client and its place; no place when there are too many clients: say so and close.
    ///
    /// Errors of a single connection and a lack of descriptors are survived: logged, and waited out.
    ///
    /// # Cancel safety
    /// Safe: a connection that was not returned waits in the kernel.
    pub async fn accept(&self) -> (TcpStream, SocketAddr, Option<ClientPermit>) {
        loop {
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    let permit = Arc::clone(&self.places).try_acquire_owned().ok();
                    return (stream, peer, permit.map(|permit| ClientPermit { _permit: permit }));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            }
        }
    }

    /// Places that are free now.
    pub fn places_free(&self) -> usize {
        self.places.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_port() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[tokio::test]
    async fn the_client_over_the_limit_gets_no_place_until_one_leaves() {
        let settings = ListenerSettings { clients_max: 1, ..ListenerSettings::default() };
        let listener = Listener::bind(any_port(), settings).unwrap();
        let address = listener.local_address().unwrap();
        let _one = TcpStream::connect(address).await.unwrap();
        let (_, _, first) = listener.accept().await;
        assert!(first.is_some());
        let _two = TcpStream::connect(address).await.unwrap();
        let (_, _, second) = listener.accept().await;
        assert!(second.is_none());
        drop(first);
        let _three = TcpStream::connect(address).await.unwrap();
        let (_, _, third) = listener.accept().await;
        assert!(third.is_some());
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error() {
        let listener = Listener::bind(any_port(), ListenerSettings::default()).unwrap();
        let again = Listener::bind(listener.local_address().unwrap(), ListenerSettings::default());
        assert!(matches!(again, Err(NetError::Io(_))));
    }
}
