//! Clients that mean harm, or that are broken: each is refused, and the others do not notice.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::cluster::eventually;
use crate::ground::{Entry, PATIENCE};
use crate::papers::Authority;
use crate::raw::Raw;
use crate::wire::{QUERY, SSL_REQUEST, Said, Wire, client_config, startup_packet};

/// A small generator, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 32) as u8).collect()
    }
}

/// Reads until the connection is closed, which must not take long.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return said,
            Ok(count) => said.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return said,
            Err(error) => panic!("not closed: {error}"),
        }
    }
}

#[test]
fn startup_packets_that_end_early_start_nothing() {
    let entry = Entry::start(1, "");
    let packet = startup_packet(3, 2, &[("application_name", "cut"), ("options", "-c work_mem=1MB")]);
    for cut in 0..packet.len() {
        let mut wire = Wire::connect(entry.port);
        wire.send(&packet[..cut]);
        wire.finish();
        assert_eq!(wire.receive(), Said::Closed, "{cut}");
    }
    let mut wire = Wire::connect(entry.port);
    wire.send(&packet);
    assert!(wire.greeting().key.is_some(), "whole, it is a login");
    entry.must_serve();
}

#[test]
fn first_packets_that_are_nonsense_are_refused_with_08p01() {
    let entry = Entry::start(1, "");
    let long = startup_packet(3, 0, &[("application_name", &"x".repeat(10_000))]);
    let unterminated = b"\0\0\0\x11\0\x03\0\0user\0app\0x".to_vec();
    let not_utf8 = b"\0\0\0\x13\0\x03\0\0user\0\xff\xfe\0\0\0\0".to_vec();
    let short_secret = b"\0\0\0\x0f\x04\xd2\x16\x2e\0\0\0\x01abc".to_vec();
    let mut dice = Dice(0x5eed);
    // Lengths that cannot be: too small, negative, too large. Nothing is waited for behind them.
    let lengths = [0u32, 3, 7, 0x8000_0000, u32::MAX, 10_005, 0x7fff_ffff];
    let mut bad: Vec<Vec<u8>> = lengths.iter().map(|length| length.to_be_bytes().to_vec()).collect();
    bad.extend([long, unterminated, not_utf8, short_secret, b"GET / HTTP/1.1\r\n\r\n".to_vec()]);
    bad.extend([b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), vec![0xff; 64], QUERY.to_vec()]);
    // 0x16 in front would be TLS, and three zeros a small length.
    bad.extend((0..40).map(|_| [&[0x80 | dice.bytes(1)[0]], &dice.bytes(100)[..]].concat()));
    for bytes in &bad {
        let mut wire = Wire::connect(entry.port);
        wire.send(bytes);
        assert_eq!(wire.refusal().0, "08P01", "{:?}", &bytes[..bytes.len().min(40)]);
    }
    // TLS that nobody offers here, and an open mouth: silence.
    for bytes in [vec![0x16], [vec![0x16, 3, 1], dice.bytes(500)].concat()] {
        let mut wire = Wire::connect(entry.port);
        wire.send(&bytes);
        assert_eq!(wire.receive(), Said::Closed);
    }
    entry.must_serve();
}

#[test]
fn garbage_in_the_place_of_a_handshake_harms_nobody() {
    let authority = Authority::new();
    let papers = authority.issue("proxy", &["localhost"], "localhost");
    let entry = Entry::start(
        1,
        &format!("login_timeout_ms = 1500\n[tls]\ncertificate = {:?}\nkey = {:?}\n", papers.certificate, papers.key),
    );
    let mut dice = Dice(77);
    for round in 0..60 {
        let mut stream = TcpStream::connect(("127.0.0.1", entry.port)).unwrap();
        if round % 2 == 0 {
            stream.write_all(SSL_REQUEST).unwrap();
            let mut answer = [0];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [b'S']);
        }
        let garbage = match round % 3 {
            // A handshake record whose length lies, one that is cut, and anything.
            0 => [vec![0x16, 3, 1, 0x40, 0], dice.bytes(700)].concat(),
            1 => [vec![0x16, 3, 1, 0, 90, 1, 0, 0, 86], dice.bytes(30)].concat(),
            _ => [vec![0x16], dice.bytes(300)].concat(),
        };
        stream.write_all(&garbage).unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let said = read_to_end(&mut stream);
        assert!(!said.windows(4).any(|bytes| bytes == b"user"), "{said:?}");
    }
    let mut wire = Wire::connect_tls(entry.port, &client_config(&authority.root(), &["postgresql"]));
    assert!(wire.log_in(0).key.is_some());
    entry.must_serve();
}

