//! `ostrakon status`: shards and nodes.

use super::Failure;
use super::connect::{Admin, ConnectArguments};
use super::output::{self, Output};
use crate::admin::StatusDocument;

/// Runs the command.
pub async fn run(arguments: &ConnectArguments, output: Output) -> Result<(), Failure> {
    let admin = Admin::connect(arguments).await?;
    let status: StatusDocument = admin.document("SHOW STATUS FORMAT JSON").await?;
    if output == Output::Json {
        return output::json(&status);
    }
    let mut rows = Vec::new();
    for shard in &status.shards {
        for (index, node) in shard.nodes.iter().enumerate() {
            // A shard's own columns stand once, beside its primary.
            let own = |text: String| if index == 0 { text } else { String::new() };
            rows.push(vec![
                own(shard.name.clone()),
                own(shard.buckets.to_string()),
                own(shard.term.to_string()),
                node.name.clone(),
                node.role.as_str().to_owned(),
                format!("{}:{}", node.host, node.port),
                node.state.as_str().to_owned(),
                node.lag_bytes.map_or_else(String::new, |bytes| bytes.to_string()),
            ]);
        }
    }
    output::line(&format!("epoch {}", status.epoch))?;
    output::table(&["shard", "buckets", "term", "node", "role", "address", "state", "lag bytes"], rows)
}
