//! SHARD and RESHARD: the cluster grows, buckets move.

use serde_json::{Value, json};

use super::command::{Reshard, Words};
use super::{Admin, Answer, View};
use crate::base::ShardId;
use crate::control::reshard::{Handle, NewNode, NewShard};
use crate::error::{ClientError, ErrorId};
use crate::reshard::Command;
use crate::topology::{BucketMap, Topology, ring};

/// Reads what stands behind RESHARD.
pub(super) fn read_reshard(words: &mut Words<'_>) -> Result<Reshard, ClientError> {
    let empty = |words: &mut Words<'_>| if words.take("EMPTY") { words.name().map(Some) } else { Ok(None) };
    if words.take("PLAN") {
        return Ok(Reshard::Plan { empty: empty(words)? });
    }
    if words.take("START") {
        return Ok(Reshard::Start { empty: empty(words)? });
    }
    for (word, command) in [
        ("PAUSE", Reshard::Pause),
        ("RESUME", Reshard::Resume),
        ("REVERSE", Reshard::Reverse),
        ("FINISH", Reshard::Finish),
        ("CANCEL", Reshard::Cancel),
        ("VERIFY", Reshard::Verify),
    ] {
        if words.take(word) {
            return Ok(command);
        }
    }
    Err(words.unknown())
}

/// Reads what stands behind SHARD.
pub(super) fn read_shard(words: &mut Words<'_>) -> Result<Reshard, ClientError> {
    if words.take("REMOVE") {
        let name = words.name()?;
        let dry_run = words.take("DRY") && words.expect("RUN")?;
        return Ok(Reshard::Remove { name, dry_run });
    }
    words.expect("ADD")?;
    let name = words.name()?;
    words.expect("NODES")?;
    words.expect("(")?;
    let mut nodes = Vec::new();
    loop {
        let (name, host, port) = (words.name()?, words.text()?, words.port()?);
        nodes.push(NewNode { name, host, port });
        if !words.take(",") {
            break;
        }
    }
    words.expect(")")?;
    Ok(Reshard::Add(NewShard { name, nodes }))
}

impl Admin {
    fn reshard(&self) -> Result<&Handle, ClientError> {
        self.reshard.as_ref().ok_or_else(|| {
            ClientError::refused(
                "resharding is not possible here",
                "It needs a proxy that is the only one of its cluster: the store has to be the embedded one.",
            )
        })
    }

    /// Obeys a command about shards or the resharding job.
    ///
    /// # Errors
    /// It makes no sense now, or something would stop the job halfway; nothing has changed then.
    pub(super) async fn obey_reshard(&self, command: Reshard) -> Result<Answer, ClientError> {
        let handle = self.reshard()?;
        let command = match command {
            Reshard::Plan { empty } => {
                let wanted = self.wanted(empty.as_deref())?;
                let planned = handle.plan(wanted).await.map_err(refused)?;
                let rows = planned.into_iter().map(|one| {
                    let numbers = [one.buckets as u64, one.rows, one.bytes].map(|number| Some(number.to_string()));
                    [Some(one.from), Some(one.to)].into_iter().chain(numbers).collect()
                });
                let columns = vec!["from", "to", "buckets", "rows", "bytes"];
                return Ok(Answer::View(View { columns, rows: rows.collect() }));
            }
            Reshard::Verify => {
                let verified = handle.verify().await.map_err(refused)?;
                let document = serde_json::to_string(&verified).unwrap_or_default();
                return Ok(Answer::View(View { columns: vec!["document"], rows: vec![vec![Some(document)]] }));
            }
            Reshard::Add(shard) => {
                handle.join(shard).await.map_err(refused)?;
                return Ok(Answer::Done("SHARD"));
            }
            Reshard::Remove { name, dry_run } => {
                self.check_unled(&name)?;
                handle.leave(name, dry_run).await.map_err(refused)?;
                return Ok(Answer::Done("SHARD"));
            }
            Reshard::Start { empty } => {
                let wanted = self.wanted(empty.as_deref())?;
                if handle.plan(wanted.clone()).await.map_err(refused)?.is_empty() {
                    let error = ClientError::new(ErrorId::PrerequisiteMissing, "no bucket has to move");
                    return Err(error.with_hint("Add a shard first, or name one that is to be emptied: EMPTY shard."));
                }
                let id = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                Command::Start { id: id.map_or(1, |since| since.as_secs()), wanted }
            }
            Reshard::Pause => Command::Pause,
            Reshard::Resume => Command::Resume,
            Reshard::Reverse => Command::Reverse,
            Reshard::Finish => Command::Finish,
            Reshard::Cancel => Command::Cancel,
        };
        handle.command(command).await.map_err(refused)?;
        Ok(Answer::Done("RESHARD"))
    }

