//! Rows in the order in which they arrive.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Next;

/// Passes rows on as they come.
#[derive(Debug)]
pub(super) struct Concatenate {
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    queue_bytes_max: usize,
    finished: Vec<bool>,
}

impl Concatenate {
    pub(super) fn new(shard_count: usize, queue_bytes_max: usize) -> Self {
        Self { queue: VecDeque::new(), queued_bytes: 0, queue_bytes_max, finished: vec![false; shard_count] }
    }

    pub(super) fn needs(&self, shard: usize) -> bool {
        self.queued_bytes < self.queue_bytes_max && self.finished.get(shard) == Some(&false)
    }

    pub(super) fn push(&mut self, row: Bytes) {
        self.queued_bytes += row.len();
        self.queue.push_back(row);
    }

    pub(super) fn finish(&mut self, shard: usize) {
        if let Some(finished) = self.finished.get_mut(shard) {
            *finished = true;
        }
    }

    pub(super) fn next(&mut self) -> Next {
        match self.queue.pop_front() {
            Some(body) => {
                self.queued_bytes -= body.len();
                Next::Row { body, visible_end: None, same_keys: false }
            }
            None if self.is_done() => Next::Done,
            None => Next::Pending,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.queue.is_empty() && self.finished.iter().all(|finished| *finished)
    }
}
