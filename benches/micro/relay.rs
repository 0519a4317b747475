//! Messages between a client and the one server that answers it.

use std::hint::black_box;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ostrakon::session::direct::facts::Facts;
use ostrakon::session::direct::{Host, Machine, ServerSide, SharedStatements, Statement};
use ostrakon::session::identity::Identified;
use ostrakon::session::{Parameters, PoolMode, PreparedSet, Settings};
use ostrakon::wire::client_message::{self, Bind};
use ostrakon::wire::frame::{scan, take_frame};
use ostrakon::wire::limits::MESSAGE_BYTES_MAX;
use ostrakon::wire::server_message as server;

use crate::cases::Turn;
use crate::statements::POINT;

/// A process with one session in it.
#[derive(Default)]
struct Alone {
    known: SharedStatements,
}

impl Host for Alone {
    fn keeps_commits(&self) -> bool {
        false
    }
    fn own_pid(&self) -> u32 {
        1
    }
    fn unique_id(&self) -> u64 {
        1
    }
    fn statement(&self, parse_body: Bytes, settings_key: u64, facts: Facts) -> Arc<Statement> {
        self.known.get(parse_body, settings_key, facts, || 7)
    }
    fn schema_version(&self) -> u64 {
        0
    }
    fn schema_changed(&self) {}
    fn may_leave(&self, _: Option<&str>, _: &str) -> bool {
        false
    }
    fn function_settings(&self) -> Vec<String> {
        Vec::new()
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
        server_pid
    }
}

/// A server connection as the pool keeps it.
#[derive(Default)]
struct Connection {
    output: BytesMut,
    pending_ready: usize,
    status: u8,
    prepared: PreparedSet,
    unnamed: u64,
    last_session: u32,
    settings_key: u64,
    schema_version: u64,
    parameters: Parameters,
    is_poisoned: bool,
}

impl Connection {
    fn side(&mut self) -> ServerSide<'_> {
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
}

/// A client, the connection and the session between them.
struct Scene {
    machine: Machine,
    connection: Connection,
    to_client: BytesMut,
    host: Alone,
}

impl Scene {
    fn new() -> Self {
        Self {
            machine: Machine::new(PoolMode::Transaction, Settings::default()),
            connection: Connection { status: b'I', ..Connection::default() },
            to_client: BytesMut::new(),
            host: Alone::default(),
        }
    }

    /// One transaction: a connection is taken, the client speaks, the server answers, the connection goes back.
    fn exchange(&mut self, asked: &[u8], answered: &[u8]) {
        self.machine.attach(&mut self.connection.side(), &self.host, &mut self.to_client);
        let mut asked = BytesMut::from(asked);
        while let Some(frame) = take_frame(&mut asked, MESSAGE_BYTES_MAX).unwrap() {
            let side = &mut self.connection.side();
            self.machine.client(frame, Some(side), &self.host, &mut self.to_client).unwrap();
        }
        black_box(&self.connection.output);
        self.connection.output.clear();
        let mut answered = BytesMut::from(answered);
        let mut side = self.connection.side();
        self.machine.pump(&mut answered, &mut side, &self.host, &mut self.to_client).unwrap();
        self.machine.look_after(&mut side);
        assert!(self.machine.may_release() && self.to_client.ends_with(b"I"));
        self.machine.detach();
        self.to_client.clear();
    }
}

fn written(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut buffer = BytesMut::new();
    write(&mut buffer);
    buffer.freeze()
}

fn rows(output: &mut BytesMut, count: usize) {
    for _ in 0..count {
        server::write_data_row(output, &[Some(b"4711"), Some(b"some words that fill the row"), None]);
    }
}

fn end(output: &mut BytesMut) {
    server::write_command_complete(output, "SELECT 1");
    server::write_ready_for_query(output, b'I');
}

/// One simple query and its answer of so many rows.
pub fn simple(row_count: usize) -> Turn {
    let mut scene = Scene::new();
    let asked = written(|output| client_message::encode_query(output, POINT));
    let answered = written(|output| {
        let field = server::Field::text("abalance");
        server::write_row_description(output, &[field.clone(), field.clone(), field]);
        rows(output, row_count);
        end(output);
    });
    Box::new(move || scene.exchange(&asked, &answered))
}

fn bind(statement: &str, output: &mut BytesMut) {
    let bind = Bind {
        portal: String::new(),
        statement: statement.to_owned(),
        parameter_formats: Vec::new(),
        parameters: vec![Some(Bytes::from_static(b"471100"))],
        result_formats: Vec::new(),
    };
    client_message::encode_bind(output, "", statement, &bind);
    client_message::encode_execute(output, "", 0);
    client_message::encode_sync(output);
}

fn answer_to_bind(before: &[u8], output: &mut BytesMut) {
    for tag in before {
        server::write_empty(output, *tag);
    }
    rows(output, 1);
    end(output);
}

const WITH_PARAMETER: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1";

/// Parse, Bind, Execute and Sync of the unnamed statement.
pub fn extended() -> Turn {
    let mut scene = Scene::new();
    let parse = |output: &mut BytesMut| client_message::encode_parse(output, "", WITH_PARAMETER, &[]);
    let asked = written(|output| {
        parse(output);
        bind("", output);
    });
    // The second time the connection has the statement.
    let (first, later) = (written(|out| answer_to_bind(b"12", out)), written(|out| answer_to_bind(b"2", out)));
    let mut is_first = true;
    Box::new(move || {
        let knows = !std::mem::take(&mut is_first) && scene.connection.unnamed != 0;
        scene.exchange(&asked, if knows { &later } else { &first });
    })
}

/// Bind, Execute and Sync of a named statement that the connection has.
pub fn prepared() -> Turn {
    let mut scene = Scene::new();
    let parse = written(|output| {
        client_message::encode_parse(output, "s", WITH_PARAMETER, &[]);
        client_message::encode_sync(output);
    });
    scene.exchange(
        &parse,
        &written(|output| {
            server::write_empty(output, b'1');
            server::write_ready_for_query(output, b'I');
        }),
    );
    let (asked, answered) = (written(|output| bind("s", output)), written(|output| answer_to_bind(b"2", output)));
    Box::new(move || scene.exchange(&asked, &answered))
}

/// Only the headers of rows are looked at.
pub fn headers() -> Turn {
    let buffer = written(|output| rows(output, 200));
    Box::new(move || {
        let mut count = 0;
        for header in scan(black_box(&buffer)) {
            count += header.unwrap().end;
        }
        black_box(count);
    })
}

/// Messages one by one.
pub fn frames() -> Turn {
    let buffer = written(|output| rows(output, 100));
    Box::new(move || {
        let mut buffer = BytesMut::from(&buffer[..]);
        while let Some(frame) = take_frame(&mut buffer, MESSAGE_BYTES_MAX).unwrap() {
            black_box(frame);
        }
    })
}
