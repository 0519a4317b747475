//! Ids from durable blocks, above what the servers gave out themselves.

use std::collections::HashSet;
use std::sync::Arc;

use ostrakon::backend::Connection;
use ostrakon::base::ShardId;
use ostrakon::control::recovery::FindPrimaries;
use ostrakon::control::sequences::{SequenceError, Sequences, StoreBlocks};
use ostrakon::store::{MemoryStore, Store};
use ostrakon::topology::TableName;

use crate::postgres::ThrowawayPostgres;
use crate::support::{run, target};

fn name(text: &str) -> TableName {
    TableName { schema: "public".into(), name: text.into() }
}

#[tokio::test]
async fn ids_are_unique_over_restarts_and_above_what_the_shards_gave() {
    // Two databases of one server stand for two shards.
    let server = ThrowawayPostgres::start(15910);
    server.psql("postgres", "CREATE DATABASE two");
    let both = |sql: &str| {
        server.psql("postgres", sql);
        server.psql("two", sql);
    };
    both("CREATE SEQUENCE used; CREATE SEQUENCE fresh START 7; CREATE SEQUENCE \"Od'd\" INCREMENT 5");
    both("CREATE SEQUENCE down INCREMENT -1; CREATE SEQUENCE small MAXVALUE 1010; CREATE SEQUENCE uneven");
    server.psql("postgres", "SELECT setval('used', 41)");
    server.psql("two", "SELECT setval('used', 7000); ALTER SEQUENCE uneven INCREMENT 2; CREATE SEQUENCE here");

    let primaries: FindPrimaries = Arc::new(|| {
        let mut two = target(15910);
        two.database = "two".into();
        vec![(ShardId(1), target(15910)), (ShardId(2), two)]
    });
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let restarted = || Sequences::new(Arc::new(StoreBlocks(Arc::clone(&store))), Arc::clone(&primaries));

    let sequences = Arc::new(restarted());
    assert_eq!(sequences.next(&name("used"), 3).await.unwrap(), [7001, 7002, 7003]);
    assert_eq!(sequences.next(&name("used"), 1).await.unwrap(), [7004]);
    assert_eq!(sequences.next(&name("fresh"), 2).await.unwrap(), [7, 8]);
    assert_eq!(sequences.next(&name("Od'd"), 3).await.unwrap(), [1, 6, 11]);
    assert_eq!(sequences.next(&name("here"), 1).await.unwrap(), [1], "a shard without it does not count");
    assert!(sequences.next(&name("here"), 0).await.unwrap().is_empty());

    // More than a block at once, many at a time, and a second process: never the same value twice.
    let second = Arc::new(restarted());
    let mut tasks = Vec::new();
    for task in 0..16 {
        let sequences = Arc::clone(if task % 2 == 0 { &sequences } else { &second });
        tasks.push(tokio::spawn(async move {
            let mut all = Vec::new();
            for count in [1, 700, 2_500, 3] {
                let values = sequences.next(&name("Od'd"), count).await.unwrap();
                assert_eq!(values.len(), count);
                assert!(values.windows(2).all(|pair| pair[0] < pair[1]), "ascending");
                assert!(values.iter().all(|value| value % 5 == 1), "in step");
                all.extend(values);
            }
            all
        }));
    }
    let mut seen: HashSet<i64> = HashSet::from([1, 6, 11]);
    for task in tasks {
        for value in task.await.unwrap() {
            assert!(seen.insert(value), "{value} twice");
        }
    }
    assert_eq!(seen.len(), 3 + 16 * 3_204);

    // What was set on a shard meanwhile is honoured after `forget`.
    server.psql("postgres", "SELECT setval('fresh', 500000)");
    sequences.forget(&name("fresh"));
    assert_eq!(sequences.next(&name("fresh"), 1).await.unwrap(), [500_001]);

    assert!(matches!(sequences.next(&name("down"), 1).await, Err(SequenceError::Descending(_))));
    assert!(matches!(sequences.next(&name("uneven"), 1).await, Err(SequenceError::Differs(_))));
    assert!(matches!(sequences.next(&name("none"), 1).await, Err(SequenceError::Missing(_))));
    assert_eq!(sequences.next(&name("small"), 1_010).await.unwrap().len(), 1_010);
    let over = sequences.next(&name("small"), 1).await.unwrap_err();
    assert!(matches!(over, SequenceError::Exhausted { maximum: 1010, .. }), "{over}");
    assert_eq!(over.to_client_error().message, "nextval: reached maximum value of sequence \"small\" (1010)");

    // A sequence that only its own transaction can see.
    let mut connection = Connection::connect(&target(15910)).await.unwrap();
    run(&mut connection, "BEGIN; CREATE SEQUENCE unborn START 3").await;
    assert!(matches!(sequences.next(&name("unborn"), 1).await, Err(SequenceError::Missing(_))));
    sequences.learn(&name("unborn"), &mut connection).await.unwrap();
    assert_eq!(sequences.next(&name("unborn"), 2).await.unwrap(), [3, 4]);
    assert_eq!(connection.status(), b'T');
}
