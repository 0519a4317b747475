//! The changes of all records, from one stream that is opened again wherever it ended.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::Client;
use super::http::Fault;
use super::messages::{Range, Watched, Wrapped, prefix_range};
use crate::store::watch::Watchers;
use crate::store::{Change, Revision, StoreError, Watch};

/// Pause between two looks at whether the stream still tells everything.
const CHECK_PAUSE: Duration = Duration::from_secs(2);
/// Pause before a stream that ended is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// The stream's task and those who listen; ends with the store.
pub(super) struct Feed {
    watchers: Arc<Watchers>,
    task: JoinHandle<()>,
}

impl Feed {
    /// Begins after `start`.
    pub(super) fn start(client: Arc<Client>, start: Revision) -> Self {
        let watchers = Arc::new(Watchers::default());
        let task = Follow { client, watchers: Arc::clone(&watchers), last: start };
        Self { watchers, task: tokio::spawn(task.run()) }
    }

    pub(super) fn watch(&self, prefix: &str) -> Watch {
        self.watchers.watch(prefix)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Follow {
    client: Arc<Client>,
    watchers: Arc<Watchers>,
    /// Everything up to here has been told.
    last: Revision,
}

impl Follow {
    async fn run(mut self) {
        loop {
            if let Err(fault) = self.follow().await {
                tracing::debug!(%fault, "the stream of changes from etcd ended");
            }
            // Whatever was wrong with this member is wrong with it alone.
            self.client.members.rotate();
            tokio::time::sleep(REOPEN_PAUSE).await;
        }
    }

    /// One stream, to its end.
    async fn follow(&mut self) -> Result<(), Fault> {
        let mut request = prefix_range(&self.client.records);
        if let Some(fields) = request.as_object_mut() {
            fields.insert("start_revision".to_owned(), Value::String((self.last.0 + 1).to_string()));
        }
        let token = self.client.token().await?;
        let request = json!({ "create_request": request });
        let opened = self.client.members.stream("/v3/watch", &request, token.as_deref()).await;
        if matches!(opened, Err(Fault::TokenExpired)) {
            *self.client.token.lock() = None;
        }
        let mut lines = opened?;
        let mut checks = interval(CHECK_PAUSE);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What the last look found that had not been told: time enough for the stream to tell it.
        let mut untold = None;
        loop {
            let message = tokio::select! {
                message = lines.next() => Some(message?),
                _ = checks.tick() => None,
            };
            match message {
                Some(None) => return Ok(()),
                Some(Some(message)) => self.tell(message)?,
                None => {
                    if untold.is_some_and(|newest| newest > self.last) {
                        return Err(Fault::Unknown("the stream is silent and there are changes".to_owned()));
                    }
                    untold = self.newest().await.ok();
                }
            }
        }
    }

    /// The newest change of a record that exists.
    async fn newest(&self) -> Result<Revision, StoreError> {
        let mut request = prefix_range(&self.client.records);
        if let Some(fields) = request.as_object_mut() {
            for (key, value) in [("sort_order", "DESCEND"), ("sort_target", "MOD"), ("limit", "1")] {
                fields.insert(key.to_owned(), Value::String(value.to_owned()));
            }
            fields.insert("keys_only".to_owned(), Value::Bool(true));
        }
        let range: Range = self.client.read("/v3/kv/range", &request).await?;
        Ok(Revision(range.kvs.first().map_or(0, |found| found.mod_revision)))
    }

    fn tell(&mut self, message: Value) -> Result<(), Fault> {
        let message: Wrapped<Watched> = serde_json::from_value(message)
            .map_err(|error| Fault::Unknown(format!("a change is not understood: {error}")))?;
        let message = message.result;
        if message.canceled {
            if message.compact_revision > 0 {
                // etcd has forgotten what came between: whoever listens lists again.
                self.last = Revision(message.compact_revision.saturating_sub(1).max(self.last.0));
                self.watchers.publish_missed();
            }
            return Err(Fault::Unknown("etcd ended the stream".to_owned()));
        }
        for event in message.events {
            let revision = Revision(event.kv.mod_revision);
            let is_deletion = event.kind == "DELETE";
            let Ok(entry) = self.client.entry(event.kv) else { continue };
            self.watchers.publish(match is_deletion {
                false => Change::Put(entry),
                true => Change::Deleted { key: entry.key, revision },
            });
            self.last = self.last.max(revision);
        }
        Ok(())
    }
}
