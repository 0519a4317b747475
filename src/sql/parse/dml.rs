//! INSERT, UPDATE, DELETE, MERGE, each with or without WITH.

use crate::sql::ast::{
    Assignment, Cte, Delete, Expr, Insert, InsertSource, Merge, MergeInsert, ObjectName, OnConflict, SelectItem,
    Statement, Update, UpdateTokens,
};
use crate::sql::parse::cursor::Cursor;
use crate::sql::parse::{Parsed, expression, from, items, query};

/// A statement that starts with WITH, INSERT, UPDATE, DELETE or MERGE and takes all of the cursor's tokens.
pub(super) fn statement(mut cursor: Cursor<'_, '_>) -> Parsed<Statement> {
    let start = cursor.at;
    let (recursive, with) = query::with_clause(&mut cursor)?;
    let statement = if cursor.eat("insert") {
        Statement::Insert(Box::new(insert(&mut cursor, with)?))
    } else if cursor.eat("update") {
        Statement::Update(Box::new(update(&mut cursor, with)?))
    } else if cursor.eat("delete") {
        Statement::Delete(Box::new(delete(&mut cursor, with)?))
    } else if cursor.eat("merge") {
        Statement::Merge(Box::new(merge(&mut cursor, with)?))
    } else {
        Statement::Query(Box::new(query::after_with(&mut cursor, start, recursive, with)?))
    };
    cursor.expect_done()?;
    Ok(statement)
}

fn insert(cursor: &mut Cursor<'_, '_>, with: Vec<Cte>) -> Parsed<Insert> {
    let insert_token = cursor.at - 1;
    cursor.expect("into")?;
    let table = cursor.object_name()?;
    let alias = if cursor.eat("as") { Some(cursor.plain_name()?) } else { None };
    let (columns, columns_tokens) = column_list(cursor)?;
    let source_token = cursor.at;
    let overriding = cursor.eat("overriding");
    if overriding {
        if cursor.eat_any(&["user", "system"]).is_none() {
            return cursor.fail("USER or SYSTEM is expected");
        }
        cursor.expect("value")?;
    }
    let source = insert_source(cursor)?;
    let tail_start = cursor.at;
    let on_conflict = if cursor.eat_all(&["on", "conflict"]) { Some(on_conflict(cursor)?) } else { None };
    let returning = returning(cursor)?;
    Ok(Insert {
        with,
        insert_token,
        table,
        alias,
        columns,
        columns_tokens,
        source_token,
        source,
        on_conflict,
        overriding,
        returning,
        tail_tokens: tail_start..cursor.at,
    })
}

/// `(a, b)`, unless these parentheses hold the query.
fn column_list(cursor: &mut Cursor<'_, '_>) -> Parsed<(Vec<String>, Option<std::ops::Range<usize>>)> {
    if !cursor.is_symbol("(") || cursor.source.is_query_group(cursor.at) {
        return Ok((Vec::new(), None));
    }
    let start = cursor.at;
    let mut inside = cursor.group()?;
    let mut columns = Vec::new();
    loop {
        columns.push(inside.name()?);
        if inside.is_symbol("[") || inside.is_symbol(".") {
            return inside.fail("INSERT into a part of a column");
        }
        if !inside.eat_symbol(",") {
            break;
        }
    }
    inside.expect_done()?;
    Ok((columns, Some(start..cursor.at)))
}

fn insert_source(cursor: &mut Cursor<'_, '_>) -> Parsed<InsertSource> {
    if cursor.eat_all(&["default", "values"]) {
        return Ok(InsertSource::DefaultValues);
    }
    if cursor.is("values") {
        let mut inside = Cursor { at: cursor.at + 1, ..*cursor };
        let rows = query::values(&mut inside)?;
        // VALUES … ORDER BY, LIMIT or UNION is a query like any other.
        let is_plain = inside.is_done() || inside.is("returning") || inside.is_all(&["on", "conflict"]);
        if is_plain {
            cursor.at = inside.at;
            return Ok(InsertSource::Values(rows));
        }
    }
    Ok(InsertSource::Query(Box::new(query::prefix(cursor)?)))
}

