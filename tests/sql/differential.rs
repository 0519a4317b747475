//! PostgreSQL itself as the judge: the values of literals, the splitting of operators, precedences.
//!
//! The server runs each generated text inside PL/pgSQL's EXECUTE and reports a value or a syntax error; ours
//! must agree, except where it refuses what depends on the server's version.

use std::fmt::Write;

use ostrakon::sql::ast::{Expr, SelectItemKind, SetExpr, Statement};
use ostrakon::sql::{lex, parse};

use crate::server::Server;

/// A generator of numbers that is the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    fn pick<'p>(&mut self, pieces: &[&'p str]) -> &'p str {
        pieces[self.below(pieces.len())]
    }

    fn join(&mut self, pieces: &[&str], longest: usize) -> String {
        (0..self.below(longest + 1)).map(|_| self.pick(pieces)).collect()
    }
}

const PLAIN: &[&str] = &["a", "''", "\\", "\\\\", "ä", "😀", "--", "/*", "$", "\n", "\t", "\"", "%", ";", "x41", "\\'"];
const ESCAPES: &[&str] = &[
    "a",
    "''",
    "\\'",
    "\\\\",
    "\\n",
    "\\t",
    "\\b",
    "\\f",
    "\\r",
    "\\q",
    "\\\"",
    "\\1",
    "\\12",
    "\\101",
    "\\377",
    "\\303\\244",
    "\\x",
    "\\x4",
    "\\x41",
    "\\xc3\\xa4",
    "\\xg",
    "\\u0041",
    "\\u00e4",
    "\\u20AC",
    "\\ud83d\\ude00",
    "\\ud83d",
    "\\ude00",
    "\\U0001F600",
    "\\U00110000",
    "\\u12",
    "\\U0000d83d\\ude00",
    "\\u0000",
    "\\0",
    "\\x00",
    "ä",
    "\n",
    "\\\n",
    "8",
    "\\8",
    "'\n'",
    "' \t\n  '",
    "' -- c\n'",
    "' '",
    "\\400",
];
const UNICODE: &[&str] = &[
    "a",
    "''",
    "\\0041",
    "\\00e4",
    "\\+01F600",
    "\\+00004g",
    "\\\\",
    "\\d83d\\de00",
    "\\d83d",
    "\\de00",
    "!0041",
    "!!",
    "!+01F600",
    "ä",
    "\\",
    "\\0000",
    "\"",
    "\\+110000",
    "'\n'",
];
const NUMBERS: &[&str] =
    &["0", "1", "12", ".", "..", "e", "E5", "e+", "e-3", "_", "x1F", "b1", "a", "+", "-", " ", "99999999999"];

/// One text that is meant to be a string literal.
fn string_literal(random: &mut Random) -> String {
    match random.below(6) {
        0 => format!("'{}'", random.join(PLAIN, 5)),
        1 => format!("{}'{}'", random.pick(&["E", "e"]), random.join(ESCAPES, 5)),
        2 => format!("{}'{}'{}", random.pick(&["U&", "u&"]), random.join(UNICODE, 5), {
            random.pick(&[
                "",
                "",
                " UESCAPE '!'",
                "\n--c\nuescape /* */ '!'",
                " UESCAPE 'a'",
                " UESCAPE '+'",
                " UESCAPE E'!'",
            ])
        }),
        3 => {
            let tag = random.pick(&["", "a", "ä", "a1", "_", "1a"]);
            format!("${tag}${}${tag}$", random.join(&["a", "$", "$$", "$a", "$a$b", "'", "\\", "\n", "ä"], 5))
        }
        4 => {
            let gap = random.pick(&[
                "\n",
                " \n ",
                "-- c\n",
                "-- c\n -- d\n ",
                " ",
                "",
                "/* c */\n",
                "\r",
                "\n\n--\n",
                "\x0c\n",
            ]);
            format!("'{}'{gap}'{}'", random.join(PLAIN, 2), random.join(PLAIN, 2))
        }
        _ => format!(
            "{}'{}'",
            random.pick(&["B", "x", "b", "X", "N", "n"]),
            random.join(&["0", "1", "'\n'", "F", "''"], 4)
        ),
    }
}

/// `hex of the value` for a string, `error` for a lexical or syntax error: what PostgreSQL says of each text.
fn asked(server: &Server, texts: &[String], query: &str) -> Vec<String> {
    let mut script = String::from(
        "\\set VERBOSITY terse\nset client_min_messages = error;
         create or replace function ask(query text) returns text language plpgsql as $_ask_$
         declare answer text;
         begin execute query into answer; return coalesce(encode(convert_to(answer, 'UTF8'), 'hex'), 'null');
         exception when others then return 'error'; end $_ask_$;\n",
    );
    for text in texts {
        // The query goes in as hexadecimal, so that no layer between quotes it.
        let hex = format!("{query}{text}").bytes().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let _ = writeln!(script, "select ask(convert_from('\\x{hex}', 'UTF8'));");
    }
    let answers: Vec<String> = server.psql(&script).lines().map(str::to_owned).collect();
    assert_eq!(answers.len(), texts.len());
    answers
}

fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[test]
fn literals_mean_what_postgresql_says() {
    let Some(server) = Server::start(15811) else { return };
    let mut random = Random(15);
    let texts: Vec<String> = (0..6000).map(|_| string_literal(&mut random)).collect();
    // The comment keeps a text that ends in `--` from hiding anything.
    let answers = asked(&server, &texts, "select ");
    let (mut values, mut errors) = (0, 0);
    for (text, answer) in texts.iter().zip(&answers) {
        let query = format!("select {text}");
        let ours = match lex(&query) {
            Ok(lexed) => match parse(&query, &lexed) {
                Ok(Statement::Query(query)) => match &query.body {
                    SetExpr::Select(select) if select.items.len() == 1 && select.from.is_empty() => {
                        match &select.items[0].kind {
                            SelectItemKind::Expr { expr: Expr::Literal(index), .. } => {
                                Some(lexed.literals[*index].value.clone())
                            }
                            SelectItemKind::Expr { expr: Expr::Cast { expr, .. }, .. } => match expr.as_ref() {
                                Expr::Literal(index) => Some(lexed.literals[*index].value.clone()),
                                _ => None,
                            },
                            // The text is more than a literal; the server must find fault with it.
                            _ => None,
                        }
                    }
                    _ => None,
                },
                _ => None,
            },
            Err(_) => None,
        };
        let is_bit = text.starts_with(['b', 'B', 'x', 'X']);
        match (ours, answer.as_str()) {
            // The server checks the digits of bit strings, and answers with bits.
            (Some(value), answer) if is_bit => {
                let digits = &value[1..];
                let radix = if value.starts_with('x') { 16 } else { 2 };
                let bits: Option<String> = digits
                    .chars()
                    .map(|digit| {
                        digit
                            .to_digit(radix)
                            .map(|digit| format!("{digit:0width$b}", width = if radix == 16 { 4 } else { 1 }))
                    })
                    .collect();
                assert_eq!(bits.map_or("error".to_owned(), |bits| hex(&bits)), answer, "{text:?}");
                values += 1;
            }
            (Some(value), answer) => {
                assert_eq!(hex(&value), answer, "{text:?} is {value:?}");
                values += 1;
            }
            (None, "error") => errors += 1,
            // The escape character is read from a plain string only.
            (None, _) if text.ends_with("E'!'") => {}
            (None, answer) => panic!("refused, but PostgreSQL says {answer}: {text:?}"),
        }
    }
    println!("{values} values and {errors} errors agree");
    assert!(values > 1500 && errors > 500, "{values} values, {errors} errors");
}

#[test]
fn names_fold_as_the_server_folds_them() {
    let Some(server) = Server::start(15812) else { return };
    let mut random = Random(16);
    let pieces = ["a", "B", "_", "ä", "Ä", "😀", "$", "1", "xyzxyzxyzxyzxyzxyz", "ÖÖÖÖÖÖÖÖÖ"];
    let quoted = ["a", "B", "\"\"", " ", "ä", "Ä", "\\", "'", ".", "😀", "xyzxyzxyzxyzxyzxyzxyz", "\n"];
    let unicode = ["\\0041", "a", "\\+0000e4", "\\\\", "B", "\"\"", "!0042", "xyzxyzxyzxyzxyzxyzxyzxyz"];
    let texts: Vec<String> = (0..1500)
        .map(|_| match random.below(3) {
            0 => format!("z{}", random.join(&pieces, 6)),
            1 => format!("\"{}\"", random.join(&quoted, 6)),
            _ => format!("U&\"{}\"{}", random.join(&unicode, 5), random.pick(&["", " uescape '!'", "\n UESCAPE\t'!'"])),
        })
        .collect();
    let queries: Vec<String> = texts.iter().map(|text| format!("{text})::text from (select 1 as {text}) q")).collect();
    // The name of the only key of the row is the column's name as the server sees it.
    let answers = asked(&server, &queries, "select (select json_object_keys(row_to_json(q))) || (q.");
    let mut names = 0;
    for (text, answer) in texts.iter().zip(&answers) {
        match lex(text) {
            Ok(lexed) => {
                assert_eq!(lexed.tokens.len(), 1, "{text:?}");
                let name = lexed.identifier(text, 0).unwrap();
                // The value, the digit 1, stands behind the name.
                assert_eq!(format!("{}31", hex(&name)), *answer, "{text:?} is {name:?}");
                names += 1;
            }
            Err(_) => assert_eq!(answer, "error", "{text:?}"),
        }
    }
    assert!(names > 900, "{names}");
}

