//! The analysis copy: our tokens written in the small language that the parser crate reads exactly.
//!
//! Every literal is lifted already; here every name is quoted (so that no word of another dialect is a
//! keyword), every operator is a custom one, every type and every subquery is one placeholder, and
//! forms that the crate does not know are reworded. The span of each token is the index of ours.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan};

use crate::sql::lexer::{LiteralKind, TokenKind};
use crate::sql::parse::cursor::Source;
use crate::sql::parse::scalar::CALLS_WITHOUT_PARENTHESES;
use crate::sql::parse::{Parsed, keywords, types, unsupported};

/// What a token becomes because of the special syntax round it.
#[derive(Clone, Copy)]
enum Swap {
    /// A comma: FROM and FOR of `substring(x FROM 1 FOR 2)`.
    Comma,
    /// Nothing.
    Skip,
    /// The AS of a cast, its type ending at this parenthesis.
    CastType(usize),
}

/// The analysis copy of one expression.
pub(super) struct Feed<'s, 'a> {
    source: &'s Source<'a>,
    /// The tokens that the crate reads.
    pub tokens: Vec<TokenWithSpan>,
    /// Names of types; the placeholder's text is an index.
    pub types: Vec<String>,
    /// Tokens of names before `.*`: they mean a whole row.
    pub whole_rows: HashSet<usize>,
    /// Tokens that stand for a window: its parenthesis or its name.
    pub windows: HashSet<usize>,
    swaps: HashMap<usize, Swap>,
}

impl<'s, 'a> Feed<'s, 'a> {
    pub(super) fn new(source: &'s Source<'a>, tokens: Range<usize>) -> Parsed<Self> {
        let mut feed = Self {
            source,
            tokens: Vec::with_capacity(tokens.len() + 2),
            types: Vec::new(),
            whole_rows: HashSet::new(),
            windows: HashSet::new(),
            swaps: HashMap::new(),
        };
        let mut at = tokens.start;
        while at < tokens.end {
            at = feed.token(at, &tokens)?;
        }
        Ok(feed)
    }

    fn push(&mut self, token: Token, index: usize) {
        let location = Location { line: 1, column: index as u64 + 1 };
        self.tokens.push(TokenWithSpan { token, span: Span { start: location, end: location } });
    }

    fn push_keyword(&mut self, keyword: &str, index: usize) {
        self.push(Token::make_word(keyword, None), index);
    }

    fn push_name(&mut self, index: usize) {
        self.push(Token::make_word(self.source.written(index), Some('"')), index);
    }

    fn push_type(&mut self, tokens: Range<usize>) {
        let placeholder = self.types.len().to_string();
        self.types.push(types::type_name(self.source, tokens.clone()));
        self.push(Token::make_word(&placeholder, Some('"')), tokens.start);
    }

    /// Writes what stands at `at`; gives the next token to write.
    fn token(&mut self, at: usize, tokens: &Range<usize>) -> Parsed<usize> {
        match self.swaps.get(&at) {
            Some(Swap::Comma) => {
                self.push(Token::Comma, at);
                return Ok(at + 1);
            }
            Some(Swap::Skip) => return Ok(at + 1),
            Some(Swap::CastType(close)) => {
                let close = *close;
                if types::end_of_type(self.source, at + 1, close) != Some(close) {
                    return Err(unsupported("a type is expected", at + 1));
                }
                self.push_keyword("AS", at);
                self.push_type(at + 1..close);
                return Ok(close);
            }
            None => {}
        }
        match self.source.kind(at) {
            Some(TokenKind::Literal(index)) => {
                self.literal(at, index);
                Ok(at + 1)
            }
            Some(TokenKind::Param(_)) => {
                self.push(Token::Placeholder(self.source.written(at).to_owned()), at);
                Ok(at + 1)
            }
            Some(TokenKind::Operator) => Ok(self.operator(at)),
            Some(TokenKind::Punctuation) => self.punctuation(at, tokens),
            Some(TokenKind::QuotedIdent) => Ok(self.typed_literal(at, tokens.end).unwrap_or_else(|| self.name(at))),
            Some(TokenKind::Word) => self.word(at, tokens),
            None => Err(unsupported("an expression is expected", at)),
        }
    }

    fn literal(&mut self, at: usize, index: usize) {
        let kind = self.source.lexed.literals.get(index).map(|literal| literal.kind);
        let token = match kind {
            Some(LiteralKind::Integer | LiteralKind::Decimal) => Token::Number(index.to_string(), false),
            _ => Token::SingleQuotedString(index.to_string()),
        };
        self.push(token, at);
    }

