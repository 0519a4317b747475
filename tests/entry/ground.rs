//! Servers, and a proxy with settings of its own before them.

use std::fs::{self, File};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::cluster::{Server, eventually, free_port, is_alive, pg_bin, signal};
use crate::raw::Raw;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `ostrakon serve`, stopped by process id on drop.
pub struct Entry {
    pub port: u16,
    pub servers: Vec<Server>,
    directory: tempfile::TempDir,
    proxy: Child,
}

impl Entry {
    /// A proxy before as many shards; `settings` are the lines of `[proxy]` and then further sections.
    pub fn start(shards: usize, settings: &str) -> Self {
        let names: Vec<String> = (1..=shards).map(|number| format!("shard{number}")).collect();
        let servers = Server::start_all(&names);
        let nodes: Vec<(String, u16, String)> =
            servers.iter().map(|server| (server.name.clone(), server.port, String::new())).collect();
        Self::before(servers, &nodes, settings)
    }

    /// A proxy before nodes of this host: name, port, further lines of the node.
    pub fn before(servers: Vec<Server>, nodes: &[(String, u16, String)], settings: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("ostrakon-entry-").tempdir_in("/tmp").unwrap();
        let port = free_port();
        let data = directory.path().join("data");
        let mut text =
            format!("[proxy]\nlisten = \"127.0.0.1:{port}\"\ndata = {data:?}\ndatabase = \"app\"\n{settings}\n");
        for (name, node_port, more) in nodes {
            text.push_str(&format!(
                "[[shards]]\nname = \"{name}\"\n[[shards.nodes]]\nname = \"{name}a\"\nhost = \"127.0.0.1\"\n\
                 port = {node_port}\n{more}\n"
            ));
        }
        fs::write(directory.path().join("ostrakon.toml"), text).unwrap();
        let log = File::options().create(true).append(true).open(directory.path().join("log")).unwrap();
        let proxy = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_ostrakon"), "serve", "--config"])
            .arg(directory.path().join("ostrakon.toml"))
            .env("OSTRAKON_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut entry = Self { port, servers, directory, proxy };
        let is_up = eventually(PATIENCE, || {
            entry.log().contains("serving app on") || matches!(entry.proxy.try_wait(), Ok(Some(_)))
        });
        assert!(is_up, "{}", entry.log());
        entry
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Writes the configuration anew, with something in it replaced.
    pub fn change_config(&self, from: &str, to: &str) {
        let path = self.directory.path().join("ostrakon.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replace(from, to)).unwrap();
    }

    /// A session of the admin database.
    pub fn admin(&self) -> Raw {
        Raw::connect(self.port, "postgres", "ostrakon").unwrap()
    }

    pub fn is_alive(&self) -> bool {
        is_alive(self.proxy.id())
    }

    pub fn signal(&self, which: Signal) {
        signal(self.proxy.id(), which);
    }

    /// Resident memory of the proxy now and at its highest, in KiB.
    pub fn memory_kb(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.proxy.id())).unwrap_or_default();
        let value = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        (value("VmRSS:"), value("VmHWM:"))
    }

    /// A session without TLS.
    pub fn app(&self) -> Raw {
        Raw::connect(self.port, "app", "app").unwrap()
    }

    /// It serves: a new client gets the right answer.
    pub fn must_serve(&self) {
        assert_eq!(self.app().must("SELECT 40 + 2").value(), "42", "{}", self.log());
    }

    /// Runs psql with these words of a connection string.
    pub fn psql(&self, words: &str, sql: &str) -> Output {
        let dsn = format!("port={} user=app dbname=app connect_timeout=20 {words}", self.port);
        let mut command = Command::new(pg_bin().join("psql"));
        command.args(["-X", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-c", sql, &dsn]);
        command.stdin(Stdio::null()).output().expect("psql runs")
    }

    /// What psql printed, which had to succeed.
    pub fn psql_must(&self, words: &str, sql: &str) -> String {
        let output = self.psql(words, sql);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words}: {said}\n{}", self.log());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What psql complained of, which had to fail.
    pub fn psql_fails(&self, words: &str) -> String {
        let output = self.psql(words, "SELECT 1");
        assert!(!output.status.success(), "{words}: it was let in");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
        let proxy = &mut self.proxy;
        if !eventually(Duration::from_secs(10), || matches!(proxy.try_wait(), Ok(Some(_)))) {
            let _ = self.proxy.kill();
            let _ = self.proxy.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the proxy's last words ---");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
