//! Clients prove who they are to the proxy.

use ostrakon::auth::{ScramVerifier, hash_md5};
use ostrakon::base::Secret;

use crate::auth_ground::{Ground, psql, servers};

/// The servers trust the proxy: what is refused here was refused by the proxy.
const TRUST: &str = "host all all 127.0.0.1/32 trust\n";

const ROLES: &str = "CREATE ROLE plain LOGIN; CREATE ROLE verified LOGIN; CREATE ROLE hashed LOGIN; \
                     CREATE ROLE clear LOGIN; CREATE ROLE friend LOGIN; CREATE ROLE enemy LOGIN; \
                     CREATE ROLE \"Ünï \"\"q\"\" 'x'\" LOGIN; CREATE ROLE filed LOGIN; CREATE ROLE listed LOGIN; \
                     CREATE ROLE environed LOGIN";

fn users() -> String {
    let verified = ScramVerifier::of(&Secret::new("pässwörd \u{2168}"), b"0123456789abcdef", 4_096).to_text();
    let hashed = hash_md5("hashed", &Secret::new("md5 it"));
    let user = |name: &str, password: &str| format!("[[users]]\nname = {name:?}\npassword = {password:?}\n");
    user("plain", "sesame 'n' open")
        + &user("verified", verified.expose())
        + &user("hashed", hashed.expose())
        + &user("clear", "in the clear")
        + &user("enemy", "right but rejected")
        + &user("Ünï \"q\" 'x'", "ünï")
}

fn rule(kind: &str, user: &str, address: &str, method: &str) -> String {
    format!("[[hba]]\ntype = \"{kind}\"\nuser = {user:?}\naddress = \"{address}\"\nmethod = \"{method}\"\n")
}

fn rules() -> String {
    // The first that matches decides: the later rule for `enemy` and `friend` must never be reached.
    rule("host", "enemy", "all", "reject")
        + &rule("host", "friend", "10.0.0.0/8", "reject")
        + &rule("host", "friend", "loopback", "trust")
        + &rule("hostssl", "friend", "all", "reject")
        + &rule("host", "enemy", "all", "trust")
        + &rule("host", "hashed", "samehost", "md5")
        + &rule("host", "clear", "127.0.0.0/8", "password")
        + &rule("hostssl", "tlsonly", "all", "trust")
        + &rule("hostnossl", "plain", "all", "scram-sha-256")
        + "[[hba]]\ntype = \"host\"\ndatabase = [\"app\", \"ostrakon\"]\nuser = [\"verified\", \"nobody\", \"Ünï \\\"q\\\" 'x'\"]\n\
           address = \"all\"\nmethod = \"scram-sha-256\"\n"
}

#[test]
fn every_method_lets_the_right_in_and_no_others() {
    let ground = Ground::start(servers(&[TRUST], ROLES), &(users() + &rules()));
    for (user, password) in [
        ("plain", "sesame 'n' open"),
        // SASLprep: the Roman numeral nine is the letters I and X.
        ("verified", "pässwörd IX"),
        ("hashed", "md5 it"),
        ("friend", ""),
    ] {
        assert_eq!(ground.who(user, password).must(), user);
    }
    let odd = "Ünï \"q\" 'x'";
    assert_eq!(ground.psql("Ünï \"q\" \\'x\\'", "ünï", "", "SELECT current_user").must(), odd);
    for user in ["plain", "verified", "hashed"] {
        let words = format!("password authentication failed for user \"{user}\"");
        ground.who(user, "wrong").failed(&words);
        assert_eq!(ground.refusal(user, "wrong", "app"), ("28P01".to_owned(), words));
        ground.who(user, "").failed("no password supplied");
    }
    // A rule rejects, another one is for TLS only, and for the rest there is none.
    let whence = |user: &str| format!("host \"127.0.0.1\", user \"{user}\", database \"app\", no encryption");
    let refused = |user: &str| ground.refusal(user, "right but rejected", "app");
    assert_eq!(refused("enemy"), ("28000".into(), format!("pg_hba.conf rejects connection for {}", whence("enemy"))));
    for user in ["tlsonly", "stranger", "postgres"] {
        assert_eq!(refused(user), ("28000".into(), format!("no pg_hba.conf entry for {}", whence(user))));
    }
    // Not even the right password is taken in the clear.
    ground.who("clear", "in the clear").failed("clear text requires a TLS connection");
    // A database that does not exist is known to those only who have been let in.
    assert_eq!(ground.refusal("friend", "", "nowhere").0, "3D000");
    assert_eq!(ground.refusal("plain", "wrong", "nowhere").0, "28P01");
    assert_eq!(ground.refusal("verified", "x", "nowhere").0, "28000");
}

