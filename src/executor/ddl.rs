//! What follows a change of the schema: it is read again, and what cannot be kept across shards is
//! refused while it can still be rolled back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::link::failure_of;
use super::statement::Mode;
use super::values::StatementValues;
use super::{Failure, Session, shard_name};
use crate::backend::schema::{SchemaError, read_schema};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::Framed;
use crate::planner::rewrite::quoted;
use crate::planner::{self, BoundShards};
use crate::session::Parsed;
use crate::sql::ast::Statement;
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
        // A sequence may have been set or made again, which the schema does not show.
        self.cluster.ids.forget_all();
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

    /// What a statement says by the positions of columns is read with the columns as they are now: DDL that did not come
    /// through this proxy is noticed seconds later, and the key would be taken from another column. One question goes to
    /// a server first; statements that name their columns do without.
    async fn know_columns(
        &mut self,
        client: &mut Framed,
        schema: &Schema,
        parsed: &Parsed,
        statement: &Statement,
        mode: Mode<'_>,
    ) -> Result<(), Failure> {
        let Some(relation) = crate::planner::read_by_position(&self.topology, schema, &self.planning_path(), statement)
        else {
            return Ok(());
        };
        let outside = !self.transaction.is_open() && !self.is_at_work();
        self.settle(client).await?;
        // Whoever gets the row is asked: another shard may be down, and need not know.
        let shard = self.likely_shard(parsed, mode).unwrap_or_else(|| self.any_shard());
        self.settled_link(shard).await?;
        let full = format!("{}.{}", quoted(&relation.name.schema), quoted(&relation.name.name)).replace('\'', "''");
        let sql = format!(
            "SELECT pg_catalog.string_agg(pg_catalog.quote_ident(attname), ',' ORDER BY attnum) FROM pg_catalog.pg_attribute \
             WHERE attrelid = pg_catalog.to_regclass('{full}') AND attnum > 0 AND NOT attisdropped"
        );
        let now = self.ask(shard, &sql).await;
        let known: Vec<&str> = relation.columns.iter().map(|column| column.name.as_str()).collect();
        let same = now.as_ref().is_ok_and(|now| columns_are(now, &known));
        let outcome = match now {
            Ok(_) if same => Ok(()),
            Ok(_) => self.schema_seen_on(shard).await.map(|schema| self.cluster.publish_schema(schema)),
            Err(failure) => Err(failure),
        };
        if outside {
            self.let_go();
        }
        outcome
    }

    /// A shard that a statement's rows go to, by what is known of its table.
    fn likely_shard(&self, parsed: &Parsed, mode: Mode<'_>) -> Option<ShardId> {
        let plan = self.plan(parsed).ok()?;
        match planner::bind(&plan, &self.topology, &StatementValues::new(&parsed.lexed, mode)).ok()?.shards {
            BoundShards::One(shard) => Some(shard),
            BoundShards::Many(shards) => shards.first().copied(),
            BoundShards::Any => None,
        }
    }

    /// A statement that names a relation nobody has heard of may come after DDL elsewhere: the schema
    /// is read again before anything is decided.
    pub(super) async fn know_relations(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        mode: Mode<'_>,
    ) -> Result<(), Failure> {
        let Ok(statement) = &*parsed.statement else { return Ok(()) };
        if self.own_schema.is_some() || self.transaction.is_failed() {
            return Ok(());
        }
        let schema = self.schema();
        let is_known = !crate::planner::names_unknown_relation(&schema, &self.planning_path(), statement);
        if is_known {
            return self.know_columns(client, &schema, parsed, statement, mode).await;
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

/// Whether a list of quoted names is that of these columns.
fn columns_are(listed: &str, columns: &[&str]) -> bool {
    let Ok(lexed) = crate::sql::lexer::lex(listed) else { return false };
    let names: Vec<String> = (0..lexed.tokens.len()).filter_map(|at| lexed.identifier(listed, at)).collect();
    names.iter().map(String::as_str).eq(columns.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::columns_are;

    #[test]
    fn columns_are_compared_by_name_and_place() {
        assert!(columns_are("id,\"Na,me\",\"select\"", &["id", "Na,me", "select"]));
        assert!(!columns_are("b,a", &["a", "b"]));
        assert!(!columns_are("", &["a"]));
    }
}
