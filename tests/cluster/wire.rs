//! A client that says exactly what a test says, message by message, and shows the answers as words.

#![allow(dead_code)] // the words of the protocol, whether a test needs them yet or not

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// A session whose messages are written by hand.
pub struct Wire {
    stream: TcpStream,
    out: Vec<u8>,
    /// Process id from BackendKeyData.
    pub pid: u32,
    /// ParameterStatus messages as they came.
    pub parameters: Vec<(String, String)>,
}

impl Wire {
    pub fn connect(port: u16, parameters: &[(&str, &str)]) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let mut wire = Self { stream, out: Vec::new(), pid: 0, parameters: Vec::new() };
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        let has_user = parameters.iter().any(|(name, _)| *name == "user");
        let usual = [("database", "app"), ("user", "app")];
        for (name, value) in usual.iter().take(if has_user { 1 } else { 2 }).chain(parameters) {
            body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        body.push(0);
        wire.out.extend((u32::try_from(body.len()).unwrap() + 4).to_be_bytes());
        wire.out.extend(body);
        wire.send();
        let greeting = wire.until_ready();
        assert!(greeting.iter().any(|word| word == "K"), "{greeting:?}");
        wire
    }

    fn frame(&mut self, tag: u8, parts: &[&[u8]]) -> &mut Self {
        let body = parts.concat();
        self.out.push(tag);
        self.out.extend((u32::try_from(body.len()).unwrap() + 4).to_be_bytes());
        self.out.extend(body);
        self
    }

    pub fn query(&mut self, sql: &str) -> &mut Self {
        self.frame(b'Q', &[sql.as_bytes(), b"\0"])
    }

