//! What is measured: servers, and the proxies before them.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::User;

use crate::cluster::{Beside, Server, eventually, free_port};
use crate::pgbench;
use crate::raw::Raw;

/// Server connections that every pooling proxy may have.
const POOL_SIZE: u32 = 20;

/// pgbench's scale; the scripts name as many accounts as it makes.
const SCALE: u32 = 10;

/// One way to the data.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: String,
    pub port: u16,
    /// The proxy's processes; none for a direct connection.
    pub pids: Vec<u32>,
    /// It can serve prepared statements.
    pub prepares: bool,
}

/// All of them; ends what it started.
pub struct Targets {
    /// Before one server, in the order in which they take turns.
    pub plain: Vec<Target>,
    /// Ostrakon before three shards.
    pub sharded: Target,
    _processes: Vec<Beside>,
    _servers: Vec<Server>,
    _directories: Vec<tempfile::TempDir>,
}

impl Targets {
    /// Starts servers and proxies, fills pgbench's tables.
    ///
    /// `is_smoke`: without what this machine may lack, the relay a thread of this process.
    pub fn start(plain_port: Option<u16>, others: &[String], is_smoke: bool) -> Self {
        let mut servers = Server::start_all(&(1..=4).map(|n| format!("bench{n}")).collect::<Vec<_>>());
        let plain = servers.remove(0);
        let port = plain_port.unwrap_or(plain.port);
        let mut all = Self {
            plain: vec![Target { name: "direct".into(), port, pids: vec![], prepares: true }],
            sharded: Target { name: "ostrakon, 3 shards".into(), port: 0, pids: vec![], prepares: true },
            _processes: vec![],
            _servers: vec![],
            _directories: vec![],
        };
        let scale = if is_smoke { 1 } else { SCALE };
        pgbench::initialise(port, scale);
        let has_pgbouncer = Command::new("pgbouncer").arg("--version").output().is_ok();
        if has_pgbouncer || !is_smoke {
            let pgbouncer = all.pgbouncer(port);
            all.plain.push(pgbouncer);
        }
        let floor = if is_smoke { floor_in_a_thread(port) } else { all.floor(port) };
        all.plain.push(floor);
        let ostrakon = all.ostrakon("ostrakon", &[port]);
        all.plain.push(ostrakon);
        for other in others {
            let (name, rest) = other.split_once('=').expect("NAME=HOST:PORT,PID");
            let mut parts = rest.split(',');
            let address = parts.next().expect("an address");
            all.plain.push(Target {
                name: name.to_owned(),
                port: address.rsplit(':').next().unwrap().parse().expect("a port"),
                pids: parts.map(|pid| pid.parse().expect("a process id")).collect(),
                prepares: true,
            });
        }
        let shards: Vec<u16> = servers.iter().map(|server| server.port).collect();
        all.sharded = all.ostrakon("ostrakon, 3 shards", &shards);
        pgbench::initialise(all.sharded.port, scale);
        servers.push(plain);
        all._servers = servers;
        all
    }

    /// Those of these names that were started.
    pub fn named(&self, names: &[&str]) -> Vec<&Target> {
        let before_shards = std::iter::once(&self.sharded);
        self.plain.iter().chain(before_shards).filter(|target| names.contains(&target.name.as_str())).collect()
    }

    /// The target of this name before one server.
    pub fn plain(&self, name: &str) -> &Target {
        self.plain.iter().find(|target| target.name == name).expect("a target that was started")
    }

    /// Another process of the same kind before the plain server, which has done nothing yet: `pgbouncer` or `ostrakon`.
    pub fn fresh(&mut self, name: &str) -> Target {
        let port = self.plain("direct").port;
        if name == "pgbouncer" { self.pgbouncer(port) } else { self.ostrakon(name, &[port]) }
    }

