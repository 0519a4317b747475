//! What changed between two topologies, as lines for people.
//!
//! Must not know: how a change is carried out.

use std::collections::BTreeMap;

use super::{BUCKETS, Node, Placement, Role, Shard, TableName, Topology};
use crate::base::{BucketId, ShardId};

/// The differences, one a line, in a fixed order; empty when the two are equal.
pub fn diff(before: &Topology, after: &Topology) -> Vec<String> {
    let mut lines = Vec::new();
    if before.epoch != after.epoch {
        lines.push(format!("epoch {} -> {}", before.epoch, after.epoch));
    }
    if before.database != after.database {
        lines.push(format!("database {} -> {}", before.database, after.database));
    }
    diff_shards(before, after, &mut lines);
    diff_nodes(before, after, &mut lines);
    diff_buckets(before, after, &mut lines);
    diff_pins(before, after, &mut lines);
    diff_tables(before, after, &mut lines);
    lines
}

fn diff_shards(before: &Topology, after: &Topology, lines: &mut Vec<String>) {
    let find = |shards: &[Shard], id| shards.iter().find(|shard| shard.id == id).cloned();
    for old in before.shards.iter().filter(|shard| find(&after.shards, shard.id).is_none()) {
        lines.push(format!("- shard {}", old.name));
    }
    for new in &after.shards {
        let Some(old) = find(&before.shards, new.id) else {
            lines.push(format!("+ shard {} (weight {})", new.name, new.weight));
            continue;
        };
        let mut changes = Vec::new();
        push_change(&mut changes, "name", &old.name, &new.name);
        push_change(&mut changes, "term", &old.term, &new.term);
        push_change(&mut changes, "weight", &old.weight, &new.weight);
        push_changes(lines, "shard", &new.name, &changes);
    }
}

fn diff_nodes(before: &Topology, after: &Topology, lines: &mut Vec<String>) {
    let find = |nodes: &[Node], id| nodes.iter().find(|node| node.id == id).cloned();
    for old in before.nodes.iter().filter(|node| find(&after.nodes, node.id).is_none()) {
        lines.push(format!("- node {}", old.name));
    }
    for new in &after.nodes {
        let Some(old) = find(&before.nodes, new.id) else {
            let shard = shard_name(after, new.shard);
            lines.push(format!(
                "+ node {} ({} of {shard} at {}:{})",
                new.name,
                role_name(new.role),
                new.host,
                new.port
            ));
            continue;
        };
        let mut changes = Vec::new();
        push_change(&mut changes, "name", &old.name, &new.name);
        push_change(&mut changes, "host", &old.host, &new.host);
        push_change(&mut changes, "port", &old.port, &new.port);
        push_change(&mut changes, "zone", &old.zone, &new.zone);
        push_change(&mut changes, "shard", &shard_name(before, old.shard), &shard_name(after, new.shard));
        push_change(&mut changes, "role", &role_name(old.role), &role_name(new.role));
        push_changes(lines, "node", &new.name, &changes);
    }
}

fn diff_buckets(before: &Topology, after: &Topology, lines: &mut Vec<String>) {
    let mut moves: BTreeMap<(ShardId, ShardId), usize> = BTreeMap::new();
    let slots = before.buckets.owners().iter().zip(after.buckets.owners()).take(BUCKETS);
    for (old, new) in slots {
        if old != new {
            *moves.entry((*old, *new)).or_default() += 1;
        }
    }
    for ((old, new), count) in moves {
        lines.push(format!("{count} buckets {} -> {}", shard_name(before, old), shard_name(after, new)));
    }
}

fn diff_pins(before: &Topology, after: &Topology, lines: &mut Vec<String>) {
    let shard = |topology: &Topology, bucket: BucketId| shard_name(topology, topology.buckets.owner(bucket));
    for (_, pin) in before.pins.iter().filter(|(_, pin)| after.pins.find(&pin.hashes).is_none()) {
        lines.push(format!("- pinned key {}", pin.name()));
    }
    for (bucket, pin) in after.pins.iter() {
        let there = shard(after, bucket);
        match before.pins.find(&pin.hashes).map(|bucket| shard(before, bucket)) {
            None => lines.push(format!("+ pinned key {} on {there}", pin.name())),
            Some(old) if old != there => lines.push(format!("~ pinned key {}: {old} -> {there}", pin.name())),
            Some(_) => {}
        }
    }
}

fn diff_tables(before: &Topology, after: &Topology, lines: &mut Vec<String>) {
    let (old_tables, new_tables) = (&before.tables.declared, &after.tables.declared);
    for (name, _) in old_tables.iter().filter(|(name, _)| !new_tables.contains_key(name)) {
        lines.push(format!("- table {}", table_name(name)));
    }
    for (name, placement) in new_tables {
        let described = placement_text(after, placement);
        match old_tables.get(name) {
            None => lines.push(format!("+ table {} {described}", table_name(name))),
            Some(old) if old != placement => {
                lines.push(format!("~ table {} {} -> {described}", table_name(name), placement_text(before, old)));
            }
            Some(_) => {}
        }
    }
    if before.tables.key_columns != after.tables.key_columns {
        let text = |rules: &[Vec<String>]| {
            let rules: Vec<String> = rules.iter().map(|key| format!("({})", key.join(", "))).collect();
            if rules.is_empty() { "none".to_owned() } else { rules.join(" ") }
        };
        let (old, new) = (text(&before.tables.key_columns), text(&after.tables.key_columns));
        lines.push(format!("~ rule key_columns {old} -> {new}"));
    }
}

