//! The extended protocol: statements, portals, errors and what is skipped, pipelines.

use super::{Exchange, insert};
use crate::frames::{
    bind, bind_as, close_portal, close_statement, describe_portal, describe_statement, execute, flush, parse, query,
    sync,
};

const SERIES: &str = "SELECT g FROM generate_series(1, 7) g";

pub fn exchanges(run: i64) -> Vec<Exchange> {
    [statements(run), portals(), errors(run), pipelines(run)].concat()
}

fn statements(run: i64) -> Vec<Exchange> {
    vec![
        Exchange::new("extended: one shot").synced([
            parse("", "SELECT $1::int + 1 AS sum", &[23]),
            bind("", "", &[Some("41")]),
            describe_portal(""),
            execute("", 0),
        ]),
        Exchange::new("extended: without Describe").synced([
            parse("", "SELECT id, name FROM items WHERE id = $1", &[]),
            bind("", "", &[Some("7")]),
            execute("", 0),
        ]),
        Exchange::new("extended: binary results and NULL").synced([
            parse("", "SELECT $1::int8, $2::text, true", &[]),
            bind_as("", "", &[Some("123456789"), None], 1),
            describe_portal(""),
            execute("", 0),
        ]),
        Exchange::new("extended: empty statement").synced([
            parse("", "", &[]),
            describe_statement(""),
            bind("", "", &[]),
            describe_portal(""),
            execute("", 0),
        ]),
        Exchange::new("extended: no rows to describe").synced([
            parse("", "SET application_name = 'quiet'", &[]),
            describe_statement(""),
            bind("", "", &[]),
            describe_portal(""),
            execute("", 0),
        ]),
        Exchange::new("extended: named, used again in later transactions")
            .synced([parse("named", "SELECT name, n FROM items WHERE id = $1", &[20]), describe_statement("named")])
            .synced([bind("", "named", &[Some("3")]), execute("", 0)])
            .query("SELECT 1")
            .synced([bind("", "named", &[Some("4")]), describe_portal(""), execute("", 0)])
            .query("BEGIN")
            .synced([bind("", "named", &[Some("12")]), execute("", 0)])
            .query("COMMIT")
            .synced([close_statement("named")])
            .synced([bind("", "named", &[Some("4")])])
            .spans(),
        Exchange::new("extended: the unnamed statement is used again and replaced")
            .synced([parse("", "SELECT $1::text AS a", &[]), bind("", "", &[Some("1")]), execute("", 0)])
            .synced([bind("", "", &[Some("2")]), execute("", 0)])
            .synced([parse("", "SELECT 2 AS b", &[]), bind("", "", &[]), describe_portal(""), execute("", 0)])
            .query("SELECT 3 AS c")
            .synced([bind("", "", &[]), execute("", 0)])
            .spans(),
        Exchange::new("extended: same text under two names")
            .synced([parse("one", "SELECT 11 AS x", &[]), parse("two", "SELECT 11 AS x", &[])])
            .synced([close_statement("one"), bind("", "two", &[]), execute("", 0)])
            .synced([close_statement("two"), close_statement("two"), close_statement("never")])
            .spans(),
        Exchange::new("extended: a name taken twice")
            .synced([parse("twice", "SELECT 1", &[])])
            .synced([parse("twice", "SELECT 2", &[])])
            .synced([bind("", "twice", &[]), execute("", 0)])
            .synced([
                close_statement("twice"),
                parse("twice", "SELECT 3 AS three", &[]),
                bind("", "twice", &[]),
                execute("", 0),
            ])
            .spans(),
        Exchange::new("extended: write")
            .synced([parse("", &insert(run, [1]), &[]), bind("", "", &[]), execute("", 0)])
            .writes(1, 1),
        Exchange::new("extended: write in a transaction of messages")
            .synced([parse("", "BEGIN", &[]), bind("", "", &[]), execute("", 0)])
            .synced([
                parse("", "INSERT INTO ledger (run, part) VALUES ($1, $2) RETURNING part", &[]),
                bind("", "", &[Some(&run.to_string()), Some("1")]),
                describe_portal(""),
                execute("", 0),
            ])
            .synced([parse("", "COMMIT", &[]), bind("", "", &[]), execute("", 0)])
            .writes(1, 3)
            .spans(),
        Exchange::new("extended: notice").synced([
            parse("", "DO 'BEGIN RAISE NOTICE ''so''; END'", &[]),
            bind("", "", &[]),
            execute("", 0),
        ]),
        Exchange::new("extended: big result").synced([
            parse("", "SELECT g, repeat('x', $1) FROM generate_series(1, 300) g", &[23]),
            bind("", "", &[Some("1500")]),
            describe_portal(""),
            execute("", 0),
        ]),
        Exchange::new("extended: Sync alone").send([sync()]).ready().send([sync(), sync()]).ready().ready(),
        Exchange::new("extended: types of parameters are found out")
            .synced([parse("", "SELECT id FROM items WHERE id = $1 AND name = $2", &[0, 25]), describe_statement("")]),
        Exchange::new("extended: DDL between two uses of a statement")
            .query(&format!("CREATE TABLE shape_{run} (id bigint PRIMARY KEY, a int)"))
            .synced([
                parse("shape", &format!("SELECT * FROM shape_{run} WHERE id = 1"), &[]),
                describe_statement("shape"),
            ])
            .synced([bind("", "shape", &[]), execute("", 0)])
            .query(&format!("DROP TABLE shape_{run}"))
            .synced([bind("", "shape", &[]), execute("", 0)])
            .spans(),
    ]
}

