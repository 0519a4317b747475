//! The grammar of admin commands.

use std::time::Duration;

use crate::control::reshard::NewShard;
use crate::error::{ClientError, ErrorId};
use crate::sql::lexer::{self, Lexed, TokenKind};
use crate::topology::TableName;

use super::agents::{Asked, read_agent};
use super::control::Drain;
use super::leading::{Change, ChangeKind};
use super::nodes::{NodeChange, read_node};
use super::pins::{PinChange, read_pin};
use super::reference::{COMMANDS, VIEWS};
use super::reshard::{read_reshard, read_shard};

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Nothing but white space.
    Empty,
    /// SHOW view [FORMAT JSON]
    Show { view: String, json: bool },
    /// TABLE SHARD name KEY (a, b) · TABLE REFERENCE name · TABLE SINGLE name [HOME shard]
    Table { name: TableName, placement: Wanted, dry_run: bool },
    /// EXPLAIN statement
    Explain(String),
    /// NODE ADD … · NODE REMOVE node · NODE REBUILD node · NODE RESTART node
    Node(NodeChange),
    /// AGENT node 'report' · AGENT node CHECKPOINT
    Agent(Asked),
    /// RECONNECT
    Reconnect,
    /// SWITCHOVER shard [TO node] [DRY RUN] · FAILOVER shard [TO node] [ALLOW DATA LOSS] [DRY RUN]
    ChangePrimary(Change),
    /// FORGET PROXY name
    ForgetProxy { name: String },
    /// PAUSE [seconds]
    Pause(u64),
    /// RESUME
    Resume,
    /// DRAIN [seconds] [AFTER seconds]
    Drain(Drain),
    /// KILL pid
    Kill(u32),
    /// RELOAD [FORMAT JSON]
    Reload { json: bool },
    /// SHARD ADD … · RESHARD …
    Reshard(Reshard),
    /// PIN KEY (…) TO shard … · UNPIN KEY (…) …
    Pin(PinChange),
    /// REBALANCE [DRY RUN]
    Rebalance { dry_run: bool },
}

/// What is wanted of shards and of the resharding job; a shard that is to be emptied by its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reshard {
    Add { shard: NewShard, dry_run: bool },
    Remove { name: String, dry_run: bool },
    Plan { empty: Option<String> },
    Start { empty: Option<String>, hold_max: Option<Duration>, dry_run: bool },
    Job { command: JobCommand, dry_run: bool },
    Verify,
}

/// What is said of the job that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobCommand {
    Pause,
    Resume,
    Reverse,
    Finish,
    Cancel,
}

/// How long a pause lasts that names no time.
const PAUSE_S: u64 = 60;

/// How long transactions have to end when a drain names no time, and the longest time.
const DRAIN_S: u64 = 60;
const DRAIN_S_MAX: u64 = 86_400;

/// Longest pause.
const PAUSE_S_MAX: u64 = 3_600;

/// A placement as written: the home shard by its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Shard { key: Vec<String> },
    Reference,
    Single { home: Option<String> },
}

/// Reads a command.
pub(super) fn read(text: &str) -> Result<Command, ClientError> {
    let lexed = lexer::lex(text).map_err(|error| ClientError::new(ErrorId::SyntaxError, error.to_string()))?;
    let mut words = Words { text, lexed: &lexed, at: 0 };
    if words.is_over() {
        return Ok(Command::Empty);
    }
    if words.take("EXPLAIN") {
        let start = words.start();
        return Ok(Command::Explain(text.get(start..).unwrap_or_default().to_owned()));
    }
    let command = if words.take("SHOW") {
        let view = words.name()?.to_ascii_lowercase();
        let json = words.take("FORMAT") && words.expect("JSON")?;
        Command::Show { view, json }
    } else if words.take("NODE") {
        Command::Node(read_node(&mut words)?)
    } else if words.take("AGENT") {
        Command::Agent(read_agent(&mut words)?)
    } else if words.take("RECONNECT") {
        Command::Reconnect
    } else if words.take("RESHARD") {
        Command::Reshard(read_reshard(&mut words)?)
    } else if words.take("SHARD") {
        Command::Reshard(read_shard(&mut words)?)
    } else if words.take("PIN") {
        Command::Pin(read_pin(&mut words, true)?)
    } else if words.take("UNPIN") {
        Command::Pin(read_pin(&mut words, false)?)
    } else if words.take("REBALANCE") {
        Command::Rebalance { dry_run: words.dry_run()? }
    } else if words.take("FORGET") {
        words.expect("PROXY")?;
        Command::ForgetProxy { name: words.name()? }
    } else if words.take("PAUSE") {
        let seconds = if words.is_over() { PAUSE_S } else { words.number(1..=PAUSE_S_MAX)? };
        Command::Pause(seconds)
    } else if words.take("DRAIN") {
        let within = if words.is_number() { words.number(1..=DRAIN_S_MAX)? } else { DRAIN_S };
        let after = if words.take("AFTER") { words.number(0..=DRAIN_S_MAX)? } else { 0 };
        Command::Drain(Drain { after: Duration::from_secs(after), within: Duration::from_secs(within) })
    } else if words.take("RESUME") {
        Command::Resume
    } else if words.take("KILL") {
        Command::Kill(u32::try_from(words.number(1..=u64::from(u32::MAX))?).unwrap_or(u32::MAX))
    } else if words.take("RELOAD") {
        Command::Reload { json: words.take("FORMAT") && words.expect("JSON")? }
    } else if words.take("SWITCHOVER") {
        Command::ChangePrimary(read_change(&mut words, ChangeKind::Planned)?)
    } else if words.take("FAILOVER") {
        Command::ChangePrimary(read_change(&mut words, ChangeKind::Lost)?)
    } else if words.take("TABLE") {
        read_table(&mut words)?
    } else {
        return Err(words.unknown());
    };
    if words.is_over() { Ok(command) } else { Err(words.unknown()) }
}

