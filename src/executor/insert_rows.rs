//! Rows that the proxy holds, inserted on the shards of their keys.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::exchange::Show;
use super::insert::in_row_order;
use super::relay::Done;
use super::statement::Mode;
use super::steps::{Question, Rows, TEXT};
use super::{Failure, Session, places};
use crate::base::ShardId;
use crate::error::ClientError;
use crate::net::Framed;
use crate::plan::steps::{InsertRows, RowsTarget, RowsTo};
use crate::plan::{Filled, Piece};
use crate::planner::{self, rewrite};
use crate::session::Parsed;
use crate::session::columns::FIRST_USER_TYPE;
use crate::topology::{KeyType, KeyValue};
use crate::wire::Format;
use crate::wire::client_message::Bind;
use crate::wire::frame::Frame;
use crate::wire::server_message::Field;

/// Parameters of one statement: the protocol counts them in 16 bits.
const PARAMETERS_MAX: usize = 65_535;

/// Rows with what decides where they go.
pub(super) struct Batch {
    pub(super) rows: Rows,
    /// Declared type of each column; 0 leaves it to the column that it is stored in.
    pub(super) types: Vec<u32>,
    /// By fill, then by row.
    pub(super) fills: Vec<Vec<Filled>>,
}

/// The client's statement that the rows belong to.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) parsed: &'a Parsed,
    /// Types of its parameters.
    pub(super) types: &'a [u32],
    pub(super) mode: Mode<'a>,
    /// The client still has to be told of the columns.
    pub(super) header: bool,
}

impl<'a> Asked<'a> {
    pub(super) fn new(parsed: &'a Parsed, types: &'a [u32], mode: Mode<'a>, returning: bool) -> Self {
        // The simple protocol says nothing of a statement without columns.
        let header = mode.describes() && (returning || matches!(mode, Mode::Extended { .. }));
        Self { parsed, types, mode, header }
    }
}

impl Session {
    /// INSERT … SELECT through the proxy.
    pub(super) async fn run_insert_rows(
        &mut self,
        client: &mut Framed,
        insert: &InsertRows,
        asked: Asked<'_>,
    ) -> Result<Done, Failure> {
        let question = self.question(asked.parsed, &insert.source, asked.types, asked.mode);
        let fields = self.fields_of(client, &question, &insert.untyped).await?;
        self.check_user_types(client, &insert.target, &fields).await?;
        let rows = self.rows_to_carry(client, question, &fields).await?;
        let (count, collected) = self.insert_batch(client, &insert.target, &insert.untyped, rows, asked).await?;
        in_row_order(client, collected);
        Ok(Done::with_tag(&format!("INSERT 0 {count}")))
    }

    /// Inserts rows by key; gives the number of rows, and what RETURNING gives with the rows' numbers.
    pub(super) async fn insert_batch(
        &mut self,
        client: &mut Framed,
        target: &RowsTarget,
        untyped: &[usize],
        rows: Rows,
        asked: Asked<'_>,
    ) -> Result<(u64, Vec<(Vec<usize>, Vec<Frame>)>), Failure> {
        if rows.fields.len() != target.columns.len() {
            return Err(ClientError::refused(
                "INSERT ... SELECT * whose columns are not known is not supported across shards",
                "Name the columns that are inserted, and those that are selected.",
            )
            .into());
        }
        let fills = self.fill(client, &target.table, &target.fills, rows.rows.len()).await?;
        let batch = Batch { types: declared_types(&rows, untyped), rows, fills };
        let parts = self.parts_of_batch(target, &batch)?;
        self.send_parts(client, target, &batch, &parts, asked).await
    }

