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
    // Nothing of a session runs behind its own end, be it there already or not.
    for _ in 0..10 {
        let mut three = client(&cluster);
        let answers = three.query("SELECT pg_terminate_backend(pg_backend_pid())").query("BEGIN").answers();
        assert_eq!(answers, ["E FATAL 57P01 terminating connection due to administrator command"]);
        assert_eq!(three.next(), None);
    }
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

#[test]
fn a_setting_holds_wherever_its_session_runs_and_nowhere_else() {
    let cluster = cluster();
    let keys = keys_apart(&cluster);
    let mut one = Wire::connect(cluster.port, &[("application_name", "first"), ("options", "-c work_mem=3MB")]);
    let mut two = Wire::connect(cluster.port, &[("TimeZone", "Asia/Tokyo")]);
    assert_eq!((one.parameter("application_name"), two.parameter("TimeZone")), ("first", "Asia/Tokyo"));
    assert_eq!(one.parameter("client_encoding"), "UTF8");
    one.must("SET work_mem = '5MB'");
    one.must("SET TIME ZONE 'Europe/Paris'");
    two.must("SELECT set_config('app.tenant', '42', false)");
    assert_eq!(one.parameter("TimeZone"), "Europe/Paris");
    let seen = |key: &str| {
        format!(
            "SELECT current_setting('work_mem'), current_setting('TimeZone'), current_setting('app.tenant', true), \
             current_setting('application_name') FROM counters WHERE id = {key}"
        )
    };
    for key in keys.iter().cycle().take(4) {
        assert_eq!(one.value(&seen(key)).replace("NULL", ""), "5MB|Europe/Paris||first");
        assert_eq!(two.value(&seen(key)), "4MB|Asia/Tokyo|42|");
        let answers = one.run(&seen(key), &[]).sync().answers();
        assert_eq!(answers[2].replace("NULL", ""), "D 5MB|Europe/Paris||first", "{answers:?}");
    }
    assert_eq!(one.parameter("TimeZone"), "Europe/Paris");
}

#[test]
fn reset_returns_to_what_the_client_asked_for_at_startup() {
    let cluster = cluster();
    let startup = [("application_name", "mine"), ("DateStyle", "German"), ("options", "-c work_mem=3MB")];
    let mut one = Wire::connect(cluster.port, &startup);
    let mut two = client(&cluster);
    let set = "SET application_name = 'x'; SET DateStyle = 'SQL'; SET work_mem = '9MB'";
    let all = "SELECT current_setting('application_name'), current_setting('work_mem'), current_setting('DateStyle')";
    for reset in [
        "RESET application_name; RESET DateStyle; RESET work_mem",
        "SET application_name TO DEFAULT; SET datestyle = DEFAULT; SET work_mem TO DEFAULT",
        "RESET ALL",
        "DISCARD ALL",
    ] {
        one.must(set);
        assert_eq!(one.value(all), "x|9MB|SQL, DMY");
        let answers = one.query(reset).answers();
        let tags: Vec<&String> = answers.iter().filter(|word| word.starts_with("C ")).collect();
        let word = reset.split_once(' ').unwrap().0;
        assert!(tags.iter().all(|tag| tag.starts_with(&format!("C {word}"))), "{answers:?}");
        assert_eq!((one.parameter("DateStyle"), one.parameter("application_name")), ("German, DMY", "mine"), "{reset}");
        assert_eq!(one.value("SHOW work_mem"), "3MB", "{reset}");
        assert_eq!(two.value("SHOW work_mem"), "4MB");
        assert_eq!(one.value(all), "mine|3MB|German, DMY", "{reset}");
    }
}

