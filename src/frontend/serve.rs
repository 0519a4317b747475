//! One client from its first packet to its last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::login::Wanted;
use super::{ADMIN_DATABASE, Frontend, Registered, Secret, refuse};
use crate::error::{ClientError, ErrorId};
use crate::executor::direct::{Direct, Ended, Stop, told_to};
use crate::executor::{BoxFuture, Failure, Session};
use crate::net::{Framed, NetError};
use crate::session::{Settings, commit_wait};
use crate::wire::client_message::{self, ClientMessage};
use crate::wire::frame::Frame;
use crate::wire::server_message;

/// A client that was let in.
struct Guest {
    user: Arc<str>,
    database: Arc<str>,
    /// The minor version of the protocol that is spoken with it.
    minor: u16,
    is_admin: bool,
    settings: Settings,
    /// What it said when it connected.
    parameters: Vec<(String, String)>,
}

impl Frontend {
    /// Serves a client until it leaves or the proxy stops.
    ///
    /// Tens of thousands of these are at rest at a time. So every stage is in a box of its own: the first two are as
    /// small as what a session at rest needs, whatever logging in or a cluster of several shards takes.
    pub(super) async fn serve(&self, client: &mut Framed, stop: &mut watch::Receiver<Stop>) -> Result<(), NetError> {
        let Some((wanted, minor)) = Box::pin(self.greet(client)).await? else { return Ok(()) };
        // In a box, as it is handed on through the stages: each would keep the room for it.
        let guest = Box::new(self.guest(wanted, minor));
        Box::pin(self.host(client, guest, stop)).await
    }

    fn guest(&self, wanted: Wanted, minor: u16) -> Guest {
        let settings = Settings::from_startup(&wanted.parameters).with_encoding(&wanted.parameters);
        Guest {
            user: self.alike.name(&wanted.user),
            database: self.alike.name(&wanted.database),
            minor,
            is_admin: wanted.database == ADMIN_DATABASE,
            settings: self.alike.settings(settings),
            parameters: wanted.parameters,
        }
    }

    /// Gives a guest its place, and serves it there.
    async fn host(
        &self,
        client: &mut Framed,
        guest: Box<Guest>,
        stop: &mut watch::Receiver<Stop>,
    ) -> Result<(), NetError> {
        client.set_message_bytes_max(self.limits.load().message_bytes_max);
        let place = self.seats.take(&guest.user, guest.is_admin);
        let (_seat, registered) = match place.and_then(|seat| Ok((seat, self.sessions.register(client, guest.minor)?)))
        {
            Ok(place) => place,
            Err(error) => {
                Box::pin(refuse(client, &error)).await;
                return Ok(());
            }
        };
        let _listed = self.admin.clients().enter(crate::admin::Client {
            user: Arc::clone(&guest.user),
            database: Arc::clone(&guest.database),
            address: client.peer(),
            slot: Arc::clone(&registered.slot),
        });
        self.serve_guest(client, guest, registered, stop).await
    }

