//! Numbers that tell clusters and processes apart in the identifiers of prepared transactions.

use super::StartError;
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
