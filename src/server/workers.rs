//! The threads that serve clients: each has a runtime of its own, so that a session, its client's socket and
//! the connection it uses are woken by one thread and by no other.
//!
//! A runtime whose threads share their tasks wakes a thread for work that another could go on with at once;
//! at the rate of point queries that costs as much as the query (see the figures in `docs/decisions`).
//! Whatever looks after the cluster runs elsewhere and never waits behind clients.
//!
//! Must not know: what sessions do.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Threads that run until this is dropped.
pub(super) struct Workers {
    handles: Vec<Handle>,
    /// Dropped to end the threads.
    #[allow(dead_code)] // what counts is that it is dropped
    stays: Vec<oneshot::Sender<()>>,
}

impl Workers {
    /// Starts so many threads, one at least.
    ///
    /// # Errors
    /// The operating system has no thread or no descriptor left.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let mut workers = Self { handles: Vec::new(), stays: Vec::new() };
        for number in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            workers.handles.push(runtime.handle().clone());
            let (stay, told) = oneshot::channel();
            std::thread::Builder::new().name(format!("clients-{number}")).spawn(move || {
                // Ends when the sender is dropped; what still runs then ends with the runtime.
                let _dropped = runtime.block_on(told);
                runtime.shutdown_background();
            })?;
            workers.stays.push(stay);
        }
        Ok(workers)
    }

    /// What starts tasks on each of them.
    pub(super) fn handles(&self) -> &[Handle] {
        &self.handles
    }
}

/// As many as half of the processors: the rest is the operating system's, whose network takes as much, and for
/// what is not a client's.
pub(super) fn usual_count() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().div_ceil(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taskstays_on_its_thread_and_ends_with_it() {
        let workers = Workers::start(2).unwrap();
        let name = || async { std::thread::current().name().map(str::to_owned) };
        let names = [&workers.handles()[0], &workers.handles()[1]].map(|handle| handle.spawn(name()));
        let [first, second] = names;
        assert_eq!(first.await.unwrap().as_deref(), Some("clients-0"));
        assert_eq!(second.await.unwrap().as_deref(), Some("clients-1"));
        let waiting = workers.handles()[0].spawn(std::future::pending::<()>());
        drop(workers);
        assert!(waiting.await.is_err());
    }
}
