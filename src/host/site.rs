//! One data directory and its server: start, make a standby of it by whatever is quickest.
//!
//! A directory that is worked on has the name `<directory>.making`, so one under its final name can be trusted: what was
//! interrupted, a copy or a rewind, is thrown away and copied.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::command::{Program, last_lines};
use super::make::making_path;
use super::{Account, Binaries, HostError, ServerState, machine, make, process, rewind, settings};
use crate::base::Secret;

pub(super) const START_SECONDS: u64 = 60;
/// Below it a copy is quicker than a rewind, whose time goes into writing the directory out (45 MB: 2.3 s and 2.4 to 9.6 s).
pub const REWIND_BYTES_MIN: u64 = 512 << 20;

/// Whose settings a server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Configured {
    /// Ours: they are written before it starts.
    Here {
        /// Port on 127.0.0.1.
        port: u16,
    },
    /// Somebody else's.
    Elsewhere {
        /// Settings on its command line, as `name=value`.
        options: Vec<String>,
        /// Where its configuration file is, if not in the data directory.
        config_file: Option<PathBuf>,
    },
}

/// One data directory and how its server runs.
#[derive(Clone, Debug)]
pub struct Site {
    /// The node.
    pub name: String,
    /// The data directory.
    pub directory: PathBuf,
    /// What the server says.
    pub log: PathBuf,
    /// The server programs.
    pub binaries: Binaries,
    /// Who runs it.
    pub account: Account,
    /// Whose settings it has.
    pub configured: Configured,
    /// A directory of at least so many bytes is rewound where it can be.
    pub rewind_bytes_min: u64,
    /// Once true, calls in progress end with [`HostError::Cancelled`].
    pub cancelled: Arc<watch::Sender<bool>>,
}

/// The server that a standby is made of.
#[derive(Clone, Debug)]
pub struct Source {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// A role that may replicate.
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// The slot that keeps what the standby needs; it is there.
    pub slot: String,
}

/// How a standby was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It was one, and was started.
    Started,
    /// What had gone another way was taken back.
    Rewound,
    /// It was copied.
    Copied,
}

/// What making a standby needs of those who know the cluster.
pub trait Witness: Send + Sync {
    /// Has the source write a checkpoint on its own timeline: before that `pg_rewind` takes both for one timeline.
    fn checkpoint(&self) -> impl Future<Output = bool> + Send;

    /// Whether the source still leads under the term under which this was asked for. Asked after what was there is gone:
    /// with it went its promise, and from then on nobody may have counted on that.
    fn is_still_wanted(&self) -> impl Future<Output = bool> + Send;
}

impl Site {
    /// What is known of it now.
    pub fn state(&self) -> ServerState {
        machine::state(&self.directory)
    }

    /// It is a standby when it starts.
    pub fn is_standby(&self) -> bool {
        self.directory.join("standby.signal").exists()
    }

    /// Nothing is there that could be lost.
    pub fn is_empty(&self) -> bool {
        matches!(self.state(), ServerState::Absent | ServerState::HalfMade)
    }

    /// Processes work in it, whether it has data or not.
    pub fn has_processes(&self) -> bool {
        !process::working_in(&self.directory).is_empty()
    }

