//! What is left of names and statements behind an error.

use super::super::*;
use super::scene::{Connection, Scene, answers, bind_execute, complete, error, parse, query};
use crate::wire::client_message;
use crate::wire::server_message as server;

#[test]
fn a_name_that_is_taken_fails_behind_what_is_wrong_with_the_text() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "a", "select 1");
        client_message::encode_sync(output);
    });
    scene.answer(&mut connection, |output| {
        answers(output, b"1");
        server::write_ready_for_query(output, b'I');
    });
    connection.heard();
    for heard_error in ["42703", "42P05"] {
        scene.say(&mut connection, |output| {
            parse(output, "a", "select nothing");
            client_message::encode_sync(output);
        });
        assert_eq!(connection.heard(), ["C:Sos_0", "P:os_0.select nothing", "C:Sos_0", "D:Sos_0", "S"]);
        let heard = scene.answer(&mut connection, |output| {
            if heard_error == "42703" {
                answers(output, b"3");
                error(output, "42703");
            } else {
                answers(output, b"313");
                error(output, "26000");
            }
            server::write_ready_for_query(output, b'I');
        });
        assert!(heard.len() == 2 && heard[0].contains(heard_error) && heard[1] == "Z:I", "{heard:?}");
        assert!(scene.machine.may_release());
    }
}

/// A session whose unnamed statement is `select 1`.
fn with_unnamed(connection: &mut Connection) -> Scene {
    let mut scene = Scene::on(PoolMode::Transaction, connection);
    scene.say(connection, |output| {
        parse(output, "", "select 1");
        client_message::encode_sync(output);
    });
    scene.answer(connection, |output| {
        answers(output, b"1");
        server::write_ready_for_query(output, b'I');
    });
    connection.heard();
    scene
}

#[test]
fn what_is_skipped_leaves_the_unnamed_statement() {
    for skipped in ["Parse", "Query"] {
        let mut connection = Connection::default();
        let mut scene = with_unnamed(&mut connection);
        scene.say(&mut connection, |output| {
            bind_execute(output, "nobody");
            match skipped {
                "Parse" => parse(output, "", "select 2"),
                _ => client_message::encode_query(output, "select 2"),
            }
            client_message::encode_sync(output);
        });
        scene.answer(&mut connection, |output| {
            error(output, "26000");
            server::write_ready_for_query(output, b'I');
        });
        connection.heard();
        scene.say(&mut connection, |output| bind_execute(output, ""));
        assert_eq!(connection.heard(), ["P:select 1", "B", "E"], "{skipped}");
    }
}

#[test]
fn what_comes_behind_the_skipped_messages_is_not_taken_back() {
    let mut connection = Connection::default();
    let mut scene = with_unnamed(&mut connection);
    scene.say(&mut connection, |output| {
        bind_execute(output, "nobody");
        parse(output, "", "select 2");
        client_message::encode_sync(output);
        client_message::encode_query(output, "select 3");
    });
    scene.answer(&mut connection, |output| {
        error(output, "26000");
        server::write_ready_for_query(output, b'I');
        complete(output, "SELECT 1", b'I');
    });
    connection.heard();
    scene.say(&mut connection, |output| bind_execute(output, ""));
    assert_eq!(connection.heard()[0], "D:Sos_0", "the query has ended the unnamed statement");
}

#[test]
fn a_parse_that_fails_has_ended_the_unnamed_statement() {
    let mut connection = Connection::default();
    let mut scene = with_unnamed(&mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "", "selec");
        client_message::encode_sync(output);
    });
    scene.answer(&mut connection, |output| {
        error(output, "42601");
        server::write_ready_for_query(output, b'I');
    });
    connection.heard();
    scene.say(&mut connection, |output| bind_execute(output, ""));
    assert_eq!(connection.heard()[0], "D:Sos_0");
}

#[test]
fn deallocate_all_leaves_the_unnamed_statement() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "a", "select 1");
        parse(output, "", "deallocate all");
        bind_execute(output, "");
    });
    scene.answer(&mut connection, |output| {
        answers(output, b"112");
        server::write_command_complete(output, "DEALLOCATE ALL");
    });
    let left: Vec<_> = scene.machine.prepared_texts().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, [""]);
}

#[test]
fn an_earlier_error_does_not_end_the_wait_for_a_later_query() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, |output| {
        bind_execute(output, "nobody");
        client_message::encode_sync(output);
    });
    scene.say(&mut connection, query("discard all"));
    scene.answer(&mut connection, |output| {
        error(output, "26000");
        server::write_ready_for_query(output, b'I');
    });
    assert!(!scene.machine.takes_client(), "names that it ends are not known yet");
    scene.answer(&mut connection, |output| complete(output, "DISCARD ALL", b'I'));
    scene.answer(&mut connection, |output| complete(output, "SELECT 0", b'I'));
    assert!(scene.machine.takes_client());
}

#[test]
fn a_name_whose_parse_may_be_skipped_is_waited_for_in_the_next_pipeline() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, |output| {
        bind_execute(output, "nobody");
        parse(output, "a", "insert into t values (1)");
        client_message::encode_sync(output);
    });
    let taken = scene.say(&mut connection, |output| {
        let mut whole = bytes::BytesMut::new();
        bind_execute(&mut whole, "a");
        let bind = crate::wire::frame::take_frame(&mut whole, 1_000).unwrap().unwrap();
        output.extend_from_slice(&bind.bytes);
    });
    let Taken::Later(bind) = taken else { panic!("{taken:?}") };
    assert!(!scene.machine.takes_client());
    assert_eq!(connection.heard().last().unwrap(), "H", "nothing of what was sent stays unanswered");
    scene.answer(&mut connection, |output| {
        error(output, "26000");
        server::write_ready_for_query(output, b'I');
    });
    assert!(scene.machine.takes_client());
    connection.heard();
    scene.say(&mut connection, |output| output.extend_from_slice(&bind.bytes));
    assert_eq!(connection.heard(), ["D:Sos_0"], "it does not exist");
}

#[test]
fn a_query_that_is_skipped_brings_nothing_back_over_one_that_was_run() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "", "SELECT 1");
        bind_execute(output, "nobody's");
        client_message::encode_query(output, "SELECT 2");
        client_message::encode_sync(output);
        client_message::encode_query(output, "SELECT 3");
    });
    scene.answer(&mut connection, |output| {
        answers(output, b"1");
        error(output, "26000");
        server::write_ready_for_query(output, b'I');
        complete(output, "SELECT 1", b'I');
    });
    assert_eq!(scene.machine.prepared_text(b""), None, "the last query has thrown it away");
}
