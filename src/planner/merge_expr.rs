//! When two expressions of one SELECT are the same.
//!
//! Columns are the same by what they name, literals by their value. Values may be compared here because the
//! fingerprint of a statement with literals in GROUP BY, HAVING or ORDER BY says which of its literals are equal.

use super::Subject;
use super::scope::{Found, Scope};
use crate::sql::ast::{Call, Expr, OrderItem};

/// True when both give the same value for every row.
pub fn is_same(subject: &Subject<'_>, left: &Expr, right: &Expr, scope: &Scope) -> bool {
    normal(subject, left, scope) == normal(subject, right, scope)
}

/// The expression with columns named by their row source and literals by the first one of their value.
fn normal(subject: &Subject<'_>, expr: &Expr, scope: &Scope) -> Expr {
    let one = |expr: &Expr| Box::new(normal(subject, expr, scope));
    let all = |exprs: &[Expr]| exprs.iter().map(|expr| normal(subject, expr, scope)).collect::<Vec<_>>();
    match expr {
        Expr::Column { qualifier, name } => match scope.find(qualifier, name) {
            Found::Here(index, _) => Expr::Column { qualifier: vec![index.to_string()], name: name.clone() },
            Found::Outside(_) | Found::Unsure => expr.clone(),
        },
        Expr::Literal(index) => {
            let literals = &subject.lexed.literals;
            let same = literals.get(*index).and_then(|literal| literals.iter().position(|other| other == literal));
            Expr::Literal(same.unwrap_or(*index))
        }
        Expr::And(terms) => Expr::And(all(terms)),
        Expr::Or(terms) => Expr::Or(all(terms)),
        Expr::Row(terms) => Expr::Row(all(terms)),
        Expr::Not(expr) => Expr::Not(one(expr)),
        Expr::Unary { operator, expr } => Expr::Unary { operator: operator.clone(), expr: one(expr) },
        Expr::Binary { operator, left, right } => {
            Expr::Binary { operator: operator.clone(), left: one(left), right: one(right) }
        }
        Expr::IsNull { expr, negated } => Expr::IsNull { expr: one(expr), negated: *negated },
        Expr::InList { expr, list, negated } => Expr::InList { expr: one(expr), list: all(list), negated: *negated },
        Expr::Cast { expr, type_name } => Expr::Cast { expr: one(expr), type_name: type_name.clone() },
        Expr::Collate { expr, collation } => Expr::Collate { expr: one(expr), collation: collation.clone() },
        Expr::Other { what, children } => Expr::Other { what, children: all(children) },
        Expr::Function(call) if call.over.is_none() => Expr::Function(Box::new(normal_call(subject, call, scope))),
        other => other.clone(),
    }
}

fn normal_call(subject: &Subject<'_>, call: &Call, scope: &Scope) -> Call {
    let mut call = call.clone();
    for arg in call.args.iter_mut().chain(&mut call.filter) {
        *arg = normal(subject, arg, scope);
    }
    for item in &mut call.order_by {
        *item = OrderItem { expr: normal(subject, &item.expr, scope), tokens: 0..0, ..item.clone() };
    }
    call
}
