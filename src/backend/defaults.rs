//! Which column defaults are constants, judged by the text that PostgreSQL prints for them. Must not know: connections.
//!
//! # Source
//! `get_const_expr` in `src/backend/utils/adt/ruleutils.c`.

/// Types whose text means the same at all times and on all servers. Dates and times are not among them: `'now'` became
/// another value on each server when the table was made.
const TYPES: &[&str] = &[
    "bigint",
    "bit varying",
    "bit",
    "boolean",
    "bpchar",
    "bytea",
    "character varying",
    "character",
    "cidr",
    "double precision",
    "inet",
    "integer",
    "interval",
    "jsonb",
    "json",
    "macaddr",
    "name",
    "numeric",
    "real",
    "smallint",
    "text",
    "uuid",
];

/// More parentheses than any literal has.
const DEPTH_MAX: usize = 8;

/// True for a literal with casts to types that are known, or to whatever an enum's column takes.
pub(super) fn is_constant(expression: &str, is_enum: bool) -> bool {
    if is_enum && is_labelled(expression) {
        return true;
    }
    chain(expression, DEPTH_MAX).is_some_and(str::is_empty)
}

/// True for an expression over the current time.
pub(super) fn tells_time(expression: &str) -> bool {
    const WORDS: &[&str] =
        &["CURRENT_DATE", "CURRENT_TIME", "LOCALTIME", "now()", "statement_timestamp()", "transaction_timestamp()"];
    // Inside a literal a word does no harm: the value is only computed once for all.
    WORDS.iter().any(|word| expression.contains(word)) && !expression.contains("nextval(")
}

/// `'label'::type`, whatever the type is called.
fn is_labelled(expression: &str) -> bool {
    quoted(expression).and_then(|rest| rest.strip_prefix("::")).is_some_and(|name| {
        name.chars().all(|character| character.is_alphanumeric() || matches!(character, '_' | '.' | '"'))
    })
}

/// What follows an operand and its casts.
fn chain(text: &str, depth: usize) -> Option<&str> {
    let mut rest = operand(text, depth)?;
    while let Some(after) = rest.strip_prefix("::") {
        rest = after_type(after)?;
    }
    Some(rest)
}

fn operand(text: &str, depth: usize) -> Option<&str> {
    if let Some(inner) = text.strip_prefix('(') {
        return chain(inner, depth.checked_sub(1)?)?.strip_prefix(')');
    }
    if text.starts_with('\'') {
        return quoted(text);
    }
    for word in ["true", "false"] {
        if let Some(rest) = text.strip_prefix(word) {
            return Some(rest);
        }
    }
    let rest = text.strip_prefix('-').unwrap_or(text);
    let end = rest.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(rest.len());
    rest.get(end..).filter(|_| rest.starts_with(|character: char| character.is_ascii_digit()))
}

/// What follows a string in quotes.
fn quoted(text: &str) -> Option<&str> {
    let mut rest = text.strip_prefix('\'')?;
    loop {
        rest = rest.split_once('\'')?.1;
        match rest.strip_prefix('\'') {
            Some(more) => rest = more,
            None => return Some(rest),
        }
    }
}

/// What follows a type of the list, its modifier and brackets included.
fn after_type(text: &str) -> Option<&str> {
    let mut rest = TYPES.iter().find_map(|name| text.strip_prefix(name))?;
    if let Some(inner) = rest.strip_prefix('(') {
        let (modifier, after) = inner.split_once(')')?;
        if !modifier.chars().all(|character| character.is_ascii_digit() || character == ',') {
            return None;
        }
        rest = after;
    }
    while let Some(after) = rest.strip_prefix("[]") {
        rest = after;
    }
    (rest.is_empty() || rest.starts_with(')') || rest.starts_with("::")).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_constants() {
        for expression in [
            "true",
            "false",
            "0",
            "1.50",
            "'-1'::integer",
            "(-1)",
            "(0)::numeric",
            "1.5::numeric(10,2)",
            "'x'::text",
            "'it''s'::character varying(10)",
            "('x'::text)::character varying",
            "'{}'::jsonb",
            "'{}'::text[]",
            "'1 day'::interval",
            "B'101'",
        ] {
            assert_eq!(is_constant(expression, false), !expression.starts_with('B'), "{expression}");
        }
    }

    #[test]
    fn what_may_differ_between_servers_is_not() {
        for expression in [
            "now()",
            "CURRENT_TIMESTAMP",
            "'2026-11-22 10:00:00'::timestamp without time zone",
            "'2026-11-22'::date",
            "'[2026-11-22,)'::daterange",
            "'users'::regclass",
            "'x'::mood",
            "'x'::text || 'y'::text",
            "('x'::text || random())",
            "1 + 1",
            "truely()",
            "'x'::texture",
            "upper('x'::text)",
            "E'a\\\\b'::text",
            "",
            "(",
            "((((((((((1))))))))))",
        ] {
            assert!(!is_constant(expression, false), "{expression}");
        }
    }

    #[test]
    fn labels_of_an_enum_are_constants() {
        assert!(is_constant("'draft'::status", true));
        assert!(is_constant("'it''s'::\"Other\".status", true));
        assert!(!is_constant("'draft'::status", false));
        assert!(!is_constant("next_status('draft'::status)", true));
        assert!(!is_constant("('draft'::text)::status", true));
    }
}
