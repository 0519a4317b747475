//! Rows of the shards become PostgreSQL arrays in their binary format, a column each.
//!
//! # Source
//! `array_recv` and `array_send` in `src/backend/utils/adt/arrayfuncs.c`.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{ClientError, ErrorId};
use crate::plan::GatherPlan;
use crate::wire::server_message::{self, Field};

/// Types with OIDs from here on are not PostgreSQL's own: every server has its own number for them.
const USER_OIDS: u32 = 16_384;

/// Dimensions, flags, element type, length and lower bound.
const HEADER_BYTES: usize = 20;

/// The columns of all tables.
#[derive(Debug)]
pub struct Arrays {
    columns: Vec<Column>,
    /// For each table its first column and the one behind its last.
    tables: Vec<(usize, usize)>,
    /// Types as the plan knows them.
    planned: Vec<u32>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Column {
    element_type: u32,
    elements: u32,
    has_null: bool,
    body: BytesMut,
}

impl Arrays {
    /// No rows. `element_types` are those of the finishing server.
    pub fn new(plan: &GatherPlan, element_types: &[u32], bytes_max: usize) -> Self {
        let mut tables = Vec::new();
        let mut planned = Vec::new();
        for source in &plan.sources {
            let start = planned.len();
            planned.extend(source.columns.iter().map(|column| column.type_oid));
            tables.push((start, planned.len()));
        }
        let columns = element_types
            .iter()
            .map(|oid| Column {
                element_type: *oid,
                elements: 0,
                has_null: false,
                body: BytesMut::zeroed(HEADER_BYTES),
            })
            .collect();
        Self { columns, tables, planned, bytes: 0, bytes_max }
    }

    /// Whether a shard's columns are what the plan says.
    ///
    /// # Errors
    /// The schema has changed since the plan was made.
    pub fn check_types(&self, fields: &[Field]) -> Result<(), ClientError> {
        let is_same = |planned: u32, found: u32| planned == found || planned >= USER_OIDS && found >= USER_OIDS;
        let own = fields.get(1..).unwrap_or_default();
        if own.len() == self.planned.len()
            && own.iter().zip(&self.planned).all(|(field, planned)| is_same(*planned, field.type_oid))
        {
            return Ok(());
        }
        Err(ClientError::refused(
            "a table's columns are not what the proxy knows of them",
            "Run the statement again once the change of the schema is committed.",
        ))
    }

    /// Adds a row: the table's index, then all tables' columns.
    ///
    /// # Errors
    /// The budget is exceeded, or the row is not what was asked for.
    pub fn push(&mut self, body: &Bytes) -> Result<(), ClientError> {
        let malformed = || ClientError::new(ErrorId::Internal, "a gathered row is not what was asked for");
        let values = server_message::read_data_row(body).map_err(|_| malformed())?;
        let table = values.first().and_then(Option::as_ref).and_then(|tag| <[u8; 4]>::try_from(tag.as_ref()).ok());
        let table = table.map_or(usize::MAX, |tag| u32::from_be_bytes(tag) as usize);
        let (start, end) = *self.tables.get(table).ok_or_else(malformed)?;
        let cells = values.get(start + 1..end + 1).ok_or_else(malformed)?;
        let columns = self.columns.get_mut(start..end).ok_or_else(malformed)?;
        for (column, cell) in columns.iter_mut().zip(cells) {
            self.bytes += 4 + cell.as_ref().map_or(0, Bytes::len);
            column.push(cell.as_deref());
        }
        if self.bytes <= self.bytes_max {
            return Ok(());
        }
        Err(ClientError::new(
            ErrorId::LimitExceeded,
            format!("the statement needs more than {} MB of rows from several shards at once", self.bytes_max >> 20),
        )
        .with_hint(
            "Restrict the tables in WHERE by comparing columns with constants, join on the sharding key, or raise gather_bytes_max in [merge].",
        ))
    }

