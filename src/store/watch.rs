//! Changes as they happen, through bounded queues.

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::{Entry, Revision};

/// Changes that a slow watcher may be behind before it misses some.
const QUEUE_LENGTH: usize = 256;

/// One change of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(Entry),
    /// It was deleted.
    Deleted {
        /// The key.
        key: String,
        /// Revision of the deletion.
        revision: Revision,
    },
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }

    /// When it changed.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// What a watcher gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A change, in the order of revisions.
    Change(Change),
    /// The watcher was too slow and changes were dropped: list again.
    Missed,
}

/// Changes under one prefix.
#[derive(Debug)]
pub struct Watch {
    prefix: String,
    changes: broadcast::Receiver<WatchEvent>,
    /// Up to here nothing is told: it happened before the watch began.
    after: Revision,
}

impl Watch {
    /// The next change; `None` when the store is gone.
    ///
    /// # Cancel safety
    /// Safe: a dropped wait loses no change.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            match self.changes.recv().await {
                Ok(WatchEvent::Missed) => return Some(WatchEvent::Missed),
                Ok(WatchEvent::Change(change)) if self.is_told(&change) => return Some(WatchEvent::Change(change)),
                Ok(WatchEvent::Change(_)) => {}
                Err(RecvError::Lagged(_)) => return Some(WatchEvent::Missed),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn is_told(&self, change: &Change) -> bool {
        change.key().starts_with(&self.prefix) && change.revision() > self.after
    }

    /// For stores whose changes arrive later than they happen.
    pub(super) fn leave_out_until(&mut self, revision: Revision) {
        self.after = revision;
    }
}

/// The sending side, one for each store.
#[derive(Debug)]
pub(super) struct Watchers {
    sender: broadcast::Sender<WatchEvent>,
}

impl Default for Watchers {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(QUEUE_LENGTH) }
    }
}

impl Watchers {
    pub(super) fn watch(&self, prefix: &str) -> Watch {
        Watch { prefix: prefix.to_owned(), changes: self.sender.subscribe(), after: Revision(0) }
    }

    /// Tells everyone; the caller keeps changes in the order of their revisions.
    pub(super) fn publish(&self, change: Change) {
        // Without watchers there is nobody to tell.
        let _ = self.sender.send(WatchEvent::Change(change));
    }

    /// Tells everyone that changes are lost.
    pub(super) fn publish_missed(&self) {
        let _ = self.sender.send(WatchEvent::Missed);
    }
}
