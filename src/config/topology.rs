//! A configuration as a topology, and against the topology that the store has.

use super::error::{Position, error_at};
use super::{Config, ConfigError, ShardConfig, TableConfig, TablePlacement};
use crate::base::{Epoch, NodeId, ShardId, Term};
use crate::topology::{Node, Pins, Placement, Role, Shard, TableRules, Topology, ring};

impl Config {
    /// The topology of a new cluster: ids in the order of the file, buckets as the ring proposes.
    pub fn to_topology(&self) -> Topology {
        let ids = || (1..).map(ShardId).zip(&self.shards);
        let shards: Vec<Shard> = ids().map(|(id, shard)| new_shard(id, shard)).collect();
        let nodes = ids().flat_map(|(id, shard)| shard.nodes.iter().map(move |node| (id, node)));
        let nodes = (1..).map(NodeId).zip(nodes).map(|(id, (shard, node))| Node {
            id,
            name: node.name.clone(),
            host: node.host.clone(),
            port: node.port,
            zone: node.zone.clone(),
            shard,
            role: node.role,
        });
        let weights: Vec<(ShardId, u32)> = shards.iter().map(|shard| (shard.id, shard.weight)).collect();
        Topology {
            epoch: Epoch(1),
            database: self.proxy.database.clone(),
            nodes: nodes.collect(),
            buckets: ring::propose(&weights, None),
            pins: Pins::default(),
            tables: self.table_rules(&shards),
            shards,
        }
    }

    /// The stored topology with what the file changes: addresses, zones, weights, replicas, and the
    /// placement of tables while there is one shard. The same topology when nothing changed, else one
    /// with the next epoch. What moves rows is never done by editing the file.
    ///
    /// Shards and nodes are known by their names. Roles, terms and bucket owners are the store's: a
    /// failover or a reshard may have changed them since the file was written.
    ///
    /// # Errors
    /// Everything in the file that would need rows to move or would leave a shard without its primary.
    pub fn reconcile(&self, stored: &Topology) -> Result<Topology, Vec<ConfigError>> {
        let mut merge = Merge { config: self, errors: Vec::new(), next: stored.clone() };
        if stored.database != self.proxy.database {
            let message = format!("the store is of the database {}", stored.database);
            merge.refuse(START, message, "keep [proxy] database, or take another data directory");
        }
        merge.shards(stored);
        merge.nodes(stored);
        merge.tables(stored);
        if !merge.errors.is_empty() {
            return Err(merge.errors);
        }
        if merge.next != *stored {
            merge.next.epoch = Epoch(stored.epoch.0 + 1);
        }
        Ok(merge.next)
    }

    fn table_rules(&self, shards: &[Shard]) -> TableRules {
        let declared = self.tables.iter().map(|table| (table.name.clone(), placement(table, shards)));
        TableRules { declared: declared.collect(), key_columns: self.key_columns.clone() }
    }
}

const START: Position = Position { line: 1, column: 1 };

fn new_shard(id: ShardId, shard: &ShardConfig) -> Shard {
    Shard { id, name: shard.name.clone(), term: Term(1), weight: shard.weight }
}

fn placement(table: &TableConfig, shards: &[Shard]) -> Placement {
    match &table.placement {
        TablePlacement::Sharded { key } => Placement::Sharded { key: key.clone() },
        TablePlacement::Reference => Placement::Reference,
        TablePlacement::Single { home } => {
            let id = |home: &String| shards.iter().find(|shard| shard.name == *home).map(|shard| shard.id);
            Placement::Single { home: home.as_ref().and_then(id) }
        }
    }
}

struct Merge<'c> {
    config: &'c Config,
    errors: Vec<ConfigError>,
    next: Topology,
}

impl Merge<'_> {
    fn refuse(&mut self, position: Position, message: String, hint: &str) {
        self.errors.push(error_at(&self.config.file_name, position, message, Some(hint.to_owned())));
    }

    /// A shard that joins needs the schema and the reference tables, one that leaves must be empty:
    /// neither can be had by editing the file.
    fn shards(&mut self, stored: &Topology) {
        for shard in &self.config.shards {
            match self.next.shards.iter_mut().find(|known| known.name == shard.name) {
                Some(known) => known.weight = shard.weight,
                None => {
                    let message = format!("the shard {} is not in the store", shard.name);
                    self.refuse(shard.position, message, "a shard joins a cluster by resharding");
                }
            }
        }
        for known in &stored.shards {
            if !self.config.shards.iter().any(|shard| shard.name == known.name) {
                let owned = stored.bucket_count(known.id);
                let message = format!("the shard {} is not in the file, but owns {owned} buckets", known.name);
                self.refuse(START, message, "put it back; a shard leaves a cluster by resharding");
            }
        }
    }

    fn nodes(&mut self, stored: &Topology) {
        let mut id = stored.nodes.iter().map(|node| node.id.0).max().unwrap_or_default();
        for shard in &self.config.shards {
            let Some(shard_id) = self.next.shards.iter().find(|known| known.name == shard.name).map(|known| known.id)
            else {
                continue;
            };
            for node in &shard.nodes {
                let Some(known) = self.next.nodes.iter_mut().find(|known| known.name == node.name) else {
                    id += 1;
                    self.next.nodes.push(Node {
                        id: NodeId(id),
                        name: node.name.clone(),
                        host: node.host.clone(),
                        port: node.port,
                        zone: node.zone.clone(),
                        shard: shard_id,
                        // The shard has its primary: what joins is a replica.
                        role: Role::Replica,
                    });
                    continue;
                };
                if known.shard == shard_id {
                    known.host.clone_from(&node.host);
                    known.port = node.port;
                    known.zone.clone_from(&node.zone);
                } else {
                    let message = format!("the node {} belongs to another shard in the store", node.name);
                    self.refuse(node.position, message, "give the node another name, or put it back");
                }
            }
        }
        let named: Vec<&str> =
            self.config.shards.iter().flat_map(|shard| &shard.nodes).map(|node| node.name.as_str()).collect();
        self.next.nodes.retain(|node| named.contains(&node.name.as_str()));
        for shard in self.next.shards.clone() {
            if self.next.primary(shard.id).is_none() {
                let gone = stored.primary(shard.id).map_or("", |node| node.name.as_str());
                let message = format!("the node {gone} is not in the file, but is the primary of {}", shard.name);
                self.refuse(START, message, "put it back, or switch over to another node first");
            }
        }
    }

    /// While there is one shard, declaring moves no row.
    fn tables(&mut self, stored: &Topology) {
        let wanted = self.config.table_rules(&self.next.shards);
        if stored.shards.len() == 1 {
            self.next.tables.key_columns = wanted.key_columns;
            self.next.tables.declared.extend(wanted.declared);
            return;
        }
        if wanted.key_columns != stored.tables.key_columns {
            let message = "key_columns differs from what the store has".to_owned();
            self.refuse(START, message, "tables that exist would have to move: declare them with `ostrakon table`");
        }
        for table in &self.config.tables {
            if wanted.declared.get(&table.name) != stored.tables.declared.get(&table.name) {
                let message =
                    format!("the table {}.{} is placed otherwise in the store", table.name.schema, table.name.name);
                self.refuse(table.position, message, "use `ostrakon table`, which looks after the rows");
            }
        }
    }
}
