//! Groups of several shards become one: partial aggregates combined, HAVING, ORDER BY.
//!
//! Everything waits for the last shard, under the budget. Rows are copied, because a row that refers to
//! a network buffer would keep the whole buffer.

use std::cmp::Ordering;
use std::collections::HashMap;

use bytes::Bytes;

use super::accumulator::{Accumulator, State, write_cell};
use super::distinct::{append_cell_key, require_equality};
use super::having::{Constant, Having};
use super::order::{Keys, SortOrder};
use super::row::{Cells, Layout};
use super::{Budget, HEADER_BYTES, Next, internal, malformed, message_end, over_budget, unreadable};
use crate::error::ClientError;
use crate::plan::{AggregateSpec, Slot};
use crate::wire::server_message::tag;
use crate::wire::value::Value;

/// What a group costs beyond its row and key: the map's slot and the allocations.
const GROUP_OVERHEAD_BYTES: usize = 160;

/// Combines partial aggregates.
#[derive(Debug)]
pub(super) struct Aggregate {
    group_columns: Vec<usize>,
    accumulators: Vec<Accumulator>,
    having: Option<Having>,
    order: SortOrder,
    finished: Vec<bool>,
    groups: Vec<Group>,
    group_of_key: HashMap<Vec<u8>, usize>,
    /// Bytes of rows, keys and states.
    held_bytes: usize,
    budget: Budget,
    cells: Cells,
    key: Vec<u8>,
    /// The combined row that was given last.
    message: Vec<u8>,
    /// Groups in the order of the result, once all shards are finished.
    result: Option<std::vec::IntoIter<usize>>,
}

#[derive(Debug)]
struct Group {
    /// The group's first row; `None` when no shard sent one.
    row: Option<Bytes>,
    /// One for each accumulator.
    states: Vec<State>,
}

impl Aggregate {
    pub(super) fn new(
        spec: &AggregateSpec,
        layout: &Layout,
        shard_count: usize,
        constants: &dyn Fn(&Slot) -> Option<Constant>,
        budget: Budget,
    ) -> Result<Self, ClientError> {
        let mut group_columns = Vec::with_capacity(spec.groups.len());
        for column in &spec.groups {
            let (index, field) = layout.resolve(*column)?;
            require_equality(field, "GROUP BY")?;
            group_columns.push(index);
        }
        let accumulators =
            spec.outputs.iter().map(|output| Accumulator::new(output, layout)).collect::<Result<Vec<_>, _>>()?;
        let having = match &spec.having {
            Some(condition) => Some(Having::new(condition, layout, constants)?),
            None => None,
        };
        let order = SortOrder::new(&spec.order, layout)?;
        let aggregate = Self {
            group_columns,
            accumulators,
            having,
            order,
            finished: vec![false; shard_count],
            groups: Vec::new(),
            group_of_key: HashMap::new(),
            held_bytes: 0,
            budget,
            cells: Cells::default(),
            key: Vec::new(),
            message: Vec::new(),
            result: None,
        };
        aggregate.require_combined()?;
        Ok(aggregate)
    }

    /// HAVING and ORDER BY must not look at one shard's part of an average.
    fn require_combined(&self) -> Result<(), ClientError> {
        let looked_at = self.having.iter().flat_map(Having::columns).chain(self.order.indexes());
        let partial: Vec<usize> = self.accumulators.iter().flat_map(Accumulator::inputs).collect();
        for column in looked_at {
            if partial.contains(&column) && self.accumulator_of(column).is_none() {
                return Err(internal("HAVING or ORDER BY looks at a partial aggregate"));
            }
        }
        Ok(())
    }

    pub(super) fn needs(&self, shard: usize) -> bool {
        self.finished.get(shard) == Some(&false)
    }

