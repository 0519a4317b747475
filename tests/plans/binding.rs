//! From a plan and values to shards.

use std::collections::HashMap;

use ostrakon::base::{BucketId, ShardId};
use ostrakon::error::ErrorId;
use ostrakon::plan::Filled;
use ostrakon::planner::{self, BindError, Bound, BoundShards, Context, ParamValue, Values};
use ostrakon::reshard::{Buckets, Touch};
use ostrakon::sql::{self, Lexed, Literal};
use ostrakon::topology::hash::bucket;
use ostrakon::topology::{KeyType, KeyValue, Pin, Topology};
use ostrakon::wire::Format;

use super::demo;

struct Given<'g> {
    lexed: &'g Lexed,
    params: HashMap<u32, (u32, Format, Option<Vec<u8>>)>,
}

impl Values for Given<'_> {
    fn literal(&self, index: usize) -> Option<&Literal> {
        self.lexed.literals.get(index)
    }

    fn param(&self, number: u32) -> Option<ParamValue<'_>> {
        let (type_oid, format, bytes) = self.params.get(&number)?;
        Some(ParamValue { type_oid: *type_oid, format: *format, bytes: bytes.as_deref() })
    }

    fn fill(&self, _fill: usize, row: usize) -> Option<Filled> {
        Some(Filled::Id(100 + row as i64))
    }
}

fn bind(text: &str, params: &[(u32, Format, Option<&[u8]>)]) -> (Topology, Result<Bound, BindError>) {
    bind_under(demo::topology(4, demo::schema().1), text, params)
}

fn bind_under(
    topology: Topology,
    text: &str,
    params: &[(u32, Format, Option<&[u8]>)],
) -> (Topology, Result<Bound, BindError>) {
    let (schema, _) = demo::schema();
    let search_path = ["public".to_owned()];
    let context = Context { topology: &topology, schema: &schema, search_path: &search_path, text };
    let lexed = sql::lex(text).unwrap();
    let statement = sql::parse(text, &lexed).unwrap();
    let plan = planner::plan(&context, &lexed, &statement).unwrap();
    let params = params
        .iter()
        .enumerate()
        .map(|(index, (oid, format, bytes))| (index as u32 + 1, (*oid, *format, bytes.map(<[u8]>::to_vec))))
        .collect();
    let bound = planner::bind(&plan, &topology, &Given { lexed: &lexed, params });
    (topology, bound)
}

/// What an execution may touch, with parameter 1.
fn touch(text: &str, param: i64, writes_by_itself: bool) -> Touch {
    touch_under(&demo::topology(4, demo::schema().1), text, param, writes_by_itself)
}

fn touch_under(topology: &Topology, text: &str, param: i64, writes_by_itself: bool) -> Touch {
    let (schema, _) = demo::schema();
    let search_path = ["public".to_owned()];
    let context = Context { topology, schema: &schema, search_path: &search_path, text };
    let lexed = sql::lex(text).unwrap();
    let statement = sql::parse(text, &lexed).unwrap();
    let plan = planner::plan(&context, &lexed, &statement).unwrap();
    let params = HashMap::from([(1, (20, Format::Text, Some(param.to_string().into_bytes())))]);
    planner::touch(&plan, topology, &schema, writes_by_itself, &statement, &Given { lexed: &lexed, params })
}

#[test]
fn what_a_statement_may_touch_is_told_by_its_keys() {
    let of = |keys: &[i64]| Buckets::of(keys.iter().map(|key| bucket(&[KeyValue::Int(*key)])).collect());
    for (text, expected) in [
        ("SELECT * FROM users WHERE id = 5", Touch::reads(of(&[5]))),
        ("SELECT * FROM users WHERE id = $1", Touch::reads(of(&[9]))),
        ("SELECT * FROM users WHERE id IN (5, $1)", Touch::reads(of(&[5, 9]))),
        ("SELECT count(*) FROM users", Touch::reads(Buckets::All)),
        ("SELECT * FROM users WHERE id = 5 FOR UPDATE", Touch::writes(of(&[5]))),
        ("UPDATE pgbench_accounts SET abalance = 1 WHERE aid = $1", Touch::writes(of(&[9]))),
        ("UPDATE pgbench_accounts SET abalance = 1", Touch::writes(Buckets::All)),
        ("DELETE FROM pgbench_accounts WHERE aid IN (1, 2)", Touch::writes(of(&[1, 2]))),
        ("INSERT INTO pgbench_accounts VALUES (1, 1, 1, ''), ($1, 1, 1, '')", Touch::writes(of(&[1, 9]))),
        ("SELECT 1", Touch::NOTHING),
    ] {
        assert_eq!(touch(text, 9, false), expected, "{text}");
        // With triggers a write may write anything; a read does not fire them.
        let writes = expected.writes != Buckets::None && !text.contains("FOR UPDATE");
        assert_eq!(touch(text, 9, true), if writes { Touch::EVERYTHING } else { expected }, "{text}");
    }
}

