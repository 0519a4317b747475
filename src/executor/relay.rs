//! From a connection to the client: frames forwarded as they are.

use bytes::Bytes;

use super::link::{Link, failure_of, read_quiet};
use super::session::CLIENT_FLUSH_BYTES;
use super::told::Telling;
use super::{Failure, Session, shard_name};
use crate::base::ShardId;
use crate::error::ClientError;
use crate::net::Framed;
use crate::wire::frame::Frame;
use crate::wire::server_message::{self, tag};

/// An answer that a connection still owes.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Everything up to ReadyForQuery, seen by nobody.
    Quiet,
    /// As Quiet, for the session's settings; `is_sure`: the first statement did not wait for it.
    Dressing { is_sure: bool },
    /// ParseComplete; forwarded or not.
    Parse { forward: bool, id: u64 },
    /// ParseComplete of a text of the proxy's own, seen by nobody.
    ParseQuietly,
    /// BindComplete; forwarded or not.
    Bind { forward: bool },
    /// CloseComplete, seen by nobody.
    CloseQuietly,
    /// ParameterDescription, then RowDescription or NoData.
    DescribeStatement { of: Telling },
    /// RowDescription or NoData.
    DescribePortal { of: Option<Telling> },
    /// As DescribeStatement, seen by nobody: it is compared with what the client was told.
    LookAgain { of: Telling },
    /// Rows, then CommandComplete, PortalSuspended or EmptyQueryResponse; forwarded or not.
    Execute { forward: bool },
    /// A transaction id, then CommandComplete, seen by nobody.
    Xid,
    /// ReadyForQuery after Sync, seen by nobody.
    Ready,
    /// No answer: the client's next message went to another shard.
    Handover,
    /// No answer: what the proxy says itself, in its place among the others.
    Local(Bytes),
}

/// The end of a statement: CommandComplete or EmptyQueryResponse, not yet sent to the client.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) complete: Option<Frame>,
}

impl Done {
    /// With a command tag of the proxy's own.
    pub(super) fn with_tag(command_tag: &str) -> Self {
        let mut buffer = bytes::BytesMut::new();
        server_message::write_command_complete(&mut buffer, command_tag);
        Self { complete: Some(Frame { tag: tag::COMMAND_COMPLETE, bytes: buffer.freeze() }) }
    }

    pub(super) fn write(self, client: &mut Framed) {
        if let Some(frame) = self.complete {
            client.output().extend_from_slice(&frame.bytes);
        }
    }

    /// The same command, with the number of rows of the last Execute.
    pub(super) fn with_rows(self, rows: usize) -> Self {
        match self
            .complete
            .as_ref()
            .and_then(command_tag)
            .as_deref()
            .and_then(|tag| tag.strip_prefix("SELECT ").map(str::len))
        {
            Some(_) => Self::with_tag(&format!("SELECT {rows}")),
            None => self,
        }
    }

    /// It was a MERGE, whose listed rows part ways as those of an INSERT do.
    pub(super) fn is_merge(&self) -> bool {
        self.complete.as_ref().and_then(command_tag).is_some_and(|tag| tag.starts_with("MERGE"))
    }

    /// Rows counted by the command tag.
    pub(super) fn row_count(&self) -> Option<u64> {
        self.complete.as_ref().and_then(command_tag).and_then(|tag| server_message::read_row_count(&tag))
    }
}

/// The text of a CommandComplete frame.
pub(super) fn command_tag(frame: &Frame) -> Option<String> {
    let body = frame.body();
    let text = body.strip_suffix(&[0]).unwrap_or(&body);
    String::from_utf8(text.to_vec()).ok()
}

/// The first of: the error that was seen, the error of losing the connection.
#[derive(Default)]
pub(super) struct FirstError(Option<Frame>);

impl FirstError {
    /// Remembers an error; more of the answer follows, unless the server closes the connection behind it.
    pub(super) fn note(&mut self, frame: Frame) -> Result<(), Failure> {
        if is_good_bye(&frame) {
            return Err(Failure::Postgres(self.0.take().unwrap_or(frame)));
        }
        self.0.get_or_insert(frame);
        Ok(())
    }

