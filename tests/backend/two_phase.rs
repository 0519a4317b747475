//! Transactions over three servers: all or nothing, whoever dies when.
//!
//! Every transaction writes its number on each shard. The checker then asks the servers themselves,
//! apart from the code it judges: a number is on every shard of its transaction or on none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ostrakon::backend::decision::{ActiveTransactions, TransactionKey};
use ostrakon::backend::{Connection, PoolSettings, Pools};
use ostrakon::base::ShardId;
use ostrakon::control::probe::{ProbeTarget, probe};
use ostrakon::control::recovery::{FindPrimaries, Recovery, prepare_database};
use ostrakon::executor::two_phase::{Branch, CommitError, Coordinator, FindPrimary, Step};
use ostrakon::wire::server_message::read_error;
use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};

use crate::postgres::ThrowawayPostgres;
use crate::support::{Dice, run, target};

const CLUSTER: u64 = 0xc1;

/// Three servers, of which each is a shard; clients are `app`, control is `postgres`.
struct Cluster {
    servers: Vec<ThrowawayPostgres>,
    pools: Arc<Pools>,
    active: ActiveTransactions,
}

impl Cluster {
    async fn start(first_port: u16) -> Self {
        let servers: Vec<_> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..3)
                .map(|index| {
                    let settings = ["max_prepared_transactions=20", "deadlock_timeout=200ms"];
                    scope.spawn(move || ThrowawayPostgres::start_with(first_port + index, &settings))
                })
                .collect();
            starting.into_iter().map(|starting| starting.join().unwrap()).collect()
        });
        for server in &servers {
            // Twice, and by several at once, as proxies that start together do.
            let target = target(server.port());
            let (one, two) = tokio::join!(prepare_database(&target), prepare_database(&target));
            one.unwrap();
            two.unwrap();
            prepare_database(&target).await.unwrap();
            server.psql(
                "postgres",
                "CREATE ROLE app LOGIN; CREATE TABLE mark (number bigint, note text); GRANT ALL ON mark TO app; \
                 CREATE TABLE pair (number bigint UNIQUE DEFERRABLE INITIALLY DEFERRED); GRANT ALL ON pair TO app",
            );
        }
        let settings = PoolSettings { size: 16, ..PoolSettings::default() };
        Self { servers, pools: Arc::new(Pools::new(settings)), active: ActiveTransactions::default() }
    }

    fn port(&self, shard: u32) -> u16 {
        self.servers[shard as usize - 1].port()
    }

    fn find_primary(&self) -> FindPrimary {
        let ports: Vec<u16> = self.servers.iter().map(ThrowawayPostgres::port).collect();
        Arc::new(move |shard| ports.get(shard.0 as usize - 1).map(|port| target(*port)))
    }

    fn coordinator(&self, id: u64) -> Coordinator {
        Coordinator::new(CLUSTER, id, self.active.clone(), self.find_primary())
    }

    fn recovery(&self) -> Recovery {
        let ports: Vec<u16> = self.servers.iter().map(ThrowawayPostgres::port).collect();
        let primaries: FindPrimaries =
            Arc::new(move || (1..).map(ShardId).zip(ports.iter().map(|port| target(*port))).collect());
        Recovery::new(CLUSTER, self.active.clone(), primaries, 0)
    }

    /// A branch on each of the shards, in a transaction that has written the number.
    async fn begin(&self, number: u64, shards: &[u32]) -> Vec<Branch> {
        let mut branches = Vec::new();
        for shard in shards {
            let mut target = target(self.port(*shard));
            target.user = "app".into();
            let mut lease = self.pools.checkout(&target).await.unwrap();
            run(&mut lease, &format!("BEGIN; INSERT INTO mark VALUES ({number}, 'new')")).await;
            branches.push(Branch { shard: ShardId(*shard), lease });
        }
        branches
    }

    fn ask(&self, shard: u32, sql: &str) -> BTreeSet<String> {
        self.servers[shard as usize - 1].psql("postgres", sql).lines().map(str::to_owned).collect()
    }

    /// Shards on which a number is to be seen.
    fn seen(&self, number: u64) -> Vec<u32> {
        let sql = format!("SELECT number FROM mark WHERE number = {number}");
        (1..=3).filter(|shard| !self.ask(*shard, &sql).is_empty()).collect()
    }

    fn prepared(&self) -> usize {
        (1..=3).map(|shard| self.ask(shard, "SELECT gid FROM pg_prepared_xacts").len()).sum()
    }

    /// Passes until nothing is in doubt.
    async fn settle(&self) -> (usize, usize) {
        let mut recovery = self.recovery();
        let (mut committed, mut aborted) = (0, 0);
        for _ in 0..50 {
            let report = recovery.run_once().await;
            committed += report.committed;
            aborted += report.aborted;
            // A statement of a dead coordinator may still be on its way.
            let busy = "SELECT pid FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle'";
            if self.prepared() == 0 && (1..=3).all(|shard| self.ask(shard, busy).is_empty()) {
                return (committed, aborted);
            }
        }
        panic!("still in doubt");
    }
}

