//! Keys get buckets of their own, where they are, and lose them where nothing tells them from their hash slot.
//!
//! Neither moves a row or changes where a statement goes, so nothing has to wait for it. That a pinned key comes to the
//! shard that is wanted is the work of a job like any other.

use super::Context;
use crate::base::{BucketId, Epoch, ShardId};
use crate::store::{StoreError, load_topology, save_topology};
use crate::topology::pin::PINS_MAX;
use crate::topology::{Pin, Topology};

/// Tries to save a topology that others change at the same time.
const TRIES_MAX: usize = 5;

/// What is wanted of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinWish {
    /// It has a bucket of its own and is to go to this shard.
    Pin(Pin, ShardId),
    /// The key with these hashes goes back to the shard of its hash slot.
    Unpin(Vec<u64>),
}

/// Makes the topology one in which the key can be moved as it is wanted: the topology, and the bucket that is to move with
/// its new owner, if one is.
///
/// # Errors
/// In words; nothing has changed then.
pub(super) async fn make_ready(
    context: &Context,
    wish: &PinWish,
) -> Result<(Topology, Option<(BucketId, ShardId)>), String> {
    changed(context, |topology| wished(topology, wish)).await
}

/// What a wish makes of a topology, and which bucket is to go where.
pub(super) fn wished(topology: &Topology, wish: &PinWish) -> Result<(Topology, Option<(BucketId, ShardId)>), String> {
    match wish {
        PinWish::Pin(pin, to) => {
            if let Some(bucket) = topology.pins.find(&pin.hashes) {
                let moves = topology.buckets.owner(bucket) != *to;
                // One that was on its way somewhere else stays when it is where it is wanted now.
                let next = topology.with_pins(|known, pin| {
                    pin.is_settled |= known == bucket && !moves;
                    true
                });
                return Ok((next, moves.then_some((bucket, *to))));
            }
            if topology.pins.len() >= PINS_MAX {
                return Err(format!("{PINS_MAX} keys are pinned already: unpin one first"));
            }
            let moves = topology.buckets.owner(pin.slot()) != *to;
            let next = topology.with_pin(Pin { is_settled: !moves, ..pin.clone() });
            let bucket = next.pins.find(&pin.hashes).ok_or("the key cannot be pinned")?;
            Ok((next, moves.then_some((bucket, *to))))
        }
        PinWish::Unpin(hashes) => {
            let bucket = topology.pins.find(hashes).ok_or("the key is not pinned")?;
            let back = topology.buckets.owner(crate::topology::hash::bucket_of_hashes(hashes));
            if topology.buckets.owner(bucket) == back {
                return Ok((topology.with_pins(|known, _| known != bucket), None));
            }
            let next = topology.with_pins(|known, pin| {
                pin.is_settled &= known != bucket;
                true
            });
            Ok((next, Some((bucket, back))))
        }
    }
}

/// A job ends: a key that it brought elsewhere stays there. One that is where its hash slot is was unpinned, or its job was
/// cancelled: it needs no bucket of its own.
///
/// # Errors
/// In words; it can be done again.
pub(super) async fn settle(context: &Context) -> Result<(), String> {
    if context.topology.load().pins.iter().all(|(_, pin)| pin.is_settled) {
        return Ok(());
    }
    changed(context, |topology| Ok((settled(topology), ()))).await.map(drop)
}

fn settled(topology: &Topology) -> Topology {
    topology.with_pins(|bucket, pin| {
        let is_apart = topology.buckets.owner(bucket) != topology.buckets.owner(pin.slot());
        std::mem::replace(&mut pin.is_settled, true) || is_apart
    })
}

/// Saves a changed topology, and puts it in force here.
async fn changed<T>(
    context: &Context,
    mut change: impl FnMut(&Topology) -> Result<(Topology, T), String>,
) -> Result<(Topology, T), String> {
    for _ in 0..TRIES_MAX {
        let words = |error: StoreError| error.to_string();
        let (now, revision) =
            load_topology(context.store.as_ref()).await.map_err(words)?.ok_or("there is no topology")?;
        let (mut next, more) = change(&now)?;
        if next == now {
            return Ok((now, more));
        }
        next.epoch = Epoch(now.epoch.0 + 1);
        match save_topology(context.store.as_ref(), &next, Some(revision)).await {
            Ok(_) => {
                context.publish(&next);
                return Ok((next, more));
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(words(error)),
        }
    }
    Err("the topology changes too fast: try again".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{BucketMap, KeyValue, Pins, TableRules};

    fn topology() -> Topology {
        Topology {
            epoch: Epoch(1),
            database: "app".to_owned(),
            shards: Vec::new(),
            nodes: Vec::new(),
            buckets: BucketMap::all_to(ShardId(1)),
            pins: Pins::default(),
            tables: TableRules::default(),
        }
    }

    fn pin(to: u32) -> PinWish {
        PinWish::Pin(Pin::new(&[KeyValue::Int(42)], vec!["42".to_owned()]), ShardId(to))
    }

    fn unpin() -> PinWish {
        PinWish::Unpin(crate::topology::pin::hashes_of(&[KeyValue::Int(42)]))
    }

    const OWN: BucketId = BucketId(16_384);

    #[test]
    fn a_key_that_moves_is_settled_when_it_is_there() {
        let (begun, moves) = wished(&topology(), &pin(2)).unwrap();
        assert_eq!(moves, Some((OWN, ShardId(2))));
        assert_eq!(begun.shard_of_key(&[KeyValue::Int(42)]), ShardId(1), "nothing has moved yet");
        let there = Topology { buckets: begun.buckets.with_owner(OWN, ShardId(2)), ..begun.clone() };
        assert_eq!(settled(&there).shard_of_key(&[KeyValue::Int(42)]), ShardId(2));
        // And back.
        let (leaving, moves) = wished(&settled(&there), &unpin()).unwrap();
        assert_eq!(moves, Some((OWN, ShardId(1))));
        assert!(!settled(&leaving).pins.is_empty(), "cancelled, it stays pinned");
        let back = Topology { buckets: leaving.buckets.with_owner(OWN, ShardId(1)), ..leaving };
        assert_eq!(settled(&back), topology());
        assert_eq!(settled(&begun), topology(), "cancelled before it moved");
    }

    #[test]
    fn a_key_may_be_pinned_to_where_it_is() {
        let (pinned, moves) = wished(&topology(), &pin(1)).unwrap();
        assert_eq!((moves, pinned.pins.len()), (None, 1));
        assert_eq!(settled(&pinned), pinned);
        assert_eq!(wished(&pinned, &unpin()), Ok((topology(), None)));
        assert!(wished(&topology(), &unpin()).is_err());
        // What a job did not get to do is done by saying it again.
        let (begun, _) = wished(&topology(), &pin(2)).unwrap();
        assert_eq!(wished(&begun, &pin(2)), Ok((begun, Some((OWN, ShardId(2))))));
    }
}
