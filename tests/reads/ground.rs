//! Shards with replicas whose replay can be held back, and a proxy before them.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{Server, eventually, free_port};
use crate::raw::Raw;

pub struct Ground {
    pub primaries: Vec<Server>,
    /// Two for each shard, in the order of shards.
    pub replicas: Vec<Server>,
    pub port: u16,
    child: Child,
    directory: tempfile::TempDir,
}

impl Ground {
    /// So many shards with two replicas each, whose replay of commits is this late. `more`: in the configuration.
    pub fn start(shards: usize, delay_ms: u32, more: &str) -> Self {
        let names: Vec<String> = (1..=shards).map(|number| format!("s{number}")).collect();
        let primaries = Server::start_all(&names);
        let delay = format!("recovery_min_apply_delay={delay_ms}");
        let settings = [delay.as_str(), "hot_standby=on", "wal_receiver_status_interval=1"];
        let mut replicas: Vec<Server> = primaries
            .iter()
            .flat_map(|primary| ["b", "c"].map(|letter| (format!("{}{letter}", primary.name), primary)))
            .map(|(name, primary)| Server::start_replica(&name, primary, &settings))
            .collect();
        replicas.iter_mut().for_each(Server::wait);
        let directory = tempfile::Builder::new().prefix("ostrakon-reads-").tempdir_in("/tmp").unwrap();
        let port = free_port();
        let mut text = format!(
            "[proxy]\nlisten = \"127.0.0.1:{port}\"\ndata = \"{}\"\ndatabase = \"app\"\n\n[control]\nuser = \"postgres\"\n\n\
             [[users]]\nname = \"app\"\n\n[[users]]\nname = \"postgres\"\nread_from = \"primary\"\n\n{more}\n",
            directory.path().join("data").display(),
        );
        for (number, primary) in primaries.iter().enumerate() {
            let _ = write!(text, "\n[[shards]]\nname = \"{}\"\n", primary.name);
            for server in std::iter::once(primary).chain(&replicas[2 * number..2 * number + 2]) {
                let (name, port) = (&server.name, server.port);
                let _ = write!(text, "[[shards.nodes]]\nname = \"{name}-n\"\nhost = \"127.0.0.1\"\nport = {port}\n");
            }
        }
        text.push_str("\n[[tables]]\nname = \"r\"\nkey = [\"id\"]\n");
        let config = directory.path().join("ostrakon.toml");
        fs::write(&config, text).unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_ostrakon"), "serve", "--config"])
            .arg(config)
            .env("OSTRAKON_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let ground = Self { primaries, replicas, port, child, directory };
        let ready = eventually(Duration::from_secs(60), || {
            Raw::connect(port, "app", "app")
                .and_then(|mut raw| raw.simple("SELECT 1"))
                .is_ok_and(|r| r.fault().is_none())
        });
        assert!(ready, "{}", ground.log());
        ground.app().must("CREATE TABLE r (id bigint PRIMARY KEY, v bigint)");
        ground.app().must("INSERT INTO r SELECT id, 0 FROM generate_series(0, 999) id");
        ground.wait_for_replicas();
        ground
    }

    /// Waits until a fresh session reads the rows from replicas of every shard.
    pub fn wait_for_replicas(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let mut app = self.app();
            app.must("SET ostrakon.read_from = 'replica'");
            std::thread::sleep(Duration::from_millis(200));
            let rows = app.must("SELECT DISTINCT current_setting('port') FROM r").texts();
            if rows.len() == self.primaries.len() && rows.iter().all(|row| self.is_replica(&row[0])) {
                return;
            }
            assert!(Instant::now() < end, "no reads from replicas: {rows:?}\n{}", self.log());
        }
    }

    pub fn is_replica(&self, port: &str) -> bool {
        self.replicas.iter().any(|replica| replica.port.to_string() == port)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub fn app(&self) -> Raw {
        Raw::connect(self.port, "app", "app").unwrap()
    }

    /// A session that reads from replicas.
    pub fn reader(&self) -> Raw {
        let mut app = self.app();
        app.must("SET ostrakon.read_from = 'replica'");
        app
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the proxy's last words ---");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Random enough, and the same for the same seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}
