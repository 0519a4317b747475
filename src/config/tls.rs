//! `[tls]` and `[servers_tls]`: certificates for clients and towards the nodes.

use std::path::PathBuf;

use toml::de::DeTable;

use super::error::{Position, Report};
use super::reader::Section;
use crate::net::tls::{AcceptSettings, ConnectSettings, TlsMode, TlsVersion};

/// `[tls]`: TLS for clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Certificate and key; `None`: clients' requests for TLS are answered with no.
    pub accept: Option<AcceptSettings>,
    /// Clients without TLS are refused.
    pub required: bool,
    /// Where it is written.
    pub position: Position,
}

/// `[servers_tls]`: TLS towards the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServersTlsConfig {
    /// For every node that has no mode of its own.
    pub connect: ConnectSettings,
    /// Where it is written.
    pub position: Position,
}

/// Whether clients speak TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientMode {
    Disable,
    Allow,
    Require,
}

const CLIENT_MODES: [(&str, ClientMode); 3] =
    [("disable", ClientMode::Disable), ("allow", ClientMode::Allow), ("require", ClientMode::Require)];

pub(super) fn read_tls(section: Option<Section>, report: &mut Report) -> TlsConfig {
    let Some(mut section) = section else { return TlsConfig::default() };
    let position = section.position(report);
    let mode = section.word(
        "mode",
        &CLIENT_MODES.map(|(word, _)| word),
        |word| CLIENT_MODES.iter().find(|(known, _)| *known == word).map(|(_, mode)| *mode),
        report,
    );
    let own = read_pair(&mut section, position, report);
    let client_ca = section.text("client_ca", report).map(|path| PathBuf::from(path.value));
    let oldest = read_oldest(&mut section, report);
    section.finish(report);
    let mode = mode.unwrap_or(if own.is_some() { ClientMode::Allow } else { ClientMode::Disable });
    if own.is_none() && mode != ClientMode::Disable {
        let hint = "add certificate = \"/etc/ostrakon/server.crt\" and key = \"/etc/ostrakon/server.key\"".to_owned();
        report.at(position, "[tls] has no certificate", Some(hint));
    }
    let accept = own.filter(|_| mode != ClientMode::Disable).map(|(certificate, key)| AcceptSettings {
        certificate,
        key,
        client_ca,
        oldest,
    });
    TlsConfig { accept, required: mode == ClientMode::Require, position }
}

pub(super) fn read_servers_tls(section: Option<Section>, report: &mut Report) -> ServersTlsConfig {
    let empty = DeTable::new();
    let mut section = section.unwrap_or_else(|| Section::new("[servers_tls]", &empty, 0));
    let position = section.position(report);
    let mode = read_mode(&mut section, "mode", report).unwrap_or(TlsMode::Prefer);
    let ca = section.text("ca", report).map(|path| PathBuf::from(path.value));
    let certificate = read_pair(&mut section, position, report);
    let oldest = read_oldest(&mut section, report);
    section.finish(report);
    if mode.verifies() && ca.is_none() {
        report.at(position, format!("mode {} needs a CA", mode.as_str()), Some(CA_HINT.to_owned()));
    }
    ServersTlsConfig { connect: ConnectSettings { mode, ca, certificate, oldest }, position }
}

/// What to do where a mode verifies and there is nothing to verify with.
pub(super) const CA_HINT: &str = "add ca = \"/etc/ostrakon/root.crt\" to [servers_tls]";

/// A mode towards the nodes.
pub(super) fn read_mode(section: &mut Section, key: &'static str, report: &mut Report) -> Option<TlsMode> {
    section.word(key, &TlsMode::ALL.map(TlsMode::as_str), TlsMode::from_word, report)
}

fn read_oldest(section: &mut Section, report: &mut Report) -> TlsVersion {
    let words = TlsVersion::ALL.map(TlsVersion::as_str);
    section.word("version_min", &words, TlsVersion::from_word, report).unwrap_or_default()
}

/// A certificate and its key: both or none.
fn read_pair(section: &mut Section, position: Position, report: &mut Report) -> Option<(PathBuf, PathBuf)> {
    let certificate = section.text("certificate", report);
    let key = section.text("key", report);
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some((PathBuf::from(certificate.value), PathBuf::from(key.value))),
        (None, None) => None,
        (Some(_), None) => {
            report.at(position, "the certificate has no key", Some("add key = \"…/server.key\"".to_owned()));
            None
        }
        (None, Some(_)) => {
            let hint = "add certificate = \"…/server.crt\"".to_owned();
            report.at(position, "the key has no certificate", Some(hint));
            None
        }
    }
}
