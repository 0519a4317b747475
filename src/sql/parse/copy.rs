//! COPY with its options, in both syntaxes.
//!
//! # Source
//! `copy_generic_opt_list` and `copy_opt_list` of gram.y, `ProcessCopyOptions` of `copy.c`.

use crate::sql::ast::{Copy, CopyFormat, CopyOptions, CopySource};
use crate::sql::parse::cursor::Cursor;
use crate::sql::parse::{Parsed, utility};

/// A COPY, the word being passed.
pub(super) fn copy(cursor: &mut Cursor<'_, '_>) -> Parsed<Copy> {
    let mut written = Written::default();
    let source = if cursor.is_symbol("(") {
        CopySource::Query(Box::new(super::statement(cursor.group()?)?))
    } else {
        if cursor.eat("binary") {
            written.format = Some(CopyFormat::Binary);
        }
        table(cursor)?
    };
    let from = match cursor.eat_any(&["from", "to"]) {
        Some(word) => word == "from",
        None => return cursor.fail("FROM or TO is expected"),
    };
    if from && matches!(source, CopySource::Query(_)) {
        return cursor.fail("COPY of a query cannot be FROM");
    }
    let is_client = endpoint(cursor)?;
    options(cursor, &mut written)?;
    let has_where = cursor.eat("where");
    if has_where {
        cursor.at = cursor.end;
    }
    cursor.expect_done()?;
    Ok(Copy { source, from, is_client, has_where, options: written.options(cursor)? })
}

fn table(cursor: &mut Cursor<'_, '_>) -> Parsed<CopySource> {
    let start = cursor.at;
    let name = cursor.object_name()?;
    let name_tokens = start..cursor.at;
    let start = cursor.at;
    let (columns, columns_tokens) =
        if cursor.is_symbol("(") { (cursor.name_list()?, Some(start..cursor.at)) } else { (Vec::new(), None) };
    Ok(CopySource::Table { name, columns, columns_tokens, name_tokens })
}

/// STDIN or STDOUT (PostgreSQL takes either word in either direction), a file, or PROGRAM.
fn endpoint(cursor: &mut Cursor<'_, '_>) -> Parsed<bool> {
    if cursor.eat_any(&["stdin", "stdout"]).is_some() {
        return Ok(true);
    }
    cursor.eat("program");
    if cursor.is_done() || !cursor.source.is_string(cursor.at) {
        return cursor.fail("STDIN, STDOUT or a file is expected");
    }
    cursor.at += 1;
    Ok(false)
}

/// The options that were written.
#[derive(Default)]
struct Written {
    format: Option<CopyFormat>,
    delimiter: Option<String>,
    null: Option<String>,
    header: bool,
    quote: Option<String>,
    escape: Option<String>,
    freeze: bool,
    force_null: bool,
    encoding: bool,
}

impl Written {
    fn options(self, cursor: &Cursor<'_, '_>) -> Parsed<CopyOptions> {
        let format = self.format.unwrap_or(CopyFormat::Text);
        let is_csv = format == CopyFormat::Csv;
        let byte = |value: Option<String>, default: u8| match value.as_deref().map(str::as_bytes) {
            None => Ok(default),
            Some([byte]) => Ok(*byte),
            Some(_) => cursor.fail("a COPY option must be a single one-byte character"),
        };
        let quote = byte(self.quote, b'"')?;
        Ok(CopyOptions {
            format,
            delimiter: byte(self.delimiter, if is_csv { b',' } else { b'\t' })?,
            null: self.null.unwrap_or_else(|| if is_csv { String::new() } else { "\\N".to_owned() }),
            header: self.header,
            quote,
            escape: byte(self.escape, quote)?,
            freeze: self.freeze,
            force_null: self.force_null,
            encoding: self.encoding,
        })
    }

    fn set_format(&mut self, cursor: &Cursor<'_, '_>, name: &str) -> Parsed<()> {
        self.format = Some(match name {
            "text" => CopyFormat::Text,
            "csv" => CopyFormat::Csv,
            "binary" => CopyFormat::Binary,
            _ => return cursor.fail("the COPY format is not known"),
        });
        Ok(())
    }
}

