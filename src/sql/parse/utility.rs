//! Statements that need no tree: known by their first words.

use std::ops::Range;

use crate::sql::ast::{ObjectName, Statement};
use crate::sql::lexer::TokenKind;
use crate::sql::parse::cursor::Cursor;
use crate::sql::parse::{Parsed, copy, ddl, query};

/// A statement that is no query and no INSERT, UPDATE, DELETE or MERGE.
pub(super) fn statement(mut cursor: Cursor<'_, '_>) -> Parsed<Statement> {
    if cursor.source.kind(cursor.at) != Some(TokenKind::Word) {
        return cursor.fail("a statement starts with a word");
    }
    let word = cursor.source.written(cursor.at).to_ascii_uppercase();
    let at = cursor.at;
    cursor.at += 1;
    let statement = match word.as_str() {
        "BEGIN" => Statement::Begin,
        "START" => Statement::Begin,
        "COMMIT" | "END" if cursor.is("prepared") => Statement::TwoPhase,
        "COMMIT" | "END" => Statement::Commit { chain: chain(&mut cursor) },
        "ROLLBACK" if cursor.is("prepared") => Statement::TwoPhase,
        "ROLLBACK" | "ABORT" => rollback(&mut cursor)?,
        "SAVEPOINT" => Statement::Savepoint(cursor.name()?),
        "RELEASE" => {
            if cursor.at + 1 < cursor.end {
                cursor.eat("savepoint");
            }
            Statement::Release(cursor.name()?)
        }
        "SET" => set(&mut cursor)?,
        "RESET" => reset(&mut cursor)?,
        "SHOW" if cursor.is_done() => return cursor.fail("a name is expected"),
        "SHOW" => Statement::Show(words(&cursor, " ")),
        "PREPARE" if cursor.is("transaction") => Statement::TwoPhase,
        "PREPARE" => Statement::Prepare { name: cursor.name()? },
        "EXECUTE" => Statement::Execute { name: cursor.name()? },
        "DEALLOCATE" => {
            if cursor.at + 1 < cursor.end {
                cursor.eat("prepare");
            }
            Statement::Deallocate(name_or_all(&mut cursor)?)
        }
        "DISCARD" => Statement::Discard(cursor.name()?),
        "DECLARE" => declare(&mut cursor)?,
        "FETCH" | "MOVE" => Statement::Fetch,
        "CLOSE" => Statement::Close(name_or_all(&mut cursor)?),
        "LISTEN" | "UNLISTEN" | "NOTIFY" => Statement::Notification,
        "LOCK" => Statement::Lock(table_list(&mut cursor)?),
        "TRUNCATE" => Statement::Truncate(table_list(&mut cursor)?),
        "EXPLAIN" => explain(&mut cursor)?,
        "COPY" => Statement::Copy(Box::new(copy::copy(&mut cursor)?)),
        "CALL" => Statement::Call(cursor.object_name()?),
        "DO" => Statement::Do,
        "CREATE" | "ALTER" | "DROP" | "COMMENT" | "GRANT" | "REVOKE" | "SECURITY" | "REFRESH" | "REINDEX"
        | "VACUUM" | "ANALYZE" | "ANALYSE" | "CLUSTER" | "IMPORT" | "REASSIGN" => {
            Statement::Ddl(ddl::ddl(cursor.source.cursor(at..cursor.end))?)
        }
        _ => Statement::Other(word),
    };
    // The session acts on these itself, so that PostgreSQL would not see what stands behind.
    let is_whole = matches!(
        statement,
        Statement::Commit { .. }
            | Statement::Rollback { .. }
            | Statement::Savepoint(_)
            | Statement::Release(_)
            | Statement::RollbackTo(_)
            | Statement::Reset(_)
            | Statement::Deallocate(_)
            | Statement::Discard(_)
            | Statement::Close(_)
    );
    if is_whole {
        cursor.expect_done()?;
    }
    Ok(statement)
}

/// `[WORK | TRANSACTION] [AND [NO] CHAIN]`.
fn chain(cursor: &mut Cursor<'_, '_>) -> bool {
    cursor.eat_any(&["work", "transaction"]);
    cursor.eat_all(&["and", "no", "chain"]);
    cursor.eat_all(&["and", "chain"])
}

fn rollback(cursor: &mut Cursor<'_, '_>) -> Parsed<Statement> {
    cursor.eat_any(&["work", "transaction"]);
    if cursor.eat("to") {
        if cursor.at + 1 < cursor.end {
            cursor.eat("savepoint");
        }
        return Ok(Statement::RollbackTo(cursor.name()?));
    }
    Ok(Statement::Rollback { chain: chain(cursor) })
}

/// The cursor's words in lower case.
fn words(cursor: &Cursor<'_, '_>, separator: &str) -> String {
    let mut joined = String::new();
    for token in cursor.at..cursor.end {
        let is_name = cursor.source.is_name(token);
        if is_name && !joined.is_empty() && !joined.ends_with('.') {
            joined.push_str(separator);
        }
        joined.push_str(&cursor.source.name(token).unwrap_or_else(|| cursor.source.written(token).to_owned()));
    }
    joined
}

fn name_or_all(cursor: &mut Cursor<'_, '_>) -> Parsed<Option<String>> {
    if cursor.eat("all") { Ok(None) } else { cursor.name().map(Some) }
}

/// A setting's name, with dots.
fn setting(cursor: &mut Cursor<'_, '_>) -> Parsed<String> {
    let mut name = cursor.name()?;
    while cursor.eat_symbol(".") {
        name.push('.');
        name.push_str(&cursor.name()?);
    }
    // Settings' names have no case, quoted or not.
    Ok(name.to_ascii_lowercase())
}

