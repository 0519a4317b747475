//! Transactions that are run again where their primary is lost, and compared.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::scene::{Connection, Scene, answers, bind_execute, complete, error, parse, query, read};
use crate::session::direct::{Loss, Replayed, Taken, answered_otherwise, lost_transaction};
use crate::wire::client_message as client;
use crate::wire::frame::{Frame, take_frame};
use crate::wire::limits::MESSAGE_BYTES_MAX;
use crate::wire::server_message as server;

/// A session whose transactions are kept, and its connection.
struct Play {
    scene: Scene,
    connection: Connection,
    /// What is to be given again.
    waiting: VecDeque<Frame>,
    replayed: Option<Replayed>,
}

impl Play {
    fn new() -> Self {
        let (scene, connection) = (Scene::new(), Connection::default());
        Self { scene, connection, waiting: VecDeque::new(), replayed: None }
    }

    /// In a transaction whose BEGIN the proxy has answered.
    fn begun() -> Self {
        let mut play = Self::new();
        play.say(query("BEGIN"));
        assert_eq!(read(&mut play.scene.to_client), ["C:BEGIN", "Z:T"]);
        play.attach();
        assert_eq!(play.heard(), ["Q:BEGIN"]);
        play.answer(|output| complete(output, "BEGIN", b'T'));
        play
    }

    fn attach(&mut self) {
        self.scene.machine.guard(true);
        self.scene.machine.keep_transactions(true);
        self.scene.attach(&mut self.connection);
    }

    fn heard(&mut self) -> Vec<String> {
        self.connection.heard()
    }

    fn say(&mut self, write: impl FnOnce(&mut BytesMut)) {
        self.scene.say(&mut self.connection, write);
    }

    /// What the client gets to hear of what the server says.
    fn answer(&mut self, write: impl FnOnce(&mut BytesMut)) -> Vec<String> {
        let mut input = BytesMut::new();
        write(&mut input);
        let (mut side, machine) = (self.connection.side(), &mut self.scene.machine);
        let pumped = machine.pump(&mut input, &mut side, &self.scene.host, &mut self.scene.to_client).unwrap();
        self.replayed = pumped.replayed;
        read(&mut self.scene.to_client)
    }

    /// A statement and its whole answer.
    fn run(&mut self, text: &str, answer: impl FnOnce(&mut BytesMut)) -> Vec<String> {
        self.say(query(text));
        self.heard();
        self.answer(answer)
    }

    /// The connection is lost, and another one is there.
    fn lose(&mut self) {
        assert!(self.scene.machine.may_replay());
        let again = self.scene.machine.replay();
        again.into_iter().rev().for_each(|frame| self.waiting.push_front(frame));
        self.connection = Connection::default();
        self.attach();
    }

    /// Gives what waits as far as that goes: what the server hears.
    fn go_on(&mut self) -> Vec<String> {
        while self.scene.machine.takes_client()
            && let Some(frame) = self.waiting.pop_front()
        {
            let frame = Frame { tag: frame.tag, bytes: Bytes::copy_from_slice(&frame.bytes) };
            let is_attached = self.scene.machine.is_attached();
            let mut side = self.connection.side();
            let side = is_attached.then_some(&mut side);
            self.scene.machine.client(frame, side, &self.scene.host, &mut self.scene.to_client).unwrap();
        }
        self.heard()
    }

    /// What the client gets to hear when the transaction is given up.
    fn give_up(&mut self) -> Vec<String> {
        let (machine, host) = (&mut self.scene.machine, &self.scene.host);
        machine.give_up_replay(answered_otherwise(), host, &mut self.scene.to_client, &mut self.waiting);
        assert!(!machine.is_attached() && !machine.is_replaying());
        self.go_on();
        read(&mut self.scene.to_client)
    }
}

fn row(output: &mut BytesMut, value: &str) {
    server::write_data_row(output, &[Some(value.as_bytes())]);
}

fn selected(output: &mut BytesMut, value: &str) {
    row(output, value);
    complete(output, "SELECT 1", b'T');
}

fn is_40001(told: &[String], status: &str) -> bool {
    matches!(told, [error, ready] if error.contains("40001") && error.contains("run again on") && ready == status)
}

