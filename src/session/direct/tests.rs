//! Scripted exchanges: what the client and the server say, and what each of them gets to hear.

mod copy;
mod failing;
mod losing;
mod opening;
mod replay;
mod scene;

use bytes::{BufMut, BytesMut};

use super::*;
use crate::session::{Change, Settings};
use crate::wire::client_message::Target;
use crate::wire::frame::take_frame;
use crate::wire::limits::MESSAGE_BYTES_MAX;
use crate::wire::server_message as server;
use scene::{Connection, Scene, answers, bind_execute, complete, error, parse, query, read};

#[test]
fn a_query_travels_as_it_is_and_the_connection_is_let_go_behind_it() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, query("select /* it */ 1"));
    assert_eq!(connection.heard(), ["Q:select /* it */ 1"]);
    assert!(!scene.machine.may_release());
    assert_eq!(scene.answer(&mut connection, |output| complete(output, "SELECT 1", b'I')), ["C:SELECT 1", "Z:I"]);
    assert!(scene.machine.may_release());
    assert_eq!(connection.pending_ready, 0);
}

#[test]
fn a_transaction_keeps_its_connection() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, query("begin"));
    scene.answer(&mut connection, |output| complete(output, "BEGIN", b'T'));
    assert!(!scene.machine.may_release() && scene.machine.is_idle_in_transaction());
    scene.say(&mut connection, query("rollback"));
    scene.answer(&mut connection, |output| complete(output, "ROLLBACK", b'I'));
    assert!(scene.machine.may_release());
}

#[test]
fn a_statement_is_prepared_again_where_the_schema_may_have_been_changed_back() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, query("begin; savepoint s; create type e as enum ('a')"));
    scene.answer(&mut connection, |output| complete(output, "CREATE TYPE", b'T'));
    let prepare = |name: &'static str| {
        move |output: &mut BytesMut| {
            parse(output, name, "select $1::e");
            client_message::encode_sync(output);
        }
    };
    connection.heard();
    scene.say(&mut connection, prepare("one"));
    assert_eq!(connection.heard(), ["P:os_1.select $1::e", "S"]);
    scene.answer(&mut connection, |output| {
        answers(output, b"1");
        server::write_ready_for_query(output, b'T');
    });
    scene.say(&mut connection, query("rollback to s; create type e as enum ('a')"));
    scene.answer(&mut connection, |output| complete(output, "CREATE TYPE", b'T'));
    connection.heard();
    scene.say(&mut connection, prepare("two"));
    assert_eq!(connection.heard(), ["C:Sos_1", "P:os_1.select $1::e", "S"], "the type is another one now");
}

#[test]
fn a_statement_has_one_name_on_servers_and_is_prepared_where_it_is_missing() {
    let (mut one, mut two) = (Connection::default(), Connection::default());
    let mut scene = Scene::on(PoolMode::Transaction, &mut one);
    scene.say(&mut one, |output| {
        parse(output, "mine", "select 1");
        client_message::encode_sync(output);
    });
    assert_eq!(one.heard(), ["P:os_1.select 1", "S"]);
    let heard = scene.answer(&mut one, |output| {
        answers(output, b"1");
        server::write_ready_for_query(output, b'I');
    });
    assert_eq!(heard, ["1", "Z:I"]);
    scene.machine.detach();
    scene.attach(&mut two);
    scene.say(&mut two, |output| {
        bind_execute(output, "mine");
        client_message::encode_sync(output);
    });
    assert_eq!(two.heard(), ["P:os_1.select 1", "B:os_1", "E", "S"]);
    let heard = scene.answer(&mut two, |output| {
        answers(output, b"12");
        complete(output, "SELECT 1", b'I');
    });
    assert_eq!(heard, ["2", "C:SELECT 1", "Z:I"], "the answer to a Parse of the proxy's own is not shown");
}

#[test]
fn a_text_that_the_connection_has_is_not_sent_again() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    for name in ["a", "b"] {
        scene.say(&mut connection, |output| {
            parse(output, name, "select 1");
            bind_execute(output, name);
            client_message::encode_sync(output);
        });
        let expected: &[&str] =
            if name == "a" { &["P:os_1.select 1", "B:os_1", "E", "S"] } else { &["B:os_1", "E", "S"] };
        assert_eq!(connection.heard(), expected);
        let heard = scene.answer(&mut connection, |output| {
            answers(output, if name == "a" { b"12" } else { b"2" });
            complete(output, "SELECT 1", b'I');
        });
        assert_eq!(heard, ["1", "2", "C:SELECT 1", "Z:I"]);
    }
}

