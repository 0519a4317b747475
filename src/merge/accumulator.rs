//! One aggregate: how it combines the shards' partial results.
//!
//! # Source
//! The transition and final functions of `pg_aggregate.dat` in `numeric.c`, `float.c`, `int8.c`.

use bytes::Bytes;

use super::order::require_order;
use super::row::{Cells, Layout};
use super::{internal, name_of, unreadable};
use crate::base::numeric::Numeric;
use crate::error::{ClientError, ErrorId};
use crate::plan::{AggregateFunction, AggregateOutput, ColumnRef};
use crate::wire::value::{Value, type_oid as t};

/// An aggregate of the statement, checked to be combinable exactly.
#[derive(Debug)]
pub(super) struct Accumulator {
    /// Column of the partial and of the combined result.
    pub(super) column: usize,
    kind: Kind,
}

/// How partial results combine, with the column numbers that an average needs.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Count,
    SumInteger,
    SumNumeric,
    SumFloat4,
    SumFloat8,
    Extreme {
        greatest: bool,
    },
    AverageNumeric {
        sum: usize,
        count: usize,
    },
    AverageFloat {
        sum: usize,
        count: usize,
    },
    /// The shards' own averages, weighted: their sums would be single precision.
    AverageFloat4 {
        count: usize,
    },
    Bool {
        and: bool,
    },
    Bits {
        and: bool,
    },
}

/// What has been combined so far for one group.
#[derive(Clone, Debug)]
pub(super) enum State {
    Integer(Option<i128>),
    Numeric(Option<Numeric>),
    Float4(Option<f32>),
    Float8(Option<f64>),
    /// The value and its cell, as the shard sent it.
    Extreme(Option<(Value, Box<[u8]>)>),
    Average {
        sum: Option<Numeric>,
        count: i128,
    },
    AverageFloat {
        sum: Option<f64>,
        count: i128,
    },
    Bool(Option<bool>),
}

impl State {
    /// Bytes held outside the state itself, as far as they can be many.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            // The value of a text type is a copy of its cell.
            Self::Extreme(Some((_, cell))) => 2 * cell.len(),
            _ => 0,
        }
    }
}

impl Accumulator {
    /// # Errors
    /// The types are not ones that are combined exactly.
    pub(super) fn new(output: &AggregateOutput, layout: &Layout) -> Result<Self, ClientError> {
        let (column, field) = layout.resolve(output.column)?;
        let kind = match (output.function, field.type_oid) {
            (AggregateFunction::Count, t::INT8) => Some(Kind::Count),
            (AggregateFunction::Sum, t::INT8) => Some(Kind::SumInteger),
            (AggregateFunction::Sum, t::NUMERIC) => Some(Kind::SumNumeric),
            (AggregateFunction::Sum, t::FLOAT4) => Some(Kind::SumFloat4),
            (AggregateFunction::Sum, t::FLOAT8) => Some(Kind::SumFloat8),
            (AggregateFunction::Min { text_is_bytewise }, _) => {
                require_order(field, text_is_bytewise, "min")?;
                Some(Kind::Extreme { greatest: false })
            }
            (AggregateFunction::Max { text_is_bytewise }, _) => {
                require_order(field, text_is_bytewise, "max")?;
                Some(Kind::Extreme { greatest: true })
            }
            (AggregateFunction::Avg { sum, count }, average) => average_kind(average, sum, count, layout)?,
            (AggregateFunction::BoolAnd, t::BOOL) => Some(Kind::Bool { and: true }),
            (AggregateFunction::BoolOr, t::BOOL) => Some(Kind::Bool { and: false }),
            (AggregateFunction::BitAnd, t::INT2 | t::INT4 | t::INT8) => Some(Kind::Bits { and: true }),
            (AggregateFunction::BitOr, t::INT2 | t::INT4 | t::INT8) => Some(Kind::Bits { and: false }),
            _ => None,
        };
        let kind = kind.ok_or_else(|| {
            ClientError::refused(
                format!(
                    "the aggregate in column \"{}\" cannot be combined across shards for type OID {}",
                    name_of(field),
                    field.type_oid
                ),
                "Cast its argument to numeric or double precision, or restrict the statement to one sharding key.",
            )
        })?;
        Ok(Self { column, kind })
    }

    /// The state before any row.
    pub(super) fn start(&self) -> State {
        match self.kind {
            Kind::Count => State::Integer(Some(0)),
            Kind::SumInteger | Kind::Bits { .. } => State::Integer(None),
            Kind::SumNumeric => State::Numeric(None),
            Kind::SumFloat4 => State::Float4(None),
            Kind::SumFloat8 => State::Float8(None),
            Kind::Extreme { .. } => State::Extreme(None),
            Kind::AverageNumeric { .. } => State::Average { sum: None, count: 0 },
            Kind::AverageFloat { .. } | Kind::AverageFloat4 { .. } => State::AverageFloat { sum: None, count: 0 },
            Kind::Bool { .. } => State::Bool(None),
        }
    }

