//! `[store]`: where the topology is kept.

use std::path::PathBuf;

use super::PasswordSource;
use super::auth;
use super::error::Report;
use super::reader::Section;
use crate::store::endpoint_is_tls;

/// `[store]`
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(clippy::large_enum_variant)] // there is one in a process
pub enum StoreConfig {
    /// In a file of `[proxy] data`, for one proxy.
    #[default]
    Embedded,
    /// In etcd, for several.
    Etcd(EtcdConfig),
}

/// `[store]` with `kind = "etcd"`.
#[derive(Clone, Debug, PartialEq)]
pub struct EtcdConfig {
    /// `http://host:port` or `https://host:port` of each member.
    pub endpoints: Vec<String>,
    /// Keys begin with it; default `/ostrakon/`.
    pub prefix: String,
    /// Who logs in, where etcd asks for it.
    pub user: Option<(String, PasswordSource)>,
    /// The members' certificates lead to one of these.
    pub ca: Option<PathBuf>,
    /// Certificate and key that members are shown.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// How long a request may take; default 5,000 ms.
    pub timeout_ms: u64,
    /// The name of this proxy among those that share the store; default: one that `[proxy] data` keeps.
    pub proxy_name: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Embedded,
    Etcd,
}

const KINDS: [(&str, Kind); 2] = [("embedded", Kind::Embedded), ("etcd", Kind::Etcd)];

pub(super) fn read(section: Option<Section>, report: &mut Report) -> StoreConfig {
    let Some(mut section) = section else { return StoreConfig::Embedded };
    let position = section.position(report);
    let read_kind = |word: &str| KINDS.iter().find(|(known, _)| *known == word).map(|(_, kind)| *kind);
    let kind = section.word("kind", &KINDS.map(|(word, _)| word), read_kind, report);
    let kind = kind.unwrap_or(Kind::Embedded);
    if kind == Kind::Embedded {
        section.finish(report);
        return StoreConfig::Embedded;
    }
    let endpoints = section.texts("endpoints", report);
    let mut has_tls = false;
    match &endpoints {
        Some(endpoints) if !endpoints.value.is_empty() => {
            for endpoint in &endpoints.value {
                match endpoint_is_tls(endpoint) {
                    Some(is_tls) => has_tls |= is_tls,
                    None => {
                        let hint = "write \"http://10.0.0.1:2379\" or \"https://10.0.0.1:2379\"".to_owned();
                        report.at_offset(endpoints.offset, format!("{endpoint:?} is no endpoint"), Some(hint));
                    }
                }
            }
        }
        _ => {
            let hint = "add endpoints = [\"http://10.0.0.1:2379\"]".to_owned();
            report.at(position, "[store] has no endpoints", Some(hint));
        }
    }
    let prefix = section.text("prefix", report).map_or_else(|| "/ostrakon/".to_owned(), |prefix| prefix.value);
    let user = section.text("user", report);
    let password = auth::read_password(&mut section, report);
    let ca = section.text("ca", report).map(|path| PathBuf::from(path.value));
    if has_tls && ca.is_none() {
        report.at(position, "https needs a CA", Some("add ca = \"/etc/ostrakon/etcd-ca.crt\"".to_owned()));
    }
    let certificate = section.text("certificate", report).map(|path| PathBuf::from(path.value));
    let key = section.text("key", report).map(|path| PathBuf::from(path.value));
    if certificate.is_some() != key.is_some() {
        report.at(position, "certificate and key belong together", Some("write both, or none".to_owned()));
    }
    let timeout_ms = section.integer("timeout_ms", 100..=60_000, 5_000, report);
    let proxy_name = section.text("proxy_name", report);
    if let Some(name) = proxy_name.as_ref().filter(|name| !crate::topology::validate::is_name(&name.value)) {
        let hint = "a name has letters, digits, underscores and hyphens".to_owned();
        report.at_offset(name.offset, format!("{:?} cannot be the name of a proxy", name.value), Some(hint));
    }
    section.finish(report);
    let user = match (user, password) {
        (Some(user), Some(password)) => Some((user.value, password)),
        (None, None) => None,
        _ => {
            report.at(position, "user and password belong together", Some("write both, or none".to_owned()));
            None
        }
    };
    StoreConfig::Etcd(EtcdConfig {
        endpoints: endpoints.map(|endpoints| endpoints.value).unwrap_or_default(),
        prefix,
        user,
        ca,
        certificate: certificate.zip(key),
        timeout_ms,
        proxy_name: proxy_name.map(|name| name.value),
    })
}
