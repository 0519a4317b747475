//! From a text to its plan, step by step.

use std::fmt::Write as _;
use std::hint::black_box;

use ostrakon::planner::{self, Context};
use ostrakon::sql;
use ostrakon::topology::{KeyValue, hash};

use crate::cases::Turn;
use crate::demo;

pub const POINT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 471100";
pub const SCATTER: &str = "SELECT bid, count(*), sum(abalance) FROM pgbench_accounts \
                           WHERE aid BETWEEN 10 AND 3000 GROUP BY bid ORDER BY bid LIMIT 10";

/// An INSERT of so many rows.
pub fn insert_of(rows: usize) -> String {
    let mut text = "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ".to_owned();
    for row in 0..rows {
        let comma = if row > 0 { ", " } else { "" };
        write!(text, "{comma}({row}, {row}, {row}00, -{row}, '2026-01-31 12:00:00')").unwrap();
    }
    text
}

pub fn lexer(text: &str) -> Turn {
    let text = text.to_owned();
    Box::new(move || {
        black_box(sql::lex(black_box(&text)).unwrap());
    })
}

pub fn fingerprint(text: &str) -> Turn {
    let text = text.to_owned();
    let lexed = sql::lex(&text).unwrap();
    Box::new(move || {
        black_box(sql::fingerprint(black_box(&text), &lexed));
    })
}

pub fn int8_key() -> Vec<KeyValue> {
    vec![KeyValue::Int(471_100)]
}

pub fn text_key() -> Vec<KeyValue> {
    vec![KeyValue::Text(b"customer-4711@example.org".to_vec())]
}

pub fn two_keys() -> Vec<KeyValue> {
    vec![KeyValue::Int(471_100), KeyValue::Text(b"europe".to_vec())]
}

pub fn hash(key: Vec<KeyValue>) -> Turn {
    Box::new(move || {
        black_box(hash::bucket(black_box(&key)));
    })
}

/// Parse and plan, as when no cache knows the statement.
pub fn plan(text: &'static str) -> Turn {
    let (schema, tables) = demo::schema();
    let topology = demo::topology(3, tables);
    let search_path = ["public".to_owned()];
    Box::new(move || {
        let lexed = sql::lex(text).unwrap();
        let statement = sql::parse(text, &lexed).unwrap();
        let context = Context { topology: &topology, schema: &schema, search_path: &search_path, text };
        black_box(planner::plan(&context, &lexed, &statement).unwrap());
    })
}
