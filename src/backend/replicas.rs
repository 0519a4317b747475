//! How far each replica is known to have come, and which one a session may read from.
//!
//! Samples of the primary say "at this moment its log ended there": whatever was acknowledged before the
//! sample was asked for lies before that place. Samples of a replica say "replayed up to there". So a session
//! that used the primary at time t may read from replicas that have replayed the place of the first sample
//! that was asked for after t: it finds its own writes, and whatever it has read before. No statement waits for
//! a sample on its own account but as written at [`Floor`].
//!
//! Must not know: who samples, what sessions do.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::base::{NodeId, ShardId};

/// Samples of a primary that are kept. Older moments count as the oldest one kept.
const SAMPLES_MAX: usize = 512;
/// A node in another zone is chosen when those of the own zone have this many times its work.
const FAR_FACTOR: u64 = 4;
/// Samples are taken for so long after they were last of use.
const WANTED_FOR: Duration = Duration::from_secs(60);
/// Below this, latencies say nothing.
const LATENCY_FLOOR_US: u64 = 200;

/// Limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSettings {
    /// A replica that is further behind gets no reads.
    pub lag_max: Duration,
    /// A node that was not heard of for so long gets none.
    pub silence_max: Duration,
    /// How long a read may wait for a replica to catch up with what its session has seen.
    pub wait_max: Duration,
    /// Pause between two samples of a node.
    pub sample_pause: Duration,
    /// The proxy's own zone; empty: none.
    pub zone: String,
}

impl Default for ReplicaSettings {
    fn default() -> Self {
        Self {
            lag_max: Duration::from_secs(10),
            silence_max: Duration::from_secs(2),
            wait_max: Duration::from_millis(10),
            sample_pause: Duration::from_millis(50),
            zone: String::new(),
        }
    }
}

/// What a session has seen of one shard, as a lower bound of what it may be shown.
///
/// A read that comes while no replica is known to be fresh enough goes to the primary. The one after it waits up
/// to [`ReplicaSettings::wait_max`] for one, so that a session in a hurry does not stay at the primary for ever,
/// each read there asking for a newer sample than the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// Replayed at least up to here.
    pub lsn: u64,
    /// The primary was used, last at this moment.
    pub primary: Option<Instant>,
    /// A replica was read from, last at this moment.
    pub replica: Option<(NodeId, Instant)>,
    /// Reads that went to the primary since a replica was read from.
    pub primary_reads: u32,
}

impl Floor {
    /// The primary was used up to now.
    pub fn note_primary(&mut self, now: Instant) {
        self.primary = Some(now);
        self.replica = None;
    }

    /// A replica was read from up to now.
    pub fn note_replica(&mut self, node: NodeId, now: Instant) {
        self.replica = Some((node, now));
        self.primary_reads = 0;
    }
}

/// Why no replica is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReplica {
    /// There is none that answers and is not too far behind.
    Missing,
    /// None is known to have what the session has seen.
    NotFresh,
}

/// Everything that is known of nodes.
#[derive(Debug, Default)]
pub struct Replicas {
    settings: ReplicaSettings,
    shards: Mutex<BTreeMap<ShardId, Shard>>,
    /// When somebody last wanted to know.
    asked: Mutex<Option<Instant>>,
    changed: Notify,
    hurried: Notify,
    wanted: Mutex<HashMap<ShardId, Arc<Notify>>>,
}

#[derive(Debug, Default)]
struct Shard {
    /// The node that the samples are of.
    primary: Option<NodeId>,
    samples: VecDeque<(Instant, u64)>,
    replicas: BTreeMap<NodeId, Replica>,
    turn: usize,
    /// Until then nodes are asked as often as may be.
    hurried_until: Option<Instant>,
}

#[derive(Debug)]
struct Replica {
    zone: String,
    replayed: u64,
    heard: Instant,
    latency_us: u64,
    outstanding: Arc<AtomicUsize>,
}

/// A replica that was chosen; counted as at work until dropped.
#[derive(Debug)]
pub struct Chosen {
    /// The node.
    pub node: NodeId,
    outstanding: Arc<AtomicUsize>,
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where the last record before an insert position ends. At the start of a page the position stands behind the
/// page's header, to which no replica replays before something follows. No record ends within a header.
///
/// # Source
/// PostgreSQL's `XLogBytePosToRecPtr`, `XLogPageHeaderData`.
fn end_of_last_record(lsn: u64) -> u64 {
    const PAGE_BYTES: u64 = 8_192;
    match lsn % PAGE_BYTES {
        header @ (24 | 40) => lsn - header,
        _ => lsn,
    }
}

impl Shard {
    /// Where the log ended at the first sample that was asked for after a moment.
    fn end_after(&self, moment: Instant) -> Option<u64> {
        let at = self.samples.partition_point(|(asked, _)| *asked < moment);
        self.samples.get(at).map(|(_, lsn)| *lsn)
    }

