//! A change of the topology at one proxy is in force at all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use crate::cluster::{Server, eventually};
use crate::ground::Ground;
use crate::raw::Raw;

#[test]
fn a_declaration_at_one_proxy_is_in_force_at_the_other_when_it_is_answered() {
    let ground = Ground::start(2, 1, 2);
    for round in 0..6 {
        let (here, there) = (round % 2, 1 - round % 2);
        ground.admin_until_done(here, &format!("TABLE SHARD t{round} KEY (id)"));
        // Statements of the other proxy waited for the new topology; views show it once one has run.
        ground.app(there).must("SELECT 1");
        let tables = ground.admin(there, "SHOW TABLES").texts();
        assert!(tables.iter().any(|row| row[1] == format!("t{round}") && row[2] == "sharded"), "{tables:?}");
        ground.app(there).must(&format!("CREATE TABLE t{round} (id bigint PRIMARY KEY)"));
        let mut app = ground.app(there);
        for id in 0..20 {
            app.must(&format!("INSERT INTO t{round} VALUES ({id})"));
        }
        let spread: Vec<String> = ground
            .shards
            .iter()
            .map(|shard| shard.app().must(&format!("SELECT count(*) FROM t{round}")).value())
            .collect();
        assert!(spread.iter().all(|count| count != "0"), "{spread:?}");
    }
}

/// Keys that a session cannot find, though their rows were acknowledged.
fn lost(app: &mut Raw, table: &str, keys: i64) -> Vec<i64> {
    let mut count = |key: i64| app.must(&format!("SELECT count(*) FROM {table} WHERE id = {key}")).value();
    (0..keys).filter(|key| count(*key) != "1").collect()
}

/// Writes at the second proxy while the first declares the table: a row that was planned under the old epoch
/// would be where nobody looks for it.
#[test]
fn no_row_is_written_by_a_plan_of_the_old_epoch() {
    let ground = Arc::new(Ground::start(2, 1, 2));
    let mut declared = 0;
    for round in 0..12 {
        let table = format!("r{round}");
        ground.app(0).must(&format!("CREATE TABLE {table} (id bigint PRIMARY KEY)"));
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let begin = Arc::new(AtomicBool::new(false));
        let writer = std::thread::spawn({
            let (ground, stop, written, begin, table) =
                (Arc::clone(&ground), Arc::clone(&stop), Arc::clone(&written), Arc::clone(&begin), table.clone());
            move || {
                let mut app = ground.app(1);
                app.must("SELECT 1");
                begin.store(true, Ordering::SeqCst);
                // The first row comes a little later in each round.
                std::thread::sleep(Duration::from_millis(round * 40));
                while !stop.load(Ordering::SeqCst) {
                    let key = written.load(Ordering::SeqCst);
                    app.must(&format!("INSERT INTO {table} VALUES ({key})"));
                    written.store(key + 1, Ordering::SeqCst);
                }
            }
        });
        assert!(eventually(Duration::from_secs(20), || begin.load(Ordering::SeqCst)));
        let answer = ground.admin(0, &format!("TABLE SHARD {table} KEY (id)"));
        let more = written.load(Ordering::SeqCst) + 20;
        assert!(eventually(Duration::from_secs(20), || written.load(Ordering::SeqCst) > more));
        stop.store(true, Ordering::SeqCst);
        writer.join().unwrap();
        declared += usize::from(answer.fault().is_none());
        if let Some(fault) = answer.fault() {
            assert!(fault.message.contains("holds rows"), "{fault:?}");
        }
        let lost = lost(&mut ground.app(0), &table, written.load(Ordering::SeqCst));
        assert!(lost.is_empty(), "{table}: {lost:?}, {answer:?}");
    }
    println!("{declared} of 12 tables were declared before their first row");
    assert!(declared > 0, "every round came too late to show anything");
}

#[test]
fn the_search_for_lost_rows_finds_one() {
    let ground = Ground::start(2, 1, 1);
    ground.admin_until_done(0, "TABLE SHARD planted KEY (id)");
    let mut app = ground.app(0);
    app.must("CREATE TABLE planted (id bigint PRIMARY KEY)");
    app.must("INSERT INTO planted VALUES (0), (1), (2), (3)");
    let holder = |server: &Server| server.app().must("SELECT count(*) FROM planted WHERE id = 2").value() == "1";
    for server in &ground.shards {
        let sql = if holder(server) { "DELETE FROM planted WHERE id = 2" } else { "INSERT INTO planted VALUES (2)" };
        server.app().must(sql);
    }
    assert_eq!(lost(&mut app, "planted", 4), [2]);
}

#[test]
fn a_column_added_through_one_proxy_is_soon_known_to_the_other() {
    let ground = Ground::start(2, 1, 2);
    ground.admin_until_done(0, "TABLE SHARD docs KEY (id)");
    ground.app(0).must("CREATE TABLE docs (id bigint PRIMARY KEY)");
    let knows = |sql: &str| {
        let mut app = ground.app(1);
        eventually(Duration::from_secs(20), || app.simple(sql).is_ok_and(|reply| reply.fault().is_none()))
    };
    assert!(knows("INSERT INTO docs (id) VALUES (1), (2), (3)"));
    ground.app(0).must("ALTER TABLE docs ADD COLUMN note text");
    assert!(knows("SELECT id, note FROM docs ORDER BY note, id"));
}
