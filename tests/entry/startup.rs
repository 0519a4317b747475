//! The first packets: requests for encryption, versions of the protocol, cancel keys.

use std::time::{Duration, Instant};

use crate::cluster::eventually;
use crate::ground::{Entry, PATIENCE};
use crate::wire::{GSS_REQUEST, Key, SSL_REQUEST, Said, Wire, cancel_packet, startup_packet};

const UNSUPPORTED_TLS: &str = "unsupported frontend protocol 1234.5679: server supports 3.0 to 3.2";
const UNSUPPORTED_GSS: &str = "unsupported frontend protocol 1234.5680: server supports 3.0 to 3.2";

#[test]
fn requests_for_encryption_are_answered_once_each() {
    let entry = Entry::start(1, "");
    for order in [[SSL_REQUEST, GSS_REQUEST], [GSS_REQUEST, SSL_REQUEST]] {
        let mut wire = Wire::connect(entry.port);
        for request in order {
            wire.send(request);
            assert_eq!(wire.byte(), Some(b'N'));
        }
        assert!(wire.log_in(0).key.is_some());
    }
    for (request, text) in [(SSL_REQUEST, UNSUPPORTED_TLS), (GSS_REQUEST, UNSUPPORTED_GSS)] {
        let mut wire = Wire::connect(entry.port);
        wire.send(request);
        assert_eq!(wire.byte(), Some(b'N'));
        wire.send(request);
        assert_eq!(wire.refusal(), ("0A000".to_owned(), text.to_owned()));
    }
    // A client that does not wait for the answer could be speaking with somebody else.
    let mut wire = Wire::connect(entry.port);
    wire.send(&[SSL_REQUEST, &startup_packet(3, 0, &[])].concat());
    assert_eq!(wire.refusal(), ("08P01".to_owned(), "received unencrypted data after SSL request".to_owned()));
    let mut wire = Wire::connect(entry.port);
    wire.send(&[GSS_REQUEST, &startup_packet(3, 0, &[])].concat());
    let text = "received unencrypted data after GSSAPI encryption request";
    assert_eq!(wire.refusal(), ("08P01".to_owned(), text.to_owned()));
    entry.must_serve();
}

#[test]
fn versions_are_negotiated_as_postgresql_18_does() {
    let entry = Entry::start(1, "");
    let option = |more: &[(&str, &str)], minor: u16| {
        let mut wire = Wire::connect(entry.port);
        wire.startup(3, minor, more);
        let login = wire.greeting();
        wire.query("SELECT 7");
        assert_eq!(wire.outcome(), (None, Some("7".to_owned())));
        (login.negotiated, login.key.unwrap().secret.len())
    };
    assert_eq!(option(&[], 0), (None, 4));
    assert_eq!(option(&[], 1), (None, 4));
    assert_eq!(option(&[], 2), (None, 32));
    let body = |minor: u8, names: &[&str]| {
        let mut body = vec![0, 3, 0, minor, 0, 0, 0, u8::try_from(names.len()).unwrap()];
        names.iter().for_each(|name| body.extend_from_slice(format!("{name}\0").as_bytes()));
        Some(body)
    };
    assert_eq!(option(&[], 3), (body(2, &[]), 32));
    assert_eq!(option(&[], 9999), (body(2, &[]), 32));
    let unknown = [("_pq_.later", "1"), ("application_name", "x"), ("_pq_.other", "")];
    assert_eq!(option(&unknown, 0), (body(0, &["_pq_.later", "_pq_.other"]), 4));
    assert_eq!(option(&unknown, 2), (body(2, &["_pq_.later", "_pq_.other"]), 32));
    assert_eq!(option(&unknown, 5), (body(2, &["_pq_.later", "_pq_.other"]), 32));
}

#[test]
fn other_major_versions_are_refused_in_their_own_words() {
    let entry = Entry::start(1, "");
    for (major, minor) in [(4, 0), (5, 7), (1234, 1), (65535, 65535)] {
        let mut wire = Wire::connect(entry.port);
        wire.startup(major, minor, &[]);
        let text = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2");
        assert_eq!(wire.refusal(), ("0A000".to_owned(), text));
    }
    for (major, minor) in [(2, 0), (1, 0), (0, 0)] {
        let mut wire = Wire::connect(entry.port);
        wire.startup(major, minor, &[]);
        let mut said = Vec::new();
        while let Some(byte) = wire.byte() {
            said.push(byte);
        }
        let text = format!("EFATAL:  unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2\n\0");
        assert_eq!(String::from_utf8(said).unwrap(), text);
    }
}

/// Starts a long statement and gives the connection and its key.
fn sleeper(entry: &Entry, minor: u16) -> (Wire, Key) {
    let mut wire = Wire::connect(entry.port);
    let key = wire.log_in(minor).key.unwrap();
    let mark = key.pid;
    wire.query(&format!("SELECT 'sleeper {mark}', pg_sleep(60)"));
    let mut server = entry.servers[0].superuser();
    let sleeps = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%''sleeper {mark}''%'"
    );
    assert!(eventually(PATIENCE, || server.must(&sleeps).value() == "1"));
    (wire, key)
}

pub fn send_cancel(entry: &Entry, key: &Key) {
    let mut wire = Wire::connect(entry.port);
    wire.send(&cancel_packet(key));
    assert_eq!(wire.receive(), Said::Closed, "nobody is told");
}

#[test]
fn only_the_whole_secret_cancels() {
    let entry = Entry::start(1, "");
    for minor in [0, 2] {
        let (mut wire, key) = sleeper(&entry, minor);
        let with = |change: fn(&mut Key)| {
            let mut other = key.clone();
            change(&mut other);
            other
        };
        let last = key.secret.len() - 1;
        assert_eq!(last, if minor == 2 { 31 } else { 3 });
        for wrong in [
            with(|key| *key.secret.last_mut().unwrap() ^= 1),
            with(|key| key.secret[0] ^= 0x80),
            with(|key| key.secret.push(0)),
            with(|key| key.secret.resize(256, 0)),
            with(|key| key.pid += 1),
            with(|key| key.pid = 0),
        ] {
            send_cancel(&entry, &wrong);
        }
        let begin = Instant::now();
        // Had one of them hit, the answer would stand here before the right key is sent.
        std::thread::sleep(Duration::from_millis(200));
        if let Wire::Plain(stream) = &wire {
            stream.set_nonblocking(true).unwrap();
            let mut byte = [0];
            assert!(stream.peek(&mut byte).is_err(), "a wrong key has cancelled");
            stream.set_nonblocking(false).unwrap();
        }
        send_cancel(&entry, &key);
        let (error, _) = wire.outcome();
        assert_eq!(error.map(|(sqlstate, _)| sqlstate).as_deref(), Some("57014"));
        assert!(begin.elapsed() < Duration::from_secs(20));
        // The session lives on, and an old request does it no harm.
        send_cancel(&entry, &key);
        wire.query("SELECT 1");
        assert_eq!(wire.outcome(), (None, Some("1".to_owned())));
    }
}

#[test]
fn no_user_or_database_is_an_error_in_postgresqls_words() {
    let entry = Entry::start(1, "");
    let mut wire = Wire::connect(entry.port);
    wire.send(b"\0\0\0\x09\0\x03\0\0\0");
    assert_eq!(wire.refusal(), ("28000".to_owned(), "no PostgreSQL user name specified in startup packet".to_owned()));
    let mut wire = Wire::connect(entry.port);
    wire.send(b"\0\0\0\x12\0\x03\0\0user\0app\0\0");
    assert!(wire.greeting().key.is_some(), "the database has the user's name");
}
