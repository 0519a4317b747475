//! Where a batch of messages begins, and whether it reads from replicas.

use std::borrow::Cow;
use std::sync::Arc;

use super::reads::{self, Reading};
use super::{Failure, Session};
use crate::net::{Framed, NetError};
use crate::session::{PoolMode, ReadFrom};
use crate::wire::client_message::{ClientMessage, Parse};

impl Session {
    /// Looks at a message before it is served. `false`: it is answered already.
    ///
    /// # Errors
    /// The client's connection broke.
    pub async fn begin_batch(&mut self, client: &mut Framed, message: &mut ClientMessage) -> Result<bool, NetError> {
        if let ClientMessage::Query(text) | ClientMessage::Parse(Parse { sql: text, .. }) = message
            && reads::asks_for_token(text)
        {
            match self.seen.token(&self.cluster).await {
                Ok(token) => *text = reads::token_answer(&token),
                Err(error) => {
                    let is_query = matches!(message, ClientMessage::Query(_));
                    self.answer_failure(client, error.into(), is_query).await?;
                    return Ok(false);
                }
            }
        }
        let is_first = !self.is_in_batch;
        self.is_in_batch = !matches!(message, ClientMessage::Query(_) | ClientMessage::Sync);
        if is_first {
            self.is_setting = false;
            self.reading = self.reading_of_batch(client, message);
        }
        Ok(true)
    }

    async fn answer_failure(&mut self, client: &mut Framed, failure: Failure, is_query: bool) -> Result<(), NetError> {
        if !is_query {
            return self.pipeline_failed(client, failure).await;
        }
        Self::write_failure(client, failure)?;
        self.fail_transaction().await;
        self.end_message().await;
        self.ready(client).await
    }

    fn reading_of_batch(&mut self, client: &mut Framed, message: &ClientMessage) -> Option<Reading> {
        let is_busy = !self.links.is_empty() || self.transaction.is_open();
        if is_busy || self.mode == PoolMode::Session || !self.encoding.is_utf8() {
            return None;
        }
        if !self.cluster.topology.load().has_replicas() {
            return None;
        }
        let text_of = |name: &str| self.statements.get(name).ok().map(|statement| statement.parsed.text.clone());
        let first = match message {
            ClientMessage::Query(text) | ClientMessage::Parse(Parse { sql: text, .. }) => Cow::Borrowed(text.as_str()),
            ClientMessage::Bind(bind) => Cow::Owned(text_of(&bind.statement)?),
            _ => return None,
        };
        let sets = reads::only_sets(&first);
        let wanted = self.cluster.wants_replica(&self.user, &self.settings, ReadFrom::hinted(&first));
        if wanted == ReadFrom::Primary && !sets {
            return None;
        }
        let known = |name: &[u8]| text_of(std::str::from_utf8(name).ok()?);
        let (behind, _) = client.buffers();
        let texts = match message {
            ClientMessage::Query(text) => vec![text.clone()],
            ClientMessage::Parse(parse) => {
                let body = [parse.statement.as_bytes(), b"\0", parse.sql.as_bytes(), b"\0"].concat();
                reads::batch_texts((b'P', &body), behind, known)?
            }
            ClientMessage::Bind(bind) => {
                let body = [b"\0", bind.statement.as_bytes(), b"\0"].concat();
                reads::batch_texts((b'B', &body), behind, known)?
            }
            _ => return None,
        };
        self.is_setting = sets && texts.iter().all(|text| reads::only_sets(text));
        let cluster = Arc::clone(&self.cluster);
        cluster.reading_of(&self.user, &self.settings, &mut self.seen, &texts)
    }
}
