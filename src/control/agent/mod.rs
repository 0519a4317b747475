//! The agent beside a server: starts it, stops it when it leads no more, makes a standby of it, as the proxies want it.
//!
//! It has no mind of its own about who leads. It asks a proxy twice a second; what is to be done is in the store, so that
//! any proxy can tell it, and whoever was interrupted is told again.
//!
//! Must not know: how proxies are reached.

mod decide;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::base::{Secret, Term};
use crate::failover::Stamp;
use crate::host::{HostError, ServerState, Site, Source, Witness};
use crate::store::agents::{Ending, OrderKind, Report};
use decide::{Sight, Step, decide};

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest pause between two attempts to start a server that does not start.
const START_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long what a standby says after it was started is waited for before it is made anew.
const STARTED_MAX: Duration = Duration::from_secs(60);

/// What a proxy tells the agent of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Port where the node is to listen.
    pub port: u16,
    /// The role that standbys stream as.
    pub user: String,
    /// The node's slot on whom it follows.
    pub slot: String,
    /// The shard's term.
    pub term: u64,
    /// The term is open, and another node leads in it.
    pub is_led_by_other: bool,
    /// What is to be done.
    pub task: Option<Task>,
}

/// An order that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Names it.
    pub number: u64,
    /// What is wanted.
    pub kind: OrderKind,
    /// Of whom: term,
    pub term: u64,
    /// and version of its set.
    pub config: u64,
    /// The primary's host
    pub host: String,
    /// and port.
    pub port: u16,
}

impl Task {
    fn stamp(&self) -> Stamp {
        Stamp { term: Term(self.term), config: self.config }
    }
}

/// The proxies, as the agent of one node reaches them.
pub trait Proxies: Send + Sync {
    /// Says how the node is, and asks what is to be done; `None`: no proxy answers.
    fn ask(&self, report: &Report) -> impl Future<Output = Option<Told>> + Send;

    /// Has the primary write a checkpoint on its own timeline.
    fn checkpoint(&self) -> impl Future<Output = bool> + Send;
}

/// An agent.
pub struct Agent<P> {
    site: Site,
    proxies: Arc<P>,
    /// What opens the primary.
    password: Option<Secret>,
    /// The server listens here, whatever the proxies say.
    port: Option<u16>,
    /// Held while something is done to the server.
    busy: Arc<Mutex<()>>,
}

/// What an agent remembers between two looks.
#[derive(Default)]
struct Memory {
    ended: Option<(u64, Ending)>,
    detail: String,
    was_down: bool,
    /// Starts in a row that failed, and when the next one may be.
    failed_starts: u32,
    start_after: Option<Instant>,
    /// A standby that was started because it was to follow.
    started_at: Option<Instant>,
    /// The port that the proxies said last.
    port: Option<u16>,
}

impl<P: Proxies> Agent<P> {
    /// The agent of a server.
    pub fn new(site: Site, proxies: P, password: Option<Secret>, port: Option<u16>) -> Self {
        Self { site, proxies: Arc::new(proxies), password, port, busy: Arc::default() }
    }

