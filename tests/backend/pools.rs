//! Pools of connections to real servers: what a session leaves, what a server refuses.

use std::time::Duration;

use ostrakon::backend::{CheckoutError, ConnectTarget, Connection, PoolSettings, Pools};
use ostrakon::wire::client_message::encode_query;
use ostrakon::wire::server_message::read_error;

use crate::postgres::ThrowawayPostgres;
use crate::support::{run, target};

fn one() -> Pools {
    Pools::new(PoolSettings { size: 1, ..PoolSettings::default() })
}

fn code(error: &CheckoutError) -> String {
    let frame = error.error_frame().unwrap_or_else(|| panic!("{error} is not the server's own"));
    read_error(&frame.body()).unwrap().code
}

#[tokio::test]
async fn a_connection_that_a_session_used_up_is_wiped() {
    let _server = ThrowawayPostgres::start(15840);
    let pools = one();
    let mut lease = pools.checkout(&target(15840)).await.unwrap();
    let pid = lease.pid();
    for sql in [
        "CREATE TEMP TABLE left_over (a int)",
        "SET work_mem = '99MB'",
        "SELECT pg_advisory_lock(7)",
        "LISTEN something",
        "PREPARE p AS SELECT 1",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "CREATE SEQUENCE numbers",
        "SELECT nextval('numbers')",
    ] {
        run(&mut lease, sql).await;
    }
    lease.prepared.ensure(1);
    lease.needs_reset = true;
    drop(lease);
    let mut lease = pools.checkout(&target(15840)).await.unwrap();
    assert_eq!((lease.pid(), lease.needs_reset, lease.prepared.len()), (pid, false, 0));
    let left = "SELECT to_regclass('left_over')::text UNION ALL SELECT 'lock' FROM pg_locks WHERE locktype = 'advisory' \
                UNION ALL SELECT pg_listening_channels() UNION ALL SELECT name FROM pg_prepared_statements \
                UNION ALL SELECT name FROM pg_cursors";
    assert_eq!(run(&mut lease, left).await, [""]);
    assert_eq!(run(&mut lease, "SHOW work_mem").await, ["4MB"]);
    assert!(lease.simple("SELECT lastval()").await.unwrap().error.is_some());
    drop(lease);
    assert_eq!(pools.stats()[0].counts.resets_total, 1);
}

#[tokio::test]
async fn a_connection_with_other_startup_parameters_is_never_given() {
    let _server = ThrowawayPostgres::start(15841);
    let pools = one();
    let plain = target(15841);
    let with = |value: &str| ConnectTarget {
        parameters: vec![
            ("application_name".into(), "mine".into()),
            ("options".into(), format!("-c work_mem={value}")),
        ],
        ..target(15841)
    };
    let mut first = pools.checkout(&plain).await.unwrap();
    assert_eq!(run(&mut first, "SHOW application_name").await, [""]);
    drop(first);
    let mut second = pools.checkout(&with("3MB")).await.unwrap();
    let pid = second.pid();
    run(&mut second, "SET work_mem = '9MB'").await;
    run(&mut second, "RESET work_mem").await;
    assert_eq!(run(&mut second, "SHOW work_mem").await, ["3MB"]);
    assert_eq!(run(&mut second, "SHOW application_name").await, ["mine"]);
    drop(second);
    assert_eq!(pools.checkout(&with("3MB")).await.unwrap().pid(), pid);
    assert_ne!(pools.checkout(&with("5MB")).await.unwrap().pid(), pid);
    // All of them share the one place of the pool.
    assert_eq!((pools.stats().len(), pools.stats()[0].counts.idle), (1, 1));
    let refused = pools.checkout(&with("nonsense")).await.unwrap_err();
    assert_eq!(code(&refused), "22023");
    pools.checkout(&plain).await.unwrap();
}

