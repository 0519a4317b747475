//! Where statements wait while buckets move: [`crate::reshard::Gate`] with tasks that wait.
//!
//! Statements are only asked while a job is there: it *arms* the gate while nothing runs, so that nobody is inside who
//! was not asked.
//!
//! Must not know: what statements are, why buckets move.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::base::{BucketId, NodeId};
use crate::reshard::{Gate, Level, Touch, Waits};

/// One proxy's gate.
#[derive(Debug, Default)]
pub struct StepGate {
    is_armed: AtomicBool,
    /// Transactions that say nothing of it see what is committed when each of their statements begins.
    is_read_committed: AtomicBool,
    gate: Mutex<Gate>,
    changed: Notify,
    waits: Mutex<Waits>,
    /// Backends whose sessions left them in the middle of something, also before a job begins.
    abandoned: Mutex<VecDeque<Abandoned>>,
}

/// A backend that nobody waits for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abandoned {
    /// Its server.
    pub node: NodeId,
    /// Its process there; one of the same number that began later is another's.
    pub pid: u32,
    /// Since when.
    pub since: Instant,
}

/// Most of them that are remembered: the oldest have ended long since.
const ABANDONED_MAX: usize = 4_096;

impl StepGate {
    /// Statements are asked what they touch. It is armed only while nothing runs.
    pub fn is_armed(&self) -> bool {
        self.is_armed.load(Ordering::Acquire)
    }

    /// Asks statements from now on. `is_read_committed`: that is the servers' usual isolation level.
    pub fn arm(&self, is_read_committed: bool) {
        self.is_read_committed.store(is_read_committed, Ordering::Release);
        if !self.is_armed.swap(true, Ordering::AcqRel) {
            *self.waits.lock() = Waits::default();
        }
    }

    /// Asks no more.
    pub fn disarm(&self) {
        self.is_armed.store(false, Ordering::Release);
        self.open();
    }

    /// How long statements waited since it was armed, or the last time that it was.
    pub fn waits(&self) -> Waits {
        self.waits.lock().clone()
    }

    /// Transactions that say nothing of their isolation level are READ COMMITTED on every server.
    pub fn is_read_committed(&self) -> bool {
        self.is_read_committed.load(Ordering::Acquire)
    }

    /// A session closes a connection in the middle of something: its backend may go on with it, and commit.
    pub fn abandon(&self, node: NodeId, pid: u32) {
        self.keep_abandoned(Abandoned { node, pid, since: Instant::now() });
    }

    /// As it was taken: it may still be at work.
    pub fn keep_abandoned(&self, backend: Abandoned) {
        let mut abandoned = self.abandoned.lock();
        if abandoned.len() >= ABANDONED_MAX {
            abandoned.pop_front();
        }
        abandoned.push_back(backend);
    }

    /// Backends of a node that may still be at work for nobody; told once.
    pub fn take_abandoned(&self, node: NodeId) -> Vec<Abandoned> {
        let mut abandoned = self.abandoned.lock();
        let (taken, left) = abandoned.drain(..).partition(|backend| backend.node == node);
        *abandoned = left;
        Vec::from(taken)
    }

    /// A session comes inside, with nothing yet.
    pub fn come(self: &Arc<Self>) -> Stay {
        Stay { who: self.gate.lock().come(), gate: Arc::clone(self) }
    }

    /// Lets these wait, and waits until what is under way has ended; `false`: it has not within the limit.
    ///
    /// # Cancel safety
    /// They go on waiting until [`StepGate::open`].
    pub async fn close(&self, buckets: &[BucketId], level: Level, limit: Duration) -> bool {
        self.gate.lock().close(buckets, level);
        self.until(|gate| gate.is_quiet(), limit).await
    }

    /// Nothing waits any more.
    pub fn open(&self) {
        self.gate.lock().open();
        self.changed.notify_waiters();
    }

    async fn until(&self, mut holds: impl FnMut(&mut Gate) -> bool, limit: Duration) -> bool {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // What changes from here on is not missed.
                changed.as_mut().enable();
                if holds(&mut self.gate.lock()) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, waiting).await.is_ok()
    }

    fn change(&self, change: impl FnOnce(&mut Gate)) {
        let mut gate = self.gate.lock();
        change(&mut gate);
        let is_awaited = gate.is_closing();
        drop(gate);
        if is_awaited {
            self.changed.notify_waiters();
        }
    }
}

/// A session inside; it leaves when this is dropped.
#[derive(Debug)]
pub struct Stay {
    gate: Arc<StepGate>,
    who: u64,
}

impl Stay {
    /// Begins a statement, if it may now.
    pub fn enter_now(&self, touch: &Touch) -> bool {
        self.gate.gate.lock().enter(self.who, touch)
    }

    /// Begins a statement, when it may.
    ///
    /// # Cancel safety
    /// Safe: it has not begun.
    pub async fn enter(&self, touch: &Touch) {
        let waited = Waited { gate: &self.gate, since: Instant::now() };
        // A step ends by its own limits; whatever ends it opens the gate.
        while !self.gate.until(|gate| gate.enter(self.who, touch), LOOK).await {
            tracing::debug!("a statement waits for buckets that move");
        }
        drop(waited);
    }

    /// Its statements have ended, its transaction has not.
    pub fn end_reads(&self) {
        self.gate.change(|gate| gate.end_reads(self.who));
    }
}

/// Counts a wait when it is over, also when who waited has left.
struct Waited<'a> {
    gate: &'a StepGate,
    since: Instant,
}

impl Drop for Waited<'_> {
    fn drop(&mut self) {
        self.gate.waits.lock().note(self.since.elapsed());
    }
}

/// How often a statement that waits looks by itself.
const LOOK: Duration = Duration::from_secs(5);

impl Drop for Stay {
    fn drop(&mut self) {
        self.gate.change(|gate| gate.leave(self.who));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reshard::Buckets;

    #[test]
    fn backends_that_were_left_are_told_once_and_by_node() {
        let gate = StepGate::default();
        (0..5_000).for_each(|pid| gate.abandon(NodeId(1), pid));
        gate.abandon(NodeId(2), 7);
        let pids = |node| gate.take_abandoned(NodeId(node)).iter().map(|left| left.pid).collect::<Vec<_>>();
        assert_eq!(pids(1), (905..5_000).collect::<Vec<_>>());
        assert_eq!((pids(1), pids(2)), (vec![], vec![7]));
    }

    #[tokio::test]
    async fn a_step_waits_for_what_runs_and_what_comes_waits_for_the_step() {
        let gate = Arc::new(StepGate::default());
        let bucket = [BucketId(7)];
        let writes = Touch::writes(Buckets::of(bucket.to_vec()));
        let running = gate.come();
        running.enter(&writes).await;
        assert!(!gate.close(&bucket, Level::Writes, Duration::from_millis(5)).await);
        let closing = {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.close(&bucket, Level::Writes, Duration::from_secs(9)).await })
        };
        tokio::task::yield_now().await;
        drop(running);
        assert!(closing.await.unwrap());
        let next = gate.come();
        let waits = tokio::time::timeout(Duration::from_millis(5), next.enter(&writes)).await;
        assert!(waits.is_err());
        let opener = Arc::clone(&gate);
        tokio::spawn(async move { opener.open() });
        next.enter(&writes).await;
        let waits = gate.waits();
        assert_eq!((waits.count, waits.longest >= Duration::from_millis(5)), (3, true));
    }
}
