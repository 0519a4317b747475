//! A BEGIN that is held back until there is something to do in its transaction.

use super::*;

fn drained(scene: &mut Scene) -> Vec<String> {
    read(&mut scene.to_client)
}

fn begin_in_pipeline(output: &mut BytesMut) {
    parse(output, "", "begin");
    bind_execute(output, "");
}

#[test]
fn a_begin_is_answered_at_once_and_travels_with_the_first_statement() {
    let mut connection = Connection::default();
    let mut scene = Scene::new();
    assert!(matches!(scene.say(&mut connection, query("BEGIN;")), Taken::Done));
    assert_eq!(drained(&mut scene), ["C:BEGIN", "Z:T"]);
    assert!(scene.machine.is_idle_in_transaction() && scene.machine.status() == b'T');
    assert!(matches!(scene.say(&mut connection, query("select 1")), Taken::NeedsServer(_)));
    scene.attach(&mut connection);
    scene.say(&mut connection, query("select 1"));
    assert_eq!(connection.heard(), ["Q:BEGIN;", "Q:select 1"]);
    let heard = scene.answer(&mut connection, |output| {
        complete(output, "BEGIN", b'T');
        complete(output, "SELECT 1", b'T');
    });
    assert_eq!(heard, ["C:SELECT 1", "Z:T"]);
    assert!(!scene.machine.may_release());
    scene.say(&mut connection, query("commit"));
    scene.answer(&mut connection, |output| complete(output, "COMMIT", b'I'));
    assert!(scene.machine.may_release() && connection.pending_ready == 0);
}

#[test]
fn a_begin_in_a_pipeline_of_its_own_is_held_back_too() {
    let mut connection = Connection::default();
    let mut scene = Scene::new();
    let taken = scene.say(&mut connection, |output| {
        begin_in_pipeline(output);
        client_message::encode_sync(output);
    });
    assert!(matches!(taken, Taken::Done));
    assert_eq!(drained(&mut scene), ["1", "2", "C:BEGIN", "Z:T"]);
    assert!(scene.machine.take_begun().is_empty());
    scene.attach(&mut connection);
    // The unnamed statement and portal are the BEGIN's still.
    scene.say(&mut connection, |output| {
        client_message::encode_execute(output, "", 0);
        client_message::encode_sync(output);
    });
    assert_eq!(connection.heard(), ["P:begin", "B", "E", "S", "E", "S"]);
    let heard = scene.answer(&mut connection, |output| {
        answers(output, b"12");
        complete(output, "BEGIN", b'T');
        error(output, "55000");
        server::write_ready_for_query(output, b'E');
    });
    assert_eq!(heard.last().map(String::as_str), Some("Z:E"));
    assert_eq!(heard.len(), 2, "{heard:?}");
}

#[test]
fn a_named_begin_travels_under_its_name_on_servers() {
    let mut connection = Connection::default();
    let mut scene = Scene::on(PoolMode::Transaction, &mut connection);
    scene.say(&mut connection, |output| {
        parse(output, "mine", "begin");
        client_message::encode_sync(output);
    });
    scene.answer(&mut connection, |output| {
        answers(output, b"1");
        server::write_ready_for_query(output, b'I');
    });
    scene.machine.detach();
    connection.heard();
    scene.say(&mut connection, |output| {
        bind_execute(output, "mine");
        client_message::encode_sync(output);
    });
    assert_eq!(drained(&mut scene), ["2", "C:BEGIN", "Z:T"]);
    scene.attach(&mut connection);
    scene.say(&mut connection, query("select 1"));
    assert_eq!(connection.heard(), ["B:os_1", "E", "S", "Q:select 1"]);
}

#[test]
fn a_transaction_in_which_nothing_was_done_ends_without_a_server() {
    let mut connection = Connection::default();
    let mut scene = Scene::new();
    for (end, command_tag) in [("commit", "C:COMMIT"), ("ROLLBACK;", "C:ROLLBACK")] {
        scene.say(&mut connection, query("begin"));
        drained(&mut scene);
        assert!(matches!(scene.say(&mut connection, query(end)), Taken::Done));
        assert_eq!(drained(&mut scene), [command_tag, "Z:I"]);
        assert!(scene.machine.is_at_rest() && scene.machine.opening().is_none());
    }
}

#[test]
fn a_begin_in_a_pipeline_with_others_goes_its_ordinary_way() {
    let mut connection = Connection::default();
    let mut scene = Scene::new();
    let taken = scene.say(&mut connection, |output| {
        begin_in_pipeline(output);
        bind_execute(output, "other");
    });
    assert!(matches!(taken, Taken::NeedsServer(_)) && drained(&mut scene).is_empty());
    assert!(!scene.machine.is_at_rest());
    let kept = scene.machine.take_begun();
    assert_eq!(kept.iter().map(|frame| frame.tag).collect::<Vec<_>>(), *b"PBE");
    scene.attach(&mut connection);
    assert!(connection.heard().is_empty() && scene.machine.status() == b'I');
}

#[test]
fn a_flush_wants_its_answers_from_the_server() {
    let mut connection = Connection::default();
    let mut scene = Scene::new();
    let taken = scene.say(&mut connection, |output| {
        begin_in_pipeline(output);
        client_message::encode_flush(output);
    });
    assert!(matches!(taken, Taken::NeedsServer(frame) if frame.tag == b'H'));
}

#[test]
fn a_transaction_without_a_connection_has_failed_and_runs_nothing() {
    let mut connection = Connection::default();
    let mut scene = Scene::new();
    scene.say(&mut connection, query("begin"));
    drained(&mut scene);
    let Taken::NeedsServer(frame) = scene.say(&mut connection, query("insert into t values (1)")) else {
        panic!("it needs a server");
    };
    let none = ClientError::new(crate::error::ErrorId::PoolTimeout, "no");
    scene.machine.refuse(&frame, &none, &mut scene.to_client);
    assert_eq!(drained(&mut scene).last().map(String::as_str), Some("Z:E"));
    assert_eq!(scene.machine.opening(), Some(("begin", true)));
    scene.attach(&mut connection);
    scene.say(&mut connection, query("insert into t values (2)"));
    assert_eq!(connection.heard(), ["Q:begin", "Q:EXECUTE os_0", "Q:insert into t values (2)"]);
    let heard = scene.answer(&mut connection, |output| {
        complete(output, "BEGIN", b'T');
        error(output, "26000");
        server::write_ready_for_query(output, b'E');
        error(output, "25P02");
        server::write_ready_for_query(output, b'E');
    });
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard[0].contains("25P02") && heard[1] == "Z:E");
}

#[test]
fn a_begin_that_the_server_refuses_after_all_ends_the_session() {
    let mut connection = Connection::default();
    let mut scene = Scene::new();
    scene.say(&mut connection, query("begin"));
    drained(&mut scene);
    scene.attach(&mut connection);
    scene.say(&mut connection, query("select 1"));
    let mut input = BytesMut::new();
    error(&mut input, "53200");
    let pumped = scene.machine.pump(&mut input, &mut connection.side(), &scene.host, &mut scene.to_client).unwrap();
    assert!(pumped.refused.is_some() && connection.is_poisoned);
}

#[test]
fn only_transaction_pooling_holds_it_back() {
    for mode in [PoolMode::Session, PoolMode::Statement] {
        let mut connection = Connection::default();
        let mut scene = Scene::with(mode, Settings::default());
        assert!(matches!(scene.say(&mut connection, query("begin")), Taken::NeedsServer(_)), "{mode:?}");
    }
}
