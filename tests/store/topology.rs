//! The topology as a record.

use ostrakon::base::{Epoch, NodeId, ShardId, Term};
use ostrakon::store::{
    EmbeddedStore, StoreError, TOPOLOGY_KEY, decode_topology, encode_topology, load_topology, save_topology,
};
use ostrakon::topology::{
    BucketMap, KeyValue, Node, Pin, Pins, Placement, Role, Shard, TableName, TableRules, Topology, ring,
};

use crate::every_kind;

/// Two shards with everything that a topology can hold.
pub fn sample(epoch: u64) -> Topology {
    let shard = |id: u32| Shard { id: ShardId(id), name: format!("s{id}"), term: Term(1), weight: 100 * id };
    let node = |id: u32, shard: u32, role| Node {
        id: NodeId(id),
        name: format!("n{id}"),
        host: "127.0.0.1".into(),
        port: 5_000 + id as u16,
        zone: if id == 1 { "eu-1".into() } else { String::new() },
        shard: ShardId(shard),
        role,
    };
    let table = |name: &str| TableName { schema: "public".into(), name: name.into() };
    let declared = [
        (table("users"), Placement::Sharded { key: vec!["tenant_id".into(), "id".into()] }),
        (table("countries"), Placement::Reference),
        (table("settings"), Placement::Single { home: None }),
        (table("jobs"), Placement::Single { home: Some(ShardId(2)) }),
    ];
    Topology {
        epoch: Epoch(epoch),
        database: "app".into(),
        shards: vec![shard(1), shard(2)],
        nodes: vec![node(1, 1, Role::Primary), node(2, 1, Role::Replica), node(3, 2, Role::Primary)],
        buckets: ring::propose(&[(ShardId(1), 100), (ShardId(2), 200)], None),
        pins: Pins::default(),
        tables: TableRules { declared: declared.into(), key_columns: vec![vec!["tenant_id".into()]] },
    }
}

#[tokio::test]
async fn a_topology_comes_back_as_it_was() {
    for (kind, fresh) in every_kind() {
        let store = fresh.store.as_ref();
        assert_eq!(load_topology(store).await.unwrap(), None, "{kind}");
        let first = save_topology(store, &sample(1), None).await.unwrap();
        assert_eq!(load_topology(store).await.unwrap(), Some((sample(1), first)), "{kind}");
        let key = [KeyValue::Text(b"big".to_vec()), KeyValue::Int(7)];
        let pinned = sample(2).with_pin(Pin::new(&key, vec!["big".into(), "7".into()]));
        let second = save_topology(store, &pinned, Some(first)).await.unwrap();
        assert_eq!(load_topology(store).await.unwrap(), Some((pinned, second)), "{kind}");
    }
}

#[tokio::test]
async fn an_epoch_that_does_not_grow_is_refused() {
    for (kind, fresh) in every_kind() {
        let store = fresh.store.as_ref();
        let revision = save_topology(store, &sample(5), None).await.unwrap();
        for epoch in [4, 5] {
            let error = save_topology(store, &sample(epoch), Some(revision)).await.unwrap_err();
            assert!(matches!(error, StoreError::Refused { .. }), "{kind}: {error}");
        }
        let mut back = sample(6);
        back.shards[0].term = Term(0);
        assert!(matches!(save_topology(store, &back, Some(revision)).await, Err(StoreError::Refused { .. })), "{kind}");
        let stale = save_topology(store, &sample(6), None).await.unwrap_err();
        assert!(matches!(stale, StoreError::Conflict { .. }), "{kind}: {stale}");
        assert_eq!(load_topology(store).await.unwrap(), Some((sample(5), revision)), "{kind}");
    }
}

#[tokio::test]
async fn an_invalid_topology_is_refused() {
    for (kind, fresh) in every_kind() {
        let store = fresh.store.as_ref();
        let mut topology = sample(1);
        topology.buckets = BucketMap::all_to(ShardId(9));
        let error = save_topology(store, &topology, None).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the topology is refused: topology: 16384 buckets belong to shard s9, which does not exist",
            "{kind}"
        );
        assert_eq!(store.get(TOPOLOGY_KEY).await.unwrap(), None, "{kind}");
    }
}

#[test]
fn a_record_that_is_not_understood_is_refused() {
    let text = String::from_utf8(encode_topology(&sample(1)).unwrap()).unwrap();
    assert!(decode_topology(text.as_bytes()).is_ok());
    let reason = |text: &str| decode_topology(text.as_bytes()).unwrap_err().to_string();
    assert!(reason(&text.replace("\"version\":1", "\"version\":2")).contains("it has version 2"));
    assert!(reason(&text.replacen("\"epoch\":1", "\"epoch\":1,\"colour\":3", 1)).contains("unknown field `colour`"));
    assert!(reason(&text[..text.len() - 1]).contains("EOF"));
    assert!(reason("").contains("EOF"));
    let run = text.split("\"buckets\":[[").nth(1).unwrap().split(']').next().unwrap();
    let (owner, length) = run.split_once(',').unwrap();
    let longer = format!("{owner},{}", length.parse::<u32>().unwrap() + 1);
    let wrong = text.replacen(&format!("[[{run}]"), &format!("[[{longer}]"), 1);
    assert!(reason(&wrong).contains("16385 owners do not belong to 16384 buckets and 0 pinned keys"));
    let huge = text.replacen(&format!("[[{run}]"), &format!("[[{owner},4294967295]"), 1);
    assert!(reason(&huge).contains("buckets"));
}

/// What version 1 wrote must be read for ever.
#[test]
fn the_format_of_version_1_is_fixed() {
    let record = r#"{"version":1,"epoch":3,"database":"app","shards":[{"id":1,"name":"s1","term":2,"weight":100}],
        "nodes":[{"id":1,"name":"s1a","host":"h","port":5432,"zone":"z","shard":1,"role":"primary"}],
        "buckets":[[1,16384]],"tables":[
        {"schema":"public","name":"a","placement":{"sharded":{"key":["x","y"]}}},
        {"schema":"public","name":"b","placement":"reference"},
        {"schema":"public","name":"c","placement":{"single":{"home":null}}}],"key_columns":[["t"]]}"#;
    let topology = decode_topology(record.as_bytes()).unwrap();
    assert_eq!((topology.epoch, topology.shards[0].term), (Epoch(3), Term(2)));
    assert_eq!(topology.tables.declared.len(), 3);
    let compact: String = record.chars().filter(|character| !character.is_whitespace()).collect();
    assert_eq!(String::from_utf8(encode_topology(&topology).unwrap()).unwrap(), compact);
}

#[tokio::test]
async fn a_file_outlives_its_store_and_admits_one_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    let revision = save_topology(&store, &sample(1), None).await.unwrap();
    let lease = ostrakon::store::Store::acquire(&store, "a", "me", std::time::Duration::from_secs(60)).await.unwrap();
    assert_eq!(EmbeddedStore::open(&path).err(), Some(StoreError::InUse { path: path.clone() }));
    drop(store);
    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(load_topology(&store).await.unwrap(), Some((sample(1), revision)));
    let next = ostrakon::store::Store::acquire(&store, "a", "me", std::time::Duration::from_secs(60)).await.unwrap();
    assert!(next.token > lease.token);
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    std::fs::write(&path, b"something else entirely").unwrap();
    let error = EmbeddedStore::open(&path).err().unwrap();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("store.redb"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"something else entirely");
}
