//! The facts of most texts, in one pass over their bytes and without taking them apart.
//!
//! Whatever is not plainly one of the statements that leave nothing behind is left to [`super::facts::read`], which
//! says the same of the others, slower. Must not know: anything that `facts` does not.

use super::facts::{Facts, MayLeave, NO_CALLS, NOT_CALLED_AFTER};

/// Statements that do nothing to their session by their first word.
#[rustfmt::skip]
const FIRST_WORDS: &[&str] = &[
    "select", "insert", "update", "delete", "with", "values", "begin", "start", "commit", "end", "rollback", "abort",
    "savepoint", "release",
];

/// Longest word that is looked at; names are no longer.
const WORD_BYTES_MAX: usize = 63;

/// Bytes of words.
const IN_WORD: [bool; 256] = {
    let mut is_in = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        is_in[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'_';
        byte += 1;
    }
    is_in
};

/// A word as it is written, in whatever case; empty: none.
#[derive(Clone, Copy)]
struct Word<'t>(&'t [u8]);

impl<'t> Word<'t> {
    const NONE: Self = Self(&[]);

    fn of(written: &'t [u8]) -> Option<Self> {
        (written.len() <= WORD_BYTES_MAX).then_some(Self(written))
    }

    fn is_one_of(self, words: &[&str]) -> bool {
        !self.0.is_empty() && words.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(self.0))
    }

    /// `part` is in lower case.
    fn begins(self, part: &[u8]) -> bool {
        self.0.get(..part.len()).is_some_and(|first| first.eq_ignore_ascii_case(part))
    }
}

/// The facts of a text that is one plain statement; `None`: it has to be taken apart.
pub(super) fn read(text: &[u8], may_leave: MayLeave<'_>) -> Option<Facts> {
    let mut facts = Facts { statements: 1, ..Facts::default() };
    // The word that ends here, and the one before it; none when something else stands here.
    let (mut last, mut before) = (Word::NONE, Word::NONE);
    let mut is_first = true;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b' ' | b'\n' | b'\t' | b'\r' => {
                at += 1;
                continue;
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                let written = word_at(text, at);
                at += written.len();
                if matches!(text.get(at), Some(b'$' | b'\'' | b'"' | b'&')) {
                    return None;
                }
                let word = Word::of(written)?;
                if may_do_something(word) || (is_first && !word.is_one_of(FIRST_WORDS)) {
                    return None;
                }
                (before, last, is_first) = (last, word, false);
                continue;
            }
            _ if is_first => return None,
            b'0'..=b'9' => at = end_of_number(text, at)?,
            b'$' => at = end_of_parameter(text, at + 1)?,
            b'\'' => at = end_of_string(text, at + 1)?,
            b'.' => at = end_of_member(text, at + 1)?,
            b'(' => {
                at += 1;
                let is_call = !last.0.is_empty() && !last.is_one_of(NO_CALLS) && !before.is_one_of(NOT_CALLED_AFTER);
                let leaves = || may_leave(None, &String::from_utf8_lossy(last.0).to_ascii_lowercase());
                facts.calls_unknown = facts.calls_unknown || (is_call && leaves());
            }
            b'-' if text.get(at + 1) == Some(&b'-') => return None,
            b'/' if text.get(at + 1) == Some(&b'*') => return None,
            b',' | b')' | b'=' | b'<' | b'>' | b'+' | b'-' | b'*' | b'/' | b'%' | b'|' | b':' | b'[' | b']' => at += 1,
            b';' => {
                let rest = text.get(at + 1..).unwrap_or_default();
                return rest.iter().all(u8::is_ascii_whitespace).then_some(facts);
            }
            _ => return None,
        }
        (last, before) = (Word::NONE, Word::NONE);
    }
    (!is_first).then_some(facts)
}

fn end_of_number(text: &[u8], at: usize) -> Option<usize> {
    let end = at + run(text, at, |byte| byte.is_ascii_digit() || byte == b'.').len();
    (!text.get(end).is_some_and(|byte| is_of_name(*byte))).then_some(end)
}

/// `$1`.
fn end_of_parameter(text: &[u8], at: usize) -> Option<usize> {
    let number = run(text, at, |byte| byte.is_ascii_digit());
    let end = at + number.len();
    (!number.is_empty() && !text.get(end).is_some_and(|byte| is_of_name(*byte))).then_some(end)
}

/// A string of one piece and without a backslash, which settings read in more than one way.
fn end_of_string(text: &[u8], at: usize) -> Option<usize> {
    let inside = run(text, at, |byte| byte != b'\'' && byte != b'\\' && byte.is_ascii());
    let end = at + inside.len() + 1;
    // A doubled quote goes on with the string, as does one behind nothing but a line's end.
    let is_over = matches!(text.get(end), Some(b' ' | b',' | b')' | b';') | None);
    (text.get(end - 1) == Some(&b'\'') && is_over).then_some(end)
}

