//! The walk over a query that proves two things: which keys every sharded row source is restricted to, and whether
//! the query may be computed on every shard for itself, the answers being put together afterwards.
//!
//! The second is the property "spread": every row of the result comes from exactly one shard. The key columns that
//! decide it are the level's *vector*. A level is spread when all its sharded sources have equal keys; queries inside
//! expressions must be bound to the vector of the level round them (they are *anchored*), and then may do anything.

use std::rc::Rc;

use super::Subject;
use super::env::{Env, Learned, Node};
use super::place::{self, Place};
use super::predicate;
use super::scope::{Item, Scope, ScopeColumn};
use super::select_facts::{self, output_name};
use super::visit::{self, Part};
use crate::base::ShardId;
use crate::error::ClientError;
use crate::plan::KeyTuple;
use crate::sql::ast::{
    Cte, Expr, JoinCondition, JoinKind, ObjectName, OrderItem, Query, Select, SetExpr, Statement, TableAlias, TableRef,
};
use crate::topology::schema::Relation;
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
struct CteNode<'a> {
    name: &'a str,
    columns: &'a [String],
    kind: CteKind<'a>,
    before: Ctes<'a>,
    /// What its own query sees.
    inside: Ctes<'a>,
    scope: Option<Rc<Scope>>,
}

#[derive(Clone, Copy, Debug)]
enum CteKind<'a> {
    Query(&'a Query),
    /// A data-modifying statement: its rows are where it ran.
    Modifying,
    /// The recursive reference to itself.
    Itself,
    /// WITH RECURSIVE lets a query name a later one.
    Later,
}

