//! Statements that stay prepared while the schema changes, over two shards: a client that reads rows as it was
//! told must not get others. PostgreSQL's words are those of `RevalidateCachedQuery`.

use crate::cluster::{Cluster, Placement};
use crate::wire::Wire;

const STALE: &str = "E ERROR 0A000 cached plan must not change result type";
const KEYS: i64 = 20;

fn cluster() -> Cluster {
    let cluster = Cluster::start(2, &[("users", Placement::Key(&["id"])), ("motto", Placement::Single)]);
    let mut app = cluster.app();
    app.must("CREATE TABLE users (id bigint PRIMARY KEY, n int NOT NULL)");
    app.must("CREATE TABLE motto (id int PRIMARY KEY, body text)");
    let rows: Vec<String> = (1..=KEYS).map(|id| format!("({id}, {id})")).collect();
    app.must(&format!("INSERT INTO users VALUES {}", rows.join(", ")));
    cluster
}

fn client(cluster: &Cluster) -> Wire {
    Wire::connect(cluster.port, &[])
}

/// Prepares under a name and is told of the columns.
fn prepare(wire: &mut Wire, name: &str, sql: &str) {
    let answers = wire.parse(name, sql).describe(b'S', name).sync().answers();
    assert_eq!(answers.first().map(String::as_str), Some("1"), "{answers:?}");
}

fn execute(wire: &mut Wire, name: &str, values: &[&str]) -> Vec<String> {
    wire.bind("", name, values).execute("").sync().answers()
}

#[test]
fn a_statement_whose_columns_became_others_fails_as_on_postgresql() {
    let cluster = cluster();
    let [mut one, mut two] = [client(&cluster), client(&cluster)];
    prepare(&mut one, "key", "SELECT * FROM users WHERE id = $1");
    prepare(&mut one, "all", "SELECT * FROM users ORDER BY id LIMIT 1");
    prepare(&mut one, "same", "SELECT n FROM users WHERE id = $1");
    prepare(&mut one, "put", "INSERT INTO users (id, n) VALUES ($1, 3) RETURNING *");
    assert_eq!(execute(&mut one, "key", &["1"]), ["2", "D 1|1", "C SELECT 1", "Z I"]);
    two.must("ALTER TABLE users ADD COLUMN note text DEFAULT 'x'");
    for _ in 0..2 {
        // As long as it is not prepared anew; on whatever connection.
        assert_eq!(execute(&mut one, "key", &["1"]), [STALE, "Z I"]);
        assert_eq!(execute(&mut one, "all", &[]), [STALE, "Z I"]);
        assert_eq!(execute(&mut one, "put", &["99"]), [STALE, "Z I"]);
        assert_eq!(execute(&mut one, "same", &["7"]), ["2", "D 7", "C SELECT 1", "Z I"]);
    }
    prepare(&mut one, "again", "SELECT * FROM users WHERE id = $1");
    assert_eq!(execute(&mut one, "again", &["1"]), ["2", "D 1|1|x", "C SELECT 1", "Z I"]);
    assert_eq!(one.value("SELECT count(*) FROM users"), KEYS.to_string());
    // Back to the columns it knows, it may run again, as on PostgreSQL.
    two.must("ALTER TABLE users DROP COLUMN note");
    assert_eq!(execute(&mut one, "key", &["1"]), ["2", "D 1|1", "C SELECT 1", "Z I"]);
    two.must("ALTER TABLE users ALTER COLUMN n TYPE text");
    assert_eq!(execute(&mut one, "same", &["7"]), [STALE, "Z I"]);
    two.must("DROP TABLE users");
    let gone = execute(&mut one, "same", &["7"]);
    assert!(gone[0].starts_with("E ERROR 42P01"), "{gone:?}");
}

#[test]
fn a_portals_description_is_remembered_too() {
    let cluster = cluster();
    let [mut one, mut two] = [client(&cluster), client(&cluster)];
    for (name, sql) in [
        ("key", "SELECT * FROM users WHERE id = 3"),
        ("all", "SELECT * FROM users ORDER BY id LIMIT 1"),
        ("put", "INSERT INTO users (id, n) VALUES (201, 0), (202, 0), (203, 0), (204, 0), (205, 0) RETURNING *"),
    ] {
        one.parse(name, sql).bind("", name, &[]).describe(b'P', "").execute("").sync().answers();
    }
    one.must("DELETE FROM users WHERE id > 200");
    two.must("ALTER TABLE users ADD COLUMN note text");
    for name in ["key", "all", "put"] {
        assert_eq!(execute(&mut one, name, &[]), [STALE, "Z I"], "{name}");
    }
    // Who is told of the new columns with the rows still has to prepare anew: the statement's columns are fixed.
    let answers = one.bind("", "key", &[]).describe(b'P', "").execute("").sync().answers();
    assert_eq!(answers, [STALE, "Z I"]);
    assert_eq!(one.value("SELECT count(*) FROM users"), KEYS.to_string());
}

