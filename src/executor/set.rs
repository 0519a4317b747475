//! SET, RESET, DISCARD, DEALLOCATE: what belongs to the session and not to a connection.

use std::collections::BTreeMap;

use bytes::BytesMut;

use super::relay::Done;
use super::values::StatementValues;
use super::{Failure, Session};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::Framed;
use crate::plan::Slot;
use crate::session::direct::sets_modes;
use crate::session::encoding::in_ascii;
use crate::session::prepared;
use crate::session::{Change, Parsed};
use crate::sql::ast::{Expr, SelectItemKind, SetExpr, Statement, TableRef};
use crate::sql::walk;
use crate::wire::server_message;

/// Settings that a client may not change: the proxy depends on them.
const FIXED: &[&str] = &["session_authorization", "standard_conforming_strings"];

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
                let sql = self.settings.change_sql(&Change::ResetAll);
                self.note_parameters().await?;
                self.tell_shards_quietly(client, &sql).await?;
                self.settings_change(Change::ResetAll);
                Ok(Done::with_tag("RESET"))
            }
            Statement::Deallocate(name) => {
                match name {
                    Some(name) if !self.statements.remove(name) => {
                        return Err(prepared::does_not_exist(name).into());
                    }
                    Some(_) => {}
                    None => self.statements.remove_all(),
                }
                Ok(Done::with_tag(if name.is_some() { "DEALLOCATE" } else { "DEALLOCATE ALL" }))
            }
            Statement::Discard(what) => self.discard(client, what).await,
            _ => Err(ClientError::new(ErrorId::Internal, "not a setting").into()),
        }
    }

    async fn discard(&mut self, client: &mut Framed, what: &str) -> Result<Done, Failure> {
        if what == "all" {
            if self.transaction.is_open() {
                return Err(ClientError::new(
                    ErrorId::ActiveTransaction,
                    "DISCARD ALL cannot run inside a transaction block",
                )
                .into());
            }
            self.statements.remove_all();
            self.ids.forget();
            let sql = self.settings.change_sql(&Change::ResetAll);
            self.tell_shards_quietly(client, &format!("{sql};RESET ROLE")).await?;
            self.settings.discard();
            self.settings_changed();
        }
        if what == "sequences" {
            self.ids.forget();
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
            .with_hint("Texts have standard-conforming strings, and the role is the one that logged in.")
            .into());
        }
        self.note_parameters().await?;
        let startup = if is_default { self.settings.startup_sql(name, local) } else { None };
        let done = match startup {
            // The server's own RESET would go further back than to the client's startup packet.
            Some(sql) => {
                self.tell_shards_quietly(client, &sql).await?;
                Done::with_tag(if matches!(*parsed.statement, Ok(Statement::Reset(_))) { "RESET" } else { "SET" })
            }
            None => self.tell_shards(client, &parsed.text).await?,
        };
        if local {
            if self.transaction.is_open() {
                self.transaction.say_local(Some(name), statement_text(parsed));
                self.update_read_settings();
            }
            return Ok(done);
        }
        let name = name.to_owned();
        self.settings_change(if is_default {
            Change::Reset(name)
        } else {
            let sql = self.lasting_sql(&name).unwrap_or_else(|| statement_text(parsed).to_owned());
            Change::Set { name, sql }
        });
        Ok(done)
    }

    /// A DateStyle may name the style or the order alone, and keeps the other part: what came of it is
    /// remembered instead.
    fn lasting_sql(&self, name: &str) -> Option<String> {
        let value = self.links.values().next()?.lease.parameters().get("DateStyle")?;
        (name == "datestyle").then(|| format!("SET datestyle = '{value}'"))
    }

    /// SET SESSION CHARACTERISTICS: defaults of the transactions to come.
    pub(super) async fn set_characteristics(&mut self, client: &mut Framed, parsed: &Parsed) -> Result<Done, Failure> {
        self.note_parameters().await?;
        let done = self.tell_shards(client, &parsed.text).await?;
        for change in characteristics(parsed) {
            self.settings_change(change);
        }
        Ok(done)
    }

    /// What the shards have taken is the session's, at once or with the transaction.
    fn settings_change(&mut self, change: Change) {
        if self.transaction.is_open() {
            self.transaction.say_setting(change);
            self.update_read_settings();
        } else {
            self.settings.change(&change);
            self.settings_changed();
        }
    }

    /// After `set_config` succeeded on one shard: the session remembers it, the transaction's other
    /// shards are told.
    pub(super) fn note_set_config(&mut self, told: ShardId, change: &SetConfig) {
        for (_, link) in self.links.iter_mut().filter(|(shard, _)| **shard != told) {
            link.quiet_query(&change.sql);
        }
        self.note_told(told);
        let SetConfig { name, sql, local } = change;
        match (self.transaction.is_open(), local) {
            (true, true) => {
                self.transaction.say_local(Some(name), sql);
                self.update_read_settings();
            }
            (false, true) => {}
            (_, false) => {
                let sql = self.lasting_sql(name).unwrap_or_else(|| sql.clone());
                self.settings_change(Change::Set { name: name.clone(), sql });
            }
        }
    }

    /// Before a transaction sets something: what the client knows of reported settings.
    pub(super) async fn note_parameters(&mut self) -> Result<(), Failure> {
        if self.transaction.is_open() && self.parameters_before.is_none() {
            let shard = self.any_shard();
            self.settled_link(shard).await?;
            self.parameters_before = self.links.get(&shard).map(|link| link.lease.parameters().clone());
        }
        Ok(())
    }

    /// The end of a transaction may take settings back: the client is told of those that PostgreSQL reports.
    pub(super) fn owe_parameters(&mut self, committed: bool) {
        let Some(before) = self.parameters_before.take() else { return };
        // Without a connection that could tell, the values are those from before, unless they were kept.
        let now = match self.links.values().next() {
            Some(link) => link.lease.parameters(),
            None if committed && self.transaction.changes_settings() => return,
            None => &before,
        };
        owe(&mut self.status_owed, &self.parameters_told, now);
        self.parameters_told.clear();
    }

    /// ROLLBACK TO has taken settings back.
    pub(super) fn owe_parameters_inside(&mut self) {
        if let Some(link) = self.links.values().next().filter(|_| self.parameters_before.is_some()) {
            owe(&mut self.status_owed, &self.parameters_told, link.lease.parameters());
            self.parameters_told.clone_from(link.lease.parameters());
        }
    }

    /// What the connection says is in force now is what the client was told.
    fn note_told(&mut self, shard: ShardId) {
        if self.transaction.is_open()
            && let Some(link) = self.links.get(&shard)
        {
            self.parameters_told = link.lease.parameters().clone();
        }
    }

    /// Tells of settings that changed without a SET, and of notifications, before ReadyForQuery as PostgreSQL
    /// does.
    pub fn write_owed(&mut self, client: &mut Framed) {
        if !self.status_owed.is_empty() {
            client.output().extend_from_slice(&self.status_owed.split());
        }
    }

    /// Connections that are held have just been told; their key says so.
    fn settings_changed(&mut self) {
        self.update_read_settings();
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
            if first.is_none() {
                self.note_told(shard);
            }
            first.get_or_insert(done);
        }
        first.ok_or_else(|| ClientError::new(ErrorId::Internal, "no shard to tell").into())
    }

    /// As [`Session::tell_shards`], for text of the proxy's own: the client sees changes of parameters only.
    async fn tell_shards_quietly(&mut self, client: &mut Framed, sql: &str) -> Result<(), Failure> {
        let mut shards: Vec<_> = self.links.keys().copied().collect();
        if shards.is_empty() {
            shards.push(self.topology.home());
        }
        for (index, shard) in shards.into_iter().enumerate() {
            let show = super::exchange::Show { header: false, rows: false, notices: index == 0 };
            self.exchange(client, shard, sql, super::statement::Mode::Simple, show).await?;
            if index == 0 {
                self.note_told(shard);
            }
        }
        Ok(())
    }

    /// SET TRANSACTION and SET CONSTRAINTS: for this transaction, on all its shards.
    pub(super) async fn set_in_transaction(&mut self, client: &mut Framed, parsed: &Parsed) -> Result<Done, Failure> {
        // No server need be asked: it goes with the BEGIN, and may yet decide where the transaction reads.
        let travels = self.transaction.is_open() && self.links.is_empty() && sets_modes(parsed.text.as_bytes());
        let done = match travels {
            true => Done::with_tag("SET"),
            false => self.tell_shards(client, &parsed.text).await?,
        };
        if self.transaction.is_open() {
            self.transaction.say_local(None, statement_text(parsed));
        }
        Ok(done)
    }
}

