//! Rows in the order in which they arrive.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{Next, Pop, malformed, message_end};
use crate::error::ClientError;

/// Passes rows on as they come.
#[derive(Debug)]
pub(super) struct Concatenate {
    runs: VecDeque<Bytes>,
    /// Where the next row of the first run begins.
    at: usize,
    queued_bytes: usize,
    queue_bytes_max: usize,
    finished: Vec<bool>,
}

impl Concatenate {
    pub(super) fn new(shard_count: usize, queue_bytes_max: usize) -> Self {
        Self { runs: VecDeque::new(), at: 0, queued_bytes: 0, queue_bytes_max, finished: vec![false; shard_count] }
    }

    pub(super) fn needs(&self, shard: usize) -> bool {
        self.queued_bytes < self.queue_bytes_max && self.finished.get(shard) == Some(&false)
    }

    pub(super) fn push(&mut self, rows: Bytes) {
        self.queued_bytes += rows.len();
        self.runs.push_back(rows);
    }

    pub(super) fn finish(&mut self, shard: usize) {
        if let Some(finished) = self.finished.get_mut(shard) {
            *finished = true;
        }
    }

    /// A row.
    pub(super) fn next(&mut self) -> Result<Next<'_>, ClientError> {
        if self.runs.front().is_some_and(|run| run.len() == self.at) {
            self.runs.pop_front();
            self.at = 0;
        }
        let is_done = self.is_done();
        let Some(run) = self.runs.front() else { return Ok(if is_done { Next::Done } else { Next::Pending }) };
        let (start, end) = (self.at, message_end(run, self.at).ok_or_else(malformed)?);
        self.at = end;
        self.queued_bytes -= end - start;
        let message = run.get(start..end).unwrap_or_default();
        Ok(Next::Row { message, visible_end: None, same_keys: false })
    }

    /// All rows that are left of a run at once, for who takes them all as they are.
    pub(super) fn pop_run(&mut self, out: &mut BytesMut) -> Pop {
        while let Some(run) = self.runs.pop_front() {
            let rest = run.get(std::mem::take(&mut self.at)..).unwrap_or_default();
            let (mut rows, mut at) = (0, 0);
            while let Some(end) = message_end(rest, at) {
                rows += 1;
                at = end;
            }
            self.queued_bytes -= rest.len();
            if rows > 0 {
                out.extend_from_slice(rest);
                return Pop::Rows(rows);
            }
        }
        if self.is_done() { Pop::Done } else { Pop::Pending }
    }

    pub(super) fn is_done(&self) -> bool {
        self.queued_bytes == 0 && self.finished.iter().all(|finished| *finished)
    }
}
