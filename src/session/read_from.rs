//! Where a session's reads may go.

/// What `ostrakon.read_from` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadFrom {
    /// To the primary, all of them.
    #[default]
    Primary,
    /// To a replica, and to the primary when none will do; a read may wait a little for one that is about to.
    Replica,
    /// To a replica that will do at once, else to the primary.
    Any,
}

impl ReadFrom {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Primary, Self::Replica, Self::Any];

    /// The word in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Any => "any",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(word))
    }

    /// What a comment at the start of a statement asks for: `/* ostrakon: read_from=replica */`.
    pub fn hinted(text: &str) -> Option<Self> {
        let comment = text.trim_start().strip_prefix("/*")?.split_once("*/")?.0;
        let hint = comment.trim().strip_prefix("ostrakon:")?;
        let (name, value) = hint.split_once('=')?;
        if name.trim() == "read_from" { Self::from_word(value.trim()) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_back() {
        for known in ReadFrom::ALL {
            assert_eq!(ReadFrom::from_word(known.as_str()), Some(known));
        }
        assert_eq!(ReadFrom::from_word("slave"), None);
    }

    #[test]
    fn a_hint_is_a_comment_at_the_start() {
        assert_eq!(ReadFrom::hinted("/* ostrakon: read_from=replica */ SELECT 1"), Some(ReadFrom::Replica));
        assert_eq!(ReadFrom::hinted("  /*ostrakon: read_from = any*/SELECT 1"), Some(ReadFrom::Any));
        for text in
            ["SELECT 1", "SELECT 1 /* ostrakon: read_from=any */", "/* x */ SELECT 1", "/* ostrakon: read_from=x */"]
        {
            assert_eq!(ReadFrom::hinted(text), None, "{text}");
        }
    }
}
