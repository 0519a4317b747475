//! Statements that are proved to do nothing but read, and to read the same on a replica: they may go there.
//!
//! Proved means: one SELECT without locks, over tables that the schema knows (a view may call anything), with
//! functions of which each is known to neither write nor look at the server it runs on. Whoever reads the
//! current time or a random number gets the replica's. Must not know: which replicas there are.

use super::functions::{self, Kind};
use super::visit;
use crate::sql::ast::{Expr, ObjectName, Query, SetExpr, Statement, TableRef};
use crate::sql::walk::{Visitor, walk_statement};
use crate::topology::schema::{RelationKind, Schema};

/// Depend on their arguments only, but for being refused on a standby before PostgreSQL 16.
const FAILS_IN_RECOVERY: [&str; 2] = ["pg_walfile_name", "pg_walfile_name_offset"];

/// Whether a statement may run on a replica.
pub fn only_reads(schema: &Schema, statement: &Statement) -> bool {
    if !matches!(statement, Statement::Query(_)) {
        return false;
    }
    let mut sources = Sources { schema, names: Vec::new(), is_proved: true };
    walk_statement(&mut sources, statement);
    let mut is_proved = sources.is_proved;
    visit::every_expr(statement, &mut |expr| is_proved &= is_harmless(schema, expr));
    is_proved
}

/// Where rows come from.
struct Sources<'s> {
    schema: &'s Schema,
    /// Names of WITH queries met so far: outer ones come first.
    names: Vec<String>,
    is_proved: bool,
}

impl Visitor for Sources<'_> {
    fn statement(&mut self, statement: &Statement) {
        self.is_proved &= matches!(statement, Statement::Query(_));
    }

    fn query(&mut self, query: &Query) {
        self.is_proved &= !query.locks && !makes_table(&query.body);
        self.names.extend(query.with.iter().map(|cte| cte.name.clone()));
    }

    fn table(&mut self, table: &TableRef) {
        self.is_proved &= match table {
            TableRef::Table { name, .. } => self.is_known(name),
            TableRef::Subquery { .. } | TableRef::Function { .. } | TableRef::Join { .. } => true,
            TableRef::Other(_) => false,
        };
    }

    fn expr(&mut self, expr: &Expr) {
        self.is_proved &= is_harmless(self.schema, expr);
    }
}

impl Sources<'_> {
    /// Every relation that the name could mean is a table, in whichever schema the search path finds it.
    fn is_known(&self, name: &ObjectName) -> bool {
        // Where the name of a WITH query ends to mean it is not looked into: a table has to be stored all the same.
        let is_named = name.schema.is_none() && self.names.contains(&name.name) && !name.name.starts_with("pg_");
        let is_stored =
            |kind| matches!(kind, RelationKind::Table | RelationKind::Partitioned | RelationKind::MaterializedView);
        let mut meant = self.schema.relations.values().filter(|relation| {
            relation.name.name == name.name && name.schema.as_ref().is_none_or(|schema| *schema == relation.name.schema)
        });
        let Some(first) = meant.next() else { return is_named };
        is_stored(first.kind) && meant.all(|relation| is_stored(relation.kind))
    }
}

/// SELECT INTO.
fn makes_table(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => select.into,
        SetExpr::SetOperation { left, right, .. } => makes_table(left) || makes_table(right),
        SetExpr::Nested(query) => makes_table(&query.body),
        SetExpr::Values(_) => false,
    }
}

