//! Connections that a session holds, one a shard: taken when the shard is first touched, given back
//! when the transaction ends.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::relay::Expect;
use super::{Failure, Session, shard_name};
use crate::backend::{BackendError, Lease};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::failover::Serving;
use crate::session::direct::Xid;
use crate::session::encoding::in_ascii;
use crate::wire::client_message;
use crate::wire::frame::Frame;
use crate::wire::server_message::tag;

/// A connection of a session.
pub struct Link {
    pub(super) lease: Lease,
    /// A transaction block is open on the server.
    pub(super) begun: bool,
    /// Something was written in this transaction.
    pub(super) wrote: bool,
    /// Answers still to come, in order.
    pub(super) expects: VecDeque<Expect>,
    /// Extended messages were written since the last Sync.
    pub(super) unsynced: bool,
    /// It was used since it was taken, or since the last transaction of a session that keeps it.
    pub(super) touched: bool,
    /// An answer that was read before it was wanted.
    pub(super) ahead: VecDeque<Frame>,
    /// It leads to a replica.
    pub(super) is_on_replica: bool,
    /// In which life of its primary it was taken; `None`: the shard is not led, or it is not known.
    pub(super) since: Option<Serving>,
    /// The id of what is written outside of a block.
    pub(super) xid: Xid,
    /// It is lost, and everything that came of it was looked at.
    pub(super) is_drained: bool,
    /// The session's encoding is not UTF-8: texts have to be of ASCII.
    pub(super) is_foreign: bool,
}

impl Link {
    /// A connection that was just taken.
    pub(super) fn new(lease: Lease) -> Self {
        Self {
            lease,
            begun: false,
            wrote: false,
            expects: VecDeque::new(),
            unsynced: false,
            touched: false,
            ahead: VecDeque::new(),
            is_on_replica: false,
            since: None,
            xid: Xid::NotAsked,
            is_drained: false,
            is_foreign: false,
        }
    }

    /// A text as it may be sent: read alike in the client's encoding.
    pub(super) fn text<'t>(&self, sql: &'t str) -> Cow<'t, str> {
        if self.is_foreign { in_ascii(sql) } else { Cow::Borrowed(sql) }
    }

    /// Appends a simple query whose answer nobody sees.
    pub(super) fn quiet_query(&mut self, sql: &str) {
        let sql = self.text(sql);
        client_message::encode_query(self.lease.output(), &sql);
        self.lease.expect_ready();
        self.expects.push_back(Expect::Quiet);
    }
}

impl Session {
    /// The session's connection to a shard, with its settings applied and its transaction joined.
    ///
    /// # Errors
    /// The shard cannot be reached, its pool is exhausted, or a setting is refused; nothing ran.
    pub(super) async fn link(&mut self, shard: ShardId) -> Result<(), Failure> {
        let name = shard_name(&self.topology, shard);
        if let Some(link) = self.links.get_mut(&shard) {
            if link.touched && (link.begun || !self.transaction.is_open()) {
                return Ok(());
            }
            if let Some(link) = self.links.remove(&shard) {
                self.note_primary(shard);
                return self.take(shard, link, &name).await;
            }
        }
        if let Some(link) = self.replica_link(shard).await {
            self.cancel.add_on_replica(shard, link.lease.cancel_handle());
            self.cluster.peers.note_user(link.lease.node(), link.lease.pid(), self.cancel.pid());
            return self.take(shard, link, &name).await;
        }
        self.note_primary(shard);
        let now = self.routes.checkout_now(&self.cluster, &self.topology, shard, &self.user, |_| {});
        let primaries = &self.cluster.settings.primaries;
        let lease = match now.filter(|lease| primaries.is_in_its_life(shard, lease.node())) {
            Some(lease) => lease,
            None => {
                // In a box: the future of who waits is large.
                let taken = Box::pin(self.cluster.checkout_in_its_life(&self.topology, shard, &self.user, |_| {}));
                let taken = self.cancel.waits(taken).await?;
                taken.inspect_err(|failure| self.was_refused |= matches!(failure, Failure::Postgres(_)))?
            }
        };
        let node = lease.node();
        let since = self.cluster.settings.primaries.serving(shard);
        let since = since.filter(|since| matches!(since, Serving::Open { node: leader, .. } if *leader == node));
        let mut link = Link { since, ..Link::new(lease) };
        link.lease.notifications = Some(Vec::new());
        self.cancel.add(shard, link.lease.cancel_handle());
        self.cluster.peers.note_user(link.lease.node(), link.lease.pid(), self.cancel.pid());
        self.take(shard, link, &name).await
    }