#[test]
fn what_a_rollback_takes_back_is_reported() {
    let cluster = cluster();
    let [key, other] = keys_apart(&cluster);
    let mut one = client(&cluster);
    one.must("BEGIN");
    one.must(&format!("UPDATE counters SET n = 1 WHERE id = {key}"));
    one.must("SET application_name = 'inside'");
    one.must("SAVEPOINT a");
    one.must("SELECT set_config('application_name', 'deeper', false)");
    assert_eq!(one.parameter("application_name"), "deeper");
    one.must("ROLLBACK TO a");
    assert_eq!(one.parameter("application_name"), "inside");
    // A shard that joins now hears of it.
    let seen = format!("SELECT current_setting('application_name') FROM counters WHERE id = {other}");
    assert_eq!(one.value(&seen), "inside");
    one.must("RESET application_name");
    one.must("SET application_name = 'again'");
    one.must("ROLLBACK");
    assert_eq!(one.parameter("application_name"), "");
    assert_eq!(one.value("SHOW application_name"), "");
    one.must("BEGIN");
    one.must("SET LOCAL application_name = 'here'");
    assert_eq!(one.parameter("application_name"), "here");
    one.must("COMMIT");
    assert_eq!(one.parameter("application_name"), "");
}

#[test]
fn a_search_path_inside_a_transaction_decides_where_names_lead() {
    let cluster = cluster();
    let mut one = client(&cluster);
    one.must("CREATE SCHEMA other");
    one.must("CREATE TABLE other.motto (id int, body text)");
    one.must("INSERT INTO other.motto VALUES (1, 'another')");
    one.must("BEGIN");
    one.must("SAVEPOINT a");
    one.must("SET LOCAL search_path = other, public");
    assert_eq!(one.value("SELECT body FROM motto"), "another");
    one.must("ROLLBACK TO a");
    assert_eq!(one.value("SELECT body FROM motto"), "so what");
    one.must("SET search_path = other");
    one.must("COMMIT");
    assert_eq!(one.value("SELECT body FROM motto"), "another");
    one.must("RESET ALL");
    assert_eq!(one.value("SELECT body FROM motto"), "so what");
}

#[test]
fn session_characteristics_are_the_defaults_of_later_transactions() {
    let cluster = cluster();
    let keys = keys_apart(&cluster);
    let (mut one, mut two) = (client(&cluster), client(&cluster));
    let set = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY, NOT DEFERRABLE";
    assert_eq!(one.query(set).answers(), ["C SET", "Z I"]);
    for key in &keys {
        assert_eq!(one.value("SHOW transaction_isolation"), "repeatable read");
        let error = one.error(&format!("UPDATE counters SET n = 1 WHERE id = {key}"));
        assert!(error.starts_with("25006"), "{error}");
        two.must(&format!("UPDATE counters SET n = 1 WHERE id = {key}"));
    }
    one.must("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE");
    one.must(&format!("UPDATE counters SET n = 1 WHERE id = {}", keys[0]));
}

