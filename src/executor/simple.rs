//! The simple protocol: one message, one or many statements, one ReadyForQuery.

use std::ops::Range;

use super::relay::Done;
use super::statement::Mode;
use super::survive::Survived;
use super::{Failure, Session, places};
use crate::error::{ClientError, ErrorId};
use crate::net::{Framed, NetError};
use crate::session::Parsed;
use crate::sql::ast::Statement;
use crate::sql::lexer;
use crate::wire::server_message::{self, tag};

impl Session {
    /// Answers a Query message, ReadyForQuery included.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn simple_query(&mut self, client: &mut Framed, text: &str) -> Result<(), NetError> {
        if self.skip_to_sync {
            // As everything between an error and its Sync.
            return Ok(());
        }
        let made = self.text_made.take();
        match self.run_surviving(client, text).await {
            Ok(()) => {
                self.end_message().await;
                self.ready(client).await
            }
            Err(failure) => {
                let failure = match &made {
                    Some((made, source)) => places::in_source(failure, made, source),
                    None => failure,
                };
                self.refuse_query(client, failure).await
            }
        }
    }

    /// Runs a message, again if need be.
    async fn run_surviving(&mut self, client: &mut Framed, text: &str) -> Result<(), Failure> {
        let mut outcome = self.run_message(client, text).await;
        while let Err(failure) = outcome {
            outcome = match Box::pin(self.survive(client, failure)).await {
                Survived::Failed(failure) => return Err(failure),
                Survived::Done => {
                    self.done_before.take().into_iter().for_each(|done| done.write(client));
                    Ok(())
                }
                Survived::Again => {
                    Box::pin(self.begin_again(client)).await;
                    self.run_message(client, text).await
                }
            };
        }
        outcome
    }

    /// The end of a Query message that failed.
    pub(super) async fn refuse_query(&mut self, client: &mut Framed, failure: Failure) -> Result<(), NetError> {
        let failure = self.name_deadlock(failure);
        Self::write_failure(client, failure)?;
        self.fail_transaction().await;
        self.end_message().await;
        self.ready(client).await
    }

    /// Outside of a transaction nothing is kept of a message that is answered but what pins the session.
    pub(super) async fn end_message(&mut self) {
        if !self.transaction.is_open() {
            self.statements.end_portals();
            self.settle_pins().await;
            self.release();
        } else {
            self.end_reads();
        }
    }

    async fn run_message(&mut self, client: &mut Framed, text: &str) -> Result<(), Failure> {
        let whole = lexer::lex(text).map_err(|error| ClientError::new(ErrorId::SyntaxError, error.to_string()))?;
        let ranges = crate::sql::split(text, &whole);
        match ranges.as_slice() {
            [] => {
                server_message::write_empty(client.output(), tag::EMPTY_QUERY_RESPONSE);
                Ok(())
            }
            [_] => {
                // One statement: the client's own bytes travel, comments and semicolon included.
                let parsed = self.understand_lexed(text, whole)?;
                let done = self.run(client, &parsed, Mode::Simple).await;
                let done = done.map_err(|failure| places::in_clients_text(failure, &parsed))?;
                self.finish_implicit(client, done).await
            }
            several => self.run_several(client, text, several).await,
        }
    }

    /// Several statements are one implicit transaction, up to a COMMIT or ROLLBACK among them.
    async fn run_several(&mut self, client: &mut Framed, text: &str, ranges: &[Range<usize>]) -> Result<(), Failure> {
        let mut statements = Vec::with_capacity(ranges.len());
        for range in ranges {
            statements.push((range.start, self.understand(text.get(range.clone()).unwrap_or_default())?));
        }
        // PostgreSQL parses the whole message before it runs anything: so do we.
        for (start, parsed) in &statements {
            let reason = match &*parsed.statement {
                Err(reason) => Some(reason.as_str()),
                Ok(Statement::Other(_)) => Some("its first word is not known"),
                Ok(_) => None,
            };
            if let Some(reason) = reason {
                let refusal = ClientError::refused(
                    "a statement of this message is not understood well enough to route it",
                    "Use simpler syntax for it, or send it alone.",
                )
                .with_detail(format!("{reason}."));
                let failure = self.refuse(client, parsed, &[], refusal).await;
                if matches!(failure, Failure::Postgres(_)) {
                    return Err(places::behind(places::in_clients_text(failure, parsed), text, *start));
                }
            }
        }
        let last = statements.len() - 1;
        for (index, (start, parsed)) in statements.iter().enumerate() {
            if !opens_no_block(parsed) {
                self.transaction.begin_implicit();
                self.join_block();
            }
            let done = self.run(client, parsed, Mode::Simple).await;
            // Each statement travels alone.
            let done =
                done.map_err(|failure| places::behind(places::in_clients_text(failure, parsed), text, *start))?;
            if index == last {
                self.finish_implicit(client, done).await?;
            } else {
                done.write(client);
            }
        }
        Ok(())
    }

    /// Commits a block that the proxy opened by itself, then tells the client that the statement is
    /// complete: never the other way round.
    pub(super) async fn finish_implicit(&mut self, client: &mut Framed, done: Done) -> Result<(), Failure> {
        if self.transaction.is_implicit() && self.transaction.is_open() {
            self.commit().await?;
        }
        done.write(client);
        Ok(())
    }

    /// After an error: an explicit block is failed, anything else is rolled back.
    pub(super) async fn fail_transaction(&mut self) {
        if self.transaction.is_open() && !self.transaction.is_implicit() {
            self.transaction.fail();
            self.abort_elsewhere().await;
        } else {
            self.rollback_links().await;
            self.end_transaction(false);
        }
    }
}

/// Statements that must see the transaction as the client left it.
fn opens_no_block(parsed: &Parsed) -> bool {
    matches!(
        *parsed.statement,
        Ok(Statement::Begin | Statement::Commit { .. } | Statement::Rollback { .. } | Statement::Empty)
    )
}
