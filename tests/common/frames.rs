//! The protocol frame by frame: builders for the client's messages, and a client that can be cut off
//! at any byte. Shares no code with the product; judges nothing.
#![allow(dead_code, missing_docs)]

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A message in either direction.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Frame {
    pub fn new(tag: u8, body: impl Into<Vec<u8>>) -> Self {
        Self { tag, body: body.into() }
    }

    /// As it travels.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![self.tag];
        out.extend_from_slice(&(i32::try_from(self.body.len()).unwrap() + 4).to_be_bytes());
        out.extend_from_slice(&self.body);
        out
    }

    /// A field of an ErrorResponse or NoticeResponse; empty when it is not there.
    pub fn field(&self, wanted: u8) -> String {
        let mut rest = self.body.as_slice();
        while let Some((&code, tail)) = rest.split_first() {
            let end = tail.iter().position(|byte| *byte == 0).unwrap_or(tail.len());
            if code == wanted {
                return String::from_utf8_lossy(&tail[..end]).into_owned();
            }
            rest = tail.get(end + 1..).unwrap_or_default();
        }
        String::new()
    }

    /// Text of a body that is one string.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.body.strip_suffix(b"\0").unwrap_or(&self.body)).into_owned()
    }

    /// The cells of a DataRow.
    pub fn cells(&self) -> Vec<Option<Vec<u8>>> {
        let mut rest = self.body.get(2..).unwrap_or_default();
        let mut cells = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(i32::from_be_bytes(*length)).ok();
            cells.push(length.map(|length| tail.get(..length).unwrap_or_default().to_vec()));
            rest = tail.get(length.unwrap_or(0)..).unwrap_or_default();
        }
        cells
    }

    /// The cells of a DataRow as text.
    pub fn texts(&self) -> Vec<String> {
        let text = |cell: Option<Vec<u8>>| cell.map_or("NULL".into(), |b| String::from_utf8_lossy(&b).into_owned());
        self.cells().into_iter().map(text).collect()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = char::from(self.tag);
        match self.tag {
            b'E' | b'N' if self.body.len() > 5 => {
                write!(formatter, "{tag}[{} {} {}]", self.field(b'S'), self.field(b'C'), self.field(b'M'))
            }
            _ => {
                let shown = &self.body[..self.body.len().min(90)];
                write!(formatter, "{tag}[{}]", shown.escape_ascii())
            }
        }
    }
}

