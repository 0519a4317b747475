//! What the client says.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::facts::{self, Facts, NameUse, NamedUse};
use super::names::{Known, Name};
use super::owed::{Asked, Described, Names, Owed, Quiet, Undo};
use super::statements::{self, Origin, Statement};
use super::{Bound, Host, Machine, ServerSide, Taken, split_text, write_error};
use crate::error::{ClientError, ErrorId};
use crate::session::identity::{self, PidSource, Signal};
use crate::session::{Ensured, commit_wait, prepared};
use crate::sql::Spliced;
use crate::wire::WireError;
use crate::wire::client_message::{self, Target};
use crate::wire::frame::Frame;
use crate::wire::server_message::{self, tag};

/// A statement that no server has: ids start at 1.
const NO_STATEMENT: u64 = 0;

impl Machine {
    pub(super) fn take(
        &mut self,
        frame: Frame,
        server: Option<&mut ServerSide<'_>>,
        host: &dyn Host,
        to_client: &mut BytesMut,
    ) -> Result<Taken, WireError> {
        match frame.tag {
            b'X' => return Ok(Taken::Goodbye),
            b'S' => return Ok(self.sync(server, to_client)),
            b'H' => {
                // A COPY ignores it.
                if let Some(server) = server.filter(|_| !self.copy.is_reading()) {
                    client_message::encode_flush(server.output);
                }
                return Ok(Taken::Done);
            }
            b'd' | b'c' | b'f' => {
                if let Some(server) = server {
                    self.copy_message(frame.tag, &frame.bytes, server);
                }
                return Ok(Taken::Done);
            }
            b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'F' => {}
            other => return Err(WireError::UnknownTag(other)),
        }
        if self.is_skipping {
            return Ok(Taken::Done);
        }
        let Some(server) = server else {
            if frame.tag == b'C' && frame.as_body().first() == Some(&b'S') {
                return self.close_statement(&frame, to_client);
            }
            if self.guard.lost.is_some()
                && let Some(told) = self.tell_lost(&frame, to_client)
            {
                return Ok(told);
            }
            return Ok(self.without_server(frame, host, to_client));
        };
        if self.copy.is_reading() {
            self.interrupt_copy(frame.tag, server);
            return Ok(Taken::Later(frame));
        }
        if self.is_transparent() {
            self.pass(&frame, server)?;
            return Ok(Taken::Done);
        }
        self.is_unsynced |= !matches!(frame.tag, b'Q' | b'F');
        match frame.tag {
            b'Q' => self.query(frame, server, host),
            b'P' => self.parse(frame, server, host, to_client),
            b'B' => self.bind(frame, server, host),
            b'D' if frame.as_body().first() == Some(&b'S') => self.describe_statement(frame, server, host),
            b'C' if frame.as_body().first() == Some(&b'S') => self.close_statement(&frame, to_client),
            b'D' if frame.as_body().first() == Some(&b'P') => {
                self.describe_portal(&frame, server, host).map(|()| Taken::Done)
            }
            b'E' => self.execute(&frame, server).map(|()| Taken::Done),
            _ => {
                self.pass(&frame, server)?;
                Ok(Taken::Done)
            }
        }
    }

    fn sync(&mut self, server: Option<&mut ServerSide<'_>>, to_client: &mut BytesMut) -> Taken {
        let in_copy = self.copy.is_reading();
        let was_skipping = self.is_skipping;
        self.is_skipping &= in_copy;
        self.is_unsynced &= in_copy;
        match server {
            Some(server) if in_copy => self.copy_sync(server),
            Some(server) => {
                self.guard_sync(was_skipping, server);
                client_message::encode_sync(server.output);
                *server.pending_ready += 1;
                self.pipeline += 1;
                self.owed.push_back(Owed::Sync { forward: true });
            }
            None => server_message::write_ready_for_query(to_client, self.status),
        }
        Taken::Done
    }

