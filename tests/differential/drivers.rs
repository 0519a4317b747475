//! A driver as applications use it: tokio-postgres against one PostgreSQL and through the shards.

use std::fmt::Write as _;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

use crate::cluster::{Cluster, Server};
use crate::runner::Bench;

async fn connect(port: u16) -> Client {
    let config = format!("host=127.0.0.1 port={port} user=app dbname=app");
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Everything a driver does with binary values, typed parameters, pipelining and transactions; the
/// results as text. Generated ids are not part of it.
async fn story(port: u16) -> Result<String, tokio_postgres::Error> {
    let mut client = connect(port).await;
    let mut told = String::new();
    let by_id = client.prepare("SELECT id, name, country FROM users WHERE id = $1").await?;
    let _ = writeln!(
        told,
        "{:?} {:?}",
        by_id.params(),
        by_id.columns().iter().map(|c| (c.name(), c.type_().clone())).collect::<Vec<_>>()
    );
    for id in [1_i64, 2, 9, 59, 60, 61] {
        for row in client.query(&by_id, &[&id]).await? {
            let _ = writeln!(
                told,
                "{:?} {:?} {:?}",
                row.get::<_, i64>(0),
                row.get::<_, Option<&str>>(1),
                row.get::<_, Option<&str>>(2)
            );
        }
    }
    // Several requests at once on one connection: replies come in the order of the requests.
    let ids = [3_i64, 4, 5];
    let (a, b, c) = tokio::join!(
        async { client.query_one(&by_id, &[&ids[0]]).await },
        async { client.query_one(&by_id, &[&ids[1]]).await },
        async { client.query_one(&by_id, &[&ids[2]]).await }
    );
    let _ = writeln!(told, "{} {} {}", a?.get::<_, i64>(0), b?.get::<_, i64>(0), c?.get::<_, i64>(0));
    let many = client.prepare_typed("SELECT id FROM users WHERE id = ANY($1) ORDER BY id", &[Type::INT8_ARRAY]).await?;
    let rows = client.query(&many, &[&vec![5_i64, 1, 60, 33]]).await?;
    let _ = writeln!(told, "{:?}", rows.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>());
    let count: i64 =
        client.query_one("SELECT count(*) FROM orders WHERE amount > $1::float8", &[&50.0_f64]).await?.get(0);
    let _ = writeln!(told, "{count}");
    let transaction = client.transaction().await?;
    let changed = transaction.execute("UPDATE users SET name = $2 WHERE id = $1", &[&7_i64, &"driver"]).await?;
    let new: i64 = transaction
        .query_one("INSERT INTO users (email, name) VALUES ($1, $2) RETURNING id", &[&"d@example.org", &"new"])
        .await?
        .get(0);
    let inserted = transaction.execute("INSERT INTO orders (user_id, amount) VALUES ($1, 5)", &[&new]).await?;
    transaction.commit().await?;
    let mine: i64 = client.query_one("SELECT count(*) FROM orders WHERE user_id = $1", &[&new]).await?.get(0);
    let _ = writeln!(told, "{changed} {inserted} {mine}");
    let mut transaction = client.transaction().await?;
    let savepoint = transaction.savepoint("active_record_1").await?;
    let error = savepoint.execute("INSERT INTO users (id, email) VALUES (7, 'again')", &[]).await.unwrap_err();
    let _ = writeln!(told, "{:?}", error.code().map(|code| code.code().to_owned()));
    savepoint.rollback().await?;
    let name: String = transaction.query_one("SELECT name FROM users WHERE id = $1", &[&7_i64]).await?.get(0);
    transaction.rollback().await?;
    let _ = writeln!(told, "{name}");
    // Portals with a row limit: the driver fetches the rest with another Execute.
    let transaction = client.transaction().await?;
    let portal = transaction.bind("SELECT id FROM users WHERE id = ANY($1) ORDER BY id", &[&vec![7_i64]]).await?;
    let _ = writeln!(told, "{}", transaction.query_portal(&portal, 1).await?.len());
    transaction.commit().await?;
    Ok(told)
}

fn tell(port: u16) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(story(port)).unwrap()
}

#[test]
fn a_driver_sees_no_difference_through_three_shards() {
    let cluster = Cluster::start(3, &crate::PLACEMENT);
    let _bench = Bench::prepare(&cluster.oracle, cluster.port, &cluster.shards);
    assert_eq!(tell(cluster.port), tell(cluster.oracle.port));
}

#[test]
fn the_driver_story_is_the_same_on_two_servers() {
    let servers = Server::start_all(&["oracle".into(), "second".into()]);
    let _bench = Bench::prepare(&servers[0], servers[1].port, &servers[1..]);
    assert_eq!(tell(servers[1].port), tell(servers[0].port));
}