fn owner(topology: &Topology, key: i64) -> ShardId {
    topology.shard_of_key(&[KeyValue::Int(key)])
}

fn many() -> BoundShards {
    BoundShards::Many((1..=4).map(ShardId).collect())
}

/// Key 9, apart from the other keys of its hash slot.
fn with_nine_pinned(to: ShardId) -> Topology {
    let topology = demo::topology(4, demo::schema().1).with_pin(Pin::new(&[KeyValue::Int(9)], vec!["9".to_owned()]));
    let buckets = topology.buckets.with_owner(BucketId(16_384), to);
    Topology { buckets, ..topology }
}

#[test]
fn a_pinned_key_goes_to_its_own_shard_and_no_other_does() {
    let usual = demo::topology(4, demo::schema().1);
    let slot = bucket(&[KeyValue::Int(9)]);
    let neighbour = (10..).find(|key| bucket(&[KeyValue::Int(*key)]) == slot).unwrap();
    let here = owner(&usual, 9);
    let there = (1..=4).map(ShardId).find(|shard| *shard != here).unwrap();
    let bound = |text: &str, key: i64| {
        let text = text.replace("$key", &key.to_string());
        bind_under(with_nine_pinned(there), &text, &[]).1.unwrap()
    };
    for text in ["SELECT * FROM users WHERE id = $key", "DELETE FROM users WHERE id IN ($key)"] {
        assert_eq!(bound(text, 9).shards, BoundShards::One(there), "{text}");
        assert_eq!(bound(text, neighbour).shards, BoundShards::One(here), "{text}");
    }
    let mut both = vec![here, there];
    both.sort_unstable();
    let text = format!("SELECT * FROM users WHERE id IN ($key, {neighbour})");
    assert_eq!(bound(&text, 9).shards, BoundShards::Many(both));
    // What moves its bucket does not hold up its neighbour, nor the other way round.
    let text = "SELECT * FROM users WHERE id = $1";
    let reads = |key| touch_under(&with_nine_pinned(there), text, key, false).reads;
    assert_eq!((reads(9), reads(neighbour)), (Buckets::of(vec![BucketId(16_384)]), Buckets::of(vec![slot])));
}

#[test]
fn a_literal_key_has_one_owner() {
    let (topology, bound) = bind("SELECT * FROM users WHERE id = 5--comment\n+ 1", &[]);
    // The key is an expression: nothing is known.
    assert_eq!(bound.unwrap().shards, many());
    let (_, bound) = bind("SELECT * FROM users WHERE id = 5--comment\n", &[]);
    assert_eq!(bound.unwrap().shards, BoundShards::One(owner(&topology, 5)));
    let (_, bound) = bind("SELECT * FROM users WHERE id = -7", &[]);
    assert_eq!(bound.unwrap().shards, BoundShards::One(owner(&topology, -7)));
    let (_, bound) = bind("SELECT * FROM users WHERE id = '5'", &[]);
    assert_eq!(bound.unwrap().shards, BoundShards::One(owner(&topology, 5)));
    let (_, bound) = bind("SELECT * FROM users WHERE id = 5.0", &[]);
    assert_eq!(bound.unwrap().shards, BoundShards::One(owner(&topology, 5)));
    let (_, bound) = bind("SELECT * FROM users WHERE id = 5.5", &[]);
    assert_eq!(bound.unwrap().shards, many());
}

