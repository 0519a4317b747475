//! Proxies and members of etcd that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::cluster::eventually;
use crate::ground::Ground;
use crate::raw::Raw;

/// Reads and writes through a proxy until it is told to stop; gives the number of statements, all of them without an
/// error.
fn load(port: u16, stop: &Arc<AtomicBool>, done: &Arc<AtomicUsize>) -> std::thread::JoinHandle<()> {
    let (stop, done) = (Arc::clone(stop), Arc::clone(done));
    std::thread::spawn(move || {
        let mut app = Raw::connect(port, "app", "app").unwrap();
        while !stop.load(Ordering::SeqCst) {
            let number = done.load(Ordering::SeqCst) % 50;
            app.must(&format!("UPDATE counters SET value = value + 1 WHERE id = {number}"));
            app.must(&format!("SELECT value FROM counters WHERE id = {number}"));
            done.fetch_add(1, Ordering::SeqCst);
        }
    })
}

fn fill(ground: &Ground) {
    ground.admin_until_done(0, "TABLE SHARD counters KEY (id)");
    ground.app(0).must("CREATE TABLE counters (id bigint PRIMARY KEY, value bigint DEFAULT 0)");
    ground.app(0).must("INSERT INTO counters (id) SELECT generate_series(0, 49)");
}

fn more(done: &AtomicUsize, by: usize) {
    let goal = done.load(Ordering::SeqCst) + by;
    assert!(eventually(Duration::from_secs(60), || done.load(Ordering::SeqCst) >= goal), "statements go on");
}

#[test]
fn one_proxy_serves_on_while_another_is_killed_and_while_etcd_loses_its_leader() {
    let mut ground = Ground::start(2, 3, 2);
    fill(&ground);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let loading = load(ground.proxies[0].port, &stop, &done);
    more(&done, 20);
    ground.kill_proxy(1);
    more(&done, 20);
    // It may be at work where nobody sees it: a change has to wait for word of it.
    let refused = ground.admin(0, "TABLE SHARD later KEY (id)");
    assert!(refused.fault().is_some_and(|fault| fault.message.contains("p2")), "{refused:?}");
    ground.start_proxy(1);
    ground.admin_until_done(0, "TABLE SHARD later KEY (id)");
    for _ in 0..2 {
        let leader = ground.etcd.leader();
        ground.etcd.kill(leader);
        more(&done, 20);
        ground.etcd.launch(leader);
        ground.etcd.leader();
        more(&done, 20);
    }
    ground.admin_until_done(1, "TABLE SHARD latest KEY (id)");
    stop.store(true, Ordering::SeqCst);
    loading.join().unwrap();
    let statements = done.load(Ordering::SeqCst);
    let sum = ground.app(1).must("SELECT sum(value) FROM counters").value();
    println!("{statements} updates and as many reads, no error; the sum of all counters is {sum}");
    assert_eq!(sum, statements.to_string());
}

#[test]
fn a_proxy_that_leaves_is_not_waited_for_and_one_that_is_gone_can_be_forgotten() {
    let mut ground = Ground::start(2, 1, 3);
    let names = |ground: &Ground| -> Vec<String> {
        ground.admin(0, "SHOW PROXIES").texts().into_iter().map(|mut row| row.remove(0)).collect()
    };
    assert_eq!(names(&ground), ["p1", "p2", "p3"]);
    ground.stop_proxy(2);
    assert_eq!(names(&ground), ["p1", "p2"]);
    ground.admin_until_done(0, "TABLE SHARD a KEY (id)");
    ground.kill_proxy(1);
    let refused = ground.admin(0, "TABLE SHARD b KEY (id)");
    assert!(refused.fault().is_some_and(|fault| fault.message.contains("p2")), "{refused:?}");
    assert!(ground.admin(0, "FORGET PROXY p1").fault().is_some(), "itself");
    assert!(ground.admin(0, "FORGET PROXY p9").fault().is_some(), "nobody");
    ground.admin_until_done(0, "FORGET PROXY p2");
    ground.admin_until_done(0, "TABLE SHARD b KEY (id)");
    assert_eq!(names(&ground), ["p1"]);
}

#[test]
fn an_open_transaction_at_another_proxy_holds_a_declaration_up() {
    let ground = Ground::start(2, 1, 2);
    let mut app = ground.app(1);
    app.must("CREATE TABLE x (id bigint)");
    app.must("BEGIN");
    app.must("SELECT count(*) FROM x");
    let refused = ground.admin(0, "TABLE SHARD x KEY (id)");
    assert!(refused.fault().is_some_and(|fault| fault.message.contains("p2")), "{refused:?}");
    app.must("COMMIT");
    // What has waited there for nothing goes on, and so does the next try.
    ground.app(1).must("SELECT count(*) FROM x");
    ground.admin_until_done(0, "TABLE SHARD x KEY (id)");
}

#[test]
fn without_etcd_proxies_serve_on_and_only_one_shard_starts() {
    for shards in [1, 2] {
        let mut ground = Ground::start(shards, 1, 1);
        ground.app(0).must("CREATE TABLE kept (id bigint)");
        ground.app(0).must("CREATE TABLE empty (id bigint)");
        ground.etcd.kill(0);
        ground.app(0).must("INSERT INTO kept VALUES (1)");
        // Nothing but the store stands against it.
        let refused = ground.admin(0, "TABLE SHARD empty KEY (id)");
        assert!(refused.fault().is_some_and(|fault| fault.message.contains("store")), "{refused:?}");
        ground.kill_proxy(0);
        if shards == 1 {
            ground.start_proxy(0);
            assert_eq!(ground.app(0).must("SELECT count(*) FROM kept").value(), "1");
            ground.etcd.launch(0);
            ground.admin_until_done(0, "TABLE SHARD kept KEY (id)");
            let known = || ground.admin(0, "SHOW PROXIES").texts().len() == 1;
            assert!(eventually(Duration::from_secs(30), known), "it is made known when the store is back");
        } else {
            let said = ground.refusal(0);
            assert!(said.contains("the store cannot be used"), "{said}");
            ground.etcd.launch(0);
            ground.start_proxy(0);
        }
    }
}

#[test]
fn health_is_told_to_load_balancers() {
    let ground = Ground::start(1, 1, 1);
    assert_eq!(ground.health(0, "/healthz"), "HTTP/1.1 200 OK");
    assert_eq!(ground.health(0, "/readyz"), "HTTP/1.1 200 OK");
    assert_eq!(ground.health(0, "/else"), "HTTP/1.1 404 Not Found");
}
