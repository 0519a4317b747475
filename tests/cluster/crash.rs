//! `kill -9` loses nothing of the topology, and what was begun can be finished.

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::cluster::{Beside, Cluster, Up, eventually, is_alive, ostrakon, run, signal};

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn epoch(status: &serde_json::Value) -> u64 {
    status["epoch"].as_u64().unwrap_or_else(|| panic!("no epoch in {status}"))
}

#[test]
fn serve_killed_keeps_declared_tables_and_its_epoch() {
    let mut cluster = Cluster::start(2, &[]);
    cluster.command(&["table", "shard", "carts", "--key", "tenant,id"]);
    cluster.command(&["table", "reference", "colours"]);
    cluster.command(&["table", "single", "notes"]);
    let mut app = cluster.app();
    app.must("CREATE TABLE carts (tenant bigint, id bigint, PRIMARY KEY (tenant, id))");
    app.must("INSERT INTO carts VALUES (1, 1), (2, 2), (3, 3), (4, 4)");
    drop(app);
    let tables = json(&cluster.command(&["table", "list", "--output", "json"]));
    let topology = json(&cluster.command(&["topology", "--output", "json"]));
    let before = epoch(&json(&cluster.command(&["status", "--output", "json"])));
    for round in 0..3 {
        cluster.kill_proxy();
        cluster.start_proxy();
        assert_eq!(json(&cluster.command(&["table", "list", "--output", "json"])), tables, "round {round}");
        let after = json(&cluster.command(&["topology", "--output", "json"]));
        assert_eq!(after["shards"], topology["shards"], "bucket owners after round {round}");
        assert!(epoch(&json(&cluster.command(&["status", "--output", "json"]))) >= before);
        assert_eq!(cluster.app().must("SELECT count(*) FROM carts").value(), "4");
    }
    // A declaration is there after a kill that follows its answer at once.
    cluster.command(&["table", "shard", "late", "--key", "id"]);
    cluster.kill_proxy();
    cluster.start_proxy();
    assert!(cluster.command(&["table", "list", "--output", "json"]).contains("late"));
}

#[test]
fn ids_are_not_given_twice_after_a_kill() {
    let mut cluster = Cluster::start(2, &[]);
    cluster.command(&["table", "shard", "tickets", "--key", "id"]);
    cluster.app().must("CREATE TABLE tickets (id bigserial PRIMARY KEY, round int)");
    for round in 0..4 {
        let mut app = cluster.app();
        for _ in 0..10 {
            app.must(&format!("INSERT INTO tickets (round) VALUES ({round}), ({round}), ({round})"));
        }
        drop(app);
        cluster.kill_proxy();
        cluster.start_proxy();
    }
    let reply = cluster.app().must("SELECT count(*), count(DISTINCT id) FROM tickets");
    assert_eq!(reply.texts(), [["120", "120"]]);
}

fn proxy_pid(up: &Up) -> u32 {
    let text = std::fs::read_to_string(up.data().join("proxy.json")).unwrap();
    u32::try_from(json(&text)["pid"].as_u64().unwrap()).unwrap()
}

#[test]
fn up_killed_leaves_its_servers_and_the_next_up_adopts_them() {
    let up = Up::start(2, 0, &[]);
    let data = up.data();
    run(ostrakon().args(["table", "shard", "carts", "--key", "id", "--data"]).arg(&data));
    let mut app = up.app();
    app.must("CREATE TABLE carts (id bigint PRIMARY KEY)");
    app.must("INSERT INTO carts VALUES (1), (2), (3), (4), (5), (6)");
    drop(app);
    let before = up.status();
    let pid = proxy_pid(&up);
    let servers: Vec<u32> = up.processes().into_iter().filter(|other| *other != pid).collect();
    assert!(servers.len() >= 2, "{servers:?}");
    signal(pid, Signal::SIGKILL);
    assert!(eventually(Duration::from_secs(5), || !is_alive(pid)));
    std::thread::sleep(Duration::from_millis(300));
    assert!(servers.iter().all(|server| is_alive(*server)), "the servers died with the proxy");
    run(up.up_command(2, 0).arg("--detach"));
    assert!(servers.iter().all(|server| is_alive(*server)), "the servers were not adopted");
    let after = up.status();
    assert!(epoch(&after) >= epoch(&before), "{before} {after}");
    assert_eq!(up.app().must("SELECT count(*) FROM carts").value(), "6");
    assert!(run(ostrakon().args(["table", "list", "--output", "json", "--data"]).arg(&data)).contains("carts"));
    run(ostrakon().arg("down").arg("--data").arg(&data));
    assert!(eventually(Duration::from_secs(20), || up.processes().is_empty()), "{:?}", up.processes());
    // Stopped in an orderly way, and from there the data come back as well.
    run(up.up_command(2, 0).arg("--detach"));
    assert_eq!(up.app().must("SELECT count(*) FROM carts").value(), "6");
}

/// Kills a first `up` after so many milliseconds and brings the same directory up again.
fn kill_and_resume(shards: usize, replicas: usize, after: Duration) {
    let up = Up::prepare();
    let begun = Instant::now();
    let child = up.up_command(shards, replicas).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = Beside(child);
    let ended = eventually(after, || matches!(first.0.try_wait(), Ok(Some(_))));
    assert!(!ended, "up ended by itself after {:?}", begun.elapsed());
    drop(first);
    run(up.up_command(shards, replicas).arg("--detach"));
    let mut app = up.app();
    app.must("CREATE TABLE proof (id bigint PRIMARY KEY)");
    app.must("INSERT INTO proof VALUES (1)");
    assert_eq!(app.must("SELECT count(*) FROM proof").value(), "1");
    drop(app);
    let status = up.status();
    let shards_listed = status["shards"].as_array().unwrap();
    assert_eq!(shards_listed.len(), shards, "{status}");
    for shard in shards_listed {
        assert_eq!(shard["nodes"].as_array().unwrap().len(), replicas + 1, "{status}");
    }
    run(ostrakon().arg("down").arg("--data").arg(up.data()));
    assert!(eventually(Duration::from_secs(20), || up.processes().is_empty()), "{:?} are left", up.processes());
}

#[test]
fn up_killed_while_it_makes_the_first_server_can_be_resumed() {
    kill_and_resume(1, 1, Duration::from_millis(300));
}

#[test]
fn up_killed_while_it_makes_servers_and_replicas_can_be_resumed() {
    kill_and_resume(1, 1, Duration::from_millis(1_900));
}

#[test]
fn up_killed_at_random_moments_can_be_resumed() {
    let rounds = if std::env::var_os("OSTRAKON_FULL").is_some() { 20 } else { 2 };
    for round in 0..rounds {
        let after = Duration::from_millis(150 + (round * 2_654_435_761_u64 + 911) % 4_000);
        println!("killed after {after:?}");
        kill_and_resume(2, 0, after);
    }
}
