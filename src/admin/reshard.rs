//! SHARD and RESHARD: the cluster grows, buckets move.

use std::time::Duration;

use serde_json::{Value, json};

use super::command::{JobCommand, Reshard, Words};
use super::{Admin, Answer, View};
use crate::base::ShardId;
use crate::control::reshard::{Handle, NewNode, NewShard, PlannedMove};
use crate::error::{ClientError, ErrorId};
use crate::reshard::{Command, Manner};
use crate::topology::{BucketMap, Topology, ring};

/// Reads what stands behind RESHARD.
pub(super) fn read_reshard(words: &mut Words<'_>) -> Result<Reshard, ClientError> {
    let empty = |words: &mut Words<'_>| if words.take("EMPTY") { words.name().map(Some) } else { Ok(None) };
    if words.take("PLAN") {
        return Ok(Reshard::Plan { empty: empty(words)? });
    }
    if words.take("START") {
        return Ok(Reshard::Start { empty: empty(words)?, hold_max: read_hold(words)?, dry_run: words.dry_run()? });
    }
    for (word, command) in [
        ("PAUSE", JobCommand::Pause),
        ("RESUME", JobCommand::Resume),
        ("REVERSE", JobCommand::Reverse),
        ("FINISH", JobCommand::Finish),
        ("CANCEL", JobCommand::Cancel),
    ] {
        if words.take(word) {
            return Ok(Reshard::Job { command, dry_run: words.dry_run()? });
        }
    }
    if words.take("VERIFY") {
        return Ok(Reshard::Verify);
    }
    Err(words.unknown())
}

/// Most seconds that writes to moving buckets may be made to wait for a step.
const HOLD_S_MAX: u64 = 50;

/// Reads how long writes to moving buckets may wait for a step.
pub(super) fn read_hold(words: &mut Words<'_>) -> Result<Option<Duration>, ClientError> {
    if !words.take("HOLD") {
        return Ok(None);
    }
    words.number(1..=HOLD_S_MAX).map(|seconds| Some(Duration::from_secs(seconds)))
}

/// Reads what stands behind SHARD.
pub(super) fn read_shard(words: &mut Words<'_>) -> Result<Reshard, ClientError> {
    if words.take("REMOVE") {
        let name = words.name()?;
        return Ok(Reshard::Remove { name, dry_run: words.dry_run()? });
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
    Ok(Reshard::Add { shard: NewShard { name, nodes }, dry_run: words.dry_run()? })
}

impl Admin {
    pub(super) fn resharding(&self) -> Result<&Handle, ClientError> {
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
        let handle = self.resharding()?;
        match command {
            Reshard::Plan { empty } => {
                let wanted = self.wanted(empty.as_deref())?;
                Ok(Answer::View(plan_view(handle.plan(wanted).await.map_err(refused)?)))
            }
            Reshard::Verify => {
                let verified = handle.verify().await.map_err(refused)?;
                let document = serde_json::to_string(&verified).unwrap_or_default();
                Ok(Answer::View(View { columns: vec!["document"], rows: vec![vec![Some(document)]] }))
            }
            Reshard::Add { shard, dry_run } => {
                handle.join(shard, dry_run).await.map_err(refused)?;
                Ok(Answer::Done("SHARD"))
            }
            Reshard::Remove { name, dry_run } => {
                handle.leave(name, dry_run).await.map_err(refused)?;
                Ok(Answer::Done("SHARD"))
            }
            Reshard::Start { empty, hold_max, dry_run } => {
                let wanted = self.wanted(empty.as_deref())?;
                let planned = handle.plan(wanted.clone()).await.map_err(refused)?;
                if planned.is_empty() {
                    let error = ClientError::new(ErrorId::PrerequisiteMissing, "no bucket has to move");
                    return Err(error.with_hint("Add a shard first, or name one that is to be emptied: EMPTY shard."));
                }
                if dry_run {
                    return Ok(Answer::View(plan_view(planned)));
                }
                self.start_job(wanted, Manner { ends_itself: false, hold_max }).await?;
                Ok(Answer::Done("RESHARD"))
            }
            Reshard::Job { command, dry_run } => {
                let command = match command {
                    JobCommand::Pause => Command::Pause,
                    JobCommand::Resume => Command::Resume,
                    JobCommand::Reverse => Command::Reverse,
                    JobCommand::Finish => Command::Finish,
                    JobCommand::Cancel => Command::Cancel,
                };
                handle.command(command, dry_run).await.map_err(refused)?;
                Ok(Answer::Done("RESHARD"))
            }
        }
    }

    /// Begins a job that brings about these owners.
    ///
    /// # Errors
    /// There is one already.
    pub(super) async fn start_job(&self, wanted: BucketMap, manner: Manner) -> Result<(), ClientError> {
        let id = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let command = Command::Start { id: id.map_or(1, |since| since.as_secs()), wanted, manner };
        self.resharding()?.command(command, false).await.map_err(refused)
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
        let mut wanted = ring::propose(&shards, Some(&topology.buckets));
        let empty = topology.shards.iter().find(|shard| Some(shard.name.as_str()) == empty).map(|shard| shard.id);
        // Pinned keys leave only a shard that is to be empty, for where their hash slots are.
        for (bucket, pin) in topology.pins.iter().filter(|(bucket, _)| Some(topology.buckets.owner(*bucket)) == empty) {
            wanted = wanted.with_owner(bucket, wanted.owner(pin.slot()));
        }
        Ok(wanted)
    }

    /// The job as SHOW RESHARD tells it.
    pub(super) fn reshard_rows(&self) -> Value {
        let Some(handle) = &self.reshard else { return json!([]) };
        let status = handle.status();
        json!([{
            "phase": status.phase, "paused": status.paused, "reversed": status.reversed,
            "buckets_total": status.buckets_total, "buckets_left": status.buckets_left,
            "rows_moved": status.rows_moved, "rows_left": status.rows_left, "bytes_moved": status.bytes_moved,
            "steps": status.steps,
            "pause_longest_ms": (status.pause_longest_ms * 10.0).round() / 10.0,
            "pause_mean_ms": (status.pause_mean_ms * 10.0).round() / 10.0,
            "hold_longest_ms": (status.hold_longest_ms * 10.0).round() / 10.0,
            "hold_mean_ms": (status.hold_mean_ms * 10.0).round() / 10.0,
            "waited": status.waited,
            "wait_longest_ms": (status.wait_longest_ms * 10.0).round() / 10.0,
            "wait_median_ms": (status.wait_median_ms * 10.0).round() / 10.0,
            "rows_next": status.rows_next, "step_parts_ms": status.step_parts_ms, "trouble": status.trouble,
        }])
    }
}

/// What a job moves.
pub(super) fn plan_view(planned: Vec<PlannedMove>) -> View {
    let rows = planned.into_iter().map(|one| {
        let numbers = [one.buckets as u64, one.rows, one.bytes].map(|number| Some(number.to_string()));
        [Some(one.from), Some(one.to)].into_iter().chain(numbers).collect()
    });
    View { columns: vec!["from", "to", "buckets", "rows", "bytes"], rows: rows.collect() }
}

pub(super) fn refused(reason: String) -> ClientError {
    ClientError::new(ErrorId::PrerequisiteMissing, reason)
}
