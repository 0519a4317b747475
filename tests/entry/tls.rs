//! TLS towards clients and towards servers, by libpq's own programs where they can say it.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::cluster::{eventually, free_port, ostrakon};
use crate::ground::{Entry, PATIENCE};
use crate::papers::{Authority, Papers, give_to_server};
use crate::postgres::ThrowawayPostgres;
use crate::wire::{GSS_REQUEST, SSL_REQUEST, Said, Wire, cancel_packet, client_config, startup_packet};

/// `[tls]` with these papers.
fn section(papers: &Papers, more: &str) -> String {
    format!("[tls]\ncertificate = {:?}\nkey = {:?}\n{more}", papers.certificate, papers.key)
}

fn client_entry(authority: &Authority, more: &str) -> Entry {
    let papers = authority.issue("proxy", &["localhost"], "localhost");
    Entry::start(1, &section(&papers, more))
}

#[test]
fn psql_connects_by_every_sslmode() {
    let authority = Authority::new();
    let entry = client_entry(&authority, "");
    let root = authority.root();
    let root = root.display();
    for words in [
        "host=localhost sslmode=disable",
        "host=localhost sslmode=prefer",
        "host=127.0.0.1 sslmode=require",
        &format!("host=127.0.0.1 sslmode=verify-ca sslrootcert={root}"),
        &format!("host=localhost sslmode=verify-full sslrootcert={root}"),
        &format!("host=localhost sslmode=verify-full sslrootcert={root} ssl_min_protocol_version=TLSv1.3"),
        &format!("host=localhost sslmode=verify-full sslrootcert={root} ssl_max_protocol_version=TLSv1.2"),
    ] {
        assert_eq!(entry.psql_must(words, "SELECT 1"), "1", "{words}");
        let said = entry.psql_must(words, "\\conninfo");
        assert_eq!(said.contains("SSL connection (protocol: TLSv1."), !words.contains("disable"), "{words}: {said}");
    }
    // Rows that fill many records, in both directions.
    let words = "host=localhost sslmode=require";
    assert_eq!(
        entry.psql_must(
            words,
            "SELECT length(string_agg(x, '')) FROM (SELECT repeat('x', 1000) AS x FROM generate_series(1, 5000)) t"
        ),
        "5000000"
    );
    assert_eq!(entry.psql_must(words, "SELECT repeat('y', 3000000)").len(), 3_000_000);
    let stranger = Authority::new();
    let said = entry.psql_fails(&format!("host=localhost sslmode=verify-ca sslrootcert={}", stranger.root().display()));
    assert!(said.contains("certificate verify failed"), "{said}");
    let said = entry.psql_fails(&format!("host=127.0.0.1 sslmode=verify-full sslrootcert={root}"));
    assert!(said.contains("does not match host name"), "{said}");
    let said = entry
        .psql_fails("host=localhost sslmode=require ssl_max_protocol_version=TLSv1.1 ssl_min_protocol_version=TLSv1");
    assert!(said.contains("SSL error"), "{said}");
    entry.must_serve();
}

#[test]
fn without_a_certificate_clients_that_insist_are_turned_down() {
    let entry = Entry::start(1, "");
    let said = entry.psql_fails("host=localhost sslmode=require");
    assert!(said.contains("server does not support SSL, but SSL was required"), "{said}");
    entry.psql_must("host=localhost sslmode=prefer", "SELECT 1");
    // TLS from the first byte gets no answer at all.
    let authority = Authority::new();
    assert!(Wire::connect(entry.port).into_tls(&client_config(&authority.root(), &["postgresql"])).is_err());
    entry.must_serve();
}

#[test]
fn tls_can_be_required() {
    let authority = Authority::new();
    let entry = client_entry(&authority, "mode = \"require\"\nversion_min = \"1.3\"\n");
    assert_eq!(entry.psql_must("host=localhost sslmode=require", "SELECT 1"), "1");
    let said = entry.psql_fails("host=localhost sslmode=disable");
    assert!(said.contains("connections without TLS are not accepted"), "{said}");
    entry.psql_fails("host=localhost sslmode=require ssl_max_protocol_version=TLSv1.2");
    let mut wire = Wire::connect(entry.port);
    wire.startup(3, 0, &[]);
    assert_eq!(wire.refusal().0, "28000");
    // A cancel request may come in the clear: libpq before 17 sends no other.
    let mut wire = Wire::connect_tls(entry.port, &client_config(&authority.root(), &[]));
    let key = wire.log_in(2).key.unwrap();
    wire.query("SELECT pg_sleep(60)");
    let began = Instant::now();
    let cancelling = std::thread::spawn({
        let port = entry.port;
        move || {
            std::thread::sleep(Duration::from_millis(300));
            Wire::connect(port).send(&cancel_packet(&key));
        }
    });
    assert_eq!(wire.outcome().0.unwrap().0, "57014");
    assert!(began.elapsed() < Duration::from_secs(30));
    cancelling.join().unwrap();
}

