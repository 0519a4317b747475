//! Brings a plan for a statement with expanded views back to the client's own text. Must not know: what views are.

use super::bind;
use crate::plan::steps::{InnerQuery, InsertRows, MoveRows, RowsTarget, Steps};
use crate::plan::{
    CopyPlan, GatherPlan, GatherSource, InsertPlan, InsertRow, KeyPart, KeyTuple, PartialColumn, PartialPlan, Piece,
    Plan, Route, RowFill, Several, Slot, Splice,
};
use crate::sql::Lexed;
use crate::sql::ast::TokenRange;
use std::sync::Arc;

/// What stands in the place of some of the client's tokens.
#[derive(Clone, Debug)]
pub struct Expansion {
    /// Its tokens.
    pub new: TokenRange,
    /// The client's.
    pub old: TokenRange,
}

/// The statement that the plan was made for, and the client's.
pub struct Relocation<'r> {
    /// The text of the former.
    pub text: &'r str,
    /// Its tokens.
    pub lexed: &'r Lexed,
    /// Number of the client's literals, which come first.
    pub literals: usize,
    /// Where they differ, in order.
    pub expansions: &'r [Expansion],
}

/// Where a range is.
enum Found {
    /// In the client's text.
    Own(TokenRange),
    /// Within an expansion.
    Inside(usize),
}

