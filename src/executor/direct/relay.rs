//! Bytes between the client's socket and the server's.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use super::{Direct, Level, Stop, send_away};
use crate::backend::{BackendError, Lease};
use crate::error::{ClientError, ErrorId};
use crate::executor::Failure;
use crate::executor::reads::Reading;
use crate::net::{Framed, NetError};
use crate::session::PoolMode;
use crate::session::direct::{Taken, lost_transaction};
use crate::wire::frame::Frame;

/// While so many bytes wait for one side, nothing more is read from the other.
///
/// # Units
/// Bytes; the buffers grow over it by one read, or by one message that has to be whole.
const BUFFERED_BYTES_MAX: usize = 256 << 10;

/// What comes after one turn of the session.
pub(super) enum Turn {
    /// The next one.
    Again,
    /// The cluster has more than one shard, and the session is at rest.
    MoreShards,
    /// The client has left or was sent away.
    Gone,
    /// The server has said so, because it stops.
    Stopping(Bytes),
}

/// What ends a session from outside. The futures are asked again and again in one session's life, so they wait where they
/// are instead of being made anew for every message.
pub(super) struct Ends<'a> {
    /// Somebody has ended the session.
    pub(super) terminated: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
    /// Keeps the level; never ready.
    pub(super) told: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
    /// How far sessions are told to end.
    pub(super) level: &'a Level,
}

/// What a session is told that somebody ends.
pub(super) fn ended() -> ClientError {
    ClientError::new(ErrorId::ShuttingDown, "terminating connection due to administrator command")
}

/// What came of taking the client's messages.
enum Took {
    /// All that can be taken now are.
    All,
    /// The client says good-bye.
    Goodbye,
    /// This comes before the next one.
    Rare(Rare),
}

/// What few messages need, and has to be waited for.
enum Rare {
    /// A question for the session's token.
    Token(Frame),
    /// Signals to other sessions.
    Signals,
    /// A connection for this message.
    Attach(Frame, Option<Reading>),
    /// The transaction cannot go on at its replica with this message.
    Leave(Frame),
}

/// Why the session wakes.
enum Woken {
    /// Bytes came or left.
    Moved,
    /// The client has closed its side.
    ClientGone,
    /// The server's connection is lost.
    ServerLost(BackendError),
    /// The proxy stops.
    Stopped,
    /// Somebody has ended the session.
    Terminated,
    /// Nothing happened inside a transaction for too long.
    Idle,
}

impl Direct {
    /// Deals with everything that has been read, then waits for more.
    pub(super) async fn turn(&mut self, client: &mut Framed, ends: &mut Ends<'_>) -> Result<Turn, Failure> {
        let has_more_shards = self.machine.is_at_rest() && self.cluster.topology.load().shards.len() > 1;
        if has_more_shards && self.machine.is_replaying() {
            // It would find other rows here than where it began.
            self.give_up_replay(client, lost_transaction());
        } else if has_more_shards {
            if self.database.is_some() {
                let text = "terminating connection: the cluster has more than one shard and serves one database";
                return Err(ClientError::new(ErrorId::ShuttingDown, text).into());
            }
            return Ok(Turn::MoreShards);
        }
        loop {
            match self.take_client(client)? {
                Took::All => break,
                Took::Goodbye => {
                    client.flush().await?;
                    return Ok(Turn::Gone);
                }
                // In a box: its state is large, and a session at rest has no use for it.
                Took::Rare(rare) => Box::pin(self.do_rare(client, rare, ends)).await?,
            }
        }
        if let Some(turn) = self.hand_on(client)? {
            match turn {
                Turn::Gone => client.flush().await?,
                Turn::Stopping(good_bye) => return Box::pin(self.stopping(client, good_bye, ends)).await,
                _ => {}
            }
            return Ok(turn);
        }
        match self.wait(client, ends).await? {
            Woken::Moved => Ok(Turn::Again),
            Woken::ClientGone => Ok(Turn::Gone),
            woken => Box::pin(self.end(client, woken, ends)).await,
        }
    }

