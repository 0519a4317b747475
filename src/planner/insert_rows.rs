//! INSERT … SELECT whose rows travel through the proxy: the query runs like any other statement, each row then goes
//! to the shard of its key.

use super::Subject;
use super::bind::missing_key;
use super::calls::Calls;
use super::env::Env;
use super::insert;
use super::rewrite::quoted;
use super::select;
use super::visit;
use super::walk::{Ctes, Mode, Output, Walk};
use super::write;
use crate::error::{ClientError, ErrorId};
use crate::plan::steps::{InsertRows, RowsTarget, RowsTo, Steps};
use crate::plan::{Fill, FillSource, Piece, Plan, Route, Several};
use crate::sql::ast::{Distinct, Expr, Insert, Query, SelectItemKind, SetExpr, Statement};
use crate::topology::KeyType;
use crate::topology::schema::{Column, ColumnDefault, Relation, RelationKind};

/// The steps of an INSERT whose query has been walked.
///
/// # Errors
/// A refusal, or a sharding key that is missing.
pub fn plan(
    walk: &Walk<'_>,
    calls: &Calls,
    insert: &Insert,
    query: &Query,
    relation: &Relation,
    key: &[(String, KeyType)],
    output: &Output,
) -> Result<Steps, ClientError> {
    let subject = walk.subject;
    check_around(walk, calls, insert, relation)?;
    if insert.with.is_empty() {
        // The query has to be one that can run by itself.
        select::plan(subject, &Statement::Query(Box::new(query.clone())), query)?;
    }
    let width = if output.is_complete { output.columns.len() } else { relation.columns.len() };
    let columns = insert::column_names(relation, insert, width);
    let mut head = vec![Piece::Tokens(insert.insert_token..head_end(insert))];
    head.push(Piece::Text(" ".to_owned()));
    let target = RowsTarget {
        tail: insert.tail_tokens.clone(),
        returning: !insert.returning.is_empty(),
        one_statement: insert.on_conflict.as_ref().is_some_and(|conflict| !conflict.do_nothing),
        ..target(relation, key, columns, head)?
    };
    Ok(Steps::InsertRows(InsertRows { source: source(subject, insert, query), untyped: untyped(query), target }))
}

/// INSERT … SELECT into a single or reference table, of rows that are not where the table is.
///
/// # Errors
/// A refusal.
pub fn plan_elsewhere(
    subject: &Subject<'_>,
    calls: &Calls,
    insert: &Insert,
    query: &Query,
    relation: &Relation,
    to: RowsTo,
) -> Result<Plan, ClientError> {
    let mut walk = Walk::new(subject);
    let env = Env::default();
    let ctes = walk.with(&insert.with, write::is_recursive(subject), None, &env, &Ctes::default());
    let output = walk.query(query, None, &env, Mode::Plain, &ctes);
    let Steps::InsertRows(mut rows) = plan(&walk, calls, insert, query, relation, &[], &output)? else {
        return Err(ClientError::new(ErrorId::Internal, "rows that go elsewhere are inserted"));
    };
    rows.target.to = to;
    match to {
        // The table's own server gives the ids.
        RowsTo::Shard(_) => (rows.target.fills, rows.target.overrides) = (Vec::new(), false),
        RowsTo::All => rows.target.fills.extend(open_defaults(relation, &rows.target.columns)),
        RowsTo::Owner => {}
    }
    let reason = format!("the rows of the query go to {}", relation.name.name);
    Ok(write::write_plan(Route::All, Several::Steps(Box::new(Steps::InsertRows(rows))), reason))
}

/// Defaults that might come out differently for each copy.
fn open_defaults(relation: &Relation, columns: &[String]) -> Vec<Fill> {
    let is_open = |default: &ColumnDefault| *default == ColumnDefault::Expression;
    relation
        .columns
        .iter()
        .filter(|column| is_open(&column.default) && !columns.contains(&column.name))
        .map(|column| Fill { source: FillSource::Default, column: column.name.clone(), type_oid: column.type_oid })
        .collect()
}

/// Where the column list begins, or would.
fn head_end(insert: &Insert) -> usize {
    insert.columns_tokens.as_ref().map_or(insert.source_token, |tokens| tokens.start)
}

/// The query with what WITH says before the INSERT.
fn source(subject: &Subject<'_>, insert: &Insert, query: &Query) -> Vec<Piece> {
    if insert.with.is_empty() {
        return vec![Piece::Tokens(query.tokens.clone())];
    }
    let begins_with = subject.token(query.tokens.start).eq_ignore_ascii_case("with");
    let (open, close) = if begins_with { (" (", ")") } else { (" ", "") };
    vec![
        Piece::Tokens(0..insert.insert_token),
        Piece::Text(open.to_owned()),
        Piece::Tokens(query.tokens.clone()),
        Piece::Text(close.to_owned()),
    ]
}

