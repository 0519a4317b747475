//! `ostrakon agent`: beside a PostgreSQL server that `ostrakon serve` leads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::{Mutex, watch};

use super::Failure;
use super::connect::{Admin, identifier};
use super::signals::StopSignals;
use crate::base::Secret;
use crate::control::agent::{Agent, Proxies, Told};
use crate::host::{Account, Binaries, Configured, Site};
use crate::store::agents::Report;

/// How long a proxy may take to answer.
const ASK_MAX: Duration = Duration::from_secs(5);
/// How long a checkpoint may take.
const CHECKPOINT_MAX: Duration = Duration::from_secs(330);

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct AgentArguments {
    /// The node, by its name in the cluster.
    #[arg(long, value_name = "NAME")]
    node: String,
    /// Data directory of its server. Its parent directory has to be writable, too: copies are made beside it.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// A proxy's address; several may be given, one that answers is asked.
    #[arg(long = "proxy", value_name = "URL", required = true)]
    proxies: Vec<String>,
    /// Port that the server listens on [default: the node's in the cluster].
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The server's log [default: beside the data directory].
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Directory of PostgreSQL's server programs [default: the newest under /usr/lib/postgresql, else PATH].
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    /// The server's configuration file, where it is not in the data directory.
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// A setting on the server's command line; several may be given.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// File with the password of the role that standbys stream as [default: PGPASSWORD].
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// A former primary is rewound when it has at least so much; a smaller one is copied.
    #[arg(long, value_name = "MB", default_value_t = 512)]
    rewind_from_mb: u64,
}

/// Runs the agent until Ctrl-C or SIGTERM; the server goes on.
pub async fn run(arguments: AgentArguments) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let site = site(&arguments)?;
    let password = match &arguments.password_file {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| Failure::new(format!("cannot read {}: {error}", file.display())))?;
            Some(Secret::new(text.trim_end_matches('\n')))
        }
        None => std::env::var("PGPASSWORD").ok().map(Secret::new),
    };
    let proxies = Asking { node: arguments.node.clone(), urls: arguments.proxies, held: Mutex::default() };
    let (stop, stopped) = watch::channel(false);
    let agent = Agent::new(site.clone(), proxies, password, arguments.port);
    tracing::info!(node = arguments.node, data = %site.directory.display(), "looking after a server");
    let signalled = async {
        signals.next().await;
        // What is being made is given up; it begins anew the next time.
        site.cancel();
        stop.send_replace(true);
    };
    tokio::join!(agent.run(stopped), signalled);
    Ok(())
}

fn site(arguments: &AgentArguments) -> Result<Site, Failure> {
    let binaries = Binaries::find(arguments.pg_bin.as_deref())?;
    let account = Account::for_servers()?;
    let directory = absolute(&arguments.data)?;
    account.check_reach(&directory)?;
    let log = match &arguments.log {
        Some(log) => absolute(log)?,
        None => directory.with_extension("log"),
    };
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(&log);
    opened.map_err(|error| Failure::new(format!("cannot write {}: {error}", log.display())))?;
    account.own(&log)?;
    Ok(Site {
        name: arguments.node.clone(),
        directory,
        log,
        binaries,
        account,
        configured: Configured::Elsewhere {
            options: arguments.settings.clone(),
            config_file: arguments.config_file.clone(),
        },
        rewind_bytes_min: arguments.rewind_from_mb << 20,
        cancelled: Arc::new(watch::Sender::new(false)),
    })
}

/// Without symbolic links, as processes show where they work. What it names may not be there yet.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let failure = |error: std::io::Error| Failure::new(format!("cannot use {}: {error}", path.display()));
    let path = std::path::absolute(path).map_err(failure)?;
    if let Ok(real) = std::fs::canonicalize(&path) {
        return Ok(real);
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(std::fs::canonicalize(parent).map_err(failure)?.join(name)),
        _ => Ok(path),
    }
}

/// The proxies by their addresses; a connection to one of them is kept.
struct Asking {
    node: String,
    urls: Vec<String>,
    held: Mutex<Option<(usize, Admin)>>,
}

impl Asking {
    /// Runs a command at a proxy that answers, the one of the last time first.
    async fn at_any(&self, command: &str, limit: Duration) -> Option<Vec<Vec<Option<String>>>> {
        let mut held = self.held.lock().await;
        let first = held.as_ref().map_or(0, |(at, _)| *at);
        for at in (0..self.urls.len()).map(|step| (first + step) % self.urls.len()) {
            let url = self.urls.get(at)?;
            let admin = match held.take() {
                Some((of, admin)) if of == at => Ok(admin),
                _ => Admin::at_url(url).await,
            };
            let answered = match admin {
                Ok(admin) => match tokio::time::timeout(limit, admin.rows(command)).await {
                    Ok(Ok(rows)) => Ok((admin, rows)),
                    Ok(Err(failure)) => Err(failure.to_string()),
                    Err(_) => Err("timed out".to_owned()),
                },
                Err(failure) => Err(failure.to_string()),
            };
            match answered {
                Ok((admin, rows)) => {
                    *held = Some((at, admin));
                    return Some(rows);
                }
                Err(reason) => tracing::debug!(at, reason, "no answer from a proxy"),
            }
        }
        None
    }
}

impl Proxies for Asking {
    async fn ask(&self, report: &Report) -> Option<Told> {
        let report = serde_json::to_string(report).ok()?.replace('\'', "''");
        let command = format!("AGENT {} '{report}'", identifier(&self.node));
        let rows = self.at_any(&command, ASK_MAX).await?;
        serde_json::from_str(rows.first()?.first()?.as_deref()?).ok()
    }

    async fn checkpoint(&self) -> bool {
        self.at_any(&format!("AGENT {} CHECKPOINT", identifier(&self.node)), CHECKPOINT_MAX).await.is_some()
    }
}
