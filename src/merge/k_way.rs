//! Sorted inputs become one sorted output.
//!
//! A binary heap holds the shards whose first row is known, ordered by that row's keys and then by the
//! shard's number. Rows stay where they were read, as runs of messages. Keys are decoded once a row, when it becomes its
//! shard's first, and no cell behind the last key is looked at; the two key buffers of a shard are reused, so a row costs
//! no allocation beyond its keys' own. A row that was given is left only when the next one is asked for: behind the last
//! row of a LIMIT nothing is decoded.

use std::cmp::Ordering;
use std::collections::VecDeque;

use bytes::Bytes;

use super::order::{Keys, SortOrder};
use super::row::{Cells, Layout};
use super::{Next, internal, malformed, message_end};
use crate::error::ClientError;
use crate::invariant;
use crate::plan::OrderKey;

/// Merges sorted inputs.
#[derive(Debug)]
pub(super) struct KWay {
    order: SortOrder,
    inputs: Vec<Input>,
    /// Inputs with a head, as a heap: the least is at the front.
    heap: Vec<usize>,
    /// Inputs that have no head and are not finished.
    waiting: usize,
    queue_bytes_max: usize,
    cells: Cells,
    /// Cells of a row that are looked at.
    columns: usize,
    /// The row at the front was given.
    is_given: bool,
    /// Keys of the row that was given last; only kept when runs of equal keys matter.
    last: Option<Keys>,
}

#[derive(Debug, Default)]
struct Input {
    /// Runs of rows behind the present one.
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    finished: bool,
    /// The run of the head; behind the head are rows that wait.
    run: Bytes,
    head: Option<Head>,
    /// Of the head; when there is none, of the row before.
    keys: Keys,
    spare: Keys,
    /// A row was seen, so `keys` are to be compared with the next.
    begun: bool,
}

/// A row within its run.
#[derive(Clone, Copy, Debug)]
struct Head {
    start: usize,
    end: usize,
    /// Where its visible columns end, if all columns are looked at.
    visible_end: Option<usize>,
}

impl KWay {
    pub(super) fn new(
        keys: &[OrderKey],
        layout: &Layout,
        shard_count: usize,
        queue_bytes_max: usize,
        runs_matter: bool,
    ) -> Result<Self, ClientError> {
        let order = SortOrder::new(keys, layout)?;
        // Where hidden columns follow, the end of the visible ones has to be found in any case.
        let columns = if layout.is_all_visible() { order.columns_looked_at() } else { layout.column_count() };
        Ok(Self {
            order,
            inputs: (0..shard_count).map(|_| Input::default()).collect(),
            heap: Vec::with_capacity(shard_count),
            waiting: shard_count,
            queue_bytes_max,
            cells: Cells::default(),
            columns,
            is_given: false,
            last: runs_matter.then(Keys::new),
        })
    }

    pub(super) fn needs(&self, shard: usize) -> bool {
        self.inputs.get(shard).is_some_and(|input| !input.finished && input.queued_bytes < self.queue_bytes_max)
    }

    pub(super) fn waits_for(&self, shard: usize) -> bool {
        self.inputs.get(shard).is_some_and(|input| !input.finished && input.head.is_none())
    }

    pub(super) fn push(&mut self, shard: usize, rows: Bytes, layout: &Layout) -> Result<(), ClientError> {
        let input = self.inputs.get_mut(shard).ok_or_else(|| internal("a row came from no shard of this merge"))?;
        if input.finished {
            return Err(internal("a row came from a shard that was finished"));
        }
        input.queued_bytes += rows.len();
        if input.head.is_some() {
            input.queue.push_back(rows);
            return Ok(());
        }
        input.run = rows;
        self.set_head(shard, 0, layout)?;
        self.waiting -= 1;
        self.heap.push(shard);
        self.sift_up(self.heap.len() - 1);
        Ok(())
    }

