//! What a call may do, judged by its name. Must not know: tables, shards.

use std::collections::HashSet;
use std::sync::LazyLock;

use super::builtins;
use super::visit;
use crate::sql::ast::{Call, Expr, ObjectName};
use crate::topology::schema::{Schema, Volatility};

/// What a function may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An aggregate of PostgreSQL's own.
    Aggregate,
    /// A window function of PostgreSQL's own.
    Window,
    /// The current time.
    Time,
    /// Volatile, each call for itself: random() and its like.
    RowLocal,
    /// nextval and its like.
    Sequence,
    /// Runs SQL given as text.
    ReadsByText,
    /// Looks at or acts on one server.
    NodeLocal,
    /// Depends on the session only.
    Session,
    /// Depends on its arguments only.
    Plain,
    /// A user's function that is declared IMMUTABLE; [`is_aggregate`] tells whether it is an aggregate.
    UserImmutable,
    /// Any other user's function.
    User,
}

/// Functions of common extensions that are volatile and yet look at nothing but their arguments.
const HARMLESS_EXTENSIONS: &[&str] = &[
    "crypt",
    "gen_random_bytes",
    "gen_salt",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v3",
    "uuid_generate_v4",
    "uuid_generate_v5",
];

fn listed(list: &[&str], name: &str) -> bool {
    list.binary_search(&name).is_ok()
}

/// What a function of that name may do.
pub fn kind(schema: &Schema, name: &ObjectName) -> Kind {
    let is_catalog = matches!(name.schema.as_deref(), Some("pg_catalog"));
    let user = if is_catalog { None } else { schema.functions.get(&name.name).copied() };
    let plain_name = name.name.as_str();
    match (user, name.schema.as_deref()) {
        (Some(_), _) if HARMLESS_EXTENSIONS.contains(&plain_name) => Kind::RowLocal,
        // A user's function of a built-in's name may be the one that is called, or not: the worse of both.
        (Some(Volatility::Immutable), _) if builtin(plain_name).is_none() => Kind::UserImmutable,
        (Some(Volatility::Immutable), None) => builtin(plain_name).unwrap_or(Kind::User),
        (Some(_), _) => Kind::User,
        (None, None | Some("pg_catalog")) => builtin(plain_name).unwrap_or(Kind::User),
        // Helpers of PostgreSQL's own views.
        (None, Some("information_schema")) => Kind::NodeLocal,
        (None, Some(_)) => Kind::User,
    }
}

/// True for a function that may leave something in the session that called it: one of a user's that is volatile, one
/// that nobody knows, one that runs SQL given as text.
pub fn may_leave_something(schema: &Schema, qualifier: Option<&str>, name: &str) -> bool {
    let user = if qualifier == Some("pg_catalog") { None } else { schema.functions.get(name) };
    match user {
        Some(Volatility::Volatile) => HARMLESS_EXTENSIONS.binary_search(&name).is_err(),
        Some(_) => false,
        None if matches!(qualifier, None | Some("pg_catalog")) => {
            !BUILTINS.contains(name) || listed(builtins::READS_BY_TEXT, name)
        }
        None => true,
    }
}

/// All of PostgreSQL's own.
static BUILTINS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| LISTS.iter().flat_map(|(list, _)| *list).copied().collect());

const LISTS: [(&[&str], Kind); 9] = [
    (builtins::AGGREGATES, Kind::Aggregate),
    (builtins::WINDOW_FUNCTIONS, Kind::Window),
    (builtins::TIME, Kind::Time),
    (builtins::ROW_LOCAL, Kind::RowLocal),
    (builtins::SEQUENCES, Kind::Sequence),
    (builtins::READS_BY_TEXT, Kind::ReadsByText),
    (builtins::NODE_LOCAL, Kind::NodeLocal),
    (builtins::SESSION, Kind::Session),
    (builtins::PLAIN, Kind::Plain),
];

fn builtin(name: &str) -> Option<Kind> {
    LISTS.into_iter().find(|(list, _)| listed(list, name)).map(|(_, kind)| kind)
}

/// True for an aggregate that is not used as a window function. A function that the schema does not know counts: it
/// may be one.
pub fn is_aggregate(schema: &Schema, call: &Call) -> bool {
    call.over.is_none()
        && (call.star
            || call.distinct
            || call.filter.is_some()
            || call.within_group
            || !call.order_by.is_empty()
            || match kind(schema, &call.name) {
                Kind::Aggregate => true,
                Kind::UserImmutable | Kind::User => may_be_aggregate(schema, &call.name.name),
                _ => false,
            })
}

fn may_be_aggregate(schema: &Schema, name: &str) -> bool {
    schema.many_rows.contains(name) || !schema.functions.contains_key(name) || builtin(name) == Some(Kind::Aggregate)
}

/// True for a function that may give several rows for one.
pub fn may_return_set(schema: &Schema, call: &Call) -> bool {
    let name = call.name.name.as_str();
    listed(builtins::SET_RETURNING, name) || schema.many_rows.contains(name)
}

/// True when an aggregate of this query level stands in the expression.
pub fn has_aggregate(schema: &Schema, expr: &Expr) -> bool {
    visit::any(expr, &|part| matches!(part, Expr::Function(call) if is_aggregate(schema, call)))
}

/// True when a window function stands in the expression.
pub fn has_window(expr: &Expr) -> bool {
    visit::any(expr, &|part| matches!(part, Expr::Function(call) if call.over.is_some()))
}

/// True when the expression gives another value each time it is computed.
pub fn is_volatile(schema: &Schema, expr: &Expr) -> bool {
    visit::any(expr, &|part| match part {
        Expr::Function(call) => !matches!(
            kind(schema, &call.name),
            Kind::Aggregate | Kind::Window | Kind::Time | Kind::Session | Kind::Plain | Kind::UserImmutable
        ),
        _ => false,
    })
}

/// True when two servers give different values at the same time.
pub fn differs_by_shard(schema: &Schema, expr: &Expr) -> bool {
    is_volatile(schema, expr)
        || visit::any(expr, &|part| matches!(part, Expr::Function(call) if kind(schema, &call.name) == Kind::Time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_for_binary_search() {
        for list in [
            builtins::AGGREGATES,
            builtins::WINDOW_FUNCTIONS,
            builtins::TIME,
            builtins::ROW_LOCAL,
            builtins::SEQUENCES,
            builtins::READS_BY_TEXT,
            builtins::NODE_LOCAL,
            builtins::SESSION,
            builtins::PLAIN,
            builtins::SET_RETURNING,
            builtins::CATALOG_RELATIONS,
        ] {
            assert!(list.is_sorted());
        }
    }

    #[test]
    fn an_unknown_function_is_a_users() {
        let schema = Schema::default();
        let name = |text: &str| ObjectName { schema: None, name: text.to_owned() };
        assert_eq!(kind(&schema, &name("lower")), Kind::Plain);
        assert_eq!(kind(&schema, &name("my_sum")), Kind::User);
        assert_eq!(kind(&schema, &name("now")), Kind::Time);
        assert_eq!(kind(&schema, &name("nextval")), Kind::Sequence);
        assert_eq!(kind(&schema, &name("pg_advisory_lock")), Kind::NodeLocal);
    }
}
