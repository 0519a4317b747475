//! PostgreSQL's keywords that can be no name of a table or column.
//!
//! # Source
//! `src/include/parser/kwlist.h` of PostgreSQL 15.

/// Reserved keywords and those reserved but for types and functions, sorted.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "binary",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "group",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "intersect",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "natural",
    "not",
    "notnull",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "outer",
    "overlaps",
    "placing",
    "primary",
    "references",
    "returning",
    "right",
    "select",
    "session_user",
    "similar",
    "some",
    "symmetric",
    "table",
    "tablesample",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
];

/// Words that are a value by themselves although they are reserved.
const VALUES: &[&str] = &[
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "end",
    "false",
    "localtime",
    "localtimestamp",
    "null",
    "session_user",
    "true",
    "user",
];

/// Whether a word, in any case of letters, can be no name of a table or column.
pub(in crate::sql) fn is_reserved(word: &str) -> bool {
    contains(RESERVED, word)
}

/// Whether a reserved word can end an expression: `NULL`, `END`, `CURRENT_DATE` …
pub(super) fn is_value(word: &str) -> bool {
    contains(VALUES, word)
}

fn contains(sorted: &[&str], word: &str) -> bool {
    sorted.binary_search_by(|probe| probe.bytes().cmp(word.bytes().map(|byte| byte.to_ascii_lowercase()))).is_ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_lists_are_sorted() {
        assert!(super::RESERVED.is_sorted());
        assert!(super::VALUES.is_sorted());
        assert!(super::is_reserved("Select") && !super::is_reserved("selects"));
    }
}
