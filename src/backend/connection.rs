//! One connection to a PostgreSQL server: frames out, frames in, and what is known of its state.
//!
//! Must not know: who uses it, what the statements mean.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::futures::OwnedNotified;

use crate::auth::ServerSecret;
use crate::base::NodeId;
use crate::net::framed::Idle;
use crate::net::tls::Connector;
use crate::net::{Framed, NetError, deadline};
use crate::session::Parameters;
use crate::session::direct::ServerSide;
use crate::wire::client_message::{encode_query, encode_terminate};
use crate::wire::frame::Frame;
use crate::wire::server_message::{read_data_row, read_error, tag};

use super::authenticate::{read_parameter_status, start_up};
use super::cancel::CancelPoint;
use super::open::open;
use super::{BackendError, CancelHandle, CancelKey, LostWhile, PreparedSet};

/// How long what stands in the socket of a lost connection is waited for, and how much of it is read.
const DRAIN_MAX: Duration = Duration::from_millis(10);
const DRAIN_BYTES_MAX: usize = 1 << 20;

/// Where to connect, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectTarget {
    /// The server.
    pub node: NodeId,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// What opens the server, if it asks who the proxy is.
    pub secret: ServerSecret,
    /// More startup parameters, `options` among them; empty in transaction mode, where the settings of
    /// a session are applied to the connection it gets.
    pub parameters: Vec<(String, String)>,
    /// Limit for connecting and authenticating together.
    ///
    /// # Units
    /// Milliseconds.
    pub connect_timeout_ms: u64,
    /// Whether and how TLS is used.
    pub tls: Arc<Connector>,
}

impl std::fmt::Debug for ConnectTarget {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ConnectTarget")
            .field("node", &self.node)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// An authenticated connection.
///
/// # Invariants
/// Every Query, Sync or FunctionCall that is written is announced with [`Self::expect_ready`], so that
/// the connection knows when all answers have been read.
#[derive(Debug)]
pub struct Connection {
    /// Prepared statements that the server holds for this connection.
    pub prepared: PreparedSet,
    /// Key of the session settings that are in force here; 0: the server's defaults.
    pub settings_key: u64,
    /// The session settings that are in force here beside the server's defaults.
    pub settings: Arc<BTreeMap<String, String>>,
    /// A session has left things here that the next one must not see: the pool wipes them before it
    /// gives the connection to anybody else.
    pub needs_reset: bool,
    /// Version of the schema that this connection's statements were planned with.
    pub schema_version: u64,
    /// Id of the unnamed statement; 0: none that is known.
    pub unnamed: u64,
    /// Process id of the session that used it last.
    pub last_session: u32,
    /// NotificationResponses as they came, while somebody wants them.
    pub notifications: Option<Vec<Frame>>,
    framed: Framed,
    target: Arc<ConnectTarget>,
    cancel: Arc<CancelPoint>,
    parameters: Parameters,
    status: u8,
    pending_ready: usize,
    /// Something was sent that no ReadyForQuery has answered.
    is_running: bool,
    is_poisoned: bool,
    /// The server has closed its side in order: whatever it sent before has come.
    has_ended: bool,
    /// It was reset: what was on its way may be lost.
    was_reset: bool,
    /// Somebody knows that the server is of no more use, though it has not said so.
    cut: Option<Pin<Box<OwnedNotified>>>,
    /// That is over: nobody waits for the server any more.
    is_cut: bool,
}

/// Answers to the statements of one simple query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimpleResult {
    /// Rows of the last statement that returned any.
    pub rows: Vec<Vec<Option<String>>>,
    /// Command tag of the last statement; empty when none completed.
    pub tag: String,
    /// The first ErrorResponse: the statements before it have run, those behind it have not.
    pub error: Option<Frame>,
    /// NoticeResponses in order.
    pub notices: Vec<Frame>,
}

/// Rows of one statement, as text.
pub type Rows = Vec<Vec<Option<String>>>;

/// Answers to several statements in one simple query.
#[derive(Debug, Default)]
pub struct SeveralResults {
    /// Rows and command tag of each statement that completed.
    pub statements: Vec<(Rows, String)>,
    /// The first ErrorResponse.
    pub error: Option<Frame>,
    /// NoticeResponses in order.
    pub notices: Vec<Frame>,
}

