//! The tables of `docs/reference/sql.md` are true.

use ostrakon::planner::{self, Context};
use ostrakon::sql;

use crate::demo;

/// Statements of the page's tables; `true` for those that are said to be refused.
fn statements(page: &str) -> Vec<(&str, bool)> {
    let mut is_refused = false;
    let mut found = Vec::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            is_refused = heading.starts_with("Refused");
        }
        if let Some((statement, _)) = line.strip_prefix("| `").and_then(|rest| rest.split_once("` |")) {
            found.push((statement, is_refused));
        }
    }
    found
}

#[test]
fn the_reference_page_is_true() {
    let page = include_str!("../../docs/reference/sql.md");
    let (schema, tables) = demo::schema();
    let topology = demo::topology(4, tables);
    let search_path = ["public".to_owned()];
    let mut wrong = Vec::new();
    let mut counts = [0, 0];
    for (text, is_refused) in statements(page) {
        counts[usize::from(is_refused)] += 1;
        let context = Context { topology: &topology, schema: &schema, search_path: &search_path, text };
        let lexed = sql::lex(text).unwrap();
        let statement = sql::parse(text, &lexed).unwrap_or_else(|error| panic!("{text}: {error}"));
        match planner::plan(&context, &lexed, &statement) {
            Ok(plan) if is_refused => wrong.push(format!("{text}: planned, {}", plan.reason)),
            Err(refusal) if !is_refused || refusal.sqlstate() != "0A000" => wrong.push(format!("{text}: {refusal}")),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(counts[0] > 50 && counts[1] > 20, "{counts:?}");
}
