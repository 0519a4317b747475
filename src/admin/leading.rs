//! SWITCHOVER and FAILOVER: another primary, by command.
//!
//! Must not know: how one is found and opened; that is `failover`'s, driven by `control::leader`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::views::table;
use super::{Admin, View};
use crate::base::{NodeId, ShardId};
use crate::control::client::ControlClient;
use crate::control::leader::Handle;
use crate::error::{ClientError, ErrorId};
use crate::failover::{Cause, Phase, Record, Serving, SyncSet};
use crate::topology::{Node, Topology};

/// Who leads each shard that is led.
pub type Leaders = Arc<HashMap<ShardId, Handle>>;

/// How long transactions may take to end before a planned change begins.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// How long a change may take before its outcome is no longer waited for.
const CHANGE_MAX: Duration = Duration::from_secs(30);
/// How long the topology may take to name the new primary.
const TOLD_MAX: Duration = Duration::from_secs(5);
/// How long a checkpoint may take that spares the promotion one.
const CHECKPOINT_MS_MAX: u64 = 30_000;
/// Pause between two looks at what is under way.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
const COLUMNS: [&str; 6] = ["shard", "from", "to", "term", "pause_ms", "state"];

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) shard: String,
    pub(super) to: Option<String>,
    pub(super) kind: ChangeKind,
    pub(super) dry_run: bool,
}

/// At what price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChangeKind {
    /// The primary may be well: nothing is cut that ends in time.
    Planned,
    /// The primary is to be taken as lost.
    Lost,
    /// Acknowledged writes may be lost.
    LossAllowed,
}

impl Admin {
    /// Sets who leads the shards; once.
    pub fn set_leaders(&self, leaders: Leaders) {
        let _was_there = self.leaders.set(leaders);
    }

    /// The term of a shard, and the nodes that commits wait for.
    pub(super) fn leadership(&self) -> BTreeMap<ShardId, Record> {
        let leaders = self.leaders.get().into_iter().flat_map(|leaders| leaders.iter());
        leaders.filter_map(|(shard, handle)| Some((*shard, handle.record.borrow().clone()?))).collect()
    }

    /// What SHOW NODES says of a shard that takes no writes.
    pub(super) fn waiting(
        &self,
        topology: &Topology,
        shard: u32,
        records: &BTreeMap<ShardId, Record>,
        streams: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let (shard, record) = records.iter().find(|(known, _)| known.0 == shard)?;
        let handle = self.leaders.get()?.get(shard)?;
        let is_served = matches!(*handle.serving.borrow(), Serving::Open { .. });
        waits_for(record, is_served, |node| name(topology, node), streams)
    }

    /// Makes another node primary, and says how it went.
    pub(super) async fn change_primary(&self, change: &Change) -> Result<View, ClientError> {
        let topology = self.cluster.topology.load_full();
        let shard = topology.shards.iter().find(|shard| shard.name == change.shard).map(|shard| shard.id);
        let shard = shard.ok_or_else(|| {
            ClientError::new(ErrorId::UndefinedObject, format!("there is no shard \"{}\"", change.shard))
                .with_hint("SHOW SHARDS lists them.")
        })?;
        let leader = self.leaders.get().and_then(|leaders| leaders.get(&shard)).ok_or_else(|| {
            ClientError::new(ErrorId::PrerequisiteMissing, format!("nobody leads shard \"{}\"", change.shard))
                .with_hint("It has no replica, or the configuration has no [failover] section.")
        })?;
        let record = leader.record.borrow().clone().ok_or_else(|| {
            ClientError::new(ErrorId::PrerequisiteMissing, "the record of the shard's leadership was not read yet")
                .with_hint("Try again.")
        })?;
        let to = wanted(&topology, shard, change, &record)?;
        let plan = json!([{
            "shard": change.shard, "from": name(&topology, record.primary), "to": to.map(|to| name(&topology, to)),
            "term": record.term.0 + 1, "state": "planned",
        }]);
        if change.dry_run {
            return Ok(table(&COLUMNS, &plan));
        }
        self.carry_out(&topology, shard, leader, change, &record, to).await
    }

