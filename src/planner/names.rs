//! The name that PostgreSQL gives to an output column without AS. Must not know: tables, shards.
//!
//! The tree does not keep everything that decides a name, so an expression may have several names, or any.
//!
//! # Source
//! `FigureColname` in `src/backend/parser/parse_target.c` of PostgreSQL 15, and the names that gram.y writes for types
//! and for functions with a grammar of their own.

use crate::sql::ast::{Expr, Query, SelectItem, SelectItemKind, SetExpr};

/// What a column is called of which nothing gives a name.
const NAMELESS: &str = "?column?";

/// A name, and whether an outer cast or CASE leaves it as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    text: String,
    is_strong: bool,
}

/// Every name that an expression may have; `None`: any.
type Names = Option<Vec<Name>>;

/// The name of an expression, if it has one for certain.
pub fn of(expr: &Expr) -> Option<String> {
    let mut names = figure(expr)?.into_iter();
    names.next().filter(|_| names.next().is_none()).map(|name| name.text)
}

/// The name of an entry of a target list, if it is certain; `None` also for whatever is several columns.
pub fn of_item(item: &SelectItem) -> Option<String> {
    match &item.kind {
        SelectItemKind::Expr { alias: Some(alias), .. } => Some(alias.clone()),
        SelectItemKind::Expr { expr, .. } => of(expr),
        SelectItemKind::Wildcard | SelectItemKind::QualifiedWildcard(_) => None,
    }
}

/// True when an expression of the target list may be called so, and may be called otherwise.
pub fn is_unsure(item: &SelectItem, name: &str) -> bool {
    match &item.kind {
        SelectItemKind::Expr { expr, alias: None } => match figure(expr) {
            Some(names) => names.len() > 1 && names.iter().any(|possible| possible.text == name),
            None => true,
        },
        _ => false,
    }
}

fn strong(text: &str) -> Names {
    Some(vec![Name { text: text.to_owned(), is_strong: true }])
}

fn nameless() -> Names {
    one_of(&[NAMELESS])
}

/// Names that an outer cast replaces.
fn one_of(texts: &[&str]) -> Names {
    Some(texts.iter().map(|text| Name { text: (*text).to_owned(), is_strong: false }).collect())
}

fn figure(expr: &Expr) -> Names {
    match expr {
        Expr::Column { name, .. } => strong(name),
        Expr::Function(call) => function(&call.name.name, call.name.schema.is_some()),
        Expr::Cast { expr, type_name } => replaced(figure(expr), of_type(type_name)),
        Expr::Collate { expr, .. } => figure(expr),
        // Before PostgreSQL 15 it is a cast.
        Expr::Bool(_) => one_of(&[NAMELESS, "bool"]),
        Expr::Row(_) => strong("row"),
        // NOT NOT EXISTS is EXISTS in the tree, but has no name.
        Expr::Exists { negated: false, .. } => joined(strong("exists"), nameless()),
        // ARRAY(query) looks the same in the tree.
        Expr::Subquery(query) => joined(strong("array"), first_column(query)),
        Expr::Binary { operator, .. } if operator.eq_ignore_ascii_case("overlaps") => strong("overlaps"),
        Expr::Other { what, children } => other(what, children),
        Expr::Param(_)
        | Expr::Literal(_)
        | Expr::Null
        | Expr::Default
        | Expr::And(_)
        | Expr::Or(_)
        | Expr::Not(_)
        | Expr::Unary { .. }
        | Expr::Binary { .. }
        | Expr::IsNull { .. }
        | Expr::InList { .. }
        | Expr::InSubquery { .. }
        | Expr::AnyAll { .. }
        | Expr::Exists { .. } => nameless(),
    }
}

fn other(what: &str, children: &[Expr]) -> Names {
    match what.strip_prefix("not ").unwrap_or(what) {
        "case" => one_of(&["case"]),
        "case with else" => replaced(children.last().map_or_else(nameless, figure), one_of(&["case"])),
        "array" => strong("array"),
        "at time zone" => strong("timezone"),
        "subscript" => children.first().map_or_else(nameless, figure),
        "between"
        | "between symmetric"
        | "like"
        | "ilike"
        | "similar to"
        | "is true"
        | "is not true"
        | "is false"
        | "is not false"
        | "is unknown"
        | "is not unknown"
        | "is distinct from"
        | "is not distinct from" => nameless(),
        _ => None,
    }
}

fn function(name: &str, is_qualified: bool) -> Names {
    match name {
        // Before PostgreSQL 14 it is date_part.
        "extract" if !is_qualified => joined(strong("extract"), strong("date_part")),
        name => strong(name),
    }
}

