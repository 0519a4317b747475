//! SELECT, VALUES, TABLE, set operations and what stands round them.

use std::ops::Range;

use crate::sql::ast::{Cte, Distinct, Expr, GroupItem, OrderItem, Query, Select, SelectItem, SelectItemKind, SetExpr};
use crate::sql::ast::{Statement, TableRef};
use crate::sql::parse::cursor::{CHAIN_MAX, Cursor};
use crate::sql::parse::{Parsed, dml, expression, from, items};

/// A query that takes all of the cursor's tokens.
pub(super) fn whole(mut cursor: Cursor<'_, '_>) -> Parsed<Query> {
    let query = prefix(&mut cursor)?;
    cursor.expect_done()?;
    Ok(query)
}

/// A query at the cursor, as far as it goes.
pub(super) fn prefix(cursor: &mut Cursor<'_, '_>) -> Parsed<Query> {
    let start = cursor.at;
    cursor.source.nest(start, || {
        let (recursive, with) = with_clause(cursor)?;
        after_with(cursor, start, recursive, with)
    })
}

/// The query that follows a WITH clause, or that has none.
pub(super) fn after_with(cursor: &mut Cursor<'_, '_>, start: usize, recursive: bool, with: Vec<Cte>) -> Parsed<Query> {
    let body = set_expression(cursor)?;
    let mut query = Query {
        recursive,
        with,
        body,
        order_by: Vec::new(),
        limit: None,
        with_ties: false,
        offset: None,
        locks: false,
        tokens: start..cursor.at,
        order_by_tokens: None,
        limit_tokens: None,
    };
    tail(cursor, &mut query)?;
    query.tokens.end = cursor.at;
    Ok(query)
}

/// ORDER BY, LIMIT, OFFSET, FETCH and locks.
fn tail(cursor: &mut Cursor<'_, '_>, query: &mut Query) -> Parsed<()> {
    let start = cursor.at;
    if cursor.eat_all(&["order", "by"]) {
        query.order_by = order_items(cursor)?;
        query.order_by_tokens = Some(start..cursor.at);
    }
    loop {
        let start = cursor.at;
        if cursor.is("for") {
            locks(cursor)?;
            query.locks = true;
            continue;
        }
        if cursor.eat("limit") {
            if !cursor.eat("all") {
                query.limit = Some(expression::parse(cursor.source, cursor.expression()?)?);
            }
        } else if cursor.eat("offset") {
            query.offset = Some(row_count(cursor)?);
            cursor.eat_any(&["row", "rows"]);
        } else if cursor.eat("fetch") {
            fetch(cursor, query)?;
        } else {
            return Ok(());
        }
        match &mut query.limit_tokens {
            None => query.limit_tokens = Some(start..cursor.at),
            Some(tokens) if tokens.end == start => tokens.end = cursor.at,
            Some(_) => return cursor.fail("LIMIT and OFFSET have another clause between them"),
        }
    }
}

/// `FETCH FIRST n ROWS ONLY`, the word FETCH being passed.
fn fetch(cursor: &mut Cursor<'_, '_>, query: &mut Query) -> Parsed<()> {
    if cursor.eat_any(&["first", "next"]).is_none() {
        return cursor.fail("FIRST or NEXT is expected");
    }
    query.limit = Some(if cursor.is_any(&["row", "rows"]) {
        // Without a number it is one row, which no literal of the statement says.
        Expr::Other { what: "fetch first row", children: Vec::new() }
    } else {
        row_count(cursor)?
    });
    cursor.eat_any(&["row", "rows"]);
    if cursor.eat_all(&["with", "ties"]) {
        query.with_ties = true;
        return Ok(());
    }
    cursor.expect("only")
}

/// A number of rows before ROW or ROWS, which may be missing.
fn row_count(cursor: &mut Cursor<'_, '_>) -> Parsed<Expr> {
    let end = cursor.source.expression_end(cursor.at, cursor.end);
    let mut at = cursor.at;
    while at < end && !cursor.source.is_any_keyword(at, &["row", "rows"]) {
        at = cursor.source.close_of(at).unwrap_or(at) + 1;
    }
    if at == cursor.at {
        return cursor.fail("a number of rows is expected");
    }
    let value = expression::parse(cursor.source, cursor.at..at)?;
    cursor.at = at;
    Ok(value)
}