    fn keep(&mut self, name: &str, command: &mut Command, directory: tempfile::TempDir, port: u16) -> Target {
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap_or_else(|error| {
                panic!("{name}: {error}");
            });
        let pids = vec![child.id()];
        self._processes.push(Beside(child));
        let answers = || Raw::connect(port, "app", "app").and_then(|mut raw| raw.simple("SELECT 1")).is_ok();
        assert!(
            eventually(Duration::from_secs(30), answers),
            "{name} does not answer:\n{}",
            fs::read_to_string(directory.path().join("log")).unwrap_or_default()
        );
        self._directories.push(directory);
        Target { name: name.into(), port, pids, prepares: true }
    }

    fn pgbouncer(&mut self, server: u16) -> Target {
        let directory = crate::cluster::server_directory("pgbouncer");
        let port = free_port();
        let users = directory.path().join("users");
        fs::write(&users, "\"app\" \"\"\n").unwrap();
        let config = directory.path().join("pgbouncer.ini");
        fs::write(
            &config,
            format!(
                "[databases]\napp = host=127.0.0.1 port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n\
                 default_pool_size = {POOL_SIZE}\nmax_client_conn = 11000\nignore_startup_parameters = extra_float_digits\n",
                users.display()
            ),
        )
        .unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "pgbouncer"]).arg(&config);
        if nix::unistd::Uid::effective().is_root() {
            let user = User::from_name("postgres").unwrap().expect("a user postgres");
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let mut target = self.keep("pgbouncer", &mut command, directory, port);
        // Since 1.21 it can.
        let version = Command::new("pgbouncer").arg("--version").output().unwrap();
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let minor = version.split_whitespace().nth(1).and_then(|v| v.split('.').nth(1)?.parse::<u32>().ok());
        target.prepares = minor.is_some_and(|minor| minor >= 21);
        target
    }

    fn floor(&mut self, server: u16) -> Target {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(std::env::current_exe().unwrap());
        command.args(["--relay", &format!("{port},{server}")]);
        self.keep("bare relay", &mut command, directory, port)
    }

    fn ostrakon(&mut self, name: &str, servers: &[u16]) -> Target {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut text = format!(
            "[proxy]\nlisten = \"127.0.0.1:{port}\"\ndata = \"{}\"\ndatabase = \"app\"\nclients_max = 11000\n\n\
             [pool]\nsize = {POOL_SIZE}\n\n[control]\nuser = \"postgres\"\n\n[[users]]\nname = \"app\"\n",
            directory.path().join("data").display()
        );
        for (n, server) in servers.iter().enumerate() {
            let _ = write!(
                text,
                "\n[[shards]]\nname = \"s{n}\"\n\n[[shards.nodes]]\nname = \"s{n}-a\"\nhost = \"127.0.0.1\"\n\
                 port = {server}\nrole = \"primary\"\n"
            );
        }
        if servers.len() > 1 {
            let tables = [
                ("pgbench_accounts", "aid"),
                ("pgbench_branches", "bid"),
                ("pgbench_tellers", "tid"),
                ("pgbench_history", "aid"),
            ];
            for (table, key) in tables {
                let _ = write!(text, "\n[[tables]]\nname = \"{table}\"\nkey = [\"{key}\"]\n");
            }
            let _ = write!(text, "\n[[tables]]\nname = \"wide\"\nkey = [\"id\"]\n");
        }
        fs::create_dir_all(directory.path().join("data")).unwrap();
        let config = directory.path().join("ostrakon.toml");
        fs::write(&config, text).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_ostrakon"), "serve", "--config"]).arg(&config);
        self.keep(name, &mut command, directory, port)
    }
}

fn floor_in_a_thread(server: u16) -> Target {
    let port = free_port();
    std::thread::spawn(move || crate::floor::serve(&format!("{port},{server}")));
    let answers = || Raw::connect(port, "app", "app").is_ok();
    assert!(eventually(Duration::from_secs(30), answers), "the relay does not answer");
    Target { name: "bare relay".into(), port, pids: vec![], prepares: true }
}
