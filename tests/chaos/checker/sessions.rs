//! I7 and I9: what a session sees, and that it goes on.

use std::collections::BTreeMap;

use super::{Findings, History, Invariant, Limits, Operation, Outcome, What};

/// I7: of a cell that only this session writes it reads what it was told that it wrote, or more; and never less than
/// it has read.
pub fn see_what_they_wrote(history: &History) -> Findings {
    let mut found = Findings::of(Invariant::I7);
    let mut operations: Vec<&Operation> = history.operations.iter().collect();
    operations.sort_by_key(|operation| operation.begin);
    let mut known: BTreeMap<(u32, i64), i64> = BTreeMap::new();
    let mut tried: BTreeMap<(u32, i64), i64> = BTreeMap::new();
    for operation in operations {
        match operation.what {
            What::Write { cell, value } => {
                let of = (operation.client, cell);
                if operation.outcome != Outcome::RolledBack {
                    tried.entry(of).and_modify(|most| *most = value.max(*most)).or_insert(value);
                }
                if operation.outcome == Outcome::Acknowledged {
                    known.insert(of, value.max(known.get(&of).copied().unwrap_or(value)));
                }
            }
            What::Read { cell, value } if operation.outcome == Outcome::Acknowledged => {
                let of = (operation.client, cell);
                let (least, most) = (known.get(&of).copied().unwrap_or(0), tried.get(&of).copied().unwrap_or(0));
                match value {
                    Some(value) if value >= least && value <= most => {
                        known.insert(of, value);
                    }
                    value => found.add(format!(
                        "client {} read {value:?} in its cell {cell} at {} us, and knows of {least} to {most}",
                        operation.client, operation.begin
                    )),
                }
            }
            _ => {}
        }
    }
    found
}

/// I9.
pub fn keep_connections(history: &History, limits: Limits) -> Findings {
    let mut found = Findings::of(Invariant::I9);
    if limits.keeps_connections && history.dropped > 0 {
        found.add(format!("{} connections of clients ended", history.dropped));
    }
    found
}
