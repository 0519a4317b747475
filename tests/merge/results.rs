//! Whole results: the server's answer over all rows against the merge of its answers over each shard's.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use ostrakon::merge::Constant;
use ostrakon::plan::{
    AggregateFunction, AggregateOutput, AggregateSpec, ColumnRef, CompareOperator, Condition, MergeSpec, OrderKey, Slot,
};
use ostrakon::wire::Format;
use ostrakon::wire::value::equality_key;

use crate::support::{Answer, FORMATS, Random, Server, merge, no_constants};
use crate::values::{KINDS, values_list};

const SHARDS: usize = 3;

/// A key on a visible column.
fn key(column: usize, descending: bool, nulls_first: bool) -> OrderKey {
    OrderKey { column: ColumnRef::Visible(column), descending, nulls_first, text_is_bytewise: true }
}

/// The same query for every shard; `$shard` stands for its condition.
fn ask_shards(server: &Server, sql: &str, format: Format) -> Vec<Answer> {
    (0..SHARDS).map(|shard| server.query(&sql.replace("$shard", &format!("n % {SHARDS} = {shard}")), format)).collect()
}

fn ask_whole(server: &Server, sql: &str, format: Format) -> Answer {
    server.query(&sql.replace("$shard", "true"), format)
}

/// A table of one column of each kind in turn.
fn for_each_kind(server: &Server, rows: usize, mut check: impl FnMut(&str, &mut Random)) {
    let mut random = Random::seeded();
    for kind in KINDS {
        let base = kind.sql.replace(" COLLATE \"C\"", "");
        let list = values_list(kind, rows, &mut random);
        server.execute(&format!(
            "DROP TABLE IF EXISTS v; CREATE TABLE v (n int, v {}); INSERT INTO v SELECT n, v::{base} FROM (VALUES {list}) s(n, v)",
            kind.sql
        ));
        check(kind.sql, &mut random);
    }
}

#[test]
fn sorted_results_are_the_servers() {
    let server = Server::start(15_834);
    for_each_kind(&server, 300, |kind, random| {
        for (descending, nulls_first) in [(false, false), (false, true), (true, false), (true, true)] {
            let direction = if descending { "DESC" } else { "ASC" };
            let nulls = if nulls_first { "FIRST" } else { "LAST" };
            let sql = format!("SELECT n, v FROM v WHERE $shard ORDER BY v {direction} NULLS {nulls}, n");
            let spec = MergeSpec {
                order: vec![key(1, descending, nulls_first), key(0, false, false)],
                ..MergeSpec::default()
            };
            for format in FORMATS {
                let limit = [None, Some(random.below(50) as u64)][random.below(2)];
                let offset = random.below(50) as u64;
                let shards = ask_shards(&server, &sql, format);
                let merged = merge(&spec, &shards, limit, offset, &no_constants, random.next()).unwrap();
                let limit_text = limit.map_or("ALL".to_owned(), |limit| limit.to_string());
                let whole = ask_whole(&server, &format!("{sql} LIMIT {limit_text} OFFSET {offset}"), format);
                assert_eq!(merged, whole.rows, "{kind} {format:?} {direction} {nulls}");
            }
        }
    });
}

/// Negative control: a comparator with NULLs on the other side does not pass.
#[test]
fn a_comparator_with_swapped_nulls_does_not_pass() {
    let server = Server::start(15_835);
    let mut caught = 0;
    for_each_kind(&server, 100, |_, random| {
        let sql = "SELECT n, v FROM v WHERE $shard ORDER BY v NULLS FIRST, n";
        let spec = MergeSpec { order: vec![key(1, false, false), key(0, false, false)], ..MergeSpec::default() };
        let shards = ask_shards(&server, sql, Format::Text);
        let seed = random.next();
        let merged = catch_unwind(AssertUnwindSafe(|| merge(&spec, &shards, None, 0, &no_constants, seed)));
        let right = ask_whole(&server, sql, Format::Text).rows;
        caught += usize::from(!matches!(merged, Ok(Ok(rows)) if rows == right));
    });
    assert_eq!(caught, KINDS.len());
}

