//! FROM and USING: tables, functions, queries, joins.

use crate::sql::ast::{Expr, JoinCondition, JoinKind, Query, SetExpr, TableAlias, TableRef};
use crate::sql::parse::cursor::{CHAIN_MAX, Cursor};
use crate::sql::parse::{Parsed, expression, query, scalar, types};

/// `a, b JOIN c ON …`.
pub(super) fn list(cursor: &mut Cursor<'_, '_>) -> Parsed<Vec<TableRef>> {
    let mut tables = vec![table(cursor)?];
    while cursor.eat_symbol(",") {
        tables.push(table(cursor)?);
    }
    Ok(tables)
}

/// One row source with the joins that follow it.
pub(super) fn table(cursor: &mut Cursor<'_, '_>) -> Parsed<TableRef> {
    let first = factor(cursor)?;
    joins(cursor, first, 0)
}

/// The joins that follow `left`. In `a JOIN b JOIN c ON x ON y` the right side of the first join is a join.
fn joins(cursor: &mut Cursor<'_, '_>, mut left: TableRef, depth: usize) -> Parsed<TableRef> {
    if depth > 30 {
        return cursor.fail("joins are nested too deeply");
    }
    let mut length = 0;
    while cursor.at < cursor.end && cursor.source.is_join_start(cursor.at) {
        length += 1;
        if length > CHAIN_MAX {
            return cursor.fail("too many joins");
        }
        let is_natural = cursor.eat("natural");
        let kind = match cursor.eat_any(&["cross", "inner", "left", "right", "full"]) {
            Some("cross") => JoinKind::Cross,
            Some("left") => JoinKind::Left,
            Some("right") => JoinKind::Right,
            Some("full") => JoinKind::Full,
            _ => JoinKind::Inner,
        };
        cursor.eat("outer");
        cursor.expect("join")?;
        let mut right = factor(cursor)?;
        let condition = if is_natural {
            JoinCondition::Natural
        } else if kind == JoinKind::Cross {
            JoinCondition::None
        } else {
            right = joins(cursor, right, depth + 1)?;
            join_condition(cursor)?
        };
        left = TableRef::Join { left: Box::new(left), right: Box::new(right), kind, condition };
    }
    Ok(left)
}

fn join_condition(cursor: &mut Cursor<'_, '_>) -> Parsed<JoinCondition> {
    if cursor.eat("on") {
        return Ok(JoinCondition::On(expression::parse(cursor.source, cursor.expression()?)?));
    }
    if cursor.eat("using") {
        let columns = cursor.name_list()?;
        // `USING (a) AS x` names the merged columns.
        if cursor.eat("as") {
            return cursor.fail("JOIN … USING with an alias");
        }
        return Ok(JoinCondition::Using(columns));
    }
    cursor.fail("ON or USING is expected")
}

fn factor(cursor: &mut Cursor<'_, '_>) -> Parsed<TableRef> {
    let lateral = cursor.eat("lateral");
    if cursor.is_symbol("(") {
        return parenthesised(cursor, lateral);
    }
    if cursor.is_all(&["rows", "from"]) && cursor.source.is_symbol(cursor.at + 2, "(") {
        cursor.at += 2;
        return rows_from(cursor);
    }
    if cursor.is_any(&["xmltable", "json_table"]) && cursor.source.is_symbol(cursor.at + 1, "(") {
        return cursor.fail("XMLTABLE and JSON_TABLE");
    }
    if let Some(call) = call(cursor)? {
        if cursor.eat("with") {
            cursor.expect("ordinality")?;
        }
        let alias = function_alias(cursor)?;
        return Ok(TableRef::Function { calls: vec![call], alias });
    }
    let start = cursor.at;
    let only = cursor.eat("only");
    let name = if only && cursor.is_symbol("(") { cursor.group()?.object_name()? } else { cursor.object_name()? };
    cursor.eat_symbol("*");
    let tokens = start..cursor.at;
    let alias = alias(cursor)?;
    let sample = cursor.eat("tablesample");
    if sample {
        cursor.object_name()?;
        cursor.group()?;
        if cursor.eat("repeatable") {
            cursor.group()?;
        }
    }
    Ok(TableRef::Table { name, alias, sample, tokens })
}

