//! The planner's cases: SQL, `----`, compact plan or refusal. `UPDATE=1` rewrites them; the diff is reviewed like code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod binding;
mod demo;
mod reference;
mod statements;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use ostrakon::error::ClientError;
use ostrakon::plan::{Filled, Plan, Several, text};
use ostrakon::planner::{self, Context, rewrite};
use ostrakon::sql;

/// One case of a file: comments before it, SQL, expectation.
struct Case {
    comments: String,
    sql: String,
    expected: String,
}

fn read_cases(content: &str) -> (Vec<Case>, String) {
    let mut cases = Vec::new();
    let (mut comments, mut sql, mut expected, mut is_answer) = (String::new(), String::new(), String::new(), false);
    for line in content.lines().chain([""]) {
        if line == "----" {
            is_answer = true;
        } else if line.is_empty() {
            if !sql.is_empty() {
                assert!(is_answer, "no ---- after {sql}");
                cases.push(Case {
                    comments: std::mem::take(&mut comments),
                    sql: std::mem::take(&mut sql).trim_end().to_owned(),
                    expected: std::mem::take(&mut expected),
                });
                is_answer = false;
            } else if !comments.is_empty() {
                comments.push('\n');
            }
        } else if line.starts_with('#') && sql.is_empty() {
            let _ = writeln!(comments, "{line}");
        } else if is_answer {
            let _ = writeln!(expected, "{line}");
        } else {
            let _ = writeln!(sql, "{line}");
        }
    }
    (cases, comments)
}

fn answer(context: &Context<'_>) -> String {
    let lexed = match sql::lex(context.text) {
        Ok(lexed) => lexed,
        Err(error) => return format!("not lexed: {error}\n"),
    };
    let planned = match sql::parse(context.text, &lexed) {
        Ok(statement) => planner::plan(context, &lexed, &statement),
        Err(error) => match planner::plan_unparsed(context, &lexed) {
            Ok(plan) => Ok(plan),
            Err(refusal) => return format!("not parsed: {error}\n{}", refused(&refusal)),
        },
    };
    match planned {
        Ok(plan) => text::render(&plan) + &sent(context, &lexed, &plan),
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &ClientError) -> String {
    let mut out = format!("refused {}: {}\n", refusal.sqlstate(), refusal.message);
    let _ = writeln!(out, "hint: {}", refusal.hint.as_deref().expect("every refusal says what to do"));
    out
}

/// The text that the shards get, when it is not the client's.
fn sent(context: &Context<'_>, lexed: &sql::Lexed, plan: &Plan) -> String {
    let mut out = String::new();
    if let Several::Merge { splices, .. } = &plan.several
        && !splices.is_empty()
    {
        let _ = writeln!(out, "sent: {}", one_line(rewrite::apply(context.text, lexed, splices, Some(777)).text()));
    }
    if let Several::Gather(gather) | Several::Merge { otherwise: Some(gather), .. } = &plan.several {
        if let Some(partial) = &gather.partial {
            let combined: Vec<String> = (0..partial.columns.len())
                .map(|column| format!("{:?}(c{column})", partial.columns[column].kind).to_lowercase())
                .collect();
            let _ = writeln!(out, "partial: {}", one_line(&rewrite::render(context.text, lexed, &partial.fetch)));
            let text = rewrite::apply_combined(context.text, lexed, &partial.splices, &combined, "rows");
            let _ = writeln!(out, "combined: {}", one_line(text.text()));
        }
        for source in &gather.sources {
            let columns: Vec<&str> = source.columns.iter().map(|column| column.expression.as_str()).collect();
            let from = rewrite::render(context.text, lexed, &source.from);
            let _ = writeln!(out, "gathered: SELECT {} {}", columns.join(", "), one_line(&from));
        }
        let _ =
            writeln!(out, "finished: {}", one_line(rewrite::apply(context.text, lexed, &gather.splices, None).text()));
    }
    if let Some(insert) = &plan.insert {
        let id = |fill: usize, row: usize| Some(Filled::Id((1000 * (fill + 1) + row) as i64));
        for row in 0..insert.rows.len().min(2) {
            if insert.rows.len() == 1 && insert.fills.is_empty() {
                continue;
            }
            let rows: Vec<usize> = if row == 0 { vec![0] } else { (0..insert.rows.len()).collect() };
            let (text, used) = rewrite::insert_for_shard(context.text, lexed, insert, &rows, &id, &[]);
            let used: Vec<String> = used.iter().map(|number| format!("${number}")).collect();
            let _ = writeln!(out, "sent for {rows:?}: {} [{}]", one_line(text.text()), used.join(" "));
        }
    }
    if let Some(copy) = plan.copy.as_ref().filter(|copy| !copy.splices.is_empty()) {
        let _ = writeln!(out, "sent: {}", one_line(rewrite::apply(context.text, lexed, &copy.splices, None).text()));
    }
    out
}

fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).collect::<Vec<_>>().join(" ")
}

