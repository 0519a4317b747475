//! Rows go where they are told to, or where there is room: pinned keys, rebalancing, declarations, shards that leave.

use ostrakon::base::BucketId;
use ostrakon::topology::{KeyValue, hash};
use serde_json::Value;

use super::failover;
use super::ground::Ground;
use super::history::{Writers, compare};
use crate::raw::{Parameter, Raw};

impl Ground {
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[arguments, &["--output", "json"]].concat())).unwrap()
    }

    /// A plain PostgreSQL database with the same tables, which is asked the same.
    fn oracle(&self) -> Raw {
        let port = self.port("s1a");
        Raw::connect(port, "postgres", "postgres").unwrap().must("CREATE DATABASE oracle");
        let mut oracle = Raw::connect(port, "postgres", "oracle").unwrap();
        oracle.must(TABLES);
        oracle
    }
}

const TABLES: &str = "CREATE TABLE tenants (id bigint PRIMARY KEY, name text); \
    CREATE TABLE items (tenant int, id int, note text, PRIMARY KEY (tenant, id))";

/// Two keys of one hash slot.
fn neighbours() -> (i64, i64) {
    let slot = |key: i64| hash::bucket(&[KeyValue::Int(key)]);
    let big = 77;
    (big, (78..).find(|key| slot(*key) == slot(big)).unwrap())
}

/// What both are asked, and have to answer alike.
fn questions(big: i64, other: i64) -> Vec<String> {
    let some = (1_000_000..1_000_020).map(|key| key.to_string()).collect::<Vec<_>>().join(", ");
    vec![
        format!("INSERT INTO tenants VALUES ({big}, 'big'), ({other}, 'other')"),
        format!(
            "INSERT INTO items SELECT k, i, 'x' || i FROM unnest(ARRAY[{big}, {other}]) k, generate_series(1, 300) i"
        ),
        format!("INSERT INTO items VALUES ({big}, 1001, 'a'), ({other}, 1001, 'b'), ({big}, 1002, 'c'), (5, 1, 'd')"),
        format!("SELECT * FROM tenants WHERE id = {big}"),
        format!("SELECT * FROM tenants WHERE id IN ({big}, {other}, {some}) ORDER BY id"),
        format!("SELECT * FROM tenants WHERE id = ANY ('{{{big},{other}}}') ORDER BY id"),
        format!(
            "SELECT t.name, i.note FROM tenants t JOIN items i ON i.tenant = t.id WHERE t.id = {big} ORDER BY 2 LIMIT 7"
        ),
        "SELECT t.id, count(*), min(i.note) FROM tenants t JOIN items i ON i.tenant = t.id GROUP BY 1 ORDER BY 1"
            .to_owned(),
        format!("UPDATE items SET note = 'changed' WHERE tenant = {big} AND id % 2 = 0"),
        format!("UPDATE items SET note = 'both' WHERE tenant IN ({big}, {other}) AND id = 7"),
        format!("DELETE FROM items WHERE tenant = {big} AND id > 250 RETURNING id"),
        format!("SELECT count(*) FROM items WHERE tenant = {big} AND note = 'changed'"),
        format!("INSERT INTO items VALUES ({big}, 1, 'z') ON CONFLICT (tenant, id) DO UPDATE SET note = 'upserted'"),
        format!(
            "WITH gone AS (DELETE FROM items WHERE tenant = {other} AND id < 5 RETURNING *) SELECT count(*) FROM gone"
        ),
        format!("SELECT (SELECT name FROM tenants WHERE id = {other}), count(*) FROM items WHERE tenant = {big}"),
        "SELECT count(*), sum(id), md5(string_agg(note, ',' ORDER BY tenant, id)) FROM items".to_owned(),
        format!("SELECT tenant, id, note FROM items WHERE tenant <> {big} ORDER BY 1, 2 LIMIT 20"),
    ]
}

fn ask_both(app: &mut Raw, oracle: &mut Raw, questions: &[String]) {
    for sql in questions {
        let (here, there) = (app.must(sql), oracle.must(sql));
        let sorted = |mut rows: Vec<Vec<String>>| {
            rows.sort();
            rows
        };
        assert_eq!(sorted(here.texts()), sorted(there.texts()), "{sql}");
    }
    for (id, key) in [(1, neighbours().0), (2, neighbours().1)] {
        let rows = format!("{key}\t{}\tcopied\n{}\t{}\tcopied\n", 5_000 + id, key + 1, 5_000 + id);
        let sql = "COPY items FROM STDIN";
        app.must_copy(sql, rows.as_bytes());
        oracle.must_copy(sql, rows.as_bytes());
        for sql in [
            "INSERT INTO items VALUES ($1, 9000, 'prepared')",
            "SELECT count(*), min(note) FROM items WHERE tenant = $1",
        ] {
            let key = key.to_string();
            let parameter = [Parameter { type_oid: 20, value: Some(key.into_bytes()) }];
            let answer = |raw: &mut Raw| raw.extended(sql, &parameter, None).unwrap().texts();
            assert_eq!(answer(app), answer(oracle), "{sql}");
        }
        let sql = format!("DELETE FROM items WHERE id = 9000 AND tenant = {key}");
        app.must(&sql);
        oracle.must(&sql);
    }
}

