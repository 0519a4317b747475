//! The servers of a cluster on this machine: which there are, all up, all down.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::Failure;
use super::progress::Progress;
use crate::host::{self, HostError, Machine, ServerSpec, Step, Was};
use crate::topology::{Role, Topology};

/// Programs that make or start servers at once: more would only wait for the disk.
const AT_ONCE: usize = 2;

/// One shard's servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardServers {
    /// Shard name.
    pub name: String,
    /// Takes writes.
    pub primary: ServerSpec,
    /// Follow it.
    pub replicas: Vec<ServerSpec>,
}

impl ShardServers {
    /// Primary and replicas.
    pub fn all(&self) -> impl Iterator<Item = &ServerSpec> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }
}

/// The servers that a topology wants on this machine.
///
/// # Errors
/// A shard without a primary.
pub fn servers(topology: &Topology) -> Result<Vec<ShardServers>, Failure> {
    let spec = |node: &crate::topology::Node| ServerSpec { name: node.name.clone(), port: node.port };
    topology
        .shards
        .iter()
        .map(|shard| {
            let primary = topology
                .primary(shard.id)
                .ok_or_else(|| Failure::new(format!("shard {} has no primary in the topology", shard.name)))?;
            let replicas = topology.nodes.iter().filter(|node| node.shard == shard.id && node.role == Role::Replica);
            Ok(ShardServers {
                name: shard.name.clone(),
                primary: spec(primary),
                replicas: replicas.map(spec).collect(),
            })
        })
        .collect()
}

/// Makes, starts or adopts every server, with the role and database of applications on each
/// primary. Tells how each was found.
///
/// # Errors
/// The first one; the others are told to end and are waited for.
///
/// # Cancel safety
/// Not to be dropped: call [`Machine::cancel`] and wait.
pub async fn bring_up(
    machine: &Machine,
    shards: &[ShardServers],
    database: &str,
    progress: &Progress,
) -> Result<Vec<(String, Was)>, HostError> {
    progress.total(shards.iter().flat_map(ShardServers::all).count());
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let shards = shards.iter().map(|shard| bring_up_shard(machine, shard, database, progress, &places));
    let mut found = Vec::new();
    let mut failed = None;
    for result in join_all(shards).await {
        match (result, &failed) {
            (Ok(servers), _) => found.extend(servers),
            // What others say after they were told to end is not the reason.
            (Err(error), None | Some(HostError::Cancelled)) => failed = Some(error),
            (Err(_), Some(_)) => {}
        }
    }
    failed.map_or(Ok(found), Err)
}

async fn bring_up_shard(
    machine: &Machine,
    shard: &ShardServers,
    database: &str,
    progress: &Progress,
    places: &Semaphore,
) -> Result<Vec<(String, Was)>, HostError> {
    let work = async {
        let slots: Vec<String> = shard.replicas.iter().map(|replica| replica.name.clone()).collect();
        let mut found = Vec::new();
        let place = places.acquire().await;
        let report = reporter(progress, &shard.primary.name);
        let was = machine.ensure_primary(&shard.primary, &slots, &report).await?;
        host::replication::ensure_database(&shard.primary, APPLICATION_ROLE, database).await?;
        drop(place);
        found.push(finish(progress, &shard.primary, was));
        for replica in &shard.replicas {
            let place = places.acquire().await;
            let report = reporter(progress, &replica.name);
            let was = machine.ensure_replica(replica, &shard.primary, &report).await?;
            drop(place);
            found.push(finish(progress, replica, was));
        }
        Ok(found)
    };
    let done = work.await;
    if done.is_err() {
        machine.cancel();
    }
    done
}

/// The role that applications log in as.
pub const APPLICATION_ROLE: &str = "app";

fn reporter<'a>(progress: &'a Progress, name: &'a str) -> impl Fn(Step) + Sync + 'a {
    move |step| {
        let text = match step {
            Step::Initialise => "initdb",
            Step::Copy => "copying the primary",
            Step::Start => "starting",
            Step::Stream => "connecting to the primary",
        };
        progress.item(name, text);
    }
}

fn finish(progress: &Progress, spec: &ServerSpec, was: Was) -> (String, Was) {
    let how = match was {
        Was::Made => "made",
        Was::Started => "started",
        Was::Adopted => "was running",
    };
    progress.done(&spec.name, &format!("{how}, 127.0.0.1:{}", spec.port));
    (spec.name.clone(), was)
}

/// Nodes that run now.
pub fn running(directory: &Path) -> BTreeSet<String> {
    let nodes = host::machine::nodes(directory).into_iter();
    nodes.filter(|(_, path)| host::process::running_server(path).is_some()).map(|(name, _)| name).collect()
}

/// Stops every server of a directory but those named, primaries before replicas; tells which ran.
///
/// # Errors
/// The first one; the others were stopped all the same.
pub async fn stop_all(
    directory: &Path,
    spared: &BTreeSet<String>,
    progress: &Progress,
) -> Result<Vec<String>, Failure> {
    host::make::remove_all_half_made(directory).await?;
    let (primaries, replicas): (Vec<_>, Vec<_>) = host::machine::nodes(directory)
        .into_iter()
        .filter(|(name, _)| !spared.contains(name))
        .partition(|(_, path)| !path.join("standby.signal").exists());
    let mut stopped = Vec::new();
    let mut failed = None;
    for group in [primaries, replicas] {
        let results = join_all(group.iter().map(|(_, path)| host::machine::stop(path))).await;
        for ((name, _), result) in group.iter().zip(results) {
            match result {
                Ok(true) => {
                    progress.done(name, "stopped");
                    stopped.push(name.clone());
                }
                Ok(false) => {}
                Err(error) => failed = failed.or(Some(Failure::from(error))),
            }
        }
    }
    failed.map_or(Ok(stopped), Err)
}