#[test]
fn statements_are_prepared_and_executed_by_sql() {
    let cluster = cluster();
    let keys = keys_apart(&cluster);
    let (mut one, mut two) = (client(&cluster), client(&cluster));
    one.must("PREPARE add (bigint, int) AS UPDATE counters SET n = n + $2 WHERE id = $1");
    one.must("PREPARE see AS SELECT id, n FROM counters WHERE id = $1");
    two.must("PREPARE see AS SELECT 'other', $1::text");
    for key in &keys {
        assert_eq!(one.query(&format!("EXECUTE add({key}, -3)")).answers(), ["C UPDATE 1", "Z I"]);
        assert_eq!(
            one.query(&format!("EXECUTE see('{key}')")).answers(),
            ["T", &format!("D {key}|-3"), "C SELECT 1", "Z I"]
        );
        assert_eq!(two.value("EXECUTE see(2 + 3)"), "other|5");
        // The protocol's names are the same ones.
        let answers = one.bind("", "see", &[key]).describe(b'P', "").execute("").sync().answers();
        assert_eq!(answers, ["2", "T", &format!("D {key}|-3"), "C SELECT 1", "Z I"]);
        let execute = format!("EXECUTE see({key})");
        let answers = one
            .parse("", &execute)
            .describe(b'S', "")
            .bind("", "", &[])
            .describe(b'P', "")
            .execute("")
            .sync()
            .answers();
        assert_eq!(answers, ["1", "t", "T", "2", "T", &format!("D {key}|-3"), "C SELECT 1", "Z I"]);
    }
    one.must("PREPARE everything (numeric, date) AS SELECT count(*) FROM counters WHERE n < $1 AND $2 = '2020-02-03'");
    assert_eq!(one.value("EXECUTE everything(0.5, '2020-02-03'::date)"), KEYS.to_string());
    assert_eq!(one.error("PREPARE see AS SELECT 1"), "42P05 prepared statement \"see\" already exists");
    assert_eq!(one.error("EXECUTE nothing"), "26000 prepared statement \"nothing\" does not exist");
    assert_eq!(one.error("EXECUTE see"), "42601 wrong number of parameters for prepared statement \"see\"");
    assert!(one.error("EXECUTE see(random())").starts_with("0A000 EXECUTE with a value that is no constant"));
    assert!(one.error("EXECUTE see('x')").starts_with("22P02"));
    assert!(one.error("PREPARE wrong AS SELECT nothing FROM counters").starts_with("42703"));
    // sqlx learns by EXPLAIN which columns may be null.
    let plan = one.value(&format!("EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE see({})", keys[0]));
    assert!(plan.contains("\"Output\": [\"id\", \"n\"]"), "{plan}");
    let explain = "EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE see(NULL)";
    let answers = one.parse("", explain).describe(b'S', "").bind("", "", &[]).execute("").sync().answers();
    assert_eq!(answers[..4], ["1", "t", "T", "2"]);
    assert!(answers[4].contains("Output") && answers[5..] == ["C EXPLAIN", "Z I"], "{answers:?}");
    assert_eq!(one.must("EXPLAIN EXECUTE everything(1, NULL)")[0], "Merge of 2 shards: combine c0=count");
    assert!(one.error("EXPLAIN EXECUTE nothing").starts_with("26000"));
    for (key, shard) in keys.iter().zip(["shard1", "shard2"]) {
        let answers = one.query(&format!("EXPLAIN (OSTRAKON) EXECUTE see({key})")).answers();
        assert_eq!(answers[1], format!("D Shards: {shard}"));
    }
    assert!(one.error("EXPLAIN PREPARE nothing AS SELECT 1").starts_with("42601"));
    assert!(one.error("EXPLAIN BEGIN").starts_with("42601"));
    one.must("DEALLOCATE see");
    assert_eq!(one.error("EXECUTE see(1)"), "26000 prepared statement \"see\" does not exist");
    assert_eq!(two.value("EXECUTE see('x')"), "other|x");
    two.must("DEALLOCATE ALL");
    assert!(two.error("EXECUTE see(1)").starts_with("26000"));
    assert!(two.error("DEALLOCATE see").starts_with("26000"));
}

#[test]
fn a_temporary_table_belongs_to_its_session_until_it_is_dropped() {
    let cluster = cluster_with("[pool]\nsize = 2");
    let [key, other] = keys_apart(&cluster);
    let (mut one, mut two) = (client(&cluster), client(&cluster));
    one.must("CREATE TEMP TABLE notes (id bigint, body text)");
    two.must("CREATE TEMP TABLE notes (x int)");
    one.must("INSERT INTO notes VALUES (1, 'mine'), (2, 'too')");
    for _ in 0..3 {
        assert_eq!(one.value("SELECT count(*) FROM notes"), "2");
        assert_eq!(two.value("SELECT count(*) FROM notes"), "0");
        let answers = one.run("SELECT body FROM notes WHERE id = $1", &["1"]).sync().answers();
        assert_eq!(answers, ["1", "2", "D mine", "C SELECT 1", "Z I"]);
    }
    // It hides a table of the same name, and works with what every shard has.
    one.must("CREATE TEMP TABLE motto AS SELECT * FROM countries");
    assert_eq!(one.value("SELECT name FROM motto"), "Deutschland");
    assert_eq!(one.value("SELECT n.body FROM notes n, countries c WHERE n.id = 1"), "mine");
    assert_eq!(one.value("SELECT count(*) FROM notes JOIN counters c ON c.id = notes.id"), "2");
    one.must("SELECT 1 AS a INTO TEMP made");
    assert_eq!(one.value("SELECT a FROM made"), "1");
    // A transaction over both shards and the temporary table commits as one.
    one.must("BEGIN");
    for id in [&key, &other] {
        one.must(&format!("UPDATE counters SET n = 7 WHERE id = {id}"));
    }
    one.must("UPDATE notes SET body = 'both' WHERE id = 1");
    one.must("COMMIT");
    assert_eq!(one.value("SELECT body FROM notes WHERE id = 1"), "both");
    assert_eq!(one.value("SELECT sum(n) FROM counters"), "14");
    // What a rollback takes away is gone, what it brings back is there.
    one.must("BEGIN");
    one.must("DROP TABLE notes");
    assert!(one.error("SELECT * FROM notes").starts_with("42P01"));
    one.must("ROLLBACK");
    assert_eq!(one.value("SELECT count(*) FROM notes"), "2");
    one.must("DROP TABLE notes, made; DROP TABLE motto");
    assert_eq!(one.value("SELECT body FROM motto"), "so what");
    one.must("BEGIN; CREATE TEMP TABLE gone (id int) ON COMMIT DROP; INSERT INTO gone VALUES (1); COMMIT");
    assert!(one.error("SELECT * FROM gone").starts_with("42P01"));
    drop(two);
    // Nothing is left on any connection.
    let mut others: Vec<Wire> = (0..3).map(|_| client(&cluster)).collect();
    for client in &mut others {
        client.must("BEGIN");
        assert!(client.error("SELECT * FROM pg_temp.notes").starts_with("42P01"));
        client.must("ROLLBACK");
    }
}

