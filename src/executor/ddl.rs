//! What follows a change of the schema: it is read again, and what cannot be kept across shards is
//! refused while it can still be rolled back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::link::failure_of;
use super::{Failure, Session, shard_name};
use crate::backend::schema::{SchemaError, read_schema};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::Framed;
use crate::session::Parsed;
use crate::topology::schema::Schema;

impl Session {
    /// After DDL on a shard, before the others and before the commit.
    ///
    /// # Errors
    /// 0A000 when the new schema promises what no shard can keep alone.
    pub(super) async fn after_ddl(&mut self, shard: ShardId) -> Result<(), Failure> {
        self.schema_changed = true;
        if !self.transaction.is_open() {
            // Autocommitted on the only shard: what is done is done.
            self.reload_schema().await;
            self.schema_changed = false;
            return Ok(());
        }
        self.read_schema_of(shard).await?;
        let schema = self.schema();
        let before = self.cluster.schema.load_full();
        crate::planner::check_schema(&self.topology, &before, &schema)?;
        Ok(())
    }

    /// Reads the schema as this transaction sees it.
    pub(super) async fn read_own_schema(&mut self) -> Result<(), Failure> {
        let shard = self.any_shard();
        if self.links.contains_key(&shard) {
            self.read_schema_of(shard).await?;
        }
        Ok(())
    }

    async fn read_schema_of(&mut self, shard: ShardId) -> Result<(), Failure> {
        let schema = self.schema_seen_on(shard).await?;
        self.own_schema = Some(Arc::new(schema));
        self.schema_seen += 1;
        Ok(())
    }

    async fn schema_seen_on(&mut self, shard: ShardId) -> Result<Schema, Failure> {
        self.settled_link(shard).await?;
        let name = shard_name(&self.topology, shard);
        let link = self.held(shard)?;
        let outcome = read_schema(&mut link.lease).await.map_err(|error| match error {
            SchemaError::Postgres(frame) => Failure::Postgres(frame),
            SchemaError::Backend(error) => failure_of(error, &name),
            SchemaError::Malformed(what) => {
                ClientError::new(ErrorId::Internal, format!("the catalogs of shard {name} are not understood: {what}"))
                    .into()
            }
        });
        self.after_exchange(shard, outcome)
    }

    /// Reads the committed schema for everybody. A failure is logged: the schema is read again
    /// before long in any case.
    pub(super) async fn reload_schema(&mut self) {
        self.cluster.schema_changes.fetch_add(1, Ordering::AcqRel);
        let home = self.topology.home();
        let outcome = self.read_committed_schema(home).await;
        match outcome {
            Ok(schema) => self.cluster.publish_schema(schema),
            Err(_) => tracing::warn!("the schema could not be read after a change; the next look will tell"),
        }
    }

    async fn read_committed_schema(&mut self, home: ShardId) -> Result<Schema, Failure> {
        let held = self.links.contains_key(&home);
        let outcome = self.schema_seen_on(home).await;
        if !held && !self.transaction.is_open() && !self.keeps(home) {
            self.cancel.remove(home);
            self.links.remove(&home);
        }
        outcome
    }

    /// A statement that names a relation nobody has heard of may come after DDL elsewhere: the schema
    /// is read again before anything is decided.
    pub(super) async fn know_relations(&mut self, client: &mut Framed, parsed: &Parsed) -> Result<(), Failure> {
        let Ok(statement) = &*parsed.statement else { return Ok(()) };
        if self.own_schema.is_some() || self.transaction.is_failed() {
            return Ok(());
        }
        let schema = self.schema();
        if !crate::planner::names_unknown_relation(&schema, &self.planning_path(), statement) {
            return Ok(());
        }
        // Answers that are owed come first; a connection that is held is asked in its transaction.
        self.settle(client).await?;
        let outcome = if self.links.is_empty() {
            let home = self.topology.home();
            self.read_committed_schema(home).await
        } else {
            self.schema_seen_on(self.any_shard()).await
        };
        match outcome {
            Ok(schema) => {
                self.cluster.publish_schema(schema);
                Ok(())
            }
            Err(Failure::Ours(error)) if error.id == ErrorId::ShardUnreachable => {
                Err(ClientError::new(ErrorId::ShardUnreachable, "the schema cannot be read")
                    .with_detail(error.message)
                    .into())
            }
            Err(failure) => Err(failure),
        }
    }
}
