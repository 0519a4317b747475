//! Scalar expressions through the parser crate.
//!
//! The crate never sees the client's text: it reads tokens made by `feed`, under a dialect that
//! behaves as PostgreSQL's grammar does, and its tree is turned into ours by `convert`.
//!
//! # Source
//! Precedences: `src/backend/parser/gram.y` of PostgreSQL 15.

use std::any::TypeId;
use std::ops::Range;

use sqlparser::ast::{BinaryOperator, Expr as ParsedExpr, Ident, ObjectName, UnaryOperator, Value, ValueWithSpan};
use sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

use crate::sql::ast::Expr;
use crate::sql::lexer::TokenKind;
use crate::sql::parse::convert::Converter;
use crate::sql::parse::cursor::Source;
use crate::sql::parse::feed::{Feed, SYMMETRIC};
use crate::sql::parse::{Parsed, unsupported};

/// Functions that are called by their bare name.
pub(super) const CALLS_WITHOUT_PARENTHESES: &[&str] = &[
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "localtime",
    "localtimestamp",
    "session_user",
    "user",
];

/// Longest run of operators at one depth; the crate's tree, and ours, leans left by one for each.
const OPERATORS_MAX: usize = 500;

/// Longest run of operators that are words; these are converted recursively.
const TESTS_MAX: usize = 40;

/// Operators that are words.
const TESTS: &[&str] =
    &["not", "is", "isnull", "notnull", "in", "between", "like", "ilike", "similar", "at", "collate"];

/// Deepest recursion of the crate.
const RECURSION_MAX: usize = 40;

/// The expression that these tokens write.
pub(super) fn parse(source: &Source<'_>, tokens: Range<usize>) -> Parsed<Expr> {
    bound_chains(source, tokens.clone())?;
    let mut feed = Feed::new(source, tokens.clone())?;
    let dialect = Analysis;
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(RECURSION_MAX)
        .with_tokens_with_locations(std::mem::take(&mut feed.tokens));
    let parsed = parser.parse_expr().map_err(|error| refusal(&error, tokens.start))?;
    let next = parser.peek_token_ref();
    if next.token != Token::EOF {
        let at = usize::try_from(next.span.start.column).unwrap_or_default().saturating_sub(1);
        return Err(unsupported("the expression goes on in a way that is not understood", at));
    }
    let Feed { types, nested, windows, .. } = &feed;
    Converter { source, types, nested, windows }.expr(parsed)
}

/// The crate's own words quote the statement, so only the kind of trouble is told.
fn refusal(error: &ParserError, token: usize) -> crate::sql::ParseError {
    match error {
        ParserError::RecursionLimitExceeded => unsupported("an expression is nested too deeply", token),
        _ => unsupported("an expression is not understood", token),
    }
}

/// Refuses runs of operators, casts and subscripts that would make a tree too deep to walk.
fn bound_chains(source: &Source<'_>, tokens: Range<usize>) -> Parsed<()> {
    let (mut operators, mut tests) = (0usize, 0usize);
    for token in source.depth_zero(tokens) {
        match source.kind(token) {
            Some(TokenKind::Punctuation | TokenKind::Operator) => operators += 1,
            Some(TokenKind::Word) => tests += usize::from(source.is_any_keyword(token, TESTS)),
            _ => {}
        }
        if operators > OPERATORS_MAX || tests > TESTS_MAX {
            return Err(unsupported("an expression has too many operators in a row", token));
        }
    }
    Ok(())
}

/// PostgreSQL as the feed writes it: all operators are custom ones, all names are quoted.
#[derive(Debug)]
struct Analysis;

const BETWEEN: u8 = 60;
const COLLATE: u8 = 120;
const UNARY_SIGN: u8 = 125;

impl Dialect for Analysis {
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }

    fn is_identifier_start(&self, character: char) -> bool {
        PostgreSqlDialect {}.is_identifier_start(character)
    }

    fn is_identifier_part(&self, character: char) -> bool {
        PostgreSqlDialect {}.is_identifier_part(character)
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_order_by_using_operator(&self) -> bool {
        true
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        PostgreSqlDialect {}.prec_value(precedence)
    }

    fn get_next_precedence(&self, parser: &Parser<'_>) -> Option<Result<u8, ParserError>> {
        match &parser.peek_token_ref().token {
            Token::CustomBinaryOperator(operator) => Some(Ok(precedence_of(operator))),
            Token::Word(word) if word.keyword == Keyword::COLLATE => Some(Ok(COLLATE)),
            Token::Word(_) | Token::DoubleColon | Token::LBracket | Token::Period => None,
            _ => Some(Ok(0)),
        }
    }

    fn parse_prefix(&self, parser: &mut Parser<'_>) -> Option<Result<ParsedExpr, ParserError>> {
        Some(prefix(parser))
    }

    fn parse_infix(
        &self,
        parser: &mut Parser<'_>,
        left: &ParsedExpr,
        _precedence: u8,
    ) -> Option<Result<ParsedExpr, ParserError>> {
        // The left side comes by reference, so taking over costs a copy of it: only where the crate's own
        // reading of an operator does not do.
        match (&parser.peek_token_ref().token, &parser.peek_nth_token_ref(1).token) {
            (Token::CustomBinaryOperator(operator), Token::Word(word))
                if matches!(word.keyword, Keyword::ANY | Keyword::ALL | Keyword::SOME) =>
            {
                let (operator, all) = (operator.clone(), word.keyword == Keyword::ALL);
                parser.advance_token();
                parser.advance_token();
                Some(any_or_all(parser, left.clone(), operator, all))
            }
            (Token::Word(word), _) if word.keyword == Keyword::COLLATE => {
                parser.advance_token();
                Some(
                    parser
                        .parse_object_name(false)
                        .map(|collation| ParsedExpr::Collate { expr: Box::new(left.clone()), collation }),
                )
            }
            _ => None,
        }
    }
}