fn portals() -> Vec<Exchange> {
    vec![
        Exchange::new("portal: row limit, suspended, continued").synced([
            parse("", SERIES, &[]),
            bind("", "", &[]),
            describe_portal(""),
            execute("", 3),
            execute("", 3),
            execute("", 3),
            execute("", 3),
        ]),
        Exchange::new("portal: named, continued in a transaction")
            .query("BEGIN")
            .synced([parse("s", SERIES, &[]), bind("p", "s", &[]), execute("p", 2)])
            .synced([execute("p", 2)])
            .query("SELECT 1")
            .synced([execute("p", 0), close_portal("p")])
            .synced([execute("p", 1)])
            .query("ROLLBACK")
            .synced([close_statement("s")])
            .spans(),
        Exchange::new("portal: gone with its transaction")
            .synced([parse("", SERIES, &[]), bind("gone", "", &[]), execute("gone", 2)])
            .synced([execute("gone", 2)]),
        Exchange::new("portal: two at once, interleaved").synced([
            parse("", SERIES, &[]),
            bind("a", "", &[]),
            bind("b", "", &[]),
            execute("a", 2),
            execute("b", 3),
            execute("a", 2),
            execute("b", 0),
            close_portal("a"),
            close_portal("b"),
            close_portal("never"),
        ]),
        Exchange::new("portal: described, closed, flushed")
            .send([parse("", SERIES, &[]), flush()])
            .until(b'1')
            .send([bind("p", "", &[]), describe_portal("p"), flush()])
            .until(b'T')
            .send([execute("p", 2), flush()])
            .until(b's')
            .send([close_portal("p"), flush()])
            .until(b'3')
            .send([sync()])
            .ready(),
        Exchange::new("portal: a name taken twice").synced([
            parse("", SERIES, &[]),
            bind("p", "", &[]),
            bind("p", "", &[]),
            execute("p", 0),
        ]),
        Exchange::new("portal: DECLARE by SQL, read by Execute")
            .query("BEGIN")
            .query("DECLARE c CURSOR FOR SELECT g FROM generate_series(1, 4) g")
            .synced([describe_portal("c"), execute("c", 2)])
            .query("FETCH ALL FROM c")
            .query("COMMIT")
            .spans(),
        Exchange::new("portal: exhausted, executed again").synced([
            parse("", "SELECT 1 AS a", &[]),
            bind("", "", &[]),
            execute("", 0),
            execute("", 0),
        ]),
    ]
}

