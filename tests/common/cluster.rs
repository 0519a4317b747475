//! Throwaway PostgreSQL servers and the real binary between them and the test.
//!
//! Servers are copies of one initialised data directory (initdb takes seconds, a copy a tenth), run
//! without fsync on free loopback ports, and end with the process that started them. Everything is
//! stopped by process id on drop.
#![allow(dead_code, missing_docs)]

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};

use crate::raw::Raw;

#[path = "port.rs"]
mod port;
pub use port::free_port;

/// How long a server or the proxy may take to answer first.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Directory of PostgreSQL's programs: `OSTRAKON_PG_BIN`, or the newest of the distribution's.
pub fn pg_bin() -> PathBuf {
    if let Ok(directory) = std::env::var("OSTRAKON_PG_BIN") {
        return directory.into();
    }
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            let bin = entry.path().join("bin");
            bin.join("initdb").exists().then_some((version, bin))
        })
        .collect();
    found.sort();
    let (_, newest) = found.pop().expect("no PostgreSQL in /usr/lib/postgresql; set OSTRAKON_PG_BIN");
    newest
}

/// Who runs the servers: `postgres` when the tests run as root, which PostgreSQL refuses to.
pub fn server_user() -> Option<(u32, u32)> {
    if !Uid::effective().is_root() {
        return None;
    }
    let user = User::from_name("postgres").unwrap().expect("a user postgres is needed to test as root");
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

/// A command that runs as the servers' user and is told to stop when its parent thread ends.
fn as_server(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/tmp").stdin(Stdio::null());
    command
}

/// The same for other tests.
pub fn as_servers(program: &Path) -> Command {
    as_server(program)
}

/// A directory under /tmp that the servers' user owns, removed on drop.
pub fn server_directory(name: &str) -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix(&format!("ostrakon-{name}-")).tempdir_in("/tmp").unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    give_to_server(directory.path());
    directory
}