#[test]
fn the_unnamed_statement_lives_from_one_transaction_to_the_next() {
    let (mut one, mut two) = (Connection::default(), Connection::default());
    let mut scene = Scene::on(PoolMode::Transaction, &mut one);
    scene.say(&mut one, |output| {
        parse(output, "", "select 1");
        client_message::encode_sync(output);
    });
    scene.answer(&mut one, |output| {
        answers(output, b"1");
        server::write_ready_for_query(output, b'I');
    });
    scene.machine.detach();
    scene.attach(&mut two);
    scene.say(&mut two, |output| bind_execute(output, ""));
    assert_eq!(two.heard(), ["P:select 1", "B", "E"]);
    scene.say(&mut two, query("select 2"));
    scene.say(&mut two, |output| bind_execute(output, ""));
    assert_eq!(two.heard(), ["Q:select 2", "D:Sos_0", "E"], "a simple query ends it");
}

#[test]
fn an_error_skips_to_sync_and_takes_back_what_was_skipped() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "a", "selec");
        parse(output, "b", "select 1");
        client_message::encode_close(output, &Target::Statement("b".into()));
    });
    connection.heard();
    assert_eq!(scene.answer(&mut connection, |output| error(output, "42601")).len(), 1);
    // What comes before Sync is skipped here: the server skips it, too.
    scene.say(&mut connection, |output| {
        bind_execute(output, "a");
        client_message::encode_sync(output);
    });
    assert_eq!(connection.heard(), ["S"]);
    let heard = scene.answer(&mut connection, |output| server::write_ready_for_query(output, b'I'));
    assert_eq!(heard, ["Z:I"]);
    assert!(scene.machine.may_release() && connection.prepared.is_empty());
    assert!(scene.machine.prepared_texts().is_empty(), "neither statement exists");
}

#[test]
fn an_error_skips_queries_too() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, |output| {
        bind_execute(output, "nobody");
        client_message::encode_query(output, "select 1");
        client_message::encode_sync(output);
    });
    assert_eq!(connection.pending_ready, 2);
    let heard = scene.answer(&mut connection, |output| {
        error(output, "26000");
        server::write_ready_for_query(output, b'I');
    });
    assert!(heard[0].contains("\"nobody\" does not exist") && heard[1] == "Z:I", "{heard:?}");
    assert!(scene.machine.may_release() && connection.pending_ready == 0);
}

#[test]
fn a_deallocate_that_fails_has_not_happened() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "a", "select 1");
        client_message::encode_sync(output);
    });
    scene.answer(&mut connection, |output| {
        answers(output, b"1");
        server::write_ready_for_query(output, b'E');
    });
    scene.say(&mut connection, query("deallocate a"));
    scene.answer(&mut connection, |output| {
        error(output, "25P02");
        server::write_ready_for_query(output, b'E');
    });
    assert_eq!(scene.machine.prepared_texts().len(), 1);
    assert!(!connection.prepared.is_empty() && scene.machine.takes_client());
}

#[test]
fn errors_speak_of_statements_by_the_clients_names() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "mine", "select $1");
        bind_execute(output, "mine");
        client_message::encode_sync(output);
    });
    let heard = scene.answer(&mut connection, |output| {
        answers(output, b"1");
        server::write_error(output, "ERROR", "08P01", "prepared statement \"os_1\" requires 1", None, None);
        server::write_ready_for_query(output, b'I');
    });
    assert!(heard[1].contains("prepared statement \"mine\" requires 1") && heard[2] == "Z:I", "{heard:?}");
}

#[test]
fn answers_of_the_proxy_stand_in_their_place() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "", "select 1");
        client_message::encode_close(output, &Target::Statement("nobody".into()));
        bind_execute(output, "");
        client_message::encode_sync(output);
    });
    let heard = scene.answer(&mut connection, |output| answers(output, b"1"));
    assert_eq!(heard, ["1", "3"]);
}

