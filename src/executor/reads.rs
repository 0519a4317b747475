//! Which statements of a session go to a replica, and what the session has seen so far.
//!
//! A batch is a simple query, or everything from the first extended message up to its Sync. It goes to a
//! replica as a whole, if the session wants that, holds nothing, and each of its texts is proved to only read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Cluster;
use super::session::{has_shared_tree, set_value};
use crate::backend::SimpleResult;
use crate::backend::replicas::{Chosen, Floor, NoReplica};
use crate::base::{NodeId, ShardId};
use crate::error::{ClientError, ErrorId};
use crate::planner;
use crate::session::{ReadFrom, Settings};
use crate::sql::ast::Statement;
use crate::sql::{fingerprint, lexer, parse};
use crate::wire::frame::scan;

/// Where reads go that say nothing themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadSettings {
    /// For everybody.
    pub read_from: ReadFrom,
    /// For some roles.
    pub users: HashMap<String, ReadFrom>,
}

/// Longest time that SHOW ostrakon.token waits for a sample.
const TOKEN_WAIT: Duration = Duration::from_secs(2);

/// How a batch, or a transaction, reads from replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// It finds what the session has written and read before.
    is_strict: bool,
    /// It may wait for a replica.
    waits: bool,
}

/// Floors by shard, ascending. A session at rest before one shard keeps one: a tree would take ten times its room.
#[derive(Debug, Default)]
struct Floors(Vec<(ShardId, Floor)>);

impl Floors {
    fn of(&mut self, shard: ShardId) -> &mut Floor {
        let place = self.0.binary_search_by_key(&shard, |(known, _)| *known).unwrap_or_else(|place| {
            if self.0.is_empty() {
                self.0.reserve_exact(1);
            }
            self.0.insert(place, (shard, Floor::default()));
            place
        });
        &mut self.0[place].1
    }

    fn get(&self, shard: ShardId) -> Option<&Floor> {
        let place = self.0.binary_search_by_key(&shard, |(known, _)| *known).ok()?;
        self.0.get(place).map(|(_, floor)| floor)
    }

    fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.0.iter().map(|(shard, _)| *shard)
    }
}

/// What a session has seen, and what it uses now.
#[derive(Debug, Default)]
pub struct Seen {
    floors: Floors,
    chosen: BTreeMap<ShardId, Chosen>,
    /// Ascending. Their room is kept: there is one in every statement.
    primaries: Vec<ShardId>,
    /// The token that was taken over last.
    token: Option<Box<str>>,
    /// It reads from replicas, if it can.
    reads: bool,
}

impl Seen {
    /// The replica for a batch; `None`: the primary.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn choose(&mut self, cluster: &Cluster, shard: ShardId, reading: Reading) -> Option<NodeId> {
        let floor = self.floors.of(shard);
        let chosen = match cluster.replicas.choose(shard, floor, reading.is_strict, Instant::now()) {
            Ok(chosen) => Some(chosen),
            Err(NoReplica::Missing) => None,
            // Where replicas stay behind, waiting is given up more and more.
            Err(NoReplica::NotFresh) if reading.waits && floor.primary_reads.is_power_of_two() => {
                cluster.replicas.wait_for(shard, floor).await
            }
            Err(NoReplica::NotFresh) => None,
        };
        let Some(chosen) = chosen else {
            floor.primary_reads = floor.primary_reads.saturating_add(1);
            return None;
        };
        let node = chosen.node;
        self.chosen.insert(shard, chosen);
        Some(node)
    }

    /// The replica could not be had after all.
    pub(super) fn give_up(&mut self, shard: ShardId) {
        self.chosen.remove(&shard);
    }

    /// The primary is used.
    pub(super) fn use_primary(&mut self, shard: ShardId) {
        let Err(place) = self.primaries.binary_search(&shard) else { return };
        if self.primaries.is_empty() {
            self.primaries.reserve_exact(1);
        }
        self.primaries.insert(place, shard);
    }

    /// What was used is used no longer: everything that it showed has been shown by now.
    pub(super) fn settle(&mut self, cluster: &Cluster) {
        if self.primaries.is_empty() && self.chosen.is_empty() {
            return;
        }
        let now = Instant::now();
        for shard in self.primaries.drain(..) {
            self.floors.of(shard).note_primary(now);
            if self.reads {
                // What it reads next is looked for at replicas that have come as far.
                cluster.replicas.hurry(shard);
            }
        }
        for (shard, chosen) in std::mem::take(&mut self.chosen) {
            self.floors.of(shard).note_replica(chosen.node, now);
        }
    }

    /// Nothing has been seen: what was used showed nothing of the tables.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Takes over what another session has seen.
    fn take_over(&mut self, token: &str) {
        if self.token.as_deref() == Some(token) {
            return;
        }
        for (shard, lsn) in read_token(token) {
            let floor = self.floors.of(shard);
            floor.lsn = floor.lsn.max(lsn);
        }
        self.token = Some(token.into());
    }

    /// What the session has seen, for another one.
    ///
    /// # Errors
    /// No sample came in time.
    pub(super) async fn token(&self, cluster: &Cluster) -> Result<String, ClientError> {
        let now = Instant::now();
        let mut parts = Vec::new();
        let used = self.primaries.iter().chain(self.chosen.keys()).copied();
        let shards: BTreeSet<ShardId> = self.floors.shards().chain(used).collect();
        for shard in shards {
            let mut floor = self.floors.get(shard).cloned().unwrap_or_default();
            if self.primaries.contains(&shard) {
                floor.note_primary(now);
            }
            if let Some(chosen) = self.chosen.get(&shard) {
                floor.note_replica(chosen.node, now);
            }
            let Some(lsn) = cluster.replicas.seen(shard, &floor, TOKEN_WAIT).await else {
                let text = "the place of the session in the log of a shard is not known";
                let error = ClientError::new(ErrorId::PrerequisiteMissing, text);
                return Err(error.with_hint("Tokens are for shards that have replicas, and a primary that answers."));
            };
            parts.push(format!("{}:{lsn:X}", shard.0));
        }
        Ok(parts.join(","))
    }
}