fn read_change(words: &mut Words<'_>, kind: ChangeKind) -> Result<Change, ClientError> {
    let shard = words.name()?;
    let to = if words.take("TO") { Some(words.name()?) } else { None };
    let allows = kind == ChangeKind::Lost && words.take("ALLOW") && words.expect("DATA")? && words.expect("LOSS")?;
    let kind = if allows { ChangeKind::LossAllowed } else { kind };
    let dry_run = words.dry_run()?;
    Ok(Change { shard, to, kind, dry_run })
}

fn read_table(words: &mut Words<'_>) -> Result<Command, ClientError> {
    if words.take("SHARD") {
        let name = words.table_name()?;
        words.expect("KEY")?;
        words.expect("(")?;
        let mut key = vec![words.name()?];
        while words.take(",") {
            key.push(words.name()?);
        }
        words.expect(")")?;
        return Ok(Command::Table { name, placement: Wanted::Shard { key }, dry_run: words.dry_run()? });
    }
    if words.take("REFERENCE") {
        let name = words.table_name()?;
        return Ok(Command::Table { name, placement: Wanted::Reference, dry_run: words.dry_run()? });
    }
    words.expect("SINGLE")?;
    let name = words.table_name()?;
    let home = if words.take("HOME") { Some(words.name()?) } else { None };
    Ok(Command::Table { name, placement: Wanted::Single { home }, dry_run: words.dry_run()? })
}

/// Tokens with a place among them.
pub(super) struct Words<'a> {
    text: &'a str,
    lexed: &'a Lexed,
    at: usize,
}

