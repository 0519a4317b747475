//! A million mutated messages: no panic, no over-read, no memory that was not paid for in bytes.

use bytes::{Bytes, BytesMut};
use ostrakon::wire::client_message::{self as client, Bind, ClientMessage, Target};
use ostrakon::wire::copy::CopyShape;
use ostrakon::wire::frame::{self, Frame};
use ostrakon::wire::server_message::{self as server, Field, tag};
use ostrakon::wire::{Format, WireError, startup};

use crate::check::{self, Decoders, Kind, SHIPPED};
use crate::copy;

const MESSAGES: u64 = 1_000_000;
const SEED: u64 = 0x0571_2a40_0bad_c0de;

/// xorshift64*, seeded anew for every message, so that one can be repeated alone.
struct Random(u64);

impl Random {
    fn new(seed: u64, message: u64) -> Self {
        let mixed = seed ^ message.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = Random(mixed.max(1));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next()).unwrap() % bound.max(1)
    }
}

/// What one function writes.
fn one(write: &dyn Fn(&mut BytesMut)) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    write(&mut buffer);
    buffer.to_vec()
}

fn corpus() -> Vec<(Kind, Vec<u8>)> {
    let mut corpus: Vec<(Kind, Vec<u8>)> = Vec::new();
    let bind = |formats: &[Format], values: &[Option<&'static [u8]>], results: &[Format]| Bind {
        portal: "p1".to_owned(),
        statement: "s1".to_owned(),
        parameter_formats: formats.to_vec(),
        parameters: values.iter().map(|value| value.map(Bytes::from_static)).collect(),
        result_formats: results.to_vec(),
    };
    let binds = [
        bind(&[], &[], &[]),
        bind(&[Format::Binary], &[Some(b"\0\0\0\x07"), None, Some(b"")], &[Format::Text]),
        bind(&[Format::Text, Format::Binary], &[Some(b"42"), Some(b"\xff\xfe")], &[Format::Text, Format::Binary]),
    ];
    let statement = Target::Statement("s1".to_owned());
    let client: Vec<Vec<u8>> = vec![
        one(&|out| client::encode_query(out, "select 'ü' from t where a = 1")),
        one(&|out| client::encode_parse(out, "s1", "select $1, $2", &[23, 0])),
        one(&|out| client::encode_bind(out, "", "", &binds[0])),
        one(&|out| client::encode_bind(out, "p", "s", &binds[1])),
        one(&|out| client::encode_bind(out, "", "s2", &binds[2])),
        one(&|out| client::encode_describe(out, &statement)),
        one(&|out| client::encode_close(out, &Target::Portal(String::new()))),
        one(&|out| client::encode_execute(out, "p1", 100)),
        one(&client::encode_sync),
        one(&client::encode_flush),
        one(&client::encode_terminate),
        one(&|out| client::encode_copy_data(out, b"1\ta\n")),
        one(&client::encode_copy_done),
        one(&|out| client::encode_copy_fail(out, "no")),
        one(&|out| client::encode_password(out, b"md5abc\0")),
        one(&|out| client::encode_function_call(out, b"\0\0\0\x01\0\0\0\0\0\0")),
    ];
    corpus.extend(client.iter().map(|bytes| (Kind::Client, bytes.clone())));
    // Parse, Bind, Describe, Execute, Sync in one piece, as drivers send them.
    corpus.push((Kind::Client, [1, 4, 5, 7, 8].map(|index: usize| client[index].clone()).concat()));
    corpus.extend(server_corpus().into_iter().map(|bytes| (Kind::Server, bytes)));
    let startups = [
        one(&startup::encode_tls_request),
        one(&startup::encode_gss_request),
        one(&|out| startup::encode_cancel(out, 7, b"abcd")),
        one(&|out| startup::encode_cancel(out, 7, &[9; 40])),
        one(&|out| startup::encode_startup(out, &[("user", "app"), ("database", "app"), ("_pq_.x", "1")])),
        b"\0\0\0\x12\0\x03\0\x02user\0app\0\0".to_vec(),
    ];
    corpus.extend(startups.into_iter().map(|bytes| (Kind::Startup, bytes)));
    corpus.extend(copy_corpus().into_iter().map(|(shape, bytes)| (Kind::Copy(shape), bytes)));
    corpus
}

