//! The consistent-hash ring: proposes which shard owns which bucket.
//!
//! The ring is asked when ownership is *planned*; the topology stores the outcome, and only the stored
//! table answers queries. Virtual nodes and buckets are placed by [`StableHash`], so every build of
//! every proxy proposes the same. A plain ring leaves shards 6 to 25 % over the mean; here each shard
//! gets a target near its share, and a proposal moves no more buckets than the targets demand.
//!
//! Must not know: nodes, load, how rows are moved.

use std::collections::HashMap;
use std::hash::BuildHasher;

use hashring::HashRing;

use super::hash::StableHash;
use super::{BUCKETS, BucketMap};
use crate::base::{BucketId, ShardId};

/// Virtual nodes of a shard with weight [`WEIGHT_NORMAL`].
const VIRTUAL_NODES: u64 = 160;
/// The weight of an ordinary shard.
pub const WEIGHT_NORMAL: u32 = 100;
/// Virtual nodes that one shard has at most.
const VIRTUAL_NODES_MAX: u64 = 16_000;
/// How far from its share a shard may stay, in thousandths: within it nothing is moved for balance alone.
const TOLERANCE_PERMILLE: u64 = 20;

/// Proposes an owner for every bucket.
///
/// With `current`, a bucket stays where it is unless its owner is gone, its owner has more than 2 % over
/// its share, or a shard has more than 2 % under its share; as few buckets move as that needs. Without,
/// the ring decides and the same bounds hold. A shard of weight 0 owns nothing. When every weight is 0,
/// all count alike; without any shard the answer is `current` (or an owner that no topology has).
///
/// # Invariants
/// The same arguments give the same answer, in every order of `shards`; a shard named twice counts once.
pub fn propose(shards: &[(ShardId, u32)], current: Option<&BucketMap>) -> BucketMap {
    let mut shards = shards.to_vec();
    shards.sort_unstable();
    shards.dedup_by_key(|(shard, _)| *shard);
    if shards.iter().all(|(_, weight)| *weight == 0) {
        for (_, weight) in &mut shards {
            *weight = WEIGHT_NORMAL;
        }
    }
    let unchanged = || current.cloned().unwrap_or_else(|| BucketMap::all_to(ShardId::default()));
    if shards.is_empty() {
        return unchanged();
    }
    let ring = Ring::new(&shards);
    let start: Vec<Option<ShardId>> = (0..BUCKETS as u16)
        .map(|bucket| match current {
            Some(map) => Some(map.owner(BucketId(bucket)))
                .filter(|owner| shards.binary_search_by_key(owner, |(id, _)| *id).is_ok()),
            None => ring.natural_owner(BucketId(bucket)),
        })
        .collect();
    let mut owners = Rebalance::new(&shards, start).run(&ring);
    // Pinned keys stay where they are.
    owners.extend(current.iter().flat_map(|map| map.owners().iter().skip(BUCKETS)));
    BucketMap::from_owners(owners).unwrap_or_else(unchanged)
}

/// Buckets whose owner differs between two maps.
pub fn moved(from: &BucketMap, to: &BucketMap) -> usize {
    from.owners().iter().zip(to.owners()).filter(|(before, after)| before != after).count()
}

/// A point of a shard on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct VirtualNode {
    shard: ShardId,
    number: u32,
}

struct Ring {
    ring: HashRing<VirtualNode, StableHash>,
    /// Owners clockwise, for walks: the crate gives the first point only.
    clockwise: Vec<ShardId>,
    position: HashMap<VirtualNode, usize>,
}

impl Ring {
    fn new(shards: &[(ShardId, u32)]) -> Self {
        let points = shards.iter().flat_map(|(shard, weight)| {
            let number = u64::from(*weight) * VIRTUAL_NODES / u64::from(WEIGHT_NORMAL);
            let number = if *weight == 0 { 0 } else { number.clamp(1, VIRTUAL_NODES_MAX) };
            (0..number as u32).map(|number| VirtualNode { shard: *shard, number })
        });
        let mut order: Vec<VirtualNode> = points.collect();
        let mut ring = HashRing::with_hasher(StableHash);
        ring.batch_add(order.clone());
        order.sort_by_key(|node| StableHash.hash_one(node));
        let position = order.iter().enumerate().map(|(at, node)| (*node, at)).collect();
        Self { ring, clockwise: order.iter().map(|node| node.shard).collect(), position }
    }

    fn natural_owner(&self, bucket: BucketId) -> Option<ShardId> {
        self.ring.get(&bucket).map(|node| node.shard)
    }

    /// Owners met clockwise from a bucket, once round.
    fn walk(&self, bucket: BucketId) -> impl Iterator<Item = ShardId> + '_ {
        let start = self.ring.get(&bucket).and_then(|node| self.position.get(node)).copied().unwrap_or(0);
        self.clockwise.iter().cycle().skip(start).take(self.clockwise.len()).copied()
    }
}

