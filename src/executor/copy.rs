//! COPY: passed through on one shard; split by sharding key on the way in, joined on the way out.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

use bytes::{Bytes, BytesMut};

use super::link::{Link, failure_of};
use super::relay::{Done, FirstError, forward};
use super::statement::Mode;
use super::transaction::read_answer;
use super::values::StatementValues;
use super::{Failure, Session, places, shard_name};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::{Framed, NetError};
use crate::plan::{CopyPlan, Fill, FillSource, Plan, Route, Several};
use crate::planner::{BoundShards, rewrite};
use crate::session::Parsed;
use crate::sql::ast;
use crate::topology::{KeyType, KeyValue, Pins, Topology};
use crate::wire::client_message;
use crate::wire::copy::{
    CopyError, CopyEvent, CopyFormat, CopyJoiner, CopyKey, CopyPiece, CopyShape, CopySplitter, append_field,
};
use crate::wire::frame::{Frame, scan};
use crate::wire::server_message::{self, tag};

/// Rows are sent to a shard once this much is gathered for it.
///
/// # Units
/// Bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// What waits for a shard that does not take it, before the client is kept waiting.
///
/// # Units
/// Bytes.
const WAITING_BYTES_MAX: usize = 256 << 10;

/// Ids taken at a time for rows that need one.
const IDS_AT_ONCE: usize = 1_000;

impl Session {
    /// COPY in either direction.
    ///
    /// # Errors
    /// PostgreSQL's, or ours for a row whose shard cannot be told; nothing of the COPY stays.
    pub(super) async fn run_copy(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        plan: &Plan,
        mode: Mode<'_>,
    ) -> Result<Done, Failure> {
        let Some(copy) = &plan.copy else {
            return Err(ClientError::new(ErrorId::Internal, "not a COPY").into());
        };
        let shards = self.copy_shards(client, parsed, plan, mode).await?;
        if shards.len() > 1 || !copy.fills.is_empty() {
            self.may_copy(copy)?;
        }
        let done = match shards.as_slice() {
            [one] if copy.fills.is_empty() => self.forward_query(client, *one, &parsed.text).await?,
            several if copy.from => {
                if several.len() > 1 {
                    self.open_block().await?;
                }
                self.copy_in(client, parsed, copy, several).await?
            }
            _ if matches!(plan.several, Several::Merge { .. } | Several::Gather(_)) => {
                self.copy_merged(client, parsed, copy, mode).await?
            }
            several => self.copy_out(client, parsed, copy, several).await?,
        };
        self.note_sequences(parsed, plan.sequences);
        if copy.from {
            for shard in shards {
                if let Some(link) = self.links.get_mut(&shard) {
                    link.wrote = true;
                }
            }
        }
        Ok(done)
    }

    async fn copy_shards(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        plan: &Plan,
        mode: Mode<'_>,
    ) -> Result<Vec<ShardId>, Failure> {
        if plan.route == Route::ByRow {
            return Ok(self.topology.shard_ids().collect());
        }
        let mut values = StatementValues::new(&parsed.lexed, mode);
        Ok(match self.bind(client, plan, &mut values, None).await?.shards {
            BoundShards::One(shard) => vec![shard],
            BoundShards::Any => vec![self.any_shard()],
            BoundShards::Many(shards) => shards,
        })
    }

