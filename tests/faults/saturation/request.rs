//! What clients ask, what has to come back, and the judge of both.
//!
//! Every statement carries a number that no other statement has; every row of its reply has to carry
//! the same number. The judge sees nothing but bytes, and knows nothing of the proxy.

use std::collections::BTreeSet;

use super::wire::Reply;
use crate::frames::{self, Frame};

/// Numbers without a pattern, the same for the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }
}

/// Owners of rows, and rows of each.
pub const OWNERS: u64 = 40;
pub const ROWS: u64 = 30;

/// What one statement has to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The first column of every row.
    pub nonce: String,
    /// The second column of every row, where it is known.
    pub second: Option<String>,
    pub rows: u64,
}

/// What has to come for one Query or Sync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    pub statements: Vec<Expected>,
    /// Code of the error that ends it.
    pub error: Option<&'static str>,
    pub status: u8,
}

/// Messages that are sent together, and what has to come back.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub kind: &'static str,
    pub bytes: Vec<u8>,
    pub groups: Vec<Group>,
}

/// Says what is wrong with a reply.
pub fn judge(group: &Group, reply: &Reply) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}: expected {group:?}, came {}", shown(reply)));
    if reply.error.as_ref().map(|(code, _)| code.as_str()) != group.error {
        return wrong("another outcome");
    }
    if reply.statements.len() != group.statements.len() {
        return wrong("another number of answers");
    }
    for (expected, rows) in group.statements.iter().zip(&reply.statements) {
        if rows.len() as u64 != expected.rows {
            return wrong("another number of rows");
        }
        for row in rows {
            if row.first().map(Vec::as_slice) != Some(expected.nonce.as_bytes()) {
                return wrong("a row of another request");
            }
            let second = expected.second.as_ref().map(String::as_bytes);
            if second.is_some() && row.get(1).map(Vec::as_slice) != second {
                return wrong("a row with another's data");
            }
        }
    }
    if reply.status != group.status { wrong("another transaction status") } else { Ok(()) }
}

fn shown(reply: &Reply) -> String {
    let text = |cell: &Vec<u8>| String::from_utf8_lossy(cell).into_owned();
    let first = |rows: &Vec<Vec<Vec<u8>>>| {
        let cells: Vec<String> = rows.first().map(|row| row.iter().map(text).collect()).unwrap_or_default();
        (rows.len(), cells)
    };
    format!(
        "{:?} {:?} {}",
        reply.statements.iter().map(first).collect::<Vec<_>>(),
        reply.error,
        char::from(reply.status)
    )
}

/// Makes a client's requests.
pub struct Maker {
    client: u64,
    serial: u64,
    dice: Dice,
    /// Names that the session has parsed.
    prepared: BTreeSet<String>,
}

impl Maker {
    pub fn new(client: u64, seed: u64) -> Self {
        Self {
            client,
            serial: 0,
            dice: Dice::new(seed.wrapping_add(client.wrapping_mul(7_919))),
            prepared: BTreeSet::new(),
        }
    }

    pub fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// The session is another one: it has parsed nothing.
    pub fn reconnected(&mut self) {
        self.prepared.clear();
    }

    fn nonce(&mut self) -> String {
        self.serial += 1;
        (self.client * 1_000_000_000 + self.serial).to_string()
    }

    fn owner(&mut self) -> u64 {
        self.dice.below(OWNERS)
    }

    /// The name under which a client's session is known to itself.
    pub fn own_name(&self) -> String {
        format!("client {}", self.client)
    }

    /// The first request of a session: a setting of its own.
    pub fn introduce(&mut self) -> Request {
        let nonce = self.nonce();
        let sql = format!("SET application_name TO '{}'; SELECT {nonce}::bigint", self.own_name());
        let silent = Expected { nonce: nonce.clone(), second: None, rows: 0 };
        let told = Expected { nonce, second: None, rows: 1 };
        one("setting", &[frames::query(&sql)], vec![silent, told])
    }