    pub(super) fn finish(&mut self, shard: usize) {
        if let Some(finished) = self.finished.get_mut(shard) {
            *finished = true;
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.result.as_ref().is_some_and(|result| result.len() == 0)
    }

    pub(super) fn push(&mut self, rows: &Bytes, layout: &Layout) -> Result<(), ClientError> {
        let mut start = 0;
        while start < rows.len() {
            let end = message_end(rows, start).ok_or_else(malformed)?;
            self.add_row(&rows.slice(start..end), layout)?;
            start = end;
        }
        Ok(())
    }

    fn add_row(&mut self, row: &Bytes, layout: &Layout) -> Result<(), ClientError> {
        self.cells.read(row, layout)?;
        self.key.clear();
        for column in &self.group_columns {
            append_cell_key(layout.field(*column)?, self.cells.bytes(row, *column), &mut self.key)?;
        }
        let index = match self.group_of_key.get(&self.key) {
            Some(index) => *index,
            None => self.insert_group(row)?,
        };
        let Some(group) = self.groups.get_mut(index) else { return Err(internal("a group is lost")) };
        for (accumulator, state) in self.accumulators.iter().zip(&mut group.states) {
            let before = state.held_bytes();
            accumulator.add(state, row, &self.cells, layout)?;
            self.held_bytes = (self.held_bytes + state.held_bytes()).saturating_sub(before);
        }
        if self.held_bytes > self.budget.bytes { Err(over_budget("the groups")) } else { Ok(()) }
    }

    fn insert_group(&mut self, row: &[u8]) -> Result<usize, ClientError> {
        let state_bytes = self.accumulators.len() * size_of::<State>();
        self.held_bytes += row.len() + self.key.len() + state_bytes + GROUP_OVERHEAD_BYTES;
        if self.groups.len() >= self.budget.rows {
            return Err(over_budget("the groups"));
        }
        let index = self.groups.len();
        self.groups.push(self.empty_group(Some(Bytes::copy_from_slice(row))));
        self.group_of_key.insert(self.key.clone(), index);
        Ok(index)
    }

    fn empty_group(&self, row: Option<Bytes>) -> Group {
        Group { row, states: self.accumulators.iter().map(Accumulator::start).collect() }
    }

    pub(super) fn next(&mut self, layout: &Layout) -> Result<Next<'_>, ClientError> {
        if self.result.is_none() {
            if self.finished.iter().any(|finished| !finished) {
                return Ok(Next::Pending);
            }
            self.result = Some(self.arrange(layout)?.into_iter());
        }
        let Some(index) = self.result.as_mut().and_then(Iterator::next) else { return Ok(Next::Done) };
        self.write(index, layout)?;
        Ok(Next::Row { message: &self.message, visible_end: None, same_keys: false })
    }

    /// The groups that HAVING keeps, sorted.
    fn arrange(&mut self, layout: &Layout) -> Result<Vec<usize>, ClientError> {
        self.group_of_key = HashMap::new();
        if self.groups.is_empty() && self.group_columns.is_empty() {
            let group = self.empty_group(None);
            self.groups.push(group);
        }
        let mut kept: Vec<(usize, Keys)> = Vec::new();
        let mut cells = Cells::default();
        for (index, group) in self.groups.iter().enumerate() {
            if let Some(row) = &group.row {
                cells.read(row, layout)?;
            }
            let value_of = |column: usize| self.value_of(group, column, &cells, layout);
            let holds = match &self.having {
                Some(having) => having.evaluate(&value_of)? == Some(true),
                None => true,
            };
            if holds {
                kept.push((index, self.order.indexes().map(value_of).collect::<Result<Keys, _>>()?));
            }
        }
        if !self.order.is_empty() {
            kept.sort_by(|(_, a), (_, b)| -> Ordering { self.order.compare(a, b) });
        }
        Ok(kept.into_iter().map(|(index, _)| index).collect())
    }

    fn accumulator_of(&self, column: usize) -> Option<usize> {
        self.accumulators.iter().position(|accumulator| accumulator.column == column)
    }

    /// A column of the combined row.
    fn value_of(
        &self,
        group: &Group,
        column: usize,
        cells: &Cells,
        layout: &Layout,
    ) -> Result<Option<Value>, ClientError> {
        if let Some(at) = self.accumulator_of(column) {
            return match (self.accumulators.get(at), group.states.get(at)) {
                (Some(accumulator), Some(state)) => accumulator.value(state),
                _ => Err(internal("an aggregate is lost")),
            };
        }
        let Some(row) = &group.row else { return Err(no_row()) };
        let Some(range) = cells.range(column) else { return Ok(None) };
        let field = layout.field(column)?;
        Value::decode_shared(field.type_oid, field.format, row, range).map(Some).map_err(|_| unreadable(field))
    }

    /// The message of a combined row: all columns, the hidden ones as the first shard sent them.
    fn write(&mut self, index: usize, layout: &Layout) -> Result<(), ClientError> {
        let Some(group) = self.groups.get(index) else { return Err(internal("a group is lost")) };
        if let Some(row) = &group.row {
            self.cells.read(row, layout)?;
        }
        let count = u16::try_from(layout.column_count()).map_err(|_| internal("too many columns"))?;
        let mut message = std::mem::take(&mut self.message);
        message.clear();
        message.extend_from_slice(&[tag::DATA_ROW, 0, 0, 0, 0]);
        message.extend_from_slice(&count.to_be_bytes());
        for column in 0..layout.column_count() {
            match (self.accumulator_of(column), &group.row) {
                (Some(at), _) => match (self.accumulators.get(at), group.states.get(at)) {
                    (Some(accumulator), Some(state)) => accumulator.write(state, layout, &mut message)?,
                    _ => return Err(internal("an aggregate is lost")),
                },
                (None, Some(row)) => write_cell(self.cells.bytes(row, column), &mut message)?,
                (None, None) if column >= layout.visible_count() => write_cell(None, &mut message)?,
                (None, None) => return Err(no_row()),
            }
        }
        let length = i32::try_from(message.len() - 1).map_err(|_| internal("a row is too long"))?;
        if let Some(place) = message.get_mut(1..HEADER_BYTES) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        self.message = message;
        Ok(())
    }
}

/// Without GROUP BY every shard gives one row. If none did, a column that is not an aggregate has no value.
fn no_row() -> ClientError {
    internal("no shard sent the row of an aggregate without groups")
}
