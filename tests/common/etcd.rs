//! Throwaway etcd members on loopback, each in a directory of its own, ended with the test.
#![allow(dead_code, missing_docs)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::free_port;

const START_PATIENCE: Duration = Duration::from_secs(60);

/// One member.
pub struct Member {
    pub name: String,
    pub port: u16,
    peer_port: u16,
    child: Option<Child>,
}

/// A cluster of members.
pub struct Etcd {
    pub members: Vec<Member>,
    directory: tempfile::TempDir,
    more: Vec<String>,
    scheme: &'static str,
}

impl Etcd {
    /// So many members, ready.
    pub fn start(members: usize) -> Self {
        Self::start_with(members, &[], "http")
    }

    /// One member with these further arguments.
    pub fn start_with(members: usize, more: &[String], scheme: &'static str) -> Self {
        let member =
            |number| Member { name: format!("m{number}"), port: free_port(), peer_port: free_port(), child: None };
        let directory = tempfile::Builder::new().prefix("ostrakon-etcd-").tempdir_in("/tmp").unwrap();
        let members: Vec<Member> = (1..=members).map(member).collect();
        let mut etcd = Self { members, directory, more: more.to_vec(), scheme };
        (0..etcd.members.len()).for_each(|member| etcd.launch(member));
        etcd.wait();
        etcd
    }

    /// Starts a member that does not run.
    pub fn launch(&mut self, number: usize) {
        let cluster: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}=http://127.0.0.1:{}", member.name, member.peer_port))
            .collect();
        let member = &mut self.members[number];
        let client = format!("{}://127.0.0.1:{}", self.scheme, member.port);
        let peer = format!("http://127.0.0.1:{}", member.peer_port);
        let log = std::fs::File::create(self.directory.path().join(format!("{}.log", member.name))).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--name", &member.name])
            .arg("--data-dir")
            .arg(self.directory.path().join(&member.name))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &cluster.join(","), "--log-level", "warn"])
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("etcd runs: `make etcd` installs it");
        member.child = Some(child);
    }

    fn wait(&mut self) {
        let end = Instant::now() + START_PATIENCE;
        loop {
            let ready = match self.scheme {
                // Only whether it listens: this file speaks no TLS.
                "https" => self.members.iter().all(|member| TcpStream::connect(("127.0.0.1", member.port)).is_ok()),
                _ => (0..self.members.len()).all(|member| self.put(member, "ready").is_some()),
            };
            if ready {
                return;
            }
            if Instant::now() > end {
                for member in &self.members {
                    let log = self.directory.path().join(format!("{}.log", member.name));
                    eprintln!("{}", std::fs::read_to_string(log).unwrap_or_default());
                }
                panic!("etcd does not start; `make etcd` installs it");
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("{}://127.0.0.1:{}", self.scheme, member.port)).collect()
    }

    fn put(&self, member: usize, key: &str) -> Option<String> {
        use base64::Engine;
        let key = base64::engine::general_purpose::STANDARD.encode(key);
        let answer = self.post(member, "/v3/kv/put", &format!(r#"{{"key":"{key}"}}"#))?;
        answer.contains("\"revision\"").then_some(answer)
    }

    /// One request, written by hand.
    pub fn post(&self, member: usize, path: &str, body: &str) -> Option<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.members[member].port)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        socket.write_all(format!("{head}{body}").as_bytes()).ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// The number of the leading member.
    pub fn leader(&self) -> usize {
        let field = |text: &str, name: &str| -> Option<String> {
            let rest = text.split_once(&format!("\"{name}\":\""))?.1;
            Some(rest.split('"').next()?.to_owned())
        };
        let end = Instant::now() + START_PATIENCE;
        while Instant::now() < end {
            for member in 0..self.members.len() {
                let Some(status) = self.post(member, "/v3/maintenance/status", "{}") else { continue };
                let leader = field(&status, "leader");
                if leader.is_some() && leader == field(&status, "member_id") {
                    return member;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("etcd has no leader");
    }

    /// Ends a member without warning.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn pause(&self, member: usize) {
        self.signal(member, Signal::SIGSTOP);
    }

    pub fn resume(&self, member: usize) {
        self.signal(member, Signal::SIGCONT);
    }

    fn signal(&self, member: usize, signal: Signal) {
        if let Some(child) = &self.members[member].child {
            let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}
