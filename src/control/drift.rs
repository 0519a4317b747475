//! Do the shards have the same schema? Asked of their catalogs, object by object.
//!
//! DDL through the proxy happens on all shards or on none; what cannot run in a transaction (CREATE INDEX CONCURRENTLY),
//! and what somebody does on one server, may leave them different. Must not know: what is to be done about it.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use crate::backend::ConnectTarget;
use crate::base::ShardId;

use super::client::{ControlClient, ControlError};

/// Limit of reading one catalog.
const READ_MS: u64 = 30_000;

/// Every object outside of PostgreSQL's own schemas: kind, name, and a digest of its definition. Numbers of a server's
/// own (OIDs, the values of sequences, passwords' salts) are not part of it.
const OBJECTS_SQL: &str = include_str!("drift.sql");

/// How an object is otherwise than on the first shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differs {
    /// The first shard has it, this one does not.
    Missing,
    /// This shard has it, the first one does not.
    Extra,
    /// Both have it, not alike.
    Otherwise,
}

impl Differs {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Otherwise => "different",
        }
    }
}

/// An object that a shard has otherwise than the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `table`, `index`, `function` …
    pub kind: String,
    /// The object's full name.
    pub name: String,
    /// The shard.
    pub shard: ShardId,
    /// How.
    pub differs: Differs,
}

/// Digests by kind and name.
type Objects = BTreeMap<(String, String), String>;

/// Compares every shard with the first.
///
/// # Errors
/// A shard cannot be asked.
///
/// # Cancel safety
/// Safe: it only reads.
pub async fn differences(primaries: &[(ShardId, ConnectTarget)]) -> Result<Vec<Difference>, ControlError> {
    let read = join_all(primaries.iter().map(|(shard, target)| async move {
        let client = ControlClient::connect(target).await?;
        let rows = client.rows(OBJECTS_SQL, READ_MS).await?;
        let objects: Objects = rows
            .into_iter()
            .filter_map(|row| match <[Option<String>; 3]>::try_from(row) {
                Ok([Some(kind), Some(name), digest]) => Some(((kind, name), digest.unwrap_or_default())),
                _ => None,
            })
            .collect();
        Ok((*shard, objects))
    }))
    .await;
    let read: Vec<(ShardId, Objects)> = read.into_iter().collect::<Result<_, ControlError>>()?;
    let Some(((_, first), others)) = read.split_first() else { return Ok(Vec::new()) };
    let mut found: Vec<Difference> = others.iter().flat_map(|(shard, other)| compare(first, *shard, other)).collect();
    found.sort_by(|a, b| (&a.kind, &a.name, a.shard).cmp(&(&b.kind, &b.name, b.shard)));
    Ok(found)
}

fn compare(first: &Objects, shard: ShardId, other: &Objects) -> Vec<Difference> {
    let difference = |(kind, name): &(String, String), differs| Difference {
        kind: kind.clone(),
        name: name.clone(),
        shard,
        differs,
    };
    let here = first.iter().filter_map(|(object, digest)| match other.get(object) {
        None => Some(difference(object, Differs::Missing)),
        Some(known) if known != digest => Some(difference(object, Differs::Otherwise)),
        Some(_) => None,
    });
    let extra = other.keys().filter(|object| !first.contains_key(*object));
    here.chain(extra.map(|object| difference(object, Differs::Extra))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_extra_or_different_is_told_apart() {
        let objects = |list: &[(&str, &str)]| -> Objects {
            list.iter().map(|(name, digest)| (("table".to_owned(), (*name).to_owned()), (*digest).to_owned())).collect()
        };
        let found = compare(
            &objects(&[("a", "1"), ("b", "1"), ("c", "1")]),
            ShardId(2),
            &objects(&[("a", "1"), ("b", "2"), ("d", "1")]),
        );
        let told: Vec<(&str, &str)> = found.iter().map(|found| (found.name.as_str(), found.differs.as_str())).collect();
        assert_eq!(told, [("b", "different"), ("c", "missing"), ("d", "extra")]);
    }
}
