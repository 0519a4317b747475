//! Sorted inputs become one sorted output.
//!
//! A binary heap holds the shards whose first row is known, ordered by that row's keys and then by the
//! shard's number. Keys are decoded once a row, when it becomes its shard's first; the two key
//! buffers of a shard are reused, so a row costs no allocation beyond its keys' own.

use std::cmp::Ordering;
use std::collections::VecDeque;

use bytes::Bytes;

use super::order::{Keys, SortOrder};
use super::row::{Cells, Layout};
use super::{Next, internal};
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
    /// Keys of the row that was given last; only kept when runs of equal keys matter.
    last: Option<Keys>,
}

#[derive(Debug, Default)]
struct Input {
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    finished: bool,
    head: Option<Bytes>,
    head_visible_end: usize,
    /// Of the head; when there is none, of the row before.
    keys: Keys,
    spare: Keys,
    /// A row was seen, so `keys` are to be compared with the next.
    begun: bool,
}

impl KWay {
    pub(super) fn new(
        keys: &[OrderKey],
        layout: &Layout,
        shard_count: usize,
        queue_bytes_max: usize,
        runs_matter: bool,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            order: SortOrder::new(keys, layout)?,
            inputs: (0..shard_count).map(|_| Input::default()).collect(),
            heap: Vec::with_capacity(shard_count),
            waiting: shard_count,
            queue_bytes_max,
            cells: Cells::default(),
            last: runs_matter.then(Keys::new),
        })
    }

    pub(super) fn needs(&self, shard: usize) -> bool {
        self.inputs.get(shard).is_some_and(|input| !input.finished && input.queued_bytes < self.queue_bytes_max)
    }

    pub(super) fn push(&mut self, shard: usize, row: Bytes, layout: &Layout) -> Result<(), ClientError> {
        let input = self.inputs.get_mut(shard).ok_or_else(|| internal("a row came from no shard of this merge"))?;
        if input.finished {
            return Err(internal("a row came from a shard that was finished"));
        }
        if input.head.is_some() {
            input.queued_bytes += row.len();
            input.queue.push_back(row);
            return Ok(());
        }
        self.set_head(shard, row, layout)?;
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

    pub(super) fn next(&mut self, layout: &Layout) -> Result<Next, ClientError> {
        if self.waiting > 0 {
            return Ok(Next::Pending);
        }
        let Some(shard) = self.heap.first().copied() else { return Ok(Next::Done) };
        let Some(input) = self.inputs.get_mut(shard) else { return Ok(Next::Done) };
        let Some(body) = input.head.take() else { return Err(internal("a shard in the merge has no row")) };
        let visible_end = Some(input.head_visible_end);
        let same_keys = match &mut self.last {
            None => false,
            Some(last) => {
                let same = last.len() == input.keys.len() && self.order.compare(last, &input.keys) == Ordering::Equal;
                last.clone_from(&input.keys);
                same
            }
        };
        self.advance(shard, layout)?;
        Ok(Next::Row { body, visible_end, same_keys })
    }

    /// The first shard of the heap lost its head: gives it the next one, or takes it out.
    fn advance(&mut self, shard: usize, layout: &Layout) -> Result<(), ClientError> {
        let queued = self.inputs.get_mut(shard).and_then(|input| {
            let row = input.queue.pop_front()?;
            input.queued_bytes -= row.len();
            Some(row)
        });
        if let Some(row) = queued {
            self.set_head(shard, row, layout)?;
        } else {
            self.heap.swap_remove(0);
            if self.inputs.get(shard).is_some_and(|input| !input.finished) {
                self.waiting += 1;
            }
        }
        self.sift_down();
        Ok(())
    }

    fn set_head(&mut self, shard: usize, row: Bytes, layout: &Layout) -> Result<(), ClientError> {
        let Some(input) = self.inputs.get_mut(shard) else { return Ok(()) };
        self.cells.read(&row, layout)?;
        self.order.decode(&row, &self.cells, layout, &mut input.spare)?;
        let sorted = !input.begun || self.order.compare(&input.keys, &input.spare) != Ordering::Greater;
        if !invariant!(sorted, "merge inputs are sorted by the output's comparator") {
            return Err(internal("a shard's rows are not in the order of the merge")
                .with_detail("A row came after one that sorts behind it; the result would have a wrong order."));
        }
        std::mem::swap(&mut input.keys, &mut input.spare);
        input.begun = true;
        input.head_visible_end = self.cells.visible_end();
        input.head = Some(row);
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
