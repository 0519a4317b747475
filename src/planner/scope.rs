//! Names within one query level: which row source a column belongs to. Must not know: shards.

use std::rc::Rc;

use super::env::Node;
use crate::topology::KeyType;

/// A column as far as it is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScopeColumn {
    /// Its name.
    pub name: String,
    /// The column's number, when its type can be a key's.
    pub node: Option<(Node, KeyType)>,
    /// Text in it compares by bytes.
    pub is_bytewise: bool,
    /// Its collation is deterministic.
    pub is_deterministic: bool,
}

/// A row source of FROM.
#[derive(Clone, Debug, Default)]
pub struct Item {
    /// What qualifies its columns.
    pub alias: String,
    /// The table's schema, for `s.t.c`; only without AS.
    pub schema: Option<String>,
    /// Columns by position.
    pub columns: Vec<ScopeColumn>,
    /// All columns are known.
    pub is_complete: bool,
}

/// One query level and the ones round it.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Row sources in order of FROM.
    pub items: Vec<Item>,
    /// Columns merged by USING or NATURAL: the item whose column the plain name means; `None`: neither.
    pub merged: Vec<(String, Option<usize>)>,
    /// Columns of `*` are not simply those of the items.
    pub has_using: bool,
    /// The level round this one.
    pub parent: Option<Rc<Scope>>,
}

/// Outcome of looking a column up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found<'s> {
    /// In this level's item with that index.
    Here(usize, &'s ScopeColumn),
    /// In a level further out.
    Outside(&'s ScopeColumn),
    /// Not known, or not for sure.
    Unsure,
}

impl<'s> Found<'s> {
    /// The column, wherever it is.
    pub fn column(self) -> Option<&'s ScopeColumn> {
        match self {
            Found::Here(_, column) | Found::Outside(column) => Some(column),
            Found::Unsure => None,
        }
    }
}

impl Scope {
    /// Looks a column up as PostgreSQL does: the innermost level that has it.
    pub fn find(&self, qualifier: &[String], name: &str) -> Found<'_> {
        let here = match qualifier {
            [] => self.find_plain(name),
            [alias] => self.find_in(name, |item| item.alias == *alias),
            [schema, table] => {
                self.find_in(name, |item| item.alias == *table && item.schema.as_deref() == Some(schema.as_str()))
            }
            _ => Some(Found::Unsure),
        };
        match (here, &self.parent) {
            (Some(found), _) => found,
            (None, Some(parent)) => match parent.find(qualifier, name) {
                Found::Here(_, column) => Found::Outside(column),
                found => found,
            },
            (None, None) => Found::Unsure,
        }
    }

    fn find_plain(&self, name: &str) -> Option<Found<'_>> {
        if let Some((_, merged)) = self.merged.iter().rev().find(|(merged, _)| merged == name) {
            let found = merged.and_then(|index| Some((index, self.items.get(index)?)));
            let column = found.and_then(|(index, item)| Some((index, item.columns.iter().find(|c| c.name == name)?)));
            return Some(column.map_or(Found::Unsure, |(index, column)| Found::Here(index, column)));
        }
        let mut hits = self.items.iter().enumerate().flat_map(|(index, item)| {
            item.columns.iter().filter(|column| column.name == name).map(move |column| (index, column))
        });
        match (hits.next(), hits.next()) {
            // With an unknown item the name may be ambiguous, which PostgreSQL reports.
            (Some((index, column)), None) => Some(Found::Here(index, column)),
            (Some(_), Some(_)) => Some(Found::Unsure),
            (None, _) if self.items.iter().all(|item| item.is_complete) => None,
            (None, _) => Some(Found::Unsure),
        }
    }

    fn find_in(&self, name: &str, is_meant: impl Fn(&Item) -> bool) -> Option<Found<'_>> {
        let mut meant = self.items.iter().enumerate().filter(|(_, item)| is_meant(item));
        let (index, item) = meant.next()?;
        if meant.next().is_some() {
            return Some(Found::Unsure);
        }
        let mut hits = item.columns.iter().filter(|column| column.name == name);
        Some(match (hits.next(), hits.next()) {
            (Some(column), None) => Found::Here(index, column),
            _ => Found::Unsure,
        })
    }

    /// The columns of `*`, when they are certain.
    pub fn wildcard(&self) -> Option<Vec<&ScopeColumn>> {
        (!self.has_using && self.items.iter().all(|item| item.is_complete))
            .then(|| self.items.iter().flat_map(|item| &item.columns).collect())
    }

    /// The columns of `alias.*`, when they are certain.
    pub fn qualified_wildcard(&self, alias: &str) -> Option<Vec<&ScopeColumn>> {
        let mut meant = self.items.iter().filter(|item| item.alias == alias);
        match (meant.next(), meant.next()) {
            (Some(item), None) if item.is_complete => Some(item.columns.iter().collect()),
            (None, _) => self.parent.as_ref()?.qualified_wildcard(alias),
            _ => None,
        }
    }
}