    /// The primary is used, by what may show the session something: a setting does not.
    fn note_primary(&mut self, shard: ShardId) {
        if self.topology.has_replicas() && !self.is_setting {
            self.seen.use_primary(shard);
        }
    }

    /// A connection to a replica, if the present batch reads from one and one can be had.
    async fn replica_link(&mut self, shard: ShardId) -> Option<Link> {
        let reading = self.reading?;
        let cluster = std::sync::Arc::clone(&self.cluster);
        if cluster.settings.replicas_rest.load(std::sync::atomic::Ordering::Acquire) {
            // Rows began to move since this was decided.
            return None;
        }
        let node = self.seen.choose(&cluster, shard, reading).await?;
        let target = cluster.replica_target(&self.topology, node, &self.user);
        let lease = match target {
            Some(target) => cluster.pools.checkout(&target).await.ok(),
            None => None,
        };
        let Some(lease) = lease else {
            self.seen.give_up(shard);
            return None;
        };
        let mut link = Link { is_on_replica: true, ..Link::new(lease) };
        link.lease.notifications = Some(Vec::new());
        Some(link)
    }

    /// Makes a connection ready for what comes, and holds it.
    async fn take(&mut self, shard: ShardId, mut link: Link, name: &str) -> Result<(), Failure> {
        let was_touched = link.touched;
        link.is_foreign = !self.encoding.is_utf8();
        let outcome = self.dress(&mut link, name).await;
        link.touched = true;
        self.links.insert(shard, link);
        if let Err(failure) = outcome {
            self.drop_link(shard);
            return Err(if was_touched { failure } else { nothing_ran(failure, name) });
        }
        Ok(())
    }

    /// Gives a fresh connection the session's settings and its transaction.
    async fn dress(&mut self, link: &mut Link, name: &str) -> Result<(), Failure> {
        let schema_version = self.cluster.schema_stamp();
        let mut first = String::new();
        let is_sure = self.settings_are_taken && self.settings.are_sure();
        if link.lease.schema_version != schema_version && !link.touched {
            if !link.lease.prepared.is_empty() {
                // A plan kept from before a schema change may answer with other columns.
                first.push_str("DEALLOCATE ALL;");
                link.lease.prepared.clear();
            }
            link.lease.schema_version = schema_version;
        }
        if link.lease.settings_key != self.settings.key() && !link.touched {
            first.push_str(&self.settings.apply_sql());
            // Until the answer is known the connection belongs to no settings.
            link.lease.settings_key = u64::MAX;
        }
        if !first.is_empty() {
            client_message::encode_query(link.lease.output(), &first);
            link.lease.expect_ready();
            link.expects.push_back(Expect::Dressing { is_sure });
            if !is_sure {
                self.settle_quiet(link, name).await?;
                self.settings_are_taken = true;
            }
            link.lease.settings_key = self.settings.key();
        }
        if self.transaction.is_open() && !link.begun {
            self.may_join()?;
            let opening = self.transaction.opening_sql(&self.settings);
            link.begun = true;
            link.quiet_query(&opening);
            if !self.transaction.opening_cannot_fail() {
                self.settle_quiet(link, name).await?;
            }
        }
        Ok(())
    }

    /// As [`Session::link`], with nothing left to be read: for questions of the proxy's own.
    pub(super) async fn settled_link(&mut self, shard: ShardId) -> Result<(), Failure> {
        self.link(shard).await?;
        let name = shard_name(&self.topology, shard);
        let link = self.held(shard)?;
        let outcome = match link.lease.flush().await {
            Ok(()) => read_quiet(link, &name).await,
            Err(error) => Err(failure_of(error, &name)),
        };
        self.after_exchange(shard, outcome)
    }

    /// Sends what is written and reads the quiet answers.
    pub(super) async fn settle_quiet(&self, link: &mut Link, name: &str) -> Result<(), Failure> {
        link.lease.flush().await.map_err(|error| failure_of(error, name))?;
        read_quiet(link, name).await
    }

