//! What a transaction left behind, asked of the server itself: texts can only tell what may have happened.
//!
//! Must not know: when to ask.

use bytes::Bytes;

use crate::session::{Change, Settings};
use crate::wire::WireError;
use crate::wire::server_message::read_data_row;

/// Settings that belong to a transaction, or cannot be read back.
const NOT_OF_SESSIONS: &str = "'transaction_isolation','transaction_read_only','transaction_deferrable','seed'";

/// Whether anything of the session lives on its connection: temporary objects (those of rarer kinds, statistics and
/// operators for two, by what hangs on their schema), cursors WITH HOLD, session
/// advisory locks, listeners, another session user. Asked outside of transactions, when every advisory lock is
/// the session's.
const PINS_SQL: &str = "SELECT 'p', '', (\
    EXISTS(SELECT FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()) \
    OR EXISTS(SELECT FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.pg_my_temp_schema()) \
    OR EXISTS(SELECT FROM pg_catalog.pg_type WHERE typnamespace = pg_catalog.pg_my_temp_schema()) \
    OR EXISTS(SELECT FROM pg_catalog.pg_depend WHERE refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass \
    AND refobjid = pg_catalog.pg_my_temp_schema()) \
    OR EXISTS(SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
    OR EXISTS(SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()) \
    OR EXISTS(SELECT FROM pg_catalog.pg_listening_channels()) \
    OR (pg_catalog.current_setting('session_authorization') <> \
        (SELECT usename FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) s \
         JOIN pg_catalog.pg_user u ON u.usesysid = s.usesysid)))::pg_catalog.text";

/// A question and its answer.
#[derive(Debug, Default)]
pub(super) struct Inspection {
    sets: Vec<String>,
    asks_all: bool,
    asks_pins: bool,
    /// Settings in force by name.
    values: Vec<(String, Option<String>)>,
    /// Something of the session lives on the connection, if that was asked.
    pub(super) is_pinned: Option<bool>,
    /// The server could not say.
    pub(super) has_failed: bool,
}

impl Inspection {
    /// Asks for these settings, for all that a session may set, and for what lives on the connection.
    pub(super) fn of(mut sets: Vec<String>, asks_all: bool, asks_pins: bool) -> Self {
        sets.sort();
        sets.dedup();
        Self { sets, asks_all, asks_pins, ..Self::default() }
    }

    pub(super) fn sql(&self) -> String {
        let mut parts = Vec::new();
        for name in &self.sets {
            let name = name.replace('\'', "''");
            parts.push(format!("SELECT 'v', '{name}', pg_catalog.current_setting('{name}', true)"));
        }
        if self.asks_all {
            parts.push(format!(
                "SELECT 'a', pg_catalog.lower(name), setting FROM pg_catalog.pg_settings \
                 WHERE source = 'session' AND name NOT IN ({NOT_OF_SESSIONS})"
            ));
            parts.push("SELECT 'v', 'role', pg_catalog.current_setting('role', true)".to_owned());
        }
        if self.asks_pins {
            parts.push(PINS_SQL.to_owned());
        }
        parts.join(" UNION ALL ")
    }

    /// Takes one row of the answer.
    pub(super) fn row(&mut self, body: &[u8]) -> Result<(), WireError> {
        let values = read_data_row(&Bytes::copy_from_slice(body))?;
        let text = |index: usize| {
            let value = values.get(index).cloned().flatten()?;
            Some(String::from_utf8_lossy(&value).into_owned())
        };
        match text(0).as_deref() {
            Some("p") => self.is_pinned = Some(text(2).as_deref() == Some("true")),
            Some(_) => self.values.push((text(1).unwrap_or_default(), text(2))),
            None => {}
        }
        Ok(())
    }

    /// Brings the session's settings up to date. Returns the statements that give startup values back to
    /// settings which RESET has returned to the server's defaults; empty when there are none.
    pub(super) fn apply(self, settings: &mut Settings) -> String {
        if self.asks_all {
            settings.forget_plain();
        }
        for (name, value) in &self.values {
            let is_startup = value.is_some() && settings.startup_value(name) == value.as_deref();
            match value {
                // A setting of an extension that is back at nothing reads as empty; `role` as none.
                Some(value) if is_startup || (name == "role" && value == "none") => {
                    settings.change(&Change::Reset(name.clone()))
                }
                Some(value) => {
                    let (name_quoted, value_quoted) = (name.replace('\'', "''"), value.replace('\'', "''"));
                    let sql = format!("SELECT pg_catalog.set_config('{name_quoted}', '{value_quoted}', false)");
                    settings.change(&Change::Set { name: name.clone(), sql });
                }
                None => settings.change(&Change::Reset(name.clone())),
            }
        }
        if !self.asks_all {
            return String::new();
        }
        let lost: Vec<String> = settings
            .startup_values()
            .filter(|(name, _)| !self.values.iter().any(|(known, _)| known == name))
            .map(|(name, value)| {
                let (name, value) = (name.replace('\'', "''"), value.replace('\'', "''"));
                format!("SELECT pg_catalog.set_config('{name}', '{value}', false)")
            })
            .collect();
        lost.join(";")
    }
}
