//! CREATE TABLE … AS over several shards: the table is made everywhere, empty; then its rows go where they belong.

use super::relay::{Done, command_tag};
use super::statement::Mode;
use super::{Failure, Session};
use crate::net::Framed;
use crate::session::Parsed;
use crate::sql::ast::{Ddl, SetExpr, Statement};

/// The two statements that a CREATE TABLE … AS is.
struct Parts {
    /// WITH NO DATA.
    create: String,
    /// `None`: no rows are wanted.
    insert: Option<String>,
}

/// The statement, when it makes an ordinary table of a query.
fn of(parsed: &Parsed) -> Option<&Ddl> {
    match &*parsed.statement {
        Ok(Statement::Ddl(ddl)) if ddl.query.is_some() && ddl.object == "TABLE" && !ddl.temporary => Some(ddl),
        _ => None,
    }
}

/// True for a statement that [`Session::run_create_as`] may take.
pub(super) fn is_create_as(parsed: &Parsed) -> bool {
    of(parsed).is_some() || of_into(parsed).is_some()
}

/// `SELECT … INTO table …` as the CREATE TABLE AS that it is; not of temporary tables.
fn of_into(parsed: &Parsed) -> Option<String> {
    let Ok(Statement::Query(query)) = &*parsed.statement else { return None };
    let SetExpr::Select(select) = &query.body else { return None };
    let (text, lexed) = (parsed.text.as_str(), &parsed.lexed);
    let is = |at: usize, word: &str| lexed.is_keyword(text, at, word);
    let into = select.items_tokens.end;
    let is_temporary = ["temp", "temporary", "local", "global"].iter().any(|word| is(into + 1, word));
    if !select.into || !is(into, "into") || is_temporary {
        return None;
    }
    let unlogged = if is(into + 1, "unlogged") { "UNLOGGED " } else { "" };
    let table = into + 1 + usize::from(!unlogged.is_empty());
    let name = if is(table, "table") { table + 1 } else { table };
    let last = if lexed.is_symbol(text, name + 1, ".") { name + 2 } else { name };
    let start = lexed.tokens.get(into)?.start;
    let named = text.get(lexed.tokens.get(name)?.start..lexed.tokens.get(last)?.end)?;
    let end = lexed.tokens.get(last)?.end;
    Some(format!("CREATE {unlogged}TABLE {named} AS {}{}", text.get(..start)?, text.get(end..)?))
}

fn parts(parsed: &Parsed) -> Option<Parts> {
    let (text, lexed) = (parsed.text.as_str(), &parsed.lexed);
    let is = |at: usize, word: &str| lexed.is_keyword(text, at, word);
    let mut end = lexed.tokens.len();
    if lexed.is_symbol(text, end - 1, ";") {
        end -= 1;
    }
    let is_empty = end > 3 && lexed.are_keywords(text, end - 3, &["with", "no", "data"]);
    if is_empty {
        return None;
    }
    if end > 2 && lexed.are_keywords(text, end - 2, &["with", "data"]) {
        end -= 2;
    }
    let name = (0..end).find(|at| is(*at, "table"))? + 1;
    let name = if is(name, "if") { name + 3 } else { name };
    let name_end = if lexed.is_symbol(text, name + 1, ".") { name + 3 } else { name + 1 };
    let begins = |at: usize| {
        ["select", "with", "values", "table"].iter().any(|word| is(at, word)) || lexed.is_symbol(text, at, "(")
    };
    let query = (name_end..end).find(|at| is(*at, "as") && begins(at + 1))? + 1;
    let piece = |tokens: std::ops::Range<usize>| {
        let start = lexed.tokens.get(tokens.start)?.start;
        text.get(start..lexed.tokens.get(tokens.end - 1)?.end)
    };
    Some(Parts {
        create: format!("{} WITH NO DATA", piece(0..end)?),
        insert: Some(format!("INSERT INTO {} {}", piece(name..name_end)?, piece(query..end)?)),
    })
}

impl Session {
    /// Runs a CREATE TABLE … AS with its rows; `None`: it is another statement.
    ///
    /// # Errors
    /// Those of its two statements; the transaction's state is the caller's to change.
    pub(super) async fn run_create_as(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        mode: Mode<'_>,
    ) -> Result<Option<Done>, Failure> {
        if self.topology.shards.len() > 1
            && let Some(text) = of_into(parsed)
        {
            let parsed = self.understand(&text)?;
            return Box::pin(self.run_create_as(client, &parsed, mode)).await;
        }
        let Some(ddl) = of(parsed).filter(|_| self.topology.shards.len() > 1) else { return Ok(None) };
        let Some(Parts { create, insert }) = parts(parsed) else { return Ok(None) };
        let exists = ddl.names.first().is_some_and(|name| {
            self.schema().resolve(name.schema.as_deref(), &name.name, &self.planning_path()).is_some()
        });
        let create = self.understand(&create)?;
        self.open_block().await?;
        let made = Box::pin(self.run(client, &create, mode)).await?;
        // IF NOT EXISTS: PostgreSQL has said that there is one.
        let Some(insert) = insert.filter(|_| !exists) else { return Ok(Some(made)) };
        let insert = self.understand(&insert)?;
        let mode = match mode {
            Mode::Extended { bind, types, .. } => Mode::Extended { bind, types, describe: false },
            Mode::Simple => Mode::Simple,
        };
        let done = Box::pin(self.run(client, &insert, mode)).await?;
        let tag = done.complete.as_ref().and_then(command_tag).unwrap_or_default();
        let count = tag.rsplit(' ').next().unwrap_or("0").to_owned();
        Ok(Some(Done::with_tag(&format!("SELECT {count}"))))
    }
}
