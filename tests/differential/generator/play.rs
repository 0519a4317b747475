//! Runs a program on one PostgreSQL and through a cluster.
//!
//! The proxy goes first, except for reads by themselves: what it refuses is not run on PostgreSQL either.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::draft::Step;
use super::program::Program;
use crate::cases::Order;
use crate::cluster::{Cluster, Server};
use crate::compare::{How, Ids, difference};
use crate::raw::{Raw, Reply};
use crate::runner::Mode;

/// One difference.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which step; `None`: the tables at the end.
    pub step: Option<usize>,
    pub text: String,
}

impl Failure {
    /// What kind of difference it is: two of one kind are taken for the same while shrinking.
    pub fn sign(&self) -> String {
        let line = self.text.lines().next().unwrap_or_default();
        if line.starts_with("error:") { kind_of(line) } else { line.split(':').next().unwrap_or_default().to_owned() }
    }
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub statements: usize,
    pub equal: usize,
    pub errors: usize,
    /// Kind of refusal -> times and one statement.
    pub refused: BTreeMap<String, (usize, String)>,
    /// Kind of statement -> sent, refused.
    pub kinds: BTreeMap<&'static str, (usize, usize)>,
    /// SQLSTATE of equal errors -> times and one statement.
    pub codes: BTreeMap<String, (usize, String)>,
    pub failures: Vec<Failure>,
}

impl Tally {
    pub fn refused_count(&self) -> usize {
        self.refused.values().map(|(count, _)| count).sum()
    }

    pub fn add(&mut self, other: &Self) {
        self.statements += other.statements;
        self.equal += other.equal;
        self.errors += other.errors;
        for (kind, (count, example)) in &other.refused {
            self.refused.entry(kind.clone()).or_insert_with(|| (0, example.clone())).0 += count;
        }
        for (code, (count, example)) in &other.codes {
            self.codes.entry(code.clone()).or_insert_with(|| (0, example.clone())).0 += count;
        }
        for (kind, (sent, refused)) in &other.kinds {
            let entry = self.kinds.entry(kind).or_default();
            entry.0 += sent;
            entry.1 += refused;
        }
    }
}

/// A message with names and numbers replaced.
pub fn kind_of(message: &str) -> String {
    let mut kind = String::new();
    let mut is_name = false;
    for (index, part) in message.split('"').enumerate() {
        is_name = index % 2 == 1;
        if index > 0 {
            kind.push('"');
        }
        kind.push_str(if is_name { "…" } else { part });
    }
    debug_assert!(!is_name || message.matches('"').count() % 2 == 1);
    let mut out = String::new();
    let mut was_digit = false;
    for letter in kind.chars() {
        let is_digit = letter.is_ascii_digit();
        if !(is_digit && was_digit) {
            out.push(if is_digit { 'n' } else { letter });
        }
        was_digit = is_digit;
    }
    out
}

/// Empties every server and begins with a proxy that knows the program's tables.
pub fn prepare(cluster: &mut Cluster, program: &Program) {
    cluster.stop_proxy();
    let superusers = cluster.shards.iter().chain([&cluster.oracle]).map(Server::superuser);
    for mut session in superusers {
        for row in session.must("SELECT gid FROM pg_prepared_xacts").texts() {
            session.must(&format!("ROLLBACK PREPARED '{}'", row[0].replace('\'', "''")));
        }
        session.must(
            "DROP SCHEMA public CASCADE; CREATE SCHEMA public; ALTER SCHEMA public OWNER TO pg_database_owner;
             GRANT USAGE ON SCHEMA public TO PUBLIC",
        );
    }
    let placements = program.world.placements();
    let placements: Vec<_> = placements.iter().map(|(name, placement)| (name.as_str(), placement.clone())).collect();
    cluster.start_anew(&placements);
}

/// Prepares, runs the whole program and compares all tables afterwards. It ends at the first difference in a write.
pub fn play(cluster: &mut Cluster, program: &Program, failures_max: usize) -> Tally {
    play_with(cluster, program, failures_max, |_| ())
}

/// The same, with something done to the servers before the first statement.
pub fn play_with(cluster: &mut Cluster, program: &Program, failures_max: usize, before: impl Fn(&Cluster)) -> Tally {
    prepare(cluster, program);
    let mut tally = Tally::default();
    let mut pair = Pair::connect(cluster);
    for ddl in &program.world.ddl {
        if let Some(text) = pair.both(ddl) {
            tally.failures.push(Failure { step: None, text: format!("schema: {ddl}: {text}") });
            return tally;
        }
    }
    for row in &program.rows {
        if let Verdict::Different(text) = pair.step(row) {
            tally.failures.push(Failure { step: None, text: format!("first rows: {}: {text}", row.sql) });
            return tally;
        }
    }
    before(cluster);
    for (index, step) in program.steps.iter().enumerate() {
        if std::env::var_os("OSTRAKON_TRACE").is_some() {
            println!("{}", super::shrink::step_text(step));
        }
        tally.statements += 1;
        let entry = tally.kinds.entry(step.kind).or_default();
        entry.0 += 1;
        match pair.step(step) {
            Verdict::Equal => tally.equal += 1,
            Verdict::EqualError(code) => {
                tally.errors += 1;
                tally.codes.entry(code).or_insert_with(|| (0, step.sql.clone())).0 += 1;
            }
            Verdict::Refused(message) => {
                entry.1 += 1;
                tally.refused.entry(kind_of(&message)).or_insert_with(|| (0, step.sql.clone())).0 += 1;
            }
            Verdict::Different(text) => {
                tally.failures.push(Failure { step: Some(index), text });
                if tally.failures.len() >= failures_max || !step.reads || step.block.is_some() {
                    return tally;
                }
                pair = Pair::connect(cluster);
            }
        }
    }
    drop(pair);
    afterwards(cluster, program, &mut tally);
    tally
}