/// Makes a file or directory the servers' user's.
pub fn give_to_server(path: &Path) {
    if let Some((uid, gid)) = server_user() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

/// An initialised data directory with role and database `app`, made once on this machine.
pub fn template() -> PathBuf {
    let bin = pg_bin();
    let tag = bin.to_string_lossy().replace('/', "_");
    let base = PathBuf::from(format!("/tmp/ostrakon-template-{}{tag}", Uid::effective()));
    let lock = OpenOptions::new().create(true).append(true).open(base.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let data = base.join("data");
    if base.join("ready").exists() {
        return data;
    }
    let _ = fs::remove_dir_all(&base);
    fs::create_dir_all(&base).unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
    if let Some((uid, gid)) = server_user() {
        chown(&base, Some(uid), Some(gid)).unwrap();
    }
    run(as_server(&bin.join("initdb")).arg("-D").arg(&data).args([
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "--no-sync",
    ]));
    let script = base.join("roles.sql");
    fs::write(&script, "CREATE ROLE app LOGIN\nCREATE DATABASE app OWNER app\n").unwrap();
    let input = File::open(&script).unwrap();
    run(as_server(&bin.join("postgres")).args(["--single", "-F", "-D"]).arg(&data).arg("postgres").stdin(input));
    fs::write(base.join("ready"), "").unwrap();
    data
}

/// A data directory with role and database `app`, for a server that somebody else starts.
pub fn make_data(data: &Path) {
    run(Command::new("cp").arg("-a").arg(template()).arg(data));
}

/// Runs a command that has to succeed and gives its output.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

/// Whether a process with this id is there (a zombie is not).
pub fn is_alive(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !matches!(stat.rsplit(") ").next().and_then(|rest| rest.chars().next()), Some('Z' | 'X')),
        Err(_) => false,
    }
}

/// Waits until the claim holds; says whether it did.
pub fn eventually(patience: Duration, mut claim: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if claim() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One PostgreSQL server.
pub struct Server {
    pub name: String,
    pub port: u16,
    child: Child,
    directory: tempfile::TempDir,
}

impl Server {
    /// Starts it; [`Server::wait`] waits until it answers.
    pub fn start(name: &str) -> Self {
        Self::start_with_hba(name, None)
    }

    /// The same with a pg_hba.conf of its own, in which `postgres` should stay trusted.
    pub fn start_with_hba(name: &str, hba: Option<&str>) -> Self {
        let directory = server_directory(name);
        let data = directory.path().join("data");
        run(Command::new("cp").arg("-a").arg(template()).arg(&data));
        if let Some(hba) = hba {
            fs::write(data.join("pg_hba.conf"), hba).unwrap();
        }
        Self::launch(name, directory, &[])
    }

    /// Starts a replica of another server, with these further settings.
    pub fn start_replica(name: &str, of: &Self, settings: &[&str]) -> Self {
        let directory = server_directory(name);
        let data = directory.path().join("data");
        run(as_server(&pg_bin().join("pg_basebackup"))
            .args(["-h", "127.0.0.1", "-U", "postgres", "-c", "fast", "-X", "stream", "-R", "--no-sync", "-p"])
            .arg(of.port.to_string())
            .arg("-D")
            .arg(&data));
        Self::launch(name, directory, settings)
    }

    fn launch(name: &str, directory: tempfile::TempDir, settings: &[&str]) -> Self {
        let data = directory.path().join("data");
        let port = free_port();
        let log = File::create(directory.path().join("log")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "INT"]);
        if let Some((uid, gid)) = server_user() {
            command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
        }
        command.arg(pg_bin().join("postgres")).arg("-D").arg(&data).current_dir("/tmp");
        for setting in [
            format!("port={port}").as_str(),
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "full_page_writes=off",
            "synchronous_commit=off",
            "max_prepared_transactions=100",
            "max_connections=400",
            "shared_buffers=32MB",
            "autovacuum=off",
            "timezone=UTC",
            "datestyle=ISO, MDY",
            "log_timezone=UTC",
        ] {
            command.args(["-c", setting]);
        }
        settings.iter().for_each(|setting| _ = command.args(["-c", setting]));
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Self { name: name.into(), port, child, directory }
    }

    /// Waits until it answers.
    pub fn wait(&mut self) {
        let end = Instant::now() + START_PATIENCE;
        loop {
            if Raw::connect(self.port, "postgres", "app").is_ok() {
                return;
            }
            if Instant::now() > end || matches!(self.child.try_wait(), Ok(Some(_))) {
                let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
                panic!("server {} does not start:\n{log}", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts several and waits for all.
    pub fn start_all(names: &[String]) -> Vec<Self> {
        let mut servers: Vec<Self> = names.iter().map(|name| Self::start(name)).collect();
        servers.iter_mut().for_each(Self::wait);
        servers
    }

    /// A session as the application's role.
    pub fn app(&self) -> Raw {
        Raw::connect(self.port, "app", "app").unwrap()
    }

    /// A session as superuser in the application's database.
    pub fn superuser(&self) -> Raw {
        Raw::connect(self.port, "postgres", "app").unwrap()
    }

    /// The server's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        signal(self.child.id(), Signal::SIGQUIT);
        let _ = self.child.wait();
    }
}

/// The built binary.
pub fn ostrakon() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
    command.env("OSTRAKON_LOG", "info").env("RUST_LOG", "info").stdin(Stdio::null());
    command
}

/// A running `ostrakon serve`.
pub struct Proxy {
    child: Child,
    log: PathBuf,
}

impl Proxy {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it without warning.
    pub fn kill_9(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        signal(self.child.id(), Signal::SIGTERM);
        let child = &mut self.child;
        if !eventually(Duration::from_secs(10), || matches!(child.try_wait(), Ok(Some(_)))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the proxy's last words ---");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Where a table's rows live, as written in the configuration.
#[derive(Clone, Debug)]
pub enum Placement {
    Key(&'static [&'static str]),
    Reference,
    Single,
}

/// Shards that exist already, one server to compare with, and `ostrakon serve` before the shards.
pub struct Cluster {
    pub port: u16,
    pub proxy: Option<Proxy>,
    pub shards: Vec<Server>,
    pub oracle: Server,
    directory: tempfile::TempDir,
}

impl Cluster {
    /// Starts the servers and writes the configuration; [`Cluster::start_proxy`] starts the proxy.
    pub fn without_proxy(shards: usize, tables: &[(&str, Placement)]) -> Self {
        let names: Vec<String> =
            (1..=shards).map(|n| format!("shard{n}")).chain(std::iter::once("oracle".to_owned())).collect();
        let mut servers = Server::start_all(&names);
        let oracle = servers.pop().unwrap();
        let directory = tempfile::Builder::new().prefix("ostrakon-proxy-").tempdir_in("/tmp").unwrap();
        let cluster = Self { port: free_port(), proxy: None, shards: servers, oracle, directory };
        fs::write(cluster.config(), cluster.config_text(tables)).unwrap();
        cluster
    }

    /// Servers and proxy, ready.
    pub fn start(shards: usize, tables: &[(&str, Placement)]) -> Self {
        let mut cluster = Self::without_proxy(shards, tables);
        cluster.start_proxy();
        cluster
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("ostrakon.toml")
    }

    /// The proxy's own data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn config_text(&self, tables: &[(&str, Placement)]) -> String {
        let mut text = String::new();
        let _ = write!(
            text,
            "[proxy]\nlisten = \"127.0.0.1:{}\"\ndata = \"{}\"\ndatabase = \"app\"\n\n[control]\nuser = \"postgres\"\n\n[[users]]\nname = \"app\"\n",
            self.port,
            self.data().display()
        );
        for server in &self.shards {
            let _ = write!(
                text,
                "\n[[shards]]\nname = \"{0}\"\n\n[[shards.nodes]]\nname = \"{0}-a\"\nhost = \"127.0.0.1\"\nport = {1}\nrole = \"primary\"\n",
                server.name, server.port
            );
        }
        for (name, placement) in tables {
            let _ = write!(text, "\n[[tables]]\nname = \"{name}\"\n");
            let _ = match placement {
                Placement::Key(columns) => writeln!(text, "key = {columns:?}"),
                Placement::Reference => writeln!(text, "reference = true"),
                Placement::Single => writeln!(text, "single = true"),
            };
        }
        text
    }

    /// Starts `ostrakon serve` and waits until it answers a statement.
    pub fn start_proxy(&mut self) {
        self.launch_proxy();
        self.await_proxy().unwrap();
    }

    /// Starts `ostrakon serve`; gives its process id.
    pub fn launch_proxy(&mut self) -> u32 {
        fs::create_dir_all(self.data()).unwrap();
        let log = self.directory.path().join("log");
        let file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        // Ends with this thread, as the servers do, when the test is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_ostrakon"), "serve", "--config"])
            .arg(self.config())
            .env("OSTRAKON_LOG", "info")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let pid = child.id();
        self.proxy = Some(Proxy { child, log });
        pid
    }

    /// Waits until the proxy answers a statement.
    pub fn await_proxy(&mut self) -> Result<(), String> {
        let end = Instant::now() + START_PATIENCE;
        loop {
            let answered = Raw::connect(self.port, "app", "app").and_then(|mut raw| raw.simple("SELECT 1"));
            if answered.as_ref().is_ok_and(|reply| reply.fault().is_none()) {
                return Ok(());
            }
            let proxy = self.proxy.as_mut().expect("a launched proxy");
            let ended = proxy.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() >= end {
                return Err(format!("the proxy does not serve ({ended:?}): {answered:?}"));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Ends the proxy in order, when there is one.
    pub fn stop_proxy(&mut self) {
        self.proxy = None;
    }

    /// A proxy that knows nothing but these tables, on the same port.
    pub fn start_anew(&mut self, tables: &[(&str, Placement)]) {
        self.stop_proxy();
        let _ = fs::remove_dir_all(self.data());
        fs::write(self.config(), self.config_text(tables)).unwrap();
        self.start_proxy();
    }

    /// Ends the proxy with SIGKILL.
    pub fn kill_proxy(&mut self) {
        self.proxy.take().expect("a running proxy").kill_9();
    }

    /// A session through the proxy.
    pub fn app(&self) -> Raw {
        Raw::connect(self.port, "app", "app").unwrap()
    }

    /// Address of the admin database, for the command line's `--connect`.
    pub fn admin_url(&self) -> String {
        format!("postgres://127.0.0.1:{}/ostrakon", self.port)
    }

    /// Runs a command of `ostrakon` against the running proxy.
    pub fn command(&self, arguments: &[&str]) -> String {
        run(ostrakon().args(arguments).args(["--connect", &self.admin_url()]))
    }
}

/// A program that runs beside the test, stopped by process id on drop.
pub struct Beside(pub Child);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A whole cluster made by `ostrakon up --detach`, taken down by `ostrakon down` on drop.
pub struct Up {
    pub directory: tempfile::TempDir,
    pub port: u16,
    /// New clusters look for free node ports at the same place: one at a time, whatever runs the tests.
    _turn: File,
}

impl Up {
    /// Runs `up --detach` with these further arguments until it returns.
    pub fn start(shards: usize, replicas: usize, further: &[&str]) -> Self {
        let up = Self::prepare();
        let mut command = up.up_command(shards, replicas);
        run(command.args(further).arg("--detach"));
        up
    }

    /// Directory and port only.
    pub fn prepare() -> Self {
        let turn = format!("/tmp/ostrakon-up-tests-{}.lock", Uid::effective());
        let turn = OpenOptions::new().create(true).append(true).open(turn).unwrap();
        turn.lock().unwrap();
        Self { directory: server_directory("up"), port: free_port(), _turn: turn }
    }

    /// `DIR`.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("cluster")
    }

    /// The command `ostrakon up …` for this directory and port.
    pub fn up_command(&self, shards: usize, replicas: usize) -> Command {
        let mut command = ostrakon();
        command.arg("up").arg("--data").arg(self.data());
        command.args(["--shards", &shards.to_string(), "--replicas", &replicas.to_string()]);
        command.args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        command
    }

    /// A session through its proxy.
    pub fn app(&self) -> Raw {
        Raw::connect(self.port, "app", "app").unwrap()
    }

    /// `status --output json`.
    pub fn status(&self) -> serde_json::Value {
        let text = run(ostrakon().args(["status", "--output", "json", "--data"]).arg(self.data()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Every process whose command line names the directory.
    pub fn processes(&self) -> Vec<u32> {
        processes_of(&self.data())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = ostrakon().arg("down").arg("--data").arg(self.data()).output();
        for pid in processes_of(&self.data()) {
            signal(pid, Signal::SIGKILL);
        }
        if std::thread::panicking() {
            for entry in fs::read_dir(self.data()).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|extension| extension == "log") {
                    let text = fs::read_to_string(entry.path()).unwrap_or_default();
                    eprintln!("--- {} ---\n{text}", entry.path().display());
                }
            }
        }
    }
}

/// Live processes whose command line names this directory, this test excluded.
pub fn processes_of(directory: &Path) -> Vec<u32> {
    let wanted = directory.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let mut text = String::new();
        let Ok(mut file) = File::open(entry.path().join("cmdline")) else { continue };
        if file.read_to_string(&mut text).is_ok()
            && text.contains(&wanted)
            && is_alive(pid)
            && pid != std::process::id()
        {
            found.push(pid);
        }
    }
    found
}
