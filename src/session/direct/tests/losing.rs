//! Connections that are lost under a session, and what it keeps for that.

use bytes::BytesMut;

use super::scene::{Connection, Scene, answers, bind_execute, complete, error, parse, query, read};
use crate::error::{ClientError, ErrorId};
use crate::session::direct::{Loss, Settling, Xid, lost_transaction};
use crate::wire::client_message as client;
use crate::wire::server_message as server;

/// A session on a connection that may be lost.
fn guarded(connection: &mut Connection) -> Scene {
    let mut scene = Scene::new();
    scene.machine.guard(true);
    scene.attach(connection);
    connection.heard();
    scene
}

fn xid_row(output: &mut BytesMut, xid: Option<&str>) {
    answers(output, b"2");
    server::write_data_row(output, &[xid.map(str::as_bytes)]);
    server::write_command_complete(output, "SELECT 1");
}

fn settle(scene: &mut Scene, settling: &Settling<'_>) -> (Vec<u8>, Vec<String>) {
    let again = scene.machine.settle(settling, &scene.host, &mut scene.to_client);
    (again.iter().map(|frame| frame.tag).collect(), read(&mut scene.to_client))
}

#[test]
fn a_write_tells_its_id_before_it_is_committed() {
    let mut connection = Connection::default();
    let mut scene = guarded(&mut connection);
    scene.say(&mut connection, query("INSERT INTO a VALUES (1)"));
    let heard: String = connection.heard().iter().map(|message| message.chars().next().unwrap()).collect();
    assert_eq!(heard, "PPBDEBEHS", "the question's own Parse, then the write, the question and a flush");
    let told = scene.answer(&mut connection, |output| {
        answers(output, b"112n");
        server::write_command_complete(output, "INSERT 0 1");
        xid_row(output, Some("77"));
    });
    assert_eq!(told, Vec::<String>::new(), "nothing is told before it is committed");
    assert!(scene.machine.is_committing(), "no cancel request may reach it now");
    assert_eq!(scene.machine.loss(), Loss::Commit { xid: Xid::Known(Some(77)), may_repeat: true });
    let told = scene.answer(&mut connection, |output| server::write_ready_for_query(output, b'I'));
    assert_eq!(told, ["C:INSERT 0 1", "Z:I"]);
    assert_eq!(scene.machine.loss(), Loss::Nothing);
    scene.say(&mut connection, query("INSERT INTO a VALUES (2)"));
    assert_eq!(connection.heard().len(), 8, "it is prepared once");
    assert_eq!(scene.machine.loss(), Loss::Commit { xid: Xid::Asked, may_repeat: true });
    let (again, told) = settle(&mut scene, &Settling::Again);
    assert_eq!((again.as_slice(), told.len()), ([b'Q'].as_slice(), 0));
    assert!(!scene.machine.is_attached() && scene.machine.is_quiet());
}

#[test]
fn a_commit_that_came_over_is_answered_as_one() {
    let mut connection = Connection::default();
    let mut scene = guarded(&mut connection);
    scene.say(&mut connection, query("BEGIN ISOLATION LEVEL SERIALIZABLE"));
    scene.answer(&mut connection, |output| complete(output, "BEGIN", b'T'));
    scene.say(&mut connection, query("INSERT INTO a VALUES (1)"));
    assert_eq!(scene.machine.loss(), Loss::Transaction);
    scene.answer(&mut connection, |output| complete(output, "INSERT 0 1", b'T'));
    connection.heard();
    scene.say(&mut connection, query("COMMIT"));
    let heard = connection.heard();
    assert_eq!(heard.last().map(String::as_str), Some("Q:COMMIT"));
    let told = scene.answer(&mut connection, |output| {
        answers(output, b"1");
        xid_row(output, Some("78"));
        server::write_ready_for_query(output, b'T');
    });
    assert_eq!(told, Vec::<String>::new());
    assert_eq!(scene.machine.loss(), Loss::Commit { xid: Xid::Known(Some(78)), may_repeat: false });
    assert_eq!(settle(&mut scene, &Settling::Done), (vec![], vec!["C:COMMIT".to_owned(), "Z:I".to_owned()]));
    assert_eq!(scene.machine.status(), b'I');
}