    async fn copy_in(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        copy: &CopyPlan,
        shards: &[ShardId],
    ) -> Result<Done, Failure> {
        if !copy.fills.is_empty() && (self.own_schema.is_some() || self.schema_changed) {
            return Err(ClientError::refused(
                "COPY that leaves ids to be filled in, after a change of the schema in the same transaction",
                "Copy the ids too, or commit the change first.",
            )
            .into());
        }
        let sql = rewrite::apply(&parsed.text, &parsed.lexed, &copy.splices, None);
        for shard in shards {
            self.link(*shard).await?;
        }
        let mut format = None;
        for (started, shard) in shards.iter().enumerate() {
            let name = shard_name(&self.topology, *shard);
            let link = self.held(*shard)?;
            let outcome = start_copy_in(link, sql.text(), &name)
                .await
                .map_err(|failure| places::in_source(failure, &sql, &parsed.text));
            match self.after_exchange(*shard, outcome) {
                Ok(shard_format) => format = format.or(Some(shard_format)),
                Err(failure) => {
                    self.stop_copy(shards.get(..started).unwrap_or_default()).await;
                    return Err(failure);
                }
            }
        }
        let (format, columns) = format.unwrap_or((crate::wire::Format::Text, 0));
        let shown = columns.saturating_sub(copy.fills.len());
        server_message::write_copy_response(client.output(), tag::COPY_IN_RESPONSE, format, shown);
        client.flush().await?;
        match self.copy_rows(client, copy, shards).await {
            Ok(CopyEnd::Done) => self.finish_copy(copy, shards, None).await,
            Ok(CopyEnd::Failed(reason)) => self.finish_copy(copy, shards, Some(&reason)).await,
            Err(failure) => {
                self.stop_copy(shards).await;
                Err(failure)
            }
        }
    }

    /// Reads the client's data to its end and gives every shard its rows.
    async fn copy_rows(
        &mut self,
        client: &mut Framed,
        copy: &CopyPlan,
        shards: &[ShardId],
    ) -> Result<CopyEnd, Failure> {
        let shape = shape_of(&copy.options);
        let fields = copy.key.iter().map(|(field, _)| *field).filter(|field| *field < copy.columns).collect();
        let mut splitter = CopySplitter::new(shape.clone(), fields);
        let mut chunks = Chunks::new(shape, shards, &self.topology);
        let mut ids = vec![VecDeque::new(); copy.fills.len()];
        loop {
            // What one read brought is dealt with at once, be it one message or many.
            let run = client.take_run(b'd');
            let over = if run.is_empty() {
                let frame = client.read_frame().await?.ok_or(NetError::Closed)?;
                match frame.tag {
                    b'd' => {
                        let data = frame.body();
                        self.place_data(&mut splitter, &data, copy, &mut ids, &mut chunks).await?;
                    }
                    b'c' => splitter.finish(),
                    b'f' => {
                        let reason = frame.body();
                        let reason = reason.strip_suffix(&[0]).unwrap_or(&reason);
                        return Ok(CopyEnd::Failed(String::from_utf8_lossy(reason).into_owned()));
                    }
                    // Flush and Sync are ignored during COPY, as in PostgreSQL.
                    b'H' | b'S' => continue,
                    other => {
                        return Err(ClientError::new(
                            ErrorId::ProtocolViolation,
                            format!("unexpected message type 0x{other:02X} during COPY from stdin"),
                        )
                        .into());
                    }
                }
                frame.tag == b'c'
            } else {
                for header in scan(&run) {
                    let data = header.map_err(NetError::from)?.body(&run);
                    self.place_data(&mut splitter, data, copy, &mut ids, &mut chunks).await?;
                }
                false
            };
            if over {
                self.place_rows(&mut splitter, copy, &mut ids, &mut chunks).await?;
            }
            for (shard, chunk) in chunks.shards.iter().zip(&mut chunks.bytes) {
                if chunk.is_due(over) {
                    self.send_chunk(*shard, chunk).await?;
                }
            }
            if over {
                return Ok(CopyEnd::Done);
            }
        }
    }

    /// Places the rows of one message: where they stand, as far as they are plain, the others by way of the splitter.
    async fn place_data(
        &mut self,
        splitter: &mut CopySplitter,
        mut data: &[u8],
        copy: &CopyPlan,
        ids: &mut [VecDeque<i64>],
        chunks: &mut Chunks<'_>,
    ) -> Result<(), Failure> {
        let key_type = match copy.key.as_slice() {
            [(_, key_type)] if copy.fills.is_empty() => Some(*key_type),
            _ => None,
        };
        while !data.is_empty() {
            let taken = match key_type {
                Some(key_type) => splitter.take_plain(data, |row, key| chunks.put_plain(row, key, key_type)),
                None => 0,
            };
            data = data.get(taken..).unwrap_or_default();
            // The rest of a row, or one that is not plain: plain ones may follow it.
            let pushed = match key_type {
                Some(_) => memchr::memchr(b'\n', data).map_or(data.len(), |at| at + 1),
                None => data.len(),
            };
            let (row, rest) = data.split_at_checked(pushed).unwrap_or((data, &[]));
            splitter.push(row);
            self.place_rows(splitter, copy, ids, chunks).await?;
            data = rest;
        }
        Ok(())
    }

