//! Trees and token ranges of single statements.

use ostrakon::sql::ast::*;
use ostrakon::sql::{Lexed, ParseError, lex, parse};

fn tree(text: &str) -> (Lexed, Statement) {
    let lexed = lex(text).unwrap();
    let statement = parse(text, &lexed).unwrap_or_else(|error| panic!("{error}: {text}"));
    (lexed, statement)
}

fn query(text: &str) -> (Lexed, Query) {
    let (lexed, statement) = tree(text);
    let Statement::Query(query) = statement else { panic!("no query: {text}") };
    (lexed, *query)
}

fn select(text: &str) -> (Lexed, Query, Select) {
    let (lexed, query) = query(text);
    let SetExpr::Select(select) = query.body.clone() else { panic!("no select: {text}") };
    (lexed, query, *select)
}

/// The expression of `SELECT …`.
fn expr(text: &str) -> Expr {
    let (_, _, select) = select(&format!("select ({text})"));
    match select.items.into_iter().next().unwrap().kind {
        SelectItemKind::Expr { expr, .. } => expr,
        other => panic!("{other:?}"),
    }
}

fn column(name: &str) -> Expr {
    Expr::Column { qualifier: Vec::new(), name: name.to_owned() }
}

#[test]
fn clauses_have_their_token_ranges() {
    let text = "SELECT DISTINCT a, b + 1 AS c, t.* FROM t, u WHERE a = 'x' AND b IN (1, 2) \
                GROUP BY a, 2 HAVING count(*) > 1 ORDER BY c DESC NULLS LAST, f(a, b) LIMIT 10 OFFSET 5 FOR UPDATE";
    let (lexed, query, select) = select(text);
    let written = |range: TokenRange| lexed.range_text(text, range).to_owned();
    assert_eq!(written(select.items_tokens), "a, b + 1 AS c, t.*");
    assert_eq!(written(select.from_tokens.unwrap()), "FROM t, u");
    assert_eq!(written(select.where_tokens.unwrap()), "WHERE a = 'x' AND b IN (1, 2)");
    assert_eq!(written(select.group_by_tokens.unwrap()), "GROUP BY a, 2");
    assert_eq!(written(select.having_tokens.unwrap()), "HAVING count(*) > 1");
    assert_eq!(written(select.items[1].tokens.clone()), "b + 1 AS c");
    assert_eq!(written(select.items[1].expr_tokens.clone()), "b + 1");
    assert_eq!(select.items[2].kind, SelectItemKind::QualifiedWildcard("t".to_owned()));
    assert_eq!(written(query.order_by_tokens.unwrap()), "ORDER BY c DESC NULLS LAST, f(a, b)");
    assert_eq!(written(query.limit_tokens.unwrap()), "LIMIT 10 OFFSET 5");
    assert_eq!(written(query.tokens), text);
    assert_eq!(written(query.order_by[0].tokens.clone()), "c");
    assert!(query.order_by[0].descending && query.order_by[0].nulls_first == Some(false));
    assert_eq!(written(query.order_by[1].tokens.clone()), "f(a, b)");
    assert!(query.locks && select.distinct == Distinct::Rows);
    assert_eq!(query.limit, Some(Expr::Literal(6)));
    assert_eq!(select.group_by[1].expr, Expr::Literal(4));
}

#[test]
fn nested_queries_have_their_own_ranges() {
    let text = "select (select max(x) from u where u.id = t.id) from (select * from t order by 1) t \
                where exists (select 1 from v) union all (select 2 from w limit 1)";
    let (lexed, _) = query(text);
    let mut found = Vec::new();
    struct Queries<'f>(&'f mut Vec<TokenRange>);
    impl ostrakon::sql::walk::Visitor for Queries<'_> {
        fn query(&mut self, query: &Query) {
            self.0.push(query.tokens.clone());
        }
    }
    ostrakon::sql::walk::walk_statement(&mut Queries(&mut found), &tree(text).1);
    let found: Vec<&str> = found.into_iter().map(|tokens| lexed.range_text(text, tokens)).collect();
    assert_eq!(
        found,
        [
            text,
            "select max(x) from u where u.id = t.id",
            "select * from t order by 1",
            "select 1 from v",
            "select 2 from w limit 1"
        ]
    );
}

