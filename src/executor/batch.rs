//! Where a batch of messages begins, and whether it reads from replicas.

use std::borrow::Cow;
use std::sync::Arc;

use super::reads::{self, Reading};
use super::{Failure, Session};
use crate::net::{Framed, NetError};
use crate::session::{PoolMode, ReadFrom};
use crate::wire::client_message::{ClientMessage, Parse};

/// A transaction that reads from replicas.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadOnly {
    reading: Reading,
    /// What it was shown, or is to be shown, ties it to its replicas.
    is_tied: bool,
}

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
        self.keep(client, message, is_first);
        if self.read_only.is_some() && !self.stays_on_replicas(client, message, is_first) {
            return self.leave_replicas(client, message, is_first).await;
        }
        Ok(true)
    }

    /// Whether a message of a transaction that reads from replicas may go there, too.
    fn stays_on_replicas(&mut self, client: &mut Framed, message: &ClientMessage, is_first: bool) -> bool {
        // In one that has failed nothing runs.
        if !self.transaction.is_open() || self.transaction.is_failed() || self.skip_to_sync {
            return true;
        }
        if !self.links.is_empty() && !self.links.values().any(|link| link.is_on_replica) {
            // None would do: it is at the primaries.
            (self.read_only, self.reading) = (None, None);
            return true;
        }
        if matches!(message, ClientMessage::FunctionCall(_)) {
            return false;
        }
        let Some(text) = self.text_of(message) else { return !matches!(message, ClientMessage::Bind(_)) };
        let mut texts = vec![text.into_owned()];
        let reads_now = reads::asks_for_now(texts.first().map_or("", String::as_str));
        if is_first && !matches!(message, ClientMessage::Query(_)) {
            let (behind, _) = client.buffers();
            let known = |name: &[u8]| self.known_text(std::str::from_utf8(name).ok()?);
            let Some(ahead) =
                first_part(message).and_then(|(tag, body)| reads::texts_ahead((tag, &body), behind, known))
            else {
                return false;
            };
            texts = ahead.texts;
        }
        let is_proved = self.cluster.goes_on_reading(&texts);
        let Some(read_only) = &mut self.read_only else { return true };
        if is_proved {
            read_only.is_tied |= reads_now;
            self.reading = Some(read_only.reading);
        }
        is_proved
    }

    /// Takes a transaction from its replicas to the primaries; one that cannot go has failed, unless replicas answer the
    /// message as primaries do. `false`: the message is answered already.
    async fn leave_replicas(
        &mut self,
        client: &mut Framed,
        message: &ClientMessage,
        is_first: bool,
    ) -> Result<bool, NetError> {
        let is_alike = self.text_of(message).is_some_and(|text| reads::is_alike_on_standby(&text));
        let is_tied = self.read_only.is_none_or(|read_only| read_only.is_tied);
        let is_free = is_first && !is_tied && !self.statements.has_named_portals() && self.suspended.is_empty();
        if is_free && self.sees_anew_on_replicas().await {
            self.rollback_links().await;
            self.let_go();
            self.seen.settle(&self.cluster);
            (self.read_only, self.reading) = (None, None);
            return Ok(true);
        }
        if is_alike {
            if let Some(read_only) = &mut self.read_only {
                (read_only.is_tied, self.reading) = (true, Some(read_only.reading));
            }
            return Ok(true);
        }
        self.has_left_replicas = true;
        self.rollback_links().await;
        self.let_go();
        self.transaction.lose_part();
        let is_query = matches!(message, ClientMessage::Query(_));
        self.answer_failure(client, reads::wants_primary().into(), is_query).await?;
        Ok(false)
    }

    /// Each statement of the transaction sees what is committed when it begins.
    async fn sees_anew_on_replicas(&mut self) -> bool {
        for link in self.links.values_mut() {
            match link.lease.simple("SHOW transaction_isolation").await {
                Ok(told) if reads::is_anew(&told) => {}
                _ => return false,
            }
        }
        true
    }

    /// The text that a message parses or runs.
    fn text_of<'m>(&self, message: &'m ClientMessage) -> Option<Cow<'m, str>> {
        match message {
            ClientMessage::Query(text) | ClientMessage::Parse(Parse { sql: text, .. }) => Some(text.as_str().into()),
            ClientMessage::Bind(bind) => self.known_text(&bind.statement).map(Cow::Owned),
            _ => None,
        }
    }

    fn known_text(&self, name: &str) -> Option<String> {
        self.statements.get(name).ok().map(|statement| statement.parsed.text.clone())
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

    /// How what begins with this message reads from replicas: a batch outside of transactions, or a transaction that is
    /// declared to only read and has not touched any shard.
    fn reading_of_batch(&mut self, client: &mut Framed, message: &ClientMessage) -> Option<Reading> {
        if self.transaction.is_open() && !self.links.is_empty() {
            return self.read_only.map(|read_only| read_only.reading);
        }
        self.read_only = None;
        if !self.links.is_empty() || self.mode == PoolMode::Session || !self.encoding.is_utf8() {
            return None;
        }
        if !self.cluster.topology.load().has_replicas() {
            return None;
        }
        let is_inside = self.transaction.is_open();
        let first = self.text_of(message)?.into_owned();
        let sets = reads::only_sets(&first);
        let wanted = self.cluster.wants_replica(&self.user, &self.settings, ReadFrom::hinted(&first));
        if wanted == ReadFrom::Primary && !sets {
            return None;
        }
        let known = |name: &[u8]| self.known_text(std::str::from_utf8(name).ok()?);
        let (behind, _) = client.buffers();
        let (tag, body) = first_part(message)?;
        let texts = reads::batch_texts((tag, &body), behind, known)?;
        self.is_setting = sets && !is_inside && texts.iter().all(|text| reads::only_sets(text));
        if is_inside && !self.may_read_inside() {
            return None;
        }
        let cluster = Arc::clone(&self.cluster);
        let reading = cluster.reading_of(&self.user, &self.settings, &mut self.seen, &texts)?;
        if is_inside {
            let is_tied = texts.iter().any(|text| reads::asks_for_now(text));
            self.read_only = Some(ReadOnly { reading, is_tied });
        }
        Some(reading)
    }

    /// The open transaction may read from replicas.
    fn may_read_inside(&mut self) -> bool {
        if self.transaction.is_failed() || self.transaction.is_implicit() {
            return false;
        }
        let has_left = std::mem::take(&mut self.has_left_replicas);
        !has_left && reads::is_read_only(&self.transaction.opening_sql(&self.settings), &self.settings)
    }
}

/// A message as it came, as far as its texts go.
fn first_part(message: &ClientMessage) -> Option<(u8, Vec<u8>)> {
    match message {
        ClientMessage::Query(text) => Some((b'Q', [text.as_bytes(), b"\0"].concat())),
        ClientMessage::Parse(parse) => {
            Some((b'P', [parse.statement.as_bytes(), b"\0", parse.sql.as_bytes(), b"\0"].concat()))
        }
        ClientMessage::Bind(bind) => Some((b'B', [b"\0", bind.statement.as_bytes(), b"\0"].concat())),
        _ => None,
    }
}
