//! PAUSE, RESUME, KILL and RELOAD: commands that act on who is served, and how.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Admin, Answer, DATABASE, View};
use crate::error::{ClientError, ErrorId};
use crate::executor::BoxFuture;

/// Pause between two looks at connections that are still in use.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// A setting that is otherwise in the configuration than it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadedSetting {
    /// Its name in the configuration.
    pub name: &'static str,
    /// In force from now on; otherwise after a restart.
    pub is_live: bool,
}

/// Whoever can read the configuration again.
pub trait Reload: Send + Sync {
    /// Reads it and takes over what can be; gives every setting that has changed.
    ///
    /// # Errors
    /// It cannot be used: nothing was taken over.
    fn reload(&self) -> BoxFuture<'_, Result<Vec<ReloadedSetting>, ClientError>>;
}

/// How a proxy is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// It says that it is not ready, and goes on for so long.
    pub after: Duration,
    /// Then it takes no clients; sessions that are in a transaction for longer than this are ended.
    pub within: Duration,
}

impl Admin {
    /// Sets who empties the proxy; once.
    pub fn set_draining(&self, draining: tokio::sync::watch::Sender<Option<Drain>>) {
        let _was_there = self.draining.set(draining);
    }

    /// Begins to empty the proxy.
    pub(super) fn drain(&self, drain: Drain) -> Result<Answer, ClientError> {
        let Some(draining) = self.draining.get() else {
            let text = "this proxy cannot be drained";
            return Err(ClientError::new(ErrorId::FeatureNotSupported, text)
                .with_hint("Only what \"ostrakon serve\" runs can be: \"ostrakon down\" ends the others."));
        };
        if !draining.send_if_modified(|known| known.is_none() && known.replace(drain).is_none()) {
            return Err(ClientError::new(ErrorId::PrerequisiteMissing, "this proxy is being drained already"));
        }
        Ok(Answer::Done("DRAIN"))
    }

    /// Sets who reads the configuration again; once.
    pub fn set_reload(&self, reload: Arc<dyn Reload>) {
        let _was_there = self.reload.set(reload);
    }

    /// Lets nobody begin anything new, and waits until nothing is under way.
    pub(super) async fn pause(&self, seconds: u64) -> Result<Answer, ClientError> {
        let limit = Duration::from_secs(seconds);
        let number = self.cluster.pools.pause().begin(limit);
        tracing::info!(seconds, "paused");
        let waiting = async {
            while self.cluster.pools.busy_count() > 0 {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        if tokio::time::timeout(limit, waiting).await.is_err() {
            let busy = self.cluster.pools.busy_count();
            self.cluster.pools.pause().end(Some(number));
            tracing::info!(busy, "the pause was taken back");
            return Err(ClientError::new(ErrorId::PrerequisiteMissing, "transactions did not end in time")
                .with_detail(format!(
                    "{busy} server connections were in use after {seconds} s; the pause was taken back."
                ))
                .with_hint("See SHOW CLIENTS for who holds them; KILL ends a session."));
        }
        self.cluster.pools.close_idle();
        let cluster = Arc::clone(&self.cluster);
        // Whoever paused may never come back.
        tokio::spawn(async move {
            if cluster.pools.pause().end_in_time(number).await {
                tracing::warn!(seconds, "nobody resumed: the pause has ended by itself");
            }
        });
        Ok(Answer::Done("PAUSE"))
    }

    /// Ends the pause.
    pub(super) fn resume(&self) -> Result<Answer, ClientError> {
        if self.cluster.pools.pause().end(None) {
            tracing::info!("resumed");
            return Ok(Answer::Done("RESUME"));
        }
        Err(ClientError::new(ErrorId::PrerequisiteMissing, "there is no pause"))
    }

    /// Ends a session, as `pg_terminate_backend` does.
    pub(super) async fn kill(&self, pid: u32) -> Result<Answer, ClientError> {
        let known = self.clients.list().into_iter().map(|(client, _)| client).find(|client| client.slot.pid() == pid);
        let Some(client) = known else {
            return Err(ClientError::new(ErrorId::UndefinedObject, format!("there is no session {pid}"))
                .with_hint("SHOW CLIENTS lists them."));
        };
        if *client.database == *DATABASE {
            let text = "sessions of the admin database cannot be ended by others";
            return Err(ClientError::new(ErrorId::FeatureNotSupported, text).with_hint("Close its connection."));
        }
        tracing::info!(pid, user = %client.user, "a session is ended");
        client.slot.terminate().await;
        Ok(Answer::Done("KILL"))
    }

    /// Reads the configuration again.
    pub(super) async fn reload(&self, as_json: bool) -> Result<View, ClientError> {
        let Some(reload) = self.reload.get() else {
            let text = "this proxy has no configuration file";
            return Err(ClientError::new(ErrorId::FeatureNotSupported, text)
                .with_hint("Only what \"ostrakon serve\" runs can be read again."));
        };
        let changed = reload.reload().await?;
        let state = |setting: &ReloadedSetting| if setting.is_live { "in force" } else { "after a restart" };
        if as_json {
            let rows: Vec<_> = changed.iter().map(|one| json!({ "setting": one.name, "state": state(one) })).collect();
            return Ok(View { columns: vec!["document"], rows: vec![vec![Some(json!(rows).to_string())]] });
        }
        let row = |setting: &ReloadedSetting| vec![Some(setting.name.to_owned()), Some(state(setting).to_owned())];
        Ok(View { columns: vec!["setting", "state"], rows: changed.iter().map(row).collect() })
    }
}
