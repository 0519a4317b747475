//! What the parts of a configuration must be to each other.

use std::collections::HashMap;
use std::hash::Hash;

use super::error::{Position, Report, nearest};
use super::tls::CA_HINT;
use super::{Config, NodeConfig, TablePlacement};
use crate::net::tls::TlsMode;
use crate::topology::Role;
use crate::topology::validate::is_name;

const NAME_HINT: &str = "a name has 1 to 63 letters, digits, underscores and hyphens, and does not begin with a hyphen";

/// Reports what does not fit together.
pub(super) fn check(config: &Config, report: &mut Report) {
    check_shards(config, report);
    check_nodes(config, report);
    check_tables(config, report);
    if let Some(failover) = &config.failover {
        super::failover::check(failover, &config.shards, report);
    }
    let users = config.users.iter().map(|user| (&user.name, format!("the user {}", user.name), user.position));
    report_repeated(users, report);
}

fn check_shards(config: &Config, report: &mut Report) {
    if config.shards.is_empty() {
        let hint = "add a section [[shards]] with a name, and [[shards.nodes]] below it".to_owned();
        report.at(Position { line: 1, column: 1 }, "there is no shard", Some(hint));
    }
    for shard in &config.shards {
        // An empty name has been reported as missing.
        if !shard.name.is_empty() && !is_name(&shard.name) {
            report.at(
                shard.position,
                format!("{:?} cannot be the name of a shard", shard.name),
                Some(NAME_HINT.into()),
            );
        }
        check_primary(&shard.name, shard.position, &shard.nodes, report);
    }
    let names = config.shards.iter().filter(|shard| !shard.name.is_empty());
    report_repeated(names.map(|shard| (&shard.name, format!("the shard {}", shard.name), shard.position)), report);
}

fn check_primary(shard: &str, position: Position, nodes: &[NodeConfig], report: &mut Report) {
    let mut primaries = nodes.iter().filter(|node| node.role == Role::Primary);
    match (primaries.next(), primaries.next()) {
        (Some(_), None) => {}
        (Some(first), Some(second)) => {
            let message = format!("the shard {shard} has two primaries: {} and {}", first.name, second.name);
            report.at(second.position, message, Some("write role = \"replica\" for one of them".to_owned()));
        }
        (None, _) if nodes.is_empty() => {
            let hint = "add [[shards.nodes]] with name, host and port below it".to_owned();
            report.at(position, format!("the shard {shard} has no node"), Some(hint));
        }
        (None, _) => {
            let hint = "write role = \"primary\" for one of its nodes".to_owned();
            report.at(position, format!("the shard {shard} has no primary"), Some(hint));
        }
    }
}

fn check_nodes(config: &Config, report: &mut Report) {
    let nodes = || config.shards.iter().flat_map(|shard| &shard.nodes);
    for node in nodes() {
        if !node.name.is_empty() && !is_name(&node.name) {
            report.at(node.position, format!("{:?} cannot be the name of a node", node.name), Some(NAME_HINT.into()));
        }
    }
    for node in nodes().filter(|node| node.tls.is_some_and(TlsMode::verifies)) {
        if config.servers_tls.connect.ca.is_none() {
            report.at(node.position, format!("the TLS of node {} needs a CA", node.name), Some(CA_HINT.to_owned()));
        }
    }
    let names = nodes().filter(|node| !node.name.is_empty());
    report_repeated(names.map(|node| (&node.name, format!("the node {}", node.name), node.position)), report);
    let addresses = nodes()
        .filter(|node| !node.host.is_empty())
        .map(|node| ((&node.host, node.port), format!("the address {}:{}", node.host, node.port), node.position));
    report_repeated(addresses, report);
}

fn check_tables(config: &Config, report: &mut Report) {
    for table in &config.tables {
        let TablePlacement::Single { home: Some(home) } = &table.placement else { continue };
        if !config.shards.iter().any(|shard| shard.name == *home) {
            let names = || config.shards.iter().map(|shard| shard.name.as_str());
            let hint = match nearest(home, names()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known shards: {}", names().collect::<Vec<_>>().join(", ")),
            };
            report.at(table.position, format!("the home {home} is no shard"), Some(hint));
        }
    }
    let names = config
        .tables
        .iter()
        .map(|table| (&table.name, format!("the table {}.{}", table.name.schema, table.name.name), table.position));
    report_repeated(names, report);
}

/// Reports everything that is there a second time, and where it was first.
fn report_repeated<T: Eq + Hash>(things: impl Iterator<Item = (T, String, Position)>, report: &mut Report) {
    let mut first: HashMap<T, Position> = HashMap::new();
    for (thing, what, position) in things {
        match first.get(&thing) {
            Some(earlier) => {
                let hint = format!("it was first on line {}", earlier.line);
                report.at(position, format!("{what} is there twice"), Some(hint));
            }
            None => {
                first.insert(thing, position);
            }
        }
    }
}
