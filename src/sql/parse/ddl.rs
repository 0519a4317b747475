//! CREATE, ALTER, DROP and their like: the kind of object and the names that are plain to see.

use crate::sql::ast::{Ddl, ObjectName};
use crate::sql::parse::cursor::Cursor;
use crate::sql::parse::{Parsed, query};

/// Kinds of object, longest first where one begins like another.
const OBJECTS: &[&[&str]] = &[
    &["materialized", "view"],
    &["foreign", "data", "wrapper"],
    &["foreign", "table"],
    &["event", "trigger"],
    &["access", "method"],
    &["text", "search", "configuration"],
    &["text", "search", "dictionary"],
    &["text", "search", "parser"],
    &["text", "search", "template"],
    &["operator", "class"],
    &["operator", "family"],
    &["user", "mapping"],
    &["default", "privileges"],
    &["large", "object"],
    &["table"],
    &["index"],
    &["view"],
    &["sequence"],
    &["type"],
    &["domain"],
    &["function"],
    &["procedure"],
    &["routine"],
    &["aggregate"],
    &["schema"],
    &["extension"],
    &["database"],
    &["role"],
    &["user"],
    &["group"],
    &["tablespace"],
    &["trigger"],
    &["rule"],
    &["policy"],
    &["publication"],
    &["subscription"],
    &["server"],
    &["cast"],
    &["collation"],
    &["conversion"],
    &["operator"],
    &["statistics"],
    &["transform"],
    &["language"],
    &["column"],
    &["constraint"],
    &["owned"],
    &["system"],
];

/// Objects whose statement names the table they belong to after ON.
const ON_TABLE: &[&str] = &["TRIGGER", "RULE", "POLICY", "CONSTRAINT"];

/// A statement of this family, from its first word.
pub(super) fn ddl(mut cursor: Cursor<'_, '_>) -> Parsed<Ddl> {
    let mut ddl = Ddl {
        verb: cursor.source.written(cursor.at).to_ascii_uppercase(),
        object: String::new(),
        names: Vec::new(),
        outside_transaction: false,
        temporary: false,
        query: None,
    };
    cursor.at += 1;
    match ddl.verb.as_str() {
        "CREATE" => create(&mut cursor, &mut ddl)?,
        "ALTER" => alter(&mut cursor, &mut ddl),
        "DROP" => drop_objects(&mut cursor, &mut ddl),
        "COMMENT" | "SECURITY" => comment(&mut cursor, &mut ddl),
        "GRANT" | "REVOKE" => grant(&mut cursor, &mut ddl),
        "REFRESH" => {
            object(&mut cursor, &mut ddl);
            cursor.eat("concurrently");
            ddl.names.extend(cursor.object_name().ok());
        }
        "REINDEX" => reindex(&mut cursor, &mut ddl),
        "VACUUM" | "ANALYZE" | "ANALYSE" => maintain(&mut cursor, &mut ddl),
        "CLUSTER" => cluster(&mut cursor, &mut ddl),
        _ => {}
    }
    ddl.temporary |= ddl.names.iter().any(|name| name.schema.as_deref() == Some("pg_temp"));
    Ok(ddl)
}

/// Reads the kind of object.
fn object(cursor: &mut Cursor<'_, '_>, ddl: &mut Ddl) {
    if let Some(words) = OBJECTS.iter().find(|words| cursor.is_all(words)) {
        cursor.at += words.len();
        ddl.object = words.join(" ").to_ascii_uppercase();
    }
}

