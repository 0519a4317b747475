//! `docs/reference/clients.md`: written from the results of the last run, read back as the list of known refusals.
//!
//! The page is its own data: what it says is parsed, and rendering that must give the page again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::compare::Outcome;
use crate::runner::{home, run_names, write_whole};

const HEAD: &str = "\
# Clients

<!-- Written by `make clients` from the last run of tests/clients; do not edit. -->

Each program walks the same schema and steps (`tests/clients/README.md`) on one PostgreSQL and through Ostrakon with
transaction pooling, four server connections per shard. Passed means: it printed the same as on PostgreSQL. Whatever did
not pass is listed below with what the client was told; every refusal is SQLSTATE `0A000`. A step after a refused one
makes its rows in another way where it can.

Unsharded: two shards, no table declared. Sharded: two (and four) shards, every table with a `tenant_id` spread by it.
";

/// One program's last results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub version: String,
    pub left_out: BTreeMap<String, String>,
    pub runs: BTreeMap<String, BTreeMap<String, Outcome>>,
}

/// What the page says of one program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    version: String,
    /// Per run: `passed of all`, or a dash.
    passed: Vec<String>,
    /// (run, step) and what was told.
    refused: BTreeMap<(String, String), String>,
    left_out: BTreeMap<String, String>,
}

impl From<&Client> for Entry {
    fn from(client: &Client) -> Self {
        let mut entry = Self { version: client.version.clone(), left_out: client.left_out.clone(), ..Self::default() };
        for run in run_names() {
            let Some(outcomes) = client.runs.get(run) else {
                entry.passed.push("–".into());
                continue;
            };
            let passed = outcomes.values().filter(|outcome| **outcome == Outcome::Passed).count();
            entry.passed.push(format!("{passed} of {}", outcomes.len()));
            for (step, outcome) in outcomes {
                let told = match outcome {
                    Outcome::Passed => continue,
                    Outcome::Refused(message) => message.clone(),
                    Outcome::Skipped(cause) => format!("after {cause}"),
                    Outcome::Failed(_) => "**fails**".to_owned(),
                    Outcome::Fault(why) => format!("**a known fault**: {why}"),
                };
                entry.refused.insert((run.to_owned(), step.clone()), told);
            }
        }
        entry
    }
}

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/clients.md"))
}

/// Whether expected data is being rewritten.
pub fn is_update() -> bool {
    std::env::var("UPDATE").is_ok_and(|value| value == "1")
}

/// Puts a program's results into `target/clients/results.json`.
pub fn keep(name: &str, client: Client) {
    let lock = OpenOptions::new().create(true).append(true).open(home().join("results.lock")).unwrap();
    lock.lock().unwrap();
    let mut results = results();
    results.insert(name.to_owned(), client);
    write_whole(&home().join("results.json"), &serde_json::to_string_pretty(&results).unwrap());
}

