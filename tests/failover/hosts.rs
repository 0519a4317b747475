//! A shard whose servers have an agent each, as three hosts would: `ostrakon serve` and `ostrakon agent` as processes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostrakon::host::process;

use crate::cluster::{eventually, free_port, make_data, server_directory, signal};
use crate::raw::Raw;

const SETTINGS: &str = "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\nwal_log_hints = on\n\
    wal_level = replica\nhot_standby = on\nmax_wal_senders = 12\nmax_replication_slots = 12\nwal_keep_size = '64MB'\n\
    wal_retrieve_retry_interval = '20ms'\nwal_receiver_status_interval = '1s'\nwal_sender_timeout = '3s'\n\
    wal_receiver_timeout = '3s'\nmax_connections = 120\nshared_buffers = '32MB'\nmax_prepared_transactions = 20\n";

pub struct Hosts {
    pub port: u16,
    rewind_from_mb: u64,
    ports: BTreeMap<String, u16>,
    agents: BTreeMap<String, Child>,
    serve: Option<Child>,
    pub directory: tempfile::TempDir,
}

impl Hosts {
    /// Three nodes, of which only the first has data; they are waited for until commits wait for both others.
    pub fn start(rewind_from_mb: u64) -> Self {
        let mut hosts = Self::of(&["s1a", "s1b", "s1c"], "any(1)", rewind_from_mb);
        hosts.client().must("CREATE TABLE written (k bigint PRIMARY KEY)");
        let at = Instant::now();
        for node in ["s1b", "s1c"] {
            hosts.start_agent(node);
        }
        let is_whole = eventually(Duration::from_secs(120), || ["s1b", "s1c"].iter().all(|node| hosts.counts(node)));
        assert!(is_whole, "{}", hosts.told());
        println!("two empty nodes were filled by their agents, and count, after {} ms", at.elapsed().as_millis());
        hosts
    }

    /// The first node with its agent, and the proxy.
    pub fn of(nodes: &[&str], durability: &str, rewind_from_mb: u64) -> Self {
        let directory = server_directory("hosts");
        let ports: BTreeMap<String, u16> = nodes.iter().map(|node| ((*node).to_owned(), free_port())).collect();
        let port = free_port();
        for node in nodes {
            fs::create_dir(directory.path().join(node)).unwrap();
        }
        let first = directory.path().join(nodes[0]).join("data");
        make_data(&first);
        let conf = first.join("postgresql.conf");
        let kept = fs::read_to_string(&conf).unwrap();
        fs::write(&conf, format!("{kept}\n{SETTINGS}")).unwrap();
        let mut hosts = Self { port, rewind_from_mb, ports, agents: BTreeMap::new(), serve: None, directory };
        hosts.configure(nodes, durability);
        hosts.start_agent(nodes[0]);
        assert!(eventually(Duration::from_secs(60), || hosts.server(nodes[0]).is_some()), "{}", hosts.told());
        hosts.start_serve();
        hosts
    }

    /// Writes the proxy's configuration.
    pub fn configure(&self, nodes: &[&str], durability: &str) {
        let mut text = format!(
            "[proxy]\nlisten = \"127.0.0.1:{}\"\ndata = \"{}\"\ndatabase = \"app\"\n\n[control]\nuser = \"postgres\"\n\n\
             [failover]\ndurability = \"{durability}\"\n\n[[users]]\nname = \"app\"\n\n[[shards]]\nname = \"s1\"\n",
            self.port,
            self.directory.path().join("proxy").display(),
        );
        for node in nodes {
            let port = self.ports[*node];
            let _ = write!(text, "[[shards.nodes]]\nname = \"{node}\"\nhost = \"127.0.0.1\"\nport = {port}\n");
        }
        fs::write(self.directory.path().join("ostrakon.toml"), text).unwrap();
    }

    pub fn start_serve(&mut self) {
        let config = self.directory.path().join("ostrakon.toml");
        let arguments = ["serve", "--config", config.to_str().unwrap()];
        self.serve = Some(self.spawn(&arguments, "serve"));
        let port = self.port;
        let ready = eventually(Duration::from_secs(60), || {
            Raw::connect(port, "app", "app")
                .and_then(|mut raw| raw.simple("SELECT 1"))
                .is_ok_and(|reply| reply.fault().is_none())
        });
        assert!(ready, "{}", self.told());
    }

    pub fn serve_pid(&self) -> u32 {
        self.serve.as_ref().unwrap().id()
    }

    /// Waits for the proxy to end by itself.
    pub fn serve_ended(&mut self, limit: Duration) -> Option<bool> {
        let serve = self.serve.as_mut()?;
        let mut status = None;
        eventually(limit, || {
            status = serve.try_wait().ok().flatten();
            status.is_some()
        });
        status.map(|status| status.success())
    }