#[test]
fn distinct_results_are_the_servers() {
    let server = Server::start(15_836);
    for_each_kind(&server, 300, |kind, random| {
        for (order, order_by) in [(vec![], ""), (vec![key(1, false, false)], "ORDER BY v")] {
            for format in FORMATS {
                let sql = format!("SELECT DISTINCT n % 2 AS half, v FROM v WHERE $shard {order_by}");
                let spec = MergeSpec { distinct: true, order: order.clone(), ..MergeSpec::default() };
                let shards = ask_shards(&server, &sql, format);
                let merged = merge(&spec, &shards, None, 0, &no_constants, random.next()).unwrap();
                let whole = ask_whole(&server, &sql, format);
                // Which of several equal values stands for them all is open: compare by equality.
                let canonical = |rows: &[Vec<Option<Vec<u8>>>], column: usize| -> Vec<Option<Vec<u8>>> {
                    let type_oid = whole.fields[column].type_oid;
                    rows.iter()
                        .map(|row| row[column].as_ref().map(|cell| equality_key(type_oid, format, cell).unwrap()))
                        .collect()
                };
                if !order.is_empty() {
                    assert_eq!(canonical(&merged, 1), canonical(&whole.rows, 1), "{kind} {format:?}");
                }
                let set = |rows: &[Vec<Option<Vec<u8>>>]| {
                    let mut set: Vec<_> = canonical(rows, 0).into_iter().zip(canonical(rows, 1)).collect();
                    set.sort();
                    set
                };
                assert_eq!(set(&merged), set(&whole.rows), "{kind} {format:?}");
            }
        }
    });
}

#[test]
fn least_and_greatest_are_the_servers() {
    let server = Server::start(15_837);
    for_each_kind(&server, 200, |kind, random| {
        // There is no min or max of these.
        if ["boolean", "name", "\"char\"", "bytea", "uuid"].contains(&kind) {
            return;
        }
        let sql = "SELECT n % 7 AS k, min(v), max(v), count(v) FROM v WHERE $shard GROUP BY 1";
        let functions = [
            AggregateFunction::Min { text_is_bytewise: true },
            AggregateFunction::Max { text_is_bytewise: true },
            AggregateFunction::Count,
        ];
        let outputs = functions.iter().enumerate();
        let outputs =
            outputs.map(|(at, function)| AggregateOutput { column: ColumnRef::Visible(at + 1), function: *function });
        let spec = MergeSpec {
            aggregate: Some(AggregateSpec {
                groups: vec![ColumnRef::Visible(0)],
                outputs: outputs.collect(),
                having: None,
                order: vec![key(0, false, false)],
            }),
            ..MergeSpec::default()
        };
        for format in FORMATS {
            let shards = ask_shards(&server, sql, format);
            let merged = merge(&spec, &shards, None, 0, &no_constants, random.next()).unwrap();
            let whole = ask_whole(&server, &format!("{sql} ORDER BY 1"), format);
            let canonical = |rows: &[Vec<Option<Vec<u8>>>]| -> Vec<Vec<Option<Vec<u8>>>> {
                let cell = |column: usize, cell: &Option<Vec<u8>>| {
                    cell.as_ref().map(|cell| equality_key(whole.fields[column].type_oid, format, cell).unwrap())
                };
                rows.iter().map(|row| row.iter().enumerate().map(|(at, value)| cell(at, value)).collect()).collect()
            };
            assert_eq!(canonical(&merged), canonical(&whole.rows), "{kind} {format:?}");
        }
    });
}

/// Argument types whose sums are exact in any order: floats are multiples of a quarter.
const SUMMED: &[(&str, &str)] = &[
    ("smallint", "(random() * 1000 - 500)::smallint"),
    ("integer", "(random() * 2e9 - 1e9)::integer"),
    ("bigint", "(random() * 1.8e19 - 9e18)::bigint"),
    ("numeric", "round((random() * 1e6 - 5e5)::numeric, (random() * 6)::int)"),
    (
        "numeric",
        "CASE WHEN random() < 0.02 THEN 'NaN' WHEN random() < 0.02 THEN 'Infinity' ELSE round(random()::numeric, 3) END",
    ),
    ("real", "((random() * 1000)::int / 4.0)::real"),
    ("double precision", "((random() * 1e6)::int / 4.0)::double precision"),
    (
        "double precision",
        "CASE WHEN random() < 0.02 THEN 'NaN' WHEN random() < 0.05 THEN '-Infinity' ELSE 0.5 END::float8",
    ),
];

