//! SHOW DRIFT: what the shards have not alike.

use serde_json::{Value, json};

use super::Admin;
use crate::control::drift::differences;
use crate::error::{ClientError, ErrorId};
use crate::executor::shard_name;
use crate::topology::Topology;

impl Admin {
    /// Every object that a shard has otherwise than the first one, as the catalogs are now.
    pub(super) async fn drift_rows(&self, topology: &Topology) -> Result<Value, ClientError> {
        let mut primaries = Vec::new();
        for shard in topology.shard_ids() {
            primaries.push((shard, self.cluster.control_target(topology, shard)?));
        }
        let found = differences(&primaries).await.map_err(|error| {
            ClientError::new(ErrorId::ShardUnreachable, "the shards' schemas cannot be compared")
                .with_detail(format!("{error}."))
        })?;
        let row = |found: &crate::control::drift::Difference| {
            json!({
                "kind": found.kind, "name": found.name, "shard": shard_name(topology, found.shard),
                "state": found.differs.as_str(),
            })
        };
        Ok(found.iter().map(row).collect())
    }
}
