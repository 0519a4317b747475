//! The conclusions of a level: are its row sources colocated, what are their keys restricted to; and the queries inside
//! its expressions.

use std::rc::Rc;

use super::env::{Env, Node};
use super::predicate;
use super::scope::Scope;
use super::select_facts;
use super::visit::{self, Part};
use super::walk::{Block, Build, Ctes, Mode, Spread, Walk};
use crate::sql::ast::{Expr, JoinKind, Query, TableRef};
use crate::topology::KeyType;

impl Walk<'_> {
    /// Draws the conclusions of a level.
    pub(super) fn finish<'a>(
        &mut self,
        build: Build<'a>,
        outer: &Env,
        mode: Mode<'_>,
        scope: &Rc<Scope>,
        ctes: &Ctes<'a>,
    ) -> Block {
        let mut block = Block { env: outer.clone(), vector: None, is_spread: false };
        block.env.learn(&build.learned);
        let is_plain = matches!(mode, Mode::Plain);
        if let Mode::Anchored(anchor) = mode {
            block.vector = anchor.map(<[Node]>::to_vec);
            block.is_spread = true;
        }
        for spread in build.spreads {
            self.restrict(&spread, &block.env);
            if !block.is_spread {
                block.vector = spread.vector;
                block.is_spread = true;
            } else if !is_colocated(&block.env, block.vector.as_deref(), spread.vector.as_deref()) {
                self.not_colocated(is_plain);
            }
        }
        for nullable in build.nullable {
            self.finish_nullable(nullable, &mut block, scope, ctes);
        }
        let anchor = if block.is_spread { block.vector.clone() } else { None };
        let mode = Mode::Anchored(anchor.as_deref());
        for (query, scope, ctes) in build.laterals {
            self.query(query, Some(&scope), &block.env, mode, &ctes);
        }
        for (expr, scope, ctes) in build.exprs {
            self.expr(expr, &scope, &block.env, mode, &ctes);
        }
        for expr in build.conditions {
            self.expr(expr, scope, &block.env, mode, ctes);
        }
        if !is_plain {
            // Whatever it is bound to, the level round it answers for.
            block.is_spread = false;
        }
        block
    }

    /// The inner side of an outer join: its rows that count satisfy the condition.
    fn finish_nullable<'a>(&mut self, build: Build<'a>, block: &mut Block, scope: &Rc<Scope>, ctes: &Ctes<'a>) {
        let mut inner = block.clone();
        inner.env.learn(&build.learned);
        for spread in build.spreads {
            self.restrict(&spread, &inner.env);
            if !block.is_spread {
                self.trouble(
                    "an outer join that keeps rows of no sharded table is not supported across shards",
                    "Put the sharded table on the side that is kept, or restrict it to one sharding key.",
                );
                block.is_spread = true;
            } else if !is_colocated(&inner.env, inner.vector.as_deref(), spread.vector.as_deref()) {
                self.not_colocated(true);
            } else if let (Some(anchor), Some(vector)) = (&inner.vector, &spread.vector) {
                for (node, anchor) in vector.iter().zip(anchor) {
                    block.env.learn_weak(*node, *anchor);
                }
            }
        }
        for nullable in build.nullable {
            self.finish_nullable(nullable, &mut inner, scope, ctes);
        }
        block.is_spread |= inner.is_spread;
        let anchor = if inner.is_spread { inner.vector.clone() } else { None };
        let mode = Mode::Anchored(anchor.as_deref());
        for (query, scope, ctes) in build.laterals {
            self.query(query, Some(&scope), &inner.env, mode, &ctes);
        }
        for (expr, scope, ctes) in build.exprs {
            self.expr(expr, &scope, &inner.env, mode, &ctes);
        }
        for expr in build.conditions {
            self.expr(expr, scope, &inner.env, mode, ctes);
        }
    }

    fn restrict(&mut self, spread: &Spread, env: &Env) {
        if let (Some(index), Some(vector)) = (spread.source, &spread.vector)
            && let Some(source) = self.sources.get_mut(index)
        {
            source.keys = env.restriction(vector);
        }
    }

    fn not_colocated(&mut self, is_join: bool) {
        if is_join {
            self.trouble(
                "a join of sharded tables that is not on their sharding keys is not supported across shards",
                "Join on the whole sharding key, restrict every table to one key, or make the smaller table a reference table.",
            );
        } else {
            self.trouble(
                "a subquery over sharded tables that is not bound to the sharding key outside is not supported across shards",
                "Add an equality between the sharding keys inside and outside of the subquery, or restrict both to one key.",
            );
        }
    }

    /// Walks the queries inside an expression.
    pub fn expr<'a>(&mut self, expr: &'a Expr, scope: &Rc<Scope>, env: &Env, mode: Mode<'_>, ctes: &Ctes<'a>) {
        if let Expr::InSubquery { expr: left, query, .. } = expr {
            self.expr(left, scope, env, mode, ctes);
            self.in_query(left, query, scope, env, mode, ctes);
            return;
        }
        visit::parts(expr, &mut |part| match part {
            Part::Expr(part) => self.expr(part, scope, env, mode, ctes),
            Part::Query(query) => {
                self.query(query, Some(scope), env, mode, ctes);
            }
        });
    }

    /// `x IN (SELECT y …)`: only rows with `y = x` count.
    #[allow(clippy::too_many_arguments)]
    fn in_query<'a>(
        &mut self,
        left: &'a Expr,
        query: &'a Query,
        scope: &Rc<Scope>,
        env: &Env,
        mode: Mode<'_>,
        ctes: &Ctes<'a>,
    ) {
        let lefts: &[Expr] = match left {
            Expr::Row(lefts) => lefts,
            left => std::slice::from_ref(left),
        };
        let select = match select_facts::membership(self.subject, query) {
            Some(select) => select,
            None => {
                self.query(query, Some(scope), env, mode, ctes);
                return;
            }
        };
        // Whether the answer is false or NULL depends on NULLs on either side: only key columns themselves, which have
        // none, may be compared shard by shard.
        let anchor = match mode {
            Mode::Anchored(Some(anchor)) if is_inner_join_of_tables(&select.from, ctes) => anchor,
            _ => &[],
        };
        let equal: Vec<(usize, (Node, KeyType))> = lefts
            .iter()
            .enumerate()
            .filter_map(|(position, left)| Some((position, predicate::node(left, scope)?)))
            .filter(|(_, (node, _))| anchor.iter().any(|anchor| env.strong(*anchor) == env.strong(*node)))
            .collect();
        if equal.is_empty() {
            self.query(query, Some(scope), env, mode, ctes);
            return;
        }
        let ctes = self.with(&query.with, query.recursive, Some(scope), env, ctes);
        self.block(select, &query.order_by, Some(scope), env, mode, &ctes, &equal);
    }
}

/// True when a column of any of these tables is NULL only if it is stored so.
fn is_inner_join_of_tables(from: &[TableRef], ctes: &Ctes<'_>) -> bool {
    from.iter().all(|table| match table {
        TableRef::Table { name, .. } => name.schema.is_some() || ctes.find(&name.name).is_none(),
        TableRef::Join { left, right, kind: JoinKind::Inner | JoinKind::Cross, .. } => {
            is_inner_join_of_tables(std::slice::from_ref(left), ctes)
                && is_inner_join_of_tables(std::slice::from_ref(right), ctes)
        }
        _ => false,
    })
}

fn is_colocated(env: &Env, left: Option<&[Node]>, right: Option<&[Node]>) -> bool {
    matches!((left, right), (Some(left), Some(right)) if env.colocated(left, right))
}
