//! TPC-H data through the proxy: COPY in, counts, balance over shards, answers.
//!
//! Scale 0.01, or `OSTRAKON_TPCH_SCALE`.

use crate::cluster::{Cluster, Placement, Server};
use crate::loader::{TABLES, rows};
use crate::raw::Raw;

/// TPC-H Q1 and Q6 with the specification's validation parameters.
const Q1: &str = "SELECT l_returnflag, l_linestatus, sum(l_quantity) AS sum_qty, sum(l_extendedprice) AS sum_base_price, \
    sum(l_extendedprice * (1 - l_discount)) AS sum_disc_price, \
    sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS sum_charge, avg(l_quantity) AS avg_qty, \
    avg(l_extendedprice) AS avg_price, avg(l_discount) AS avg_disc, count(*) AS count_order \
    FROM lineitem WHERE l_shipdate <= date '1998-12-01' - interval '90' day \
    GROUP BY l_returnflag, l_linestatus ORDER BY l_returnflag, l_linestatus";
const Q6: &str = "SELECT sum(l_extendedprice * l_discount) AS revenue FROM lineitem \
    WHERE l_shipdate >= date '1994-01-01' AND l_shipdate < date '1994-01-01' + interval '1' year \
    AND l_discount BETWEEN 0.06 - 0.01 AND 0.06 + 0.01 AND l_quantity < 24";
/// Joins and subqueries inside a shard; equal or refused.
const Q4: &str = "SELECT o_orderpriority, count(*) AS order_count FROM orders \
    WHERE o_orderdate >= date '1993-07-01' AND o_orderdate < date '1993-07-01' + interval '3' month \
    AND EXISTS (SELECT * FROM lineitem WHERE l_orderkey = o_orderkey AND l_commitdate < l_receiptdate) \
    GROUP BY o_orderpriority ORDER BY o_orderpriority";
const Q12: &str = "SELECT l_shipmode, sum(CASE WHEN o_orderpriority = '1-URGENT' OR o_orderpriority = '2-HIGH' THEN 1 ELSE 0 END) AS high_line_count, \
    sum(CASE WHEN o_orderpriority <> '1-URGENT' AND o_orderpriority <> '2-HIGH' THEN 1 ELSE 0 END) AS low_line_count \
    FROM orders, lineitem WHERE o_orderkey = l_orderkey AND l_shipmode IN ('MAIL', 'SHIP') \
    AND l_commitdate < l_receiptdate AND l_shipdate < l_commitdate AND l_receiptdate >= date '1994-01-01' \
    AND l_receiptdate < date '1994-01-01' + interval '1' year GROUP BY l_shipmode ORDER BY l_shipmode";

fn scale() -> f64 {
    std::env::var("OSTRAKON_TPCH_SCALE").map_or(0.01, |text| text.parse().unwrap())
}

/// Loads all tables by COPY; gives the generator's row counts.
fn load(session: &mut Raw, scale: f64) -> Vec<usize> {
    session.set_patience(std::time::Duration::from_secs(300));
    TABLES
        .iter()
        .map(|table| {
            session.must(table.create);
            let (text, count) = rows(table.name, scale);
            let reply = session.must_copy(&format!("COPY {} FROM STDIN (DELIMITER '|')", table.name), text.as_bytes());
            assert_eq!(reply.answers[0].tag.as_deref(), Some(format!("COPY {count}").as_str()), "{}", table.name);
            count
        })
        .collect()
}

fn count(session: &mut Raw, table: &str) -> usize {
    session.must(&format!("SELECT count(*) FROM {table}")).value().parse().unwrap()
}

/// Largest share over the mean.
fn imbalance(counts: &[usize]) -> f64 {
    let mean = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
    counts.iter().copied().max().unwrap_or(0) as f64 / mean
}

#[test]
fn tpch_through_three_shards_has_the_counts_and_answers_of_one_server() {
    let placement: Vec<(&str, Placement)> = TABLES
        .iter()
        .map(|table| match table.key {
            Some("c_custkey") => (table.name, Placement::Key(&["c_custkey"])),
            Some("p_partkey") => (table.name, Placement::Key(&["p_partkey"])),
            Some("ps_partkey") => (table.name, Placement::Key(&["ps_partkey"])),
            Some("o_orderkey") => (table.name, Placement::Key(&["o_orderkey"])),
            Some("l_orderkey") => (table.name, Placement::Key(&["l_orderkey"])),
            Some(other) => panic!("{other}"),
            None => (table.name, Placement::Reference),
        })
        .collect();
    let cluster = Cluster::start(3, &placement);
    let scale = scale();
    let mut actual = cluster.app();
    let mut expected = cluster.oracle.app();
    let wanted = load(&mut expected, scale);
    assert_eq!(load(&mut actual, scale), wanted);
    for (table, wanted) in TABLES.iter().zip(&wanted) {
        assert_eq!(count(&mut actual, table.name), *wanted, "{} through the proxy", table.name);
        let parts: Vec<usize> = cluster.shards.iter().map(|shard| count(&mut shard.superuser(), table.name)).collect();
        println!("{} {wanted}: {parts:?}", table.name);
        match table.key {
            Some(_) => assert_eq!(parts.iter().sum::<usize>(), *wanted, "{} over the shards", table.name),
            None => assert!(parts.iter().all(|part| part == wanted), "{} on every shard: {parts:?}", table.name),
        }
        if table.name == "lineitem" {
            assert!(imbalance(&parts) <= 1.15, "lineitem is spread {parts:?}");
        }
    }
    for (name, query) in [("Q1", Q1), ("Q6", Q6)] {
        assert_eq!(actual.must(query).answers, expected.must(query).answers, "{name}");
    }
    for (name, query) in [("Q4", Q4), ("Q12", Q12)] {
        let reply = actual.simple(query).unwrap();
        println!("{name}: {}", reply.sqlstate());
        if reply.sqlstate() != "0A000" {
            assert_eq!(reply.answers, expected.must(query).answers, "{name}");
        }
    }
}

#[test]
fn tpch_loads_into_one_server_with_the_generators_counts() {
    let servers = Server::start_all(&["tpch".into()]);
    let mut session = servers[0].app();
    let wanted = load(&mut session, 0.01);
    for (table, wanted) in TABLES.iter().zip(&wanted) {
        assert_eq!(count(&mut session, table.name), *wanted);
    }
    assert_eq!(session.must(Q1).answers[0].rows.len(), 4);
    assert_eq!(session.must(Q6).answers[0].rows.len(), 1);
    for query in [Q4, Q12] {
        assert!(!session.must(query).answers[0].rows.is_empty());
    }
}

#[test]
fn an_uneven_spread_is_seen() {
    assert!(imbalance(&[100, 100, 100]) < 1.01);
    assert!(imbalance(&[100, 110, 140]) > 1.15);
    assert!(imbalance(&[300, 0, 0]) > 1.15);
}
