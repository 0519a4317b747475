//! The keyspace against a live PostgreSQL: its own HASH partitioning judges our buckets, its own casts
//! judge our readers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/postgres.rs"]
mod postgres;
mod values;

use ostrakon::base::BucketId;
use ostrakon::topology::{KeyType, KeyValue, hash};
use postgres::ThrowawayPostgres;
use tokio_postgres::{Client, NoTls};
use values::{Random, edges, mangle, random};

/// What the catalog calls the type, and its send function.
fn sql_type(key_type: KeyType) -> (&'static str, &'static str) {
    match key_type {
        KeyType::Int2 => ("int2", "int2send"),
        KeyType::Int4 => ("int4", "int4send"),
        KeyType::Int8 => ("int8", "int8send"),
        KeyType::Text => ("text", "textsend"),
        KeyType::Varchar => ("varchar", "varcharsend"),
        KeyType::Bpchar => ("bpchar", "bpcharsend"),
        KeyType::Uuid => ("uuid", "uuid_send"),
        KeyType::Bytea => ("bytea", "byteasend"),
        KeyType::Date => ("date", "date_send"),
        KeyType::Timestamp => ("timestamp", "timestamp_send"),
        KeyType::TimestampTz => ("timestamptz", "timestamptz_send"),
        KeyType::Numeric => ("numeric", "numeric_send"),
    }
}

async fn connect(server: &ThrowawayPostgres) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.url("postgres"), NoTls).await.unwrap();
    tokio::spawn(connection);
    // Settings under which only unambiguous text means what it says.
    client.batch_execute("SET DateStyle = 'SQL, DMY'; SET TimeZone = 'America/St_Johns'").await.unwrap();
    client
}

/// For each key (texts by column), whether PostgreSQL puts it into the bucket.
async fn satisfied(client: &Client, types: &[KeyType], keys: &[Vec<String>], buckets: &[BucketId]) -> Vec<bool> {
    let columns: Vec<String> =
        types.iter().enumerate().map(|(at, kind)| format!("c{at} {}", sql_type(*kind).0)).collect();
    let names: Vec<String> = (0..types.len()).map(|at| format!("c{at}")).collect();
    let table = format!("p_{}", types.iter().map(|kind| sql_type(*kind).0).collect::<Vec<_>>().join("_"));
    client
        .batch_execute(&format!(
            "CREATE TABLE IF NOT EXISTS {table} ({}) PARTITION BY HASH ({})",
            columns.join(", "),
            names.join(", ")
        ))
        .await
        .unwrap();
    let arrays: Vec<String> = (0..types.len()).map(|at| format!("${}::text[]", at + 2)).collect();
    let casts: Vec<String> =
        types.iter().enumerate().map(|(at, kind)| format!("c{at}::{}", sql_type(*kind).0)).collect();
    let sql = format!(
        "SELECT satisfies_hash_partition('{table}'::regclass, 16384, b, {}) \
         FROM unnest($1::int4[], {}) WITH ORDINALITY AS u(b, {}, n) ORDER BY n",
        casts.join(", "),
        arrays.join(", "),
        names.join(", ")
    );
    let buckets: Vec<i32> = buckets.iter().map(|bucket| i32::from(bucket.0)).collect();
    let by_column: Vec<Vec<&str>> =
        (0..types.len()).map(|at| keys.iter().map(|key| key[at].as_str()).collect()).collect();
    let mut parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = vec![&buckets];
    parameters.extend(by_column.iter().map(|column| column as &(dyn tokio_postgres::types::ToSql + Sync)));
    client.query(&sql, &parameters).await.unwrap().iter().map(|row| row.get(0)).collect()
}

fn read(key_type: KeyType, text: &str) -> KeyValue {
    key_type.read_text(text.as_bytes()).unwrap_or_else(|| panic!("{} is not read: {text:?}", key_type.name()))
}

