//! HAVING over combined rows, with SQL's three-valued logic.

use std::cmp::Ordering;

use bytes::Bytes;

use super::order::require_order;
use super::row::Layout;
use super::{internal, name_of};
use crate::error::{ClientError, ErrorId};
use crate::plan::{CompareOperator, Condition, Slot};
use crate::wire::Format;
use crate::wire::server_message::Field;
use crate::wire::value::{Comparability, Value, comparability, type_oid as t};

/// The value of a slot at bind time, as the executor hands it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constant {
    /// Type; 0 for a quoted literal or a parameter without a declared type: it takes the type of the
    /// column, as PostgreSQL resolves it.
    pub type_oid: u32,
    /// Format of `bytes`.
    pub format: Format,
    /// The value as sent or written (a minus sign of a literal included, quotes removed); `None` is NULL.
    pub bytes: Option<Bytes>,
}

impl Constant {
    /// NULL.
    pub fn null() -> Self {
        Self { type_oid: 0, format: Format::Text, bytes: None }
    }

    /// A literal without quotes: a number, with the minus sign that stands before it.
    pub fn number(text: impl Into<Bytes>) -> Self {
        Self { type_oid: t::NUMERIC, format: Format::Text, bytes: Some(text.into()) }
    }

    /// A quoted literal, without its quotes and escapes.
    pub fn quoted(text: impl Into<Bytes>) -> Self {
        Self { type_oid: 0, format: Format::Text, bytes: Some(text.into()) }
    }

    /// A parameter of Bind; the type is that of ParameterDescription, or 0.
    pub fn parameter(type_oid: u32, format: Format, bytes: Option<Bytes>) -> Self {
        Self { type_oid, format, bytes }
    }
}

/// A condition with its constants read and its columns checked.
#[derive(Debug)]
pub(super) enum Having {
    And(Vec<Having>),
    Or(Vec<Having>),
    Not(Box<Having>),
    Compare { column: usize, operator: CompareOperator, value: Option<Value> },
    IsNull { column: usize, negated: bool },
}

impl Having {
    /// # Errors
    /// Column and constant are of types that are not compared exactly here.
    pub(super) fn new(
        condition: &Condition,
        layout: &Layout,
        constants: &dyn Fn(&Slot) -> Option<Constant>,
    ) -> Result<Self, ClientError> {
        let all = |conditions: &[Condition]| {
            conditions.iter().map(|part| Self::new(part, layout, constants)).collect::<Result<Vec<_>, _>>()
        };
        Ok(match condition {
            Condition::And(parts) => Self::And(all(parts)?),
            Condition::Or(parts) => Self::Or(all(parts)?),
            Condition::Not(part) => Self::Not(Box::new(Self::new(part, layout, constants)?)),
            Condition::IsNull { column, negated } => {
                Self::IsNull { column: layout.resolve(*column)?.0, negated: *negated }
            }
            Condition::Compare { column, operator, value, text_is_bytewise } => {
                let (column, field) = layout.resolve(*column)?;
                let is_equality = matches!(operator, CompareOperator::Equal | CompareOperator::NotEqual);
                require_order(field, *text_is_bytewise || is_equality, "HAVING")?;
                let constant = match value {
                    Slot::Null => Constant::null(),
                    slot => constants(slot).ok_or_else(|| internal("a value of HAVING is not bound"))?,
                };
                Self::Compare { column, operator: *operator, value: read_constant(&constant, field)? }
            }
        })
    }

    /// The columns that are looked at.
    pub(super) fn columns(&self) -> Vec<usize> {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::columns).collect(),
            Self::Not(part) => part.columns(),
            Self::Compare { column, .. } | Self::IsNull { column, .. } => vec![*column],
        }
    }

    /// True, false or unknown (`None`) for a combined row.
    pub(super) fn evaluate(
        &self,
        value_of: &dyn Fn(usize) -> Result<Option<Value>, ClientError>,
    ) -> Result<Option<bool>, ClientError> {
        match self {
            Self::And(parts) => fold(parts, false, value_of),
            Self::Or(parts) => fold(parts, true, value_of),
            Self::Not(part) => Ok(part.evaluate(value_of)?.map(|truth| !truth)),
            Self::IsNull { column, negated } => Ok(Some(value_of(*column)?.is_none() != *negated)),
            Self::Compare { column, operator, value } => Ok(match (value_of(*column)?, value) {
                (Some(left), Some(right)) => Some(holds(*operator, left.compare(right))),
                _ => None,
            }),
        }
    }
}

/// AND (`deciding` false) or OR (`deciding` true): one deciding part decides, else one unknown makes it unknown.
fn fold(
    parts: &[Having],
    deciding: bool,
    value_of: &dyn Fn(usize) -> Result<Option<Value>, ClientError>,
) -> Result<Option<bool>, ClientError> {
    let mut truth = Some(!deciding);
    for part in parts {
        match part.evaluate(value_of)? {
            Some(value) if value == deciding => return Ok(Some(deciding)),
            Some(_) => {}
            None => truth = None,
        }
    }
    Ok(truth)
}

fn holds(operator: CompareOperator, ordering: Ordering) -> bool {
    match operator {
        CompareOperator::Equal => ordering.is_eq(),
        CompareOperator::NotEqual => ordering.is_ne(),
        CompareOperator::Less => ordering.is_lt(),
        CompareOperator::LessOrEqual => ordering.is_le(),
        CompareOperator::Greater => ordering.is_gt(),
        CompareOperator::GreaterOrEqual => ordering.is_ge(),
    }
}

/// Reads a constant as PostgreSQL would to compare it with the column.
fn read_constant(constant: &Constant, field: &Field) -> Result<Option<Value>, ClientError> {
    let type_oid = match constant.type_oid {
        0 | t::UNKNOWN => field.type_oid,
        type_oid => type_oid,
    };
    if !are_compared(field.type_oid, type_oid) {
        return Err(ClientError::refused(
            format!(
                "HAVING compares column \"{}\" of type OID {} with type OID {type_oid} across shards",
                name_of(field),
                field.type_oid
            ),
            "Cast the constant to the type of the column.",
        ));
    }
    let Some(bytes) = &constant.bytes else { return Ok(None) };
    Value::decode(type_oid, constant.format, bytes).map(Some).map_err(|_| {
        ClientError::new(
            ErrorId::InvalidTextRepresentation,
            format!("the constant that HAVING compares column \"{}\" with cannot be read", name_of(field)),
        )
        .with_hint("Write it as PostgreSQL prints values of the column's type.")
    })
}

/// Whether [`Value::compare`] is PostgreSQL's operator for these two types.
fn are_compared(column: u32, constant: u32) -> bool {
    let is_number = |type_oid| matches!(type_oid, t::INT2 | t::INT4 | t::INT8 | t::NUMERIC | t::FLOAT4 | t::FLOAT8);
    let is_text = |type_oid| matches!(type_oid, t::TEXT | t::VARCHAR | t::NAME);
    if column == constant {
        return comparability(column) != Comparability::Unknown;
    }
    (is_number(column) && is_number(constant)) || (is_text(column) && is_text(constant))
}
