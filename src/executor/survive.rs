//! Connections that are lost under a session of several shards, where the shards are led: it goes on.
//!
//! What cannot have been committed is told as 40001, or is run again where nothing of its answer was told; what may have
//! been is asked of the next primary ([`super::outcome`]), or, of several shards, of the row that decides.
//!
//! Must not know: why a connection was lost, who leads now.

use super::link::{Link, failure_of};
use super::outcome::{Lost, Outcome, completion_unknown, outcome_unknown};
use super::relay::{Done, Expect, FirstError, forward, is_good_bye};
use super::statement::Mode;
use super::{Failure, Session, shard_name};
use crate::backend::Ensured;
use crate::base::ShardId;
use crate::error::ErrorId;
use crate::net::{Framed, NetError};
use crate::plan::{Class, Plan};
use crate::session::direct::{Xid, lost_transaction};
use crate::session::{Columns, Parsed, Status};
use crate::sql::ast::Statement;
use crate::wire::client_message::{self, Bind, ClientMessage, Target};
use crate::wire::frame::Frame;
use crate::wire::server_message::{read_data_row, read_error, tag};

/// So often one message is run again.
pub(super) const REPEATS_MAX: u32 = 2;

/// How much is kept of a pipeline, to be run again.
const KEPT_MESSAGES_MAX: usize = 256;
const KEPT_BYTES_MAX: usize = 256 << 10;

/// The statement that asks for a transaction's id, on servers; as sessions of one shard name it.
const XID_STATEMENT: u64 = u64::MAX;
const XID_SQL: &str = "SELECT pg_catalog.pg_current_xact_id_if_assigned()";
const XID_PORTAL: &str = "os_x";

/// A connection that was lost under the present message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    pub(super) lost: Lost,
    /// Its shard is led, or it was of a replica.
    pub(super) is_known: bool,
    /// It wrote outside of a transaction block.
    pub(super) wrote_alone: bool,
    /// What is known of the id of what it wrote.
    pub(super) xid: Xid,
    /// The Sync that would have committed it was not sent.
    is_unsynced: bool,
}

/// How a message goes on that lost a connection.
pub(super) enum Survived {
    /// It is run again.
    Again,
    /// It is done, though nobody has said so.
    Done,
    /// It has failed.
    Failed(Failure),
}

/// The messages of a pipeline, as long as they are few.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) messages: Vec<ClientMessage>,
    bytes: usize,
    is_cut: bool,
}

impl Kept {
    pub(super) fn clear(&mut self) {
        self.messages.clear();
        (self.bytes, self.is_cut) = (0, false);
    }

    fn keep(&mut self, message: &ClientMessage) {
        self.bytes += match message {
            ClientMessage::Parse(parse) => parse.sql.len(),
            ClientMessage::Bind(bind) => bind.parameters.iter().flatten().map(bytes::Bytes::len).sum(),
            _ => 0,
        };
        self.is_cut |= self.bytes > KEPT_BYTES_MAX || self.messages.len() >= KEPT_MESSAGES_MAX;
        if self.is_cut {
            self.messages.clear();
        } else {
            self.messages.push(message.clone());
        }
    }
}

/// Where a message began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    /// Bytes that were written for the client before.
    output_bytes: usize,
    /// How often anything was sent to it before.
    sends: u64,
}

impl Mark {
    pub(super) fn of(client: &mut Framed) -> Self {
        Self { output_bytes: client.output().len(), sends: client.sends() }
    }
}

impl Link {
    /// What is lost with it. To be asked before it is dropped.
    pub(super) fn loss(&self, shard: ShardId) -> Loss {
        let has_all = self.is_drained && self.lease.has_all();
        Loss {
            lost: Lost { shard, since: self.since, has_all },
            is_known: self.since.is_some() || self.is_on_replica,
            wrote_alone: self.wrote && !self.begun,
            xid: self.xid,
            is_unsynced: self.unsynced,
        }
    }

    /// Takes what has come of a connection that is lost.
    pub(super) async fn drain(&mut self) {
        self.lease.drain().await;
        self.is_drained = self.lease.buffered_input() == 0;
    }

    /// The statement that asks for an id is there.
    fn ensure_xid(&mut self) {
        let Ensured::NeedsParse { evicted } = self.lease.prepared.ensure(XID_STATEMENT) else { return };
        let doubtful = self.lease.prepared.take_doubt(XID_STATEMENT).then_some(XID_STATEMENT);
        for closed in [evicted, doubtful].into_iter().flatten() {
            let name = super::pipeline::server_name(closed);
            client_message::encode_close(self.lease.output(), &Target::Statement(name));
            self.expects.push_back(Expect::CloseQuietly);
        }
        client_message::encode_parse(self.lease.output(), &super::pipeline::server_name(XID_STATEMENT), XID_SQL, &[]);
        self.expects.push_back(Expect::Parse { forward: false, id: XID_STATEMENT });
    }

