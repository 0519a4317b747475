//! The transaction of a session, as its client sees it.
//!
//! BEGIN is held back: a shard joins when it is first touched, and is then told everything the
//! transaction has said so far ([`Transaction::opening_sql`]).

use super::encoding::in_ascii;
use super::settings::{Change, Settings};
use crate::error::{ClientError, ErrorId};

/// What ReadyForQuery says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No transaction block.
    Idle,
    /// In a transaction block.
    Open,
    /// In a failed transaction block.
    Failed,
}

impl Status {
    /// The byte of ReadyForQuery.
    pub fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Open => b'T',
            Self::Failed => b'E',
        }
    }
}

/// Something the transaction said that a shard joining later must hear too.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    /// SAVEPOINT.
    Savepoint(String),
    /// SET LOCAL (then with its name), SET TRANSACTION, SET CONSTRAINTS: ends with the transaction.
    Local { name: Option<String>, sql: String },
    /// A change of session settings; it outlives the transaction if that commits.
    Setting(Change),
}

/// The transaction of a session.
#[derive(Clone, Debug)]
pub struct Transaction {
    status: Status,
    /// The proxy opened the block by itself, for a message or pipeline that must be atomic.
    implicit: bool,
    /// A shard's part of it is lost, and with it what every savepoint stood for.
    is_broken: bool,
    begin: String,
    said: Vec<Said>,
}

impl Default for Transaction {
    fn default() -> Self {
        Self { status: Status::Idle, implicit: false, is_broken: false, begin: String::new(), said: Vec::new() }
    }
}

impl Transaction {
    /// What the client is told: an implicit block is none of its business.
    pub fn status(&self) -> Status {
        if self.implicit { Status::Idle } else { self.status }
    }

    /// A block is open, implicit or not, failed or not.
    pub fn is_open(&self) -> bool {
        self.status != Status::Idle
    }

    /// Only ROLLBACK is accepted.
    pub fn is_failed(&self) -> bool {
        self.status == Status::Failed || self.is_broken
    }

    /// The block was opened by the proxy.
    pub fn is_implicit(&self) -> bool {
        self.implicit
    }

    /// The client's BEGIN. An implicit block becomes an explicit one, as in PostgreSQL.
    pub fn begin(&mut self, sql: &str) {
        if self.status == Status::Idle {
            self.begin = sql.to_owned();
            self.said.clear();
        }
        if self.status != Status::Failed {
            self.status = Status::Open;
        }
        self.implicit = false;
    }

    /// A block of the proxy's own.
    pub fn begin_implicit(&mut self) {
        if self.status == Status::Idle {
            self.status = Status::Open;
            self.implicit = true;
            "BEGIN".clone_into(&mut self.begin);
            self.said.clear();
        }
    }

    /// An error happened.
    pub fn fail(&mut self) {
        if self.status == Status::Open {
            self.status = Status::Failed;
        }
    }

    /// The connection of a shard that had joined is lost: nothing but the end of the block is left.
    pub fn lose_part(&mut self) {
        self.is_broken = self.is_open();
        if !self.implicit {
            self.fail();
        }
    }

    /// SAVEPOINT.
    pub fn savepoint(&mut self, name: &str) {
        self.said.push(Said::Savepoint(name.to_owned()));
    }

    /// RELEASE: the savepoint and those after it are gone, what was set stays.
    ///
    /// # Errors
    /// 3B001 when there is none of that name.
    pub fn release(&mut self, name: &str) -> Result<(), ClientError> {
        let at = self.find_savepoint(name)?;
        let mut index = 0;
        self.said.retain(|said| {
            let keep = index < at || !matches!(said, Said::Savepoint(_));
            index += 1;
            keep
        });
        Ok(())
    }

    /// ROLLBACK TO: what was said after the savepoint is unsaid, and the block is sound again.
    ///
    /// # Errors
    /// 3B001 when there is none of that name; 40001 when a part of the block is lost.
    pub fn rollback_to(&mut self, name: &str) -> Result<(), ClientError> {
        if self.is_broken {
            let text = "a connection of this transaction was lost";
            let error = ClientError::new(ErrorId::PrimaryReplaced, text);
            return Err(error.with_hint("Roll the transaction back and run it again."));
        }
        let at = self.find_savepoint(name)?;
        self.said.truncate(at + 1);
        self.status = Status::Open;
        Ok(())
    }