/// Numbers that break the rule: not on all of their shards, and not on none.
fn torn(cluster: &Cluster, transactions: &BTreeMap<u64, Vec<u32>>) -> Vec<u64> {
    let on: Vec<BTreeSet<String>> = (1..=3).map(|shard| cluster.ask(shard, "SELECT number FROM mark")).collect();
    transactions
        .iter()
        .filter(|(number, shards)| {
            let count = shards.iter().filter(|shard| on[**shard as usize - 1].contains(&number.to_string())).count();
            count != 0 && count != shards.len()
        })
        .map(|(number, _)| *number)
        .collect()
}

fn dies_at(step: Step) -> (ostrakon::executor::two_phase::Interlude, Arc<AtomicBool>) {
    let is_there = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_there);
    let interlude: ostrakon::executor::two_phase::Interlude = Arc::new(move |now| {
        let told = Arc::clone(&told);
        Box::pin(async move {
            if now == step {
                told.store(true, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
        })
    });
    (interlude, is_there)
}

/// Runs a commit until its coordinator dies.
async fn commit_and_die(coordinator: &Coordinator, mut branches: Vec<Branch>, is_there: &AtomicBool) {
    let died = async {
        while !is_there.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        outcome = coordinator.commit(&mut branches) => panic!("did not die: {outcome:?}"),
        () = died => {}
    }
}

#[tokio::test]
async fn three_shards_commit_or_roll_back_together() {
    let cluster = Cluster::start(15920).await;
    let coordinator = cluster.coordinator(1);

    let mut branches = cluster.begin(1, &[1, 2, 3]).await;
    let outcome = coordinator.commit(&mut branches).await.unwrap();
    assert!(outcome.unfinished.is_empty());
    assert!(branches.iter().all(|branch| branch.lease.is_clean()));
    drop(branches);
    assert_eq!(cluster.seen(1), [1, 2, 3]);
    let decision = TransactionKey { cluster: CLUSTER, coordinator: 1, number: 1, decider: ShardId(3) }.decision_gid();
    assert_eq!(
        cluster.ask(3, "SELECT gid || outcome FROM ostrakon.decision"),
        BTreeSet::from([format!("{decision}c")])
    );
    assert!(cluster.ask(1, "SELECT gid FROM ostrakon.decision").is_empty());

    coordinator.commit(&mut cluster.begin(2, &[2]).await).await.unwrap();
    assert_eq!(cluster.seen(2), [2]);
    assert!(cluster.ask(2, "SELECT gid FROM ostrakon.decision").is_empty(), "one shard needs no decision");
    assert!(coordinator.commit(&mut []).await.unwrap().unfinished.is_empty());

    // A deferred constraint that fails at PREPARE, and one that fails at the decider's COMMIT.
    for (number, shard) in [(3u64, 1u32), (4, 3)] {
        let mut branches = cluster.begin(number, &[1, 2, 3]).await;
        run(&mut branches[shard as usize - 1].lease, "INSERT INTO pair VALUES (1), (1)").await;
        let error = coordinator.commit(&mut branches).await.unwrap_err();
        let CommitError::Postgres { shard: refused_by, .. } = &error else { panic!("{error:?}") };
        assert_eq!(refused_by.0, shard);
        assert_eq!(read_error(&error.error_frame().unwrap().body()).unwrap().code, "23505");
        assert_eq!(cluster.seen(number), [0u32; 0], "number {number}");
        assert_eq!(cluster.prepared(), 0);
    }

    // Temporary objects cannot be prepared; a failed transaction cannot commit.
    let mut branches = cluster.begin(5, &[1, 2]).await;
    run(&mut branches[0].lease, "CREATE TEMP TABLE t (a int)").await;
    let error = coordinator.commit(&mut branches).await.unwrap_err();
    assert_eq!(read_error(&error.error_frame().unwrap().body()).unwrap().code, "0A000");
    drop(branches);
    let mut branches = cluster.begin(6, &[1, 2]).await;
    branches[1].lease.simple("SELECT 1/0").await.unwrap();
    let error = coordinator.commit(&mut branches).await.unwrap_err();
    assert!(matches!(error, CommitError::NotOpen { shard: ShardId(2) }));
    assert_eq!(error.to_client_error().sqlstate(), "40001");
    assert_eq!((cluster.seen(5), cluster.seen(6)), (vec![], vec![]));

    // The decider's row does not depend on the session's settings.
    drop(branches);
    let mut branches = cluster.begin(7, &[1, 3]).await;
    run(&mut branches[1].lease, "SET LOCAL search_path TO nowhere; SET LOCAL statement_timeout TO '10s'").await;
    run(&mut branches[0].lease, "DO 'BEGIN RAISE NOTICE ''x''; END'").await;
    coordinator.commit(&mut branches).await.unwrap();
    assert_eq!(cluster.seen(7), [1, 3]);

    drop(branches);
    // Every connection has come back clean.
    assert!(cluster.pools.stats().iter().all(|stats| stats.counts.used == 0), "{:?}", cluster.pools.stats());
    assert!(cluster.active.is_empty());
    assert_eq!(cluster.settle().await, (0, 0));
    node_probes(&cluster).await;
}

async fn node_probes(cluster: &Cluster) {
    let mut targets: Vec<ProbeTarget> =
        (1..=3).map(|shard| ProbeTarget { shard: ShardId(shard), target: target(cluster.port(shard)) }).collect();
    targets.push(ProbeTarget { shard: ShardId(4), target: target(15947) });
    let probes = probe(&targets, 2_000).await;
    assert_eq!(probes.len(), 4);
    for probe in &probes[..3] {
        let answer = probe.answer.as_ref().unwrap();
        assert!(!answer.in_recovery && answer.lsn.is_some() && !answer.is_streaming);
        assert!(answer.version.starts_with(|c: char| c.is_ascii_digit()));
    }
    assert!(probes[3].answer.is_err());
}

#[tokio::test]
async fn recovery_brings_all_shards_to_the_deciders_side() {
    let cluster = Cluster::start(15924).await;

    // Dead between PREPARE and the decision: aborted.
    let (interlude, is_there) = dies_at(Step::Prepared);
    let coordinator = cluster.coordinator(1).with_interlude(interlude);
    commit_and_die(&coordinator, cluster.begin(1, &[1, 2, 3]).await, &is_there).await;
    assert_eq!(cluster.prepared(), 2);
    assert_eq!(cluster.settle().await, (0, 2));
    assert_eq!(cluster.seen(1), [0u32; 0]);

    // Dead between the decision and COMMIT PREPARED: committed.
    let (interlude, is_there) = dies_at(Step::Decided);
    let coordinator = cluster.coordinator(2).with_interlude(interlude);
    commit_and_die(&coordinator, cluster.begin(2, &[1, 2, 3]).await, &is_there).await;
    assert_eq!(cluster.seen(2), [3]);
    let torn_now = torn(&cluster, &BTreeMap::from([(2, vec![1, 2, 3])]));
    assert_eq!(torn_now, [2], "the checker sees a transaction that is only half there");
    assert_eq!(cluster.settle().await, (2, 0));
    assert_eq!(cluster.seen(2), [1, 2, 3]);

    // A transaction that is being worked on is left alone.
    let (interlude, is_there) = dies_at(Step::Prepared);
    let coordinator = Arc::new(cluster.coordinator(3).with_interlude(interlude));
    let mut branches = cluster.begin(3, &[1, 2]).await;
    let working = tokio::spawn({
        let coordinator = Arc::clone(&coordinator);
        async move { coordinator.commit(&mut branches).await.is_ok() }
    });
    while !is_there.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
    let report = cluster.recovery().run_once().await;
    assert_eq!((report.committed, report.aborted, report.waiting), (0, 0, 0));
    assert_eq!(cluster.prepared(), 1);
    working.abort();
    let _ = working.await;
    assert_eq!(cluster.settle().await, (0, 1));

    // A recovery that was faster than a slow coordinator: that one cannot commit any more.
    let interlude: ostrakon::executor::two_phase::Interlude = {
        let stranger = Arc::new(tokio::sync::Mutex::new(Recovery::new(
            CLUSTER,
            ActiveTransactions::default(),
            {
                let ports: Vec<u16> = cluster.servers.iter().map(ThrowawayPostgres::port).collect();
                Arc::new(move || (1..).map(ShardId).zip(ports.iter().map(|port| target(*port))).collect())
            },
            0,
        )));
        Arc::new(move |step| {
            let stranger = Arc::clone(&stranger);
            Box::pin(async move {
                if step == Step::Prepared {
                    assert_eq!(stranger.lock().await.run_once().await.aborted, 1);
                }
            })
        })
    };
    let slow = cluster.coordinator(4).with_interlude(interlude);
    let error = slow.commit(&mut cluster.begin(4, &[1, 2]).await).await.unwrap_err();
    assert_eq!(read_error(&error.error_frame().unwrap().body()).unwrap().code, "23505");
    assert_eq!(cluster.seen(4), [0u32; 0]);

    // The decider's shard is away: its branches wait, and are finished when it is back.
    let (interlude, is_there) = dies_at(Step::Decided);
    let coordinator = cluster.coordinator(5).with_interlude(interlude);
    commit_and_die(&coordinator, cluster.begin(5, &[1, 2, 3]).await, &is_there).await;
    cluster.servers[2].kill();
    let report = cluster.recovery().run_once().await;
    assert_eq!((report.committed, report.aborted, report.waiting), (0, 0, 2));
    assert_eq!(report.unreachable, [ShardId(3)]);
    cluster.servers[2].launch();
    assert_eq!(cluster.settle().await, (2, 0));
    assert_eq!(cluster.seen(5), [1, 2, 3]);

    // A role that is no superuser finishes the branches of its members.
    not_a_superuser(&cluster).await;

    // Old rows go, the ones of branches that are still there stay.
    let (interlude, is_there) = dies_at(Step::Decided);
    let coordinator = cluster.coordinator(7).with_interlude(interlude);
    commit_and_die(&coordinator, cluster.begin(7, &[1, 3]).await, &is_there).await;
    let old = "UPDATE ostrakon.decision SET at = at - interval '2 days' RETURNING 1";
    for server in &cluster.servers {
        server.psql("postgres", old);
    }
    let mut lagging = cluster.recovery();
    let _working =
        cluster.active.enter(TransactionKey { cluster: CLUSTER, coordinator: 7, number: 1, decider: ShardId(3) });
    let report = lagging.run_once().await;
    assert!(report.cleaned > 0, "{report:?}");
    assert_eq!(cluster.ask(3, "SELECT outcome FROM ostrakon.decision"), BTreeSet::from(["c".to_owned()]));
    drop(_working);
    assert_eq!(cluster.settle().await, (1, 0));
    assert_eq!(cluster.seen(7), [1, 3]);
}

async fn not_a_superuser(cluster: &Cluster) {
    for server in &cluster.servers {
        server.psql(
            "postgres",
            "CREATE ROLE control LOGIN; GRANT app TO control; GRANT ALL ON ostrakon.decision TO control",
        );
    }
    let (interlude, is_there) = dies_at(Step::Decided);
    let coordinator = cluster.coordinator(6).with_interlude(interlude);
    commit_and_die(&coordinator, cluster.begin(6, &[1, 2, 3]).await, &is_there).await;
    let ports: Vec<u16> = cluster.servers.iter().map(ThrowawayPostgres::port).collect();
    let primaries: FindPrimaries = Arc::new(move || {
        let control = |port: &u16| {
            let mut target = target(*port);
            target.user = "control".into();
            target
        };
        (1..).map(ShardId).zip(ports.iter().map(control)).collect()
    });
    let report = Recovery::new(CLUSTER, cluster.active.clone(), primaries, 0).run_once().await;
    assert_eq!((report.committed, report.waiting), (2, 0), "{report:?}");
    assert_eq!(cluster.seen(6), [1, 2, 3]);
}

#[tokio::test]
async fn a_decider_that_is_lost_during_its_commit_is_asked_again() {
    let cluster = Cluster::start(15928).await;

    // The commit happens and its answer is lost on the way.
    let cut = Arc::new(AtomicBool::new(false));
    let wire = TcpListener::bind("127.0.0.1:15931").await.unwrap();
    let port = cluster.port(3);
    let forwarding = tokio::spawn({
        let cut = Arc::clone(&cut);
        async move {
            loop {
                let (client, _) = wire.accept().await.unwrap();
                tokio::spawn(forward(client, port, Arc::clone(&cut)));
            }
        }
    });
    let cutting: ostrakon::executor::two_phase::Interlude = {
        let cut = Arc::clone(&cut);
        Arc::new(move |step| {
            let cut = Arc::clone(&cut);
            Box::pin(async move { cut.store(step == Step::Prepared, Ordering::SeqCst) })
        })
    };
    let coordinator = cluster.coordinator(1).with_interlude(cutting);
    let mut branches = cluster.begin(1, &[1, 2]).await;
    let mut through = target(15931);
    through.user = "app".into();
    let mut lease = cluster.pools.checkout(&through).await.unwrap();
    run(&mut lease, "BEGIN; INSERT INTO mark VALUES (1, 'new')").await;
    branches.push(Branch { shard: ShardId(3), lease });
    let outcome = coordinator.commit(&mut branches).await.unwrap();
    assert!(branches[2].lease.is_poisoned());
    assert!(outcome.unfinished.is_empty());
    drop(branches);
    assert_eq!(cluster.seen(1), [1, 2, 3]);
    forwarding.abort();

    // The decider's backend dies in the middle of its commit: it has not committed.
    cluster.servers[2].psql(
        "postgres",
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(30); RETURN NULL; END'; \
         CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON pair DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION slow()",
    );
    let coordinator = cluster.coordinator(2);
    let mut branches = cluster.begin(2, &[1, 2, 3]).await;
    run(&mut branches[2].lease, "INSERT INTO pair VALUES (2)").await;
    let pid = branches[2].lease.pid();
    let mut killer = Connection::connect(&target(cluster.port(3))).await.unwrap();
    let killing = async {
        let sleeping = format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'");
        while run(&mut killer, &sleeping).await.is_empty() {}
        run(&mut killer, &format!("SELECT pg_terminate_backend({pid}, 5000)")).await;
    };
    let (outcome, ()) = tokio::join!(coordinator.commit(&mut branches), killing);
    let error = outcome.unwrap_err();
    assert!(matches!(error, CommitError::Lost { shard: ShardId(3), .. }), "{error:?}");
    assert_eq!(error.to_client_error().sqlstate(), "40001");
    assert_eq!(cluster.seen(2), [0u32; 0]);
    assert_eq!(cluster.prepared(), 0);

    // A branch dies before it is prepared: nothing is left anywhere.
    let mut branches = cluster.begin(3, &[1, 2, 3]).await;
    let pid = branches[1].lease.pid();
    let mut killer = Connection::connect(&target(cluster.port(2))).await.unwrap();
    run(&mut killer, &format!("SELECT pg_terminate_backend({pid}, 5000)")).await;
    let error = cluster.coordinator(3).commit(&mut branches).await.unwrap_err();
    assert!(matches!(error, CommitError::Lost { shard: ShardId(2), .. }), "{error:?}");
    cluster.settle().await;
    assert_eq!(cluster.seen(3), [0u32; 0]);
    assert_eq!(cluster.prepared(), 0);
}

/// Forwards both ways until a reply comes while `cut` is set; that reply and the connection are lost.
async fn forward(client: TcpStream, port: u16, cut: Arc<AtomicBool>) {
    let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut client_in, mut client_out) = client.into_split();
    let (mut server_in, mut server_out) = server.into_split();
    let requests = async { copy(&mut client_in, &mut server_out).await.map(|_| ()) };
    let replies = async {
        let mut chunk = [0u8; 4096];
        loop {
            let read = tokio::io::AsyncReadExt::read(&mut server_in, &mut chunk).await?;
            if read == 0 || cut.load(Ordering::SeqCst) {
                return Ok(());
            }
            tokio::io::AsyncWriteExt::write_all(&mut client_out, &chunk[..read]).await?;
        }
    };
    let _: std::io::Result<()> = tokio::select! { end = requests => end, end = replies => end };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_torn_when_coordinators_die_at_any_moment() {
    let cluster = Arc::new(Cluster::start(15932).await);
    let mut tasks = Vec::new();
    // Recovery works all the while, as another proxy would: it does not know who is active.
    let recovering = tokio::spawn({
        let ports: Vec<u16> = cluster.servers.iter().map(ThrowawayPostgres::port).collect();
        let primaries: FindPrimaries =
            Arc::new(move || (1..).map(ShardId).zip(ports.iter().map(|port| target(*port))).collect());
        Recovery::new(CLUSTER, ActiveTransactions::default(), primaries, 20).run(10)
    });
    for task in 0..8u64 {
        let cluster = Arc::clone(&cluster);
        tasks.push(tokio::spawn(async move {
            let coordinator = cluster.coordinator(100 + task);
            let mut dice = Dice::new(task + 1);
            let mut transactions = BTreeMap::new();
            let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
            for turn in 0..60u64 {
                let number = task * 1_000 + turn;
                let shards: &[u32] = [&[1u32, 2][..], &[2, 3], &[1, 3], &[1, 2, 3]][dice.below(4) as usize];
                let mut branches = cluster.begin(number, shards).await;
                transactions.insert(number, shards.to_vec());
                let limit = Duration::from_micros(dice.below(12_000));
                match tokio::time::timeout(limit, coordinator.commit(&mut branches)).await {
                    Ok(Ok(_)) => acknowledged.push(number),
                    Ok(Err(CommitError::Unknown { .. })) => panic!("every server is there"),
                    Ok(Err(_)) => refused.push(number),
                    Err(_) => {}
                }
            }
            (transactions, acknowledged, refused)
        }));
    }
    let (mut transactions, mut acknowledged, mut refused) = (BTreeMap::new(), Vec::new(), Vec::new());
    for task in tasks {
        let (some, acked, failed) = task.await.unwrap();
        transactions.extend(some);
        acknowledged.extend(acked);
        refused.extend(failed);
    }
    recovering.abort();
    let _ = recovering.await;
    let settled = cluster.settle().await;
    assert_eq!(torn(&cluster, &transactions), [0u64; 0]);
    let on = cluster
        .ask(2, "SELECT number FROM mark")
        .union(&cluster.ask(1, "SELECT number FROM mark"))
        .cloned()
        .collect::<BTreeSet<_>>();
    assert!(acknowledged.iter().all(|number| on.contains(&number.to_string())), "an acknowledged commit is lost");
    assert!(!refused.iter().any(|number| on.contains(&number.to_string())), "a refused commit is seen");
    println!(
        "{} transactions: {} acknowledged, {} refused, {} of dead coordinators, of which {} are committed; last pass {settled:?}",
        transactions.len(),
        acknowledged.len(),
        refused.len(),
        transactions.len() - acknowledged.len() - refused.len(),
        on.len() - acknowledged.len(),
    );
    assert!(acknowledged.len() > 20 && acknowledged.len() < transactions.len());
}

#[tokio::test]
async fn the_checker_sees_what_commits_without_two_phases_tear() {
    let cluster = Cluster::start(15936).await;
    let mut branches = cluster.begin(1, &[1, 2, 3]).await;
    // A plain COMMIT everywhere, and the second one fails.
    run(&mut branches[1].lease, "INSERT INTO pair VALUES (1), (1)").await;
    for branch in &mut branches {
        let _ = branch.lease.simple("COMMIT").await.unwrap();
    }
    assert_eq!(torn(&cluster, &BTreeMap::from([(1, vec![1, 2, 3])])), [1]);
}
