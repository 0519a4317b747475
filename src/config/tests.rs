//! Every kind of mistake, with its exact place.

use super::*;
use crate::base::{Epoch, ShardId};
use crate::net::tls::TlsVersion;
use crate::topology::Topology;
use crate::topology::validate::validate;

const SOUND: &str = r#"[proxy]
data = "/var/lib/ostrakon"
database = "app"

[[shards]]
name = "s1"
[[shards.nodes]]
name = "s1a"
host = "10.0.0.1"
[[shards.nodes]]
name = "s1b"
host = "10.0.0.2"

[[shards]]
name = "s2"
weight = 200
[[shards.nodes]]
name = "s2a"
host = "10.0.0.3"
port = 5433
zone = "eu"
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, "o.toml")
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// Mistakes of the sound file with `change` appended.
fn appended(change: &str) -> String {
    parse(&format!("{SOUND}{change}")).err().unwrap_or_default()
}

/// Mistakes of the sound file with one text replaced.
fn replaced(from: &str, to: &str) -> String {
    assert!(SOUND.contains(from));
    parse(&SOUND.replacen(from, to, 1)).err().unwrap_or_default()
}

#[test]
fn a_sound_file_has_the_documented_defaults() {
    let config = parse(SOUND).unwrap();
    assert_eq!(config.proxy.listen, "127.0.0.1:6432");
    assert_eq!(config.proxy.clients_max, 1_000);
    assert_eq!(
        config.pool,
        PoolConfig {
            mode: PoolMode::Transaction,
            size: 20,
            size_min: 0,
            checkout_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(600),
            lifetime: Duration::from_secs(3_600),
            connects_max: 8,
            connects_per_s: 100,
        }
    );
    assert_eq!(config.control, ControlConfig { user: "postgres".into(), password: None });
    let roles: Vec<Role> = config.shards[0].nodes.iter().map(|node| node.role).collect();
    assert_eq!(roles, [Role::Primary, Role::Replica]);
    assert_eq!((config.shards[0].weight, config.shards[0].nodes[0].port), (100, 5_432));
}

#[test]
fn the_example_parses_and_its_comments_show_the_defaults() {
    let text = include_str!("../../docs/operate/ostrakon.example.toml");
    let config = parse(text).unwrap();
    assert_eq!(validate(&config.to_topology()), Ok(()));
    assert_eq!((config.tables.len(), config.tables[2].name.schema.as_str()), (3, "audit"));
    // Every setting that is commented out as a default may be written out without a change.
    let shown = [
        "listen",
        "clients_max",
        "clients_max_per_user",
        "clients_reserved",
        "logins_max",
        "login_timeout_ms",
        "message_bytes_max",
        "idle_transaction_timeout_ms",
        "workers",
        "version_min",
        "rows_max",
        "bytes_max",
        "gather_bytes_max",
        "mode",
        "size",
        "size_min",
        "checkout_timeout_ms",
        "connect_timeout_ms",
        "idle_timeout_ms",
        "lifetime_ms",
        "connects_max",
        "connects_per_s",
        "auth_query_ttl_ms",
        "cleartext_without_tls",
        "user",
        "kind",
        "lag_max_ms",
        "wait_max_ms",
        "sample_pause_ms",
    ];
    let written: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if shown.iter().any(|key| rest.starts_with(&format!("{key} = "))) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_ne!(written, text);
    let written = parse(&written).unwrap();
    assert_eq!(written.auth, config.auth);
    assert_eq!((&written.proxy, &written.pool, &written.control), (&config.proxy, &config.pool, &config.control));
    assert_eq!((&written.servers_tls, &written.merge), (&config.servers_tls, &config.merge));
    assert_eq!((&written.store, &written.replicas), (&config.store, &config.replicas));
}

