//! Rows of several shards become one result, as [`MergeSpec`] says: streaming, bounded, pure.
//!
//! A [`Merger`] is fed runs of DataRow messages, as they were read, and gives DataRow messages back. Rows of a plain or
//! sorted merge pass by their bytes: a plain merge does not look into them, a sorted one reads its sort keys. Only
//! aggregates write new cells. Whatever cannot be compared or combined
//! exactly as PostgreSQL would is refused before the first row. Must not know: SQL text, shards'
//! names, connections.
//!
//! Rows flow through: source (concatenate, k-way or aggregate) -> distinct -> offset and limit.

mod accumulator;
mod aggregate;
mod concatenate;
mod distinct;
mod having;
mod k_way;
mod order;
mod row;
mod window;

use bytes::{Bytes, BytesMut};

use crate::error::{ClientError, ErrorId};
use crate::plan::{MergeSpec, Slot};
use crate::wire::server_message::Field;

use aggregate::Aggregate;
use concatenate::Concatenate;
use distinct::Distinct;
use k_way::KWay;
use row::Layout;
use window::Window;

pub use having::Constant;

/// Tag and length before the body of a message.
const HEADER_BYTES: usize = 5;

/// Bytes of rows that are queued for a shard before it should not be read for a while.
const QUEUE_BYTES_MAX: usize = 64 * 1024;

/// Limits on what a merge keeps in memory: groups of an aggregate, rows seen by DISTINCT.
///
/// Rows that merely wait for their turn are bounded by [`Merger::needs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Groups or distinct rows.
    pub rows: usize,
    /// Their bytes, with a rough allowance for the structures that hold them.
    pub bytes: usize,
}

/// What [`Merger::pop`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pop {
    /// So many DataRow messages were appended, at least one.
    Rows(u64),
    /// Nothing can be said before a shard that [`Merger::needs`] more sends a row or ends.
    Pending,
    /// There are no more rows.
    Done,
}

/// Merges the rows of several shards.
///
/// # Invariants
/// Merge inputs are sorted by the output's comparator: a row below its predecessor from the same
/// shard ends the merge with an internal error instead of a wrong order.
#[derive(Debug)]
pub struct Merger {
    layout: Layout,
    source: Source,
    distinct: Option<Distinct>,
    window: Window,
}

#[derive(Debug)]
enum Source {
    Concatenate(Concatenate),
    KWay(KWay),
    Aggregate(Box<Aggregate>),
}

/// What a source gives.
#[derive(Debug)]
enum Next<'s> {
    /// A row.
    Row {
        /// The whole DataRow message, hidden columns included.
        message: &'s [u8],
        /// Where its visible columns end, if it is known already.
        visible_end: Option<usize>,
        /// All sort keys are as in the row before.
        same_keys: bool,
    },
    Pending,
    Done,
}

impl Merger {
    /// Prepares a merge of the rows of `shard_count` shards (numbered from 0).
    ///
    /// `fields` is the shards' RowDescription, hidden columns included, with the format in which each
    /// column really arrives; visible columns leave in the same format. `limit`, `offset` and
    /// `constants` are the bound values of the specification's slots.
    ///
    /// # Errors
    /// 0A000 with a hint when a column's type cannot be ordered, combined or compared exactly; no row
    /// has been read then.
    pub fn new(
        spec: &MergeSpec,
        fields: &[Field],
        shard_count: usize,
        limit: Option<u64>,
        offset: u64,
        constants: &dyn Fn(&Slot) -> Option<Constant>,
        budget: Budget,
    ) -> Result<Self, ClientError> {
        let layout = Layout::new(fields, spec.hidden)?;
        let queue_bytes_max = (budget.bytes / (2 * shard_count.max(1))).clamp(1, QUEUE_BYTES_MAX);
        let source = if let Some(aggregate) = &spec.aggregate {
            if !spec.order.is_empty() {
                return Err(internal("a merge that aggregates sorts only afterwards"));
            }
            Source::Aggregate(Box::new(Aggregate::new(aggregate, &layout, shard_count, constants, budget)?))
        } else if spec.order.is_empty() {
            Source::Concatenate(Concatenate::new(shard_count, queue_bytes_max))
        } else {
            Source::KWay(KWay::new(&spec.order, &layout, shard_count, queue_bytes_max, spec.distinct)?)
        };
        let distinct = if spec.distinct { Some(Distinct::new(&layout, &spec.order, budget)?) } else { None };
        Ok(Self { layout, source, distinct, window: Window::new(limit, offset) })
    }

    /// The client's RowDescription: the shards' columns without the hidden ones.
    pub fn visible_fields(&self) -> &[Field] {
        self.layout.visible_fields()
    }

