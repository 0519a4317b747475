//! A small blocking client of PostgreSQL's protocol that hides nothing.
//!
//! The suites judge what a client sees byte by byte: column types, command tags, transaction status,
//! every message of an answer. A driver would smooth that over. Written apart from `src/wire` on
//! purpose: what judges the proxy must not share its mistakes.
#![allow(dead_code, missing_docs)]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub type_oid: u32,
}

/// The fields of an ErrorResponse that the suites look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub sqlstate: String,
    pub message: String,
    pub hint: Option<String>,
}

/// One value: `None` is NULL.
pub type Cell = Option<Vec<u8>>;

/// What one statement answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `None`: the statement returns no rows.
    pub columns: Option<Vec<Column>>,
    pub rows: Vec<Vec<Cell>>,
    /// Bytes of COPY TO STDOUT.
    pub copied: Option<Vec<u8>>,
    pub tag: Option<String>,
    pub fault: Option<Fault>,
    /// SQLSTATEs of the notices and warnings that came with it.
    pub notices: Vec<String>,
    /// Types of the parameters, when described.
    pub parameters: Option<Vec<u32>>,
}

/// Everything up to ReadyForQuery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub answers: Vec<Answer>,
    /// `I`, `T` or `E`.
    pub status: char,
}

impl Reply {
    /// The first error.
    pub fn fault(&self) -> Option<&Fault> {
        self.answers.iter().find_map(|answer| answer.fault.as_ref())
    }

    /// The SQLSTATE of the first error, or `00000`.
    pub fn sqlstate(&self) -> &str {
        self.fault().map_or("00000", |fault| fault.sqlstate.as_str())
    }