#[test]
fn numbers_and_operators_split_as_the_server_splits_them() {
    let Some(server) = Server::start(15813) else { return };
    let mut random = Random(17);
    let texts: Vec<String> =
        (0..3000).map(|_| random.join(NUMBERS, 4)).filter(|text| !text.trim().is_empty()).collect();
    let answers = asked(&server, &texts, "select ");
    let mut values = 0;
    for (text, answer) in texts.iter().zip(&answers) {
        let query = format!("select {text}");
        let understood = lex(&query).is_ok_and(|lexed| parse(&query, &lexed).is_ok());
        if understood && answer != "error" {
            values += 1;
        }
        // What the server reads must be read here, unless it is a number of newer versions.
        let is_new = ["x1F", "b1", "_"].iter().any(|piece| text.contains(piece));
        assert!(understood || answer == "error" || is_new, "refused, but PostgreSQL says {answer}: {text:?}");
        if let Ok(lexed) = lex(&query)
            && lexed.tokens.len() == 2
            && answer != "error"
            && let Some(literal) = lexed.literals.first()
        {
            let number = |text: &str| text.parse::<f64>().unwrap();
            let bytes: Vec<u8> =
                (0..answer.len()).step_by(2).map(|at| u8::from_str_radix(&answer[at..at + 2], 16).unwrap()).collect();
            assert_eq!(number(&literal.value), number(std::str::from_utf8(&bytes).unwrap()), "{text:?}");
        }
    }
    assert!(values > 300, "{values}");
}