impl<'a> Ctes<'a> {
    fn find(&self, name: &str) -> Option<&Rc<CteNode<'a>>> {
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
struct Spread {
    vector: Option<Vec<Node>>,
    /// Index into [`Walk::sources`], for a table.
    source: Option<usize>,
}

/// A level, or one side of an outer join, under construction.
#[derive(Default)]
pub(super) struct Build<'a> {
    pub(super) learned: Vec<Learned>,
    spreads: Vec<Spread>,
    nullable: Vec<Build<'a>>,
    laterals: Vec<(&'a Query, Rc<Scope>, Ctes<'a>)>,
    exprs: Vec<(&'a Expr, Rc<Scope>, Ctes<'a>)>,
    /// Conditions of joins: their scope is the whole level's.
    conditions: Vec<&'a Expr>,
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

/// More row sources than this are not analysed.
const SOURCES_MAX: usize = 2_000;

/// The walk.
pub struct Walk<'c> {
    pub(super) subject: &'c Subject<'c>,
    nodes: usize,
    visits: usize,
    /// Every occurrence of a sharded table.
    pub sources: Vec<Source>,
    /// What stands on one shard only.
    pub singles: Vec<(String, ShardId)>,
    /// Reference tables read.
    pub references: Vec<TableName>,
    /// Why the statement cannot be computed shard by shard.
    pub trouble: Option<ClientError>,
    /// Why the statement cannot be planned at all.
    pub failure: Option<ClientError>,
    /// A data-modifying WITH query was seen.
    pub writes: bool,
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
        }
    }

    /// Notes why the statement cannot be computed shard by shard; the first reason stays.
    pub fn trouble(&mut self, message: impl Into<String>, hint: &str) {
        if self.trouble.is_none() {
            self.trouble = Some(ClientError::refused(message, hint));
        }
    }

    /// Notes why the statement cannot be planned; the first reason stays.
    pub fn fail(&mut self, error: ClientError) {
        if self.failure.is_none() {
            self.failure = Some(error);
        }
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
        if matches!(mode, Mode::Plain) && block.is_spread {
            if let Err(error) = select_facts::is_computed_by_shard(self.subject, select, order, &scope, &block) {
                if self.trouble.is_none() {
                    self.trouble = Some(error);
                }
            }
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
                if let Some((inner, inner_type)) = columns.get(*position).filter(|_| is_complete).and_then(|c| c.node) {
                    if predicate::is_same_family(inner_type, *outer_type) {
                        build.learned.push(Learned::Equal(inner, *outer));
                    }
                }
            }
        }
        select_facts::own_exprs(select, order)
            .for_each(|expr| build.exprs.push((expr, Rc::clone(&scope), ctes.clone())));
        let block = self.finish(build, env, mode, &scope, ctes);
        (scope, block)
    }

    /// Walks one entry of FROM.
    pub(super) fn table<'a>(&mut self, table: &'a TableRef, level: &mut Level<'a, '_>, build: &mut Build<'a>) {
        match table {
            TableRef::Table { name, alias, .. } => self.named(name, alias.as_ref(), level, build),
            TableRef::Subquery { query, alias, lateral } => {
                let ctes = level.ctes.clone();
                let parent = if *lateral { Some(Rc::new(level.scope.clone())) } else { level.scope.parent.clone() };
                self.derived(query, alias.as_ref(), *lateral, parent, &ctes, level, build);
            }
            TableRef::Function { calls, alias } => {
                let scope = Rc::new(level.scope.clone());
                calls.iter().for_each(|call| build.exprs.push((call, Rc::clone(&scope), level.ctes.clone())));
                let name = calls.first().and_then(output_name).unwrap_or_default();
                let item = Item { alias: name, ..Item::default() };
                level.scope.items.push(named_as(item, alias.as_ref()));
            }
            TableRef::Join { left, right, kind, condition } => {
                self.join(left, right, *kind, condition, level, build);
            }
            TableRef::Other(what) => {
                self.fail(ClientError::refused(
                    format!("{what} in FROM is not supported across shards"),
                    "Use a subquery instead.",
                ));
                level.scope.items.push(Item::default());
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn join<'a>(
        &mut self,
        left: &'a TableRef,
        right: &'a TableRef,
        kind: JoinKind,
        condition: &'a JoinCondition,
        level: &mut Level<'a, '_>,
        build: &mut Build<'a>,
    ) {
        let start = level.scope.items.len();
        let (mut left_build, mut right_build) = (Build::default(), Build::default());
        let left_is_nullable = matches!(kind, JoinKind::Right | JoinKind::Full);
        let right_is_nullable = matches!(kind, JoinKind::Left | JoinKind::Full);
        let left_target = if left_is_nullable { &mut left_build } else { &mut *build };
        self.table(left, level, left_target);
        let middle = level.scope.items.len();
        let right_target = if right_is_nullable { &mut right_build } else { &mut *build };
        self.table(right, level, right_target);

        let mut learned = Vec::new();
        match condition {
            JoinCondition::On(expr) => predicate::learn(expr, &level.scope, &mut learned),
            JoinCondition::Using(columns) => using(columns, kind, &mut level.scope, start, middle, &mut learned),
            JoinCondition::Natural => {
                let common = common_columns(&level.scope, start, middle);
                using(&common, kind, &mut level.scope, start, middle, &mut learned);
            }
            JoinCondition::None => {}
        }
        let expr = match condition {
            JoinCondition::On(expr) => Some(expr),
            _ => None,
        };
        match kind {
            JoinKind::Inner | JoinKind::Cross => {
                build.learned.extend(learned);
                build.conditions.extend(expr);
            }
            JoinKind::Left => {
                right_build.learned.extend(learned);
                right_build.conditions.extend(expr);
                build.nullable.push(right_build);
            }
            JoinKind::Right => {
                left_build.learned.extend(learned);
                left_build.conditions.extend(expr);
                build.nullable.push(left_build);
            }
            JoinKind::Full => {
                // Neither side's rows depend on the condition.
                build.conditions.extend(expr);
                build.nullable.push(left_build);
                build.nullable.push(right_build);
            }
        }
    }

    fn named<'a>(
        &mut self,
        name: &'a ObjectName,
        alias: Option<&'a TableAlias>,
        level: &mut Level<'a, '_>,
        build: &mut Build<'a>,
    ) {
        if name.schema.is_none() {
            if let Some(cte) = level.ctes.find(&name.name).cloned() {
                self.with_query(&cte, alias, level, build);
                return;
            }
        }
        match place::resolve(self.subject, name) {
            Ok(place) => {
                let item = self.placed(&place, name, build);
                level.scope.items.push(named_as(item, alias));
            }
            Err(error) => {
                self.fail(error);
                level.scope.items.push(Item { alias: name.name.clone(), ..Item::default() });
            }
        }
    }

    /// A table becomes a row source of the level.
    pub(super) fn placed(&mut self, place: &Place, name: &ObjectName, build: &mut Build<'_>) -> Item {
        let item = match place.relation() {
            Some(relation) => self.relation_item(relation),
            None => Item { alias: name.name.clone(), ..Item::default() },
        };
        match place {
            Place::Sharded(relation, key) => {
                let vector = key
                    .iter()
                    .map(|(name, _)| item.columns.iter().find(|c| c.name == *name)?.node.map(|(node, _)| node))
                    .collect();
                build.spreads.push(Spread { vector, source: Some(self.sources.len()) });
                self.sources.push(Source {
                    table: relation.name.clone(),
                    key: key.iter().map(|(name, _)| name.clone()).collect(),
                    keys: None,
                });
            }
            Place::Reference(relation) => self.references.push(relation.name.clone()),
            Place::Single(relation, shard) => self.singles.push((relation.name.name.clone(), *shard)),
            Place::Catalog => self.singles.push((name.name.clone(), self.subject.topology.home())),
        }
        item
    }

    fn relation_item(&mut self, relation: &Relation) -> Item {
        let columns = relation
            .columns
            .iter()
            .map(|column| {
                let key_type = KeyType::from_oid(column.type_oid).filter(|_| column.collation_is_deterministic);
                ScopeColumn {
                    name: column.name.clone(),
                    node: key_type.map(|key_type| (self.new_node(), key_type)),
                    is_bytewise: column.collation_is_bytewise,
                    is_deterministic: column.collation_is_deterministic,
                }
            })
            .collect();
        Item {
            alias: relation.name.name.clone(),
            schema: Some(relation.name.schema.clone()),
            columns,
            is_complete: true,
        }
    }

    fn with_query<'a>(
        &mut self,
        cte: &Rc<CteNode<'a>>,
        alias: Option<&'a TableAlias>,
        level: &mut Level<'a, '_>,
        build: &mut Build<'a>,
    ) {
        let at = level.scope.items.len();
        match cte.kind {
            CteKind::Query(query) => {
                self.derived(query, None, false, cte.scope.clone(), &cte.inside, level, build);
            }
            CteKind::Itself => {
                self.trouble(
                    "WITH RECURSIVE over sharded tables is not supported across shards",
                    "Restrict every part of the recursive query to one sharding key.",
                );
                level.scope.items.push(Item::default());
            }
            CteKind::Modifying => level.scope.items.push(Item::default()),
            CteKind::Later => {
                self.fail(ClientError::refused(
                    "a WITH query that names a later one is not supported across shards",
                    "Put the WITH queries in the order of their use.",
                ));
                level.scope.items.push(Item::default());
            }
        }
        if let Some(item) = level.scope.items.get_mut(at) {
            item.alias = cte.name.to_owned();
            rename(item, cte.columns);
            *item = named_as(std::mem::take(item), alias);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn derived<'a>(
        &mut self,
        query: &'a Query,
        alias: Option<&'a TableAlias>,
        lateral: bool,
        parent: Option<Rc<Scope>>,
        ctes: &Ctes<'a>,
        level: &mut Level<'a, '_>,
        build: &mut Build<'a>,
    ) {
        let item = match select_facts::flat(self.subject, query) {
            Some(select) => self.flat(query, select, parent, ctes, level, build),
            None if lateral => {
                let scope = parent.unwrap_or_default();
                build.laterals.push((query, scope, ctes.clone()));
                Item { columns: select_facts::static_columns(query), ..Item::default() }
            }
            None => self.closed(query, parent.as_ref(), ctes, level, build),
        };
        level.scope.items.push(named_as(item, alias));
    }

    /// A subquery that is only a join with conditions belongs to the level itself, as PostgreSQL pulls it up.
    #[allow(clippy::too_many_arguments)]
    fn flat<'a>(
        &mut self,
        query: &'a Query,
        select: &'a Select,
        parent: Option<Rc<Scope>>,
        ctes: &Ctes<'a>,
        level: &mut Level<'a, '_>,
        build: &mut Build<'a>,
    ) -> Item {
        self.visits += 1;
        if self.visits > SOURCES_MAX {
            self.fail(ClientError::refused(
                "statement has too many row sources to be analysed",
                "Split the statement, or name its WITH queries less often.",
            ));
            return Item::default();
        }
        let ctes = self.with(&query.with, query.recursive, parent.as_ref(), level.env, ctes);
        let scope = Scope { parent, ..Scope::default() };
        let mut inner = Level { scope, ctes: ctes.clone(), env: level.env, mode: level.mode };
        let conditions = std::mem::take(&mut build.conditions);
        for table in &select.from {
            self.table(table, &mut inner, build);
        }
        if let Some(selection) = &select.selection {
            predicate::learn(selection, &inner.scope, &mut build.learned);
        }
        let scope = Rc::new(inner.scope);
        let own = std::mem::replace(&mut build.conditions, conditions);
        own.into_iter()
            .chain(select_facts::own_exprs(select, &query.order_by))
            .for_each(|expr| build.exprs.push((expr, Rc::clone(&scope), ctes.clone())));
        let (columns, is_complete) = select_facts::output_columns(self.subject, select, &scope);
        Item { columns, is_complete, ..Item::default() }
    }

    /// A subquery with clauses of its own is a level of its own.
    fn closed<'a>(
        &mut self,
        query: &'a Query,
        parent: Option<&Rc<Scope>>,
        ctes: &Ctes<'a>,
        level: &Level<'a, '_>,
        build: &mut Build<'a>,
    ) -> Item {
        let before = (self.trouble.clone(), self.sources.len(), self.singles.len(), self.references.len());
        let mut output = self.query(query, parent, level.env, Mode::Plain, ctes);
        if let Mode::Anchored(Some(anchor)) = level.mode {
            if before.0.is_none() && self.trouble.is_some() {
                // It may still be bound, from inside, to what the level round this one is bound to.
                let anchored_before = (self.sources.len(), self.trouble.take());
                self.sources.truncate(before.1);
                self.singles.truncate(before.2);
                self.references.truncate(before.3);
                output = self.query(query, parent, level.env, Mode::Anchored(Some(anchor)), ctes);
                output.is_spread = false;
                if self.trouble.is_some() {
                    self.trouble = anchored_before.1;
                }
            }
        }
        if output.is_spread {
            build.spreads.push(Spread { vector: output.vector, source: None });
        }
        build.learned.extend(output.learned);
        Item { columns: output.columns, is_complete: output.is_complete, ..Item::default() }
    }

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
        if let (Some(index), Some(vector)) = (spread.source, &spread.vector) {
            if let Some(source) = self.sources.get_mut(index) {
                source.keys = env.restriction(vector);
            }
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

/// AS name (columns).
fn named_as(mut item: Item, alias: Option<&TableAlias>) -> Item {
    if let Some(alias) = alias {
        item.alias.clone_from(&alias.name);
        item.schema = None;
        rename(&mut item, &alias.columns);
    }
    item
}

fn rename(item: &mut Item, names: &[String]) {
    for (column, name) in item.columns.iter_mut().zip(names) {
        column.name.clone_from(name);
    }
    if !item.is_complete {
        for name in names.iter().skip(item.columns.len()) {
            item.columns.push(ScopeColumn { name: name.clone(), ..ScopeColumn::default() });
        }
    }
}

/// Names of columns that both sides of a NATURAL join have; empty when a side is not known.
fn common_columns(scope: &Scope, start: usize, middle: usize) -> Vec<String> {
    let (Some(left), Some(right)) = (scope.items.get(start..middle), scope.items.get(middle..)) else {
        return Vec::new();
    };
    if !left.iter().chain(right).all(|item| item.is_complete) {
        return Vec::new();
    }
    let mut names: Vec<String> = Vec::new();
    for column in left.iter().flat_map(|item| &item.columns) {
        let is_common = right.iter().flat_map(|item| &item.columns).any(|other| other.name == column.name);
        if is_common && !names.contains(&column.name) {
            names.push(column.name.clone());
        }
    }
    names
}

/// USING (columns): equalities, and names that mean one side's column from here on.
fn using(names: &[String], kind: JoinKind, scope: &mut Scope, start: usize, middle: usize, learned: &mut Vec<Learned>) {
    scope.has_using = true;
    let end = scope.items.len();
    for name in names {
        let merged_before = scope.merged.iter().rev().find(|(merged, _)| merged == name).and_then(|(_, index)| *index);
        let side = |from: usize, to: usize| {
            if let Some(index) = merged_before.filter(|index| (from..to).contains(index)) {
                return Some(index);
            }
            let mut hits = (from..to).filter(|index| {
                scope.items.get(*index).is_some_and(|item| item.columns.iter().any(|column| column.name == *name))
            });
            match (hits.next(), hits.next()) {
                (Some(index), None) => Some(index),
                _ => None,
            }
        };
        let (left, right) = (side(start, middle), side(middle, end));
        let node = |index: Option<usize>| {
            let item = scope.items.get(index?)?;
            item.columns.iter().find(|column| column.name == *name)?.node
        };
        if let (Some((left, left_type)), Some((right, right_type))) = (node(left), node(right)) {
            if predicate::is_same_family(left_type, right_type) {
                learned.push(Learned::Equal(left, right));
            }
        }
        let meant = match kind {
            JoinKind::Inner | JoinKind::Left | JoinKind::Cross => left,
            JoinKind::Right => right,
            JoinKind::Full => None,
        };
        scope.merged.push((name.clone(), meant));
    }
}