    /// Puts what the splitter has with the shards that must have it.
    async fn place_rows(
        &mut self,
        splitter: &mut CopySplitter,
        copy: &CopyPlan,
        ids: &mut [VecDeque<i64>],
        chunks: &mut Chunks<'_>,
    ) -> Result<(), Failure> {
        if copy.fills.is_empty() {
            let mut key = Vec::with_capacity(copy.key.len());
            loop {
                match splitter.next_piece() {
                    Ok(None) => return Ok(()),
                    Ok(Some(CopyPiece::Header(bytes) | CopyPiece::End(bytes))) => chunks.put_everywhere(bytes),
                    Ok(Some(CopyPiece::Row { bytes, keys, .. })) => {
                        let place = self.place_of_row(keys.iter(), copy, &[], &mut key)?;
                        chunks.put_row(place, bytes)?;
                    }
                    // PostgreSQL is better at complaining about such a row.
                    Err(CopyError::MissingField { row, .. } | CopyError::UnterminatedQuote { row }) => {
                        chunks.put_row(RowPlace::First, &row)?;
                    }
                    Err(error) => return Err(copy_failure(error)),
                }
            }
        }
        while let Some(event) = splitter.next_event().map_err(copy_failure)? {
            self.place_filled(event, copy, ids, chunks).await?;
        }
        Ok(())
    }

    /// As [`Self::place_rows`], of rows that are given ids first.
    async fn place_filled(
        &mut self,
        event: CopyEvent,
        copy: &CopyPlan,
        ids: &mut [VecDeque<i64>],
        chunks: &mut Chunks<'_>,
    ) -> Result<(), Failure> {
        let shape = &chunks.shape;
        match event {
            CopyEvent::Header(mut bytes) => {
                if shape.format != CopyFormat::Binary {
                    for fill in &copy.fills {
                        bytes = append_field(shape, &bytes, fill.column.as_bytes()).map_err(copy_failure)?.into();
                    }
                }
                chunks.put_everywhere(&bytes);
            }
            CopyEvent::End(bytes) => chunks.put_everywhere(&bytes),
            CopyEvent::Row(mut row) => {
                let filled = self.ids_of_row(&copy.fills, ids).await?;
                for (fill, id) in copy.fills.iter().zip(&filled) {
                    let value = id_value(fill, *id, shape.format)?;
                    row.bytes = append_field(shape, &row.bytes, &value).map_err(copy_failure)?.into();
                }
                let keys = row.keys.iter().map(CopyKey::from);
                let place = self.place_of_row(keys, copy, &filled, &mut Vec::new())?;
                chunks.put_row(place, &row.bytes)?;
            }
        }
        Ok(())
    }

    async fn ids_of_row(&mut self, fills: &[Fill], ids: &mut [VecDeque<i64>]) -> Result<Vec<i64>, Failure> {
        let mut taken = Vec::with_capacity(fills.len());
        for (fill, ready) in fills.iter().zip(ids) {
            let FillSource::Sequence(sequence) = &fill.source else {
                return Err(ClientError::new(ErrorId::Internal, "COPY fills in ids only").into());
            };
            if ready.is_empty() {
                ready.extend(self.cluster.ids.next(sequence, IDS_AT_ONCE).await?);
            }
            let id = ready.pop_front();
            let id = id.ok_or_else(|| ClientError::new(ErrorId::Internal, "a sequence gave no value"))?;
            self.ids.note(sequence, id);
            taken.push(id);
        }
        Ok(taken)
    }