impl Connection {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// Not reachable, refused, not authenticated, or not done within the target's limit.
    ///
    /// # Cancel safety
    /// Safe: the half-open connection is closed.
    pub async fn connect(target: &ConnectTarget) -> Result<Self, BackendError> {
        let work = async {
            // In a box: the handshake's state is large and needed once.
            let mut framed = Box::pin(open(target)).await?;
            let greeting = start_up(&mut framed, target).await?;
            Ok((framed, greeting))
        };
        let (framed, greeting) = match deadline("a connection", target.connect_timeout_ms, work).await {
            Ok(done) => done?,
            Err(late) => {
                return Err(BackendError::Timeout {
                    node: target.node,
                    what: late.what,
                    after_ms: late.after_ms,
                    during: LostWhile::Idle,
                });
            }
        };
        let target = Arc::new(target.clone());
        Ok(Self {
            prepared: PreparedSet::default(),
            settings_key: 0,
            settings: Arc::default(),
            needs_reset: false,
            notifications: None,
            schema_version: 0,
            unnamed: 0,
            last_session: 0,
            framed,
            cancel: Arc::new(CancelPoint::new(Arc::clone(&target), greeting.key)),
            target,
            parameters: greeting.parameters.into_iter().collect(),
            status: b'I',
            pending_ready: 0,
            is_running: false,
            is_poisoned: false,
            has_ended: false,
            was_reset: false,
            cut: None,
            is_cut: false,
        })
    }

    /// Where messages are written; nothing is sent before [`Self::flush`].
    pub fn output(&mut self) -> &mut BytesMut {
        self.framed.roomy_output()
    }

