//! BEGIN, COMMIT, ROLLBACK, savepoints: one shard commits in one phase, several writers in two.

use super::link::{Link, failure_of};
use super::relay::{Done, FirstError, command_tag, fatal};
use super::survive::is_of_loss;
use super::two_phase::{Branch, CommitError};
use super::{Failure, Session, shard_name};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::Framed;
use crate::session::direct::lost_transaction;
use crate::session::{Parsed, PoolMode};
use crate::sql::ast::Statement;
use crate::wire::client_message;
use crate::wire::frame::Frame;
use crate::wire::server_message::{self, tag};

/// Words that may follow BEGIN and START TRANSACTION: with these alone, BEGIN cannot fail.
const BEGIN_WORDS: &[&str] = &[
    "begin",
    "start",
    "transaction",
    "work",
    "isolation",
    "level",
    "serializable",
    "repeatable",
    "read",
    "committed",
    "uncommitted",
    "write",
    "only",
    "not",
    "deferrable",
    ",",
    ";",
];

impl Session {
    pub(super) async fn run_transaction_control(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        statement: &Statement,
    ) -> Result<Done, Failure> {
        match statement {
            Statement::Begin => self.begin(client, parsed).await,
            Statement::Commit { chain } => self.end_by_client(client, true, *chain).await,
            Statement::Rollback { chain } => self.end_by_client(client, false, *chain).await,
            Statement::Savepoint(name) => {
                self.needs_block("SAVEPOINT")?;
                self.tell_links(&parsed.text).await?;
                self.transaction.savepoint(name);
                Ok(Done::with_tag("SAVEPOINT"))
            }
            Statement::Release(name) => {
                self.needs_block("RELEASE SAVEPOINT")?;
                self.transaction.release(name)?;
                self.tell_links(&parsed.text).await?;
                Ok(Done::with_tag("RELEASE"))
            }
            Statement::RollbackTo(name) => {
                self.needs_block("ROLLBACK TO SAVEPOINT")?;
                self.transaction.clone().rollback_to(name)?;
                self.tell_links(&parsed.text).await?;
                self.transaction.rollback_to(name)?;
                self.update_read_settings();
                self.owe_parameters_inside();
                self.own_schema = None;
                if self.pins.has_temporary() || self.keeps(self.topology.home()) {
                    self.read_temporary().await?;
                }
                if self.schema_changed {
                    self.read_own_schema().await?;
                }
                Ok(Done::with_tag("ROLLBACK"))
            }
            _ => self.set_in_transaction(client, parsed).await,
        }
    }

    async fn begin(&mut self, client: &mut Framed, parsed: &Parsed) -> Result<Done, Failure> {
        if self.mode == PoolMode::Statement {
            // As with one shard, and as PgBouncer: the session ends.
            let error = ClientError::new(
                ErrorId::FeatureNotSupported,
                "transaction blocks are not allowed in statement pooling mode",
            );
            return Err(fatal(&error.with_hint("Use pool mode \"transaction\" for this user.")));
        }
        let known = parsed.lexed.tokens.iter().all(|token| {
            let text = parsed.text.get(token.start..token.end).unwrap_or_default().to_ascii_lowercase();
            BEGIN_WORDS.contains(&text.as_str())
        });
        if !known || !begin_modes_are_sound(parsed) {
            // PostgreSQL's own words for what is wrong with it.
            return self.forward_syntax_error(client, parsed).await;
        }
        if self.transaction.is_open() && !self.transaction.is_implicit() {
            server_message::write_notice(
                client.output(),
                "WARNING",
                "25001",
                "there is already a transaction in progress",
            );
        } else {
            self.transaction.begin(parsed.text.trim_end_matches(|c: char| c == ';' || c.is_whitespace()));
            self.join_block();
        }
        let first = parsed.lexed.tokens.first().and_then(|token| parsed.text.get(token.start..token.end));
        let is_start = first.is_some_and(|word| word.eq_ignore_ascii_case("start"));
        Ok(Done::with_tag(if is_start { "START TRANSACTION" } else { "BEGIN" }))
    }

    /// Sends a statement that cannot succeed to the home shard for PostgreSQL's own error.
    async fn forward_syntax_error(&mut self, client: &mut Framed, parsed: &Parsed) -> Result<Done, Failure> {
        let shard = self.any_shard();
        // EXPLAIN in front of it: whatever the text is, it cannot open a block.
        let done = self.forward_query(client, shard, &format!("EXPLAIN {}", parsed.text)).await?;
        drop(done);
        Err(ClientError::new(ErrorId::SyntaxError, "this form of BEGIN is not known")
            .with_hint("Use ISOLATION LEVEL, READ WRITE, READ ONLY and DEFERRABLE only.")
            .into())
    }