    /// Asks for the id of what was written outside of a block, before the Sync that commits it. The answer comes before
    /// the commit is begun.
    pub(super) fn ask_xid(&mut self) {
        self.ensure_xid();
        self.write_question();
        self.expects.extend([Expect::Bind { forward: false }, Expect::Xid]);
    }

    fn write_question(&mut self) {
        let statement = super::pipeline::server_name(XID_STATEMENT);
        let output = self.lease.output();
        client_message::encode_bind(output, XID_PORTAL, &statement, &Bind::default());
        client_message::encode_execute(output, XID_PORTAL, 0);
        client_message::encode_flush(output);
        self.xid = Xid::Asked;
    }

    /// The row that tells the id.
    pub(super) fn take_xid(&mut self, row: &Frame) {
        let value = read_data_row(&row.body()).ok().and_then(|values| values.into_iter().next());
        self.xid = match value {
            Some(None) => Xid::Known(None),
            Some(Some(text)) => match std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()) {
                Some(xid) => Xid::Known(Some(xid)),
                None => Xid::Asked,
            },
            None => Xid::Asked,
        };
    }
}

impl Session {
    /// Keeps a message that may have to be run again. `is_first`: of its pipeline.
    pub(super) fn keep(&mut self, client: &mut Framed, message: &ClientMessage, is_first: bool) {
        if is_first {
            self.kept.clear();
            self.losses.clear();
            (self.repeats, self.ran_alone, self.is_undone, self.done_before) = (0, 0, false, None);
            self.mark = None;
        }
        let primaries = &self.cluster.settings.primaries;
        if !primaries.is_any_led() && self.reading.is_none() || matches!(message, ClientMessage::Sync) {
            return;
        }
        if is_first {
            self.mark = Some(Mark::of(client));
        }
        if self.transaction.status() == Status::Idle {
            self.kept.keep(message);
        } else {
            self.kept.is_cut = true;
        }
    }

    /// Goes on behind a failure of a message, or of a Sync; what is told of it is told.
    ///
    /// # Errors
    /// The client is gone, or the session has ended.
    pub(super) async fn go_on(
        &mut self,
        client: &mut Framed,
        mut failure: Failure,
        is_sync: bool,
    ) -> Result<(), NetError> {
        loop {
            match self.survive(client, failure).await {
                Survived::Failed(failure) => return self.pipeline_failed(client, failure).await,
                Survived::Done => {
                    self.done_before.take().into_iter().for_each(|done| done.write(client));
                    return Ok(());
                }
                Survived::Again => {
                    self.begin_again(client).await;
                    match self.run_again(client, is_sync).await {
                        Ok(()) => return Ok(()),
                        Err(again) => failure = again,
                    }
                }
            }
        }
    }

    /// A statement on one shard is a transaction of its own that writes, of a shard that is led.
    pub(super) fn writes_alone(&self, parsed: &Parsed, plan: &Plan, shard: ShardId) -> bool {
        let may_write = matches!(
            &*parsed.statement,
            Ok(Statement::Insert(_)
                | Statement::Update(_)
                | Statement::Delete(_)
                | Statement::Merge(_)
                | Statement::Query(_))
        );
        plan.class > Class::ReadLock
            && may_write
            && !self.transaction.is_open()
            && !self.is_at_work()
            && self.cluster.settings.primaries.is_led(shard)
    }