    /// One of all kinds that a session survives.
    pub fn next(&mut self) -> Request {
        match self.dice.below(100) {
            0..25 => self.simple(),
            25..50 => self.named(),
            50..62 => self.unnamed(),
            62..80 => self.pipeline(),
            80..86 => self.scatter(),
            86..93 => self.setting(),
            _ => self.transaction(),
        }
    }

    pub fn simple(&mut self) -> Request {
        let (nonce, owner) = (self.nonce(), self.owner());
        let sql = format!("SELECT {nonce}::bigint AS nonce, owner, n, pad FROM owned WHERE owner = {owner} ORDER BY n");
        let expected = Expected { nonce, second: Some(owner.to_string()), rows: ROWS };
        one("simple", &[frames::query(&sql)], vec![expected])
    }

    /// By a name that means the same for every client, or something else for each.
    pub fn named(&mut self) -> Request {
        let (nonce, owner) = (self.nonce(), self.owner());
        let is_own = self.dice.below(4) == 0;
        let (name, sql, second) = if is_own {
            let sql = format!("SELECT $1::bigint, 'of {}', n FROM owned WHERE owner = $2 ORDER BY n", self.own_name());
            ("same name, other text", sql, format!("of {}", self.own_name()))
        } else {
            let sql = "SELECT $1::bigint AS nonce, owner, n FROM owned WHERE owner = $2 ORDER BY n".to_owned();
            ("shared", sql, owner.to_string())
        };
        let mut messages = Vec::new();
        if self.prepared.insert(name.to_owned()) {
            messages.push(frames::parse(name, &sql, &[20, 23]));
        }
        messages.push(frames::bind("", name, &[Some(&nonce), Some(&owner.to_string())]));
        messages.push(frames::execute("", 0));
        messages.push(frames::sync());
        one("named", &messages, vec![Expected { nonce, second: Some(second), rows: ROWS }])
    }

    pub fn unnamed(&mut self) -> Request {
        let (nonce, owner) = (self.nonce(), self.owner());
        let sql = "SELECT $1::bigint AS nonce, owner FROM owned WHERE owner = $2 AND n < 5";
        let messages = vec![
            frames::parse("", sql, &[20, 23]),
            frames::describe_statement(""),
            frames::bind("", "", &[Some(&nonce), Some(&owner.to_string())]),
            frames::describe_portal(""),
            frames::execute("", 0),
            frames::sync(),
        ];
        one("unnamed", &messages, vec![Expected { nonce, second: Some(owner.to_string()), rows: 5 }])
    }

    /// Rows of all owners, from all shards.
    pub fn scatter(&mut self) -> Request {
        let nonce = self.nonce();
        let n = self.dice.below(ROWS);
        let sql = format!("SELECT {nonce}::bigint AS nonce, n, owner FROM owned WHERE n = {n} ORDER BY owner");
        one("scatter", &[frames::query(&sql)], vec![Expected { nonce, second: Some(n.to_string()), rows: OWNERS }])
    }

    /// What the session has set is in force, and nobody else's.
    pub fn setting(&mut self) -> Request {
        let nonce = self.nonce();
        let sql = format!("SELECT {nonce}::bigint AS nonce, current_setting('application_name')");
        one("setting", &[frames::query(&sql)], vec![Expected { nonce, second: Some(self.own_name()), rows: 1 }])
    }

    /// An error in the middle of what has been sent together.
    fn failing(&mut self) -> Request {
        let nonce = self.nonce();
        let messages = vec![
            frames::parse("", "SELECT $1::bigint / 0", &[20]),
            frames::bind("", "", &[Some(&nonce)]),
            frames::execute("", 0),
            frames::execute("", 0),
            frames::sync(),
        ];
        let group = Group { statements: Vec::new(), error: Some("22012"), status: b'I' };
        Request { kind: "failing", bytes: bytes(&messages), groups: vec![group] }
    }

