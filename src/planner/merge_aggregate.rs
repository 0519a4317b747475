//! Aggregates whose groups reach over several shards: every shard sends partial results, the proxy combines them.

use super::Subject;
use super::functions::{self, Kind};
use super::merge_expr;
use super::merge_rows::{self, Hidden, Limits};
use super::scope::Scope;
use super::select::Merge;
use super::select_facts;
use super::visit;
use crate::error::ClientError;
use crate::plan::{
    AggregateFunction, AggregateOutput, AggregateSpec, ColumnRef, CompareOperator, Condition, MergeSpec, Piece, Slot,
    Splice,
};
use crate::sql::TokenKind;
use crate::sql::ast::{Call, Distinct, Expr, OrderItem, Query, Select, SelectItemKind, TokenRange};
use crate::topology::KeyType;

/// How the partial aggregates of a SELECT are combined.
///
/// # Errors
/// A refusal.
pub fn of_select(subject: &Subject<'_>, query: &Query, select: &Select, scope: &Scope) -> Result<Merge, ClientError> {
    if select.grouping_sets {
        return Err(ClientError::refused(
            "GROUPING SETS, ROLLUP and CUBE are not supported across shards",
            "Run one query for each grouping, or restrict the query to one sharding key.",
        ));
    }
    if !matches!(select.distinct, Distinct::No) {
        return Err(ClientError::refused(
            "DISTINCT together with aggregates is not supported across shards",
            "Group by the sharding key, or leave DISTINCT out.",
        ));
    }
    let mut merger = Merger::new(subject, select, scope)?;
    merger.items()?;
    let order = query.order_by.iter().map(|item| merger.order_key(item)).collect::<Result<Vec<_>, _>>()?;
    let having = merger.having()?;
    let limit = Limits::of(subject, query)?;
    let Merger { hidden, outputs, group_columns, .. } = merger;
    let merge = MergeSpec {
        hidden: hidden.len(),
        order: Vec::new(),
        distinct: false,
        aggregate: Some(AggregateSpec { groups: group_columns, outputs, having, order }),
        limit: limit.limit.clone(),
        offset: limit.offset.clone(),
    };
    let removed = |tokens: &Option<TokenRange>| tokens.clone().map(|tokens| Splice { tokens, with: Vec::new() });
    let mut splices: Vec<Splice> = hidden
        .splice(select)
        .into_iter()
        .chain(removed(&select.having_tokens))
        .chain(removed(&query.order_by_tokens))
        .chain(limit.removed(query))
        .collect();
    splices.sort_by_key(|splice| splice.tokens.start);
    Ok((splices, merge))
}

struct Merger<'m> {
    subject: &'m Subject<'m>,
    select: &'m Select,
    scope: &'m Scope,
    /// GROUP BY with ordinals and output names replaced.
    groups: Vec<&'m Expr>,
    group_columns: Vec<ColumnRef>,
    /// Entries of the target list that are groups.
    shown_groups: Vec<usize>,
    hidden: Hidden,
    outputs: Vec<AggregateOutput>,
    /// Hidden aggregates by their expression.
    known: Vec<(&'m Expr, ColumnRef)>,
}

fn refuse_expression() -> ClientError {
    ClientError::refused(
        "an expression over aggregates is not supported across shards",
        "Select the aggregates themselves and compute with them in the application, or group by the sharding key.",
    )
}

impl<'m> Merger<'m> {
    fn new(subject: &'m Subject<'m>, select: &'m Select, scope: &'m Scope) -> Result<Self, ClientError> {
        let mut merger = Self {
            subject,
            select,
            scope,
            groups: Vec::new(),
            group_columns: Vec::new(),
            shown_groups: Vec::new(),
            hidden: Hidden::default(),
            outputs: Vec::new(),
            known: Vec::new(),
        };
        for item in &select.group_by {
            let Some(expr) = select_facts::grouped_by(subject, select, &item.expr, scope) else {
                return Err(ClientError::refused(
                    "this GROUP BY is not supported across shards",
                    "Group by columns or expressions of the target list.",
                ));
            };
            if !select_facts::is_deterministic(subject, expr, scope)
                || functions::differs_by_shard(subject.schema, expr)
            {
                return Err(ClientError::refused(
                    "GROUP BY with a nondeterministic collation, a volatile function or the current time is not supported across shards",
                    "Group by the sharding key, or restrict the query to one key.",
                ));
            }
            let shown = select.items.iter().position(|entry| match &entry.kind {
                SelectItemKind::Expr { expr: shown, .. } => {
                    merge_expr::is_same(subject, shown, expr, scope)
                        || merge_expr::are_same_tokens(subject, &entry.expr_tokens, &item.tokens)
                }
                _ => false,
            });
            let column = match shown {
                Some(index) => {
                    merger.shown_groups.push(index);
                    ColumnRef::Visible(index)
                }
                None => merger.hidden.add(vec![Piece::Tokens(item.tokens.clone())]),
            };
            merger.groups.push(expr);
            merger.group_columns.push(column);
        }
        Ok(merger)
    }

