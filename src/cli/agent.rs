//! What `up` does for its servers while it runs: starts those that ended, and makes anew those that went astray.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::base::{NodeId, ShardId};
use crate::control::agent::promised;
use crate::control::leader::{Hands, orders};
use crate::host::{HostError, Machine, ServerSpec, ServerState};
use crate::store::agents::{Order, OrderKind};
use crate::store::{Store, load_topology};
use crate::topology::Topology;

/// Pause between two looks; who is down at two of them is started.
const LOOK: Duration = Duration::from_secs(1);

/// The servers of this machine.
#[derive(Clone)]
pub struct Agent {
    machine: Machine,
    servers: Arc<RwLock<Vec<(NodeId, ShardId, ServerSpec)>>>,
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

    fn spec(&self, node: NodeId) -> Option<(ShardId, ServerSpec)> {
        let servers = self.servers.read();
        servers.iter().find(|(id, ..)| *id == node).map(|(_, shard, spec)| (*shard, spec.clone()))
    }

    /// For the drivers of the shards.
    pub fn hands(&self) -> Arc<dyn Hands> {
        Arc::new(self.clone())
    }

    async fn carry_out(&self, node: NodeId, order: &Order) -> bool {
        let _busy = self.busy.lock().await;
        let (Some((shard, spec)), Some((_, source))) = (self.spec(node), self.spec(NodeId(order.primary))) else {
            return false;
        };
        let site = self.machine.site(&spec);
        if order.kind == OrderKind::Restart {
            let restarted = async {
                site.stop().await?;
                site.start().await
            };
            let restarted: Result<(), HostError> = restarted.await;
            return restarted
                .inspect_err(|error| tracing::warn!(node = %spec.name, %error, "cannot be restarted"))
                .is_ok();
        }
        let (promised, stamp) = (promised(&site.directory), order.stamp());
        let has_data = order.kind == OrderKind::Fill && !site.is_empty();
        if promised > stamp || has_data {
            // Since this was asked for it may have come to count.
            tracing::info!(node = %spec.name, ?promised, ?stamp, "is not made anew");
            return false;
        }
        tracing::info!(node = %spec.name, "is made anew");
        let (store, primary) = (Arc::clone(&self.store), NodeId(order.primary));
        let is_still_wanted = move || {
            let store = Arc::clone(&store);
            let asked = async move { orders::is_led_by(store.as_ref(), shard, primary, stamp).await };
            Box::pin(asked) as BoxFuture<'static, bool>
        };
        let promise = format!("{}.{}", stamp.term.0, stamp.config);
        match self.machine.remake_replica(&spec, &source, &promise, &is_still_wanted).await {
            Ok(how) => tracing::info!(node = %spec.name, ?how, "was made anew"),
            Err(error) => {
                tracing::warn!(node = %spec.name, %error, "cannot be made anew");
                return false;
            }
        }
        true
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
                let now: Vec<_> = servers.iter().filter(|(.., spec)| is_down(spec)).collect();
                for (node, _, spec) in now.iter().filter(|(node, ..)| down.contains(node)) {
                    tracing::warn!(%node, name = %spec.name, "the server had ended and is started");
                    if let Err(error) = agent.machine.revive(spec).await {
                        tracing::warn!(name = %spec.name, %error, "it cannot be started");
                    }
                }
                down = now.iter().map(|(node, ..)| *node).collect();
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

impl Hands for Agent {
    fn obey(&self, node: NodeId, order: Order) -> crate::store::BoxFuture<'_, bool> {
        Box::pin(async move { self.carry_out(node, &order).await })
    }

    fn is_empty(&self, node: NodeId) -> crate::store::BoxFuture<'_, bool> {
        let is_empty = self.spec(node).is_some_and(|(_, spec)| self.machine.site(&spec).is_empty());
        Box::pin(std::future::ready(is_empty))
    }

    fn are_there(&self, _: NodeId) -> crate::store::BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }
}

fn specs(topology: &Topology) -> Vec<(NodeId, ShardId, ServerSpec)> {
    let spec = |node: &crate::topology::Node| ServerSpec { name: node.name.clone(), port: node.port };
    topology.nodes.iter().map(|node| (node.id, node.shard, spec(node))).collect()
}
