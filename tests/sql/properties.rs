//! What holds for any input: no panic, exact splits, equal fingerprints where only literals differ.

use ostrakon::sql::ast::Statement;
use ostrakon::sql::walk::for_each_expr;
use ostrakon::sql::{Lexed, LiteralKind, TokenKind, fingerprint, lex, parse, split, split_tokens};
use proptest::prelude::*;

fn corpus() -> Vec<String> {
    let mut statements = Vec::new();
    for file in ["clients", "forms", "pgbench", "tpch"] {
        let path = format!("{}/tests/sql/corpus/{file}.sql", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let lexed = lex(&text).unwrap();
        statements.extend(split(&text, &lexed).into_iter().map(|range| text[range].to_owned()));
    }
    statements
}

/// Everything that may be asked of a text, none of which may panic.
fn exercise(text: &str) {
    let Ok(lexed) = lex(text) else { return };
    let mut last = 0;
    for (index, token) in lexed.tokens.iter().enumerate() {
        assert!(token.start >= last && token.end > token.start && token.end <= text.len());
        assert!(text.get(token.start..token.end).is_some());
        last = token.end;
        if matches!(token.kind, TokenKind::Word | TokenKind::QuotedIdent) {
            let name = lexed.identifier(text, index).unwrap();
            assert!(!name.is_empty() && name.len() <= 63);
        }
    }
    let _ = fingerprint(text, &lexed);
    for (tokens, bytes) in split_tokens(text, &lexed).into_iter().zip(split(text, &lexed)) {
        let alone = &text[bytes];
        let extracted = lexed.extract(tokens);
        assert_eq!(lex(alone).unwrap(), extracted);
        check_tree(alone, &extracted);
    }
    check_tree(text, &lexed);
}

fn check_tree(text: &str, lexed: &Lexed) {
    if let Ok(statement) = parse(text, lexed) {
        let mut seen = 0;
        for_each_expr(&statement, |_| seen += 1);
        assert_eq!(statement, statement.clone());
    }
}

/// Pieces that stress the lexer when put together at random.
fn piece() -> impl Strategy<Value = String> {
    let pieces = [
        "'",
        "''",
        "\"",
        "$",
        "$$",
        "$a$",
        "--",
        "\n",
        "/*",
        "*/",
        "E'",
        "\\",
        "U&'",
        "U&\"",
        "UESCAPE",
        "B'",
        "x'",
        "1",
        ".",
        "..",
        "e5",
        "+",
        "-",
        "<",
        ">",
        "=",
        "@",
        "(",
        ")",
        "[",
        "]",
        ",",
        ";",
        ":",
        "::",
        "select",
        "from",
        "case",
        "end",
        "when",
        "a",
        "ä",
        "\u{0}",
        "😀",
        "\\u00e4",
        "\\x4",
        "$1",
        "in",
        "between",
        "and",
        "or",
        "not",
        "order by",
        "group by",
        "join",
        "on",
        "union",
        "insert into",
        "values",
        "with",
        "as",
        "begin atomic",
        "create function",
        "interval",
        "cast(",
        "is",
        "null",
        "over",
        "distinct",
        " ",
        "\t",
    ];
    prop_oneof![
        8 => proptest::sample::select(pieces.to_vec()).prop_map(str::to_owned),
        1 => any::<String>(),
        1 => "[ -~]{0,8}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_text_never_panics(pieces in proptest::collection::vec(piece(), 0..40)) {
        exercise(&pieces.concat());
        exercise(&pieces.join(" "));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        exercise(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn mutated_statements_never_panic(
        pick in any::<proptest::sample::Index>(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), 0..4u8, piece()), 1..6),
    ) {
        let corpus = CORPUS.get_or_init(corpus);
        let mut text = pick.get(corpus).clone();
        for (at, how, piece) in changes {
            let boundaries: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let start = *at.get(&boundaries);
            match how {
                0 => text.insert_str(start, &piece),
                1 => text.truncate(start),
                2 => {
                    let end = boundaries.iter().copied().find(|end| *end > start + 3).unwrap_or(text.len());
                    text.replace_range(start..end, &piece);
                }
                _ => {
                    let copy = text[start..].to_owned();
                    text.push_str(&copy);
                }
            }
        }
        exercise(&text);
    }

    #[test]
    fn rewritten_statements_keep_fingerprint_and_tree(
        pick in any::<proptest::sample::Index>(),
        seeds in proptest::collection::vec(any::<u32>(), 64),
    ) {
        let corpus = CORPUS.get_or_init(corpus);
        let text = pick.get(corpus);
        let lexed = lex(text).unwrap();
        let other = rewritten(text, &lexed, &seeds);
        let other_lexed = lex(&other).unwrap();
        let kinds = |lexed: &Lexed| lexed.tokens.iter().map(|token| token.kind).collect::<Vec<_>>();
        prop_assert_eq!(kinds(&lexed), kinds(&other_lexed), "{} / {}", text, other);
        if fingerprint(text, &lexed) == fingerprint(&other, &other_lexed) {
            prop_assert_eq!(parse(text, &lexed), parse(&other, &other_lexed), "{}", other);
        } else {
            // Only statements that keep literals, or that group or sort by them, may differ.
            let lower = text.to_ascii_lowercase();
            let statement = parse(text, &lexed).unwrap();
            let lifts = matches!(
                statement,
                Statement::Query(_) | Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) | Statement::Merge(_)
            );
            let keeps = ["order by", "group by", "having", "distinct on", "::", "cast", "interval", "varchar("];
            prop_assert!(!lifts || keeps.iter().any(|word| lower.contains(word)), "{} / {}", text, other);
        }
    }

    #[test]
    fn a_changed_token_changes_the_fingerprint(
        pick in any::<proptest::sample::Index>(),
        at in any::<proptest::sample::Index>(),
    ) {
        let corpus = CORPUS.get_or_init(corpus);
        let text = pick.get(corpus);
        let lexed = lex(text).unwrap();
        let index = at.index(lexed.tokens.len());
        let token = lexed.tokens[index];
        let replacement = match token.kind {
            TokenKind::Literal(literal) => match lexed.literals[literal].kind {
                LiteralKind::String => "5",
                _ => "'x'",
            },
            TokenKind::Param(_) => "$77",
            _ => "zzz",
        };
        let other = format!("{} {replacement} {}", &text[..token.start], &text[token.end..]);
        if let Ok(other_lexed) = lex(&other) {
            prop_assert_ne!(fingerprint(text, &lexed), fingerprint(&other, &other_lexed), "{}", other);
        }
    }
}