    /// Adds a shard's partial result; NULLs change nothing.
    pub(super) fn add(
        &self,
        state: &mut State,
        row: &Bytes,
        cells: &Cells,
        layout: &Layout,
    ) -> Result<(), ClientError> {
        match (self.kind, state) {
            (Kind::AverageNumeric { sum, count }, State::Average { sum: total, count: rows }) => {
                let Some(partial) = read(sum, row, cells, layout)? else { return Ok(()) };
                let partial = to_numeric(partial).ok_or_else(mismatch)?;
                *total = Some(total.take().map_or_else(|| partial.clone(), |total| total.add(&partial)));
                *rows += read_count(count, row, cells, layout)?;
                Ok(())
            }
            (Kind::AverageFloat { sum, count }, State::AverageFloat { sum: total, count: rows }) => {
                let Some(Value::Float8(partial)) = read(sum, row, cells, layout)? else { return Ok(()) };
                *total = Some(total.map_or(Ok(partial), |total| add_float8(total, partial))?);
                *rows += read_count(count, row, cells, layout)?;
                Ok(())
            }
            (Kind::AverageFloat4 { count }, State::AverageFloat { sum: total, count: rows }) => {
                let Some(Value::Float8(average)) = read(self.column, row, cells, layout)? else { return Ok(()) };
                let weight = read_count(count, row, cells, layout)?;
                let partial = average * to_float(weight);
                *total = Some(total.map_or(Ok(partial), |total| add_float8(total, partial))?);
                *rows += weight;
                Ok(())
            }
            (_, state) => match read(self.column, row, cells, layout)? {
                Some(value) => self.add_value(state, value, cells.bytes(row, self.column).unwrap_or_default()),
                None => Ok(()),
            },
        }
    }

    fn add_value(&self, state: &mut State, value: Value, cell: &[u8]) -> Result<(), ClientError> {
        match (self.kind, state, value) {
            (Kind::Count | Kind::SumInteger, State::Integer(total), Value::Int(value)) => {
                *total = Some(total.unwrap_or(0) + i128::from(value));
            }
            (Kind::Bits { and }, State::Integer(total), Value::Int(value)) => {
                let value = i128::from(value);
                *total = Some(total.map_or(value, |total| if and { total & value } else { total | value }));
            }
            (_, State::Numeric(total), Value::Numeric(value)) => {
                let sum = total.take().map_or_else(|| value.clone(), |total| total.add(&value));
                if sum.overflows() {
                    return Err(out_of_range("value overflows numeric format"));
                }
                *total = Some(sum);
            }
            (_, State::Float4(total), Value::Float4(value)) => {
                let sum = total.map_or(value, |total| total + value);
                if sum.is_infinite() && !value.is_infinite() && !total.is_some_and(f32::is_infinite) {
                    return Err(out_of_range("value out of range: overflow"));
                }
                *total = Some(sum);
            }
            (_, State::Float8(total), Value::Float8(value)) => {
                *total = Some(total.map_or(Ok(value), |total| add_float8(total, value))?);
            }
            (Kind::Extreme { greatest }, State::Extreme(best), value) => {
                let better = best.as_ref().is_none_or(|(best, _)| {
                    let ordering = value.compare(best);
                    if greatest { ordering.is_gt() } else { ordering.is_lt() }
                });
                if better {
                    // Text refers to the row; the row is not kept.
                    *best = Some((detached(value), cell.into()));
                }
            }
            (Kind::Bool { and }, State::Bool(total), Value::Bool(value)) => {
                *total = Some(total.map_or(value, |total| if and { total && value } else { total || value }));
            }
            _ => return Err(mismatch()),
        }
        Ok(())
    }

    /// The combined value; `None` is NULL.
    pub(super) fn value(&self, state: &State) -> Result<Option<Value>, ClientError> {
        Ok(match state {
            State::Integer(total) => match total {
                Some(total) => {
                    Some(Value::Int(i64::try_from(*total).map_err(|_| out_of_range("bigint out of range"))?))
                }
                None => None,
            },
            State::Numeric(total) => total.clone().map(Value::Numeric),
            State::Float4(total) => total.map(Value::Float4),
            State::Float8(total) => total.map(Value::Float8),
            State::Extreme(best) => best.as_ref().map(|(value, _)| value.clone()),
            State::Average { sum, count } => match sum {
                Some(sum) if *count > 0 => {
                    Some(Value::Numeric(sum.div(&Numeric::from_i128(*count)).ok_or_else(mismatch)?))
                }
                _ => None,
            },
            State::AverageFloat { sum, count } => match sum {
                Some(sum) if *count > 0 => Some(Value::Float8(sum / to_float(*count))),
                _ => None,
            },
            State::Bool(total) => total.map(Value::Bool),
        })
    }

