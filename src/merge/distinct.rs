//! DISTINCT over the visible columns.
//!
//! Shards remove their own duplicates; here those between shards go. Equal rows need not be
//! neighbours when the order does not cover all columns, so the rows seen are remembered: all of them,
//! or only those of the current run of equal sort keys when every sort key is a visible column (equal
//! rows then have equal keys).

use std::collections::HashSet;

use super::row::{Cells, Layout};
use super::{Budget, name_of, over_budget, unreadable};
use crate::error::ClientError;
use crate::plan::{ColumnRef, OrderKey};
use crate::wire::server_message::Field;
use crate::wire::value::{append_equality_key, has_equality};

/// What a key costs beyond its bytes: the set's slot and the allocation.
const KEY_OVERHEAD_BYTES: usize = 48;

/// Remembers the rows seen.
#[derive(Debug)]
pub(super) struct Distinct {
    seen: HashSet<Vec<u8>>,
    seen_bytes: usize,
    budget: Budget,
    forget_after_run: bool,
    cells: Cells,
    key: Vec<u8>,
}

impl Distinct {
    /// # Errors
    /// A visible column's type has no equality that is known here.
    pub(super) fn new(layout: &Layout, order: &[OrderKey], budget: Budget) -> Result<Self, ClientError> {
        for field in layout.visible_fields() {
            require_equality(field, "DISTINCT")?;
        }
        let forget_after_run = !order.is_empty() && order.iter().all(|key| matches!(key.column, ColumnRef::Visible(_)));
        Ok(Self {
            seen: HashSet::new(),
            seen_bytes: 0,
            budget,
            forget_after_run,
            cells: Cells::default(),
            key: Vec::new(),
        })
    }

    /// Whether the row is the first of its kind.
    pub(super) fn admit(&mut self, body: &[u8], same_keys: bool, layout: &Layout) -> Result<bool, ClientError> {
        if self.forget_after_run && !same_keys {
            self.seen.clear();
            self.seen_bytes = 0;
        }
        self.cells.read(body, layout)?;
        self.key.clear();
        for (column, field) in layout.visible_fields().iter().enumerate() {
            append_cell_key(field, self.cells.bytes(body, column), &mut self.key)?;
        }
        if self.seen.contains(&self.key) {
            return Ok(false);
        }
        self.seen_bytes += self.key.len() + KEY_OVERHEAD_BYTES;
        if self.seen.len() >= self.budget.rows || self.seen_bytes > self.budget.bytes {
            return Err(over_budget("the distinct rows"));
        }
        self.seen.insert(self.key.clone());
        Ok(true)
    }
}

/// Appends a cell to a key of several cells, so that no two lists of cells give the same bytes.
pub(super) fn append_cell_key(field: &Field, cell: Option<&[u8]>, key: &mut Vec<u8>) -> Result<(), ClientError> {
    let Some(cell) = cell else {
        key.push(0);
        return Ok(());
    };
    key.push(1);
    let length_at = key.len();
    key.extend_from_slice(&[0; 4]);
    if !append_equality_key(field.type_oid, field.format, cell, key) {
        return Err(unreadable(field));
    }
    // A cell has less than 1 GiB, and its key is hardly longer.
    let length = u32::try_from(key.len() - length_at - 4).unwrap_or(u32::MAX);
    if let Some(place) = key.get_mut(length_at..length_at + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

/// Refuses a column whose equality is not known exactly.
pub(super) fn require_equality(field: &Field, clause: &str) -> Result<(), ClientError> {
    if has_equality(field.type_oid, field.format) {
        return Ok(());
    }
    Err(ClientError::refused(
        format!(
            "{clause} over column \"{}\" cannot be merged across shards: when values of type OID {} are equal is not known",
            name_of(field),
            field.type_oid
        ),
        "Cast the column to text, or restrict the statement to one sharding key.",
    ))
}
