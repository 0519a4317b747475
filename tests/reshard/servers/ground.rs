//! A cluster of `ostrakon up` with one shard, tables that are sharded already, and rows.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use ostrakon::base::{BucketId, ShardId};
use ostrakon::topology::{BucketMap, KeyValue, hash, ring};
use serde_json::Value;

use crate::cluster::{Up, ostrakon, signal};
use crate::raw::Raw;

pub struct Ground {
    pub up: Up,
}

impl Ground {
    /// Rows that no writer touches stand in `ballast`.
    pub fn new(ballast: u32) -> Self {
        Self::with_replicas(ballast, 0)
    }

    /// The same with replicas.
    pub fn with_replicas(ballast: u32, replicas: usize) -> Self {
        let up = Up::start(1, replicas, &[]);
        let mut app = up.app();
        app.must(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, owner int NOT NULL, balance bigint NOT NULL); \
             CREATE TYPE mood AS ENUM ('ok', 'bad'); \
             CREATE TABLE events (account bigint REFERENCES accounts, id bigint, note text, PRIMARY KEY (account, id)); \
             CREATE TABLE ballast (tenant text, id int, at timestamptz, amount numeric(12,2), m mood, ms mood[], j jsonb) \
               PARTITION BY LIST (m)",
        );
        app.must(
            "CREATE TABLE ballast_ok PARTITION OF ballast FOR VALUES IN ('ok'); \
             CREATE TABLE ballast_bad PARTITION OF ballast DEFAULT; \
             CREATE TABLE kinds (id int PRIMARY KEY, name text); INSERT INTO kinds SELECT i, 'kind ' || i FROM generate_series(1, 20) i",
        );
        app.must(&format!(
            "INSERT INTO ballast SELECT 'tenant ' || i % 5000, i, now(), i / 7.0, CASE i % 3 WHEN 0 THEN 'bad' ELSE 'ok' END::mood, \
             ARRAY['ok', 'bad']::mood[], jsonb_build_object('i', i) FROM generate_series(1, {ballast}) i"
        ));
        app.must(&format!(
            "INSERT INTO accounts SELECT -i, -1, i FROM generate_series(1, {ballast} / 4) i; \
             INSERT INTO events SELECT -i, i, 'ballast' FROM generate_series(1, {ballast} / 4) i"
        ));
        let ground = Self { up };
        ground.run(&["table", "shard", "accounts", "--key", "id"]);
        ground.run(&["table", "shard", "events", "--key", "account"]);
        ground.run(&["table", "shard", "ballast", "--key", "tenant,id"]);
        ground.run(&["table", "reference", "kinds"]);
        ground
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let mut command = ostrakon();
        command.args(arguments).arg("--data").arg(self.up.data());
        command.output().unwrap()
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A command that has to fail; what it said.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A command of `reshard`, unless the job is where it leads already; what the job says then.
    pub fn reshard(&self, arguments: &[&str]) -> String {
        if self.job()["phase"] != "none" && arguments.first() == Some(&"start") {
            self.wait_for("moved");
        } else {
            self.run(&[&["reshard"], arguments].concat());
        }
        assert_eq!(self.job()["phase"], "moved");
        self.run(&["reshard", "status"]).lines().next().unwrap_or_default().to_owned()
    }

    pub fn job(&self) -> Value {
        let text = self.run(&["reshard", "status", "--output", "json"]);
        let job: Value = serde_json::from_str(&text).unwrap();
        if job.is_null() { serde_json::json!({ "phase": "none" }) } else { job }
    }