    /// Runs a statement that writes outside of a block, and asks for its transaction id in the same write.
    ///
    /// # Errors
    /// As [`Session::exchange`].
    pub(super) async fn exchange_asked(
        &mut self,
        client: &mut Framed,
        shard: ShardId,
        sql: &str,
        mode: Mode<'_>,
        header: bool,
    ) -> Result<Done, Failure> {
        self.link(shard).await?;
        let name = shard_name(&self.topology, shard);
        let link = self.held(shard)?;
        if link.since.is_none() {
            let show = super::exchange::Show { header, rows: true, notices: true };
            return match mode {
                Mode::Simple => self.forward_query(client, shard, sql).await,
                Mode::Extended { .. } => self.exchange(client, shard, sql, mode, show).await,
            };
        }
        let mut answer = Asked { done: Done { complete: None }, columns: None, header, mode };
        let slot = std::sync::Arc::clone(&self.cancel);
        let link = self.held(shard)?;
        let outcome = match settle_first(link, &name).await {
            Ok(()) => {
                write_asked(link, sql, mode);
                relay_asked(link, client, &name, &mut answer, &|| slot.remove(shard)).await
            }
            // The statement was not sent.
            Err(failure) => Err(super::link::nothing_ran(failure, &name)),
        };
        if outcome.is_err() && link.lease.is_poisoned() {
            link.drain().await;
        }
        self.columns_shown = answer.columns.map(|columns| (columns, shard)).or(self.columns_shown);
        if let Err(failure) = self.after_exchange(shard, outcome) {
            // What it ended with, should it turn out to be committed.
            self.done_before = Some(answer.done);
            return Err(failure);
        }
        self.open_to_cancel();
        self.ran_alone += 1;
        Ok(answer.done)
    }

    /// What is said of a failure that comes of lost connections.
    pub(super) async fn survive(&mut self, client: &mut Framed, failure: Failure) -> Survived {
        let losses = std::mem::take(&mut self.losses);
        let is_undone = std::mem::take(&mut self.is_undone);
        let is_untold = self.mark.is_some_and(|mark| mark.sends == client.sends());
        let may_read_again = is_untold && self.ended.is_none() && self.repeats < REPEATS_MAX && !self.kept.is_cut;
        // What was done before it in the same message would be done twice.
        let may_repeat = may_read_again && self.ran_alone == 0;
        if is_undone {
            // The commit of the proxy's own has said that nothing was committed.
            return if may_repeat { Survived::Again } else { Survived::Failed(failure) };
        }
        let is_known = !losses.is_empty() && losses.iter().all(|loss| loss.is_known);
        if !is_known || !is_of_loss(&failure) || self.ended.is_some() {
            return Survived::Failed(failure);
        }
        if is_order(&failure) && !self.have_moved(&losses).await {
            // Somebody has ended this session's backend, who meant it.
            return Survived::Failed(failure);
        }
        if self.transaction.is_open() {
            // Nothing of a block is committed before its COMMIT.
            let may_repeat = may_repeat && self.transaction.is_implicit();
            return if may_repeat { Survived::Again } else { Survived::Failed(lost_transaction().into()) };
        }
        let nothing_ran = losses.len() == 1 && ran_nothing(&failure);
        if let Some(loss) = losses.iter().find(|loss| loss.wrote_alone && !nothing_ran) {
            if loss.is_unsynced {
                return if may_repeat { Survived::Again } else { Survived::Failed(lost_transaction().into()) };
            }
            return match self.cluster.outcome(&self.user, &|_| {}, loss.lost, loss.xid).await {
                Outcome::Committed => Survived::Done,
                Outcome::NeverCommitted if may_repeat => Survived::Again,
                Outcome::NeverCommitted => Survived::Failed(lost_transaction().into()),
                Outcome::Unknown | Outcome::Open => {
                    let name = shard_name(&self.topology, loss.lost.shard);
                    Survived::Failed(outcome_unknown(&name).into())
                }
            };
        }
        let only_reads = self.message_only_reads();
        if nothing_ran || only_reads {
            let is_again = may_repeat || (only_reads && may_read_again);
            return if is_again { Survived::Again } else { Survived::Failed(lost_transaction().into()) };
        }
        let name = losses.first().map(|loss| shard_name(&self.topology, loss.lost.shard)).unwrap_or_default();
        Survived::Failed(completion_unknown(&name).into())
    }

    /// Everything of the present message is proved to do nothing but read.
    fn message_only_reads(&self) -> bool {
        let texts = self.kept.messages.iter().filter_map(|message| match message {
            ClientMessage::Query(text) => Some(Some(text.clone())),
            ClientMessage::Parse(parse) => Some(Some(parse.sql.clone())),
            ClientMessage::Bind(bind) => {
                Some(self.statements.get(&bind.statement).ok().map(|statement| statement.parsed.text.clone()))
            }
            _ => None,
        });
        !self.kept.is_cut && { texts }.all(|text| text.is_some_and(|text| self.cluster.only_reads(&text)))
    }

    /// The shards of lost connections are served otherwise now; replicas are nobody's order.
    async fn have_moved(&self, losses: &[Loss]) -> bool {
        for loss in losses {
            if let Some(since) = loss.lost.since
                && !self.cluster.settings.primaries.moved(loss.lost.shard, since).await
            {
                return false;
            }
        }
        true
    }

