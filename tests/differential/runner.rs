//! Runs every statement on one PostgreSQL and through the proxy and keeps both states equal.
//!
//! The proxy goes first: what it refuses is not run on PostgreSQL either (inside a transaction block
//! PostgreSQL's transaction is failed instead), so that later statements meet equal data.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::cases::{Case, CopyData, Order};
use crate::cluster::{Server, eventually};
use crate::compare::{How, Ids, difference, id_text};
use crate::raw::{Cell, Parameter, Raw, Reply, text_of};

/// The demo schema's tables: name, where its rows live, columns (from 0) that may hold generated ids.
pub const TABLES: [(&str, Home, &[usize]); 8] = [
    ("countries", Home::Reference, &[]),
    ("products", Home::Reference, &[]),
    ("users", Home::Sharded("id"), &[0]),
    ("orders", Home::Sharded("user_id"), &[0, 1]),
    ("order_items", Home::Sharded("user_id"), &[0, 1]),
    ("settings", Home::Single, &[]),
    ("events", Home::Sharded("id"), &[0]),
    ("readings", Home::Sharded("device"), &[]),
];

/// Where the rows of a table live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    Sharded(&'static str),
    Reference,
    Single,
}

/// Ids below this one come from the data, not from a sequence.
pub const FIRST_GENERATED_ID: i64 = 100_000;

/// How statements are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Simple,
    Extended,
    Prepared,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Simple, Self::Extended, Self::Prepared];

    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }

    fn runs(self, case: &Case) -> bool {
        let several = case.sql.trim_end_matches(';').contains(";\n");
        match self {
            _ if case.only.as_ref().is_some_and(|only| only != self.name()) => false,
            Self::Simple => case.parameters.is_empty(),
            Self::Extended => !several,
            Self::Prepared => !several && case.copy.is_none() && case.parameters.iter().all(|(kind, _)| kind != "?"),
        }
    }
}

/// What came out of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    pub equal: usize,
    /// Distinct statements run.
    pub statements: BTreeSet<String>,
    /// Statement -> modes in which it was refused.
    pub refused: BTreeMap<String, BTreeSet<&'static str>>,
    /// Not comparable because an earlier statement was refused.
    pub shadowed: usize,
    pub differences: Vec<String>,
}

/// The servers of a run.
pub struct Bench<'a> {
    pub oracle: &'a Server,
    /// Where the statements under test are sent.
    pub port: u16,
    /// The servers behind that port.
    pub shards: &'a [Server],
    /// The side under test gets its rows in the opposite order: what no ORDER BY fixes differs.
    pub is_upside_down: bool,
    /// COPY text of each table's rows.
    rows: Vec<Vec<u8>>,
}

/// Splits a script at lines that end in `;`.
pub fn statements(script: &str) -> Vec<String> {
    crate::cases::read_file("script", script).into_iter().map(|case| case.sql).collect()
}

