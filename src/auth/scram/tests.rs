//! The example of RFC 7677, both sides against each other, and every way to tamper with an exchange.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::auth::{ScramKeys, ScramVerifier};
use crate::base::Secret;

const NONCE: Nonce = *b"eighteen bytes !!!";
const OTHER: Nonce = *b"some other bytes !";

fn verifier() -> ScramVerifier {
    ScramVerifier::of(&Secret::new("pencil"), b"a salt of 16 by.", 16)
}

fn initial(mechanism: &str, message: &[u8]) -> Vec<u8> {
    let mut body = mechanism.as_bytes().to_vec();
    body.push(0);
    body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend_from_slice(message);
    body
}

fn continued(step: Result<Step, crate::error::ClientError>) -> Vec<u8> {
    match step.unwrap() {
        Step::Continue(message) => message,
        other => panic!("not continued: {other:?}"),
    }
}

/// Runs a login; the client's last message goes through `tamper`.
fn log_in(
    mut server: ServerExchange,
    binding: ClientBinding,
    password: &str,
    tamper: impl Fn(String) -> String,
) -> Result<Step, crate::error::ClientError> {
    let mut client = ClientExchange::new(binding, OTHER);
    let first = continued(server.step(&initial(client.mechanism(), &client.first())));
    let challenge = client.receive(&first).unwrap();
    let keys = ScramKeys::of(&Secret::new(password), &challenge.salt, challenge.iterations);
    let last = tamper(String::from_utf8(client.answer(&keys)).unwrap());
    let step = server.step(last.as_bytes())?;
    if let Step::Done { message, keys: recovered } = &step {
        client.finish(message).unwrap();
        assert_eq!(*recovered, keys, "the proxy has what the client has");
    }
    Ok(step)
}

fn plain_server() -> ServerExchange {
    ServerExchange::new(verifier(), false, None, NONCE)
}

fn tls_server() -> ServerExchange {
    ServerExchange::new(verifier(), false, Some(b"hash of a certificate".to_vec()), NONCE)
}

