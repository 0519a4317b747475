//! The topology of a cluster that `up` owns: made once, then kept.

use std::path::Path;
use std::sync::Arc;

use super::Failure;
use crate::base::{Epoch, NodeId, ShardId, Term};
use crate::host::port;
use crate::store::{self, EmbeddedStore, Store};
use crate::topology::{Node, Pins, Role, Shard, TableRules, Topology, ring};

/// The database that applications use.
const DATABASE: &str = "app";
const SHARDS: u32 = 2;
const REPLICAS: u32 = 1;

/// A topology and where it is kept.
pub struct Kept {
    /// The topology.
    pub topology: Topology,
    /// Where it is kept.
    pub store: Arc<dyn Store>,
}

/// What was asked for on the command line.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Number of shards.
    pub shards: Option<u32>,
    /// Replicas of each.
    pub replicas: Option<u32>,
    /// First port that is tried for servers of a new cluster.
    pub first_port: u16,
}

/// The topology of a directory; a new one where no server exists yet.
///
/// # Errors
/// The directory holds a cluster of another size, or servers without a topology.
pub async fn open(directory: &Path, wanted: Wanted, is_new: bool) -> Result<Kept, Failure> {
    let path = directory.join("store.redb");
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&path)?);
    let stored = store::load_topology(store.as_ref()).await?;
    let (has_shards, has_replicas) = stored.as_ref().map_or((SHARDS, REPLICAS), |(topology, _)| size(topology));
    let topology = match (stored, is_new) {
        (Some((topology, _)), false) => {
            check_size(directory, &topology, wanted)?;
            topology
        }
        (None, false) => {
            return Err(Failure::new(format!(
                "{} has servers but no topology: {} is missing\n  restore that file, or delete the cluster with: \
                 ostrakon down --data {} --remove --yes",
                directory.display(),
                path.display(),
                directory.display()
            )));
        }
        // Planned before, but no server was ever made whole: nothing binds us.
        (stored, true) => {
            let (shards, replicas) = (wanted.shards.unwrap_or(has_shards), wanted.replicas.unwrap_or(has_replicas));
            let count = shards as usize * (replicas as usize + 1);
            let mut topology = new_topology(shards, replicas, &port::choose(wanted.first_port, count)?);
            let revision = stored.map(|(before, revision)| {
                topology.epoch = Epoch(before.epoch.0 + 1);
                revision
            });
            store::save_topology(store.as_ref(), &topology, revision).await?;
            topology
        }
    };
    Ok(Kept { topology, store })
}

/// Shards, and the most replicas that one of them has.
fn size(topology: &Topology) -> (u32, u32) {
    let replicas = topology.shard_ids().map(|shard| topology.replicas(shard).count()).max().unwrap_or_default();
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    (number(topology.shards.len()), number(replicas))
}

fn check_size(directory: &Path, topology: &Topology, wanted: Wanted) -> Result<(), Failure> {
    let (shards, replicas) = size(topology);
    if wanted.shards.is_none_or(|wanted| wanted == shards) && wanted.replicas.is_none_or(|wanted| wanted == replicas) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{} holds a cluster of {shards} shards with {replicas} replicas each\n  \
         leave out --shards and --replicas, or choose another directory with --data",
        directory.display()
    )))
}

/// A topology of so many shards with so many replicas each, on this machine: `s1` with `s1a` (the
/// primary), `s1b`, … . Ports are taken in order of nodes.
pub fn new_topology(shards: u32, replicas: u32, ports: &[u16]) -> Topology {
    let ids: Vec<ShardId> = (1..=shards).map(ShardId).collect();
    let mut nodes = Vec::new();
    for shard in &ids {
        for (index, letter) in (0..=replicas).zip('a'..='z') {
            let port = ports.get(nodes.len()).copied().unwrap_or_default();
            nodes.push(Node {
                id: NodeId(u32::try_from(nodes.len() + 1).unwrap_or(u32::MAX)),
                name: format!("{shard}{letter}"),
                host: "127.0.0.1".to_owned(),
                port,
                zone: String::new(),
                shard: *shard,
                role: if index == 0 { Role::Primary } else { Role::Replica },
            });
        }
    }
    let weights: Vec<(ShardId, u32)> = ids.iter().map(|shard| (*shard, ring::WEIGHT_NORMAL)).collect();
    Topology {
        epoch: Epoch(1),
        database: DATABASE.to_owned(),
        shards: ids
            .iter()
            .map(|id| Shard { id: *id, name: id.to_string(), term: Term(1), weight: ring::WEIGHT_NORMAL })
            .collect(),
        nodes,
        buckets: ring::propose(&weights, None),
        pins: Pins::default(),
        tables: TableRules::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::validate::validate;

    #[test]
    fn a_new_topology_is_valid_and_names_its_nodes() {
        let topology = new_topology(2, 1, &[15_500, 15_501, 15_502, 15_503]);
        validate(&topology).unwrap();
        let names: Vec<_> = topology.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["s1a", "s1b", "s2a", "s2b"]);
        assert!(topology.bucket_count(ShardId(1)) > 8_000 && topology.bucket_count(ShardId(2)) > 8_000);
    }
}
