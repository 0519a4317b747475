//! `nextval`, `setval`, `currval` and `lastval` as applications write them: alone, or among the values of an INSERT.
//!
//! Alone they go to the sequence that counts, and their number is noted on its way to the client. Among values they are
//! replaced by the number. Everything else is the planner's.

use std::ops::Range;

use super::exchange::Show;
use super::relay::Done;
use super::statement::Mode;
use super::steps::plain_question;
use super::values::StatementValues;
use super::{Failure, Session};
use crate::base::ShardId;
use crate::error::ClientError;
use crate::net::Framed;
use crate::plan::{SequenceUse, Slot};
use crate::planner::sequences;
use crate::session::Parsed;
use crate::sql::ast::{Call, Distinct, Expr, InsertSource, Query, Select, SelectItemKind, SetExpr, Statement};
use crate::sql::{TokenKind, lexer};
use crate::topology::TableName;
use crate::topology::schema::{ColumnDefault, RelationKind};
use crate::wire::Format;
use crate::wire::client_message::Bind;
use crate::wire::frame::Frame;
use crate::wire::server_message;

/// Words that may stand round the aggregates of a `setval`: everything else might be a column.
const SIMPLE_WORDS: &[&str] =
    &["coalesce", "greatest", "is", "not", "null", "true", "false", "cast", "as", "bigint", "int8"];

/// A call and the alias of its column.
type Alone<'p> = (&'p Call, Option<&'p str>);

/// `SELECT nextval(…)` and its like, with nothing beside it. Only `setval` may have FROM and WHERE.
fn alone(parsed: &Parsed) -> Option<Alone<'_>> {
    let Ok(Statement::Query(query)) = &*parsed.statement else { return None };
    let SetExpr::Select(select) = &query.body else { return None };
    let [item] = select.items.as_slice() else { return None };
    let SelectItemKind::Expr { expr: Expr::Function(call), alias } = &item.kind else { return None };
    let is_ours = matches!(call.name.name.as_str(), "nextval" | "setval" | "currval" | "lastval")
        && matches!(call.name.schema.as_deref(), None | Some("pg_catalog"))
        && call.over.is_none()
        && call.filter.is_none();
    let is_bare = select.from.is_empty() && select.selection.is_none();
    (is_ours && is_plain(query, select) && (is_bare || call.name.name == "setval")).then_some((call, alias.as_deref()))
}

fn is_plain(query: &Query, select: &Select) -> bool {
    query.with.is_empty()
        && query.order_by.is_empty()
        && query.limit.is_none()
        && query.offset.is_none()
        && !query.locks
        && select.group_by.is_empty()
        && select.having.is_none()
        && select.distinct == Distinct::No
        && select.window_exprs.is_empty()
        && !select.into
}

/// True for a statement that [`Session::run_sequence_call`] may take.
pub(super) fn is_sequence_call(parsed: &Parsed) -> bool {
    alone(parsed).is_some()
}

impl Session {
    /// Runs a statement that is nothing but a call on a sequence; `None`: it is another one.
    ///
    /// # Errors
    /// PostgreSQL's, 55000 for a number that was never given, 0A000 for one that nobody has seen.
    pub(super) async fn run_sequence_call(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        mode: Mode<'_>,
    ) -> Result<Option<Done>, Failure> {
        let Some((call, alias)) = alone(parsed) else { return Ok(None) };
        let values = StatementValues::new(&parsed.lexed, mode);
        let named = |argument: &Expr| self.sequence_meant(argument, &values);
        match (call.name.name.as_str(), call.args.as_slice()) {
            ("lastval", []) => {
                let (sequence, value) = self.ids.last()?;
                if !self.is_sequence(sequence) {
                    self.ids.forget();
                    return Err(self.ids.last().err().map_or_else(unreadable, Failure::Ours));
                }
                self.say_number(client, value, alias.unwrap_or("lastval"), mode).await.map(Some)
            }
            ("currval", [argument]) => {
                let Some(sequence) = named(argument) else { return Ok(None) };
                let value = self.ids.current(&sequence)?;
                self.say_number(client, value, alias.unwrap_or("currval"), mode).await.map(Some)
            }
            ("nextval", [argument]) => {
                let Some(sequence) = named(argument) else { return Ok(None) };
                let (done, value) = self.observe(client, &sequence, &parsed.text, mode).await?;
                if let Some(value) = value {
                    self.ids.note(&sequence, value);
                }
                Ok(Some(done))
            }
            ("setval", [argument, _] | [argument, _, _]) => {
                let Some(sequence) = named(argument) else { return Ok(None) };
                self.set_sequence(client, parsed, &sequence, call, alias, mode).await
            }
            _ => Ok(None),
        }
    }

