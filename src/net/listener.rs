//! Accepting clients: bind, accept, and a bound on how many there are.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::NetError;
use super::stream::Stream;

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
    local: Option<LocalSocket>,
    places: Arc<Semaphore>,
}

/// A Unix-domain socket that is listened on; its file goes with it.
#[derive(Debug)]
struct LocalSocket {
    socket: UnixListener,
    path: PathBuf,
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the socket's file cannot be removed");
        }
    }
}

async fn accept_locally(local: Option<&LocalSocket>) -> io::Result<UnixStream> {
    match local {
        Some(local) => local.socket.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// Adds places to a listener at work.
#[derive(Clone, Debug)]
pub struct MorePlaces {
    places: Arc<Semaphore>,
}

impl MorePlaces {
    /// Adds so many.
    pub fn add(&self, count: usize) {
        let room = Semaphore::MAX_PERMITS.saturating_sub(self.places.available_permits());
        self.places.add_permits(count.min(room / 2));
    }
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
        Ok(Self {
            socket,
            local: None,
            places: Arc::new(Semaphore::new(settings.clients_max.min(Semaphore::MAX_PERMITS))),
        })
    }

    /// Listens on a Unix-domain socket, too, named as libpq looks for it: `.s.PGSQL.<port>` in the directory. Whoever may
    /// enter the directory may connect, as with PostgreSQL. The socket's file is removed in the end; one that a process
    /// left behind that is no more is replaced.
    ///
    /// # Errors
    /// The directory cannot be used, or somebody listens there.
    pub fn listen_locally(&mut self, directory: &Path) -> Result<PathBuf, NetError> {
        let path = directory.join(format!(".s.PGSQL.{}", self.local_address()?.port()));
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(NetError::Io(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process listens on the socket",
            )));
        }
        match std::fs::symlink_metadata(&path) {
            Ok(facts) if facts.file_type().is_socket() => std::fs::remove_file(&path)?,
            Ok(_) => return Err(NetError::Io(io::Error::other("a file that is no socket is in its place"))),
            Err(_) => {}
        }
        let socket = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
        self.local = Some(LocalSocket { socket, path: path.clone() });
        Ok(path)
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
    pub async fn accept(&self) -> (Stream, Option<SocketAddr>, Option<ClientPermit>) {
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted.map(|(stream, peer)| (Stream::from(stream), Some(peer))),
                accepted = accept_locally(self.local.as_ref()) => accepted.map(|stream| (Stream::from(stream), None)),
            };
            match accepted {
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

    /// Lets so many clients more come at a time.
    pub fn more_places(&self) -> MorePlaces {
        MorePlaces { places: Arc::clone(&self.places) }
    }

    /// Places that are free now.
    pub fn places_free(&self) -> usize {
        self.places.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

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
    async fn a_local_socket_is_where_libpq_looks_and_goes_with_its_listener() {
        let directory = tempfile::tempdir().unwrap();
        let mut listener = Listener::bind(any_port(), ListenerSettings::default()).unwrap();
        let path = listener.listen_locally(directory.path()).unwrap();
        let port = listener.local_address().unwrap().port();
        assert_eq!(path, directory.path().join(format!(".s.PGSQL.{port}")));
        let _client = UnixStream::connect(&path).await.unwrap();
        let (stream, peer, place) = listener.accept().await;
        assert!(matches!(stream, Stream::Local(_)) && peer.is_none() && place.is_some());
        drop(listener);
        assert!(!path.exists());
        // What a process left behind that is no more is replaced; a file of another kind is not.
        let mut again = Listener::bind(any_port(), ListenerSettings::default()).unwrap();
        let path = directory.path().join(format!(".s.PGSQL.{}", again.local_address().unwrap().port()));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        again.listen_locally(directory.path()).unwrap();
        let mut other = Listener::bind(any_port(), ListenerSettings::default()).unwrap();
        let path = directory.path().join(format!(".s.PGSQL.{}", other.local_address().unwrap().port()));
        std::fs::write(&path, "precious").unwrap();
        assert!(other.listen_locally(directory.path()).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error() {
        let listener = Listener::bind(any_port(), ListenerSettings::default()).unwrap();
        let again = Listener::bind(listener.local_address().unwrap(), ListenerSettings::default());
        assert!(matches!(again, Err(NetError::Io(_))));
    }
}