#[tokio::test]
async fn what_the_server_refuses_is_told_in_its_own_words_and_a_full_one_is_waited_for() {
    let _server = ThrowawayPostgres::start_with(15842, &["max_connections=6", "superuser_reserved_connections=0"]);
    let pools = std::sync::Arc::new(Pools::new(PoolSettings { size: 10, ..PoolSettings::default() }));
    let nobody = ConnectTarget { user: "nobody_of_this_name".into(), ..target(15842) };
    assert_eq!(code(&pools.checkout(&nobody).await.unwrap_err()), "28000");

    let mut leases = Vec::new();
    for _ in 0..6 {
        leases.push(pools.checkout(&target(15842)).await.unwrap());
    }
    let waiter = tokio::spawn({
        let pools = std::sync::Arc::clone(&pools);
        async move { pools.checkout(&target(15842)).await.map(|lease| lease.pid()) }
    });
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(!waiter.is_finished(), "the pool has places left, the server has none: one that is in use will do");
    let free = leases.pop().unwrap();
    let pid = free.pid();
    drop(free);
    assert_eq!(waiter.await.unwrap().unwrap(), pid);
    // Another role has no connection that could come back.
    leases.push(pools.checkout(&target(15842)).await.unwrap());
    let other = ConnectTarget { database: "template1".into(), ..target(15842) };
    assert_eq!(code(&pools.checkout(&other).await.unwrap_err()), "53300");
}

#[tokio::test]
async fn a_half_read_connection_is_closed_and_its_place_is_free() {
    let _server = ThrowawayPostgres::start(15843);
    let pools = one();
    let mut lease = pools.checkout(&target(15843)).await.unwrap();
    let pid = lease.pid();
    encode_query(lease.output(), "SELECT repeat('x', 1000) FROM generate_series(1, 100000)");
    lease.expect_ready();
    lease.flush().await.unwrap();
    lease.next_frame().await.unwrap();
    drop(lease);
    let mut next = pools.checkout(&target(15843)).await.unwrap();
    assert_ne!(next.pid(), pid);
    assert_eq!(run(&mut next, "SELECT 'mine'").await, ["mine"]);
    // Written and never sent is no better.
    let pid = next.pid();
    encode_query(next.output(), "SELECT 'of somebody else'");
    next.expect_ready();
    drop(next);
    assert_ne!(pools.checkout(&target(15843)).await.unwrap().pid(), pid);
}

#[tokio::test]
async fn a_server_that_is_gone_is_told_at_once_to_all_and_comes_back() {
    let server = ThrowawayPostgres::start(15844);
    let pools = std::sync::Arc::new(Pools::new(PoolSettings { size: 3, ..PoolSettings::default() }));
    drop(pools.checkout(&target(15844)).await.unwrap());
    server.kill();
    // The runtime was held up by the command; it hears of the end of the connection now.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let start = std::time::Instant::now();
    let asking = (0..50).map(|_| {
        let pools = std::sync::Arc::clone(&pools);
        tokio::spawn(async move { pools.checkout(&target(15844)).await.map(|lease| lease.pid()) })
    });
    for asked in asking.collect::<Vec<_>>() {
        let error = asked.await.unwrap().unwrap_err();
        assert_eq!(error.to_client_error("s1").sqlstate(), "08006", "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    server.launch();
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while pools.checkout(&target(15844)).await.is_err() {
        assert!(std::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut direct = Connection::connect(&target(15844)).await.unwrap();
    assert_eq!(run(&mut direct, "SELECT 1").await, ["1"]);
}

/// A server that hangs never says that it is gone: whoever waits for it is told once another one serves, and again if he asks
/// again.
#[tokio::test]
async fn nobody_waits_for_a_server_that_was_replaced() {
    let _server = ThrowawayPostgres::start(15849);
    let pools = one();
    let mut lease = pools.checkout(&target(15849)).await.unwrap();
    let node = lease.node();
    encode_query(lease.output(), "SELECT 1; SELECT pg_sleep(60)");
    lease.expect_ready();
    lease.flush().await.unwrap();
    pools.cut(node);
    for _ in 0..3 {
        let within = tokio::time::timeout(Duration::from_secs(5), async { while lease.next_frame().await.is_ok() {} });
        within.await.expect("an end of waiting");
    }
    assert!(lease.is_poisoned());
}
