//! The place that an error names is one in the text that a server was sent: here it becomes one in the client's.

use super::Failure;
use crate::session::Parsed;
use crate::sql::Spliced;
use crate::wire::server_message;

/// An error about a text that was made from another one, with its place in that one; an error about what was
/// inserted has no place.
pub(super) fn in_source(failure: Failure, made: &Spliced, source: &str) -> Failure {
    placed(failure, |position| made.source_position(source, position))
}

/// An error about a statement's text, which may not be the client's.
pub(super) fn in_clients_text(failure: Failure, parsed: &Parsed) -> Failure {
    match &parsed.made {
        Some(made) => in_source(failure, &made.0, &made.1),
        None => failure,
    }
}

/// An error about a text that begins behind the first bytes of the client's.
pub(super) fn behind(failure: Failure, source: &str, start: usize) -> Failure {
    let before = source.get(..start).unwrap_or_default().chars().count();
    placed(failure, |position| Some(position + before))
}

/// An error about a text of the proxy's own.
pub(super) fn without(failure: Failure) -> Failure {
    placed(failure, |_| None)
}

fn placed(failure: Failure, to_source: impl Fn(usize) -> Option<usize>) -> Failure {
    match failure {
        Failure::Postgres(frame) => Failure::Postgres(server_message::with_position(frame, to_source)),
        other => other,
    }
}
