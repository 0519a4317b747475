//! The values that decide a route: literals of the text, parameters of Bind, ids that were filled in,
//! and keys that a server was asked to read.

use std::collections::HashMap;

use bytes::Bytes;

use super::statement::Mode;
use super::{Failure, Session};
use crate::error::{ClientError, ErrorId};
use crate::merge::Constant;
use crate::net::Framed;
use crate::plan::{Fill, FillSource, Filled, InsertPlan, Piece, Slot};
use crate::planner::{ParamValue, Unreadable, Values};
use crate::session::Parsed;
use crate::session::encoding::in_ascii;
use crate::sql::{Lexed, Literal, LiteralKind};
use crate::topology::{KeyType, KeyValue, TableName};
use crate::wire::client_message::Bind;

/// Values of one execution.
pub(super) struct StatementValues<'a> {
    lexed: &'a Lexed,
    bind: Option<(&'a Bind, &'a [u32])>,
    /// By fill, then by row.
    pub(super) fills: Vec<Vec<Filled>>,
    /// Keys that only a server could read.
    read: HashMap<(SlotKey, KeyType), KeyValue>,
    /// Parameters that came in another encoding, by number.
    pub(super) decoded: HashMap<u32, Bytes>,
}

/// A slot as a map key.
type SlotKey = (u8, usize, bool);

fn slot_key(slot: &Slot) -> SlotKey {
    match slot {
        Slot::Literal { index, negative } => (0, *index, *negative),
        Slot::Param(number) => (1, *number as usize, false),
        Slot::Null => (2, 0, false),
        Slot::Fill(index) => (3, *index, false),
        Slot::Known(_) => (4, 0, false),
    }
}

impl<'a> StatementValues<'a> {
    pub(super) fn new(lexed: &'a Lexed, mode: Mode<'a>) -> Self {
        let bind = match mode {
            Mode::Simple => None,
            Mode::Extended { bind, types, .. } => Some((bind, types)),
        };
        Self { lexed, bind, fills: Vec::new(), read: HashMap::new(), decoded: HashMap::new() }
    }

    /// A slot's value as text, for LIMIT, OFFSET and HAVING. `None` when it is no plain text;
    /// `Some(None)` for NULL.
    pub(super) fn text(&self, slot: &Slot) -> Option<Option<String>> {
        match slot {
            Slot::Null => Some(None),
            Slot::Literal { index, negative } => {
                let literal = self.lexed.literals.get(*index)?;
                Some(Some(if *negative { format!("-{}", literal.value) } else { literal.value.clone() }))
            }
            Slot::Param(number) => {
                let param = self.param(*number)?;
                let Some(bytes) = param.bytes else { return Some(None) };
                match (param.format, param.type_oid, bytes.len()) {
                    (crate::wire::Format::Text, ..) => String::from_utf8(bytes.to_vec()).ok().map(Some),
                    (crate::wire::Format::Binary, 20 | 0, 8) => {
                        Some(Some(i64::from_be_bytes(bytes.try_into().ok()?).to_string()))
                    }
                    (crate::wire::Format::Binary, 23, 4) => {
                        Some(Some(i32::from_be_bytes(bytes.try_into().ok()?).to_string()))
                    }
                    (crate::wire::Format::Binary, 21, 2) => {
                        Some(Some(i16::from_be_bytes(bytes.try_into().ok()?).to_string()))
                    }
                    _ => None,
                }
            }
            Slot::Fill(_) | Slot::Known(_) => None,
        }
    }

    /// A parameter that is a text where it stands: the same bytes in both formats.
    pub(super) fn text_param(&self, number: u32) -> Option<String> {
        String::from_utf8(self.param(number)?.bytes?.to_vec()).ok()
    }

    /// The slot is a number without quotes.
    fn is_number(&self, slot: &Slot) -> bool {
        let Slot::Literal { index, .. } = slot else { return false };
        let literal = self.lexed.literals.get(*index);
        literal.is_some_and(|literal| matches!(literal.kind, LiteralKind::Integer | LiteralKind::Decimal))
    }

