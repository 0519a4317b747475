//! The analysis copy: our tokens written in the small language that the parser crate reads exactly.
//!
//! Every literal is lifted already; here every name is quoted (so that no word of another dialect is a
//! keyword), every operator is a custom one, and every type, subquery, CASE and argument is one
//! placeholder, so that the crate sees one level of an expression and its recursion stays flat. Forms
//! that it does not know are reworded. The span of each token is the index of ours.

use std::collections::HashSet;
use std::ops::Range;

use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan};

use crate::sql::lexer::{LiteralKind, TokenKind};
use crate::sql::parse::arguments::{self, Argument};
use crate::sql::parse::cursor::Source;
use crate::sql::parse::scalar::CALLS_WITHOUT_PARENTHESES;
use crate::sql::parse::{Parsed, keywords, types, unsupported};

/// A prefix operator that marks the lower bound of BETWEEN SYMMETRIC; no operator can be written so.
pub(super) const SYMMETRIC: &str = "symmetric";

/// The analysis copy of one expression.
pub(super) struct Feed<'s, 'a> {
    source: &'s Source<'a>,
    /// Where the expression ends.
    end: usize,
    /// The tokens that the crate reads.
    pub tokens: Vec<TokenWithSpan>,
    /// Names of types; the placeholder's text is an index.
    pub types: Vec<String>,
    /// Expressions to be read by themselves; the placeholder's text is `@` and an index.
    pub nested: Vec<Argument>,
    /// Tokens that stand for a window: its parenthesis or its name.
    pub windows: HashSet<usize>,
    /// The last token written is a name, so parentheses that open now hold arguments.
    follows_name: bool,
}

impl<'s, 'a> Feed<'s, 'a> {
    pub(super) fn new(source: &'s Source<'a>, tokens: Range<usize>) -> Parsed<Self> {
        let mut feed = Self {
            source,
            end: tokens.end,
            tokens: Vec::with_capacity(tokens.len() + 2),
            types: Vec::new(),
            nested: Vec::new(),
            windows: HashSet::new(),
            follows_name: false,
        };
        let mut at = tokens.start;
        while at < tokens.end {
            at = feed.token(at, tokens.start)?;
        }
        Ok(feed)
    }

    fn push(&mut self, token: Token, index: usize) {
        let location = Location { line: 1, column: index as u64 + 1 };
        self.tokens.push(TokenWithSpan { token, span: Span { start: location, end: location } });
        self.follows_name = false;
    }

    fn push_keyword(&mut self, keyword: &str, index: usize) {
        self.push(Token::make_word(keyword, None), index);
    }

    fn push_name(&mut self, index: usize) {
        self.push(Token::make_word(self.source.written(index), Some('"')), index);
        self.follows_name = true;
    }

    fn push_type_name(&mut self, name: String, index: usize) {
        self.push(Token::make_word(&self.types.len().to_string(), Some('"')), index);
        self.types.push(name);
    }

    fn push_type(&mut self, tokens: Range<usize>) {
        self.push_type_name(types::type_name(self.source, tokens.clone()), tokens.start);
    }

    /// Writes a placeholder for an expression that is read by itself.
    fn push_nested(&mut self, argument: Argument) {
        let index = argument.start();
        self.push(Token::Placeholder(format!("@{}", self.nested.len())), index);
        self.nested.push(argument);
    }

    /// Writes a list of expressions with commas between them.
    fn push_list(&mut self, parts: Vec<Range<usize>>) {
        for (index, tokens) in parts.into_iter().enumerate() {
            if index > 0 {
                self.push(Token::Comma, tokens.start);
            }
            self.push_nested(Argument::Expr(tokens));
        }
    }

