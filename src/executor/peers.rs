//! The sessions of this proxy, as they see each other: who may be signalled, who used a server's
//! process last.
//!
//! Must not know: how clients are accepted, what statements say.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{BufMut, BytesMut};
use parking_lot::{Mutex, RwLock};

use super::session::CancelSlot;
use crate::base::NodeId;
use crate::session::identity::SignalKind;
use crate::wire::frame::Frame;

/// Server processes remembered before the map starts afresh.
const SERVERS_MAX: usize = 65_536;

/// Sessions by the process id that their clients were told, and the session that each server process
/// worked for last.
#[derive(Default)]
pub struct Peers {
    sessions: Mutex<HashMap<u32, Peer>>,
    /// In order: a few comparisons cost less than a hash, and every transaction asks.
    servers: RwLock<BTreeMap<(NodeId, u32), AtomicU32>>,
}

/// Another session.
#[derive(Clone)]
pub struct Peer {
    /// Its role.
    pub user: Arc<str>,
    /// What it runs, and the way to end it.
    pub slot: Arc<CancelSlot>,
}

/// A session's place among its peers; given up when dropped.
pub struct Joined {
    peers: Arc<Peers>,
    pid: u32,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.peers.sessions.lock().remove(&self.pid);
    }
}

impl Peers {
    /// Makes a session known to the others, under its slot's process id.
    pub fn join(self: &Arc<Self>, user: &Arc<str>, slot: &Arc<CancelSlot>) -> Joined {
        let pid = slot.pid();
        self.sessions.lock().insert(pid, Peer { user: Arc::clone(user), slot: Arc::clone(slot) });
        Joined { peers: Arc::clone(self), pid }
    }

    /// Whether a session of that process id is there.
    pub fn knows(&self, pid: u32) -> bool {
        self.sessions.lock().contains_key(&pid)
    }

    /// The session of that process id.
    pub fn find(&self, pid: u32) -> Option<Peer> {
        self.sessions.lock().get(&pid).cloned()
    }

    /// Remembers that a server process works for a session now.
    pub fn note_user(&self, node: NodeId, server_pid: u32, session_pid: u32) {
        if let Some(user) = self.servers.read().get(&(node, server_pid)) {
            user.store(session_pid, Ordering::Relaxed);
            return;
        }
        let mut servers = self.servers.write();
        if servers.len() >= SERVERS_MAX {
            servers.clear();
        }
        servers.insert((node, server_pid), AtomicU32::new(session_pid));
    }

    /// The session that a server process worked for last.
    pub fn session_of(&self, node: NodeId, server_pid: u32) -> Option<u32> {
        self.servers.read().get(&(node, server_pid)).map(|user| user.load(Ordering::Relaxed))
    }

    /// A NotificationResponse with the sender's process id as its own client knows it: that of the
    /// session that used the sending connection last. Processes that no session used stay as they are.
    pub fn sender_named(&self, node: NodeId, frame: Frame) -> Frame {
        let body = frame.body();
        let Some(server_pid) = body.get(..4).and_then(|pid| pid.try_into().ok()).map(u32::from_be_bytes) else {
            return frame;
        };
        let Some(session) = self.session_of(node, server_pid) else { return frame };
        let mut bytes = BytesMut::with_capacity(frame.bytes.len());
        bytes.extend_from_slice(frame.bytes.get(..5).unwrap_or_default());
        bytes.put_u32(session);
        bytes.extend_from_slice(frame.bytes.get(9..).unwrap_or_default());
        Frame { tag: frame.tag, bytes: bytes.freeze() }
    }
}

impl Peer {
    /// Cancels what it runs, or ends it. Whether the caller may is not asked here.
    ///
    /// # Cancel safety
    /// Safe: a session that was told to end does so.
    pub async fn signal(&self, kind: SignalKind) {
        match kind {
            SignalKind::Cancel => self.slot.cancel_running().await,
            SignalKind::Terminate => self.slot.terminate().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(pid: u32) -> Frame {
        let mut bytes = BytesMut::from(&b"A\0\0\0\x0c"[..]);
        bytes.put_u32(pid);
        bytes.extend_from_slice(b"c\0p\0");
        Frame { tag: b'A', bytes: bytes.freeze() }
    }

    #[test]
    fn a_notification_names_the_session_that_used_the_connection_last() {
        let peers = Peers::default();
        peers.note_user(NodeId(1), 77, 5);
        peers.note_user(NodeId(1), 77, 6);
        assert_eq!(peers.sender_named(NodeId(1), notification(77)).bytes, notification(6).bytes);
        assert_eq!(peers.sender_named(NodeId(2), notification(77)).bytes, notification(77).bytes);
        assert_eq!(peers.sender_named(NodeId(1), notification(78)).bytes, notification(78).bytes);
    }

    #[test]
    fn a_session_is_known_until_it_leaves() {
        let peers = Arc::new(Peers::default());
        let joined = peers.join(&"app".into(), &Arc::new(CancelSlot::new(9)));
        assert!(peers.knows(9) && peers.find(9).is_some_and(|peer| *peer.user == *"app"));
        drop(joined);
        assert!(!peers.knows(9));
    }
}