/// Collapses white space, so that a statement is one line.
pub fn one_line(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl<'a> Bench<'a> {
    /// Creates schema and data on one PostgreSQL and through the port under test.
    pub fn prepare(oracle: &'a Server, port: u16, shards: &'a [Server]) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential");
        let schema = std::fs::read_to_string(directory.join("schema.sql")).unwrap();
        let data = std::fs::read_to_string(directory.join("data.sql")).unwrap();
        let mut expected = oracle.app();
        let mut actual = Raw::connect(port, "app", "app").unwrap();
        for statement in statements(&schema) {
            expected.must(&statement);
            actual.must(&statement);
        }
        statements(&data).iter().for_each(|statement| {
            expected.must(statement);
        });
        let mut rows = Vec::new();
        for (table, ..) in TABLES {
            let reply = expected.must(&format!("COPY (SELECT * FROM {table} ORDER BY {table}) TO STDOUT"));
            rows.push(reply.answers[0].copied.clone().unwrap());
        }
        // The rows bring their own ids; new rows get ids far above them.
        for sequence in ["users_id_seq", "orders_id_seq"] {
            let restart = format!("ALTER SEQUENCE {sequence} RESTART WITH {FIRST_GENERATED_ID}");
            expected.must(&restart);
            actual.must(&restart);
        }
        let bench = Self { oracle, port, shards, is_upside_down: false, rows };
        bench.reset();
        bench
    }

    /// Brings both sides to the same rows: emptied on each server, filled through the port under test.
    pub fn reset(&self) {
        self.drop_leftovers();
        let all = TABLES.map(|(table, ..)| table).join(", ");
        for server in self.shards.iter().chain([self.oracle]) {
            let mut session = server.superuser();
            session.must("SET lock_timeout = '10s'");
            session.must(&format!("TRUNCATE {all}"));
        }
        let mut actual = Raw::connect(self.port, "app", "app").unwrap();
        let mut expected = self.oracle.app();
        for ((table, ..), rows) in TABLES.iter().zip(&self.rows) {
            let copy = format!("COPY {table} FROM STDIN");
            if self.is_upside_down {
                let lines: Vec<&[u8]> = rows.split_inclusive(|byte| *byte == b'\n').rev().collect();
                actual.must_copy(&copy, &lines.concat());
            } else {
                actual.must_copy(&copy, rows);
            }
            expected.must_copy(&copy, rows);
        }
    }

    /// Drops what the cases of an earlier run created and did not drop.
    fn drop_leftovers(&self) {
        let known = TABLES.map(|(table, ..)| format!("'{table}'")).join(", ");
        let query = format!(
            "SELECT CASE relkind WHEN 'v' THEN 'VIEW ' WHEN 'm' THEN 'MATERIALIZED VIEW ' ELSE 'TABLE ' END || quote_ident(relname)
             FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r','v','m','p') AND relname NOT IN ({known})"
        );
        let mut actual = Raw::connect(self.port, "app", "app").unwrap();
        for server in self.shards.iter().chain([self.oracle]) {
            for row in server.superuser().must(&query).texts() {
                let drop = format!(
                    "DROP {} CASCADE",
                    row[0].replacen(' ', " IF EXISTS ", usize::from(!row[0].starts_with('M')))
                );
                if server.port != self.oracle.port {
                    let _ = actual.simple(&drop);
                }
                let _ = server.superuser().simple(&drop);
            }
        }
    }

    /// Runs one file in one mode on fresh data and compares all tables afterwards.
    pub fn run_file(&self, mode: Mode, cases: &[Case], outcome: &mut Outcome) {
        self.reset();
        let mut run = Run::new(self, mode);
        for case in cases.iter().filter(|case| mode.runs(case)) {
            run.case(case, outcome);
        }
        let ids = run.ids;
        drop((run.expected, run.actual));
        let file = cases.first().map_or("", |case| case.file.as_str());
        for text in self.state_differences(&ids) {
            outcome.differences.push(format!("{file} [{}] afterwards: {text}", mode.name()));
        }
    }

    /// All tables in full: through the port, on the shards, and by key.
    pub fn state_differences(&self, ids: &[Ids; 2]) -> Vec<String> {
        let mut found = Vec::new();
        let mut expected = self.oracle.superuser();
        let mut actual = Raw::connect(self.port, "app", "app").unwrap();
        let sessions: Vec<Raw> = self.shards.iter().map(Server::superuser).collect();
        let mut sessions: Vec<(String, Raw)> =
            self.shards.iter().map(|shard| shard.name.clone()).zip(sessions).collect();
        for (_, session) in &mut sessions {
            let free = eventually(Duration::from_secs(5), || {
                session.must("SELECT count(*) FROM pg_prepared_xacts").value() == "0"
            });
            if !free {
                found.push("a prepared transaction is left on a shard".into());
            }
        }
        for (table, home, id_columns) in TABLES {
            let query = format!("SELECT * FROM {table}");
            let wanted = rows_of(&expected.must(&query), id_columns, &ids[0]);
            match actual.simple(&query) {
                Ok(reply) if reply.fault().is_none() => {
                    describe(
                        &mut found,
                        &format!("{table} through the port"),
                        &wanted,
                        &rows_of(&reply, id_columns, &ids[1]),
                    );
                }
                other => found.push(format!("{table}: {other:?}")),
            }
            let mut whole = Vec::new();
            for (name, session) in &mut sessions {
                let reply = session.must(&query);
                let part = rows_of(&reply, id_columns, &ids[1]);
                match home {
                    Home::Reference => {
                        describe(&mut found, &format!("reference table {table} on {name}"), &wanted, &part)
                    }
                    Home::Sharded(_) | Home::Single => whole.extend(part),
                }
                if let Home::Sharded(key) = home {
                    check_keys(&mut found, table, key, &reply, &mut actual);
                }
            }
            if home != Home::Reference {
                whole.sort();
                describe(&mut found, &format!("{table} over all shards"), &wanted, &whole);
            }
        }
        found
    }
}

