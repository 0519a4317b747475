//! Looks roles up on the home shard's primary: what their password is checked against.
//!
//! Answers are kept for a short while. Logins that come at the same time for the same role wait for one
//! answer; a login that fails against a kept answer has it forgotten, so that a changed password holds from
//! the next attempt on.
//!
//! Must not know: clients, how they prove who they are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::client::{ControlClient, ControlError};
use crate::auth::{ScramVerifier, Verifier};
use crate::backend::ConnectTarget;
use crate::base::Secret;
use crate::net::deadline;

/// What is asked by default. Only superusers may read it; `auth_query` can name a function instead.
pub const DEFAULT_SQL: &str = "SELECT rolname, rolpassword, rolvaliduntil, rolcanlogin \
     FROM pg_catalog.pg_authid WHERE rolname = $1";

/// Answers that are kept.
const KEPT_MAX: usize = 10_000;

/// How long one question may take, with connecting and with those that stand before it.
const ASK_MS: u64 = 10_000;

/// An answer is not forgotten before this age: wrong passwords shall not become questions one by one.
const FORGET_AGE: Duration = Duration::from_secs(1);

/// How roles are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleQuery {
    /// A query with `$1` for the role's name. Its columns: name, verifier, and if there are any more, the time
    /// until which the password is valid, and whether the role may log in.
    pub sql: String,
    /// How long an answer is kept.
    pub ttl_ms: u64,
}

/// What is known of a role.
#[derive(Debug, Default)]
pub struct Account {
    /// What its password is checked against; none when it has no password.
    pub verifier: Option<Verifier>,
    /// Until when the password is valid.
    pub valid_until: Option<SystemTime>,
    /// It exists and must not log in.
    pub is_barred: bool,
    /// For SCRAM, when the verifier is a password.
    pub scram: OnceCell<ScramVerifier>,
}

impl Account {
    /// An account with a verifier and no limits.
    pub fn new(verifier: Verifier) -> Self {
        Self { verifier: Some(verifier), ..Self::default() }
    }
}

/// An answer, and whether it was asked for just now.
#[derive(Clone, Debug)]
pub struct Found {
    /// None: there is no such role.
    pub account: Option<Arc<Account>>,
    /// It may be out of date.
    pub is_kept: bool,
}

/// Where the home shard's primary is, as the control role reaches it.
pub type FindHome = Arc<dyn Fn() -> Option<ConnectTarget> + Send + Sync>;

struct Slot {
    asked: Instant,
    answer: OnceCell<Option<Arc<Account>>>,
}

/// Roles as the servers know them.
pub struct Roles {
    query: RoleQuery,
    find_home: FindHome,
    client: tokio::sync::Mutex<Option<ControlClient>>,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

impl Roles {
    /// Nothing has been asked yet.
    pub fn new(query: RoleQuery, find_home: FindHome) -> Self {
        Self { query, find_home, client: tokio::sync::Mutex::default(), slots: Mutex::default() }
    }

    /// What is known of a role.
    ///
    /// # Errors
    /// The home shard gives no answer.
    ///
    /// # Cancel safety
    /// Safe: somebody else who waits asks again.
    pub async fn look_up(&self, user: &str) -> Result<Found, ControlError> {
        let (slot, is_kept) = self.slot(user);
        let asked = deadline("the role's verifier", ASK_MS, slot.answer.get_or_try_init(|| self.ask(user))).await;
        let account = asked
            .map_err(|late| ControlError::Timeout {
                node: crate::base::NodeId(0),
                what: late.what,
                after_ms: late.after_ms,
            })??
            .clone();
        Ok(Found { account, is_kept })
    }

    /// A login failed against what is known of this role. Says whether it will be asked for again.
    pub fn forget(&self, user: &str) -> bool {
        let mut slots = self.slots.lock();
        let is_old = slots.get(user).is_none_or(|slot| slot.asked.elapsed() >= FORGET_AGE);
        if is_old {
            slots.remove(user);
        }
        is_old
    }

    fn slot(&self, user: &str) -> (Arc<Slot>, bool) {
        let ttl = Duration::from_millis(self.query.ttl_ms);
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(user).filter(|slot| slot.asked.elapsed() < ttl) {
            return (Arc::clone(slot), true);
        }
        if slots.len() >= KEPT_MAX {
            slots.retain(|_, slot| slot.asked.elapsed() < ttl);
            if slots.len() >= KEPT_MAX {
                slots.clear();
            }
        }
        let slot = Arc::new(Slot { asked: Instant::now(), answer: OnceCell::new() });
        slots.insert(user.to_owned(), Arc::clone(&slot));
        (slot, false)
    }