#[test]
fn inserts_have_the_ranges_of_their_rows() {
    let text =
        "insert into s.t (a, b) values (1, f(2, 3)), (default, 'x') on conflict (a) do update set b = 1 returning id";
    let (lexed, statement) = tree(text);
    let Statement::Insert(insert) = statement else { panic!() };
    let written = |range: TokenRange| lexed.range_text(text, range);
    assert_eq!(insert.table, ObjectName { schema: Some("s".into()), name: "t".into() });
    assert_eq!(insert.columns, ["a", "b"]);
    assert_eq!(written(insert.columns_tokens.clone().unwrap()), "(a, b)");
    assert_eq!(lexed.text(text, insert.source_token), "values");
    let InsertSource::Values(rows) = &insert.source else { panic!() };
    assert_eq!(written(rows[0].tokens.clone()), "(1, f(2, 3))");
    assert_eq!(written(rows[0].value_tokens[1].clone()), "f(2, 3)");
    assert_eq!(rows[1].values, [Expr::Default, Expr::Literal(3)]);
    assert_eq!(written(insert.tail_tokens.clone()), "on conflict (a) do update set b = 1 returning id");
    let conflict = insert.on_conflict.unwrap();
    assert_eq!(conflict.target_columns, ["a"]);
    assert_eq!(conflict.assignments[0].columns, ["b"]);
    let (_, Statement::Insert(bare)) = tree("insert into t select 1") else { panic!() };
    assert_eq!((bare.source_token, bare.tail_tokens), (3, 5..5));
}

#[test]
fn operators_bind_as_in_postgresql() {
    // `a <> (b BETWEEN c AND d)`
    let Expr::Binary { operator, left, right } = expr("a <> b between c and d") else { panic!() };
    assert_eq!((operator.as_str(), *left), ("<>", column("a")));
    assert!(matches!(*right, Expr::Other { what: "between", .. }));
    // `NOT (a = b)`, `(a = b) IS NULL`
    assert!(matches!(expr("not a = b"), Expr::Not(_)));
    assert!(matches!(expr("a = b is null"), Expr::IsNull { .. }));
    // `a = (b || c)`, `a = (b IN (1))`
    let Expr::Binary { right, .. } = expr("a = b || c") else { panic!() };
    assert!(matches!(*right, Expr::Binary { .. }));
    let Expr::Binary { right, .. } = expr("a = b in (1)") else { panic!() };
    assert!(matches!(*right, Expr::InList { .. }));
    // `a ~ (b + c)` and `(a ~ b) = c`
    let Expr::Binary { operator, .. } = expr("a ~ b = c") else { panic!() };
    assert_eq!(operator, "=");
    let Expr::Binary { operator, .. } = expr("a ~ b + c") else { panic!() };
    assert_eq!(operator, "~");
    let Expr::Unary { expr: inner, .. } = expr("-a::int") else { panic!() };
    assert!(matches!(*inner, Expr::Cast { .. }));
}

#[test]
fn conjunctions_and_disjunctions_are_flat() {
    let Expr::Or(terms) = expr("a or b and c and (d and e) or (f or g)") else { panic!() };
    assert_eq!(terms.len(), 4);
    assert!(matches!(&terms[1], Expr::And(inner) if inner.len() == 4));
    let Expr::Other { children, .. } = expr("case when a and b or c then d end") else { panic!() };
    assert!(matches!(&children[0], Expr::Or(inner) if inner.len() == 2));
    let long = vec!["a = 1"; 20_000].join(" or ");
    assert!(matches!(expr(&long), Expr::Or(terms) if terms.len() == 20_000));
}