impl Words<'_> {
    fn word(&self) -> Option<&str> {
        let token = self.lexed.tokens.get(self.at)?;
        self.text.get(token.start..token.end)
    }

    fn start(&self) -> usize {
        self.lexed.tokens.get(self.at).map_or(self.text.len(), |token| token.start)
    }

    fn is_over(&self) -> bool {
        self.lexed
            .tokens
            .get(self.at..)
            .unwrap_or_default()
            .iter()
            .all(|token| self.text.get(token.start..token.end) == Some(";"))
    }

    pub(super) fn take(&mut self, wanted: &str) -> bool {
        let found = self.word().is_some_and(|word| word.eq_ignore_ascii_case(wanted));
        if found {
            self.at += 1;
        }
        found
    }

    pub(super) fn expect(&mut self, wanted: &str) -> Result<bool, ClientError> {
        if self.take(wanted) { Ok(true) } else { Err(self.unknown()) }
    }

    fn is_number(&self) -> bool {
        self.word().is_some_and(|word| word.parse::<u64>().is_ok())
    }

    pub(super) fn number(&mut self, bounds: std::ops::RangeInclusive<u64>) -> Result<u64, ClientError> {
        let number = self.word().and_then(|word| word.parse().ok()).filter(|number| bounds.contains(number));
        let number = number.ok_or_else(|| self.unknown())?;
        self.at += 1;
        Ok(number)
    }

    pub(super) fn name(&mut self) -> Result<String, ClientError> {
        let token = self.lexed.tokens.get(self.at).ok_or_else(|| self.unknown())?;
        let text = self.text.get(token.start..token.end).unwrap_or_default();
        let name = match token.kind {
            TokenKind::Word => text.to_ascii_lowercase(),
            TokenKind::QuotedIdent => text.trim_matches('"').replace("\"\"", "\""),
            _ => return Err(self.unknown()),
        };
        self.at += 1;
        Ok(name)
    }

    /// A string literal.
    pub(super) fn text(&mut self) -> Result<String, ClientError> {
        let text = self.word().and_then(|word| word.strip_prefix('\'')?.strip_suffix('\''));
        let text = text.ok_or_else(|| self.unknown())?.replace("''", "'");
        self.at += 1;
        Ok(text)
    }

    /// A string literal, or a number.
    pub(super) fn value(&mut self) -> Result<String, ClientError> {
        let sign = if self.take("-") { "-" } else { "" };
        let is_number = |word: &str| word.starts_with(|first: char| first.is_ascii_digit());
        match self.word().filter(|word| is_number(word)).map(str::to_owned) {
            Some(number) => {
                self.at += 1;
                Ok(format!("{sign}{number}"))
            }
            None if sign.is_empty() => self.text(),
            None => Err(self.unknown()),
        }
    }

    /// Whether it ends with DRY RUN.
    pub(super) fn dry_run(&mut self) -> Result<bool, ClientError> {
        Ok(self.take("DRY") && self.expect("RUN")?)
    }

    /// A port number.
    pub(super) fn port(&mut self) -> Result<u16, ClientError> {
        let port = self.word().and_then(|word| word.parse().ok()).ok_or_else(|| self.unknown())?;
        self.at += 1;
        Ok(port)
    }

    pub(super) fn table_name(&mut self) -> Result<TableName, ClientError> {
        let first = self.name()?;
        if self.take(".") {
            return Ok(TableName { schema: first, name: self.name()? });
        }
        Ok(TableName { schema: "public".to_owned(), name: first })
    }

    pub(super) fn unknown(&self) -> ClientError {
        let near = self.word().map_or_else(|| "at end of input".to_owned(), |word| format!("at or near \"{word}\""));
        ClientError::new(ErrorId::SyntaxError, format!("syntax error {near}")).with_hint(hint())
    }
}