    /// A type that a user made has another number on each server, so its values are sent without one: they must be of
    /// the column's own type.
    pub(super) async fn check_user_types(
        &mut self,
        client: &mut Framed,
        target: &RowsTarget,
        fields: &[Field],
    ) -> Result<(), Failure> {
        if fields.iter().all(|field| field.type_oid < FIRST_USER_TYPE) {
            return Ok(());
        }
        let name = format!("{}.{}", rewrite::quoted(&target.table.schema), rewrite::quoted(&target.table.name));
        let columns: Vec<String> = target.columns.iter().map(|column| rewrite::literal(column)).collect();
        // The server that described the columns is the one that is asked: it is the first that is held.
        let sql = format!(
            "SELECT pg_catalog.string_agg(CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END::pg_catalog.text, ',' \
             ORDER BY n.place) FROM pg_catalog.unnest(ARRAY[{}]::pg_catalog.text[]) WITH ORDINALITY n (name, place) \
             LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = {}::pg_catalog.regclass AND a.attname = n.name \
             LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid",
            columns.join(", "),
            rewrite::literal(&name)
        );
        let types = self.ask_any(client, &sql).await?;
        let own: Vec<Option<u32>> = types.split(',').map(|number| number.parse().ok()).collect();
        for (index, (field, column)) in fields.iter().zip(&target.columns).enumerate() {
            if field.type_oid >= FIRST_USER_TYPE && own.get(index) != Some(&Some(field.type_oid)) {
                return Err(ClientError::refused(
                    format!("a value of another type for column \"{column}\" cannot go through the proxy"),
                    "Cast it to the column's type.",
                )
                .into());
            }
        }
        Ok(())
    }

    /// Rows by shard, ascending.
    fn parts_of_batch(&self, target: &RowsTarget, batch: &Batch) -> Result<BTreeMap<ShardId, Vec<usize>>, ClientError> {
        let all = || (0..batch.rows.rows.len()).collect::<Vec<usize>>();
        let mut parts: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
        match target.to {
            RowsTo::Owner => {}
            RowsTo::Shard(shard) => return Ok(BTreeMap::from([(shard, all())])),
            RowsTo::All => return Ok(self.topology.shard_ids().map(|shard| (shard, all())).collect()),
        }
        for (row, values) in batch.rows.rows.iter().enumerate() {
            let is_text = |key_type: &KeyType| matches!(key_type, KeyType::Text | KeyType::Varchar | KeyType::Bpchar);
            let keys = target.key.iter().filter(|(_, key_type)| is_text(key_type));
            let keys = keys.filter_map(|(place, _)| values.get(*place)?.as_ref());
            keys.into_iter().try_for_each(|value| self.must_be_readable(value))?;
            let shard = match key_of_row(target, batch, row)? {
                Some(key) => self.topology.shard_of_key(&key),
                // Any shard refuses it in PostgreSQL's own words.
                None if target.key_is_not_null => self.topology.home(),
                None => return Err(planner::missing_key(&target.table.name, None)),
            };
            parts.entry(shard).or_default().push(row);
        }
        if parts.is_empty() {
            // Without rows, one shard says whether the statement may run at all.
            parts.insert(self.any_shard(), Vec::new());
        }
        Ok(parts)
    }

    async fn send_parts(
        &mut self,
        client: &mut Framed,
        target: &RowsTarget,
        batch: &Batch,
        parts: &BTreeMap<ShardId, Vec<usize>>,
        asked: Asked<'_>,
    ) -> Result<(u64, Vec<(Vec<usize>, Vec<Frame>)>), Failure> {
        let tail = self.question(asked.parsed, &[Piece::Tokens(target.tail.clone())], asked.types, asked.mode);
        let head = self.question(asked.parsed, &target.head, asked.types, asked.mode).sql;
        let rows_max = (PARAMETERS_MAX - tail.types.len().min(PARAMETERS_MAX)) / batch.types.len().max(1);
        if target.one_statement && parts.values().any(|rows| rows.len() > rows_max) {
            return Err(ClientError::refused(
                "so many rows with ON CONFLICT DO UPDATE are not supported across shards",
                "Write fewer rows at a time.",
            )
            .into());
        }
        let result_formats = asked.mode.bind().map(|bind| bind.result_formats.clone()).unwrap_or_default();
        let (mut count, mut header, mut is_first) = (0, asked.header, true);
        let mut collected: Vec<(Vec<usize>, Vec<Frame>)> = Vec::new();
        for (shard, rows) in parts {
            let mut chunks: Vec<&[usize]> = rows.chunks(rows_max.max(1)).collect();
            if chunks.is_empty() {
                chunks.push(&[]);
            }
            // Copies answer alike: the first speaks for all.
            let is_shown = is_first || target.to != RowsTo::All;
            let mut shard_count = 0;
            for chunk in chunks {
                let (sql, mut bind, types) = statement(&head, target, batch, chunk, &tail);
                bind.result_formats.clone_from(&result_formats);
                let mode = Mode::Extended { bind: &bind, types: &types, describe: header };
                let show = Show { header, rows: false, notices: is_shown };
                let (done, frames) =
                    self.exchange_collecting(client, *shard, &sql, mode, show).await.map_err(places::without)?;
                if let Some(link) = self.links.get_mut(shard) {
                    link.wrote = true;
                }
                shard_count += done.row_count().unwrap_or(0);
                if is_shown {
                    collected.push((chunk.to_vec(), frames));
                }
                header = false;
            }
            if is_shown {
                count += shard_count;
            } else if shard_count != count {
                return Err(self.copies_differ(*shard));
            }
            is_first = false;
        }
        Ok((count, collected))
    }
}

