//! Medians, ratios and the page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use crate::pgbench::Length;

/// Values of one target in one workload, by measure; one for each round.
#[derive(Clone, Debug)]
pub struct Row {
    name: String,
    values: BTreeMap<&'static str, Vec<f64>>,
}

impl Row {
    /// No values yet.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), values: BTreeMap::new() }
    }

    /// One more value.
    pub fn note(&mut self, measure: &'static str, value: f64) {
        self.values.entry(measure).or_default().push(value);
    }
}

/// What was measured so far.
pub struct Report {
    head: String,
    tables: Vec<(String, Vec<Row>)>,
}

/// Measures in the order of their columns; ratios are taken of the first two.
const MEASURES: [&str; 11] =
    ["cpu us", "tps", "p50 us", "p99 us", "system calls", "cpu s", "wall s", "most MiB", "more MiB", "MiB", "KiB each"];

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// Three digits are enough.
fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).lines().next().unwrap_or_default().to_owned()).unwrap_or_default()
}

impl Report {
    /// An empty report, headed by the machine and the versions.
    pub fn new(rounds: usize, length: Length) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let length = match length {
            Length::Seconds(count) => format!("{count} s each"),
            Length::Transactions(count) => format!("{count} transactions of each client"),
        };
        let mut head = String::from("# Performance\n\n<!-- Written by `make bench`; do not edit. -->\n\n");
        let _ = writeln!(
            head,
            "{}, on a machine with {cores} cores ({}); {}; {}; ostrakon {}. Loopback, fsync off; clients, servers and \
             proxies share the cores. Medians of {rounds} rounds in which the targets take turns, {length}. `cpu us`: CPU \
             time of the proxy's process for one transaction. A ratio is of medians, to PgBouncer (to Ostrakon before one \
             server, where shards are measured).",
            first_line("date", &["+%F"]),
            first_line("uname", &["-srm"]),
            first_line("psql", &["--version"]),
            first_line("pgbouncer", &["--version"]),
            env!("CARGO_PKG_VERSION"),
        );
        Self { head, tables: Vec::new() }
    }

    /// One workload is measured.
    pub fn table(&mut self, name: &str, rows: Vec<Row>) {
        println!("{}", Self::table_text(name, &rows));
        assert!(rows.iter().all(|row| !row.values.is_empty()), "{name}: nothing was measured");
        self.tables.push((name.to_owned(), rows));
    }

    /// Median of one measure of a row of a table.
    pub fn value(&self, table: &str, row: &str, measure: &str) -> Option<f64> {
        let (_, rows) = self.tables.iter().find(|(name, _)| name == table)?;
        Some(median(rows.iter().find(|found| found.name == row)?.values.get(measure)?))
    }

    fn table_text(name: &str, rows: &[Row]) -> String {
        let measures: Vec<&str> =
            MEASURES.into_iter().filter(|measure| rows.iter().any(|row| row.values.contains_key(measure))).collect();
        let base =
            rows.iter().find(|row| row.name == "pgbouncer").or_else(|| rows.iter().find(|row| row.name == "ostrakon"));
        let mut text = format!("## {name}\n\n| |");
        for measure in &measures {
            let _ = write!(text, " {measure} | ratio |");
        }
        text.push_str("\n|---|");
        text.push_str(&"---|---|".repeat(measures.len()));
        text.push('\n');
        for row in rows {
            let _ = write!(text, "| {} |", row.name);
            for measure in &measures {
                let value = row.values.get(measure).map(|values| median(values));
                let ratio = value.zip(base.and_then(|base| base.values.get(measure)).map(|values| median(values)));
                match (value, ratio) {
                    (Some(value), Some((_, base))) if base > 0.0 => {
                        let _ = write!(text, " {} | {:.2} |", short(value), value / base);
                    }
                    (Some(value), _) => {
                        let _ = write!(text, " {} | – |", short(value));
                    }
                    _ => text.push_str(" – | – |"),
                }
            }
            text.push('\n');
        }
        text
    }

    /// All as a page.
    pub fn page(&self) -> String {
        let mut text = self.head.clone();
        let _ = write!(text, "\n{}", crate::goals::table(self));
        for (name, rows) in &self.tables {
            let _ = write!(text, "\n{}", Self::table_text(name, rows));
        }
        text
    }
}
