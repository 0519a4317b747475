//! What a session keeps: settings, SQL-level statements, temporary tables, cursors, listening, locks;
//! and what ends a statement early.

use super::{Exchange, insert};
use crate::frames::{Frame, bind, describe_portal, execute, parse};

/// A Query in another encoding.
fn latin1(sql: &str) -> Frame {
    let mut body: Vec<u8> = sql.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect();
    body.push(0);
    Frame::new(b'Q', body)
}

pub fn exchanges(run: i64) -> Vec<Exchange> {
    [settings(), startup(), statements(run), kept(run), ended()].concat()
}

fn settings() -> Vec<Exchange> {
    vec![
        Exchange::new("settings: SET, SHOW, RESET")
            .query("SET work_mem = '3MB'")
            .query("SHOW work_mem")
            .query("RESET work_mem")
            .query("SHOW work_mem")
            .spans(),
        Exchange::new("settings: those that PostgreSQL reports")
            .query("SET application_name = 'mine'")
            .query("SET TIME ZONE 'Asia/Tokyo'")
            .query("SET DateStyle = 'German'")
            .query("SELECT '2024-02-03'::date, '2024-02-03 12:00:00+00'::timestamptz")
            .query("SET client_encoding = 'latin1'")
            .query("RESET ALL")
            .query("SHOW DateStyle")
            .spans(),
        Exchange::new("settings: SET LOCAL ends with the transaction")
            .query("BEGIN")
            .query("SET LOCAL work_mem = '5MB'")
            .query("SHOW work_mem")
            .query("COMMIT")
            .query("SHOW work_mem")
            .spans(),
        Exchange::new("settings: SET is undone by ROLLBACK")
            .query("SET work_mem = '2MB'")
            .query("BEGIN")
            .query("SET work_mem = '7MB'")
            .query("SAVEPOINT a")
            .query("SET work_mem = '8MB'")
            .query("ROLLBACK TO a")
            .query("SHOW work_mem")
            .query("ROLLBACK")
            .query("SHOW work_mem")
            .spans(),
        Exchange::new("settings: set_config")
            .query("SELECT set_config('work_mem', '6MB', false)")
            .query("SHOW work_mem")
            .query("SELECT set_config('my.own', 'thing', false), current_setting('my.own')")
            .query("SELECT current_setting('my.own', true)")
            .spans(),
        Exchange::new("settings: by message")
            .synced([parse("", "SET work_mem = '9MB'", &[]), bind("", "", &[]), execute("", 0)])
            .synced([parse("", "SHOW work_mem", &[]), bind("", "", &[]), describe_portal(""), execute("", 0)])
            .spans(),
        Exchange::new("settings: wrong ones")
            .query("SET work_mem = 'much'")
            .query("SET no_such_setting = 1")
            .query("SHOW no_such_setting")
            .query("SET max_connections = 5"),
        Exchange::new("settings: search path")
            .query("SET search_path = pg_catalog")
            .query("SELECT current_schemas(true)")
            .query("SELECT count(*) FROM items")
            .query("RESET search_path")
            .query("SELECT name FROM items WHERE id = 7")
            .spans(),
        Exchange::new("settings: DISCARD ALL")
            .query("SET work_mem = '4MB'")
            .synced([parse("kept", "SELECT 1", &[])])
            .query("DISCARD ALL")
            .query("SHOW work_mem")
            .synced([bind("", "kept", &[]), execute("", 0)])
            .spans(),
        Exchange::new("settings: set and read in one message")
            .query("SET work_mem = '2MB'; SHOW work_mem; RESET work_mem; SHOW work_mem"),
        Exchange::new("settings: a failed message undoes them")
            .query("SET work_mem = '2MB'; SELECT 1/0")
            .query("SHOW work_mem")
            .spans(),
    ]
}

