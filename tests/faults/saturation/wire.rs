//! A session for crowds: the protocol over tokio, one exchange at a time.

use std::io;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::frames::Frame;

/// Longest wait for a reply; whoever waits longer is stuck.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// One session.
pub struct Session {
    stream: TcpStream,
    buffer: BytesMut,
    key: Vec<u8>,
}

/// What came for one Query or Sync.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Rows of each statement that completed.
    pub statements: Vec<Vec<Vec<Vec<u8>>>>,
    /// Code and message of the error.
    pub error: Option<(String, String)>,
    /// Of ReadyForQuery.
    pub status: u8,
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

impl Session {
    /// Connects as the application's role.
    pub async fn connect(port: u16) -> io::Result<Self> {
        let mut body = 196_608_i32.to_be_bytes().to_vec();
        body.extend_from_slice(b"user\0app\0database\0app\0\0");
        let mut out = (i32::try_from(body.len()).unwrap() + 4).to_be_bytes().to_vec();
        out.extend_from_slice(&body);
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream, buffer: BytesMut::new(), key: Vec::new() };
        session.stream.write_all(&out).await?;
        loop {
            let frame = session.frame().await?;
            match frame.tag {
                b'K' => session.key = frame.body,
                b'E' => return Err(invalid(format!("login: {} {}", frame.field(b'C'), frame.field(b'M')))),
                b'Z' => return Ok(session),
                _ => {}
            }
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    async fn frame(&mut self) -> io::Result<Frame> {
        match tokio::time::timeout(PATIENCE, self.read_frame()).await {
            Ok(frame) => frame,
            Err(_) => Err(invalid("stuck: nothing came")),
        }
    }

    async fn read_frame(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(header) = self.buffer.first_chunk::<5>() {
                let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
                if !(4..1 << 24).contains(&length) {
                    return Err(invalid(format!("a message of {length} bytes")));
                }
                if self.buffer.len() > length {
                    let tag = header[0];
                    self.buffer.advance(5);
                    return Ok(Frame::new(tag, self.buffer.split_to(length - 4).to_vec()));
                }
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads up to ReadyForQuery.
    pub async fn reply(&mut self) -> io::Result<Reply> {
        let mut reply = Reply::default();
        let mut rows = Vec::new();
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'D' => rows.push(frame.cells().into_iter().map(Option::unwrap_or_default).collect()),
                b'C' | b'I' | b's' => reply.statements.push(std::mem::take(&mut rows)),
                b'E' if reply.error.is_some() => return Err(invalid("a second error before ReadyForQuery")),
                b'E' => reply.error = Some((frame.field(b'C'), frame.field(b'M'))),
                b'Z' => {
                    reply.status = frame.body.first().copied().unwrap_or_default();
                    return Ok(reply);
                }
                b'T' | b't' | b'1' | b'2' | b'3' | b'n' | b'N' | b'S' => {}
                other => return Err(invalid(format!("message {:?}", char::from(other)))),
            }
        }
    }

    /// Nothing more may come by itself.
    pub fn is_quiet(&self) -> bool {
        let mut more = [0; 1];
        self.buffer.is_empty()
            && matches!(self.stream.try_read(&mut more), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// What cancels this session's work.
    pub fn key(&self) -> Vec<u8> {
        self.key.clone()
    }

    /// Says good-bye.
    pub async fn leave(mut self) {
        let _gone = self.stream.write_all(&Frame::new(b'X', []).bytes()).await;
    }
}

/// Sends a CancelRequest and waits until the other side has acted on it and closed.
pub async fn cancel(port: u16, key: &[u8]) -> io::Result<()> {
    let mut out = (i32::try_from(key.len()).unwrap() + 8).to_be_bytes().to_vec();
    out.extend_from_slice(&80_877_102_i32.to_be_bytes());
    out.extend_from_slice(key);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(&out).await?;
    let mut rest = [0; 16];
    let ended = async { while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {} };
    tokio::time::timeout(PATIENCE, ended).await.map_err(|_| invalid("stuck: a cancel request"))
}