#[test]
fn settings_go_first_and_what_cannot_be_sure_is_waited_for() {
    let mut settings = Settings::default();
    settings.change(&Change::Set { name: "work_mem".into(), sql: "SET work_mem = '1MB'".into() });
    let mut connection = Connection::default();
    connection.parameters.insert("TimeZone", "UTC");
    let mut scene = Scene::with(PoolMode::Transaction, settings.clone());
    scene.attach(&mut connection);
    assert!(scene.machine.takes_client(), "the client's message travels in the same write");
    scene.say(&mut connection, query("select 1"));
    let heard = connection.heard();
    assert!(heard[0].ends_with("SET work_mem = '1MB'") && heard[1] == "Q:select 1", "{heard:?}");
    let heard = scene.answer(&mut connection, |output| {
        server::write_notice(output, "WARNING", "01000", "of no concern");
        complete(output, "SET", b'I');
        complete(output, "SELECT 1", b'I');
    });
    assert_eq!(heard, ["S:TimeZone.UTC", "C:SELECT 1", "Z:I"]);
    assert_eq!(connection.settings_key, settings.key());

    settings.change(&Change::Set { name: "role".into(), sql: "SET role = x".into() });
    let mut scene = Scene::with(PoolMode::Transaction, settings);
    scene.attach(&mut connection);
    assert!(!scene.machine.takes_client(), "a role may have gone");
    let mut input = BytesMut::new();
    error(&mut input, "42704");
    let mut side = connection.side();
    let pumped = scene.machine.pump(&mut input, &mut side, &scene.host, &mut scene.to_client).unwrap();
    let refused = pumped.refused.unwrap();
    assert!(refused.windows(5).any(|part| part == b"FATAL") && connection.is_poisoned);
}

#[test]
fn what_a_statement_set_is_read_back_and_goes_along() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, query("set work_mem = '5MB'"));
    connection.heard();
    scene.answer(&mut connection, |output| complete(output, "SET", b'I'));
    assert!(!scene.machine.may_release() && !scene.machine.takes_client());
    assert!(connection.heard()[0].contains("current_setting('work_mem', true)"));
    let heard = scene.answer(&mut connection, |output| {
        server::write_data_row(output, &[Some(b"v"), Some(b"work_mem"), Some(b"5MB")]);
        complete(output, "SELECT 1", b'I');
    });
    assert!(heard.is_empty() && scene.machine.may_release());
    assert!(scene.machine.settings.apply_sql().contains("set_config('work_mem', '5MB', false)"));
    assert_eq!(connection.settings_key, scene.machine.settings.key());
}

#[test]
fn a_temporary_table_pins_the_session_until_it_is_gone() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    for (text, pinned) in [("create temp table t (a int)", "true"), ("drop table t", "false")] {
        scene.say(&mut connection, query(text));
        scene.answer(&mut connection, |output| complete(output, "X", b'I'));
        assert!(!scene.machine.may_release());
        scene.answer(&mut connection, |output| {
            server::write_data_row(output, &[Some(b"p"), Some(b""), Some(pinned.as_bytes())]);
            complete(output, "SELECT 1", b'I');
        });
        assert_eq!(scene.machine.may_release(), pinned == "false", "{text}");
    }
}

#[test]
fn what_a_function_left_is_read_back_and_the_next_session_begins_anew() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, query("select my_function(1)"));
    connection.heard();
    let heard = scene.answer(&mut connection, |output| complete(output, "SELECT 1", b'I'));
    assert_eq!(heard, ["C:SELECT 1", "Z:I"], "the client is told at once");
    assert!(!scene.machine.may_release() && !scene.machine.takes_client());
    let asked = connection.heard().remove(0);
    assert!(asked.contains("'app.tenant'") && asked.contains("pg_settings") && asked.contains("'p'"), "{asked}");
    scene.answer(&mut connection, |output| {
        server::write_data_row(output, &[Some(b"v"), Some(b"app.tenant"), Some(b"7")]);
        server::write_data_row(output, &[Some(b"p"), Some(b""), Some(b"false")]);
        complete(output, "SELECT 1", b'I');
    });
    assert!(scene.machine.may_release() && scene.machine.takes_client());
    assert!(scene.machine.settings.apply_sql().contains("set_config('app.tenant', '7', false)"));
    let mut next = Scene::on(PoolMode::Transaction, &mut connection);
    assert!(connection.heard()[0].starts_with("Q:RESET ALL"), "nobody knows all that it has set");
    next.answer(&mut connection, |output| complete(output, "RESET", b'I'));
    assert_eq!(connection.settings_key, next.machine.settings.key());
}