fn is_harmless(schema: &Schema, expr: &Expr) -> bool {
    let Expr::Function(call) = expr else { return true };
    if FAILS_IN_RECOVERY.contains(&call.name.name.as_str()) {
        return false;
    }
    match functions::kind(schema, &call.name) {
        Kind::Aggregate | Kind::Window | Kind::Time | Kind::RowLocal | Kind::Session | Kind::Plain => true,
        Kind::UserImmutable => true,
        // A STABLE function may call others that write, and take advisory locks.
        Kind::User | Kind::Sequence | Kind::ReadsByText | Kind::NodeLocal => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sql::{lexer, parse};
    use crate::topology::TableName;
    use crate::topology::schema::{Relation, Volatility};

    fn schema() -> Schema {
        let relation = |name: &str, kind| {
            let name = TableName { schema: "public".to_owned(), name: name.to_owned() };
            let relation = Relation {
                name: name.clone(),
                oid: 1,
                kind,
                columns: Vec::new(),
                unique: Vec::new(),
                foreign_keys: Vec::new(),
                view_reads: Vec::new(),
                view: None,
                parent: None,
                has_triggers: false,
            };
            (name, Arc::new(relation))
        };
        let functions =
            [("pure", Volatility::Immutable), ("steady", Volatility::Stable), ("wild", Volatility::Volatile)];
        Schema {
            relations: [
                relation("t", RelationKind::Table),
                relation("p", RelationKind::Partitioned),
                relation("v", RelationKind::View),
                relation("f", RelationKind::Foreign),
            ]
            .into(),
            functions: functions.map(|(name, volatility)| (name.to_owned(), volatility)).into(),
            ..Schema::default()
        }
    }

    fn is_proved(sql: &str) -> bool {
        let lexed = lexer::lex(sql).unwrap();
        parse::parse(sql, &lexed).is_ok_and(|statement| only_reads(&schema(), &statement))
    }

    #[test]
    fn what_only_reads_tables_is_proved() {
        for sql in [
            "SELECT 1",
            "SELECT * FROM t WHERE id = $1 ORDER BY x LIMIT 3",
            "SELECT count(*), lower(name), now() FROM public.t JOIN p USING (id) GROUP BY 2",
            "WITH w AS (SELECT * FROM t) SELECT * FROM w WHERE EXISTS (SELECT FROM p)",
            "SELECT pure(x) FROM t",
            "SELECT * FROM generate_series(1, 3) g, (SELECT * FROM t) s",
            "SELECT * FROM t UNION ALL SELECT * FROM p",
            "VALUES (1), (2)",
        ] {
            assert!(is_proved(sql), "{sql}");
        }
    }

    #[test]
    fn what_may_do_more_is_not() {
        for sql in [
            "SELECT * FROM t FOR UPDATE",
            "SELECT * FROM (SELECT * FROM t FOR SHARE) s",
            "SELECT nextval('s')",
            "SELECT * FROM t WHERE id = currval('s')",
            "SELECT wild(x) FROM t",
            "SELECT steady(x) FROM t",
            "SELECT unknown_function()",
            "SELECT pg_catalog.setval('s', 1)",
            "SELECT * FROM t FOR NO KEY UPDATE",
            "SELECT * FROM t FOR KEY SHARE",
            "WITH w AS (SELECT * FROM t FOR UPDATE) SELECT * FROM w",
            "SELECT pg_try_advisory_xact_lock_shared(1, 2)",
            "SELECT lo_create(0)",
            "SELECT x FROM t ORDER BY nextval('s')",
            "SELECT count(*) FILTER (WHERE wild(x)) FROM t",
            "SELECT sum(x) OVER (PARTITION BY wild(x)) FROM t",
            "SELECT x FROM t LIMIT nextval('s')",
            "SELECT * FROM t JOIN p ON wild(t.x)",
            "SELECT * FROM t, LATERAL wild(t.x) w",
            "VALUES (nextval('s'))",
            "SELECT * FROM (WITH v AS (SELECT 1) SELECT * FROM v) s, v",
            "SELECT * FROM (WITH pg_locks AS (SELECT 1) SELECT * FROM pg_locks) s, pg_locks",
            "SELECT pg_walfile_name('0/1')",
            "SELECT pg_export_snapshot()",
            "SELECT pg_backend_pid()",
            "SELECT * INTO TEMP u FROM t",
            "SELECT 1 AS x INTO u UNION SELECT 2",
            "CREATE TABLE u AS SELECT * FROM t",
            "CALL wild(1)",
            "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM t",
            "EXPLAIN ANALYZE DELETE FROM t",
            "COPY t TO STDOUT",
            "EXECUTE p",
            "DO $$ BEGIN END $$",
            "SELECT * FROM t WHERE EXISTS (SELECT wild(1))",
            "SELECT * FROM wild(1)",
            "SELECT pg_advisory_lock(1)",
            "SELECT set_config('a.b', 'c', false)",
            "SELECT pg_notify('a', 'b')",
            "SELECT txid_current()",
            "SELECT pg_current_xact_id()",
            "SELECT pg_is_in_recovery()",
            "SELECT query_to_xml('DELETE FROM t', true, true, '')",
            "SELECT * INTO u FROM t",
            "SELECT * FROM v",
            "SELECT * FROM f",
            "SELECT * FROM pg_stat_activity",
            "SELECT * FROM elsewhere.t",
            "WITH w AS (DELETE FROM t RETURNING *) SELECT * FROM w",
            "INSERT INTO t SELECT * FROM t",
            "UPDATE t SET x = 1",
            "EXPLAIN ANALYZE SELECT * FROM t",
            "SHOW ALL",
            "BEGIN",
            "SELECT 1; DELETE FROM t",
        ] {
            assert!(!is_proved(sql), "{sql}");
        }
    }
}
