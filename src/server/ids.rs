//! Ids for the executor: blocks of the home shard's sequences, given out by the control room.

use crate::backend::Connection;
use crate::control::sequences::Sequences;
use crate::error::ClientError;
use crate::executor::{BoxFuture, Ids};
use crate::topology::TableName;

/// The executor's view of the sequences.
pub(super) struct ClusterIds {
    sequences: Sequences,
}

impl ClusterIds {
    pub(super) fn new(sequences: Sequences) -> Self {
        Self { sequences }
    }
}

impl Ids for ClusterIds {
    fn next<'a>(&'a self, sequence: &'a TableName, count: usize) -> BoxFuture<'a, Result<Vec<i64>, ClientError>> {
        Box::pin(async move { self.sequences.next(sequence, count).await.map_err(|error| error.to_client_error()) })
    }

    fn next_within<'a>(
        &'a self,
        sequence: &'a TableName,
        count: usize,
        connection: &'a mut Connection,
    ) -> BoxFuture<'a, Result<Vec<i64>, ClientError>> {
        Box::pin(async move {
            let taken = self.sequences.next_within(sequence, count, connection).await;
            taken.map_err(|error| error.to_client_error())
        })
    }

    fn forget_all(&self) {
        self.sequences.forget_all();
    }
}
