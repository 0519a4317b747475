//! The names that a session's client gave to its prepared statements, and what it was told of each.
//!
//! A thousand sessions may hold a thousand statements each: an entry is a name in place, and two counts on what all
//! of them share. Must not know: what statements are.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::statements::{Origin, Statement};

/// Named statements that a session may hold.
pub(super) const STATEMENTS_MAX: usize = 10_000;

/// Names up to this length stand in their entry.
const SHORT_BYTES_MAX: usize = 14;

/// A client's name of a statement; the unnamed one has the empty name.
#[derive(Clone)]
pub(super) enum Name {
    Short([u8; SHORT_BYTES_MAX], u8),
    /// In a box within: one word instead of two.
    #[allow(clippy::redundant_allocation)]
    Long(Arc<Box<[u8]>>),
}

impl Name {
    pub(super) const UNNAMED: Self = Self::Short([0; SHORT_BYTES_MAX], 0);

    pub(super) fn new(name: &[u8]) -> Self {
        let mut short = [0; SHORT_BYTES_MAX];
        match (short.get_mut(..name.len()), u8::try_from(name.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(name);
                Self::Short(short, length)
            }
            _ => Self::Long(Arc::new(name.into())),
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short(bytes, length) => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }

    pub(super) fn is_unnamed(&self) -> bool {
        self.as_bytes().is_empty()
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.as_bytes().escape_ascii().to_string())
    }
}

/// What a client was told of a statement's columns and parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Signature of the columns, and the schema's version then; 0: not told.
    columns: u64,
    version: u64,
    /// Signature of the types of its parameters; 0: not told.
    parameters: u64,
    has_changed: bool,
}

impl Told {
    /// The client is told of its columns.
    pub(super) fn note_columns(&mut self, signature: u64, version: u64) {
        (self.columns, self.version) = (signature, version);
    }

    /// The client is told of its parameters.
    pub(super) fn note_parameters(&mut self, signature: u64) {
        self.parameters = signature;
    }

    /// Its parameters have been looked at again: values in binary are of the types that the client was told.
    pub(super) fn compare_parameters(&mut self, signature: u64) {
        self.has_changed |= self.parameters != 0 && self.parameters != signature;
    }

    /// Its columns have been looked at again.
    pub(super) fn compare_columns(&mut self, signature: u64, version: u64) {
        if self.columns == signature {
            self.version = version;
        } else {
            self.has_changed = true;
        }
    }
}

/// A statement under a name.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) statement: Arc<Statement>,
    told: Option<Arc<Told>>,
}

impl Known {
    /// Of which the client was told nothing.
    pub(super) fn new(statement: Arc<Statement>) -> Self {
        Self { statement, told: None }
    }

    /// The client was told of its columns when the schema had another version.
    pub(super) fn is_described_before(&self, version: u64) -> bool {
        self.told.as_ref().is_some_and(|told| told.columns != 0 && told.version != version)
    }

    /// Its columns, or the types of its parameters, are not those that the client was told.
    pub(super) fn has_changed(&self) -> bool {
        self.told.as_ref().is_some_and(|told| told.has_changed)
    }
}

/// Statements by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Statements {
    unnamed: Option<Known>,
    /// In the order of their names.
    named: Vec<(Name, Known)>,
}

