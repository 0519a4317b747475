//! Hosts as network namespaces, where no Docker is: the same programs and files as this machine's, networks of their own.
//!
//! Two bridges stand in a namespace of their own, so nothing of this machine's network is touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Host, Machines, Net, User, net};
use crate::cluster::{run, server_user};

pub struct Namespaces {
    block: u8,
    prefix: String,
    hosts: Vec<String>,
}

fn ip(words: &[&str]) {
    run(Command::new("ip").args(words));
}

impl Namespaces {
    pub fn new(block: u8) -> Self {
        Self { block, prefix: format!("oc{}", std::process::id()), hosts: Vec::new() }
    }

    fn space(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn device(host: &str, net: Net) -> String {
        format!("{host}-{}", net.number())
    }

    fn make_switch(&self) {
        let switch = self.space("switch");
        ip(&["netns", "add", &switch]);
        for net in Net::ALL {
            let bridge = format!("br{}", net.number());
            ip(&["-n", &switch, "link", "add", &bridge, "type", "bridge"]);
            ip(&["-n", &switch, "link", "set", &bridge, "up"]);
        }
        // This machine is on the client network, too.
        let outer = format!("{}h", self.prefix);
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", "machine", "netns", &switch]);
        ip(&["-n", &switch, "link", "set", "machine", "master", "br1", "up"]);
        ip(&["addr", "add", &format!("10.{}.1.1/24", self.block), "dev", &outer]);
        ip(&["link", "set", &outer, "up"]);
    }

    fn make_host(&self, host: &Host, all: &BTreeMap<String, Host>) {
        let (space, switch) = (self.space(&host.name), self.space("switch"));
        ip(&["netns", "add", &space]);
        ip(&["-n", &space, "link", "set", "lo", "up"]);
        for net in host.nets() {
            let (outer, inner) = (Self::device(&host.name, *net), format!("net{}", net.number()));
            ip(&["-n", &switch, "link", "add", &outer, "type", "veth", "peer", "name", &inner, "netns", &space]);
            let bridge = format!("br{}", net.number());
            ip(&["-n", &switch, "link", "set", &outer, "master", &bridge, "up"]);
            ip(&["-n", &space, "addr", "add", &format!("{}/24", host.address(*net)), "dev", &inner]);
            ip(&["-n", &space, "link", "set", &inner, "up"]);
        }
        // `ip netns exec` puts the file over /etc/hosts.
        let own = PathBuf::from("/etc/netns").join(&space);
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("hosts"), host.names_file(all)).unwrap();
    }

    fn signal_all(&self, host: &str, signal: Signal) {
        for (pid, _) in net::processes_on(&self.network(host)) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    }
}

impl Machines for Namespaces {
    fn describe(&self) -> String {
        "network namespaces (Docker does not work here, or was not wanted)".to_owned()
    }

    fn create(&mut self, hosts: &BTreeMap<String, Host>) {
        self.hosts = hosts.keys().cloned().collect();
        self.make_switch();
        hosts.values().for_each(|host| self.make_host(host, hosts));
    }

    fn start(&self, host: &Host, user: User, words: &[String], log: &Path) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(&host.name), "setpriv", "--pdeathsig", "KILL"]);
        if let (User::Postgres, Some((uid, gid))) = (user, server_user()) {
            command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        command.args(words).env("OSTRAKON_LOG", "info").current_dir("/tmp").stdin(Stdio::null()).process_group(0);
        let mut child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        // Buries it.
        std::thread::spawn(move || child.wait());
    }

    fn network(&self, host: &str) -> PathBuf {
        PathBuf::from("/run/netns").join(self.space(host))
    }

    fn attach(&self, host: &Host, net: Net, is_on: bool) {
        let state = if is_on { "up" } else { "down" };
        ip(&["-n", &self.space("switch"), "link", "set", &Self::device(&host.name, net), state]);
    }

    fn pause(&self, host: &Host, is_paused: bool) {
        self.signal_all(&host.name, if is_paused { Signal::SIGSTOP } else { Signal::SIGCONT });
    }

    fn kill(&self, host: &Host) {
        // The network goes first: nobody is told of the end.
        host.nets().iter().for_each(|net| self.attach(host, *net, false));
        self.signal_all(&host.name, Signal::SIGKILL);
    }

    fn revive(&mut self, host: &Host) {
        host.nets().iter().for_each(|net| self.attach(host, *net, true));
    }

    fn remove(&mut self) {
        for host in &self.hosts {
            self.signal_all(host, Signal::SIGKILL);
            let _ = Command::new("ip").args(["netns", "del", &self.space(host)]).output();
            let _ = fs::remove_dir_all(PathBuf::from("/etc/netns").join(self.space(host)));
        }
        let _ = Command::new("ip").args(["link", "del", &format!("{}h", self.prefix)]).output();
        let _ = Command::new("ip").args(["netns", "del", &self.space("switch")]).output();
    }
}
