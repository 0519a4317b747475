//! What a client may keep between statements, in transaction pooling over two shards. Every pool has one
//! connection, so that whatever a session leaves on it is found by the next.

use std::fs::OpenOptions;
use std::io::Write as _;

use crate::cluster::{Cluster, Placement};
use crate::wire::Wire;

const KEYS: i64 = 20;

fn cluster_with(settings: &str) -> Cluster {
    let mut cluster = Cluster::without_proxy(
        2,
        &[
            ("counters", Placement::Key(&["id"])),
            ("rows", Placement::Key(&["id"])),
            ("countries", Placement::Reference),
            ("motto", Placement::Single),
        ],
    );
    let mut config = OpenOptions::new().append(true).open(cluster.config()).unwrap();
    write!(config, "\n{settings}\n").unwrap();
    cluster.start_proxy();
    let mut app = cluster.app();
    app.must("CREATE TABLE counters (id bigint PRIMARY KEY, n int NOT NULL)");
    app.must("CREATE TABLE rows (id bigserial PRIMARY KEY, body text)");
    app.must("CREATE TABLE countries (code text PRIMARY KEY, name text)");
    app.must("CREATE TABLE motto (id int PRIMARY KEY, body text)");
    let rows: Vec<String> = (1..=KEYS).map(|id| format!("({id}, 0)")).collect();
    app.must(&format!("INSERT INTO counters VALUES {}", rows.join(", ")));
    app.must("INSERT INTO countries VALUES ('de', 'Deutschland')");
    app.must("INSERT INTO motto VALUES (1, 'so what')");
    cluster
}

fn cluster() -> Cluster {
    cluster_with("[pool]\nsize = 1")
}

fn client(cluster: &Cluster) -> Wire {
    Wire::connect(cluster.port, &[])
}

/// One key on each of the two shards.
fn keys_apart(cluster: &Cluster) -> [String; 2] {
    [0, 1].map(|shard: usize| cluster.shards[shard].superuser().must("SELECT min(id) FROM counters").value())
}

#[test]
fn the_pid_that_a_client_was_told_is_its_own_everywhere() {
    let cluster = cluster();
    let [mut one, mut two] = [client(&cluster), client(&cluster)];
    assert!(one.pid >= 0x4000_0000 && two.pid >= 0x4000_0000 && one.pid != two.pid);
    assert_eq!(one.value("SELECT pg_backend_pid()"), one.pid.to_string());
    let answers = two.run("SELECT pg_backend_pid() AS p, $1::int", &["1"]).sync().answers();
    assert_eq!(answers, ["1", "2", &format!("D {}|1", two.pid), "C SELECT 1", "Z I"]);
    // A session that is cancelled goes on; it ran nothing.
    assert_eq!(one.value(&format!("SELECT pg_cancel_backend({})", two.pid)), "t");
    assert_eq!(two.value("SELECT 1"), "1");
    // The error of a cancel of oneself is PostgreSQL's.
    let error = one.error("SELECT pg_cancel_backend(pg_backend_pid())");
    assert_eq!(error, "57014 canceling statement due to user request");
    // A number that nobody has is the server's to warn of.
    let answers = one.query("SELECT pg_terminate_backend(2147483647)").answers();
    assert!(answers.iter().any(|word| word.starts_with("N WARNING 01000 PID 2147483647 is not")), "{answers:?}");
    assert!(answers.contains(&"D f".to_owned()), "{answers:?}");
    let answers = one.run("SELECT pg_terminate_backend($1)", &[&two.pid.to_string()]).sync().answers();
    assert_eq!(answers, ["1", "2", "D t", "C SELECT 1", "Z I"]);
    let gone = two.query("SELECT 1").answers();
    assert_eq!(gone, ["E FATAL 57P01 terminating connection due to administrator command"]);
    let own = one.query("SELECT pg_terminate_backend(pg_backend_pid())").answers();
    assert_eq!(own, ["E FATAL 57P01 terminating connection due to administrator command"]);
}

#[test]
fn a_session_that_works_is_ended_with_its_work() {
    let cluster = cluster();
    let [key, _] = keys_apart(&cluster);
    let [mut one, mut two] = [client(&cluster), client(&cluster)];
    two.must("BEGIN");
    two.must(&format!("UPDATE counters SET n = 5 WHERE id = {key}"));
    two.query("SELECT pg_sleep(30)").send();
    std::thread::sleep(std::time::Duration::from_millis(200));
    // The pool's only connection is the other's: it is free again once that one has ended.
    let [own, other] = [one.pid, two.pid];
    assert_eq!(one.value(&format!("SELECT pg_terminate_backend({other})")), "t", "{own}");
    assert_eq!(two.answers(), ["E FATAL 57P01 terminating connection due to administrator command"]);
    assert_eq!(one.value(&format!("SELECT n FROM counters WHERE id = {key}")), "0");
}

#[test]
fn who_may_signal_whom_is_decided_by_the_servers() {
    let cluster = cluster_with("[[users]]\nname = \"guest\"");
    for shard in &cluster.shards {
        shard.superuser().must("CREATE ROLE guest LOGIN");
    }
    let mut one = client(&cluster);
    let mut guest = Wire::connect(cluster.port, &[("user", "guest")]);
    let error = guest.error(&format!("SELECT pg_terminate_backend({})", one.pid));
    assert!(error.starts_with("42501 must be a member of the role whose process is being terminated"), "{error}");
    assert_eq!(one.value("SELECT 1"), "1");
    for shard in &cluster.shards {
        shard.superuser().must("GRANT pg_signal_backend TO guest");
    }
    assert_eq!(guest.value(&format!("SELECT pg_terminate_backend({})", one.pid)), "t");
    assert_eq!(one.next().unwrap(), "E FATAL 57P01 terminating connection due to administrator command");
    assert_eq!(one.next(), None);
}
