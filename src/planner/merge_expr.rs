//! When two expressions of one SELECT are the same.
//!
//! Columns are the same by what they name, literals by their value. Values may be compared here because the
//! fingerprint of a statement with literals in GROUP BY, HAVING or ORDER BY says which of its literals are equal.

use super::Subject;
use super::scope::{Found, Scope};
use super::visit;
use crate::sql::TokenKind;
use crate::sql::ast::{Call, Expr, OrderItem, TokenRange};

/// True when both give the same value for every row.
pub fn is_same(subject: &Subject<'_>, left: &Expr, right: &Expr, scope: &Scope) -> bool {
    std::ptr::eq(left, right)
        || !hides_words(left) && !hides_words(right) && normal(subject, left, scope) == normal(subject, right, scope)
}

/// True when both stretches of text are the same token by token: then they mean the same, whatever they are.
pub fn are_same_tokens(subject: &Subject<'_>, left: &TokenRange, right: &TokenRange) -> bool {
    left.len() == right.len()
        && left.clone().zip(right.clone()).all(|(left, right)| {
            let tokens = &subject.lexed.tokens;
            match (tokens.get(left).map(|token| token.kind), tokens.get(right).map(|token| token.kind)) {
                (Some(TokenKind::Literal(left)), Some(TokenKind::Literal(right))) => {
                    subject.lexed.literals.get(left) == subject.lexed.literals.get(right)
                }
                (Some(TokenKind::Word), Some(TokenKind::Word)) => {
                    subject.token(left).eq_ignore_ascii_case(subject.token(right))
                }
                (left_kind, right_kind) => {
                    left_kind.is_some() && left_kind == right_kind && subject.token(left) == subject.token(right)
                }
            }
        })
}

/// True when the tree does not say everything that the text says: NOT LIKE and LIKE, `(x).a` and `(x).b`, the arms of
/// CASE look alike in it.
fn hides_words(expr: &Expr) -> bool {
    const WHOLE: &[&str] = &[
        "array",
        "at time zone",
        "is distinct from",
        "is false",
        "is not distinct from",
        "is not false",
        "is not true",
        "is not unknown",
        "is true",
        "is unknown",
    ];
    visit::any(expr, &|part| match part {
        Expr::Other { what, .. } => !WHOLE.contains(what),
        Expr::Function(call) => call.over.is_some(),
        _ => false,
    })
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