fn set(cursor: &mut Cursor<'_, '_>) -> Parsed<Statement> {
    if cursor.eat("constraints") {
        return Ok(Statement::SetConstraints);
    }
    if cursor.eat_all(&["session", "characteristics"]) {
        return Ok(Statement::SetSessionCharacteristics);
    }
    let local = cursor.is("local") && !is_assignment(cursor);
    if local || cursor.is("session") && !is_assignment(cursor) && !cursor.is_ahead(1, "authorization") {
        cursor.at += 1;
    }
    // SET LOCAL TRANSACTION is the same as SET TRANSACTION.
    if cursor.is("transaction") && !is_assignment(cursor) {
        return Ok(Statement::SetTransaction);
    }
    let special: &[(&[&str], &str)] = &[
        (&["time", "zone"], "timezone"),
        (&["names"], "client_encoding"),
        (&["role"], "role"),
        (&["session", "authorization"], "session_authorization"),
        (&["schema"], "search_path"),
        (&["catalog"], "catalog"),
        (&["xml", "option"], "xmloption"),
    ];
    for (words, name) in special {
        if cursor.is_all(words) && !is_assignment(cursor) {
            cursor.at += words.len();
            return Ok(Statement::Set { local, name: (*name).to_owned(), value: value(cursor) });
        }
    }
    let name = setting(cursor)?;
    if !cursor.eat_symbol("=") && !cursor.eat("to") {
        return cursor.fail("TO or = is expected");
    }
    Ok(Statement::Set { local, name, value: value(cursor) })
}

/// Whether the next word is a setting's name: TO, = or a dot follows.
fn is_assignment(cursor: &Cursor<'_, '_>) -> bool {
    let next = cursor.at + 1;
    next < cursor.end
        && (cursor.source.is_keyword(next, "to")
            || cursor.source.is_symbol(next, "=")
            || cursor.source.is_symbol(next, "."))
}

/// The rest; empty for DEFAULT, and for LOCAL of SET TIME ZONE.
fn value(cursor: &Cursor<'_, '_>) -> Range<usize> {
    let is_default = cursor.is_done() || cursor.at + 1 == cursor.end && cursor.is_any(&["default", "local"]);
    if is_default { cursor.end..cursor.end } else { cursor.at..cursor.end }
}

fn reset(cursor: &mut Cursor<'_, '_>) -> Parsed<Statement> {
    let special: &[(&[&str], &str)] = &[
        (&["time", "zone"], "timezone"),
        (&["session", "authorization"], "session_authorization"),
        (&["transaction", "isolation", "level"], "transaction_isolation"),
    ];
    if cursor.eat("all") {
        return Ok(Statement::Reset(None));
    }
    for (words, name) in special {
        if cursor.eat_all(words) {
            return Ok(Statement::Reset(Some((*name).to_owned())));
        }
    }
    Ok(Statement::Reset(Some(setting(cursor)?)))
}

/// `DECLARE name … CURSOR [WITH HOLD] FOR query`.
fn declare(cursor: &mut Cursor<'_, '_>) -> Parsed<Statement> {
    cursor.name()?;
    while cursor.eat_any(&["binary", "insensitive", "asensitive", "no", "scroll"]).is_some() {}
    cursor.expect("cursor")?;
    let hold = cursor.eat_all(&["with", "hold"]);
    cursor.eat_all(&["without", "hold"]);
    cursor.expect("for")?;
    Ok(Statement::Declare { hold, query: Box::new(query::whole(*cursor)?) })
}

/// `[TABLE] [ONLY] a [*], b …`; what follows the names does not matter.
fn table_list(cursor: &mut Cursor<'_, '_>) -> Parsed<Vec<ObjectName>> {
    cursor.eat("table");
    let mut names = Vec::new();
    loop {
        let only = cursor.eat("only");
        names.push(if only && cursor.is_symbol("(") {
            cursor.group()?.object_name()?
        } else {
            cursor.object_name()?
        });
        cursor.eat_symbol("*");
        if !cursor.eat_symbol(",") {
            return Ok(names);
        }
    }
}

fn explain(cursor: &mut Cursor<'_, '_>) -> Parsed<Statement> {
    let (mut ostrakon, mut analyze) = (false, false);
    if cursor.is_symbol("(") && !cursor.source.is_query_group(cursor.at) {
        let inside = cursor.group()?;
        for tokens in inside.source.split_commas(inside.at..inside.end) {
            let option = inside.source.cursor(tokens.clone());
            let is_on = tokens.len() < 2 || !is_off(&option);
            ostrakon |= option.is("ostrakon") && is_on;
            if option.is_any(&["analyze", "analyse"]) {
                analyze = is_on;
            }
        }
    } else {
        analyze = cursor.eat_any(&["analyze", "analyse"]).is_some();
        cursor.eat("verbose");
    }
    if cursor.is_done() {
        return cursor.fail("a statement is expected after EXPLAIN");
    }
    let statement = Box::new(super::statement(*cursor)?);
    Ok(Statement::Explain { ostrakon, analyze, tokens: cursor.at..cursor.end, statement })
}

/// Whether an option's value says no, in any of PostgreSQL's spellings.
pub(super) fn is_off(option: &Cursor<'_, '_>) -> bool {
    let value = option.at + 1;
    match option.source.lexed.literal(value) {
        Some(literal) => {
            literal.value == "0" || ["off", "false"].iter().any(|word| literal.value.eq_ignore_ascii_case(word))
        }
        None => option.source.is_any_keyword(value, &["off", "false"]),
    }
}
