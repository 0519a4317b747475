//! `ostrakon serve`, `check` and the commands that ask a running proxy.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostrakon::admin::{NodeState, StatusDocument};

use crate::ground::{Ground, error, wait};

fn ostrakon(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ostrakon")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn status(arguments: &[&str]) -> StatusDocument {
    let output = ostrakon(&[&["status", "--output", "json"], arguments].concat());
    assert!(output.status.success(), "{}", error(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn serve_answers_like_up_and_leaves_the_servers_alone() {
    let ground = Ground::new(15_890, 15_891);
    let data = ground.path().to_str().unwrap().to_owned();
    let up = ground.json(&["up", "--shards", "1", "--replicas", "1", "--detach"]);
    let of_up = status(&["--data", &data]);
    assert_eq!(of_up.shards.len(), 1);
    assert_eq!(of_up.shards[0].buckets, 16_384);
    let states = |status: &StatusDocument| {
        let nodes = status.shards.iter().flat_map(|shard| &shard.nodes);
        nodes.map(|node| (node.name.clone(), node.port, node.state)).collect::<Vec<_>>()
    };
    let port = |node: usize| up["shards"][0]["nodes"][node]["port"].as_u64().unwrap() as u16;
    let expected = [("s1a".to_owned(), port(0), NodeState::Up), ("s1b".to_owned(), port(1), NodeState::Streaming)];
    assert_eq!(states(&of_up), expected);

    // The proxy of `up` goes, its servers stay: they exist already.
    kill(ground.lock_holder(), Signal::SIGKILL).unwrap();
    let gone = ostrakon(&["status", "--data", &data]);
    assert!(
        error(&gone).contains("no proxy runs for") && error(&gone).contains("ostrakon up --data"),
        "{}",
        error(&gone)
    );
    let own = tempfile::tempdir().unwrap();
    let config = own.path().join("ostrakon.toml");
    let text = format!(
        "[proxy]\nlisten = \"127.0.0.1:15893\"\ndata = {:?}\ndatabase = \"app\"\n\n[[shards]]\nname = \"s1\"\n\
         [[shards.nodes]]\nname = \"s1a\"\nhost = \"127.0.0.1\"\nport = {}\n\
         [[shards.nodes]]\nname = \"s1b\"\nhost = \"127.0.0.1\"\nport = {}\n",
        own.path().join("data"),
        port(0),
        port(1)
    );
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    assert!(ostrakon(&["check", "--config", config]).status.success());

    for round in 0..2 {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_ostrakon"))
            .args(["serve", "--config", config])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(serve.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "serving app on 127.0.0.1:15893, epoch 1", "round {round}");
        let url = "postgres://127.0.0.1:15893/ostrakon";
        assert_eq!(states(&status(&["--connect", url])), expected);
        assert_eq!(status(&["--data", own.path().join("data").to_str().unwrap()]).epoch, 1);
        kill(Pid::from_raw(serve.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert!(wait(&mut serve, Duration::from_secs(30)).success());
        assert_eq!(ground.running(), ["s1a", "s1b"], "serve does not own the servers");
    }
    assert!(!own.path().join("data/proxy.json").exists());
}

#[test]
fn check_names_line_and_column() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("o.toml");
    fs::write(&path, "[proxy]\ndata = \"/tmp/x\"\ndatabse = \"app\"\n").unwrap();
    let path = path.to_str().unwrap();
    let output = ostrakon(&["check", "--config", path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains("o.toml:3:1: unknown key databse in [proxy]"), "{}", error(&output));
    let output = ostrakon(&["check", "--config", path, "--output", "json"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["valid"], false);
    assert!(document["errors"].as_array().unwrap().iter().any(|error| error["line"] == 3 && error["column"] == 1));
}