    /// A message of this pipeline changes what the name means, unless it fails or is skipped.
    fn note_open(&mut self, name: &Name) {
        if name.is_unnamed() {
            self.is_unnamed_open = Some(self.pipeline);
        } else {
            self.open_names.insert(name.clone(), self.pipeline);
        }
    }

    /// What the name means depends on the outcome of an earlier pipeline, which has to come first: what is skipped
    /// in one pipeline must not be used in the next. In the same pipeline it would be skipped as well.
    fn is_open(&mut self, name: &[u8], server: &mut ServerSide<'_>) -> bool {
        let changed_in = match name {
            _ if self.owed.is_empty() => None,
            [] => self.is_unnamed_open,
            _ if self.open_names.is_empty() => None,
            _ => self.open_names.get(&Name::new(name)).copied(),
        };
        let is_open = changed_in.is_some_and(|pipeline| pipeline != self.pipeline);
        if is_open {
            // What was sent of this pipeline is answered, too: nothing would come before its Sync otherwise.
            client_message::encode_flush(server.output);
            self.is_held = true;
        }
        is_open
    }

    /// Sends a message as it is.
    fn pass(&mut self, frame: &Frame, server: &mut ServerSide<'_>) -> Result<(), WireError> {
        let body = frame.body();
        self.note_copies(frame.tag, &body)?;
        let owed = match (frame.tag, body.first()) {
            (b'Q', _) => {
                *server.pending_ready += 1;
                Owed::Query { asked: None, undo: Undo::Nothing }
            }
            (b'F', _) => {
                *server.pending_ready += 1;
                Owed::FunctionCall
            }
            (b'P', _) => Owed::Parse { forward: true, id: NO_STATEMENT, undo: Undo::Nothing },
            (b'B', _) => Owed::Bind,
            (b'D', Some(b'S')) => Owed::DescribeStatement { of: None },
            (b'D', Some(b'P')) => Owed::DescribePortal { of: None },
            (b'E', _) => Owed::Execute { statement: None },
            (b'C', Some(b'S' | b'P')) => Owed::Close { forward: true },
            _ => return Err(WireError::Malformed),
        };
        self.is_unsynced |= !owed.ends_with_ready();
        server.output.extend_from_slice(&frame.bytes);
        if self.is_held && frame.tag == b'E' {
            client_message::encode_flush(server.output);
        }
        self.owed.push_back(owed);
        Ok(())
    }

