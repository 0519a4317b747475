//! One directory of this machine and the servers in it.
//!
//! ```text
//! DIR/nodes/<node>          data directory, whole
//! DIR/nodes/<node>.making   data directory in the making
//! DIR/logs/<node>.log       what the server says
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;
use tokio::time::Instant;

use super::site::{Configured, Made, REWIND_BYTES_MIN, START_SECONDS, Site, Source, Witness};
use super::{Account, Binaries, HostError, ServerState, account, make, port, process, replication, settings};

/// What a new server takes on disk before it holds any data, with room to start.
const NEW_SERVER_BYTES: u64 = 120 << 20;

const FAST_STOP: Duration = Duration::from_secs(30);
const IMMEDIATE_STOP: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// A server that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// Node name; also the name of its directory and of its replication slot.
    pub name: String,
    /// Port on 127.0.0.1.
    pub port: u16,
}

/// What is being done for a server, for whoever shows progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `initdb` runs.
    Initialise,
    /// The primary is being copied.
    Copy,
    /// The server starts.
    Start,
    /// A replica connects to its primary.
    Stream,
}

/// How a server was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Was {
    /// Its directory was made now.
    Made,
    /// It had data and was started now.
    Started,
    /// It was running.
    Adopted,
}

/// One directory of this machine and the servers in it.
#[derive(Clone, Debug)]
pub struct Machine {
    directory: PathBuf,
    binaries: Binaries,
    account: Account,
    rewind_bytes_min: u64,
    cancelled: Arc<watch::Sender<bool>>,
}

impl Machine {
    /// Uses a directory, which is made if missing.
    ///
    /// # Errors
    /// No PostgreSQL, no user to run it, or a directory that this user cannot reach.
    pub fn open(directory: &Path, pg_bin: Option<&Path>) -> Result<Self, HostError> {
        let binaries = Binaries::find(pg_bin)?;
        let account = Account::for_servers()?;
        let absolute = std::path::absolute(directory).map_err(|error| HostError::io("use", directory, error))?;
        account.check_reach(&absolute)?;
        account::make_directory(&absolute)?;
        let directory = fs::canonicalize(directory).map_err(|error| HostError::io("use", directory, error))?;
        account.check_reach(&directory)?;
        for part in ["nodes", "logs"] {
            account.make_private_directory(&directory.join(part))?;
        }
        let cancelled = Arc::new(watch::Sender::new(false));
        Ok(Self { directory, binaries, account, rewind_bytes_min: REWIND_BYTES_MIN, cancelled })
    }