    /// Where a row goes; `key` is room for the values of its key.
    fn place_of_row<'k>(
        &self,
        mut fields: impl Iterator<Item = CopyKey<'k>>,
        copy: &CopyPlan,
        filled: &[i64],
        key: &mut Vec<KeyValue>,
    ) -> Result<RowPlace, Failure> {
        if copy.key.is_empty() {
            return Ok(RowPlace::Everywhere);
        }
        key.clear();
        for (field, key_type) in &copy.key {
            let value = match field.checked_sub(copy.columns) {
                Some(fill) => filled.get(fill).map(|id| KeyValue::Int(*id)),
                None => match fields.next() {
                    // A row that is too short: any shard will say so.
                    None => return Ok(RowPlace::First),
                    Some(CopyKey::Null) if copy.key_is_not_null => return Ok(RowPlace::First),
                    Some(CopyKey::Null) => return Err(key_missing(copy)),
                    Some(CopyKey::Text(text)) => match key_type.read_text(&text) {
                        // Any shard says so, and of which column.
                        None if is_surely_malformed(&text, *key_type) => return Ok(RowPlace::First),
                        value => value,
                    },
                    Some(CopyKey::Binary(bytes)) => key_type.read_binary(bytes),
                },
            };
            key.push(value.ok_or_else(|| key_unreadable(copy))?);
        }
        Ok(RowPlace::Shard(self.topology.shard_of_key(key)))
    }

    /// Sends a chunk as far as the kernel takes it. The rest may wait while other shards are given theirs, up to a bound:
    /// so a shard that is slow for a moment does not stop the others.
    async fn send_chunk(&mut self, shard: ShardId, chunk: &mut Chunk) -> Result<(), Failure> {
        let link = self.held(shard)?;
        chunk.finish(link.lease.output());
        let polled = poll_fn(|context| Poll::Ready(link.lease.poll_flush(context))).await;
        let waiting_bytes = link.lease.output().len();
        let sent = match polled {
            Poll::Ready(sent) => sent,
            Poll::Pending if waiting_bytes > WAITING_BYTES_MAX => link.lease.flush().await,
            Poll::Pending => return Ok(()),
        };
        match sent {
            Ok(()) => Ok(()),
            Err(error) => {
                let name = shard_name(&self.topology, shard);
                self.after_exchange(shard, Err(failure_of(error, &name)))
            }
        }
    }

    /// Ends the COPY on all shards and adds up what they took.
    async fn finish_copy(
        &mut self,
        copy: &CopyPlan,
        shards: &[ShardId],
        failed: Option<&str>,
    ) -> Result<Done, Failure> {
        let mut count = 0;
        let mut first = None;
        // All are told before the first is asked: they finish at the same time.
        for shard in shards {
            let link = self.held(*shard)?;
            match failed {
                None => client_message::encode_copy_done(link.lease.output()),
                Some(reason) => client_message::encode_copy_fail(link.lease.output(), reason),
            }
            // What breaks or stays behind here is told or sent when the answer is read.
            let _later = poll_fn(|context| Poll::Ready(link.lease.poll_flush(context))).await;
        }
        for shard in shards {
            let name = shard_name(&self.topology, *shard);
            let link = self.held(*shard)?;
            let outcome = read_answer(link, &name).await;
            match self.after_exchange(*shard, outcome) {
                Ok(tag) => {
                    let rows = tag.as_deref().and_then(server_message::read_row_count).unwrap_or(0);
                    count = if copy.key.is_empty() { rows } else { count + rows };
                }
                Err(failure) => {
                    first.get_or_insert(failure);
                }
            }
        }
        match first {
            Some(failure) => Err(failure),
            None => Ok(Done::with_tag(&format!("COPY {count}"))),
        }
    }

    /// Makes every shard that still waits for data give up.
    async fn stop_copy(&mut self, shards: &[ShardId]) {
        for shard in shards {
            let name = shard_name(&self.topology, *shard);
            let Some(link) = self.links.get_mut(shard) else { continue };
            if link.lease.pending_ready() == 0 {
                continue;
            }
            client_message::encode_copy_fail(link.lease.output(), "the COPY was ended by an error elsewhere");
            let outcome = read_answer(link, &name).await;
            // An error is what was asked for; only the connection's state matters.
            let _expected = self.after_exchange(*shard, outcome);
        }
    }

    async fn copy_out(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        copy: &CopyPlan,
        shards: &[ShardId],
    ) -> Result<Done, Failure> {
        let mut joiner = CopyJoiner::new(shape_of(&copy.options), shards.len());
        let mut count = 0;
        for (part, shard) in shards.iter().enumerate() {
            self.link(*shard).await?;
            let name = shard_name(&self.topology, *shard);
            let link = self.held(*shard)?;
            client_message::encode_query(link.lease.output(), &parsed.text);
            link.lease.expect_ready();
            let outcome = relay_copy_out(link, client, &name, part, &mut joiner).await;
            let done = self.after_exchange(*shard, outcome)?;
            count += done.row_count().unwrap_or(0);
        }
        let rest = joiner.finish().map_err(copy_failure)?;
        if !rest.is_empty() {
            server_message::write_copy_data(client.output(), &rest);
        }
        server_message::write_empty(client.output(), tag::COPY_DONE);
        Ok(Done::with_tag(&format!("COPY {count}")))
    }
}