#[test]
fn tls_from_the_first_byte_has_to_name_the_protocol() {
    let authority = Authority::new();
    let entry = client_entry(&authority, "");
    for (alpn, is_let_in) in
        [(&["postgresql"][..], true), (&["h2", "postgresql"], true), (&[], false), (&["http/1.1"], false)]
    {
        let config = client_config(&authority.root(), alpn);
        match Wire::connect(entry.port).into_tls(&config) {
            Ok(mut wire) if is_let_in => {
                assert!(wire.log_in(2).key.is_some());
                wire.query("SELECT 5");
                assert_eq!(wire.outcome(), (None, Some("5".to_owned())));
            }
            Ok(mut wire) => {
                wire.startup(3, 0, &[]);
                assert_eq!(wire.receive(), Said::Closed, "{alpn:?}");
            }
            Err(error) => assert!(!is_let_in, "{alpn:?}: {error}"),
        }
    }
    // Asked for, the name is not needed; another one is refused all the same.
    for (alpn, is_let_in) in [(&[][..], true), (&["postgresql"], true), (&["http/1.1"], false)] {
        let mut wire = Wire::connect(entry.port);
        wire.send(SSL_REQUEST);
        assert_eq!(wire.byte(), Some(b'S'));
        let outcome = wire.into_tls(&client_config(&authority.root(), alpn));
        assert_eq!(outcome.is_ok(), is_let_in, "{alpn:?}");
    }
    entry.must_serve();
}

#[test]
fn encryption_is_not_asked_for_twice() {
    let authority = Authority::new();
    let entry = client_entry(&authority, "");
    let config = client_config(&authority.root(), &["postgresql"]);
    for (request, number) in [(SSL_REQUEST, 5679), (GSS_REQUEST, 5680)] {
        let mut wire = Wire::connect_tls(entry.port, &config);
        wire.send(request);
        let text = format!("unsupported frontend protocol 1234.{number}: server supports 3.0 to 3.2");
        assert_eq!(wire.refusal(), ("0A000".to_owned(), text));
        // Under TLS from the first byte PostgreSQL answers once, with no.
        let mut wire = Wire::connect(entry.port).into_tls(&config).unwrap();
        wire.send(request);
        assert_eq!(wire.byte(), Some(b'N'));
        assert!(wire.log_in(0).key.is_some());
    }
    let mut wire = Wire::connect(entry.port);
    wire.send(GSS_REQUEST);
    assert_eq!(wire.byte(), Some(b'N'));
    wire.send(SSL_REQUEST);
    assert_eq!(wire.byte(), Some(b'S'));
    assert!(wire.into_tls(&config).unwrap().log_in(0).key.is_some());
}

/// A statement that leaves a trace, as a message.
fn trace(number: usize) -> Vec<u8> {
    let text = format!("INSERT INTO traces VALUES ({number})\0");
    let mut message = vec![b'Q'];
    message.extend_from_slice(&u32::try_from(text.len() + 4).unwrap().to_be_bytes());
    message.extend_from_slice(text.as_bytes());
    message
}

