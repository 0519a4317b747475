//! Questions to a statement's tokens: their text, keywords, folded names, statement borders.

use std::ops::Range;

use crate::sql::lexer::{IDENTIFIER_BYTES_MAX, Lexed, Literal, Token, TokenKind};
use crate::sql::strings;

impl Lexed {
    /// The text of one token; empty past the end.
    pub fn text<'a>(&self, text: &'a str, token: usize) -> &'a str {
        self.tokens.get(token).and_then(|token| text.get(token.start..token.end)).unwrap_or_default()
    }

    /// The client's text from the first of these tokens to the last, with what stands between them.
    pub fn range_text<'a>(&self, text: &'a str, tokens: Range<usize>) -> &'a str {
        let bytes = self.byte_range(tokens);
        text.get(bytes).unwrap_or_default()
    }

    /// The bytes of a token range. An empty range lies before its token, or at the end of the last one.
    pub fn byte_range(&self, tokens: Range<usize>) -> Range<usize> {
        let end_of_all = self.tokens.last().map_or(0, |token| token.end);
        let start = self.tokens.get(tokens.start).map_or(end_of_all, |token| token.start);
        if tokens.end <= tokens.start {
            return start..start;
        }
        let end = self.tokens.get(tokens.end - 1).map_or(end_of_all, |token| token.end);
        start..end.max(start)
    }

    /// Whether this token is that keyword: unquoted, in any case of letters.
    pub fn is_keyword(&self, text: &str, token: usize, keyword: &str) -> bool {
        self.is_kind(token, TokenKind::Word) && self.text(text, token).eq_ignore_ascii_case(keyword)
    }

    /// Whether these tokens follow each other from `token` on.
    pub fn are_keywords(&self, text: &str, token: usize, keywords: &[&str]) -> bool {
        keywords.iter().enumerate().all(|(index, keyword)| self.is_keyword(text, token + index, keyword))
    }

    /// Whether this token is that punctuation or operator.
    pub fn is_symbol(&self, text: &str, token: usize, symbol: &str) -> bool {
        self.tokens.get(token).is_some_and(|t| matches!(t.kind, TokenKind::Punctuation | TokenKind::Operator))
            && self.text(text, token) == symbol
    }

    fn is_kind(&self, token: usize, kind: TokenKind) -> bool {
        self.tokens.get(token).is_some_and(|token| token.kind == kind)
    }

    /// The literal that this token is.
    pub fn literal(&self, token: usize) -> Option<&Literal> {
        match self.tokens.get(token)?.kind {
            TokenKind::Literal(index) => self.literals.get(index),
            _ => None,
        }
    }

    /// The name that this token writes, folded and cut as PostgreSQL does it: unquoted letters of ASCII
    /// to lower case, quoted as they are, 63 bytes at most. `None` for tokens that are no words.
    pub fn identifier(&self, text: &str, token: usize) -> Option<String> {
        let written = self.text(text, token);
        let mut name = match self.tokens.get(token)?.kind {
            TokenKind::Word => written.to_ascii_lowercase(),
            TokenKind::QuotedIdent => quoted_name(written)?,
            _ => return None,
        };
        if name.len() > IDENTIFIER_BYTES_MAX {
            let cut = (0..=IDENTIFIER_BYTES_MAX).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
            name.truncate(cut);
        }
        Some(name)
    }

    /// The statement of these tokens alone, as if it had been lexed by itself: positions count from the
    /// range's first byte, literals from its first literal.
    pub fn extract(&self, tokens: Range<usize>) -> Lexed {
        let bytes = self.byte_range(tokens.clone());
        let mut extracted = Lexed::default();
        for token in self.tokens.get(tokens).unwrap_or_default() {
            let kind = match token.kind {
                TokenKind::Literal(index) => {
                    extracted.literals.extend(self.literals.get(index).cloned());
                    TokenKind::Literal(extracted.literals.len().saturating_sub(1))
                }
                kind => kind,
            };
            let (start, end) = (token.start.saturating_sub(bytes.start), token.end.saturating_sub(bytes.start));
            extracted.tokens.push(Token { kind, start, end });
        }
        extracted
    }
}

