//! A session's settings, and the text that gives a connection the same ones.
//!
//! The connection remembers the key of what it was given last, so that nothing is sent when a
//! session meets a connection that already agrees.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

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

/// The settings of a session.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// From the startup packet: what RESET returns to.
    startup: BTreeMap<String, String>,
    /// From SET: the statement's own text by folded name.
    changed: BTreeMap<String, String>,
    key: u64,
}

impl Settings {
    /// From the startup packet's parameters.
    pub fn from_startup(parameters: &[(String, String)]) -> Self {
        let mut settings = Self::default();
        for (name, value) in parameters {
            let name = name.to_ascii_lowercase();
            if name == "options" {
                for (name, value) in read_options(value) {
                    settings.startup.insert(name, value);
                }
            } else if !NOT_SETTINGS.contains(&name.as_str()) && !name.starts_with("_pq_.") {
                settings.startup.insert(name, value.clone());
            }
        }
        settings.update_key();
        settings
    }

    /// The client's encoding as a setting, where it is another than the servers' connections have. Only for
    /// sessions whose texts go to one server as they are.
    pub fn with_encoding(mut self, parameters: &[(String, String)]) -> Self {
        let encoding = parameters.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case("client_encoding"));
        if let Some((name, value)) = encoding {
            let plain: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
            if !matches!(plain.to_ascii_uppercase().as_str(), "UTF8" | "UNICODE") {
                self.startup.insert(name.to_ascii_lowercase(), value.clone());
                self.update_key();
            }
        }
        self
    }

    /// SET (the statement's text) or RESET (`None`).
    pub fn change(&mut self, name: &str, sql: Option<&str>) {
        match sql {
            Some(sql) => {
                self.changed.insert(name.to_owned(), sql.to_owned());
            }
            None => {
                self.changed.remove(name);
            }
        }
        self.update_key();
    }

    /// RESET ALL, DISCARD ALL.
    pub fn reset_all(&mut self) {
        self.changed.clear();
        self.update_key();
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
        for (name, value) in &self.startup {
            if !self.changed.contains_key(name) {
                sql.push_str(&format!(
                    ";SELECT pg_catalog.set_config('{}', '{}', false)",
                    name.replace('\'', "''"),
                    value.replace('\'', "''")
                ));
            }
        }
        for text in self.changed.values() {
            sql.push(';');
            sql.push_str(text);
        }
        sql
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
        one.change("work_mem", Some("SET work_mem = '1MB'"));
        let mut two = Settings::default();
        two.change("work_mem", Some("SET work_mem = '1MB'"));
        assert_eq!(one.key(), two.key());
        one.change("work_mem", None);
        assert_eq!(one.key(), 0);
    }

    #[test]
    fn reset_returns_to_the_startup_value() {
        let mut settings = Settings::from_startup(&[("application_name".into(), "it's".into())]);
        settings.change("application_name", Some("SET application_name = 'b'"));
        assert!(settings.apply_sql().ends_with("SET application_name = 'b'"));
        settings.change("application_name", None);
        assert!(settings.apply_sql().contains("set_config('application_name', 'it''s', false)"));
    }
}
