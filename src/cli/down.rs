//! `ostrakon down`: stops what `up` started.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use super::directory::{self, Lock};
use super::output::{self, Output};
use super::progress::Progress;
use super::{Failure, cluster};

/// A proxy drains and stops its servers within this.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct DownArguments {
    /// Data directory of the cluster [default: /var/lib/ostrakon as root, else ./.ostrakon].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Delete the cluster and all its data afterwards; needs --yes.
    #[arg(long, requires = "yes")]
    remove: bool,
    /// Yes, really.
    #[arg(long)]
    yes: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
struct DownDocument {
    data: PathBuf,
    proxy_stopped: bool,
    servers_stopped: Vec<String>,
    removed: bool,
}

/// Runs the command; stopping what does not run is no failure.
pub async fn run(arguments: DownArguments, output: Output) -> Result<(), Failure> {
    let data = arguments.data.unwrap_or_else(directory::usual);
    let mut document =
        DownDocument { data: data.clone(), proxy_stopped: false, servers_stopped: Vec::new(), removed: false };
    if let Ok(data) = fs::canonicalize(&data) {
        document.data.clone_from(&data);
        let before = cluster::running(&data);
        let lock = match Lock::attempt(&data)? {
            Ok(lock) => lock,
            Err(holder) => {
                ask_to_stop(&data, holder)?;
                document.proxy_stopped = true;
                Lock::wait(&data, STOP_LIMIT).await?
            }
        };
        cluster::stop_all(&data, &BTreeSet::new(), &Progress::for_people()).await?;
        document.servers_stopped = before.difference(&cluster::running(&data)).cloned().collect();
        if arguments.remove {
            remove(&data)?;
            document.removed = true;
        }
        drop(lock);
    }
    if output == Output::Json {
        return output::json(&document);
    }
    output::line(&summary(&document))
}

fn summary(document: &DownDocument) -> String {
    let proxy = if document.proxy_stopped { "stopped the proxy and " } else { "stopped " };
    let mut text = match document.servers_stopped.len() {
        0 if !document.proxy_stopped => format!("nothing runs in {}", document.data.display()),
        count => format!("{proxy}{count} PostgreSQL servers of {}", document.data.display()),
    };
    if document.removed {
        text.push_str("; removed its data");
    }
    text
}

/// Sends SIGTERM to the `up` that holds the lock, when that is what the pid belongs to.
fn ask_to_stop(data: &Path, holder: Option<u32>) -> Result<(), Failure> {
    let unknown = || {
        Failure::new(format!(
            "some process works in {} but its pid is not known\n  find it with: fuser {}",
            data.display(),
            data.join("up.lock").display()
        ))
    };
    let pid = holder.ok_or_else(unknown)?;
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let is_ours = exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ostrakon"));
    if !is_ours {
        return Err(unknown());
    }
    match kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(Failure::new(format!("cannot stop pid {pid}: {error}"))),
    }
}

/// Removes what `up` made, and the directory if nothing else is in it.
fn remove(data: &Path) -> Result<(), Failure> {
    let failure = |path: &Path, error| Failure::new(format!("cannot remove {}: {error}", path.display()));
    for name in ["nodes", "logs"] {
        let path = data.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|error| failure(&path, error))?;
        }
    }
    for name in ["store.redb", "proxy.json", "proxy.json.part", "demo", "ostrakon.log", "up.lock"] {
        let path = data.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failure(&path, error)),
            _ => {}
        }
    }
    match fs::remove_dir(data) {
        Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => Err(failure(data, error)),
        _ => Ok(()),
    }
}
