//! Logins under TLS: channel binding, certificates, clear text, and servers that speak TLS.

use crate::auth_ground::{Ground, servers};
use crate::cluster::Server;
use crate::papers::{Authority, Papers, give_to_server};

const TRUST: &str = "host all all 127.0.0.1/32 trust\n";

const ROLES: &str = "CREATE ROLE plain LOGIN; CREATE ROLE clear LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE twin LOGIN";

fn rule(kind: &str, user: &str, method: &str, more: &str) -> String {
    format!("[[hba]]\ntype = \"{kind}\"\nuser = {user:?}\naddress = \"all\"\nmethod = \"{method}\"\n{more}\n")
}

fn tls(server: &Papers, authority: &Authority) -> String {
    format!(
        "[tls]\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n",
        server.certificate,
        server.key,
        authority.root()
    )
}

fn users() -> &'static str {
    "[[users]]\nname = \"plain\"\npassword = \"sesame\"\n[[users]]\nname = \"clear\"\npassword = \"in the clear\"\n\
     [[users]]\nname = \"twin\"\npassword = \"and a paper\"\n"
}

fn shows(papers: &Papers) -> String {
    format!("sslmode=require sslcert={} sslkey={}", papers.certificate.display(), papers.key.display())
}

#[test]
fn a_login_is_bound_to_its_tls_connection() {
    let authority = Authority::new();
    let server = authority.issue("server", &["127.0.0.1", "localhost"], "localhost");
    let access = tls(&server, &authority) + users() + &rule("host", "all", "scram-sha-256", "");
    let ground = Ground::start(servers(&[TRUST], ROLES), &access);
    let who = |more: &str| ground.psql("plain", "sesame", more, "SELECT current_user");
    assert_eq!(who("sslmode=require channel_binding=require").must(), "plain");
    assert_eq!(who("sslmode=require channel_binding=disable").must(), "plain");
    assert_eq!(who("sslmode=disable channel_binding=prefer").must(), "plain");
    who("sslmode=disable channel_binding=require").failed("channel binding required");
    ground
        .psql("plain", "wrong", "sslmode=require channel_binding=require", "SELECT 1")
        .failed("password authentication failed for user \"plain\"");
}

#[test]
fn a_password_in_clear_text_is_taken_under_tls_only() {
    let authority = Authority::new();
    let server = authority.issue("server", &["127.0.0.1"], "localhost");
    let rules = rule("host", "clear", "password", "") + &rule("hostssl", "plain", "scram-sha-256", "");
    let ground = Ground::start(servers(&[TRUST], ROLES), &(tls(&server, &authority) + users() + &rules));
    let who = |password: &str, more: &str| ground.psql("clear", password, more, "SELECT current_user");
    assert_eq!(who("in the clear", "sslmode=require").must(), "clear");
    who("wrong", "sslmode=require").failed("password authentication failed for user \"clear\"");
    who("in the clear", "sslmode=disable").failed("clear text requires a TLS connection");
    // A rule for TLS is none for others.
    assert_eq!(ground.psql("plain", "sesame", "sslmode=require", "SELECT 1").must(), "1");
    ground.psql("plain", "sesame", "sslmode=disable", "SELECT 1").failed("no pg_hba.conf entry for host");
    let words = ground.psql("nobody", "x", "sslmode=require", "SELECT 1");
    words.failed("user \"nobody\", database \"app\", SSL encryption");

    let allowed =
        "[auth]\ncleartext_without_tls = true\n".to_owned() + users() + &rule("host", "clear", "password", "");
    let ground = Ground::start(servers(&[TRUST], ROLES), &allowed);
    assert_eq!(ground.who("clear", "in the clear").must(), "clear");
    assert!(ground.log().contains("clear text"), "the operator is warned: {}", ground.log());
}

