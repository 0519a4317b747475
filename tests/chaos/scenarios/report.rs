//! What came of a run, for people: lines as it goes, and a table for the documentation.

use std::fmt::Write as _;
use std::fs;

use super::{Scenario, Verdict, count_of};
use crate::checker::{Outcome, worst_outage};

/// In the file that is to have the table, it stands between these.
const MARKS: [&str; 2] = ["<!-- results -->\n", "<!-- end of results -->\n"];

#[derive(Default)]
pub struct Report {
    /// What it ran on.
    pub ground: String,
    /// Rows of the table.
    pub rows: Vec<String>,
    pub failed: Vec<String>,
}

/// A row of the table.
pub fn row(scenario: &Scenario, verdict: &Verdict, said: &str) -> String {
    let history = &verdict.history;
    let outage_ms = worst_outage(history).unwrap_or_default().0 / 1_000;
    format!(
        "| {} | {} | {} | {} / {} / {} | {} | {outage_ms} ms |",
        scenario.number,
        scenario.name,
        said,
        count_of(history, Outcome::Acknowledged),
        count_of(history, Outcome::RolledBack),
        count_of(history, Outcome::Unknown),
        history.dropped,
    )
}

impl Report {
    pub fn note(&mut self, scenario: &Scenario, verdict: &Verdict) {
        let said = if verdict.is_well() { "holds" } else { "BROKEN" };
        println!("{}: {said}", verdict.line);
        let mut words = String::new();
        verdict.findings.iter().for_each(|finding| _ = writeln!(words, "    {finding}"));
        verdict.complaints.iter().for_each(|complaint| _ = writeln!(words, "    {complaint}"));
        print!("{words}");
        if !verdict.is_well() {
            self.failed.push(format!("{}\n{words}", verdict.line));
        }
        self.rows.push(row(scenario, verdict, said));
    }

    /// Puts the table where `OSTRAKON_CHAOS_TABLE` says.
    pub fn write_table(&self) {
        let Some(path) = std::env::var_os("OSTRAKON_CHAOS_TABLE") else { return };
        let text = fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(MARKS[0]).expect("the file has the marks");
        let (_, after) = rest.split_once(MARKS[1]).expect("the file has the marks");
        let mut table = format!("On {}.\n\n", self.ground);
        table += "| | scenario | | acknowledged / rolled back / unknown | connections ended | worst outage |\n\
                         |---|---|---|---|---|---|\n";
        self.rows.iter().for_each(|row| _ = writeln!(table, "{row}"));
        fs::write(&path, [before, MARKS[0], &table, MARKS[1], after].concat()).unwrap();
    }
}
