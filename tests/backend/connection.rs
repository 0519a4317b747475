//! What a connection knows of itself, and the pools of connections to a real server.

use std::sync::Arc;

use ostrakon::backend::{BackendError, CheckoutError, Connection, Ensured, LostWhile, PoolSettings, Pools};
use ostrakon::wire::client_message::{
    Bind, Target, encode_bind, encode_close, encode_execute, encode_parse, encode_query, encode_sync,
};
use ostrakon::wire::server_message::{read_error, tag};

use crate::postgres::ThrowawayPostgres;
use crate::support::{Dice, run, target};

#[tokio::test]
async fn a_connection_knows_whether_it_is_clean() {
    let _server = ThrowawayPostgres::start(15901);
    let mut connection = Connection::connect(&target(15901)).await.unwrap();
    assert!(connection.is_clean());

    encode_query(connection.output(), "SELECT 1");
    connection.expect_ready();
    assert!(!connection.is_clean(), "something is written");
    connection.flush().await.unwrap();
    assert!(!connection.is_clean(), "an answer is to come");
    while connection.next_frame().await.unwrap().tag != tag::READY_FOR_QUERY {
        assert!(!connection.is_clean(), "half read");
    }
    assert!(connection.is_clean());

    run(&mut connection, "BEGIN").await;
    assert_eq!(connection.status(), b'T');
    assert!(!connection.is_clean(), "in a transaction");
    let failed = connection.simple("SELECT 1/0").await.unwrap();
    assert_eq!(read_error(&failed.error.unwrap().body()).unwrap().code, "22012");
    assert_eq!(connection.status(), b'E');
    run(&mut connection, "ROLLBACK").await;
    assert!(connection.is_clean());

    let several = connection.simple_several("SELECT 1; SELECT 2, NULL; SELECT 1/0; SELECT 3").await.unwrap();
    assert_eq!(several.statements.len(), 2);
    assert_eq!(several.statements[1].0, [vec![Some("2".to_owned()), None]]);
    assert!(several.error.is_some());
    assert!(connection.is_clean());

    // Two pipelined queries have two answers.
    for _ in 0..2 {
        encode_query(connection.output(), "SELECT 1");
        connection.expect_ready();
    }
    connection.flush().await.unwrap();
    while connection.next_frame().await.unwrap().tag != tag::READY_FOR_QUERY {}
    assert_eq!(connection.pending_ready(), 1);
    assert!(!connection.is_clean());
    while connection.next_frame().await.unwrap().tag != tag::READY_FOR_QUERY {}
    assert!(connection.is_clean());

    run(&mut connection, "SET application_name = 'changed'").await;
    assert_eq!(connection.parameters().get("application_name").map(String::as_str), Some("changed"));
}

#[tokio::test]
async fn a_big_pipeline_does_not_block_and_statements_are_evicted_by_close() {
    let _server = ThrowawayPostgres::start(15902);
    let mut connection = Connection::connect(&target(15902)).await.unwrap();
    connection.prepared = ostrakon::backend::PreparedSet::new(3);
    let nothing = Bind {
        portal: String::new(),
        statement: String::new(),
        parameter_formats: vec![],
        parameters: vec![],
        result_formats: vec![],
    };
    // The answers (20 MB) do not fit into the sockets' buffers while the questions are being written.
    for turn in 0u64..2_000 {
        let id = turn % 5;
        let name = format!("o{id}");
        if let Ensured::NeedsParse { evicted } = connection.prepared.ensure(id) {
            if let Some(evicted) = evicted {
                encode_close(connection.output(), &Target::Statement(format!("o{evicted}")));
            }
            encode_parse(connection.output(), &name, &format!("SELECT {id}, repeat('x', 10000)"), &[]);
        }
        encode_bind(connection.output(), "", &name, &nothing);
        encode_execute(connection.output(), "", 0);
    }
    encode_sync(connection.output());
    connection.expect_ready();
    connection.flush().await.unwrap();
    let mut rows = 0;
    loop {
        let frame = connection.next_frame().await.unwrap();
        match frame.tag {
            tag::DATA_ROW => rows += 1,
            tag::ERROR_RESPONSE => panic!("{:?}", read_error(&frame.body())),
            tag::READY_FOR_QUERY => break,
            _ => {}
        }
    }
    assert_eq!(rows, 2_000);
    assert_eq!(run(&mut connection, "SELECT count(*) FROM pg_prepared_statements").await, ["3"]);
    assert!(connection.is_clean());
}