/// What one shard has and shall have.
struct Load {
    has: usize,
    target: usize,
}

struct Rebalance {
    owners: Vec<Option<ShardId>>,
    loads: HashMap<ShardId, Load>,
}

impl Rebalance {
    fn new(shards: &[(ShardId, u32)], owners: Vec<Option<ShardId>>) -> Self {
        let mut has: HashMap<ShardId, usize> = HashMap::new();
        for owner in owners.iter().flatten() {
            *has.entry(*owner).or_default() += 1;
        }
        let counted: Vec<(ShardId, u32, usize)> = shards
            .iter()
            .map(|(shard, weight)| (*shard, *weight, has.get(shard).copied().unwrap_or_default()))
            .collect();
        let loads = targets(&counted)
            .into_iter()
            .zip(&counted)
            .map(|(target, (shard, _, has))| (*shard, Load { has: *has, target }))
            .collect();
        Self { owners, loads }
    }

    fn run(mut self, ring: &Ring) -> Vec<ShardId> {
        // First the moves that the ring itself prefers, then whatever the targets still demand.
        self.place(|bucket| ring.natural_owner(bucket).into_iter());
        self.place(|bucket| ring.walk(bucket));
        self.owners.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// Gives each bucket that must leave its owner to the first candidate that lacks buckets.
    fn place<I: Iterator<Item = ShardId>>(&mut self, candidates: impl Fn(BucketId) -> I) {
        for (bucket, owner) in self.owners.iter_mut().enumerate() {
            let leaves = owner.and_then(|owner| self.loads.get(&owner)).is_none_or(|load| load.has > load.target);
            if !leaves {
                continue;
            }
            let lacks = |shard: &ShardId| self.loads.get(shard).is_some_and(|load| load.has < load.target);
            let Some(taker) = candidates(BucketId(bucket as u16)).find(lacks) else { continue };
            if let Some(load) = owner.and_then(|owner| self.loads.get_mut(&owner)) {
                load.has -= 1;
            }
            if let Some(load) = self.loads.get_mut(&taker) {
                load.has += 1;
            }
            *owner = Some(taker);
        }
    }
}

/// Buckets that each shard shall have: what it has, brought within the tolerance of its share, and
/// then changed as little as the sum needs. The sum is [`BUCKETS`].
fn targets(shards: &[(ShardId, u32, usize)]) -> Vec<usize> {
    let total: u64 = shards.iter().map(|(_, weight, _)| u64::from(*weight)).sum::<u64>().max(1);
    let bounds: Vec<(usize, usize)> = shards
        .iter()
        .map(|(_, weight, _)| {
            // Whole buckets on both sides of the exact share are always within the bounds, so that the
            // targets can add up; rounding never loosens the tolerance.
            let parts = u64::from(*weight) * BUCKETS as u64;
            let least = (parts * (1_000 - TOLERANCE_PERMILLE)).div_ceil(total * 1_000).min(parts / total);
            let most = (parts * (1_000 + TOLERANCE_PERMILLE) / (total * 1_000)).max(parts.div_ceil(total));
            (least as usize, most as usize)
        })
        .collect();
    let mut targets: Vec<usize> =
        shards.iter().zip(&bounds).map(|((_, _, has), (least, most))| (*has).clamp(*least, *most)).collect();
    let mut sum: usize = targets.iter().sum();
    // Spread the difference one by one over those with the most room; the bounds always leave enough,
    // since the exact shares lie between them.
    while sum != BUCKETS {
        let over = sum > BUCKETS;
        let room = |at: usize, target: usize| {
            let (least, most) = bounds.get(at).copied().unwrap_or_default();
            if over { target.saturating_sub(least) } else { most.saturating_sub(target) }
        };
        let roomiest = targets.iter().enumerate().max_by_key(|(at, target)| (room(*at, **target), usize::MAX - *at));
        let Some((at, _)) = roomiest.filter(|(at, target)| room(*at, **target) > 0) else { break };
        if let Some(target) = targets.get_mut(at) {
            if over {
                *target -= 1;
                sum -= 1;
            } else {
                *target += 1;
                sum += 1;
            }
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn equal(count: u32) -> Vec<(ShardId, u32)> {
        (1..=count).map(|id| (ShardId(id), WEIGHT_NORMAL)).collect()
    }

    fn load(map: &BucketMap, shard: ShardId) -> usize {
        map.owners().iter().filter(|owner| **owner == shard).count()
    }

    /// No shard has more than 5 % over its share, nor (given a bucket to round) less than 5 % under it.
    fn assert_balanced(map: &BucketMap, shards: &[(ShardId, u32)]) {
        let total: f64 = shards.iter().map(|(_, weight)| f64::from(*weight)).sum();
        for (shard, weight) in shards {
            let share = BUCKETS as f64 * f64::from(*weight) / total;
            let has = load(map, *shard) as f64;
            assert!(has <= (share * 1.05).max(share + 1.0), "{shard} has {has}, its share is {share}");
            assert!(has >= (share * 0.95).min(share - 1.0), "{shard} has {has}, its share is {share}");
        }
    }

    #[test]
    fn the_format_of_the_ring_is_fixed() {
        let map = propose(&equal(3), None);
        let head: Vec<u32> = map.owners().iter().take(16).map(|owner| owner.0).collect();
        assert_eq!(head, [2, 1, 1, 1, 1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2]);
        let loads: Vec<usize> = (1..=3).map(|id| load(&map, ShardId(id))).collect();
        assert_eq!(loads, [5_407, 5_407, 5_570]);
    }

    #[test]
    fn one_shard_owns_everything() {
        assert_eq!(propose(&equal(1), None), BucketMap::all_to(ShardId(1)));
    }

    #[test]
    fn a_second_shard_takes_half_from_the_first() {
        let first = BucketMap::all_to(ShardId(1));
        let both = propose(&equal(2), Some(&first));
        assert_balanced(&both, &equal(2));
        assert_eq!(moved(&first, &both), load(&both, ShardId(2)));
    }

    #[test]
    fn a_shard_of_weight_zero_is_drained() {
        let before = propose(&equal(3), None);
        let shards = [(ShardId(1), 100), (ShardId(2), 0), (ShardId(3), 100)];
        let after = propose(&shards, Some(&before));
        assert_eq!(load(&after, ShardId(2)), 0);
        assert_eq!(moved(&before, &after), load(&before, ShardId(2)));
    }

    #[test]
    fn without_shards_nothing_changes() {
        let map = propose(&equal(2), None);
        assert_eq!(propose(&[], Some(&map)), map);
    }

    #[test]
    fn more_shards_than_a_few_are_balanced_from_nothing() {
        for count in [2, 3, 5, 8, 16, 64, 200] {
            assert_balanced(&propose(&equal(count), None), &equal(count));
        }
    }

    fn weighted() -> impl Strategy<Value = Vec<(ShardId, u32)>> {
        prop::collection::vec(prop_oneof![Just(100_u32), 10..1_000_u32], 1..24).prop_map(|weights| {
            weights.into_iter().enumerate().map(|(at, weight)| (ShardId(at as u32 + 1), weight)).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn proposals_are_balanced_and_repeatable(shards in weighted()) {
            let map = propose(&shards, None);
            assert_balanced(&map, &shards);
            let mut reversed = shards.clone();
            reversed.reverse();
            prop_assert_eq!(&propose(&reversed, None), &map);
            prop_assert_eq!(&propose(&shards, Some(&map)), &map);
        }

        #[test]
        fn adding_a_shard_moves_its_share_only_and_only_to_it(shards in weighted(), weight in 10..1_000_u32) {
            let before = propose(&shards, None);
            let new = ShardId(shards.len() as u32 + 1);
            let mut more = shards;
            more.push((new, weight));
            let after = propose(&more, Some(&before));
            assert_balanced(&after, &more);
            let total: f64 = more.iter().map(|(_, weight)| f64::from(*weight)).sum();
            let share = BUCKETS as f64 * f64::from(weight) / total;
            let moved = moved(&before, &after) as f64;
            prop_assert!(moved <= (share * 1.1).max(share + 1.0), "moved {}, share {}", moved, share);
        }

        #[test]
        fn removing_a_shard_moves_what_it_had(shards in weighted(), pick in any::<prop::sample::Index>()) {
            prop_assume!(shards.len() > 1);
            let before = propose(&shards, None);
            let (gone, weight) = shards[pick.index(shards.len())];
            let rest: Vec<_> = shards.iter().copied().filter(|(id, _)| *id != gone).collect();
            let after = propose(&rest, Some(&before));
            assert_balanced(&after, &rest);
            let total: f64 = shards.iter().map(|(_, weight)| f64::from(*weight)).sum();
            let share = BUCKETS as f64 * f64::from(weight) / total;
            let moved = moved(&before, &after) as f64;
            prop_assert!(moved <= (share * 1.1).max(share + 1.0), "moved {}, share {}", moved, share);
        }

        #[test]
        fn a_long_life_of_changes_stays_balanced(changes in prop::collection::vec(any::<bool>(), 1..12)) {
            let mut shards = equal(3);
            let mut map = propose(&shards, None);
            let mut next = 4;
            for add in changes {
                if add || shards.len() == 1 {
                    shards.push((ShardId(next), WEIGHT_NORMAL));
                    next += 1;
                } else {
                    shards.remove(0);
                }
                map = propose(&shards, Some(&map));
                assert_balanced(&map, &shards);
            }
        }
    }
}