#[test]
fn a_transaction_that_is_lost_has_failed_until_its_end() {
    let mut connection = Connection::default();
    let mut scene = guarded(&mut connection);
    scene.say(&mut connection, query("BEGIN ISOLATION LEVEL SERIALIZABLE"));
    scene.answer(&mut connection, |output| complete(output, "BEGIN", b'T'));
    scene.say(&mut connection, query("SELECT 1"));
    assert_eq!(scene.machine.loss(), Loss::Transaction);
    let (_, told) = settle(&mut scene, &Settling::Failed(&lost_transaction()));
    assert!(told[0].contains("40001") && told[1] == "Z:E", "{told:?}");
    scene.say(&mut connection, query("ROLLBACK"));
    assert_eq!(read(&mut scene.to_client), ["C:ROLLBACK", "Z:I"], "no server is needed for that");
    // While it was idle, the next statement is told, whatever it is.
    for (statement, status) in [("SELECT 1", "Z:E"), ("COMMIT", "Z:I")] {
        let mut connection = Connection::default();
        let mut scene = guarded(&mut connection);
        scene.say(&mut connection, query("BEGIN ISOLATION LEVEL SERIALIZABLE"));
        scene.answer(&mut connection, |output| complete(output, "BEGIN", b'T'));
        assert_eq!(scene.machine.loss(), Loss::Nothing);
        assert_eq!(settle(&mut scene, &Settling::Quietly), (vec![], vec![]));
        scene.say(&mut connection, query(statement));
        let told = read(&mut scene.to_client);
        assert!(told[0].contains("40001") && told[1] == status, "{statement}: {told:?}");
    }
}

#[test]
fn nothing_is_under_way_behind_a_copy() {
    let mut connection = Connection::default();
    let mut scene = guarded(&mut connection);
    scene.say(&mut connection, query("COPY a FROM STDIN"));
    scene.answer(&mut connection, |output| output.extend_from_slice(b"G\0\0\0\x09\0\0\x01\0\0"));
    scene.say(&mut connection, |output| {
        client::encode_copy_data(output, b"1\n");
        client::encode_copy_done(output);
    });
    assert_eq!(scene.machine.loss(), Loss::Unknown);
    scene.answer(&mut connection, |output| complete(output, "COPY 1", b'I'));
    assert_eq!(scene.machine.loss(), Loss::Nothing);
    // What a client sends that has not heard yet of an error.
    scene.say(&mut connection, |output| client::encode_copy_data(output, b"1\n"));
    assert_eq!(scene.machine.loss(), Loss::Nothing);
}

#[test]
fn what_a_client_still_sends_of_a_lost_copy_goes_nowhere() {
    for (is_inside, told, status) in [(true, "40001", "Z:E"), (false, "40003", "Z:I")] {
        let mut connection = Connection::default();
        let mut scene = guarded(&mut connection);
        if is_inside {
            scene.say(&mut connection, query("BEGIN ISOLATION LEVEL SERIALIZABLE"));
            scene.answer(&mut connection, |output| complete(output, "BEGIN", b'T'));
        }
        scene.say(&mut connection, query("COPY a FROM STDIN"));
        scene.answer(&mut connection, |output| output.extend_from_slice(b"G\0\0\0\x09\0\0\x01\0\0"));
        scene.say(&mut connection, |output| client::encode_copy_data(output, b"1\n"));
        let error = ClientError::new(ErrorId::StatementCompletionUnknown, "lost");
        let (loss, error) = if is_inside { (Loss::Transaction, lost_transaction()) } else { (Loss::Unknown, error) };
        assert_eq!(scene.machine.loss(), loss);
        let settling = if is_inside { Settling::Failed(&error) } else { Settling::NotCommitted(&error) };
        let (again, heard) = settle(&mut scene, &settling);
        assert!(again.is_empty() && heard[0].contains(told) && heard[1] == status, "{heard:?}");
        scene.say(&mut connection, |output| {
            client::encode_copy_data(output, b"2\n");
            client::encode_copy_done(output);
        });
        assert_eq!(read(&mut scene.to_client), Vec::<String>::new());
        if is_inside {
            scene.say(&mut connection, query("ROLLBACK"));
            assert_eq!(read(&mut scene.to_client), ["C:ROLLBACK", "Z:I"]);
        }
    }
}

