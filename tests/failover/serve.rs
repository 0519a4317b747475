//! `ostrakon serve` over servers that somebody else runs: their primary is killed under sessions of the proxy.

use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{Server, eventually, free_port};
use crate::raw::Raw;

pub struct Ground {
    pub primary: Option<Server>,
    replicas: Vec<Server>,
    pub port: u16,
    child: Child,
    directory: tempfile::TempDir,
}

impl Ground {
    /// `failover`: more lines of that section.
    pub fn start(failover: &str) -> Self {
        // The servers say synchronous_commit = off: the sessions of the proxy wait all the same.
        let settings = ["wal_retrieve_retry_interval=20ms", "wal_receiver_status_interval=1"];
        let primary = Server::start_all(&["s1".to_owned()]).remove(0);
        let mut replicas: Vec<Server> =
            ["s1b", "s1c"].iter().map(|name| Server::start_replica(name, &primary, &settings)).collect();
        replicas.iter_mut().for_each(Server::wait);
        let directory = tempfile::Builder::new().prefix("ostrakon-serve-").tempdir_in("/tmp").unwrap();
        let port = free_port();
        let mut text = format!(
            "[proxy]\nlisten = \"127.0.0.1:{port}\"\ndata = \"{}\"\ndatabase = \"app\"\n\n[control]\nuser = \"postgres\"\n\n\
             [failover]\ndurability = \"any(1)\"\n{failover}\n[[users]]\nname = \"app\"\n\n[[shards]]\nname = \"s1\"\n",
            directory.path().join("data").display(),
        );
        for server in std::iter::once(&primary).chain(&replicas) {
            let (name, port) = (&server.name, server.port);
            let _ = write!(text, "[[shards.nodes]]\nname = \"{name}-n\"\nhost = \"127.0.0.1\"\nport = {port}\n");
        }
        let config = directory.path().join("ostrakon.toml");
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_ostrakon"), "serve", "--config"])
            .arg(config)
            .env("OSTRAKON_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let ground = Self { primary: Some(primary), replicas, port, child, directory };
        let ready = eventually(Duration::from_secs(60), || {
            Raw::connect(port, "app", "app")
                .and_then(|mut raw| raw.simple("SELECT 1"))
                .is_ok_and(|reply| reply.fault().is_none())
        });
        assert!(ready, "{}", ground.log());
        ground
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Commits wait for both replicas.
    pub fn until_whole(&self) {
        let synchronous = || self.nodes().iter().filter(|row| row.get(9).is_some_and(|sync| sync == "true")).count();
        assert!(eventually(Duration::from_secs(30), || synchronous() == 2), "{:?}", self.nodes());
    }

    /// Nodes with their roles, and how many of them commits wait for.
    fn nodes(&self) -> Vec<Vec<String>> {
        let mut admin = Raw::connect(self.port, "postgres", "ostrakon").unwrap();
        admin.must("SHOW NODES").texts()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

fn no_session_lowers_what_commits_wait_for(port: u16) {
    let mut app = Raw::connect(port, "app", "app").unwrap();
    for text in [
        "SET synchronous_commit = off",
        "BEGIN; SET LOCAL synchronous_commit TO 'local'",
        "SELECT set_config('synchronous_commit', 'remote_write', false)",
        "ALTER ROLE app SET synchronous_commit = off",
    ] {
        assert_eq!(app.simple(text).unwrap().sqlstate(), "42501", "{text}");
        app.must("ROLLBACK");
    }
    assert_eq!(app.extended("SET synchronous_commit = off", &[], None).unwrap().sqlstate(), "42501");
    app.must("SET synchronous_commit = remote_apply");
    assert_eq!(app.must("SHOW synchronous_commit").value(), "remote_apply");
    app.must("RESET synchronous_commit");
    assert_eq!(app.must("SHOW synchronous_commit").value(), "on");
    for (name, value) in [("synchronous_commit", "off"), ("options", "-c synchronous_commit=local")] {
        assert!(Raw::connect_with(port, &[("user", "app"), ("database", "app"), (name, value)]).is_err(), "{name}");
    }
}

#[test]
fn a_primary_that_serve_leads_is_replaced_over_sql_alone() {
    let mut ground = Ground::start("");
    let port = ground.port;
    let connect = move || Raw::connect(port, "app", "app").unwrap();
    connect().must("CREATE TABLE written (k bigint PRIMARY KEY)");
    ground.until_whole();
    no_session_lowers_what_commits_wait_for(port);
    let (is_over, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(1)));
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (is_over, next) = (Arc::clone(&is_over), Arc::clone(&next));
            std::thread::spawn(move || {
                let (mut acknowledged, mut errors, mut app) = (Vec::new(), 0, Raw::connect(port, "app", "app").ok());
                while !is_over.load(Ordering::Relaxed) {
                    let key = next.fetch_add(1, Ordering::Relaxed);
                    let said = app.as_mut().map(|app| app.simple(&format!("INSERT INTO written VALUES ({key})")));
                    match said {
                        Some(Ok(reply)) if reply.fault().is_none() => acknowledged.push((Instant::now(), key)),
                        _ => {
                            errors += 1;
                            app = Raw::connect(port, "app", "app").ok();
                        }
                    }
                }
                (acknowledged, errors)
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    let at = Instant::now();
    // Its end takes all of it along, at once.
    drop(ground.primary.take());
    std::thread::sleep(Duration::from_secs(6));
    is_over.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut errors) = (Vec::new(), 0);
    for writer in writers {
        let (more, failed) = writer.join().unwrap();
        acknowledged.extend(more);
        errors += failed;
    }
    let there: std::collections::BTreeSet<String> =
        connect().must("SELECT k FROM written").texts().into_iter().map(|mut row| row.remove(0)).collect();
    let lost = acknowledged.iter().filter(|(_, key)| !there.contains(&key.to_string())).count();
    acknowledged.sort();
    let outage = acknowledged.windows(2).filter(|pair| pair[1].0 > at).map(|pair| pair[1].0 - pair[0].0).max();
    println!(
        "serve: {} acknowledged, {lost} lost, {errors} errors of 8 writers, outage {:?}",
        acknowledged.len(),
        outage.unwrap_or_default()
    );
    assert_eq!(lost, 0);
    assert!(acknowledged.last().is_some_and(|(last, _)| *last > at + Duration::from_secs(3)), "{}", ground.log());
    let leading: Vec<_> = ground.nodes().into_iter().filter(|row| row[2] == "primary").collect();
    assert!(leading.len() == 1 && leading[0][1] != "s1-n", "{leading:?}");
    assert_eq!(ground.replicas.len(), 2);
}
