//! What the server says.

use bytes::{Buf, Bytes, BytesMut};

use super::copy::{self, CopyIn};
use super::names::{Known, Name, Told};
use super::owed::{Described, Names, Owed, Quiet, Undo};
use super::{Host, Machine, Pumped, ServerSide, inspect};
use crate::session::columns::{parameters_signature, signature};
use crate::sql::Spliced;
use crate::wire::frame::{Header, scan};
use crate::wire::server_message::{self, tag};
use crate::wire::{WireError, limits};

/// A row or piece of COPY that is not whole yet is passed on by parts once it has this many bytes.
const PART_BYTES_MIN: usize = 32 << 10;

/// Tag and length.
const HEADER_BYTES: usize = 5;

/// What happens to one message of the server.
enum Fate {
    /// The client gets it as it is.
    Forward,
    /// The client gets these bytes in its place.
    Replace(Bytes),
    /// Nobody gets it.
    Swallow,
}

impl Machine {
    /// Takes what has been read from the server: whole messages go to the client in runs, as they are.
    ///
    /// # Errors
    /// The server broke the protocol: the connection must be closed.
    pub(super) fn relay(
        &mut self,
        input: &mut BytesMut,
        server: &mut ServerSide<'_>,
        host: &dyn Host,
        to_client: &mut BytesMut,
    ) -> Result<Pumped, WireError> {
        let mut pumped = Pumped::default();
        if self.passing_bytes > 0 {
            let part = self.passing_bytes.min(input.len());
            to_client.extend_from_slice(input.get(..part).unwrap_or_default());
            input.advance(part);
            self.passing_bytes -= part;
        }
        let mut run = 0..0;
        let mut headers = scan(input);
        for header in headers.by_ref() {
            let header = header?;
            match self.fate(&header, input, server, host, to_client, &mut run, &mut pumped)? {
                Fate::Forward => {
                    run.end = header.end;
                    if header.tag == tag::READY_FOR_QUERY {
                        self.settle_up_to(to_client.len() + run.len());
                    }
                }
                Fate::Swallow => flush_run(input, &mut run, header.end, to_client),
                Fate::Replace(bytes) => {
                    flush_run(input, &mut run, header.end, to_client);
                    to_client.extend_from_slice(&bytes);
                }
            }
            if matches!(self.owed.front(), Some(Owed::Local { .. })) {
                flush_run(input, &mut run, header.end, to_client);
                self.say_local(to_client);
            }
            if self.owed.is_empty() {
                self.all_answered();
            }
            if pumped.is_fatal {
                // Nothing follows for the client.
                break;
            }
        }
        let whole = headers.bytes_whole();
        let missing = headers.bytes_missing();
        if run.start == 0 && run.end == input.len() && to_client.is_empty() {
            // Everything is the client's: no need to copy it.
            std::mem::swap(input, to_client);
            return Ok(pumped);
        }
        flush_run(input, &mut run, whole, to_client);
        input.advance(whole);
        self.pass_part(input, missing, to_client)?;
        Ok(pumped)
    }

