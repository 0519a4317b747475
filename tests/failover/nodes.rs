//! Nodes by command on real servers, a rolling restart and a drain under load, servers that somebody starts again.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostrakon::host::process;

use crate::cluster::{as_servers, eventually, free_port, pg_bin, signal};
use crate::hosts::{Hosts, Writers};
use crate::raw::Raw;

const LIMIT: Duration = Duration::from_secs(120);

fn there(hosts: &Hosts) -> BTreeSet<String> {
    let rows = hosts.client().must("SELECT k FROM written").texts();
    rows.into_iter().map(|mut row| row.remove(0)).collect()
}

fn lost(hosts: &Hosts, acknowledged: &[(Instant, i64)]) -> usize {
    let there = there(hosts);
    acknowledged.iter().filter(|(_, key)| !there.contains(&key.to_string())).count()
}

/// The longest time without an acknowledgement.
fn pause(acknowledged: &[(Instant, i64)]) -> u128 {
    acknowledged.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_millis()).max().unwrap_or_default()
}

#[test]
fn nodes_come_go_and_are_made_anew_under_writers() {
    let mut hosts = Hosts::start(512);
    let writers = Writers::start(hosts.port, 4);
    let port = hosts.add_port("s1d").to_string();
    let add = ["node", "add", "s1", "--name", "s1d", "--host", "127.0.0.1", "--port", &port];
    let planned = hosts.must(&[&add[..], &["--dry-run"]].concat());
    assert!(planned.contains("planned") && !hosts.nodes().iter().any(|row| row[1] == "s1d"), "{planned}");
    let at = Instant::now();
    println!("{}", hosts.must(&add).trim());
    assert!(!hosts.run(&add).0, "it is there already");
    hosts.start_agent("s1d");
    assert!(eventually(LIMIT, || hosts.counts("s1d")), "{}", hosts.told());
    println!("added: counts after {} ms", at.elapsed().as_millis());

    let primary = hosts.primary();
    for verb in ["remove", "rebuild", "restart"] {
        let (is_done, said) = hosts.run(&["node", verb, &primary, "--yes"]);
        assert!(!is_done && said.contains("is the primary"), "{said}");
    }
    let at = Instant::now();
    println!("{}", hosts.must(&["node", "rebuild", "s1b", "--yes", "--wait", "--output", "json"]).trim());
    println!("rebuilt: counts after {} ms", at.elapsed().as_millis());
    assert!(hosts.agent_log("s1b").matches("how=Copied").count() >= 2, "{}", hosts.agent_log("s1b"));

    let at = Instant::now();
    println!("{}", hosts.must(&["node", "remove", "s1c", "--yes"]).trim());
    println!("removed after {} ms", at.elapsed().as_millis());
    assert!(!hosts.nodes().iter().any(|row| row[1] == "s1c"), "{:?}", hosts.nodes());
    let mut server = hosts.server(&primary).unwrap();
    let slots = server.must("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 's1c'").value();
    let names = server.must("SHOW synchronous_standby_names").value();
    assert_eq!(slots, "0");
    assert!(!names.contains("s1c") && names.contains("s1d"), "{names}");
    let listed = hosts.must(&["node", "list"]);
    assert!(listed.contains("lsn") && listed.contains("s1d") && !listed.contains("s1c"), "{listed}");
    println!("{listed}");

    let (errors, acknowledged) = (std::sync::Arc::clone(&writers.errors), writers.finish());
    let (lost, errors) = (lost(&hosts, &acknowledged), errors.load(Ordering::Relaxed));
    println!("{} acknowledged, {lost} lost, {errors} errors", acknowledged.len());
    assert_eq!((lost, errors), (0, 0));
    // With two left and one needed, the last replica stays.
    hosts.must(&["node", "remove", "s1d", "--yes"]);
    let (is_done, said) = hosts.run(&["node", "remove", "s1b", "--yes"]);
    assert!(!is_done && said.contains("cannot go on without it"), "{said}");
    assert!(hosts.counts("s1b"), "{}", hosts.told());
}

#[test]
fn servers_are_restarted_one_by_one_without_an_error() {
    let hosts = Hosts::start(512);
    let started = |node: &str| {
        hosts.server(node).map(|mut raw| raw.must("SELECT pg_postmaster_start_time()").value()).unwrap_or_default()
    };
    let nodes = ["s1a", "s1b", "s1c"];
    let before: Vec<String> = nodes.iter().map(|node| started(node)).collect();
    let writers = Writers::start(hosts.port, 8);
    std::thread::sleep(Duration::from_secs(1));
    let said = hosts.must(&["restart", "s1", "--yes"]);
    print!("{said}");
    std::thread::sleep(Duration::from_secs(1));
    let (errors, acknowledged) = (std::sync::Arc::clone(&writers.errors), writers.finish());
    let (lost, errors, pause) = (lost(&hosts, &acknowledged), errors.load(Ordering::Relaxed), pause(&acknowledged));
    println!("{} acknowledged, {lost} lost, {errors} errors, longest pause {pause} ms", acknowledged.len());
    assert_eq!((lost, errors), (0, 0), "{}", hosts.told());
    for (node, before) in nodes.iter().zip(before) {
        assert_ne!(started(node), before, "{node} was restarted");
    }
    assert_ne!(hosts.primary(), "s1a");
}