#[test]
fn a_session_lock_is_one_for_the_whole_cluster_and_ends_with_its_session() {
    let cluster = cluster_with("[pool]\nsize = 3");
    let [key, other] = keys_apart(&cluster);
    let (mut one, mut two) = (client(&cluster), client(&cluster));
    assert_eq!(one.value("SELECT pg_try_advisory_lock(5)"), "t");
    for id in [&key, &other, &key] {
        one.must(&format!("UPDATE counters SET n = n + 1 WHERE id = {id}"));
        assert_eq!(two.value("SELECT pg_try_advisory_lock(5)"), "f");
    }
    assert_eq!(two.value("SELECT pg_try_advisory_xact_lock(5)"), "f");
    assert_eq!(one.value("SELECT pg_advisory_unlock(5)"), "t");
    assert_eq!(two.value("SELECT pg_try_advisory_lock(5)"), "t");
    drop(two);
    let freed = crate::cluster::eventually(std::time::Duration::from_secs(5), || {
        one.value("SELECT pg_try_advisory_xact_lock(5)") == "t"
    });
    assert!(freed, "the lock of a session that is gone is still held");
}

#[test]
fn a_cursor_with_hold_outlives_its_transaction() {
    let cluster = cluster_with("[pool]\nsize = 2");
    let [key, other] = keys_apart(&cluster);
    let (mut one, mut two) = (client(&cluster), client(&cluster));
    for key in [&key, &other] {
        one.must("BEGIN");
        one.must(&format!(
            "DECLARE c CURSOR WITH HOLD FOR SELECT id FROM counters WHERE id = {key} UNION ALL SELECT -1"
        ));
        one.must("COMMIT");
        assert_eq!(one.value("FETCH 1 FROM c"), *key);
        assert!(two.error("FETCH 1 FROM c").starts_with("34000"));
        let answers = one.run("FETCH 1 FROM c", &[]).sync().answers();
        assert_eq!(answers, ["1", "2", "D -1", "C FETCH 1", "Z I"]);
        one.must("CLOSE c");
        assert!(one.error("FETCH 1 FROM c").starts_with("34000"));
    }
}

#[test]
fn a_listener_hears_everybody_also_while_it_is_silent() {
    let cluster = cluster_with("[pool]\nsize = 2");
    let [key, other] = keys_apart(&cluster);
    let (mut one, mut two) = (client(&cluster), client(&cluster));
    one.must("LISTEN news");
    two.must("NOTIFY news, 'first'");
    assert_eq!(one.next().unwrap(), format!("A {} news first", two.pid));
    two.must("BEGIN");
    for id in [&key, &other] {
        two.must(&format!("UPDATE counters SET n = 1 WHERE id = {id}"));
    }
    two.must("SELECT pg_notify('news', 'second')");
    two.must("COMMIT");
    assert_eq!(one.next().unwrap(), format!("A {} news second", two.pid));
    // Its own, among the answers.
    let own = format!("A {} news own", one.pid);
    let answers = one.query("NOTIFY news, 'own'").answers();
    assert!(answers == ["C NOTIFY", &own, "Z I"] || one.next().unwrap() == own, "{answers:?}");
    one.must("UNLISTEN *");
    two.must("NOTIFY news, 'third'");
    assert_eq!(one.query("SELECT 1").answers(), ["T", "D 1", "C SELECT 1", "Z I"]);
    let mut three = client(&cluster);
    assert_eq!(three.query("SELECT 1").answers(), ["T", "D 1", "C SELECT 1", "Z I"]);
}