    /// Looks after the server until told to stop; the server goes on.
    ///
    /// # Cancel safety
    /// Dropped while a standby is made, that begins anew the next time.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let mut memory = Memory::default();
        while !*stop.borrow_and_update() {
            self.look(&mut memory).await;
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn look(&self, memory: &mut Memory) {
        let _busy = self.busy.lock().await;
        let state = self.site.state();
        let is_empty = self.site.is_empty();
        if is_empty && self.site.has_processes() {
            // Its files were removed under it: nothing that it says from here on is of use.
            tracing::warn!(name = self.site.name, "the server has lost its data, and is stopped");
            if let Err(error) = self.site.stop_at_once().await {
                tracing::warn!(name = self.site.name, %error, "it cannot be stopped");
            }
        }
        let told = self.proxies.ask(&report(&state, is_empty, memory)).await;
        memory.port = told.as_ref().map(|told| told.port).or(memory.port);
        let sight = Sight {
            is_running: matches!(state, ServerState::Running { .. }),
            is_empty,
            is_standby: self.site.is_standby(),
            promised: promised(&self.site.directory),
            was_down: memory.was_down,
            may_start: memory.start_after.is_none_or(|at| Instant::now() >= at),
            ended: memory.ended.map(|(number, _)| number),
        };
        memory.was_down = state == ServerState::Stopped;
        let name = &self.site.name;
        match decide(&sight, told.as_ref()) {
            Step::Rest => {}
            Step::Stop => {
                tracing::warn!(name, "it leads no more, and is stopped");
                if let Err(error) = self.site.stop_at_once().await {
                    tracing::warn!(name, %error, "it cannot be stopped");
                }
            }
            Step::Start => self.start(memory).await,
            Step::Refuse(number) => {
                tracing::info!(name, promised = ?sight.promised, "an order that came too late is not carried out");
                memory.end(number, Ending::Refused, "it has promised more, or has data");
            }
            Step::Begin(task) => {
                let Some(told) = told else { return };
                let ending = self.carry_out(&task, &told, memory).await;
                match ending {
                    Ok(()) => memory.end(task.number, Ending::Done, ""),
                    Err(HostError::Cancelled) => {}
                    Err(error) => {
                        tracing::warn!(name, kind = ?task.kind, %error, "an order cannot be carried out");
                        memory.end(task.number, Ending::Failed, &error.to_string());
                    }
                }
            }
        }
    }

    async fn start(&self, memory: &mut Memory) {
        let name = &self.site.name;
        tracing::warn!(name, "the server had ended and is started");
        match self.at_port(memory).start().await {
            Ok(()) => (memory.failed_starts, memory.start_after) = (0, None),
            Err(error) => {
                memory.failed_starts = (memory.failed_starts + 1).min(6);
                let pause = START_PAUSE_MAX.min(PAUSE * 2u32.pow(memory.failed_starts));
                memory.start_after = Some(Instant::now() + pause);
                memory.detail = error.to_string();
                tracing::warn!(name, %error, "it cannot be started");
            }
        }
    }

    async fn carry_out(&self, task: &Task, told: &Told, memory: &mut Memory) -> Result<(), HostError> {
        let (name, site) = (&self.site.name, self.at_port(memory));
        tracing::info!(name, kind = ?task.kind, term = task.term, config = task.config, "an order");
        if task.kind == OrderKind::Restart {
            site.stop().await?;
            return site.start().await;
        }
        let is_standby = site.state() == ServerState::Stopped && site.is_standby();
        let was_started = memory.started_at.is_some_and(|at| at.elapsed() < STARTED_MAX);
        if task.kind == OrderKind::Follow && is_standby && !was_started {
            // What is on its disk may be all that it needs.
            memory.started_at = Some(Instant::now());
            match site.start().await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(name, %error, "it cannot be started, and is made anew"),
            }
        }
        let source = Source {
            host: task.host.clone(),
            port: task.port,
            user: told.user.clone(),
            password: self.password.clone(),
            slot: told.slot.clone(),
        };
        let witness = Asked { agent: self, number: task.number, ended: memory.ended };
        let promise = format!("{}.{}", task.term, task.config);
        // What is to be copied is not to be rewound.
        let site = if task.kind == OrderKind::Copy { Site { rewind_bytes_min: u64::MAX, ..site } } else { site };
        let since = Instant::now();
        let made = site.make_standby(&source, &promise, &witness).await?;
        tracing::info!(name, how = ?made, ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX), "made a standby");
        memory.started_at = None;
        Ok(())
    }

    /// The server's directory, with the port where it is to listen.
    fn at_port(&self, memory: &Memory) -> Site {
        self.site.listening(self.port.or(memory.port))
    }
}

impl Memory {
    fn end(&mut self, number: u64, ending: Ending, detail: &str) {
        self.ended = Some((number, ending));
        detail.clone_into(&mut self.detail);
    }
}

fn report(state: &ServerState, is_empty: bool, memory: &Memory) -> Report {
    let state = match state {
        ServerState::Running { .. } => "running",
        ServerState::Stopped => "stopped",
        ServerState::Absent | ServerState::HalfMade => "empty",
    };
    Report { state: state.to_owned(), is_empty, ended: memory.ended, detail: memory.detail.clone() }
}

/// A proxy says whether an order is in force.
struct Asked<'a, P> {
    agent: &'a Agent<P>,
    number: u64,
    ended: Option<(u64, Ending)>,
}

impl<P: Proxies> Witness for Asked<'_, P> {
    async fn checkpoint(&self) -> bool {
        self.agent.proxies.checkpoint().await
    }

    async fn is_still_wanted(&self) -> bool {
        let report = Report { state: "making".to_owned(), ended: self.ended, ..Report::default() };
        let told = self.agent.proxies.ask(&report).await;
        told.and_then(|told| told.task).is_some_and(|task| task.number == self.number)
    }
}

/// What a server promised, from the file where it remembers it.
pub fn promised(directory: &Path) -> Stamp {
    let text = std::fs::read_to_string(directory.join("postgresql.auto.conf")).unwrap_or_default();
    let read = |line: &str| {
        let value = line.strip_prefix("ostrakon.promised")?.trim_start().strip_prefix('=')?.trim();
        let (term, config) = value.trim_matches('\'').split_once('.')?;
        Some(Stamp { term: Term(term.parse().ok()?), config: config.parse().ok()? })
    };
    text.lines().filter_map(read).next_back().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_read_from_the_servers_own_file() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(promised(directory.path()), Stamp::default());
        let text = "# Do not edit\nport = '1'\nostrakon.promised = '3.12'\n";
        std::fs::write(directory.path().join("postgresql.auto.conf"), text).unwrap();
        assert_eq!(promised(directory.path()), Stamp { term: Term(3), config: 12 });
    }
}
