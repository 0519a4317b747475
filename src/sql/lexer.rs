//! Exact tokens of PostgreSQL's lexical rules.
//!
//! Everything downstream trusts these tokens: literals are lifted here and nowhere else, splices are
//! made at token positions, and a token read differently from PostgreSQL would be a wrong route or an
//! injection. Where PostgreSQL's versions disagree (`0x1F`, `1_000`, `E'\v'`), the text is refused.
//! Must not know: grammar, keywords' meanings.
//!
//! # Source
//! `src/backend/parser/scan.l`, `scansup.c` and `parser.c` (UESCAPE) of PostgreSQL 15.

use std::fmt;
use std::ops::Range;

use crate::sql::strings;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// An unquoted identifier or keyword.
    Word,
    /// `"…"`, also U&"…".
    QuotedIdent,
    /// A literal: [`Lexed::literals`] at this index.
    Literal(usize),
    /// `$n`.
    Param(u32),
    /// An operator of PostgreSQL's operator characters, the longest by its rules.
    Operator,
    /// One of `( ) [ ] , ; : .`, also `::` and `:=` and `..`.
    Punctuation,
}

/// One token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// First byte in the text.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// Kinds of literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LiteralKind {
    /// Digits that fit no fraction or exponent, e.g. `42`.
    Integer,
    /// `4.2`, `1e9`.
    Decimal,
    /// `'…'`, `E'…'`, `$$…$$`, `U&'…'`, with continuations joined.
    String,
    /// `B'…'` and `X'…'`.
    BitString,
}

/// A literal with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Literal {
    /// Which kind.
    pub kind: LiteralKind,
    /// Digits as written, or the decoded string; bit strings keep their `b` or `x` in front.
    pub value: String,
}

/// A statement taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Lexed {
    /// Tokens without white space and comments.
    pub tokens: Vec<Token>,
    /// Literals in order of appearance.
    pub literals: Vec<Literal>,
}

/// The text is not made of PostgreSQL's tokens, or its tokens depend on the server's version.
///
/// # Invariants
/// Holds nothing of the text but a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LexError {
    /// PostgreSQL's words where it has some.
    pub message: &'static str,
    /// Byte of the text where the trouble starts.
    pub at: usize,
}

impl fmt::Display for LexError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at byte {}", self.message, self.at)
    }
}

impl std::error::Error for LexError {}

/// Settings of the session that change what a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LexOptions {
    /// The setting `standard_conforming_strings`: when off, a backslash in `'…'` is an escape.
    pub standard_conforming_strings: bool,
}

impl Default for LexOptions {
    fn default() -> Self {
        Self { standard_conforming_strings: true }
    }
}

/// Takes a text apart, with `standard_conforming_strings` on.
///
/// # Errors
/// The text is not made of PostgreSQL's tokens, or means different things to different versions.
pub fn lex(text: &str) -> Result<Lexed, LexError> {
    lex_with(text, LexOptions::default())
}

/// Takes a text apart under the session's settings.
///
/// # Errors
/// As [`lex`].
pub fn lex_with(text: &str, options: LexOptions) -> Result<Lexed, LexError> {
    let mut scanner = Scanner { text, bytes: text.as_bytes(), at: 0, options, lexed: Lexed::default() };
    scanner.lexed.tokens.reserve(text.len() / 5);
    while scanner.skip_space()? {
        scanner.token()?;
    }
    Ok(scanner.lexed)
}

/// Longest name that PostgreSQL keeps, in bytes (NAMEDATALEN - 1).
pub const IDENTIFIER_BYTES_MAX: usize = 63;

const OPERATOR_BYTES: &[u8] = b"~!@#^&|`?+-*/%<>=";

fn is_operator_byte(byte: u8) -> bool {
    OPERATOR_BYTES.contains(&byte)
}

fn is_ident_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_ident_part(byte: u8) -> bool {
    is_ident_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0c)
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    options: LexOptions,
    lexed: Lexed,
}

impl<'a> Scanner<'a> {
    /// The byte `ahead` of the current one; NUL past the end (a NUL in the text is no token either).
    fn peek(&self, ahead: usize) -> u8 {
        self.byte(self.at + ahead)
    }