    fn spawn(&self, arguments: &[&str], name: &str) -> Child {
        let log = self.directory.path().join(format!("{name}.txt"));
        let log = fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_ostrakon")])
            .args(arguments)
            .env("OSTRAKON_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    pub fn start_agent(&mut self, node: &str) {
        let data = self.data(node);
        let url = format!("postgres://postgres@127.0.0.1:{}/", self.port);
        let (port, rewind) = (self.ports[node].to_string(), self.rewind_from_mb.to_string());
        let arguments = ["agent", "--node", node, "--data", data.to_str().unwrap(), "--proxy", &url];
        let more = ["--port", &port, "--rewind-from-mb", &rewind];
        let agent = self.spawn(&[&arguments[..], &more[..]].concat(), &format!("agent-{node}"));
        self.agents.insert(node.to_owned(), agent);
    }

    pub fn kill_agent(&mut self, node: &str) {
        if let Some(mut agent) = self.agents.remove(node) {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    /// Runs a command of the binary against the proxy.
    pub fn run(&self, arguments: &[&str]) -> (bool, String) {
        let url = format!("postgres://postgres@127.0.0.1:{}/ostrakon", self.port);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
        let output = command.args(arguments).args(["--connect", &url]).stdin(Stdio::null()).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), said)
    }

    pub fn must(&self, arguments: &[&str]) -> String {
        let (is_done, said) = self.run(arguments);
        assert!(is_done, "{arguments:?}: {said}\n{}", self.told());
        said
    }

    pub fn data(&self, node: &str) -> PathBuf {
        self.directory.path().join(node).join("data")
    }

    pub fn port_of(&self, node: &str) -> u16 {
        self.ports[node]
    }

    pub fn add_port(&mut self, node: &str) -> u16 {
        fs::create_dir_all(self.directory.path().join(node)).unwrap();
        let port = free_port();
        self.ports.insert(node.to_owned(), port);
        port
    }

    pub fn client(&self) -> Raw {
        Raw::connect(self.port, "app", "app").unwrap()
    }

    /// A session of a server itself.
    pub fn server(&self, node: &str) -> Option<Raw> {
        Raw::connect(self.ports[node], "postgres", "app").ok()
    }

    /// Ends a server and all its children, as a machine that fails does.
    pub fn end(&self, node: &str) {
        end(&self.data(node));
    }

    pub fn nodes(&self) -> Vec<Vec<String>> {
        let asked = Raw::connect(self.port, "postgres", "ostrakon").and_then(|mut raw| raw.simple("SHOW NODES"));
        asked.map(|reply| reply.texts()).unwrap_or_default()
    }

    pub fn primary(&self) -> String {
        let leads = |row: &Vec<String>| row[2] == "primary";
        self.nodes().into_iter().find(leads).map(|mut row| row.remove(1)).unwrap_or_default()
    }

    /// Who leads, and the others.
    pub fn roles(&self) -> (String, Vec<String>) {
        let primary = self.primary();
        let others = self.ports.keys().filter(|node| **node != primary).cloned().collect();
        (primary, others)
    }

    /// Commits wait for the node, and it streams.
    pub fn counts(&self, node: &str) -> bool {
        let is_well = |row: &Vec<String>| {
            row[1] == node && row[5] == "streaming" && row.get(9).is_some_and(|sync| sync == "true")
        };
        self.nodes().iter().any(is_well)
    }

    pub fn log(&self) -> String {
        self.text("serve")
    }

    pub fn agent_log(&self, node: &str) -> String {
        self.text(&format!("agent-{node}"))
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(format!("{name}.txt"))).unwrap_or_default()
    }

    /// Everything that anybody said.
    pub fn told(&self) -> String {
        let mut told = format!("--- proxy ---\n{}\n{:?}\n", self.log(), self.nodes());
        for node in self.ports.keys() {
            let server = fs::read_to_string(self.directory.path().join(node).join("data.log")).unwrap_or_default();
            let tail: Vec<&str> = server.lines().rev().take(15).collect();
            let tail: String = tail.into_iter().rev().map(|line| format!("{line}\n")).collect();
            let _ = write!(told, "--- agent of {node} ---\n{}\n--- {node} ---\n{tail}", self.agent_log(node));
        }
        told
    }
}

fn end(data: &Path) {
    for pid in process::working_in(data) {
        signal(pid, Signal::SIGKILL);
    }
    eventually(Duration::from_secs(10), || process::working_in(data).is_empty());
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let children = std::mem::take(&mut self.agents).into_values().chain(self.serve.take());
        for mut child in children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for node in self.ports.keys() {
            for data in [self.data(node), self.data(node).with_extension("making")] {
                for pid in process::started_for(&data, &["pg_basebackup", "pg_rewind", "pg_ctl"]) {
                    signal(pid, Signal::SIGKILL);
                }
                end(&data);
            }
        }
    }
}

/// Clients that write rows of their own, connect again after an error, and remember what was acknowledged.
pub struct Writers {
    is_over: Arc<AtomicBool>,
    pub errors: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<Vec<(Instant, i64)>>>,
}

static NEXT: AtomicI64 = AtomicI64::new(1);

impl Writers {
    pub fn start(port: u16, count: usize) -> Self {
        let (is_over, errors) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..count).map(|_| {
            let (is_over, errors) = (Arc::clone(&is_over), Arc::clone(&errors));
            std::thread::spawn(move || {
                let (mut acknowledged, mut app) = (Vec::new(), Raw::connect(port, "app", "app").ok());
                while !is_over.load(Ordering::Relaxed) {
                    let key = NEXT.fetch_add(1, Ordering::Relaxed);
                    let said = app.as_mut().map(|app| app.simple(&format!("INSERT INTO written VALUES ({key})")));
                    match said {
                        Some(Ok(reply)) if reply.fault().is_none() => acknowledged.push((Instant::now(), key)),
                        said => {
                            errors.fetch_add(1, Ordering::Relaxed);
                            if let Some(Ok(reply)) = said {
                                println!("  an error: {:?}", reply.fault());
                            }
                            app = Raw::connect(port, "app", "app").ok();
                            std::thread::sleep(Duration::from_millis(5));
                        }
                    }
                }
                acknowledged
            })
        });
        let threads = threads.collect();
        Self { is_over, errors, threads }
    }

    pub fn finish(self) -> Vec<(Instant, i64)> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut acknowledged: Vec<(Instant, i64)> =
            self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        acknowledged.sort();
        acknowledged
    }
}
