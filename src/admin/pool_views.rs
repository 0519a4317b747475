//! SHOW POOLS, SHOW SERVERS and SHOW CLIENTS: who uses and who waits for connections.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::Admin;
use crate::backend::pool::MemberState;
use crate::base::{NodeId, ShardId};
use crate::executor::shard_name;
use crate::session::PoolMode;
use crate::topology::Topology;

impl Admin {
    pub(super) fn pool_rows(&self) -> Value {
        let row = |pool: crate::backend::PoolStats| {
            let counts = pool.counts;
            json!({
                "node": pool.node.to_string(), "database": pool.database, "mode": self.cluster.pool_mode(&pool.user).as_str(),
                "user": pool.user, "size": pool.size, "idle": counts.idle, "used": counts.used, "opening": counts.opening,
                "resetting": counts.resetting, "waiting": counts.waiting, "longest_wait_ms": counts.longest_wait_ms,
                "opened_total": counts.opened_total, "resets_total": counts.resets_total,
                "turns_total": counts.turns_total,
            })
        };
        Value::Array(self.cluster.pools.stats().into_iter().map(row).collect())
    }

    pub(super) fn server_rows(&self, topology: &Topology) -> Value {
        let holders = self.holders(topology);
        let shard_of = |node: NodeId| topology.nodes.iter().find(|known| known.id == node).map(|node| node.shard);
        let mut rows = Vec::new();
        for pool in self.cluster.pools.stats() {
            let shard = shard_of(pool.node);
            for member in &pool.members {
                let state = match member.state {
                    MemberState::Idle => "idle",
                    MemberState::Used => "used",
                    MemberState::Resetting => "resetting",
                };
                let is_used = member.state == MemberState::Used;
                let client = shard.filter(|_| is_used).and_then(|shard| holders.get(&(shard, member.label)));
                rows.push(json!({
                    "node": pool.node.to_string(), "database": pool.database, "user": pool.user, "pid": member.label,
                    "state": state, "client": client, "age_s": member.age_ms / 1_000,
                    "idle_s": member.idle_ms.map(|idle_ms| idle_ms / 1_000),
                }));
            }
        }
        Value::Array(rows)
    }

    pub(super) fn client_rows(&self, topology: &Topology) -> Value {
        let row = |(client, connected_s): (super::Client, u64)| {
            let held = client.slot.backends();
            let is_of_admin = *client.database == *super::DATABASE;
            let mode = (!is_of_admin).then(|| self.cluster.pool_mode(&client.user).as_str());
            let servers: Vec<String> =
                held.iter().map(|(shard, pid)| format!("{}/{pid}", shard_name(topology, *shard))).collect();
            json!({
                "pid": self.told_pid(topology, &client, &held), "user": *client.user, "database": *client.database,
                "address": client.address.map(|address| address.to_string()), "mode": mode,
                "state": if held.is_empty() { "idle" } else { "active" }, "servers": servers, "connected_s": connected_s,
            })
        };
        Value::Array(self.clients.list().into_iter().map(row).collect())
    }

    /// In session mode on one shard a client is told the process id of its server.
    fn told_pid(&self, topology: &Topology, client: &super::Client, held: &[(ShardId, u32)]) -> u32 {
        let is_alone = topology.shards.len() == 1 && self.cluster.pool_mode(&client.user) == PoolMode::Session;
        held.first().filter(|_| is_alone).map_or(client.slot.pid(), |(_, pid)| *pid)
    }

    /// Clients by the server processes that work for them.
    fn holders(&self, topology: &Topology) -> HashMap<(ShardId, u32), u32> {
        let mut holders = HashMap::new();
        for (client, _) in self.clients.list() {
            let held = client.slot.backends();
            let pid = self.told_pid(topology, &client, &held);
            holders.extend(held.into_iter().map(|backend| (backend, pid)));
        }
        holders
    }
}