#[test]
fn the_store_is_a_file_or_etcd() {
    assert_eq!(parse(SOUND).unwrap().store, StoreConfig::Embedded);
    let etcd = |rest: &str| parse(&format!("{SOUND}[store]\nkind = \"etcd\"\n{rest}"));
    let StoreConfig::Etcd(least) = etcd("endpoints = [\"http://a:1\"]\n").unwrap().store else { panic!("not etcd") };
    assert_eq!(
        (least.endpoints.as_slice(), least.prefix.as_str()),
        (["http://a:1".to_owned()].as_slice(), "/ostrakon/")
    );
    let mistake = |rest: &str| etcd(rest).err().unwrap_or_default();
    for (rest, expected) in [
        ("", "[store] has no endpoints"),
        ("endpoints = [\"a:1\"]\n", "\"a:1\" is no endpoint"),
        ("endpoints = [\"https://a:1\"]\n", "https needs a CA"),
        ("endpoints = [\"http://a:1\"]\nuser = \"x\"\n", "user and password belong together"),
        ("endpoints = [\"http://a:1\"]\nproxy_name = \"-\"\n", "\"-\" cannot be the name of a proxy"),
    ] {
        let mistake = mistake(rest);
        assert!(mistake.contains(expected), "{rest}: {mistake}");
    }
}

#[test]
fn reads_stay_at_the_primary_unless_somebody_says_otherwise() {
    assert_eq!(parse(SOUND).unwrap().replicas.read_from, ReadFrom::Primary);
    let text = format!("{SOUND}[replicas]\nread_from = \"any\"\n[[users]]\nname = \"app\"\nread_from = \"replica\"\n");
    let config = parse(&text).unwrap();
    assert_eq!((config.replicas.read_from, config.users[0].read_from), (ReadFrom::Any, Some(ReadFrom::Replica)));
}

#[test]
fn a_user_has_limits_and_a_mode_of_its_own() {
    let text = format!(
        "{SOUND}[pool]\nmode = \"session\"\n[[users]]\nname = \"app\"\npool_mode = \"statement\"\npool_size = 5\n\
         clients_max = 50\n[[users]]\nname = \"other\"\n"
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.pool.mode, PoolMode::Session);
    let limits = |user: &UserConfig| (user.pool_mode, user.pool_size, user.clients_max);
    assert_eq!(limits(&config.users[0]), (Some(PoolMode::Statement), Some(5), Some(50)));
    assert_eq!(limits(&config.users[1]), (None, None, None));
}

#[test]
fn tls_is_used_when_there_is_a_certificate() {
    assert_eq!(parse(SOUND).unwrap().tls, TlsConfig::default());
    assert_eq!(parse(SOUND).unwrap().servers_tls.connect.mode, TlsMode::Prefer);
    let pair = "certificate = \"s.crt\"\nkey = \"s.key\"\n";
    let read = |rest: &str| parse(&format!("{SOUND}[tls]\n{pair}{rest}")).unwrap().tls;
    let own = read("").accept.unwrap();
    assert_eq!((own.certificate.to_str(), own.key.to_str(), own.client_ca), (Some("s.crt"), Some("s.key"), None));
    assert_eq!((read("").required, read("mode = \"require\"\n").required), (false, true));
    assert_eq!(read("mode = \"disable\"\n").accept, None);
    let old = read("client_ca = \"ca.crt\"\nversion_min = \"1.3\"\n").accept.unwrap();
    assert_eq!((old.client_ca.unwrap().to_str(), old.oldest), (Some("ca.crt"), TlsVersion::V1_3));
    let text = SOUND.replacen("host = \"10.0.0.2\"", "host = \"10.0.0.2\"\ntls = \"disable\"", 1);
    let nodes = parse(&text).unwrap().shards[0].nodes.iter().map(|node| node.tls).collect::<Vec<_>>();
    assert_eq!(nodes, [None, Some(TlsMode::Disable)]);
}

#[test]
fn tls_that_cannot_be_is_refused() {
    assert_eq!(
        appended("[tls]\nmode = \"require\"\n"),
        "o.toml:22:1: [tls] has no certificate\n  \
         hint: add certificate = \"/etc/ostrakon/server.crt\" and key = \"/etc/ostrakon/server.key\""
    );
    assert_eq!(
        appended("[tls]\ncertificate = \"s.crt\"\n"),
        "o.toml:22:1: the certificate has no key\n  hint: add key = \"…/server.key\""
    );
    assert_eq!(
        appended("[servers_tls]\nmode = \"verify-full\"\nversion_min = \"1.1\"\n"),
        "o.toml:22:1: mode verify-full needs a CA\n  hint: add ca = \"/etc/ostrakon/root.crt\" to [servers_tls]\n\
         o.toml:24:15: unknown version_min 1.1\n  hint: did you mean 1.2?"
    );
    assert_eq!(
        replaced("host = \"10.0.0.2\"", "host = \"10.0.0.2\"\ntls = \"verify-ca\""),
        "o.toml:10:1: the TLS of node s1b needs a CA\n  hint: add ca = \"/etc/ostrakon/root.crt\" to [servers_tls]"
    );
}

