//! What an operator does while clients are served: PAUSE, RESUME, KILL, RELOAD and SIGHUP; and clients that come by a
//! Unix-domain socket.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::cluster::eventually;
use crate::ground::{Entry, PATIENCE};
use crate::raw::Raw;
use crate::startup::send_cancel;
use crate::wire::Wire;

/// Server connections of the application's, as the servers see them.
fn connections(entry: &Entry) -> usize {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND backend_type = 'client backend'";
    entry.servers.iter().map(|server| server.superuser().must(sql).value().parse::<usize>().unwrap()).sum()
}

/// A column of SHOW POOLS for the application's pool.
fn of_pool(admin: &mut Raw, column: &str) -> String {
    let pools: serde_json::Value = serde_json::from_str(&admin.must("SHOW POOLS FORMAT JSON").value()).unwrap();
    let pool = pools.as_array().unwrap().iter().find(|pool| pool["user"] == "app").cloned().unwrap_or_default();
    pool[column].to_string()
}

fn pause_holds_back_what_is_new(shards: usize) {
    let entry = Entry::start(shards, "");
    let (mut admin, mut inside, mut outside, mut ended) = (entry.admin(), entry.app(), entry.app(), entry.app());
    outside.must("SELECT 1");
    inside.must("BEGIN");
    inside.must("SELECT 1");
    admin.begin_simple("PAUSE 60").unwrap();
    assert!(eventually(PATIENCE, || entry.log().contains("paused")), "{}", entry.log());
    outside.begin_simple("SELECT 7").unwrap();
    // Who waits can be ended.
    ended.begin_simple("SELECT 8").unwrap();
    entry.admin().must(&format!("KILL {}", ended.process));
    let said = ended.finish(None, false);
    assert!(said.is_err() || said.is_ok_and(|reply| reply.sqlstate() == "57P01"));
    // Who is inside goes on, and may go to shards where it has not been.
    inside.must("CREATE TABLE made (id int)");
    inside.must("COMMIT");
    assert_eq!(admin.finish(None, false).unwrap().answers[0].tag.as_deref(), Some("PAUSE"));
    assert!(eventually(PATIENCE, || connections(&entry) == 0), "no server connection is open during a pause");
    admin.must("RESUME");
    assert_eq!(outside.finish(None, false).unwrap().value(), "7");
    assert_eq!(admin.simple("RESUME").unwrap().sqlstate(), "55000");
    entry.must_serve();
}

#[test]
fn a_pause_lets_transactions_end_and_holds_back_new_ones() {
    pause_holds_back_what_is_new(1);
}

#[test]
fn a_pause_of_two_shards_lets_transactions_end_and_holds_back_new_ones() {
    pause_holds_back_what_is_new(2);
}

/// Nothing tells that the statement waits by now, so it is cancelled until it is over.
fn who_waits_in_a_pause_hears_a_cancel(shards: usize) {
    let entry = Entry::start(shards, "");
    let mut waiting = Wire::connect(entry.port);
    let key = waiting.log_in(0).key.unwrap();
    let mut admin = entry.admin();
    admin.must("PAUSE 60");
    waiting.query("SELECT 7");
    let is_over = AtomicBool::new(false);
    let (error, value) = std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually(PATIENCE, || {
                send_cancel(&entry, &key);
                is_over.load(Ordering::Acquire)
            })
        });
        let outcome = waiting.outcome();
        is_over.store(true, Ordering::Release);
        outcome
    });
    assert_eq!((error.unwrap_or_default().0.as_str(), value), ("57014", None));
    admin.must("RESUME");
    waiting.query("SELECT 7");
    assert_eq!(waiting.outcome(), (None, Some("7".to_owned())));
}

#[test]
fn who_waits_in_a_pause_of_one_shard_hears_a_cancel() {
    who_waits_in_a_pause_hears_a_cancel(1);
}

#[test]
fn who_waits_in_a_pause_of_two_shards_hears_a_cancel() {
    who_waits_in_a_pause_hears_a_cancel(2);
}

#[test]
fn a_pause_that_a_transaction_outlasts_is_taken_back() {
    let entry = Entry::start(1, "");
    let mut inside = entry.app();
    inside.must("BEGIN");
    inside.must("SELECT 1");
    let reply = entry.admin().simple("PAUSE 1").unwrap();
    assert_eq!(reply.sqlstate(), "55000", "{reply:?}");
    entry.must_serve();
    inside.must("COMMIT");
}

