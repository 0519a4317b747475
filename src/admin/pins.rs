//! PIN, UNPIN and SHOW PINS: keys that live where they are told to.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::command::Words;
use super::reshard::{plan_view, read_hold, refused};
use super::{Admin, Answer};
use crate::control::reshard::PinWish;
use crate::error::{ClientError, ErrorId};
use crate::executor::shard_name;
use crate::reshard::Manner;
use crate::topology::pin::hashes_of;
use crate::topology::schema::Schema;
use crate::topology::{KeyType, KeyValue, Pin, Placement, TableName, Topology};

/// What is wanted of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PinChange {
    /// A value a key column.
    pub(super) values: Vec<String>,
    /// Whose key it is; needed where tables have keys of several types.
    pub(super) table: Option<TableName>,
    /// The shard; `None`: it is pinned no more.
    pub(super) to: Option<String>,
    /// How long writes to it may wait, when more than usual.
    pub(super) hold_max: Option<Duration>,
    pub(super) dry_run: bool,
}

/// Reads what stands behind PIN and UNPIN.
pub(super) fn read_pin(words: &mut Words<'_>, pins: bool) -> Result<PinChange, ClientError> {
    words.expect("KEY")?;
    words.expect("(")?;
    let mut values = vec![words.value()?];
    while words.take(",") {
        values.push(words.value()?);
    }
    words.expect(")")?;
    let to = if pins && words.expect("TO")? { Some(words.name()?) } else { None };
    let table = if words.take("TABLE") { Some(words.table_name()?) } else { None };
    let hold_max = read_hold(words)?;
    Ok(PinChange { values, table, to, hold_max, dry_run: words.dry_run()? })
}

impl Admin {
    /// Begins to bring a key to where it is wanted, or says what that would move.
    ///
    /// # Errors
    /// The key cannot be read, or something would stop the job; nothing has changed then.
    pub(super) async fn change_pin(&self, change: &PinChange) -> Result<Answer, ClientError> {
        let handle = self.resharding()?;
        let topology = self.cluster.topology.load_full();
        let wish = self.wish(&topology, change)?;
        let planned = handle.plan_pin(wish.clone()).await.map_err(refused)?;
        if change.dry_run {
            return Ok(Answer::View(plan_view(planned)));
        }
        let Some(wanted) = handle.pin(wish).await.map_err(refused)? else {
            return Ok(Answer::View(plan_view(Vec::new())));
        };
        self.start_job(wanted, Manner { ends_itself: true, hold_max: change.hold_max }).await?;
        Ok(Answer::View(plan_view(planned)))
    }

    fn wish(&self, topology: &Topology, change: &PinChange) -> Result<PinWish, ClientError> {
        let key = read_key(topology, &self.cluster.schema.load(), change)?;
        let Some(to) = &change.to else {
            let hashes = hashes_of(&key);
            if topology.pins.find(&hashes).is_none() {
                return Err(ClientError::new(ErrorId::UndefinedObject, "the key is not pinned")
                    .with_hint("SHOW PINS lists those that are."));
            }
            return Ok(PinWish::Unpin(hashes));
        };
        let shard = topology.shards.iter().find(|shard| shard.name == *to).ok_or_else(|| {
            ClientError::new(ErrorId::UndefinedObject, format!("shard \"{to}\" does not exist"))
                .with_hint("SHOW SHARDS lists them.")
        })?;
        Ok(PinWish::Pin(Pin::new(&key, change.values.clone()), shard.id))
    }

    /// Pinned keys as SHOW PINS tells them.
    pub(super) fn pin_rows(topology: &Topology) -> Value {
        let rows = topology.pins.iter().map(|(bucket, pin)| {
            let (owner, slot) = (topology.buckets.owner(bucket), pin.slot());
            json!({
                "key": pin.name(), "shard": shard_name(topology, owner), "bucket": bucket.0, "hash_slot": slot.0,
                "hash_slot_shard": shard_name(topology, topology.buckets.owner(slot)), "settled": pin.is_settled,
            })
        });
        Value::Array(rows.collect())
    }
}

/// The key, typed as the tables have it. Columns of several types may read the same text as several keys.
fn read_key(topology: &Topology, schema: &Schema, change: &PinChange) -> Result<Vec<KeyValue>, ClientError> {
    let mut keys: BTreeMap<Vec<u64>, (Vec<KeyValue>, String)> = BTreeMap::new();
    let (mut has_table, mut lengths) = (false, Vec::new());
    let mut tables: Vec<_> = schema.relations.values().collect();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    for relation in tables {
        if change.table.as_ref().is_some_and(|table| *table != relation.name) {
            continue;
        }
        let Placement::Sharded { key } = schema.placement(topology, relation) else { continue };
        let Some(types) = schema.key_types(relation, &key) else { continue };
        has_table = true;
        lengths.push(types.len());
        if let Some(read) = read_values(&types, &change.values) {
            keys.entry(hashes_of(&read)).or_insert_with(|| (read, relation.name.name.clone()));
        }
    }
    let written = change.values.join(", ");
    let invalid = |message: String| ClientError::new(ErrorId::InvalidParameterValue, message);
    match (keys.len(), has_table) {
        (1, _) => Ok(keys.into_values().map(|(key, _)| key).next().unwrap_or_default()),
        (0, false) => Err(ClientError::new(ErrorId::UndefinedObject, "there is no such sharded table")
            .with_hint("SHOW TABLES lists them: a key is pinned that a table is sharded by.")),
        (0, true) if !lengths.contains(&change.values.len()) => {
            lengths.sort_unstable();
            lengths.dedup();
            let counts: Vec<String> = lengths.iter().map(ToString::to_string).collect();
            Err(invalid(format!("keys have {} columns, not {}", counts.join(" or "), change.values.len())))
        }
        (0, true) => Err(invalid(format!("no sharding key has the value ({written})"))),
        _ => {
            let names: Vec<String> = keys.into_values().map(|(_, name)| name).collect();
            Err(invalid(format!("({written}) is another key in each of the tables {}", names.join(", ")))
                .with_hint("Say whose key is meant: TABLE name, or --table."))
        }
    }
}

fn read_values(types: &[KeyType], values: &[String]) -> Option<Vec<KeyValue>> {
    if types.len() != values.len() {
        return None;
    }
    types.iter().zip(values).map(|(kind, value)| kind.read_text(value.as_bytes())).collect()
}
