//! Servers, taps before them, and the product in between.

use std::fs;
use std::time::{Duration, Instant};

use crate::catalogue::SCHEMA;
use crate::cluster::{Cluster, Placement, eventually};
use crate::frames::{Frame, Wire};
use crate::wire_proxy::WireProxy;

const TABLES: [(&str, Placement); 2] = [("items", Placement::Key(&["id"])), ("ledger", Placement::Key(&["part"]))];

/// It looks after clients once a second.
const TIDY: Duration = Duration::from_secs(8);

/// A cluster of shards behind taps, with one PostgreSQL of the same tables to compare with.
pub struct World {
    pub cluster: Cluster,
    pub taps: Vec<WireProxy>,
    /// A key of `items` on each shard.
    pub keys: Vec<String>,
    /// What a fresh session saw first.
    pub first_look: Vec<Vec<String>>,
    /// How long the product may take to tidy up behind a fault.
    pub tidy: Duration,
    supers: Vec<Wire>,
    admin: Option<Wire>,
}

impl World {
    /// Starts it; `pool` is what stands in `[pool]`.
    pub fn start(shards: usize, pool: &str) -> Self {
        let mut cluster = Cluster::without_proxy(shards, &TABLES);
        let taps: Vec<WireProxy> = cluster.shards.iter().map(|server| WireProxy::start(server.port)).collect();
        let mut text = fs::read_to_string(cluster.config()).unwrap();
        for (server, tap) in cluster.shards.iter().zip(&taps) {
            text = text.replace(&format!("port = {}\n", server.port), &format!("port = {}\n", tap.port));
        }
        text.push_str(&format!("\n[pool]\n{pool}\n"));
        fs::write(cluster.config(), text).unwrap();
        cluster.start_proxy();
        for port in [cluster.oracle.port, cluster.port] {
            let mut wire = Wire::app(port, "app").unwrap();
            for statement in SCHEMA {
                let answer = wire.simple(statement).unwrap();
                assert!(answer.iter().all(|frame| frame.tag != b'E'), "{statement}: {answer:?}");
            }
        }
        let connect = |port: u16| Wire::connect(port, &[("user", "postgres"), ("database", "app")]).unwrap();
        let supers = cluster.shards.iter().map(|server| connect(server.port)).collect();
        let mut world =
            Self { cluster, taps, keys: Vec::new(), first_look: Vec::new(), tidy: TIDY, supers, admin: None };
        world.keys =
            (0..shards).map(|shard| world.ask(shard, "SELECT min(id) FROM items").remove(0).remove(0)).collect();
        world.first_look = crate::aftermath::look_around(&world, 0).unwrap();
        world
    }

    /// The product's port.
    pub fn port(&self) -> u16 {
        self.cluster.port
    }

    /// A new process of the product before the same shards.
    pub fn restart(&mut self) {
        self.admin = None;
        self.cluster.kill_proxy();
        self.cluster.start_proxy();
    }

    /// The pools begin again with connections that nobody has used.
    pub fn fresh(&self) {
        self.taps.iter().for_each(WireProxy::cut_all);
        let gone = eventually(TIDY, || self.taps.iter().all(|tap| tap.open() == 0));
        assert!(gone, "connections stay open");
    }

    /// Rows of a question to a shard as superuser.
    pub fn ask(&mut self, shard: usize, sql: &str) -> Vec<Vec<String>> {
        rows(&self.supers[shard].simple(sql).unwrap())
    }

    /// Asks every shard as superuser.
    pub fn each(&mut self, sql: &str) {
        for shard in 0..self.supers.len() {
            self.ask(shard, sql);
        }
    }

    /// The sum over the shards of a question that gives one number.
    pub fn sum(&mut self, sql: &str) -> usize {
        (0..self.supers.len()).map(|shard| self.ask(shard, sql)[0][0].parse::<usize>().unwrap()).sum()
    }

    /// Waits until a number is nought on all shards; what it is in the end.
    pub fn settles(&mut self, sql: &str) -> usize {
        let end = Instant::now() + self.tidy;
        loop {
            let left = self.sum(sql);
            if left == 0 || Instant::now() > end {
                return left;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Used connections, and those that wait for one, of the application's pools.
    pub fn busy(&mut self) -> String {
        let port = self.port();
        let admin = self.admin.get_or_insert_with(|| Wire::app(port, "ostrakon").unwrap());
        let frames = admin.simple("SHOW POOLS").unwrap();
        let names = column_names(&frames);
        let place = |name: &str| names.iter().position(|known| known == name);
        let mut found = Vec::new();
        for row in rows(&frames) {
            let cell = |name: &str| place(name).and_then(|at| row.get(at)).cloned().unwrap_or_default();
            if cell("user") == "app" && (cell("used") != "0" || cell("waiting") != "0") {
                found.push(format!("{} used, {} waiting", cell("used"), cell("waiting")));
            }
        }
        found.join("; ")
    }

    /// Waits until no connection is used; what is in the end.
    pub fn idles(&mut self) -> Option<String> {
        let mut last = String::new();
        let calm = eventually(self.tidy, || {
            last = self.busy();
            last.is_empty()
        });
        (!calm).then_some(last)
    }
}

/// The rows of an answer as text.
pub fn rows(frames: &[Frame]) -> Vec<Vec<String>> {
    frames.iter().filter(|frame| frame.tag == b'D').map(Frame::texts).collect()
}

fn column_names(frames: &[Frame]) -> Vec<String> {
    let Some(description) = frames.iter().find(|frame| frame.tag == b'T') else { return Vec::new() };
    let mut names = Vec::new();
    let mut rest = &description.body[2..];
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = rest.get(end + 19..).unwrap_or_default();
    }
    names
}