/// How the client's data ended.
enum CopyEnd {
    Done,
    Failed(String),
}

/// Where a row goes.
#[derive(Clone, Copy)]
enum RowPlace {
    /// To the shard of its key.
    Shard(ShardId),
    /// To the first one, which will say what is wrong with it.
    First,
    /// To all.
    Everywhere,
}

/// The rows that are gathered for one shard, as one message that is not closed yet.
#[derive(Default)]
struct Chunk {
    message: BytesMut,
}

impl Chunk {
    fn is_due(&self, is_last: bool) -> bool {
        self.message.len() >= CHUNK_BYTES || (is_last && !self.message.is_empty())
    }

    /// Where the rows go.
    fn rows(&mut self) -> &mut BytesMut {
        if self.message.is_empty() {
            // Rows of one more read may come before it is due.
            self.message.reserve(CHUNK_BYTES + CHUNK_BYTES / 2);
            client_message::begin_copy_data(&mut self.message);
        }
        &mut self.message
    }

    /// Closes the message and puts it where it is sent from, without a copy unless something waits there.
    fn finish(&mut self, output: &mut BytesMut) {
        client_message::end_copy_data(&mut self.message);
        if output.is_empty() {
            *output = std::mem::take(&mut self.message);
        } else {
            output.extend_from_slice(&self.message);
            self.message.clear();
        }
    }
}

/// What is gathered for each shard.
struct Chunks<'s> {
    shape: CopyShape,
    /// In ascending order.
    shards: &'s [ShardId],
    bytes: Vec<Chunk>,
    /// Places in `shards` by bucket; one that is none where the owner is not among them. Looked at for every row: small
    /// enough to stay near the processor, which the topology's own is not.
    by_bucket: Vec<u16>,
    pins: Pins,
}

impl<'s> Chunks<'s> {
    fn new(shape: CopyShape, shards: &'s [ShardId], topology: &Topology) -> Self {
        let place = |shard: &ShardId| shards.binary_search(shard).ok().and_then(|place| u16::try_from(place).ok());
        let by_bucket = topology.buckets.owners().iter().map(|owner| place(owner).unwrap_or(u16::MAX)).collect();
        let pins = topology.pins.clone();
        Self { shape, shards, bytes: shards.iter().map(|_| Chunk::default()).collect(), by_bucket, pins }
    }

    fn put_everywhere(&mut self, bytes: &[u8]) {
        for chunk in &mut self.bytes {
            chunk.rows().extend_from_slice(bytes);
        }
    }