/// What a token of the kind [`TokenKind::QuotedIdent`] names; the lexer has checked it.
fn quoted_name(written: &str) -> Option<String> {
    if let Some(plain) = written.strip_prefix('"') {
        return Some(plain.strip_suffix('"')?.replace("\"\"", "\""));
    }
    let inner = written.get(3..)?;
    let mut end = 0;
    loop {
        end += inner.get(end..)?.find('"')?;
        if inner.get(end + 1..)?.starts_with('"') {
            end += 2;
        } else {
            break;
        }
    }
    // What follows is nothing, or UESCAPE and one character in quotes.
    let escape = inner.get(end + 1..)?.strip_suffix('\'').and_then(|tail| tail.chars().next_back()).unwrap_or('\\');
    strings::decode_unicode(&inner.get(..end)?.replace("\"\"", "\""), escape).ok()
}

/// The statements of a text: token ranges without the semicolons, empty statements left out.
///
/// A semicolon ends a statement unless it is inside parentheses or in the body of a function written as
/// `BEGIN ATOMIC … END`.
pub fn split_tokens(text: &str, lexed: &Lexed) -> Vec<Range<usize>> {
    let mut statements = Vec::new();
    let mut start = 0;
    let mut parentheses = 0usize;
    let mut atomic = 0usize;
    for index in 0..lexed.tokens.len() {
        match lexed.text(text, index) {
            "(" | "[" if lexed.is_kind(index, TokenKind::Punctuation) => parentheses += 1,
            ")" | "]" if lexed.is_kind(index, TokenKind::Punctuation) => parentheses = parentheses.saturating_sub(1),
            ";" if parentheses == 0 && atomic == 0 && lexed.is_kind(index, TokenKind::Punctuation) => {
                if start < index {
                    statements.push(start..index);
                }
                start = index + 1;
            }
            word if lexed.is_kind(index, TokenKind::Word) => {
                if atomic == 0 {
                    let opens = word.eq_ignore_ascii_case("begin")
                        && lexed.is_keyword(text, index + 1, "atomic")
                        && creates_routine(text, lexed, start);
                    atomic += usize::from(opens);
                } else if word.eq_ignore_ascii_case("case") || word.eq_ignore_ascii_case("begin") {
                    atomic += 1;
                } else if word.eq_ignore_ascii_case("end") {
                    atomic -= 1;
                }
            }
            _ => {}
        }
    }
    if start < lexed.tokens.len() {
        statements.push(start..lexed.tokens.len());
    }
    statements
}

/// The statements of a text as byte ranges, from the first byte of their first token to the last of their
/// last; see [`split_tokens`].
pub fn split(text: &str, lexed: &Lexed) -> Vec<Range<usize>> {
    split_tokens(text, lexed).into_iter().map(|tokens| lexed.byte_range(tokens)).collect()
}

fn creates_routine(text: &str, lexed: &Lexed, start: usize) -> bool {
    let replace = if lexed.are_keywords(text, start + 1, &["or", "replace"]) { 2 } else { 0 };
    lexed.is_keyword(text, start, "create")
        && ["function", "procedure"].iter().any(|word| lexed.is_keyword(text, start + 1 + replace, word))
}

#[cfg(test)]
mod tests {
    use crate::sql::lexer::lex;

    use super::*;

    #[test]
    fn statements_end_at_top_level_semicolons_only() {
        let text = " ; select ';' ; create rule r as on insert to t do also (select 1; select 2);;
            create or replace function f() returns int begin atomic select case when true then 1 end; select 2; end;
            begin; select 1 -- ;";
        let lexed = lex(text).unwrap();
        let statements: Vec<&str> = split(text, &lexed).into_iter().map(|range| &text[range]).collect();
        assert_eq!(statements.len(), 5);
        assert_eq!(statements[0], "select ';'");
        assert!(statements[2].ends_with("select 2; end"));
        assert_eq!(statements[3..], ["begin", "select 1"]);
    }

    #[test]
    fn an_extracted_statement_equals_one_lexed_alone() {
        let text = "select 'a', 1; select 2, 'ä', $1 ; select 3";
        let lexed = lex(text).unwrap();
        for tokens in split_tokens(text, &lexed) {
            let alone = &text[lexed.byte_range(tokens.clone())];
            assert_eq!(lexed.extract(tokens), lex(alone).unwrap());
        }
    }

    #[test]
    fn names_fold_as_postgresql_folds_them() {
        let text = "FooÄ \"Foo\"\"Bar\" U&\"d\\0061t\\+000061\" U&\"d!0061ta\" UESCAPE '!'";
        let lexed = lex(text).unwrap();
        let names: Vec<String> = (0..4).filter_map(|index| lexed.identifier(text, index)).collect();
        assert_eq!(names, ["fooÄ", "Foo\"Bar", "data", "data"]);
        let long = "ä".repeat(40);
        assert_eq!(lex(&long).unwrap().identifier(&long, 0).unwrap(), "ä".repeat(31));
    }
}
