//! Statements that would let commits be acknowledged before standbys have them.
//!
//! Of a led shard nothing acknowledged may be lost, so a session cannot set `synchronous_commit` lower. What is hidden in functions is not seen,
//! nor a name that is made at run time.

use crate::error::{ClientError, ErrorId};

/// The setting.
pub const SETTING: &str = "synchronous_commit";

/// Values with which commits wait for standbys.
const WAITING: [&str; 6] = ["on", "true", "yes", "1", "remote_apply", "default"];

/// Whether commits wait for standbys with this value.
pub fn waits(value: &str) -> bool {
    WAITING.iter().any(|known| value.eq_ignore_ascii_case(known))
}

/// Whether a text sets it lower, or to what cannot be told, anywhere: for the session, a role, a database or a function.
pub fn is_lowered(text: &str) -> bool {
    let bytes = text.as_bytes();
    let name = SETTING.as_bytes();
    // Both of its words end at an underscore or begin behind it.
    let places = memchr::memchr_iter(b'_', bytes).filter_map(|at| at.checked_sub("synchronous".len()));
    let found = places.filter(|start| {
        bytes.get(*start..*start + name.len()).is_some_and(|written| written.eq_ignore_ascii_case(name))
    });
    found.filter_map(|start| text.get(start + name.len()..)).any(|rest| sets_lower(text, rest))
}

/// Whether what follows the name gives it another value than one that waits.
fn sets_lower(text: &str, rest: &str) -> bool {
    let value = rest.trim_start_matches(|c: char| c.is_whitespace() || "\"'=,".contains(c));
    let between = rest.get(..rest.len() - value.len()).unwrap_or_default();
    let (value, is_set) = match value.split_at_checked(2) {
        Some((to, value)) if to.eq_ignore_ascii_case("to") && value.starts_with([' ', '\t', '\n', '\r', '\'', '"']) => {
            (value.trim_start_matches(|c: char| c.is_whitespace() || "\"'".contains(c)), true)
        }
        _ => (value, between.contains('=')),
    };
    let calls = between.contains(',') && text.to_ascii_lowercase().contains("set_config");
    let word = value.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
    (is_set || calls) && !waits(word)
}

/// What a session is told that tries to.
pub fn refusal() -> ClientError {
    let text = "synchronous_commit cannot be set lower: commits of this cluster are acknowledged by its standbys";
    ClientError::new(ErrorId::InsufficientPrivilege, text)
        .with_hint("Use on or remote_apply; what a whole cluster waits for is said by [failover] durability.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_value_is_seen_however_it_is_written() {
        for text in [
            "SET synchronous_commit = off",
            "set local Synchronous_Commit to 'local'",
            "SET SESSION synchronous_commit TO remote_write;",
            "SET \"synchronous_commit\"=OFF",
            "BEGIN; SET LOCAL synchronous_commit=0; INSERT INTO t VALUES (1)",
            "SELECT set_config('synchronous_commit', 'off', false)",
            "SELECT pg_catalog.set_config('synchronous_commit', $1, true)",
            "ALTER ROLE app SET synchronous_commit TO off",
            "ALTER DATABASE app SET synchronous_commit = 'local'",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET synchronous_commit = off AS 'SELECT 1'",
        ] {
            assert!(is_lowered(text), "{text}");
        }
    }

    #[test]
    fn what_waits_and_what_only_looks_is_let_through() {
        for text in [
            "SET synchronous_commit = on",
            "SET synchronous_commit TO 'remote_apply'",
            "SET synchronous_commit TO DEFAULT",
            "RESET synchronous_commit",
            "SHOW synchronous_commit",
            "SELECT set_config('synchronous_commit', 'on', false)",
            "SELECT current_setting('synchronous_commit')",
            "SELECT setting FROM pg_settings WHERE name = 'synchronous_commit' AND source = 'default'",
            "SELECT name FROM pg_settings WHERE name IN ('synchronous_commit', 'fsync')",
            "COMMIT",
            "SET a_commit = off",
            "",
        ] {
            assert!(!is_lowered(text), "{text}");
        }
    }
}