    fn is_sequence(&self, name: &TableName) -> bool {
        self.schema().relations.get(name).is_some_and(|relation| relation.kind == RelationKind::Sequence)
    }

    /// A number that the proxy remembers.
    async fn say_number(
        &mut self,
        client: &mut Framed,
        value: i64,
        name: &str,
        mode: Mode<'_>,
    ) -> Result<Done, Failure> {
        let text = format!("SELECT ({value})::pg_catalog.int8 AS \"{}\"", name.replace('"', "\"\""));
        self.run_answered(client, &text, mode).await
    }

    /// Runs a text on the shard whose sequence counts, and sees the number that it answers.
    async fn observe(
        &mut self,
        client: &mut Framed,
        sequence: &TableName,
        text: &str,
        mode: Mode<'_>,
    ) -> Result<(Done, Option<i64>), Failure> {
        let shard = sequences::home(&self.topology, &self.schema(), sequence);
        let show = Show { header: mode.describes(), rows: false, notices: true };
        let (done, rows) = self.exchange_collecting(client, shard, text, mode, show).await?;
        let is_binary = mode.bind().is_some_and(|bind| bind.result_formats.first() == Some(&Format::Binary));
        let value = rows.last().and_then(|row| read_number(row, is_binary));
        for row in &rows {
            client.output().extend_from_slice(&row.bytes);
        }
        Ok((done, value))
    }

    /// `setval`. What its arguments read from tables is computed first, wherever the rows are.
    async fn set_sequence(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        sequence: &TableName,
        call: &Call,
        alias: Option<&str>,
        mode: Mode<'_>,
    ) -> Result<Option<Done>, Failure> {
        let Some(SetCall { arguments, rest }) = SetCall::of(parsed) else { return Ok(None) };
        let has_query = (arguments.start..arguments.end).any(|at| parsed.lexed.is_keyword(&parsed.text, at, "select"));
        let (done, value) = if rest.is_none() && !has_query {
            self.observe(client, sequence, &parsed.text, mode).await?
        } else {
            if parsed.lexed.tokens.iter().any(|token| matches!(token.kind, TokenKind::Param(_))) {
                return Ok(None);
            }
            let Some(text) = self.with_values(client, parsed, &arguments, rest).await? else { return Ok(None) };
            let text = match alias {
                Some(alias) => format!("{text} AS \"{}\"", alias.replace('"', "\"\"")),
                None => text,
            };
            let Mode::Extended { bind, describe, .. } = mode else {
                let (done, value) = self.observe(client, sequence, &text, mode).await?;
                return Ok(Some(self.note_setval(sequence, call, done, value)));
            };
            let bind = Bind { parameters: Vec::new(), parameter_formats: Vec::new(), ..bind.clone() };
            self.observe(client, sequence, &text, Mode::Extended { bind: &bind, types: &[], describe }).await?
        };
        Ok(Some(self.note_setval(sequence, call, done, value)))
    }

    fn note_setval(&mut self, sequence: &TableName, call: &Call, done: Done, value: Option<i64>) -> Done {
        self.cluster.ids.forget_all();
        match (value, call.args.get(2)) {
            (None, _) | (_, Some(Expr::Bool(false))) => {}
            (Some(value), None | Some(Expr::Bool(true))) => self.ids.note_set(sequence, value),
            // Whether the number counts as given only the server knows.
            _ => self.ids.doubt(),
        }
        done
    }

