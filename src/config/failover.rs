//! `[failover]`: primaries that are lost are replaced, and what commits wait for until then.

use super::ShardConfig;
use super::error::{Position, Report};
use super::reader::Section;
use crate::failover::{Acknowledgers, Durability};

/// `[failover]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverConfig {
    /// What commits wait for; default: one standby.
    pub durability: Durability,
    /// Open transactions are run again on the next primary; default no.
    pub replay: bool,
    /// As it is written.
    pub policy: String,
    /// Where it is written.
    pub position: Position,
}

const HINT: &str = "known are any(1), any(2) …, cross_zone, local and async";

pub(super) fn read(section: Option<Section>, report: &mut Report) -> Option<FailoverConfig> {
    let mut section = section?;
    let position = section.position(report);
    let written = section.text("durability", report);
    let policy = written.as_ref().map_or("any(1)", |text| text.value.as_str()).to_owned();
    let known = policy_of(&policy);
    if let (None, Some(written)) = (known, &written) {
        report.at_offset(written.offset, format!("unknown durability {policy}"), Some(HINT.to_owned()));
    }
    let is_available = section.flag("available", report).is_some_and(|flag| flag.value);
    let replay = section.flag("replay", report).is_some_and(|flag| flag.value);
    section.finish(report);
    let (quorum, acknowledgers) = known.unwrap_or((1, Acknowledgers::Any));
    Some(FailoverConfig { durability: Durability { quorum, acknowledgers, is_available }, replay, policy, position })
}

fn policy_of(text: &str) -> Option<(usize, Acknowledgers)> {
    match text {
        "cross_zone" => Some((1, Acknowledgers::OtherZones)),
        "local" => Some((1, Acknowledgers::SameZone)),
        "async" => Some((0, Acknowledgers::Any)),
        _ => {
            let count: usize = text.strip_prefix("any(")?.strip_suffix(')')?.trim().parse().ok()?;
            (1..=16).contains(&count).then_some((count, Acknowledgers::Any))
        }
    }
}

/// A policy that a shard cannot keep, whichever of its nodes leads, is a mistake: its commits would wait for ever.
pub(super) fn check(failover: &FailoverConfig, shards: &[ShardConfig], report: &mut Report) {
    let Durability { quorum, acknowledgers, .. } = failover.durability;
    for shard in shards.iter().filter(|shard| shard.nodes.len() > 1) {
        let counting = |leader: usize| {
            let zone = shard.nodes.get(leader).map(|node| node.zone.as_str());
            let others = shard.nodes.iter().enumerate().filter(|(at, _)| *at != leader);
            let count = others.filter(|(_, node)| match acknowledgers {
                Acknowledgers::Any => true,
                Acknowledgers::OtherZones => Some(node.zone.as_str()) != zone,
                Acknowledgers::SameZone => Some(node.zone.as_str()) == zone,
            });
            count.count()
        };
        let Some(leader) = (0..shard.nodes.len()).find(|leader| counting(*leader) < quorum) else { continue };
        let name = shard.nodes.get(leader).map_or("", |node| node.name.as_str());
        let text = format!(
            "the shard {} cannot keep durability {}: while {name} leads, {} of its nodes count, and {quorum} are needed",
            shard.name,
            failover.policy,
            counting(leader)
        );
        report.at(failover.position, text, Some("add nodes or zones, or choose another durability".to_owned()));
    }
}