    /// The target list: aggregates, and what the groups decide.
    fn items(&mut self) -> Result<(), ClientError> {
        let select = self.select;
        for (index, item) in select.items.iter().enumerate() {
            let SelectItemKind::Expr { expr, .. } = (match select_facts::is_one_column(item) {
                true => &item.kind,
                false => &SelectItemKind::Wildcard,
            }) else {
                return Err(ClientError::refused(
                    "* together with aggregates is not supported across shards",
                    "Name the columns.",
                ));
            };
            match self.aggregate(expr)? {
                Some(call) => {
                    let column = ColumnRef::Visible(index);
                    self.output(call, column, &item.expr_tokens)?;
                    self.known.push((expr, column));
                }
                None if self.shown_groups.contains(&index) || self.is_decided(expr) => {}
                None => {
                    return Err(ClientError::refused(
                        "a column that is neither grouped nor aggregated is not supported across shards",
                        "Add the column to GROUP BY, and take functions that return sets out of the target list.",
                    ));
                }
            }
        }
        Ok(())
    }

    /// The aggregate that an expression is; `None` when there is none in it.
    fn aggregate(&self, expr: &'m Expr) -> Result<Option<&'m Call>, ClientError> {
        let schema = self.subject.schema;
        match expr {
            Expr::Function(call) if functions::is_aggregate(schema, call) => {
                let has_inner = call
                    .args
                    .iter()
                    .chain(&call.filter)
                    .any(|arg| functions::has_aggregate(schema, arg) || visit::has_query(arg));
                if has_inner { Err(refuse_expression()) } else { Ok(Some(call)) }
            }
            expr if functions::has_aggregate(schema, expr) => Err(refuse_expression()),
            _ => Ok(None),
        }
    }

    /// True when the value is the same for all rows of a group, on whatever shard.
    fn is_decided(&self, expr: &Expr) -> bool {
        if self.groups.iter().any(|group| merge_expr::is_same(self.subject, group, expr, self.scope)) {
            return true;
        }
        let mut is_decided = !matches!(expr, Expr::Column { .. });
        if let Expr::Function(call) = expr {
            let kind = functions::kind(self.subject.schema, &call.name);
            is_decided = call.over.is_none()
                && matches!(kind, Kind::Plain | Kind::Session | Kind::UserImmutable)
                && !functions::may_return_set(self.subject.schema, call);
        }
        visit::parts(expr, &mut |part| {
            is_decided &= match part {
                visit::Part::Expr(part) => self.is_decided(part),
                visit::Part::Query(_) => false,
            };
        });
        is_decided
    }

    /// Says how an aggregate's partial results combine. `tokens` are those of the whole call.
    fn output(&mut self, call: &Call, column: ColumnRef, tokens: &TokenRange) -> Result<(), ClientError> {
        let refusal = |what: &str| {
            ClientError::refused(
                format!("{what} is not supported across shards"),
                "Group by the sharding key, restrict the query to one key, or aggregate the rows in the application.",
            )
        };
        let name = call.name.name.as_str();
        let is_extreme = matches!(name, "min" | "max");
        if functions::kind(self.subject.schema, &call.name) != Kind::Aggregate {
            return Err(refusal(&format!("aggregate {name}()")));
        }
        if call.distinct && !is_extreme {
            return Err(refusal(&format!("{name}(DISTINCT ...)")));
        }
        if call.within_group || !call.order_by.is_empty() {
            return Err(refusal(&format!("{name}() with ORDER BY")));
        }
        let text_is_bytewise = call.args.iter().all(|arg| select_facts::is_bytewise(self.subject, arg, self.scope));
        let function = match name {
            "count" => AggregateFunction::Count,
            "sum" => AggregateFunction::Sum,
            "min" => AggregateFunction::Min { text_is_bytewise },
            "max" => AggregateFunction::Max { text_is_bytewise },
            "bool_and" | "every" => AggregateFunction::BoolAnd,
            "bool_or" => AggregateFunction::BoolOr,
            "bit_and" => AggregateFunction::BitAnd,
            "bit_or" => AggregateFunction::BitOr,
            "avg" => {
                let open = tokens
                    .clone()
                    .find(|at| {
                        self.subject.token(*at) == "("
                            && self.subject.token(at.wrapping_sub(1)).eq_ignore_ascii_case(name)
                    })
                    .ok_or_else(refuse_expression)?;
                let end = self.call_end(open, tokens.end);
                let of = |name: &str| vec![Piece::Text(name.to_owned()), Piece::Tokens(open..end)];
                let sum = self.hidden.add(of("sum"));
                let count = self.hidden.add(of("count"));
                self.outputs.push(AggregateOutput { column: sum, function: AggregateFunction::Sum });
                self.outputs.push(AggregateOutput { column: count, function: AggregateFunction::Count });
                AggregateFunction::Avg { sum, count }
            }
            _ => return Err(refusal(&format!("aggregate {name}()"))),
        };
        self.outputs.push(AggregateOutput { column, function });
        Ok(())
    }

    /// The column of an aggregate outside of the target list.
    fn hidden_aggregate(&mut self, expr: &'m Expr, tokens: &TokenRange) -> Result<ColumnRef, ClientError> {
        let known = self
            .known
            .iter()
            .find(|(known, _)| merge_expr::is_same(self.subject, known, expr, self.scope))
            .map(|(_, column)| *column);
        if let Some(column) = known {
            return Ok(column);
        }
        let Some(call) = self.aggregate(expr)? else { return Err(refuse_expression()) };
        let column = self.hidden.add(vec![Piece::Tokens(tokens.clone())]);
        self.output(call, column, tokens)?;
        self.known.push((expr, column));
        Ok(column)
    }

    fn order_key(&mut self, item: &'m OrderItem) -> Result<crate::plan::OrderKey, ClientError> {
        let expr = if matches!(item.expr, Expr::Literal(_)) {
            let ordinal = select_facts::ordinal(self.subject, &item.expr);
            let shown = ordinal.and_then(|ordinal| Some((ordinal, select_facts::item_at(self.select, ordinal)?)));
            let Some((ordinal, shown)) = shown else { return Err(refuse_expression()) };
            let is_bytewise = self.is_bytewise(shown);
            return merge_rows::key(item, ColumnRef::Visible(ordinal - 1), is_bytewise);
        } else {
            &item.expr
        };
        if let Some(index) = merge_rows::find_item(self.subject, self.select, item, self.scope)?
            && let Some(SelectItemKind::Expr { expr: shown, .. }) = self.select.items.get(index).map(|item| &item.kind)
        {
            let is_bytewise = self.is_bytewise(shown);
            return merge_rows::key(item, ColumnRef::Visible(index), is_bytewise);
        }
        let column = match self.aggregate(expr)? {
            Some(_) => self.hidden_aggregate(expr, &item.tokens)?,
            None => self.group_column(expr).map_or_else(
                || {
                    if self.is_decided(expr) {
                        Ok(self.hidden.add(vec![Piece::Tokens(item.tokens.clone())]))
                    } else {
                        Err(ClientError::refused(
                            "ORDER BY by a column that is neither grouped nor aggregated is not supported across shards",
                            "Add the column to GROUP BY.",
                        ))
                    }
                },
                Ok,
            )?,
        };
        merge_rows::key(item, column, self.is_bytewise(expr))
    }

    fn is_bytewise(&self, expr: &Expr) -> bool {
        match expr {
            // min and max give what they are given; the others give numbers, or text of the default collation.
            Expr::Function(call) if matches!(call.name.name.as_str(), "min" | "max") => {
                call.args.iter().all(|arg| select_facts::is_bytewise(self.subject, arg, self.scope))
            }
            expr => select_facts::is_bytewise(self.subject, expr, self.scope),
        }
    }

    fn group_column(&self, expr: &Expr) -> Option<ColumnRef> {
        let index = self.groups.iter().position(|group| merge_expr::is_same(self.subject, group, expr, self.scope))?;
        self.group_columns.get(index).copied()
    }

    fn having(&mut self) -> Result<Option<Condition>, ClientError> {
        let (Some(having), Some(tokens)) = (&self.select.having, self.select.having_tokens.clone()) else {
            return Ok(None);
        };
        let mut calls = self.calls_in(tokens.clone());
        let condition = self.condition(having, &mut calls)?;
        if !calls.is_empty() {
            return Err(refuse_having());
        }
        let has_params = tokens
            .clone()
            .any(|at| matches!(self.subject.lexed.tokens.get(at).map(|t| t.kind), Some(TokenKind::Param(_))));
        if has_params {
            // A parameter that is no more in the text would have no type.
            self.hidden.add(vec![
                Piece::Text("(".to_owned()),
                Piece::Tokens(tokens.start + 1..tokens.end),
                Piece::Text(")".to_owned()),
            ]);
        }
        Ok(Some(condition))
    }

    /// Token ranges of the aggregate calls in a clause, the last one first.
    fn calls_in(&self, tokens: TokenRange) -> Vec<TokenRange> {
        let mut ranges = Vec::new();
        let mut at = tokens.start;
        while at < tokens.end {
            let is_name = self.subject.token(at + 1) == "("
                && matches!(
                    self.subject.lexed.tokens.get(at).map(|token| token.kind),
                    Some(TokenKind::Word | TokenKind::QuotedIdent)
                )
                && super::builtins::AGGREGATES.contains(&self.subject.token(at).to_ascii_lowercase().as_str());
            if !is_name {
                at += 1;
                continue;
            }
            let end = self.call_end(at + 1, tokens.end);
            ranges.push(at..end);
            at = end;
        }
        ranges.reverse();
        ranges
    }

    /// One past the end of a call whose parenthesis opens at `open`, FILTER included.
    fn call_end(&self, open: usize, limit: usize) -> usize {
        let end = self.closing(open, limit);
        if end + 1 < limit
            && self.subject.token(end).eq_ignore_ascii_case("filter")
            && self.subject.token(end + 1) == "("
        {
            return self.closing(end + 1, limit);
        }
        end
    }

    /// One past the parenthesis that closes the one at `open`.
    fn closing(&self, open: usize, end: usize) -> usize {
        let mut depth = 0usize;
        for at in open..end {
            match self.subject.token(at) {
                "(" => depth += 1,
                ")" => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return at + 1;
                    }
                }
                _ => {}
            }
        }
        end
    }

    /// `calls` are the tokens of the aggregates that follow, in the order in which they are met.
    fn condition(&mut self, expr: &'m Expr, calls: &mut Vec<TokenRange>) -> Result<Condition, ClientError> {
        match expr {
            Expr::And(terms) => {
                terms.iter().map(|term| self.condition(term, calls)).collect::<Result<_, _>>().map(Condition::And)
            }
            Expr::Or(terms) => {
                terms.iter().map(|term| self.condition(term, calls)).collect::<Result<_, _>>().map(Condition::Or)
            }
            Expr::Not(term) => Ok(Condition::Not(Box::new(self.condition(term, calls)?))),
            Expr::IsNull { expr, negated } => {
                let column = self.operand(expr, calls)?.ok_or_else(refuse_having)?;
                Ok(Condition::IsNull { column, negated: *negated })
            }
            Expr::Binary { operator, left, right } => {
                let operator = compare_operator(operator).ok_or_else(refuse_having)?;
                let (left_column, right_column) = (self.operand(left, calls)?, self.operand(right, calls)?);
                let (column, of, value, operator) = match (left_column, right_column) {
                    (Some(column), None) => (column, left, right, operator),
                    (None, Some(column)) => (column, right, left, mirrored(operator)),
                    _ => return Err(refuse_having()),
                };
                let value = constant(value).ok_or_else(refuse_having)?;
                let text_is_bytewise = self.is_bytewise(of);
                Ok(Condition::Compare { column, operator, value, text_is_bytewise })
            }
            _ => Err(refuse_having()),
        }
    }

    /// The column that one side of a comparison is.
    fn operand(&mut self, expr: &'m Expr, calls: &mut Vec<TokenRange>) -> Result<Option<ColumnRef>, ClientError> {
        if self.aggregate(expr)?.is_some() {
            let tokens = calls.pop().ok_or_else(refuse_having)?;
            return self.hidden_aggregate(expr, &tokens).map(Some);
        }
        Ok(self.group_column(expr))
    }
}