    pub(super) fn needs_block(&self, what: &str) -> Result<(), ClientError> {
        if self.transaction.is_open() {
            Ok(())
        } else {
            Err(ClientError::new(
                ErrorId::NoActiveTransaction,
                format!("{what} can only be used in transaction blocks"),
            ))
        }
    }

    /// COMMIT or ROLLBACK of the client.
    async fn end_by_client(&mut self, client: &mut Framed, commit: bool, chain: bool) -> Result<Done, Failure> {
        if !self.transaction.is_open() || (self.transaction.is_implicit() && chain) {
            if chain {
                let what = if commit { "COMMIT AND CHAIN" } else { "ROLLBACK AND CHAIN" };
                self.needs_block(what)?;
            }
            server_message::write_notice(client.output(), "WARNING", "25P01", "there is no transaction in progress");
            return Ok(Done::with_tag(if commit { "COMMIT" } else { "ROLLBACK" }));
        }
        let begin = self.transaction.begin_sql().to_owned();
        let committed = commit && !self.transaction.is_failed();
        if committed {
            self.commit().await?;
        } else {
            self.rollback_links().await;
            self.end_transaction(false);
        }
        if chain {
            self.transaction.begin(&begin);
        }
        Ok(Done::with_tag(if committed { "COMMIT" } else { "ROLLBACK" }))
    }

