//! A text made from another one: what was kept of it and what was put in its place, so that a place in the new
//! text can be told as one in the old.
//!
//! Must not know: why the text was changed.

use std::ops::Range;

/// A text that was made from a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spliced {
    text: String,
    runs: Vec<Run>,
}

/// A stretch of the text that comes from the source.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    at: Range<usize>,
    from: usize,
    /// Byte for byte; otherwise all of it stands for what begins at `from`.
    is_kept: bool,
}

impl Spliced {
    /// Nothing yet, with room.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), runs: Vec::new() }
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds what is nowhere in the source.
    pub fn insert(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Adds bytes of the source as they are.
    pub fn keep(&mut self, source: &str, bytes: Range<usize>) {
        let from = bytes.start;
        if let Some(kept) = source.get(bytes) {
            self.run(kept, from, true);
        }
    }

    /// Adds what takes the place of bytes of the source.
    pub fn replace(&mut self, bytes: &Range<usize>, with: &str) {
        if bytes.is_empty() {
            self.insert(with);
        } else {
            self.run(with, bytes.start, false);
        }
    }

    fn run(&mut self, text: &str, from: usize, is_kept: bool) {
        let start = self.text.len();
        self.text.push_str(text);
        if start < self.text.len() {
            self.runs.push(Run { at: start..self.text.len(), from, is_kept });
        }
    }

    /// Where in the source a place of this text is; `None` for what was inserted.
    ///
    /// # Units
    /// Characters from 1, as the position of an ErrorResponse counts them.
    pub fn source_position(&self, source: &str, position: usize) -> Option<usize> {
        let end = self.text.chars().count();
        let place = position.checked_sub(1).filter(|place| *place <= end)?;
        if place == end {
            // The end of the one is the end of the other.
            return Some(source.chars().count() + 1);
        }
        let at = self.text.char_indices().nth(place).map(|(at, _)| at)?;
        let run = self.runs.iter().find(|run| run.at.contains(&at))?;
        let from = if run.is_kept { run.from + (at - run.at.start) } else { run.from };
        Some(source.get(..from)?.chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_in_the_source() {
        let source = "INSERT INTO tä VALUES (DEFAULT, x)";
        let mut made = Spliced::with_capacity(0);
        made.keep(source, 0..15);
        made.insert(" (id, a)");
        made.keep(source, 15..24);
        made.replace(&(24..31), "4711");
        made.keep(source, 31..source.len());
        assert_eq!(made.text(), "INSERT INTO tä (id, a) VALUES (4711, x)");
        let place = |word: &str, text: &str| text.find(word).map(|at| text[..at].chars().count() + 1).unwrap();
        let mapped = |word: &str| made.source_position(source, place(word, made.text()));
        assert_eq!(mapped("x)"), Some(place("x)", source)));
        assert_eq!(mapped("711"), Some(place("DEFAULT", source)));
        assert_eq!(mapped("tä"), Some(13));
        assert_eq!(mapped("(id"), None);
        assert_eq!(made.source_position(source, made.text().chars().count() + 1), Some(source.chars().count() + 1));
        assert_eq!(made.source_position(source, 0), None);
        assert_eq!(made.source_position(source, 1_000), None);
    }
}