/// The name behind a point, unless it is a function's, or one in quotes.
fn end_of_member(text: &[u8], at: usize) -> Option<usize> {
    let name = word_at(text, at);
    let end = at + name.len();
    let is_name = name.first().is_some_and(|byte| !byte.is_ascii_digit());
    let next = text.get(end..).unwrap_or_default().iter().find(|byte| !byte.is_ascii_whitespace());
    let is_plain = !matches!(next, Some(b'(' | b'.' | b'$' | b'\'' | b'"' | b'&'));
    let is_idle = Word::of(name).is_some_and(|word| !may_do_something(word));
    (is_name && is_plain && is_idle && !text.get(end).is_some_and(|byte| is_of_name(*byte))).then_some(end)
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii()
}

/// As far as the word goes that begins here.
fn word_at(text: &[u8], from: usize) -> &[u8] {
    run(text, from, |byte| IN_WORD.get(usize::from(byte)) == Some(&true))
}

fn run(text: &[u8], from: usize, belongs: impl Fn(u8) -> bool) -> &[u8] {
    let rest = text.get(from..).unwrap_or_default();
    let length = rest.iter().position(|byte| !belongs(*byte)).unwrap_or(rest.len());
    rest.get(..length).unwrap_or_default()
}

/// Words that mean something wherever they stand, and all that look like them at a glance.
fn may_do_something(word: Word<'_>) -> bool {
    let begins = match word.0.first().map(u8::to_ascii_lowercase) {
        Some(b't') => word.begins(b"temp"),
        Some(b'p') => word.begins(b"pg_t"),
        Some(b's') => word.begins(b"set_"),
        Some(b'l') => word.begins(b"lastv"),
        Some(b'c') => word.begins(b"currv"),
        _ => false,
    };
    begins
        || word
            .0
            .windows(8)
            .any(|part| matches!(part, [_, _, b'v' | b'V', ..]) && part.eq_ignore_ascii_case(b"advisory"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::direct::facts;

    fn may_leave(schema: Option<&str>, name: &str) -> bool {
        !(schema.is_none() && ["count", "sum", "now"].contains(&name))
    }

    /// Plain, and then the same as what taking it apart says.
    fn check(text: &str) -> bool {
        let quick = read(text.as_bytes(), &may_leave);
        if let Some(quick) = &quick {
            assert_eq!(*quick, facts::read_apart(text.as_bytes(), true, &may_leave), "{text}");
            assert_eq!(*quick, facts::read_apart(text.as_bytes(), false, &may_leave), "{text}");
        }
        quick.is_some()
    }

    #[test]
    fn everyday_statements_are_plain() {
        for text in [
            "SELECT abalance FROM pgbench_accounts WHERE aid = 17",
            "select a.b, count(*) from a where a.c = $1 and d in ($2, 'x') order by 1 limit 10;",
            "UPDATE pgbench_tellers SET tbalance = tbalance + -5 WHERE tid = 3;",
            "INSERT INTO pgbench_history (tid, bid) VALUES (1, CURRENT_TIMESTAMP)",
            "BEGIN",
            "commit ; ",
            "select f(1)",
        ] {
            assert!(check(text), "{text}");
        }
    }

    #[test]
    fn what_may_mean_more_is_taken_apart() {
        for text in [
            "",
            ";",
            "select 1; select 2",
            "set x = 1",
            "select $$a$$",
            "select E'\\''",
            "select 'it''s'",
            "select 1 -- x",
            "select /* x */ 1",
            "select into temp t from a",
            "select pg_advisory_lock(1)",
            "select s.f(1)",
            "select \"F\"(1)",
            "select set_config('a', 'b', false)",
            "select 1a",
            "prepare x as select 1",
        ] {
            assert!(!check(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_read_otherwise_than_taken_apart(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "select", "SELECT ", "insert into ", "update", "with", "begin", "count", "f", "(", ")", " ", ",", ".",
                    "'a'", "'", "\"", "$1", "$", "$$", "1", "1.5", "e", ";", "--", "/*", "*/", "-", "*", "=", "temp", "into",
                    "set_config", "lastval", "values ", "in ", "as ", "b", "\n", "\\", "advisory", "execute ", "copy ", "from ",
                    "stdin", "é", "_", "::", "table ", "U&", "now()", "sum (", "x'",
                ]),
                0..12,
            ),
        ) {
            check(&pieces.concat());
            check(&format!("select {}", pieces.concat()));
        }
    }
}
