//! Conditions that a gathered row has to meet in any case, so that the shards need not send the others.
//!
//! Only comparisons of a column with a constant: they fail for no row, mean the same on every server, and stay in the
//! statement that computes the answer. Must not know: shards.

use super::Subject;
use super::gather::Occurrence;
use super::rewrite::quoted;
use crate::plan::Piece;
use crate::sql::TokenKind;
use crate::sql::ast::{Expr, JoinKind, Query, Select, TableRef, TokenRange};
use crate::sql::walk::{self, Visitor};
use crate::topology::schema::Relation;

/// A condition in SQL, with the table's columns by their plain names.
pub(super) struct Filter {
    pub(super) pieces: Vec<Piece>,
    pub(super) params: Vec<u32>,
}

/// For each occurrence the condition that its rows have to meet; `None`: there is none.
pub(super) fn of_query(subject: &Subject<'_>, query: &Query, occurrences: &[Occurrence]) -> Vec<Option<Filter>> {
    let filters = occurrences.iter().map(|_| None).collect();
    let mut finder = Finder { subject, occurrences, filters };
    walk::walk_query(&mut finder, query);
    finder.filters
}

struct Finder<'f> {
    subject: &'f Subject<'f>,
    occurrences: &'f [Occurrence],
    filters: Vec<Option<Filter>>,
}

impl Visitor for Finder<'_> {
    fn query(&mut self, query: &Query) {
        walk::for_each_arm(&query.body, &mut |select| self.select(select));
    }
}

impl Finder<'_> {
    fn select(&mut self, select: &Select) {
        let Some(selection) = &select.selection else { return };
        let mut sides = Sides::default();
        select.from.iter().for_each(|table| sides.note(table, true));
        for tokens in &sides.kept {
            let Some(index) = self.occurrences.iter().position(|occurrence| occurrence.tokens == *tokens) else {
                continue;
            };
            let Some(occurrence) = self.occurrences.get(index) else { continue };
            let alias = match &occurrence.alias {
                Some(alias) if !alias.columns.is_empty() => continue,
                Some(alias) => alias.name.as_str(),
                None => occurrence.relation.name.name.as_str(),
            };
            let one = One { subject: self.subject, relation: &occurrence.relation, alias, is_alone: sides.count == 1 };
            let terms = match selection {
                Expr::And(terms) => terms.as_slice(),
                term => std::slice::from_ref(term),
            };
            let mut filter = Filter { pieces: Vec::new(), params: Vec::new() };
            for term in terms {
                let mut own = Filter { pieces: Vec::new(), params: Vec::new() };
                if one.condition(term, &mut own).is_none() {
                    continue;
                }
                if !filter.pieces.is_empty() {
                    filter.pieces.push(Piece::Text(" AND ".to_owned()));
                }
                filter.pieces.extend(own.pieces);
                filter.params.extend(own.params);
            }
            if !filter.pieces.is_empty()
                && let Some(place) = self.filters.get_mut(index)
            {
                *place = Some(filter);
            }
        }
    }
}

/// The row sources of a FROM.
#[derive(Default)]
struct Sides {
    /// Tables whose rows are all subject to WHERE.
    kept: Vec<TokenRange>,
    count: usize,
}

impl Sides {
    fn note(&mut self, table: &TableRef, is_kept: bool) {
        match table {
            TableRef::Join { left, right, kind, .. } => {
                self.note(left, is_kept && !matches!(kind, JoinKind::Right | JoinKind::Full));
                self.note(right, is_kept && !matches!(kind, JoinKind::Left | JoinKind::Full));
            }
            TableRef::Table { tokens, .. } => {
                self.count += 1;
                if is_kept {
                    self.kept.push(tokens.clone());
                }
            }
            _ => self.count += 1,
        }
    }
}

/// One table under its name in the statement.
struct One<'o> {
    subject: &'o Subject<'o>,
    relation: &'o Relation,
    alias: &'o str,
    /// A plain name can only be its column, or one of a query further out.
    is_alone: bool,
}

