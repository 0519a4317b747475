//! The walk over a query that proves two things: which keys every sharded row source is restricted to, and whether
//! the query may be computed on every shard for itself, the answers being put together afterwards.
//!
//! The second is the property "spread": every row of the result comes from exactly one shard. The key columns that
//! decide it are the level's *vector*. A level is spread when all its sharded sources have equal keys; queries inside
//! expressions must be bound to the vector of the level round them (they are *anchored*), and then may do anything.

use std::rc::Rc;
use std::sync::Arc;

use super::Subject;
use super::env::{Env, Learned, Node};
use super::predicate;
use super::scope::{Scope, ScopeColumn};
use super::select_facts;
use crate::base::ShardId;
use crate::error::ClientError;
use crate::plan::{KeyTuple, PartialPlan};
use crate::sql::ast::{Cte, Expr, OrderItem, Query, Select, SetExpr, Statement};
use crate::topology::{KeyType, TableName};

/// One occurrence of a sharded table.
#[derive(Clone, Debug)]
pub struct Source {
    /// The table.
    pub table: TableName,
    /// Its key columns.
    pub key: Vec<String>,
    /// What its rows that count are restricted to.
    pub keys: Option<Vec<KeyTuple>>,
}

/// Something that only one shard has.
#[derive(Clone, Debug)]
pub struct Single {
    /// What it is, for messages.
    pub name: String,
    /// The shard.
    pub shard: ShardId,
    /// It is a table, not PostgreSQL's own.
    pub is_table: bool,
}

/// What the queries inside a level have to be bound to.
#[derive(Clone, Copy, Debug)]
pub enum Mode<'m> {
    /// Nothing: the level stands for itself.
    Plain,
    /// To these columns of a level round it; `None`: there are none.
    Anchored(Option<&'m [Node]>),
}

/// What is known of a level once all of it was seen.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Key columns.
    pub env: Env,
    /// The columns that decide the shard of a row.
    pub vector: Option<Vec<Node>>,
    /// It has sharded rows.
    pub is_spread: bool,
}

/// The result of a query as the level round it sees it.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Columns by position.
    pub columns: Vec<ScopeColumn>,
    /// All columns are known.
    pub is_complete: bool,
    /// Facts about them.
    pub learned: Vec<Learned>,
    /// The columns that decide the shard of a row.
    pub vector: Option<Vec<Node>>,
    /// It has sharded rows.
    pub is_spread: bool,
}

/// WITH queries in sight.
#[derive(Clone, Debug, Default)]
pub struct Ctes<'a>(Option<Rc<CteNode<'a>>>);

#[derive(Debug)]
pub(super) struct CteNode<'a> {
    pub(super) name: &'a str,
    pub(super) columns: &'a [String],
    pub(super) kind: CteKind<'a>,
    before: Ctes<'a>,
    /// What its own query sees.
    pub(super) inside: Ctes<'a>,
    pub(super) scope: Option<Rc<Scope>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum CteKind<'a> {
    Query(&'a Query),
    /// A data-modifying statement: its rows are where it ran.
    Modifying,
    /// The recursive reference to itself.
    Itself,
    /// WITH RECURSIVE lets a query name a later one.
    Later,
}

impl<'a> Ctes<'a> {
    pub(super) fn find(&self, name: &str) -> Option<&Rc<CteNode<'a>>> {
        let mut at = self.0.as_ref();
        while let Some(node) = at {
            if node.name == name {
                return Some(node);
            }
            at = node.before.0.as_ref();
        }
        None
    }

    fn with(&self, cte: &'a Cte, kind: CteKind<'a>, inside: Self, scope: Option<Rc<Scope>>) -> Self {
        let node = CteNode { name: &cte.name, columns: &cte.columns, kind, before: self.clone(), inside, scope };
        Self(Some(Rc::new(node)))
    }
}

/// A sharded row source of a level under construction.
pub(super) struct Spread {
    pub(super) vector: Option<Vec<Node>>,
    /// Index into [`Walk::sources`], for a table.
    pub(super) source: Option<usize>,
}

/// A level, or one side of an outer join, under construction.
#[derive(Default)]
pub(super) struct Build<'a> {
    pub(super) learned: Vec<Learned>,
    pub(super) spreads: Vec<Spread>,
    /// Inner sides of outer joins.
    pub(super) nullable: Vec<Build<'a>>,
    pub(super) laterals: Vec<(&'a Query, Rc<Scope>, Ctes<'a>)>,
    pub(super) exprs: Vec<(&'a Expr, Rc<Scope>, Ctes<'a>)>,
    /// Conditions of joins: their scope is the whole level's.
    pub(super) conditions: Vec<&'a Expr>,
}