#[test]
fn plaintext_before_tls_is_never_used() {
    let authority = Authority::new();
    let entry = client_entry(&authority, "");
    let config = client_config(&authority.root(), &["postgresql"]);
    entry.servers[0].superuser().must("CREATE TABLE traces (n int); GRANT ALL ON traces TO app");
    let startup = startup_packet(3, 0, &[]);
    // In the segment of the request: a statement, a whole login with a statement, half a packet, one byte.
    let injections = [trace(1), [startup.clone(), trace(2)].concat(), startup[..7].to_vec(), vec![0]];
    for injected in &injections {
        let mut wire = Wire::connect(entry.port);
        wire.send(&[SSL_REQUEST, injected].concat());
        assert_eq!(wire.refusal(), ("08P01".to_owned(), "received unencrypted data after SSL request".to_owned()));
    }
    // After the answer, where a handshake is due.
    for injected in &injections[..2] {
        let mut wire = Wire::connect(entry.port);
        wire.send(SSL_REQUEST);
        assert_eq!(wire.byte(), Some(b'S'));
        wire.send(injected);
        let mut said = Vec::new();
        while let Some(byte) = wire.byte() {
            said.push(byte);
        }
        // At most TLS's own alert comes back.
        assert!(said.is_empty() || said.first() == Some(&21), "{said:?}");
    }
    // In the middle of a session under TLS, between two records.
    let mut wire = Wire::connect_tls(entry.port, &config);
    wire.log_in(0);
    if let Wire::Tls(stream) = &mut wire {
        std::io::Write::write_all(&mut stream.sock, &trace(3)).unwrap();
    }
    // The session breaks; whatever it says is TLS's alert, which the client's side takes as an error.
    let broken = wire.try_receive();
    assert!(!matches!(broken, Ok(Said::Message(..))), "{broken:?}");
    let count = || entry.servers[0].superuser().must("SELECT count(*) FROM traces").value();
    assert_eq!(count(), "0");
    // The same statement under TLS does leave its trace.
    let mut wire = Wire::connect_tls(entry.port, &config);
    wire.log_in(0);
    wire.send(&trace(4));
    assert_eq!(wire.outcome(), (None, None));
    assert_eq!(count(), "1");
    entry.must_serve();
}

#[test]
fn certificates_are_exchanged_under_load_and_bad_ones_are_not_taken() {
    let authority = Authority::new();
    let entry = client_entry(&authority, "");
    let config = client_config(&authority.root(), &["postgresql"]);
    let mut old = Wire::connect_tls(entry.port, &config);
    old.log_in(0);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, done, config, port) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&config), entry.port);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut wire = Wire::connect_tls(port, &config);
                    wire.log_in(0);
                    wire.query("SELECT 3");
                    assert_eq!(wire.outcome(), (None, Some("3".to_owned())));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let seen = || Wire::connect_tls(entry.port, &config).server_certificate();
    let der = |papers: &Papers| {
        use rustls_pki_types::pem::PemObject as _;
        rustls_pki_types::CertificateDer::from_pem_file(&papers.certificate).unwrap().to_vec()
    };
    // By signal, at once.
    for _ in 0..3 {
        let papers = authority.issue("proxy", &["localhost"], "localhost");
        entry.signal(Signal::SIGHUP);
        assert!(eventually(Duration::from_secs(2), || seen() == der(&papers)), "{}", entry.log());
    }
    // By the files alone.
    let papers = authority.issue("proxy", &["localhost"], "localhost");
    assert!(eventually(Duration::from_secs(10), || seen() == der(&papers)), "{}", entry.log());
    // A key that is another certificate's, then none: nothing changes, and it is said once each.
    let good = der(&papers);
    let key = fs::read(&papers.key).unwrap();
    for bad in [fs::read(authority.issue("other", &["localhost"], "localhost").key).unwrap(), Vec::new()] {
        let before = entry.log().matches("the certificates cannot be used").count();
        fs::write(&papers.key, bad).unwrap();
        let warnings = || entry.log().matches("the certificates cannot be used").count() - before;
        assert!(eventually(Duration::from_secs(10), || warnings() > 0), "{}", entry.log());
        assert_eq!(seen(), good);
        assert_eq!(warnings(), 1);
    }
    fs::write(&papers.key, key).unwrap();
    let before = done.load(Ordering::Relaxed);
    assert!(eventually(PATIENCE, || done.load(Ordering::Relaxed) > before + 20));
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    old.query("SELECT 'still here'");
    assert_eq!(old.outcome(), (None, Some("still here".to_owned())));
    println!("{} logins under TLS while certificates changed", done.load(Ordering::Relaxed));
    assert!(!entry.log().contains("PRIVATE"));
}