fn create(cursor: &mut Cursor<'_, '_>, ddl: &mut Ddl) -> Parsed<()> {
    cursor.eat_all(&["or", "replace"]);
    while !OBJECTS.iter().any(|words| cursor.is_all(words) && *words != ["constraint"]) {
        match cursor.eat_any(&[
            "temporary",
            "temp",
            "local",
            "global",
            "unlogged",
            "unique",
            "recursive",
            "trusted",
            "procedural",
            "constraint",
            "default",
        ]) {
            Some("temporary" | "temp") => ddl.temporary = true,
            Some(_) => {}
            None => return Ok(()),
        }
    }
    object(cursor, ddl);
    ddl.outside_transaction = matches!(ddl.object.as_str(), "DATABASE" | "TABLESPACE" | "SUBSCRIPTION");
    if ddl.object == "INDEX" {
        ddl.outside_transaction |= cursor.eat("concurrently");
        cursor.eat_all(&["if", "not", "exists"]);
        after_on(cursor, ddl);
        return Ok(());
    }
    if ON_TABLE.contains(&ddl.object.as_str()) {
        if ddl.object == "RULE" {
            after_word(cursor, ddl, "to");
        } else {
            after_on(cursor, ddl);
        }
        return Ok(());
    }
    let is_unnamed = matches!(ddl.object.as_str(), "CAST" | "USER MAPPING" | "TRANSFORM" | "OPERATOR")
        || ddl.object == "SCHEMA" && cursor.is("authorization");
    if is_unnamed {
        return Ok(());
    }
    cursor.eat_all(&["if", "not", "exists"]);
    ddl.names.push(cursor.object_name()?);
    if matches!(ddl.object.as_str(), "TABLE" | "MATERIALIZED VIEW") || ddl.object == "VIEW" && ddl.temporary {
        stored_query(cursor, ddl)?;
    }
    Ok(())
}

/// The query of CREATE TABLE … AS and CREATE MATERIALIZED VIEW … AS.
fn stored_query(cursor: &mut Cursor<'_, '_>, ddl: &mut Ddl) -> Parsed<()> {
    let source = cursor.source;
    let mut at = cursor.at;
    while at < cursor.end && !source.is_keyword(at, "as") {
        at = source.close_of(at).unwrap_or(at) + 1;
    }
    let query_start = at + 1;
    let is_query = source.is_any_keyword(query_start, &["select", "with", "values", "table"])
        || source.is_query_group(query_start);
    if query_start >= cursor.end || !is_query {
        return Ok(());
    }
    let mut end = cursor.end;
    for data in [&["with", "no", "data"][..], &["with", "data"]] {
        let start = end.saturating_sub(data.len());
        if start > query_start && source.lexed.are_keywords(source.text, start, data) {
            end = start;
            break;
        }
    }
    ddl.query = Some(Box::new(query::whole(source.cursor(query_start..end))?));
    Ok(())
}

/// The table after the first ON at depth 0.
fn after_on(cursor: &mut Cursor<'_, '_>, ddl: &mut Ddl) {
    after_word(cursor, ddl, "on");
}

fn after_word(cursor: &mut Cursor<'_, '_>, ddl: &mut Ddl, word: &str) {
    while !cursor.is_done() && !cursor.is(word) {
        cursor.at = cursor.source.close_of(cursor.at).unwrap_or(cursor.at) + 1;
    }
    cursor.at += 1;
    cursor.eat("only");
    ddl.names.extend(cursor.object_name().ok());
}

fn alter(cursor: &mut Cursor<'_, '_>, ddl: &mut Ddl) {
    object(cursor, ddl);
    match ddl.object.as_str() {
        "SYSTEM" => ddl.outside_transaction = true,
        "DEFAULT PRIVILEGES" | "USER MAPPING" | "OPERATOR" | "" => {}
        object if ON_TABLE.contains(&object) => after_on(cursor, ddl),
        // ALTER TABLE ALL IN TABLESPACE names no table.
        _ if cursor.is_all(&["all", "in"]) => {}
        _ => {
            cursor.eat_all(&["if", "exists"]);
            cursor.eat("only");
            ddl.names.extend(cursor.object_name().ok());
            cursor.eat_symbol("*");
            let moves_database = ddl.object == "DATABASE" && cursor.is_all(&["set", "tablespace"]);
            let detaches = cursor.is_all(&["detach", "partition"])
                && cursor.source.is_keyword(cursor.end.saturating_sub(1), "concurrently");
            let refreshes = ddl.object == "SUBSCRIPTION" && cursor.is_any(&["refresh", "set", "add", "drop"]);
            ddl.outside_transaction |= moves_database || detaches || refreshes;
        }
    }
}

fn drop_objects(cursor: &mut Cursor<'_, '_>, ddl: &mut Ddl) {
    cursor.eat_any(&["procedural"]);
    object(cursor, ddl);
    ddl.outside_transaction = matches!(ddl.object.as_str(), "DATABASE" | "TABLESPACE" | "SUBSCRIPTION");
    if ddl.object == "INDEX" {
        ddl.outside_transaction |= cursor.eat("concurrently");
    }
    cursor.eat_all(&["if", "exists"]);
    match ddl.object.as_str() {
        "CAST" | "USER MAPPING" | "OPERATOR" | "TRANSFORM" | "OWNED" => {}
        object if ON_TABLE.contains(&object) => after_on(cursor, ddl),
        _ => name_list(cursor, ddl),
    }
}