    /// The innermost savepoint.
    pub fn last_savepoint(&self) -> Option<&str> {
        self.said.iter().rev().find_map(|said| match said {
            Said::Savepoint(name) => Some(name.as_str()),
            Said::Local { .. } | Said::Setting(_) => None,
        })
    }

    fn find_savepoint(&self, name: &str) -> Result<usize, ClientError> {
        self.said.iter().rposition(|said| matches!(said, Said::Savepoint(known) if known == name)).ok_or_else(|| {
            ClientError::new(ErrorId::UndefinedSavepoint, format!("savepoint \"{name}\" does not exist"))
        })
    }

    /// A statement whose effect ends with the transaction; the name of the setting if it is SET LOCAL.
    pub fn say_local(&mut self, name: Option<&str>, sql: &str) {
        self.said.push(Said::Local { name: name.map(str::to_owned), sql: sql.to_owned() });
    }

    /// A change of the session's settings inside the block.
    pub fn say_setting(&mut self, change: Change) {
        self.said.push(Said::Setting(change));
    }

    /// The settings as they are inside the block: those of the session with what was said since.
    pub fn settings_inside(&self, settings: &Settings) -> Settings {
        let mut inside = settings.clone();
        for said in &self.said {
            match said {
                Said::Savepoint(_) | Said::Local { name: None, .. } => {}
                Said::Local { name: Some(name), sql } => {
                    inside.change(&Change::Set { name: name.clone(), sql: sql.clone() });
                }
                Said::Setting(change) => inside.change(change),
            }
        }
        inside
    }

    /// SET TRANSACTION SNAPSHOT was said.
    pub fn takes_snapshot(&self) -> bool {
        self.said.iter().any(|said| {
            let Said::Local { name: None, sql } = said else { return false };
            let mut words = sql.split_whitespace();
            words.any(|word| word.eq_ignore_ascii_case("transaction"))
                && words.next().is_some_and(|word| word.eq_ignore_ascii_case("snapshot"))
        })
    }

    /// Something was set, for the transaction or beyond it.
    pub fn sets_anything(&self) -> bool {
        self.said.iter().any(|said| !matches!(said, Said::Savepoint(_)))
    }

    /// The text that brings a shard which joins now to where the others are.
    pub fn opening_sql(&self, settings: &Settings) -> String {
        let mut sql = self.begin.clone();
        for said in &self.said {
            sql.push(';');
            match said {
                Said::Savepoint(name) => sql.push_str(&format!("SAVEPOINT \"{}\"", name.replace('"', "\"\""))),
                Said::Local { sql: text, .. } => sql.push_str(text),
                Said::Setting(change) => sql.push_str(&settings.change_sql(change)),
            }
        }
        in_ascii(&sql).into_owned()
    }

    /// What [`Transaction::opening_sql`] says cannot be refused by a server, so that the first statement
    /// may travel in the same write: BEGIN with modes that were checked, and savepoints.
    pub fn opening_cannot_fail(&self) -> bool {
        self.said.iter().all(|said| matches!(said, Said::Savepoint(_)))
    }

    /// A commit makes settings lasting on every connection of the transaction.
    pub fn changes_settings(&self) -> bool {
        self.said.iter().any(|said| matches!(said, Said::Setting(_)))
    }

    /// The block is over. Returns the changes of settings that a commit makes lasting; none after a rollback.
    pub fn end(&mut self, committed: bool) -> Vec<Change> {
        let said = std::mem::take(&mut self.said);
        self.status = Status::Idle;
        self.implicit = false;
        self.is_broken = false;
        if !committed {
            return Vec::new();
        }
        said.into_iter()
            .filter_map(|said| match said {
                Said::Setting(change) => Some(change),
                Said::Savepoint(_) | Said::Local { .. } => None,
            })
            .collect()
    }