impl<'a> Build<'a> {
    /// An expression of the level: the queries in it are walked at the end.
    pub(super) fn expr(&mut self, expr: &'a Expr, scope: &Rc<Scope>, ctes: &Ctes<'a>) {
        self.exprs.push((expr, Rc::clone(scope), ctes.clone()));
    }
}

/// The names of a level under construction.
pub(super) struct Level<'a, 'e> {
    pub(super) scope: Scope,
    pub(super) ctes: Ctes<'a>,
    pub(super) env: &'e Env,
    pub(super) mode: Mode<'e>,
}

/// False only in the build in which the differential test has to find what proofs are for.
pub(super) const IS_PROVED: bool = !cfg!(feature = "unproved-routing");

/// More row sources than this are not analysed.
pub(super) const SOURCES_MAX: usize = 2_000;

/// The walk.
pub struct Walk<'c> {
    pub(super) subject: &'c Subject<'c>,
    nodes: usize,
    pub(super) visits: usize,
    /// Every occurrence of a sharded table.
    pub sources: Vec<Source>,
    /// What stands on one shard only.
    pub singles: Vec<Single>,
    /// Reference tables read.
    pub references: Vec<TableName>,
    /// Why the statement cannot be computed shard by shard.
    pub trouble: Option<ClientError>,
    /// Why the statement cannot be planned at all.
    pub failure: Option<ClientError>,
    /// A data-modifying WITH query was seen.
    pub writes: bool,
    /// The shards can aggregate their parts of what no merge can answer.
    pub partial: Option<Arc<PartialPlan>>,
}

impl<'c> Walk<'c> {
    /// A walk that has seen nothing.
    pub fn new(subject: &'c Subject<'c>) -> Self {
        Self {
            subject,
            nodes: 0,
            visits: 0,
            sources: Vec::new(),
            singles: Vec::new(),
            references: Vec::new(),
            trouble: None,
            failure: None,
            writes: false,
            partial: None,
        }
    }

    /// Notes why the statement cannot be computed shard by shard; the first reason stays.
    pub fn trouble(&mut self, message: impl Into<String>, hint: &str) {
        if self.trouble.is_none() && IS_PROVED {
            self.trouble = Some(ClientError::refused(message, hint));
        }
    }

    /// Notes why the statement cannot be planned; the first reason stays.
    pub fn fail(&mut self, error: ClientError) {
        if self.failure.is_none() {
            self.failure = Some(error);
        }
    }

    /// Notes something that one shard has.
    pub(super) fn single(&mut self, name: &str, shard: ShardId, is_table: bool) {
        self.singles.push(Single { name: name.to_owned(), shard, is_table });
    }

    /// Notes something that the home shard answers.
    pub(super) fn at_home(&mut self, name: &str) {
        self.single(name, self.subject.topology.home(), false);
    }

    pub(super) fn new_node(&mut self) -> Node {
        self.nodes += 1;
        self.nodes
    }