impl Statements {
    fn place(&self, name: &[u8]) -> Result<usize, usize> {
        self.named.binary_search_by(|(known, _)| known.as_bytes().cmp(name))
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Known> {
        if name.is_empty() {
            return self.unnamed.as_ref();
        }
        self.named.get(self.place(name).ok()?).map(|(_, known)| known)
    }

    /// The client's name of a statement.
    pub(super) fn name_of(&self, id: u64) -> Option<&[u8]> {
        let unnamed = self.unnamed.as_ref().filter(|known| known.statement.id == id).map(|_| &b""[..]);
        let named = || self.named.iter().find(|(_, known)| known.statement.id == id);
        unnamed.or_else(|| named().map(|(name, _)| name.as_bytes()))
    }

    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn is_full(&self) -> bool {
        self.named.len() >= STATEMENTS_MAX
    }

    /// Gives the statement that had the name before.
    pub(super) fn insert(&mut self, name: Name, known: Known) -> Option<Known> {
        if name.is_unnamed() {
            return self.unnamed.replace(known);
        }
        match self.place(name.as_bytes()) {
            Ok(at) => self.named.get_mut(at).map(|(_, place)| std::mem::replace(place, known)),
            Err(at) => {
                if self.named.len() == self.named.capacity() {
                    // By an eighth, not by half: what many sessions hold for long is to be full.
                    self.named.reserve_exact((self.named.len() / 8).max(2));
                }
                self.named.insert(at, (name, known));
                None
            }
        }
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Known> {
        if name.is_empty() {
            return self.unnamed.take();
        }
        let at = self.place(name).ok()?;
        let (_, known) = self.named.remove(at);
        if self.named.is_empty() {
            self.named = Vec::new();
        }
        Some(known)
    }

    /// Forgets those that have a name: DEALLOCATE ALL leaves the unnamed one.
    pub(super) fn clear_named(&mut self) {
        self.named = Vec::new();
    }

    /// The client is told something of a statement, unless the name means another one by now.
    pub(super) fn tell(&mut self, name: &Name, statement: &Arc<Statement>, tell: impl FnOnce(&mut Told)) {
        let known = if name.is_unnamed() {
            self.unnamed.as_mut()
        } else {
            let at = self.place(name.as_bytes()).ok();
            at.and_then(|at| self.named.get_mut(at)).map(|(_, known)| known)
        };
        let Some(known) = known.filter(|known| Arc::ptr_eq(&known.statement, statement)) else { return };
        let mut told = known.told.as_deref().copied().unwrap_or_default();
        tell(&mut told);
        if known.told.as_deref() != Some(&told) {
            known.told = Some(statement.share_told(told));
        }
    }

    /// Name, text and parameter types of those made by Parse.
    pub(super) fn texts(&self) -> Vec<(Bytes, Bytes)> {
        let unnamed = self.unnamed.iter().map(|known| (&b""[..], known));
        let named = self.named.iter().map(|(name, known)| (name.as_bytes(), known));
        unnamed
            .chain(named)
            .filter_map(|(name, known)| match &known.statement.origin {
                Origin::Protocol(parse) => Some((Bytes::copy_from_slice(name), parse.clone())),
                Origin::Sql(_) => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Facts;
    use super::*;

    fn statement(id: u64) -> Arc<Statement> {
        Arc::new(Statement::new(id, false, Origin::Sql(String::new()), Facts::default()))
    }

    #[test]
    fn an_entry_is_four_words_and_names_of_every_length_are_told_apart() {
        assert_eq!(size_of::<(Name, Known)>(), 32);
        let mut statements = Statements::default();
        let names: Vec<Vec<u8>> = (0..40_usize).map(|length| vec![b'x'; length]).collect();
        for (id, name) in names.iter().enumerate().rev() {
            assert!(statements.insert(Name::new(name), Known::new(statement(id as u64 + 1))).is_none());
        }
        for (id, name) in names.iter().enumerate() {
            assert_eq!(statements.get(name).map(|known| known.statement.id), Some(id as u64 + 1));
            assert_eq!(statements.name_of(id as u64 + 1), Some(&**name));
        }
        assert!(statements.remove(&names[20]).is_some() && statements.remove(&names[20]).is_none());
        assert!(!statements.contains(&names[20]) && statements.contains(&names[21]) && statements.contains(b""));
        statements.clear_named();
        assert!(statements.contains(b"") && !statements.contains(b"x"));
    }

    #[test]
    fn what_two_clients_were_told_alike_is_kept_once_and_what_differs_apart() {
        let shared = statement(1);
        let told = |signature: u64| {
            let mut statements = Statements::default();
            statements.insert(Name::new(b"a"), Known::new(Arc::clone(&shared)));
            statements.tell(&Name::new(b"a"), &shared, |told| told.note_columns(signature, 7));
            statements.get(b"a").cloned().unwrap()
        };
        let (one, same, other) = (told(5), told(5), told(6));
        assert!(Arc::ptr_eq(one.told.as_ref().unwrap(), same.told.as_ref().unwrap()));
        assert_ne!(one.told, other.told);
        assert!(one.is_described_before(8) && !one.is_described_before(7) && !one.has_changed());
    }

    #[test]
    fn a_name_that_means_another_statement_by_now_is_told_nothing() {
        let (first, second) = (statement(1), statement(2));
        let mut statements = Statements::default();
        statements.insert(Name::UNNAMED, Known::new(second));
        statements.tell(&Name::UNNAMED, &first, |told| told.note_columns(5, 7));
        assert!(statements.get(b"").unwrap().told.is_none());
    }

    #[test]
    fn other_columns_and_other_parameters_than_told_are_a_change() {
        let told = Told { columns: 5, version: 1, parameters: 6, has_changed: false };
        let after = |look: fn(&mut Told)| {
            let mut told = told;
            look(&mut told);
            (told.has_changed, told.version)
        };
        assert_eq!(after(|told| told.compare_columns(5, 2)), (false, 2));
        assert_eq!(after(|told| told.compare_columns(4, 2)), (true, 1));
        assert_eq!(after(|told| told.compare_parameters(6)), (false, 1));
        assert_eq!(after(|told| told.compare_parameters(7)), (true, 1));
    }
}
