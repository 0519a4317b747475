//! Which conjunctions of a condition say something of key columns. What is not understood says nothing.
//!
//! Only PostgreSQL's own `=` between bare columns and constants counts: a function, a COLLATE or a cast round the
//! column, or another operator, may mean anything.

use super::env::{Assign, Fact, Learned, Node};
use super::scope::{Scope, ScopeColumn};
use crate::plan::Slot;
use crate::sql::ast::Expr;
use crate::topology::KeyType;

/// More members than this are not followed.
const ALTERNATIVES_MAX: usize = 4_096;

/// What one condition, true for every row that counts, teaches.
pub fn learn(condition: &Expr, scope: &Scope, learned: &mut Vec<Learned>) {
    match condition {
        Expr::And(terms) => terms.iter().for_each(|term| learn(term, scope, learned)),
        Expr::Binary { operator, left, right } if operator == "=" => learn_equal(left, right, scope, learned),
        other => learned.extend(alternatives(other, scope).map(Learned::Fact)),
    }
}

/// What `left = right` teaches.
pub fn learn_equal(left: &Expr, right: &Expr, scope: &Scope, learned: &mut Vec<Learned>) {
    match (left, right) {
        (Expr::Row(lefts), Expr::Row(rights)) => {
            if lefts.len() == rights.len() {
                lefts.iter().zip(rights).for_each(|(left, right)| learn_equal(left, right, scope, learned));
            }
        }
        _ => {
            if let (Some((left, left_type)), Some((right, right_type))) = (node(left, scope), node(right, scope)) {
                if is_same_family(left_type, right_type) {
                    learned.push(Learned::Equal(left, right));
                }
            } else {
                learned.extend(equal(left, right, scope).map(|assigns| Learned::Fact(vec![assigns])));
            }
        }
    }
}

/// The bare column that an expression is, when it is known and can be a key.
pub fn node(expr: &Expr, scope: &Scope) -> Option<(Node, KeyType)> {
    column(expr, scope)?.node
}

/// The bare column that an expression is, when it is known.
pub fn column<'s>(expr: &Expr, scope: &'s Scope) -> Option<&'s ScopeColumn> {
    match expr {
        Expr::Column { qualifier, name } => scope.find(qualifier, name).column(),
        _ => None,
    }
}

/// Types within a family hash alike, and comparing them compares the values themselves.
pub fn is_same_family(left: KeyType, right: KeyType) -> bool {
    family(left) == family(right)
}

/// The type in which values of a type are compared: PostgreSQL compares varchar as text.
pub fn compared_as(key_type: KeyType) -> KeyType {
    match key_type {
        KeyType::Varchar => KeyType::Text,
        other => other,
    }
}

fn family(key_type: KeyType) -> u8 {
    match key_type {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => 0,
        KeyType::Text | KeyType::Varchar => 1,
        KeyType::Bpchar => 2,
        KeyType::Uuid => 3,
        KeyType::Bytea => 4,
        KeyType::Date => 5,
        KeyType::Timestamp => 6,
        KeyType::TimestampTz => 7,
        KeyType::Numeric => 8,
    }
}

