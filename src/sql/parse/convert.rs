//! The parser crate's tree of a scalar expression, turned into ours.
//!
//! Names, literals and parameters are taken from our own tokens by the span of the crate's leaves; a
//! node that the feed cannot have caused is refused.

use std::collections::HashSet;

use sqlparser::ast::{
    AccessExpr, BinaryOperator, DataType, DuplicateTreatment, Expr as ParsedExpr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentClause, FunctionArguments, Ident, ObjectName as ParsedName, ObjectNamePart,
    OrderByExpr, OrderBySort, Query as ParsedQuery, SelectItem, SetExpr, Subscript, UnaryOperator, Value,
    ValueWithSpan, WindowType,
};
use sqlparser::tokenizer::Span;

use crate::sql::ast::{Call, Expr, ObjectName, OrderItem, Query, Window};
use crate::sql::lexer::TokenKind;
use crate::sql::parse::arguments::Argument;
use crate::sql::parse::cursor::Source;
use crate::sql::parse::feed::SYMMETRIC;
use crate::sql::parse::{Parsed, expression, query, unsupported};

/// What the conversion needs to know of the analysis copy.
pub(super) struct Converter<'c, 's, 'a> {
    pub source: &'s Source<'a>,
    pub types: &'c [String],
    pub nested: &'c [Argument],
    pub windows: &'c HashSet<usize>,
}

