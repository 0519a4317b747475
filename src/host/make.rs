//! Makes data directories: whole or not at all.
//!
//! A directory is made as `<node>.making` and renamed when it is whole and on disk, so a directory
//! under its final name can be trusted. A left-over `.making` is removed and made again.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use super::command::Program;
use super::replication::SUPERUSER;
use super::{HostError, Machine, ServerSpec, process, settings};

const INITDB_TIMEOUT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(10);
/// Copying takes as long as there is data; this only bounds a hang of hours.
const COPY_TIMEOUT: Duration = Duration::from_secs(6 * 3600);

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
        let mut orphans = process::started_for(&making, &["initdb", "pg_basebackup"]);
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
pub async fn primary(machine: &Machine, spec: &ServerSpec) -> Result<(), HostError> {
    let directory = machine.data_directory(&spec.name);
    remove_half_made(&directory).await?;
    let made = match initdb(machine, &directory, "C.UTF-8").await {
        // Systems without that locale have C, which sorts the same.
        Err(HostError::CommandFailed { output, .. }) if output.contains("locale") => {
            remove_half_made(&directory).await?;
            initdb(machine, &directory, "C").await
        }
        made => made,
    };
    finish(machine, spec, &directory, made).await
}

async fn initdb(machine: &Machine, directory: &Path, locale: &str) -> Result<(), HostError> {
    let making = making_path(directory);
    let program = Program {
        path: &machine.binaries().program("initdb"),
        directory,
        account: machine.account(),
        timeout: INITDB_TIMEOUT,
    };
    let locale = format!("--locale={locale}");
    let path = making.to_string_lossy();
    let arguments = ["-D", &path, "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", &locale, "--data-checksums"];
    machine.unless_cancelled(program.run(&arguments)).await
}

/// Makes a replica by copying its primary, through the slot of the replica's name.
///
/// # Cancel safety
/// As [`primary`].
pub async fn replica(machine: &Machine, spec: &ServerSpec, primary: &ServerSpec) -> Result<(), HostError> {
    let directory = machine.data_directory(&spec.name);
    remove_half_made(&directory).await?;
    let program = Program {
        path: &machine.binaries().program("pg_basebackup"),
        directory: &directory,
        account: machine.account(),
        timeout: COPY_TIMEOUT,
    };
    // -R keeps what stands here, so the replica will present itself by its node name.
    let source = format!("host=127.0.0.1 port={} user={SUPERUSER} application_name={}", primary.port, spec.name);
    let path = making_path(&directory);
    let path = path.to_string_lossy();
    let arguments = ["-d", &source, "-D", &path, "-R", "-X", "stream", "-S", &spec.name, "-c", "fast"];
    let made = machine.unless_cancelled(program.run(&arguments)).await;
    finish(machine, spec, &directory, made).await
}

/// Writes our settings and gives the directory its name; after a failure removes what is there.
async fn finish(
    machine: &Machine,
    spec: &ServerSpec,
    directory: &Path,
    made: Result<(), HostError>,
) -> Result<(), HostError> {
    let making = making_path(directory);
    let made = made
        .and_then(|()| settings::write(&making, &spec.name, spec.port, machine.account()))
        .and_then(|()| fs::rename(&making, directory).map_err(|error| HostError::io("rename", &making, error)))
        .and_then(|()| sync_directory(directory.parent().unwrap_or(directory)));
    if made.is_err() {
        // The first error tells more than one of cleaning up; what stays is removed next time.
        let _ = remove_half_made(directory).await;
    }
    made
}

fn sync_directory(directory: &Path) -> Result<(), HostError> {
    fs::File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(|error| HostError::io("write out", directory, error))
}