#[test]
fn a_close_is_answered_and_the_loss_told_to_what_comes_behind_it() {
    let close = |output: &mut BytesMut| {
        client::encode_close(output, &client::Target::Statement("s".to_owned()));
        client::encode_sync(output);
    };
    let begun = |connection: &mut Connection| {
        let mut scene = guarded(connection);
        scene.say(connection, query("BEGIN ISOLATION LEVEL SERIALIZABLE"));
        scene.answer(connection, |output| complete(output, "BEGIN", b'T'));
        scene.say(connection, query("INSERT INTO a VALUES (1)"));
        scene.answer(connection, |output| complete(output, "INSERT 0 1", b'T'));
        scene
    };
    // Drivers close what they have prepared in the same write as what comes next, and look at nothing of the answer.
    let mut connection = Connection::default();
    let mut scene = begun(&mut connection);
    scene.say(&mut connection, close);
    scene.say(&mut connection, query("COMMIT"));
    scene.machine.answer_closes(&mut scene.to_client);
    assert_eq!(read(&mut scene.to_client), ["3", "Z:T"]);
    assert_eq!(scene.machine.loss(), Loss::Commit { xid: Xid::Asked, may_repeat: false });
    let (_, told) = settle(&mut scene, &Settling::NotCommitted(&lost_transaction()));
    assert!(told[0].contains("40001") && told[1] == "Z:I", "{told:?}");
    // Its Sync may be on its way, or all of it.
    for parts in [1, 0] {
        let mut connection = Connection::default();
        let mut scene = begun(&mut connection);
        if parts > 0 {
            scene.say(&mut connection, |output| {
                client::encode_close(output, &client::Target::Statement("s".to_owned()));
            });
        }
        scene.machine.answer_closes(&mut scene.to_client);
        assert_eq!(scene.machine.loss(), Loss::Nothing);
        settle(&mut scene, &Settling::Quietly);
        scene.say(&mut connection, |output| {
            client::encode_close(output, &client::Target::Portal("p".to_owned()));
            close(output);
        });
        assert_eq!(read(&mut scene.to_client), ["3", "3", "Z:T"]);
        scene.say(&mut connection, query("COMMIT"));
        let told = read(&mut scene.to_client);
        assert!(told[0].contains("40001") && told[1] == "Z:I", "{told:?}");
    }
}

#[test]
fn a_commit_behind_what_is_not_answered_may_have_ended_it() {
    for (behind, expected) in [("SELECT 2", false), ("COMMIT", true), ("ROLLBACK", true)] {
        let mut connection = Connection::default();
        let mut scene = guarded(&mut connection);
        scene.say(&mut connection, query("BEGIN ISOLATION LEVEL SERIALIZABLE"));
        scene.answer(&mut connection, |output| complete(output, "BEGIN", b'T'));
        scene.say(&mut connection, query("SELECT 1"));
        scene.say(&mut connection, query(behind));
        let loss = scene.machine.loss();
        assert_eq!((&loss, scene.machine.may_have_done_more(&loss)), (&Loss::Transaction, expected), "{behind}");
    }
}

#[test]
fn a_write_behind_a_commit_without_an_answer_may_have_been_done() {
    for (behind, expected) in [("INSERT INTO a VALUES (2)", true), ("BEGIN", false)] {
        let mut connection = Connection::default();
        let mut scene = guarded(&mut connection);
        scene.say(&mut connection, query("BEGIN"));
        scene.answer(&mut connection, |output| complete(output, "BEGIN", b'T'));
        scene.say(&mut connection, query("INSERT INTO a VALUES (1)"));
        scene.answer(&mut connection, |output| complete(output, "INSERT 0 1", b'T'));
        scene.say(&mut connection, query("COMMIT"));
        scene.say(&mut connection, query(behind));
        let loss = scene.machine.loss();
        assert!(matches!(loss, Loss::Commit { .. }), "{loss:?}");
        assert_eq!(scene.machine.may_have_done_more(&loss), expected, "{behind}");
    }
}

