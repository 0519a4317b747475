//! Tables in the shape of TPC-H and of pgbench, as large as asked for; every value is told by its row's key.

use super::ground::Ground;

/// Rows of one statement: a session of a test waits for half a minute at most.
const CHUNK: u64 = 200_000;

/// Accounts of the pgbench table.
#[derive(Clone, Copy, Debug)]
pub struct Accounts {
    pub count: i64,
}

const SCHEMA: [&str; 8] = [
    "CREATE TABLE lineitem (l_orderkey bigint, l_linenumber int, l_partkey int NOT NULL, l_suppkey int NOT NULL, \
     l_quantity numeric(12,2), l_extendedprice numeric(12,2), l_discount numeric(12,2), l_tax numeric(12,2), l_returnflag char(1), \
     l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct char(25), l_shipmode char(10), \
     l_comment varchar(44), PRIMARY KEY (l_orderkey, l_linenumber))",
    "CREATE TABLE orders (o_orderkey bigint PRIMARY KEY, o_custkey int NOT NULL, o_orderstatus char(1), o_totalprice numeric(12,2), \
     o_orderdate date, o_orderpriority char(15), o_clerk char(15), o_shippriority int, o_comment varchar(79))",
    "CREATE TABLE customer (c_custkey bigint PRIMARY KEY, c_name varchar(25), c_address varchar(40), c_nationkey int, \
     c_phone char(15), c_acctbal numeric(12,2), c_mktsegment char(10), c_comment varchar(117))",
    "CREATE TABLE part (p_partkey int PRIMARY KEY, p_name varchar(55), p_size int, p_retailprice numeric(12,2))",
    "CREATE TABLE supplier (s_suppkey int PRIMARY KEY, s_name char(25), s_nationkey int, s_acctbal numeric(12,2))",
    "CREATE TABLE pgbench_accounts (aid bigint PRIMARY KEY, bid int, abalance int, filler char(84)) WITH (fillfactor = 90)",
    "CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88))",
    "CREATE INDEX lineitem_part ON lineitem (l_partkey); CREATE INDEX orders_customer ON orders (o_custkey)",
];

/// What is asked of `i`, the number of a row; how many there are at TPC-H scale 0.5 and pgbench scale 20.
const ROWS: [(&str, u64, &str); 7] = [
    (
        "lineitem",
        3_000_000,
        "i / 4, (i % 4)::int, (i * 7 % 100000)::int, (i % 5000)::int, i % 50, i % 90000 / 7.0, 0.05, 0.02, 'N', 'O', \
         date '1995-01-01' + (i % 2000)::int, date '1995-02-01' + (i % 2000)::int, date '1995-03-01' + (i % 2000)::int, \
         'DELIVER IN PERSON', 'TRUCK', 'carefully ironic deposits ' || i % 999",
    ),
    (
        "orders",
        750_000,
        "i, (i % 75000)::int, 'O', i % 400000 / 3.0, date '1995-01-01' + (i % 2000)::int, '1-URGENT', 'Clerk#' || i % 500, 0, \
         'furiously final packages sleep quickly ' || i",
    ),
    (
        "customer",
        75_000,
        "i, 'Customer#' || i, 'somewhere ' || i, (i % 25)::int, '25-989-741-2988', i % 9999 / 3.0, 'BUILDING', \
         'to the even, regular platelets, regular, ironic epitaphs nag ' || i",
    ),
    ("part", 100_000, "i::int, 'goldenrod lavender spring ' || i, (i % 50)::int, 900 + i % 1000"),
    ("supplier", 5_000, "i::int, 'Supplier#' || i, (i % 25)::int, i % 9999"),
    ("pgbench_accounts", 2_000_000, "i, (i / 100000)::int, 0, ''"),
    ("pgbench_branches", 20, "i::int, 0, ''"),
];

/// Makes so many per cent of those rows.
pub fn make(ground: &Ground, percent: u64) -> Accounts {
    let mut app = ground.up.app();
    SCHEMA.iter().for_each(|sql| drop(app.must(sql)));
    for (table, rows, columns) in ROWS {
        let rows = (rows * percent / 100).max(20);
        for first in (0..rows).step_by(usize::try_from(CHUNK).unwrap()) {
            let last = (first + CHUNK).min(rows) - 1;
            app.must(&format!("INSERT INTO {table} SELECT {columns} FROM generate_series({first}::bigint, {last}) i"));
        }
    }
    for (table, key) in
        [("lineitem", "l_orderkey"), ("orders", "o_orderkey"), ("customer", "c_custkey"), ("pgbench_accounts", "aid")]
    {
        ground.run(&["table", "shard", table, "--key", key]);
    }
    for table in ["part", "supplier", "pgbench_branches"] {
        ground.run(&["table", "reference", table]);
    }
    Accounts { count: i64::try_from(2_000_000 * percent / 100).unwrap() }
}

/// Rows and checksum of each of these tables over all servers; reference tables have to be alike on all.
pub fn checksums(ground: &Ground) -> Vec<String> {
    let mut servers = ground.servers();
    let sum = |sql: &str, rows: Vec<Vec<String>>| -> (u64, i128) {
        let row = rows.first().unwrap_or_else(|| panic!("{sql}"));
        (row[0].parse().unwrap(), row[1].parse().unwrap())
    };
    let mut told = Vec::new();
    for (table, columns, is_reference) in [
        ("lineitem", "t.*", false),
        ("orders", "t.*", false),
        ("customer", "t.*", false),
        ("pgbench_accounts", "t.aid, t.bid, t.filler", false),
        ("part", "t.*", true),
        ("supplier", "t.*", true),
        ("pgbench_branches", "t.*", true),
    ] {
        let sql = format!(
            "SELECT count(*), coalesce(sum(hash_record_extended(ROW({columns}), 0)::numeric), 0) FROM {table} t"
        );
        let sums: Vec<(u64, i128)> = servers.iter_mut().map(|server| sum(&sql, server.must(&sql).texts())).collect();
        if is_reference {
            assert!(sums.iter().all(|other| *other == sums[0]), "{table}: {sums:?}");
            told.push(format!("{table} {:?}", sums[0]));
        } else {
            let total = sums.iter().fold((0, 0), |total, next| (total.0 + next.0, total.1 + next.1));
            told.push(format!("{table} {total:?}"));
        }
    }
    told
}