    pub fn parse(&mut self, name: &str, sql: &str) -> &mut Self {
        self.frame(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"])
    }

    /// Text values, text results.
    pub fn bind(&mut self, portal: &str, name: &str, values: &[&str]) -> &mut Self {
        let mut body = [portal.as_bytes(), b"\0", name.as_bytes(), b"\0\0\0"].concat();
        body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
        for value in values {
            body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
            body.extend(value.as_bytes());
        }
        body.extend([0, 0]);
        self.frame(b'B', &[&body])
    }

    pub fn describe(&mut self, kind: u8, name: &str) -> &mut Self {
        self.frame(b'D', &[&[kind], name.as_bytes(), b"\0"])
    }

    pub fn execute(&mut self, portal: &str) -> &mut Self {
        self.frame(b'E', &[portal.as_bytes(), b"\0\0\0\0\0"])
    }

    /// Execute with a limit of rows.
    pub fn execute_some(&mut self, portal: &str, rows_max: u32) -> &mut Self {
        self.frame(b'E', &[portal.as_bytes(), b"\0", &rows_max.to_be_bytes()])
    }

    pub fn close(&mut self, kind: u8, name: &str) -> &mut Self {
        self.frame(b'C', &[&[kind], name.as_bytes(), b"\0"])
    }

    /// FunctionCall with text arguments and a text result.
    pub fn call(&mut self, function: u32, values: &[&str]) -> &mut Self {
        let mut body = function.to_be_bytes().to_vec();
        body.extend([0, 0]);
        body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
        for value in values {
            body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
            body.extend(value.as_bytes());
        }
        body.extend([0, 0]);
        self.frame(b'F', &[&body])
    }

    pub fn flush(&mut self) -> &mut Self {
        self.frame(b'H', &[])
    }

    pub fn sync(&mut self) -> &mut Self {
        self.frame(b'S', &[])
    }

    /// One statement by the unnamed statement and portal.
    pub fn run(&mut self, sql: &str, values: &[&str]) -> &mut Self {
        self.parse("", sql).bind("", "", values).execute("")
    }

    /// Everything that was said, in one write.
    pub fn send(&mut self) -> &mut Self {
        let out = std::mem::take(&mut self.out);
        self.stream.write_all(&out).unwrap();
        self
    }

    /// Answers up to ReadyForQuery.
    pub fn answers(&mut self) -> Vec<String> {
        self.send();
        self.until_ready()
    }

    fn until_ready(&mut self) -> Vec<String> {
        let mut words = Vec::new();
        loop {
            match self.next() {
                Some(word) => {
                    let is_last = word.starts_with('Z') || word.starts_with("E FATAL");
                    words.push(word);
                    if is_last {
                        return words;
                    }
                }
                None => {
                    words.push("closed".to_owned());
                    return words;
                }
            }
        }
    }

    /// Answers so far: for Flush, the test says how many.
    pub fn take(&mut self, count: usize) -> Vec<String> {
        self.send();
        (0..count).map(|_| self.next().unwrap_or_else(|| "closed".to_owned())).collect()
    }

    /// One message as words: `D a|b`, `C SELECT 1`, `E ERROR 42P01 text`, `Z I`; ParameterStatus is kept apart.
    pub fn next(&mut self) -> Option<String> {
        loop {
            let mut header = [0u8; 5];
            if let Err(error) = self.stream.read_exact(&mut header) {
                let is_closed =
                    matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset);
                assert!(is_closed, "no answer came: {error}");
                return None;
            }
            let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
            let mut body = vec![0u8; length - 4];
            self.stream.read_exact(&mut body).unwrap();
            let strings =
                |bytes: &[u8]| String::from_utf8_lossy(bytes).split('\0').map(str::to_owned).collect::<Vec<_>>();
            let tag = char::from(header[0]);
            match tag {
                'S' => {
                    let words = strings(&body);
                    self.parameters.push((words[0].clone(), words[1].clone()));
                }
                'K' => {
                    self.pid = u32::from_be_bytes(body[..4].try_into().unwrap());
                    return Some("K".to_owned());
                }
                'D' => return Some(format!("D {}", row(&body))),
                'V' => return Some(format!("V {}", String::from_utf8_lossy(body.get(4..).unwrap_or_default()))),
                'C' => return Some(format!("C {}", strings(&body)[0])),
                'Z' => return Some(format!("Z {}", char::from(body[0]))),
                'A' => {
                    let words = strings(&body[4..]);
                    let pid = u32::from_be_bytes(body[..4].try_into().unwrap());
                    return Some(format!("A {pid} {} {}", words[0], words[1]));
                }
                'E' | 'N' => {
                    let field = |code: char| {
                        strings(&body).into_iter().find_map(|word| word.strip_prefix(code).map(str::to_owned))
                    };
                    let [severity, code, message] = ['S', 'C', 'M'].map(|code| field(code).unwrap_or_default());
                    return Some(format!("{tag} {severity} {code} {message}"));
                }
                tag => return Some(tag.to_string()),
            }
        }
    }

    /// The last ParameterStatus of that name.
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().rev().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
    }

    /// Runs a simple query that has to succeed; its rows.
    pub fn must(&mut self, sql: &str) -> Vec<String> {
        let answers = self.query(sql).answers();
        assert!(!answers.iter().any(|word| word.starts_with("E ")), "{sql}: {answers:?}");
        answers.iter().filter_map(|word| word.strip_prefix("D ")).map(str::to_owned).collect()
    }

    /// The only value of a simple query that has to succeed.
    pub fn value(&mut self, sql: &str) -> String {
        let rows = self.must(sql);
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows[0].clone()
    }

    /// The error of a simple query that has to fail: SQLSTATE and text.
    pub fn error(&mut self, sql: &str) -> String {
        let answers = self.query(sql).answers();
        let error = answers.iter().find_map(|word| word.strip_prefix("E "));
        let error = error.unwrap_or_else(|| panic!("{sql}: {answers:?}"));
        error.split_once(' ').unwrap().1.to_owned()
    }
}

fn row(body: &[u8]) -> String {
    let mut rest = &body[2..];
    let mut cells = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = i32::from_be_bytes(*length);
        let Ok(length) = usize::try_from(length) else {
            cells.push("NULL".to_owned());
            rest = tail;
            continue;
        };
        cells.push(String::from_utf8_lossy(&tail[..length]).into_owned());
        rest = &tail[length..];
    }
    cells.join("|")
}
