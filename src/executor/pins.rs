//! A session that left something on a connection keeps it, until the server says that nothing is left.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::link::failure_of;
use super::relay::Done;
use super::{Failure, Session, shard_name};
use crate::backend::schema::{SchemaError, read_temporary};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::Framed;
use crate::session::pins::{self, LEFT_SQL, Left};
use crate::session::{Parsed, PoolMode};
use crate::topology::schema::{Relation, Schema, TEMPORARY_SCHEMA};
use crate::wire::server_message::tag;

/// What a session keeps.
#[derive(Default)]
pub(super) struct Pins {
    /// Shards whose connection the session keeps.
    held: BTreeSet<ShardId>,
    /// Shards to be asked what is left, once no transaction is open.
    doubtful: BTreeSet<ShardId>,
    /// Temporary tables, as they are now inside the transaction.
    temporary: Vec<Arc<Relation>>,
    /// The cluster's schema with the temporary tables, for that schema.
    overlay: Mutex<Option<(Arc<Schema>, Arc<Schema>)>>,
}

impl Pins {
    /// There are temporary tables.
    pub(super) fn has_temporary(&self) -> bool {
        !self.temporary.is_empty()
    }

    /// A schema with the temporary tables in it.
    fn overlaid(&self, base: &Arc<Schema>) -> Arc<Schema> {
        let mut overlay = self.overlay.lock();
        if let Some((known, overlaid)) = overlay.as_ref()
            && Arc::ptr_eq(known, base)
        {
            return Arc::clone(overlaid);
        }
        let mut schema = Schema::clone(base);
        for relation in &self.temporary {
            schema.relations.insert(relation.name.clone(), Arc::clone(relation));
        }
        let overlaid = Arc::new(schema);
        *overlay = Some((Arc::clone(base), Arc::clone(&overlaid)));
        overlaid
    }

    fn set_temporary(&mut self, temporary: Vec<Arc<Relation>>) {
        self.temporary = temporary;
        *self.overlay.lock() = None;
    }
}

impl Session {
    /// The schema to plan with: the transaction's own or everybody's, with the session's temporary tables.
    pub(super) fn schema(&self) -> Arc<Schema> {
        let base = self.own_schema.clone().unwrap_or_else(|| self.cluster.schema.load_full());
        if self.pins.has_temporary() { self.pins.overlaid(&base) } else { base }
    }