/// Writes an expression with every operator in parentheses.
fn parenthesised(expr: &Expr, out: &mut String) {
    let list = |exprs: &[Expr], separator: &str, out: &mut String| {
        for (index, expr) in exprs.iter().enumerate() {
            if index > 0 {
                out.push_str(separator);
            }
            parenthesised(expr, out);
        }
    };
    out.push('(');
    match expr {
        Expr::Column { name, .. } => out.push_str(name),
        Expr::Null => out.push_str("null"),
        Expr::And(terms) => list(terms, " and ", out),
        Expr::Or(terms) => list(terms, " or ", out),
        Expr::Not(inner) => {
            out.push_str("not ");
            parenthesised(inner, out);
        }
        Expr::Unary { operator, expr } => {
            let _ = write!(out, "{operator} ");
            parenthesised(expr, out);
        }
        Expr::Binary { operator, left, right } => {
            parenthesised(left, out);
            let _ = write!(out, " {operator} ");
            parenthesised(right, out);
        }
        Expr::IsNull { expr, negated } => {
            parenthesised(expr, out);
            out.push_str(if *negated { " is not null" } else { " is null" });
        }
        Expr::InList { expr, list: members, negated } => {
            parenthesised(expr, out);
            out.push_str(if *negated { " not in (" } else { " in (" });
            list(members, ", ", out);
            out.push(')');
        }
        Expr::AnyAll { left, operator, right, all } => {
            parenthesised(left, out);
            let _ = write!(out, " {operator} {} ", if *all { "all" } else { "any" });
            parenthesised(right, out);
        }
        Expr::Cast { expr, type_name } => {
            parenthesised(expr, out);
            let _ = write!(out, "::{type_name}");
        }
        Expr::Other { what: "case with else", children } => match children.as_slice() {
            [when, then, other] => {
                out.push_str("case when ");
                parenthesised(when, out);
                out.push_str(" then ");
                parenthesised(then, out);
                out.push_str(" else ");
                parenthesised(other, out);
                out.push_str(" end");
            }
            other => panic!("{other:?}"),
        },
        Expr::Other { what, children } => match (*what, children.as_slice()) {
            (what @ ("between" | "not between" | "between symmetric"), [operand, low, high]) => {
                parenthesised(operand, out);
                let _ = write!(out, " {what} ");
                parenthesised(low, out);
                out.push_str(" and ");
                parenthesised(high, out);
            }
            (
                what @ ("like" | "ilike" | "is distinct from" | "is not distinct from" | "at time zone"),
                [left, right],
            ) => {
                parenthesised(left, out);
                let _ = write!(out, " {what} ");
                parenthesised(right, out);
            }
            (what @ ("is true" | "is not true" | "is unknown" | "is not false"), [operand]) => {
                parenthesised(operand, out);
                let _ = write!(out, " {what}");
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    out.push(')');
}

/// Every operator works on booleans and gives one, so any mixture has a type.
fn boolean_operators() -> String {
    let mut script = String::from("set client_min_messages = error; set check_function_bodies = off;\n");
    script.push_str("create function op2(boolean, boolean) returns boolean immutable language sql as 'select true';\n");
    script.push_str("create function op1(boolean) returns boolean immutable language sql as 'select true';\n");
    script.push_str(
        "create function timezone(boolean, boolean) returns boolean immutable language sql as 'select true';\n",
    );
    for operator in
        ["+", "-", "*", "/", "%", "^", "~", "||", "->", "@>", "~~", "~~*", "!~~", "<<", "#", "&&", "|", "!~", "<->"]
    {
        let _ = writeln!(script, "create operator {operator} (leftarg = boolean, rightarg = boolean, function = op2);");
    }
    for operator in ["+", "-", "~", "@", "!!", "|/"] {
        let _ = writeln!(script, "create operator {operator} (rightarg = boolean, function = op1);");
    }
    script
}

fn boolean_expression(random: &mut Random) -> String {
    const INFIX: &[&str] = &[
        "and",
        "or",
        "and",
        "or",
        "=",
        "<>",
        "!=",
        "<",
        ">",
        "<=",
        ">=",
        "+",
        "-",
        "*",
        "/",
        "%",
        "^",
        "~",
        "||",
        "->",
        "@>",
        "<<",
        "#",
        "&&",
        "|",
        "!~",
        "<->",
        "like",
        "ilike",
        "is distinct from",
        "is not distinct from",
        "at time zone",
        "operator(pg_catalog.=)",
        "operator(public.+)",
    ];
    const POSTFIX: &[&str] = &[
        "is null",
        "is not null",
        "isnull",
        "notnull",
        "is true",
        "is unknown",
        "is not true",
        "in (a, b)",
        "not in (a, b or c)",
        "::boolean",
        "between b and c",
        "between symmetric b and c",
        "= any (d)",
        "<> all (d)",
        "in (a)",
    ];
    let mut text = String::new();
    for term in 0..2 + random.below(6) {
        if term > 0 {
            let _ = write!(text, " {} ", random.pick(INFIX));
        }
        for _ in 0..random.below(5).saturating_sub(3) {
            let _ = write!(text, "{} ", random.pick(&["not", "-", "+", "~", "@", "!!", "|/"]));
        }
        match random.below(14) {
            // OR in OR and AND in AND are one list in our tree, whatever the parentheses: none of those here.
            0 => text.push_str("(a < b)"),
            1 => text.push_str("case when a or b then b = c else not c end"),
            2 => text.push_str("cast(a and b as boolean)"),
            _ => text.push_str(random.pick(&["a", "b", "c"])),
        }
        for _ in 0..random.below(6).saturating_sub(4) {
            let _ = write!(text, " {}", random.pick(POSTFIX));
        }
    }
    text
}

#[test]
fn operators_bind_as_the_server_binds_them() {
    let Some(server) = Server::start(15814) else { return };
    server.psql(&boolean_operators());
    server.psql(
        "create function shape(query text) returns text language plpgsql as $_ask_$
         begin execute 'create or replace temp view w as select (' || query || ') as x from (values (true, true, true, array[true])) t(a, b, c, d)';
         return replace(pg_get_viewdef('w'::regclass), E'\\n', ' ');
         exception when others then return 'error'; end $_ask_$;",
    );
    let mut random = Random(18);
    let mut texts = Vec::new();
    let mut script = String::new();
    while texts.len() < 4000 {
        let text = boolean_expression(&mut random);
        let query = format!("select ({text})");
        let lexed = lex(&query).unwrap();
        let ours = match parse(&query, &lexed) {
            Ok(Statement::Query(query)) => match &query.body {
                SetExpr::Select(select) => match &select.items[0].kind {
                    SelectItemKind::Expr { expr, .. } => {
                        let mut out = String::new();
                        parenthesised(expr, &mut out);
                        out
                    }
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            },
            Ok(other) => panic!("{other:?}"),
            Err(_) => "refused".to_owned(),
        };
        let _ = writeln!(script, "select shape($_q_${text}$_q_$);\nselect shape($_q_${ours}$_q_$);");
        texts.push((text, ours));
    }
    let answers: Vec<String> = server.psql(&script).lines().map(str::to_owned).collect();
    assert_eq!(answers.len(), texts.len() * 2);
    let (mut equal, mut errors, mut refused) = (0, 0, 0);
    for ((text, ours), answers) in texts.iter().zip(answers.chunks(2)) {
        // What PostgreSQL does not accept (comparisons do not chain) need not be understood alike.
        if answers[0] == "error" {
            errors += 1;
        } else if ours == "refused" {
            refused += 1;
            println!("refused: {text}");
        } else {
            assert_eq!(answers[0], answers[1], "{text}\n{ours}");
            equal += 1;
        }
    }
    println!("{equal} equal, {errors} errors of PostgreSQL, {refused} refused here");
    assert!(equal > 1500 && refused == 0, "{equal} equal, {errors} errors, {refused} refused");
}