    pub(super) fn finish(&mut self, shard: usize) {
        if let Some(input) = self.inputs.get_mut(shard) {
            if !input.finished && input.head.is_none() {
                self.waiting -= 1;
            }
            input.finished = true;
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.waiting == 0 && self.heap.is_empty()
    }

    pub(super) fn next(&mut self, layout: &Layout) -> Result<Next<'_>, ClientError> {
        if std::mem::take(&mut self.is_given) {
            self.advance(layout)?;
        }
        if self.waiting > 0 {
            return Ok(Next::Pending);
        }
        let Some(input) = self.heap.first().and_then(|shard| self.inputs.get(*shard)) else { return Ok(Next::Done) };
        let Some(head) = input.head else { return Err(internal("a shard in the merge has no row")) };
        let same_keys = match &mut self.last {
            None => false,
            Some(last) => {
                let same = last.len() == input.keys.len() && self.order.compare(last, &input.keys) == Ordering::Equal;
                last.clone_from(&input.keys);
                same
            }
        };
        self.is_given = true;
        let message = input.run.get(head.start..head.end).ok_or_else(malformed)?;
        Ok(Next::Row { message, visible_end: head.visible_end, same_keys })
    }

    /// The first shard of the heap goes on to its next row, or leaves the heap.
    fn advance(&mut self, layout: &Layout) -> Result<(), ClientError> {
        let Some(shard) = self.heap.first().copied() else { return Ok(()) };
        let Some(input) = self.inputs.get_mut(shard) else { return Ok(()) };
        let Some(head) = input.head.take() else { return Ok(()) };
        input.queued_bytes -= head.end - head.start;
        let mut start = head.end;
        if start == input.run.len() {
            input.run = input.queue.pop_front().unwrap_or_default();
            start = 0;
        }
        if input.run.is_empty() {
            if !input.finished {
                self.waiting += 1;
            }
            self.heap.swap_remove(0);
        } else {
            self.set_head(shard, start, layout)?;
        }
        self.sift_down();
        Ok(())
    }

    fn set_head(&mut self, shard: usize, start: usize, layout: &Layout) -> Result<(), ClientError> {
        let Some(input) = self.inputs.get_mut(shard) else { return Ok(()) };
        let end = message_end(&input.run, start).ok_or_else(malformed)?;
        let row = input.run.get(..end).ok_or_else(malformed)?;
        self.cells.read_some(row, start, layout, self.columns)?;
        self.order.decode(&input.run, &self.cells, layout, &mut input.spare)?;
        let sorted = !input.begun || self.order.compare(&input.keys, &input.spare) != Ordering::Greater;
        if !invariant!(sorted, "merge inputs are sorted by the output's comparator") {
            return Err(internal("a shard's rows are not in the order of the merge")
                .with_detail("A row came after one that sorts behind it; the result would have a wrong order."));
        }
        std::mem::swap(&mut input.keys, &mut input.spare);
        input.begun = true;
        let visible_end = (!layout.is_all_visible()).then(|| self.cells.visible_end() - start);
        input.head = Some(Head { start, end, visible_end });
        Ok(())
    }

    /// Whether the shard at one place of the heap comes before that at another.
    fn is_before(&self, place: usize, other: usize) -> bool {
        let (Some(&a), Some(&b)) = (self.heap.get(place), self.heap.get(other)) else { return false };
        let (Some(a_input), Some(b_input)) = (self.inputs.get(a), self.inputs.get(b)) else { return false };
        self.order.compare(&a_input.keys, &b_input.keys).then(a.cmp(&b)) == Ordering::Less
    }

    fn sift_up(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if !self.is_before(place, parent) {
                return;
            }
            self.heap.swap(place, parent);
            place = parent;
        }
    }

    fn sift_down(&mut self) {
        let mut place = 0;
        loop {
            let mut least = place;
            for child in [2 * place + 1, 2 * place + 2] {
                if child < self.heap.len() && self.is_before(child, least) {
                    least = child;
                }
            }
            if least == place {
                return;
            }
            self.heap.swap(place, least);
            place = least;
        }
    }
}