    /// A slot's value as the merge compares it, for HAVING.
    pub(super) fn constant(&self, slot: &Slot) -> Option<Constant> {
        match slot {
            Slot::Null => Some(Constant::null()),
            Slot::Literal { index, .. } => {
                let text = self.text(slot)??;
                match self.lexed.literals.get(*index)?.kind {
                    LiteralKind::Integer | LiteralKind::Decimal => Some(Constant::number(text)),
                    LiteralKind::String => Some(Constant::quoted(text)),
                    LiteralKind::BitString => None,
                }
            }
            Slot::Param(number) => {
                let param = self.param(*number)?;
                Some(Constant {
                    type_oid: param.type_oid,
                    format: param.format,
                    bytes: param.bytes.map(bytes::Bytes::copy_from_slice),
                })
            }
            Slot::Fill(_) | Slot::Known(_) => None,
        }
    }

    /// `$1::integer` in LIMIT, bound in binary without a type of its own: casts to integers only become slots there.
    fn cast_count(&self, slot: &Slot) -> Option<Option<String>> {
        let Slot::Param(number) = slot else { return None };
        let param = self.param(*number).filter(|param| param.type_oid == 0)?;
        match *param.bytes? {
            [a, b, c, d] => Some(Some(i32::from_be_bytes([a, b, c, d]).to_string())),
            [a, b] => Some(Some(i16::from_be_bytes([a, b]).to_string())),
            _ => None,
        }
    }

    /// A slot's value as a row count.
    ///
    /// # Errors
    /// Negative or unreadable.
    pub(super) fn row_count(&self, slot: Option<&Slot>, what: &str) -> Result<Option<u64>, ClientError> {
        let Some(slot) = slot else { return Ok(None) };
        let unreadable = || {
            ClientError::refused(
                format!("the value of {what} cannot be read"),
                "Use an integer literal or a bigint parameter.",
            )
        };
        match self.text(slot).or_else(|| self.cast_count(slot)).ok_or_else(unreadable)? {
            None => Ok(None),
            Some(text) => match text.trim().parse::<i64>() {
                Ok(count) if count < 0 => Err(ClientError::new(
                    if what == "LIMIT" { ErrorId::InvalidRowCountInLimit } else { ErrorId::InvalidRowCountInOffset },
                    format!("{what} must not be negative"),
                )),
                Ok(count) => Ok(Some(count.unsigned_abs())),
                Err(_) => Err(unreadable()),
            },
        }
    }
}

impl Values for StatementValues<'_> {
    fn literal(&self, index: usize) -> Option<&Literal> {
        self.lexed.literals.get(index)
    }

    fn param(&self, number: u32) -> Option<ParamValue<'_>> {
        let (bind, types) = self.bind?;
        let index = (number as usize).checked_sub(1)?;
        let bytes = bind.parameters.get(index)?;
        Some(ParamValue {
            type_oid: types.get(index).copied().unwrap_or(0),
            format: bind.parameter_format(index),
            bytes: self.decoded.get(&number).map(AsRef::as_ref).or(bytes.as_deref()),
        })
    }

    fn fill(&self, fill: usize, row: usize) -> Option<Filled> {
        self.fills.get(fill)?.get(row).cloned()
    }

    fn cast(&self, slot: &Slot, key_type: KeyType) -> Option<Option<KeyValue>> {
        self.read.get(&(slot_key(slot), key_type)).cloned().map(Some)
    }
}

/// A target list has 1,664 entries at most.
const EXPRESSIONS_AT_ONCE: usize = 1_000;

/// The name of a key's type in a cast that shortens nothing.
fn cast_name(type_oid: u32) -> &'static str {
    match KeyType::from_oid(type_oid) {
        Some(KeyType::Bpchar) => "pg_catalog.bpchar",
        Some(key_type) => key_type.name(),
        None => "text",
    }
}

