//! Primaries are lost while buckets move: their replicas lead, and the job comes through.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ostrakon::host::process;

use super::ground::Ground;
use super::history::{Writers, compare};
use crate::cluster::signal;

/// How long a shard may take to be led again and whole, and a job to go on.
const LIMIT: Duration = Duration::from_secs(120);

fn primary(ground: &Ground, shard: &str) -> String {
    let status = ground.up.status();
    let shards = status["shards"].as_array().unwrap();
    let known = shards.iter().find(|known| known["name"] == shard).unwrap_or_else(|| panic!("{status}"));
    let nodes = known["nodes"].as_array().unwrap();
    let leads = nodes.iter().find(|node| node["role"] == "primary").unwrap_or_else(|| panic!("{status}"));
    leads["name"].as_str().unwrap().to_owned()
}

/// Commits wait for the replica: from then on the primary may be lost.
fn is_safe(ground: &Ground, shard: &str) -> bool {
    let mut server = ground.server(&primary(ground, shard));
    server.must("SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')").value() != "0"
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "not {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Two shards that have their rows, each with a replica that may lead it.
pub fn two_led_shards() -> Ground {
    let ground = Ground::with_replicas(2_000, 1);
    ground.run(&["shard", "add", "--replicas", "1"]);
    ground.kill_proxy();
    ground.start_proxy();
    for shard in ["s1", "s2"] {
        wait_until("safe", || is_safe(&ground, shard));
    }
    ground.reshard(&["start", "--yes", "--wait"]);
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
    ground
}

/// Ends the server and all its children as a power cut would; gives its name.
fn lose_primary(ground: &Ground, shard: &str) -> String {
    let node = primary(ground, shard);
    for pid in process::working_in(&ground.up.data().join("nodes").join(&node)) {
        signal(pid, Signal::SIGKILL);
    }
    wait_until("another primary", || primary(ground, shard) != node);
    node
}

/// The source's and the target's primary are lost, each while indexes are made, and twice among the steps.
#[test]
fn a_job_outlives_the_primaries_of_its_shards() {
    let ground = Ground::with_replicas(30_000, 1);
    ground.run(&["shard", "add", "--replicas", "1"]);
    // What leads the new shard begins with the proxy.
    ground.kill_proxy();
    ground.start_proxy();
    for shard in ["s1", "s2"] {
        wait_until("safe", || is_safe(&ground, shard));
    }
    let writers = Writers::start_patient(&ground, 4);
    ground.run(&["reshard", "start", "--yes"]);
    for (round, shard) in ["s1", "s2", "s1", "s2", "s2", "s1"].into_iter().enumerate() {
        let before = ground.job();
        if before["phase"] == "moved" {
            println!("moved before round {round}");
            break;
        }
        wait_until("safe", || is_safe(&ground, shard));
        if round > 1 {
            let steps = ground.job()["steps"].as_u64().unwrap();
            ground.wait_for_steps_or_end(steps + 1);
            // Another moment of a step each time.
            std::thread::sleep(Duration::from_millis(60 * round as u64));
        }
        let at = Instant::now();
        let (phase, node) = (ground.job()["phase"].clone(), lose_primary(&ground, shard));
        let led = at.elapsed();
        let steps = ground.job()["steps"].as_u64().unwrap();
        ground.wait_for_steps_or_end(steps + 1);
        println!(
            "{node} lost while {phase}: led again after {:.1} s, the next step counted after {:.1} s",
            led.as_secs_f64(),
            at.elapsed().as_secs_f64()
        );
    }
    ground.wait_for("moved");
    ground.run(&["reshard", "verify"]);
    for shard in ["s1", "s2"] {
        wait_until("safe", || is_safe(&ground, shard));
    }
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
    let histories = writers.stop();
    println!("{}", compare(&ground, &histories));
    assert!(ground.buckets("s2") > 8_000, "{}", ground.buckets("s2"));
    assert_eq!(ground.leftovers(), Vec::<String>::new());
}
