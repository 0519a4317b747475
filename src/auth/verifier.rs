//! What is kept instead of a password, and the keys that stand for a password under one salt.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::hash::{Key, hash_md5, hmac, salt_password, sha256};
use crate::base::Secret;

/// Iterations of verifiers that the proxy makes itself: PostgreSQL's default.
pub const ITERATIONS: u32 = 4_096;

/// What tells whether somebody knows a role's password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verifier {
    /// The password itself.
    Plain(Secret),
    /// `SCRAM-SHA-256$…`
    Scram(ScramVerifier),
    /// `md5…`
    Md5(Secret),
}

impl Verifier {
    /// Reads what stands in `pg_authid.rolpassword`, in a users file or in the configuration: anything that
    /// has the form of neither verifier is a password.
    ///
    /// # Source
    /// `get_password_type` of `src/backend/libpq/crypt.c`.
    pub fn read(text: &Secret) -> Self {
        let written = text.expose();
        let is_md5 = |hash: &str| hash.len() == 32 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if written.strip_prefix("md5").is_some_and(is_md5) {
            return Self::Md5(text.clone());
        }
        match ScramVerifier::parse(written) {
            Some(verifier) => Self::Scram(verifier),
            None => Self::Plain(text.clone()),
        }
    }

    /// The password, when it is known.
    pub fn password(&self) -> Option<&Secret> {
        match self {
            Self::Plain(password) => Some(password),
            _ => None,
        }
    }

    /// Whether this is the user's password.
    ///
    /// # Units
    /// Milliseconds of work with a SCRAM verifier.
    pub fn accepts(&self, user: &str, password: &Secret) -> bool {
        match self {
            Self::Plain(known) => known == password,
            Self::Md5(known) => *known == hash_md5(user, password),
            Self::Scram(verifier) => verifier.accepts(password),
        }
    }
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

impl ScramVerifier {
    /// Reads a verifier; `None` when it is none.
    ///
    /// # Source
    /// `parse_scram_secret` of `src/backend/libpq/auth-scram.c`.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text: &str| -> Option<Key> { STANDARD.decode(text).ok()?.try_into().ok() };
        Some(Self {
            iterations: iterations.parse().ok().filter(|iterations| *iterations > 0)?,
            salt: STANDARD.decode(salt).ok()?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// Makes a verifier of a password.
    pub fn of(password: &Secret, salt: &[u8], iterations: u32) -> Self {
        ScramKeys::of(password, salt, iterations).verifier()
    }

    /// A verifier that nobody has the password of, for users who have none: it looks like theirs.
    pub fn mock(salt: &[u8]) -> Self {
        Self { iterations: ITERATIONS, salt: salt.to_vec(), stored_key: Key::default(), server_key: Key::default() }
    }

    /// As PostgreSQL writes it.
    pub fn to_text(&self) -> Secret {
        Secret::new(format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        ))
    }

    fn accepts(&self, password: &Secret) -> bool {
        let keys = ScramKeys::of(password, &self.salt, self.iterations);
        bool::from(keys.server_key.ct_eq(&self.server_key))
    }

    /// The keys, when this is the client's key.
    pub(super) fn keys(&self, client_key: Key) -> Option<ScramKeys> {
        if !bool::from(sha256(&client_key).ct_eq(&self.stored_key)) {
            return None;
        }
        Some(ScramKeys {
            salt: self.salt.clone(),
            iterations: self.iterations,
            client_key,
            server_key: self.server_key,
        })
    }
}

impl Drop for ScramVerifier {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

impl std::fmt::Debug for ScramVerifier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ScramVerifier(secret)")
    }
}

/// What a password is worth under one salt: enough to log in wherever the verifier has the same salt,
/// iterations and keys, and nothing anywhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    pub(super) salt: Vec<u8>,
    pub(super) iterations: u32,
    pub(super) client_key: Key,
    pub(super) server_key: Key,
}

impl ScramKeys {
    /// Computes the keys of a password.
    ///
    /// # Units
    /// Milliseconds of work.
    pub fn of(password: &Secret, salt: &[u8], iterations: u32) -> Self {
        let salted = salt_password(password, salt, iterations);
        Self {
            salt: salt.to_vec(),
            iterations,
            client_key: hmac(&*salted, &[b"Client Key"]),
            server_key: hmac(&*salted, &[b"Server Key"]),
        }
    }

    /// They are good for this salt.
    pub fn fit(&self, salt: &[u8], iterations: u32) -> bool {
        self.salt == salt && self.iterations == iterations
    }

    /// The verifier that goes with them.
    pub fn verifier(&self) -> ScramVerifier {
        ScramVerifier {
            iterations: self.iterations,
            salt: self.salt.clone(),
            stored_key: sha256(&self.client_key),
            server_key: self.server_key,
        }
    }
}

impl Drop for ScramKeys {
    fn drop(&mut self) {
        self.client_key.zeroize();
        self.server_key.zeroize();
    }
}

impl std::fmt::Debug for ScramKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ScramKeys(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The password, salt and count of the example in RFC 7677.
    const WRITTEN: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                           WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn a_verifier_is_read_and_written_as_postgresql_does() {
        let verifier = ScramVerifier::parse(WRITTEN).unwrap();
        assert_eq!(verifier.to_text().expose(), WRITTEN);
        // The password of the example in RFC 7677, with its salt and count.
        let keys = ScramKeys::of(&Secret::new("pencil"), &verifier.salt, 4_096);
        assert_eq!(keys.verifier(), verifier);
        assert!(Verifier::Scram(verifier.clone()).accepts("any", &Secret::new("pencil")));
        assert!(!Verifier::Scram(verifier).accepts("any", &Secret::new("pen")));
    }

    #[test]
    fn what_has_no_form_of_a_verifier_is_a_password() {
        let read = |text: &str| Verifier::read(&Secret::new(text));
        assert!(matches!(read(WRITTEN), Verifier::Scram(_)));
        assert!(matches!(read("md5a3556571e93b0d20722ba62be61e8c2d"), Verifier::Md5(_)));
        for text in [
            "",
            "md5",
            "md5A3556571E93B0D20722BA62BE61E8C2D",
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$AAAA:AAAA",
            "SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        ] {
            assert_eq!(read(text), Verifier::Plain(Secret::new(text)), "{text}");
        }
        assert!(!read("md5a3556571e93b0d20722ba62be61e8c2d").accepts("pgbouncer", &Secret::new("")));
        let hashed = Verifier::Md5(hash_md5("u", &Secret::new("p")));
        assert!(hashed.accepts("u", &Secret::new("p")) && !hashed.accepts("v", &Secret::new("p")));
    }

    #[test]
    fn nothing_of_a_verifier_is_printed() {
        let verifier = Verifier::read(&Secret::new(WRITTEN));
        let keys = ScramKeys::of(&Secret::new("pencil"), b"salt", 1);
        let printed = format!("{verifier:?} {keys:?} {:?}", Verifier::Plain(Secret::new("pencil")));
        assert_eq!(printed, "Scram(ScramVerifier(secret)) ScramKeys(secret) Plain((secret))");
    }

    #[test]
    fn a_mock_verifier_accepts_nothing() {
        assert!(!Verifier::Scram(ScramVerifier::mock(b"0123456789abcdef")).accepts("u", &Secret::new("")));
        assert_eq!(ScramVerifier::mock(b"0123456789abcdef").keys([0; 32]), None);
    }
}
