//! What can go wrong between the proxy and a server.

use crate::base::NodeId;
use crate::error::{ClientError, ErrorId};
use crate::wire::frame::Frame;

use super::pool::ConnectFailure;

/// What a connection was doing when it was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostWhile {
    /// Nothing had been sent that was not answered: nothing ran.
    Idle,
    /// Something had been sent: it may have run.
    Running,
}

/// Why a connection cannot be had or used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BackendError {
    /// The server cannot be reached.
    #[error("cannot connect to node {node}: {reason}")]
    Connect {
        /// The server.
        node: NodeId,
        /// The operating system's words.
        reason: String,
    },
    /// The server answered the start-up with an error, here byte for byte.
    #[error("node {node} refused the connection")]
    Refused {
        /// The server.
        node: NodeId,
        /// ErrorResponse.
        error: Frame,
    },
    /// The server and the proxy could not agree on who the proxy is.
    #[error("cannot authenticate to node {node}: {reason}")]
    Authentication {
        /// The server.
        node: NodeId,
        /// Without secrets.
        reason: String,
    },
    /// The server's verifier of a role is not the one by which the client proved who it is, so what the
    /// client's login left does not open it.
    #[error("node {node} has a SCRAM verifier of its own for role \"{user}\"")]
    OtherVerifier {
        /// The server.
        node: NodeId,
        /// The role.
        user: String,
    },
    /// The connection broke.
    #[error("connection to node {node} lost: {reason}")]
    Lost {
        /// The server.
        node: NodeId,
        /// What it was doing.
        during: LostWhile,
        /// The operating system's words.
        reason: String,
    },
    /// A wait took too long. The connection is of no more use.
    #[error("node {node}: timed out after {after_ms} ms waiting for {what}")]
    Timeout {
        /// The server.
        node: NodeId,
        /// What was waited for.
        what: &'static str,
        /// The limit.
        after_ms: u64,
        /// What the connection was doing.
        during: LostWhile,
    },
    /// The server sent what it may not send here. The connection is of no more use.
    #[error("node {node} broke the protocol: {reason}")]
    Protocol {
        /// The server.
        node: NodeId,
        /// What was wrong.
        reason: String,
        /// What the connection was doing.
        during: LostWhile,
    },
}

impl BackendError {
    /// PostgreSQL's own error, to be passed on byte for byte, when there is one.
    pub fn error_frame(&self) -> Option<&Frame> {
        match self {
            Self::Refused { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Nothing that was sent over this connection can have run.
    pub fn nothing_ran(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Refused { .. } | Self::Authentication { .. } | Self::OtherVerifier { .. } => {
                true
            }
            Self::Lost { during, .. } | Self::Timeout { during, .. } | Self::Protocol { during, .. } => {
                *during == LostWhile::Idle
            }
        }
    }

    /// What it tells of the server when connecting ended in it.
    pub fn connect_failure(&self) -> ConnectFailure {
        let Self::Refused { error, .. } = self else {
            return match self {
                Self::Authentication { .. } | Self::OtherVerifier { .. } => ConnectFailure::Refused,
                _ => ConnectFailure::Unavailable,
            };
        };
        let code = crate::wire::server_message::read_error(&error.body()).map(|fields| fields.code);
        match code.as_deref() {
            Ok("53300") => ConnectFailure::Full,
            // Starting up, shutting down, out of memory or of descriptors, or not readable.
            Ok(code) if !["57", "53", "58", "XX"].iter().any(|class| code.starts_with(class)) => {
                ConnectFailure::Refused
            }
            _ => ConnectFailure::Unavailable,
        }
    }

    /// The error in the client's words.
    pub fn to_client_error(&self, shard: &str) -> ClientError {
        if let Self::OtherVerifier { node, user } = self {
            return other_verifier(shard, *node, user);
        }
        let detail = match self {
            Self::Refused { node, error } => {
                let message = crate::wire::server_message::read_error(&error.body())
                    .map_or_else(|_| "an unreadable error".to_owned(), |fields| fields.message);
                format!("Node {node} refused the connection: {message}.")
            }
            other => {
                let mut text = other.to_string();
                if let Some(first) = text.get_mut(..1) {
                    first.make_ascii_uppercase();
                }
                text.push('.');
                text
            }
        };
        if self.nothing_ran() {
            ClientError::new(ErrorId::ShardUnreachable, format!("shard \"{shard}\" cannot be reached"))
                .with_detail(detail)
                .with_hint("Nothing ran; the transaction can be tried again.")
        } else {
            ClientError::new(
                ErrorId::StatementCompletionUnknown,
                format!("connection to shard \"{shard}\" was lost while a statement was running"),
            )
            .with_detail(detail)
            .with_hint("Whether the statement completed is not known; outside of a transaction block it may have.")
        }
    }
}

fn other_verifier(shard: &str, node: NodeId, user: &str) -> ClientError {
    let text = format!("role \"{user}\" has another SCRAM verifier on shard \"{shard}\"");
    ClientError::new(ErrorId::InvalidAuthorization, text)
        .with_detail(format!(
            "The client's login opens servers with the verifier that it was checked against; node {node} has a \
             different salt for the same role."
        ))
        .with_hint(
            "Give the role one verifier on all shards: copy rolpassword of pg_authid with ALTER ROLE ... PASSWORD \
             through the proxy. Or write the role's password in [[users]].",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(during: LostWhile) -> BackendError {
        BackendError::Lost { node: NodeId(3), during, reason: "connection reset by peer".into() }
    }

    #[test]
    fn a_connection_lost_before_anything_ran_is_safe_to_retry() {
        let error = lost(LostWhile::Idle).to_client_error("s1");
        assert_eq!(error.sqlstate(), "08006");
        assert_eq!(error.detail.as_deref(), Some("Connection to node n3 lost: connection reset by peer."));
    }

    #[test]
    fn a_connection_lost_under_a_statement_leaves_its_completion_unknown() {
        assert_eq!(lost(LostWhile::Running).to_client_error("s1").sqlstate(), "40003");
    }
}
