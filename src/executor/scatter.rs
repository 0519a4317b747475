//! Reads over several shards, merged on the way to the client.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::encoding::may_merge;
use super::exchange::write_statement;
use super::link::{Link, failure_of, read_quiet};
use super::relay::Done;
use super::session::CLIENT_FLUSH_BYTES;
use super::statement::Mode;
use super::values::StatementValues;
use super::{Failure, Session, places, shard_name};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::merge::{Budget, Constant, Merger, Pop};
use crate::net::Framed;
use crate::plan::{Class, MergeSpec, Slot, Splice};
use crate::planner::rewrite;
use crate::session::{ClientEncoding, Columns, Parsed};
use crate::wire::frame::Frame;
use crate::wire::server_message::{self, tag};

/// One shard's part of a scatter.
pub(super) struct Source {
    pub(super) shard: ShardId,
    pub(super) name: String,
    pub(super) link: Link,
    pub(super) finished: bool,
}

impl Session {
    /// Runs a read on several shards and merges their rows. `is_told` says whether the client has got anything of
    /// the answer.
    ///
    /// # Errors
    /// The first error of any shard, or a refusal of the merge before the first row.
    #[allow(clippy::too_many_arguments)]
    pub(super) async fn run_scatter(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        shards: &[ShardId],
        splices: &[Splice],
        merge: &MergeSpec,
        values: &StatementValues<'_>,
        mode: Mode<'_>,
        class: Class,
        is_told: &mut bool,
    ) -> Result<Done, Failure> {
        let limit = values.row_count(merge.limit.as_ref(), "LIMIT")?;
        let offset = values.row_count(merge.offset.as_ref(), "OFFSET")?.unwrap_or(0);
        let pushed = limit.map(|limit| limit.saturating_add(offset));
        let sql = rewrite::apply(&parsed.text, &parsed.lexed, splices, pushed);
        if class > Class::Read || (self.is_at_work() && !self.transaction.is_open()) {
            self.open_block().await?;
        }
        let mut sources = Vec::with_capacity(shards.len());
        let sent = self.send_to_all(shards, sql.text(), mode, merge.hidden, class, &mut sources).await;
        let constants = |slot: &Slot| values.constant(slot);
        let budget =
            Budget { rows: self.cluster.settings.merge.rows_max, bytes: self.cluster.settings.merge.bytes_max };
        let outcome = match sent {
            Ok(()) => {
                let encoding = self.encoding.clone();
                merge_sources(client, &mut sources, merge, limit, offset, &constants, budget, mode, &encoding, is_told)
                    .await
            }
            Err(failure) => Err(failure),
        };
        // Whatever happened: the connections are read to their end, or they are of no use.
        let gone = matches!(outcome, Err(Failure::Client(_)));
        let mut outcome = outcome;
        for mut source in sources {
            let drained = if gone { Ok(()) } else { drain(&mut source).await };
            let usable = !gone && !source.link.lease.is_poisoned();
            if let (Ok(_), Err(failure)) = (&outcome, drained) {
                outcome = Err(failure);
            }
            source.link.ahead.clear();
            self.links.insert(source.shard, source.link);
            if !usable {
                self.drop_link(source.shard);
            }
        }
        let (rows, columns) = outcome.map_err(|failure| places::in_source(failure, &sql, &parsed.text))?;
        if let (Some(columns), Some(shard)) = (columns, shards.first()) {
            self.columns_shown = Some((columns, *shard));
        }
        Ok(Done::with_tag(&format!("SELECT {rows}")))
    }

    /// Sends a statement to each shard. Whatever happens, the connections taken are among the sources: a transaction
    /// that loses one has to know.
    async fn send_to_all(
        &mut self,
        shards: &[ShardId],
        sql: &str,
        mode: Mode<'_>,
        hidden: usize,
        class: Class,
        sources: &mut Vec<Source>,
    ) -> Result<(), Failure> {
        for shard in shards {
            self.link(*shard).await?;
            let name = shard_name(&self.topology, *shard);
            let Some(link) = self.links.remove(shard) else { continue };
            sources.push(Source { shard: *shard, name, link, finished: false });
            let Some(source) = sources.last_mut() else { continue };
            write_statement(&mut source.link, sql, described(mode), hidden);
            source.link.lease.flush().await.map_err(|error| failure_of(error, &source.name))?;
            if class == Class::Write && !read_ahead(source, self.cluster.settings.merge.bytes_max).await? {
                break;
            }
        }
        Ok(())
    }
}

