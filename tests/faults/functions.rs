//! What functions leave in a session without a word of it in the statement that calls them.

use crate::frames::{Frame, Wire};
use crate::world::World;

const FUNCTIONS: [&str; 3] = [
    "CREATE FUNCTION leave_settings() RETURNS int LANGUAGE plpgsql AS $$ BEGIN \
       PERFORM set_config('app.tenant', '7', false); PERFORM set_config('app.' || 'hidden', 'x', false); \
       SET work_mem = '7MB'; RETURN 1; END $$",
    "CREATE FUNCTION leave_table() RETURNS int LANGUAGE plpgsql AS $$ BEGIN \
       CREATE TEMP TABLE left_here (a int); RETURN 1; END $$",
    "CREATE FUNCTION take_table() RETURNS int LANGUAGE plpgsql AS $$ BEGIN DROP TABLE left_here; RETURN 1; END $$",
];

const LOOK: &str = "SELECT coalesce(current_setting('app.tenant', true), ''), \
    coalesce(current_setting('app.hidden', true), ''), current_setting('work_mem')";

fn ask(session: &mut Wire, sql: &str) -> Vec<String> {
    let frames = session.simple(sql).unwrap();
    assert!(frames.iter().all(|frame| frame.tag != b'E'), "{sql}: {frames:?}");
    frames.iter().find(|frame| frame.tag == b'D').map(Frame::texts).unwrap_or_default()
}

/// One server connection for all sessions.
fn world() -> World {
    let mut world = World::start(1, "size = 1");
    let mut session = Wire::app(world.port(), "app").unwrap();
    for sql in FUNCTIONS {
        ask(&mut session, sql);
    }
    drop(session);
    // What functions name is read when the product starts, and every few seconds.
    world.restart();
    world
}

#[test]
fn settings_of_a_function_are_its_sessions_and_nobody_elses() {
    let world = world();
    let mut one = Wire::app(world.port(), "app").unwrap();
    let mut two = Wire::app(world.port(), "app").unwrap();
    ask(&mut one, "SELECT leave_settings()");
    for _ in 0..2 {
        assert_eq!(ask(&mut two, LOOK), ["", "", "4MB"], "another session's");
        let own = ask(&mut one, LOOK);
        assert_eq!((own[0].as_str(), own[2].as_str()), ("7", "7MB"), "the session's own");
    }
}

#[test]
fn a_temporary_table_of_a_function_keeps_the_connection() {
    let mut world = world();
    let mut one = Wire::app(world.port(), "app").unwrap();
    ask(&mut one, "SELECT leave_table()");
    assert_eq!(ask(&mut one, "SELECT count(*) FROM left_here"), ["0"]);
    assert_eq!(world.busy(), "1 used, 0 waiting");
    ask(&mut one, "SELECT take_table()");
    let mut two = Wire::app(world.port(), "app").unwrap();
    assert_eq!(ask(&mut two, "SELECT count(*) FROM items WHERE false"), ["0"]);
}

#[test]
fn temporary_objects_of_rare_kinds_keep_the_connection() {
    for (make, end) in [
        ("CREATE STATISTICS pg_temp.s ON id, n FROM items", "DROP STATISTICS pg_temp.s"),
        ("CREATE COLLATION pg_temp.c FROM \"C\"", "DROP COLLATION pg_temp.c"),
    ] {
        let mut world = World::start(1, "size = 2");
        let mut one = Wire::app(world.port(), "app").unwrap();
        ask(&mut one, make);
        assert_eq!(world.busy(), "1 used, 0 waiting", "{make}");
        ask(&mut one, end);
        assert_eq!(world.idles(), None, "{end}");
    }
}
