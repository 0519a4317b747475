//! Waiting for row locks through the proxy: who waits may go away, and nobody waits for ever.

use std::time::Duration;

use crate::cluster::{Cluster, Placement, eventually};
use crate::raw::Raw;

const KEYS: i64 = 20;

fn cluster() -> Cluster {
    let cluster = Cluster::start(2, &[("counters", Placement::Key(&["id"]))]);
    let mut app = cluster.app();
    app.must("CREATE TABLE counters (id bigint PRIMARY KEY, n int NOT NULL)");
    let rows: Vec<String> = (1..=KEYS).map(|id| format!("({id}, 0)")).collect();
    app.must(&format!("INSERT INTO counters VALUES {}", rows.join(", ")));
    cluster
}

/// One key on each of the two shards.
fn keys_apart(cluster: &Cluster) -> [String; 2] {
    [0, 1].map(|shard: usize| {
        let key = cluster.shards[shard].superuser().must("SELECT min(id) FROM counters").value();
        assert!(!key.is_empty(), "a shard holds no row");
        key
    })
}

/// Sessions of the application that are inside a transaction on a server.
fn busy(session: &mut Raw) -> usize {
    let query = "SELECT pid FROM pg_stat_activity WHERE usename = 'app' AND xact_start IS NOT NULL";
    session.must(query).texts().len()
}

#[test]
fn a_client_that_goes_away_while_it_waits_leaves_no_transaction() {
    let cluster = cluster();
    let [key, other] = keys_apart(&cluster);
    let mut holder = cluster.shards[0].superuser();
    holder.must("BEGIN");
    holder.must(&format!("UPDATE counters SET n = 1 WHERE id = {key}"));
    let mut client = cluster.app();
    client.must("BEGIN");
    client.must(&format!("UPDATE counters SET n = 2 WHERE id = {other}"));
    client.set_patience(Duration::from_millis(300));
    assert!(client.simple(&format!("UPDATE counters SET n = 2 WHERE id = {key}")).is_err(), "it has to wait");
    drop(client);
    let mut watchers = [cluster.shards[0].superuser(), cluster.shards[1].superuser()];
    let ended = eventually(Duration::from_secs(5), || watchers.iter_mut().all(|watcher| busy(watcher) == 0));
    holder.must("ROLLBACK");
    assert!(ended, "its transaction is still open while the lock is held");
    assert_eq!(cluster.app().must("SELECT sum(n) FROM counters").value(), "0");
}

#[test]
fn a_deadlock_across_shards_ends_one_of_the_two() {
    let cluster = cluster();
    let [first, second] = keys_apart(&cluster);
    let update = |key: &str| format!("UPDATE counters SET n = n + 1 WHERE id = {key}");
    let mut sessions = [cluster.app(), cluster.app()];
    for (session, key) in sessions.iter_mut().zip([&first, &second]) {
        session.set_patience(Duration::from_secs(10));
        session.must("BEGIN");
        session.must(&update(key));
    }
    let [one, two] = &mut sessions;
    let codes: Vec<String> = std::thread::scope(|scope| {
        let waits = [scope.spawn(|| one.simple(&update(&second))), scope.spawn(|| two.simple(&update(&first)))];
        waits.map(|wait| wait.join().unwrap().map_or_else(|e| e.to_string(), |reply| reply.sqlstate().into())).into()
    });
    assert!(codes.contains(&"40P01".to_owned()) && codes.contains(&"00000".to_owned()), "{codes:?}");
}
