//! The byte stream under the frames: a TCP socket, in the clear or under TLS, or a Unix-domain socket.
//!
//! Must not know: frames, certificates' files, who decides whether TLS is used.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// A connected socket.
pub enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// A Unix-domain socket: nobody but this machine hears it, so it needs no TLS.
    Local(UnixStream),
    /// Under TLS; the other side opened the connection.
    Accepted(Box<server::TlsStream<TcpStream>>),
    /// Under TLS; this side opened the connection.
    Connected(Box<client::TlsStream<TcpStream>>),
    /// A TLS handshake has begun and has not ended well: nothing is left to speak with.
    Gone,
}

/// What a TLS handshake has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// The other side's certificate, if it sent one and it was verified.
    pub peer: Option<PeerCertificate>,
    /// Channel binding `tls-server-end-point`: the hash of the certificate of whoever accepted the
    /// connection. `None` when the certificate's signature names no hash, as Ed25519 does.
    ///
    /// # Source
    /// RFC 5929, section 4.1.
    pub server_end_point: Option<Vec<u8>>,
}

/// A certificate whose chain has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// First common name of the subject.
    pub common_name: Option<String>,
    /// The whole certificate.
    pub der: Vec<u8>,
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self::Local(stream)
    }
}

impl Stream {
    /// The socket's number, good for as long as this lives; -1 when it is gone.
    pub fn raw_socket(&self) -> RawFd {
        match self {
            Self::Plain(stream) => stream.as_raw_fd(),
            Self::Local(stream) => stream.as_raw_fd(),
            Self::Accepted(stream) => stream.get_ref().0.as_raw_fd(),
            Self::Connected(stream) => stream.get_ref().0.as_raw_fd(),
            Self::Gone => -1,
        }
    }

    /// Nothing that was written waits for [`AsyncWrite::poll_flush`]: without TLS always true.
    pub fn is_flushed(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Local(_) | Self::Gone => true,
            Self::Accepted(stream) => !stream.get_ref().1.wants_write(),
            Self::Connected(stream) => !stream.get_ref().1.wants_write(),
        }
    }

    /// The same socket, woken by the runtime that calls this; under TLS it stays where it is.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn moved_here(self) -> io::Result<Self> {
        Ok(match self {
            Self::Plain(stream) => Self::Plain(TcpStream::from_std(stream.into_std()?)?),
            Self::Local(stream) => Self::Local(UnixStream::from_std(stream.into_std()?)?),
            other => other,
        })
    }

    /// The socket without TLS, for a handshake; the stream is gone until the handshake puts it back.
    pub(super) fn take_plain(&mut self) -> io::Result<TcpStream> {
        match std::mem::replace(self, Self::Gone) {
            Self::Plain(stream) => Ok(stream),
            other => {
                *self = other;
                Err(gone())
            }
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Plain(_) => "Plain",
            Self::Local(_) => "Local",
            Self::Accepted(_) => "Accepted",
            Self::Connected(_) => "Connected",
            Self::Gone => "Gone",
        };
        // What rustls holds is nobody's business.
        write!(formatter, "Stream::{kind}({})", self.raw_socket())
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the TLS handshake was not completed")
}

/// The end of the stream without TLS's own good-bye counts as the end: frames carry their lengths, so a
/// cut in the middle of one is seen, and many clients close without a word.
fn end_is_end(polled: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
    match polled {
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
        other => other,
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Local(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Accepted(stream) => end_is_end(Pin::new(stream.as_mut()).poll_read(context, buffer)),
            Self::Connected(stream) => end_is_end(Pin::new(stream.as_mut()).poll_read(context, buffer)),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Local(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Accepted(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
            Self::Connected(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Local(stream) => Pin::new(stream).poll_flush(context),
            Self::Accepted(stream) => Pin::new(stream.as_mut()).poll_flush(context),
            Self::Connected(stream) => Pin::new(stream.as_mut()).poll_flush(context),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Local(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Accepted(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
            Self::Connected(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
            Self::Gone => Poll::Ready(Err(gone())),
        }
    }
}