    /// What serves such a guest, in a box.
    fn serve_guest<'a>(
        &'a self,
        client: &'a mut Framed,
        guest: Box<Guest>,
        registered: Registered<'a>,
        stop: &'a mut watch::Receiver<Stop>,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        if guest.is_admin {
            return Box::pin(self.serve_admin(client, guest, registered, stop));
        }
        if self.cluster.keeps_commits()
            && let Some(value) = guest.settings.startup_value(commit_wait::SETTING)
            && !commit_wait::waits(value)
        {
            return Box::pin(async move {
                refuse(client, &commit_wait::refusal()).await;
                Ok(())
            });
        }
        if self.cluster.topology.load().shards.len() > 1 {
            return Box::pin(self.serve_shards(client, guest, registered, stop));
        }
        self.serve_direct(client, guest, registered, stop)
    }

    /// A session of a cluster with several shards.
    async fn serve_shards(
        &self,
        client: &mut Framed,
        guest: Box<Guest>,
        registered: Registered<'_>,
        stop: &mut watch::Receiver<Stop>,
    ) -> Result<(), NetError> {
        let slot = Arc::clone(&registered.slot);
        let mut session = Box::new(Session::new(Arc::clone(&self.cluster), &guest.user, guest.settings, slot));
        let outcome = match Box::pin(session.open()).await {
            Ok(parameters) => {
                welcome(client, in_pairs(&parameters), &registered);
                drop(parameters);
                client.flush().await?;
                self.serve_sharded(client, &mut session, &registered, stop).await
            }
            Err(failure) => {
                Box::pin(send_away(client, failure)).await;
                Ok(())
            }
        };
        Box::pin(session.close()).await;
        outcome
    }

    /// A session of a cluster with one shard, and what becomes of it when there are more. In a box, and no `async fn`, which
    /// would keep each argument twice.
    fn serve_direct<'a>(
        &'a self,
        client: &'a mut Framed,
        guest: Box<Guest>,
        mut registered: Registered<'a>,
        stop: &'a mut watch::Receiver<Stop>,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async move {
            let opened = Box::pin(self.open_direct(client, guest, &mut registered)).await?;
            let Some(mut direct) = opened else { return Ok(()) };
            match direct.serve(client, stop).await {
                Ok(Ended::MoreShards) => Box::pin(self.adopt(client, *direct, &registered, stop)).await,
                outcome => {
                    Box::pin(direct.close()).await;
                    outcome.map(|_| ())
                }
            }
        })
    }

    /// Opens a session; `None`: its client was sent away.
    async fn open_direct(
        &self,
        client: &mut Framed,
        guest: Box<Guest>,
        registered: &mut Registered<'_>,
    ) -> Result<Option<Box<Direct>>, NetError> {
        let (cluster, slot) = (Arc::clone(&self.cluster), Arc::clone(&registered.slot));
        let direct = Direct::new(cluster, &guest.user, guest.parameters, guest.settings, slot)
            .with_idle_limit(self.limits.load().idle_transaction_ms)
            .in_database(&guest.database);
        let mut direct = Box::new(direct);
        match direct.open().await {
            Ok(parameters) => {
                if let Some(pid) = direct.own_server_pid() {
                    registered.take_pid(pid);
                }
                welcome(client, in_pairs(&parameters), registered);
                client.flush().await?;
                Ok(Some(direct))
            }
            Err(failure) => {
                send_away(client, failure).await;
                Ok(None)
            }
        }
    }

    /// Serves a session that began with one shard, now that there are more.
    async fn adopt(
        &self,
        client: &mut Framed,
        direct: Direct,
        registered: &Registered<'_>,
        stop: &mut watch::Receiver<Stop>,
    ) -> Result<(), NetError> {
        let user = Arc::clone(direct.user());
        let left = direct.into_parts();
        let (cluster, slot) = (Arc::clone(&self.cluster), Arc::clone(&registered.slot));
        let mut session = Box::new(Session::new(cluster, &user, left.settings, slot));
        session.adopt(left.prepared, left.opening, left.seen);
        let outcome = self.serve_sharded(client, &mut session, registered, stop).await;
        session.close().await;
        outcome
    }

    async fn serve_sharded(
        &self,
        client: &mut Framed,
        session: &mut Session,
        registered: &Registered<'_>,
        stop: &mut watch::Receiver<Stop>,
    ) -> Result<(), NetError> {
        let ended = tokio::select! {
            outcome = self.serve_session(client, session, stop) => Some(outcome),
            () = registered.slot.terminated() => None,
        };
        match ended {
            Some(outcome) => outcome,
            None => {
                terminated(client).await;
                Ok(())
            }
        }
    }

    async fn serve_session(
        &self,
        client: &mut Framed,
        session: &mut Session,
        stop: &mut watch::Receiver<Stop>,
    ) -> Result<(), NetError> {
        loop {
            // A transaction holds locks and connections on the shards, which others wait for.
            let limit = self.limits.load().idle_transaction_ms.filter(|_| session.status_byte() != b'I');
            let heard = tokio::select! {
                biased;
                frame = next_frame(client, stop, limit, session.status_byte() == b'I') => Heard::Client(frame?),
                outcome = session.idle() => Heard::Server(outcome),
            };
            let frame = match heard {
                Heard::Client(Some(frame)) => frame,
                Heard::Client(None) => return Ok(()),
                Heard::Server(Ok(())) => {
                    session.write_owed(client);
                    client.flush().await?;
                    continue;
                }
                Heard::Server(Err(failure)) => {
                    send_away(client, failure).await;
                    return Ok(());
                }
            };
            // In a box for as long as there is work: its state is large, and a session at rest has no use for it.
            if !Box::pin(work(client, session, frame)).await? {
                return Ok(());
            }
        }
    }

    async fn serve_admin(
        &self,
        client: &mut Framed,
        guest: Box<Guest>,
        registered: Registered<'_>,
        stop: &mut watch::Receiver<Stop>,
    ) -> Result<(), NetError> {
        let version = env!("CARGO_PKG_VERSION");
        let parameters = [
            ("server_version", "15.0"),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("standard_conforming_strings", "on"),
            ("integer_datetimes", "on"),
            ("ostrakon_version", version),
        ];
        welcome(client, parameters.into_iter(), &registered);
        client.flush().await?;
        tracing::info!(user = %guest.user, "admin session");
        while let Some(frame) = next_frame(client, stop, None, true).await? {
            match decode(client, &frame).await? {
                ClientMessage::Query(text) => {
                    self.admin.query(&text, client.output()).await;
                    server_message::write_ready_for_query(client.output(), b'I');
                    client.flush().await?;
                }
                ClientMessage::Terminate => return Ok(()),
                ClientMessage::Sync => {
                    server_message::write_ready_for_query(client.output(), b'I');
                    client.flush().await?;
                }
                ClientMessage::Flush => client.flush().await?,
                ClientMessage::Parse(_) => {
                    server_message::write_error(
                        client.output(),
                        "ERROR",
                        ErrorId::FeatureNotSupported.spec().sqlstate,
                        "the admin database speaks the simple query protocol only",
                        None,
                        Some("Use psql, or the driver's simple query call."),
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Deals with a message and with those that have been read behind it; `false`: the client leaves.
async fn work(client: &mut Framed, session: &mut Session, first: Frame) -> Result<bool, NetError> {
    let mut next = Some(first);
    while let Some(frame) = next {
        if let Some(frame) = session.receive(client, frame).await? {
            let mut message = decode(client, &frame).await?;
            if session.begin_batch(client, &mut message).await? {
                match message {
                    ClientMessage::Query(text) => session.simple_query(client, &text).await?,
                    ClientMessage::Terminate => return Ok(false),
                    // What is left of a COPY that an error has ended.
                    ClientMessage::CopyData(_) | ClientMessage::CopyDone | ClientMessage::CopyFail(_) => {}
                    ClientMessage::Password(_) => {
                        violation(client).await?;
                        return Ok(false);
                    }
                    other => session.extended(client, other).await?,
                }
            }
        }
        // Between a message and the next one that is here already, nothing else has its turn.
        next = match client.try_take_frame() {
            Err(NetError::Wire(error)) => {
                violation(client).await?;
                return Err(NetError::Wire(error));
            }
            taken => taken?,
        };
    }
    Ok(true)
}

/// Who spoke first while a session was idle.
enum Heard {
    /// The client, or it left.
    Client(Option<Frame>),
    /// A server whose connection the session keeps.
    Server(Result<(), Failure>),
}

/// The next message; `None` when the client left, the proxy stops or is drained, or nothing came within the limit.
async fn next_frame(
    client: &mut Framed,
    stop: &mut watch::Receiver<Stop>,
    limit_ms: Option<u64>,
    is_in_no_transaction: bool,
) -> Result<Option<Frame>, NetError> {
    let least = if is_in_no_transaction { Stop::BetweenTransactions } else { Stop::Now };
    let limit = Duration::from_millis(limit_ms.unwrap_or_default());
    let read = tokio::select! {
        biased;
        frame = client.read_frame() => Ok(frame),
        () = told_to(stop, least) => {
            Err((ErrorId::ShuttingDown, "terminating connection due to administrator command"))
        }
        () = tokio::time::sleep(limit), if limit_ms.is_some() => {
            Err((ErrorId::IdleInTransaction, "terminating connection due to idle-in-transaction timeout"))
        }
    };
    let frame = match read {
        Ok(frame) => frame,
        Err((id, text)) => {
            refuse(client, &ClientError::new(id, text)).await;
            return Ok(None);
        }
    };
    if let Err(NetError::Wire(_)) = &frame {
        violation(client).await?;
    }
    frame
}

/// What a frame says.
async fn decode(client: &mut Framed, frame: &Frame) -> Result<ClientMessage, NetError> {
    match client_message::decode(frame) {
        Ok(message) => Ok(message),
        Err(error) => {
            violation(client).await?;
            Err(NetError::Wire(error))
        }
    }
}

/// `pg_terminate_backend` of this session: what it was sent so far stands before the good-bye.
async fn terminated(client: &mut Framed) {
    let error = ClientError::new(ErrorId::ShuttingDown, "terminating connection due to administrator command");
    refuse(client, &error).await;
}

/// A client that breaks the protocol is sent away: what it says next could mean anything.
async fn violation(client: &mut Framed) -> Result<(), NetError> {
    refuse(client, &ClientError::new(ErrorId::ProtocolViolation, "invalid message format")).await;
    Ok(())
}

/// AuthenticationOk, parameters, cancel key, ReadyForQuery.
fn welcome<'a>(client: &mut Framed, parameters: impl Iterator<Item = (&'a str, &'a str)>, registered: &Registered<'_>) {
    let output = client.output();
    server_message::write_authentication_ok(output);
    for (name, value) in parameters {
        server_message::write_parameter_status(output, name, value);
    }
    let secret = registered.secret();
    let secret = secret.as_ref().map(Secret::as_bytes).unwrap_or_default();
    server_message::write_backend_key_data(output, registered.pid, secret);
    server_message::write_ready_for_query(output, b'I');
}

fn in_pairs(parameters: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

/// A login that failed, in PostgreSQL's words or ours.
async fn send_away(client: &mut Framed, failure: Failure) {
    match failure {
        Failure::Postgres(frame) => {
            client.output().extend_from_slice(&frame.bytes);
            let bound = std::time::Duration::from_secs(1);
            let _gone = tokio::time::timeout(bound, client.flush()).await;
        }
        Failure::Ours(error) => refuse(client, &error).await,
        Failure::Client(_) => {}
    }
}