    /// The arrays in the order of the columns.
    pub fn finish(self) -> impl Iterator<Item = Bytes> {
        self.columns.into_iter().map(Column::finish)
    }
}

impl Column {
    fn push(&mut self, cell: Option<&[u8]>) {
        self.elements += 1;
        match cell {
            Some(bytes) => {
                self.body.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
                self.body.put_slice(bytes);
            }
            None => {
                self.has_null = true;
                self.body.put_i32(-1);
            }
        }
    }

    fn finish(mut self) -> Bytes {
        let is_empty = self.elements == 0;
        let mut header = BytesMut::with_capacity(HEADER_BYTES);
        header.put_i32(i32::from(!is_empty));
        header.put_i32(i32::from(self.has_null));
        header.put_u32(self.element_type);
        if is_empty {
            return header.freeze();
        }
        header.put_u32(self.elements);
        header.put_i32(1);
        if let Some(place) = self.body.get_mut(..HEADER_BYTES) {
            place.copy_from_slice(&header);
        }
        self.body.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{GatherColumn, GatherSource};
    use crate::topology::TableName;

    fn plan(columns: &[usize]) -> GatherPlan {
        let column = || GatherColumn { name: "a".into(), expression: "a".into(), element: "int4".into(), type_oid: 23 };
        let sources = columns
            .iter()
            .map(|count| GatherSource {
                table: TableName { schema: "public".into(), name: "t".into() },
                shard: None,
                columns: (0..*count).map(|_| column()).collect(),
                from: Vec::new(),
                is_filtered: false,
                params: Vec::new(),
            })
            .collect();
        GatherPlan { sources, finish: None, splices: Vec::new(), params: 0, partial: None }
    }

    fn row(values: &[Option<&[u8]>]) -> Bytes {
        let mut buffer = BytesMut::new();
        server_message::write_data_row(&mut buffer, values);
        buffer.freeze().slice(5..)
    }

    #[test]
    fn rows_go_to_their_own_tables_columns() {
        let mut arrays = Arrays::new(&plan(&[1, 1]), &[23, 23], 1000);
        let seven: &[u8] = &7_i32.to_be_bytes();
        arrays.push(&row(&[Some(&[0, 0, 0, 0]), Some(seven), None])).unwrap();
        arrays.push(&row(&[Some(&[0, 0, 0, 1]), None, None])).unwrap();
        let found: Vec<Bytes> = arrays.finish().collect();
        assert_eq!(
            found[0].as_ref(),
            [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 7]
        );
        assert_eq!(
            found[1].as_ref(),
            [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 23, 0, 0, 0, 1, 0, 0, 0, 1, 255, 255, 255, 255]
        );
    }

    #[test]
    fn no_rows_are_an_array_without_dimensions() {
        let found: Vec<Bytes> = Arrays::new(&plan(&[1]), &[23], 1000).finish().collect();
        assert_eq!(found[0].as_ref(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23]);
    }

    #[test]
    fn more_than_the_budget_is_an_error() {
        let mut arrays = Arrays::new(&plan(&[1]), &[23], 20);
        let cell = Some([0; 4].as_slice());
        arrays.push(&row(&[Some(&[0; 4]), cell])).unwrap();
        arrays.push(&row(&[Some(&[0; 4]), cell])).unwrap();
        assert_eq!(arrays.push(&row(&[Some(&[0; 4]), cell])).unwrap_err().sqlstate(), "54000");
    }

    #[test]
    fn a_row_of_no_table_is_an_error() {
        let mut arrays = Arrays::new(&plan(&[1]), &[23], 1000);
        assert!(arrays.push(&row(&[Some(&[0, 0, 0, 1]), None])).is_err());
        assert!(arrays.push(&row(&[None, None])).is_err());
        assert!(arrays.push(&row(&[Some(&[0, 0, 0, 0])])).is_err());
    }
}
