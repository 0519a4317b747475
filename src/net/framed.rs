//! A stream of frames: one socket with its input and output buffers.
//!
//! Both sides of the proxy use it. Must not know: what the messages mean.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::runtime;

use crate::wire::frame::{Frame, take_frame, take_run};
use crate::wire::limits::MESSAGE_BYTES_MAX;
use crate::wire::startup::{StartupPacket, take_startup};

use super::NetError;
use super::stream::{Stream, TlsFacts};
use super::tls::{Acceptor, Connector};

/// Room made for small messages.
const OUTPUT_BYTES: usize = 512;

/// Room made for one read.
const READ_BYTES: usize = 16 * 1024;

thread_local! {
    /// Where a thread reads to when nothing is kept of what came before: what is kept then is no larger than what
    /// has come, and thousands of sockets on which nothing happens hold no buffers.
    static READ_HERE: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// How much is read ahead while output waits for the other side to take it.
const READ_AHEAD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// When a silent peer is asked whether it is still there, and how often it is asked again.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(10);

/// A socket with buffers that speaks in frames. An empty buffer holds no memory.
#[derive(Debug)]
pub struct Framed {
    stream: Stream,
    /// In a box: most have none, and it is large.
    tls: Option<Box<TlsFacts>>,
    input: BytesMut,
    output: BytesMut,
    message_bytes_max: usize,
    /// Output is kept back, up to so many bytes.
    held_bytes_max: Option<usize>,
    sends: u64,
    peer: Option<SocketAddr>,
    /// The runtime that wakes who waits for the socket.
    home: Option<runtime::Id>,
}

/// What a look at an idle socket found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Nothing has come.
    Quiet,
    /// Bytes have come and stand in the input buffer.
    Spoke,
    /// The other side is gone.
    Gone,
}