    /// Writes what stands at `at`; gives the next token to write.
    fn token(&mut self, at: usize, start: usize) -> Parsed<usize> {
        match self.source.kind(at) {
            Some(TokenKind::Literal(index)) => {
                self.literal(at, index);
                Ok(at + 1)
            }
            Some(TokenKind::Param(_)) => {
                self.push(Token::Placeholder(self.source.written(at).to_owned()), at);
                Ok(at + 1)
            }
            Some(TokenKind::Operator) => {
                let written = self.source.written(at);
                let operator = if written == "!=" { "<>" } else { written };
                self.push(Token::CustomBinaryOperator(operator.to_owned()), at);
                Ok(at + 1)
            }
            Some(TokenKind::Punctuation) => self.punctuation(at),
            Some(TokenKind::QuotedIdent) => Ok(self.typed_literal(at).unwrap_or_else(|| self.name(at))),
            Some(TokenKind::Word) => self.word(at, start),
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

    fn punctuation(&mut self, at: usize) -> Parsed<usize> {
        let source = self.source;
        let close = source.close_of(at).filter(|close| *close < self.end).unwrap_or(at);
        match source.written(at) {
            "(" if source.is_query_group(at) => Ok(self.query(at)),
            "(" if self.follows_name => self.arguments(at - 1, close),
            "(" => {
                self.push(Token::LParen, at);
                self.push_list(source.split_commas(at + 1..close));
                self.push(Token::RParen, close);
                Ok(close + 1)
            }
            "[" => {
                self.subscript(at, close);
                Ok(close + 1)
            }
            "." => {
                self.push(Token::Period, at);
                Ok(at + 1)
            }
            "::" => {
                let end = types::end_of_type(source, at + 1, self.end)
                    .ok_or_else(|| unsupported("a type is expected", at + 1))?;
                self.push(Token::DoubleColon, at);
                self.push_type(at + 1..end);
                Ok(end)
            }
            _ => Err(unsupported("an expression is not understood", at)),
        }
    }

    /// `[index]` or `[low:high]`; the members of an array stand behind ARRAY.
    fn subscript(&mut self, at: usize, close: usize) {
        let source = self.source;
        self.push(Token::LBracket, at);
        let mut start = at + 1;
        let mut token = start;
        while token < close {
            if source.is_symbol(token, ":") {
                if start < token {
                    self.push_nested(Argument::Expr(start..token));
                }
                self.push(Token::Colon, token);
                start = token + 1;
            }
            token = source.close_of(token).unwrap_or(token) + 1;
        }
        if start < close {
            self.push_nested(Argument::Expr(start..close));
        }
        self.push(Token::RBracket, close);
    }

    /// The arguments of the function whose name ends at `name`.
    fn arguments(&mut self, name: usize, close: usize) -> Parsed<usize> {
        let source = self.source;
        let open = name + 1;
        let arguments = arguments::read(source, name, open, close)?;
        self.push(Token::LParen, open);
        if arguments.distinct {
            self.push_keyword("DISTINCT", open);
        }
        if arguments.star {
            self.push(Token::Mul, open + 1);
        }
        for (index, argument) in arguments.list.into_iter().enumerate() {
            if index > 0 {
                self.push(Token::Comma, open);
            }
            self.push_nested(argument);
        }
        if let Some(order_by) = arguments.order_by {
            self.order_by(order_by)?;
        }
        self.push(Token::RParen, close);
        Ok(close + 1)
    }

    /// `TRIM(…)`, named by the function that it means; gives the next token.
    fn trim(&mut self, at: usize) -> Parsed<usize> {
        let open = at + 1;
        let close = self.source.close_of(open).ok_or_else(|| unsupported("an argument is expected", at))?;
        let (name, list) = arguments::trim(self.source, open, close)?;
        self.push(Token::make_word(name, Some('"')), at);
        self.push(Token::LParen, open);
        for (index, argument) in list.into_iter().enumerate() {
            if index > 0 {
                self.push(Token::Comma, open);
            }
            self.push_nested(argument);
        }
        self.push(Token::RParen, close);
        Ok(close + 1)
    }

    /// `ORDER BY …` inside parentheses.
    fn order_by(&mut self, tokens: Range<usize>) -> Parsed<()> {
        let source = self.source;
        if !source.lexed.are_keywords(source.text, tokens.start, &["order", "by"]) {
            return Err(unsupported("ORDER BY is expected", tokens.start));
        }
        self.push_keyword("ORDER", tokens.start);
        self.push_keyword("BY", tokens.start + 1);
        let parts = source.split_commas(tokens.start + 2..tokens.end);
        for (index, item) in parts.into_iter().enumerate() {
            if index > 0 {
                self.push(Token::Comma, item.start);
            }
            let expr_end = source.expression_end(item.start, item.end);
            // The tree has no word for the operator.
            let is_using = source.is_keyword(expr_end, "using");
            let expr = item.start..expr_end;
            self.push_nested(if is_using { Argument::Under("order using", expr) } else { Argument::Expr(expr) });
            for token in expr_end..item.end {
                match source.kind(token) {
                    Some(TokenKind::Word) => self.push_keyword(source.written(token), token),
                    Some(TokenKind::Operator) => {
                        self.push(Token::CustomBinaryOperator(source.written(token).to_owned()), token);
                    }
                    _ => return Err(unsupported("an ORDER BY in an expression is not understood", token)),
                }
            }
        }
        Ok(())
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
    fn typed_literal(&mut self, at: usize) -> Option<usize> {
        if at > 0 && self.source.is_symbol(at - 1, ".") {
            return None;
        }
        let source = self.source;
        let is_interval = source.is_keyword(at, "interval");
        let type_end = match (is_interval, source.is_symbol(at + 1, "(")) {
            (true, true) => source.close_of(at + 1)? + 1,
            (true, false) => at + 1,
            (false, _) => types::end_of_type(source, at, self.end)?,
        };
        if type_end >= self.end || !source.is_string(type_end) {
            return None;
        }
        let TokenKind::Literal(index) = source.kind(type_end)? else { return None };
        let mut name = types::type_name(source, at..type_end);
        let mut next = type_end + 1;
        if is_interval {
            next = types::end_of_interval(source, next).min(self.end);
            let fields = types::type_name(source, type_end + 1..next);
            if !fields.is_empty() {
                name = format!("{name} {fields}");
            }
        } else if source.is_keyword(at, "n") && source.touches(at, type_end) {
            // The national `N'…'`.
            "bpchar".clone_into(&mut name);
        }
        self.literal(type_end, index);
        self.push(Token::DoubleColon, at);
        self.push_type_name(name, at);
        Some(next)
    }

    fn word(&mut self, at: usize, start: usize) -> Parsed<usize> {
        let source = self.source;
        if at > start && source.is_symbol(at - 1, ".") {
            return Ok(self.name(at));
        }
        let word = source.written(at).to_ascii_lowercase();
        let opens = source.is_symbol(at + 1, "(");
        if keywords::is_reserved(&word) {
            return self.reserved(at, &word);
        }
        match word.as_str() {
            "between" if at > start => {
                self.push_keyword("BETWEEN", at);
                if source.is_keyword(at + 1, "symmetric") {
                    self.push(Token::CustomBinaryOperator(SYMMETRIC.to_owned()), at + 1);
                }
                return Ok(at + 1 + usize::from(source.is_any_keyword(at + 1, &["symmetric", "asymmetric"])));
            }
            "at" if at > start && source.is_keyword(at + 1, "time") && source.is_keyword(at + 2, "zone") => {
                for (ahead, keyword) in ["AT", "TIME", "ZONE"].into_iter().enumerate() {
                    self.push_keyword(keyword, at + ahead);
                }
                return Ok(at + 3);
            }
            "escape" if at > start => {
                self.push_keyword("ESCAPE", at);
                return Ok(at + 1);
            }
            "exists" if source.is_query_group(at + 1) => {
                self.push_keyword("EXISTS", at);
                return Ok(at + 1);
            }
            "operator" if opens && at > start => return self.qualified_operator(at),
            "filter" | "within" | "over" if at > start && source.is_symbol(at - 1, ")") => {
                if let Some(next) = self.after_call(at, &word)? {
                    return Ok(next);
                }
            }
            "trim" if opens => return self.trim(at),
            _ if opens && arguments::has_unknown_grammar(&word) => {
                return Err(unsupported(format!("{}()", word.to_ascii_uppercase()), at));
            }
            _ => {}
        }
        Ok(self.typed_literal(at).unwrap_or_else(|| self.name(at)))
    }

    /// A word that is a keyword wherever no dot stands before it.
    fn reserved(&mut self, at: usize, word: &str) -> Parsed<usize> {
        let source = self.source;
        let next = at + 1;
        let is_any = |token: usize| source.is_any_keyword(token, &["any", "all", "some"]);
        match word {
            "isnull" | "notnull" => {
                self.push_keyword("IS", at);
                if word == "notnull" {
                    self.push_keyword("NOT", at);
                }
                self.push_keyword("NULL", at);
                return Ok(next);
            }
            "is" => return self.is(at),
            "case" => {
                let end = source.end_of_case(at, self.end).ok_or_else(|| unsupported("CASE without END", at))?;
                self.push_nested(Argument::Expr(at..end + 1));
                return Ok(end + 1);
            }
            "cast" => return self.cast(at),
            "array" if source.is_symbol(next, "[") => return Ok(self.array(at)),
            "like" | "ilike" if is_any(next) => {
                self.push(Token::CustomBinaryOperator(if word == "like" { "~~" } else { "~~*" }.to_owned()), at);
                return Ok(next);
            }
            "not" if source.is_any_keyword(next, &["like", "ilike"]) && is_any(next + 1) => {
                let operator = if source.is_keyword(next, "like") { "!~~" } else { "!~~*" };
                self.push(Token::CustomBinaryOperator(operator.to_owned()), at);
                return Ok(at + 2);
            }
            "collation" if source.is_keyword(next, "for") && source.is_symbol(next + 1, "(") => {
                self.push(Token::make_word("pg_collation_for", Some('"')), at);
                self.follows_name = true;
                return Ok(at + 2);
            }
            "left" | "right" if source.is_symbol(next, "(") => return Ok(self.name(at)),
            word if CALLS_WITHOUT_PARENTHESES.contains(&word) => {
                self.push_name(at);
                if !(source.is_symbol(next, "(") && next < self.end) {
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

    /// `ARRAY[…]`.
    fn array(&mut self, at: usize) -> usize {
        let close = self.source.close_of(at + 1).unwrap_or(at + 1);
        self.push_keyword("ARRAY", at);
        self.push(Token::LBracket, at + 1);
        self.push_list(self.source.split_commas(at + 2..close));
        self.push(Token::RBracket, close);
        close + 1
    }

    /// What follows IS.
    fn is(&mut self, at: usize) -> Parsed<usize> {
        let source = self.source;
        self.push_keyword("IS", at);
        let mut next = at + 1;
        if source.is_keyword(next, "not") {
            self.push_keyword("NOT", next);
            next += 1;
        }
        if source.is_keyword(next, "unknown") {
            self.push_keyword("UNKNOWN", next);
            return Ok(next + 1);
        }
        if source.is_any_keyword(next, &["null", "true", "false", "distinct"]) {
            return Ok(next);
        }
        Err(unsupported("a test after IS is not understood", next))
    }

    /// `CAST(x AS type)` becomes `(x::type)`.
    fn cast(&mut self, at: usize) -> Parsed<usize> {
        let source = self.source;
        let open = at + 1;
        let close = source
            .close_of(open)
            .filter(|_| source.is_symbol(open, "("))
            .ok_or_else(|| unsupported("CAST without parentheses", at))?;
        let found = source.depth_zero(open + 1..close).find(|token| source.is_keyword(*token, "as"));
        let keyword = found.ok_or_else(|| unsupported("CAST without AS", at))?;
        if types::end_of_type(source, keyword + 1, close) != Some(close) {
            return Err(unsupported("a type is expected", keyword + 1));
        }
        self.push(Token::LParen, open);
        self.push_nested(Argument::Expr(open + 1..keyword));
        self.push(Token::DoubleColon, keyword);
        self.push_type(keyword + 1..close);
        self.push(Token::RParen, close);
        Ok(close + 1)
    }

    /// FILTER, WITHIN GROUP and OVER after a call; a window is one placeholder.
    fn after_call(&mut self, at: usize, word: &str) -> Parsed<Option<usize>> {
        let source = self.source;
        let open = if word == "within" { at + 2 } else { at + 1 };
        let close = source.close_of(open).filter(|close| *close < self.end);
        match (word, close) {
            ("filter", Some(close)) if source.is_keyword(open + 1, "where") => {
                self.push_keyword("FILTER", at);
                self.push(Token::LParen, open);
                self.push_keyword("WHERE", open + 1);
                self.push_nested(Argument::Expr(open + 2..close));
                self.push(Token::RParen, close);
                Ok(Some(close + 1))
            }
            ("within", Some(close)) if source.is_keyword(at + 1, "group") => {
                self.push_keyword("WITHIN", at);
                self.push_keyword("GROUP", at + 1);
                self.push(Token::LParen, open);
                self.order_by(open + 1..close)?;
                self.push(Token::RParen, close);
                Ok(Some(close + 1))
            }
            ("over", _) if close.is_some() || source.is_name(open) && open < self.end => {
                self.push_keyword("OVER", at);
                self.windows.insert(open);
                self.push(Token::make_word("window", Some('"')), open);
                Ok(Some(close.unwrap_or(open) + 1))
            }
            _ => Ok(None),
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
                    name.push_str(&source.name(token).unwrap_or_default());
                }
                _ => name.push_str(source.written(token)),
            }
        }
        self.push(Token::CustomBinaryOperator(format!("OPERATOR({name})")), at);
        Ok(close + 1)
    }
}