impl Session {
    /// The values of every fill for the rows of an INSERT.
    pub(super) async fn fill_rows(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        insert: &InsertPlan,
        mode: Mode<'_>,
    ) -> Result<Vec<Vec<Filled>>, Failure> {
        let rows = insert.rows.len();
        if insert.fills.iter().any(|fill| !matches!(fill.source, FillSource::Sequence(_))) {
            // What a server is asked belongs to the statement's transaction.
            self.open_block().await?;
        }
        let mut filled = self.fill(client, &insert.table, &insert.fills, rows).await?;
        let is_computed =
            |fill: usize| insert.fills.get(fill).is_some_and(|fill| fill.source == FillSource::Expression);
        let places: Vec<(usize, usize, Piece)> = insert
            .rows
            .iter()
            .enumerate()
            .flat_map(|(row, planned)| planned.fills.iter().map(move |filled| (filled, row)))
            .filter(|(filled, _)| is_computed(filled.fill))
            .map(|(filled, row)| (filled.fill, row, Piece::Tokens(filled.tokens.clone())))
            .collect();
        if places.is_empty() {
            return Ok(filled);
        }
        // PostgreSQL says what is wrong with the statement, and what its parameters are.
        let types = self.describe_text(client, self.any_shard(), &parsed.text, mode.types()).await?.types;
        for places in places.chunks(EXPRESSIONS_AT_ONCE) {
            let mut pieces = vec![Piece::Text("SELECT (".to_owned())];
            for (position, (fill, _, tokens)) in places.iter().enumerate() {
                if position > 0 {
                    pieces.push(Piece::Text(", (".to_owned()));
                }
                let type_oid = insert.fills.get(*fill).map_or(0, |fill| fill.type_oid);
                pieces.extend([tokens.clone(), Piece::Text(format!(")::{}", cast_name(type_oid)))]);
            }
            let question = self.question(parsed, &pieces, &types, mode);
            let values = self.texts_of(client, &question).await?.into_iter().next().unwrap_or_default();
            for ((fill, row, _), value) in places.iter().zip(values) {
                if let Some(place) = filled.get_mut(*fill).and_then(|values| values.get_mut(*row)) {
                    *place = Filled::Text(value);
                }
            }
        }
        Ok(filled)
    }

    /// Takes ids and evaluates defaults, for every fill and row; expressions stay NULL.
    pub(super) async fn fill(
        &mut self,
        client: &mut Framed,
        table: &TableName,
        fills: &[Fill],
        rows: usize,
    ) -> Result<Vec<Vec<Filled>>, Failure> {
        let mut taken = Vec::with_capacity(fills.len());
        for fill in fills {
            taken.push(match &fill.source {
                FillSource::Sequence(sequence) => {
                    self.take_ids(sequence, rows).await?.into_iter().map(Filled::Id).collect()
                }
                FillSource::Default => self.defaults_of(client, table, &fill.column, rows).await?,
                FillSource::Expression => vec![Filled::Text(None); rows],
            });
        }
        Ok(taken)
    }

    /// Asks a server what value a key text is: PostgreSQL's own input function decides, and its own
    /// error goes to the client when it is none.
    pub(super) async fn read_by_server(
        &mut self,
        client: &mut Framed,
        unreadable: &[Unreadable],
        values: &mut StatementValues<'_>,
    ) -> Result<(), Failure> {
        let outside = !self.transaction.is_open() && !self.is_at_work();
        // Answers that are owed come first.
        self.settle(client).await?;
        for part in unreadable {
            let Some(Some(text)) = values.text(&part.slot) else {
                return Err(ClientError::refused(
                    "the value of the sharding key cannot be read with certainty",
                    "Declare the parameter with the key's own type.",
                )
                .into());
            };
            let shard = self.any_shard();
            self.link(shard).await?;
            let value = if values.is_number(&part.slot) { text } else { format!("'{}'", text.replace('\'', "''")) };
            let sql = format!("SELECT ({value})::{}", part.key_type.name());
            let outcome = self.ask(shard, &in_ascii(&sql)).await;
            if outside {
                self.let_go();
            }
            let answer = outcome?;
            // What the server prints is plain, unless the session's DateStyle makes it not so.
            let value = part.key_type.read_text(answer.as_bytes()).ok_or_else(|| {
                ClientError::refused(
                    "the value of the sharding key cannot be read with certainty",
                    "Write the key in its type's plain form, e.g. 42, 'text' or '2026-01-31'.",
                )
            })?;
            values.read.insert((slot_key(&part.slot), part.key_type), value);
        }
        Ok(())
    }
}