    /// Appends the combined value's cell to a DataRow body.
    pub(super) fn write(&self, state: &State, layout: &Layout, body: &mut Vec<u8>) -> Result<(), ClientError> {
        if let State::Extreme(Some((_, cell))) = state {
            return write_cell(Some(cell), body);
        }
        let Some(value) = self.value(state)? else { return write_cell(None, body) };
        let field = layout.field(self.column)?;
        let mut cell = Vec::new();
        value.encode(field.type_oid, field.format, &mut cell).map_err(|_| mismatch())?;
        write_cell(Some(&cell), body)
    }

    /// The columns with partial results that mean nothing once combined.
    pub(super) fn inputs(&self) -> Vec<usize> {
        match self.kind {
            Kind::AverageNumeric { sum, count } | Kind::AverageFloat { sum, count } => vec![sum, count],
            Kind::AverageFloat4 { count } => vec![count],
            _ => Vec::new(),
        }
    }
}

/// Which average, by the type of the result and of the shards' sums.
fn average_kind(average: u32, sum: ColumnRef, count: ColumnRef, layout: &Layout) -> Result<Option<Kind>, ClientError> {
    let (sum, sum_field) = layout.resolve(sum)?;
    let (count, count_field) = layout.resolve(count)?;
    if count_field.type_oid != t::INT8 {
        return Ok(None);
    }
    Ok(match (average, sum_field.type_oid) {
        (t::NUMERIC, t::INT8 | t::NUMERIC) => Some(Kind::AverageNumeric { sum, count }),
        (t::FLOAT8, t::FLOAT8) => Some(Kind::AverageFloat { sum, count }),
        (t::FLOAT8, t::FLOAT4) => Some(Kind::AverageFloat4 { count }),
        _ => None,
    })
}

fn read(column: usize, row: &Bytes, cells: &Cells, layout: &Layout) -> Result<Option<Value>, ClientError> {
    let Some(range) = cells.range(column) else { return Ok(None) };
    let field = layout.field(column)?;
    Value::decode_shared(field.type_oid, field.format, row, range).map(Some).map_err(|_| unreadable(field))
}

fn read_count(column: usize, row: &Bytes, cells: &Cells, layout: &Layout) -> Result<i128, ClientError> {
    match read(column, row, cells, layout)? {
        Some(Value::Int(count)) => Ok(i128::from(count)),
        None => Ok(0),
        Some(_) => Err(mismatch()),
    }
}

/// Appends length and bytes, or the mark of NULL.
pub(super) fn write_cell(cell: Option<&[u8]>, body: &mut Vec<u8>) -> Result<(), ClientError> {
    match cell {
        None => body.extend_from_slice(&(-1i32).to_be_bytes()),
        Some(cell) => {
            let length = i32::try_from(cell.len()).map_err(|_| mismatch())?;
            body.extend_from_slice(&length.to_be_bytes());
            body.extend_from_slice(cell);
        }
    }
    Ok(())
}

fn to_numeric(value: Value) -> Option<Numeric> {
    match value {
        Value::Int(value) => Some(Numeric::from_i64(value)),
        Value::Numeric(value) => Some(value),
        _ => None,
    }
}

/// A copy that does not keep the row alive.
fn detached(value: Value) -> Value {
    match value {
        Value::Text(bytes) => Value::Text(Bytes::copy_from_slice(&bytes)),
        Value::Bpchar(bytes) => Value::Bpchar(Bytes::copy_from_slice(&bytes)),
        Value::Bytea(bytes) => Value::Bytea(Bytes::copy_from_slice(&bytes)),
        other => other,
    }
}

/// `float8pl`: an infinity that neither operand is, is an error.
fn add_float8(a: f64, b: f64) -> Result<f64, ClientError> {
    let sum = a + b;
    if sum.is_infinite() && !a.is_infinite() && !b.is_infinite() {
        return Err(out_of_range("value out of range: overflow"));
    }
    Ok(sum)
}

#[allow(clippy::cast_precision_loss)]
fn to_float(count: i128) -> f64 {
    count as f64
}

fn out_of_range(message: &str) -> ClientError {
    ClientError::new(ErrorId::NumericOutOfRange, message)
}

fn mismatch() -> ClientError {
    internal("partial results of an aggregate do not have the types they were checked for")
}