#[test]
fn a_mode_that_does_not_exist_gets_the_nearest_one() {
    assert_eq!(
        appended("[pool]\nmode = \"sesion\"\n"),
        "o.toml:23:8: unknown mode sesion\n  hint: did you mean session?"
    );
    assert_eq!(
        appended("[[users]]\nname = \"a\"\npool_mode = \"x\"\npool_size = 0\n"),
        "o.toml:24:13: unknown pool_mode x\n  hint: known are transaction, session, statement\n\
         o.toml:25:13: pool_size is out of range\n  hint: 1 to 10000 is allowed"
    );
}

#[test]
fn a_pool_keeps_no_more_ready_than_it_holds() {
    assert_eq!(
        appended("[pool]\nsize = 3\nsize_min = 4\n"),
        "o.toml:24:12: size_min is out of range\n  hint: 0 to 3 is allowed, 0 is the default"
    );
}

#[test]
fn the_reference_of_pools_shows_the_defaults_of_the_example() {
    let example = include_str!("../../docs/operate/ostrakon.example.toml");
    let reference = include_str!("../../docs/reference/pools.md");
    let mut shown = 0;
    for row in reference.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, setting, default, ..] = cells.as_slice() else { continue };
        let Some(key) = setting.trim_matches('`').split(' ').next_back().filter(|_| default.parse::<u64>().is_ok())
        else {
            continue;
        };
        assert!(example.contains(&format!("\n# {key} = {default}\n")), "{key}: {default} is not what the example says");
        shown += 1;
    }
    assert_eq!(shown, 12);
}

#[test]
fn broken_toml_is_shown_where_it_breaks() {
    assert_eq!(replaced("\"app\"", "app"), "o.toml:3:12: string values must be quoted, expected literal string");
    assert!(parse("[proxy").unwrap_err().starts_with("o.toml:1:7: "));
    let twice = appended("zone = \"us\"\n");
    assert_eq!(twice, "o.toml:22:1: duplicate key");
}

#[test]
fn an_unknown_key_gets_the_nearest_known_one() {
    assert_eq!(
        replaced("database", "databse"),
        "o.toml:1:1: database is missing in [proxy]\n  hint: add database = \"app\"\n\
         o.toml:3:1: unknown key databse in [proxy]\n  hint: did you mean database?"
    );
    assert_eq!(appended("[pol]\nsize = 3\n"), "o.toml:22:2: unknown key pol\n  hint: did you mean pool?");
    assert_eq!(
        replaced("host = \"10.0.0.2\"", "host = \"10.0.0.2\"\ncolour = 1"),
        "o.toml:13:1: unknown key colour in [[shards.nodes]]\n  hint: known here: name, host, port, zone, role, tls"
    );
}

#[test]
fn several_mistakes_come_at_once_in_order() {
    let text = "[proxy]\ndata = 5\ndatabase = \"\"\nlisten = \"6432\"\n";
    assert_eq!(
        parse(text).unwrap_err(),
        "o.toml:1:1: there is no shard\n  hint: add a section [[shards]] with a name, and [[shards.nodes]] below it\n\
         o.toml:2:8: data is a string, not an integer\n\
         o.toml:3:12: database is empty\n  hint: write database = \"app\"\n\
         o.toml:4:10: listen is no address: \"6432\"\n  hint: write an address and a port: \"127.0.0.1:6432\""
    );
}

#[test]
fn a_missing_section_is_named() {
    let without = SOUND.split_once("\n\n").unwrap().1;
    assert_eq!(
        parse(without).unwrap_err(),
        "o.toml:1:1: the section [proxy] is missing\n  hint: add a section [proxy] with data and database"
    );
    assert_eq!(replaced("name = \"s2\"", ""), "o.toml:14:1: name is missing in [[shards]]\n  hint: add name = \"s1\"");
}

