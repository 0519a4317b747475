//! Rows of several shards become one result, as [`MergeSpec`] says: streaming, bounded, pure.
//!
//! A [`Merger`] is fed DataRow bodies and gives whole DataRow messages back. Rows of a plain or sorted
//! merge pass by their bytes; only aggregates write new cells. Whatever cannot be compared or combined
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

use bytes::{BufMut, Bytes, BytesMut};

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
    /// One DataRow message was appended.
    Row,
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
enum Next {
    /// A row's body.
    Row {
        /// DataRow body, hidden columns included.
        body: Bytes,
        /// Where the visible columns end, if it is known already.
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

    /// Takes the body of a DataRow message of a shard.
    ///
    /// # Errors
    /// The row is malformed, a value cannot be read, the budget is exceeded, or the shard's rows are not
    /// sorted. The merge is of no use afterwards.
    pub fn push(&mut self, shard: usize, row_body: Bytes) -> Result<(), ClientError> {
        match &mut self.source {
            Source::Concatenate(source) => {
                source.push(row_body);
                Ok(())
            }
            Source::KWay(source) => source.push(shard, row_body, &self.layout),
            Source::Aggregate(source) => source.push(&row_body, &self.layout),
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

    /// Appends the result's next DataRow message, tag and length included.
    ///
    /// # Errors
    /// As [`Merger::push`]; also when a combined number is out of its type's range. Nothing is appended.
    pub fn pop(&mut self, out: &mut BytesMut) -> Result<Pop, ClientError> {
        while !self.window.is_over() {
            let next = match &mut self.source {
                Source::Concatenate(source) => source.next(),
                Source::KWay(source) => source.next(&self.layout)?,
                Source::Aggregate(source) => source.next(&self.layout)?,
            };
            let (body, visible_end, same_keys) = match next {
                Next::Row { body, visible_end, same_keys } => (body, visible_end, same_keys),
                Next::Pending => return Ok(Pop::Pending),
                Next::Done => return Ok(Pop::Done),
            };
            if let Some(distinct) = &mut self.distinct
                && !distinct.admit(&body, same_keys, &self.layout)?
            {
                continue;
            }
            if self.window.admit() {
                self.layout.write_visible(&body, visible_end, out)?;
                return Ok(Pop::Row);
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

/// Appends a DataRow message with this body.
fn write_message(body: &[u8], out: &mut BytesMut) -> Result<(), ClientError> {
    let length = i32::try_from(body.len() + 4).map_err(|_| malformed())?;
    out.reserve(5 + body.len());
    out.put_u8(crate::wire::server_message::tag::DATA_ROW);
    out.put_i32(length);
    out.put_slice(body);
    Ok(())
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
