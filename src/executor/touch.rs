//! What a statement may touch is told to the step gate before it begins, while a job moves buckets.
//!
//! What is told holds until the session is through: what was written until the transaction is over, what was read until
//! the message is answered. Between two messages a READ COMMITTED transaction sees nothing and routes anew, so buckets
//! that it has not written to may change their owner meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::statement::Mode;
use super::values::StatementValues;
use super::{Cluster, Session};
use crate::error::ClientError;
use crate::plan::Plan;
use crate::planner;
use crate::reshard::Touch;
use crate::session::{Parsed, PreparedStatement};
use crate::sql::ast::Statement;
use crate::topology::schema::Schema;
use crate::wire::client_message::Bind;

impl Session {
    /// Every statement sees the newest topology that may be, and holds it still for what it touches until it is done.
    ///
    /// # Errors
    /// 57014: cancelled while it waited for a pause, for a change of the topology or for buckets that move.
    ///
    /// # Cancel safety
    /// Safe: the statement has not begun.
    pub(super) async fn refresh_topology(&mut self, touch: impl FnOnce(&Self) -> Touch) -> Result<(), ClientError> {
        if self.epoch_guard.is_none() {
            let (cluster, is_outside) = (&self.cluster, self.links.is_empty());
            let quiet = async {
                if is_outside {
                    cluster.pools.pause().over().await;
                }
                Arc::clone(&cluster.epoch_gate).read_owned().await
            };
            self.epoch_guard = Some(self.cancel.waits(quiet).await?);
            self.topology = self.cluster.topology.load_full();
        }
        // While the guard is held it is not armed.
        if !self.cluster.settings.steps.is_armed() {
            return Ok(());
        }
        let touch = touch(self);
        let stay = self.stay.get_or_insert_with(|| self.cluster.settings.steps.come());
        if !stay.enter_now(&touch) {
            self.cancel.waits(stay.enter(&touch)).await?;
        }
        // A step may have changed it meanwhile; keys and plans name buckets, not their owners.
        self.topology = self.cluster.topology.load_full();
        Ok(())
    }

    /// The message is answered, the transaction is open.
    pub(super) fn end_reads(&mut self) {
        if let Some(stay) = self.stay.as_ref().filter(|_| self.sees_anew()) {
            stay.end_reads();
        }
    }

    /// The next statement of the transaction sees what is committed then. A cursor goes on seeing what it saw.
    fn sees_anew(&self) -> bool {
        if !self.cursors.is_empty() || self.transaction.takes_snapshot() {
            return false;
        }
        let opening = self.transaction.opening_sql(&self.settings).to_ascii_lowercase();
        if ["repeatable", "serializable", "snapshot", "_isolation"].iter().any(|word| opening.contains(word)) {
            return false;
        }
        // Written with one blank: what is written otherwise is not worth a parser.
        opening.contains("isolation level read committed")
            || (!opening.contains("isolation") && self.has_usual_isolation())
    }

    fn has_usual_isolation(&self) -> bool {
        let name = "default_transaction_isolation";
        let is_unchanged = self.settings.changed_sql(name).is_none() && self.settings.startup_value(name).is_none();
        is_unchanged && self.cluster.settings.steps.is_read_committed()
    }

    /// What a statement may touch.
    pub(super) fn touch_of(&self, parsed: &Parsed, mode: Mode<'_>) -> Touch {
        let Ok(statement) = &*parsed.statement else { return Touch::EVERYTHING };
        match statement {
            Statement::Begin
            | Statement::Commit { .. }
            | Statement::Rollback { .. }
            | Statement::Savepoint(_)
            | Statement::Release(_)
            | Statement::RollbackTo(_)
            | Statement::SetTransaction
            | Statement::SetConstraints
            | Statement::SetSessionCharacteristics
            | Statement::Set { .. }
            | Statement::Reset(_)
            | Statement::Deallocate(_)
            | Statement::Show(_)
            | Statement::Fetch
            | Statement::Close(_)
            | Statement::Empty
            | Statement::Prepare { .. }
            // It runs another statement, which says it for itself.
            | Statement::Execute { .. }
            | Statement::Notification
            | Statement::Explain { ostrakon: true, .. } => Touch::NOTHING,
            Statement::Query(_)
            | Statement::Insert(_)
            | Statement::Update(_)
            | Statement::Delete(_)
            | Statement::Merge(_)
            | Statement::Copy(_) => {
                let plan = self.kept_plan(parsed).map_or_else(|| self.plan(parsed), Ok);
                let Ok(plan) = plan else { return Touch::EVERYTHING };
                if !self.encoding.is_utf8() {
                    return Touch::EVERYTHING;
                }
                let is_known_later = planner::fills_key(&plan) && matches!(statement, Statement::Insert(_));
                let values = StatementValues::new(&parsed.lexed, mode);
                if is_known_later { Touch::NOTHING } else { self.touch_of_plan(parsed, &plan, &values) }
            }
            _ => Touch::EVERYTHING,
        }
    }

    /// The same of a prepared statement and its values.
    pub(super) fn touch_of_bind(&self, statement: &PreparedStatement, bind: &Bind) -> Touch {
        let mode = Mode::Extended { bind, types: &statement.parameter_types, describe: false };
        self.touch_of(&statement.parsed, mode)
    }

    /// The same of one whose plan and values are known.
    pub(super) fn touch_of_plan(&self, parsed: &Parsed, plan: &Plan, values: &StatementValues<'_>) -> Touch {
        let Ok(statement) = &*parsed.statement else { return Touch::EVERYTHING };
        let schema = self.schema();
        let writes_by_itself = self.own_schema.is_some() || self.cluster.writes_by_itself(&schema);
        planner::touch(plan, &self.topology, &schema, writes_by_itself, statement, values)
    }
}

impl Cluster {
    /// Whether writing a row may write others, remembered for a version of the schema.
    fn writes_by_itself(&self, schema: &Schema) -> bool {
        let key = (schema.version + 1) << 1;
        let known = self.writes_by_itself.load(Ordering::Acquire);
        if known & !1 == key {
            return known & 1 == 1;
        }
        let writes = planner::writes_by_itself(schema);
        self.writes_by_itself.store(key | u64::from(writes), Ordering::Release);
        writes
    }
}
