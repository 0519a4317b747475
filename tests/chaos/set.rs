//! A production-like set on the ground: two shards of three nodes, three members of etcd, two proxies, HAProxy.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::cluster::{eventually, give_to_server, pg_bin, run, template};
use crate::ground::{Ground, Net, Plan, User};
use crate::raw::Raw;

pub const SHARDS: [&str; 2] = ["s1", "s2"];
pub const PROXIES: [&str; 2] = ["p1", "p2"];
pub const MEMBERS: [&str; 3] = ["e1", "e2", "e3"];
/// Room for the files of a server of the first shard.
const DISK_MB: u32 = 1_536;
/// A replica that is further behind gets no reads.
pub const LAG_MAX_MS: u64 = 3_000;
const PATIENCE: Duration = Duration::from_secs(60);
/// A cluster that does not become whole in this time never does.
const WHOLE_PATIENCE: Duration = Duration::from_secs(60);

/// Tables that the load uses, and their columns of the key.
const TABLES: [(&str, &str); 6] = [
    (
        "inserts",
        "k bigint PRIMARY KEY, node text DEFAULT current_setting('cluster_name'), \
      stamp text DEFAULT current_setting('ostrakon.promised', true)",
    ),
    ("registers", "k bigint PRIMARY KEY, v bigint NOT NULL"),
    ("accounts", "k bigint PRIMARY KEY, v bigint NOT NULL"),
    ("transfers", "k bigint PRIMARY KEY, a bigint NOT NULL, b bigint NOT NULL, amount bigint NOT NULL"),
    ("lists", "k bigint PRIMARY KEY, v text NOT NULL"),
    ("cells", "k bigint PRIMARY KEY, v bigint NOT NULL"),
];

/// A row of SHOW NODES.
#[derive(Clone, Debug)]
pub struct NodeRow {
    pub shard: String,
    pub name: String,
    pub is_primary: bool,
    pub state: String,
    pub term: u64,
    pub is_sync: bool,
}

/// How many proxies there are, and where they keep what they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Two, on etcd.
    Several,
    /// One, with its own store: moves of buckets need that.
    Alone,
}

pub struct Set {
    pub ground: Ground,
    durability: String,
    layout: Layout,
    /// Proxies whose clock is moved: see [`Set::move_clock`].
    moved_clocks: BTreeSet<String>,
}

pub fn nodes_of(shard: &str) -> [String; 3] {
    ["a", "b", "c"].map(|letter| format!("{shard}{letter}"))
}

pub fn all_nodes() -> Vec<String> {
    SHARDS.iter().flat_map(|shard| nodes_of(shard)).collect()
}

/// The third server of each shard and the second proxy are somewhere else.
fn zone(host: &str) -> &'static str {
    if host.ends_with('c') || host == PROXIES[1] { "far" } else { "near" }
}

fn proxies(layout: Layout) -> &'static [&'static str] {
    match layout {
        Layout::Several => &PROXIES,
        Layout::Alone => &PROXIES[..1],
    }
}

fn members(layout: Layout) -> &'static [&'static str] {
    match layout {
        Layout::Several => &MEMBERS,
        Layout::Alone => &[],
    }
}

pub fn shard_of(node: &str) -> &str {
    &node[..2]
}

pub fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(|word| (*word).to_owned()).collect()
}

impl Set {
    /// Everything, from nothing to whole.
    pub fn make(layout: Layout) -> Self {
        let plan = |name: &str, disk_mb| Plan { name: name.to_owned(), replicates: false, disk_mb };
        let server = |name: &String| {
            let disk_mb = (shard_of(name) == SHARDS[0]).then_some(DISK_MB);
            Plan { replicates: true, ..plan(name, disk_mb) }
        };
        let mut plans: Vec<Plan> = all_nodes().iter().map(server).collect();
        plans.extend(members(layout).iter().chain(proxies(layout)).chain(&["lb"]).map(|name| plan(name, None)));
        let began = Instant::now();
        let ground = Ground::make(&plans);
        let set = Self { ground, durability: "any(1)".to_owned(), layout, moved_clocks: BTreeSet::new() };
        println!("hosts after {} ms", began.elapsed().as_millis());
        members(layout).iter().for_each(|member| set.start_member(member));
        for shard in SHARDS {
            set.make_servers(shard);
        }
        set.wait_members();
        set.proxies().iter().for_each(|proxy| set.start_proxy(proxy));
        set.start_balancer();
        set.wait_serving();
        set.make_tables();
        set.wait_whole();
        println!("whole after {} ms", began.elapsed().as_millis());
        set
    }