    /// The text of `setval` with its queries replaced by their values; `None`: it has more than plain scalar ones.
    async fn with_values(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        arguments: &Range<usize>,
        rest: Option<Range<usize>>,
    ) -> Result<Option<String>, Failure> {
        let Some(comma) = top_level(parsed, arguments.clone(), ",") else { return Ok(None) };
        let named = tokens_text(parsed, arguments.start..comma);
        let values = comma + 1..arguments.end;
        if let Some(rest) = rest {
            let named = named.to_owned();
            return self.with_aggregates(client, parsed, &named, values, rest).await;
        }
        let mut text = format!("SELECT pg_catalog.setval({named},");
        let mut at = values.start;
        while at < values.end {
            let is_query = parsed.lexed.is_symbol(&parsed.text, at, "(")
                && parsed.lexed.is_keyword(&parsed.text, at + 1, "select");
            if !is_query {
                text.push(' ');
                text.push_str(parsed.lexed.text(&parsed.text, at));
                at += 1;
                continue;
            }
            let is_scalar = !["exists", "in", "any", "some", "all", "array"]
                .iter()
                .any(|word| parsed.lexed.is_keyword(&parsed.text, at - 1, word));
            let Some(close) = close_of(parsed, at).filter(|_| is_scalar) else { return Ok(None) };
            let rows = self.texts_of(client, &plain_question(tokens_text(parsed, at + 1..close).to_owned())).await?;
            let value = match rows.as_slice() {
                [] => None,
                [row] => row.first().cloned().flatten(),
                _ => return Ok(None),
            };
            text.push(' ');
            text.push_str(&quoted(value.as_deref()));
            at = close + 1;
        }
        text.push(')');
        Ok(Some(text))
    }

    /// `setval(sequence, coalesce(max(id), 1), max(id) IS NOT NULL) FROM t`, as Django writes it: its aggregates are
    /// computed over all shards, what is made of them by the server.
    async fn with_aggregates(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        named: &str,
        values: Range<usize>,
        rest: Range<usize>,
    ) -> Result<Option<String>, Failure> {
        let is_aggregate = |at: usize| {
            ["max", "min", "count"].iter().any(|word| parsed.lexed.is_keyword(&parsed.text, at, word))
                && parsed.lexed.is_symbol(&parsed.text, at + 1, "(")
        };
        let mut calls: Vec<Range<usize>> = Vec::new();
        let mut at = values.start;
        while at < values.end {
            let close = if is_aggregate(at) { close_of(parsed, at + 1) } else { None };
            // A column beside an aggregate has no one value.
            let is_column =
                parsed.lexed.identifier(&parsed.text, at).is_some_and(|name| !SIMPLE_WORDS.contains(&name.as_str()));
            match close {
                Some(close) => {
                    calls.push(at..close + 1);
                    at = close + 1;
                }
                None if is_column => return Ok(None),
                None => at += 1,
            }
        }
        if calls.is_empty() {
            return Ok(None);
        }
        let asked: Vec<&str> = calls.iter().map(|call| tokens_text(parsed, call.clone())).collect();
        let rows = self
            .texts_of(client, &plain_question(format!("SELECT {} {}", asked.join(", "), tokens_text(parsed, rest))))
            .await?;
        let [row] = rows.as_slice() else { return Ok(None) };
        let mut text = format!("SELECT pg_catalog.setval({named},");
        let mut at = values.start;
        for (call, value) in calls.iter().zip(row) {
            text.push_str(&format!(" {} {}", tokens_text(parsed, at..call.start), quoted(value.as_deref())));
            at = call.end;
        }
        text.push_str(&format!(" {})", tokens_text(parsed, at..values.end)));
        Ok(Some(text))
    }