#[test]
fn a_change_inside_of_a_transaction_holds_there_and_ends_with_its_rollback() {
    let cluster = cluster();
    let mut one = client(&cluster);
    prepare(&mut one, "key", "SELECT * FROM users WHERE id = $1");
    one.must("BEGIN");
    one.must("SAVEPOINT s");
    one.must("ALTER TABLE users ADD COLUMN note text");
    assert_eq!(execute(&mut one, "key", &["1"]), [STALE, "Z E"]);
    one.must("ROLLBACK TO SAVEPOINT s");
    assert_eq!(execute(&mut one, "key", &["1"]), ["2", "D 1|1", "C SELECT 1", "Z T"]);
    one.must("ALTER TABLE users ADD COLUMN note text DEFAULT 'y'");
    prepare(&mut one, "inside", "SELECT * FROM users WHERE id = $1");
    for key in 1..=KEYS {
        let row = format!("D {key}|{key}|y");
        assert_eq!(execute(&mut one, "inside", &[&key.to_string()]), ["2", &row, "C SELECT 1", "Z T"]);
    }
    one.must("ROLLBACK");
    assert_eq!(execute(&mut one, "inside", &["1"]), [STALE, "Z I"]);
    assert_eq!(execute(&mut one, "key", &["1"]), ["2", "D 1|1", "C SELECT 1", "Z I"]);
}

#[test]
fn parameters_keep_the_types_that_the_client_was_told() {
    let cluster = cluster();
    let [mut one, mut two] = [client(&cluster), client(&cluster)];
    prepare(&mut one, "put", "INSERT INTO users (id, n) VALUES ($1, $2)");
    prepare(&mut one, "set", "UPDATE users SET n = $1");
    two.must("ALTER TABLE users ALTER COLUMN n TYPE numeric");
    // Prepared anew the parameter would be numeric, and a binary int4 misread.
    let refused = execute(&mut one, "put", &["101", "1.5"]);
    assert!(refused.iter().any(|answer| answer.starts_with("E ERROR 22P02")), "{refused:?}");
    let refused = execute(&mut one, "set", &["1.5"]);
    assert!(refused.iter().any(|answer| answer.starts_with("E ERROR 22P02")), "{refused:?}");
    assert_eq!(execute(&mut one, "put", &["101", "4"]), ["2", "C INSERT 0 1", "Z I"]);
}

#[test]
fn sql_s_own_execute_fails_alike() {
    let cluster = cluster();
    let [mut one, mut two] = [client(&cluster), client(&cluster)];
    one.must("PREPARE key AS SELECT * FROM users WHERE id = $1");
    one.must("PREPARE n AS SELECT n FROM users WHERE id = $1");
    two.must("ALTER TABLE users ADD COLUMN note text");
    assert_eq!(one.error("EXECUTE key(1)"), "0A000 cached plan must not change result type");
    assert_eq!(one.value("EXECUTE n(7)"), "7");
}

#[test]
fn types_of_users_are_the_same_columns_on_every_shard() {
    let cluster = cluster();
    // The same type has another number on each shard.
    cluster.shards[1].superuser().must("CREATE TABLE filler (id int)");
    let [mut one, mut two] = [client(&cluster), client(&cluster)];
    two.must("CREATE TYPE mood AS ENUM ('sad', 'ok')");
    two.must("ALTER TABLE users ADD COLUMN mood mood DEFAULT 'ok'");
    prepare(&mut one, "mood", "SELECT id, mood FROM users WHERE id = $1");
    for round in 0..2 {
        for key in 1..=KEYS {
            let row = format!("D {key}|ok");
            assert_eq!(execute(&mut one, "mood", &[&key.to_string()]), ["2", &row, "C SELECT 1", "Z I"]);
        }
        two.must(&format!("CREATE TABLE other{round} (id int)"));
        one.must("BEGIN");
        one.must("UPDATE users SET n = n WHERE id = 5");
        assert_eq!(execute(&mut one, "mood", &["3"])[1], "D 3|ok");
        one.must("COMMIT");
        two.must(&format!("CREATE INDEX ON users (n, mood) WHERE n > {round}"));
    }
}