#[test]
fn a_transaction_that_is_answered_alike_goes_on() {
    let mut play = Play::begun();
    play.run("SELECT a FROM b FOR UPDATE", |output| selected(output, "1"));
    play.say(query("UPDATE b SET a = 2"));
    assert_eq!(play.scene.machine.loss(), Loss::Transaction);
    play.lose();
    assert_eq!(play.heard(), ["Q:BEGIN"]);
    assert_eq!(play.go_on(), ["Q:SELECT a FROM b FOR UPDATE"], "the next one waits until this is compared");
    let told = play.answer(|output| {
        complete(output, "BEGIN", b'T');
        row(output, "1");
    });
    assert!(told.is_empty() && play.replayed.is_none() && play.go_on().is_empty());
    let told = play.answer(|output| complete(output, "SELECT 1", b'T'));
    assert_eq!((told.len(), play.replayed), (0, Some(Replayed::Alike)));
    assert_eq!(play.go_on(), ["Q:UPDATE b SET a = 2"]);
    assert_eq!(play.answer(|output| complete(output, "UPDATE 1", b'T')), ["C:UPDATE 1", "Z:T"]);
    play.say(query("COMMIT"));
    assert!(play.heard().iter().any(|heard| heard.contains("pg_current_xact_id")), "its commit can be resolved");
}

#[test]
fn nothing_is_kept_unless_it_is_asked_for() {
    let mut play = Play::begun();
    play.scene.machine.keep_transactions(false);
    play.run("SELECT 1", |output| selected(output, "1"));
    assert!(!play.scene.machine.may_replay());
    assert_eq!(play.scene.machine.loss(), Loss::Nothing);
}

#[test]
fn another_row_ends_the_transaction() {
    let mut play = Play::begun();
    play.run("SELECT now()", |output| selected(output, "10:00"));
    play.say(query("INSERT INTO a VALUES (1)"));
    play.lose();
    play.go_on();
    let told = play.answer(|output| {
        complete(output, "BEGIN", b'T');
        selected(output, "10:01");
    });
    assert_eq!((told.len(), play.replayed), (0, Some(Replayed::Otherwise)));
    let told = play.give_up();
    assert!(is_40001(&told, "Z:E"), "{told:?}");
    play.say(query("ROLLBACK"));
    assert_eq!(read(&mut play.scene.to_client), ["C:ROLLBACK", "Z:I"]);
}

#[test]
fn a_client_that_was_idle_is_told_at_its_next_statement() {
    let mut play = Play::begun();
    play.run("SELECT now()", |output| selected(output, "10:00"));
    play.lose();
    play.go_on();
    play.answer(|output| {
        complete(output, "BEGIN", b'T');
        selected(output, "10:01");
    });
    assert_eq!(play.give_up(), Vec::<String>::new());
    play.say(query("COMMIT"));
    let told = read(&mut play.scene.to_client);
    assert!(is_40001(&told, "Z:I"), "{told:?}");
}

/// An error with its place in the server's source, and whether it is in order.
fn failed(output: &mut BytesMut, message: &str, line: &str) {
    let body = format!("SERROR\0VERROR\0C23505\0M{message}\0Fnbtinsert.c\0L{line}\0R_bt_check_unique\0\0");
    output.extend_from_slice(b"E");
    output.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    output.extend_from_slice(body.as_bytes());
    server::write_ready_for_query(output, b'E');
}

#[test]
fn errors_are_answers_and_savepoints_are_there_again() {
    for (message, expected) in [("duplicate key", Replayed::Alike), ("another", Replayed::Otherwise)] {
        let mut play = Play::begun();
        play.run("SAVEPOINT s", |output| complete(output, "SAVEPOINT", b'T'));
        play.run("INSERT INTO a VALUES (1)", |output| failed(output, "duplicate key", "664"));
        assert_eq!(play.scene.machine.status(), b'E');
        play.say(query("ROLLBACK TO s"));
        play.lose();
        assert_eq!(play.go_on(), ["Q:BEGIN", "Q:SAVEPOINT s"]);
        play.answer(|output| {
            complete(output, "BEGIN", b'T');
            complete(output, "SAVEPOINT", b'T');
        });
        assert_eq!(play.go_on(), ["Q:INSERT INTO a VALUES (1)"]);
        play.answer(|output| failed(output, message, "700"));
        assert_eq!(play.replayed, Some(expected), "{message}");
        if expected == Replayed::Alike {
            assert_eq!(play.go_on(), ["Q:ROLLBACK TO s"]);
            assert_eq!(play.answer(|output| complete(output, "ROLLBACK", b'T')), ["C:ROLLBACK", "Z:T"]);
        } else {
            assert!(is_40001(&play.give_up(), "Z:E"));
        }
    }
}

