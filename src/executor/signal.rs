//! `pg_cancel_backend` and `pg_terminate_backend` of sessions of this proxy.

use super::{Failure, Peer, Session};
use crate::error::{ClientError, ErrorId};
use crate::net::Framed;
use crate::session::Parsed;
use crate::session::identity::{self, PID_MIN, PidSource, SignalKind};
use crate::wire::Format;
use crate::wire::client_message::Bind;

impl Session {
    /// Does what a statement means for other sessions, before it runs.
    ///
    /// # Errors
    /// 42501 when the role may not; then nobody was signalled.
    pub(super) async fn send_signals(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        bind: Option<&Bind>,
    ) -> Result<(), Failure> {
        let mut meant: Vec<(SignalKind, u32, Peer)> = Vec::new();
        for signal in &parsed.signals {
            let pid = match signal.pid {
                PidSource::Literal(pid) => Some(pid),
                PidSource::Param(number) => bind.and_then(|bind| {
                    let index = (number as usize).checked_sub(1)?;
                    let is_binary = bind.parameter_format(index) == Format::Binary;
                    identity::read_pid(bind.parameters.get(index)?.as_deref(), is_binary)
                }),
            };
            if let Some(pid) = pid.filter(|pid| *pid >= PID_MIN)
                && let Some(peer) = self.cluster.peers.find(pid)
            {
                self.may_signal(client, signal.kind, &peer.user).await?;
                meant.push((signal.kind, pid, peer));
            }
        }
        let mut is_over = false;
        for (kind, pid, peer) in meant {
            if pid == self.cancel.pid() && kind == SignalKind::Cancel {
                return Err(ClientError::new(ErrorId::QueryCanceled, "canceling statement due to user request").into());
            }
            peer.signal(kind).await;
            is_over |= pid == self.cancel.pid() && kind == SignalKind::Terminate;
        }
        if is_over {
            // The session's driver ends it at its next turn. Nothing more may run, nor be answered, until then:
            // it might all be done within this turn.
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    /// PostgreSQL decides by its roles; who signals its own role's sessions is not asked about.
    async fn may_signal(&mut self, client: &mut Framed, kind: SignalKind, role: &str) -> Result<(), Failure> {
        if role == self.user && self.settings.changed_sql("role").is_none() && !self.transaction.changes_settings() {
            return Ok(());
        }
        let answer = self.ask_any(client, &identity::permission_sql(role)).await?;
        Ok(identity::judge(kind, &answer)?)
    }
}