#[test]
fn a_user_who_does_not_exist_looks_like_one_who_mistypes() {
    let ground = Ground::start(servers(&[TRUST], ROLES), &(users() + &rule("host", "all", "all", "scram-sha-256")));
    let challenge = |user: &str| {
        let mut login = ground.raw_login(user);
        let (tag, offer) = login.receive();
        assert_eq!((tag, &offer[..]), (b'R', &b"\0\0\0\x0aSCRAM-SHA-256\0\0"[..]), "{user}");
        login.send(b'p', b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc");
        let (tag, first) = login.receive();
        assert_eq!(tag, b'R');
        let first = String::from_utf8(first[4..].to_vec()).unwrap();
        let salt = first.split(",s=").nth(1).unwrap().to_owned();
        let nonce = first.split(',').next().unwrap().to_owned();
        login.send(b'p', format!("c=biws,{nonce},p={}=", "A".repeat(43)).as_bytes());
        (salt, login.refused())
    };
    let (known, unknown) = (challenge("plain"), challenge("nobody at all"));
    assert_eq!((known.1.as_str(), unknown.1.as_str()), ("28P01", "28P01"));
    assert_eq!(known.0.len(), unknown.0.len(), "salts have the same form");
    assert_eq!(challenge("nobody at all").0, unknown.0, "and do not change");
    assert_ne!(challenge("nobody else").0, unknown.0);
    assert_eq!(ground.refusal("nobody at all", "x", "app").0, "28P01");
    // md5 hashes cannot be used for SCRAM; nobody is told so.
    assert_eq!(ground.refusal("hashed", "md5 it", "app").0, "28P01");
}

#[test]
fn a_client_that_does_not_answer_what_was_asked_is_sent_away() {
    let ground = Ground::start(servers(&[TRUST], ROLES), &(users() + &rule("host", "all", "all", "scram-sha-256")));
    let offered = || {
        let mut login = ground.raw_login("plain");
        assert_eq!(login.receive().0, b'R');
        login
    };
    let mut early = offered();
    early.send(b'Q', b"SELECT 1\0");
    assert_eq!(early.refused(), "08P01");
    let mut huge = offered();
    huge.send_bytes(b"p\x3f\xff\xff\xff");
    assert_eq!(huge.refused(), "08P01");
    let mut garbage = offered();
    garbage.send_bytes(b"p\0\0\0\x03");
    assert_eq!(garbage.refused(), "08P01");
    for body in [
        &b""[..],
        b"SCRAM-SHA-256-PLUS\0\0\0\0\x0bn,,n=,r=abc",
        b"SCRAM-SHA-256\0\0\0\0\x20p=tls-server-end-point,,n=,r=abc",
        b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,n=,r=abc",
        b"SCRAM-SHA-256\0\0\0\0\x0b\xff,,n=,r=abc",
    ] {
        let mut login = offered();
        login.send(b'p', body);
        assert_eq!(login.refused(), "08P01", "{body:?}");
    }
    // A login that is finished twice.
    let mut twice = offered();
    twice.send(b'p', b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc");
    assert_eq!(twice.receive().0, b'R');
    twice.send(b'p', b"n,,n=,r=abc");
    assert_eq!(twice.refused(), "08P01");
    assert_eq!(ground.who("plain", "sesame 'n' open").must(), "plain", "the proxy is none the worse for it");
}

#[test]
fn passwords_come_from_files_and_the_environment() {
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("password");
    std::fs::write(&file, "from a file\n").unwrap();
    let list = secrets.path().join("userlist.txt");
    std::fs::write(&list, "; users\n\"listed\" \"from a \"\"list\"\"\"\n").unwrap();
    let access = format!(
        "[auth]\nauth_file = {list:?}\n[[users]]\nname = \"filed\"\npassword_file = {file:?}\n\
         [[users]]\nname = \"environed\"\npassword_env = \"ENTRY_PASSWORD\"\n"
    );
    let ground = Ground::start_with(servers(&[TRUST], ROLES), &access, &[("ENTRY_PASSWORD", "from outside")]);
    for (user, password) in [("filed", "from a file"), ("listed", "from a \"list\""), ("environed", "from outside")] {
        assert_eq!(ground.who(user, password).must(), user);
        ground.who(user, "wrong").failed("password authentication failed");
    }
    // Where passwords are known and no rules are written, nobody is believed.
    assert_eq!(ground.refusal("plain", "", "app").0, "28P01");
}

#[test]
fn the_admin_database_is_for_admins() {
    let access = users()
        + "[[users]]\nname = \"dba\"\npassword = \"admin's own\"\n[auth]\nadmin_users = [\"dba\"]\n"
        + &rule("host", "friend", "loopback", "trust")
        + &rule("host", "all", "all", "scram-sha-256");
    let ground = Ground::start(servers(&[TRUST], ROLES), &access);
    let admin = |user: &str, password: &str| ground.psql(user, password, "dbname=ostrakon", "SHOW VERSION");
    assert!(!admin("dba", "admin's own").must().is_empty());
    admin("dba", "wrong").failed("password authentication failed");
    admin("plain", "sesame 'n' open").failed("permission denied for database \"ostrakon\"");
    admin("friend", "").failed("permission denied for database \"ostrakon\"");
    assert_eq!(ground.refusal("friend", "", "ostrakon").0, "42501");

    // Without a list: the control role by its password, and who is trusted on this machine.
    let access = users()
        + "[control]\npassword = \"of the control role\"\n"
        + &rule("host", "friend", "loopback", "trust")
        + &rule("host", "all", "all", "scram-sha-256");
    let ground = Ground::start(servers(&[TRUST], ROLES), &access);
    let admin = |user: &str, password: &str| ground.psql(user, password, "dbname=ostrakon", "SHOW VERSION");
    assert!(!admin("postgres", "of the control role").must().is_empty());
    assert!(!admin("friend", "").must().is_empty());
    admin("plain", "sesame 'n' open").failed("permission denied");
}

#[test]
fn no_output_of_the_proxy_holds_a_secret() {
    const PLANTED: [&str; 4] = ["planted-in-config", "planted-by-client", "planted-for-control", "planted-in-query"];
    let access = "[control]\npassword = \"planted-for-control\"\n[[users]]\nname = \"plain\"\n\
                  password = \"planted-in-config\"\n"
        .to_owned()
        + &rule("host", "friend", "loopback", "trust")
        + &rule("host", "all", "all", "scram-sha-256");
    let ground = Ground::start(servers(&[TRUST], ROLES), &access);
    let mut seen = String::new();
    let mut look = |said: crate::auth_ground::Said| seen.push_str(&format!("{}{}", said.stdout, said.stderr));
    look(ground.who("plain", "planted-in-config"));
    look(ground.who("plain", "planted-by-client"));
    look(ground.who("postgres", "planted-for-control"));
    look(ground.psql("friend", "", "", "ALTER ROLE friend PASSWORD 'planted-in-query'"));
    look(ground.psql("friend", "", "", "ALTER ROLE nowhere PASSWORD 'planted-in-query'"));
    for view in ["STATUS", "TOPOLOGY", "SHARDS", "NODES", "TABLES", "POOLS", "VERSION"] {
        look(ground.psql("friend", "", "dbname=ostrakon", &format!("SHOW {view}")));
    }
    let log = ground.log();
    assert!(log.contains("a client was not let in"), "the log is the talkative one: {log}");
    for planted in PLANTED {
        assert!(!seen.contains(planted), "{planted} was told to a client");
        assert!(!log.contains(planted), "{planted} stands in the log");
    }
    // The search finds what is there.
    assert!(log.contains("friend") && seen.contains("plain"));
    let direct =
        psql(&format!("host=127.0.0.1 port={} user=postgres dbname=app", ground.servers[0].port), "", "SELECT 1");
    direct.must();
}