#[test]
fn what_may_have_run_is_not_given_again() {
    for (statement, expected) in [
        ("SELECT f(1)", Loss::Reads { texts: vec!["SELECT f(1)".to_owned()], may_repeat: true }),
        ("SET work_mem = '1MB'", Loss::Reads { texts: Vec::new(), may_repeat: true }),
        ("CREATE TABLE a (b int)", Loss::Unknown),
        ("INSERT INTO a VALUES (1); INSERT INTO a VALUES (2)", Loss::Unknown),
        ("CALL p()", Loss::Unknown),
        ("BEGIN; INSERT INTO a VALUES (1); COMMIT", Loss::Unknown),
    ] {
        let mut connection = Connection::default();
        let mut scene = guarded(&mut connection);
        scene.say(&mut connection, query(statement));
        assert_eq!(scene.machine.loss(), expected, "{statement}");
    }
    let mut connection = Connection::default();
    let mut scene = guarded(&mut connection);
    scene.say(&mut connection, query("SELECT a FROM b"));
    scene.answer(&mut connection, |output| server::write_data_row(output, &[Some(b"1")]));
    let told = Loss::Reads { texts: vec!["SELECT a FROM b".to_owned()], may_repeat: false };
    assert_eq!(scene.machine.loss(), told, "a row has been told");
}

#[test]
fn names_of_a_pipeline_that_is_given_again_are_as_before() {
    let mut connection = Connection::default();
    let mut scene = guarded(&mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "s", "INSERT INTO a VALUES (1)");
        bind_execute(output, "s");
        client::encode_close(output, &client::Target::Statement("s".to_owned()));
        client::encode_sync(output);
    });
    connection.heard();
    // The answers up to the id have come, which changes the names for good.
    scene.answer(&mut connection, |output| {
        answers(output, b"12");
        server::write_command_complete(output, "INSERT 0 1");
        answers(output, b"1");
        xid_row(output, Some("79"));
    });
    assert_eq!(scene.machine.loss(), Loss::Commit { xid: Xid::Known(Some(79)), may_repeat: true });
    let (again, told) = settle(&mut scene, &Settling::Again);
    assert_eq!((again.as_slice(), told.len()), (b"PBECS".as_slice(), 0));
    assert_eq!(scene.machine.prepared_text(b"s"), None, "it is parsed anew");
}

#[test]
fn a_commit_that_a_cancel_let_through_is_told_when_standbys_have_it() {
    let mut connection = Connection::default();
    let mut scene = guarded(&mut connection);
    scene.say(&mut connection, query("INSERT INTO a VALUES (1)"));
    connection.heard();
    let told = scene.answer(&mut connection, |output| {
        answers(output, b"112n");
        server::write_command_complete(output, "INSERT 0 1");
        xid_row(output, Some("77"));
        let mut notice = b"SWARNING\0C01000\0Mabc\0Fsyncrep.c\0RSyncRepWaitForLSN\0\0".to_vec();
        output.extend_from_slice(b"N");
        output.extend_from_slice(&u32::try_from(notice.len() + 4).unwrap().to_be_bytes());
        output.extend_from_slice(&notice.split_off(0));
        server::write_ready_for_query(output, b'I');
    });
    assert_eq!(told, Vec::<String>::new());
    assert!(connection.heard().iter().any(|message| message.contains("pg_logical_emit_message")));
    let told = scene.answer(&mut connection, |output| complete(output, "COMMIT", b'I'));
    assert_eq!(told, ["C:INSERT 0 1", "Z:I"]);
}

#[test]
fn a_query_that_is_skipped_behind_an_error_ends_no_pipeline() {
    let mut connection = Connection::default();
    let mut scene = guarded(&mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "", "SELECT 1 / 0");
        bind_execute(output, "");
        client::encode_query(output, "INSERT INTO a VALUES (1)");
        client::encode_sync(output);
    });
    let heard = connection.heard();
    assert_eq!(heard.last().map(String::as_str), Some("S"));
    assert!(heard.contains(&"Q:INSERT INTO a VALUES (1)".to_owned()), "as it is: it may be skipped");
    scene.answer(&mut connection, |output| {
        answers(output, b"12");
        error(output, "22012");
        server::write_ready_for_query(output, b'I');
    });
    assert_eq!(scene.machine.loss(), Loss::Nothing, "nothing is owed any more");
    scene.say(&mut connection, query("INSERT INTO a VALUES (2)"));
    assert!(matches!(scene.machine.loss(), Loss::Commit { .. }));
}

#[test]
fn a_sync_behind_an_error_asks_for_nothing() {
    let mut connection = Connection::default();
    let mut scene = guarded(&mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "", "INSERT INTO a VALUES (1)");
        bind_execute(output, "");
        client::encode_flush(output);
    });
    scene.answer(&mut connection, |output| {
        answers(output, b"12");
        error(output, "23505");
    });
    connection.heard();
    scene.say(&mut connection, client::encode_sync);
    assert_eq!(connection.heard(), ["S"], "it would be skipped");
}