#[tokio::test]
async fn a_lost_connection_tells_whether_something_was_running() {
    let server = ThrowawayPostgres::start(15903);
    let mut victim = Connection::connect(&target(15903)).await.unwrap();
    let mut other = Connection::connect(&target(15903)).await.unwrap();

    encode_query(victim.output(), "SELECT pg_sleep(60)");
    victim.expect_ready();
    victim.flush().await.unwrap();
    while run(&mut other, "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'").await.is_empty() {}
    let kill = format!("SELECT pg_terminate_backend({}, 5000)", victim.pid());
    run(&mut other, &kill).await;
    let frame = loop {
        let frame = victim.next_frame().await.unwrap();
        if frame.tag == tag::ERROR_RESPONSE {
            break frame;
        }
    };
    assert_eq!(read_error(&frame.body()).unwrap().code, "57P01");
    assert!(victim.is_poisoned());
    let lost = victim.next_frame().await.unwrap_err();
    assert!(matches!(lost, BackendError::Lost { during: LostWhile::Running, .. }), "{lost}");
    assert_eq!(lost.to_client_error("s1").sqlstate(), "40003");

    let mut idle = Connection::connect(&target(15903)).await.unwrap();
    assert!(idle.is_usable());
    run(&mut other, &format!("SELECT pg_terminate_backend({}, 5000)", idle.pid())).await;
    while idle.is_usable() {
        tokio::task::yield_now().await;
    }
    assert!(!idle.is_usable());

    // A server that goes away takes idle connections with it; the pool opens new ones.
    let pools = Pools::new(PoolSettings { size: 2, ..PoolSettings::default() });
    let first = pools.checkout(&target(15903)).await.unwrap().pid();
    drop(other);
    server.stop();
    server.launch();
    tokio::task::yield_now().await;
    let mut again = pools.checkout(&target(15903)).await.unwrap();
    assert_ne!(again.pid(), first);
    assert_eq!(run(&mut again, "SELECT 1").await, ["1"]);
}

