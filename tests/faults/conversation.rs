//! Runs an exchange with a server or the proxy, and writes down what came back.

use std::time::Duration;

use crate::catalogue::{Exchange, Step};
use crate::frames::{Frame, Heard, Wire};

/// How long a client waits for an answer before it is called stuck.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps are done.
    Done,
    /// The other side closed.
    Closed,
    /// An answer did not come.
    Stuck,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    pub frames: Vec<Frame>,
    pub end: End,
}

impl Transcript {
    pub fn readies(&self) -> usize {
        self.frames.iter().filter(|frame| frame.tag == b'Z').count()
    }
}

/// Opens a session for an exchange.
pub fn connect(port: u16, exchange: &Exchange) -> std::io::Result<Wire> {
    let mut parameters = vec![("user", "app"), ("database", "app")];
    parameters.extend_from_slice(&exchange.startup);
    Wire::connect(port, &parameters)
}

/// Runs all steps, or as many as the other side lets.
pub fn converse(wire: &mut Wire, exchange: &Exchange) -> Transcript {
    let mut transcript = Transcript { frames: Vec::new(), end: End::Done };
    for step in &exchange.steps {
        if let Some(end) = take_step(wire, step, &mut transcript.frames) {
            transcript.end = end;
            break;
        }
    }
    transcript
}

/// One step; how the conversation ended, if it did.
pub fn take_step(wire: &mut Wire, step: &Step, frames: &mut Vec<Frame>) -> Option<End> {
    match step {
        // What the other side said before it closed is still to be read.
        Step::Send(messages) => {
            let _ = wire.send_frames(messages);
            None
        }
        Step::Until(tag) => wait_for(wire, *tag, frames),
        Step::Cancel => {
            std::thread::sleep(Duration::from_millis(80));
            let _ = wire.cancel_key().cancel();
            None
        }
    }
}

fn wait_for(wire: &mut Wire, tag: u8, frames: &mut Vec<Frame>) -> Option<End> {
    let (heard, last) =
        wire.hear_until(PATIENCE, |frame| frame.tag == tag || (tag != b'Z' && matches!(frame.tag, b'E' | b'Z')));
    frames.extend(heard);
    match last {
        Heard::Frame(_) => None,
        Heard::Closed => Some(End::Closed),
        Heard::Late => Some(End::Stuck),
    }
}