#[test]
fn literals_and_casts_keep_their_indexes() {
    let Expr::Row(terms) =
        expr("'a'\n'b', int '5', $3::bigint, interval '1' day, varchar(10) 'x', cast(7 as s.mood[])")
    else {
        panic!()
    };
    assert_eq!(terms[0], Expr::Literal(0));
    let cast = |expr: Expr, name: &str| Expr::Cast { expr: Box::new(expr), type_name: name.to_owned() };
    assert_eq!(terms[1], cast(Expr::Literal(1), "int"));
    assert_eq!(terms[2], cast(Expr::Param(3), "bigint"));
    assert_eq!(terms[3], cast(Expr::Literal(2), "interval day"));
    assert_eq!(terms[4], cast(Expr::Literal(4), "varchar(10)"));
    assert_eq!(terms[5], cast(Expr::Literal(5), "s.mood[]"));
    assert_eq!(expr("$1::\"char\""), cast(Expr::Param(1), "\"char\""));
}

#[test]
fn members_are_found_whatever_their_form() {
    let Expr::InList { list, negated: true, .. } = expr("a not in (1, $1, -2, 'x'::text)") else { panic!() };
    assert_eq!(list.len(), 4);
    let Expr::InList { expr: left, .. } = expr("(a, b) in ((1, 2), ($1, $2))") else { panic!() };
    assert_eq!(*left, Expr::Row(vec![column("a"), column("b")]));
    let Expr::AnyAll { operator, right, all: false, .. } = expr("a = any($1)") else { panic!() };
    assert_eq!((operator.as_str(), *right), ("=", Expr::Param(1)));
    let Expr::AnyAll { right, .. } = expr("a = any (select b from c)") else { panic!() };
    assert!(matches!(*right, Expr::Subquery(_)));
    assert!(matches!(expr("not exists (select 1)"), Expr::Exists { negated: true, .. }));
    assert!(matches!(expr("a in (select 1)"), Expr::InSubquery { .. }));
    assert!(matches!(expr("array(select 1)"), Expr::Subquery(_)));
}

#[test]
fn calls_keep_their_parts() {
    let Expr::Function(call) = expr("count(distinct a) filter (where b > 0) over (partition by c order by d, e)")
    else {
        panic!()
    };
    assert!(call.distinct && call.filter.is_some());
    let over = call.over.unwrap();
    assert_eq!((over.partition_by.len(), over.others.len()), (1, 2));
    let Expr::Function(call) = expr("percentile_cont(0.5) within group (order by a desc)") else { panic!() };
    assert!(call.within_group && call.order_by[0].descending);
    let Expr::Function(call) = expr("count(*)") else { panic!() };
    assert!(call.star && call.args.is_empty());
    let word = |what: &'static str| Expr::Other { what, children: Vec::new() };
    let call = |text: &str| match expr(text) {
        Expr::Function(call) => (call.name.name, call.args),
        other => panic!("{other:?}"),
    };
    assert_eq!(call("extract(year from d)"), ("extract".into(), vec![word("year"), column("d")]));
    assert_eq!(call("substring(a for b)").1, [column("a"), word("first position"), column("b")]);
    assert_eq!(call("substring(a for b from c)").1, [column("a"), column("c"), column("b")]);
    assert_eq!(call("trim(leading a from b)"), ("ltrim".into(), vec![column("b"), column("a")]));
    assert_eq!(call("trim(a)"), ("btrim".into(), vec![column("a")]));
    assert_eq!(call("position(a in b)").1, [column("b"), column("a")]);
    assert_eq!(call("f(variadic a)").1, [Expr::Other { what: "variadic", children: vec![column("a")] }]);
    let Expr::Function(call) = expr("current_timestamp") else { panic!() };
    assert_eq!(call.name.name, "current_timestamp");
    let Expr::Function(call) = expr("substring(a from 2 for 3)") else { panic!() };
    assert_eq!(call.args.len(), 3);
}

#[test]
fn joins_nest_as_written() {
    let (_, _, select) = select("select * from a join b join c on b.x = c.x on a.x = b.x left join d using (y)");
    let TableRef::Join { left, kind: JoinKind::Left, condition: JoinCondition::Using(columns), .. } = &select.from[0]
    else {
        panic!("{:?}", select.from)
    };
    assert_eq!(columns, &["y"]);
    let TableRef::Join { right, .. } = left.as_ref() else { panic!() };
    assert!(matches!(right.as_ref(), TableRef::Join { .. }));
}