    /// A statement that was refused, with its calls on sequences replaced by numbers; `None`: it has none, or they are
    /// not among the values of an INSERT.
    ///
    /// # Errors
    /// As `nextval`, `currval` and `lastval` themselves.
    pub(super) async fn with_numbers(&mut self, parsed: &Parsed) -> Result<Option<Parsed>, Failure> {
        let Some(calls) = self.calls_on_sequences(parsed) else { return Ok(None) };
        let mut text = String::with_capacity(parsed.text.len());
        let mut at = 0;
        for call in calls {
            let value = match &call.sequence {
                Some(sequence) if call.takes => {
                    let taken = self.take_ids(sequence, 1).await?;
                    taken.first().copied().ok_or_else(unreadable)?
                }
                Some(sequence) => self.ids.current(sequence)?,
                None => self.ids.last()?.1,
            };
            text.push_str(parsed.text.get(at..call.bytes.start).unwrap_or_default());
            // A plain number can be a sharding key; inside of an expression the type has to be the function's.
            text.push_str(&if call.is_whole { value.to_string() } else { format!("({value})::pg_catalog.int8") });
            at = call.bytes.end;
        }
        text.push_str(parsed.text.get(at..).unwrap_or_default());
        Ok(Some(self.understand(&text)?))
    }

    /// True when [`Self::with_numbers`] may give a statement.
    pub(super) fn names_numbers(&self, parsed: &Parsed) -> bool {
        self.calls_on_sequences(parsed).is_some()
    }

    fn calls_on_sequences(&self, parsed: &Parsed) -> Option<Vec<NumberCall>> {
        let rows = match &*parsed.statement {
            Ok(Statement::Insert(insert)) => match &insert.source {
                InsertSource::Values(rows) => rows.as_slice(),
                _ => &[],
            },
            Ok(Statement::Query(_) | Statement::Update(_) | Statement::Delete(_)) => &[],
            _ => return None,
        };
        let mut calls = Vec::new();
        let mut at = 0;
        while at < parsed.lexed.tokens.len() {
            match self.call_at(parsed, at) {
                Read::Other => at += 1,
                Read::Unclear => return None,
                Read::Call(call) => {
                    at = call.tokens.end;
                    calls.push(call);
                }
            }
        }
        let takes = calls.iter().any(|call| call.takes);
        let remembers = calls.iter().any(|call| !call.takes);
        // Which of both is evaluated first is PostgreSQL's affair.
        let is_clear = !calls.is_empty() && takes != remembers;
        let is_once = |call: &NumberCall| {
            rows.iter().any(|row| {
                let inside = row.tokens.start < call.tokens.start && call.tokens.end < row.tokens.end;
                inside && !row.tokens.clone().any(|at| parsed.lexed.is_keyword(&parsed.text, at, "select"))
            })
        };
        (is_clear && calls.iter().all(|call| !call.takes || is_once(call))).then_some(calls)
    }

    /// `nextval('name')`, `currval('name'::regclass)` or `lastval()` that begins at a token.
    fn call_at(&self, parsed: &Parsed, at: usize) -> Read {
        let (text, lexed) = (&parsed.text, &parsed.lexed);
        let Some(function) = ["nextval", "currval", "lastval", "setval"]
            .into_iter()
            .find(|word| lexed.is_keyword(text, at, word) && lexed.is_symbol(text, at + 1, "("))
        else {
            return Read::Other;
        };
        let Some(close) = close_of(parsed, at + 1) else { return Read::Unclear };
        let sequence = match (function, close - at - 2) {
            ("lastval", 0) => None,
            ("nextval" | "currval", _) => {
                let is_cast = lexed.is_symbol(text, at + 3, "::") && lexed.is_keyword(text, at + 4, "regclass");
                let is_name = close == at + 3 || close == at + 5 && is_cast;
                let argument = lexed.literal(at + 2).filter(|_| is_name);
                match argument.and_then(|argument| self.known_sequence(&argument.value)) {
                    Some(sequence) => Some(sequence),
                    None => return Read::Unclear,
                }
            }
            _ => return Read::Unclear,
        };
        let is_qualified = at > 1 && lexed.is_symbol(text, at - 1, ".");
        if is_qualified && !lexed.is_keyword(text, at - 2, "pg_catalog") {
            return Read::Unclear;
        }
        let start = if is_qualified { at - 2 } else { at };
        let is_whole = start > 0
            && (lexed.is_symbol(text, start - 1, "(") || lexed.is_symbol(text, start - 1, ","))
            && (lexed.is_symbol(text, close + 1, ")") || lexed.is_symbol(text, close + 1, ","));
        let bytes = lexed.tokens.get(start).map_or(0, |token| token.start)
            ..lexed.tokens.get(close).map_or(text.len(), |token| token.end);
        Read::Call(NumberCall { tokens: start..close + 1, bytes, takes: function == "nextval", sequence, is_whole })
    }

