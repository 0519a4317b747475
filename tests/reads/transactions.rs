//! Transactions that are declared to only read: on one replica of each shard, and as on a primary in all they answer.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ground::Ground;
use crate::raw::Raw;

const WHERE: &str = "SELECT current_setting('port') FROM r WHERE id = 5";

/// Begins, and gives the port that the first statement is answered by.
fn begin(app: &mut Raw, how: &str) -> String {
    how.split('|').for_each(|text| drop(app.must(text)));
    app.must(WHERE).value()
}

/// A transaction that reads from a replica: what the session saw last is there by now.
fn on_replica(ground: &Ground, app: &mut Raw, how: &str) -> String {
    for _ in 0..40 {
        let port = begin(app, how);
        if ground.is_replica(&port) {
            return port;
        }
        app.must("ROLLBACK");
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{how}: no transaction on a replica\n{}", ground.log());
}

fn status(app: &mut Raw) -> &'static str {
    match app.simple("SAVEPOINT is_open") {
        Ok(reply) if reply.sqlstate() == "25P01" => "none",
        Ok(reply) if reply.sqlstate() == "25P02" => "failed",
        Ok(_) => "open",
        Err(_) => "gone",
    }
}

fn a_transaction_that_only_reads_stays_on_one_replica(ground: &Ground, shards: usize) {
    let mut app = ground.reader();
    for how in [
        "BEGIN READ ONLY",
        "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;",
        "BEGIN TRANSACTION READ ONLY",
    ] {
        let port = on_replica(ground, &mut app, how);
        for _ in 0..20 {
            assert_eq!(app.must(WHERE).value(), port, "{how}");
            assert_eq!(app.extended(WHERE, &[], None).unwrap().value(), port, "{how}");
        }
        let ports = app.must("SELECT DISTINCT current_setting('port') FROM r").texts();
        assert!(ports.len() == shards && ports.iter().all(|row| ground.is_replica(&row[0])), "{ports:?}");
        app.must("COMMIT");
        assert_eq!(status(&mut app), "none");
    }
    on_replica(ground, &mut app, "BEGIN|SET TRANSACTION READ ONLY");
    app.must("COMMIT");
    app.must("SET default_transaction_read_only = on");
    on_replica(ground, &mut app, "BEGIN");
    app.must("COMMIT");
    app.must("RESET default_transaction_read_only");
    for how in ["BEGIN", "BEGIN READ WRITE", "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY"] {
        assert!(!ground.is_replica(&begin(&mut app, how)), "{how}");
        app.must("ROLLBACK");
    }
    let mut other = ground.app();
    assert!(!ground.is_replica(&begin(&mut other, "BEGIN READ ONLY")), "nobody asked for replicas");
}

fn what_only_a_primary_does_is_done_there(ground: &Ground, _shards: usize) {
    ground
        .app()
        .must("CREATE FUNCTION steady() RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_setting('port') $$");
    let mut app = ground.reader();
    // READ COMMITTED: it goes on at the primary, and stays there.
    for (text, extended) in [
        ("SELECT pg_try_advisory_xact_lock(5)", false),
        ("SELECT pg_try_advisory_xact_lock(5)", true),
        ("SELECT * FROM pg_locks LIMIT 1", true),
        ("LISTEN somewhere", false),
        ("SAVEPOINT a", false),
        ("DECLARE c CURSOR FOR SELECT 1", false),
    ] {
        on_replica(ground, &mut app, "BEGIN READ ONLY");
        let reply = if extended { app.extended(text, &[], None) } else { app.simple(text) }.unwrap();
        assert_eq!(reply.sqlstate(), "00000", "{text}: {:?}", reply.fault());
        assert!(!ground.is_replica(&app.must(WHERE).value()), "{text}");
        assert_eq!(app.simple("DELETE FROM r WHERE id = 5").unwrap().sqlstate(), "25006", "{text}");
        app.must("ROLLBACK");
        app.must("UNLISTEN *");
    }
    on_replica(ground, &mut app, "BEGIN READ ONLY");
    let reply = app.simple("INSERT INTO r VALUES (6000, 1)").unwrap();
    assert_eq!(reply.fault().unwrap().message, "cannot execute INSERT in a read-only transaction");
    assert_eq!(status(&mut app), "failed");
    app.must("ROLLBACK");
    // One moment: what a standby answers alike stays, anything else has to be run again, at the primary.
    let once = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    let port = on_replica(ground, &mut app, once);
    app.must("SAVEPOINT a");
    assert_eq!(app.simple("UPDATE r SET v = 0 WHERE id = 5").unwrap().sqlstate(), "25006");
    app.must("ROLLBACK TO a");
    assert_eq!(app.must(WHERE).value(), port);
    let refused = app.simple("SELECT pg_try_advisory_xact_lock(5)").unwrap();
    assert_eq!(refused.sqlstate(), "40001", "{:?}", refused.fault());
    assert_eq!(status(&mut app), "failed");
    app.must("ROLLBACK");
    assert!(!ground.is_replica(&begin(&mut app, once)), "the next try is at the primary");
    app.must("SELECT pg_try_advisory_xact_lock(5)");
    app.must("COMMIT");
    on_replica(ground, &mut app, once);
    assert_eq!(app.extended("SELECT pg_try_advisory_xact_lock(5)", &[], None).unwrap().sqlstate(), "40001");
    app.must("ROLLBACK");
    // Who was told when the transaction began is not told otherwise later.
    begin(&mut app, "BEGIN READ ONLY");
    app.must("COMMIT");
    on_replica(ground, &mut app, "BEGIN READ ONLY");
    let now = app.must("SELECT now()").value();
    assert_eq!(app.simple("SELECT pg_try_advisory_xact_lock(5), now()").unwrap().sqlstate(), "40001");
    app.must("ROLLBACK");
    assert_ne!(app.must("SELECT now()").value(), now);
}

