//! Asks every node how it is, for the views of the admin database.

use futures_util::future::join_all;

use crate::backend::ConnectTarget;
use crate::base::{NodeId, ShardId};
use crate::net::deadline;

use super::client::{ControlClient, ControlError};

/// A node to be asked.
#[derive(Clone, Debug)]
pub struct ProbeTarget {
    /// Its shard.
    pub shard: ShardId,
    /// Where it is.
    pub target: ConnectTarget,
}

/// What a node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeProbe {
    /// The node.
    pub node: NodeId,
    /// Its shard.
    pub shard: ShardId,
    /// What it answered; `Err` has the reason in words.
    pub answer: Result<NodeAnswer, String>,
    /// How far a standby's replay is behind the primary of its shard; `None` when either is unknown.
    ///
    /// # Units
    /// Bytes of WAL.
    pub lag_bytes: Option<u64>,
}

/// The answer of a reachable node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAnswer {
    /// It is a standby.
    pub in_recovery: bool,
    /// Written by a primary, replayed by a standby.
    pub lsn: Option<u64>,
    /// A standby receives WAL over a connection now.
    pub is_streaming: bool,
    /// `server_version`
    pub version: String,
}

const PROBE_SQL: &str = "SELECT pg_is_in_recovery(), \
    (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END) - '0/0'::pg_lsn, \
    EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'), \
    current_setting('server_version')";

/// Asks all nodes at the same time.
///
/// # Units
/// `limit_ms` for each node, connecting included; no answer takes longer altogether.
///
/// # Cancel safety
/// Safe.
pub async fn probe(targets: &[ProbeTarget], limit_ms: u64) -> Vec<NodeProbe> {
    let answers = join_all(targets.iter().map(|target| ask(&target.target, limit_ms))).await;
    let mut probes: Vec<NodeProbe> = targets
        .iter()
        .zip(answers)
        .map(|(target, answer)| NodeProbe { node: target.target.node, shard: target.shard, answer, lag_bytes: None })
        .collect();
    let primaries: Vec<(ShardId, u64)> = probes
        .iter()
        .filter_map(|probe| match &probe.answer {
            Ok(NodeAnswer { in_recovery: false, lsn: Some(lsn), .. }) => Some((probe.shard, *lsn)),
            _ => None,
        })
        .collect();
    for probe in &mut probes {
        if let Ok(NodeAnswer { in_recovery: true, lsn: Some(replayed), .. }) = &probe.answer {
            let primary = primaries.iter().find(|(shard, _)| *shard == probe.shard);
            probe.lag_bytes = primary.map(|(_, written)| written.saturating_sub(*replayed));
        }
    }
    probes
}

async fn ask(target: &ConnectTarget, limit_ms: u64) -> Result<NodeAnswer, String> {
    let work = async {
        let client = ControlClient::connect(target).await?;
        client.rows(PROBE_SQL, limit_ms).await
    };
    let rows: Result<_, ControlError> =
        deadline("a probe's answer", limit_ms, work).await.map_err(|late| late.to_string())?;
    let rows = rows.map_err(|error| error.to_string())?;
    match rows.into_iter().next().as_deref() {
        Some([Some(in_recovery), lsn, Some(is_streaming), Some(version)]) => Ok(NodeAnswer {
            in_recovery: in_recovery == "t",
            lsn: lsn.as_deref().and_then(|lsn| lsn.parse().ok()),
            is_streaming: is_streaming == "t",
            version: version.clone(),
        }),
        _ => Err("the answer is not understood".to_owned()),
    }
}