/// All commands.
fn hint() -> String {
    let views: Vec<String> = VIEWS.iter().map(|view| format!("SHOW {}", view.name.to_uppercase())).collect();
    let others: Vec<&str> = COMMANDS.iter().map(|(command, _)| *command).collect();
    format!("Known are {} (each with FORMAT JSON), {}.", views.join(", "), others.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::reshard::NewNode;

    fn table(name: &str) -> TableName {
        TableName { schema: "public".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn tables_are_declared_in_three_ways() {
        let shard = Wanted::Shard { key: vec!["tenant_id".to_owned(), "Id".to_owned()] };
        assert_eq!(
            read("table shard Users key (tenant_id, \"Id\");"),
            Ok(Command::Table { name: table("users"), placement: shard, dry_run: false })
        );
        assert_eq!(
            read("TABLE REFERENCE s.countries"),
            Ok(Command::Table {
                name: TableName { schema: "s".to_owned(), name: "countries".to_owned() },
                placement: Wanted::Reference,
                dry_run: false
            })
        );
        assert_eq!(
            read("TABLE SINGLE settings HOME s2 DRY RUN"),
            Ok(Command::Table {
                name: table("settings"),
                placement: Wanted::Single { home: Some("s2".to_owned()) },
                dry_run: true
            })
        );
    }

    #[test]
    fn a_shard_is_added_with_its_nodes() {
        let node = |name: &str, port| NewNode { name: name.to_owned(), host: "127.0.0.1".to_owned(), port };
        let shard = NewShard { name: "s3".to_owned(), nodes: vec![node("s3a", 5_433), node("s3b", 5_434)] };
        assert_eq!(
            read("SHARD ADD s3 NODES (s3a '127.0.0.1' 5433, s3b '127.0.0.1' 5434)"),
            Ok(Command::Reshard(Reshard::Add { shard, dry_run: false }))
        );
        assert_eq!(
            read("reshard start empty s2 hold 5;"),
            Ok(Command::Reshard(Reshard::Start {
                empty: Some("s2".to_owned()),
                hold_max: Some(Duration::from_secs(5)),
                dry_run: false
            }))
        );
        assert!(read("SHARD ADD s3 NODES (s3a 5433)").is_err());
        let remove = |dry_run| Ok(Command::Reshard(Reshard::Remove { name: "s3".to_owned(), dry_run }));
        assert_eq!(read("SHARD REMOVE s3"), remove(false));
        assert_eq!(read("SHARD REMOVE s3 DRY RUN"), remove(true));
    }

    #[test]
    fn a_key_is_pinned_by_its_values() {
        let change = |values: &[&str], name: Option<&str>, to: Option<&str>, dry_run| {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            let (table, to) = (name.map(table), to.map(str::to_owned));
            Ok(Command::Pin(PinChange { values, table, to, hold_max: None, dry_run }))
        };
        assert_eq!(read("PIN KEY (42) TO s2"), change(&["42"], None, Some("s2"), false));
        assert_eq!(
            read("pin key ('it''s', -7) to s2 table orders dry run;"),
            change(&["it's", "-7"], Some("orders"), Some("s2"), true)
        );
        assert_eq!(read("UNPIN KEY ('a') DRY RUN"), change(&["a"], None, None, true));
        assert_eq!(read("REBALANCE DRY RUN"), Ok(Command::Rebalance { dry_run: true }));
        for text in
            ["PIN KEY 42 TO s2", "PIN KEY (42)", "PIN KEY (a) TO s2", "UNPIN KEY (1) TO s2", "PIN KEY (- 'a') TO s2"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_node_comes_with_its_place() {
        use crate::admin::nodes::NodeChangeKind;
        let kind = NodeChangeKind::Add {
            shard: "s1".to_owned(),
            host: "10.0.0.7".to_owned(),
            port: 5_432,
            zone: "b".to_owned(),
        };
        let change = |kind, dry_run| Ok(Command::Node(NodeChange { name: "s1d".to_owned(), kind, dry_run }));
        assert_eq!(read("NODE ADD s1d SHARD s1 HOST '10.0.0.7' PORT 5432 ZONE 'b' DRY RUN"), change(kind, true));
        assert_eq!(read("node remove s1d;"), change(NodeChangeKind::Remove, false));
        assert_eq!(read("NODE REBUILD s1d DRY RUN"), change(NodeChangeKind::Rebuild, true));
        for text in ["NODE s1d", "NODE ADD s1d SHARD s1", "NODE REMOVE", "NODE REMOVE s1d RUN"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_stay_within_bounds() {
        assert_eq!(read("pause"), Ok(Command::Pause(60)));
        assert_eq!(read("PAUSE 5;"), Ok(Command::Pause(5)));
        let drain = |within, after| {
            Ok(Command::Drain(Drain { after: Duration::from_secs(after), within: Duration::from_secs(within) }))
        };
        assert_eq!(read("DRAIN"), drain(60, 0));
        assert_eq!(read("drain 5 AFTER 2;"), drain(5, 2));
        assert!(read("DRAIN -1").is_err() && read("DRAIN 5 AFTER").is_err() && read("DRAIN 0").is_err());
        assert!(read("PAUSE 0").is_err() && read("PAUSE 5s").is_err() && read("PAUSE 86400").is_err());
        assert_eq!(read("KILL 4711"), Ok(Command::Kill(4_711)));
        assert!(read("KILL").is_err() && read("KILL -1").is_err() && read("KILL 4294967296").is_err());
        assert_eq!(read("RELOAD FORMAT JSON"), Ok(Command::Reload { json: true }));
    }

    #[test]
    fn a_loss_is_allowed_in_so_many_words_only() {
        let change = |kind, to: Option<&str>, dry_run| {
            let (shard, to) = ("s1".to_owned(), to.map(str::to_owned));
            Ok(Command::ChangePrimary(Change { shard, to, kind, dry_run }))
        };
        assert_eq!(read("SWITCHOVER s1"), change(ChangeKind::Planned, None, false));
        assert_eq!(read("switchover s1 to s1b dry run;"), change(ChangeKind::Planned, Some("s1b"), true));
        assert_eq!(read("FAILOVER s1"), change(ChangeKind::Lost, None, false));
        assert_eq!(read("FAILOVER s1 TO s1b ALLOW DATA LOSS"), change(ChangeKind::LossAllowed, Some("s1b"), false));
        for text in ["FAILOVER s1 ALLOW", "FAILOVER s1 ALLOW DATA", "SWITCHOVER s1 ALLOW DATA LOSS", "FAILOVER"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn explain_keeps_the_statement_as_it_is() {
        assert_eq!(read("EXPLAIN  SELECT 'a;b' -- x"), Ok(Command::Explain("SELECT 'a;b' -- x".to_owned())));
    }

    #[test]
    fn what_is_not_understood_is_said_with_its_place() {
        let error = read("TABLE SHARD users KEY id").err();
        assert_eq!(error.map(|error| error.message), Some("syntax error at or near \"id\"".to_owned()));
        assert!(read("SHOW STATUS FORMAT JSON extra").is_err());
        assert_eq!(read(" ; "), Ok(Command::Empty));
    }
}