/// ParameterStatus for what is otherwise than the client was told.
fn owe(owed: &mut BytesMut, told: &BTreeMap<String, String>, now: &BTreeMap<String, String>) {
    for (name, value) in now {
        if told.get(name).is_some_and(|told| told != value) {
            server_message::write_parameter_status(owed, name, value);
        }
    }
}

/// What a `set_config` of a statement changes.
pub(super) struct SetConfig {
    name: String,
    sql: String,
    local: bool,
}

/// Finds `SELECT set_config(name, value, is_local)` with plain arguments, also among other columns.
///
/// # Errors
/// The function is used in any other way: what it would set cannot be told, and would stay on a
/// connection that other sessions use.
pub(super) fn set_config(parsed: &Parsed, values: &StatementValues<'_>) -> Result<Option<SetConfig>, ClientError> {
    let Ok(statement) = &*parsed.statement else { return Ok(None) };
    if !parsed.has_parenthesis() {
        return Ok(None);
    }
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
    // asyncpg asks for the old value in the same statement.
    let call = select.items.iter().find_map(|item| match &item.kind {
        SelectItemKind::Expr { expr: Expr::Function(call), .. } if call.name.name == "set_config" => Some(call),
        _ => None,
    })?;
    let [name, value, local] = call.args.as_slice() else { return None };
    let text = |expr: &Expr| match expr {
        Expr::Literal(index) => values.text(&Slot::Literal { index: *index, negative: false }).flatten(),
        Expr::Param(number) => values.text(&Slot::Param(*number)).flatten(),
        _ => None,
    };
    let local = match local {
        Expr::Bool(local) => *local,
        other => matches!(text(other)?.to_ascii_lowercase().as_str(), "t" | "true" | "on" | "1" | "yes"),
    };
    let text = |expr: &Expr| match expr {
        Expr::Param(number) => values.text_param(*number),
        other => text(other),
    };
    let (named, condition) = match select.from.as_slice() {
        [] => (text(name)?, String::new()),
        [from] => {
            let named = text(row_of_settings(from, select.selection.as_ref(), name)?)?;
            let condition = format!(" FROM pg_catalog.pg_settings WHERE name = '{}'", quoted(&named));
            (named, condition)
        }
        _ => return None,
    };
    let (name, value) = (named.to_ascii_lowercase(), text(value)?);
    if FIXED.contains(&name.as_str()) {
        return None;
    }
    let sql = format!("SELECT pg_catalog.set_config('{}', '{}', {local}){condition}", quoted(&name), quoted(&value));
    let sql = in_ascii(&sql).into_owned();
    Some(SetConfig { name, sql, local })
}