    /// How long ago the primary was last known to be where this replica is now.
    fn lag(&self, replayed: u64, now: Instant) -> Option<Duration> {
        let at = self.samples.partition_point(|(_, lsn)| *lsn <= replayed);
        // All of them: it is no further behind than the newest.
        let (asked, _) = self.samples.get(at.checked_sub(1)?)?;
        if at == self.samples.len() { Some(Duration::ZERO) } else { Some(now.saturating_duration_since(*asked)) }
    }
}

impl Replicas {
    /// Nothing is known yet.
    pub fn new(settings: ReplicaSettings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// The limits.
    pub fn settings(&self) -> &ReplicaSettings {
        &self.settings
    }

    /// The primary's log ended at `lsn` at some moment after `asked`.
    pub fn note_primary(&self, shard: ShardId, node: NodeId, asked: Instant, lsn: u64) {
        let lsn = end_of_last_record(lsn);
        let mut shards = self.shards.lock();
        let shard = shards.entry(shard).or_default();
        if shard.primary != Some(node) {
            shard.primary = Some(node);
            shard.samples.clear();
        }
        if shard.samples.back().is_some_and(|(last, end)| *last >= asked || *end > lsn) {
            return;
        }
        if shard.samples.len() == SAMPLES_MAX {
            shard.samples.pop_front();
        }
        shard.samples.push_back((asked, lsn));
    }

    /// A replica has replayed up to `lsn`; the question took `took`.
    pub fn note_replica(&self, shard: ShardId, node: NodeId, zone: &str, lsn: u64, now: Instant, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        {
            let mut shards = self.shards.lock();
            let replicas = &mut shards.entry(shard).or_default().replicas;
            let replica = replicas.entry(node).or_insert_with(|| Replica {
                zone: String::new(),
                replayed: 0,
                heard: now,
                latency_us: took_us,
                outstanding: Arc::default(),
            });
            // As it is, not the furthest ever: a replica that was rebuilt begins anew.
            (replica.replayed, replica.heard) = (lsn, now);
            replica.latency_us = (replica.latency_us.saturating_mul(7) / 8).saturating_add(took_us / 8);
            zone.clone_into(&mut replica.zone);
        }
        self.changed.notify_waiters();
    }

    /// A node does not answer, or is no replica any more.
    pub fn forget(&self, shard: ShardId, node: NodeId) {
        if let Some(shard) = self.shards.lock().get_mut(&shard) {
            shard.replicas.remove(&node);
        }
    }

    /// Whoever samples a shard's primary waits on this for sessions that want a sample at once.
    pub fn wanted(&self, shard: ShardId) -> Arc<Notify> {
        Arc::clone(self.wanted.lock().entry(shard).or_default())
    }

    /// Whether anybody has wanted to know anything lately: else there is nothing to sample for.
    pub fn is_wanted(&self) -> bool {
        self.asked.lock().is_some_and(|asked| asked.elapsed() <= WANTED_FOR)
    }

    /// Waits until some session wants to know at once how far replicas are.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn hurried(&self) {
        self.hurried.notified().await;
    }

    /// Somebody will want a newer sample soon.
    pub fn hurry(&self, shard: ShardId) {
        let until = Instant::now() + self.settings.sample_pause;
        self.shards.lock().entry(shard).or_default().hurried_until = Some(until);
        self.wanted(shard).notify_one();
        self.hurried.notify_waiters();
    }