    /// The directory, absolute and without symbolic links.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The server programs in use.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Who runs the servers.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Makes every call in progress end soon with [`HostError::Cancelled`], and later ones at once.
    ///
    /// Dropping the futures instead could leave a server that was just about to start: nothing would
    /// know of it yet.
    pub fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// The result of a future, or [`HostError::Cancelled`] once [`Machine::cancel`] was called.
    async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T, HostError>>) -> Result<T, HostError> {
        let mut cancelled = self.cancelled.subscribe();
        tokio::select! {
            biased;
            _ = cancelled.wait_for(|cancelled| *cancelled) => Err(HostError::Cancelled),
            result = work => result,
        }
    }

    /// Data directory of a node.
    pub fn data_directory(&self, name: &str) -> PathBuf {
        self.directory.join("nodes").join(name)
    }

    /// Log of a node.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.directory.join("logs").join(format!("{name}.log"))
    }

    /// What is known of a node now.
    pub fn state(&self, name: &str) -> ServerState {
        state(&self.data_directory(name))
    }

    /// Checks that servers which must be made have room.
    ///
    /// # Errors
    /// [`HostError::DiskFull`].
    pub fn check_space(&self, new_servers: usize) -> Result<(), HostError> {
        let needed = NEW_SERVER_BYTES * new_servers as u64;
        let Ok(disk) = nix::sys::statvfs::statvfs(&self.directory) else { return Ok(()) };
        let free = disk.blocks_available() * disk.fragment_size();
        if free >= needed {
            return Ok(());
        }
        let detail = format!("{} MB free, {} MB needed for {new_servers} new servers", free >> 20, needed >> 20);
        Err(HostError::DiskFull { directory: self.directory.clone(), detail })
    }

    /// Checks that the port of a server that does not run yet is free.
    ///
    /// # Errors
    /// [`HostError::PortInUse`], [`HostError::WrongPort`].
    pub fn check_port(&self, spec: &ServerSpec) -> Result<(), HostError> {
        match self.state(&spec.name) {
            ServerState::Running { port, .. } if port == spec.port || port == 0 => Ok(()),
            ServerState::Running { port, .. } => Err(HostError::WrongPort {
                name: spec.name.clone(),
                directory: self.data_directory(&spec.name),
                actual: port,
                expected: spec.port,
            }),
            _ => port::check_free(port::loopback(spec.port), ""),
        }
    }

    /// Makes, starts or adopts a primary, and makes the slots of its replicas.
    ///
    /// # Errors
    /// When a server was made or started but then failed, it is stopped again.
    ///
    /// # Cancel safety
    /// Dropping the future may leave a half-made directory or a running server; calling again resumes.
    pub async fn ensure_primary(
        &self,
        spec: &ServerSpec,
        slots: &[String],
        report: &(dyn Fn(Step) + Sync),
    ) -> Result<Was, HostError> {
        let was = if self.needs_making(&spec.name).await? {
            self.check_port(spec)?;
            report(Step::Initialise);
            make::primary(&self.site(spec)).await?;
            report(Step::Start);
            self.start(spec).await?;
            Was::Made
        } else {
            self.start_or_adopt(spec, report).await?
        };
        let slotted = async {
            let client = replication::connect_within(spec, Duration::from_secs(START_SECONDS)).await?;
            replication::ensure_slots(spec, &client, slots).await
        };
        self.or_stop(spec, was, self.unless_cancelled(slotted).await).await
    }

    /// Makes, starts or adopts a replica of a running primary; one that is made is waited for until it streams.
    ///
    /// # Errors
    /// As [`Machine::ensure_primary`].
    ///
    /// # Cancel safety
    /// As [`Machine::ensure_primary`].
    pub async fn ensure_replica(
        &self,
        spec: &ServerSpec,
        primary: &ServerSpec,
        report: &(dyn Fn(Step) + Sync),
    ) -> Result<Was, HostError> {
        let was = if self.needs_making(&spec.name).await? {
            self.check_port(spec)?;
            report(Step::Copy);
            make::copy(&self.site(spec), &self.source(spec, primary), "").await?;
            report(Step::Start);
            self.start(spec).await?;
            Was::Made
        } else {
            self.start_or_adopt(spec, report).await?
        };
        // Whom it follows is decided by who leads the shard; only a new one is sure to follow this one.
        if was != Was::Made {
            return Ok(was);
        }
        report(Step::Stream);
        let limit = Duration::from_secs(START_SECONDS);
        let streams = replication::wait_streaming(primary, &spec.name, self.log_file(&spec.name), limit);
        self.or_stop(spec, was, self.unless_cancelled(streams).await).await
    }

    /// Starts a server as it is, if it does not run.
    ///
    /// # Errors
    /// As [`Machine::ensure_primary`].
    ///
    /// # Cancel safety
    /// As [`Machine::ensure_primary`].
    pub async fn revive(&self, spec: &ServerSpec) -> Result<(), HostError> {
        self.start_or_adopt(spec, &|_| {}).await.map(drop)
    }

    /// A node's directory and server.
    pub fn site(&self, spec: &ServerSpec) -> Site {
        Site {
            name: spec.name.clone(),
            directory: self.data_directory(&spec.name),
            log: self.log_file(&spec.name),
            binaries: self.binaries.clone(),
            account: self.account.clone(),
            configured: Configured::Here { port: spec.port },
            rewind_bytes_min: self.rewind_bytes_min,
            cancelled: Arc::clone(&self.cancelled),
        }
    }

    /// Directories of at least so many bytes are rewound where they can be.
    #[must_use]
    pub fn rewinding_from(self, bytes: u64) -> Self {
        Self { rewind_bytes_min: bytes, ..self }
    }

    /// Makes a node a replica of a running primary: [`Site::make_standby`].
    ///
    /// # Errors
    /// What was there before is gone.
    ///
    /// # Cancel safety
    /// Dropping the future may leave a half-made directory; calling again begins anew.
    pub async fn remake_replica(
        &self,
        spec: &ServerSpec,
        primary: &ServerSpec,
        promise: &str,
        is_still_wanted: &(dyn Fn() -> BoxFuture<'static, bool> + Send + Sync),
    ) -> Result<Made, HostError> {
        let client = replication::connect_within(primary, FAST_STOP).await?;
        replication::ensure_slots(primary, &client, std::slice::from_ref(&spec.name)).await?;
        let witness = Local { client, is_still_wanted };
        self.site(spec).make_standby(&self.source(spec, primary), promise, &witness).await
    }

    /// A primary of this machine as a standby's source.
    pub(super) fn source(&self, spec: &ServerSpec, primary: &ServerSpec) -> Source {
        let (host, user) = ("127.0.0.1".to_owned(), replication::SUPERUSER.to_owned());
        Source { host, port: primary.port, user, password: None, slot: spec.name.clone() }
    }

    /// Stops a server if it runs: fast first, immediate after a while. True when it ran.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the server stopping.
    pub async fn stop(&self, name: &str) -> Result<bool, HostError> {
        stop(&self.data_directory(name)).await
    }

    async fn needs_making(&self, name: &str) -> Result<bool, HostError> {
        let directory = self.data_directory(name);
        match self.state(name) {
            ServerState::Absent | ServerState::HalfMade => {}
            ServerState::Stopped | ServerState::Running { .. } => return Ok(false),
        }
        make::remove_half_made(&directory).await?;
        // Only an empty directory may stand in the way.
        if directory.exists() && fs::remove_dir(&directory).is_err() {
            return Err(HostError::NotOurs { directory });
        }
        Ok(true)
    }

    async fn start_or_adopt(&self, spec: &ServerSpec, report: &(dyn Fn(Step) + Sync)) -> Result<Was, HostError> {
        self.check_port(spec)?;
        if matches!(self.state(&spec.name), ServerState::Running { .. }) {
            return Ok(Was::Adopted);
        }
        report(Step::Start);
        self.check_version(&spec.name)?;
        settings::write(&self.data_directory(&spec.name), &spec.name, spec.port, &self.account)?;
        self.start(spec).await?;
        Ok(Was::Started)
    }

    fn check_version(&self, name: &str) -> Result<(), HostError> {
        let directory = self.data_directory(name);
        let path = directory.join("PG_VERSION");
        let data_version = fs::read_to_string(&path).map_err(|error| HostError::io("read", &path, error))?;
        let data_version = data_version.trim().to_owned();
        if data_version == self.binaries.version.to_string() {
            return Ok(());
        }
        let binaries = self.binaries.directory.clone();
        Err(HostError::VersionMismatch { directory, data_version, binaries, version: self.binaries.version })
    }

    async fn start(&self, spec: &ServerSpec) -> Result<(), HostError> {
        self.site(spec).start().await
    }

    /// Passes a result on; after an error stops the server, unless somebody else had started it.
    async fn or_stop(&self, spec: &ServerSpec, was: Was, result: Result<(), HostError>) -> Result<Was, HostError> {
        match result {
            Ok(()) => Ok(was),
            Err(error) => {
                if was != Was::Adopted {
                    let _ = self.stop(&spec.name).await;
                }
                Err(error)
            }
        }
    }
}

