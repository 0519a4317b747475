//! The current time in a write over several shards: one value for all of them. Each server's own transaction begins at
//! another moment, and PostgreSQL has one `now()` for all rows of a statement.

use super::steps::plain_question;
use super::{Failure, Session};
use crate::net::Framed;
use crate::planner::rewrite::{self, Replaced};
use crate::session::Parsed;
use crate::sql::ast::TokenRange;

/// Calls without arguments, and what they give.
const CALLS: &[(&str, &str)] =
    &[("now", "timestamptz"), ("statement_timestamp", "timestamptz"), ("transaction_timestamp", "timestamptz")];

/// Words that are calls by themselves, with or without a precision.
const WORDS: &[(&str, &str)] = &[
    ("current_date", "date"),
    ("current_time", "timetz"),
    ("current_timestamp", "timestamptz"),
    ("localtime", "time"),
    ("localtimestamp", "timestamp"),
];

impl Session {
    /// What stands for the current time in a statement that writes on several shards. RETURNING keeps its calls: they
    /// name its columns.
    ///
    /// # Errors
    /// A server cannot be asked.
    pub(super) async fn one_time(&mut self, client: &mut Framed, parsed: &Parsed) -> Result<Replaced, Failure> {
        let calls = self.time_calls(parsed);
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        // JSON's form of a time means the same under every DateStyle.
        let asked: Vec<String> = calls
            .iter()
            .map(|(tokens, _)| format!("pg_catalog.to_json({}) #>> '{{}}'", tokens_text(parsed, tokens)))
            .collect();
        let rows = self.texts_of(client, &plain_question(format!("SELECT {}", asked.join(", ")))).await?;
        let values = rows.into_iter().next().unwrap_or_default();
        let one = |((tokens, type_name), value): ((TokenRange, &str), Option<String>)| {
            let literal = rewrite::literal(&value.unwrap_or_default());
            (tokens, format!("{literal}::pg_catalog.{type_name}"))
        };
        Ok(calls.into_iter().zip(values).map(one).collect())
    }

    fn time_calls(&self, parsed: &Parsed) -> Vec<(TokenRange, &'static str)> {
        let schema = self.schema();
        let count = parsed.lexed.tokens.len();
        let word = |at: usize| tokens_text(parsed, &(at..at + 1)).to_ascii_lowercase();
        let returning = (0..count).rev().find(|at| word(*at) == "returning").unwrap_or(count);
        let mut calls = Vec::new();
        // True for each parenthesis that is open round a query: there, a call may give a column its name.
        let mut groups: Vec<bool> = Vec::new();
        let mut at = 0;
        while at < returning {
            let name = word(at);
            match name.as_str() {
                "(" => groups.push(word(at + 1) == "select"),
                ")" => {
                    groups.pop();
                }
                _ => {}
            }
            let before = at.checked_sub(1).map(word).unwrap_or_default();
            let call = CALLS.iter().find(|(call, _)| *call == name);
            let by_itself = WORDS.iter().find(|(call, _)| *call == name);
            let end = match (call, by_itself) {
                (Some(_), _) if word(at + 1) == "(" && word(at + 2) == ")" => at + 3,
                (_, Some(_)) if word(at + 1) == "(" && word(at + 3) == ")" => at + 4,
                (_, Some(_)) => at + 1,
                _ => at,
            };
            // A user's function of that name, a name behind AS or a dot: not PostgreSQL's own.
            let is_own =
                !schema.functions.contains_key(&name) && before != "." && before != "as" && !groups.contains(&true);
            if let Some((_, type_name)) = call.or(by_itself).filter(|_| end > at && is_own) {
                calls.push((at..end, *type_name));
            }
            at = end.max(at + 1);
        }
        calls
    }
}

fn tokens_text<'p>(parsed: &'p Parsed, tokens: &TokenRange) -> &'p str {
    let start = parsed.lexed.tokens.get(tokens.start).map(|token| token.start);
    let end = tokens.end.checked_sub(1).and_then(|last| parsed.lexed.tokens.get(last)).map(|token| token.end);
    start.zip(end).and_then(|(start, end)| parsed.text.get(start..end)).unwrap_or_default()
}