    /// Makes every call in progress end soon.
    pub fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// The result of a future, or [`HostError::Cancelled`].
    pub(super) async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, HostError>>,
    ) -> Result<T, HostError> {
        let mut cancelled = self.cancelled.subscribe();
        tokio::select! {
            biased;
            _ = cancelled.wait_for(|cancelled| *cancelled) => Err(HostError::Cancelled),
            result = work => result,
        }
    }

    /// Starts the server as it is.
    ///
    /// # Errors
    /// With what it said; it does not run then.
    ///
    /// # Cancel safety
    /// Dropped, it may be starting.
    pub async fn start(&self) -> Result<(), HostError> {
        if *self.cancelled.borrow() {
            return Err(HostError::Cancelled);
        }
        process::clear_stale_pid_file(&self.directory)?;
        let log_before = fs::metadata(&self.log).map_or(0, |metadata| metadata.len());
        let program = Program {
            path: &self.binaries.program("pg_ctl"),
            directory: &self.directory,
            account: &self.account,
            timeout: Duration::from_secs(START_SECONDS + 10),
            password: None,
        };
        let seconds = START_SECONDS.to_string();
        let (path, log_path) = (self.directory.to_string_lossy(), self.log.to_string_lossy());
        let options = self.options();
        let mut arguments = vec!["start", "-D", &path, "-l", &log_path, "-w", "-t", &seconds, "-s"];
        if !options.is_empty() {
            arguments.extend(["-o", &options]);
        }
        let Err(error) = program.run(&arguments).await else { return Ok(()) };
        // It may still be starting; nobody waits for it any more.
        let _ = machine::stop(&self.directory).await;
        match (error, log_since(&self.log, log_before)) {
            (HostError::CommandFailed { output, .. }, Some(said)) => {
                Err(HostError::command("pg_ctl start", &self.directory, &format!("{output}\n{}", last_lines(&said, 8))))
            }
            (error, _) => Err(error),
        }
    }

    /// The same, listening on a port, where its settings are not ours.
    #[must_use]
    pub fn listening(&self, port: Option<u16>) -> Self {
        let mut site = self.clone();
        if let (Configured::Elsewhere { options, .. }, Some(port)) = (&mut site.configured, port) {
            options.insert(0, format!("port={port}"));
        }
        site
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// It would not end.
    ///
    /// # Cancel safety
    /// Dropped, it is stopping.
    pub async fn stop(&self) -> Result<bool, HostError> {
        machine::stop(&self.directory).await
    }

    /// Stops it without waiting for anybody: what waits for a standby would keep a fast stop waiting, too.
    ///
    /// # Errors
    /// It would not end.
    ///
    /// # Cancel safety
    /// Dropped, it is stopping.
    pub async fn stop_at_once(&self) -> Result<(), HostError> {
        machine::stop_at_once(&self.directory).await
    }

    /// Makes a standby of the source, which streams under the node's plain name: what copies data confirms it, too, and is
    /// not to count. A large former primary is rewound; what cannot be is thrown away and copied. `promise` is what it
    /// has promised from then on.
    ///
    /// # Errors
    /// What was there before is gone, or stands aside as half-made.
    ///
    /// # Cancel safety
    /// Dropped, calling again begins anew.
    pub async fn make_standby(
        &self,
        source: &Source,
        promise: &str,
        witness: &impl Witness,
    ) -> Result<Made, HostError> {
        self.stop_at_once().await?;
        self.check_ours()?;
        let may_rewind = self.state() == ServerState::Stopped && !self.is_standby() && self.is_large();
        let is_rewound = may_rewind && witness.checkpoint().await && {
            let rewound = rewind::rewind(self, source, promise).await;
            if matches!(rewound, Err(HostError::Cancelled)) {
                return Err(HostError::Cancelled);
            }
            rewound.inspect_err(|error| tracing::warn!(node = self.name, %error, "cannot be rewound")).is_ok()
        };
        if !is_rewound {
            match fs::remove_dir_all(&self.directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(HostError::io("remove", &self.directory, error));
                }
                _ => {}
            }
            make::copy(self, source, promise).await?;
        }
        if !witness.is_still_wanted().await {
            // As half-made: nobody starts it as it is.
            let making = making_path(&self.directory);
            fs::rename(&self.directory, &making).map_err(|error| HostError::io("rename", &self.directory, error))?;
            return Err(HostError::Overtaken { directory: self.directory.clone() });
        }
        self.start().await?;
        Ok(if is_rewound { Made::Rewound } else { Made::Copied })
    }

    /// What is thrown away has to be a server's, or what is left of one.
    fn check_ours(&self) -> Result<(), HostError> {
        let mut entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let is_servers =
            ["PG_VERSION", "base", "global", "pg_wal"].iter().any(|part| self.directory.join(part).exists());
        if is_servers || entries.next().is_none() {
            return Ok(());
        }
        Err(HostError::NotOurs { directory: self.directory.clone() })
    }

    /// Settings on the command line, for the shell that `pg_ctl` uses.
    fn options(&self) -> String {
        let Configured::Elsewhere { options, config_file } = &self.configured else { return String::new() };
        let file = config_file.iter().map(|file| format!("config_file={}", file.display()));
        let quoted = file.chain(options.iter().cloned()).map(|text| format!("-c '{}'", text.replace('\'', "'\\''")));
        quoted.collect::<Vec<_>>().join(" ")
    }

    /// Writes our settings where they are ours.
    pub(super) fn configure(&self, directory: &Path) -> Result<(), HostError> {
        match self.configured {
            Configured::Here { port } => settings::write(directory, &self.name, port, &self.account),
            Configured::Elsewhere { .. } => Ok(()),
        }
    }

    fn is_large(&self) -> bool {
        fn bytes(directory: &Path, left: u64) -> u64 {
            let mut sum = 0;
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                sum += if metadata.is_dir() { bytes(&entry.path(), left.saturating_sub(sum)) } else { metadata.len() };
                if sum >= left {
                    break;
                }
            }
            sum
        }
        bytes(&self.directory.join("base"), self.rewind_bytes_min) >= self.rewind_bytes_min
    }
}

fn log_since(log: &Path, offset: u64) -> Option<String> {
    let mut file = fs::File::open(log).ok()?;
    file.seek(SeekFrom::Start(offset)).ok()?;
    let mut said = Vec::new();
    file.take(64 << 10).read_to_end(&mut said).ok()?;
    Some(String::from_utf8_lossy(&said).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_a_shell() {
        let site = Site {
            name: "s1a".to_owned(),
            directory: "/data".into(),
            log: "/log".into(),
            binaries: Binaries { directory: "/bin".into(), version: 15 },
            account: Account { name: "postgres".to_owned(), uid: 1, gid: 1, is_switched: false },
            configured: Configured::Elsewhere {
                options: vec!["port=5433".to_owned(), "cluster_name=it's".to_owned()],
                config_file: Some("/etc/p g.conf".into()),
            },
            rewind_bytes_min: REWIND_BYTES_MIN,
            cancelled: Arc::new(watch::Sender::new(false)),
        };
        assert_eq!(site.options(), r"-c 'config_file=/etc/p g.conf' -c 'port=5433' -c 'cluster_name=it'\''s'");
    }
}
