//! Which buckets move so that every shard has its share of what was measured, and as little moves as that needs.
//!
//! The ring counts buckets, which is right as long as they are alike. Where some are much bigger, or busier, than others,
//! what counts is what they cost.
//!
//! Must not know: how costs were measured, how buckets are moved.

use std::collections::{BTreeMap, BTreeSet};

use super::{BUCKETS, BucketMap};
use crate::base::{BucketId, ShardId};

/// How far from its share a shard may be, in thousandths of it: within that nothing moves.
pub const TOLERANCE_PERMILLE: u64 = 50;

/// What a shard has, and what it should have.
struct Load {
    has: u64,
    share: u64,
    /// Buckets that may leave it, by cost.
    buckets: BTreeSet<(u64, u16)>,
}

impl Load {
    fn is_off(&self) -> bool {
        self.has.abs_diff(self.share) * 1_000 > self.share * TOLERANCE_PERMILLE
    }
}

/// Owners under which every shard has about its share (by weight) of the costs. `costs`: of each bucket in order, pinned
/// keys' last; these count, and stay where they are. The same owners when nothing is gained by a move.
pub fn balance(shards: &[(ShardId, u32)], costs: &[u64], current: &BucketMap) -> BucketMap {
    let weights: u64 = shards.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let total: u64 = costs.iter().sum();
    let share = |weight: u32| (u128::from(total) * u128::from(weight) / u128::from(weights.max(1))) as u64;
    let empty = |weight: u32| Load { has: 0, share: share(weight), buckets: BTreeSet::new() };
    let mut loads: BTreeMap<ShardId, Load> = shards.iter().map(|(id, weight)| (*id, empty(*weight))).collect();
    for (at, (owner, cost)) in current.owners().iter().zip(costs).enumerate() {
        let Some(load) = loads.get_mut(owner) else { continue };
        load.has += cost;
        if at < BUCKETS && *cost > 0 {
            load.buckets.insert((*cost, at as u16));
        }
    }
    let mut wanted = current.clone();
    // Each bucket moves once at most.
    while loads.values().any(Load::is_off) {
        let Some((from, to, cost, bucket)) = next_move(&loads) else { break };
        if let Some(load) = loads.get_mut(&from) {
            load.has -= cost;
            load.buckets.remove(&(cost, bucket));
        }
        if let Some(load) = loads.get_mut(&to) {
            load.has += cost;
        }
        wanted = wanted.with_owner(BucketId(bucket), to);
    }
    wanted
}

/// From who has most too much to who has most too little: the biggest bucket that leaves neither (much) on its other side, else the
/// smallest one that brings both nearer to their shares.
fn next_move(loads: &BTreeMap<ShardId, Load>) -> Option<(ShardId, ShardId, u64, u16)> {
    let over = |load: &Load| load.has.saturating_sub(load.share);
    let under = |load: &Load| load.share.saturating_sub(load.has);
    let (to, taker) = loads.iter().max_by_key(|(_, load)| under(load))?;
    let lack = under(taker);
    let mut givers: Vec<_> = loads.iter().filter(|(_, load)| over(load) > 0).collect();
    givers.sort_by_key(|(_, load)| std::cmp::Reverse(over(load)));
    givers.into_iter().find_map(|(from, giver)| {
        let slack = giver.share.min(taker.share) * TOLERANCE_PERMILLE / 2_000;
        let gap = lack + over(giver);
        let room = (lack.min(over(giver)) + slack).min(gap.saturating_sub(1));
        let fits = giver.buckets.range(..=(room, u16::MAX)).next_back();
        let helps = || giver.buckets.first().filter(|(cost, _)| *cost < gap);
        let (cost, bucket) = fits.or_else(helps)?;
        Some((*from, *to, *cost, *bucket))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::ring::moved;
    use proptest::prelude::*;

    fn equal(count: u32) -> Vec<(ShardId, u32)> {
        (1..=count).map(|id| (ShardId(id), 100)).collect()
    }

    fn in_turn(shards: u32) -> BucketMap {
        BucketMap::from_owners((0..BUCKETS as u32).map(|bucket| ShardId(1 + bucket % shards)).collect()).unwrap()
    }

    fn load(map: &BucketMap, costs: &[u64], shard: u32) -> u64 {
        let pairs = map.owners().iter().zip(costs);
        pairs.filter(|(owner, _)| **owner == ShardId(shard)).map(|(_, cost)| cost).sum()
    }

    #[test]
    fn what_is_balanced_stays() {
        let costs = vec![3; BUCKETS];
        assert_eq!(balance(&equal(4), &costs, &in_turn(4)), in_turn(4));
        assert_eq!(balance(&equal(4), &vec![0; BUCKETS], &in_turn(4)), in_turn(4));
    }

    #[test]
    fn a_few_big_buckets_are_spread_by_moving_few() {
        let mut costs = vec![10; BUCKETS];
        // All on the first shard.
        (0..8).for_each(|at| costs[at * 4] = 20_000);
        let after = balance(&equal(4), &costs, &in_turn(4));
        let total: u64 = costs.iter().sum();
        for shard in 1..=4 {
            assert!(load(&after, &costs, shard).abs_diff(total / 4) * 20 <= total / 4, "{shard}");
        }
        assert!(moved(&in_turn(4), &after) < 20, "{}", moved(&in_turn(4), &after));
    }

    #[test]
    fn a_bucket_that_is_more_than_a_share_stays_and_the_others_leave_it() {
        let mut costs = vec![1; BUCKETS];
        costs[0] = 1_000_000;
        let after = balance(&equal(2), &costs, &in_turn(2));
        assert_eq!(after.owner(BucketId(0)), ShardId(1));
        assert_eq!(load(&after, &costs, 1), 1_000_000);
        assert_eq!(balance(&equal(2), &costs, &after), after, "and nothing moves again");
    }

    #[test]
    fn pinned_keys_count_and_stay() {
        let mut owners = in_turn(2).owners().to_vec();
        owners.push(ShardId(2));
        let map = BucketMap::from_owners(owners).unwrap();
        let mut costs = vec![1; BUCKETS];
        costs.push(8_000);
        let after = balance(&equal(2), &costs, &map);
        assert_eq!(after.owner(BucketId(16_384)), ShardId(2));
        assert!(load(&after, &costs, 1).abs_diff(load(&after, &costs, 2)) < 1_300);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn nothing_gets_worse_and_a_second_time_nothing_moves(
            shards in 2..6_u32,
            costs in prop::collection::vec(0..1_000_u64, BUCKETS),
            skew in 1..50_u64,
        ) {
            let costs: Vec<u64> = costs.iter().enumerate().map(|(at, cost)| if at % 2 == 0 { cost * skew } else { *cost }).collect();
            let before = in_turn(shards);
            let after = balance(&equal(shards), &costs, &before);
            let share = costs.iter().sum::<u64>() / u64::from(shards);
            let worst = |map: &BucketMap| (1..=shards).map(|shard| load(map, &costs, shard).abs_diff(share)).max();
            prop_assert!(worst(&after) <= worst(&before));
            prop_assert!(worst(&after).unwrap() * 1_000 <= (share + shards as u64) * TOLERANCE_PERMILLE + 1_000);
            prop_assert_eq!(balance(&equal(shards), &costs, &after), after);
        }
    }
}