/// Shards and places; what is not understood is left out.
fn read_token(token: &str) -> impl Iterator<Item = (ShardId, u64)> {
    token.split(',').filter_map(|part| {
        let (shard, lsn) = part.trim().split_once(':')?;
        Some((ShardId(shard.parse().ok()?), u64::from_str_radix(lsn, 16).ok()?))
    })
}

/// SHOW ostrakon.token, as it may be written.
pub(super) fn asks_for_token(text: &str) -> bool {
    let text = text.trim().trim_end_matches(';').trim_end();
    let Some((first, rest)) = text.split_once(char::is_whitespace) else { return false };
    first.eq_ignore_ascii_case("show") && rest.trim().eq_ignore_ascii_case("ostrakon.token")
}

/// What lies ahead of a batch, as far as it has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ahead {
    /// The texts that it parses or runs.
    pub(super) texts: Vec<String>,
    /// It ends in a Sync that is here, and wants no answer before.
    is_whole: bool,
}

/// Whether a transaction that was begun so, under these settings, is declared to only read, at a level that a standby
/// knows. What is not plainly so is not.
pub(super) fn is_read_only(opening: &str, settings: &Settings) -> bool {
    let mut is_read_only = value(settings, "default_transaction_read_only")
        .is_some_and(|written| ["on", "true", "1", "yes"].contains(&written.to_ascii_lowercase().as_str()));
    let opening = opening.to_ascii_lowercase().replace([',', ';'], " ");
    let mut words = opening.split_ascii_whitespace();
    while let Some(word) = words.next() {
        match word {
            "begin" | "start" | "set" | "transaction" | "work" | "isolation" | "level" | "not" | "deferrable" => {}
            "repeatable" if words.next() == Some("read") => {}
            "read" => match words.next() {
                Some("only") => is_read_only = true,
                Some("write") => is_read_only = false,
                Some("committed" | "uncommitted") => {}
                _ => return false,
            },
            _ => return false,
        }
    }
    is_read_only
}

/// Whether a text asks when its transaction began: what it is told holds for all of the transaction.
pub(super) fn asks_for_now(text: &str) -> bool {
    const WORDS: [&str; 10] = [
        "now",
        "today",
        "tomorrow",
        "yesterday",
        "current_date",
        "current_time",
        "current_timestamp",
        "localtime",
        "localtimestamp",
        "transaction_timestamp",
    ];
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
    text.split(|c| !is_of_word(c)).any(|word| WORDS.iter().any(|known| word.eq_ignore_ascii_case(known)))
}

/// Whether a text does nothing but end the transaction it stands in, which it does everywhere alike.
pub(super) fn ends_transaction(text: &str) -> bool {
    let text = text.trim().trim_end_matches(';').trim_end().to_ascii_lowercase();
    let mut words = text.split_ascii_whitespace();
    let ends = matches!(words.next(), Some("commit" | "end" | "rollback" | "abort"));
    let rest: Vec<&str> = words.filter(|word| !matches!(*word, "work" | "transaction")).collect();
    ends && rest.is_empty()
}

