//! Cancel requests, and the rule that one reaches only the work of the session that sent it.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::net::{NetError, deadline};
use crate::wire::startup::encode_cancel;

use super::connection::{ConnectTarget, net_error};
use super::open::open;
use super::{BackendError, LostWhile};

/// What a server wants to see in a CancelRequest.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelKey {
    /// Process id of the server's backend.
    pub pid: u32,
    /// Secret: 4 bytes in protocol 3.0.
    pub secret: Bytes,
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CancelKey").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// Sends a CancelRequest and waits until the server has acted on it.
///
/// The server closes the socket after it has signalled its backend, so a cancel that has returned
/// cannot hit what is sent over the connection later.
///
/// # Errors
/// The server cannot be reached or does not answer within the connect timeout.
///
/// # Cancel safety
/// Dropped, the request may or may not have been sent.
pub async fn cancel(target: &ConnectTarget, key: &CancelKey) -> Result<(), BackendError> {
    let mut framed = Box::pin(open(target)).await?;
    encode_cancel(framed.output(), key.pid, &key.secret);
    let work = async {
        framed.flush().await?;
        while framed.read_byte().await?.is_some() {}
        Ok(())
    };
    match deadline("the answer to a cancel request", target.connect_timeout_ms, work).await {
        Ok(done) => done.map_err(|error: NetError| net_error(target.node, LostWhile::Idle, &error)),
        Err(late) => Err(BackendError::Timeout {
            node: target.node,
            what: late.what,
            after_ms: late.after_ms,
            during: LostWhile::Idle,
        }),
    }
}

/// Who uses a connection now, and how many cancel requests for it are on their way.
#[derive(Debug, Default)]
pub(super) struct CancelGate {
    state: Mutex<GateState>,
}

#[derive(Debug, Default)]
struct GateState {
    /// Number of the connection's present use.
    turn: u64,
    in_flight: usize,
}

impl CancelGate {
    /// Ends the present use: handles of it do nothing any more. `false` when a cancel request is on
    /// its way that could hit the next user.
    pub(super) fn end_turn(&self) -> bool {
        let mut state = self.state.lock();
        state.turn += 1;
        state.in_flight == 0
    }

    fn turn(&self) -> u64 {
        self.state.lock().turn
    }

    fn enter(&self, turn: u64) -> bool {
        let mut state = self.state.lock();
        let is_current = state.turn == turn;
        if is_current {
            state.in_flight += 1;
        }
        is_current
    }
}

/// Counts a request as on its way for ever if it is dropped before the server has acted: the
/// connection is then not used again.
struct InFlight<'gate>(&'gate CancelGate);

impl InFlight<'_> {
    fn landed(self) {
        self.0.state.lock().in_flight -= 1;
    }
}

/// Where a connection is cancelled, for as long as it lives.
#[derive(Debug)]
pub(super) struct CancelPoint {
    target: Arc<ConnectTarget>,
    key: CancelKey,
    gate: CancelGate,
}

impl CancelPoint {
    pub(super) fn new(target: Arc<ConnectTarget>, key: CancelKey) -> Self {
        Self { target, key, gate: CancelGate::default() }
    }

    pub(super) fn key(&self) -> &CancelKey {
        &self.key
    }

    pub(super) fn gate(&self) -> &CancelGate {
        &self.gate
    }
}

/// The right to cancel what a connection does for its present user.
#[derive(Clone, Debug)]
pub struct CancelHandle {
    point: Arc<CancelPoint>,
    turn: u64,
}

impl CancelHandle {
    pub(super) fn new(point: &Arc<CancelPoint>) -> Self {
        Self { turn: point.gate.turn(), point: Arc::clone(point) }
    }

    /// Process id of the server's backend.
    pub fn pid(&self) -> u32 {
        self.point.key.pid
    }

    /// Cancels what the connection is doing; `false` when it has been given back meanwhile and nothing
    /// was sent.
    ///
    /// # Errors
    /// As [`cancel`]. The connection will then not be pooled, since the request may still land.
    ///
    /// # Invariants
    /// A cancel key reaches only its own session's work: a connection with a request on its way is
    /// closed instead of going to another session.
    ///
    /// # Cancel safety
    /// Safe: a request whose fate is not known keeps the connection from being pooled.
    pub async fn cancel(&self) -> Result<bool, BackendError> {
        if !self.point.gate.enter(self.turn) {
            return Ok(false);
        }
        let in_flight = InFlight(&self.point.gate);
        cancel(&self.point.target, &self.point.key).await?;
        in_flight.landed();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_of_an_earlier_turn_is_refused() {
        let gate = CancelGate::default();
        let turn = gate.turn();
        assert!(gate.end_turn());
        assert!(!gate.enter(turn));
        assert!(gate.enter(gate.turn()));
    }

    #[test]
    fn a_turn_that_ends_with_a_request_on_its_way_is_not_clean() {
        let gate = CancelGate::default();
        assert!(gate.enter(gate.turn()));
        let in_flight = InFlight(&gate);
        assert!(!gate.end_turn());
        in_flight.landed();
        assert!(gate.end_turn());
    }

    #[test]
    fn a_dropped_request_counts_as_on_its_way() {
        let gate = CancelGate::default();
        assert!(gate.enter(gate.turn()));
        let _ = InFlight(&gate);
        assert!(!gate.end_turn());
    }
}
