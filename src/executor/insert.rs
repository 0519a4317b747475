//! INSERT of rows that go to different shards, and of rows whose ids the proxy fills in.

use std::collections::BTreeMap;

use super::exchange::Show;
use super::relay::Done;
use super::statement::Mode;
use super::values::StatementValues;
use super::{Failure, Session, places};
use crate::base::ShardId;
use crate::net::Framed;
use crate::plan::InsertPlan;
use crate::planner::{Bound, BoundShards, Values, rewrite};
use crate::session::Parsed;
use crate::wire::client_message::Bind;
use crate::wire::frame::Frame;

impl Session {
    /// The client's own text will not do: rows part ways, or ids are filled in.
    pub(super) fn needs_split(&self, insert: &InsertPlan, bound: &Bound) -> bool {
        if insert.rows.is_empty() {
            return false;
        }
        !insert.fills.is_empty() || (!insert.everywhere && matches!(bound.shards, BoundShards::Many(_)))
    }

    /// Sends each shard its rows.
    ///
    /// # Errors
    /// The first shard's that fails; the rest is rolled back with the transaction.
    pub(super) async fn run_insert(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        insert: &InsertPlan,
        bound: &Bound,
        values: &StatementValues<'_>,
        mode: Mode<'_>,
    ) -> Result<Done, Failure> {
        let parts = self.parts(insert, bound);
        if parts.len() > 1 {
            self.open_block().await?;
        }
        let replaced = if parts.len() > 1 { self.one_time(client, parsed).await? } else { Vec::new() };
        let (mut count, mut verb) = (0, "INSERT 0");
        let mut collected: Vec<(Vec<usize>, Vec<Frame>)> = Vec::new();
        let keep_order = insert.returning && parts.len() > 1 && !insert.everywhere;
        for (position, (shard, rows)) in parts.iter().enumerate() {
            let fill = |fill: usize, row: usize| values.fill(fill, row);
            let (sql, used) = rewrite::insert_for_shard(&parsed.text, &parsed.lexed, insert, rows, &fill, &replaced);
            let placed = |failure| places::in_source(failure, &sql, &parsed.text);
            let (bind, types) = parameters_used(mode, &used);
            let mode = match (&bind, mode) {
                (Some(bind), Mode::Extended { describe, .. }) => Mode::Extended { bind, types: &types, describe },
                _ => Mode::Simple,
            };
            let show = Show {
                header: position == 0 && mode.describes(),
                rows: (position == 0 || !insert.everywhere) && !keep_order,
                notices: position == 0 || !insert.everywhere,
            };
            let done = if keep_order {
                let (done, frames) =
                    self.exchange_collecting(client, *shard, sql.text(), mode, show).await.map_err(placed)?;
                collected.push((rows.clone(), frames));
                done
            } else {
                self.exchange(client, *shard, sql.text(), mode, show).await.map_err(placed)?
            };
            if let Some(link) = self.links.get_mut(shard) {
                link.wrote = true;
            }
            if position == 0 || !insert.everywhere {
                count += done.row_count().unwrap_or(0);
            }
            if done.is_merge() {
                verb = "MERGE";
            }
        }
        in_row_order(client, collected);
        Ok(Done::with_tag(&format!("{verb} {count}")))
    }

    /// Rows by shard, ascending.
    fn parts(&self, insert: &InsertPlan, bound: &Bound) -> BTreeMap<ShardId, Vec<usize>> {
        let all: Vec<usize> = (0..insert.rows.len()).collect();
        if insert.everywhere {
            return self.topology.shard_ids().map(|shard| (shard, all.clone())).collect();
        }
        let mut parts: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
        for row in all {
            let shard = match (bound.rows.get(row), &bound.shards) {
                (Some(shard), _) | (None, BoundShards::One(shard)) => *shard,
                _ => self.topology.home(),
            };
            parts.entry(shard).or_default().push(row);
        }
        parts
    }
}

/// The Bind message with only the parameters that a part's text uses, renumbered.
fn parameters_used(mode: Mode<'_>, used: &[u32]) -> (Option<Bind>, Vec<u32>) {
    let Mode::Extended { bind, types, .. } = mode else { return (None, Vec::new()) };
    let index_of = |number: &u32| (*number as usize).saturating_sub(1);
    let part = Bind {
        portal: String::new(),
        statement: String::new(),
        parameter_formats: used.iter().map(|number| bind.parameter_format(index_of(number))).collect(),
        parameters: used.iter().map(|number| bind.parameters.get(index_of(number)).cloned().flatten()).collect(),
        result_formats: bind.result_formats.clone(),
    };
    let types = used.iter().map(|number| types.get(index_of(number)).copied().unwrap_or(0)).collect();
    (Some(part), types)
}

/// RETURNING rows in the order of the statement's rows, which ORMs rely on.
pub(super) fn in_row_order(client: &mut Framed, collected: Vec<(Vec<usize>, Vec<Frame>)>) {
    let exact = collected.iter().all(|(rows, frames)| rows.len() == frames.len());
    let mut ordered: Vec<(usize, Frame)> = Vec::new();
    for (rows, frames) in collected {
        for (position, frame) in frames.into_iter().enumerate() {
            // A trigger may have dropped rows: then no order can be told, and none was promised.
            let place = if exact { rows.get(position).copied().unwrap_or(usize::MAX) } else { ordered.len() };
            ordered.push((place, frame));
        }
    }
    ordered.sort_by_key(|(row, _)| *row);
    for (_, frame) in ordered {
        client.output().extend_from_slice(&frame.bytes);
    }
}
