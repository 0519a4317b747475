//! The topology as last known, in a file beside the proxy: what it starts from when the store is down.
//!
//! That is allowed for a cluster of one shard only. There every statement goes to the one primary, wherever the
//! store has moved on to meanwhile, and whether it still is the primary is asked of itself. With several shards
//! an old topology may send rows to where they do not belong, so the proxy does not start without its store.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{StartError, identity};
use crate::base::Secret;
use crate::store::members::{self, Member};
use crate::store::{Store, StoreError, decode_topology, encode_topology, load_topology};
use crate::topology::Topology;

/// What a proxy has to know before it serves.
pub(super) struct Known {
    pub(super) topology: Topology,
    pub(super) cluster_id: u64,
    pub(super) mock_key: Secret,
    /// The store has said so now; else it is from the file.
    pub(super) is_confirmed: bool,
}

#[derive(Serialize, Deserialize)]
struct KnownRecord {
    topology: String,
    cluster_id: u64,
    mock_key: String,
}

/// Asks the store; `file`: what to fall back on, and to keep up to date.
///
/// # Errors
/// The store holds no topology, or cannot be used and the file does not do.
pub(super) async fn load(store: &dyn Store, file: Option<&Path>) -> Result<Known, StartError> {
    let asked = ask(store).await;
    match (asked, file) {
        (Ok(known), Some(file)) => {
            known.save(file);
            Ok(known)
        }
        (Err(StartError::Store(error @ StoreError::Unavailable { .. })), Some(file)) => {
            let known = read(file).filter(|known| known.topology.shards.len() == 1);
            let Some(known) = known else { return Err(StartError::Store(error)) };
            let epoch = known.topology.epoch.0;
            tracing::warn!(%error, epoch, "the store cannot be reached: starting from the last known topology");
            Ok(known)
        }
        (asked, _) => asked,
    }
}

/// What is known, with this proxy among those that the others know of, before the topology is read that it
/// serves by.
pub(super) async fn join(store: &dyn Store, member: Option<&Member>, file: &Path) -> Result<Known, StartError> {
    let Some(member) = member else { return load(store, None).await };
    match members::register(store, member).await {
        Ok(()) => return load(store, Some(file)).await,
        Err(StoreError::Unavailable { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let known = load(store, Some(file)).await?;
    if !known.is_confirmed {
        return Ok(known);
    }
    // The store has come back in between.
    members::register(store, member).await?;
    load(store, Some(file)).await
}

async fn ask(store: &dyn Store) -> Result<Known, StartError> {
    let topology = load_topology(store).await?.ok_or(StartError::NoTopology)?.0;
    let cluster_id = identity::cluster_id(store).await?;
    let mock_key = identity::mock_key(store).await?;
    Ok(Known { topology, cluster_id, mock_key, is_confirmed: true })
}

/// The file of a directory.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join("last_topology.json")
}

fn read(file: &Path) -> Option<Known> {
    let record: KnownRecord = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    Some(Known {
        topology: decode_topology(record.topology.as_bytes()).ok()?,
        cluster_id: record.cluster_id,
        mock_key: Secret::new(record.mock_key),
        is_confirmed: false,
    })
}

impl Known {
    /// Replaces the file. What goes wrong is logged: the file is a help, no duty.
    pub(super) fn save(&self, file: &Path) {
        let written = || -> Result<(), String> {
            let topology = encode_topology(&self.topology).map_err(|error| error.to_string())?;
            let record = KnownRecord {
                topology: String::from_utf8(topology).map_err(|error| error.to_string())?,
                cluster_id: self.cluster_id,
                mock_key: self.mock_key.expose().to_owned(),
            };
            let text = serde_json::to_vec(&record).map_err(|error| error.to_string())?;
            let new = file.with_extension("new");
            let opened = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new);
            let mut opened = opened.map_err(|error| error.to_string())?;
            opened.write_all(&text).and_then(|()| opened.sync_all()).map_err(|error| error.to_string())?;
            fs::rename(&new, file).map_err(|error| error.to_string())
        };
        if let Err(error) = written() {
            tracing::warn!(file = %file.display(), %error, "the last known topology cannot be kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, NodeId, ShardId, Term};
    use crate::store::{BoxFuture, Entry, Lease, MemoryStore, Revision, Watch, save_topology};
    use crate::topology::{BucketMap, Node, Pins, Role, Shard, TableRules};
    use std::time::Duration;

    /// A store that nobody reaches.
    struct Down;

    fn down<T: Send + 'static>() -> BoxFuture<'static, Result<T, StoreError>> {
        Box::pin(std::future::ready(Err(StoreError::Unavailable { reason: "down".to_owned() })))
    }

    impl Store for Down {
        fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
            down()
        }
        fn list<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<Entry>, StoreError>> {
            down()
        }
        fn put<'a>(
            &'a self,
            _: &'a str,
            _: Vec<u8>,
            _: Option<Revision>,
        ) -> BoxFuture<'a, Result<Revision, StoreError>> {
            down()
        }
        fn delete<'a>(&'a self, _: &'a str, _: Revision) -> BoxFuture<'a, Result<(), StoreError>> {
            down()
        }
        fn watch<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Watch, StoreError>> {
            down()
        }
        fn acquire<'a>(&'a self, _: &'a str, _: &'a str, _: Duration) -> BoxFuture<'a, Result<Lease, StoreError>> {
            down()
        }
        fn renew<'a>(&'a self, _: &'a Lease, _: Duration) -> BoxFuture<'a, Result<(), StoreError>> {
            down()
        }
        fn release<'a>(&'a self, _: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
            down()
        }
    }

    fn topology(shards: u32) -> Topology {
        let node = |id| Node {
            id: NodeId(id),
            name: format!("n{id}"),
            host: "127.0.0.1".to_owned(),
            port: 5432 + u16::try_from(id).unwrap(),
            zone: String::new(),
            shard: ShardId(id),
            role: Role::Primary,
        };
        Topology {
            epoch: Epoch(3),
            database: "app".to_owned(),
            shards: (1..=shards)
                .map(|id| Shard { id: ShardId(id), name: format!("s{id}"), term: Term(1), weight: 100 })
                .collect(),
            nodes: (1..=shards).map(node).collect(),
            buckets: BucketMap::all_to(ShardId(1)),
            pins: Pins::default(),
            tables: TableRules::default(),
        }
    }

    #[tokio::test]
    async fn only_a_cluster_of_one_shard_starts_without_its_store() {
        for (shards, starts) in [(1, true), (2, false)] {
            let directory = tempfile::tempdir().unwrap();
            let file = path(directory.path());
            assert!(load(&Down, Some(&file)).await.is_err(), "nothing is known yet");
            let store = MemoryStore::new();
            save_topology(&store, &topology(shards), None).await.unwrap();
            let first = load(&store, Some(&file)).await.unwrap();
            assert!(first.is_confirmed);
            let again = load(&Down, Some(&file)).await.ok();
            assert_eq!(again.is_some(), starts, "{shards} shards");
            if let Some(again) = again {
                assert!(!again.is_confirmed);
                assert_eq!((again.topology, again.cluster_id), (first.topology, first.cluster_id));
                assert_eq!(again.mock_key.expose(), first.mock_key.expose());
            }
            assert!(load(&Down, None).await.is_err());
        }
    }
}