    /// Hands on what the server has said, and gives the connection back if it can: what the session does next, unless
    /// it has to wait.
    fn hand_on(&mut self, client: &mut Framed) -> Result<Option<Turn>, Failure> {
        let pumped = self.pump(client.output())?;
        if let Some(replayed) = pumped.replayed
            && self.has_replayed(client, replayed)
        {
            return Ok(Some(Turn::Again));
        }
        if let Some(good_bye) = pumped.good_bye {
            return Ok(Some(Turn::Stopping(good_bye)));
        }
        if let Some(error) = pumped.refused {
            client.output().extend_from_slice(&error);
            return Ok(Some(Turn::Gone));
        }
        if pumped.is_fatal {
            // The server closes its side behind such an error, and so is the client's closed.
            return Ok(Some(Turn::Gone));
        }
        if self.mode == PoolMode::Statement && self.machine.status() != b'I' {
            let text = "transaction blocks are not allowed in statement pooling mode";
            let error = ClientError::new(ErrorId::FeatureNotSupported, text);
            return Err(error.with_hint("Use pool mode \"transaction\" for this user.").into());
        }
        let has_more = |session: &mut Self, client: &mut Framed| {
            let takes = session.machine.takes_client() && !session.is_batch_over;
            takes && !session.is_full(client) && (!session.waiting.is_empty() || has_frame(client))
        };
        if has_more(self, client) {
            if self.may_read_elsewhere() {
                self.release_if_possible();
            }
            return Ok(Some(Turn::Again));
        }
        let was_over = self.is_batch_over;
        self.release_if_possible();
        // Something of the session has stayed on the connection: it goes on there.
        self.is_batch_over &= !self.machine.is_quiet();
        Ok((was_over && has_more(self, client)).then_some(Turn::Again))
    }

    /// Goes on behind what something else than the client has done, or ends the session.
    async fn end(&mut self, client: &mut Framed, woken: Woken, ends: &mut Ends<'_>) -> Result<Turn, Failure> {
        match woken {
            Woken::Moved | Woken::ClientGone => {}
            Woken::ServerLost(error) => return self.server_lost(client, &error, ends).await,
            Woken::Stopped | Woken::Terminated => send_away(client, &ended()).await,
            Woken::Idle => {
                let text = "terminating connection due to idle-in-transaction timeout";
                send_away(client, &ClientError::new(ErrorId::IdleInTransaction, text)).await;
            }
        }
        Ok(Turn::Gone)
    }

    async fn server_lost(
        &mut self,
        client: &mut Framed,
        error: &BackendError,
        ends: &mut Ends<'_>,
    ) -> Result<Turn, Failure> {
        if let Some(held) = &mut self.held {
            held.lease.drain().await;
        }
        // What the server said last may stand in the buffer still: its own FATAL before ours.
        let pumped = self.pump(client.output())?;
        if let Some(replayed) = pumped.replayed
            && self.has_replayed(client, replayed)
        {
            return Ok(Turn::Again);
        }
        if let Some(good_bye) = pumped.good_bye {
            return self.stopping(client, good_bye, ends).await;
        }
        if pumped.is_fatal {
            client.flush().await?;
            return Ok(Turn::Gone);
        }
        match self.recover(client, ends, None).await? {
            true => Ok(Turn::Again),
            false => Err(self.lost(error)),
        }
    }

    /// Takes the messages that are here, as far as that needs no waiting.
    fn take_client(&mut self, client: &mut Framed) -> Result<Took, Failure> {
        while self.machine.takes_client() && !self.is_batch_over {
            let frame = match self.waiting.pop_front() {
                Some(frame) => frame,
                None => match next_frame(client)? {
                    Some(frame) => frame,
                    None => return Ok(Took::All),
                },
            };
            if is_token_question(&frame) && self.machine.is_quiet() {
                return Ok(Took::Rare(Rare::Token(frame)));
            }
            if let Some(rare) = self.take_message(client, frame)? {
                return Ok(rare);
            }
            if self.is_full(client) {
                break;
            }
        }
        Ok(Took::All)
    }