fn startup() -> Vec<Exchange> {
    vec![
        Exchange::new("startup: parameters are in force and what RESET returns to")
            .startup("application_name", "starter")
            .startup("search_path", "pg_catalog")
            .startup("statement_timeout", "12345")
            .query("SELECT current_setting('application_name'), current_setting('search_path'), current_setting('statement_timeout')")
            .query("SET statement_timeout = 0")
            .query("RESET statement_timeout")
            .query("SHOW statement_timeout")
            .query("DISCARD ALL")
            .query("SHOW application_name")
            .spans(),
        Exchange::new("startup: options")
            .startup("options", "-c work_mem=3MB -c my.start=ed --timezone=Asia/Tokyo")
            .query("SELECT current_setting('work_mem'), current_setting('my.start'), current_setting('timezone')")
            .query("RESET ALL")
            .query("SHOW work_mem")
            .spans(),
        Exchange::new("startup: reported values")
            .startup("DateStyle", "German")
            .startup("client_encoding", "latin1")
            .startup("TimeZone", "Europe/Berlin")
            .query("SELECT '2024-02-03'::date, chr(228)"),
        Exchange::new("startup: another encoding")
            .startup("client_encoding", "latin1")
            .send([latin1("SELECT 'ä' AS \u{f6}, length('äöü') -- ß")])
            .ready()
            .send([latin1("SELECT name || 'ß' AS n FROM items ORDER BY id LIMIT 3")])
            .ready()
            .send([latin1("SELECT name FROM items WHERE id = 7 AND name <> 'ä'; SELECT nosuch, 'é'")])
            .ready()
            .send([latin1("SELECT n, min('ä' || name COLLATE \"C\") FROM items GROUP BY n ORDER BY n")])
            .ready()
            .send([latin1("SELECT U&'\\20ac'")])
            .ready()
            .spans(),
        Exchange::new("startup: another encoding, changed")
            .startup("client_encoding", "latin1")
            .query("SET client_encoding = 'utf8'")
            .query("SELECT 'ä'")
            .query("RESET client_encoding")
            .query("SHOW client_encoding")
            .query("SET NAMES 'win1251'")
            .query("SELECT name FROM items ORDER BY id")
            .query("SET client_encoding = 'nonsense'")
            .spans(),
    ]
}

fn statements(run: i64) -> Vec<Exchange> {
    vec![
        Exchange::new("sql: PREPARE of a name that is taken, behind results")
            .query("PREPARE taken AS SELECT 1")
            .query("SELECT 1 AS a; PREPARE taken AS SELECT 2; SELECT 3")
            .query("PREPARE other AS SELECT 5; PREPARE taken AS SELECT 2; SELECT 3")
            .query("SELECT 1/0; PREPARE taken AS SELECT 2")
            .query("SELECT 1; EXECUTE nobody; SELECT 2")
            .query("EXECUTE other")
            .query("DEALLOCATE ALL")
            .spans(),
        Exchange::new("sql: PREPARE, EXECUTE, DEALLOCATE")
            .query("PREPARE mine (int) AS SELECT $1 + 1 AS next")
            .query("EXECUTE mine (4)")
            .query("EXECUTE mine (5)")
            .query("DEALLOCATE mine")
            .query("EXECUTE mine (6)")
            .query("DEALLOCATE mine")
            .query("DEALLOCATE ALL")
            .spans(),
        Exchange::new("sql: a statement of one protocol used by the other")
            .synced([parse("shared", "SELECT $1::int * 2 AS double", &[])])
            .query("EXECUTE shared (21)")
            .query("PREPARE other AS SELECT 'by sql' AS how")
            .synced([bind("", "other", &[]), describe_portal(""), execute("", 0)])
            .query("DEALLOCATE shared")
            .synced([bind("", "shared", &[Some("1")])])
            .query("DEALLOCATE ALL")
            .spans(),
        Exchange::new("sql: EXECUTE writes")
            .query(&format!("PREPARE write AS {}", insert(run, [1])))
            .query("EXECUTE write")
            .query("DEALLOCATE write")
            .writes(1, 2)
            .spans(),
        Exchange::new("sql: EXPLAIN").query("EXPLAIN (COSTS off) SELECT 1"),
        Exchange::new("sql: currval right behind nextval").query("SELECT currval('nowhere')").query("SELECT lastval()"),
    ]
}

