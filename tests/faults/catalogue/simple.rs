//! The simple protocol, and transactions by it.

use super::{Exchange, insert};

pub fn exchanges(run: i64) -> Vec<Exchange> {
    [queries(run), transactions(run)].concat()
}

fn queries(run: i64) -> Vec<Exchange> {
    vec![
        Exchange::new("simple: one row").query("SELECT 1 AS one, 'text' AS two, NULL AS three"),
        Exchange::new("simple: rows of a table").query("SELECT id, name, n FROM items WHERE id = 7"),
        Exchange::new("simple: empty").query("").query(" ;; ").query("-- nothing"),
        Exchange::new("simple: several statements").query("SELECT 1 AS a; SELECT 2 AS b; SELECT 3 AS c"),
        Exchange::new("simple: several, one of them empty").query("SELECT 1 AS a;; SELECT 3 AS c;"),
        Exchange::new("simple: error in the middle")
            .query("SELECT 1 AS a; SELECT 1/0; SELECT 3 AS c")
            .query("SELECT 4"),
        Exchange::new("simple: syntax error").query("SELEC 1").query("SELECT 1"),
        Exchange::new("simple: syntax error among several").query("SELECT 1; SELEC 2; SELECT 3"),
        Exchange::new("simple: places of errors")
            .query("SELECT 'ä' AS a; SELECT 2; SELECT nothing FROM items")
            .query("INSERT INTO ledger (run, part, note) VALUES (1, 2, 'ö'), (1, 3, nothing), (1, 4, 'x')")
            .query("INSERT INTO ledger (run, part, note) VALUES (1, 2, 'x'), ('one', 3, 'x') RETURNING nothing")
            .query("UPDATE items SET n = nothing WHERE n = 77")
            .query("SELECT name, count(nothing) FROM items GROUP BY name ORDER BY 2 LIMIT 3")
            .query("SELECT pg_backend_pid() > 0 AS 'ä'")
            .query("PREPARE p AS SELECT nothing FROM items"),
        Exchange::new("simple: unknown table and column")
            .query("SELECT * FROM nowhere")
            .query("SELECT nothing FROM items"),
        Exchange::new("simple: notices")
            .query("DO $$ BEGIN RAISE NOTICE 'number %', 1; RAISE WARNING 'mind the gap' USING HINT = 'jump'; END $$"),
        Exchange::new("simple: an error with all its fields").query(
            "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '22012', DETAIL = 'd', HINT = 'h', TABLE = 't', \
             COLUMN = 'c', SCHEMA = 's', CONSTRAINT = 'k', DATATYPE = 'y'; END $$",
        ),
        Exchange::new("simple: big result").query("SELECT g, repeat('x', 1500) FROM generate_series(1, 300) g"),
        Exchange::new("simple: big row").query("SELECT repeat('y', 300000)"),
        Exchange::new("simple: error behind rows").query("SELECT 10 / (5 - g) FROM generate_series(1, 9) g"),
        Exchange::new("simple: write").query(&insert(run, [1])).writes(1, 1),
        Exchange::new("simple: write with returning")
            .query(&format!("{} RETURNING part, note", insert(run, [1])))
            .writes(1, 1),
        Exchange::new("simple: several writes in one message")
            .query(&format!("{}; {}; SELECT 1", insert(run, [1]), insert(run, [2])))
            .writes(2, 1),
        Exchange::new("simple: several writes and an error")
            .query(&format!("{}; SELECT 1/0", insert(run, [1])))
            .writes(0, 1),
        Exchange::new("simple: unique violation").query("INSERT INTO items (id, name) VALUES (7, 'again')"),
        Exchange::new("simple: update and delete of nothing")
            .query(&format!("UPDATE ledger SET note = 'y' WHERE run = {run} AND part = 1"))
            .query(&format!("DELETE FROM ledger WHERE run = {run} AND part = 1")),
        Exchange::new("simple: two messages in one write")
            .send([crate::frames::query("SELECT 1 AS a"), crate::frames::query("SELECT 2 AS b")])
            .ready()
            .ready(),
        Exchange::new("simple: DDL there and back")
            .query(&format!("CREATE TABLE made_{run} (id bigint PRIMARY KEY)"))
            .query(&format!("DROP TABLE made_{run}")),
        Exchange::new("simple: function call by fastpath")
            .send([crate::frames::function_call(177, &["20", "22"])])
            .ready()
            .send([crate::frames::function_call(154, &["1", "0"])])
            .ready()
            .send([crate::frames::function_call(999_999, &[])])
            .ready(),
    ]
}