    /// Gives connections back, but those that the session keeps; what is not clean is closed.
    pub(super) fn let_go(&mut self) {
        let shards: Vec<ShardId> = self.links.keys().copied().collect();
        for shard in shards {
            let keeps = self.keeps(shard);
            match self.links.get_mut(&shard) {
                Some(link) if keeps && link.lease.is_clean() => {
                    (link.touched, link.begun, link.wrote) = (false, false, false);
                }
                Some(_) if keeps => self.drop_link(shard),
                _ => {
                    self.cancel.remove(shard);
                    self.links.remove(&shard);
                }
            }
        }
    }

    /// Whether a connection is in the middle of something.
    pub(super) fn is_at_work(&self) -> bool {
        self.links.values().any(|link| link.touched)
    }

    /// As [`Session::let_go`], at the end of a message or transaction.
    pub(super) fn release(&mut self) {
        self.let_go();
        if !self.transaction.is_open() {
            (self.epoch_guard, self.stay) = (None, None);
            self.seen.settle(&self.cluster);
        }
    }

    /// Closes a connection instead of giving it back.
    pub(super) fn drop_link(&mut self, shard: ShardId) {
        self.cancel.remove(shard);
        if let Some(mut link) = self.links.remove(&shard) {
            self.cluster.settings.steps.abandon(link.lease.node(), link.lease.pid());
            self.losses.push(link.loss(shard));
            link.lease.poison();
            if link.begun {
                self.transaction.lose_part();
            }
        }
        self.note_lost(shard);
    }

    /// The link of a shard that [`Session::link`] just prepared.
    pub(super) fn held(&mut self, shard: ShardId) -> Result<&mut Link, Failure> {
        let topology = &self.topology;
        self.links.get_mut(&shard).ok_or_else(|| {
            let name = shard_name(topology, shard);
            let text = format!("no connection to shard {name} is held");
            Failure::Ours(crate::error::ClientError::new(crate::error::ErrorId::Internal, text))
        })
    }
}

/// Reads the answers of quiet queries that stand before everything else.
pub(super) async fn read_quiet(link: &mut Link, name: &str) -> Result<(), Failure> {
    let mut error: Option<(Frame, bool)> = None;
    while let Some(expect @ (Expect::Quiet | Expect::Dressing { .. })) = link.expects.front().cloned() {
        let frame = link.lease.next_frame().await.map_err(|error| failure_of(error, name))?;
        match frame.tag {
            tag::ERROR_RESPONSE if super::relay::is_good_bye(&frame) => return Err(Failure::Postgres(frame)),
            tag::ERROR_RESPONSE => {
                if matches!(expect, Expect::Dressing { .. }) {
                    // Whatever settings it has now, they are nobody's.
                    link.lease.poison();
                }
                error.get_or_insert((frame, matches!(expect, Expect::Dressing { is_sure: true })));
            }
            tag::READY_FOR_QUERY => {
                link.expects.pop_front();
            }
            _ => {}
        }
    }
    match error {
        Some((frame, true)) => Err(unsettled(&frame, name)),
        Some((frame, false)) => Err(Failure::Postgres(frame)),
        None => Ok(()),
    }
}

/// A setting that another server took was refused by this one, and a statement has followed it.
fn unsettled(error: &Frame, name: &str) -> Failure {
    let reason = crate::wire::server_message::read_error(&error.body()).map(|fields| fields.message);
    crate::error::ClientError::new(
        crate::error::ErrorId::StatementCompletionUnknown,
        format!("the session's settings were refused by shard {name}"),
    )
    .with_detail(format!("The statement ran without them: {}.", reason.unwrap_or_default()))
    .with_hint("Set the same configuration on all servers.")
    .into()
}

/// A connection that was lost while it was made ready: nothing of the client's has been sent there.
pub(super) fn nothing_ran(failure: Failure, name: &str) -> Failure {
    match failure {
        Failure::Ours(error) if error.id == ErrorId::StatementCompletionUnknown => {
            ClientError::new(ErrorId::ShardUnreachable, format!("connection to shard \"{name}\" was lost")).into()
        }
        other => other,
    }
}

/// What a backend's error is to the client.
#[allow(clippy::needless_pass_by_value)] // it is what map_err hands over
pub(super) fn failure_of(error: BackendError, shard: &str) -> Failure {
    match error.error_frame() {
        Some(frame) => Failure::Postgres(frame.clone()),
        None => Failure::Ours(error.to_client_error(shard)),
    }
}