    fn sequence_meant(&self, argument: &Expr, values: &StatementValues<'_>) -> Option<TableName> {
        match argument {
            Expr::Cast { expr, type_name }
                if matches!(type_name.as_str(), "regclass" | "pg_catalog.regclass" | "text" | "pg_catalog.text") =>
            {
                self.sequence_meant(expr, values)
            }
            Expr::Function(call) => self.serial_sequence(call, values),
            expr => self.known_sequence(&text_of(expr, values)?),
        }
    }

    /// A sequence of the schema, by its name as written.
    fn known_sequence(&self, written: &str) -> Option<TableName> {
        let (schema, name) = read_name(written)?;
        let known = self.schema();
        let relation = known.resolve(schema.as_deref(), &name, &self.planning_path())?;
        (relation.kind == RelationKind::Sequence).then(|| relation.name.clone())
    }

    /// `pg_get_serial_sequence('table', 'column')`.
    fn serial_sequence(&self, call: &Call, values: &StatementValues<'_>) -> Option<TableName> {
        let [table, column] = call.args.as_slice() else { return None };
        if call.name.name != "pg_get_serial_sequence" {
            return None;
        }
        let (schema, name) = read_name(&text_of(table, values)?)?;
        let known = self.schema();
        let relation = known.resolve(schema.as_deref(), &name, &self.planning_path())?;
        match &relation.column(&text_of(column, values)?)?.default {
            ColumnDefault::Sequence { sequence, .. } => Some(sequence.clone()),
            _ => None,
        }
    }

    /// After a statement that may have used sequences of a server's own.
    pub(super) fn note_sequences(&mut self, parsed: &Parsed, used: SequenceUse) {
        if used != SequenceUse::Nothing {
            self.ids.doubt();
        }
        if used == SequenceUse::Called && parsed.text.to_ascii_lowercase().contains("setval") {
            self.cluster.ids.forget_all();
        }
    }

    /// Numbers of a sequence, noted as the session's last.
    pub(super) async fn take_ids(&mut self, sequence: &TableName, count: usize) -> Result<Vec<i64>, Failure> {
        let values = if self.own_schema.is_some() || self.schema_changed {
            // Nobody else can see yet what this transaction made of the sequence.
            self.take_ids_within(sequence, count).await?
        } else {
            self.cluster.ids.next(sequence, count).await?
        };
        if let Some(last) = values.last() {
            self.ids.note(sequence, *last);
        }
        Ok(values)
    }

    async fn take_ids_within(&mut self, sequence: &TableName, count: usize) -> Result<Vec<i64>, Failure> {
        let home: ShardId = self.topology.home();
        self.settled_link(home).await?;
        let cluster = std::sync::Arc::clone(&self.cluster);
        let link = self.held(home)?;
        let outcome = cluster.ids.next_within(sequence, count, &mut link.lease).await.map_err(Failure::Ours);
        self.after_exchange(home, outcome)
    }
}

/// A call whose number stands for it.
struct NumberCall {
    tokens: Range<usize>,
    bytes: Range<usize>,
    /// `nextval`; else a number that was given before.
    takes: bool,
    /// `None`: the last one, whichever it was.
    sequence: Option<TableName>,
    /// It is a value by itself, not a part of one.
    is_whole: bool,
}

