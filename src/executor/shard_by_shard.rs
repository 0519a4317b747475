//! DDL that cannot run in a transaction: shard by shard, and taken back or carried on when one of them fails.
//!
//! CREATE INDEX CONCURRENTLY that fails on a shard leaves an invalid index there and whole ones on the shards before: all
//! are dropped again. What was dropped cannot be brought back, so a DROP goes on over the other shards, and one that is
//! run again counts what is gone already as done.

use super::exchange::Show;
use super::relay::Done;
use super::statement::Mode;
use super::{Failure, Session, shard_name};
use crate::base::ShardId;
use crate::net::Framed;
use crate::plan::Plan;
use crate::planner;
use crate::session::Parsed;
use crate::sql::ast::Statement;
use crate::topology::TableName;
use crate::wire::server_message::{self, read_error};

/// PostgreSQL's code for an object that is not there.
const UNDEFINED_OBJECT: &str = "42704";

impl Session {
    /// Runs a statement on one shard after the other, each by itself.
    ///
    /// # Errors
    /// The first shard's that fails. What it and the shards before it then have is taken back where that can be done; the
    /// client is warned of what could not.
    pub(super) async fn run_shard_by_shard(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        plan: &Plan,
        shards: &[ShardId],
        mode: Mode<'_>,
    ) -> Result<Done, Failure> {
        let is_drop = matches!(&*parsed.statement, Ok(Statement::Ddl(ddl)) if ddl.verb == "DROP");
        let indexed =
            planner::indexed_table(&self.schema(), &self.planning_path(), parsed.statement.as_ref().as_ref().ok());
        let mut before = Vec::new();
        if let Some(table) = &indexed {
            for shard in shards {
                before.push(self.indexes_of(*shard, table).await?);
            }
        }
        let mut first: Option<Done> = None;
        let mut failed: Option<(usize, Failure)> = None;
        for (position, shard) in shards.iter().enumerate() {
            let show =
                Show { header: first.is_none() && mode.describes(), rows: first.is_none(), notices: first.is_none() };
            match self.exchange(client, *shard, &parsed.text, mode, show).await {
                Ok(done) => {
                    self.note_effects(*shard, parsed, plan);
                    first.get_or_insert(done);
                }
                Err(Failure::Client(error)) => return Err(Failure::Client(error)),
                Err(failure) if is_drop => {
                    failed.get_or_insert((position, failure));
                }
                Err(failure) => {
                    failed = Some((position, failure));
                    break;
                }
            }
        }
        let outcome = match (failed, first) {
            (None, Some(done)) => Ok(done),
            (Some((_, failure)), Some(done)) if is_drop && is_undefined(&failure) => {
                warn(client, "the object was on some of the shards only, and now is on none");
                Ok(done)
            }
            (Some((position, failure)), first) => {
                match &indexed {
                    Some(table) => self.take_back(client, table, &before, shards, position).await,
                    None if first.is_some() => {
                        let name = shard_name(&self.topology, shards.get(position).copied().unwrap_or_default());
                        warn(
                            client,
                            &format!("it failed on shard {name} and is done on others: run it again, SHOW DRIFT tells"),
                        );
                    }
                    None => {}
                }
                Err(failure)
            }
            (None, None) => Ok(Done { complete: None }),
        };
        self.reload_schema().await;
        outcome
    }

    /// Drops what came into being on the shards that the statement has reached.
    async fn take_back(
        &mut self,
        client: &mut Framed,
        table: &TableName,
        before: &[Vec<String>],
        shards: &[ShardId],
        failed: usize,
    ) {
        for (shard, known) in shards.iter().zip(before).take(failed + 1) {
            let name = shard_name(&self.topology, *shard);
            let mut is_left = true;
            if let Ok(now) = self.indexes_of(*shard, table).await {
                is_left = false;
                for index in now.iter().filter(|index| !known.contains(index)) {
                    let sql = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
                    is_left |= self.ask(*shard, &sql).await.is_err();
                }
            }
            if is_left {
                warn(
                    client,
                    &format!(
                        "an index may be left on shard {name}: SHOW DRIFT in the admin database tells, drop it there"
                    ),
                );
            }
        }
    }

    /// Names of a table's indexes on one shard, quoted.
    async fn indexes_of(&mut self, shard: ShardId, table: &TableName) -> Result<Vec<String>, Failure> {
        self.settled_link(shard).await?;
        let full = format!("{}.{}", quoted(&table.schema), quoted(&table.name)).replace('\'', "''");
        let sql = format!(
            "SELECT pg_catalog.string_agg(pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), \
             pg_catalog.chr(10)) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE i.indrelid = pg_catalog.to_regclass('{full}')"
        );
        let names = self.ask(shard, &sql).await?;
        Ok(names.lines().map(str::to_owned).collect())
    }
}

fn is_undefined(failure: &Failure) -> bool {
    let Failure::Postgres(frame) = failure else { return false };
    read_error(&frame.body()).is_ok_and(|fields| fields.code == UNDEFINED_OBJECT)
}

fn warn(client: &mut Framed, text: &str) {
    server_message::write_notice(client.output(), "WARNING", "01000", text);
}

fn quoted(name: &str) -> String {
    planner::rewrite::quoted(name)
}
