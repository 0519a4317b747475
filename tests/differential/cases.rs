//! Reads the case files: SQL statements with directives.
//!
//! A statement ends at a line that ends in `;` (with `--@ multi`: at the next blank line). Lines that
//! begin with `--@` are directives of the statement they stand before (`data` and `binary`: after).
//! Other comment lines between statements are for the reader.

use std::fs;
use std::path::Path;

/// How rows are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Row by row.
    Total,
    /// As a multiset, and these columns (from 0) row by row.
    Ties(Vec<usize>),
    /// As a multiset.
    Any,
}

/// What COPY FROM STDIN is given.
#[derive(Clone, Debug)]
pub enum CopyData {
    /// These bytes.
    Text(String),
    /// What `COPY (query) TO STDOUT (FORMAT binary)` gives on one PostgreSQL.
    Binary(String),
}

/// One statement (or one multi-statement query) and how it is judged.
#[derive(Clone, Debug)]
pub struct Case {
    pub file: String,
    pub line: usize,
    pub sql: String,
    pub order: Order,
    /// Only the number of rows, columns and the tag are compared: values are volatile.
    pub shape: bool,
    /// Columns (from 0) that hold generated ids: compared by order of first appearance.
    pub ids: Vec<usize>,
    /// Keeps the first value of the answer for `${name}` in later statements.
    pub save: Option<String>,
    /// The SQLSTATE that PostgreSQL answers; without it the statement has to succeed there.
    pub error: Option<String>,
    /// Only in this mode.
    pub only: Option<String>,
    /// Type and value; `\N` is NULL. A type `?` leaves it to the server.
    pub parameters: Vec<(String, Option<String>)>,
    pub copy: Option<CopyData>,
}

#[derive(Default)]
struct Pending {
    directives: Vec<(String, String)>,
    sql: String,
    line: usize,
    multi: bool,
}

/// All files of a directory in order of name: file name without `.sql`, cases.
pub fn read_all(directory: &Path) -> Vec<(String, Vec<Case>)> {
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let cases = read_file(&name, &fs::read_to_string(path).unwrap());
        (name, cases)
    };
    paths.iter().map(read).collect()
}

/// The cases of one file.
pub fn read_file(name: &str, text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut pending = Pending::default();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if let Some(directive) = line.strip_prefix("--@ ") {
            let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
            match word {
                "data" => {
                    let mut data = String::new();
                    for (_, line) in lines.by_ref().take_while(|(_, line)| *line != "\\.") {
                        data.push_str(line);
                        data.push('\n');
                    }
                    last(&mut cases, name, index).copy = Some(CopyData::Text(data));
                }
                "binary" => last(&mut cases, name, index).copy = Some(CopyData::Binary(rest.into())),
                "multi" => pending.multi = true,
                _ => pending.directives.push((word.into(), rest.into())),
            }
            continue;
        }
        let blank = line.trim().is_empty();
        if pending.sql.is_empty() && (blank || line.starts_with("--")) {
            continue;
        }
        if pending.sql.is_empty() {
            pending.line = index + 1;
        }
        if !blank {
            pending.sql.push_str(line);
            pending.sql.push('\n');
        }
        if blank || (!pending.multi && line.trim_end().ends_with(';')) {
            cases.push(finish(name, std::mem::take(&mut pending)));
        }
    }
    if !pending.sql.is_empty() {
        cases.push(finish(name, pending));
    }
    cases
}

fn last<'a>(cases: &'a mut [Case], name: &str, index: usize) -> &'a mut Case {
    cases.last_mut().unwrap_or_else(|| panic!("{name}:{}: no statement before this directive", index + 1))
}

fn ordinals(text: &str) -> Vec<usize> {
    text.split(',').map(|number| number.trim().parse::<usize>().unwrap() - 1).collect()
}

fn finish(file: &str, pending: Pending) -> Case {
    let sql = pending.sql.trim_end().to_owned();
    let order = if has_top_level_order(&sql) { Order::Total } else { Order::Any };
    let mut case = Case {
        file: file.into(),
        line: pending.line,
        sql,
        order,
        shape: false,
        ids: Vec::new(),
        save: None,
        error: None,
        only: None,
        parameters: Vec::new(),
        copy: None,
    };
    for (word, rest) in pending.directives {
        match word.as_str() {
            "unordered" => case.order = Order::Any,
            "ordered" => case.order = Order::Total,
            "ties" => case.order = Order::Ties(ordinals(&rest)),
            "shape" => case.shape = true,
            "ids" => case.ids = ordinals(&rest),
            "save" => case.save = Some(rest),
            "error" => case.error = Some(rest),
            "simple" | "extended" | "prepared" => case.only = Some(word),
            "params" => case.parameters = rest.split(" | ").map(parameter).collect(),
            other => panic!("{file}:{}: unknown directive {other}", case.line),
        }
    }
    case
}

fn parameter(text: &str) -> (String, Option<String>) {
    let (kind, value) = text.split_once('=').unwrap_or_else(|| panic!("parameter {text}: type=value expected"));
    (kind.trim().into(), (value != "\\N").then(|| value.into()))
}

/// Whether ORDER BY stands outside every parenthesis, quote and comment.
pub fn has_top_level_order(sql: &str) -> bool {
    let mut depth = 0_i32;
    let mut bare = String::new();
    let mut rest = sql.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            '\'' | '"' => {
                for inner in rest.by_ref() {
                    if inner == char {
                        break;
                    }
                }
            }
            '-' if rest.peek() == Some(&'-') => {
                for inner in rest.by_ref() {
                    if inner == '\n' {
                        break;
                    }
                }
                bare.push(' ');
            }
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 => bare.push(char.to_ascii_lowercase()),
            _ => {}
        }
    }
    bare.split_whitespace().collect::<Vec<_>>().windows(2).any(|pair| pair == ["order", "by"])
}

#[test]
fn directives_belong_to_their_statement() {
    let text = "-- reader's comment\n--@ ties 2\nSELECT a, b\nFROM t ORDER BY b;\nCOPY t FROM STDIN;\n--@ data\n1\t2\n\\.\n\n--@ multi\n--@ error 42601\nSELECT 1;\nSELEC 2;\n\nSELECT (SELECT 1 ORDER BY 1);\n";
    let cases = read_file("x", text);
    assert_eq!(cases.len(), 4);
    assert_eq!(cases[0].order, Order::Ties(vec![1]));
    assert_eq!(cases[0].line, 3);
    assert!(matches!(&cases[1].copy, Some(CopyData::Text(data)) if data == "1\t2\n"));
    assert_eq!(cases[2].sql, "SELECT 1;\nSELEC 2;");
    assert_eq!(cases[2].error.as_deref(), Some("42601"));
    assert_eq!(cases[3].order, Order::Any);
}