    /// Takes one message; what has to follow from it, if it does not go on with the next one.
    fn take_message(&mut self, client: &mut Framed, mut frame: Frame) -> Result<Option<Took>, Failure> {
        loop {
            if self.read_only.is_some() && self.leaves_replica(client, &frame) {
                return Ok(Some(Took::Rare(Rare::Leave(frame))));
            }
            self.note_primary(&frame);
            let ends_batch = self.is_on_replica && matches!(frame.tag, b'Q' | b'S');
            let taken = match &mut self.held {
                Some(held) => {
                    let (mut side, _) = held.lease.relay();
                    self.machine.client(frame, Some(&mut side), &self.host, client.output())
                }
                None => self.machine.client(frame, None, &self.host, client.output()),
            };
            match taken.map_err(|error| violation(&error))? {
                Taken::Done if self.machine.has_signals() => return Ok(Some(Took::Rare(Rare::Signals))),
                Taken::Done => self.is_batch_over |= ends_batch,
                Taken::Goodbye => return Ok(Some(Took::Goodbye)),
                Taken::Later(frame) => self.waiting.push_front(frame),
                Taken::NeedsServer(again) => {
                    // What a replica was lost under is read from the primary.
                    let reading = self.reading_of(client, &again).filter(|_| !self.repeats.is_recent());
                    if reading.is_some() || !self.attach_now(client.output()) {
                        return Ok(Some(Took::Rare(Rare::Attach(again, reading))));
                    }
                    let mut begun = self.machine.take_begun();
                    if begun.is_empty() && self.machine.takes_client() {
                        // At once: most messages come this way.
                        frame = again;
                        continue;
                    }
                    begun.push(again);
                    begun.into_iter().rev().for_each(|frame| self.waiting.push_front(frame));
                }
            }
            return Ok(None);
        }
    }

    /// Does what needs waiting.
    async fn do_rare(&mut self, client: &mut Framed, rare: Rare, ends: &mut Ends<'_>) -> Result<(), Failure> {
        match rare {
            Rare::Signals => self.send_signals().await,
            Rare::Attach(frame, reading) => self.attach_for(client, frame, reading, ends).await?,
            Rare::Leave(frame) => self.leave_replica(client, frame).await,
            Rare::Token(frame) => match self.answer_token(&frame).await {
                Ok(answer) => {
                    // An answer is neither a signal nor a good-bye.
                    if let Some(Took::Rare(Rare::Attach(frame, reading))) = self.take_message(client, answer)? {
                        self.attach_for(client, frame, reading, ends).await?;
                    }
                }
                Err(error) => self.machine.refuse(&frame, &error, client.output()),
            },
        }
        Ok(())
    }

    /// Puts a message back, behind those that were kept back before it.
    fn give_again(&mut self, frame: Frame) {
        self.waiting.push_front(frame);
        for begun in self.machine.take_begun().into_iter().rev() {
            self.waiting.push_front(begun);
        }
    }

    /// One side takes less than the other sends.
    fn is_full(&mut self, client: &mut Framed) -> bool {
        client.output().len() > BUFFERED_BYTES_MAX
            || self.held.as_mut().is_some_and(|held| held.lease.output().len() > BUFFERED_BYTES_MAX)
    }