/// What follows ON CONFLICT.
fn on_conflict(cursor: &mut Cursor<'_, '_>) -> Parsed<OnConflict> {
    let mut conflict =
        OnConflict { target_columns: Vec::new(), assignments: Vec::new(), selection: None, do_nothing: false };
    if cursor.eat_all(&["on", "constraint"]) {
        cursor.name()?;
    } else if cursor.is_symbol("(") {
        let inside = cursor.group()?;
        for tokens in inside.source.split_commas(inside.at..inside.end) {
            // An expression, a collation or an operator class: not a list of plain columns.
            if tokens.len() != 1 || !inside.source.is_name(tokens.start) {
                conflict.target_columns.clear();
                break;
            }
            conflict.target_columns.extend(inside.source.name(tokens.start));
        }
        if cursor.eat("where") {
            // The predicate of a partial index: it chooses the index, not the rows.
            let is_action = |cursor: &Cursor<'_, '_>| {
                cursor.is("do") && (cursor.is_ahead(1, "nothing") || cursor.is_ahead(1, "update"))
            };
            while !cursor.is_done() && !is_action(cursor) {
                cursor.at = cursor.source.close_of(cursor.at).unwrap_or(cursor.at) + 1;
            }
        }
    }
    cursor.expect("do")?;
    if cursor.eat("nothing") {
        conflict.do_nothing = true;
        return Ok(conflict);
    }
    cursor.expect("update")?;
    cursor.expect("set")?;
    conflict.assignments = assignments(cursor)?;
    if cursor.eat("where") {
        conflict.selection = Some(expression::parse(cursor.source, cursor.expression()?)?);
    }
    Ok(conflict)
}

fn returning(cursor: &mut Cursor<'_, '_>) -> Parsed<Vec<SelectItem>> {
    if cursor.eat("returning") { items::list(cursor) } else { Ok(Vec::new()) }
}

/// The target of UPDATE, DELETE and MERGE.
fn target(cursor: &mut Cursor<'_, '_>) -> Parsed<(ObjectName, Option<String>)> {
    let only = cursor.eat("only");
    let table = if only && cursor.is_symbol("(") { cursor.group()?.object_name()? } else { cursor.object_name()? };
    cursor.eat_symbol("*");
    let has_alias = cursor.eat("as")
        || !cursor.is_done() && cursor.source.is_name(cursor.at) && !cursor.is_reserved() && !cursor.is("set");
    let alias = if has_alias { Some(cursor.plain_name()?) } else { None };
    Ok((table, alias))
}

fn update(cursor: &mut Cursor<'_, '_>, with: Vec<Cte>) -> Parsed<Update> {
    let mut tokens = UpdateTokens { update: cursor.at - 1, only: cursor.is("only"), ..UpdateTokens::default() };
    let start = cursor.at;
    let (table, alias) = target(cursor)?;
    tokens.target = start..cursor.at;
    cursor.expect("set")?;
    let assignments = assignments(cursor)?;
    let from = if cursor.eat("from") {
        let start = cursor.at;
        let from = from::list(cursor)?;
        tokens.from = start..cursor.at;
        from
    } else {
        Vec::new()
    };
    let start = cursor.at;
    let (selection, current_of) = selection(cursor)?;
    tokens.selection = start..cursor.at;
    let start = cursor.at;
    let returning = returning(cursor)?;
    tokens.returning = start..cursor.at;
    Ok(Update { with, table, alias, assignments, tokens, from, selection, current_of, returning })
}

fn delete(cursor: &mut Cursor<'_, '_>, with: Vec<Cte>) -> Parsed<Delete> {
    cursor.expect("from")?;
    let (table, alias) = target(cursor)?;
    let using = if cursor.eat("using") { from::list(cursor)? } else { Vec::new() };
    let (selection, current_of) = selection(cursor)?;
    let returning = returning(cursor)?;
    Ok(Delete { with, table, alias, using, selection, current_of, returning })
}