    /// The search path to plan with: temporary tables come first, as in PostgreSQL.
    pub(super) fn planning_path(&self) -> std::borrow::Cow<'_, [String]> {
        if !self.pins.has_temporary() || self.search_path.iter().any(|schema| schema == TEMPORARY_SCHEMA) {
            return (&*self.search_path).into();
        }
        let mut path = vec![TEMPORARY_SCHEMA.to_owned()];
        path.extend_from_slice(&self.search_path);
        path.into()
    }

    /// Whether the connection to a shard stays with the session between transactions.
    pub(super) fn keeps(&self, shard: ShardId) -> bool {
        self.mode == PoolMode::Session || self.pins.held.contains(&shard) || self.pins.doubtful.contains(&shard)
    }

    /// Remembers that a statement may have left something on a shard, or taken it away.
    pub(super) fn note_pins(&mut self, shard: ShardId, parsed: &Parsed) {
        let may_pin = pins::may_pin(parsed);
        if may_pin || (self.pins.held.contains(&shard) && pins::may_unpin(parsed)) {
            self.pins.doubtful.insert(shard);
        }
        if may_pin && let Some(link) = self.links.get_mut(&shard) {
            // Whatever becomes of it, the next session finds a connection that was wiped.
            link.lease.needs_reset = true;
        }
    }

    /// A connection that held something of the session's is gone: the session cannot go on without it.
    pub(super) fn note_lost(&mut self, shard: ShardId) {
        let may_have_held = self.pins.doubtful.remove(&shard);
        if (self.pins.held.remove(&shard) || may_have_held) && self.ended.is_none() {
            let name = shard_name(&self.topology, shard);
            self.ended = Some(
                ClientError::new(ErrorId::ShardUnreachable, format!("the connection to shard {name} was lost"))
                    .with_detail("It held temporary tables, locks, cursors or channels of this session."),
            );
        }
    }

    /// After a statement that may have made, altered or dropped temporary tables.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub(super) async fn learn_temporary(&mut self, shard: ShardId, parsed: &Parsed) -> Result<(), Failure> {
        if shard == self.topology.home() && self.keeps(shard) && pins::changes_tables(parsed) {
            self.read_temporary().await?;
        }
        Ok(())
    }

    /// Reads the temporary tables as they are now.
    pub(super) async fn read_temporary(&mut self) -> Result<(), Failure> {
        let home = self.topology.home();
        if !self.links.contains_key(&home) {
            self.pins.set_temporary(Vec::new());
            return Ok(());
        }
        self.settled_link(home).await?;
        let name = shard_name(&self.topology, home);
        let link = self.held(home)?;
        let outcome = read_temporary(&mut link.lease).await.map_err(|error| match error {
            SchemaError::Postgres(frame) => Failure::Postgres(frame),
            SchemaError::Backend(error) => failure_of(error, &name),
            SchemaError::Malformed(what) => {
                ClientError::new(ErrorId::Internal, format!("the catalogs of shard {name} are not understood: {what}"))
                    .into()
            }
        });
        let temporary = self.after_exchange(home, outcome)?;
        self.pins.set_temporary(temporary);
        Ok(())
    }

    /// Outside of transactions: asks doubtful connections what is left there.
    pub(super) async fn settle_pins(&mut self) {
        while let Some(shard) = self.pins.doubtful.pop_first() {
            let Some(link) = self.links.get_mut(&shard) else { continue };
            let answer = match link.lease.simple(LEFT_SQL).await {
                Ok(answer) if answer.error.is_none() => answer,
                _ => {
                    // Nobody can tell what is lost with it.
                    self.pins.held.insert(shard);
                    self.drop_link(shard);
                    continue;
                }
            };
            let left = Left::read(&answer.rows);
            self.cursors.retain(|name, place| *place != shard || left.cursors.contains(name));
            if left.is_any() {
                self.pins.held.insert(shard);
            } else {
                self.pins.held.remove(&shard);
            }
            if shard == self.topology.home() {
                let read = if left.temporary { self.read_temporary().await } else { Ok(()) };
                if !left.temporary {
                    self.pins.set_temporary(Vec::new());
                }
                if read.is_err() {
                    self.drop_link(shard);
                }
            }
        }
    }

    /// LISTEN, UNLISTEN, NOTIFY: all on the home shard, so that everybody hears everybody.
    pub(super) async fn run_notification(&mut self, client: &mut Framed, parsed: &Parsed) -> Result<Done, Failure> {
        let home = self.topology.home();
        let done = self.forward_query(client, home, &parsed.text).await?;
        if let Some(link) = self.links.get_mut(&home) {
            // PostgreSQL does not prepare a transaction that has notified.
            link.wrote = true;
        }
        self.note_pins(home, parsed);
        Ok(done)
    }

    /// Waits for what the server says of its own accord while the client is silent: notifications, and
    /// that a connection which the session keeps is lost. What came is to be written by
    /// [`Session::write_owed`].
    ///
    /// # Errors
    /// The connection is lost, and the session with it.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn idle(&mut self) -> Result<(), Failure> {
        let Some(shard) = self.pins.held.first().copied().filter(|_| !self.transaction.is_open()) else {
            return std::future::pending().await;
        };
        let name = shard_name(&self.topology, shard);
        let Some(link) = self.links.get_mut(&shard) else { return std::future::pending().await };
        let outcome = match link.lease.next_frame().await {
            Ok(frame) if frame.tag == tag::ERROR_RESPONSE => Err(Failure::Postgres(frame)),
            Ok(frame) => Ok(frame),
            Err(error) => Err(failure_of(error, &name)),
        };
        match outcome {
            Ok(frame) => {
                if matches!(frame.tag, tag::NOTICE_RESPONSE | tag::PARAMETER_STATUS) {
                    self.status_owed.extend_from_slice(&frame.bytes);
                }
                self.owe_notifications();
                Ok(())
            }
            Err(failure) => {
                self.drop_link(shard);
                Err(failure)
            }
        }
    }

    /// Notifications that came on connections of the session go to the client before its ReadyForQuery.
    pub(super) fn owe_notifications(&mut self) {
        for link in self.links.values_mut() {
            let node = link.lease.node();
            for frame in link.lease.notifications.iter_mut().flat_map(|frames| frames.drain(..)) {
                let frame = self.cluster.peers.sender_named(node, frame);
                self.status_owed.extend_from_slice(&frame.bytes);
            }
        }
    }
}