    /// Puts a row with the shard of its key; `false`: the key is not plain, or has no shard here.
    fn put_plain(&mut self, row: &[u8], key: &[u8], key_type: KeyType) -> bool {
        let Some(key) = key_type.read_text(key) else { return false };
        let bucket = self.pins.bucket_of(std::slice::from_ref(&key));
        let place = self.by_bucket.get(usize::from(bucket.0)).copied().map(usize::from);
        let Some(chunk) = place.and_then(|place| self.bytes.get_mut(place)) else { return false };
        chunk.rows().extend_from_slice(row);
        true
    }

    fn put_row(&mut self, place: RowPlace, row: &[u8]) -> Result<(), Failure> {
        let format = self.shape.format;
        let index = match place {
            RowPlace::First => Ok(0),
            RowPlace::Shard(shard) => self.shards.binary_search(&shard),
            RowPlace::Everywhere => {
                self.bytes.iter_mut().for_each(|chunk| put_row(chunk.rows(), row, format));
                return Ok(());
            }
        };
        match index.ok().and_then(|index| self.bytes.get_mut(index)) {
            Some(chunk) => {
                put_row(chunk.rows(), row, format);
                Ok(())
            }
            None => Err(ClientError::new(ErrorId::Internal, "a row belongs to no shard of its COPY").into()),
        }
    }
}

pub(super) fn shape_of(options: &ast::CopyOptions) -> CopyShape {
    CopyShape {
        format: match options.format {
            ast::CopyFormat::Text => CopyFormat::Text,
            ast::CopyFormat::Csv => CopyFormat::Csv,
            ast::CopyFormat::Binary => CopyFormat::Binary,
        },
        delimiter: options.delimiter,
        null: options.null.clone().into_bytes(),
        header: options.header,
        quote: options.quote,
        escape: options.escape,
    }
}

/// A row may end without its line end only as the very last one.
fn put_row(chunk: &mut BytesMut, row: &[u8], format: CopyFormat) {
    chunk.extend_from_slice(row);
    if format != CopyFormat::Binary && !row.ends_with(b"\n") && !row.ends_with(b"\r") {
        chunk.extend_from_slice(b"\n");
    }
}

/// An id as the COPY format wants it.
fn id_value(fill: &Fill, id: i64, format: CopyFormat) -> Result<Vec<u8>, ClientError> {
    let too_big = || {
        ClientError::new(
            ErrorId::NumericOutOfRange,
            format!("the next id of column \"{}\" is out of range", fill.column),
        )
    };
    if format != CopyFormat::Binary {
        return Ok(id.to_string().into_bytes());
    }
    Ok(match fill.type_oid {
        21 => i16::try_from(id).map_err(|_| too_big())?.to_be_bytes().to_vec(),
        23 => i32::try_from(id).map_err(|_| too_big())?.to_be_bytes().to_vec(),
        20 => id.to_be_bytes().to_vec(),
        _ => {
            return Err(ClientError::refused(
                format!("binary COPY cannot fill in column \"{}\"", fill.column),
                "Give the column's values in the data, or use the text or CSV format.",
            ));
        }
    })
}

fn table_name(copy: &CopyPlan) -> String {
    copy.table.as_ref().map_or_else(String::new, |table| table.name.clone())
}

fn key_missing(copy: &CopyPlan) -> Failure {
    ClientError::new(
        ErrorId::ShardingKeyMissing,
        format!("null value in the sharding key of table \"{}\"", table_name(copy)),
    )
    .with_hint("Every row of a sharded table needs a value in its sharding key.")
    .into()
}

/// A text that no version of PostgreSQL takes for a value of the type.
fn is_surely_malformed(text: &[u8], key_type: KeyType) -> bool {
    let text = text.trim_ascii();
    match key_type {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => {
            let digits = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
            // Newer versions take 0x1f, 0o17, 0b11 and 1_000.
            let is_known = |byte: &u8| byte.is_ascii_hexdigit() || b"_xXoO".contains(byte);
            !digits.first().is_some_and(u8::is_ascii_digit)
                || !digits.iter().all(is_known)
                || digits.iter().all(u8::is_ascii_digit)
        }
        KeyType::Uuid => !text.iter().all(|byte| byte.is_ascii_hexdigit() || b"{}-".contains(byte)),
        _ => false,
    }
}

