//! Where the cells of a row are, and which of them the client sees.

use bytes::BytesMut;

use super::{HEADER_BYTES, internal, malformed};
use crate::error::ClientError;
use crate::plan::ColumnRef;
use crate::wire::server_message::Field;

/// Where the first cell of a DataRow message is: behind tag, length and number of cells.
const FIRST_CELL: usize = HEADER_BYTES + 2;

/// The columns of the shards' rows.
#[derive(Debug)]
pub(super) struct Layout {
    fields: Vec<Field>,
    visible: usize,
}

impl Layout {
    pub(super) fn new(fields: &[Field], hidden: usize) -> Result<Self, ClientError> {
        let visible =
            fields.len().checked_sub(hidden).ok_or_else(|| internal("the shards' rows lack the hidden columns"))?;
        Ok(Self { fields: fields.to_vec(), visible })
    }

    pub(super) fn visible_fields(&self) -> &[Field] {
        self.fields.get(..self.visible).unwrap_or_default()
    }

    pub(super) fn column_count(&self) -> usize {
        self.fields.len()
    }

    pub(super) fn visible_count(&self) -> usize {
        self.visible
    }

    /// Index among all columns, and the column itself.
    pub(super) fn resolve(&self, column: ColumnRef) -> Result<(usize, &Field), ClientError> {
        let index = match column {
            ColumnRef::Visible(index) => Some(index).filter(|index| *index < self.visible),
            ColumnRef::Hidden(index) => Some(self.visible + index),
        };
        index
            .and_then(|index| self.fields.get(index).map(|field| (index, field)))
            .ok_or_else(|| internal("the merge names a column that the shards' rows lack"))
    }

    pub(super) fn field(&self, index: usize) -> Result<&Field, ClientError> {
        self.fields.get(index).ok_or_else(|| internal("the merge names a column that the shards' rows lack"))
    }

    /// The client sees every column.
    pub(super) fn is_all_visible(&self) -> bool {
        self.visible == self.fields.len()
    }

    /// Appends the DataRow message that the client gets. Without hidden columns it is the shard's own.
    pub(super) fn write_visible(
        &self,
        message: &[u8],
        visible_end: Option<usize>,
        out: &mut BytesMut,
    ) -> Result<(), ClientError> {
        if self.is_all_visible() {
            out.extend_from_slice(message);
            return Ok(());
        }
        let end = match visible_end {
            Some(end) => end,
            None => self.visible_end(message)?,
        };
        let cells = message.get(FIRST_CELL..end).ok_or_else(malformed)?;
        let count = u16::try_from(self.visible).map_err(|_| malformed())?;
        let length = i32::try_from(cells.len() + 6).map_err(|_| malformed())?;
        out.reserve(7 + cells.len());
        out.extend_from_slice(&[crate::wire::server_message::tag::DATA_ROW]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(cells);
        Ok(())
    }

    /// Offset in the message after the last visible cell.
    fn visible_end(&self, message: &[u8]) -> Result<usize, ClientError> {
        let mut offset = FIRST_CELL;
        for _ in 0..self.visible {
            offset = read_cell(message, offset).ok_or_else(malformed)?.1;
        }
        Ok(offset)
    }
}

/// The cells of one row as ranges of what it was read from; kept and filled again for each row.
#[derive(Debug, Default)]
pub(super) struct Cells {
    ranges: Vec<Option<std::ops::Range<usize>>>,
    visible_end: usize,
}

impl Cells {
    /// Finds all cells of a message.
    pub(super) fn read(&mut self, message: &[u8], layout: &Layout) -> Result<(), ClientError> {
        self.read_some(message, 0, layout, layout.column_count())
    }

    /// Finds so many cells of the message that begins at `start` and ends with the slice; whoever needs the first ones
    /// only need not walk over all.
    pub(super) fn read_some(
        &mut self,
        run: &[u8],
        start: usize,
        layout: &Layout,
        columns: usize,
    ) -> Result<(), ClientError> {
        self.ranges.clear();
        let count = match run.get(start + HEADER_BYTES..start + FIRST_CELL) {
            Some([high, low]) => usize::from(u16::from_be_bytes([*high, *low])),
            _ => return Err(malformed()),
        };
        if count != layout.column_count() {
            return Err(malformed());
        }
        let mut offset = start + FIRST_CELL;
        self.visible_end = offset;
        for column in 0..columns.min(count) {
            let (range, next) = read_cell(run, offset).ok_or_else(malformed)?;
            self.ranges.push(range);
            offset = next;
            if column + 1 == layout.visible_count() {
                self.visible_end = offset;
            }
        }
        let is_whole = columns < count || offset == run.len();
        if is_whole { Ok(()) } else { Err(malformed()) }
    }

    /// The cell's place; `None` for NULL.
    pub(super) fn range(&self, column: usize) -> Option<std::ops::Range<usize>> {
        self.ranges.get(column).cloned().flatten()
    }

    /// The cell's bytes; `None` for NULL.
    pub(super) fn bytes<'row>(&self, row: &'row [u8], column: usize) -> Option<&'row [u8]> {
        row.get(self.range(column)?)
    }

    pub(super) fn visible_end(&self) -> usize {
        self.visible_end
    }
}

/// Range of the cell that begins at the offset (`None` for NULL), and where the next one begins.
#[allow(clippy::type_complexity)]
fn read_cell(body: &[u8], offset: usize) -> Option<(Option<std::ops::Range<usize>>, usize)> {
    let start = offset.checked_add(4)?;
    let length = i32::from_be_bytes(body.get(offset..start)?.try_into().ok()?);
    if length == -1 {
        return Some((None, start));
    }
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    (end <= body.len()).then_some((Some(start..end), end))
}
