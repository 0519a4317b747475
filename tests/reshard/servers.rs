//! Real servers, real writers: nothing is lost, doubled or seen twice while buckets move.

mod business;
mod failover;
mod ground;
mod history;
mod placing;
mod speed;

use std::time::Duration;

use ground::Ground;
use history::{Writers, compare};

/// `make reshard-long`: one shard, then two, then five, then three, under 32 sessions. A small one is run with all tests.
#[test]
fn a_cluster_grows_and_shrinks_under_load() {
    let is_full = std::env::var_os("OSTRAKON_FULL").is_some();
    let percent = number("OSTRAKON_RESHARD_PERCENT", if is_full { 100 } else { 1 });
    let ground = Ground::new(if is_full { 40_000 } else { 1_000 });
    let accounts = business::make(&ground, percent.into());
    let before = business::checksums(&ground);
    let sessions = number("OSTRAKON_RESHARD_SESSIONS", if is_full { 32 } else { 4 });
    let writers = Writers::start_in_business(&ground, sessions, accounts);
    std::thread::sleep(Duration::from_secs(if is_full { 20 } else { 1 }));
    writers.note_moves();
    let job = |name: &str, arguments: &[&str]| {
        let begun = std::time::Instant::now();
        let said = ground.reshard(arguments);
        let moved = begun.elapsed().as_secs_f64();
        let verified = ground.run(&["reshard", "verify"]);
        ground.run(&["reshard", "finish", "--yes", "--wait"]);
        println!("{name}, {moved:.0} s: {said}\n  {}", verified.trim());
    };
    ground.run(&["shard", "add", "--replicas", "0"]);
    job("1 to 2", &["start", "--yes", "--wait"]);
    for _ in 0..3 {
        ground.run(&["shard", "add", "--replicas", "0"]);
    }
    job("2 to 5", &["start", "--yes", "--wait"]);
    job("5 to 4", &["start", "--empty", "s5", "--yes", "--wait"]);
    job("4 to 3", &["start", "--empty", "s4", "--yes", "--wait"]);
    let histories = writers.stop();
    println!("{}", compare(&ground, &histories));
    assert_eq!(business::checksums(&ground), before);
    println!("checksums as before: {}", before.join(", "));
    assert_eq!(ground.leftovers(), Vec::<String>::new());
}

fn number(name: &str, usual: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// One shard, then two, then three, back to where it was, and two again, all under load.
#[test]
fn buckets_move_under_load_and_nothing_is_lost_or_doubled() {
    let ground = Ground::new(20_000);
    let writers = Writers::start(&ground, 6);
    ground.run(&["shard", "add", "--replicas", "0"]);
    let first = ground.reshard(&["start", "--yes", "--wait"]);
    ground.run(&["reshard", "verify"]);
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
    ground.run(&["shard", "add", "--replicas", "0"]);
    let second = ground.reshard(&["start", "--yes", "--wait"]);
    // Writers add rows meanwhile, so the share is that of those which are there now.
    let moved_share = ground.job()["rows_moved"].as_f64().unwrap() / ground.row_count();
    ground.run(&["reshard", "verify"]);
    let back = ground.reshard(&["reverse", "--yes", "--wait"]);
    ground.run(&["reshard", "verify"]);
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
    let emptied = ground.reshard(&["start", "--empty", "s2", "--yes", "--wait"]);
    ground.run(&["reshard", "verify"]);
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
    assert_eq!(ground.buckets("s2"), 0);
    assert_eq!(ground.leftovers(), Vec::<String>::new());
    // And out of the cluster, writers or not.
    assert!(ground.fails(&["shard", "remove", "s3", "--yes"]).contains("empty it first"));
    assert!(ground.fails(&["shard", "remove", "s1", "--yes"]).contains("is the cluster's first"));
    ground.run(&["shard", "remove", "s2", "--dry-run"]);
    println!("{}", ground.run(&["shard", "remove", "s2", "--yes"]).trim());
    assert!(!ground.run(&["shard", "list"]).contains("s2"));
    ground.run(&["shard", "add", "--replicas", "0"]);
    let histories = writers.stop();
    let facts = compare(&ground, &histories);
    println!("{facts}");
    for (name, job) in [("1 to 2", first), ("2 to 3", second), ("back", back), ("s2 emptied", emptied)] {
        println!("{name}: {job}");
    }
    // Adding a shard to two moves no more than a tenth over its share.
    println!("2 to 3 moved {:.1} % of the rows", moved_share * 100.0);
    assert!((0.2..=1.1 / 3.0).contains(&moved_share), "{moved_share}");
}

/// What others have prepared goes by while one looks; what stays is named, as it could ask the shard for its decision.
#[test]
fn a_shard_leaves_when_what_is_prepared_is_settled() {
    let ground = Ground::new(100);
    ground.run(&["shard", "add", "--replicas", "0"]);
    let mut server = ground.server("s1a");
    for sql in ["BEGIN", "UPDATE accounts SET balance = balance WHERE false", "PREPARE TRANSACTION 'somebody''s'"] {
        server.must(sql);
    }
    assert!(ground.fails(&["shard", "remove", "s2", "--dry-run"]).contains("somebody's is prepared on shard s1"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(1));
            server.must("COMMIT PREPARED 'somebody''s'");
        });
        ground.run(&["shard", "remove", "s2", "--dry-run"]);
    });
    ground.run(&["shard", "remove", "s2", "--yes"]);
}

