//! Sort keys: which columns, decoded once a row, and the order among them.

use std::cmp::Ordering;

use bytes::Bytes;

use super::row::{Cells, Layout};
use super::{name_of, unreadable};
use crate::error::ClientError;
use crate::plan::OrderKey;
use crate::wire::Format;
use crate::wire::server_message::Field;
use crate::wire::value::{Comparability, Value, comparability};

/// The sort keys of a row; `None` is NULL.
pub(super) type Keys = Vec<Option<Value>>;

/// The columns to sort by, checked to be sortable.
#[derive(Debug)]
pub(super) struct SortOrder {
    columns: Vec<SortColumn>,
}

#[derive(Debug)]
struct SortColumn {
    index: usize,
    type_oid: u32,
    format: Format,
    descending: bool,
    nulls_first: bool,
}

impl SortOrder {
    /// # Errors
    /// A column's type has no order that is known here.
    pub(super) fn new(keys: &[OrderKey], layout: &Layout) -> Result<Self, ClientError> {
        let mut columns = Vec::with_capacity(keys.len());
        for key in keys {
            let (index, field) = layout.resolve(key.column)?;
            require_order(field, key.text_is_bytewise, "ORDER BY")?;
            columns.push(SortColumn {
                index,
                type_oid: field.type_oid,
                format: field.format,
                descending: key.descending,
                nulls_first: key.nulls_first,
            });
        }
        Ok(Self { columns })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// Column indexes, the most significant first.
    pub(super) fn indexes(&self) -> impl Iterator<Item = usize> + '_ {
        self.columns.iter().map(|column| column.index)
    }

    /// So many columns from the left hold all keys.
    pub(super) fn columns_looked_at(&self) -> usize {
        self.columns.iter().map(|column| column.index + 1).max().unwrap_or(0)
    }

    /// Replaces `keys` with those of a row, whose cells are places in `row`.
    pub(super) fn decode(
        &self,
        row: &Bytes,
        cells: &Cells,
        layout: &Layout,
        keys: &mut Keys,
    ) -> Result<(), ClientError> {
        keys.clear();
        for column in &self.columns {
            let value = match cells.range(column.index) {
                None => None,
                Some(range) => match Value::decode_shared(column.type_oid, column.format, row, range) {
                    Ok(value) => Some(value),
                    Err(_) => return Err(unreadable(layout.field(column.index)?)),
                },
            };
            keys.push(value);
        }
        Ok(())
    }

    /// The order of two rows' keys. NULLS FIRST and LAST hold whatever the direction.
    pub(super) fn compare(&self, a: &[Option<Value>], b: &[Option<Value>]) -> Ordering {
        for (column, (a, b)) in self.columns.iter().zip(a.iter().zip(b)) {
            let ordering = match (a, b) {
                (None, None) => Ordering::Equal,
                (None, Some(_)) if column.nulls_first => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(_), None) if column.nulls_first => Ordering::Greater,
                (Some(_), None) => Ordering::Less,
                (Some(a), Some(b)) if column.descending => b.compare(a),
                (Some(a), Some(b)) => a.compare(b),
            };
            if ordering != Ordering::Equal {
                return ordering;
            }
        }
        Ordering::Equal
    }
}

/// Refuses a column whose order is not known exactly.
pub(super) fn require_order(field: &Field, text_is_bytewise: bool, clause: &str) -> Result<(), ClientError> {
    match comparability(field.type_oid) {
        Comparability::Exact => Ok(()),
        Comparability::Collated if text_is_bytewise => Ok(()),
        Comparability::Collated => Err(ClientError::refused(
            format!(
                "{clause} of column \"{}\" depends on a collation and cannot be merged across shards",
                name_of(field)
            ),
            "Add COLLATE \"C\", or restrict the statement to one sharding key.",
        )),
        Comparability::Unknown => Err(ClientError::refused(
            format!(
                "{clause} of column \"{}\" cannot be merged across shards: the order of type OID {} is not known",
                name_of(field),
                field.type_oid
            ),
            "Cast the column to a number, a date or text COLLATE \"C\", or restrict the statement to one sharding key.",
        )),
    }
}
