//! Ids from blocks of the home shard's own sequences.

use std::collections::HashSet;
use std::sync::Arc;

use ostrakon::backend::Connection;
use ostrakon::control::roles::FindHome;
use ostrakon::control::sequences::{SequenceError, Sequences};
use ostrakon::topology::TableName;

use crate::postgres::ThrowawayPostgres;
use crate::support::{run, target};

fn name(text: &str) -> TableName {
    TableName { schema: "public".into(), name: text.into() }
}

fn sequences() -> Sequences {
    let find_home: FindHome = Arc::new(|| Some(target(15910)));
    Sequences::new(find_home)
}

#[tokio::test]
async fn ids_are_those_of_the_home_shards_sequence() {
    let server = ThrowawayPostgres::start(15910);
    let sql = |sql: &str| server.psql("postgres", sql);
    sql("CREATE SEQUENCE used; SELECT setval('used', 41); CREATE SEQUENCE fresh START 7");
    sql(
        "CREATE SEQUENCE \"Od'd\" INCREMENT 5; CREATE SEQUENCE down INCREMENT -2 MINVALUE -9; CREATE SEQUENCE small MAXVALUE 40",
    );
    sql("CREATE SEQUENCE round MAXVALUE 3 CYCLE");
    let one = Arc::new(sequences());
    assert_eq!(one.next(&name("used"), 3).await.unwrap(), [42, 43, 44]);
    assert_eq!(one.next(&name("used"), 1).await.unwrap(), [45]);
    assert_eq!(one.next(&name("fresh"), 2).await.unwrap(), [7, 8]);
    assert_eq!(one.next(&name("Od'd"), 3).await.unwrap(), [1, 6, 11]);
    assert_eq!(one.next(&name("down"), 4).await.unwrap(), [-1, -3, -5, -7]);
    assert_eq!(one.next(&name("round"), 5).await.unwrap(), [1, 2, 3, 1, 2]);
    assert!(one.next(&name("used"), 0).await.unwrap().is_empty());
    assert!(matches!(one.next(&name("none"), 1).await, Err(SequenceError::Missing(_))));

    // Another process, or who asks the server itself, goes on behind the block.
    assert_eq!(sequences().next(&name("used"), 1).await.unwrap(), [42 + 32]);
    // What is set on the server counts once the block is forgotten.
    sql("SELECT setval('fresh', 500000)");
    one.forget_all();
    assert_eq!(one.next(&name("fresh"), 1).await.unwrap(), [500_001]);

    // To the very last value, and then PostgreSQL's own words.
    assert_eq!(one.next(&name("small"), 40).await.unwrap().last(), Some(&40));
    let over = one.next(&name("small"), 1).await.unwrap_err().to_client_error();
    assert_eq!(over.message, "nextval: reached maximum value of sequence \"small\" (40)");
    assert_eq!(over.sqlstate(), "2200H");
    assert!(one.next(&name("down"), 1).await.is_err());

    // Many at a time, and a second process: never the same value twice.
    let second = Arc::new(sequences());
    let mut tasks = Vec::new();
    for task in 0..16 {
        let sequences = Arc::clone(if task % 2 == 0 { &one } else { &second });
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

    // A sequence that only its own transaction can see.
    let mut connection = Connection::connect(&target(15910)).await.unwrap();
    run(&mut connection, "BEGIN; CREATE SEQUENCE unborn START 3").await;
    assert!(matches!(one.next(&name("unborn"), 1).await, Err(SequenceError::Missing(_))));
    assert_eq!(one.next_within(&name("unborn"), 2, &mut connection).await.unwrap(), [3, 4]);
    assert_eq!(connection.status(), b'T');
}