/// A query, or joins in parentheses.
fn parenthesised(cursor: &mut Cursor<'_, '_>, lateral: bool) -> Parsed<TableRef> {
    let is_query = cursor.source.is_query_group(cursor.at);
    let mut inside = cursor.group()?;
    if is_query {
        let query = Box::new(query::whole(inside)?);
        let alias = alias(cursor)?;
        return Ok(TableRef::Subquery { query, alias, lateral });
    }
    let start = inside.at;
    let joined = table(&mut inside)?;
    inside.expect_done()?;
    let Some(alias) = alias(cursor)? else { return Ok(joined) };
    // `(a JOIN b …) AS x` hides the names inside, as SELECT * FROM a JOIN b does.
    let tokens = start..inside.end;
    let query = Query {
        recursive: false,
        with: Vec::new(),
        body: SetExpr::Select(Box::new(query::star(vec![joined], tokens.clone()))),
        order_by: Vec::new(),
        limit: None,
        with_ties: false,
        offset: None,
        locks: false,
        tokens,
        order_by_tokens: None,
        limit_tokens: None,
    };
    Ok(TableRef::Subquery { query: Box::new(query), alias: Some(alias), lateral: false })
}

/// `ROWS FROM (f(…), g(…) AS (a int))`, the words being passed.
fn rows_from(cursor: &mut Cursor<'_, '_>) -> Parsed<TableRef> {
    let mut inside = cursor.group()?;
    let mut calls = Vec::new();
    loop {
        match call(&mut inside)? {
            Some(call) => calls.push(call),
            None => return inside.fail("a function is expected"),
        }
        if inside.eat("as") {
            inside.group()?;
        }
        if !inside.eat_symbol(",") {
            break;
        }
    }
    inside.expect_done()?;
    if cursor.eat("with") {
        cursor.expect("ordinality")?;
    }
    let alias = function_alias(cursor)?;
    Ok(TableRef::Function { calls, alias })
}

/// A function call in FROM: a name with parentheses, or one of the words that are calls by themselves.
fn call(cursor: &mut Cursor<'_, '_>) -> Parsed<Option<Expr>> {
    let source = cursor.source;
    let start = cursor.at;
    let mut at = start;
    if cursor.is_any(scalar::CALLS_WITHOUT_PARENTHESES) {
        at += 1;
        if source.is_symbol(at, "(") {
            at = source.close_of(at).map_or(at, |close| close + 1);
        }
    } else {
        if !source.is_name(at) {
            return Ok(None);
        }
        while source.is_symbol(at + 1, ".") && source.is_name(at + 2) {
            at += 2;
        }
        match source.close_of(at + 1) {
            Some(close) if source.is_symbol(at + 1, "(") && close < cursor.end && !cursor.is("only") => at = close + 1,
            _ => return Ok(None),
        }
    }
    cursor.at = at;
    scalar::parse(source, start..at).map(Some)
}

/// `[AS] name [(columns)]`.
pub(super) fn alias(cursor: &mut Cursor<'_, '_>) -> Parsed<Option<TableAlias>> {
    let has_as = cursor.eat("as");
    if !has_as && (cursor.is_done() || !cursor.source.is_name(cursor.at) || cursor.is_reserved()) {
        return Ok(None);
    }
    let name = cursor.plain_name()?;
    let columns = if cursor.is_symbol("(") { column_definitions(cursor)? } else { Vec::new() };
    Ok(Some(TableAlias { name, columns }))
}

/// The alias of a function: also `AS (a int, b text)` without a name.
fn function_alias(cursor: &mut Cursor<'_, '_>) -> Parsed<Option<TableAlias>> {
    if cursor.is("as") && cursor.source.is_symbol(cursor.at + 1, "(") {
        cursor.at += 1;
        let columns = column_definitions(cursor)?;
        return Ok(Some(TableAlias { name: String::new(), columns }));
    }
    alias(cursor)
}

/// `(a, b)` or `(a int, b text COLLATE "C")`: the names.
fn column_definitions(cursor: &mut Cursor<'_, '_>) -> Parsed<Vec<String>> {
    let inside = cursor.group()?;
    let mut names = Vec::new();
    for tokens in inside.source.split_commas(inside.at..inside.end) {
        let mut column = inside.source.cursor(tokens);
        names.push(column.name()?);
        if !column.is_done() {
            match types::end_of_type(column.source, column.at, column.end) {
                Some(end) => column.at = end,
                None => return column.fail("a type is expected"),
            }
            if column.eat("collate") {
                column.object_name()?;
            }
            column.expect_done()?;
        }
    }
    Ok(names)
}
