//! What can go wrong with servers of this machine: what happened, where, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A server could not be made, started, stopped or found.
#[derive(Debug, Error)]
pub enum HostError {
    /// No directory with the server programs.
    #[error(
        "PostgreSQL is not installed here (looked in {looked_in})\n  \
         install it (Debian, Ubuntu: apt-get install postgresql) or name its directory with --pg-bin DIR"
    )]
    NoBinaries {
        /// Places that were searched.
        looked_in: String,
    },
    /// The directory lacks a program.
    #[error(
        "{} has no program {program}\n  name the directory of a whole PostgreSQL server with --pg-bin DIR \
         (Debian, Ubuntu: apt-get install postgresql)",
        directory.display()
    )]
    MissingProgram {
        /// Where it was expected.
        directory: PathBuf,
        /// Its name.
        program: &'static str,
    },
    /// The server is too old, or did not say what it is.
    #[error("PostgreSQL in {} is {version:?}; version 14 or newer is needed", directory.display())]
    UnsupportedVersion {
        /// Where it is.
        directory: PathBuf,
        /// What it said.
        version: String,
    },
    /// PostgreSQL refuses to run as root, and there is nobody else to run it.
    #[error(
        "PostgreSQL does not run as root, and this machine has no user named postgres\n  \
         install the distribution's PostgreSQL, or run this command as an ordinary user"
    )]
    NoAccount,
    /// The server's user cannot get to the directory.
    #[error(
        "the user {user} cannot enter {}, so it cannot reach {}\n  \
         allow it with `chmod o+x {}`, or choose another directory with --data (as root: /var/lib/ostrakon)",
        barrier.display(), directory.display(), barrier.display()
    )]
    Unreachable {
        /// Who cannot.
        user: String,
        /// The first directory on the way that stops it.
        barrier: PathBuf,
        /// Where it was to go.
        directory: PathBuf,
    },
    /// Somebody else listens on the port.
    #[error("port {port} of {address} is in use by {owner}\n  stop that program{advice}")]
    PortInUse {
        /// Address.
        address: String,
        /// Port.
        port: u16,
        /// Process that listens, as far as it can be told.
        owner: String,
        /// What else can be done, beginning with a comma, or nothing.
        advice: &'static str,
    },
    /// No port is free.
    #[error("no free port between {from} and {to} on 127.0.0.1")]
    NoFreePort {
        /// First port that was tried.
        from: u16,
        /// Last port that was tried.
        to: u16,
    },
    /// The disk is full, or too full to begin.
    #[error("not enough disk space for {}: {detail}\n  free some space or choose another directory with --data", directory.display())]
    DiskFull {
        /// Where.
        directory: PathBuf,
        /// What was needed, or what the program said.
        detail: String,
    },
    /// The directory holds something, but not a server.
    #[error(
        "{} is not empty and is no PostgreSQL data directory\n  move it away or choose another directory with --data",
        directory.display()
    )]
    NotOurs {
        /// Which directory.
        directory: PathBuf,
    },
    /// The server's major version is not that of its data.
    #[error(
        "{} was made by PostgreSQL {data_version}, but {} has version {version}\n  name the right one with --pg-bin DIR",
        directory.display(), binaries.display()
    )]
    VersionMismatch {
        /// Data directory.
        directory: PathBuf,
        /// Its version.
        data_version: String,
        /// Programs in use.
        binaries: PathBuf,
        /// Their version.
        version: u32,
    },
    /// The running server is not the one that is expected.
    #[error(
        "server {name} ({}) runs on port {actual}, not on port {expected}\n  \
         stop it (pg_ctl -D {} stop) and try again",
        directory.display(), directory.display()
    )]
    WrongPort {
        /// Node.
        name: String,
        /// Its data directory.
        directory: PathBuf,
        /// Port that it uses.
        actual: u16,
        /// Port that it should use.
        expected: u16,
    },
    /// Processes of a server that died are still there.
    #[error(
        "processes of a server that died are still working in {} (pid {pids})\n  wait until they end, or kill them, and try again",
        directory.display()
    )]
    Orphans {
        /// Data directory.
        directory: PathBuf,
        /// Their ids.
        pids: String,
    },
    /// A program failed.
    #[error("{program} failed for {}: {output}", directory.display())]
    CommandFailed {
        /// The program.
        program: String,
        /// The directory it worked on.
        directory: PathBuf,
        /// What it said.
        output: String,
    },
    /// A program or server took too long.
    #[error("{what} took more than {seconds} s ({})", directory.display())]
    Timeout {
        /// What was waited for.
        what: String,
        /// The directory it was about.
        directory: PathBuf,
        /// The limit.
        seconds: u64,
    },
    /// A server refused a statement or could not be reached.
    #[error("server {name} on port {port}: {message}")]
    Sql {
        /// Node.
        name: String,
        /// Port.
        port: u16,
        /// What went wrong.
        message: String,
    },
    /// Another node leads by now.
    #[error("another term has begun; {} is half-made", directory.display())]
    Overtaken {
        /// The data directory.
        directory: PathBuf,
    },
    /// Asked to stop before it was done.
    #[error("stopped before it was done")]
    Cancelled,
    /// A file or directory could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl HostError {
    /// An error of a file operation; a full disk is told apart.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::StorageFull {
            return Self::DiskFull { directory: path.to_owned(), detail: source.to_string() };
        }
        Self::Io { action, path: path.to_owned(), source }
    }

    /// An error of a program by what it said; a full disk is told apart.
    pub fn command(program: &str, directory: &Path, output: &str) -> Self {
        if output.contains("No space left on device") {
            return Self::DiskFull {
                directory: directory.to_owned(),
                detail: format!("{program} says \"No space left on device\""),
            };
        }
        Self::CommandFailed {
            program: program.to_owned(),
            directory: directory.to_owned(),
            output: output.trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_from_other_failures() {
        let output = "initdb: error: could not write to file \"x\": No space left on device";
        assert!(matches!(HostError::command("initdb", Path::new("/d"), output), HostError::DiskFull { .. }));
        assert!(matches!(HostError::command("initdb", Path::new("/d"), "other"), HostError::CommandFailed { .. }));
        let error = io::Error::from(io::ErrorKind::StorageFull);
        assert!(matches!(HostError::io("write", Path::new("/d"), error), HostError::DiskFull { .. }));
    }
}