#[test]
fn values_of_the_wrong_type_or_size_are_shown() {
    assert_eq!(replaced("5433", "\"5433\""), "o.toml:20:8: port is an integer, not a string");
    assert_eq!(
        replaced("5433", "70000"),
        "o.toml:20:8: port is out of range\n  hint: 1 to 65535 is allowed, 5432 is the default"
    );
    assert_eq!(
        appended("[pool]\nsize = -1\n"),
        "o.toml:23:8: size is out of range\n  hint: 1 to 10000 is allowed, 20 is the default"
    );
    assert_eq!(appended("[[pool]]\n"), "o.toml:22:1: pool is a section [pool], not an array");
    assert_eq!(appended("[users]\n"), "o.toml:22:1: users is repeated sections [[users]], not a table");
    assert_eq!(
        appended("[keyspace]\nkey_columns = [[\"a\", 1]]\n"),
        "o.toml:23:22: key_columns is a list of strings, not an integer"
    );
    assert!(parse(&SOUND.replacen("weight = 200", "weight = 0x_c8", 1)).is_err());
    assert_eq!(parse(&SOUND.replacen("weight = 200", "weight = 0xc8", 1)).unwrap().shards[1].weight, 200);
}

#[test]
fn columns_count_characters() {
    assert_eq!(
        replaced("zone = \"eu\"", "zone = \"eu\" # ä\nrole = 'ü' # ä"),
        "o.toml:22:8: unknown role ü\n  hint: primary and replica are known"
    );
    let errors = Config::parse(&SOUND.replacen("name = \"s1\"", "\"ä\" = 1, name", 1), "o.toml").unwrap_err();
    assert_eq!((errors[0].line, errors[0].column), (6, 8));
}

#[test]
fn each_shard_needs_one_primary() {
    assert_eq!(
        replaced("name = \"s1b\"", "name = \"s1b\"\nrole = \"primary\""),
        "o.toml:10:1: the shard s1 has two primaries: s1a and s1b\n  hint: write role = \"replica\" for one of them"
    );
    assert_eq!(
        replaced("name = \"s2a\"", "name = \"s2a\"\nrole = \"replica\""),
        "o.toml:14:1: the shard s2 has no primary\n  hint: write role = \"primary\" for one of its nodes"
    );
    assert_eq!(
        appended("[[shards]]\nname = \"s3\"\n"),
        "o.toml:22:1: the shard s3 has no node\n  hint: add [[shards.nodes]] with name, host and port below it"
    );
    assert_eq!(
        replaced("name = \"s1b\"", "name = \"s1b\"\nrole = \"replca\""),
        "o.toml:12:8: unknown role replca\n  hint: did you mean replica?"
    );
}

#[test]
fn what_must_be_unique_is() {
    assert_eq!(
        replaced("\"s2\"", "\"s1\""),
        "o.toml:14:1: the shard s1 is there twice\n  hint: it was first on line 5"
    );
    assert_eq!(
        replaced("\"s2a\"", "\"s1a\""),
        "o.toml:17:1: the node s1a is there twice\n  hint: it was first on line 7"
    );
    assert_eq!(
        replaced("10.0.0.2", "10.0.0.1"),
        "o.toml:10:1: the address 10.0.0.1:5432 is there twice\n  hint: it was first on line 7"
    );
    assert_eq!(
        appended("[[users]]\nname = \"a\"\n[[users]]\nname = \"a\"\n"),
        "o.toml:24:1: the user a is there twice\n  hint: it was first on line 22"
    );
    assert!(replaced("\"s2\"", "\"s 2\"").starts_with("o.toml:14:1: \"s 2\" cannot be the name of a shard\n"));
}