fn refuse_having() -> ClientError {
    ClientError::refused(
        "this HAVING is not supported across shards",
        "Compare aggregates or grouped columns with constants, joined by AND, OR and NOT; or group by the sharding key.",
    )
}

/// A constant of HAVING.
fn constant(expr: &Expr) -> Option<Slot> {
    // The type is the column's, whatever it is: numbers and text are read by it.
    super::predicate::constant(expr, KeyType::Text).map(|(slot, _)| slot).filter(|_| !matches!(expr, Expr::Cast { .. }))
}

fn compare_operator(operator: &str) -> Option<CompareOperator> {
    Some(match operator {
        "=" => CompareOperator::Equal,
        "<>" => CompareOperator::NotEqual,
        "<" => CompareOperator::Less,
        "<=" => CompareOperator::LessOrEqual,
        ">" => CompareOperator::Greater,
        ">=" => CompareOperator::GreaterOrEqual,
        _ => return None,
    })
}

fn mirrored(operator: CompareOperator) -> CompareOperator {
    match operator {
        CompareOperator::Less => CompareOperator::Greater,
        CompareOperator::LessOrEqual => CompareOperator::GreaterOrEqual,
        CompareOperator::Greater => CompareOperator::Less,
        CompareOperator::GreaterOrEqual => CompareOperator::LessOrEqual,
        same => same,
    }
}
