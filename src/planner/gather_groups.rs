//! GROUP BY a primary key in what is gathered: the rows that stand for a table have no key from which its other columns
//! follow, so these are written out. Must not know: how rows are gathered.

use super::gather::Occurrence;
use super::rewrite::quoted;
use crate::plan::{Piece, Splice};
use crate::sql::ast::{Expr, Query, Select, TableRef, TokenRange};
use crate::sql::walk::{self, Visitor};

/// Every SELECT with GROUP BY: the end of the clause, its columns, and its tables.
#[derive(Default)]
struct Groups {
    found: Vec<Group>,
}

struct Group {
    end: usize,
    columns: Vec<(Option<String>, String)>,
    tables: Vec<TokenRange>,
}

impl Groups {
    fn select(&mut self, select: &Select) {
        let Some(tokens) = select.group_by_tokens.as_ref().filter(|_| !select.grouping_sets) else { return };
        let columns = select.group_by.iter().filter_map(|item| match &item.expr {
            Expr::Column { qualifier, name } => match qualifier.as_slice() {
                [] => Some((None, name.clone())),
                [.., table] => Some((Some(table.clone()), name.clone())),
            },
            _ => None,
        });
        let mut tables = Vec::new();
        select.from.iter().for_each(|table| add_tables(table, &mut tables));
        self.found.push(Group { end: tokens.end, columns: columns.collect(), tables });
    }
}

impl Visitor for Groups {
    fn query(&mut self, query: &Query) {
        walk::for_each_arm(&query.body, &mut |select| self.select(select));
    }
}

fn add_tables(table: &TableRef, tables: &mut Vec<TokenRange>) {
    match table {
        TableRef::Table { tokens, .. } => tables.push(tokens.clone()),
        TableRef::Join { left, right, .. } => {
            add_tables(left, tables);
            add_tables(right, tables);
        }
        _ => {}
    }
}

/// The columns that follow from a primary key among the groups. `kept` are the columns of an occurrence that are
/// gathered, in order of the occurrences.
pub(super) fn splices(query: &Query, occurrences: &[Occurrence], kept: &[Vec<String>]) -> Vec<Splice> {
    let mut groups = Groups::default();
    walk::walk_query(&mut groups, query);
    let mut splices = Vec::new();
    for group in &groups.found {
        let mut added = String::new();
        for (occurrence, kept) in occurrences.iter().zip(kept) {
            let Some(primary) = occurrence.relation.unique.iter().find(|unique| unique.primary) else { continue };
            let alias = occurrence.alias.as_ref().map_or(&occurrence.relation.name.name, |alias| &alias.name);
            let is_renamed = occurrence.alias.as_ref().is_some_and(|alias| !alias.columns.is_empty());
            let is_here = group.tables.contains(&occurrence.tokens);
            // A plain name may be another table's, of which PostgreSQL would then have complained.
            let is_grouped = |column: &String| {
                let is_it = |(table, name): &(Option<String>, String)| {
                    name == column && table.as_ref().is_none_or(|table| table == alias)
                };
                group.columns.iter().any(is_it)
            };
            if !is_here || is_renamed || primary.columns.is_empty() || !primary.columns.iter().all(is_grouped) {
                continue;
            }
            for column in kept.iter().filter(|column| !column.is_empty() && !is_grouped(column)) {
                added.push_str(&format!(", {}.{}", quoted(alias), quoted(column)));
            }
        }
        if !added.is_empty() {
            splices.push(Splice { tokens: group.end..group.end, with: vec![Piece::Text(added)] });
        }
    }
    splices
}
