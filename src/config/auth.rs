//! `[auth]`, `[[hba]]`, `[[ident]]` and passwords: who may connect, and what proves it.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeTable;

use super::Secret;
use super::error::{Report, nearest};
use super::reader::{At, Section};
use crate::auth::{AddressRule, CertificateCheck, ConnectionKind, IdentMap, Method, Names, Rule};

/// Answers of `auth_query` are kept for a day at most.
const QUERY_TTL_MS_MAX: u64 = 86_400_000;

/// `[auth]`, `[[hba]]` and `[[ident]]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuthConfig {
    /// `[[hba]]` in the order of the file; none when nothing is written.
    pub rules: Option<Vec<Rule>>,
    /// `[[ident]]`
    pub idents: IdentMap,
    /// Users that may use the admin database; default: the control role, and who is trusted on this machine.
    pub admin_users: Option<Vec<String>>,
    /// Users and their passwords or verifiers, as PgBouncer's userlist.txt.
    pub auth_file: Option<PathBuf>,
    /// How the servers are asked for a user's verifier.
    pub auth_query: Option<AuthQuery>,
    /// How long an answer is kept; default 10 s.
    pub auth_query_ttl: Duration,
    /// Passwords in clear text are taken without TLS; default false.
    pub cleartext_without_tls: bool,
}

/// `auth_query`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthQuery {
    /// `"pg_authid"`: the catalog, as a superuser.
    Catalog,
    /// A statement with `$1` for the user's name.
    Sql(String),
}

/// Where a password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordSource {
    /// In the configuration.
    Text(Secret),
    /// The first line of a file; relative to the configuration's directory.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
}

/// Reads `[auth]`, `[[hba]]` and `[[ident]]`.
pub(super) fn read(root: &mut Section, report: &mut Report) -> AuthConfig {
    let empty = DeTable::new();
    let section = root.section("auth", report).unwrap_or_else(|| Section::new("[auth]", &empty, 0));
    let mut auth = read_auth(section, report);
    let mut entries = Vec::new();
    for ident in root.sections("ident", "ident", report) {
        entries.extend(read_ident(ident, report));
    }
    auth.idents = IdentMap::new(entries);
    let sections = root.sections("hba", "hba", report);
    if !sections.is_empty() {
        let rules = sections.into_iter().filter_map(|section| read_rule(section, &auth.idents, report));
        auth.rules = Some(rules.collect());
    }
    auth
}

fn read_auth(mut section: Section, report: &mut Report) -> AuthConfig {
    let admin_users = section.texts("admin_users", report).map(|users| users.value);
    let auth_file = section.text("auth_file", report).map(|file| PathBuf::from(file.value));
    let auth_query = section.text("auth_query", report).and_then(|query| match query.value.as_str() {
        "pg_authid" => Some(AuthQuery::Catalog),
        sql if sql.contains("$1") => Some(AuthQuery::Sql(sql.to_owned())),
        _ => {
            let hint = "write \"pg_authid\", or SELECT usename, passwd FROM my_function($1)".to_owned();
            report.at_offset(query.offset, "auth_query has no $1 for the user's name", Some(hint));
            None
        }
    });
    let ttl_ms = section.integer("auth_query_ttl_ms", 0..=QUERY_TTL_MS_MAX, 10_000, report);
    let cleartext_without_tls = section.flag("cleartext_without_tls", report).is_some_and(|flag| flag.value);
    section.finish(report);
    AuthConfig {
        rules: None,
        idents: IdentMap::default(),
        admin_users,
        auth_file,
        auth_query,
        auth_query_ttl: Duration::from_millis(ttl_ms),
        cleartext_without_tls,
    }
}

fn read_ident(mut section: Section, report: &mut Report) -> Option<(String, String, String)> {
    let map = section.required_text("map", "staff", report);
    let name = section.required_text("common_name", "Bob Smith", report);
    let user = section.required_text("user", "bob", report);
    section.finish(report);
    for text in [&name, &user].into_iter().flatten().filter(|text| text.value.starts_with('/')) {
        report.at_offset(text.offset, "regular expressions are not supported in [[ident]]", None);
    }
    Some((map?.value, name?.value, user?.value))
}

/// The words of PostgreSQL that are not known here, and what to do instead.
const METHODS: [&str; 6] = ["trust", "reject", "scram-sha-256", "md5", "password", "cert"];
const KINDS: [(&str, ConnectionKind); 4] = [
    ("local", ConnectionKind::Local),
    ("host", ConnectionKind::Host),
    ("hostssl", ConnectionKind::HostSsl),
    ("hostnossl", ConnectionKind::HostNoSsl),
];