    /// Takes a connection for a message; one that cannot be had is the message's error.
    async fn attach_for(
        &mut self,
        client: &mut Framed,
        frame: Frame,
        reading: Option<Reading>,
        ends: &mut Ends<'_>,
    ) -> Result<(), Failure> {
        // What the session was told so far must not wait for the pool.
        client.flush().await?;
        let slot = Arc::clone(&self.slot);
        let mut to_client = BytesMut::new();
        let attached = tokio::select! {
            biased;
            attached = slot.waits(self.attach(&mut to_client, reading)) => match attached {
                Ok(attached) => attached,
                Err(cancelled) => Err(cancelled.into()),
            },
            () = ends.terminated.as_mut() => return Err(ended().into()),
            gone = client_gone(client) => return Err(Failure::Client(gone)),
        };
        client.output().extend_from_slice(&to_client);
        match attached {
            Ok(()) => self.give_again(frame),
            Err(Failure::Ours(_) | Failure::Postgres(_)) if self.machine.is_replaying() => {
                self.give_again(frame);
                self.give_up_replay(client, lost_transaction());
            }
            Err(Failure::Ours(error)) => {
                self.give_again(frame);
                if let Some(first) = self.waiting.pop_front() {
                    self.machine.refuse(&first, &error, client.output());
                }
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Sends and reads until something has moved.
    async fn wait(&mut self, client: &mut Framed, ends: &mut Ends<'_>) -> Result<Woken, Failure> {
        let may_stop = self.machine.is_quiet();
        let may_leave = may_stop && !self.machine.is_unsynced() && !self.machine.is_idle_in_transaction();
        let may_leave = may_leave && self.machine.opening().is_none();
        let takes_client = self.machine.takes_client() && self.waiting.is_empty() && !self.is_batch_over;
        let idle = self.idle_transaction.filter(|_| self.machine.is_idle_in_transaction());
        let held = &mut self.held;
        let moved = poll_fn(|context| {
            if let Poll::Ready(moved) =
                poll_both(context, client, held.as_mut().map(|held| &mut held.lease), takes_client)
            {
                return Poll::Ready(moved.map_err(Failure::Client));
            }
            if ends.terminated.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(Woken::Terminated));
            }
            if !may_stop {
                return Poll::Pending;
            }
            let _never = ends.told.as_mut().poll(context);
            let least = if may_leave { Stop::BetweenTransactions } else { Stop::Now };
            if ends.level.is_at_least(least) { Poll::Ready(Ok(Woken::Stopped)) } else { Poll::Pending }
        });
        match idle {
            None => moved.await,
            Some(idle) => Box::pin(tokio::time::timeout(idle, moved)).await.unwrap_or(Ok(Woken::Idle)),
        }
    }
}

/// Sends what is written and reads what may be read, on both sides; ready when something came.
fn poll_both(
    context: &mut Context<'_>,
    client: &mut Framed,
    mut lease: Option<&mut Lease>,
    takes_client: bool,
) -> Poll<Result<Woken, NetError>> {
    let mut was_full = false;
    let mut server_bytes = 0;
    if let Some(lease) = lease.as_deref_mut() {
        was_full = lease.output().len() > BUFFERED_BYTES_MAX;
        if let Poll::Ready(Err(error)) = lease.poll_flush(context) {
            return Poll::Ready(Ok(Woken::ServerLost(error)));
        }
        server_bytes = lease.output().len();
    }
    let client_was_full = client.output().len() > BUFFERED_BYTES_MAX;
    if !client.is_flushed()
        && let Poll::Ready(Err(error)) = client.poll_flush(context)
    {
        return Poll::Ready(Err(error));
    }
    let client_bytes = client.output().len();
    // Room was made: messages that are here already may go on.
    let mut moved =
        (was_full && server_bytes <= BUFFERED_BYTES_MAX) || (client_was_full && client_bytes <= BUFFERED_BYTES_MAX);
    if let Some(lease) = lease
        && client_bytes <= BUFFERED_BYTES_MAX
    {
        match lease.poll_read(context) {
            // What the client says meanwhile is asked for before anything is waited for.
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(Woken::Moved)),
            Poll::Ready(Err(error)) => return Poll::Ready(Ok(Woken::ServerLost(error))),
            Poll::Pending => {}
        }
    }
    if server_bytes <= BUFFERED_BYTES_MAX && may_read_more(client, takes_client) {
        match client.poll_fill(context) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Woken::ClientGone)),
            Poll::Ready(Ok(_)) => moved = true,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {}
        }
    }
    if moved { Poll::Ready(Ok(Woken::Moved)) } else { Poll::Pending }
}

