//! I2, I4 and I6: who acknowledges, for how long nobody does, and what the store says of it.

use std::collections::BTreeMap;

use super::{Final, Findings, History, Invariant, Limits, Micros, Operation, Outcome, Source, What};

/// Acknowledged writes that say where they were done, by shard.
fn acknowledged(history: &History) -> BTreeMap<&str, Vec<(&Source, &Operation)>> {
    let mut by_shard: BTreeMap<&str, Vec<(&Source, &Operation)>> = BTreeMap::new();
    for operation in &history.operations {
        if let (What::Insert { by: Some(by), .. }, Outcome::Acknowledged) = (&operation.what, operation.outcome) {
            by_shard.entry(by.shard.as_str()).or_default().push((by, operation));
        }
    }
    by_shard
}

/// I2: a term has one node, and nothing that begins after a term has acknowledged something is acknowledged by an
/// older one.
pub fn one_at_a_time(history: &History) -> Findings {
    let mut found = Findings::of(Invariant::I2);
    for (shard, acknowledged) in acknowledged(history) {
        let mut terms: BTreeMap<u64, (&str, Micros)> = BTreeMap::new();
        for (by, operation) in &acknowledged {
            let (node, first) = terms.entry(by.term).or_insert((&by.node, operation.end));
            *first = operation.end.min(*first);
            if *node != by.node {
                found.add(format!("{shard}: {node} and {} acknowledged in term {}", by.node, by.term));
            }
        }
        for (by, operation) in &acknowledged {
            let later = terms.range(by.term + 1..).find(|(_, (_, first))| operation.begin > *first);
            if let Some((term, (node, first))) = later {
                found.add(format!(
                    "{shard}: {} acknowledged in term {} what was begun at {} us; {node} had in term {term} at {first} us",
                    by.node, by.term, operation.begin
                ));
            }
        }
    }
    found
}

/// The longest time in which no write of a shard was acknowledged, and of which shard: from its first one on, to the end
/// of the history.
pub fn worst_outage(history: &History) -> Option<(Micros, String)> {
    let mut worst: Option<(Micros, String)> = None;
    for (shard, acknowledged) in acknowledged(history) {
        let mut ends: Vec<Micros> = acknowledged.iter().map(|(_, operation)| operation.end).collect();
        ends.push(history.end);
        ends.sort_unstable();
        let longest = ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        if worst.as_ref().is_none_or(|(known, _)| longest > *known) {
            worst = Some((longest, shard.to_owned()));
        }
    }
    worst
}

/// I4.
pub fn outages_are_short(history: &History, limits: Limits) -> Findings {
    let mut found = Findings::of(Invariant::I4);
    let Some(limit) = limits.outage_max else { return found };
    match worst_outage(history) {
        Some((outage, shard)) if outage > limit => {
            found.add(format!("no write of {shard} was acknowledged for {outage} us; the limit is {limit} us"));
        }
        Some(_) => {}
        None => found.add("no write was acknowledged at all".to_owned()),
    }
    found
}

/// I6.
pub fn record_is_true(state: &Final) -> Findings {
    let mut found = Findings::of(Invariant::I6);
    for (name, shard) in &state.shards {
        if !shard.is_recorded_open {
            found.add(format!("{name}: the store does not have it open"));
        }
        for (node, is) in &shard.nodes {
            let should = *node != shard.recorded_primary;
            if is.is_in_recovery != should {
                let primary = &shard.recorded_primary;
                let is = if is.is_in_recovery { "in recovery" } else { "a primary" };
                found.add(format!("{name}: {node} is {is}, the store has {primary} as primary"));
            }
        }
        if !shard.nodes.contains_key(&shard.recorded_primary) {
            found.add(format!("{name}: the recorded primary {} is not there", shard.recorded_primary));
        }
    }
    found
}
