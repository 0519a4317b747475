//! What a cluster is given once and keeps: its number, which tells it apart in the identifiers of prepared
//! transactions, and the key of its mock logins.

use super::StartError;
use crate::base::Secret;
use crate::store::{Store, StoreError};

/// Where the cluster's number is kept.
const CLUSTER_KEY: &str = "cluster_id";

/// A random number.
pub(super) fn random() -> Result<u64, StartError> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(|error| StartError::Random(error.to_string()))?;
    Ok(u64::from_be_bytes(bytes))
}

/// The cluster's number: random when it is first asked for, then always the same.
pub(super) async fn cluster_id(store: &dyn Store) -> Result<u64, StartError> {
    loop {
        if let Some(entry) = store.get(CLUSTER_KEY).await? {
            let text = String::from_utf8_lossy(&entry.value).into_owned();
            return text.parse().map_err(|_| {
                StartError::Store(StoreError::Unreadable {
                    key: CLUSTER_KEY.to_owned(),
                    reason: "not a number".to_owned(),
                })
            });
        }
        match store.put(CLUSTER_KEY, random()?.to_string().into_bytes(), None).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where the key is kept from which users who do not exist get their salts.
const MOCK_KEY: &str = "mock_authentication_key";

/// The key of mock logins. It stays the same, so that the salt of a user who does not exist does not change
/// when the proxy starts again, which would tell it from a real one.
pub(super) async fn mock_key(store: &dyn Store) -> Result<Secret, StartError> {
    loop {
        if let Some(entry) = store.get(MOCK_KEY).await? {
            return Ok(Secret::new(String::from_utf8_lossy(&entry.value).into_owned()));
        }
        let mut text = String::new();
        for _ in 0..4 {
            text.push_str(&format!("{:016x}", random()?));
        }
        match store.put(MOCK_KEY, text.into_bytes(), None).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
