//! Queries that no merge can answer: which rows one PostgreSQL needs to answer them, and the text that it gets.
//!
//! Names are taken widely: a column is fetched when its name stands anywhere in the statement. What is read too
//! narrowly makes the text wrong, which PostgreSQL says before anything is fetched; then the statement is refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Subject;
use super::gather_filter::{self, Filter};
use super::gather_groups;
use super::place::{self, Place};
use super::rewrite::{params_of, quoted};
use crate::base::ShardId;
use crate::plan::{GatherColumn, GatherPlan, GatherSource, Piece, Splice};
use crate::sql::ast::{
    Expr, JoinCondition, Query, SelectItemKind, SetExpr, Statement, TableAlias, TableRef, TokenRange,
};
use crate::sql::walk::{self, Visitor};
use crate::topology::schema::{Relation, Travel};

/// Columns that every table has and a subquery has not.
const SYSTEM_COLUMNS: &[&str] = &["cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"];

/// One occurrence of a table whose rows are gathered.
pub(super) struct Occurrence {
    /// Where its name stands.
    pub(super) tokens: TokenRange,
    pub(super) alias: Option<TableAlias>,
    pub(super) relation: Arc<Relation>,
    shard: Option<ShardId>,
    is_only: bool,
}

/// What the statement's tree says.
#[derive(Default)]
struct Seen {
    tables: Vec<(crate::sql::ast::ObjectName, Option<TableAlias>, bool, TokenRange)>,
    ctes: BTreeSet<String>,
    names: Vec<String>,
    has_wildcard: bool,
    has_other: bool,
}

impl Visitor for Seen {
    fn table(&mut self, table: &TableRef) {
        match table {
            TableRef::Table { name, alias, sample, tokens } => {
                self.tables.push((name.clone(), alias.clone(), *sample, tokens.clone()));
            }
            TableRef::Other(_) => self.has_other = true,
            TableRef::Join { condition: JoinCondition::Natural, .. } => self.has_wildcard = true,
            _ => {}
        }
    }

    fn query(&mut self, query: &Query) {
        self.ctes.extend(query.with.iter().map(|cte| cte.name.clone()));
        self.body(&query.body);
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Column { qualifier, name } if qualifier.is_empty() => self.names.push(name.clone()),
            Expr::Other { what, .. } => self.has_wildcard |= *what == "row expansion",
            _ => {}
        }
    }

    fn statement(&mut self, statement: &Statement) {
        self.has_other |= !matches!(statement, Statement::Query(_) | Statement::Declare { .. });
    }
}

impl Seen {
    fn body(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Select(select) => {
                let wild = |kind: &SelectItemKind| {
                    matches!(kind, SelectItemKind::Wildcard | SelectItemKind::QualifiedWildcard(_))
                };
                self.has_wildcard |= select.items.iter().any(|item| wild(&item.kind));
                self.has_other |= select.into;
            }
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left);
                self.body(right);
            }
            SetExpr::Nested(_) | SetExpr::Values(_) => {}
        }
    }
}