#[test]
fn a_certificate_is_good_for_its_own_user_only() {
    let authority = Authority::new();
    let server = authority.issue("server", &["127.0.0.1"], "localhost");
    let bob = authority.issue("bob", &[], "bob");
    let robert = authority.issue("robert", &[], "Robert Smith");
    let twin = authority.issue("twin", &[], "twin");
    let stranger = Authority::new().issue("bob", &[], "bob");
    let rules = "[[ident]]\nmap = \"m\"\ncommon_name = \"Robert Smith\"\nuser = \"bob\"\n".to_owned()
        + "[[hba]]\ntype = \"hostssl\"\ndatabase = \"ostrakon\"\naddress = \"all\"\nmethod = \"cert\"\n"
        + &rule("hostssl", "twin", "scram-sha-256", "clientcert = \"verify-full\"")
        + &rule("hostssl", "plain", "scram-sha-256", "clientcert = \"verify-ca\"")
        + &rule("hostssl", "bob", "cert", "map = \"m\"")
        + &rule("hostssl", "clear", "cert", "");
    let access = tls(&server, &authority) + "[auth]\nadmin_users = \"bob\"\n" + users() + &rules;
    let ground = Ground::start(servers(&[TRUST], ROLES), &access);
    let who = |user: &str, password: &str, more: &str| ground.psql(user, password, more, "SELECT current_user");
    // The map says who bob is; his own name is not in it.
    assert_eq!(who("bob", "", &shows(&robert)).must(), "bob");
    who("bob", "", &shows(&bob)).failed("certificate authentication failed for user \"bob\"");
    who("clear", "", &shows(&bob)).failed("certificate authentication failed for user \"clear\"");
    who("clear", "in the clear", "sslmode=require").failed("connection requires a valid client certificate");
    // Without a map the name is the user's.
    let admin = ground.psql("bob", "", &format!("{} dbname=ostrakon", shows(&bob)), "SHOW VERSION");
    assert!(!admin.must().is_empty());
    // A certificate beside a password: both have to be right.
    assert_eq!(who("twin", "and a paper", &shows(&twin)).must(), "twin");
    who("twin", "wrong", &shows(&twin)).failed("password authentication failed for user \"twin\"");
    who("twin", "and a paper", &shows(&bob)).failed("certificate authentication failed for user \"twin\"");
    who("twin", "and a paper", "sslmode=require").failed("connection requires a valid client certificate");
    assert_eq!(who("plain", "sesame", &shows(&bob)).must(), "plain");
    // An authority that nobody knows ends in the handshake.
    assert!(!who("bob", "", &shows(&stranger)).is_well);
}

#[test]
fn a_server_is_logged_in_to_with_channel_binding_and_by_certificate() {
    let authority = Authority::new();
    let papers = authority.issue("node", &["127.0.0.1"], "localhost");
    let proxy = authority.issue("proxy", &[], "bob");
    for file in [&papers.certificate, &papers.key] {
        give_to_server(file);
    }
    let hba = "host all postgres 127.0.0.1/32 trust\nhostssl all bob 127.0.0.1/32 cert\n\
         hostssl all clear 127.0.0.1/32 password\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
    let start = |name: &str| {
        let mut server = Server::start_with_hba(name, Some(hba));
        server.wait();
        server.superuser().must("GRANT ALL ON SCHEMA public TO public");
        let roles = "CREATE ROLE plain LOGIN PASSWORD 'sesame'; CREATE ROLE bob LOGIN; \
                     CREATE ROLE clear LOGIN PASSWORD 'in the clear'";
        server.superuser().must(roles);
        for (name, file) in
            [("ssl_cert_file", &papers.certificate), ("ssl_key_file", &papers.key), ("ssl_ca_file", &authority.root())]
        {
            server.superuser().must(&format!("ALTER SYSTEM SET {name} = '{}'", file.display()));
        }
        server.superuser().must("ALTER SYSTEM SET ssl = on");
        server.superuser().must("SELECT pg_reload_conf()");
        server
    };
    let access = format!(
        "[servers_tls]\nmode = \"verify-full\"\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n\
         [[hba]]\ntype = \"host\"\nuser = \"bob\"\naddress = \"all\"\nmethod = \"trust\"\n\
         [[hba]]\ntype = \"host\"\naddress = \"all\"\nmethod = \"scram-sha-256\"\n\
         [auth]\nauth_query = \"pg_authid\"\n[[users]]\nname = \"clear\"\npassword = \"in the clear\"\n",
        authority.root(),
        proxy.certificate,
        proxy.key
    );
    let ground = Ground::start(vec![start("tls1")], &access);
    // The client is not on TLS and the server is: the login is bound on the proxy's own connection.
    assert_eq!(ground.who("plain", "sesame").must(), "plain");
    assert_eq!(ground.who("bob", "").must(), "bob");
    assert_eq!(ground.who("clear", "in the clear").must(), "clear");
    let sql = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename <> 'postgres'";
    assert_eq!(ground.servers[0].superuser().must(sql).value(), "t");
}
