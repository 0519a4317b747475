//! A session's settings, and the text that gives a connection the same ones.
//!
//! The connection remembers the key of what it was given last, so that nothing is sent when a
//! session meets a connection that already agrees.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::encoding::in_ascii;

/// Startup parameters that are not settings, or are fixed by the proxy.
const NOT_SETTINGS: &[&str] = &["user", "database", "replication", "client_encoding"];

/// Settings that change neither what a text means nor what it answers.
const MEANINGLESS_TO_TEXTS: &[&str] = &[
    "application_name",
    "client_min_messages",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "lock_timeout",
    "statement_timeout",
];

/// Settings of PostgreSQL's own whose value cannot be refused by one server when another has taken it:
/// any role may set them, and nothing is looked up to judge the value.
#[rustfmt::skip]
const SURE: &[&str] = &[
    "application_name", "array_nulls", "backslash_quote", "bytea_output", "check_function_bodies",
    "client_connection_check_interval", "client_encoding", "client_min_messages", "constraint_exclusion",
    "cpu_index_tuple_cost", "cpu_operator_cost", "cpu_tuple_cost", "cursor_tuple_fraction", "datestyle",
    "default_statistics_target", "default_transaction_deferrable", "default_transaction_isolation",
    "default_transaction_read_only", "effective_cache_size", "escape_string_warning", "extra_float_digits",
    "from_collapse_limit", "hash_mem_multiplier", "idle_in_transaction_session_timeout", "idle_session_timeout",
    "intervalstyle", "join_collapse_limit", "lock_timeout", "maintenance_work_mem", "max_parallel_workers",
    "max_parallel_workers_per_gather", "min_parallel_index_scan_size", "min_parallel_table_scan_size",
    "parallel_leader_participation", "parallel_setup_cost", "parallel_tuple_cost", "plan_cache_mode",
    "quote_all_identifiers", "random_page_cost", "row_security", "search_path", "seq_page_cost",
    "standard_conforming_strings", "statement_timeout", "synchronize_seqscans", "synchronous_commit", "timezone",
    "transaction_timeout", "transform_null_equals", "work_mem", "xmlbinary", "xmloption",
];

/// As [`SURE`], by the beginning of their names.
const SURE_PREFIXES: &[&str] = &["debug_print_", "enable_", "geqo", "jit", "log_parser_stats", "vacuum_cost_"];

/// A change of the session's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// SET: the folded name and the statement's own text.
    Set {
        /// Folded name.
        name: String,
        /// The statement.
        sql: String,
    },
    /// RESET name, SET name TO DEFAULT: back to what the client asked for when it connected.
    Reset(String),
    /// RESET ALL.
    ResetAll,
}

/// The settings of a session.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// From the startup packet: what RESET returns to. Many sessions have the same, once.
    startup: Arc<BTreeMap<String, String>>,
    /// From SET: the statement's own text by folded name.
    changed: BTreeMap<String, String>,
    key: u64,
}

impl Settings {
    /// From the startup packet's parameters.
    pub fn from_startup(parameters: &[(String, String)]) -> Self {
        let mut startup = BTreeMap::new();
        for (name, value) in parameters {
            let name = name.to_ascii_lowercase();
            if name == "options" {
                startup.extend(read_options(value));
            } else if !NOT_SETTINGS.contains(&name.as_str()) && !name.starts_with("_pq_.") {
                startup.insert(name, value.clone());
            }
        }
        let mut settings = Self { startup: Arc::new(startup), ..Self::default() };
        settings.update_key();
        settings
    }

    /// The same settings as held by another session, if one of these is the same.
    pub fn alike(&self, others: &[Self]) -> Option<Self> {
        let is_same =
            |other: &&Self| (other.key, &other.startup, &other.changed) == (self.key, &self.startup, &self.changed);
        others.iter().find(is_same).cloned()
    }

