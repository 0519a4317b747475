//! Hosts with networks of their own, on this machine: containers where Docker works, else network namespaces.
//!
//! There are two networks: clients, proxies, etcd and servers meet on the one; servers stream to each other on the other.
//! A name means a host's address on the network that the asker should use, so replication can be cut apart from clients.

mod disks;
mod docker;
mod namespaces;
mod net;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use disks::{Disk, Filler};
pub use docker::Docker;
pub use namespaces::Namespaces;

/// One of the two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net {
    Client,
    Replication,
}

impl Net {
    pub const ALL: [Self; 2] = [Self::Client, Self::Replication];

    fn number(self) -> u8 {
        match self {
            Self::Client => 1,
            Self::Replication => 2,
        }
    }
}

/// What a host is like, before there is one.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: String,
    /// It is on the replication network, too, and means others there.
    pub replicates: bool,
    /// Its files are on a file system of their own, of this size.
    pub disk_mb: Option<u32>,
}

/// A host of the ground.
#[derive(Clone, Debug)]
pub struct Host {
    pub name: String,
    pub replicates: bool,
    /// Addresses on the client network and on the other.
    pub addresses: [Ipv4Addr; 2],
    /// Its files; the same path inside and outside.
    pub directory: PathBuf,
}

impl Host {
    pub fn address(&self, net: Net) -> Ipv4Addr {
        self.addresses[usize::from(net.number()) - 1]
    }

    fn nets(&self) -> &'static [Net] {
        if self.replicates { &Net::ALL } else { &Net::ALL[..1] }
    }

    /// What it calls the others, as /etc/hosts has it.
    fn names_file(&self, all: &BTreeMap<String, Self>) -> String {
        let mut text = "127.0.0.1 localhost\n".to_owned();
        for other in all.values() {
            let net = if self.replicates && other.replicates { Net::Replication } else { Net::Client };
            let _ = writeln!(text, "{} {}", other.address(net), other.name);
        }
        text
    }
}

/// Who runs a program.
#[derive(Clone, Copy, Debug)]
pub enum User {
    Root,
    Postgres,
}

/// How hosts are made and hurt.
pub trait Machines {
    /// For people.
    fn describe(&self) -> String;
    /// Makes the networks and the hosts.
    fn create(&mut self, hosts: &BTreeMap<String, Host>);
    /// Starts a program that goes on; what it says goes to a file.
    fn start(&self, host: &Host, user: User, words: &[String], log: &Path);
    /// A file that names the host's network.
    fn network(&self, host: &str) -> PathBuf;
    /// Takes the host off a network, or puts it back, with its address.
    fn attach(&self, host: &Host, net: Net, is_on: bool);
    /// Stops all of its processes, or lets them go on.
    fn pause(&self, host: &Host, is_paused: bool);
    /// Ends the whole host at once.
    fn kill(&self, host: &Host);
    /// Brings a killed host back, without its programs.
    fn revive(&mut self, host: &Host);
    /// Removes everything.
    fn remove(&mut self);
}

/// The hosts.
pub struct Ground {
    pub hosts: BTreeMap<String, Host>,
    pub machines: Box<dyn Machines>,
    /// Before the directory that they are in.
    _disks: Vec<Disk>,
    directory: tempfile::TempDir,
}

impl Ground {
    /// Makes hosts, in containers or namespaces: as `OSTRAKON_CHAOS_GROUND` says (`docker`, `namespaces`), else what works.
    pub fn make(plans: &[Plan]) -> Self {
        let directory = crate::cluster::server_directory("chaos");
        let wanted = std::env::var("OSTRAKON_CHAOS_GROUND").unwrap_or_else(|_| "auto".to_owned());
        let block = net::free_block();
        let mut disks = Vec::new();
        let host = |(number, plan): (usize, &Plan)| {
            let last = u8::try_from(number + 10).unwrap();
            let at = |net: Net| Ipv4Addr::new(10, block, net.number(), last);
            let path = directory.path().join(&plan.name);
            fs::create_dir_all(&path).unwrap();
            disks.extend(plan.disk_mb.map(|size_mb| Disk::make(&path, size_mb)));
            crate::cluster::give_to_server(&path);
            let addresses = [at(Net::Client), at(Net::Replication)];
            (
                plan.name.clone(),
                Host { name: plan.name.clone(), replicates: plan.replicates, addresses, directory: path },
            )
        };
        let hosts: BTreeMap<String, Host> = plans.iter().enumerate().map(host).collect();
        let mut machines: Box<dyn Machines> = match wanted.as_str() {
            "docker" => Box::new(Docker::new(block, directory.path())),
            "namespaces" => Box::new(Namespaces::new(block)),
            "auto" if Docker::works() => Box::new(Docker::new(block, directory.path())),
            "auto" => Box::new(Namespaces::new(block)),
            other => panic!("OSTRAKON_CHAOS_GROUND is docker, namespaces or auto, not {other}"),
        };
        println!("ground: {}", machines.describe());
        machines.create(&hosts);
        Self { hosts, machines, _disks: disks, directory }
    }

    pub fn host(&self, name: &str) -> &Host {
        self.hosts.get(name).unwrap_or_else(|| panic!("no host {name}"))
    }

    /// Live processes of a host: their ids and names.
    pub fn processes(&self, host: &str) -> Vec<(u32, String)> {
        net::processes_on(&self.machines.network(host))
    }

    /// Signals every process of a host whose name begins so.
    pub fn signal(&self, host: &str, program: &str, signal: Signal) -> usize {
        let processes = self.processes(host);
        let wanted: Vec<u32> =
            processes.iter().filter(|(_, name)| name.starts_with(program)).map(|(pid, _)| *pid).collect();
        for pid in &wanted {
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
        wanted.len()
    }

    /// A command on a host's network, with all rights: `iptables` and the like.
    pub fn on_network(&self, host: &str, words: &[&str]) {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.machines.network(host).display())).args(words);
        crate::cluster::run(&mut command);
    }

    /// What a host sends to another vanishes from now on, or not any more.
    pub fn drop_packets(&self, from: &str, to: &str, is_cut: bool) {
        for net in self.host(from).nets() {
            let address = self.host(to).address(*net).to_string();
            let what = if is_cut { "-A" } else { "-D" };
            self.on_network(from, &["iptables", "-w", what, "OUTPUT", "-d", &address, "-j", "DROP"]);
        }
    }

    pub fn pause(&self, host: &str, is_paused: bool) {
        self.machines.pause(self.host(host), is_paused);
    }

    pub fn attach(&self, host: &str, net: Net, is_on: bool) {
        self.machines.attach(self.host(host), net, is_on);
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("OSTRAKON_CHAOS_KEEP").is_some() {
            let kept = PathBuf::from("/tmp/ostrakon-chaos-kept");
            let _ = fs::remove_dir_all(&kept);
            let _ = Command::new("cp").arg("-a").arg(self.directory.path()).arg(&kept).output();
            eprintln!("kept: {}", kept.display());
        }
        self.machines.remove();
    }
}

/// A command that is ended when it takes longer than anybody would wait.
fn bounded(limit: Duration, program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.arg("-k").arg("5").arg(limit.as_secs().to_string()).arg(program);
    command
}
