//! `docs/reference/statements.md` is written from the planner's cases: `UPDATE=1` rewrites it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use crate::{Case, files, one_line, read_cases};

const HEAD: &str = "# Statements, and how they are answered

Every statement of the planner's cases (`tests/plans`) with four shards: where it goes, or why it is refused. Written by
`UPDATE=1 cargo nextest run --test plans`; a test checks that it is fresh. [sql.md](sql.md) explains the same with fewer words.
";

/// Headings, in the order of the page.
const CLASSES: [(&str, &str); 6] = [
    ("On one shard", "The client's own text goes to the shard that has all of it; the statement may do anything."),
    (
        "On several shards, merged in the proxy",
        "Each shard answers for its rows; the proxy puts them together as it reads them.",
    ),
    ("On several shards, gathered", "Rows go to one PostgreSQL, which computes the answer."),
    ("Written on several shards", "All shards commit, or none."),
    ("Schema and maintenance", "Every shard does the same."),
    ("Refused", "Nothing has run."),
];

/// Which heading a case belongs under; `None`: it is no example.
fn class(case: &Case) -> Option<usize> {
    let mut lines = case.expected.lines();
    let first = lines.next().unwrap_or_default();
    let is_gathered = lines.any(|line| line.starts_with("several: gather"));
    Some(match first {
        _ if first.starts_with("refused") => 5,
        _ if first.starts_with("not ") => return None,
        _ if is_gathered => 2,
        _ if first.starts_with("ddl") => 4,
        "read on all shards" | "read and lock on all shards" => 1,
        _ if first.starts_with("write on the shard of each row") || first == "write on all shards" => 3,
        _ => 0,
    })
}

/// What the right column says.
fn how(case: &Case) -> String {
    let line = |prefix: &str| case.expected.lines().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned);
    let first = case.expected.lines().next().unwrap_or_default();
    if first.starts_with("refused") {
        let message = first.split_once(": ").map_or(first, |(_, message)| message).to_owned();
        let code = first.split([' ', ':']).nth(1).filter(|code| *code != "0A000");
        let code = code.map(|code| format!("{code}: ")).unwrap_or_default();
        return format!("{code}{message}. {}", line("hint: ").unwrap_or_default());
    }
    match (line("several: "), line("because ")) {
        (Some(several), _) if first.contains("all shards") => several,
        (_, Some(reason)) => reason,
        (Some(several), None) => several,
        (None, None) => first.to_owned(),
    }
}

fn cell(text: &str) -> String {
    one_line(text).replace('|', "\\|").replace('\n', " ")
}

fn page() -> String {
    let mut classes: BTreeMap<usize, Vec<(String, String)>> = BTreeMap::new();
    for file in files().into_iter().filter(|file| !file.ends_with("one_shard.txt")) {
        for case in read_cases(&fs::read_to_string(file).unwrap()).0 {
            if let Some(class) = class(&case) {
                classes.entry(class).or_default().push((case.sql.clone(), how(&case)));
            }
        }
    }
    let mut out = HEAD.to_owned();
    for (class, cases) in classes {
        let (heading, says) = CLASSES[class];
        let _ = write!(out, "\n## {heading}\n\n{says}\n\n| statement | how |\n|---|---|\n");
        for (sql, how) in cases {
            // A backtick inside would end the code.
            let _ = writeln!(out, "| `{}` | {} |", cell(&sql).replace('`', "'"), cell(&how));
        }
    }
    out
}

#[test]
fn the_page_of_statements_is_fresh() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/reference/statements.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, page).unwrap();
        return;
    }
    assert_eq!(fs::read_to_string(path).unwrap_or_default(), page, "UPDATE=1 writes the page anew");
}
