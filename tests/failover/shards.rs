//! Sessions over several shards, which lose their primaries.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use ostrakon::host::process;

use crate::cluster::{Up, eventually, is_alive, signal};
use crate::raw::Raw;

const PATIENCE: Duration = Duration::from_secs(60);

/// Nodes of `SHOW NODES` that commits wait for.
fn synchronous(up: &Up) -> usize {
    let mut admin = Raw::connect(up.port, "postgres", "ostrakon").unwrap();
    let rows = admin.must("SHOW NODES").texts();
    rows.iter().filter(|row| row.get(9).is_some_and(|sync| sync == "true")).count()
}

/// Backends of a server whose postmaster is killed say so before they end, in the words in which they say that somebody has
/// ended them.
#[test]
fn sessions_over_shards_outlive_the_good_bye_of_a_primary() {
    let up = Up::start(2, 1, &[]);
    let mut sessions = [up.app(), up.app()];
    sessions[0].must("CREATE TABLE written (k bigint PRIMARY KEY, v bigint NOT NULL)");
    sessions[0].must("INSERT INTO written VALUES (0, 0), (1, 0)");
    assert!(eventually(PATIENCE, || synchronous(&up) == 2), "{}", up.status());
    for (key, session) in sessions.iter_mut().enumerate() {
        session.must("BEGIN");
        session.must(&format!("UPDATE written SET v = 7 WHERE k = {key}"));
    }
    for shard in up.status()["shards"].as_array().unwrap() {
        let node = shard["nodes"][0]["name"].as_str().unwrap();
        let data = up.data().join("nodes").join(node);
        let all = process::working_in(&data);
        let file = fs::read_to_string(data.join("postmaster.pid")).unwrap();
        signal(file.lines().next().unwrap().trim().parse().unwrap(), Signal::SIGKILL);
        assert!(eventually(PATIENCE, || !all.iter().any(|pid| is_alive(*pid))), "its backends end by themselves");
    }
    for (key, session) in sessions.iter_mut().enumerate() {
        let sql = format!("UPDATE written SET v = 8 WHERE k = {key}");
        let said = if key == 0 { session.simple(&sql) } else { session.extended(&sql, &[], None) };
        let said = said.expect("the session goes on");
        println!("in a transaction: {:?}", said.fault());
        assert_eq!((said.sqlstate(), said.status), ("40001", 'E'));
        session.must("ROLLBACK");
        let again = format!("UPDATE written SET v = 9 WHERE k = {key}");
        assert!(eventually(PATIENCE, || session.simple(&again).expect("it still does").fault().is_none()));
        assert_eq!(session.must(&format!("SELECT v FROM written WHERE k = {key}")).value(), "9");
    }
}