#[test]
fn a_look_that_fails_keeps_the_connection() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, query("set statement_timeout = 1"));
    scene.answer(&mut connection, |output| complete(output, "SET", b'I'));
    let heard = scene.answer(&mut connection, |output| {
        error(output, "57014");
        server::write_ready_for_query(output, b'I');
    });
    assert!(heard.is_empty() && !scene.machine.may_release() && scene.machine.takes_client());
}

#[test]
fn the_last_value_of_a_sequence_is_never_another_sessions() {
    let mut connection = Connection::default();
    for (pid, expected) in [(1, vec!["Q:DISCARD SEQUENCES", "Q:select lastval()"]), (1, vec!["Q:select lastval()"])] {
        let mut scene = Scene::new();
        scene.host.pid.set(pid);
        scene.attach(&mut connection);
        scene.say(&mut connection, query("select lastval()"));
        assert_eq!(connection.heard(), expected);
    }
    let mut scene = Scene::new();
    scene.host.pid.set(2);
    scene.attach(&mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "", "insert into t default values");
        parse(output, "", "select currval('t_id_seq')");
    });
    assert_eq!(connection.heard(), ["P:insert into t default values", "D:Sos_0"], "inside a pipeline it is refused");
}

#[test]
fn what_is_left_of_a_failed_copy_goes_nowhere() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, query("copy t from stdin"));
    scene.answer(&mut connection, |output| {
        error(output, "42P01");
        server::write_ready_for_query(output, b'I');
    });
    connection.heard();
    scene.say(&mut connection, |output| client_message::encode_copy_data(output, b"1\n"));
    assert!(connection.heard().is_empty());
}

#[test]
fn names_of_sql_are_the_servers_names() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, query("prepare p(int) as select $1"));
    assert_eq!(connection.heard(), ["Q:prepare os_1(int) as select $1"]);
    assert!(!scene.machine.takes_client());
    scene.answer(&mut connection, |output| complete(output, "PREPARE", b'I'));
    assert!(scene.machine.may_release() && scene.machine.takes_client());
    scene.machine.detach();
    let mut other = Connection::default();
    scene.attach(&mut other);
    scene.say(&mut other, query("execute p(1)"));
    assert_eq!(other.heard(), ["Q:prepare os_1(int) as select $1", "Q:execute os_1(1)"]);
    let heard = scene.answer(&mut other, |output| {
        complete(output, "PREPARE", b'I');
        complete(output, "SELECT 1", b'I');
    });
    assert_eq!(heard, ["C:SELECT 1", "Z:I"]);
    scene.say(&mut other, query("deallocate all"));
    assert!(!scene.machine.takes_client());
    scene.answer(&mut other, |output| complete(output, "DEALLOCATE ALL", b'I'));
    assert!(other.prepared.is_empty() && scene.machine.takes_client());
    scene.say(&mut other, query("execute p(1)"));
    other.heard();
    let heard = scene.answer(&mut other, |output| {
        error(output, "26000");
        server::write_ready_for_query(output, b'I');
    });
    assert!(heard[0].contains("\"p\" does not exist"), "{heard:?}");
}