#[test]
fn statements_without_a_tree_are_known_by_kind() {
    use Statement::*;
    let kind = |text: &str| tree(text).1;
    assert_eq!(kind(""), Empty);
    assert_eq!(kind(" /* x */ ;"), Empty);
    assert_eq!(kind("begin isolation level serializable"), Begin);
    assert_eq!(kind("start transaction read only"), Begin);
    assert_eq!(kind("end and chain"), Commit { chain: true });
    assert_eq!(kind("commit work and no chain"), Commit { chain: false });
    assert_eq!(kind("rollback to savepoint \"A-b\""), RollbackTo("A-b".into()));
    assert_eq!(kind("abort"), Rollback { chain: false });
    assert_eq!(kind("release s1"), Release("s1".into()));
    assert_eq!(kind("release savepoint s1"), Release("s1".into()));
    assert_eq!(kind("commit prepared 'x'"), TwoPhase);
    assert_eq!(kind("prepare transaction 'x'"), TwoPhase);
    assert_eq!(kind("set local a.b = 5"), Set { local: true, name: "a.b".into(), value: 6..7 });
    assert_eq!(kind("SET SESSION DateStyle TO ISO, MDY"), Set { local: false, name: "datestyle".into(), value: 4..7 });
    assert_eq!(kind("set time zone 'utc'"), Set { local: false, name: "timezone".into(), value: 3..4 });
    assert_eq!(kind("set names 'utf8'"), Set { local: false, name: "client_encoding".into(), value: 2..3 });
    assert_eq!(kind("set search_path to default"), Set { local: false, name: "search_path".into(), value: 4..4 });
    assert_eq!(
        kind("set session authorization default"),
        Set { local: false, name: "session_authorization".into(), value: 4..4 }
    );
    assert_eq!(kind("set transaction isolation level read committed"), SetTransaction);
    assert_eq!(kind("set session characteristics as transaction read only"), SetSessionCharacteristics);
    assert_eq!(kind("set constraints all deferred"), SetConstraints);
    assert_eq!(kind("reset all"), Reset(None));
    assert_eq!(kind("reset time zone"), Reset(Some("timezone".into())));
    assert_eq!(kind("show transaction isolation level"), Show("transaction isolation level".into()));
    assert_eq!(kind("SHOW ALL"), Show("all".into()));
    assert_eq!(kind("show my.setting"), Show("my.setting".into()));
    assert_eq!(kind("prepare p (int) as select 1"), Prepare { name: "p".into() });
    assert_eq!(kind("execute p(1)"), Execute { name: "p".into() });
    assert_eq!(kind("deallocate all"), Deallocate(None));
    assert_eq!(kind("deallocate prepare p"), Deallocate(Some("p".into())));
    assert_eq!(kind("discard temp"), Discard("temp".into()));
    assert_eq!(kind("fetch forward 5 from c"), Fetch);
    assert_eq!(kind("close all"), Close(None));
    assert_eq!(kind("notify a, 'x'"), Notification);
    assert_eq!(kind("do $$begin end$$"), Do);
    assert!(matches!(kind("declare c no scroll cursor with hold for select 1"), Declare { hold: true, .. }));
    assert!(matches!(kind("truncate table only a, s.b restart identity"), Truncate(names) if names.len() == 2));
    assert!(matches!(kind("lock table a in share mode"), Lock(names) if names.len() == 1));
    assert!(matches!(kind("call s.p(1)"), Call(name) if name.schema.as_deref() == Some("s")));
    assert_eq!(kind("checkpoint"), Other("CHECKPOINT".into()));
    assert!(
        matches!(kind("explain (ostrakon) select 1"), Explain { ostrakon: true, analyze: false, tokens, .. } if tokens == (4..6))
    );
    assert!(matches!(kind("explain (analyze off, verbose) (select 1)"), Explain { analyze: false, .. }));
    assert!(matches!(kind("explain analyze verbose insert into t values (1)"), Explain { analyze: true, .. }));
    assert!(matches!(kind("explain (select 1)"), Explain { ostrakon: false, .. }));
}

fn ddl(text: &str) -> (String, String, Vec<String>, bool) {
    let Statement::Ddl(ddl) = tree(text).1 else { panic!("{text}") };
    let name = |name: ObjectName| name.schema.map_or(String::new(), |schema| schema + ".") + &name.name;
    (ddl.verb, ddl.object, ddl.names.into_iter().map(name).collect(), ddl.outside_transaction)
}

