//! Answers that the server still owes, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::names::{Known, Name};
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
    Restore { name: Name, before: Option<Known> },
}

impl Undo {
    /// What undoes a message that was not skipped but has failed: PostgreSQL throws the unnamed statement away
    /// before it reads the next one.
    pub(super) fn of_failed(self) -> Self {
        match self {
            Self::Restore { name, .. } if name.is_unnamed() => Self::Restore { name, before: None },
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

/// What is to be known of few simple queries.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The error that the client gets in place of the server's.
    pub(super) instead: Option<Bytes>,
    pub(super) names: Names,
    /// The text that was sent, and the client's.
    pub(super) made: Option<(Spliced, String)>,
}

/// A statement that is described: its name, and the schema's version.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) name: Name,
    pub(super) statement: Arc<Statement>,
    pub(super) version: u64,
}

/// One answer. Small: every message makes one, and idle sessions keep room for two.
#[derive(Debug)]
pub(super) enum Owed {
    /// Everything up to ReadyForQuery, seen by nobody.
    Quiet(Quiet),
    /// Everything up to ReadyForQuery.
    Query { asked: Option<Box<Asked>>, undo: Undo },
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
    /// ParameterDescription, then RowDescription or NoData.
    DescribeStatement { of: Option<Described> },
    /// As DescribeStatement, seen by nobody: the columns are compared with what the client was told.
    LookAgain { of: Described },
    /// RowDescription or NoData.
    DescribePortal { of: Option<Described> },
    /// Rows, then CommandComplete, PortalSuspended or EmptyQueryResponse.
    Execute { statement: Option<Arc<Statement>> },
    /// CloseComplete, forwarded or not.
    Close { forward: bool },
    /// One message, seen by nobody: a step in preparing the statement of that id by SQL.
    Step { id: u64 },
    /// ReadyForQuery, forwarded or not.
    Sync { forward: bool },
    /// An error, in place of which the client gets this one.
    Failure(Box<Bytes>),
    /// Of a COPY that has failed: statuses of the ReadyForQuery messages so far, up to the answer to a Close of
    /// the proxy's own, and one more ReadyForQuery behind it.
    SyncsCounted { is_query: bool, readies: Vec<u8>, is_closed: bool },
    /// Nothing: the proxy says this itself, a message without a body in its place among the others.
    Local { message: u8, undo: Undo },
}

impl Owed {
    /// After it the client's transaction may be in another state.
    pub(super) fn may_change_status(&self) -> bool {
        self.ends_with_ready() && !matches!(self, Self::Quiet(_))
    }

    /// What had that name before the message, if it has changed what the name means.
    pub(super) fn before(&mut self, wanted: &Name) -> Option<&mut Option<Known>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_owed_takes_little() {
        assert!(size_of::<Owed>() <= 48, "{} bytes", size_of::<Owed>());
    }
}