fn joined(left: Names, right: Names) -> Names {
    let mut names = left?;
    for name in right? {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Some(names)
}

/// Weak names give way to those of the cast or the CASE round the expression.
fn replaced(inner: Names, outer: Names) -> Names {
    let (strong, weak): (Vec<Name>, Vec<Name>) = inner?.into_iter().partition(|name| name.is_strong);
    if weak.is_empty() { Some(strong) } else { joined(Some(strong), outer) }
}

/// The name of the only column of a query in parentheses. It is a strong one even when nothing gives it.
fn first_column(query: &Query) -> Names {
    let mut body = &query.body;
    let names = loop {
        match body {
            SetExpr::Select(select) => match select.items.first().map(|item| &item.kind) {
                Some(SelectItemKind::Expr { alias: Some(alias), .. }) => break strong(alias),
                Some(SelectItemKind::Expr { expr, .. }) => break figure(expr),
                _ => return None,
            },
            SetExpr::Values(_) => break strong("column1"),
            SetExpr::Nested(inner) => body = &inner.body,
            SetExpr::SetOperation { left, .. } => body = left,
        }
    };
    names.map(|names| names.into_iter().map(|name| Name { is_strong: true, ..name }).collect())
}

/// The last part of a type's name as gram.y writes it.
fn of_type(type_name: &str) -> Names {
    let mut depth = 0usize;
    let bare: String = type_name
        .chars()
        .filter(|character| match character {
            '(' | '[' => {
                depth += 1;
                false
            }
            ')' | ']' => {
                depth = depth.saturating_sub(1);
                false
            }
            _ => depth == 0,
        })
        .collect();
    let words: Vec<&str> = bare.split_whitespace().collect();
    match words.as_slice() {
        ["double", "precision", ..] => one_of(&["float8"]),
        ["national", "character" | "char", "varying", ..] | ["character" | "char" | "nchar", "varying", ..] => {
            one_of(&["varchar"])
        }
        ["national", "character" | "char", ..] => one_of(&["bpchar"]),
        ["bit", "varying", ..] => one_of(&["varbit"]),
        ["time", "with", "time", "zone", ..] => one_of(&["timetz"]),
        ["timestamp", "with", "time", "zone", ..] => one_of(&["timestamptz"]),
        [only @ ("time" | "timestamp"), "without", "time", "zone", ..] => one_of(&[*only]),
        ["interval", ..] => one_of(&["interval"]),
        [only] | [only, "array"] => single_word(only),
        _ => None,
    }
}

/// A type of one word, with its schema or without. The tree does not say whether the word stands in quotes.
fn single_word(word: &str) -> Names {
    match word {
        "bigint" => one_of(&["int8"]),
        "int" | "integer" => one_of(&["int4"]),
        "smallint" => one_of(&["int2"]),
        "real" => one_of(&["float4"]),
        "float" => one_of(&["float4", "float8"]),
        "decimal" | "dec" => one_of(&["numeric"]),
        "boolean" => one_of(&["bool"]),
        "character" | "nchar" => one_of(&["bpchar"]),
        "char" => one_of(&["bpchar", "char"]),
        word => one_of(&[word.rsplit('.').next().unwrap_or(word)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::ast::Statement;

    fn item(expr: &str) -> SelectItem {
        let text = format!("SELECT {expr}");
        let lexed = crate::sql::lex(&text).unwrap();
        let Ok(Statement::Query(query)) = crate::sql::parse(&text, &lexed) else { panic!("{text}") };
        let SetExpr::Select(select) = query.body else { panic!("{text}") };
        select.items.into_iter().next().unwrap()
    }

    /// The right column is what PostgreSQL 15 answers.
    #[test]
    fn expressions_have_the_names_that_postgresql_gives() {
        for (expr, name) in CERTAIN {
            assert_eq!(of_item(&item(expr)).as_deref(), Some(*name), "{expr}");
        }
    }

    const CERTAIN: &[(&str, &str)] = &[
        ("t.a", "a"),
        ("lower(t.b)", "lower"),
        ("t.a::int", "a"),
        ("1", "?column?"),
        ("-1", "?column?"),
        ("t.a + 1", "?column?"),
        ("(t.a + 1)::bigint", "int8"),
        ("(t.a + 1)::numeric(10, 2)", "numeric"),
        ("'x'::varchar(3)", "varchar"),
        ("'x'::character varying", "varchar"),
        ("'x'::character(3)", "bpchar"),
        ("'{1}'::int[]", "int4"),
        ("'1'::double precision", "float8"),
        ("'1'::pg_catalog.int4::pg_catalog.int8", "int8"),
        ("'now'::timestamp(3) with time zone", "timestamptz"),
        ("timestamp '2020-01-01'", "timestamp"),
        ("date '2020-01-01'", "date"),
        ("interval '1' day", "interval"),
        ("false::text", "text"),
        ("NULL", "?column?"),
        ("t.b COLLATE \"C\"", "b"),
        ("CASE WHEN t.a = 1 THEN t.b END", "case"),
        ("CASE t.a WHEN 1 THEN 2 ELSE t.a END", "a"),
        ("CASE t.a WHEN 1 THEN 2 ELSE 3 END", "case"),
        ("CASE t.a WHEN 1 THEN 2 ELSE 3::int END", "case"),
        ("CASE t.a WHEN 1 THEN 2 ELSE abs(3) END", "abs"),
        ("(CASE t.a WHEN 1 THEN 2 END)::text", "text"),
        ("CASE WHEN true THEN 1 ELSE CASE WHEN false THEN 2 ELSE t.a END END", "a"),
        ("ARRAY[1, 2]", "array"),
        ("(ARRAY[1, 2])[1]", "array"),
        ("t.c[1]", "c"),
        ("t.c[1:2]", "c"),
        ("ROW(1, 2)", "row"),
        ("(1, 2)", "row"),
        ("coalesce(t.a, 1)", "coalesce"),
        ("nullif(t.a, 1)", "nullif"),
        ("greatest(t.a, 1)", "greatest"),
        ("least(t.a, 1)", "least"),
        ("current_date", "current_date"),
        ("current_user", "current_user"),
        ("localtimestamp(2)", "localtimestamp"),
        ("position('a' IN t.b)", "position"),
        ("trim(t.b)", "btrim"),
        ("trim(LEADING 'x' FROM t.b)", "ltrim"),
        ("trim(TRAILING FROM t.b)", "rtrim"),
        ("substring(t.b FROM 1 FOR 2)", "substring"),
        ("overlay(t.b PLACING 'x' FROM 1)", "overlay"),
        ("now() AT TIME ZONE 'UTC'", "timezone"),
        ("t.b LIKE 'x'", "?column?"),
        ("t.b LIKE 'x' ESCAPE 'y'", "?column?"),
        ("t.b NOT ILIKE 'x'", "?column?"),
        ("t.a NOT BETWEEN SYMMETRIC 2 AND 1", "?column?"),
        ("t.b SIMILAR TO 'x'", "?column?"),
        ("t.a BETWEEN 1 AND 2", "?column?"),
        ("t.a IN (1, 2)", "?column?"),
        ("t.a IN (SELECT 1)", "?column?"),
        ("t.a = ANY (ARRAY[1])", "?column?"),
        ("t.a IS NULL", "?column?"),
        ("(t.a = 1) IS TRUE", "?column?"),
        ("t.a IS DISTINCT FROM 1", "?column?"),
        ("NOT t.a = 1", "?column?"),
        ("t.a = 1 AND t.b = 'x'", "?column?"),
        ("NOT EXISTS (SELECT 1)", "?column?"),
        ("(date '2020-01-01', date '2020-01-02') OVERLAPS (date '2020-01-01', date '2020-01-02')", "overlaps"),
        ("count(*)", "count"),
        ("count(*) FILTER (WHERE t.a = 1)", "count"),
        ("row_number() OVER (ORDER BY t.a)", "row_number"),
        ("t.a AS x", "x"),
    ];

    #[test]
    fn what_the_tree_does_not_say_is_one_of_several_names() {
        for (expr, possible, impossible) in [
            ("(SELECT t.a)", "a", "id"),
            ("(SELECT 1)", "?column?", "id"),
            ("ARRAY(SELECT t.a)", "array", "id"),
            ("(SELECT t.a)::text", "a", "text"),
            ("EXISTS (SELECT 1)", "exists", "id"),
            ("true", "bool", "true"),
            ("extract(year FROM now())", "extract", "year"),
            ("t.b::char", "b", "bpchar"),
            ("'x'::char(3)", "bpchar", "char3"),
            ("'1'::float(3)", "float4", "float"),
        ] {
            let item = item(expr);
            assert!(!is_unsure(&item, impossible), "{expr}");
            assert!(is_unsure(&item, possible) || of_item(&item).as_deref() == Some(possible), "{expr}");
        }
        assert!(is_unsure(&item("(t.r).f"), "anything"));
        assert!(is_unsure(&item("t.rs[1].f"), "anything"));
        assert!(is_unsure(&item("(SELECT * FROM t)"), "anything"));
    }
}
