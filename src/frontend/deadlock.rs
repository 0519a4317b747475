//! Finds sessions that wait for each other over several shards, which no single server can see.
//!
//! Every second the shards are asked who waits for whom, but only while two or more sessions hold
//! connections to several shards. A circle that is there on two looks in a row ends one of its
//! sessions with 40P01, as PostgreSQL's own detector would.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::{Frontend, Sessions};
use crate::base::ShardId;
use crate::control::client::ControlClient;
use crate::executor::CancelSlot;

/// Pause between two looks: PostgreSQL's own deadlock_timeout.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// How long a shard may take to answer.
const ASK_MS: u64 = 1_000;

/// Backends that wait for a lock, and who holds it.
const WAITS_SQL: &str = "SELECT a.pid, b.pid FROM pg_catalog.pg_stat_activity a, \
    unnest(pg_catalog.pg_blocking_pids(a.pid)) AS b(pid) WHERE a.wait_event_type = 'Lock'";

/// A session waits for another on a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wait {
    waiter: u32,
    holder: u32,
    shard: ShardId,
}

impl Frontend {
    /// Looks for deadlocks for ever.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn watch_deadlocks(self: Arc<Self>) {
        let mut clients: HashMap<ShardId, ControlClient> = HashMap::new();
        let mut before: BTreeSet<u32> = BTreeSet::new();
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            let slots = self.sessions.on_several_shards();
            if slots.len() < 2 {
                before.clear();
                continue;
            }
            let waits = self.read_waits(&slots, &mut clients).await;
            let circle = find_circle(&waits);
            // A look is not taken at one moment on all shards: only what stands twice is a circle.
            match circle.iter().copied().max().filter(|_| circle == before) {
                Some(victim) => {
                    if let Some(slot) = slots.get(&victim) {
                        tracing::info!(sessions = ?circle, victim, "deadlock over several shards");
                        slot.cancel_for_deadlock().await;
                    }
                    before.clear();
                }
                None => before = circle,
            }
        }
    }

    /// Who waits for whom, in terms of sessions. A shard that does not answer tells nothing.
    async fn read_waits(
        &self,
        slots: &BTreeMap<u32, Arc<CancelSlot>>,
        clients: &mut HashMap<ShardId, ControlClient>,
    ) -> Vec<Wait> {
        let mut sessions: HashMap<(ShardId, u32), u32> = HashMap::new();
        for (session, slot) in slots {
            for (shard, backend) in slot.backends() {
                sessions.insert((shard, backend), *session);
            }
        }
        let shards: BTreeSet<ShardId> = sessions.keys().map(|(shard, _)| *shard).collect();
        let topology = self.cluster.topology.load_full();
        let mut waits = Vec::new();
        for shard in shards {
            let Ok(target) = self.cluster.control_target(&topology, shard) else { continue };
            if clients.get(&shard).is_none_or(|client| client.is_closed() || *client.target() != target) {
                let Ok(client) = ControlClient::connect(&target).await else { continue };
                clients.insert(shard, client);
            }
            let Some(client) = clients.get(&shard) else { continue };
            let Ok(rows) = client.rows(WAITS_SQL, ASK_MS).await else {
                clients.remove(&shard);
                continue;
            };
            let backend = |cell: Option<&Option<String>>| cell?.as_deref()?.parse::<u32>().ok();
            for row in rows {
                let pair = (backend(row.first()), backend(row.get(1)));
                let (Some(waiter), Some(holder)) = pair else { continue };
                let known = (sessions.get(&(shard, waiter)), sessions.get(&(shard, holder)));
                if let (Some(waiter), Some(holder)) = known {
                    waits.push(Wait { waiter: *waiter, holder: *holder, shard });
                }
            }
        }
        waits
    }
}

impl Sessions {
    /// Sessions that hold connections to more than one shard.
    fn on_several_shards(&self) -> BTreeMap<u32, Arc<CancelSlot>> {
        let by_pid = self.by_pid.lock();
        by_pid
            .iter()
            .filter(|(_, entry)| entry.slot.backends().len() > 1)
            .map(|(pid, entry)| (*pid, Arc::clone(&entry.slot)))
            .collect()
    }
}

/// The sessions of one circle of waits over more than one shard; none when there is no such circle.
/// One within a single shard is for its server to end.
fn find_circle(waits: &[Wait]) -> BTreeSet<u32> {
    let reaches = |from: u32| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from];
        while let Some(session) = next.pop() {
            for wait in waits.iter().filter(|wait| wait.waiter == session) {
                if seen.insert(wait.holder) {
                    next.push(wait.holder);
                }
            }
        }
        seen
    };
    let starts: BTreeSet<u32> = waits.iter().map(|wait| wait.waiter).collect();
    for start in starts {
        let ahead = reaches(start);
        if !ahead.contains(&start) {
            continue;
        }
        // Everybody on the way who can get back belongs to it.
        let circle: BTreeSet<u32> = ahead.into_iter().filter(|session| reaches(*session).contains(&start)).collect();
        let shards: BTreeSet<ShardId> = waits
            .iter()
            .filter(|wait| circle.contains(&wait.waiter) && circle.contains(&wait.holder))
            .map(|wait| wait.shard)
            .collect();
        if shards.len() > 1 {
            return circle;
        }
    }
    BTreeSet::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(waiter: u32, holder: u32, shard: u32) -> Wait {
        Wait { waiter, holder, shard: ShardId(shard) }
    }

    #[test]
    fn a_circle_over_two_shards_is_found() {
        assert_eq!(find_circle(&[wait(1, 2, 1), wait(2, 1, 2)]), BTreeSet::from([1, 2]));
        assert_eq!(
            find_circle(&[wait(9, 1, 1), wait(1, 2, 1), wait(2, 3, 2), wait(3, 1, 3)]),
            BTreeSet::from([1, 2, 3]),
            "who only waits for the circle is not of it"
        );
    }

    #[test]
    fn waiting_in_a_row_and_circles_of_one_shard_are_left_alone() {
        assert!(find_circle(&[wait(1, 2, 1), wait(2, 3, 2)]).is_empty());
        assert!(find_circle(&[wait(1, 2, 1), wait(2, 1, 1)]).is_empty());
        assert!(find_circle(&[]).is_empty());
    }
}