/// The type as which each column is sent.
fn declared_types(rows: &Rows, untyped: &[usize]) -> Vec<u32> {
    let own = |(index, field): (usize, &Field)| {
        let is_open = field.type_oid >= FIRST_USER_TYPE || field.type_oid == TEXT && untyped.contains(&index);
        if is_open { 0 } else { field.type_oid }
    };
    rows.fields.iter().enumerate().map(own).collect()
}

/// The key of a row; `None` when a part is NULL.
fn key_of_row(target: &RowsTarget, batch: &Batch, row: usize) -> Result<Option<Vec<KeyValue>>, ClientError> {
    let unreadable = || {
        ClientError::refused(
            "the value of the sharding key cannot be read with certainty",
            "Cast it to the type of its column.",
        )
    };
    let mut key = Vec::with_capacity(target.key.len());
    for (place, key_type) in &target.key {
        let value = match place.checked_sub(target.columns.len()) {
            Some(fill) => match batch.fills.get(fill).and_then(|values| values.get(row)) {
                Some(Filled::Text(None)) => return Ok(None),
                filled => filled.and_then(|filled| planner::read_filled(filled, *key_type)),
            },
            None => match batch.rows.rows.get(row).and_then(|values| values.get(*place)) {
                Some(None) => return Ok(None),
                Some(Some(bytes)) => read_column(batch, *place, bytes, *key_type),
                None => None,
            },
        };
        let value = value.filter(|value| planner::is_stored_as_given(value, *key_type)).ok_or_else(unreadable)?;
        key.push(value);
    }
    Ok(Some(key))
}

fn read_column(batch: &Batch, place: usize, bytes: &Bytes, key_type: KeyType) -> Option<KeyValue> {
    let type_oid = batch.types.get(place).copied()?;
    let format = batch.rows.fields.get(place)?.format;
    planner::read_param(type_oid, format, bytes, key_type)
}

/// INSERT of these rows, its values, and their types. Parameters of the client's come first.
fn statement(
    head: &str,
    target: &RowsTarget,
    batch: &Batch,
    rows: &[usize],
    tail: &Question,
) -> (String, Bind, Vec<u32>) {
    let mut bind = tail.bind.clone();
    let mut types = tail.types.clone();
    let columns: Vec<String> = target
        .columns
        .iter()
        .chain(target.fills.iter().map(|fill| &fill.column))
        .map(|name| rewrite::quoted(name))
        .collect();
    let overriding = if target.overrides { " OVERRIDING SYSTEM VALUE" } else { "" };
    let mut sql = format!("{head} ({}){overriding}", columns.join(", "));
    if rows.is_empty() {
        let nothing = vec!["NULL"; columns.len()];
        sql.push_str(&format!(" SELECT {} WHERE false", nothing.join(", ")));
    }
    for (position, row) in rows.iter().enumerate() {
        sql.push_str(if position == 0 { " VALUES (" } else { ", (" });
        let mut values: Vec<String> = Vec::with_capacity(columns.len());
        for (place, value) in batch.rows.rows.get(*row).into_iter().flatten().enumerate() {
            bind.parameter_formats.push(batch.rows.fields.get(place).map_or(Format::Text, |field| field.format));
            bind.parameters.push(value.clone());
            types.push(batch.types.get(place).copied().unwrap_or(0));
            values.push(format!("${}", types.len()));
        }
        let filled = batch.fills.iter().filter_map(|values| values.get(*row)).map(rewrite::filled_text);
        values.extend(filled);
        sql.push_str(&values.join(", "));
        sql.push(')');
    }
    sql.push(' ');
    sql.push_str(&tail.sql);
    (sql, bind, types)
}
