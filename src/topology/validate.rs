//! What must hold of a topology, whoever made it.
//!
//! Must not know: where the topology came from, so it names things by their names, not by positions in
//! a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::pin::PINS_MAX;
use super::{BUCKETS, Placement, Role, TableName, Topology};
use crate::base::ShardId;

/// One thing that is wrong with a topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it is about: `shard s1`, `node s1a`, `table public.users`.
    pub subject: String,
    /// What is wrong.
    pub message: String,
}

impl Problem {
    fn new(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { subject: subject.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.subject, self.message)
    }
}

/// Checks one topology by itself.
///
/// # Errors
/// Everything that is wrong, not only the first.
pub fn validate(topology: &Topology) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    if topology.epoch.0 == 0 {
        problems.push(Problem::new("topology", "epoch 0 is not a version: epochs count from 1"));
    }
    if topology.database.is_empty() {
        problems.push(Problem::new("topology", "the database has no name"));
    }
    check_shards(topology, &mut problems);
    check_nodes(topology, &mut problems);
    check_buckets(topology, &mut problems);
    check_pins(topology, &mut problems);
    check_tables(topology, &mut problems);
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Checks that one topology may follow another: epochs and terms only grow.
///
/// # Errors
/// Everything that went back.
pub fn validate_succession(before: &Topology, after: &Topology) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    if after.epoch <= before.epoch {
        problems
            .push(Problem::new("topology", format!("epoch {} does not follow epoch {}", after.epoch, before.epoch)));
    }
    for shard in &after.shards {
        let earlier = before.shards.iter().find(|earlier| earlier.id == shard.id);
        if let Some(earlier) = earlier.filter(|earlier| earlier.term > shard.term) {
            let message = format!("term {} would follow term {}", shard.term, earlier.term);
            problems.push(Problem::new(format!("shard {}", shard.name), message));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Whether a shard or node may have this name: it appears in file names, labels and commands.
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-')
}

/// Reports every value that comes a second time.
fn report_repeated<T: Ord>(values: impl Iterator<Item = (T, Problem)>, problems: &mut Vec<Problem>) {
    let mut seen = BTreeSet::new();
    for (value, problem) in values {
        if !seen.insert(value) {
            problems.push(problem);
        }
    }
}

fn check_name(kind: &str, name: &str, problems: &mut Vec<Problem>) {
    if !is_name(name) {
        problems.push(Problem::new(
            format!("{kind} {name:?}"),
            "a name has 1 to 63 letters, digits, underscores and hyphens, and does not begin with a hyphen",
        ));
    }
}

fn check_shards(topology: &Topology, problems: &mut Vec<Problem>) {
    let shards = &topology.shards;
    if shards.is_empty() {
        problems.push(Problem::new("topology", "there is no shard"));
    }
    let subject = |name: &str| format!("shard {name}");
    for shard in shards {
        check_name("shard", &shard.name, problems);
        if shard.id.0 == 0 {
            problems.push(Problem::new(subject(&shard.name), "id 0 is not used: ids count from 1"));
        }
        let primaries = topology
            .nodes
            .iter()
            .filter(|node| node.shard == shard.id && node.role == Role::Primary)
            .map(|node| node.name.as_str())
            .collect::<Vec<_>>();
        match primaries.as_slice() {
            [_] => {}
            [] => problems.push(Problem::new(subject(&shard.name), "it has no primary")),
            several => problems.push(Problem::new(
                subject(&shard.name),
                format!("it has {} primaries: {}", several.len(), several.join(", ")),
            )),
        }
    }
    let ids = shards.iter().map(|shard| {
        (shard.id.0, Problem::new(subject(&shard.name), format!("id {} is another shard's too", shard.id.0)))
    });
    report_repeated(ids, problems);
    let names = shards
        .iter()
        .map(|shard| (shard.name.as_str(), Problem::new(subject(&shard.name), "two shards have this name")));
    report_repeated(names, problems);
    if !shards.is_sorted_by_key(|shard| shard.id) {
        problems.push(Problem::new("topology", "shards are not in order of their ids"));
    }
}

fn check_nodes(topology: &Topology, problems: &mut Vec<Problem>) {
    let nodes = &topology.nodes;
    let subject = |name: &str| format!("node {name}");
    for node in nodes {
        check_name("node", &node.name, problems);
        if node.id.0 == 0 {
            problems.push(Problem::new(subject(&node.name), "id 0 is not used: ids count from 1"));
        }
        if node.host.is_empty() {
            problems.push(Problem::new(subject(&node.name), "it has no host"));
        }
        if node.port == 0 {
            problems.push(Problem::new(subject(&node.name), "port 0 cannot be reached"));
        }
        if !topology.shards.iter().any(|shard| shard.id == node.shard) {
            problems.push(Problem::new(subject(&node.name), format!("its shard {} does not exist", node.shard)));
        }
    }
    let ids = nodes
        .iter()
        .map(|node| (node.id.0, Problem::new(subject(&node.name), format!("id {} is another node's too", node.id.0))));
    report_repeated(ids, problems);
    let names =
        nodes.iter().map(|node| (node.name.as_str(), Problem::new(subject(&node.name), "two nodes have this name")));
    report_repeated(names, problems);
    let addresses = nodes.iter().map(|node| {
        let message = format!("{}:{} is another node's address too", node.host, node.port);
        ((node.host.as_str(), node.port), Problem::new(subject(&node.name), message))
    });
    report_repeated(addresses, problems);
    if !nodes.is_sorted_by_key(|node| node.id) {
        problems.push(Problem::new("topology", "nodes are not in order of their ids"));
    }
}

fn check_buckets(topology: &Topology, problems: &mut Vec<Problem>) {
    let mut strangers: BTreeMap<ShardId, usize> = BTreeMap::new();
    for owner in topology.buckets.owners() {
        if !topology.shards.iter().any(|shard| shard.id == *owner) {
            *strangers.entry(*owner).or_default() += 1;
        }
    }
    for (owner, count) in strangers {
        let message = format!("{count} buckets belong to shard {owner}, which does not exist");
        problems.push(Problem::new("topology", message));
    }
}

fn check_pins(topology: &Topology, problems: &mut Vec<Problem>) {
    let (pins, owners) = (&topology.pins, topology.buckets.owners().len());
    if owners != BUCKETS + pins.len() || pins.len() > PINS_MAX {
        let message = format!("{owners} owners do not belong to {BUCKETS} buckets and {} pinned keys", pins.len());
        problems.push(Problem::new("topology", message));
    }
    for (_, pin) in pins.iter() {
        if pin.hashes.is_empty() || pin.hashes.len() != pin.values.len() {
            problems.push(Problem::new(format!("pinned key {}", pin.name()), "it has no value, or not one a column"));
        }
    }
    let keys = pins
        .iter()
        .map(|(_, pin)| (pin.hashes.clone(), Problem::new(format!("pinned key {}", pin.name()), "it is pinned twice")));
    report_repeated(keys, problems);
}

fn check_tables(topology: &Topology, problems: &mut Vec<Problem>) {
    for (table, placement) in &topology.tables.declared {
        let subject = format!("table {}.{}", table.schema, table.name);
        let TableName { schema, name } = table;
        if schema.is_empty() || name.is_empty() {
            problems.push(Problem::new(&subject, "a table has a schema and a name"));
        }
        match placement {
            Placement::Sharded { key } => check_key(&subject, key, problems),
            Placement::Single { home: Some(home) } if !topology.shards.iter().any(|shard| shard.id == *home) => {
                problems.push(Problem::new(subject, format!("its home {home} does not exist")));
            }
            Placement::Single { .. } | Placement::Reference => {}
        }
    }
    for key in &topology.tables.key_columns {
        check_key("rule key_columns", key, problems);
    }
    let rules = topology
        .tables
        .key_columns
        .iter()
        .map(|key| (key, Problem::new("rule key_columns", format!("({}) is there twice", key.join(", ")))));
    report_repeated(rules, problems);
}

fn check_key(subject: &str, key: &[String], problems: &mut Vec<Problem>) {
    if key.is_empty() {
        problems.push(Problem::new(subject, "a sharding key has at least one column"));
    }
    if key.iter().any(String::is_empty) {
        problems.push(Problem::new(subject, "a key column has no name"));
    }
    let columns =
        key.iter().map(|column| (column, Problem::new(subject, format!("key column {column} is there twice"))));
    report_repeated(columns, problems);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, NodeId, Term};
    use crate::topology::{BucketMap, KeyValue, Node, Pin, Pins, Shard, TableRules};

    fn sound() -> Topology {
        let shard = |id: u32| Shard { id: ShardId(id), name: format!("s{id}"), term: Term(1), weight: 100 };
        let node = |id: u32, shard: u32, role| Node {
            id: NodeId(id),
            name: format!("n{id}"),
            host: "127.0.0.1".into(),
            port: 5_430 + id as u16,
            zone: String::new(),
            shard: ShardId(shard),
            role,
        };
        Topology {
            epoch: Epoch(1),
            database: "app".into(),
            shards: vec![shard(1), shard(2)],
            nodes: vec![node(1, 1, Role::Primary), node(2, 1, Role::Replica), node(3, 2, Role::Primary)],
            buckets: BucketMap::all_to(ShardId(1)),
            pins: Pins::default(),
            tables: TableRules::default(),
        }
    }

    fn problems(change: impl FnOnce(&mut Topology)) -> Vec<String> {
        let mut topology = sound();
        change(&mut topology);
        validate(&topology).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_sound_topology_passes() {
        assert_eq!(validate(&sound()), Ok(()));
    }

    #[test]
    fn each_shard_has_exactly_one_primary() {
        assert_eq!(problems(|t| t.nodes[1].role = Role::Primary), ["shard s1: it has 2 primaries: n1, n2"]);
        assert_eq!(problems(|t| t.nodes[2].role = Role::Replica), ["shard s2: it has no primary"]);
    }

    #[test]
    fn names_ids_and_addresses_are_unique() {
        assert_eq!(problems(|t| t.shards[1].name = "s1".into()), ["shard s1: two shards have this name"]);
        assert_eq!(problems(|t| t.nodes[1].name = "n1".into()), ["node n1: two nodes have this name"]);
        assert_eq!(problems(|t| t.nodes[1].id = NodeId(1)), ["node n2: id 1 is another node's too"]);
        assert_eq!(problems(|t| t.nodes[1].port = 5_431), ["node n2: 127.0.0.1:5431 is another node's address too"]);
    }

    #[test]
    fn references_lead_somewhere() {
        assert_eq!(problems(|t| t.nodes[1].shard = ShardId(9)), ["node n2: its shard s9 does not exist"]);
        assert_eq!(
            problems(|t| t.buckets = BucketMap::all_to(ShardId(7))),
            ["topology: 16384 buckets belong to shard s7, which does not exist"]
        );
        let home = Placement::Single { home: Some(ShardId(9)) };
        let name = TableName { schema: "public".into(), name: "t".into() };
        assert_eq!(
            problems(|t| drop(t.tables.declared.insert(name, home))),
            ["table public.t: its home s9 does not exist"]
        );
    }

    #[test]
    fn each_pinned_key_has_one_owner() {
        let pin = |key| Pin::new(&[KeyValue::Int(key)], vec![key.to_string()]);
        assert_eq!(validate(&sound().with_pin(pin(7))), Ok(()));
        assert_eq!(problems(|t| *t = t.with_pin(pin(7)).with_pin(pin(7))), ["pinned key 7: it is pinned twice"]);
        assert_eq!(
            problems(|t| t.pins = Pins::new(vec![pin(7)])),
            ["topology: 16384 owners do not belong to 16384 buckets and 1 pinned keys"]
        );
    }

    #[test]
    fn keys_have_columns_and_each_once() {
        assert_eq!(
            problems(|t| t.tables.key_columns = vec![vec![], vec!["a".into(), "a".into()]]),
            [
                "rule key_columns: a sharding key has at least one column",
                "rule key_columns: key column a is there twice"
            ]
        );
    }

    #[test]
    fn odd_names_are_refused() {
        assert_eq!(problems(|t| t.nodes[1].name = "a b".into()).len(), 1);
        assert!(is_name("eu-1_a") && !is_name("") && !is_name("-a") && !is_name("a/b"));
    }

    #[test]
    fn epochs_and_terms_only_grow() {
        let before = sound();
        let mut after = sound();
        assert!(validate_succession(&before, &after).is_err());
        after.epoch = Epoch(2);
        assert_eq!(validate_succession(&before, &after), Ok(()));
        after.shards[0].term = Term(0);
        let problems = validate_succession(&before, &after).unwrap_err();
        assert_eq!(problems[0].to_string(), "shard s1: term 0 would follow term 1");
    }
}