/// `FOR UPDATE OF t SKIP LOCKED` and its like.
fn locks(cursor: &mut Cursor<'_, '_>) -> Parsed<()> {
    cursor.expect("for")?;
    if cursor.eat_all(&["read", "only"]) {
        return Ok(());
    }
    let is_known = cursor.eat("update")
        || cursor.eat("share")
        || cursor.eat_all(&["no", "key", "update"])
        || cursor.eat_all(&["key", "share"]);
    if !is_known {
        return cursor.fail("UPDATE or SHARE is expected");
    }
    if cursor.eat("of") {
        cursor.object_name()?;
        while cursor.eat_symbol(",") {
            cursor.object_name()?;
        }
    }
    let _ = cursor.eat("nowait") || cursor.eat_all(&["skip", "locked"]);
    Ok(())
}

/// The items of an ORDER BY, the keywords being passed.
pub(super) fn order_items(cursor: &mut Cursor<'_, '_>) -> Parsed<Vec<OrderItem>> {
    let mut items = Vec::new();
    loop {
        let tokens = cursor.expression()?;
        let mut item = OrderItem {
            expr: expression::parse(cursor.source, tokens.clone())?,
            descending: false,
            nulls_first: None,
            using: false,
            tokens,
        };
        if cursor.eat("using") {
            item.using = true;
            if cursor.eat("operator") {
                cursor.group()?;
            } else {
                cursor.at += 1;
            }
        } else {
            item.descending = cursor.eat_any(&["asc", "desc"]) == Some("desc");
        }
        if cursor.eat("nulls") {
            item.nulls_first = cursor.eat_any(&["first", "last"]).map(|word| word == "first");
        }
        items.push(item);
        if !cursor.eat_symbol(",") {
            return Ok(items);
        }
    }
}

/// WITH, if it stands here.
pub(super) fn with_clause(cursor: &mut Cursor<'_, '_>) -> Parsed<(bool, Vec<Cte>)> {
    let mut with = Vec::new();
    if !cursor.eat("with") {
        return Ok((false, with));
    }
    let recursive = cursor.eat("recursive");
    loop {
        let name = cursor.plain_name()?;
        let columns = if cursor.is_symbol("(") { cursor.name_list()? } else { Vec::new() };
        cursor.expect("as")?;
        let _ = cursor.eat("materialized") || cursor.eat_all(&["not", "materialized"]);
        let inside = cursor.group()?;
        let statement = if inside.is_any(&["with", "insert", "update", "delete", "merge"]) {
            dml::statement(inside)?
        } else {
            Statement::Query(Box::new(whole(inside)?))
        };
        with.push(Cte { name, columns, statement });
        search_and_cycle(cursor)?;
        if !cursor.eat_symbol(",") {
            return Ok((recursive, with));
        }
    }
}

/// `SEARCH DEPTH FIRST BY a, b SET c` and `CYCLE a, b SET c TO d DEFAULT e USING f` add columns and no rows.
fn search_and_cycle(cursor: &mut Cursor<'_, '_>) -> Parsed<()> {
    if cursor.eat("search") {
        cursor.eat_any(&["depth", "breadth"]);
        if !cursor.eat_all(&["first", "by"]) {
            return cursor.fail("FIRST BY is expected");
        }
        names(cursor)?;
        cursor.expect("set")?;
        cursor.name()?;
    }
    if cursor.eat("cycle") {
        names(cursor)?;
        cursor.expect("set")?;
        cursor.name()?;
        if cursor.eat("to") {
            // Two constants; a type may stand before each.
            while !cursor.is_done() && !cursor.is("using") {
                cursor.at += 1;
            }
        }
        cursor.expect("using")?;
        cursor.name()?;
    }
    Ok(())
}