    /// Begins to pass on a long row or piece of COPY before all of it is here.
    fn pass_part(
        &mut self,
        input: &mut BytesMut,
        missing: Option<usize>,
        to_client: &mut BytesMut,
    ) -> Result<(), WireError> {
        let Some(missing) = missing.filter(|missing| *missing > 0) else { return Ok(()) };
        if input.len() + missing > limits::MESSAGE_BYTES_MAX {
            return Err(WireError::TooLong(input.len() + missing));
        }
        let is_data = matches!(input.first(), Some(&(tag::DATA_ROW | tag::COPY_DATA)));
        let is_clients = matches!(self.owed.front(), Some(Owed::Query { .. } | Owed::Execute { .. }));
        if is_data && is_clients && input.len() >= PART_BYTES_MIN {
            to_client.extend_from_slice(input);
            input.clear();
            self.passing_bytes = missing;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // the parts of one pump, borrowed apart
    fn fate(
        &mut self,
        header: &Header,
        input: &[u8],
        server: &mut ServerSide<'_>,
        host: &dyn Host,
        to_client: &mut BytesMut,
        run: &mut std::ops::Range<usize>,
        pumped: &mut Pumped,
    ) -> Result<Fate, WireError> {
        let front = self.owed.front();
        // The many first: rows.
        if matches!(header.tag, tag::DATA_ROW | tag::COPY_DATA)
            && matches!(front, Some(Owed::Query { .. } | Owed::Execute { .. }))
        {
            return Ok(Fate::Forward);
        }
        let body = header.body(input);
        match header.tag {
            tag::PARAMETER_STATUS => return self.parameter_status(body, server),
            tag::NOTICE_RESPONSE => {
                let is_quiet = matches!(front, Some(Owed::Quiet(_)));
                let is_kept_back = self.is_unsafe_commit(body) || is_quiet;
                return Ok(if is_kept_back { Fate::Swallow } else { Fate::Forward });
            }
            tag::NOTIFICATION_RESPONSE => return notification(body, host),
            tag::ERROR_RESPONSE => {
                let whole = input.get(header.start..header.end).unwrap_or_default();
                let fate = self.error(whole, body, server, pumped);
                if !matches!(fate, Fate::Swallow) {
                    self.note_failed();
                }
                return Ok(fate);
            }
            tag::READY_FOR_QUERY => {
                let before = to_client.len();
                let fate = self.ready(body, server, host, to_client)?;
                if to_client.len() > before {
                    // What was said goes behind what came before it.
                    let said = to_client.split_off(before);
                    flush_run(input, run, header.start, to_client);
                    to_client.extend_from_slice(&said);
                }
                return Ok(fate);
            }
            _ => {}
        }
        self.answer(header.tag, body, server)
    }

    /// An answer to the message in front.
    fn answer(&mut self, message: u8, body: &[u8], server: &mut ServerSide<'_>) -> Result<Fate, WireError> {
        let Some(front) = self.owed.front_mut() else { return Err(WireError::UnknownTag(message)) };
        let (forward, is_over) = match front {
            Owed::Quiet(asked) => {
                let asked = *asked;
                if message == tag::DATA_ROW {
                    self.quiet_row(asked, body)?;
                }
                (false, false)
            }
            Owed::Xid => {
                if message == tag::DATA_ROW {
                    self.take_xid(body)?;
                }
                (false, message == tag::COMMAND_COMPLETE)
            }
            Owed::Converted { .. } => converted(message),
            Owed::Query { .. } => {
                if message == tag::COMMAND_COMPLETE {
                    self.completed(body, server);
                }
                if copy::begins(message) {
                    self.begin_copy_in();
                }
                (true, false)
            }
            Owed::FunctionCall => (true, false),
            Owed::Parse { forward, .. } | Owed::Close { forward } => (*forward, true),
            Owed::Bind => (true, true),
            Owed::Step { .. } => (false, true),
            Owed::DescribeStatement { of } | Owed::DescribePortal { of } => {
                if let Some(of) = of {
                    let version = of.version;
                    self.statements.tell(&of.name, &of.statement, |told| note(told, version, message, body));
                }
                (true, is_description_over(message))
            }
            Owed::LookAgain { of: Described { name, statement, version } } => {
                let is_over = is_description_over(message);
                self.statements.tell(name, statement, |told| compare(told, *version, message, body));
                self.is_waiting &= !is_over;
                (false, is_over)
            }
            Owed::Execute { .. } => {
                if copy::begins(message) {
                    self.begin_copy_in();
                }
                let is_over =
                    matches!(message, tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE | tag::PORTAL_SUSPENDED);
                if is_over {
                    self.executed(body, server);
                }
                (true, is_over)
            }
            Owed::SyncsCounted { is_closed: false, .. } if message == tag::CLOSE_COMPLETE => {
                return Ok(Fate::Replace(self.syncs_counted()));
            }
            Owed::Sync { .. } | Owed::Failure(_) | Owed::Local { .. } | Owed::SyncsCounted { .. } => {
                return Err(WireError::UnknownTag(message));
            }
        };
        if is_over
            && let Some(done) = self.owed.pop_front()
            && let Owed::Parse { undo, .. } | Owed::Converted { undo } = done
        {
            self.note_done(undo);
        }
        Ok(if forward { Fate::Forward } else { Fate::Swallow })
    }

    /// A row of what the proxy asked for itself.
    fn quiet_row(&mut self, asked: Quiet, body: &[u8]) -> Result<(), WireError> {
        match asked {
            Quiet::Inspection => {
                if let Some(inspection) = &mut self.inspection {
                    inspection.row(body)?;
                }
            }
            Quiet::Xid => self.take_xid(body)?,
            Quiet::Permission => {
                let values = server_message::read_data_row(&Bytes::copy_from_slice(body))?;
                let answer = values.into_iter().next().flatten().unwrap_or_default();
                self.permission = Some(String::from_utf8_lossy(&answer).into());
            }
            _ => {}
        }
        Ok(())
    }

    /// A statement of a simple query is done.
    fn completed(&mut self, body: &[u8], server: &mut ServerSide<'_>) {
        self.copy = CopyIn::default();
        let Some(Owed::Query { asked, .. }) = self.owed.front_mut() else { return };
        let mut names = asked.as_mut().map(|asked| std::mem::take(&mut asked.names)).unwrap_or_default();
        self.note_names(body, &mut names, server);
        if let Some(Owed::Query { asked: Some(asked), .. }) = self.owed.front_mut() {
            asked.names = names;
        }
    }

    /// A portal has run to its end, or to its limit of rows.
    fn executed(&mut self, body: &[u8], server: &mut ServerSide<'_>) {
        let Some(Owed::Execute { statement: Some(statement) }) = self.owed.front() else { return };
        let mut names = statement.names.clone();
        self.note_names(body, &mut names, server);
    }

    /// A statement is done that may have made or ended prepared statements: its command tag tells.
    fn note_names(&mut self, command_tag: &[u8], names: &mut Names, server: &mut ServerSide<'_>) {
        match command_tag {
            b"PREPARE\0" => {
                if let Some((name, statement)) = names.prepares.pop_front() {
                    server.prepared.ensure(statement.id);
                    self.statements.insert(Name::new(&name), Known::new(statement));
                }
            }
            b"DEALLOCATE\0" => {
                if let Some((name, id)) = names.deallocates.pop_front() {
                    server.prepared.forget(id);
                    self.statements.remove(&name);
                }
            }
            b"DEALLOCATE ALL\0" | b"DISCARD ALL\0" => {
                server.prepared.clear();
                *server.unnamed = 0;
                self.statements.clear_named();
            }
            _ => {}
        }
    }

    fn parameter_status(&mut self, body: &[u8], server: &mut ServerSide<'_>) -> Result<Fate, WireError> {
        let (name, value) = server_message::read_parameter_status(body)?;
        server.parameters.insert(name, value);
        if matches!(self.owed.front(), Some(Owed::Quiet(_))) || self.effects.sets_any {
            // The client is told afterwards, if the value is another one for it.
            return Ok(Fate::Swallow);
        }
        self.reported.insert(name, value);
        Ok(Fate::Forward)
    }

    fn error(&mut self, whole: &[u8], body: &[u8], server: &mut ServerSide<'_>, pumped: &mut Pumped) -> Fate {
        if is_fatal(body) {
            *server.is_poisoned = true;
            pumped.is_fatal = true;
            if self.guard.is_on && is_stopping(body) {
                pumped.good_bye = Some(Bytes::copy_from_slice(whole));
                return Fate::Swallow;
            }
            return Fate::Forward;
        }
        if let Some(bytes) = self.interruption(whole, server, pumped) {
            return Fate::Replace(bytes);
        }
        if matches!(self.owed.front(), Some(Owed::Query { .. } | Owed::Execute { .. })) && self.copy_failed(server) {
            return Fate::Forward;
        }
        match self.owed.front_mut() {
            // What was answered already has failed: there is no way on from there.
            Some(Owed::Quiet(Quiet::Settings | Quiet::Opening)) => {
                pumped.refused = Some(as_fatal(whole));
                *server.is_poisoned = true;
                return Fate::Swallow;
            }
            Some(Owed::Quiet(Quiet::Inspection)) => {
                if let Some(inspection) = &mut self.inspection {
                    inspection.has_failed = true;
                }
                return Fate::Swallow;
            }
            Some(Owed::Quiet(Quiet::Prepare(id))) => {
                server.prepared.forget(*id);
                self.failed_prepare.get_or_insert_with(|| Box::new(without_position(whole)));
                return Fate::Swallow;
            }
            // What was committed is not known to be on standbys: the connection is as good as lost.
            Some(Owed::Quiet(Quiet::Barrier)) => {
                *server.is_poisoned = true;
                pumped.is_fatal = true;
                pumped.good_bye = Some(as_fatal(whole));
                return Fate::Swallow;
            }
            Some(Owed::Quiet(_)) => return Fate::Swallow,
            Some(Owed::Query { asked, .. }) => {
                let asked = asked.as_deref_mut();
                let (instead, made) = asked.map(|asked| (&mut asked.instead, &mut asked.made)).unzip();
                let made = made.and_then(Option::take);
                let failed = self.failed_prepare.take().map(|failed| *failed);
                let instead = failed.or_else(|| instead?.take_if(|_| is_of_no_statement(whole)));
                let named = instead.or_else(|| self.with_clients_name(whole));
                let placed = made.map(|made| in_source(named.as_deref().unwrap_or(whole), &made.0, &made.1));
                return placed.or(named).map_or(Fate::Forward, Fate::Replace);
            }
            Some(Owed::FunctionCall) => return Fate::Forward,
            _ => {}
        }
        let instead = match self.owed.front_mut() {
            Some(Owed::Failure(bytes)) => Some(std::mem::take(&mut **bytes)),
            Some(Owed::Step { .. }) => Some(without_position(whole)),
            _ => None,
        };
        let named = instead.or_else(|| self.with_clients_name(whole));
        // The trial of a text whose name is taken is the client's own.
        let is_own = matches!(self.owed.front(), Some(Owed::Parse { forward: false, id: 1.., .. }));
        let has_own_sync = self.skip_to_sync(server);
        match (is_own && has_own_sync, named) {
            (true, _) => Fate::Swallow,
            (false, Some(bytes)) => Fate::Replace(bytes),
            (false, None) => Fate::Forward,
        }
    }

    /// An error that speaks of a prepared statement by its name on the server, with the client's name.
    fn with_clients_name(&self, whole: &[u8]) -> Option<Bytes> {
        let start = memchr::memmem::find(whole, b"\"os_")? + 1;
        let end = start + memchr::memchr(b'"', whole.get(start..)?)?;
        let id = std::str::from_utf8(whole.get(start + 3..end)?).ok()?.parse().ok()?;
        let name = self.statements.name_of(id)?;
        let body = [whole.get(HEADER_BYTES..start)?, name, whole.get(end..)?];
        let mut bytes = BytesMut::new();
        super::statements::put_message(&mut bytes, tag::ERROR_RESPONSE, &body);
        Some(bytes.freeze())
    }

    /// The server skips to the next Sync, queries included, and so does what it owes. True: that Sync is the
    /// proxy's own.
    fn skip_to_sync(&mut self, server: &mut ServerSide<'_>) -> bool {
        self.is_waiting = false;
        let mut undone = Vec::new();
        let mut has_failed = true;
        while let Some(owed) = self.owed.front() {
            if matches!(owed, Owed::Sync { .. }) {
                break;
            }
            if owed.ends_with_ready() {
                *server.pending_ready = server.pending_ready.saturating_sub(1);
                if self.guard.is_on && !matches!(owed, Owed::Quiet(_)) {
                    self.guard.skip_end();
                }
            }
            match self.owed.pop_front() {
                Some(Owed::Parse { id, undo, .. }) => {
                    server.prepared.forget(id);
                    if *server.unnamed == id {
                        *server.unnamed = 0;
                    }
                    undone.push(if has_failed { undo.of_failed() } else { undo });
                }
                Some(Owed::Local { undo, .. } | Owed::Query { undo, .. } | Owed::Converted { undo }) => {
                    undone.push(undo)
                }
                Some(Owed::Step { id }) => server.prepared.forget(id),
                _ => {}
            }
            has_failed = false;
        }
        // What was done last is taken back first.
        undone.into_iter().rev().for_each(|undo| self.undo(undo));
        match self.owed.front() {
            Some(Owed::Sync { forward }) => !forward,
            _ => {
                self.is_skipping = true;
                false
            }
        }
    }

    pub(super) fn undo(&mut self, undo: Undo) {
        let Undo::Restore { name, before } = undo else { return };
        // What a later message did to the name stays; taken back, it leads to what was before this one.
        if let Some(later) = self.owed.iter_mut().find_map(|owed| owed.before(&name)) {
            *later = before;
            return;
        }
        match before {
            Some(before) => self.statements.insert(name, before),
            None => self.statements.remove(name.as_bytes()),
        };
    }

    fn ready(
        &mut self,
        body: &[u8],
        server: &mut ServerSide<'_>,
        host: &dyn Host,
        to_client: &mut BytesMut,
    ) -> Result<Fate, WireError> {
        let status = server_message::read_ready_for_query(body)?;
        *server.status = status;
        if matches!(self.owed.front(), Some(Owed::SyncsCounted { .. })) {
            self.count_ready(status, server, host);
            return Ok(Fate::Swallow);
        }
        let mut owed = match self.owed.pop_front() {
            Some(owed) if owed.ends_with_ready() => owed,
            _ => return Err(WireError::UnknownTag(tag::READY_FOR_QUERY)),
        };
        if self.guard.record.is_some()
            && let Owed::Query { undo, .. } = &mut owed
        {
            self.note_done(std::mem::take(undo));
        }
        *server.pending_ready = server.pending_ready.saturating_sub(1);
        let is_clients = !matches!(owed, Owed::Quiet(_) | Owed::Sync { forward: false });
        self.guard_ready(status, is_clients, server);
        match owed {
            Owed::Quiet(asked) => {
                self.quiet_ready(&asked, server, to_client);
                return Ok(Fate::Swallow);
            }
            Owed::Sync { forward: false } => return Ok(Fate::Swallow),
            Owed::Query { .. } => {
                self.is_waiting = false;
                self.failed_prepare = None;
            }
            _ => {}
        }
        self.status = status;
        if status == b'I' {
            self.portals.clear();
            if std::mem::take(&mut self.effects.changes_schema) {
                host.schema_changed();
            }
            if self.effects.sets_any && self.owed.is_empty() && !self.is_unsynced {
                // What RESET returned to is the server's; the client is told when it is the session's.
                self.is_ready_held = true;
                return Ok(Fate::Swallow);
            }
        }
        if self.effects.sets_any {
            self.report_parameters(server, to_client);
        }
        Ok(Fate::Forward)
    }

    /// The answer to something this session asked for itself is complete.
    fn quiet_ready(&mut self, asked: &Quiet, server: &mut ServerSide<'_>, to_client: &mut BytesMut) {
        match asked {
            Quiet::Settings => {
                if !*server.is_poisoned {
                    *server.settings_key = self.settings.key();
                    self.is_waiting = false;
                }
                self.report_parameters(server, to_client);
            }
            Quiet::Inspection => self.finish_inspection(server, to_client),
            Quiet::Restore => {
                *server.settings_key = self.settings.key();
                self.end_inspection(server, to_client);
            }
            Quiet::Permission => {
                // Without an answer there is no permission.
                self.permission.get_or_insert_default();
                self.is_waiting = false;
            }
            Quiet::Barrier => self.barrier_passed(),
            Quiet::Prepare(_) | Quiet::Aside | Quiet::Opening | Quiet::Xid => {}
        }
    }

    /// Looks into what the last transaction did to the session, if it may have done something. To be called
    /// after every pump.
    pub fn look_after(&mut self, server: &mut ServerSide<'_>) {
        let is_due = self.is_attached
            && self.owed.is_empty()
            && self.status == b'I'
            && !self.is_unsynced
            && !self.is_transparent();
        if !is_due {
            return;
        }
        let effects = &self.effects;
        let pins = effects.may_pin || effects.calls_unknown || (self.is_pinned && effects.may_unpin);
        if effects.sets.is_empty() && !effects.sets_any && !pins {
            self.effects = super::Effects::default();
            return;
        }
        let mut effects = std::mem::take(&mut self.effects);
        let asks_all = effects.sets_any || effects.calls_unknown;
        if asks_all {
            effects.sets.extend(self.settings.extension_names());
        }
        self.is_unsure = effects.calls_unknown;
        let inspection = inspect::Inspection::of(effects.sets, asks_all, pins);
        server.query(&inspection.sql());
        self.inspection = Some(Box::new(inspection));
        self.owed.push_back(Owed::Quiet(Quiet::Inspection));
        self.is_waiting = true;
    }

    /// The server has said what the last transaction left behind.
    fn finish_inspection(&mut self, server: &mut ServerSide<'_>, to_client: &mut BytesMut) {
        let Some(inspection) = self.inspection.take() else { return self.end_inspection(server, to_client) };
        if inspection.has_failed {
            // What the session has is not known, so it keeps the connection that has it.
            self.is_pinned = true;
            *server.settings_key = u64::MAX;
            self.end_inspection(server, to_client);
            return;
        }
        if let Some(pinned) = inspection.is_pinned {
            self.is_pinned = pinned;
        }
        let restore = inspection.apply(&mut self.settings);
        self.has_new_settings = true;
        if restore.is_empty() {
            *server.settings_key = self.settings.key();
            self.end_inspection(server, to_client);
        } else {
            *server.settings_key = u64::MAX;
            server.query(&restore);
            self.owed.push_back(Owed::Quiet(Quiet::Restore));
        }
    }

    fn end_inspection(&mut self, server: &mut ServerSide<'_>, to_client: &mut BytesMut) {
        self.is_waiting = false;
        if std::mem::take(&mut self.is_unsure) {
            // A setting of an application that nobody knows of must not be the next session's.
            *server.settings_key = u64::MAX;
        }
        self.report_parameters(server, to_client);
        if std::mem::take(&mut self.is_ready_held) {
            server_message::write_ready_for_query(to_client, self.status);
        }
    }

    fn say_local(&mut self, to_client: &mut BytesMut) {
        loop {
            match self.owed.front() {
                Some(Owed::Local { message, .. }) => server_message::write_empty(to_client, *message),
                _ => return,
            }
            if let Some(Owed::Local { undo, .. }) = self.owed.pop_front() {
                self.note_done(undo);
            }
        }
    }
}

/// Copies a run of messages to the client; the next one starts at `next`.
fn flush_run(input: &[u8], run: &mut std::ops::Range<usize>, next: usize, to_client: &mut BytesMut) {
    to_client.extend_from_slice(input.get(run.clone()).unwrap_or_default());
    *run = next..next;
}

/// What a simple query's client gets of the answer to its extended form, and whether that is over.
fn converted(message: u8) -> (bool, bool) {
    let is_over = message == tag::COMMAND_COMPLETE;
    (is_over || matches!(message, tag::ROW_DESCRIPTION | tag::DATA_ROW), is_over)
}

/// The sender's process id becomes the one that clients know.
fn notification(body: &[u8], host: &dyn Host) -> Result<Fate, WireError> {
    let notification = server_message::read_notification(&Bytes::copy_from_slice(body))?;
    let pid = host.session_of(notification.pid);
    if pid == notification.pid {
        return Ok(Fate::Forward);
    }
    let mut bytes = BytesMut::new();
    server_message::write_notification(&mut bytes, pid, &notification.channel, &notification.payload);
    Ok(Fate::Replace(bytes.freeze()))
}

/// The fields of an error, in order.
pub(super) fn fields(body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    body.split(|byte| *byte == 0).filter_map(|field| field.split_first().map(|(kind, value)| (*kind, value)))
}

/// The server stops, has crashed, somebody ends the backend, or a standby does because its replay has to go on.
fn is_stopping(body: &[u8]) -> bool {
    fields(body).any(|(kind, value)| kind == b'C' && matches!(value, b"57P01" | b"57P02" | b"40001"))
}

fn is_fatal(body: &[u8]) -> bool {
    fields(body).any(|(kind, value)| kind == b'V' && matches!(value, b"FATAL" | b"PANIC"))
}

/// The same error with severity FATAL, as a server answers to a login.
fn as_fatal(whole: &[u8]) -> Bytes {
    rewrite(whole, |kind, value| Some(if matches!(kind, b'S' | b'V') { b"FATAL" } else { value }))
}

/// The same error without its place in a text that the client has not sent.
/// The error of the EXECUTE that has to fail; any other has its own words.
fn is_of_no_statement(whole: &[u8]) -> bool {
    fields(whole.get(HEADER_BYTES..).unwrap_or_default()).any(|(kind, value)| kind == b'C' && value == b"26000")
}

/// An error about a text that was made from the client's, with its place in that one.
fn in_source(whole: &[u8], made: &Spliced, source: &str) -> Bytes {
    let told = fields(whole.get(HEADER_BYTES..).unwrap_or_default()).find(|(kind, _)| *kind == b'P');
    let told = told.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok());
    let place = told.and_then(|place| made.source_position(source, place)).map(|place| place.to_string());
    rewrite(whole, |kind, value| if kind == b'P' { place.as_deref().map(str::as_bytes) } else { Some(value) })
}

fn without_position(whole: &[u8]) -> Bytes {
    rewrite(whole, |kind, value| (kind != b'P').then_some(value))
}

/// An error with other fields, or fewer.
pub(super) fn rewrite<'a>(whole: &'a [u8], field: impl Fn(u8, &'a [u8]) -> Option<&'a [u8]>) -> Bytes {
    let mut body = Vec::with_capacity(whole.len());
    for (kind, value) in fields(whole.get(HEADER_BYTES..).unwrap_or_default()) {
        let Some(value) = field(kind, value) else { continue };
        body.push(kind);
        body.extend_from_slice(value);
        body.push(0);
    }
    body.push(0);
    let mut bytes = BytesMut::new();
    super::statements::put_message(&mut bytes, tag::ERROR_RESPONSE, &[&body]);
    bytes.freeze()
}

/// The parameters come first.
fn is_description_over(message: u8) -> bool {
    message != tag::PARAMETER_DESCRIPTION
}

/// The client is told what a statement takes and gives.
fn note(told: &mut Told, version: u64, message: u8, body: &[u8]) {
    if is_description_over(message) {
        told.note_columns(signature(message, body), version);
    } else {
        told.note_parameters(parameters_signature(body));
    }
}

/// What a statement takes and gives now, beside what the client was told.
fn compare(told: &mut Told, version: u64, message: u8, body: &[u8]) {
    if is_description_over(message) {
        told.compare_columns(signature(message, body), version);
    } else {
        told.compare_parameters(parameters_signature(body));
    }
}
