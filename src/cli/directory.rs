//! The data directory: where it is, who works in it, where its proxy listens.
//!
//! ```text
//! DIR/up.lock      locked while an `up` (or `down`) works in DIR; holds its pid
//! DIR/proxy.json   the running proxy: pid and address
//! DIR/store.redb   the topology
//! DIR/demo         how far the demo schema is
//! DIR/ostrakon.log what a detached `up` says
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Failure;

/// The directory that is used when none is given: `/var/lib/ostrakon` as root, else `.ostrakon` here.
pub fn usual() -> PathBuf {
    if nix::unistd::Uid::effective().is_root() {
        PathBuf::from("/var/lib/ostrakon")
    } else {
        PathBuf::from(".ostrakon")
    }
}

/// The only worker in a directory, until dropped or dead.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a directory.
    ///
    /// # Errors
    /// The pid of whoever has it.
    pub fn take(directory: &Path) -> Result<Self, Failure> {
        match Self::attempt(directory)? {
            Ok(lock) => Ok(lock),
            Err(holder) => Err(Failure::new(format!(
                "another ostrakon works in {} ({})\n  stop it with: ostrakon down --data {}",
                directory.display(),
                holder.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}")),
                directory.display()
            ))),
        }
    }

    /// Takes the lock, or tells the pid of its holder. A holder that was killed a moment ago lets go of it
    /// only when the kernel is done with it: that is waited for.
    pub fn attempt(directory: &Path) -> Result<Result<Self, Option<u32>>, Failure> {
        let deadline = Instant::now() + DYING_LIMIT;
        loop {
            match Self::attempt_once(directory)? {
                Err(Some(pid)) if is_dying(pid) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                outcome => return Ok(outcome),
            }
        }
    }

    fn attempt_once(directory: &Path) -> Result<Result<Self, Option<u32>>, Failure> {
        let path = directory.join("up.lock");
        let failure = |error| Failure::new(format!("cannot lock {}: {error}", path.display()));
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failure)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(failure)?;
                return Ok(Err(text.trim().parse().ok()));
            }
            Err(TryLockError::Error(error)) => return Err(failure(error)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failure)?;
        Ok(Ok(Self { _file: file }))
    }

    /// Takes the lock as soon as its holder lets go.
    pub async fn wait(directory: &Path, limit: Duration) -> Result<Self, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            match Self::attempt(directory)? {
                Ok(lock) => return Ok(lock),
                Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(_) => return Self::take(directory),
            }
        }
    }
}

/// How long a process that was killed may still hold what it had.
const DYING_LIMIT: Duration = Duration::from_secs(5);

/// There is no such process any more, or no more program in it.
fn is_dying(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// The running proxy of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyFile {
    /// Its process id.
    pub pid: u32,
    /// Where it listens.
    pub listen: SocketAddr,
}

impl ProxyFile {
    fn path(directory: &Path) -> PathBuf {
        directory.join("proxy.json")
    }

    /// Says where the proxy listens; removed when the result is dropped, if it is still ours.
    pub fn write(directory: &Path, listen: SocketAddr) -> Result<ProxyFileGuard, Failure> {
        let path = Self::path(directory);
        let file = Self { pid: std::process::id(), listen };
        let text = serde_json::to_string(&file).map_err(|error| Failure::new(error.to_string()))?;
        // Renamed into place: a reader never sees half a file.
        let part = directory.join("proxy.json.part");
        fs::write(&part, text)
            .and_then(|()| fs::rename(&part, &path))
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
        Ok(ProxyFileGuard { directory: directory.to_owned() })
    }

    /// Where the proxy of a directory listens, if its process lives.
    pub fn read(directory: &Path) -> Option<Self> {
        let text = fs::read_to_string(Self::path(directory)).ok()?;
        let file: Self = serde_json::from_str(&text).ok()?;
        crate::host::process::is_alive(file.pid).then_some(file)
    }
}

/// Removes `proxy.json` when dropped.
#[derive(Debug)]
pub struct ProxyFileGuard {
    directory: PathBuf,
}

impl Drop for ProxyFileGuard {
    fn drop(&mut self) {
        if ProxyFile::read(&self.directory).is_some_and(|file| file.pid == std::process::id()) {
            // A stale file is recognised by its pid.
            let _ = fs::remove_file(ProxyFile::path(&self.directory));
        }
    }
}

/// How far the demo schema is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demo {
    /// Never begun.
    Absent,
    /// Begun and perhaps interrupted.
    Loading,
    /// Whole.
    Loaded,
}

impl Demo {
    /// Reads the mark.
    pub fn read(directory: &Path) -> Self {
        match fs::read_to_string(directory.join("demo")).as_deref().map(str::trim) {
            Ok("loaded") => Self::Loaded,
            Ok(_) => Self::Loading,
            Err(_) => Self::Absent,
        }
    }

    /// Writes the mark.
    pub fn write(self, directory: &Path) -> Result<(), Failure> {
        let path = directory.join("demo");
        let text = if self == Self::Loaded { "loaded\n" } else { "loading\n" };
        fs::write(&path, text).map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_process_is_dying_and_this_one_is_not() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!is_dying(std::process::id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_dying(child.id()));
    }

    #[test]
    fn a_second_worker_learns_who_was_first() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::take(directory.path()).unwrap();
        assert_eq!(Lock::attempt(directory.path()).unwrap().unwrap_err(), Some(std::process::id()));
        drop(lock);
        Lock::take(directory.path()).unwrap();
    }

    #[test]
    fn a_proxy_that_is_gone_is_not_found() {
        let directory = tempfile::tempdir().unwrap();
        let listen = "127.0.0.1:6432".parse().unwrap();
        let guard = ProxyFile::write(directory.path(), listen).unwrap();
        assert_eq!(ProxyFile::read(directory.path()).unwrap().listen, listen);
        drop(guard);
        assert_eq!(ProxyFile::read(directory.path()), None);
        fs::write(directory.path().join("proxy.json"), r#"{"pid":4294967295,"listen":"127.0.0.1:1"}"#).unwrap();
        assert_eq!(ProxyFile::read(directory.path()), None);
    }
}
