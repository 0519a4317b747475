//! Runs a server program as the servers' user, within a time limit.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{Account, HostError};
use crate::base::Secret;

/// Environment variables that would change what server programs do.
const LIBPQ_PREFIX: &str = "PG";

/// A program about to run.
#[derive(Debug)]
pub struct Program<'a> {
    /// Path.
    pub path: &'a Path,
    /// Directory it works on, for messages.
    pub directory: &'a Path,
    /// Who runs it.
    pub account: &'a Account,
    /// Limit, after which it is killed.
    pub timeout: Duration,
    /// What opens the server that it connects to.
    pub password: Option<&'a Secret>,
}

impl Program<'_> {
    /// Runs it to its end.
    ///
    /// It gets a process group of its own, so that Ctrl-C on the terminal reaches only us; when the
    /// future is dropped it is killed.
    ///
    /// # Errors
    /// [`HostError::CommandFailed`] with what it wrote, [`HostError::Timeout`], [`HostError::DiskFull`].
    ///
    /// # Cancel safety
    /// Dropping the future kills the program; what it made stays half-made.
    pub async fn run(&self, arguments: &[&str]) -> Result<(), HostError> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = Command::new(self.path);
        command.args(arguments).current_dir("/").stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with(LIBPQ_PREFIX) {
                command.env_remove(variable);
            }
        }
        if let Some(password) = self.password {
            command.env("PGPASSWORD", password.expose());
        }
        // Messages are searched for "No space left on device".
        command.env("LC_ALL", "C");
        if self.account.is_switched {
            command.uid(self.account.uid).gid(self.account.gid);
        }
        let output = tokio::time::timeout(self.timeout, command.output()).await.map_err(|_| HostError::Timeout {
            what: name.clone(),
            directory: self.directory.to_owned(),
            seconds: self.timeout.as_secs(),
        })?;
        let output = output.map_err(|error| HostError::io("run", self.path, error))?;
        if output.status.success() {
            return Ok(());
        }
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let said = if said.trim().is_empty() { output.status.to_string() } else { last_lines(&said, 12) };
        Err(HostError::command(&name, self.directory, &said))
    }
}

/// The last lines of a text: the reason stands at the end.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}
