//! One statement on several shards: every shard does its part, or all do the same.

use super::exchange::Show;
use super::relay::{Done, command_tag};
use super::statement::Mode;
use super::{Failure, Session, places, shard_name};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::Framed;
use crate::plan::{Class, Plan};
use crate::planner::rewrite;
use crate::session::Parsed;
use crate::sql::Spliced;

impl Session {
    /// Runs a statement on each shard, one after the other in ascending order: two such statements
    /// take their locks in the same order everywhere and so never wait for each other in a circle.
    ///
    /// `sum`: counts are added and RETURNING rows of all are shown; otherwise the shards must answer
    /// alike and the first answer is shown.
    ///
    /// # Errors
    /// The first shard's that fails; what ran before is rolled back with the transaction.
    pub(super) async fn run_everywhere(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        plan: &Plan,
        shards: &[ShardId],
        mode: Mode<'_>,
        sum: bool,
    ) -> Result<Done, Failure> {
        if plan.class > Class::Read && !plan.outside_transaction {
            self.open_block().await?;
        }
        let text = self.with_one_verifier(parsed).await?;
        let one_time = match plan.class {
            Class::Write if sum => self.one_time(client, parsed).await?,
            _ => Vec::new(),
        };
        let made = match text {
            None if !one_time.is_empty() => Some(rewrite::replace(&parsed.text, &parsed.lexed, &one_time)),
            text => text,
        };
        let text = made.as_ref().map_or(parsed.text.as_str(), Spliced::text);
        let placed = |failure| match &made {
            Some(made) => places::in_source(failure, made, &parsed.text),
            None => failure,
        };
        let mut count = 0;
        let mut first: Option<Done> = None;
        for shard in shards {
            let is_first = first.is_none();
            let show = Show { header: is_first && mode.describes(), rows: is_first || sum, notices: is_first || sum };
            let done = self.exchange(client, *shard, text, mode, show).await.map_err(placed)?;
            self.note_effects(*shard, parsed, plan);
            if plan.class == Class::Ddl && is_first && plan.changes_schema {
                self.after_ddl(*shard).await?;
            }
            match &first {
                Some(known) if !sum && plan.class != Class::Ddl && known.row_count() != done.row_count() => {
                    return Err(self.copies_differ(*shard));
                }
                _ => {}
            }
            count += done.row_count().unwrap_or(0);
            if is_first {
                first = Some(done);
            }
        }
        let first = first.unwrap_or(Done { complete: None });
        if !sum {
            return Ok(first);
        }
        let tag = first.complete.as_ref().and_then(command_tag).unwrap_or_default();
        Ok(match tag.rsplit_once(' ') {
            Some((words, number)) if number.parse::<u64>().is_ok() => Done::with_tag(&format!("{words} {count}")),
            _ => first,
        })
    }

    pub(super) fn copies_differ(&self, shard: ShardId) -> Failure {
        ClientError::new(
            ErrorId::Internal,
            format!(
                "the copies of a reference table differ: shard {} changed another number of rows",
                shard_name(&self.topology, shard)
            ),
        )
        .with_hint("The statement was rolled back. Compare the table on all shards.")
        .into()
    }
}
