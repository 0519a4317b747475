//! lastval() and currval() of ids that the proxy gave out: no server has them.

use std::collections::BTreeMap;

use super::Session;
use super::values::StatementValues;
use crate::plan::Slot;
use crate::session::Parsed;
use crate::sql::ast::{Call, Expr, SelectItemKind, SetExpr, Statement};
use crate::sql::lexer;
use crate::topology::TableName;
use crate::topology::schema::ColumnDefault;

/// The ids that a session was given last.
#[derive(Debug, Default)]
pub(super) struct LastIds {
    by_sequence: BTreeMap<TableName, i64>,
    last: Option<i64>,
}

impl LastIds {
    /// An id was given out.
    pub(super) fn note(&mut self, sequence: &TableName, value: i64) {
        self.by_sequence.insert(sequence.clone(), value);
        self.last = Some(value);
    }

    /// DISCARD ALL and DISCARD SEQUENCES.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Session {
    /// A text with the same answer, when a statement asks for nothing but an id that the proxy gave out.
    pub(super) fn answered_id(&self, parsed: &Parsed, values: &StatementValues<'_>) -> Option<String> {
        self.ids.last?;
        let Ok(Statement::Query(query)) = &*parsed.statement else { return None };
        let SetExpr::Select(select) = &query.body else { return None };
        let [item] = select.items.as_slice() else { return None };
        let SelectItemKind::Expr { expr, alias } = &item.kind else { return None };
        let is_bare = select.from.is_empty()
            && select.selection.is_none()
            && select.group_by.is_empty()
            && select.having.is_none()
            && !select.into
            && query.with.is_empty()
            && query.limit.is_none()
            && query.offset.is_none();
        let Expr::Function(call) = expr else { return None };
        if !is_bare || !matches!(call.name.schema.as_deref(), None | Some("pg_catalog")) {
            return None;
        }
        let value = match (call.name.name.as_str(), call.args.as_slice()) {
            ("lastval", []) => self.ids.last?,
            ("currval", [argument]) => *self.ids.by_sequence.get(&self.sequence_meant(argument, values)?)?,
            _ => return None,
        };
        let name = alias.as_deref().unwrap_or(&call.name.name).replace('"', "\"\"");
        Some(format!("SELECT ({value})::pg_catalog.int8 AS \"{name}\""))
    }

    fn sequence_meant(&self, argument: &Expr, values: &StatementValues<'_>) -> Option<TableName> {
        match argument {
            Expr::Cast { expr, type_name }
                if matches!(type_name.as_str(), "regclass" | "pg_catalog.regclass" | "text") =>
            {
                self.sequence_meant(expr, values)
            }
            Expr::Function(call) => self.serial_sequence(call, values),
            expr => self.known_name(&text_of(expr, values)?),
        }
    }

    /// A sequence that ids were taken from, by its name as written.
    fn known_name(&self, written: &str) -> Option<TableName> {
        let (schema, name) = read_name(written)?;
        match schema {
            Some(schema) => Some(TableName { schema, name }),
            None => self.search_path.iter().find_map(|schema| {
                let full = TableName { schema: schema.clone(), name: name.clone() };
                self.ids.by_sequence.contains_key(&full).then_some(full)
            }),
        }
    }

    /// `pg_get_serial_sequence('table', 'column')`.
    fn serial_sequence(&self, call: &Call, values: &StatementValues<'_>) -> Option<TableName> {
        let [table, column] = call.args.as_slice() else { return None };
        if call.name.name != "pg_get_serial_sequence" {
            return None;
        }
        let (schema, name) = read_name(&text_of(table, values)?)?;
        let known = self.schema();
        let relation = known.resolve(schema.as_deref(), &name, &self.planning_path())?;
        match &relation.column(&text_of(column, values)?)?.default {
            ColumnDefault::Sequence { sequence, .. } => Some(sequence.clone()),
            _ => None,
        }
    }
}

fn text_of(expr: &Expr, values: &StatementValues<'_>) -> Option<String> {
    match expr {
        Expr::Literal(index) => values.text(&Slot::Literal { index: *index, negative: false }).flatten(),
        Expr::Param(number) => values.text(&Slot::Param(*number)).flatten(),
        Expr::Cast { expr, type_name } if matches!(type_name.as_str(), "text" | "pg_catalog.text") => {
            text_of(expr, values)
        }
        _ => None,
    }
}

/// `name` or `schema.name`, folded and unquoted as PostgreSQL reads it.
fn read_name(written: &str) -> Option<(Option<String>, String)> {
    let lexed = lexer::lex(written).ok()?;
    let name = |token: usize| lexed.identifier(written, token);
    match lexed.tokens.len() {
        1 => Some((None, name(0)?)),
        3 if lexed.is_symbol(written, 1, ".") => Some((Some(name(0)?), name(2)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_postgresql_folds_them() {
        assert_eq!(read_name("Rows_id_seq"), Some((None, "rows_id_seq".into())));
        assert_eq!(read_name("public.\"A b\""), Some((Some("public".into()), "A b".into())));
        assert_eq!(read_name("a b"), None);
    }
}