/// A merge needs the columns' types even when the client does not ask for them.
fn described(mode: Mode<'_>) -> Mode<'_> {
    match mode {
        Mode::Simple => Mode::Simple,
        Mode::Extended { bind, types, .. } => Mode::Extended { bind, types, describe: true },
    }
}

#[allow(clippy::too_many_arguments)]
async fn merge_sources(
    client: &mut Framed,
    sources: &mut [Source],
    spec: &MergeSpec,
    limit: Option<u64>,
    offset: u64,
    constants: &(dyn Fn(&Slot) -> Option<Constant> + Sync),
    budget: Budget,
    mode: Mode<'_>,
    encoding: &ClientEncoding,
    is_told: &mut bool,
) -> Result<(u64, Option<Columns>), Failure> {
    let mut fields = None;
    for source in sources.iter_mut() {
        read_quiet(&mut source.link, &source.name).await?;
        let description = read_description(source, client).await?;
        fields.get_or_insert(description);
    }
    // All shards describe the same columns; what the first one says is read.
    let mut fields = match (fields, sources.first()) {
        (Some(frame), Some(source)) => {
            server_message::read_row_description(&frame.body()).map_err(|_| no_description(&source.name))?
        }
        _ => Vec::new(),
    };
    set_formats(&mut fields, mode);
    may_merge(encoding, spec, &fields)?;
    let mut merger = Merger::new(spec, &fields, sources.len(), limit, offset, constants, budget)?;
    let columns = mode.describes().then(|| Columns::of(merger.visible_fields()));
    let mut header = bytes::BytesMut::new();
    if mode.describes() {
        server_message::write_row_description(&mut header, merger.visible_fields());
    }
    let mut rows = 0;
    let mut first = bytes::BytesMut::new();
    loop {
        // Until the first row is merged nothing is told: its values may be of a form that cannot be merged here.
        let popped = merger.pop(if *is_told { client.output() } else { &mut first })?;
        if !*is_told && popped != Pop::Pending {
            *is_told = true;
            client.output().extend_from_slice(&header);
            client.output().extend_from_slice(&first);
        }
        match popped {
            Pop::Rows(count) => {
                rows += count;
                if client.output().len() >= CLIENT_FLUSH_BYTES {
                    client.flush().await?;
                }
            }
            Pop::Done => return Ok((rows, columns)),
            Pop::Pending => read_more(&mut merger, sources, client).await?,
        }
    }
}

/// Gives the merge what it waits for: of any shard that has something, or of all without which it cannot go on. These
/// are waited for one after the other: all are at work anyway, and the later ones' rows are mostly there by then.
async fn read_more(merger: &mut Merger, sources: &mut [Source], client: &mut Framed) -> Result<(), Failure> {
    if merger.goes_on_with_any() {
        loop {
            let mut has_come = false;
            for (index, source) in sources.iter_mut().enumerate() {
                has_come |= merger.needs(index) && take_what_is_there(merger, index, source, client)?;
            }
            if has_come {
                return Ok(());
            }
            poll_fn(|context| poll_any(merger, sources, context)).await?;
        }
    }
    for (index, source) in sources.iter_mut().enumerate() {
        while merger.waits_for(index) && !take_what_is_there(merger, index, source, client)? {
            let read = poll_fn(|context| source.link.lease.poll_read(context)).await;
            read.map_err(|error| failure_of(error, &source.name))?;
        }
    }
    Ok(())
}

/// Ready once something was read from one of the shards that still send.
fn poll_any(merger: &Merger, sources: &mut [Source], context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
    let mut polled = Poll::Pending;
    for (index, source) in sources.iter_mut().enumerate() {
        if !merger.needs(index) {
            continue;
        }
        match source.link.lease.poll_read(context) {
            Poll::Ready(Ok(())) => polled = Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(failure_of(error, &source.name))),
            Poll::Pending => {}
        }
    }
    polled
}