    /// Whoever leads a shard would go on leading its servers.
    fn check_unled(&self, name: &str) -> Result<(), ClientError> {
        let topology = self.cluster.topology.load_full();
        let shard = topology.shards.iter().find(|shard| shard.name == name).map(|shard| shard.id);
        let is_led = |shard| self.leaders.get().is_some_and(|leaders| leaders.contains_key(&shard));
        if shard.is_none_or(|shard| !is_led(shard)) {
            return Ok(());
        }
        Err(ClientError::refused(
            format!("shard \"{name}\" has replicas that may lead it, so it cannot be removed"),
            "Only shards without replicas, or added since the proxy was started, can be removed.",
        ))
    }

    /// Owners as the ring proposes them, with as few moves as possible.
    fn wanted(&self, empty: Option<&str>) -> Result<BucketMap, ClientError> {
        let topology: std::sync::Arc<Topology> = self.cluster.topology.load_full();
        if let Some(name) = empty.filter(|name| !topology.shards.iter().any(|shard| shard.name == *name)) {
            return Err(ClientError::new(ErrorId::UndefinedObject, format!("shard \"{name}\" does not exist"))
                .with_hint("SHOW SHARDS lists them."));
        }
        let shards = topology.shards.iter().map(|shard| {
            let weight = if Some(shard.name.as_str()) == empty { 0 } else { shard.weight };
            (shard.id, weight)
        });
        let shards: Vec<(ShardId, u32)> = shards.collect();
        if shards.iter().all(|(_, weight)| *weight == 0) {
            return Err(ClientError::new(ErrorId::PrerequisiteMissing, "no shard would be left"));
        }
        Ok(ring::propose(&shards, Some(&topology.buckets)))
    }

    /// The job as SHOW RESHARD tells it.
    pub(super) fn reshard_rows(&self) -> Value {
        let Some(handle) = &self.reshard else { return json!([]) };
        let status = handle.status();
        json!([{
            "phase": status.phase, "paused": status.paused, "reversed": status.reversed,
            "buckets_total": status.buckets_total, "buckets_left": status.buckets_left,
            "rows_moved": status.rows_moved, "rows_left": status.rows_left, "steps": status.steps,
            "pause_longest_ms": (status.pause_longest_ms * 10.0).round() / 10.0,
            "pause_mean_ms": (status.pause_mean_ms * 10.0).round() / 10.0,
            "hold_longest_ms": (status.hold_longest_ms * 10.0).round() / 10.0,
            "hold_mean_ms": (status.hold_mean_ms * 10.0).round() / 10.0,
            "waited": status.waited,
            "wait_longest_ms": (status.wait_longest_ms * 10.0).round() / 10.0,
            "wait_median_ms": (status.wait_median_ms * 10.0).round() / 10.0,
            "rows_next": status.rows_next, "trouble": status.trouble,
        }])
    }
}

fn refused(reason: String) -> ClientError {
    ClientError::new(ErrorId::PrerequisiteMissing, reason)
}
