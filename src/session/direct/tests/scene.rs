//! A session, its client's ear and a server's connection, for scripted exchanges.

use std::cell::Cell;

use bytes::{Bytes, BytesMut};

use super::super::*;
use crate::session::Settings;
use crate::wire::client_message::Bind;
use crate::wire::frame::{Frame, take_frame};
use crate::wire::limits::MESSAGE_BYTES_MAX;
use crate::wire::server_message as server;

/// A server connection as the pool keeps it.
#[derive(Default)]
pub(super) struct Connection {
    pub(super) output: BytesMut,
    pub(super) pending_ready: usize,
    pub(super) status: u8,
    pub(super) prepared: PreparedSet,
    pub(super) unnamed: u64,
    pub(super) last_session: u32,
    pub(super) settings_key: u64,
    pub(super) schema_version: u64,
    pub(super) parameters: Parameters,
    pub(super) is_poisoned: bool,
}

impl Connection {
    pub(super) fn side(&mut self) -> ServerSide<'_> {
        ServerSide {
            output: &mut self.output,
            pending_ready: &mut self.pending_ready,
            status: &mut self.status,
            prepared: &mut self.prepared,
            unnamed: &mut self.unnamed,
            last_session: &mut self.last_session,
            settings_key: &mut self.settings_key,
            schema_version: &mut self.schema_version,
            parameters: &mut self.parameters,
            is_poisoned: &mut self.is_poisoned,
        }
    }

    /// What it was sent since the last look, readable: tag and first texts of the body.
    pub(super) fn heard(&mut self) -> Vec<String> {
        read(&mut self.output)
    }
}

/// A process with nobody else in it.
#[derive(Default)]
pub(super) struct Alone {
    pub(super) ids: Cell<u64>,
    pub(super) known: SharedStatements,
    pub(super) version: Cell<u64>,
    pub(super) pid: Cell<u32>,
}

impl Host for Alone {
    fn own_pid(&self) -> u32 {
        self.pid.get()
    }
    fn keeps_commits(&self) -> bool {
        true
    }
    fn unique_id(&self) -> u64 {
        self.ids.set(self.ids.get() + 1);
        self.ids.get()
    }
    fn statement(&self, parse_body: Bytes, settings_key: u64, facts: Facts) -> Arc<Statement> {
        self.known.get(parse_body, settings_key, facts, || self.unique_id())
    }
    fn schema_version(&self) -> u64 {
        self.version.get()
    }
    fn schema_changed(&self) {
        self.version.set(self.version.get() + 1);
    }
    fn may_leave(&self, _: Option<&str>, function: &str) -> bool {
        function.starts_with("my_")
    }
    fn function_settings(&self) -> Vec<String> {
        vec!["app.tenant".to_owned()]
    }
    fn identify(&self, _: &str) -> Option<Identified> {
        None
    }
    fn role_of_session(&self, _: u32) -> Option<String> {
        None
    }
    fn is_own_role(&self, _: &str) -> bool {
        true
    }
    fn session_of(&self, server_pid: u32) -> u32 {
        server_pid + 1_000
    }
}

/// Frames as `tag` or `tag:text`, control characters as dots.
pub(super) fn read(bytes: &mut BytesMut) -> Vec<String> {
    let mut found = Vec::new();
    while let Some(frame) = take_frame(bytes, MESSAGE_BYTES_MAX).unwrap() {
        let body: String = frame
            .body()
            .iter()
            .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' })
            .collect();
        let body = body.trim_matches('.');
        let name = char::from(frame.tag);
        found.push(if body.is_empty() { name.to_string() } else { format!("{name}:{body}") });
    }
    assert!(bytes.is_empty());
    found
}

/// A session with its client's ear.
pub(super) struct Scene {
    pub(super) machine: Machine,
    pub(super) host: Alone,
    pub(super) to_client: BytesMut,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self::with(PoolMode::Transaction, Settings::default())
    }

    pub(super) fn with(mode: PoolMode, settings: Settings) -> Self {
        Self { machine: Machine::new(mode, settings), host: Alone::default(), to_client: BytesMut::new() }
    }

    pub(super) fn on(mode: PoolMode, connection: &mut Connection) -> Self {
        let mut scene = Self::with(mode, Settings::default());
        scene.attach(connection);
        scene
    }

    pub(super) fn attach(&mut self, connection: &mut Connection) {
        self.machine.attach(&mut connection.side(), &self.host, &mut self.to_client);
    }

    /// The client says something.
    pub(super) fn say(&mut self, connection: &mut Connection, write: impl FnOnce(&mut BytesMut)) -> Taken {
        let mut bytes = BytesMut::new();
        write(&mut bytes);
        let mut last = Taken::Done;
        while let Some(frame) = take_frame(&mut bytes, MESSAGE_BYTES_MAX).unwrap() {
            let sent = Bytes::copy_from_slice(&frame.bytes);
            let frame = Frame { tag: frame.tag, bytes: sent.clone() };
            let side = &mut connection.side();
            let side = self.machine.is_attached().then_some(side);
            last = self.machine.client(frame, side, &self.host, &mut self.to_client).unwrap();
            assert!(sent[0] != b'P' || sent.is_unique(), "a slice keeps the buffer of its message");
        }
        last
    }

    /// The server says something; what the client gets to hear.
    pub(super) fn answer(&mut self, connection: &mut Connection, write: impl FnOnce(&mut BytesMut)) -> Vec<String> {
        let mut input = BytesMut::new();
        write(&mut input);
        let mut side = connection.side();
        self.machine.pump(&mut input, &mut side, &self.host, &mut self.to_client).unwrap();
        self.machine.look_after(&mut side);
        read(&mut self.to_client)
    }
}

pub(super) fn query(text: &str) -> impl FnOnce(&mut BytesMut) {
    let text = text.to_owned();
    move |output| client_message::encode_query(output, &text)
}

pub(super) fn complete(output: &mut BytesMut, tag: &str, status: u8) {
    server::write_command_complete(output, tag);
    server::write_ready_for_query(output, status);
}

pub(super) fn error(output: &mut BytesMut, code: &str) {
    server::write_error(output, "ERROR", code, "no", None, None);
}

pub(super) fn parse(output: &mut BytesMut, name: &str, sql: &str) {
    client_message::encode_parse(output, name, sql, &[]);
}

pub(super) fn bind_execute(output: &mut BytesMut, name: &str) {
    let bind = Bind {
        portal: String::new(),
        statement: name.to_owned(),
        parameter_formats: Vec::new(),
        parameters: Vec::new(),
        result_formats: Vec::new(),
    };
    client_message::encode_bind(output, "", name, &bind);
    client_message::encode_execute(output, "", 0);
}

pub(super) fn answers(output: &mut BytesMut, tags: &[u8]) {
    for tag in tags {
        server::write_empty(output, *tag);
    }
}