/// A transaction that is open while buckets move does not hold the job up, and is not disturbed by it; one whose snapshot
/// is older than the job is waited for.
#[test]
fn open_transactions_let_buckets_move_under_them() {
    let ground = Ground::new(4_000);
    ground.run(&["shard", "add", "--replicas", "0"]);
    ground.run(&["reshard", "start", "--yes"]);
    ground.wait_for_steps(1);
    ground.run(&["reshard", "pause", "--yes"]);
    ground.run(&["reshard", "resume", "--dry-run"]);
    ground.wait_until("pause", |job| job["paused"] == true);
    let (stays, moves) = (ground.key_that_stays(), ground.key_that_has_to_move());
    let mut app = ground.up.app();
    app.must(&format!("INSERT INTO accounts VALUES ({stays}, 7, 1), ({moves}, 7, 1)"));
    app.must("BEGIN");
    app.must(&format!("UPDATE accounts SET balance = 10 WHERE id = {stays}"));
    assert_eq!(app.must("SELECT count(*) FROM accounts WHERE owner = 7").texts(), [["2"]]);
    ground.run(&["reshard", "resume"]);
    ground.wait_for("moved");
    // All that the transaction sees and does from now on is where it belongs now.
    assert_eq!(app.must("SELECT count(*), sum(balance) FROM accounts WHERE owner = 7").texts(), [["2", "11"]]);
    app.must(&format!("UPDATE accounts SET balance = 20 WHERE id = {moves}"));
    app.must("COMMIT");
    let sql = "SELECT count(*), sum(balance) FROM accounts WHERE owner = 7";
    assert_eq!(app.must(sql).texts(), [["2", "30"]]);
    ground.run(&["reshard", "verify"]);
    // Back again, while a snapshot is held: nothing moves before it is given up.
    app.must("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(app.must(sql).texts(), [["2", "30"]]);
    let left = ground.job()["buckets_left"].clone();
    ground.run(&["reshard", "reverse", "--yes"]);
    let trouble = ground.wait_for_trouble();
    assert!(trouble.contains("that read there did not end in time"), "{trouble}");
    assert_eq!(app.must(sql).texts(), [["2", "30"]], "{left}");
    app.must("COMMIT");
    ground.wait_for("moved");
    assert_eq!(app.must(sql).texts(), [["2", "30"]]);
    ground.run(&["reshard", "verify"]);
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
    assert_eq!(ground.leftovers(), Vec::<String>::new());
}

/// `kill -9` of the proxy at any moment of a job: it goes on by itself, and nothing is lost.
#[test]
fn a_killed_proxy_goes_on_with_the_job() {
    let ground = Ground::new(6_000);
    ground.run(&["shard", "add", "--replicas", "0"]);
    let writers = Writers::start_patient(&ground, 3);
    ground.run(&["reshard", "start", "--yes"]);
    let mut kills = 0;
    for pause in [5, 60, 130, 250, 20, 333, 410, 90] {
        // Odd ones while indexes are made, even ones among the steps.
        while kills % 2 == 0 && ground.job()["phase"] == "preparing" {}
        std::thread::sleep(Duration::from_millis(pause));
        ground.kill_proxy();
        kills += 1;
        ground.start_proxy();
        if ground.job()["phase"] == "moved" {
            break;
        }
    }
    ground.reshard(&["start", "--yes", "--wait"]);
    ground.run(&["reshard", "verify"]);
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
    let histories = writers.stop();
    println!("{kills} kills; {}", compare(&ground, &histories));
    assert!(ground.buckets("s2") > 8_000, "{}", ground.buckets("s2"));
    assert_eq!(ground.leftovers(), Vec::<String>::new());
}

/// A job that is cancelled leaves nothing behind, whenever that is.
#[test]
fn a_cancelled_job_leaves_nothing_behind() {
    let ground = Ground::new(200_000);
    ground.run(&["shard", "add", "--replicas", "0"]);
    let before = ground.checksum();
    let mut moved = Vec::new();
    for steps in 0..4 {
        ground.run(&["reshard", "start", "--yes"]);
        ground.cancel_after(steps);
        moved.push(ground.buckets("s2"));
        assert_eq!(ground.leftovers(), Vec::<String>::new());
        assert_eq!(ground.checksum(), before);
        ground.run(&["reshard", "verify"]);
        if moved.last() > Some(&0) {
            // A step is soon done here: each time from the beginning.
            ground.reshard(&["start", "--empty", "s2", "--yes", "--wait"]);
            ground.run(&["reshard", "finish", "--yes", "--wait"]);
        }
    }
    println!("buckets that had moved when the job was cancelled: {moved:?}");
    // And it can be begun again to the end.
    ground.reshard(&["start", "--yes", "--wait"]);
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
    assert_eq!(ground.checksum(), before);
}

/// What is wrong on the target is found before its buckets get a new owner, and named by key.
#[test]
fn rows_that_are_not_the_same_stop_the_job() {
    let ground = Ground::new(3_000);
    ground.run(&["shard", "add", "--replicas", "0"]);
    ground.run(&["reshard", "start", "--yes"]);
    ground.run(&["reshard", "pause"]);
    let mut target = ground.server("s2a");
    // An extra row: its bucket belongs to the first shard.
    let owned = ground.buckets("s2");
    let extra = ground.key_that_has_to_move();
    target.must(&format!(
        "SET session_replication_role = replica; INSERT INTO events VALUES ({extra}, 424242, 'nobody wrote this')"
    ));
    let found = ground.fails(&["reshard", "verify"]);
    assert!(found.contains("1 rows are not where they belong"), "{found}");
    ground.run(&["reshard", "resume"]);
    let trouble = ground.trouble();
    assert!(trouble.contains("424242") || trouble.contains("beside the rows that moved"), "{trouble}");
    assert!(trouble.contains(&format!("events ({extra}) is there beside")), "{trouble}");
    target.must("SET session_replication_role = replica; DELETE FROM events WHERE id = 424242");
    // A changed row, and one that is left out: by a trigger that fires for every writer.
    for (body, word) in [("NEW.note := 'changed'; RETURN NEW;", "is changed"), ("RETURN NULL;", "is missing")] {
        target.must(&format!(
            "CREATE OR REPLACE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$; \
             DROP TRIGGER IF EXISTS spoil ON events; \
             CREATE TRIGGER spoil BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION spoil(); \
             ALTER TABLE events ENABLE ALWAYS TRIGGER spoil"
        ));
        ground.run(&["reshard", "resume"]);
        let trouble = ground.trouble();
        assert!(trouble.contains("events (") && trouble.contains(word), "{word}: {trouble}");
        println!("{trouble}");
    }
    // Before a job begins it is refused at once.
    target.must("DROP TRIGGER spoil ON events; DROP FUNCTION spoil");
    ground.run(&["reshard", "resume"]);
    ground.wait_for("moved");
    assert!(ground.buckets("s2") > owned);
    ground.run(&["reshard", "verify"]);
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
}

/// Checkers are shown to fail.
#[test]
fn a_lost_a_doubled_and_a_changed_row_are_noticed() {
    for spoil in [
        "DELETE FROM accounts WHERE id = (SELECT min(id) FROM accounts WHERE owner = 0)",
        "UPDATE accounts SET balance = balance + 1 WHERE id = (SELECT min(id) FROM accounts WHERE owner = 0)",
        "INSERT INTO accounts VALUES (99999999, 0, 1)",
    ] {
        let ground = Ground::new(100);
        let writers = Writers::start(&ground, 1);
        std::thread::sleep(Duration::from_millis(300));
        let histories = writers.stop();
        compare(&ground, &histories);
        ground.server("s1a").must(&format!("SET session_replication_role = replica; {spoil}"));
        let noticed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| compare(&ground, &histories)));
        assert!(noticed.is_err(), "{spoil}");
    }
}
