//! SET, RESET, DISCARD, DEALLOCATE: what belongs to the session and not to a connection.

use super::relay::Done;
use super::values::StatementValues;
use super::{Failure, Session};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::Framed;
use crate::plan::Slot;
use crate::session::Parsed;
use crate::sql::ast::{Expr, SelectItemKind, SetExpr, Statement};
use crate::sql::walk;

/// Settings that a client may not change: the proxy depends on them.
const FIXED: &[&str] = &["client_encoding", "session_authorization", "standard_conforming_strings"];

impl Session {
    pub(super) async fn run_setting(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        statement: &Statement,
    ) -> Result<Done, Failure> {
        match statement {
            Statement::Set { local, name, value } => self.set(client, parsed, *local, name, value.is_empty()).await,
            Statement::Reset(Some(name)) => self.set(client, parsed, false, name, true).await,
            Statement::Reset(None) => {
                let done = self.tell_shards(client, &parsed.text).await?;
                self.settings.reset_all();
                self.settings_changed();
                Ok(done)
            }
            Statement::Deallocate(name) => {
                match name {
                    Some(name) if !self.statements.remove(name) => {
                        return Err(ClientError::new(
                            ErrorId::UndefinedPreparedStatement,
                            format!("prepared statement \"{name}\" does not exist"),
                        )
                        .into());
                    }
                    Some(_) => {}
                    None => self.statements.remove_all(),
                }
                Ok(Done::with_tag(if name.is_some() { "DEALLOCATE" } else { "DEALLOCATE ALL" }))
            }
            Statement::Discard(what) => self.discard(what),
            _ => Err(ClientError::new(ErrorId::Internal, "not a setting").into()),
        }
    }

    fn discard(&mut self, what: &str) -> Result<Done, Failure> {
        if what == "all" {
            if self.transaction.is_open() {
                return Err(ClientError::new(
                    ErrorId::ActiveTransaction,
                    "DISCARD ALL cannot run inside a transaction block",
                )
                .into());
            }
            self.statements.remove_all();
            self.settings.reset_all();
            self.settings_changed();
        }
        Ok(Done::with_tag(&format!("DISCARD {}", what.to_ascii_uppercase())))
    }

    /// SET and RESET of one setting: a server judges the value, the session remembers it.
    async fn set(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        local: bool,
        name: &str,
        is_default: bool,
    ) -> Result<Done, Failure> {
        if FIXED.contains(&name) && !is_default && !says_the_same(parsed, name) {
            return Err(ClientError::new(
                ErrorId::FeatureNotSupported,
                format!("parameter \"{name}\" cannot be changed through the proxy"),
            )
            .with_hint("Texts are UTF-8 with standard-conforming strings.")
            .into());
        }
        let done = self.tell_shards(client, &parsed.text).await?;
        if local {
            if self.transaction.is_open() {
                self.transaction.say_local(statement_text(parsed));
            }
            return Ok(done);
        }
        let sql = (!is_default).then(|| statement_text(parsed));
        if self.transaction.is_open() {
            self.transaction.say_setting(name, sql);
            self.preview_search_path(name, sql);
        } else {
            self.settings.change(name, sql);
            self.settings_changed();
        }
        Ok(done)
    }

    /// After `set_config` succeeded on one shard: the session remembers it, the transaction's other
    /// shards are told.
    pub(super) fn note_set_config(&mut self, told: ShardId, change: &SetConfig) {
        for (_, link) in self.links.iter_mut().filter(|(shard, _)| **shard != told) {
            link.quiet_query(&change.sql);
        }
        match (self.transaction.is_open(), change.local) {
            (true, true) => self.transaction.say_local(&change.sql),
            (true, false) => {
                self.transaction.say_setting(&change.name, Some(&change.sql));
                self.preview_search_path(&change.name, Some(&change.sql));
            }
            (false, true) => {}
            (false, false) => {
                self.settings.change(&change.name, Some(&change.sql));
                self.settings_changed();
            }
        }
    }

    /// Inside a transaction a new search path counts at once, but lasts only if it commits.
    fn preview_search_path(&mut self, name: &str, sql: Option<&str>) {
        if name == "search_path" {
            let mut probe = self.settings.clone();
            probe.change(name, sql);
            std::mem::swap(&mut self.settings, &mut probe);
            self.update_search_path();
            std::mem::swap(&mut self.settings, &mut probe);
        }
    }

