//! A walk over a range of tokens: what stands here, does it match, where does its parenthesis close.

use std::cell::Cell;
use std::ops::Range;

use crate::sql::ast::ObjectName;
use crate::sql::lexer::{Lexed, TokenKind};
use crate::sql::parse::keywords;
use crate::sql::parse::{Parsed, unsupported};

/// Deepest nesting of parentheses and brackets. The parser's recursion follows it; a thread of 2 MB must do.
pub(super) const DEPTH_MAX: usize = 50;

/// Deepest nesting of what is read recursively: queries, and expressions that are no plain term.
pub(super) const NESTING_MAX: usize = 80;

/// Most tokens that one statement may have.
pub(super) const TOKENS_MAX: usize = 500_000;

/// Longest chain of joins or set operations: the tree leans to the left by one level for each.
pub(super) const CHAIN_MAX: usize = 300;

/// A statement's text and tokens, with every parenthesis matched.
pub(super) struct Source<'a> {
    pub text: &'a str,
    pub lexed: &'a Lexed,
    /// For an opening parenthesis or bracket the index of its closing one.
    close: Vec<usize>,
    /// For a CASE the index of its END.
    case_end: Vec<usize>,
    /// How many expressions and queries are being read inside each other.
    depth: Cell<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str, lexed: &'a Lexed) -> Parsed<Self> {
        let count = lexed.tokens.len();
        if count > TOKENS_MAX {
            return Err(unsupported("the statement has too many tokens", TOKENS_MAX));
        }
        let mut close = vec![0; count];
        let mut open = Vec::new();
        for (index, token) in lexed.tokens.iter().enumerate() {
            if token.kind != TokenKind::Punctuation {
                continue;
            }
            match lexed.text(text, index) {
                written @ ("(" | "[") => {
                    open.push((index, if written == "(" { ")" } else { "]" }));
                    if open.len() > DEPTH_MAX {
                        return Err(unsupported("parentheses are nested too deeply", index));
                    }
                }
                written @ (")" | "]") => match open.pop() {
                    Some((start, expected)) if expected == written => {
                        if let Some(slot) = close.get_mut(start) {
                            *slot = index;
                        }
                    }
                    _ => return Err(unsupported("parentheses do not match", index)),
                },
                _ => {}
            }
        }
        if let Some((index, _)) = open.first() {
            return Err(unsupported("parentheses do not match", *index));
        }
        let mut source = Self { text, lexed, close, case_end: Vec::new(), depth: Cell::new(0) };
        source.case_end = source.match_cases();
        Ok(source)
    }

    /// For each CASE its END, found in one walk: a statement may have as many as it has tokens.
    fn match_cases(&self) -> Vec<usize> {
        let mut ends = vec![0; self.lexed.tokens.len()];
        // Open ones by parenthesis; a CASE without END ends with the parenthesis that it stands in.
        let mut open: Vec<Vec<usize>> = vec![Vec::new()];
        for at in 0..ends.len() {
            match self.kind(at) {
                Some(TokenKind::Punctuation) => match self.written(at) {
                    "(" | "[" => open.push(Vec::new()),
                    ")" | "]" => drop(open.pop()),
                    _ => {}
                },
                Some(TokenKind::Word) if self.is_any_keyword(at, &["case", "end"]) && !self.is_field(at) => {
                    let Some(level) = open.last_mut() else { break };
                    if self.is_keyword(at, "case") {
                        level.push(at);
                    } else if let Some(slot) = level.pop().and_then(|start| ends.get_mut(start)) {
                        *slot = at;
                    }
                }
                _ => {}
            }
        }
        ends
    }

    /// Reads something inside something else, unless that is nested too deeply.
    pub(super) fn nest<T>(&self, token: usize, read: impl FnOnce() -> Parsed<T>) -> Parsed<T> {
        if self.depth.get() >= NESTING_MAX {
            return Err(unsupported("the statement is nested too deeply", token));
        }
        self.depth.set(self.depth.get() + 1);
        let result = read();
        self.depth.set(self.depth.get() - 1);
        result
    }

    pub(super) fn cursor(&self, tokens: Range<usize>) -> Cursor<'_, 'a> {
        Cursor { source: self, at: tokens.start, end: tokens.end }
    }

    pub(super) fn written(&self, token: usize) -> &'a str {
        self.lexed.text(self.text, token)
    }

    pub(super) fn kind(&self, token: usize) -> Option<TokenKind> {
        self.lexed.tokens.get(token).map(|token| token.kind)
    }

    pub(super) fn is_keyword(&self, token: usize, keyword: &str) -> bool {
        self.lexed.is_keyword(self.text, token, keyword)
    }

    pub(super) fn is_any_keyword(&self, token: usize, keywords: &[&str]) -> bool {
        self.kind(token) == Some(TokenKind::Word)
            && keywords.iter().any(|keyword| self.written(token).eq_ignore_ascii_case(keyword))
    }

    pub(super) fn is_symbol(&self, token: usize, symbol: &str) -> bool {
        self.lexed.is_symbol(self.text, token, symbol)
    }

    pub(super) fn is_string(&self, token: usize) -> bool {
        self.lexed.literal(token).is_some_and(|literal| literal.kind == crate::sql::LiteralKind::String)
    }

    /// Whether nothing stands between the end of one token and the start of another.
    pub(super) fn touches(&self, token: usize, other: usize) -> bool {
        self.lexed.tokens.get(token).map(|token| token.end) == self.lexed.tokens.get(other).map(|token| token.start)
    }

    pub(super) fn is_name(&self, token: usize) -> bool {
        matches!(self.kind(token), Some(TokenKind::Word | TokenKind::QuotedIdent))
    }

    /// The folded name at this token.
    pub(super) fn name(&self, token: usize) -> Option<String> {
        self.lexed.identifier(self.text, token)
    }

    /// The index of the parenthesis or bracket that closes the one at `token`, if one opens there.
    pub(super) fn close_of(&self, token: usize) -> Option<usize> {
        self.close.get(token).copied().filter(|close| *close > 0)
    }

    /// Whether a query in parentheses starts at this parenthesis.
    pub(super) fn is_query_group(&self, token: usize) -> bool {
        if !self.is_symbol(token, "(") {
            return false;
        }
        if self.is_any_keyword(token + 1, &["select", "with", "values", "table"]) {
            return true;
        }
        let Some(inner_close) = self.close_of(token + 1) else { return false };
        let after = inner_close + 1;
        self.is_query_group(token + 1)
            && (Some(after) == self.close_of(token)
                || self.is_any_keyword(
                    after,
                    &["union", "intersect", "except", "order", "limit", "offset", "fetch", "for"],
                ))
    }

    /// Whether a join's keywords start here. `left(…)` and `right(…)` are functions.
    pub(super) fn is_join_start(&self, token: usize) -> bool {
        if self.is_any_keyword(token, &["join", "cross", "natural", "inner"]) {
            return !self.is_symbol(token + 1, "(") || self.is_keyword(token, "join");
        }
        self.is_any_keyword(token, &["left", "right", "full"]) && self.is_any_keyword(token + 1, &["join", "outer"])
    }

    /// Whether a keyword stands here that ends an expression at its own depth.
    fn ends_expression(&self, token: usize) -> bool {
        if self.kind(token) != Some(TokenKind::Word) {
            return false;
        }
        let is_distinct_from =
            || token >= 2 && self.is_keyword(token - 1, "distinct") && self.is_any_keyword(token - 2, &["is", "not"]);
        match self.written(token).to_ascii_lowercase().as_str() {
            "from" => !is_distinct_from(),
            "where" | "having" | "window" | "union" | "intersect" | "except" | "limit" | "offset" | "fetch"
            | "into" | "returning" | "on" | "using" | "asc" | "desc" | "when" | "then" => true,
            "group" | "order" => self.is_keyword(token + 1, "by"),
            "for" => self.is_any_keyword(token + 1, &["update", "share", "no", "key", "read"]),
            "nulls" => self.is_any_keyword(token + 1, &["first", "last"]),
            _ => self.is_join_start(token),
        }
    }

    /// The index of the END that closes the CASE at `token`.
    pub(super) fn end_of_case(&self, token: usize, end: usize) -> Option<usize> {
        self.case_end.get(token).copied().filter(|found| (1..end).contains(found))
    }

    /// Whether a name follows a dot or AS here, so that it is no keyword whatever it looks like.
    pub(super) fn is_field(&self, token: usize) -> bool {
        let is_dot = |token: usize| token > 0 && self.is_symbol(token - 1, ".");
        is_dot(token) || token > 0 && self.is_keyword(token - 1, "as") && !is_dot(token - 1)
    }

    /// Where the expression that starts at `start` ends: at a comma, a clause's keyword or `end`.
    pub(super) fn expression_end(&self, start: usize, end: usize) -> usize {
        let mut at = start;
        while at < end {
            if let Some(close) = self.close_of(at) {
                at = close + 1;
                continue;
            }
            if self.is_symbol(at, ",") || self.is_symbol(at, ";") {
                return at;
            }
            if at == start || !self.is_field(at) {
                if self.is_keyword(at, "case") {
                    // Without its END the statement is refused where the expression seems to end.
                    match self.end_of_case(at, end) {
                        Some(case_end) => at = case_end + 1,
                        None => return at,
                    }
                    continue;
                }
                if self.ends_expression(at) {
                    return at;
                }
            }
            at += 1;
        }
        end
    }

    /// The tokens of this range that are in no parentheses of their own; an opening one stands for its group.
    pub(super) fn depth_zero(&self, tokens: Range<usize>) -> impl Iterator<Item = usize> {
        let mut at = tokens.start;
        std::iter::from_fn(move || {
            let token = at;
            at = self.close_of(token).unwrap_or(token) + 1;
            (token < tokens.end).then_some(token)
        })
    }

    /// The ranges between the commas of this range, at its own depth.
    pub(super) fn split_commas(&self, tokens: Range<usize>) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let mut start = tokens.start;
        let mut at = tokens.start;
        while at < tokens.end {
            if let Some(close) = self.close_of(at) {
                at = close;
            } else if self.is_symbol(at, ",") {
                parts.push(start..at);
                start = at + 1;
            }
            at += 1;
        }
        if !tokens.is_empty() {
            parts.push(start..tokens.end);
        }
        parts
    }
}

