//! The schema of the planner's cases.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ostrakon::base::{BucketId, Epoch, ShardId, Term};
use ostrakon::topology::schema::{
    Column, ColumnDefault, Relation, RelationKind, Schema, Travel, UniqueKey, ViewDefinition, Volatility, WrittenType,
};
use ostrakon::topology::{BUCKETS, BucketMap, Pins, Placement, Shard, TableName, TableRules, Topology};

/// Tables as `name placement: column type options, ...; unique keys`.
///
/// Placements: `key a b`, `reference`, `single`, `view of t u`. Options: `serial`, `always`, `default`, `time` (a default that tells the time), `constant`, `generated`,
/// `null` (columns are NOT NULL without it), `locale` (not bytewise), `nocase` (nondeterministic), `limited` (a type modifier).
const TABLES: &str = "
countries | reference | code text, name text null | code
products | reference | sku text, title text null, price numeric null | sku
tags | reference | id int8 serial, label text, made_at timestamptz default, rank int4 constant | id | label
users | key id | id int8 serial, email text, name text null, country text null, created_at timestamptz default, balance numeric null | id | id email
orders | key user_id | id int8 serial, user_id int8, status text null, amount numeric null, placed_at timestamptz null | user_id id
order_items | key user_id | user_id int8, order_id int8, line int4, sku text null, quantity int4 null, price numeric null | user_id order_id line
stamps | key id | id int8, at timestamptz time, token uuid default, n int4 null | id
archive | key user_id | id int8, user_id int8, status text null, amount numeric null, placed_at timestamptz null | user_id id
notes | key user_id | id int4 always, user_id int4, body text locale null | user_id id
settings | single | name text, value text null | name
audit | single | id int8 serial, at timestamptz default, line text null | id
events | key id | id uuid, kind text null, payload jsonb null, at timestamptz null | id
readings | key device day | device text, day date, value float8 null | device day
labels | key name | name varchar, kind varchar limited null, weight numeric null, nick text nocase null | name
tokens | key id | id uuid default, name text null | id
shops | key city | city varchar limited, n int4 null | city
pgbench_accounts | key aid | aid int4, bid int4 null, abalance int4 null, filler bpchar null | aid
pgbench_branches | key bid | bid int4, bbalance int4 null, filler bpchar null | bid
pgbench_tellers | key tid | tid int4, bid int4 null, tbalance int4 null, filler bpchar null | tid
pgbench_history | key aid | tid int4 null, bid int4 null, aid int4 null, delta int4 null, mtime timestamp null, filler bpchar null |
lineitem | key l_orderkey | l_orderkey int8, l_partkey int8, l_suppkey int8, l_linenumber int4, l_quantity numeric, l_extendedprice numeric, l_discount numeric, l_tax numeric, l_returnflag bpchar, l_linestatus bpchar, l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct bpchar, l_shipmode bpchar, l_comment varchar | l_orderkey l_linenumber
tpch_orders | key o_orderkey | o_orderkey int8, o_custkey int8, o_orderstatus bpchar, o_totalprice numeric, o_orderdate date, o_orderpriority bpchar, o_clerk bpchar, o_shippriority int4, o_comment varchar | o_orderkey
customer | key c_custkey | c_custkey int8, c_name varchar, c_address varchar, c_nationkey int4, c_phone bpchar, c_acctbal numeric, c_mktsegment bpchar, c_comment varchar | c_custkey
nation | reference | n_nationkey int4, n_name bpchar, n_regionkey int4, n_comment varchar | n_nationkey
region | reference | r_regionkey int4, r_name bpchar, r_comment varchar | r_regionkey
user_names | view of users | id int8, name text null |
country_names | view of countries | code text, name text null |
setting_names | view of settings | name text |
german_users | view of users | id int8, name text null |
user_orders | view of users orders | id int8, name text null, amount numeric null |
status_totals | view of orders | status text null, n int8 |
user_totals | view of orders | user_id int8, n int8 |
user_five | view of users | id int8, name text null |
named_twice | view of german_users users | id int8, name text null |
latest | materialized of orders | user_id int8, last timestamptz null |
totals | materialized of orders | status text null, n int8 |
other.users | single | id int8, name text null | id
";

/// What views select, as `pg_get_viewdef` prints it under an empty search path.
const DEFINITIONS: &[(&str, &str)] = &[
    ("user_names", " SELECT users.id,\n    users.name\n   FROM public.users;"),
    ("country_names", " SELECT countries.code,\n    countries.name\n   FROM public.countries;"),
    ("setting_names", " SELECT settings.name\n   FROM public.settings;"),
    ("german_users", " SELECT users.id,\n    users.name\n   FROM public.users\n  WHERE (users.country = 'de'::text);"),
    (
        "user_orders",
        " SELECT u.id,\n    u.name,\n    o.amount\n   FROM (public.users u\n     LEFT JOIN public.orders o ON ((o.user_id = u.id)));",
    ),
    ("status_totals", " SELECT orders.status,\n    count(*) AS n\n   FROM public.orders\n  GROUP BY orders.status;"),
    ("user_totals", " SELECT orders.user_id,\n    count(*) AS n\n   FROM public.orders\n  GROUP BY orders.user_id;"),
    ("user_five", " SELECT users.id,\n    users.name\n   FROM public.users\n  WHERE (users.id = 5);"),
    ("named_twice", " SELECT german_users.id,\n    german_users.name\n   FROM public.german_users;"),
    (
        "latest",
        " SELECT orders.user_id,\n    max(orders.placed_at) AS last\n   FROM public.orders\n  GROUP BY orders.user_id;",
    ),
    ("totals", " SELECT orders.status,\n    count(*) AS n\n   FROM public.orders\n  GROUP BY orders.status;"),
];