    async fn ask(&self, user: &str) -> Result<Option<Arc<Account>>, ControlError> {
        let mut held = self.client.lock().await;
        let target = (self.find_home)().ok_or_else(|| ControlError::Unreachable {
            node: crate::base::NodeId(0),
            reason: "the home shard has no primary".to_owned(),
        })?;
        if let Some(client) = held.as_ref().filter(|client| !client.is_closed() && *client.target() == target) {
            match client.first_row(&self.query.sql, user, ASK_MS).await {
                Err(ControlError::Unreachable { .. }) => {}
                outcome => return outcome.map(|row| row.map(|row| Arc::new(read_account(&row)))),
            }
        }
        let client = ControlClient::connect(&target).await?;
        let outcome = client.first_row(&self.query.sql, user, ASK_MS).await;
        *held = Some(client);
        outcome.map(|row| row.map(|row| Arc::new(read_account(&row))))
    }
}

/// A column of a role's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// NULL.
    Null,
    /// Text of any type.
    Text(Secret),
    /// A timestamp: microseconds since 2000.
    Time(i64),
    /// A boolean.
    Flag(bool),
    /// Something else.
    Other,
}

/// Seconds from 1970 to PostgreSQL's epoch.
const EPOCH_2000_S: u64 = 946_684_800;

fn read_account(row: &[Column]) -> Account {
    let verifier = match row.get(1) {
        Some(Column::Text(text)) => Some(Verifier::read(text)),
        _ => None,
    };
    let valid_until = match row.get(2) {
        Some(Column::Time(i64::MAX)) => None,
        Some(Column::Time(micros)) => {
            let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_2000_S);
            let distance = Duration::from_micros(micros.unsigned_abs());
            // What the clock cannot count is long past.
            let time = if *micros < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
            Some(time.unwrap_or(SystemTime::UNIX_EPOCH))
        }
        _ => None,
    };
    let is_barred = matches!(row.get(3), Some(Column::Flag(false)));
    Account { verifier, valid_until, is_barred, scram: OnceCell::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(verifier: Column, until: Column, can_login: Column) -> Account {
        read_account(&[Column::Text(Secret::new("r")), verifier, until, can_login])
    }

    #[test]
    fn a_row_of_pg_authid_is_understood() {
        let text = || Column::Text(Secret::new("md5a3556571e93b0d20722ba62be61e8c2d"));
        let account = row(text(), Column::Null, Column::Flag(true));
        assert!(matches!(account.verifier, Some(Verifier::Md5(_))));
        assert!(account.valid_until.is_none() && !account.is_barred);
        let account = row(Column::Null, Column::Time(0), Column::Flag(false));
        assert!(account.verifier.is_none() && account.is_barred);
        let y2000 = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_2000_S);
        assert_eq!(account.valid_until, Some(y2000));
        // infinity, -infinity and a time before the epoch
        assert_eq!(row(text(), Column::Time(i64::MAX), Column::Null).valid_until, None);
        assert!(row(text(), Column::Time(i64::MIN), Column::Null).valid_until.unwrap() < y2000);
        let before = row(text(), Column::Time(-1_000_000), Column::Null).valid_until.unwrap();
        assert_eq!(y2000.duration_since(before).unwrap(), Duration::from_secs(1));
    }

    #[test]
    fn two_columns_are_enough() {
        let account = read_account(&[Column::Text(Secret::new("r")), Column::Text(Secret::new("plain"))]);
        assert!(matches!(account.verifier, Some(Verifier::Plain(_))) && !account.is_barred);
        assert!(read_account(&[]).verifier.is_none());
    }

    #[test]
    fn kept_answers_are_bounded_and_not_forgotten_at_once() {
        let roles = Roles::new(RoleQuery { sql: String::new(), ttl_ms: 60_000 }, Arc::new(|| None));
        for number in 0..KEPT_MAX + 5 {
            roles.slot(&number.to_string());
        }
        assert!(roles.slots.lock().len() <= KEPT_MAX);
        let (_, is_kept) = roles.slot("x");
        assert!(!is_kept && roles.slot("x").1);
        assert!(!roles.forget("x"), "it was asked for just now");
        assert!(roles.slot("x").1);
    }
}