    /// Commits whatever is open on all shards.
    ///
    /// # Errors
    /// Nothing is committed, or the outcome is unknown (08007). Either way the transaction is over.
    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        let was_implicit = self.transaction.is_implicit();
        self.close_to_cancel();
        let outcome = self.commit_links().await;
        self.open_to_cancel();
        let is_lost = matches!(&outcome, Err(Failure::Ours(error)) if error.id == ErrorId::PrimaryReplaced);
        self.is_undone = was_implicit && is_lost;
        self.ran_alone += u32::from(outcome.is_ok());
        let schema_changed = self.schema_changed;
        self.end_transaction(outcome.is_ok());
        if schema_changed {
            self.reload_schema().await;
        }
        outcome
    }

    async fn commit_links(&mut self) -> Result<(), Failure> {
        let mut writers: Vec<ShardId> = Vec::new();
        let mut readers: Vec<ShardId> = Vec::new();
        for (shard, link) in &self.links {
            if link.wrote { writers.push(*shard) } else { readers.push(*shard) }
        }
        // Readers hold locks and snapshots only. Their COMMIT comes first: if it fails (a serialization
        // failure), nothing has been written yet.
        for shard in readers {
            self.commit_reader(shard, writers.is_empty()).await?;
        }
        match writers.as_slice() {
            [] => Ok(()),
            [one] if self.links.get(one).is_some_and(|link| link.since.is_some() && link.lease.status() == b'T') => {
                Box::pin(self.commit_asked(*one)).await
            }
            [one] => self.commit_one(*one).await,
            _ => self.commit_several(writers).await,
        }
    }

    /// COMMIT where nothing was written; what is lost there is no loss when nothing was written anywhere.
    async fn commit_reader(&mut self, shard: ShardId, is_all: bool) -> Result<(), Failure> {
        let is_known = self.links.get(&shard).is_some_and(|link| link.since.is_some() || link.is_on_replica);
        match self.commit_one(shard).await {
            Err(failure) if is_known && is_of_loss(&failure) => {
                self.drop_link(shard);
                if is_all { Ok(()) } else { Err(lost_transaction().into()) }
            }
            outcome => outcome,
        }
    }

    /// COMMIT on one shard.
    async fn commit_one(&mut self, shard: ShardId) -> Result<(), Failure> {
        let name = shard_name(&self.topology, shard);
        let link = self.held(shard)?;
        let wrote = link.wrote;
        client_message::encode_query(link.lease.output(), "COMMIT");
        link.lease.expect_ready();
        let outcome = read_answer(link, &name).await;
        match outcome {
            // A block that had failed on the server answers COMMIT with ROLLBACK.
            Ok(Some(answer)) if answer == "ROLLBACK" => Err(was_rolled_back(&name)),
            Ok(_) => Ok(()),
            Err(Failure::Ours(error)) if wrote => Err(ClientError::new(
                ErrorId::CommitOutcomeUnknown,
                format!(
                    "the connection to shard {name} broke during COMMIT: the transaction may or may not be committed"
                ),
            )
            .with_detail(error.message)
            .with_hint("Read the rows back before trying again.")
            .into()),
            Err(failure) => Err(failure),
        }
    }

    async fn commit_several(&mut self, writers: Vec<ShardId>) -> Result<(), Failure> {
        let mut branches = Vec::with_capacity(writers.len());
        let mut writers = writers;
        // The last one decides without being prepared: PostgreSQL does not prepare what has touched temporary
        // tables, cursors WITH HOLD or notifications, and these are on the home shard, or on one that is kept.
        let home = self.topology.home();
        writers.sort_by_key(|shard| (*shard == home, self.keeps(*shard), *shard));
        let changes_settings = self.transaction.changes_settings();
        for shard in writers {
            if let Some(mut link) = self.links.remove(&shard) {
                if changes_settings {
                    // The commit gives the connection back: the next session must not find these settings.
                    link.lease.settings_key = u64::MAX;
                }
                branches.push(Branch { shard, lease: link.lease });
            }
        }
        let kept: Vec<ShardId> =
            branches.iter().map(|branch| branch.shard).filter(|shard| self.keeps(*shard)).collect();
        let cluster = std::sync::Arc::clone(&self.cluster);
        // Once it has begun, a commit is carried through even if the client goes away.
        let commit = tokio::spawn(async move {
            let mut branches = branches;
            let outcome = cluster.coordinator.commit(&mut branches).await;
            (outcome, branches)
        });
        let outcome = match commit.await {
            Ok((outcome, branches)) => {
                for branch in branches.into_iter().filter(|branch| kept.contains(&branch.shard)) {
                    let mut link = Link::new(branch.lease);
                    link.lease.settings_key = if changes_settings { u64::MAX } else { link.lease.settings_key };
                    self.links.insert(branch.shard, link);
                }
                outcome.map(|_| ()).map_err(|error| match &error {
                    CommitError::Lost { shard, .. } if self.cluster.settings.primaries.is_led(*shard) => {
                        lost_transaction().into()
                    }
                    _ => match error.error_frame() {
                        Some(frame) => Failure::Postgres(frame.clone()),
                        None => Failure::Ours(error.to_client_error()),
                    },
                })
            }
            Err(_) => Err(ClientError::new(ErrorId::CommitOutcomeUnknown, "the commit was interrupted").into()),
        };
        for shard in kept {
            if !self.links.get(&shard).is_some_and(|link| link.lease.is_clean()) {
                self.drop_link(shard);
            }
        }
        outcome
    }

    /// Rolls back on every shard; connections that cannot are closed, which rolls back too.
    pub(super) async fn rollback_links(&mut self) {
        let shards: Vec<ShardId> = self.links.keys().copied().collect();
        for shard in shards {
            let name = shard_name(&self.topology, shard);
            let Some(link) = self.links.get_mut(&shard) else { continue };
            if link.lease.status() == b'I' && link.lease.is_clean() {
                continue;
            }
            client_message::encode_query(link.lease.output(), "ROLLBACK");
            link.lease.expect_ready();
            if read_answer(link, &name).await.is_err() {
                self.drop_link(shard);
            }
        }
    }

    /// After an error on one shard: PostgreSQL has undone there what came after the last savepoint and
    /// let go of its locks; the other shards of the transaction do the same, so that nobody waits for
    /// locks of a transaction that can only roll back.
    pub(super) async fn abort_elsewhere(&mut self) {
        let savepoint = self.transaction.last_savepoint().map(|name| name.replace('"', "\"\""));
        let sql = savepoint
            .as_ref()
            .map_or_else(|| "ROLLBACK".to_owned(), |name| format!("ROLLBACK TO SAVEPOINT \"{name}\""));
        let sound: Vec<ShardId> =
            self.links.iter().filter(|(_, link)| link.lease.status() == b'T').map(|(shard, _)| *shard).collect();
        for shard in sound {
            let name = shard_name(&self.topology, shard);
            let Some(link) = self.links.get_mut(&shard) else { continue };
            client_message::encode_query(link.lease.output(), &sql);
            link.lease.expect_ready();
            let outcome = read_answer(link, &name).await;
            if outcome.is_err() {
                // Closing the connection ends its part of the transaction, too.
                self.drop_link(shard);
            } else if savepoint.is_none() && !self.keeps(shard) {
                self.cancel.remove(shard);
                self.links.remove(&shard);
            }
        }
    }

    /// The block is over, one way or the other.
    pub(super) fn end_transaction(&mut self, committed: bool) {
        self.owe_parameters(committed);
        for change in self.transaction.end(committed) {
            self.settings.change(&change);
        }
        let key = self.settings.key();
        for link in self.links.values_mut() {
            // What a rollback undid or a commit made lasting is told to the connection again if needed.
            if link.lease.settings_key != key {
                link.lease.settings_key = u64::MAX;
            }
            link.begun = false;
        }
        self.update_read_settings();
        self.schema_seen += u64::from(self.own_schema.take().is_some());
        self.schema_changed = false;
        self.statements.end_portals();
        let kept: Vec<ShardId> = self.links.keys().copied().filter(|shard| self.keeps(*shard)).collect();
        // Cursors that outlive the transaction are told apart when the server is asked for them.
        self.cursors.retain(|_, shard| kept.contains(shard));
        self.suspended.clear();
        self.release();
    }

    /// Sends a statement that ends without rows to every shard that has joined.
    pub(super) async fn tell_links(&mut self, sql: &str) -> Result<(), Failure> {
        let shards: Vec<ShardId> = self.links.keys().copied().collect();
        let mut first = None;
        for shard in shards {
            let name = shard_name(&self.topology, shard);
            let link = self.held(shard)?;
            client_message::encode_query(link.lease.output(), sql);
            link.lease.expect_ready();
            let outcome = read_answer(link, &name).await.map(|_| ());
            if let Err(failure) = self.after_exchange(shard, outcome) {
                first.get_or_insert(failure);
            }
        }
        first.map_or(Ok(()), Err)
    }
}

