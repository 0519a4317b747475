//! DO over several shards: a block that touches no table answers alike on any shard.
//!
//! Its code is not read as PL/pgSQL reads it: every word has to be one of those that are known to be
//! harmless where it stands. What is not understood is refused.

use super::functions::{self, Kind};
use super::{Subject, refuse_code};
use crate::error::ClientError;
use crate::plan::{Class, Plan, Route, SequenceUse, Several};
use crate::sql::ast::ObjectName;
use crate::sql::{Lexed, TokenKind, lexer};
use crate::topology::schema::Schema;

/// Words that may begin a statement of the block. What else begins one is an assignment.
#[rustfmt::skip]
const STATEMENTS: &[&str] = &[
    "assert", "begin", "case", "continue", "declare", "else", "elseif", "elsif", "end", "exception", "exit", "for",
    "if", "loop", "null", "raise", "return", "when", "while",
];

/// Behind these a statement begins.
const BEFORE_STATEMENTS: &[&str] = &["begin", "declare", "else", "exception", "loop", "then"];

/// Words by which an expression or a loop reads more than its variables.
const READERS: &[&str] =
    &["cursor", "execute", "perform", "query", "refcursor", "select", "slice", "table", "values", "with"];

/// Words before a parenthesis that are no functions: keywords, and types with a length.
#[rustfmt::skip]
const NO_FUNCTIONS: &[&str] = &[
    "all", "and", "any", "between", "bit", "by", "case", "char", "character", "decimal", "else", "elsif", "float", "if",
    "ilike", "in", "interval", "like", "not", "numeric", "or", "return", "some", "then", "time", "timestamp",
    "timestamptz", "varbit", "varchar", "varying", "when", "while",
];

/// Plans DO.
///
/// # Errors
/// 0A000 unless the code is known to touch no table.
pub fn plan(subject: &Subject<'_>) -> Result<Plan, ClientError> {
    let code = code_of(subject.text, subject.lexed).ok_or_else(|| refuse_code("DO"))?;
    if !touches_nothing(subject.schema, &code) {
        return Err(refuse_code("DO"));
    }
    Ok(Plan {
        class: Class::Read,
        route: Route::Any,
        several: Several::Refuse(refuse_code("DO")),
        insert: None,
        copy: None,
        outside_transaction: false,
        inside_transaction: None,
        changes_schema: false,
        sequences: SequenceUse::default(),
        reason: "the code touches no table".to_owned(),
    })
}

/// The text of the block, if it is PL/pgSQL.
fn code_of(text: &str, lexed: &Lexed) -> Option<String> {
    let mut code = None;
    let mut at = 1;
    while at < lexed.tokens.len() {
        if lexed.is_keyword(text, at, "language") && lexed.identifier(text, at + 1).as_deref() == Some("plpgsql") {
            at += 1;
        } else if let Some(literal) = lexed.literal(at).filter(|_| code.is_none()) {
            code = Some(literal.value.clone());
        } else if !lexed.is_symbol(text, at, ";") {
            return None;
        }
        at += 1;
    }
    code
}

fn touches_nothing(schema: &Schema, code: &str) -> bool {
    let Ok(lexed) = lexer::lex(code) else { return false };
    let (mut is_start, mut is_declaring) = (true, false);
    for at in 0..lexed.tokens.len() {
        let word = lexed.text(code, at).to_ascii_lowercase();
        let is_called = lexed.is_symbol(code, at + 1, "(");
        let kind = lexed.tokens.get(at).map(|token| token.kind);
        let is_harmless = match kind {
            // TABLE is also the name of a field of RAISE.
            Some(TokenKind::Word) if word == "table" && lexed.is_symbol(code, at + 1, "=") => !is_start,
            Some(TokenKind::Word) if READERS.contains(&word.as_str()) => false,
            Some(TokenKind::Word) if is_start && !STATEMENTS.contains(&word.as_str()) => {
                is_declaring || lexed.is_symbol(code, at + 1, ":=")
            }
            Some(TokenKind::Word) if is_called && !NO_FUNCTIONS.contains(&word.as_str()) => {
                !lexed.is_symbol(code, at.wrapping_sub(1), ".") && is_plain_function(schema, &word)
            }
            Some(TokenKind::Word) => true,
            Some(TokenKind::QuotedIdent) => !is_start && !is_called,
            Some(TokenKind::Literal(_) | TokenKind::Operator) => !is_start,
            Some(TokenKind::Punctuation) => !is_start || word == ";",
            Some(TokenKind::Param(_)) | None => false,
        };
        if !is_harmless {
            return false;
        }
        if kind == Some(TokenKind::Word) {
            // RAISE EXCEPTION says how bad it is.
            let is_section = is_start || word != "exception";
            is_declaring = (is_declaring || word == "declare") && word != "begin";
            is_start = is_section && BEFORE_STATEMENTS.contains(&word.as_str());
        } else {
            is_start = word == ";";
        }
    }
    true
}

/// It looks at its arguments, the clock or the session only.
fn is_plain_function(schema: &Schema, name: &str) -> bool {
    let name = ObjectName { schema: None, name: name.to_owned() };
    match functions::kind(schema, &name) {
        Kind::Plain | Kind::Time | Kind::RowLocal => true,
        Kind::Session => name.name != "set_config",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_tell_and_count_touch_nothing() {
        for code in [
            "BEGIN RAISE NOTICE 'from %', 'do'; END",
            "DECLARE n int := 0; t constant varchar(10) DEFAULT 'x'; BEGIN FOR i IN 1..3 LOOP n := n + i; END LOOP; \
             IF n > 5 THEN RAISE EXCEPTION 'too many: %', upper(t) USING ERRCODE = '22023', TABLE = 't'; END IF; END",
            "BEGIN RAISE WARNING '%', now(); EXCEPTION WHEN OTHERS THEN NULL; END;",
        ] {
            assert!(touches_nothing(&Schema::default(), code), "{code}");
        }
    }

    #[test]
    fn whatever_may_touch_a_table_is_not_proved() {
        for code in [
            "BEGIN PERFORM 1; END",
            "BEGIN INSERT INTO t VALUES (1); END",
            "BEGIN RAISE NOTICE '%', (SELECT count(*) FROM t); END",
            "BEGIN IF EXISTS (TABLE t) THEN NULL; END IF; END",
            "BEGIN TABLE = t; END",
            "BEGIN x := mine(1); END",
            "BEGIN x := s.upper(1); END",
            "BEGIN x := \"upper\"(1); END",
            "BEGIN x := set_config('a', 'b', false); END",
            "BEGIN EXECUTE 'DROP TABLE t'; END",
            "BEGIN FOR r IN EXECUTE 'x' LOOP NULL; END LOOP; END",
            "DECLARE c CURSOR FOR SELECT 1; BEGIN OPEN c; END",
            "BEGIN IF true THEN DELETE FROM t; END IF; END",
            "BEGIN LOOP TRUNCATE t; END LOOP; END",
            "BEGIN COMMIT; END",
            "BEGIN RAISE EXCEPTION; DROP TABLE t; END",
            "BEGIN RAISE NOTICE 'x'; END; DROP TABLE t;",
            "BEGIN NULL; EXCEPTION WHEN OTHERS THEN DROP TABLE t; END",
            "<<l>> BEGIN DROP TABLE t; END",
            "BEGIN x := pg_read_file('a'); END",
            "BEGIN x := nextval('s'); END",
            "BEGIN x := query_to_xml('x', true, true, ''); END",
            "x",
        ] {
            assert!(!touches_nothing(&Schema::default(), code), "{code}");
        }
    }
}