/// What stands round the query must mean the same when the rows come as values.
fn check_around(walk: &Walk<'_>, calls: &Calls, insert: &Insert, relation: &Relation) -> Result<(), ClientError> {
    let refuse =
        |what: &str, hint: &str| Err(ClientError::refused(format!("{what} is not supported across shards"), hint));
    if walk.writes {
        return refuse("data-modifying WITH", "Run the statements one by one in a transaction.");
    }
    if let Some(what) = calls.sequence.as_ref().or(calls.node_local.as_ref()) {
        return refuse(&format!("{what} in INSERT ... SELECT"), "Ask for it in a statement of its own.");
    }
    if relation.kind == RelationKind::View {
        return refuse("INSERT ... SELECT into a view", "Insert into the table itself.");
    }
    if insert.overriding {
        return refuse("OVERRIDING in INSERT ... SELECT", "Use INSERT with VALUES.");
    }
    let conflict = insert.on_conflict.iter();
    let conflict = conflict.flat_map(|conflict| {
        conflict.assignments.iter().map(|assignment| &assignment.value).chain(&conflict.selection)
    });
    if conflict.chain(visit::item_exprs(&insert.returning)).any(visit::has_query) {
        return refuse(
            "a query in ON CONFLICT or RETURNING of INSERT ... SELECT",
            "Read its rows in a statement of its own.",
        );
    }
    Ok(())
}

/// Where rows of these columns go; nothing follows them yet.
///
/// # Errors
/// The sharding key is missing.
pub fn target(
    relation: &Relation,
    key: &[(String, KeyType)],
    columns: Vec<String>,
    head: Vec<Piece>,
) -> Result<RowsTarget, ClientError> {
    let is_key = |name: &str| key.iter().any(|(key, _)| key == name);
    let left_out: Vec<_> = relation.columns.iter().filter(|column| !columns.contains(&column.name)).collect();
    let fill = |column: &&Column| {
        let is_open = is_key(&column.name) || column.time_default.is_some();
        insert::fill_of_left_out(column, is_open)
    };
    let fills: Vec<Fill> = left_out.iter().filter_map(fill).collect();
    let overrides =
        left_out.iter().any(|column| matches!(column.default, ColumnDefault::Sequence { always: true, .. }));
    let place_of = |name: &str| {
        let filled = || fills.iter().position(|fill| fill.column == *name).map(|fill| columns.len() + fill);
        columns.iter().position(|column| column == name).or_else(filled)
    };
    let mut places = Vec::with_capacity(key.len());
    for (name, key_type) in key {
        let place = place_of(name).ok_or_else(|| missing_key(&relation.name.name, Some(name)))?;
        places.push((place, insert::stored_as(relation, name, *key_type)));
    }
    Ok(RowsTarget {
        table: relation.name.clone(),
        head,
        columns,
        fills,
        overrides,
        key: places,
        key_is_not_null: insert::key_is_not_null(relation, key),
        tail: 0..0,
        returning: false,
        one_statement: false,
        to: RowsTo::Owner,
    })
}

/// Columns of the query that are bare literals or NULL: in an INSERT they take the type of their column.
fn untyped(query: &Query) -> Vec<usize> {
    let mut body = &query.body;
    while let SetExpr::Nested(inner) = body {
        body = &inner.body;
    }
    let SetExpr::Select(select) = body else { return Vec::new() };
    if select.distinct != Distinct::No {
        return Vec::new();
    }
    let mut untyped = Vec::new();
    for (index, item) in select.items.iter().enumerate() {
        match &item.kind {
            SelectItemKind::Expr { expr: Expr::Literal(_) | Expr::Null, .. } => untyped.push(index),
            SelectItemKind::Expr { .. } => {}
            // What follows has no place that is known.
            SelectItemKind::Wildcard | SelectItemKind::QualifiedWildcard(_) => break,
        }
    }
    untyped
}

/// `INSERT INTO table AS alias` for rows that are not the client's INSERT.
pub fn own_head(relation: &Relation, alias: Option<&str>) -> Vec<Piece> {
    let table = format!("{}.{}", quoted(&relation.name.schema), quoted(&relation.name.name));
    let alias = alias.map_or_else(String::new, |alias| format!(" AS {}", quoted(alias)));
    vec![Piece::Text(format!("INSERT INTO {table}{alias} "))]
}
