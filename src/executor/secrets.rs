//! What is known of each role's password, to open the servers with.
//!
//! One secret a role, not one a session: connections of a pool belong to their role, and a session uses
//! them because the *proxy* has let its client be that role, by whatever its rules ask for. A session that
//! a `trust` rule let in so may get a connection that another session's password has opened. That is what
//! the operator's rule says: whoever comes from there is that role. No session ever gets a connection, or
//! the secret, of another role.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::auth::ServerSecret;

/// Roles whose secret is remembered beyond those of the configuration.
const LEARNED_MAX: usize = 10_000;

/// Secrets by role.
#[derive(Default)]
pub struct Secrets {
    configured: RwLock<HashMap<String, ServerSecret>>,
    /// Of clients that have logged in, with what is configured for them.
    learned: RwLock<HashMap<String, ServerSecret>>,
    /// Grows when what is known changes.
    stamp: AtomicU64,
}

impl Secrets {
    /// What the configuration knows.
    pub fn new(configured: HashMap<String, ServerSecret>) -> Self {
        Self { configured: RwLock::new(configured), ..Self::default() }
    }

    /// Another configuration: what was learned of a role whose secret is another one now is forgotten.
    pub fn configure(&self, configured: HashMap<String, ServerSecret>) {
        let mut now = self.configured.write();
        self.learned.write().retain(|user, _| now.get(user) == configured.get(user));
        *now = configured;
        self.stamp.fetch_add(1, Ordering::AcqRel);
    }

    /// What opens servers for a role; nothing when nothing is known.
    pub fn of(&self, user: &str) -> ServerSecret {
        let learned = self.learned.read().get(user).cloned();
        learned.or_else(|| self.configured.read().get(user).cloned()).unwrap_or_default()
    }

    /// As long as it is the same, [`Secrets::of`] answers the same.
    pub fn stamp(&self) -> u64 {
        self.stamp.load(Ordering::Acquire)
    }

    /// Takes what a client's login has left. What adds nothing changes nothing, so that the pool stays.
    ///
    /// # Units
    /// Milliseconds of work when a password is known and SCRAM keys come.
    pub fn learn(&self, user: &str, fresh: &ServerSecret) {
        if fresh.is_none() || self.of(user).covers(fresh, user) {
            return;
        }
        let both = match self.configured.read().get(user) {
            Some(configured) => fresh.or(configured),
            None => fresh.clone(),
        };
        let mut learned = self.learned.write();
        if learned.len() >= LEARNED_MAX && !learned.contains_key(user) {
            // They come back with their next login.
            learned.clear();
        }
        learned.insert(user.to_owned(), both);
        self.stamp.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::ScramKeys;
    use crate::base::Secret;

    fn password(text: &str) -> ServerSecret {
        ServerSecret::password(Secret::new(text))
    }

    fn keys(text: &str) -> ServerSecret {
        ServerSecret::keys(ScramKeys::of(&Secret::new(text), b"salt", 1))
    }

    #[test]
    fn a_login_that_adds_nothing_changes_nothing() {
        let secrets = Secrets::new(HashMap::from([("a".to_owned(), password("p"))]));
        secrets.learn("a", &keys("p"));
        assert_eq!(secrets.of("a"), password("p"));
        secrets.learn("a", &password("p"));
        assert!(secrets.learned.read().is_empty());
        secrets.learn("a", &ServerSecret::default());
        assert!(secrets.learned.read().is_empty());
    }

    #[test]
    fn a_new_password_replaces_what_was_learned() {
        let secrets = Secrets::default();
        secrets.learn("a", &keys("old"));
        secrets.learn("a", &keys("new"));
        assert_eq!(secrets.of("a"), keys("new"));
        secrets.learn("a", &password("newer"));
        assert_eq!(secrets.of("a"), password("newer"));
    }

    #[test]
    fn no_role_gets_the_secret_of_another() {
        let secrets = Secrets::new(HashMap::from([("a".to_owned(), password("p"))]));
        secrets.learn("b", &keys("q"));
        assert!(secrets.of("c").is_none());
        assert_ne!(secrets.of("b"), secrets.of("a"));
    }

    #[test]
    fn learned_roles_are_bounded() {
        let secrets = Secrets::default();
        for number in 0..LEARNED_MAX + 2 {
            secrets.learn(&number.to_string(), &password("p"));
        }
        assert!(secrets.learned.read().len() <= LEARNED_MAX);
    }
}