/// Whether a standby answers a text as a primary does inside a transaction that is declared to only read, though it may do
/// more than read: with its refusal, or by a change of the transaction's own.
pub(super) fn is_alike_on_standby(text: &str) -> bool {
    let Ok(lexed) = lexer::lex(text) else { return false };
    matches!(
        parse::parse(text, &lexed),
        Ok(Statement::Insert(_)
            | Statement::Update(_)
            | Statement::Delete(_)
            | Statement::Merge(_)
            | Statement::Savepoint(_)
            | Statement::Release(_)
            | Statement::RollbackTo(_)
            | Statement::Rollback { .. }
            | Statement::Commit { .. }
            | Statement::Set { .. }
            | Statement::Show(_)
            | Statement::Empty)
    )
}

/// What a server says of the isolation level of a transaction: each statement sees what is committed when it begins.
pub(super) fn is_anew(told: &SimpleResult) -> bool {
    let level = told.rows.first().and_then(|row| row.first()).and_then(Option::as_deref);
    told.error.is_none() && matches!(level, Some("read committed" | "read uncommitted"))
}

/// What a client is told whose transaction reads from replicas and wants what only a primary does.
pub(super) fn wants_primary() -> ClientError {
    ClientError::new(ErrorId::TopologyMoved, "the transaction reads from a replica, where this statement cannot run")
        .with_detail("What it has seen so far is of one moment, so it cannot go on at the primary.")
        .with_hint("Run the transaction again: it will run at the primary.")
}

/// Nothing but SET, RESET or SHOW: whoever runs it has not looked at tables. One statement, and no function call.
pub(super) fn only_sets(text: &str) -> bool {
    let text = text.trim().trim_end_matches(';');
    let first = text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let is_setting = ["set", "reset", "show"].iter().any(|word| first.eq_ignore_ascii_case(word));
    // A semicolon inside a value only costs a look at a newer sample.
    is_setting && !text.contains(';')
}

/// A statement that answers what SHOW ostrakon.token asks.
pub(super) fn token_answer(token: &str) -> String {
    format!("SELECT '{token}'::pg_catalog.text AS \"ostrakon.token\"")
}

/// A setting's value as it was written, without its quotes.
pub(super) fn value(settings: &Settings, name: &str) -> Option<String> {
    let Some(sql) = settings.changed_sql(name) else { return settings.startup_value(name).map(str::to_owned) };
    let written = set_value(sql)?;
    let written = written.trim().trim_end_matches(';').trim();
    let plain = |quote| written.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    Some(plain('\'').or_else(|| plain('"')).unwrap_or(written).to_owned())
}

/// The texts of a batch that begins with this message; `None`: it is not here as a whole, or holds more than
/// statements.
///
/// `known`: the text of a statement that was prepared before.
pub(super) fn batch_texts(
    first: (u8, &[u8]),
    buffered: &[u8],
    known: impl Fn(&[u8]) -> Option<String>,
) -> Option<Vec<String>> {
    let ahead = texts_ahead(first, buffered, known)?;
    (ahead.is_whole && !ahead.texts.is_empty()).then_some(ahead.texts)
}

/// As [`batch_texts`], of as much as is here; `None`: it holds more than statements.
pub(super) fn texts_ahead(
    first: (u8, &[u8]),
    buffered: &[u8],
    known: impl Fn(&[u8]) -> Option<String>,
) -> Option<Ahead> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    if first.0 == b'Q' {
        return Some(Ahead { texts: vec![text(first.1.strip_suffix(b"\0")?)?], is_whole: true });
    }
    let mut parsed: HashMap<Vec<u8>, String> = HashMap::new();
    let (mut texts, mut waits) = (Vec::new(), false);
    let mut take = |tag: u8, body: &[u8]| -> Option<bool> {
        let mut parts = body.splitn(3, |byte| *byte == 0);
        match tag {
            b'P' => {
                let (name, sql) = (parts.next()?, text(parts.next()?)?);
                parsed.insert(name.to_vec(), sql.clone());
                texts.push(sql);
            }
            b'B' => {
                let name = parts.nth(1)?;
                texts.push(parsed.get(name).cloned().or_else(|| known(name))?);
            }
            b'D' if body.first() == Some(&b'S') => {
                let name = body.get(1..)?.strip_suffix(b"\0")?;
                texts.push(parsed.get(name).cloned().or_else(|| known(name))?);
            }
            b'D' | b'E' | b'C' => {}
            b'H' => waits = true,
            b'S' => return Some(true),
            _ => return None,
        }
        Some(false)
    };
    let mut is_over = take(first.0, first.1)?;
    for slice in scan(buffered) {
        if is_over {
            break;
        }
        let Ok(slice) = slice else { return None };
        is_over = take(slice.tag, slice.body(buffered))?;
    }
    Some(Ahead { texts, is_whole: is_over && !waits })
}