    /// The only value of the first answer, as text; empty when there is none.
    pub fn value(&self) -> String {
        let cell = self.answers.first().and_then(|a| a.rows.first()).and_then(|row| row.first());
        cell.cloned().flatten().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The rows of the first answer as text; NULL is `NULL`.
    pub fn texts(&self) -> Vec<Vec<String>> {
        let rows = self.answers.first().map(|a| a.rows.as_slice()).unwrap_or_default();
        rows.iter().map(|row| row.iter().map(text_of).collect()).collect()
    }
}

/// A cell as text.
pub fn text_of(cell: &Cell) -> String {
    cell.as_ref().map_or_else(|| "NULL".into(), |bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// A parameter: its type and its value in the format that the mode uses.
#[derive(Clone, Debug)]
pub struct Parameter {
    pub type_oid: u32,
    pub value: Cell,
}

/// A session with a server.
pub struct Raw {
    stream: TcpStream,
    buffer: VecDeque<u8>,
    /// Process id from BackendKeyData.
    pub process: i32,
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Takes a frame's body apart.
struct Body(VecDeque<u8>);

impl Body {
    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        if self.0.len() < length {
            return Err(invalid("frame is too short"));
        }
        Ok(self.0.drain(..length).collect())
    }
    fn byte(&mut self) -> io::Result<u8> {
        self.0.pop_front().ok_or_else(|| invalid("frame is too short"))
    }
    fn i16(&mut self) -> io::Result<i16> {
        Ok(i16::from_be_bytes([self.byte()?, self.byte()?]))
    }
    fn i32(&mut self) -> io::Result<i32> {
        Ok(i32::from_be_bytes([self.byte()?, self.byte()?, self.byte()?, self.byte()?]))
    }
    fn string(&mut self) -> io::Result<String> {
        let end = self.0.iter().position(|b| *b == 0).ok_or_else(|| invalid("string without end"))?;
        let bytes = self.take(end)?;
        self.byte()?;
        String::from_utf8(bytes).map_err(|_| invalid("string is not UTF-8"))
    }
}

fn frame(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&(i32::try_from(body.len()).unwrap() + 4).to_be_bytes());
    out.extend_from_slice(body);
}

fn zero_terminated(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

impl Raw {
    /// Connects without TLS and expects to be trusted.
    pub fn connect(port: u16, user: &str, database: &str) -> io::Result<Self> {
        Self::connect_with(port, &[("user", user), ("database", database), ("client_encoding", "UTF8")])
    }

    /// Connects with these startup parameters.
    pub fn connect_with(port: u16, parameters: &[(&str, &str)]) -> io::Result<Self> {
        Self::connect_to(SocketAddr::from(([127, 0, 0, 1], port)), parameters)
    }

    /// The same, to a server anywhere.
    pub fn connect_to(address: SocketAddr, parameters: &[(&str, &str)]) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        let mut session = Self { stream, buffer: VecDeque::new(), process: 0 };
        let mut body = 196_608_i32.to_be_bytes().to_vec();
        for (name, value) in parameters {
            zero_terminated(&mut body, name);
            zero_terminated(&mut body, value);
        }
        body.push(0);
        let mut out = (i32::try_from(body.len()).unwrap() + 4).to_be_bytes().to_vec();
        out.extend_from_slice(&body);
        session.stream.write_all(&out)?;
        loop {
            let (tag, mut body) = session.receive()?;
            match tag {
                b'R' => match body.i32()? {
                    0 => {}
                    other => return Err(invalid(format!("authentication {other} is asked for, trust expected"))),
                },
                b'K' => session.process = body.i32()?,
                b'E' => {
                    let fault = read_fault(&mut body)?;
                    return Err(invalid(format!("{} {}", fault.sqlstate, fault.message)));
                }
                b'Z' => return Ok(session),
                b'S' | b'N' | b'v' => {}
                other => return Err(invalid(format!("message {:?} at startup", char::from(other)))),
            }
        }
    }

    /// How long a read may take.
    pub fn set_patience(&mut self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }

    fn receive(&mut self) -> io::Result<(u8, Body)> {
        loop {
            if self.buffer.len() >= 5 {
                let header: Vec<u8> = self.buffer.iter().take(5).copied().collect();
                let length = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
                let length = usize::try_from(length).map_err(|_| invalid("negative length"))?;
                if !(4..=1 << 30).contains(&length) {
                    return Err(invalid(format!("length {length}")));
                }
                if self.buffer.len() > length {
                    let mut whole: VecDeque<u8> = self.buffer.drain(..=length).collect();
                    whole.drain(..5);
                    return Ok((header[0], Body(whole)));
                }
            }
            let mut chunk = [0_u8; 65_536];
            let count = self.stream.read(&mut chunk)?;
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed"));
            }
            self.buffer.extend(&chunk[..count]);
        }
    }

    /// Sends a simple Query; [`Raw::finish`] reads what it answers.
    pub fn begin_simple(&mut self, sql: &str) -> io::Result<()> {
        let mut out = Vec::new();
        let mut body = Vec::new();
        zero_terminated(&mut body, sql);
        frame(&mut out, b'Q', &body);
        self.stream.write_all(&out)
    }

    /// Reads what was begun, up to ReadyForQuery.
    pub fn finish(&mut self, copy_in: Option<&[u8]>, extended: bool) -> io::Result<Reply> {
        self.collect(copy_in, extended)
    }

    /// Runs a simple Query; every COPY FROM STDIN in it is given `copy_in`.
    pub fn simple_with(&mut self, sql: &str, copy_in: Option<&[u8]>) -> io::Result<Reply> {
        self.begin_simple(sql)?;
        self.collect(copy_in, false)
    }

    /// Runs a simple Query.
    pub fn simple(&mut self, sql: &str) -> io::Result<Reply> {
        self.simple_with(sql, None)
    }

    /// Runs a simple Query that has to succeed.
    pub fn must(&mut self, sql: &str) -> Reply {
        let reply = self.simple(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        if let Some(fault) = reply.fault() {
            panic!("{sql}: {} {} {:?}", fault.sqlstate, fault.message, fault.hint);
        }
        reply
    }

    /// Runs one COPY FROM STDIN that has to succeed.
    pub fn must_copy(&mut self, sql: &str, data: &[u8]) -> Reply {
        let reply = self.simple_with(sql, Some(data)).unwrap_or_else(|error| panic!("{sql}: {error}"));
        if let Some(fault) = reply.fault() {
            panic!("{sql}: {} {} {:?}", fault.sqlstate, fault.message, fault.hint);
        }
        reply
    }

    /// Sends what [`Raw::extended`] sends; [`Raw::finish`] reads what it answers.
    pub fn begin_extended(&mut self, sql: &str, parameters: &[Parameter]) -> io::Result<()> {
        let mut out = Vec::new();
        parse(&mut out, "", sql, parameters);
        bind(&mut out, "", parameters, false);
        frame(&mut out, b'D', b"P\0");
        frame(&mut out, b'E', b"\0\0\0\0\0");
        frame(&mut out, b'S', b"");
        self.stream.write_all(&out)
    }

    /// Parse, Bind, Describe, Execute and Sync in one write, with the unnamed statement and text results.
    pub fn extended(&mut self, sql: &str, parameters: &[Parameter], copy_in: Option<&[u8]>) -> io::Result<Reply> {
        self.begin_extended(sql, parameters)?;
        self.collect(copy_in, true)
    }

    /// As drivers do it: a named statement is prepared and described, then bound and executed `times`
    /// times with binary parameters and results, then closed. The answer of the last execution
    /// (or of the preparation, when that fails) counts.
    pub fn prepared(
        &mut self,
        name: &str,
        sql: &str,
        parameters: &[Parameter],
        times: usize,
        copy_in: Option<&[u8]>,
    ) -> io::Result<Reply> {
        let mut out = Vec::new();
        parse(&mut out, name, sql, parameters);
        let mut describe = b"S".to_vec();
        zero_terminated(&mut describe, name);
        frame(&mut out, b'D', &describe);
        frame(&mut out, b'S', b"");
        self.stream.write_all(&out)?;
        let described = self.collect(None, true)?;
        if described.fault().is_some() {
            return Ok(described);
        }
        let parameter_types = described.answers.first().and_then(|a| a.parameters.clone());
        let columns = described.answers.first().and_then(|a| a.columns.clone());
        let mut reply = described;
        for _ in 0..times {
            let mut out = Vec::new();
            bind(&mut out, name, parameters, true);
            frame(&mut out, b'E', b"\0\0\0\0\0");
            frame(&mut out, b'S', b"");
            self.stream.write_all(&out)?;
            reply = self.collect(copy_in, true)?;
            if let Some(answer) = reply.answers.first_mut() {
                answer.parameters.clone_from(&parameter_types);
                answer.columns.clone_from(&columns);
            }
            if reply.fault().is_some() {
                break;
            }
        }
        let mut out = Vec::new();
        frame(&mut out, b'C', &describe);
        frame(&mut out, b'S', b"");
        self.stream.write_all(&out)?;
        self.collect(None, true)?;
        Ok(reply)
    }

    /// Reads up to ReadyForQuery. In the extended protocol the messages of one Sync make one answer.
    fn collect(&mut self, copy_in: Option<&[u8]>, extended: bool) -> io::Result<Reply> {
        let mut answers = Vec::new();
        let mut current = Answer::default();
        let mut begun = false;
        loop {
            let received = self.receive();
            let (tag, mut body) = received.map_err(|error| match current.fault.as_ref().or(last_fault(&answers)) {
                Some(said) => {
                    io::Error::new(error.kind(), format!("{error} behind {} {}", said.sqlstate, said.message))
                }
                None => error,
            })?;
            match tag {
                b'T' => {
                    if current.columns.is_some() {
                        return Err(invalid("a second RowDescription in one answer"));
                    }
                    current.columns = Some(read_columns(&mut body)?);
                }
                b't' => current.parameters = Some(read_oids(&mut body)?),
                b'D' => current.rows.push(read_row(&mut body)?),
                b'G' => self.send_copy(copy_in, extended)?,
                b'H' => current.copied = Some(Vec::new()),
                b'd' => match &mut current.copied {
                    Some(copied) => copied.extend(body.0),
                    None => return Err(invalid("CopyData without CopyOutResponse")),
                },
                b'C' => current.tag = Some(body.string()?),
                b'I' => current.tag = Some(String::new()),
                b's' => current.tag = Some("suspended".into()),
                b'E' => {
                    if current.fault.is_some() {
                        return Err(invalid("a second ErrorResponse for one statement"));
                    }
                    current.fault = Some(read_fault(&mut body)?);
                }
                b'N' => current.notices.push(read_fault(&mut body)?.sqlstate),
                b'1' | b'2' | b'3' | b'n' | b'c' | b'S' | b'A' => {}
                b'Z' => {
                    let status = char::from(body.byte()?);
                    if extended || begun {
                        answers.push(current);
                    }
                    if !self.buffer.is_empty() {
                        return Err(invalid("bytes after ReadyForQuery"));
                    }
                    return Ok(Reply { answers, status });
                }
                other => return Err(invalid(format!("message {:?}", char::from(other)))),
            }
            begun = begun || !matches!(tag, b'N' | b'S' | b'A');
            if !extended && matches!(tag, b'C' | b'I' | b'E') {
                answers.push(std::mem::take(&mut current));
                begun = false;
            }
        }
    }

    fn send_copy(&mut self, data: Option<&[u8]>, extended: bool) -> io::Result<()> {
        let mut out = Vec::new();
        match data {
            Some(data) => {
                // Odd sizes on purpose: rows begin and end anywhere in a CopyData message.
                for chunk in data.chunks(8_191) {
                    frame(&mut out, b'd', chunk);
                }
                frame(&mut out, b'c', b"");
            }
            None => frame(&mut out, b'f', b"no data\0"),
        }
        if extended {
            // A Sync sent before COPY began is swallowed by the server while it reads COPY data.
            frame(&mut out, b'S', b"");
        }
        self.stream.write_all(&out)
    }
}

fn last_fault(answers: &[Answer]) -> Option<&Fault> {
    answers.last().and_then(|answer| answer.fault.as_ref())
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.stream.write_all(&[b'X', 0, 0, 0, 4]);
    }
}

fn parse(out: &mut Vec<u8>, name: &str, sql: &str, parameters: &[Parameter]) {
    let mut body = Vec::new();
    zero_terminated(&mut body, name);
    zero_terminated(&mut body, sql);
    body.extend_from_slice(&u16::try_from(parameters.len()).unwrap().to_be_bytes());
    for parameter in parameters {
        body.extend_from_slice(&parameter.type_oid.to_be_bytes());
    }
    frame(out, b'P', &body);
}

fn bind(out: &mut Vec<u8>, name: &str, parameters: &[Parameter], binary: bool) {
    let mut body = vec![0];
    zero_terminated(&mut body, name);
    let format = u16::from(binary).to_be_bytes();
    body.extend_from_slice(&[0, 1]);
    body.extend_from_slice(&format);
    body.extend_from_slice(&u16::try_from(parameters.len()).unwrap().to_be_bytes());
    for parameter in parameters {
        match &parameter.value {
            None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(value) => {
                body.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend_from_slice(value);
            }
        }
    }
    body.extend_from_slice(&[0, 1]);
    body.extend_from_slice(&format);
    frame(out, b'B', &body);
}

fn read_columns(body: &mut Body) -> io::Result<Vec<Column>> {
    let count = body.i16()?;
    (0..count)
        .map(|_| {
            let name = body.string()?;
            body.i32()?;
            body.i16()?;
            let type_oid = body.i32()?.cast_unsigned();
            body.i16()?;
            body.i32()?;
            body.i16()?;
            Ok(Column { name, type_oid })
        })
        .collect()
}

fn read_oids(body: &mut Body) -> io::Result<Vec<u32>> {
    let count = body.i16()?;
    (0..count).map(|_| Ok(body.i32()?.cast_unsigned())).collect()
}

fn read_row(body: &mut Body) -> io::Result<Vec<Cell>> {
    let count = body.i16()?;
    (0..count)
        .map(|_| match usize::try_from(body.i32()?) {
            Ok(length) => body.take(length).map(Some),
            Err(_) => Ok(None),
        })
        .collect()
}

fn read_fault(body: &mut Body) -> io::Result<Fault> {
    let mut fault = Fault { sqlstate: String::new(), message: String::new(), hint: None };
    loop {
        match body.byte()? {
            0 => return Ok(fault),
            b'C' => fault.sqlstate = body.string()?,
            b'M' => fault.message = body.string()?,
            b'H' => fault.hint = Some(body.string()?),
            _ => {
                body.string()?;
            }
        }
    }
}
