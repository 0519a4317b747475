//! Clients that have connected and not yet logged in: how many there may be, and who has to go when there
//! are too many.
//!
//! Anybody can open a socket and say nothing, so these clients are counted apart from those that are
//! logged in and cannot take their places. When there are too many, the address that holds most of them
//! loses its oldest: one host that opens thousands only harms itself. Where the newcomer's own address is
//! the one, a client younger than a grace is not put out: in a storm of honest clients those at work must
//! finish, or none would. The newcomer is refused then.
//!
//! Refusing the newest always would let a handful of silent sockets lock everybody out for the whole
//! login timeout; putting out the oldest always would let a storm of honest clients push each other out.
//!
//! Must not know: what is said during a login.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::error::{ClientError, ErrorId};

/// A login that has taken so long is likely none.
const GRACE: Duration = Duration::from_secs(2);

/// The clients at the door.
#[derive(Debug)]
pub(super) struct Door {
    max: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    count: usize,
    /// By address, oldest first. An address with no client has no entry.
    by_address: HashMap<Option<IpAddr>, BTreeMap<u64, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    /// Dropped to put the client out.
    _stay: oneshot::Sender<()>,
}

/// A client's place at the door; given back when dropped.
#[derive(Debug)]
pub(super) struct AtDoor<'a> {
    door: &'a Door,
    address: Option<IpAddr>,
    number: u64,
    stay: oneshot::Receiver<()>,
}

impl Door {
    pub(super) fn new(max: usize) -> Self {
        Self { max: max.max(1), inside: Mutex::default() }
    }

    /// A place for one client more, at the cost of another if need be.
    ///
    /// # Errors
    /// There are too many, and nobody has to go for this one.
    pub(super) fn enter(&self, address: Option<IpAddr>, now: Instant) -> Result<AtDoor<'_>, ClientError> {
        let mut inside = self.inside.lock();
        if inside.count >= self.max && !inside.make_room(address, now) {
            return Err(refusal());
        }
        let number = inside.next;
        inside.next += 1;
        inside.count += 1;
        let (sender, stay) = oneshot::channel();
        inside.by_address.entry(address).or_default().insert(number, Waiting { since: now, _stay: sender });
        Ok(AtDoor { door: self, address, number, stay })
    }

    /// Clients at the door now.
    pub(super) fn count(&self) -> usize {
        self.inside.lock().count
    }
}

impl Inside {
    fn make_room(&mut self, newcomer: Option<IpAddr>, now: Instant) -> bool {
        let own = self.by_address.get(&newcomer).map_or(0, BTreeMap::len);
        let Some((most, count)) =
            self.by_address.iter().map(|(address, waiting)| (*address, waiting.len())).max_by_key(|(_, count)| *count)
        else {
            return false;
        };
        let address = if count > own + 1 { most } else { newcomer };
        let Some((number, oldest)) = self.by_address.get(&address).and_then(BTreeMap::first_key_value) else {
            return false;
        };
        if address == newcomer && now.duration_since(oldest.since) < GRACE {
            return false;
        }
        let number = *number;
        self.remove(address, number);
        true
    }

    fn remove(&mut self, address: Option<IpAddr>, number: u64) {
        let Some(waiting) = self.by_address.get_mut(&address) else { return };
        if waiting.remove(&number).is_some() {
            self.count -= 1;
        }
        if waiting.is_empty() {
            self.by_address.remove(&address);
        }
    }
}

impl AtDoor<'_> {
    /// Waits until the client has to go, which need not happen.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn put_out(&mut self) -> ClientError {
        // Nothing is ever sent: the sender's end is the message.
        let _gone = (&mut self.stay).await;
        refusal()
    }
}

impl Drop for AtDoor<'_> {
    fn drop(&mut self) {
        self.door.inside.lock().remove(self.address, self.number);
    }
}

fn refusal() -> ClientError {
    ClientError::new(ErrorId::TooManyClients, "too many connections have not logged in yet")
        .with_hint("Connect again in a moment, or raise logins_max of [proxy].")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    fn is_put_out(client: &mut AtDoor<'_>) -> bool {
        client.stay.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_address_with_most_clients_loses_its_oldest() {
        let door = Door::new(4);
        let now = Instant::now();
        let mut many: Vec<_> = (0..3).map(|_| door.enter(address(1), now).unwrap()).collect();
        let mut one = door.enter(address(2), now).unwrap();
        let _other = door.enter(address(3), now).unwrap();
        let put_out: Vec<bool> = many.iter_mut().map(is_put_out).collect();
        assert_eq!(put_out, [true, false, false]);
        assert!(!is_put_out(&mut one));
        assert_eq!(door.count(), 4);
    }

    #[test]
    fn a_storm_from_one_address_does_not_push_itself_out() {
        let door = Door::new(2);
        let now = Instant::now();
        let mut first = door.enter(address(1), now).unwrap();
        let _second = door.enter(address(1), now).unwrap();
        assert_eq!(door.enter(address(1), now).unwrap_err().sqlstate(), "53300");
        assert!(!is_put_out(&mut first));
        let _third = door.enter(address(1), now + GRACE).unwrap();
        assert!(is_put_out(&mut first));
    }

    #[test]
    fn addresses_with_as_many_clients_do_not_push_each_other_out() {
        let door = Door::new(2);
        let now = Instant::now();
        let _both = (door.enter(address(1), now).unwrap(), door.enter(address(2), now).unwrap());
        assert!(door.enter(address(3), now).is_err());
    }

    #[test]
    fn a_place_is_given_back_once() {
        let door = Door::new(1);
        let now = Instant::now();
        let old = door.enter(None, now).unwrap();
        let new = door.enter(None, now + GRACE).unwrap();
        assert_eq!(door.count(), 1);
        drop(old);
        assert_eq!(door.count(), 1);
        drop(new);
        assert_eq!(door.count(), 0);
        assert!(door.inside.lock().by_address.is_empty());
    }
}