#[test]
fn ddl_names_its_objects() {
    let check = |text: &str, verb: &str, object: &str, names: &[&str], outside: bool| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(ddl(text), (verb.to_owned(), object.to_owned(), names, outside), "{text}");
    };
    check("create table if not exists s.t (a int references u)", "CREATE", "TABLE", &["s.t"], false);
    check("create unique index concurrently if not exists i on only s.t (a)", "CREATE", "INDEX", &["s.t"], true);
    check("create index on t (a)", "CREATE", "INDEX", &["t"], false);
    check("drop table if exists a, s.b cascade", "DROP", "TABLE", &["a", "s.b"], false);
    check("drop index concurrently i", "DROP", "INDEX", &["i"], true);
    check("drop function f(int), g", "DROP", "FUNCTION", &["f", "g"], false);
    check("drop trigger x on t", "DROP", "TRIGGER", &["t"], false);
    check("alter table if exists only t add column a int", "ALTER", "TABLE", &["t"], false);
    check("alter system set a = 1", "ALTER", "SYSTEM", &[], true);
    check("alter type mood add value 'x'", "ALTER", "TYPE", &["mood"], false);
    check("create database d", "CREATE", "DATABASE", &["d"], true);
    check("create or replace view v as select 1", "CREATE", "VIEW", &["v"], false);
    check("create constraint trigger x after insert on t execute function f()", "CREATE", "TRIGGER", &["t"], false);
    check("create rule r as on insert to s.t do instead nothing", "CREATE", "RULE", &["s.t"], false);
    check("create policy p on t", "CREATE", "POLICY", &["t"], false);
    check("comment on column s.t.c is 'x'", "COMMENT", "COLUMN", &["s.t"], false);
    check("comment on column t.c is 'x'", "COMMENT", "COLUMN", &["t"], false);
    check("comment on table t is 'x'", "COMMENT", "TABLE", &["t"], false);
    check("grant select on a, b to r", "GRANT", "TABLE", &["a", "b"], false);
    check("grant select on all tables in schema s to r", "GRANT", "SCHEMA", &["s"], false);
    check("grant r to s", "GRANT", "ROLE", &[], false);
    check("refresh materialized view concurrently v", "REFRESH", "MATERIALIZED VIEW", &["v"], false);
    check("reindex table concurrently t", "REINDEX", "TABLE", &["t"], true);
    check("reindex (verbose, concurrently) index i", "REINDEX", "INDEX", &["i"], true);
    check("vacuum (full, analyze) a (b, c), d", "VACUUM", "", &["a", "d"], true);
    check("vacuum analyze pgbench_branches", "VACUUM", "", &["pgbench_branches"], true);
    check("analyze", "ANALYZE", "", &[], false);
    check("cluster", "CLUSTER", "", &[], true);
    check("create subscription s connection 'x' publication p", "CREATE", "SUBSCRIPTION", &["s"], true);
    check("create publication p for table a, b", "CREATE", "PUBLICATION", &["p"], false);
    check("create statistics st on a, b from t", "CREATE", "STATISTICS", &["st"], false);
    check("create extension if not exists pgcrypto", "CREATE", "EXTENSION", &["pgcrypto"], false);
    check("create foreign table f (a int) server s", "CREATE", "FOREIGN TABLE", &["f"], false);
    let Statement::Ddl(table) = tree("create temp table x on commit drop as select a from t with no data").1 else {
        panic!()
    };
    assert!(table.temporary && table.query.is_some());
}