#[test]
fn session_mode_keeps_connections_and_statement_mode_refuses_blocks() {
    let cluster = cluster_with("[pool]\nsize = 1\nmode = \"session\"");
    let [key, _] = keys_apart(&cluster);
    let mut one = client(&cluster);
    one.must(&format!("UPDATE counters SET n = 1 WHERE id = {key}"));
    assert_eq!(one.value("SELECT pg_try_advisory_lock(9)"), "t");
    one.must("SET work_mem = '7MB'");
    assert_eq!(one.value("SHOW work_mem"), "7MB");
    drop(one);
    let mut two = client(&cluster);
    assert_eq!(two.value("SHOW work_mem"), "4MB");
    assert_eq!(two.value("SELECT pg_try_advisory_lock(9)"), "t");
    let cluster = cluster_with("[pool]\nmode = \"statement\"");
    let mut one = client(&cluster);
    assert_eq!(one.value("SELECT 1"), "1");
    let ended = one.query("BEGIN").answers();
    assert_eq!(ended, ["E FATAL 0A000 transaction blocks are not allowed in statement pooling mode"]);
    assert_eq!(one.next(), None);
}

#[test]
fn a_killed_server_connection_is_told_in_postgresqls_words_and_ends_the_session() {
    let cluster = cluster();
    let [key, _] = keys_apart(&cluster);
    let mut one = client(&cluster);
    one.must("BEGIN");
    one.must(&format!("UPDATE counters SET n = 5 WHERE id = {key}"));
    // It waits until they are gone: what is on its way to a server that is being ended is told so.
    let kill = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
                WHERE usename = 'app' AND pid <> pg_backend_pid()";
    let mut administrator = cluster.shards[0].superuser();
    administrator.must(kill);
    let answers = one.query(&format!("UPDATE counters SET n = 6 WHERE id = {key}")).answers();
    assert_eq!(answers, ["E FATAL 57P01 terminating connection due to administrator command"]);
    assert_eq!(one.next(), None);
    // A session that keeps a connection hears of it at once.
    let mut two = client(&cluster);
    two.must("CREATE TEMP TABLE t (id int)");
    administrator.must(kill);
    assert_eq!(two.next().unwrap(), "E FATAL 57P01 terminating connection due to administrator command");
    assert_eq!(two.next(), None);
    // One that keeps none does not.
    let mut three = client(&cluster);
    three.must("SELECT 1");
    administrator.must(kill);
    assert_eq!(three.value("SELECT 1"), "1");
}

#[test]
fn a_pipeline_over_several_shards_is_answered_in_its_own_order() {
    let cluster = cluster_with("[pool]\nsize = 2");
    let keys = keys_apart(&cluster);
    let mut one = client(&cluster);
    one.parse("see", "SELECT id, n FROM counters WHERE id = $1");
    one.parse("add", "UPDATE counters SET n = n + 1 WHERE id = $1");
    assert_eq!(one.sync().answers(), ["1", "1", "Z I"]);
    let mut expected = Vec::new();
    for round in 0..5 {
        for key in &keys {
            one.bind("", "see", &[key]).execute("").bind("", "add", &[key]).execute("");
            let seen = format!("D {key}|{round}");
            expected.extend(["2", &seen, "C SELECT 1", "2", "C UPDATE 1"].map(str::to_owned));
        }
        // A statement of the proxy's own and one of all shards stand in their places.
        one.close(b'S', "nothing").bind("", "see", &[&keys[1]]).execute("");
        expected.extend(["3", "2", &format!("D {}|{}", keys[1], round + 1), "C SELECT 1"].map(str::to_owned));
        one.run("SELECT count(*) FROM counters WHERE n > $1", &["-1"]);
        expected.extend(["1", "2", &format!("D {KEYS}"), "C SELECT 1"].map(str::to_owned));
    }
    expected.push("Z I".to_owned());
    assert_eq!(one.sync().answers(), expected);
}