/// Gives the merge the rows of a shard that have been read, or its end. `false`: there are none.
fn take_what_is_there(
    merger: &mut Merger,
    index: usize,
    source: &mut Source,
    client: &mut Framed,
) -> Result<bool, Failure> {
    loop {
        let rows = if source.link.ahead.is_empty() { source.link.lease.take_rows() } else { Bytes::new() };
        if !rows.is_empty() {
            merger.push(index, rows)?;
            return Ok(true);
        }
        let frame = match source.link.ahead.pop_front() {
            Some(frame) => frame,
            None => match source.link.lease.try_next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(false),
                Err(error) => return Err(failure_of(error, &source.name)),
            },
        };
        match frame.tag {
            tag::DATA_ROW => {
                merger.push(index, frame.bytes)?;
                return Ok(true);
            }
            tag::COMMAND_COMPLETE => {
                merger.finish(index);
                return Ok(true);
            }
            tag::ERROR_RESPONSE => return Err(Failure::Postgres(frame)),
            tag::NOTICE_RESPONSE => client.output().extend_from_slice(&frame.bytes),
            _ => {}
        }
    }
}

/// Reads up to the RowDescription.
async fn read_description(source: &mut Source, client: &mut Framed) -> Result<Frame, Failure> {
    loop {
        let frame = next(source).await?;
        match frame.tag {
            tag::ROW_DESCRIPTION => return Ok(frame),
            tag::ERROR_RESPONSE => return Err(Failure::Postgres(frame)),
            tag::NOTICE_RESPONSE => client.output().extend_from_slice(&frame.bytes),
            tag::READY_FOR_QUERY => {
                source.finished = true;
                return Err(no_description(&source.name));
            }
            _ => {}
        }
    }
}

fn no_description(name: &str) -> Failure {
    ClientError::new(ErrorId::Internal, format!("shard {name} answered a query without describing its columns")).into()
}

/// A described statement says text for every column; the portal's formats are what Bind asked for.
pub(super) fn set_formats(fields: &mut [server_message::Field], mode: Mode<'_>) {
    if let Mode::Extended { bind, .. } = mode {
        let count = fields.len();
        for (index, field) in fields.iter_mut().enumerate() {
            let formats = &bind.result_formats;
            field.format = if formats.len() > 1 && index >= formats.len() && count > formats.len() {
                crate::wire::Format::Binary
            } else {
                crate::wire::client_message::format_of(formats, index)
            };
        }
    }
}

pub(super) async fn next(source: &mut Source) -> Result<Frame, Failure> {
    if let Some(frame) = source.link.ahead.pop_front() {
        return Ok(frame);
    }
    source.link.lease.next_frame().await.map_err(|error| failure_of(error, &source.name))
}

/// Reads all of an answer: statements that write run on one shard after the other, so that two of them never wait for
/// each other in a circle. `false` after an error.
async fn read_ahead(source: &mut Source, bytes_max: usize) -> Result<bool, Failure> {
    read_quiet(&mut source.link, &source.name).await?;
    let (mut bytes, mut is_sound) = (0, true);
    loop {
        let frame = source.link.lease.next_frame().await.map_err(|error| failure_of(error, &source.name))?;
        bytes += frame.bytes.len();
        if bytes > bytes_max {
            let error =
                ClientError::new(ErrorId::MergeBudgetExceeded, "the rows of a write are more than the proxy keeps");
            return Err(error.with_hint("Write fewer rows at a time.").into());
        }
        is_sound &= frame.tag != tag::ERROR_RESPONSE;
        let is_end = frame.tag == tag::READY_FOR_QUERY;
        source.link.ahead.push_back(frame);
        if is_end {
            return Ok(is_sound);
        }
    }
}

/// Reads the rest of an answer that nobody needs. What was sent before the statement (a BEGIN that travelled with it)
/// is answered by then, too, and must not stay owed: whoever reads from the connection next would wait for ever.
pub(super) async fn drain(source: &mut Source) -> Result<(), Failure> {
    // What stands before the answer may not have been read yet; nobody waits for it later.
    let quiet = read_quiet(&mut source.link, &source.name).await;
    while !source.link.lease.is_poisoned() && source.link.lease.pending_ready() > 0 {
        source.link.lease.take_rows();
        next(source).await?;
    }
    quiet
}