impl One<'_> {
    fn condition(&self, expr: &Expr, out: &mut Filter) -> Option<()> {
        match expr {
            Expr::And(terms) => self.joined(terms, " AND ", out),
            Expr::Or(terms) => self.joined(terms, " OR ", out),
            Expr::Binary { operator, left, right } if is_comparison(operator) => {
                self.operand(left, out)?;
                text(out, &format!(" {operator} "));
                self.operand(right, out)?;
                (self.is_column(left) != self.is_column(right)).then_some(())
            }
            Expr::InList { expr, list, negated } if self.is_column(expr) => {
                self.operand(expr, out)?;
                text(out, if *negated { " NOT IN (" } else { " IN (" });
                for (index, member) in list.iter().enumerate() {
                    if index > 0 {
                        text(out, ", ");
                    }
                    self.constant(member, out)?;
                }
                text(out, ")");
                Some(())
            }
            Expr::AnyAll { left, operator, right, all: false } if operator == "=" && self.is_column(left) => {
                self.operand(left, out)?;
                text(out, " = ANY (");
                self.constant(right, out)?;
                text(out, ")");
                Some(())
            }
            Expr::IsNull { expr, negated } if self.is_column(expr) => {
                self.operand(expr, out)?;
                text(out, if *negated { " IS NOT NULL" } else { " IS NULL" });
                Some(())
            }
            _ => None,
        }
    }

    fn joined(&self, terms: &[Expr], word: &str, out: &mut Filter) -> Option<()> {
        text(out, "(");
        for (index, term) in terms.iter().enumerate() {
            if index > 0 {
                text(out, word);
            }
            self.condition(term, out)?;
        }
        text(out, ")");
        Some(())
    }

    /// A column of the table, of a type of PostgreSQL's own.
    fn is_column(&self, expr: &Expr) -> bool {
        let Expr::Column { qualifier, name } = expr else { return false };
        let is_meant = match qualifier.as_slice() {
            [] => self.is_alone,
            [alias] => alias == self.alias,
            [schema, table] => {
                let name = &self.relation.name;
                self.alias == name.name && (schema, table) == (&name.schema, &name.name)
            }
            _ => false,
        };
        is_meant && self.relation.column(name).is_some_and(|column| column.type_oid < USER_OIDS)
    }

    fn operand(&self, expr: &Expr, out: &mut Filter) -> Option<()> {
        match expr {
            Expr::Column { name, .. } if self.is_column(expr) => {
                text(out, &quoted(name));
                Some(())
            }
            _ => self.constant(expr, out),
        }
    }

    fn constant(&self, expr: &Expr, out: &mut Filter) -> Option<()> {
        match expr {
            Expr::Literal(index) => {
                let at = self.subject.lexed.tokens.iter().position(|token| token.kind == TokenKind::Literal(*index))?;
                out.pieces.push(Piece::Tokens(at..at + 1));
                Some(())
            }
            Expr::Param(number) => {
                text(out, &format!("${number}"));
                out.params.push(*number);
                Some(())
            }
            Expr::Unary { operator, expr } if operator == "-" && matches!(**expr, Expr::Literal(_)) => {
                text(out, "(- ");
                self.constant(expr, out)?;
                text(out, ")");
                Some(())
            }
            Expr::Cast { expr, type_name } if is_plain_type(type_name) => {
                text(out, "(");
                self.constant(expr, out)?;
                text(out, &format!(")::{type_name}"));
                Some(())
            }
            _ => None,
        }
    }
}

/// OIDs from here on are not PostgreSQL's own.
const USER_OIDS: u32 = 16_384;

fn text(out: &mut Filter, text: &str) {
    out.pieces.push(Piece::Text(text.to_owned()));
}

fn is_comparison(operator: &str) -> bool {
    matches!(operator, "=" | "<>" | "<" | "<=" | ">" | ">=")
}

/// Types whose name in the tree is what PostgreSQL reads, modifiers apart.
fn is_plain_type(name: &str) -> bool {
    matches!(
        name.trim_end_matches("[]"),
        "bigint"
            | "int8"
            | "integer"
            | "int"
            | "int4"
            | "smallint"
            | "int2"
            | "text"
            | "varchar"
            | "numeric"
            | "uuid"
            | "date"
            | "timestamp"
            | "timestamptz"
            | "timestamp with time zone"
            | "timestamp without time zone"
            | "boolean"
            | "bool"
            | "float8"
            | "double precision"
    )
}
