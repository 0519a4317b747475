//! Statements of drivers, ORMs, pgbench, psql and TPC-H: every one has a tree.

use std::path::Path;

use ostrakon::sql::{lex, parse, split_tokens};

/// Parses every statement of a file, and says what does not parse.
fn refused(file: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql/corpus").join(file);
    let text = std::fs::read_to_string(&path).expect("the corpus is readable");
    let lexed = lex(&text).expect("the corpus lexes");
    let statements = split_tokens(&text, &lexed);
    assert!(statements.len() > 5, "{file} has only {} statements", statements.len());
    let mut refused = Vec::new();
    for tokens in statements {
        let alone = lexed.extract(tokens.clone());
        let statement = &text[lexed.byte_range(tokens)];
        if let Err(error) = parse(statement, &alone) {
            refused.push(format!("{error}: {statement}\n"));
        }
    }
    refused
}

fn all_parse(file: &str) {
    let refused = refused(file);
    assert!(refused.is_empty(), "{} refused:\n{}", refused.len(), refused.join("\n"));
}

#[test]
fn statements_of_orms_and_drivers_parse() {
    all_parse("clients.sql");
}

#[test]
fn statements_of_pgbench_parse() {
    all_parse("pgbench.sql");
}

#[test]
fn statements_of_psql_parse() {
    all_parse("psql.sql");
}

#[test]
fn statements_of_tpch_parse() {
    all_parse("tpch.sql");
}

#[test]
fn forms_of_postgresql_parse() {
    all_parse("forms.sql");
}