fn server_corpus() -> Vec<Vec<u8>> {
    let field = |name: &'static str, format| Field {
        name: Bytes::from_static(name.as_bytes()),
        table_oid: 16384,
        column: 1,
        type_oid: 23,
        type_size: 4,
        type_modifier: -1,
        format,
    };
    let fields = [field("id", Format::Text), field("name", Format::Binary)];
    let mut corpus = vec![
        one(&|out| server::write_row_description(out, &fields)),
        one(&|out| server::write_row_description(out, &[])),
        one(&|out| server::write_data_row(out, &[Some(b"42"), None, Some(b""), Some(b"some text")])),
        one(&|out| server::write_command_complete(out, "INSERT 0 3")),
        one(&|out| server::write_error(out, "ERROR", "23505", "duplicate key", Some("Key exists."), Some("Do."))),
        one(&|out| server::write_notice(out, "NOTICE", "00000", "so")),
        one(&|out| server::write_ready_for_query(out, b'I')),
        one(&|out| server::write_parameter_status(out, "TimeZone", "UTC")),
        one(&|out| server::write_backend_key_data(out, 7, b"abcd")),
        one(&|out| server::write_parameter_description(out, &[23, 25])),
        one(&|out| server::write_copy_response(out, tag::COPY_OUT_RESPONSE, Format::Text, 3)),
        one(&|out| server::write_copy_response(out, tag::COPY_IN_RESPONSE, Format::Binary, 2)),
        one(&|out| server::write_notification(out, 7, "channel", "payload")),
        one(&|out| server::write_copy_data(out, b"1\ta\n")),
        one(&server::write_authentication_ok),
        one(&|out| server::write_empty(out, tag::PARSE_COMPLETE)),
    ];
    corpus.push([0, 2, 2, 3, 6].map(|index: usize| corpus[index].clone()).concat());
    corpus
}

fn copy_corpus() -> Vec<(CopyShape, Vec<u8>)> {
    let with_header = CopyShape { header: true, ..CopyShape::csv() };
    let other_escape = CopyShape { escape: b'\\', null: b"NULL".to_vec(), ..CopyShape::csv() };
    let binary = [copy::BINARY_HEADER, b"\0\x02\0\0\0\x01k\xff\xff\xff\xff\0\x02\0\0\0\0\0\0\0\x02ab\xff\xff"].concat();
    vec![
        (CopyShape::text(), b"1\ta\\tb\n\\N\t\\x41\\101\n3\tc\\\nd\n\\.\n".to_vec()),
        (CopyShape::text(), b"1\ta\r\n2\tb\r\n\\.\r\n".to_vec()),
        (with_header, b"id,name\n1,\"a\n\"\"b\"\"\"\n2,\n\\.\n".to_vec()),
        (other_escape, b"NULL,\"a\\\"b\\\\\"\r\n2,x\"y,\"\r\n".to_vec()),
        (CopyShape::binary(), binary),
    ]
}

const BYTES: &[u8] = &[0, 1, 4, 0x7f, 0x80, 0xff, b'\n', b'\r', b'\\', b'"', b'.', b'\t', b',', b'S'];
const LENGTHS: &[i32] = &[0, 1, 3, 4, 5, 8, 65_535, 10_004, i32::MAX, i32::MIN, -1, -2];