fn errors(run: i64) -> Vec<Exchange> {
    let go_on = |exchange: Exchange| exchange.query("SELECT 'goes on'");
    vec![
        go_on(Exchange::new("error: at Parse").synced([
            parse("bad", "SELEC 1", &[]),
            bind("", "bad", &[]),
            describe_portal(""),
            execute("", 0),
        ]))
        .query("SELECT 1"),
        go_on(Exchange::new("error: at Bind, text is no number").synced([
            parse("", "SELECT $1::int", &[23]),
            bind("", "", &[Some("many")]),
            describe_portal(""),
            execute("", 0),
        ])),
        go_on(Exchange::new("error: at Bind, too few values").synced([
            parse("", "SELECT $1::int, $2::int", &[]),
            bind("", "", &[Some("1")]),
            execute("", 0),
        ])),
        go_on(Exchange::new("error: at Execute").synced([
            parse("", "SELECT 1 / $1::int", &[]),
            bind("", "", &[Some("0")]),
            describe_portal(""),
            execute("", 0),
            execute("", 0),
        ])),
        go_on(Exchange::new("error: behind rows").synced([
            parse("", "SELECT 10 / (3 - g) FROM generate_series(1, 9) g", &[]),
            bind("", "", &[]),
            execute("", 0),
        ])),
        go_on(Exchange::new("error: unknown statement").synced([bind("", "nobody", &[]), execute("", 0)])),
        go_on(Exchange::new("error: unknown statement described").synced([describe_statement("nobody")])),
        go_on(Exchange::new("error: unknown portal").synced([execute("nobody", 0)])),
        go_on(Exchange::new("error: unknown portal described").synced([describe_portal("nobody")])),
        go_on(Exchange::new("error: unnamed statement is not there").synced([parse("", "SELEC 1", &[])]))
            .synced([bind("", "", &[]), execute("", 0)]),
        go_on(Exchange::new("error: several statements in one Parse").synced([
            parse("", "SELECT 1; SELECT 2", &[]),
            bind("", "", &[]),
            execute("", 0),
        ])),
        go_on(
            Exchange::new("error: answered at Flush, the rest skipped to Sync")
                .send([parse("", "SELECT 1/0", &[]), bind("", "", &[]), execute("", 0), flush()])
                .until(b'E')
                .send([
                    parse("", "SELECT 2", &[]),
                    bind("", "", &[]),
                    execute("", 0),
                    flush(),
                    query("SELECT 'skipped'"),
                    sync(),
                ])
                .ready(),
        ),
        go_on(Exchange::new("error: rolls the writes before it back").synced([
            parse("", &insert(run, [1]), &[]),
            bind("", "", &[]),
            execute("", 0),
            parse("", "SELECT 1/0", &[]),
            bind("", "", &[]),
            execute("", 0),
        ]))
        .writes(0, 1),
        Exchange::new("error: in a transaction by messages")
            .query("BEGIN")
            .synced([parse("kept", "SELECT 5 AS five", &[])])
            .synced([parse("", "SELECT 1/0", &[]), bind("", "", &[]), execute("", 0)])
            .synced([parse("", "SELECT 1", &[]), bind("", "", &[]), execute("", 0)])
            .synced([bind("", "kept", &[]), execute("", 0)])
            .synced([parse("", "ROLLBACK", &[]), bind("", "", &[]), execute("", 0)])
            .synced([bind("", "kept", &[]), execute("", 0)])
            .spans(),
        go_on(Exchange::new("error: constraint, with table and columns").synced([
            parse("", "INSERT INTO items (id, name) VALUES ($1, NULL)", &[]),
            bind("", "", &[Some("1000")]),
            execute("", 0),
        ])),
    ]
}

fn pipelines(run: i64) -> Vec<Exchange> {
    let select = |value: &str| {
        [parse("", &format!("SELECT {value} AS v"), &[]), bind("", "", &[]), describe_portal(""), execute("", 0)]
    };
    let syncs =
        [select("1").to_vec(), vec![sync()], select("2").to_vec(), vec![sync()], select("3").to_vec(), vec![sync()]];
    let broken = [
        select("1").to_vec(),
        select("1/0").to_vec(),
        select("2").to_vec(),
        vec![sync()],
        select("3").to_vec(),
        vec![sync()],
    ];
    let write = |part: usize| [parse("", &insert(run, [part]), &[]), bind("", "", &[]), execute("", 0)];
    vec![
        Exchange::new("pipeline: several Syncs in one write").send(syncs.concat()).ready().ready().ready(),
        Exchange::new("pipeline: an error skips to its Sync only").send(broken.concat()).ready().ready(),
        Exchange::new("pipeline: many statements, one Sync")
            .synced((0..12).flat_map(|n| select(&n.to_string())).collect::<Vec<_>>()),
        Exchange::new("pipeline: writes up to one Sync are one transaction")
            .synced([write(1), write(2), write(3)].concat())
            .writes(3, 1),
        Exchange::new("pipeline: BEGIN to COMMIT in one write")
            .synced(
                [
                    [parse("", "BEGIN", &[]), bind("", "", &[]), execute("", 0)],
                    write(1),
                    write(2),
                    [parse("", "COMMIT", &[]), bind("", "", &[]), execute("", 0)],
                ]
                .concat(),
            )
            .writes(2, 1)
            .spans(),
        Exchange::new("pipeline: simple and extended mixed")
            .send([&[query("SELECT 'q1'")][..], &select("1"), &[sync()], &[query("SELECT 'q2'")]].concat())
            .ready()
            .ready()
            .ready(),
        Exchange::new("pipeline: prepared once, bound often").synced(
            std::iter::once(parse("often", "SELECT name FROM items WHERE id = $1", &[20]))
                .chain((1..=6).flat_map(|id| [bind("", "often", &[Some(&format!("{id}"))]), execute("", 0)]))
                .chain([close_statement("often")])
                .collect::<Vec<_>>(),
        ),
    ]
}