/// The primary is on this machine, too.
struct Local<'a> {
    client: tokio_postgres::Client,
    is_still_wanted: &'a (dyn Fn() -> BoxFuture<'static, bool> + Send + Sync),
}

impl Witness for Local<'_> {
    async fn checkpoint(&self) -> bool {
        replication::checkpoint(&self.client).await
    }

    async fn is_still_wanted(&self) -> bool {
        (self.is_still_wanted)().await
    }
}

/// What is known of a data directory now.
pub fn state(directory: &Path) -> ServerState {
    if let Some(file) = process::running_server(directory) {
        return ServerState::Running { pid: file.pid, port: file.port };
    }
    if directory.join("PG_VERSION").exists() {
        return ServerState::Stopped;
    }
    if make::making_path(directory).exists() { ServerState::HalfMade } else { ServerState::Absent }
}

/// The nodes of a directory by name, primaries first: stopped in this order, replicas still receive
/// what their primaries wrote last. Needs neither PostgreSQL's programs nor the store.
pub fn nodes(directory: &Path) -> Vec<(String, PathBuf)> {
    let mut nodes: Vec<(bool, String, PathBuf)> = fs::read_dir(directory.join("nodes"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("PG_VERSION").exists() && path.extension().is_none())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some((path.join("standby.signal").exists(), name, path))
        })
        .collect();
    nodes.sort();
    nodes.into_iter().map(|(_, name, path)| (name, path)).collect()
}

/// Stops the server of a data directory if one runs: fast first, immediate after a while. True when
/// one ran.
///
/// # Errors
/// [`HostError::Timeout`] when it would not end, [`HostError::Io`] when we may not signal it.
pub async fn stop(directory: &Path) -> Result<bool, HostError> {
    // A `pg_ctl` that lost its parent may be starting a server that has no file yet.
    let deadline = Instant::now() + Duration::from_secs(START_SECONDS + 10);
    while !process::started_for(directory, &["pg_ctl"]).is_empty() && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
    }
    let Some(server) = process::running_server(directory) else { return Ok(false) };
    for (signal, limit) in [(Signal::SIGINT, FAST_STOP), (Signal::SIGQUIT, IMMEDIATE_STOP)] {
        match kill(Pid::from_raw(server.pid.cast_signed()), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => return Err(HostError::io("stop the server of", directory, error.into())),
        }
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            let same = process::running_server(directory).is_some_and(|now| now.pid == server.pid);
            if !same && !process::is_alive(server.pid) {
                return Ok(true);
            }
            tokio::time::sleep(POLL).await;
        }
    }
    let seconds = (FAST_STOP + IMMEDIATE_STOP).as_secs();
    Err(HostError::Timeout { what: "stopping the server".to_owned(), directory: directory.to_owned(), seconds })
}

/// Stops a server whose data is not wanted any more: what waits for a standby would keep a fast stop waiting, too. Its
/// data may be gone already, and with it the file that says who it is.
pub(super) async fn stop_at_once(directory: &Path) -> Result<(), HostError> {
    let known = process::running_server(directory).map(|server| server.pid);
    for pid in known.map_or_else(|| process::working_in(directory), |pid| vec![pid]) {
        match kill(Pid::from_raw(pid.cast_signed()), Signal::SIGQUIT) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => return Err(HostError::io("stop the server of", directory, error.into())),
        }
    }
    let deadline = Instant::now() + IMMEDIATE_STOP;
    while !process::working_in(directory).is_empty() && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
    }
    stop(directory).await.map(drop)
}