/// A pinned key is on its shard, its neighbour in the same hash slot where it was, and every statement answers as one
/// PostgreSQL does: before, while it moves, after, with buckets moving around it, and when it is unpinned.
#[test]
fn a_pinned_key_lives_where_it_is_told_to() {
    let ground = Ground::new(400);
    let mut app = ground.up.app();
    app.must(TABLES);
    ground.run(&["table", "shard", "tenants", "--key", "id"]);
    ground.run(&["table", "shard", "items", "--key", "tenant"]);
    let mut oracle = ground.oracle();
    ground.run(&["shard", "add", "--replicas", "0"]);
    ground.run(&["shard", "add", "--replicas", "0"]);
    let (big, other) = neighbours();
    let (big, other) = (big.to_string(), other.to_string());
    let asked = questions(neighbours().0, neighbours().1);
    ask_both(&mut app, &mut oracle, &asked);
    let clear = "DELETE FROM items";
    let again = |app: &mut Raw, oracle: &mut Raw| {
        for raw in [&mut *app, &mut *oracle] {
            raw.must(clear);
            raw.must("DELETE FROM tenants");
        }
        ask_both(app, oracle, &asked);
    };
    let on = |node: &str, key: &str| {
        let mut server = ground.server(node);
        server.must(&format!("SELECT count(*) FROM items WHERE tenant = {key}")).value().parse::<u64>().unwrap()
    };
    // Values of several types are several keys; one that is none is named.
    assert!(ground.fails(&["pin", "x", "--to", "s2"]).contains("no sharding key has the value (x)"));
    assert!(ground.fails(&["pin", "7", "--to", "s9"]).contains("\"s9\" does not exist"));
    assert!(ground.fails(&["pin", "1", "2", "3", "--to", "s2"]).contains("keys have 1 or 2 columns, not 3"));
    assert!(ground.fails(&["unpin", &big]).contains("not pinned"));
    let planned = ground.json(&["pin", &big, "--to", "s2", "--dry-run"]);
    assert_eq!((planned[0]["from"].as_str(), planned[0]["to"].as_str()), (Some("s1"), Some("s2")));
    assert_eq!(planned[0]["rows"].as_u64(), Some(on("s1a", &big) + 1));
    assert_eq!(ground.json(&["pin"]), serde_json::json!([]));
    let writers = Writers::start(&ground, 3);
    ground.run(&["pin", &big, "--to", "s2", "--yes", "--wait"]);
    assert_eq!((on("s1a", &big), on("s2a", &big) > 0, on("s1a", &other) > 0, on("s2a", &other)), (0, true, true, 0));
    let listed = ground.run(&["pin"]);
    assert!(listed.contains(&big) && listed.contains("s2"), "{listed}");
    assert_eq!(ground.json(&["shard", "list"])[1]["pins"], 1);
    again(&mut app, &mut oracle);
    // The buckets around it move, its own hash slot too; it stays.
    ground.reshard(&["start", "--yes", "--wait"]);
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
    ground.run(&["reshard", "verify"]);
    assert_eq!(on("s1a", &big) + on("s3a", &big), 0);
    again(&mut app, &mut oracle);
    // And to another shard; then the shard is emptied, and it goes where its hash puts it.
    ground.run(&["pin", &big, "--to", "s3", "--yes", "--wait"]);
    assert_eq!((on("s3a", &big) > 0, on("s1a", &big) + on("s2a", &big)), (true, 0));
    let document = ground.json(&["pin"]);
    let slot = hash::bucket(&[KeyValue::Int(neighbours().0)]);
    assert_eq!(
        (&document[0]["hash_slot"], &document[0]["bucket"]),
        (&Value::from(slot.0), &Value::from(BucketId(16_384).0))
    );
    ground.run(&["pin", "tenant 1", "1", "--to", "s2", "--table", "ballast", "--yes", "--wait"]);
    let ballast = |node: &str| {
        let mut server = ground.server(node);
        server.must("SELECT count(*) FROM ballast WHERE (tenant, id) = ('tenant 1', 1)").value()
    };
    assert_eq!(ballast("s2a"), "1");
    ground.run(&["unpin", &big, "--yes", "--wait"]);
    ground.run(&["unpin", "tenant 1", "1", "--table", "ballast", "--yes", "--wait"]);
    assert_eq!(ground.json(&["pin"]), serde_json::json!([]));
    ground.run(&["reshard", "verify"]);
    again(&mut app, &mut oracle);
    let histories = writers.stop();
    println!("{}", compare(&ground, &histories));
    assert_eq!(ground.leftovers(), Vec::<String>::new());
}