fn run(path: &Path) -> Result<usize, String> {
    let (schema, tables) = demo::schema();
    let shards = if path.ends_with("one_shard.txt") { 1 } else { 4 };
    let topology = demo::topology(shards, tables);
    let search_path = ["public".to_owned()];
    let content = fs::read_to_string(path).unwrap();
    let (cases, rest) = read_cases(&content);
    let mut updated = String::new();
    let mut wrong = String::new();
    for case in &cases {
        let context = Context { topology: &topology, schema: &schema, search_path: &search_path, text: &case.sql };
        let actual = answer(&context);
        if actual != case.expected {
            let _ = writeln!(wrong, "{}\nexpected:\n{}actual:\n{actual}", case.sql, case.expected);
        }
        let _ = writeln!(updated, "{}{}\n----\n{actual}", case.comments, case.sql);
    }
    updated.push_str(&rest);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, updated).unwrap();
        return Ok(cases.len());
    }
    if wrong.is_empty() { Ok(cases.len()) } else { Err(format!("{}:\n{wrong}", path.display())) }
}

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    files
}

#[test]
fn plans_are_as_the_cases_say() {
    let mut count = 0;
    let mut wrong = String::new();
    for file in files() {
        match run(&file) {
            Ok(cases) => count += cases,
            Err(error) => wrong.push_str(&error),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(count >= 250, "only {count} cases were found");
}

/// Statements of every kind, most of them over tables that are not known: whatever they are, they are planned or
/// refused with a hint.
#[test]
fn no_statement_is_left_without_an_answer() {
    let (schema, tables) = demo::schema();
    let search_path = ["public".to_owned()];
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql/corpus");
    let mut count = 0;
    for shards in [1, 4] {
        let topology = demo::topology(shards, tables.clone());
        for file in fs::read_dir(&directory).unwrap() {
            let content = fs::read_to_string(file.unwrap().path()).unwrap();
            let Ok(lexed) = sql::lex(&content) else { continue };
            for range in sql::split(&content, &lexed) {
                // Known tables take the place of others, so that more is looked at.
                for name in ["users", "orders", "countries", "settings"] {
                    let text = content
                        .get(range.clone())
                        .unwrap_or_default()
                        .replace("users", name)
                        .replace(" t ", " orders ");
                    let context =
                        Context { topology: &topology, schema: &schema, search_path: &search_path, text: &text };
                    let Ok(lexed) = sql::lex(&text) else { continue };
                    let Ok(statement) = sql::parse(&text, &lexed) else { continue };
                    if let Err(refusal) = planner::plan(&context, &lexed, &statement) {
                        assert!(refusal.hint.is_some() || refusal.sqlstate() == "XX000", "{text}: {refusal}");
                    }
                    count += 1;
                }
            }
        }
    }
    assert!(count > 1_000, "{count}");
}