fn transactions(run: i64) -> Vec<Exchange> {
    vec![
        Exchange::new("transaction: read")
            .query("BEGIN")
            .query("SELECT id FROM items WHERE id = 7")
            .query("COMMIT")
            .spans(),
        Exchange::new("transaction: write")
            .query("BEGIN")
            .query(&insert(run, [1]))
            .query(&format!("UPDATE ledger SET note = 'z' WHERE run = {run} AND part = 1"))
            .query("COMMIT")
            .writes(1, 4)
            .spans(),
        Exchange::new("transaction: rolled back")
            .query("BEGIN")
            .query(&insert(run, [1]))
            .query("ROLLBACK")
            .writes(0, 3)
            .spans(),
        Exchange::new("transaction: in one message")
            .query(&format!("BEGIN; {}; COMMIT; SELECT 5 AS five", insert(run, [1])))
            .writes(1, 1)
            .spans(),
        Exchange::new("transaction: opened by the last statement of a message")
            .query(&format!("{}; BEGIN; SELECT 1", insert(run, [1])))
            .query("COMMIT")
            .writes(1, 2)
            .spans(),
        Exchange::new("transaction: failed, then refused, then rolled back")
            .query("BEGIN")
            .query(&insert(run, [1]))
            .query("SELECT 1/0")
            .query("SELECT 1")
            .query("ROLLBACK")
            .query("SELECT 1")
            .writes(0, 5)
            .spans(),
        Exchange::new("transaction: failed, and then nothing of the language")
            .query("BEGIN")
            .query("SELECT 1/0")
            .query("SELEKT 1")
            .query("  SELECT name FROM items WHERE ORDER BY 1")
            .query("SELECT 1; SELECT FROM WHERE; SELECT 2")
            .query("UPDATE items SET")
            .query("CREATE TABL x ()")
            .query("SELECT nothing FROM nowhere")
            .query("ROLLBACK")
            .query("SELECT 1")
            .spans(),
        Exchange::new("transaction: failed behind a savepoint, and then nothing of the language")
            .query("BEGIN")
            .query(&insert(run, [1]))
            .query("SAVEPOINT s")
            .query("SELECT 1/0")
            .query("SELEKT 1")
            .query("ROLLBACK TO s")
            .query("COMMIT")
            .writes(1, 7)
            .spans(),
        Exchange::new("transaction: COMMIT of a failed one")
            .query("BEGIN")
            .query(&insert(run, [1]))
            .query("SELECT nonsense")
            .query("COMMIT")
            .writes(0, 4)
            .spans(),
        Exchange::new("transaction: savepoints")
            .query("BEGIN")
            .query(&insert(run, [1]))
            .query("SAVEPOINT \"a b\"")
            .query("INSERT INTO items (id, name) VALUES (7, 'again')")
            .query("ROLLBACK TO \"a b\"")
            .query(&insert(run, [1]).replace(",1,", ",2,"))
            .query("RELEASE \"a b\"")
            .query("COMMIT")
            .writes(2, 8)
            .spans(),
        Exchange::new("transaction: unknown savepoint")
            .query("BEGIN")
            .query("ROLLBACK TO nowhere")
            .query("ROLLBACK")
            .spans(),
        Exchange::new("transaction: warnings of its commands")
            .query("COMMIT")
            .query("ROLLBACK")
            .query("BEGIN")
            .query("BEGIN")
            .query("ROLLBACK")
            .query("SAVEPOINT s")
            .spans(),
        Exchange::new("transaction: modes")
            .query("BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE")
            .query("SHOW transaction_isolation")
            .query(&insert(run, [1]))
            .query("ROLLBACK")
            .query("SHOW transaction_isolation")
            .writes(0, 4)
            .spans(),
        Exchange::new("transaction: AND CHAIN")
            .query("BEGIN ISOLATION LEVEL REPEATABLE READ")
            .query("SELECT id FROM items WHERE id = 7")
            .query("COMMIT AND CHAIN")
            .query("SHOW transaction_isolation")
            .query("ROLLBACK")
            .spans(),
        Exchange::new("transaction: cursor")
            .query("BEGIN")
            .query("DECLARE c CURSOR FOR SELECT g FROM generate_series(1, 10) g")
            .query("FETCH 3 FROM c")
            .query("MOVE 2 FROM c")
            .query("FETCH ALL FROM c")
            .query("CLOSE c")
            .query("FETCH c")
            .query("ROLLBACK")
            .spans(),
        Exchange::new("transaction: deferred constraint fails the COMMIT")
            .query("BEGIN")
            .query("CREATE TEMP TABLE late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED) ON COMMIT DROP")
            .query("INSERT INTO late VALUES (1), (1)")
            .query(&insert(run, [1]))
            .query("COMMIT")
            .writes(0, 5)
            .spans(),
    ]
}
