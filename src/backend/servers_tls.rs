//! TLS towards the servers: one rule for all, and exceptions by the node's name.
//!
//! Must not know: how a handshake is done.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::net::tls::{ConnectSettings, Connector, TlsError, TlsMode};

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServersTlsSettings {
    /// For every node.
    pub all: ConnectSettings,
    /// Another mode for some nodes, by name.
    pub modes: BTreeMap<String, TlsMode>,
}

/// The connectors of all nodes.
#[derive(Clone, Debug)]
pub struct ServersTls {
    all: Arc<Connector>,
    by_mode: Arc<Vec<Arc<Connector>>>,
    modes: Arc<BTreeMap<String, TlsMode>>,
}

impl Default for ServersTls {
    /// Never TLS.
    fn default() -> Self {
        Self { all: Arc::new(Connector::disabled()), by_mode: Arc::default(), modes: Arc::default() }
    }
}

impl ServersTls {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be used, or a mode verifies and there is no CA.
    pub fn load(settings: &ServersTlsSettings) -> Result<Self, TlsError> {
        let all = Arc::new(Connector::load(settings.all.clone())?);
        let mut by_mode: Vec<Arc<Connector>> = Vec::new();
        for mode in settings.modes.values() {
            if *mode != all.mode() && !by_mode.iter().any(|connector| connector.mode() == *mode) {
                by_mode.push(Arc::new(Connector::load(ConnectSettings { mode: *mode, ..settings.all.clone() })?));
            }
        }
        Ok(Self { all, by_mode: Arc::new(by_mode), modes: Arc::new(settings.modes.clone()) })
    }

    /// The connector for a node.
    pub fn of(&self, node: &str) -> Arc<Connector> {
        let found = self.modes.get(node).and_then(|mode| self.by_mode.iter().find(|known| known.mode() == *mode));
        Arc::clone(found.unwrap_or(&self.all))
    }

    /// Reads changed files again, or all if `always`. `true`: something new is in use.
    ///
    /// # Errors
    /// The first that was found; what was read before stays.
    pub fn reload(&self, always: bool) -> Result<bool, TlsError> {
        let mut outcomes = Vec::new();
        for connector in std::iter::once(&self.all).chain(self.by_mode.iter()) {
            outcomes.push(connector.reload(always));
        }
        outcomes.into_iter().try_fold(false, |any, outcome| outcome.map(|new| any || new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_have_a_mode_of_its_own() {
        let all = ConnectSettings { mode: TlsMode::Prefer, ..ConnectSettings::default() };
        let modes = [("a", TlsMode::Require), ("b", TlsMode::Prefer), ("c", TlsMode::Disable)];
        let modes = modes.map(|(name, mode)| (name.to_owned(), mode)).into();
        let tls = ServersTls::load(&ServersTlsSettings { all, modes }).unwrap();
        let found = ["a", "b", "c", "d"].map(|name| tls.of(name).mode());
        assert_eq!(found, [TlsMode::Require, TlsMode::Prefer, TlsMode::Disable, TlsMode::Prefer]);
        assert_eq!(ServersTls::default().of("a").mode(), TlsMode::Disable);
    }
}
