//! Servers, an etcd, and `ostrakon serve` several times before them.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::cluster::{Server, eventually, free_port, signal};
use crate::etcd::Etcd;
use crate::raw::{Raw, Reply};

const START_PATIENCE: Duration = Duration::from_secs(60);

pub struct Ground {
    pub shards: Vec<Server>,
    pub etcd: Etcd,
    pub proxies: Vec<Proxy>,
    directory: tempfile::TempDir,
}

pub struct Proxy {
    pub name: String,
    pub port: u16,
    pub http: u16,
    child: Option<Child>,
}

impl Ground {
    /// So many shards, members of etcd, and proxies.
    pub fn start(shards: usize, members: usize, proxies: usize) -> Self {
        let names: Vec<String> = (1..=shards).map(|number| format!("shard{number}")).collect();
        let directory = tempfile::Builder::new().prefix("ostrakon-shared-").tempdir_in("/tmp").unwrap();
        let proxy = |number| Proxy { name: format!("p{number}"), port: free_port(), http: free_port(), child: None };
        let mut ground = Self {
            shards: Server::start_all(&names),
            etcd: Etcd::start(members),
            proxies: (1..=proxies).map(proxy).collect(),
            directory,
        };
        for number in 0..proxies {
            ground.start_proxy(number);
        }
        ground
    }

    fn directory(&self, number: usize) -> PathBuf {
        self.directory.path().join(&self.proxies[number].name)
    }

    fn write_config(&self, number: usize) -> PathBuf {
        let (proxy, directory) = (&self.proxies[number], self.directory(number));
        fs::create_dir_all(&directory).unwrap();
        let mut text = format!(
            "[proxy]\nlisten = \"127.0.0.1:{}\"\ndata = \"{}\"\ndatabase = \"app\"\n\n[http]\nlisten = \"127.0.0.1:{}\"\n\n\
             [store]\nkind = \"etcd\"\nendpoints = {:?}\nproxy_name = \"{}\"\ntimeout_ms = 3000\n\n\
             [control]\nuser = \"postgres\"\n\n[[users]]\nname = \"app\"\n",
            proxy.port,
            directory.display(),
            proxy.http,
            self.etcd.endpoints(),
            proxy.name,
        );
        for server in &self.shards {
            let _ = write!(
                text,
                "\n[[shards]]\nname = \"{0}\"\n\n[[shards.nodes]]\nname = \"{0}-a\"\nhost = \"127.0.0.1\"\nport = {1}\n",
                server.name, server.port
            );
        }
        let config = directory.join("ostrakon.toml");
        fs::write(&config, text).unwrap();
        config
    }

    /// Starts a proxy; it need not get to serve.
    pub fn launch(&mut self, number: usize) {
        let config = self.write_config(number);
        let log = OpenOptions::new().create(true).append(true).open(self.directory(number).join("log")).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_ostrakon"), "serve", "--config"])
            .arg(config)
            .env("OSTRAKON_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.proxies[number].child = Some(child);
    }

    /// Starts a proxy and waits until it serves.
    pub fn start_proxy(&mut self, number: usize) {
        self.launch(number);
        let end = Instant::now() + START_PATIENCE;
        loop {
            let answered =
                Raw::connect(self.proxies[number].port, "app", "app").and_then(|mut raw| raw.simple("SELECT 1"));
            if answered.as_ref().is_ok_and(|reply| reply.fault().is_none()) {
                return;
            }
            let ended = self.proxies[number].child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "no service ({ended:?}): {}", self.log(number));
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// What a proxy that must not start says before it ends.
    pub fn refusal(&mut self, number: usize) -> String {
        self.launch(number);
        let child = self.proxies[number].child.as_mut().unwrap();
        assert!(eventually(START_PATIENCE, || matches!(child.try_wait(), Ok(Some(_)))), "it starts");
        self.proxies[number].child = None;
        self.log(number)
    }

    pub fn kill_proxy(&mut self, number: usize) {
        let mut child = self.proxies[number].child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends a proxy in order.
    pub fn stop_proxy(&mut self, number: usize) {
        let mut child = self.proxies[number].child.take().unwrap();
        signal(child.id(), Signal::SIGTERM);
        assert!(eventually(START_PATIENCE, || matches!(child.try_wait(), Ok(Some(_)))), "{}", self.log(number));
    }

    pub fn log(&self, number: usize) -> String {
        fs::read_to_string(self.directory(number).join("log")).unwrap_or_default()
    }

    /// A session through a proxy.
    pub fn app(&self, number: usize) -> Raw {
        Raw::connect(self.proxies[number].port, "app", "app").unwrap()
    }

    /// One command of the admin database.
    pub fn admin(&self, number: usize, command: &str) -> Reply {
        Raw::connect(self.proxies[number].port, "postgres", "ostrakon").unwrap().simple(command).unwrap()
    }

    /// Repeats a command until it is carried out.
    pub fn admin_until_done(&self, number: usize, command: &str) {
        let mut last = None;
        let done = eventually(Duration::from_secs(30), || {
            last = Some(self.admin(number, command));
            last.as_ref().is_some_and(|reply| reply.fault().is_none())
        });
        assert!(done, "{command}: {last:?}");
    }

    /// Status line of a health question.
    pub fn health(&self, number: usize, path: &str) -> String {
        let mut socket = TcpStream::connect(("127.0.0.1", self.proxies[number].http)).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for proxy in &mut self.proxies {
            if let Some(mut child) = proxy.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            for number in 0..self.proxies.len() {
                let log = self.log(number);
                let tail: Vec<&str> = log.lines().rev().take(40).collect();
                eprintln!("--- the last words of {} ---", self.proxies[number].name);
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}
