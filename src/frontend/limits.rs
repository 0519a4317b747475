//! How many clients there may be, in all and of each user.
//!
//! Must not know: what clients do.

use std::collections::HashMap;

/// Clients at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// In all, the admin database not counted.
    pub max: usize,
    /// Of one user.
    pub max_per_user: usize,
    /// Of users that have a limit of their own.
    pub users: HashMap<String, usize>,
    /// Beyond `max`, for the admin database alone.
    pub reserved: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self { max: 10_000, max_per_user: usize::MAX, users: HashMap::new(), reserved: 3 }
    }
}

impl ClientLimits {
    /// Sockets that may be open at a time.
    pub fn places(&self) -> usize {
        self.max.saturating_add(self.reserved)
    }
}
