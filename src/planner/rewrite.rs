//! Splices in the client's text: what is sent to the shards. Never prints a tree.

use std::collections::HashSet;
use std::ops::Range;

use crate::plan::{Filled, InsertPlan, InsertRow, Piece, Splice};
use crate::sql::ast::TokenRange;
use crate::sql::{Lexed, Spliced, TokenKind};

/// The client's text with splices. `limit_plus_offset` is for [`Piece::LimitPlusOffset`].
pub fn apply(text: &str, lexed: &Lexed, splices: &[Splice], limit_plus_offset: Option<u64>) -> Spliced {
    apply_given(text, lexed, splices, Given { limit_plus_offset, ..Given::default() })
}

/// The client's text for combining partial results: each column's combination, and the rows.
pub fn apply_combined(text: &str, lexed: &Lexed, splices: &[Splice], combined: &[String], rows: &str) -> Spliced {
    apply_given(text, lexed, splices, Given { limit_plus_offset: None, combined, rows })
}

/// What pieces stand for when the text is made.
#[derive(Clone, Copy, Default)]
struct Given<'g> {
    limit_plus_offset: Option<u64>,
    combined: &'g [String],
    rows: &'g str,
}

fn apply_given(text: &str, lexed: &Lexed, splices: &[Splice], given: Given<'_>) -> Spliced {
    let mut out = Spliced::with_capacity(text.len() + 64);
    let mut at = 0;
    for splice in splices {
        let bytes = byte_range(text, lexed, &splice.tokens);
        out.keep(text, at..bytes.start);
        write_pieces(text, lexed, &splice.with, given, &bytes, &mut out);
        at = bytes.end.max(at);
    }
    out.keep(text, at..text.len());
    out
}

/// Pieces as text.
pub fn render(text: &str, lexed: &Lexed, pieces: &[Piece]) -> String {
    let mut out = Spliced::default();
    write_pieces(text, lexed, pieces, Given::default(), &(0..0), &mut out);
    out.text().to_owned()
}

/// Writes pieces that stand for some bytes of the text.
fn write_pieces(
    text: &str,
    lexed: &Lexed,
    pieces: &[Piece],
    given: Given<'_>,
    bytes: &Range<usize>,
    out: &mut Spliced,
) {
    for piece in pieces {
        match piece {
            Piece::Text(fixed) => out.replace(bytes, fixed),
            Piece::Tokens(tokens) if tokens.start < tokens.end => out.keep(text, byte_range(text, lexed, tokens)),
            Piece::Tokens(_) => {}
            Piece::LimitPlusOffset => match given.limit_plus_offset {
                Some(rows) => out.replace(bytes, &rows.min(i64::MAX as u64).to_string()),
                None => out.replace(bytes, "ALL"),
            },
            Piece::Combined(column) => out.replace(bytes, given.combined.get(*column).map_or("", String::as_str)),
            Piece::Rows => out.replace(bytes, given.rows),
        }
    }
}

/// Bytes of a token range; an empty one lies right after the token before it, so that no comment swallows what is
/// inserted.
fn byte_range(text: &str, lexed: &Lexed, tokens: &TokenRange) -> Range<usize> {
    if tokens.start < tokens.end {
        let start = lexed.tokens.get(tokens.start).map_or(text.len(), |token| token.start);
        let end = lexed.tokens.get(tokens.end - 1).map_or(start, |token| token.end);
        return start..end.max(start);
    }
    let before = tokens.start.checked_sub(1).and_then(|before| lexed.tokens.get(before.min(lexed.tokens.len())));
    let at = before.or(lexed.tokens.last()).map_or(0, |token| token.end);
    at..at
}

/// An INSERT of VALUES with only these rows, with the ids filled in, and with its parameters renumbered from 1. Also
/// gives the parameters that are used, in the order of their new numbers: a number that the text does not use would
/// have no type.
///
/// `fill` gives the id for a fill and a row of the plan; `replaced` stands in the place of some of its tokens.
pub fn insert_for_shard(
    text: &str,
    lexed: &Lexed,
    plan: &InsertPlan,
    rows: &[usize],
    fill: &dyn Fn(usize, usize) -> Option<Filled>,
    replaced: &[(TokenRange, String)],
) -> (Spliced, Vec<u32>) {
    let out = Spliced::with_capacity(text.len());
    let mut writer = Writer { text, lexed, out, used: Vec::new(), at: 0, replaced };
    let end = lexed.tokens.len();
    let head = if plan.rows_tokens.is_empty() { end } else { plan.rows_tokens.start };
    writer.spliced(0..head, &plan.splices);
    for (position, index) in rows.iter().enumerate() {
        let Some(row) = plan.rows.get(*index) else { continue };
        if position > 0 {
            writer.out.insert(", ");
        }
        writer.row(row, *index, fill);
    }
    if !plan.rows_tokens.is_empty() {
        writer.spliced(plan.rows_tokens.end..end, &plan.splices);
    }
    (writer.out, writer.used)
}

/// Stretches of a statement and what takes their places, in order.
pub type Replaced = Vec<(TokenRange, String)>;

/// The client's text with some of its tokens replaced.
pub fn replace(text: &str, lexed: &Lexed, replaced: &Replaced) -> Spliced {
    let splice = |(tokens, with): &(TokenRange, String)| Splice {
        tokens: tokens.clone(),
        with: vec![Piece::Text(with.clone())],
    };
    apply(text, lexed, &replaced.iter().map(splice).collect::<Vec<_>>(), None)
}