/// A position in a range of tokens.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'s, 'a> {
    pub source: &'s Source<'a>,
    pub at: usize,
    pub end: usize,
}

impl<'s, 'a> Cursor<'s, 'a> {
    pub(super) fn is_done(&self) -> bool {
        self.at >= self.end
    }

    /// A refusal at the current token.
    pub(super) fn fail<T>(&self, reason: impl Into<String>) -> Parsed<T> {
        Err(unsupported(reason, self.at))
    }

    pub(super) fn expect_done(&self) -> Parsed<()> {
        if self.is_done() { Ok(()) } else { self.fail("the statement goes on in a way that is not understood") }
    }

    pub(super) fn is(&self, keyword: &str) -> bool {
        self.at < self.end && self.source.is_keyword(self.at, keyword)
    }

    pub(super) fn is_ahead(&self, ahead: usize, keyword: &str) -> bool {
        self.at + ahead < self.end && self.source.is_keyword(self.at + ahead, keyword)
    }

    pub(super) fn is_any(&self, keywords: &[&str]) -> bool {
        self.at < self.end && self.source.is_any_keyword(self.at, keywords)
    }

    pub(super) fn is_all(&self, keywords: &[&str]) -> bool {
        keywords.iter().enumerate().all(|(ahead, keyword)| self.is_ahead(ahead, keyword))
    }

