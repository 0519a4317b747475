//! COPY FROM STDIN with Syncs and other messages among its data.

use bytes::BytesMut;

use super::super::*;
use super::scene::{Connection, Scene, answers, bind_execute, complete, error, parse, query, read};
use crate::wire::client_message;
use crate::wire::server_message as server;
use server::tag;

fn reads(output: &mut BytesMut) {
    server::write_copy_response(output, tag::COPY_IN_RESPONSE, crate::wire::Format::Text, 1);
}

fn ready(output: &mut BytesMut) {
    server::write_ready_for_query(output, b'I');
}

fn data(text: &'static [u8]) -> impl FnOnce(&mut BytesMut) {
    move |output| client_message::encode_copy_data(output, text)
}

/// A pipeline with a COPY that has begun; the client's Sync stands before its data.
fn begun(connection: &mut Connection) -> Scene {
    let mut scene = Scene::on(PoolMode::Transaction, connection);
    scene.say(connection, |output| {
        parse(output, "", "copy t from stdin");
        bind_execute(output, "");
    });
    assert_eq!(connection.heard(), ["P:copy t from stdin", "B", "E", "H"]);
    assert!(!scene.machine.takes_client(), "what comes next may be data");
    scene.answer(connection, |output| {
        answers(output, b"12");
        reads(output);
    });
    assert!(scene.machine.takes_client() && scene.machine.needs_client());
    scene.say(connection, client_message::encode_sync);
    assert_eq!(connection.heard(), ["S"]);
    scene
}

#[test]
fn a_copy_that_succeeds_has_ignored_the_syncs_among_its_data() {
    let mut connection = Connection::default();
    let mut scene = begun(&mut connection);
    scene.say(&mut connection, data(b"1\n"));
    scene.say(&mut connection, client_message::encode_copy_done);
    assert_eq!(connection.heard(), ["d:1", "c", "H"]);
    assert!(!scene.machine.takes_client(), "the outcome decides what the Sync meant");
    assert_eq!(scene.answer(&mut connection, |output| server::write_command_complete(output, "COPY 1")), ["C:COPY 1"]);
    assert!(scene.machine.takes_client() && !scene.machine.may_release());
    scene.say(&mut connection, client_message::encode_sync);
    assert_eq!(scene.answer(&mut connection, ready), ["Z:I"]);
    assert!(scene.machine.may_release() && connection.pending_ready == 0);
}

#[test]
fn a_sync_behind_the_end_of_a_copy_counts() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "", "copy t from stdin");
        bind_execute(output, "");
    });
    scene.answer(&mut connection, |output| {
        answers(output, b"12");
        reads(output);
    });
    scene.say(&mut connection, data(b"1\n"));
    scene.say(&mut connection, client_message::encode_copy_done);
    scene.say(&mut connection, client_message::encode_sync);
    assert_eq!(connection.pending_ready, 1);
    scene.answer(&mut connection, |output| server::write_command_complete(output, "COPY 1"));
    assert!(scene.machine.owes_client() && !scene.machine.may_release());
    scene.answer(&mut connection, ready);
    assert!(scene.machine.may_release());
}

#[test]
fn syncs_that_a_failed_copy_left_unread_count() {
    for (counted, heard_then) in [(0, vec![]), (1, vec!["Z:I"])] {
        let mut connection = Connection::default();
        let mut scene = begun(&mut connection);
        scene.say(&mut connection, data(b"nonsense\n"));
        connection.heard();
        let heard = scene.answer(&mut connection, |output| error(output, "22P02"));
        assert!(heard.len() == 1 && !scene.machine.takes_client(), "{heard:?}");
        assert_eq!(connection.heard(), ["S", "C:Pos_no_portal", "S"]);
        assert!(scene.answer(&mut connection, |output| (0..=counted).for_each(|_| ready(output))).is_empty());
        assert_eq!(scene.answer(&mut connection, |output| answers(output, b"3")), heard_then);
        assert!(scene.answer(&mut connection, ready).is_empty() && scene.machine.takes_client());
        assert_eq!(scene.machine.may_release(), counted == 1, "without a Sync the pipeline is skipped");
        scene.say(&mut connection, data(b"1\n"));
        scene.say(&mut connection, |output| bind_execute(output, ""));
        assert_eq!(connection.heard().is_empty(), counted == 0);
    }
}

#[test]
fn the_end_of_a_simple_copy_and_the_syncs_in_it_are_told_apart() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Session, &mut connection);
    scene.say(&mut connection, query("copy t from stdin"));
    assert!(!scene.machine.takes_client());
    scene.answer(&mut connection, reads);
    scene.say(&mut connection, data(b"nonsense\n"));
    scene.say(&mut connection, client_message::encode_sync);
    scene.answer(&mut connection, |output| error(output, "22P02"));
    let heard = scene.answer(&mut connection, |output| {
        // Of the query, of the client's Sync and of the proxy's own.
        (0..3).for_each(|_| ready(output));
        answers(output, b"3");
        ready(output);
    });
    assert_eq!(heard, ["Z:I", "Z:I"]);
    assert!(scene.machine.takes_client() && scene.machine.is_quiet() && connection.pending_ready == 0);
}

#[test]
fn who_breaks_into_his_own_copy_is_answered_as_by_postgresql() {
    let mut connection = Connection::default();
    let mut scene = begun(&mut connection);
    let taken = scene.say(&mut connection, query("select 1"));
    assert!(matches!(taken, Taken::Later(_)) && !scene.machine.takes_client());
    let sent = connection.heard();
    let reason = sent[0].strip_prefix("f:").unwrap().to_owned();
    let mut input = BytesMut::new();
    server::write_error(&mut input, "ERROR", "57014", &format!("COPY from stdin failed: {reason}"), None, None);
    let mut side = connection.side();
    let pumped = scene.machine.pump(&mut input, &mut side, &scene.host, &mut scene.to_client).unwrap();
    let heard = read(&mut scene.to_client);
    assert!(pumped.is_fatal && connection.is_poisoned && heard.len() == 2, "{heard:?}");
    assert!(heard[0].contains("08P01") && heard[0].contains("unexpected message type 0x51 during COPY"), "{heard:?}");
    assert!(heard[1].contains("FATAL") && heard[1].contains("synchronization was lost"), "{heard:?}");
}

#[test]
fn what_follows_a_copy_that_had_failed_is_served() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, query("copy t from stdin"));
    scene.answer(&mut connection, reads);
    let taken = scene.say(&mut connection, query("select 1"));
    let Taken::Later(frame) = taken else { panic!("{taken:?}") };
    connection.heard();
    let heard = scene.answer(&mut connection, |output| {
        error(output, "22P02");
        ready(output);
    });
    assert!(heard.len() == 2 && scene.machine.takes_client(), "{heard:?}");
    scene.say(&mut connection, |output| output.extend_from_slice(&frame.bytes));
    assert_eq!(connection.heard(), ["Q:select 1"]);
    scene.answer(&mut connection, |output| complete(output, "SELECT 1", b'I'));
    assert!(scene.machine.may_release());
}

#[test]
fn one_text_may_copy_twice() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, query("copy t from stdin; copy t from stdin"));
    for round in 0..2 {
        scene.answer(&mut connection, |output| {
            if round == 1 {
                server::write_command_complete(output, "COPY 0");
            }
            reads(output);
        });
        scene.say(&mut connection, client_message::encode_copy_done);
        assert!(!scene.machine.takes_client());
    }
    scene.answer(&mut connection, |output| complete(output, "COPY 0", b'I'));
    assert!(scene.machine.may_release() && scene.machine.takes_client());
}
