//! The list of what is measured.

use crate::{bulk, pool, relay, sizes, statements};

/// One turn of a piece.
pub type Turn = Box<dyn FnMut()>;

/// Names; those that differ only behind a `|` are one piece at several sizes, which must not cost more at the larger.
pub const NAMES: [&str; 32] = [
    "framing: headers of 200 rows",
    "framing: 100 messages taken",
    "lexer: point select",
    "lexer: insert of 20 rows",
    "fingerprint: point select",
    "hash: int8",
    "hash: text of 24 bytes",
    "hash: two columns",
    "plan: point select",
    "plan: scatter",
    "relay: select, simple",
    "relay: select, extended",
    "relay: select, prepared",
    "relay: 1,000 rows",
    "pool: checkout and return",
    "merge: 3,000 rows as they come",
    "merge: 3,000 rows by int8",
    "merge: 3,000 rows by text",
    "merge: sum and count of 3 shards",
    "merge: 300 groups",
    "copy in: 1,000 rows, text",
    "copy in: 1,000 rows, csv",
    "copy in: 1,000 rows, binary",
    "copy out: 1,000 rows, text",
    "route: plan cache hit | 2 shards",
    "route: plan cache hit | 64 shards",
    "route: plan cache hit | 1,024 shards",
    "route: plan cache hit, tables | 30",
    "route: plan cache hit, tables | 10,000",
    "route: plan cache hit, statements | 1",
    "route: plan cache hit, statements | 1,000",
    "route: plan cache hit, statements | 100,000",
];

/// Makes a case ready; what it returns is one turn of it.
pub fn prepare(name: &str) -> Turn {
    match name {
        "framing: headers of 200 rows" => relay::headers(),
        "framing: 100 messages taken" => relay::frames(),
        "lexer: point select" => statements::lexer(statements::POINT),
        "lexer: insert of 20 rows" => statements::lexer(&statements::insert_of(20)),
        "fingerprint: point select" => statements::fingerprint(statements::POINT),
        "hash: int8" => statements::hash(statements::int8_key()),
        "hash: text of 24 bytes" => statements::hash(statements::text_key()),
        "hash: two columns" => statements::hash(statements::two_keys()),
        "plan: point select" => statements::plan(statements::POINT),
        "plan: scatter" => statements::plan(statements::SCATTER),
        "relay: select, simple" => relay::simple(1),
        "relay: select, extended" => relay::extended(),
        "relay: select, prepared" => relay::prepared(),
        "relay: 1,000 rows" => relay::simple(1_000),
        "pool: checkout and return" => pool::checkout_and_return(),
        "merge: 3,000 rows as they come" => bulk::merge(bulk::Order::None),
        "merge: 3,000 rows by int8" => bulk::merge(bulk::Order::Int8),
        "merge: 3,000 rows by text" => bulk::merge(bulk::Order::Text),
        "merge: sum and count of 3 shards" => bulk::aggregate(1),
        "merge: 300 groups" => bulk::aggregate(300),
        "copy in: 1,000 rows, text" => bulk::copy_in("text"),
        "copy in: 1,000 rows, csv" => bulk::copy_in("csv"),
        "copy in: 1,000 rows, binary" => bulk::copy_in("binary"),
        "copy out: 1,000 rows, text" => bulk::copy_out(),
        "route: plan cache hit | 2 shards" => sizes::route(2, 0, 1),
        "route: plan cache hit | 64 shards" => sizes::route(64, 0, 1),
        "route: plan cache hit | 1,024 shards" => sizes::route(1_024, 0, 1),
        "route: plan cache hit, tables | 30" => sizes::route(3, 0, 1),
        "route: plan cache hit, tables | 10,000" => sizes::route(3, 10_000, 1),
        "route: plan cache hit, statements | 1" => sizes::route(3, 0, 1),
        "route: plan cache hit, statements | 1,000" => sizes::route(3, 0, 1_000),
        "route: plan cache hit, statements | 100,000" => sizes::route(3, 0, 100_000),
        other => panic!("no case {other}"),
    }
}
