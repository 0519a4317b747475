//! COPY FROM STDIN: the time in which the client's messages are its data.
//!
//! A server that reads a COPY ignores Sync; one whose COPY has failed answers it. Which of the two happened to
//! a Sync among the data only the server knows, so it gets them all, and when the COPY fails it is asked by
//! messages of the proxy's own: a Sync, a Close and a Sync. What stands before the Close's answer are the
//! ReadyForQuery messages of the COPY, of the Syncs that counted, and the proxy's own.
//!
//! So that nothing else is under way then, nothing is sent behind a COPY FROM STDIN before the server has said
//! that it reads, nor behind its end as long as the outcome of Syncs is open.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};

use super::owed::Owed;
use super::{Host, Machine, Pumped, ServerSide, write_error};
use crate::error::{ClientError, ErrorId};
use crate::wire::client_message::{self, Target};
use crate::wire::server_message::{self, tag};

/// A portal that nobody has.
const NO_PORTAL: &str = "os_no_portal";

/// What the server is told when the client says something else in the middle of its data.
const INTERRUPTION: &str = "ostrakon: the client has left the COPY";

/// Names of statements that a session without a look at its statements may hold before every Execute is taken
/// for a COPY.
const NAMES_MAX: usize = 1_000;

/// Where a COPY FROM STDIN stands.
#[derive(Debug, Default)]
pub(super) struct CopyIn {
    /// The server reads, and the client has not ended its data.
    is_reading: bool,
    /// Syncs that were sent among the data.
    syncs: usize,
    /// Type of the message with which the client has broken into its own data.
    interrupted_by: Option<u8>,
}

/// Statements and portals that are COPY FROM STDIN, of a session whose messages pass as they are. A name stays
/// when the statement goes: that costs a wait, and no more.
#[derive(Debug, Default)]
pub(super) struct CopyNames {
    statements: HashSet<Bytes>,
    portals: HashSet<Bytes>,
}

impl CopyNames {
    pub(super) fn parsed(&mut self, name: &[u8]) {
        if self.statements.len() < NAMES_MAX {
            self.statements.insert(Bytes::copy_from_slice(name));
        }
    }

    pub(super) fn bound(&mut self, portal: &[u8], statement: &[u8]) {
        if !self.statements.contains(statement) {
            self.portals.remove(portal);
        } else if self.portals.len() < NAMES_MAX {
            self.portals.insert(Bytes::copy_from_slice(portal));
        }
    }

    /// The portal may begin a COPY FROM STDIN.
    pub(super) fn may_copy(&self, portal: &[u8]) -> bool {
        self.statements.len() >= NAMES_MAX || self.portals.len() >= NAMES_MAX || self.portals.contains(portal)
    }
}

impl CopyIn {
    /// The client's messages are data.
    pub(super) fn is_reading(&self) -> bool {
        self.is_reading
    }
}

impl Machine {
    /// The server reads.
    pub(super) fn begin_copy_in(&mut self) {
        self.copy = CopyIn { is_reading: true, ..CopyIn::default() };
        self.is_held = false;
    }

    /// CopyData, CopyDone or CopyFail. Without a COPY it is left over from one that has failed.
    pub(super) fn copy_message(&mut self, message: u8, bytes: &[u8], server: &mut ServerSide<'_>) {
        if !self.copy.is_reading {
            return;
        }
        server.output.extend_from_slice(bytes);
        if message == b'd' {
            return;
        }
        self.copy.is_reading = false;
        let is_query = matches!(self.owed.front(), Some(Owed::Query { .. }));
        if is_query {
            // Another COPY of the same text may follow.
            self.is_held = true;
        } else if self.copy.syncs > 0 {
            client_message::encode_flush(server.output);
            self.is_held = true;
        }
    }

    /// A Sync among the data.
    pub(super) fn copy_sync(&mut self, server: &mut ServerSide<'_>) {
        client_message::encode_sync(server.output);
        self.copy.syncs += 1;
    }

