//! I1 and I3: what was acknowledged is there, once, on every node; what was rolled back is nowhere.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Final, Findings, History, Invariant, Operation, Outcome, What};

/// I1, for all kinds of writes.
pub fn acknowledged_is_there(history: &History, state: &Final) -> Findings {
    let mut found = Findings::of(Invariant::I1);
    inserts(history, state, &mut found);
    transfers(history, state, &mut found);
    increments(history, state, &mut found);
    swaps(history, state, &mut found);
    lists(history, state, &mut found);
    cells(history, state, &mut found);
    found
}

/// A node, and how often it has each key.
type Counts<'a> = (&'a str, HashMap<i64, usize>);

/// How often each shard has each key: once on every of its nodes, or not at all.
struct Places<'a> {
    /// Shard, then node, then key.
    by_shard: Vec<(&'a str, Vec<Counts<'a>>)>,
}

impl<'a> Places<'a> {
    fn of(state: &'a Final) -> Self {
        let counted = |keys: &[i64]| {
            let mut counts = HashMap::with_capacity(keys.len());
            keys.iter().for_each(|key| *counts.entry(*key).or_insert(0) += 1);
            counts
        };
        let nodes = |shard: &'a super::Shard| {
            shard.nodes.iter().map(|(name, node)| (name.as_str(), counted(&node.contents.inserts))).collect()
        };
        Self { by_shard: state.shards.iter().map(|(name, shard)| (name.as_str(), nodes(shard))).collect() }
    }

    /// Where it is, for people: empty when it is on all nodes of exactly one shard, once.
    fn wrong(&self, key: i64) -> Option<String> {
        let count = |nodes: &[(&str, HashMap<i64, usize>)]| -> Vec<usize> {
            nodes.iter().map(|(_, keys)| keys.get(&key).copied().unwrap_or(0)).collect()
        };
        let having: Vec<Vec<usize>> = self
            .by_shard
            .iter()
            .map(|(_, nodes)| count(nodes))
            .filter(|counts| counts.iter().any(|n| *n > 0))
            .collect();
        if having.len() == 1 && having[0].iter().all(|count| *count == 1) {
            return None;
        }
        let mut places = Vec::new();
        for (shard, nodes) in &self.by_shard {
            for (node, keys) in nodes {
                places.push(format!("{shard}/{node} {}", keys.get(&key).copied().unwrap_or(0)));
            }
        }
        Some(places.join(", "))
    }

    fn is_anywhere(&self, key: i64) -> bool {
        self.by_shard.iter().any(|(_, nodes)| nodes.iter().any(|(_, keys)| keys.contains_key(&key)))
    }
}

fn with_outcome(history: &History, outcome: Outcome) -> impl Iterator<Item = &Operation> {
    history.operations.iter().filter(move |operation| operation.outcome == outcome)
}

fn inserts(history: &History, state: &Final, found: &mut Findings) {
    let places = Places::of(state);
    for operation in with_outcome(history, Outcome::Acknowledged) {
        let What::Insert { key, by } = &operation.what else { continue };
        if let Some(wrong) = places.wrong(*key) {
            let by = by.as_ref().map_or_else(|| "?".to_owned(), |by| format!("{} in term {}", by.node, by.term));
            found.add(format!("row {key}, acknowledged by {by} at {} us, is at: {wrong}", operation.end));
        }
    }
    // What nobody knows of may be there or not, but nowhere twice or on some nodes only.
    for operation in with_outcome(history, Outcome::Unknown) {
        let What::Insert { key, .. } = &operation.what else { continue };
        if let Some(wrong) = places.wrong(*key).filter(|_| places.is_anywhere(*key)) {
            found.add(format!("row {key} of unknown outcome is at: {wrong}"));
        }
    }
}

fn transfers(history: &History, state: &Final, found: &mut Findings) {
    let mut counts: HashMap<i64, usize> = HashMap::new();
    for contents in state.primaries() {
        contents.transfers.iter().for_each(|(id, ..)| *counts.entry(*id).or_insert(0) += 1);
    }
    for operation in with_outcome(history, Outcome::Acknowledged) {
        let What::Transfer { id, .. } = operation.what else { continue };
        let count = counts.get(&id).copied().unwrap_or(0);
        if count != 1 {
            found.add(format!("transfer {id}, acknowledged at {} us, is there {count} times", operation.end));
        }
    }
}

/// An increment shows: each gives another value, later ones greater values, and the register ends where they say.
fn increments(history: &History, state: &Final, found: &mut Findings) {
    let mut registers: BTreeMap<i64, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        if let What::Increment { register, .. } = operation.what {
            registers.entry(register).or_default().push(operation);
        }
    }
    for (register, operations) in registers {
        let count = |outcome| operations.iter().filter(|operation| operation.outcome == outcome).count();
        let (done, unknown) = (count(Outcome::Acknowledged), count(Outcome::Unknown));
        let value = state.primaries().find_map(|contents| contents.registers.get(&register)).copied();
        let value = value.and_then(|value| usize::try_from(value).ok());
        if value.is_none_or(|value| value < done) {
            found.add(format!("register {register} is {value:?} after {done} increments and {unknown} unknown ones"));
        }
        let mut seen: Vec<(i64, &Operation)> = operations
            .iter()
            .filter_map(|operation| match (&operation.what, operation.outcome) {
                (What::Increment { value: Some(value), .. }, Outcome::Acknowledged) => Some((*value, *operation)),
                _ => None,
            })
            .collect();
        seen.sort_by_key(|(value, _)| *value);
        for pair in seen.windows(2) {
            let ((first, earlier), (second, later)) = (pair[0], pair[1]);
            if first == second {
                found.add(format!("two increments of register {register} gave {first}"));
            } else if later.end < earlier.begin {
                found.add(format!("register {register} became {second} before an increment that made it {first}"));
            }
        }
    }
}