fn type_oid(name: &str) -> u32 {
    match name {
        "int2" => 21,
        "int4" => 23,
        "int8" => 20,
        "text" => 25,
        "varchar" => 1043,
        "bpchar" => 1042,
        "uuid" => 2950,
        "numeric" => 1700,
        "date" => 1082,
        "timestamp" => 1114,
        "timestamptz" => 1184,
        "float8" => 701,
        "jsonb" => 3802,
        other => panic!("type {other}"),
    }
}

fn table_name(text: &str) -> TableName {
    let (schema, name) = text.split_once('.').unwrap_or(("public", text));
    TableName { schema: schema.to_owned(), name: name.to_owned() }
}

fn column(table: &TableName, text: &str) -> Column {
    let words: Vec<&str> = text.split_whitespace().collect();
    let has = |option: &str| words.contains(&option);
    let sequence = TableName { schema: table.schema.clone(), name: format!("{}_{}_seq", table.name, words[0]) };
    let default = match () {
        () if has("serial") => ColumnDefault::Sequence { sequence, always: false },
        () if has("always") => ColumnDefault::Sequence { sequence, always: true },
        () if has("default") || has("time") => ColumnDefault::Expression,
        () if has("constant") => ColumnDefault::Constant,
        () if has("generated") => ColumnDefault::Generated,
        () => ColumnDefault::None,
    };
    Column {
        name: words[0].to_owned(),
        type_oid: type_oid(words[1]),
        has_type_modifier: has("limited"),
        collation_is_bytewise: !has("locale") && !has("nocase"),
        collation_is_deterministic: !has("nocase"),
        not_null: !has("null"),
        default,
        time_default: has("time").then(|| "now()".to_owned()),
        written: WrittenType {
            full: words[1].to_owned(),
            base: format!("pg_catalog.{}", words[1]),
            collation: (has("locale") || has("nocase")).then(|| "public.locale".to_owned()),
            travel: Travel::Binary,
        },
    }
}

/// The schema and how its tables are placed.
pub fn schema() -> (Schema, TableRules) {
    let mut schema = Schema { version: 1, collation_is_bytewise: true, ..Schema::default() };
    let mut rules = TableRules::default();
    for (oid, line) in (16_384..).zip(TABLES.lines().filter(|line| !line.is_empty())) {
        let mut fields = line.split('|').map(str::trim);
        let name = table_name(fields.next().unwrap());
        let placement = fields.next().unwrap();
        let columns: Vec<Column> = fields.next().unwrap().split(',').map(|text| column(&name, text.trim())).collect();
        let unique = fields
            .filter(|text| !text.is_empty())
            .enumerate()
            .map(|(index, text)| UniqueKey {
                name: format!("{}_{index}", name.name),
                primary: index == 0,
                columns: text.split_whitespace().map(str::to_owned).collect(),
            })
            .collect();
        let mut words = placement.split_whitespace();
        let mut view_reads = Vec::new();
        match words.next().unwrap() {
            "key" => {
                let key = words.map(str::to_owned).collect();
                rules.declared.insert(name.clone(), Placement::Sharded { key });
            }
            "reference" => {
                rules.declared.insert(name.clone(), Placement::Reference);
            }
            "view" | "materialized" => view_reads = words.skip(1).map(table_name).collect(),
            _ => {}
        }
        let kind = match placement.split_whitespace().next() {
            Some("view") => RelationKind::View,
            Some("materialized") => RelationKind::MaterializedView,
            _ => RelationKind::Table,
        };
        let definition = DEFINITIONS.iter().find(|(view, _)| *view == name.name && name.schema == "public");
        let view = definition.map(|(_, sql)| ViewDefinition { sql: (*sql).to_owned(), has_row_security: false });
        let relation = Relation {
            name: name.clone(),
            oid,
            kind,
            columns,
            unique,
            foreign_keys: Vec::new(),
            view_reads,
            view,
            parent: None,
            has_triggers: false,
        };
        schema.relations.insert(name, Arc::new(relation));
    }
    schema.functions = HashMap::from([
        ("double_it".to_owned(), Volatility::Immutable),
        ("median".to_owned(), Volatility::Immutable),
        ("count_orders".to_owned(), Volatility::Stable),
        ("do_things".to_owned(), Volatility::Volatile),
        ("uuid_generate_v4".to_owned(), Volatility::Volatile),
    ]);
    schema.many_rows = HashSet::from(["median".to_owned()]);
    (schema, rules)
}

/// A cluster whose buckets are dealt out in turn.
pub fn topology(shards: u32, tables: TableRules) -> Topology {
    let owners = (0..BUCKETS).map(|bucket| ShardId(1 + BucketId(bucket as u16).0 as u32 % shards)).collect();
    Topology {
        epoch: Epoch(1),
        database: "app".to_owned(),
        shards: (1..=shards)
            .map(|id| Shard { id: ShardId(id), name: format!("s{id}"), term: Term(1), weight: 100 })
            .collect(),
        nodes: Vec::new(),
        buckets: BucketMap::from_owners(owners).unwrap(),
        pins: Pins::default(),
        tables,
    }
}