    /// Another message among the data: PostgreSQL ends the session, unless the COPY has failed already. The
    /// message waits for that.
    pub(super) fn interrupt_copy(&mut self, message: u8, server: &mut ServerSide<'_>) {
        client_message::encode_copy_fail(server.output, INTERRUPTION);
        self.copy.is_reading = false;
        self.copy.interrupted_by = Some(message);
        self.is_held = true;
    }

    /// The error of an interrupted COPY, as PostgreSQL words it; `None` when it has failed for another reason.
    pub(super) fn interruption(
        &mut self,
        whole: &[u8],
        server: &mut ServerSide<'_>,
        pumped: &mut Pumped,
    ) -> Option<Bytes> {
        let message = self.copy.interrupted_by.take()?;
        memchr::memmem::find(whole, INTERRUPTION.as_bytes())?;
        let text = format!("unexpected message type 0x{message:02X} during COPY from stdin");
        let error = super::server::rewrite(whole, |kind, value| match kind {
            b'C' => Some(b"08P01"),
            b'M' => Some(text.as_bytes()),
            _ => Some(value),
        });
        let mut bytes = BytesMut::from(&*error);
        let text = "terminating connection because protocol synchronization was lost";
        write_error(&ClientError::new(ErrorId::ProtocolViolation, text), "FATAL", &mut bytes);
        *server.is_poisoned = true;
        pumped.is_fatal = true;
        Some(bytes.freeze())
    }

    /// The COPY in front has failed. True: Syncs stood among its data, and the server is asked which of them
    /// count.
    pub(super) fn copy_failed(&mut self, server: &mut ServerSide<'_>) -> bool {
        let copy = std::mem::take(&mut self.copy);
        if copy.syncs == 0 {
            return false;
        }
        let is_query = matches!(self.owed.pop_front(), Some(Owed::Query { .. }));
        client_message::encode_sync(server.output);
        client_message::encode_close(server.output, &Target::Portal(NO_PORTAL.to_owned()));
        client_message::encode_sync(server.output);
        *server.pending_ready += 2;
        self.owed.push_back(Owed::SyncsCounted { is_query, readies: Vec::new(), is_closed: false });
        self.failed_prepare = None;
        self.is_waiting = false;
        self.is_held = true;
        true
    }

    /// The answer to the Close: the ReadyForQuery messages for the client.
    pub(super) fn syncs_counted(&mut self) -> Bytes {
        let mut told = BytesMut::new();
        let Some(Owed::SyncsCounted { is_query, readies, is_closed }) = self.owed.front_mut() else {
            return Bytes::new();
        };
        *is_closed = true;
        let is_query = *is_query;
        // The last is the answer to the Sync of the proxy's own.
        readies.pop();
        for status in &*readies {
            server_message::write_ready_for_query(&mut told, *status);
            self.status = *status;
        }
        // A pipeline whose Syncs were all ignored goes on to be skipped up to the client's next.
        let is_over = is_query || !readies.is_empty();
        self.is_skipping = !is_over;
        self.is_unsynced = !is_over;
        told.freeze()
    }

    /// A ReadyForQuery while Syncs are counted.
    pub(super) fn count_ready(&mut self, status: u8, server: &mut ServerSide<'_>, host: &dyn Host) {
        match self.owed.front_mut() {
            Some(Owed::SyncsCounted { readies, is_closed: false, .. }) => readies.push(status),
            _ => {
                self.owed.pop_front();
                *server.pending_ready = 0;
                if status == b'I' {
                    self.portals.clear();
                    if std::mem::take(&mut self.effects.changes_schema) {
                        host.schema_changed();
                    }
                }
            }
        }
    }

    /// Everything that was sent is answered.
    pub(super) fn all_answered(&mut self) {
        self.is_held = false;
        self.open_names.clear();
        self.is_unnamed_open = None;
        self.copy = CopyIn::default();
    }
}

/// A message of the server begins a COPY FROM STDIN.
pub(super) fn begins(message: u8) -> bool {
    message == tag::COPY_IN_RESPONSE
}