/// The proxy is killed while a key is on its way, and a job is cancelled before it gets there.
#[test]
fn a_key_on_its_way_survives_a_kill_and_a_cancel() {
    let ground = Ground::new(4_000);
    let mut app = ground.up.app();
    app.must("INSERT INTO accounts VALUES (77, 1, 1)");
    app.must("INSERT INTO events SELECT 77, i, 'big' FROM generate_series(1, 3000) i");
    ground.run(&["shard", "add", "--replicas", "0"]);
    let before = ground.checksum();
    ground.run(&["pin", "77", "--to", "s2", "--table", "accounts", "--yes"]);
    ground.kill_proxy();
    ground.start_proxy();
    ground.wait_for("none");
    let on = |node: &str| ground.server(node).must("SELECT count(*) FROM events WHERE account = 77").value();
    assert_eq!((on("s1a"), on("s2a")), ("0".to_owned(), "3000".to_owned()));
    assert_eq!(ground.checksum(), before);
    ground.run(&["reshard", "verify"]);
    // A transaction holds its indexes up, so that it can be cancelled before its step.
    let mut holder = ground.up.app();
    holder.must("BEGIN");
    holder.must("UPDATE events SET note = 'held' WHERE account = 77 AND id = 1");
    ground.run(&["unpin", "77", "--table", "accounts", "--yes"]);
    assert!(ground.run(&["pin"]).contains("a job has it"));
    ground.run(&["reshard", "cancel", "--yes"]);
    holder.must("ROLLBACK");
    ground.wait_for("none");
    let pinned = ground.json(&["pin"]);
    assert_eq!((pinned[0]["shard"].as_str(), pinned[0]["settled"].as_bool()), (Some("s2"), Some(true)));
    assert_eq!(ground.checksum(), before);
    assert!(ground.fails(&["shard", "remove", "s2", "--dry-run"]).contains("key 77 is pinned to shard s2"));
    assert_eq!(ground.leftovers(), Vec::<String>::new());
}

/// A key with more rows than fit into the usual step moves when writes to it may wait for longer.
#[test]
fn a_big_key_moves_when_writes_to_it_may_wait() {
    let ground = Ground::new(400);
    let mut app = ground.up.app();
    app.must("INSERT INTO accounts VALUES (77, 1, 1)");
    app.must("INSERT INTO events SELECT 77, i, 'of a big one' FROM generate_series(1, 400000) i");
    ground.run(&["shard", "add", "--replicas", "0"]);
    ground.run(&["pin", "77", "--to", "s2", "--yes"]);
    let trouble = ground.wait_for_trouble();
    assert!(trouble.contains("1 buckets from 16384 took too long"), "{trouble}");
    ground.run(&["reshard", "cancel", "--yes", "--wait"]);
    assert_eq!(ground.json(&["pin"]), serde_json::json!([]));
    ground.run(&["pin", "77", "--to", "s2", "--hold-max", "40", "--yes", "--wait"]);
    assert_eq!(ground.server("s2a").must("SELECT count(*) FROM events WHERE account = 77").value(), "400000");
    assert_eq!(app.must("SELECT count(*) FROM events WHERE account = 77").value(), "400000");
    ground.run(&["reshard", "verify"]);
    assert_eq!(ground.leftovers(), Vec::<String>::new());
}

/// A few keys hold most rows: buckets around them leave until the shards weigh alike, and then nothing is gained.
#[test]
fn shards_are_balanced_by_what_is_measured() {
    let ground = Ground::new(400);
    ground.run(&["shard", "add", "--replicas", "0"]);
    ground.reshard(&["start", "--yes", "--wait"]);
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
    let mut app = ground.up.app();
    // Twelve big keys, all of them on the first shard.
    let mut big = Vec::new();
    for key in 1_000_000..1_000_400 {
        app.must(&format!("INSERT INTO accounts VALUES ({key}, 1, 1)"));
        if big.len() < 12
            && ground.server("s1a").must(&format!("SELECT count(*) FROM accounts WHERE id = {key}")).value() == "1"
        {
            big.push(key.to_string());
        }
    }
    app.must(&format!(
        "INSERT INTO events SELECT k, i, 'of a big one ' || i FROM unnest('{{{}}}'::bigint[]) k, generate_series(1, 1500) i",
        big.join(",")
    ));
    let before = ground.checksum();
    let planned = ground.json(&["rebalance", "--dry-run"]);
    println!("{planned}");
    assert_eq!(ground.job()["phase"], "none");
    let done = ground.run(&["rebalance", "--yes", "--wait"]);
    println!("{done}");
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
    ground.run(&["reshard", "verify"]);
    assert_eq!(ground.checksum(), before);
    let rows = |node: &str| ground.server(node).must("SELECT count(*) FROM events").value().parse::<f64>().unwrap();
    let share = rows("s1a") / (rows("s1a") + rows("s2a"));
    assert!((0.35..=0.65).contains(&share), "{share}");
    assert!(ground.fails(&["rebalance", "--yes"]).contains("nothing is gained"));
    assert_eq!(ground.leftovers(), Vec::<String>::new());
}

