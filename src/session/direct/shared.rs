//! Prepared statements that many sessions hold, once for all of them.
//!
//! Must not know: which session holds what under which name.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::facts::Facts;
use super::statements::{Origin, Statement};

/// Statements that are remembered: beyond it those go that no session holds, or all when that is not enough. Ids go on
/// growing, so none is ever used for another text.
const STATEMENTS_MAX: usize = 100_000;

/// Bytes of their texts; as [`STATEMENTS_MAX`].
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Statements by text, parameter types and the settings that they are understood under.
#[derive(Debug, Default)]
pub struct SharedStatements {
    known: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    statements: HashMap<(u64, Bytes), Arc<Statement>>,
    text_bytes: usize,
}

impl SharedStatements {
    /// The statement of a Parse's text and types under the settings of that key. Equal ids always mean equal
    /// statements; what was read off the text may differ by when it was read.
    pub fn get(
        &self,
        parse_body: Bytes,
        settings_key: u64,
        facts: Facts,
        unique_id: impl FnOnce() -> u64,
    ) -> Arc<Statement> {
        let mut known = self.known.lock();
        let key = (settings_key, parse_body);
        let found = known.statements.get(&key);
        if let Some(found) = found.filter(|found| found.facts == facts) {
            return Arc::clone(found);
        }
        let id = found.map_or_else(unique_id, |found| found.id);
        let statement = Arc::new(Statement::new(id, false, Origin::Protocol(key.1.clone()), facts));
        known.make_room(key.1.len());
        known.text_bytes += key.1.len();
        if let Some(before) = known.statements.insert(key, Arc::clone(&statement)) {
            known.text_bytes -= before.text_bytes();
        }
        statement
    }
}

impl Kept {
    fn make_room(&mut self, bytes: usize) {
        if self.statements.len() < STATEMENTS_MAX && self.text_bytes + bytes <= TEXT_BYTES_MAX {
            return;
        }
        self.statements.retain(|_, statement| Arc::strong_count(statement) > 1);
        self.text_bytes = self.statements.values().map(|statement| statement.text_bytes()).sum();
        // Otherwise every one more would be looked for.
        if self.statements.len() > STATEMENTS_MAX / 2 || self.text_bytes + bytes > TEXT_BYTES_MAX / 2 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_under_equal_settings_are_one_statement() {
        let shared = SharedStatements::default();
        let get = |text: &'static str, key: u64, id: u64, facts: Facts| {
            shared.get(Bytes::from_static(text.as_bytes()), key, facts, || id)
        };
        let one = get("select 1", 0, 1, Facts::default());
        assert!(Arc::ptr_eq(&one, &get("select 1", 0, 2, Facts::default())));
        assert_eq!(get("select 1", 5, 3, Facts::default()).id, 3);
        assert_eq!(get("select 2", 0, 4, Facts::default()).id, 4);
        // A function was declared meanwhile: the same statement, read otherwise.
        let other = get("select 1", 0, 5, Facts { calls_unknown: true, ..Facts::default() });
        assert!(other.id == 1 && other.facts.calls_unknown && !one.facts.calls_unknown);
    }

    #[test]
    fn texts_that_nobody_holds_make_room() {
        let shared = SharedStatements::default();
        let text = |number: u8| Bytes::from(vec![number; TEXT_BYTES_MAX / 8]);
        let held = shared.get(text(0), 0, Facts::default(), || 1);
        for number in 1..30 {
            shared.get(text(number), 0, Facts::default(), || u64::from(number) + 1);
            assert!(shared.known.lock().text_bytes <= TEXT_BYTES_MAX);
        }
        assert!(Arc::ptr_eq(&held, &shared.get(text(0), 0, Facts::default(), || 99)));
    }
}
