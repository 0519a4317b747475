//! Many clients on few server connections: every reply belongs to its own request, nobody is
//! overtaken, nothing leaks.
//!
//! The default run is short. `make saturation` is the long one: 2,000 clients on 20 connections for
//! five minutes, with a release build (`OSTRAKON_FULL=1`; `OSTRAKON_SATURATION_S` sets the seconds,
//! `OSTRAKON_SEED` the seed).

mod client;
mod evil;
mod request;
mod wire;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cluster::{Cluster, Placement, Server, eventually};
use crate::raw::Raw;
use client::{Orders, Tally};
use request::{OWNERS, ROWS};

/// How much is asked.
#[derive(Clone, Copy)]
struct Scale {
    clients: u64,
    connections: u64,
    duration: Duration,
}

impl Scale {
    fn of_this_run() -> Self {
        let seconds = |default| {
            let given = std::env::var("OSTRAKON_SATURATION_S").ok().and_then(|text| text.parse().ok());
            Duration::from_secs(given.unwrap_or(default))
        };
        if std::env::var_os("OSTRAKON_FULL").is_some() {
            Self { clients: 2_000, connections: 20, duration: seconds(300) }
        } else {
            Self { clients: 300, connections: 8, duration: seconds(15) }
        }
    }
}

fn seed() -> u64 {
    let seed = std::env::var("OSTRAKON_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_122);
    println!("OSTRAKON_SEED={seed}");
    seed
}

fn runtime() -> tokio::runtime::Runtime {
    // Every client of the crowd is a socket of this process.
    ostrakon::net::descriptors::raise_limit();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A statement that has to succeed; the first column of its rows.
fn ask(session: &mut Raw, sql: &str) -> Vec<String> {
    let reply = session.simple(sql).unwrap();
    assert!(reply.fault().is_none(), "{sql}: {:?}", reply.fault());
    let rows = reply.answers.iter().flat_map(|answer| &answer.rows);
    rows.map(|row| String::from_utf8_lossy(row[0].as_deref().unwrap_or_default()).into_owned()).collect()
}

/// Tables with rows that are known beforehand.
fn fill(session: &mut Raw) {
    ask(session, "CREATE TABLE owned (owner int, n int, pad text, PRIMARY KEY (owner, n))");
    ask(session, "CREATE TABLE ledger (owner int, nonce bigint)");
    for owner in 0..OWNERS {
        let rows: Vec<String> = (0..ROWS).map(|n| format!("({owner}, {n}, repeat('x', 40))")).collect();
        ask(session, &format!("INSERT INTO owned (owner, n, pad) VALUES {}", rows.join(", ")));
    }
}

/// Shards with the tables, and the proxy before them.
fn cluster(shards: usize, scale: Scale) -> Cluster {
    let tables = [("owned", Placement::Key(&["owner"])), ("ledger", Placement::Key(&["owner"]))];
    let mut cluster = Cluster::without_proxy(shards, &tables);
    let config = fs::read_to_string(cluster.config()).unwrap();
    let config = config.replace("[proxy]\n", &format!("[proxy]\nclients_max = {}\n", scale.clients + 50));
    let pool = format!("\n[pool]\nsize = {}\ncheckout_timeout_ms = 60000\n", scale.connections);
    fs::write(cluster.config(), config + &pool).unwrap();
    cluster.start_proxy();
    fill(&mut cluster.app());
    cluster
}

/// Sends a crowd and waits until its time is over.
async fn crowd(clients: u64, orders: Orders) -> Tally {
    let tally = Arc::<Mutex<Tally>>::default();
    let tasks: Vec<_> =
        (1..=clients).map(|number| tokio::spawn(client::client(number, orders, Arc::clone(&tally)))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    std::mem::take(&mut *tally.lock())
}

fn no_faults(tally: &Tally) {
    println!("{} requests: {:?}", tally.requests(), tally.done);
    assert_eq!(tally.fault_count, 0, "{:#?}", tally.faults);
}

/// Resident memory of a process in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Looks at the memory every half second until told to stop: seconds since the start, and KiB.
async fn watch_memory(pid: u32, until: Instant) -> Vec<(f64, u64)> {
    let start = Instant::now();
    let mut samples = Vec::new();
    while Instant::now() < until {
        samples.push((start.elapsed().as_secs_f64(), resident_kib(pid)));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    samples
}

/// After a fifth of the time (the first minute of five) memory is flat: what is held in the last fifth
/// is at most a tenth, and a little for small processes, above what was held until then.
fn is_flat(samples: &[(f64, u64)]) -> Result<(), String> {
    let fifth = samples.len() / 5;
    let highest = |part: &[(f64, u64)]| part.iter().map(|(_, kib)| *kib).max().unwrap_or(0);
    let (first, last) = (highest(&samples[..=fifth]), highest(&samples[samples.len() - fifth.max(1)..]));
    if last <= first + first / 10 + 4_096 { Ok(()) } else { Err(format!("from {first} to {last} KiB")) }
}

fn show_memory(samples: &[(f64, u64)]) {
    let step = (samples.len() / 10).max(1);
    let shown: Vec<String> =
        samples.iter().step_by(step).map(|(at, kib)| format!("{at:.0} s {} MiB", kib / 1_024)).collect();
    println!("memory: {}", shown.join(", "));
}

/// What the pools hold and what the servers see are the same, and nothing of it is in use.
fn nothing_leaks(cluster: &Cluster, scale: Scale) {
    let mut seen = String::new();
    let is_settled = eventually(Duration::from_secs(20), || {
        let view = cluster.command(&["status", "--output", "json"]);
        assert!(view.contains("epoch"));
        let mut admin = Raw::connect(cluster.port, "postgres", "ostrakon").unwrap();
        let json = ask(&mut admin, "SHOW POOLS FORMAT JSON").concat();
        let pools: serde_json::Value = serde_json::from_str(&json).unwrap();
        let servers: Vec<u64> = cluster.shards.iter().map(backends).collect();
        let busy: Vec<u64> = cluster.shards.iter().map(in_transaction).collect();
        let leak = leak(&pools, &servers, &busy, scale.connections);
        seen = format!("{json}; the servers see {servers:?}, {busy:?} of them at work; {leak:?}");
        leak.is_none()
    });
    println!("afterwards: {seen}");
    assert!(is_settled, "{seen}");
}

/// What is leaked, by the rows of SHOW POOLS, and by what each server sees: connections, and those not idle.
fn leak(pools: &serde_json::Value, servers: &[u64], busy: &[u64], connections: u64) -> Option<String> {
    let of_app: Vec<&serde_json::Value> =
        pools.as_array().unwrap().iter().filter(|pool| pool["user"] == "app").collect();
    let sum = |name: &str| of_app.iter().map(|pool| pool[name].as_u64().unwrap()).sum::<u64>();
    let unquiet = ["used", "opening", "resetting", "waiting"].into_iter().find(|name| sum(name) > 0);
    let there: u64 = servers.iter().sum();
    if let Some(name) = unquiet {
        return Some(format!("{} {name}", sum(name)));
    }
    if sum("idle") != there {
        return Some(format!("{} idle in the pools, {there} on the servers", sum("idle")));
    }
    if let Some(count) = servers.iter().find(|count| **count > connections) {
        return Some(format!("{count} connections, {connections} are allowed"));
    }
    busy.iter().find(|count| **count > 0).map(|count| format!("{count} connections of a server are at work"))
}

fn backends(server: &Server) -> u64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND backend_type = 'client backend'";
    ask(&mut server.superuser(), sql)[0].parse().unwrap()
}

fn in_transaction(server: &Server) -> u64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle'";
    ask(&mut server.superuser(), sql)[0].parse().unwrap()
}

/// The mixed crowd on one topology.
fn saturate(shards: usize) {
    let scale = Scale::of_this_run();
    let cluster = cluster(shards, scale);
    let pid = cluster.proxy.as_ref().unwrap().pid();
    let until = Instant::now() + scale.duration;
    let orders = Orders {
        port: cluster.port,
        seed: seed(),
        until,
        cancels: 2,
        kills: 2,
        pins: if shards == 1 { 3 } else { 0 },
        is_uniform: false,
    };
    let runtime = runtime();
    let (tally, samples) = runtime.block_on(async {
        let memory = tokio::spawn(watch_memory(pid, until));
        let tally = crowd(scale.clients, orders).await;
        (tally, memory.await.unwrap())
    });
    show_memory(&samples);
    println!("{:.0} requests a second", tally.requests() as f64 / scale.duration.as_secs_f64());
    no_faults(&tally);
    for kind in ["simple", "named", "unnamed", "pipeline", "setting", "transaction", "cancelled", "killed"] {
        assert!(tally.done.contains_key(kind), "nobody did {kind}");
    }
    nothing_leaks(&cluster, scale);
    assert_eq!(ask(&mut cluster.app(), "SELECT count(*) FROM ledger"), ["0"], "nobody committed");
    // Until every session has met its biggest request, buffers grow.
    if scale.duration >= Duration::from_secs(120) {
        is_flat(&samples).unwrap_or_else(|growth| panic!("memory grows: {growth}"));
    }
}

#[test]
fn a_crowd_on_few_connections_gets_its_own_replies() {
    saturate(1);
}

#[test]
fn a_crowd_on_few_connections_of_two_shards_gets_its_own_replies() {
    saturate(2);
}

/// Logs in that many clients, each of which says something, and keeps them.
async fn idlers(clients: u64, port: u16) -> Vec<wire::Session> {
    let mut idle = Vec::new();
    for number in 1..=clients {
        let mut session = wire::Session::connect(port).await.unwrap();
        let mut maker = request::Maker::new(number, 1);
        for request in [maker.introduce(), maker.simple(), maker.named()] {
            client::exchange(&mut session, &request).await.unwrap();
        }
        idle.push(session);
    }
    idle
}

/// KiB that a client costs while it does nothing, after it has said something.
const IDLE_KIB_MAX: f64 = 16.0;

#[test]
fn a_client_that_does_nothing_costs_little() {
    let clients = if std::env::var_os("OSTRAKON_FULL").is_some() { 10_000 } else { 1_000 };
    let scale = Scale { clients, connections: 8, duration: Duration::ZERO };
    let cluster = cluster(1, scale);
    let pid = cluster.proxy.as_ref().unwrap().pid();
    let runtime = runtime();
    // What the process needs in any case, and what the allocator keeps for all.
    let warm = runtime.block_on(idlers(100, cluster.port));
    let before = resident_kib(pid);
    let idle = runtime.block_on(idlers(clients - 100, cluster.port));
    let each = (resident_kib(pid) - before) as f64 / (clients - 100) as f64;
    println!("{clients} idle clients: {} MiB, {each:.1} KiB each", resident_kib(pid) / 1_024);
    assert!(each < IDLE_KIB_MAX, "{each:.1} KiB each");
    drop((warm, idle));
}

/// The value below which this share of the sorted values lies.
fn quantile(sorted: &[u64], share: f64) -> u64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// How unequal waits are: the longest and the 99th percentile over the median.
fn spread(mut took: Vec<u64>) -> (f64, f64, String) {
    took.sort_unstable();
    let median = quantile(&took, 0.5).max(1) as f64;
    let (p99, longest) = (quantile(&took, 0.99), took.last().copied().unwrap_or(0));
    let text = format!(
        "waits of {} equal statements: median {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
        took.len(),
        median / 1e3,
        p99 as f64 / 1e3,
        longest as f64 / 1e3
    );
    (longest as f64 / median, p99 as f64 / median, text)
}

/// The service takes milliseconds and the queue is many times as long as the pool: what a client
/// measures is how long it waits for its turn.
#[test]
fn equal_clients_wait_equally_long() {
    let scale = Scale::of_this_run();
    let scale = Scale { duration: scale.duration.min(Duration::from_secs(60)) / 2, ..scale };
    let cluster = cluster(1, scale);
    let start = Instant::now();
    let orders = Orders {
        port: cluster.port,
        seed: seed(),
        until: start + scale.duration,
        cancels: 0,
        kills: 0,
        pins: 0,
        is_uniform: true,
    };
    let mut tally = runtime().block_on(crowd(scale.clients, orders));
    // The logins of all are the crowd's first turns: half a minute of 2,000, half a second of 300.
    let took = std::mem::take(&mut tally.took);
    no_faults(&tally);
    let warm = took.len() / 4;
    let waits: Vec<u64> = took[warm..].iter().map(|(_, took)| *took).collect();
    let (longest, p99, text) = spread(waits);
    println!("{text}; longest/median {longest:.2}, p99/median {p99:.2}");
    assert!(p99 < 4.0, "{text}");
    assert!(longest < 4.0, "{text}");
    nothing_leaks(&cluster, scale);
}

#[test]
fn a_leaked_connection_would_be_found_out() {
    let pool = |node: &str, used: u64, idle: u64| {
        serde_json::json!({"node": node, "user": "app", "used": used, "idle": idle, "opening": 0, "resetting": 0,
            "waiting": 0})
    };
    let control = serde_json::json!({"node": "1", "user": "postgres", "used": 1, "idle": 0, "opening": 0,
        "resetting": 0, "waiting": 0});
    let clean = serde_json::json!([pool("1", 0, 3), pool("2", 0, 2), control]);
    assert_eq!(leak(&clean, &[3, 2], &[0, 0], 8), None);
    // Held for ever by nobody; lost from the books; in the books and closed; too many; left in a transaction.
    assert!(leak(&serde_json::json!([pool("1", 1, 2), pool("2", 0, 2)]), &[3, 2], &[0, 0], 8).is_some());
    assert!(leak(&clean, &[3, 3], &[0, 0], 8).is_some());
    assert!(leak(&clean, &[3, 1], &[0, 0], 8).is_some());
    assert!(leak(&clean, &[3, 2], &[0, 0], 2).is_some());
    assert!(leak(&clean, &[3, 2], &[0, 1], 8).is_some());
    for state in ["opening", "resetting", "waiting"] {
        let mut planted = clean.clone();
        planted[1][state] = 1.into();
        assert!(leak(&planted, &[3, 2], &[0, 0], 8).is_some(), "{state}");
    }
}

/// The same on real servers: a session of which the proxy knows nothing stands for a connection that it lost.
#[test]
fn a_connection_that_the_pools_do_not_know_would_be_found_out() {
    let scale = Scale { clients: 10, connections: 4, duration: Duration::ZERO };
    let cluster = cluster(1, scale);
    nothing_leaks(&cluster, scale);
    let mut lost = Raw::connect(cluster.shards[0].port, "app", "app").unwrap();
    ask(&mut lost, "BEGIN");
    let mut admin = Raw::connect(cluster.port, "postgres", "ostrakon").unwrap();
    let pools = serde_json::from_str(&ask(&mut admin, "SHOW POOLS FORMAT JSON").concat()).unwrap();
    let found = leak(&pools, &[backends(&cluster.shards[0])], &[in_transaction(&cluster.shards[0])], scale.connections);
    assert!(found.is_some(), "{pools}");
}

#[test]
fn an_unfair_queue_would_be_found_out() {
    let fair: Vec<u64> = (0..1_000).map(|n| 100_000 + n).collect();
    assert!(spread(fair.clone()).0 < 4.0);
    let starved = fair.into_iter().chain([500_000]).collect();
    assert!(spread(starved).0 > 4.0);
}

#[test]
fn memory_that_grows_would_be_found_out() {
    let flat: Vec<(f64, u64)> = (0..100).map(|n| (f64::from(n), 50_000 + u64::from(n as u32 % 7) * 100)).collect();
    assert!(is_flat(&flat).is_ok());
    let leaking: Vec<(f64, u64)> = (0..100).map(|n| (f64::from(n), 50_000 + n as u64 * 200)).collect();
    assert!(is_flat(&leaking).is_err());
}

/// The same crowd without the product: through a proxy that swaps replies, and through the same one
/// when it does not.
#[test]
fn a_proxy_that_swaps_replies_would_be_found_out() {
    let mut server = Server::start("alone");
    server.wait();
    fill(&mut server.superuser());
    ask(&mut server.superuser(), "GRANT ALL ON owned, ledger TO app");
    let runtime = runtime();
    let run = |swap_every: u64| {
        runtime.block_on(async {
            let port = evil::start(server.port, swap_every).await;
            let until = Instant::now() + Duration::from_secs(2);
            let orders = Orders { port, seed: seed(), until, cancels: 0, kills: 5, pins: 3, is_uniform: false };
            crowd(10, orders).await
        })
    };
    let honest = run(0);
    no_faults(&honest);
    let evil = run(50);
    assert!(evil.faults.iter().any(|fault| fault.contains("a row of another request")), "{:#?}", evil.faults);
}