impl Relocation<'_> {
    /// The plan for the client's text; `None`: something of it lies partly in a definition.
    pub fn plan(&self, plan: Plan) -> Option<Plan> {
        let several = match plan.several {
            Several::Merge { splices, merge, otherwise } => Several::Merge {
                splices: self.splices(splices)?,
                merge,
                otherwise: match otherwise {
                    Some(gather) => Some(self.gather(&gather)?),
                    None => None,
                },
            },
            Several::ExplainMerge { splices, merge } => {
                Several::ExplainMerge { splices: self.splices(splices)?, merge }
            }
            Several::Gather(gather) => Several::Gather(self.gather(&gather)?),
            Several::Steps(steps) => Several::Steps(Box::new(self.steps(*steps)?)),
            several @ (Several::Sum | Several::Same | Several::Refuse(_)) => several,
        };
        let route = match plan.route {
            Route::Keys(keys) => Route::Keys(keys.into_iter().map(|key| self.key(key)).collect::<Option<_>>()?),
            route => route,
        };
        let insert = match plan.insert {
            Some(insert) => Some(self.insert(insert)?),
            None => None,
        };
        let copy = match plan.copy {
            Some(copy) => Some(CopyPlan { splices: self.splices(copy.splices)?, ..copy }),
            None => None,
        };
        Some(Plan { several, route, insert, copy, ..plan })
    }

    fn find(&self, range: &TokenRange) -> Option<Found> {
        let inside = |at: usize| self.expansions.iter().position(|one| one.new.start < at && at < one.new.end);
        match (inside(range.start), inside(range.end)) {
            (None, None) => {
                let start = self.own(range.start);
                let end = if range.is_empty() { start } else { self.own(range.end) };
                // All of a definition but nothing else is the name in its place.
                Some(Found::Own(start..end))
            }
            (Some(one), Some(other)) if one == other => Some(Found::Inside(one)),
            (Some(one), None) if self.expansions.get(one).is_some_and(|it| range.end == it.new.end) => {
                Some(Found::Inside(one))
            }
            (None, Some(one)) if self.expansions.get(one).is_some_and(|it| range.start == it.new.start) => {
                Some(Found::Inside(one))
            }
            _ => None,
        }
    }

    /// A place that is not within an expansion.
    fn own(&self, at: usize) -> usize {
        let before = self.expansions.iter().filter(|expansion| expansion.new.end <= at);
        let (new, old) = before.fold((0, 0), |(new, old), one| (new + one.new.len(), old + one.old.len()));
        at - new + old
    }

    fn range(&self, range: &TokenRange) -> Option<TokenRange> {
        match self.find(range)? {
            Found::Own(range) => Some(range),
            Found::Inside(_) => None,
        }
    }

    /// Bytes of a range; an empty one lies behind the token before it.
    fn bytes(&self, range: &TokenRange) -> Option<(usize, usize)> {
        let last = || self.lexed.tokens.get(range.end.checked_sub(1)?);
        if range.is_empty() {
            return last().map(|token| (token.end, token.end));
        }
        Some((self.lexed.tokens.get(range.start)?.start, last()?.end))
    }

    fn pieces(&self, pieces: Vec<Piece>) -> Option<Vec<Piece>> {
        pieces
            .into_iter()
            .map(|piece| match piece {
                Piece::Tokens(range) => match self.find(&range)? {
                    Found::Own(range) => Some(Piece::Tokens(range)),
                    Found::Inside(_) => {
                        let (start, end) = self.bytes(&range)?;
                        self.text.get(start..end).map(|text| Piece::Text(text.to_owned()))
                    }
                },
                piece => Some(piece),
            })
            .collect()
    }

    fn splices(&self, splices: Vec<Splice>) -> Option<Vec<Splice>> {
        let mut own = Vec::new();
        let mut inside: Vec<Vec<Splice>> = self.expansions.iter().map(|_| Vec::new()).collect();
        for Splice { tokens, with } in splices {
            let with = self.pieces(with)?;
            match self.find(&tokens)? {
                Found::Own(tokens) => own.push(Splice { tokens, with }),
                Found::Inside(one) => inside.get_mut(one)?.push(Splice { tokens, with }),
            }
        }
        for (expansion, splices) in self.expansions.iter().zip(inside) {
            if !splices.is_empty() {
                own.push(Splice { tokens: expansion.old.clone(), with: self.spliced(expansion, splices)? });
            }
        }
        own.sort_by_key(|splice| splice.tokens.start);
        Some(own)
    }

    /// A definition with splices, as what takes the place of the view's name.
    fn spliced(&self, expansion: &Expansion, splices: Vec<Splice>) -> Option<Vec<Piece>> {
        let (mut at, end) = self.bytes(&expansion.new)?;
        let mut pieces = Vec::new();
        for Splice { tokens, with } in splices {
            let (first, last) = self.bytes(&tokens)?;
            pieces.push(Piece::Text(self.text.get(at..first)?.to_owned()));
            pieces.extend(with);
            at = last;
        }
        pieces.push(Piece::Text(self.text.get(at..end)?.to_owned()));
        Some(pieces)
    }

    /// A definition's literals have no number in the client's text: their values are known.
    fn key(&self, key: KeyTuple) -> Option<KeyTuple> {
        let part = |part: KeyPart| match &part.slot {
            Slot::Literal { index, negative } if *index >= self.literals => {
                let value = bind::read_literal(self.lexed.literals.get(*index)?, *negative, part.key_type)?;
                (!part.is_array).then_some(KeyPart { slot: Slot::Known(Box::new(value)), ..part })
            }
            _ => Some(part),
        };
        Some(KeyTuple { parts: key.parts.into_iter().map(part).collect::<Option<_>>()? })
    }

    fn gather(&self, gather: &GatherPlan) -> Option<Arc<GatherPlan>> {
        let GatherPlan { sources, finish, splices, params, partial } = gather.clone();
        let sources = sources
            .into_iter()
            .map(|source| Some(GatherSource { from: self.pieces(source.from)?, ..source }))
            .collect::<Option<_>>()?;
        let partial = match partial {
            Some(partial) => Some(Arc::new(self.partial(&partial)?)),
            None => None,
        };
        Some(Arc::new(GatherPlan { sources, finish, splices: self.splices(splices)?, params, partial }))
    }

    fn partial(&self, partial: &PartialPlan) -> Option<PartialPlan> {
        let PartialPlan { columns, fetch, splices, params, used } = partial.clone();
        let columns = columns
            .into_iter()
            .map(|column| Some(PartialColumn { select: self.pieces(column.select)?, ..column }))
            .collect::<Option<_>>()?;
        Some(PartialPlan { columns, fetch: self.pieces(fetch)?, splices: self.splices(splices)?, params, used })
    }

    fn insert(&self, insert: InsertPlan) -> Option<InsertPlan> {
        let row = |row: InsertRow| {
            let fill = |fill: RowFill| Some(RowFill { tokens: self.range(&fill.tokens)?, ..fill });
            let key = self.key(KeyTuple { parts: row.key })?.parts;
            let fills = row.fills.into_iter().map(fill).collect::<Option<_>>()?;
            Some(InsertRow { tokens: self.range(&row.tokens)?, key, fills })
        };
        Some(InsertPlan {
            splices: self.splices(insert.splices)?,
            rows_tokens: self.range(&insert.rows_tokens)?,
            rows: insert.rows.into_iter().map(row).collect::<Option<_>>()?,
            ..insert
        })
    }

    fn target(&self, target: RowsTarget) -> Option<RowsTarget> {
        Some(RowsTarget { head: self.pieces(target.head)?, tail: self.range(&target.tail)?, ..target })
    }

    fn steps(&self, steps: Steps) -> Option<Steps> {
        Some(match steps {
            Steps::InsertRows(rows) => Steps::InsertRows(InsertRows {
                source: self.pieces(rows.source)?,
                target: self.target(rows.target)?,
                ..rows
            }),
            Steps::MoveRows(rows) => Steps::MoveRows(MoveRows {
                take: self.pieces(rows.take)?,
                lock: self.pieces(rows.lock)?,
                new_key: match rows.new_key {
                    Some(key) => Some(self.key(key)?),
                    None => None,
                },
                target: self.target(rows.target)?,
                ..rows
            }),
            Steps::QueriesFirst(queries) => Steps::QueriesFirst(
                queries
                    .into_iter()
                    .map(|query| {
                        Some(InnerQuery {
                            query: self.range(&query.query)?,
                            replaced: self.range(&query.replaced)?,
                            ..query
                        })
                    })
                    .collect::<Option<_>>()?,
            ),
        })
    }
}