#[test]
fn a_table_has_one_placement() {
    let table = |text: &str| appended(&format!("[[tables]]\nname = \"t\"\n{text}\n"));
    for sound in
        ["key = \"id\"", "key = [\"a\", \"b\"]", "reference = true", "single = true", "single = true\nhome = \"s2\""]
    {
        assert_eq!(table(sound), "", "{sound}");
    }
    assert_eq!(
        table(""),
        "o.toml:22:1: the table has no placement\n  hint: add key = [\"id\"], reference = true or single = true"
    );
    assert_eq!(
        table("key = \"id\"\nreference = true"),
        "o.toml:22:1: the table has more than one placement\n  hint: keep one of key, reference and single"
    );
    assert_eq!(
        table("key = \"id\"\nhome = \"s1\""),
        "o.toml:25:8: home is for single tables only\n  hint: add single = true, or remove home"
    );
    assert_eq!(table("single = true\nhome = \"s3\""), "o.toml:22:1: the home s3 is no shard\n  hint: did you mean s1?");
    assert_eq!(table("key = []"), "o.toml:24:7: key names no column\n  hint: write key = [\"tenant_id\"]");
    assert_eq!(table("key = [\"a\", \"a\"]"), "o.toml:24:7: key has the column a twice");
    assert_eq!(
        table("reference = true\n[[tables]]\nname = \"public.t\"\nsingle = true"),
        "o.toml:25:1: the table public.t is there twice\n  hint: it was first on line 22"
    );
    assert_eq!(
        appended("[[tables]]\nname = \"a.b.c\"\nsingle = true\n"),
        "o.toml:23:8: \"a.b.c\" is no table name\n  hint: write \"users\" or \"public.users\""
    );
}

#[test]
fn rules_have_columns_and_come_once() {
    assert_eq!(appended("[keyspace]\nkey_columns = [\"a\", [\"b\", \"c\"]]\n"), "");
    assert_eq!(
        appended("[keyspace]\nkey_columns = [\"a\", [], \"a\"]\n"),
        "o.toml:23:21: key_columns names no column\n  hint: write key_columns = [\"tenant_id\"]\n\
         o.toml:23:25: (a) is there twice"
    );
}