    /// Whether this shard should be read now.
    ///
    /// Rows that were read already may be pushed although it says no; it turns to no at about 64 KiB
    /// queued for the shard, when the shard is finished and when the merge is done.
    pub fn needs(&self, shard: usize) -> bool {
        !self.is_done()
            && match &self.source {
                Source::Concatenate(source) => source.needs(shard),
                Source::KWay(source) => source.needs(shard),
                Source::Aggregate(source) => source.needs(shard),
            }
    }

    /// Whether nothing more can be said before this shard, which is still sending, is read; to read another one first
    /// would only fill memory.
    pub fn waits_for(&self, shard: usize) -> bool {
        match &self.source {
            Source::KWay(source) => source.waits_for(shard),
            Source::Concatenate(_) | Source::Aggregate(_) => self.needs(shard),
        }
    }

    /// Whether any shard that sends a row lets the merge go on; otherwise all that it waits for have to.
    pub fn goes_on_with_any(&self) -> bool {
        matches!(self.source, Source::Concatenate(_))
    }

    /// Takes whole DataRow messages of a shard.
    ///
    /// # Errors
    /// A row is malformed, a value cannot be read, the budget is exceeded, or the shard's rows are not
    /// sorted. The merge is of no use afterwards.
    pub fn push(&mut self, shard: usize, rows: Bytes) -> Result<(), ClientError> {
        match &mut self.source {
            Source::Concatenate(source) => {
                source.push(rows);
                Ok(())
            }
            Source::KWay(source) => source.push(shard, rows, &self.layout),
            Source::Aggregate(source) => source.push(&rows, &self.layout),
        }
    }

    /// No more rows come from this shard.
    pub fn finish(&mut self, shard: usize) {
        match &mut self.source {
            Source::Concatenate(source) => source.finish(shard),
            Source::KWay(source) => source.finish(shard),
            Source::Aggregate(source) => source.finish(shard),
        }
    }

    /// Appends the result's next DataRow messages, as they are sent.
    ///
    /// # Errors
    /// As [`Merger::push`]; also when a combined number is out of its type's range. Nothing is appended.
    pub fn pop(&mut self, out: &mut BytesMut) -> Result<Pop, ClientError> {
        if let Source::Concatenate(source) = &mut self.source
            && self.distinct.is_none()
            && self.window.admits_all()
            && self.layout.is_all_visible()
        {
            return Ok(source.pop_run(out));
        }
        while !self.window.is_over() {
            let next = match &mut self.source {
                Source::Concatenate(source) => source.next()?,
                Source::KWay(source) => source.next(&self.layout)?,
                Source::Aggregate(source) => source.next(&self.layout)?,
            };
            let (message, visible_end, same_keys) = match next {
                Next::Row { message, visible_end, same_keys } => (message, visible_end, same_keys),
                Next::Pending => return Ok(Pop::Pending),
                Next::Done => return Ok(Pop::Done),
            };
            if let Some(distinct) = &mut self.distinct
                && !distinct.admit(message, same_keys, &self.layout)?
            {
                continue;
            }
            if self.window.admit() {
                self.layout.write_visible(message, visible_end, out)?;
                return Ok(Pop::Rows(1));
            }
        }
        Ok(Pop::Done)
    }

    /// Whether all rows are out: LIMIT is satisfied (shards may still be sending), or every shard is
    /// finished and nothing is left.
    pub fn is_done(&self) -> bool {
        self.window.is_over()
            || match &self.source {
                Source::Concatenate(source) => source.is_done(),
                Source::KWay(source) => source.is_done(),
                Source::Aggregate(source) => source.is_done(),
            }
    }
}

/// The end of the message that starts at this place of a run.
fn message_end(run: &[u8], start: usize) -> Option<usize> {
    let length = run.get(start + 1..start + HEADER_BYTES)?;
    let end = start + 1 + usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
    (start + HEADER_BYTES <= end && end <= run.len()).then_some(end)
}

fn malformed() -> ClientError {
    ClientError::new(ErrorId::ProtocolViolation, "malformed row from a shard")
}

fn internal(message: &str) -> ClientError {
    ClientError::new(ErrorId::Internal, message)
}

/// A value of a column that the merge needs is not in a form that it reads.
fn unreadable(field: &Field) -> ClientError {
    ClientError::refused(
        format!("a value of column \"{}\" cannot be compared across shards", name_of(field)),
        "Set DateStyle to ISO and IntervalStyle to postgres, or restrict the statement to one sharding key.",
    )
    .with_detail(format!("The value, of the type with OID {}, is not in a form that is read exactly.", field.type_oid))
}

fn over_budget(what: &str) -> ClientError {
    ClientError::new(ErrorId::MergeBudgetExceeded, format!("{what} of several shards do not fit the merge's memory"))
        .with_hint("Restrict the statement to one sharding key or to fewer groups, or raise the merge budget.")
}

fn name_of(field: &Field) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&field.name)
}

#[cfg(test)]
mod tests;