#[test]
fn parameters_are_read_by_their_own_type() {
    let text = "SELECT * FROM pgbench_accounts WHERE aid = $1";
    let topology = bind(text, &[(0, Format::Text, Some(b"9"))]).0;
    let nine = BoundShards::One(owner(&topology, 9));
    for param in [
        (0, Format::Text, Some(&b"9"[..])),
        (20, Format::Text, Some(b"9")),
        (23, Format::Binary, Some(&[0, 0, 0, 9])),
        (20, Format::Binary, Some(&[0, 0, 0, 0, 0, 0, 0, 9])),
    ] {
        assert_eq!(bind(text, &[param]).1.unwrap().shards, nine, "{param:?}");
    }
    assert_eq!(bind(text, &[(1700, Format::Text, Some(b"9.0"))]).1.unwrap().shards, many());
    assert_eq!(bind(text, &[(0, Format::Text, None)]).1.unwrap().shards, BoundShards::Any);
}

#[test]
fn in_lists_prune_to_the_owners() {
    let (topology, bound) = bind("SELECT * FROM users WHERE id IN (1, 2, NULL, 3, 4)", &[]);
    let mut owners: Vec<ShardId> = (1..=4).map(|key| owner(&topology, key)).collect();
    owners.sort_unstable();
    owners.dedup();
    assert_eq!(bound.unwrap().shards, BoundShards::Many(owners));
}

#[test]
fn rows_go_by_their_keys() {
    let (topology, bound) = bind(
        "INSERT INTO orders (user_id, status) VALUES (1, 'a'), (-2, 'b'), ($1, 'c')",
        &[(20, Format::Text, Some(b"3"))],
    );
    assert_eq!(bound.unwrap().rows, [owner(&topology, 1), owner(&topology, -2), owner(&topology, 3)]);
    let (_, bound) = bind("INSERT INTO users (email) VALUES ('a'), ('b')", &[]);
    assert_eq!(bound.unwrap().rows, [owner(&topology, 100), owner(&topology, 101)]);
}

#[test]
fn a_null_key_is_missing_and_an_odd_one_is_for_a_server_to_read() {
    match bind("INSERT INTO pgbench_history (aid) VALUES ($1)", &[(0, Format::Text, None)]).1 {
        Err(BindError::Refused(error)) => assert_eq!(error.id, ErrorId::ShardingKeyMissing),
        other => panic!("{other:?}"),
    }
    let text = "INSERT INTO orders (user_id) VALUES ($1)";
    // NOT NULL: any shard refuses the row in PostgreSQL's own words.
    assert_eq!(bind(text, &[(0, Format::Text, None)]).1.unwrap().shards, BoundShards::One(ShardId(1)));
    match bind(text, &[(0, Format::Text, Some(b"0x10"))]).1 {
        Err(BindError::Unreadable(slots)) => {
            assert_eq!(slots.len(), 1);
            assert_eq!((slots[0].key_type, slots[0].row), (KeyType::Int8, Some(0)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn different_keys_in_one_statement_are_fine_on_one_shard_only() {
    let text = "SELECT * FROM users u, orders o WHERE u.id = $1 AND o.user_id = $2 AND u.email = o.status";
    let topology = bind(text, &[(0, Format::Text, Some(b"1")), (0, Format::Text, Some(b"1"))]).0;
    let other = (2..).find(|key| owner(&topology, *key) != owner(&topology, 1)).unwrap().to_string();
    let same = bind(text, &[(0, Format::Text, Some(b"1")), (0, Format::Text, Some(b"1"))]).1;
    assert_eq!(same.unwrap().shards, BoundShards::One(owner(&topology, 1)));
    let apart = [(0, Format::Text, Some(b"1".as_slice())), (0, Format::Text, Some(other.as_bytes()))];
    let gathered = bind(text, &apart).1.unwrap().shards;
    assert!(matches!(gathered, BoundShards::Many(shards) if shards.len() == 2));
    match bind(&format!("{text} FOR UPDATE"), &apart).1 {
        Err(BindError::Refused(error)) => assert_eq!(error.sqlstate(), "0A000"),
        other => panic!("{other:?}"),
    }
}