/// `a, s.b(int), c …`.
fn name_list(cursor: &mut Cursor<'_, '_>, ddl: &mut Ddl) {
    loop {
        cursor.eat("only");
        match cursor.object_name() {
            Ok(name) => ddl.names.push(name),
            Err(_) => return,
        }
        cursor.eat_symbol("*");
        if cursor.skip_group().is_err() || !cursor.eat_symbol(",") {
            return;
        }
    }
}

/// `COMMENT ON kind name IS …`, `SECURITY LABEL [FOR provider] ON kind name IS …`.
fn comment(cursor: &mut Cursor<'_, '_>, ddl: &mut Ddl) {
    while !cursor.is_done() && !cursor.eat("on") {
        cursor.at += 1;
    }
    object(cursor, ddl);
    match ddl.object.as_str() {
        "COLUMN" => {
            let Ok(first) = cursor.object_name() else { return };
            // The last part is the column: of `s.t.c` the name is read as schema t and name c.
            let name = cursor.at.checked_sub(3).and_then(|token| cursor.source.name(token));
            let schema = cursor
                .at
                .checked_sub(5)
                .filter(|token| cursor.source.is_symbol(token + 1, "."))
                .and_then(|token| cursor.source.name(token));
            ddl.names.extend(name.map(|name| ObjectName { schema, name }).or(Some(first)));
        }
        "CAST" | "OPERATOR" | "TRANSFORM" | "LARGE OBJECT" | "" => {}
        object if ON_TABLE.contains(&object) => after_on(cursor, ddl),
        _ => ddl.names.extend(cursor.object_name().ok()),
    }
}

/// `GRANT … ON [TABLE] a, b TO …`; without ON it grants roles.
fn grant(cursor: &mut Cursor<'_, '_>, ddl: &mut Ddl) {
    while !cursor.is_done() && !cursor.eat("on") {
        cursor.at = cursor.source.close_of(cursor.at).unwrap_or(cursor.at) + 1;
    }
    if cursor.is_done() {
        ddl.object = "ROLE".to_owned();
        return;
    }
    if cursor.eat("all") {
        // ALL TABLES IN SCHEMA s: the schema is named.
        ddl.object = "SCHEMA".to_owned();
        cursor.at += 1;
        cursor.eat_all(&["in", "schema"]);
        name_list(cursor, ddl);
        return;
    }
    object(cursor, ddl);
    if ddl.object.is_empty() {
        ddl.object = "TABLE".to_owned();
    }
    name_list(cursor, ddl);
}

fn reindex(cursor: &mut Cursor<'_, '_>, ddl: &mut Ddl) {
    if let Ok(inside) = cursor.group() {
        ddl.outside_transaction |= (inside.at..inside.end).any(|token| inside.source.is_keyword(token, "concurrently"));
    }
    object(cursor, ddl);
    ddl.outside_transaction |= matches!(ddl.object.as_str(), "SCHEMA" | "DATABASE" | "SYSTEM");
    ddl.outside_transaction |= cursor.eat("concurrently");
    ddl.names.extend(cursor.object_name().ok());
}

/// VACUUM and ANALYZE: options, then tables with columns.
fn maintain(cursor: &mut Cursor<'_, '_>, ddl: &mut Ddl) {
    ddl.outside_transaction = ddl.verb == "VACUUM";
    if cursor.skip_group().is_err() {
        return;
    }
    while cursor.eat_any(&["full", "freeze", "verbose", "analyze", "analyse"]).is_some() {}
    name_list(cursor, ddl);
}

fn cluster(cursor: &mut Cursor<'_, '_>, ddl: &mut Ddl) {
    if cursor.skip_group().is_err() {
        return;
    }
    cursor.eat("verbose");
    if cursor.is_done() {
        ddl.outside_transaction = true;
    } else if cursor.is_ahead(1, "on") {
        after_on(cursor, ddl);
    } else {
        ddl.names.extend(cursor.object_name().ok());
    }
}
