//! The floor plan: a room imports only from strictly lower floors.

use std::fs;
use std::path::{Path, PathBuf};

/// The same table as in `src/lib.rs`.
const FLOORS: &[&[&str]] = &[
    &["base", "error"],
    &["wire", "sql", "topology", "auth"],
    &["plan", "session", "failover"],
    &["planner", "merge", "cache"],
    &["telemetry"],
    &["net", "store", "host"],
    &["backend"],
    &["executor", "control"],
    &["admin"],
    &["frontend", "http"],
    &["config"],
    &["server"],
    &["cli"],
];

/// Floors up to and including this one are pure.
const WATERLINE: usize = 3;

/// What must not be named below the waterline.
const IMPURE: &[&str] = &[
    "tokio",
    "std::net",
    "std::fs",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "getrandom",
    "socket2",
];

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

pub fn source_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("source folder is readable") {
        let path = entry.expect("entry is readable").path();
        if path.is_dir() {
            source_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Rooms named after `crate::` anywhere in the text, also inside `use crate::{a, b::c}`.
fn rooms_named(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1usize;
            let mut word = String::new();
            let mut at_start = true;
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => at_start = true,
                    character if depth == 1 && at_start && (character.is_alphanumeric() || character == '_') => {
                        word.push(character);
                        continue;
                    }
                    _ => {}
                }
                if !word.is_empty() {
                    rooms.push(std::mem::take(&mut word));
                    at_start = false;
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            rooms.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    rooms
}

/// The part of a file that ships: inline tests may use what they like from lower and equal floors.
pub fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

#[test]
fn rooms_import_only_from_lower_floors() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&source, &mut files);
    let mut broken = Vec::new();
    for file in &files {
        let relative = file.strip_prefix(&source).expect("inside src");
        let first = relative.iter().next().and_then(|part| part.to_str()).unwrap_or_default();
        let Some(floor) = floor_of(first.trim_end_matches(".rs")) else { continue };
        let room = first.trim_end_matches(".rs");
        let text = fs::read_to_string(file).expect("source is readable");
        for other in rooms_named(without_tests(&text)) {
            if other == room || other == "invariant" {
                continue;
            }
            match floor_of(&other) {
                Some(other_floor) if other_floor < floor => {}
                Some(_) => broken.push(format!("{} ({room}, floor {floor}) imports {other}", relative.display())),
                None => broken.push(format!("{} names crate::{other}, which is no room", relative.display())),
            }
        }
    }
    assert!(broken.is_empty(), "imports that break the floor plan:\n{}", broken.join("\n"));
}

#[test]
fn below_the_waterline_nothing_does_io() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut broken = Vec::new();
    for room in FLOORS.iter().take(WATERLINE + 1).flat_map(|rooms| rooms.iter()) {
        let mut files = Vec::new();
        source_files(&source.join(room), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).expect("source is readable");
            for line in without_tests(&text).lines().filter(|line| !line.trim_start().starts_with("//")) {
                for word in IMPURE {
                    if line.contains(word) {
                        broken.push(format!("{}: {}", file.display(), line.trim()));
                    }
                }
            }
        }
    }
    assert!(broken.is_empty(), "I/O below the waterline:\n{}", broken.join("\n"));
}

#[test]
fn every_room_has_a_floor() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(&source).expect("src is readable") {
        let entry = entry.expect("entry is readable");
        let name = entry.file_name().to_string_lossy().into_owned();
        if matches!(name.as_str(), "lib.rs" | "main.rs") {
            continue;
        }
        assert!(floor_of(name.trim_end_matches(".rs")).is_some(), "src/{name} has no floor");
    }
}

#[test]
fn the_checker_sees_a_broken_import() {
    assert_eq!(
        rooms_named("use crate::{error::X, cli::{a, b}};\nlet x = crate::server::y();"),
        ["error", "cli", "server"]
    );
    assert!(floor_of("cli") > floor_of("wire"));
}