fn key_unreadable(copy: &CopyPlan) -> Failure {
    ClientError::refused(
        format!("a sharding key of table \"{}\" cannot be read with certainty", table_name(copy)),
        "Write keys in their type's plain form: digits, ISO dates, uuids with dashes.",
    )
    .into()
}

#[allow(clippy::needless_pass_by_value)] // it is what map_err hands over
fn copy_failure(error: CopyError) -> Failure {
    let mut ours = ClientError::new(
        match error.sqlstate() {
            "54000" => ErrorId::LimitExceeded,
            "0A000" => ErrorId::FeatureNotSupported,
            _ => ErrorId::BadCopyFormat,
        },
        error.to_string(),
    );
    ours.hint = error.hint().map(str::to_owned);
    ours.into()
}

/// Sends the statement and reads up to CopyInResponse.
async fn start_copy_in(link: &mut Link, sql: &str, name: &str) -> Result<(crate::wire::Format, usize), Failure> {
    client_message::encode_query(link.lease.output(), sql);
    link.lease.expect_ready();
    link.lease.flush().await.map_err(|error| failure_of(error, name))?;
    super::link::read_quiet(link, name).await?;
    let mut error = FirstError::default();
    loop {
        let frame = link.lease.next_frame().await.map_err(|error| failure_of(error, name))?;
        match frame.tag {
            tag::COPY_IN_RESPONSE => {
                return server_message::read_copy_response(&frame.body()).map_err(|_| {
                    ClientError::new(ErrorId::Internal, format!("shard {name} answered COPY in an unknown way")).into()
                });
            }
            tag::ERROR_RESPONSE => error.note(frame)?,
            tag::READY_FOR_QUERY => break,
            _ => {}
        }
    }
    error.into_result((crate::wire::Format::Text, 0))
}

/// COPY FROM on one shard: the client's bytes as they are.
pub(super) async fn pass_copy_in(link: &mut Link, client: &mut Framed, name: &str) -> Result<(), Failure> {
    client.flush().await?;
    loop {
        let frame = client.read_frame().await?.ok_or(NetError::Closed)?;
        match frame.tag {
            b'd' | b'c' | b'f' => link.lease.output().extend_from_slice(&frame.bytes),
            b'H' | b'S' => continue,
            _ => client_message::encode_copy_fail(link.lease.output(), "unexpected message during COPY from stdin"),
        }
        if frame.tag != b'd' || link.lease.output().len() >= CHUNK_BYTES {
            link.lease.flush().await.map_err(|error| failure_of(error, name))?;
        }
        if frame.tag != b'd' {
            return Ok(());
        }
    }
}

/// COPY TO of one shard among several.
async fn relay_copy_out(
    link: &mut Link,
    client: &mut Framed,
    name: &str,
    part: usize,
    joiner: &mut CopyJoiner,
) -> Result<Done, Failure> {
    link.lease.flush().await.map_err(|error| failure_of(error, name))?;
    super::link::read_quiet(link, name).await?;
    let mut error = FirstError::default();
    let mut complete: Option<Frame> = None;
    loop {
        let frame = link.lease.next_frame().await.map_err(|error| failure_of(error, name))?;
        match frame.tag {
            tag::READY_FOR_QUERY => break,
            tag::ERROR_RESPONSE => error.note(frame)?,
            tag::COMMAND_COMPLETE => complete = Some(frame),
            tag::COPY_OUT_RESPONSE if part == 0 => client.output().extend_from_slice(&frame.bytes),
            tag::NOTICE_RESPONSE => client.output().extend_from_slice(&frame.bytes),
            tag::COPY_DATA if !error.is_some() => {
                let body = frame.body();
                let shown: Bytes = joiner.push(part, &body).map_err(copy_failure)?;
                if shown == body {
                    forward(client, &frame).await?;
                } else if !shown.is_empty() {
                    server_message::write_copy_data(client.output(), &shown);
                }
            }
            _ => {}
        }
    }
    error.into_result(Done { complete })
}