#[test]
fn notices_and_parameters_are_no_answers() {
    let mut play = Play::begun();
    play.run("SET LOCAL timezone = 'UTC'", |output| {
        server::write_parameter_status(output, "TimeZone", "UTC");
        complete(output, "SET", b'T');
    });
    play.lose();
    play.go_on();
    let told = play.answer(|output| {
        complete(output, "BEGIN", b'T');
        server::write_notice(output, "WARNING", "01000", "of no concern");
        complete(output, "SET", b'T');
    });
    assert_eq!((told.len(), play.replayed), (0, Some(Replayed::Alike)));
}

#[test]
fn what_is_too_long_is_not_kept() {
    let mut play = Play::begun();
    play.run(&format!("SELECT '{}'", "x".repeat(300 << 10)), |output| selected(output, "1"));
    assert!(!play.scene.machine.may_replay(), "one message");
    let mut play = Play::begun();
    for _ in 0..5 {
        play.run(&format!("SELECT '{}'", "x".repeat(50 << 10)), |output| selected(output, "1"));
    }
    assert!(play.scene.machine.may_replay());
    play.run(&format!("SELECT '{}'", "x".repeat(50 << 10)), |output| selected(output, "1"));
    assert!(!play.scene.machine.may_replay(), "several");
    let mut play = Play::begun();
    for _ in 0..10_000 {
        play.run("SELECT", |output| complete(output, "SELECT 1", b'T'));
    }
    assert!(!play.scene.machine.may_replay(), "checksums take room, too");
    play.run("ROLLBACK", |output| complete(output, "ROLLBACK", b'I'));
    play.run("BEGIN", |output| complete(output, "BEGIN", b'T'));
    assert!(play.scene.machine.may_replay(), "the next transaction is kept");
}

#[test]
fn a_copy_is_not_done_over() {
    let mut play = Play::begun();
    play.say(query("COPY a FROM STDIN"));
    play.answer(|output| output.extend_from_slice(b"G\0\0\0\x09\0\0\x01\0\0"));
    assert!(!play.scene.machine.may_replay(), "while it is read");
    play.say(|output| {
        client::encode_copy_data(output, b"1\n");
        client::encode_copy_done(output);
    });
    play.answer(|output| complete(output, "COPY 1", b'T'));
    assert!(!play.scene.machine.may_replay(), "behind it");
}

#[test]
fn what_may_have_ended_or_leaves_something_is_not_run_again() {
    for text in [
        "COMMIT",
        "ROLLBACK",
        "COMMIT AND CHAIN",
        "PREPARE TRANSACTION 'a'",
        "PREPARE a AS SELECT 1",
        "DEALLOCATE ALL",
        "CREATE TEMP TABLE t (a int)",
        "SELECT pg_advisory_lock(1)",
        "LISTEN a",
        "SELECT 1; COMMIT",
    ] {
        let mut play = Play::begun();
        play.run("SELECT 1", |output| selected(output, "1"));
        assert!(play.scene.machine.may_replay());
        play.say(query(text));
        assert!(!play.scene.machine.may_replay(), "{text}");
    }
    // One that is pipelined behind others may have come as far as they have not been heard of.
    let mut play = Play::begun();
    play.say(query("SELECT 1"));
    play.say(query("COMMIT"));
    assert!(!play.scene.machine.may_replay());
    for begin in ["BEGIN; INSERT INTO a VALUES (1)", "INSERT INTO a VALUES (1); BEGIN", "COMMIT; BEGIN"] {
        let mut play = Play::new();
        play.attach();
        play.run(begin, |output| complete(output, "BEGIN", b'T'));
        assert!(play.scene.machine.status() == b'T' && !play.scene.machine.may_replay(), "{begin}");
    }
}

#[test]
fn a_second_loss_ends_it() {
    let mut play = Play::begun();
    for _ in 0..2 {
        play.run("SELECT 1", |output| selected(output, "1"));
    }
    play.say(query("UPDATE a SET b = 1"));
    play.lose();
    play.go_on();
    play.answer(|output| {
        complete(output, "BEGIN", b'T');
        selected(output, "1");
    });
    play.go_on();
    assert!(play.scene.machine.is_replaying() && !play.scene.machine.may_replay());
    let told = play.give_up();
    assert!(is_40001(&told, "Z:E"), "{told:?}");
    // Once it has gone on it is not kept any more.
    let mut play = Play::begun();
    play.run("SELECT 1", |output| selected(output, "1"));
    play.lose();
    play.go_on();
    play.answer(|output| {
        complete(output, "BEGIN", b'T');
        selected(output, "1");
    });
    assert!(play.replayed == Some(Replayed::Alike) && !play.scene.machine.may_replay());
    assert_eq!(play.scene.machine.loss(), Loss::Nothing);
}