fn a_transaction_finds_what_its_session_wrote_and_sees_one_moment(ground: &Ground, shards: usize) {
    let (mut app, mut writer) = (ground.reader(), ground.app());
    let mut on_replicas = 0;
    for round in 1..=30_i64 {
        app.must(&format!("UPDATE r SET v = {round} WHERE id = 5"));
        // Behind this one, a read waits for a replica.
        app.must("SELECT v FROM r WHERE id = 5");
        let is_once = round % 2 == 0;
        app.must(if is_once { "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" } else { "BEGIN READ ONLY" });
        let row = app.must("SELECT v, current_setting('port') FROM r WHERE id = 5").texts().remove(0);
        assert_eq!(row[0], round.to_string(), "{row:?}");
        on_replicas += u32::from(ground.is_replica(&row[1]));
        writer.must("UPDATE r SET v = -1 WHERE id = 5");
        std::thread::sleep(Duration::from_millis(20));
        let again = app.must("SELECT v FROM r WHERE id = 5").value();
        assert!(again == row[0] || !is_once, "{again}");
        app.must("COMMIT");
        // What the transaction has seen is a floor for what comes.
        let (before, after) = (again.parse::<i64>().unwrap(), app.must("SELECT v FROM r WHERE id = 5").value());
        assert!(before != -1 || after == "-1", "back in time: {after}");
    }
    println!("{shards} shards: {on_replicas} of 30 transactions on replicas");
    assert!(on_replicas > 10);
}

fn a_replica_that_is_lost_in_the_middle_costs_the_transaction_and_no_more(ground: &Ground, shards: usize) {
    let mut app = ground.reader();
    app.must("SET work_mem = '1234kB'");
    // Its backend is ended, between two statements and under one.
    for text in ["", "SELECT pg_sleep(30) FROM r WHERE id = 5"] {
        std::thread::sleep(Duration::from_millis(200));
        let port = on_replica(ground, &mut app, "BEGIN READ ONLY");
        let server = ground.replicas.iter().find(|replica| replica.port.to_string() == port).unwrap();
        if !text.is_empty() {
            app.begin_simple(text).unwrap();
        }
        let mut direct = Raw::connect(server.port, "postgres", "app").unwrap();
        let query = "SELECT pid FROM pg_stat_activity WHERE usename = 'app' AND xact_start IS NOT NULL";
        let pid: i32 = direct.must(query).value().parse().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        let reply = if text.is_empty() { app.simple(WHERE) } else { app.finish(None, false) }.unwrap();
        assert_eq!(reply.sqlstate(), "40001", "{shards} shards, {text:?}: {:?}", reply.fault());
        assert_eq!(status(&mut app), "failed");
        app.must("ROLLBACK");
        assert_eq!(app.must("SHOW work_mem").value(), "1234kB");
        assert_eq!(app.must("SELECT count(*) FROM r").value(), "1000");
    }
}

fn all(shards: usize) {
    let ground = Ground::start(shards, 15, "[replicas]\nwait_max_ms = 200");
    a_transaction_that_only_reads_stays_on_one_replica(&ground, shards);
    what_only_a_primary_does_is_done_there(&ground, shards);
    a_transaction_finds_what_its_session_wrote_and_sees_one_moment(&ground, shards);
    a_replica_that_is_lost_in_the_middle_costs_the_transaction_and_no_more(&ground, shards);
}

#[test]
fn one_shard_runs_read_only_transactions_on_a_replica() {
    all(1);
}

#[test]
fn two_shards_run_read_only_transactions_on_replicas() {
    all(2);
}