/// Pieces with their parameters renumbered from 1, and the parameters that are used, in the order of their new
/// numbers.
pub fn pieces(text: &str, lexed: &Lexed, pieces: &[Piece]) -> (Spliced, Vec<u32>) {
    let out = Spliced::with_capacity(text.len());
    let mut writer = Writer { text, lexed, out, used: Vec::new(), at: 0, replaced: &[] };
    for piece in pieces {
        match piece {
            Piece::Text(fixed) => writer.out.insert(fixed),
            Piece::Tokens(tokens) => writer.tokens(tokens.clone()),
            Piece::LimitPlusOffset | Piece::Combined(_) | Piece::Rows => {}
        }
    }
    (writer.out, writer.used)
}

/// A filled value as it stands in a row: text without a type is read as the column's type reads it.
pub fn filled_text(filled: &Filled) -> String {
    match filled {
        Filled::Id(id) => id.to_string(),
        Filled::Text(None) => "NULL".to_owned(),
        Filled::Text(Some(text)) => literal(text),
    }
}

/// A text as a literal that means the same whatever `standard_conforming_strings` is.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

struct Writer<'w> {
    text: &'w str,
    lexed: &'w Lexed,
    out: Spliced,
    used: Vec<u32>,
    /// Tokens before this one are written or left out.
    at: usize,
    /// What stands for calls that must give one value.
    replaced: &'w [(TokenRange, String)],
}

impl Writer<'_> {
    /// Writes tokens with the splices that lie among them.
    fn spliced(&mut self, tokens: TokenRange, splices: &[Splice]) {
        self.at = tokens.start;
        for splice in
            splices.iter().filter(|splice| tokens.contains(&splice.tokens.start) || splice.tokens.start == tokens.end)
        {
            self.tokens(self.at..splice.tokens.start);
            let bytes = byte_range(self.text, self.lexed, &splice.tokens);
            for piece in &splice.with {
                match piece {
                    Piece::Text(fixed) => self.out.replace(&bytes, fixed),
                    Piece::Tokens(tokens) => self.tokens(tokens.clone()),
                    Piece::LimitPlusOffset | Piece::Combined(_) | Piece::Rows => {}
                }
            }
            self.at = splice.tokens.end.max(self.at);
        }
        self.tokens(self.at..tokens.end);
    }

    /// Writes tokens, each parameter by its new number. Comments are left out: a blank stands between tokens.
    fn tokens(&mut self, tokens: TokenRange) {
        let mut written = 0;
        for at in tokens {
            if at < written {
                continue;
            }
            let Some(token) = self.lexed.tokens.get(at) else { break };
            let before = at.checked_sub(1).and_then(|before| self.lexed.tokens.get(before));
            let is_apart = before.is_none_or(|before| before.end < token.start);
            if is_apart && self.is_open_ended() {
                self.out.insert(" ");
            }
            let bytes = token.start..token.end;
            if let Some((range, with)) = self.replaced.iter().find(|(range, _)| range.start == at) {
                self.out.replace(&bytes, with);
                written = range.end;
                continue;
            }
            match token.kind {
                TokenKind::Param(number) => {
                    let new = match self.used.iter().position(|used| *used == number) {
                        Some(position) => position + 1,
                        None => {
                            self.used.push(number);
                            self.used.len()
                        }
                    };
                    self.out.replace(&bytes, &format!("${new}"));
                }
                _ => self.out.keep(self.text, bytes),
            }
        }
    }

    /// What follows has to be set apart.
    fn is_open_ended(&self) -> bool {
        let text = self.out.text();
        !text.is_empty() && !text.ends_with([' ', '('])
    }

    fn row(&mut self, row: &InsertRow, index: usize, fill: &dyn Fn(usize, usize) -> Option<Filled>) {
        let id =
            |number: usize| fill(number, index).map_or_else(|| "DEFAULT".to_owned(), |filled| filled_text(&filled));
        let is_values = self.lexed.tokens.get(row.tokens.start).and_then(|token| self.text.get(token.start..token.end));
        if !self.out.text().is_empty() && !self.out.text().ends_with(' ') {
            self.out.insert(" ");
        }
        if is_values != Some("(") {
            // DEFAULT VALUES: the row is made of ids only.
            let ids: Vec<String> = row.fills.iter().map(|filled| id(filled.fill)).collect();
            self.out.replace(&byte_range(self.text, self.lexed, &row.tokens), &format!("({})", ids.join(", ")));
            return;
        }
        let mut fills: Vec<_> = row.fills.iter().collect();
        fills.sort_by_key(|filled| (filled.tokens.start, filled.fill));
        let mut at = row.tokens.start;
        for filled in fills {
            self.tokens(at..filled.tokens.start);
            if filled.tokens.is_empty() {
                self.out.insert(", ");
            } else if self.is_open_ended() {
                self.out.insert(" ");
            }
            self.out.replace(&byte_range(self.text, self.lexed, &filled.tokens), &id(filled.fill));
            at = filled.tokens.end.max(filled.tokens.start);
        }
        self.tokens(at..row.tokens.end);
    }
}

/// The parameters that a text uses.
pub fn params_of(lexed: &Lexed) -> HashSet<u32> {
    lexed
        .tokens
        .iter()
        .filter_map(|token| match token.kind {
            TokenKind::Param(number) => Some(number),
            _ => None,
        })
        .collect()
}

/// A name as an identifier in SQL text.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