    async fn carry_out(
        &self,
        topology: &Topology,
        shard: ShardId,
        leader: &Handle,
        change: &Change,
        record: &Record,
        to: Option<NodeId>,
    ) -> Result<View, ClientError> {
        let is_planned = change.kind == ChangeKind::Planned;
        let nodes = topology.nodes.iter().filter(|node| node.shard == shard);
        if is_planned {
            let involved = nodes.filter(|node| node.id == record.primary || to.is_none_or(|to| to == node.id));
            futures_util::future::join_all(involved.map(|node| self.checkpoint(topology, node))).await;
        }
        let since = Instant::now();
        let held = is_planned.then(|| self.cluster.hold_statements(shard));
        if is_planned {
            self.wait_quiet(record.primary).await?;
        }
        tracing::info!(shard = change.shard, kind = ?change.kind, to = ?to, "another primary is asked for");
        leader
            .command(match change.kind {
                ChangeKind::Planned => Cause::Planned { to },
                ChangeKind::Lost => Cause::Lost,
                ChangeKind::LossAllowed => Cause::LossAllowed { to },
            })
            .await;
        let opened = timeout(CHANGE_MAX, opened(leader, record)).await;
        let pause = since.elapsed();
        drop(held);
        let Ok(opened) = opened else { return Err(unfinished(leader, record)) };
        if is_planned && to.is_some_and(|to| to != opened.primary) {
            let text = format!("{} could not be made primary", name(topology, to.unwrap_or(record.primary)));
            return Err(ClientError::new(ErrorId::PrerequisiteMissing, text)
                .with_detail(format!("{} leads, in term {}.", name(topology, opened.primary), opened.term.0))
                .with_hint("The node has to answer and to stream: see SHOW NODES."));
        }
        // Whoever looks next is to find it in the topology, too.
        let told = async {
            while self.cluster.topology.load().primary(shard).is_none_or(|node| node.id != opened.primary) {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        if timeout(TOLD_MAX, told).await.is_err() {
            tracing::warn!(shard = change.shard, "the topology does not name the new primary yet");
        }
        let row = json!([{
            "shard": change.shard, "from": name(topology, record.primary), "to": name(topology, opened.primary),
            "term": opened.term.0, "pause_ms": u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), "state": "done",
        }]);
        Ok(table(&COLUMNS, &row))
    }

    /// Spares the promotion one; whether it works does not matter.
    async fn checkpoint(&self, topology: &Topology, node: &Node) {
        let target = self.cluster.node_target(topology, node, self.cluster.control.clone());
        let done = async { ControlClient::connect(&target).await?.rows("CHECKPOINT", CHECKPOINT_MS_MAX).await };
        if let Err(error) = done.await {
            tracing::debug!(node = %node.id, %error, "no checkpoint beforehand");
        }
    }

    /// Until nothing is under way at a node.
    async fn wait_quiet(&self, node: NodeId) -> Result<(), ClientError> {
        let quiet = async {
            let mut looks = 0;
            // Who was let through just before has taken his connection by the second look.
            while looks < 3 {
                looks = if self.cluster.pools.busy_at(node) == 0 { looks + 1 } else { 0 };
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        timeout(QUIET_MAX, quiet).await.map_err(|_| {
            let busy = self.cluster.pools.busy_at(node);
            ClientError::new(ErrorId::PrerequisiteMissing, "transactions did not end in time; nothing has changed")
                .with_detail(format!("{busy} connections were in use after {} s.", QUIET_MAX.as_secs()))
                .with_hint("SHOW CLIENTS shows who holds them; KILL ends a session. FAILOVER does not wait.")
        })
    }
}

/// The node that is wanted, if one is.
fn wanted(
    topology: &Topology,
    shard: ShardId,
    change: &Change,
    record: &Record,
) -> Result<Option<NodeId>, ClientError> {
    if record.phase != Phase::Open && change.kind != ChangeKind::LossAllowed {
        return Err(ClientError::new(ErrorId::PrerequisiteMissing, "the shard's primary is being replaced already")
            .with_detail(format!("Term {}, {:?}.", record.term.0, record.phase))
            .with_hint("If too few members answer, start one; FAILOVER … ALLOW DATA LOSS does without them."));
    }
    if change.kind == ChangeKind::Lost && change.to.is_some() {
        return Err(ClientError::new(ErrorId::FeatureNotSupported, "the node with the most leads after a failover")
            .with_hint("SWITCHOVER shard TO node moves it afterwards."));
    }
    let Some(wanted) = &change.to else { return Ok(None) };
    let node = topology.nodes.iter().find(|node| node.shard == shard && node.name == *wanted).ok_or_else(|| {
        ClientError::new(ErrorId::UndefinedObject, format!("shard \"{}\" has no node \"{wanted}\"", change.shard))
            .with_hint("SHOW NODES lists them.")
    })?;
    if node.id == record.primary && change.kind == ChangeKind::Planned {
        return Err(ClientError::new(ErrorId::PrerequisiteMissing, format!("\"{wanted}\" is the primary already")));
    }
    Ok(Some(node.id))
}

/// The record of a later term, once it is open here.
async fn opened(leader: &Handle, before: &Record) -> Record {
    let (mut records, mut serving) = (leader.record.clone(), leader.serving.clone());
    loop {
        let of_later = |record: &Option<Record>| {
            record.as_ref().is_some_and(|record| record.term > before.term && record.phase == Phase::Open)
        };
        let record = records.wait_for(of_later).await.ok().and_then(|record| record.clone());
        let Some(record) = record else { return std::future::pending().await };
        let is_open = |serving: &Serving| matches!(serving, Serving::Open { term, .. } if *term >= record.term);
        if timeout(Duration::from_secs(1), serving.wait_for(is_open)).await.is_ok_and(|opened| opened.is_ok()) {
            return record;
        }
    }
}

fn unfinished(leader: &Handle, before: &Record) -> ClientError {
    let now = leader.record.borrow().clone();
    let moved = now.filter(|now| now.term > before.term);
    let error = match &moved {
        Some(now) => ClientError::new(ErrorId::FailoverInProgress, "the shard waits for more of its nodes")
            .with_detail(format!("Term {}, {:?}.", now.term.0, now.phase)),
        None => ClientError::new(ErrorId::PrerequisiteMissing, "nothing has changed: the record cannot be written"),
    };
    error.with_hint("It goes on by itself when they answer. FAILOVER … ALLOW DATA LOSS does without them.")
}

fn name(topology: &Topology, node: NodeId) -> String {
    topology.nodes.iter().find(|known| known.id == node).map_or_else(|| node.to_string(), |node| node.name.clone())
}

/// What SHOW NODES adds for a node: the term, and whether commits wait for it.
pub(super) fn standing(record: Option<&Record>, node: NodeId) -> (Value, Value) {
    let Some(record) = record else { return (Value::Null, Value::Null) };
    // While the set changes, either of the two may be in force.
    let counts = record.current.members.contains(&node) && record.wanted_set().members.contains(&node);
    (json!(record.term.0), json!(counts))
}

/// Why a shard takes no writes, and what would change that; `None`: it takes them.
fn waits_for(
    record: &Record,
    is_served: bool,
    name: impl Fn(NodeId) -> String,
    streams: impl Fn(&str) -> bool,
) -> Option<String> {
    let (term, primary) = (record.term.0, name(record.primary));
    let is_provable = record.is_held_by(|_| true);
    match &record.phase {
        Phase::Freezing { .. } if is_provable => {
            let sets = [Some(&record.current), record.next.as_ref()];
            let sets = sets
                .into_iter()
                .flatten()
                .map(|set| format!("{} of {}", set.frozen_needed(), list(set.members.iter().map(|node| name(*node)))));
            Some(format!("term {term}: another leads once {} answer, or {primary} does", list(sets)))
        }
        Phase::Freezing { .. } => Some(format!(
            "term {term}: {primary} is waited for; nobody else is known to have all that was acknowledged (FAILOVER … ALLOW DATA LOSS)"
        )),
        Phase::Promoting { candidate, opening, .. } if opening.can_acknowledge() => {
            Some(format!("term {term}: {} is made primary", name(*candidate)))
        }
        Phase::Promoting { candidate, opening, .. } => Some(format!(
            "term {term}: {} leads once {} of its standbys follow it, {} do: start one, or make one of {primary}",
            name(*candidate),
            opening.quorum,
            opening.members.len()
        )),
        Phase::Open if !is_served && is_provable => {
            Some(format!("term {term}: {primary} does not answer, or the store does not say whether it still leads"))
        }
        Phase::Open if !is_served => Some(format!(
            "term {term}: {primary} does not answer, and commits wait for nobody: no other leads by itself (FAILOVER … ALLOW DATA LOSS)"
        )),
        Phase::Open => {
            let SyncSet { members, quorum } = record.wanted_set();
            let present = members.iter().filter(|node| streams(&name(**node))).count();
            let all = list(members.iter().map(|node| name(*node)));
            (present < *quorum).then(|| format!("commits wait for {quorum} of {all}, {present} stream"))
        }
    }
}

fn list(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::base::Term;
    use crate::failover::Position;

    fn record(members: &[u32], quorum: usize) -> Record {
        let members = members.iter().copied().map(NodeId).collect();
        let first = Record::first(Term(5), NodeId(1), BTreeSet::new(), 0);
        Record { current: SyncSet { members, quorum }, next: None, ..first }
    }

    fn said(record: &Record, is_served: bool, streaming: &[&str]) -> Option<String> {
        waits_for(record, is_served, |node| node.to_string(), |name| streaming.contains(&name))
    }

    #[test]
    fn a_shard_that_waits_says_what_for() {
        let open = record(&[2, 3], 1);
        assert_eq!(said(&open, true, &["n2"]), None);
        assert_eq!(said(&open, true, &[]).as_deref(), Some("commits wait for 1 of n2, n3, 0 stream"));
        assert!(said(&open, false, &["n2"]).is_some_and(|text| text.starts_with("term 5: n1 does not answer, or")));
        let freezing = open.next_term(Cause::Lost);
        assert_eq!(
            said(&freezing, false, &[]).as_deref(),
            Some("term 6: another leads once 2 of n2, n3 answer, or n1 does")
        );
        let opening = SyncSet { members: BTreeSet::new(), quorum: 1 };
        let (candidate, target) = (NodeId(2), Position::default());
        let phase = Phase::Promoting { cause: Cause::Lost, candidate, source: candidate, target, opening };
        assert_eq!(
            said(&Record { phase, ..freezing }, false, &[]).as_deref(),
            Some("term 6: n2 leads once 1 of its standbys follow it, 0 do: start one, or make one of n1")
        );
    }

    #[test]
    fn a_shard_that_waits_for_nobody_names_the_only_way_out() {
        let open = record(&[], 0);
        assert_eq!(said(&open, true, &[]), None);
        for waiting in [open.clone(), open.next_term(Cause::Lost)] {
            assert!(said(&waiting, false, &[]).is_some_and(|text| text.contains("ALLOW DATA LOSS")));
        }
    }
    #[test]
    fn commits_wait_for_a_node_when_both_sets_of_a_change_have_it() {
        let SyncSet { members, quorum } = record(&[2, 3], 1).current;
        let growing = Record { next: Some(SyncSet { members, quorum }), ..record(&[2], 1) };
        let counts = |record: &Record, node: u32| standing(Some(record), NodeId(node)).1;
        assert_eq!((counts(&growing, 2), counts(&growing, 3)), (json!(true), json!(false)));
        let grown = record(&[2, 3], 1);
        assert_eq!(counts(&grown, 3), json!(true));
    }
}