/// Every row that is not of the data is found by its key: it lies where reads by that key look.
fn check_keys(found: &mut Vec<String>, table: &str, key: &str, reply: &Reply, actual: &mut Raw) {
    let answer = &reply.answers[0];
    let column = answer.columns.as_ref().unwrap().iter().position(|column| column.name == key).unwrap();
    let keys: BTreeSet<String> =
        answer.rows.iter().map(|row| text_of(&row[column])).filter(|key| !is_fixture(key)).collect();
    for value in keys {
        let local = answer.rows.iter().filter(|row| text_of(&row[column]) == value).count();
        let query = format!("SELECT count(*) FROM {table} WHERE {key} = '{}'", value.replace('\'', "''"));
        match actual.simple(&query) {
            Ok(reply) if reply.fault().is_none() && reply.value() == local.to_string() => {}
            other => found.push(format!("{table}: {local} rows of key {value} on a shard, by key: {other:?}")),
        }
    }
}

/// Whether a key is one of the data's own.
fn is_fixture(value: &str) -> bool {
    match value.parse::<i64>() {
        Ok(number) => number <= 60,
        Err(_) => value.starts_with("00000000-0000-4000-8000-") || value.starts_with("device-"),
    }
}

/// Whether an id comes from the statements themselves.
fn is_given(value: &str) -> bool {
    match value.parse::<i64>() {
        Ok(number) => number < FIRST_GENERATED_ID,
        Err(_) => value.starts_with("00000000-") || value.starts_with("11111111-"),
    }
}

fn rows_of(reply: &Reply, id_columns: &[usize], ids: &Ids) -> Vec<Vec<String>> {
    let answer = &reply.answers[0];
    let types: Vec<u32> = answer.columns.iter().flatten().map(|column| column.type_oid).collect();
    let text = |(index, cell): (usize, &Cell)| match cell {
        Some(bytes) if id_columns.contains(&index) => {
            let value = id_text(bytes, types[index], false);
            let given = is_given(&value);
            ids.known(&value, given)
        }
        Some(bytes) if crate::compare::is_about_now(bytes, types[index]) => "<now>".into(),
        other => text_of(other),
    };
    let mut rows: Vec<Vec<String>> = answer.rows.iter().map(|row| row.iter().enumerate().map(text).collect()).collect();
    rows.sort();
    rows
}

fn describe(found: &mut Vec<String>, what: &str, wanted: &[Vec<String>], got: &[Vec<String>]) {
    if wanted == got {
        return;
    }
    let count = |rows: &[Vec<String>]| {
        let mut counts: BTreeMap<Vec<String>, i64> = BTreeMap::new();
        rows.iter().for_each(|row| *counts.entry(row.clone()).or_default() += 1);
        counts
    };
    let mut balance = count(got);
    for (row, times) in count(wanted) {
        *balance.entry(row).or_default() -= times;
    }
    let mut text = format!("{what}: {} rows, expected {}", got.len(), wanted.len());
    for (row, surplus) in balance.into_iter().filter(|(_, surplus)| *surplus != 0).take(6) {
        let _ = write!(text, "\n      {surplus:+} {}", row.join(" | "));
    }
    found.push(text);
}