#[tokio::test]
async fn a_cancel_stops_only_the_work_of_its_own_turn() {
    let _server = ThrowawayPostgres::start(15904);
    let pools = Arc::new(Pools::new(PoolSettings { size: 1, ..PoolSettings::default() }));
    let mut lease = pools.checkout(&target(15904)).await.unwrap();
    let handle = lease.cancel_handle();
    encode_query(lease.output(), "SELECT pg_sleep(60)");
    lease.expect_ready();
    lease.flush().await.unwrap();
    // A cancel that comes before the statement has begun is lost, as with PostgreSQL itself.
    let canceller = tokio::spawn({
        let handle = handle.clone();
        async move {
            loop {
                handle.cancel().await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    let frame = loop {
        let frame = lease.next_frame().await.unwrap();
        if frame.tag == tag::ERROR_RESPONSE {
            break frame;
        }
    };
    assert_eq!(read_error(&frame.body()).unwrap().code, "57014");
    canceller.abort();
    let _ = canceller.await;
    while lease.pending_ready() > 0 {
        lease.next_frame().await.unwrap();
    }
    drop(lease);

    // The turn is over: nothing is sent for it any more, whoever has the connection now.
    let mut lease = pools.checkout(&target(15904)).await.unwrap();
    assert!(!handle.cancel().await.unwrap());
    assert_eq!(run(&mut lease, "SELECT 1").await, ["1"]);
}

#[tokio::test]
async fn sixty_four_sessions_share_eight_connections_while_some_are_killed_and_some_give_up() {
    let server = ThrowawayPostgres::start(15905);
    server.psql("postgres", "CREATE TABLE t (id bigserial, task int)");
    let settings = PoolSettings { size: 8, checkout_timeout_ms: 20_000, ..PoolSettings::default() };
    let pools = Arc::new(Pools::new(settings));
    let mut tasks = Vec::new();
    for task in 0..64u64 {
        let pools = Arc::clone(&pools);
        tasks.push(tokio::spawn(async move {
            let mut dice = Dice::new(task + 1);
            let mut done = 0;
            while done < 40 {
                let mut lease = pools.checkout(&target(15905)).await.unwrap();
                assert!(lease.is_clean());
                match dice.below(12) {
                    // Gives up in the middle of a statement.
                    0 => {
                        let work = lease.simple("SELECT pg_sleep(0.01)");
                        let _ = tokio::time::timeout(std::time::Duration::from_micros(500), work).await;
                    }
                    // Leaves a transaction open.
                    1 => {
                        run(&mut lease, "BEGIN").await;
                    }
                    // Is terminated.
                    2 => {
                        let _ = lease.simple("SELECT pg_terminate_backend(pg_backend_pid())").await;
                    }
                    _ => {
                        let sql = format!("INSERT INTO t (task) VALUES ({task}) RETURNING id");
                        assert_eq!(run(&mut lease, &sql).await.len(), 1);
                        done += 1;
                    }
                }
            }
        }));
    }
    let mut watcher = Connection::connect(&target(15905)).await.unwrap();
    let mut most = 0;
    while tasks.iter().any(|task| !task.is_finished()) {
        for stats in pools.stats() {
            assert!(stats.counts.idle + stats.counts.used <= 8, "{stats:?}");
        }
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'INSERT%' AND state <> 'idle'";
        most = most.max(run(&mut watcher, sql).await[0].parse::<usize>().unwrap());
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(most <= 8, "{most}");
    assert_eq!(run(&mut watcher, "SELECT count(*) FROM t").await, ["2560"]);
    let stats = pools.stats();
    assert_eq!((stats.len(), stats[0].counts.used, stats[0].counts.waiting), (1, 0, 0), "{stats:?}");
    pools.close_idle();
    assert_eq!(pools.stats()[0].counts.idle, 0);
}

#[tokio::test]
async fn a_full_pool_names_its_node_and_size() {
    let _server = ThrowawayPostgres::start(15906);
    let pools = Pools::new(PoolSettings { size: 1, checkout_timeout_ms: 50, ..PoolSettings::default() });
    let first = pools.checkout(&target(15906)).await.unwrap();
    let full = pools.checkout(&target(15906)).await.unwrap_err();
    assert!(matches!(full, CheckoutError::Timeout { size: 1, .. }), "{full}");
    let told = full.to_client_error("s1");
    assert_eq!(told.sqlstate(), "53300");
    assert_eq!(told.detail.as_deref(), Some("All 1 connections to node n15906 were in use for 50 ms."));
    drop(first);

    // Another database is another pool; a retired node's connections are not used again.
    let mut other = target(15906);
    other.database = "template1".into();
    drop(pools.checkout(&other).await.unwrap());
    let pid = pools.checkout(&target(15906)).await.unwrap().pid();
    assert_eq!(pools.stats().len(), 2);
    let held = pools.checkout(&target(15906)).await.unwrap();
    assert_eq!(held.pid(), pid);
    pools.retire(target(15906).node);
    drop(held);
    assert!(pools.stats().iter().all(|stats| stats.counts.idle + stats.counts.used == 0), "{:?}", pools.stats());
    assert_ne!(pools.checkout(&target(15906)).await.unwrap().pid(), pid);
}