fn names(cursor: &mut Cursor<'_, '_>) -> Parsed<()> {
    cursor.name()?;
    while cursor.eat_symbol(",") {
        cursor.name()?;
    }
    Ok(())
}

/// UNION and EXCEPT bind alike and to the left; INTERSECT binds tighter.
fn set_expression(cursor: &mut Cursor<'_, '_>) -> Parsed<SetExpr> {
    let mut left = intersection(cursor)?;
    let mut length = 0;
    while let Some(operator) = cursor.eat_any(&["union", "except"]) {
        let all = quantifier(cursor);
        let right = intersection(cursor)?;
        left = operation(operator, all, left, right);
        length += 1;
        if length > CHAIN_MAX {
            return cursor.fail("too many set operations");
        }
    }
    Ok(left)
}

fn intersection(cursor: &mut Cursor<'_, '_>) -> Parsed<SetExpr> {
    let mut left = arm(cursor)?;
    let mut length = 0;
    while cursor.eat("intersect") {
        let all = quantifier(cursor);
        let right = arm(cursor)?;
        left = operation("intersect", all, left, right);
        length += 1;
        if length > CHAIN_MAX {
            return cursor.fail("too many set operations");
        }
    }
    Ok(left)
}

fn quantifier(cursor: &mut Cursor<'_, '_>) -> bool {
    cursor.eat_any(&["all", "distinct"]) == Some("all")
}

fn operation(operator: &str, all: bool, left: SetExpr, right: SetExpr) -> SetExpr {
    SetExpr::SetOperation { operator: operator.to_ascii_uppercase(), all, left: Box::new(left), right: Box::new(right) }
}

fn arm(cursor: &mut Cursor<'_, '_>) -> Parsed<SetExpr> {
    if cursor.is_symbol("(") {
        return Ok(SetExpr::Nested(Box::new(whole(cursor.group()?)?)));
    }
    if cursor.eat("select") {
        return Ok(SetExpr::Select(Box::new(select(cursor)?)));
    }
    if cursor.eat("table") {
        return table_command(cursor);
    }
    if cursor.eat("values") {
        let rows = values(cursor)?;
        return Ok(SetExpr::Values(rows.into_iter().map(|row| row.values).collect()));
    }
    cursor.fail("SELECT, VALUES or TABLE is expected")
}

/// `TABLE t`, the word TABLE being passed: SELECT * FROM t.
fn table_command(cursor: &mut Cursor<'_, '_>) -> Parsed<SetExpr> {
    let start = cursor.at - 1;
    let only = cursor.eat("only");
    let name = if only && cursor.is_symbol("(") { cursor.group()?.object_name()? } else { cursor.object_name()? };
    cursor.eat_symbol("*");
    let table = TableRef::Table { name, alias: None, sample: false, tokens: start..start };
    Ok(SetExpr::Select(Box::new(star(vec![table], start..cursor.at))))
}

/// SELECT * of row sources that were not written as a SELECT. Its target list has no tokens.
pub(super) fn star(from: Vec<TableRef>, tokens: Range<usize>) -> Select {
    let nowhere = tokens.start..tokens.start;
    Select {
        distinct: Distinct::No,
        items: vec![SelectItem {
            kind: SelectItemKind::Wildcard,
            tokens: nowhere.clone(),
            expr_tokens: nowhere.clone(),
        }],
        into: false,
        from,
        selection: None,
        group_by: Vec::new(),
        grouping_sets: false,
        having: None,
        window_exprs: Vec::new(),
        items_tokens: nowhere,
        from_tokens: Some(tokens),
        where_tokens: None,
        group_by_tokens: None,
        having_tokens: None,
    }
}

/// `(…), (…)` after VALUES.
pub(super) fn values(cursor: &mut Cursor<'_, '_>) -> Parsed<Vec<crate::sql::ast::ValuesRow>> {
    let mut rows = Vec::new();
    loop {
        let start = cursor.at;
        let inside = cursor.group()?;
        let value_tokens = cursor.source.split_commas(inside.at..inside.end);
        let values = value_tokens
            .iter()
            .map(|tokens| expression::parse(cursor.source, tokens.clone()))
            .collect::<Parsed<Vec<_>>>()?;
        rows.push(crate::sql::ast::ValuesRow { values, value_tokens, tokens: start..cursor.at });
        if !cursor.eat_symbol(",") {
            return Ok(rows);
        }
    }
}

