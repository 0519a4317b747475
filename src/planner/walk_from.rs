//! The walk through FROM: tables, joins, subqueries and WITH queries become row sources of a level.

use std::rc::Rc;

use super::env::Learned;
use super::names;
use super::place::{self, Place};
use super::predicate;
use super::scope::{Item, Scope, ScopeColumn};
use super::select_facts;
use super::walk::{Build, CteKind, CteNode, Ctes, Level, Mode, Returned, SOURCES_MAX, Source, Spread, Walk};
use crate::error::ClientError;
use crate::sql::ast::{JoinCondition, JoinKind, ObjectName, Query, Select, TableAlias, TableRef};
use crate::topology::KeyType;
use crate::topology::schema::Relation;

impl Walk<'_> {
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
                let name = calls.first().and_then(names::of).unwrap_or_default();
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
        if name.schema.is_none()
            && let Some(cte) = level.ctes.find(&name.name).cloned()
        {
            self.with_query(&cte, alias, level, build);
            return;
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
            Place::Single(relation, shard) => self.single(&relation.name.name, *shard, true),
            Place::Catalog => self.at_home(&name.name),
        }
        item
    }

    fn relation_item(&mut self, relation: &Relation) -> Item {
        let columns = relation
            .columns
            .iter()
            .map(|column| {
                let key_type = KeyType::from_oid(column.type_oid)
                    .filter(|_| column.collation_is_deterministic)
                    .map(predicate::compared_as);
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
            CteKind::Modifying => {
                let item = match &cte.returned {
                    Some(returned) => self.returned(returned, build),
                    None => Item::default(),
                };
                level.scope.items.push(item);
            }
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

    /// Rows that a data-modifying statement returned are where they were written. Each mention of them is a row source
    /// of its own.
    fn returned(&mut self, returned: &Returned, build: &mut Build<'_>) -> Item {
        let output = self.output(returned.columns.clone(), returned.is_complete, &returned.block);
        if output.is_spread {
            build.spreads.push(Spread { vector: output.vector, source: None });
        }
        build.learned.extend(output.learned);
        Item { columns: output.columns, is_complete: output.is_complete, ..Item::default() }
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
        if let Mode::Anchored(Some(anchor)) = level.mode
            && before.0.is_none()
            && self.trouble.is_some()
        {
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
        if output.is_spread {
            build.spreads.push(Spread { vector: output.vector, source: None });
        }
        build.learned.extend(output.learned);
        Item { columns: output.columns, is_complete: output.is_complete, ..Item::default() }
    }
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
        if let (Some((left, left_type)), Some((right, right_type))) = (node(left), node(right))
            && predicate::is_same_family(left_type, right_type)
        {
            learned.push(Learned::Equal(left, right));
        }
        let meant = match kind {
            JoinKind::Inner | JoinKind::Left | JoinKind::Cross => left,
            JoinKind::Right => right,
            JoinKind::Full => None,
        };
        scope.merged.push((name.clone(), meant));
    }
}