    fn byte(&self, index: usize) -> u8 {
        self.bytes.get(index).copied().unwrap_or(0)
    }

    fn slice(&self, range: Range<usize>) -> &'a str {
        self.text.get(range).unwrap_or_default()
    }

    /// Skips white space and comments; false at the end of the text.
    fn skip_space(&mut self) -> Result<bool, LexError> {
        loop {
            match self.peek(0) {
                byte if is_space(byte) => self.at += 1,
                b'-' if self.peek(1) == b'-' => self.at = end_of_line(self.bytes, self.at),
                b'/' if self.peek(1) == b'*' => self.skip_block_comment()?,
                _ => return Ok(self.at < self.bytes.len()),
            }
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), LexError> {
        let start = self.at;
        let mut depth = 0usize;
        while self.at < self.bytes.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => self.at += 1,
            }
        }
        Err(LexError { message: "unterminated /* comment", at: start })
    }

    fn push(&mut self, kind: TokenKind, start: usize) {
        self.lexed.tokens.push(Token { kind, start, end: self.at });
    }

    fn push_literal(&mut self, kind: LiteralKind, value: String, start: usize) {
        let index = self.lexed.literals.len();
        self.lexed.literals.push(Literal { kind, value });
        self.push(TokenKind::Literal(index), start);
    }

    fn token(&mut self) -> Result<(), LexError> {
        let start = self.at;
        let byte = self.peek(0);
        match byte {
            b'\'' => self.plain_string(start),
            b'"' => self.quoted_identifier(start),
            b'0'..=b'9' => self.number(start),
            b'.' if self.peek(1).is_ascii_digit() => self.number(start),
            b'$' => self.dollar(start),
            b'e' | b'E' if self.peek(1) == b'\'' => {
                self.at += 1;
                self.escape_string(start)
            }
            b'b' | b'B' | b'x' | b'X' if self.peek(1) == b'\'' => self.bit_string(start),
            b'u' | b'U' if self.peek(1) == b'&' && matches!(self.peek(2), b'\'' | b'"') => {
                self.at += 2;
                self.unicode(start)
            }
            byte if is_ident_start(byte) => {
                while is_ident_part(self.peek(0)) {
                    self.at += 1;
                }
                self.push(TokenKind::Word, start);
                Ok(())
            }
            b'(' | b')' | b'[' | b']' | b',' | b';' | b'.' | b':' => {
                let long = matches!((byte, self.peek(1)), (b':', b':') | (b':', b'=') | (b'.', b'.'));
                self.at += if long { 2 } else { 1 };
                self.push(TokenKind::Punctuation, start);
                Ok(())
            }
            byte if is_operator_byte(byte) => self.operator(start),
            _ => Err(LexError { message: "syntax error", at: start }),
        }
    }

    /// Longest run of operator characters, cut at a comment's start, and without a trailing `+` or `-`
    /// unless the operator has one of the characters that SQL's own operators lack.
    fn operator(&mut self, start: usize) -> Result<(), LexError> {
        let mut end = start;
        while is_operator_byte(self.byte(end)) {
            let comment = matches!((self.byte(end), self.byte(end + 1)), (b'/', b'*') | (b'-', b'-'));
            if comment {
                break;
            }
            end += 1;
        }
        let run = self.bytes.get(start..end).unwrap_or_default();
        let mut length = run.len();
        if !run.iter().any(|byte| b"~!@#^&|`?%".contains(byte)) {
            while length > 1 && matches!(run.get(length - 1), Some(b'+' | b'-')) {
                length -= 1;
            }
        }
        if length > IDENTIFIER_BYTES_MAX {
            return Err(LexError { message: "operator too long", at: start });
        }
        self.at = start + length.max(1);
        self.push(TokenKind::Operator, start);
        Ok(())
    }

    fn number(&mut self, start: usize) -> Result<(), LexError> {
        let junk = LexError { message: "trailing junk after numeric literal", at: start };
        let mut kind = LiteralKind::Integer;
        self.skip_digits();
        // `1..2` is the integer 1 and `..`, as PL/pgSQL's loops need it.
        if self.peek(0) == b'.' && !(self.peek(1) == b'.' && self.at > start) {
            kind = LiteralKind::Decimal;
            self.at += 1;
            self.skip_digits();
        }
        if matches!(self.peek(0), b'e' | b'E') {
            let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if !self.peek(1 + sign).is_ascii_digit() {
                return Err(junk);
            }
            kind = LiteralKind::Decimal;
            self.at += 1 + sign;
            self.skip_digits();
        }
        if is_ident_start(self.peek(0)) {
            return Err(junk);
        }
        let value = self.slice(start..self.at).to_owned();
        self.push_literal(kind, value, start);
        Ok(())
    }

    fn skip_digits(&mut self) {
        while self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
    }

    /// `$1`, `$$…$$`, `$tag$…$tag$`.
    fn dollar(&mut self, start: usize) -> Result<(), LexError> {
        if self.peek(1).is_ascii_digit() {
            self.at += 1;
            self.skip_digits();
            if is_ident_start(self.peek(0)) {
                return Err(LexError { message: "trailing junk after parameter", at: start });
            }
            let number = self.slice(start + 1..self.at).parse::<u32>().ok().filter(|n| i32::try_from(*n).is_ok());
            let number = number.ok_or(LexError { message: "parameter number too large", at: start })?;
            self.push(TokenKind::Param(number), start);
            return Ok(());
        }
        let mut tag_end = start + 1;
        if is_ident_start(self.byte(tag_end)) {
            while is_ident_part(self.byte(tag_end)) && self.byte(tag_end) != b'$' {
                tag_end += 1;
            }
        }
        if self.byte(tag_end) != b'$' {
            return Err(LexError { message: "syntax error", at: start });
        }
        let content = tag_end + 1;
        let tag = self.bytes.get(start..content).unwrap_or_default();
        let rest = self.bytes.get(content..).unwrap_or_default();
        let Some(length) = strings::find_delimiter(rest, tag) else {
            return Err(LexError { message: "unterminated dollar-quoted string", at: start });
        };
        self.at = content + length + tag.len();
        let value = self.slice(content..content + length).to_owned();
        self.no_nul(&value, start)?;
        self.push_literal(LiteralKind::String, value, start);
        Ok(())
    }

    fn no_nul(&self, value: &str, start: usize) -> Result<(), LexError> {
        if value.as_bytes().contains(&0) {
            return Err(LexError { message: "invalid byte sequence: 0x00", at: start });
        }
        Ok(())
    }

    fn plain_string(&mut self, start: usize) -> Result<(), LexError> {
        if !self.options.standard_conforming_strings {
            return self.escape_string(start);
        }
        let value = self.raw_string(start)?;
        self.push_literal(LiteralKind::String, value, start);
        Ok(())
    }

    /// From an opening quote to the end of the last continuation: doubled quotes undone, else as written.
    fn raw_string(&mut self, start: usize) -> Result<String, LexError> {
        let mut value = String::new();
        self.at += 1;
        let mut run = self.at;
        loop {
            match memchr::memchr(b'\'', self.bytes.get(self.at..).unwrap_or_default()) {
                None => return Err(LexError { message: "unterminated quoted string", at: start }),
                Some(length) => self.at += length + 1,
            }
            if self.peek(0) == b'\'' {
                value.push_str(self.slice(run..self.at));
                self.at += 1;
                run = self.at;
                continue;
            }
            value.push_str(self.slice(run..self.at - 1));
            match strings::continuation(self.bytes, self.at) {
                Some(next) => {
                    self.at = next;
                    run = next;
                }
                None => {
                    self.no_nul(&value, start)?;
                    return Ok(value);
                }
            }
        }
    }

    /// `E'…'`, the position being at the quote.
    fn escape_string(&mut self, start: usize) -> Result<(), LexError> {
        let (value, end) = strings::escape_string(self.bytes, self.at)
            .map_err(|error| LexError { message: error.message, at: error.at.max(start) })?;
        self.at = end;
        self.no_nul(&value, start)?;
        self.push_literal(LiteralKind::String, value, start);
        Ok(())
    }

    /// `B'…'` and `X'…'`; a doubled quote ends one and starts a string, as in PostgreSQL.
    fn bit_string(&mut self, start: usize) -> Result<(), LexError> {
        let mut value = String::new();
        value.push(char::from(self.peek(0).to_ascii_lowercase()));
        self.at += 2;
        loop {
            let run = self.at;
            match memchr::memchr(b'\'', self.bytes.get(self.at..).unwrap_or_default()) {
                None => return Err(LexError { message: "unterminated bit string literal", at: start }),
                Some(length) => self.at += length,
            }
            value.push_str(self.slice(run..self.at));
            self.at += 1;
            match strings::continuation(self.bytes, self.at) {
                Some(next) => self.at = next,
                None => break,
            }
        }
        self.no_nul(&value, start)?;
        self.push_literal(LiteralKind::BitString, value, start);
        Ok(())
    }

    fn quoted_identifier(&mut self, start: usize) -> Result<(), LexError> {
        let name = self.quoted_name(start)?;
        if name.is_empty() {
            return Err(LexError { message: "zero-length delimited identifier", at: start });
        }
        self.push(TokenKind::QuotedIdent, start);
        Ok(())
    }

    /// Skips `"…"` from its opening quote and gives what is between the quotes.
    fn quoted_name(&mut self, start: usize) -> Result<&'a str, LexError> {
        let content = self.at + 1;
        self.at = content;
        loop {
            match memchr::memchr(b'"', self.bytes.get(self.at..).unwrap_or_default()) {
                None => return Err(LexError { message: "unterminated quoted identifier", at: start }),
                Some(length) => self.at += length + 1,
            }
            if self.peek(0) != b'"' {
                break;
            }
            self.at += 1;
        }
        let name = self.slice(content..self.at - 1);
        self.no_nul(name, start)?;
        Ok(name)
    }

    /// `U&'…'` and `U&"…"`, the position being at the quote; with their UESCAPE.
    fn unicode(&mut self, start: usize) -> Result<(), LexError> {
        let is_name = self.peek(0) == b'"';
        if is_name {
            let raw = self.quoted_name(start)?.replace("\"\"", "\"");
            let escape = self.uescape()?;
            let name = strings::decode_unicode(&raw, escape).map_err(|message| LexError { message, at: start })?;
            if name.is_empty() {
                return Err(LexError { message: "zero-length delimited identifier", at: start });
            }
            self.no_nul(&name, start)?;
            self.push(TokenKind::QuotedIdent, start);
            return Ok(());
        }
        if !self.options.standard_conforming_strings {
            return Err(LexError { message: "unsafe use of string constant with Unicode escapes", at: start });
        }
        let raw = self.raw_string(start)?;
        let escape = self.uescape()?;
        let value = strings::decode_unicode(&raw, escape).map_err(|message| LexError { message, at: start })?;
        self.push_literal(LiteralKind::String, value, start);
        Ok(())
    }

    /// The escape character: a backslash, or that of a UESCAPE clause, which then belongs to the token.
    fn uescape(&mut self) -> Result<char, LexError> {
        let end = self.at;
        let is_there = self.skip_space()?
            && self.slice(self.at..self.at + 7).eq_ignore_ascii_case("uescape")
            && !is_ident_part(self.peek(7));
        if !is_there {
            self.at = end;
            return Ok('\\');
        }
        self.at += 7;
        let at = self.at;
        let message = "UESCAPE must be followed by a simple string literal";
        if !self.skip_space()? || self.peek(0) != b'\'' {
            return Err(LexError { message, at });
        }
        let start = self.at;
        let value = self.raw_string(start)?;
        let mut characters = value.chars();
        match (characters.next(), characters.next()) {
            // Three bytes: written without continuation, so that the token's last but one byte is the character.
            (Some(escape), None)
                if self.at == start + 3
                    && escape.is_ascii()
                    && !escape.is_ascii_hexdigit()
                    && !matches!(escape, '+' | '\'' | '"')
                    && !is_space(escape as u8) =>
            {
                Ok(escape)
            }
            _ => Err(LexError { message: "invalid Unicode escape character", at: start }),
        }
    }
}