#[test]
fn an_error_in_a_pipeline_over_several_shards_undoes_all_of_it() {
    let cluster = cluster_with("[pool]\nsize = 1");
    let [key, other] = keys_apart(&cluster);
    let mut one = client(&cluster);
    one.parse("add", "UPDATE counters SET n = n + 1 WHERE id = $1");
    one.parse("divide", "UPDATE counters SET n = n / 0 WHERE id = $1");
    one.sync().answers();
    for (first, second) in [(&key, &other), (&other, &key)] {
        one.bind("", "add", &[first]).execute("").bind("", "divide", &[second]).execute("");
        one.bind("", "add", &[first]).execute("").parse("new", "SELECT 1").bind("", "new", &[]).execute("");
        let answers = one.sync().answers();
        assert_eq!(answers[..3], ["2", "C UPDATE 1", "2"]);
        assert_eq!(answers[3..], ["E ERROR 22012 division by zero", "Z I"]);
        // What comes next finds the connections in order, prepared statements included.
        for key in [first, second] {
            let answers = one.bind("", "add", &[key]).execute("").sync().answers();
            assert_eq!(answers, ["2", "C UPDATE 1", "Z I"]);
        }
    }
    assert_eq!(one.value("SELECT sum(n) FROM counters"), "4");
    // Rows whose ids the proxy gives belong to the same transaction as what follows.
    one.parse("put", "INSERT INTO rows (body) VALUES ($1)");
    one.sync().answers();
    one.bind("", "put", &["a"]).execute("").bind("", "put", &["b"]).execute("");
    let answers = one.bind("", "divide", &[&key]).execute("").sync().answers();
    assert_eq!(answers[4..], ["2", "E ERROR 22012 division by zero", "Z I"]);
    assert_eq!(one.value("SELECT count(*) FROM rows"), "0");
    let mut two = client(&cluster);
    let answers = two.parse("", "SELECT 1").bind("", "", &[]).execute("").sync().answers();
    assert_eq!(answers, ["1", "2", "D 1", "C SELECT 1", "Z I"]);
}

#[test]
fn what_the_proxy_refuses_in_a_pipeline_undoes_what_came_before() {
    let cluster = cluster_with("[pool]\nsize = 1");
    let [key, _] = keys_apart(&cluster);
    let mut one = client(&cluster);
    // A write that is none by its first word; then names that nobody has, of which no server hears.
    let text = "WITH w AS (UPDATE counters SET n = n + 1 WHERE id = $1 RETURNING id) SELECT id FROM w";
    for _ in 0..2 {
        one.parse("", text).bind("", "", &[&key]).execute("").bind("", "nothing", &[]).execute("");
        let answers = one.sync().answers();
        let error = "E ERROR 26000 prepared statement \"nothing\" does not exist";
        assert_eq!(answers, ["1", "2", &format!("D {key}"), "C SELECT 1", error, "Z I"]);
    }
    assert_eq!(one.value(&format!("SELECT n FROM counters WHERE id = {key}")), "0");
}

#[test]
fn rows_of_all_shards_come_by_and_by_outside_of_a_block() {
    let cluster = cluster();
    let mut one = client(&cluster);
    // As cursors of drivers ask: each step with a Flush, the Sync at the end only.
    one.parse("", "SELECT id FROM counters ORDER BY id").bind("", "", &[]).describe(b'P', "").flush();
    assert_eq!(one.take(3), ["1", "2", "T"]);
    assert_eq!(one.execute_some("", 3).flush().take(4), ["D 1", "D 2", "D 3", "s"]);
    assert_eq!(one.execute_some("", 2).flush().take(3), ["D 4", "D 5", "s"]);
    assert_eq!(one.close(b'P', "").sync().answers(), ["3", "Z I"]);
    assert_eq!(one.value("SELECT count(*) FROM counters"), KEYS.to_string());
}

#[test]
fn portals_of_two_shards_are_open_at_a_time() {
    let cluster = cluster();
    let [key, other] = keys_apart(&cluster);
    let mut one = client(&cluster);
    one.parse("see", "SELECT id FROM counters WHERE id = $1").bind("a", "see", &[&key]).bind("b", "see", &[&other]);
    one.describe(b'P', "a").execute("b").execute("a").close(b'P', "b");
    let answers = one.sync().answers();
    let [first, second] = [format!("D {other}"), format!("D {key}")];
    assert_eq!(answers, ["1", "2", "2", "T", &first, "C SELECT 1", &second, "C SELECT 1", "3", "Z I"]);
}