    pub fn wait_for(&self, phase: &str) {
        let begun = Instant::now();
        loop {
            let job = self.job();
            if job["phase"] == phase {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "not {phase}: {job}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the job has stopped by itself; why.
    pub fn trouble(&self) -> String {
        let begun = Instant::now();
        loop {
            let job = self.job();
            if job["paused"] == true && job["trouble"].is_string() {
                return job["trouble"].as_str().unwrap().to_owned();
            }
            assert!(begun.elapsed() < Duration::from_secs(60) && job["phase"] != "moved", "{job}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The ports of the primaries, by name.
    fn ports(&self) -> Vec<(String, u16)> {
        let status = self.up.status();
        let nodes = status["shards"].as_array().unwrap().iter().flat_map(|shard| shard["nodes"].as_array().unwrap());
        let primaries = nodes.filter(|node| node["role"] == "primary");
        primaries
            .map(|node| (node["name"].as_str().unwrap().to_owned(), node["port"].as_u64().unwrap() as u16))
            .collect()
    }

    /// A session of the superuser on a server.
    pub fn server(&self, node: &str) -> Raw {
        Raw::connect(self.port(node), "postgres", "app").unwrap()
    }

    pub fn port(&self, node: &str) -> u16 {
        self.ports().into_iter().find(|(name, _)| name == node).unwrap().1
    }

    pub fn servers(&self) -> Vec<Raw> {
        self.ports().into_iter().map(|(_, port)| Raw::connect(port, "postgres", "app").unwrap()).collect()
    }

    /// Rows of sharded tables.
    pub fn row_count(&self) -> f64 {
        let sql =
            "SELECT (SELECT count(*) FROM accounts) + (SELECT count(*) FROM events) + (SELECT count(*) FROM ballast)";
        self.servers().into_iter().map(|mut server| server.must(sql).value().parse::<f64>().unwrap()).sum()
    }

    pub fn buckets(&self, shard: &str) -> u64 {
        let status = self.up.status();
        let shards = status["shards"].as_array().unwrap();
        shards.iter().find(|known| known["name"] == shard).map_or(0, |known| known["buckets"].as_u64().unwrap())
    }

    /// Whatever a job could have left on the servers.
    pub fn leftovers(&self) -> Vec<String> {
        let sql = "SELECT 'prepared ' || gid FROM pg_prepared_xacts WHERE gid LIKE 'ostrakon-reshard-%' \
                   UNION ALL SELECT 'index ' || relname FROM pg_class WHERE relname LIKE 'ostrakon%' AND relkind = 'i' AND relnamespace = 'public'::regnamespace \
                   UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE slot_type = 'logical' \
                   UNION ALL SELECT 'publication ' || pubname FROM pg_publication \
                   UNION ALL SELECT 'subscription ' || subname FROM pg_subscription \
                   UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal \
                   UNION ALL SELECT 'session ' || application_name FROM pg_stat_activity \
                     WHERE application_name LIKE 'ostrakon reshard%' AND state LIKE 'idle in%'";
        self.servers()
            .into_iter()
            .flat_map(|mut server| server.must(sql).texts().into_iter().flatten().collect::<Vec<_>>())
            .collect()
    }

    /// Of all rows, as clients see them.
    pub fn checksum(&self) -> Vec<String> {
        let mut app = self.up.app();
        ["accounts", "events", "ballast", "kinds"]
            .map(|table| {
                let rows = app.must(&format!("SELECT * FROM {table}")).texts();
                let mut rows: Vec<String> = rows.into_iter().map(|row| row.join("|")).collect();
                rows.sort();
                format!(
                    "{table} {} {:x}",
                    rows.len(),
                    rows.iter().fold(0u64, |sum, row| {
                        row.bytes()
                            .fold(sum.wrapping_mul(31), |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)))
                    })
                )
            })
            .to_vec()
    }

    /// A key whose bucket a second shard takes and has not got yet.
    pub fn key_that_has_to_move(&self) -> i64 {
        let all = BucketMap::all_to(ShardId(1));
        let wanted = ring::propose(&[(ShardId(1), 100), (ShardId(2), 100)], Some(&all));
        let text = self.run(&["topology", "--output", "json"]);
        assert!(text.contains("s2"), "{text}");
        // The last bucket that moves is the last to have moved.
        let last = (0..16_384).rev().map(BucketId).find(|bucket| wanted.owner(*bucket) == ShardId(2)).unwrap();
        (1i64..).find(|key| hash::bucket(&[KeyValue::Int(*key)]) == last).unwrap()
    }

    /// A key whose bucket the first shard keeps.
    pub fn key_that_stays(&self) -> i64 {
        let all = BucketMap::all_to(ShardId(1));
        let wanted = ring::propose(&[(ShardId(1), 100), (ShardId(2), 100)], Some(&all));
        let is_kept = |key: &i64| wanted.owner(hash::bucket(&[KeyValue::Int(*key)])) == ShardId(1);
        (1_000_000i64..).find(is_kept).unwrap()
    }

    pub fn wait_until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let job = self.job();
            if holds(&job) {
                return job;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "no {what}: {job}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Cancels the job as soon as it has so many steps, on a connection that is there: a step may be over before a program has
    /// started.
    pub fn cancel_after(&self, steps: u64) {
        let mut admin = Raw::connect(self.up.port, "app", "ostrakon").unwrap();
        let begun = Instant::now();
        loop {
            let reply = admin.must("SHOW RESHARD");
            let columns = reply.answers[0].columns.as_ref().unwrap();
            let at = columns.iter().position(|column| column.name == "steps").unwrap();
            if reply.texts().first().is_some_and(|row| row[at].parse::<u64>().unwrap() >= steps) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "no step {steps}");
            std::thread::sleep(Duration::from_millis(2));
        }
        admin.must("RESHARD CANCEL");
        self.wait_for("none");
    }

    /// So many steps, or more.
    pub fn wait_for_steps(&self, count: u64) {
        self.wait_until("step", |job| job["steps"].as_u64().is_some_and(|steps| steps >= count));
    }

    /// So many steps, or none that is left.
    pub fn wait_for_steps_or_end(&self, count: u64) {
        let is_there = |job: &Value| job["steps"].as_u64().is_some_and(|steps| steps >= count);
        self.wait_until("further step", |job| job["phase"] == "moved" || is_there(job));
    }

    /// Why the job does not get on at the moment.
    pub fn wait_for_trouble(&self) -> String {
        self.wait_until("trouble", |job| job["trouble"].is_string())["trouble"].as_str().unwrap().to_owned()
    }

    pub fn kill_proxy(&self) {
        let file = std::fs::read_to_string(self.up.data().join("proxy.json")).unwrap();
        let file: Value = serde_json::from_str(&file).unwrap();
        signal(u32::try_from(file["pid"].as_u64().unwrap()).unwrap(), nix::sys::signal::Signal::SIGKILL);
    }

    pub fn start_proxy(&self) {
        let mut command: Command = ostrakon();
        command.arg("up").arg("--data").arg(self.up.data());
        command.args(["--listen", &format!("127.0.0.1:{}", self.up.port), "--detach"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
