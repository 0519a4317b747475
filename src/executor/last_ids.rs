//! What `currval` and `lastval` say: which numbers a session was given last.
//!
//! PostgreSQL remembers it on the connection, which a session does not keep. So the proxy remembers what it has seen,
//! and knows when a server may have given out a number that it has not seen. Must not know: how numbers are taken.

use std::collections::BTreeMap;

use crate::error::{ClientError, ErrorId};
use crate::topology::TableName;

/// The ids that a session was given last.
#[derive(Debug, Default)]
pub(super) struct LastIds {
    by_sequence: BTreeMap<TableName, i64>,
    last: Option<TableName>,
    /// A server may have given numbers that nobody here has seen; those that are known came later.
    unseen: bool,
}

impl LastIds {
    /// An id was given out.
    pub(super) fn note(&mut self, sequence: &TableName, value: i64) {
        // Names are copied once only: COPY notes every row.
        match self.by_sequence.get_mut(sequence) {
            Some(known) => *known = value,
            None => self.note_set(sequence, value),
        }
        if self.last.as_ref() != Some(sequence) {
            self.last = Some(sequence.clone());
        }
    }

    /// `setval` has set a sequence: `currval` says so, `lastval` goes on to speak of the sequence before.
    pub(super) fn note_set(&mut self, sequence: &TableName, value: i64) {
        self.by_sequence.insert(sequence.clone(), value);
    }

    /// A server may have given out numbers: nothing is known any more.
    pub(super) fn doubt(&mut self) {
        *self = Self { unseen: true, ..Self::default() };
    }

    /// DISCARD ALL and DISCARD SEQUENCES.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// `currval`.
    ///
    /// # Errors
    /// 55000 as PostgreSQL says it, or 0A000 when only a server could know.
    pub(super) fn current(&self, sequence: &TableName) -> Result<i64, ClientError> {
        let undefined = || format!("currval of sequence \"{}\" is not yet defined in this session", sequence.name);
        self.by_sequence.get(sequence).copied().ok_or_else(|| self.unknown(undefined()))
    }

    /// `lastval`, and of which sequence.
    ///
    /// # Errors
    /// As [`Self::current`].
    pub(super) fn last(&self) -> Result<(&TableName, i64), ClientError> {
        let last = self.last.as_ref().and_then(|name| self.by_sequence.get(name).map(|value| (name, *value)));
        last.ok_or_else(|| self.unknown("lastval is not yet defined in this session".to_owned()))
    }

    fn unknown(&self, undefined: String) -> ClientError {
        if self.unseen {
            return ClientError::refused(
                "what currval and lastval would say is not known: a default, a trigger or a larger statement took the number",
                "Use RETURNING, or SELECT nextval(...) alone.",
            );
        }
        ClientError::new(ErrorId::PrerequisiteMissing, undefined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TableName {
        TableName { schema: "public".into(), name: text.into() }
    }

    #[test]
    fn the_last_sequence_is_the_one_that_gave_a_number() {
        let mut ids = LastIds::default();
        assert_eq!(ids.last().unwrap_err().sqlstate(), "55000");
        ids.note(&name("a"), 5);
        ids.note_set(&name("b"), 9);
        assert_eq!(ids.last().unwrap(), (&name("a"), 5));
        assert_eq!(ids.current(&name("b")).unwrap(), 9);
        ids.note_set(&name("a"), 70);
        assert_eq!(ids.last().unwrap().1, 70);
    }

    #[test]
    fn what_a_server_gave_unseen_is_not_guessed() {
        let mut ids = LastIds::default();
        ids.note(&name("a"), 5);
        ids.doubt();
        assert_eq!(ids.last().unwrap_err().sqlstate(), "0A000");
        assert_eq!(ids.current(&name("a")).unwrap_err().sqlstate(), "0A000");
        ids.note(&name("b"), 1);
        assert_eq!(ids.last().unwrap(), (&name("b"), 1));
        assert_eq!(ids.current(&name("a")).unwrap_err().sqlstate(), "0A000");
        ids.forget();
        assert_eq!(ids.current(&name("a")).unwrap_err().sqlstate(), "55000");
    }
}