#[test]
fn large_objects_are_called_by_the_protocol() {
    let cluster = cluster();
    let mut one = client(&cluster);
    one.must("BEGIN");
    let answers = one.call(715, &["0"]).answers();
    let oid = answers[0].strip_prefix("V ").unwrap().to_owned();
    assert_eq!(answers[1], "Z T", "{answers:?}");
    assert_eq!(one.call(952, &[&oid, "131072"]).answers(), ["V 0", "Z T"]);
    assert_eq!(one.call(955, &["0", "some bytes"]).answers(), ["V 10", "Z T"]);
    one.must("COMMIT");
    assert_eq!(one.value(&format!("SELECT convert_from(lo_get({oid}), 'UTF8')")), "some bytes");
    // random() looks at nothing; nextval(regclass) is not for one shard to answer.
    assert!(one.call(1598, &[]).answers()[0].starts_with("V 0."));
    let refused = one.call(1574, &["s"]).answers();
    assert!(refused[0].starts_with("E ERROR 0A000 the function call protocol"), "{refused:?}");
    assert_eq!(refused[1], "Z I");
}

#[test]
fn the_ids_of_an_insert_are_asked_for_right_after_it() {
    let cluster = cluster();
    let (mut one, mut two) = (client(&cluster), client(&cluster));
    one.must("INSERT INTO rows (body) VALUES ('c')");
    let mine = one.value("SELECT lastval()");
    two.must("INSERT INTO rows (body) VALUES ('d')");
    assert_ne!(two.value("SELECT lastval()"), mine);
    assert_eq!(one.value(&format!("SELECT body FROM rows WHERE id = {mine}")), "c");
    for ask in [
        "SELECT currval('rows_id_seq')",
        "SELECT currval('public.rows_id_seq'::regclass) AS id",
        "SELECT currval(pg_get_serial_sequence('rows', 'id'))",
    ] {
        assert_eq!(one.value(ask), mine, "{ask}");
        let answers = one.parse("", ask).bind("", "", &[]).describe(b'P', "").execute("").sync().answers();
        assert_eq!(answers, ["1", "2", "T", &format!("D {mine}"), "C SELECT 1", "Z I"]);
    }
    let answers = one.run("SELECT currval($1)", &["rows_id_seq"]).sync().answers();
    assert_eq!(answers, ["1", "2", &format!("D {mine}"), "C SELECT 1", "Z I"]);
}

#[test]
fn a_merged_read_is_explained_by_every_shard() {
    let cluster = cluster();
    let mut one = client(&cluster);
    let told = one.must("EXPLAIN (COSTS OFF) SELECT id FROM counters WHERE n > 5 ORDER BY n LIMIT 3");
    assert_eq!(told[0], "Merge of 2 shards: merge by h0, limit #1, hidden 1");
    for shard in ["  ->  Shard shard1", "  ->  Shard shard2"] {
        let at = told.iter().position(|line| line == shard).unwrap();
        // What the shard is sent: with LIMIT, and the hidden column to sort by.
        assert_eq!(told[at + 1], "        Limit", "{told:?}");
    }
    let ran = one.must("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT sum(n) FROM counters");
    assert_eq!(ran.iter().filter(|line| line.trim_start().starts_with("Execution Time")).count(), 2, "{ran:?}");
    // By messages, described first, with a parameter, and in a transaction.
    let sql = "EXPLAIN (COSTS OFF) SELECT count(*) FROM counters WHERE n < $1";
    one.must("BEGIN");
    let answers = one.parse("", sql).describe(b'S', "").bind("", "", &["7"]).describe(b'P', "").execute("").sync();
    let answers = answers.answers();
    assert_eq!(answers[..5], ["1", "t", "T", "2", "T"], "{answers:?}");
    assert!(answers.iter().any(|line| line.contains("Filter: (n < ")), "{answers:?}");
    assert_eq!(answers[answers.len() - 2..], ["C EXPLAIN", "Z T"]);
    // An error has its place in the client's own text.
    let failed = one.error("EXPLAIN SELECT nothing FROM counters ORDER BY n");
    assert!(failed.starts_with("42703"), "{failed}");
    one.must("ROLLBACK");
    assert!(one.error("EXPLAIN (FORMAT JSON) SELECT id FROM counters").starts_with("0A000"));
    assert!(one.error("EXPLAIN UPDATE counters SET n = 1").starts_with("0A000"));
}