#[test]
fn what_only_the_lost_nodes_had_is_given_up_by_command_only() {
    let mut hosts = Hosts::start(512);
    let mut client = hosts.client();
    client.must("INSERT INTO written VALUES (1)");
    // For good: nobody starts them again.
    for node in ["s1a", "s1b"] {
        hosts.kill_agent(node);
        hosts.end(node);
        std::fs::remove_dir_all(hosts.data(node)).unwrap();
    }
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(hosts.primary(), "s1a", "what is left proves nothing");
    let (is_done, said) = hosts.run(&["failover", "s1", "--yes"]);
    assert!(!is_done, "{said}");
    let at = Instant::now();
    println!("{}", hosts.must(&["failover", "s1", "--allow-data-loss", "--yes"]).trim());
    assert_eq!(hosts.primary(), "s1c");
    println!("led by the last one after {} ms; no standby is left to wait for", at.elapsed().as_millis());
    // A node comes back, empty, and commits wait for one again.
    hosts.start_agent("s1b");
    assert!(eventually(LIMIT, || hosts.counts("s1b")), "{}", hosts.told());
    hosts.client().must("INSERT INTO written VALUES (2)");
    assert_eq!(there(&hosts), ["1".to_owned(), "2".to_owned()].into());
}

/// What a load balancer is told.
fn ready(port: u16) -> Option<u16> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split(' ').nth(1)?.parse().ok()
}

#[test]
fn a_drained_proxy_ends_when_its_transactions_have() {
    let mut hosts = Hosts::of(&["s1a"], "async", 512);
    let http = free_port();
    let config = hosts.directory.path().join("ostrakon.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n[http]\nlisten = \"127.0.0.1:{http}\"\n")).unwrap();
    signal(hosts.serve_pid(), Signal::SIGTERM);
    assert_eq!(hosts.serve_ended(LIMIT), Some(true));
    hosts.start_serve();
    hosts.client().must("CREATE TABLE written (k bigint PRIMARY KEY)");
    let (mut idle, mut busy) = (hosts.client(), hosts.client());
    busy.must("BEGIN");
    busy.must("INSERT INTO written VALUES (1)");
    assert_eq!(ready(http), Some(200));
    println!("{}", hosts.must(&["drain", "--after", "2", "--within", "30", "--yes"]).trim());
    assert_eq!(ready(http), Some(503));
    // As long as load balancers may not have noticed, it goes on.
    hosts.client().must("SELECT 1");
    let port = hosts.port;
    assert!(eventually(LIMIT, || Raw::connect(port, "app", "app").is_err()), "no client is taken any more");
    assert!(eventually(LIMIT, || idle.simple("SELECT 1").map_or(true, |reply| reply.sqlstate() == "57P01")));
    assert_eq!(hosts.serve_ended(Duration::from_millis(500)), None, "a transaction is open");
    busy.must("INSERT INTO written VALUES (2)");
    busy.must("COMMIT");
    let at = Instant::now();
    assert_eq!(hosts.serve_ended(LIMIT), Some(true), "{}", hosts.told());
    println!("ended {} ms after the last transaction", at.elapsed().as_millis());
    let mut server = hosts.server("s1a").unwrap();
    assert_eq!(server.must("SELECT count(*) FROM written").value(), "2");
}

#[test]
fn an_old_primary_that_a_supervisor_restarts_acknowledges_nothing() {
    let mut hosts = Hosts::start(512);
    let old = hosts.primary();
    // Nobody looks after it but a supervisor that knows nothing.
    hosts.kill_agent(&old);
    let writers = Writers::start(hosts.port, 4);
    std::thread::sleep(Duration::from_secs(1));
    hosts.end(&old);
    assert!(eventually(LIMIT, || hosts.primary() != old), "{}", hosts.told());
    let (data, port) = (hosts.data(&old), hosts.port_of(&old));
    // Where nobody waits for orphans the dead server keeps its number, and the next one takes it for alive.
    std::fs::remove_file(data.join("postmaster.pid")).unwrap();
    let log = std::fs::File::create(hosts.directory.path().join("supervisor.txt")).unwrap();
    let mut command = as_servers(&pg_bin().join("postgres"));
    command.arg("-D").arg(&data).arg("-c").arg(format!("port={port}"));
    let mut supervised = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    // Clients that know its address try from the first moment on, also with what would not wait.
    let at = Instant::now();
    let mut acknowledged = Vec::new();
    let mut tries = 0;
    while at.elapsed() < Duration::from_secs(10) {
        let text = format!(
            "psql -X -h 127.0.0.1 -p {port} -U app -d app -v ON_ERROR_STOP=1 -c 'INSERT INTO written VALUES ({})'",
            9_000_000 + tries
        );
        tries += 1;
        let said = Command::new("timeout").args(["0.4", "sh", "-c", &text]).output().unwrap();
        if said.status.success() {
            acknowledged.push(9_000_000 + tries - 1);
        }
    }
    let fence = hosts.server(&old).map(|mut raw| raw.must("SHOW synchronous_standby_names").value());
    println!(
        "{old} started by hand: {tries} writes tried there, {} acknowledged; it goes by {fence:?}",
        acknowledged.len()
    );
    assert!(acknowledged.is_empty(), "{acknowledged:?}");
    let said = std::fs::read_to_string(hosts.directory.path().join("supervisor.txt")).unwrap_or_default();
    assert_eq!(fence.as_deref(), Some("ANY 1 (ostrakon_fenced)"), "{said}\n{}", hosts.told());
    let written = writers.finish();
    assert_eq!(lost(&hosts, &written), 0);
    assert!(written.iter().any(|(time, _)| *time > at));
    // Its agent comes back: it is made a standby, and counts.
    hosts.start_agent(&old);
    assert!(eventually(LIMIT, || hosts.counts(&old)), "{}", hosts.told());
    println!("{old} counts again {} ms after its agent came back", at.elapsed().as_millis());
    let _ended = supervised.wait();
    assert!(process::running_server(&data).is_some());
}