#[test]
fn a_pipeline_is_given_again_with_its_statements() {
    let mut play = Play::new();
    play.attach();
    play.say(|output| {
        parse(output, "", "BEGIN ISOLATION LEVEL SERIALIZABLE");
        bind_execute(output, "");
        parse(output, "mine", "SELECT a FROM b");
        bind_execute(output, "mine");
        client::encode_sync(output);
    });
    play.heard();
    play.answer(|output| {
        answers(output, b"12");
        server::write_command_complete(output, "BEGIN");
        answers(output, b"12");
        selected(output, "1");
    });
    play.say(|output| {
        bind_execute(output, "mine");
        client::encode_sync(output);
    });
    play.lose();
    assert_eq!(play.scene.machine.prepared_text(b"mine"), None, "it is parsed anew");
    let expected = ["P:BEGIN ISOLATION LEVEL SERIALIZABLE", "B", "E", "P:os_2.SELECT a FROM b", "B:os_2", "E", "S"];
    assert_eq!(play.go_on(), expected);
    let told = play.answer(|output| {
        answers(output, b"12");
        server::write_command_complete(output, "BEGIN");
        answers(output, b"12");
        selected(output, "1");
    });
    assert_eq!((told.len(), play.replayed), (0, Some(Replayed::Alike)));
    assert_eq!(play.go_on(), ["B:os_2", "E", "S"]);
    let told = play.answer(|output| {
        answers(output, b"2");
        selected(output, "1");
    });
    assert_eq!(told, ["2", "D:1", "C:SELECT 1", "Z:T"].map(str::to_owned).to_vec().as_slice());
}

#[test]
fn a_name_that_the_client_knows_outlives_what_is_given_up() {
    let mut play = Play::begun();
    play.say(|output| {
        parse(output, "mine", "SELECT now()");
        bind_execute(output, "mine");
        client::encode_sync(output);
    });
    play.answer(|output| {
        answers(output, b"12");
        selected(output, "10:00");
    });
    play.say(query("SELECT 1"));
    play.lose();
    play.go_on();
    play.answer(|output| {
        complete(output, "BEGIN", b'T');
        answers(output, b"12");
        selected(output, "10:01");
    });
    assert!(is_40001(&play.give_up(), "Z:E"));
    assert_eq!(play.scene.machine.prepared_text(b"mine").as_deref(), Some("SELECT now()"));
}

#[test]
fn what_was_told_of_an_answer_is_compared_and_the_rest_is_told() {
    let long = |output: &mut BytesMut, rows: &[&str]| {
        rows.iter().for_each(|value| row(output, value));
        complete(output, "SELECT 3", b'T');
    };
    for (rows, expected) in
        [(&["1", "2", "3"][..], Some(vec!["D:3", "C:SELECT 3", "Z:T"])), (&["1", "9", "3"], None), (&["1"], None)]
    {
        let mut play = Play::begun();
        play.run("SELECT 1", |output| selected(output, "1"));
        play.say(query("SELECT a FROM b"));
        let told = play.answer(|output| {
            row(output, "1");
            row(output, "2");
        });
        assert_eq!(told, ["D:1", "D:2"]);
        play.lose();
        play.go_on();
        play.answer(|output| {
            complete(output, "BEGIN", b'T');
            selected(output, "1");
        });
        assert_eq!(play.replayed, None, "a part is still to be compared");
        assert_eq!(play.go_on(), ["Q:SELECT a FROM b"]);
        let told = play.answer(|output| long(output, rows));
        match expected {
            Some(expected) => assert_eq!(
                (told, play.replayed),
                (expected.iter().map(|told| (*told).to_owned()).collect(), Some(Replayed::Alike))
            ),
            None => {
                assert_eq!((told.len(), play.replayed), (0, Some(Replayed::Otherwise)));
                assert!(is_40001(&play.give_up(), "Z:E"));
                play.say(query("ROLLBACK"));
                assert_eq!(read(&mut play.scene.to_client), ["C:ROLLBACK", "Z:I"]);
            }
        }
    }
}

