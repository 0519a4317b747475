//! What the proxy can prove to a server for a role.

use std::sync::Arc;

use parking_lot::Mutex;

use super::hash::{Md5Salt, answer_md5, hash_md5};
use super::{ScramKeys, Verifier};
use crate::base::Secret;

/// Keys kept for so many different salts: one for each shard whose verifier was made by itself.
const DERIVED_MAX: usize = 64;

/// A role's password, or what a client's login has left of it: each opens what it can.
///
/// Cloning is cheap: copies share the keys that were computed.
#[derive(Clone, Default)]
pub struct ServerSecret(Arc<Parts>);

#[derive(Default)]
struct Parts {
    password: Option<Secret>,
    /// Recovered in a client's SCRAM exchange.
    keys: Option<ScramKeys>,
    /// `md5…`, which is all that md5 asks for.
    md5: Option<Secret>,
    /// Of the password, by salt: computing them takes milliseconds.
    derived: Mutex<Vec<ScramKeys>>,
}

impl ServerSecret {
    /// A password: it opens everything.
    pub fn password(password: Secret) -> Self {
        Self(Arc::new(Parts { password: Some(password), ..Parts::default() }))
    }

    /// Keys of a SCRAM exchange: they open servers whose verifier is the same.
    pub fn keys(keys: ScramKeys) -> Self {
        Self(Arc::new(Parts { keys: Some(keys), ..Parts::default() }))
    }

    /// What a verifier opens: all with a password, md5 servers with an md5 hash, nothing with a SCRAM verifier.
    pub fn of_verifier(verifier: &Verifier) -> Self {
        match verifier {
            Verifier::Plain(password) => Self::password(password.clone()),
            Verifier::Md5(hash) => Self(Arc::new(Parts { md5: Some(hash.clone()), ..Parts::default() })),
            Verifier::Scram(_) => Self::default(),
        }
    }

    /// It opens nothing.
    pub fn is_none(&self) -> bool {
        self.0.password.is_none() && self.0.keys.is_none() && self.0.md5.is_none()
    }

    /// With what another one has besides; of two of a kind this one's is kept.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        if other.is_none() {
            return self.clone();
        }
        if self.is_none() {
            return other.clone();
        }
        let parts = Parts {
            password: self.0.password.clone().or_else(|| other.0.password.clone()),
            keys: self.0.keys.clone().or_else(|| other.0.keys.clone()),
            md5: self.0.md5.clone().or_else(|| other.0.md5.clone()),
            derived: Mutex::default(),
        };
        Self(Arc::new(parts))
    }

    /// It opens whatever the other one opens.
    ///
    /// # Units
    /// Milliseconds of work when this one has a password and the other one keys.
    pub fn covers(&self, other: &Self, user: &str) -> bool {
        let password = match &other.0.password {
            Some(password) => self.0.password.as_ref() == Some(password),
            None => true,
        };
        let keys = match &other.0.keys {
            Some(keys) => {
                let known = self.find_keys(&keys.salt, keys.iterations);
                known.or_else(|| self.derive_keys(&keys.salt, keys.iterations)).as_ref() == Some(keys)
            }
            None => true,
        };
        let md5 = match &other.0.md5 {
            Some(hash) => match &self.0.password {
                Some(password) => hash_md5(user, password) == *hash,
                None => self.0.md5.as_ref() == Some(hash),
            },
            None => true,
        };
        password && keys && md5
    }

    /// The password, when it is known.
    pub fn known_password(&self) -> Option<&Secret> {
        self.0.password.as_ref()
    }

    /// Keys for a server's salt that are there already.
    pub fn find_keys(&self, salt: &[u8], iterations: u32) -> Option<ScramKeys> {
        let own = self.0.keys.as_ref().filter(|keys| keys.fit(salt, iterations));
        own.cloned().or_else(|| self.0.derived.lock().iter().find(|keys| keys.fit(salt, iterations)).cloned())
    }

    /// Keys for a server's salt, from the password; `None` when it is not known.
    ///
    /// # Units
    /// Milliseconds of work: not on a thread that others wait for.
    pub fn derive_keys(&self, salt: &[u8], iterations: u32) -> Option<ScramKeys> {
        let keys = ScramKeys::of(self.0.password.as_ref()?, salt, iterations);
        let mut derived = self.0.derived.lock();
        if derived.len() >= DERIVED_MAX {
            derived.clear();
        }
        derived.push(keys.clone());
        Some(keys)
    }

    /// The answer to a server that asks for md5; `None` when nothing is known that answers it.
    pub fn answer_md5(&self, user: &str, salt: Md5Salt) -> Option<Secret> {
        let hash = match (&self.0.password, &self.0.md5) {
            (Some(password), _) => hash_md5(user, password),
            (None, Some(hash)) => hash.clone(),
            (None, None) => return None,
        };
        Some(answer_md5(&hash, salt))
    }
}

impl PartialEq for ServerSecret {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.password == other.0.password && self.0.keys == other.0.keys && self.0.md5 == other.0.md5)
    }
}

impl Eq for ServerSecret {}

impl std::fmt::Debug for ServerSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if self.is_none() { "(no secret)" } else { "(secret)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_salt_open_no_other() {
        let keys = ScramKeys::of(&Secret::new("p"), b"one", 1);
        let secret = ServerSecret::keys(keys.clone());
        assert_eq!(secret.find_keys(b"one", 1), Some(keys));
        assert_eq!(secret.find_keys(b"two", 1), None);
        assert_eq!(secret.find_keys(b"one", 2), None);
        assert_eq!(secret.derive_keys(b"two", 1), None);
        assert_eq!(secret.answer_md5("u", [1; 4]), None);
    }

    #[test]
    fn keys_of_a_password_are_computed_once() {
        let secret = ServerSecret::password(Secret::new("p"));
        assert_eq!(secret.find_keys(b"one", 1), None);
        let keys = secret.derive_keys(b"one", 1);
        assert!(keys.is_some());
        assert_eq!(secret.find_keys(b"one", 1), keys);
        for salt in 0..200u8 {
            secret.derive_keys(&[salt], 1);
        }
        assert!(secret.0.derived.lock().len() <= DERIVED_MAX);
    }

    #[test]
    fn what_two_know_is_known_together() {
        let password = ServerSecret::password(Secret::new("p"));
        let keys = ServerSecret::keys(ScramKeys::of(&Secret::new("q"), b"one", 1));
        let both = keys.or(&password);
        assert!(both.known_password().is_some() && both.find_keys(b"one", 1).is_some());
        assert_eq!(ServerSecret::default().or(&password), password);
        assert_eq!(password.or(&ServerSecret::default()), password);
        assert_ne!(both, password);
        assert_eq!(format!("{both:?} {:?}", ServerSecret::default()), "(secret) (no secret)");
    }

    #[test]
    fn an_md5_hash_answers_as_its_password_does() {
        let hash = ServerSecret::of_verifier(&Verifier::Md5(hash_md5("u", &Secret::new("p"))));
        let password = ServerSecret::password(Secret::new("p"));
        assert_eq!(hash.answer_md5("u", [1, 2, 3, 4]), password.answer_md5("u", [1, 2, 3, 4]));
        assert!(hash.answer_md5("u", [1, 2, 3, 4]).is_some());
    }
}
