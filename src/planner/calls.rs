//! Everything a statement calls, and what that means for where it may run.

use super::Subject;
use super::functions::{self, Kind};
use super::sequences;
use super::visit;
use super::walk::Walk;
use crate::error::ClientError;
use crate::sql::ast::{Expr, Statement};

/// What the functions of a statement may do.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// The current time is asked for.
    pub time: Option<String>,
    /// Each call gives another value.
    pub row_local: Option<String>,
    /// The answer depends on the server.
    pub node_local: Option<String>,
    /// nextval and its like.
    pub sequence: Option<String>,
    /// currval and lastval: what a session was given last.
    pub remembered: Option<String>,
    /// SQL is given as text.
    pub by_text: Option<String>,
    /// A user's function that is not immutable, or not known.
    pub user: Option<String>,
    /// Something may happen beside reading.
    pub may_act: bool,
}

impl Calls {
    /// Looks at every call of a statement.
    pub fn of(subject: &Subject<'_>, statement: &Statement) -> Self {
        let mut calls = Self::default();
        visit::every_expr(statement, &mut |expr| calls.note(subject, expr));
        calls
    }

    fn note(&mut self, subject: &Subject<'_>, expr: &Expr) {
        match expr {
            Expr::Function(call) => {
                let name = &call.name.name;
                let noted = match functions::kind(subject.schema, &call.name) {
                    Kind::Time => &mut self.time,
                    Kind::RowLocal => &mut self.row_local,
                    Kind::NodeLocal => {
                        self.may_act |= !is_looking_only(name);
                        &mut self.node_local
                    }
                    Kind::Sequence if sequences::is_remembered(name) => &mut self.remembered,
                    Kind::Sequence => {
                        self.may_act = true;
                        &mut self.sequence
                    }
                    Kind::ReadsByText => {
                        self.may_act = true;
                        &mut self.by_text
                    }
                    Kind::User => {
                        self.may_act = true;
                        &mut self.user
                    }
                    Kind::Aggregate | Kind::Window | Kind::Session | Kind::Plain | Kind::UserImmutable => return,
                };
                noted.get_or_insert_with(|| format!("function {name}()"));
            }
            // The numbers behind these names are each server's own.
            Expr::Cast { type_name, .. } if is_object_type(type_name) => {
                self.node_local.get_or_insert_with(|| format!("type {type_name}"));
            }
            _ => {}
        }
    }

    /// Applies what holds for every statement on several shards. What looks at the server goes to the home shard.
    ///
    /// # Errors
    /// Functions about which nothing can be proved.
    pub fn apply(&self, subject: &Subject<'_>, walk: &mut Walk<'_>) -> Result<(), ClientError> {
        if let Some(user) = &self.user {
            return Err(ClientError::refused(
                format!("{user} is not supported across shards"),
                "It may read any table. Declare it IMMUTABLE if its result depends on its arguments only, or write what it does into the statement.",
            ));
        }
        if let Some(by_text) = &self.by_text {
            return Err(ClientError::refused(
                format!("{by_text} is not supported across shards"),
                "It reads tables named in a string; use a plain query.",
            ));
        }
        if let Some(remembered) = &self.remembered {
            return Err(ClientError::refused(
                format!("{remembered} inside a larger statement is not supported across shards"),
                "Ask for it alone (SELECT currval(...)), or use RETURNING.",
            ));
        }
        if let Some(sequence) = &self.sequence {
            if sequences::are_apart(subject) {
                return Err(ClientError::refused(
                    format!("{sequence} inside a larger statement is not supported across shards"),
                    "Sequences of single tables are on their shards: use SELECT nextval(...) alone.",
                ));
            }
            walk.at_home(sequence);
        }
        if let Some(node_local) = &self.node_local {
            walk.at_home(node_local);
        }
        Ok(())
    }

    /// What makes two shards that do the same come out differently.
    pub fn differs_by_shard(&self) -> Option<&String> {
        self.time.as_ref().or(self.row_local.as_ref()).or(self.node_local.as_ref()).or(self.sequence.as_ref())
    }
}

/// Types whose text names an object of one server's catalog.
fn is_object_type(type_name: &str) -> bool {
    let name = type_name.strip_prefix("pg_catalog.").unwrap_or(type_name);
    matches!(
        name.trim_end_matches("[]"),
        "regclass"
            | "regcollation"
            | "regconfig"
            | "regdictionary"
            | "regnamespace"
            | "regoper"
            | "regoperator"
            | "regproc"
            | "regprocedure"
            | "regrole"
            | "regtype"
    )
}

/// Functions of one server that only look.
fn is_looking_only(name: &str) -> bool {
    const PREFIXES: &[&str] = &[
        "_pg_",
        "aclexplode",
        "col_description",
        "format_type",
        "has_",
        "inet_",
        "obj_description",
        "pg_backend_pid",
        "pg_char_to_encoding",
        "pg_database_size",
        "pg_encoding_to_char",
        "pg_get_",
        "pg_has_role",
        "pg_indexes_size",
        "pg_is_in_recovery",
        "pg_my_temp_schema",
        "pg_options_to_table",
        "pg_partition_",
        "pg_relation_",
        "pg_show_all_settings",
        "pg_stat_get_",
        "pg_table_size",
        "pg_tablespace_",
        "pg_total_relation_size",
        "reg",
        "row_security_active",
        "shobj_description",
        "to_reg",
    ];
    name.ends_with("_is_visible") || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
