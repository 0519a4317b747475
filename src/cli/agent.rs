//! What `up` does for its servers while it runs: starts those that ended, and makes anew those that went astray.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::base::{NodeId, Term};
use crate::control::leader::Rejoin;
use crate::failover::Stamp;
use crate::host::{Machine, ServerSpec, ServerState};
use crate::store::{Store, load_topology};
use crate::topology::Topology;

/// Pause between two looks; who is down at two of them is started.
const LOOK: Duration = Duration::from_secs(1);

/// The servers of this machine.
#[derive(Clone)]
pub struct Agent {
    machine: Machine,
    servers: Arc<RwLock<Vec<(NodeId, ServerSpec)>>>,
    /// Shards may join.
    store: Arc<dyn Store>,
    /// One thing at a time is done to servers.
    busy: Arc<Mutex<()>>,
}

impl Agent {
    /// Looks after the servers of a topology.
    pub fn new(machine: &Machine, topology: &Topology, store: &Arc<dyn Store>) -> Self {
        Self {
            machine: machine.clone(),
            servers: Arc::new(RwLock::new(specs(topology))),
            store: Arc::clone(store),
            busy: Arc::default(),
        }
    }

    fn spec(&self, node: NodeId) -> Option<ServerSpec> {
        self.servers.read().iter().find(|(id, _)| *id == node).map(|(_, spec)| spec.clone())
    }

    /// For the drivers of the shards.
    pub fn rejoin(&self) -> Rejoin {
        let agent = self.clone();
        Arc::new(move |node, primary, stamp| {
            let agent = agent.clone();
            Box::pin(async move { agent.make_anew(node, primary, stamp).await })
        })
    }

    async fn make_anew(&self, node: NodeId, primary: NodeId, stamp: Stamp) -> bool {
        let _busy = self.busy.lock().await;
        let (Some(spec), Some(source)) = (self.spec(node), self.spec(primary)) else { return false };
        let promised = promised(&self.machine.data_directory(&spec.name));
        if promised > stamp {
            // Since this was asked for it may have come to count.
            tracing::info!(node = %spec.name, ?promised, ?stamp, "is not made anew");
            return false;
        }
        tracing::info!(node = %spec.name, "is made anew");
        let made = self.machine.remake_replica(&spec, &source).await;
        made.inspect_err(|error| tracing::warn!(node = %spec.name, %error, "cannot be made anew")).is_ok()
    }

    /// Starts servers that ended, for ever.
    pub fn watch(&self) -> JoinHandle<()> {
        let agent = self.clone();
        tokio::spawn(async move {
            let mut down: Vec<NodeId> = Vec::new();
            loop {
                tokio::time::sleep(LOOK).await;
                if let Ok(Some((topology, _))) = load_topology(agent.store.as_ref()).await {
                    *agent.servers.write() = specs(&topology);
                }
                let _busy = agent.busy.lock().await;
                let servers = agent.servers.read().clone();
                let is_down = |spec: &ServerSpec| agent.machine.state(&spec.name) == ServerState::Stopped;
                let now: Vec<&(NodeId, ServerSpec)> = servers.iter().filter(|(_, spec)| is_down(spec)).collect();
                for (node, spec) in now.iter().filter(|(node, _)| down.contains(node)) {
                    tracing::warn!(%node, name = %spec.name, "the server had ended and is started");
                    if let Err(error) = agent.machine.revive(spec).await {
                        tracing::warn!(name = %spec.name, %error, "it cannot be started");
                    }
                }
                down = now.iter().map(|(node, _)| *node).collect();
            }
        })
    }

    /// Ends the watching, between two things that are done; a copy that is being made is given up.
    pub async fn stop(&self, watching: &JoinHandle<()>) {
        self.machine.cancel();
        let _busy = self.busy.lock().await;
        watching.abort();
    }
}

fn specs(topology: &Topology) -> Vec<(NodeId, ServerSpec)> {
    let spec = |node: &crate::topology::Node| ServerSpec { name: node.name.clone(), port: node.port };
    topology.nodes.iter().map(|node| (node.id, spec(node))).collect()
}

/// What a server promised, from the file where it remembers it.
fn promised(directory: &Path) -> Stamp {
    let text = std::fs::read_to_string(directory.join("postgresql.auto.conf")).unwrap_or_default();
    let read = |line: &str| {
        let value = line.strip_prefix("ostrakon.promised")?.trim_start().strip_prefix('=')?.trim();
        let (term, config) = value.trim_matches('\'').split_once('.')?;
        Some(Stamp { term: Term(term.parse().ok()?), config: config.parse().ok()? })
    };
    text.lines().filter_map(read).next_back().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_read_from_the_servers_own_file() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(promised(directory.path()), Stamp::default());
        let text = "# Do not edit\nport = '1'\nostrakon.promised = '3.12'\n";
        std::fs::write(directory.path().join("postgresql.auto.conf"), text).unwrap();
        assert_eq!(promised(directory.path()), Stamp { term: Term(3), config: 12 });
    }
}