#[test]
fn passwords_are_not_printed() {
    let config =
        parse(&format!("{SOUND}[control]\npassword = \"hunter2\"\n[[users]]\nname = \"a\"\npassword = \"hunter2\"\n"));
    let config = config.unwrap();
    assert_eq!(config.control.password, Some(PasswordSource::Text(Secret::new("hunter2"))));
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn the_topology_of_a_file_is_valid_and_weighted() {
    let text =
        format!("{SOUND}[keyspace]\nkey_columns = [\"t\"]\n[[tables]]\nname = \"x\"\nsingle = true\nhome = \"s2\"\n");
    let topology = parse(&text).unwrap().to_topology();
    assert_eq!(validate(&topology), Ok(()));
    assert_eq!((topology.epoch, topology.nodes.len()), (Epoch(1), 3));
    let ratio = topology.bucket_count(ShardId(2)) as f64 / topology.bucket_count(ShardId(1)) as f64;
    assert!((1.9..2.1).contains(&ratio), "{ratio}");
    assert_eq!(topology.tables.key_columns, [["t"]]);
    let placement = topology.tables.declared.values().next().unwrap();
    assert_eq!(*placement, crate::topology::Placement::Single { home: Some(ShardId(2)) });
}

fn stored() -> Topology {
    parse(SOUND).unwrap().to_topology()
}

fn reconciled(text: &str, stored: &Topology) -> Result<Topology, String> {
    let result = parse(text).unwrap().reconcile(stored);
    result.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[test]
fn the_same_file_changes_nothing() {
    assert_eq!(reconciled(SOUND, &stored()).unwrap(), stored());
}

#[test]
fn addresses_and_replicas_follow_the_file_and_roles_the_store() {
    let mut stored = stored();
    stored.nodes[0].role = Role::Replica;
    stored.nodes[1].role = Role::Primary;
    let text = SOUND.replacen("10.0.0.2", "10.0.0.9", 1)
        + "[[shards.nodes]]\nname = \"s2b\"\nhost = \"10.0.0.4\"\nrole = \"replica\"\n";
    let next = reconciled(&text, &stored).unwrap();
    assert_eq!(validate(&next), Ok(()));
    assert_eq!(next.epoch, Epoch(2));
    assert_eq!((next.nodes[1].host.as_str(), next.nodes[1].role), ("10.0.0.9", Role::Primary));
    assert_eq!(
        (next.nodes[3].name.as_str(), next.nodes[3].shard, next.nodes[3].role),
        ("s2b", ShardId(2), Role::Replica)
    );
    let without = SOUND.replacen("[[shards.nodes]]\nname = \"s1b\"\nhost = \"10.0.0.2\"\n", "", 1);
    assert_eq!(
        reconciled(&without, &stored).unwrap_err(),
        "o.toml:1:1: the node s1b is not in the file, but is the primary of s1\n  hint: put it back, or switch over to another node first"
    );
    assert_eq!(reconciled(&without, &super::tests::stored()).unwrap().nodes.len(), 2);
}

#[test]
fn what_would_move_rows_is_refused() {
    let more = format!("{SOUND}[[shards]]\nname = \"s3\"\n[[shards.nodes]]\nname = \"s3a\"\nhost = \"h\"\n");
    assert_eq!(
        reconciled(&more, &stored()).unwrap_err(),
        "o.toml:22:1: the shard s3 is not in the store\n  hint: a shard joins a cluster by resharding"
    );
    let less = SOUND.split_once("\n[[shards]]\nname = \"s2\"").unwrap().0;
    let error = reconciled(less, &stored()).unwrap_err();
    assert!(error.starts_with("o.toml:1:1: the shard s2 is not in the file, but owns 1"), "{error}");
    let rule = format!("{SOUND}[keyspace]\nkey_columns = [\"t\"]\n");
    assert!(reconciled(&rule, &stored()).unwrap_err().contains("key_columns differs"));
    let table = format!("{SOUND}[[tables]]\nname = \"t\"\nkey = \"id\"\n");
    assert!(
        reconciled(&table, &stored()).unwrap_err().starts_with("o.toml:22:1: the table public.t is placed otherwise")
    );
    assert!(reconciled(&SOUND.replacen("\"app\"", "\"other\"", 1), &stored()).unwrap_err().contains("database app"));
}

#[test]
fn with_one_shard_declaring_moves_nothing() {
    let one = SOUND.split_once("\n[[shards]]\nname = \"s2\"").unwrap().0;
    let stored = parse(one).unwrap().to_topology();
    let text = format!("{one}[keyspace]\nkey_columns = [\"t\"]\n[[tables]]\nname = \"t\"\nkey = \"id\"\n");
    let next = reconciled(&text, &stored).unwrap();
    assert_eq!((next.epoch, next.tables.declared.len(), next.tables.key_columns.len()), (Epoch(2), 1, 1));
}

#[test]
fn reconciling_twice_changes_once() {
    let text = SOUND.replacen("10.0.0.2", "10.0.0.9", 1);
    let once = reconciled(&text, &stored()).unwrap();
    assert_eq!(reconciled(&text, &once).unwrap(), once);
}

const IDENT: &str = "[[ident]]\nmap = \"m\"\ncommon_name = \"Bob Smith\"\nuser = \"bob\"\n";

#[test]
fn rules_keep_their_order_and_their_words() {
    let text = format!(
        "{SOUND}{IDENT}[[hba]]\ntype = \"hostssl\"\ndatabase = \"app\"\nuser = [\"bob\", \"eve\"]\naddress = \"10.0.0.0/8\"\n\
         method = \"cert\"\nmap = \"m\"\n[[hba]]\ntype = \"local\"\nmethod = \"reject\"\n[[hba]]\ntype = \"hostssl\"\n\
         address = \"all\"\nmethod = \"scram-sha-256\"\nclientcert = \"verify-ca\"\n"
    );
    let auth = parse(&text).unwrap().auth;
    let rules = auth.rules.unwrap();
    let methods: Vec<&str> = rules.iter().map(|rule| rule.method.name()).collect();
    assert_eq!(methods, ["cert", "reject", "scram-sha-256"]);
    assert_eq!((rules[0].users.names.len(), rules[0].databases.all, rules[1].users.all), (2, false, true));
    assert_eq!(rules[0].map.as_deref(), Some("m"));
    assert_eq!(rules[2].certificate, Some(crate::auth::CertificateCheck::VerifyCa));
    assert_eq!(parse(SOUND).unwrap().auth.rules, None);
}

#[test]
fn a_rule_that_cannot_be_kept_is_refused_where_it_stands() {
    let rule = |lines: &str| appended(&format!("{IDENT}[[hba]]\n{lines}\n"));
    let sound = "type = \"host\"\naddress = \"all\"\nmethod = \"md5\"\n";
    assert_eq!(rule(sound), "");
    for (lines, mistake) in [
        ("address = \"all\"\nmethod = \"md5\"", "o.toml:26:1: type is missing in [[hba]]"),
        ("type = \"host\"\naddress = \"all\"", "o.toml:26:1: method is missing in [[hba]]"),
        ("type = \"host\"\nmethod = \"md5\"", "o.toml:26:1: address is missing in [[hba]]"),
        ("type = \"hosts\"\naddress = \"all\"\nmethod = \"md5\"", "unknown type hosts\n  hint: did you mean host?"),
        ("type = \"host\"\naddress = \"all\"\nmethod = \"scram\"", "unknown method scram\n  hint: known are trust"),
        ("type = \"host\"\naddress = \"db.example.com\"\nmethod = \"md5\"", "address is none: \"db.example.com\""),
        ("type = \"local\"\naddress = \"all\"\nmethod = \"md5\"", "a local rule has no address"),
        (&format!("{sound}user = \"+staff\""), "groups are not supported"),
        (&format!("{sound}user = \"/^a\""), "regular expressions are not supported"),
        (&format!("{sound}database = [\"app\", \"replication\"]"), "replication is not supported"),
        (&format!("{sound}clientcert = \"verify-ca\""), "clientcert can only be configured for hostssl rules"),
        (&format!("{sound}map = \"m\""), "map is for certificates only"),
        ("type = \"host\"\naddress = \"all\"\nmethod = \"cert\"", "cert authentication is only supported on hostssl"),
        ("type = \"hostssl\"\naddress = \"all\"\nmethod = \"cert\"\nmap = \"x\"", "there is no map x"),
    ] {
        let found = rule(lines);
        assert!(found.contains(mistake), "{lines}\n{found}");
    }
}

#[test]
fn a_password_is_in_one_place_only() {
    let user = |lines: &str| appended(&format!("[[users]]\nname = \"a\"\n{lines}"));
    assert_eq!(user("password_file = \"secret\"\n"), "");
    assert_eq!(user("password_env = \"SECRET\"\n"), "");
    assert!(user("password = \"hunter2\"\npassword_env = \"SECRET\"\n").contains("the password is there twice"));
    assert!(user("password = \"\"\n").contains("the password is empty"));
    assert!(!user("password = \"hunter2\"\npassword_env = \"S\"\n").contains("hunter2"));
}

#[test]
fn a_query_for_verifiers_asks_for_somebody() {
    assert!(appended("[auth]\nauth_query = \"SELECT 1\"\n").contains("auth_query has no $1"));
    let auth = parse(&format!("{SOUND}[auth]\nauth_query = \"pg_authid\"\nadmin_users = \"dba\"\n")).unwrap().auth;
    assert_eq!(auth.auth_query, Some(AuthQuery::Catalog));
    assert_eq!(auth.auth_query_ttl, Duration::from_secs(10));
    assert_eq!(auth.admin_users, Some(vec!["dba".to_owned()]));
}

#[test]
fn a_durability_that_a_shard_cannot_keep_is_a_mistake() {
    let shard = |zones: [&str; 2]| {
        let node = |name: &str, zone: &str| {
            format!("[[shards.nodes]]\nname = \"{name}\"\nhost = \"h{name}\"\nport = 5432\nzone = \"{zone}\"\n")
        };
        format!("[[shards]]\nname = \"s1\"\n{}{}", node("a", zones[0]), node("b", zones[1]))
    };
    let read = |failover: &str, zones| {
        let text = format!(
            "[proxy]\ndata = \"/d\"\ndatabase = \"app\"\n\n[control]\nuser = \"postgres\"\n\n[failover]\n{failover}\n{}",
            shard(zones)
        );
        parse(&text)
    };
    for (written, zones, fits) in [
        ("", ["x", "x"], true),
        ("durability = \"any(1)\"", ["x", "y"], true),
        ("durability = \"any(2)\"", ["x", "y"], false),
        ("durability = \"cross_zone\"", ["x", "y"], true),
        ("durability = \"cross_zone\"", ["x", "x"], false),
        ("durability = \"local\"", ["x", "x"], true),
        ("durability = \"local\"", ["x", "y"], false),
        ("durability = \"async\"", ["x", "y"], true),
        ("durability = \"any(0)\"", ["x", "y"], false),
        ("durability = \"some\"", ["x", "y"], false),
        ("replay = \"on\"", ["x", "y"], false),
    ] {
        assert_eq!(read(written, zones).is_ok(), fits, "{written} {zones:?}");
    }
    for (written, replay) in [("", false), ("replay = true", true)] {
        assert_eq!(read(written, ["x", "y"]).unwrap().failover.unwrap().replay, replay);
    }
}