/// The server has rolled back what was to be committed.
pub(super) fn was_rolled_back(name: &str) -> Failure {
    let text = format!("the transaction was rolled back on shard {name}");
    ClientError::new(ErrorId::DistributedCommitFailed, text).into()
}

/// Sends what is written and reads one answer that nobody sees; gives its command tag.
pub(super) async fn read_answer(link: &mut super::link::Link, name: &str) -> Result<Option<String>, Failure> {
    link.lease.flush().await.map_err(|error| failure_of(error, name))?;
    super::link::read_quiet(link, name).await?;
    let mut error = FirstError::default();
    let mut complete: Option<Frame> = None;
    loop {
        let frame = link.lease.next_frame().await.map_err(|error| failure_of(error, name))?;
        match frame.tag {
            tag::READY_FOR_QUERY => break,
            tag::ERROR_RESPONSE => error.note(frame)?,
            tag::COMMAND_COMPLETE => complete = Some(frame),
            _ => {}
        }
    }
    error.into_result(complete.as_ref().and_then(command_tag))
}

/// Every ISOLATION LEVEL is followed by a level, every READ by WRITE, ONLY, COMMITTED or UNCOMMITTED.
fn begin_modes_are_sound(parsed: &Parsed) -> bool {
    let words: Vec<String> = parsed
        .lexed
        .tokens
        .iter()
        .filter_map(|token| parsed.text.get(token.start..token.end))
        .map(str::to_ascii_lowercase)
        .filter(|word| word != ";")
        .collect();
    let mut rest: &[String] = words.get(1..).unwrap_or_default();
    if matches!(rest.first().map(String::as_str), Some("transaction" | "work")) {
        rest = rest.get(1..).unwrap_or_default();
    }
    let mut is_first = true;
    while !rest.is_empty() {
        if !is_first && rest.first().is_some_and(|word| word == ",") {
            rest = rest.get(1..).unwrap_or_default();
        }
        let text: Vec<&str> = rest.iter().map(String::as_str).collect();
        let taken = match text.as_slice() {
            ["isolation", "level", "serializable", ..] => 3,
            ["isolation", "level", "repeatable", "read", ..]
            | ["isolation", "level", "read", "committed" | "uncommitted", ..] => 4,
            ["read", "write" | "only", ..] | ["not", "deferrable", ..] => 2,
            ["deferrable", ..] => 1,
            _ => return false,
        };
        rest = rest.get(taken..).unwrap_or_default();
        is_first = false;
    }
    true
}