/// The plan of a query that only reads; `None`: it cannot be gathered. `home` is the shard that has to answer for
/// another reason than its tables.
pub fn plan(subject: &Subject<'_>, query: &Query, mut home: Option<ShardId>) -> Option<Arc<GatherPlan>> {
    let mut seen = Seen::default();
    walk::walk_query(&mut seen, query);
    if seen.has_other {
        return None;
    }
    let mut occurrences = Vec::new();
    for (name, alias, sample, tokens) in &seen.tables {
        let is_cte = name.schema.is_none() && seen.ctes.contains(&name.name);
        match place::resolve(subject, name) {
            _ if is_cte && subject.schema.resolve(None, &name.name, subject.search_path).is_some() => return None,
            _ if is_cte => {}
            Ok(Place::Sharded(relation, _)) => {
                occurrences.push(occurrence(subject, relation, None, alias, *sample, tokens)?);
            }
            Ok(Place::Single(relation, shard)) if home.is_some_and(|home| home != shard) => {
                occurrences.push(occurrence(subject, relation, Some(shard), alias, *sample, tokens)?);
            }
            Ok(Place::Single(_, shard)) => home = Some(shard),
            Ok(Place::Catalog) if home.is_none_or(|home| home == subject.topology.home()) => {
                home = Some(subject.topology.home());
            }
            Ok(Place::Reference(_)) => {}
            Ok(Place::Catalog) | Err(_) => return None,
        }
    }
    if occurrences.is_empty() || has_system_columns(subject) {
        return None;
    }
    let is_whole = seen.has_wildcard
        || occurrences.iter().any(|occurrence| {
            // A table's name as a value is its whole row; AS t (a, b) names columns by their places.
            let name = occurrence.alias.as_ref().map_or(&occurrence.relation.name.name, |alias| &alias.name);
            seen.names.contains(name) || occurrence.alias.as_ref().is_some_and(|alias| !alias.columns.is_empty())
        });
    let words: BTreeSet<String> =
        (0..subject.lexed.tokens.len()).filter_map(|token| subject.lexed.identifier(subject.text, token)).collect();
    let filters = gather_filter::of_query(subject, query, &occurrences);
    let params = params_of(subject.lexed).into_iter().max().unwrap_or(0);
    let plan = GatherPlan { sources: Vec::new(), finish: home, splices: Vec::new(), params, partial: None };
    let mut builder = Builder { plan };
    let mut kinds: Vec<(&Occurrence, usize)> = Vec::new();
    for occurrence in &occurrences {
        let known = kinds
            .iter()
            .find(|(known, _)| known.relation.name == occurrence.relation.name && known.is_only == occurrence.is_only);
        let source = match known {
            Some((_, source)) => *source,
            None => {
                let same = occurrences.iter().zip(&filters).filter(|(other, _)| {
                    other.relation.name == occurrence.relation.name && other.is_only == occurrence.is_only
                });
                let filters: Option<Vec<&Filter>> = same.map(|(_, filter)| filter.as_ref()).collect();
                builder.source(occurrence, &|name| is_whole || words.contains(name), filters)?
            }
        };
        kinds.push((occurrence, source));
    }
    for (occurrence, source) in &kinds {
        builder.splice(occurrence, *source)?;
    }
    let kept: Vec<Vec<String>> = kinds.iter().map(|(_, source)| builder.kept(*source)).collect();
    let mut plan = builder.plan;
    plan.splices.extend(gather_groups::splices(query, &occurrences, &kept));
    plan.splices.extend(unqualified(subject, &seen, &occurrences));
    plan.splices.sort_by_key(|splice| splice.tokens.start);
    Some(Arc::new(plan))
}

fn occurrence(
    subject: &Subject<'_>,
    relation: Arc<Relation>,
    shard: Option<ShardId>,
    alias: &Option<TableAlias>,
    sample: bool,
    tokens: &TokenRange,
) -> Option<Occurrence> {
    if sample || tokens.is_empty() {
        return None;
    }
    let is_only = subject.lexed.is_keyword(subject.text, tokens.start, "ONLY");
    Some(Occurrence { tokens: tokens.clone(), alias: alias.clone(), relation, shard, is_only })
}

/// A system column's name stands somewhere: without the table it might mean another table's.
fn has_system_columns(subject: &Subject<'_>) -> bool {
    (0..subject.lexed.tokens.len())
        .filter_map(|token| subject.lexed.identifier(subject.text, token))
        .any(|word| SYSTEM_COLUMNS.contains(&word.as_str()))
}

/// `schema.table.column` of a table that is a subquery now: the schema goes.
fn unqualified(subject: &Subject<'_>, seen: &Seen, occurrences: &[Occurrence]) -> Vec<Splice> {
    let is_dot = |at: usize| subject.token(at) == ".";
    let word = |at: usize| subject.lexed.identifier(subject.text, at);
    let is_meant = |schema: &str, table: &str| {
        let is_shown = |occurrence: &Occurrence| {
            let name = &occurrence.relation.name;
            occurrence.alias.is_none() && (name.schema.as_str(), name.name.as_str()) == (schema, table)
        };
        // Another table under this name might be meant then.
        let is_taken = seen.tables.iter().any(|(_, alias, ..)| alias.as_ref().is_some_and(|alias| alias.name == table));
        !is_taken && occurrences.iter().any(is_shown)
    };
    (0..subject.lexed.tokens.len())
        .filter(|at| is_dot(at + 1) && is_dot(at + 3) && !at.checked_sub(1).is_some_and(is_dot))
        .filter(|at| matches!((word(*at), word(at + 2)), (Some(schema), Some(table)) if is_meant(&schema, &table)))
        .map(|at| Splice { tokens: at..at + 2, with: Vec::new() })
        .collect()
}