#[test]
fn sums_and_averages_are_the_servers_byte_for_byte() {
    let server = Server::start(15_838);
    let mut random = Random::seeded();
    server.execute("SELECT setseed(0.25)");
    for (argument, expression) in SUMMED {
        server.execute(&format!(
            "DROP TABLE IF EXISTS v; CREATE TABLE v AS SELECT n, nullif(n % 11, 10) AS k,
                 (CASE WHEN random() < 0.1 OR n % 11 = 9 THEN NULL ELSE {expression} END)::{argument} AS v
             FROM generate_series(1, 900) n"
        ));
        for grouped in [true, false] {
            let (select, group_by) = if grouped { ("k", "GROUP BY k") } else { ("7 AS k", "") };
            let sql = format!("SELECT {select}, count(*), sum(v), avg(v) FROM v WHERE $shard {group_by}");
            let shard_sql =
                format!("SELECT {select}, count(*), sum(v), avg(v), sum(v), count(v) FROM v WHERE $shard {group_by}");
            let average = AggregateFunction::Avg { sum: ColumnRef::Hidden(0), count: ColumnRef::Hidden(1) };
            let functions = [AggregateFunction::Count, AggregateFunction::Sum, average];
            let outputs = functions.iter().enumerate();
            let outputs = outputs
                .map(|(at, function)| AggregateOutput { column: ColumnRef::Visible(at + 1), function: *function });
            let spec = MergeSpec {
                hidden: 2,
                aggregate: Some(AggregateSpec {
                    groups: if grouped { vec![ColumnRef::Visible(0)] } else { vec![] },
                    outputs: outputs.collect(),
                    having: None,
                    order: vec![key(2, true, false), key(0, false, false)],
                }),
                ..MergeSpec::default()
            };
            for format in FORMATS {
                let shards = ask_shards(&server, &shard_sql, format);
                let merged = merge(&spec, &shards, None, 0, &no_constants, random.next()).unwrap();
                let whole = ask_whole(&server, &format!("{sql} ORDER BY sum(v) DESC NULLS LAST, 1"), format);
                assert_eq!(merged, whole.rows, "{argument} {expression} {format:?} {grouped}");
                assert_eq!(merged.len(), if grouped { 11 } else { 1 });
            }
        }
    }
    having_is_the_servers(&server, &mut random);
}

/// HAVING against literals, quoted and not, and parameters.
fn having_is_the_servers(server: &Server, random: &mut Random) {
    use CompareOperator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    server.execute(
        "DROP TABLE v; CREATE TABLE v AS SELECT n, n % 40 AS k, nullif(n % 40, 7) % 5 AS i,
             (n % 3)::numeric / 2 AS d, (n % 4)::real / 10 AS r FROM generate_series(1, 400) n",
    );
    let operators =
        [(Equal, "="), (NotEqual, "<>"), (Less, "<"), (LessOrEqual, "<="), (Greater, ">"), (GreaterOrEqual, ">=")];
    let literals = ["10", "20", "'20'", "'5.0'", "5.0", "0.3", "'0.3'", "-1", "1e1", "NULL"];
    let mut compared = 0;
    for _ in 0..200 {
        let (column, name) = *random.pick(&[(1, "sum(i)"), (2, "sum(d)"), (3, "max(r)"), (4, "count(*)")]);
        let (operator, symbol) = *random.pick(&operators);
        let literal = *random.pick(&literals);
        if literal.contains('.') && literal.contains('\'') && [1, 4].contains(&column) {
            continue;
        }
        let negated = random.below(2) == 0;
        let not = if negated { "NOT" } else { "" };
        let columns = "k, sum(i), sum(d), max(r), count(*)";
        let sql = format!(
            "SELECT {columns} FROM v WHERE $shard GROUP BY k HAVING {not} ({name} {symbol} {literal} OR sum(i) IS NULL) ORDER BY k"
        );
        let compare = Condition::Compare {
            column: ColumnRef::Visible(column),
            operator,
            value: Slot::Literal { index: 0, negative: false },
            text_is_bytewise: false,
        };
        let either = Condition::Or(vec![compare, Condition::IsNull { column: ColumnRef::Visible(1), negated: false }]);
        let functions = [
            AggregateFunction::Sum,
            AggregateFunction::Sum,
            AggregateFunction::Max { text_is_bytewise: false },
            AggregateFunction::Count,
        ];
        let outputs = functions.iter().enumerate();
        let outputs =
            outputs.map(|(at, function)| AggregateOutput { column: ColumnRef::Visible(at + 1), function: *function });
        let spec = MergeSpec {
            aggregate: Some(AggregateSpec {
                groups: vec![ColumnRef::Visible(0)],
                outputs: outputs.collect(),
                having: Some(if negated { Condition::Not(Box::new(either)) } else { either }),
                order: vec![key(0, false, false)],
            }),
            ..MergeSpec::default()
        };
        let constant = match literal.strip_prefix('\'') {
            Some(quoted) => Constant::quoted(Bytes::copy_from_slice(quoted.trim_end_matches('\'').as_bytes())),
            None if literal == "NULL" => Constant::null(),
            None => Constant::number(Bytes::copy_from_slice(literal.as_bytes())),
        };
        let shards =
            ask_shards(server, &format!("SELECT {columns} FROM v WHERE $shard GROUP BY k"), *random.pick(&FORMATS));
        let format = shards[0].fields[0].format;
        let constants = |_: &Slot| Some(constant.clone());
        let merged = merge(&spec, &shards, None, 0, &constants, random.next()).unwrap();
        assert_eq!(merged, ask_whole(server, &sql, format).rows, "{sql}");
        compared += 1;
    }
    assert!(compared > 100);
}