/// The name in `set_config(name, …) FROM pg_settings WHERE name = '…'`: how pg_dump sets what not every
/// version of PostgreSQL has.
fn row_of_settings<'a>(from: &TableRef, condition: Option<&'a Expr>, name: &Expr) -> Option<&'a Expr> {
    let TableRef::Table { name: table, alias: None, .. } = from else { return None };
    let Some(Expr::Binary { operator, left, right }) = condition else { return None };
    let is_catalog = table.schema.as_deref().is_none_or(|schema| schema == "pg_catalog");
    let is_its_name = matches!(name, Expr::Column { name, .. } if name == "name") && **left == *name;
    (is_catalog && table.name == "pg_settings" && operator == "=" && is_its_name).then_some(&**right)
}

/// A text between quotes, as SQL writes it.
fn quoted(text: &str) -> String {
    text.replace('\'', "''")
}

fn statement_text(parsed: &Parsed) -> &str {
    parsed.text.trim_end_matches(|character: char| character == ';' || character.is_whitespace())
}

/// The settings behind SET SESSION CHARACTERISTICS AS TRANSACTION …; PostgreSQL has taken the text.
fn characteristics(parsed: &Parsed) -> Vec<Change> {
    let words: Vec<String> =
        (0..parsed.lexed.tokens.len()).map(|at| parsed.lexed.text(&parsed.text, at).to_ascii_lowercase()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut changes = Vec::new();
    let mut set = |name: &str, value: &str| {
        let sql = format!("SET {name} = '{value}'");
        changes.push(Change::Set { name: name.to_owned(), sql });
    };
    for at in 0..words.len() {
        match words.get(at..).unwrap_or_default() {
            ["level", "read", level @ ("committed" | "uncommitted"), ..] => {
                set("default_transaction_isolation", &format!("read {level}"));
            }
            ["level", "repeatable", "read", ..] => set("default_transaction_isolation", "repeatable read"),
            ["level", "serializable", ..] => set("default_transaction_isolation", "serializable"),
            ["read", "only", ..] => set("default_transaction_read_only", "on"),
            ["read", "write", ..] => set("default_transaction_read_only", "off"),
            ["not", "deferrable", ..] => set("default_transaction_deferrable", "off"),
            ["deferrable", ..] if at == 0 || words.get(at - 1) != Some(&"not") => {
                set("default_transaction_deferrable", "on");
            }
            _ => {}
        }
    }
    changes
}

/// SET of a fixed setting to the value it has anyway.
fn says_the_same(parsed: &Parsed, name: &str) -> bool {
    let text = statement_text(parsed).to_ascii_lowercase();
    let value =
        text.rsplit(|c: char| c.is_whitespace() || c == '=').next().unwrap_or_default().trim_matches(['\'', '"']);
    match name {
        "standard_conforming_strings" => matches!(value, "on" | "true" | "default"),
        _ => value == "default",
    }
}
