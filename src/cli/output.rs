//! Tables for people, JSON for programs.

use std::io::Write;

use clap::ValueEnum;
use comfy_table::{LineStyle, Table, TableStyle};
use serde::Serialize;

use super::Failure;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Prints a line to standard output; a closed pipe (`| head`) is no failure.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a document as indented JSON.
pub fn json(document: &impl Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(document).map_err(|error| Failure::new(format!("cannot write JSON: {error}")))?;
    line(&text)
}

/// Headings underlined, nothing else: easy to read and to cut.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// Prints rows under headings.
pub fn table(headings: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
    let mut table = Table::new();
    table.load_style(STYLE).set_header(headings);
    table.add_rows(rows);
    line(&table.to_string())
}