fn read_rule(mut section: Section, idents: &IdentMap, report: &mut Report) -> Option<Rule> {
    let position = section.position(report);
    let kind = section.required_text("type", "host", report);
    let databases = section.texts("database", report);
    let users = section.texts("user", report);
    let address = section.text("address", report);
    let method = section.required_text("method", "scram-sha-256", report);
    let clientcert = section.text("clientcert", report);
    let map = section.text("map", report);
    section.finish(report);
    let kind = kind.and_then(|kind| {
        let known = KINDS.iter().find(|(name, _)| *name == kind.value).map(|(_, kind)| *kind);
        unknown_unless(known, "type", &kind, &KINDS.map(|(name, _)| name), report)
    });
    let method =
        method.and_then(|method| unknown_unless(Method::parse(&method.value), "method", &method, &METHODS, report));
    let certificate = clientcert.and_then(|check| {
        let known = match check.value.as_str() {
            "verify-ca" => Some(CertificateCheck::VerifyCa),
            "verify-full" => Some(CertificateCheck::VerifyFull),
            _ => None,
        };
        unknown_unless(known, "clientcert", &check, &["verify-ca", "verify-full"], report)
    });
    let databases = read_names("database", databases, report);
    let users = read_names("user", users, report);
    let map = map.map(|map| {
        if !idents.has(&map.value) {
            let hint = format!("add [[ident]] with map = \"{}\"", map.value);
            report.at_offset(map.offset, format!("there is no map {}", map.value), Some(hint));
        }
        map.value
    });
    let kind = kind?;
    let address = match (kind, address) {
        (ConnectionKind::Local, None) => AddressRule::All,
        (ConnectionKind::Local, Some(address)) => {
            report.at_offset(address.offset, "a local rule has no address", Some("remove address".to_owned()));
            return None;
        }
        (_, Some(address)) => match AddressRule::parse(&address.value) {
            Ok(rule) => rule,
            Err(hint) => {
                let message = format!("address is none: {:?}", address.value);
                report.at_offset(address.offset, message, Some(hint.to_owned()));
                return None;
            }
        },
        (_, None) => {
            let hint = "add address = \"10.0.0.0/8\", or \"all\", \"loopback\", \"samehost\"".to_owned();
            report.at(position, "address is missing in [[hba]]", Some(hint));
            return None;
        }
    };
    let rule = Rule { kind, databases: databases?, users: users?, address, method: method?, certificate, map };
    check_certificates(&rule, position, report);
    Some(rule)
}

/// PostgreSQL's own rules for what goes with certificates.
fn check_certificates(rule: &Rule, position: super::Position, report: &mut Report) {
    let is_tls = rule.kind == ConnectionKind::HostSsl;
    let wants_hostssl = || Some("write type = \"hostssl\"".to_owned());
    if rule.method == Method::Certificate && !is_tls {
        report.at(position, "cert authentication is only supported on hostssl connections", wants_hostssl());
    } else if rule.certificate.is_some() && !is_tls {
        report.at(position, "clientcert can only be configured for hostssl rules", wants_hostssl());
    }
    if rule.method == Method::Certificate && rule.certificate == Some(CertificateCheck::VerifyCa) {
        let hint = "remove clientcert: cert verifies in full".to_owned();
        report.at(position, "clientcert only accepts verify-full when using cert authentication", Some(hint));
    }
    let checks_name = rule.method == Method::Certificate || rule.certificate == Some(CertificateCheck::VerifyFull);
    if rule.map.is_some() && !checks_name {
        let hint = "use method = \"cert\", or clientcert = \"verify-full\"".to_owned();
        report.at(position, "map is for certificates only", Some(hint));
    }
}

fn unknown_unless<T>(
    known: Option<T>,
    key: &str,
    written: &At<String>,
    words: &[&'static str],
    report: &mut Report,
) -> Option<T> {
    if known.is_none() {
        let hint = match nearest(&written.value, words.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("known are {}", words.join(", ")),
        };
        report.at_offset(written.offset, format!("unknown {key} {}", written.value), Some(hint));
    }
    known
}

/// Databases or users; all when nothing is written.
fn read_names(key: &str, written: Option<At<Vec<String>>>, report: &mut Report) -> Option<Names> {
    let Some(written) = written else { return Some(Names::all()) };
    let mut names = Names { all: false, same_user: false, names: Vec::new() };
    let mut is_sound = true;
    for name in written.value {
        let refusal = match name.as_str() {
            "all" => {
                names.all = true;
                continue;
            }
            "sameuser" if key == "database" => {
                names.same_user = true;
                continue;
            }
            "samerole" | "samegroup" | "replication" if key == "database" => {
                format!("{name} is not supported: name the databases")
            }
            "" => format!("{key} is empty"),
            name if name.starts_with('+') => {
                format!("groups are not supported: name the users, not {name}")
            }
            name if name.starts_with('/') => format!("regular expressions are not supported: {name}"),
            name if name.starts_with('@') => format!("files of names are not supported: {name}"),
            _ => {
                names.names.push(name);
                continue;
            }
        };
        report.at_offset(written.offset, refusal, None);
        is_sound = false;
    }
    is_sound.then_some(names)
}

/// `password`, `password_file` or `password_env`: one of them.
pub(super) fn read_password(section: &mut Section, report: &mut Report) -> Option<PasswordSource> {
    let text = section.text("password", report);
    let file = section.text("password_file", report);
    let variable = section.text("password_env", report);
    if let Some(second) = [&text, &file, &variable].into_iter().flatten().nth(1) {
        let hint = "keep one of password, password_file and password_env".to_owned();
        report.at_offset(second.offset, "the password is there twice", Some(hint));
    }
    for empty in [&text, &file, &variable].into_iter().flatten().filter(|written| written.value.is_empty()) {
        let hint = "remove it where the servers ask for no password".to_owned();
        report.at_offset(empty.offset, "the password is empty, which PostgreSQL never accepts", Some(hint));
    }
    text.map(|text| PasswordSource::Text(Secret::new(text.value)))
        .or_else(|| file.map(|file| PasswordSource::File(PathBuf::from(file.value))))
        .or_else(|| variable.map(|variable| PasswordSource::Environment(variable.value)))
}