    fn operator(&mut self, at: usize) -> usize {
        let written = self.source.written(at);
        let is_star =
            written == "*" && at > 0 && self.source.is_symbol(at - 1, "(") && self.source.is_symbol(at + 1, ")");
        let token = match written {
            "*" if is_star => Token::Mul,
            "=>" => Token::RArrow,
            "!=" => Token::CustomBinaryOperator("<>".to_owned()),
            other => Token::CustomBinaryOperator(other.to_owned()),
        };
        self.push(token, at);
        at + 1
    }

    fn punctuation(&mut self, at: usize, tokens: &Range<usize>) -> Parsed<usize> {
        let token = match self.source.written(at) {
            "(" if self.source.is_query_group(at) => return Ok(self.query(at)),
            "(" => Token::LParen,
            ")" => Token::RParen,
            "[" => Token::LBracket,
            "]" => Token::RBracket,
            "," => Token::Comma,
            ":" => Token::Colon,
            ":=" => Token::RArrow,
            "." if self.source.is_symbol(at + 1, "*") && at > tokens.start => {
                // `count(t.*)` takes the row as a whole, as `count(t)` does.
                self.whole_rows.insert(at - 1);
                return Ok(at + 2);
            }
            "." => Token::Period,
            "::" => {
                let end = types::end_of_type(self.source, at + 1, tokens.end)
                    .ok_or_else(|| unsupported("a type is expected", at + 1))?;
                self.push(Token::DoubleColon, at);
                self.push_type(at + 1..end);
                return Ok(end);
            }
            _ => return Err(unsupported("an expression is not understood", at)),
        };
        self.push(token, at);
        Ok(at + 1)
    }

    /// `( SELECT n )`: the number says where the query's parenthesis opens.
    fn query(&mut self, at: usize) -> usize {
        let close = self.source.close_of(at).unwrap_or(at);
        self.push(Token::LParen, at);
        self.push_keyword("SELECT", at);
        self.push(Token::Number(at.to_string(), false), at);
        self.push(Token::RParen, close);
        close + 1
    }

    fn name(&mut self, at: usize) -> usize {
        self.push_name(at);
        at + 1
    }

    /// `type 'literal'` becomes `'literal'::type`; gives the next token.
    fn typed_literal(&mut self, at: usize, end: usize) -> Option<usize> {
        if at > 0 && self.source.is_symbol(at - 1, ".") {
            return None;
        }
        let source = self.source;
        // The national `N'…'` is a bpchar.
        let type_end = if source.is_keyword(at, "interval") {
            let is_precise = source.is_symbol(at + 1, "(");
            if is_precise { source.close_of(at + 1)? + 1 } else { at + 1 }
        } else {
            types::end_of_type(source, at, end)?
        };
        if type_end >= end || !source.is_string(type_end) {
            return None;
        }
        let TokenKind::Literal(index) = source.kind(type_end)? else { return None };
        self.literal(type_end, index);
        self.push(Token::DoubleColon, at);
        if source.is_keyword(at, "interval") {
            let fields_end = types::end_of_interval(source, type_end + 1);
            let mut name = types::type_name(source, at..type_end);
            let fields = types::type_name(source, type_end + 1..fields_end);
            if !fields.is_empty() {
                name = format!("{name} {fields}");
            }
            self.push(Token::make_word(&self.types.len().to_string(), Some('"')), at);
            self.types.push(name);
            return Some(fields_end);
        }
        self.push_type(at..type_end);
        if source.is_keyword(at, "n") && source.touches(at, type_end) {
            self.types.pop();
            self.types.push("bpchar".to_owned());
        }
        Some(type_end + 1)
    }

