//! The proxy proves to servers who its clients are, with what their logins have left.

use crate::auth_ground::{Ground, PATIENCE, servers};
use crate::cluster::eventually;

/// The server asks everybody but the control role for a password.
const SCRAM: &str = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
const MD5: &str = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 md5\n";

const QUERY: &str = "[auth]\nauth_query = \"pg_authid\"\nauth_query_ttl_ms = 60000\n";

fn scram_rule() -> String {
    QUERY.to_owned() + "[[hba]]\ntype = \"host\"\naddress = \"all\"\nmethod = \"scram-sha-256\"\n"
}

#[test]
fn the_key_of_a_clients_login_opens_the_server() {
    let roles = "CREATE ROLE s LOGIN PASSWORD 'open sesame'; CREATE ROLE t LOGIN PASSWORD 'other'; \
                 CREATE ROLE without LOGIN; CREATE ROLE barred NOLOGIN PASSWORD 'barred'; \
                 CREATE ROLE past LOGIN PASSWORD 'past' VALID UNTIL '2001-01-01'; \
                 CREATE ROLE future LOGIN PASSWORD 'future' VALID UNTIL '2999-01-01'; \
                 CREATE ROLE always LOGIN PASSWORD 'always' VALID UNTIL 'infinity'";
    let ground = Ground::start(servers(&[SCRAM], roles), &scram_rule());
    for (user, password) in [("s", "open sesame"), ("t", "other"), ("future", "future"), ("always", "always")] {
        assert_eq!(ground.who(user, password).must(), user);
        ground.who(user, "wrong").failed(&format!("password authentication failed for user \"{user}\""));
    }
    // As PostgreSQL answers them, and in its words.
    for (user, password) in
        [("without", "x"), ("past", "past"), ("nobody", "x"), ("x' OR '1'='1", "x"), ("\\'; --", "x")]
    {
        let (code, words) = ground.refusal(user, password, "app");
        assert_eq!((code.as_str(), words), ("28P01", format!("password authentication failed for user \"{user}\"")));
    }
    let barred = ground.refusal("barred", "barred", "app");
    assert_eq!(barred, ("28000".to_owned(), "role \"barred\" is not permitted to log in".to_owned()));
    assert_eq!(ground.refusal("barred", "wrong", "app").0, "28P01");
    // What the server says of a login reaches the client: it is made as the user.
    ground.servers[0].superuser().must("ALTER ROLE t CONNECTION LIMIT 0");
    ground.servers[0].superuser().must("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 't'");
    let limited = || ground.refusal("t", "other", "app");
    assert!(eventually(PATIENCE, || limited().0 == "53300"), "{:?}", limited());
}

#[test]
fn a_changed_password_holds_at_once_or_after_one_failure() {
    let roles = "CREATE ROLE s LOGIN PASSWORD 'first'";
    let ground = Ground::start(servers(&[SCRAM], roles), &scram_rule());
    assert_eq!(ground.who("s", "first").must(), "s");
    ground.servers[0].superuser().must("ALTER ROLE s PASSWORD 'second'");
    ground.servers[0].superuser().must("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 's'");
    // The kept verifier says no, and is forgotten for it: it is a minute from its end.
    assert!(eventually(PATIENCE, || ground.who("s", "second").is_well), "the new password is never believed");
    assert_eq!(ground.who("s", "second").must(), "s");
    ground.who("s", "first").failed("password authentication failed");
}

#[test]
fn a_query_of_ones_own_is_asked_instead() {
    let roles = "CREATE ROLE s LOGIN PASSWORD 'by function'; CREATE ROLE hidden LOGIN PASSWORD 'hidden'; \
                 CREATE FUNCTION public.verifier(name text) RETURNS TABLE (usename name, passwd text) \
                 LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS \
                 $$ SELECT usename, passwd FROM pg_shadow WHERE usename = name AND usename <> 'hidden' $$";
    let access = "[auth]\nauth_query = \"SELECT usename, passwd FROM public.verifier($1)\"\nauth_query_ttl_ms = 0\n";
    let ground = Ground::start(servers(&[SCRAM], roles), access);
    assert_eq!(ground.who("s", "by function").must(), "s");
    ground.who("hidden", "hidden").failed("password authentication failed");
    // Nothing is kept: a change holds at once.
    ground.servers[0].superuser().must("ALTER ROLE s PASSWORD 'changed'");
    ground.who("s", "by function").failed("password authentication failed");
    assert_eq!(ground.who("s", "changed").must(), "s");
}

