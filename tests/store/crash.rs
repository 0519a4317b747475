//! `kill -9` in the middle of writes: what was acknowledged is there, and whole.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ostrakon::store::{EmbeddedStore, Store, StoreError, load_topology, save_topology};
use ostrakon::topology::ring;

use crate::topology::sample;

const FILE: &str = "OSTRAKON_TEST_CRASH_FILE";
const ROUNDS: usize = 12;

/// Writes until it is killed, and says after each write what is now promised.
#[tokio::test]
#[ignore = "runs as the child of what_was_acknowledged_survives_kill_9"]
async fn the_writer() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let store = EmbeddedStore::open(Path::new(&path)).unwrap();
    let mut out = std::io::stdout();
    let mut say = |line: String| {
        writeln!(out, "ack {line}").unwrap();
        out.flush().unwrap();
    };
    let mut number = store.list("k/").await.unwrap().len();
    loop {
        store.put(&format!("k/{number:08}"), vec![b'x'; 200 + number % 3_000], None).await.unwrap();
        say(format!("key {number}"));
        number += 1;
        let current = load_topology(&store).await.unwrap();
        let mut topology = sample(current.as_ref().map_or(1, |(topology, _)| topology.epoch.0 + 1));
        // A record of another shape each time.
        let weight = 50 + (topology.epoch.0 % 200) as u32;
        topology.buckets = ring::propose(&[(topology.shards[0].id, weight), (topology.shards[1].id, 100)], None);
        save_topology(&store, &topology, current.map(|(_, revision)| revision)).await.unwrap();
        say(format!("epoch {}", topology.epoch.0));
    }
}

fn spawn_writer(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["crash::the_writer", "--exact", "--ignored", "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

#[derive(Debug, Default)]
struct Promised {
    keys: usize,
    epoch: u64,
}

impl Promised {
    fn hear(&mut self, line: &str) {
        // The harness's own lines come first, one without a line end.
        let Some((_, promise)) = line.split_once("ack ") else { return };
        match promise.split_once(' ') {
            Some(("key", number)) => self.keys = number.parse::<usize>().unwrap() + 1,
            Some(("epoch", number)) => self.epoch = number.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let mut promised = Promised::default();
    for round in 0..ROUNDS {
        let mut child = spawn_writer(&path);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        // A different number of acknowledgements each round, so that the kill falls on other writes.
        while heard < 5 + round * 7 {
            let line = lines.next().expect("the writer goes on").unwrap();
            heard += usize::from(line.contains("ack "));
            promised.hear(&line);
        }
        if round == 0 {
            assert_eq!(EmbeddedStore::open(&path).err(), Some(StoreError::InUse { path: path.clone() }));
        }
        std::thread::sleep(Duration::from_micros(round as u64 * 731 % 5_000));
        child.kill().unwrap();
        child.wait().unwrap();
        lines.map_while(Result::ok).for_each(|line| promised.hear(&line));

        let store = EmbeddedStore::open(&path).unwrap();
        let keys = store.list("k/").await.unwrap();
        assert!(keys.len() >= promised.keys, "round {round}: {promised:?}, {} keys", keys.len());
        for (number, entry) in keys.iter().enumerate() {
            assert_eq!(entry.key, format!("k/{number:08}"));
            assert_eq!(entry.value.len(), 200 + number % 3_000);
        }
        // Loading it validates it: a torn record would not pass.
        let epoch = load_topology(&store).await.unwrap().map_or(0, |(topology, _)| topology.epoch.0);
        assert!(epoch >= promised.epoch, "round {round}: {promised:?}, epoch {epoch}");
    }
    assert!(promised.keys > ROUNDS);
}
