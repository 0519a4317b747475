//! How many clients there may be, in all and of each user.
//!
//! Must not know: what clients do.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{ClientError, ErrorId};

/// Sockets beyond those of clients, for packets that come before a login: cancel requests above all,
/// which must get through when every client's place is taken.
const FIRST_PACKETS_PLACES: usize = 100;

/// Clients at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// In all.
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
    pub fn sockets_max(&self) -> usize {
        self.max.saturating_add(self.reserved).saturating_add(FIRST_PACKETS_PLACES)
    }
}

/// The places of clients that are logged in.
#[derive(Debug)]
pub(super) struct Seats {
    limits: Mutex<ClientLimits>,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Users with no client have no entry.
    by_user: HashMap<Arc<str>, usize>,
}

/// A client's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    user: Arc<str>,
    taken: Arc<Mutex<Taken>>,
}

impl Seats {
    pub(super) fn new(limits: ClientLimits) -> Self {
        Self { limits: Mutex::new(limits), taken: Arc::default() }
    }

    /// Other limits; who is here stays.
    pub(super) fn change(&self, limits: ClientLimits) {
        *self.limits.lock() = limits;
    }

    /// A place for one client more.
    ///
    /// The admin database has places of its own behind the others, and no limit by user: who has to
    /// look into a crowd is not kept out by it.
    ///
    /// # Errors
    /// There are too many clients, in PostgreSQL's words.
    pub(super) fn take(&self, user: &Arc<str>, is_admin: bool) -> Result<Seat, ClientError> {
        let limits = self.limits.lock();
        let all_max = if is_admin { limits.max.saturating_add(limits.reserved) } else { limits.max };
        let user_max = if is_admin { usize::MAX } else { *limits.users.get(&**user).unwrap_or(&limits.max_per_user) };
        let mut taken = self.taken.lock();
        if taken.all >= all_max {
            let detail = format!("{} clients are connected; {} are allowed.", taken.all, limits.max);
            return Err(ClientError::new(ErrorId::TooManyClients, "sorry, too many clients already")
                .with_detail(detail)
                .with_hint("Close connections that are not needed, or raise clients_max of [proxy]."));
        }
        let own = taken.by_user.get(user).copied().unwrap_or(0);
        if own >= user_max {
            return Err(ClientError::new(ErrorId::TooManyClients, format!("too many connections for role \"{user}\""))
                .with_detail(format!("{own} clients are connected as this role; {user_max} are allowed."))
                .with_hint("Close connections that are not needed, or raise clients_max of this user."));
        }
        taken.all += 1;
        taken.by_user.insert(Arc::clone(user), own + 1);
        Ok(Seat { user: Arc::clone(user), taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.all -= 1;
        if let Some(own) = taken.by_user.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                taken.by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats() -> Seats {
        let users = HashMap::from([("few".to_owned(), 1)]);
        Seats::new(ClientLimits { max: 3, max_per_user: 2, users, reserved: 1 })
    }

    fn refusal(outcome: Result<Seat, ClientError>) -> (String, String) {
        let error = outcome.unwrap_err();
        (error.sqlstate().to_owned(), error.message)
    }

    #[test]
    fn a_user_has_its_own_limit_or_that_of_everybody() {
        let seats = seats();
        let (few, a) = (Arc::from("few"), Arc::from("a"));
        let first = seats.take(&few, false).unwrap();
        let told = ("53300".to_owned(), "too many connections for role \"few\"".to_owned());
        assert_eq!(refusal(seats.take(&few, false)), told);
        drop(first);
        let _few = seats.take(&few, false).unwrap();
        let _both = (seats.take(&a, false).unwrap(), seats.take(&a, false).unwrap());
        assert!(seats.take(&a, false).is_err());
    }

    #[test]
    fn the_last_places_are_for_the_admin_database() {
        let seats = seats();
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        let taken = (seats.take(&a, false).unwrap(), seats.take(&a, false).unwrap(), seats.take(&b, false).unwrap());
        let told = ("53300".to_owned(), "sorry, too many clients already".to_owned());
        assert_eq!(refusal(seats.take(&b, false)), told);
        let admin = seats.take(&a, true).unwrap();
        assert_eq!(refusal(seats.take(&a, true)), told);
        drop((taken, admin));
        assert!(seats.taken.lock().by_user.is_empty());
        assert_eq!(seats.taken.lock().all, 0);
    }
}
