//! Which node leads a shard now; statements wait here while none does.
//!
//! Must not know: how a leader is found.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};

use super::{Cluster, Failure, shard_name};
use crate::backend::pools::CheckoutError;
use crate::backend::{ConnectTarget, Lease};
use crate::base::{NodeId, ShardId, Term};
use crate::error::{ClientError, ErrorId};
use crate::failover::{Beginning, Record, Serving};
use crate::topology::Topology;
use crate::wire::server_message::read_error;

/// How long a statement waits for its shard, and how many do.
const WAIT_MAX: Duration = Duration::from_secs(10);
const WAITING_MAX: usize = 10_000;
/// So many primaries may be lost while a connection is taken.
const LIVES_MAX: usize = 3;
/// Pause before a primary that was lost just now is tried again: it takes as long until that is known.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long it takes at most until it is known that a primary is gone whose connections have ended.
const MOVED_MAX: Duration = Duration::from_millis(1_500);

/// The leaders of the shards that are led; of others the topology's primary is used as it is.
#[derive(Clone, Debug)]
pub struct Primaries {
    by_shard: Arc<HashMap<ShardId, Led>>,
    /// What waits holds one statement each, which the limits of the wire bound.
    places: Arc<Semaphore>,
    wait_max: Duration,
    keeps_commits: bool,
}

/// A shard that is led.
#[derive(Debug)]
struct Led {
    serving: watch::Receiver<Serving>,
    /// Its record, which tells how terms began.
    record: Option<watch::Receiver<Option<Record>>>,
    /// How many want that nothing new begins there.
    held: watch::Sender<usize>,
}

impl Led {
    fn node(&self) -> Option<NodeId> {
        match *self.serving.borrow() {
            Serving::Open { node, .. } if *self.held.borrow() == 0 => Some(node),
            _ => None,
        }
    }

    /// # Errors
    /// Nobody looks for a primary any more.
    async fn opened(&self) -> Result<NodeId, watch::error::RecvError> {
        let (mut serving, mut held) = (self.serving.clone(), self.held.subscribe());
        loop {
            serving.wait_for(|serving| matches!(serving, Serving::Open { .. })).await?;
            held.wait_for(|held| *held == 0).await?;
            if let Some(node) = self.node() {
                return Ok(node);
            }
        }
    }
}

/// Nothing new begins on a shard until this is dropped.
#[derive(Debug)]
pub struct Hold {
    primaries: Primaries,
    shard: ShardId,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(led) = self.primaries.by_shard.get(&self.shard) {
            led.held.send_modify(|held| *held = held.saturating_sub(1));
        }
    }
}

impl Default for Primaries {
    fn default() -> Self {
        Self::new(HashMap::new())
    }
}

impl Primaries {
    /// These shards are led.
    pub fn new(by_shard: HashMap<ShardId, watch::Receiver<Serving>>) -> Self {
        let led = |serving| Led { serving, record: None, held: watch::channel(0).0 };
        let by_shard = by_shard.into_iter().map(|(shard, serving)| (shard, led(serving))).collect();
        let places = Arc::new(Semaphore::new(WAITING_MAX));
        Self { by_shard: Arc::new(by_shard), places, wait_max: WAIT_MAX, keeps_commits: false }
    }

    /// What is acknowledged has to be on standbys.
    #[must_use]
    pub fn keeping_commits(mut self, keeps_commits: bool) -> Self {
        self.keeps_commits = keeps_commits;
        self
    }

    /// The records of the shards, by which commits under way are told of when a primary is lost.
    #[must_use]
    pub fn with_records(mut self, mut records: HashMap<ShardId, watch::Receiver<Option<Record>>>) -> Self {
        if let Some(by_shard) = Arc::get_mut(&mut self.by_shard) {
            by_shard.iter_mut().for_each(|(shard, led)| led.record = records.remove(shard));
        }
        self
    }

    /// Where the shard is served now, and in which life of its primary; `None`: it is not led.
    pub(super) fn serving(&self, shard: ShardId) -> Option<Serving> {
        self.by_shard.get(&shard).map(|led| *led.serving.borrow())
    }

    /// The shard is served by this node, or it is not led.
    pub(super) fn is_in_its_life(&self, shard: ShardId, node: NodeId) -> bool {
        let serving = self.serving(shard);
        serving.is_none_or(|serving| matches!(serving, Serving::Open { node: leader, .. } if leader == node))
    }

    /// Waits until the shard is served otherwise than it was, or not at all; false: nothing has changed in time.
    pub(super) async fn moved(&self, shard: ShardId, since: Serving) -> bool {
        let Some(led) = self.by_shard.get(&shard) else { return false };
        let mut serving = led.serving.clone();
        matches!(tokio::time::timeout(MOVED_MAX, serving.wait_for(|serving| *serving != since)).await, Ok(Ok(_)))
    }

    /// How the first term behind this one began, once the record has come as far as `now`.
    pub(super) async fn beginning_after(&self, shard: ShardId, term: Term, now: Term) -> Option<Beginning> {
        let mut record = self.by_shard.get(&shard)?.record.clone()?;
        let is_new = |record: &Option<Record>| record.as_ref().is_some_and(|record| record.term >= now);
        let seen = tokio::time::timeout(MOVED_MAX, record.wait_for(is_new)).await.ok()?.ok()?;
        seen.as_ref()?.beginning_after(term)
    }

    pub(super) fn keeps_commits(&self) -> bool {
        self.keeps_commits && !self.by_shard.is_empty()
    }

    pub(super) fn is_any_led(&self) -> bool {
        !self.by_shard.is_empty()
    }

    pub(super) fn is_led(&self, shard: ShardId) -> bool {
        self.by_shard.contains_key(&shard)
    }