fn zero_terminated(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn named(prefix: &[u8], name: &str) -> Vec<u8> {
    let mut body = prefix.to_vec();
    zero_terminated(&mut body, name);
    body
}

fn count(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap().to_be_bytes()
}

pub fn query(sql: &str) -> Frame {
    Frame::new(b'Q', named(b"", sql))
}

pub fn parse(name: &str, sql: &str, types: &[u32]) -> Frame {
    let mut body = named(&named(b"", name), sql);
    body.extend_from_slice(&count(types.len()));
    types.iter().for_each(|oid| body.extend_from_slice(&oid.to_be_bytes()));
    Frame::new(b'P', body)
}

/// Text parameters, results in one format.
pub fn bind_as(portal: &str, statement: &str, values: &[Option<&str>], result_format: u16) -> Frame {
    let mut body = named(&named(b"", portal), statement);
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(&count(values.len()));
    for value in values {
        match value {
            None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(value) => {
                body.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend_from_slice(value.as_bytes());
            }
        }
    }
    body.extend_from_slice(&[0, 1]);
    body.extend_from_slice(&result_format.to_be_bytes());
    Frame::new(b'B', body)
}

pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Frame {
    bind_as(portal, statement, values, 0)
}

pub fn describe_statement(name: &str) -> Frame {
    Frame::new(b'D', named(b"S", name))
}

pub fn describe_portal(name: &str) -> Frame {
    Frame::new(b'D', named(b"P", name))
}

pub fn execute(portal: &str, rows_max: i32) -> Frame {
    let mut body = named(b"", portal);
    body.extend_from_slice(&rows_max.to_be_bytes());
    Frame::new(b'E', body)
}

pub fn close_statement(name: &str) -> Frame {
    Frame::new(b'C', named(b"S", name))
}

pub fn close_portal(name: &str) -> Frame {
    Frame::new(b'C', named(b"P", name))
}

pub fn sync() -> Frame {
    Frame::new(b'S', [])
}

pub fn flush() -> Frame {
    Frame::new(b'H', [])
}

pub fn copy_data(data: &[u8]) -> Frame {
    Frame::new(b'd', data)
}

pub fn copy_done() -> Frame {
    Frame::new(b'c', [])
}

pub fn copy_fail(reason: &str) -> Frame {
    Frame::new(b'f', named(b"", reason))
}

/// Text arguments, text result.
pub fn function_call(oid: u32, arguments: &[&str]) -> Frame {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(&count(arguments.len()));
    for argument in arguments {
        body.extend_from_slice(&i32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend_from_slice(argument.as_bytes());
    }
    body.extend_from_slice(&[0, 0]);
    Frame::new(b'F', body)
}

/// What a read came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Frame(Frame),
    /// The other side has closed or broken the connection.
    Closed,
    /// Nothing within the deadline.
    Late,
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Closes its socket (FIN).
    Close,
    /// Breaks the connection (RST).
    Reset,
    /// Says Terminate, then closes.
    Terminate,
}

/// A session, frame by frame.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Frames between StartupMessage and the first ReadyForQuery, that one included.
    pub greeting: Vec<Frame>,
    pub process: u32,
    pub secret: Vec<u8>,
    port: u16,
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

impl Wire {
    /// A session of the application.
    pub fn app(port: u16, database: &str) -> io::Result<Self> {
        Self::connect(port, &[("user", "app"), ("database", database)])
    }

    /// Connects with these startup parameters, without TLS, and expects to be trusted.
    pub fn connect(port: u16, parameters: &[(&str, &str)]) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        let mut wire = Self { stream, buffer: Vec::new(), greeting: Vec::new(), process: 0, secret: Vec::new(), port };
        let mut body = 196_608_i32.to_be_bytes().to_vec();
        for (name, value) in parameters {
            zero_terminated(&mut body, name);
            zero_terminated(&mut body, value);
        }
        body.push(0);
        let mut out = (i32::try_from(body.len()).unwrap() + 4).to_be_bytes().to_vec();
        out.extend_from_slice(&body);
        wire.stream.write_all(&out)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let frame = match wire.hear(deadline) {
                Heard::Frame(frame) => frame,
                other => return Err(invalid(format!("{other:?} at startup after {:?}", wire.greeting))),
            };
            wire.greeting.push(frame.clone());
            match frame.tag {
                b'K' => {
                    wire.process = u32::from_be_bytes(frame.body[..4].try_into().unwrap());
                    wire.secret = frame.body[4..].to_vec();
                }
                b'E' => return Err(invalid(format!("{} {}", frame.field(b'C'), frame.field(b'M')))),
                b'Z' => return Ok(wire),
                b'R' if frame.body != [0, 0, 0, 0] => return Err(invalid("a password is asked for")),
                _ => {}
            }
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends messages in one write.
    pub fn send_frames(&mut self, frames: &[Frame]) -> io::Result<()> {
        self.send(&frames.iter().flat_map(Frame::bytes).collect::<Vec<u8>>())
    }

    /// The next frame.
    pub fn hear(&mut self, deadline: Instant) -> Heard {
        loop {
            if let Some(header) = self.buffer.first_chunk::<5>() {
                let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
                assert!((4..1 << 30).contains(&length), "frame {:?} of length {length}", char::from(header[0]));
                if self.buffer.len() > length {
                    let tag = header[0];
                    let body = self.buffer[5..=length].to_vec();
                    self.buffer.drain(..=length);
                    return Heard::Frame(Frame { tag, body });
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Heard::Late;
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut chunk = [0_u8; 32_768];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Heard::Closed,
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                    _ => return Heard::Closed,
                },
            }
        }
    }

    /// Frames up to one that `is_last`, or the end of the connection, or the deadline.
    pub fn hear_until(&mut self, patience: Duration, mut is_last: impl FnMut(&Frame) -> bool) -> (Vec<Frame>, Heard) {
        let deadline = Instant::now() + patience;
        let mut frames = Vec::new();
        loop {
            match self.hear(deadline) {
                Heard::Frame(frame) => {
                    let last = is_last(&frame);
                    frames.push(frame.clone());
                    if last {
                        return (frames, Heard::Frame(frame));
                    }
                }
                other => return (frames, other),
            }
        }
    }

    /// A simple query up to ReadyForQuery.
    pub fn simple(&mut self, sql: &str) -> io::Result<Vec<Frame>> {
        self.send_frames(&[query(sql)])?;
        match self.hear_until(Duration::from_secs(20), |frame| frame.tag == b'Z') {
            (frames, Heard::Frame(_)) => Ok(frames),
            (frames, other) => Err(invalid(format!("{other:?} after {frames:?}"))),
        }
    }

    /// What a CancelRequest of this session needs.
    pub fn cancel_key(&self) -> CancelKey {
        CancelKey { port: self.port, process: self.process, secret: self.secret.clone() }
    }

    /// Where to the session is connected.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leaves.
    pub fn leave(mut self, how: Leave) {
        match how {
            Leave::Close => {}
            Leave::Reset => {
                let socket = socket2::SockRef::from(&self.stream);
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
            Leave::Terminate => {
                let _ = self.stream.write_all(&[b'X', 0, 0, 0, 4]);
            }
        }
    }
}

/// The right to cancel.
#[derive(Clone, Debug)]
pub struct CancelKey {
    port: u16,
    pub process: u32,
    pub secret: Vec<u8>,
}

impl CancelKey {
    /// Sends a CancelRequest and waits until it has been taken.
    pub fn cancel(&self) -> io::Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let length = i32::try_from(12 + self.secret.len()).unwrap();
        let mut packet = length.to_be_bytes().to_vec();
        packet.extend_from_slice(&80_877_102_u32.to_be_bytes());
        packet.extend_from_slice(&self.process.to_be_bytes());
        packet.extend_from_slice(&self.secret);
        stream.write_all(&packet)?;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        if rest.is_empty() { Ok(()) } else { Err(invalid("an answer to a CancelRequest")) }
    }
}