/// What stands in the buffer is little, or the session waits for the rest of one long message. Otherwise what is whole
/// goes on first: of a client that is faster than its server each read may bring more than went on before it.
fn may_read_more(client: &mut Framed, takes_client: bool) -> bool {
    client.buffered_input() <= BUFFERED_BYTES_MAX || (takes_client && !has_frame(client))
}

/// Sends what is written and reads once: for exchanges of the proxy's own.
///
/// # Errors
/// The connection is lost.
pub(super) async fn exchange(lease: &mut Lease) -> Result<(), BackendError> {
    poll_fn(|context| {
        if let Poll::Ready(Err(error)) = lease.poll_flush(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(ready!(lease.poll_read(context)))
    })
    .await
}

/// Waits until the client has closed its side; what it says meanwhile is kept.
pub(super) async fn client_gone(client: &mut Framed) -> NetError {
    let gone = poll_fn(|context| {
        while client.buffered_input() <= BUFFERED_BYTES_MAX {
            match ready!(client.poll_fill(context)) {
                Ok(0) => return Poll::Ready(NetError::Closed),
                Ok(_) => {}
                Err(error) => return Poll::Ready(error),
            }
        }
        Poll::Pending
    });
    gone.await
}

/// A question for the session's token.
fn is_token_question(frame: &Frame) -> bool {
    /// What is longer is none.
    const TOKEN_TEXT_BYTES_MAX: usize = 96;
    let has_name = match frame.tag {
        b'Q' => false,
        b'P' => true,
        _ => return false,
    };
    if frame.bytes.len() > TOKEN_TEXT_BYTES_MAX {
        return false;
    }
    let body = frame.as_body();
    let start = if has_name { memchr::memchr(0, body).map_or(body.len(), |end| end + 1) } else { 0 };
    let text = body.get(start..).unwrap_or_default().trim_ascii_start();
    // Nearly every text ends here.
    matches!(text, [b's' | b'S', b'h' | b'H', ..])
        && text
            .split(|byte| *byte == 0)
            .next()
            .and_then(|text| std::str::from_utf8(text).ok())
            .is_some_and(crate::executor::reads::asks_for_token)
}

fn next_frame(client: &mut Framed) -> Result<Option<Frame>, Failure> {
    client.try_take_frame().map_err(|error| match error {
        NetError::Wire(error) => violation(&error),
        other => Failure::Client(other),
    })
}

/// A whole message stands in the buffer.
fn has_frame(client: &mut Framed) -> bool {
    let (input, _) = client.buffers();
    crate::wire::frame::scan(input).next().is_some()
}

/// A client that breaks the protocol is sent away: what it says next could mean anything.
fn violation(error: &crate::wire::WireError) -> Failure {
    tracing::debug!(%error, "a client broke the protocol");
    ClientError::new(ErrorId::ProtocolViolation, "invalid message format").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_whole_goes_on_before_more_is_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut client = Framed::new(socket);
        let input = |client: &mut Framed, message_bytes: usize, bytes: usize| {
            let (input, _) = client.buffers();
            input.clear();
            while input.len() < bytes {
                input.extend_from_slice(b"d");
                input.extend_from_slice(&u32::try_from(message_bytes).unwrap().to_be_bytes());
                input.resize(input.len() + (message_bytes - 4).min(bytes), 0);
            }
        };
        for takes_client in [false, true] {
            input(&mut client, 8_192, BUFFERED_BYTES_MAX / 2);
            assert!(may_read_more(&mut client, takes_client));
            input(&mut client, 8_192, BUFFERED_BYTES_MAX + 1);
            assert!(!may_read_more(&mut client, takes_client));
            // The rest of a message that is longer than the bound.
            input(&mut client, BUFFERED_BYTES_MAX * 4, BUFFERED_BYTES_MAX + 1);
            assert_eq!(may_read_more(&mut client, takes_client), takes_client);
        }
    }
}