#[test]
fn copy_options_are_read_in_both_syntaxes() {
    let copy = |text: &str| match tree(text).1 {
        Statement::Copy(copy) => *copy,
        other => panic!("{other:?}"),
    };
    let plain = copy("copy pgbench_accounts from stdin with (freeze on)");
    assert!(plain.from && plain.is_client && plain.options.freeze && plain.options.format == CopyFormat::Text);
    assert_eq!((plain.options.delimiter, plain.options.null.as_str()), (b'\t', "\\N"));
    let csv = copy("COPY s.t (a, b) FROM STDIN WITH (FORMAT csv, HEADER, QUOTE '''', DELIMITER E'\\t', NULL 'x')");
    let options = csv.options;
    assert!(options.format == CopyFormat::Csv && options.header);
    assert_eq!((options.quote, options.escape, options.delimiter), (b'\'', b'\'', b'\t'));
    assert_eq!(options.null, "x");
    let CopySource::Table { name, columns, columns_tokens, name_tokens } = csv.source else { panic!() };
    assert_eq!((name.name.as_str(), columns.len(), columns_tokens, name_tokens), ("t", 2, Some(4..9), 1..4));
    let old = copy("COPY t FROM stdin CSV HEADER DELIMITER AS ';' NULL AS '' FORCE NOT NULL a, b");
    assert!(old.options.header && old.options.force_null && old.options.delimiter == b';');
    assert_eq!(copy("copy binary t to stdout").options.format, CopyFormat::Binary);
    assert_eq!(copy("copy t to stdout (format 'binary')").options.format, CopyFormat::Binary);
    let filtered = copy("copy t from stdin where a > 1");
    assert!(filtered.has_where);
    assert!(!copy("copy t from '/tmp/x'").is_client);
    assert!(matches!(copy("copy (select * from t) to stdout").source, CopySource::Query(_)));
    assert!(!copy("copy t from stdin (header off)").options.header);
    assert!(copy("copy t from stdin (format csv, header match)").options.header);
}

#[test]
fn what_is_not_understood_is_refused() {
    for text in [
        "select",
        "select a from",
        "select a where",
        "select * from t where (a = 1",
        "select a b c",
        "select * from t group by",
        "select (select 1",
        "insert into t",
        "update t where a = 1",
        "select case when a then b",
        "select a from t limit 1 limit",
        "select f(",
        "select 1 +",
        "select * from a join b",
        "select xmlelement(name foo)",
        "select a is nfc normalized",
        "select extract(foo from d)",
    ] {
        let lexed = lex(text).unwrap();
        let result = parse(text, &lexed);
        assert!(matches!(result, Err(ParseError::Unsupported { .. })) || text == "select", "{text}: {result:?}");
    }
}

#[test]
fn deep_and_long_statements_are_bounded() {
    for text in [
        format!("select {}1{}", "(".repeat(10_000), ")".repeat(10_000)),
        format!("select {}1{}", "(".repeat(50), ")".repeat(50)),
        format!("select {}1{}", "f(".repeat(49), ")".repeat(49)),
        format!("select {}1{}", "(select ".repeat(49), ")".repeat(49)),
        format!("select {}1{}", "a + (".repeat(49), ")".repeat(49)),
        format!("select {}1{}", "a in (select b from c where ".repeat(48), ")".repeat(48)),
        format!("select {}1{}", "case when 1 then ".repeat(5_000), " end".repeat(5_000)),
        format!("select {}1", "- ".repeat(5_000)),
        format!("select {}1", "not ".repeat(5_000)),
        format!("select 1{}", " + 1".repeat(5_000)),
        format!("select 1{}", " || 1".repeat(450)),
        format!("select 1{}", "::int".repeat(450)),
        format!("select 1{}", " union select 1".repeat(5_000)),
        format!("select 1{}", " union select 1".repeat(290)),
        format!("select * from a{}", " join b on true".repeat(5_000)),
        format!("select * from a{}", " join b on true".repeat(290)),
        format!("select * from a{}", " join b".repeat(5_000)),
        format!("select {}1", "a in (1) and ".repeat(5_000)),
        format!("select {}1", "case ".repeat(50_000)),
        format!("select {}1", "not a between 1 and ".repeat(5_000)),
        format!("select 1 from t where a in ({}1)", "1, ".repeat(100_000)),
        format!("insert into t values {}(1, 2)", "(1, 'x', $1), ".repeat(20_000)),
    ] {
        let lexed = lex(&text).unwrap();
        let statement = parse(&text, &lexed);
        if let Ok(statement) = &statement {
            let copy = statement.clone();
            assert_eq!(&copy, statement);
            ostrakon::sql::walk::for_each_expr(statement, |_| {});
        }
    }
}