/// What would go wrong later is refused when a table is declared, and named.
#[test]
fn a_declaration_names_what_stands_against_it() {
    let ground = Ground::new(100);
    let mut app = ground.up.app();
    app.must(
        "CREATE TABLE a (id int PRIMARY KEY, mail text UNIQUE, tenant int, at json); \
         CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a, tenant int NOT NULL); \
         CREATE TABLE c (tenant bigint, id int, PRIMARY KEY (tenant, id)); \
         CREATE TABLE d (tenant int, c int, FOREIGN KEY (tenant, c) REFERENCES c); \
         INSERT INTO a VALUES (1, 'x', NULL, '{}')",
    );
    for (table, key, words) in [
        ("a", "nothing", "column \"nothing\" of table \"a\" does not exist"),
        ("a", "at", "has a type that cannot be a sharding key"),
        ("a", "id", "unique index \"a_mail_key\" of sharded table \"a\" does not contain the sharding key"),
        ("b", "tenant", "unique index \"b_pkey\" of sharded table \"b\" does not contain the sharding key"),
    ] {
        for how in ["--dry-run", "--yes"] {
            let said = ground.fails(&["table", "shard", table, "--key", key, how]);
            assert!(said.contains(words), "{table} {key}: {said}");
        }
    }
    app.must("ALTER TABLE a DROP CONSTRAINT a_mail_key");
    ground.run(&["table", "shard", "b", "--key", "id"]);
    let said = ground.fails(&["table", "shard", "a", "--key", "id", "--dry-run"]);
    assert!(said.contains("foreign key \"b_a_fkey\" of table \"b\" refers to rows of other shards"), "{said}");
    // Keys that hash otherwise are not colocated.
    ground.run(&["table", "shard", "c", "--key", "tenant"]);
    let said = ground.fails(&["table", "shard", "d", "--key", "tenant", "--dry-run"]);
    assert!(said.contains("foreign key \"d_tenant_c_fkey\""), "{said}");
    app.must("ALTER TABLE b DROP CONSTRAINT b_a_fkey; ALTER TABLE a DROP CONSTRAINT a_pkey");
    let said = ground.fails(&["table", "shard", "a", "--key", "tenant"]);
    assert!(said.contains("its key column \"tenant\" is NULL"), "{said}");
    app.must("UPDATE a SET tenant = 1");
    ground.run(&["table", "shard", "a", "--key", "tenant", "--dry-run"]);
    let tables = ground.json(&["table", "list"]);
    let declared =
        |name: &str| tables.as_array().unwrap().iter().any(|table| table["name"] == name && table["declared"] == true);
    assert_eq!((declared("a"), declared("b")), (false, true));
    // What one shard alone kept is looked at when a second one comes.
    let said = ground.fails(&["shard", "add", "--replicas", "0"]);
    assert!(said.contains("foreign key") || said.contains("unique index"), "{said}");
}

/// A shard whose replica may lead it leaves like any other; nobody looks after it afterwards.
#[test]
fn a_shard_that_is_led_leaves() {
    let ground = failover::two_led_shards();
    let writers = Writers::start_patient(&ground, 2);
    ground.reshard(&["start", "--empty", "s2", "--yes", "--wait"]);
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
    ground.run(&["shard", "remove", "s2", "--dry-run"]);
    println!("{}", ground.run(&["shard", "remove", "s2", "--yes"]).trim());
    assert!(!ground.run(&["shard", "list"]).contains("s2"));
    let histories = writers.stop();
    println!("{}", compare(&ground, &histories));
    // Its servers stay stopped, and the next shard is another one.
    ground.run(&["shard", "add", "--replicas", "0"]);
    assert_eq!(ground.json(&["shard", "list"])[1]["id"], 3);
    ground.reshard(&["start", "--yes", "--wait"]);
    ground.run(&["reshard", "verify"]);
    ground.run(&["reshard", "finish", "--yes", "--wait"]);
    // And after a start of the proxy.
    ground.kill_proxy();
    ground.start_proxy();
    ground.run(&["reshard", "verify"]);
}
