//! What goes to a replica, and what does not.

use crate::ground::Ground;
use crate::raw::Raw;

const WHERE: &str = "SELECT current_setting('port') FROM r WHERE id = 5";

/// Where a statement goes once the replicas have what the session saw when it was last at the primary.
fn place(ground: &Ground, app: &mut Raw, sql: &str) -> &'static str {
    let mut port = app.must(sql).value();
    for _ in 0..20 {
        if ground.is_replica(&port) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        port = app.must(sql).value();
    }
    if ground.is_replica(&port) {
        "replica"
    } else {
        assert!(ground.primaries.iter().any(|primary| primary.port.to_string() == port), "{sql}: {port:?}");
        "primary"
    }
}

#[test]
fn reads_go_where_the_session_wants_them() {
    for shards in [1, 2] {
        let ground = Ground::start(shards, 0, "");
        assert_eq!(place(&ground, &mut ground.app(), WHERE), "primary", "by default");
        let hinted = format!("/* ostrakon: read_from=replica */ {WHERE}");
        assert_eq!(place(&ground, &mut ground.app(), &hinted), "replica");
        let mut reader = ground.reader();
        assert_eq!(place(&ground, &mut reader, WHERE), "replica");
        let hinted = format!("/* ostrakon: read_from=primary */ {WHERE}");
        assert_eq!(place(&ground, &mut reader, &hinted), "primary");
        reader.must("SET ostrakon.read_from = 'any'");
        assert_eq!(place(&ground, &mut ground.reader(), WHERE), "replica");
        reader.must("RESET ostrakon.read_from");
        assert_eq!(place(&ground, &mut reader, WHERE), "primary");
        // Everything at once, in both protocols, on every shard.
        let ports = ground.reader().must("SELECT DISTINCT current_setting('port') FROM r").texts();
        assert!(
            ports.len() == shards && ports.iter().all(|row| ground.is_replica(&row[0])),
            "{shards} shards: {ports:?}, replicas {:?}",
            ground.replicas.iter().map(|r| r.port).collect::<Vec<_>>()
        );
    }
}

#[test]
fn roles_have_defaults_of_their_own() {
    let ground = Ground::start(1, 0, "[replicas]\nread_from = \"replica\"");
    assert_eq!(place(&ground, &mut ground.app(), WHERE), "replica");
    let mut other = Raw::connect(ground.port, "postgres", "app").unwrap();
    assert_eq!(place(&ground, &mut other, WHERE), "primary");
}

#[test]
fn what_may_do_more_than_read_stays_at_the_primary() {
    for shards in [1, 2] {
        let ground = Ground::start(shards, 0, "");
        let mut app = ground.app();
        app.must("CREATE FUNCTION busy() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT current_setting('port') $$");
        app.must("CREATE FUNCTION steady() RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_setting('port') $$");
        drop(app);
        let sql = |rest: &str| format!("SELECT current_setting('port') FROM r WHERE id = 5 {rest}");
        assert_eq!(place(&ground, &mut ground.reader(), &sql("FOR UPDATE")), "primary");
        let mut reader = ground.reader();
        reader.must("BEGIN");
        assert_eq!(place(&ground, &mut reader, &sql("")), "primary", "in a transaction");
        reader.must("COMMIT");
        let mut reader = ground.reader();
        reader.must("CREATE TEMP TABLE mine (id bigint)");
        assert_eq!(place(&ground, &mut reader, &sql("")), "primary", "with a temporary table");
        let written = ground.reader().must("INSERT INTO r VALUES (5000, 1) RETURNING current_setting('port')").value();
        assert!(!ground.is_replica(&written));
        if shards == 1 {
            assert_eq!(place(&ground, &mut ground.reader(), "SELECT busy() FROM r WHERE id = 5"), "primary");
        }
    }
}

#[test]
fn without_replicas_reads_go_to_the_primary() {
    let mut ground = Ground::start(1, 0, "");
    let mut reader = ground.reader();
    assert_eq!(place(&ground, &mut reader, WHERE), "replica");
    let ports: Vec<String> = ground.replicas.iter().map(|replica| replica.port.to_string()).collect();
    let gone = ground.replicas.remove(0);
    drop(gone);
    // The other one serves on.
    let mut reader = ground.reader();
    for _ in 0..50 {
        let port = reader.must(WHERE).value();
        assert_ne!(port, ports[0]);
    }
    assert_eq!(place(&ground, &mut ground.reader(), WHERE), "replica");
    ground.replicas.clear();
    let mut reader = ground.reader();
    for _ in 0..50 {
        assert!(!ports.contains(&reader.must(WHERE).value()));
    }
}