/// What one statement gave.
pub enum Verdict {
    Equal,
    /// Its SQLSTATE.
    EqualError(String),
    Refused(String),
    Different(String),
}

/// A session with PostgreSQL and one through the proxy.
pub struct Pair {
    expected: Raw,
    actual: Raw,
    status: char,
    counter: usize,
}

impl Pair {
    pub fn connect(cluster: &Cluster) -> Self {
        let mut actual = cluster.app();
        actual.set_patience(Duration::from_secs(6));
        Self { expected: cluster.oracle.app(), actual, status: 'I', counter: 0 }
    }

    /// Runs DDL that has to succeed on both; what went wrong.
    fn both(&mut self, sql: &str) -> Option<String> {
        self.expected.must(sql);
        match self.actual.simple(sql) {
            Ok(reply) => reply.fault().map(|fault| format!("{} {}", fault.sqlstate, fault.message)),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Runs one statement on both sides.
    pub fn step(&mut self, step: &Step) -> Verdict {
        self.counter += 1;
        let name = format!("s{}", self.counter);
        let is_pipelined = step.reads && self.status == 'I' && step.block.is_none() && step.mode != Mode::Prepared;
        if is_pipelined {
            if let Err(error) = begin(&mut self.expected, step) {
                panic!("PostgreSQL: {error}");
            }
            let actual =
                begin(&mut self.actual, step).and_then(|()| self.actual.finish(None, step.mode != Mode::Simple));
            let expected = self.expected.finish(None, step.mode != Mode::Simple).unwrap();
            return match actual {
                Err(error) => Verdict::Different(format!(
                    "the connection failed: {error}; PostgreSQL answers {} and {} rows",
                    expected.sqlstate(),
                    expected.texts().len()
                )),
                Ok(actual) => match refusal(&actual) {
                    Some(message) => Verdict::Refused(message),
                    None => judge(&expected, &actual, step),
                },
            };
        }
        let actual = match send(&mut self.actual, step, &name) {
            Ok(actual) => actual,
            Err(error) => return Verdict::Different(format!("the connection failed: {error}")),
        };
        if let Some(message) = refusal(&actual) {
            return match self.follow(&actual) {
                Some(text) => Verdict::Different(text),
                None => Verdict::Refused(message),
            };
        }
        let expected = send(&mut self.expected, step, &name).unwrap_or_else(|error| panic!("{}: {error}", step.sql));
        self.status = expected.status;
        judge(&expected, &actual, step)
    }

    /// Makes PostgreSQL's transaction what the refusal made of the proxy's.
    fn follow(&mut self, actual: &Reply) -> Option<String> {
        match (actual.status, self.status) {
            ('E', 'T') => self.status = self.expected.simple("SELECT 1/0").unwrap().status,
            ('I', 'I') | ('E', 'E') => {}
            (got, expected) => return Some(format!("status: {got} after a refusal in status {expected}")),
        }
        None
    }
}

fn refusal(reply: &Reply) -> Option<String> {
    reply.fault().filter(|fault| fault.sqlstate == "0A000").map(|fault| fault.message.clone())
}

fn begin(session: &mut Raw, step: &Step) -> io::Result<()> {
    match step.mode {
        Mode::Simple => session.begin_simple(&step.sql),
        _ => session.begin_extended(&step.sql, &parameters(step, false)),
    }
}

fn parameters(step: &Step, binary: bool) -> Vec<crate::raw::Parameter> {
    step.params.iter().map(|param| param.encode(binary).unwrap()).collect()
}

fn send(session: &mut Raw, step: &Step, name: &str) -> io::Result<Reply> {
    let copy = step.copy.as_ref().map(String::as_bytes);
    match step.mode {
        Mode::Simple => session.simple_with(&step.sql, copy),
        Mode::Extended => session.extended(&step.sql, &parameters(step, false), copy),
        Mode::Prepared => session.prepared(name, &step.sql, &parameters(step, true), 1, copy),
    }
}

fn judge(expected: &Reply, actual: &Reply, step: &Step) -> Verdict {
    let how =
        How { order: step.order.clone(), shape: step.shape, ids: Vec::new(), binary: step.mode == Mode::Prepared };
    let Some(text) = difference(expected, actual, &how, &mut <[Ids; 2]>::default()) else {
        return match expected.fault() {
            Some(fault) => Verdict::EqualError(fault.sqlstate.clone()),
            None => Verdict::Equal,
        };
    };
    let (left, right) = (expected.sqlstate(), actual.sqlstate());
    if is_open_choice(step, left, right) && expected.status == actual.status {
        return Verdict::EqualError(left.to_owned());
    }
    Verdict::Different(text)
}

/// Both errors are in the statement, and which is met first is up to the order in which rows are read.
fn is_open_choice(step: &Step, left: &str, right: &str) -> bool {
    let is_violation = |code: &str| code.starts_with("23") || code == "22004";
    // A source with equal rows: MERGE would insert a row twice (23505), or has met a row of its own that it would
    // change a second time (21000); PostgreSQL's plan says which row comes first.
    let is_of_merge = step.kind == "merge" && [(left, right), (right, left)].contains(&("21000", "23505"));
    step.any_violation && (is_of_merge || (is_violation(left) && is_violation(right)))
}

#[test]
fn only_errors_that_depend_on_the_order_of_rows_may_differ() {
    let step = |kind, any_violation| Step {
        sql: String::new(),
        params: Vec::new(),
        order: Order::Any,
        mode: Mode::Simple,
        copy: None,
        kind,
        reads: false,
        any_violation,
        block: None,
        shape: false,
    };
    assert!(is_open_choice(&step("merge", true), "21000", "23505"));
    assert!(is_open_choice(&step("merge", true), "23505", "21000"));
    assert!(is_open_choice(&step("insert", true), "23505", "23503"));
    for (kind, any_violation, left, right) in [
        ("insert", true, "21000", "23505"),
        ("merge", false, "21000", "23505"),
        ("merge", true, "21000", "23502"),
        ("merge", true, "21000", "00000"),
        ("merge", true, "23505", "42601"),
        ("insert", false, "23505", "23503"),
    ] {
        assert!(!is_open_choice(&step(kind, any_violation), left, right), "{kind} {left} {right}");
    }
}

/// All tables in full: through the proxy and on the shards.
fn afterwards(cluster: &Cluster, program: &Program, tally: &mut Tally) {
    let mut pair = Pair::connect(cluster);
    let mut sessions: Vec<Raw> = cluster.shards.iter().map(Server::superuser).collect();
    let mut fail = |text: String| tally.failures.push(Failure { step: None, text: format!("afterwards: {text}") });
    for table in program.world.tables.iter().filter(|table| !table.is_view) {
        let sql = format!("SELECT * FROM {}", table.name);
        let wanted = sorted(&pair.expected.must(&sql));
        match pair.actual.simple(&sql) {
            Ok(reply) if reply.fault().is_none() && sorted(&reply) == wanted => {}
            Ok(reply) if reply.fault().is_none() => {
                fail(describe(&table.name, "through the proxy", &wanted, &sorted(&reply)))
            }
            other => fail(format!("{}: {other:?}", table.name)),
        }
        let mut whole = Vec::new();
        for (number, session) in sessions.iter_mut().enumerate() {
            let part = sorted(&session.must(&sql));
            if table.is_reference && part != wanted {
                fail(describe(&table.name, &format!("on shard {}", number + 1), &wanted, &part));
            }
            whole.extend(part);
        }
        whole.sort();
        if !table.is_reference && whole != wanted {
            fail(describe(&table.name, "on all shards", &wanted, &whole));
        }
    }
    let count = "SELECT label, i, count(*) FROM made GROUP BY label, i";
    if sorted(&pair.expected.must(count)) != sorted(&pair.actual.must(count)) {
        fail("table made differs".into());
    }
    for session in &mut sessions {
        if session.must("SELECT count(*) FROM pg_prepared_xacts").value() != "0" {
            fail("a prepared transaction is left on a shard".into());
        }
    }
}

fn sorted(reply: &Reply) -> Vec<Vec<String>> {
    let mut rows = reply.texts();
    rows.sort();
    rows
}

fn describe(table: &str, place: &str, wanted: &[Vec<String>], got: &[Vec<String>]) -> String {
    let only = |left: &[Vec<String>], right: &[Vec<String>]| -> Vec<String> {
        left.iter().filter(|row| !right.contains(row)).take(4).map(|row| row.join(" | ")).collect()
    };
    format!(
        "{table} {place}: {} rows, expected {}\n      missing {:?}\n      too many {:?}",
        got.len(),
        wanted.len(),
        only(wanted, got),
        only(got, wanted)
    )
}

/// The same statement with another text, compared without regard to order when `as_set`.
pub fn still_differs(pair: &mut Pair, step: &Step, sql: &str, as_set: bool, sign: &str) -> bool {
    let mut other = step.clone();
    other.sql = sql.to_owned();
    if as_set {
        other.order = Order::Any;
    }
    match pair.step(&other) {
        Verdict::Different(text) => Failure { step: None, text }.sign() == sign,
        _ => false,
    }
}
