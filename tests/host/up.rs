//! `ostrakon up` and `ostrakon down` as programs.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ground::{Ground, error, wait};

fn was(document: &serde_json::Value) -> Vec<String> {
    let nodes = document["shards"].as_array().unwrap().iter().flat_map(|shard| shard["nodes"].as_array().unwrap());
    nodes.map(|node| node["was"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_cluster_survives_its_proxy_and_comes_back_with_its_ports() {
    let ground = Ground::new(15_860, 15_861);
    let made = ground.json(&["up", "--shards", "2", "--replicas", "1", "--detach"]);
    assert_eq!(was(&made), ["made"; 4]);
    assert_eq!(made["listen"], "127.0.0.1:15860");
    assert_eq!(ground.running(), ["s1a", "s2a", "s1b", "s2b"]);

    let second = ground.run(&["up"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(error(&second).contains("another ostrakon works in"), "{}", error(&second));

    kill(ground.lock_holder(), Signal::SIGKILL).unwrap();
    assert_eq!(ground.running().len(), 4, "servers outlive the proxy");
    let adopted = ground.json(&["up", "--detach"]);
    assert_eq!(was(&adopted), ["adopted"; 4]);

    let down = ground.json(&["down"]);
    assert_eq!(down["proxy_stopped"], true);
    assert_eq!(down["servers_stopped"].as_array().unwrap().len(), 4);
    ground.assert_nothing_runs("after down");
    assert_eq!(ground.json(&["down"])["proxy_stopped"], false, "down twice is no failure");

    let other_size = ground.run(&["up", "--shards", "3", "--detach"]);
    assert!(error(&other_size).contains("holds a cluster of 2 shards with 1 replicas"), "{}", error(&other_size));

    let started = ground.json(&["up", "--detach"]);
    assert_eq!(was(&started), ["started"; 4]);
    let ports = |document: &serde_json::Value| {
        let shards = document["shards"].as_array().unwrap().clone();
        shards.iter().map(|shard| shard["nodes"][0]["port"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ports(&started), ports(&made));

    // The proxy is gone: down stops the servers by itself.
    kill(ground.lock_holder(), Signal::SIGKILL).unwrap();
    let down = ground.json(&["down", "--remove", "--yes"]);
    assert_eq!(down["servers_stopped"].as_array().unwrap().len(), 4);
    assert!(!ground.path().exists());
}

#[test]
fn an_interrupted_up_leaves_nothing_running() {
    let ground = Ground::new(15_866, 15_867);
    for delay_ms in [30, 300, 700, 1_100, 1_600] {
        let mut command = ground.command(&["up", "--shards", "1", "--replicas", "1"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
        wait(&mut child, Duration::from_secs(60));
        ground.assert_nothing_runs(&format!("Ctrl-C after {delay_ms} ms"));
    }
    assert_eq!(ground.json(&["up", "--detach"])["shards"].as_array().unwrap().len(), 1);
}

#[test]
fn an_up_that_was_killed_half_way_can_be_resumed_or_stopped() {
    let ground = Ground::new(15_872, 15_873);
    for delay_ms in [100, 500, 900, 1_300] {
        let mut command = ground.command(&["up", "--shards", "1", "--replicas", "1"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        if delay_ms % 200 == 100 {
            let down = ground.run(&["down"]);
            assert!(down.status.success(), "{delay_ms}: {}", error(&down));
            ground.assert_nothing_runs(&format!("down after a kill at {delay_ms} ms"));
        }
    }
    ground.json(&["up", "--detach"]);
    assert_eq!(ground.running(), ["s1a", "s1b"]);
}

#[test]
fn a_taken_port_a_missing_postgresql_and_a_taken_server_port_are_clear_errors() {
    let ground = Ground::new(15_878, 15_879);
    let listener = std::net::TcpListener::bind(("127.0.0.1", ground.listen)).unwrap();
    for detach in [&["up"][..], &["up", "--detach"]] {
        let output = ground.run(detach);
        assert_eq!(output.status.code(), Some(1));
        let text = error(&output);
        assert!(text.contains("port 15878 of 127.0.0.1 is in use by pid") && text.contains("--listen"), "{text}");
    }
    drop(listener);
    assert!(ground.running().is_empty());

    let empty = tempfile::tempdir().unwrap();
    let output = ground.run(&["up", "--pg-bin", empty.path().to_str().unwrap()]);
    assert!(error(&output).contains("has no program initdb"), "{}", error(&output));
    assert!(error(&output).contains("apt-get install postgresql"), "{}", error(&output));

    ground.json(&["up", "--shards", "1", "--replicas", "0", "--detach"]);
    ground.json(&["down"]);
    let listener = std::net::TcpListener::bind(("127.0.0.1", ground.first_port)).unwrap();
    let output = ground.run(&["up", "--detach"]);
    assert!(error(&output).contains("port 15879 of 127.0.0.1 is in use by pid"), "{}", error(&output));
    drop(listener);
    ground.assert_nothing_runs("after a taken server port");
}

#[test]
fn a_full_disk_is_a_clear_error() {
    let ground = Ground::new(15_884, 15_885);
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=40m,mode=0755", "tmpfs"])
        .arg(ground.path())
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        return; // Only root may mount.
    }
    let output = ground.run(&["up", "--shards", "1", "--replicas", "0"]);
    ground.assert_nothing_runs("after a full disk");
    let unmounted = Command::new("umount").arg(ground.path()).status().unwrap();
    assert!(unmounted.success());
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains("not enough disk space"), "{}", error(&output));
}

#[test]
fn a_relative_directory_is_taken_from_where_the_command_runs() {
    let ground = Ground::new(15_896, 15_897);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
    command.current_dir(ground.path()).stdin(Stdio::null()).args(["up", "--data", "a/b", "--shards", "1"]);
    command.args(["--replicas", "0", "--listen", "127.0.0.1:15896", "--first-port", "15897", "--detach"]);
    let up = command.output().unwrap();
    assert!(up.status.success(), "{}", error(&up));
    let mut down = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
    let down = down.current_dir(ground.path()).args(["down", "--data", "a/b"]).output().unwrap();
    assert!(String::from_utf8_lossy(&down.stdout).contains("stopped the proxy and 1 "), "{}", error(&down));
}

#[test]
fn a_demo_load_that_was_killed_begins_anew() {
    let ground = Ground::new(15_856, 15_857);
    let mut command = ground.command(&["up", "--shards", "2", "--replicas", "0", "--demo"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !ground.path().join("proxy.json").exists() {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "the proxy does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(60));
    child.kill().unwrap();
    child.wait().unwrap();
    let mark = || std::fs::read_to_string(ground.path().join("demo")).unwrap();
    assert_eq!(mark(), "loading\n");

    ground.json(&["up", "--demo", "--detach"]);
    assert_eq!(mark(), "loaded\n");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rows = runtime.block_on(async {
        let config = "host=127.0.0.1 port=15856 user=app dbname=app";
        let (client, connection) = tokio_postgres::connect(config, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let row = client.query_one("SELECT count(*) FROM order_items", &[]).await.unwrap();
        row.get::<_, i64>(0)
    });
    assert_eq!(rows, 753);
    let again = ground.run(&["down"]);
    assert!(again.status.success());
    assert_eq!(was(&ground.json(&["up", "--demo", "--detach"])), ["started"; 2], "loaded once is enough");
}