#[test]
fn a_part_that_is_lost_again_ends_with_the_error() {
    for pieces in [0, 1, 2] {
        let mut play = Play::begun();
        play.say(query("SELECT a FROM b"));
        play.answer(|output| {
            row(output, "1");
            row(output, "2");
        });
        play.lose();
        if pieces > 0 {
            assert_eq!(play.go_on(), ["Q:BEGIN", "Q:SELECT a FROM b"]);
        }
        if pieces > 1 {
            let told = play.answer(|output| {
                complete(output, "BEGIN", b'T');
                row(output, "1");
            });
            assert!(told.is_empty());
        }
        assert!(play.scene.machine.is_replaying());
        let told = play.give_up();
        assert!(is_40001(&told, "Z:E"), "{pieces}: {told:?}");
    }
}

#[test]
fn a_name_that_was_told_in_a_part_is_known_behind_it() {
    for is_alike in [true, false] {
        let mut play = Play::begun();
        play.say(|output| {
            parse(output, "mine", "SELECT 1");
            client::encode_describe(output, &client::Target::Statement("mine".to_owned()));
            client::encode_sync(output);
        });
        assert_eq!(play.answer(|output| answers(output, b"1")), ["1"]);
        play.lose();
        assert_eq!(play.scene.machine.prepared_text(b"mine"), None);
        let heard = play.go_on();
        assert!(heard[1].starts_with("P:") && heard[2].starts_with("D:") && heard[3] == "S", "{heard:?}");
        if is_alike {
            let told = play.answer(|output| {
                complete(output, "BEGIN", b'T');
                answers(output, b"1n");
                server::write_ready_for_query(output, b'T');
            });
            assert_eq!(
                (told.as_slice(), play.replayed),
                (["n".to_owned(), "Z:T".to_owned()].as_slice(), Some(Replayed::Alike))
            );
        } else {
            assert!(is_40001(&play.give_up(), "Z:E"));
        }
        assert_eq!(play.scene.machine.prepared_text(b"mine").as_deref(), Some("SELECT 1"));
    }
}

#[test]
fn a_portal_that_is_suspended_is_read_on() {
    let mut play = Play::begun();
    let fetch = |output: &mut BytesMut| {
        client::encode_execute(output, "cursor", 1);
        client::encode_sync(output);
    };
    let suspended = |output: &mut BytesMut, value: &str| {
        row(output, value);
        answers(output, b"s");
        server::write_ready_for_query(output, b'T');
    };
    let bind = client::Bind {
        portal: "cursor".to_owned(),
        statement: String::new(),
        parameter_formats: Vec::new(),
        parameters: Vec::new(),
        result_formats: Vec::new(),
    };
    play.say(|output| {
        parse(output, "", "SELECT a FROM b");
        client::encode_bind(output, "cursor", "", &bind);
        fetch(output);
    });
    play.answer(|output| {
        answers(output, b"12");
        suspended(output, "1");
    });
    play.say(fetch);
    play.lose();
    play.go_on();
    play.answer(|output| {
        complete(output, "BEGIN", b'T');
        answers(output, b"12");
        suspended(output, "1");
    });
    assert_eq!(play.replayed, Some(Replayed::Alike));
    assert_eq!(play.go_on(), ["E:cursor", "S"]);
    assert_eq!(play.answer(|output| suspended(output, "2")), ["D:2", "s", "Z:T"]);
}

#[test]
fn a_replay_that_fails_where_it_did_not_is_given_up() {
    let mut play = Play::begun();
    play.say(|output| {
        parse(output, "", "SELECT 1");
        bind_execute(output, "");
        client::encode_sync(output);
    });
    play.answer(|output| {
        answers(output, b"12");
        selected(output, "1");
    });
    play.lose();
    play.go_on();
    play.answer(|output| {
        complete(output, "BEGIN", b'T');
        error(output, "57014");
        server::write_ready_for_query(output, b'E');
    });
    assert_eq!(play.replayed, Some(Replayed::Otherwise));
    assert_eq!(play.give_up(), Vec::<String>::new());
    play.say(query("SELECT 1"));
    assert!(is_40001(&read(&mut play.scene.to_client), "Z:E"));
    assert_eq!(lost_transaction().sqlstate(), answered_otherwise().sqlstate());
}

/// A server that answers each text in one way, however often it is asked.
#[derive(Default)]
struct Server {
    texts: BTreeMap<String, String>,
    bound: String,
    /// Messages that it has said and nobody has read.
    said: VecDeque<BytesMut>,
}