/// One file in one mode.
struct Run<'a> {
    bench: &'a Bench<'a>,
    mode: Mode,
    expected: Raw,
    actual: Raw,
    /// Sends parameters and COPY data through PostgreSQL's own output functions.
    helper: Raw,
    expected_status: char,
    variables: [HashMap<String, String>; 2],
    ids: [Ids; 2],
    /// An earlier refusal in this transaction block explains failures until its end.
    in_shadow: bool,
    counter: usize,
}

impl<'a> Run<'a> {
    fn new(bench: &'a Bench<'a>, mode: Mode) -> Self {
        Self {
            bench,
            mode,
            expected: bench.oracle.app(),
            actual: Raw::connect(bench.port, "app", "app").unwrap(),
            helper: bench.oracle.app(),
            expected_status: 'I',
            variables: Default::default(),
            ids: Default::default(),
            in_shadow: false,
            counter: 0,
        }
    }

    fn case(&mut self, case: &Case, outcome: &mut Outcome) {
        let key = format!("{}: {}", case.file, one_line(&case.sql));
        outcome.statements.insert(key.clone());
        let place = format!("{}.sql:{} [{}] {}", case.file, case.line, self.mode.name(), one_line(&case.sql));
        let texts = self.variables.each_ref().map(|variables| substitute(&case.sql, self.mode, variables));
        let [Some(expected_sql), Some(actual_sql)] = texts else {
            outcome.shadowed += 1;
            return;
        };
        let parameters = self.parameters(case);
        let copy = self.copy_data(case);
        self.counter += 1;
        let send = |session: &mut Raw, sql: &str, mode: Mode, name: usize| {
            send(session, sql, mode, &parameters, copy.as_deref(), &format!("s{name}"))
        };
        let actual = match send(&mut self.actual, &actual_sql, self.mode, self.counter) {
            Ok(reply) => reply,
            Err(error) => {
                outcome.differences.push(format!("{place}\n    the connection failed: {error}"));
                self.expected = self.bench.oracle.app();
                self.actual = Raw::connect(self.bench.port, "app", "app").unwrap();
                self.expected_status = 'I';
                return;
            }
        };
        if actual.sqlstate() == "0A000" && case.error.as_deref() != Some("0A000") {
            outcome.refused.entry(key).or_default().insert(self.mode.name());
            self.follow_refusal(&place, &actual, outcome);
            return;
        }
        let expected = send(&mut self.expected, &expected_sql, self.mode, self.counter)
            .unwrap_or_else(|error| panic!("{place}: PostgreSQL: {error}"));
        self.expected_status = expected.status;
        let binary = self.mode == Mode::Prepared;
        let how = How { order: case.order.clone(), shape: case.shape, ids: case.ids.clone(), binary };
        let promised = case.error.as_deref().unwrap_or("00000");
        if expected.sqlstate() != promised && !self.in_shadow {
            outcome.differences.push(format!(
                "{place}\n    PostgreSQL answers {} {:?}, the case says {promised}",
                expected.sqlstate(),
                expected.fault().map(|fault| &fault.message)
            ));
        }
        match difference(&expected, &actual, &how, &mut self.ids) {
            None if self.in_shadow && expected.fault().is_some() => outcome.shadowed += 1,
            None => outcome.equal += 1,
            Some(text) => outcome.differences.push(format!("{place}\n    {text}")),
        }
        if expected.status == 'I' {
            self.in_shadow = false;
        }
        if let Some(name) = &case.save {
            for (variables, reply) in self.variables.iter_mut().zip([&expected, &actual]) {
                variables.insert(name.clone(), first_value(reply, binary));
            }
        }
    }

    /// Makes PostgreSQL's transaction what the refusal made of the proxy's.
    fn follow_refusal(&mut self, place: &str, actual: &Reply, outcome: &mut Outcome) {
        match (actual.status, self.expected_status) {
            ('E', 'T') => {
                let failed = self.expected.simple("SELECT 1/0").unwrap();
                self.expected_status = failed.status;
            }
            ('I', 'I') | ('E', 'E') => {}
            ('I', _) => {
                self.expected.must("ROLLBACK");
                self.expected_status = 'I';
            }
            (status, expected) => {
                outcome.differences.push(format!("{place}\n    status {status} after a refusal in status {expected}"));
            }
        }
        if self.expected_status == 'E' {
            self.in_shadow = true;
        }
    }