/// A SELECT, the word being passed.
fn select(cursor: &mut Cursor<'_, '_>) -> Parsed<Select> {
    let source = cursor.source;
    let distinct = distinct(cursor)?;
    let items_start = cursor.at;
    let items = items::list(cursor)?;
    let mut select = Select { distinct, items, ..star(Vec::new(), items_start..cursor.at) };
    select.items_tokens = items_start..cursor.at;
    select.from_tokens = None;
    if cursor.eat("into") {
        select.into = true;
        cursor.eat_any(&["temporary", "temp", "local", "global", "unlogged"]);
        cursor.eat_any(&["temporary", "temp"]);
        cursor.eat("table");
        cursor.object_name()?;
    }
    let start = cursor.at;
    if cursor.eat("from") {
        select.from = from::list(cursor)?;
        select.from_tokens = Some(start..cursor.at);
    }
    let start = cursor.at;
    if cursor.eat("where") {
        select.selection = Some(expression::parse(source, cursor.expression()?)?);
        select.where_tokens = Some(start..cursor.at);
    }
    let start = cursor.at;
    if cursor.eat_all(&["group", "by"]) {
        group_by(cursor, &mut select)?;
        select.group_by_tokens = Some(start..cursor.at);
    }
    let start = cursor.at;
    if cursor.eat("having") {
        select.having = Some(expression::parse(source, cursor.expression()?)?);
        select.having_tokens = Some(start..cursor.at);
    }
    if cursor.eat("window") {
        loop {
            cursor.name()?;
            cursor.expect("as")?;
            let window = window(cursor.group()?)?;
            select.window_exprs.extend(window.partition_by);
            select.window_exprs.extend(window.others);
            if !cursor.eat_symbol(",") {
                break;
            }
        }
    }
    Ok(select)
}

fn distinct(cursor: &mut Cursor<'_, '_>) -> Parsed<Distinct> {
    if cursor.eat("all") {
        return Ok(Distinct::No);
    }
    if !cursor.eat("distinct") {
        return Ok(Distinct::No);
    }
    if !cursor.eat("on") {
        return Ok(Distinct::Rows);
    }
    let inside = cursor.group()?;
    Ok(Distinct::On(expression::list(cursor.source, inside.at..inside.end)?))
}

fn group_by(cursor: &mut Cursor<'_, '_>, select: &mut Select) -> Parsed<()> {
    // Duplicate grouping sets are removed.
    if cursor.eat_any(&["distinct", "all"]) == Some("distinct") {
        select.grouping_sets = true;
    }
    loop {
        let tokens = cursor.expression()?;
        group_item(&cursor.source.cursor(tokens), select)?;
        if !cursor.eat_symbol(",") {
            return Ok(());
        }
    }
}

/// One entry of GROUP BY; grouping sets are taken apart into the expressions inside.
fn group_item(cursor: &Cursor<'_, '_>, select: &mut Select) -> Parsed<()> {
    let mut inner = *cursor;
    let is_sets = inner.eat_all(&["grouping", "sets"]) || inner.eat_any(&["rollup", "cube"]).is_some();
    let is_list = is_sets || select.grouping_sets;
    if is_list && inner.is_symbol("(") && inner.source.close_of(inner.at) == Some(inner.end - 1) {
        select.grouping_sets = true;
        let inside = inner.group()?;
        for tokens in inside.source.split_commas(inside.at..inside.end) {
            group_item(&inside.source.cursor(tokens), select)?;
        }
        return Ok(());
    }
    if inner.is_symbol("(") && inner.source.close_of(inner.at) == Some(inner.at + 1) {
        // `()`: one group of everything.
        select.grouping_sets = true;
        return Ok(());
    }
    let tokens = cursor.at..cursor.end;
    match expression::parse(cursor.source, tokens.clone())? {
        // `GROUP BY (a, b)` groups by both.
        Expr::Row(_) if cursor.is_symbol("(") => {
            for tokens in cursor.source.split_commas(cursor.at + 1..cursor.end - 1) {
                let expr = expression::parse(cursor.source, tokens.clone())?;
                select.group_by.push(GroupItem { expr, tokens });
            }
        }
        expr => select.group_by.push(GroupItem { expr, tokens }),
    }
    Ok(())
}