    pub(super) fn eat(&mut self, keyword: &str) -> bool {
        self.eat_all(&[keyword])
    }

    pub(super) fn eat_all(&mut self, keywords: &[&str]) -> bool {
        let is_there = self.is_all(keywords);
        if is_there {
            self.at += keywords.len();
        }
        is_there
    }

    /// Skips one of these keywords and says which.
    pub(super) fn eat_any<'k>(&mut self, keywords: &[&'k str]) -> Option<&'k str> {
        let found = keywords.iter().find(|keyword| self.is(keyword)).copied();
        if found.is_some() {
            self.at += 1;
        }
        found
    }

    pub(super) fn expect(&mut self, keyword: &str) -> Parsed<()> {
        if self.eat(keyword) { Ok(()) } else { self.fail(format!("{} is expected", keyword.to_ascii_uppercase())) }
    }

    pub(super) fn is_symbol(&self, symbol: &str) -> bool {
        self.at < self.end && self.source.is_symbol(self.at, symbol)
    }

    pub(super) fn eat_symbol(&mut self, symbol: &str) -> bool {
        let is_there = self.is_symbol(symbol);
        self.at += usize::from(is_there);
        is_there
    }

    /// Steps over the parentheses that open here and gives what is inside them.
    pub(super) fn group(&mut self) -> Parsed<Cursor<'s, 'a>> {
        match self.source.close_of(self.at).filter(|_| self.is_symbol("(")) {
            Some(close) if close < self.end => {
                let inside = Cursor { source: self.source, at: self.at + 1, end: close };
                self.at = close + 1;
                Ok(inside)
            }
            _ => self.fail("an opening parenthesis is expected"),
        }
    }

    /// Steps over parentheses that may open here.
    pub(super) fn skip_group(&mut self) -> Parsed<bool> {
        if self.is_symbol("(") {
            self.group()?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Any name, quoted or not.
    pub(super) fn name(&mut self) -> Parsed<String> {
        match self.source.name(self.at).filter(|_| !self.is_done()) {
            Some(name) => {
                self.at += 1;
                Ok(name)
            }
            None => self.fail("a name is expected"),
        }
    }

    /// A name that PostgreSQL accepts for a table, a column or an alias without AS.
    pub(super) fn plain_name(&mut self) -> Parsed<String> {
        if self.is_reserved() { self.fail("a name is expected") } else { self.name() }
    }

    /// Whether a word stands here that can be no table's or column's name.
    pub(super) fn is_reserved(&self) -> bool {
        self.at < self.end
            && self.source.kind(self.at) == Some(TokenKind::Word)
            && keywords::is_reserved(self.source.written(self.at))
    }

    /// A name with its schema; a catalog before the schema is dropped.
    pub(super) fn object_name(&mut self) -> Parsed<ObjectName> {
        let mut parts = vec![self.plain_name()?];
        while self.is_symbol(".") {
            self.at += 1;
            parts.push(self.name()?);
        }
        if parts.len() > 3 {
            return self.fail("a name has too many parts");
        }
        let name = parts.pop().unwrap_or_default();
        Ok(ObjectName { schema: parts.pop(), name })
    }

    /// Steps to where the expression that starts here ends, and gives its tokens.
    pub(super) fn expression(&mut self) -> Parsed<Range<usize>> {
        let start = self.at;
        self.at = self.source.expression_end(start, self.end);
        if self.at == start {
            return self.fail("an expression is expected");
        }
        Ok(start..self.at)
    }

    /// `(a, b, c)`.
    pub(super) fn name_list(&mut self) -> Parsed<Vec<String>> {
        let mut inside = self.group()?;
        let mut names = vec![inside.name()?];
        while inside.eat_symbol(",") {
            names.push(inside.name()?);
        }
        inside.expect_done()?;
        Ok(names)
    }
}
