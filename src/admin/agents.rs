//! AGENT: what agents beside servers say, and what they are told.

use serde_json::json;

use super::command::Words;
use super::{Admin, Answer, View, store_error};
use crate::base::NodeId;
use crate::control::agent::{Task, Told};
use crate::control::client::ControlClient;
use crate::control::leader::names::slot_of;
use crate::control::leader::orders::{is_in_force, read_record};
use crate::error::{ClientError, ErrorId};
use crate::failover::{Aside, Phase, Record};
use crate::host::replication::CHECKPOINT_IS_NEW;
use crate::store::agents::{Report, keep_report, read_order, read_report};
use crate::topology::{Node, Topology};

/// How long a checkpoint may take.
const CHECKPOINT_MS_MAX: u64 = 300_000;

/// What an agent wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    node: String,
    /// How the node is, as a document; `None`: the primary is to write a checkpoint.
    report: Option<String>,
}

/// Reads what stands behind AGENT.
pub(super) fn read_agent(words: &mut Words<'_>) -> Result<Asked, ClientError> {
    let node = words.name()?;
    let report = if words.take("CHECKPOINT") { None } else { Some(words.text()?) };
    Ok(Asked { node, report })
}

impl Admin {
    /// Answers an agent.
    pub(super) async fn hear_agent(&self, asked: &Asked) -> Result<Answer, ClientError> {
        let topology = self.cluster.topology.load_full();
        let node = topology.nodes.iter().find(|node| node.name == asked.node).ok_or_else(|| {
            ClientError::new(ErrorId::UndefinedObject, format!("there is no node \"{}\"", asked.node))
                .with_hint("SHOW NODES lists them; NODE ADD makes one known.")
        })?;
        let Some(report) = &asked.report else {
            self.checkpoint_of_shard(&topology, node).await?;
            return Ok(Answer::Done("AGENT"));
        };
        let report: Report = serde_json::from_str(report).map_err(|error| {
            ClientError::new(ErrorId::SyntaxError, "the report is not understood").with_detail(format!("{error}."))
        })?;
        let store = self.store.as_ref();
        keep_report(store, node.id, &report).await.map_err(store_error)?;
        let record = read_record(store, node.shard).await.map_err(store_error)?;
        let order = read_order(store, node.id).await.map_err(store_error)?;
        let order = order.filter(|(order, number)| {
            is_in_force(&record, order) && report.ended.is_none_or(|(ended, _)| ended != *number)
        });
        let task = order.and_then(|(order, number)| {
            let primary = topology.nodes.iter().find(|known| known.id == NodeId(order.primary))?;
            let (host, port) = (primary.host.clone(), primary.port);
            Some(Task { number, kind: order.kind, term: order.term, config: order.config, host, port })
        });
        let is_led_by_other =
            record.as_ref().is_some_and(|record| record.phase == Phase::Open && record.primary != node.id);
        let told = Told {
            port: node.port,
            user: self.cluster.control.user.clone(),
            slot: slot_of(&node.name),
            term: record.map_or(0, |record| record.term.0),
            is_led_by_other,
            task,
        };
        Ok(Answer::View(View { columns: vec!["document"], rows: vec![vec![Some(json!(told).to_string())]] }))
    }

    /// What SHOW NODES tells of whoever looks after a node.
    pub(super) async fn agent_state(&self, record: Option<&Record>, node: NodeId) -> Option<String> {
        match record.and_then(|record| record.aside.get(&node)) {
            Some(Aside::Leaving) => return Some("leaving".to_owned()),
            Some(Aside::Renewed) => return Some("renewed".to_owned()),
            None => {}
        }
        // Without the store the nodes are shown all the same.
        read_report(self.store.as_ref(), node).await.ok().flatten().map(|report| report.state)
    }

    /// The primary writes a checkpoint on its own timeline.
    async fn checkpoint_of_shard(&self, topology: &Topology, node: &Node) -> Result<(), ClientError> {
        let failed = |reason: String| {
            ClientError::new(ErrorId::PrerequisiteMissing, "the primary has written no checkpoint").with_detail(reason)
        };
        let target = self.cluster.control_target(topology, node.shard)?;
        let done = async {
            let client = ControlClient::connect(&target).await?;
            client.rows("CHECKPOINT", CHECKPOINT_MS_MAX).await?;
            client.rows(CHECKPOINT_IS_NEW, CHECKPOINT_MS_MAX).await
        };
        let rows = done.await.map_err(|error: crate::control::client::ControlError| failed(format!("{error}.")))?;
        let is_new = rows.first().and_then(|row| row.first()).and_then(Option::as_deref) == Some("t");
        if is_new { Ok(()) } else { Err(failed("It is of an older timeline.".to_owned())) }
    }
}
