//! One shard of three real servers, led by the driver: the primary is killed under writers.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostrakon::auth::ServerSecret;
use ostrakon::backend::{ConnectTarget, ServersTls, ServersTlsSettings};
use ostrakon::base::{NodeId, ShardId, Term};
use ostrakon::control::leader::names::Names;
use ostrakon::control::leader::node::Places;
use ostrakon::control::leader::{Driver, DriverSettings, Handle, Hands};
use ostrakon::failover::{Cause, Member, Phase, Serving, Settings};
use ostrakon::host::{self, Machine, ServerSpec, port, process};
use ostrakon::store::agents::Order;
use ostrakon::store::{BoxFuture, MemoryStore};
use parking_lot::Mutex;
use tokio_postgres::{Client, NoTls};

const LIMIT: Duration = Duration::from_secs(200);

struct Shard {
    machine: Machine,
    specs: Vec<ServerSpec>,
    handle: Handle,
    directory: tempfile::TempDir,
}

impl Drop for Shard {
    fn drop(&mut self) {
        for (_, directory) in host::machine::nodes(self.directory.path()) {
            end(&directory);
        }
    }
}

/// Ends a server and all its children, as a machine that fails does.
fn end(directory: &std::path::Path) {
    for pid in process::working_in(directory) {
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
}

fn id(index: usize) -> NodeId {
    NodeId(index as u32 + 1)
}

impl Shard {
    async fn start(first_port: u16) -> Self {
        let directory = tempfile::Builder::new().prefix("ostrakon-failover-").tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let machine = Machine::open(directory.path(), None).unwrap();
        let ports = port::choose(first_port, 3).unwrap();
        let named = ["s1a", "s1b", "s1c"].into_iter().zip(ports);
        let specs: Vec<ServerSpec> = named.map(|(name, port)| ServerSpec { name: name.to_owned(), port }).collect();
        let slots = ["s1b".to_owned(), "s1c".to_owned()];
        machine.ensure_primary(&specs[0], &slots, &|_| {}).await.unwrap();
        machine.ensure_replica(&specs[1], &specs[0], &|_| {}).await.unwrap();
        machine.ensure_replica(&specs[2], &specs[0], &|_| {}).await.unwrap();
        let sql = "CREATE TABLE written (k bigint PRIMARY KEY)";
        host::replication::connect(&specs[0]).await.unwrap().batch_execute(sql).await.unwrap();
        let handle = lead(&machine, &specs);
        Self { machine, specs, handle, directory }
    }

    /// Waits for this to be so of what the driver shows.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Handle) -> bool) {
        let since = Instant::now();
        while !is_so(&self.handle) {
            assert!(since.elapsed() < LIMIT, "{what}: {:?}", *self.handle.record.borrow());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Serves with both replicas in the set.
    async fn until_whole(&mut self) {
        self.until("whole", |handle| {
            let record = handle.record.borrow();
            let is_whole = record.as_ref().is_some_and(|record| {
                record.phase == Phase::Open && record.next.is_none() && record.current.members.len() == 2
            });
            is_whole && matches!(*handle.serving.borrow(), Serving::Open { .. })
        })
        .await;
    }

    fn primary(&self) -> usize {
        self.handle.record.borrow().as_ref().unwrap().primary.0 as usize - 1
    }
}

/// Whoever is to be made anew is on this machine.
struct Local {
    machine: Machine,
    specs: Vec<ServerSpec>,
}

impl Hands for Local {
    fn obey(&self, node: NodeId, order: Order) -> BoxFuture<'_, bool> {
        let spec = |node: NodeId| self.specs[node.0 as usize - 1].clone();
        let (target, source) = (spec(node), spec(NodeId(order.primary)));
        let promise = format!("{}.{}", order.term, order.config);
        Box::pin(async move {
            let made = self.machine.remake_replica(&target, &source, &promise, &|| Box::pin(async { true })).await;
            made.inspect_err(|error| eprintln!("{node} is not made anew: {error}")).is_ok()
        })
    }

    fn is_empty(&self, _: NodeId) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    fn are_there(&self, _: NodeId) -> BoxFuture<'_, bool> {
        Box::pin(async { true })
    }
}

fn lead(machine: &Machine, specs: &[ServerSpec]) -> Handle {
    let tls = ServersTls::load(&ServersTlsSettings::default()).unwrap();
    let target = |index: usize| ConnectTarget {
        node: id(index),
        host: "127.0.0.1".to_owned(),
        port: specs[index].port,
        database: "postgres".to_owned(),
        user: "postgres".to_owned(),
        secret: ServerSecret::default(),
        parameters: Vec::new(),
        connect_timeout_ms: 2_000,
        tls: tls.of(&specs[index].name),
    };
    let names = Names::new((0..3).map(|index| (id(index), specs[index].name.clone())));
    let places = Places {
        targets: (0..3).map(|index| (id(index), target(index))).collect(),
        names,
        replication_user: "postgres".to_owned(),
    };
    let hands = Arc::new(Local { machine: machine.clone(), specs: specs.to_vec() });
    Driver {
        settings: DriverSettings {
            shard: ShardId(1),
            machine: Settings::default(),
            probe_pause: Duration::from_millis(100),
            probe_limit: Duration::from_millis(500),
            holder: "test".to_owned(),
        },
        store: Arc::new(MemoryStore::default()),
        places: Arc::new(places),
        members: (0..3).map(|index| Member { node: id(index), zone: String::new(), priority: 0 }).collect(),
        first: (Term(1), NodeId(1)),
        hands,
    }
    .start()
}