/// WHERE of UPDATE and DELETE, also WHERE CURRENT OF.
fn selection(cursor: &mut Cursor<'_, '_>) -> Parsed<(Option<Expr>, bool)> {
    if !cursor.eat("where") {
        return Ok((None, false));
    }
    if cursor.eat_all(&["current", "of"]) {
        cursor.at += 1;
        return Ok((None, true));
    }
    Ok((Some(expression::parse(cursor.source, cursor.expression()?)?), false))
}

/// What follows SET.
fn assignments(cursor: &mut Cursor<'_, '_>) -> Parsed<Vec<Assignment>> {
    let mut assignments = Vec::new();
    loop {
        assignments.push(assignment(cursor)?);
        if !cursor.eat_symbol(",") {
            return Ok(assignments);
        }
    }
}

fn assignment(cursor: &mut Cursor<'_, '_>) -> Parsed<Assignment> {
    let source = cursor.source;
    let mut parts = Vec::new();
    let columns = if cursor.is_symbol("(") {
        cursor.name_list()?
    } else {
        let name = cursor.name()?;
        // `a[1] = x`, `a.b = x`: a part of column a.
        while cursor.is_symbol("[") || cursor.is_symbol(".") {
            match source.close_of(cursor.at) {
                Some(close) => {
                    let bounds = cursor.at + 1..close;
                    let has_slice = bounds.clone().any(|token| source.is_symbol(token, ":"));
                    if has_slice {
                        return cursor.fail("assignment to a slice of an array");
                    }
                    parts.push(expression::parse(source, bounds)?);
                    cursor.at = close + 1;
                }
                None => {
                    cursor.at += 1;
                    cursor.name()?;
                    parts.push(Expr::Null);
                }
            }
        }
        vec![name]
    };
    if !cursor.eat_symbol("=") {
        return cursor.fail("= is expected");
    }
    let value_tokens = cursor.expression()?;
    let mut value = expression::parse(source, value_tokens.clone())?;
    if !parts.is_empty() {
        parts.push(value);
        value = Expr::Other { what: "assignment to a part of a column", children: parts };
    }
    Ok(Assignment { columns, value, value_tokens })
}

fn merge(cursor: &mut Cursor<'_, '_>, with: Vec<Cte>) -> Parsed<Merge> {
    cursor.expect("into")?;
    let (table, alias) = target(cursor)?;
    cursor.expect("using")?;
    let source = from::table(cursor)?;
    cursor.expect("on")?;
    let on = expression::parse(cursor.source, cursor.expression()?)?;
    let (others, assigned, inserts) = (Vec::new(), Vec::new(), Vec::new());
    let mut merge = Merge { with, table, alias, source, on, others, assigned, inserts, by_source: false };
    while cursor.eat("when") {
        cursor.eat("not");
        cursor.expect("matched")?;
        if cursor.eat("by") {
            match cursor.eat_any(&["source", "target"]) {
                Some(by) => merge.by_source |= by == "source",
                None => return cursor.fail("SOURCE or TARGET is expected"),
            }
        }
        if cursor.eat("and") {
            merge.others.push(expression::parse(cursor.source, cursor.expression()?)?);
        }
        cursor.expect("then")?;
        merge_action(cursor, &mut merge)?;
    }
    Ok(merge)
}

fn merge_action(cursor: &mut Cursor<'_, '_>, merge: &mut Merge) -> Parsed<()> {
    if cursor.eat("delete") || cursor.eat_all(&["do", "nothing"]) {
        return Ok(());
    }
    if cursor.eat("update") {
        cursor.expect("set")?;
        for assignment in assignments(cursor)? {
            merge.assigned.extend(assignment.columns);
            merge.others.push(assignment.value);
        }
        return Ok(());
    }
    cursor.expect("insert")?;
    let (columns, _) = column_list(cursor)?;
    if cursor.eat("overriding") {
        cursor.at += 1;
        cursor.expect("value")?;
    }
    if cursor.eat_all(&["default", "values"]) {
        merge.inserts.push(MergeInsert { columns, values: Vec::new() });
        return Ok(());
    }
    cursor.expect("values")?;
    for row in query::values(cursor)? {
        merge.others.extend(row.values.iter().cloned());
        merge.inserts.push(MergeInsert { columns: columns.clone(), values: row.values });
    }
    Ok(())
}
