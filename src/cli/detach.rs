//! `--detach`: the same command once more, in a session of its own.
//!
//! The child's standard output is a pipe to the parent until it is ready or has failed; its log is
//! `DIR/ostrakon.log`. Forking a process with threads is not safe, so it is started anew.

use std::env;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::Failure;
use super::progress::{Event, Progress};
use super::signals::StopSignals;

/// Set for the child.
const VARIABLE: &str = "OSTRAKON_DETACHED";

/// Without news for so long the child is taken for hung; copying a big primary is no news.
const READY_LIMIT: Duration = Duration::from_secs(6 * 3600);
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// This process is the child of a `--detach`.
pub fn is_detached() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// In the child: leaves the session of the terminal, so that neither Ctrl-C nor closing it ends us.
pub fn become_detached() -> Result<(), Failure> {
    if !is_detached() {
        return Ok(());
    }
    // EPERM: leader of a session or group already, which is what is wanted.
    match nix::unistd::setsid() {
        Ok(_) | Err(nix::errno::Errno::EPERM) => Ok(()),
        Err(error) => Err(Failure::new(format!("cannot start a session: {error}"))),
    }
}

/// In the parent: starts the child and shows its progress until it is ready; gives its document.
///
/// # Errors
/// What the child failed with; it has stopped what it had started.
pub async fn start(data: &Path, progress: &Progress) -> Result<serde_json::Value, Failure> {
    let log_path = data.join("ostrakon.log");
    let failure = |error| Failure::new(format!("cannot detach: {error}"));
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", log_path.display())))?;
    // Before the child, so that Ctrl-C cannot come between.
    let mut signals = StopSignals::listen()?;
    let mut child = Command::new(env::current_exe().map_err(failure)?)
        .args(env::args_os().skip(1))
        .env(VARIABLE, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(failure)?;
    let stdout = child.stdout.take().ok_or_else(|| Failure::new("cannot detach: no pipe to the child"))?;
    let mut lines = BufReader::new(stdout).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line.map_err(failure)?,
            () = signals.next() => {
                stop(&mut child).await;
                return Err(Failure::new("stopped before the cluster was ready"));
            }
            () = tokio::time::sleep(READY_LIMIT) => {
                stop(&mut child).await;
                return Err(Failure::new(format!("the cluster was not ready in time; see {}", log_path.display())));
            }
        };
        match line.as_deref().map(serde_json::from_str) {
            Some(Ok(Event::Ready { document })) => return Ok(document),
            Some(Ok(Event::Failed { message })) => {
                // It has cleaned up; its end is only waited for.
                let _ = tokio::time::timeout(STOP_LIMIT, child.wait()).await;
                return Err(Failure::new(message));
            }
            Some(Ok(event)) => progress.show(&event),
            Some(Err(_)) => {}
            None => {
                let _ = tokio::time::timeout(STOP_LIMIT, child.wait()).await;
                return Err(Failure::new(format!("the detached process ended early; see {}", log_path.display())));
            }
        }
    }
}

async fn stop(child: &mut Child) {
    if let Some(pid) = child.id() {
        // Gone already: then there is nothing to wait for either.
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
    }
    let _ = tokio::time::timeout(STOP_LIMIT, child.wait()).await;
}