impl Converter<'_, '_, '_> {
    fn refuse<T>(&self, what: &str) -> Parsed<T> {
        Err(unsupported(format!("{what} in an expression"), 0))
    }

    fn token_of(&self, span: Span) -> Parsed<usize> {
        usize::try_from(span.start.column)
            .ok()
            .and_then(|column| column.checked_sub(1))
            .map_or_else(|| self.refuse("a node without a position"), Ok)
    }

    fn exprs(&self, exprs: Vec<ParsedExpr>) -> Parsed<Vec<Expr>> {
        exprs.into_iter().map(|expr| self.expr(expr)).collect()
    }

    fn boxed(&self, expr: ParsedExpr) -> Parsed<Box<Expr>> {
        self.expr(expr).map(Box::new)
    }

    /// A node without a word of its own.
    fn other(&self, what: &'static str, children: impl IntoIterator<Item = ParsedExpr>) -> Parsed<Expr> {
        let children = children.into_iter().map(|child| self.expr(child)).collect::<Parsed<Vec<_>>>()?;
        Ok(Expr::Other { what, children })
    }

    /// One expression.
    pub(super) fn expr(&self, expr: ParsedExpr) -> Parsed<Expr> {
        match expr {
            ParsedExpr::Identifier(ident) => self.column(&[ident]),
            ParsedExpr::CompoundIdentifier(idents) => self.column(&idents),
            ParsedExpr::CompoundFieldAccess { root, access_chain } => self.access(*root, access_chain),
            ParsedExpr::Value(value) => self.value(&value),
            ParsedExpr::Nested(inner) => self.expr(*inner),
            ParsedExpr::BinaryOp { .. } => self.binary(expr),
            ParsedExpr::Named { expr, name } => {
                let operator = name.value;
                Ok(Expr::Unary { operator, expr: self.boxed(*expr)? })
            }
            ParsedExpr::UnaryOp { op: UnaryOperator::Not, expr } => Ok(match self.expr(*expr)? {
                Expr::Exists { query, negated } => Expr::Exists { query, negated: !negated },
                inner => Expr::Not(Box::new(inner)),
            }),
            ParsedExpr::Cast { .. } => self.cast(expr),
            ParsedExpr::Collate { expr, collation } => {
                Ok(Expr::Collate { expr: self.boxed(*expr)?, collation: self.object_name(collation)? })
            }
            ParsedExpr::Function(function) => self.call(function),
            ParsedExpr::Tuple(members) => Ok(Expr::Row(self.exprs(members)?)),
            ParsedExpr::Array(array) => self.other("array", array.elem),
            ParsedExpr::Subquery(query) => Ok(Expr::Subquery(self.query(&query)?)),
            ParsedExpr::Exists { subquery, negated } => Ok(Expr::Exists { query: self.query(&subquery)?, negated }),
            other => self.predicate(other),
        }
    }

    /// Tests: IS, IN, BETWEEN, LIKE and ANY.
    fn predicate(&self, expr: ParsedExpr) -> Parsed<Expr> {
        match expr {
            ParsedExpr::IsNull(expr) => Ok(Expr::IsNull { expr: self.boxed(*expr)?, negated: false }),
            ParsedExpr::IsNotNull(expr) => Ok(Expr::IsNull { expr: self.boxed(*expr)?, negated: true }),
            ParsedExpr::IsTrue(expr) => self.other("is true", [*expr]),
            ParsedExpr::IsNotTrue(expr) => self.other("is not true", [*expr]),
            ParsedExpr::IsFalse(expr) => self.other("is false", [*expr]),
            ParsedExpr::IsNotFalse(expr) => self.other("is not false", [*expr]),
            ParsedExpr::IsUnknown(expr) => self.other("is unknown", [*expr]),
            ParsedExpr::IsNotUnknown(expr) => self.other("is not unknown", [*expr]),
            ParsedExpr::IsDistinctFrom(left, right) => self.other("is distinct from", [*left, *right]),
            ParsedExpr::IsNotDistinctFrom(left, right) => self.other("is not distinct from", [*left, *right]),
            ParsedExpr::InList { expr, list, negated } => {
                Ok(Expr::InList { expr: self.boxed(*expr)?, list: self.exprs(list)?, negated })
            }
            ParsedExpr::InSubquery { expr, subquery, negated } => {
                Ok(Expr::InSubquery { expr: self.boxed(*expr)?, query: self.query(&subquery)?, negated })
            }
            ParsedExpr::Between { expr, mut low, high, negated } => {
                let mut symmetric = false;
                if let ParsedExpr::Named { expr, name } = *low {
                    symmetric = name.value == SYMMETRIC;
                    low = if symmetric { expr } else { Box::new(ParsedExpr::Named { expr, name }) };
                }
                let what = match (negated, symmetric) {
                    (false, false) => "between",
                    (true, false) => "not between",
                    (false, true) => "between symmetric",
                    (true, true) => "not between symmetric",
                };
                self.other(what, [*expr, *low, *high])
            }
            ParsedExpr::Like { any: false, negated, expr, pattern, escape_char } => {
                self.pattern(if negated { "not like" } else { "like" }, *expr, *pattern, escape_char)
            }
            ParsedExpr::ILike { any: false, negated, expr, pattern, escape_char } => {
                self.pattern(if negated { "not ilike" } else { "ilike" }, *expr, *pattern, escape_char)
            }
            ParsedExpr::SimilarTo { negated, expr, pattern, escape_char } => {
                self.pattern(if negated { "not similar to" } else { "similar to" }, *expr, *pattern, escape_char)
            }
            ParsedExpr::AtTimeZone { timestamp, time_zone } => self.other("at time zone", [*timestamp, *time_zone]),
            ParsedExpr::AnyOp { left, compare_op, right, .. } => self.any_all(*left, compare_op, *right, false),
            ParsedExpr::AllOp { left, compare_op, right } => self.any_all(*left, compare_op, *right, true),
            _ => self.refuse("an unknown form"),
        }
    }

    fn pattern(
        &self,
        what: &'static str,
        expr: ParsedExpr,
        pattern: ParsedExpr,
        escape: Option<Box<ParsedExpr>>,
    ) -> Parsed<Expr> {
        self.other(what, [expr, pattern].into_iter().chain(escape.map(|escape| *escape)))
    }

    fn any_all(&self, left: ParsedExpr, op: BinaryOperator, right: ParsedExpr, all: bool) -> Parsed<Expr> {
        let (left, right) = (self.boxed(left)?, self.boxed(right)?);
        Ok(Expr::AnyAll { left, operator: self.operator(op)?, right, all })
    }

    fn operator(&self, op: BinaryOperator) -> Parsed<String> {
        match op {
            BinaryOperator::Custom(operator) => Ok(operator),
            BinaryOperator::Overlaps => Ok("overlaps".to_owned()),
            _ => self.refuse("an unknown operator"),
        }
    }

    /// Operators lean to the left; the spine is walked in a loop, since it is as long as the chain.
    fn binary(&self, expr: ParsedExpr) -> Parsed<Expr> {
        let mut rest = expr;
        let mut spine = Vec::new();
        while let ParsedExpr::BinaryOp { left, op, right } = rest {
            spine.push((op, *right));
            rest = *left;
        }
        let mut tree = self.expr(rest)?;
        for (op, right) in spine.into_iter().rev() {
            let right = self.expr(right)?;
            tree = match op {
                BinaryOperator::And => join(
                    tree,
                    right,
                    |expr| match expr {
                        Expr::And(terms) => Ok(terms),
                        other => Err(other),
                    },
                    Expr::And,
                ),
                BinaryOperator::Or => join(
                    tree,
                    right,
                    |expr| match expr {
                        Expr::Or(terms) => Ok(terms),
                        other => Err(other),
                    },
                    Expr::Or,
                ),
                op => Expr::Binary { operator: self.operator(op)?, left: Box::new(tree), right: Box::new(right) },
            };
        }
        Ok(tree)
    }

    /// A run of casts, in a loop as the operators are.
    fn cast(&self, expr: ParsedExpr) -> Parsed<Expr> {
        let mut rest = expr;
        let mut types = Vec::new();
        while let ParsedExpr::Cast { expr, data_type, .. } = rest {
            types.push(self.type_name(&data_type)?);
            rest = *expr;
        }
        let inner = self.expr(rest)?;
        Ok(types.into_iter().rev().fold(inner, |expr, type_name| Expr::Cast { expr: Box::new(expr), type_name }))
    }

    fn value(&self, value: &ValueWithSpan) -> Parsed<Expr> {
        match value.value {
            Value::Null => return Ok(Expr::Null),
            Value::Boolean(value) => return Ok(Expr::Bool(value)),
            _ => {}
        }
        if let Value::Placeholder(text) = &value.value
            && let Some(index) = text.strip_prefix('@')
        {
            let nested = index.parse::<usize>().ok().and_then(|index| self.nested.get(index));
            return match nested {
                Some(Argument::Expr(tokens)) => expression::parse(self.source, tokens.clone()),
                Some(Argument::Under(what, tokens)) => {
                    let inner = expression::parse(self.source, tokens.clone())?;
                    Ok(Expr::Other { what, children: vec![inner] })
                }
                Some(Argument::Word(what, _)) => Ok(Expr::Other { what, children: Vec::new() }),
                None => self.refuse("an unknown part"),
            };
        }
        match self.source.kind(self.token_of(value.span)?) {
            Some(TokenKind::Literal(index)) => Ok(Expr::Literal(index)),
            Some(TokenKind::Param(number)) => Ok(Expr::Param(number)),
            _ => self.refuse("an unknown literal"),
        }
    }

    fn name(&self, ident: &Ident) -> Parsed<String> {
        let token = self.token_of(ident.span)?;
        self.source.name(token).map_or_else(|| self.refuse("a name without a token"), Ok)
    }

    fn column(&self, idents: &[Ident]) -> Parsed<Expr> {
        let mut qualifier = idents.iter().map(|ident| self.name(ident)).collect::<Parsed<Vec<_>>>()?;
        let Some(name) = qualifier.pop() else { return self.refuse("an empty name") };
        Ok(Expr::Column { qualifier, name })
    }

    /// `a.b[1].c`: the leading names are a column, the rest takes parts of it.
    fn access(&self, root: ParsedExpr, chain: Vec<AccessExpr>) -> Parsed<Expr> {
        let mut chain = chain.into_iter().peekable();
        let mut children = match root {
            ParsedExpr::Identifier(_) | ParsedExpr::CompoundIdentifier(_) => {
                let mut names = match root {
                    ParsedExpr::CompoundIdentifier(idents) => idents,
                    ParsedExpr::Identifier(ident) => vec![ident],
                    _ => Vec::new(),
                };
                while let Some(AccessExpr::Dot(ParsedExpr::Identifier(_))) = chain.peek() {
                    if let Some(AccessExpr::Dot(ParsedExpr::Identifier(ident))) = chain.next() {
                        names.push(ident);
                    }
                }
                vec![self.column(&names)?]
            }
            root => vec![self.expr(root)?],
        };
        let (mut has_field, mut has_subscript) = (false, false);
        for access in chain {
            match access {
                AccessExpr::Dot(ParsedExpr::Identifier(_)) => has_field = true,
                AccessExpr::Dot(inner) => {
                    has_field = true;
                    children.push(self.expr(inner)?);
                }
                AccessExpr::Subscript(Subscript::Index { index }) => {
                    has_subscript = true;
                    children.push(self.expr(index)?);
                }
                AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride }) => {
                    has_subscript = true;
                    for bound in [lower_bound, upper_bound, stride].into_iter().flatten() {
                        children.push(self.expr(bound)?);
                    }
                }
            }
        }
        // The name of a field is not kept, nor whether a subscript comes before it.
        let what = if has_subscript && !has_field { "subscript" } else { "field access" };
        Ok(Expr::Other { what, children })
    }

    fn type_name(&self, data_type: &DataType) -> Parsed<String> {
        let DataType::Custom(name, _) = data_type else { return self.refuse("an unknown type") };
        let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() else {
            return self.refuse("an unknown type");
        };
        let found = ident.value.parse::<usize>().ok().and_then(|index| self.types.get(index));
        found.map_or_else(|| self.refuse("an unknown type"), |name| Ok(name.clone()))
    }

    fn object_name(&self, name: ParsedName) -> Parsed<ObjectName> {
        let mut parts = Vec::new();
        for part in name.0 {
            match part {
                ObjectNamePart::Identifier(ident) => parts.push(self.name(&ident)?),
                ObjectNamePart::Function(_) => return self.refuse("an unknown name"),
            }
        }
        match parts.pop() {
            Some(name) => Ok(ObjectName { schema: parts.pop(), name }),
            None => self.refuse("an empty name"),
        }
    }

    /// The query that the placeholder `SELECT n` stands for, `n` being its parenthesis.
    fn query(&self, query: &ParsedQuery) -> Parsed<Box<Query>> {
        let SetExpr::Select(select) = query.body.as_ref() else { return self.refuse("an unknown query") };
        let [SelectItem::UnnamedExpr(ParsedExpr::Value(value))] = select.projection.as_slice() else {
            return self.refuse("an unknown query");
        };
        let open = self.token_of(value.span)?;
        match self.source.close_of(open).filter(|_| self.source.is_query_group(open)) {
            Some(close) => Ok(Box::new(query::whole(self.source.cursor(open + 1..close))?)),
            None => self.refuse("an unknown query"),
        }
    }

    fn call(&self, function: Function) -> Parsed<Expr> {
        let row = match function.name.0.as_slice() {
            [ObjectNamePart::Identifier(ident)] => self.source.is_keyword(self.token_of(ident.span)?, "row"),
            _ => false,
        };
        let renamed = match function.name.0.as_slice() {
            [ObjectNamePart::Identifier(ident)] => self.renamed(ident)?,
            _ => None,
        };
        let name = match renamed {
            Some(name) => ObjectName { schema: None, name: name.to_owned() },
            None => self.object_name(function.name)?,
        };
        let mut call = Call {
            name,
            args: Vec::new(),
            star: false,
            distinct: false,
            order_by: self.order_items(function.within_group)?,
            within_group: false,
            filter: function.filter.map(|filter| self.expr(*filter)).transpose()?,
            over: function.over.map(|over| self.window(&over)).transpose()?,
        };
        call.within_group = !call.order_by.is_empty();
        match function.args {
            FunctionArguments::None => {}
            FunctionArguments::Subquery(query) => call.args.push(Expr::Subquery(self.query(&query)?)),
            FunctionArguments::List(list) => {
                call.distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
                for argument in list.args {
                    self.argument(argument, &mut call)?;
                }
                for clause in list.clauses {
                    match clause {
                        FunctionArgumentClause::OrderBy(items) => call.order_by.extend(self.order_items(items)?),
                        _ => return self.refuse("an unknown clause"),
                    }
                }
            }
        }
        if row {
            return Ok(Expr::Row(call.args));
        }
        Ok(Expr::Function(Box::new(call)))
    }

    /// The name of the function that COLLATION FOR and TRIM mean.
    fn renamed(&self, ident: &Ident) -> Parsed<Option<&'static str>> {
        let token = self.token_of(ident.span)?;
        let is_trim = self.source.is_keyword(token, "trim");
        Ok(match ident.value.as_str() {
            "pg_collation_for" if self.source.is_keyword(token, "collation") => Some("pg_collation_for"),
            "btrim" if is_trim => Some("btrim"),
            "ltrim" if is_trim => Some("ltrim"),
            "rtrim" if is_trim => Some("rtrim"),
            _ => None,
        })
    }

    fn argument(&self, argument: FunctionArg, call: &mut Call) -> Parsed<()> {
        let argument = match argument {
            FunctionArg::Named { arg, .. } | FunctionArg::ExprNamed { arg, .. } | FunctionArg::Unnamed(arg) => arg,
        };
        match argument {
            FunctionArgExpr::Expr(expr) => call.args.push(self.expr(expr)?),
            FunctionArgExpr::Wildcard => call.star = true,
            _ => return self.refuse("an unknown argument"),
        }
        Ok(())
    }

    fn order_items(&self, items: Vec<OrderByExpr>) -> Parsed<Vec<OrderItem>> {
        items
            .into_iter()
            .map(|item| {
                Ok(OrderItem {
                    expr: self.expr(item.expr)?,
                    descending: matches!(item.options.sort, Some(OrderBySort::Desc)),
                    nulls_first: item.options.nulls_first,
                    using: matches!(item.options.sort, Some(OrderBySort::Using(_))),
                    tokens: 0..0,
                })
            })
            .collect()
    }

    fn window(&self, over: &WindowType) -> Parsed<Window> {
        let WindowType::NamedWindow(ident) = over else { return self.refuse("an unknown window") };
        let token = self.token_of(ident.span)?;
        if !self.windows.contains(&token) {
            return self.refuse("an unknown window");
        }
        match self.source.close_of(token) {
            Some(close) => query::window(self.source.cursor(token + 1..close)),
            None => Ok(Window { name: self.source.name(token), partition_by: Vec::new(), others: Vec::new() }),
        }
    }
}

/// Puts two terms into one flat list.
fn join(
    left: Expr,
    right: Expr,
    same: impl Fn(Expr) -> Result<Vec<Expr>, Expr>,
    make: impl Fn(Vec<Expr>) -> Expr,
) -> Expr {
    let mut terms = same(left).unwrap_or_else(|other| vec![other]);
    match same(right) {
        Ok(more) => terms.extend(more),
        Err(other) => terms.push(other),
    }
    make(terms)
}