#[test]
fn a_login_ends_after_its_time() {
    let authority = Authority::new();
    let papers = authority.issue("proxy", &["localhost"], "localhost");
    let entry = Entry::start(
        1,
        &format!("login_timeout_ms = 700\n[tls]\ncertificate = {:?}\nkey = {:?}\n", papers.certificate, papers.key),
    );
    let hello = [0x16, 3, 1, 0, 200, 1, 0, 0, 196];
    for (bytes, is_told) in [
        (Vec::new(), true),
        (startup_packet(3, 0, &[])[..9].to_vec(), true),
        ([SSL_REQUEST].concat(), false),
        (hello.to_vec(), false),
    ] {
        let began = Instant::now();
        let mut stream = TcpStream::connect(("127.0.0.1", entry.port)).unwrap();
        stream.write_all(&bytes).unwrap();
        let said = read_to_end(&mut stream);
        let took = began.elapsed();
        assert!(took > Duration::from_millis(600) && took < Duration::from_secs(10), "{took:?}");
        let text = String::from_utf8_lossy(&said);
        // In the middle of a handshake there is nobody to tell.
        assert_eq!(text.contains("canceling authentication due to timeout"), is_told, "{text}");
    }
    // One byte now and then gains no time.
    let began = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", entry.port)).unwrap();
    for byte in startup_packet(3, 0, &[("application_name", &"slow".repeat(200))]) {
        if stream.write_all(&[byte]).is_err() || began.elapsed() > Duration::from_secs(10) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    // Who is logged in has all the time there is.
    let mut app = entry.app();
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(app.must("SELECT 1").value(), "1");
}

/// A message with a length of its own choice.
fn lying(tag: u8, length: u32, body: &[u8]) -> Vec<u8> {
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

/// Bodies that cannot be taken apart, by tag.
fn broken_bodies() -> Vec<(u8, Vec<u8>)> {
    let bind = |rest: &[u8]| [b"\0\0", rest].concat();
    vec![
        (b'Q', b"SELECT 1".to_vec()),
        (b'Q', Vec::new()),
        (b'Q', b"SELECT 1\0x".to_vec()),
        (b'P', b"\0".to_vec()),
        (b'P', b"\0SELECT 1".to_vec()),
        (b'P', b"\0SELECT 1\0\0\x02\0\0\0\x17".to_vec()),
        (b'P', b"\0SELECT 1\0\xff\xff".to_vec()),
        (b'B', Vec::new()),
        (b'B', bind(b"\0")),
        (b'B', bind(b"\0\x01\0")),
        (b'B', bind(b"\0\0\0\x01\0\0\0\x09ab")),
        (b'B', bind(b"\0\0\0\x01\x7f\xff\xff\xff")),
        (b'B', bind(b"\0\0\0\x01\xff\xff\xff\xfe\0\0")),
        (b'B', bind(b"\0\0\xff\xff")),
        (b'B', bind(b"\xff\xff")),
        (b'B', bind(b"\0\0\0\0\xff\xff")),
        (b'D', Vec::new()),
        (b'D', b"S".to_vec()),
        (b'D', b"Sname".to_vec()),
        (b'D', b"x\0".to_vec()),
        (b'C', b"P".to_vec()),
        (b'C', b"?\0".to_vec()),
        (b'E', b"\0".to_vec()),
        (b'E', b"\0\0\0".to_vec()),
        (b'E', b"name".to_vec()),
        (b'F', b"\0\0".to_vec()),
        (b'F', b"\0\0\x05\x14\0\x01\0\x01\0\x01\x7f\xff\xff\xff".to_vec()),
    ]
}

fn messages_that_lie_end_their_session(shards: usize) {
    let entry = Entry::start(shards, "message_bytes_max = 100000\n");
    let mut bad: Vec<Vec<u8>> = Vec::new();
    // Lengths that cannot be, on every message and on tags that are none.
    for tag in *b"QPBDCEHSFXdcfp\0\x01z~\xff" {
        bad.extend([0u32, 3, 0x8000_0000, u32::MAX, 0x7fff_ffff, 100_001].map(|length| lying(tag, length, b"")));
    }
    bad.extend([b'z', 0, 255, b'R', b'Z'].map(|tag| lying(tag, 4, b"")));
    let broken = broken_bodies();
    bad.extend(broken.iter().map(|(tag, body)| lying(*tag, u32::try_from(body.len() + 4).unwrap(), body)));
    for bytes in &bad {
        let mut wire = Wire::connect(entry.port);
        wire.log_in(0);
        // A statement for Bind: that there is none comes before anything else that is wrong.
        wire.message(b'P', b"\0SELECT 1\0\0\0");
        wire.send(bytes);
        wire.send(b"S\0\0\0\x04");
        // With one shard the server may be the one who reads a body, and says it itself.
        let (error, value) = wire.outcome();
        let sqlstate = error.map(|(sqlstate, _)| sqlstate);
        // FunctionCall is refused with several shards, whatever is in it.
        let is_unknown = shards > 1 && bytes[0] == b'F' && sqlstate.as_deref() == Some("0A000");
        assert!(is_unknown || sqlstate.as_deref() == Some("08P01"), "{bytes:?}: {sqlstate:?}");
        assert_eq!(value, None, "{bytes:?}");
    }
    println!("{} broken messages over {shards} shards, each 08P01", bad.len());
    entry.must_serve();
    // Cut anywhere, a message is never run.
    let query = lying(b'Q', 13, b"SELECT 1\0");
    for cut in 1..query.len() {
        let mut wire = Wire::connect(entry.port);
        wire.log_in(0);
        wire.send(&query[..cut]);
        wire.finish();
        assert_eq!(wire.receive(), Said::Closed, "{cut}");
    }
    // At the limit is not over it.
    let mut app = entry.app();
    let room = 100_000 - 4 - 1 - "SELECT length('')".len();
    assert_eq!(app.must(&format!("SELECT length('{}')", "x".repeat(room))).value(), room.to_string());
    entry.must_serve();
}

#[test]
fn messages_that_lie_end_their_session_with_one_shard() {
    messages_that_lie_end_their_session(1);
}

#[test]
fn messages_that_lie_end_their_session_with_two_shards() {
    messages_that_lie_end_their_session(2);
}

#[test]
fn garbage_after_the_login_ends_its_session() {
    for shards in [1, 2] {
        let entry = Entry::start(shards, "");
        let mut dice = Dice(0xabcd);
        for _ in 0..100 {
            let mut stream = TcpStream::connect(("127.0.0.1", entry.port)).unwrap();
            stream.write_all(&startup_packet(3, 0, &[])).unwrap();
            let count = (dice.next() % 300) as usize + 1;
            let _ = stream.write_all(&dice.bytes(count));
            let _ = stream.shutdown(std::net::Shutdown::Write);
            read_to_end(&mut stream);
        }
        entry.must_serve();
    }
}

#[test]
fn statements_too_deep_or_too_long_get_an_error() {
    let deep = 40_000;
    let statements = [
        format!("SELECT {}1{}", "(".repeat(deep), ")".repeat(deep)),
        format!("SELECT {}1", "- ".repeat(deep)),
        format!("SELECT {}true", "NOT ".repeat(deep)),
        format!("SELECT 1{}", " + 1".repeat(deep)),
        format!("SELECT true{}", " OR true".repeat(deep)),
        format!("SELECT {}1{}", "ARRAY[".repeat(deep), "]".repeat(deep)),
        format!("SELECT {}1{}", "CASE WHEN true THEN ".repeat(2_000), " END".repeat(2_000)),
        format!("{}SELECT 1{}", "SELECT * FROM (".repeat(deep), ") t".repeat(deep)),
        format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(deep)),
        format!("SELECT 1{}", "::int".repeat(deep)),
        "(".repeat(deep),
        "'".repeat(deep + 1),
        // PostgreSQL's own lexer takes minutes for a hundred times as many.
        "/*".repeat(2_000),
        "$a$".repeat(deep + 1),
    ];
    for shards in [1, 2] {
        let entry = Entry::start(shards, "");
        for statement in &statements {
            let mut app = entry.app();
            let head = &statement[..40];
            let began = Instant::now();
            let reply = app.simple(statement).unwrap_or_else(|error| panic!("{shards} {head}: {error}"));
            println!("{shards} {head} {:?} {:?}", began.elapsed(), reply.fault());
            // Too deep, too long, not closed, or simply right: whatever it is, it is said.
            let sqlstate = reply.sqlstate().to_owned();
            let known = ["54001", "54000", "54011", "42601", "0A000", "00000", "42846"];
            assert!(known.contains(&sqlstate.as_str()), "{shards} {head}: {:?}", reply.fault());
            assert_eq!(reply.status, 'I');
            // The session lives on.
            assert_eq!(app.must("SELECT 1").value(), "1", "{shards} {head}");
            let prepared = app.extended(statement, &[], None).unwrap();
            assert_eq!(prepared.status, 'I', "{shards} {head}");
        }
        entry.must_serve();
        println!("{shards} shards: {} KiB at most", entry.memory_kb().1);
    }
}

#[test]
fn a_long_message_takes_memory_only_as_it_comes() {
    let entry = Entry::start(1, "");
    let before = entry.memory_kb().0;
    // A hundred clients announce a gigabyte each.
    let clients: Vec<Wire> = (0..100)
        .map(|_| {
            let mut wire = Wire::connect(entry.port);
            wire.log_in(0);
            wire.send(&lying(b'Q', 0x3fff_ffff, b"SELECT 'and then nothing"));
            wire
        })
        .collect();
    entry.must_serve();
    let grown = entry.memory_kb().1.saturating_sub(before);
    println!("100 announcements of 1 GiB: {grown} KiB");
    assert!(grown < 64 * 1024, "{grown} KiB");
    drop(clients);
}

#[test]
fn a_session_idle_in_a_transaction_is_ended() {
    for shards in [1, 2] {
        let entry = Entry::start(shards, "idle_transaction_timeout_ms = 600\n");
        entry.servers[0].superuser().must("CREATE TABLE t (n int); GRANT ALL ON t TO app");
        let mut wire = Wire::connect(entry.port);
        wire.log_in(0);
        wire.query("BEGIN");
        assert_eq!(wire.outcome(), (None, None));
        wire.query("SELECT 1");
        assert_eq!(wire.outcome().1.as_deref(), Some("1"));
        let began = Instant::now();
        let text = "terminating connection due to idle-in-transaction timeout";
        assert_eq!(wire.refusal(), ("25P03".to_owned(), text.to_owned()));
        assert!(began.elapsed() > Duration::from_millis(400), "{:?}", began.elapsed());
        let mut server = entry.servers[0].superuser();
        let idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
        assert!(eventually(PATIENCE, || server.must(idle).value() == "0"));
        // Outside of a transaction, and with a long statement inside of one, there is no hurry.
        let mut app = entry.app();
        std::thread::sleep(Duration::from_millis(1_200));
        app.must("BEGIN");
        app.must("SELECT pg_sleep(1.2)");
        app.must("COMMIT");
    }
}

/// Room for this many descriptors in this process.
fn raise_descriptors(wanted: u64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard >= wanted, "at most {hard} descriptors here");
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
}