impl Framed {
    /// Takes a connected socket; Nagle's algorithm is switched off, keepalive on: a peer that vanished
    /// without a word is noticed.
    pub fn new(stream: impl Into<Stream>) -> Self {
        let stream = stream.into();
        let mut peer = None;
        if let Stream::Plain(stream) = &stream {
            // A socket that cannot be set is broken, and the first read says so.
            let _ = stream.set_nodelay(true);
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_PAUSE);
            let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
            peer = stream.peer_addr().ok();
        }
        Self {
            stream,
            tls: None,
            input: BytesMut::new(),
            output: BytesMut::new(),
            held_bytes_max: None,
            sends: 0,
            message_bytes_max: MESSAGE_BYTES_MAX,
            peer,
            home: current_runtime(),
        }
    }

    /// Who waits for the socket is woken by the runtime that calls this.
    pub fn is_here(&self) -> bool {
        self.home == current_runtime()
    }

    /// Lets the runtime that calls this wake who waits for the socket, instead of another one that would have to wake a
    /// thread of this one's first. Under TLS the socket stays where it is, which is slower and as right.
    pub fn move_here(&mut self) {
        if self.is_here() {
            return;
        }
        if self.tls.is_some() {
            return;
        }
        // A socket that cannot be moved is gone, and the first read says so.
        if let Ok(stream) = std::mem::replace(&mut self.stream, Stream::Gone).moved_here() {
            self.stream = stream;
            self.home = current_runtime();
        }
    }

    /// Makes TLS of a connection that a client opened: after its SSLRequest was answered, or with TLS from
    /// the first byte (`direct`), which PostgreSQL allows only to clients that name the protocol by ALPN.
    ///
    /// # Errors
    /// Bytes have come before the handshake: whoever sent them may be another than who shakes hands, so
    /// they are never used. Or the handshake failed; nothing can be said to the client then.
    ///
    /// # Cancel safety
    /// Not safe: after a handshake that was begun and dropped the connection is of no more use.
    pub async fn accept_tls(&mut self, acceptor: &Acceptor, direct: bool) -> Result<(), NetError> {
        self.refuse_plaintext()?;
        let (stream, facts) = acceptor.accept(self.stream.take_plain()?, direct).await?;
        self.stream = Stream::Accepted(stream);
        self.tls = Some(Box::new(facts));
        Ok(())
    }

    /// Makes TLS of a connection to a server, which has agreed to it.
    ///
    /// # Errors
    /// As [`Self::accept_tls`].
    ///
    /// # Cancel safety
    /// As [`Self::accept_tls`].
    pub async fn connect_tls(&mut self, connector: &Connector, host: &str) -> Result<(), NetError> {
        self.refuse_plaintext()?;
        let (stream, facts) = connector.handshake(self.stream.take_plain()?, host).await?;
        self.stream = Stream::Connected(Box::new(stream));
        self.tls = Some(Box::new(facts));
        Ok(())
    }

    fn refuse_plaintext(&self) -> Result<(), NetError> {
        if self.input.is_empty() && self.output.is_empty() { Ok(()) } else { Err(NetError::PlaintextBeforeTls) }
    }

    /// What the TLS handshake has shown; `None` without TLS.
    pub fn tls(&self) -> Option<&TlsFacts> {
        self.tls.as_deref()
    }

    /// The first byte that comes, without taking it; `None` at the end of the stream.
    ///
    /// # Errors
    /// The stream broke, or is under TLS already.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn peek_first(&self) -> Result<Option<u8>, NetError> {
        if let Some(first) = self.input.first() {
            return Ok(Some(*first));
        }
        let Stream::Plain(stream) = &self.stream else { return Err(NetError::Closed) };
        let mut first = [0u8; 1];
        let read = stream.peek(&mut first).await?;
        Ok(first.first().copied().filter(|_| read > 0))
    }

    /// The other side is on a Unix-domain socket of this machine.
    pub fn is_local(&self) -> bool {
        matches!(self.stream, Stream::Local(_))
    }

    /// One byte without frame round it, e.g. the answer to an SSLRequest; `None` at the end of the stream.
    ///
    /// # Errors
    /// The stream broke.
    ///
    /// # Cancel safety
    /// Safe: bytes that were read stay in the buffer.
    pub async fn read_byte(&mut self) -> Result<Option<u8>, NetError> {
        while self.input.is_empty() {
            if !self.fill().await? {
                return Ok(None);
            }
        }
        Ok(self.input.split_to(1).first().copied())
    }

    /// Changes the largest message that is taken, e.g. while a client is not authenticated yet, and gives the
    /// limit that was in force.
    ///
    /// # Units
    /// Bytes; default [`MESSAGE_BYTES_MAX`].
    pub fn set_message_bytes_max(&mut self, bytes_max: usize) -> usize {
        std::mem::replace(&mut self.message_bytes_max, bytes_max)
    }

    /// The largest message that is taken.
    pub fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// The next frame; `None` when the other side closed the stream between two messages.
    ///
    /// # Errors
    /// The stream broke or closed inside a message; malformed or over-long frame.
    ///
    /// # Cancel safety
    /// Safe: bytes that were read stay in the buffer.
    pub async fn read_frame(&mut self) -> Result<Option<Frame>, NetError> {
        loop {
            if let Some(frame) = self.try_take_frame()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// The next frame if it has been read whole already.
    ///
    /// # Errors
    /// Malformed or over-long frame.
    pub fn try_take_frame(&mut self) -> Result<Option<Frame>, NetError> {
        Ok(take_frame(&mut self.input, self.message_bytes_max)?)
    }

    /// The whole frames of this tag that have been read, as one run; see [`take_run`].
    pub fn take_run(&mut self, tag: u8) -> Bytes {
        take_run(&mut self.input, tag)
    }

    /// The first packet of a client; `None` when it closed without one.
    ///
    /// # Errors
    /// As [`Self::read_frame`].
    ///
    /// # Cancel safety
    /// Safe: bytes that were read stay in the buffer.
    pub async fn read_startup(&mut self) -> Result<Option<StartupPacket>, NetError> {
        loop {
            if let Some(packet) = take_startup(&mut self.input)? {
                return Ok(Some(packet));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// One read into the input buffer; `false` at the end of the stream.
    async fn fill(&mut self) -> Result<bool, NetError> {
        if poll_fn(|context| self.poll_fill(context)).await? > 0 {
            return Ok(true);
        }
        if self.input.is_empty() { Ok(false) } else { Err(NetError::Closed) }
    }

    /// The socket's number, good for as long as this lives.
    pub fn raw_socket(&self) -> RawFd {
        self.stream.raw_socket()
    }

    /// Where messages are written; nothing is sent before a flush.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// [`Self::output`] with room for some messages, so that it does not grow with each of them.
    pub fn roomy_output(&mut self) -> &mut BytesMut {
        if self.output.capacity() == 0 {
            self.output.reserve(OUTPUT_BYTES);
        }
        &mut self.output
    }

    /// Keeps output back: flushing does nothing until [`Self::release_output`].
    ///
    /// # Units
    /// `bytes_max`: a flush with more than so many bytes fails with [`NetError::HeldTooMuch`].
    pub fn hold_output(&mut self, bytes_max: usize) {
        self.held_bytes_max = Some(bytes_max);
    }

    /// Ends [`Self::hold_output`] and hands out what was written meanwhile.
    pub fn release_output(&mut self) -> BytesMut {
        self.held_bytes_max = None;
        self.output.split()
    }

    /// Begins to hold output back in a buffer of its own, or ends it: gives what [`Self::hold_output`] had set and the
    /// output so far, to be put back by the same call.
    pub fn swap_output(&mut self, held_bytes_max: Option<usize>, output: BytesMut) -> (Option<usize>, BytesMut) {
        let held_bytes_max = std::mem::replace(&mut self.held_bytes_max, held_bytes_max);
        (held_bytes_max, std::mem::replace(&mut self.output, output))
    }

    /// How often [`Self::flush`] had anything to send.
    pub fn sends(&self) -> u64 {
        self.sends
    }

    /// Sends the whole output buffer.
    ///
    /// # Errors
    /// The stream broke.
    ///
    /// # Cancel safety
    /// Safe: what was not sent stays in the buffer and the next flush goes on behind the last byte sent.
    pub async fn flush(&mut self) -> Result<(), NetError> {
        if let Some(bytes_max) = self.held_bytes_max {
            return if self.output.len() <= bytes_max { Ok(()) } else { Err(NetError::HeldTooMuch) };
        }
        self.sends += u64::from(!self.output.is_empty());
        while !self.output.is_empty() {
            if self.stream.write_buf(&mut self.output).await? == 0 {
                return Err(NetError::Closed);
            }
        }
        // Under TLS, what was taken may still stand in a buffer there.
        self.stream.flush().await?;
        self.output = BytesMut::new();
        Ok(())
    }

    /// Sends the whole output buffer and meanwhile reads what comes.
    ///
    /// A server that is itself blocked on writing takes no more input; flushing without reading would
    /// then wait for ever. The end of the stream is left for the next read to report.
    ///
    /// # Units
    /// Reads at most 4 MiB ahead.
    ///
    /// # Errors
    /// The stream broke.
    ///
    /// # Cancel safety
    /// Safe, like [`Self::flush`] and [`Self::read_frame`].
    pub async fn flush_and_read(&mut self) -> Result<(), NetError> {
        let mut may_read = true;
        poll_fn(|context| {
            loop {
                if let Poll::Ready(sent) = self.poll_send(context) {
                    return Poll::Ready(sent);
                }
                if !may_read || self.input.len() >= READ_AHEAD_BYTES_MAX {
                    return Poll::Pending;
                }
                match self.poll_fill(context) {
                    Poll::Ready(Ok(read)) => may_read = read > 0,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await?;
        self.output = BytesMut::new();
        Ok(())
    }

    /// Sends the output as far as the other side takes it; ready when all is sent.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.output) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(NetError::Closed)),
                Poll::Ready(Ok(written)) if written == self.output.len() => self.output.clear(),
                Poll::Ready(Ok(written)) => self.output.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(&mut self.stream).poll_flush(context).map_err(NetError::from)
    }

    /// One read into the input buffer, without waiting: the number of bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// The stream broke.
    pub fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, NetError>> {
        if self.input.is_empty() {
            return self.poll_fill_empty(context);
        }
        self.input.reserve(READ_BYTES);
        // The future keeps nothing between two polls, so it may be dropped after one.
        pin!(self.stream.read_buf(&mut self.input)).poll(context).map_err(NetError::from)
    }

    fn poll_fill_empty(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, NetError>> {
        READ_HERE.with_borrow_mut(|read| {
            let mut read = ReadBuf::new(read);
            let is_there = Pin::new(&mut self.stream).poll_read(context, &mut read);
            // What is left of a buffer belongs to frames that were taken from it. What has come fills the new one: a
            // message that came alone needs no other.
            self.input = if is_there.is_ready() { BytesMut::from(read.filled()) } else { BytesMut::new() };
            ready!(is_there)?;
            Poll::Ready(Ok(self.input.len()))
        })
    }

    /// Sends the output as far as the other side takes it, without waiting; ready when all is sent.
    ///
    /// # Errors
    /// The stream broke.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        let sent = ready!(self.poll_send(context));
        self.output = BytesMut::new();
        Poll::Ready(sent)
    }

    /// What was read and not taken, and what is to be sent.
    pub fn buffers(&mut self) -> (&mut BytesMut, &mut BytesMut) {
        (&mut self.input, &mut self.output)
    }

    /// Looks, without waiting, whether the other side spoke or left while nobody listened.
    pub fn look(&mut self) -> Idle {
        if !self.input.is_empty() {
            return Idle::Spoke;
        }
        match self.poll_fill(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Idle::Quiet,
            Poll::Ready(Ok(read)) if read > 0 => Idle::Spoke,
            Poll::Ready(_) => Idle::Gone,
        }
    }

    /// Everything written has been sent.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty() && self.stream.is_flushed()
    }

    /// Address of the other side.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Bytes that were read and not taken.
    pub fn buffered_input(&self) -> usize {
        self.input.len()
    }

    /// Sends the end of the stream to the other side, after a flush.
    ///
    /// # Errors
    /// The stream broke.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn shut_down(&mut self) -> Result<(), NetError> {
        Ok(self.stream.shutdown().await?)
    }
}

fn current_runtime() -> Option<runtime::Id> {
    runtime::Handle::try_current().ok().map(|runtime| runtime.id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client_message::encode_query;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (Framed, Framed) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (Framed::new(client), Framed::new(server))
    }

    async fn readable(framed: &Framed) {
        let Stream::Plain(stream) = &framed.stream else { panic!("no plain socket") };
        stream.readable().await.unwrap();
    }

    #[tokio::test]
    async fn a_frame_arrives_as_it_was_sent() {
        let (mut client, mut server) = pair().await;
        encode_query(client.output(), "select 1");
        let sent = client.output().clone();
        assert!(!client.is_flushed());
        client.flush().await.unwrap();
        assert!(client.is_flushed());
        let frame = server.read_frame().await.unwrap().unwrap();
        assert_eq!(frame.tag, b'Q');
        assert_eq!(&frame.bytes[..], &sent[..]);
        assert_eq!(server.buffered_input(), 0);
    }

    #[tokio::test]
    async fn a_socket_that_moves_to_another_runtime_loses_nothing() {
        let (mut client, mut server) = pair().await;
        encode_query(client.output(), "select 1");
        client.flush().await.unwrap();
        readable(&server).await;
        let moved = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                assert!(!server.is_here());
                server.move_here();
                assert!(server.is_here());
                let first = server.read_frame().await.unwrap().unwrap();
                (first.tag, server.read_frame().await.unwrap().unwrap().tag)
            })
        });
        encode_query(client.output(), "select 2");
        client.flush().await.unwrap();
        assert_eq!(moved.join().unwrap(), (b'Q', b'Q'));
    }

    #[tokio::test]
    async fn a_closed_stream_between_messages_is_a_clean_end() {
        let (mut client, mut server) = pair().await;
        encode_query(client.output(), "select 1");
        client.flush().await.unwrap();
        drop(client);
        assert!(server.read_frame().await.unwrap().is_some());
        assert!(server.read_frame().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_closed_stream_inside_a_message_is_an_error() {
        let (mut client, mut server) = pair().await;
        client.output().extend_from_slice(b"Q\0\0\0\x10sel");
        client.flush().await.unwrap();
        drop(client);
        assert!(matches!(server.read_frame().await, Err(NetError::Closed)));
    }

    #[tokio::test]
    async fn a_dropped_read_loses_no_bytes() {
        let (mut client, mut server) = pair().await;
        let mut whole = BytesMut::new();
        encode_query(&mut whole, "select 12345678901234567890");
        for byte in whole.iter() {
            client.output().extend_from_slice(&[*byte]);
            client.flush().await.unwrap();
            // Most of these futures are dropped half-way.
            if let Ok(frame) = tokio::time::timeout(std::time::Duration::from_micros(200), server.read_frame()).await {
                assert_eq!(&frame.unwrap().unwrap().bytes[..], &whole[..]);
                return;
            }
        }
        assert_eq!(&server.read_frame().await.unwrap().unwrap().bytes[..], &whole[..]);
    }

    #[tokio::test]
    async fn flushing_does_not_wait_for_a_peer_that_is_blocked_on_writing() {
        let (mut client, mut server) = pair().await;
        let big = "x".repeat(3 * 1024 * 1024);
        encode_query(client.output(), &big);
        encode_query(server.output(), &big);
        // Neither side reads in the ordinary way before it has flushed.
        let (one, two) = tokio::join!(client.flush_and_read(), server.flush_and_read());
        one.unwrap();
        two.unwrap();
        assert!(client.read_frame().await.unwrap().unwrap().bytes.len() > big.len());
        assert!(server.read_frame().await.unwrap().unwrap().bytes.len() > big.len());
    }

    #[tokio::test]
    async fn empty_buffers_hold_no_memory() {
        let (mut client, mut server) = pair().await;
        encode_query(client.output(), &"x".repeat(2 * 1024 * 1024));
        let receiving = tokio::spawn(async move {
            drop(server.read_frame().await.unwrap().unwrap());
            server
        });
        client.flush().await.unwrap();
        let mut server = receiving.await.unwrap();
        assert_eq!(client.output().capacity(), 0);
        encode_query(client.output(), "select 1");
        client.flush().await.unwrap();
        drop(server.read_frame().await.unwrap().unwrap());
        assert_eq!(server.look(), Idle::Quiet);
        assert_eq!(server.input.capacity(), 0);
    }

    #[tokio::test]
    async fn a_look_tells_quiet_spoken_and_gone_apart() {
        let (mut client, mut server) = pair().await;
        assert_eq!(server.look(), Idle::Quiet);
        encode_query(client.output(), "select 1");
        client.flush().await.unwrap();
        readable(&server).await;
        assert_eq!(server.look(), Idle::Spoke);
        assert!(server.read_frame().await.unwrap().is_some());
        drop(client);
        readable(&server).await;
        assert_eq!(server.look(), Idle::Gone);
    }
}