#[test]
fn md5_hashes_open_md5_servers() {
    let roles = "SET password_encryption = 'md5'; CREATE ROLE m LOGIN PASSWORD 'old style'; \
                 SET password_encryption = 'scram-sha-256'; CREATE ROLE s LOGIN PASSWORD 'new style'";
    let rule = QUERY.to_owned() + "[[hba]]\ntype = \"host\"\naddress = \"all\"\nmethod = \"md5\"\n";
    let ground = Ground::start(servers(&[MD5], roles), &rule);
    // A role with a SCRAM verifier does SCRAM under an md5 rule, on both sides.
    for (user, password) in [("m", "old style"), ("s", "new style")] {
        assert_eq!(ground.who(user, password).must(), user);
        ground.who(user, "wrong").failed("password authentication failed");
    }
    ground.servers[0].superuser().must("SET password_encryption = 'md5'; ALTER ROLE m PASSWORD 'newer'");
    // The salt is the proxy's own, so a kept hash is looked up again within the same login.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert_eq!(ground.who("m", "newer").must(), "m");
}

#[test]
fn a_password_of_the_configuration_opens_servers_of_every_kind() {
    let roles = "SET password_encryption = 'md5'; CREATE ROLE m LOGIN PASSWORD 'pm'; \
                 SET password_encryption = 'scram-sha-256'; CREATE ROLE s LOGIN PASSWORD 'ps'; \
                 CREATE ROLE c LOGIN PASSWORD 'pc'";
    let hba = "host all postgres 127.0.0.1/32 trust\nhost all m 127.0.0.1/32 md5\nhost all c 127.0.0.1/32 password\n\
               host all all 127.0.0.1/32 scram-sha-256\n";
    let access = "[[users]]\nname = \"m\"\npassword = \"pm\"\n[[users]]\nname = \"s\"\npassword = \"ps\"\n\
                  [[users]]\nname = \"c\"\npassword = \"pc\"\n\
                  [[hba]]\ntype = \"host\"\naddress = \"loopback\"\nmethod = \"trust\"\n";
    let ground = Ground::start(servers(&[hba, hba], roles), access);
    for user in ["m", "s", "c"] {
        assert_eq!(ground.who(user, "").must(), user);
    }
    // The control role's password is nobody's to borrow, and who has none gets in nowhere.
    ground.servers[0].superuser().must("CREATE ROLE poor LOGIN PASSWORD 'unknown to the proxy'");
    ground.who("poor", "").failed("none is known that it accepts");
}

#[test]
fn shards_with_verifiers_of_their_own_are_told_apart_and_one_verifier_opens_all() {
    let ground =
        Ground::start(servers(&[SCRAM, SCRAM], "CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'boss'"), &scram_rule());
    // Made on each server by itself, one password has two salts: the login opens the home shard only.
    let both = |server: usize| {
        let sql = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname IN ('boss', 'maker') ORDER BY 1";
        ground.servers[server].superuser().must(sql).texts()
    };
    assert_ne!(both(0), both(1));
    let said = ground.psql("boss", "boss", "", "CREATE TABLE wanted_everywhere (id int)");
    assert!(said.stderr.contains("role \"boss\" has another SCRAM verifier on shard \"auth2\""), "{said:?}");
    assert!(said.stderr.contains("ALTER ROLE ... PASSWORD"), "{said:?}");
    // As the hint says: the verifier of the first is copied to the second.
    let verifier = both(0)[0][1].clone();
    ground.servers[1].superuser().must(&format!("ALTER ROLE boss PASSWORD '{verifier}'"));
    assert_eq!(both(0), both(1));
    // A refusal is remembered for a moment.
    let create = || ground.psql("boss", "boss", "", "CREATE TABLE wanted_everywhere (id int)");
    assert!(eventually(PATIENCE, || create().is_well), "{:?}", create());

    // Passwords that are set through the proxy are one verifier everywhere.
    for sql in [
        "CREATE ROLE maker LOGIN PASSWORD 'made through the proxy'",
        "ALTER USER maker WITH ENCRYPTED PASSWORD 'changed, isn''t it'",
        "ALTER ROLE maker PASSWORD E'with \\'escapes\\'' VALID UNTIL 'infinity'",
    ] {
        ground.psql("boss", "boss", "", sql).must();
        assert_eq!(both(0), both(1), "{sql}");
        assert!(both(0)[1][1].starts_with("SCRAM-SHA-256$4096:"), "{:?}", both(0)[1]);
    }
    assert_eq!(ground.who("maker", "with 'escapes'").must(), "maker");
    // A verifier that is given is kept as it is, and none is none.
    ground.psql("boss", "boss", "", &format!("ALTER ROLE maker PASSWORD '{verifier}'")).must();
    assert_eq!(both(0)[1][1], verifier);
    ground.psql("boss", "boss", "", "ALTER ROLE maker PASSWORD NULL").must();
    assert_eq!((both(0)[1][1].as_str(), both(1)[1][1].as_str()), ("NULL", "NULL"));
}