static CORPUS: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();

/// The same statement with other literals of the same kinds, other space, comments and letters.
fn rewritten(text: &str, lexed: &Lexed, seeds: &[u32]) -> String {
    let mut out = String::new();
    let mut end = 0;
    for (index, token) in lexed.tokens.iter().enumerate() {
        let seed = seeds[index % seeds.len()] as usize;
        // Space may only grow: `N'x'` and `a.b` stay together, what was apart stays apart.
        if token.start > end {
            out.push_str([" ", "\t", " /* c /* d */ */ ", " -- e\n"][seed % 4]);
        }
        let written = &text[token.start..token.end];
        match token.kind {
            TokenKind::Word if seed.is_multiple_of(2) => out.push_str(&written.to_ascii_uppercase()),
            TokenKind::Literal(literal) => match lexed.literals[literal].kind {
                LiteralKind::Integer => out.push_str(&(seed % 1000).to_string()),
                LiteralKind::Decimal => out.push_str(&format!("{}.5", seed % 1000)),
                // A word that the string touches would swallow an E or a dollar.
                LiteralKind::String => match if token.start > end { seed % 3 } else { 0 } {
                    0 => out.push_str(&format!("'v{seed}'")),
                    1 => out.push_str(&format!("E'v\\'{seed}'")),
                    _ => out.push_str(&format!("$q$v'{seed}$q$")),
                },
                LiteralKind::BitString => out.push_str("B'01'"),
            },
            _ => out.push_str(written),
        }
        end = token.end;
    }
    out
}