    /// Whether nodes of a shard are to be asked again at once.
    pub fn is_hurried(&self, shard: ShardId) -> bool {
        let until = self.shards.lock().get(&shard).and_then(|shard| shard.hurried_until);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// The replica with the least work among those that have what the session has seen. `is_strict`: without it
    /// the floor does not count.
    ///
    /// # Errors
    /// There is none.
    pub fn choose(
        &self,
        shard: ShardId,
        floor: &mut Floor,
        is_strict: bool,
        now: Instant,
    ) -> Result<Chosen, NoReplica> {
        *self.asked.lock() = Some(now);
        let mut shards = self.shards.lock();
        let Some(shard) = shards.get_mut(&shard) else { return Err(NoReplica::Missing) };
        if let Some(end) = floor.primary.and_then(|moment| shard.end_after(moment)) {
            floor.lsn = floor.lsn.max(end);
            floor.primary = None;
        }
        let after_replica = floor.replica.map(|(node, moment)| (node, shard.end_after(moment)));
        let mut is_any_there = false;
        let mut best: Option<(u64, NodeId)> = None;
        shard.turn = shard.turn.wrapping_add(1);
        let count = shard.replicas.len().max(1);
        let in_turn = shard.replicas.iter().cycle().skip(shard.turn % count).take(shard.replicas.len());
        for (node, replica) in in_turn {
            let is_heard = now.saturating_duration_since(replica.heard) <= self.settings.silence_max;
            let lag = shard.lag(replica.replayed, now);
            if !is_heard || lag.is_none_or(|lag| lag > self.settings.lag_max) {
                continue;
            }
            is_any_there = true;
            let has_read = match after_replica {
                None => true,
                Some((last, _)) if last == *node => true,
                Some((_, end)) => end.is_some_and(|end| end <= replica.replayed),
            };
            let is_fresh = floor.primary.is_none() && floor.lsn <= replica.replayed && has_read;
            if is_strict && !is_fresh {
                continue;
            }
            let work = replica.outstanding.load(Ordering::Relaxed) as u64 + 1;
            let is_far = !self.settings.zone.is_empty() && replica.zone != self.settings.zone;
            let cost = work * (replica.latency_us.max(LATENCY_FLOOR_US)) * if is_far { FAR_FACTOR } else { 1 };
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, *node));
            }
        }
        let Some((_, node)) = best else {
            return Err(if is_any_there { NoReplica::NotFresh } else { NoReplica::Missing });
        };
        let Some(replica) = shard.replicas.get(&node) else { return Err(NoReplica::Missing) };
        replica.outstanding.fetch_add(1, Ordering::Relaxed);
        Ok(Chosen { node, outstanding: Arc::clone(&replica.outstanding) })
    }

    /// As [`Self::choose`], and waits for a replica to come as far, within the limit.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_for(&self, shard: ShardId, floor: &mut Floor) -> Option<Chosen> {
        let end = Instant::now() + self.settings.wait_max;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.choose(shard, floor, true, Instant::now()) {
                Ok(chosen) => return Some(chosen),
                Err(NoReplica::Missing) => return None,
                Err(NoReplica::NotFresh) => self.hurry(shard),
            }
            if tokio::time::timeout_at(end, changed).await.is_err() {
                return None;
            }
        }
    }

    /// The place in the log that stands for everything the session has seen of a shard; waits for a sample.
    ///
    /// # Errors
    /// None came in time: the primary cannot be asked.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn seen(&self, shard: ShardId, floor: &Floor, limit: Duration) -> Option<u64> {
        let moment = floor.primary.into_iter().chain(floor.replica.map(|(_, moment)| moment)).max();
        let Some(moment) = moment else { return Some(floor.lsn) };
        let end = Instant::now() + limit;
        *self.asked.lock() = Some(Instant::now());
        loop {
            if let Some(lsn) = self.shards.lock().get(&shard).and_then(|shard| shard.end_after(moment)) {
                return Some(lsn.max(floor.lsn));
            }
            if Instant::now() >= end {
                return None;
            }
            self.wanted(shard).notify_one();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(1);
    const MS: Duration = Duration::from_millis(1);

    /// Two replicas, 11 and 12, and a primary that was sampled at 10 ms (lsn 100) and 20 ms (lsn 200).
    fn ground(first: u64, second: u64) -> (Replicas, Instant) {
        let start = Instant::now();
        let replicas = Replicas::new(ReplicaSettings { zone: "a".to_owned(), ..ReplicaSettings::default() });
        replicas.note_primary(SHARD, NodeId(1), start + 10 * MS, 100);
        replicas.note_primary(SHARD, NodeId(1), start + 20 * MS, 200);
        for (node, zone, lsn) in [(11, "a", first), (12, "b", second)] {
            replicas.note_replica(SHARD, NodeId(node), zone, lsn, start + 21 * MS, MS);
        }
        (replicas, start)
    }

    fn node(replicas: &Replicas, floor: &mut Floor, now: Instant) -> Result<u32, NoReplica> {
        replicas.choose(SHARD, floor, true, now).map(|chosen| chosen.node.0)
    }

    #[test]
    fn a_writer_reads_where_the_first_sample_after_its_write_is_replayed() {
        let (replicas, start) = ground(150, 250);
        let now = start + 22 * MS;
        let mut before = Floor::default();
        before.note_primary(start + 5 * MS);
        assert_eq!(node(&replicas, &mut before, now), Ok(11), "100 is enough");
        let mut between = Floor::default();
        between.note_primary(start + 15 * MS);
        assert_eq!(node(&replicas, &mut between, now), Ok(12), "it takes 200");
        let mut after = Floor::default();
        after.note_primary(start + 21 * MS);
        assert_eq!(node(&replicas, &mut after, now), Err(NoReplica::NotFresh), "no sample tells");
        let any = replicas.choose(SHARD, &mut after, false, now);
        assert!(any.is_ok(), "without the guarantee any will do");
    }

    #[test]
    fn a_reader_does_not_go_back_in_time_when_it_changes_replicas() {
        let (replicas, start) = ground(150, 250);
        let now = start + 22 * MS;
        let mut floor = Floor::default();
        floor.note_replica(NodeId(12), start + 15 * MS);
        assert_eq!(node(&replicas, &mut floor, now), Ok(12), "the same one is always right");
        let mut floor = Floor::default();
        floor.note_replica(NodeId(11), start + 15 * MS);
        assert_eq!(node(&replicas, &mut floor, now), Ok(11), "its own zone");
        let far = replicas.choose(SHARD, &mut floor, true, now);
        assert_eq!(far.unwrap().node, NodeId(11));
    }

    #[test]
    fn work_is_spread_and_the_own_zone_comes_first() {
        let (replicas, start) = ground(250, 250);
        let now = start + 22 * MS;
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(replicas.choose(SHARD, &mut Floor::default(), true, now).unwrap());
        }
        let far = held.iter().filter(|chosen| chosen.node == NodeId(12)).count();
        assert_eq!(far, 2, "a node in another zone takes a share once the others have four times its work");
        held.clear();
        assert_eq!(node(&replicas, &mut Floor::default(), now), Ok(11));
    }

    #[test]
    fn who_lags_or_is_silent_gets_nothing() {
        let (replicas, start) = ground(150, 250);
        assert_eq!(node(&replicas, &mut Floor::default(), start + 5_000 * MS), Err(NoReplica::Missing), "silent");
        let late = start + 20_000 * MS;
        replicas.note_primary(SHARD, NodeId(1), late, 900);
        replicas.note_replica(SHARD, NodeId(11), "a", 150, late, MS);
        assert_eq!(node(&replicas, &mut Floor::default(), late), Err(NoReplica::Missing), "20 s behind");
        replicas.note_replica(SHARD, NodeId(12), "b", 900, late, MS);
        assert_eq!(node(&replicas, &mut Floor::default(), late), Ok(12));
        replicas.forget(SHARD, NodeId(12));
        assert_eq!(node(&replicas, &mut Floor::default(), late), Err(NoReplica::Missing), "down");
        assert_eq!(node(&Replicas::default(), &mut Floor::default(), late), Err(NoReplica::Missing), "never heard of");
    }

    #[test]
    fn another_primary_begins_its_samples_anew() {
        let (replicas, start) = ground(150, 250);
        let mut floor = Floor::default();
        floor.note_primary(start + 5 * MS);
        replicas.note_primary(SHARD, NodeId(2), start + 30 * MS, 300);
        assert_eq!(node(&replicas, &mut floor, start + 31 * MS), Err(NoReplica::Missing));
        replicas.note_replica(SHARD, NodeId(12), "b", 300, start + 31 * MS, MS);
        assert_eq!(node(&replicas, &mut floor, start + 31 * MS), Ok(12));
    }

    #[tokio::test]
    async fn a_read_waits_for_a_replica_that_catches_up_and_not_for_ever() {
        let (replicas, start) = ground(150, 150);
        let mut floor = Floor::default();
        floor.note_primary(start + 15 * MS);
        assert!(replicas.wait_for(SHARD, &mut floor).await.is_none());
        let replicas = Arc::new(replicas);
        let later = Arc::clone(&replicas);
        tokio::spawn(async move {
            tokio::time::sleep(3 * MS).await;
            later.note_replica(SHARD, NodeId(12), "b", 250, Instant::now(), MS);
        });
        assert_eq!(replicas.wait_for(SHARD, &mut floor).await.map(|chosen| chosen.node), Some(NodeId(12)));
    }
}