    /// Walks a query.
    pub fn query<'a>(
        &mut self,
        query: &'a Query,
        parent: Option<&Rc<Scope>>,
        env: &Env,
        mode: Mode<'_>,
        ctes: &Ctes<'a>,
    ) -> Output {
        self.visits += 1;
        if self.visits > SOURCES_MAX {
            self.fail(ClientError::refused(
                "statement has too many row sources to be analysed",
                "Split the statement, or route it with fewer WITH queries.",
            ));
            return Output::default();
        }
        let ctes = self.with(&query.with, query.recursive, parent, env, ctes);
        self.limits(query, parent, env, &ctes);
        let output = match &query.body {
            SetExpr::Select(select) => self.select(select, &query.order_by, parent, env, mode, &ctes),
            body => {
                let output = self.body(body, parent, env, mode, &ctes);
                self.set_order(&query.order_by, env, &ctes);
                output
            }
        };
        if matches!(mode, Mode::Plain) && output.is_spread && (query.limit.is_some() || query.offset.is_some()) {
            self.trouble(
                "LIMIT or OFFSET in a subquery over sharded tables is not supported across shards",
                "Restrict the subquery to one sharding key.",
            );
        }
        output
    }

    /// Subqueries in LIMIT and OFFSET see no rows of the query.
    pub(super) fn limits<'a>(&mut self, query: &'a Query, parent: Option<&Rc<Scope>>, env: &Env, ctes: &Ctes<'a>) {
        let scope = Rc::new(Scope { parent: parent.cloned(), ..Scope::default() });
        for expr in query.limit.iter().chain(&query.offset) {
            self.expr(expr, &scope, env, Mode::Anchored(None), ctes);
        }
    }

    /// ORDER BY of a set operation names output columns only.
    pub(super) fn set_order<'a>(&mut self, order: &'a [OrderItem], env: &Env, ctes: &Ctes<'a>) {
        let scope = Rc::new(Scope::default());
        order.iter().for_each(|item| self.expr(&item.expr, &scope, env, Mode::Anchored(None), ctes));
    }

    /// Brings WITH queries into sight. Data-modifying ones are walked here, since they run in any case.
    pub fn with<'a>(
        &mut self,
        with: &'a [Cte],
        recursive: bool,
        parent: Option<&Rc<Scope>>,
        env: &Env,
        ctes: &Ctes<'a>,
    ) -> Ctes<'a> {
        let mut sight = ctes.clone();
        for (index, cte) in with.iter().enumerate() {
            match &cte.statement {
                Statement::Query(query) => {
                    let mut inside = sight.clone();
                    if recursive {
                        for later in with.iter().skip(index + 1) {
                            inside = inside.with(later, CteKind::Later, Ctes::default(), None);
                        }
                        inside = inside.with(cte, CteKind::Itself, Ctes::default(), None);
                    }
                    sight = sight.with(cte, CteKind::Query(query), inside, parent.cloned());
                }
                statement => {
                    self.writes = true;
                    self.trouble(
                        "data-modifying WITH is not supported across shards",
                        "Run the statements one by one in a transaction, or give all of them the same sharding key.",
                    );
                    self.modifying(statement, env, &sight);
                    sight = sight.with(cte, CteKind::Modifying, Ctes::default(), None);
                }
            }
        }
        sight
    }

    pub(super) fn body<'a>(
        &mut self,
        body: &'a SetExpr,
        parent: Option<&Rc<Scope>>,
        env: &Env,
        mode: Mode<'_>,
        ctes: &Ctes<'a>,
    ) -> Output {
        match body {
            SetExpr::Select(select) => self.select(select, &[], parent, env, mode, ctes),
            SetExpr::Nested(query) => self.query(query, parent, env, mode, ctes),
            SetExpr::Values(rows) => {
                let scope = Rc::new(Scope { parent: parent.cloned(), ..Scope::default() });
                let anchored = match mode {
                    Mode::Plain => Mode::Anchored(None),
                    anchored => anchored,
                };
                rows.iter().flatten().for_each(|expr| self.expr(expr, &scope, env, anchored, ctes));
                let columns = (1..=rows.first().map_or(0, Vec::len))
                    .map(|number| ScopeColumn { name: format!("column{number}"), ..ScopeColumn::default() })
                    .collect();
                Output { columns, is_complete: true, ..Output::default() }
            }
            SetExpr::SetOperation { operator, all, left, right } => {
                let left = self.body(left, parent, env, mode, ctes);
                let right = self.body(right, parent, env, mode, ctes);
                self.combine(&left, &right, operator == "UNION" && *all, matches!(mode, Mode::Plain))
            }
        }
    }

    /// UNION, INTERSECT, EXCEPT: rows that are compared must be of one shard.
    fn combine(&mut self, left: &Output, right: &Output, is_union_all: bool, is_plain: bool) -> Output {
        let mut columns = Vec::new();
        let mut pairs = Vec::new();
        for (one, other) in left.columns.iter().zip(&right.columns) {
            let node = match (one.node, other.node) {
                (Some((one, one_type)), Some((other, other_type)))
                    if predicate::is_same_family(one_type, other_type) =>
                {
                    let node = self.new_node();
                    pairs.push((one, other, node));
                    Some((node, one_type))
                }
                _ => None,
            };
            columns.push(ScopeColumn {
                name: one.name.clone(),
                node,
                is_bytewise: one.is_bytewise && other.is_bytewise,
                is_deterministic: one.is_deterministic && other.is_deterministic,
            });
        }
        let (mut left_env, mut right_env) = (Env::default(), Env::default());
        left_env.learn(&left.learned);
        right_env.learn(&right.learned);
        let vector = match (&left.vector, &right.vector) {
            (Some(left), Some(right)) if left.len() == right.len() => left
                .iter()
                .zip(right)
                .map(|(left, right)| {
                    pairs
                        .iter()
                        .find(|(one, other, _)| {
                            left_env.strong(*one) == left_env.strong(*left)
                                && right_env.strong(*other) == right_env.strong(*right)
                        })
                        .map(|(_, _, node)| *node)
                })
                .collect::<Option<Vec<Node>>>(),
            _ => None,
        };
        if is_plain && left.is_spread != right.is_spread {
            self.trouble(
                "a set operation of sharded rows with others is not supported across shards",
                "Restrict it to one sharding key, or run the parts one by one.",
            );
        }
        if is_plain && left.is_spread && right.is_spread && !is_union_all && vector.is_none() {
            self.trouble(
                "UNION, INTERSECT and EXCEPT over sharded tables are not supported across shards",
                "Use UNION ALL, restrict every part to one sharding key, or select the sharding key at the same position in each part.",
            );
        }
        Output {
            columns,
            is_complete: left.is_complete && right.is_complete,
            learned: Vec::new(),
            vector,
            is_spread: left.is_spread || right.is_spread,
        }
    }

    fn select<'a>(
        &mut self,
        select: &'a Select,
        order: &'a [OrderItem],
        parent: Option<&Rc<Scope>>,
        env: &Env,
        mode: Mode<'_>,
        ctes: &Ctes<'a>,
    ) -> Output {
        let (scope, block) = self.block(select, order, parent, env, mode, ctes, &[]);
        if matches!(mode, Mode::Plain)
            && block.is_spread
            && let Err(error) = select_facts::is_computed_by_shard(self.subject, select, order, &scope, &block)
            && self.trouble.is_none()
        {
            self.trouble = Some(error);
        }
        let (columns, is_complete) = select_facts::output_columns(self.subject, select, &scope);
        self.output(columns, is_complete, &block)
    }

    /// Gives the output columns numbers of their own and says what is known of them.
    fn output(&mut self, mut columns: Vec<ScopeColumn>, is_complete: bool, block: &Block) -> Output {
        let mut numbers: Vec<(Node, Node)> = Vec::new();
        let mut learned = Vec::new();
        for column in &mut columns {
            if let Some((inner, key_type)) = column.node {
                let outer = self.new_node();
                let class = block.env.strong(inner);
                if let Some((_, first)) = numbers.iter().find(|(known, _)| *known == class) {
                    learned.push(Learned::Equal(*first, outer));
                }
                numbers.push((class, outer));
                column.node = Some((outer, key_type));
            }
        }
        let outer = |class: Node| numbers.iter().find(|(known, _)| *known == class).map(|(_, outer)| *outer);
        learned.extend(block.env.export(&outer));
        let vector = block
            .vector
            .as_ref()
            .and_then(|vector| vector.iter().map(|node| outer(block.env.strong(*node))).collect::<Option<Vec<Node>>>());
        Output { columns, is_complete, learned, vector, is_spread: block.is_spread }
    }

    /// Walks one SELECT without judging its clauses. `equal` names output positions that equal columns outside.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn block<'a>(
        &mut self,
        select: &'a Select,
        order: &'a [OrderItem],
        parent: Option<&Rc<Scope>>,
        env: &Env,
        mode: Mode<'_>,
        ctes: &Ctes<'a>,
        equal: &[(usize, (Node, KeyType))],
    ) -> (Rc<Scope>, Block) {
        if select.into {
            self.fail(ClientError::refused(
                "SELECT INTO is not supported across shards",
                "Create the table, then use INSERT ... SELECT.",
            ));
        }
        let mut build = Build::default();
        let scope = Scope { parent: parent.cloned(), ..Scope::default() };
        let mut level = Level { scope, ctes: ctes.clone(), env, mode };
        for table in &select.from {
            self.table(table, &mut level, &mut build);
        }
        if let Some(selection) = &select.selection {
            predicate::learn(selection, &level.scope, &mut build.learned);
        }
        let scope = Rc::new(level.scope);
        if !equal.is_empty() {
            let (columns, is_complete) = select_facts::output_columns(self.subject, select, &scope);
            for (position, (outer, outer_type)) in equal {
                if let Some((inner, inner_type)) = columns.get(*position).filter(|_| is_complete).and_then(|c| c.node)
                    && predicate::is_same_family(inner_type, *outer_type)
                {
                    build.learned.push(Learned::Equal(inner, *outer));
                }
            }
        }
        select_facts::own_exprs(select, order)
            .for_each(|expr| build.exprs.push((expr, Rc::clone(&scope), ctes.clone())));
        let block = self.finish(build, env, mode, &scope, ctes);
        (scope, block)
    }
}
