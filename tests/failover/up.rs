//! A whole cluster as `ostrakon up` makes it: a primary is killed under clients of the proxy.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostrakon::host::process;
use parking_lot::Mutex;
use tokio_postgres::{Client, NoTls};

pub struct Ground {
    directory: tempfile::TempDir,
    pub listen: u16,
    first_port: u16,
}

impl Ground {
    pub fn up(listen: u16, first_port: u16, replicas: &str) -> Self {
        Self::of(listen, first_port, "1", replicas)
    }

    pub fn of(listen: u16, first_port: u16, shards: &str, replicas: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("ostrakon-up-").tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let ground = Self { directory, listen, first_port };
        ground.run(&["up", "--shards", shards, "--replicas", replicas, "--detach"]);
        ground
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
        command.args(arguments).arg("--data").arg(self.directory.path()).stdin(Stdio::null());
        if arguments.first() == Some(&"up") {
            command.arg("--listen").arg(format!("127.0.0.1:{}", self.listen));
            command.arg("--first-port").arg(self.first_port.to_string());
        }
        let output = command.output().unwrap();
        let log = std::fs::read_to_string(self.directory.path().join("ostrakon.log")).unwrap_or_default();
        assert!(output.status.success(), "{arguments:?}: {}\n{log}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What the proxy has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("ostrakon.log")).unwrap_or_default()
    }

    /// Ends a server and all its children.
    fn end(&self, node: &str) {
        self.signal(node, Signal::SIGKILL);
    }

    /// Signals a server and all its children.
    pub fn signal(&self, node: &str, signal: Signal) {
        for pid in process::working_in(&self.directory.path().join("nodes").join(node)) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    }

    pub async fn client(&self) -> Option<Client> {
        connect(self.listen).await
    }

    /// The primary of the first shard.
    pub fn primary(&self) -> String {
        self.primary_of(0)
    }

    /// The primary of a shard as the status tells it: the first node.
    pub fn primary_of(&self, shard: usize) -> String {
        let document: serde_json::Value = serde_json::from_str(&self.run(&["status", "--output", "json"])).unwrap();
        let node = &document["shards"][shard]["nodes"][0];
        assert_eq!(node["role"], "primary", "{document}");
        node["name"].as_str().unwrap().to_owned()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let down = Command::new(env!("CARGO_BIN_EXE_ostrakon"))
            .arg("down")
            .arg("--data")
            .arg(self.directory.path())
            .stdin(Stdio::null())
            .output();
        if !down.is_ok_and(|output| output.status.success()) {
            for node in ["s1a", "s1b", "s1c", "s2a", "s2b", "s2c"] {
                self.end(node);
            }
        }
    }
}

pub async fn connect(port: u16) -> Option<Client> {
    let text = format!("host=127.0.0.1 port={port} user=app dbname=app connect_timeout=5");
    let (client, connection) = tokio_postgres::connect(&text, NoTls).await.ok()?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Some(client)
}

/// Rounds of: writers through the proxy, the primary killed under them, nothing lost.
async fn kill_primaries(ground: &Ground, rounds: usize) {
    let client = ground.client().await.unwrap();
    client.batch_execute("CREATE TABLE written (k bigint PRIMARY KEY)").await.unwrap();
    let next = Arc::new(AtomicI64::new(1));
    for round in 1..=rounds {
        let acknowledged: Arc<Mutex<Vec<(Instant, i64)>>> = Arc::default();
        let is_over = Arc::new(AtomicBool::new(false));
        let errors = Arc::new(AtomicI64::new(0));
        let writers: Vec<_> = (0..8)
            .map(|_| {
                let (acknowledged, is_over) = (Arc::clone(&acknowledged), Arc::clone(&is_over));
                let (next, errors, port) = (Arc::clone(&next), Arc::clone(&errors), ground.listen);
                tokio::spawn(async move {
                    while !is_over.load(Ordering::Relaxed) {
                        let Some(client) = connect(port).await else {
                            errors.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(10)).await;
                            continue;
                        };
                        while !is_over.load(Ordering::Relaxed) && !client.is_closed() {
                            let key = next.fetch_add(1, Ordering::Relaxed);
                            match client.execute("INSERT INTO written VALUES ($1)", &[&key]).await {
                                Ok(_) => acknowledged.lock().push((Instant::now(), key)),
                                Err(_) => {
                                    errors.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let old = ground.primary();
        let at = Instant::now();
        ground.end(&old);
        tokio::time::sleep(Duration::from_secs(12)).await;
        is_over.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        let acknowledged = std::mem::take(&mut *acknowledged.lock());
        let rows = ground.client().await.unwrap().query("SELECT k FROM written", &[]).await.unwrap();
        let there: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        let lost = acknowledged.iter().filter(|(_, key)| !there.contains(key)).count();
        let mut times: Vec<Instant> = acknowledged.iter().map(|(time, _)| *time).collect();
        times.sort();
        let outage = times.windows(2).filter(|pair| pair[1] > at).map(|pair| pair[1] - pair[0]).max();
        println!(
            "round {round}: {old} killed, {} leads; {} acknowledged, {lost} lost, {} errors, outage {} ms",
            ground.primary(),
            acknowledged.len(),
            errors.load(Ordering::Relaxed),
            outage.unwrap_or_default().as_millis()
        );
        assert_eq!(lost, 0);
        assert!(times.last().is_some_and(|last| *last > at + Duration::from_secs(5)), "nothing was written again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_primaries_are_replaced_and_come_back() {
    let ground = Ground::up(21_700, 21_701, "2");
    kill_primaries(&ground, 3).await;
    // Started again it goes on where it was.
    let before = ground.primary();
    ground.run(&["down"]);
    ground.run(&["up", "--detach"]);
    assert_eq!(ground.primary(), before);
    ground.client().await.unwrap().batch_execute("INSERT INTO written VALUES (0)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_single_replica_it_is_the_same() {
    let ground = Ground::up(21_800, 21_801, "1");
    kill_primaries(&ground, 2).await;
}

/// Writers that reconnect for nothing: each error is one too many. Half of them write in transactions of two statements.
fn writers(port: u16, is_over: &Arc<AtomicBool>, next: &Arc<AtomicI64>) -> Vec<tokio::task::JoinHandle<Vec<i64>>> {
    let one = |number: usize, is_over: Arc<AtomicBool>, next: Arc<AtomicI64>| async move {
        let mut client = connect(port).await.unwrap();
        let mut acknowledged = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let key = next.fetch_add(2, Ordering::Relaxed);
            if number.is_multiple_of(2) {
                client.execute("INSERT INTO written VALUES ($1)", &[&key]).await.unwrap();
            } else {
                let transaction = client.transaction().await.unwrap();
                transaction.execute("INSERT INTO written VALUES ($1)", &[&key]).await.unwrap();
                transaction.execute("INSERT INTO written VALUES ($1)", &[&(key + 1)]).await.unwrap();
                transaction.commit().await.unwrap();
                acknowledged.push(key + 1);
            }
            acknowledged.push(key);
        }
        acknowledged
    };
    (0..8).map(|number| tokio::spawn(one(number, Arc::clone(is_over), Arc::clone(next)))).collect()
}

impl Ground {
    /// Waits until commits wait for so many nodes.
    pub async fn whole(&self, members: usize) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let text = format!("host=127.0.0.1 port={} user=postgres dbname=ostrakon", self.listen);
            let (client, connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
            tokio::spawn(async move {
                let _ = connection.await;
            });
            let rows = client.simple_query("SHOW NODES").await.unwrap();
            let counts = |message: &tokio_postgres::SimpleQueryMessage| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get("sync") == Some("true"),
                _ => false,
            };
            if rows.iter().filter(|message| counts(message)).count() == members {
                return;
            }
            assert!(Instant::now() < end, "{rows:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn fails(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
        let output = command.args(arguments).arg("--data").arg(self.directory.path()).stdin(Stdio::null()).output();
        let output = output.unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_under_load_cuts_nobody() {
    let ground = Ground::up(21_900, 21_901, "2");
    let client = ground.client().await.unwrap();
    client.batch_execute("CREATE TABLE written (k bigint PRIMARY KEY)").await.unwrap();
    ground.whole(2).await;
    assert!(ground.fails(&["switchover", "s1"]).contains("--yes"), "nobody confirms");
    assert!(ground.fails(&["switchover", "s1", "--to", "s1a", "--yes"]).contains("primary already"));
    assert!(ground.fails(&["switchover", "s1", "--to", "s9", "--yes"]).contains("no node"));
    assert!(ground.fails(&["switchover", "s9", "--yes"]).contains("no shard"));
    let plan = ground.run(&["switchover", "s1", "--to", "s1b", "--dry-run"]);
    assert!(plan.contains("would hand over to s1b"), "{plan}");
    assert_eq!(ground.primary(), "s1a");
    let (is_over, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(1)));
    let writing = writers(ground.listen, &is_over, &next);
    for to in ["s1b", "s1c", "s1a"] {
        tokio::time::sleep(Duration::from_secs(2)).await;
        ground.whole(2).await;
        let said = ground.run(&["switchover", "s1", "--to", to, "--yes", "--output", "json"]);
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        println!("switchover under 8 writers: {said}");
        assert_eq!((said["to"].as_str(), said["state"].as_str()), (Some(to), Some("done")));
        assert_eq!(ground.primary(), to);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    is_over.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writing {
        acknowledged.extend(writer.await.expect("a writer had an error"));
    }
    let rows = client.query("SELECT k FROM written", &[]).await.unwrap();
    let there: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    let lost = acknowledged.iter().filter(|key| !there.contains(key)).count();
    println!("{} rows acknowledged, {lost} lost, 0 errors", acknowledged.len());
    assert_eq!(lost, 0);
}