/// What begins at a token.
enum Read {
    Other,
    /// A call on a sequence that is not understood.
    Unclear,
    Call(NumberCall),
}

/// Where things stand in `SELECT setval(arguments) rest`.
struct SetCall {
    arguments: Range<usize>,
    /// From FROM on.
    rest: Option<Range<usize>>,
}

impl SetCall {
    fn of(parsed: &Parsed) -> Option<Self> {
        let tokens = parsed.lexed.tokens.len();
        let name = (0..tokens).find(|at| parsed.lexed.is_keyword(&parsed.text, *at, "setval"))?;
        let close = close_of(parsed, name + 1)?;
        let end = if parsed.lexed.is_symbol(&parsed.text, tokens - 1, ";") { tokens - 1 } else { tokens };
        let rest = (close + 1..end).find(|at| parsed.lexed.is_keyword(&parsed.text, *at, "from"));
        Some(Self { arguments: name + 2..close, rest: rest.map(|from| from..end) })
    }
}

/// The parenthesis that closes the one at a token.
fn close_of(parsed: &Parsed, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for at in open..parsed.lexed.tokens.len() {
        if parsed.lexed.is_symbol(&parsed.text, at, "(") {
            depth += 1;
        } else if parsed.lexed.is_symbol(&parsed.text, at, ")") {
            depth = depth.checked_sub(1)?;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    None
}

/// The first token that is a symbol outside of parentheses.
fn top_level(parsed: &Parsed, tokens: Range<usize>, symbol: &str) -> Option<usize> {
    let mut at = tokens.start;
    while at < tokens.end {
        if parsed.lexed.is_symbol(&parsed.text, at, symbol) {
            return Some(at);
        }
        at = if parsed.lexed.is_symbol(&parsed.text, at, "(") { close_of(parsed, at)? + 1 } else { at + 1 };
    }
    None
}

fn tokens_text(parsed: &Parsed, tokens: Range<usize>) -> &str {
    let start = parsed.lexed.tokens.get(tokens.start).map_or(0, |token| token.start);
    let end = tokens.end.checked_sub(1).and_then(|last| parsed.lexed.tokens.get(last)).map_or(start, |token| token.end);
    parsed.text.get(start..end.max(start)).unwrap_or_default()
}

fn quoted(value: Option<&str>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |value| format!("'{}'", value.replace('\'', "''")))
}

fn unreadable() -> Failure {
    ClientError::new(crate::error::ErrorId::Internal, "the number of a sequence cannot be read").into()
}

fn read_number(row: &Frame, is_binary: bool) -> Option<i64> {
    let value = server_message::read_data_row(&row.body()).ok()?.into_iter().next().flatten()?;
    if is_binary {
        return Some(i64::from_be_bytes(value.as_ref().try_into().ok()?));
    }
    std::str::from_utf8(&value).ok()?.parse().ok()
}

fn text_of(expr: &Expr, values: &StatementValues<'_>) -> Option<String> {
    match expr {
        Expr::Literal(index) => values.text(&Slot::Literal { index: *index, negative: false }).flatten(),
        Expr::Param(number) => values.text_param(*number),
        Expr::Cast { expr, type_name } if matches!(type_name.as_str(), "text" | "pg_catalog.text") => {
            text_of(expr, values)
        }
        _ => None,
    }
}

/// `name` or `schema.name`, folded and unquoted as PostgreSQL reads it.
fn read_name(written: &str) -> Option<(Option<String>, String)> {
    let lexed = lexer::lex(written).ok()?;
    let name = |token: usize| lexed.identifier(written, token);
    match lexed.tokens.len() {
        1 => Some((None, name(0)?)),
        3 if lexed.is_symbol(written, 1, ".") => Some((Some(name(0)?), name(2)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_postgresql_folds_them() {
        assert_eq!(read_name("Rows_id_seq"), Some((None, "rows_id_seq".into())));
        assert_eq!(read_name("public.\"A b\""), Some((Some("public".into()), "A b".into())));
        assert_eq!(read_name("a b"), None);
    }
}