fn results() -> BTreeMap<String, Client> {
    fs::read_to_string(home().join("results.json"))
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

/// Refusals of a program that the page does not list. None when the page is being written, or without it.
pub fn new_refusals(name: &str, client: &Client) -> Vec<String> {
    let page = parse(&fs::read_to_string(path()).unwrap_or_default());
    match page.get(name) {
        Some(known) if !is_update() => unlisted(known, &Entry::from(client)),
        _ => Vec::new(),
    }
}

fn unlisted(known: &Entry, now: &Entry) -> Vec<String> {
    now.refused
        .iter()
        .filter(|(place, told)| !known.refused.contains_key(*place) && !told.starts_with("**"))
        .map(|((run, step), told)| format!("{run}: {step}: refused, but not in docs/reference/clients.md: {told}"))
        .collect()
}

/// Rewrites the page (`UPDATE=1`), and checks that it has the generated form.
pub fn check() {
    let text = fs::read_to_string(path()).unwrap_or_default();
    if is_update() {
        let mut entries = parse(&text);
        entries.retain(|name, _| crate::TESTED.contains(&name.as_str()));
        for (name, client) in &results() {
            entries.insert(name.clone(), Entry::from(client));
        }
        fs::create_dir_all(path().parent().unwrap_or(Path::new("."))).unwrap();
        write_whole(&path(), &render(&entries));
    }
    let text = fs::read_to_string(path()).expect("docs/reference/clients.md is there");
    let entries = parse(&text);
    assert_eq!(render(&entries), text, "docs/reference/clients.md is not as `make clients` writes it");
    for name in entries.keys() {
        assert!(crate::TESTED.contains(&name.as_str()), "{name} is on the page, but has no test");
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn render(entries: &BTreeMap<String, Entry>) -> String {
    let mut text = HEAD.to_owned();
    let _ = writeln!(text, "\n| client | what ran | {} |", run_names().join(" | "));
    let _ = writeln!(text, "|---|---|{}", "---|".repeat(run_names().len()));
    for (name, entry) in entries {
        let _ = writeln!(text, "| {name} | {} | {} |", cell(&entry.version), entry.passed.join(" | "));
    }
    for (name, entry) in entries {
        if !entry.refused.is_empty() {
            let _ = writeln!(text, "\n## {name}: refused\n\n| run | step | the client is told |\n|---|---|---|");
            for ((run, step), told) in &entry.refused {
                let _ = writeln!(text, "| {run} | {step} | {} |", cell(told));
            }
        }
        if !entry.left_out.is_empty() {
            let _ = writeln!(text, "\n## {name}: no such thing in the client\n\n| step | why |\n|---|---|");
            for (step, reason) in &entry.left_out {
                let _ = writeln!(text, "| {step} | {} |", cell(reason));
            }
        }
    }
    text
}

/// The cells of a table's row; none for other lines and for rules.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.strip_prefix("| ")?.strip_suffix(" |")?;
    let hidden = inner.replace("\\|", "\u{0}");
    Some(hidden.split(" | ").map(|cell| cell.replace('\u{0}', "|")).collect())
}

fn parse(text: &str) -> BTreeMap<String, Entry> {
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    let mut heading = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut heading);
            continue;
        }
        let Some(cells) = cells(line) else { continue };
        if ["client", "run", "step"].contains(&cells[0].as_str()) {
            continue;
        }
        if let Some(name) = heading.strip_suffix(": refused") {
            if let (Some(entry), [run, step, told]) = (entries.get_mut(name), cells.as_slice()) {
                entry.refused.insert((run.clone(), step.clone()), told.clone());
            }
        } else if let Some(name) = heading.strip_suffix(": no such thing in the client") {
            if let (Some(entry), [step, reason]) = (entries.get_mut(name), cells.as_slice()) {
                entry.left_out.insert(step.clone(), reason.clone());
            }
        } else if let [name, version, passed @ ..] = cells.as_slice() {
            let entry = Entry { version: version.clone(), passed: passed.to_vec(), ..Entry::default() };
            entries.insert(name.clone(), entry);
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> BTreeMap<String, Entry> {
        let outcomes = BTreeMap::from([
            ("page".to_owned(), Outcome::Passed),
            ("page-all".to_owned(), Outcome::Refused("no a | b \"c\"".into())),
            ("cursor".to_owned(), Outcome::Skipped("page-all".into())),
        ]);
        let client = Client {
            version: "Some | ORM 1.0".into(),
            left_out: BTreeMap::from([("lazy".to_owned(), "no objects".to_owned())]),
            runs: BTreeMap::from([("sharded".to_owned(), outcomes)]),
        };
        BTreeMap::from([("some".to_owned(), Entry::from(&client))])
    }

    #[test]
    fn what_is_rendered_is_read_back() {
        let entries = example();
        assert_eq!(entries["some"].passed, ["–", "–", "1 of 3", "–"]);
        assert_eq!(parse(&render(&entries)), entries);
    }

    #[test]
    fn a_page_edited_by_hand_is_seen() {
        let text = render(&example()).replace("| page-all | no", "| page-all |no");
        assert_ne!(render(&parse(&text)), text);
    }

    #[test]
    fn a_refusal_that_is_not_on_the_page_is_new() {
        let now = example().remove("some").unwrap();
        assert!(unlisted(&now, &now).is_empty());
        let mut before = now.clone();
        before.refused.clear();
        assert_eq!(unlisted(&before, &now).len(), 2);
    }
}