#[tokio::test]
async fn every_key_type_lands_in_the_bucket_that_postgresql_gives_it() {
    let server = ThrowawayPostgres::start(15820);
    let client = connect(&server).await;
    for key_type in KeyType::ALL {
        let mut random_source = Random::new(key_type.oid().into());
        let mut keys: Vec<Vec<String>> = edges(key_type).into_iter().map(|text| vec![text]).collect();
        keys.extend((0..3_000).map(|_| vec![random(key_type, &mut random_source)]));
        let values: Vec<KeyValue> = keys.iter().map(|key| read(key_type, &key[0])).collect();
        let buckets: Vec<BucketId> = values.iter().map(|value| hash::bucket(std::slice::from_ref(value))).collect();
        let verdicts = satisfied(&client, &[key_type], &keys, &buckets).await;
        for (key, verdict) in keys.iter().zip(&verdicts) {
            assert!(verdict, "{}: {key:?} is in another bucket", key_type.name());
        }

        // The same judge must see a wrong seed, else it proves nothing.
        let wrong: Vec<BucketId> = values
            .iter()
            .map(|value| hash::bucket_with_seed(std::slice::from_ref(value), hash::PARTITION_SEED ^ 1))
            .collect();
        let hits = satisfied(&client, &[key_type], &keys, &wrong).await.into_iter().filter(|hit| *hit).count();
        assert!(hits < 20, "{}: {hits} of {} agree under a wrong seed", key_type.name(), keys.len());
        eprintln!("{}: {} keys agree; {hits} under a wrong seed", key_type.name(), keys.len());
    }
}

#[tokio::test]
async fn composite_keys_land_in_the_bucket_that_postgresql_gives_them() {
    let server = ThrowawayPostgres::start(15821);
    let client = connect(&server).await;
    let mut choose = Random::new(7);
    for round in 0..24_usize {
        let width = 2 + round % 2;
        let first = KeyType::ALL[round % KeyType::ALL.len()];
        let mut types = vec![first];
        types.extend((1..width).map(|_| KeyType::ALL[choose.below(KeyType::ALL.len())]));
        let keys: Vec<Vec<String>> =
            (0..2_000).map(|_| types.iter().map(|key_type| random(*key_type, &mut choose)).collect()).collect();
        let buckets: Vec<BucketId> = keys
            .iter()
            .map(|key| {
                let values: Vec<KeyValue> = types.iter().zip(key).map(|(kind, text)| read(*kind, text)).collect();
                hash::bucket(&values)
            })
            .collect();
        let verdicts = satisfied(&client, &types, &keys, &buckets).await;
        for (key, verdict) in keys.iter().zip(&verdicts) {
            assert!(verdict, "{types:?}: {key:?} is in another bucket");
        }
    }
}

/// A key read from the server's own binary output.
async fn cast_by_server(client: &Client, key_type: KeyType, texts: &[String]) -> Vec<Option<Vec<u8>>> {
    let (name, send) = sql_type(key_type);
    client
        .batch_execute(&format!(
            "CREATE OR REPLACE FUNCTION try_{name}(v text) RETURNS bytea LANGUAGE plpgsql AS $$
             BEGIN RETURN {send}(v::{name}); EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$"
        ))
        .await
        .unwrap();
    let sql = format!("SELECT try_{name}(v) FROM unnest($1::text[]) WITH ORDINALITY AS u(v, n) ORDER BY n");
    client.query(&sql, &[&texts]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn readers_agree_with_the_casts_of_postgresql() {
    let server = ThrowawayPostgres::start(15822);
    let client = connect(&server).await;
    for key_type in KeyType::ALL {
        let mut random_source = Random::new(u64::from(key_type.oid()) + 1);
        let mut texts = edges(key_type);
        let sound = texts.len() + 2_000;
        texts.extend((0..2_000).map(|_| random(key_type, &mut random_source)));
        let mangled: Vec<String> = (0..8_000).map(|at| mangle(&texts[at % sound], &mut random_source)).collect();
        texts.extend(mangled);
        let server_values = cast_by_server(&client, key_type, &texts).await;
        let mut unsure = 0;
        for (at, (text, server_value)) in texts.iter().zip(&server_values).enumerate() {
            let ours = key_type.read_text(text.as_bytes());
            match (&ours, server_value) {
                (Some(value), Some(bytes)) => {
                    let binary = key_type.read_binary(bytes);
                    assert_eq!(binary.as_ref(), Some(value), "{}: {text:?}", key_type.name());
                }
                (Some(value), None) => panic!("{}: {text:?} read as {value:?}, refused by PostgreSQL", key_type.name()),
                (None, Some(_)) => {
                    assert!(at >= sound, "{}: {text:?} is not read", key_type.name());
                    unsure += 1;
                }
                (None, None) => {}
            }
        }
        eprintln!("{}: {} texts, of which the reader left {unsure} to the server", key_type.name(), texts.len());
    }
}
