//! Files stop at 800 lines without their inline tests, functions at 70.

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

/// As many of the biggest are printed, so that they are seen before they are too big.
const SHOWN: usize = 5;

fn files() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    crate::floors::source_files(&root.join("src"), &mut paths);
    crate::floors::source_files(&root.join("tests"), &mut paths);
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("source is readable");
            (path.strip_prefix(root).expect("inside the project").to_owned(), text)
        })
        .collect()
}

fn lines(text: &str) -> usize {
    crate::floors::without_tests(text).lines().count()
}

/// Names and lengths of the functions in a formatted file: a body ends where its line's indentation comes back.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = lines[start..].iter().position(|later| {
            later.strip_prefix(indent).is_some_and(|rest| rest.starts_with('}') || rest.ends_with(';') && later == line)
                || later.strip_prefix(indent).is_some_and(|rest| rest.starts_with(')') && rest.ends_with(';'))
                || later == line && line.ends_with('}')
        });
        found.push((name, end.map_or(1, |end| end + 1)));
    }
    found
}

/// The name of the function that a line begins.
fn function_name(line: &str) -> Option<String> {
    let (before, after) = line.trim_start().split_once("fn ")?;
    let is_start = before.split_whitespace().all(|word| {
        matches!(word, "pub" | "const" | "async" | "unsafe" | "extern") || word.starts_with("pub(") || word == "\"C\""
    });
    let name: String = after.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect();
    (is_start && !name.is_empty()).then_some(name)
}

fn show(what: &str, mut sizes: Vec<(usize, String)>, max: usize) {
    sizes.sort_by(|left, right| right.cmp(left));
    for (size, name) in sizes.iter().take(SHOWN) {
        println!("{size:4} {name}");
    }
    let over: Vec<&(usize, String)> = sizes.iter().filter(|(size, _)| *size > max).collect();
    assert!(over.is_empty(), "{what} over {max} lines: {over:?}");
}

#[test]
fn files_stop_at_800_lines() {
    let sizes = files().iter().map(|(path, text)| (lines(text), path.display().to_string())).collect();
    show("files", sizes, FILE_LINES_MAX);
}

#[test]
fn functions_stop_at_70_lines() {
    let mut sizes = Vec::new();
    for (path, text) in files().iter().filter(|(path, _)| path.starts_with("src")) {
        let shipped = crate::floors::without_tests(text);
        sizes.extend(functions(shipped).into_iter().map(|(name, size)| (size, format!("{}: {name}", path.display()))));
    }
    assert!(sizes.len() > 1_000, "only {} functions were found", sizes.len());
    show("functions", sizes, FUNCTION_LINES_MAX);
}

#[test]
#[should_panic(expected = "files over 800 lines")]
fn a_long_file_is_seen() {
    show("files", vec![(lines(&"line\n".repeat(801)), "long.rs".to_owned())], FILE_LINES_MAX);
}

#[test]
fn inline_tests_do_not_count() {
    let text = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "line\n".repeat(800), "line\n".repeat(500));
    assert_eq!(lines(&text), 800);
}

#[test]
#[should_panic(expected = "functions over 70 lines")]
fn a_long_function_is_seen() {
    let text = format!("impl X {{\n    fn long(\n    ) {{\n{}    }}\n}}\n", "        line();\n".repeat(68));
    show("functions", functions(&text).into_iter().map(|(name, size)| (size, name)).collect(), FUNCTION_LINES_MAX);
}

#[test]
fn functions_are_measured_from_their_first_line_to_their_last() {
    let text = "fn one() -> u8 { 1 }\n\nfn two(\n    a: u8,\n) -> u8 {\n    a\n}\ntrait T {\n    fn three(&self);\n    \
                async fn four(\n        &self,\n    );\n}\n";
    let expected = [("one", 1), ("two", 5), ("three", 1), ("four", 3)];
    assert_eq!(functions(text), expected.map(|(name, size)| (name.to_owned(), size)));
}