#[test]
fn a_client_that_leaves_under_tls_is_noticed_while_its_statement_runs() {
    let authority = Authority::new();
    let entry = client_entry(&authority, "");
    for (name, version) in [("one", "1.2"), ("two", "1.3")] {
        let words = format!(
            "host=localhost sslmode=require ssl_min_protocol_version=TLSv{version} ssl_max_protocol_version=TLSv{version}"
        );
        let dsn = format!("port={} user=app dbname=app {words}", entry.port);
        let sql = format!("SELECT '{name} sleeps', pg_sleep(60)");
        let mut psql = std::process::Command::new(crate::cluster::pg_bin().join("psql"))
            .args(["-X", "-c", &sql, &dsn])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut server = entry.servers[0].superuser();
        let sleeps = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%{name} sleeps%'"
        );
        assert!(eventually(PATIENCE, || server.must(&sleeps).value() == "1"));
        psql.kill().unwrap();
        psql.wait().unwrap();
        assert!(eventually(Duration::from_secs(10), || server.must(&sleeps).value() == "0"), "{version}");
        // And one that says good-bye in order before it closes.
        let mut wire = Wire::connect_tls(entry.port, &client_config(&authority.root(), &[]));
        wire.log_in(0);
        wire.query(&sql);
        assert!(eventually(PATIENCE, || server.must(&sleeps).value() == "1"));
        wire.message(b'X', b"");
        let Wire::Tls(mut stream) = wire else { unreachable!() };
        stream.conn.send_close_notify();
        stream.conn.complete_io(&mut stream.sock).unwrap();
        assert!(eventually(Duration::from_secs(10), || server.must(&sleeps).value() == "0"), "{version}");
    }
}

/// A server under TLS: its certificate is for 127.0.0.1, it asks clients for a certificate of `authority` and
/// lets nobody in without TLS.
fn tls_server(authority: &Authority, hba: &str) -> ThrowawayPostgres {
    let papers = authority.issue("server", &["127.0.0.1"], "a server");
    give_to_server(&papers.key);
    let files =
        [("ssl_cert_file", papers.certificate), ("ssl_key_file", papers.key), ("ssl_ca_file", authority.root())];
    let mut settings: Vec<String> = files.iter().map(|(name, file)| format!("{name}={}", file.display())).collect();
    settings.push("ssl=on".to_owned());
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let server = ThrowawayPostgres::start_with(free_port(), &settings);
    server.psql("postgres", "CREATE ROLE app LOGIN; GRANT pg_monitor TO app");
    server.psql("postgres", "CREATE DATABASE app OWNER app");
    fs::write(server.data().join("pg_hba.conf"), hba).unwrap();
    server.stop();
    server.launch();
    server
}

fn before_server(server: &ThrowawayPostgres, tls: &str, node: &str) -> Entry {
    Entry::before(Vec::new(), &[("s".to_owned(), server.port(), node.to_owned())], &format!("[servers_tls]\n{tls}"))
}

const HBA_TLS: &str = "hostssl all all 127.0.0.1/32 trust\n";
const HBA_CERTIFICATE: &str = "hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n";

#[test]
fn servers_are_spoken_to_under_tls() {
    let authority = Authority::new();
    let server = tls_server(&authority, HBA_TLS);
    let full = format!("mode = \"verify-full\"\nca = {:?}\n", authority.root());
    let entry = before_server(&server, &full, "");
    entry.must_serve();
    let ssl = "SELECT ssl, version LIKE 'TLSv1.%' FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
               WHERE query LIKE '%this very statement%'";
    assert_eq!(entry.app().must(ssl).texts(), [["t", "t"]]);
    // So are control connections and whatever else the proxy opens: the server takes nothing else.
    let others = "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
                  WHERE backend_type = 'client backend' AND NOT ssl AND pid <> pg_backend_pid()";
    assert_eq!(entry.app().must(others).value(), "0");
    assert!(server.psql_fails("sslmode=disable"), "the server is to refuse connections without TLS");
    // Cancel requests, too.
    let mut wire = Wire::connect(entry.port);
    let key = wire.log_in(0).key.unwrap();
    wire.query("SELECT pg_sleep(60)");
    let began = Instant::now();
    std::thread::sleep(Duration::from_millis(300));
    Wire::connect(entry.port).send(&cancel_packet(&key));
    assert_eq!(wire.outcome().0.unwrap().0, "57014");
    assert!(began.elapsed() < Duration::from_secs(30));
    // A big answer and a big statement.
    let big = "z".repeat(2_000_000);
    assert_eq!(entry.app().must(&format!("SELECT length('{big}')")).value(), "2000000");
    assert_eq!(entry.app().must("SELECT repeat('w', 2000000)").value().len(), 2_000_000);
    drop(entry);
    let entry = before_server(&server, "", "");
    assert_eq!(entry.app().must(ssl).texts(), [["t", "t"]], "preferred is enough where there is TLS");
}