/// The constant that an expression is, compared with (or stored into) a column of that type.
pub fn constant(expr: &Expr, column_type: KeyType) -> Option<(Slot, KeyType)> {
    match expr {
        Expr::Param(number) => Some((Slot::Param(*number), column_type)),
        Expr::Literal(index) => Some((Slot::Literal { index: *index, negative: false }, column_type)),
        Expr::Null => Some((Slot::Null, column_type)),
        Expr::Unary { operator, expr } if operator == "-" => match constant(expr, column_type)? {
            (Slot::Literal { index, negative: false }, key_type) => {
                Some((Slot::Literal { index, negative: true }, key_type))
            }
            _ => None,
        },
        Expr::Cast { expr, type_name } => {
            let cast_type = type_of_name(type_name).filter(|cast_type| is_same_family(*cast_type, column_type))?;
            // A cast within the cast may be of another type: its value is not that of the text.
            match constant(expr, cast_type)? {
                (slot, key_type) if key_type == cast_type => Some((slot, cast_type)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The key type that a type name without length or precision means.
fn type_of_name(name: &str) -> Option<KeyType> {
    let name = name.strip_prefix("pg_catalog.").unwrap_or(name);
    Some(match name {
        "smallint" | "int2" => KeyType::Int2,
        "integer" | "int" | "int4" => KeyType::Int4,
        "bigint" | "int8" => KeyType::Int8,
        "text" | "varchar" | "character varying" => KeyType::Text,
        "bpchar" => KeyType::Bpchar,
        "uuid" => KeyType::Uuid,
        "bytea" => KeyType::Bytea,
        "date" => KeyType::Date,
        "timestamp" | "timestamp without time zone" => KeyType::Timestamp,
        "timestamptz" | "timestamp with time zone" => KeyType::TimestampTz,
        "numeric" | "decimal" => KeyType::Numeric,
        _ => return None,
    })
}

/// `column = constant`, either way round.
fn equal(left: &Expr, right: &Expr, scope: &Scope) -> Option<Vec<Assign>> {
    if let (Expr::Row(lefts), Expr::Row(rights)) = (left, right) {
        if lefts.len() != rights.len() {
            return None;
        }
        let assigns: Vec<Assign> =
            lefts.iter().zip(rights).filter_map(|(left, right)| equal(left, right, scope)).flatten().collect();
        return (!assigns.is_empty()).then_some(assigns);
    }
    let one = |column: &Expr, value: &Expr| {
        let (node, column_type) = node(column, scope)?;
        let (slot, key_type) = constant(value, column_type)?;
        Some(vec![Assign { node, slot, key_type, is_array: false }])
    };
    one(left, right).or_else(|| one(right, left))
}

/// The conjunctions of which one holds when the condition holds.
fn alternatives(condition: &Expr, scope: &Scope) -> Option<Fact> {
    match condition {
        Expr::Binary { operator, left, right } if operator == "=" => {
            equal(left, right, scope).map(|assigns| vec![assigns])
        }
        Expr::InList { expr, list, negated: false } => members(expr, list, scope),
        Expr::AnyAll { left, operator, right, all: false } if operator == "=" => any_of(left, right, scope),
        Expr::And(terms) => {
            let mut combined: Option<Fact> = None;
            for fact in terms.iter().filter_map(|term| alternatives(term, scope)) {
                combined = match combined {
                    None => Some(fact),
                    Some(so_far) if so_far.len().saturating_mul(fact.len()) > ALTERNATIVES_MAX => Some(so_far),
                    Some(so_far) => Some(
                        so_far
                            .iter()
                            .flat_map(|left| fact.iter().map(move |right| left.iter().chain(right).cloned().collect()))
                            .collect(),
                    ),
                };
            }
            combined
        }
        Expr::Or(terms) => {
            let mut all = Vec::new();
            for term in terms {
                all.extend(alternatives(term, scope)?);
                if all.len() > ALTERNATIVES_MAX {
                    return None;
                }
            }
            Some(all)
        }
        _ => None,
    }
}

/// `column = ANY (array)`: the array is written out, or a value.
fn any_of(left: &Expr, array: &Expr, scope: &Scope) -> Option<Fact> {
    if let Expr::Other { what: "array", children } = array {
        return members(left, children, scope);
    }
    let (node, column_type) = node(left, scope)?;
    let assign = |slot: Slot, key_type: KeyType, is_array: bool| vec![Assign { node, slot, key_type, is_array }];
    match array {
        Expr::Param(_) | Expr::Literal(_) => {
            let (slot, key_type) = constant(array, column_type)?;
            Some(vec![assign(slot, key_type, true)])
        }
        Expr::Cast { expr, type_name } => {
            let element = type_of_name(type_name.strip_suffix("[]")?)?;
            if !is_same_family(element, column_type) {
                return None;
            }
            match expr.as_ref() {
                Expr::Param(_) | Expr::Literal(_) => {
                    let (slot, key_type) = constant(expr, element)?;
                    Some(vec![assign(slot, key_type, true)])
                }
                Expr::Other { what: "array", children } if children.len() <= ALTERNATIVES_MAX => children
                    .iter()
                    .map(|child| match constant(child, element)? {
                        (slot, key_type) if key_type == element => Some(assign(slot, key_type, false)),
                        _ => None,
                    })
                    .collect(),
                _ => None,
            }
        }
        _ => None,
    }
}

fn members(expr: &Expr, list: &[Expr], scope: &Scope) -> Option<Fact> {
    if list.len() > ALTERNATIVES_MAX {
        return None;
    }
    list.iter().map(|member| equal(expr, member, scope)).collect()
}