fn precedence_of(operator: &str) -> u8 {
    match operator {
        "=" | "<" | ">" | "<=" | ">=" | "<>" | "!=" => 50,
        "+" | "-" => 80,
        "*" | "/" | "%" => 90,
        "^" => 100,
        _ => 70,
    }
}

/// `(array)` or `(query)` after `left operator ANY`.
fn any_or_all(
    parser: &mut Parser<'_>,
    left: ParsedExpr,
    operator: String,
    all: bool,
) -> Result<ParsedExpr, ParserError> {
    parser.expect_token(&Token::LParen)?;
    let is_query = is_query(parser);
    let right = Box::new(if is_query { ParsedExpr::Subquery(parser.parse_query()?) } else { parser.parse_expr()? });
    parser.expect_token(&Token::RParen)?;
    let (left, compare_op) = (Box::new(left), BinaryOperator::Custom(operator));
    Ok(if all {
        ParsedExpr::AllOp { left, compare_op, right }
    } else {
        ParsedExpr::AnyOp { left, compare_op, right, is_some: false }
    })
}

fn is_query(parser: &Parser<'_>) -> bool {
    matches!(&parser.peek_token_ref().token, Token::Word(word) if word.keyword == Keyword::SELECT)
}

/// An operand. Written out here, because the crate's own first tries every word as a type.
fn prefix(parser: &mut Parser<'_>) -> Result<ParsedExpr, ParserError> {
    let next = parser.peek_token_ref();
    let span = next.span;
    match &next.token {
        Token::Word(word) if word.quote_style.is_some() => {
            let ident = Ident::with_quote_and_span('"', span, word.value.clone());
            parser.advance_token();
            if parser.peek_token_ref().token == Token::LParen {
                return parser.parse_function(ObjectName::from(vec![ident]));
            }
            Ok(ParsedExpr::Identifier(ident))
        }
        Token::Word(word) => {
            let keyword = word.keyword;
            parser.advance_token();
            keyword_operand(parser, keyword, span)
        }
        Token::Number(..) | Token::SingleQuotedString(_) | Token::Placeholder(_) => {
            parser.parse_value().map(ParsedExpr::Value)
        }
        Token::LParen => {
            parser.advance_token();
            let expr = parenthesised(parser)?;
            parser.expect_token(&Token::RParen)?;
            Ok(expr)
        }
        Token::CustomBinaryOperator(operator) => {
            let name = Ident::with_span(span, operator.clone());
            let precedence = match operator.as_str() {
                "+" | "-" => UNARY_SIGN,
                SYMMETRIC => BETWEEN,
                _ => 70,
            };
            parser.advance_token();
            let expr = Box::new(parser.parse_subexpr(precedence)?);
            // The crate has no word for any prefix operator; this node carries its name.
            Ok(ParsedExpr::Named { expr, name })
        }
        _ => Err(ParserError::ParserError("an operand is expected".to_owned())),
    }
}

fn keyword_operand(
    parser: &mut Parser<'_>,
    keyword: Keyword,
    span: sqlparser::tokenizer::Span,
) -> Result<ParsedExpr, ParserError> {
    let value = |value: Value| Ok(ParsedExpr::Value(ValueWithSpan { value, span }));
    match keyword {
        Keyword::NULL => value(Value::Null),
        Keyword::TRUE => value(Value::Boolean(true)),
        Keyword::FALSE => value(Value::Boolean(false)),
        Keyword::EXISTS => parser.parse_exists_expr(false),
        Keyword::NOT => {
            let expr = Box::new(parser.parse_subexpr(30)?);
            Ok(ParsedExpr::UnaryOp { op: UnaryOperator::Not, expr })
        }
        Keyword::ARRAY if parser.consume_token(&Token::LBracket) => parser.parse_array_expr(true),
        Keyword::ARRAY => {
            parser.expect_token(&Token::LParen)?;
            let query = parser.parse_query()?;
            parser.expect_token(&Token::RParen)?;
            Ok(ParsedExpr::Subquery(query))
        }
        _ => Err(ParserError::ParserError("an operand is expected".to_owned())),
    }
}

fn parenthesised(parser: &mut Parser<'_>) -> Result<ParsedExpr, ParserError> {
    if is_query(parser) {
        return parser.parse_query().map(ParsedExpr::Subquery);
    }
    let mut exprs = parser.parse_comma_separated(Parser::parse_expr)?;
    match exprs.pop() {
        Some(only) if exprs.is_empty() => Ok(ParsedExpr::Nested(Box::new(only))),
        last => {
            exprs.extend(last);
            Ok(ParsedExpr::Tuple(exprs))
        }
    }
}