#[test]
fn a_snapshot_is_not_given_away_where_rows_lie_on_other_shards() {
    let cluster = cluster_with("[pool]\nsize = 2");
    let mut one = client(&cluster);
    one.must("BEGIN");
    one.must("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY");
    // As `pg_dump --jobs` does: its other sessions would see other shards at another moment.
    one.must("LOCK TABLE public.motto IN ACCESS SHARE MODE");
    let refused = one.error("SELECT pg_catalog.pg_export_snapshot()");
    assert!(refused.starts_with("0A000 pg_export_snapshot is not supported across shards"), "{refused}");
}

#[test]
fn a_snapshot_that_is_taken_over_is_of_one_shard() {
    let cluster = cluster();
    let mut giver = cluster.shards[0].superuser();
    giver.must("BEGIN ISOLATION LEVEL REPEATABLE READ");
    let snapshot = giver.must("SELECT pg_export_snapshot()").value();
    let mut one = client(&cluster);
    for spread in [
        "SELECT n FROM counters",
        "SELECT sum(n) FROM counters",
        "UPDATE counters SET n = n",
        "COPY counters TO STDOUT",
    ] {
        one.must("BEGIN ISOLATION LEVEL REPEATABLE READ");
        one.must(&format!("SET TRANSACTION SNAPSHOT '{snapshot}'"));
        let refused = one.error(spread);
        assert!(refused.starts_with("0A000 SET TRANSACTION SNAPSHOT is not supported across shards"), "{refused}");
        one.must("ROLLBACK");
    }
}

#[test]
fn a_block_that_touches_no_table_runs_and_an_execute_is_explained() {
    let cluster = cluster();
    let [key, _] = keys_apart(&cluster);
    let mut one = client(&cluster);
    let told = one.query("DO $$ DECLARE n int := 2; BEGIN RAISE NOTICE 'from %', n; END $$").answers();
    assert_eq!(told, ["N NOTICE 00000 from 2", "C DO", "Z I"]);
    let failed = one.run("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '22023'; END $$", &[]).sync().answers();
    assert_eq!(failed, ["1", "2", "E ERROR 22023 no", "Z I"]);
    let refused = one.error("DO $$ BEGIN DELETE FROM counters; END $$");
    assert!(refused.starts_with("0A000 DO is not supported across shards"), "{refused}");
    // A statement that came by Parse or by PREPARE is explained alike, by either protocol.
    one.parse("by_key", "SELECT n FROM counters WHERE id = $1").sync().answers();
    let plan = one.must(&format!("EXPLAIN (COSTS OFF) EXECUTE by_key({key})"));
    assert!(plan.iter().any(|line| line.contains("counters_pkey")), "{plan:?}");
    let sql = format!("EXPLAIN (COSTS OFF) EXECUTE by_key({key})");
    let answers = one.parse("", &sql).describe(b'S', "").bind("", "", &[]).execute("").sync().answers();
    assert_eq!(answers[..4], ["1", "t", "T", "2"], "{answers:?}");
    assert!(answers.iter().any(|line| line.contains("counters_pkey")), "{answers:?}");
    let shards = one.must("EXPLAIN (OSTRAKON) EXECUTE by_key(1)");
    assert!(shards[0].starts_with("Shards: "), "{shards:?}");
    one.must("PREPARE everywhere AS SELECT sum(n) FROM counters");
    assert!(one.must("EXPLAIN EXECUTE everywhere")[0].starts_with("Merge of 2 shards: combine c0=sum"));
    assert!(one.error("EXPLAIN EXECUTE nobody").starts_with("26000"));
    // int4pl(int4, int4) adds up wherever it is.
    assert_eq!(one.call(177, &["2", "3"]).answers(), ["V 5", "Z I"]);
    assert_eq!(one.value("SELECT 1"), "1");
}