/// One past the last byte of the line, its newline not counted.
pub(super) fn end_of_line(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    memchr::memchr2(b'\n', b'\r', rest).map_or(bytes.len(), |length| at + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<String> {
        let lexed = lex(text).unwrap();
        lexed.tokens.iter().map(|token| text[token.start..token.end].to_owned()).collect()
    }

    fn value(text: &str) -> String {
        let lexed = lex(text).unwrap();
        assert_eq!(lexed.tokens.len(), 1, "{text}");
        lexed.literals[0].value.clone()
    }

    #[test]
    fn operators_follow_the_sign_and_comment_rules() {
        assert_eq!(kinds("a<-1"), ["a", "<", "-", "1"]);
        assert_eq!(kinds("a@-1"), ["a", "@-", "1"]);
        assert_eq!(kinds("a=+-1"), ["a", "=", "+", "-", "1"]);
        assert_eq!(kinds("a*/*c*/b"), ["a", "*", "b"]);
        assert_eq!(kinds("a+--c\nb"), ["a", "+", "b"]);
        assert_eq!(kinds("a->>'x'::text"), ["a", "->>", "'x'", "::", "text"]);
        assert_eq!(kinds("+-"), ["+", "-"]);
        assert_eq!(kinds("-+~-"), ["-+~-"]);
        assert_eq!(kinds("-+~"), ["-+~"]);
        assert_eq!(kinds("<>!=<=>==>"), ["<>!=<=>==>"]);
    }

    #[test]
    fn numbers_split_as_postgresql_splits_them() {
        assert_eq!(kinds("1..2"), ["1", "..", "2"]);
        assert_eq!(kinds("1.e5"), ["1.e5"]);
        assert_eq!(kinds(".5 5. 1.5"), [".5", "5.", "1.5"]);
        assert_eq!(kinds("t.1"), ["t", ".1"]);
        assert_eq!(kinds("1.5.6"), ["1.5", ".6"]);
        for junk in ["123abc", "0x1F", "1_000", "1e", "1e+", "1.x", "$1a", "$99999999999"] {
            assert!(lex(junk).is_err(), "{junk}");
        }
    }

    #[test]
    fn strings_decode_as_postgresql_decodes_them() {
        assert_eq!(value("'a''b'"), "a'b");
        assert_eq!(value("'a\\'"), "a\\");
        assert_eq!(value("'a' -- c\n  'b'"), "ab");
        assert_eq!(value("E'\\'; DROP TABLE x --'"), "'; DROP TABLE x --");
        assert_eq!(value("e'\\x41\\101\\u0041\\U00000041\\n\\q'"), "AAAA\nq");
        assert_eq!(value("E'\\uD83D\\uDE00'"), "😀");
        assert_eq!(value("E'\\xc3\\xa4'"), "ä");
        assert_eq!(value("U&'d\\0061t\\+000061'"), "data");
        assert_eq!(value("U&'d!0061t!+000061' /* c */ UESCAPE '!'"), "data");
        assert_eq!(value("$$a'b$$"), "a'b");
        assert_eq!(value("$t$a$$b$t$"), "a$$b");
        assert_eq!(value("B'10'"), "b10");
        assert_eq!(value("X'1F'\n'2'"), "x1F2");
    }

    #[test]
    fn what_postgresql_rejects_is_an_error() {
        for text in [
            "'abc",
            "\"abc",
            "\"\"",
            "/* a /* b */",
            "$a$b$",
            "$a",
            "E'\\uD83D'",
            "E'\\xff'",
            "E'\\0'",
            "E'\\u12'",
            "U&'\\00'",
            "\\",
            "{",
            "E'\\v'",
            "U&'a' UESCAPE 'a'",
            "U&'a' UESCAPE",
        ] {
            assert!(lex(text).is_err(), "{text}");
        }
    }

    #[test]
    fn strings_on_one_line_are_not_joined() {
        assert_eq!(kinds("'a' 'b'"), ["'a'", "'b'"]);
        assert_eq!(kinds("'a' /* c\n */ 'b'"), ["'a'", "'b'"]);
    }

    #[test]
    fn escapes_depend_on_standard_conforming_strings() {
        let options = LexOptions { standard_conforming_strings: false };
        assert_eq!(lex_with(r"'a\nb'", options).unwrap().literals[0].value, "a\nb");
        assert!(lex_with("U&'a'", options).is_err());
    }

    #[test]
    fn words_take_dollars_and_any_letter() {
        assert_eq!(kinds("a$b$ ünï _x1"), ["a$b$", "ünï", "_x1"]);
        assert_eq!(kinds("n'x'"), ["n", "'x'"]);
    }
}