    /// Goes back to where the message began, so that it can be run again: at the primaries.
    pub(super) async fn begin_again(&mut self, client: &mut Framed) {
        self.repeats += 1;
        let bytes = self.mark.map_or(0, |mark| mark.output_bytes);
        client.output().truncate(bytes);
        // What is in the middle of a pipeline is closed: a Sync would commit it.
        let unsynced = self.links.iter().filter(|(_, link)| link.unsynced || !link.expects.is_empty());
        for shard in unsynced.map(|(shard, _)| *shard).collect::<Vec<_>>() {
            self.drop_link(shard);
        }
        self.fail_transaction().await;
        for message in &self.kept.messages {
            if let ClientMessage::Parse(parse) = message {
                self.statements.remove(&parse.statement);
            }
        }
        (self.skip_to_sync, self.bound, self.is_answer_lost) = (false, false, false);
        (self.current, self.parse_waiting, self.describe_waiting) = (None, None, None);
        self.order.clear();
        self.suspended.clear();
        self.statements.end_portals();
        (self.reading, self.read_only) = (None, None);
        self.losses.clear();
        self.let_go();
        tracing::debug!("a message is run again: its shard has another primary");
    }

    /// Runs the kept messages of a pipeline again; with its Sync, if that has come.
    async fn run_again(&mut self, client: &mut Framed, is_sync: bool) -> Result<(), Failure> {
        for message in self.kept.messages.clone() {
            self.extended_message(client, message).await?;
        }
        if is_sync { self.end_pipeline(client).await } else { Ok(()) }
    }

    /// Nothing that is held may be cancelled from here on: a cancel request would have a commit acknowledged before standbys
    /// have it.
    pub(super) fn close_to_cancel(&mut self) {
        if self.cluster.keeps_commits() {
            self.cancel.clear();
        }
    }

    /// What is still held may be cancelled again.
    pub(super) fn open_to_cancel(&mut self) {
        if !self.cluster.keeps_commits() {
            return;
        }
        for (shard, link) in &self.links {
            match link.is_on_replica {
                true => {
                    self.cancel.remove(*shard);
                    self.cancel.add_on_replica(*shard, link.lease.cancel_handle());
                }
                false => self.cancel.add(*shard, link.lease.cancel_handle()),
            }
        }
    }

    /// COMMIT on one shard that has written, which is led: its id is asked for in the same write.
    ///
    /// # Errors
    /// Nothing is committed (40001), or nobody can tell (08007), or PostgreSQL's own.
    pub(super) async fn commit_asked(&mut self, shard: ShardId) -> Result<(), Failure> {
        let name = shard_name(&self.topology, shard);
        let link = self.held(shard)?;
        client_message::encode_query(link.lease.output(), XID_SQL);
        link.lease.expect_ready();
        client_message::encode_query(link.lease.output(), "COMMIT");
        link.lease.expect_ready();
        link.xid = Xid::Asked;
        let outcome = read_commit(link, &name).await;
        if outcome.is_err() && link.lease.is_poisoned() {
            link.drain().await;
        }
        let failure = match outcome {
            Ok(true) => return Ok(()),
            Ok(false) => return Err(super::transaction::was_rolled_back(&name)),
            Err(failure) => failure,
        };
        if !is_of_loss(&failure) {
            return Err(failure);
        }
        let loss = link.loss(shard);
        self.drop_link(shard);
        if ran_nothing(&failure) {
            return Err(lost_transaction().into());
        }
        match self.cluster.outcome(&self.user, &|_| {}, loss.lost, loss.xid).await {
            Outcome::Committed => {
                self.losses.clear();
                Ok(())
            }
            Outcome::NeverCommitted => Err(lost_transaction().into()),
            Outcome::Unknown | Outcome::Open => Err(outcome_unknown(&name).into()),
        }
    }
}

/// What comes of a lost connection: errors of the proxy's own, and the good-bye of a server that stops or has crashed.
pub(super) fn is_of_loss(failure: &Failure) -> bool {
    match failure {
        Failure::Ours(error) => {
            matches!(error.id, ErrorId::ShardUnreachable | ErrorId::StatementCompletionUnknown)
        }
        Failure::Postgres(frame) => {
            is_good_bye(frame) && (has_code(frame, &["57P01", "57P02", "57P03", "40001"]) || is_panic(frame))
        }
        Failure::Client(_) => false,
    }
}

/// All of the server ends, whatever the reason: a full disk has a code of its own.
fn is_panic(frame: &Frame) -> bool {
    read_error(&frame.body()).is_ok_and(|said| said.severity == "PANIC")
}

