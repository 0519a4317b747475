//! TABLE SHARD, REFERENCE, SINGLE: where the rows of a table are to be.

use std::sync::Arc;
use std::time::Duration;

use super::command::Wanted;
use super::{Admin, store_error};
use crate::backend::Connection;
use crate::base::{Epoch, ShardId};
use crate::control::client::quote_identifier;
use crate::error::{ClientError, ErrorId};
use crate::executor::shard_name;
use crate::planner;
use crate::store::{load_topology, save_topology};
use crate::topology::schema::{Relation, RelationKind, Schema};
use crate::topology::{Placement, TableName, Topology};

/// How long a declaration waits for statements and transactions under the old epoch. New ones wait
/// behind it for as long, so it is short.
const QUIET_MS_MAX: u64 = 2_000;

/// Tries to save a topology that others change at the same time.
const TRIES_MAX: usize = 5;

impl Admin {
    /// Declares a table; `dry_run`: only looks whether that may be.
    ///
    /// # Errors
    /// The key does not fit the table, it holds rows that would be on the wrong shard, transactions
    /// stay open, or the store cannot be written. Nothing has changed then.
    pub(super) async fn declare(&self, name: TableName, wanted: Wanted, dry_run: bool) -> Result<(), ClientError> {
        // Without the gate first: what is refused stops nobody.
        let topology = self.cluster.topology.load_full();
        let next = declared(&topology, &name, resolve(&wanted, &topology)?);
        self.check(&topology, &next, &name).await?;
        if dry_run {
            return Ok(());
        }
        let gate = Arc::clone(&self.cluster.epoch_gate);
        let quiet = tokio::time::timeout(Duration::from_millis(QUIET_MS_MAX), gate.write_owned());
        let _quiet = quiet.await.map_err(|_| {
            ClientError::new(ErrorId::PrerequisiteMissing, "transactions are open, so no table can be declared now")
                .with_hint("End long transactions, then declare the table again.")
        })?;
        for _ in 0..TRIES_MAX {
            let Some((topology, revision)) = load_topology(self.store.as_ref()).await.map_err(store_error)? else {
                return Err(ClientError::new(ErrorId::PrerequisiteMissing, "the store holds no topology"));
            };
            let placement = resolve(&wanted, &topology)?;
            if topology.tables.declared.get(&name) == Some(&placement) {
                return Ok(());
            }
            let next = declared(&topology, &name, placement);
            // One shard takes every row, whatever a proxy thinks of its table.
            if topology.shards.len() > 1 {
                self.bring_others_to_rest(revision).await?;
            }
            let saved = match self.check(&topology, &next, &name).await {
                Ok(()) => save_topology(self.store.as_ref(), &next, Some(revision)).await,
                Err(error) => {
                    self.let_others_go_on().await;
                    return Err(error);
                }
            };
            match saved {
                Ok(_) => {
                    self.cluster.topology.store(Arc::new(next));
                    return Ok(());
                }
                Err(crate::store::StoreError::Conflict { .. }) => {}
                Err(error) => {
                    self.let_others_go_on().await;
                    return Err(store_error(error));
                }
            }
        }
        Err(ClientError::new(ErrorId::TopologyMoved, "the topology changes too fast").with_hint("Try again."))
    }

    /// What must hold of a table that exists already.
    async fn check(&self, before: &Topology, after: &Topology, name: &TableName) -> Result<(), ClientError> {
        let mut home = self.connect(before, before.home()).await?;
        let schema = crate::backend::schema::read_schema(&mut home).await.map_err(|error| {
            ClientError::new(ErrorId::ShardUnreachable, "the schema cannot be read").with_detail(format!("{error}."))
        })?;
        let Some(relation) = schema.relations.get(name) else { return Ok(()) };
        if !matches!(relation.kind, RelationKind::Table | RelationKind::Partitioned) {
            return Err(ClientError::new(ErrorId::InvalidParameterValue, format!("\"{}\" is not a table", name.name)));
        }
        check_key(after, &schema, relation)?;
        planner::check_placed(after, &schema, name)?;
        let moves = schema.placement(before, relation) != schema.placement(after, relation);
        drop(home);
        if moves && before.shards.len() > 1 {
            for shard in before.shard_ids() {
                self.check_empty(before, shard, name).await?;
            }
        } else if let (true, Placement::Sharded { key }) = (moves, schema.placement(after, relation)) {
            self.check_keys(before, relation, &key).await?;
        }
        self.cluster.publish_schema(schema);
        Ok(())
    }