    /// Sends what was written, and reads ahead meanwhile so that neither side waits for the other.
    ///
    /// # Errors
    /// The connection broke.
    ///
    /// # Cancel safety
    /// Safe: the next flush goes on behind the last byte sent.
    pub async fn flush(&mut self) -> Result<(), BackendError> {
        let before = self.framed.output().len();
        if before == 0 {
            return Ok(());
        }
        let was_running = self.is_running;
        self.is_running = true;
        match self.framed.flush_and_read().await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.is_poisoned = true;
                // When the kernel took nothing, the server cannot have seen anything.
                self.is_running = was_running || self.framed.output().len() < before;
                Err(net_error(self.target.node, self.lost_while(), &error))
            }
        }
    }

    /// The next message of the server. ReadyForQuery and ParameterStatus are noted on the way.
    ///
    /// # Errors
    /// The connection broke or was closed; also after an ErrorResponse of severity FATAL was returned.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn next_frame(&mut self) -> Result<Frame, BackendError> {
        if self.is_cut {
            // What had come is still told; whoever asks again does not wait again.
            return self.try_next_frame()?.ok_or_else(|| self.was_cut());
        }
        let read = match &mut self.cut {
            None => self.framed.read_frame().await,
            Some(cut) => tokio::select! {
                biased;
                read = self.framed.read_frame() => read,
                () = cut => return Err(self.was_cut()),
            },
        };
        match read {
            Ok(Some(frame)) => {
                self.note(&frame)?;
                Ok(frame)
            }
            Ok(None) => {
                self.is_poisoned = true;
                self.has_ended = !self.was_reset;
                Err(BackendError::Lost {
                    node: self.target.node,
                    during: self.lost_while(),
                    reason: "server closed the connection".to_owned(),
                })
            }
            Err(error) => {
                self.is_poisoned = true;
                Err(net_error(self.target.node, self.lost_while(), &error))
            }
        }
    }

    /// The next message if it has been read whole already.
    ///
    /// # Errors
    /// The server broke the protocol.
    pub fn try_next_frame(&mut self) -> Result<Option<Frame>, BackendError> {
        match self.framed.try_take_frame() {
            Ok(Some(frame)) => {
                self.note(&frame)?;
                Ok(Some(frame))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.is_poisoned = true;
                Err(net_error(self.target.node, self.lost_while(), &error))
            }
        }
    }

    /// The rows that have been read and stand next, as one run of whole DataRow messages; empty when none does.
    pub fn take_rows(&mut self) -> Bytes {
        self.framed.take_run(tag::DATA_ROW)
    }

    fn note(&mut self, frame: &Frame) -> Result<(), BackendError> {
        match frame.tag {
            tag::READY_FOR_QUERY => {
                let Some(pending) = self.pending_ready.checked_sub(1) else {
                    self.is_poisoned = true;
                    return Err(protocol_error(self.target.node, self.lost_while(), "ReadyForQuery was not asked for"));
                };
                self.pending_ready = pending;
                self.status = frame.bytes.get(5).copied().unwrap_or(b'E');
                if pending == 0 && self.framed.is_flushed() {
                    self.is_running = false;
                }
            }
            tag::NOTIFICATION_RESPONSE => {
                if let Some(notifications) = &mut self.notifications {
                    notifications.push(frame.clone());
                }
            }
            tag::PARAMETER_STATUS => {
                if let Some((name, value)) = read_parameter_status(frame) {
                    self.parameters.insert(&name, &value);
                }
            }
            // The server closes the connection behind such an error.
            tag::ERROR_RESPONSE if is_fatal(frame) => self.is_poisoned = true,
            _ => {}
        }
        Ok(())
    }

    /// The connection taken apart for who relays its messages as they are: its state, what was read and
    /// not taken.
    pub fn relay(&mut self) -> (ServerSide<'_>, &mut BytesMut) {
        let (input, output) = self.framed.buffers();
        let side = ServerSide {
            output,
            pending_ready: &mut self.pending_ready,
            status: &mut self.status,
            prepared: &mut self.prepared,
            unnamed: &mut self.unnamed,
            last_session: &mut self.last_session,
            settings_key: &mut self.settings_key,
            schema_version: &mut self.schema_version,
            parameters: &mut self.parameters,
            is_poisoned: &mut self.is_poisoned,
        };
        (side, input)
    }

    /// Sends what was written as far as the server takes it, without waiting.
    ///
    /// # Errors
    /// The connection broke.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BackendError>> {
        if self.framed.is_flushed() {
            return Poll::Ready(Ok(()));
        }
        self.is_running = true;
        self.framed.poll_flush(context).map_err(|error| self.broken(&error))
    }

    /// Reads once, without waiting.
    ///
    /// # Errors
    /// The connection broke or was closed.
    pub fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BackendError>> {
        match self.framed.poll_fill(context) {
            Poll::Ready(Ok(0)) => {
                self.has_ended = !self.was_reset;
                Poll::Ready(Err(self.broken(&NetError::Closed)))
            }
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.broken(&error))),
            Poll::Pending => {
                if !self.is_cut {
                    let Some(cut) = &mut self.cut else { return Poll::Pending };
                    std::task::ready!(cut.as_mut().poll(context));
                }
                Poll::Ready(Err(self.was_cut()))
            }
        }
    }

    /// Ends every wait for the server once this is over.
    pub(super) fn end_with(&mut self, cut: OwnedNotified) {
        self.cut = Some(Box::pin(cut));
    }

    /// Reads what has come of a connection that is lost, until nothing more does.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn drain(&mut self) {
        loop {
            let read = std::future::poll_fn(|context| self.poll_read(context));
            // The runtime may not have noticed yet what stands in the socket.
            let read = tokio::time::timeout(DRAIN_MAX, read).await;
            if !matches!(read, Ok(Ok(()))) || self.framed.buffered_input() > DRAIN_BYTES_MAX {
                return;
            }
        }
    }

    /// Whatever the server sent has come, once the connection is lost and [drained](Self::drain): it has closed its side in
    /// order, or no network lies in between that could lose anything.
    pub fn has_all(&self) -> bool {
        let is_here = self.framed.peer().map_or_else(|| self.framed.is_local(), |peer| peer.ip().is_loopback());
        self.has_ended || is_here
    }

    fn was_cut(&mut self) -> BackendError {
        self.is_poisoned = true;
        (self.cut, self.is_cut) = (None, true);
        let reason = "another server has taken its place".to_owned();
        BackendError::Lost { node: self.target.node, during: self.lost_while(), reason }
    }

    /// Bytes that have come and were not taken.
    pub fn buffered_input(&self) -> usize {
        self.framed.buffered_input()
    }

    /// Says that everything which was sent has been answered, if it has.
    pub fn note_settled(&mut self) {
        if self.pending_ready == 0 && self.framed.is_flushed() {
            self.is_running = false;
        }
    }

    fn broken(&mut self, error: &NetError) -> BackendError {
        self.is_poisoned = true;
        self.was_reset |= matches!(error, NetError::Io(_));
        net_error(self.target.node, self.lost_while(), error)
    }

    /// Who waits for it is woken by the runtime that calls this.
    pub fn is_here(&self) -> bool {
        self.framed.is_here()
    }

    /// As [`Framed::move_here`].
    pub fn move_here(&mut self) {
        self.framed.move_here();
    }

    /// Announces one ReadyForQuery: call it once for each Query, Sync or FunctionCall that is written.
    pub fn expect_ready(&mut self) {
        self.pending_ready += 1;
    }

    /// ReadyForQuery messages still to come.
    pub fn pending_ready(&self) -> usize {
        self.pending_ready
    }

    /// Transaction status of the last ReadyForQuery: `I` idle, `T` in a transaction, `E` in a failed one.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// Idle, outside of a transaction, everything sent and everything read: another session may use it.
    pub fn is_clean(&self) -> bool {
        !self.is_poisoned
            && self.status == b'I'
            && self.pending_ready == 0
            && !self.is_running
            && self.framed.is_flushed()
            && self.framed.buffered_input() == 0
    }

    /// Says that the connection must not be used again.
    pub fn poison(&mut self) {
        self.is_poisoned = true;
    }

    /// It must not be used again.
    pub fn is_poisoned(&self) -> bool {
        self.is_poisoned
    }

    /// The server.
    pub fn node(&self) -> NodeId {
        self.target.node
    }

    /// Where it is connected to.
    pub fn target(&self) -> &Arc<ConnectTarget> {
        &self.target
    }

    /// Process id of the server's backend.
    pub fn pid(&self) -> u32 {
        self.cancel.key().pid
    }

    /// What a CancelRequest needs.
    pub fn cancel_key(&self) -> CancelKey {
        self.cancel.key().clone()
    }

    /// The right to cancel what this connection does for its present user.
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle::new(&self.cancel)
    }

    /// ParameterStatus values as last reported.
    pub fn parameters(&self) -> &BTreeMap<String, String> {
        &self.parameters
    }

    /// Runs control statements over the simple protocol, also inside an open transaction.
    ///
    /// # Errors
    /// The connection broke. An error of PostgreSQL is in the result, not here.
    ///
    /// # Cancel safety
    /// Not resumable: the connection is not clean afterwards and will be closed.
    pub async fn simple(&mut self, sql: &str) -> Result<SimpleResult, BackendError> {
        let several = self.simple_several(sql).await?;
        let mut result = SimpleResult { error: several.error, notices: several.notices, ..SimpleResult::default() };
        for (rows, tag) in several.statements {
            if !rows.is_empty() {
                result.rows = rows;
            }
            result.tag = tag;
        }
        Ok(result)
    }

    /// Runs several control statements in one simple query and keeps the rows of each.
    ///
    /// # Errors
    /// As [`Self::simple`].
    ///
    /// # Cancel safety
    /// As [`Self::simple`].
    pub async fn simple_several(&mut self, sql: &str) -> Result<SeveralResults, BackendError> {
        encode_query(self.output(), sql);
        self.expect_ready();
        self.flush().await?;
        self.read_simple().await
    }

    async fn read_simple(&mut self) -> Result<SeveralResults, BackendError> {
        let mut results = SeveralResults::default();
        let mut rows = Rows::new();
        loop {
            let frame = self.next_frame().await?;
            match frame.tag {
                tag::DATA_ROW => rows.push(self.read_text_row(&frame)?),
                tag::COMMAND_COMPLETE => {
                    let body = frame.body();
                    let text = body.strip_suffix(b"\0").unwrap_or(&body);
                    let tag = String::from_utf8_lossy(text).into_owned();
                    results.statements.push((std::mem::take(&mut rows), tag));
                }
                tag::EMPTY_QUERY_RESPONSE => results.statements.push((Rows::new(), String::new())),
                tag::ERROR_RESPONSE => {
                    if results.error.is_none() {
                        results.error = Some(frame);
                    }
                }
                tag::NOTICE_RESPONSE => results.notices.push(frame),
                tag::READY_FOR_QUERY if self.pending_ready == 0 => return Ok(results),
                tag::READY_FOR_QUERY | tag::ROW_DESCRIPTION | tag::PARAMETER_STATUS | tag::NOTIFICATION_RESPONSE => {}
                other => {
                    self.is_poisoned = true;
                    let reason = format!("message {:?} in a control statement", char::from(other));
                    return Err(protocol_error(self.target.node, self.lost_while(), &reason));
                }
            }
        }
    }

    fn read_text_row(&mut self, frame: &Frame) -> Result<Vec<Option<String>>, BackendError> {
        let values = read_data_row(&frame.body()).map_err(|error| {
            self.is_poisoned = true;
            protocol_error(self.target.node, self.lost_while(), &error.to_string())
        })?;
        Ok(values.into_iter().map(|value| value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())).collect())
    }

    /// Looks whether an idle connection is still there, and notes what the server said meanwhile.
    /// `false`: it must be closed.
    pub fn is_usable(&mut self) -> bool {
        if self.is_poisoned {
            return false;
        }
        // A server that stops says good-bye first (a WARNING in immediate mode): look behind it too.
        loop {
            match self.framed.look() {
                Idle::Quiet => return self.is_clean(),
                Idle::Gone => return false,
                Idle::Spoke if !self.take_asynchronous() || self.framed.buffered_input() > 0 => return false,
                Idle::Spoke => {}
            }
        }
    }

    /// Ends the present use: earlier cancel handles do nothing any more. `false`: the connection is not
    /// clean, or a cancel request is on its way that could hit the next user.
    pub fn end_turn(&mut self) -> bool {
        self.notifications = None;
        let no_cancel_under_way = self.cancel.gate().end_turn();
        no_cancel_under_way && self.take_asynchronous() && self.is_clean()
    }

    /// Takes notices and parameter changes that came between two statements. `false` when there was
    /// something else.
    fn take_asynchronous(&mut self) -> bool {
        if self.framed.buffered_input() == 0 {
            return true;
        }
        if self.pending_ready > 0 || self.is_running {
            return false;
        }
        loop {
            match self.try_next_frame() {
                Ok(None) => return true,
                Ok(Some(frame)) => match frame.tag {
                    tag::NOTICE_RESPONSE | tag::PARAMETER_STATUS | tag::NOTIFICATION_RESPONSE => {}
                    _ => return false,
                },
                Err(_) => return false,
            }
        }
    }

    /// Wipes away what a session has left: settings, statements, cursors, locks, temporary tables.
    ///
    /// # Errors
    /// The connection broke, or the server refused; it is of no more use.
    ///
    /// # Cancel safety
    /// As [`Self::simple`].
    ///
    /// # Source
    /// <https://www.postgresql.org/docs/current/sql-discard.html>
    pub async fn reset(&mut self) -> Result<(), BackendError> {
        let result = self.simple("DISCARD ALL").await?;
        if let Some(error) = result.error {
            self.is_poisoned = true;
            return Err(BackendError::Refused { node: self.target.node, error });
        }
        self.prepared.clear();
        self.settings_key = 0;
        self.settings = Arc::default();
        self.unnamed = 0;
        self.needs_reset = false;
        Ok(())
    }

    /// Tells the server good-bye and closes.
    ///
    /// # Cancel safety
    /// Safe: the connection is closed either way.
    pub async fn close(mut self) {
        if self.framed.is_flushed() {
            encode_terminate(self.output());
            // The server notices the end of the stream as well; this only keeps its log quiet.
            let _ = deadline("a good-bye", 1_000, self.framed.flush()).await;
        }
    }

    fn lost_while(&self) -> LostWhile {
        if self.is_running { LostWhile::Running } else { LostWhile::Idle }
    }
}

fn is_fatal(frame: &Frame) -> bool {
    read_error(&frame.body()).is_ok_and(|fields| matches!(fields.severity.as_str(), "FATAL" | "PANIC"))
}

/// Translates an error of the stream.
pub(super) fn net_error(node: NodeId, during: LostWhile, error: &NetError) -> BackendError {
    match error {
        NetError::Closed | NetError::Io(_) | NetError::HeldTooMuch => {
            BackendError::Lost { node, during, reason: error.to_string() }
        }
        NetError::Wire(_) | NetError::PlaintextBeforeTls => {
            BackendError::Protocol { node, during, reason: error.to_string() }
        }
        NetError::Deadline(late) => BackendError::Timeout { node, during, what: late.what, after_ms: late.after_ms },
    }
}

/// The server sent what it may not send.
pub(super) fn protocol_error(node: NodeId, during: LostWhile, reason: &str) -> BackendError {
    BackendError::Protocol { node, during, reason: reason.to_owned() }
}