    fn parameters(&mut self, case: &Case) -> Vec<Parameter> {
        let binary = self.mode == Mode::Prepared;
        let mut parameters = Vec::new();
        for (kind, value) in &case.parameters {
            if kind == "?" {
                parameters.push(Parameter { type_oid: 0, value: value.clone().map(String::into_bytes) });
                continue;
            }
            let described =
                self.helper.must(&format!("SELECT oid, typsend FROM pg_type WHERE oid = '{kind}'::regtype"));
            let [oid, output] = <[String; 2]>::try_from(described.texts()[0].clone()).unwrap();
            let value = value.as_ref().map(|value| {
                let quoted = value.replace('\'', "''");
                if !binary {
                    return value.clone().into_bytes();
                }
                let hex = self.helper.must(&format!("SELECT encode({output}('{quoted}'::{kind}), 'hex')")).value();
                (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
            });
            parameters.push(Parameter { type_oid: oid.parse().unwrap(), value });
        }
        parameters
    }

    fn copy_data(&mut self, case: &Case) -> Option<Vec<u8>> {
        match case.copy.as_ref()? {
            CopyData::Text(text) => Some(text.clone().into_bytes()),
            CopyData::Binary(query) => {
                let reply = self.helper.must(&format!("COPY ({query}) TO STDOUT (FORMAT binary)"));
                reply.answers[0].copied.clone()
            }
        }
    }
}

fn send(
    session: &mut Raw,
    sql: &str,
    mode: Mode,
    parameters: &[Parameter],
    copy: Option<&[u8]>,
    name: &str,
) -> std::io::Result<Reply> {
    let bare = sql.trim_end().trim_end_matches(';');
    match mode {
        Mode::Simple => session.simple_with(sql, copy),
        Mode::Extended => session.extended(bare, parameters, copy),
        Mode::Prepared => {
            let times = if bare.to_ascii_lowercase().starts_with("select") { 2 } else { 1 };
            session.prepared(name, bare, parameters, times, copy)
        }
    }
}

/// `${name}` replaced; `None` when a variable has no value (its statement was refused).
fn substitute(sql: &str, mode: Mode, variables: &HashMap<String, String>) -> Option<String> {
    let mut text = sql.replace("${mode}", mode.name());
    for (name, value) in variables {
        text = text.replace(&format!("${{{name}}}"), value);
    }
    (!text.contains("${")).then_some(text)
}

fn first_value(reply: &Reply, binary: bool) -> String {
    let Some(answer) = reply.answers.first() else { return String::new() };
    let type_oid = answer.columns.iter().flatten().next().map_or(0, |column| column.type_oid);
    let cell = answer.rows.first().and_then(|row| row.first()).cloned().flatten();
    cell.map_or_else(String::new, |bytes| id_text(&bytes, type_oid, binary))
}

/// Compares one generated SELECT; `None` is equal or refused.
pub fn compare_select(expected: &mut Raw, actual: &mut Raw, sql: &str, order: &Order) -> Verdict {
    let wanted = expected.simple(sql).unwrap();
    match actual.simple(sql) {
        Err(error) => Verdict::Different(format!("the connection failed: {error}")),
        Ok(got) if got.sqlstate() == "0A000" => Verdict::Refused,
        Ok(got) => {
            let how = How { order: order.clone(), shape: false, ids: Vec::new(), binary: false };
            match difference(&wanted, &got, &how, &mut Default::default()) {
                None if wanted.fault().is_some() => Verdict::EqualError,
                None => Verdict::Equal,
                Some(text) => Verdict::Different(text),
            }
        }
    }
}

/// What a generated SELECT gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Equal,
    EqualError,
    Refused,
    Different(String),
}