    /// Connections that are held have just been told; their key says so.
    fn settings_changed(&mut self) {
        self.update_search_path();
        let key = self.settings.key();
        for link in self.links.values_mut() {
            link.lease.settings_key = key;
        }
    }

    /// Tells every shard of the transaction, or one shard outside of one; the first answer is shown.
    pub(super) async fn tell_shards(&mut self, client: &mut Framed, sql: &str) -> Result<Done, Failure> {
        let mut shards: Vec<_> = self.links.keys().copied().collect();
        if shards.is_empty() {
            shards.push(self.topology.home());
        }
        let mut first = None;
        for shard in shards {
            let done = if first.is_none() {
                self.forward_query(client, shard, sql).await?
            } else {
                let show = super::exchange::Show { header: false, rows: false, notices: false };
                self.exchange(client, shard, sql, super::statement::Mode::Simple, show).await?
            };
            first.get_or_insert(done);
        }
        first.ok_or_else(|| ClientError::new(ErrorId::Internal, "no shard to tell").into())
    }

    /// SET TRANSACTION and SET CONSTRAINTS: for this transaction, on all its shards.
    pub(super) async fn set_in_transaction(&mut self, client: &mut Framed, parsed: &Parsed) -> Result<Done, Failure> {
        let done = self.tell_shards(client, &parsed.text).await?;
        if self.transaction.is_open() {
            self.transaction.say_local(statement_text(parsed));
        }
        Ok(done)
    }
}

/// What a `set_config` of a statement changes.
pub(super) struct SetConfig {
    name: String,
    sql: String,
    local: bool,
}

/// Finds `SELECT set_config(name, value, is_local)` with plain arguments.
///
/// # Errors
/// The function is used in any other way: what it would set cannot be told, and would stay on a
/// connection that other sessions use.
pub(super) fn set_config(parsed: &Parsed, values: &StatementValues<'_>) -> Result<Option<SetConfig>, ClientError> {
    let Ok(statement) = &*parsed.statement else { return Ok(None) };
    let mut calls = 0;
    walk::for_each_call(statement, |call| calls += usize::from(call.name.name == "set_config"));
    if calls == 0 {
        return Ok(None);
    }
    let plain = if calls == 1 { plain_set_config(statement, values) } else { None };
    plain.map(Some).ok_or_else(|| {
        ClientError::new(ErrorId::FeatureNotSupported, "this use of set_config is not supported through the proxy")
            .with_hint("Use SELECT set_config('name', 'value', true or false) alone, or SET.")
    })
}

fn plain_set_config(statement: &Statement, values: &StatementValues<'_>) -> Option<SetConfig> {
    let Statement::Query(query) = statement else { return None };
    let SetExpr::Select(select) = &query.body else { return None };
    let [item] = select.items.as_slice() else { return None };
    let SelectItemKind::Expr { expr: Expr::Function(call), .. } = &item.kind else { return None };
    let [name, value, local] = call.args.as_slice() else { return None };
    if call.name.name != "set_config" || !select.from.is_empty() {
        return None;
    }
    let text = |expr: &Expr| match expr {
        Expr::Literal(index) => values.text(&Slot::Literal { index: *index, negative: false }).flatten(),
        Expr::Param(number) => values.text(&Slot::Param(*number)).flatten(),
        _ => None,
    };
    let local = match local {
        Expr::Bool(local) => *local,
        other => matches!(text(other)?.to_ascii_lowercase().as_str(), "t" | "true" | "on" | "1" | "yes"),
    };
    let (name, value) = (text(name)?.to_ascii_lowercase(), text(value)?);
    if FIXED.contains(&name.as_str()) {
        return None;
    }
    let quoted = |text: &str| text.replace('\'', "''");
    let sql = format!("SELECT pg_catalog.set_config('{}', '{}', {local})", quoted(&name), quoted(&value));
    Some(SetConfig { name, sql, local })
}

fn statement_text(parsed: &Parsed) -> &str {
    parsed.text.trim_end_matches(|character: char| character == ';' || character.is_whitespace())
}

/// SET of a fixed setting to the value it has anyway.
fn says_the_same(parsed: &Parsed, name: &str) -> bool {
    let text = statement_text(parsed).to_ascii_lowercase();
    let value =
        text.rsplit(|c: char| c.is_whitespace() || c == '=').next().unwrap_or_default().trim_matches(['\'', '"']);
    match name {
        "client_encoding" => matches!(value, "utf8" | "utf-8" | "unicode" | "default"),
        "standard_conforming_strings" => matches!(value, "on" | "true" | "default"),
        _ => value == "default",
    }
}
