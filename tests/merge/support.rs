//! A server, its rows as raw cells, and random numbers from a printed seed.

use std::error::Error;

use bytes::{BufMut, Bytes, BytesMut};
use ostrakon::error::ClientError;
use ostrakon::merge::{Budget, Constant, Merger, Pop};
use ostrakon::plan::{MergeSpec, Slot};
use ostrakon::wire::Format;
use ostrakon::wire::server_message::Field;
use tokio::runtime::Runtime;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::postgres::ThrowawayPostgres;

pub const FORMATS: [Format; 2] = [Format::Text, Format::Binary];

/// A cell as it came; `None` is NULL.
pub type Cell = Option<Vec<u8>>;

/// A result as the wire has it.
pub struct Answer {
    pub fields: Vec<Field>,
    pub rows: Vec<Vec<Cell>>,
}

pub struct Server {
    client: Client,
    runtime: Runtime,
    _server: ThrowawayPostgres,
}

struct Raw(Vec<u8>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl Server {
    pub fn start(port: u16) -> Self {
        let server = ThrowawayPostgres::start(port);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&server.url("postgres"), NoTls).await.unwrap();
            tokio::spawn(connection);
            client
        });
        let server = Self { client, runtime, _server: server };
        // The time zone has a change of offset, in which local times repeat.
        server.execute("SET TimeZone = 'Europe/Paris'");
        server
    }

    pub fn execute(&self, sql: &str) {
        self.runtime.block_on(self.client.batch_execute(sql)).unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }

    /// Runs a query and gives its cells in one format.
    pub fn query(&self, sql: &str, format: Format) -> Answer {
        self.runtime.block_on(async {
            let statement = self.client.prepare(sql).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
            let fields: Vec<Field> = statement
                .columns()
                .iter()
                .map(|column| Field {
                    name: Bytes::copy_from_slice(column.name().as_bytes()),
                    table_oid: 0,
                    column: 0,
                    type_oid: column.type_().oid(),
                    type_size: -1,
                    type_modifier: -1,
                    format,
                })
                .collect();
            let rows = match format {
                Format::Binary => {
                    let rows =
                        self.client.query(&statement, &[]).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
                    let raw = |row: &tokio_postgres::Row, at| row.get::<_, Option<Raw>>(at).map(|raw| raw.0);
                    rows.iter().map(|row| (0..fields.len()).map(|at| raw(row, at)).collect()).collect()
                }
                Format::Text => {
                    let messages =
                        self.client.simple_query(sql).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
                    messages
                        .iter()
                        .filter_map(|message| match message {
                            SimpleQueryMessage::Row(row) => Some(
                                (0..fields.len()).map(|at| row.get(at).map(|text| text.as_bytes().to_vec())).collect(),
                            ),
                            _ => None,
                        })
                        .collect()
                }
            };
            Answer { fields, rows }
        })
    }

    /// The text of numbers that are sent in binary, so that no decimal is read on the way.
    pub fn print_array<T: ToSql + Sync>(&self, element: &str, values: &[T]) -> Vec<String>
    where
        for<'a> &'a [T]: ToSql,
    {
        let sql = format!("SELECT v::text FROM unnest($1::{element}[]) WITH ORDINALITY u(v, n) ORDER BY n");
        let rows = self.runtime.block_on(self.client.query(&sql, &[&values])).unwrap();
        assert_eq!(rows.len(), values.len());
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// All cells of a query as text; NULL is an empty string.
    pub fn texts(&self, sql: &str) -> Vec<Vec<String>> {
        let text = |cell: &Cell| String::from_utf8(cell.clone().unwrap_or_default()).unwrap();
        self.query(sql, Format::Text).rows.iter().map(|row| row.iter().map(text).collect()).collect()
    }
}

/// Merges the answers of several shards; `seed` decides which shard is read when.
pub fn merge(
    spec: &MergeSpec,
    shards: &[Answer],
    limit: Option<u64>,
    offset: u64,
    constants: &dyn Fn(&Slot) -> Option<Constant>,
    seed: u64,
) -> Result<Vec<Vec<Cell>>, ClientError> {
    let budget = Budget { rows: 1_000_000, bytes: 1 << 28 };
    let mut merger = Merger::new(spec, &shards[0].fields, shards.len(), limit, offset, constants, budget)?;
    let mut random = Random::new(seed);
    let mut next = vec![0; shards.len()];
    let mut out = BytesMut::new();
    loop {
        let popped = loop {
            match merger.pop(&mut out)? {
                Pop::Rows(_) => {}
                other => break other,
            }
        };
        if popped == Pop::Done {
            return Ok(read_messages(&out));
        }
        let needed: Vec<usize> = (0..shards.len()).filter(|shard| merger.needs(*shard)).collect();
        let shard = needed[random.below(needed.len())];
        for _ in 0..=random.below(20) {
            let Some(row) = shards[shard].rows.get(next[shard]) else {
                merger.finish(shard);
                break;
            };
            merger.push(shard, message(row))?;
            next[shard] += 1;
        }
    }
}

fn message(row: &[Cell]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(b'D');
    body.put_u32(0);
    body.put_u16(row.len() as u16);
    for cell in row {
        match cell {
            None => body.put_i32(-1),
            Some(cell) => {
                body.put_i32(cell.len() as i32);
                body.put_slice(cell);
            }
        }
    }
    let length = body.len() as u32 - 1;
    body[1..5].copy_from_slice(&length.to_be_bytes());
    body.freeze()
}

fn read_messages(mut bytes: &[u8]) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[0], b'D');
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        let mut body = &bytes[5..=length];
        bytes = &bytes[length + 1..];
        let count = u16::from_be_bytes(body[..2].try_into().unwrap());
        body = &body[2..];
        let mut row = Vec::new();
        for _ in 0..count {
            let length = i32::from_be_bytes(body[..4].try_into().unwrap());
            body = &body[4..];
            row.push(usize::try_from(length).ok().map(|length| {
                let (cell, rest) = body.split_at(length);
                body = rest;
                cell.to_vec()
            }));
        }
        assert!(body.is_empty());
        rows.push(row);
    }
    rows
}

pub fn no_constants(_: &Slot) -> Option<Constant> {
    None
}

/// xorshift64*: repeatable from its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// `OSTRAKON_SEED`, or a fixed one; printed, so that a failure can be repeated.
    pub fn seeded() -> Self {
        let seed = std::env::var("OSTRAKON_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_000_101);
        eprintln!("OSTRAKON_SEED={seed}");
        Self::new(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 16) % end as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
