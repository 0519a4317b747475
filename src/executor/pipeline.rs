//! The extended protocol. Messages for one shard are written as they come and travel together at
//! Sync or Flush; answers reach the client in the order of its messages.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::answers::PIPELINE_BYTES_MAX;
use super::create_as::is_create_as;
use super::relay::Expect;
use super::sequences::is_sequence_call;
use super::session::Suspended;
use super::statement::{Mode, ends_failure, in_failed_transaction};
use super::values::StatementValues;
use super::{Failure, Session};
use crate::backend::Ensured;
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::{Framed, NetError};
use crate::plan::{Class, SequenceUse};
use crate::planner::BoundShards;
use crate::session::pins;
use crate::session::{Parsed, Portal, PreparedStatement, Told};
use crate::sql::ast::Statement;
use crate::sql::walk;
use crate::wire::client_message::{self, Bind, ClientMessage, Parse, Target};
use crate::wire::frame::take_frame;
use crate::wire::limits::MESSAGE_BYTES_MAX;
use crate::wire::server_message::{self, tag};

impl Session {
    /// Takes one message of the extended protocol.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn extended(&mut self, client: &mut Framed, message: ClientMessage) -> Result<(), NetError> {
        match message {
            ClientMessage::Sync => return self.sync(client).await,
            ClientMessage::FunctionCall(call) => return self.function_call(client, &call).await,
            _ => {}
        }
        if self.skip_to_sync {
            return Ok(());
        }
        match self.extended_message(client, message).await {
            Ok(()) => Ok(()),
            Err(failure) => Box::pin(self.go_on(client, failure, false)).await,
        }
    }

    pub(super) async fn extended_message(
        &mut self,
        client: &mut Framed,
        message: ClientMessage,
    ) -> Result<(), Failure> {
        if !matches!(&message, ClientMessage::Execute { .. }) {
            self.answer_describe(client).await?;
        }
        match message {
            ClientMessage::Parse(parse) => self.parse(client, parse).await,
            ClientMessage::Bind(bind) => self.bind_portal(client, bind).await,
            ClientMessage::Describe(Target::Statement(name)) => self.describe_statement(client, &name).await,
            ClientMessage::Describe(Target::Portal(name)) => self.describe_portal(client, &name).await,
            ClientMessage::Execute { portal, rows_max } => self.execute(client, &portal, rows_max).await,
            ClientMessage::Close(target) => self.close_target(client, &target).await,
            ClientMessage::Flush => {
                self.validate_waiting(client).await?;
                self.answer_so_far(client).await?;
                client.flush().await.map_err(Failure::Client)
            }
            _ => Err(ClientError::new(ErrorId::ProtocolViolation, "invalid message format").into()),
        }?;
        let full = self
            .current
            .and_then(|shard| self.links.get_mut(&shard))
            .is_some_and(|link| link.lease.output().len() > PIPELINE_BYTES_MAX);
        if full { self.settle(client).await } else { Ok(()) }
    }

    async fn parse(&mut self, client: &mut Framed, parse: Parse) -> Result<(), Failure> {
        self.validate_waiting(client).await?;
        let parsed = self.understand(&parse.sql)?;
        if self.transaction.is_failed() && !ends_failure(&parsed) {
            return Err(self.told_in_failed(client, &parsed, &parse.parameter_types).await);
        }
        let id = self.statement_id(&parsed, &parse.parameter_types);
        let statement = Arc::new(PreparedStatement {
            id,
            parsed: Arc::new(parsed),
            parameter_types: parse.parameter_types,
            told: Told::default(),
        });
        self.statements.insert(&parse.statement, Arc::clone(&statement))?;
        if is_ours(&statement.parsed) {
            self.say(client, empty(tag::PARSE_COMPLETE));
        } else {
            self.parse_waiting = Some((parse.statement, statement));
        }
        Ok(())
    }

    /// Everything asked so far is answered. While statements were only parsed and described nothing has run and
    /// no portal is open: a Sync then costs the client nothing, and leaves no transaction behind in which the
    /// next statement would have to run (drivers that prepare first flush here, and send their Sync with the Bind).
    async fn answer_so_far(&mut self, client: &mut Framed) -> Result<(), Failure> {
        if self.bound || self.transaction.is_open() {
            return self.settle(client).await;
        }
        self.sync_links(client).await?;
        self.release();
        Ok(())
    }

    /// A Parse that no Bind follows is checked by a shard that is at hand.
    async fn validate_waiting(&mut self, client: &mut Framed) -> Result<(), Failure> {
        let Some((_, statement)) = &self.parse_waiting else { return Ok(()) };
        let statement = Arc::clone(statement);
        let shard = self.describing_shard(&statement.parsed);
        self.attach(client, shard).await?;
        self.write_parse(shard, &statement)
    }

    /// Makes the statement known to the shard's connection; answers the client's Parse if it waits.
    pub(super) fn write_parse(&mut self, shard: ShardId, statement: &PreparedStatement) -> Result<(), Failure> {
        let waiting = self.parse_waiting.as_ref().is_some_and(|(_, waiting)| waiting.id == statement.id);
        let link = self.held(shard)?;
        // Every text has one name on every connection, so that sessions share what is prepared.
        let ensured = link.lease.prepared.ensure(statement.id);
        if let Ensured::NeedsParse { evicted: Some(evicted) } = ensured {
            client_message::encode_close(link.lease.output(), &Target::Statement(server_name(evicted)));
            link.expects.push_back(Expect::CloseQuietly);
            link.unsynced = true;
        }
        if ensured != Ensured::Present {
            let text = link.text(&statement.parsed.text);
            let (output, name) = (link.lease.output(), server_name(statement.id));
            client_message::encode_parse(output, &name, &text, &statement.parameter_types);
            link.expects.push_back(Expect::Parse { forward: waiting, id: statement.id });
            link.unsynced = true;
        } else if waiting {
            link.expects.push_back(Expect::Local(empty(tag::PARSE_COMPLETE)));
        }
        if waiting {
            self.parse_waiting = None;
        }
        Ok(())
    }

    async fn bind_portal(&mut self, client: &mut Framed, bind: Bind) -> Result<(), Failure> {
        let statement = self.statements.get(&bind.statement)?;
        self.bound = true;
        if self.transaction.is_failed() && !ends_failure(&statement.parsed) {
            return Err(in_failed_transaction().into());
        }
        let is_waiting = self.parse_waiting.as_ref().is_some_and(|(_, waiting)| waiting.id == statement.id);
        if !is_waiting {
            self.validate_waiting(client).await?;
        }
        self.refresh_topology(|session| session.touch_of_bind(&statement, &bind)).await?;
        let asked = Arc::clone(&statement);
        let statement = self.as_told(client, &bind.statement, statement).await?;
        if !Arc::ptr_eq(&asked, &statement) {
            // Values are read by the types that a server has told.
            self.refresh_topology(|session| session.touch_of_bind(&statement, &bind)).await?;
        }
        let mut portal =
            Portal { statement: Arc::clone(&statement), bind, shard: None, writes: false, changes_schema: false };
        if let Some(shard) = self.direct_shard(client, &mut portal).await? {
            portal.shard = Some(shard);
            self.attach(client, shard).await?;
            self.write_parse(shard, &statement)?;
            let link = self.held(shard)?;
            let name = portal.bind.portal.clone();
            client_message::encode_bind(link.lease.output(), &name, &server_name(statement.id), &portal.bind);
            link.expects.push_back(Expect::Bind { forward: true });
            link.unsynced = true;
        } else {
            if is_waiting {
                // The shards' own answers to the text come with the execution.
                self.parse_waiting = None;
                self.say(client, empty(tag::PARSE_COMPLETE));
            }
            self.say(client, empty(tag::BIND_COMPLETE));
        }
        let name = portal.bind.portal.clone();
        self.suspended.remove(&name);
        self.statements.insert_portal(&name, Arc::new(portal));
        Ok(())
    }

    /// The one shard that runs a portal by itself, if that is how it runs.
    async fn direct_shard(&mut self, client: &mut Framed, portal: &mut Portal) -> Result<Option<ShardId>, Failure> {
        let parsed = Arc::clone(&portal.statement.parsed);
        if is_ours(&parsed) {
            return Ok(None);
        }
        if let Some(shard) = self.fixed_shard(&parsed) {
            return Ok(Some(shard));
        }
        if is_sequence_call(&parsed) || is_create_as(&parsed) {
            return Ok(None);
        }
        let bind = portal.bind.clone();
        let statement = Arc::clone(&portal.statement);
        let mode = Mode::Extended { bind: &bind, types: &statement.parameter_types, describe: false };
        let planned = match self.kept_plan(&parsed) {
            Some(plan) => Ok(plan),
            None => {
                self.know_relations(client, &parsed, mode).await?;
                self.plan(&parsed)
            }
        };
        let plan = match planned {
            Ok(plan) => plan,
            Err(refusal) => {
                if self.names_numbers(&parsed) {
                    return Ok(None);
                }
                return Err(self.refuse(client, &parsed, mode.types(), refusal).await);
            }
        };
        if let Some(what) = plan.inside_transaction {
            self.needs_block(what)?;
        }
        if plan.sequences == SequenceUse::Called {
            return Ok(None);
        }
        self.note_sequences(&parsed, plan.sequences);
        if plan.copy.is_some() || plan.outside_transaction || names_set_config(&parsed) || pins::changes_tables(&parsed)
        {
            return Ok(None);
        }
        if plan.insert.as_ref().is_some_and(|insert| !insert.fills.is_empty() && !insert.rows.is_empty()) {
            // Ids are taken when the portal runs.
            return Ok(None);
        }
        let mut values = StatementValues::new(&parsed.lexed, mode);
        let bound = self.bind(client, &plan, &mut values, None).await?;
        portal.writes = plan.class > Class::ReadLock;
        portal.changes_schema = plan.changes_schema;
        if plan.insert.as_ref().is_some_and(|insert| self.needs_split(insert, &bound)) {
            return Ok(None);
        }
        Ok(match bound.shards {
            BoundShards::One(shard) => Some(shard),
            BoundShards::Any => Some(self.any_shard()),
            BoundShards::Many(_) => None,
        })
    }

    async fn describe_statement(&mut self, client: &mut Framed, name: &str) -> Result<(), Failure> {
        let statement = self.statements.get(name)?;
        if is_ours(&statement.parsed) {
            let mut answer = BytesMut::new();
            server_message::write_parameter_description(&mut answer, &[]);
            if is_execute(&statement.parsed) {
                answer.extend_from_slice(&self.describe_execute(client, &statement.parsed).await?.bytes);
            } else {
                server_message::write_empty(&mut answer, tag::NO_DATA);
            }
            self.say(client, answer.freeze());
            return Ok(());
        }
        let is_waiting = self.parse_waiting.as_ref().is_some_and(|(_, waiting)| waiting.id == statement.id);
        if !is_waiting {
            self.validate_waiting(client).await?;
        }
        let shard = self.describing_shard(&statement.parsed);
        self.attach(client, shard).await?;
        self.write_parse(shard, &statement)?;
        let of = self.telling(&statement, shard);
        let link = self.held(shard)?;
        client_message::encode_describe(link.lease.output(), &Target::Statement(server_name(statement.id)));
        link.expects.push_back(Expect::DescribeStatement { of });
        link.unsynced = true;
        Ok(())
    }

    /// The shard that can tell of a statement's columns: a cursor's, else one that is at hand.
    pub(super) fn describing_shard(&self, parsed: &Parsed) -> ShardId {
        self.fixed_shard(parsed).unwrap_or_else(|| self.any_shard())
    }

    async fn describe_portal(&mut self, client: &mut Framed, name: &str) -> Result<(), Failure> {
        match self.portal_shard(name)? {
            Some(shard) => {
                self.attach(client, shard).await?;
                let of = self.statements.portal(name).ok().map(|portal| self.telling(&portal.statement, shard));
                let link = self.held(shard)?;
                client_message::encode_describe(link.lease.output(), &Target::Portal(name.to_owned()));
                link.expects.push_back(Expect::DescribePortal { of });
                link.unsynced = true;
            }
            None => self.describe_waiting = Some(name.to_owned()),
        }
        Ok(())
    }

    /// Where a portal runs, if on one shard. A cursor made by DECLARE is a portal too (psycopg's server-side
    /// cursors are described so).
    fn portal_shard(&self, name: &str) -> Result<Option<ShardId>, Failure> {
        match (self.statements.portal(name), self.cursors.get(name)) {
            (Ok(portal), _) => Ok(portal.shard),
            (Err(_), Some(shard)) => Ok(Some(*shard)),
            (Err(unknown), None) => Err(unknown.into()),
        }
    }

    /// A Describe that no Execute follows: the columns of the client's own text, from a shard at hand.
    async fn answer_describe(&mut self, client: &mut Framed) -> Result<(), Failure> {
        let Some(name) = self.describe_waiting.take() else { return Ok(()) };
        let portal = self.statements.portal(&name)?;
        if is_ours(&portal.statement.parsed) {
            let answer = if is_execute(&portal.statement.parsed) {
                self.describe_execute(client, &portal.statement.parsed).await?.bytes
            } else {
                empty(tag::NO_DATA)
            };
            self.say(client, answer);
            return Ok(());
        }
        let shard = self.any_shard();
        self.attach(client, shard).await?;
        self.write_parse(shard, &portal.statement)?;
        let of = Some(self.telling(&portal.statement, shard));
        let link = self.held(shard)?;
        let server_statement = server_name(portal.statement.id);
        client_message::encode_bind(link.lease.output(), DESCRIBED_PORTAL, &server_statement, &portal.bind);
        client_message::encode_describe(link.lease.output(), &Target::Portal(DESCRIBED_PORTAL.to_owned()));
        client_message::encode_close(link.lease.output(), &Target::Portal(DESCRIBED_PORTAL.to_owned()));
        link.expects.extend([Expect::Bind { forward: false }, Expect::DescribePortal { of }, Expect::CloseQuietly]);
        link.unsynced = true;
        Ok(())
    }

    async fn execute(&mut self, client: &mut Framed, name: &str, rows_max: u32) -> Result<(), Failure> {
        if self.statements.portal(name).is_err()
            && let Some(shard) = self.cursors.get(name).copied()
        {
            self.answer_describe(client).await?;
            self.attach(client, shard).await?;
            let link = self.held(shard)?;
            client_message::encode_execute(link.lease.output(), name, rows_max);
            link.expects.push_back(Expect::Execute { forward: true });
            link.unsynced = true;
            return Ok(());
        }
        let portal = self.statements.portal(name)?;
        if let Some(shard) = portal.shard {
            self.answer_describe(client).await?;
            self.send_signals(client, &portal.statement.parsed, Some(&portal.bind)).await?;
            self.attach(client, shard).await?;
            let link = self.held(shard)?;
            client_message::encode_execute(link.lease.output(), name, rows_max);
            link.expects.push_back(Expect::Execute { forward: true });
            link.unsynced = true;
            link.wrote |= portal.writes;
            self.schema_changed |= portal.changes_schema;
            self.note_cursor(shard, &portal.statement.parsed);
            self.note_pins(shard, &portal.statement.parsed);
            return Ok(());
        }
        let describe = self.describe_waiting.as_deref() == Some(name);
        if describe {
            self.describe_waiting = None;
        } else {
            self.answer_describe(client).await?;
        }
        self.settle(client).await?;
        let parsed = Arc::clone(&portal.statement.parsed);
        if describe && is_ours(&parsed) && !answers_rows(&parsed) {
            server_message::write_empty(client.output(), tag::NO_DATA);
        }
        if self.suspended.contains_key(name) {
            self.resume(client, name, rows_max);
            return Ok(());
        }
        let mode = Mode::Extended { bind: &portal.bind, types: &portal.statement.parameter_types, describe };
        let is_alone = !self.is_at_work() && (!may_write(&parsed) || is_sync_next(client));
        if !is_alone && !self.transaction.is_open() && (!is_ours(&parsed) || is_execute(&parsed)) {
            // Earlier statements of this pipeline are one transaction with this one. What its beginning answers
            // is read before the statement's own answers.
            self.open_block().await?;
            self.settle(client).await?;
        }
        self.columns_shown = None;
        if rows_max > 0 && (!is_ours(&parsed) || is_execute(&parsed)) {
            self.run_limited(client, name, &parsed, mode, rows_max).await?;
            if describe {
                self.note_shown(&portal.statement);
            }
            return Ok(());
        }
        let done = self.run(client, &parsed, mode).await?;
        if describe {
            self.note_shown(&portal.statement);
        }
        done.write(client);
        Ok(())
    }

    /// Runs a statement whose client wants so many rows at a time: the merged rows are kept, within the
    /// merge's budget, and handed out by and by.
    async fn run_limited(
        &mut self,
        client: &mut Framed,
        name: &str,
        parsed: &Parsed,
        mode: Mode<'_>,
        rows_max: u32,
    ) -> Result<(), Failure> {
        client.flush().await?;
        client.hold_output(self.cluster.settings.merge.bytes_max);
        let outcome = self.run(client, parsed, mode).await;
        let mut held = client.release_output();
        let done = outcome.map_err(|failure| match failure {
            Failure::Client(NetError::HeldTooMuch) => ClientError::new(
                ErrorId::MergeBudgetExceeded,
                "the rows of a portal with a row limit are more than the proxy keeps",
            )
            .with_hint("Fetch all rows at once, or use LIMIT in the statement.")
            .into(),
            other => other,
        })?;
        let mut rows = VecDeque::new();
        while let Ok(Some(frame)) = take_frame(&mut held, MESSAGE_BYTES_MAX) {
            if frame.tag == tag::DATA_ROW {
                rows.push_back(frame);
            } else {
                client.output().extend_from_slice(&frame.bytes);
            }
        }
        self.suspended.insert(name.to_owned(), Suspended { rows, done });
        self.resume(client, name, rows_max);
        Ok(())
    }

    /// The next rows of a suspended portal.
    fn resume(&mut self, client: &mut Framed, name: &str, rows_max: u32) {
        let Some(suspended) = self.suspended.get_mut(name) else { return };
        let wanted = if rows_max == 0 { usize::MAX } else { rows_max as usize };
        let mut sent = 0;
        while sent < wanted
            && let Some(row) = suspended.rows.pop_front()
        {
            client.output().extend_from_slice(&row.bytes);
            sent += 1;
        }
        if sent == wanted && sent > 0 {
            // As PostgreSQL: that there are no more rows is found out by the next Execute.
            client.output().extend_from_slice(&empty(tag::PORTAL_SUSPENDED));
            return;
        }
        if let Some(suspended) = self.suspended.remove(name) {
            suspended.done.with_rows(sent).write(client);
        }
    }

    async fn close_target(&mut self, client: &mut Framed, target: &Target) -> Result<(), Failure> {
        self.validate_waiting(client).await?;
        match target {
            Target::Statement(name) => {
                self.statements.remove(name);
            }
            Target::Portal(name) => {
                let shard = self.portal_shard(name).ok().flatten();
                if let Some(shard) = shard.filter(|shard| self.links.contains_key(shard)) {
                    self.attach(client, shard).await?;
                    let link = self.held(shard)?;
                    client_message::encode_close(link.lease.output(), target);
                    link.expects.push_back(Expect::CloseQuietly);
                    link.unsynced = true;
                }
                self.statements.remove_portal(name);
                self.cursors.remove(name);
                self.suspended.remove(name);
            }
        }
        self.say(client, empty(tag::CLOSE_COMPLETE));
        Ok(())
    }

    /// Opens a transaction block for work that must be atomic over several shards; connections that
    /// are in the middle of a pipeline turn what they have done so far into its beginning.
    pub(super) async fn open_block(&mut self) -> Result<(), Failure> {
        if !self.transaction.is_open() {
            self.transaction.begin_implicit();
            self.join_block();
        }
        Ok(())
    }

    /// Lets every connection that is held begin the block (BEGIN within an implicit transaction takes
    /// in what came before: `BeginTransactionBlock` in PostgreSQL's xact.c).
    pub(super) fn join_block(&mut self) {
        let opening = self.transaction.opening_sql(&self.settings);
        for link in self.links.values_mut().filter(|link| !link.begun) {
            link.begun = true;
            if link.unsynced {
                let output = link.lease.output();
                client_message::encode_parse(output, "", &opening, &[]);
                client_message::encode_bind(output, "", "", &Bind::default());
                client_message::encode_execute(output, "", 0);
                link.expects.extend([
                    Expect::ParseQuietly,
                    Expect::Bind { forward: false },
                    Expect::Execute { forward: false },
                ]);
            } else {
                link.quiet_query(&opening);
            }
        }
    }

    async fn sync(&mut self, client: &mut Framed) -> Result<(), NetError> {
        if !self.skip_to_sync
            && let Err(failure) = self.end_pipeline(client).await
        {
            Box::pin(self.go_on(client, failure, true)).await?;
        }
        (self.skip_to_sync, self.bound, self.is_answer_lost) = (false, false, false);
        self.current = None;
        self.order.clear();
        if !self.transaction.is_open() {
            if self.schema_changed {
                self.schema_changed = false;
                self.reload_schema().await;
            }
            self.suspended.clear();
        }
        self.end_message().await;
        self.ready(client).await
    }

    pub(super) async fn end_pipeline(&mut self, client: &mut Framed) -> Result<(), Failure> {
        self.answer_describe(client).await?;
        self.validate_waiting(client).await?;
        self.sync_links(client).await?;
        if self.transaction.is_open() && self.transaction.is_implicit() {
            self.commit().await?;
        }
        Ok(())
    }
}