    /// A temporary table outlives transactions: the session keeps its connection until it is dropped.
    pub fn pinned(&mut self) -> Request {
        let mut request = self.left_over();
        let nonce = self.nonce();
        let quiet = || vec![Expected { nonce: String::new(), second: None, rows: 0 }];
        let mine = vec![Expected { nonce: nonce.clone(), second: Some(self.own_name()), rows: 1 }];
        for (sql, statements) in [
            (format!("SELECT {nonce}::bigint AS nonce, owner FROM mine"), mine),
            ("DROP TABLE mine".to_owned(), quiet()),
        ] {
            request.bytes.extend(frames::query(&sql).bytes());
            request.groups.push(Group { statements, error: None, status: b'I' });
        }
        request
    }

    /// A temporary table that is not dropped.
    pub fn left_over(&mut self) -> Request {
        let mut request = Request { kind: "pinned", ..Request::default() };
        for sql in ["CREATE TEMP TABLE mine (owner text)", &format!("INSERT INTO mine VALUES ('{}')", self.own_name())]
        {
            request.bytes.extend(frames::query(sql).bytes());
            let quiet = Expected { nonce: String::new(), second: None, rows: 0 };
            request.groups.push(Group { statements: vec![quiet], error: None, status: b'I' });
        }
        request
    }

    pub fn transaction(&mut self) -> Request {
        let mut request = Request { kind: "transaction", ..Request::default() };
        let (first, second, owner) = (self.nonce(), self.nonce(), self.owner());
        let quiet = Expected { nonce: String::new(), second: None, rows: 0 };
        let reading = |nonce: &str| format!("SELECT {nonce}::bigint AS nonce, owner FROM owned WHERE owner = {owner}");
        let answer = |nonce: &str| Expected { nonce: nonce.into(), second: Some(owner.to_string()), rows: ROWS };
        for (sql, expected, status) in [
            ("BEGIN".to_owned(), quiet.clone(), b'T'),
            (reading(&first), answer(&first), b'T'),
            (reading(&second), answer(&second), b'T'),
            ("COMMIT".to_owned(), quiet, b'I'),
        ] {
            request.bytes.extend(frames::query(&sql).bytes());
            request.groups.push(Group { statements: vec![expected], error: None, status });
        }
        request
    }

    /// Several of them, sent together.
    pub fn pipeline(&mut self) -> Request {
        let mut request = Request { kind: "pipeline", ..Request::default() };
        for _ in 0..2 + self.dice.below(5) {
            let part = match self.dice.below(8) {
                0..=2 => self.named(),
                3..=4 => self.unnamed(),
                5 => self.simple(),
                6 => self.setting(),
                _ => self.failing(),
            };
            request.bytes.extend(part.bytes);
            request.groups.extend(part.groups);
        }
        request
    }

    /// Sleeps until it is cancelled, or answers if it never is.
    pub fn sleeping(&mut self, seconds: f64) -> (Vec<u8>, Group) {
        let nonce = self.nonce();
        let sql = format!("SELECT {nonce}::bigint AS nonce, pg_sleep({seconds})::text");
        let expected = Expected { nonce, second: None, rows: 1 };
        (frames::query(&sql).bytes(), Group { statements: vec![expected], error: None, status: b'I' })
    }

    /// A transaction that its client never commits.
    pub fn unfinished(&mut self) -> Request {
        let (nonce, owner) = (self.nonce(), self.owner());
        let sql = format!("BEGIN; INSERT INTO ledger (owner, nonce) VALUES ({owner}, {nonce})");
        let quiet = Expected { nonce, second: None, rows: 0 };
        let mut request = one("unfinished", &[frames::query(&sql)], vec![quiet.clone(), quiet]);
        request.groups[0].status = b'T';
        request
    }
}

fn bytes(messages: &[Frame]) -> Vec<u8> {
    messages.iter().flat_map(Frame::bytes).collect()
}

fn one(kind: &'static str, messages: &[Frame], statements: Vec<Expected>) -> Request {
    Request { kind, bytes: bytes(messages), groups: vec![Group { statements, error: None, status: b'I' }] }
}
