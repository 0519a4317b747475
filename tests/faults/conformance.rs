//! Every exchange on plain PostgreSQL and through the product: the replies are the same, one by one.
//! What differs on purpose is listed in `exceptions.txt` with its reason.

use std::collections::BTreeMap;

use crate::catalogue::{Exchange, catalogue, numbered, selected};
use crate::conversation::{End, Transcript, connect, converse};
use crate::frames::{Frame, Leave};
use crate::normal::difference;
use crate::world::World;

/// Exchanges that may differ, by environment.
pub fn exceptions(environment: &str) -> BTreeMap<String, String> {
    let mut listed = BTreeMap::new();
    for line in include_str!("exceptions.txt").lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty())
    {
        let parts: Vec<&str> = line.split('|').map(str::trim).collect();
        let [environments, name, reason] = parts.as_slice() else { panic!("exceptions.txt: {line}") };
        assert!(!reason.is_empty(), "exceptions.txt: a reason is missing: {line}");
        assert!(catalogue(0).iter().any(|e| e.name == *name), "exceptions.txt: no such exchange: {name}");
        if environments.split(' ').any(|known| known == environment) {
            listed.insert((*name).to_owned(), (*reason).to_owned());
        }
    }
    listed
}

/// Runs an exchange on one side.
fn run(port: u16, exchange: &Exchange) -> Transcript {
    match connect(port, exchange) {
        Ok(mut wire) => {
            let mut transcript = converse(&mut wire, exchange);
            if exchange.shows_greeting() {
                transcript.frames.splice(0..0, wire.greeting.iter().cloned());
            }
            wire.leave(Leave::Terminate);
            transcript
        }
        Err(error) => {
            let told = format!("CThe session was not opened\0M{error}\0\0");
            Transcript { frames: vec![Frame::new(b'E', told)], end: End::Closed }
        }
    }
}

/// Where the two sides part.
fn compare(world: &World, exchange: &Exchange) -> (Option<String>, bool) {
    let expected = run(world.cluster.oracle.port, exchange);
    assert_ne!(expected.end, End::Stuck, "{}: PostgreSQL itself: {expected:?}", exchange.name);
    let got = run(world.port(), exchange);
    let ends = (got.end != expected.end).then(|| format!("{:?} instead of {:?}", got.end, expected.end));
    let is_lost = ends.is_some();
    match (difference(&expected.frames, &got.frames), ends) {
        (None, None) => (None, is_lost),
        (text, ends) => (Some([text.unwrap_or_default(), ends.unwrap_or_default()].join("\n    ")), is_lost),
    }
}

/// Compares all exchanges that `is_meant` for an environment.
fn conform(environment: &str, mut world: World, is_meant: impl Fn(&Exchange) -> bool) {
    let listed = exceptions(environment);
    let mut complaints = Vec::new();
    let mut compared = 0;
    for exchange in selected(numbered(1_000)).into_iter().filter(is_meant) {
        compared += 1;
        let (different, is_lost) = compare(&world, &exchange);
        if is_lost {
            // What it holds must not hide what the next exchange would show.
            world.restart();
        }
        match (different, listed.get(exchange.name)) {
            (None, None) => {}
            (None, Some(reason)) => println!("no longer differs: {} ({reason})", exchange.name),
            (Some(text), Some(reason)) => println!("{}: {text}\n    listed: {reason}", exchange.name),
            (Some(text), None) => complaints.push(format!("{}: {text}", exchange.name)),
        }
    }
    println!("{environment}: {compared} exchanges, {} listed as different", listed.len());
    assert!(complaints.is_empty(), "{} of {compared} differ:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn one_shard_answers_every_exchange_like_postgresql() {
    conform("one", World::start(1, "size = 2"), |_| true);
}

#[test]
fn one_shard_in_session_mode_answers_every_exchange_like_postgresql() {
    conform("session", World::start(1, "size = 4\nmode = \"session\""), |_| true);
}

#[test]
fn one_shard_in_statement_mode_answers_every_exchange_like_postgresql() {
    conform("statement", World::start(1, "size = 2\nmode = \"statement\""), |exchange| !exchange.spans);
}

#[test]
fn two_shards_answer_every_exchange_like_postgresql() {
    conform("two", World::start(2, "size = 2"), |_| true);
}

/// The catalogue is right and the comparison compares: PostgreSQL is its own oracle.
#[test]
fn another_postgresql_answers_every_exchange_like_postgresql() {
    use crate::cluster::Server;
    use crate::frames::Wire;
    let servers = Server::start_all(&["left".into(), "right".into()]);
    for server in &servers {
        let mut wire = Wire::app(server.port, "app").unwrap();
        for statement in crate::catalogue::SCHEMA {
            wire.simple(statement).unwrap();
        }
    }
    for exchange in numbered(1_000) {
        let [left, right] = [0, 1].map(|side: usize| run(servers[side].port, &exchange));
        assert_ne!(left.end, End::Stuck, "{}: {left:?}", exchange.name);
        assert_eq!(left.end, right.end, "{}: {left:?}", exchange.name);
        assert_eq!(difference(&left.frames, &right.frames), None, "{}", exchange.name);
        if let Some(writes) = exchange.writes {
            assert!(
                left.readies() >= writes.ready + usize::from(exchange.shows_greeting()),
                "{}: no such ReadyForQuery",
                exchange.name
            );
            let mut wire = Wire::app(servers[0].port, "app").unwrap();
            let count = wire.simple("SELECT count(*) FROM ledger; DELETE FROM ledger").unwrap();
            assert_eq!(crate::world::rows(&count), [[writes.rows.to_string()]], "{}", exchange.name);
            Wire::app(servers[1].port, "app").unwrap().simple("DELETE FROM ledger").unwrap();
        }
    }
}
