//! When a session gives its server connection back.

/// How long a session keeps a server connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PoolMode {
    /// For one transaction; what has to outlive it keeps the connection until it is gone.
    #[default]
    Transaction,
    /// Until the client leaves.
    Session,
    /// For one statement: transaction blocks are refused.
    Statement,
}

impl PoolMode {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Transaction, Self::Session, Self::Statement];

    /// The word in settings and views.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Session => "session",
            Self::Statement => "statement",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_is_read_back_from_its_word() {
        for mode in PoolMode::ALL {
            assert_eq!(PoolMode::from_word(mode.as_str()), Some(mode));
        }
        assert_eq!(PoolMode::from_word("Session"), None);
    }
}
