//! A former primary becomes a standby by taking back what nobody else has: `pg_rewind`.
//!
//! Its directory is given the name of a half-made one meanwhile: after a crash it is none that could be started.
//!
//! # Source
//! PostgreSQL documentation, "pg_rewind"; it runs crash recovery of its target by itself.

use std::fs;
use std::path::Path;

use super::command::Program;
use super::make::{COPY_TIMEOUT, finish_as, making_path, remove_half_made};
use super::site::{Configured, Site, Source};
use super::{HostError, process};

/// Rewinds the data directory of a server that does not run.
///
/// # Errors
/// What is left stands aside as half-made.
///
/// # Cancel safety
/// As after an error.
pub(super) async fn rewind(site: &Site, source: &Source, promise: &str) -> Result<(), HostError> {
    remove_half_made(&site.directory).await?;
    process::clear_stale_pid_file(&site.directory)?;
    let making = making_path(&site.directory);
    fs::rename(&site.directory, &making).map_err(|error| HostError::io("rename", &site.directory, error))?;
    let program = Program {
        path: &site.binaries.program("pg_rewind"),
        directory: &site.directory,
        account: &site.account,
        timeout: COPY_TIMEOUT,
        password: source.password.as_ref(),
    };
    let from = source.conninfo(&site.name, "dbname=postgres");
    let from = format!("--source-server={from}");
    let target = format!("--target-pgdata={}", making.display());
    let mut arguments = vec![target.as_str(), &from, "-R"];
    let config_file = match &site.configured {
        Configured::Elsewhere { config_file: Some(file), .. } => Some(format!("--config-file={}", file.display())),
        _ => None,
    };
    arguments.extend(config_file.as_deref());
    site.unless_cancelled(program.run(&arguments)).await?;
    empty(&making.join("pg_replslot"))?;
    finish_as(site, promise)
}

/// Slots of a primary that was would keep its log for ever.
fn empty(directory: &Path) -> Result<(), HostError> {
    for entry in fs::read_dir(directory).map_err(|error| HostError::io("read", directory, error))?.flatten() {
        let path = entry.path();
        fs::remove_dir_all(&path).map_err(|error| HostError::io("remove", &path, error))?;
    }
    Ok(())
}