/// Half a login: a startup packet, or an SSLRequest, that is never finished, or nothing.
fn half_open(port: u16, number: usize) -> Option<TcpStream> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).ok()?;
    let part: &[u8] = match number % 3 {
        0 => b"\0\0\0\x50\0\x03\0\0user\0app",
        1 => &SSL_REQUEST[..5],
        _ => b"",
    };
    let _ = stream.write_all(part);
    Some(stream)
}

#[test]
fn ten_thousand_half_open_logins_keep_nobody_out() {
    const HALF_OPEN: usize = 10_000;
    raise_descriptors(HALF_OPEN as u64 + 500);
    let entry = Entry::start(1, "clients_max = 50\n");
    let mut working = entry.app();
    working.must("SELECT 1");
    let before = entry.memory_kb().0;
    let began = Instant::now();
    let sockets: Vec<TcpStream> = (0..HALF_OPEN).filter_map(|number| half_open(entry.port, number)).collect();
    let opened = began.elapsed();
    assert_eq!(sockets.len(), HALF_OPEN);
    // Who works, works on; who comes now is let in as soon as the silent ones are no longer new.
    assert_eq!(working.must("SELECT 2").value(), "2");
    let began = Instant::now();
    assert!(eventually(Duration::from_secs(10), || Raw::connect(entry.port, "app", "app").is_ok()));
    let let_in = began.elapsed();
    let new: Vec<Raw> = (0..49).map(|_| entry.app()).collect();
    assert_eq!(new.len(), 49, "every place of a client is still to be had");
    let (now, most) = entry.memory_kb();
    let alive = sockets.iter().filter(|socket| is_open(socket)).count();
    println!(
        "{HALF_OPEN} half-open logins in {opened:?}: {alive} kept, a client let in after {let_in:?}, \
         memory {before} KiB before, {now} KiB now, {most} KiB at most"
    );
    assert!(alive <= 1_000, "{alive} are kept");
    assert!(most - before < 64 * 1024, "{} KiB", most - before);
    drop(sockets);
    drop((new, working));
    assert!(eventually(PATIENCE, || Raw::connect(entry.port, "app", "app").is_ok()));
    assert!(entry.is_alive());
}

/// The proxy has not closed it.
fn is_open(mut socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let mut chunk = [0; 512];
    loop {
        match socket.read(&mut chunk) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn the_newcomer_is_told_when_the_door_is_full() {
    let entry = Entry::start(1, "logins_max = 3\n");
    let silent: Vec<TcpStream> = (0..3).map(|_| half_open(entry.port, 2).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(200));
    let mut wire = Wire::connect(entry.port);
    let told = ("53300".to_owned(), "too many connections have not logged in yet".to_owned());
    assert_eq!(wire.refusal(), told);
    std::thread::sleep(Duration::from_millis(2_000));
    entry.must_serve();
    let gone = silent.iter().filter(|socket| !is_open(socket)).count();
    assert_eq!(gone, 1, "the oldest had to go, and no other");
}