fn options(cursor: &mut Cursor<'_, '_>, written: &mut Written) -> Parsed<()> {
    // The oldest syntax has DELIMITERS before WITH.
    if cursor.eat_all(&["using", "delimiters"]) || cursor.eat("delimiters") {
        written.delimiter = Some(string(cursor)?);
    }
    cursor.eat("with");
    if cursor.is_symbol("(") {
        let inside = cursor.group()?;
        for tokens in inside.source.split_commas(inside.at..inside.end) {
            generic(inside.source.cursor(tokens), written)?;
        }
        return Ok(());
    }
    while !cursor.is_done() && !cursor.is("where") {
        old(cursor, written)?;
    }
    Ok(())
}

/// One option of the list in parentheses.
fn generic(mut option: Cursor<'_, '_>, written: &mut Written) -> Parsed<()> {
    let is_on = !utility::is_off(&option);
    match option.name()?.as_str() {
        "format" => {
            let name = word(&mut option)?;
            return written.set_format(&option, &name);
        }
        "freeze" => written.freeze = is_on,
        "header" => written.header = is_on,
        "delimiter" => written.delimiter = Some(word(&mut option)?),
        "null" => written.null = Some(word(&mut option)?),
        "quote" => written.quote = Some(word(&mut option)?),
        "escape" => written.escape = Some(word(&mut option)?),
        "encoding" => written.encoding = true,
        "force_null" | "force_not_null" => written.force_null = true,
        "force_quote" => {}
        _ => return option.fail("a COPY option is not known"),
    }
    Ok(())
}

/// One option of the old syntax.
fn old(cursor: &mut Cursor<'_, '_>, written: &mut Written) -> Parsed<()> {
    let has_value = |cursor: &mut Cursor<'_, '_>| {
        cursor.eat("as");
        string(cursor)
    };
    if cursor.eat("binary") {
        written.format = Some(CopyFormat::Binary);
    } else if cursor.eat("csv") {
        written.format = Some(CopyFormat::Csv);
    } else if cursor.eat("freeze") {
        written.freeze = true;
    } else if cursor.eat("header") {
        written.header = true;
    } else if cursor.eat("delimiter") {
        written.delimiter = Some(has_value(cursor)?);
    } else if cursor.eat("null") {
        written.null = Some(has_value(cursor)?);
    } else if cursor.eat("quote") {
        written.quote = Some(has_value(cursor)?);
    } else if cursor.eat("escape") {
        written.escape = Some(has_value(cursor)?);
    } else if cursor.eat("encoding") {
        written.encoding = true;
        string(cursor)?;
    } else if cursor.eat_all(&["force", "quote"]) {
        columns(cursor)?;
    } else if cursor.eat_all(&["force", "not", "null"]) || cursor.eat_all(&["force", "null"]) {
        written.force_null = true;
        columns(cursor)?;
    } else {
        return cursor.fail("a COPY option is not known");
    }
    Ok(())
}

/// `a, b` or `*`.
fn columns(cursor: &mut Cursor<'_, '_>) -> Parsed<()> {
    if cursor.eat_symbol("*") {
        return Ok(());
    }
    cursor.name()?;
    while cursor.eat_symbol(",") {
        cursor.name()?;
    }
    Ok(())
}

fn string(cursor: &mut Cursor<'_, '_>) -> Parsed<String> {
    match cursor.source.lexed.literal(cursor.at).filter(|_| !cursor.is_done() && cursor.source.is_string(cursor.at)) {
        Some(literal) => {
            cursor.at += 1;
            Ok(literal.value.clone())
        }
        None => cursor.fail("a string is expected"),
    }
}

/// A word in lower case, or a string.
fn word(option: &mut Cursor<'_, '_>) -> Parsed<String> {
    match option.source.lexed.literal(option.at).filter(|_| !option.is_done()) {
        Some(literal) => Ok(literal.value.clone()),
        None => option.name(),
    }
}