    /// As [`Primaries::open`], without waiting: `None` when it would have to be waited for.
    pub(super) fn open_now(&self, shard: ShardId) -> Option<Option<NodeId>> {
        match self.by_shard.get(&shard) {
            None => Some(None),
            Some(led) => led.node().map(Some),
        }
    }

    /// The node that takes statements for a shard, once there is one; `None`: the shard is not led.
    ///
    /// # Errors
    /// There was none in time, or too many wait already; nothing ran.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn open(&self, shard: ShardId) -> Result<Option<NodeId>, ClientError> {
        let Some(led) = self.by_shard.get(&shard) else { return Ok(None) };
        if let Some(node) = led.node() {
            return Ok(Some(node));
        }
        let closed = |detail: String| {
            ClientError::new(ErrorId::FailoverInProgress, format!("shard {shard} has no primary at the moment"))
                .with_detail(detail)
                .with_hint("Try again.")
        };
        let _place =
            self.places.try_acquire().map_err(|_| closed(format!("{WAITING_MAX} statements wait for one already.")))?;
        match tokio::time::timeout(self.wait_max, led.opened()).await {
            Ok(Ok(node)) => Ok(Some(node)),
            Ok(Err(_)) => Err(closed("Nobody looks for one any more.".to_owned())),
            Err(_) => Err(closed(format!("None was found within {} ms.", self.wait_max.as_millis()))),
        }
    }
}

impl Cluster {
    /// Lets nothing new begin on the primary of a shard for as long as it is kept.
    pub fn hold_statements(&self, shard: ShardId) -> Hold {
        let primaries = self.settings.primaries.clone();
        if let Some(led) = primaries.by_shard.get(&shard) {
            led.held.send_modify(|held| *held += 1);
        }
        Hold { primaries, shard }
    }

    /// As [`Cluster::checkout`], but a connection that is about to be replaced by the time it is there goes back: what ran
    /// on it could not be told of afterwards.
    pub(super) async fn checkout_in_its_life(
        &self,
        topology: &Topology,
        shard: ShardId,
        user: &str,
        adjust: impl Fn(&mut ConnectTarget),
    ) -> Result<Lease, Failure> {
        for _ in 0..LIVES_MAX {
            let lease = self.checkout(topology, shard, user, &adjust).await?;
            if self.settings.primaries.is_in_its_life(shard, lease.node()) {
                return Ok(lease);
            }
        }
        self.checkout(topology, shard, user, adjust).await
    }

    /// A connection to the primary of a shard, as soon as there is one; `adjust` has the last word on the target.
    ///
    /// # Errors
    /// None in time, or the server refuses; nothing ran.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn checkout(
        &self,
        topology: &Topology,
        shard: ShardId,
        user: &str,
        adjust: impl Fn(&mut ConnectTarget),
    ) -> Result<Lease, Failure> {
        let since = Instant::now();
        let is_led = self.settings.primaries.is_led(shard);
        loop {
            let mut target = self.open_target(topology, shard, user).await?;
            adjust(&mut target);
            match self.pools.checkout(&target).await {
                Ok(lease) => return Ok(lease),
                Err(error) if is_led && is_lost(&error) && since.elapsed() < WAIT_MAX => sleep(RETRY_PAUSE).await,
                Err(error) => {
                    return Err(match error.error_frame() {
                        Some(frame) => Failure::Postgres(frame.clone()),
                        None => Failure::Ours(error.to_client_error(&shard_name(topology, shard))),
                    });
                }
            }
        }
    }
}

/// Nobody is there, or the server just starts or stops.
fn is_lost(error: &CheckoutError) -> bool {
    match error.error_frame() {
        Some(frame) => read_error(&frame.body()).is_ok_and(|said| said.code.starts_with("57P0")),
        None => error.to_client_error("").id == ErrorId::ShardUnreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_statement_waits_until_its_shard_is_open() {
        let (leads, shows) = watch::channel(Serving::Closed);
        let primaries = Primaries::new([(ShardId(1), shows)].into());
        assert_eq!(primaries.open(ShardId(2)).await.unwrap(), None);
        let waiting = primaries.open(ShardId(1));
        let opening = async {
            tokio::task::yield_now().await;
            leads.send_replace(Serving::Open { node: NodeId(3), term: Term(2), session: 1 });
        };
        let (waited, ()) = tokio::join!(waiting, opening);
        assert_eq!(waited.unwrap(), Some(NodeId(3)));
    }

    #[tokio::test]
    async fn what_is_held_waits_until_it_is_let_go() {
        let (_leads, shows) = watch::channel(Serving::Open { node: NodeId(3), term: Term(2), session: 1 });
        let primaries = Primaries::new([(ShardId(1), shows)].into());
        assert_eq!(primaries.open_now(ShardId(1)), Some(Some(NodeId(3))));
        let led = primaries.by_shard.get(&ShardId(1)).unwrap();
        led.held.send_modify(|held| *held += 1);
        let hold = Hold { primaries: primaries.clone(), shard: ShardId(1) };
        assert_eq!(primaries.open_now(ShardId(1)), None);
        let letting_go = async {
            tokio::task::yield_now().await;
            drop(hold);
        };
        let (waited, ()) = tokio::join!(primaries.open(ShardId(1)), letting_go);
        assert_eq!(waited.unwrap(), Some(NodeId(3)));
    }

    #[tokio::test]
    async fn it_does_not_wait_for_ever() {
        let (_leads, shows) = watch::channel(Serving::Closed);
        let wait_max = Duration::from_millis(1);
        let primaries = Primaries { wait_max, ..Primaries::new([(ShardId(1), shows)].into()) };
        assert_eq!(primaries.open(ShardId(1)).await.unwrap_err().id, ErrorId::FailoverInProgress);
    }
}