struct Builder {
    plan: GatherPlan,
}

impl Builder {
    /// Names of the columns that are gathered of a table.
    fn kept(&self, source: usize) -> Vec<String> {
        let columns = self.plan.sources.get(source).map(|source| source.columns.as_slice());
        columns.unwrap_or_default().iter().map(|column| column.name.clone()).collect()
    }

    /// Adds a table; `None` when a column that is needed cannot travel.
    fn source(
        &mut self,
        occurrence: &Occurrence,
        is_needed: &dyn Fn(&str) -> bool,
        filters: Option<Vec<&Filter>>,
    ) -> Option<usize> {
        let mut columns = Vec::new();
        for column in occurrence.relation.columns.iter().filter(|column| is_needed(&column.name)) {
            let name = quoted(&column.name);
            let (expression, element, type_oid) = match column.written.travel {
                Travel::Binary => (name, column.written.base.clone(), column.type_oid),
                Travel::Text => (format!("{name}::pg_catalog.text"), "pg_catalog.text".to_owned(), TEXT_OID),
                Travel::No => return None,
            };
            columns.push(GatherColumn { name: column.name.clone(), expression, element, type_oid });
        }
        if columns.is_empty() {
            // Only the number of rows counts.
            columns.push(GatherColumn {
                name: String::new(),
                expression: "NULL::pg_catalog.bool".to_owned(),
                element: "pg_catalog.bool".to_owned(),
                type_oid: BOOL_OID,
            });
        }
        let mut from = vec![Piece::Text("FROM ".to_owned()), Piece::Tokens(occurrence.tokens.clone())];
        let mut params = Vec::new();
        let filters = filters.unwrap_or_default();
        for (index, filter) in filters.iter().enumerate() {
            from.push(Piece::Text(if index == 0 { " WHERE (" } else { " OR (" }.to_owned()));
            from.extend(filter.pieces.iter().cloned());
            from.push(Piece::Text(")".to_owned()));
            params.extend(filter.params.iter().copied());
        }
        let table = occurrence.relation.name.clone();
        let is_filtered = !filters.is_empty();
        self.plan.sources.push(GatherSource { table, shard: occurrence.shard, columns, from, is_filtered, params });
        Some(self.plan.sources.len() - 1)
    }

    /// Replaces one occurrence by the rows.
    fn splice(&mut self, occurrence: &Occurrence, source: usize) -> Option<()> {
        let before: usize = self.plan.sources.iter().take(source).map(|source| source.columns.len()).sum();
        let first = self.plan.params as usize + before + 1;
        let columns = &self.plan.sources.get(source)?.columns;
        let mut shown = Vec::new();
        for (index, column) in columns.iter().enumerate() {
            let Some(known) = occurrence.relation.column(&column.name) else { continue };
            let mut sql = format!("g.c{index}");
            if known.written.full != short(&known.written.base) || known.written.travel == Travel::Text {
                sql = format!("{sql}::{}", known.written.full);
            }
            if let Some(collation) = &known.written.collation {
                sql = format!("{sql} COLLATE {collation}");
            }
            shown.push(format!("{sql} AS {}", quoted(&column.name)));
        }
        let arrays: Vec<String> = columns
            .iter()
            .enumerate()
            .map(|(index, column)| format!("${}::{}[]", first + index, column.element))
            .collect();
        let names: Vec<String> = (0..columns.len()).map(|index| format!("c{index}")).collect();
        // With one argument PostgreSQL looks the name up like any other.
        let function = if columns.len() == 1 { "pg_catalog.unnest" } else { "unnest" };
        let mut text =
            format!("(SELECT {} FROM {function}({}) AS g({}))", shown.join(", "), arrays.join(", "), names.join(", "));
        if occurrence.alias.is_none() {
            text.push_str(&format!(" AS {}", quoted(&occurrence.relation.name.name)));
        }
        self.plan.splices.push(Splice { tokens: occurrence.tokens.clone(), with: vec![Piece::Text(text)] });
        Some(())
    }
}

const TEXT_OID: u32 = 25;
const BOOL_OID: u32 = 16;

/// A type of pg_catalog by its plain name, which is how it is written without a modifier.
fn short(base: &str) -> &str {
    base.strip_prefix("pg_catalog.").unwrap_or(base)
}