    fn word(&mut self, at: usize, tokens: &Range<usize>) -> Parsed<usize> {
        let source = self.source;
        let follows_dot = at > tokens.start && source.is_symbol(at - 1, ".");
        if follows_dot {
            return Ok(self.name(at));
        }
        let word = source.written(at).to_ascii_lowercase();
        let opens = source.is_symbol(at + 1, "(");
        if keywords::is_reserved(&word) {
            return self.reserved(at, &word, tokens);
        }
        match word.as_str() {
            "between" if at > tokens.start => {
                self.push_keyword("BETWEEN", at);
                return Ok(at + 1 + usize::from(source.is_any_keyword(at + 1, &["symmetric", "asymmetric"])));
            }
            "at" if source.is_keyword(at + 1, "time") && source.is_keyword(at + 2, "zone") => {
                for (ahead, keyword) in ["AT", "TIME", "ZONE"].into_iter().enumerate() {
                    self.push_keyword(keyword, at + ahead);
                }
                return Ok(at + 3);
            }
            "escape" if at > tokens.start => {
                self.push_keyword("ESCAPE", at);
                return Ok(at + 1);
            }
            "exists" if opens => {
                self.push_keyword("EXISTS", at);
                return Ok(at + 1);
            }
            "operator" if opens => return self.qualified_operator(at),
            "nulls" if source.is_any_keyword(at + 1, &["first", "last"]) => {
                self.push_keyword("NULLS", at);
                self.push_keyword(source.written(at + 1), at + 1);
                return Ok(at + 2);
            }
            "by" if at > tokens.start && source.is_keyword(at - 1, "order") => {
                self.push_keyword("BY", at);
                return Ok(at + 1);
            }
            "filter" | "within" | "over" if at > tokens.start && source.is_symbol(at - 1, ")") => {
                if let Some(next) = self.after_call(at, &word) {
                    return Ok(next);
                }
            }
            "extract" | "substring" | "trim" | "position" | "overlay" | "normalize" | "treat" if opens => {
                self.special_call(at, &word)?;
            }
            "xmlelement" | "xmlforest" | "xmlparse" | "xmlpi" | "xmlroot" | "xmlserialize" | "xmlexists"
            | "xmltable" | "json_table"
                if opens =>
            {
                return Err(unsupported("XML and JSON constructors", at));
            }
            _ => {}
        }
        if let Some(next) = self.typed_literal(at, tokens.end) {
            return Ok(next);
        }
        Ok(self.name(at))
    }

    /// A word that is a keyword wherever no dot stands before it.
    fn reserved(&mut self, at: usize, word: &str, tokens: &Range<usize>) -> Parsed<usize> {
        let source = self.source;
        let next = at + 1;
        match word {
            "variadic" => return Ok(next),
            "isnull" | "notnull" => {
                self.push_keyword("IS", at);
                if word == "notnull" {
                    self.push_keyword("NOT", at);
                }
                self.push_keyword("NULL", at);
                return Ok(next);
            }
            "is" => return self.is(at),
            "cast" => self.cast(at)?,
            "like" | "ilike" if source.is_any_keyword(next, &["any", "all", "some"]) => {
                self.push(Token::CustomBinaryOperator(if word == "like" { "~~" } else { "~~*" }.to_owned()), at);
                return Ok(next);
            }
            "not"
                if source.is_any_keyword(next, &["like", "ilike"])
                    && source.is_any_keyword(next + 1, &["any", "all", "some"]) =>
            {
                let operator = if source.is_keyword(next, "like") { "!~~" } else { "!~~*" };
                self.push(Token::CustomBinaryOperator(operator.to_owned()), at);
                return Ok(at + 2);
            }
            "collation" if source.is_keyword(next, "for") => {
                self.push(Token::make_word("pg_collation_for", Some('"')), at);
                return Ok(at + 2);
            }
            "left" | "right" if source.is_symbol(next, "(") => return Ok(self.name(at)),
            "order" if !source.is_keyword(next, "by") => {
                return Err(unsupported("an expression is not understood", at));
            }
            word if CALLS_WITHOUT_PARENTHESES.contains(&word) => {
                self.push_name(at);
                if !(source.is_symbol(next, "(") && next < tokens.end) {
                    self.push(Token::LParen, at);
                    self.push(Token::RParen, at);
                }
                return Ok(next);
            }
            _ => {}
        }
        self.push_keyword(word, at);
        Ok(next)
    }

    /// What follows IS. Tests that the crate lacks become IS TRUE: either way the operand is all there is.
    fn is(&mut self, at: usize) -> Parsed<usize> {
        let source = self.source;
        self.push_keyword("IS", at);
        let mut next = at + 1;
        if source.is_keyword(next, "not") {
            self.push_keyword("NOT", next);
            next += 1;
        }
        if source.is_any_keyword(next, &["nfc", "nfd", "nfkc", "nfkd"]) && source.is_keyword(next + 1, "normalized") {
            next += 1;
        }
        if source.is_any_keyword(next, &["normalized", "document"]) {
            self.push_keyword("TRUE", next);
            return Ok(next + 1);
        }
        if source.is_any_keyword(next, &["unknown", "distinct"]) {
            self.push_keyword(source.written(next), next);
            return Ok(next + 1);
        }
        if source.is_any_keyword(next, &["null", "true", "false"]) {
            return Ok(next);
        }
        Err(unsupported("a test after IS is not understood", next))
    }

