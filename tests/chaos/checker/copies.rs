//! I5: after repair all nodes of a shard have the same, on the same timeline.

use super::{Final, Findings, Invariant};

/// I5.
pub fn are_equal(state: &Final) -> Findings {
    let mut found = Findings::of(Invariant::I5);
    for (name, shard) in &state.shards {
        let Some((first, model)) = shard.nodes.iter().next() else {
            found.add(format!("{name} has no nodes"));
            continue;
        };
        for (node, is) in shard.nodes.iter().skip(1) {
            if is.timeline != model.timeline {
                found.add(format!("{name}: {first} is on timeline {}, {node} on {}", model.timeline, is.timeline));
            }
            let (left, right) = (&model.contents, &is.contents);
            let parts = [
                ("inserts", left.inserts != right.inserts),
                ("registers", left.registers != right.registers),
                ("accounts", left.accounts != right.accounts),
                ("transfers", left.transfers != right.transfers),
                ("lists", left.lists != right.lists),
                ("cells", left.cells != right.cells),
            ];
            for (part, _) in parts.iter().filter(|(_, differs)| *differs) {
                found.add(format!("{name}: {part} of {first} and {node} differ"));
            }
        }
    }
    found
}
