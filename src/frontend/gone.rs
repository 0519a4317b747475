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
            if before.contains(pid) && is_at_end(entry.socket, entry.is_tls) {
                gone.push(Arc::clone(&entry.slot));
            }
        }
        (busy, gone)
    }
}

/// Terminate, as drivers send it before they close.
const GOOD_BYE: [u8; 5] = [b'X', 0, 0, 0, 4];

/// Bytes that are looked at: Terminate and TLS's good-bye in records of their own.
const LOOK_BYTES: usize = 128;

/// The other side has closed or says that it will, and everything it sent before has been read.
fn is_at_end(socket: RawFd, is_tls: bool) -> bool {
    let mut next = [0u8; LOOK_BYTES];
    match recv(socket, &mut next, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(0) => true,
        Ok(read) => {
            let next = next.get(..read).unwrap_or_default();
            if is_tls { holds_tls_alert(next) } else { next == GOOD_BYE }
        }
        Err(error) => matches!(error, Errno::ECONNRESET | Errno::EPIPE | Errno::ETIMEDOUT),
    }
}

/// TLS's record types for an alert and for everything that is under encryption.
const RECORD_ALERT: u8 = 21;
const RECORD_DATA: u8 = 23;

/// Length of an encrypted alert in TLS 1.3, where records do not tell what they hold: two bytes, the
/// hidden type and the tag. No message of the protocol is as short as two bytes.
const ALERT_BYTES: u16 = 2 + 1 + 16;

/// One of the records that stand here is an alert: the good-bye `close_notify`, or an error that ends the
/// connection as well.
fn holds_tls_alert(mut records: &[u8]) -> bool {
    while let Some((&[kind, _, _, high, low], rest)) = records.split_first_chunk::<5>() {
        let length = u16::from_be_bytes([high, low]);
        if kind == RECORD_ALERT || (kind == RECORD_DATA && length == ALERT_BYTES) {
            return true;
        }
        records = rest.get(usize::from(length)..).unwrap_or_default();
    }
    false
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
        assert!(!is_at_end(server.as_raw_fd(), false));
        client.write_all(b"x").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!is_at_end(server.as_raw_fd(), false), "there is something to read first");
        let mut byte = [0u8; 1];
        std::io::Read::read_exact(&mut &server, &mut byte).unwrap();
        assert!(is_at_end(server.as_raw_fd(), false));
    }

    #[test]
    fn a_client_that_says_good_bye_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(&GOOD_BYE).unwrap();
        let mut seen = [0u8; 5];
        server.peek(&mut seen).unwrap();
        assert!(is_at_end(server.as_raw_fd(), false));
    }

    #[test]
    fn an_alert_is_seen_behind_other_records() {
        let record = |kind: u8, length: u8| {
            let mut record = vec![kind, 3, 3, 0, length];
            record.extend_from_slice(&vec![0x55; usize::from(length)]);
            record
        };
        let terminate = record(RECORD_DATA, 22);
        assert!(!holds_tls_alert(&terminate));
        assert!(holds_tls_alert(&[terminate.clone(), record(RECORD_DATA, 19)].concat()));
        assert!(holds_tls_alert(&[terminate.clone(), record(RECORD_ALERT, 26)].concat()));
        assert!(!holds_tls_alert(&[terminate.clone(), vec![RECORD_DATA, 3, 3]].concat()));
        assert!(!holds_tls_alert(&[]));
        assert!(!holds_tls_alert(&[record(RECORD_DATA, 60), terminate].concat()));
    }
}
