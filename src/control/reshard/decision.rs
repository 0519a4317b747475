//! The new owners of a step's buckets, in the topology: that is what decides a step.

use crate::base::Epoch;
use crate::reshard::Step;
use crate::store::{Revision, Store, StoreError, encode_topology, load_topology, save_topology};
use crate::topology::validate::validate;
use crate::topology::{BucketMap, Topology};

/// The record that decides a step, made before reads wait for it.
pub(super) struct Decision {
    pub next: Topology,
    /// Of the topology that it replaces.
    pub revision: Revision,
    pub bytes: Vec<u8>,
}

/// Makes it; `None`: the step cannot count.
///
/// # Errors
/// The store's.
pub(super) async fn ready_decision(store: &dyn Store, step: &Step) -> Result<Option<Decision>, StoreError> {
    let Some((topology, revision)) = load_topology(store).await? else { return Ok(None) };
    if topology.epoch != step.epoch {
        return Ok(None);
    }
    let next = with_owner(topology, step);
    let is_valid = validate(&next).is_ok();
    Ok(is_valid.then_some(Decision { bytes: encode_topology(&next)?, next, revision }))
}

fn with_owner(topology: Topology, step: &Step) -> Topology {
    let mut owners = topology.buckets.owners().to_vec();
    for bucket in &step.buckets {
        if let Some(owner) = owners.get_mut(usize::from(bucket.0)) {
            *owner = step.to;
        }
    }
    let buckets = BucketMap::from_owners(owners).unwrap_or_else(|| topology.buckets.clone());
    Topology { epoch: Epoch(topology.epoch.0 + 1), buckets, ..topology }
}

/// The topology in which the step counts, written if it was not; `None`: it will not.
///
/// # Errors
/// The store's; whether the step counts is not known then.
///
/// # Cancel safety
/// Dropped, it may be written all the same.
pub(super) async fn decide(store: &dyn Store, step: &Step) -> Result<Option<Topology>, StoreError> {
    let Some((topology, revision)) = load_topology(store).await? else { return Ok(None) };
    // An earlier attempt may have come through although it did not say so.
    if step.buckets.iter().all(|bucket| topology.buckets.owner(*bucket) == step.to) {
        return Ok(Some(topology));
    }
    if topology.epoch != step.epoch {
        return Ok(None);
    }
    let next = with_owner(topology, step);
    save_topology(store, &next, Some(revision)).await?;
    Ok(Some(next))
}
