//! How a command fails: one text, one exit code.

use std::fmt;
use std::process::ExitCode;

use crate::host::HostError;
use crate::store::StoreError;

/// Why a command failed: what happened, where, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    message: String,
}

impl Failure {
    /// A failure with its text.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }

    /// Prints it and gives the exit code.
    pub fn print(&self) -> ExitCode {
        // Nothing can be done about a closed standard error.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("ostrakon: {self}\n").as_bytes());
        ExitCode::FAILURE
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(error.to_string())
    }
}