impl Server {
    fn hear(&mut self, sent: &mut BytesMut) {
        while let Some(frame) = take_frame(sent, MESSAGE_BYTES_MAX).unwrap() {
            let body = frame.body();
            let parts: Vec<String> =
                body.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
            match frame.tag {
                b'P' => drop(self.texts.insert(parts[0].clone(), parts[1].clone())),
                b'B' => self.bound.clone_from(&self.texts[&parts[1]]),
                _ => {}
            }
            let mut say = |write: &dyn Fn(&mut BytesMut)| {
                let mut bytes = BytesMut::new();
                write(&mut bytes);
                self.said.push_back(bytes);
            };
            let (text, is_over) =
                (if frame.tag == b'Q' { &parts[0] } else { &self.bound }, matches!(frame.tag, b'Q' | b'S'));
            match frame.tag {
                b'P' => say(&|output| answers(output, b"1")),
                b'B' => say(&|output| answers(output, b"2")),
                b'C' => say(&|output| answers(output, b"3")),
                b'Q' | b'E' => {
                    for number in 0..text.len() % 4 {
                        say(&|output| row(output, &format!("{text} {number}")));
                    }
                    say(&|output| server::write_command_complete(output, text));
                }
                _ => {}
            }
            if is_over {
                say(&|output| server::write_ready_for_query(output, b'T'));
            }
        }
    }
}

/// What a client says in a transaction: queries, and pipelines with statements of their own or of earlier ones.
fn messages(script: &[u8]) -> VecDeque<Frame> {
    let (mut bytes, mut names) = (BytesMut::new(), Vec::new());
    for (number, choice) in script.iter().enumerate() {
        let (name, text) = (format!("s{number}"), format!("SELECT {}", "x".repeat(number % 7)));
        match (choice % 6, names.last()) {
            (0, _) => client::encode_query(&mut bytes, &text),
            (1, _) => {
                parse(&mut bytes, &name, &text);
                bind_execute(&mut bytes, &name);
                names.push(name);
            }
            (2, Some(known)) => bind_execute(&mut bytes, known),
            (3, Some(known)) => {
                client::encode_close(&mut bytes, &client::Target::Statement(known.clone()));
                names.pop();
            }
            _ => {
                parse(&mut bytes, "", &text);
                bind_execute(&mut bytes, "");
                client::encode_flush(&mut bytes);
            }
        }
        if choice % 6 != 0 {
            client::encode_sync(&mut bytes);
        }
    }
    std::iter::from_fn(|| take_frame(&mut bytes, MESSAGE_BYTES_MAX).unwrap()).collect()
}

/// What the client hears of it all when the connection is lost after so many steps.
fn heard_of(script: &[u8], steps: &[bool], lost_after: Option<usize>) -> Vec<String> {
    let (mut play, mut server, mut told) = (Play::begun(), Server::default(), Vec::new());
    let mut own = messages(script);
    let mut at = 0;
    loop {
        if lost_after == Some(at) {
            play.scene.machine.answer_closes(&mut play.scene.to_client);
            told.extend(read(&mut play.scene.to_client));
            play.lose();
            server = Server::default();
        }
        let is_clients_turn = steps.get(at).copied().unwrap_or(at % 2 == 0);
        at += 1;
        if is_clients_turn {
            if play.scene.machine.takes_client()
                && let Some(frame) = play.waiting.pop_front().or_else(|| own.pop_front())
            {
                let mut side = play.connection.side();
                let (machine, host) = (&mut play.scene.machine, &play.scene.host);
                match machine.client(frame, Some(&mut side), host, &mut play.scene.to_client).unwrap() {
                    Taken::Later(frame) => play.waiting.push_front(frame),
                    taken => assert!(matches!(taken, Taken::Done), "{taken:?}"),
                }
            }
            continue;
        }
        server.hear(&mut play.connection.output);
        match server.said.pop_front() {
            Some(said) => told.extend(play.answer(|output| output.extend_from_slice(&said))),
            None if own.is_empty() && play.waiting.is_empty() => return told,
            None => {}
        }
        assert_ne!(play.replayed, Some(Replayed::Otherwise));
    }
}

proptest! {
    #[test]
    fn wherever_the_connection_is_lost_the_client_hears_the_same(
        script in prop::collection::vec(any::<u8>(), 1..12),
        steps in prop::collection::vec(any::<bool>(), 0..200),
        lost_after in 0_usize..200,
    ) {
        let expected = heard_of(&script, &steps, None);
        prop_assert_eq!(heard_of(&script, &steps, Some(lost_after)), expected);
    }
}