#[test]
fn servers_that_are_not_believed_are_not_used() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = tls_server(&authority, "host all all 127.0.0.1/32 trust\n");
    let refused = |tls: &str, node: &str, words: &str| {
        let entry = before_server(&server, tls, node);
        assert!(!entry.is_alive(), "{tls}: it serves");
        assert!(entry.log().contains(words), "{tls}: {}", entry.log());
    };
    let ca = |authority: &Authority| format!("ca = {:?}\n", authority.root());
    refused(&format!("mode = \"verify-full\"\n{}", ca(&stranger)), "", "invalid peer certificate");
    refused(&format!("mode = \"verify-ca\"\n{}", ca(&stranger)), "", "invalid peer certificate");
    refused(&format!("mode = \"disable\"\n{}", ca(&stranger)), "tls = \"verify-full\"", "invalid peer certificate");
    // The right CA, another host: verify-ca is content, verify-full is not.
    authority.issue("server", &["elsewhere.example"], "elsewhere.example");
    give_to_server(&authority.path("server.key"));
    server.stop();
    server.launch();
    refused(&format!("mode = \"verify-full\"\n{}", ca(&authority)), "", "invalid peer certificate");
    before_server(&server, &format!("mode = \"verify-ca\"\n{}", ca(&authority)), "").must_serve();
    before_server(&server, "mode = \"require\"", "").must_serve();
}

#[test]
fn servers_without_tls_are_used_only_where_it_is_not_required() {
    let server = ThrowawayPostgres::start(free_port());
    server.psql("postgres", "CREATE ROLE app LOGIN");
    server.psql("postgres", "CREATE DATABASE app OWNER app");
    before_server(&server, "mode = \"prefer\"", "").must_serve();
    before_server(&server, "mode = \"require\"", "tls = \"disable\"").must_serve();
    let entry = before_server(&server, "mode = \"require\"", "");
    assert!(!entry.is_alive());
    // The control connection is tokio-postgres's and says it in its words.
    assert!(entry.log().contains("TLS"), "{}", entry.log());
}

#[test]
fn servers_are_shown_a_certificate() {
    let authority = Authority::new();
    let server = tls_server(&authority, HBA_CERTIFICATE);
    let own = authority.issue("own", &[], "the proxy");
    let tls = format!("mode = \"verify-full\"\nca = {:?}\n", authority.root());
    let papers = format!("{tls}certificate = {:?}\nkey = {:?}\n", own.certificate, own.key);
    let entry = before_server(&server, &papers, "");
    let name = "SELECT client_dn FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                WHERE query LIKE '%this very statement%'";
    assert!(entry.app().must(name).value().contains("CN=the proxy"));
    drop(entry);
    let entry = before_server(&server, &tls, "");
    assert!(!entry.is_alive());
    assert!(entry.log().contains("valid client certificate"), "{}", entry.log());
}

#[test]
fn check_holds_certificates_and_keys_against_each_other() {
    let authority = Authority::new();
    let papers = authority.issue("proxy", &["localhost"], "localhost");
    let other = authority.issue("other", &["localhost"], "localhost");
    let check = |tls: &str| {
        let config = authority.path("ostrakon.toml");
        let rest = "[[shards]]\nname = \"s\"\n[[shards.nodes]]\nname = \"sa\"\nhost = \"127.0.0.1\"\n";
        fs::write(&config, format!("[proxy]\ndata = \"/tmp/x\"\ndatabase = \"app\"\n{tls}\n{rest}")).unwrap();
        let output = ostrakon().arg("check").arg("--config").arg(&config).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert!(check(&section(&papers, &format!("client_ca = {:?}\n", authority.root()))).0);
    let mixed = Papers { certificate: papers.certificate, key: other.key };
    let (is_well, said) = check(&section(&mixed, ""));
    assert!(!is_well && said.contains("proxy.crt cannot be used with its key"), "{said}");
    assert!(said.contains("ostrakon.toml:4:1: "), "{said}");
    let (is_well, said) = check("[servers_tls]\nmode = \"verify-full\"\nca = \"/nowhere/ca.crt\"\n");
    assert!(!is_well && said.contains("ostrakon.toml:4:1: cannot use /nowhere/ca.crt"), "{said}");
}
