//! INSERT of rows that go to different shards, and of rows whose ids the proxy fills in.

use std::collections::BTreeMap;

use super::exchange::Show;
use super::relay::Done;
use super::statement::Mode;
use super::values::StatementValues;
use super::{Failure, Session, places};
use crate::base::ShardId;
use crate::error::ClientError;
use crate::net::Framed;
use crate::plan::InsertPlan;
use crate::planner::{Bound, BoundShards, Values, rewrite};
use crate::session::Parsed;
use crate::sql::ast::Statement;
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
        let mut parts: Vec<(ShardId, Vec<usize>)> = self.parts(insert, bound).into_iter().collect();
        let keep_order = insert.returning && parts.len() > 1 && !insert.everywhere;
        if keep_order && skips_rows(parsed) {
            parts = in_turn(parts);
        }
        if parts.len() > 1 {
            self.open_block().await?;
        }
        let (mut replaced, mut timed) = (Vec::new(), None);
        if parts.len() > 1 && !insert.everywhere {
            replaced = self.one_time(client, parsed).await?;
            timed = self.timed_rows(client, parsed, insert).await?;
        }
        let filled = insert.fills.len();
        let (insert, times) = timed.as_ref().map_or((insert, &[][..]), |(timed, times)| (timed, times));
        let (mut count, mut verb) = (0, "INSERT 0");
        let mut collected: Vec<(Vec<usize>, Vec<Frame>)> = Vec::new();
        for (position, (shard, rows)) in parts.iter().enumerate() {
            let fill = |fill: usize, row: usize| match fill.checked_sub(filled) {
                Some(time) => times.get(time).cloned(),
                None => values.fill(fill, row),
            };
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
            let is_alone = parts.len() == 1
                && !self.transaction.is_open()
                && !self.is_at_work()
                && self.cluster.settings.primaries.is_led(*shard);
            let done = if is_alone {
                self.exchange_asked(client, *shard, sql.text(), mode, show.header).await.map_err(placed)?
            } else if keep_order {
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
        in_row_order(client, collected)?;
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

/// ON CONFLICT DO NOTHING: which of the rows came back cannot be told from their number.
pub(super) fn skips_rows(parsed: &Parsed) -> bool {
    matches!(&*parsed.statement, Ok(Statement::Insert(insert)) if insert.on_conflict.as_ref().is_some_and(|it| it.do_nothing))
}

/// The rows in their own order, as far as they follow each other on one shard in one part: what each part returns then
/// comes in the order of the whole. A row is skipped alike whether the row before it stands in the same statement or was
/// inserted by one before.
pub(super) fn in_turn(parts: impl IntoIterator<Item = (ShardId, Vec<usize>)>) -> Vec<(ShardId, Vec<usize>)> {
    let mut rows: Vec<(usize, ShardId)> =
        parts.into_iter().flat_map(|(shard, rows)| rows.into_iter().map(move |row| (row, shard))).collect();
    rows.sort_unstable_by_key(|(row, _)| *row);
    let mut runs: Vec<(ShardId, Vec<usize>)> = Vec::new();
    for (row, shard) in rows {
        match runs.last_mut() {
            Some((last, run)) if *last == shard => run.push(row),
            _ => runs.push((shard, vec![row])),
        }
    }
    runs
}

/// RETURNING rows in the order of the statement's rows, which ORMs rely on.
///
/// # Errors
/// Rows were skipped on one shard (ON CONFLICT DO UPDATE with WHERE, triggers), and others returned some: which are
/// missing is not known.
pub(super) fn in_row_order(client: &mut Framed, collected: Vec<(Vec<usize>, Vec<Frame>)>) -> Result<(), Failure> {
    let ordered = ordered(collected).ok_or_else(|| {
        ClientError::refused(
            "the order of RETURNING is not known, since rows on several shards were skipped",
            "Insert the rows in statements of their own, or leave RETURNING out.",
        )
    })?;
    for frame in ordered {
        client.output().extend_from_slice(&frame.bytes);
    }
    Ok(())
}

/// What parts returned, by the rows' numbers; `None`: it cannot be told.
fn ordered<T>(mut collected: Vec<(Vec<usize>, Vec<T>)>) -> Option<Vec<T>> {
    collected.retain(|(_, returned)| !returned.is_empty());
    collected.sort_by_key(|(rows, _)| rows.first().copied());
    let follow_each_other = collected.windows(2).all(|pair| match pair {
        [(before, _), (after, _)] => before.last() < after.first(),
        _ => true,
    });
    if follow_each_other {
        return Some(collected.into_iter().flat_map(|(_, returned)| returned).collect());
    }
    if collected.iter().any(|(rows, returned)| rows.len() != returned.len()) {
        return None;
    }
    let mut numbered: Vec<(usize, T)> =
        collected.into_iter().flat_map(|(rows, returned)| rows.into_iter().zip(returned)).collect();
    numbered.sort_by_key(|(row, _)| *row);
    Some(numbered.into_iter().map(|(_, returned)| returned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parts_return_comes_in_the_order_of_the_rows() {
        assert_eq!(
            ordered(vec![(vec![0, 3], vec!["a", "d"]), (vec![1, 2], vec!["b", "c"])]),
            Some(vec!["a", "b", "c", "d"])
        );
        assert_eq!(ordered(vec![(vec![0, 3], vec!["a"]), (vec![1, 2], vec!["b", "c"])]), None);
        assert_eq!(ordered(vec![(vec![0, 3], vec!["a"]), (vec![1, 2], vec![])]), Some(vec!["a"]));
    }

    #[test]
    fn runs_of_rows_follow_each_other() {
        let (one, two) = (ShardId(1), ShardId(2));
        let runs = in_turn([(one, vec![0, 1, 4]), (two, vec![2, 3])]);
        assert_eq!(runs, [(one, vec![0, 1]), (two, vec![2, 3]), (one, vec![4])]);
        let skipped = runs.into_iter().map(|(_, rows)| (rows.clone(), rows.into_iter().skip(1).collect())).collect();
        assert_eq!(ordered(skipped), Some(vec![1, 3]));
    }
}