fn push_change<T: PartialEq + std::fmt::Display>(changes: &mut Vec<String>, what: &str, old: &T, new: &T) {
    if old != new {
        changes.push(format!("{what} {old} -> {new}"));
    }
}

fn push_changes(lines: &mut Vec<String>, kind: &str, name: &str, changes: &[String]) {
    if !changes.is_empty() {
        lines.push(format!("~ {kind} {name}: {}", changes.join(", ")));
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Replica => "replica",
    }
}

/// The shard's name; its id when the topology does not have it.
fn shard_name(topology: &Topology, id: ShardId) -> String {
    topology.shards.iter().find(|shard| shard.id == id).map_or_else(|| id.to_string(), |shard| shard.name.clone())
}

fn table_name(name: &TableName) -> String {
    format!("{}.{}", name.schema, name.name)
}

fn placement_text(topology: &Topology, placement: &Placement) -> String {
    match placement {
        Placement::Sharded { key } => format!("sharded by ({})", key.join(", ")),
        Placement::Reference => "reference".to_owned(),
        Placement::Single { home: None } => "single".to_owned(),
        Placement::Single { home: Some(home) } => format!("single on {}", shard_name(topology, *home)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, NodeId, Term};
    use crate::topology::{BucketMap, KeyValue, Pin, Pins, TableRules, ring};

    fn one_shard() -> Topology {
        Topology {
            epoch: Epoch(1),
            database: "app".into(),
            shards: vec![Shard { id: ShardId(1), name: "s1".into(), term: Term(1), weight: 100 }],
            nodes: vec![Node {
                id: NodeId(1),
                name: "s1a".into(),
                host: "127.0.0.1".into(),
                port: 5_433,
                zone: String::new(),
                shard: ShardId(1),
                role: Role::Primary,
            }],
            buckets: BucketMap::all_to(ShardId(1)),
            pins: Pins::default(),
            tables: TableRules::default(),
        }
    }

    #[test]
    fn equal_topologies_have_no_differences() {
        assert_eq!(diff(&one_shard(), &one_shard()), Vec::<String>::new());
    }

    #[test]
    fn pinned_keys_come_move_and_go() {
        let before = one_shard();
        let pinned = Topology { epoch: Epoch(2), ..before.with_pin(Pin::new(&[KeyValue::Int(42)], vec!["42".into()])) };
        assert_eq!(diff(&before, &pinned), ["epoch 1 -> 2", "+ pinned key 42 on s1"]);
        let shards =
            vec![before.shards[0].clone(), Shard { id: ShardId(2), name: "s2".into(), ..before.shards[0].clone() }];
        let pinned = Topology { shards, ..pinned };
        let moved = Topology { buckets: pinned.buckets.with_owner(BucketId(16_384), ShardId(2)), ..pinned.clone() };
        assert_eq!(diff(&pinned, &moved), ["~ pinned key 42: s1 -> s2"]);
        let gone = moved.with_pins(|_, _| false);
        assert_eq!((diff(&moved, &gone), gone.buckets.owners().len()), (vec!["- pinned key 42".to_owned()], BUCKETS));
    }

    #[test]
    fn a_second_shard_reads_like_a_story() {
        let before = one_shard();
        let mut after = before.clone();
        after.epoch = Epoch(2);
        after.shards.push(Shard { id: ShardId(2), name: "s2".into(), term: Term(1), weight: 100 });
        let mut node = after.nodes[0].clone();
        node.id = NodeId(2);
        node.name = "s2a".into();
        node.shard = ShardId(2);
        node.port = 5_434;
        after.nodes.push(node);
        after.nodes[0].port = 6_000;
        after.buckets = ring::propose(&[(ShardId(1), 100), (ShardId(2), 100)], Some(&before.buckets));
        let table = TableName { schema: "public".into(), name: "users".into() };
        after.tables.declared.insert(table, Placement::Sharded { key: vec!["id".into()] });
        after.tables.key_columns.push(vec!["tenant_id".into()]);
        assert_eq!(
            diff(&before, &after),
            [
                "epoch 1 -> 2",
                "+ shard s2 (weight 100)",
                "~ node s1a: port 5433 -> 6000",
                "+ node s2a (primary of s2 at 127.0.0.1:5434)",
                "8029 buckets s1 -> s2",
                "+ table public.users sharded by (id)",
                "~ rule key_columns none -> (tenant_id)",
            ]
        );
    }
}