fn mutate(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(bytes.len());
    match random.below(9) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = BYTES[random.below(BYTES.len())];
            }
        }
        3 => bytes.truncate(at),
        4 => bytes.insert(at, BYTES[random.below(BYTES.len())]),
        5 => {
            let end = (at + random.below(6)).min(bytes.len());
            bytes.drain(at..end);
        }
        6 => {
            let length = LENGTHS[random.below(LENGTHS.len())].to_be_bytes();
            let length = &length[if random.below(2) == 0 { 0 } else { 2 }..];
            if let Some(place) = bytes.get_mut(at..at + length.len()) {
                place.copy_from_slice(length);
            }
        }
        7 => {
            // The head of one and the tail of another.
            bytes.truncate(at);
            bytes.extend_from_slice(&other[random.below(other.len())..]);
        }
        _ => {
            let end = (at + random.below(8)).min(bytes.len());
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
    }
}

/// Makes the frame's or packet's length right again, so that mutations reach the decoder of its body.
fn repair_length(kind: &Kind, bytes: &mut [u8]) {
    let at = match kind {
        Kind::Client | Kind::Server => 1,
        Kind::Startup => 0,
        Kind::Copy(_) => return,
    };
    let length = i32::try_from(bytes.len().saturating_sub(at)).unwrap();
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Runs mutated messages; returns how many were decoded.
fn run(decoders: &Decoders, corpus: &[(Kind, Vec<u8>)], seed: u64, messages: u64) -> Result<u64, String> {
    let mut decoded = 0;
    for message in 0..messages {
        let mut random = Random::new(seed, message);
        let (kind, original) = &corpus[random.below(corpus.len())];
        let mut bytes = original.clone();
        for _ in 0..=random.below(3) {
            let (_, other) = &corpus[random.below(corpus.len())];
            mutate(&mut random, &mut bytes, other);
        }
        if random.below(2) == 0 {
            repair_length(kind, &mut bytes);
        }
        let pieces = [1 + random.below(4), 1 + random.below(20)];
        match check::check(decoders, kind, &bytes, &pieces) {
            Ok(was_decoded) => decoded += u64::from(was_decoded),
            Err(verdict) => {
                return Err(format!(
                    "seed {seed:#x}, message {message} ({kind:?}, {}): {verdict}",
                    bytes.escape_ascii()
                ));
            }
        }
    }
    Ok(decoded)
}

fn seed() -> u64 {
    let given = std::env::var("OSTRAKON_WIRE_SEED").ok();
    given.map_or(SEED, |text| {
        let text = text.trim_start_matches("0x");
        u64::from_str_radix(text, 16).expect("OSTRAKON_WIRE_SEED is a hexadecimal number")
    })
}

#[test]
fn a_million_mutated_messages_do_no_harm() {
    let seed = seed();
    let corpus = corpus();
    for (kind, bytes) in &corpus {
        check::check(&SHIPPED, kind, bytes, &[1]).unwrap_or_else(|verdict| panic!("before mutation: {verdict}"));
    }
    let started = std::time::Instant::now();
    let decoded = run(&SHIPPED, &corpus, seed, MESSAGES).unwrap_or_else(|verdict| panic!("{verdict}"));
    println!("seed {seed:#x}: {decoded} of {MESSAGES} decoded, {:?}", started.elapsed());
    // Neither all refused at the door nor all harmless.
    assert!((MESSAGES / 10..MESSAGES * 9 / 10).contains(&decoded), "{decoded}");
}

/// Negative controls: each of these planted bugs must be seen.
fn caught(decoders: &Decoders) -> String {
    run(decoders, &corpus(), seed(), 50_000).expect_err("the planted bug was not seen")
}

#[test]
fn a_decoder_that_ignores_left_over_bytes_is_caught() {
    fn decode(frame: &Frame) -> Result<ClientMessage, WireError> {
        if frame.tag == b'S' { Ok(ClientMessage::Sync) } else { client::decode(frame) }
    }
    let verdict = caught(&Decoders { decode_client: decode, ..SHIPPED });
    assert!(verdict.contains("Sync is not"), "{verdict}");
}

#[test]
fn a_decoder_that_indexes_is_caught() {
    fn decode(frame: &Frame) -> Result<ClientMessage, WireError> {
        let body = frame.body();
        if frame.tag == b'D' && body[0] == b'?' { Err(WireError::Malformed) } else { client::decode(frame) }
    }
    let verdict = caught(&Decoders { decode_client: decode, ..SHIPPED });
    assert!(verdict.contains("panic: index out of bounds"), "{verdict}");
}

#[test]
fn a_decoder_that_believes_a_count_is_caught() {
    fn decode(frame: &Frame) -> Result<ClientMessage, WireError> {
        let mut message = client::decode(frame)?;
        if let ClientMessage::Bind(bind) = &mut message {
            bind.parameters.reserve(65_535);
        }
        Ok(message)
    }
    let verdict = caught(&Decoders { decode_client: decode, ..SHIPPED });
    assert!(verdict.contains("room for"), "{verdict}");
}

#[test]
fn a_framer_that_believes_a_length_is_caught() {
    fn take(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Frame>, WireError> {
        let frame = frame::take_frame(buffer, bytes_max)?;
        if frame.is_none() && buffer.len() >= 5 {
            buffer.reserve(100_000);
        }
        Ok(frame)
    }
    let verdict = caught(&Decoders { take_frame: take, ..SHIPPED });
    assert!(verdict.contains("buffer grew"), "{verdict}");
}

#[test]
fn a_framer_that_reads_into_the_next_message_is_caught() {
    fn take(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Frame>, WireError> {
        let Some(mut frame) = frame::take_frame(buffer, bytes_max)? else { return Ok(None) };
        if let Some(next) = buffer.first() {
            frame.bytes = [&frame.bytes[..], &[*next]].concat().into();
        }
        Ok(Some(frame))
    }
    let verdict = caught(&Decoders { take_frame: take, ..SHIPPED });
    assert!(verdict.contains("with the length"), "{verdict}");
}

#[test]
fn a_start_up_decoder_that_drops_parameters_is_caught() {
    use startup::StartupPacket;
    fn take(buffer: &mut BytesMut) -> Result<Option<StartupPacket>, WireError> {
        let mut packet = startup::take_startup(buffer)?;
        if let Some(StartupPacket::Startup { parameters, .. }) = &mut packet {
            parameters.retain(|(name, _)| !name.starts_with("_pq_."));
        }
        Ok(packet)
    }
    let verdict = caught(&Decoders { take_startup: take, ..SHIPPED });
    assert!(verdict.contains("is not"), "{verdict}");
}

#[test]
fn a_splitter_that_forgets_its_quotes_between_pieces_is_caught() {
    fn split(shape: &CopyShape, keys: &[usize], data: &[u8], sizes: &[usize]) -> copy::Events {
        // As if each piece began on a line.
        let cut = sizes.first().map_or(data.len(), |size| (*size).min(data.len()));
        let (mut events, error) = copy::split(shape, keys, &data[..cut], &[]);
        if error.is_some() || cut == data.len() {
            return (events, error);
        }
        let (later, error) = copy::split(shape, keys, &data[cut..], &[]);
        events.extend(later);
        (events, error)
    }
    let verdict = caught(&Decoders { split_copy: split, ..SHIPPED });
    assert!(verdict.contains("pieces"), "{verdict}");
}

#[test]
fn a_splitter_that_loses_the_last_row_is_caught() {
    use ostrakon::wire::copy::CopyEvent;
    fn split(shape: &CopyShape, keys: &[usize], data: &[u8], sizes: &[usize]) -> copy::Events {
        let (mut events, error) = copy::split(shape, keys, data, sizes);
        if matches!(events.last(), Some(Ok(CopyEvent::Row(_)))) {
            events.pop();
        }
        (events, error)
    }
    let verdict = caught(&Decoders { split_copy: split, ..SHIPPED });
    assert!(verdict.contains("lost what follows"), "{verdict}");
}
