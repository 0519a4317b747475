//! SET, RESET, DISCARD, DEALLOCATE: what belongs to the session and not to a connection.

use super::relay::Done;
use super::{Failure, Session};
use crate::error::{ClientError, ErrorId};
use crate::net::Framed;
use crate::session::Parsed;
use crate::sql::ast::Statement;

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
            if name == "search_path" {
                let mut probe = self.settings.clone();
                probe.change(name, sql);
                std::mem::swap(&mut self.settings, &mut probe);
                self.update_search_path();
                std::mem::swap(&mut self.settings, &mut probe);
            }
        } else {
            self.settings.change(name, sql);
            self.settings_changed();
        }
        Ok(done)
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
                let show = super::exchange::Show { header: false, rows: false };
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