#[test]
fn a_statement_whose_columns_have_changed_is_refused_as_postgresql_does() {
    let fields = |name: &'static str| [server::Field::text(name)];
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "a", "select * from t");
        client_message::encode_describe(output, &Target::Statement("a".into()));
        client_message::encode_sync(output);
    });
    scene.answer(&mut connection, |output| {
        answers(output, b"1");
        server::write_parameter_description(output, &[]);
        server::write_row_description(output, &fields("x"));
        server::write_ready_for_query(output, b'I');
    });
    // Drivers that describe the portal instead know the columns as well.
    scene.say(&mut connection, |output| {
        parse(output, "b", "select * from u");
        bind_execute(output, "b");
        client_message::encode_describe(output, &Target::Portal(String::new()));
        client_message::encode_sync(output);
    });
    scene.answer(&mut connection, |output| {
        answers(output, b"12");
        server::write_command_complete(output, "SELECT 0");
        server::write_row_description(output, &fields("x"));
        server::write_ready_for_query(output, b'I');
    });
    assert!(scene.machine.statements.get(b"b").is_some_and(|known| known.is_described_before(99)));
    for (columns, is_refused) in [("x", false), ("y", true)] {
        scene.machine.detach();
        scene.host.schema_changed();
        let mut other = Connection { schema_version: scene.host.schema_version(), ..Connection::default() };
        scene.attach(&mut other);
        let taken = scene.say(&mut other, |output| {
            let mut whole = BytesMut::new();
            bind_execute(&mut whole, "a");
            output.extend_from_slice(&take_frame(&mut whole, MESSAGE_BYTES_MAX).unwrap().unwrap().bytes);
        });
        let Taken::Later(bind) = taken else { panic!("{taken:?}") };
        assert_eq!(other.heard(), ["P:os_1.select * from t", "D:Sos_1", "H"]);
        let heard = scene.answer(&mut other, |output| {
            answers(output, b"1");
            server::write_parameter_description(output, &[]);
            server::write_row_description(output, &fields(columns));
        });
        assert!(heard.is_empty() && scene.machine.takes_client());
        scene.say(&mut other, |output| output.extend_from_slice(&bind.bytes));
        assert_eq!(other.heard(), if is_refused { ["D:Sos_0"] } else { ["B:os_1"] });
    }
}

#[test]
fn a_statement_whose_parameters_have_other_types_now_is_refused_without_a_name_too() {
    let (int4, float8) = (23, 701);
    for name in ["", "a"] {
        for (types, is_refused) in [([int4], false), ([float8], true)] {
            let mut connection = Connection::default();
            let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
            scene.say(&mut connection, |output| {
                parse(output, name, "select x from t where y = $1");
                client_message::encode_describe(output, &Target::Statement(name.into()));
                client_message::encode_sync(output);
            });
            let columns = |output: &mut BytesMut, types: &[u32]| {
                answers(output, b"1");
                server::write_parameter_description(output, types);
                server::write_row_description(output, &[server::Field::text("x")]);
            };
            scene.answer(&mut connection, |output| {
                columns(output, &[int4]);
                server::write_ready_for_query(output, b'I');
            });
            scene.machine.detach();
            scene.host.schema_changed();
            let mut other = Connection { schema_version: scene.host.schema_version(), ..Connection::default() };
            scene.attach(&mut other);
            let taken = scene.say(&mut other, |output| {
                let mut whole = BytesMut::new();
                bind_execute(&mut whole, name);
                output.extend_from_slice(&take_frame(&mut whole, MESSAGE_BYTES_MAX).unwrap().unwrap().bytes);
            });
            let Taken::Later(bind) = taken else { panic!("{taken:?}") };
            other.heard();
            scene.answer(&mut other, |output| columns(output, &types));
            scene.say(&mut other, |output| output.extend_from_slice(&bind.bytes));
            let heard = other.heard().concat();
            assert_eq!(heard.starts_with('B'), !is_refused, "{name:?} {types:?}: {heard}");
        }
    }
}

#[test]
fn a_long_row_is_passed_on_before_it_is_whole() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, query("select big"));
    let mut whole = BytesMut::new();
    server::write_data_row(&mut whole, &[Some(&vec![b'x'; 200_000])]);
    complete(&mut whole, "SELECT 1", b'I');
    let expected = whole.clone();
    let mut heard = BytesMut::new();
    let mut input = BytesMut::new();
    while !whole.is_empty() {
        let part = whole.split_to(whole.len().min(50_000));
        input.put_slice(&part);
        let mut side = connection.side();
        scene.machine.pump(&mut input, &mut side, &scene.host, &mut scene.to_client).unwrap();
        assert!(input.len() < 50_000, "nothing long is kept");
        heard.unsplit(scene.to_client.split());
    }
    assert_eq!(heard, expected);
    assert!(scene.machine.may_release());
}

#[test]
fn a_session_of_its_own_connection_is_left_as_it_is() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Session, &mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "mine", "select 1");
        client_message::encode_sync(output);
    });
    scene.say(&mut connection, query("set work_mem = 1"));
    assert_eq!(connection.heard(), ["P:mine.select 1", "S", "Q:set work_mem = 1"]);
    scene.answer(&mut connection, |output| {
        answers(output, b"1");
        server::write_ready_for_query(output, b'I');
        complete(output, "SET", b'I');
    });
    assert!(!scene.machine.may_release() && scene.machine.needs_reset());
}