    pub(super) fn into_result<T>(self, value: T) -> Result<T, Failure> {
        match self.0 {
            Some(frame) => Err(Failure::Postgres(frame)),
            None => Ok(value),
        }
    }

    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

impl Session {
    /// Sends one statement by the simple protocol to one shard and relays its answer. Also does
    /// COPY in both directions when the statement is one.
    ///
    /// # Errors
    /// PostgreSQL's error, or the connection broke: then the link is gone.
    pub(super) async fn forward_query(
        &mut self,
        client: &mut Framed,
        shard: ShardId,
        sql: &str,
    ) -> Result<Done, Failure> {
        self.link(shard).await?;
        let name = shard_name(&self.topology, shard);
        let link = self.held(shard)?;
        let sql = link.text(sql);
        crate::wire::client_message::encode_query(link.lease.output(), &sql);
        link.lease.expect_ready();
        let outcome = relay_query(link, client, &name).await;
        self.ran_alone += u32::from(outcome.is_ok() && !self.transaction.is_open());
        self.after_exchange(shard, outcome)
    }

    /// Sends a FunctionCall to one shard and relays its answer.
    ///
    /// # Errors
    /// As [`Session::forward_query`].
    pub(super) async fn forward_call(
        &mut self,
        client: &mut Framed,
        shard: ShardId,
        call: &[u8],
    ) -> Result<Done, Failure> {
        self.link(shard).await?;
        let name = shard_name(&self.topology, shard);
        let link = self.held(shard)?;
        crate::wire::client_message::encode_function_call(link.lease.output(), call);
        link.lease.expect_ready();
        let outcome = relay_query(link, client, &name).await;
        self.ran_alone += u32::from(outcome.is_ok() && !self.transaction.is_open());
        self.after_exchange(shard, outcome)
    }

    /// Drops the link if its connection is of no use any more.
    pub(super) fn after_exchange<T>(&mut self, shard: ShardId, outcome: Result<T, Failure>) -> Result<T, Failure> {
        let usable = self.links.get(&shard).is_some_and(|link| !link.lease.is_poisoned());
        if !usable || matches!(outcome, Err(Failure::Client(_))) {
            self.drop_link(shard);
        }
        outcome
    }
}

/// FATAL and PANIC.
pub(super) fn is_good_bye(frame: &Frame) -> bool {
    server_message::read_error(&frame.body()).is_ok_and(|fields| matches!(fields.severity.as_str(), "FATAL" | "PANIC"))
}

/// An error of the proxy's own that ends the session.
pub(super) fn fatal(error: &ClientError) -> Failure {
    let (detail, hint) = (error.detail.as_deref(), error.hint.as_deref());
    let mut bytes = bytes::BytesMut::new();
    server_message::write_error(&mut bytes, "FATAL", error.sqlstate(), &error.message, detail, hint);
    Failure::Postgres(Frame { tag: tag::ERROR_RESPONSE, bytes: bytes.freeze() })
}

/// Relays until ReadyForQuery; the last CommandComplete is held back.
async fn relay_query(link: &mut Link, client: &mut Framed, name: &str) -> Result<Done, Failure> {
    link.lease.flush().await.map_err(|error| failure_of(error, name))?;
    let quiet = read_quiet(link, name).await;
    let mut error = FirstError::default();
    let mut done = Done { complete: None };
    loop {
        let frame = link.lease.next_frame().await.map_err(|error| failure_of(error, name))?;
        match frame.tag {
            tag::READY_FOR_QUERY => break,
            tag::ERROR_RESPONSE => error.note(frame)?,
            tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE => {
                if let Some(earlier) = done.complete.replace(frame) {
                    client.output().extend_from_slice(&earlier.bytes);
                }
            }
            tag::COPY_IN_RESPONSE => {
                client.output().extend_from_slice(&frame.bytes);
                super::copy::pass_copy_in(link, client, name).await?;
            }
            tag::NOTIFICATION_RESPONSE => {}
            _ => forward(client, &frame).await?,
        }
    }
    quiet?;
    error.into_result(done)
}

/// Appends a frame to the client's output, sending it on when there is enough.
pub(super) async fn forward(client: &mut Framed, frame: &Frame) -> Result<(), Failure> {
    client.roomy_output().extend_from_slice(&frame.bytes);
    if client.output().len() >= CLIENT_FLUSH_BYTES {
        client.flush().await?;
    }
    Ok(())
}
