//! I8: transfers happen on both sides or on neither, and nothing stays prepared.

use std::collections::BTreeMap;

use super::{Final, Findings, History, Invariant, Outcome, What};

/// I8.
pub fn is_sound(history: &History, state: &Final) -> Findings {
    let mut found = Findings::of(Invariant::I8);
    for (shard, nodes) in state.shards.iter().map(|(name, shard)| (name, &shard.nodes)) {
        for (node, is) in nodes.iter().filter(|(_, is)| is.prepared > 0) {
            found.add(format!("{shard}: {} transactions are still prepared on {node}", is.prepared));
        }
    }
    let mut are: BTreeMap<i64, i64> = BTreeMap::new();
    let mut should = state.balances.clone();
    for contents in state.primaries() {
        are.extend(&contents.accounts);
        for (_, from, to, amount) in &contents.transfers {
            *should.entry(*from).or_insert(0) -= amount;
            *should.entry(*to).or_insert(0) += amount;
        }
    }
    let (sum, first): (i64, i64) = (are.values().sum(), state.balances.values().sum());
    if sum != first {
        found.add(format!("the balances are {sum} together, were {first}"));
    }
    for (account, balance) in &should {
        let is = are.get(account);
        if is != Some(balance) {
            found.add(format!("account {account} has {is:?}, its transfers make {balance}"));
        }
    }
    asked_for(history, state, &mut found);
    found
}

/// No transfer is there that nobody asked for, or otherwise than it was asked for.
fn asked_for(history: &History, state: &Final, found: &mut Findings) {
    let asked: BTreeMap<i64, (i64, i64, i64)> = history
        .operations
        .iter()
        .filter(|operation| operation.outcome != Outcome::RolledBack)
        .filter_map(|operation| match operation.what {
            What::Transfer { id, from, to, amount } => Some((id, (from, to, amount))),
            _ => None,
        })
        .collect();
    for (id, from, to, amount) in state.primaries().flat_map(|contents| &contents.transfers) {
        if asked.get(id) != Some(&(*from, *to, *amount)) {
            found
                .add(format!("transfer {id} of {amount} from {from} to {to} was not asked for so, or was rolled back"));
        }
    }
}