/// What stands between the parentheses of OVER or of a WINDOW clause.
pub(super) fn window(mut cursor: Cursor<'_, '_>) -> Parsed<crate::sql::ast::Window> {
    let mut window = crate::sql::ast::Window { name: None, partition_by: Vec::new(), others: Vec::new() };
    let is_clause =
        |cursor: &Cursor<'_, '_>| cursor.is_any(&["partition", "order", "rows", "range", "groups"]) || cursor.is_done();
    if !is_clause(&cursor) {
        window.name = Some(cursor.name()?);
    }
    if cursor.eat_all(&["partition", "by"]) {
        loop {
            let end = frame_start(&cursor);
            let tokens = Cursor { end, ..cursor }.expression()?;
            cursor.at = tokens.end;
            window.partition_by.push(expression::parse(cursor.source, tokens)?);
            if !cursor.eat_symbol(",") {
                break;
            }
        }
    }
    if cursor.eat_all(&["order", "by"]) {
        let mut inside = Cursor { end: frame_start(&cursor), ..cursor };
        let items = order_items(&mut inside)?;
        cursor.at = inside.at;
        window.others.extend(items.into_iter().map(|item| item.expr));
    }
    if cursor.eat_any(&["rows", "range", "groups"]).is_some() {
        frame(&mut cursor, &mut window.others)?;
    }
    cursor.expect_done()?;
    Ok(window)
}

/// Where the frame of a window starts: ROWS, RANGE or GROUPS with a bound after it.
fn frame_start(cursor: &Cursor<'_, '_>) -> usize {
    let source = cursor.source;
    let is_bound_end = |token: &usize| source.is_any_keyword(*token, &["preceding", "following"]);
    let last_bound = (cursor.at..cursor.end).rev().find(is_bound_end).unwrap_or(0);
    let mut at = cursor.at;
    while at < cursor.end {
        if let Some(close) = source.close_of(at) {
            at = close;
        } else if source.is_any_keyword(at, &["rows", "range", "groups"]) && !source.is_field(at) {
            let is_bound = source.is_any_keyword(at + 1, &["between", "unbounded", "current"]);
            if is_bound || at < last_bound {
                return at;
            }
        }
        at += 1;
    }
    cursor.end
}

/// `BETWEEN bound AND bound` or one bound, then EXCLUDE.
fn frame(cursor: &mut Cursor<'_, '_>, others: &mut Vec<Expr>) -> Parsed<()> {
    let bounds = if cursor.eat("between") { 2 } else { 1 };
    for bound in 0..bounds {
        if bound == 1 {
            cursor.expect("and")?;
        }
        if cursor.eat_all(&["current", "row"])
            || cursor.eat_all(&["unbounded", "preceding"])
            || cursor.eat_all(&["unbounded", "following"])
        {
            continue;
        }
        let start = cursor.at;
        while !cursor.is_done() && !cursor.is_any(&["preceding", "following"]) {
            cursor.at = cursor.source.close_of(cursor.at).unwrap_or(cursor.at) + 1;
        }
        others.push(expression::parse(cursor.source, start..cursor.at)?);
        if cursor.eat_any(&["preceding", "following"]).is_none() {
            return cursor.fail("PRECEDING or FOLLOWING is expected");
        }
    }
    if cursor.eat("exclude") {
        let is_known = cursor.eat_all(&["current", "row"])
            || cursor.eat("group")
            || cursor.eat("ties")
            || cursor.eat_all(&["no", "others"]);
        if !is_known {
            return cursor.fail("an EXCLUDE clause is not understood");
        }
    }
    Ok(())
}