#[test]
fn the_example_of_rfc_7677_is_computed() {
    // The client's nonce of the example is not ours to choose, so its messages are taken as they stand.
    let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let verifier = ScramVerifier::of(&Secret::new("pencil"), &salt, 4_096);
    let mut server = ServerExchange::new(verifier, false, None, NONCE);
    server.nonce_is("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
    let first = continued(server.step(&initial(SCRAM_SHA_256, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")));
    assert_eq!(
        String::from_utf8(first).unwrap(),
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let Step::Done { message, keys } = server.step(last.as_bytes()).unwrap() else { panic!("refused") };
    assert_eq!(message, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    assert_eq!(keys, ScramKeys::of(&Secret::new("pencil"), &salt, 4_096));
}

#[test]
fn a_right_password_is_accepted_with_and_without_channel_binding() {
    let hash = b"hash of a certificate".to_vec();
    for (server, binding) in [
        (plain_server(), ClientBinding::None),
        (plain_server(), ClientBinding::NotOffered),
        (tls_server(), ClientBinding::None),
        (tls_server(), ClientBinding::EndPoint(hash)),
    ] {
        assert!(matches!(log_in(server, binding, "pencil", |last| last), Ok(Step::Done { .. })));
    }
}

#[test]
fn a_wrong_password_and_a_mock_are_told_nothing_but_no() {
    assert!(matches!(log_in(plain_server(), ClientBinding::None, "pen", |last| last), Ok(Step::Wrong)));
    let mock = ServerExchange::new(verifier(), true, None, NONCE);
    assert!(matches!(log_in(mock, ClientBinding::None, "pencil", |last| last), Ok(Step::Wrong)));
}

#[test]
fn a_changed_last_message_is_refused() {
    let refused = |server, binding, tamper: &dyn Fn(String) -> String| {
        let error = log_in(server, binding, "pencil", tamper).unwrap_err();
        format!("{} {}", error.sqlstate(), error.message)
    };
    let nonce = refused(plain_server(), ClientBinding::None, &|last| last.replace(",r=", ",r=x"));
    assert_eq!(nonce, "08P01 invalid SCRAM response");
    let proof = refused(plain_server(), ClientBinding::None, &|last| last.replace(",p=", ",p=A"));
    assert_eq!(proof, "08P01 malformed SCRAM message");
    let tail = refused(plain_server(), ClientBinding::None, &|last| last + ",x=1");
    assert_eq!(tail, "08P01 malformed SCRAM message");
    // The flag of the first message was `n`; somebody has changed it on the way.
    let flag = refused(plain_server(), ClientBinding::None, &|last| last.replace("c=biws", "c=eSws"));
    assert_eq!(flag, "08P01 unexpected SCRAM channel-binding attribute in client-final-message");
    let other = ClientBinding::EndPoint(b"hash of another certificate".to_vec());
    assert_eq!(refused(tls_server(), other, &|last| last), "28000 SCRAM channel binding check failed");
}

#[test]
fn one_bit_of_the_proof_decides() {
    let flip = |last: String| {
        let (head, proof) = last.split_once(",p=").unwrap();
        let mut proof = STANDARD.decode(proof).unwrap();
        proof[31] ^= 1;
        format!("{head},p={}", STANDARD.encode(proof))
    };
    assert!(matches!(log_in(plain_server(), ClientBinding::None, "pencil", flip), Ok(Step::Wrong)));
}

#[test]
fn a_client_that_was_not_shown_the_offer_of_binding_is_refused() {
    let error = tls_server().step(&initial(SCRAM_SHA_256, b"y,,n=,r=abc")).unwrap_err();
    assert_eq!((error.sqlstate(), error.message.as_str()), ("28000", "SCRAM channel binding negotiation error"));
    for (mechanism, message) in [
        (SCRAM_SHA_256_PLUS, &b"n,,n=,r=abc"[..]),
        (SCRAM_SHA_256_PLUS, b"y,,n=,r=abc"),
        (SCRAM_SHA_256, b"p=tls-server-end-point,,n=,r=abc"),
        (SCRAM_SHA_256_PLUS, b"p=tls-unique,,n=,r=abc"),
    ] {
        assert_eq!(tls_server().step(&initial(mechanism, message)).unwrap_err().sqlstate(), "08P01");
    }
    let error = plain_server().step(&initial(SCRAM_SHA_256_PLUS, b"p=tls-server-end-point,,n=,r=abc")).unwrap_err();
    assert_eq!(error.message, "client selected an invalid SASL authentication mechanism");
}

#[test]
fn a_recorded_login_is_of_no_use_a_second_time() {
    let mut recorded = Vec::new();
    let mut client = ClientExchange::new(ClientBinding::None, OTHER);
    let mut server = plain_server();
    let first = initial(client.mechanism(), &client.first());
    let challenge = client.receive(&continued(server.step(&first))).unwrap();
    let last = client.answer(&ScramKeys::of(&Secret::new("pencil"), &challenge.salt, challenge.iterations));
    assert!(matches!(server.step(&last), Ok(Step::Done { .. })));
    recorded.push(first);
    recorded.push(last.clone());
    // The same exchange cannot go on, and the next one has another nonce.
    assert_eq!(server.step(&last).unwrap_err().sqlstate(), "08P01");
    let mut later = ServerExchange::new(verifier(), false, None, *b"a later nonce, yes");
    continued(later.step(&recorded[0]));
    assert_eq!(later.step(&recorded[1]).unwrap_err().detail.as_deref(), Some("Nonce does not match."));
}

#[test]
fn malformed_first_messages_are_refused_with_postgresqls_codes() {
    for (message, code) in [
        (&b""[..], "08P01"),
        (b"x,,n=,r=abc", "08P01"),
        (b"n,a=root,n=,r=abc", "0A000"),
        (b"n,,m=x,n=,r=abc", "0A000"),
        (b"n,,r=abc", "08P01"),
        (b"n,,n=,r=", "08P01"),
        (b"n,,n=,r=a\x01c", "08P01"),
        (b"n,,n=,r=abc,!", "08P01"),
        (b"n,,n=\0,r=abc", "08P01"),
        (b"n,,n=\xff,r=abc", "08P01"),
    ] {
        assert_eq!(plain_server().step(&initial(SCRAM_SHA_256, message)).unwrap_err().sqlstate(), code, "{message:?}");
    }
    for body in [&b""[..], b"SCRAM-SHA-256", b"SCRAM-SHA-256\0", b"SCRAM-SHA-256\0\0\0\0\x09n,,", b"PLAIN\0\0\0\0\0"] {
        assert_eq!(plain_server().step(body).unwrap_err().sqlstate(), "08P01", "{body:?}");
    }
}

#[test]
fn a_client_without_an_initial_response_is_asked_for_it() {
    let mut server = plain_server();
    let mut client = ClientExchange::new(ClientBinding::None, OTHER);
    assert!(continued(server.step(b"SCRAM-SHA-256\0\xff\xff\xff\xff")).is_empty());
    let challenge = client.receive(&continued(server.step(&client.first()))).unwrap();
    let last = client.answer(&ScramKeys::of(&Secret::new("pencil"), &challenge.salt, challenge.iterations));
    assert!(matches!(server.step(&last), Ok(Step::Done { .. })));
}

#[test]
fn a_server_that_does_not_know_the_password_is_not_believed() {
    let mut client = ClientExchange::new(ClientBinding::None, OTHER);
    let nonce = STANDARD.encode(OTHER);
    for broken in ["", "r=other,s=AAAA,i=1", "r=,s=AAAA,i=1", "s=AAAA,i=1"] {
        assert!(client.receive(broken.as_bytes()).is_err(), "{broken}");
    }
    assert!(client.receive(format!("r={nonce},s=AAAA,i=1").as_bytes()).is_err(), "it adds nothing of its own");
    for count in ["0", "-1", "1000001", "4294967296"] {
        assert!(client.receive(format!("r={nonce}x,s=AAAA,i={count}").as_bytes()).is_err(), "{count}");
    }
    let challenge = client.receive(format!("r={nonce}x,s=AAAA,i=2").as_bytes()).unwrap();
    assert!(client.finish(b"v=AAAA").is_err(), "nothing was proved yet");
    client.answer(&ScramKeys::of(&Secret::new("pencil"), &challenge.salt, challenge.iterations));
    let wrong = format!("v={}", STANDARD.encode([0u8; 32]));
    for message in [wrong.as_bytes(), b"v=", b"v=AAAA", b"e=other-error", b""] {
        assert!(client.finish(message).is_err());
    }
}
