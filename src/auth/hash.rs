//! HMAC-SHA-256, the key derivation of SCRAM, SASLprep, and PostgreSQL's md5.

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::base::Secret;

/// A SHA-256 hash or a key of that size.
pub(super) type Key = [u8; 32];

/// What the server mixes into an md5 answer.
pub type Md5Salt = [u8; 4];

/// Bytes of SHA-256's block.
const BLOCK_BYTES: usize = 64;

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // A key of exactly one block cannot be refused, and zeros at its end change nothing.
    let mut block = [0u8; BLOCK_BYTES];
    let hashed: Key;
    let short = if key.len() > BLOCK_BYTES {
        hashed = sha256(key);
        &hashed[..]
    } else {
        key
    };
    for (to, from) in block.iter_mut().zip(short) {
        *to = *from;
    }
    let mac = Hmac::<Sha256>::new(&block.into());
    block.zeroize();
    mac
}

/// HMAC-SHA-256 over the parts, one after the other.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = keyed(key);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

/// `Hi` of RFC 5802: PBKDF2 with HMAC-SHA-256 and one block.
///
/// # Units
/// `iterations` from 1; PostgreSQL's default of 4,096 takes about two milliseconds.
pub(super) fn salt_password(password: &Secret, salt: &[u8], iterations: u32) -> Zeroizing<Key> {
    let normal = normalize(password.expose());
    let mac = keyed(normal.expose().as_bytes());
    let mut first = mac.clone();
    first.update(salt);
    first.update(&1u32.to_be_bytes());
    let mut last: Key = first.finalize().into_bytes().into();
    let mut sum = Zeroizing::new(last);
    for _ in 1..iterations {
        let mut next = mac.clone();
        next.update(&last);
        last = next.finalize().into_bytes().into();
        for (sum, byte) in sum.iter_mut().zip(last) {
            *sum ^= byte;
        }
    }
    last.zeroize();
    sum
}

/// SASLprep as PostgreSQL applies it: a password that the profile prohibits is used as it is.
///
/// # Source
/// `pg_saslprep` of `src/common/saslprep.c` and its use in `scram_build_secret`.
fn normalize(password: &str) -> Secret {
    match stringprep::saslprep(password) {
        Ok(normal) if !normal.is_empty() => Secret::new(normal.into_owned()),
        _ => Secret::new(password),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// PostgreSQL's md5 verifier: `md5`, then the hash of password and user in hexadecimal.
pub fn hash_md5(user: &str, password: &Secret) -> Secret {
    let mut md5 = Md5::new();
    md5.update(password.expose());
    md5.update(user);
    Secret::new(format!("md5{}", hex(&md5.finalize())))
}

/// What a client that has the password of this md5 verifier answers to a salt.
pub fn answer_md5(verifier: &Secret, salt: Md5Salt) -> Secret {
    let mut md5 = Md5::new();
    md5.update(verifier.expose().trim_start_matches("md5"));
    md5.update(salt);
    Secret::new(format!("md5{}", hex(&md5.finalize())))
}

/// Bytes that look like the salt of a user's verifier, always the same for a user, and that nobody can
/// compute without the key.
///
/// # Source
/// `scram_mock_salt` of `src/backend/libpq/auth-scram.c`.
pub fn mock_salt(key: &Secret, user: &str) -> [u8; 16] {
    let hash = hmac(key.expose().as_bytes(), &[b"salt", user.as_bytes()]);
    let mut salt = [0u8; 16];
    for (to, from) in salt.iter_mut().zip(hash) {
        *to = from;
    }
    salt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_agrees_with_rfc_4231() {
        let cases: [(&[u8], &[u8], &str); 3] = [
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ];
        for (key, text, expected) in cases {
            assert_eq!(hex(&hmac(key, &[text])), expected);
            let (head, tail) = text.split_at(3);
            assert_eq!(hex(&hmac(key, &[head, tail])), expected);
        }
    }

    #[test]
    fn md5_answers_are_those_of_libpq() {
        let verifier = hash_md5("md5_user", &Secret::new("password"));
        let answer = answer_md5(&verifier, [0x2a, 0x3d, 0x8f, 0xe0]);
        assert_eq!(answer.expose(), "md562af4dd09bbb41884907a838a3233294");
    }

    #[test]
    fn passwords_are_prepared_as_postgresql_prepares_them() {
        let prepared = |password: &str| normalize(password).expose().to_owned();
        // The examples of RFC 4013.
        assert_eq!(prepared("I\u{ad}X"), "IX");
        assert_eq!(prepared("user"), "user");
        assert_eq!(prepared("\u{aa}"), "a");
        assert_eq!(prepared("\u{2168}"), "IX");
        // Prohibited: used as they are.
        assert_eq!(prepared("\u{7}"), "\u{7}");
        assert_eq!(prepared("\u{627}1"), "\u{627}1");
        assert_eq!(prepared("\u{ad}"), "\u{ad}");
    }

    #[test]
    fn a_mock_salt_belongs_to_its_user_and_key() {
        let key = Secret::new("k");
        assert_eq!(mock_salt(&key, "a"), mock_salt(&key, "a"));
        assert_ne!(mock_salt(&key, "a"), mock_salt(&key, "b"));
        assert_ne!(mock_salt(&key, "a"), mock_salt(&Secret::new("l"), "a"));
    }
}
