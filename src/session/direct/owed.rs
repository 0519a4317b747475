//! Answers that the server still owes, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::statements::Statement;
use crate::sql::Spliced;

/// What a quiet query of the proxy's own is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quiet {
    /// The session's settings, before anything of the client's.
    Settings,
    /// What the last transaction left behind.
    Inspection,
    /// A statement that SQL's EXECUTE needs, by its id.
    Prepare(u64),
    /// Something whose answer is of no interest.
    Aside,
    /// The client's BEGIN, which was answered when it came.
    Opening,
    /// Whether the role may signal another session.
    Permission,
    /// Settings that RESET returned to other than the session's startup values.
    Restore,
    /// The id of the transaction that is about to be committed.
    Xid,
    /// What was committed before is on standbys.
    Barrier,
}

/// What undoes a change of the client's names when the message that made it fails or is skipped.
#[derive(Debug, Default)]
pub(super) enum Undo {
    #[default]
    Nothing,
    /// The name had no statement, or this one.
    Restore { name: Bytes, before: Option<Arc<Statement>> },
}

impl Undo {
    /// What undoes a message that was not skipped but has failed: PostgreSQL throws the unnamed statement away
    /// before it reads the next one.
    pub(super) fn of_failed(self) -> Self {
        match self {
            Self::Restore { name, .. } if name.is_empty() => Self::Restore { name, before: None },
            other => other,
        }
    }
}

/// What a text does to names of prepared statements, once the server says that it has done it.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// Statements that PREPARE makes, in order.
    pub(super) prepares: VecDeque<(Bytes, Arc<Statement>)>,
    /// Statements that DEALLOCATE ends, in order.
    pub(super) deallocates: VecDeque<(Bytes, u64)>,
}

/// One answer.
#[derive(Debug)]
pub(super) enum Owed {
    /// Everything up to ReadyForQuery, seen by nobody.
    Quiet(Quiet),
    /// Everything up to ReadyForQuery. With `instead`, its error is another one. `made`: the text that was sent, and
    /// the client's.
    Query { instead: Option<Bytes>, names: Names, undo: Undo, made: Option<Box<(Spliced, String)>> },
    /// The answer to a simple query that was sent in extended form.
    Converted { undo: Undo },
    /// The id of the transaction that is about to be committed, seen by nobody.
    Xid,
    /// FunctionCallResponse and ReadyForQuery.
    FunctionCall,
    /// ParseComplete, forwarded or not.
    Parse { forward: bool, id: u64, undo: Undo },
    /// BindComplete.
    Bind,
    /// ParameterDescription, then RowDescription or NoData; with the schema's version.
    DescribeStatement { of: Option<(Arc<Statement>, u64)> },
    /// As DescribeStatement, seen by nobody: the columns are compared with what the client was told.
    LookAgain { of: Arc<Statement>, version: u64 },
    /// RowDescription or NoData; with the schema's version.
    DescribePortal { of: Option<(Arc<Statement>, u64)> },
    /// Rows, then CommandComplete, PortalSuspended or EmptyQueryResponse.
    Execute { statement: Option<Arc<Statement>> },
    /// CloseComplete, forwarded or not.
    Close { forward: bool },
    /// One message, seen by nobody: a step in preparing the statement of that id by SQL.
    Step { id: u64 },
    /// ReadyForQuery, forwarded or not.
    Sync { forward: bool },
    /// An error, in place of which the client gets this one.
    Failure(Bytes),
    /// Of a COPY that has failed: statuses of the ReadyForQuery messages so far, up to the answer to a Close of
    /// the proxy's own, and one more ReadyForQuery behind it.
    SyncsCounted { is_query: bool, readies: Vec<u8>, is_closed: bool },
    /// Nothing: the proxy says this itself, in its place among the others.
    Local { answer: Bytes, undo: Undo },
}

impl Owed {
    /// After it the client's transaction may be in another state.
    pub(super) fn may_change_status(&self) -> bool {
        self.ends_with_ready() && !matches!(self, Self::Quiet(_))
    }

    /// What had that name before the message, if it has changed what the name means.
    pub(super) fn before(&mut self, wanted: &Bytes) -> Option<&mut Option<Arc<Statement>>> {
        match self {
            Self::Parse { undo: Undo::Restore { name, before }, .. }
            | Self::Local { undo: Undo::Restore { name, before }, .. }
            | Self::Query { undo: Undo::Restore { name, before }, .. }
            | Self::Converted { undo: Undo::Restore { name, before } }
                if name == wanted =>
            {
                Some(before)
            }
            _ => None,
        }
    }

    /// It ends with ReadyForQuery.
    pub(super) fn ends_with_ready(&self) -> bool {
        matches!(self, Self::Quiet(_) | Self::Query { .. } | Self::FunctionCall | Self::Sync { .. })
    }
}