fn kept(run: i64) -> Vec<Exchange> {
    vec![
        Exchange::new("kept: temporary table")
            .query(&format!("CREATE TEMP TABLE scratch (a int); INSERT INTO scratch VALUES ({run})"))
            .query("SELECT a - a AS zero FROM scratch")
            .query("DROP TABLE scratch")
            .query("SELECT * FROM scratch")
            .spans(),
        Exchange::new("kept: temporary table until the session ends")
            .query("CREATE TEMP TABLE lasting (a int)")
            .query("INSERT INTO lasting VALUES (1), (2)")
            .query("SELECT count(*) FROM lasting")
            .spans(),
        Exchange::new("kept: cursor WITH HOLD")
            .query("BEGIN")
            .query("DECLARE held CURSOR WITH HOLD FOR SELECT g FROM generate_series(1, 6) g")
            .query("FETCH 2 FROM held")
            .query("COMMIT")
            .query("FETCH 2 FROM held")
            .query("SELECT 1")
            .query("FETCH ALL FROM held")
            .query("CLOSE held")
            .query("FETCH held")
            .spans(),
        Exchange::new("kept: LISTEN and NOTIFY")
            .query("LISTEN bell")
            .query("NOTIFY bell, 'ding'")
            .query("SELECT pg_notify('bell', 'dong')")
            .query("BEGIN")
            .query("NOTIFY bell, 'later'")
            .query("SELECT 1")
            .query("COMMIT")
            .query("SELECT pg_listening_channels()")
            .query("UNLISTEN *")
            .query("NOTIFY bell, 'unheard'")
            .spans(),
        Exchange::new("kept: NOTIFY that nobody hears").query("NOTIFY nobody").query("UNLISTEN nobody"),
        Exchange::new("kept: advisory lock of the session")
            .query("SELECT pg_advisory_lock(4711)")
            .query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711")
            .query("SELECT pg_advisory_unlock(4711)")
            .query("SELECT pg_advisory_unlock(4711)")
            .spans(),
        Exchange::new("kept: advisory lock that the session leaves behind")
            .query("SELECT pg_advisory_lock(4712)")
            .query("SELECT 1")
            .spans(),
        Exchange::new("kept: advisory lock of a transaction")
            .query("BEGIN")
            .query("SELECT pg_advisory_xact_lock(4713)")
            .query("COMMIT")
            .spans(),
        Exchange::new("kept: pg_backend_pid among the server's own")
            .query("SELECT count(*) FROM pg_stat_activity WHERE pid = pg_backend_pid()"),
        Exchange::new("kept: pg_backend_pid stays the same within a transaction")
            .query("BEGIN")
            .query("SELECT pg_backend_pid() = pg_backend_pid()")
            .query("COMMIT")
            .spans(),
    ]
}

fn ended() -> Vec<Exchange> {
    vec![
        Exchange::new("ended: statement_timeout")
            .query("SET statement_timeout = 50; SELECT pg_sleep(3)")
            .query("SHOW statement_timeout")
            .spans(),
        Exchange::new("ended: statement_timeout set before")
            .query("SET statement_timeout = 50")
            .query("SELECT pg_sleep(3)")
            .query("SHOW statement_timeout")
            .query("RESET statement_timeout")
            .query("SELECT pg_sleep(0.1)")
            .spans(),
        Exchange::new("ended: cancelled")
            .send([crate::frames::query("SELECT pg_sleep(3)")])
            .cancel()
            .ready()
            .query("SELECT 1")
            .slow(),
        Exchange::new("ended: cancelled by message")
            .send([parse("", "SELECT pg_sleep(3)", &[]), bind("", "", &[]), execute("", 0), crate::frames::sync()])
            .cancel()
            .ready()
            .query("SELECT 1")
            .slow(),
        Exchange::new("ended: cancelled in a transaction")
            .query("BEGIN")
            .send([crate::frames::query("SELECT pg_sleep(3)")])
            .cancel()
            .ready()
            .query("SELECT 1")
            .query("ROLLBACK")
            .spans()
            .slow(),
        Exchange::new("ended: in its own time").query("SELECT pg_sleep(0.1)"),
    ]
}
