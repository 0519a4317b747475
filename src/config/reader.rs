//! Takes typed values out of one table of the document and reports what does not fit.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Position, Report, nearest};

/// A value and where it is written.
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) offset: usize,
}

/// One table, with the keys that were asked for so far.
pub(super) struct Section<'d> {
    /// As it is written: `[pool]`, `[[shards]]`.
    name: String,
    table: &'d DeTable<'d>,
    offset: usize,
    known: Vec<&'static str>,
}

impl<'d> Section<'d> {
    pub(super) fn new(name: impl Into<String>, table: &'d DeTable<'d>, offset: usize) -> Self {
        Self { name: name.into(), table, offset, known: Vec::new() }
    }

    pub(super) fn position(&self, report: &Report) -> Position {
        report.position(self.offset)
    }

    fn take(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.known.push(key);
        self.table.get(key)
    }

    fn wrong_type(&self, key: &str, wanted: &str, found: &Spanned<DeValue>, report: &mut Report) {
        let message = format!("{key} is {wanted}, not {}", article(found.get_ref().type_str()));
        report.at_offset(found.span().start, message, None);
    }

    pub(super) fn text(&mut self, key: &'static str, report: &mut Report) -> Option<At<String>> {
        let found = self.take(key)?;
        match found.get_ref() {
            DeValue::String(text) => Some(At { value: text.to_string(), offset: found.span().start }),
            _ => {
                self.wrong_type(key, "a string", found, report);
                None
            }
        }
    }

    /// A string that must be there and not be empty.
    pub(super) fn required_text(
        &mut self,
        key: &'static str,
        example: &str,
        report: &mut Report,
    ) -> Option<At<String>> {
        if self.table.get(key).is_none() {
            self.known.push(key);
            let message = format!("{key} is missing in {}", self.name);
            report.at_offset(self.offset, message, Some(format!("add {key} = \"{example}\"")));
            return None;
        }
        let text = self.text(key, report)?;
        if text.value.is_empty() {
            report.at_offset(text.offset, format!("{key} is empty"), Some(format!("write {key} = \"{example}\"")));
            return None;
        }
        Some(text)
    }

    pub(super) fn flag(&mut self, key: &'static str, report: &mut Report) -> Option<At<bool>> {
        let found = self.take(key)?;
        match found.get_ref() {
            DeValue::Boolean(value) => Some(At { value: *value, offset: found.span().start }),
            _ => {
                self.wrong_type(key, "true or false", found, report);
                None
            }
        }
    }

    /// An integer within bounds; the default when it is not there.
    pub(super) fn integer(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<u64>,
        default: u64,
        report: &mut Report,
    ) -> u64 {
        let hint = format!("{} to {} is allowed, {default} is the default", bounds.start(), bounds.end());
        self.integer_with(key, bounds, hint, report).unwrap_or(default)
    }

    /// An integer within bounds, or nothing.
    pub(super) fn optional_integer(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<u64>,
        report: &mut Report,
    ) -> Option<u64> {
        let hint = format!("{} to {} is allowed", bounds.start(), bounds.end());
        self.integer_with(key, bounds, hint, report)
    }

    fn integer_with(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<u64>,
        hint: String,
        report: &mut Report,
    ) -> Option<u64> {
        let found = self.take(key)?;
        let DeValue::Integer(integer) = found.get_ref() else {
            self.wrong_type(key, "an integer", found, report);
            return None;
        };
        match i128::from_str_radix(integer.as_str(), integer.radix()).ok().and_then(|value| u64::try_from(value).ok()) {
            Some(value) if bounds.contains(&value) => Some(value),
            _ => {
                report.at_offset(found.span().start, format!("{key} is out of range"), Some(hint));
                None
            }
        }
    }

    /// One of several words, or nothing.
    pub(super) fn word<T>(
        &mut self,
        key: &'static str,
        words: &[&'static str],
        read: impl Fn(&str) -> Option<T>,
        report: &mut Report,
    ) -> Option<T> {
        let text = self.text(key, report)?;
        let word = read(&text.value);
        if word.is_none() {
            let hint = match nearest(&text.value, words.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known are {}", words.join(", ")),
            };
            report.at_offset(text.offset, format!("unknown {key} {}", text.value), Some(hint));
        }
        word
    }

    /// A string or a list of strings.
    pub(super) fn texts(&mut self, key: &'static str, report: &mut Report) -> Option<At<Vec<String>>> {
        let found = self.take(key)?;
        let value = self.texts_of(key, found, report)?;
        Some(At { value, offset: found.span().start })
    }

    fn texts_of(&self, key: &str, found: &Spanned<DeValue>, report: &mut Report) -> Option<Vec<String>> {
        match found.get_ref() {
            DeValue::String(text) => Some(vec![text.to_string()]),
            DeValue::Array(items) => {
                let mut texts = Vec::new();
                for item in items.iter() {
                    match item.get_ref() {
                        DeValue::String(text) => texts.push(text.to_string()),
                        _ => {
                            self.wrong_type(key, "a list of strings", item, report);
                            return None;
                        }
                    }
                }
                Some(texts)
            }
            _ => {
                self.wrong_type(key, "a list of strings", found, report);
                None
            }
        }
    }

    /// A list whose items are strings or lists of strings: `["a", ["b", "c"]]`.
    pub(super) fn text_lists(&mut self, key: &'static str, report: &mut Report) -> Vec<At<Vec<String>>> {
        let Some(found) = self.take(key) else { return Vec::new() };
        let DeValue::Array(items) = found.get_ref() else {
            self.wrong_type(key, "a list of columns or of lists of columns", found, report);
            return Vec::new();
        };
        let mut lists = Vec::new();
        for item in items.iter() {
            if let Some(value) = self.texts_of(key, item, report) {
                lists.push(At { value, offset: item.span().start });
            }
        }
        lists
    }

    /// A table of its own: `[key]`.
    pub(super) fn section(&mut self, key: &'static str, report: &mut Report) -> Option<Section<'d>> {
        let found = self.take(key)?;
        match found.get_ref() {
            DeValue::Table(table) => Some(Section::new(format!("[{key}]"), table, found.span().start)),
            _ => {
                self.wrong_type(key, &format!("a section [{key}]"), found, report);
                None
            }
        }
    }

    /// Repeated tables: `[[name]]`, where `name` is the key with its parents.
    pub(super) fn sections(&mut self, key: &'static str, name: &str, report: &mut Report) -> Vec<Section<'d>> {
        let Some(found) = self.take(key) else { return Vec::new() };
        let name = format!("[[{name}]]");
        let wanted = format!("repeated sections {name}");
        let DeValue::Array(items) = found.get_ref() else {
            self.wrong_type(key, &wanted, found, report);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(table) => sections.push(Section::new(name.clone(), table, item.span().start)),
                _ => self.wrong_type(key, &wanted, item, report),
            }
        }
        sections
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self, report: &mut Report) {
        for (key, _) in self.table.iter() {
            let word: &str = key.get_ref();
            if self.known.contains(&word) {
                continue;
            }
            let hint = match nearest(word, self.known.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            let place = if self.name.is_empty() { String::new() } else { format!(" in {}", self.name) };
            report.at_offset(key.span().start, format!("unknown key {word}{place}"), Some(hint));
        }
    }
}

fn article(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}