    /// Marks the AS of `CAST(x AS type)`.
    fn cast(&mut self, at: usize) -> Parsed<()> {
        let source = self.source;
        let close = source.close_of(at + 1).ok_or_else(|| unsupported("CAST without parentheses", at))?;
        let found = self.depth_zero(at + 2, close).find(|token| source.is_keyword(*token, "as"));
        let keyword = found.ok_or_else(|| unsupported("CAST without AS", at))?;
        self.swaps.insert(keyword, Swap::CastType(close));
        Ok(())
    }

    /// The tokens of this range that are in no further parentheses.
    fn depth_zero(&self, start: usize, end: usize) -> impl Iterator<Item = usize> + use<'s, 'a> {
        let source = self.source;
        let mut at = start;
        std::iter::from_fn(move || {
            let token = at;
            at = source.close_of(token).unwrap_or(token) + 1;
            (token < end).then_some(token)
        })
    }

    /// Marks the keywords between the arguments of functions with a grammar of their own.
    fn special_call(&mut self, at: usize, word: &str) -> Parsed<()> {
        let source = self.source;
        let (start, close) = (at + 2, source.close_of(at + 1).unwrap_or(at + 1));
        let inside: Vec<usize> = self.depth_zero(start, close).collect();
        if word == "treat" {
            return Err(unsupported("TREAT", at));
        }
        for token in inside.iter().copied() {
            let is_field = source.is_field(token);
            let is_separator = match word {
                "extract" => false,
                "position" => source.is_keyword(token, "in"),
                "overlay" => source.is_any_keyword(token, &["placing", "from", "for"]),
                "substring" => source.is_any_keyword(token, &["from", "for", "similar", "escape"]),
                "trim" => source.is_keyword(token, "from"),
                _ => false,
            };
            if is_separator && !is_field {
                // `substring(x FOR 2)` and `trim(FROM x)` have nothing before the first word or a start of 1.
                let is_first = token == start || matches!(self.swaps.get(&(token - 1)), Some(Swap::Skip));
                self.swaps.insert(token, if is_first { Swap::Skip } else { Swap::Comma });
            } else if word == "trim" && token == start && source.is_any_keyword(token, &["both", "leading", "trailing"])
            {
                self.swaps.insert(token, Swap::Skip);
            } else if word == "normalize"
                && token + 1 == close
                && source.is_any_keyword(token, &["nfc", "nfd", "nfkc", "nfkd"])
                && token > start
                && source.is_symbol(token - 1, ",")
            {
                self.swaps.insert(token - 1, Swap::Skip);
                self.swaps.insert(token, Swap::Skip);
            }
        }
        if word == "extract" && source.is_keyword(start + 1, "from") {
            self.swaps.insert(start, Swap::Skip);
            self.swaps.insert(start + 1, Swap::Skip);
        }
        Ok(())
    }

    /// FILTER, WITHIN GROUP and OVER after a call; a window is one placeholder.
    fn after_call(&mut self, at: usize, word: &str) -> Option<usize> {
        let source = self.source;
        match word {
            "filter" if source.is_symbol(at + 1, "(") && source.is_keyword(at + 2, "where") => {
                self.push_keyword("FILTER", at);
                Some(at + 1)
            }
            "within" if source.is_keyword(at + 1, "group") => {
                self.push_keyword("WITHIN", at);
                self.push_keyword("GROUP", at + 1);
                Some(at + 2)
            }
            "over" if source.is_symbol(at + 1, "(") || source.is_name(at + 1) => {
                self.push_keyword("OVER", at);
                self.windows.insert(at + 1);
                self.push(Token::make_word("window", Some('"')), at + 1);
                Some(source.close_of(at + 1).unwrap_or(at + 1) + 1)
            }
            _ => None,
        }
    }

    /// `OPERATOR(schema.=)`.
    fn qualified_operator(&mut self, at: usize) -> Parsed<usize> {
        let source = self.source;
        let close = source.close_of(at + 1).ok_or_else(|| unsupported("an operator is expected", at))?;
        let mut name = String::new();
        for token in at + 2..close {
            match source.kind(token) {
                Some(TokenKind::Word | TokenKind::QuotedIdent) => {
                    name.push_str(&source.name(token).unwrap_or_default())
                }
                _ => name.push_str(source.written(token)),
            }
        }
        self.push(Token::CustomBinaryOperator(format!("OPERATOR({name})")), at);
        Ok(close + 1)
    }
}
