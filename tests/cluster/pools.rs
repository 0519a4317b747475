//! Pools and limits as clients and operators see them.

use std::fs;

use crate::cluster::Cluster;
use crate::raw::Raw;

/// A cluster of one shard with more configuration: after `[proxy]`, and at the end.
fn cluster(proxy: &str, rest: &str) -> Cluster {
    let mut cluster = Cluster::without_proxy(1, &[]);
    let config = fs::read_to_string(cluster.config()).unwrap();
    let config = config.replace("[proxy]\n", &format!("[proxy]\n{proxy}\n"));
    fs::write(cluster.config(), format!("{config}\n{rest}\n")).unwrap();
    cluster.start_proxy();
    cluster
}

fn ask(session: &mut Raw, sql: &str) -> Vec<String> {
    let reply = session.simple(sql).unwrap();
    assert!(reply.fault().is_none(), "{sql}: {:?}", reply.fault());
    let rows = reply.answers.iter().flat_map(|answer| &answer.rows);
    rows.map(|row| String::from_utf8_lossy(row[0].as_deref().unwrap_or_default()).into_owned()).collect()
}

fn view(cluster: &Cluster, view: &str) -> Vec<serde_json::Value> {
    let mut admin = Raw::connect(cluster.port, "postgres", "ostrakon").unwrap();
    serde_json::from_str(&ask(&mut admin, &format!("SHOW {view} FORMAT JSON")).concat()).unwrap()
}

/// What a session in session mode leaves on its connection is gone before the next one has it.
#[test]
fn a_session_that_ends_leaves_nothing_on_its_connection() {
    let cluster = cluster("", "[pool]\nmode = \"session\"\nsize = 1");
    let mut first = cluster.app();
    let server = ask(&mut first, "SELECT pg_backend_pid()");
    for sql in [
        "CREATE TEMP TABLE mine AS SELECT 42 AS secret",
        "SET search_path TO pg_temp, public",
        "SELECT pg_advisory_lock(1)",
        "PREPARE p AS SELECT 1",
        "LISTEN news",
    ] {
        ask(&mut first, sql);
    }
    drop(first);
    let mut second = cluster.app();
    assert_ne!(ask(&mut second, "SELECT pg_backend_pid()"), server, "a connection of its own");
    let left = "SELECT coalesce(to_regclass('mine')::text, 'nothing') UNION ALL SELECT 'lock' FROM pg_locks \
                WHERE locktype = 'advisory' UNION ALL SELECT name FROM pg_prepared_statements \
                UNION ALL SELECT pg_listening_channels()";
    assert_eq!(ask(&mut second, left), ["nothing"]);
    assert_eq!(ask(&mut second, "SHOW search_path"), ["\"$user\", public"]);
    let pools = view(&cluster, "POOLS");
    let pool = pools.iter().find(|pool| pool["user"] == "app").unwrap();
    assert_eq!((pool["mode"].as_str(), pool["size"].as_u64()), (Some("session"), Some(1)));
}

#[test]
fn other_databases_are_served_where_that_is_said() {
    let refused = Raw::connect(cluster("", "").port, "app", "postgres").map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("3D000") && refused.contains("database \"postgres\" does not exist"), "{refused}");
    let cluster = cluster("other_databases = true", "");
    for database in ["postgres", "app"] {
        let mut session = Raw::connect(cluster.port, "app", database).unwrap();
        assert_eq!(ask(&mut session, "SELECT current_database()"), [database]);
    }
    let unknown = Raw::connect(cluster.port, "app", "nosuch").map(|_| ()).unwrap_err().to_string();
    assert!(unknown.contains("3D000"), "{unknown}");
}

#[test]
fn clients_over_a_limit_are_told_so_in_postgresqls_words() {
    let config = "[[users]]\nname = \"few\"\nclients_max = 1";
    let cluster = cluster("clients_max = 3\nclients_reserved = 1", config);
    ask(&mut cluster.shards[0].superuser(), "CREATE ROLE few LOGIN");
    let refusal = |user: &str, database: &str| match Raw::connect(cluster.port, user, database) {
        Ok(_) => panic!("{user} is let in"),
        Err(error) => error.to_string(),
    };
    let few = Raw::connect(cluster.port, "few", "app").unwrap();
    let told = refusal("few", "app");
    assert!(told.contains("53300") && told.contains("too many connections for role \"few\""), "{told}");
    let _others = (cluster.app(), cluster.app());
    let told = refusal("app", "app");
    assert!(told.contains("53300") && told.contains("sorry, too many clients already"), "{told}");
    // The admin database has a place behind the others, and one only.
    let mut admin = Raw::connect(cluster.port, "postgres", "ostrakon").unwrap();
    assert_eq!(ask(&mut admin, "SHOW CLIENTS").len(), 4);
    assert!(refusal("postgres", "ostrakon").contains("53300"));
    drop((few, admin));
    let mut left = 0;
    while Raw::connect(cluster.port, "few", "app").is_err() {
        left += 1;
        assert!(left < 500, "the place of a client that left is free");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Who holds which connection, from both sides.
#[test]
fn views_show_clients_and_the_connections_they_hold() {
    let cluster = cluster("", "[pool]\nsize = 5\nsize_min = 2");
    let mut busy = cluster.app();
    let told: u64 = ask(&mut busy, "BEGIN; SELECT pg_backend_pid()").concat().parse().unwrap();
    let _idle = cluster.app();
    let clients = view(&cluster, "CLIENTS");
    let of_app: Vec<&serde_json::Value> = clients.iter().filter(|client| client["database"] == "app").collect();
    assert_eq!(of_app.len(), 2, "{clients:?}");
    let holder = of_app.iter().find(|client| client["state"] == "active").unwrap_or_else(|| panic!("{clients:?}"));
    assert!(of_app.iter().any(|client| client["state"] == "idle"), "{clients:?}");
    assert_eq!((holder["user"].as_str(), holder["mode"].as_str()), (Some("app"), Some("transaction")));
    assert!(holder["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    let servers = view(&cluster, "SERVERS");
    assert_eq!(holder["pid"].as_u64(), Some(told));
    let held = servers.iter().find(|held| held["client"] == holder["pid"]).unwrap_or_else(|| panic!("{servers:?}"));
    assert_eq!(held["state"].as_str(), Some("used"), "{held}");
    let seen = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {}", held["pid"]);
    assert_eq!(ask(&mut cluster.shards[0].superuser(), &seen), ["1"]);
    // Two are kept ready beside the one in use.
    let is_ready = || {
        let pools = view(&cluster, "POOLS");
        let pool = pools.iter().find(|pool| pool["user"] == "app").unwrap().clone();
        pool["idle"] == 2 && pool["used"] == 1 && pool["opened_total"].as_u64() >= Some(3)
    };
    assert!(crate::cluster::eventually(std::time::Duration::from_secs(10), is_ready), "{:?}", view(&cluster, "POOLS"));
    // RECONNECT: connections in use are replaced when they come back.
    let mut admin = Raw::connect(cluster.port, "postgres", "ostrakon").unwrap();
    ask(&mut admin, "RECONNECT");
    assert!(view(&cluster, "SERVERS").iter().any(|server| server["pid"] == held["pid"]));
    ask(&mut busy, "COMMIT");
    assert!(view(&cluster, "SERVERS").iter().all(|server| server["pid"] != held["pid"]));
    assert_eq!(ask(&mut busy, "SELECT 1"), ["1"]);
}
