//! Makes data directories: whole or not at all.
//!
//! A directory is made as `<node>.making` and renamed when it is whole and on disk, so a directory
//! under its final name can be trusted. A left-over `.making` is removed and made again.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use super::command::Program;
use super::replication::SUPERUSER;
use super::site::{Site, Source};
use super::{HostError, process};

const INITDB_TIMEOUT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(10);
/// Copying takes as long as there is data; this only bounds a hang of hours.
pub(super) const COPY_TIMEOUT: Duration = Duration::from_secs(6 * 3600);

/// Where a node's directory is while it is being made.
pub fn making_path(directory: &Path) -> PathBuf {
    directory.with_extension("making")
}

/// Removes what an interrupted attempt left, and ends its programs if they still run.
///
/// `initdb` works through a server of its own, which lives in the directory and may outlast it for a
/// moment; so both are ended, and removing is tried again while something still writes there.
pub async fn remove_half_made(directory: &Path) -> Result<(), HostError> {
    let making = making_path(directory);
    let deadline = Instant::now() + ORPHAN_TIMEOUT;
    loop {
        let mut orphans = process::started_for(&making, &["initdb", "pg_basebackup", "pg_rewind"]);
        orphans.extend(process::working_in(&making));
        for pid in &orphans {
            // Gone already, or not ours to end: both show in the next round.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        let is_late = Instant::now() >= deadline;
        match fs::remove_dir_all(&making) {
            _ if !orphans.is_empty() && !is_late => {}
            _ if !orphans.is_empty() => {
                let pids = orphans.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
                return Err(HostError::Orphans { directory: making, pids });
            }
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty || is_late => {
                return Err(HostError::io("remove", &making, error));
            }
            Err(_) => {}
        }
        tokio::time::sleep(POLL).await;
    }
}

/// [`remove_half_made`] for every node of a directory.
pub async fn remove_all_half_made(directory: &Path) -> Result<(), HostError> {
    for entry in fs::read_dir(directory.join("nodes")).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "making") {
            remove_half_made(&path.with_extension("")).await?;
        }
    }
    Ok(())
}

/// Makes an empty server.
///
/// # Cancel safety
/// Dropping the future leaves a half-made directory, which the next attempt removes.
pub async fn primary(site: &Site) -> Result<(), HostError> {
    remove_half_made(&site.directory).await?;
    let made = match initdb(site, "C.UTF-8").await {
        // Systems without that locale have C, which sorts the same.
        Err(HostError::CommandFailed { output, .. }) if output.contains("locale") => {
            remove_half_made(&site.directory).await?;
            initdb(site, "C").await
        }
        made => made,
    };
    finish(site, "", made).await
}

async fn initdb(site: &Site, locale: &str) -> Result<(), HostError> {
    let making = making_path(&site.directory);
    let program = Program {
        path: &site.binaries.program("initdb"),
        directory: &site.directory,
        account: &site.account,
        timeout: INITDB_TIMEOUT,
        password: None,
    };
    let locale = format!("--locale={locale}");
    let path = making.to_string_lossy();
    let arguments = ["-D", &path, "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", &locale, "--data-checksums"];
    site.unless_cancelled(program.run(&arguments)).await
}

/// Makes a replica by copying its source, through its slot.
///
/// # Cancel safety
/// As [`primary`].
pub async fn copy(site: &Site, source: &Source, promise: &str) -> Result<(), HostError> {
    remove_half_made(&site.directory).await?;
    let program = Program {
        path: &site.binaries.program("pg_basebackup"),
        directory: &site.directory,
        account: &site.account,
        timeout: COPY_TIMEOUT,
        password: source.password.as_ref(),
    };
    // The directory above may not be the servers' user's.
    site.account.make_private_directory(&making_path(&site.directory))?;
    // -R keeps what stands here, so the replica will present itself by its node name.
    let from = source.conninfo(&site.name, "");
    let path = making_path(&site.directory);
    let path = path.to_string_lossy();
    let arguments = ["-d", &from, "-D", &path, "-R", "-X", "stream", "-S", &source.slot, "-c", "fast"];
    let made = site.unless_cancelled(program.run(&arguments)).await;
    finish(site, promise, made).await
}

/// Writes our settings and gives the directory its name; after a failure removes what is there.
async fn finish(site: &Site, promise: &str, made: Result<(), HostError>) -> Result<(), HostError> {
    let made = made.and_then(|()| finish_as(site, promise));
    if made.is_err() {
        // The first error tells more than one of cleaning up; what stays is removed next time.
        let _ = remove_half_made(&site.directory).await;
    }
    made
}

/// Writes what the server has promised and our settings, and gives the directory its name.
pub(super) fn finish_as(site: &Site, promise: &str) -> Result<(), HostError> {
    let (making, directory) = (making_path(&site.directory), &site.directory);
    if !promise.is_empty() {
        write_promise(&making.join("postgresql.auto.conf"), promise)?;
    }
    site.configure(&making)?;
    fs::rename(&making, directory).map_err(|error| HostError::io("rename", &making, error))?;
    sync_directory(directory.parent().unwrap_or(directory))
}

/// What was copied there is its source's promise; of several the last one is in force.
fn write_promise(file: &Path, promise: &str) -> Result<(), HostError> {
    let opened = fs::OpenOptions::new().append(true).create(true).open(file);
    let mut file = opened.map_err(|error| HostError::io("open", file, error))?;
    writeln!(file, "ostrakon.promised = '{promise}'")
        .and_then(|()| file.sync_all())
        .map_err(|error| HostError::io("write", Path::new("postgresql.auto.conf"), error))
}

fn sync_directory(directory: &Path) -> Result<(), HostError> {
    fs::File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(|error| HostError::io("write out", directory, error))
}

impl Source {
    /// How libpq reaches it; it takes the password from the environment, and keeps it in what `-R` writes.
    pub(super) fn conninfo(&self, name: &str, more: &str) -> String {
        let word = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
        format!(
            "host={} port={} user={} application_name={} {more}",
            word(&self.host),
            self.port,
            word(&self.user),
            word(name)
        )
    }
}
