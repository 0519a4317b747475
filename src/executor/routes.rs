//! The pools that a session comes back to: found once under a topology, not looked for with every statement.
//!
//! Must not know: what the connections are for.

use std::sync::{Arc, Weak};

use super::Cluster;
use crate::backend::{ConnectTarget, Lease, PoolRef};
use crate::base::{NodeId, ShardId};
use crate::topology::Topology;

/// Pools by shard.
#[derive(Default)]
pub(super) struct Routes {
    /// What the pools were found under: the topology, which an idle session does not keep alive, and what was known of
    /// passwords.
    found_under: Option<(Weak<Topology>, u64)>,
    /// With the node that led the shard, if one did.
    pools: Vec<(ShardId, Option<NodeId>, PoolRef)>,
}

impl Routes {
    /// An idle connection to a shard's primary for a user; `None` when it has to be waited for, or cannot be had.
    /// `finish` says what the session wants of its own, always the same.
    pub(super) fn checkout_now(
        &mut self,
        cluster: &Cluster,
        topology: &Arc<Topology>,
        shard: ShardId,
        user: &str,
        finish: impl FnOnce(&mut ConnectTarget),
    ) -> Option<Lease> {
        let stamp = cluster.secrets.stamp();
        let is_same =
            |(under, known): &(Weak<Topology>, u64)| under.as_ptr() == Arc::as_ptr(topology) && *known == stamp;
        if !self.found_under.as_ref().is_some_and(is_same) {
            self.pools.clear();
            self.found_under = Some((Arc::downgrade(topology), stamp));
        }
        let leader = cluster.settings.primaries.open_now(shard)?;
        let mut known =
            self.pools.iter().filter(|(known, led, pool)| (*known, *led) == (shard, leader) && pool.is_current());
        if let Some((_, _, pool)) = known.next() {
            return pool.checkout_now();
        }
        let mut target = cluster.led_target(topology, shard, user, leader).ok()?;
        finish(&mut target);
        let pool = cluster.pools.find(&target);
        let lease = pool.checkout_now();
        self.pools.retain(|(known, _, _)| *known != shard);
        if self.pools.is_empty() {
            // Most have one.
            self.pools.reserve_exact(1);
        }
        self.pools.push((shard, leader, pool));
        lease
    }
}