impl Cluster {
    /// Whether a session wants this batch read from replicas; asked before the batch is taken apart.
    pub(super) fn wants_replica(&self, user: &str, settings: &Settings, hinted: Option<ReadFrom>) -> ReadFrom {
        if self.settings.replicas_rest.load(std::sync::atomic::Ordering::Acquire) {
            return ReadFrom::Primary;
        }
        if let Some(hinted) = hinted {
            return hinted;
        }
        let set = value(settings, "ostrakon.read_from");
        let of_role = || self.settings.reads.users.get(user).copied().unwrap_or(self.settings.reads.read_from);
        match set {
            // What is not understood is no wish for replicas.
            Some(word) => ReadFrom::from_word(&word).unwrap_or_default(),
            None => of_role(),
        }
    }

    /// How a batch with these texts reads from replicas; `None`: it goes to the primary.
    pub(super) fn reading_of(
        &self,
        user: &str,
        settings: &Settings,
        seen: &mut Seen,
        texts: &[String],
    ) -> Option<Reading> {
        let hinted = texts.first().and_then(|text| ReadFrom::hinted(text));
        let wanted = self.wants_replica(user, settings, hinted);
        if wanted == ReadFrom::Primary || !are_usual(settings) || !texts.iter().all(|text| self.only_reads(text)) {
            return None;
        }
        seen.reads = true;
        if let Some(token) = value(settings, "ostrakon.token") {
            seen.take_over(&token);
        }
        let is_strict = value(settings, "ostrakon.read_consistency").is_none_or(|word| word != "eventual");
        Some(Reading { is_strict, waits: wanted == ReadFrom::Replica })
    }

    /// Whether a transaction that reads from replicas may go on with these texts there: each only reads, or ends it.
    pub(super) fn goes_on_reading(&self, texts: &[String]) -> bool {
        texts.iter().all(|text| ends_transaction(text) || self.only_reads(text))
    }

    /// Whether a text is proved to do nothing but read.
    pub(super) fn only_reads(&self, text: &str) -> bool {
        let Ok(lexed) = lexer::lex(text) else { return false };
        let schema = self.schema.load();
        if !has_shared_tree(text, &lexed) {
            return parse::parse(text, &lexed).is_ok_and(|statement| planner::only_reads(&schema, &statement));
        }
        let key = fingerprint::fingerprint(text, &lexed);
        let tree = self.trees.get(&key).unwrap_or_else(|| {
            let tree = Arc::new(parse::parse(text, &lexed).map_err(|error| error.to_string()));
            self.trees.insert(key, Arc::clone(&tree));
            tree
        });
        tree.as_ref().as_ref().is_ok_and(|statement| planner::only_reads(&schema, statement))
    }
}