/// A portal of the proxy's own, for Describe only.
const DESCRIBED_PORTAL: &str = "ostrakon_describe";

/// The name of a statement on server connections.
pub(super) fn server_name(id: u64) -> String {
    format!("os_{id}")
}

/// A statement that changes rows: with what follows it up to Sync it is one transaction.
fn may_write(parsed: &Parsed) -> bool {
    matches!(*parsed.statement, Ok(Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_)))
}

/// The client's next message is here, and is Sync: nothing else belongs to the pipeline.
fn is_sync_next(client: &mut Framed) -> bool {
    client.buffers().0.first() == Some(&b'S')
}

/// Statements that the proxy answers without a plan.
pub(super) fn is_ours(parsed: &Parsed) -> bool {
    matches!(
        *parsed.statement,
        Ok(Statement::Begin
            | Statement::Commit { .. }
            | Statement::Rollback { .. }
            | Statement::Savepoint(_)
            | Statement::Release(_)
            | Statement::RollbackTo(_)
            | Statement::SetTransaction
            | Statement::SetConstraints
            | Statement::SetSessionCharacteristics
            | Statement::Set { .. }
            | Statement::Reset(_)
            | Statement::Discard(_)
            | Statement::Deallocate(_)
            | Statement::Prepare { .. }
            | Statement::Notification
            | Statement::TwoPhase
            | Statement::Explain { ostrakon: true, .. }
            | Statement::Empty)
    ) || is_execute(parsed)
}

/// EXECUTE, and EXPLAIN of it, run a statement of the session's, which is not the proxy's own.
fn is_execute(parsed: &Parsed) -> bool {
    match &*parsed.statement {
        Ok(Statement::Execute { .. }) => true,
        Ok(Statement::Explain { ostrakon, statement, .. }) => {
            !ostrakon && matches!(**statement, Statement::Execute { .. })
        }
        _ => false,
    }
}

/// Statements of the proxy's own whose columns are told by their execution.
fn answers_rows(parsed: &Parsed) -> bool {
    matches!(*parsed.statement, Ok(Statement::Explain { .. } | Statement::Execute { .. }))
}

/// The session must remember what such a statement sets.
fn names_set_config(parsed: &Parsed) -> bool {
    let mut found = false;
    if let Ok(statement) = &*parsed.statement {
        walk::for_each_call(statement, |call| found |= call.name.name == "set_config");
    }
    found
}

fn empty(message: u8) -> Bytes {
    let mut buffer = BytesMut::new();
    server_message::write_empty(&mut buffer, message);
    buffer.freeze()
}