#[test]
fn a_fatal_error_reaches_the_client_as_it_is() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, query("select 1"));
    let mut input = BytesMut::new();
    server::write_error(&mut input, "FATAL", "57P01", "terminating connection", None, None);
    let expected = input.clone();
    let mut side = connection.side();
    let pumped = scene.machine.pump(&mut input, &mut side, &scene.host, &mut scene.to_client).unwrap();
    assert!(pumped.is_fatal && scene.to_client == expected && connection.is_poisoned);
}

#[test]
fn notifications_name_the_session_that_sent_them() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    let mut input = BytesMut::new();
    server::write_notification(&mut input, 7, "c", "p");
    let mut side = connection.side();
    scene.machine.pump(&mut input, &mut side, &scene.host, &mut scene.to_client).unwrap();
    let frame = take_frame(&mut scene.to_client, MESSAGE_BYTES_MAX).unwrap().unwrap();
    assert_eq!(server::read_notification(&frame.body()).unwrap().pid, 1_007);
}

#[test]
fn without_a_connection_only_what_needs_none_is_answered() {
    let mut connection = Connection::default();
    let mut scene = Scene::new();
    let close = |output: &mut BytesMut| client_message::encode_close(output, &Target::Statement("x".into()));
    assert!(matches!(scene.say(&mut connection, close), Taken::Done));
    assert!(matches!(scene.say(&mut connection, client_message::encode_sync), Taken::Done));
    assert_eq!(read(&mut scene.to_client), ["3", "Z:I"]);
    assert!(matches!(scene.say(&mut connection, query("select 1")), Taken::NeedsServer(_)));
    assert!(matches!(scene.say(&mut connection, client_message::encode_terminate), Taken::Goodbye));
}

/// A session with `p`, made by SQL's PREPARE on another connection than the one it has now.
fn with_prepared() -> (Scene, Connection) {
    let mut first = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut first);
    scene.say(&mut first, query("prepare p as select 1"));
    scene.answer(&mut first, |output| complete(output, "PREPARE", b'I'));
    scene.machine.detach();
    let mut second = Connection::default();
    scene.attach(&mut second);
    (scene, second)
}

#[test]
fn what_cannot_be_prepared_again_answers_the_execute() {
    let (mut scene, mut connection) = with_prepared();
    scene.say(&mut connection, query("execute p"));
    let heard = scene.answer(&mut connection, |output| {
        error(output, "42P01");
        server::write_ready_for_query(output, b'I');
        error(output, "26000");
        server::write_ready_for_query(output, b'I');
    });
    assert!(heard.len() == 2 && heard[0].contains("42P01"), "{heard:?}");
    assert!(connection.prepared.is_empty());
}

#[test]
fn a_statement_of_sql_is_prepared_within_a_pipeline() {
    let (mut scene, mut connection) = with_prepared();
    scene.say(&mut connection, |output| {
        parse(output, "", "execute p");
        client_message::encode_describe(output, &Target::Statement(String::new()));
        bind_execute(output, "");
    });
    let steps = ["P:os_prepare.prepare os_1 as select 1", "B:os_prepare.os_prepare", "E:os_prepare"];
    let mut expected = steps.to_vec();
    expected.extend(["C:Pos_prepare", "C:Sos_prepare", "P:execute os_1", "D:S", "B", "E", "H"]);
    assert_eq!(connection.heard(), expected);
    let heard = scene.answer(&mut connection, |output| {
        answers(output, b"12");
        server::write_command_complete(output, "PREPARE");
        answers(output, b"331");
        server::write_parameter_description(output, &[]);
        answers(output, b"n2");
    });
    assert_eq!(heard, ["1", "t", "n", "2"]);
    assert!(!scene.machine.takes_client());
    // A portal that is not at its end has answered, too.
    scene.answer(&mut connection, |output| answers(output, b"s"));
    assert!(scene.machine.takes_client());
}

#[test]
fn a_query_of_the_proxys_own_ends_the_unnamed_statement() {
    let mut connection = Connection { unnamed: 7, ..Connection::default() };
    connection.side().query("DEALLOCATE ALL");
    assert_eq!(connection.unnamed, 0);
}