/// Settings under which a replica answers as the primary does.
fn are_usual(settings: &Settings) -> bool {
    let is_one_of = |name: &str, words: &[&str]| {
        value(settings, name).is_none_or(|written| words.contains(&written.to_ascii_lowercase().as_str()))
    };
    // A standby knows no serializable transactions.
    is_one_of("default_transaction_isolation", &["read committed", "repeatable read", "read uncommitted"])
        && is_one_of("standard_conforming_strings", &["on", "true", "1", "yes"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag], length.as_slice(), body].concat()
    }

    #[test]
    fn a_batch_is_read_up_to_its_sync() {
        let known = |name: &[u8]| (name == b"old").then(|| "SELECT 2".to_owned());
        let texts = |first: (u8, &[u8]), rest: &[Vec<u8>]| batch_texts(first, &rest.concat(), known);
        assert_eq!(texts((b'Q', b"SELECT 1\0"), &[]), Some(vec!["SELECT 1".to_owned()]));
        let parse = (b'P', b"\0SELECT 1\0\0\0".as_slice());
        let (bind, execute, sync) = (frame(b'B', b"\0\0\0\0\0\0\0\0"), frame(b'E', b"\0\0\0\0\0"), frame(b'S', b""));
        let whole = texts(parse, &[bind.clone(), execute.clone(), sync.clone()]);
        assert_eq!(whole, Some(vec!["SELECT 1".to_owned(), "SELECT 1".to_owned()]));
        assert_eq!(texts(parse, &[bind.clone(), execute.clone()]), None, "more may follow");
        assert_eq!(texts(parse, &[bind, frame(b'H', b""), sync.clone()]), None, "answers are wanted before");
        let named = (b'B', b"\0old\0\0\0\0\0\0\0".as_slice());
        assert_eq!(texts(named, &[execute.clone(), sync.clone()]), Some(vec!["SELECT 2".to_owned()]));
        let unknown = (b'B', b"\0new\0\0\0\0\0\0\0".as_slice());
        assert_eq!(texts(unknown, &[execute, sync]), None);
        assert_eq!(texts((b'S', b""), &[]), None);
        assert_eq!(texts((b'F', b"x"), &[]), None);
    }

    #[test]
    fn only_what_is_declared_to_read_reads_from_replicas() {
        let settings = Settings::default();
        for text in [
            "BEGIN READ ONLY",
            "start transaction isolation level repeatable read, read only;",
            "BEGIN TRANSACTION READ ONLY ISOLATION LEVEL READ COMMITTED",
            "BEGIN; SET TRANSACTION READ ONLY",
            "BEGIN READ WRITE; SET TRANSACTION READ ONLY, DEFERRABLE",
        ] {
            assert!(is_read_only(text, &settings), "{text}");
        }
        for text in [
            "BEGIN",
            "BEGIN READ WRITE",
            "BEGIN READ ONLY; SET TRANSACTION READ WRITE",
            "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
            "BEGIN READ ONLY; SET TRANSACTION SNAPSHOT '1'",
            "BEGIN /* x */ READ ONLY",
            "BEGIN READ ONLY;SAVEPOINT \"a\"",
        ] {
            assert!(!is_read_only(text, &settings), "{text}");
        }
    }

    #[test]
    fn what_a_standby_answers_as_a_primary_does_is_told_apart() {
        for text in ["INSERT INTO t VALUES (1)", "savepoint a", "ROLLBACK TO a", "SET LOCAL work_mem = '1MB'", "SHOW x"]
        {
            assert!(is_alike_on_standby(text), "{text}");
        }
        for text in ["SELECT pg_advisory_lock(1)", "LISTEN a", "SELECT * FROM v", "CREATE TEMP TABLE t (i int)"] {
            assert!(!is_alike_on_standby(text), "{text}");
        }
        assert!(ends_transaction("COMMIT;") && ends_transaction("abort work") && !ends_transaction("commit and chain"));
        assert!(asks_for_now("SELECT NOW()") && asks_for_now("SELECT 'now'::date") && !asks_for_now("SELECT known"));
    }

    #[test]
    fn a_token_is_read_back() {
        let read: Vec<_> = read_token("1:5000A28, 2:61C0,x,3").collect();
        assert_eq!(read, [(ShardId(1), 0x5000A28), (ShardId(2), 0x61C0)]);
        assert!(asks_for_token(" show  Ostrakon.Token ; ") && !asks_for_token("SHOW ostrakon.tokens"));
    }

    #[test]
    fn a_setting_shows_nothing_of_tables() {
        for text in ["SET a.b = 'c'", " reset all ;", "SHOW x"] {
            assert!(only_sets(text), "{text}");
        }
        for text in
            ["SELECT 1", "SET a.b = 'c'; SELECT * FROM t", "/* x */ SET a = 1", "", "SETUP", "UPDATE t SET a = 1"]
        {
            assert!(!only_sets(text), "{text}");
        }
    }

    #[test]
    fn a_setting_is_read_however_it_was_set() {
        use crate::session::Change;
        for (sql, expected) in [
            ("SET ostrakon.read_from = 'replica'", "replica"),
            ("SET ostrakon.read_from TO replica;", "replica"),
            ("SET SESSION ostrakon.read_from = \"any\"", "any"),
            ("SELECT pg_catalog.set_config('ostrakon.read_from', 'any', false)", "any"),
        ] {
            let mut settings = Settings::default();
            settings.change(&Change::Set { name: "ostrakon.read_from".to_owned(), sql: sql.to_owned() });
            assert_eq!(value(&settings, "ostrakon.read_from").as_deref(), Some(expected), "{sql}");
        }
    }
}