/// The server has seen nothing of what was sent.
fn ran_nothing(failure: &Failure) -> bool {
    matches!(failure, Failure::Ours(error) if error.id == ErrorId::ShardUnreachable)
}

/// A good-bye that may be of somebody who wants this session to end.
fn is_order(failure: &Failure) -> bool {
    matches!(failure, Failure::Postgres(frame) if has_code(frame, &["57P01"]))
}

fn has_code(frame: &Frame, codes: &[&str]) -> bool {
    read_error(&frame.body()).is_ok_and(|said| codes.contains(&said.code.as_str()))
}

/// What was sent before is answered first.
async fn settle_first(link: &mut Link, name: &str) -> Result<(), Failure> {
    link.lease.flush().await.map_err(|error| failure_of(error, name))?;
    super::link::read_quiet(link, name).await
}

fn write_asked(link: &mut Link, sql: &str, mode: Mode<'_>) {
    // It has its place before the statement: what that fails with must not make it doubtful.
    link.ensure_xid();
    link.expects.clear();
    let sql = link.text(sql).into_owned();
    let (bind, types, describes) = match mode {
        Mode::Simple => (Bind::default(), &[][..], true),
        Mode::Extended { bind, types, describe } => {
            (Bind { portal: String::new(), statement: String::new(), ..bind.clone() }, types, describe)
        }
    };
    let output = link.lease.output();
    client_message::encode_parse(output, "", &sql, types);
    client_message::encode_bind(output, "", "", &bind);
    if describes {
        client_message::encode_describe(output, &Target::Portal(String::new()));
    }
    client_message::encode_execute(output, "", 0);
    link.wrote = true;
    link.write_question();
    client_message::encode_sync(link.lease.output());
    link.lease.expect_ready();
    link.unsynced = false;
}

/// The answer to a statement whose id is asked for.
struct Asked<'a> {
    mode: Mode<'a>,
    /// The client is told of columns.
    header: bool,
    columns: Option<Columns>,
    /// The command's end, which is held back.
    done: Done,
}

/// Relays the answer; from where the id is known on it is committed, which nothing may cancel.
async fn relay_asked(
    link: &mut Link,
    client: &mut Framed,
    name: &str,
    answer: &mut Asked<'_>,
    committing: &(dyn Fn() + Sync),
) -> Result<(), Failure> {
    let says_no_data = answer.header && matches!(answer.mode, Mode::Extended { .. });
    link.lease.flush().await.map_err(|error| failure_of(error, name))?;
    let mut error = FirstError::default();
    loop {
        let frame = link.lease.next_frame().await.map_err(|error| failure_of(error, name))?;
        match frame.tag {
            tag::READY_FOR_QUERY => break,
            tag::ERROR_RESPONSE => error.note(frame)?,
            // The question's answer stands behind the statement's.
            tag::DATA_ROW if answer.done.complete.is_some() => {
                link.take_xid(&frame);
                committing();
            }
            tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE => {
                answer.done.complete.get_or_insert(frame);
            }
            tag::NO_DATA if !says_no_data => {}
            tag::ROW_DESCRIPTION | tag::NO_DATA if answer.header => {
                answer.columns = Some(Columns::read(frame.tag, &frame.body()));
                forward(client, &frame).await?;
            }
            tag::DATA_ROW | tag::NOTICE_RESPONSE | tag::PARAMETER_STATUS => {
                forward(client, &frame).await?;
            }
            _ => {}
        }
    }
    link.xid = Xid::NotAsked;
    error.into_result(())
}

/// The answers to the question for an id, and to the COMMIT behind it; false: it was rolled back.
async fn read_commit(link: &mut Link, name: &str) -> Result<bool, Failure> {
    link.lease.flush().await.map_err(|error| failure_of(error, name))?;
    super::link::read_quiet(link, name).await?;
    let mut error = FirstError::default();
    let (mut is_rolled_back, mut ready) = (false, 0);
    while ready < 2 {
        let frame = link.lease.next_frame().await.map_err(|error| failure_of(error, name))?;
        match frame.tag {
            tag::READY_FOR_QUERY => ready += 1,
            tag::ERROR_RESPONSE => error.note(frame)?,
            tag::DATA_ROW => link.take_xid(&frame),
            tag::COMMAND_COMPLETE => {
                is_rolled_back = super::relay::command_tag(&frame).is_some_and(|tag| tag == "ROLLBACK");
            }
            _ => {}
        }
    }
    link.xid = Xid::NotAsked;
    error.into_result(!is_rolled_back)
}
