//! Mistakes in the file: where, what, and what to do.

use std::fmt;

/// A place in the file.
///
/// # Units
/// Both from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Default for Position {
    /// The start of the file.
    fn default() -> Self {
        Self { line: 1, column: 1 }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as it was named.
    pub file_name: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}: {}", self.file_name, self.line, self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(formatter, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Collects mistakes and knows the lines of the file.
pub(super) struct Report<'t> {
    text: &'t str,
    file_name: &'t str,
    errors: Vec<ConfigError>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str, file_name: &'t str) -> Self {
        Self { text, file_name, errors: Vec::new() }
    }

    /// The position of a byte offset.
    pub(super) fn position(&self, offset: usize) -> Position {
        let before = self.text.get(..offset.min(self.text.len())).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
            column: before.get(line_start..).map_or(0, |line| line.chars().count()) + 1,
        }
    }

    pub(super) fn at_offset(&mut self, offset: usize, message: impl Into<String>, hint: Option<String>) {
        self.at(self.position(offset), message, hint);
    }

    pub(super) fn at(&mut self, position: Position, message: impl Into<String>, hint: Option<String>) {
        self.errors.push(error_at(self.file_name, position, message, hint));
    }

    pub(super) fn file_name(&self) -> &'t str {
        self.file_name
    }

    pub(super) fn into_errors(mut self) -> Vec<ConfigError> {
        self.errors.sort_by_key(|error| (error.line, error.column));
        self.errors
    }
}

pub(super) fn error_at(
    file_name: &str,
    position: Position,
    message: impl Into<String>,
    hint: Option<String>,
) -> ConfigError {
    ConfigError {
        file_name: file_name.to_owned(),
        line: position.line,
        column: position.column,
        message: message.into(),
        hint,
    }
}

/// The known word that a wrong one probably means.
pub(super) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|word| (distance(wrong, word), word))
        .filter(|(distance, word)| *distance <= (word.chars().count() / 3).max(1))
        .min()
        .map(|(_, word)| word)
}

/// Letters to add, drop or change (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        let mut next = vec![before];
        for (above, to) in row.iter().skip(1).zip(right.chars()) {
            before = (before + 1).min(above + 1).min(diagonal + usize::from(from != to));
            diagonal = *above;
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
