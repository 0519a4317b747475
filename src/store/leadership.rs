//! The record of a shard's leadership, as it is written.

use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::base::{NodeId, ShardId, Term};
use crate::failover::{Aside, Beginning, Cause, Phase, Position, Record, SyncSet};

/// Version of the record that this build writes and reads.
const VERSION: u32 = 1;

/// Where the record of a shard is kept.
pub fn leadership_key(shard: ShardId) -> String {
    format!("leadership/{}", shard.0)
}

/// A record as bytes.
///
/// # Errors
/// Never in practice: it has no map keys that JSON could not hold.
pub fn encode_leadership(record: &Record) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(&LeadershipRecord::from(record)).map_err(|error| unreadable(&error))
}

/// A record from bytes.
///
/// # Errors
/// The bytes are no record of a version that this build knows.
pub fn decode_leadership(bytes: &[u8]) -> Result<Record, StoreError> {
    let record: LeadershipRecord = serde_json::from_slice(bytes).map_err(|error| unreadable(&error))?;
    if record.version != VERSION {
        let version = record.version;
        return Err(unreadable(&format!("it has version {version}, this build reads version {VERSION}")));
    }
    Ok(record.into())
}

fn unreadable(reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable { key: "leadership".to_owned(), reason: reason.to_string() }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeadershipRecord {
    version: u32,
    term: u64,
    config: u64,
    phase: PhaseRecord,
    primary: u32,
    timeline: u64,
    current: SetRecord,
    next: Option<SetRecord>,
    holder: Option<(u32, PositionRecord)>,
    void: Vec<u32>,
    /// Term, ids known, ids not given to anybody.
    #[serde(default)]
    beginnings: Vec<(u64, u64, u64)>,
    #[serde(default)]
    is_withdrawn: bool,
    #[serde(default)]
    leaving: Vec<u32>,
    #[serde(default)]
    renewed: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetRecord {
    members: Vec<u32>,
    quorum: usize,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PositionRecord {
    timeline: u64,
    lsn: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum CauseRecord {
    Lost,
    Planned { to: Option<u32> },
    LossAllowed { to: Option<u32> },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum PhaseRecord {
    Open,
    Freezing { cause: CauseRecord },
    Promoting { cause: CauseRecord, candidate: u32, source: u32, target: PositionRecord, opening: SetRecord },
}

impl From<&Record> for LeadershipRecord {
    fn from(record: &Record) -> Self {
        let phase = match &record.phase {
            Phase::Open => PhaseRecord::Open,
            Phase::Freezing { cause } => PhaseRecord::Freezing { cause: (*cause).into() },
            Phase::Promoting { cause, candidate, source, target, opening } => PhaseRecord::Promoting {
                cause: (*cause).into(),
                candidate: candidate.0,
                source: source.0,
                target: (*target).into(),
                opening: opening.into(),
            },
        };
        Self {
            version: VERSION,
            term: record.term.0,
            config: record.config,
            phase,
            primary: record.primary.0,
            timeline: record.timeline,
            current: (&record.current).into(),
            next: record.next.as_ref().map(SetRecord::from),
            holder: record.holder.map(|(node, position)| (node.0, position.into())),
            void: record.void.iter().map(|node| node.0).collect(),
            beginnings: record.beginnings.iter().map(|began| (began.term.0, began.known, began.fresh)).collect(),
            is_withdrawn: record.is_withdrawn,
            leaving: aside(record, Aside::Leaving),
            renewed: aside(record, Aside::Renewed),
        }
    }
}

impl From<LeadershipRecord> for Record {
    fn from(record: LeadershipRecord) -> Self {
        let phase = match record.phase {
            PhaseRecord::Open => Phase::Open,
            PhaseRecord::Freezing { cause } => Phase::Freezing { cause: cause.into() },
            PhaseRecord::Promoting { cause, candidate, source, target, opening } => Phase::Promoting {
                cause: cause.into(),
                candidate: NodeId(candidate),
                source: NodeId(source),
                target: target.into(),
                opening: opening.into(),
            },
        };
        Self {
            term: Term(record.term),
            config: record.config,
            phase,
            primary: NodeId(record.primary),
            timeline: record.timeline,
            current: record.current.into(),
            next: record.next.map(SyncSet::from),
            holder: record.holder.map(|(node, position)| (NodeId(node), position.into())),
            void: record.void.into_iter().map(NodeId).collect(),
            beginnings: record
                .beginnings
                .into_iter()
                .map(|(term, known, fresh)| Beginning { term: Term(term), known, fresh })
                .collect(),
            is_withdrawn: record.is_withdrawn,
            aside: {
                let leaving = record.leaving.into_iter().map(|node| (NodeId(node), Aside::Leaving));
                leaving.chain(record.renewed.into_iter().map(|node| (NodeId(node), Aside::Renewed))).collect()
            },
        }
    }
}

fn aside(record: &Record, why: Aside) -> Vec<u32> {
    record.aside.iter().filter(|(_, known)| **known == why).map(|(node, _)| node.0).collect()
}

impl From<&SyncSet> for SetRecord {
    fn from(set: &SyncSet) -> Self {
        Self { members: set.members.iter().map(|node| node.0).collect(), quorum: set.quorum }
    }
}

impl From<SetRecord> for SyncSet {
    fn from(set: SetRecord) -> Self {
        Self { members: set.members.into_iter().map(NodeId).collect(), quorum: set.quorum }
    }
}

impl From<Position> for PositionRecord {
    fn from(position: Position) -> Self {
        Self { timeline: position.timeline, lsn: position.lsn }
    }
}

impl From<PositionRecord> for Position {
    fn from(position: PositionRecord) -> Self {
        Self { timeline: position.timeline, lsn: position.lsn }
    }
}

impl From<Cause> for CauseRecord {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Lost => Self::Lost,
            Cause::Planned { to } => Self::Planned { to: to.map(|to| to.0) },
            Cause::LossAllowed { to } => Self::LossAllowed { to: to.map(|to| to.0) },
        }
    }
}

impl From<CauseRecord> for Cause {
    fn from(cause: CauseRecord) -> Self {
        match cause {
            CauseRecord::Lost => Self::Lost,
            CauseRecord::Planned { to } => Self::Planned { to: to.map(NodeId) },
            CauseRecord::LossAllowed { to } => Self::LossAllowed { to: to.map(NodeId) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_is_read_as_it_was_written() {
        let set = SyncSet { members: [NodeId(2), NodeId(3)].into(), quorum: 1 };
        let position = Position { timeline: 3, lsn: 77 };
        let first = Record::first(Term(4), NodeId(1), set.members.clone(), 1);
        let causes = [Cause::Lost, Cause::Planned { to: None }, Cause::LossAllowed { to: Some(NodeId(2)) }];
        for cause in causes {
            let promoting = Phase::Promoting {
                cause,
                candidate: NodeId(2),
                source: NodeId(3),
                target: position,
                opening: set.clone(),
            };
            for phase in [Phase::Open, Phase::Freezing { cause }, promoting] {
                let aside = [(NodeId(4), Aside::Leaving), (NodeId(5), Aside::Renewed)].into();
                let (holder, void) = (Some((NodeId(3), position)), [NodeId(2)].into());
                let record = Record { phase, holder, void, aside, ..first.clone() };
                assert_eq!(decode_leadership(&encode_leadership(&record).unwrap()), Ok(record));
            }
        }
    }

    #[test]
    fn a_record_of_another_version_is_refused() {
        assert!(decode_leadership(b"{\"version\":2}").is_err());
    }
}