    async fn connect(&self, topology: &Topology, shard: ShardId) -> Result<Connection, ClientError> {
        let target = self.cluster.control_target(topology, shard)?;
        Connection::connect(&target).await.map_err(|error| error.to_client_error(&shard_name(topology, shard)))
    }

    /// A row without a key has no bucket: it could never move.
    async fn check_keys(&self, topology: &Topology, relation: &Relation, key: &[String]) -> Result<(), ClientError> {
        let shard = topology.home();
        let mut connection = self.connect(topology, shard).await?;
        let may_be_null = |column: &&String| relation.column(column).is_some_and(|column| !column.not_null);
        for column in key.iter().filter(may_be_null) {
            let (table, quoted) = (quoted_table(&relation.name), quote_identifier(column));
            let sql = format!("SELECT EXISTS (SELECT FROM {table} WHERE {quoted} IS NULL)");
            let answer = connection.simple(&sql).await;
            let answer = answer.map_err(|error| error.to_client_error(&shard_name(topology, shard)))?;
            let has_none =
                answer.rows.first().and_then(|row| row.first()).is_some_and(|value| *value == Some("f".into()));
            if !has_none {
                let (table, message) = (&relation.name.name, "has rows in which its key column");
                return Err(ClientError::new(
                    ErrorId::PrerequisiteMissing,
                    format!("table \"{table}\" {message} \"{column}\" is NULL"),
                )
                .with_hint("Give them a key, or delete them; best make the column NOT NULL."));
            }
        }
        connection.close().await;
        Ok(())
    }

    async fn check_empty(&self, topology: &Topology, shard: ShardId, name: &TableName) -> Result<(), ClientError> {
        let shard_text = shard_name(topology, shard);
        let mut connection = self.connect(topology, shard).await?;
        let sql = format!("SELECT EXISTS (SELECT FROM {})", quoted_table(name));
        let answer = connection.simple(&sql).await.map_err(|error| error.to_client_error(&shard_text))?;
        let holds_rows = match (&answer.error, answer.rows.first().and_then(|row| row.first())) {
            // It does not exist on this shard: there are no rows either.
            (Some(_), _) => false,
            (None, Some(Some(value))) => value == "t",
            (None, _) => true,
        };
        connection.close().await;
        if holds_rows {
            return Err(ClientError::new(
                ErrorId::PrerequisiteMissing,
                format!("table \"{}\" holds rows on shard {shard_text}, which would be on the wrong shard", name.name),
            )
            .with_hint(
                "Declare a table before rows are written, or while the cluster has one shard: then no row moves.",
            ));
        }
        Ok(())
    }
}

fn quoted_table(name: &TableName) -> String {
    format!("{}.{}", quote_identifier(&name.schema), quote_identifier(&name.name))
}

fn declared(topology: &Topology, name: &TableName, placement: Placement) -> Topology {
    let mut next = topology.clone();
    next.epoch = Epoch(topology.epoch.0 + 1);
    next.tables.declared.insert(name.clone(), placement);
    next
}

fn resolve(wanted: &Wanted, topology: &Topology) -> Result<Placement, ClientError> {
    Ok(match wanted {
        Wanted::Shard { key } => Placement::Sharded { key: key.clone() },
        Wanted::Reference => Placement::Reference,
        Wanted::Single { home: None } => Placement::Single { home: None },
        Wanted::Single { home: Some(name) } => {
            let shard = topology.shards.iter().find(|shard| &shard.name == name).ok_or_else(|| {
                ClientError::new(ErrorId::UndefinedObject, format!("shard \"{name}\" does not exist"))
                    .with_hint("SHOW SHARDS lists them.")
            })?;
            Placement::Single { home: Some(shard.id) }
        }
    })
}

fn check_key(topology: &Topology, schema: &Schema, relation: &Relation) -> Result<(), ClientError> {
    let Placement::Sharded { key } = schema.placement(topology, relation) else { return Ok(()) };
    for column in &key {
        if relation.column(column).is_none() {
            return Err(ClientError::new(
                ErrorId::UndefinedObject,
                format!("column \"{column}\" of table \"{}\" does not exist", relation.name.name),
            ));
        }
    }
    if schema.key_types(relation, &key).is_none() {
        return Err(ClientError::new(
            ErrorId::InvalidParameterValue,
            format!("the key of table \"{}\" has a type that cannot be a sharding key", relation.name.name),
        )
        .with_hint(
            "Keys are smallint, integer, bigint, numeric, text, varchar, char, uuid, bytea, date or timestamp, \
             with a deterministic collation.",
        ));
    }
    Ok(())
}