    /// Waits behind what may begin a COPY FROM STDIN, where messages pass as they are.
    fn note_copies(&mut self, message: u8, body: &[u8]) -> Result<(), WireError> {
        match message {
            b'Q' => self.is_held |= facts::may_copy_in(body, self.is_standard_conforming()),
            b'P' => {
                let (name, after_name) = split_text(body)?;
                if facts::may_copy_in(split_text(after_name)?.0, self.is_standard_conforming()) {
                    self.copy_names.get_or_insert_default().parsed(name);
                }
            }
            b'B' => {
                let (portal, after_portal) = split_text(body)?;
                if let Some(names) = &mut self.copy_names {
                    names.bound(portal, split_text(after_portal)?.0);
                }
            }
            b'E' => {
                if let Some(names) = &self.copy_names {
                    self.is_held |= names.may_copy(split_text(body)?.0);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn query(&mut self, frame: Frame, server: &mut ServerSide<'_>, host: &dyn Host) -> Result<Taken, WireError> {
        let (text, rest) = split_text(frame.as_body())?;
        if !rest.is_empty() {
            return Err(WireError::Malformed);
        }
        let facts = self.read_facts(text, host);
        if facts.lowers_commit && host.keeps_commits() {
            self.fail_query(&commit_wait::refusal(), server);
            return Ok(Taken::Done);
        }
        if facts.names.iter().any(|used| self.is_open(used.name.as_bytes(), server)) {
            return Ok(Taken::Later(frame));
        }
        let identified = self.identified(text, host);
        if let Some(found) = &identified
            && !found.signals.is_empty()
            && let Some(held) = self.may_signal(&found.signals, None, server, host)
        {
            return Ok(match held {
                Held::Later => Taken::Later(frame),
                Held::Refused(error) => {
                    self.fail_query(&error, server);
                    Taken::Done
                }
            });
        }
        if facts.asks_sequence {
            self.forget_foreign_sequences(server);
        }
        self.effects.note(&facts, host);
        let mut before = self.statements.remove(b"");
        self.note_open(&Name::UNNAMED);
        *server.unnamed = 0;
        let renamed = self.rename(text, &facts, identified, Some(server), host);
        if self.guard_query(text, &facts, renamed.is_some(), &mut before, server) {
            return Ok(Taken::Done);
        }
        // Also where there was none: what is taken back of an earlier message must not come back over this one.
        let undo = Undo::Restore { name: Name::UNNAMED, before };
        // What it does to prepared statements must be known before the next message is understood.
        self.is_held |= facts.deallocates_all || !facts.names.is_empty() || facts.copies_in;
        let asked = match renamed {
            Some(Renamed { text: made, names, instead, .. }) => {
                put_query(made.text().as_bytes(), server.output);
                let source = String::from_utf8_lossy(text).into_owned();
                Some(Box::new(Asked { instead, names, made: Some((made, source)) }))
            }
            None => {
                put_whole(frame.bytes, server.output);
                None
            }
        };
        *server.pending_ready += 1;
        self.owed.push_back(Owed::Query { asked, undo });
        Ok(Taken::Done)
    }

    /// What the connection remembers of sequences is another session's: rather none than a wrong value.
    fn forget_foreign_sequences(&mut self, server: &mut ServerSide<'_>) {
        if std::mem::take(&mut self.has_foreign_sequences) {
            server.query("DISCARD SEQUENCES");
            self.owed.push_back(Owed::Quiet(Quiet::Aside));
        }
    }

    /// A query that has to fail with an error of the proxy's own.
    fn fail_query(&mut self, error: &ClientError, server: &mut ServerSide<'_>) {
        let mut bytes = BytesMut::new();
        write_error(error, "ERROR", &mut bytes);
        server.query(&no_such_execute());
        let asked = Asked { instead: Some(bytes.freeze()), ..Asked::default() };
        self.owed.push_back(Owed::Query { asked: Some(Box::new(asked)), undo: Undo::Nothing });
    }

    fn identified(&self, text: &[u8], host: &dyn Host) -> Option<identity::Identified> {
        if !identity::mentions(text) {
            return None;
        }
        std::str::from_utf8(text).ok().and_then(|text| host.identify(text))
    }

    /// Signals that a statement sends to other sessions; they go out at once if the role may send them. The
    /// server is asked when that is not plain, and the message waits for its answer.
    fn may_signal(
        &mut self,
        signals: &[Signal],
        bind: Option<&client_message::Bind>,
        server: &mut ServerSide<'_>,
        host: &dyn Host,
    ) -> Option<Held> {
        let permission = self.permission.take();
        for signal in signals {
            let pid = match signal.pid {
                PidSource::Literal(pid) => Some(pid),
                PidSource::Param(number) => bind.and_then(|bind| {
                    let index = (number as usize).checked_sub(1)?;
                    let is_binary = bind.parameter_format(index) == crate::wire::Format::Binary;
                    identity::read_pid(bind.parameters.get(index)?.as_deref(), is_binary)
                }),
            };
            let Some((pid, role)) = pid.and_then(|pid| Some((pid, host.role_of_session(pid)?))) else { continue };
            let is_own = host.is_own_role(&role) && self.settings.changed_sql("role").is_none();
            match (is_own, &permission) {
                (true, _) => {}
                (false, Some(answer)) => {
                    if let Err(error) = identity::judge(signal.kind, answer) {
                        return Some(Held::Refused(error));
                    }
                }
                (false, None) => {
                    if !self.owed.is_empty() {
                        client_message::encode_sync(server.output);
                        *server.pending_ready += 1;
                        self.owed.push_back(Owed::Sync { forward: false });
                    }
                    server.query(&identity::permission_sql(&role));
                    self.owed.push_back(Owed::Quiet(Quiet::Permission));
                    self.is_waiting = true;
                    return Some(Held::Later);
                }
            }
            self.signals.push((signal.kind, pid));
        }
        None
    }

    /// The text with the server's names of prepared statements and the session's own identity in it; `None`
    /// when it can be sent as it is. With a connection, it is made ready to run the text at once.
    fn rename(
        &mut self,
        text: &[u8],
        facts: &Facts,
        identified: Option<identity::Identified>,
        mut server: Option<&mut ServerSide<'_>>,
        host: &dyn Host,
    ) -> Option<Renamed> {
        if facts.names.is_empty() {
            return identified.map(|found| Renamed { text: found.text, signals: found.signals, ..Renamed::default() });
        }
        let text = std::str::from_utf8(text).ok()?;
        let mut renamed = Renamed::default();
        let mut at = 0;
        for used in &facts.names {
            match self.rename_one(text, used, &mut renamed, server.as_deref_mut(), host) {
                Ok(name) => {
                    renamed.text.keep(text, at..used.range.start);
                    renamed.text.replace(&used.range, &name);
                    at = used.range.end;
                }
                Err(error) => {
                    // The server has to fail where it would, behind the results of earlier statements: a name
                    // that nobody has does that. What follows stays, since its grammar is judged first.
                    let start = used.statement.start.max(at);
                    renamed.text.keep(text, at..start);
                    renamed.text.insert(&format!("{};", no_such_execute()));
                    renamed.text.keep(text, start..text.len());
                    let mut bytes = BytesMut::new();
                    write_error(&error, "ERROR", &mut bytes);
                    renamed.instead = Some(bytes.freeze());
                    return Some(renamed);
                }
            }
        }
        renamed.text.keep(text, at..text.len());
        Some(renamed)
    }

    /// The server's name for one that the text uses.
    fn rename_one(
        &mut self,
        text: &str,
        used: &NamedUse,
        renamed: &mut Renamed,
        server: Option<&mut ServerSide<'_>>,
        host: &dyn Host,
    ) -> Result<String, ClientError> {
        let name = used.name.as_bytes();
        let own = renamed.names.prepares.iter().rev().find(|(known, _)| known == name).map(|(_, own)| Arc::clone(own));
        let known = own.clone().or_else(|| self.statements.get(name).map(|known| Arc::clone(&known.statement)));
        match (used.usage, known) {
            // Parse of such a text fails when it is executed: on the statement that is there.
            (NameUse::Prepare, Some(statement)) if server.is_none() => {
                let server_name = statement.server_name();
                renamed.executes.push(statement);
                Ok(server_name)
            }
            (NameUse::Prepare, Some(_)) => Err(already_exists(name)),
            (NameUse::Prepare, None) => {
                let id = host.unique_id();
                let server_name = statements::server_name(id);
                let (before, after) = (text.get(used.statement.start..used.range.start), used.range.end);
                let sql = format!(
                    "{}{server_name}{}",
                    before.unwrap_or_default(),
                    text.get(after..used.statement.end).unwrap_or_default()
                );
                let statement = Statement::new(id, false, Origin::Sql(sql), Facts::default());
                renamed.names.prepares.push_back((Bytes::copy_from_slice(name), Arc::new(statement)));
                Ok(server_name)
            }
            (_, None) if server.is_none() && !used.name.starts_with("os_") => {
                Ok(text.get(used.range.clone()).unwrap_or_default().to_owned())
            }
            (_, None) => Err(does_not_exist(name)),
            (usage, Some(statement)) => {
                renamed.executes.push(Arc::clone(&statement));
                if let Some(server) = server
                    && own.is_none()
                    && self.status != b'E'
                {
                    self.ensure_before_query(&statement, server);
                }
                if usage == NameUse::Deallocate {
                    renamed.names.deallocates.push_back((Bytes::copy_from_slice(name), statement.id));
                }
                Ok(statement.server_name())
            }
        }
    }

    /// Makes a statement known to the connection by messages of its own, each with its ReadyForQuery.
    fn ensure_before_query(&mut self, statement: &Arc<Statement>, server: &mut ServerSide<'_>) {
        let Ensured::NeedsParse { evicted } = server.prepared.ensure(statement.id) else { return };
        match &statement.origin {
            Origin::Protocol(parse_body) => {
                self.make_room(statement.id, evicted, server);
                statement.write_parse(parse_body, server.output);
                self.owed.push_back(Owed::Parse { forward: false, id: statement.id, undo: Undo::Nothing });
                // A Sync of ours must not end what an error of the client's pipeline skips.
                if !self.is_unsynced {
                    client_message::encode_sync(server.output);
                    *server.pending_ready += 1;
                    self.owed.push_back(Owed::Sync { forward: false });
                }
            }
            Origin::Sql(sql) => {
                if let Some(evicted) = evicted {
                    server.query(&format!("DEALLOCATE {}", statements::server_name(evicted)));
                    self.owed.push_back(Owed::Quiet(Quiet::Aside));
                }
                server.query(sql);
                self.owed.push_back(Owed::Quiet(Quiet::Prepare(statement.id)));
            }
        }
    }

    /// Closes what has to go before a statement is parsed: one that has to make room, and itself where it may
    /// be there still.
    pub(super) fn make_room(&mut self, id: u64, evicted: Option<u64>, server: &mut ServerSide<'_>) {
        let own = server.prepared.take_doubt(id).then_some(id);
        for closed in [evicted, own].into_iter().flatten() {
            statements::write_close(closed, server.output);
            self.owed.push_back(Owed::Close { forward: false });
        }
    }

    fn parse(
        &mut self,
        frame: Frame,
        server: &mut ServerSide<'_>,
        host: &dyn Host,
        to_client: &mut BytesMut,
    ) -> Result<Taken, WireError> {
        let body = frame.body();
        let (name, after_name) = split_text(&body)?;
        let (text, types) = split_text(after_name)?;
        if !name.is_empty() && self.is_open(name, server) {
            return Ok(Taken::Later(frame));
        }
        // What is kept is copied: a slice would keep the whole buffer that the message came in.
        let rest = body.get(name.len() + 1..).unwrap_or_default();
        if !name.is_empty() && self.statements.contains(name) {
            self.fail_as_taken(name, rest, server);
            return Ok(Taken::Done);
        }
        let facts = self.read_facts(text, host);
        if let Some(error) = self.refusal_of_parse(&facts, host) {
            self.fail(&error, server);
            return Ok(Taken::Done);
        }
        if facts.asks_sequence {
            self.forget_foreign_sequences(server);
        }
        let renamed = self.rename(text, &facts, self.identified(text, host), None, host);
        if let Some(error) = renamed.as_ref().and_then(|renamed| renamed.instead.clone()) {
            self.fail_with(error, server);
            return Ok(Taken::Done);
        }
        let parse_body = match &renamed {
            Some(renamed) => Bytes::from([renamed.text.text().as_bytes(), &[0], types].concat()),
            None => Bytes::copy_from_slice(rest),
        };
        let is_unnamed = name.is_empty();
        let statement = if is_unnamed || renamed.is_some() {
            let origin = Origin::Protocol(parse_body);
            let mut statement = Statement::new(host.unique_id(), is_unnamed, origin, facts);
            if let Some(renamed) = renamed {
                statement.executes = renamed.executes;
                statement.names = renamed.names;
                statement.signals = renamed.signals;
            }
            Arc::new(statement)
        } else {
            host.statement(parse_body, self.settings.parse_key(), facts)
        };
        let name = Name::new(name);
        self.note_open(&name);
        // Its columns are those of what it executes, as the server knows it by now.
        for needed in &statement.executes {
            self.ensure(needed, server);
        }
        let before = self.statements.insert(name.clone(), Known::new(Arc::clone(&statement)));
        let undo = Undo::Restore { name, before };
        self.make(&statement, undo, server, to_client);
        Ok(Taken::Done)
    }

    /// Why a text is not prepared.
    fn refusal_of_parse(&self, facts: &Facts, host: &dyn Host) -> Option<ClientError> {
        if self.statements.is_full() {
            let error = ClientError::new(ErrorId::LimitExceeded, "too many prepared statements in one session");
            return Some(error.with_hint("Deallocate statements that are no longer used."));
        }
        if facts.lowers_commit && host.keeps_commits() {
            return Some(commit_wait::refusal());
        }
        let is_foreign = facts.asks_sequence && self.has_foreign_sequences && self.owes_client();
        is_foreign.then(|| {
            let text = "lastval and currval of another connection are not known";
            ClientError::new(ErrorId::FeatureNotSupported, text)
                .with_hint("Use INSERT ... RETURNING, or ask in the transaction that inserted.")
        })
    }

    /// Parse under a name that is taken: what is wrong with the text is said first.
    fn fail_as_taken(&mut self, name: &[u8], rest: &[u8], server: &mut ServerSide<'_>) {
        statements::write_close(NO_STATEMENT, server.output);
        self.owed.push_back(Owed::Close { forward: false });
        statements::write_parse(&statements::server_name(NO_STATEMENT), rest, server.output);
        self.owed.push_back(Owed::Parse { forward: false, id: NO_STATEMENT, undo: Undo::Nothing });
        statements::write_close(NO_STATEMENT, server.output);
        self.owed.push_back(Owed::Close { forward: false });
        self.fail(&already_exists(name), server);
    }

    /// Parse of the client's: sent, unless the connection has the statement already and no error can come.
    fn make(&mut self, statement: &Arc<Statement>, undo: Undo, server: &mut ServerSide<'_>, to_client: &mut BytesMut) {
        if statement.is_unnamed {
            *server.unnamed = statement.id;
        } else {
            // Before its ReadyForQuery a transaction may have failed; what one makes of the schema may have been undone.
            let may_have_failed = self.status == b'E' || self.owed.iter().any(Owed::may_change_status);
            let is_present = server.prepared.contains(statement.id);
            let ensured = server.prepared.ensure(statement.id);
            if is_present && !may_have_failed && !self.effects.changes_schema {
                self.say(tag::PARSE_COMPLETE, undo, to_client);
                return;
            }
            if is_present {
                statements::write_close(statement.id, server.output);
                self.owed.push_back(Owed::Close { forward: false });
            } else if let Ensured::NeedsParse { evicted } = ensured {
                self.make_room(statement.id, evicted, server);
            }
        }
        if let Origin::Protocol(parse_body) = &statement.origin {
            statement.write_parse(parse_body, server.output);
        }
        self.owed.push_back(Owed::Parse { forward: true, id: statement.id, undo });
    }

    fn bind(&mut self, frame: Frame, server: &mut ServerSide<'_>, host: &dyn Host) -> Result<Taken, WireError> {
        let body = frame.body();
        let (portal, after_portal) = split_text(&body)?;
        let (name, rest) = split_text(after_portal)?;
        if self.is_open(name, server) {
            return Ok(Taken::Later(frame));
        }
        let Some(known) = self.statements.get(name) else {
            self.fail(&does_not_exist(name), server);
            return Ok(Taken::Done);
        };
        if known.has_changed() {
            self.fail_with(crate::session::columns::stale_plan(), server);
            return Ok(Taken::Done);
        }
        let version = host.schema_version();
        let (statement, must_look) = (Arc::clone(&known.statement), known.is_described_before(version));
        let name = Name::new(name);
        if must_look {
            self.look_again(Described { name, statement, version }, server);
            return Ok(Taken::Later(frame));
        }
        if !statement.signals.is_empty()
            && let client_message::ClientMessage::Bind(bind) = client_message::decode(&frame)?
        {
            match self.may_signal(&statement.signals, Some(&bind), server, host) {
                None => {}
                Some(Held::Later) => return Ok(Taken::Later(frame)),
                Some(Held::Refused(error)) => {
                    self.fail(&error, server);
                    return Ok(Taken::Done);
                }
            }
        }
        self.ensure(&statement, server);
        statements::write_bind(portal, &statement.server_name(), rest, server.output);
        self.owed.push_back(Owed::Bind);
        if !statement.facts.is_plain() || statement.facts.changes_schema {
            self.effects.note(&statement.facts, host);
        }
        self.portals.insert(portal, Bound { name, statement });
        Ok(Taken::Done)
    }

    /// A statement whose columns the client knows, on a connection that does not have it, after a change of
    /// the schema: its columns are looked at first, because a client that reads them as it was told would
    /// misread them. PostgreSQL refuses to run such a statement.
    fn look_again(&mut self, of: Described, server: &mut ServerSide<'_>) {
        self.ensure(&of.statement, server);
        client_message::encode_describe(server.output, &Target::Statement(of.statement.server_name()));
        client_message::encode_flush(server.output);
        self.owed.push_back(Owed::LookAgain { of });
        self.is_waiting = true;
    }

    /// Makes a statement known to the connection, with those that its text executes, within the pipeline.
    pub(super) fn ensure(&mut self, statement: &Arc<Statement>, server: &mut ServerSide<'_>) {
        let was_complete = statement.executes.iter().all(|needed| server.prepared.contains(needed.id));
        for needed in &statement.executes {
            self.ensure(needed, server);
        }
        if statement.is_unnamed {
            if *server.unnamed == statement.id && was_complete {
                return;
            }
            *server.unnamed = statement.id;
        } else {
            match server.prepared.ensure(statement.id) {
                Ensured::Present => return,
                Ensured::NeedsParse { evicted } => self.make_room(statement.id, evicted, server),
            }
        }
        match &statement.origin {
            Origin::Protocol(parse_body) => {
                statement.write_parse(parse_body, server.output);
                self.owed.push_back(Owed::Parse { forward: false, id: statement.id, undo: Undo::Nothing });
            }
            Origin::Sql(sql) => {
                let steps = statements::write_prepare(sql, server.output);
                self.owed.extend((0..steps).map(|_| Owed::Step { id: statement.id }));
            }
        }
    }

    fn describe_statement(
        &mut self,
        frame: Frame,
        server: &mut ServerSide<'_>,
        host: &dyn Host,
    ) -> Result<Taken, WireError> {
        let body = frame.body();
        let (name, _) = split_text(body.get(1..).unwrap_or_default())?;
        if self.is_open(name, server) {
            return Ok(Taken::Later(frame));
        }
        let Some(known) = self.statements.get(name) else {
            self.fail(&does_not_exist(name), server);
            return Ok(Taken::Done);
        };
        let (name, statement) = (Name::new(name), Arc::clone(&known.statement));
        self.ensure(&statement, server);
        client_message::encode_describe(server.output, &Target::Statement(statement.server_name()));
        let of = Described { name, statement, version: host.schema_version() };
        self.owed.push_back(Owed::DescribeStatement { of: Some(of) });
        Ok(Taken::Done)
    }

    fn describe_portal(
        &mut self,
        frame: &Frame,
        server: &mut ServerSide<'_>,
        host: &dyn Host,
    ) -> Result<(), WireError> {
        let body = frame.body();
        let (portal, _) = split_text(body.get(1..).unwrap_or_default())?;
        let of = self.portals.get(portal).map(|bound| Described {
            name: bound.name.clone(),
            statement: Arc::clone(&bound.statement),
            version: host.schema_version(),
        });
        server.output.extend_from_slice(&frame.bytes);
        self.owed.push_back(Owed::DescribePortal { of });
        Ok(())
    }

    fn execute(&mut self, frame: &Frame, server: &mut ServerSide<'_>) -> Result<(), WireError> {
        let body = frame.body();
        let (portal, _) = split_text(&body)?;
        let statement = self.portals.get(portal).map(|bound| Arc::clone(&bound.statement));
        self.guard_execute(statement.as_deref(), server);
        server.output.extend_from_slice(&frame.bytes);
        if let Some(statement) = &statement
            && (statement.facts.deallocates_all || !statement.facts.names.is_empty() || statement.facts.copies_in)
        {
            // What it does to prepared statements must be known before the next message is understood.
            client_message::encode_flush(server.output);
            self.is_held = true;
        }
        self.owed.push_back(Owed::Execute { statement });
        Ok(())
    }

    fn close_statement(&mut self, frame: &Frame, to_client: &mut BytesMut) -> Result<Taken, WireError> {
        let body = frame.body();
        let (name, _) = split_text(body.get(1..).unwrap_or_default())?;
        let name = Name::new(name);
        self.is_unsynced |= self.is_attached;
        // The server keeps it for whoever prepares the same text next.
        let before = self.statements.remove(name.as_bytes());
        self.note_open(&name);
        self.say(tag::CLOSE_COMPLETE, Undo::Restore { name, before }, to_client);
        Ok(Taken::Done)
    }

    /// Says something of the proxy's own in its place among the answers.
    fn say(&mut self, message: u8, undo: Undo, to_client: &mut BytesMut) {
        if self.owed.is_empty() && self.guard.is_on && self.is_attached {
            self.say_guarded(message, undo);
        } else if self.owed.is_empty() {
            server_message::write_empty(to_client, message);
        } else {
            self.owed.push_back(Owed::Local { message, undo });
        }
    }

    /// An error of the proxy's own inside a pipeline: the server is made to fail at the same place, so that
    /// it skips what follows and its transaction fails, too.
    fn fail(&mut self, error: &ClientError, server: &mut ServerSide<'_>) {
        let mut bytes = BytesMut::new();
        write_error(error, "ERROR", &mut bytes);
        self.fail_with(bytes.freeze(), server);
    }

    fn fail_with(&mut self, error: Bytes, server: &mut ServerSide<'_>) {
        client_message::encode_describe(server.output, &Target::Statement(statements::server_name(NO_STATEMENT)));
        self.owed.push_back(Owed::Failure(Box::new(error)));
    }

    fn read_facts(&self, text: &[u8], host: &dyn Host) -> Facts {
        facts::read(text, self.is_standard_conforming(), &|schema, name| host.may_leave(schema, name))
    }

    fn is_standard_conforming(&self) -> bool {
        self.reported.is_standard_conforming()
    }
}

/// Appends a message; one that nobody else has becomes the output where nothing waits.
fn put_whole(message: Bytes, output: &mut BytesMut) {
    if output.is_empty() {
        match message.try_into_mut() {
            Ok(message) => *output = message,
            Err(message) => output.extend_from_slice(&message),
        }
    } else {
        output.extend_from_slice(&message);
    }
}

/// A text with other names in it.
#[derive(Debug, Default)]
struct Renamed {
    text: Spliced,
    /// What it does to names.
    names: Names,
    /// Statements that it executes.
    executes: Vec<Arc<Statement>>,
    /// What it means for other sessions.
    signals: Vec<Signal>,
    /// It must fail with this error.
    instead: Option<Bytes>,
}

/// Why a message does not go out now.
enum Held {
    /// The server is asked first.
    Later,
    /// It must fail.
    Refused(ClientError),
}

/// A statement that fails on every server and does nothing.
pub(super) fn no_such_execute() -> String {
    format!("EXECUTE {}", statements::server_name(NO_STATEMENT))
}

fn put_query(text: &[u8], output: &mut BytesMut) {
    statements::put_message(output, b'Q', &[text, &[0]]);
}

fn already_exists(name: &[u8]) -> ClientError {
    prepared::already_exists(&String::from_utf8_lossy(name))
}

fn does_not_exist(name: &[u8]) -> ClientError {
    prepared::does_not_exist(&String::from_utf8_lossy(name))
}
