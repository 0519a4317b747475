//! The parser crate's own reading of whole statements: no name that it sees may be missing from our tree.

use std::collections::BTreeSet;

use ostrakon::sql::{lex, parse, split};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

/// Names that our tree leaves out, or that the crate alone takes for names.
const EXPLAINED: &[(&str, &[&str])] = &[
    // Fields of a composite value, and the word DEFAULT.
    ("clients", &["id", "name", "default"]),
    // The names of windows, constraints, operator classes and a table made by INTO; fields; the words ARRAY, ROW and
    // `<` that it reads as names; and what it misreads: literals behind a type's name, ISNULL, LIKE ALL, escapes in
    // names, a string that goes on in the next line.
    (
        "forms",
        &[
            "h",
            "u",
            "a\\",
            "n",
            "j",
            "k",
            "w",
            "w2",
            "<",
            "all",
            "array",
            "b",
            "b1",
            "char",
            "d\\\\0061t",
            "happy",
            "isnull",
            "nfc",
            "row",
            "t_pkey",
            "text_ops",
            "x y",
            "x1f",
            "default",
        ],
    ),
    ("pgbench", &[]),
    ("psql", &["array"]),
    ("tpch", &[]),
];

/// The strings of a tree's debug output, in lower case.
fn quoted(debug: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut characters = debug.chars();
    while characters.any(|character| character == '"') {
        let mut text = String::new();
        while let Some(character) = characters.next().filter(|character| *character != '"') {
            text.push(if character == '\\' { characters.next().unwrap() } else { character });
        }
        found.insert(text.to_ascii_lowercase());
    }
    found
}

/// How many statements both read, and how many names the crate found in them.
fn compare(file: &str, explained: &[&str]) -> (usize, usize) {
    let path = format!("{}/tests/sql/corpus/{file}.sql", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let lexed = lex(&text).unwrap();
    let (mut compared, mut names) = (0, 0);
    for range in split(&text, &lexed) {
        let statement = &text[range];
        let first = statement.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        if !["select", "with", "insert", "update", "delete", "(select"].contains(&first.as_str()) {
            continue;
        }
        let Ok(theirs) = Parser::parse_sql(&PostgreSqlDialect {}, statement) else { continue };
        let ours = format!("{:?}", parse(statement, &lex(statement).unwrap()).unwrap());
        let ours = quoted(&ours);
        let theirs = format!("{theirs:?}");
        let theirs = theirs.split("Ident { value: \"").skip(1).filter_map(|part| part.split('"').next());
        for name in theirs.map(str::to_ascii_lowercase).collect::<BTreeSet<_>>() {
            // A type is one text with its schema.
            let is_there =
                ours.iter().any(|ours| *ours == name || ours.split(['.', ' ', '[', '(']).any(|part| part == name));
            assert!(is_there || explained.contains(&name.as_str()), "{name} is missing from the tree of {statement}");
            names += 1;
        }
        compared += 1;
    }
    (compared, names)
}

#[test]
fn no_name_of_a_statement_is_lost() {
    let mut total = (0, 0);
    for (file, explained) in EXPLAINED {
        let (compared, names) = compare(file, explained);
        println!("{file}: {compared} statements, {names} names");
        total = (total.0 + compared, total.1 + names);
    }
    assert!(total.0 > 200 && total.1 > 3000, "{total:?}");
}