    /// The client's encoding as a setting, where it is another than the servers' connections have.
    pub fn with_encoding(mut self, parameters: &[(String, String)]) -> Self {
        let encoding = parameters.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case("client_encoding"));
        if let Some((name, value)) = encoding {
            let plain: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
            if !matches!(plain.to_ascii_uppercase().as_str(), "UTF8" | "UNICODE") {
                Arc::make_mut(&mut self.startup).insert(name.to_ascii_lowercase(), value.clone());
                self.update_key();
            }
        }
        self
    }

    /// What a server took.
    pub fn change(&mut self, change: &Change) {
        match change {
            Change::Set { name, sql } => {
                self.changed.insert(name.clone(), sql.clone());
            }
            Change::Reset(name) => {
                self.changed.remove(name);
            }
            // PostgreSQL's RESET ALL leaves the role as it is.
            Change::ResetAll => self.changed.retain(|name, _| name == "role"),
        }
        self.update_key();
    }

    /// DISCARD ALL.
    pub fn discard(&mut self) {
        self.changed.clear();
        self.update_key();
    }

    /// Whether every server takes these settings since one did: then they need no answer before the
    /// first statement.
    pub fn are_sure(&self) -> bool {
        self.startup.keys().chain(self.changed.keys()).all(|name| {
            SURE.binary_search(&name.as_str()).is_ok()
                || SURE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                || name.contains('.')
        })
    }

    /// What a connection is told so that the change is made there, in place of a plain RESET, which would
    /// return to the server's own value.
    pub fn change_sql(&self, change: &Change) -> String {
        match change {
            Change::Set { sql, .. } => sql.clone(),
            Change::Reset(name) => self.startup_sql(name, false).unwrap_or_else(|| format!("RESET {name}")),
            Change::ResetAll => {
                let mut sql = String::from("RESET ALL");
                for name in self.startup.keys() {
                    sql.push(';');
                    sql.push_str(&self.startup_sql(name, false).unwrap_or_default());
                }
                sql
            }
        }
    }

    /// The statement that gives a setting the client's startup value; `None` when it has none.
    pub fn startup_sql(&self, name: &str, local: bool) -> Option<String> {
        let value = self.startup.get(name)?;
        Some(format!(
            "SELECT pg_catalog.set_config('{}', '{}', {local})",
            name.replace('\'', "''"),
            value.replace('\'', "''")
        ))
    }

    /// Equal keys mean equal settings; 0 means none at all.
    pub fn key(&self) -> u64 {
        self.key
    }

    fn update_key(&mut self) {
        if self.startup.is_empty() && self.changed.is_empty() {
            self.key = 0;
            return;
        }
        let mut hasher = DefaultHasher::new();
        self.startup.hash(&mut hasher);
        self.changed.hash(&mut hasher);
        self.key = hasher.finish().max(1);
    }

    /// The statements that turn any pooled connection into one with these settings.
    pub fn apply_sql(&self) -> String {
        let mut sql = String::from("RESET ALL;RESET ROLE");
        for name in self.startup.keys().filter(|name| !self.changed.contains_key(*name)) {
            sql.push(';');
            sql.push_str(&self.startup_sql(name, false).unwrap_or_default());
        }
        for text in self.changed.values() {
            sql.push(';');
            sql.push_str(text);
        }
        if self.changed.contains_key("standard_conforming_strings") {
            // What a backslash means is not sure.
            return sql;
        }
        // The connection may have another session's encoding until this is done.
        in_ascii(&sql).into_owned()
    }

    /// Equal keys mean that a text is understood alike: settings that cannot matter to it are left out.
    pub fn parse_key(&self) -> u64 {
        let matters = |name: &&String| !MEANINGLESS_TO_TEXTS.contains(&name.as_str());
        let mut hasher = DefaultHasher::new();
        for (name, value) in self.startup.iter().filter(|(name, _)| matters(name)) {
            (name, value).hash(&mut hasher);
        }
        0xff_u8.hash(&mut hasher);
        for (name, value) in self.changed.iter().filter(|(name, _)| matters(name)) {
            (name, value).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Forgets what was set of the settings that PostgreSQL itself has: those in force are about to be read.
    pub fn forget_plain(&mut self) {
        self.changed.retain(|name, _| name.contains('.'));
        self.update_key();
    }

    /// Settings of extensions and applications (`name.name`) that were set.
    pub fn extension_names(&self) -> impl Iterator<Item = String> {
        self.changed.keys().chain(self.startup.keys()).filter(|name| name.contains('.')).cloned()
    }

    /// Startup values by name.
    pub fn startup_values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.startup.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A startup value.
    pub fn startup_value(&self, name: &str) -> Option<&str> {
        self.startup.get(name).map(String::as_str)
    }

    /// The SET text that is in force for a setting.
    pub fn changed_sql(&self, name: &str) -> Option<&str> {
        self.changed.get(name).map(String::as_str)
    }
}

/// Reads `-c name=value` and `--name=value` of the `options` parameter; a backslash escapes a space.
fn read_options(options: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => words.last_mut().into_iter().for_each(|word| word.extend(characters.next())),
            character if character.is_whitespace() => words.push(String::new()),
            character => words.last_mut().into_iter().for_each(|word| word.push(character)),
        }
    }
    let mut found = Vec::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let assignment = match word.strip_prefix("-c") {
            Some("") => words.next(),
            Some(rest) => Some(rest.to_owned()),
            None => word.strip_prefix("--").map(str::to_owned),
        };
        if let Some((name, value)) = assignment.as_deref().and_then(|assignment| assignment.split_once('=')) {
            found.push((name.replace('-', "_").to_ascii_lowercase(), value.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, sql: &str) -> Change {
        Change::Set { name: name.into(), sql: sql.into() }
    }

    #[test]
    fn reset_on_a_connection_gives_the_startup_value() {
        let settings = Settings::from_startup(&[("work_mem".into(), "3MB".into())]);
        let reset = |name: &str| settings.change_sql(&Change::Reset(name.into()));
        assert_eq!(reset("work_mem"), "SELECT pg_catalog.set_config('work_mem', '3MB', false)");
        assert_eq!(reset("jit"), "RESET jit");
        let all = settings.change_sql(&Change::ResetAll);
        assert_eq!(all, "RESET ALL;SELECT pg_catalog.set_config('work_mem', '3MB', false)");
    }

    #[test]
    fn reset_all_leaves_the_role() {
        let mut settings = Settings::default();
        settings.change(&set("role", "SET ROLE a"));
        settings.change(&set("jit", "SET jit = off"));
        settings.change(&Change::ResetAll);
        assert_eq!(settings.apply_sql(), "RESET ALL;RESET ROLE;SET ROLE a");
        settings.discard();
        assert_eq!(settings.key(), 0);
    }

    #[test]
    fn only_settings_that_cannot_be_refused_go_without_waiting() {
        assert!(SURE.is_sorted());
        let mut settings = Settings::from_startup(&[("options".into(), "-c enable_seqscan=off".into())]);
        settings.change(&set("timezone", "SET TIME ZONE 'UTC'"));
        settings.change(&set("app.tenant", "SET app.tenant = '5'"));
        assert!(settings.are_sure());
        settings.change(&set("temp_buffers", "SET temp_buffers = 100"));
        assert!(!settings.are_sure());
    }

    #[test]
    fn options_are_read_in_both_spellings() {
        assert_eq!(
            read_options("-c geqo=off --statement-timeout=5min -csearch_path=a\\ b"),
            [
                ("geqo".to_owned(), "off".to_owned()),
                ("statement_timeout".to_owned(), "5min".to_owned()),
                ("search_path".to_owned(), "a b".to_owned())
            ]
        );
    }

    #[test]
    fn equal_settings_have_equal_keys_and_none_has_zero() {
        let mut one = Settings::from_startup(&[("user".into(), "a".into())]);
        assert_eq!(one.key(), 0);
        one.change(&set("work_mem", "SET work_mem = '1MB'"));
        let mut two = Settings::default();
        two.change(&set("work_mem", "SET work_mem = '1MB'"));
        assert_eq!(one.key(), two.key());
        one.change(&Change::Reset("work_mem".into()));
        assert_eq!(one.key(), 0);
    }

    #[test]
    fn reset_returns_to_the_startup_value() {
        let mut settings = Settings::from_startup(&[("application_name".into(), "it's".into())]);
        settings.change(&set("application_name", "SET application_name = 'b'"));
        assert!(settings.apply_sql().ends_with("SET application_name = 'b'"));
        settings.change(&Change::Reset("application_name".into()));
        assert!(settings.apply_sql().contains("set_config('application_name', 'it''s', false)"));
    }

    #[test]
    fn the_same_text_under_settings_that_change_its_meaning_is_another_statement() {
        let mut settings = Settings::default();
        settings.change(&Change::Set { name: "timezone".into(), sql: "SET timezone = 'UTC'".into() });
        let (one, two) = (Settings::default().parse_key(), settings.parse_key());
        assert_ne!(one, two);
        settings.change(&Change::Reset("timezone".into()));
        settings.change(&Change::Set { name: "application_name".into(), sql: "SET application_name = 'x'".into() });
        assert_eq!(one, settings.parse_key(), "what cannot matter does not");
    }
}
