//! TPC-H tables, their placement over shards, and their rows as COPY text.
//!
//! Placement: `orders` and `lineitem` by order key, so their join and every query over `lineitem` alone
//! (Q1, Q6) stay inside a shard. `part` and `partsupp` by part key: the second large join that can be
//! colocated. `customer` by its own key; it meets `orders` on a column that cannot also be the key of
//! `orders`, and is too large to be on every shard. `supplier`, `nation` and `region` are small and
//! joined with everything: reference tables.
#![allow(dead_code, missing_docs)]

use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};

/// One table.
pub struct Table {
    pub name: &'static str,
    pub create: &'static str,
    /// Key column; `None` is a reference table.
    pub key: Option<&'static str>,
}

/// The eight tables, parents first.
pub const TABLES: [Table; 8] = [
    Table {
        name: "region",
        create: "CREATE TABLE region (r_regionkey int PRIMARY KEY, r_name char(25) NOT NULL, r_comment varchar(152))",
        key: None,
    },
    Table {
        name: "nation",
        create: "CREATE TABLE nation (n_nationkey int PRIMARY KEY, n_name char(25) NOT NULL, \
                 n_regionkey int NOT NULL, n_comment varchar(152))",
        key: None,
    },
    Table {
        name: "supplier",
        create: "CREATE TABLE supplier (s_suppkey int PRIMARY KEY, s_name char(25) NOT NULL, \
                 s_address varchar(40) NOT NULL, s_nationkey int NOT NULL, s_phone char(15) NOT NULL, \
                 s_acctbal numeric(15,2) NOT NULL, s_comment varchar(101) NOT NULL)",
        key: None,
    },
    Table {
        name: "customer",
        create: "CREATE TABLE customer (c_custkey int PRIMARY KEY, c_name varchar(25) NOT NULL, \
                 c_address varchar(40) NOT NULL, c_nationkey int NOT NULL, c_phone char(15) NOT NULL, \
                 c_acctbal numeric(15,2) NOT NULL, c_mktsegment char(10) NOT NULL, c_comment varchar(117) NOT NULL)",
        key: Some("c_custkey"),
    },
    Table {
        name: "part",
        create: "CREATE TABLE part (p_partkey int PRIMARY KEY, p_name varchar(55) NOT NULL, p_mfgr char(25) NOT NULL, \
                 p_brand char(10) NOT NULL, p_type varchar(25) NOT NULL, p_size int NOT NULL, \
                 p_container char(10) NOT NULL, p_retailprice numeric(15,2) NOT NULL, p_comment varchar(23) NOT NULL)",
        key: Some("p_partkey"),
    },
    Table {
        name: "partsupp",
        create: "CREATE TABLE partsupp (ps_partkey int NOT NULL, ps_suppkey int NOT NULL, ps_availqty int NOT NULL, \
                 ps_supplycost numeric(15,2) NOT NULL, ps_comment varchar(199) NOT NULL, \
                 PRIMARY KEY (ps_partkey, ps_suppkey))",
        key: Some("ps_partkey"),
    },
    Table {
        name: "orders",
        create: "CREATE TABLE orders (o_orderkey bigint PRIMARY KEY, o_custkey int NOT NULL, o_orderstatus char(1) NOT NULL, \
                 o_totalprice numeric(15,2) NOT NULL, o_orderdate date NOT NULL, o_orderpriority char(15) NOT NULL, \
                 o_clerk char(15) NOT NULL, o_shippriority int NOT NULL, o_comment varchar(79) NOT NULL)",
        key: Some("o_orderkey"),
    },
    Table {
        name: "lineitem",
        create: "CREATE TABLE lineitem (l_orderkey bigint NOT NULL, l_partkey int NOT NULL, l_suppkey int NOT NULL, \
                 l_linenumber int NOT NULL, l_quantity numeric(15,2) NOT NULL, l_extendedprice numeric(15,2) NOT NULL, \
                 l_discount numeric(15,2) NOT NULL, l_tax numeric(15,2) NOT NULL, l_returnflag char(1) NOT NULL, \
                 l_linestatus char(1) NOT NULL, l_shipdate date NOT NULL, l_commitdate date NOT NULL, \
                 l_receiptdate date NOT NULL, l_shipinstruct char(25) NOT NULL, l_shipmode char(10) NOT NULL, \
                 l_comment varchar(44) NOT NULL, PRIMARY KEY (l_orderkey, l_linenumber))",
        key: Some("l_orderkey"),
    },
];

/// A table's rows for `COPY name FROM STDIN (DELIMITER '|')`, and how many there are.
///
/// # Panics
/// For a name that TPC-H does not have.
pub fn rows(table: &str, scale: f64) -> (String, usize) {
    match table {
        "region" => text(RegionGenerator::new(scale, 1, 1).iter()),
        "nation" => text(NationGenerator::new(scale, 1, 1).iter()),
        "supplier" => text(SupplierGenerator::new(scale, 1, 1).iter()),
        "customer" => text(CustomerGenerator::new(scale, 1, 1).iter()),
        "part" => text(PartGenerator::new(scale, 1, 1).iter()),
        "partsupp" => text(PartSuppGenerator::new(scale, 1, 1).iter()),
        "orders" => text(OrderGenerator::new(scale, 1, 1).iter()),
        "lineitem" => text(LineItemGenerator::new(scale, 1, 1).iter()),
        other => panic!("TPC-H has no table {other}"),
    }
}

/// The generator ends each line with a delimiter, which COPY takes for one more column.
fn text(rows: impl Iterator<Item = impl std::fmt::Display>) -> (String, usize) {
    let mut text = String::new();
    let mut count = 0;
    for row in rows {
        let line = row.to_string();
        text.push_str(line.strip_suffix('|').unwrap_or(&line));
        text.push('\n');
        count += 1;
    }
    (text, count)
}