    pub fn proxies(&self) -> &'static [&'static str] {
        proxies(self.layout)
    }

    pub fn data(&self, node: &str) -> PathBuf {
        self.ground.host(node).directory.join("data")
    }

    /// Three nodes from one data directory: a copy at rest is a standby that has everything.
    fn make_servers(&self, shard: &str) {
        for node in nodes_of(shard) {
            let data = self.data(&node);
            run(Command::new("cp").arg("-a").arg(template()).arg(&data));
            fs::write(data.join("pg_hba.conf"), "host all all all trust\nhost replication all all trust\n").unwrap();
            let main = data.join("postgresql.conf");
            fs::write(&main, fs::read_to_string(&main).unwrap() + include_str!("postgresql.conf")).unwrap();
            if !node.ends_with('a') {
                let signal = data.join("standby.signal");
                fs::write(&signal, "").unwrap();
                give_to_server(&signal);
                let auto = data.join("postgresql.auto.conf");
                let follow =
                    format!("primary_conninfo = 'host={shard}a port=5432 user=postgres application_name={node}'\n");
                fs::write(auto, follow).unwrap();
            }
            self.start_server(&node);
        }
    }

    /// As a supervisor would: whatever it was before.
    pub fn start_server(&self, node: &str) {
        let host = self.ground.host(node);
        // Numbers of processes mean nothing to a server that ran elsewhere.
        if !self.ground.processes(node).iter().any(|(_, name)| name.starts_with("postgres")) {
            let _ = fs::remove_file(self.data(node).join("postmaster.pid"));
        }
        let program = pg_bin().join("postgres").to_string_lossy().into_owned();
        let data = self.data(node).to_string_lossy().into_owned();
        let named = format!("cluster_name={node}");
        let command = words(&[&program, "-D", &data, "-c", &named]);
        let log = host.directory.join("log");
        self.ground.machines.start(host, User::Postgres, &command, &log);
    }

    pub fn start_member(&self, member: &str) {
        let host = self.ground.host(member);
        let url = |member: &str, port| format!("http://{}:{port}", self.ground.host(member).address(Net::Client));
        let (client, peer) = (url(member, 2379), url(member, 2380));
        let all: Vec<String> = MEMBERS.iter().map(|member| format!("{member}={}", url(member, 2380))).collect();
        let data = host.directory.join("etcd").to_string_lossy().into_owned();
        let command = words(&[
            "etcd",
            "--name",
            member,
            "--data-dir",
            &data,
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &all.join(","),
            "--log-level",
            "warn",
        ]);
        self.ground.machines.start(host, User::Root, &command, &host.directory.join("log"));
    }

    pub fn start_proxy(&self, proxy: &str) {
        let host = self.ground.host(proxy);
        let endpoints: Vec<String> = members(self.layout)
            .iter()
            .map(|member| format!("http://{}:2379", self.ground.host(member).address(Net::Client)))
            .collect();
        let mut text = format!(
            "[proxy]\nlisten = \"0.0.0.0:6432\"\ndata = {:?}\ndatabase = \"app\"\n\n[http]\nlisten = \"0.0.0.0:6480\"\n\n\
             [control]\nuser = \"postgres\"\n\n[auth]\nadmin_users = [\"postgres\"]\n\n\
             [[hba]]\ntype = \"host\"\naddress = \"0.0.0.0/0\"\nmethod = \"trust\"\n\n\
             [replicas]\nzone = \"{}\"\nlag_max_ms = {LAG_MAX_MS}\n\n\
             [failover]\ndurability = \"{}\"\n\n[[users]]\nname = \"app\"\n",
            host.directory.join("data"),
            zone(proxy),
            self.durability,
        );
        if self.layout == Layout::Several {
            let _ = write!(
                text,
                "\n[store]\nkind = \"etcd\"\nendpoints = {endpoints:?}\nproxy_name = \"{proxy}\"\ntimeout_ms = 3000\n"
            );
        }
        for shard in SHARDS {
            let _ = write!(text, "\n[[shards]]\nname = \"{shard}\"\n");
            for node in nodes_of(shard) {
                let _ = write!(text, "[[shards.nodes]]\nname = \"{node}\"\nhost = \"{node}\"\nport = 5432\n");
                let _ = writeln!(text, "zone = \"{}\"", zone(&node));
            }
        }
        for (table, _) in TABLES {
            let _ = write!(text, "\n[[tables]]\nname = \"{table}\"\nkey = [\"k\"]\n");
        }
        let config = host.directory.join("ostrakon.toml");
        fs::write(&config, text).unwrap();
        let mut command = words(&[env!("CARGO_BIN_EXE_ostrakon"), "serve", "--config", &config.to_string_lossy()]);
        if self.moved_clocks.contains(proxy) {
            command.splice(0..0, self.clock_words(proxy));
        }
        self.ground.machines.start(host, User::Root, &command, &host.directory.join("log"));
    }

    fn start_balancer(&self) {
        let host = self.ground.host("lb");
        let mut text =
            "defaults\n mode tcp\n timeout connect 2s\n timeout client 1h\n timeout server 1h\n retries 3\n \
                        option redispatch\nlisten ostrakon\n bind 0.0.0.0:6432\n balance roundrobin\n \
                        option httpchk GET /readyz\n"
                .to_owned();
        for proxy in self.proxies() {
            let address = self.ground.host(proxy).address(Net::Client);
            let _ = writeln!(text, " server {proxy} {address}:6432 check port 6480 inter 500ms fall 2 rise 1");
        }
        let config = host.directory.join("haproxy.cfg");
        fs::write(&config, text).unwrap();
        let command = words(&["haproxy", "-db", "-f", &config.to_string_lossy()]);
        self.ground.machines.start(host, User::Root, &command, &host.directory.join("log"));
    }

    /// Where clients of one proxy go.
    pub fn door(&self, proxy: &str) -> SocketAddr {
        self.address(proxy, 6432)
    }

    fn address(&self, host: &str, port: u16) -> SocketAddr {
        SocketAddr::from((self.ground.host(host).address(Net::Client), port))
    }

    /// Where clients go.
    pub fn entrance(&self) -> SocketAddr {
        self.address("lb", 6432)
    }

    /// What a host's programs have said.
    pub fn log(&self, host: &str) -> String {
        fs::read_to_string(self.ground.host(host).directory.join("log")).unwrap_or_default()
    }

    /// Ends of logs, for people.
    pub fn last_words(&self) {
        for host in self.ground.hosts.values() {
            let text = self.log(&host.name);
            let is_news = |line: &&str| !line.contains("admin session") && !line.contains("etcdserver");
            let count = if host.name.starts_with('p') { 80 } else { 12 };
            let tail: Vec<&str> = text.lines().rev().filter(is_news).take(count).collect();
            eprintln!("--- {} ---", host.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }

    /// A proxy that finds no etcd with a leader ends, and nobody starts it again here.
    fn wait_members(&self) {
        let is_well = |member: &str| -> io::Result<bool> {
            let mut stream = TcpStream::connect_timeout(&self.address(member, 2379), Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(said.contains("\"health\":\"true\""))
        };
        let are_well = || members(self.layout).iter().all(|member| is_well(member).unwrap_or(false));
        if !eventually(PATIENCE, are_well) {
            self.last_words();
            panic!("etcd has no leader");
        }
    }

    fn wait_serving(&self) {
        let answers = || {
            app(self.entrance()).and_then(|mut raw| raw.simple("SELECT 1")).is_ok_and(|reply| reply.fault().is_none())
        };
        if !eventually(PATIENCE, || answers() && self.proxies().iter().all(|proxy| self.nodes(proxy).is_ok())) {
            self.last_words();
            panic!("the set does not serve");
        }
    }

    fn make_tables(&self) {
        // The balancer takes a proxy for well until it has asked it.
        let mut raw = None;
        assert!(eventually(PATIENCE, || {
            raw = app(self.entrance()).ok();
            raw.is_some()
        }));
        let mut raw = raw.expect("it was opened");
        for (table, columns) in TABLES {
            raw.must(&format!("CREATE TABLE {table} ({columns})"));
        }
    }

    /// One statement on a server itself, around the proxies.
    pub fn ask(&self, node: &str, sql: &str) -> io::Result<Vec<Vec<String>>> {
        let mut raw = Raw::connect_to(self.address(node, 5432), &[("user", "postgres"), ("database", "app")])?;
        raw.set_patience(Duration::from_secs(10));
        let reply = raw.simple(sql)?;
        match reply.fault() {
            Some(fault) => Err(io::Error::other(format!("{sql}: {fault:?}"))),
            None => Ok(reply.texts()),
        }
    }

    /// A command of the admin database of a proxy.
    pub fn admin(&self, proxy: &str, command: &str) -> io::Result<Vec<Vec<String>>> {
        let mut raw = Raw::connect_to(self.address(proxy, 6432), &[("user", "postgres"), ("database", "ostrakon")])?;
        raw.set_patience(Duration::from_secs(60));
        let reply = raw.simple(command)?;
        match reply.fault() {
            Some(fault) => Err(io::Error::other(format!("{command}: {fault:?}"))),
            None => Ok(reply.texts()),
        }
    }

    /// What a proxy says of the nodes.
    pub fn nodes(&self, proxy: &str) -> io::Result<Vec<NodeRow>> {
        let read = |row: &Vec<String>| NodeRow {
            shard: row[0].clone(),
            name: row[1].clone(),
            is_primary: row[2] == "primary",
            state: row[5].clone(),
            term: row[8].parse().unwrap_or(0),
            is_sync: row[9] == "true",
        };
        Ok(self.admin(proxy, "SHOW NODES")?.iter().filter(|row| row.len() >= 10).map(read).collect())
    }

    /// Primary and term of a shard, as some proxy knows them.
    pub fn leader(&self, shard: &str) -> (String, u64) {
        let mut known = None;
        let found = eventually(PATIENCE, || {
            let rows = self.proxies().iter().find_map(|proxy| self.nodes(proxy).ok()).unwrap_or_default();
            known = rows.into_iter().find(|row| row.shard == shard && row.is_primary).map(|row| (row.name, row.term));
            known.is_some()
        });
        assert!(found, "no proxy knows who leads {shard}");
        known.unwrap()
    }

    pub fn term(&self, shard: &str) -> u64 {
        self.leader(shard).1
    }

    /// All nodes stream and count, as every proxy says.
    pub fn is_whole(&self) -> bool {
        self.proxies().iter().all(|proxy| {
            self.nodes(proxy).is_ok_and(|rows| {
                let is_sync = |row: &NodeRow| row.is_sync || self.durability == "async";
                let is_well = |row: &NodeRow| match row.is_primary {
                    true => row.state == "up",
                    false => row.state == "streaming" && is_sync(row),
                };
                rows.len() == all_nodes().len() && rows.iter().all(is_well)
            })
        })
    }

    fn wait_whole(&self) {
        if !eventually(WHOLE_PATIENCE, || self.is_whole()) {
            self.last_words();
            panic!("the set is not whole: {:?}", self.nodes("p1"));
        }
    }

    /// Makes everything as it was: networks, processes; whoever leads stays. Former primaries become standbys.
    pub fn repair(&self) {
        for proxy in self.proxies() {
            if !self.ground.processes(proxy).iter().any(|(_, name)| name.starts_with("ostrakon")) {
                self.start_proxy(proxy);
            }
        }
        for member in members(self.layout) {
            if !self.ground.processes(member).iter().any(|(_, name)| name == "etcd") {
                self.start_member(member);
            }
        }
        // On a busy machine a shard may fail over while it is repaired.
        for _ in 0..4 {
            SHARDS.iter().for_each(|shard| self.repair_shard(shard));
            if eventually(Duration::from_secs(15), || self.is_whole()) {
                break;
            }
        }
        self.wait_whole();
        self.wait_serving();
    }

    /// Whom the others are copied from: the server that believes itself primary, is not fenced, and was told so last. The
    /// store may not have it open yet, if it waits for standbys that are fenced.
    fn acting_primary(&self, shard: &str) -> Option<String> {
        let sql = "SELECT pg_is_in_recovery(), current_setting('synchronous_standby_names'), \
                   split_part(coalesce(current_setting('ostrakon.promised', true), '0'), '.', 1)";
        let believes = |node: &String| {
            let row = self.ask(node, sql).ok()?.into_iter().next()?;
            let leads = row[0] == "f" && !row[1].contains("fenced");
            leads.then(|| (row[2].parse::<u64>().unwrap_or(0), node.clone()))
        };
        nodes_of(shard).iter().filter_map(believes).max().map(|(_, node)| node)
    }

    fn repair_shard(&self, shard: &str) {
        // Servers that ended begin again as they were: what they are now decides what is done to them.
        for node in nodes_of(shard) {
            if !self.ground.processes(&node).iter().any(|(_, name)| name.starts_with("postgres")) {
                self.start_server(&node);
            }
        }
        eventually(Duration::from_secs(10), || self.acting_primary(shard).is_some());
        let primary = self.acting_primary(shard).unwrap_or_else(|| self.leader(shard).0);
        for node in nodes_of(shard).iter().filter(|node| **node != primary) {
            let mut is_standby = false;
            eventually(Duration::from_secs(10), || match self.ask(node, "SELECT pg_is_in_recovery()") {
                Ok(rows) => {
                    is_standby = rows[0][0] == "t";
                    true
                }
                Err(_) => false,
            });
            let streams = || {
                let tag = format!(
                    "SELECT FROM pg_stat_replication WHERE state = 'streaming' AND application_name LIKE '{node}\\_t%'"
                );
                self.ask(&primary, &tag).is_ok_and(|rows| rows.len() == 1)
            };
            if !is_standby || !eventually(Duration::from_secs(8), streams) {
                self.rebuild(node, &primary);
            }
        }
    }

    /// Throws a node's data away and copies the primary's.
    pub fn rebuild(&self, node: &str, primary: &str) {
        println!("  {node} is made anew from {primary}");
        self.ground.signal(node, "postgres", Signal::SIGKILL);
        assert!(
            eventually(PATIENCE, || !self.ground.processes(node).iter().any(|(_, name)| name.starts_with("postgres"))),
            "{node} does not end"
        );
        let data = self.data(node);
        let _ = fs::remove_dir_all(&data);
        let program = pg_bin().join("pg_basebackup").to_string_lossy().into_owned();
        let source = format!("host={primary} port=5432 user=postgres application_name={node}");
        let path = data.to_string_lossy().into_owned();
        let command = words(&[&program, "-d", &source, "-D", &path, "-R", "-X", "stream", "-c", "fast", "--no-sync"]);
        let host = self.ground.host(node);
        self.ground.machines.start(host, User::Postgres, &command, &host.directory.join("log"));
        let works = || self.ground.processes(node).iter().any(|(_, name)| name.starts_with("pg_basebackup"));
        let is_copied = || data.join("standby.signal").exists() && !works();
        if !eventually(PATIENCE, is_copied) {
            self.last_words();
            panic!("{node} is not copied");
        }
        self.start_server(node);
    }

    /// A proxy begins again with a clock that can be moved, or without.
    pub fn change_clock(&mut self, proxy: &str, is_movable: bool) {
        self.stop_proxy(proxy);
        self.move_clock(proxy, "+0");
        if is_movable {
            self.moved_clocks.insert(proxy.to_owned());
        } else {
            self.moved_clocks.remove(proxy);
        }
        self.start_proxy(proxy);
        self.wait_serving();
    }

    fn stop_proxy(&self, proxy: &str) {
        self.ground.signal(proxy, "ostrakon", Signal::SIGTERM);
        let is_gone = || !self.ground.processes(proxy).iter().any(|(_, name)| name.starts_with("ostrakon"));
        assert!(eventually(PATIENCE, is_gone), "{proxy} does not end");
    }

    /// Both proxies begin again with another durability.
    pub fn change_durability(&mut self, durability: &str) {
        durability.clone_into(&mut self.durability);
        self.proxies().iter().for_each(|proxy| self.stop_proxy(proxy));
        self.proxies().iter().for_each(|proxy| self.start_proxy(proxy));
        self.wait_serving();
        self.wait_whole();
        let waits = |shard: &&str| {
            let names = self.ask(&self.leader(shard).0, "SHOW synchronous_standby_names");
            names.is_ok_and(|rows| rows[0][0].is_empty() == (durability == "async"))
        };
        assert!(eventually(PATIENCE, || SHARDS.iter().all(waits)), "the servers do not go by {durability}");
    }
}

/// A session of the application.
pub fn app(address: SocketAddr) -> io::Result<Raw> {
    Raw::connect_to(address, &[("user", "app"), ("database", "app"), ("client_encoding", "UTF8")])
}