#[test]
fn a_pause_that_nobody_ends_ends_by_itself() {
    let entry = Entry::start(1, "");
    let mut waiting = entry.app();
    entry.admin().must("PAUSE 1");
    assert_eq!(waiting.must("SELECT 7").value(), "7");
}

#[test]
fn kill_ends_a_session_and_what_it_has_open() {
    for shards in [1, 2] {
        let entry = Entry::start(shards, "");
        let (mut admin, mut idle, mut busy) = (entry.admin(), entry.app(), entry.app());
        busy.must("BEGIN");
        busy.must("CREATE TABLE half (id int)");
        for victim in [&mut idle, &mut busy] {
            admin.must(&format!("KILL {}", victim.process));
            let said = victim.simple("SELECT 1");
            assert!(said.is_err() || said.is_ok_and(|reply| reply.sqlstate() == "57P01"));
        }
        let gone = || entry.app().must("SELECT to_regclass('half') IS NULL").value() == "t";
        assert!(eventually(PATIENCE, gone), "what was open is rolled back");
        assert_eq!(admin.simple("KILL 1").unwrap().sqlstate(), "42704");
        let own = admin.process;
        assert_eq!(admin.simple(&format!("KILL {own}")).unwrap().sqlstate(), "0A000");
        entry.must_serve();
    }
}

#[test]
fn a_reload_changes_limits_and_rules_and_says_what_waits() {
    let entry = Entry::start(1, "[pool]\nsize = 1\ncheckout_timeout_ms = 500\n");
    let (mut admin, mut one, mut two) = (entry.admin(), entry.app(), entry.app());
    one.must("BEGIN");
    one.must("SELECT 1");
    assert_eq!(two.simple("SELECT 1").unwrap().sqlstate(), "53300", "one connection is all there is");
    assert_eq!(admin.must("RELOAD").texts(), Vec::<Vec<String>>::new(), "nothing has changed");
    entry.change_config("size = 1\n", "size = 3\nmode = \"session\"\n");
    let changed = [["[pool] size", "in force"], ["[pool] mode", "after a restart"]];
    assert_eq!(admin.must("RELOAD").texts(), changed);
    two.must("SELECT 1");
    assert_eq!((of_pool(&mut admin, "size"), of_pool(&mut admin, "mode")), ("3".into(), "\"transaction\"".into()));
    assert_eq!(admin.must("RELOAD").texts(), [changed[1]], "what waits is said until the restart");
    // A file that cannot be used changes nothing.
    entry.change_config("size = 3\n", "size = 0\n");
    let reply = admin.simple("RELOAD").unwrap();
    assert_eq!(reply.sqlstate(), "22023", "{reply:?}");
    assert_eq!(of_pool(&mut admin, "size"), "3");
    // By SIGHUP: fewer connections, and nobody else comes in. Who is here stays.
    let rule = "[[hba]]\ntype = \"host\"\nuser = \"app\"\naddress = \"all\"\nmethod = \"reject\"\n";
    entry.change_config("size = 0\n", "size = 1\n");
    entry.change_config("[[shards]]\n", &format!("{rule}[[shards]]\n"));
    entry.signal(Signal::SIGHUP);
    assert!(eventually(PATIENCE, || of_pool(&mut admin, "size") == "1"), "{}", entry.log());
    assert!(Raw::connect(entry.port, "app", "app").is_err());
    one.must("COMMIT");
    assert!(eventually(PATIENCE, || connections(&entry) <= 1), "connections beyond the new size are closed");
    assert_eq!(two.must("SELECT 7").value(), "7");
}

#[test]
fn libpq_finds_the_unix_socket_and_needs_no_tls_there() {
    let directory = tempfile::Builder::new().prefix("ostrakon-socket-").tempdir_in("/tmp").unwrap();
    let place = directory.path().display().to_string();
    let entry = Entry::start(2, &format!("unix_socket_dir = {place:?}\n"));
    let here = format!("host={place}");
    assert_eq!(entry.psql_must(&here, "SELECT 40 + 2"), "42");
    assert_eq!(entry.psql_must(&format!("{here} sslmode=prefer"), "SELECT 7"), "7");
    let version = entry.psql_must(&format!("{here} dbname=ostrakon"), "SHOW VERSION");
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    // It goes with the proxy.
    let socket = directory.path().join(format!(".s.PGSQL.{}", entry.port));
    assert!(socket.exists());
    drop(entry);
    assert!(eventually(Duration::from_secs(5), || !socket.exists()));
}