async fn connect(spec: &ServerSpec) -> Option<Client> {
    let text = format!("host=127.0.0.1 port={} user=postgres dbname=postgres connect_timeout=1", spec.port);
    let connected = tokio::time::timeout(Duration::from_secs(1), tokio_postgres::connect(&text, NoTls)).await;
    let (client, connection) = connected.ok()?.ok()?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Some(client)
}

/// Writers that go where the driver says, and remember what was acknowledged and when.
struct Writers {
    acknowledged: Arc<Mutex<Vec<(Instant, i64)>>>,
    is_over: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Writers {
    fn start(shard: &Shard, count: usize, first: u64) -> Self {
        let acknowledged: Arc<Mutex<Vec<(Instant, i64)>>> = Arc::default();
        let is_over = Arc::new(AtomicBool::new(false));
        let next = Arc::new(AtomicU64::new(first));
        let tasks = (0..count).map(|_| {
            let (acknowledged, is_over, next) = (Arc::clone(&acknowledged), Arc::clone(&is_over), Arc::clone(&next));
            let (serving, specs) = (shard.handle.serving.clone(), shard.specs.clone());
            tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    let now = *serving.borrow();
                    let Serving::Open { node, .. } = now else {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        continue;
                    };
                    let Some(client) = connect(&specs[node.0 as usize - 1]).await else { continue };
                    while *serving.borrow() == now && !is_over.load(Ordering::Relaxed) {
                        let key = next.fetch_add(1, Ordering::Relaxed) as i64;
                        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&key];
                        let statement = client.execute("INSERT INTO written VALUES ($1)", &parameters);
                        match tokio::time::timeout(Duration::from_secs(3), statement).await {
                            Ok(Ok(1)) => acknowledged.lock().push((Instant::now(), key)),
                            _ => break,
                        }
                    }
                }
            })
        });
        let tasks = tasks.collect();
        Self { acknowledged, is_over, tasks }
    }

    async fn finish(self) -> Vec<(Instant, i64)> {
        self.is_over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        std::mem::take(&mut *self.acknowledged.lock())
    }
}

/// The longest time without an acknowledgement that contains the moment or follows it.
fn outage(acknowledged: &[(Instant, i64)], at: Instant) -> Duration {
    let mut times: Vec<Instant> = acknowledged.iter().map(|(time, _)| *time).collect();
    times.sort();
    let gaps = times.windows(2).filter(|pair| pair[1] > at).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or(LIMIT)
}

async fn missing(spec: &ServerSpec, acknowledged: &[(Instant, i64)]) -> usize {
    let rows = connect(spec).await.unwrap().query("SELECT k FROM written", &[]).await.unwrap();
    let there: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    acknowledged.iter().filter(|(_, key)| !there.contains(key)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_loses_nothing_and_comes_back_as_a_replica() {
    let mut shard = Shard::start(21_500).await;
    shard.until_whole().await;
    for round in 1..=3 {
        let old = shard.primary();
        let writers = Writers::start(&shard, 8, round * 1_000_000);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let at = Instant::now();
        end(&shard.machine.data_directory(&shard.specs[old].name));
        shard
            .until("another primary", |handle| {
                let record = handle.record.borrow();
                record.as_ref().is_some_and(|record| record.phase == Phase::Open && record.primary != id(old))
            })
            .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Nobody has to do anything: it is made anew and counts again.
        shard.until_whole().await;
        let acknowledged = writers.finish().await;
        let lost = missing(&shard.specs[shard.primary()], &acknowledged).await;
        println!(
            "round {round}: {} acknowledged, {lost} lost, outage {} ms, whole again after {} ms",
            acknowledged.len(),
            outage(&acknowledged, at).as_millis(),
            at.elapsed().as_millis()
        );
        assert_eq!(lost, 0);
        assert!(acknowledged.last().is_some_and(|(time, _)| *time > at), "nothing was written again");
        assert_ne!(shard.primary(), old);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_under_load_loses_nothing() {
    let mut shard = Shard::start(21_600).await;
    shard.until_whole().await;
    let writers = Writers::start(&shard, 4, 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let at = Instant::now();
    shard.handle.command(Cause::Planned { to: Some(id(2)) }).await;
    shard
        .until("the third one leads", |handle| {
            let record = handle.record.borrow();
            record.as_ref().is_some_and(|record| record.phase == Phase::Open && record.primary == id(2))
        })
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    shard.until_whole().await;
    let acknowledged = writers.finish().await;
    let lost = missing(&shard.specs[2], &acknowledged).await;
    let pause = outage(&acknowledged, at).as_millis();
    println!("{} acknowledged, {lost} lost, pause {pause} ms", acknowledged.len());
    assert_eq!(lost, 0);
}
