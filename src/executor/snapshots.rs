//! Snapshots that one session exports and others take over: they are of one server.
//!
//! A snapshot of the home shard says nothing of the others, so it is refused where rows lie on other shards, instead of
//! tying some rows of a dump to one moment and the rest to another.

use super::Session;
use crate::error::ClientError;
use crate::session::Parsed;
use crate::sql::walk;
use crate::topology::Placement;

impl Session {
    /// Whether a statement may export a snapshot, if it does.
    ///
    /// # Errors
    /// There are tables with rows on other shards than the first.
    pub(super) fn may_export_snapshot(&self, parsed: &Parsed) -> Result<(), ClientError> {
        let Ok(statement) = &*parsed.statement else { return Ok(()) };
        if self.topology.shards.len() < 2 || !parsed.text.contains("snapshot") {
            return Ok(());
        }
        let mut exports = false;
        walk::for_each_call(statement, |call| exports |= call.name.name == "pg_export_snapshot");
        if !exports {
            return Ok(());
        }
        let schema = self.schema();
        let home = self.topology.home();
        let is_spread = schema.relations.values().any(|relation| match schema.placement(&self.topology, relation) {
            Placement::Single { home: at } => at.is_some_and(|at| at != home),
            Placement::Sharded { .. } | Placement::Reference => true,
        });
        if is_spread { Err(of_one_shard("pg_export_snapshot")) } else { Ok(()) }
    }

    /// Whether a further shard may join the transaction.
    ///
    /// # Errors
    /// The transaction has taken over a snapshot of another one.
    pub(super) fn may_join(&self) -> Result<(), ClientError> {
        if self.transaction.takes_snapshot() && self.links.values().any(|link| link.begun) {
            return Err(of_one_shard("SET TRANSACTION SNAPSHOT"));
        }
        Ok(())
    }

    /// Whether a statement may run on several shards: while it does, their connections are elsewhere, and
    /// [`Session::may_join`] sees none of them.
    ///
    /// # Errors
    /// The transaction has taken over a snapshot of another one.
    pub(super) fn may_span(&self) -> Result<(), ClientError> {
        if self.transaction.takes_snapshot() { Err(of_one_shard("SET TRANSACTION SNAPSHOT")) } else { Ok(()) }
    }
}

fn of_one_shard(what: &str) -> ClientError {
    ClientError::refused(
        format!("{what} is not supported across shards: a snapshot is of one shard"),
        "Dump with one job (pg_dump without -j), or dump each shard by itself.",
    )
}