    /// The client's BEGIN text, for AND CHAIN.
    pub fn begin_sql(&self) -> &str {
        &self.begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_megabyte() -> Change {
        Change::Set { name: "work_mem".into(), sql: "SET work_mem = '1MB'".into() }
    }

    #[test]
    fn no_savepoint_saves_a_block_that_has_lost_a_part() {
        let mut transaction = Transaction::default();
        transaction.begin("BEGIN");
        transaction.savepoint("a");
        transaction.lose_part();
        assert!(transaction.is_failed() && transaction.status() == Status::Failed);
        assert!(transaction.rollback_to("a").is_err() && transaction.is_failed());
        transaction.end(false);
        transaction.begin("BEGIN");
        transaction.savepoint("a");
        assert!(transaction.rollback_to("a").is_ok() && !transaction.is_failed());
        transaction.end(true);
        transaction.lose_part();
        assert!(!transaction.is_failed(), "there was no block to lose a part of");
    }

    #[test]
    fn a_search_path_counts_inside_the_block_that_set_it() {
        let mut transaction = Transaction::default();
        transaction.begin("BEGIN");
        transaction.savepoint("a");
        transaction.say_local(Some("search_path"), "SET LOCAL search_path = b");
        let inside = transaction.settings_inside(&Settings::default());
        assert_eq!(inside.changed_sql("search_path"), Some("SET LOCAL search_path = b"));
        assert!(transaction.sets_anything() && !transaction.changes_settings());
        assert!(transaction.rollback_to("a").is_ok());
        assert_eq!(transaction.settings_inside(&Settings::default()).key(), 0);
    }

    #[test]
    fn a_shard_that_joins_late_hears_everything_still_in_force() {
        let mut transaction = Transaction::default();
        transaction.begin("BEGIN ISOLATION LEVEL REPEATABLE READ");
        transaction.say_local(Some("work_mem"), "SET LOCAL work_mem = '1MB'");
        transaction.savepoint("a");
        transaction.say_local(Some("work_mem"), "SET LOCAL work_mem = '2MB'");
        assert!(transaction.rollback_to("a").is_ok());
        assert_eq!(
            transaction.opening_sql(&Settings::default()),
            "BEGIN ISOLATION LEVEL REPEATABLE READ;SET LOCAL work_mem = '1MB';SAVEPOINT \"a\""
        );
    }

    #[test]
    fn release_keeps_what_was_set_and_forgets_the_savepoint() {
        let mut transaction = Transaction::default();
        transaction.begin("BEGIN");
        transaction.savepoint("a");
        transaction.say_setting(one_megabyte());
        assert!(transaction.release("a").is_ok());
        assert_eq!(transaction.opening_sql(&Settings::default()), "BEGIN;SET work_mem = '1MB'");
        assert!(transaction.rollback_to("a").is_err());
        assert_eq!(transaction.end(true), [one_megabyte()]);
    }

    #[test]
    fn an_error_is_forgiven_by_rolling_back_to_a_savepoint() {
        let mut transaction = Transaction::default();
        transaction.begin("BEGIN");
        transaction.savepoint("a");
        transaction.fail();
        assert_eq!(transaction.status(), Status::Failed);
        assert!(transaction.rollback_to("missing").is_err());
        assert!(transaction.rollback_to("a").is_ok());
        assert_eq!(transaction.status(), Status::Open);
    }

    #[test]
    fn an_implicit_block_is_not_shown_and_becomes_explicit_at_begin() {
        let mut transaction = Transaction::default();
        transaction.begin_implicit();
        assert_eq!(transaction.status(), Status::Idle);
        assert!(transaction.is_open());
        transaction.begin("BEGIN");
        assert_eq!(transaction.status(), Status::Open);
    }

    #[test]
    fn a_rolled_back_setting_does_not_last() {
        let mut transaction = Transaction::default();
        transaction.begin("BEGIN");
        assert!(!transaction.changes_settings());
        transaction.say_setting(one_megabyte());
        assert!(transaction.changes_settings());
        assert!(transaction.end(false).is_empty());
    }
}