/// From the last value back to the first one by what wrote each: every acknowledged swap is on the way.
fn swaps(history: &History, state: &Final, found: &mut Findings) {
    let mut by_register: BTreeMap<i64, HashMap<i64, (i64, Outcome)>> = BTreeMap::new();
    for operation in &history.operations {
        let What::Swap { register, from, to, is_swapped } = operation.what else { continue };
        if operation.outcome != Outcome::RolledBack && is_swapped != Some(false) {
            by_register.entry(register).or_default().insert(to, (from, operation.outcome));
        }
    }
    for (register, writes) in by_register {
        let mut value = state.primaries().find_map(|contents| contents.registers.get(&register)).copied();
        let mut met = HashSet::new();
        while let Some((from, _)) = value.and_then(|value| writes.get(&value)) {
            if !met.insert(value) {
                break;
            }
            value = Some(*from);
        }
        for (to, (from, outcome)) in &writes {
            if *outcome == Outcome::Acknowledged && !met.contains(&Some(*to)) {
                found.add(format!("register {register}: {from} was swapped for {to}, and nothing came of it"));
            }
        }
    }
}

/// Elements of each list that were asked for, by outcome, and the list as it is.
fn lists(history: &History, state: &Final, found: &mut Findings) {
    let mut appended: BTreeMap<i64, Vec<(i64, &Operation)>> = BTreeMap::new();
    for operation in &history.operations {
        if let What::Append { list, element } = operation.what {
            appended.entry(list).or_default().push((element, operation));
        }
    }
    for (list, operations) in appended {
        let is = state.primaries().find_map(|contents| contents.lists.get(&list)).cloned().unwrap_or_default();
        let mut places: HashMap<i64, Vec<usize>> = HashMap::new();
        is.iter().enumerate().for_each(|(place, element)| places.entry(*element).or_default().push(place));
        let mut there: Vec<(usize, &Operation)> = Vec::new();
        for (element, operation) in &operations {
            let at = places.get(element).map_or(&[][..], Vec::as_slice);
            match operation.outcome {
                Outcome::Acknowledged if at.len() != 1 => {
                    found
                        .add(format!("element {element} of list {list} was acknowledged, is there {} times", at.len()));
                }
                Outcome::Unknown if at.len() > 1 => {
                    found.add(format!("element {element} of list {list} is there {} times", at.len()));
                }
                _ => {}
            }
            there.extend(at.first().map(|place| (*place, *operation)));
        }
        there.sort_by_key(|(place, _)| *place);
        // The greatest beginning so far: nothing after it may have ended before.
        let mut begun = 0;
        for (place, operation) in there {
            if operation.outcome == Outcome::Acknowledged && operation.end < begun {
                found.add(format!("list {list}: the element at {place} was acknowledged before one before it began"));
            }
            begun = begun.max(operation.begin);
        }
    }
}

/// A cell has its last acknowledged value or a later one that was tried.
fn cells(history: &History, state: &Final, found: &mut Findings) {
    let mut last: BTreeMap<i64, i64> = BTreeMap::new();
    for operation in with_outcome(history, Outcome::Acknowledged) {
        if let What::Write { cell, value } = operation.what {
            let known = last.entry(cell).or_insert(value);
            *known = (*known).max(value);
        }
    }
    for (cell, value) in last {
        let is = state.primaries().find_map(|contents| contents.cells.get(&cell)).copied();
        if is.is_none_or(|is| is < value) {
            found.add(format!("cell {cell} is {is:?}, {value} was acknowledged"));
        }
    }
}

/// I3, for all kinds of writes.
pub fn rolled_back_is_nowhere(history: &History, state: &Final) -> Findings {
    let mut found = Findings::of(Invariant::I3);
    let places = Places::of(state);
    let transfers: HashSet<i64> = state.primaries().flat_map(|contents| &contents.transfers).map(|row| row.0).collect();
    let elements: HashSet<(i64, i64)> = state
        .primaries()
        .flat_map(|contents| &contents.lists)
        .flat_map(|(list, elements)| elements.iter().map(|element| (*list, *element)))
        .collect();
    for operation in with_outcome(history, Outcome::RolledBack) {
        let is_there = match &operation.what {
            What::Insert { key, .. } => places.is_anywhere(*key),
            What::Transfer { id, .. } => transfers.contains(id),
            What::Append { list, element } => elements.contains(&(*list, *element)),
            What::Swap { register, to, .. } => {
                state.primaries().any(|contents| contents.registers.get(register) == Some(to))
            }
            What::Write { cell, value } => state.primaries().any(|contents| contents.cells.get(cell) == Some(value)),
            What::Increment { .. } | What::Read { .. } => false,
        };
        if is_there {
            found.add(format!("rolled back at {} us, and there: {:?}", operation.end, operation.what));
        }
    }
    increments_are_not_more(history, state, &mut found);
    found
}

fn increments_are_not_more(history: &History, state: &Final, found: &mut Findings) {
    let mut possible: BTreeMap<i64, i64> = BTreeMap::new();
    for operation in &history.operations {
        if let What::Increment { register, .. } = operation.what {
            *possible.entry(register).or_insert(0) += i64::from(operation.outcome != Outcome::RolledBack);
        }
    }
    for (register, most) in possible {
        let value = state.primaries().find_map(|contents| contents.registers.get(&register)).copied().unwrap_or(0);
        if value > most {
            found.add(format!("register {register} is {value}; {most} increments were not rolled back"));
        }
    }
}
