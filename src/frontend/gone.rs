//! Notices clients that go away while their statement runs.
//!
//! A session that waits for a shard does not read from its client. Once a second the sockets of such
//! sessions are looked at; one that is at its end has its statement cancelled, so that its transaction
//! is rolled back and its locks are let go. PostgreSQL does the same under
//! `client_connection_check_interval`. Like there, a client that closes only its sending side counts
//! as gone.

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::{Frontend, Sessions};
use crate::executor::CancelSlot;

/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

impl Frontend {
    /// Looks after clients for ever.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn watch_clients(self: Arc<Self>) {
        let mut before = BTreeSet::new();
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            let (busy, gone) = self.sessions.look_at_busy(&before);
            before = busy;
            for slot in gone {
                tracing::debug!("a client went away while its statement ran");
                slot.cancel_running().await;
            }
        }
    }
}

impl Sessions {
    /// Sessions that hold connections now, and of those that did so at the last look, too, the ones
    /// whose clients are gone.
    fn look_at_busy(&self, before: &BTreeSet<u32>) -> (BTreeSet<u32>, Vec<Arc<CancelSlot>>) {
        let by_pid = self.by_pid.lock();
        let mut busy = BTreeSet::new();
        let mut gone = Vec::new();
        for (pid, entry) in by_pid.iter().filter(|(_, entry)| !entry.slot.backends().is_empty()) {
            busy.insert(*pid);
            // The entry leaves the map before its socket is closed, and the map is locked: the number
            // means this client's socket.
            if before.contains(pid) && is_at_end(entry.socket) {
                gone.push(Arc::clone(&entry.slot));
            }
        }
        (busy, gone)
    }
}

/// Terminate, as drivers send it before they close.
const GOOD_BYE: [u8; 5] = [b'X', 0, 0, 0, 4];

/// The other side has closed or says that it will, and everything it sent before has been read.
fn is_at_end(socket: RawFd) -> bool {
    let mut next = [0u8; GOOD_BYE.len()];
    match recv(socket, &mut next, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(read) => read == 0 || (read == next.len() && next == GOOD_BYE),
        Err(error) => matches!(error, Errno::ECONNRESET | Errno::EPIPE | Errno::ETIMEDOUT),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn only_a_socket_whose_other_side_has_closed_is_at_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert!(!is_at_end(server.as_raw_fd()));
        client.write_all(b"x").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!is_at_end(server.as_raw_fd()), "there is something to read first");
        let mut byte = [0u8; 1];
        std::io::Read::read_exact(&mut &server, &mut byte).unwrap();
        assert!(is_at_end(server.as_raw_fd()));
    }

    #[test]
    fn a_client_that_says_good_bye_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(&GOOD_BYE).unwrap();
        let mut seen = [0u8; 5];
        server.peek(&mut seen).unwrap();
        assert!(is_at_end(server.as_raw_fd()));
    }
}
